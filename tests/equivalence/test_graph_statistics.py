"""Batch norms of merged graphs, against torch in training mode."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import moduli as mo
from moduli.interface.cli import cli


class Small(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.inner = nn.BatchNorm2d(2), nn.BatchNorm2d(4)
        self.up, self.down = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.outer = nn.BatchNorm2d(2)
        self.last = nn.Linear(2, 3)
        for norm in (self.first, self.inner, self.outer):
            norm.weight.data.uniform_(0.5, 2)
            norm.bias.data.normal_()
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.first(x)
        x = x + self.outer(self.down(torch.relu(self.inner(self.up(x)))))
        return self.last(x.mean((2, 3)))


def written(module, path: Path) -> Path:
    """With its norms as they are, not folded into convolutions."""
    torch.onnx.export(
        module.eval(), (torch.zeros(1, 2, 4, 4),), path, dynamo=False, opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        input_names=["x"], dynamic_axes={"x": {0: "n"}},
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("norms")
    return folder, [written(Small(seed), folder / f"{seed}.onnx") for seed in (0, 1)]


def as_torch(graph, folder):
    """The same graph as a module: stored numbers by their names."""
    import onnx

    module = Small(0)
    stored = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in onnx.load(mo.save(graph, folder / "m.onnx")).graph.initializer
    }
    state = {name: torch.tensor(stored[name]) for name in module.state_dict() if name in stored}
    assert len(state) == 18
    module.load_state_dict(state, strict=False)
    return module.double()


def test_statistics_are_those_of_training_mode(files):
    """One batch of all samples, momentum 1; torch divides by n - 1 for what it stores."""
    folder, (a, b) = files
    x = np.random.default_rng(0).normal(1, 3, (100, 32))
    found = mo.align(a, b)
    plain, merged = found.merge(0.5), found.merge(0.5, statistics=mo.Samples(x))
    module = as_torch(plain, folder)
    norms = [module.first, module.inner, module.outer]
    for norm in norms:
        norm.momentum = 1.0
    images = torch.tensor(x).reshape(-1, 2, 4, 4)
    wanted = copy.deepcopy(module).train()(images).detach().numpy()
    assert np.allclose(merged(x.reshape(-1, 2, 4, 4)), wanted, rtol=1e-4, atol=1e-4)
    module.train()(images)
    again = as_torch(merged, folder)
    for ours, theirs in zip((again.first, again.inner, again.outer), norms, strict=True):
        count = 100 * 16
        assert torch.allclose(ours.running_mean, theirs.running_mean, rtol=1e-4, atol=1e-5)
        assert torch.allclose(ours.running_var, theirs.running_var * (count - 1) / count, rtol=1e-4)
    # nothing else is changed
    for name, numbers in module.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(again.state_dict()[name], numbers)


def test_a_barrier_with_new_statistics(files):
    _, (a, b) = files
    x = np.random.default_rng(1).normal(1, 3, (30, 32))
    found = mo.align(a, b)
    new = found.barrier(mo.Samples(x), points=3, statistics=mo.Samples(x))
    old = found.barrier(mo.Samples(x), points=3)
    assert np.isfinite(new.loss).all()
    assert not np.allclose(new.loss, old.loss)
    # a graph that has these statistics keeps its function
    one = found.merge(1.0, statistics=mo.Samples(x))
    twice = mo.align(one, one).merge(0.0, statistics=mo.Samples(x))
    images = x.reshape(-1, 2, 4, 4)
    assert np.allclose(one(images), twice(images), atol=1e-5)


def test_refusals(files, tmp_path):
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    graph = mo.load(module, input_shape=(1, 2, 2))
    with pytest.raises(mo.UnsupportedModel, match="no batch norm"):
        mo.align(graph, graph).merge(0.5, statistics=mo.Samples(np.zeros((3, 4))))
    whole = mo.load(Small(0).eval(), input_shape=(2, 4, 4))
    with pytest.raises(mo.UnsupportedModel, match="export it to ONNX"):
        mo.align(whole, whole).merge(0.5, statistics=mo.Samples(np.zeros((3, 32))))
    a, b = files[1]
    with pytest.raises(mo.ShapeError):
        mo.align(a, b).merge(0.5, statistics=mo.Samples(np.zeros((3, 31))))


def test_from_the_command_line(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = map(str, files[1])
    np.save("x.npy", np.random.default_rng(0).normal(size=(20, 32)))
    words = ["align", a, b, "-o", "m.onnx", "--statistics", "x.npy"]
    done = CliRunner().invoke(cli, [*words, "--merge", "0.5"])
    assert done.exit_code == 0, done.output
    x = np.load("x.npy")
    wanted = mo.align(a, b).merge(0.5, statistics=mo.Samples(x))(x.reshape(-1, 2, 4, 4))
    assert np.array_equal(mo.load("m.onnx")(x.reshape(-1, 2, 4, 4)), wanted)
    assert CliRunner().invoke(cli, words).exit_code != 0


def test_the_barrier_of_the_command_line_is_of_what_is_written(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = map(str, files[1])
    x = np.random.default_rng(0).normal(size=(20, 32))
    np.save("x.npy", x)
    asked = ["align", a, b, "-o", "m.onnx", "--merge", "0.5", "--on", "x.npy", "--json"]
    done = CliRunner().invoke(cli, [*asked, "--statistics", "x.npy"])
    wanted = mo.align(a, b).barrier(mo.Samples(x), statistics=mo.Samples(x), seed=0)
    assert json.loads(done.stdout)["barrier"]["loss"] == pytest.approx(wanted.loss)


@pytest.mark.parametrize("given", ["all", "gaussian", "box:0,1"])
def test_statistics_are_of_samples(given, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = map(str, files[1])
    done = CliRunner().invoke(
        cli, ["align", a, b, "-o", "m.onnx", "--merge", "0.5", "--statistics", given]
    )
    assert isinstance(done.exception, ValueError)  # exit code 2 of `moduli`
    assert f"--statistics {given}: give inputs" in str(done.exception)
    assert not Path("m.onnx").exists()
