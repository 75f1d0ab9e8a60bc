"""The kernel of proximate rank: comparisons, boxes and free groups against brute force; forged
bounds are refused.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from balls import keys, random_ball

import moduli as mo
from moduli.compression.radius import column_generation, guides, set_cover
from moduli.compression.radius.guides import guided
from moduli.kernel.certificate import ball
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.radius.compatibility import (
    CompatibilityGraph,
    DualWeights,
    Effort,
    ParameterBall,
    listed,
    maximal_boxes,
)
from moduli.kernel.radius.cover_bound import (
    Bound,
    Branch,
    IndependentParts,
    Near,
    ReducedCostFilter,
)


def test_any_multipliers_list_the_same_columns_and_odd_ones_are_refused():
    rng = np.random.default_rng(22)
    for _ in range(40):
        b = random_ball(rng, 8)
        leaf = DualWeights({int(u): 2 for u in b.required}, dict.fromkeys(range(b.size), 1), (), 3)
        rows = rng.exponential(size=(b.size, 2, 2 * b.outgoing.shape[1])) * 10.0 ** rng.integers(
            -300, 300, (b.size, 2, 1)
        )
        made = tuple((unit, tuple(map(tuple, row))) for unit, row in enumerate(rows.tolist()))
        plain, other = (
            listed(b, b.required, 10**6, 10**6, (one, 1))[1]
            for one in (leaf, replace(leaf, guides=made))
        )
        assert keys(plain) == keys(other)
    for wrong in (-1.0, float("inf"), float("nan"), "1", True, None):
        odd = ((0, ((wrong,), (0.0,))),)
        data = {"weights": [], "prices": [], "odd": [], "scale": 1, "guides": odd}
        with pytest.raises(CertificateRejected, match="multiplier"):
            Bound.from_json({"lower": 0, "parts": [[[0], data]]})
    b = ParameterBall(np.ones((3, 2)), np.ones((3, 1)), 0.5)
    for shape in ((), ((0.0,) * 5,) * 2, ((0.0, 0.0),)):
        rows = tuple(b.required.tolist())
        with pytest.raises(CertificateRejected, match="two rows of"):
            Bound(
                0, ((rows, DualWeights(dict.fromkeys(rows, 1), {}, (), 1, ((rows[0], shape),))),)
            ).verify(b)


HOST = ParameterBall(
    np.array([[1.0, 0.0]] * 3), np.array([[0.85], [-0.15], [-0.15]]), 0.25, signed=False
)  # together the three may vanish: unit 0 needs no unit of its own


@pytest.mark.parametrize(
    "row", [(5e-324, 0.0), (1e-323, 5e-324), (2.0**-1060, 0.0), (1.7e308, 1.7e308), (1e308, 0.0)]
)
def test_multipliers_whose_products_underflow_or_overflow_hide_no_free_group(row):
    """A product below the subnormal numbers is off by more than any share of itself."""
    for rows in ((row, (0.0, 0.0)), ((0.0, 0.0), row), (row, row), (row[::-1], row)):
        leaf = DualWeights({0: 1}, {}, (), 1, ((0, rows),))
        with pytest.raises(CertificateRejected, match="weighs more than its price"):
            Bound(1, (((0,), leaf),)).verify(HOST)


def test_multipliers_of_any_size_hide_no_free_group():
    rng = np.random.default_rng(23)
    seen = 0
    for _ in range(300):
        b = ParameterBall(
            np.tile([1.0, 0.0], (6, 1)),
            rng.normal(size=(6, 1)) * 2.0 ** rng.integers(-600, 400),
            0.0,
        )
        b = replace(b, radius=float(np.median(np.abs(b.outgoing))) / 2)
        leaf = DualWeights({int(u): 2 for u in b.required}, dict.fromkeys(range(b.size), 1), (), 3)
        sizes = np.ldexp(rng.random((b.size, 2, 2)), rng.integers(-1074, 1024, (b.size, 2, 2)))
        made = tuple((unit, tuple(map(tuple, row))) for unit, row in enumerate(sizes.tolist()))
        plain, other = (
            listed(b, b.required, 10**6, 10**6, (one, 1))[1]
            for one in (leaf, replace(leaf, guides=made))
        )
        assert keys(plain) == keys(other)
        seen += plain.shape[0]
    assert seen > 100


def test_a_bound_is_checked_for_the_rows_of_a_ball_whatever_else_it_holds():
    """A graph without pairs and no unit that could be free, handed over with the rows."""
    none = np.zeros(4, dtype=np.intp), np.zeros(0, dtype=np.intp), np.zeros(0)

    class Forged(ParameterBall):
        graph = CompatibilityGraph(*none)
        freeable = np.zeros(3, dtype=bool)

    forged = Forged(HOST.rows, HOST.outgoing, HOST.radius, HOST.signed)
    assert not len(forged.graph.other)
    with pytest.raises(CertificateRejected, match="weighs more than its price"):
        Bound(1, (((0,), DualWeights({0: 1}, {}, (), 1)),)).verify(forged)


def test_a_leaf_or_sieve_on_top_is_checked_against_all_columns(monkeypatch):
    """Optimal weights hold; one unit more of weight, or less of price, and the kernel finds the
    column that weighs too much.
    """
    monkeypatch.setattr(guides, "CROWD", 0)
    rng = np.random.default_rng(21)
    refused = 0
    for _ in range(80):
        b = random_ball(rng, 7, 1)
        rows = b.required
        if not len(rows):
            continue
        boxes, free, _ = listed(b, rows, 10**6, 10**6)
        weights = {int(u): int(w) for u, w in zip(rows, rng.integers(0, 4, len(rows)), strict=True)}
        prices = {u: int(w) for u, w in enumerate(rng.integers(0, 4, b.size))}
        scale = 6
        holds = all(sum(weights[u] for u in g.units) <= scale for g in boxes) and all(
            sum(weights.get(u, 0) - prices[u] for u, _ in g) <= 0 for g in keys(free)
        )
        leaf = DualWeights(weights, prices, (), scale)
        for target, tree in ((0, leaf), (1, ReducedCostFilter(leaf, 1, leaf))):
            lower = min(max(0, -(-leaf.total // scale)), target or 99)
            if holds:
                guided(b, Bound(lower, ((tuple(rows.tolist()), tree),)), 10**4).verify(b)
            else:
                refused += 1
                with pytest.raises(CertificateRejected, match="weighs"):
                    Bound(0, ((tuple(rows.tolist()), tree),)).verify(b)
    assert 20 < refused < 140


@pytest.mark.parametrize(
    "leaf",
    [
        DualWeights({0: -1, 1: 2}, {}, (), 1), DualWeights({0: 1}, {1: -1}, (), 1),
        DualWeights({7: 1}, {}, (), 1), DualWeights({0: 1}, {7: 1}, (), 1),
        DualWeights({0: 1}, {}, (), 0), DualWeights({0: 2**62}, {}, (), 2**61), DualWeights({0: 1}, {}, (((0, 1, 2), -1),), 1),
    ],
)  # fmt: skip
def test_leaves_that_make_no_sense_are_refused(leaf):
    b = planar(PENTAGON)
    for tree in (leaf, ReducedCostFilter(leaf, 2, DualWeights({0: 1}, {}, (), 1))):
        with pytest.raises(CertificateRejected):
            Bound(0, (((0, 1, 2, 3, 4), tree),)).verify(b)


def test_pricing_agrees_with_listing():
    """The same bounds where only columns that matter are listed, and certificates that hold."""
    rng = np.random.default_rng(22)
    closed = 0
    for _ in range(12):
        b = random_ball(rng, 18)
        rows = np.array(b.required)
        if not len(rows):
            continue
        boxes, free, _ = listed(b, rows, 10**6, 10**6)
        whole = set_cover.solve(column_generation.cover_instance(b, boxes, free, rows), 10_000)
        found = column_generation.solve(b, rows, 10_000, Effort(10**8))
        Bound(found.lower, ((tuple(found.rows.tolist()), found.tree),)).verify(b)
        assert found.lower <= whole.upper
        assert whole.lower <= sum(c < len(found.boxes) for c in found.chosen)
        closed += found.lower == whole.lower == whole.upper
    assert closed > 8


def certified(seed=4, h=12):
    """A network whose bound is a tree that matters, and its certificate."""
    rng = np.random.default_rng(seed)
    net = mo.Network.mlp(
        rng.integers(-8, 9, (h, 1)) / 4.0,
        rng.integers(-8, 9, h) / 4.0,
        rng.integers(1, 9, (2, h)) / 2.0,
        [0.0, 0.0],
    )
    small = mo.compress(net, radius=0.375)
    assert small.optimal
    assert 1 < small.network.units < h
    return net, small


def test_certificates_survive_json():
    net, small = certified()
    text = json.dumps(small.certificate.to_json())
    again = mo.Certificate.from_json(text)
    assert again.to_json() == small.certificate.to_json()
    assert mo.check(again, small.network, net).status == "proved"


def forged(small, change):
    data = json.loads(json.dumps(small.certificate.to_json()))
    change(data)
    return data


def move_beyond(data):
    change = data["near"]["changes"][0]
    change["to"][0] = change["to"][0] + 1.0


def smaller_radius(data):
    data["near"]["radius"] /= 1.5


def higher_bound(data):
    data["near"]["bound"]["lower"] += 1


def dropped_part(data):
    data["near"]["bound"]["parts"] = data["near"]["bound"]["parts"][1:]


def no_bound(data):
    data["near"]["bound"] = None


def heavier_weights(data):
    def visit(tree):
        if "weights" in tree:
            tree["weights"] = [[u, 3 * w] for u, w in tree["weights"]]
        for key in ("rest", "inside", "outside", "leaf"):
            if key in tree:
                visit(tree[key])
        for _, sub in tree.get("sum", []):
            visit(sub)

    for _, tree in data["near"]["bound"]["parts"]:
        visit(tree)


def twice_the_same(data):
    data["near"]["bound"]["parts"] *= 2


@pytest.mark.parametrize(
    "change",
    [
        move_beyond,
        smaller_radius,
        higher_bound,
        dropped_part,
        no_bound,
        heavier_weights,
        twice_the_same,
    ],
)
def test_tampering_is_refused(change):
    net, small = certified()
    with pytest.raises(mo.CertificateRejected):
        mo.check(mo.Certificate.from_json(json.dumps(forged(small, change))), small.network, net)


LEAF = {"weights": [], "prices": [], "odd": [], "scale": 1}


@pytest.mark.parametrize(
    "near",
    [
        {"radius": -1.0, "changes": [], "bound": None},
        {"radius": float("nan"), "changes": [], "bound": None},
        {"radius": 0.1, "changes": [{"layer": 1, "part": "weight", "at": [0], "to": ["1/0"]}], "bound": None},
        {"radius": 0.1, "changes": [{"layer": 9, "part": "weight", "at": [0], "to": [0.0]}], "bound": None},
        {"radius": 0.1, "changes": [{"layer": 1, "part": "slope", "at": [0], "to": [0.0]}], "bound": None},
        {"radius": 0.1, "changes": [{"layer": 1, "part": "weight", "at": [10**9], "to": [0.0]}], "bound": None},
        {"radius": 0.1, "changes": [], "bound": {"lower": 1, "parts": [[[99], LEAF]]}},
        {"radius": 0.1, "changes": [], "bound": {"lower": 0, "parts": [[[0], {"sum": "x"}]]}},
        {"radius": 0.1, "changes": []},
    ],
)  # fmt: skip
def test_malformed_claims_are_refused(near):
    net, small = certified()
    data = {**small.certificate.to_json(), "near": near}
    with pytest.raises(mo.CertificateRejected):
        mo.check(mo.Certificate.from_json(json.dumps(data)), small.network, net)


def planar(points):
    """A ball in which points need boxes of side 1 and nothing is free."""
    return ball(mo.hard_instance(points, 0.5), 0.5)


PENTAGON = [[0.0, 0.0], [0.75, 0.75], [0.25, 1.625], [-0.625, 1.5], [-0.875, 0.625]]


def test_trees_prove_what_they_prove():
    b = planar(PENTAGON)
    units = (0, 1, 2, 3, 4)
    boxes = [set(g.units) for g in maximal_boxes(b, np.arange(5), 100)]
    assert sorted(map(sorted, boxes)) == [[0, 1], [0, 4], [1, 2], [2, 3], [3, 4]]
    halves = DualWeights(dict.fromkeys(units, 1), {}, (), 2)
    Bound(3, ((units, halves),)).verify(b)  # 5/2 rounds up
    odd = DualWeights({}, {}, ((units, 1),), 1)
    Bound(3, ((units, odd),)).verify(b)
    split = Branch(
        (0, 1), False, DualWeights({2: 1, 4: 1}, {}, (), 1), DualWeights({1: 1, 4: 1}, {}, (), 1)
    )
    for claim, tree in (
        (4, halves),
        (4, odd),
        (3, split),
        (3, DualWeights(dict.fromkeys(units, 1), {}, (), 1)),
    ):
        with pytest.raises(mo.CertificateRejected):
            Bound(claim, ((units, tree),)).verify(b)
    with pytest.raises(mo.CertificateRejected, match="compatible"):
        Bound(
            3,
            (
                ((0, 1), DualWeights({0: 1}, {}, (), 1)),
                ((2, 3, 4), DualWeights({2: 1, 4: 1}, {}, (), 1)),
            ),
        ).verify(b)
    with pytest.raises(mo.CertificateRejected, match="joins two parts"):
        Bound(
            3,
            (
                (
                    units,
                    IndependentParts(
                        (
                            ((0, 1), DualWeights({0: 1}, {}, (), 1)),
                            ((2, 3, 4), DualWeights({2: 1, 4: 1}, {}, (), 1)),
                        )
                    ),
                ),
            ),
        ).verify(b)


def test_a_sieve_leaves_out_only_what_costs_too_much():
    b = planar(PENTAGON)
    units = (0, 1, 2, 3, 4)
    halves = DualWeights(dict.fromkeys(units, 1), {}, (), 2)
    Bound(3, ((units, ReducedCostFilter(halves, 3, halves)),)).verify(b)
    # covers of cost 2 cannot exist, but a sieve for target 9 keeps all boxes: the claim beneath it
    # fails
    with pytest.raises(mo.CertificateRejected):
        Bound(9, ((units, ReducedCostFilter(halves, 9, DualWeights({0: 9}, {}, (), 1))),)).verify(b)


def test_changes_hold_rationals():
    near = Near(0.5)
    assert Near.from_json(json.loads(json.dumps(near.to_json()))) == near
    with pytest.raises(ValueError, match="radius=-1"):
        mo.rank(mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0]), radius=-1.0)
