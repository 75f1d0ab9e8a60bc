"""Dense chains are networks, also with operators of other domains."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import moduli as mo


def test_a_scaler_in_front(tmp_path):
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 6), (6, 2))]
    graph = helper.make_graph(
        [
            helper.make_node(
                "Scaler", ["x"], ["u"], domain="ai.onnx.ml",
                offset=[0.5, -1.0, 0.25, 2.0], scale=[2.0, 0.5, 1.0, 4.0],
            ),
            helper.make_node("MatMul", ["u", "w"], ["z"]),
            helper.make_node("Relu", ["z"], ["h"]),
            helper.make_node("MatMul", ["h", "v"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(w, name) for w, name in zip(weights, "wv", strict=True)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path = tmp_path / "a.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    net = mo.load(path)
    assert isinstance(net, mo.Network)
    x = rng.standard_normal((20, 4)).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    assert np.abs(net(x.astype(float)) - wanted).max() < 1e-4


def test_one_number_cast_like_another():
    """It is a tensor, as the kernel demands."""
    text = "(float[n,2] x) => (float[n,2] y) { v = CastLike(c, k) p = Pow(x, v) y = MatMul(p, w) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    stored = {"c": np.float16(3), "k": np.int64(0), "w": np.array([[1, 2], [3, 4]], np.float32)}
    for name, array in stored.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    assert mo.compress(model, on=mo.Box(-1, 1)).check()
