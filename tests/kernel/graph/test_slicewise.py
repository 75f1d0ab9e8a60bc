"""Facts behind functions of slices against values."""

from __future__ import annotations

import pytest

from moduli.kernel.graph.operators import (
    Slicewise,
    Transpose,
)

from ...support.graph_facts import BIAS, ROWS, require_true
from ...support.graphs import Builder


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
