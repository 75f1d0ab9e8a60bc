"""Options of reading mean the same in every command and in every question, whatever the kind of file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import moduli as mo
from moduli import api
from moduli.common.arguments import READING
from moduli.interface.cli import cli
from moduli.interface.cli_support import failure

KEYS = "policy.0,policy.2"
WHOLE = "plain.npz"
# What each command is asked, of M and beside it of another model, B.
COMMANDS = {
    "info": "M", "compress": "M -o s.npz", "rank": "M", "minimal": "M", "curve": "M --radii 0,0.1,2",
    "equal": "M B", "equal, turned": "B M", "distance": "M B --on box:-1,1 --budget 50",
    "distance, on average": "B M --on gaussian", "align": "M B -o s.npz", "canon": "M -o s.npz",
    "rounding": "M --on box:-1,1 --budget 20", "complexity": "M",
    "dimension": "M --on box:-1,1", "identify": "M --on box:-1,1",
    "depth": "M --on box:-1,1",
    "plot": "M --on box:-1,1 -o s.svg", "report": "M -o s.html --budget 20",
    "check": "proof.json M B", "check, turned": "proof.json B M",
    "export-proof": "proof.json M B -o s.proof", "export-proof, turned": "proof.json B M -o s.proof",
}  # fmt: skip
SLOW = {"report"}
GRAPHS_TOO = {
    "info",
    "compress",
    "rank",
    "rounding",
    "canon",
    "align",
    "report",
    "complexity",
}  # read a graph instead


class Kind:
    """A kind of file: what it needs to be read."""

    def __init__(self, name: str, options: str, asks: str) -> None:
        self.name, self.options, self.asks = name, options, asks


KINDS = [
    Kind("state.pth", f"--activation A --keys {KEYS}", "--keys"),
    Kind("state.safetensors", f"--activation A --keys {KEYS}", "--keys"),
    Kind("bare.pth", "--activation A", "--activation"),
    Kind("bare.safetensors", "--activation A", "--activation"),
    Kind("two.onnx", "--output y", "--output"),
    Kind("open.onnx", "--input-shape 1,2", "--input-shape"),
]


def arrays() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(-4, 5, shape) / 2.0 for shape in ((3, 2), (3,), (2, 3), (2,))]


def onnx_file(name: str, inputs: list[Any], more: list[str]) -> None:
    """Flatten, Gemm, tanh, Gemm; the hidden layer may be an output, too."""
    stored = [
        onnx.numpy_helper.from_array(a.astype(np.float32), f"p{k}") for k, a in enumerate(arrays())
    ]
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "p0", "p1"], ["z"], transB=1),
        helper.make_node(ACTIVATION[-1].capitalize(), ["z"], ["h"]),
        helper.make_node("Gemm", ["h", "p2", "p3"], ["y"], transB=1),
    ]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", *more)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)
    graph = helper.make_graph(nodes, "g", [x], outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    Path(name).write_bytes(model.SerializeToString())


ACTIVATION = ["tanh"]  # the last one is written


def write(activation: str) -> None:
    """The same function in every kind of file, and as a file that needs no options; a proof of that."""
    import torch
    from safetensors.numpy import save_file

    ACTIVATION.append(activation)
    names = ["policy.0.weight", "policy.0.bias", "policy.2.weight", "policy.2.bias"]
    bare = dict(zip(["a.0.weight", "a.0.bias", "a.2.weight", "a.2.bias"], arrays(), strict=True))
    both = dict(zip(names, arrays(), strict=True))
    both |= {"value.0.weight": np.ones((3, 2)), "value.0.bias": np.ones(3)}
    both |= {"value.2.weight": np.ones((1, 3)), "value.2.bias": np.ones(1)}
    for stem, states in (("bare", bare), ("state", both)):
        torch.save({name: torch.tensor(a) for name, a in states.items()}, f"{stem}.pth")
        save_file(states, f"{stem}.safetensors")
    onnx_file("two.onnx", ["N", 2], ["h"])
    onnx_file("open.onnx", ["N", "A", "B"], [])
    net = mo.Network.mlp(*arrays(), activation=activation)
    mo.save(net, WHOLE)
    mo.compress(net).save("proof.json")


def run(command: str, words: str) -> tuple[int, str]:
    """The exit code and the message of a command, in this process."""
    from click.testing import CliRunner

    done = CliRunner().invoke(cli, [command.partition(",")[0], *words.split()])
    if done.exception is None or isinstance(done.exception, SystemExit):
        return done.exit_code, done.output
    message, code = failure(done.exception)
    return code, message


def folder(tmp_path: Path, monkeypatch: Any, command: str) -> str:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    activation = "relu" if command in ("plot", "minimal", "depth") else "tanh"
    write(activation)
    return activation


def typed(command: str, kind: Kind, options: str) -> str:
    words = [*COMMANDS[command].split(), *options.split()]
    return " ".join({"M": kind.name, "B": WHOLE}.get(word, word) for word in words)


@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=pytest.mark.slow if c in SLOW else ()) for c in COMMANDS]
)
def test_a_file_is_read_with_its_options_in_every_command(tmp_path, monkeypatch, command):
    activation = folder(tmp_path, monkeypatch, command)
    for kind in KINDS:
        options = kind.options.replace("A", activation)
        code, said = run(command, typed(command, kind, options))
        assert code in (0, 1, 3), f"{command} {kind.name}: {said}"
        assert "is for" not in said
        if kind.name.endswith(".onnx") and command in GRAPHS_TOO:
            continue
        code, said = run(command, typed(command, kind, ""))
        assert code in (2, 4), f"{command} {kind.name} without options: {said}"
        assert kind.asks in said or "activation" in said, f"{command} {kind.name}: {said}"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_concerns_no_file_is_a_mistake_in_every_command(
    tmp_path, monkeypatch, command
):
    folder(tmp_path, monkeypatch, command)
    for option, value in (
        ("--activation", "tanh"), ("--keys", "a"), ("--output", "y"), ("--input-shape", "2"),
    ):  # fmt: skip
        code, said = run(command, typed(command, Kind(WHOLE, "", ""), f"{option} {value}"))
        assert code == 2, f"{command} {option}: {said}"
        assert said.startswith(f"{option} {value} is for "), said
        assert WHOLE in said
        assert "leave it out" in said


def options_of(command: click.Command) -> dict[str, dict[str, Any]]:
    return {p.name or "": p.to_info_dict() for p in command.params if isinstance(p, click.Option)}


def test_every_command_that_reads_a_model_has_the_four_and_they_are_declared_once():
    asked = {name.partition(",")[0] for name in COMMANDS}
    models = {
        name
        for name, command in cli.commands.items()
        if any("model" in (p.name or "") or p.name in ("a", "large") for p in command.params)
    }
    assert models <= asked
    shared = (*READING, "as_json", "quiet", "seed", "workers", "time_limit")
    met: dict[str, dict[str, Any]] = {}
    for name in models:
        found = options_of(cli.commands[name])
        assert set(READING) <= found.keys(), name
        for option in shared:
            if option in found:
                assert met.setdefault(option, found[option]) == found[option], (name, option)


def questions() -> dict[str, Callable[..., Any]]:
    """The public questions about a model."""
    found = {}
    for name in mo.__all__:
        verb = getattr(mo, name)
        takes = inspect.isfunction(verb) and [*inspect.signature(verb).parameters]
        if takes and takes[0] in ("net", "nets", "a", "net_or_widths", "certificate"):
            found[name] = verb
    return found


def test_every_question_takes_the_four():
    found = questions()
    assert len(found) >= 22
    for name, verb in found.items():
        parameters = inspect.signature(verb).parameters
        named = set(READING) <= parameters.keys()
        assert named or "reading" in parameters or name in ("save", "to_torch"), name


def test_two_models_take_what_concerns_each(tmp_path, monkeypatch):
    folder(tmp_path, monkeypatch, "equal")
    net = mo.load(WHOLE)
    keys = KEYS.split(",")
    assert mo.equivalent(net, "state.pth", activation="tanh", keys=keys).status == "proved"
    assert mo.equivalent("bare.safetensors", net, activation="tanh").status == "proved"
    far = mo.distance("two.onnx", "bare.pth", on=mo.Box(-1, 1), activation="tanh", output="y")
    assert far.upper < 1e-9
    assert mo.align("state.pth", "two.onnx", activation="tanh", keys=keys, output="y").after < 1e-9
    with pytest.raises(mo.ArgumentError, match=r"keys=\['a'\] is for state dicts, not for"):
        mo.equivalent(net, WHOLE, keys=["a"])


@pytest.mark.parametrize("name", [n for n in questions() if n not in ("save", "to_torch", "check")])
@pytest.mark.parametrize(
    ("word", "value"),
    [("budget", None), ("budget", "many"), ("budget", True), ("budget", 1.5), ("seed", "x"),
     ("seed", -1), ("seed", 0.5), ("eps", "x"), ("eps", float("nan")), ("radius", [1]),
     ("on", "box:0,1"), ("on", (0, 1)), ("units", 1.5), ("executor", 3), ("progress", 3), ("tol", "x")],
)  # fmt: skip
def test_a_word_that_cannot_be_is_named_in_every_question(name, word, value):
    verb = getattr(mo, name)
    if word not in inspect.signature(verb).parameters:
        return
    takes_two = "b" in inspect.signature(verb).parameters
    with pytest.raises(mo.ArgumentError) as found:
        verb(*["zoo:digits-plain"] * (1 + takes_two), **{word: value})
    assert str(found.value).startswith(f"{word}={value!r}: ")
    assert "needed" in str(found.value) or "say where" in str(found.value)


def test_a_word_that_does_not_exist_is_refused_as_python_does():
    with pytest.raises(TypeError, match=r"rank\(\) got an unexpected keyword argument 'bugdet'"):
        mo.rank("zoo:digits-plain", bugdet=3)  # type: ignore[call-arg]
    assert api.rank is mo.rank


def _exported(
    path: Path, dims: list[Any], nodes: list[Any], arrays: dict[str, Any], out: list[Any]
) -> None:
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in (("x", dims), ("y", out))
    ]
    stored = [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )


def test_a_shape_is_for_the_files_that_leave_it_open(tmp_path, monkeypatch):
    """What was written states its own shape, which is another one: the same inputs in a row."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    first = rng.normal(size=(5, 12))
    first[1] = first[0]
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "W"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]), helper.make_node("Gemm", ["r", "V"], ["y"], transB=1),
    ]  # fmt: skip
    _exported(
        Path("open.onnx"), [None] * 3, nodes, {"W": first, "V": rng.normal(size=(2, 5))}, [None, 2]
    )
    small = mo.compress("open.onnx", input_shape=(3, 4))
    mo.save(small.network, "small.onnx")
    assert mo.equivalent("small.onnx", "open.onnx", input_shape=(3, 4), eps=1e-5, on=mo.Box(-1, 1))
    assert mo.check(small.certificate, "small.onnx", "open.onnx", input_shape=(3, 4))
    with pytest.raises(mo.UnsupportedModel, match="give input_shape="):
        mo.distance("small.onnx", "open.onnx", on=mo.Box(-1, 1))


def test_a_shape_of_a_graph_says_how_it_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(6, 1, 3, 3))
    kernel[2] = 0
    nodes = [
        helper.make_node("Conv", ["x", "K"], ["c"]), helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "V"], ["y"], transB=1),
    ]  # fmt: skip
    arrays = {"K": kernel, "V": rng.normal(size=(2, 6))}
    _exported(Path("conv.onnx"), [None, 1, None, None], nodes, arrays, [None, 2])
    read = mo.load("conv.onnx", input_shape=(1, 8, 9))
    assert isinstance(read, mo.Graph)
    assert read.source.sizes == (1, 1, 8, 9)
    assert mo.compress(read).network.parameters == mo.compress("conv.onnx").network.parameters == 55
    for shape in ((2, 8, 9), (8, 9), (1, 0, 9)):
        with pytest.raises(mo.UnsupportedModel, match=r"input_shape|shape"):
            mo.load("conv.onnx", input_shape=shape)


def test_what_is_run_to_compare_is_not_empty(tmp_path, monkeypatch, recwarn):
    """A window of five does not fit into the two of each axis that are tried first."""
    from moduli.compression import graph_results

    monkeypatch.chdir(tmp_path)
    nodes = [
        helper.make_node("Conv", ["x", "K"], ["c"]), helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["y"]),
    ]  # fmt: skip
    arrays = {"K": np.random.default_rng(0).normal(size=(3, 1, 5, 5))}
    _exported(Path("conv.onnx"), [None, 1, None, None], nodes, arrays, [None, 3, 1, 1])
    read = mo.load("conv.onnx")
    assert isinstance(read, mo.Graph)
    ran = graph_results._both(read, read, {}, np.random.default_rng(0))
    assert ran is not None
    feeds, ours, theirs = ran
    assert feeds["x"].shape == (8, 1, 8, 8)
    assert np.isfinite(theirs["y"]).all()
    assert np.array_equal(ours["y"], theirs["y"])
    assert not [w for w in recwarn if "empty" in str(w.message)]


def test_every_command_that_searches_takes_a_time_limit():
    searching = {name for name, command in cli.commands.items() if "budget" in options_of(command)}
    assert {"compress", "distance", "report", "plot", "depth"} <= searching
    limited = {
        name for name, command in cli.commands.items() if "time_limit" in options_of(command)
    }
    assert searching == limited
