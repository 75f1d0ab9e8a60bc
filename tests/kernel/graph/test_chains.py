"""A graph is a chain exactly as far as its nodes follow one another, and computes what they do."""

from __future__ import annotations

import numpy as np
import pytest

from moduli.kernel.graph.chains import box_of_vectors, start_of
from moduli.kernel.graph.operators import Reshape, Slicewise

from ...support.graphs import Builder, run

RNG = np.random.default_rng(0)
W1, B1, W2 = RNG.standard_normal((3, 2)), RNG.standard_normal(3), RNG.standard_normal((2, 3))


def require(model, value, layers, activations=()):
    found = start_of(model)
    assert found is not None
    assert found.value == value
    assert len(found.network.layers) == len(found.values) == layers
    assert [str(x) for x in found.network.activations] == list(activations)
    x = RNG.standard_normal((7, *model.shapes["x"][1:]))
    part = type(model)(model.inputs, (value,), model.nodes, model.shapes, model.constants)
    wanted = run(part, {"x": x})[0].reshape(7, -1)
    assert np.allclose(found.network.logits(x.reshape(7, -1)), wanted, atol=1e-12)


def test_products_and_their_biases_are_one_layer():
    b = Builder("n", 2)
    h = b.each("add", b.dense("x", "a", W1), b.constant("v", B1))
    h = b.dense(b.each("relu", h), "c", W2, [1.0, -1.0])
    require(b.model(h), "t3", 2, ["relu"])


def test_nothing_else_is_put_together():
    b = Builder("n", 2)
    h = b.each("sub", "x", b.constant("m", [[0.5, -0.5]]))
    h = b.dense(b.dense(h, "a", W1, B1), "c", W2)
    require(b.model(b.each("tanh", h)), "t2", 3, ["identity", "identity"])


def test_a_shift_behind_a_bias_ends_it():
    b = Builder("n", 2)
    h = b.each("add", b.dense("x", "a", W1, B1), b.constant("v", B1))
    require(b.model(b.each("relu", h)), "t0", 1)


def test_a_scale_ends_it():
    b = Builder("n", 2)
    h = b.each("mul", b.dense("x", "a", W1), b.constant("s", B1))
    require(b.model(b.dense(h, "c", W2)), "t0", 1)


@pytest.mark.parametrize(
    ("kind", "numbers", "name"),
    [
        ("leaky_relu", (0.25,), "leaky_relu(0.25)"),
        ("clip", (0.0, 6.0), "clip(0.0,6.0)"),
        ("identity", (), "identity"),
    ],
)
def test_activations_with_numbers(kind, numbers, name):
    b = Builder("n", 2)
    h = b.each(kind, b.dense("x", "a", W1, B1), numbers=numbers)
    require(b.model(b.dense(h, "c", W2)), "t2", 2, [name])


def test_an_unknown_activation_ends_it():
    b = Builder("n", 2)
    h = b.each("hardsigmoid", b.dense("x", "a", W1, B1), numbers=(0.2, 0.5))
    require(b.model(b.dense(h, "c", W2)), "t0", 1)


def test_two_activations_end_it():
    b = Builder("n", 2)
    h = b.each("tanh", b.each("relu", b.dense("x", "a", W1, B1)))
    require(b.model(b.dense(h, "c", W2)), "t0", 1)


def test_other_axes_of_size_one_and_reshapes():
    b = Builder("n", 1, 2)
    h = b.each("relu", b.dense("x", "a", W1, B1))
    op = Reshape((((1, 2), (1,)),), (None, 3), ((0, 0),))
    h = b.add(op, [h], ("n", 3))
    require(b.model(b.dense(h, "c", W2)), "t3", 2, ["relu"])


def test_positions_are_no_vector():
    b = Builder("n", 4, 2)
    assert start_of(b.model(b.each("relu", b.dense("x", "a", W1, B1)))) is None


def test_a_branch_ends_it():
    b = Builder("n", 2)
    h = b.dense("x", "a", W1, B1)
    require(b.model(b.each("add", b.each("relu", h), h)), "t0", 1)


def test_an_output_ends_it():
    b = Builder("n", 2)
    h = b.dense("x", "a", W1, B1)
    require(b.model(b.dense(b.each("relu", h), "c", W2), h), "t0", 1)


def test_a_softmax_ends_it():
    b = Builder("n", 2)
    h = b.dense("x", "a", W1, B1)
    p = b.add(Slicewise("softmax", ((0, 0),)), [h], ("n", 3))
    require(b.model(p), "t0", 1)


def test_two_inputs_are_no_chain():
    b = Builder("n", 2)
    b.inputs.append("y")
    b.shapes["y"] = ("n", 2)
    assert start_of(b.model(b.each("add", b.dense("x", "a", W2.T[:2]), "y"))) is None


def test_a_constant_over_its_own_axes_makes_more_entries():
    b = Builder("n", 1)
    h = b.dense("x", "a", [[2.0]])
    wide = b.each("add", h, b.constant("v", [1.0, 2.0]))
    require(b.model(b.dense(wide, "c", W1)), "t0", 1)


def test_a_box_as_vectors():
    b = Builder("n", 2, 2)
    model = b.model(b.each("relu", "x"))
    low, high = np.array([[[0.0], [1.0]]]), np.asarray(2.0)
    box = box_of_vectors(model, {"x": (low, high)}, 4)
    assert box.low.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert box.high.tolist() == [2.0] * 4
    rows = np.array([[[0.0, 5.0], [1.0, 1.0]], [[3.0, 2.0], [1.0, 0.0]]])
    box = box_of_vectors(model, {"x": (rows, rows)}, 4)
    assert (box.low.tolist(), box.high.tolist()) == ([0.0, 2.0, 1.0, 0.0], [3.0, 5.0, 1.0, 1.0])
