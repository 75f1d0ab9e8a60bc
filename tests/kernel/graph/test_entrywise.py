"""Facts behind functions of single entries, and batch norms, against values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moduli.kernel.graph.functions import LAWS
from moduli.kernel.graph.operators import (
    PerUnit,
)

from ...support.graph_facts import BIAS, ROWS, require_true
from ...support.graphs import FUNCTIONS, OF_INTEGERS, Builder

UNARY = sorted(
    set(LAWS)
    & set(FUNCTIONS)
    - {"leaky_relu", "clip", "hardsigmoid", "asin", "atanh", "sqrt", "tan"}
    - set(OF_INTEGERS)
)


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
