"""The second checker and the kernel on moves of graphs: orders, scales, cuts along axes, sums of units, and units that
are taken for numbers. Whatever one of them plays the other plays alike, or says that it does not understand.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import moduli_check as second
import numpy as np
import pytest
from graphs import Builder, run
from onnx import numpy_helper, parser
from second_graphs import judged_graph, read_graph

import moduli as mo
from moduli.compression.exact.reduce_graph import reduce_graph
from moduli.equivalence.graph_scales import gauges
from moduli.equivalence.graph_units import UnitSets, move_to
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.certificate import GraphCertificate, GraphMove, played
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import (
    Concat,
    Contract,
    Linear,
    PerUnit,
    Reshape,
    Slicewise,
    Take,
    Transpose,
)
from moduli.kernel.slack import NO_SLACK, Slack


class Case(NamedTuple):
    """A graph, rounds of moves, and bounds of its inputs."""

    model: GraphModel
    rounds: Sequence[Sequence[GraphMove]]
    ranges: dict[str, Any]


def attention(rng: np.random.Generator) -> GraphModel:
    """Two heads of three coordinates on a stream, with a layer norm in front."""
    b = Builder("n", 4, 5)
    width = (b.constant("g", rng.normal(size=5)), b.constant("s", rng.normal(size=5)))
    norm = Slicewise("layer_norm", ((0, 0), (1, 1)), normalises=1e-5)
    stream = b.dense("x", "in", rng.normal(size=(5, 5)), rng.normal(size=5))
    h, parts = b.add(norm, (stream, *width), ("n", 4, 5)), {}
    for name in "qkv":
        made = b.dense(h, name, rng.normal(size=(6, 5)), rng.normal(size=6))
        split = Reshape((((2,), (2, 3)),), (None, 4, 2, 3), ((0, 0), (1, 1)))
        made = b.add(split, [made], ("n", 4, 2, 3), f"{name}s")
        order, shape = (
            ((0, 2, 3, 1), ("n", 2, 3, 4)) if name == "k" else ((0, 2, 1, 3), ("n", 2, 4, 3))
        )
        parts[name] = b.add(Transpose(order), [made], shape)
    scores = b.add(Contract(), [parts["q"], parts["k"]], ("n", 2, 4, 4))
    p = b.add(Slicewise("softmax", ((0, 0), (1, 1), (2, 2))), [scores], ("n", 2, 4, 4))
    o = b.add(Contract(), [p, parts["v"]], ("n", 2, 4, 3))
    o = b.add(Transpose((0, 2, 1, 3)), [o], ("n", 4, 2, 3))
    o = b.add(Reshape((((2, 3), (2,)),), (None, 4, 6), ((0, 0), (1, 1))), [o], ("n", 4, 6))
    total = b.each("add", stream, b.dense(o, "o", rng.normal(size=(5, 6))))
    return b.model(b.dense(total, "out", rng.normal(size=(2, 5))))


def gated(rng: np.random.Generator) -> GraphModel:
    """Batch norms, gates, groups, parts joined and chosen, several functions of entries."""
    b = Builder("n", 4)
    a = b.dense("x", "a", rng.normal(size=(6, 4)), rng.normal(size=6))
    names = [b.constant(k, rng.uniform(0.5, 2, 6)) for k in ("scale", "shift", "mean", "variance")]
    a = b.add(PerUnit("batchnorm", 1, (0.25,)), (a, *names), ("n", 6))
    gate = b.each("sigmoid", b.dense("x", "gate", rng.normal(size=(6, 4))))
    h = b.each("mul", b.each("relu", a), gate)
    groups = Linear(1, 1, 1, 0, groups=2, free=((0, 0),))
    w, bias = b.constant("c.w", rng.normal(size=(4, 3))), b.constant("c.b", rng.normal(size=4))
    h = b.each("tanh", b.add(groups, (h, w, bias), ("n", 4)))
    odd = b.each("abs", b.dense("x", "d", rng.normal(size=(3, 4))))
    h = b.add(Concat(1), (h, odd), ("n", 7))
    h = b.add(Take(1, (6, 5, 4, 0, 1, 2, 3, 0)), (h,), ("n", 8))
    return b.model(b.dense(h, "out", rng.normal(size=(2, 8)), [0.0, 1.0]))


def symmetric(model: GraphModel, rng: np.random.Generator, rounded: bool) -> Case:
    """Scales of all units, then orders."""
    found = UnitSets.of(model)
    draws = {True: lambda n: rng.uniform(0.5, 2, n), False: lambda n: 2.0 ** rng.integers(-2, 3, n)}
    scales = found.rounds(
        (x.part, x.move(rng.choice([-1.0, 1.0], x.free) if x.sign else draws[rounded](x.free)))
        for x in gauges(found)
    )
    orders = found.rounds(
        (part, move_to(part, rng.permutation(part.members))) for part in found.sets
    )
    return Case(model, [*scales, *orders], {})


def two_layers(rng: np.random.Generator, added: bool, readers: int) -> GraphModel:
    """Five units, of which the last two are sums of the others."""
    rows, bias = rng.integers(-3, 4, (5, 3)).astype(float), rng.integers(-3, 4, 5).astype(float)
    for part in (rows, bias):
        part[3], part[4] = part[0] + part[1] / 2, part[1] - part[2]
    b = Builder("n", 3)
    h = b.dense("x", "a", rows, None if added else bias)
    h = b.each("add", h, b.constant("s", bias)) if added else h
    ends = [b.dense(h, f"c{k}", rng.normal(size=(2, 5)), [1.0, 2.0]) for k in range(readers)]
    return b.model(*[b.each("relu", y) for y in ends])


def nearly(rng: np.random.Generator, kind: str) -> GraphModel:
    """Units with small rows, in front of two layers."""
    b = Builder("n", 3)
    rows = rng.normal(size=(5, 3)) * np.array([[1e-3], [1e-2], [1.0], [0.1], [1.0]])
    h = b.each(kind, b.dense("x", "a", rows, rng.normal(size=5)))
    ends = [b.dense(h, f"c{k}", rng.normal(size=(2, 5)), [0.5, 1.0]) for k in range(2)]
    return b.model(b.each("tanh", ends[0]), ends[1])


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    """Certificates that hold, by name."""
    rng = np.random.default_rng(seed)
    for make in (attention, gated):
        for rounded in (False, True):
            name = f"{make.__name__}, rounded" if rounded else make.__name__
            yield name, symmetric(make(rng), rng, rounded)
    for k, ranges in enumerate(({}, {"x": (np.array(-1.0), np.array([1.0, 2.0, 0.5]))})):
        model = two_layers(rng, bool(k), 1 + k)
        for sums in ((1.0, 0.5, 0.0, 0.0, 1.0, -1.0), tuple(rng.normal(size=6).tolist())):
            move = GraphMove("combine", model.nodes[0].output, 0, (3, 4), (0, 1, 2), sums)
            yield "combine", Case(model, [[move]], ranges)
    for kind in ("tanh", "relu", "abs"):
        model = nearly(rng, kind)
        units = sorted(rng.choice(5, 2, replace=False).tolist())
        values = tuple(
            (node.output, i, float(np.round(rng.normal(), 2)))
            for node in model.nodes if isinstance(node.op, Linear) and node.inputs[0] != "x"
            for i in units
        )  # fmt: skip
        ranges = {"x": (np.array([-1.0, -1.0, 0.0]), np.array(1.0))}
        move = GraphMove("remove", "a.w", 0, tuple(units), (-1, -1), values=values)
        yield "values", Case(model, [[move]], ranges)


# Both at once ---------------------------------------------------------------------------------------------------


def require_agreement(case: Case, data: Sequence[Sequence[Any]]) -> str:
    """Both play rounds, as JSON has them, to the end, or stop; what the second says."""
    left, slack, kernel = case.model.live(), NO_SLACK, "accepted"
    try:
        for moves in data:
            left, more = played(left, list(map(GraphMove.of, moves)), case.ranges)
            slack += more
    except CertificateRejected as error:
        kernel = f"rejected: {error}"
    graph, total = read_graph(case.model).live(), (Fraction(0), Fraction(0))
    bounds = json.loads(json.dumps({k: [x.tolist() for x in v] for k, v in case.ranges.items()}))
    ends = {name: second.ends_of_input(pair) for name, pair in bounds.items()}
    try:
        for moves in data:
            graph, gap = second.play(graph, list(map(second.graph_move_of, moves)), ends)
            total = total[0] + gap[0], total[1] + gap[1]
    except second.NotUnderstood:
        return "undecided"
    except second.Rejected as error:
        said = f"rejected: {error}"
    else:
        said = "accepted"
    assert said.split(":")[0] == kernel.split(":")[0], (said, kernel, data)
    if said != "accepted":
        return "rejected"
    assert graph.digest == left.digest, data
    require_within(case, left, total)
    return "accepted" if total[0] <= slack.constant and total[1] <= slack.growth else "larger"


def require_within(case: Case, small: GraphModel, total: Any) -> None:
    """What the second checker says of outputs holds at points."""
    rng = np.random.default_rng(0)
    low, high = case.ranges.get("x", (-4.0, 4.0))
    shape = [n if isinstance(n, int) else 20 for n in case.model.shapes["x"]]
    x = rng.uniform(np.broadcast_to(low, shape), np.broadcast_to(high, shape))
    bound = float(total[0]) + float(total[1]) * np.abs(x).max()
    for ours, theirs in zip(run(small, {"x": x}), run(case.model, {"x": x}), strict=True):
        size = 1 + np.abs(theirs).max()
        assert np.abs(ours - theirs).max() <= bound + 1e-9 * size


def plain(case: Case) -> list[Any]:
    found: list[Any] = json.loads(json.dumps([[m.plain() for m in moves] for moves in case.rounds]))
    return found


@pytest.mark.parametrize("seed", range(2))
def test_certificates_that_hold(seed):
    counts = Counter((name, require_agreement(case, plain(case))) for name, case in cases(seed))
    # rounding is bounded through no norm and no product
    unknown = {("attention, rounded", "undecided"), ("gated, rounded", "undecided")}
    assert {key for key in counts if key[1] != "accepted"} == unknown
    assert counts["values", "accepted"] == 3
    assert counts["combine", "accepted"] == 4


def test_the_claim_counts_as_well():
    """Through a certificate: its slack, and the graph that it ends with."""
    case = next(case for name, case in cases(3) if name == "combine" and case.ranges)
    small, slack = played(case.model, case.rounds[0], case.ranges)
    rounds = tuple(map(tuple, case.rounds))
    claim = GraphCertificate(case.model.digest, small.digest, rounds, case.ranges, slack)
    assert judged_graph(claim, small, case.model).startswith("accepted")
    less = GraphCertificate(
        claim.large, claim.small, rounds, case.ranges, Slack(slack.constant / 8, 0.0)
    )
    assert judged_graph(less, small, case.model).startswith("undecided")
    other = GraphCertificate(claim.large, claim.large, rounds, case.ranges, slack)
    assert judged_graph(other, case.model, case.model).startswith("rejected")


@pytest.mark.parametrize(("rows", "verdict"), [((0, 1, 2), "accepted"), ((1,), "undecided")])
def test_what_is_multiplied_by_zero_behind_a_layer(rows, verdict):
    """A constant unit of which nothing but a row is read that is multiplied by zero goes, and adds nothing."""
    b = Builder("n", 2)
    weight = [[1, 2], [3, -1], [2, 3], [0, 0]]
    second = np.array([[1, 2, 3, 0], [4, 5, 6, 0], [2, 1, 5, 0]])
    second[list(rows), 3] = 2
    y = b.dense(b.each("relu", b.dense("x", "a", weight, [1, 0, 0, 1])), "c", second, [0, 1, 2])
    model = b.model(b.each("mul", y, b.constant("s", [1, 0, 2])))
    found = reduce_graph(model, ranges={}, budget=50)
    rounds = tuple(map(tuple, found.rounds))
    assert len(found.graph.constants["a.w"]) == 3
    claim = GraphCertificate(model.digest, found.graph.digest, rounds, {}, found.slack)
    claim.verify(found.graph, model)
    assert judged_graph(claim, found.graph, model).startswith(verdict)


@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
def test_values_that_the_search_writes(kind):
    """Units that are nearly constant between bounds go within a tolerance, and both checkers say so."""
    model = nearly(np.random.default_rng(5), kind)
    ranges = {"x": (np.array(-1.0), np.array(1.0))}
    found = reduce_graph(model, ranges=ranges, budget=50, eps=0.1)
    rounds = tuple(map(tuple, found.rounds))
    written = [value for moves in rounds for move in moves for value in move.values]
    assert written
    claim = GraphCertificate(model.digest, found.graph.digest, rounds, ranges, found.slack)
    claim.verify(found.graph, model)
    assert judged_graph(claim, found.graph, model).startswith("accepted")
    data = json.loads(json.dumps(claim.to_json()))
    for wrong in (9.0, -9.0):
        changed = json.loads(json.dumps(data))
        move = next(m for m in changed["rounds"][-1] if m["values"])
        move["values"][0][2] = wrong
        forged = GraphCertificate.from_json(json.dumps(changed))
        with pytest.raises(CertificateRejected):
            forged.verify(found.graph, model)
        assert judged_graph(forged, found.graph, model).startswith("rejected")


HEADS = """<ir_version: 8, opset_import: ["": 17]> g (float[2,4,6] x) => (float[2,3] y)
<int64[4] split = {2, 4, 2, 3}, int64[3] back = {0, 4, 6}, float r = {2.0}> {
a = MatMul(x, a_w)
h = LayerNormalization<axis = -1, epsilon = 0.001>(a, s, s)
q0 = MatMul(h, q_w)
q1 = Reshape<allowzero = 0>(q0, split)
q = Transpose<perm = [0,2,1,3]>(q1)
k0 = MatMul(h, k_w)
k1 = Reshape(k0, split)
k = Transpose<perm = [0,2,3,1]>(k1)
z0 = MatMul(q, k)
z = Div(z0, r)
p = Softmax<axis = -1>(z)
o0 = MatMul(p, q)
o1 = Transpose<perm = [0,2,1,3]>(o0)
o2 = Reshape(o1, back)
o = Add(o2, a)
m = ReduceMean<axes = [1], keepdims = 0>(o)
y = MatMul(m, y_w) }"""
GROUPS = """<ir_version: 8, opset_import: ["": 17]> g (float[1,4,5,5] x) => (float[1,2,1,1] y) {
c = Conv(x, c_w)
r = Relu(c)
d = Conv<group = 2>(r, d_w, d_b)
t = Tanh(d)
m = ReduceMean<axes = [2,3]>(t)
y = Conv(m, e_w) }"""
STORED = {
    HEADS: {"a_w": (6, 6), "q_w": (6, 6), "k_w": (6, 6), "y_w": (6, 3), "s": (6,)},
    GROUPS: {"c_w": (4, 4, 3, 3), "d_w": (6, 2, 1, 1), "d_b": (6,), "e_w": (2, 6, 1, 1)},
}


@pytest.mark.parametrize("text", [HEADS, GROUPS])
def test_files_of_graphs_whose_units_trade_places(text, tmp_path):
    """From files, by the command line: a graph, and the same with units in other places and multiplied."""
    rng = np.random.default_rng(9)
    model = parser.parse_model(text)
    for name, shape in STORED[text].items():
        array = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    (tmp_path / "first.onnx").write_bytes(model.SerializeToString())
    first = mo.load(tmp_path / "first.onnx")
    element = mo.symmetries(first).random(1)
    twin = element(first)
    mo.save(twin, tmp_path / "twin.onnx")
    claim = GraphCertificate(first.digest, twin.digest, element.rounds, {})
    kinds = {move.kind for moves in claim.rounds for move in moves}
    assert {"scale", "order"} <= kinds
    assert ("unroll" in kinds) == (text == HEADS)
    (tmp_path / "proof.json").write_text(json.dumps(claim.to_json()))
    proof, *files = [str(tmp_path / name) for name in ("proof.json", "twin.onnx", "first.onnx")]
    assert second.main([proof, *files]) == 0
    assert second.main([proof, *files[::-1]]) == 1


# Mutants --------------------------------------------------------------------------------------------------------


def mutant(rounds: list[Any], names: Sequence[str], draw: random.Random) -> list[Any]:
    """Rounds of moves of which a few things are others."""
    data = json.loads(json.dumps(rounds))
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        data = [moves for moves in data if moves]
        if not data:
            break
        moves = draw.choice(data)
        k = draw.randrange(len(moves))
        _change(moves, k, names, draw)
        if draw.random() < 0.1 and moves:
            draw.choice(data).append(moves.pop(draw.randrange(len(moves))))
        if draw.random() < 0.1:
            draw.shuffle(data)
    return [moves for moves in data if moves]


def _change(moves: list[Any], k: int, names: Sequence[str], draw: random.Random) -> None:
    move = moves[k]
    lists = [
        field for field in ("units", "into", "coefficients", "powers", "values") if move.get(field)
    ]
    field = draw.choice(["move", "move", "tensor", "axis", *lists, *lists])
    if field == "move":
        moves[k : k + 1] = [] if draw.random() < 0.5 else [move, move]
    elif field == "tensor":
        move["tensor"] = draw.choice(names)
    elif field == "axis":
        if "axis" in move:
            move["axis"] = draw.randrange(4)
    else:
        listed = move[field]
        i, j = draw.randrange(len(listed)), draw.randrange(len(listed))
        if field in ("units", "into"):
            listed[i] = draw.choice([listed[j], draw.randrange(7), draw.randrange(7)])
        elif field == "coefficients":
            listed[i] *= draw.choice([-1.0, 2.0, 0.5, 0.0, 1 + 2.0**-30, 3.0])
        elif draw.random() < 0.3:
            listed.pop(i)
        elif draw.random() < 0.3:
            listed.append([draw.choice(names), draw.randrange(3), draw.choice([1, -1, 2])])
        else:
            listed[i][draw.choice([1, 2, 2])] = draw.choice([0, 1, 2, 3, -1])


def agreement_on_mutants(count: int, seeds: Sequence[int]) -> Counter[str]:
    """Of so many mutants of each certificate."""
    draw, found = random.Random(seeds[0]), Counter[str]()
    for seed in seeds:
        for _, case in cases(seed):
            rounds, names = plain(case), sorted(case.model.shapes)
            for _ in range(count):
                found[require_agreement(case, mutant(rounds, names, draw))] += 1
    return found


def test_mutants_of_moves():
    found = agreement_on_mutants(12, [0])
    assert found["rejected"] >= 30
    assert found["accepted"] >= 20
    assert found["undecided"] <= 40


@pytest.mark.slow
def test_more_mutants_of_moves():
    found = agreement_on_mutants(40, [1, 2, 3])
    assert found["rejected"] >= 400
    assert found["accepted"] >= 300
    assert found["undecided"] <= 400
