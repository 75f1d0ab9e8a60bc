"""Claims of minimality against brute force: what is called irreducible has no smaller network."""

from __future__ import annotations

import json
from fractions import Fraction

import forgeries
import numpy as np
import pytest
from strategies import folded

import moduli as mo
from moduli.kernel import minimality
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.certificate import Certificate
from moduli.kernel.minimality import Unknown, bends, distinct, reducible
from moduli.kernel.state import State


@pytest.mark.parametrize("activation", ["gelu", "softplus", "sin"])
def test_minimality_is_not_claimable_where_it_is_no_theorem(activation):
    net = mo.Network.mlp([[1.0], [2.0]], [0.0, 1.0], [[1.0, 1.0]], [0.0], activation=activation)
    data = {**mo.compress(net).certificate.to_json(), "minimal": True}
    with pytest.raises(mo.CertificateRejected, match="not known"):
        Certificate.from_json(json.dumps(data)).verify(net, net)


def net(*arrays, activation="relu"):
    return mo.Network.mlp(*(np.array(a, dtype=float) for a in arrays), activation=activation)


@pytest.mark.parametrize("kind", ["relu", "leaky_relu(0.5)", "abs", "tanh", "sigmoid"])
def test_what_is_called_irreducible_has_no_smaller_network(kind):
    rng, proved = np.random.default_rng(0), 0
    for _ in range(120):
        given = folded(
            rng, int(rng.integers(1, 3)), 3, int(rng.integers(1, 3)), int(rng.integers(1, 5)), kind
        )
        if reducible(State(given)) is None:
            proved += 1
            assert given.units <= forgeries.fewest(given)
    assert proved > 10


def test_on_a_box_too():
    rng, proved = np.random.default_rng(1), 0
    for _ in range(150):
        given = folded(rng, int(rng.integers(1, 3)), 3, 1, int(rng.integers(1, 4)))
        claim = Region(
            (-1.0,) * given.widths[0], (1.0,) * given.widths[0], (-1,), ((0,) * given.units,)
        )
        if reducible(State(given, region=claim)) is None:
            proved += 1
            assert given.units <= forgeries.fewest(given, claim)
    assert proved > 5


FLAT = Region((-1.0, 0.0), (1.0, 0.0), (-1,), ((0,),))
CASES = [
    (net([[1, 0]], [0], [[1]], [0]), FLAT, "the box is flat"),
    (net([[1]], [0], [[1]], [0], [[1]], [0]), None, "2 hidden layers"),
    (net([[1]], [0], [[1]], [0], activation="gelu"), None, "gelu networks is not known"),
    (net([[1]], [0], [[1]], [0], activation="identity"), None, "identity networks is not known"),
    (net([[0], [1]], [1, 0], [[1, 1]], [0]), None, "zero incoming"),
    (net([[1], [2]], [1, 0], [[0, 1]], [0]), None, "zero outgoing"),
    (net([[1], [-1]], [1, -1], [[1, 1]], [0], activation="tanh"), None, "equal up to sign"),
    (net([[1]], [3], [[1]], [0]), Region((-1.0,), (1.0,), (-1,), ((1,),)), "affine on the box"),
    (
        net([[1]], [1], [[1]], [0]),
        Region((-1.0,), (1.0,), (-1,), ((0,),)),
        "may not bend inside the box",
    ),
    (
        net([[1], [2], [-1], [-3]], [0] * 4, [[1, 1, 1, 1]], [0]),
        None,
        "no more than 1, one for each bend",
    ),
    (
        net([[1], [-1], [1]], [1, -1, -3], [[1, 1, 1]], [0]),
        None,
        "may be spared if others are turned",
    ),
]


@pytest.mark.parametrize(("given", "region", "why"), CASES, ids=[case[2] for case in CASES])
def test_why_minimality_is_not_proved(given, region, why):
    assert why in reducible(State(given, region=region))


def test_bends_that_are_not_known(monkeypatch):
    assert bends(State(CASES[0][0], region=FLAT)) == Unknown("the box is flat")
    assert bends(State(net([[0]], [1], [[1]], [0]))) == Unknown(
        "a parameter is not rational, or a unit has no incoming weight"
    )
    monkeypatch.setattr(minimality, "ENTRIES", 1)
    assert "too many to compare" in bends(State(net([[1]], [0], [[1]], [0]))).reason
    assert "too many to compare" in reducible(State(net([[1], [2]], [0, 0], [[1, 1]], [0])))


def test_units_are_told_apart_only_by_floats():
    state = State(net([[1], [2]], [0, 1], [[1, 1]], [0], activation="tanh"))
    assert distinct(state)
    state.weights[0].put((0, 0), Fraction(1, 3))
    assert not distinct(state), "no keys of numbers that are no floats: nothing is proved"
