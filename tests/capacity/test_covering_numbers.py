"""Covering numbers against a reference in high precision, orbits against brute force, monotonicity,
volume, starts.
"""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise, permutations, product

import mpmath
import numpy as np
import pytest

import moduli as mo
from moduli.capacity.covering_numbers import (
    Class,
    log,
    log_hit_cap,
    log_hit_probability,
    log_multisets,
    published_deep,
    published_shallow,
    rational,
    root,
    row_distance,
    sorted_cover,
    volume_curve,
)

ACTIVATIONS = ("relu", "tanh", "sigmoid", "abs", "leaky_relu(0.1)", "gelu", "sin")


@mpmath.workdps(900)  # factorials of numbers of 400 digits are subtracted
def test_multisets_against_high_precision():
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 3, 10, 33, 1000, 10**5):
        for kinds in (
            1,
            2,
            3,
            31,
            32,
            33,
            34,
            1000,
            10**5,
            10**9,
            10**17,
            10**40,
            10**300,
            10**400,
            int(rng.integers(2, 10**6)),
        ):
            n = mpmath.mpf(kinds)
            exact = mpmath.loggamma(n + count) - mpmath.loggamma(n) - mpmath.loggamma(count + 1)
            for found in (log_multisets(count, kinds), log_multisets(count, log_kinds=log(kinds))):
                assert math.isclose(found, float(exact), rel_tol=1e-11, abs_tol=1e-11), (
                    count,
                    kinds,
                )


@mpmath.workdps(80)
def reference(cls, eps, kind):
    """Theorems P and S in mpmath, written from their statements."""
    mp = mpmath.mpf
    widths, acts = cls.widths, cls.activations
    depth = len(widths) - 1

    def exact(q):
        return mp(q.numerator) / q.denominator

    def lipschitz(l):
        return exact(acts[l].lipschitz)

    bounds = [exact(b) for b in cls.bounds]
    size = list(map(lambda p: (p[0] + 1) * p[1], pairwise(widths)))
    shares = list(size)
    if kind == "scaled":
        c = mp(1)
        for _ in acts:
            c = max(bounds) * max(mp(1), c)
        bounds = [mp(1)] * len(acts) + [max(bounds) * max(mp(1), c)]
        shares = [s - d for s, d in zip(size, widths[1:-1], strict=False)] + [size[-1]]
    reach = [exact(cls.input_bound)]
    lead = [mp(d) for d in widths[:-1]]
    if cls.norm == "2":
        lead[0] = mpmath.sqrt(widths[0])
    for l, s in enumerate(acts):
        h = lipschitz(l) * bounds[l] * (lead[l] * reach[l] + 1) + exact(Fraction(s.zero))
        reach.append(h if s.bound is None else min(h, exact(Fraction(s.bound))))
    total = mp(0)
    logs = []
    for l in range(depth):
        k = lead[l] * reach[l] + 1
        for j in range(l + 1, depth):
            k *= lipschitz(j - 1) * bounds[j] * widths[j]
        m = mpmath.ceil(
            bounds[l] * sum(shares) * k / (exact(eps) * shares[l]) * (1 - mp(10) ** -50)
        )
        logs.append((m, mpmath.log(m)))
    if kind == "plain":
        return sum(s * x for s, (_, x) in zip(size, logs, strict=True))
    for l in range(depth - 1):
        p, d, (m, _) = widths[l] + 1, widths[l + 1], logs[l]
        cells = (
            2 * p * m ** (p - 1)
            if kind == "scaled"
            else mpmath.ceil(m**p / 2)
            if acts[l].odd and kind == "signs"
            else m**p
        )
        if cells < mp(10) ** 1000:
            total += mpmath.loggamma(cells + d) - mpmath.loggamma(cells) - mpmath.loggamma(d + 1)
        else:
            total += d * mpmath.log(cells) - mpmath.loggamma(d + 1)
    return total + size[-1] * logs[-1][1]


@pytest.mark.parametrize(
    "widths",
    [
        (1, 1, 1),
        (2, 4, 1),
        (3, 5, 4, 2),
        (1, 3, 3, 3, 1),
        (10, 100, 1),
        (5, 10**5, 1),
        (3, 1000, 10**5, 2),
    ],
)
def test_theorems_against_high_precision(widths):
    rng = np.random.default_rng(len(widths))
    for activation in ("relu", "tanh", "sigmoid", "leaky_relu(0.25)"):
        for norm in ("inf", "2"):
            bounds = [round(float(b), 3) for b in rng.uniform(0.3, 3, len(widths) - 1)]
            cls = Class.of(widths, activation, bounds, round(float(rng.uniform(0.5, 5)), 2), norm)
            eps = Fraction(int(rng.integers(1, 500)), 997)
            found = {
                "plain": cls.log_plain(eps),
                "permuted": cls.log_permuted(eps, signs=False),
                "signs": cls.log_permuted(eps),
            }
            if cls.activations[0].homogeneous:
                found["scaled"] = cls.log_scaled(eps)
            for kind, value in found.items():
                assert math.isclose(
                    value, float(reference(cls, eps, kind)), rel_tol=1e-10, abs_tol=1e-10
                ), (
                    activation,
                    norm,
                    kind,
                )


def test_stored_values(shared):
    cases = json.loads((shared / "cases" / "complexity.json").read_text())["cases"]
    cases += json.loads((shared / "cases" / "complexity_extra.json").read_text())["cases"]
    seen = set()
    for case in cases:
        a, name, wanted = case["args"], case["function"], case["expected"]

        def cls(default="relu", a=a):
            bounds = (
                [Fraction(x) for x in a["B"]]
                if isinstance(a.get("B"), list)
                else Fraction(a.get("B", 1))
            )
            return Class.of(
                a["arch"],
                a.get("act", default),
                bounds,
                Fraction(a.get("Bx", 1)),
                a.get("norm", "inf"),
            )

        eps = Fraction(a["eps"]) if "eps" in a else None
        if name == "log_group":
            found = cls().log_group
        elif name == "log_binom_multiset":
            found = log_multisets(a["d"], log_kinds=float(a["log_cells"]))
        elif name == "sensitivities":
            found = cls().sensitivities()
        elif name == "hidden_bounds":
            found = cls().reaches()
        elif name == "log_cover_plain":
            found = cls().log_plain(eps)
        elif name == "log_cover_perm":
            found = cls().log_permuted(
                eps, signs=a.get("signs", False), uniform=a.get("rule") == "uniform"
            )
        elif name == "log_cover_relu_scaled":
            found = cls().log_scaled(eps)
        elif name == "log_cover_shallow_multiset":
            found = cls("tanh").log_shallow(eps, signs=a.get("signs", False))
        elif name == "log_shen_deep":
            found = published_deep(cls(), eps)
        elif name == "log_shen_shallow":
            found = published_shallow(
                Class.of([a["d0"], a["d1"], 1], "relu", Fraction(a["B"]), Fraction(a["Bx"])), eps
            )
        elif name == "log_cover_sorted_bias":
            found = sorted_cover(a["d"], Fraction(a["B"]), Fraction(a["delta"]))
        elif name == "log_effective_volume":
            found = cls("tanh" if a.get("signs") else "relu").log_volume()
        elif name == "log_volume_step":
            found = cls().log_volume_step(a["layer"])
        elif name == "log_peak_width":
            found = Class.of([a["d_in"], 5, a["d_out"]], "relu", Fraction(a["B"])).log_peak_width()
        elif name == "log_hit_cap":
            found = log_hit_cap(a["d"], a["p"], a["c"])
        elif name == "log_hit_probability":
            found = log_hit_probability(
                [[float(y) for y in x] for x in a["rows"]], float(a["r"]), float(a["sigma"])
            )
        else:
            continue
        seen.add(name)
        pairs = zip(found, wanted, strict=True) if isinstance(wanted, list) else [(found, wanted)]
        for x, y in pairs:
            assert math.isclose(float(x), float(y), rel_tol=1e-12, abs_tol=1e-13), case["id"]
    assert len(seen) == 16


def orbits(widths, m, signs, *, even=False):
    """Brute force: grid points modulo the group, by the least image of each; signs of even units
    leave what reads them.
    """
    cells = [c - (m - 1) / 2 for c in range(m)]
    shapes = [shape for a, b in pairwise(widths) for shape in ((b, a), (b,))]
    count = sum(math.prod(s) for s in shapes)
    groups = [
        [
            (p, s)
            for p in permutations(range(d))
            for s in (product([1, -1], repeat=d) if signs else [(1,) * d])
        ]
        for d in widths[1:-1]
    ]
    seen = set()
    total = 0
    for point in product(cells, repeat=count):
        if point in seen:
            continue
        total += 1
        parts, at = [], 0
        for shape in shapes:
            parts.append(np.reshape(point[at : at + math.prod(shape)], shape))
            at += math.prod(shape)
        for some in product(*groups):
            arrays = [p.copy() for p in parts]
            for l, (order, sign) in enumerate(some):
                order, sign = list(order), np.array(sign)
                arrays[2 * l] = arrays[2 * l][order] * sign[:, None]
                arrays[2 * l + 1] = arrays[2 * l + 1][order] * sign
                arrays[2 * l + 2] = arrays[2 * l + 2][:, order] * (1 if even else sign)
            seen.add(tuple(float(x) for p in arrays for x in p.ravel()))
    return total


@pytest.mark.parametrize(
    ("widths", "m", "signs"),
    [((1, 2, 1), 2, False), ((1, 2, 1), 3, False), ((1, 3, 1), 2, True), ((1, 2, 1), 3, True)],
)
def test_counts_of_orbits_by_brute_force(widths, m, signs):
    """Theorem P counts at least all orbits on the grid, and never fewer than grid points over the
    order of the group.
    """
    exact = orbits(widths, m, signs)
    points = m ** sum((a + 1) * b for a, b in pairwise(widths))
    order = math.prod(math.factorial(d) * (2**d if signs else 1) for d in widths[1:-1])
    n, d = widths[0] + 1, widths[1]
    rows = -(-(m**n) // 2) if signs else m**n
    theorem = math.comb(rows + d - 1, d) * m ** ((d + 1) * widths[-1])
    kinds = m ** (n + widths[-1])
    finer = math.comb((-(-kinds // 2) if signs else kinds) + d - 1, d) * m ** widths[-1]
    assert points / order <= exact <= min(theorem, points)
    assert exact == finer if not signs else exact <= finer


@pytest.mark.parametrize(
    ("widths", "m"), [((1, 2, 1), 2), ((1, 2, 1), 3), ((2, 1, 1), 3), ((1, 3, 1), 2)]
)
def test_rows_of_even_units_count_up_to_sign(widths, m, monkeypatch):
    """One hidden layer of abs: the number of orbits is that of `log_shallow`, and Theorem P counts
    them all.
    """
    exact = orbits(widths, m, True, even=True)
    cls = Class.of(widths, "abs", 1, 1)
    monkeypatch.setattr(Class, "cells", lambda self, *_, **__: [m] * len(self.bounds))
    assert cls.log_shallow(Fraction(1)) == pytest.approx(math.log(exact), abs=1e-12)
    assert cls.log_permuted(Fraction(1)) >= math.log(exact) - 1e-12
    assert (
        exact >= m ** sum((a + 1) * b for a, b in pairwise(widths)) / math.exp(cls.log_group) - 1e-9
    )


def test_signs_of_even_units_are_symmetries():
    for act, each in (
        ("abs", 2),
        ("leaky_relu(-1)", 2),
        ("tanh", 2),
        ("sin", 2),
        ("relu", 1),
        ("sigmoid", 1),
        ("gelu", 1),
    ):
        cls = Class.of([3, 5, 4, 1], act)
        assert cls.log_group == pytest.approx(math.lgamma(6) + math.lgamma(5) + 9 * math.log(each))
        assert cls.log_volume() == pytest.approx(sum(cls.sizes) * math.log(2) - cls.log_group)
        wider = Class.of([3, 6, 4, 1], act)
        assert cls.log_volume_step(1) == pytest.approx(wider.log_volume() - cls.log_volume())
    plain, up = (Class.of([3, 5, 1], act, Fraction(1, 2)) for act in ("relu", "abs"))
    eps = Fraction(1, 50)
    assert up.log_permuted(eps) == pytest.approx(
        plain.log_permuted(eps) - 5 * math.log(2), abs=1e-4
    )
    assert up.log_scaled(eps) == pytest.approx(plain.log_scaled(eps) - 5 * math.log(2), abs=1e-4)


def test_nothing_is_larger_than_the_largest_function():
    for act in ("relu", "tanh"):
        cls = Class.of([2, 3, 2], act, Fraction(1, 3), 2)
        largest = cls.bounds[-1] * (3 * cls.reaches()[-1] + 1)
        assert cls.log_covering(largest) == 0
        assert cls.log_covering(largest * Fraction(99, 100)) > 0


def test_layers_without_units_add_nothing():
    """Constant functions: an interval for each output."""
    for widths in ((3, 0, 1), (3, 4, 0, 1), (3, 0, 4, 1)):
        cls = Class.of_network(widths, "tanh", 1, 1)
        eps = Fraction(1, 10)
        assert cls.log_covering(eps) >= 0
        assert cls.log_permuted(eps) <= cls.log_plain(eps) + 1e-9
    assert Class.of_network((3, 0, 1), "relu", 1, 1).log_covering(Fraction(1, 10)) == pytest.approx(
        math.log(10)
    )
    with pytest.raises(ValueError, match="positive integer"):
        Class.of([3, 0, 1])


def test_bounds_hold_what_they_name():
    """0.1 is a decimal to some and a float, a little more than that, to others."""
    assert Class.of([1, 1], "relu", 0.1).bounds[0] == Fraction(0.1) > Fraction(1, 10)
    assert Class.of([1, 1], "relu", 0.3).bounds[0] == Fraction(3, 10) > Fraction(0.3)
    assert Class.of([1, 1], "relu", Fraction(1, 10)).bounds[0] == Fraction(1, 10)


def test_stored_orbits(shared):
    cases = json.loads((shared / "cases" / "complexity.json").read_text())["cases"]
    for case in (c for c in cases if c["function"] == "orbits_brute"):
        a = case["args"]
        assert orbits(tuple(a["arch"]), a["m"], a["signs"]) == int(float(case["expected"]))


def test_multisets_lie_between_powers():
    for count in (1, 2, 5, 100, 10**5):
        for kinds in (1, 2, 7, 10**3, 10**12, 10**60):
            found, slack = log_multisets(count, kinds), 1e-9
            assert count * log(kinds) - math.lgamma(count + 1) <= found + slack
            assert found <= count * log(kinds) + slack


def test_monotone_and_ordered():
    rng = np.random.default_rng(0)
    for _ in range(60):
        widths = [int(d) for d in rng.integers(1, 40, int(rng.integers(3, 6)))]
        activation = str(rng.choice(ACTIVATIONS))
        bound, size, eps = (float(rng.uniform(0.1, 3)) for _ in range(3))
        cls = Class.of(widths, activation, bound, size)
        one = cls.log_covering(eps)
        assert cls.log_covering(eps, symmetry=False) >= one >= 0
        assert (
            cls.log_permuted(rational(eps)) >= cls.log_plain(rational(eps)) - cls.log_group - 1e-6
        )
        assert cls.log_covering(eps / 2) >= one - 1e-9
        assert Class.of(widths, activation, 1.5 * bound, size).log_plain(
            rational(eps)
        ) >= cls.log_plain(rational(eps))
        assert Class.of(widths, activation, bound, 2 * size).log_covering(eps) >= one - 1e-9
        layer = int(rng.integers(1, len(widths) - 1))
        wider = [d + (k == layer) for k, d in enumerate(widths)]
        assert Class.of(wider, activation, bound, size).log_plain(rational(eps)) >= cls.log_plain(
            rational(eps)
        )


def test_perturbations_stay_within_the_sensitivities():
    rng = np.random.default_rng(0)
    for activation in ACTIVATIONS:
        for norm in ("inf", "2"):
            widths = (3, 6, 5, 2)
            cls = Class.of(widths, activation, [0.8, 1.2, 0.5], 2, norm)
            moved = [float(k) for k in cls.sensitivities()]
            for _ in range(20):
                delta = rng.uniform(0, 0.3, 3)
                arrays, others = [], []
                for l, (n, m) in enumerate(pairwise(widths)):
                    b = float(cls.bounds[l])
                    for shape in ((m, n), (m,)):
                        x = rng.uniform(-b, b, shape)
                        arrays.append(x)
                        others.append(np.clip(x + delta[l] * rng.choice([-1, 1], shape), -b, b))
                f, g = (mo.Network.mlp(*some, activation=activation) for some in (arrays, others))
                x = rng.uniform(-2, 2, (200, 3))
                if norm == "2":
                    x *= (2 / np.linalg.norm(x, axis=1, keepdims=True)).clip(max=1)
                assert np.abs(f(x) - g(x)).max() <= float(np.dot(moved, delta)) + 1e-12


def test_wide_networks_are_quick_enough_to_count():
    cls = Class.of([3, 10**5, 10**5, 10**5, 2], "tanh", 1, 1)
    assert math.isclose(cls.log_group, 3 * (math.lgamma(10**5 + 1) + 10**5 * math.log(2)))
    assert math.isfinite(cls.log_covering(0.01))


def test_volume_grows_until_the_peak():
    for widths, bound in (((10, 7, 1), 1), ((2, 5, 1), 1), ((1, 3, 1), 2)):
        peak = math.exp(Class.of(widths, "relu", bound).log_peak_width())
        for d in {1, 2, 10, max(1, round(peak) - 2), round(peak) + 2}:
            here, more = (Class.of((widths[0], k, widths[2]), "relu", bound) for k in (d, d + 1))
            step = here.log_volume_step(1)
            assert math.isclose(
                more.log_volume() - here.log_volume(),
                step,
                abs_tol=1e-8 * max(1, abs(here.log_volume())),
            )
            assert (step > 0) == (d + 1 < peak - 0.5) or abs(d + 1 - peak) < 1
    assert Class.of((784, 100, 10), "relu", 0.5).log_peak_width() == 0


@pytest.mark.parametrize("d", [3, 5])
def test_starts_near_a_copy_by_monte_carlo(d):
    """Disjoint balls: copies times the probability of one; six standard errors."""
    angle = 2 * np.pi * np.arange(d) / d
    rows = np.column_stack([np.cos(angle), np.sin(angle)])
    delta = row_distance(rows[:, :1], rows[:, 1])
    radius = 0.49 * delta
    expected = math.exp(log_hit_probability(rows, radius, log_copies=math.lgamma(d + 1)))
    rng = np.random.default_rng(0)
    hits, draws = 0, 400_000
    start = rng.standard_normal((draws, d, 2))
    for order in permutations(range(d)):
        hits += int((np.abs(start - rows[list(order)]).max(axis=(1, 2)) <= radius).sum())
    assert abs(hits / draws - expected) <= 6 * math.sqrt(expected / draws)


def test_separation_by_pairs():
    w, b = np.array([[1.0, 0.0], [-1.0, 0.5], [0.25, 0.0]]), np.array([0.0, 0.0, 0.0])
    assert row_distance(w, b) == 0.75
    assert row_distance(w, b, signs=True) == 0.5  # row 0 plus row 1; twice row 2 is 0.5 as well


@mpmath.workdps(50)
def test_small_radii_keep_their_digits():
    for t in (0.0, 0.3, 2.0, 9.0):
        for r in (1e-12, 1e-6, 1e-4, 1e-2, 1.0):
            exact = mpmath.log(mpmath.ncdf(mpmath.mpf(t) + r) - mpmath.ncdf(mpmath.mpf(t) - r))
            assert math.isclose(log_hit_probability([[t]], r), float(exact), rel_tol=1e-9), (t, r)


def test_rationals():
    assert rational(0.1) == Fraction(1, 10)
    assert root(16) == 4
    assert 0 < root(2) ** 2 - 2 < Fraction(1, 10**39)
    assert log(Fraction(10**400 + 1, 10**400)) == pytest.approx(0, abs=1e-300)
    for bad in (
        {"bound": 0},
        {"input_bound": -1},
        {"norm": "1"},
        {"widths": [3]},
        {"widths": [3, 0, 1]},
    ):
        with pytest.raises(ValueError, match=r"positive|inf|widths"):
            Class.of(**{"widths": [2, 2, 1], **bad})
    with pytest.raises(mo.ShapeError, match="1 activations and 3 bounds for 1 hidden layers"):
        Class.of([2, 2, 1], "relu", [1, 1, 1])
    with pytest.raises(ValueError, match="homogeneous"):
        Class.of([2, 2, 1], "tanh").log_scaled(Fraction(1))
    with pytest.raises(ValueError, match="accuracy"):
        Class.of([2, 2, 1], "tanh").log_plain(Fraction(0))


@pytest.mark.parametrize(("rule", "sizes"), [("he", (10, 40, 40)), ("xavier", (50, 80, 43))])
def test_bounds_of_random_starts(rule, sizes):
    cls = Class.of([10, 40, 40, 3], "relu", rule)
    for bound, size in zip(cls.bounds, sizes, strict=True):
        assert 0 <= float(bound) - math.sqrt(6 / size) < 1e-12
        assert bound**2 >= Fraction(6, size)
    assert mo.complexity([10, 40, 40, 3], bound=rule).cls.bounds == cls.bounds


@pytest.mark.parametrize("inputs", [2, 10, 784])
def test_the_volume_against_the_width(inputs):
    """With bounds that stay it grows first if they are above 1/2; with those of random starts it shrinks from some width on."""
    widths = [2**k for k in range(0, 15)]
    fixed, he, xavier = (volume_curve(inputs, 1, widths, bound) for bound in (1, "he", "xavier"))
    peaks = [widths[int(np.argmax(curve))] for curve in (fixed, he, xavier)]
    if inputs >= 10:  # of fewer, starts are larger than 1
        assert peaks[0] >= peaks[1] >= peaks[2]
    for curve, d in ((he, 64), (fixed, 64)):  # by hand
        b = [Fraction(1)] * 2 if curve is fixed else [math.sqrt(6 / inputs), math.sqrt(6 / d)]
        wanted = (
            d * (inputs + 1) * math.log(2 * b[0])
            + (d + 1) * math.log(2 * b[1])
            - math.lgamma(d + 1)
        )
        assert curve[widths.index(d)] == pytest.approx(wanted, rel=1e-9)
    # one further unit costs more and more: once it shrinks, it shrinks
    for curve in (he, xavier):
        steps = np.sign(np.diff(curve))
        assert (np.diff(steps) <= 0).all()
        assert steps[-1] < 0
    # the claim of the paper holds at every width where entries are below 1/2
    if inputs > 24:
        assert peaks[1] == peaks[2] == 1
