"""Units in another order: which nodes commute with it; graphs as files are in `test_graph_order`."""

from __future__ import annotations

import numpy as np
import pytest

from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.axes import units_from
from moduli.kernel.graph.operators import (
    Concat,
    Linear,
    Lookup,
    Opaque,
    Reshape,
    Slicewise,
    Take,
    Transpose,
)
from moduli.kernel.graph.ordering import commuting, exchangeable, ordered

from ...support.graphs import Builder, run

WEIGHT = np.arange(1.0, 9.0).reshape(4, 2)


def stream():
    """Four units that two inputs make."""
    b = Builder("n", 2)
    return b, b.dense("x", "a", WEIGHT)


def same(model, place, order):
    """The function before and after; units that are not named stay."""
    units = exchangeable(model, place)
    moved = ordered(model, units, [*order, *range(len(order) + 1, units.count + 1)])
    assert moved.digest != model.digest
    x = {"x": np.random.default_rng(0).normal(size=(3, 2))}
    for before, after in zip(run(model, x), run(moved, x), strict=True):
        assert np.allclose(before, after, rtol=1e-12)


def refused(model, place, order=(2, 1, 3, 4)):
    units = exchangeable(model, place)
    if units.count == 4:
        with pytest.raises(CertificateRejected):
            commuting(model, units, order)
    else:
        assert units.count < 4, "indices are tied to others, or stay"


def test_functions_of_entries_and_layers_commute():
    b, h = stream()
    g = b.each("mul", b.each("tanh", h), b.constant("s", [1.0, 2.0, 3.0, 5.0]))
    model = b.model(b.dense(g, "c", WEIGHT.T), b.dense(h, "d", WEIGHT.T - 3))
    same(model, (h, 1), [3, 1, 4, 2])
    same(model, ("a.w", 0), [4, 3, 2, 1])


def test_an_operand_of_one_entry_is_for_all():
    b, h = stream()
    model = b.model(b.dense(b.each("mul", h, b.constant("s", 3.0)), "c", WEIGHT.T))
    same(model, (h, 1), [3, 1, 4, 2])


@pytest.mark.parametrize("kind", ["sum", "max", "softmax"])
def test_functions_without_an_order(kind):
    b, h = stream()
    if kind == "softmax":
        y = b.add(Slicewise("softmax", ((0, 0),)), (h,), ("n", 4))
        model = b.model(b.dense(y, "c", WEIGHT.T))
        same(model, (h, 1), [3, 1, 4, 2])
        return
    y = b.add(Slicewise({"max": "amax"}.get(kind, kind), ((0, 0),)), (h,), ("n", 1))
    model = b.model(y)
    places = commuting(model, exchangeable(model, (h, 1)), [3, 1, 4, 2])
    assert (y, 1) not in places
    other = Builder("n", 2)
    h = other.dense("x", "a", WEIGHT)
    refused(other.model(other.add(Slicewise("cumsum", ((0, 0),)), (h,), ("n", 4))), (h, 1))


def test_parts_one_after_another():
    b, h = stream()
    whole = b.add(Concat(1), (h, b.dense("x", "e", WEIGHT[:3])), ("n", 7))
    model = b.model(b.dense(whole, "c", np.arange(14.0).reshape(2, 7)))
    same(model, (h, 1), [3, 1, 4, 2])
    # indices of both parts do not trade places
    units = exchangeable(model, (whole, 1))
    assert units.count == 7
    with pytest.raises(CertificateRejected):
        commuting(model, units, [5, 2, 3, 4, 1, 6, 7])


def test_chosen_indices():
    b, h = stream()
    halves = [b.add(Take(1, index), (h,), ("n", 2)) for index in ((0, 1), (2, 3))]
    model = b.model(b.dense(b.each("mul", *halves), "c", WEIGHT[:, :].T[:, :2]))
    # index i of one half and of the other are one unit
    units = exchangeable(model, (halves[0], 1))
    assert units.count == 2
    same(model, (halves[0], 1), [2, 1])
    b, h = stream()
    first = b.add(Take(1, (0,), drop=True), (h,), ("n",))
    model = b.model(first, b.dense(h, "c", WEIGHT.T))
    refused(model, (h, 1))


def test_axes_turned_and_cut():
    b = Builder(3, 2)
    h = b.dense("x", "a", WEIGHT)
    turned = b.add(Transpose((1, 0)), (h,), (4, 3))
    cut = b.add(Reshape((((0,), (0, 1)),), (2, 2, 3), ((1, 2),)), (turned,), (2, 2, 3))
    model = b.model(b.add(Reshape((((0, 1), (0,)),), (4, 3), ((2, 1),)), (cut,), (4, 3), "y"))
    b.add(Transpose((1, 0)), ("y",), (3, 4), "z")
    model = b.model(b.dense("z", "c", WEIGHT.T))
    units = exchangeable(model, (cut, 0))
    assert units.count == 2
    places = commuting(model, units, [2, 1])
    assert places[h, 1].tolist() == [2, 3, 0, 1]
    inner = exchangeable(model, (cut, 1))
    assert commuting(model, inner, [2, 1])[h, 1].tolist() == [1, 0, 3, 2]


def test_groups_trade_places_as_wholes():
    b, h = stream()
    op = Linear(1, 1, 1, 0, groups=2)
    y = b.add(op, (h, b.constant("g", np.arange(8.0).reshape(4, 2))), ("n", 4))
    model = b.model(b.dense(y, "c", WEIGHT.T))
    units = exchangeable(model, (h, 1))
    assert units.count == 2
    same(model, (h, 1), [2, 1])


def test_what_reads_all_keeps_all():
    b, h = stream()
    refused(b.model(b.add(Opaque("Mystery"), (h,), ("n", 4))), (h, 1))
    b = Builder("n", 4)
    assert exchangeable(b.model(b.each("relu", "x")), ("x", 1)).count == 0
    b = Builder("n", name="ids")
    rows = b.add(Lookup(0), (b.constant("t", WEIGHT), "ids"), ("n", 2))
    model = b.model(b.dense(rows, "c", WEIGHT))
    assert exchangeable(model, ("t", 0)).count == 0
    assert exchangeable(model, ("t", 1)).count == 2
    commuting(model, exchangeable(model, ("t", 1)), [2, 1])


@pytest.mark.parametrize("order", [[1, 2, 3], [1, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3, 5]])
def test_no_order_at_all(order):
    b, h = stream()
    model = b.model(b.dense(h, "c", WEIGHT.T))
    with pytest.raises(CertificateRejected, match="no order"):
        ordered(model, exchangeable(model, (h, 1)), order)


def test_what_a_removal_may_not_take_may_trade_places():
    """Coordinates under a layer norm: no unit for a removal, units for an order."""
    b = Builder("n", 2)
    h = b.dense("x", "a", np.arange(8.0).reshape(4, 2))
    scale, shift = b.constant("s", [1.0, 2.0, 3.0, 4.0]), b.constant("t", [0.0, 1.0, 0.0, 2.0])
    normed = b.add(Slicewise("layer_norm", ((0, 0),), normalises=1e-5), (h, scale, shift), ("n", 4))
    model = b.model(b.dense(normed, "c", np.ones((2, 4))))
    assert units_from(model, (h, 1)).count == 0
    units = exchangeable(model, (h, 1))
    assert units.count == 4
    places = commuting(model, units, [2, 1, 3, 4])
    assert {("s", 0), ("t", 0), (h, 1), (normed, 1)} <= set(places)
    grouped = b.add(
        Slicewise("group norm", ((0, 0),), normalises=1e-5), (h, scale, shift), ("n", 4)
    )
    other = b.model(b.dense(grouped, "d", np.ones((2, 4))))
    assert exchangeable(other, (h, 1)).count == 0, "groups are parts of it"
