"""Where fewest units are claimed of a remaining network, and why not where they are not."""

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
from moduli.kernel.minimality import Unknown, bends, reducible
from moduli.kernel.network import Network
from moduli.kernel.state import State


def state(rows, biases, columns, activation="tanh", box=None) -> State:
    net = Network.mlp(rows, biases, columns, [0.0] * len(columns), activation=activation)
    if box is None:
        return State(net)
    low, high = box
    return State(net, region=Region(low, high, (-1,), ((0,) * len(rows),)))


TWO = [[1.0, 0.0], [0.0, 1.0]]
UNIT = ((-1.0, -1.0), (1.0, 1.0))
FLAT = ((-1.0, 0.5), (1.0, 0.5))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((TWO, [0, 0], [[1, 1]], "tanh"), None),
        ((TWO, [0, 0], [[1, 1]], "sigmoid", UNIT), None),
        ((TWO, [0, 0], [[1, 1]], "relu"), None),
        ((TWO, [0, 0], [[1, 1]], "relu", UNIT), None),
        ((TWO, [0, 0], [[1, 1]], "gelu"), "minimality of irreducible gelu networks is not known"),
        ((TWO, [0, 0], [[1, 1]], "identity"), "irreducible identity networks is not known"),
        ((TWO, [0, 0], [[1, 1]], "tanh", FLAT), "the box is flat"),
        (([[1.0, 0.0], [0.0, 0.0]], [0, 1], [[1, 1]], "tanh"), "zero incoming weights"),
        ((TWO, [0, 0], [[1, 0]], "tanh"), "zero outgoing weights"),
        (([[1.0, 2.0], [-1.0, -2.0]], [1, -1], [[1, 1]], "tanh"), "equal up to sign"),
        (([[1.0, 2.0], [2.0, 4.0]], [1, 2], [[1, 1]], "tanh"), None),
        # relu(z) + relu(-z): one hyperplane, and |z| is no single ReLU unit
        (([[1.0, 0.0], [-1.0, 0.0]], [0, 0], [[1, 1]], "relu"), None),
        # relu(z) - relu(-z) = z: no bend, but two units are needed on all of R^n
        (([[1.0, 0.0], [-1.0, 0.0]], [0, 0], [[1, -1]], "relu"), None),
        (([[1.0, 0.0], [-1.0, 0.0]], [0, 0], [[1, -1]], "relu", UNIT), "affine on the box"),
        # proportional units that nobody merged
        (([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], [0, 0, 0], [[1, 1, 1]], "relu"), "spared"),
        # bends outside of the box
        (([[1.0, 0.0], [0.0, 1.0]], [5, 0], [[1, 1]], "relu", UNIT), "may not bend inside the box"),
    ],
)  # fmt: skip
def test_reasons(given, why):
    found = reducible(state(*given))
    if why is None:
        assert found is None
    else:
        assert why in found


def test_one_hidden_layer_only():
    net = Network.mlp(
        np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), [[1, 1]], [0], activation="relu"
    )
    assert reducible(State(net)) == "2 hidden layers: minimality is known for one"


def test_other_numbers_than_floats_and_large_layers_are_left_open(monkeypatch):
    given = state(TWO, [0, 0], [[1, 1]])
    given.weights[0].put((0, 0), Fraction(1, 3))
    assert reducible(given) == "two units may be equal up to sign"
    monkeypatch.setattr(minimality, "ENTRIES", 5)
    assert "6 parameters are too many" in reducible(state(TWO, [0, 0], [[1, 1]], "relu", UNIT))


def test_hyperplanes_that_are_too_many_are_left_open(monkeypatch):
    rows = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]
    given = state(rows, [0, 0, 0], [[1, 1, 1]], "relu")
    assert reducible(given) is None
    monkeypatch.setattr(minimality, "MOST", 1)
    assert "3 units remain and no more than 2" in reducible(given)


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


def test_bends_that_are_not_known(monkeypatch):
    flat = Region((-1.0, 0.0), (1.0, 0.0), (-1,), ((0,),))
    assert bends(State(net([[1, 0]], [0], [[1]], [0]), region=flat)) == Unknown("the box is flat")
    assert bends(State(net([[0]], [1], [[1]], [0]))) == Unknown(
        "a parameter is not rational, or a unit has no incoming weight"
    )
    monkeypatch.setattr(minimality, "ENTRIES", 1)
    assert "too many to compare" in bends(State(net([[1]], [0], [[1]], [0]))).reason
    assert "too many to compare" in reducible(State(net([[1], [2]], [0, 0], [[1, 1]], [0])))
