"""Quantised models beside those in floats: bounds hold, and what hurts most is found."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from quantised import convolutional, dense, written

import moduli as mo
from moduli.equivalence.quantised_graphs import QuantisedDecision, QuantisedDistance
from moduli.formats import load_as_written

BOX = mo.Box(-1, 1)
RANGES = {"x": (-1, 1), "h0": (0, 4), "h1": (0, 6), "h2": (-8, 8)}


def layers(seed, widths=(3, 6, 6, 2)):
    rng = np.random.default_rng(seed)
    pairs = [*itertools.pairwise(widths)]
    return [rng.standard_normal((m, n)) / np.sqrt(n) for n, m in pairs], [
        rng.standard_normal(m) / 4 for _, m in pairs
    ]


def apart(a, b, x):
    return float(np.abs(np.asarray(a(x)) - np.asarray(b(x))).max())


def inputs(n, shape, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, *shape))
    return np.where(rng.random((n, *(1 for _ in shape))) < 0.3, np.sign(x), x)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("signed", [False, True])
def test_bounds_of_chains(relu, axis, signed):
    for seed in range(4):
        weights = layers(seed)
        a = load_as_written(dense(*weights))
        b = load_as_written(dense(*weights, RANGES, relu=relu, axis=axis, signed=signed))
        found = mo.distance(a, b, on=BOX, budget=60)
        assert isinstance(found, QuantisedDistance)
        assert found.status == "bounded"
        seen = apart(a, b, inputs(400, (3,), seed))
        assert 0 < seen <= found.upper < 60 * seen
        assert found.lower <= found.upper
        assert found.check()


def test_more_boxes_and_tol():
    weights = layers(1)
    a, b = (load_as_written(dense(*weights, r)) for r in (None, RANGES))
    few, many = (mo.distance(a, b, on=BOX, budget=k) for k in (4, 3000))
    assert many.upper < 0.9 * few.upper
    near = mo.distance(a, b, on=BOX, tol=20.0, budget=3000)
    assert len(near.tree) <= len(many.tree)


def test_what_is_cut_off_counts():
    """A range that is too small for what it holds."""
    weights = layers(2)
    tight = {**RANGES, "h1": (0, 0.2)}
    a, b = (load_as_written(dense(*weights, r)) for r in (None, tight))
    found = mo.distance(a, b, on=BOX, budget=200)
    assert apart(a, b, inputs(400, (3,))) <= found.upper
    worst = found.by_layer[0]
    assert worst.name.startswith("h1")
    assert not worst.stored
    assert worst.clipped > 0.5
    assert worst.alone > 2 * found.by_layer[1].alone


@pytest.mark.parametrize("broken", ["x", "h0", "h1"])
def test_a_broken_scale_is_found(broken):
    weights = layers(3)
    wide = {**RANGES, broken: tuple(64 * end for end in RANGES[broken])}
    a, b = (load_as_written(dense(*weights, r)) for r in (None, wide))
    found = mo.distance(a, b, on=BOX, budget=100)
    assert found.by_layer[0].name.startswith(broken)
    assert found.by_layer[0].step == pytest.approx(max(s.step for s in found.by_layer))
    assert found.check()


def test_nothing_is_off_by_more_than_it_is():
    weights = layers(2)
    a = load_as_written(dense(*weights))
    uppers, alone = [], []
    for most in (4e4, 4e6):  # steps far above all values, which become zero
        b = load_as_written(dense(*weights, RANGES | {"h1": (0, most)}, relu=True))
        found = mo.distance(a, b, on=BOX, budget=20)
        seen = apart(a, b, inputs(400, (3,)))
        assert 0 < seen <= found.upper < 20 * seen
        assert found.check()
        uppers.append(found.upper)
        alone.append(max(row.alone for row in found.by_layer))
    assert uppers[1] == pytest.approx(uppers[0])
    assert alone[1] == pytest.approx(alone[0])


def test_a_broken_weight_is_found():
    weights, biases = layers(3)
    a = load_as_written(dense(weights, biases))
    model = dense(weights, biases, RANGES)
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if tensor.name == "w1.q":
            q = numpy_helper.to_array(tensor).copy()
            q[0, 0] = -q[0, 0] if abs(int(q[0, 0])) > 20 else 100
            tensor.CopyFrom(numpy_helper.from_array(q, "w1.q"))
    found = mo.distance(a, load_as_written(model), on=BOX, budget=100)
    assert found.by_layer[0].name == "w1"
    assert found.by_layer[0].stored


@pytest.mark.parametrize("swap", [False, True])
def test_convolutions(swap):
    ranges = {"x": (-1, 1), "h1": (0, 4), "c2": (-4, 4), "sum": (-4, 6)}
    for seed in range(3):
        a, b = (
            load_as_written(convolutional(np.random.default_rng(seed), r)) for r in (None, ranges)
        )
        x = inputs(60, (2, 6, 6), seed)
        seen = apart(a, b, x)
        found = mo.distance(*((b, a) if swap else (a, b)), on=BOX)
        assert isinstance(found, QuantisedDistance)
        assert seen <= found.upper < 2000 * seen
        assert found.check()
        names = {source.name for source in found.by_layer}
        assert {"k1", "k2", "d"} <= names
        assert {name.split(".")[0] for name in names} >= {"x", "h1", "c2", "sum"}


def test_a_chain_in_memory_beside_a_quantised_file(tmp_path):
    weights, biases = layers(4)
    parts = [part for pair in zip(weights, biases, strict=True) for part in pair]
    rounded = [np.asarray(part, dtype=np.float32).astype(np.float64) for part in parts]
    net = mo.Network.mlp(*rounded, activation="relu")
    path = written(dense(weights, biases, RANGES), tmp_path / "q.onnx")
    found = mo.distance(net, path, on=BOX, budget=50)
    assert isinstance(found, QuantisedDistance)
    assert apart(net, mo.load(path), inputs(200, (3,))) <= found.upper


def test_other_wiring_is_not_taken_for_it():
    a = load_as_written(dense(*layers(0)))
    b = load_as_written(dense(*layers(0, (3, 6, 2)), RANGES))
    assert not isinstance(mo.distance(a, b, on=BOX), QuantisedDistance)
    more = load_as_written(dense(*layers(0, (3, 7, 6, 2)), RANGES))
    assert not isinstance(mo.distance(a, more, on=BOX), QuantisedDistance)


def test_forged_answers_are_refused():
    a, b = (load_as_written(dense(*layers(5), r)) for r in (None, RANGES))
    found = mo.distance(a, b, on=BOX, budget=50)
    slack = type(found.bound)
    wrong = load_as_written(dense(*layers(6), RANGES))
    for forged in (
        replace(found, bound=slack(found.upper / 3, 0.0)),
        replace(found, tree=(0, -1)),
        replace(found, b=wrong),
        replace(found, on=mo.Box(-3, 3)),
        replace(found, bound=slack(-1.0, 0.0)),
    ):
        with pytest.raises(mo.CertificateRejected):
            forged.check()


def margin_nets():
    """One output is far above the other where x is near 1, below where it is near -1."""
    weights = [np.eye(2), np.array([[1.0, 0.0], [-1.0, 0.5]])]
    biases = [np.array([0.5, 0.5]), np.zeros(2)]
    ranges = {"x": (-1, 1), "h0": (0, 2), "h1": (-2, 2)}
    return [load_as_written(dense(weights, biases, r)) for r in (None, ranges)]


def test_decisions_that_stay():
    a, b = margin_nets()
    found = mo.equivalent(a, b, on=mo.Box(0.5, 1.0), decision=True)
    assert isinstance(found, QuantisedDecision)
    assert found
    assert found.winner == 0
    assert found.check()
    with pytest.raises(mo.CertificateRejected):
        replace(found, winner=1).check()
    with pytest.raises(mo.CertificateRejected):
        replace(found, on=BOX).check()
    with pytest.raises(mo.CertificateRejected, match="no output 7"):
        replace(found, winner=7).check()


def test_decisions_that_differ():
    weights, biases = [np.eye(2), np.eye(2)], [np.zeros(2), np.zeros(2)]
    coarse = {"x": (-1, 1), "h0": (0, 1), "h1": (0, 60)}
    a, b = (load_as_written(dense(weights, biases, r)) for r in (None, coarse))
    box = mo.Box([0.05, 0.3], [0.1, 0.4])
    found = mo.equivalent(a, b, on=box, decision=True)
    assert found.status in ("undecided", "refuted")
    flipped = [np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0]])]
    other = load_as_written(dense(flipped, biases, RANGES))
    found = mo.equivalent(a, other, on=mo.Box([0.1, 0.6], [0.2, 0.9]), decision=True)
    assert found.status == "refuted"
    assert (found.witness.first, found.witness.second) == (1, 0)
    assert found.check()
    assert not found
    moved = found.witness._replace(inputs={"x": np.array([[5.0, 5.0]])})
    with pytest.raises(mo.CertificateRejected):
        replace(found, witness=moved).check()


def test_decisions_that_change_on_the_box_are_open():
    a, b = margin_nets()
    found = mo.equivalent(a, b, on=BOX, decision=True, budget=20)
    assert found.status in ("undecided", "refuted")
    if found.status == "undecided":
        with pytest.raises(mo.Undecided):
            bool(found)


def test_table_json_and_picture(tmp_path):
    from moduli.common import figures

    a, b = (load_as_written(dense(*layers(5), r)) for r in (None, RANGES))
    found = mo.distance(a, b, on=BOX, budget=50)
    rows = dict(found.rows())
    assert any("rounds in steps of" in text for text in rows.values())
    assert len(found.to_json()["by_layer"]) == len(found.by_layer)
    assert figures.save(found.plot(), tmp_path / "q.svg").stat().st_size > 1000


def test_weights_alone_in_eight_bits():
    weights = layers(7)
    a, b = (
        load_as_written(dense(*weights, r, relu=True, axis=0)) for r in (None, {"none": (0, 1)})
    )
    found = mo.distance(a, b, on=BOX, budget=100)
    assert isinstance(found, QuantisedDistance)
    seen = apart(a, b, inputs(400, (3,)))
    assert seen <= found.upper < 10 * seen
    assert {source.name for source in found.by_layer} == {"w0", "w1", "w2"}
    assert all(source.stored for source in found.by_layer)
    assert found.check()


def test_a_file_in_half_precision(tmp_path):
    """Weights in float16, with casts where values go in and out."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = layers(8)
    a = dense(*weights)
    b = onnx.ModelProto()
    b.CopyFrom(a)
    for tensor in b.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    nodes = list(b.graph.node)
    nodes[0].input[0] = "x16"
    nodes[-1].output[0] = "y16"
    del b.graph.node[:]
    b.graph.node.extend([
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16), *nodes,
        helper.make_node("Cast", ["y16"], [b.graph.output[0].name], to=TensorProto.FLOAT),
    ])  # fmt: skip
    first, second = (
        load_as_written(written(m, tmp_path / f"{k}.onnx")) for k, m in enumerate((a, b))
    )
    found = mo.distance(first, second, on=BOX, budget=100)
    assert isinstance(found, QuantisedDistance)
    seen = apart(first, second, inputs(200, (3,)))
    assert 0 < seen <= found.upper < 1e-2


@pytest.mark.parametrize(
    "make", [lambda: dense(*layers(9)), lambda: convolutional(np.random.default_rng(3))]
)
@pytest.mark.parametrize("per_channel", [False, True])
def test_models_that_are_quantised_while_they_run(tmp_path, make, per_channel):
    quantization = pytest.importorskip("onnxruntime.quantization")
    path = written(make(), tmp_path / "a.onnx")
    dynamic = tmp_path / "d.onnx"
    quantization.quantize_dynamic(path, dynamic, per_channel=per_channel, reduce_range=False)
    a, b = load_as_written(path), load_as_written(dynamic)
    assert "read, and not written" in " ".join(b.notes)
    found = mo.distance(a, b, on=BOX, budget=100)
    assert isinstance(found, QuantisedDistance)
    x = inputs(60, a.model.shapes["x"][1:])
    seen = max(apart(a, b, rows) for rows in (x, x[:1], x[1:2]))
    assert 0 < seen <= found.upper < 2000 * seen
    assert found.check()
    steps = {source.name: source.step for source in found.by_layer if not source.stored}
    assert steps
    assert all(0 < step < 1 for step in steps.values())
    with pytest.raises(mo.UnsupportedModel, match="copy the file"):
        mo.save(b, tmp_path / "again.onnx")


def test_a_node_that_only_looks_like_it_is_none(tmp_path):
    """The scale of another input."""
    from onnx import TensorProto, helper, numpy_helper

    arrays = {"w": np.eye(2, dtype=np.int8), "t": np.float32(0.5)}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DynamicQuantizeLinear", ["h"], ["q2", "s2", "z2"]),
        helper.make_node("Mul", ["x", "t"], ["h"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["m"]),
        helper.make_node("Cast", ["m"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s2", "t"], ["both"]),
        helper.make_node("Mul", ["c", "both"], ["y"]),
    ]
    order = [nodes[k] for k in (0, 2, 1, 3, 4, 5, 6)]
    graph = helper.make_graph(
        order, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = load_as_written(model)
    assert not any("rounded by its range" in repr(node.op) for node in found.model.nodes)


# Each of these was once bounded by less than what is seen -------------------------------------------------------


def model_of(shape, nodes, arrays, outputs, kinds=None):
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None) for y in outputs],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return load_as_written(made)


def node(kind, inputs, outputs, **given):
    from onnx import helper

    return helper.make_node(kind, inputs.split(), outputs.split(), **given)


SCALES = {"s": np.float32(0.05), "z": np.uint8(128), "z0": np.uint8(0)}


def holds(a, b, box=BOX, shape=(2,), rows=200):
    """Bounds are above what is seen, or there are none."""
    found = mo.distance(a, b, on=box)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (rows, *shape))
    first, second = (net.source.run({"x": x}) for net in (a, b))
    seen = max(
        float(np.abs(first[p] - second[q]).max()) for p, q in zip(a.outputs, b.outputs, strict=True)
    )
    assert seen <= found.upper, (seen, found)
    return found


def test_what_is_stored_and_rounded_again():
    w = np.array([[0.31, -0.72], [0.11, 0.93]], dtype=np.float32)
    plain = [node("Transpose", "w", "v"), node("MatMul", "x v", "y")]
    rounded = [
        node("Transpose", "w", "v"), node("QuantizeLinear", "v big z", "q"),
        node("DequantizeLinear", "q big z", "r"), node("MatMul", "x r", "y"),
    ]  # fmt: skip
    arrays = {"w": w, "big": np.float32(0.25), **SCALES}
    a, b = (model_of(["n", 2], nodes, arrays, ["y"]) for nodes in (plain, rounded))
    holds(a, b)


def test_a_reader_that_reads_no_rounded_value():
    eye = {"w": np.eye(2, dtype=np.float32), **SCALES, "coarse": np.float32(1 / 255)}
    plain = [
        node("MatMul", "x w", "h"),
        node("Relu", "h", "r"),
        node("Neg", "r", "y"),
        node("Abs", "r", "k"),
    ]
    cut = [
        node("MatMul", "x w", "h"), node("QuantizeLinear", "h coarse z0", "q"),
        node("DequantizeLinear", "q coarse z0", "r"), node("Neg", "r", "y"), node("Abs", "h", "k"),
    ]  # fmt: skip
    holds(*(model_of(["n", 2], nodes, eye, ["y", "k"]) for nodes in (plain, cut)))
    both = [
        node("MatMul", "x w", "h"), node("QuantizeLinear", "h coarse z0", "q"),
        node("DequantizeLinear", "q coarse z0", "r"), node("Neg", "r", "y"),
        node("QuantizeLinear", "h coarse z", "p"), node("DequantizeLinear", "p coarse z", "t"),
        node("Abs", "t", "k"),
    ]  # fmt: skip
    holds(*(model_of(["n", 2], nodes, eye, ["y", "k"]) for nodes in (plain, both)))
    apart = [
        node("MatMul", "x w", "h"),
        node("Neg", "h", "y"),
        node("Relu", "h", "r"),
        node("Abs", "r", "k"),
    ]
    one = [
        node("MatMul", "x w", "h"), node("QuantizeLinear", "h coarse z0", "q"),
        node("DequantizeLinear", "q coarse z0", "r"), node("Neg", "r", "y"), node("Abs", "r", "k"),
    ]  # fmt: skip
    holds(*(model_of(["n", 2], nodes, eye, ["y", "k"]) for nodes in (apart, one)))


def test_ends_of_integers_bound_those_alone_who_read_them():
    nodes = [node("MatMul", "x w", "h"), node("Relu", "h", "y"), node("Neg", "h", "k")]
    rounded = [
        node("MatMul", "x w", "h"), node("QuantizeLinear", "h s z", "q"),
        node("DequantizeLinear", "q s z", "r"), node("Relu", "r", "y"), node("Neg", "h", "k"),
    ]  # fmt: skip
    a = model_of(["n", 2], nodes, {"w": np.float32(0.01) * np.eye(2, dtype=np.float32)}, ["y", "k"])
    b = model_of(
        ["n", 2],
        rounded,
        {"w": np.float32(100) * np.eye(2, dtype=np.float32), **SCALES},
        ["y", "k"],
    )
    holds(a, b)


def test_scales_along_rows_are_none_of_units():
    scales = {"sx": np.array([1.0, 0.01, 0.01, 0.01], np.float32), "zx": np.full(4, 128, np.uint8)}
    w = {"w": np.eye(4, dtype=np.float32)}
    a = model_of([4, 4], [node("MatMul", "x w", "y")], w, ["y"])
    rounded = [
        node("QuantizeLinear", "x sx zx", "q", axis=0), node("DequantizeLinear", "q sx zx", "r", axis=0),
        node("MatMul", "r w", "y"),
    ]  # fmt: skip
    b = model_of([4, 4], rounded, {**w, **scales}, ["y"])
    holds(a, b, shape=(4,), rows=4)


def test_names_that_a_file_has_already():
    tied = {"w": np.array([[0.5, 0.25], [0.75, -1.0]], dtype=np.float32)}
    plain = [node("MatMul", "x w", "h"), node("MatMul", "h w", "y")]
    a = model_of(["n", 2], plain, tied, ["y"])
    other = {**tied, "w, turned": np.array([[-0.5, 1.0], [0.25, 0.5]], dtype=np.float32), **SCALES}
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "r"),
        node("MatMul", "r w", "h"),
    ]  # fmt: skip
    from onnx import helper

    nodes.append(helper.make_node("Gemm", ["h", "w, turned"], ["y"], transB=1))
    holds(a, model_of(["n", 2], nodes, other, ["y"]))


def test_rounding_while_it_runs_of_other_shapes():
    """Scales that go along other axes, and operators that are only called so."""
    from onnx import TensorProto, helper

    w = np.arange(-4, 5, dtype=np.int8).reshape(1, 1, 3, 3)
    w = np.concatenate([w, w[..., ::-1], w[:, :, ::-1]])
    arrays = {"w": w, "t": np.array([1.0, 0.1, 0.01], dtype=np.float32)}

    def dynamic(domain=""):
        return [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], domain=domain),
            node("Mul", "s t", "b"), node("ConvInteger", "q w z", "m"),
            node("Cast", "m", "c", to=TensorProto.FLOAT), node("Mul", "c b", "y"),
        ]  # fmt: skip

    found = model_of(["n", 1, 5, 5], dynamic(), arrays, ["y"])
    assert not any("rounded by its range" in repr(n.op) for n in found.model.nodes)
    one = {**arrays, "t": np.float32(0.1)}
    found = model_of(["n", 1, 5, 5], dynamic(), one, ["y"])
    assert any("rounded by its range" in repr(n.op) for n in found.model.nodes)
    own = model_of(["n", 1, 5, 5], dynamic("evil"), one, ["y"])
    assert not any("rounded by its range" in repr(n.op) for n in own.model.nodes)


def test_forged_decisions_and_bounds_of_other_classes():
    a, b = margin_nets()
    found = mo.equivalent(a, b, on=mo.Box(0.5, 1.0), decision=True)

    class Wide(mo.Box):
        pass

    class Small(mo.Slack):
        pass

    apart = mo.distance(a, b, on=BOX, budget=20)
    for forged in (
        replace(found, on=Wide(0.5, 1.0)),
        replace(found, status="refuted"),
        replace(apart, on=Wide(-1, 1)),
        replace(apart, bound=Small(apart.upper, 0.0)),
    ):
        with pytest.raises(mo.CertificateRejected):
            forged.check()
    flipped = [np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0]])]
    plain = load_as_written(dense([np.eye(2), np.eye(2)], [np.zeros(2)] * 2))
    other = load_as_written(dense(flipped, [np.zeros(2)] * 2, RANGES))
    refuted = mo.equivalent(plain, other, on=mo.Box([0.1, 0.6], [0.2, 0.9]), decision=True)
    right = refuted.witness
    for wrong in (
        right._replace(first=right.second, second=right.first),
        right._replace(first=17),
        right._replace(inputs={}),
        right._replace(inputs={"x": np.array(0.1)}),
    ):
        with pytest.raises(mo.CertificateRejected):
            replace(refuted, witness=wrong).check()
