"""`mo.rounding`: what is claimed of runtimes holds for those that are here, and nothing else is claimed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

import moduli as mo
from moduli.formats import load_as_written
from moduli.kernel.runtime import FORMATS

BOX = mo.Box(-1, 1)


def net(seed=0, widths=(4, 8, 8, 2), activation="relu"):
    rng, parts = np.random.default_rng(seed), []
    for n, m in itertools.pairwise(widths):
        parts += [rng.standard_normal((m, n)), rng.standard_normal(m)]
    found = mo.Network.mlp(*parts, activation=activation)
    return found.with_flat(FORMATS["float32"].nearest(found.flat()))


def ran(path, x):
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return session.run(None, {name: x.astype(np.float32)})[0].astype(np.float64)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu", "silu"])
def test_onnxruntime_keeps_the_bound(tmp_path, activation):
    a = net(activation=activation)
    path = mo.save(a, tmp_path / "a.onnx", dtype="float32")
    found = mo.rounding(path, on=BOX, budget=200)
    assert found.status == "bounded"
    assert isinstance(found.network, mo.Graph)
    x = np.random.default_rng(1).uniform(-1, 1, (2000, 4)).astype(np.float32).astype(np.float64)
    assert np.abs(ran(path, x) - a(x)).max() <= found.upper < 1e-2
    assert found.check()


@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_of_a_network(dtype):
    found = mo.rounding(net(), on=BOX, dtype=dtype, budget=100)
    assert 0 < found.upper < {"float64": 1e-11, "float32": 1e-2}.get(dtype, np.inf)
    if dtype == "float64":  # in which the function is evaluated, too
        assert found.seen is found.factor is None
    else:
        assert 0 < found.seen <= found.upper
        assert found.factor == found.upper / found.seen
    assert [row.name for row in found.by_layer] == ["layer 1", "layer 2", "layer 3"]
    assert all(row.made <= row.carried for row in found.by_layer)
    assert max(row.alone for row in found.by_layer) <= found.upper
    assert found.check()
    assert dtype in found.statement
    assert found.to_json()["upper"] == found.upper


def test_more_boxes_make_it_closer():
    a = net()
    few, many = (mo.rounding(a, on=BOX, budget=budget).upper for budget in (4, 400))
    assert many < 0.7 * few


def test_a_known_chain_of_sums_makes_it_closer():
    a = net(widths=(64, 64, 1))
    far, near = (mo.rounding(a, on=BOX, order=order, budget=4).upper for order in ("any", 8))
    assert near < far / 4


def test_ulps_are_what_functions_add():
    a = net(activation="tanh")
    uppers = [mo.rounding(a, on=BOX, ulps=k, budget=4).upper for k in (0.5, 4.0, 400.0)]
    assert uppers[0] < uppers[1] < uppers[2] / 10


def test_a_file_is_taken_as_it_is(tmp_path):
    """Scales that are folded when it is read as a chain round on their own at run time."""
    from onnx import TensorProto, helper, numpy_helper

    w = np.array([[1.0]], dtype=np.float32)
    nodes = [
        helper.make_node("Sub", ["x", "m"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["y"]),
    ]
    arrays = {"m": np.array([1e6], dtype=np.float32), "w": w}
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    file = tmp_path / "m.onnx"
    file.write_bytes(model.SerializeToString())
    assert isinstance(mo.load(file), mo.Network)
    assert isinstance(load_as_written(file), mo.Graph)
    found = mo.rounding(file, on=BOX)
    assert found.upper > 1e6 * 2.0**-24
    assert [row.name for row in found.by_layer] == ["s", "y"]
    assert "operators" in dict(found.rows())["network"]


def test_behind_a_chain(tmp_path):
    a = replace(net(), output_map="softmax")
    path = mo.save(a, tmp_path / "a.onnx", dtype="float32")
    found = mo.rounding(path, on=BOX, budget=50)
    x = np.random.default_rng(1).uniform(-1, 1, (500, 4)).astype(np.float32).astype(np.float64)
    assert np.abs(ran(path, x) - a(x)).max() <= found.upper < 1e-2
    assert found.by_layer[-1].alone is None
    assert found.by_layer[0].alone is not None
    assert found.seen is None
    assert found.check()


def test_a_graph_with_convolutions():
    detector = mo.load("zoo:person-detector")
    found = mo.rounding(detector, on=mo.Box(0, 1))
    assert found.status == "bounded"
    assert found.check()
    assert len(found._largest()) <= 12
    assert found.upper < 1.001  # a softmax gives shares, whatever comes in
    assert "within 1.01 of" in found.statement  # not below the bound


def test_overflow_is_a_finding():
    a = net()
    found = mo.rounding(a, on=mo.Box(-60000, 60000), dtype="float16", budget=4)
    assert (found.status, found.upper) == ("undecided", np.inf)
    assert found.statement == (
        "no bound of the rounding in float16: layer 1: a sum or value may exceed the largest number of float16"
    )
    with pytest.raises(mo.Undecided):
        found.check()
    with pytest.raises(mo.Undecided, match="no number for 100000"):
        mo.rounding(
            mo.Network.mlp([[1e5]], [0.0], [[1.0]], [0.0], activation="relu"),
            on=BOX,
            dtype="float16",
        )


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"on": None}, ValueError, "sizes of numbers decide"),
        ({"on": mo.Gaussian()}, ValueError, "sizes of numbers decide"),
        ({"on": mo.Box([0, 0], [1, 1])}, mo.ShapeError, "2 inputs for a network with 4"),
        ({"on": BOX, "dtype": "int8"}, ValueError, "float64, float32"),
        ({"on": BOX, "order": "pairwise"}, ValueError, "any"),
        ({"on": BOX, "order": 0}, ValueError, "order"),
        ({"on": BOX, "order": True}, ValueError, "order"),
        ({"on": BOX, "ulps": -1.0}, ValueError, "ulps"),
    ],
)
def test_bad_questions(given, error, match):
    with pytest.raises(error, match=match):
        mo.rounding(net(), **given)


def test_forged_answers_are_refused():
    found = mo.rounding(net(), on=BOX, budget=50)
    for forged in (
        replace(found, upper=found.upper / 2),
        replace(found, upper=-1.0),
        replace(found, upper=float("nan")),
        replace(found, tree=(0, -1)),
        replace(found, tree=(-1,), upper=found.upper),
        replace(found, on=mo.Box(-2, 2)),
        replace(found, runtime=replace(found.runtime, dtype="bfloat16")),
    ):
        with pytest.raises(mo.CertificateRejected):
            forged.check()


def test_a_file_in_a_narrower_format_is_computed_in_it(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    path = tmp_path / "half.onnx"
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT16, [1, 4]) for n in "xy"]
    onnx.save(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:])), path)
    with pytest.raises(ValueError, match="computes in float16"):
        mo.rounding(path, on=BOX)
    assert mo.rounding(path, on=BOX, dtype="float16").upper < 1e-3


def test_the_picture(tmp_path):
    from moduli.common import figures

    found = mo.rounding(net(), on=BOX, budget=20)
    data = found.plot_data()
    assert data["names"] == ["layer 1", "layer 2", "layer 3"]
    labels = [line.get_label() for line in found.plot().get_lines()]
    assert labels == [
        "errors of its values",
        "made by its own roundings",
        "of the outputs, if it alone rounded",
    ]
    assert figures.save(found.plot(), tmp_path / "r.svg").stat().st_size > 1000


def test_it_is_deterministic_and_takes_an_executor():
    from concurrent.futures import ThreadPoolExecutor

    a = net()
    first, again = (mo.rounding(a, on=BOX, budget=100) for _ in range(2))
    assert (first.upper, first.seen, first.tree) == (again.upper, again.seen, again.tree)
    with ThreadPoolExecutor(2) as pool:
        assert mo.rounding(a, on=BOX, budget=100, executor=pool).upper == pytest.approx(first.upper)


def test_a_box_with_axes_stays_that_box(tmp_path):
    """A range for each channel is none for each position."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((1, 1), dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1])], [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    box = mo.Box(np.array([[0.0], [0.0], [0.0]]), np.array([[1.0], [2.0], [1e5]]))
    found = mo.rounding(model, on=box)
    assert found.upper > 1e5 * 2.0**-25
    assert found.check()


def test_formats_of_files_have_to_hold_the_numbers(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    path = tmp_path / "mixed.onnx"
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["h"], ["k"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["k"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]))
    onnx.save(model, path)
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        with pytest.raises(ValueError, match="computes in"):
            mo.rounding(path, on=BOX, dtype=dtype)


def changed(found, **given):
    """With a field of another type, which no constructor takes here."""
    forged = replace(found)
    for name, value in given.items():
        object.__setattr__(forged, name, value)
    return forged


def test_lookalikes_are_refused():
    found = mo.rounding(net(), on=BOX, budget=20)

    class Wide(mo.Box):
        pass

    class Said(str):
        pass

    for forged in (
        replace(found, on=Wide(-1, 1)),
        replace(found, seen=-3.0),
        replace(found, at=(5.0,) * 4),
        changed(found, network=None),
        changed(found, runtime="float32"),
    ):
        with pytest.raises(mo.CertificateRejected):
            forged.check()
    with pytest.raises(ValueError, match="dtype"):
        replace(found.runtime, dtype=Said("float32"))


def test_layers_without_units_and_wide_boxes():
    empty = mo.Network.mlp(
        np.zeros((0, 2)), np.zeros(0), np.zeros((1, 0)), [1.0], activation="relu"
    )
    assert mo.rounding(empty, on=BOX, budget=4).upper < 1e-6
    assert (
        mo.rounding(net(), on=mo.Box(-1.7e308, 1.7e308), dtype="float64", budget=4).upper == np.inf
    )


def test_torch_modules_are_taken_call_by_call():
    """A batch norm that is folded when a module is read as a chain rounds on its own."""
    torch = pytest.importorskip("torch")
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)).eval()
    with torch.no_grad():
        module[0].bias += 1e4
        module[1].running_mean += 1e4
    found = mo.rounding(module, on=BOX)
    assert isinstance(found.network, mo.Graph)
    x = torch.rand(2000, 3) * 2 - 1
    with torch.no_grad():
        got = module(x).double()
        true = module.double()(x.double())
    module.float()
    assert float((got - true).abs().max()) <= found.upper < 1.0
