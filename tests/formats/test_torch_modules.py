"""Reading and writing torch: every module is compared with torch itself, through both tracers."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

import moduli as mo
from moduli.formats import torch_constants, torch_modules
from moduli.formats.torch_modules import read_checkpoint, read_module, to_torch

TRACERS = ("export", "fx")


@pytest.fixture(params=TRACERS)
def tracer(request, monkeypatch):
    """Both ways to a graph; the second by making the first fail."""
    if request.param == "fx":

        def fail(*args, **options):
            raise RuntimeError("switched off")

        monkeypatch.setattr(torch.export, "export", fail)
    return request.param


class Written(nn.Module):
    """A module of parts and one line of forward."""

    def __init__(self, forward, shape=(4,), **parts):
        super().__init__()
        self.line, self.shape = forward, shape
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, torch.Tensor) else part)

    def forward(self, x):
        return self.line(self, x)


def seeded(make):
    torch.manual_seed(5)
    module = make().double()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return module


def agrees(module, net, shape, *, rows=7):
    x = torch.randn((rows, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = torch.cat(
            [copy.deepcopy(module).eval()(x[i : i + 1]).reshape(1, -1) for i in range(rows)]
        ).numpy()
    np.testing.assert_allclose(net(x.reshape(rows, -1).numpy()), y, rtol=1e-9, atol=1e-12)


def own_notes(net):
    """All but those that torch agrees, and that its softplus has a threshold."""
    assert sum(note.startswith("agrees with torch in") for note in net.notes) == 1
    return tuple(
        note
        for note in net.notes
        if not note.startswith(("agrees with torch in", "torch's softplus"))
    )


def mlp(activation, *, out=None):
    tail = [] if out is None else [out]
    return lambda: nn.Sequential(
        nn.Linear(4, 6), activation, nn.Linear(6, 5), activation, nn.Linear(5, 3), *tail
    )


def linear():
    return nn.Linear(4, 6)


def slopes(count):
    """A PReLU with another slope for each unit, one of them 0 and one 1."""
    module = nn.PReLU(count)
    with torch.no_grad():
        module.weight[:] = torch.linspace(-0.5, 2.0, count)
        module.weight[:2] = torch.tensor([0.0, 1.0])
    return module


MODULES = {
    "relu": mlp(nn.ReLU()),
    "relu in place": mlp(nn.ReLU(inplace=True)),
    "leaky": mlp(nn.LeakyReLU(0.2)),
    "prelu": mlp(nn.PReLU()),
    "tanh": mlp(nn.Tanh()),
    "sigmoid": mlp(nn.Sigmoid()),
    "gelu": mlp(nn.GELU()),
    "gelu tanh": mlp(nn.GELU(approximate="tanh")),
    "silu": mlp(nn.SiLU()),
    "elu": mlp(nn.ELU()),
    "elu alpha": mlp(nn.ELU(0.3, inplace=True)),
    "selu": mlp(nn.SELU()),
    "celu": mlp(nn.CELU(0.7)),
    "relu6": mlp(nn.ReLU6()),
    "hardtanh": mlp(nn.Hardtanh(-0.25, 3.0)),
    "hardsigmoid": mlp(nn.Hardsigmoid()),
    "hardswish": mlp(nn.Hardswish()),
    "mish": mlp(nn.Mish()),
    "prelu per unit": lambda: nn.Sequential(linear(), slopes(6), nn.Linear(6, 2)),
    "clamp two": lambda: Written(
        lambda m, x: m.b(m.a(x).clamp(-0.5, 0.25)), a=linear(), b=nn.Linear(6, 2)
    ),
    "clamp max": lambda: Written(
        lambda m, x: m.b(m.a(x).clamp_max(0.25)), a=linear(), b=nn.Linear(6, 2)
    ),
    "clamp min": lambda: Written(
        lambda m, x: m.b(torch.clamp(m.a(x), min=0.25)), a=linear(), b=nn.Linear(6, 2)
    ),
    "functional elu": lambda: Written(
        lambda m, x: m.b(F.elu(m.a(x), 0.5, False)), a=linear(), b=nn.Linear(6, 2)
    ),
    "softplus": mlp(nn.Softplus()),
    "softplus beta": mlp(nn.Softplus(beta=3.0)),
    "softmax": mlp(nn.Tanh(), out=nn.Softmax(dim=-1)),
    "softmax 1": mlp(nn.Tanh(), out=nn.Softmax(dim=1)),
    "sigmoid output": mlp(nn.Tanh(), out=nn.Sigmoid()),
    "nested": lambda: nn.Sequential(
        nn.Sequential(nn.Linear(4, 3), nn.Identity()), nn.Tanh(), nn.Linear(3, 2, bias=False)
    ),
    "dropout": lambda: nn.Sequential(
        linear(), nn.Dropout(0.5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 2)
    ),
    "batch norm": lambda: nn.Sequential(
        nn.BatchNorm1d(4), linear(), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)
    ),
    "batch norm bare": lambda: nn.Sequential(
        linear(), nn.ReLU(), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 2)
    ),
    "two affine": lambda: nn.Sequential(
        linear(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), nn.Linear(3, 2)
    ),
    "affine": lambda: nn.Linear(4, 3),
    "erf": lambda: Written(lambda m, x: m.b(torch.erf(m.a(x))), a=linear(), b=nn.Linear(6, 2)),
    "sin": lambda: Written(lambda m, x: m.b(m.a(x).sin()), a=linear(), b=nn.Linear(6, 2)),
    "abs": lambda: Written(lambda m, x: m.b(abs(m.a(x))), a=linear(), b=nn.Linear(6, 2)),
    "clamp": lambda: Written(lambda m, x: m.b(m.a(x).clamp(min=0)), a=linear(), b=nn.Linear(6, 2)),
    "functional": lambda: Written(
        lambda m, x: F.linear(
            F.dropout(F.leaky_relu(F.gelu(F.softplus(m.a(x), beta=2)), 0.3), 0.5, m.training),
            m.w,
            m.b,
        ),
        a=linear(),
        w=torch.randn(2, 6),
        b=torch.randn(2),
    ),
    "functional batch norm": lambda: Written(
        lambda m, x: F.batch_norm(m.a(x), m.mean, m.var, m.gain, None, False, 0.1, 1e-3),
        a=linear(),
        mean=torch.randn(6),
        var=torch.rand(6) + 1,
        gain=torch.randn(6),
    ),
    "arithmetic": lambda: Written(
        lambda m, x: (
            3 - (0.25 * torch.tanh(2 + m.a((x - m.mean) / m.std) * 0.5 - 1) * m.gain - m.gain) / 7
        ),
        a=linear(),
        mean=torch.randn(4),
        std=torch.rand(4) + 0.5,
        gain=torch.randn(6),
    ),
    "alpha": lambda: Written(
        lambda m, x: torch.sub(m.c, torch.add(m.a(x), m.c, alpha=3), alpha=2),
        a=linear(),
        c=torch.randn(6),
    ),
    "matmul": lambda: Written(
        lambda m, x: torch.relu(x @ m.w + m.c) @ m.v,
        w=torch.randn(4, 5),
        c=torch.randn(5),
        v=torch.randn(5, 2),
    ),
    "matmul left": lambda: Written(
        lambda m, x: (m.w @ torch.tanh(m.v @ x.t())).t(), v=torch.randn(5, 4), w=torch.randn(2, 5)
    ),
    "addmm": lambda: Written(
        lambda m, x: torch.addmm(m.c, x, m.w.t(), beta=2, alpha=0.5),
        w=torch.randn(5, 4),
        c=torch.randn(5),
    ),
    "negated": lambda: Written(lambda m, x: -torch.tanh(m.a(-x)), a=linear()),
    "casts": lambda: Written(
        lambda m, x: m.a(x.to(torch.float64).double()).clone().detach().contiguous(), a=linear()
    ),
    "in place": lambda: Written(
        lambda m, x: m.b(m.a(x).relu_().mul_(2).add_(1)), a=linear(), b=nn.Linear(6, 2)
    ),
    "reshapes": lambda: Written(
        lambda m, x: (
            m.a(x.view(x.size(0), 2, 2).permute(0, 2, 1).reshape(x.shape[0], -1))
            .unsqueeze(1)
            .squeeze(1)
            .flatten(1)
        ),
        a=linear(),
    ),
    "slices": lambda: Written(
        lambda m, x: m.a(x[:, 1:5].transpose(0, 1).t())[..., :2], shape=(6,), a=linear()
    ),
    "flattened image": lambda: Written(
        lambda m, x: m.a(torch.flatten(x, 1)), shape=(1, 2, 2), a=linear()
    ),
    "row-wise": lambda: Written(
        lambda m, x: torch.relu(m.a(x)).flatten(1), shape=(3, 4), a=linear()
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_agree_with_torch(name, tracer):
    module = seeded(MODULES[name])
    shape = getattr(module, "shape", (4,))
    agrees(module, read_module(module, input_shape=shape), shape)


def test_a_parameter_of_any_floating_type_is_read_exactly():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to(dtype)
        net = read_module(module)
        for layer, part in zip(net.layers, (module[0], module[2]), strict=True):
            assert (layer.weight == part.weight.detach().double().numpy()).all()
            assert (layer.bias == part.bias.detach().double().numpy()).all()
        assert own_notes(net) == ()


def test_activations_are_found_as_such():
    kinds = {
        "relu": "relu",
        "leaky": "leaky_relu(0.2)",
        "gelu tanh": "gelu_tanh",
        "silu": "silu",
        "softplus": "softplus",
    }
    for name, kind in kinds.items():
        net = read_module(seeded(MODULES[name]))
        assert [str(a) for a in net.activations] == [kind, kind]
    assert read_module(seeded(MODULES["softmax"])).output_map == "softmax"
    assert read_module(seeded(MODULES["sigmoid output"])).output_map == "sigmoid"


@pytest.mark.parametrize(("beta", "threshold"), [(1.0, 20), (10.0, 20.0), (0.3, 25.5), (-2.0, 30)])
def test_the_threshold_of_softplus_is_noted_with_its_error(tracer, beta, threshold):
    """torch returns z beyond the threshold; over the reals softplus(z) > z."""
    module = nn.Sequential(nn.Linear(1, 1), nn.Softplus(beta, threshold), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for part in (module[0], module[2]):
            part.weight.fill_(1)
            part.bias.fill_(0)
    net = read_module(module)
    (note,) = [note for note in net.notes if "threshold" in note]
    stated = Fraction(note.partition("at most ")[2].split()[0])
    with localcontext() as context:
        context.prec = 60
        exact = (1 + (-Decimal(threshold)).exp()).ln() / abs(Decimal(beta))
    assert exact <= Decimal(stated.numerator) / stated.denominator <= Decimal("1.2") * exact
    just = torch.tensor([[np.nextafter(threshold / beta, np.inf * beta)]], dtype=torch.float64)
    assert abs(module(just).item() - net(just.numpy())[0, 0]) <= float(
        stated
    ) + 1e-13 * threshold / abs(beta)
    assert note.startswith(f"torch's softplus is linear beyond threshold {threshold:g}")


def test_a_softplus_with_a_low_threshold_is_refused(tracer):
    for parts in (
        {"beta": 10, "threshold": 0.4},
        {"threshold": 1},
        {"threshold": 19.9},
        {"threshold": float("nan")},
    ):
        with pytest.raises(
            mo.UnsupportedModel,
            match=f"a softplus with threshold {parts['threshold']}.*at least 20 is read",
        ):
            read_module(nn.Sequential(nn.Linear(4, 8), nn.Softplus(**parts), nn.Linear(8, 3)))
    with pytest.raises(mo.UnsupportedModel, match="a softplus with threshold 2"):
        read_module(Written(lambda m, x: F.softplus(m.a(x), threshold=2), a=nn.Linear(4, 4)))


def test_what_rounding_does_is_noted():
    module = seeded(MODULES["batch norm"])
    (note,) = own_notes(read_module(module))
    assert "rounding to float64 changes the output by at most" in note


def test_the_module_stays_as_it_was(tracer):
    module = seeded(MODULES["batch norm"])
    module.train()
    module[1].eval()
    before = copy.deepcopy(module)
    state = torch.random.get_rng_state()
    read_module(module)
    assert [part.training for part in module.modules()] == [
        part.training for part in before.modules()
    ]
    assert all(
        torch.equal(a, b)
        for a, b in zip(module.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert [sorted(vars(part)) for part in module.modules()] == [
        sorted(vars(part)) for part in before.modules()
    ]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_nothing_is_printed(capfd):
    """torch logs and prints graphs when it cannot follow a module."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(mo.UnsupportedModel):
            read_module(REFUSED["data-dependent"][0]())
        with pytest.raises(mo.ShapeError):
            read_module(nn.Linear(3, 2), input_shape=(4,))
        read_module(seeded(MODULES["in place"]))
    assert capfd.readouterr() == ("", "")


def square():
    return nn.Linear(4, 4)


REFUSED = {
    "residual": (
        lambda: Written(lambda m, x: x + torch.tanh(m.a(x)), a=square()),
        "add.*two computed tensors",
    ),
    "gate": (
        lambda: Written(lambda m, x: torch.sigmoid(m.a(x)) * m.a(x), a=square()),
        "mul.*two computed tensors",
    ),
    "quotient": (lambda: Written(lambda m, x: 1.5 / m.a(x), a=square()), "reciprocal|div"),
    "convolution": (
        lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), square()),
        r"(?i)conv1d.* in '0'.*understood are",
    ),
    "softsign": (
        lambda: nn.Sequential(square(), nn.Sequential(nn.Softsign())),
        r"(?i)abs|softsign",
    ),
    "exp": (lambda: Written(lambda m, x: torch.exp(m.a(x)), a=square()), "exp.*not understood"),
    "softmax inside": (
        lambda: nn.Sequential(square(), nn.Softmax(-1), square()),
        "follows a softmax",
    ),
    "softmax over rows": (lambda: nn.Sequential(square(), nn.Softmax(dim=0)), "axis 0"),
    "data-dependent": (
        lambda: Written(lambda m, x: m.a(x) if x.sum() > 0 else x, a=square()),
        "control flow",
    ),
    "two outputs": (lambda: Written(lambda m, x: (m.a(x), m.a(x)), a=square()), "returns 2 values"),
    "constant": (
        lambda: Written(lambda m, x: m.a.bias, a=square()),
        "does not depend on its input",
    ),
    "active dropout": (
        lambda: Written(lambda m, x: F.dropout(m.a(x)), a=square()),
        r"training=self\.training",
    ),
    "integers": (lambda: Written(lambda m, x: m.a(x).to(torch.int32), a=square()), "int32 rounds"),
    "rounded": (
        lambda: Written(lambda m, x: torch.div(x, 3, rounding_mode="floor"), a=square()),
        "rounded",
    ),
    "computed weight": (
        lambda: Written(lambda m, x: x @ torch.inverse(m.a.weight), a=square()),
        "computed from parameters",
    ),
    "batch statistics": (
        lambda: nn.Sequential(square(), nn.BatchNorm1d(4, track_running_stats=False)),
        "stored statistics",
    ),
    "shrinking": (
        lambda: nn.Sequential(square(), nn.Sequential(nn.Hardshrink())),
        r"(?i)shrink.* in '1\.0'.*understood are",
    ),
    "negative celu": (lambda: nn.Sequential(square(), nn.CELU(-1.0)), "alpha=-1"),
    "clamp by tensors": (
        lambda: Written(lambda m, x: m.a(x).clamp(min=m.a.bias), a=square()),
        "numbers are read",
    ),
    "empty clamp": (
        lambda: Written(lambda m, x: m.a(x).clamp(2, 1), a=square()),
        r"\[2\.0, 1\.0\] is constant",
    ),
    "recurrent": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 3)), "LSTM|lstm|zeros"),
    "division by zero": (lambda: Written(lambda m, x: m.a(x) / 0, a=square()), "zero"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(name, tracer):
    make, message = REFUSED[name]
    with pytest.raises(mo.UnsupportedModel, match=message) as caught:
        read_module(make(), input_shape=(1, 4) if name == "convolution" else None)
    assert "\n" not in str(caught.value)
    assert type(make()).__name__ in str(caught.value)


def scripted(module, example):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module, example)


class TwoInputs(nn.Module):
    def forward(self, x, y, scale=1.0):
        return x + y


def test_modules_without_a_usable_input_or_values():
    for module, message in (
        (TwoInputs(), r"2 inputs \(x, y\)"),
        (nn.Sequential(nn.ReLU()), "input_shape="),
        (nn.Linear(2, 2, device="meta"), "without values"),
        (nn.LazyLinear(2), "without values"),
        (scripted(nn.Linear(2, 2), torch.zeros(1, 2)), r"no torch\.nn\.Module in Python"),
        (3, r"int is no torch\.nn\.Module"),
    ):
        with pytest.raises(mo.UnsupportedModel, match=message):
            read_module(module)
    with pytest.raises(mo.ShapeError, match=r"\(3, 5\).*\(4, 3\)"):
        read_module(nn.Linear(4, 3), input_shape=(5,))
    with pytest.raises(mo.ShapeError, match="positive"):
        read_module(nn.Linear(4, 3), input_shape=(0,))
    with pytest.raises(mo.UnsupportedModel, match=r"nan"):
        read_module(
            Written(lambda m, x: x @ m.w, w=torch.full((4, 4), torch.nan)), input_shape=(4,)
        )


def test_a_buffer_that_changes_is_refused():
    class Counts(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            return super().forward(x)

    with pytest.raises(mo.UnsupportedModel, match="buffer 'calls'"):
        read_module(Counts())


def test_fx_never_reads_past_hooks_or_aliases(monkeypatch):
    """What torch.fx does not see must not be read wrongly: hooks, and operations in place on what
    is read again.
    """
    hooked = nn.Sequential(nn.Linear(3, 2))
    hooked[0].register_forward_hook(lambda m, x, y: 2 * y)
    alias = Written(
        lambda m, x: m.b(alias_of(m.a(x))), a=nn.Linear(4, 4), b=nn.Linear(4, 2)
    ).double()

    def alias_of(y):
        y.view(-1).relu_()
        return y

    plain = copy.deepcopy(hooked)
    plain[0]._forward_hooks.clear()
    assert read_module(hooked) == read_module(nn.Sequential(plain, Written(lambda m, x: 2 * x)))
    agrees(alias, read_module(alias), (4,))
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: 1 / 0)
    with pytest.raises(mo.UnsupportedModel, match="hooks"):
        read_module(hooked)
    with pytest.raises(mo.UnsupportedModel, match="in place"):
        read_module(alias)


# Checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("serra_mnist_100-100_checkpoint_120.tar", {"activation": "relu"}),
        ("serra_cifar10_400-400_L1_pruned_checkpoint_120.tar", {"activation": "relu"}),
        (
            "sb3_ppo_Acrobot-v1_policy.pth",
            {"activation": "tanh", "keys": ("mlp_extractor.policy_net", "action_net")},
        ),
    ],
)
def test_real_checkpoints_agree_with_their_references(shared, name, options):
    expected = np.load(shared / "models" / f"{name}.expected.npz")
    net = read_checkpoint(shared / "models" / name, **options)
    output = net(expected["inputs"].reshape(len(expected["inputs"]), -1))
    assert (
        np.abs(output - expected["output"].reshape(output.shape)).max()
        <= 1e-5 * np.abs(expected["output"]).max()
    )


def test_real_checkpoints_that_are_no_dense_network(shared):
    with pytest.raises(mo.UnsupportedModel, match="conv1"):
        read_checkpoint(shared / "models" / "cifar10_resnet2b.pth", activation="relu")
    with pytest.raises(mo.UnsupportedModel, match="keys="):
        read_checkpoint(shared / "models" / "sb3_ppo_Acrobot-v1_policy.pth", activation="tanh")
    with pytest.raises(mo.UnsupportedModel, match="activation="):
        read_checkpoint(shared / "models" / "serra_mnist_100-100_checkpoint_120.tar")


@pytest.fixture
def model():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_every_shape(tmp_path, model, zipped):
    state, file = model.state_dict(), tmp_path / "model.pth"
    wrapped = {f"module.{name}": value for name, value in state.items()}
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1}]}
    for held in (
        state,
        dict(state),
        {"state_dict": wrapped, "epoch": 3, "optimizer": optimizer},
        {"anything": state, "seed": 2**40},
        {
            "model_state_dict": state,
            "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(4, 3)}}},
        },
        {"accuracy": torch.tensor(0.9), "state_dict": [state]},
        [state, optimizer],
    ):
        torch.save(held, file, _use_new_zipfile_serialization=zipped)
        assert read_checkpoint(file, activation="tanh") == read_module(model)
    half = {name: value.to(torch.bfloat16) for name, value in state.items()}
    torch.save(half, file, _use_new_zipfile_serialization=zipped)
    assert read_checkpoint(file, activation="tanh") == read_module(
        copy.deepcopy(model).to(torch.bfloat16)
    )


class Attack:
    """Unpickled naively, this makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_code_is_never_run(tmp_path, model):
    marker = tmp_path / "executed"
    attack = {"state_dict": Attack(str(marker))}
    files = {
        name: tmp_path / f"{name}.pth" for name in ("pickle", "zip", "legacy", "module", "script")
    }
    files["pickle"].write_bytes(pickle.dumps(attack))
    torch.save(attack, files["zip"])
    torch.save(attack, files["legacy"], _use_new_zipfile_serialization=False)
    torch.save(model, files["module"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(scripted(model, torch.zeros(1, 3)), files["script"])
    for file in files.values():
        with pytest.raises(
            mo.UnsupportedModel, match=r"could run code.*save model.state_dict\(\)"
        ) as caught:
            read_checkpoint(file, activation="tanh")
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not marker.exists()
    with files["pickle"].open("rb") as stream:
        pickle.load(stream)
    assert marker.exists(), "the attack is one"


class Bytes:
    def __reduce__(self):
        return bytearray, (10**11,)


def test_files_that_declare_more_than_they_hold(tmp_path, model):
    file = tmp_path / "model.pth"
    for held, message in (
        ({"0.weight": torch.ones(1).expand(10**6, 10**6)}, "declares 1000000000000 numbers"),
        ({"0.weight": torch.ones(2, 2).to_sparse()}, "sparse"),
        ({"0.weight": torch.ones(2, 2, device="meta")}, "empty"),
        ({"a": Bytes()}, "could run code"),
    ):
        torch.save(held, file)
        with pytest.raises(mo.UnsupportedModel, match=message):
            read_checkpoint(file, activation="tanh")
    torch.save(model.state_dict(), file)
    packed = tmp_path / "packed.pth"
    with (
        zipfile.ZipFile(file) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(mo.UnsupportedModel, match="packed"):
        read_checkpoint(packed, activation="tanh")
    data = file.read_bytes()
    declared = data.replace(b"K\x0ctq", b"K\xfftq")  # 255 numbers where 12 are stored
    assert declared != data
    file.write_bytes(declared)
    with pytest.raises(mo.UnsupportedModel, match="damaged"):
        read_checkpoint(file, activation="tanh")


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_end_in_one_line(tmp_path, model, zipped):
    file = tmp_path / "model.pth"
    torch.save(model.state_dict(), file, _use_new_zipfile_serialization=zipped)
    whole, rng = file.read_bytes(), np.random.default_rng(3)
    lengths = [0, 1, 2, 10, 100, *rng.integers(1, len(whole) - 1, 40).tolist()]
    damaged = [whole[:n] for n in lengths]
    for at, value in zip(rng.integers(0, len(whole), 300), rng.integers(1, 256, 300), strict=True):
        flipped = bytearray(whole)
        flipped[at] ^= value
        damaged.append(bytes(flipped))
    messages = []
    for data in damaged:
        file.write_bytes(data)
        try:
            read_checkpoint(file, activation="tanh")
        except mo.ModuliError as error:
            messages.append(str(error))
    assert len(messages) >= len(lengths)
    assert [m for m in messages if "\n" in m or str(file) not in m] == []


def test_other_contents(tmp_path, model):
    file = tmp_path / "model.pth"
    for held, message in (
        ([1, 2], "holds a list"),
        ({"a": 1}, "a dict with a"),
        (
            {"x": model.state_dict(), "y": model.state_dict()},
            "no single state dict is found but 2: .*keys=, from x, y",
        ),
        ({"model": model.state_dict(), "ema": model.state_dict()}, "keys=, from model, ema"),
        ({"state_dict": [model.state_dict()] * 2}, "keys=, from state_dict.0, state_dict.1"),
        (
            {"mean": torch.ones(3), "scale": [1, 2]},
            "'mean' belongs to no dense layer.*export the model to ONNX",
        ),
        (
            {"optimizer": {"0": torch.ones(3)}},
            "a dict with optimizer, in which no state dict is found",
        ),
        (torch.ones(3), "holds a Tensor"),
        ({"0.weight": torch.full((2, 2), torch.nan)}, "nan"),
    ):
        torch.save(held, file)
        with pytest.raises(mo.UnsupportedModel, match=message):
            read_checkpoint(file, activation="tanh")
    file.write_text("no checkpoint at all")
    with pytest.raises(mo.UnsupportedModel, match="damaged"):
        read_checkpoint(file)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "absent.pth")


# Writing --------------------------------------------------------------------------------------------------------


def network(kind, output_map="identity", *, widths=(3, 5, 4, 2), seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(n, m) for m, n in pairwise(widths)]
    arrays = [a for n, m in shapes for a in (rng.normal(size=(n, m)), rng.normal(size=n))]
    return mo.Network.mlp(*arrays, activation=kind, output_map=output_map)


KINDS = sorted(
    {"leaky_relu(0.1)", "clip(0,6)", "elu(1.5)", *mo.Activation.KINDS}
    - {"leaky_relu", "clip", "elu", "identity"}
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output_map", ["identity", "softmax", "tanh"])
def test_float64_comes_back_to_the_same_digest(kind, output_map):
    net = network(kind, output_map)
    module = to_torch(net)
    x = np.random.default_rng(1).normal(size=(9, 3))
    with torch.no_grad():
        np.testing.assert_allclose(
            module(torch.from_numpy(x)).numpy(), net(x), rtol=1e-12, atol=1e-14
        )
    assert read_module(module).digest == net.digest
    assert own_notes(read_module(module)) == ()


def test_shapes_at_the_edge():
    for widths in ((3, 2), (1, 1), (3, 0, 2), (1, 4, 0, 3)):
        net = network("tanh", widths=widths)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            module = to_torch(net)
        with torch.no_grad():
            np.testing.assert_allclose(
                module(torch.ones(2, widths[0], dtype=torch.float64)).numpy(),
                net(np.ones((2, widths[0]))),
            )
        assert read_module(module) == net


def test_mixed_activations_survive():
    net = mo.Network.mlp(
        *[np.ones(s) for s in ((3, 2), 3, (2, 3), 2, (1, 2), 1)],
        activation=["erf", "relu"],
        output_map="sigmoid",
    )
    assert read_module(to_torch(net)) == net


def test_other_types_round_to_nearest():
    net = network("relu")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        module = to_torch(net, dtype=dtype)
        assert {p.dtype for p in module.parameters()} == {dtype}
        assert (
            read_module(module).flat() == torch.from_numpy(net.flat()).to(dtype).double().numpy()
        ).all()
    with pytest.raises(mo.UnsupportedModel, match=r"layer 1: weight holds 1e\+300"):
        to_torch(mo.Network.mlp([[1e300]], [0.0]), dtype=torch.float32)
    with pytest.raises(mo.UnsupportedModel, match=r"torch\.int32"):
        to_torch(net, dtype=torch.int32)


def test_writing_leaves_random_numbers_and_the_network_alone():
    net = network("tanh")
    state = torch.random.get_rng_state()
    module = to_torch(net)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert net == network("tanh")


def test_written_modules_can_be_trained_pickled_and_exported(tmp_path):
    module = to_torch(network("sin"))
    module(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    torch.save(module, tmp_path / "module.pt")
    again = torch.load(tmp_path / "module.pt", weights_only=False)
    assert read_module(again) == read_module(module) == network("sin")
    assert repr(again[1]) == "Elementwise(sin)"


def test_load_takes_modules_and_checkpoints(tmp_path):
    net = network("tanh", "softmax")
    module = to_torch(net)
    assert mo.load(module) == net
    torch.save(module.state_dict(), tmp_path / "model.pt")
    assert mo.load(tmp_path / "model.pt", activation="tanh") == network("tanh")


def test_without_torch_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import moduli as mo, moduli.formats.torch_modules\n"
        "net = mo.Network.mlp([[1.0]], [0.0])\n"
        "for call in (lambda: mo.to_torch(net), lambda: moduli.formats.torch_modules.read_module(net)):\n"
        "    try: call()\n"
        "    except mo.MissingExtra as error: print(error)\n"
    )
    source = Path(mo.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert (
        done.stdout.splitlines() == ["torch is not installed; run: pip install 'moduli[torch]'"] * 2
    )


# Samples --------------------------------------------------------------------------------------------------------

APART = {
    "transposed and back": lambda: Written(lambda m, x: torch.relu(m.a(x).T).T, a=linear()),
    "merged and back": lambda: Written(
        lambda m, x: m.a(x.reshape(-1, 2)).reshape(x.shape[0], -1), a=nn.Linear(2, 3)
    ),
    "all of them": lambda: Written(lambda m, x: m.a(x)[0:], a=linear()),
    "one constant": lambda: Written(lambda m, x: m.a(x) + m.c, a=linear(), c=torch.randn(1, 6)),
    "axis before": lambda: Written(lambda m, x: m.a(x[None]).squeeze(0), a=linear()),
    "squeezed": lambda: Written(lambda m, x: m.a(x).squeeze(), a=nn.Linear(4, 1)),
}
TOGETHER = {
    "flattened": (lambda m, x: m.a(x).reshape(-1), {"a": square()}),
    "transposed": (lambda m, x: m.a(x).T, {"a": square()}),
    "mean": (lambda m, x: m.a(x) - x.mean(0), {"a": square()}),
    "rows of one sample": (lambda m, x: m.a(x.view(1, -1)), {"a": square()}),
    "rows of three samples": (lambda m, x: m.a(x.view(3, -1)), {"a": square()}),
    "softmax": (lambda m, x: m.a(x).softmax(0), {"a": square()}),
    "softmax of one output": (lambda m, x: m.a(x).softmax(0), {"a": nn.Linear(4, 1)}),
    "softmax of as many": (lambda m, x: m.a(x).softmax(0), {"a": nn.Linear(4, 3)}),
    "the first": (lambda m, x: m.a(x)[0], {"a": square()}),
    "a slice": (lambda m, x: m.a(x)[:1], {"a": square()}),
    "other constants": (lambda m, x: m.a(x) + m.c, {"a": square(), "c": torch.randn(3, 4)}),
    "equal constants": (lambda m, x: m.a(x) + m.c, {"a": square(), "c": torch.ones(3, 4)}),
    "other factors": (lambda m, x: m.a(x) * m.c, {"a": square(), "c": torch.randn(3, 1)}),
    "normalised": (lambda m, x: m.b(x.T).T, {"a": square(), "b": nn.BatchNorm1d(3)}),
    "mixed": (lambda m, x: m.w @ m.a(x), {"a": square(), "w": torch.randn(3, 3)}),
    "counted": (lambda m, x: m.a(x) * x.shape[0], {"a": square()}),
    "shared out": (lambda m, x: m.a(x) / x.size(0), {"a": square()}),
    "told apart": (
        lambda m, x: torch.relu(m.a(x)) if x.shape[0] == 3 else torch.tanh(m.a(x)),
        {"a": square()},
    ),
    "one of each": (lambda m, x: m.a(x.reshape(-1, 2)), {"a": nn.Linear(2, 3)}),
}


@pytest.mark.parametrize("name", APART)
def test_samples_that_stay_apart_are_read(name, tracer):
    module = seeded(APART[name])
    agrees(module, read_module(module, input_shape=4), (4,))


@pytest.mark.parametrize("name", TOGETHER)
def test_samples_that_meet_are_refused(name, tracer):
    line, parts = TOGETHER[name]
    with pytest.raises(mo.ModuliError, match=r"^Written") as caught:
        read_module(Written(line, **parts).double(), input_shape=4)
    assert "\n" not in str(caught.value)


# The second reading ---------------------------------------------------------------------------------------------


def test_a_reader_that_misreads_is_stopped(monkeypatch):
    """Plant a wrong rule for each of several operations: no wrong network comes out."""
    for name, wrong in (
        ("tanh", lambda x: x.activate(mo.Activation("sigmoid"))),
        ("linear", lambda x, w, b=None: x.matmul(w.T[:, ::-1].copy())),
        ("gelu", lambda x, approximate="none": x.activate(mo.Activation("gelu_tanh"))),
        ("softmax", lambda x, dim=None, *_: x),
    ):
        module = nn.Sequential(
            nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3), nn.Softmax(-1)
        )
        assert read_module(module).output_map == "softmax"
        with monkeypatch.context() as patch:
            patch.setitem(torch_modules._OPERATIONS, name, wrong)
            with pytest.raises(
                mo.UnsupportedModel,
                match=r"Sequential: read as .*, which gives .* torch in float64 gives",
            ):
                read_module(module)


def test_modules_that_insist_on_their_type_are_compared_in_it():
    """A cast in forward makes a float64 copy fail, and casts to fewer digits round."""
    insists = Written(lambda m, x: m.a(x.to(torch.float32)), a=nn.Linear(4, 6))
    assert read_module(insists).notes == (
        "agrees with torch in float32 at 18 inputs (batch 1 and 3)",
    )
    rounds = Written(lambda m, x: m.a(x).half().float(), a=nn.Linear(4, 6))
    assert "agrees with torch" in read_module(rounds).notes[-1]
    for dtype in (torch.float16, torch.bfloat16):
        module = Written(lambda m, x: m.a(x.to(m.a.weight.dtype)), a=nn.Linear(4, 6)).to(dtype)
        assert "agrees with torch in float64" in read_module(module).notes[-1]


def test_large_modules_say_that_they_were_not_compared(monkeypatch):
    monkeypatch.setattr(torch_modules, "MAX_PARAMETERS", 29)
    assert "not compared with torch" not in read_module(nn.Linear(4, 5)).notes[0]
    monkeypatch.setattr(torch_modules, "MAX_PARAMETERS", 24)
    assert read_module(nn.Linear(4, 5)).notes == (
        "not compared with torch: 25 parameters, at most 24 are run twice",
    )


# Computed weights and constants -----------------------------------------------------------------------------------


def pruned(module):
    prune.l1_unstructured(module[0], "weight", amount=0.5)
    prune.random_unstructured(module[0], "weight", amount=0.2)
    prune.random_unstructured(module[0], "bias", amount=0.5)
    prune.ln_structured(module[2], "weight", amount=0.5, n=2, dim=1)
    return module


def wrapped(wrap, **options):
    def make(module):
        module[0], module[2] = wrap(module[0], **options), wrap(module[2], **options)
        return module

    return make


class Scaled(nn.Module):
    """A parametrisation of a user."""

    def forward(self, weight):
        return torch.tanh(weight) * 2


def scaled(module):
    parametrize.register_parametrization(module[0], "weight", Scaled())
    parametrize.register_parametrization(module[0], "bias", Scaled())
    parametrize.register_parametrization(module[2], "weight", Scaled())
    return module


COMPUTED = {
    "pruned": pruned,
    "old weight norm": wrapped(nn.utils.weight_norm),
    "old weight norm of all": wrapped(nn.utils.weight_norm, dim=None),
    "weight norm": wrapped(parametrizations.weight_norm),
    "weight norm of columns": wrapped(parametrizations.weight_norm, dim=1),
    "old spectral norm": wrapped(nn.utils.spectral_norm),
    "spectral norm": wrapped(parametrizations.spectral_norm),
    "orthogonal": wrapped(parametrizations.orthogonal),
    "own": scaled,
}


def everything(module):
    """All that a reading might change."""
    return [
        (
            type(part),
            part.training,
            sorted(vars(part)),
            list(part._forward_pre_hooks.values()),
            list(part._forward_hooks),
            [
                (name, id(value), value._version, value.tolist())
                for name, value in part.named_parameters(recurse=False)
            ],
            [
                (name, id(value), value._version, value.tolist())
                for name, value in part.named_buffers(recurse=False)
            ],
        )
        for part in module.modules()
    ]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", COMPUTED)
def test_computed_weights_are_read_as_torch_computes_them(name, training, tracer):
    torch.manual_seed(4)
    module = COMPUTED[name](
        nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    ).train(training)
    module(
        torch.ones(2, 5, dtype=torch.float64)
    ).sum().backward()  # weights with a history, as after training
    before, random = everything(module), torch.random.get_rng_state()
    net = read_module(module)
    assert everything(module) == before
    assert torch.equal(torch.random.get_rng_state(), random)
    x = torch.randn(20, 5, dtype=torch.float64)
    with torch.no_grad():
        module.eval()
        np.testing.assert_allclose(net(x.numpy()), module(x).numpy(), rtol=1e-12, atol=1e-13)
        assert np.array_equal(net.layers[0].weight, module[0].weight.numpy())
    computed = [note for note in net.notes if "as torch computes it in evaluation mode" in note]
    assert [note.split()[0] for note in computed] == list(
        dict.fromkeys(note.split()[0] for note in computed)
    )
    assert {"0.weight", "2.weight"} <= {note.split()[0] for note in computed}


def test_a_stale_pruned_weight_is_not_read():
    """The attribute is of the last forward pass; the parameter has moved since."""
    layer = prune.l1_unstructured(nn.Linear(4, 3).double(), "weight", amount=0.5)
    layer(torch.ones(1, 4, dtype=torch.float64))
    with torch.no_grad():
        layer.weight_orig.mul_(3)
    assert np.array_equal(
        read_module(layer).layers[0].weight,
        (layer.weight_orig * layer.weight_mask).detach().numpy(),
    )


def test_a_module_that_cannot_be_copied_or_settled_is_refused():
    class Locked(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError("not me")

    with pytest.raises(mo.UnsupportedModel, match=r"Locked cannot be copied .not me"):
        read_module(Locked(3, 2))

    class Growing(nn.Module):
        def forward(self, weight):
            return torch.cat([weight, weight])

        def right_inverse(self, weight):
            return weight[: len(weight) // 2]

    grown = nn.Sequential(nn.Linear(3, 2))
    parametrize.register_parametrization(grown[0], "weight", Growing(), unsafe=True)
    assert read_module(grown).widths == (3, 2)

    class Failing(Scaled):
        def forward(self, weight):
            if not self.training:
                raise RuntimeError("only in training")
            return weight

    failing = nn.Sequential(nn.Linear(3, 2))
    parametrize.register_parametrization(failing[0], "weight", Failing())
    with pytest.raises(
        mo.UnsupportedModel,
        match=r"0: a computed parameter .only in training.*remove_parametrizations",
    ):
        read_module(failing)


def test_random_numbers_are_not_drawn():
    module = Written(lambda m, x: m.a(x) + torch.rand(6), a=nn.Linear(4, 6))
    state = torch.random.get_rng_state()
    with pytest.raises(mo.UnsupportedModel, match="rand"):
        read_module(module)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_random_numbers_are_not_drawn_while_tracing(monkeypatch):
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: 1 / 0)
    module = Written(lambda m, x: m.a(x) + torch.rand(6), a=nn.Linear(4, 6))
    state = torch.random.get_rng_state()
    with pytest.raises(mo.UnsupportedModel, match=r"draws random numbers|which gives"):
        read_module(module)
    assert torch.equal(torch.random.get_rng_state(), state)


CONSTANTS = {
    "normaliser": lambda m, x: m.a((x - m.mean) / (m.std + 1e-2)),
    "variance": lambda m, x: m.a((x - m.mean) / torch.sqrt(m.std + 1e-5)),
    "reciprocal root": lambda m, x: m.a((x - m.mean) * torch.rsqrt(m.std**2 + 1e-8)),
    "powers": lambda m, x: m.a((x + m.mean**2) * (m.std + 1) ** -0.5 / m.std.square()),
    "turned": lambda m, x: x @ (m.u @ m.v + m.w).t() - (1 - m.mean / 3)[None, :],
    "low rank": lambda m, x: F.linear(x, m.w + 0.3 * (m.u @ m.v), -m.mean),
    "chosen": lambda m, x: m.a(x / m.std.clamp(min=1.0) + m.mean.abs()),
    "masked": lambda m, x: F.linear(x, torch.tril(m.w) * m.mask),
    "by torch": lambda m, x: m.a(x * torch.exp(m.mean) / m.std.sum()),
    "stacked": lambda m, x: x @ torch.stack([m.mean, m.std, m.mean * m.std, m.mean - m.std], dim=1),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_computed_from_constants(name, tracer):
    torch.manual_seed(6)
    tensors = {
        "mean": torch.randn(4),
        "std": torch.rand(4) + 0.5,
        "w": torch.randn(4, 4),
        "u": torch.randn(4, 1),
    }
    tensors |= {"v": torch.randn(1, 4), "mask": (torch.rand(4, 4) > 0.5).double()}
    module = Written(CONSTANTS[name], a=square(), **tensors).double()
    net = read_module(module, input_shape=4)
    agrees(module, net, (4,))
    assert any("computed by torch in float64" in note for note in net.notes) == (name == "by torch")


def test_constants_are_not_rounded_to_the_type_of_the_parameters():
    """Over the reals, std + 1e-8 is not std, though float32 cannot tell."""
    module = Written(lambda m, x: m.a(x) / (m.std + 1e-8), a=square(), std=torch.full((4,), 1.0))
    net, weight = read_module(module), module.a.weight[0, 0].item()
    assert net.layers[0].weight[0, 0] == float(Fraction(weight) / (1 + Fraction(1e-8)))
    assert "rounding to float64 changes the output by at most" in own_notes(net)[0]


def test_constants_that_are_no_function_or_no_number_are_refused():
    for line, message in (
        (lambda m, x: m.a(x) / (m.c - m.c), "division by zero"),
        (lambda m, x: m.a(x) * torch.sqrt(-m.c.abs()), "must not be negative"),
        (
            lambda m, x: m.a(x) * torch.bernoulli(m.c.abs().clamp(max=1)),
            "computed from parameters by bernoulli",
        ),
        (lambda m, x: m.a(x) * torch.floor(m.c), "computed from parameters by floor"),
        (lambda m, x: m.a(x) * (m.n + m.n), "computed from parameters in torch.uint8"),
        (lambda m, x: m.a(x) * torch.log(m.c - m.c), "inf|nan"),
    ):
        module = Written(line, a=square(), c=torch.rand(4) + 0.5)
        module.register_buffer("n", torch.tensor([200] * 4, dtype=torch.uint8))
        with pytest.raises(mo.UnsupportedModel, match=message):
            read_module(module)


def test_the_bounds_of_computed_constants_hold():
    """Against rationals, through three roots and quotients in a row."""
    rng = np.random.default_rng(3)
    a, b = rng.uniform(0.1, 3, 40), rng.uniform(0.1, 3, 40)
    value: object = a
    for name, other in (
        ("sqrt", ()),
        ("div", (b,)),
        ("add", (0.1,)),
        ("rsqrt", ()),
        ("mul", (b,)),
        ("reciprocal", ()),
    ):
        value, _ = torch_constants.compute(name, None, (value, *other), {})
    with localcontext() as context:
        context.prec = 80
        for k in range(40):
            x, y = Decimal(float(a[k])), Decimal(float(b[k]))
            exact = Fraction(1 / (1 / (x.sqrt() / y + Decimal(float(1 / 10))).sqrt() * y))
            error = abs(value.centre.get((k,)) - exact)
            assert error <= Fraction(float(value.radius[k])) <= Fraction(2) ** -90


def test_the_input_shape_may_be_a_number():
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    assert mo.load(module, input_shape=4) == mo.load(module, input_shape=(4,)) == mo.load(module)
    with pytest.raises(mo.ShapeError, match="positive"):
        read_module(module, input_shape=0)
