"""Nodes that are passed by: unchanged, or unseen behind a softmax."""

from __future__ import annotations

import numpy as np
import pytest

from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.bypasses import bypassed
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.operators import Contract, Reshape, Slicewise, Transpose

from ...support.graphs import Builder, run

W = np.array([[1.0, 2.0], [3.0, -1.0]])


def attempt(model, name):
    after, _ = bypassed(Known(model, {}), name)
    return after


def require_same(before, after, shape=(4, 2)):
    x = np.random.default_rng(0).normal(size=shape)
    for ours, theirs in zip(run(after, {"x": x}), run(before, {"x": x}), strict=True):
        assert np.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_branch_that_is_zero():
    b = Builder("n", 2)
    branch = b.each("relu", b.dense("x", "a", np.zeros((2, 2)), [-1.0, 0.0]))
    main = b.dense("x", "c", W)
    total = b.each("add", main, branch)
    before = b.model(b.each("tanh", total))
    after = attempt(before, total).live()
    assert "a.w" not in after.constants
    require_same(before, after)


@pytest.mark.parametrize(
    ("kind", "value", "ok"),
    [
        ("add", 0, True), ("add", 1, False), ("mul", 1, True), ("mul", 0, False), ("sub", 0, True),
        ("div", 1, True),
    ],
)  # fmt: skip
def test_constants_that_change_nothing(kind, value, ok):
    b = Builder("n", 2)
    total = b.each(kind, b.dense("x", "a", W), b.constant("c", np.full(2, value)))
    before = b.model(b.each("tanh", total))
    if ok:
        require_same(before, attempt(before, total))
    else:
        with pytest.raises(CertificateRejected):
            attempt(before, total)


def test_zero_minus_x_is_not_x():
    b = Builder("n", 2)
    zero = b.each("relu", b.dense("x", "a", np.zeros((2, 2)), [-1.0, -1.0]))
    total = b.each("sub", zero, b.dense("x", "c", W))
    with pytest.raises(CertificateRejected):
        attempt(b.model(b.each("tanh", total)), total)


def test_a_sum_that_changes_the_shape_is_kept():
    b = Builder("n", 2)
    one = b.dense("x", "a", W[:1])
    total = b.each("add", one, b.constant("z", np.zeros(2)))
    with pytest.raises(CertificateRejected):
        attempt(b.model(b.each("tanh", total)), total)


@pytest.mark.parametrize(
    ("matrix", "ok"),
    [(np.eye(2), True), (W, False), (np.eye(2)[::-1], False), (2 * np.eye(2), False)],
)
def test_layers_that_change_nothing(matrix, ok):
    b = Builder("n", 2)
    y = b.dense(b.dense("x", "a", W), "i", matrix)
    before = b.model(b.each("tanh", y))
    if ok:
        require_same(before, attempt(before, y))
    else:
        with pytest.raises(CertificateRejected):
            attempt(before, y)


def attention(*, kind="k", scale=True, turn=None, mask=None, twice=False):
    """One head; a bias of the keys, queries or values, and perhaps something behind it."""
    b = Builder("n", 3, 2)
    parts = {name: b.dense("x", name, W + i) for i, name in enumerate("qkv")}
    biased = b.each("add", parts[kind], b.constant("bias", [1.0, -2.0]))
    parts[kind] = biased
    if turn is not None:
        parts["k"] = b.each("mul", parts["k"], b.constant("turn", turn))
    keys = b.add(Transpose((0, 2, 1)), (parts["k"],), ("n", 2, 3))
    scores = b.add(Contract(), (parts["q"], keys), ("n", 3, 3))
    if scale:
        scores = b.each("mul", scores, b.constant("scale", 0.5))
    if mask is not None:
        scores = b.each("add", scores, b.constant("mask", mask))
    weights = b.add(Slicewise("softmax", ((0, 0), (1, 1))), (scores,), ("n", 3, 3))
    y = b.add(Contract(), (weights, parts["v"]), ("n", 3, 2))
    if twice:
        y = b.each("add", y, biased)
    return b.model(b.each("tanh", y)), biased


@pytest.mark.parametrize(
    "how", [{}, {"scale": False}, {"mask": np.triu(np.full((3, 3), -9.0), 1)}, {"turn": [2.0, 3.0]}]
)
def test_a_key_bias_is_not_seen(how):
    before, name = attention(**how)
    require_same(before, attempt(before, name), (4, 3, 2))


@pytest.mark.parametrize(
    "how", [{"kind": "q"}, {"kind": "v"}, {"turn": np.arange(6.0).reshape(3, 2)}, {"twice": True}]
)
def test_other_biases_are(how):
    before, name = attention(**how)
    with pytest.raises(CertificateRejected):
        attempt(before, name)


def test_a_bias_that_a_reshape_mixes_with_positions_is_seen():
    b = Builder("n", 3, 2)
    biased = b.each("add", b.dense("x", "a", W), b.constant("bias", [1.0, -2.0]))
    flat = b.add(Reshape((((1, 2), (1,)),), (None, 6), ((0, 0),)), (biased,), ("n", 6))
    y = b.add(Slicewise("softmax", ((0, 0),)), (flat,), ("n", 6))
    with pytest.raises(CertificateRejected):
        attempt(b.model(y), biased)
    b = Builder("n", 3, 2)
    biased = b.each("add", b.dense("x", "a", W), b.constant("bias", [1.5]))
    flat = b.add(Reshape((((1, 2), (1,)),), (None, 6), ((0, 0),)), (biased,), ("n", 6))
    before = b.model(b.add(Slicewise("softmax", ((0, 0),)), (flat,), ("n", 6)))
    require_same(before, attempt(before, biased), (4, 3, 2))
