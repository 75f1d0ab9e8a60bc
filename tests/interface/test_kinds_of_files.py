"""Every command takes every kind of file: it answers, or says in one line what it is asked of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import onnx
import pytest
from keras_models import L, write_keras
from onnx import TensorProto, helper
from tflite_models import File

import moduli as mo
from moduli.interface.cli import cli
from moduli.interface.cli_support import failure

# What each command is asked: of M, beside it of another model, B; D are inputs.
COMMANDS = {
    "info": "M", "compress": "M -o s.END --on D", "rank": "M --on D --budget 20", "minimal": "M",
    "curve": "M --radii 0,0.1,2", "equal": "M B --on D --budget 20", "distance": "M B --on D --budget 20",
    "align": "M B -o s.END", "canon": "M -o s.END", "rounding": "M --on D --budget 20",
    "complexity": "M", "dimension": "M --on D", "identify": "M --on D --budget 20",
    "depth": "M --on D --budget 20", "plot": "M --on D -o s.svg", "report": "M -o s.html --on D --budget 20",
    "check": "proof.json M B", "export-proof": "proof.json M B -o s.proof",
}  # fmt: skip
OF_NO_MODEL = {"demo", "train", "sweep"}
RNG = np.random.default_rng(0)


def filters(*shape: int) -> Any:
    """Every other index of the first axis is zero."""
    found = (RNG.integers(-4, 5, shape) / 4).astype("float32")
    found[::2] = 0
    return found


def chain(path: str) -> None:
    net = mo.Network.mlp(
        filters(6, 2), np.zeros(6), filters(2, 6)[1:], np.ones(1), activation="relu"
    )
    mo.save(net, path, dtype="float32")


def convolution(path: str) -> None:
    stored = {"K": filters(4, 1, 3, 3), "V": filters(2, 4)}
    nodes = [
        helper.make_node("Conv", ["x", "K"], ["c"]), helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "V"], ["y"], transB=1),
    ]  # fmt: skip
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 1, 4, 4]), ("y", [1, 2]))
    ]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def lite(path: str) -> None:
    f = File()
    x = f.input(1, 4, 4, 2)
    y, z = f.value(1, 4, 4, 4), f.value(1, 4, 4, 1)
    strides = {"StrideW": 1, "StrideH": 1}
    bias = f.stored(np.zeros(4, "float32"))
    f.add("CONV_2D", [x, f.stored(filters(4, 3, 3, 2)), bias], y, "Conv2D",
          FusedActivationFunction=1, **strides)  # fmt: skip
    last = f.stored(filters(2, 3, 3, 4)[1:])
    f.add("CONV_2D", [y, last, f.stored(np.zeros(1, "float32"))], z, "Conv2D", **strides)
    Path(path).write_bytes(f.write(z))


def keras(path: str) -> None:
    inputs = L("InputLayer", {"batch_input_shape": [None, 3], "dtype": "float32"})
    layers = [inputs]
    for kind, (n, m) in (("relu", (3, 6)), ("linear", (6, 2))):
        weights = {"kernel": filters(n, m), "bias": np.zeros(m, "float32")}
        layers.append(L("Dense", {"units": m, "activation": kind, "use_bias": True}, weights))
    write_keras(Path(path), layers, sequential=True)


def checkpoint(path: str) -> None:
    checkpoints.write(Path(path), *checkpoints.llama(0))


# The kind of file, how it is written, and the suffix of what is written of it.
KINDS = {
    "net.onnx": (chain, "onnx"), "net.nnet": (chain, "nnet"), "net.npz": (chain, "npz"),
    "net.safetensors": (chain, "safetensors"), "conv.onnx": (convolution, "onnx"),
    "net.tflite": (lite, "tflite"), "net.keras": (keras, "onnx"), "folder": (checkpoint, "safetensors"),
}  # fmt: skip
SLOW = {"net.nnet", "net.npz", "net.safetensors", "net.keras"}  # chains, as net.onnx is
TAKES_FOLDERS = {"equal", "align", "canon"}  # with checkpoints, of which nothing else is asked
GRIDS = {"equal", "distance"}


def run(*words: str) -> tuple[int, str, str]:
    """The exit code, what was printed, and the message, of a command in this process."""
    from click.testing import CliRunner

    done = CliRunner().invoke(cli, words)
    if done.exception is None or isinstance(done.exception, SystemExit):
        return done.exit_code, done.stdout, done.stderr
    message, code = failure(done.exception)
    return code, done.stdout, message


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_commands_that_take_a_model_are_asked():
    assert set(cli.commands) == set(COMMANDS) | OF_NO_MODEL


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow if k in SLOW else ()) for k in KINDS]
)
def test_a_command_answers_or_says_what_it_is_asked_of(folder, kind):
    """In words, in JSON and in silence: with the same exit code."""
    write, end = KINDS[kind]
    write(kind)
    if kind != "folder":
        run("compress", kind, "-o", f"proved.{end}")
        Path(f"proved.{end}.cert.json").rename("proof.json")
    for command, asked in COMMANDS.items():
        if kind == "folder" and command in ("check", "export-proof"):
            continue
        domain = "all" if kind == "folder" and command in TAKES_FOLDERS else "box:0,1"
        small = kind if kind == "folder" else f"proved.{end}"
        places = {"M": kind, "B": kind, "D": domain, "END": end}
        if command in ("check", "export-proof"):
            places["M"] = small
        words = [places.get(word, word.replace("END", end)) for word in asked.split()]
        code, said, refused = run(command, *words)
        name = " ".join([command, *words])
        assert code in (0, 1, 2, 3, 4), f"{name}: {said}{refused}"
        if not said:
            assert code in (2, 3, 4), name
            assert "\n" not in refused.strip(), name
            assert not any(part in refused for part in ("Traceback", "Error(", "object at")), name
        assert code in (0, 1, 3) or kind != "net.onnx" or command == "curve", f"{name}: {refused}"
        again, printed, _ = run(command, *words, "--json")
        assert again == code, name
        data = json.loads(printed)
        assert data["schema"].startswith("moduli."), name
        if not said:
            assert data["reason"] == refused, name
        silent, printed, _ = run(command, *words, "--quiet")
        assert (silent, printed) == (code, ""), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", sorted(GRIDS))
def test_a_grid_is_asked_of_files_of_integers_alone(folder, command, kind):
    write, _ = KINDS[kind]
    write(kind)
    code, _, said = run(command, kind, kind, "--on", "grid", "--budget", "16")
    assert code in (2, 3, 4), said
    assert "\n" not in said.strip()


@pytest.mark.parametrize("kind", ["conv.onnx", "net.tflite"])
def test_what_is_asked_of_chains_alone_says_what_is_asked_of_graphs(folder, kind):
    KINDS[kind][0](kind)
    for command in ("minimal", "curve", "dimension", "identify", "depth", "plot"):
        words = COMMANDS[command].replace("M", kind).replace("D", "box:0,1").split()
        code, _, said = run(command, *words)
        assert code == 4, command
        assert said.startswith(f"{kind} is no chain of dense layers"), said
        named = said.partition("of graphs such as this one ask ")[2].partition(" (")[0]
        asked = named.replace(" and ", ", ").split(", ")
        assert set(asked) < set(cli.commands)
        assert command not in asked
