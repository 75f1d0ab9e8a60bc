"""Certificates of graphs: written, read, replayed; nothing but the truth passes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from moduli.compression.exact.reduce_graph import reduce_graph
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.certificate import SCHEMA, GraphCertificate, GraphMove

from ...support.graphs import Builder

ROWS = np.array([[1, 2], [2, 4], [0, 0], [3, 1], [-1, -1]], dtype=np.float32)


def made(*, box=False):
    b = Builder("n", 2)
    h = b.each("relu", b.dense("x", "a", ROWS, [1, 2, -1, 1, 0]))
    large = b.model(b.dense(h, "c", [[1, 2, 3, 0, 4]], [0.5]))
    ranges = {"x": (np.zeros(2), np.ones(2))} if box else {}
    found = reduce_graph(large, ranges=ranges, budget=100)
    return (
        GraphCertificate(
            large.digest, found.graph.digest, tuple(found.rounds), ranges, found.slack
        ),
        found.graph,
        large,
    )


@pytest.mark.parametrize("box", [False, True])
def test_it_is_accepted_after_a_journey_through_text(box):
    proof, small, large = made(box=box)
    assert len(small.constants["a.w"]) == (1 if box else 2)
    again = GraphCertificate.from_json(json.dumps(proof.to_json()))
    again.verify(small, large)
    proof.verify(small, large)


def test_swapped_or_other_graphs_are_refused():
    proof, small, large = made()
    with pytest.raises(CertificateRejected, match="not the certified one"):
        proof.verify(large, small)
    changed = {**small.constants, "c.b": small.constants["c.b"] + 1}
    with pytest.raises(CertificateRejected, match="not the certified one"):
        proof.verify(replace(small, constants=changed), large)
    forged = replace(small, constants=changed)
    with pytest.raises(CertificateRejected, match="after all moves"):
        replace(proof, small=forged.digest).verify(forged, large)


@pytest.mark.parametrize(
    "change",
    [
        {"units": (0,), "into": (-1,)},
        {"units": (9,), "into": (-1,)},
        {"tensor": "nowhere"},
        {"axis": 7},
        {"units": (1, 1), "into": (-1, -1)},
        {"units": (1,), "into": (-1, 2)},
        {"tensor": "c.w", "axis": 0},
    ],
)
def test_tampered_moves_are_refused(change):
    proof, small, large = made()
    (first, *rest), *rounds = proof.rounds
    forged = replace(proof, rounds=((replace(first, **change), *rest), *rounds))
    with pytest.raises(CertificateRejected):
        forged.verify(small, large)


def test_a_bypass_of_what_matters_is_refused():
    proof, small, large = made()
    move = GraphMove("bypass", large.nodes[1].output)
    with pytest.raises(CertificateRejected, match="bypass of"):
        replace(proof, rounds=((move,), *proof.rounds)).verify(small, large)


def test_bounds_count():
    proof, small, large = made(box=True)
    with pytest.raises(CertificateRejected):
        replace(proof, ranges={}).verify(small, large)
    with pytest.raises(CertificateRejected, match="no input"):
        replace(proof, ranges={"z": (np.zeros(1), np.ones(1))}).verify(small, large)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "moduli.certificate/1"},
        {"rounds": [[{"move": "merge"}]]},
        {"rounds": 3},
        {"large": 5},
        {"bounds": {"x": [[0, 1]]}},
        {"bounds": {"x": [[1], [0]]}},
        {"bounds": {"x": ["a", "b"]}},
        {"more": 1},
        {
            "rounds": [
                [{"move": "remove", "tensor": "a.w", "axis": 0, "units": [1.5], "into": [-1]}]
            ]
        },
        {"bounds": {"x": [[True], [True]]}},
        {"slack": [10**400, 0]},
        {"slack": [0, -1]},
        {"slack": [0]},
        {
            "rounds": [
                [
                    {
                        "move": "combine",
                        "tensor": "t0",
                        "units": [0],
                        "into": [1],
                        "coefficients": [10**400],
                    }
                ]
            ]
        },
    ],
)
def test_malformed_text_is_refused(change):
    proof, _, _ = made()
    data = {**proof.to_json(), **change}
    assert proof.to_json()["schema"] == SCHEMA
    with pytest.raises(CertificateRejected):
        GraphCertificate.from_json(json.dumps(data))
