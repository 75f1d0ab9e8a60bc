"""Classes of graphs: how far parameters move outputs, orbits on grids, and what is said of both."""

from __future__ import annotations

import io
import itertools
import json
import math
from fractions import Fraction

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import moduli as mo
from moduli.capacity.graph_covering import GraphClass
from moduli.equivalence.graph_scales import gauges
from moduli.equivalence.graph_units import UnitSets
from moduli.formats import load_as_written
from moduli.interface import cli
from moduli.kernel.errors import UnsupportedModel


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.inner = nn.Conv2d(3, 4, 3, padding=1)
        self.outer = nn.Conv2d(4, 3, 1)
        self.last = nn.Linear(3, 2)

    def forward(self, x):
        h = torch.relu(self.norm(self.stem(x)))
        h = h + self.outer(torch.nn.functional.silu(self.inner(h)))
        h = torch.nn.functional.max_pool2d(h, 2)
        return self.last(h.mean(dim=(2, 3)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4) for _ in range(4))
        self.gate = nn.Linear(4, 4)

    def forward(self, x):
        h = self.embed(x)
        u = self.norm(h)
        weights = torch.softmax(self.q(u) @ self.k(u).transpose(-1, -2) / 2, dim=-1)
        return h + self.o(weights @ self.v(u)) * torch.sigmoid(self.gate(h))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.weight = nn.Parameter(torch.randn(3, 2))
        self.bias = nn.Parameter(torch.randn(2))

    def forward(self, x):
        return torch.log_softmax(torch.tanh(self.table(x)) @ self.weight + self.bias, dim=-1)


def made(kind):
    torch.manual_seed(0)
    module = {"residual": Residual, "attention": Attention, "tokens": Tokens}[kind]().eval()
    if kind == "residual":  # a batch norm is its scale and its shift
        module.norm.running_var.fill_(1 - module.norm.eps)
    shape = {"residual": (2, 4, 4), "attention": (5, 3), "tokens": None}[kind]
    if shape is None:
        file = io.BytesIO()
        tokens = (torch.zeros(2, 4, dtype=torch.int64),)
        torch.onnx.export(module, tokens, file, dynamo=False, opset_version=17)
        graph = mo.load(onnx.load_model_from_string(file.getvalue()))
    else:
        graph = mo.load(module, input_shape=shape)
    return module.double(), graph, shape


KINDS = ("residual", "attention", "tokens")


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_move_outputs_no_further(kind):
    module, graph, shape = made(kind)
    own = {name: p for name, p in module.named_parameters()}
    cls = mo.complexity(graph, bound=3, input_bound=2).cls
    moved = cls.sensitivities
    names = {name: max((k for k in own if name.endswith(k)), key=len) for name in cls.bounds}
    assert sorted(names.values()) == sorted(own)
    rng, near = np.random.default_rng(0), 0.0
    for trial in range(60):
        ends = rng.choice([-3.0, 3.0], size=2) if trial % 2 else None
        size = 10.0 ** rng.uniform(-3, 0)
        first, second, allowed = {}, {}, Fraction(0)
        chosen = set(rng.choice(list(names), int(rng.integers(1, 4))))
        for name, key in names.items():
            a = rng.uniform(-3, 3, tuple(own[key].shape))
            if ends is not None:
                a = np.full_like(a, ends[int(rng.integers(2))])
            delta = size * rng.random() if name in chosen else 0.0
            b = np.clip(a + rng.choice([-delta, delta], a.shape), -3, 3)
            first[key], second[key] = torch.tensor(a), torch.tensor(b)
            allowed += moved[name] * Fraction(delta)
        if shape is None:
            x = torch.tensor(rng.integers(0, 5, (2, 4)))
        else:
            x = torch.tensor(rng.uniform(-2, 2, (4, *shape)))
        with torch.no_grad():
            values = []
            for state in (first, second):
                module.load_state_dict(state, strict=False)
                values.append(module(x))
        gap = float((values[0] - values[1]).abs().max())
        assert gap <= float(allowed) * (1 + 1e-9)
        assert cls.reach is None or float(values[0].abs().max()) <= float(cls.reach) * (1 + 1e-9)
        near = max(near, gap / float(allowed))
    assert near > 1e-4  # the bound is about what happens


def shared_norms(path, variances):
    """Two batch norms of one scale, shift and mean; their variances differ."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("BatchNormalization", ["a", "s", "b", "m", "v0"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("BatchNormalization", ["d", "s", "b", "m", "v1"], ["y"]),
    ]
    rng = np.random.default_rng(3)
    arrays = {
        "w": rng.uniform(-1, 1, (3, 2, 1)),
        "s": rng.uniform(0.5, 1, 3),
        "b": rng.uniform(-1, 1, 3),
    }
    arrays |= {
        "m": rng.uniform(-1, 1, 3),
        "v0": np.full(3, variances[0]),
        "v1": np.full(3, variances[1]),
    }
    stored = [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, k, 4])
        for n, k in (("x", 2), ("y", 3))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


@pytest.mark.parametrize("variances", [(1e-6, 1.0), (1.0, 1e-6), (0.01, 0.01)])
def test_batch_norms_that_share_tensors_are_in_their_class(tmp_path, variances):
    path = shared_norms(tmp_path / "a.onnx", variances)
    cls = mo.complexity(path, input_bound=2).cls
    assert {"w", "s", "b", "m"} <= cls.bounds.keys()
    assert not {"v0", "v1"} & cls.bounds.keys()
    model = onnx.load(path)
    rng, moved = np.random.default_rng(0), cls.sensitivities

    def value(arrays, x):
        for tensor in model.graph.initializer:
            if tensor.name in arrays:
                tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
        return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]

    held = {
        t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in cls.bounds
    }
    for _ in range(20):
        x = rng.choice([-2.0, 2.0], (1, 2, 4)).astype(np.float32)
        bounds = {name: float(cls.bounds[name]) for name in held}
        first = {
            n: rng.choice([-bounds[n], bounds[n]], a.shape).astype(np.float32)
            for n, a in held.items()
        }
        second, allowed = dict(first), Fraction(0)
        name = str(rng.choice(list(held)))
        delta = bounds[name] * float(rng.random())
        second[name] = (first[name] - np.sign(first[name]) * delta).astype(np.float32)
        allowed = moved[name] * Fraction(delta)
        a, b = value(first, x), value(second, x)
        assert np.abs(a).max() <= float(cls.reach) * (1 + 1e-4)
        assert np.abs(a - b).max() <= float(allowed) * (1 + 1e-4) + 1e-4 * np.abs(a).max()
    assert np.abs(value(held, x)).max() <= float(cls.reach) * (1 + 1e-4)


def test_parameters_of_one_entry_are_counted(tmp_path):
    net = mo.Network.mlp(np.ones((4, 3)), np.ones(4), np.ones((1, 4)), [0.5], activation="relu")
    graph = load_as_written(mo.save(net, tmp_path / "a.onnx"))
    assert mo.complexity(graph).cls.parameters == net.parameters == 21
    module = nn.Sequential(nn.Conv1d(1, 2, 1), nn.PReLU(), nn.Flatten(), nn.Linear(8, 1))
    counted = mo.complexity(mo.load(module, input_shape=(1, 4))).cls.parameters
    assert counted == sum(p.numel() for p in module.parameters())


def test_samples_fit_the_class():
    _, graph, _ = made("residual")
    with pytest.raises(mo.ShapeError, match=r"have shape \(5, 7\); the networks have 32 inputs"):
        mo.complexity(graph, samples=mo.Samples(np.zeros((5, 7))))
    with pytest.raises(ValueError, match=r"samples of size 3 \(inf norm\) exceed input_bound=1"):
        mo.complexity(graph, samples=mo.Samples(np.full((5, 32), 3.0)))
    assert mo.complexity(graph, samples=mo.Samples(np.zeros((5, 32)))).samples == 5


def small(kind):
    """A network whose parameters have few grid points."""
    torch.manual_seed(0)
    if kind == "two layers":
        return nn.Sequential(nn.Linear(1, 2, bias=False), nn.Sigmoid(), nn.Linear(2, 2), nn.Softplus(),
                             nn.Linear(2, 1, bias=False)), (1,)  # fmt: skip
    if kind == "three units":
        return nn.Sequential(nn.Linear(1, 3), nn.GELU(), nn.Linear(3, 1)), (1,)
    if kind == "convolution":
        return nn.Sequential(nn.Conv1d(1, 3, 2, bias=False), nn.SiLU(), nn.Conv1d(3, 1, 2)), (1, 4)
    if kind == "odd":  # rows of weights and a bias up to sign
        return nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1)), (1,)
    if kind == "odd convolution":
        return nn.Sequential(nn.Conv1d(1, 2, 2, bias=False), nn.Tanh(), nn.Conv1d(2, 2, 1)), (1, 4)
    if kind == "depthwise":
        return nn.Sequential(nn.Conv1d(1, 3, 1), nn.SiLU(), nn.Conv1d(3, 3, 1, groups=3, bias=False), nn.SiLU(),
                             nn.Conv1d(3, 1, 1, bias=False)), (1, 3)  # fmt: skip

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.start = nn.Linear(1, 2, bias=False)
            self.up, self.down = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.last = nn.Linear(2, 1)

        def forward(self, x):
            h = self.start(x)
            return self.last(h + self.down(torch.sigmoid(self.up(h))))

    return Skip(), (1,)


SMALL = (
    "two layers",
    "three units",
    "convolution",
    "odd",
    "odd convolution",
    "depthwise",
    "residual",
)


def moved_by(part, graph, names, shapes, ends, order=None, sign=None):
    """Where each number comes from, and its sign, if units are put in an order or turned."""
    members, index, turned = part.members.tolist(), [], []
    for name, start in zip(names, ends, strict=False):
        at = np.arange(start, start + math.prod(shapes[name])).reshape(shapes[name])
        signs = np.ones(shapes[name], int)
        for (other, axis), labels in part.units.places.items():
            if other != name:
                continue
            if order is not None:
                to = np.arange(len(labels))
                for k, unit in enumerate(members):
                    to[labels == unit] = np.flatnonzero(labels == members[order[k]])
                at = np.take(at, to, axis=axis)
            if sign is not None and sign[0].powers.get((name, axis), 0) % 2:
                along = np.where(labels == members[sign[1]], -1, 1)
                signs = signs * along.reshape([-1 if k == axis else 1 for k in range(signs.ndim)])
        index.append(at.ravel())
        turned.append(signs.ravel())
    return np.concatenate(index), np.concatenate(turned)


def orbits(cls, cells):
    """Grid points up to all orders of units and free signs, one by one: centres are odd or even numbers about 0."""
    names = sorted(cls.bounds)
    shapes = {name: cls.graph.constants[name].shape for name in names}
    ends = np.cumsum([0, *(cls.sizes[name] for name in names)])
    moves, sets = [], UnitSets.of(cls.graph)
    for part in sets.sets:
        for order in itertools.permutations(range(len(part.members))):
            moves.append(moved_by(part, cls.graph, names, shapes, ends, order=order))
    for gauge in gauges(sets):
        for k in range(len(gauge.part.members) if gauge.sign and not gauge.joint else 0):
            moves.append(moved_by(gauge.part, cls.graph, names, shapes, ends, sign=(gauge, k)))
    still = np.arange(ends[-1]), np.ones(ends[-1], int)
    group, waiting = {(tuple(still[0]), tuple(still[1]))}, [still]
    while waiting:
        one = waiting.pop()
        for index, signs in moves:
            found = one[0][index], one[1][index] * signs
            key = tuple(found[0].tolist()), tuple(found[1].tolist())
            if key not in group:
                group.add(key)
                waiting.append(found)
    axes = [
        range(1 - cells[name], cells[name], 2) for name in names for _ in range(cls.sizes[name])
    ]
    points = np.array(list(itertools.product(*axes)))
    weight = (2 * max(cells.values()) + 1) ** np.arange(ends[-1])
    least = np.min([(points[:, list(g)] * np.array(t)) @ weight for g, t in group], axis=0)
    return len(np.unique(least)), len(points), len(group)


@pytest.mark.parametrize("kind", SMALL)
def test_orbits_by_brute_force(kind, monkeypatch):
    module, shape = small(kind)
    cls = mo.complexity(graph_of(module, shape)).cls
    cells = {name: 2 if cls.parameters < 16 else 1 for name in cls.bounds}
    if kind.startswith("odd"):
        cells = {name: 3 if len(cls.graph.constants[name].shape) > 1 else 2 for name in cls.bounds}
        assert any(part.turned for part in cls.owned)
    monkeypatch.setattr(GraphClass, "cells", lambda self, eps: cells)
    counted, points, group = orbits(cls, cells)
    found = math.exp(cls.log_permuted(Fraction(1)))
    assert counted <= found * (1 + 1e-9) < points
    assert points / group <= counted
    assert math.isclose(math.exp(cls.log_plain(Fraction(1))), points)
    assert math.isclose(math.exp(cls.log_group), group)


def test_orbits_of_attention_by_brute_force(monkeypatch):
    """Two heads of one coordinate: heads trade places, and each has two signs, of which the theorem counts one."""

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(2, 2, bias=False) for _ in range(4))

        def forward(self, x):
            def split(t):
                return t.reshape(*t.shape[:-1], 2, 1).transpose(-2, -3)

            p = torch.softmax(split(self.q(x)) @ split(self.k(x)).transpose(-1, -2), -1)
            return self.o((p @ split(self.v(x))).transpose(-2, -3).reshape(x.shape))

    cls = mo.complexity(mo.load(Heads(), input_shape=(3, 2))).cls
    cells = dict.fromkeys(cls.bounds, 2)
    monkeypatch.setattr(GraphClass, "cells", lambda self, eps: cells)
    counted, points, group = orbits(cls, cells)
    assert (points, group) == (2**16, 2 * 2**4)
    assert (
        points / group <= counted <= math.exp(cls.log_permuted(Fraction(1))) * (1 + 1e-9) < points
    )


def graph_of(module, shape):
    """As a graph, where it may be a chain as well."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.onnx"
        if isinstance(module, nn.Sequential) and isinstance(module[0], nn.Linear):
            mo.save(mo.load(module), path)
            return load_as_written(path)
    return mo.load(module, input_shape=shape)


def test_a_chain_is_counted_as_the_formula_says(tmp_path):
    """Dense layers 3-5-4-2, relu, by the formula with a radius for weights and one for biases."""
    rng = np.random.default_rng(0)
    widths = [3, 5, 4, 2]
    parts = [
        a
        for n, m in itertools.pairwise(widths)
        for a in (rng.normal(size=(m, n)), rng.normal(size=m))
    ]
    net = mo.Network.mlp(*parts, activation="relu")
    path = mo.save(net, tmp_path / "a.onnx", dtype="float64")
    found = mo.complexity(load_as_written(path), bound=4, input_bound=3)
    b, eps, size = 4, Fraction(1, 10), [Fraction(3)]
    for d in widths[:-1]:
        size.append(d * b * size[-1] + b)
    after, factors = Fraction(1), []
    for l in (2, 1, 0):
        factors = [widths[l] * size[l] * after, after, *factors]
        after *= widths[l] * b
    counts = [n for a, c in itertools.pairwise(widths) for n in (a * c, c)]
    total = sum(counts)
    m = [math.ceil(b * total * k / (eps * s)) for k, s in zip(factors, counts, strict=True)]
    plain = math.fsum(s * math.log(c) for s, c in zip(counts, m, strict=True))
    assert math.isclose(found.log_covering(0.1, symmetry=False), plain, rel_tol=1e-12)
    less = sum(math.lgamma(d + 1) for d in widths[1:-1])  # repeated rows are too few to be seen
    assert math.isclose(found.log_covering(0.1), plain - less, rel_tol=1e-9)
    assert math.isclose(found.log_symmetries, less)
    chain = mo.complexity(
        net, bound=4, input_bound=3
    )  # one radius for each layer: alike, not equal
    assert abs(found.log_covering(0.1) / min(chain.cls.log_permuted(eps), 1e9) - 1) < 0.05


def test_a_convolution_is_below_its_dense_layer():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)
    )
    tied = mo.complexity(mo.load(module, input_shape=(1, 7, 7)))
    parts = []
    for layer, shape in ((module[0], (1, 7, 7)), (module[2], (3, 5, 5))):
        size = math.prod(shape)
        with torch.no_grad():
            bias = layer(torch.zeros(1, *shape)).flatten()
            weight = layer(torch.eye(size).reshape(size, *shape)).flatten(1) - bias
        parts += [weight.T.numpy(), bias.numpy()]
    parts += [p.detach().numpy() for p in module[5].parameters()]
    dense = mo.complexity(mo.Network.mlp(*parts, activation="relu"))
    assert tied.cls.parameters < dense.cls.parameters
    for eps in (1.0, 0.1, 0.001):
        assert tied.log_covering(eps) < dense.log_covering(eps) / 10


def test_nothing_is_larger_than_the_reach():
    _, graph, _ = made("residual")
    found = mo.complexity(graph)
    assert found.log_covering(float(found.cls.reach) * 1.01) == 0.0
    assert found.log_covering(0.1) > 0


def test_what_is_said(tmp_path):
    _, graph, _ = made("residual")
    found = mo.complexity(graph, samples=1000)
    assert found.status == "bounded"
    assert found.check()
    text = json.loads(json.dumps(found.to_json()))
    assert text["schema"] == "moduli.complexity/1"
    assert text["log_covering"] == found.log_covering() < text["log_covering_plain"]
    assert [row["name"] for row in text["bounds"]][-1] == "Occam, as stored"
    assert sum(part["units"] for part in text["units"]) == 7
    assert all(row.gap is not None and row.gap >= 1 and row.vacuous for row in found.bounds)
    needed = [row.needed for row in found.bounds]
    assert mo.complexity(graph, samples=2 * math.ceil(max(needed))).bounds[0].gap < 1
    assert found.plot() is not None
    fixed = mo.complexity(graph, bound=2)  # bounds that are given in advance pay for nothing
    chosen = mo.complexity(graph, bound=dict.fromkeys(fixed.cls.bounds, 2))
    assert fixed.log_covering() == chosen.log_covering()


def test_mistakes():
    _, graph, _ = made("residual")
    with pytest.raises(ValueError, match=r"an entry of '.*' has size 0\.\d+, above bound=0\.001"):
        mo.complexity(graph, bound=0.001)
    with pytest.raises(ValueError, match="one for each tensor; what of"):
        mo.complexity(graph, bound={"nobody": 1})
    with pytest.raises(mo.ArgumentError, match="for widths and chains"):
        mo.complexity(graph, bound="he")
    with pytest.raises(ValueError, match="accuracy"):
        mo.complexity(graph, accuracy=0)
    with pytest.raises(ValueError, match="input_bound"):
        mo.complexity(graph, input_bound=-1)
    with pytest.raises(ValueError, match="bounded in the sup norm; leave it out"):
        mo.complexity(graph, norm="2")
    module = nn.Sequential(nn.Conv1d(1, 2, 1), nn.ReLU())

    class Steep(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = module

        def forward(self, x):
            return torch.sqrt(self.first(x))

    with pytest.raises(UnsupportedModel, match=r"node '.*' \(sqrt\): how far its inputs move"):
        mo.complexity(mo.load(Steep(), input_shape=(1, 3)))


def test_from_the_command_line():
    done = CliRunner().invoke(cli.cli, ["complexity", "zoo:person-detector", "--samples", "1000"])
    assert done.exit_code == 0, done.output
    assert "Theorem P for graphs" in done.output
