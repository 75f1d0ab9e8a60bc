"""What stands or falls together, on graphs small enough to see it."""

from __future__ import annotations

import numpy as np

from moduli.kernel.graph.axes import units_from
from moduli.kernel.graph.operators import (
    Concat,
    Contract,
    Linear,
    Node,
    Opaque,
    Reshape,
    Size,
    Slicewise,
    Take,
    Transpose,
)

from ...support.graphs import Builder


def labels(model, *seed):
    found = units_from(model, seed)
    return {place: found.places[place].tolist() for place in found.places}


def test_a_dense_layer_has_one_unit_for_each_row_and_column():
    b = Builder("n", 2)
    h = b.each("tanh", b.dense("x", "a", np.ones((3, 2)), np.ones(3)))
    model = b.model(b.dense(h, "c", np.ones((2, 3))))
    found = labels(model, "a.w", 0)
    for place in (("a.w", 0), ("a.b", 0), (h, 1), ("c.w", 1)):
        assert found[place] == [1, 2, 3]
    assert ("c.w", 0) not in found
    assert ("x", 1) not in found


def test_outputs_and_inputs_are_fixed():
    b = Builder("n", 2)
    model = b.model(b.dense("x", "a", np.ones((3, 2))))
    assert labels(model, "a.w", 0)["a.w", 0] == [0, 0, 0]
    assert labels(model, "a.w", 1)["a.w", 1] == [0, 0]
    assert "output" in units_from(model, ("a.w", 0)).why[0]


def test_a_sum_makes_one_axis_of_its_parts():
    b = Builder("n", 2)
    left, right = b.dense("x", "a", np.ones((3, 2))), b.dense("x", "c", np.ones((3, 2)))
    model = b.model(b.dense(b.each("add", left, right), "d", np.ones((1, 3))))
    found = labels(model, "a.w", 0)
    assert found["a.w", 0] == found["c.w", 0] == found["d.w", 1] == [1, 2, 3]


def test_what_is_broadcast_to_all_units_is_not_one_of_them():
    b = Builder("n", 2)
    wide, one = b.dense("x", "a", np.ones((3, 2))), b.dense("x", "c", np.ones((1, 2)))
    model = b.model(b.dense(b.each("mul", wide, one), "d", np.ones((1, 3))))
    found = labels(model, "a.w", 0)
    assert found["a.w", 0] == [1, 2, 3]
    assert ("c.w", 0) not in found


def test_sizes_that_may_differ_are_fixed():
    b = Builder("n", "m")
    left = b.dense("x", "a", np.ones((3, 2)))
    b.shapes["y"] = ("n", "k")
    b.inputs.append("y")
    both = b.each("add", left, "y")
    b.shapes[both] = ("n", 3)
    model = b.model(b.dense(both, "d", np.ones((1, 3))))
    assert labels(model, "a.w", 0)["a.w", 0] == [0, 0, 0]


def test_parts_of_a_concatenation_keep_their_units():
    b = Builder("n", 2)
    left, right = b.dense("x", "a", np.ones((2, 2))), b.dense("x", "c", np.ones((3, 2)))
    both = b.add(Concat(1), (left, right), ("n", 5))
    model = b.model(b.dense(both, "d", np.ones((1, 5))))
    found = labels(model, "a.w", 0)
    assert found["a.w", 0] == [1, 2]
    assert found["d.w", 1][:2] == [1, 2]
    assert set(found["d.w", 1][2:]).isdisjoint([0, 1, 2])


def test_halves_that_are_multiplied_go_together():
    b = Builder("n", 2)
    whole = b.dense("x", "a", np.ones((6, 2)))
    halves = [b.add(Take(1, index), (whole,), ("n", 3)) for index in ((0, 1, 2), (3, 4, 5))]
    model = b.model(b.dense(b.each("mul", *halves), "d", np.ones((1, 3))))
    assert labels(model, "a.w", 0)["a.w", 0] == [1, 2, 3, 1, 2, 3]


def test_a_flattened_unit_is_a_block_of_columns():
    b = Builder("n", 2, 4)
    h = b.add(
        Linear(1, 1, 1, 0, free=((0, 0), (2, 2))),
        ("x", b.constant("a.w", np.ones((3, 2)))),
        ("n", 3, 4),
    )
    flat = b.add(Reshape((((1, 2), (1,)),), (None, 12), ((0, 0),)), (h,), ("n", 12))
    model = b.model(b.dense(flat, "d", np.ones((1, 12))))
    assert labels(model, "a.w", 0)["d.w", 1] == np.repeat([1, 2, 3], 4).tolist()


def attention():
    """Three heads of two coordinates; a mean over positions at the end."""
    b = Builder("n", 4, 5)
    parts = []
    for name in "qkv":
        rows = b.dense("x", name, np.ones((6, 5)))
        split = b.add(
            Reshape((((2,), (2, 3)),), (None, 4, 3, 2), ((0, 0), (1, 1))), (rows,), ("n", 4, 3, 2)
        )
        order, shape = (
            ((0, 2, 3, 1), ("n", 3, 2, 4)) if name == "k" else ((0, 2, 1, 3), ("n", 3, 4, 2))
        )
        parts.append(b.add(Transpose(order), (split,), shape, f"{name}.heads"))
    scores = b.add(Contract(), parts[:2], ("n", 3, 4, 4))
    weights = b.add(Slicewise("softmax", ((0, 0), (1, 1), (2, 2))), (scores,), ("n", 3, 4, 4))
    mixed = b.add(Contract(), (weights, parts[2]), ("n", 3, 4, 2))
    back = b.add(Transpose((0, 2, 1, 3)), (mixed,), ("n", 4, 3, 2))
    flat = b.add(Reshape((((2, 3), (2,)),), (None, 4, 6), ((0, 0), (1, 1))), (back,), ("n", 4, 6))
    return b.model(b.dense(flat, "o", np.ones((5, 6))))


def test_heads_are_blocks_and_coordinates_repeat():
    model = attention()
    heads = labels(model, "v.w", 0)
    assert (
        heads["v.w", 0]
        == heads["q.w", 0]
        == heads["k.w", 0]
        == heads["o.w", 1]
        == [1, 1, 2, 2, 3, 3]
    )
    values = labels(model, "v.heads", 3)
    assert values["v.w", 0] == values["o.w", 1] == [1, 2, 1, 2, 1, 2]
    assert ("q.w", 0) not in values
    keys = labels(model, "q.heads", 3)
    assert keys["q.w", 0] == keys["k.w", 0] == [1, 2, 1, 2, 1, 2]
    assert ("v.w", 0) not in keys


def test_groups_are_whole_or_lose_the_same_index_each():
    b = Builder("n", 2)
    h = b.dense("x", "a", np.ones((6, 2)))
    op = Linear(1, 1, 1, 0, groups=3, free=((0, 0),))
    y = b.add(op, (h, b.constant("g.w", np.ones((9, 2)))), ("n", 9))
    model = b.model(b.dense(y, "d", np.ones((1, 9))))
    found = labels(model, "a.w", 0)
    assert found["a.w", 0] == [1, 1, 2, 2, 3, 3]
    assert found["g.w", 0] == found["d.w", 1] == np.repeat([1, 2, 3], 3).tolist()
    inner = labels(model, "g.w", 1)
    assert inner["g.w", 1] == [1, 2]
    assert inner["a.w", 0] == [1, 2, 1, 2, 1, 2]
    assert ("d.w", 1) not in inner


def test_a_reshape_that_cuts_across_fixes():
    b = Builder("n", 2)
    h = b.dense("x", "a", np.ones((6, 2)))
    split = b.add(Reshape((((1,), (1, 2)),), (None, 2, 3), ((0, 0),)), (h,), ("n", 2, 3))
    other = b.add(Reshape((((1, 2), (1, 2)),), (None, 3, 2), ((0, 0),)), (split,), ("n", 3, 2))
    model = b.model(b.dense(other, "d", np.ones((1, 2))))
    assert not any(labels(model, split, 1)[split, 1])


def test_opaque_operators_and_those_that_read_sizes_fix():
    for op in (Opaque("Mystery"), Size(((0, 1),))):
        b = Builder("n", 2)
        h = b.dense("x", "a", np.ones((3, 2)))
        b.nodes.append(Node(op, (h,), ("z",), "z"))
        b.shapes["z"] = None
        model = b.model(b.dense(h, "d", np.ones((1, 3))), "z")
        assert labels(model, "a.w", 0)["a.w", 0] == [0, 0, 0]


def test_a_norm_over_the_axis_fixes_it_and_others_pass():
    b = Builder("n", 4, 2)
    h = b.dense("x", "a", np.ones((3, 2)))
    over = b.add(Slicewise("softmax", ((0, 0), (1, 1))), (h,), ("n", 4, 3))
    along = b.add(Slicewise("softmax", ((0, 0), (2, 2))), (h,), ("n", 4, 3))
    fixed = b.model(b.dense(over, "d", np.ones((1, 3))))
    passed = b.model(b.dense(along, "e", np.ones((1, 3))))
    assert labels(fixed, "a.w", 0)["a.w", 0] == [0, 0, 0]
    assert labels(passed.live(), "a.w", 0)["a.w", 0] == [1, 2, 3]
