"""Shrinking blocks inside modules: what is found, what is refused, what stays untouched, how good
it is.
"""

import copy

import numpy as np
import pytest

import moduli as mo
from moduli.pytorch import shrink

torch = pytest.importorskip("torch")
nn = torch.nn


def block(width=24, act=None, inputs=4, outputs=3):
    return nn.Sequential(nn.Linear(inputs, width), act or nn.GELU(), nn.Linear(width, outputs))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "act", [nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.GELU(approximate="tanh"), nn.Tanh(), nn.Sigmoid(), nn.SiLU(),
            nn.LeakyReLU(0.2), nn.Softplus(), nn.ELU(), nn.ReLU6(), nn.Hardtanh(), nn.Hardswish(), nn.Mish()], ids=repr,
)  # fmt: skip
def test_every_activation(act):
    on = "samples" if isinstance(act, nn.LeakyReLU) else "gaussian"
    net, x = block(width=14, act=act), torch.randn(400, 4)
    before = copy.deepcopy(net.state_dict())
    small = shrink(net, x, units=6, on=on)
    (row,) = small.blocks
    assert (row.first, row.second, row.width, row.kept) == ("0", "2", 14, 6)
    assert small.module[0].out_features == small.module[2].in_features == 6
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with torch.no_grad():
        gap, truth = small.module(x) - net(x), net(x)
    measured = float(
        gap.square().sum(dim=1).mean().sqrt() / truth.var(dim=0, unbiased=False).sum().sqrt()
    )
    assert row.error.relative == pytest.approx(measured, rel=1e-2)
    assert measured < 0.2
    assert row.saved == sum(p.numel() for p in net.parameters()) - sum(
        p.numel() for p in small.module.parameters()
    )


def test_transformer_blocks_with_dropout_in_training_mode():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, activation="gelu", batch_first=True)
    net = nn.TransformerEncoder(layer, 2)
    net.train()
    x = torch.randn(20, 5, 8)
    small, table = shrink(net, x, keep=0.5)
    assert [(b.first, b.second, b.kept) for b in table] == [
        (f"layers.{k}.linear1", f"layers.{k}.linear2", 8) for k in (0, 1)
    ]
    assert small.training
    assert all(m.training for m in small.modules())
    net.eval()
    small.eval()
    with torch.no_grad():
        assert float((net(x) - small(x)).square().mean()) < 0.05 * float(net(x).var())
    kept = small.state_dict()
    for name, value in net.state_dict().items():
        assert ".linear" in name or torch.equal(value, kept[name])


def test_unpacked_it_is_the_module_and_a_table():
    net, x = block(width=32), torch.randn(100, 4)
    small = shrink(net, x, keep=0.5)
    module, table = small
    assert module is small.module
    assert list(table) == list(small.blocks) == small.rows() == table.rows()
    assert len(table) == len(small) == len(small.blocks)
    assert table["0"] is table[0] is small[0]
    assert table.to_dict() == small.to_dict()
    assert table.statement == small.statement
    assert not hasattr(table, "module")


def test_blocks_that_meet_are_narrowed_in_turn():
    sizes = ((4, 12), (12, 12), (12, 12))
    net = nn.Sequential(
        *(m for size in sizes for m in (nn.Linear(*size), nn.ReLU())), nn.Linear(12, 2)
    )
    x = torch.randn(200, 4)
    small = shrink(net, x, units={"0": 9, "2": 8, "4": 7})
    assert [m.out_features for m in small.module if isinstance(m, nn.Linear)] == [9, 8, 7, 2]
    with torch.no_grad():
        assert float((net(x) - small.module(x)).square().mean()) < 0.05 * float(net(x).var())
    partly = shrink(net, x, units={"2": 8})
    assert [m.out_features for m in partly.module if isinstance(m, nn.Linear)] == [12, 8, 12, 2]


class Odd(nn.Module):
    """A gated block, a residual around a block, a block whose activations are an output, a
    recurrent one, a shared one.
    """

    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)
        self.one, self.two = nn.Linear(4, 12), nn.Linear(12, 4)
        self.seen, self.after = nn.Linear(4, 6), nn.Linear(6, 4)
        self.cell, self.out = nn.Linear(4, 7), nn.Linear(7, 4)
        self.tied, self.end = nn.Linear(4, 5), nn.Linear(5, 4)
        self.other = nn.Linear(4, 5)
        self.other.weight = self.tied.weight
        self.raw, self.last = nn.Linear(4, 9), nn.Linear(9, 4)

    def forward(self, x):
        x = x + self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))
        x = x + self.two(torch.relu(self.one(x)))
        hidden = torch.tanh(self.seen(x))
        x = self.after(hidden)
        for _ in range(3):
            x = self.out(torch.tanh(self.cell(x)))
        x = self.end(torch.tanh(self.tied(x)))
        pre = self.raw(x)
        return self.last(torch.tanh(pre)), hidden, pre.sum()


def test_what_is_refused_and_why():
    small = shrink(Odd(), torch.randn(200, 4), units=4)
    assert [b.first for b in small.blocks] == ["one"]
    why = dict(small.refused)
    texts = {
        "gate": "mul",
        "seen": "output of the module",
        "cell": "3 times",
        "tied": "shared with other",
        "raw": "sum",
    }
    assert set(why) == set(texts)
    for name, text in texts.items():
        assert text in why[name], name
    assert all(note.startswith("left alone") for _, note in small.notes())


def test_hooks_and_parametrizations_are_refused():
    x = torch.randn(50, 4)
    for at in (0, 1, 2):
        net = block()
        net[at].register_forward_hook(lambda *_: None)
        with pytest.raises(mo.UnsupportedModel, match="hook"):
            shrink(net, x, units=4)
    net = block()
    nn.utils.parametrizations.weight_norm(net[0])
    with pytest.raises(mo.UnsupportedModel, match="no Linear-activation-Linear block"):
        shrink(net, x, units=4)
    watched = nn.Sequential(block(width=8), nn.Identity())
    watched.register_forward_hook(lambda *_: None)
    assert len(shrink(watched, x, units=4).blocks) == 1
    assert len(watched._forward_hooks) == 1


def test_batches_and_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = block(width=8)

        def forward(self, x, scale=1.0):
            return {"y": self.body(x) * scale}

    parts = [torch.randn(20, 4) + 5 for _ in range(5)]
    whole = shrink(Two(), torch.cat(parts), units=2, on="gaussian")
    torch.manual_seed(0)
    split = shrink(Two(), [(p, 2.0) for p in parts], units=2)
    torch.manual_seed(0)
    named = shrink(Two(), [{"x": p} for p in parts], units=2)
    assert whole.blocks[0].kept == split.blocks[0].kept == named.blocks[0].kept == 2
    for key, value in split.module.state_dict().items():
        assert torch.equal(value, named.module.state_dict()[key])


def test_eps_and_keep():
    net, x = block(width=12, act=nn.ReLU()), torch.randn(100, 4)
    close, rough = (shrink(net, x, relative_eps=eps, on="samples") for eps in (0.05, 0.5))
    assert close.blocks[0].error.relative <= 0.05
    assert rough.blocks[0].kept < close.blocks[0].kept < 12
    assert shrink(net, x, keep=1.0).blocks[0].saved == 0


def test_kinds_of_parameters_stay():
    net = block().to(torch.float16)
    net[0].requires_grad_(False)
    net[2].bias = None
    net = net.to(torch.float32).to(torch.float64)
    small = shrink(net, torch.randn(200, 4, dtype=torch.float64), units=8).module
    assert small[0].weight.dtype == torch.float64
    assert not small[0].weight.requires_grad
    assert small[2].weight.requires_grad
    assert small[2].bias is not None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "exactly one"), ({"units": 3, "keep": 0.5}, "exactly one"), ({"keep": 0.0}, "keep"), ({"eps": -1.0}, "eps"),
        ({"units": 3, "on": "box"}, "gaussian"), ({"units": {"7": 3}}, "'7'"),
    ],
)  # fmt: skip
def test_mistakes(options, text):
    with pytest.raises(ValueError, match=text):
        shrink(block(), torch.randn(10, 4), **options)
    with pytest.raises(ValueError, match="empty"):
        shrink(block(), [], units=3)
    with pytest.raises(mo.UnsupportedModel, match="no Linear-activation-Linear"):
        shrink(nn.Sequential(nn.Linear(2, 2)), torch.randn(10, 2), units=1)
    with pytest.raises(mo.UnsupportedModel, match="not finite"):
        shrink(block(), torch.full((10, 4), float("nan")), units=3)


def test_results_are_the_same_again():
    net, x = block(width=10), torch.randn(60, 4)
    one, two = (shrink(net, x, units=3, on="samples").module.state_dict() for _ in range(2))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert np.isfinite(one["0.weight"].numpy()).all()


def test_a_pruned_module_is_shrunk_with_its_masks_made_permanent():
    from torch.nn.utils import prune

    net, x = block(width=32, act=nn.ReLU()), torch.randn(400, 4)
    prune.ln_structured(net[0], "weight", amount=0.5, n=2, dim=0)
    prune.random_unstructured(net[2], "bias", amount=0.5)
    net(x).sum().backward()  # weights with a history, which copy.deepcopy refuses
    small = shrink(net, x, keep=0.5)
    assert small.module[0].out_features == 16
    assert not any(part._forward_pre_hooks for part in small.module.modules())
    assert [type(hook).__name__ for hook in net[0]._forward_pre_hooks.values()] == ["LnStructured"]
    assert set(dict(net.named_buffers())) == {"0.weight_mask", "2.bias_mask"}
    with torch.no_grad():
        assert float((net(x) - small.module(x)).abs().max()) < 1e-4


def test_normalised_weights_are_refused_with_the_way_out():
    x = torch.randn(50, 4)
    for wrap in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm):
        net = block()
        wrap(net[0])
        with pytest.raises(
            mo.UnsupportedModel,
            match=r"no Linear-activation-Linear block.*0: its weight.*remove_param",
        ):
            shrink(net, x, units=4)
        both = nn.Sequential(block(width=5), nn.Tanh(), nn.Linear(3, 4), nn.Tanh(), net)
        refused = dict(shrink(both, x, units={"0.0": 5}).refused)
        assert "remove_parametrizations" in refused["4.0"]
