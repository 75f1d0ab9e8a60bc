"""Facts behind sums over an axis against values."""

from __future__ import annotations

import numpy as np

from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.operators import (
    Contract,
    Linear,
    Transpose,
)

from ...support.graph_facts import BIAS, ROWS, require_true
from ...support.graphs import Builder


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


def test_padded_and_sparse_reading_counts_zero_in():
    b = Builder("n", 2)
    x = b.each("clip", b.dense("x", "a", ROWS, BIAS), numbers=(1.0, 2.0))
    weight = b.constant("w", np.ones((1, 8)))
    for padded, uniform in ((True, True), (False, False)):
        op = Linear(1, 1, 1, 0, padded=padded, uniform=uniform, free=((0, 0),))
        y = b.add(op, (x, weight), ("n", 1))
        known = Known(b.model(y), {})
        assert known.of((y, 1)).low[0] <= 0
