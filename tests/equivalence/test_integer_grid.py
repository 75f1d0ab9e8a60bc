"""Integer networks beside others at every input, beside enumerations of the test's own."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("tflite")
pytest.importorskip("ai_edge_litert")

from click.testing import CliRunner
from lite import reference
from onnx import TensorProto, helper, numpy_helper
from runtimes import function
from tflite_models import File

import moduli as mo
from moduli.interface.cli import cli

ALL = range(-128, 128)


def network(seed: int, widths: Any = (2, 5, 2), activation: str = "relu") -> mo.Network:
    rng = np.random.default_rng(seed)
    parts = []
    for n, m in itertools.pairwise(widths):
        parts += [
            rng.normal(size=(m, n)).astype(np.float32) / np.sqrt(n),
            rng.normal(size=m).astype(np.float32) / 4,
        ]
    return mo.Network.mlp(*parts, activation=activation)


def quantised(
    net: mo.Network, steps: Any, zeros: Any, unit: int | None = None, softmax: bool = False
) -> bytes:
    """A dense network in 8 bits, with a scale for each unit; `unit` of the last layer is off by one."""
    f = File()
    h = f.input(1, net.widths[0], dtype="int8", scale=steps[0], zero=zeros[0])
    last = len(net.layers) - 1
    for l, layer in enumerate(net.layers):
        scale = np.float32(np.abs(layer.weight).max(axis=1) / 127)
        both = np.float32(steps[l]) * scale
        weight = np.rint(layer.weight / scale[:, None]).astype(np.int8)
        if l == last and unit is not None:
            weight[unit, 0] -= 1
        w = f.stored(weight, scale=scale, axis=0)
        b = f.stored(np.rint(layer.bias / both).astype(np.int32), scale=both)
        y = f.value(1, len(layer.bias), dtype="int8", scale=steps[l + 1], zero=zeros[l + 1])
        h = f.add(
            "FULLY_CONNECTED", [h, w, b], y, "FullyConnected", FusedActivationFunction=int(l < last)
        )
    if softmax:
        y = f.value(1, net.widths[-1], dtype="int8", scale=1 / 256, zero=-128)
        h = f.add("SOFTMAX", [h], y, "Softmax", Beta=1.0)
    return f.write(h)


STEPS, ZEROS = (2 / 255, 3 / 255, 4 / 255), (-1, -128, 17)


def on_disk(folder: Any, data: bytes, name: str = "q.tflite") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def oracle(
    net: mo.Network, data: bytes, low: Any, high: Any
) -> tuple[Fraction, list[tuple[int, ...]]]:
    """The largest difference and where it is, by LiteRT and rational arithmetic, point by point."""
    points = list(itertools.product(*(range(a, b + 1) for a, b in zip(low, high, strict=True))))
    found = reference(data, np.array(points, dtype=np.int8)[:, None])[:, 0]
    x_step, y_step = Fraction(float(np.float32(STEPS[0]))), Fraction(float(np.float32(STEPS[-1])))
    gaps = []
    for point, q in zip(points, found.tolist(), strict=True):
        real = function(net, [x_step * (k - ZEROS[0]) for k in point])
        gaps.append(max(abs(y_step * (k - ZEROS[-1]) - r) for k, r in zip(q, real, strict=True)))
    worst = max(gaps)
    return worst, [point for point, gap in zip(points, gaps, strict=True) if gap == worst]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_largest_difference_is_exactly_that_of_an_enumeration(seed, tmp_path):
    net = network(seed)
    data = quantised(net, STEPS, ZEROS)
    low, high = (-20, 100), (20, 127)
    wanted, places = oracle(net, data, low, high)
    step = float(np.float32(STEPS[0]))
    ends = [[step * (k - ZEROS[0]) for k in end] for end in (low, high)]
    for pair in ((net, on_disk(tmp_path, data)), (on_disk(tmp_path, data), net)):
        d = mo.distance(*pair, on=mo.Grid(*ends, kernels="litert"))
        assert (d.status, d.exact, d.points) == ("proved", wanted, 41 * 28)
        assert Fraction(d.lower) <= wanted <= Fraction(d.upper)
        assert d.upper - d.lower < 1e-15
        assert tuple(d.integers["x0"].ravel().tolist()) == places[0]
        assert np.array_equal(d.argmax["x0"].ravel(), [step * (k - ZEROS[0]) for k in places[0]])
        assert d.check()


def test_all_integers_and_those_within_ends(tmp_path):
    net = network(2, (1, 4, 1))
    data = quantised(net, STEPS, ZEROS)
    path = on_disk(tmp_path, data)
    wanted, places = oracle(net, data, (-128,), (127,))
    d = mo.distance(net, path, on=mo.Grid(kernels="litert"))
    assert (d.points, d.exact) == (256, wanted)
    assert (int(d.integers["x0"].item()),) in places
    step = float(np.float32(STEPS[0]))
    # ends that are no such numbers: the integers within them
    few = mo.distance(net, path, on=mo.Grid(-0.9 * step, 2.5 * step))
    assert few.points == 3
    one = mo.distance(net, path, on=mo.Grid({"x0": (0.0, 0.0)}))
    assert one.points == 1
    assert few.upper >= one.upper


def test_microcontrollers_and_litert_may_differ_by_a_step(tmp_path):
    net = network(3)
    path = on_disk(tmp_path, quantised(net, STEPS, ZEROS))
    results = [
        mo.distance(net, path, on=mo.Grid(kernels=kernels), budget=2**16)
        for kernels in ("tflite-micro", "litert", None)
    ]
    assert results[0].exact == results[2].exact
    assert "Microcontrollers" in results[2].statement
    assert "LiteRT" in results[1].statement
    assert abs(results[0].upper - results[1].upper) <= STEPS[-1]


def test_more_inputs_than_the_budget_are_refused_with_their_number(tmp_path):
    net = network(4)
    path = on_disk(tmp_path, quantised(net, STEPS, ZEROS))
    with pytest.raises(
        mo.BudgetExhausted, match=r"65536 integer inputs \(256 x 256\).*budget=65536"
    ):
        mo.distance(net, path, on=mo.Grid(), budget=65535)
    wide = network(4, (40, 3, 1))
    path = on_disk(tmp_path, quantised(wide, STEPS, ZEROS), "wide.tflite")
    with pytest.raises(mo.BudgetExhausted, match=r"about 10\^96 integer inputs") as caught:
        mo.distance(wide, path, on=mo.Grid())
    assert "budget=1" in str(caught.value)  # what was given, and no other one is advised
    assert str(caught.value).count("budget=") == 1


def test_more_inputs_than_a_number_has_digits_are_refused(shared):
    """The person detector takes 27,648 bytes: Python writes no number of so many digits."""
    path = str(shared / "models" / "graph" / "vww_96_int8.tflite")
    with pytest.raises(
        mo.BudgetExhausted, match=r"about 10\^66583 integer inputs.*on=Grid\(0, 1\)"
    ):
        mo.distance(path, path, on=mo.Grid())


def test_activations_without_rational_values_are_bracketed(tmp_path):
    """The float origin has tanh, the file (as it is) a relu: far apart, and known to be so."""
    net = network(5, (1, 4, 1), "tanh")
    path = on_disk(tmp_path, quantised(net, STEPS, ZEROS))
    d = mo.distance(net, path, on=mo.Grid())
    assert (d.status, d.exact) == ("bounded", None)
    assert 0 < d.lower < d.upper < d.lower + 1e-14
    dev = mo.load(path).source.on_device()
    q = np.arange(-128, 128, dtype=np.int64)[:, None, None]
    y = dev.run({"x0": q})[0].ravel()
    x = float(np.float32(STEPS[0])) * (q.reshape(-1, 1) - ZEROS[0])
    assert abs(np.abs(y - net(x).ravel()).max() - d.upper) < 1e-14
    assert d.check()


def test_two_files_of_integers(tmp_path):
    """Both exactly: the same one, and one whose weight is off by one."""
    net = network(6)
    a, b = (on_disk(tmp_path, quantised(net, STEPS, ZEROS, k), f"{k}.tflite") for k in (None, 1))
    grid = mo.Grid(-0.2, 0.2, kernels="litert")
    assert mo.distance(a, a, on=grid).statement.startswith(
        "the same outputs at all 2601 integer inputs"
    )
    assert mo.equivalent(a, a, on=grid).status == "proved"
    e = mo.equivalent(a, b, on=grid)
    assert e.status == "refuted"
    point = e.distance.integers["x0"].astype(np.int8)[None]
    files = [Path(path).read_bytes() for path in (a, b)]
    steps = [int(reference(data, point)[0, 0, e.distance.entry]) for data in files]
    assert (
        Fraction(abs(steps[0] - steps[1])) * Fraction(float(np.float32(STEPS[-1])))
        == e.distance.exact
    )
    assert e.check()
    assert mo.equivalent(a, b, on=grid, eps=e.distance.upper).status == "proved"
    other = on_disk(tmp_path, quantised(net, (0.01, *STEPS[1:]), ZEROS), "other.tflite")
    with pytest.raises(mo.ShapeError, match="other shapes, types or scales"):
        mo.distance(a, other, on=grid)


def test_shares_behind_a_softmax_are_bracketed(tmp_path):
    net = replace(network(7, (1, 4, 3)), output_map="softmax")
    path = on_disk(tmp_path, quantised(net, STEPS[:2] + (0.02,), ZEROS, softmax=True))
    d = mo.distance(net, path, on=mo.Grid(-0.3, 0.3))
    dev = mo.load(path).source.on_device()
    q = np.arange(d.points, dtype=np.int64)[:, None, None] - 39
    x = float(np.float32(STEPS[0])) * (q.reshape(-1, 1) - ZEROS[0])
    assert (x >= -0.3).all()
    seen = np.abs(dev.run({"x0": q})[0][:, 0] - net(x)).max()
    with pytest.raises(mo.Undecided, match=r"'\w+' \(.*\) is not enclosed at an input here"):
        mo.distance(
            replace(network(7, (1, 4, 3), "softplus"), output_map="softmax"),
            path,
            on=mo.Grid(0, 0.1),
        )
    assert d.status == "bounded"
    assert d.lower - 1e-13 <= seen <= d.upper + 1e-13
    assert d.upper < d.lower + 1e-9
    assert d.check()


def conv_file() -> tuple[bytes, Any]:
    """A convolution and a pool with channels last; the real one has the same numbers."""
    rng = np.random.default_rng(8)
    f = File()
    s, v = np.float32(0.02), np.float32(rng.uniform(0.005, 0.01, 3))
    x = f.input(1, 4, 4, 1, dtype="int8", scale=s, zero=3)
    weight = rng.integers(-127, 128, (3, 3, 3, 1)).astype(np.int8)
    w, b = f.stored(weight, scale=v, axis=0), f.stored(np.array([40, -9, 0], np.int32), scale=s * v)
    y = f.value(1, 4, 4, 3, dtype="int8", scale=0.05, zero=-100)
    c = f.add("CONV_2D", [x, w, b], y, "Conv2D", StrideW=1, StrideH=1, FusedActivationFunction=1)
    p = f.add("MAX_POOL_2D", [c], f.value(1, 2, 2, 3, dtype="int8", scale=0.05, zero=-100), "Pool2D",
              StrideW=2, StrideH=2, FilterWidth=2, FilterHeight=2)  # fmt: skip
    g = File()
    x = g.input(1, 4, 4, 1)
    w = g.stored((weight * v[:, None, None, None]).astype(np.float32))
    b = g.stored((np.array([40, -9, 0]) * (s * v)).astype(np.float32))
    c = g.add(
        "CONV_2D",
        [x, w, b],
        g.value(1, 4, 4, 3),
        "Conv2D",
        StrideW=1,
        StrideH=1,
        FusedActivationFunction=1,
    )
    q = g.add(
        "MAX_POOL_2D",
        [c],
        g.value(1, 2, 2, 3),
        "Pool2D",
        StrideW=2,
        StrideH=2,
        FilterWidth=2,
        FilterHeight=2,
    )
    return f.write(p), g.write(q)


def test_convolutions_with_few_inputs(tmp_path):
    """Two pixels vary: operators in float64, and a bound of their rounding."""
    data, real = conv_file()
    a, b = on_disk(tmp_path, real, "f.tflite"), on_disk(tmp_path, data)
    low = 0.02 * np.random.default_rng(9).integers(-50, 50, (1, 4, 4, 1))
    high = low.copy()
    high[0, 1, 2, 0] += 0.11
    high[0, 3, 0, 0] += 0.07
    d = mo.distance(a, b, on=mo.Grid(low - 1e-4, high + 1e-4))
    assert d.points == 6 * 4
    graph = mo.load(a)
    worst, step = 0.0, float(np.float32(0.02))
    for i, j in itertools.product(range(6), range(4)):
        q = np.rint(low / 0.02).astype(int) + 3
        q[0, 1, 2, 0] += i
        q[0, 3, 0, 0] += j
        (y,) = reference(data, q[None].astype(np.int8))
        wanted = float(np.float32(0.05)) * (y.astype(float) + 100)
        worst = max(worst, np.abs(graph(step * (q - 3.0)) - wanted).max())
    assert d.lower <= worst + 1e-12
    assert worst - 1e-12 <= d.upper < d.lower + 1e-9
    assert d.check()


def test_onnx_files_of_integers_beside_onnxruntime(tmp_path):
    rng = np.random.default_rng(10)
    net = network(11, (2, 4, 1))
    nodes, arrays = [], {}

    def scale(name, step, zero, kind=np.uint8):
        arrays[f"{name}:s"], arrays[f"{name}:z"] = np.float32(step), np.array(zero, kind)
        return [f"{name}:s", f"{name}:z"]

    ends = [scale("x", 0.02, 100), scale("h", 0.015, 0), scale("y", 0.02, 90)]
    names = ["x", "h", "y"]
    for l, layer in enumerate(net.layers):
        step = np.abs(layer.weight).max() / 63  # of 7 bits, for processors that add in 16
        arrays[f"w{l}"] = np.rint(layer.weight.T / step).astype(np.int8)
        arrays[f"b{l}"] = np.rint(layer.bias / (float(arrays[ends[l][0]]) * step)).astype(np.int32)
        inputs = [
            names[l],
            *ends[l],
            f"w{l}",
            *scale(f"w{l}", step, 0, np.int8),
            f"b{l}",
            *ends[l + 1],
        ]
        nodes.append(helper.make_node("QGemm", inputs, [names[l + 1]], domain="com.microsoft"))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["n", 1])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    data = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    low = [0.02 * int(k) for k in rng.integers(-60, 60, 2)]
    d = mo.distance(
        net, on_disk(tmp_path, data, "q.onnx"), on=mo.Grid(low, [x + 0.601 for x in low])
    )
    points = np.array(
        list(itertools.product(*(range(round(x / 0.02) + 100, round(x / 0.02) + 131) for x in low)))
    )
    (y,) = onnxruntime.InferenceSession(data).run(None, {"x": points.astype(np.uint8)})
    s, t = (Fraction(float(np.float32(0.02))) for _ in range(2))
    gaps = [
        abs(t * (int(q) - 90) - function(net, [s * (int(k) - 100) for k in point])[0])
        for point, q in zip(points, y[:, 0], strict=True)
    ]
    assert d.points in (30 * 30, 30 * 31, 31 * 31)  # 0.02 is not the float32 that the file has
    assert d.exact in gaps
    assert d.exact == max(
        gap for point, gap in zip(points, gaps, strict=True)
        if all(Fraction(x) <= s * (int(k) - 100) <= Fraction(x + 0.601) for k, x in zip(point, low, strict=True))
    )  # fmt: skip
    assert "onnxruntime" in d.statement


@pytest.mark.parametrize(("seed", "some"), [(2, True), (5, False)])
def test_decisions_are_those_of_an_enumeration(seed, some, tmp_path):
    """Integers decide by the first of the largest, as an argmax does; ties of integers are common."""
    net = network(seed, (2, 5, 3))
    steps = (*STEPS[:2], 0.25)  # few integers: many ties
    data = quantised(net, steps, ZEROS)
    path, step = on_disk(tmp_path, data), float(np.float32(steps[0]))
    low, high = (-30, 60), (20, 90)
    ends = [[step * (k - ZEROS[0]) for k in end] for end in (low, high)]
    e = mo.equivalent(net, path, on=mo.Grid(*ends, kernels="litert"), decision=True)
    points = list(itertools.product(*(range(a, b + 1) for a, b in zip(low, high, strict=True))))
    q = reference(data, np.array(points, dtype=np.int8)[:, None])[:, 0].argmax(axis=1)
    x = [[Fraction(step) * (k - ZEROS[0]) for k in point] for point in points]
    real = [max(range(3), key=function(net, point).__getitem__) for point in x]
    apart = np.flatnonzero(q != np.array(real))
    assert (e.points, e.differ, e.open) == (len(points), len(apart), 0)
    assert (len(apart) > 0) == some
    assert (e.status, bool(e)) == (("refuted", False) if some else ("proved", True))
    assert e.check()
    with pytest.raises(mo.CertificateRejected):
        replace(e, differ=1, status="refuted").check()
    if some:
        assert e.winners == (real[apart[0]], q[apart[0]])
        assert np.array_equal(e.witness["x0"].ravel(), [float(v) for v in x[apart[0]]])
    same = mo.equivalent(path, path, on=mo.Grid(*ends), decision=True)
    assert (same.status, bool(same)) == ("proved", True)
    one = network(1, (2, 3, 1))
    single = on_disk(tmp_path, quantised(one, STEPS, ZEROS), "one.tflite")
    with pytest.raises(mo.ArgumentError, match="several entries"):
        mo.equivalent(one, single, on=mo.Grid(0, 0), decision=True)


def test_forged_answers_are_rejected(tmp_path):
    net = network(12, (1, 4, 2))
    d = mo.distance(net, on_disk(tmp_path, quantised(net, STEPS, ZEROS)), on=mo.Grid())
    other = {name: q + (1 if q.max() < 127 else -1) for name, q in d.integers.items()}
    for change in (
        {"upper": d.upper / 2, "lower": 0.0}, {"lower": d.upper * 2, "upper": d.upper * 3},
        {"exact": d.exact + 1}, {"points": 255}, {"points": 257}, {"integers": other}, {"entry": 1 - d.entry},
        {"argmax": {name: x + 1 for name, x in d.argmax.items()}}, {"rules": ("a", "b")}, {"said": "some inputs"},
        {"status": "refuted"},
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            replace(d, **change).check()
    e = mo.equivalent(net, d.b, on=mo.Grid(), eps=d.upper)
    with pytest.raises(mo.CertificateRejected):
        replace(e, eps=d.upper / 2).check()
    decision = mo.equivalent(net, d.b, on=mo.Grid(), decision=True)
    for points in (1, 255, 257):
        with pytest.raises(mo.CertificateRejected):
            replace(decision, points=points).check()


def test_what_is_refused_and_how(tmp_path):
    net = network(13)
    path = on_disk(tmp_path, quantised(net, STEPS, ZEROS))
    with pytest.raises(mo.UnsupportedModel, match="neither network computes in integers"):
        mo.distance(net, net, on=mo.Grid())
    with pytest.raises(
        mo.ShapeError, match=r"entry 1: no integer stands for a number from 0.001 to 0.002"
    ):
        mo.distance(net, path, on=mo.Grid([0.0, 0.001], [0.0, 0.002]))
    with pytest.raises(mo.ShapeError, match=r"from 3 to 4; they are .* apart, from -0.99"):
        mo.distance(net, path, on=mo.Grid(3, 4))
    with pytest.raises(mo.ShapeError, match="for input 'x0' of shape"):
        mo.distance(net, path, on=mo.Grid([0, 0, 0], [1, 1, 1]))
    with pytest.raises(mo.ShapeError, match="a grid of input 'y'; inputs are x0"):
        mo.distance(net, path, on=mo.Grid({"y": (0, 1)}))
    with pytest.raises(mo.ArgumentError, match="kernels='cmsis'"):
        mo.distance(net, path, on=mo.Grid(0, 0, kernels="cmsis"))
    with pytest.raises(mo.ShapeError, match="for a network with 3"):
        mo.distance(network(1, (3, 2, 2)), path, on=mo.Grid(0, 0))
    with pytest.raises(mo.ShapeError, match="outputs of"):
        mo.distance(network(1, (2, 2, 3)), path, on=mo.Grid(0, 0))
    for verb in (mo.rank, mo.compress, mo.pieces):
        with pytest.raises(mo.ArgumentError, match=r"on=Grid\(\)"):
            verb(net, on=mo.Grid())


def test_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = network(14)
    mo.save(net, "f.onnx")
    on_disk(tmp_path, quantised(net, STEPS, ZEROS))

    def run(*words):
        found = CliRunner().invoke(cli, words)
        return found.exit_code, found.output

    code, text = run("distance", "f.onnx", "q.tflite", "--on", "grid:0,0.1", "--kernels", "litert")
    assert code == 0
    assert "169 integer inputs (13 x 13)" in text
    assert run("equal", "f.onnx", "q.tflite", "--on", "grid:0,0.1", "--eps", "1")[0] == 0
    assert run("equal", "f.onnx", "q.tflite", "--on", "grid:0,0.1")[0] == 1
    np.savez("box.npz", low=np.zeros(2), high=np.array([0.1, 0.02]))
    code, text = run("distance", "f.onnx", "q.tflite", "--on", "grid:box.npz")
    assert (code, "39 integer inputs (13 x 3)" in text) == (0, True)
    Path("two.vnnlib").write_text(
        "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)"
        "(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= X_1 0))(assert (<= X_1 1))"
        "(assert (or (<= X_0 0.1) (>= X_0 0.9)))(assert (<= Y_0 0))"
    )
    from moduli.interface.cli_support import failure

    found = CliRunner().invoke(cli, ["distance", "f.onnx", "q.tflite", "--on", "grid:two.vnnlib"])
    assert "means other inputs than a box" in failure(found.exception)[0]

    found = CliRunner().invoke(cli, ["distance", "f.onnx", "q.tflite", "--on", "grid"])
    said, code = failure(found.exception), found.exception.exit_code
    assert code == 3
    assert "--budget 65536, or fewer inputs, --on grid:0,1" in str(said)


def added(names: Any, turned: bool = False, shape: Any = (1, 2)) -> bytes:
    """The sum of two inputs, of which the second is halved."""
    f = File()
    ends = {"dtype": "int8", "scale": 0.1, "zero": 0}
    given = [f.input(*shape, **ends) for _ in names]
    for k, name in zip(given, names, strict=True):
        f.tensors[k].name = name
    half = f.add("QUANTIZE", [given[1]], f.value(*shape, dtype="int8", scale=0.2, zero=0))
    y = f.value(*shape, **ends)
    f.add("ADD", [given[0], half], y, "Add")
    if turned:
        order = f.stored(np.array([0, 2, 1], np.int32))
        y = f.add("TRANSPOSE", [y, order], f.value(shape[0], shape[2], shape[1], **ends))
    return f.write(y)


def test_inputs_of_the_same_names_in_another_order_are_refused(tmp_path):
    files = [
        on_disk(tmp_path, added(names), f"{k}.tflite")
        for k, names in enumerate((("a", "b"), ("b", "a"), ("c", "d")))
    ]
    grid = mo.Grid(0, 0.1)
    for verb in (mo.distance, mo.equivalent):
        with pytest.raises(
            mo.ShapeError, match=r"inputs a, b and b, a: they are matched by their places"
        ):
            verb(*files[:2], on=grid)
    assert mo.distance(files[0], files[2], on=grid).upper == 0  # other names say nothing


def test_outputs_of_other_shapes_are_refused(tmp_path):
    """As many entries, in another order."""
    shape = (1, 2, 3)
    a, b = (
        on_disk(tmp_path, added(("a", "b"), turned, shape), f"{turned}.tflite")
        for turned in (False, True)
    )
    for more in ({}, {"decision": True}):
        with pytest.raises(mo.ShapeError, match=r"shapes \(1, 2, 3\) and \(1, 3, 2\)"):
            mo.equivalent(a, b, on=mo.Grid(0, 0), **more)


def test_stored_integers_of_torch_are_what_they_stand_for(tmp_path):
    """A convolution whose weights torch stores as int8 and scales, beside a file with the same integers:
    the difference is that of rational arithmetic, and not that of weights rounded to floats of 32 bits.
    """
    torch = pytest.importorskip("torch")
    import importlib

    importlib.import_module("torch.ao.quantization.fx._decomposed")
    from moduli.pytorch import read_module

    rng = np.random.default_rng(20)
    weight = rng.integers(-127, 128, (3, 3, 3, 1)).astype(np.int8)
    s, v, t = np.float32(0.02), np.float32(0.0073), np.float32(0.05)

    class Image(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("q", torch.tensor(np.moveaxis(weight, 3, 1).copy()))

        def forward(self, x):
            dequantise = torch.ops.quantized_decomposed.dequantize_per_tensor
            w = dequantise(self.q, float(v), 0, -128, 127, torch.int8)
            return torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), w).permute(0, 2, 3, 1)

    f = File()
    x = f.input(1, 4, 4, 1, dtype="int8", scale=s, zero=3)
    w, b = f.stored(weight, scale=v), f.stored(np.zeros(3, np.int32), scale=s * v)
    y = f.value(1, 2, 2, 3, dtype="int8", scale=t, zero=0)
    data = f.write(f.add("CONV_2D", [x, w, b], y, "Conv2D", StrideW=1, StrideH=1, Padding=1))
    low = float(s) * rng.integers(-50, 50, (1, 4, 4, 1))
    high = low.copy()
    high[0, 1, 2, 0] += 0.11
    graph = read_module(Image(), torch.zeros(1, 4, 4, 1))
    d = mo.distance(graph, on_disk(tmp_path, data), on=mo.Grid(low, high, kernels="litert"))
    first = np.rint(low / float(s)).astype(int) + 3
    worst = Fraction(0)
    for i in range(d.points):
        q = first.copy()
        q[0, 1, 2, 0] += i
        (found,) = reference(data, q[None].astype(np.int8))
        for r, c, k in itertools.product(range(2), range(2), range(3)):
            total = int(
                ((q[0, r : r + 3, c : c + 3, 0] - 3) * weight[k, :, :, 0].astype(int)).sum()
            )
            real = Fraction(float(s)) * Fraction(float(v)) * total
            worst = max(worst, abs(real - Fraction(float(t)) * int(found[0, r, c, k])))
    assert d.points == 6
    assert Fraction(d.lower) <= worst <= Fraction(d.upper)
    assert d.upper - d.lower < 1e-11  # rounded weights are off by some 1e-8
