"""Random ONNX graphs against onnxruntime, briefly; `python tests/adversarial/onnx_graphs.py
--graphs N` tries more.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_graphs as graphs
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_builder import CONSTANTS, Graph, Rejected, defined, kind_of
from onnx_steps import ODD, PLAIN

import moduli as mo
from moduli.formats import load_chain

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="NO FORK HERE: random ONNX graphs are not tried"
)
STEPS = PLAIN | ODD


def tried(count: int, seed: int) -> tuple[str, dict[str, int]]:
    """What is said of so many graphs, and how they ended; in a process of its own, since torch's
    threads survive no fork.
    """
    command = [sys.executable, graphs.__file__, "--graphs", str(count), "--seed", str(seed)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    ends = re.findall(r"(\d+) (read|refused|caught|skipped|finding)\b", done.stdout.splitlines()[1])
    return done.stdout, {status: int(n) for n, status in ends}


def test_a_few_graphs():
    said, ends = tried(80, seed=100)
    assert sum(ends.values()) >= 80, said
    assert ends["read"] >= 16, f"a reader that refuses everything teaches nothing\n{said}"


@pytest.mark.slow
def test_hundreds_of_graphs():
    said, ends = tried(800, seed=101)
    assert ends["read"] >= 0.3 * (sum(ends.values()) - ends["skipped"]), said


# The generator --------------------------------------------------------------------------------------------------


def begun(*numbers: int) -> Graph:
    """A graph with a small input x."""
    g = Graph(np.random.default_rng(numbers))
    shape = graphs._sample_shape(g) if g.batch is None else (g.rows, *graphs._sample_shape(g))
    g.values["x"] = (g.rng.integers(-16, 17, shape) / 8).astype(g.dtype)
    g.declared["x"] = helper.make_tensor_value_info("x", kind_of(g.dtype), shape)
    return g


def test_the_same_number_gives_the_same_graph():
    for number in range(20):
        once, again = (graphs.make(number) for _ in range(2))
        assert [case.model for case in once] == [case.model for case in again]
        assert [case.asked for case in once] == [case.asked for case in again]
    assert graphs.make(1)[0].model != graphs.make(2)[0].model


@pytest.mark.parametrize("name", STEPS)
def test_every_step_makes_something(name):
    for number in range(200):
        g = begun(number, len(name))
        if g.rank("x") < STEPS[name].axes:
            continue
        try:
            y = g.settled(STEPS[name].build(g, "x"))
        except Rejected:
            continue
        assert g.value(y).dtype == g.dtype
        return
    pytest.fail("onnxruntime took none of 200")


@pytest.mark.parametrize("form", CONSTANTS, ids=lambda form: form.__name__)
def test_every_form_of_a_constant_is_the_constant(form):
    arrays = [
        np.full((1, 2), 0.5, np.float32),
        np.array([[1, 0.25, 0], [2, 0, 1]], np.float32),
        np.arange(3),
        np.array(2.0),
    ]
    made = 0
    for number in range(40):
        g = begun(number)
        wanted = arrays[number % len(arrays)]
        try:
            name = form(g, wanted)
            total = g.value(str(g.node("Where", g.const(np.array(True)), name, name)))
        except Rejected:
            continue
        assert total.dtype == wanted.dtype
        assert np.array_equal(total, wanted)
        made += 1
    assert made


def test_a_step_that_fails_leaves_nothing_behind():
    g = begun(4)
    mark = g.mark()
    g.node("Relu", g.const(np.ones(3)))
    g.back(mark)
    assert not g.nodes
    assert not g.makers
    assert not g.stored


def test_a_graph_that_onnxruntime_does_not_take_is_rejected():
    g = begun(0)
    with pytest.raises(Rejected):
        g.value(g.node("Reshape", "x", g.const(np.array([7, 11, 13]))))
    assert not defined("Gelu", 19, "")
    assert defined("Gelu", 20, "")


# The judge ------------------------------------------------------------------------------------------------------


WEIGHT = np.array([[1.0, -0.5], [0.25, 2.0]])


def case(nodes, *, batch=0, shape=(2,), output="y", stored=(), opset=17, number=0):
    """A graph from x to y by hand."""
    tensors = [
        numpy_helper.from_array(np.asarray(array), name) for name, array in dict(stored).items()
    ]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch or "n", *shape])]
    graph = helper.make_graph(
        nodes, "by hand", ends, [helper.make_empty_tensor_value_info(output)], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return graphs.Case(number, model, "x", (batch or 1, *shape), batch, output, {}, ("dense",))


def dense(**more):
    nodes = [helper.make_node("Gemm", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    return case(nodes, stored={"w": WEIGHT.astype(np.float32)}, **more)


def read(weight=WEIGHT.T, bias=(0, 0), output_map="relu"):
    return mo.Network.mlp(weight, bias, activation="relu", output_map=output_map)


def judged(monkeypatch, load, asked=None):
    monkeypatch.setattr(graphs, "load_chain", load)
    return graphs.judge(asked or dense())


def refuse(text):
    raise mo.UnsupportedModel(text)


class Loud(mo.UnsupportedModel):
    """An error whose text nothing has cleaned."""

    def __str__(self) -> str:
        return "two\nlines"


def loud():
    raise Loud("two")


FAULTS = {
    "disagrees": lambda model: read(WEIGHT.T + [[0, 0], [1e-4, 0]]),
    "disagrees ": lambda model: read(output_map="identity"),
    "width": lambda model: read(np.ones((2, 3))),
    "size": lambda model: read(WEIGHT.T[:1], [0]),
    "not finite": lambda model: read(np.full((2, 2), 1.5e308)),
    "escapes: KeyError": lambda model: {}["a"],
    "escapes: MemoryError": lambda model: (_ for _ in ()).throw(MemoryError),
    "message: Loud": lambda model: loud(),
    "message: UnsupportedModel ": lambda model: refuse(""),
    "warns: UserWarning": lambda model: warnings.warn("careful", stacklevel=1) or read(),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_the_judge_sees_every_fault(kind, monkeypatch):
    verdict = judged(monkeypatch, FAULTS[kind])
    assert verdict.status == "finding"
    assert verdict.kind.startswith(kind.strip())


def test_the_judge_sees_what_takes_too_long(monkeypatch):
    monkeypatch.setattr(graphs, "SECONDS", 0.2)
    verdict = judged(monkeypatch, lambda model: [time.sleep(0.01) for _ in iter(int, 1)])
    assert (verdict.status, verdict.kind) == ("finding", "slow")


def test_the_judge_is_content_with_the_network_and_with_a_refusal(monkeypatch):
    verdict = judged(monkeypatch, lambda model: read())
    assert verdict.status == "read"
    assert verdict.compared == 96  # 2 outputs of 1 + 3 + 2 samples, at 8 inputs each
    assert judged(monkeypatch, lambda model: refuse("no such layer")).status == "refused"
    second = "read as Network(2-2), which gives 1 for output 0 where the model run by onnx.reference gives 2"
    assert judged(monkeypatch, lambda model: refuse(second)).status == "caught"


@pytest.mark.parametrize("batch", [0, 2])
def test_samples_that_change_places_are_seen(batch, monkeypatch):
    """Right at batch 1: all the entries of a batch are transposed."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"]),
        helper.make_node("Reshape", ["t", "s"], ["y"]),
    ]
    mixed = case(nodes, batch=batch, stored={"s": np.array([-1, 2])})
    verdict = judged(monkeypatch, lambda model: read(np.eye(2), output_map="identity"), mixed)
    assert verdict.kind == "disagrees"


def test_a_number_that_is_right_at_one_and_three_samples_is_seen(monkeypatch):
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "first"], ["count"]),
        helper.make_node("Mod", ["count", "two"], ["odd"]),
        helper.make_node("Cast", ["odd"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "number"], ["y"]),
    ]
    counting = case(nodes, stored={"first": np.array(0), "two": np.array(2)})
    verdict = judged(monkeypatch, lambda model: read(np.eye(2), output_map="identity"), counting)
    assert verdict.kind == "disagrees"


def test_halves_that_onnxruntime_does_not_round_are_no_finding(monkeypatch):
    half = np.array([1.1494, 0.6397], np.float16)
    nodes = [
        helper.make_node("Mul", ["a", "b"], ["c"]),
        helper.make_node("Cast", ["c"], ["d"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    halves = case(nodes, stored={"a": half[:1], "b": half[1:]})
    right, wrong = float(half[0] * half[1]), float(half[0]) * float(half[1])
    kinds = []
    for number in (right, wrong):
        verdict = judged(
            monkeypatch, lambda model, n=number: read(np.eye(2), [n, n], "identity"), halves
        )
        kinds.append(verdict.kind)
    assert kinds[0].startswith("onnxruntime deviates")
    assert kinds[1] == ""  # agrees with onnxruntime; that it is no half is beyond this judge


# Shrinking and many graphs --------------------------------------------------------------------------------------


def blind(model, **asked):
    """A reader that takes Neg for nothing."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        node.op_type = "Identity" if node.op_type == "Neg" else node.op_type
    return LOAD(copy, **asked)


LOAD = load_chain


def test_a_finding_is_shrunk_to_its_cause(monkeypatch):
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], alpha=0.5),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "s"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    large = case(nodes, stored={"w": WEIGHT.astype(np.float32), "s": np.array([-1, 2])})
    verdict = judged(monkeypatch, blind, large)
    assert verdict.kind == "disagrees"
    small, found = graphs.shrunk(large, verdict)
    assert [node.op_type for node in small.model.graph.node] == ["Neg"]
    assert not small.model.graph.initializer
    assert found.kind == "disagrees"


def test_a_process_that_dies_costs_one_graph(monkeypatch):
    def load(model, **asked):
        if graphs.progress.number.value == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        refuse("no")

    monkeypatch.setattr(graphs, "load_chain", load)
    tally = graphs.campaign(6, 0, say=lambda text: None)
    assert [one["kind"] for one in tally.findings] == ["process died: exit code -9"]
    assert [one["number"] for one in tally.findings] == [3]
    assert tally.status["refused"] >= 5


def test_findings_are_kept_and_come_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(graphs, "load_chain", lambda model, **asked: {}["a"])
    tally = graphs.campaign(2, 0, keep=tmp_path, say=lambda text: None)
    assert tally.status["finding"] >= 2
    stems = {path.stem for path in tmp_path.iterdir()}
    assert {path.suffix for path in tmp_path.iterdir()} == {".onnx", ".txt"}
    for stem in stems:
        onnx.load(tmp_path / f"{stem}.onnx")
        assert "escapes: KeyError" in (tmp_path / f"{stem}.txt").read_text()
    assert graphs.main(["--replay", "1"]) == 1
    assert "escapes: KeyError" in capsys.readouterr().out


def test_a_seed_holds_no_more_graphs_than_its_numbers():
    with pytest.raises(ValueError, match="between 1 and 1000000"):
        graphs.campaign(1_000_001, 0)
