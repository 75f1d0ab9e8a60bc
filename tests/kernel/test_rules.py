"""Every kind of move: what is accepted keeps the function, exactly; what is rejected changes
nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import forgeries
import mpmath
import numpy as np
import pytest
import strategies as plants
from hypothesis import event, given, settings
from hypothesis import strategies as st

import moduli as mo
from moduli.common.exact_values import evaluate
from moduli.kernel import exact_numbers
from moduli.kernel.bounds.activation_bounds import preactivation_bounds
from moduli.kernel.bounds.activation_bounds import signs as signs_of
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.exact_numbers import Work
from moduli.kernel.move import KINDS, Move
from moduli.kernel.rules import RULES, apply, replay
from moduli.kernel.state import State

DIGITS = 120
BENDING = ("relu", "relu", "abs", "leaky_relu(0.5)", "identity")
EVERY = (*BENDING, "tanh", "sigmoid", "gelu", "sin", "elu(1.0)")
PLACES = [
    [Fraction(a, 8), Fraction(b, 8)] for a, b in ((-8, 8), (-5, 3), (0, 0), (1, -7), (6, 8))
]  # inside [-1, 1]
FAR = [[Fraction(100), Fraction(-3)], [Fraction(-99), Fraction(50)]]


# Oracles, which use nothing of the kernel but what its numbers are made of -----------------------------------------


def real(number):
    """A rational or a constant with 120 digits."""
    if isinstance(number, Fraction):
        return forgeries.real(number)
    return forgeries.real(number.rational) + sum(
        forgeries.real(c) * forgeries.applied(atom.activation, real(atom.argument))
        for atom, c in number.atoms
    )


def preactivations(state, x):
    """Of all layers at a point, outputs last."""
    h, found = [real(q) for q in x], []
    for (w, b), activation in zip(state.arrays(), [*state.activations, None], strict=True):
        rows, columns = w.hi.shape
        z = [
            sum((real(w.get((i, j))) * h[j] for j in range(columns)), real(b.get((i,))))
            for i in range(rows)
        ]
        found.append(z)
        h = z if activation is None else [forgeries.real(applied(activation, t)) for t in z]
    return found


def applied(activation, z):
    if activation.kind == "elu":
        return z if z >= 0 else mpmath.expm1(z)
    return forgeries.applied(activation, z)


def region_of(net):
    """The box [-1, 1] with all signs that interval arithmetic shows."""
    low, high, signs = [Fraction(-1)] * net.widths[0], [Fraction(1)] * net.widths[0], []
    for layer in net.layers[:-1]:
        ends = []
        for row, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True):
            pairs = [
                sorted((Fraction(w) * p, Fraction(w) * q))
                for w, p, q in zip(row, low, high, strict=True)
            ]
            ends.append([sum((pair[k] for pair in pairs), Fraction(bias)) for k in (0, 1)])
        signs.append(tuple(1 if lo >= 0 else -1 if hi <= 0 else 0 for lo, hi in ends))
        # abs turns over, so both ends count; no other activation here falls and rises on both sides
        # of zero
        corners = [[layer.activation.exact(z) for z in (lo, hi, Fraction(0))] for lo, hi in ends]
        inside = [
            values if lo < 0 < hi else values[:2]
            for values, (lo, hi) in zip(corners, ends, strict=True)
        ]
        low, high = [min(values) for values in inside], [max(values) for values in inside]
    inputs = net.widths[0]
    return Region((-1.0,) * inputs, (1.0,) * inputs, (-1,), tuple(signs))


def picture(state):
    """All that a state holds, as it is. Bounds of pre-activations that nobody has asked for are
    those of the network.
    """
    arrays = []
    for array in (*state.weights, *state.biases):
        low = np.zeros(array.hi.shape) if array.lo is None else array.lo
        arrays.append((array.hi.shape, array.hi.tobytes(), low.tobytes(), dict(array.rest)))
    bounds, signs = list[Any](), list[Any]()
    if state.region is not None:
        asked = state.preactivation_bounds
        if not asked:
            fresh = State(state.net, region=state.region)
            preactivation_bounds(fresh, 1)
            asked = fresh.preactivation_bounds
        bounds = [(lo.tolist(), hi.tolist()) for lo, hi in asked]
        signs = [s.tolist() for s in state.signs]
    alive = [a.tolist() for a in state.alive]
    return arrays, alive, list(state.activations), signs, bounds


@contextmanager
def limits(bits=None, work=None, state=None):
    """Numbers of fewer bits, or less work, than the kernel allows."""
    before = exact_numbers.LONGEST
    try:
        if bits is not None:
            exact_numbers.LONGEST = bits
        for array in (*state.weights, *state.biases) if work is not None else ():
            array.work = Work(work)
        yield
    finally:
        exact_numbers.LONGEST = before


def refused(state, move):
    """What a move is refused for, None where it was carried out."""
    try:
        apply(state, move)
    except CertificateRejected as error:
        return str(error)
    return None


def judge(state, move, *, merges_may_stop=False):
    """Apply a move; whether it was accepted, after what was said above was checked of it."""
    before = picture(state)
    places = PLACES + (FAR if state.region is None else [])
    with mpmath.workdps(DIGITS):
        places = [x[: len(state.alive[0])] for x in places]
        old = [preactivations(state, x)[-1] for x in places]
        refusal = refused(state, move)
        if refusal is not None:
            assert refusal.startswith(str(move))
            if not (merges_may_stop and "entries would be computed" in refusal):
                assert picture(state) == before
            return False
        for x, y in zip(places, old, strict=True):
            found = preactivations(state, x)
            for p, q in zip(found[-1], y, strict=True):
                assert abs(p - q) <= mpmath.mpf(10) ** (30 - DIGITS) * (1 + abs(q))
            require_signs(state, found)
    return True


def require_signs(state, found):
    """Signs and bounds of pre-activations stay true."""
    for l in range(len(found) - 1):
        signs = signs_of(state, l + 1)
        asked = state.preactivation_bounds
        bounds = asked[l] if l < len(asked) else None
        for place, name in enumerate(state.alive[l + 1].tolist()):
            z, slip = found[l][place], mpmath.mpf(10) ** (30 - DIGITS)
            assert signs[name] * z >= -slip
            assert bounds is None or bounds[0][name] - slip <= z <= bounds[1][name] + slip


def started(draw, net, *, on_box):
    """A state some accepted moves away from its network: with long rationals, constants, units that
    are gone.
    """
    state = State(net, region=region_of(net) if on_box else None)
    for kind in draw(
        st.lists(
            st.sampled_from(["constant", "drop", "merge", "scale", "block", "permute"]), max_size=2
        )
    ):
        refused(state, plants.any_move(draw, state, kind))
    return state


@pytest.mark.parametrize("on_box", [False, True], ids=["on all inputs", "on a box"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(data=st.data())
def test_what_is_accepted_keeps_the_function_and_what_is_rejected_changes_nothing(
    kind, on_box, data
):
    net = plants.small_network(data.draw, BENDING if on_box else EVERY)
    state = started(data.draw, net, on_box=on_box)
    if on_box and data.draw(st.booleans()):
        preactivation_bounds(state, 1)
    move = plants.any_move(data.draw, state, kind)
    event(f"accepted: {judge(state, move)}")


@pytest.mark.parametrize("on_box", [False, True], ids=["on all inputs", "on a box"])
@pytest.mark.parametrize("kind", ["constant", "merge", "scale", "skip", "block"])
@settings(max_examples=20)
@given(data=st.data())
def test_a_move_that_meets_a_limit_changes_nothing(kind, on_box, data):
    """Numbers that are too long in the middle of it; work that ends there, except where a merge
    adds floats.
    """
    net = plants.small_network(data.draw, BENDING if on_box else EVERY)
    state = started(data.draw, net, on_box=on_box)
    move = plants.any_move(data.draw, state, kind)
    bits, work = data.draw(
        st.sampled_from([(k, None) for k in (1, 2, 3, 4)] + [(None, k) for k in (0, 1, 2, 4)])
    )
    with limits(bits, work, state):
        judge(state, move, merges_may_stop=kind == "merge")


def net(*arrays, activation="relu"):
    return mo.Network.mlp(*(np.array(a, dtype=float) for a in arrays), activation=activation)


def move(kind, units, into=None, ratio=1, rows=(), outgoing=()):
    exact = [tuple(tuple(map(Fraction, r)) for r in side) for side in (rows, outgoing)]
    return Move(
        kind, 1, np.array(units), None if into is None else np.array(into), Fraction(ratio), *exact
    )


GATES = net(
    [[1, 2], [1, 2], [-2, -4]], [1, -1, 3], [[3, 1, 2], [-3, -1, -2]], [0, 0]
)  # linear parts that cancel
PLANES = net(
    [[1], [-1], [1]], [1, -1, -3], [[1, 1, 1], [2, 3, 1]], [0.5, 0]
)  # two units of one hyperplane
TRUE = {
    "constant": (
        net([[0], [0]], [3, 1], [[1, 2], [3, 4]], [0, 0]),
        False,
        move("constant", [0, 1]),
    ),
    "merge": (net([[1], [3]], [1, 3], [[1, 2], [3, 4]], [0, 0]), False, move("merge", [1], [0], 3)),
    "merge of gates": (
        net([[1], [-3]], [0, 0], [[0, 0], [0, 0]], [1, 1]),
        False,
        move("merge", [1], [0], -3),
    ),
    "scale": (
        net([[1, 2], [3, 4]], [5, 6], [[1, 2], [3, 4]], [0, 0]),
        False,
        move("scale", [0, 1], ratio="3/7"),
    ),
    "scale of gates": (GATES, False, move("scale", [0, 1, 2], ratio="-3/7")),
    "block": (
        PLANES,
        False,
        move(
            "block",
            [0, 1],
            [0, 1],
            rows=[(3, 3), (-5, -5)],
            outgoing=[("1/3", "2/3"), ("1/5", "3/5")],
        ),
    ),
    "block on a box": (
        net([[1], [2]], [3, 5], [[1, 2], [3, 6]], [0, 0]),
        True,
        move("block", [0, 1], [1], rows=[(5, 7)], outgoing=[(1, 3)]),
    ),
    "skip": (
        net([[1], [2]], [3, 5], [[1, 2], [3, 4]], [1, 1], [[1, 1]], [0]),
        True,
        move("skip", [0, 1]),
    ),
}


@pytest.mark.parametrize("name", TRUE)
@pytest.mark.parametrize("limit", ["bits", "work"])
def test_wherever_a_limit_is_met_nothing_has_changed(name, limit):
    """A true move, with one bit or one entry more each time until it is accepted."""
    large, on_box, one = TRUE[name]
    for most in range(100):
        state = State(large, region=region_of(large) if on_box else None)
        with limits(**{limit: most}, state=state):
            if judge(state, one):
                break
    assert most < 99
    assert most > 1 or name in ("skip", "merge of gates")


def test_a_merge_of_floats_that_runs_out_of_work_says_so():
    """Sums of floats that no two floats hold: the one place where a state is left as it was in the
    middle of a move.
    """
    large = net([[1]] * 4, [1] * 4, [[1, 2.0**80, 2.0**-80, 2.0**-160]] * 2, [0, 0])
    one = move("merge", [1, 2, 3], [0, 0, 0])
    assert judge(State(large), one)
    for work in (0, 1):
        state = State(large)
        with (
            limits(work=work, state=state),
            pytest.raises(CertificateRejected, match=r"more than \d entries"),
        ):
            apply(state, one)


def test_a_proof_is_a_list_of_moves():
    large = TRUE["constant"][0]
    one = move("constant", [0, 1])
    assert replay(large, [one]).network() == net(np.zeros((0, 1)), [], np.zeros((2, 0)), [5, 13])
    with pytest.raises(
        CertificateRejected, match="constant of unit 0, 1 in layer 1: unit 0 is not there"
    ):
        replay(large, [one, one])


def test_a_move_of_no_units_is_named_once():
    with pytest.raises(CertificateRejected) as caught:
        apply(State(PLANES), Move("permute", 1, np.array([], dtype=np.intp)))
    assert str(caught.value) == "permute of unit none in layer 1: orders 0 of 3 units"


def test_flipping_gated_units_needs_cancelling_linear_parts():
    w, b, v = [[1.0], [1.0], [-2.0]], [0.0, -1.0, 3.0], [[1.0, 1.0, 1.0]]
    net = mo.Network.mlp(w, b, v, [0.0], activation="relu")
    state = State(net)
    apply(state, Move("scale", 1, np.array([0, 1, 2]), ratio=Fraction(-1)))
    flipped = state.network()
    for t in (-5, -1, Fraction(1, 2), 2, 9):
        assert evaluate(flipped, [Fraction(t)]) == evaluate(net, [Fraction(t)])
    with pytest.raises(mo.CertificateRejected, match="do not cancel"):
        apply(State(net), Move("scale", 1, np.array([0, 1]), ratio=Fraction(-1)))


@pytest.mark.parametrize(
    ("move", "why"),
    [
        (Move("merge", 1, np.array([0]), np.array([1])), "not 1 times"),
        (Move("merge", 1, np.array([0]), np.array([0])), "removes"),
        (Move("merge", 1, np.array([0, 2]), np.array([1])), "not as many"),
        (Move("drop", 1, np.array([0])), "outgoing"),
        (Move("constant", 1, np.array([0])), "incoming"),
        (Move("constant", 1, np.array([9])), "not there"),
        (Move("constant", 1, np.array([-1])), "not there"),
        (Move("constant", 2, np.array([0])), "hidden layers"),
        (Move("permute", 1, np.array([0, 1])), "orders 2 of 3"),
        (Move("permute", 1, np.array([0, 1, 1])), "twice"),
        (Move("scale", 1, np.array([0]), ratio=Fraction(2)), "no law"),
    ],
)
def test_each_precondition(move, why):
    net = mo.Network.mlp([[1.0], [2.0], [3.0]], [0.0, 1.0, 2.0], [[1.0, 1.0, 1.0]], [0.0])
    with pytest.raises(mo.CertificateRejected, match=why):
        apply(State(net), move)


def test_biases_that_differ_by_less_than_any_float_shows_are_not_equal():
    """Two units with one row take up a tanh(1/2); one has 2^-200 besides."""
    first = [[0.0], [0.0], [1.0]], [0.5, 1.0, 0.0]
    second = [[1.0, 0.0, 1.0], [1.0, 2.0**-200, 1.0]], [0.0, 0.0]
    net = mo.Network.mlp(*first, *second, [[1.0, 1.0]], [0.0], activation="tanh")
    state = State(net)
    apply(state, Move("constant", 1, np.array([0, 1])))
    assert all(part[0] == part[1] for part in (state.biases[1].hi, state.biases[1].lo))
    with pytest.raises(CertificateRejected, match="not 1 times the row"):
        apply(state, Move("merge", 2, np.array([1]), np.array([0])))


def test_moves_are_dispatched_by_a_closed_table():
    same = mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, 2.0]], [0.0])
    assert set(KINDS) == set(RULES)
    for kind in ("remove", "_remove", "apply", "slots", "network", "", "__init__"):
        state = State(same)
        with pytest.raises(mo.CertificateRejected, match="there is no such move"):
            apply(state, Move(kind, 1, np.array([0])))
        assert state.widths == same.widths
