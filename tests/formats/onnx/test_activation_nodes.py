"""Activations in ONNX files: random attributes, ends and slopes against onnxruntime, spellings, and
what is refused.
"""

from __future__ import annotations

import numpy as np
import pytest

import moduli as mo
from moduli.formats import load_chain

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

F = np.float32


def model(nodes, stored=(), opset=17, shape=("n", 4)):
    """x @ w as z, then nodes as (op, inputs, output, attributes) up to y; everything in float32."""
    rng = np.random.default_rng(3)
    tensors = {"w": rng.normal(size=(4, 4)).astype(F), **dict(stored)}
    made = [helper.make_node("MatMul", ["x", "w"], ["z"])]
    made += [
        helper.make_node(op, given.split(" "), [out], **attributes)
        for op, given, out, attributes in nodes
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in (("x", shape), ("y", None))
    ]
    graph = helper.make_graph(
        made,
        "g",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    proto.ir_version = 8
    return proto


def agrees(proto, scale=3.0):
    net = load_chain(proto)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = (scale * np.random.default_rng(4).normal(size=(64, 4))).astype(F)
    got = session.run(None, {"x": x})[0]
    assert np.allclose(net(x.astype(float)), got, rtol=3e-6, atol=3e-6)
    return net


def number(rng):
    return float(F(rng.choice([0.5, 1.0, 0.01, float(rng.normal()), 2.5])))


OPERATIONS = {
    "Elu": lambda rng: ({"alpha": number(rng)}, (6, 22)),
    "LeakyRelu": lambda rng: ({"alpha": number(rng)}, (6, 17)),
    "Selu": lambda rng: ({"alpha": abs(number(rng)) + 0.1, "gamma": abs(number(rng)) + 1}, (6, 17)),
    "Celu": lambda rng: ({"alpha": abs(number(rng)) + 0.1}, (12, 17)),
    "HardSigmoid": lambda rng: ({"alpha": abs(number(rng)) + 0.01, "beta": number(rng)}, (6, 17)),
    "HardSwish": lambda rng: ({}, (14, 17)),
    "Mish": lambda rng: ({}, (18,)),
    "Softplus": lambda rng: ({}, (6, 17)),
    "Clip": lambda rng: (
        dict(zip(("min", "max"), sorted(rng.normal(size=2).tolist()), strict=True)),
        (6, 10),
    ),
}


@pytest.mark.parametrize("op", OPERATIONS)
def test_operations_with_random_attributes_and_with_their_defaults(op):
    rng = np.random.default_rng(1)
    for _ in range(6):
        attributes, opsets = OPERATIONS[op](rng)
        kept = {name: value for name, value in attributes.items() if rng.random() < 0.7}
        agrees(model([(op, "z", "y", kept)], opset=int(rng.choice(opsets))))


def test_a_hard_sigmoid_may_fall():
    agrees(model([("HardSigmoid", "z", "y", {"alpha": -0.75, "beta": 0.25})]))


def test_clips_with_ends_as_inputs():
    rng = np.random.default_rng(2)
    kinds = set()
    for trial in range(24):
        low, high = np.sort(rng.normal(size=2)).astype(F)
        low = F(0) if trial % 3 == 0 else low
        shape = [(), (1,)][trial % 2]
        given = ["z lo hi", "z lo", "z  hi", "z"][trial % 4]
        stored = {"lo": np.full(shape, min(low, high)), "hi": np.full(shape, max(low, high) + 1)}
        kinds.add(agrees(model([("Clip", given, "y", {})], stored)).output_map.split("(")[0])
    assert kinds == {"clip", "relu", "identity"}


SPELLED = {
    "relu6 of tensorflow": ([("Relu", "z", "a", {}), ("Min", "a six", "y", {})], "clip(0.0,6.0)"),
    "cut ends": ([("Max", "z lo", "a", {}), ("Min", "hi a", "y", {})], "clip(-0.25,0.5)"),
    "other way round": ([("Min", "z hi", "a", {}), ("Max", "lo a", "y", {})], "clip(-0.25,0.5)"),
    "clip of a clip": (
        [("Clip", "z lo six", "a", {}), ("Clip", "a  hi", "y", {})],
        "clip(-0.25,0.5)",
    ),
    "relu of a clip": ([("Clip", "z lo six", "a", {}), ("Relu", "a", "y", {})], "clip(0.0,6.0)"),
    "max as a relu": ([("Max", "zero z", "y", {})], "relu"),
    "relu twice": ([("Relu", "z", "a", {}), ("Relu", "a", "y", {})], "relu"),
    "softplus": (
        [("Exp", "z", "a", {}), ("Add", "a one", "b", {}), ("Log", "b", "y", {})],
        "softplus",
    ),
    "softplus turned": (
        [("Exp", "z", "a", {}), ("Add", "one a", "b", {}), ("Log", "b", "y", {})],
        "softplus",
    ),
    "elu with a slope": (
        [("Elu", "z", "a", {}), ("PRelu", "a lean", "y", {})],
        f"elu({float(F(0.3))})",
    ),
}
NUMBERS = {"six": F(6), "lo": F(-0.25), "hi": F(0.5), "zero": F([0]), "one": F(1), "lean": F([0.3])}


@pytest.mark.parametrize("name", SPELLED)
def test_spellings(name):
    nodes, kind = SPELLED[name]
    assert agrees(model(nodes, NUMBERS)).output_map == kind


@pytest.mark.parametrize(
    "nodes",
    [[("Max", "z hi", "a", {}), ("Min", "a lo", "y", {})], [("Max", "z hi", "y", {})], [("Min", "z lo", "y", {})],
     [("Relu", "z", "a", {}), ("Min", "a lo", "y", {})]],
)  # fmt: skip
def test_bounds_that_are_no_clip_are_read_as_relus(nodes):
    assert agrees(model(nodes, NUMBERS)).output_map == "identity"


def test_one_entry_with_axes_of_its_own_is_a_number():
    assert agrees(model([("Max", "z c", "y", {})], {"c": np.zeros((1, 1), F)})).output_map == "relu"


def test_a_clip_at_the_largest_float_is_none():
    largest = float(np.finfo(F).max)
    net = agrees(model([("Clip", "z", "y", {"min": 0.0, "max": largest})], opset=6))
    assert net.output_map == "relu"
    assert any("largest float32" in note for note in net.notes)
    notes = agrees(model([("Clip", "z", "y", {"min": 0.0})], opset=6)).notes
    assert not any("largest float32" in note for note in notes)


def test_slopes_per_unit():
    rng = np.random.default_rng(5)
    for shape in ((4,), (1, 4), (1,), (1, 1), ()):
        slope = rng.choice([0.0, 0.25, -1.5], shape).astype(F)
        net = agrees(model([("PRelu", "z s", "h", {}), ("MatMul", "h w", "y", {})], {"s": slope}))
        if slope.size > 1:
            assert net.units == 4 + np.count_nonzero(slope)
            assert any("PReLU" in note for note in net.notes)


REFUSED = {
    "max broadcasts": ([("Max", "z c", "y", {})], {"c": np.zeros((2, 1, 4), F)}, 17, "shape"),
    "max with a row": ([("Max", "z c", "y", {})], {"c": np.zeros(4, F)}, 17, "one constant number"),
    "max with more axes": (
        [("Max", "z c", "y", {})],
        {"c": np.zeros((1, 1, 1), F)},
        17,
        "no more axes",
    ),
    "max of data": ([("Max", "z x", "y", {})], {}, 17, "one tensor that depends on the input"),
    "min of three": (
        [("Min", "z a b", "y", {})],
        {"a": F(1), "b": F(2)},
        17,
        "one constant number",
    ),
    "old max": ([("Max", "z c", "y", {})], {"c": F(0)}, 7, "before opset 8"),
    "slopes with axes": (
        [("PRelu", "z s", "y", {})],
        {"s": np.full((2, 1, 4), 0.5, F)},
        17,
        "do not broadcast",
    ),
    "slopes per sample": (
        [("PRelu", "z s", "y", {})],
        {"s": np.full((3, 1), 0.5, F)},
        17,
        "do not broadcast",
    ),
    "too many slopes": (
        [("PRelu", "z s", "y", {})],
        {"s": np.full(5, 0.5, F)},
        17,
        "do not broadcast",
    ),
    "thresholded": (
        [("ThresholdedRelu", "z", "y", {"alpha": 0.5})],
        {},
        17,
        "ThresholdedRelu with alpha=0.5 jumps",
    ),
    "thresholded by default": (
        [("ThresholdedRelu", "z", "y", {})],
        {},
        17,
        "ThresholdedRelu with alpha=1.0 jumps",
    ),
    "celu falling": ([("Celu", "z", "y", {"alpha": -1.0})], {}, 17, "alpha=-1"),
    "celu of zero": ([("Celu", "z", "y", {"alpha": 0.0})], {}, 17, "alpha=0"),
    "ends crossed": (
        [("Clip", "z a b", "y", {})],
        {"a": F(1), "b": F(0)},
        17,
        r"\[1\.0, 0\.0\] is constant",
    ),
    "ends equal": (
        [("Clip", "z", "y", {"min": 1.0, "max": 1.0})],
        {},
        6,
        r"\[1\.0, 1\.0\] is constant",
    ),
    "ends per unit": (
        [("Clip", "z a", "y", {})],
        {"a": np.zeros(4, F)},
        17,
        "min must be one constant number",
    ),
    "end from data": ([("Clip", "z z", "y", {})], {}, 17, "min depends on the input"),
    "late ends early": ([("Clip", "z a", "y", {})], {"a": F(0)}, 6, "attributes before opset 11"),
    "elu of nan": ([("Elu", "z", "y", {"alpha": float("nan")})], {}, 17, "must be finite"),
    "softplus of base 3": (
        [("Exp", "z", "a", {}), ("Add", "a c", "b", {}), ("Log", "b", "y", {})],
        {"c": F(2)},
        17,
        "softplus, is understood|Exp",
    ),
    "softplus of a row": (
        [("Exp", "z", "a", {}), ("Add", "a c", "b", {}), ("Log", "b", "y", {})],
        {"c": np.ones((2, 1, 4), F)},
        17,
        "softplus, is understood|Exp",
    ),
    "gelu of another form": (
        [("Gelu", "z", "y", {"approximate": "erf"})],
        {},
        20,
        "approximate='erf'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    nodes, stored, opset, message = REFUSED[name]
    with pytest.raises(mo.UnsupportedModel, match=message):
        load_chain(model(nodes, stored, opset))


def test_old_slopes_belong_to_channels():
    """Before opset 7 a PRelu of an image has one slope per channel, not per column."""
    nodes = [
        helper.make_node("PRelu", ["x", "s"], ["h"]),
        helper.make_node("Flatten", ["h"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 2, 2)),
        helper.make_tensor_value_info("y", 1, None),
    ]
    slope = numpy_helper.from_array(np.array([0.25, 0.5], F), "s")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [slope])
    with pytest.raises(mo.UnsupportedModel, match="belong to channels"):
        load_chain(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["elu(0.3)", "elu(1.0)", "clip(-0.1,6.0)", "hardswish", "mish"])
def test_written_and_run_in_both_precisions(tmp_path, kind, dtype):
    rng = np.random.default_rng(8)
    draw = (rng.normal(size=shape) for shape in ((5, 3), 5, (2, 5), 2))
    net = mo.Network.mlp(*draw, activation=kind, output_map=kind)
    path = mo.save(net, tmp_path / "net.onnx", dtype=dtype)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    x = rng.normal(size=(50, 3)).astype(dtype)
    got = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"]).run(
        None, {"input": x}
    )[0]
    assert got.dtype == dtype
    assert np.allclose(got, net(x.astype(float)), rtol=1e-5, atol=1e-5)
    again = load_chain(path)
    assert again.activations == net.activations
    assert again.output_map == net.output_map
