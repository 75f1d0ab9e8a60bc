"""Proximate rank: known answers, brute force, properties, real networks."""

import json
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import oracles
import pytest
from balls import random_ball
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

import moduli as mo
from moduli.compression.radius import branch_and_bound
from moduli.compression.radius.branch_and_bound import ComponentBall
from moduli.compression.radius.cover_heuristics import greedy
from moduli.kernel.certificate import ball
from moduli.kernel.radius.compatibility import ParameterBall


def network(a, b, c, d=None, activation="tanh"):
    h = len(c)
    a, b = np.array(a, dtype=float).reshape(h, -1), np.array(b, dtype=float).reshape(h, -1)
    d = np.zeros(a.shape[1]) if d is None else np.resize(np.array(d, dtype=float), a.shape[1])
    return mo.Network.mlp(b, np.array(c, dtype=float), a.T.copy(), d, activation=activation)


def agrees(net, radius, want):
    rank = mo.rank(net, radius=radius)
    assert int(rank) == want
    assert rank.upper <= rank.greedy
    assert rank.check()
    small = mo.compress(net, radius=radius)
    assert small.optimal
    assert small.network.units == want
    assert small.check()
    if rank.witness is not None:
        assert np.abs(rank.witness.flat() - net.flat()).max() <= radius * (1 + 1e-12)
        assert int(mo.rank(rank.witness)) == want


@pytest.mark.parametrize("file", ["rank.json", "rank_adversarial.json"])
def test_stored_cases(shared, file):
    cases = json.loads((shared / "cases" / file).read_text())
    cases = cases["cases"] if isinstance(cases, dict) else cases
    assert len(cases) > 100
    for case in cases:
        if not len(case["c"]) or float(case["eps"]) == 0:
            continue
        net, radius = network(case["a"], case["b"], case["c"]), float(case["eps"])
        agrees(net, radius, case["prank"])
        stored = case["greedy"]
        if isinstance(stored, int):
            stored = [{"order": None, "either_sign": stored}]
        for bound in stored:
            assert len(greedy(ball(net, radius), bound["order"]).paid) == bound["either_sign"]


def test_greedy_with_rows_turned_first():
    """The paper's bound is also told with rows turned beforehand, so that their first entry that is
    not zero is positive, and + alone. With one input this is the same; with more, rows near a
    coordinate plane may lie apart. Ours tries both signs.
    """
    rng = np.random.default_rng(0)
    differ = {1: 0, 2: 0, 3: 0}
    for inputs in differ:
        for _ in range(300):
            h = int(rng.integers(2, 7))
            a, b, c = (rng.integers(-4, 5, shape) / 4 for shape in ((h, 1), (h, inputs), h))
            eps = float(rng.choice([0.25, 0.5]))
            ours = len(greedy(ball(network(a, b, c), eps)).paid)
            sign = np.array([next((np.sign(x) for x in row if x), 1.0) for row in b])
            turned = ball(network(a * sign[:, None], b * sign[:, None], c * sign), eps)
            alone = ParameterBall(turned.rows, turned.outgoing, eps, signed=False)
            differ[inputs] += ours != len(greedy(alone).paid)
    assert differ[1] == 0
    assert differ[2] > 0 < differ[3]


def test_brute_force():
    rng = np.random.default_rng(5)
    free = 0
    for _ in range(150):
        h, n, m = int(rng.integers(1, 8)), int(rng.integers(1, 3)), int(rng.integers(1, 3))
        a, b, c = (
            rng.integers(-5, 6, (h, m)) / 4,
            rng.integers(-5, 6, (h, n)) / 4,
            rng.integers(-5, 6, h) / 4,
        )
        eps = float(rng.choice([0.125, 0.25, 0.375, 0.5, 0.75]))
        want = oracles.proximate_rank(a, b, c, eps)
        net = network(a, b, c)
        agrees(net, eps, want)
        assert mo.rank(net, radius=eps).greedy == oracles.greedy(a, b, c, eps)
        free += want == 0
    assert 5 < free < 100


@pytest.mark.parametrize("activation", ["sigmoid", "erf"])
def test_other_activations_of_known_minimality(activation):
    rng = np.random.default_rng(6)
    for _ in range(20):
        a, b, c = (
            rng.integers(-5, 6, (5, 1)) / 4,
            rng.integers(-5, 6, (5, 1)) / 4,
            rng.integers(-5, 6, 5) / 4,
        )
        agrees(
            network(a, b, c, activation=activation), 0.375, oracles.proximate_rank(a, b, c, 0.375)
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 14), st.sampled_from([0.1, 0.3, 0.5]))
def test_properties(seed, h, radius):
    rng = np.random.default_rng(seed)
    a, b, c = rng.normal(0, 1, (h, 2)), rng.normal(0, 1, (h, 2)), rng.normal(0, 1, h)
    net = network(a, b, c)
    rank = mo.rank(net, radius=radius)
    assert rank.lower <= rank.upper <= rank.greedy
    wider = mo.rank(net, radius=2 * radius)
    assert wider.lower <= rank.upper
    flip, order = rng.choice([-1.0, 1.0], h), rng.permutation(h)
    twin = network((a * flip[:, None])[order], (b * flip[:, None])[order], (c * flip)[order])
    moved = mo.rank(twin, radius=radius)
    assert rank.lower <= moved.upper
    assert moved.lower <= rank.upper
    far = network(np.vstack([a, a]), np.vstack([b + 0, b + 1000]), np.concatenate([c, c]))
    both, shifted = mo.rank(far, radius=radius), mo.rank(network(a, b + 1000, c), radius=radius)
    assert both.lower <= rank.upper + shifted.upper
    blank = network(
        np.vstack([a, [[radius, -radius]]]), np.vstack([b, [[3.0, 3.0]]]), np.append(c, 0.5)
    )
    assert mo.rank(blank, radius=radius).lower <= rank.upper


def test_a_planted_collapse_is_found():
    rng = np.random.default_rng(7)
    centres = rng.normal(0, 1, (6, 5)) * 4
    rows = np.repeat(centres, 8, axis=0) + rng.uniform(-0.04, 0.04, (48, 5))
    rows *= rng.choice([-1.0, 1.0], (48, 1))
    net = network(rng.normal(2, 0.1, (48, 3)), rows[:, :-1], rows[:, -1])
    rank = mo.rank(net, radius=0.05)
    assert int(rank) == 6
    small = mo.compress(net, radius=0.05)
    x = rng.uniform(-1, 1, (200, 4))
    assert np.abs(small.network(x) - net(x)).max() <= small.within(1.0)


def test_deep_networks_give_upper_bounds_that_hold():
    rng = np.random.default_rng(8)
    first = np.repeat(rng.normal(0, 1, (4, 3)), 3, axis=0) + rng.uniform(-1e-6, 1e-6, (12, 3))
    for activation in ("tanh", "relu", "gelu"):
        net = mo.Network.mlp(
            first, np.repeat(rng.normal(0, 1, 4), 3), rng.normal(0, 1, (6, 12)),
            rng.normal(0, 1, 6), rng.normal(0, 1, (2, 6)), np.zeros(2), activation=activation,
        )  # fmt: skip
        small = mo.compress(net, radius=1e-6)
        assert small.network.widths == (3, 4, 6, 2)
        assert small.status == "bounded"
        assert small.check()
        x = rng.uniform(-1, 1, (100, 3))
        assert np.abs(small.network(x) - net(x)).max() <= small.within(1.0) < 1e-2
        rank = mo.rank(net, radius=1e-6)
        assert (rank.lower, rank.upper, rank.greedy) == (0, 10, None)
        with pytest.raises(mo.Undecided):
            int(rank)


def test_merged_columns_may_merge_rows_behind_them():
    """Second layer: sums over the twins of the first layer agree within the radius, entries alone
    do not.
    """
    first, bias = np.array([[1.0], [1.0], [-2.0]]), np.array([0.5, 0.5, 1.0])
    second = np.array([[1.0, 3.0, 1.0], [2.0, 2.0, 1.0], [5.0, 5.0, 0.0]])
    net = mo.Network.mlp(
        first, bias, second, [0.0, 0.0, 0.0], [[1.0, 1.0, 1.0]], [0.0], activation="tanh"
    )
    small = mo.compress(net, radius=1e-3)
    assert small.network.widths == (1, 2, 2, 1)
    assert small.check()


def test_the_quadrotor_has_eight_units_in_its_first_layer(shared):
    net = mo.load(shared / "models" / "verisig_quadrotor_tanh20x20.converted.onnx")
    small = mo.compress(net, radius=1e-6)
    assert small.network.widths == (6, 8, 20, 8)
    assert small.check()


def test_rosetta_is_not_close_to_compressible(shared):
    with np.load(shared / "models" / "rosetta3_model2_1000nets.npz") as z:
        parts = [z[k][:40].astype(np.float64) for k in ("W1", "b1", "W2", "b2")]
    nets = [mo.Network.mlp(*x) for x in zip(*parts, strict=True)]
    curve = mo.rank_curve(nets, radii=[0.0, 0.1])
    assert curve.lower.tolist() == [6.0, 6.0]
    assert curve.status == "proved"


def test_curves_are_monotone_and_parallel_ones_the_same():
    rng = np.random.default_rng(9)
    net = network(rng.normal(0, 1, (20, 2)), rng.normal(0, 1, (20, 2)), rng.normal(0, 1, 20))
    seen = []
    curve = mo.rank_curve(net, progress=lambda *step: seen.append(step))
    assert len(seen) == len(curve.radii) == 25
    for line in (curve.lower, curve.upper, curve.greedy):
        assert (np.diff(line) <= 0).all()
    assert (curve.lower <= curve.upper).all()
    assert (curve.upper <= curve.greedy).all()
    assert curve.upper[0] == 20
    assert curve.upper[-1] == 0
    with ThreadPoolExecutor(2) as executor:
        assert mo.rank_curve(net, executor=executor).to_json() == curve.to_json()
    assert curve.plot().get_ylabel()
    with pytest.raises(ValueError, match="no networks"):
        mo.rank_curve([])
    with pytest.raises(ValueError, match="one hidden layer"):
        mo.rank_curve("zoo:digits-relu")


def test_a_small_budget_leaves_an_honest_interval():
    rng = np.random.default_rng(10)
    net = mo.hard_instance(rng.integers(0, 2**12, (300, 2)) / 2**9, 0.5)
    rank, full = mo.rank(net, radius=0.5, budget=4), mo.rank(net, radius=0.5)
    assert rank.lower <= full.lower <= full.upper <= rank.upper
    assert rank.check()
    assert full.exact


def test_components_in_parallel_give_the_same():
    rng = np.random.default_rng(11)
    net = network(rng.normal(0, 1, (40, 1)), rng.normal(0, 9, (40, 1)), rng.normal(0, 9, 40))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        a, b = mo.rank(net, radius=0.5), mo.rank(net, radius=0.5, executor=executor)
    assert a.to_json() == b.to_json()
    assert a.certificate.to_json() == b.certificate.to_json()


def test_float32_files_carry_the_certificate(tmp_path):
    rng = np.random.default_rng(12)
    net = network(
        rng.normal(0, 1, (12, 2)), rng.normal(0, 1, (12, 2)), rng.normal(0, 1, 12)
    ).rounded("float32")
    small = mo.compress(net, radius=0.25).rounded("float32")
    target, proof = (
        mo.save(small.network, tmp_path / "s.onnx", dtype="float32"),
        small.save(tmp_path / "c.json"),
    )
    verdict = mo.check(proof, target, net)
    assert "0.25" in verdict.statement
    assert small.slack < 1e-6


def test_processes_answer_as_this_one_does():
    rng = np.random.default_rng(13)
    nets = [
        network(rng.normal(0, 1, (6, 2)), rng.normal(0, 1, (6, 2)), rng.normal(0, 1, 6))
        for _ in range(4)
    ]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        assert mo.rank_curve(nets, executor=executor).to_json() == mo.rank_curve(nets).to_json()


# Any network, any budget -----------------------------------------------------------------------------------------


def any_network(seed):
    """Networks of up to 80 units, radius and budget: plain, on a grid, with copies, near copies,
    zeros, at extreme sizes.
    """
    rng = np.random.default_rng(seed)
    small = rng.random() < 0.3
    h = int(rng.integers(1, 8 if small else 81))
    n, m = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    radius = float(10.0 ** rng.uniform(-3.5, 0.5))
    b, c, a = rng.normal(0, 1, (h, n)), rng.normal(0, 1, h), rng.normal(0, 1, (h, m))
    kind = [
        "plain",
        "grid",
        "copies",
        "near copies",
        "zeros",
        "tiny",
        "huge",
        "mixed",
        "cancelling",
    ][seed % 9]
    if kind == "grid":
        b, c, a = (np.round(4 * x) / 4 for x in (b, c, a))
        radius = float(rng.choice([0.125, 0.25, 0.375, 0.5, 1.0]))
    elif kind in ("copies", "near copies"):
        of, sign = rng.integers(0, max(1, h // 3), h), rng.choice([-1.0, 1.0], h)
        b, c = b[of] * sign[:, None], c[of] * sign
        if kind == "near copies":
            b, c = b + rng.uniform(-radius, radius, (h, n)), c + rng.uniform(-radius, radius, h)
    elif kind == "zeros":
        b[rng.random(h) < 0.3], a[rng.random(h) < 0.2], c[rng.random(h) < 0.2] = 0.0, 0.0, 0.0
    elif kind in ("tiny", "huge"):
        size = float(
            rng.choice([5e-324, 1e-310, 1e-160] if kind == "tiny" else [1e30, 1e150, 1e300])
        )
        b, c, a, radius = b * size, c * size, a * size, max(radius * size, 5e-324)
    elif kind == "mixed":
        b, a = b * 10.0 ** rng.uniform(-6, 6, (h, 1)), a * 10.0 ** rng.uniform(-12, 12, (h, 1))
    elif kind == "cancelling":
        c, radius = 0.5 * c, float(rng.uniform(0.3, 0.7))
    budget = int(rng.choice([5, 20, 100, 500, 2000, 10_000], p=[0.25, 0.25, 0.2, 0.2, 0.07, 0.03]))
    return a, b, c, radius, budget, str(rng.choice(["tanh", "sigmoid", "erf"]))


def ends_in_the_bracket(seed):
    a, b, c, radius, budget, activation = any_network(seed)
    net = network(a, b, c, activation=activation)
    rank = mo.rank(net, radius=radius, budget=budget)
    assert 0 <= rank.lower <= rank.upper <= min(len(c), rank.greedy)
    assert rank.check()
    small = mo.compress(net, radius=radius, budget=budget)
    assert (small.lower, small.network.units) == (rank.lower, rank.upper)
    if len(c) <= 7:
        assert rank.lower <= oracles.proximate_rank(a, b, c, radius) <= rank.upper
        curve = mo.rank_curve(net, radii=[0.5 * radius, radius], budget=budget)
        assert (curve.lowers <= curve.uppers).all()
        assert curve.lowers[0, -1] <= rank.upper
        assert curve.uppers[0, -1] >= rank.lower


def test_some_networks_at_any_budget_end_in_the_bracket():
    for seed in range(27):
        ends_in_the_bracket(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 1270, 90))
def test_hundreds_of_networks_at_any_budget_end_in_the_bracket(start):
    for seed in range(start, start + 90):
        ends_in_the_bracket(seed)


def test_searches_for_groups_that_end_early_leave_the_bracket(monkeypatch):
    """With next to no nodes for boxes and free groups, every search for them ends somewhere in the
    middle.
    """
    for seed in range(3000, 3027):
        monkeypatch.setattr(branch_and_bound, "NODES", (1, 20, 300)[seed // 9 % 3])
        ends_in_the_bracket(seed)


class Work:
    """Calls of functions of this package (as written, without what the tests wrap around them), and
    linear programs.
    """

    def __init__(self, monkeypatch):
        self.calls, self.programs = 0, 0
        solve = optimize.linprog

        def counted(*args, **options):
            self.programs += 1
            return solve(*args, **options)

        monkeypatch.setattr(optimize, "linprog", counted)

    def of(self, question):
        package = str(Path(mo.__file__).parent)

        def count(frame, event, _arg):
            self.calls += event == "call" and frame.f_code.co_filename.startswith(package)

        self.calls = self.programs = 0
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            question()
        finally:
            sys.setprofile(before)
        return self


@pytest.mark.parametrize("seed", [1067, 1580, pytest.param(1738, marks=pytest.mark.slow)])
@pytest.mark.parametrize("budget", [10, 40, pytest.param(160, marks=pytest.mark.slow)])
def test_a_budget_bounds_the_work(monkeypatch, seed, budget):
    """Networks with vastly many free groups, most of which only exact sums can tell from others."""
    a, b, c, radius, _, activation = any_network(seed)
    net = network(a, b, c, activation=activation)
    work = Work(monkeypatch).of(lambda: mo.rank(net, radius=radius, budget=budget))
    assert work.calls <= 3_000 * budget + 20_000
    assert work.programs <= 10 * budget + 100


def test_free_groups_that_clash_leave_a_branch_without_a_cover():
    """Free groups compete for units: a linear program in the search has no solution."""
    b = [[-0.97, -0.44], [-0.9, -0.45], [-0.94, 0.97], [0.71, -0.01], [-0.76, -0.69], [0.03,
        -0.74], [-0.96, 0.67], [-0.7, 0.75], [-0.85, 0.35], [0.85, 0.5]]  # fmt: skip
    c = [-0.04, -0.29, -0.18, 0.1, 0.12, -0.0, 0.18, 0.23, -0.18, -0.2]
    a = [[0.8, 1.3], [-1.21, 1.28], [0.98, -0.97], [0.9, 0.95], [-1.01, 0.98], [-1.17, -0.9],
        [-1.01, -1.01], [-1.06, -1.12], [0.56, -1.13], [1.35, -0.86]]  # fmt: skip
    net = network(a, b, c)
    agrees(net, 0.5, 2)
    assert mo.rank_curve(net, radii=[0.5]).uppers.tolist() == [[2]]


def test_a_change_below_the_least_float_is_kept():
    """Two outgoing weights, each moved by half the least float: no pair of floats shows the change
    of the second.
    """
    least = 5e-324
    agrees(network(np.array([3.0, -2.0]) * least, [1.0, 1.0], [1.0, 1.0]), least, 0)


def test_a_component_has_the_graph_of_its_own_ball():
    rng = np.random.default_rng(6)
    for _ in range(20):
        b, units = random_ball(rng, 9), np.sort(rng.choice(9, 5, replace=False))
        part, own = (
            ComponentBall.of(b, units),
            ParameterBall(b.rows[units], b.outgoing[units], b.radius),
        )
        for name in ("start", "other", "sign"):
            assert np.array_equal(getattr(part.graph, name), getattr(own.graph, name))
        assert np.array_equal(part.freeable, b.freeable[units])
