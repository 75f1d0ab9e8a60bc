"""What a box does to first layers, planted: biases decide which channels a ReLU leaves one value."""

from __future__ import annotations

import numpy as np
import pytest

from moduli.compression.exact.first_layers import FirstLayers, first_layers
from moduli.kernel.graph.operators import Opaque, PerUnit

from ...support.graphs import Builder

UNIT = {"x": (np.array(0.0), np.array(1.0))}


def first(biases, *, before=None, after=None, inputs=2):
    """One layer with weights of ones behind `before`, and a ReLU; a second one reads it."""
    g = Builder("N", inputs)
    x = before(g) if before else "x"
    h = g.dense(x, "a", np.ones((len(biases), inputs)), biases)
    r = after(g, h) if after else g.each("relu", h)
    return g.model(g.dense(r, "b", np.ones((1, len(biases)))))


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_scale_of_a_box_decides_what_is_constant(scale):
    graph = first([-3.0, -1.0, 0.0, -50.0])
    box = {"x": (np.array(0.0), np.array(scale))}
    found = first_layers(graph, box)
    assert found == FirstLayers(4, 2 if scale == 1.0 else 0, 0)
    assert found.suspicious == (scale == 1.0)


def test_what_is_constant_on_all_inputs_is_not_blamed_on_the_box():
    g = Builder("N", 2)
    h = g.dense("x", "a", np.array([[0.0, 0], [0, 0], [1, 1]]), [1.0, 2.0, -5.0])
    found = first_layers(g.model(g.dense(g.each("relu", h), "b", np.ones((1, 3)))), UNIT)
    assert found == FirstLayers(3, 3, 2)
    assert not found.suspicious
    assert str(found) == "3 of 3 units are constant on the box, 2 of them on all inputs"
    assert str(FirstLayers(8, 1, 0)) == "1 of 8 units is constant on the box"


def test_steps_in_front_and_behind_are_followed():
    def shifted(g):
        return g.each("sub", "x", g.constant("mean", [0.5, 0.5]))

    def normalised(g, h):
        numbers = [g.constant(f"bn{k}", [v, v]) for k, v in enumerate((1.0, -1.0, 0.0, 1.0))]
        n = g.add(PerUnit("batchnorm", 1, (0.0,)), (h, *numbers), g.shapes[h])
        return g.each("relu", n)

    assert first_layers(first([-0.5, 0.5], before=shifted, after=normalised), UNIT).constant == 1


def test_a_gate_is_looked_at_as_a_whole():
    """x clip(x + 3, 0, 6): x is read twice, and is nothing below -3."""

    def gated(g, h):
        inner = g.each("clip", g.each("add", h, g.constant("three", [3.0])), numbers=(0.0, 6.0))
        return g.each("mul", h, inner)

    assert first_layers(first([-6.0, 0.0], after=gated), UNIT) == FirstLayers(2, 1, 0)


def test_only_layers_that_read_bounded_inputs_alone_count():
    graph = first([-3.0])
    assert first_layers(graph, {}) is None
    g = Builder("N", 2)
    hidden = g.add(Opaque("Mystery"), ("x",), ("N", 2))
    opaque = g.model(g.dense(hidden, "a", np.ones((1, 2)), [-3.0]))
    assert first_layers(opaque, UNIT) is None


def test_several_first_layers_are_counted_together():
    g = Builder("N", 2)
    parts = []
    for name, bias in (("a", [-3.0, 0.0]), ("b", [-3.0, -3.0])):
        parts.append(g.each("relu", g.dense("x", name, np.ones((2, 2)), bias)))
    total = g.each("add", *parts)
    graph = g.model(g.dense(total, "out", np.ones((1, 2))))
    assert first_layers(graph, UNIT) == FirstLayers(4, 3, 0)
