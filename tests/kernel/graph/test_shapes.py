"""Graphs that state shapes which their operators do not give are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.operators import Concat, Contract, Reshape, Slicewise, Take, Transpose
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
