"""Stored tensors that may as well be added later: where they go, and where they stay."""

from __future__ import annotations

import numpy as np
import pytest

from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.bypasses import bypassed
from moduli.kernel.graph.certificate import GraphCertificate, GraphMove, played
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.operators import (
    Contract,
    Linear,
    Reshape,
    Slicewise,
    Take,
    Transpose,
)
from moduli.kernel.slack import NO_SLACK

from ...support.graphs import Builder, run

ROWS = np.array([[1, 2], [-1, 3], [2, 0.5], [4, 1]])
OUT = np.array([[1, 2, -1, 3], [2, 1, 4, -2]])
BIAS = np.array([1, -2, 0.5, 4])


def carried(model, name):
    """The graph without the sum; it computes the same."""
    known = Known(model, {})
    after, _ = bypassed(known, name)
    rng = np.random.default_rng(0)
    for _ in range(3):
        feeds = {
            x: np.round(
                rng.normal(size=[n if isinstance(n, int) else 3 for n in model.shapes[x]]) * 8
            )
            / 8
            for x in model.inputs
        }
        for ours, theirs in zip(run(after.live(), feeds), run(model, feeds), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    return known, after.live()


def stays(model, name):
    with pytest.raises(CertificateRejected):
        bypassed(Known(model, {}), name)


def test_the_bias_of_a_layer_goes_into_that_of_the_next():
    b = Builder("n", 2)
    s = b.each("add", b.dense("x", "a", ROWS), b.constant("bias", BIAS))
    known, after = carried(b.model(b.dense(s, "c", OUT, [1, 2])), s)
    assert after.constants["c.b"].tolist() == (OUT @ BIAS + [1, 2]).tolist()
    assert "bias" not in after.constants
    assert known.rounded == {}


def test_into_the_sum_or_the_mean_behind_a_layer_without_a_bias():
    b = Builder("n", 2)
    s = b.each("add", b.dense("x", "a", ROWS), b.constant("bias", BIAS))
    t = b.each("add", b.dense(s, "c", OUT), b.constant("last", [1, 2]))
    _, after = carried(b.model(b.each("relu", t)), s)
    assert after.constants["last"].tolist() == (OUT @ BIAS + [1, 2]).tolist()
    b = Builder("n", 2)
    s = b.each("add", b.dense("x", "a", ROWS), b.constant("bias", BIAS))
    stays(b.model(b.each("relu", b.dense(s, "c", OUT))), s)


def attention(*, kind="softmax", bias=BIAS, positions=False, masked=False, over=1):
    """Two heads of two coordinates; the bias of values is added before heads are cut."""
    b = Builder("n", 5, 2)
    q, k, v = (b.dense("x", name, ROWS) for name in "qkv")
    shape = (5, 4) if positions else (4,)
    v = b.each("add", v, b.constant("bias", np.broadcast_to(bias, shape)), numbers=())
    name = v

    def heads(t):
        cut = b.add(
            Reshape((((2,), (2, 3)),), (None, 5, 2, 2), ((0, 0), (1, 1))), [t], ("n", 5, 2, 2)
        )
        return b.add(Transpose((0, 2, 1, 3)), [cut], ("n", 2, 5, 2))

    turned = b.add(Transpose((0, 1, 3, 2)), [heads(k)], ("n", 2, 2, 5))
    scores = b.add(Contract(), [heads(q), turned], ("n", 2, 5, 5))
    if masked:
        scores = b.each("add", scores, b.constant("mask", np.where(np.tri(5) > 0, 0, -np.inf)))
    free = tuple((axis, axis) for axis in range(4) if axis != (3 if over == 1 else 2))
    w = b.add(Slicewise(kind, free), [scores], ("n", 2, 5, 5))
    mixed = b.add(Contract(), [w, heads(v)], ("n", 2, 5, 2))
    back = b.add(Transpose((0, 2, 1, 3)), [mixed], ("n", 5, 2, 2))
    flat = b.add(Reshape((((2, 3), (2,)),), (None, 5, 4), ((0, 0), (1, 1))), [back], ("n", 5, 4))
    return b.model(b.dense(flat, "o", OUT, [1, 2])), name


def test_the_bias_of_values_goes_into_that_of_the_output():
    model, name = attention()
    _, after = carried(model, name)
    assert after.constants["o.b"].tolist() == (OUT @ BIAS + [1, 2]).tolist()


def test_it_stays_where_positions_differ_or_rows_may_not_sum_to_one():
    stays(*attention(positions=True, bias=np.arange(20.0).reshape(5, 4)))
    stays(*attention(positions=True))  # that all positions have the same numbers is not looked for
    stays(*attention(kind="sum of parts"))
    stays(*attention(over=2))
    stays(*attention(masked=True))


def test_a_mean_over_positions_lets_it_pass_and_a_function_does_not():
    for kind, passes in (("mean", True), ("max", False)):
        b = Builder("n", 5, 2)
        s = b.each("add", b.dense("x", "a", ROWS), b.constant("bias", BIAS))
        op = Slicewise(kind, ((0, 0), (2, 2)), linear=passes, keeps=True, hull=True)
        m = b.add(op, [s], ("n", 1, 4))
        model = b.model(b.dense(m, "c", OUT, [1, 2]))
        (carried if passes else stays)(model, s)
    for kind in ("relu", "abs"):
        b = Builder("n", 2)
        s = b.each("add", b.dense("x", "a", ROWS), b.constant("bias", BIAS))
        stays(b.model(b.dense(b.each(kind, s), "c", OUT, [1, 2])), s)


def test_several_readers_each_take_it_and_one_that_cannot_keeps_it():
    def model(*, output=False, padded=False, twice=False, scaled=False):
        b = Builder("n", 2)
        s = b.each("add", b.dense("x", "a", ROWS), b.constant("bias", BIAS))
        t = b.each("neg", b.each("sub", b.constant("zero", [0, 0, 0, 0]), s))
        y = b.dense(t, "c", OUT, [1, 2])
        inputs = [s, b.constant("d.w", OUT), b.constant("d.b", [0, 1])]
        z = b.add(Linear(1, 1, 1, 0, padded=padded, free=((0, 0),)), inputs, ("n", 2))
        ends = [y, z] + ([s] if output else [])
        if twice:
            ends.append(b.dense(b.each("add", s, t), "e", OUT, [1, 2]))
        if scaled:
            ends.append(b.dense(b.each("mul", s, b.constant("f", BIAS)), "e", OUT, [1, 2]))
        return b.model(*ends), s

    carried(*model())
    for wrong in ("output", "padded", "twice", "scaled"):
        stays(*model(**{wrong: True}))


def test_parts_take_their_parts():
    b = Builder("n", 2)
    s = b.each("add", b.dense("x", "a", ROWS), b.constant("bias", BIAS))
    first, second = (b.add(Take(1, index), [s], ("n", 2)) for index in ((2, 0), (1, 3)))
    model = b.model(
        b.dense(first, "c", OUT[:, :2], [1, 2]), b.dense(second, "d", OUT[:, 2:], [3, 4])
    )
    _, after = carried(model, s)
    assert after.constants["c.b"].tolist() == (OUT[:, :2] @ BIAS[[2, 0]] + [1, 2]).tolist()


def test_what_is_rounded_for_it_is_accounted_for():
    b = Builder("n", 2)
    s = b.each("add", b.dense("x", "a", ROWS), b.constant("bias", BIAS / 3))
    model = b.model(b.dense(s, "c", OUT / 7, [1, 2])).live()
    small, slack = played(model, [GraphMove("bypass", s)], {})
    assert slack != NO_SLACK
    assert slack.constant < 1e-6
    proof = GraphCertificate(model.digest, small.digest, ((GraphMove("bypass", s),),), {}, slack)
    proof.verify(small, model)
    x = {"x": np.array([[1.0, -2.0], [0.5, 8.0]])}
    (ours,), (theirs,) = run(small, x), run(model, x)
    assert 0 < np.abs(ours - theirs).max() <= slack.constant + 1e-15
