"""Slices with the same entries in another order, some of their entries, or repeated ones are other
tensors: their difference is not zero, and their sum is no multiple.
"""

from __future__ import annotations

import numpy as np
import pytest

from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.operators import Broadcast, Concat, Reshape, Take, Transpose
from moduli.kernel.graph.slices import ONE

from ...support.graph_facts import BIAS, ROWS, require_true
from ...support.graphs import Builder, run

WEIGHT = np.array([[1, 2, 3], [2, 4, 6], [1, 0, 0], [0, 0, 0]], dtype=np.float32)


def turned(b, h):
    return h, b.add(Transpose((0, 2, 1, 3)), (h,), ("n", 5, 5, 4))


def parts(b, h):
    return tuple(b.add(Take(2, index), (h,), ("n", 5, 2, 4)) for index in ((0, 1), (3, 4)))


def chosen(b, h):
    return tuple(b.add(Take(1, (k,), True), (h,), ("n", 5, 4)) for k in (0, 1))


def repeated(b, h):
    rows = b.add(Take(1, (0,)), (h,), ("n", 1, 5, 4))
    columns = b.add(Take(2, (0,)), (h,), ("n", 5, 1, 4))
    return rows, columns


def pairs(b, h):
    flat = b.add(Take(1, (0,), True), (h,), ("n", 5, 4))
    op = Reshape((((1, 2), (1, 2, 3)),), (None, 1, 5, 4), ((0, 0),))
    first = b.add(op, (flat,), ("n", 1, 5, 4))
    op = Reshape((((1, 2), (1, 2, 3)),), (None, 5, 1, 4), ((0, 0),))
    return first, b.add(op, (flat,), ("n", 5, 1, 4))


def free_pairs(b, h):
    flat = b.add(Take(1, (0,), True), (h,), ("n", 5, 4))
    first = b.add(
        Reshape((((1,), (1, 2)),), (None, 1, 5, 4), ((0, 0), (2, 3))), (flat,), ("n", 1, 5, 4)
    )
    return first, b.add(
        Reshape((((1,), (1, 2)),), (None, 5, 1, 4), ((0, 0), (2, 3))), (flat,), ("n", 5, 1, 4)
    )


def spread(b, h):
    found = []
    for x in repeated(b, h):
        found.append(b.add(Broadcast((None, 5, 5, 4)), (x,), ("n", 5, 5, 4)))
    return tuple(found)


@pytest.mark.parametrize("kind", ["sub", "add", "max"])
@pytest.mark.parametrize("apart", [turned, parts, chosen, repeated, pairs, free_pairs, spread])
def test_other_arrangements_are_other_tensors(kind, apart):
    b = Builder("n", 5, 5, 3)
    h = b.dense("x", "a", WEIGHT)
    y = b.each(kind, *apart(b, h))
    model = b.model(y)
    last = len(model.shapes[y]) - 1
    facts = Known(model, {}).of((y, last))
    x = np.random.default_rng(0).standard_normal((1, 5, 5, 3))
    (value,) = run(model, {"x": x})
    for i in range(4):
        slice_ = value[..., i]
        if facts.classes[i] == ONE or facts.ratios[i] == 0:
            assert np.allclose(slice_, float(facts.ratios[i])), (i, facts)
    # what was done to all slices alike leaves multiples
    assert facts.classes[0] == facts.classes[1] or kind == "max"
    assert facts.ratios[3] == 0
    # a sum of two arrangements is a multiple of neither
    (once,) = run(b.model(h), {"x": x})
    known = Known(b.model(y, h), {})
    whole, half = known.of((y, last)), known.of((h, 3))
    if kind == "add" and value.shape == once.shape:
        assert whole.classes[0] != half.classes[0]


def test_the_same_arrangement_twice_is_the_same_tensor():
    b = Builder("n", 5, 5, 3)
    h = b.dense("x", "a", WEIGHT)
    first, second = (b.add(Transpose((0, 2, 1, 3)), (h,), ("n", 5, 5, 4)) for _ in range(2))
    model = b.model(b.each("sub", first, second))
    facts = Known(model, {}).of((model.outputs[0], 3))
    assert [int(r) for r in facts.ratios] == [0, 0, 0, 0]


def test_an_axis_that_moves_past_the_others_leaves_slices_as_they_are():
    b = Builder("n", 5, 5, 3)
    h = b.dense("x", "a", WEIGHT)
    moved = b.add(Transpose((0, 3, 1, 2)), (h,), ("n", 4, 5, 5))
    model = b.model(h, moved)
    known = Known(model, {})
    np.testing.assert_array_equal(known.of((h, 3)).classes, known.of((moved, 1)).classes)


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
