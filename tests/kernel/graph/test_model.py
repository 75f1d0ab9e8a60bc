"""Digests name functions and numbers, not names; what no output needs goes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Elementwise, Node, Transpose

from ...support.graphs import Builder


def model(*, scale=1.0, kind="relu", name="a", spare=False):
    b = Builder("n", 2)
    h = b.each(kind, b.dense("x", name, np.arange(6.0).reshape(3, 2) * scale, np.ones(3)))
    if spare:
        b.each("tanh", b.dense("x", "spare", np.ones((4, 2))))
    return b.model(b.dense(h, f"{name}2", np.ones((1, 3))))


def test_names_do_not_enter_a_digest():
    assert model().digest == model(name="other").digest
    assert model().digest == model(spare=True).digest


@pytest.mark.parametrize("change", [{"scale": 2.0}, {"kind": "tanh"}])
def test_numbers_and_operators_do(change):
    assert model().digest != model(**change).digest


def test_types_shapes_and_wiring_enter_a_digest():
    first = model()
    wide = {k: a.astype(np.float64) for k, a in first.constants.items()}
    assert replace(first, constants=wide).digest != first.digest
    other = replace(first, outputs=(first.nodes[0].output,))
    assert other.digest != first.digest
    fixed = replace(first, shapes={**first.shapes, "x": (5, 2)})
    assert fixed.digest != first.digest


def test_what_no_output_needs_goes():
    spare = model(spare=True)
    live = spare.live()
    assert set(live.constants) == {"a.w", "a.b", "a2.w"}
    assert len(live.nodes) == 3
    assert live.parameters == 6 + 3 + 3


def test_rearranged_constants_have_values():
    b = Builder("n", 2)
    b.constant("w", np.arange(6.0).reshape(3, 2))
    turned = b.add(Transpose((1, 0)), ("w",), (2, 3))
    same = b.each("identity", turned)
    made = b.model(b.each("relu", same))
    assert np.array_equal(made.array(same), np.arange(6.0).reshape(3, 2).T)
    assert made.array("x") is None
    assert made.array(made.outputs[0]) is None


def test_nodes_out_of_order_and_values_given_twice_are_refused():
    first = model()
    with pytest.raises(CertificateRejected, match="before they are there"):
        replace(first, nodes=first.nodes[::-1])
    with pytest.raises(CertificateRejected, match="twice"):
        replace(first, nodes=(*first.nodes, first.nodes[-1]))
    with pytest.raises(CertificateRejected, match="not there"):
        replace(first, outputs=("nowhere",))
    with pytest.raises(CertificateRejected):
        GraphModel(("x", "x"), ("x",), (), {"x": (1,)}, {})
    node = Node(Elementwise("relu"), ("x",), ("y", "z"), "y")
    with pytest.raises(CertificateRejected):
        GraphModel(("x",), ("y",), (node,), {"x": (1,), "y": (1,), "z": (1,)}, {})
