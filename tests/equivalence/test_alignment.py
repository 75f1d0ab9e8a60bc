"""Matching: exact twins, noisy twins, tensors of any shape, merging and barriers."""

from __future__ import annotations

from itertools import pairwise, permutations, product

import numpy as np
import pytest
import strategies as plants

import moduli as mo
from moduli.equivalence.alignment import match, spec_of
from moduli.equivalence.group import Axis, Element, Spec, SymmetricPart


def dense(rng, widths, activation):
    arrays = []
    for n, m in pairwise(widths):
        arrays += [rng.standard_normal((m, n)) / np.sqrt(n), 0.3 * rng.standard_normal(m)]
    return mo.Network.mlp(*arrays, activation=activation)


@pytest.mark.parametrize("activation", plants.EVERY)
@pytest.mark.parametrize("by", ["weights", "activations"])
def test_exact_twins_are_recovered(activation, by):
    for seed, widths in enumerate(((4, 20, 2), (6, 24, 16, 12, 3))):
        rng = np.random.default_rng(seed)
        b = dense(rng, widths, activation)
        a = mo.symmetries(b).random(seed)(b)
        on = mo.Samples(rng.standard_normal((300, widths[0]))) if by == "activations" else None
        found = mo.align(a, b, by=by, on=on)
        assert found.before > 0.1
        assert found.after <= 1e-13 * np.linalg.norm(b.flat())
        x = rng.standard_normal((20, widths[0]))
        assert np.allclose(found.network(x), a(x), atol=1e-12)
        assert np.allclose(found.merge(0.5)(x), b(x), atol=1e-12)
        assert found.check()


def test_scales_that_are_no_powers_of_two_to_rounding():
    rng = np.random.default_rng(0)
    b = dense(rng, (8, 32, 24, 3), "relu")
    moved = mo.symmetries(b).random(1)
    a = Element(moved.order, tuple(np.exp(rng.standard_normal(len(f))) for f in moved.factor))(b)
    found = mo.align(a, b)
    assert np.abs(found.network.flat() - b.flat()).max() <= 1e-14
    assert found.check()
    assert found.certificate.slack.within(1.0) < 1e-10


def test_noisy_twins_one_layer_and_several():
    for widths, noise in (((20, 64, 1), 0.3), ((20, 32, 32, 32, 3), 0.3)):
        for activation in ("tanh", "relu"):
            rng = np.random.default_rng(1)
            b = dense(rng, widths, activation)
            moved = mo.symmetries(b).random(2)
            flat = b.flat()
            a = moved(b.with_flat(flat + noise * np.std(flat) * rng.standard_normal(len(flat))))
            found = mo.align(a, b)
            for before, after in zip(moved.order, found.element.order, strict=True):
                assert (before[after] == np.arange(len(before))).all()


def test_one_layer_is_the_best_assignment():
    rng = np.random.default_rng(0)
    for activation in ("tanh", "gelu"):
        a, b = (dense(rng, (2, 4, 1), activation) for _ in range(2))
        signs = product([1.0, -1.0], repeat=4) if activation == "tanh" else [(1.0,) * 4]
        best = min(
            np.linalg.norm(Element((np.array(p),), (np.array(s),))(a).flat() - b.flat())
            for p, s in product(permutations(range(4)), list(signs))
        )
        assert mo.align(a, b).after == pytest.approx(best, rel=1e-12)


def test_deterministic_by_seed():
    rng = np.random.default_rng(0)
    a, b = (dense(rng, (4, 16, 16, 16, 2), "relu") for _ in range(2))
    first, second = mo.align(a, b, seed=3), mo.align(a, b, seed=3)
    assert first.network == second.network
    assert first.after < first.before


def test_refusals():
    rng = np.random.default_rng(0)
    a, b = dense(rng, (4, 16, 2), "relu"), dense(rng, (4, 15, 2), "relu")
    with pytest.raises(mo.ShapeError, match="one architecture"):
        mo.align(a, b)
    with pytest.raises(mo.ShapeError, match=r"R\^4 to R\^2"):
        mo.align(a, dense(rng, (5, 16, 2), "relu"))
    with pytest.raises(ValueError, match="give the inputs"):
        mo.align(a, a, by="activations")
    with pytest.raises(ValueError, match="goes with by='activations'"):
        mo.align(a, a, on=mo.Gaussian())
    with pytest.raises(ValueError, match="'weights' or 'activations'"):
        mo.align(a, a, by="magic")
    found = mo.align(a, a)
    with pytest.raises(mo.ShapeError, match="3 targets for 10"):
        found.barrier(mo.Samples(rng.standard_normal((10, 4))), targets=[0, 1, 1])
    with pytest.raises(mo.ShapeError, match="class numbers"):
        found.barrier(mo.Samples(rng.standard_normal((10, 4))), targets=[2] * 10)
    with pytest.raises(mo.ShapeError, match="targets have shape"):
        found.barrier(mo.Samples(rng.standard_normal((10, 4))), targets=np.zeros((10, 3)))


def test_barriers_vanish_for_twins_and_not_without_alignment():
    rng = np.random.default_rng(0)
    b = dense(rng, (4, 32, 3), "tanh")
    a = mo.symmetries(b).random(5)(b)
    x = mo.Samples(rng.standard_normal((200, 4)))
    for targets in (None, b(x.x).argmax(axis=1), b(x.x)):
        bar = mo.align(a, b).barrier(x, targets)
        assert abs(bar.height) < 1e-12
        assert bar.before > 0.05
        assert bar.loss[0] == pytest.approx(bar.unaligned[0])
    ax = bar.plot()
    assert len(ax.lines) == 3
    assert bar.to_json()["schema"] == "moduli.barrier/1"
    z = b(x.x)
    labels = rng.integers(0, 3, 200)
    exact = -np.mean(z[np.arange(200), labels] - np.log(np.exp(z).sum(axis=1)))
    assert mo.align(b, b).barrier(x, labels).loss[0] == pytest.approx(exact)


# Tensors of any shape: the same rules inside torch modules


def states(module):
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def copies(module, spec, seed):
    """The module's outputs before and after a random element of the group, and whether matching
    undoes it.
    """
    import torch

    state = states(module)
    element = spec.random(seed)
    moved = spec.move(state, element)
    found = match(
        Spec({k: SymmetricPart(p.count, p.signs) for k, p in spec.parts.items()}, spec.axes),
        moved,
        state,
    )
    undone = all(
        (element[name][0][order] == np.arange(len(order))).all()
        for name, (order, _) in found.items()
    )
    return {name: torch.tensor(value) for name, value in moved.items()}, undone


def same(module, x, moved):
    import copy

    import torch

    other = copy.deepcopy(module)
    other.load_state_dict(moved)
    with torch.no_grad():
        return torch.allclose(module(x), other(x), atol=1e-10)


def test_convolutions_with_batch_norm_and_a_flattened_map():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5),
    ).double().eval()  # fmt: skip
    module[1].running_mean.uniform_(-1, 1)
    module[1].running_var.uniform_(0.5, 2)
    spec = Spec(
        {"c": SymmetricPart(8, free=1), "d": SymmetricPart(6, free=1)},
        {
            "0.weight": (Axis("c"), None, None, None),
            "0.bias": (Axis("c"),),
            "1.weight": (Axis("c", 1),),
            "1.bias": (Axis("c", 1),),
            "1.running_mean": (Axis("c"),),
            "1.running_var": (Axis("c"),),
            "4.weight": (Axis("d", 1), Axis("c", -1), None, None),
            "4.bias": (Axis("d", 1),),
            "7.weight": (None, Axis("d", -1, 16)),
        },
    )
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    moved, _ = copies(module, spec, 1)
    assert same(module, x, moved)
    bare = Spec({k: SymmetricPart(p.count) for k, p in spec.parts.items()}, spec.axes)
    moved, undone = copies(module, bare, 2)
    assert same(module, x, moved)
    assert undone
    part = {
        k: v for k, v in spec.axes.items() if k != "1.running_var"
    }  # statistics left behind: no symmetry
    moved, _ = copies(module, Spec(bare.parts, part), 3)
    assert not same(module, x, moved)


def test_a_residual_stream_is_one_part():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner = torch.nn.Linear(4, 7), torch.nn.Linear(7, 9)
            self.outer, self.last = torch.nn.Linear(9, 7), torch.nn.Linear(7, 2)

        def forward(self, x):
            h = torch.relu(self.first(x))
            return self.last(torch.relu(h + self.outer(torch.relu(self.inner(h)))))

    module = Block().double()
    axes = {
        "first.weight": (Axis("s", 1), None), "first.bias": (Axis("s", 1),),
        "inner.weight": (Axis("i", 1), Axis("s", -1)), "inner.bias": (Axis("i", 1),),
        "outer.weight": (Axis("s", 1), Axis("i", -1)), "outer.bias": (Axis("s", 1),),
        "last.weight": (None, Axis("s", -1)),
    }  # fmt: skip
    x = torch.randn(20, 4, dtype=torch.float64)
    scaled = Spec({"s": SymmetricPart(7, free=1), "i": SymmetricPart(9, free=1)}, axes)
    assert same(module, x, copies(module, scaled, 1)[0])
    assert scaled.dimension == 16
    moved, undone = copies(module, Spec({"s": SymmetricPart(7), "i": SymmetricPart(9)}, axes), 2)
    assert same(module, x, moved)
    assert undone
    trap = {**axes, "outer.weight": (None, Axis("i", -1)), "outer.bias": (None,)}
    assert not same(
        module, x, copies(module, Spec({"s": SymmetricPart(7), "i": SymmetricPart(9)}, trap), 3)[0]
    )


def test_heads_of_attention_move_as_blocks():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    heads, width, size = 4, 12, 3

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (torch.nn.Linear(width, width) for _ in range(4))

        def forward(self, x):
            q, k, v = (
                f(x).reshape(*x.shape[:2], heads, size).transpose(1, 2)
                for f in (self.q, self.k, self.v)
            )
            mixed = torch.softmax(q @ k.transpose(2, 3) / size**0.5, dim=-1) @ v
            return self.o(mixed.transpose(1, 2).reshape(x.shape))

    module = Attention().double()
    axes = {f"{name}.weight": (Axis("h", 0, size), None) for name in "qkv"}
    axes |= {f"{name}.bias": (Axis("h", 0, size),) for name in "qkv"} | {
        "o.weight": (None, Axis("h", 0, size))
    }
    spec = Spec({"h": SymmetricPart(heads)}, axes)
    moved, undone = copies(module, spec, 1)
    x = torch.randn(2, 5, width, dtype=torch.float64)
    assert same(module, x, moved)
    assert undone
    alone = Spec(spec.parts, {k: v for k, v in axes.items() if k != "q.weight"})
    assert not same(module, x, copies(module, alone, 2)[0])


def test_recurrent_tensors_have_one_part_on_two_axes():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.LSTM(3, 6).double()
    # four gates stacked: reshaped, the units are an axis of their own
    state = {
        k: v.reshape(4, 6, -1) if "weight" in k else v.reshape(4, 6)
        for k, v in states(module).items()
    }
    axes = {
        "weight_ih_l0": (None, Axis("u"), None), "weight_hh_l0": (None, Axis("u"), Axis("u")),
        "bias_ih_l0": (None, Axis("u")), "bias_hh_l0": (None, Axis("u")),
    }  # fmt: skip
    spec = Spec({"u": SymmetricPart(6)}, axes)
    element = spec.random(3)
    moved = spec.move(state, element)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    other = torch.nn.LSTM(3, 6).double()
    other.load_state_dict(
        {name: torch.tensor(value).reshape(shapes[name]) for name, value in moved.items()}
    )
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(module(x)[0][..., list(element["u"][0])], other(x)[0], atol=1e-12)
    found = match(spec, moved, state)
    assert (element["u"][0][found["u"][0]] == np.arange(6)).all()


def test_specs_name_what_does_not_fit():
    spec = Spec({"h": SymmetricPart(3)}, {"w": (Axis("h"), None)})
    with pytest.raises(mo.ShapeError, match="'w' is described but not given; given: v"):
        spec.move({"v": np.zeros(3)}, spec.random())
    with pytest.raises(mo.ShapeError, match=r"shape \(4, 2\); its description says \(3, None\)"):
        spec.move({"w": np.zeros((4, 2))}, spec.random())


def test_the_spec_of_a_network_is_its_group():
    net = dense(np.random.default_rng(0), (3, 5, 4, 2), ["tanh", "relu"])
    group, spec = mo.symmetries(net), spec_of(net)
    assert spec.log_order == pytest.approx(group.log_order)
    assert spec.dimension == group.dimension == 4
    arrays = {f"W{l}": x.weight for l, x in enumerate(net.layers, 1)} | {
        f"b{l}": x.bias for l, x in enumerate(net.layers, 1)
    }
    moved = spec.move(arrays, {"1": (np.array([4, 0, 1, 2, 3]), np.array([1.0, -1, 1, -1, 1]))})
    other = mo.Network.mlp(
        *(moved[f"{part}{l}"] for l in (1, 2, 3) for part in "Wb"), activation=["tanh", "relu"]
    )
    x = np.random.default_rng(1).standard_normal((10, 3))
    assert np.allclose(net(x), other(x))
