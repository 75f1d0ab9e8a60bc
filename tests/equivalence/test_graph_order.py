"""Units of graphs in another order: twins are found and proved, near misses and forgeries are not."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

import moduli as mo
from moduli.equivalence.graph_order import rounds_to_order
from moduli.equivalence.graph_units import UnitSets, exchangeable_units
from moduli.kernel.graph.axes import units_from
from moduli.kernel.graph.certificate import GraphMove, after, played
from moduli.kernel.graph.ordering import exchangeable, ordered

from ..support.graphs import Builder

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")


def moves_to_order(model):
    """Of the graph as it is; coordinates of single heads are in `test_graph_scales`."""
    found = UnitSets(model, tuple(exchangeable_units(model)), model, ())
    rounds = rounds_to_order(found, model)
    return rounds[0] if rounds else ()


def exported(module, shape, folder, name="m"):
    path = folder / f"{name}.onnx"
    torch.onnx.export(
        module.eval(), (torch.randn(shape, generator=torch.Generator().manual_seed(0)),), path,
        dynamo=False, opset_version=17,
    )  # fmt: skip
    return path


class Residual(torch.nn.Module):
    """Convolutions with batch norms, a sum, a depthwise one, one of two groups, a gate."""

    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.b = nn.Conv2d(8, 6, 1)
        self.squeeze, self.excite = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.grouped = nn.Conv2d(6, 4, 1, groups=2)
        self.last = nn.Linear(4 * 16, 2)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.b(torch.relu(self.depth(self.a(x))))
        gate = torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        x = x * torch.sigmoid(self.excite(gate))
        return self.last(torch.tanh(self.grouped(x)).flatten(1))


class Attention(torch.nn.Module):
    """Two heads on a stream of layer norms, and a layer in between."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        nn = torch.nn
        self.heads, self.width = heads, width
        self.embed = nn.Linear(3, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down, self.last = (
            nn.Linear(width, 5),
            nn.Linear(5, width),
            nn.Linear(width, 2),
        )

    def forward(self, x):
        x = self.embed(x)
        h = self.first(x)
        q, k, v = (
            f(h).reshape(1, 4, self.heads, self.width // self.heads).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        p = torch.softmax(q @ k.transpose(2, 3) / 2.0, -1)
        x = x + self.o((p @ v).transpose(1, 2).reshape(1, 4, self.width))
        x = x + self.down(torch.nn.functional.gelu(self.up(self.second(x))))
        return self.last(x.mean(1))


NETWORKS = {"residual": (Residual, (1, 3, 4, 4)), "attention": (Attention, (1, 4, 3))}


def noisy(module, seed):
    """No number is there twice, batch norms included."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return module


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def graph(request, tmp_path_factory):
    kind, shape = NETWORKS[request.param]
    torch.manual_seed(0)
    return mo.load(exported(noisy(kind(), 1), shape, tmp_path_factory.mktemp("order")))


def shuffled(model, seed):
    """All units in a random order, and how many sets of them there are."""
    rng, axes = np.random.default_rng(seed), exchangeable_units(model)
    for units, members, _ in axes:
        order = np.arange(1, units.count + 1)
        order[members - 1] = rng.permutation(members)
        model = ordered(model, units, order.tolist())
    return model, axes


def outputs(graph, model, seed=0):
    """Of the file that stores a model, by an evaluator that knows nothing of the reading."""
    written = graph.source.rewritten(model, {})
    rng = np.random.default_rng(seed)
    return [written(rng.normal(size=model.shapes[model.inputs[0]])) for _ in range(2)]


# Twins ----------------------------------------------------------------------------------------------------------


def test_all_axes_are_found(graph):
    """The stream under layer norms, heads, their coordinates; the stream that two groups read has two
    blocks, which are all that is found of it.
    """
    sizes = sorted(len(members) for _, members, _ in exchangeable_units(graph.model.live()))
    assert sizes in ([2, 3, 8], [2, 4, 4, 5, 8])


def test_another_order_is_the_same_function(graph):
    model = graph.model.live()
    moved, axes = shuffled(model, 0)
    assert moved.digest != model.digest
    for x, y in zip(outputs(graph, model), outputs(graph, moved), strict=True):
        assert np.allclose(x, y, rtol=1e-9, atol=1e-9)
    assert len(axes) >= 3


def test_twins_reach_one_order(graph):
    model = graph.model.live()
    wanted = played(model, moves_to_order(model), {})[0].digest
    for seed in range(5):
        moved, _ = shuffled(model, seed)
        assert after(moved, moved.digest, [moves_to_order(moved)]) == wanted
        assert played(moved, moves_to_order(moved), {})[0].digest == wanted


def test_one_number_more_is_told(graph):
    """A near miss: one stored number by one bit."""
    model = graph.model.live()
    wanted = played(model, moves_to_order(model), {})[0].digest
    rng = np.random.default_rng(0)
    for name in list(model.constants)[::3]:
        array = model.constants[name]
        if array.dtype.kind != "f" or not array.size:
            continue
        changed = array.copy()
        at = int(rng.integers(array.size))
        changed.flat[at] = np.nextafter(changed.flat[at], np.inf)
        other = replace(model, constants={**model.constants, name: changed})
        moved, _ = shuffled(other, 1)
        assert after(moved, moved.digest, [moves_to_order(moved)]) != wanted


def test_files_of_twins_are_equal(graph, tmp_path):
    """From files, through reducing, with a proof that is checked again, and one signature."""
    moved, _ = shuffled(graph.model, 3)
    other = graph.source.rewritten(moved, {})
    mo.save(other, tmp_path / "twin.onnx")
    again = mo.load(tmp_path / "twin.onnx")
    assert again.digest == moved.digest != graph.digest
    found = mo.equivalent(graph, again)
    assert found.status == "proved"
    assert "in another order" in found.statement
    assert found.check()
    assert mo.signature(graph) == mo.signature(again)
    near = mo.distance(graph, again)
    assert (near.status, near.upper) == ("proved", 0)
    assert near.check()


def test_equal_units_are_exchanged_by_nobody_and_still_reach_one_order():
    """Units that cannot be told apart: copies that a constant softmax keeps."""
    b = Builder("n", 2)
    h = b.each("tanh", b.dense("x", "a", np.ones((4, 2)), [1.0, 1.0, 2.0, 2.0]))
    model = b.model(b.dense(h, "c", np.arange(12.0).reshape(3, 4) % 2))
    first = played(model, moves_to_order(model), {})[0].digest
    for seed in range(5):
        moved, _ = shuffled(model, seed)
        assert played(moved, moves_to_order(moved), {})[0].digest == first


# The kernel -----------------------------------------------------------------------------------------------------


def test_forged_orders_are_refused(graph):
    model = graph.model.live()
    (move, *_) = moves_to_order(shuffled(model, 1)[0]) or moves_to_order(model)
    for units in ((*move.units[:-1], move.units[0]), (10**6, *move.units[1:]), (*move.units, 0)):
        with pytest.raises(mo.CertificateRejected):
            played(model, [replace(move, units=units)], {})
    for changed in (replace(move, tensor="nobody"), replace(move, axis=9)):
        with pytest.raises(mo.CertificateRejected):
            played(model, [changed], {})
    with pytest.raises(mo.CertificateRejected, match="in one round"):
        played(model, [move, GraphMove("bypass", model.outputs[0])], {})
    with pytest.raises(mo.CertificateRejected, match="digest"):
        after(model, "graph:0", [[move]])
    with pytest.raises(mo.CertificateRejected, match="no order"):
        after(model, model.digest, [[GraphMove("remove", move.tensor, move.axis, (0,), (-1,))]])
    assert GraphMove.of(move.plain()) == move


def test_a_proof_for_other_networks_is_refused(graph, tmp_path):
    moved, _ = shuffled(graph.model, 3)
    other = graph.source.rewritten(moved, {})
    found = mo.equivalent(graph, other)
    swapped = replace(found, symmetries=found.symmetries[::-1])
    with pytest.raises(mo.CertificateRejected):
        swapped.check()
    with pytest.raises(mo.CertificateRejected):
        replace(found, symmetries=((), ())).check()


def test_no_node_is_moved_that_does_not_commute(graph):
    """Every place of every tensor, reversed by itself: refused, or the same function."""
    model = graph.model.live()
    wanted, accepted = outputs(graph, model), 0
    for name, shape in model.shapes.items():
        for axis, n in enumerate(shape or ()):
            if not isinstance(n, int) or n < 2:
                continue
            units = exchangeable(model, (name, axis))
            if units.count < 2:
                continue
            order = list(range(units.count, 0, -1))
            try:
                moved = ordered(model, units, order)
            except mo.CertificateRejected:
                continue
            accepted += 1
            for x, y in zip(wanted, outputs(graph, moved), strict=True):
                assert np.allclose(x, y, rtol=1e-9, atol=1e-9)
    assert accepted > 10


def test_inputs_and_outputs_keep_their_order(graph):
    model = graph.model.live()
    for name in (*model.inputs, *model.outputs):
        for axis, n in enumerate(model.shapes[name]):
            if isinstance(n, int) and n > 1:
                assert exchangeable(model, (name, axis)).count == 0


def test_sizes_keep_their_order(tmp_path):
    """What reads the sizes of an input apart tells them apart."""
    from onnx import TensorProto, helper, numpy_helper

    def of_sizes(numbers):
        node = helper.make_node
        nodes = [
            node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["f", "c"], ["m"]), node("ReduceSum", ["m"], ["r"], keepdims=0), node("Add", ["x", "r"], ["y"]),
        ]  # fmt: skip
        ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4])] for n in "xy"]
        stored = [numpy_helper.from_array(np.array(numbers, np.float32), "c")]
        graph = helper.make_graph(nodes, "g", *ends, stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    a, b = mo.load(of_sizes([1, 10])), mo.load(of_sizes([10, 1]))
    assert mo.equivalent(a, b).status != "proved"
    assert mo.signature(a) != mo.signature(b)
    with pytest.raises(mo.CertificateRejected):
        after(a.model, a.digest, [[GraphMove("order", "m", 0, (1, 0))]])
    assert all(units_from(a.model, (name, 0)).count == 0 for name in ("s", "f", "m"))


def test_parts_of_other_classes_are_refused(graph):
    class Liar(type(mo.compress(graph))):
        def check(self):
            return True

    answer = mo.equivalent(graph, mo.symmetries(graph).random(1)(graph))
    part = answer.a
    given = [field.name for field in fields(part) if field.init]
    lie = Liar(**{name: getattr(part, name) for name in given})
    with pytest.raises(mo.CertificateRejected, match="a class that may say anything"):
        replace(answer, a=lie).check()


def test_symmetries_of_a_graph_are_data(graph):
    group = mo.symmetries(graph)
    assert group.log_order > 9
    assert group.check()
    moved = group.random(1)(graph)
    assert moved.digest != graph.digest
    assert mo.equivalent(graph, moved).status == "proved"
    assert group.random(1) == group.random(1)
    assert str(group.data()["graph"]) == graph.digest


def test_an_element_of_another_graph_is_refused(graph, tmp_path):
    torch.manual_seed(3)
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)
    other = mo.load(exported(torch.nn.Sequential(*layers), (1, 3, 5, 5), tmp_path))
    with pytest.raises(mo.CertificateRejected):
        mo.symmetries(graph).random(1)(other)
