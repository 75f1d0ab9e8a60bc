"""Affine bounds of units against values that climb towards the ends of their intervals."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch.nn import functional

import moduli as mo
from moduli.compression.exact.reduce_graph import reduce_graph
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph import back_substitution, certificate
from moduli.kernel.graph.back_steps import Ends
from moduli.kernel.graph.back_substitution import BackSubstitution, Cone
from moduli.kernel.graph.certificate import GraphCertificate, GraphMove, played
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.operators import Elementwise, Linear, Reshape, Slicewise, Transpose
from moduli.kernel.graph.shapes import require_shapes

from ...support.graphs import Builder, run
from ...support.windowed_graphs import BENT, SMOOTH, Windowed, windowed

ROOT = Path(__file__).parents[3]
WORK = 10**9
SLOPE = 1e-9  # of the sizes of values: far above what torch rounds in 64 bits, far below any gain


def refined(graph, depth):
    """Facts with bounds of all tensors, and which ends they brought nearer."""
    nearer = {}

    def refine(known, node):
        for axis, n in enumerate(known.shape(node.output)):
            if axis and isinstance(n, int) and (node.output, axis) in known.found:
                back = BackSubstitution(known, WORK)
                try:
                    ends = back.narrow(node.output, axis, np.arange(n), depth)
                except CertificateRejected:
                    continue
                if ends.any():
                    nearer[node.output, axis] = ends

    return Known(graph.model, graph.ranges, refine=refine), nearer


def climbed(graph, name, axis, unit, sign, steps=8, starts=4):
    """Values of all tensors at inputs where a unit is as large, or as small, as was found."""
    shape = [2 if n == "n" else n for n in graph.shapes["x"]]
    low, high = (torch.from_numpy(np.broadcast_to(end, shape).copy()) for end in graph.ranges["x"])
    rng = np.random.default_rng(len(name) + unit)
    x = torch.from_numpy(
        rng.random((starts, *shape)).round() if steps else rng.random((starts, *shape))
    )
    x = low + (high - low) * x
    best = None
    for step in range(steps + 1):
        x = x.flatten(0, 1).requires_grad_(True)
        values = graph.values(x)
        target = values[name].movedim(axis, 0)[unit]
        tops = sign * target.reshape(starts, -1)
        if best is None or float(tops.detach().max()) > best:
            best = float(tops.detach().max())
        if not tops.requires_grad or step == steps:
            break
        (slope,) = torch.autograd.grad(tops.max(dim=1).values.sum(), x)
        pace = (high - low) * (0.5 if step % 2 else 2.0)
        with torch.no_grad():
            x = x.detach().reshape(starts, *shape) + pace * slope.sign().reshape(starts, *shape)
            x = torch.minimum(torch.maximum(x, low), high)
    return sign * best


def trials(seed):
    """For each tensor whose ends became nearer, how many did, after one was not found to be wrong."""
    graph = windowed(seed)
    require_shapes(graph.model)
    rng = np.random.default_rng(seed)
    known, nearer = refined(graph, int(rng.choice([1, 2, 3, 50])))
    for (name, axis), ends in nearer.items():
        facts = known.of((name, axis))
        side, unit = (int(i) for i in rng.choice(np.argwhere(ends)))
        sign = 1 if side else -1
        found = climbed(graph, name, axis, unit, sign)
        end = float(facts.high[unit] if side else facts.low[unit])
        assert sign * (found - end) <= SLOPE * (1 + abs(end)), (seed, name, axis, unit, found, end)
        yield int(ends.sum())


def attack(seed):
    return sum(trials(seed))


def test_nothing_climbs_over_a_bound():
    assert sum(map(attack, range(24))) > 100


@pytest.mark.slow
def test_nothing_climbs_over_a_bound_of_a_thousand():
    """In a process of its own, where no types are checked."""
    run = "from tests.kernel.graph.test_back_substitution import attack; print(sum(map(attack, range(1000))))"
    done = subprocess.run(
        [sys.executable, "-c", run], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000


# Certificates ---------------------------------------------------------------------------------------------------

BOX = {"x": (np.array([0.0, 0.0]), np.array([1.0, 1.0]))}
WIDE = {"x": (np.array([-3.0, 0.0]), np.array([1.0, 1.0]))}


def doubtful():
    """h = x + 1 and x + 2, both positive; then units h_0 - h_1 + 1/2 = -1/2, which intervals do not
    see, and others that bend; and the first again behind them.
    """
    b = Builder("n", 2)
    h = b.each("relu", b.dense("x", "a", [[1, 0], [1, 0], [0, 1]], [1, 2, -0.5]))
    z = b.dense(h, "b", [[1, -1, 0], [1, -1, 1], [0, 0, 1]], [0.5, 0.75, -0.25])
    g = b.each("relu", z)
    return b.model(b.dense(g, "c", [[1, 2, 3], [3, -1, 1]], [0, 1])), z


def proved(model, ranges=BOX):
    found = reduce_graph(model, ranges=ranges, budget=1000)
    proof = GraphCertificate(
        model.digest, found.graph.digest, tuple(found.rounds), ranges, found.slack
    )
    return proof, found.graph


def test_a_unit_goes_that_intervals_leave_open():
    model, z = doubtful()
    proof, small = proved(model)
    proof.verify(small, model)
    assert small.shapes[z] == ("n", 2)
    kinds = [move.kind for moves in proof.rounds for move in moves]
    assert kinds.count("bound") > 0
    again = GraphCertificate.from_json(json.dumps(proof.to_json()))
    again.verify(small, model)
    assert again.to_json() == proof.to_json()
    rng = np.random.default_rng(0)
    feeds = {"x": rng.random((1000, 2))}
    np.testing.assert_allclose(run(small, feeds), run(model, feeds), atol=1e-12)


def test_on_a_wider_box_it_stays():
    model, z = doubtful()
    assert proved(model, WIDE)[1].shapes[z] == ("n", 3)
    proof, small = proved(model)
    with pytest.raises(CertificateRejected):
        replace(proof, ranges=WIDE).verify(small, model)
    with pytest.raises(CertificateRejected):
        replace(proof, ranges={}).verify(small, model)


def settled(how):
    """Units of a ReLU: f(x) - f(x) in two nodes less a number, which is never positive, and x + 1.

    For f intervals give a range that is wider than that number, and the lines of it are nearer.
    """
    graph = Windowed(np.random.default_rng(3), {"x": (1, 2, 4, 4)})
    graph.ranges["x"] = np.array(0.5 if how == "product" else -0.5), np.array(1.5)
    shape, names = (1, 2, 4, 4), []
    w, kernel = graph.store(np.random.default_rng(3).normal(size=(2, 2, 3, 3)))
    s, slope = graph.store(np.array([[[-0.5]], [[0.25]]]))
    for k in range(2):
        if how == "pool":
            op = Slicewise("max pool" if k == 0 else "average pool", ((0, 0), (1, 1)), (
                ("kernel_shape", (2, 2)), ("strides", (2, 2)), ("pads", None),
            ), linear=k > 0, homogeneous=k == 0, hull=True)  # fmt: skip
            pools = functional.max_pool2d, functional.avg_pool2d
            made, step = (1, 2, 2, 2), lambda v, pool=pools[k]: pool(v["x"], 2)
            names.append(graph.add(op, ["x"], made, step))
        elif how == "transposed":
            op = Linear(
                1,
                1,
                0,
                1,
                1,
                False,
                False,
                ((0, 0),),
                ("transposed", (2, 2), (0, 0), (1, 1), (0, 0)),
            )
            step = lambda v: functional.conv_transpose2d(v["x"], kernel, stride=2)  # noqa: E731
            names.append(graph.add(op, ["x", w], (1, 2, 9, 9), step))
        elif how == "product":
            names.append(graph.add(Elementwise("mul"), ["x", "x"], shape, lambda v: v["x"] ** 2))
        elif how == "prelu":
            step = lambda v: torch.where(v["x"] >= 0, v["x"], slope * v["x"])  # noqa: E731
            names.append(graph.add(Elementwise("prelu"), ["x", s], shape, step))
        else:
            step = lambda v: {**SMOOTH, **BENT}[how](v["x"])  # noqa: E731
            names.append(graph.add(Elementwise(how), ["x"], shape, step))
    shape = graph.shapes[names[0]]
    both = graph.add(Elementwise("sub"), names[::-1], shape, lambda v: v[names[1]] - v[names[0]])
    facts = Known(graph.model, graph.ranges).of((both, 1))
    number = 0.05 if how == "pool" else 0.8 * facts.high
    turned, matrix = graph.store(np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]).reshape(3, 2, 1, 1))
    bias, shift = graph.store(np.concatenate([[10.0], -number * np.ones(2)]))
    op = Linear(1, 1, 1, 0, 1, False, True, ((0, 0),), ("conv", (1, 1), (0, 0), (1, 1), ()))
    z = graph.add(
        op,
        [both, turned, bias],
        (1, 3, *shape[2:]),
        lambda v: functional.conv2d(v[both], matrix, shift),
    )
    r = graph.add(Elementwise("relu"), [z], (1, 3, *shape[2:]), lambda v: torch.relu(v[z]))
    last, column = graph.store(np.ones((1, 3, 1, 1)))
    graph.add(op, [r, last], (1, 1, *shape[2:]), lambda v: functional.conv2d(v[r], column))
    return graph, z


@pytest.mark.parametrize(
    "how", ["pool", "transposed", "product", "prelu", "hardswish", "silu", "softplus"]
)
def test_units_that_lines_of_an_operator_settle(how):
    graph, z = settled(how)
    plain = Known(graph.model, graph.ranges).of((z, 1))
    assert (plain.high > 0).all()
    proof, small = proved(graph.model, graph.ranges)
    proof.verify(small, graph.model)
    assert small.shapes[z][1] == 1
    assert any(move.kind == "bound" for moves in proof.rounds for move in moves)
    low, high = graph.ranges["x"]
    x = low + (high - low) * np.random.default_rng(1).random((64, 1, 2, 4, 4))
    assert max(float(graph.values(torch.from_numpy(one))[z][0, 1:].max()) for one in x) <= 0
    wide = {"x": (np.array(-50.0), np.array(50.0))}
    for forged in (
        changed(proof, lambda move: [] if move.kind == "bound" else [move]),
        changed(
            proof, lambda move: [replace(move, units=(0,))] if move.kind == "bound" else [move]
        ),
        *([] if how in ("pool", "transposed") else [replace(proof, ranges=wide)]),
    ):
        with pytest.raises(CertificateRejected):
            forged.verify(small, graph.model)


def changed(proof, change):
    rounds = []
    for moves in proof.rounds:
        rounds.append(tuple(new for move in moves for new in change(move)))
    return replace(proof, rounds=tuple(rounds))


FORGERIES = {
    "no bounds": lambda move: [],
    "other units": lambda move: [replace(move, units=(2,))],
    "no units": lambda move: [replace(move, units=())],
    "too few layers": lambda move: [replace(move, depth=1)],
    "units that are not there": lambda move: [replace(move, units=(*move.units, 3))],
    "an axis of unknown size": lambda move: [replace(move, axis=0, units=(0,))],
    "an axis that is not there": lambda move: [replace(move, axis=2)],
    "an input": lambda move: [replace(move, tensor="x"), move],
    "a stored tensor": lambda move: [replace(move, tensor="b.w"), move],
    "a tensor that is not there": lambda move: [replace(move, tensor="none"), move],
    "a depth of nothing": lambda move: [replace(move, depth=0)],
    "a unit below zero": lambda move: [replace(move, units=(-1, *move.units))],
}


@pytest.mark.parametrize("name", FORGERIES)
def test_bounds_that_prove_nothing(name):
    proof, small = proved(doubtful()[0])

    def change(move):
        return FORGERIES[name](move) if move.kind == "bound" else [move]

    with pytest.raises(CertificateRejected):
        changed(proof, change).verify(small, doubtful()[0])


TEXTS = {
    "depth": [0, -1, 2.0, True, None, "2", 2**70],
    "units": [[True], [-1], [0.0], None, {}],
    "axis": [True, -1, 1.0],
}


@pytest.mark.parametrize("key", TEXTS)
def test_text_that_asks_for_no_bounds(key):
    proof, _ = proved(doubtful()[0])
    for value in TEXTS[key]:
        data = json.loads(json.dumps(proof.to_json()))
        for move in (move for moves in data["rounds"] for move in moves if move["move"] == "bound"):
            move[key] = value
        with pytest.raises(CertificateRejected):
            GraphCertificate.from_json(json.dumps(data))


def test_bounds_come_first_in_their_round():
    model, _ = doubtful()
    proof, small = proved(model)
    rounds = tuple(
        (*(m for m in moves if m.kind != "bound"), *(m for m in moves if m.kind == "bound"))
        for moves in proof.rounds
    )
    with pytest.raises(CertificateRejected):
        replace(proof, rounds=rounds).verify(small, model)
    bound = next(move for moves in proof.rounds for move in moves if move.kind == "bound")
    order = GraphMove("order", "b.w", 0, (1, 0, 2))
    with pytest.raises(CertificateRejected, match="one round"):
        played(model, [bound, order], BOX)
    with pytest.raises(CertificateRejected, match="one round"):
        played(model, [order, bound], BOX)


def test_work_is_bounded(monkeypatch):
    proof, small = proved(doubtful()[0])
    monkeypatch.setattr(certificate, "MOST_PRODUCTS", 1)
    with pytest.raises(CertificateRejected, match="products"):
        proof.verify(small, doubtful()[0])


def test_places_are_bounded():
    graph = Windowed(np.random.default_rng(0), {"x": ("n", 1, 400, 400)})
    y = graph.each("x")
    known = Known(graph.model, {"x": (np.array(-1.0), np.array(1.0))})
    with pytest.raises(CertificateRejected, match="places"):
        BackSubstitution(known, WORK).narrow(y, 1, np.array([0]), 1)


def test_tables_of_places_are_bounded(monkeypatch):
    """They are kept small, and what they hold counts as work."""
    model, z = doubtful()
    back = BackSubstitution(Known(model, BOX), WORK)
    back.narrow(z, 1, np.array([0, 1]), 2)
    spent = WORK - back.left
    less = BackSubstitution(Known(model, BOX), spent - 1)
    with pytest.raises(CertificateRejected, match=f"{spent} products of {spent - 1}"):
        less.narrow(z, 1, np.array([0, 1]), 2)
    cells = Cone(Ends(Known(model, BOX)), z, 1, 2).cells
    assert spent == 4 * (3 * 3 + 2 * 3) + cells
    monkeypatch.setattr(back_substitution, "CELLS", cells - 1)
    with pytest.raises(CertificateRejected, match="too many places and layers"):
        BackSubstitution(Known(model, BOX), WORK).narrow(z, 1, np.array([0, 1]), 2)


def test_a_tensor_without_axes_is_read():
    graph = Windowed(np.random.default_rng(0), {"x": (2, 3)})
    c, _ = graph.store(np.array(0.5))
    y = graph.add(Elementwise("add"), ["x", c], (2, 3), lambda v: v["x"] + 0.5)
    z = graph.add(Elementwise("sub"), [y, "x"], (2, 3), lambda v: v[y] - v["x"])
    known = Known(graph.model, {"x": (np.array(-1.0), np.array(1.0))})
    BackSubstitution(known, WORK).narrow(z, 1, np.arange(3), 1)
    np.testing.assert_allclose([known.of((z, 1)).low, known.of((z, 1)).high], 0.5)


def test_windows_are_bounded():
    """Of a transposed convolution with zeros between what it reads."""
    graph = Windowed(np.random.default_rng(0), {"x": (1, 1, 9, 9)})
    w, kernel = graph.store(np.ones((1, 1, 1, 1)))
    op = Linear(
        1, 1, 0, 1, 1, False, False, ((0, 0),), ("transposed", (999, 999), (0, 0), (1, 1), (0, 0))
    )
    y = graph.add(
        op,
        ["x", w],
        (1, 1, 7993, 7993),
        lambda v: functional.conv_transpose2d(v["x"], kernel, stride=999),
    )
    flat = Reshape((((1, 2, 3), (1,)),), (1, 7993**2), ((0, 0),))
    z = graph.add(flat, [y], (1, 7993**2), lambda v: v[y].reshape(1, -1))
    known = Known(graph.model, {"x": (np.array(-1.0), np.array(1.0))})
    with pytest.raises(CertificateRejected, match="windows of too many"):
        BackSubstitution(known, WORK).narrow(z, 1, np.array([0]), 1)


def test_bounds_are_never_worse():
    for seed in range(6):
        graph = windowed(seed)
        plain = Known(graph.model, graph.ranges)
        known, _ = refined(graph, 50)
        for place, facts in plain.found.items():
            assert (known.of(place).low >= facts.low - SLOPE).all()
            assert (known.of(place).high <= facts.high + SLOPE).all()


def test_indices_of_two_axes_of_unknown_size_differ():
    """x[i, j] - x[j, i] is 0 where i = j alone."""
    graph = Windowed(np.random.default_rng(0), {"x": ("n", "n", 2)})
    turned = graph.add(Transpose((1, 0, 2)), ["x"], ("n", "n", 2), lambda v: v["x"].transpose(0, 1))
    y = graph.add(Elementwise("sub"), ["x", turned], ("n", "n", 2), lambda v: v["x"] - v[turned])
    known = Known(graph.model, {"x": (np.array(0.0), np.array(1.0))})
    with pytest.raises(CertificateRejected, match="several axes of unknown size"):
        BackSubstitution(known, WORK).narrow(y, 2, np.array([0, 1]), 1)


def test_rows_less_all_rows_of_a_batch(tmp_path):
    """Pairs of rows differ, which bounds of one row less itself would not see."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "ax"], ["u"]), helper.make_node("Sub", ["u", "x"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["z"]),
        helper.make_node("Relu", ["z"], ["r"]), helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]  # fmt: skip
    arrays = {"w": [[1, 0, 1], [0, 1, 1]], "b": [-0.99, -0.99, 3], "v": np.ones((3, 1))}
    stored = [numpy_helper.from_array(np.array(a, dtype=np.float32), n) for n, a in arrays.items()]
    stored.append(numpy_helper.from_array(np.array([1]), "ax"))
    ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", ["N", 2]), ("y", None))]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    path = tmp_path / "rows.onnx"
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path
    )
    large = mo.load(path)
    small = mo.compress(large, on=mo.Box(0, 1)).network
    x = np.array([[0.0, 0.0], [1.0, 1.0]])
    ours, theirs = (graph.source.run({"x": x})["y"] for graph in (small, large))
    assert np.allclose(ours, theirs, atol=1e-6)
    assert np.ravel(theirs).tolist() == pytest.approx([3, 1, 5.02, 3])


def test_nothing_is_bounded_of_an_empty_tensor():
    graph = Windowed(np.random.default_rng(0), {"x": ("n", 0, 2)})
    y = graph.add(Elementwise("relu"), ["x"], ("n", 0, 2), lambda v: v["x"])
    known = Known(graph.model, {"x": (np.array(0.0), np.array(1.0))})
    with pytest.raises(CertificateRejected, match="empty"):
        BackSubstitution(known, WORK).narrow(y, 2, np.array([0]), 1)


def _pooled_and_written(path, nodes, shape, arrays):
    stored = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", shape), ("y", None))]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path
    )
    return mo.load(path)


def test_windows_longer_than_what_they_read(tmp_path):
    """Runtimes give one place, the specification none: nothing is known of what comes out."""
    pool = helper.make_node(
        "AveragePool", ["x"], ["p"], kernel_shape=[3], strides=[3], count_include_pad=1
    )
    nodes = [pool, helper.make_node("Conv", ["p", "w", "b"], ["z"]), helper.make_node("Relu", ["z"], ["r"]),
             helper.make_node("Conv", ["r", "v"], ["y"])]  # fmt: skip
    arrays = {
        "w": np.array([[[-1]], [[1]]], np.float32), "b": np.array([0.5, 0], np.float32), "v": np.ones((1, 2, 1), np.float32),
    }  # fmt: skip
    graph = _pooled_and_written(tmp_path / "p.onnx", nodes, [1, 1, 1], arrays)
    assert mo.compress(graph, on=mo.Box(1, 2)).network.parameters == graph.parameters


@pytest.mark.parametrize("last", ["Relu", "Unsqueeze"])
def test_graphs_of_empty_tensors(last, tmp_path):
    arrays = {"zero": np.array([0]), "one": np.array([1])}
    further = ["one"] if last == "Unsqueeze" else []
    nodes = [
        helper.make_node("Slice", ["x", "zero", "zero", "one"], ["e"]),
        helper.make_node(last, ["e", *further], ["y"]),
    ]
    graph = _pooled_and_written(tmp_path / "e.onnx", nodes, ["N", 3, 2], arrays)
    assert mo.compress(graph, on=mo.Box(-1, 1)).status == "proved"
