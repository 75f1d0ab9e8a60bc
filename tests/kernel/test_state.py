"""A network in exact numbers: what remains, what is rounded once, what is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import moduli as mo
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.exact_numbers import ExactArray
from moduli.kernel.radius.cover_bound import Change, Near
from moduli.kernel.state import State

NET = mo.Network.mlp(
    [[1.0], [2.0], [4.0]], [1.0, 2.0, 3.0], [[1.0, 2.0, 3.0]], [0.5], activation="tanh"
)


def change(layer, part, at, to):
    return Change(layer, part, np.array(at), ExactArray(np.array(to, dtype=float)))


def test_at_first_it_is_the_network():
    state = State(NET)
    assert state.network() == NET
    assert state.widths == NET.widths
    assert [state.slots(l) for l in range(3)] == [1, 3, 1]
    assert state.weight(1, 2, 0) == 4


def test_units_go_and_others_keep_their_names():
    state = State(NET)
    state.remove(1, np.array([0, 1]), keep=np.array([1]))
    assert state.alive[1].tolist() == [1, 2]
    assert state.network() == mo.Network.mlp(
        [[2.0], [4.0]], [2.0, 3.0], [[2.0, 3.0]], [0.5], activation="tanh"
    )
    assert state.slots(1) == 3
    assert State(NET).network() == NET, "the arrays of the network are not written to"


def test_sums_are_made_ready_and_not_written():
    state = State(NET)
    ready = state.shifted(2, [(0, [(Fraction(1, 3), Fraction(2)), (Fraction(1), Fraction(1))])])
    assert state.biases[1].get((0,)) == Fraction(1, 2)
    state.biases[1].set(ready)
    assert state.biases[1].get((0,)) == Fraction(1, 2) + Fraction(2, 3) + 1
    assert state.network().layers[1].bias[0] == float(Fraction(13, 6)), "rounded once"


def test_a_number_beyond_all_floats_is_no_network():
    state = State(NET)
    state.weights[0].put((0, 0), Fraction(2) ** 1100)
    with pytest.raises(mo.UnsupportedModel, match="exceeds the range of float64"):
        state.network()


def test_changes_within_a_radius():
    state = State(
        NET, Near(0.25, (change(1, "weight", [1], [2.25]), change(2, "bias", [0], [0.75])))
    )
    assert (state.weight(1, 1, 0), state.biases[1].get((0,))) == (Fraction(9, 4), Fraction(3, 4))
    for changes, why in (
        ((change(1, "weight", [1], [2.5]),), "beyond 0.25"),
        ((change(3, "weight", [0], [1.0]),), "layer 3 of a network with 2"),
        ((change(0, "weight", [0], [1.0]),), "layer 0"),
        ((change(1, "weight", [3], [1.0]),), "has no weight 3"),
        ((change(1, "weight", [1], [2.0]), change(1, "weight", [2], [4.0])), "in two places"),
    ):
        with pytest.raises(CertificateRejected, match=why):
            State(NET, Near(0.25, changes))


def test_signs_are_those_of_its_units():
    for signs in (((0, 0),), ((0, 0, 0), (0,)), ()):
        with pytest.raises(CertificateRejected, match="signs of"):
            State(NET, region=Region((0.0,), (1.0,), (-1,), signs))
