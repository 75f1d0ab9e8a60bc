"""Torch modules as graphs: every operator against torch's values, and what can go, goes."""

from __future__ import annotations

import copy
import json
import sys

import numpy as np
import pytest

import moduli as mo
from moduli.formats.torch_copy import copied
from moduli.kernel.errors import CertificateRejected, UnsupportedModel
from moduli.kernel.graph.certificate import GraphCertificate
from moduli.kernel.graph.operators import Opaque
from moduli.kernel.slack import NO_SLACK
from moduli.pytorch import prune_dead, read_module

from ..support.graph_values import check_facts, check_values

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def planted(layer, rows=(0, 1, 2, 3)):
    """Row 1 twice row 0, row 2 zero with its bias, row 3 zero with a bias of 1/2."""
    a, b, zero, constant = rows
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            tensor.copy_((tensor * 64).round() / 64)
            tensor[b] = tensor[a] * 2
            tensor[zero] = 0
            tensor[constant] = 0
        layer.bias[constant] = 0.5
    return layer


class Around(nn.Module):
    """A convolution with planted channels, a function, a dense layer that reads all of it."""

    def __init__(self, function, channels=8, size=6, dims=2):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.first = planted(conv(2, channels, 3))
        self.function = function
        x = torch.zeros(2, 2, *[size] * dims)
        self.x = torch.randn(2, 2, *[size] * dims)
        with torch.no_grad():
            wide = self.middle(x).flatten(1).shape[1]
        self.last = nn.Linear(wide, 3)

    def middle(self, x):
        h = self.first(x)
        return self.function(h)

    def forward(self, x):
        return self.last(self.middle(x).flatten(1))


def double(module, args):
    with torch.no_grad():
        wide = copied(module).eval().double()
        found = wide(*[x.double() if x.is_floating_point() else x for x in args])
    return [x for x in torch.utils._pytree.tree_leaves(found) if hasattr(x, "shape")]


def same_outputs(first, second, *args, batches=(2, 3), slack=NO_SLACK):
    room = slack.within(max((float(x.abs().max()) for x in args if x.numel()), default=0.0))
    for n in batches:
        wide = [torch.cat([x] * 2)[:n] for x in args]
        for a, b in zip(double(first, wide), double(second, wide), strict=True):
            assert a.shape == b.shape
            if a.is_floating_point():
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 + room)
            else:
                assert torch.equal(a, b)


def require(module, *args):
    """What is read agrees with torch, the smaller module too; returns the result."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = prune_dead(module, args)
    found.check()
    source = found.original.source
    values, compared = check_values(source)
    assert compared > 0
    check_facts(source, values)
    same_outputs(module, found.module, *args, slack=found.proof.slack)
    assert type(found.module) is type(module)
    assert list(found.module.state_dict()) == list(before)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    return found


def sizes(found, name="first"):
    return found.module.get_submodule(name).weight.shape[0]


def understood(module, *args):
    return [n for n in read_module(module, args).model.nodes if isinstance(n.op, Opaque)] == []


# Operators ------------------------------------------------------------------------------------------------------

POINTWISE = {
    "relu": F.relu, "leaky": lambda h: F.leaky_relu(h, 0.1), "relu6": F.relu6, "elu": F.elu,
    "celu": F.celu, "selu": F.selu, "gelu": F.gelu, "gelu tanh": lambda h: F.gelu(h, approximate="tanh"),
    "silu": F.silu, "mish": F.mish, "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh, "clamp": lambda h: h.clamp(-0.5, 0.25), "clamp one end": lambda h: h.clamp(min=0.125),
    "clamp by tensors": lambda h: h.clamp(torch.tensor(-0.5), torch.tensor(0.5)),
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "softplus": F.softplus,
    "softplus low": lambda h: F.softplus(h, 2.0, 0.5), "softsign": F.softsign,
    "tanhshrink": F.tanhshrink, "hardshrink": F.hardshrink, "softshrink": F.softshrink,
    "threshold": lambda h: F.threshold(h, 0.1, 0.7), "logsigmoid": F.logsigmoid, "abs": torch.abs,
    "neg": torch.neg, "exp": torch.exp, "sin": torch.sin, "cos": torch.cos, "erf": torch.erf,
    "square": torch.square, "pow": lambda h: h**3, "sqrt": lambda h: (h * h + 1).sqrt(),
    "rsqrt": lambda h: (h * h + 1).rsqrt(), "reciprocal": lambda h: 1 / (h * h + 1),
    "scaled": lambda h: 2 * h + 0.5, "alpha": lambda h: torch.add(h, h, alpha=3), "rsub": lambda h: 1 - h,
    "glu": lambda h: F.glu(h, 1), "where": lambda h: torch.where(h > 0, h, 0.1 * h),
    "masked": lambda h: h.masked_fill(h < 0, 0.25), "self minus": lambda h: h - h, "floor": torch.floor,
    "remainder": lambda h: h.remainder(0.3), "rrelu": F.rrelu, "minimum": lambda h: torch.minimum(h, h * 2),
    "round": torch.round, "sign": torch.sign, "dropout": lambda h: F.dropout(h, training=False),
    "cast": lambda h: h.to(torch.float64).to(h.dtype), "logical": lambda h: (h > 0).to(h.dtype) * h,
    "div floor": lambda h: torch.div(h, 0.7, rounding_mode="floor"),
}  # fmt: skip
SLICEWISE = {
    "max pool": lambda h: F.max_pool2d(h, 2), "max pool padded": lambda h: F.max_pool2d(h, 3, 2, 1),
    "average pool": lambda h: F.avg_pool2d(h, 2), "average pool padded": lambda h: F.avg_pool2d(h, 3, 1, 1),
    "average pool, no pads counted": lambda h: F.avg_pool2d(h, 3, 1, 1, count_include_pad=False),
    "average pool, ceil": lambda h: F.avg_pool2d(h, 3, 2, ceil_mode=True),
    "average pool, divisor": lambda h: F.avg_pool2d(h, 2, divisor_override=3),
    "adaptive": lambda h: F.adaptive_avg_pool2d(h, 1), "adaptive 3": lambda h: F.adaptive_avg_pool2d(h, 3),
    "adaptive max": lambda h: F.adaptive_max_pool2d(h, 2), "mean": lambda h: h.mean((2, 3)),
    "sum": lambda h: h.sum((2, 3), keepdim=True), "amax": lambda h: h.amax((2, 3)), "max": lambda h: h.max(3)[0],
    "var": lambda h: h.var((2, 3)), "norm": lambda h: h.norm(dim=(2, 3)), "softmax": lambda h: h.softmax(-1),
    "log_softmax": lambda h: h.log_softmax(2), "cumsum": lambda h: h.cumsum(2),
    "softmax over channels": lambda h: h.softmax(1),
    "pad": lambda h: F.pad(h, (1, 2)), "pad ones": lambda h: F.pad(h, (1, 1, 0, 1), value=1.0),
    "reflect": lambda h: F.pad(h, (1, 1, 1, 1), mode="reflect"),
    "replicate": lambda h: F.pad(h, (1, 1, 1, 1), mode="replicate"),
    "nearest": lambda h: F.interpolate(h, scale_factor=2),
    "bilinear": lambda h: F.interpolate(h, size=(5, 7), mode="bilinear"),
    "bicubic": lambda h: F.interpolate(h, scale_factor=2, mode="bicubic"), "layer norm": lambda h: F.layer_norm(h, (4, 4)),
    "instance norm": F.instance_norm, "group norm": lambda h: F.group_norm(h, 4),
    "normalize": lambda h: F.normalize(h, dim=1), "logsumexp": lambda h: h.logsumexp((2, 3)),
    "std": lambda h: h.std((2, 3)), "any": lambda h: (h > 0).any(3).to(h.dtype), "prod": lambda h: h.prod(3),
}  # fmt: skip
INDICES = {
    "cat": lambda h: torch.cat([h, h * 2], 1), "cat rows": lambda h: torch.cat([h, h], 2),
    "stack": lambda h: torch.stack([h, -h], 1),
    "chunk": lambda h: torch.cat(h.chunk(2, 1)[::-1], 1), "split": lambda h: h.split([3, 5], 1)[1],
    "unbind": lambda h: h.unbind(1)[0] + h.unbind(1)[3], "slice": lambda h: h[:, 1:7:2], "select": lambda h: h[:, 3],
    "rows": lambda h: h[:, :, :2] - h[:, :, 2:], "index": lambda h: h[:, torch.tensor([3, 1, 1])],
    "index_select": lambda h: h.index_select(1, torch.tensor([0, 5])), "flip": lambda h: h.flip(1),
    "roll": lambda h: h.roll(1, 2),
    "permute": lambda h: h.permute(0, 2, 3, 1), "transpose": lambda h: h.transpose(1, 2) @ h.permute(0, 2, 3, 1),
    "turned": lambda h: h - h.transpose(2, 3), "movedim": lambda h: h.movedim(1, -1),
    "view": lambda h: h.view(h.size(0), 2, 4, -1),
    "shuffle": lambda h: h.view(h.size(0), 2, 4, 4, 4).transpose(1, 2).reshape(h.size(0), 8, 4, 4),
    "channel_shuffle": lambda h: F.channel_shuffle(h, 2), "pixel_shuffle": lambda h: F.pixel_shuffle(h, 2),
    "pixel_unshuffle": lambda h: F.pixel_unshuffle(h, 2), "unflatten": lambda h: h.unflatten(1, (4, 2)),
    "squeeze": lambda h: h.unsqueeze(1).unsqueeze(-1).squeeze(1), "expand": lambda h: h[:, :, :1].expand(-1, -1, 3, -1),
    "repeat": lambda h: h.repeat(1, 2, 1, 1), "repeat rows": lambda h: h[:, :, :1].repeat(1, 1, 3, 1),
    "repeat_interleave": lambda h: h.repeat_interleave(2, 1),
    "pairs": lambda h: h[:, :, 0].unsqueeze(2) - h[:, :, 0].unsqueeze(3),
    "merged batch": lambda h: h.transpose(1, 2).reshape(-1, 8, 4).relu().view(-1, 4, 8, 4),
    "einsum": lambda h: torch.einsum("nchw,nchv->nwv", h, h),
    "products": lambda h: h @ h.transpose(2, 3),
    "outer": lambda h: h.mean((2, 3)).unsqueeze(2) * h.mean((2, 3)).unsqueeze(1),
    "narrow": lambda h: h.narrow(1, 2, 4), "tile": lambda h: h.tile(1, 2, 1, 1),
    "zeros": lambda h: h + torch.zeros_like(h) + torch.ones(h.shape[0], 1, 4, 4),
    "batch sum": lambda h: h - h.mean(0, keepdim=True), "rows of the batch": lambda h: h + h[:1],
    "tril": lambda h: h * torch.ones(4, 4).tril(),
    "attention": lambda h: F.scaled_dot_product_attention(h, h.flip(2), h),
    "causal": lambda h: F.scaled_dot_product_attention(h, h, h, is_causal=True),
    "mask": lambda h: F.scaled_dot_product_attention(h, h, h, attn_mask=torch.ones(4, 4).tril(1).bool(), scale=0.5),
    "bias": lambda h: F.scaled_dot_product_attention(h, h, h, attn_mask=torch.ones(4, 4).tril()),
    "in place": lambda h: h.clone().mul_(2).add_(1).relu_(), "half in place": lambda h: _half(h),
    "arange": lambda h: h * torch.arange(4),
    "unfold": lambda h: F.unfold(h, 2), "sort": lambda h: h.sort(1)[0], "topk": lambda h: h.topk(2, 3)[0],
    "cdist": lambda h: torch.cdist(h, h),
}  # fmt: skip


def _half(h):
    h = h.clone()
    h[:, :4] = 0
    return h


@pytest.mark.parametrize("name", [*POINTWISE, *SLICEWISE, *INDICES])
def test_operators_agree_with_torch(name):
    module = Around({**POINTWISE, **SLICEWISE, **INDICES}[name])
    require(module, module.x)


@pytest.mark.parametrize(
    "name", ["relu", "tanh", "hardsigmoid", "where", "silu", "clamp", "softplus"]
)
def test_pointwise_functions_keep_channels_apart(name):
    module = Around(nn.Sequential(_Function(POINTWISE[name]), nn.Conv2d(8, 5, 1)))
    with torch.no_grad():
        module.function[1].weight[:, 5:] = 0
    assert sizes(require(module, module.x)) <= 5


class _Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("layer", [
    lambda: nn.Conv2d(8, 6, 3, padding=1), lambda: nn.Conv2d(8, 6, 3, padding="same", dilation=2),
    lambda: nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular"), lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
    lambda: nn.Conv2d(8, 4, 1, groups=2), lambda: nn.Conv2d(8, 6, 2, 2, bias=False),
    lambda: nn.ConvTranspose2d(8, 6, 3, 2, 1, 1),
    lambda: nn.ConvTranspose2d(8, 8, 2, groups=8), lambda: nn.ConvTranspose2d(8, 8, 2, groups=2),
    lambda: nn.BatchNorm2d(8), lambda: nn.BatchNorm2d(8, affine=False),
    lambda: nn.BatchNorm2d(8, track_running_stats=False),
    lambda: nn.InstanceNorm2d(8, affine=True), lambda: nn.GroupNorm(2, 8), lambda: nn.PReLU(8), lambda: nn.PReLU(),
    lambda: nn.LayerNorm(4), lambda: nn.LayerNorm((8, 4, 4)), lambda: nn.RMSNorm(4), lambda: nn.Linear(4, 5),
    lambda: nn.LocalResponseNorm(2), lambda: nn.Softmax2d(), lambda: nn.InstanceNorm2d(8, track_running_stats=True),
], ids=lambda make: repr(make())[:60])  # fmt: skip
def test_layers_agree_with_torch(layer):
    made = layer()
    if isinstance(made, nn.modules.batchnorm._BatchNorm) and made.running_var is not None:
        made.running_var.uniform_(0.5, 2)
        made.running_mean.normal_()
    module = Around(nn.Sequential(made, nn.ReLU()))
    require(module, module.x)


@pytest.mark.parametrize("dims", [1, 3])
def test_convolutions_of_other_dimensions(dims):
    conv, turned = ((nn.Conv1d, nn.ConvTranspose1d), (), (nn.Conv3d, nn.ConvTranspose3d))[dims - 1]
    norm = (nn.BatchNorm1d, None, nn.BatchNorm3d)[dims - 1]
    pool = (F.max_pool1d, None, F.max_pool3d)[dims - 1]
    parts = [norm(8), nn.ReLU(), conv(8, 6, 1), _Function(lambda h: pool(h, 2)), turned(6, 4, 2)]
    module = Around(nn.Sequential(*parts), dims=dims)
    found = require(module, module.x)
    # the constant is none of its type, and sums of columns are rounded
    assert sizes(found) == 5
    assert 0 < found.growth < 1e-5
    assert read_module(module, module.x).notes == ()


# Networks -------------------------------------------------------------------------------------------------------


def shared_cases(shared_files):
    folder = shared_files / "cases" / "graph"
    if not (folder / "records.json").is_file():
        pytest.skip(f"no planted graphs at {folder}")
    cases = json.loads((folder / "records.json").read_text())["cases"]
    return folder, {c["id"]: c for c in cases if (c.get("torch") or {}).get("state")}


PLANTED = [
    "leg_convnet", "leg_resnet", "leg_mobilenet", "leg_unet", "leg_vit", "leg_flat_view", "leg_gru", "leg_prelu",
    "dyn_mobilenet_se", "dyn_densenet", "dyn_gated", "dyn_llama_tied", "dyn_generator", "dyn_pointnet", "dyn_siamese",
    "dyn_twoheads",
]  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_planted_cases_lose_what_must_go_and_nothing_else(name, shared):
    folder, cases = shared_cases(shared)
    module, args, case = planted_case(folder, cases[name])
    found = require(module, *args)
    state = found.module.state_dict()
    names = {own: theirs for theirs, own in case["initializer_of"].items()}
    for tensor, record in case["tensors"].items():
        own = names.get(tensor, tensor)
        if own not in state or record["must"] is None or len(record["dims"]) != state[own].ndim:
            continue
        assert sorted(state[own].shape) <= sorted(record["must"]), own
        if record["least"] is not None:
            assert sorted(state[own].shape) >= sorted(record["least"]), own
    assert found.refused == ()


def planted_case(folder, case):
    from safetensors.torch import load_file

    sys.path.insert(0, str(folder))
    try:
        import nets
    finally:
        sys.path.remove(str(folder))
    how = case["torch"]
    module = getattr(nets, how["cls"])(**how["kwargs"])
    module.load_state_dict(load_file(folder / how["state"]))
    args = []
    for given in case["inputs"]:
        shape = [2 if isinstance(n, str) else n for n in given["shape"]]
        whole = given.get("integers_below")
        args.append(torch.randn(shape) if whole is None else torch.randint(0, whole, shape))
    return module, args, case


class SwiGLU(nn.Module):
    def __init__(self, width=6, inner=10):
        super().__init__()
        self.norm = nn.Parameter(torch.ones(width))
        self.gate, self.up = (
            nn.Linear(width, inner, bias=False),
            nn.Linear(width, inner, bias=False),
        )
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        h = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.norm)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def test_a_gated_block_loses_dead_units():
    module = SwiGLU()
    with torch.no_grad():
        for part in (module.down, module.up):
            part.weight.copy_((part.weight * 64).round() / 64)
        module.up.weight[1] = 0
        module.gate.weight[2] = 0
        module.down.weight[:, 3] = 0
        module.gate.weight[5] = module.gate.weight[4]
        module.up.weight[5] = module.up.weight[4] * -2
    found = require(module, torch.randn(2, 5, 6))
    assert sizes(found, "gate") == sizes(found, "up") == 6
    assert found.module.down.in_features == 6


class Attention(nn.Module):
    """Heads by hand; `fixed` writes the shape into forward."""

    def __init__(self, heads=3, width=4, fixed=False, scale=0.5):
        super().__init__()
        self.heads, self.width, self.fixed, self.scale = heads, width, fixed, scale
        self.values = width
        self.q, self.k, self.v = (nn.Linear(8, heads * width) for _ in range(3))
        self.o = nn.Linear(heads * width, 8)
        self.inner = nn.Linear(8, 5)
        self.outer = nn.Linear(5, 8)

    def forward(self, x):
        n, t, _ = x.shape
        heads, width, values = (3, 4, 4) if self.fixed else (self.heads, self.width, self.values)
        q, k = (p(x).view(n, t, heads, width).transpose(1, 2) for p in (self.q, self.k))
        v = self.v(x).view(n, t, heads, values).transpose(1, 2)
        h = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        h = self.o(h.transpose(1, 2).flatten(2))
        return h + self.outer(torch.tanh(self.inner(x)))


def no_head(module, head=1):
    with torch.no_grad():
        module.o.weight[:, 4 * head : 4 * head + 4] = 0
        module.inner.weight[2:4] = 0
        module.inner.bias[2:4] = 0


def test_a_head_goes_where_forward_reads_numbers_of_its_module():
    module = Attention()
    no_head(module)
    found = require(module, torch.randn(2, 5, 8))
    assert (found.module.heads, found.module.width) == (2, 4)
    assert sizes(found, "q") == sizes(found, "v") == found.module.o.in_features == 8
    assert sizes(found, "inner") == 3
    assert found.refused == ()


def test_a_head_stays_where_forward_writes_its_shape():
    module = Attention(fixed=True)
    no_head(module)
    found = require(module, torch.randn(2, 5, 8))
    assert sizes(found, "q") == sizes(found, "v") == 12
    assert sizes(found, "inner") == 3  # all else goes
    assert found.refused
    assert "forward of Attention" in found.refused[0]
    assert ("left alone", found.refused[0]) in found.rows()


def test_coordinates_go_where_the_scale_does_not_depend_on_them():
    free, bound = Attention(), Attention(scale=None)
    for module in (free, bound):
        with torch.no_grad():
            for part in (module.q, module.k):
                part.weight.view(3, 4, 8)[:, 1] = 0
                part.bias.view(3, 4)[:, 1] = 0
    first, second = require(free, torch.randn(2, 5, 8)), require(bound, torch.randn(2, 5, 8))
    assert sizes(first, "q") == sizes(first, "k") == 9
    assert sizes(first, "v") == 12
    assert sizes(second, "q") == 12
    reasons = [axis.frozen for axis in second.original.axes if axis.size == 4]
    assert any("reads its size" in (reason or "") for reason in reasons)


def test_groups_of_queries_share_keys():
    class Grouped(Attention):
        def __init__(self):
            super().__init__()
            self.k, self.v = nn.Linear(8, 4), nn.Linear(8, 4)
            self.q, self.o = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            n, t, _ = x.shape
            q = self.q(x).view(n, t, -1, self.width).transpose(1, 2)
            k, v = (p(x).view(n, t, -1, self.width).transpose(1, 2) for p in (self.k, self.v))
            h = F.scaled_dot_product_attention(q, k, v, scale=0.5, enable_gqa=True)
            return self.o(h.transpose(1, 2).flatten(2))

    assert understood(Grouped(), torch.randn(2, 5, 8))
    require(Grouped(), torch.randn(2, 5, 8))


@pytest.mark.parametrize(("first", "norm_first"), [(True, True), (False, False)])
def test_the_encoder_of_torch_loses_feed_forward_units(first, norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 10, batch_first=first, norm_first=norm_first)
    module = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    with torch.no_grad():
        for k, part in enumerate(module.layers):
            part.linear1.weight[k] = 0
            part.linear1.bias[k] = -0.5
            part.linear2.weight[:, 4:6] = 0
    fast = torch.backends.mha.get_fastpath_enabled()
    x = torch.randn(3, 2, 8)
    assert understood(module, x)
    found = require(module, x)
    assert sizes(found, "layers.0.linear1") == 7
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert found.original.notes == ()


def test_the_attention_of_torch_is_read_with_its_heads_and_keeps_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.at, self.f = nn.MultiheadAttention(12, 3), nn.Linear(12, 5)

        def forward(self, x):
            h, weights = self.at(x, x, x)
            return self.f(h), weights

    module = Net()
    with torch.no_grad():
        module.at.out_proj.weight[:, 4:8] = 0
    x = torch.randn(4, 2, 12)
    assert 3 in [axis.size for axis in read_module(module, x).axes]
    found = require(module, x)
    assert (
        sizes(found, "at.out_proj") == 8
    )  # heads stay; of what they give as much as the next layer can tell
    module = nn.MultiheadAttention(
        12, 3, kdim=5, vdim=7, bias=False, add_bias_kv=True, batch_first=True
    )
    require(module, torch.randn(2, 4, 12), torch.randn(2, 6, 5), torch.randn(2, 6, 7))


# What a module may be -------------------------------------------------------------------------------------------


def test_masks_of_pruning_are_made_permanent():
    from torch.nn.utils import prune

    module = nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    )
    prune.ln_structured(module[0], "weight", amount=3, n=2, dim=0)
    prune.random_unstructured(module[3], "weight", amount=0.3)
    x = torch.randn(2, 2, 9, 9)
    small, table = prune_dead(module, x)
    same_outputs(module, small, x)
    assert small[0].weight.shape[0] == 5
    assert not small[0]._forward_pre_hooks
    assert isinstance(small[0].weight, nn.Parameter)
    assert hasattr(module[0], "weight_mask")
    assert list(small.state_dict()) == list(nn.Sequential(*map(copy.deepcopy, small)).state_dict())
    assert table[0].before == 8


def test_weight_norm_is_made_permanent():
    module = nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3)
    )
    with torch.no_grad():
        module[2].weight[:, :2] = 0
    x = torch.randn(2, 4)
    found = prune_dead(module, x)
    assert found.module[0].weight.shape == (4, 4)
    torch.testing.assert_close(found.module(x), module(x))
    assert any("_WeightNorm" in note for note in found.original.notes)


def test_shared_weights_stay_shared():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.weight = self.a.weight
            self.inner = nn.Linear(6, 5)
            self.back = nn.Linear(5, 6)
            self.again = self.inner

        def forward(self, x):
            h = self.a(x) + self.b(x)
            h = self.back(F.relu(self.inner(h))) + self.back(F.relu(self.again(x)))
            return self.out(h)

    module = Tied()
    with torch.no_grad():
        module.back.weight[:, 1] = 0
        module.out.weight[:, 2] = 0
    found = require(module, torch.randn(2, 6))
    assert found.module.b.weight is found.module.a.weight
    assert found.module.again is found.module.inner
    assert sizes(found, "inner") == 4
    assert sizes(found, "back") == 5  # row 2 is read by nobody


def test_parts_that_no_output_needs_keep_fitting():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.idle, self.last = (nn.Linear(6, 6) for _ in range(4))

        def forward(self, x):
            h = F.relu(self.a(x))
            left = h + self.idle(h)
            left = left.sum()
            return self.b(h)

    module = Idle()
    with torch.no_grad():
        module.b.weight[:, 1:3] = 0
    found = require(module, torch.randn(2, 6))
    assert tuple(found.module.idle.weight.shape) == (4, 4)
    assert torch.equal(found.module.last.weight, module.last.weight)


def test_types_devices_gradients_and_modes_are_kept():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).to(dtype)
        module[0].weight.requires_grad_(False)
        module[2].eval()
        planted(module[0])
        with torch.no_grad():
            module[2].weight.copy_((module[2].weight * 64).round() / 64)
            module[2].bias.copy_((module[2].bias * 64).round() / 64)
        found = prune_dead(module, torch.randn(2, 4, dtype=dtype))
        small = found.module
        assert small[0].weight.shape == (3, 4)
        assert all(p.dtype == dtype for p in small.parameters())
        assert not small[0].weight.requires_grad
        assert small[2].weight.requires_grad
        assert (small.training, small[0].training, small[2].training) == (True, True, False)
        same_outputs(module, small, torch.randn(2, 4))


def test_a_custom_operator_is_opaque():
    @torch.library.custom_op("moduli_tests::mystery", mutates_args=())
    def mystery(x: torch.Tensor) -> torch.Tensor:
        return x.flip(1).cumsum(1)

    mystery.register_fake(lambda x: torch.empty_like(x))
    function = _Function(lambda h: torch.ops.moduli_tests.mystery(h))
    module = Around(nn.Sequential(function, nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    with torch.no_grad():
        module.function[1].weight[0] = 0
        module.function[1].bias[0] = -1
        module.function[3].weight[:, 2] = 0
    found = require(module, module.x)
    assert sizes(found) == 8
    assert sizes(found, "function.1") == 6
    assert any("moduli_tests::mystery" in note for note in found.original.notes)


@pytest.mark.parametrize("how", ["assert", "raise"])
def test_a_shape_that_forward_insists_on_stays(how):
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            h = F.relu(self.a(x))
            if how == "assert":
                assert h.shape[1] == 6
            elif h.shape[1] != 6:
                raise ValueError("six channels")
            return self.c(F.relu(self.b(h)))

    module = Strict()
    with torch.no_grad():
        for part in (module.a, module.b):
            part.weight[1:3] = 0
            part.bias[1:3] = -1
    found = require(module, torch.randn(2, 2, 4, 4))
    assert (sizes(found, "a"), sizes(found, "b")) == (6, 4)
    assert found.refused


def test_keyword_arguments_dicts_and_several_outputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x, *, pair, times=2):
            h = F.relu(self.a(x) + times * self.b(pair["y"]))
            return {"h": self.c(h), "both": (x, None, h[:, :1] * 0)}

    module = Net()
    with torch.no_grad():
        module.c.weight[:, 3:] = 0
    given = {"x": torch.randn(2, 4), "pair": {"y": torch.randn(2, 3)}, "times": 3}
    small, _ = prune_dead(module, given)
    assert small.a.out_features == 3
    first, second = module(**given), small(**given)
    torch.testing.assert_close(first["h"], second["h"])


def test_what_forward_keeps_in_its_module_is_taken_back():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.aux = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 5)

        def forward(self, x):
            self.last = F.relu(self.a(x))
            return self.b(self.last) if not self.training else self.aux(self.last)

    module = Keeping()
    with torch.no_grad():
        module.b.weight[:, 0] = 0
    found = require(module, torch.randn(2, 4))
    assert sizes(found, "a") == 5
    assert not hasattr(found.module, "last")
    assert not hasattr(module, "last")
    assert "not run in evaluation mode, and left as it is: aux" in found.original.notes
    assert found.module.aux.in_features == 6


def test_hooks_of_users_stay():
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    module[1].register_forward_hook(lambda part, args, out: out * 2)
    with torch.no_grad():
        module[2].weight[:, 0] = 0
    found = require(module, torch.randn(2, 4))
    assert sizes(found, "0") == 5
    assert found.module[1]._forward_hooks


def test_a_batch_that_forward_fixes_is_said():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.b(self.a(x).view(2, 6))

    module = Fixed()
    with torch.no_grad():
        module.b.weight[:, 0] = 0
    found = prune_dead(module, torch.randn(2, 4))
    assert any("these shapes alone" in note for note in found.original.notes)
    assert sizes(found, "a") == 6  # 6 is written into forward


def test_a_box_of_inputs():
    import moduli as mo

    module = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, 1], [-1, -1], [1, 2], [2, 1]]))
        module[0].bias.copy_(torch.tensor([1.0, -1, 0, 0]))
    assert sizes(prune_dead(module, torch.randn(2, 2)), "0") == 4
    found = prune_dead(module, torch.randn(2, 2), on=mo.Box(0.0, 1.0))
    assert sizes(found, "0") == 3
    found.check()


def test_certificates_are_read_back_and_tampered_ones_rejected():
    module = Around(F.relu)
    found = prune_dead(module, module.x)
    text = json.dumps(found.proof.to_json())
    again = GraphCertificate.from_json(text)
    small, large = read_module(found.module, module.x), read_module(module, module.x)
    again.verify(small.model, large.model)
    with pytest.raises(CertificateRejected):
        again.verify(large.model, large.model)
    other = copy.deepcopy(found.module)
    with torch.no_grad():
        other.last.bias[0] += 1
    with pytest.raises(CertificateRejected):
        again.verify(read_module(other, module.x).model, large.model)


def test_what_is_no_function_is_refused():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.randn_like(x)

    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(3, 3)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return super().forward(x)

    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    x = torch.randn(2, 3)
    with pytest.raises(UnsupportedModel, match="random"):
        read_module(Noisy(3, 3), x)
    with pytest.raises(UnsupportedModel, match="changes"):
        read_module(Counting(), x)
    with pytest.raises(UnsupportedModel, match=r"torch\.export cannot follow"):
        read_module(Branching(3, 3), x)
    with pytest.raises(UnsupportedModel, match="without values"):
        read_module(nn.LazyLinear(3), x)
    with pytest.raises(UnsupportedModel, match=r"no torch\.nn\.Module"):
        read_module("module", x)
    with pytest.raises(ValueError, match="empty list"):
        read_module(nn.Linear(3, 3), [])


def test_a_graph_runs_in_float64():
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    graph = read_module(module, torch.randn(2, 4))
    x = np.random.default_rng(0).standard_normal((3, 4))
    (expected,) = double(module, [torch.tensor(x)])
    np.testing.assert_allclose(graph(x), expected.numpy())


class Halved(nn.Module):
    """Two rows, one three times the other in float32."""

    def __init__(self, unit):
        super().__init__()
        self.first, self.last = nn.Parameter(torch.tensor([[unit], [unit]])), nn.Linear(2, 2)
        with torch.no_grad():
            self.first[1] *= 3

    def forward(self, x):
        h = F.relu(F.linear(x.half(), self.first.half()).float())
        return self.last(h)


@pytest.mark.parametrize(("unit", "whole"), [(0.5, True), (0.1, False)])
def test_weights_that_a_cast_rounds_are_others(unit, whole):
    graph = read_module(Halved(unit), torch.randn(3, 1))
    opaque = [node.op.kind for node in graph.model.nodes if isinstance(node.op, Opaque)]
    assert bool(opaque) != whole, opaque


def test_load_reads_a_module_for_inputs_of_a_shape():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    with torch.no_grad():
        net[2].weight[:, 5:] = 0
    with pytest.raises(mo.UnsupportedModel):
        mo.load(net)
    graph = mo.load(net, input_shape=(3, 8, 8))
    assert "no chain of dense layers" in graph.notes[0]
    small = mo.compress(graph)
    assert small.module[0].out_channels == 5
    same_outputs(net, small.module, torch.randn(2, 3, 8, 8))
    assert mo.load(nn.Sequential(nn.Linear(3, 2)), input_shape=3).widths == (3, 2)
