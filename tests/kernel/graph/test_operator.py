"""What nobody understands, and what reads sizes, fixes all it touches and nothing else."""

from __future__ import annotations

import numpy as np

from moduli.kernel.graph.axes import units_from
from moduli.kernel.graph.operators import Node, Opaque, Size

from ...support.graphs import Builder


def attached(op):
    b = Builder("n", 3, 2)
    h = b.dense("x", "a", np.ones((4, 2)))
    b.nodes.append(Node(op, (h,), ("z",), "z"))
    b.shapes["z"] = None
    return b.model(b.dense(h, "c", np.ones((1, 4))), "z")


def test_an_opaque_operator_fixes_every_axis():
    found = units_from(attached(Opaque("Mystery")), ("a.w", 0))
    assert found.count == 0
    assert "Mystery" in found.why[0]


def test_a_size_that_is_read_fixes_its_axis_alone():
    assert units_from(attached(Size(((0, 2),))), ("a.w", 0)).count == 0
    assert units_from(attached(Size(((0, 1),))), ("a.w", 0)).count == 4


def test_opaque_operators_are_told_apart_by_what_a_file_says_of_them():
    assert attached(Opaque("A", "1")).digest != attached(Opaque("A", "2")).digest
    assert attached(Opaque("A", "1")).digest == attached(Opaque("A", "1")).digest
