"""The page on frameworks is run: its Python and its commands, section by section; so is the workflow."""

from __future__ import annotations

import re
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from keras_models import L, write_keras
from project import ROOT
from tflite_models import File

import moduli as mo
from moduli.interface.cli import cli

PAGE = (ROOT / "docs" / "frameworks.md").read_text()
SECTIONS = dict(re.findall(r"(?ms)^## (.+?)\n(.*?)(?=^## |\Z)", PAGE))
RNG = np.random.default_rng(0)


def run(line: str) -> str:
    """A line of a shell, by the command line of this process; what it prints."""
    from click.testing import CliRunner

    program, *words = shlex.split(line, comments=True)
    assert program == "moduli", line
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, f"{line}: {done.output} {done.exception}"
    return str(done.stdout)


def keras_file() -> None:
    """Three units of eight that nothing reads."""
    first, second = RNG.standard_normal((4, 8)), RNG.standard_normal((8, 2))
    second[:3] = 0
    layers = [
        L("InputLayer", {"batch_input_shape": [None, 4], "dtype": "float32"}),
        L("Dense", {"units": 8, "activation": "tanh", "use_bias": True},
          {"kernel": first.astype("float32"), "bias": np.zeros(8, "float32")}),
        L("Dense", {"units": 2, "activation": "linear", "use_bias": True},
          {"kernel": second.astype("float32"), "bias": np.zeros(2, "float32")}),
    ]  # fmt: skip
    write_keras(Path("controller.keras"), layers, sequential=True)


def tflite_file() -> None:
    """A convolution of six channels, of which two are zero, and one that reads them."""
    f = File()
    x = f.input(1, 6, 6, 3)
    filters = RNG.standard_normal((6, 3, 3, 3)).astype("float32")
    filters[[1, 4]] = 0
    bias = np.ones(6, "float32")
    bias[[1, 4]] = 0
    y, z = f.value(1, 6, 6, 6), f.value(1, 6, 6, 2)
    strides = {"StrideW": 1, "StrideH": 1}
    f.add("CONV_2D", [x, f.stored(filters), f.stored(bias)], y, "Conv2D",
          FusedActivationFunction=1, **strides)  # fmt: skip
    last = RNG.standard_normal((2, 3, 3, 6)).astype("float32")
    f.add("CONV_2D", [y, f.stored(last), f.stored(np.zeros(2, "float32"))], z, "Conv2D", **strides)
    Path("detector.tflite").write_bytes(f.write(z))


def policy_archive() -> None:
    """What PPO writes for an environment of four observations and two actions."""
    torch = pytest.importorskip("torch")
    shapes = {
        "mlp_extractor.policy_net.0": (8, 4), "mlp_extractor.policy_net.2": (8, 8),
        "mlp_extractor.value_net.0": (8, 4), "mlp_extractor.value_net.2": (8, 8),
        "action_net": (2, 8), "value_net": (1, 8),
    }  # fmt: skip
    states = {}
    for name, shape in shapes.items():
        states[f"{name}.weight"] = torch.tensor(RNG.standard_normal(shape).astype("float32"))
        states[f"{name}.bias"] = torch.zeros(shape[0])
    states["action_net.weight"][:, :3] = 0.0
    torch.save(states, "policy.pth")
    with zipfile.ZipFile("ppo.zip", "w") as archive:
        archive.write("policy.pth")


FILES: dict[str, Callable[[], None]] = {
    "Keras and TensorFlow": keras_file,
    "TensorFlow Lite": tflite_file,
    "Stable-Baselines3": policy_archive,
}
NEEDS = {"PyTorch": "torch", "scikit-learn": "sklearn", "Keras and TensorFlow": "h5py"}


def test_every_framework_of_the_table_has_a_section():
    linked = re.findall(r"(?m)^\| \[(.+?)\]", PAGE)
    titles = {re.sub(r" and |, ", " ", title) for title in SECTIONS}
    assert {re.sub(r" and |, ", " ", name) for name in linked} == titles


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_ends_in_a_smaller_file_with_a_proof(name, tmp_path, monkeypatch):
    pytest.importorskip(NEEDS.get(name, "numpy"), reason=f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    if name in FILES:
        FILES[name]()
    space: dict[str, object] = {}
    blocks = re.findall(r"(?ms)^```([^\n]*)\n(.*?)^```", SECTIONS[name])
    for language, content in blocks:
        if language == "python":
            exec(compile(content, f"frameworks.md, {name}", "exec"), space)
        elif not language:
            for line in content.splitlines():
                run(line)
    small = next(path for path in tmp_path.iterdir() if path.stem == "small")
    assert (tmp_path / f"{small.name}.cert.json").exists()
    lines = [line for _, block in blocks for line in block.splitlines() if line.strip()]
    assert len(lines) <= 14, "more than ten lines and a few words"
    if name in ("PyTorch", "scikit-learn", "JAX and Flax"):
        found = space["small"]
        assert isinstance(found, mo.Network) or found.network.units < found.original.units  # type: ignore[attr-defined]
    else:
        assert_smaller(name, small)


def assert_smaller(name: str, small: Path) -> None:
    large = next(
        Path(f)
        for f in ("large.onnx", "controller.keras", "detector.tflite", "ppo.zip")
        if Path(f).exists()
    )
    keys = {"keys": ("mlp_extractor.policy_net", "action_net"), "activation": "tanh"}
    options = keys if name == "Stable-Baselines3" else {}
    assert mo.load(small).parameters < mo.load(large, **options).parameters


def test_the_workflow_does_what_it_says(tmp_path, monkeypatch):
    yaml = pytest.importorskip("yaml", reason="no PyYAML, which dask needs")
    flow = yaml.safe_load((ROOT / "docs" / "ci" / "compress.yml").read_text())
    monkeypatch.chdir(tmp_path)
    variables = flow["env"]
    model = Path(variables["MODEL"])
    model.parent.mkdir()
    first = np.vstack([np.eye(2), np.eye(2)])
    mo.save(mo.Network.mlp(first, [0, 0, 3, 0.5], np.ones((1, 4)), [0], activation="relu"), model)
    ran = []
    for job in ("compress", "check"):
        for step in flow["jobs"][job]["steps"]:
            line = step.get("run", "")
            for name, value in variables.items():
                line = line.replace(f'"${name}"', shlex.quote(value))
            if line.startswith("moduli "):
                run(line)
                ran.append(line)
    assert len(ran) == 3
    assert flow["jobs"]["check"]["needs"] == "compress"
    assert Path("small.onnx").exists()
