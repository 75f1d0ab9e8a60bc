"""Differences on a box: networks side by side, bounds of three kinds, changed parameters."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from on_boxes import exact_layers, random_network

import moduli as mo
from moduli.kernel.bounds.output_gap import Changed, GapBound, joint, measures, worst
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.exact_numbers import ExactArray
from moduli.kernel.radius.cover_bound import Change

BOX = mo.Box(-1, 1)
ONE = mo.Network.mlp([[1.0], [2.0]], [0.0, 1.0], [[1.0, 1.0]], [0.0], activation="relu")
TWO = mo.Network.mlp([[1.0], [2.0]], [0.0, 1.0], [[1.0, 1.5]], [0.0], activation="relu")


def value(net, x):
    return exact_layers(net.layers, x)[-1]


def test_networks_side_by_side_are_both():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = random_network(rng, inputs=2), random_network(rng, inputs=2)
        both = joint(a, b)
        for x in rng.integers(-8, 9, (4, 2)) / 4:
            assert value(both, x) == value(a, x) + value(b, x), (
                "further layers of relu(z) - relu(-z) are exact"
            )
    assert joint(ONE, random_network(rng, activation="abs", inputs=1)) is None
    deep = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], [[1.0]], [0.0], activation="tanh")
    flat = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="tanh")
    assert joint(deep, flat) is None, "tanh has no such law"


@pytest.mark.parametrize("seed", range(12))
def test_every_measure_bounds_the_difference_at_points(seed):
    rng = np.random.default_rng(seed)
    a = random_network(rng, inputs=2)
    b = (
        a.with_flat(a.flat() * (1 + 0.1 * rng.normal(size=a.parameters)))
        if seed % 2
        else random_network(rng, inputs=2)
    )
    if a.widths[-1] != b.widths[-1]:
        b = a
    found = {
        how: worst(measure, BOX.of_dimension(2), (0, 1, -1, -1, -1))
        for how, measure in measures(a, b).items()
    }
    assert set(found) == (
        {"separate", "difference", "joint"} if a.widths == b.widths else {"separate", "joint"}
    )
    for x in rng.uniform(-1, 1, (6, 2)):
        gap = max(abs(p - q) for p, q in zip(value(a, x), value(b, x), strict=True))
        assert all(gap <= Fraction(bound) for bound in found.values())


def test_a_bound_is_proved_anew():
    """|a - b| = relu(2x + 1) / 2 <= 3/2 on [-1, 1], at x = 1."""
    GapBound(1.6, "difference", (0, -1, -1), (), 2).verify(ONE, TWO, BOX)
    for wrong, why in (
        (GapBound(1.49, "difference", (0, -1, -1), (), 2), "is claimed, but only"),
        (GapBound(9.0, "guess", (-1,), (), 1), "do not apply"),
        (GapBound(9.0, "joint", (0, -1), (), 1), "lacks 1 subtrees"),
        (GapBound(9.0, "joint", (1, -1, -1), (), 1), "no part of a tree"),
        (GapBound(-1.0, "joint", (-1,), (), 1), "of at least 0"),
    ):
        with pytest.raises(CertificateRejected, match=why):
            wrong.verify(ONE, TWO, BOX)
    with pytest.raises(CertificateRejected, match="do not apply"):
        GapBound(9.0, "joint", (-1,), (), 1).verify(
            ONE, mo.Network.mlp([[1]], [0], [[1]], [0], activation="tanh"), BOX
        )


def test_sums_that_overflow_bound_nothing():
    huge = mo.Network.mlp([[1e308]], [1e308], [[1e308]], [0.0], activation="relu")
    assert worst(measures(huge, ONE)["separate"], BOX.of_dimension(1), (-1,)) == np.inf


def test_changed_parameters_are_those_between():
    bound = GapBound(1.0, "joint", (-1,), (), 1)
    found = Changed.between(ONE, TWO, bound)
    assert found.network(ONE) == TWO
    again = Changed.from_json(json.loads(json.dumps(found.to_json())))
    assert again.network(ONE) == TWO
    (change,) = found.changes
    third = ExactArray(np.zeros(1))
    third.put((0,), Fraction(1, 3))
    for changes, why in (
        ((change, change), "in two places"),
        ((replace(change, layer=3),), "layer 3 of a network with 2"),
        ((replace(change, at=np.array([7])),), "has no weight 7"),
        ((replace(change, to=third),), "is no float"),
        ((Change(1, "bias", np.array([0, 0]), ExactArray(np.ones(2))),), "changes twice"),
    ):
        with pytest.raises(CertificateRejected, match=why):
            replace(found, changes=changes).network(ONE)


@pytest.mark.parametrize(
    "change",
    [{"upper": -1.0}, {"upper": "1"}, {"how": 3}, {"tree": [0.0]}, {"changes": [{}]}, {"more": 0}],
)
def test_malformed_claims_are_refused(change):
    good = Changed.between(ONE, TWO, GapBound(1.0, "joint", (-1,), (), 1)).to_json()
    with pytest.raises(CertificateRejected):
        Changed.from_json({**good, **change})
