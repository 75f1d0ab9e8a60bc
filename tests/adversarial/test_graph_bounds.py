"""Wrong bounds and forged results of graphs that were once accepted: each is refused, or is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import moduli as mo
from moduli.kernel.graph.certificate import GraphCertificate, GraphMove, played
from moduli.kernel.graph.differences import apart
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Linear, Node, PerUnit, Slicewise
from moduli.kernel.slack import NO_SLACK, Slack

N = helper.make_node
CHANNELS = Linear(1, 1, 1, 0, free=((0, 0),))


def model(nodes, inputs, outputs, stored, opset=17, kind=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return mo.load(made)


def single(**arrays):
    return {name: np.float32(array) for name, array in arrays.items()}


# Bounds ---------------------------------------------------------------------------------------------------------


def counting(last=2.0**-24):
    """How many outputs of a layer are not zero, which decides a shape."""
    nodes = [
        N("MatMul", ["x", "w1"], ["y"]), N("Relu", ["y"], ["r"]), N("MatMul", ["r", "w2"], ["p0"]),
        N("Add", ["p0", "b"], ["p"]), N("Relu", ["p"], ["pp"]), N("NonZero", ["pp"], ["nz"]),
        N("Shape", ["nz"], ["sh"]), N("Gather", ["sh", "one"], ["k"]),
        N("Cast", ["k"], ["o"], to=TensorProto.FLOAT),
    ]  # fmt: skip
    stored = single(w1=[[1, 1, 1, 0.3], [2, 2, 2, -1]], w2=[[1], [last], [1], [0]], b=[-2])
    return model(nodes, {"x": [1, 2]}, {"o": []}, {**stored, "one": np.array(1)})


def test_sizes_that_depend_on_values_may_differ():
    small = mo.compress(counting())
    x = {"x": np.array([[1.0, 0.0]])}
    assert small.slack == 0
    assert small.original.source.run(x)["o"] == small.network.source.run(x)["o"]
    assert mo.distance(counting(), counting(0.5)).status == "undecided"


@pytest.mark.parametrize("names", [["y", "s", "b"], ["y", "s"]])
def test_a_computed_scale_of_a_norm_grows(names):
    def made(seed):
        w = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)
        nodes = [N("MatMul", ["x", "w"], ["y"]), N("LayerNormalization", names, ["z"], axis=-1)]
        return model(nodes, {"x": ["n", 3], "s": [4], "b": [4]}, {"z": ["n", 4]}, {"w": w})

    found = mo.distance(made(0), made(1))
    assert not found.bound.finite
    assert mo.equivalent(made(0), made(1), eps=1e-9).status != "proved"


def test_sums_of_taps_that_overflow_bound_nothing():
    stored = {
        "w1": np.array([[[1e308, 1e308], [1.0, 1.0]], [[0, 0], [1.0, 0]]]), "b1": np.array([0.5, 0.0]),
        "w2": np.array([[[1.0], [1.0]]]), "b2": np.zeros(1),
    }  # fmt: skip
    shapes = {
        "x": (1, 2, 4),
        "y": (1, 2, 3),
        "o": (1, 1, 3),
        **{k: v.shape for k, v in stored.items()},
    }
    nodes = tuple(
        Node(CHANNELS, names, (y,), y)
        for names, y in ((("x", "w1", "b1"), "y"), (("y", "w2", "b2"), "o"))
    )
    made = GraphModel(("x",), ("o",), nodes, shapes, stored)
    box = {"x": (np.array([[[0.0], [-3.0]]]), np.array([[[0.0], [0.0]]]))}
    with pytest.raises(mo.CertificateRejected):
        played(made.live(), [GraphMove("remove", "w1", 0, (0,), (-1,))], box)


def test_a_slope_that_underflows_is_not_zero():
    def made(mean):
        stored = {
            "g": np.array([5e-324]), "b": np.zeros(1), "m": np.array([mean]), "v": np.array([1e10]),
            "w": np.array([[1e308]]),
        }  # fmt: skip
        shapes = {x: ("n", 1) for x in "xyz"} | {k: v.shape for k, v in stored.items()}
        nodes = (
            Node(PerUnit("batchnorm", 1, (0.0,)), ("x", "g", "b", "m", "v"), ("y",), "y"),
            Node(CHANNELS, ("y", "w"), ("z",), "z"),
        )
        return GraphModel(("x",), ("z",), nodes, shapes, stored)

    assert apart(made(0.0), made(1e300), {}).constant > 1e279


def test_a_variance_beyond_all_floats_is_no_slope_of_zero():
    """variance + epsilon is 2e308, whose root is 1.4e154: 1e300 / 1.4e154 is large, and no zero."""

    def made(mean):
        stored = {
            "g": np.array([1e300, 1.0]), "b": np.zeros(2), "m": np.array([mean, 0.0]),
            "v": np.array([1e308, 1.0]), "w": np.array([[1.0, 1.0]]), "a": np.eye(2),
            "c": np.zeros(1),
        }  # fmt: skip
        shapes = {"x": ("n", 2), "h": ("n", 2), "y": ("n", 2), "z": ("n", 1)}
        shapes |= {k: v.shape for k, v in stored.items()}
        nodes = (
            Node(CHANNELS, ("x", "a"), ("h",), "h"),
            Node(PerUnit("batchnorm", 1, (1e308,)), ("h", "g", "b", "m", "v"), ("y",), "y"),
            Node(CHANNELS, ("y", "w", "c"), ("z",), "z"),
        )
        return GraphModel(("x",), ("z",), nodes, shapes, stored)

    box = {"x": (np.array(-1.0), np.array(1.0))}
    with pytest.raises(mo.CertificateRejected, match="not constant"):
        played(made(0.0), [GraphMove("remove", "y", 1, (0,), (-1,))], box)
    assert apart(made(0.0), made(1.0), box).constant > 1e145


def test_longer_floats_are_no_stored_numbers():
    stored = {
        "w": np.array([[1], [1 + np.longdouble(2) ** -60]], dtype=np.longdouble),
        "v": np.ones((1, 2)),
    }
    shapes = {"x": ("n", 1), "y": ("n", 2), "z": ("n", 1), "w": (2, 1), "v": (1, 2)}
    nodes = (Node(CHANNELS, ("x", "w"), ("y",), "y"), Node(CHANNELS, ("y", "v"), ("z",), "z"))
    made = GraphModel(("x",), ("z",), nodes, shapes, stored)
    with pytest.raises(mo.CertificateRejected, match="no tensor of real numbers"):
        GraphCertificate(made.digest, made.digest, (), {}).verify(made, made)
    with pytest.raises(mo.CertificateRejected):
        apart(made, made, {})
    with pytest.raises(mo.CertificateRejected):
        played(made.live(), [GraphMove("remove", "w", 0, (1,), (0,))], {})


def test_sums_of_integers_wrap():
    def made(last):
        nodes = [N("Concat", ["x", "c"], ["y"], axis=0), N("ReduceSum", ["y"], ["z"], keepdims=0)]
        stored = {"c": np.array([last], dtype=np.int32)}
        return model(nodes, {"x": [2]}, {"z": []}, stored, kind=TensorProto.INT32)

    assert not mo.distance(made(2**31 - 2), made(2**31 - 3)).bound.finite


def test_tensors_without_entries_are_bounded():
    def made(scale):
        nodes = [
            N("Slice", ["x", "two", "two", "one"], ["e"]), N("MatMul", ["e", "w"], ["y"]),
            N("Tanh", ["y"], ["t"]), N("ReduceSum", ["t"], ["z"], keepdims=0),
        ]  # fmt: skip
        stored = {
            "w": np.full((3, 2), scale, np.float32),
            "two": np.array([2]),
            "one": np.array([1]),
        }
        return model(nodes, {"x": ["n", 4, 3]}, {"z": []}, stored)

    assert mo.distance(made(1.0), made(1.5), on=mo.Box(-1, 1)).check()


# Searches -------------------------------------------------------------------------------------------------------


def pairs(c, act="Relu", last=(), opset=17):
    nodes = [N("MatMul", ["x", "w1"], ["y"]), N(act, ["y"], ["r"]), N("MatMul", ["r", "w2"], ["p"])]
    nodes += [N(kind, [a], [b]) for kind, a, b in last] + [N("Identity", ["x"], ["same"])]
    stored = single(w1=[[1, 1, 1, 0.3], [2, 2, 2, -1]], w2=[[1], [c], [1], [0.7]])
    return model(
        nodes,
        {"x": ["n", 2]},
        {last[-1][2] if last else "p": ["n", 1], "same": ["n", 2]},
        stored,
        opset,
    )


def test_without_rounding_nothing_is_rounded():
    """Two of three copies may go without rounding, one by one, and not both."""
    assert mo.signature(pairs(2.0**-23)) != mo.signature(pairs(0.0))
    first = mo.equivalent(pairs(2.0**-23), pairs(0.0))
    assert first.status != "proved"
    assert first.a.slack == first.a.growth == first.b.slack == 0


def test_where_rounding_has_no_bound_the_rest_still_goes():
    small = mo.compress(pairs(2.0**-23, last=[("Exp", "p", "o")]))
    assert small.slack == 0
    assert small.network.parameters == 9
    assert small.more == 1


def test_ends_near_the_largest_float():
    nodes = [
        N("MatMul", ["x", "w"], ["y"]),
        N("Clip", ["y", "lo", "hi"], ["c"]),
        N("MatMul", ["c", "v"], ["p"]),
        N("Sin", ["p"], ["o"]),
    ]
    stored = {
        "w": np.ones((2, 2)),
        "v": np.ones((2, 1)),
        "lo": np.array(-1.7e308),
        "hi": np.array(1.7e308),
    }
    made = model(nodes, {"x": ["n", "m", 2]}, {"o": ["n", "m", 1]}, stored, kind=TensorProto.DOUBLE)
    assert mo.compress(made).check()


def test_honest_rounding_that_cancels_is_no_fault_of_the_reader():
    nodes = [
        N("MatMul", ["x", "w"], ["y"]), N("Add", ["y", "b"], ["s"]), N("Relu", ["s"], ["r"]),
        N("MatMul", ["r", "v"], ["o"]),
    ]  # fmt: skip
    stored = single(w=[[1, 1, 1]], b=[100, 100, 100 + 2.0**-17], v=[[1e6], [0.021], [-1e6]])
    small = mo.compress(model(nodes, {"x": ["n", 1]}, {"o": ["n", 1]}, stored))
    assert small.check()


# Inputs ---------------------------------------------------------------------------------------------------------


def in_order(which, names):
    nodes = [
        N("MatMul", [names[0], "wl"], ["l0"]), N("MatMul", [names[1], "wl"], ["l1"]), N("Add", ["l0", "l1"], ["l"]),
        N("MatMul", [names[which], "w1"], ["y0"]), N("Add", ["y0", "b1"], ["y"]), N("Relu", ["y"], ["r"]),
        N("MatMul", ["r", "w2"], ["p"]), N("Add", ["p", "l"], ["q"]), N("Sin", ["q"], ["o"]),
    ]  # fmt: skip
    stored = single(wl=[[1]], w1=[[1, 2, 0]], b1=[-5, -10, 0], w2=[[1], [1], [1]])
    return model(nodes, {n: ["n", 1] for n in names}, {"o": ["n", 1]}, stored)


def test_a_box_of_named_inputs_is_of_the_same_inputs_of_both():
    a, b = in_order(0, ["x", "z"]), in_order(1, ["z", "x"])
    assert mo.equivalent(a, b, on=mo.Box({"x": (0.0, 1.0)})).status != "proved"
    assert mo.distance(a, b, on=mo.Box({"x": (0.0, 1.0)})).upper > 0
    same = mo.equivalent(a, in_order(0, ["u", "v"]), on=mo.Box({"x": (0.0, 1.0)}))
    assert same.status == "proved"
    assert same.check()


def test_windows_of_attention_are_not_read_over():
    def made(**given):
        nodes = [N("Attention", ["q", "k", "v"], ["z"], **given)]
        return model(nodes, {n: [1, 2, 5, 4] for n in "qkv"}, {"z": [1, 2, 5, 4]}, {}, 25)

    try:
        narrow = made(left_window_size=0, right_window_size=0)
    except mo.UnsupportedModel:
        pytest.skip("this onnx has no windows")
    assert mo.equivalent(narrow, made()).status != "proved"


def test_an_output_without_entries_refutes_nothing():
    def made(scale):
        nodes = [N("MatMul", ["x", "w"], ["y"]), N("Slice", ["y", "one", "end", "one"], ["o"])]
        stored = {
            "w": np.full((2, 1), scale, np.float32),
            "one": np.array([1]),
            "end": np.array([2**40]),
        }
        return model(nodes, {"x": ["b", "t", 2]}, {"o": ["b", "u", 1]}, stored)

    found = mo.equivalent(made(1.0), made(2.0), on=mo.Box(0.25, 0.5))
    assert found.status == "undecided"


# Results made by hand -------------------------------------------------------------------------------------------


def layers(move=0.0, bias=0.0, first=None):
    nodes = [
        N("Conv", ["x", "a", "b"], ["h"]),
        N("Relu", ["h"], ["r"]),
        N("Conv", ["r", "c"], ["o"]),
    ]
    rng = np.random.default_rng(0)
    stored = single(
        a=rng.normal(size=(3, 1, 1, 1)), b=[bias, 1, 2], c=rng.normal(size=(2, 3, 1, 1))
    )
    stored["a"][0] += move
    if first is not None:
        stored["a"] = np.float32(first).reshape(3, 1, 1, 1)
    return model(nodes, {"x": ["n", 1, 3, 3]}, {"o": ["n", 2, 3, 3]}, stored)


def test_forged_equalities_are_refused():
    box = mo.Box(-1, 1)
    refuted = mo.equivalent(layers(), layers(bias=50.0), on=box)
    assert refuted.status == "refuted"
    assert refuted.check()
    witness = refuted.witness
    near = mo.equivalent(layers(), layers(2.0**-10), on=box, eps=1.0)
    assert near.near is not None
    assert near.check()
    outside = {name: np.full_like(x, 9.0) for name, x in witness.inputs.items()}
    forged = [
        replace(refuted, status="proved"), replace(refuted, witness=None),
        replace(refuted, witness=witness._replace(difference=1e9)),
        replace(refuted, witness=witness._replace(output="zz")),
        replace(refuted, witness=witness._replace(inputs=outside)),
        replace(refuted, eps=1e6), replace(near, near=Slack(1e-300, 0.0)), replace(near, eps=1e-300),
        replace(near, near=None), replace(near, on=mo.Box(-9, 9)),
    ]  # fmt: skip
    for result in forged:
        with pytest.raises(mo.CertificateRejected):
            result.check()
    parts = layers(first=[1, -1, 1])
    inside = mo.equivalent(parts, parts, on=mo.Box(5, 9))
    assert inside.check()
    with pytest.raises(mo.CertificateRejected):
        replace(inside, on=None).check()


def test_forged_distances_are_refused():
    box = mo.Box(-1, 1)
    found, other = (
        mo.distance(layers(), layers(0.5), on=box),
        mo.distance(layers(), layers(bias=50.0), on=box),
    )
    same = mo.equivalent(layers(), layers(), on=box)
    refuted = mo.equivalent(layers(), layers(bias=50.0), on=box)
    assert found.check()
    assert other.check()
    outside = {name: np.full_like(x, 9.0) for name, x in other.witness.inputs.items()}
    forged = [
        replace(found, same=same, bound=NO_SLACK), replace(found, same=refuted, bound=NO_SLACK),
        replace(found, bound=NO_SLACK), replace(other, witness=other.witness._replace(inputs=outside)),
        replace(other, witness=other.witness._replace(difference=1e9)),
    ]  # fmt: skip
    for result in forged:
        with pytest.raises(mo.CertificateRejected):
            result.check()


class Flat(Slicewise):
    """An operator that says what it likes of its slices."""

    def slices(self, node, axis, facts):
        n = facts.shape(node.output)[axis]
        return facts.classes.made(n, np.zeros(n), np.zeros(n), {})


def test_operators_of_other_classes_are_refused():
    op = Flat("softmax", ((0, 0),))
    made = GraphModel(
        ("x",), ("y",), (Node(op, ("x",), ("y",), "y"),), {"x": (1, 3), "y": (1, 3)}, {}
    )
    with pytest.raises(mo.CertificateRejected):
        apart(made, made, {})


def test_outputs_whose_shapes_depend_on_values_are_not_bounded():
    def made(kind):
        nodes = [
            N(kind, ["s", "zero"], ["c"]), N("Compress", ["x", "c"], ["y"], axis=0),
            N("Clip", ["y", "zero", "zero"], ["z"]),
        ]  # fmt: skip
        return model(nodes, {"x": ["n", 2], "s": ["n"]}, {"z": ["k", 2]}, single(zero=0))

    a, b = made("Greater"), made("Less")
    assert not apart(a.model, b.model, {}).finite


def test_layers_without_inputs():
    nodes = [
        N("Gemm", ["x", "w", "b"], ["y"]),
        N("Relu", ["y"], ["r"]),
        N("Gemm", ["r", "v"], ["z"]),
    ]
    stored = single(w=np.zeros((0, 3)), b=[1, 1, -1], v=[[1], [2], [3]])
    made = model(
        [*nodes, N("Identity", ["x"], ["same"])],
        {"x": ["n", 0]},
        {"z": ["n", 1], "same": ["n", 0]},
        stored,
    )
    assert mo.compress(made).check()


def test_a_tied_autoencoder_keeps_its_weights():
    w = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    w[:, 2] = w[:, 0] + w[:, 1]
    nodes = [
        N("MatMul", ["x", "w"], ["y"]), N("Transpose", ["w"], ["t"], perm=[1, 0]), N("MatMul", ["y", "t"], ["k"]),
        N("Relu", ["k"], ["z"]), N("Identity", ["x"], ["same"]),
    ]  # fmt: skip
    made = model(nodes, {"x": ["n", 5]}, {"z": ["n", 5], "same": ["n", 5]}, {"w": w})
    small = mo.compress(made)
    assert small.check()
    assert small.network.parameters == 15


def test_witnesses_of_other_shapes_are_refused():
    refuted = mo.equivalent(layers(), layers(bias=50.0), on=mo.Box(-1, 1))
    for wrong in (np.zeros(3), np.zeros(()), np.array("text"), [[0.0]]):
        witness = refuted.witness._replace(inputs={"x": wrong})
        with pytest.raises(mo.CertificateRejected):
            replace(refuted, witness=witness).check()
    found = mo.distance(layers(), layers(0.5), on=mo.Box(-1, 1))
    with pytest.raises(mo.CertificateRejected):
        replace(found, status="proved").check()
