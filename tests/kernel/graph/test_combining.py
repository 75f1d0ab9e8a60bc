"""Units between two layers that are sums of others: what goes, what it costs, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from moduli.compression.exact.reduce_graph import reduce_graph
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.certificate import GraphCertificate, GraphMove, played
from moduli.kernel.graph.combining import between
from moduli.kernel.graph.operators import Contract, Linear, Slicewise, Transpose
from moduli.kernel.graph.shapes import require_shapes

from ...support.graphs import Builder, run

RNG = np.random.default_rng(0)
ROWS = np.array(
    [[1, 2, 0], [0, 1, 1], [2, 0, -1], [1, 1, -1], [3, 3, 0]]
)  # the last is 1st + 2nd + ...
OUT = np.array([[1, 2, -1, 3, 1], [2, 1, 4, -2, 5]])
BIAS = np.array([1, -1, 2, 0.5, 1])


def two_layers(rows=ROWS, *, bias=None, added=None, between_them=None, readers=1, padded=False):
    b = Builder("n", 3)
    h = b.dense("x", "a", rows, bias)
    if added is not None:
        h = b.each("add", h, b.constant("s", added))
    if between_them:
        h = b.each(between_them, h)
    ends = []
    for k in range(readers):
        inputs = [h, b.constant(f"c{k}.w", OUT[:, : len(rows)] + k), b.constant(f"c{k}.b", [1, 2])]
        y = b.add(Linear(1, 1, 1, 0, padded=padded, free=((0, 0),)), inputs, ("n", 2))
        ends.append(b.each("relu", y))
    return b.model(*ends)


def searched(model, ranges=None):
    """What the search finds, whose certificate holds and whose outputs are within the slack."""
    require_shapes(model)
    found = reduce_graph(model, ranges=ranges or {}, budget=100)
    proof = GraphCertificate(
        model.digest, found.graph.digest, tuple(found.rounds), ranges or {}, found.slack
    )
    GraphCertificate.from_json(json.dumps(proof.to_json())).verify(found.graph, model)
    for reach in (1.0, 8.0):
        shape = [n if isinstance(n, int) else 50 for n in model.shapes["x"]]
        x = {"x": reach * RNG.uniform(-1, 1, shape)}
        for ours, theirs in zip(run(found.graph, x), run(model, x), strict=True):
            assert np.abs(ours - theirs).max() <= found.slack.within(reach) + 1e-12
    return found


def kinds(found):
    return [move.kind for moves in found.rounds for move in moves]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"bias": BIAS},
        {"added": BIAS},
        {"bias": BIAS, "added": BIAS[::-1]},
        {"readers": 2},
        {"padded": True},
    ],
)
def test_as_many_stay_as_the_rank_says(how):
    rows = RNG.normal(size=(5, 3))
    found = searched(two_layers(rows, **how))
    assert kinds(found) in (["combine"], ["bypass", "combine"])
    left = found.graph.constants["a.w"].shape[0]
    biases = sum(x in found.graph.constants for x in ("a.b", "s"))
    assert left == 3 + min(biases, 1) or left == 3 + biases
    assert found.slack.within(1.0) < 1e-5


def test_weights_that_are_stored_the_other_way_round():
    b = Builder("n", 4)
    w = b.add(Transpose((1, 0)), [b.constant("a", RNG.normal(size=(4, 9)))], (9, 4))
    h = b.add(Linear(1, 1, 1, 0, free=((0, 0),)), ["x", w], ("n", 9))
    v = b.add(Transpose((1, 0)), [b.constant("c", RNG.normal(size=(9, 6)))], (6, 9))
    y = b.add(Linear(1, 1, 1, 0, free=((0, 0),)), [h, v], ("n", 6))
    found = searched(b.model(b.each("relu", y)).live())
    assert kinds(found) == ["combine"]
    assert found.graph.constants["a"].shape == (4, 4)
    assert found.graph.constants["c"].shape == (4, 6)


def test_what_is_in_between_keeps_all():
    for how in ({"between_them": "relu"}, {"between_them": "neg"}):
        found = searched(two_layers(RNG.normal(size=(5, 3)), **how))
        assert "combine" not in kinds(found)
    model = two_layers(RNG.normal(size=(5, 3)))
    for wrong in (replace(model, outputs=(*model.outputs, "t0")),):
        assert between(wrong, "t0") is None
    assert between(model, "t0").value == "t0"
    assert between(model, "x") is None


def test_units_that_others_read_or_write_stay():
    def model(kind):
        b = Builder("n", 3)
        h = b.dense("x", "a", RNG.normal(size=(5, 3)))
        y = b.dense(h, "c", OUT)
        if kind == "shared rows":
            z = b.add(Linear(1, 1, 1, 0, free=((0, 0),)), ["x", "a.w"], ("n", 5))
            return b.model(y, b.dense(b.each("tanh", z), "d", OUT))
        if kind == "shared bias":
            s = b.constant("s", BIAS)
            z = b.each("tanh", b.each("add", b.dense("x", "e", RNG.normal(size=(5, 3))), s))
            return b.model(b.dense(b.each("add", h, s), "d", OUT), b.dense(z, "f", OUT))
        if kind == "mixed":
            z = b.add(Slicewise("softmax", ((0, 0),)), [h], ("n", 5))
            return b.model(y, b.dense(z, "d", OUT))
        return b.model(y, b.dense(b.each("mul", h, h), "d", OUT))

    for kind in ("shared rows", "shared bias", "mixed", "squared"):
        assert "combine" not in kinds(searched(model(kind)))
        found = between(model(kind), "t0")
        if found is not None:
            move = GraphMove("combine", "t0", 0, (4,), (0, 1, 2), (1.0, 1.0, 1.0))
            with pytest.raises(CertificateRejected):
                played(model(kind).live(), [move], {})


def combine(units, into, *coefficients):
    return GraphMove("combine", "t0", 0, units, into, coefficients)


def test_wrong_coefficients_cost_what_they_are_wrong_by():
    model = two_layers(np.vstack([ROWS[:4], ROWS[0] + ROWS[1]])).live()
    exact, near = played(model, [combine((4,), (0, 1), 1.0, 1.0)], {})
    assert near.growth < 1e-10
    assert exact.constants["c0.w"][:, 0].tolist() == [2, 7]
    x = {"x": RNG.uniform(-1, 1, (50, 3))}
    for first, second in ((1.0, 0.5), (0.0, 0.0), (-3.0, 1.0)):
        small, slack = played(model, [combine((4,), (0, 1), first, second)], {})
        (ours,), (theirs,) = run(small, x), run(model, x)
        assert 0 < np.abs(ours - theirs).max() <= slack.within(1.0)
        proof = GraphCertificate(
            model.digest, small.digest, ((combine((4,), (0, 1), first, second),),), {}, near
        )
        with pytest.raises(CertificateRejected, match="what was rounded accounts for"):
            proof.verify(small, model)


@pytest.mark.parametrize(
    "move",
    [
        combine((), ()), combine((4,), (4,), 1.0), combine((5,), (0,), 1.0), combine((4, 4), (0,), 1.0, 1.0),
        combine((4,), (0, 1), 1.0), combine((4,), (0, 0), 1.0, 1.0), combine((0, 1, 2, 3, 4), ()),
        combine((4,), (0,), np.inf), combine((4,), (0,), np.nan), combine((-1,), (0,), 1.0),
        GraphMove("combine", "t1", 0, (4,), (0,), (1.0,)), GraphMove("combine", "x", 0, (1,), (0,), (1.0,)),
        GraphMove("combine", "nowhere", 0, (1,), (0,), (1.0,)),
    ],
)  # fmt: skip
def test_what_is_no_combination_is_refused(move):
    with pytest.raises(CertificateRejected):
        played(two_layers().live(), [move], {})


def test_it_is_alone_in_its_round():
    model = two_layers().live()
    move = combine((4,), (0, 1, 2), 1.0, 1.0, 1.0)
    played(model, [move], {})
    with pytest.raises(CertificateRejected, match="alone in its round"):
        played(model, [move, GraphMove("remove", "a.w", 0, (0,), (-1,))], {})


def test_on_a_box_nothing_grows():
    found = searched(two_layers(RNG.normal(size=(5, 3))), {"x": (np.array(-8.0), np.array(8.0))})
    assert kinds(found) == ["combine"]
    assert found.slack.growth == 0


SUMS = np.array([[1, 2], [3, -1], [4, 1]])  # the last is the sum of the others


def shared(kind):
    """Graphs in which something else reads what two layers store."""
    b = Builder("n", 2)
    y = b.dense("x", "a", SUMS)
    plain = Linear(1, 1, 1, 0, free=((0, 0),))
    if kind == "tied, turned":
        turned = b.add(Transpose((1, 0)), ["a.w"], (2, 3))
        return b.model(b.add(plain, [y, turned], ("n", 2)))
    if kind == "tied":
        return b.model(b.add(Linear(1, 1, 0, 1, free=((0, 0),)), [y, "a.w"], ("n", 2)))
    if kind == "a bias that is weights":
        s = b.each("add", y, b.constant("s", [[1, 2, 3]]))
        return b.model(b.add(plain, [s, "s"], ("n", 1)))
    z = b.dense(y, "c", [[1, 2, 3], [4, 5, 6]])
    if kind == "weights of stored numbers":
        u = b.add(plain, [b.constant("k", [[5, 7, 1000]]), "c.w"], (1, 2))
    elif kind == "numbers of other weights":
        u = b.add(
            Linear(0, 0, 1, 0, free=((1, 1),)), ["a.w", b.constant("k", [[5, 7, 1000]])], (1, 2)
        )
    else:
        u = b.add(Contract(), [b.constant("k", [[5, 7, 1000]]), "a.w"], (1, 2))
    return b.model(b.each("add", z, u))


@pytest.mark.parametrize(
    "kind",
    [
        "tied, turned", "tied", "a bias that is weights", "weights of stored numbers",
        "numbers of other weights", "a factor",
    ],
)  # fmt: skip
def test_what_layers_share_with_others_stays(kind):
    model = shared(kind).live()
    require_shapes(model)
    with pytest.raises(CertificateRejected):
        played(model, [GraphMove("combine", "t0", 0, (2,), (0, 1), (1.0, 1.0))], {})
    assert "combine" not in kinds(searched(model))


def test_a_bias_that_is_made_of_others_keeps_all():
    b = Builder("n", 2)
    bias = b.each("identity", b.constant("s", [1, 2, 3]))
    y = b.add(Linear(1, 1, 1, 0, free=((0, 0),)), ["x", b.constant("a", SUMS), bias], ("n", 3))
    model = b.model(b.dense(y, "c", [[1, 2, 3], [4, 5, 6]])).live()
    assert between(model, y) is None
    searched(model)


@pytest.mark.parametrize("numbers", [[[1, 1]], [10**19 + 1], ["1"], [True], [None], [float("inf")]])
def test_coefficients_are_read_strictly(numbers):
    data = {"move": "combine", "tensor": "t0", "units": [2], "into": [0], "coefficients": numbers}
    with pytest.raises(CertificateRejected):
        GraphMove.of(data)
