"""Reading and writing: against onnxruntime and the onnx reference evaluator, and against damage of
every kind.
"""

from __future__ import annotations

import io
import math
import os
import tracemalloc
import zipfile
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from moduli import formats
from moduli.common.exact_values import exact_arrays
from moduli.formats import load_chain as load
from moduli.formats import save
from moduli.formats.onnx.nodes import OPS
from moduli.kernel.activations import Activation
from moduli.kernel.box import Frame
from moduli.kernel.errors import ModuliError, UnsupportedModel
from moduli.kernel.network import Network
from moduli.kernel.slack import Slack, difference

RNG = np.random.default_rng(7)
KINDS = [
    "relu", "leaky_relu(0.1)", "leaky_relu(0.5)",
    "tanh", "sigmoid", "erf", "gelu", "gelu_tanh", "silu", "softplus", "sin", "abs",
    "elu(1.0)", "elu(0.3)", "elu(-2.0)", "clip(0.0,6.0)", "clip(-0.1,0.3)", "hardswish", "mish",
]  # fmt: skip


def floats(*shape, dtype=np.float64):
    return RNG.normal(size=shape).astype(dtype)


def network(*widths, kind="tanh", output_map="identity"):
    arrays = [part for n, m in pairwise(widths) for part in (floats(m, n), floats(m))]
    return Network.mlp(*arrays, activation=kind, output_map=output_map)


def model(
    nodes,
    stored=(),
    shape=("N", 3),
    opset=17,
    outputs=("y",),
    kind=TensorProto.DOUBLE,
    inputs=("x",),
):
    """A graph from nodes written as (op, inputs, outputs, attributes); inputs are split at blanks."""
    made = [
        helper.make_node(op, given.split(" "), made.split(), **attributes)
        for op, given, made, attributes in nodes
    ]
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in dict(stored).items()]
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        tensors,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    proto.ir_version = 8
    return proto


def dense(*nodes, **stored):
    return [(n[0], n[1], n[2], n[3] if len(n) > 3 else {}) for n in nodes], stored


def agree(proto, shape=(1, 3), samples=5, output="y", **options):
    """The reference evaluator at batch size 1 and our network, in float64."""
    net = load(proto, output=output, **options)
    evaluator = ReferenceEvaluator(proto)
    for _ in range(samples):
        x = floats(*shape)
        expected = evaluator.run([output], {"x": x})[0].ravel()
        assert np.allclose(net(x.reshape(1, -1))[0], expected, rtol=1e-12, atol=1e-13)
    return net


# The shared models ----------------------------------------------------------------------------------------------

DENSE = {
    "acasxu_1_1.onnx": 300, "acasxu_1_1.nnet": 300, "mnistfc_256x2.onnx": 512,
    "rl_cartpole.onnx": 128, "reach_vdp.onnx": 64, "tll_8.onnx": 252, "nn4sys_lindex.onnx": 384,
    "safenlp_ruarobot.onnx": 128, "hls_three_layer_keras.onnx": 128,
    "hls_three_layer_bn_pytorch.onnx": 128, "arch_tora.onnx": 300, "arch_docking.onnx": 512,
    "arch_acc.onnx": 100, "arch_attitude.onnx": 192, "HCAS_rect_v6_pra0_tau00_25HU_3000.nnet": 125,
    "marabou_mnist5x20_leaky_relu.onnx": 120,
}  # fmt: skip
CONVERTED = {
    "KERAS_3layer_70pruned_retrained_weights.h5": 128, "TORA_ReLUtanh_controller.polar": 60,
    "acasxu_1_1.nnet": 300, "HCAS_rect_v6_pra0_tau00_25HU_3000.nnet": 125,
    "verisig_mountain_car_sig16x16.yml": 32, "verisig_quadrotor_tanh20x20.yml": 40,
    "sb3_ppo_Acrobot-v1_policy.pth": 128, "serra_mnist_100-100_checkpoint_120.tar": 200,
    "serra_cifar10_400-400_L1_pruned_checkpoint_120.tar": 364, "rosetta3_model2_1000nets.npz": 6,
    "sl2p_v1_v2_v3.npz": 5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected", "units"),
    [(n, n, u) for n, u in DENSE.items()]
    + [(f"{n.rpartition('.')[0]}.converted.onnx", n, u) for n, u in CONVERTED.items()],
)
def test_shared_dense_models_agree(shared, name, expected, units, record_property):
    net = load(shared / "models" / name)
    data = np.load(shared / "models" / f"{expected}.expected.npz")
    error = np.abs(net(data["inputs"]) - data["output"]).max() / np.abs(data["output"]).max()
    record_property("relative_error", float(error))
    assert error <= 1e-5
    assert net.units == units


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cifar10_resnet_2b.onnx",
            r"node 0 'Conv_0' \(Conv\): a convolution proper \(kernel \(3, 3\) on an image \(32, 32\)\)",
        ),
        ("mnist_convnet_maxpool.onnx", r"node 0 'Conv_0' \(Conv\): a convolution proper"),
        (
            "marabou_certificate_and_controller_mandal.onnx",
            "3 outputs; choose one with output=, from 'output_1', 'output_2'",
        ),
        (
            "KERAS_3layer_70pruned_retrained_weights.h5",
            "holds weights and not the layers .no model_config.; build the model, load these weights",
        ),
        ("verisig_mountain_car_sig16x16.yml", "export the model to ONNX"),
        ("rosetta3_model2_1000nets.npz", "needed are W1, b1, W2, b2"),
    ],
)
def test_shared_others_are_refused(shared, name, message):
    with pytest.raises(UnsupportedModel, match=message) as caught:
        load(shared / "models" / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_one_output_of_several(shared):
    path = shared / "models" / "marabou_certificate_and_controller_mandal.onnx"
    data = np.load(f"{path}.expected.npz")
    for name, key, columns in (
        ("output_1", "output", slice(0, 4)),
        ("output_3", "output_2", slice(4, 8)),
    ):
        net = load(path, output=name)
        assert (
            np.abs(net(data["inputs"][:, columns]) - data[key]).max()
            <= 1e-5 * np.abs(data[key]).max()
        )
    with pytest.raises(
        UnsupportedModel, match="no output 'y'; choose one with output=, from 'output_1'"
    ):
        load(path, output="y")


def test_lattice_folds_exactly_and_batch_norm_says_what_it_did(shared):
    assert load(shared / "models" / "tll_8.onnx").notes == (
        "agrees with onnx.reference at 18 inputs (batch 1 and 3)",
    )
    normed = load(shared / "models" / "hls_three_layer_bn_pytorch.onnx")
    assert normed.notes[0] == "folded a batch normalisation with its stored statistics (4 times)"
    assert "rounding to float64 changes the output by at most" in normed.notes[1]
    assert normed.output_map == "softmax"


# Operations -----------------------------------------------------------------------------------------------------

W, V, B = floats(3, 4), floats(4, 2), floats(4)
GEMMS = [
    {}, {"transB": 1}, {"alpha": 0.3}, {"beta": -1.7}, {"alpha": 2.5, "beta": 0.5, "transB": 1},
    {"beta": 0.0},
]  # fmt: skip


@pytest.mark.parametrize("attributes", GEMMS)
@pytest.mark.parametrize("offset", [(4,), (1, 4), (1,), (), None])
def test_gemm(attributes, offset):
    weight = floats(4, 3) if attributes.get("transB") else floats(3, 4)
    stored = {"w": weight} | ({} if offset is None else {"c": floats(*offset)})
    nodes = [
        ("Gemm", "x w" + ("" if offset is None else " c"), "z", attributes),
        ("Relu", "z", "h", {}),
    ]
    nodes.append(("MatMul", "h v", "y", {}))
    agree(model(nodes, stored | {"v": V}))


@pytest.mark.parametrize("turn", [0, 1])
def test_gemm_with_the_input_on_the_right(turn):
    nodes = [
        ("Gemm", "w x c", "z", {"transB": 1, "transA": turn}),
        ("Tanh", "z", "h", {}),
        ("Transpose", "h", "y", {}),
    ]
    agree(
        model(
            nodes, {"w": floats(3, 4) if turn else floats(4, 3), "c": floats(4, 1)}, outputs=("y",)
        )
    )


def test_gemm_on_a_transposed_input():
    agree(
        model(
            [("Transpose", "x", "t", {"perm": [1, 0]}), ("Gemm", "t w", "y", {"transA": 1})],
            {"w": W},
        )
    )


ELEMENTWISE = [
    ("Add", "x c"), ("Add", "c x"), ("Sub", "x c"), ("Sub", "c x"), ("Mul", "x c"), ("Mul", "c x"),
    ("Div", "x c"), ("Sum", "x c c"), ("Neg", "x"), ("Identity", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs"), ELEMENTWISE)
@pytest.mark.parametrize("shape", [(3,), (1, 3), (1,), ()])
def test_elementwise(op, inputs, shape):
    nodes = [
        (op, inputs, "a", {}),
        ("MatMul", "a w", "z", {}),
        ("Sigmoid", "z", "h", {}),
        ("Mul", "h d", "y", {}),
    ]
    agree(model(nodes, {"c": floats(*shape), "w": W, "d": floats(4)}))


def test_constants_are_folded():
    nodes = [
        ("Sub", "p q", "r", {}), ("Mul", "r p", "s", {}), ("Div", "s two", "t", {}),
        ("Neg", "t", "u", {}), ("Add", "u q", "v", {}), ("Transpose", "m", "mt", {}),
        ("MatMul", "x mt", "z", {}), ("Mul", "z v", "y", {}),
    ]  # fmt: skip
    agree(model(nodes, {"p": floats(4), "q": floats(4), "two": np.array(3.0), "m": floats(4, 3)}))


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (("Flatten", "x", "f", {}), (1, 2, 3)),
        (("Flatten", "x", "f", {"axis": 0}), (1, 2, 3)),
        (("Flatten", "x", "f", {"axis": -2}), (1, 2, 3)),
        (("Squeeze", "x", "f", {}), (1, 6)),
        (("Squeeze", "x axes1", "f", {}), (1, 1, 6)),
        (("Unsqueeze", "x axes1", "f", {}), (1, 6)),
        (("Transpose", "x", "f", {"perm": [0, 2, 1]}), (1, 2, 3)),
        (("Reshape", "x all", "f", {}), (1, 2, 3)),
        (("Reshape", "x keep", "f", {}), (1, 2, 3)),
        (("Reshape", "x exact", "f", {"allowzero": 1}), (1, 2, 3)),
        (("Gather", "x pick", "f", {"axis": 1}), (1, 6)),
        (("Slice", "x zero six axes1 two", "f", {}), (1, 6)),
        (("Slice", "x minus far axes1 minus", "f", {}), (1, 6)),
        (("Cast", "x", "f", {"to": TensorProto.DOUBLE}), (1, 6)),
        (("Dropout", "x", "f", {}), (1, 6)),
        (("Concat", "x", "f", {"axis": 1}), (1, 6)),
    ],
)
def test_rearrangements(node, shape):
    numbers = {
        "axes1": [1], "all": [-1, 6], "keep": [0, -1], "exact": [1, 3, 2], "pick": [3, -1, 0, 0],
        "zero": [0], "six": [6], "two": [2], "minus": [-1], "far": [-(2**62)], "flat": [1, -1],
    }  # fmt: skip
    stored = {name: np.array(v, np.int64) for name, v in numbers.items()}
    columns = {"Gather": 4, "Slice": 3 if "two" in node[1] else 6}.get(node[0], 6)
    nodes = [
        node,
        ("Reshape", "f flat", "g", {}),
        ("MatMul", "g w", "z", {}),
        ("Tanh", "z", "h", {}),
        ("Add", "h c", "y", {}),
    ]
    agree(model(nodes, stored | {"w": floats(columns, 4), "c": floats(4)}, shape), shape)


def test_squeeze_axes_as_attributes_and_slices_before_opset_10():
    nodes = [
        ("Unsqueeze", "x", "a", {"axes": [2]}), ("Squeeze", "a", "b", {"axes": [2]}),
        ("Slice", "b", "c", {"axes": [1], "starts": [1], "ends": [3]}), ("MatMul", "c w", "y", {}),
    ]  # fmt: skip
    net = load(model(nodes, {"w": W[:2]}, opset=9))
    x = floats(4, 3)
    assert np.allclose(net(x), x[:, 1:] @ W[:2])


def test_the_shape_that_torch_computes_before_a_reshape():
    nodes = [
        ("Shape", "x", "s", {}), ("Gather", "s zero", "n", {"axis": 0}),
        ("Unsqueeze", "n axes", "n1", {}), ("Concat", "n1 rest", "target", {"axis": 0}),
        ("Reshape", "x target", "f", {}), ("MatMul", "f w", "y", {}),
    ]  # fmt: skip
    stored = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1]), "w": floats(6, 2)}
    agree(model(nodes, stored, ("N", 2, 3)), (1, 2, 3))


def test_constant_nodes():
    value, many = numpy_helper.from_array(W), numpy_helper.from_array(np.array([2.5]))
    nodes = [
        ("Constant", "", "w", {"value": value}), ("Constant", "", "f", {"value_float": 0.5}),
        ("MatMul", "x w", "z", {}), ("Constant", "", "v", {"value_floats": [1.0, 2.0, 3.0, 4.0]}),
        ("Mul", "z f", "u", {}), ("Add", "u v", "a", {}),
        ("Constant", "", "k", {"value_ints": [4]}), ("ConstantOfShape", "k", "o", {"value": many}),
        ("ConstantOfShape", "k", "p", {}), ("Add", "a o", "b", {}), ("Add", "b p", "y", {}),
    ]  # fmt: skip
    proto = model(nodes)
    for node in proto.graph.node:
        if list(node.input) == [""]:
            del node.input[:]
    net = load(proto)
    x = floats(3, 3)
    assert np.allclose(net(x), x @ W * 0.5 + [1, 2, 3, 4] + 2.5)


def test_convolution_that_is_a_dense_layer():
    nodes = [
        ("Conv", "x k b", "z", {"kernel_shape": [2, 3]}), ("Relu", "z", "h", {}),
        ("Conv", "h l", "g", {"dilations": [1, 1]}), ("Flatten", "g", "y", {}),
    ]  # fmt: skip
    stored = {"k": floats(4, 2, 2, 3), "b": floats(4), "l": floats(2, 4, 1, 1)}
    net = agree(model(nodes, stored, ("N", 2, 2, 3)), (1, 2, 2, 3))
    assert net.widths == (12, 4, 2)
    for attributes in (
        {"pads": [1, 1, 1, 1]},
        {"auto_pad": "SAME_UPPER"},
        {"kernel_shape": [1, 1]},
    ):
        nodes[0] = ("Conv", "x k b", "z", attributes)
        with pytest.raises(UnsupportedModel, match=r"node 0 \(Conv\): a convolution proper"):
            load(model(nodes, stored, ("N", 2, 2, 3)))
    grouped = model([("Conv", "x k", "y", {"group": 2})], {"k": floats(4, 1, 2, 3)}, ("N", 2, 2, 3))
    with pytest.raises(UnsupportedModel, match="a convolution proper"):
        load(grouped)


@pytest.mark.parametrize("opset", [9, 17])
def test_batch_normalisation(opset):
    nodes = [
        ("MatMul", "x w", "z", {}),
        ("BatchNormalization", "z s b m v", "n", {"epsilon": 0.01}),
        ("Relu", "n", "y", {}),
    ]
    stored = {"w": W, "s": floats(4), "b": B, "m": floats(4), "v": np.abs(floats(4))}
    net = load(model(nodes, stored, opset=opset))
    x = floats(5, 3)
    epsilon = float(np.float32(0.01))
    expected = np.maximum(
        (x @ W - stored["m"]) / np.sqrt(stored["v"] + epsilon) * stored["s"] + stored["b"], 0
    )
    assert np.allclose(net(x), expected, rtol=1e-12)
    nodes[1] = ("BatchNormalization", "z s b m v", "n rm rv", {"training_mode": 1})
    with pytest.raises(
        UnsupportedModel, match=r"training mode; export the model in evaluation mode"
    ):
        load(model(nodes, stored))


def test_broadcasting_before_opset_7():
    nodes = [
        ("Mul", "x c", "a", {"broadcast": 1, "axis": 1}),
        ("Flatten", "a", "f", {}),
        ("Gemm", "f w b", "y", {"broadcast": 1}),
    ]
    stored = {"c": floats(2), "w": floats(6, 4), "b": B}
    net = load(model(nodes, stored, ("N", 2, 3), opset=6))
    x = floats(5, 2, 3)
    assert np.allclose(
        net(x.reshape(5, 6)), (x * stored["c"][:, None]).reshape(5, 6) @ stored["w"] + B
    )


ACTIVATIONS = [
    (("Relu", "x", "y", {}), "relu"),
    (("LeakyRelu", "x", "y", {}), f"leaky_relu({float(np.float32(0.01))})"),
    (("LeakyRelu", "x", "y", {"alpha": 0.25}), "leaky_relu(0.25)"),
    (("LeakyRelu", "x", "y", {"alpha": 0.0}), "relu"),
    (("PRelu", "x slope", "y", {}), "leaky_relu(0.3)"),
    (("Tanh", "x", "y", {}), "tanh"),
    (("Sigmoid", "x", "y", {}), "sigmoid"),
    (("Erf", "x", "y", {}), "erf"),
    (("Gelu", "x", "y", {}), "gelu"),
    (("Gelu", "x", "y", {"approximate": "tanh"}), "gelu_tanh"),
    (("Softplus", "x", "y", {}), "softplus"),
    (("Sin", "x", "y", {}), "sin"),
    (("Abs", "x", "y", {}), "abs"),
    (("Max", "x zero", "y", {}), "relu"),
    (("Elu", "x", "y", {}), "elu(1.0)"),
    (("Elu", "x", "y", {"alpha": 0.25}), "elu(0.25)"),
    (("Elu", "x", "y", {"alpha": 0.0}), "relu"),
    (("HardSwish", "x", "y", {}), "hardswish"),
    (("HardSigmoid", "x", "y", {}), "clip(0.0,1.0)"),
    (("Mish", "x", "y", {}), "mish"),
    (("Clip", "x", "y", {}), "identity"),
    (("Clip", "x zero", "y", {}), "relu"),
    (("Clip", "x zero six", "y", {}), "clip(0.0,6.0)"),
    (("ThresholdedRelu", "x", "y", {"alpha": 0.0}), "relu"),
]


@pytest.mark.parametrize(("node", "kind"), ACTIVATIONS)
def test_activations(node, kind):
    nodes = [("MatMul", "x0 w", "x", {}), node]
    numbers = {"slope": np.full(4, 0.3), "zero": np.array(0.0), "six": np.array(6.0)}
    proto = model(nodes, {"w": W, **numbers}, opset=20, inputs=("x0",))
    net = load(proto)
    x = floats(6, 3)
    assert net.output_map == kind
    expected = ReferenceEvaluator(proto).run(None, {"x0": x})[0]
    assert np.allclose(net(x), expected, rtol=1e-6, atol=1e-7)


ROOT = float(np.float32(math.sqrt(2)))
PRODUCTS = {
    "silu": ([("Sigmoid", "z", "s", {}), ("Mul", "s z", "h", {})], "silu"),
    "torch": (
        [
            ("Div", "z root", "a", {}),
            ("Erf", "a", "e", {}),
            ("Add", "e one", "p", {}),
            ("Mul", "z p", "q", {}),
            ("Mul", "q half", "h", {}),
        ],
        "gelu",
    ),
    "keras": (
        [
            ("Mul", "z half", "g", {}),
            ("Mul", "z rsqrt", "a", {}),
            ("Erf", "a", "e", {}),
            ("Add", "one e", "p", {}),
            ("Mul", "g p", "h", {}),
        ],
        "gelu",
    ),
    "tanh": (
        [
            ("Pow", "z three", "c", {}),
            ("Mul", "c k", "k3", {}),
            ("Add", "z k3", "s", {}),
            ("Mul", "s r", "a", {}),
            ("Tanh", "a", "e", {}),
            ("Add", "e one", "p", {}),
            ("Mul", "z half", "g", {}),
            ("Mul", "g p", "h", {}),
        ],
        "gelu_tanh",
    ),
}
NUMBERS = {
    "root": ROOT, "rsqrt": math.sqrt(0.5), "one": 1.0, "half": 0.5, "three": 3.0, "k": 0.044715,
    "r": math.sqrt(2 / math.pi),
}  # fmt: skip


@pytest.mark.parametrize("spelling", PRODUCTS)
@pytest.mark.parametrize("before", ["MatMul", "Mul"])
def test_activations_spelled_as_products(spelling, before):
    nodes, kind = PRODUCTS[spelling]
    stored = {name: np.array(number) for name, number in NUMBERS.items()} | {
        "w": W if before == "MatMul" else floats(3)
    }
    proto = model([(before, "x w", "z", {}), *nodes, ("Neg", "h", "y", {})], stored)
    net = load(proto)
    x = floats(6, 3)
    assert [str(a) for a in net.activations] == [kind]
    expected = ReferenceEvaluator(proto).run(None, {"x": x})[0]
    assert np.allclose(net(x), expected, rtol=1e-6, atol=1e-7)
    assert (kind == "silu") == (not any("floats nearest" in note for note in net.notes))


def test_softmax_last():
    for opset, axis in ((9, 1), (17, -1), (17, 1)):
        agree(
            model(
                [("MatMul", "x w", "z", {}), ("Softmax", "z", "y", {"axis": axis})],
                {"w": W},
                opset=opset,
            )
        )
    with pytest.raises(
        UnsupportedModel, match=r"over 1 entries .* softmax over all outputs of a sample"
    ):
        load(model([("Softmax", "x", "y", {"axis": 0})]))
    with pytest.raises(UnsupportedModel, match="an operation after Softmax"):
        load(model([("Softmax", "x", "s", {}), ("MatMul", "s w", "y", {})], {"w": W}))
    with pytest.raises(
        UnsupportedModel, match="LogSoftmax is not understood; export the model without it"
    ):
        load(model([("LogSoftmax", "x", "y", {})]))


def test_batches():
    w = {"w": floats(6, 2)}
    fixed = model(
        [("Reshape", "x t", "f", {}), ("MatMul", "f w", "y", {})],
        w | {"t": np.array([789, 6])},
        (789, 2, 3),
    )
    assert load(fixed).widths == (6, 2)
    fixed = model(
        [("Reshape", "x t", "f", {}), ("MatMul", "f w", "y", {})],
        w | {"t": np.array([6, -1])},
        (6, 6),
    )
    assert load(fixed).widths == (6, 2)
    column = model(
        [("MatMul", "m x", "z", {}), ("Add", "z b", "y", {})],
        {"m": floats(4, 3), "b": floats(4, 1)},
        (3, 1),
    )
    with pytest.raises(UnsupportedModel, match=r"mixes samples .* say input_shape=\(3, 1\)"):
        load(column)
    agree(column, (3, 1), input_shape=(3, 1))
    agree(model([("MatMul", "x w", "z", {}), ("Relu", "z", "y", {})], {"w": W}, (3,)), (3,))
    image = model(
        [("Reshape", "x t", "f", {}), ("MatMul", "f w", "y", {})],
        w | {"t": np.array([1, 6])},
        (2, 3),
    )
    agree(image, (2, 3), input_shape=(2, 3))
    with pytest.raises(UnsupportedModel, match="it would differ from sample to sample"):
        load(model([("Add", "x c", "y", {})], {"c": floats(7, 3)}))
    with pytest.raises(UnsupportedModel, match="it would differ from sample to sample"):
        load(model([("Add", "x c", "y", {})], {"c": floats(7, 3)}, (7, 3)))


def test_input_shape():
    flat = [("Flatten", "x", "f", {}), ("MatMul", "f w", "y", {})]
    proto = model(flat, {"w": floats(6, 2)}, ("N", "rows", 3))
    with pytest.raises(
        UnsupportedModel, match=r"input 'x' has shape \[None, None, 3\]; give input_shape="
    ):
        load(proto)
    assert (
        load(proto, input_shape=(2, 3))
        == load(proto, input_shape=(1, 2, 3))
        == load(proto, input_shape=(8, 2, 3))
    )
    unknown = model([("MatMul", "x w", "y", {})], {"w": W}, None)
    with pytest.raises(UnsupportedModel, match="unknown; give input_shape="):
        load(unknown)
    assert load(unknown, input_shape=3) == load(unknown, input_shape=(1, 3))
    with pytest.raises(UnsupportedModel, match=r"input_shape \(3, 0\)"):
        load(proto, input_shape=(3, 0))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8])
def test_stored_types_are_real_numbers(dtype):
    weight = np.array([[1, 2], [3, 4], [5, 250 if dtype == np.uint8 else 7]]).astype(dtype)
    net = load(model([("MatMul", "x w", "y", {})], {"w": weight}))
    assert np.array_equal(net.layers[0].weight, weight.T.astype(float))


def test_bfloat16_and_typed_fields():
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [3, 1], [1.5, -2.0, 0.25])
    proto = model([("MatMul", "x w", "y", {})])
    proto.graph.initializer.append(tensor)
    assert load(proto).layers[0].weight.tolist() == [[1.5, -2.0, 0.25]]
    proto.graph.initializer[0].CopyFrom(
        helper.make_tensor("w", TensorProto.FLOAT, [3, 1], [1.5, -2.0, 0.25])
    )
    assert load(proto).layers[0].weight.tolist() == [[1.5, -2.0, 0.25]]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            [("MatMul", "x w", "a", {}), ("Relu", "a", "r", {}), ("Add", "a r", "y", {})],
            r"node 2 \(Add\): two tensors .*residual",
        ),
        (
            [("MatMul", "x w", "a", {}), ("Mul", "a a", "y", {})],
            r"node 1 \(Mul\): multiplies two tensors",
        ),
        (
            [("MatMul", "x w", "a", {}), ("Softsign", "a", "y", {})],
            r"node 1 \(Softsign\) is not understood; understood are dense layers",
        ),
        (
            [("Softsign", "x", "a", {}), ("MaxPool", "a", "y", {"kernel_shape": [1]})],
            r"node 0 \(Softsign\) is not understood",
        ),
        ([("Div", "w x", "y", {})], r"node 0 \(Div\): the divisor depends on the input"),
        ([("Div", "x zero", "y", {})], "division by zero"),
        (
            [("MatMul", "x x", "y", {})],
            "a product of a tensor that depends on the input with a constant",
        ),
        (
            [("PRelu", "x w", "y", {})],
            r"slopes of shape \(3, 4\) do not broadcast to a tensor of shape \(1, 3\)",
        ),
        ([("Max", "x w", "y", {})], r"the other operand of Max has shape \(3, 4\)"),
        (
            [("Concat", "x w", "y", {"axis": 1})],
            "joins a tensor that depends on the input with a constant",
        ),
        ([("Cast", "x", "y", {"to": TensorProto.INT64})], "a cast of data to ONNX type 7"),
        ([("Relu", "nowhere", "y", {})], "nothing produces 'nowhere'"),
        ([("Relu", "y", "z", {}), ("Abs", "z", "y", {})], "depends on 0 inputs"),
        (
            [("Add", "x z", "z", {}), ("Relu", "z", "y", {})],
            r"node 0 \(Add\) depends on its own output",
        ),
        (
            [("Relu", "x", "y", {}), ("Abs", "x", "y", {})],
            r"node 1 \(Abs\) produces 'y', which something else produces",
        ),
        ([("Relu", "x", "w", {})], "produces 'w', which something else produces as well"),
        ([("Identity", "w", "y", {})], "depends on 0 inputs"),
        (
            [("Gemm", "x w", "y", {"transB": 1})],
            r"node 0 \(Gemm\): a tensor of shape \(1, 3\) times a matrix of shape \(4, 3\)",
        ),
        ([("Gemm", "x w", "y", {"alpha": 1})], "attribute 'alpha' has the wrong type"),
        ([("Flatten", "x", "y", {"axis": 9})], "axis 9 of a tensor with 2 axes"),
        ([("Transpose", "x", "y", {"perm": [0, 5]})], r"node 0 \(Transpose\): perm"),
        ([("Gather", "x far", "y", {"axis": 1})], r"node 0 \(Gather\): malformed"),
        ([("Reshape", "x far", "y", {})], r"node 0 \(Reshape\): malformed"),
        ([("Squeeze", "x far", "y", {})], r"node 0 \(Squeeze\): malformed"),
        (
            [("Relu", "x x", "y", {})],
            r"node 0 \(Relu\) has 2 inputs, which this operation does not take",
        ),
        (
            [("ConstantOfShape", "huge", "c", {}), ("Add", "x c", "y", {})],
            "makes a constant of shape",
        ),
        (
            [("Split", "x", "y b", {"axis": 1})],
            r"node 0 \(Split\): splits an axis of size 3 into 2 parts",
        ),
        ([("Add", "x nan", "y", {})], "tensor 'nan': a constant .* holds nan; it must be finite"),
        ([("Mul", "x nan", "y", {})], "tensor 'nan'"),
    ],
)
def test_refusals_name_the_node(nodes, message):
    stored = {
        "w": W, "zero": np.zeros(3), "far": np.array([77]),
        "huge": np.array([2**40, 2**40]),
        "nan": np.array([1.0, np.nan, 1.0]),
    }  # fmt: skip
    with pytest.raises(UnsupportedModel, match=message) as caught:
        load(model(nodes, stored))
    assert "\n" not in str(caught.value)


def test_more_refusals():
    two = model([("Relu", "a", "r", {}), ("Add", "r b", "y", {})], inputs=("a", "b"))
    with pytest.raises(
        UnsupportedModel, match=r"output 'y' depends on 2 inputs \('a', 'b'\); one is understood"
    ):
        load(two)
    with pytest.raises(UnsupportedModel, match="opset 5; opset 6 and later"):
        load(model([("Relu", "x", "y", {})], opset=5))
    with pytest.raises(UnsupportedModel, match="input 'x' is no tensor of real numbers"):
        load(model([("Relu", "x", "y", {})], kind=TensorProto.INT64))
    custom = model([("Relu", "x", "y", {})])
    custom.graph.node[0].domain = "com.example"
    with pytest.raises(UnsupportedModel, match=r"com\.example\.Relu"):
        load(custom)
    with pytest.raises(
        UnsupportedModel, match="layer from 100000 to 100000 needs 10000000000 numbers"
    ):
        load(model([("Relu", "x", "y", {})], shape=(1, 100_000)))
    with pytest.raises(UnsupportedModel, match="at most"):
        load(model([("Relu", "x", "y", {})], shape=(1, 2**40)))


def random_node(rng, shape, constant):
    """A node (op, constants before, constants after, attributes) that fits a tensor of the given
    shape.
    """
    rank, last = len(shape), shape[-1] if shape else 1
    near = [(), (1,), (last,), (1,) * rank, shape][rng.integers(5)]
    axis = int(rng.integers(rank)) if rank else 0
    match rng.integers(16):
        case 0 if rank:
            return "MatMul", [], [constant(dyadic(rng, last, rng.integers(1, 5)))], {}
        case 1 if rank > 1:
            return "MatMul", [constant(dyadic(rng, rng.integers(1, 4), shape[-2]))], [], {}
        case 2 if rank == 2:
            turn_a, turn_b, n = int(rng.integers(2)), int(rng.integers(2)), int(rng.integers(1, 5))
            inner = shape[0] if turn_a else shape[1]
            weight = dyadic(rng, n, inner) if turn_b else dyadic(rng, inner, n)
            parts = [constant(weight), constant(dyadic(rng, n))][: rng.integers(1, 3)]
            return (
                "Gemm",
                [],
                parts,
                {"transA": turn_a, "transB": turn_b, "alpha": 0.5, "beta": 2.0},
            )
        case 3 | 4:
            return ["Add", "Sub", "Mul"][rng.integers(3)], [], [constant(dyadic(rng, *near))], {}
        case 5:
            return "Div", [], [constant(np.abs(dyadic(rng, *near)) + 1.1)], {}
        case 6 if rank:
            return "Transpose", [], [], {"perm": [int(k) for k in rng.permutation(rank)]}
        case 7:
            return "Flatten", [], [], {"axis": int(rng.integers(-rank, rank + 1))}
        case 8:
            return (
                "Reshape",
                [],
                [constant(np.array([[1, -1], [-1], [-1, 1]][rng.integers(3)]))],
                {},
            )
        case 9:
            return "Unsqueeze", [], [constant(np.array([rng.integers(-rank - 1, rank + 1)]))], {}
        case 10 if rank:
            return (
                "Gather",
                [],
                [constant(rng.integers(-shape[axis], shape[axis], rng.integers(1, 4)))],
                {"axis": axis},
            )
        case 11 if rank > 1:
            gain, shift, mean, var = (
                constant(a)
                for a in (*dyadic(rng, 3, shape[1]), np.abs(dyadic(rng, shape[1])) + 0.5)
            )
            return "BatchNormalization", [], [gain, shift, mean, var], {"epsilon": 0.01}
        case 12 if rank > 2 and shape[0] == 1:
            return "Conv", [], [constant(dyadic(rng, rng.integers(1, 4), *shape[1:]))], {}
    return ["Relu", "Abs", "Tanh", "Sigmoid", "Neg", "Squeeze"][rng.integers(6)], [], [], {}


def dyadic(rng, *shape):
    return np.round(rng.normal(size=shape) * 4) / 4


def test_random_graphs_agree_with_the_reference():
    for seed in range(400):
        rng = np.random.default_rng(seed)
        shape = [(1, 3), (1, 2, 3), (1, 1, 1, 4), (1, 2, 2, 2), (3,), (1, 1)][rng.integers(6)]
        x, nodes, stored, name = dyadic(rng, *shape), [], {}, "x"

        def constant(array, stored=stored):
            stored[f"c{len(stored)}"] = array
            return f"c{len(stored) - 1}"

        value = x
        for k in range(rng.integers(1, 9)):
            op, before, after, attributes = random_node(rng, value.shape, constant)
            nodes.append((op, " ".join([*before, name, *after]), f"t{k}", attributes))
            name = f"t{k}"
            proto = model(nodes, stored, shape, outputs=(name,))
            value = ReferenceEvaluator(proto).run(None, {"x": x})[0]
        assert np.allclose(
            load(proto)(x.reshape(1, -1))[0],
            value.ravel(),
            rtol=1e-9,
            atol=1e-9 * max(1, np.abs(value).max()),
        ), seed


# Damage ---------------------------------------------------------------------------------------------------------


def small_file(folder: Path, **options) -> Path:
    return save(network(3, 4, 2, **options), folder / "small.onnx")


def test_missing_empty_truncated_directory(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.onnx")
    for suffix in (".onnx", ".nnet", ".npz", ".safetensors"):
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(UnsupportedModel, match="is a folder; give the file"):
            load(tmp_path / f"folder{suffix}")
        whole = save(network(3, 4, 2, kind="relu"), tmp_path / f"a{suffix}")
        data = whole.read_bytes()
        for keep in (0, 1, 7, len(data) // 2, len(data) - (60 if suffix == ".nnet" else 3)):
            whole.write_bytes(data[:keep])
            with pytest.raises(UnsupportedModel) as caught:
                load(whole)
            assert "\n" not in str(caught.value)
        whole.write_bytes(b"\x80\x04\x95pickle" * 9)
        with pytest.raises(UnsupportedModel):
            load(whole)
    (tmp_path / "e.onnx").touch()
    with pytest.raises(UnsupportedModel, match="0 bytes"):
        load(tmp_path / "e.onnx")


@pytest.mark.parametrize("field", ["raw", "float", "constant", "external"])
def test_ten_gigabytes_declared_in_a_kilobyte(tmp_path, field):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[50_000, 50_000])
    if field == "raw":
        tensor.raw_data = b"1234"
    elif field == "external":
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
        (tmp_path / "weights.bin").write_bytes(b"1234")
    else:
        tensor.float_data.append(1.0)
    nodes = [("MatMul", "x w", "y", {})]
    if field == "constant":
        nodes.insert(0, ("Constant", "", "w", {"value": tensor}))
    proto = model(nodes)
    if field == "constant":
        del proto.graph.node[0].input[:]
    else:
        proto.graph.initializer.append(tensor)
    path = tmp_path / "bomb.onnx"
    path.write_bytes(proto.SerializeToString())
    assert path.stat().st_size < 1000
    with pytest.raises(
        UnsupportedModel,
        match=r"tensor 'w'.* takes 10000000000 bytes|tensor 'w' declares shape \(50000, 50000\)",
    ):
        load(path)


def made_of_little(*nodes, shape=(1, 3), **stored):
    def one(value):
        return {"value": numpy_helper.from_array(np.array([value]))}

    fill = [("ConstantOfShape", f"n{k}", f"c{k}", one(1.1)) for k in range(3)]
    sizes = {"n0": np.array([2**22]), "n1": np.array([2**11, 2**11]), "n2": np.array([1, 2**22])}
    return model([*fill, *nodes], sizes | {"w": floats(3, 1), "s": np.array([1.5])} | stored, shape)


BOMBS = {
    "a chain of constants": [
        *(("Neg", f"{'t' if k else 'c'}{k}", f"t{k + 1}", {}) for k in range(5)),
        ("Add", "x t5", "y", {}),
    ],
    "squares": [
        ("MatMul", "c1 c1", "a", {}),
        ("MatMul", "a a", "b", {}),
        ("MatMul", "x b", "y", {}),
    ],
    "a larger constant": [
        ("Concat", "c0 c0 c0", "a", {"axis": 0}),
        ("Concat", "a a a", "b", {"axis": 0}),
        ("Add", "x b", "y", {}),
    ],
    "a broadcast output": [
        ("MatMul", "x w", "a", {}),
        ("Add", "a c2", "b", {}),
        ("Tanh", "b", "c", {}),
        ("Add", "c c2", "y", {}),
    ],
    "a wide product": [("Add", "x c2", "a", {}), ("MatMul", "a c1", "y", {})],
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_kilobyte_that_would_make_gigabytes(name):
    proto = made_of_little(*BOMBS[name])
    assert len(proto.SerializeToString()) < 2000
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedModel):
            load(proto)
        assert tracemalloc.get_traced_memory()[1] < 2**30
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "nodes", [[("Relu", "x", "y", {})], [("Mul", "x s", "a", {}), ("Tanh", "a", "y", {})]]
)
def test_identities_that_no_file_stores_are_limited(nodes):
    assert load(made_of_little(*nodes, shape=(1, 64))).widths == (64, 64)
    with pytest.raises(
        UnsupportedModel,
        match="with what was made before it, needs 25000000 numbers; at most 16777216",
    ):
        load(made_of_little(*nodes, shape=(1, 5000)))
    turns = [("Tanh", f"{'t' if k else 'x'}{k or ''}", f"t{k + 1}", {}) for k in range(40)]
    with pytest.raises(UnsupportedModel, match="with what was made before it"):
        load(made_of_little(*turns, ("Relu", "t40", "y", {}), shape=(1, 1000)))


def test_names_that_stand_twice_and_endless_shapes():
    proto = model([("MatMul", "x w", "y", {})], {"w": floats(3, 2)})
    assert load(proto).widths == (3, 2)
    for part, said in (
        ("initializer", "two tensors are named 'w'"),
        ("input", "two inputs are named 'x'"),
    ):
        twice = onnx.ModelProto()
        twice.CopyFrom(proto)
        getattr(twice.graph, part).append(getattr(proto.graph, part)[0])
        with pytest.raises(UnsupportedModel, match=said):
            load(twice)
    proto.graph.initializer[0].dims[:] = [2**62] * 200_000
    with pytest.raises(UnsupportedModel, match="a tensor with 200000 axes"):
        load(proto)


def test_numbers_that_numpy_warns_of():
    signalling = np.frombuffer(b"\1\0\0\0\0\0\xf0\x7f" * 6).reshape(3, 2)
    with pytest.raises(UnsupportedModel, match="nan"):
        load(model([("MatMul", "x w", "y", {})], {"w": signalling}))
    for whole in (np.int64([2**63 - 1]), np.uint64([2**64 - 1]), np.int64([2**53 + 1])):
        with pytest.raises(UnsupportedModel, match="float64 cannot hold"):
            load(
                model(
                    [("MatMul", "x w", "h", {}), ("Add", "h i", "y", {})],
                    {"w": floats(3, 1), "i": whole},
                )
            )


def external(folder: Path, location: str, **entries: str) -> Path:
    tensor = TensorProto(
        name="w", data_type=TensorProto.DOUBLE, dims=[3, 1], data_location=TensorProto.EXTERNAL
    )
    for key, value in ({"location": location} | entries).items():
        tensor.external_data.add(key=key, value=value)
    proto = model([("MatMul", "x w", "y", {})])
    proto.graph.initializer.append(tensor)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data(tmp_path):
    inside, data = tmp_path / "inside", np.arange(8.0).tobytes()
    (inside / "sub").mkdir(parents=True)
    (inside / "sub" / "w.bin").write_bytes(data)
    (tmp_path / "secret.bin").write_bytes(data)
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    (inside / "door").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe.bin")
    net = load(external(inside, "sub/w.bin", offset="16", length="24"))
    assert net.layers[0].weight.tolist() == [[2.0, 3.0, 4.0]]
    escapes = [
        "../secret.bin",
        str(tmp_path / "secret.bin"),
        "link.bin",
        "door/secret.bin",
        "sub/../../secret.bin",
        "",
        "C:w.bin",
    ]
    for location in ("x" * 300, "é" * 200, "x/" * 600 + "x"):
        with pytest.raises(UnsupportedModel, match=f"a name of {len(location)} characters"):
            load(external(inside, location))
    for location in [*escapes, "pipe.bin", "sub", "missing.bin", "..\\secret.bin"]:
        with pytest.raises(UnsupportedModel, match="inside the model's folder"):
            load(external(inside, location))
    for entries in (
        {"offset": "48"},
        {"offset": "-8"},
        {"length": "8"},
        {"offset": "x"},
        {"length": "99999999999"},
    ):
        with pytest.raises(UnsupportedModel, match=r"is said to be|malformed"):
            load(external(inside, "sub/w.bin", **entries))
    with pytest.raises(UnsupportedModel, match="load the model by its path"):
        load(onnx.load(external(inside, "sub/w.bin"), load_external_data=False))


def flipped(path, attempts, reach, seed):
    """Messages of the refusals of a file with one to three random bytes changed."""
    data, rng, messages = path.read_bytes(), np.random.default_rng(seed), []
    for _ in range(attempts):
        bad = bytearray(data)
        for at in rng.integers(0, min(len(data), reach), rng.integers(1, 4)):
            bad[at] = rng.integers(256)
        path.write_bytes(bytes(bad))
        try:
            load(path)
        except ModuliError as error:
            messages.append(str(error))
    return messages


def test_flipped_bytes_load_or_are_refused(tmp_path):
    messages = flipped(small_file(tmp_path, kind="gelu"), 500, 10**9, seed=0)
    assert 0 < len(messages) < 500
    assert all(m.isprintable() and "small.onnx" in m for m in messages)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".nnet"])
def test_flipped_bytes_of_other_formats(tmp_path, suffix):
    messages = flipped(
        save(network(3, 4, 2, kind="relu"), tmp_path / f"a{suffix}"), 200, 400, seed=1
    )
    assert messages
    assert all(m.isprintable() for m in messages)


def test_scrambled_graphs_load_or_are_refused():
    """Random operations with random attributes on random inputs and constants."""
    rng, loaded = np.random.default_rng(2), 0
    operations = [*OPS, "MaxPool"]
    for _ in range(600):
        names, nodes = ["x"], []
        for k in range(rng.integers(1, 7)):
            pool = [*names, *names, *SCRAMBLE]
            inputs = [str(name) for name in rng.choice(pool, rng.integers(1, 4))]
            chosen = {
                name: options[rng.integers(len(options))]
                for name, options in ATTRIBUTES.items()
                if rng.random() < 0.06
            }
            nodes.append(
                (str(rng.choice(operations)), " ".join([names[-1], *inputs[1:]]), f"t{k}", chosen)
            )
            names.append(f"t{k}")
        shape = [(1, 3), ("N", 3), (1, 1, 1, 3), (3,), (5, 3), (3, 1), ("N", 4), ()][
            rng.integers(8)
        ]
        proto = model(
            nodes, SCRAMBLE, shape, opset=int(rng.choice([6, 9, 13, 17])), outputs=(names[-1],)
        )
        try:
            loaded += load(proto).widths[0] > 0
        except ModuliError as error:
            assert str(error).isprintable()  # noqa: PT017
    assert loaded > 5


SCRAMBLE = {
    "w": floats(3, 4), "v": floats(4), "u": floats(3), "s": np.array(0.5), "i": np.array([1, -1]),
    "k": np.array(1), "e": np.zeros(0), "far": np.array([2**40]), "c": floats(4, 1, 1, 3),
    "b": np.array([True]), "z": np.zeros(4),
}  # fmt: skip
ATTRIBUTES = {
    "axis": [0, 1, -1, 5, -7],
    "axes": [[0], [1], [0, 0], [2]],
    "perm": [[0, 1], [1, 0], [3]],
    "alpha": [0.5, 0.0, math.nan, 1e30],
    "beta": [2.0, math.inf],
    "transA": [0, 1],
    "transB": [0, 1],
    "to": [1, 7, 99],
    "approximate": ["tanh", "x"],
    "starts": [[0], [1, 2]],
    "ends": [[2], [-1]],
    "start": [-1, 9],
    "epsilon": [1e-5, -1.0],
    "group": [1, 0],
    "pads": [[0] * 4, [1]],
    "broadcast": [1],
    "value_float": [1.0],
    "value_ints": [[1, -1]],
}


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_npz_refusals(tmp_path):
    path = tmp_path / "a.npz"
    good = {
        "W1": np.ones((2, 3)),
        "b1": np.ones(2),
        "activations": np.array([], dtype=str),
        "output_map": np.array("identity"),
    }
    path.write_bytes(npz(**good))
    assert load(path).widths == (3, 2)
    cases = [
        (npz(**good, W3=np.ones(3)), "needed are W1, b1"),
        (npz(**(good | {"activations": np.array(["tanh"])})), "1 activations for 0 hidden layers"),
        (npz(**(good | {"output_map": np.array("argmax")})), "unknown activation 'argmax'"),
        (npz(**(good | {"output_map": np.array(3)})), "must be unicode text"),
        (npz(**(good | {"activations": np.zeros((10**9, 0), dtype="U1")})), "must be unicode text"),
        (npz(**(good | {"output_map": np.array(["identity"])})), "must be unicode text"),
        (npz(**(good | {"W1": np.full((2, 3), np.inf)})), r"weight\[0, 0\] is inf"),
        (npz(**(good | {"W1": np.ones((2, 3), dtype=complex)})), "real numbers are needed"),
        (npz(**(good | {"W1": np.ones((2, 3), dtype=object)})), "declares object"),
        (npz(W1=np.zeros((8000, 4000))), "unpack to 256"),
    ]
    for data, message in cases:
        path.write_bytes(data)
        with pytest.raises(UnsupportedModel, match=message):
            load(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (50_000, 50_000)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("W1.npy", header.getvalue())
    with pytest.raises(UnsupportedModel, match="'W1' declares float64"):
        load(path)


NNET = """// comment
2,2,1,3,
2,3,1,
0,
-1.0,-2.0,
1.0,2.0,
0.5,0.0,1.5,
2.0,1.0,3.0,
1.0,2.0,
-1.0,0.0,
0.25,1e-3,
0.0,
0.5,
-1.0,
1.0,1.0,-1.0,
0.125,
"""


def test_nnet(tmp_path):
    path = tmp_path / "a.nnet"
    path.write_text(NNET)
    net = load(path)
    assert net.widths == (2, 3, 1)
    assert net.layers[0].weight.tolist() == [[1.0, 2.0], [-1.0, 0.0], [0.25, 1e-3]]
    assert net.layers[1].bias.tolist() == [0.125]
    frame = net.frame
    assert (frame.low.tolist(), frame.high.tolist(), frame.mean.tolist(), frame.scale.tolist()) == (
        [-1, -2],
        [1, 2],
        [0.5, 0],
        [2, 1],
    )
    assert (frame.out_mean, frame.out_scale) == (1.5, 3.0)
    again = load(save(net, tmp_path / "b.nnet"))
    assert again == net
    assert all(
        np.array_equal(getattr(again.frame, k), getattr(frame, k))
        for k in ("low", "high", "mean", "scale")
    )
    bare = network(3, 4, 2, kind="relu")
    again = load(save(bare, tmp_path / "c.nnet"))
    assert again == bare
    assert again.frame is None
    for change, message in [
        (("0.125,", "0.125,7,"), "need 13 weights and biases, but 14 are stored"),
        (("2,3,1,", "2,3,2,"), "do not fit the sizes"),
        (("2,2,1,3", "2000000000,2,1,3"), "do not fit the sizes"),
        (("2,3,1,", "2,3000000000,1,"), "need 12000000001 weights"),
        (("1e-3", "nan"), r"weight\[2, 1\] is nan"),
        (("1e-3", "1_0"), "holds no numbers"),
        (("2.0,1.0,3.0", "0.0,1.0,3.0"), "ranges positive"),
        (("0.5,0.0,1.5,", "0.5,0.0,"), "minima, maxima, means and ranges of lengths"),
        (("1e-3", "weight"), "malformed"),
    ]:
        path.write_text(NNET.replace(*change, 1))
        with pytest.raises(UnsupportedModel, match=message):
            load(path)
    with pytest.raises(
        UnsupportedModel,
        match=r"\.nnet holds ReLU networks .* this one has tanh units; write \.onnx",
    ):
        save(network(3, 4, 2), path)
    with pytest.raises(UnsupportedModel, match="softmax on the output"):
        save(network(3, 4, 2, kind="relu", output_map="softmax"), path)


# The doors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "text"), [(3, "1e308,"), (4, "-1e308,"), (6, "1e-310,0.5,1.0,1.0,")]
)
def test_nnet_bounds_that_are_no_box(tmp_path, row, text):
    net = replace(
        network(3, 2, kind="relu"),
        frame=Frame(-np.ones(3), np.ones(3), np.full(3, -1e308), np.ones(3), 0.0, 1.0),
    )
    path = save(net, tmp_path / "a.nnet")
    assert load(path).frame is not None
    lines = path.read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if not line.startswith("//"))
    lines[start + row] = text * 3 if row < 6 else text
    path.write_text("\n".join(lines))
    with pytest.raises(UnsupportedModel, match=r"finite|exceeds high"):
        load(path)


def test_load_objects():
    net = network(3, 4, 2)
    assert load(net) is net
    pairs = [(layer.weight, layer.bias) for layer in net.layers]
    assert load(pairs, activation="tanh") == net
    assert load(pairs[:1]).widths == (3, 4)
    with pytest.raises(
        UnsupportedModel, match=r"2 .* pairs store no activation; give it, as in activation='relu'"
    ):
        load(pairs)
    with pytest.raises(
        UnsupportedModel, match=r"cannot read a source of type int; a path, torch\.nn\.Module"
    ):
        load(7)


def test_zoo():
    with pytest.raises(
        UnsupportedModel, match=r"no zoo:nothing; there are .*zoo:digits-tanh"
    ) as caught:
        load("zoo:nothing")
    names = str(caught.value).partition("there are ")[2].split(", ")
    assert "zoo:person-detector" in names
    for name in names:
        assert formats.load(name).parameters > 0


def test_safetensors_of_others(tmp_path):
    from safetensors.numpy import save_file

    arrays = {
        "module.0.weight": floats(4, 3, dtype=np.float32),
        "module.2.weight": floats(2, 4, dtype=np.float16),
    }
    path = tmp_path / "a.safetensors"
    save_file(arrays, path)
    with pytest.raises(UnsupportedModel, match="stores no activation"):
        load(path)
    net = load(path, activation="relu")
    assert np.array_equal(net.layers[1].weight, arrays["module.2.weight"].astype(float))
    assert load(path, activation="relu", keys=("0",)).widths == (3, 4)
    save_file({"layers.0.weight": floats(4, 3)}, path, {"format": "moduli/1"})
    with pytest.raises(UnsupportedModel, match=r"needed are layers\.0\.weight, layers\.0\.bias"):
        load(path)


@pytest.mark.parametrize("suffix", [".onnx", ".npz", ".safetensors"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output_map", ["identity", "itself", "softmax"])
def test_round_trips(tmp_path, suffix, kind, output_map):
    net = network(3, 5, 4, 2, kind=kind, output_map=kind if output_map == "itself" else output_map)
    path = save(net, tmp_path / f"net{suffix}")
    again = load(path)
    assert again.digest == net.digest
    assert [note for note in again.notes if "agrees with onnx.reference" not in note] == []
    assert path.read_bytes() == save(again, tmp_path / f"twice{suffix}").read_bytes()
    rounded = load(save(net, path, dtype="float32"))
    assert rounded.activations == net.activations
    assert all(
        np.array_equal(r.weight, n.weight.astype(np.float32))
        for r, n in zip(rounded.layers, net.layers, strict=True)
    )


def test_round_trip_of_mixed_and_empty_layers(tmp_path):
    arrays = [np.zeros((0, 2)), np.zeros(0), np.zeros((3, 0)), floats(3), floats(1, 3), floats(1)]
    for slope in (-2.5, 0.0, 1.0):
        net = Network.mlp(*arrays, activation=["relu", f"leaky_relu({slope})"])
        for suffix in (".onnx", ".npz", ".safetensors"):
            assert load(save(net, tmp_path / f"a{suffix}")) == net
    relu = Network.mlp(*arrays, activation="relu")
    assert load(save(relu, tmp_path / "a.nnet")) == relu


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output_map", ["identity", "itself", "softmax"])
def test_onnxruntime_runs_what_is_written(tmp_path, dtype, kind, output_map):
    ort = pytest.importorskip("onnxruntime")
    net = network(3, 6, 0 if output_map == "softmax" and kind == "tanh" else 4, 2, kind=kind)
    net = Network(net.layers, output_map=kind if output_map == "itself" else output_map)
    path = save(net, tmp_path / "net.onnx", dtype=dtype)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    x = floats(9, 3).astype(dtype)
    got = session.run(None, {"input": x})[0]
    single = dtype == "float32" or kind.startswith(
        ("erf", "gelu", "softplus", "elu", "hardswish", "mish")
    )
    assert got.dtype == dtype
    assert np.abs(got - net(x)).max() <= (2e-5 if single else 1e-13) * max(np.abs(net(x)).max(), 1)


def test_float32_carries_its_slack(tmp_path):
    net = network(3, 50, 2)
    proto = onnx.load(save(net, tmp_path / "net.onnx", dtype="float32"))
    props = {entry.key: entry.value for entry in proto.metadata_props}
    rounded = load(proto)

    slack = difference(exact_arrays(net), exact_arrays(rounded), net.activations)
    assert props["moduli.slack"] == str(slack)
    x = floats(200, 3)
    assert 0 < np.abs(net(x) - rounded(x)).max() <= slack.within(float(np.abs(x).max()))
    assert "moduli.slack" not in {
        e.key for e in onnx.load(save(net, tmp_path / "net.onnx")).metadata_props
    }
    large = Network.mlp([[1e300]], [0.0], activation="tanh")
    with pytest.raises(
        UnsupportedModel, match="layer 1: weight 1e\\+300 exceeds float32; write dtype='float64'"
    ):
        save(large, tmp_path / "large.npz", dtype="float32")
    assert not (tmp_path / "large.npz").exists()


def test_save_refusals_leave_nothing_behind(tmp_path, monkeypatch):
    net = network(3, 4, 2)
    with pytest.raises(UnsupportedModel, match=r"cannot write '.h5'; suffixes: .onnx"):
        save(net, tmp_path / "a.h5")
    with pytest.raises(UnsupportedModel, match="dtype 'float16'"):
        save(net, tmp_path / "a.npz", dtype="float16")
    with pytest.raises(FileNotFoundError):
        save(net, tmp_path / "nowhere" / "a.npz")
    before = save(net, tmp_path / "a.npz").read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save(network(5, 5, 5), tmp_path / "a.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    assert (tmp_path / "a.npz").read_bytes() == before


def test_frame_survives_only_in_nnet(tmp_path):
    net = network(2, 3, 1, kind="relu")
    framed = Network(
        net.layers,
        frame=Frame(
            np.array([0.1, 0.2]), np.array([1 / 3, 2.0]), np.zeros(2), np.ones(2), 0.0, 1.0
        ),
    )
    assert load(save(framed, tmp_path / "a.nnet")).frame.high.tolist() == [1 / 3, 2.0]
    assert load(save(framed, tmp_path / "a.onnx")).frame is None


def test_torch_modules_and_checkpoints_go_to_torch_graph(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    assert load(module, input_shape=(3,)).widths == (3, 4, 2)
    torch.save(module.state_dict(), tmp_path / "a.pth")
    assert load(tmp_path / "a.pth", activation=Activation("tanh")).widths == (3, 4, 2)


def test_a_network_beyond_protobuf_is_sent_to_safetensors(tmp_path, monkeypatch):
    net = load("zoo:digits-plain")
    monkeypatch.setattr("moduli.formats.onnx.model_files.MAX_GRAPH", 4 * net.parameters)
    save(net, tmp_path / "a.onnx", dtype="float32")
    with pytest.raises(
        UnsupportedModel,
        match=f"{net.parameters} parameters in float64 exceed .*write .safetensors",
    ):
        save(net, tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


@given(*[st.floats(0, 1e290)] * 4)
def test_two_roundings_are_bounded_by_both(a, b, c, d):
    both = formats._both(Slack(a, b), Slack(c, d))
    assert Fraction(both.constant) >= Fraction(a) + Fraction(c)
    assert Fraction(both.growth) >= Fraction(b) + Fraction(d)
