"""Stored infinities: masks may have them, and nothing is proved of what multiplies them."""

from __future__ import annotations

import numpy as np
import pytest

from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.infinities import require_numbers
from moduli.kernel.graph.operators import Contract, Elementwise, Linear, Opaque, Slicewise

from ...support.graph_facts import BIAS, ROWS
from ...support.graphs import Builder

SOFTMAX = Slicewise("Softmax", ((0, 0),))


def masked():
    b = Builder("n", 8)
    x = b.add(Elementwise("relu"), ("x",), ("n", 8))
    m = b.constant("m", np.array([0.0] * 7 + [-np.inf]))
    return b, x, b.add(Elementwise("add"), (x, m), ("n", 8))


def test_a_mask_that_ends_in_a_softmax_is_no_number_that_counts():
    b, x, y = masked()
    y = b.add(SOFTMAX, (y,), ("n", 8))
    require_numbers(b.model(b.add(Elementwise("mul"), (x, y), ("n", 8))))


@pytest.mark.parametrize("kind", ["mul", "div", "pow", "prelu", "add", "sub"])
def test_what_multiplies_a_mask_or_takes_it_from_itself_is_refused(kind):
    b, x, y = masked()
    other = y if kind in ("add", "sub") else x
    model = b.model(b.add(Elementwise(kind), (other, y), ("n", 8)))
    with pytest.raises(CertificateRejected, match="stored infinity"):
        Known(model, {})


def test_sums_with_infinities_are_refused_and_opaque_nodes_are_not():
    b, _, y = masked()
    weights = b.constant("w", np.eye(8))
    for op in (Linear(1, 1, 1, 0, free=((0, 0),)), Contract()):
        with pytest.raises(CertificateRejected, match="stored infinity"):
            require_numbers(b.model(b.add(op, (y, weights), ("n", 8))))
    b, _, y = masked()
    require_numbers(b.model(b.add(Opaque("Own"), (y,), ("n", 8))))


@pytest.mark.parametrize(
    ("kind", "end", "fine"),
    [("max", -np.inf, True), ("min", np.inf, True), ("max", np.inf, False), ("min", np.nan, False)],
)
def test_the_larger_of_a_number_and_minus_infinity_is_a_number(kind, end, fine):
    b = Builder("n", 8)
    y = b.each(kind, "x", b.constant("start", np.full(8, end)))
    model = b.model(b.each("mul", y, "x"))
    if fine:
        require_numbers(model)
    else:
        with pytest.raises(CertificateRejected, match="stored infinity"):
            require_numbers(model)


def test_an_infinite_weight_or_bias_is_refused():
    for rows, bias in ((np.where(ROWS, ROWS, np.inf), BIAS), (ROWS, np.full(len(ROWS), np.nan))):
        b = Builder("n", 2)
        with pytest.raises(CertificateRejected, match="stored infinity"):
            require_numbers(b.model(b.dense("x", "a", rows, bias)))
