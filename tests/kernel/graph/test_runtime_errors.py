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


# Each of these was once bounded by less than what a runtime did ------------------------------------------------


def upper(model, dtype, low, high):
    return RuntimeErrors(model, Runtime(dtype), {"x": (np.asarray(low), np.asarray(high))}).upper


def times(w, c):
    b = Builder("n", 1)
    return b.model(b.each("mul", b.dense("x", "w", [[w]]), b.constant("c", [c])))


def test_factors_that_are_multiplied_together_may_be_too_large_or_flushed():
    assert upper(times(1e30, 1e20), "float32", 0.0, 1e-20) == np.inf
    assert upper(times(300.0, 300.0), "float16", 0.0, 0.1) == np.inf
    assert upper(times(1.1e-30, 1.3e-12), "float32", 0.0, 1e30) > 6.8e-16
    assert upper(times(3.0, 3.0), "float16", 0.0, 0.1) < 3e-2


def test_two_numbers_behind_or_around_a_product_may_be_one():
    def model(first, second, weight, before=False):
        b = Builder("n", 1)
        h = b.each("mul", "x", b.constant("c", [first])) if before else "x"
        h = b.dense(h, "w", [[weight]])
        h = h if before else b.each("mul", h, b.constant("c", [first]))
        return b.model(b.each("mul", h, b.constant("d", [second])))

    for before in (False, True):
        assert upper(model(1e30, 1e30, 1e-30, before), "float32", 0.0, 1e-30) == np.inf
        assert upper(model(300.0, 300.0, 1e-3, before), "float16", 0.0, 0.1) == np.inf
        assert upper(model(0.5, 0.25, 1.0, before), "float32", 0.0, 1.0) < 1e-6
    tiny = model(1e-22, 1e-22, 1e18)
    assert upper(tiny, "float32", 0.0, 1e18) > 3.7e-10


def test_a_scale_before_a_product_may_be_behind_it():
    def model(c, w):
        b = Builder("n", 1)
        return b.model(b.dense(b.each("mul", "x", b.constant("c", [c])), "w", [[w]]))

    assert upper(model(1e-30, 1e20), "float32", 0.0, 1e30) == np.inf
    assert upper(model(0.5, 2.0), "float32", 0.0, 1.0) < 1e-5
    b = Builder("n", 2, 2)
    h = b.each("mul", "x", b.constant("c", [1e30]))
    tiny = b.each("mul", "x", b.constant("d", [1e10]))
    product = b.add(Contract(), [h, tiny], ("n", 2, 2))
    assert upper(b.model(product), "float32", 0.0, 1e-30) > 2e-20


def test_integers_wider_than_the_format_are_rounded():
    b = Builder("n", 2)
    model = b.model(b.each("uint16", "x"))
    assert upper(model, "float16", 0.0, 60000.0) >= 16
    assert upper(model, "bfloat16", 0.0, 60000.0) >= 128
    assert upper(b.model(b.each("uint8", "x")), "bfloat16", 0.0, 255.0) < 1e-30


def test_what_is_read_may_be_flushed_where_a_function_is_steep():
    def one(kind, *numbers):
        b = Builder("n", 1)
        return b.model(b.each(kind, "x", numbers=numbers))

    assert upper(one("sqrt"), "float16", 0.0, 1.0) > 0.0078
    assert upper(one("sqrt"), "float16", 0.5, 1.0) < 0.003
    assert upper(one("sqrt"), "float32", -1.0, 1.0) == np.inf  # no number
    assert upper(one("leaky_relu", 100.0), "float16", -0.01, 0.0) > 0.0061
    b = Builder("n", 2)
    quotient = b.each("div", "x", b.each("add", "x", b.constant("o", [1.0])))
    assert upper(b.model(quotient), "float16", 0.0, 1.0) < 0.1
    b = Builder("n", 1)
    small = b.each("div", "x", b.constant("d", [2.0**-130]))
    assert upper(b.model(small), "float32", 0.0, 1e-12) == np.inf


def test_norms_of_numbers_that_overflow_or_are_flushed():
    def norm(scale, shift, mean, variance, epsilon=1e-5):
        b = Builder("n", 1)
        parts = [
            b.constant(k, [v]) for k, v in zip("gbmv", (scale, shift, mean, variance), strict=True)
        ]
        return b.model(b.add(PerUnit("batchnorm", 1, (epsilon,)), ["x", *parts], ("n", 1)))

    assert upper(norm(1e-3, 0.0, -4e4, 1.0), "float16", 3e4, 4e4) == np.inf
    assert upper(norm(1.0, 0.0, 0.0, 1e-4), "float16", 0.0, 10.0) > 4.6
    assert upper(norm(2.0**-14, 0.0, 0.0, 2.0**8), "float16", 0.0, 1000.0) > 0.0038
    assert upper(norm(1.0, 0.0, 0.0, 1.0), "float16", 0.0, 1.0) < 0.05
    b = Builder("n", 2)
    layer = Slicewise("LayerNormalization", ((0, 0),), normalises=1e-5)
    assert upper(b.model(b.add(layer, ["x"], ("n", 2))), "float16", -0.005, 0.005) == np.inf


def test_sums_of_sums_are_one_sum():
    b, rng = Builder("n", 200), np.random.default_rng(0)
    total = b.dense("x", "a0", rng.random((1, 200)))
    single = upper(b.model(total), "float32", 0.0, 1.0)
    for k in range(1, 4):
        total = b.each("add", total, b.dense("x", f"a{k}", rng.random((1, 200))))
    assert upper(b.model(total), "float32", 0.0, 1.0) > 12 * single


def test_nothing_is_bounded_behind_what_may_overflow():
    b = Builder("n", 1)
    h = b.dense("x", "a", [[6e4]])
    model = b.model(b.each("clip", b.each("sub", b.each("add", h, h), h), numbers=(-1.0, 1.0)))
    assert upper(model, "float16", 1.0, 1.0) == np.inf


def test_products_of_integers_and_scales_are_rounded_on_their_own():
    """As a scale that is rounded first, and then the product."""
    from quantised import Writer

    from moduli.formats import load_as_written
    from moduli.kernel.graph.chains import start_of

    w = Writer((1,))
    w.arrays.update(q=np.array([[116]], dtype=np.int8), s=np.float32(1.12886572))
    w.emit("DequantizeLinear", ["q", "s"], "w")
    w.emit("MatMul", ["x", "w"], "y")
    model = load_as_written(w.model("y", 1)).model
    assert start_of(model) is None
    nearest = FORMATS["bfloat16"].nearest
    x = 1.9921875
    scale = nearest(np.array(1.12886572))
    computed = nearest(np.asarray(nearest(np.asarray(116.0 * scale)) * x))
    true = 116.0 * float(np.float32(1.12886572)) * x
    assert abs(float(computed) - true) <= upper(model, "bfloat16", x, x) < np.inf
    w.arrays["s"] = np.float32(2.0**-15)
    flushed = load_as_written(w.model("y", 1)).model
    assert upper(flushed, "float16", 0.0, 1.0) == np.inf
