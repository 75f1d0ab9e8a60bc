"""Steps of back substitution: of affine graphs bounds are the exact ranges, so that no rule may be left
out or lose anything; and how windows slide, beside torch and ONNX.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from moduli.kernel.graph.back_steps import slides
from moduli.kernel.graph.back_substitution import BackSubstitution
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.operators import Elementwise, Slicewise

from ...support.windowed_graphs import BENT, PAIRS, SMOOTH, Windowed


def growing(seed, first="n", box=(3, 1, 1)):
    rng = np.random.default_rng(seed)
    graph = Windowed(rng, {"x": (first, 3, 6, 5)}, padding=0.0)
    low = np.asarray(rng.normal(size=box))
    graph.ranges["x"] = low, np.asarray(low + rng.random(box))
    return graph


def until(make, tries=200):
    """The first node of its kind that can be made."""
    for _ in range(tries):
        name = make()
        if name is not None:
            return name
    raise AssertionError("none was made")


def exact(graph, name, axis):
    """Ends of the units of an affine tensor, by its slopes."""
    shape = [2 if n == "n" else n for n in graph.shapes["x"]]
    low, high = (torch.from_numpy(np.broadcast_to(e, shape).copy()) for e in graph.ranges["x"])
    middle = (low + high) / 2

    def value(x):
        return graph.values(x)[name].movedim(axis, 0).flatten(1)

    slopes = torch.autograd.functional.jacobian(value, middle)
    reach = (slopes.abs() * (high - low) / 2).flatten(2).sum(dim=2)
    values = value(middle)
    return (values - reach).min(dim=1).values, (values + reach).max(dim=1).values


def found(graph, name, axis, depth=50):
    known = Known(graph.model, graph.ranges)
    n = graph.shapes[name][axis]
    BackSubstitution(known, 10**9).narrow(name, axis, np.arange(n), depth)
    facts = known.of((name, axis))
    return facts.low, facts.high


def same(graph, name, axis=1):
    for end, mine in zip(exact(graph, name, axis), found(graph, name, axis), strict=True):
        np.testing.assert_allclose(mine, end.numpy(), rtol=1e-9, atol=1e-9)


KINDS = ("conv", "normed", "pad", "pool", "unpool", "turn", "take", "pair", "neg")


def one_more(graph, x, kind):
    """A node of a kind, if it is affine and understood wherever its window lies."""
    if kind == "neg":
        return graph.add(Elementwise("neg"), [x], graph.shapes[x], lambda v: -v[x])
    name = getattr(graph, kind)(x)
    if name is None:
        return None
    op = graph.nodes[-1].op
    affine = not isinstance(op, Elementwise) or (
        op.kind in ("add", "sub") or (op.kind in ("mul", "div") and x in graph.nodes[-1].inputs)
    )
    stored = [graph.constants.get(y) for y in graph.nodes[-1].inputs]
    over_places = any(c is not None and c.ndim and np.shape(c)[-1] > 1 for c in stored)
    if kind == "pair" and (not affine or op.kind in ("mul", "max") or over_places):
        graph.nodes.pop(), graph.steps.pop()
        return None
    if kind == "pool" and op.kind in ("amax", "max pool"):
        graph.nodes.pop(), graph.steps.pop()
        return None
    if kind == "turn" and op.order[1] != 1:  # of other axes no weights are known
        graph.nodes.pop(), graph.steps.pop()
        return None
    if kind == "take" and op.axis > 1 and not (np.diff(op.index) == 1).all():
        graph.nodes.pop(), graph.steps.pop()
        return None
    return name


@pytest.mark.parametrize("kind", KINDS)
def test_of_affine_graphs_bounds_are_exact(kind):
    """A convolution, a node of the kind, and a convolution that reads it."""
    for seed in range(6):
        graph = growing(seed)
        h = until(lambda graph=graph: graph.conv("x"))
        h = until(lambda graph=graph, h=h: one_more(graph, h, kind))
        same(graph, until(lambda graph=graph, h=h: graph.conv(h)))


def test_branches_and_concatenations_are_exact():
    for seed in range(8):
        graph = growing(seed)
        h = until(lambda graph=graph: graph.conv("x"))
        a = until(lambda graph=graph, h=h: graph.normed(h))
        b = graph.add(Elementwise("sub"), [h, a], graph.shapes[h], lambda v, h=h, a=a: v[h] - v[a])
        c = graph.add(Elementwise("add"), [b, h], graph.shapes[h], lambda v, h=h, b=b: v[b] + v[h])
        same(graph, c)
        if graph.shapes[c][1] == 1:
            continue  # intervals know nothing of one channel that is flattened
        flat = until(lambda graph=graph, c=c: graph.flat(c))
        same(graph, graph.dense(flat))


CURVES = [
    ("hardsigmoid", (0.25, 0.5)), ("hardswish", ()), ("silu", ()), ("gelu", ()), ("mish", ()), ("softplus", ()), ("exp", ()),
    ("elu", (0.5,)), ("selu", (1.5, 1.25)), ("tanh", ()), ("sigmoid", ()), ("leaky_relu", (0.25,)),
    ("clip", (-1.0, np.inf)), ("clip", (-np.inf, 1.0)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "numbers"), CURVES)
@pytest.mark.parametrize("ends", [(-0.5, 1.0), (0.25, 2.5), (-2.0, 1.5)])
def test_what_two_nodes_compute_alike_nearly_cancels(kind, numbers, ends):
    """f(x) - f(x), in two nodes: intervals are off by twice the range, lines by their distance."""
    graph = Windowed(np.random.default_rng(0), {"x": ("n", 2)}, ranges={"x": ends})
    function = {**BENT, **SMOOTH}[kind]

    def each():
        op = Elementwise(kind, numbers)
        return graph.add(op, ["x"], ("n", 2), lambda v: function(v["x"], *numbers))

    a, b = each(), each()
    top = Known(graph.model, {"x": tuple(map(np.array, ends))}).of((a, 1))
    graph.ranges["x"] = tuple(map(np.array, ends))
    y = graph.add(Elementwise("sub"), [a, b], ("n", 2), lambda v: v[a] - v[b])
    low, high = found(graph, y, 1)
    assert (low <= 0).all()
    assert (high >= 0).all()
    near = 1.0 if kind in ("gelu", "mish", "softplus", "tanh") else 0.75
    assert ((high - low) < near * 2 * (top.high - top.low)).all()


@pytest.mark.parametrize("kind", ["mul", "max", "min", "prelu"])
def test_pairs_nearly_cancel(kind):
    """Of two tensors of one input and the same again, less each other."""
    graph = growing(4, box=(3, 1, 1))
    graph.shapes["x"] = (1, 3, 4, 4)
    other = graph.store(np.array([[[0.5]], [[-0.5]], [[2.0]]]))[0]
    second = other if kind == "prelu" else graph.add(
        Elementwise("add"), ["x", other], (1, 3, 4, 4), lambda v: v["x"] + torch.from_numpy(graph.constants[other])
    )  # fmt: skip
    stored = torch.from_numpy(graph.constants[other])
    names = [
        graph.add(
            Elementwise(kind), ["x", second], (1, 3, 4, 4),
            lambda v: PAIRS[kind](v["x"], stored if kind == "prelu" else v[second]),
        )
        for _ in range(2)
    ]  # fmt: skip
    y = graph.add(Elementwise("sub"), names, (1, 3, 4, 4), lambda v: v[names[0]] - v[names[1]])
    plain = Known(graph.model, graph.ranges).of((y, 1))
    low, high = found(graph, y, 1)
    assert (low <= 0).all()
    assert (high >= 0).all()
    assert (high - low < 0.8 * (plain.high - plain.low)).all()


@pytest.mark.parametrize("pads", [0, 1])
def test_a_largest_entry_is_at_least_the_mean(pads):
    """Behind a ReLU also where windows reach over the border, where a mean with zeros is less."""
    graph = growing(5)
    h = graph.add(Elementwise("relu"), ["x"], graph.shapes["x"], lambda v: torch.relu(v["x"]))
    k, stride = (3, 2), (2, 1)

    def reaches_over():
        numbers = dict(graph.nodes[-1].op.numbers)
        return any(numbers.get("pads") or numbers["padding"])

    largest = graph.maximum(h, k, stride)
    while reaches_over() != bool(pads):
        graph.nodes.pop(), graph.steps.pop()
        largest = graph.maximum(h, k, stride)
    numbers = graph.nodes[-1].op.numbers
    laws = dict(linear=True, zero=True, hull=True, padded=bool(pads))
    around = dict(numbers).get("padding") or dict(numbers)["pads"][:2]
    mean = graph.add(
        Slicewise("average pool", ((0, 0), (1, 1)), numbers, **laws), [h], graph.shapes[largest],
        lambda v: torch.nn.functional.avg_pool2d(v[h], k, stride, around),
    )  # fmt: skip
    y = graph.add(
        Elementwise("sub"), [largest, mean], graph.shapes[mean], lambda v: v[largest] - v[mean]
    )
    plain = Known(graph.model, graph.ranges).of((y, 1))
    low, _ = found(graph, y, 1)
    assert (low >= -1e-9).all()
    assert (plain.low < -0.1).any()


def test_layers_that_are_not_gone_through_leave_intervals():
    graph = growing(3)
    h = until(lambda: graph.conv("x"))
    h = until(lambda: graph.conv(h))
    shallow, deep = found(graph, h, 1, depth=1), found(graph, h, 1, depth=2)
    assert (deep[1] - deep[0]).sum() < 0.9 * (shallow[1] - shallow[0]).sum()


def test_means_of_integers_are_none():
    """A mean without laws, as readers have it of integers, is not taken for one of numbers."""
    graph = growing(0, box=())
    h = until(lambda: graph.conv("x"))
    op = Slicewise("ReduceMean", ((0, 0), (1, 1)), ((2, 3), True, ()))
    mean = graph.add(op, [h], (*graph.shapes[h][:2], 1, 1), lambda v: v[h].mean((2, 3), True))
    assert np.isinf(found(graph, mean, 1)).all()


@pytest.mark.parametrize("auto", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
def test_windows_slide_as_onnx_says(auto):
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(60):
        n, k, stride, spacing = (int(i) for i in rng.integers(1, (9, 4, 4, 3)))
        pads = tuple(rng.integers(0, 3, 2).tolist()) if auto == "NOTSET" else None
        given = dict(strides=[stride], dilations=[spacing], auto_pad=auto)
        if pads:
            given["pads"] = list(pads)
        node = helper.make_node("Conv", ["x", "w"], ["y"], **given)
        ends = [
            helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in "xwy"
        ]
        model = helper.make_model(helper.make_graph([node], "g", ends[:2], ends[2:]))
        weight = np.arange(1.0, k + 1).reshape(1, 1, k)
        if (k - 1) * spacing + 1 > n + sum(pads or (0, 0)) and auto in ("NOTSET", "VALID"):
            continue
        if auto.startswith("SAME") and spacing > 1:
            continue  # the evaluator does not know them
        run = ReferenceEvaluator(model).run
        rows = [run(None, {"x": np.eye(n)[None, i : i + 1], "w": weight})[0] for i in range(n)]
        table = np.stack([row.ravel() for row in rows], axis=1)  # [windows, places]
        numbers = tuple(
            {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}.items()
        )
        numbers = tuple((key, v.encode() if isinstance(v, str) else v) for key, v in numbers)
        ways = slides((numbers,), [k], [n], [len(table)])
        assert ways is not None
        mine = np.zeros_like(table)
        for window in range(len(table)):
            for tap in range(k):
                place = window * ways[0].stride + tap * ways[0].spacing - ways[0].before
                if 0 <= place < n:
                    mine[window, place] += tap + 1
        np.testing.assert_array_equal(mine, table)
        assert slides((numbers,), [k], [n], [len(table) + 1]) is None
        seen += 1
    assert seen > 20


def test_what_is_said_of_windows_in_another_form_is_not_understood():
    graph = growing(1)
    h = until(lambda: graph.conv("x"))
    until(lambda: graph.conv(h))
    for detail in (
        ("conv",),
        ("conv", (("strides", 3),)),
        ("conv", 1, 2, 3),
        ("fold",),
    ):
        last = graph.nodes[-1]
        graph.nodes[-1] = replace(last, op=replace(last.op, detail=detail))
        plain = Known(graph.model, graph.ranges).of((last.output, 1))
        low, high = found(graph, last.output, 1)
        np.testing.assert_array_equal(low, plain.low)
        np.testing.assert_array_equal(high, plain.high)


@pytest.mark.parametrize("factor", [4, 41])
def test_torch_repeats_entries_for_powers_of_two_alone(factor):
    """In float32 it reads entry 0 for the last of 41 that are to repeat entry 1: its 1 / 41 is too small."""
    import torch
    from torch import nn

    import moduli as mo

    first, last = nn.Conv1d(1, 2, factor, stride=factor), nn.Conv1d(2, 1, 1)
    module = nn.Sequential(nn.Upsample(scale_factor=factor, mode="nearest"), first, nn.ReLU(), last)
    with torch.no_grad():
        first.weight.zero_()
        first.weight[0, 0, 0], first.weight[0, 0, -1], first.weight[1, 0, factor // 2] = 1, -1, 1
        first.bias.copy_(
            torch.tensor([-0.1, 0.3])
        )  # unit 0 is off where all that it reads is one entry
        last.weight.fill_(1.0)
    small = mo.compress(module.eval(), on=mo.Box(-1, 1), input_shape=(1, 2))
    x = torch.tensor([[[0.9, -0.9]]])
    assert torch.allclose(small.module(x), module(x))
    assert (small.network.parameters < small.original.parameters) == (factor == 4)
