"""Compression on a box against exact enumeration and stored cases; every forgery is refused;
distance on a box.
"""

from __future__ import annotations

import copy
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, product
from multiprocessing import get_context

import numpy as np
import pytest
import strategies as plants
from counted_work import Work, dearest, wide
from stored_relu import box_of, cases, read, relu

import moduli as mo
from moduli.common.exact_values import evaluate
from moduli.compression.box import bisection, linear_programs
from moduli.compression.box.reduce_on_box import claimed
from moduli.compression.box.seen_signs import CLIMB
from moduli.compression.box.sign_branching import TOGETHER
from moduli.compression.box.stable_units import stable
from moduli.compression.exact import linear_units
from moduli.equivalence import exact_gap
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.certificate import Certificate
from moduli.kernel.move import Move
from moduli.kernel.rules import apply
from moduli.kernel.state import State
from moduli.kernel.substitution import linear_contribution


def verify(small, data):
    Certificate.from_json(json.dumps(data)).verify(small.network, small.original)


# Stored cases ---------------------------------------------------------------------------------------------------


def test_reachable_widths_are_reached(shared):
    for case in cases(shared, "compress_deep"):
        net, box = read(case["net"]), box_of(case)
        small = mo.compress(net, on=box)
        assert small.check(), case["id"]
        assert small.network.units <= sum(case["expect"]["reachable_widths"]), case["id"]
        assert small.network.parameters <= net.parameters, case["id"]
        assert small.slack == 0, case["id"]
        assert exact_gap.peak(net, small.network, box, 1000).gap == 0, case["id"]


def test_the_corner_that_touches_zero(shared):
    case = next(
        c for c in cases(shared, "compress_shallow") if c["id"].endswith("touching-box-corner")
    )
    small = mo.compress(read(case["net"]), on=box_of(case))
    assert small.network.units == case["expect"]["min_width"] == 1
    assert small.optimal
    assert small.check()


def test_near_misses_keep_their_units_and_their_distance(shared):
    for case in cases(shared, "near_miss", "hidden_symmetry"):
        f, g, box = read(case["net_f"]), read(case["net_g"]), box_of(case)
        for net in (f, g):
            small = mo.compress(net, on=box)
            assert exact_gap.peak(net, small.network, box, 1000).gap <= small.slack, case["id"]
        gap = Fraction(case["expect"]["sup_abs_diff"])
        d = mo.distance(f, g, on=box)
        assert Fraction(d.lower) <= gap <= Fraction(d.upper), case["id"]
        assert d.status == "proved"
        assert d.upper == 0 if gap == 0 else Fraction(d.extra["exact"]) == gap
        answer = mo.equivalent(f, g, on=box)
        assert answer.status == ("proved" if case["expect"]["equal_on_box"] else "refuted"), case[
            "id"
        ]
        assert answer.check()
        if case["expect"]["argmax"]:  # one of several, maybe
            assert exact_gap.gap(f, g, tuple(map(Fraction, case["expect"]["argmax"]))) == gap


def test_equal_on_the_box_and_different_outside(shared):
    case = next(c for c in cases(shared, "near_miss") if "different-outside" in c["id"])
    f, g = read(case["net_f"]), read(case["net_g"])
    assert mo.equivalent(f, g, on=box_of(case)).status == "proved"
    outside = mo.equivalent(f, g, on=mo.Box(-100, 8))
    assert outside.status == "refuted"
    assert outside.check()
    with pytest.raises(mo.CertificateRejected, match="is claimed"):
        replace(mo.equivalent(f, g, on=box_of(case)), on=mo.Box(-100, 8)).check()


# Soundness ------------------------------------------------------------------------------------------------------


def random_net(rng, activation):
    """Small integers, so that signs are often stable and rows often dependent."""
    hidden = [int(rng.integers(1, 6)) for _ in range(int(rng.integers(1, 4)))]
    widths = [int(rng.integers(1, 3)), *hidden, int(rng.integers(1, 3))]
    layers = [
        (rng.integers(-2, 3, (m, n)) / 2, rng.integers(-4, 9, m) / 2) for n, m in pairwise(widths)
    ]
    return relu(*layers, activation=activation)


def as_deep(net, other):
    """The same function with further layers, active on the box: outputs of these networks stay
    below 2^20.
    """
    layers = list(net.layers)
    for activation in other.activations[len(layers) - 1 :]:
        one, last = np.eye(len(layers[-1].bias)), layers.pop()
        layers.append(mo.Layer(last.weight, last.bias + 2.0**20, activation))
        layers.append(mo.Layer(one, np.full(len(one), -(2.0**20)), last.activation))
    return mo.Network(tuple(layers))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.25)", "abs"])
def test_random_networks_agree_with_exact_enumeration(activation):
    rng = np.random.default_rng(1)
    removed = dict.fromkeys(("inactive", "block", "skip"), 0)
    for k in range(60):
        net = random_net(rng, activation)
        low = rng.integers(-2, 2, net.widths[0]) / 2
        box = mo.Box(low, low + rng.integers(1, 5, net.widths[0]) / 2)
        small = mo.compress(net, on=box, budget=200)
        assert small.check()
        found = exact_gap.peak(net, as_deep(small.network, net), box, 3000)
        assert found is not None
        assert found.gap <= small.slack, k
        removed = {kind: n + small.removed[kind] for kind, n in removed.items()}
        text = json.dumps(small.certificate.to_json())
        assert json.dumps(Certificate.from_json(text).to_json()) == text
    assert all(
        n > 0 or (kind == "inactive" and activation != "relu") for kind, n in removed.items()
    )


@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky_relu(-0.5)"])
def test_mixed_and_wide_networks_agree_at_points(activation):
    rng = np.random.default_rng(2)
    for _ in range(6):
        widths = (4, 12, 9, 7, 2)
        parts = [
            p
            for n, m in pairwise(widths)
            for p in (rng.normal(size=(m, n)) / n**0.5, rng.normal(size=m))
        ]
        net = mo.Network.mlp(*parts, activation=["relu", activation, "relu"])
        box = mo.Box(-0.25, 0.5)
        small = mo.compress(net, on=box, budget=200)
        assert small.check()
        assert small.network.units < net.units
        for x in [*box.sample(5, 4, rng), *np.array(list(product((-0.25, 0.5), repeat=4)))[:5]]:
            p, q = (evaluate(n, [Fraction(float(v)) for v in x]) for n in (net, small.network))
            assert all(
                max(s[0] - t[1], t[0] - s[1]) <= Fraction(small.slack)
                for s, t in zip(p, q, strict=True)
            )


@pytest.mark.parametrize("share", [2.0**-8, 0.0])
def test_a_unit_active_only_at_a_corner(share):
    """z = x + y - (2 - share) on [-1, 1]^2: above zero on a corner of legs `share`, or nowhere."""
    net = relu(([[1, 1], [1, -1]], [-2 + share, 0]), ([[3, 1]], [0]))
    small = mo.compress(net, on=mo.Box(-1, 1))
    assert small.network.units == (2 if share else 1)
    assert small.optimal
    assert (
        mo.compress(
            relu(([[-1, -1], [1, -1]], [2 - share, 0]), ([[3, 1]], [0])), on=mo.Box(-1, 1)
        ).network.units
        == 2
    )


def test_a_block_of_lower_rank_than_its_rows():
    net = relu(
        ([[1, 0], [0, 1], [1, 1]], [9, 9, 20]), ([[0.5, 1, 0], [1, 2, 0]], [0, 0]), ([[1, 1]], [0])
    )
    state = State(net, region=claimed(stable(net, mo.Box(-8, 8))))
    apply(
        state,
        Move(
            "block",
            1,
            np.arange(3),
            np.array([0]),
            rows=(fractions(0.5, 1, 12),),
            outgoing=(fractions(1, 2),),
        ),
    )
    assert state.widths == (2, 1, 2, 1)
    assert exact_gap.peak(net, state.network(), mo.Box(-8, 8), 1000).gap == 0
    forged = Move(
        "block",
        1,
        np.arange(3),
        np.array([0]),
        rows=(fractions(0.5, 1, 11),),
        outgoing=(fractions(1, 2),),
    )
    fresh = State(net, region=state.region)
    with pytest.raises(mo.CertificateRejected, match="product of weights"):
        apply(fresh, forged)


def fractions(*values):
    return tuple(map(Fraction, values))


def test_a_second_block_reads_the_bounds_of_the_first():
    """Layer 1 is replaced by a shifted unit; a block behind it must use what that unit can be, not
    what the old one was.
    """
    net = relu(
        ([[1], [1]], [2, 4]), ([[1, -1], [1, 1], [2, 1], [1, 2]], [4, 0, 0, 0]),
        ([[1, 1, 1, 1], [0, 1, -1, 0]], [0, -3]), ([[1, 1]], [0]),
    )  # fmt: skip
    small = mo.compress(net, on=mo.Box(-1, 1))
    assert small.check()
    assert exact_gap.peak(net, small.network, mo.Box(-1, 1), 1000).gap == small.slack == 0


def test_an_infinite_reach_gives_up_and_does_not_prove():
    net = relu(([[1e200], [1e200]], [2e200, 3e200]), ([[1e200, 1e200]], [0.0]), ([[1.0]], [0.0]))
    small = mo.compress(net, on=mo.Box(-1, 1))
    assert small.check()


def test_optimal_is_claimed_only_where_every_unit_bends_inside():
    bends = relu(([[1], [1]], [0, 0.5]), ([[1, 2]], [0]))
    assert mo.compress(bends, on=mo.Box(-1, 1)).optimal
    one = mo.compress(bends, on=mo.Box(-0.25, 1))
    assert (one.network.units, one.optimal) == (
        2,
        True,
    )  # one bend, and a slope that a single unit does not give
    many = relu(([[1.0]] * 18, np.linspace(-0.9, 0.9, 18)), ([[1.0] * 18], [0]))
    assert mo.compress(many, on=mo.Box(-1, 1)).optimal
    for count, proved in ((18, True), (41, False)):  # too many ways to turn 41 units
        rows, ends = [[1.0]] * (count + 1), [*np.linspace(-0.9, 0.9, count), 3]
        more = mo.compress(relu((rows, ends), ([[1.0] * (count + 1)], [0])), on=mo.Box(-1, 1))
        assert (more.network.units, more.optimal) == (count + 1, proved)
    assert not mo.compress(
        relu(([[1, 0], [1, 1]], [0, 0.5]), ([[1, 2]], [0])), on=mo.Box([-1, 0], [1, 0])
    ).optimal
    assert mo.compress(
        relu(([[1], [2]], [0, 0.5]), ([[1, 2]], [0]), activation="tanh"), on=mo.Box(-1, 1)
    ).optimal


def test_turned_units_spare_a_linear_one(shared):
    """x + relu(x) - relu(x - 1) ... : stored cases whose linear part is absorbed by turning units."""
    net = relu(
        ([[1], [1], [1]], [3, 0, -0.5]), ([[1, -1, 2]], [0])
    )  # (x + 3) - relu(x) = 3 - relu(-x) ... on the box
    small = mo.compress(net, on=mo.Box(-1, 1))
    assert (small.network.units, small.optimal, small.check()) == (2, True, True)
    assert exact_gap.peak(net, small.network, mo.Box(-1, 1), 1000).gap == 0
    assert "block" in {m.kind for m in small.certificate.large_moves}
    for case in cases(shared, "compress_shallow"):
        wide = read(case["net"])
        box = box_of(case) if case["box"] else mo.Box(-64.0, 64.0)
        found = mo.compress(wide, on=box)
        assert found.check()
        assert exact_gap.peak(wide, found.network, box, 1000).gap == 0
        least = case["expect"]["visible_hyperplanes"]
        assert not found.optimal or least <= found.network.units <= case["expect"]["min_width"], (
            case["id"]
        )


def test_minimality_agrees_with_brute_force_over_turns():
    """Scalar output: minimal width on the box is r, or r + 1 where no way to turn the units gives
    the gradient.
    """
    rng = np.random.default_rng(9)
    widths = []
    for _ in range(40):
        r, n = int(rng.integers(1, 5)), int(rng.integers(1, 3))
        w = rng.integers(-2, 3, (r, n))
        w[:, 0] += (w == 0).all(axis=1)
        bias = np.arange(r) * 0.125 * np.abs(w).sum(axis=1) / max(r, 1)
        v, slope = rng.choice([-2, -1, 1, 2], r), rng.integers(-2, 3, n)
        turned = rng.random(r) < 0.5
        slope = slope if rng.random() < 0.3 else (-(v[:, None] * w)[turned]).sum(axis=0)
        rows, biases = np.concatenate([w, slope[None]]), np.append(bias, 50.0)
        net = relu((rows, biases), ([[*v, 1]], [0]))
        small = mo.compress(net, on=mo.Box(-1, 1))
        assert small.check()
        assert exact_gap.peak(net, small.network, mo.Box(-1, 1), 1000).gap <= small.slack
        signs = np.array(list(product((0, 1), repeat=len(small.network.layers[0].bias))))
        rows, column = small.network.layers[0].weight, small.network.layers[1].weight[0]
        reach = np.abs(rows).sum(axis=1)
        bends = np.abs(small.network.layers[0].bias) < reach
        part = (column * bends)[:, None] * rows  # gradients that a turn takes away
        rest = ((column * ~bends)[:, None] * rows).sum(axis=0)
        spare = (signs @ part + rest == 0).all(axis=1).any()
        full = np.column_stack([rows, small.network.layers[0].bias])
        distinct = len(np.unique(full / np.abs(rows).max(axis=1, keepdims=True), axis=0))
        if small.optimal and distinct == len(rows):
            widths.append(int(bends.sum()))
            assert small.network.units == (bends.sum() if bends.all() else bends.sum() + 1)
            assert bends.all() or not spare
    assert len(widths) > 10
    assert len(set(widths)) > 2


# Attacks --------------------------------------------------------------------------------------------------------

NET = relu(
    ([[1, 1], [1, -1], [2, 1], [1, 0], [1, 0], [-1, -1]], [5, 5, 4, 0, -0.5, -3]),
    ([[1, 0.5, -1, 2, 1, 1], [0.25, 1, 2, 1, -1, 1], [0, 0, 0, 1, -1, 0]], [0.5, -16, -0.75]),
    ([[1, 1, 1]], [0]),
)  # fmt: skip
SMALL = mo.compress(NET, on=mo.Box(-1, 1))


def test_the_attacked_certificate_uses_all_moves():
    assert SMALL.check()
    assert {m.kind for m in SMALL.certificate.large_moves} >= {"inactive", "block"}
    assert len(SMALL.certificate.region.tree) > 1


def with_value(data, path, value):
    """A copy with another value at one place."""
    wrong = copy.deepcopy(data)
    at = wrong
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return wrong


def test_forged_regions_are_noticed():
    data = SMALL.certificate.to_json()
    forged = []
    for l, signs in enumerate(data["region"]["signs"]):
        for k, sign in enumerate(signs):
            forged += [(("signs", l, k), other) for other in (-1, 1) if other != sign]
    forged += [
        (("low", 0), -40.0),
        (("high", 1), 40.0),
        (("tree",), [-1]),
        (("tree",), data["region"]["tree"][:-1]),
    ]
    forged += [
        (("tree",), [*data["region"]["tree"], -1]),
        (("low",), [-1.0]),
        (("low", 0), 2.0),
        (("signs",), []),
    ]
    forged += [(("signs",), [[0] * len(s) for s in data["region"]["signs"]])]
    for path, value in forged:
        with pytest.raises(mo.CertificateRejected):
            verify(SMALL, with_value(data, ("region", *path), value))


def test_moves_without_a_region_are_refused():
    data = SMALL.certificate.to_json()
    with pytest.raises(mo.CertificateRejected, match="not known to be linear for all inputs"):
        verify(SMALL, {k: v for k, v in data.items() if k != "region"})


def test_every_changed_move_is_noticed():
    data = SMALL.certificate.to_json()
    changes = 0
    for i, move in enumerate(data["large_moves"]):
        changed = [
            {**move, "units": move["units"][:-1]},
            {**move, "units": [u + 1 for u in move["units"]]},
        ]
        changed += [{**move, "layer": l} for l in (0, 3 - move["layer"], 9)] + [
            {**move, "move": "drop"}
        ]
        if move["move"] == "inactive":
            changed += [{**move, "units": [*move["units"], u]} for u in range(5)]
        if move["move"] == "block":
            changed += [
                {**move, "into": move["into"] + [9]},
                {**move, "into": move["units"]},
                {**move, "rows": []},
            ]
            for side in ("rows", "outgoing"):
                for k, j in product(range(len(move[side])), range(4)):
                    if move[side][k] is not None and j < len(move[side][k]):
                        wrong = copy.deepcopy(move)
                        wrong[side][k][j] = str(Fraction(move[side][k][j]) - 7)
                        changed.append(wrong)
        for wrong in changed:
            changes += 1
            forged = copy.deepcopy(data)
            forged["large_moves"][i] = wrong
            with pytest.raises(mo.CertificateRejected):
                verify(SMALL, forged)
        for moves in (
            [m for m in data["large_moves"] if m is not move],
            [*data["large_moves"], move],
        ):
            with pytest.raises(mo.CertificateRejected):
                verify(SMALL, {**data, "large_moves": moves})
    assert changes > 10


def test_malformed_regions_are_refused():
    data = SMALL.certificate.to_json()
    good = data["region"]
    for wrong in (
        None, [], {}, {**good, "extra": 1}, {k: v for k, v in good.items() if k != "tree"}, {**good, "low": [True, -1]},
        {**good, "low": ["-1", "-1"]}, {**good, "low": -1}, {**good, "low": [1.0, 1.0], "high": [0.0, 2.0]},
        {**good, "tree": [1.0]}, {**good, "tree": [-2]}, {**good, "tree": [10**19]}, {**good, "tree": [True]},
        {**good, "signs": [[2] * 6, [0] * 3]}, {**good, "signs": [[1.0] * 6, [0] * 3]}, {**good, "signs": [0]},
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            verify(SMALL, {**data, "region": wrong})
    text = json.dumps(data)
    for value in ("NaN", "Infinity", "1e999"):
        with pytest.raises(mo.CertificateRejected):
            Certificate.from_json(text.replace('"low": [-1.0', f'"low": [{value}'))


def test_malformed_blocks_are_refused():
    data = SMALL.certificate.to_json()
    i = next(k for k, m in enumerate(data["large_moves"]) if m["move"] == "block")
    move = data["large_moves"][i]
    for change in (
        {"rows": None}, {"rows": [1]}, {"outgoing": [None]}, {"outgoing": [["1/0"]]}, {"outgoing": [[0.5]]}, {"into": None},
        {"outgoing": [["0x1"]]}, {"ratio": "1"}, {"rows": [["1" * 701]]},
    ):  # fmt: skip
        forged = copy.deepcopy(data)
        forged["large_moves"][i] = {**move, **change}
        with pytest.raises(mo.CertificateRejected):
            verify(SMALL, forged)


def test_random_mutations_never_prove_a_falsehood():
    rng = np.random.default_rng(0)
    text = json.dumps(SMALL.certificate.to_json())
    points = [[Fraction(float(v)) for v in x] for x in mo.Box(-1, 1).sample(4, 2)]
    for _ in range(150):
        at, other = rng.integers(len(text)), chr(rng.integers(32, 127))
        try:
            cert = Certificate.from_json(text[:at] + other + text[at + 1 :])
            cert.verify(SMALL.network, SMALL.original)
        except mo.CertificateRejected:
            continue
        for x in points:
            if all(
                p <= v <= q for p, v, q in zip(cert.region.low, x, cert.region.high, strict=True)
            ):
                gap = abs(evaluate(SMALL.network, x)[0][0] - evaluate(SMALL.original, x)[0][0])
                assert gap <= Fraction(cert.slack.constant)


REGION = Region((-1.0,), (1.0,), (-1,), ((1, 1, 0),))
WIDE = relu(([[1], [2], [1]], [1, 2, 0]), ([[1, 2, 3]], [0]))


def block(units, into, rows, *outgoing):
    return Move("block", 1, np.array(units), np.array(into), rows=rows, outgoing=outgoing)


@pytest.mark.parametrize(
    ("move", "why"),
    [
        (Move("inactive", 1, np.array([0])), "slope 1"),
        (Move("inactive", 1, np.array([2])), "not known to be linear"),
        (Move("skip", 1, np.arange(3)), "the layer bends"),
        (Move("skip", 1, np.arange(2)), "names 2 units"),
        (Move("scale", 1, np.array([2]), ratio=Fraction(-1)), "not beside signs"),
        (block([0, 2], [0], (None,), fractions(2.5)), "bend as the old"),
        (block([0, 1], [2], (None,), fractions(5)), "different ones of the block"),
        (block([0, 1], [0, 0], (None, None), fractions(5), fractions(5)), "different ones"),
        (block([0, 1], [0], (), fractions(5)), "0 rows"),
        (block([0, 1], [0], (fractions(1),), fractions(5)), "rows need 1"),
        (block([0, 1], [0], (None,), fractions(4)), "product of weights"),
        (block([0, 1], [0], (fractions(5, 4),), fractions(1)), "product of weights"),
        (block([0, 1], [0], (fractions(5, 4),), fractions(2)), "bend as the old"),
    ],
)
def test_each_precondition(move, why):
    with pytest.raises(mo.CertificateRejected, match=why):
        apply(State(WIDE, region=REGION), move)


def test_claims_on_a_box_and_within_a_radius_do_not_mix():
    net = mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, 2.0]], [0.0])
    near = mo.compress(net, radius=0.01).certificate
    small = mo.compress(net, radius=0.01).network
    region = Region((-1.0,), (1.0,), (-1,), ((0, 0),))
    with pytest.raises(mo.CertificateRejected, match="not both"):
        replace(near, region=region).verify(small, net)


# Distance and equality on a box ---------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_bisection_encloses_what_points_show(activation):
    rng = np.random.default_rng(3)
    parts = [
        p
        for n, m in pairwise((4, 8, 8, 2))
        for p in (rng.normal(size=(m, n)) / n**0.5, 0.3 * rng.normal(size=m))
    ]
    a = mo.Network.mlp(*parts, activation=activation)
    b = a.with_flat(a.flat() * (1 + 1e-2 * rng.normal(size=a.parameters)))
    box = mo.Box(-1, 1)
    x = box.sample(20_000, 4, 1)
    seen = np.abs(a.logits(x) - b.logits(x)).max()
    rough, fine = (mo.distance(a, b, on=box, budget=n) for n in (10, 1000))
    assert seen <= fine.upper * (1 + 1e-12)
    assert fine.upper < 0.7 * rough.upper
    assert fine.lower >= 0.98 * seen
    again = mo.distance(a, b, on=box, budget=1000)
    assert (again.lower, again.upper) == (fine.lower, fine.upper)
    eps = 0.5 * (fine.upper + rough.upper)
    answer = mo.equivalent(a, b, on=box, eps=eps, budget=1000)
    assert answer.status == "proved"
    assert answer.check()
    with pytest.raises(mo.CertificateRejected, match="is claimed"):
        replace(answer, eps=seen / 2).check()


def test_forged_bisections_are_noticed():
    rng = np.random.default_rng(4)
    parts = [
        p
        for n, m in pairwise((4, 8, 1))
        for p in (rng.normal(size=(m, n)), 0.3 * rng.normal(size=m))
    ]
    a = mo.Network.mlp(*parts, activation="relu")
    b = a.with_flat(a.flat() * (1 + 1e-2 * rng.normal(size=a.parameters)))
    box = mo.Box(-np.ones(4), np.ones(4))
    found = bisection.enclose(a, b, box, 200)
    found.verify(a, b, box)
    for wrong in (
        {"upper": found.upper * 0.99}, {"tree": (-1,)}, {"tree": found.tree[:-1]}, {"tree": (*found.tree, -1)}, {"how": "hope"},
        {"tree": ()}, {"tree": (4, -1, -1)}, {"upper": float("nan")},
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            replace(found, **wrong).verify(a, b, box)


def test_networks_of_different_depth_are_compared():
    f = relu(([[1.0], [-1.0]], [0, 0.5]), ([[1, 1]], [0.25]))
    g = relu(([[1.0], [-1.0]], [0, 0.5]), ([[1, 1], [1, 0]], [0.25, 8]), ([[1, 0]], [0]))
    assert mo.equivalent(f, g, on=mo.Box(-2, 2)).status == "proved"  # the first is positive anyway
    d = mo.distance(f, relu(([[1.0]], [0]), ([[1.0]], [0]), ([[2.0]], [0])), on=mo.Box(-2, 2))
    assert d.extra["exact"] == "11/4"  # 2.75 at -2


def test_twins_are_proved():
    rng = np.random.default_rng(0)
    parts = plants.minimal(rng, (5, 16, 16, 1), ["relu"] * 2)
    net = parts.network()
    plants.shuffle(rng, parts)
    answer = mo.equivalent(net, parts.network(), on=mo.Box(-1, 1))
    assert answer.status == "proved"
    assert answer.check()


def test_an_executor_changes_nothing_but_the_time():
    rng = np.random.default_rng(8)
    shapes = (12, 4), 12, (12, 12), 12, (2, 12), 2
    first, other = (
        mo.Network.mlp(*(rng.normal(size=s) for s in shapes), activation="relu") for _ in range(2)
    )
    near, box = (
        first.with_flat(first.flat() + 1e-3 * rng.normal(size=first.parameters)),
        mo.Box(-1, 1),
    )
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        alone, shared = (
            mo.compress(first, on=box, budget=600, executor=e) for e in (None, executor)
        )
        assert alone.certificate.to_json() == shared.certificate.to_json()
        assert alone.stability.boxes == shared.stability.boxes > 64
        for b in (near, other):
            one, two = (
                mo.distance(first, b, on=box, budget=500, executor=e) for e in (None, executor)
            )
            assert one.to_json() == two.to_json()
        assert (
            mo.equivalent(first, near, on=box, eps=1.0, budget=500, executor=executor).status
            == "proved"
        )


# Within a tolerance ---------------------------------------------------------------------------------------------


def noisy(seed=5, scale=1e-4):
    """A duplicate, a constant unit, one that bends at the rim: all but for a little noise."""
    rng = np.random.default_rng(seed)
    w = np.array(
        [[1.0, 0.5], [1.0, 0.5], [0.0, 0.0], [1.0, 1.0], [-0.5, 1.0]]
    ) + scale * rng.normal(size=(5, 2))
    return relu(
        (w, [0.25, 0.25, 1.0, -2.0, 0.1]),
        ([[1, 1, 1, 1, 1], [1, -1, 0.5, 2, 1]], [-2, -1]),
        ([[1, 0.5]], [0]),
    )


def test_a_tolerance_is_kept_and_pays():
    net, box = noisy(), mo.Box(-1, 1)
    plain = mo.compress(net, on=box).network.units
    small = mo.compress(net, on=box, eps=0.01, budget=2000)
    assert small.status == "bounded"
    assert small.network.units <= plain - 2
    assert small.check()
    exact = exact_gap.peak(net, as_deep(small.network, net), box, 3000)
    assert exact is not None
    assert exact.gap <= small.error <= small.eps
    assert small.error < 3 * exact.gap
    with pytest.raises(mo.CertificateRejected, match="is claimed"):
        replace(small, eps=small.error / 2).check()
    with pytest.raises(mo.CertificateRejected):
        replace(small, original=noisy(6)).check()
    rounded = small.rounded("float32")
    assert rounded.check()
    assert mo.compress(net, on=box, eps=1e-9, budget=500).network.units == plain


def test_the_certificate_of_a_tolerance_is_a_file_and_cannot_be_forged(tmp_path):
    net = noisy()
    small = mo.compress(net, on=mo.Box(-1, 1), eps=0.01, budget=500)
    verdict = mo.check(small.save(tmp_path / "small.cert.json"), small.network, net)
    assert verdict.proof.slack.constant == small.error
    data = json.loads((tmp_path / "small.cert.json").read_text())
    assert data["changed"]["changes"]
    forged = [
        ("upper",),
        ("tree",),
        ("how",),
        ("changes",),
        ("changes", 0, "to", 0),
        ("changes", 0, "layer"),
        ("changes", 0, "at", 0),
    ]
    values = [0.0, [0, -1], "separate", [], 3.0, 9, 10**6]
    for path, value in [
        *zip(forged, values, strict=True),
        (("how",), "none"),
        (("changes", 0, "part"), "slope"),
    ]:
        with pytest.raises(mo.CertificateRejected):
            verify(small, with_value(data, ("changed", *path), value))
    for gone in ("region", "changed"):
        with pytest.raises(mo.CertificateRejected):
            verify(small, {k: v for k, v in data.items() if k != gone})
    with pytest.raises(mo.CertificateRejected, match="minimal"):
        verify(small, {**data, "minimal": True})


def test_a_tolerance_for_smooth_activations():
    rng = np.random.default_rng(7)
    row = rng.normal(size=(1, 3))
    w = np.concatenate([row, row, 1e-5 * row, rng.normal(size=(2, 3))]) + 1e-6 * rng.normal(
        size=(5, 3)
    )
    net = mo.Network.mlp(
        w, [0.1, 0.1, 0.3, -0.2, 0.4], rng.normal(size=(2, 5)), [0.0, 0.0], activation="tanh"
    )
    small = mo.compress(net, on=mo.Box(-1, 1), eps=1e-3, budget=2000)
    assert small.network.units == 3
    assert small.check()
    x = mo.Box(-1, 1).sample(2000, 3)
    assert np.abs(small.network(x) - net(x)).max() <= small.error


@pytest.mark.parametrize("eps", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_is_a_number(eps):
    with pytest.raises(ValueError, match="eps="):
        mo.compress(noisy(), on=mo.Box(-1, 1), eps=eps)


# Real networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "units", "parameters"),
    [
        ("nn4sys_lindex.onnx", 81, 979),
        ("rl_cartpole.onnx", 103, 2977),
        ("TORA_ReLUtanh_controller.converted.onnx", 21, 151),
    ],
)
def test_goals(shared, file, units, parameters):
    boxes = json.loads((shared / "models" / "boxes.json").read_text())
    stem = file.removesuffix(".converted.onnx")
    box = next(boxes[k] for k in sorted(boxes) if k == file or k.startswith(f"{stem}."))
    net, box = mo.load(shared / "models" / file), mo.Box(box["lo"], box["hi"])
    small = mo.compress(net, on=box)
    assert (small.network.units, small.network.parameters) == (units, parameters)
    assert small.slack < 1e-13
    assert small.check()
    x = box.sample(10_000, net.widths[0])
    assert np.abs(net(x) - small.network(x)).max() < 3e-13


def test_goal_under_a_property(shared):
    folder = shared / "models"
    net = mo.load(folder / "rl_cartpole.onnx")
    small = mo.compress(
        net, on=mo.Box.from_vnnlib(folder / "vnnlib" / "cartpole_case_safe_14.vnnlib")
    )
    assert small.network.units <= 11
    assert small.check()


# Work -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 60, pytest.param(200, marks=pytest.mark.slow)])
def test_a_budget_bounds_the_work_of_every_question_on_a_box(monkeypatch, width):
    """Twenty times what its boxes may take, and first looks: boxes of both networks side by side,
    points for each unit.
    """
    work, net, budget, box = Work(monkeypatch), wide(width), 60, mo.Box(-1, 1)
    other = wide(width // 2, seed=1)
    first = 16 * dearest(net), 20_000 * net.parameters
    for question in (
        lambda: mo.compress(net, on=box, budget=budget),
        lambda: mo.compress(net, on=box, eps=0.05, budget=budget),
        lambda: mo.rank(net, on=box, budget=budget),
        lambda: mo.distance(net, net.rounded("float32"), on=box, budget=budget),
        lambda: mo.distance(net, other, on=box, budget=budget),
        lambda: mo.equivalent(net, net.rounded("float32"), on=box, eps=1e-2, budget=budget),
    ):
        work.products = work.steps = work.forward = 0
        question()
        assert work.products <= 20 * budget * linear_programs.PRODUCTS + 4 * first[0]
        assert (
            work.steps
            <= 4
            * (budget // linear_programs.BOXES + TOGETHER * linear_programs.LONG)
            * linear_programs.STEPS
        )
        assert work.forward <= 20 * budget * CLIMB + 4 * first[1]


def test_independent_linear_units_are_not_multiplied_out(monkeypatch):
    """Exact products are taken only where floats leave room for fewer units: one output needs one
    unit of the last layer.
    """
    rng, calls = np.random.default_rng(0), []
    monkeypatch.setattr(
        linear_units,
        "linear_contribution",
        lambda state, l, *rest: calls.append(l) or linear_contribution(state, l, *rest),
    )
    for rows, layers, left in (([0, 1, 2, 3, 4, 5], {2}, 6), ([0, 1, 2, 3, 4, 4], {1, 2}, 5)):
        first, second = rng.normal(size=(6, 8))[rows], rng.normal(size=(7, 6))
        net = relu(
            (first, np.full(6, 99.0)), (second, np.full(7, 9999.0)), (np.ones((1, 7)), [0.0])
        )
        state = State(net, region=claimed(stable(net, mo.Box(-1, 1))))
        calls.clear()
        linear_units.dependent(state)
        assert set(calls) == layers
        assert len(state.alive[1]) == left


def test_the_first_layer_says_what_a_box_of_another_scale_does():
    """Rows that pixels in [0, 1] turn on and off; on negative numbers none of them is ever on."""
    net = relu(
        ([[1.0, 1.0], [2.0, 0.5], [0.0, 0.0]], [-0.5, -0.25, -1.0]), ([[1.0, 1.0, 1.0]], [0.0])
    )
    right, wrong = (mo.compress(net, on=mo.Box(low, low + 1)) for low in (0.0, -9.0))
    assert str(right.first_layer) == "1 of 3 units is constant on the box, 1 of them on all inputs"
    assert not right.first_layer.suspicious
    assert wrong.first_layer == (3, 3, 1)
    rows = dict(wrong.rows())
    assert rows["on"] == "Box(-9, -8)"
    assert rows["first layer"].endswith("was trained on?")
