"""Trees of splits: what is a tree, what it proves, what its leaves cover."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moduli as mo
from moduli.kernel.bounds import input_splits
from moduli.kernel.bounds.input_splits import halves, leaves, locate, middle, read_tree
from moduli.kernel.errors import CertificateRejected


def hat():
    """z = relu(x) + relu(-x) - 1.5 <= -0.5 on [-1, 1]: seen by affine bounds on both halves."""
    return mo.Network.mlp(
        [[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0]], [-1.5], [[1.0]], [0.0], activation="relu"
    ), [np.zeros(2, dtype=np.int8), np.array([-1], dtype=np.int8)]


def test_a_tree_proves_what_the_root_does_not():
    net, claims = hat()
    input_splits.verify(net, mo.Box(-1, 1), (0, -1, -1), claims)
    wide = mo.Box(-1.625, 1.375)
    with pytest.raises(mo.CertificateRejected, match="unit 0 of layer 2"):
        input_splits.verify(net, wide, (0, -1, 0, -1, -1), claims)


@pytest.mark.parametrize(
    "tree",
    [(), (0,), (0, -1), (0, -1, -1, -1), (1, -1, -1), (-2,), (0, 0, -1, -1), (True, -1, -1)],
)
def test_what_is_no_tree_is_rejected(tree):
    net, claims = hat()
    with pytest.raises(mo.CertificateRejected):
        input_splits.verify(net, mo.Box(-1, 1), tree, claims)


def test_false_claims_are_rejected():
    net, claims = hat()
    for false in (
        [np.zeros(2, dtype=np.int8), np.array([1], dtype=np.int8)],
        [np.array([-1, 0], dtype=np.int8), claims[1]],
    ):
        with pytest.raises(mo.CertificateRejected, match="is not proved"):
            input_splits.verify(net, mo.Box(-1, 1), (0, -1, -1), false)
    for wrong in (claims[:1], [claims[1], claims[0]], [claims[0] + np.int8(2), claims[1]]):
        with pytest.raises(mo.CertificateRejected, match="claims"):
            input_splits.verify(net, mo.Box(-1, 1), (0, -1, -1), wrong)


def test_halves_cover_boxes_without_an_inside():
    net, claims = hat()
    input_splits.verify(net, mo.Box(0.5, 0.5), (0, -1, 0, -1, -1), claims)
    tight = mo.Box(1.0, np.nextafter(1.0, 2))
    input_splits.verify(net, tight, (0, -1, 0, -1, -1), claims)


TREES = st.recursive(
    st.just((-1,)),
    lambda sub: st.tuples(st.integers(0, 1), sub, sub).map(lambda t: (t[0], *t[1], *t[2])),
    max_leaves=12,
)


@given(TREES, st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64)), min_size=1, max_size=5))
def test_the_leaves_cover_the_box_and_no_more(tree, places):
    box = mo.Box([-1.0, 0.0], [3.0, 8.0])
    low, high = leaves(box, tree)
    assert len(low) == tree.count(-1)
    volume = sum(Fraction(a) * Fraction(b) for a, b in (high - low).tolist())
    assert volume == 4 * 8, "halves at the middle are exact here, so that volumes add up"
    for i, j in places:
        x = np.array([-1.0 + i / 16, j / 8])
        assert ((low <= x) & (x <= high)).all(axis=1).any()


@given(TREES, st.integers(0, 30), st.integers(-2, 3))
def test_another_node_is_no_tree_or_one_that_covers_too(tree, at, node):
    other = list(tree)
    other[at % len(tree)] = node
    box = mo.Box([0.0, 0.0], [1.0, 1.0])
    size = sum(1 if n < 0 else -1 for n in other)
    try:
        low, high = leaves(box, other)
    except CertificateRejected:
        assert tuple(other) != tree
        return
    assert size == 1
    assert (high - low).prod(axis=1).sum() == 1


def test_a_split_at_the_middle_stays_inside():
    most = np.finfo(float).max
    low, high = np.array([[-most, 5e-324, 1.0]]), np.array([[most, 5e-324, np.nextafter(1, 2)]])
    assert ((low <= middle(low, high)) & (middle(low, high) <= high)).all()
    for split in range(3):
        a, b, c, d = halves(low, high, np.array([split]))
        assert (b[0, split], c[0, split]) == (middle(low, high)[0, split],) * 2
        assert (a == low).all()
        assert (d == high).all()


def test_units_are_located_among_all_layers():
    net = mo.Network.mlp(
        *(np.zeros(s) for s in ((3, 1), 3, (0, 3), 0, (2, 0), 2, (1, 2), 1)), activation="relu"
    )
    assert [locate(net, at) for at in range(5)] == [(1, 0), (1, 1), (1, 2), (3, 0), (3, 1)]


def test_trees_are_read_strictly():
    assert read_tree([0, -1, -1], "claim") == (0, -1, -1)
    for wrong in (None, "0", [0.0], [True], [-2], [2**31], {"0": 1}):
        with pytest.raises(CertificateRejected, match="the tree of the claim"):
            read_tree(wrong, "claim")
