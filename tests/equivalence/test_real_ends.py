"""Integers at the ends of a file stand for real numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from quantised import Writer, dense

import moduli as mo
from moduli.equivalence.quantised_graphs import QuantisedDistance
from moduli.equivalence.real_ends import with_real_ends
from moduli.formats import load_as_written

WEIGHTS = [np.array([[1.0, -0.5], [0.25, 0.75]]), np.array([[1.0, 0.5]])]
BIASES = [np.array([0.25, -0.25]), np.array([0.125])]
RANGES = {"x": (-1, 1), "h0": (0, 2), "h1": (-1, 3)}
BOX = mo.Box(-1, 1)


def integers_at_the_ends(moved=False):
    """The quantised chain without the nodes at its ends, as devices have it."""
    model = dense(WEIGHTS, BIASES, RANGES)
    nodes = list(model.graph.node)
    first = next(n for n in nodes if n.op_type == "QuantizeLinear" and n.input[0] == "x")
    last = next(n for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] == "h1.ints")
    nodes.remove(first)
    nodes.remove(last)
    back = next(n for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] == "x.ints")
    if moved:
        nodes.insert(0, onnx.helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]))
        nodes.insert(1, onnx.helper.make_node("Transpose", ["t"], ["u"], perm=[1, 0]))
    back.input[0] = "u" if moved else "x"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    model.graph.output[0].name = "h1.ints"
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    return model


@pytest.mark.parametrize("moved", [False, True])
def test_it_is_the_file_with_real_ends(moved):
    real = with_real_ends(load_as_written(integers_at_the_ends(moved)))
    whole = load_as_written(dense(WEIGHTS, BIASES, RANGES))
    x = np.random.default_rng(0).uniform(-1.2, 1.2, (50, 2))
    assert np.array_equal(np.asarray(real(x)), np.asarray(whole(x)))
    assert "integers at its ends" in real.notes[0]


def test_beside_the_model_in_floats():
    plain = load_as_written(dense(WEIGHTS, BIASES))
    ints = load_as_written(integers_at_the_ends())
    found = mo.distance(plain, ints, on=BOX, budget=100)
    assert isinstance(found, QuantisedDistance)
    x = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    seen = np.abs(np.asarray(plain(x)) - np.asarray(with_real_ends(ints)(x))).max()
    assert 0 < seen <= found.upper < 4 * seen
    assert found.check()
    near = mo.equivalent(plain, ints, on=mo.Box(0.2, 0.4), decision=True)
    assert near.status == "undecided"  # one output


def test_floats_stay_what_they_are():
    graph = load_as_written(dense(WEIGHTS, BIASES, RANGES))
    assert with_real_ends(graph) is graph


def test_integers_that_are_computed_with_stay():
    w = Writer((2,))
    w.emit("Cast", ["x"], "y", to=TensorProto.FLOAT)
    model = w.model("y", 2)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    graph = load_as_written(model)
    assert with_real_ends(graph) is graph


def test_two_scales_of_one_input_are_none():
    w = Writer((2,))
    w.arrays.update(s=np.float32(0.1), t=np.float32(0.2), z=np.uint8(0))
    w.emit("DequantizeLinear", ["x", "s", "z"], "a")
    w.emit("DequantizeLinear", ["x", "t", "z"], "b")
    w.emit("Add", ["a", "b"], "y")
    model = w.model("y", 2)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    graph = load_as_written(model)
    assert with_real_ends(graph) is graph


def test_it_is_read_and_not_written(tmp_path):
    real = with_real_ends(load_as_written(integers_at_the_ends()))
    with pytest.raises(mo.UnsupportedModel, match="copy the file"):
        mo.save(real, tmp_path / "r.onnx")
    with pytest.raises(mo.UnsupportedModel, match="no chain"):
        real.chain()
    assert mo.compress(real).network.parameters == real.parameters
