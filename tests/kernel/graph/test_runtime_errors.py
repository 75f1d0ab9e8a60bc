"""Bounds of rounding in graphs, against runs that round after each node, add in narrow numbers, or put
sums and what follows them together.
"""

from __future__ import annotations

import numpy as np
import pytest

import moduli as mo
from moduli.kernel.graph.operators import Contract, Opaque, PerUnit, Slicewise, Take
from moduli.kernel.graph.runtime_errors import RuntimeErrors
from moduli.kernel.runtime import FORMATS, Runtime

from ...support.graphs import Builder, run, step

KINDS = (
    "relu", "tanh", "sigmoid", "erf", "silu", "gelu", "mish", "hardswish", "softplus", "abs", "sin",
    "neg",
)  # fmt: skip
MEAN = dict(linear=True, keeps=True, zero=True, hull=True)


def weights(rng, *shape):
    return rng.standard_normal(shape) / np.sqrt(shape[-1])


def normalised(b, rng, x, name, axis=1):
    n = b.shapes[x][axis]
    numbers = (
        rng.standard_normal(n), rng.standard_normal(n), rng.standard_normal(n), rng.random(n) + 0.1,
    )  # fmt: skip
    parts = [b.constant(f"{name}{k}", part) for k, part in enumerate(numbers)]
    return b.add(PerUnit("batchnorm", axis, (1e-5,)), [x, *parts], b.shapes[x])


def whole(b, name, axes=(0,), kind="softmax", **laws):
    free = tuple((a, a) for a in axes)
    return b.add(Slicewise(kind, free, **laws), [name], b.shapes[name])


def dense(rng, kind):
    b = Builder("n", 4)
    h = b.each(kind, b.dense("x", "a", weights(rng, 6, 4), weights(rng, 6)))
    return b.model(b.dense(h, "c", weights(rng, 3, 6), weights(rng, 3)))


def residual(rng, kind):
    b = Builder("n", 4)
    h = b.each(kind, normalised(b, rng, b.dense("x", "a", weights(rng, 4, 4)), "m"))
    h = b.each("add", b.dense(h, "c", weights(rng, 4, 4), weights(rng, 4)), "x")
    return b.model(whole(b, b.dense(b.each("relu", h), "d", weights(rng, 3, 4))))


def scaled(rng, kind):
    b = Builder("n", 4)
    h = b.dense("x", "a", weights(rng, 5, 4), weights(rng, 5))
    h = b.each("mul", h, b.constant("s", rng.standard_normal(5)))
    h = b.each("sub", h, b.constant("t", rng.standard_normal(5)))
    h = b.each("div", h, b.constant("d", rng.random(5) + 0.3))
    return b.model(b.each(kind, h))


def gated(rng, kind):
    b = Builder("n", 4)
    h = b.dense("x", "a", weights(rng, 5, 4))
    g = b.each("sigmoid", b.dense("x", "g", weights(rng, 5, 4), weights(rng, 5)))
    product = b.each("mul", b.each(kind, h), g)
    below = b.each("add", b.each("abs", h), b.constant("one", [1.0]))
    return b.model(b.each("div", product, below))


def attention(rng, kind):
    b = Builder("n", 3, 4)
    q, k, v = (b.dense("x", name, weights(rng, 4, 4)) for name in "qkv")
    turned = b.add(mo_transpose(), [k], ("n", 4, 3))
    scores = b.add(Contract(), [q, turned], ("n", 3, 3))
    p = whole(b, scores, axes=(0, 1))
    return b.model(b.each(kind, b.add(Contract(), [p, v], ("n", 3, 4))))


def mo_transpose():
    from moduli.kernel.graph.operators import Transpose

    return Transpose((0, 2, 1))


def pooled(rng, kind):
    b = Builder("n", 4, 3)
    h = b.each(kind, "x")
    free = ((0, 0), (1, 1))
    h = b.add(Slicewise("mean", free, (), **MEAN), [h], ("n", 4, 1))
    h = b.add(Take(2, (0,), True), [h], ("n", 4))
    return b.model(b.dense(h, "d", weights(rng, 2, 4), weights(rng, 2)))


MODELS = (dense, residual, scaled, gated, attention, pooled)


def rounded_run(model, feeds, nearest, rng, narrow):
    """Values in float64, rounded after each node; sums in narrow numbers, one after another."""
    values = {name: nearest(np.asarray(a, dtype=np.float64)) for name, a in model.constants.items()}
    values.update(feeds)
    for node in model.nodes:
        x = [values[name] for name in node.inputs]
        if narrow and type(node.op).__name__ == "Linear":
            made = np.zeros((*x[0].shape[:-1], len(x[1])))
            if len(x) > 2 and rng.random() < 0.5:
                made, x = made + x[2], x[:2]
            for i in rng.permutation(x[0].shape[-1]):
                made = nearest(made + nearest(x[0][..., i, None] * x[1][:, i]))
            values[node.output] = nearest(made + x[2]) if len(x) > 2 else made
            continue
        values[node.output] = nearest(step(node.op, x, node, model))
    return [values[name] for name in model.outputs]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__)
def test_no_run_is_further_off(make, dtype):
    rng, nearest, tight = np.random.default_rng(len(dtype)), FORMATS[dtype].nearest, 0.0
    for kind in KINDS:
        model = make(rng, kind)
        reach = float(rng.choice([0.2, 1.0]))
        ranges = {"x": (np.asarray(-reach), np.asarray(reach))}
        bound = RuntimeErrors(model, Runtime(dtype), ranges).upper
        shape = (64, *model.shapes["x"][1:])
        x = nearest(np.clip(nearest(reach * rng.uniform(-1, 1, shape)), -reach, reach))
        x = np.where(np.abs(x) > reach, 0.0, x)
        true = run(model, {"x": x})
        for narrow in (False, True):
            got = rounded_run(model, {"x": x}, nearest, rng, narrow)
            seen = max(float(np.abs(a - b).max()) for a, b in zip(got, true, strict=True))
            assert seen <= bound, (kind, seen, bound)
            tight = max(tight, seen / bound)
    assert tight > 1e-3


def test_a_norm_folded_into_the_sum_before_it():
    """Runtimes multiply scales into weights, and round them again."""
    rng, nearest = np.random.default_rng(0), FORMATS["float16"].nearest
    for _ in range(30):
        b = Builder("n", 8)
        weight, bias = nearest(rng.standard_normal((6, 8)) * 8), nearest(rng.standard_normal(6))
        model = b.model(normalised(b, rng, b.dense("x", "a", weight, bias), "m"))
        constants = {name: nearest(array.astype(np.float64)) for name, array in b.constants.items()}
        scale, shift, mean, variance = (constants[f"m{k}"] for k in range(4))
        factor = nearest(scale / nearest(np.sqrt(nearest(variance + 1e-5))))
        folded = nearest(constants["a.w"] * factor[:, None])
        moved = nearest(nearest(nearest(bias - mean) * factor) + shift)
        x = nearest(rng.uniform(-1, 1, (50, 8)))
        got = np.zeros((50, 6))
        for i in range(8):
            got = nearest(got + nearest(x[:, i, None] * folded[:, i]))
        got = nearest(got + moved)
        true = run(model, {"x": x})[0]
        ranges = {"x": (np.asarray(-1.0), np.asarray(1.0))}
        assert np.abs(got - true).max() <= RuntimeErrors(model, Runtime("float16"), ranges).upper


def test_stops_are_named():
    b = Builder("n", 3)
    h = b.add(Opaque("Custom"), [b.dense("x", "a", np.eye(3))], ("n", 3), "what")
    found = RuntimeErrors(b.model(b.each("relu", h)), Runtime("float32"), BOX)
    assert found.upper == np.inf
    assert found.stopped == ("what", "no bound of its rounding is known")
    b = Builder("n", 3)
    model = b.model(b.dense(b.dense("x", "a", np.full((3, 3), 300.0)), "c", np.full((1, 3), 100.0)))
    assert RuntimeErrors(model, Runtime("float32"), BOX).upper < 1
    beyond = RuntimeErrors(model, Runtime("float16"), BOX)
    assert beyond.upper == np.inf
    assert beyond.stopped == ("t1", "it may exceed the largest number of float16")


BOX = {"x": (np.asarray(-1.0), np.asarray(1.0))}


def test_partial_sums_may_overflow_where_the_whole_does_not():
    b = Builder("n", 2)
    model = b.model(b.each("clip", b.dense("x", "a", [[5e4, -5e4]]), numbers=(-1.0, 1.0)))
    narrow = {"x": (np.asarray(1.0), np.asarray(1.0))}
    assert RuntimeErrors(model, Runtime("float16"), narrow).upper == np.inf
    assert RuntimeErrors(model, Runtime("bfloat16"), narrow).upper < 2.01


def test_integers_are_exact():
    b = Builder("n", 4)
    model = b.model(b.each("add", b.each("neg", "x"), "x"))
    found = RuntimeErrors(model, Runtime("float16"), BOX, integers=("x",))
    assert found.upper == 0.0
    assert RuntimeErrors(model, Runtime("float16"), BOX).upper > 0.0


def test_bounds_that_hold_for_other_reasons():
    rng = np.random.default_rng(0)
    model = dense(rng, "relu")
    free = RuntimeErrors(model, Runtime("float32"), BOX)
    near = RuntimeErrors(model, Runtime("float32"), BOX, near={"t0": 0.0})
    assert near.upper < free.upper


def test_a_number_that_the_format_does_not_have():
    b = Builder("n", 1)
    model = b.model(b.dense("x", "a", [[1e6]]))
    with pytest.raises(mo.Undecided, match=r"'a\.w'"):
        RuntimeErrors(model, Runtime("float16"), BOX)
