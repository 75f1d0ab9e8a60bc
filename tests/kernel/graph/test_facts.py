"""Facts about slices against values at many inputs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.functions import LAWS
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import (
    Concat,
    Contract,
    Linear,
    PerUnit,
    Reshape,
    Slicewise,
    Transpose,
)
from moduli.kernel.graph.slices import ONE

from ...support.graphs import FUNCTIONS, Builder, run

UNARY = sorted(
    set(LAWS)
    & set(FUNCTIONS) - {"leaky_relu", "clip", "hardsigmoid", "asin", "atanh", "sqrt", "tan"}
)
ROWS = np.array(
    [[1, 2], [2, 4], [-1, -2], [0, 0], [0, 0], [1, 2], [3, -1], [0.5, 1]], dtype=np.float32
)
BIAS = np.array([1, 2, -1, 0, -2, 1, 0, 0.5], dtype=np.float32)


def require_true(model, *, ranges=None, seed=0, size=40):
    """Every fact about every value of a model holds at random inputs."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name in model.inputs:
        shape = [7 if isinstance(n, str) else n for n in model.shapes[name]]
        low, high = (ranges or {}).get(name, (-size, size))
        feeds[name] = np.round((low + (high - low) * rng.random(shape)) * 8) / 8
    known = Known(model, ranges or {})
    every = tuple(node.output for node in model.nodes)
    values = run(GraphModel(model.inputs, every, model.nodes, model.shapes, model.constants), feeds)
    found = 0
    for name, value in zip(every, values, strict=True):
        for axis, n in enumerate(model.shapes[name]):
            if isinstance(n, int):
                found += _require(known.of((name, axis)), np.moveaxis(value, axis, 0), (name, axis))
    return found


def _require(facts, slices, where):
    first, found = {}, 0
    for i, part in enumerate(slices):
        scale = 1e-9 * (1 + np.abs(part).max())
        assert facts.low[i] <= part.min() + scale, where
        assert part.max() <= facts.high[i] + scale, where
        ratio = float(facts.ratios[i])
        if facts.classes[i] == ONE or ratio == 0:
            assert np.allclose(part, ratio, atol=scale), where
            found += 1
        elif int(facts.classes[i]) in first:
            other, r = first[int(facts.classes[i])]
            assert np.allclose(part * r, other * ratio, rtol=1e-9, atol=scale * (1 + abs(r))), where
            found += 1
        else:
            first[int(facts.classes[i])] = part, ratio
    return found


@pytest.mark.parametrize("kind", UNARY)
def test_functions_of_rows_that_are_multiples(kind):
    b = Builder("n", 2)
    model = b.model(b.each(kind, b.dense("x", "a", ROWS / 8, BIAS / 8)))
    assert require_true(model, size=4) >= 4


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [("leaky_relu", (0.25,)), ("clip", (0.0, 6.0)), ("hardsigmoid", (0.25, 0.5))],
)
def test_functions_with_numbers(kind, numbers):
    b = Builder("n", 2)
    model = b.model(b.each(kind, b.dense("x", "a", ROWS, BIAS), numbers=numbers))
    assert require_true(model) >= 3


@pytest.mark.parametrize("kind", ["add", "sub", "mul", "div", "max", "min", "pow", "prelu"])
@pytest.mark.parametrize("second", ["same", "constant", "number", "other", "one for all"])
def test_functions_of_two_operands(kind, second):
    b = Builder("n", 2)
    x = b.dense("x", "a", ROWS, BIAS)
    y = {
        "same": lambda: x,
        "constant": lambda: b.constant("c", [1, 2, 1, 0.5, 3, 1, 2, 2]),
        "number": lambda: b.constant("c", 2.0),
        "other": lambda: b.dense("x", "e", ROWS[::-1], BIAS[::-1]),
        "one for all": lambda: b.dense("x", "e", ROWS[:1], BIAS[:1]),
    }[second]()
    if kind in ("div", "pow") and second not in ("constant", "number"):
        y = b.each("exp", b.each("clip", y, numbers=(-2.0, 2.0)))
        x = b.each("abs", x)
    require_true(b.model(b.each(kind, x, y)), size=4)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0]), min_size=32, max_size=32))
def test_batch_norms_of_equal_and_constant_channels(numbers):
    b = Builder("n", 2)
    x = b.dense("x", "a", ROWS, BIAS)
    g, s, m, v = (np.array(numbers[k::4]) for k in range(4))
    names = [b.constant(n, a) for n, a in zip("gsmv", (g, s, m, np.abs(v)), strict=True)]
    y = b.add(PerUnit("batchnorm", 1, (0.25,)), (x, *names), ("n", 8))
    require_true(b.model(b.each("relu", y)))


@pytest.mark.parametrize(
    ("kind", "laws"),
    [
        ("mean", {"linear": True, "keeps": True, "zero": True, "hull": True}),
        ("sum", {"linear": True, "zero": True}),
        ("max", {"homogeneous": True, "keeps": True, "zero": True, "hull": True}),
        ("softmax", {}),
    ],
)
def test_functions_of_slices(kind, laws):
    b = Builder("n", 3, 2)
    x = b.add(Transpose((0, 2, 1)), (b.dense("x", "a", ROWS, BIAS),), ("n", 8, 3))
    size = 3 if kind == "softmax" else 1
    y = b.add(Slicewise(kind, ((0, 0), (1, 1)), **laws), (x,), ("n", 8, size))
    assert require_true(b.model(y)) >= 3


def test_concatenations_along_and_across():
    b = Builder("n", 2)
    parts = (b.dense("x", "a", ROWS, BIAS), b.dense("x", "c", ROWS, BIAS * 2))
    along = b.add(Concat(1), parts, ("n", 16))
    wide = [b.add(Reshape((), (None, 1, 8), ((0, 0), (1, 2))), (p,), ("n", 1, 8)) for p in parts]
    across = b.add(Concat(1), wide, ("n", 2, 8))
    model = b.model(along, across)
    require_true(model)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
def test_reshapes_split_and_join(order):
    b = Builder("n", 4, 2)
    x = b.add(
        Transpose(order),
        (b.dense("x", "a", ROWS, BIAS),),
        ("n", 4, 8) if order[1] == 1 else ("n", 8, 4),
    )
    flat = b.add(Reshape((((1, 2), (1,)),), (None, 32), ((0, 0),)), (x,), ("n", 32))
    back = b.add(Reshape((((1,), (1, 2, 3)),), (None, 4, 4, 2), ((0, 0),)), (flat,), ("n", 4, 4, 2))
    assert require_true(b.model(back)) >= 20


def test_products_of_two_tensors():
    b = Builder("n", 4, 2)
    x = b.dense("x", "a", ROWS, BIAS)
    y = b.add(Transpose((0, 2, 1)), (b.dense("x", "c", ROWS, BIAS),), ("n", 8, 4))
    assert require_true(b.model(b.add(Contract(), (y, x), ("n", 8, 8)))) >= 6


def test_bounds_of_sums_are_outward_and_zero_is_exact():
    b = Builder("n", 2)
    inner = b.each("relu", b.dense("x", "a", ROWS, BIAS))
    rows = np.array([[-1, -2, -1, -3, -1, -1, -1, -1], [1, 2, 3, 4, 5, 6, 7, 8]], dtype=np.float32)
    y = b.dense(inner, "d", rows, [0.0, 0.25])
    known = Known(b.model(b.each("relu", y)), {})
    assert known.of((y, 1)).high[0] == 0.0
    assert known.of((b.nodes[-1].output, 1)).constant(0) == 0
    assert known.of((y, 1)).low[1] <= 0.25
    assert not np.isfinite(known.of((y, 1)).high[1])


@given(st.integers(0, 10**6))
def test_bounds_on_a_box_hold(seed):
    rng = np.random.default_rng(seed)
    b = Builder("n", 3)
    x = b.each("relu", b.dense("x", "a", rng.normal(size=(5, 3)), rng.normal(size=5)))
    y = b.each(
        "clip", b.dense(x, "c", rng.normal(size=(4, 5)), rng.normal(size=4)), numbers=(-1.0, 1.0)
    )
    ranges = {"x": (np.array([-0.5, 0.0, 0.25]), np.array([0.5, 2.0, 0.25]))}
    require_true(b.model(b.dense(y, "d", rng.normal(size=(2, 4)))), ranges=ranges, seed=seed)


def test_padded_and_sparse_reading_counts_zero_in():
    b = Builder("n", 2)
    x = b.each("clip", b.dense("x", "a", ROWS, BIAS), numbers=(1.0, 2.0))
    weight = b.constant("w", np.ones((1, 8)))
    for padded, uniform in ((True, True), (False, False)):
        op = Linear(1, 1, 1, 0, padded=padded, uniform=uniform, free=((0, 0),))
        y = b.add(op, (x, weight), ("n", 1))
        known = Known(b.model(y), {})
        assert known.of((y, 1)).low[0] <= 0


def test_of_large_rationals_the_float_ends_enclose():
    from moduli.kernel.graph.slices import Classes

    third = Fraction(1, 3)
    found = Classes().made(1, np.array([-np.inf]), np.array([np.inf]), {0: (ONE, third)})
    assert Fraction(found.low[0]) <= third <= Fraction(found.high[0])
    assert found.low[0] < found.high[0]
