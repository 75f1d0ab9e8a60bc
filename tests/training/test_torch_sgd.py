"""Noise on torch optimizers: laws, streams, state, and the traps of checkpoints and gradient
scalers.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import pytest

import moduli as mo

torch = pytest.importorskip("torch")

from moduli.pytorch import HeavyTailedNoise, HeavyTailedSGD, hidden_parameters  # noqa: E402
from moduli.training.noise import KINDS  # noqa: E402
from moduli.training.torch_sgd import STATE, draw  # noqa: E402


def agrees(values, exact):
    assert abs(values.mean() - exact) <= 6 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize("alpha", [0.7, 1.0, 1.75, 1.9, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_joint_characteristic_functions(alpha, dtype):
    t = np.array([0.5, -0.2, 0.9])
    exponent = {
        "iid": (np.abs(t) ** alpha).sum(),
        "rows": abs(t.sum()) ** alpha,
        "isotropic": np.linalg.norm(t) ** alpha,
    }
    for kind in KINDS:
        g = torch.Generator().manual_seed(1)
        x = draw((200_000, 3), alpha, kind, generator=g, dtype=dtype)
        assert x.dtype == dtype
        assert torch.isfinite(x).all()
        agrees(np.cos(x.double().numpy() @ t), math.exp(-exponent[kind]))


@pytest.mark.slow
def test_the_tail_of_float32():
    """P(|X| > 10^4) at alpha 1.75 is 2.3e-8: 6.8 are due in 3e8 draws; a 24-bit uniform gives
    none.
    """
    g = torch.Generator().manual_seed(0)
    alpha, total, beyond, up = 1.75, 3 * 10**8, 0, 0
    c = math.gamma(alpha) * math.sin(math.pi * alpha / 2) / math.pi
    due = 2 * c * 1e4**-alpha * total
    for _ in range(total // 10**7):
        x = draw((10**7,), alpha, generator=g)
        assert torch.isfinite(x).all()
        beyond += int((x.abs() > 1e4).sum())
        up += int((x > 1e4).sum())
    assert abs(beyond - due) < 6 * math.sqrt(due)
    assert 0 < up < beyond


def model(seed=0, widths=(4, 16, 8, 3)):
    torch.manual_seed(seed)
    layers = []
    for n, m in pairwise(widths):
        layers += [torch.nn.Linear(n, m), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def steps(net, optimizer, count, scheduler=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        x = torch.randn(10, 4, generator=g)
        net(x).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def weights(net):
    return [p.detach().clone() for p in net.parameters()]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(weights(a), weights(b), strict=True))


def test_only_hidden_matrices_carry_noise():
    net = model()
    plain, noisy = copy.deepcopy(net), copy.deepcopy(net)
    steps(plain, torch.optim.SGD(plain.parameters(), lr=0.1), 1)
    optimizer = HeavyTailedSGD(noisy.parameters(), lr=0.1, alpha=1.5, sigma=0.1, seed=3)
    steps(noisy, optimizer, 1)
    changed = [not torch.equal(p, q) for p, q in zip(weights(plain), weights(noisy), strict=True)]
    assert changed == [True, False, True, False, False, False]
    assert [id(p) for p in optimizer.noise.parameters] == [id(p) for p in hidden_parameters(noisy)]


def test_the_scale_is_that_of_the_step():
    net = model(widths=(4, 4000, 2))
    before = weights(net)[0]
    optimizer = HeavyTailedSGD(net.parameters(), lr=0.01, alpha=1.5, sigma=0.3, kind="iid")
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    x = ((weights(net)[0] - before) / (0.3 * 0.01 ** (1 / 1.5))).double().numpy().ravel()
    agrees(np.cos(x), math.exp(-1))


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, name, kind):
    def make():
        net = model()
        optimizer = OPTIMIZERS[name](net.parameters())
        HeavyTailedNoise(optimizer, 1.75, 0.05, kind, seed=5)
        return net, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)

    net, optimizer, scheduler = make()
    steps(net, optimizer, 5, scheduler)
    torch.save(
        [net.state_dict(), optimizer.state_dict(), scheduler.state_dict()], tmp_path / "state.pt"
    )
    steps(net, optimizer, 7, scheduler, seed=1)
    again, other, second = make()
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    for target, state in zip((again, other, second), states, strict=True):
        target.load_state_dict(state)
    assert STATE in states[1]  # the caller's own dict is left alone
    steps(again, other, 7, second, seed=1)
    assert same(net, again)


def test_a_saved_state_is_a_copy():
    net = model()
    optimizer = HeavyTailedSGD(net.parameters(), lr=0.1, alpha=1.5, sigma=0.1)
    steps(net, optimizer, 2)
    state = optimizer.state_dict()
    saved = {k: v.clone() for k, v in state[STATE]["streams"].items()}
    steps(net, optimizer, 2)
    assert all(torch.equal(saved[k], v) for k, v in state[STATE]["streams"].items())
    assert all(v.dtype == torch.uint8 for v in saved.values())


def test_states_that_do_not_fit_are_refused():
    net = model()
    optimizer = HeavyTailedSGD(net.parameters(), lr=0.1, alpha=1.5, sigma=0.1)
    steps(net, optimizer, 1)
    state = optimizer.state_dict()
    moved = {
        **state,
        STATE: {**state[STATE], "devices": dict.fromkeys(state[STATE]["devices"], "cuda")},
    }
    with pytest.raises(ValueError, match="was saved on cuda and cannot go on on cpu"):
        optimizer.load_state_dict(moved)
    with pytest.raises(ValueError, match="saved without heavy-tailed noise"):
        optimizer.load_state_dict(torch.optim.SGD(net.parameters(), lr=0.1).state_dict())


def test_freezing_a_group_shifts_no_stream():
    def run(frozen):
        net = model()
        if frozen:
            net[0].weight.requires_grad_(False)
        optimizer = HeavyTailedSGD(net.parameters(), lr=0.1, alpha=1.5, sigma=0.1, seed=2)
        before = weights(net)[2]
        for p in net.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
        optimizer.step()
        return weights(net)[0], weights(net)[2] - before

    (first, one), (kept, other) = run(False), run(True)
    assert torch.equal(one, other)
    assert torch.equal(kept, weights(model())[0])
    assert not torch.equal(first, kept)


def test_groups_carry_their_own_noise_and_schedules():
    net = model()
    groups = [
        {"params": net[0].parameters(), "sigma": 0.0},
        {"params": [*net[2].parameters(), *net[4].parameters()], "kind": "rows"},
    ]
    optimizer = HeavyTailedSGD(groups, lr=torch.tensor(0.1), alpha=1.5, sigma=0.1)
    assert [g["kind"] for g in optimizer.param_groups] == ["isotropic", "rows"]
    before = weights(net)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    after = weights(net)
    assert torch.equal(before[0], after[0])
    moved = (after[2] - before[2]) / 1.0
    assert torch.allclose(moved, moved[:, :1].expand_as(moved), atol=1e-5)
    optimizer.param_groups[1]["sigma"] = 0.0
    optimizer.step()
    assert torch.equal(weights(net)[2], after[2])


def test_closures_see_no_noise_and_a_step_has_one():
    net = model()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=10)
    noise = HeavyTailedNoise(optimizer, 1.5, 0.1)
    seen, drawn = [], []
    draw_one = noise._draw
    noise._draw = lambda *args: (drawn.append(1), draw_one(*args))[1]
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))

    def closure():
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        seen.append(len(drawn))
        return loss

    optimizer.step(closure)
    assert len(seen) > 2
    assert set(seen) == {0}
    assert len(drawn) == len(noise.parameters)


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_steps_get_no_noise(fused):
    """An infinite gradient: the scaler skips a plain optimizer, a fused one skips inside its step."""
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=fused)
    HeavyTailedNoise(optimizer, 1.5, 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = weights(net)
    x = torch.randn(10, 4)
    scaler.scale(net(x).square().mean()).backward()
    next(net.parameters()).grad[0, 0] = math.inf
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, q) for p, q in zip(before, weights(net), strict=True))
    optimizer.zero_grad()
    scaler.scale(net(x).square().mean()).backward()
    scaler.step(optimizer)
    assert not torch.equal(before[0], weights(net)[0])


def test_truncation_draws_again_and_counts():
    net = model(widths=(4, 3000, 2))
    before = weights(net)[0]
    for kind, size in (
        ("iid", lambda x: x.abs()), ("rows", lambda x: x.abs()), ("isotropic", lambda x: x.norm(dim=1) / math.sqrt(x.shape[1])),
    ):  # fmt: skip
        one = copy.deepcopy(net)
        optimizer = HeavyTailedSGD(
            one.parameters(), lr=1.0, alpha=1.2, sigma=1.0, kind=kind, truncation=5.0
        )
        for p in one.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert size(weights(one)[0] - before).max() <= 5.0 + 1e-4
        assert optimizer.noise.redrawn > 0
        assert optimizer.state_dict()[STATE]["redrawn"] == optimizer.noise.redrawn


def test_a_truncation_that_leaves_nothing_is_refused():
    net = model()
    optimizer = HeavyTailedSGD(
        net.parameters(), lr=1.0, alpha=1.5, sigma=1.0, kind="iid", truncation=1e-30
    )
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    with pytest.raises(ValueError, match="leaves next to nothing to draw"):
        optimizer.step()


def test_half_precision_and_convolutions():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 5, 3), torch.nn.Flatten(), torch.nn.Linear(5, 2)
    ).to(torch.bfloat16)
    optimizer = HeavyTailedSGD(net.parameters(), lr=0.1, alpha=1.5, sigma=1.0, kind="rows")
    before = weights(net)[0].float()
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = weights(net)[0].float() - before
    assert moved.abs().max() > 0
    assert torch.allclose(
        moved.flatten(1), moved.flatten(1)[:, :1].expand(5, 18), atol=0.1, rtol=0.1
    )


def test_refusals():
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for options, said in (
        ({"alpha": 3.0, "sigma": 0.1}, "alpha"), ({"alpha": 1.5, "sigma": -1.0}, "sigma"),
        ({"alpha": 1.5, "sigma": 0.1, "kind": "column"}, "kind"),
        ({"alpha": 1.5, "sigma": 0.1, "truncation": 0.0}, "truncation"),
        ({"alpha": 1.5, "sigma": 0.1, "on": [torch.zeros(2, 2)]}, "not in the optimizer"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            HeavyTailedNoise(optimizer, **options)


def test_without_torch_the_error_names_the_extra(monkeypatch):
    import sys

    import moduli.pytorch as door

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "moduli.training.torch_sgd")
    with pytest.raises(mo.MissingExtra, match=r"pip install 'moduli\[torch\]'"):
        door.HeavyTailedSGD  # noqa: B018
    with pytest.raises(AttributeError, match="nothing"):
        door.nothing  # noqa: B018
