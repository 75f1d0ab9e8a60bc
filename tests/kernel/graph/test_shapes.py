"""Graphs that state shapes which their operators do not give are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import (
    Broadcast,
    Concat,
    Contract,
    Elementwise,
    Linear,
    Lookup,
    Node,
    Opaque,
    PerUnit,
    Reshape,
    Size,
    Slicewise,
    Take,
    Transpose,
)
from moduli.kernel.graph.shapes import require_shapes

from ...support.graphs import Builder


def made():
    """One node of most kinds; names of values by what gives them."""
    b = Builder("n", 3, 4)
    names = {"dense": b.dense("x", "a", np.ones((6, 4)), np.zeros(6))}
    names["relu"] = b.each("relu", names["dense"])
    names["sum"] = b.each("add", names["relu"], b.constant("s", np.ones(6)))
    names["turned"] = b.add(Transpose((0, 2, 1)), (names["sum"],), ("n", 6, 3))
    names["product"] = b.add(Contract(), (names["sum"], names["turned"]), ("n", 3, 3))
    names["softmax"] = b.add(
        Slicewise("softmax", ((0, 0), (1, 1))), (names["product"],), ("n", 3, 3)
    )
    op = Reshape((((2,), (2, 3)),), (None, 3, 2, 3), ((0, 0), (1, 1)))
    names["split"] = b.add(op, (names["sum"],), ("n", 3, 2, 3))
    names["taken"] = b.add(Take(2, (1,), True), (names["split"],), ("n", 3, 3))
    names["joined"] = b.add(Concat(2), (names["taken"], names["softmax"]), ("n", 3, 6))
    return b.model(names["joined"]), names


def test_true_shapes_are_accepted():
    require_shapes(made()[0])


@pytest.mark.parametrize("name", sorted(made()[1]))
def test_another_size_or_axis_is_refused(name):
    model, names = made()
    value = names[name]
    true = model.shapes[value]
    for wrong in (
        (*true[:-1], true[-1] + 1),
        (*true, 1),
        true[:-1],
        (true[0], true[1] + 1, *true[2:]),
    ):
        with pytest.raises(CertificateRejected):
            require_shapes(replace(model, shapes={**model.shapes, value: wrong}))


def test_a_constant_has_the_shape_it_has():
    model, _ = made()
    with pytest.raises(CertificateRejected, match="is said to have shape"):
        require_shapes(replace(model, shapes={**model.shapes, "a.w": (4, 6)}))


@pytest.mark.parametrize(
    "op", [Transpose((0, 1, 1)), Take(2, (9,)), Concat(7), Reshape((), (None, 5), ((0, 0),))]
)
def test_operators_that_do_not_fit_are_refused(op):
    model, names = made()
    nodes = tuple(
        replace(node, op=op) if node.output == names["turned"] else node for node in model.nodes
    )
    with pytest.raises(CertificateRejected):
        require_shapes(replace(model, nodes=nodes))


# One node of each kind ----------------------------------------------------------------------------------------

FITS: dict[str, tuple[Any, list[Any], Any]] = {
    "an order": (Transpose((1, 0)), [("N", 3)], (3, "N")),
    "indices": (Take(1, (2, 0)), [("N", 3)], ("N", 2)),
    "one index": (Take(1, (2,), drop=True), [("N", 3)], ("N",)),
    "parts": (Concat(1), [("N", 3), ("M", 2)], ("N", 5)),
    "parts of unknown size": (Concat(0), [("N", 3), (2, 3)], ("P", 3)),
    "a split axis": (Reshape((((1,), (1, 2)),), (None, 2, 3), ((0, 0),)), [("N", 6)], ("N", 2, 3)),
    "an axis of one": (Reshape((((), (1,)),), (None, 1, 6), ((0, 0), (1, 2))), [("N", 6)], ("N", 1, 6)),
    "known from behind": (Reshape((), (None, 3), ((2, 1),)), [("N", "M", 3)], ("P", 3)),
    "blocks that overlap": (
        Reshape((((0, 1), (0, 1)), ((1,), (1,))), (4, 3)), [(4, 3)], (4, 3),
    ),
    "a dense layer": (Linear(1, 1, 1, 0, free=((0, 0),)), [("N", 3), (4, 3), (4,)], ("N", 4)),
    "groups": (Linear(1, 1, 1, 0, 2, free=((0, 0),)), [(1, 6, 5), (4, 3, 1)], (1, 4, 5)),
    "what is read of unknown size": (Linear(1, 1, 1, 0, free=((0, 0),)), [("N", "M"), (4, 3)], ("N", 4)),
    "heads": (Contract(), [("N", 2, 3, 4), (2, 4, 5)], ("N", 2, 3, 5)),
    "operands": (Elementwise("add"), [("N", 1, 3), (2, 1)], ("N", 2, 3)),
    "operands of unknown size": (Elementwise("add"), [("N", 3), (4, 3)], (4, 3)),
    "a batch norm": (PerUnit("batchnorm", 1, (0.1,)), [("N", 3), *[(3,)] * 4], ("N", 3)),
    "a scale for all": (PerUnit("dequantise", 0), [(2, 3), ()], (2, 3)),
    "a pool": (Slicewise("max", ((0, 0), (1, 1))), [("N", 3, 8)], ("N", 3, 4)),
    "numbers of an axis": (Slicewise("norm", ((0, 0), (1, 1)), carried=(1,)), [("N", 3, 8), (3,)], ("N", 3, 8)),
    "a target": (Broadcast((None, 4)), [("N", 1)], ("N", 4)),
    "a table": (Lookup(0), [(5, 3), ("N", 2)], ("N", 2, 3)),
    "sizes": (Size(((0, 1),)), [("N", 3)], (1,)),
    "anything": (Opaque("Any"), [("N", 3)], (7,)),
}  # fmt: skip


def graph_of(op: Any, inputs: list[Any], made: Any) -> GraphModel:
    names = tuple(f"x{k}" for k in range(len(inputs)))
    shapes = dict(zip(names, inputs, strict=True))
    stored = {}
    if isinstance(op, (Linear, PerUnit)):
        stored = {x: np.ones(shapes[x], dtype=np.float32) for x in names[1:]}
    given = tuple(x for x in names if x not in stored)
    node = Node(op, names, ("y",), "y")
    return GraphModel(given, ("y",), (node,), {**shapes, "y": made}, stored)


@pytest.mark.parametrize("name", FITS)
def test_operators_that_fit_their_tensors(name):
    require_shapes(graph_of(*FITS[name]))


ONE_NODE: dict[str, tuple[Any, list[Any], Any]] = {
    "a permutation": (Transpose((0, 0)), [(2, 3)], (2, 2)),
    "an order of other axes": (Transpose((0, 2)), [(2, 3)], (2, 3)),
    "sizes that are not turned": (Transpose((1, 0)), [(2, 3)], (2, 3)),
    "an index": (Take(0, (2,)), [(2, 3)], (1, 3)),
    "an index from behind": (Take(0, (-1,)), [(2, 3)], (1, 3)),
    "a size": (Take(0, (0, 1)), [(2, 3)], (3, 3)),
    "one of two": (Take(0, (0, 1), drop=True), [(2, 3)], (3,)),
    "a sum of sizes": (Concat(0), [(2, 3), (2, 3)], (5, 3)),
    "sizes beside": (Concat(0), [(2, 3), (2, 4)], (4, 3)),
    "another count": (Reshape((((0, 1), (0,)),), (7,)), [(2, 3)], (7,)),
    "a block": (Reshape((((0,), (0,)),), (3, 2)), [(2, 3)], (3, 2)),
    "blocks out of order": (Reshape((((0,), (1,)), ((1,), (0,))), (3, 2)), [(2, 3)], (3, 2)),
    "an axis twice": (Reshape((((0, 0), (0,)),), (4, 3)), [(2, 2, 3)], (4, 3)),
    "axes apart": (Reshape((((0, 2), (0, 1)),), (2, 2, 3)), [(2, 3, 2)], (2, 2, 3)),
    "free axes that are not the same": (Reshape((), (2, 2, 3), ((0, 1),)), [(2, 3, 2)], (2, 2, 3)),
    "two open sizes": (Reshape((), (None, None)), [("N", "M")], ("P", "Q")),
    "an axis that it has not": (Linear(2, 2, 1, 0), [(2, 3), (4, 3)], (2, 4)),
    "an axis from behind": (Linear(-1, -1, 1, 0, free=((0, 0),)), [(2, 3), (4, 3)], (2, 4)),
    "one axis of two": (Linear(1, 1, 0, 0, free=((0, 0),)), [(2, 3), (4, 3)], (2, 4)),
    "columns": (Linear(1, 1, 1, 0, free=((0, 0),)), [(2, 3), (4, 2)], (2, 4)),
    "rows": (Linear(1, 1, 1, 0, free=((0, 0),)), [(2, 3), (4, 3)], (2, 5)),
    "a bias of another size": (Linear(1, 1, 1, 0, free=((0, 0),)), [(2, 3), (4, 3), (1,)], (2, 4)),
    "groups": (Linear(1, 1, 1, 0, 3, free=((0, 0),)), [(2, 6), (4, 2)], (2, 4)),
    "an axis of which nothing is said": (Linear(1, 1, 1, 0), [(2, 3), (4, 3)], (2, 4)),
    "a sum over other sizes": (Contract(), [(2, 3), (4, 5)], (2, 5)),
    "heads": (Contract(), [(2, 2, 3), (3, 3, 4)], (2, 2, 4)),
    "functions of two": (Elementwise("relu"), [(2,), (2,)], (2,)),
    "numbers that it has not": (Elementwise("relu", (1.0,)), [(2,)], (2,)),
    "numbers that it lacks": (Elementwise("clip", (1.0,)), [(2,)], (2,)),
    "what does not broadcast": (Elementwise("add"), [(2, 3), (2,)], (2, 3)),
    "nothing to read": (Elementwise("add"), [], (2,)),
    "a batch norm of two numbers": (PerUnit("batchnorm", 1, (0.1,)), [(2, 3), (3,), (3,)], (2, 3)),
    "a batch norm of another axis": (PerUnit("batchnorm", 0, (0.1,)), [(2, 3), *[(3,)] * 4], (2, 3)),
    "a scale with two axes": (PerUnit("dequantise", 0), [(2, 3), (2, 3)], (2, 3)),
    "a free axis of another size": (Slicewise("max", ((0, 0),)), [(2, 3)], (3,)),
    "a free axis twice": (Slicewise("max", ((0, 0), (0, 1))), [(2, 3)], (2, 2)),
    "numbers for another axis": (Slicewise("norm", ((0, 0),), carried=(0,)), [(2, 3), (3,)], (2,)),
    "a target": (Broadcast((2, 4)), [(2, 3)], (2, 4)),
    "a target that is not made": (Broadcast((2, 3)), [(2, 1)], (2, 4)),
    "a table": (Lookup(0), [(5, 3), (2,)], (2, 4)),
    "an axis of a table": (Lookup(2), [(5, 3), (2,)], (2, 3)),
    "an axis whose size is read": (Size(((0, 2),)), [(2, 3)], (1,)),
    "an input whose size is read": (Size(((1, 0),)), [(2, 3)], (1,)),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_NODE)
def test_operators_that_do_not_fit_their_tensors_are_refused(name):
    with pytest.raises(CertificateRejected, match="of shapes"):
        require_shapes(graph_of(*ONE_NODE[name]))


@pytest.mark.parametrize("shape", [(2, -3), (-1,), (True, 3)])
def test_sizes_that_are_none_are_refused(shape):
    with pytest.raises(CertificateRejected):
        require_shapes(graph_of(Opaque("Any"), [shape], (2, 3)))
