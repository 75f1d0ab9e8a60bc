"""Blocks, skips and idle units: products, bounds and signs of what takes the place of others;
forgeries.
"""

from __future__ import annotations

import copy
import json
from fractions import Fraction

import numpy as np
import pytest

import moduli as mo
from moduli.kernel.bounds.activation_bounds import preactivation_bounds
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.certificate import Certificate
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.move import Move
from moduli.kernel.rules import apply
from moduli.kernel.state import State
from moduli.kernel.substitution import linear_contribution


def net(*arrays, activation="relu"):
    return mo.Network.mlp(*(np.array(a, dtype=float) for a in arrays), activation=activation)


def block(units, into, rows, outgoing, layer=1):
    exact = [
        tuple(None if r is None else tuple(map(Fraction, r)) for r in side)
        for side in (rows, outgoing)
    ]
    return Move(
        "block",
        layer,
        np.array(units),
        np.array(into, dtype=np.intp),
        rows=exact[0],
        outgoing=exact[1],
    )


def on_box(large, *signs):
    return State(
        large, region=Region((-1.0,) * large.widths[0], (1.0,) * large.widths[0], (-1,), signs)
    )


def test_forged_blocks_are_noticed():
    net = mo.Network.mlp([[1], [-1], [1]], [1, -1, -3], [[1, 1, 1]], [0], activation="relu")
    small = mo.compress(net)
    data = small.certificate.to_json()
    (move,) = data["large_moves"]
    assert move["move"] == "block"
    forged = [{**move, "units": move["units"][:-1]}, {**move, "into": move["into"][::-1]}]
    forged += [{**move, "rows": [None] * len(move["rows"])}]
    for side in ("rows", "outgoing"):
        for k, row in enumerate(move[side]):
            for j in range(len(row or ())):
                for number in ("0", "-1", "7", "1/3"):
                    wrong = copy.deepcopy(move)
                    if wrong[side][k][j] != number:
                        wrong[side][k][j] = number
                        forged.append(wrong)
    assert len(forged) > 8
    for wrong in forged:
        with pytest.raises(mo.CertificateRejected):
            Certificate.from_json(json.dumps({**data, "large_moves": [wrong]})).verify(
                small.network, net
            )


def test_linear_contributions_are_products_of_rationals():
    rng = np.random.default_rng(0)
    for _ in range(20):
        w, v = rng.normal(size=(4, 3)), rng.normal(size=(2, 4))
        state = State(net(w, np.zeros(4), v, np.zeros(2)))
        units, slopes = np.array([2, 0]), [Fraction(1, 3), Fraction(-2)]
        outgoing, product = linear_contribution(state, 1, units, slopes)
        for i in range(2):
            for j in range(3):
                terms = [
                    Fraction(v[i, u]) * c * Fraction(w[u, j])
                    for u, c in zip(units, slopes, strict=True)
                ]
                assert product.get((i, j)) == sum(terms)
            assert outgoing.get((i, 1)) == -2 * Fraction(v[i, 0])


def test_a_layer_that_is_skipped_leaves_zeros_where_units_are_gone():
    large = net([[1], [5], [2]], [9, 9, 9], [[1, 0, 3], [2, 0, 4]], [0, -1], [[1, 1]], [0])
    state = on_box(large, (1, 1, 1), (0, 0))
    apply(state, Move("drop", 1, np.array([1])))
    apply(state, Move("skip", 1, np.array([0, 2])))
    assert state.widths == (1, 2, 1)
    assert [state.weight(1, i, 0) for i in range(2)] == [7, 10]
    assert [state.biases[0].get((i,)) for i in range(2)] == [36, 53]
    assert len(state.signs) == len(state.preactivation_bounds) == 1
    rows = net([[1], [5], [2]], [9, 9, 9], [[1, 0, 3]], [0], [[1]], [0])
    with pytest.raises(CertificateRejected, match="names 2 units; the layer has 3"):
        apply(on_box(rows, (1, 1, 1), (0,)), Move("skip", 1, np.array([0, 1])))


def test_a_new_unit_that_cannot_turn_negative_is_linear_and_another_one_bends():
    """5 h + 7 with h in [-1, 1] stays positive; its sign and its bounds are those of the new row."""
    large = net([[1], [2]], [3, 5], [[1, 2]], [0])
    state = on_box(large, (1, 1))
    apply(state, block([0, 1], [1], [(5, 7)], [(1,)]))
    assert state.signs[0][1] == 1
    lo, hi = preactivation_bounds(state, 1)
    assert (lo[1], hi[1]) == (2, 12)
    assert state.biases[1].get((0,)) == 3 + 2 * 5 - 7
    with pytest.raises(CertificateRejected, match="do not bend as the old ones"):
        apply(on_box(large, (1, 1)), block([0, 1], [1], [(5, 4)], [(2,)]))


def test_a_turned_unit_keeps_the_bounds_of_the_old_one():
    """z in [-1, 3] becomes -z in [-3, 1], though the box alone would say less of a deeper unit."""
    large = net([[1], [1]], [1, 1], [[1, -1], [2, 1]], [1, 0], [[1, 1]], [0])
    state = on_box(large, (0, 0), (0, 0))
    lo, hi = (end.copy() for end in preactivation_bounds(state, 2))
    assert lo[0] <= hi[0] < 2
    with pytest.raises(CertificateRejected, match="product"):
        apply(state, block([0], [0], [(-1, 1, -1)], [(1,)], layer=2))
    free = net([[1], [1]], [1, 1], [[1, -1], [-1, 1]], [1, -1], [[1, 1]], [0])
    state = on_box(free, (0, 0), (0, 0))
    before = [end.copy() for end in preactivation_bounds(state, 2)]
    apply(state, block([0, 1], [0, 1], [(-1, 1, -1), (1, -1, 1)], [(1,), (1,)], layer=2))
    after = preactivation_bounds(state, 2)
    for unit in range(2):
        assert after[0][unit] >= -before[1][unit]
        assert after[1][unit] <= -before[0][unit]
    assert state.signs[1].tolist() == [0, 0]


EVEN = net([[1], [-1], [1]], [1, -1, -3], [[1, 1, 1]], [0])
SHAPES = {
    "units twice": (block([0, 1], [0, 0], [None, None], [(1,), (1,)]), "must be different ones"),
    "units of elsewhere": (
        block([0, 1], [2], [None], [(1,)]),
        "must be different ones of the block",
    ),
    "fewer rows": (block([0, 1], [0, 1], [None], [(1,), (1,)]), "2 units stay, with 1 rows"),
    "short rows": (block([0], [0], [(1,)], [(1,)]), "rows need 1 weights and a bias"),
    "long columns": (block([0], [0], [None], [(1, 1)]), "columns 1 weights"),
    "another product": (block([0], [0], [(2, 2)], [(1,)]), "product of weights"),
    "another hyperplane": (block([0], [0], [(1, 2)], [(1,)]), "do not bend as the old ones"),
    "no units": (block([0], [], [], []), "product of weights"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_blocks_of_the_wrong_shape(name):
    move, why = SHAPES[name]
    with pytest.raises(CertificateRejected, match=why):
        apply(State(EVEN), move)
    missing = Move("block", 1, np.array([0]), None)
    with pytest.raises(CertificateRejected, match="must be different"):
        apply(State(EVEN), missing)


def test_units_of_other_laws_and_irrational_ones():
    tanh = net([[1], [0]], [0, 0.5], [[1, 1]], [0], [[1]], [0], activation="tanh")
    with pytest.raises(CertificateRejected, match="tanh is not even but for a line"):
        apply(State(tanh), block([0], [0], [None], [(1,)]))
    mixed = net([[0], [1]], [0.5, 0], [[1, 1]], [0], [[1]], [0], activation=["tanh", "relu"])
    state = State(mixed)
    apply(state, Move("constant", 1, np.array([0])))
    with pytest.raises(CertificateRejected, match="not all rational"):
        apply(state, block([0], [0], [None], [(1,)], layer=2))


def test_idle_units_need_a_sign():
    large = net([[1], [1], [1]], [-2, 2, 0], [[1, 1, 1]], [0])
    with pytest.raises(CertificateRejected, match="not known to be linear for all inputs"):
        apply(State(large), Move("inactive", 1, np.array([0])))
    state = on_box(large, (-1, 1, 0))
    for unit, why in ((1, "has slope 1"), (2, "not known to be linear")):
        with pytest.raises(CertificateRejected, match=why):
            apply(state, Move("inactive", 1, np.array([0, unit])))
    assert state.widths == (1, 3, 1)
    apply(state, Move("inactive", 1, np.array([0])))
    assert state.alive[1].tolist() == [1, 2]
