"""Quantised graphs without what rounds, and bounds of what rounding does."""

from __future__ import annotations

import numpy as np
import pytest
from quantised import Writer, convolutional, dense

from moduli.formats import load_as_written
from moduli.kernel.graph.differences import slack_of_outputs
from moduli.kernel.graph.operators import Linear
from moduli.kernel.graph.quantised import bare, chains_of, compared, ordered, with_cuts

BOX = {"x": (np.asarray(-1.0), np.asarray(1.0))}
RANGES = {"x": (-1, 1), "h0": (0, 4), "h1": (-6, 6)}


def parts(seed, widths=(3, 5, 2)):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s) for s in ((widths[1], widths[0]), (widths[2], widths[1]))], [
        rng.standard_normal(n) for n in widths[1:]
    ]


def graph(model):
    return load_as_written(model).model


def kinds(model):
    return [getattr(node.op, "kind", type(node.op).__name__) for node in model.nodes]


def test_what_rounds_goes_and_is_kept_in_mind():
    found = bare(graph(dense(*parts(0), RANGES)))
    assert kinds(found.graph) == ["Linear", "add", "relu", "Linear", "add"]
    assert [point.value for point in found.points] == ["x", "h0", "h1"]
    scales = [float(point.scale[0]) for point in found.points]
    assert scales == pytest.approx([2 / 255, 4 / 255, 12 / 255])
    assert [float(p.low[0]) for p in found.points] == pytest.approx([-1, 0, -6], abs=0.03)
    assert found.graph.constants["w0"].dtype == np.float64


def test_a_graph_in_floats_is_written_in_one_way():
    """However its dense layers and biases are put."""
    weights, biases = parts(0)

    def model(kind):
        w = Writer((3,))
        w.arrays.update(b=biases[0].astype(np.float32), wide=biases[0].astype(np.float32)[None])
        if kind == "Gemm":
            w.emit("Gemm", ["x", w.stored("w", weights[0]), "b"], "y", transB=1)
        elif kind == "turned":
            w.emit("Gemm", ["x", w.stored("w", weights[0].T), "b"], "y")
        else:
            h = w.emit("MatMul", ["x", w.stored("w", weights[0].T)], "p")
            w.emit("Add", [h, "wide"] if kind == "MatMul" else ["wide", h], "y")
        return bare(graph(w.model("y", 5)))

    found = {kind: model(kind) for kind in ("Gemm", "turned", "MatMul")}
    assert not any(part.points for part in found.values())
    assert len({part.graph.digest for part in found.values()}) == 1
    assert set(found["turned"].sources.values()) == {"w", "b"}


def test_relus_that_rounding_does_are_put_back():
    plain, rounds = (graph(dense(*parts(0), r, relu=False)) for r in (None, RANGES))
    two = bare(rounds)
    assert kinds(two.graph) == ["Linear", "add", "Linear", "add"]
    found = with_cuts(ordered(bare(plain).graph), two._replace(graph=ordered(two.graph)))
    assert kinds(found.graph) == ["Linear", "add", "relu", "Linear", "add"]
    assert [p.extra for p in found.points] == [0.0, 0.0, 0.0]
    assert compared(plain, rounds, BOX) is not None


def test_a_relu_put_where_integers_go_below_zero_costs_what_it_hides():
    ranges = {**RANGES, "h0": (-1, 4)}
    plain, rounds = (graph(dense(*parts(0), r, relu=False)) for r in (None, ranges))
    pair = compared(plain, rounds, BOX)
    assert pair is not None
    extra = {point.name: point.extra for point in pair.bare.points}
    assert extra["h0.ints"] == pytest.approx(1.0, abs=0.02)
    near = compared(plain, graph(dense(*parts(0), RANGES, relu=False)), BOX)
    assert slack_of_outputs(near.bounds()).constant < slack_of_outputs(pair.bounds()).constant


def test_integers_that_somebody_computes_with_are_left():
    w = Writer((3,), {"x": (-1, 1)})
    w.rounded("x")
    w.emit("Cast", ["x.ints"], "y", to=1)
    model = graph(w.model("y", 3))
    found = bare(model)
    assert not found.points
    assert found.graph.digest == model.live().digest


def test_integers_that_are_moved_are_what_they_stand_for():
    w = Writer((1, 2, 2), {"x": (-1, 1)})
    w.arrays["s"], w.arrays["z"] = np.float32(2 / 255), np.uint8(128)
    w.emit("QuantizeLinear", ["x", "s", "z"], "q")
    w.emit("MaxPool", ["q"], "p", kernel_shape=[2, 2])
    w.emit("Flatten", ["p"], "f")
    w.emit("DequantizeLinear", ["f", "s", "z"], "y")
    found = bare(graph(w.model("y", 1)))
    assert kinds(found.graph) == ["max pool", "Reshape"]
    assert [point.value for point in found.points] == ["x"]


def test_another_scale_on_the_way_back_is_no_rounding():
    w = Writer((2,), {"x": (-1, 1)})
    w.arrays.update(s=np.float32(0.1), t=np.float32(0.2), z=np.uint8(128))
    w.emit("QuantizeLinear", ["x", "s", "z"], "q")
    w.emit("DequantizeLinear", ["q", "t", "z"], "y")
    assert not bare(graph(w.model("y", 2))).points


def test_the_order_of_nodes_does_not_matter():
    plain = graph(convolutional(np.random.default_rng(0)))
    model = convolutional(np.random.default_rng(0), {"x": (-1, 1), "h1": (0, 4)})
    first = compared(plain, graph(model), BOX)
    nodes = list(model.graph.node)
    weights = [n for n in nodes if n.op_type == "DequantizeLinear" and n.input[0].endswith(".q")]
    del model.graph.node[:]
    model.graph.node.extend([*reversed(weights), *(n for n in nodes if n not in weights)])
    second = compared(plain, graph(model), BOX)
    assert slack_of_outputs(first.bounds()) == slack_of_outputs(second.bounds())


def test_chains_are_found_with_their_points():
    pair = compared(*(graph(dense(*parts(0), r)) for r in (None, RANGES)), BOX)
    chains = chains_of(pair)
    assert [len(points) for points in chains.drifts.read] == [1, 1]
    assert [len(points) for points in chains.drifts.given] == [0, 1]
    ends = (np.full((1, 3), end) for end in (-1.0, 1.0))
    top = chains.measure(*ends, 0.0, 0.0).top[0]
    assert 0 < top <= slack_of_outputs(pair.bounds()).constant
    assert slack_of_outputs(pair.bounds({chains.value: top / 2})).constant <= top


def test_a_point_within_a_layer_is_no_chain():
    """Between a product and its bias."""
    weights, biases = parts(0)

    def model(ranges):
        w = Writer((3,), ranges)
        w.arrays["b"] = biases[0].astype(np.float32)
        h = w.rounded(w.emit("MatMul", ["x", w.stored("w", weights[0].T)], "p"))
        return graph(w.model(w.emit("Add", [h, "b"], "y"), 5))

    pair = compared(model(None), model({"p": (-8, 8)}), BOX)
    assert pair is not None
    assert chains_of(pair) is None
    assert any(isinstance(node.op, Linear) for node in pair.twin.nodes)


def test_biases_of_32_bits_are_bounded_where_they_are_not_exact():
    w = Writer((2,), {"none": (0, 1)})
    w.arrays.update(
        w=np.eye(2, dtype=np.float32),
        q=np.array([2**31 - 1, -(2**31)], dtype=np.int32),
        s=np.float32(1 / 3),
        z=np.int32(0),
    )
    w.emit("DequantizeLinear", ["q", "s", "z"], "b")
    w.arrays["xs"], w.arrays["xz"] = np.float32(2 / 255), np.uint8(128)
    w.emit("QuantizeLinear", ["x", "xs", "xz"], "xq")
    w.emit("DequantizeLinear", ["xq", "xs", "xz"], "xd")
    w.emit("Gemm", ["xd", "w", "b"], "y")
    found = bare(graph(w.model("y", 2)))
    assert {found.sources[name] for name in found.rounded} == {"b"}
    plain = Writer((2,))
    plain.arrays.update(
        w=np.eye(2, dtype=np.float32),
        b=(np.array([2.0**31 - 1, -(2.0**31)]) / 3).astype(np.float32),
    )
    plain.emit("Gemm", ["x", "w", "b"], "y")
    pair = compared(graph(plain.model("y", 2)), graph(w.model("y", 2)), BOX)
    (name,) = pair.bare.rounded
    assert pair.deviation(name).min() > 0
