"""Noise on torch optimizers: laws, streams, state, and the traps of checkpoints and gradient
scalers.
"""

from __future__ import annotations

import copy
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest

import moduli as mo

torch = pytest.importorskip("torch")

from moduli.pytorch import HeavyTailedNoise, HeavyTailedSGD, hidden_parameters  # noqa: E402
from moduli.training import torch_sgd  # noqa: E402
from moduli.training.noise import KINDS  # noqa: E402
from moduli.training.torch_sgd import STATE, _size, draw  # noqa: E402


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


@pytest.mark.parametrize("alpha", [0.7, 1.75])
def test_bits_of_the_generator_itself_give_the_same_law(alpha, monkeypatch):
    """As they are drawn on a device."""
    t, g = np.array([0.5, -0.2, 0.9]), torch.Generator().manual_seed(2)
    monkeypatch.setattr(torch_sgd, "_fast", lambda generator: None)
    x = draw((200_000, 3), alpha, generator=g)
    agrees(np.cos(x.double().numpy() @ t), math.exp(-(np.abs(t) ** alpha).sum()))


def test_draws_go_on_where_the_generator_is():
    """Blocks, draws one after the other, and entries of one draw do not repeat each other."""
    g = torch.Generator().manual_seed(3)
    first, second = (draw((3 * torch_sgd.BLOCK,), 1.75, generator=g) for _ in range(2))
    parts = [*torch.split(first, torch_sgd.BLOCK), *torch.split(second, torch_sgd.BLOCK)]
    for k, one in enumerate(parts):
        assert len(one.unique()) > 0.99 * len(one)
        for two in parts[:k]:  # tanh has moments
            product = torch.tanh(one).double() * torch.tanh(two).double()
            assert abs(float(product.mean())) <= 6 * float(product.std()) / math.sqrt(len(one))
    again = torch.Generator().manual_seed(3)
    assert torch.equal(first, draw((3 * torch_sgd.BLOCK,), 1.75, generator=again))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 1.9, 1.999])
def test_float32_sizes_are_those_of_float64(alpha):
    from moduli.training.noise import symmetric

    rng = np.random.default_rng(0)
    deep = 2.0 ** -rng.integers(1, min(80, int(90 * alpha)), 5000)  # that float32 holds
    q = np.concatenate([rng.random(5000), deep]).astype(np.float32)
    w = (rng.standard_exponential(10_000) + 1e-6).astype(np.float32)
    found = _size(torch.tensor(q), torch.tensor(w), alpha).double().numpy()
    exact = symmetric(q.astype(np.float64), w.astype(np.float64), alpha)
    loss = 2.0**-16 / min(alpha, 2 - alpha)  # digits of an angle next to where a sine vanishes
    assert np.allclose(found, exact, rtol=loss, atol=1e-6)


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
    optimizer = HeavyTailedSGD(noisy.parameters(), lr=0.1, alpha=1.5, sigma=0.1, seed=3, on=noisy)
    steps(noisy, optimizer, 1)
    changed = [not torch.equal(p, q) for p, q in zip(weights(plain), weights(noisy), strict=True)]
    assert changed == [True, False, True, False, False, False]
    assert [id(p) for p in optimizer.noise.parameters] == [id(p) for p in hidden_parameters(noisy)]


def test_the_scale_is_that_of_the_step():
    net = model(widths=(4, 4000, 2))
    before = weights(net)[0]
    optimizer = HeavyTailedSGD(net.parameters(), lr=0.01, alpha=1.5, sigma=0.3, kind="iid", on=net)
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
        HeavyTailedNoise(optimizer, 1.75, 0.05, kind, seed=5, on=net)
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
    optimizer = HeavyTailedSGD(net.parameters(), lr=0.1, alpha=1.5, sigma=0.1, on=net)
    steps(net, optimizer, 2)
    state = optimizer.state_dict()
    saved = {k: v.clone() for k, v in state[STATE]["streams"].items()}
    steps(net, optimizer, 2)
    assert all(torch.equal(saved[k], v) for k, v in state[STATE]["streams"].items())
    assert all(v.dtype == torch.uint8 for v in saved.values())


def test_states_that_do_not_fit_are_refused():
    net = model()
    optimizer = HeavyTailedSGD(net.parameters(), lr=0.1, alpha=1.5, sigma=0.1, on=net)
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
        optimizer = HeavyTailedSGD(net.parameters(), lr=0.1, alpha=1.5, sigma=0.1, seed=2, on=net)
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
    optimizer = HeavyTailedSGD(groups, lr=torch.tensor(0.1), alpha=1.5, sigma=0.1, on=net)
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
    noise = HeavyTailedNoise(optimizer, 1.5, 0.1, on=net)
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
    HeavyTailedNoise(optimizer, 1.5, 0.1, on=net)
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
        optimizer = HeavyTailedSGD(one.parameters(), 1.0, 1.2, 1.0, kind, truncation=5.0, on=one)
        for p in one.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert size(weights(one)[0] - before).max() <= 5.0 + 1e-4
        assert optimizer.noise.redrawn > 0
        assert optimizer.state_dict()[STATE]["redrawn"] == optimizer.noise.redrawn


def test_a_truncation_that_leaves_nothing_is_refused():
    net = model()
    optimizer = HeavyTailedSGD(net.parameters(), 1.0, 1.5, 1.0, "iid", truncation=1e-30, on=net)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    with pytest.raises(ValueError, match="leaves next to nothing to draw"):
        optimizer.step()


def test_half_precision_and_convolutions():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 5, 3), torch.nn.Flatten(), torch.nn.Linear(5, 2)
    ).to(torch.bfloat16)
    optimizer = HeavyTailedSGD(net.parameters(), lr=0.1, alpha=1.5, sigma=1.0, kind="rows", on=net)
    before = weights(net)[0].float()
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = weights(net)[0].float() - before
    assert moved.abs().max() > 0
    assert torch.allclose(
        moved.flatten(1), moved.flatten(1)[:, :1].expand(5, 18), atol=0.1, rtol=0.1
    )


class HeadFirst(torch.nn.Module):
    """Declared in another order than it is used, with a skip connection to the output."""

    def __init__(self):
        super().__init__()
        self.head, self.body = torch.nn.Linear(8, 1), torch.nn.Linear(3, 8)
        self.skip = torch.nn.Linear(3, 1)

    def forward(self, x):
        return self.head(torch.relu(self.body(x))) + self.skip(x)


class Branching(torch.nn.Module):
    """Its path depends on values, so it cannot be traced without inputs; integers go in."""

    def __init__(self):
        super().__init__()
        self.out, self.table = torch.nn.Linear(6, 2), torch.nn.Embedding(5, 6)
        self.inner = torch.nn.Linear(6, 6)
        self.norm = torch.nn.BatchNorm1d(6)

    def forward(self, i):
        h = self.norm(self.table(i))
        return self.out(self.inner(h) if h.sum() < 1e9 else h)


def test_the_graph_decides_which_weights_are_hidden():
    net = HeadFirst()
    assert hidden_parameters(net) == hidden_parameters(net, torch.ones(2, 3)) == [net.body.weight]
    net.head.weight.requires_grad_(False)  # frozen, it is the output layer still
    assert hidden_parameters(net, torch.ones(2, 3)) == [net.body.weight]
    tree = Branching()
    before = {name: value.clone() for name, value in tree.state_dict().items()}
    assert hidden_parameters(tree, torch.arange(4)) == [tree.table.weight, tree.inner.weight]
    assert all(torch.equal(before[name], value) for name, value in tree.state_dict().items())
    with pytest.raises(mo.ModuliError, match="give a sample"):
        hidden_parameters(tree)
    pictures = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    )
    assert hidden_parameters(pictures) == [pictures[0].weight]
    assert hidden_parameters(torch.nn.Linear(3, 2)) == []


def test_without_a_module_the_order_decides_and_is_said():
    net = HeadFirst()
    with pytest.warns(
        UserWarning, match=r"\[\(1, 8\), \(8, 3\)\] and none on the last one, \(1, 3\)"
    ):
        optimizer = HeavyTailedSGD(net.parameters(), lr=0.1, alpha=1.5, sigma=0.1)
    assert len(optimizer.noise.parameters) == 2
    optimizer = HeavyTailedSGD(net.parameters(), lr=0.1, alpha=1.5, sigma=0.1, on=net)
    assert optimizer.noise.parameters == [net.body.weight]
    with pytest.raises(ValueError, match="nothing in the optimizer would get noise"):
        HeavyTailedSGD(net.head.parameters(), lr=0.1, alpha=1.5, sigma=0.1, on=net)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "copy of a copy"])
def test_copies_and_pickles_keep_the_noise(name, way):
    ways = {
        "deepcopy": copy.deepcopy,
        "pickle": lambda both: pickle.loads(pickle.dumps(both)),
        "copy of a copy": lambda both: copy.deepcopy(pickle.loads(pickle.dumps(both))),
    }
    net = model()
    optimizer = OPTIMIZERS[name](net.parameters())
    HeavyTailedNoise(optimizer, 1.75, 0.05, on=net, seed=3)
    steps(net, optimizer, 3)
    again, other = ways[way]((net, optimizer))
    steps(net, optimizer, 3, seed=1)
    steps(again, other, 3, seed=1)
    assert same(net, again)
    plain = model()
    steps(plain, OPTIMIZERS[name](plain.parameters()), 3)
    assert not same(plain, net)


def test_copies_of_the_optimizer_with_noise_of_its_own():
    net = model()
    optimizer = HeavyTailedSGD(net.parameters(), lr=0.1, alpha=1.5, sigma=0.1, on=net)
    steps(net, optimizer, 2)
    again, other = copy.deepcopy((net, optimizer))
    steps(net, optimizer, 2)
    steps(again, other, 2)
    assert same(net, again)
    assert other.noise is not optimizer.noise
    assert other.noise.optimizer is other
    assert STATE in other.state_dict()
    shallow, before = copy.copy(optimizer), weights(net)[0]  # of the same parameters
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    shallow.step()
    assert not torch.equal(before, weights(net)[0])
    with pytest.raises(TypeError, match="copy that, and it comes along"):
        copy.copy(optimizer.noise)


def test_settings_given_are_the_settings_used():
    net = model()
    optimizer = torch.optim.RMSprop(net.parameters(), lr=0.01, alpha=0.99)
    HeavyTailedNoise(optimizer, 1.5, 0.1, on=net)
    (group,) = optimizer.param_groups
    assert (group["alpha"], group["noise_alpha"], group["sigma"]) == (0.99, 1.5, 0.1)
    with pytest.raises(ValueError, match="has heavy-tailed noise already"):
        HeavyTailedNoise(optimizer, 1.9, 0.1, on=net)
    saved = HeavyTailedSGD(net.parameters(), lr=0.1, alpha=1.5, sigma=0.1, on=net).state_dict()
    plain = torch.optim.SGD(net.parameters(), lr=0.1)
    plain.load_state_dict(saved)  # its group now holds the old alpha
    with pytest.raises(ValueError, match=r"group 0 .* holds alpha=1.5 and not alpha=1.9"):
        HeavyTailedNoise(plain, 1.9, 0.1, on=net)
    HeavyTailedNoise(plain, 1.9, 0.1, on=net, per_group=True)
    assert plain.param_groups[0]["alpha"] == 1.5


def test_groups_added_later():
    net = model()
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer = HeavyTailedSGD(net[0].parameters(), lr=0.1, alpha=1.5, sigma=0.1, on=net)
    optimizer.add_param_group({"params": net[2].parameters(), "sigma": 0.2})
    assert optimizer.param_groups[1]["alpha"] == 1.5
    before = weights(net)
    optimizer.step()  # of the module given, so it gets noise
    moved = [not torch.equal(p, q) for p, q in zip(before, weights(net), strict=True)]
    assert moved == [True, False, True, False, False, False]
    optimizer = HeavyTailedSGD(
        net[0].parameters(), lr=0.1, alpha=1.5, sigma=0.1, on=[net[0].weight]
    )
    optimizer.add_param_group({"params": net[2].parameters()})
    with pytest.warns(UserWarning, match="came into the optimizer after its heavy-tailed noise"):
        optimizer.step()
    before = weights(net)
    optimizer.noise.add([net[2].weight])
    optimizer.step()
    assert not torch.equal(before[2], weights(net)[2])


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", 0.0), ("alpha", 2.5), ("sigma", -1.0), ("sigma", math.nan), ("kind", "columns")],
)
def test_settings_of_groups_are_checked_before_anything_moves(name, value):
    net = model()
    optimizer = HeavyTailedSGD(net.parameters(), lr=0.1, alpha=1.5, sigma=0.1, on=net)
    optimizer.param_groups[0][name] = value
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    before = weights(net)
    with pytest.raises(ValueError, match=f"group 0 of the optimizer: {name}="):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(before, weights(net), strict=True))
    with pytest.raises(ValueError, match=f"group 0 of the optimizer: {name}="):
        HeavyTailedSGD(
            [{"params": net.parameters(), name: value}], lr=0.1, alpha=1.5, sigma=0.1, on=net
        )


@pytest.mark.parametrize("kind", KINDS)
def test_biases_and_scalars_get_noise_where_they_are_named(kind):
    net = model(widths=(4, 3000, 2))
    scalar = torch.nn.Parameter(torch.tensor(0.5))
    chosen = [net[0].bias, scalar]
    optimizer = HeavyTailedSGD(
        [*net.parameters(), scalar], lr=0.01, alpha=1.5, sigma=0.3, kind=kind, on=chosen
    )
    for p in [*net.parameters(), scalar]:
        p.grad = torch.zeros_like(p)
    before = weights(net)[1]
    optimizer.step()
    x = ((weights(net)[1] - before) / (0.3 * 0.01 ** (1 / 1.5))).double().numpy()
    agrees(np.cos(x), math.exp(-1))  # each entry is a unit
    assert float(scalar.detach()) != 0.5


def test_float16_sees_the_product_and_not_the_noise():
    """Numbers beyond 65504 are common at alpha .5: times a small scale they fit; the scale alone is
    0 in float16.
    """
    net = model(widths=(4, 20_000, 2)).half()
    torch.nn.init.zeros_(net[0].weight)
    optimizer = HeavyTailedSGD(net.parameters(), 1.0, 0.5, 1e-9, "iid", on=net)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = net[0].weight.detach().double()
    assert torch.isfinite(moved).all()
    # P(|X| > x) at alpha 1/2 is about sqrt(2 / (pi x)): beyond 1e-3, noise of more than 1e6
    expected = len(moved.ravel()) * math.sqrt(2 / (math.pi * 1e6))
    assert abs(int((moved.abs() > 1e-3).sum()) - expected) < 6 * math.sqrt(expected)
    loud = HeavyTailedSGD(net.parameters(), 1.0, 1.0, 1e4, "iid", on=net, seed=1)
    loud.step()
    assert torch.isfinite(net[0].weight).all()  # beyond 6.5 means infinity: drawn again, counted
    assert loud.noise.redrawn > 0


def test_states_of_other_noise_are_refused_and_its_options_come_back():
    net = model()
    first = HeavyTailedSGD(net.parameters(), 0.1, 1.5, 0.1, on=net, truncation=7.0)
    state = first.state_dict()
    second = HeavyTailedSGD(net.parameters(), 0.1, 1.5, 0.1, on=net)
    second.load_state_dict(state)
    assert second.noise.truncation == 7.0
    third = HeavyTailedSGD(net.parameters(), 0.1, 1.5, 0.1, on=[net[0].weight])
    with pytest.raises(ValueError, match="give the same on= as then"):
        third.load_state_dict(state)


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
