"""The pages on frameworks are run: their Python and their commands, in order; so is the workflow."""

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

OVERVIEW = (ROOT / "docs" / "frameworks.md").read_text()
PAGES = {path.stem: path.read_text() for path in (ROOT / "docs" / "frameworks").glob("*.md")}
LINES = range(6, 19)  # of code: about ten, and a few words
RNG = np.random.default_rng(0)


def run(line: str) -> str:
    """A line of a shell, by the command line of this process; what it prints."""
    from click.testing import CliRunner

    program, *words = shlex.split(line, comments=True)
    assert program == "moduli", line
    # as in a pipe: workers of pytest-xdist may have a width
    done = CliRunner(env={"COLUMNS": None}).invoke(cli, words)
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
    "keras": keras_file,
    "tflite": tflite_file,
    "stable_baselines3": policy_archive,
}
NEEDS = {"pytorch": "torch", "scikit_learn": "sklearn", "keras": "h5py"}
PYTHON = "pytorch", "scikit_learn", "jax"  # that leave what they found in `small`


def test_every_page_is_in_the_table():
    linked = re.findall(r"(?m)^\| \[.+?\]\(frameworks/(\w+)\.md\)", OVERVIEW)
    assert sorted(linked) == sorted(PAGES)
    assert len(linked) == 7


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_ends_in_a_smaller_file_with_a_proof(name, tmp_path, monkeypatch):
    pytest.importorskip(NEEDS.get(name, "numpy"), reason=f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    if name in FILES:
        FILES[name]()
    space: dict[str, object] = {}
    said = ""
    blocks = re.findall(r"(?ms)^```([^\n]*)\n(.*?)^```", PAGES[name])
    for language, content in blocks:
        if language == "python":
            exec(compile(content, f"{name}.md", "exec"), space)
        elif language == "text":  # what was printed, in part
            for line in content.splitlines():
                assert line in said, f"{name}.md: {line}"
        elif not language:
            said += "".join(map(run, content.splitlines()))
        else:
            assert language.startswith("python not executed: "), language
    small = next(path for path in tmp_path.iterdir() if path.stem == "small")
    assert (tmp_path / f"{small.name}.cert.json").exists()
    lines = [line for kind, block in blocks if kind != "text" for line in block.splitlines()]
    assert sum(map(bool, lines)) in LINES
    if name in PYTHON:
        found = space["small"]
        assert found.network.units < found.original.units  # type: ignore[attr-defined]
    else:
        assert_smaller(name, small)


def test_the_keys_of_the_table_of_policies_are_read(tmp_path, monkeypatch):
    """Names as Stable-Baselines3 has them, beside those of the other parts of each policy."""
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    parts = {
        "mlp_extractor.policy_net.0": (8, 4), "mlp_extractor.policy_net.2": (8, 8), "action_net": (2, 8),
        "mlp_extractor.value_net.0": (8, 4), "mlp_extractor.value_net.2": (8, 8), "value_net": (1, 8),
        "actor.latent_pi.0": (8, 4), "actor.latent_pi.2": (8, 8), "actor.log_std": (2, 8),
        "critic.qf0.0": (8, 6), "critic.qf0.2": (1, 8), "q_net_target.q_net.0": (8, 4),
    }  # fmt: skip
    sac = {**parts, "actor.mu": (2, 8)}
    td3 = {
        "actor.mu.0": (8, 4),
        "actor.mu.2": (8, 8),
        "actor.mu.4": (2, 8),
        "actor_target.mu.0": (8, 4),
    }
    dqn = {
        "q_net.q_net.0": (8, 4),
        "q_net.q_net.2": (8, 8),
        "q_net.q_net.4": (2, 8),
        "q_net_target.q_net.0": (8, 4),
    }
    shapes = {
        "PPO, A2C": sac,
        "the value of PPO, A2C": sac,
        "SAC, the mean of the action": sac,
        "TD3, DDPG": td3,
        "DQN": dqn,
    }
    rows = re.findall(r"(?m)^\| ([^|]+) \| `([\w.,]+)` \| (\w+) \|$", PAGES["stable_baselines3"])
    assert {name for name, _, _ in rows} == set(shapes)
    for name, keys, activation in rows:
        states = {}
        for part, shape in shapes[name].items():
            states[f"{part}.weight"] = torch.ones(shape)
            states[f"{part}.bias"] = torch.zeros(shape[0])
        torch.save(states, "policy.pth")
        net = mo.load("policy.pth", keys=tuple(keys.split(",")), activation=activation)
        assert net.widths == (4, 8, 8, 1 if "value" in name else 2), name


def assert_smaller(name: str, small: Path) -> None:
    large = next(
        Path(f)
        for f in ("large.onnx", "controller.keras", "detector.tflite", "ppo.zip")
        if Path(f).exists()
    )
    keys = {"keys": ("mlp_extractor.policy_net", "action_net"), "activation": "tanh"}
    options = keys if name == "stable_baselines3" else {}
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
