"""Facts of a whole graph against values."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ...support.graph_facts import require_true
from ...support.graphs import Builder


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
