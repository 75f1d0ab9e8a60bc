"""What smaller rows of noise hold at most: enclosures against closed forms and 40 digits, bounds
against draws.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

import moduli as mo
from moduli.training.guarantees import (
    _cells,
    _chi_square,
    _exceed_log,
    _fails,
    _Law,
    _law,
    _product,
    _squares,
    _sum,
)
from moduli.training.noise import positive

LEVELS = 1e-6 * 1.015 ** np.arange(2400)


def lost(squares, kept):
    """Of each row of samples: what its smaller entries hold of the whole."""
    ordered = np.sort(squares, axis=-1)
    gone = ordered.shape[-1] - math.floor(kept * ordered.shape[-1])
    return ordered[..., :gone].sum(axis=-1) / ordered.sum(axis=-1)


def encloses(law, exact, within):
    low, high = law
    assert (low <= exact).all()
    assert (exact <= high).all()
    assert (high - low).max() < within


# The law of a row ---------------------------------------------------------------------------------


def test_squares_of_cauchy_and_gaussian_numbers():
    t = np.sqrt(LEVELS)
    encloses(_squares(1.0, LEVELS), 2 / np.pi * np.arctan(1 / t), 0.01)
    encloses(_squares(2.0, LEVELS), np.array([math.erfc(x / 2) for x in t]), 0.01)


@pytest.mark.parametrize("alpha", [0.6, 1.3, 1.75, 1.95])
def test_squares_of_stable_numbers_against_scipy(alpha):
    from scipy.stats import levy_stable

    levels = LEVELS[600:1250:50]  # beyond, scipy's tail is 0
    encloses(_squares(alpha, levels), 2 * levy_stable(alpha, 0).sf(np.sqrt(levels)), 0.01)


def test_far_tails_are_relatively_sharp():
    """P(|X| > t) t^alpha tends to 2 Gamma(alpha) sin(pi alpha / 2) / pi."""
    for alpha in (0.7, 1.5, 1.9):
        t = np.array([1e4, 1e6])
        limit = 2 * math.gamma(alpha) * math.sin(math.pi * alpha / 2) / math.pi
        low, high = _squares(alpha, t**2)
        assert (low * t**alpha < limit).all()
        assert (high * t**alpha > limit).all()
        assert (high / low < 1.02).all()


@pytest.mark.parametrize("a", [0.3, 0.6, 0.75, 0.95])
def test_sizes_of_positive_numbers_in_high_precision(a):
    mpmath = pytest.importorskip("mpmath")
    cells = _cells(1e-18)[1:-1:97]
    found = positive(cells, np.ones(len(cells)), a)
    assert (np.diff(found) < 0).all()
    with mpmath.workdps(40):
        for q, value in zip(cells, found, strict=True):
            u = mpmath.pi * (1 - mpmath.mpf(q))
            exact = mpmath.sin(a * u) / mpmath.sin(u) ** (1 / mpmath.mpf(a))
            exact *= mpmath.sin((1 - mpmath.mpf(a)) * u) ** (1 / mpmath.mpf(a) - 1)
            assert abs(value / exact - 1) < 2.0**-34  # sixteen times inside the margin


@pytest.mark.parametrize("degrees", [1, 2, 7, 140, 3000])
def test_chi_squares_sums_and_products(degrees):
    from scipy.stats import chi2, f

    encloses(_chi_square(degrees, LEVELS), chi2(degrees).sf(LEVELS), 0.02)
    if degrees > 7:
        return
    square = _Law(LEVELS[0], *_chi_square(degrees, LEVELS))
    both = _sum(square, square)
    encloses(both[1:], chi2(2 * degrees).sf(both.levels), 0.05)
    # 2A is 1 / chi^2_1 for the 1/2-stable A: chi^2_d / chi^2_1 is d times Fisher's F
    law = _law("isotropic", 1.0, degrees, 100)
    encloses(law[1:], f(degrees, 1).sf(law.levels / degrees), 0.04)


def test_products_of_what_is_known_at_few_levels():
    """Upper and lower ends against all pairs of two laws with atoms between the levels."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        atoms = [0.5 * 1.015 ** (12 * rng.random(6)) for _ in range(2)]
        levels = 0.5 * 1.015 ** np.arange(12)
        one, two = (
            _Law(0.5, *[np.array([(a > level).mean() for level in levels])] * 2) for a in atoms
        )
        for law, pairs in (
            (_product(one, two), np.multiply.outer(*atoms).ravel()),
            (_sum(one, two), np.add.outer(*atoms).ravel()),
        ):
            exact = np.array([(pairs > level).mean() for level in law.levels])
            assert (law.low <= exact + 1e-12).all()
            assert (exact - 1e-12 <= law.high).all()


# The bound ----------------------------------------------------------------------------------------


def test_both_steps_against_exact_probabilities():
    """Ten rows with four possible squared norms: every outcome is counted."""
    from itertools import product as outcomes

    levels = 1.0 * 1.015 ** np.arange(200)
    values, chances = levels[[10, 50, 120, 190]], np.array([0.4, 0.3, 0.2, 0.1])
    exceed = np.array([chances[values > level].sum() for level in levels])
    law = _Law(1.0, exceed, exceed)
    n, at, drift = 6, 60, 0.1
    drawn = np.array(list(outcomes(range(4), repeat=n)))
    weight = chances[drawn].prod(axis=1)
    r = np.sqrt(values[drawn])
    for gone in (1, 2, 3):
        few = weight[(values[drawn] <= levels[at]).sum(axis=1) < gone].sum()
        assert few <= _fails(law, n, gone)[at]
    for eps in (0.02, 0.1, 0.3):
        below = values[drawn] <= levels[at]
        part = np.where(below, (1 - eps) * (r + drift) ** 2, -eps * np.maximum(r - drift, 0) ** 2)
        bound = _exceed_log(law, at, eps, n, drift)
        assert weight[part.sum(axis=1) > 0].sum() <= math.exp(bound)


CASES = [
    ((200,), 1.5, "rows", 0.5), ((1000,), 1.9, "rows", 0.5), ((1000,), 2.0, "rows", 0.5), ((1000,), 1.75, "rows", 0.1),
    ((300, 8), 1.5, "isotropic", 0.5), ((300, 8), 1.75, "iid", 0.3), ((300, 8), 2.0, "isotropic", 0.5),
]  # fmt: skip


def violations(case, draws, seed=0):
    shape, alpha, kind, kept = case
    bound = float(mo.guaranteed_share(shape, alpha, kind=kind, kept=kept))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        x = mo.stable_noise(shape, alpha, kind=kind, seed=rng)
        found.append(lost(np.square(x.reshape(shape[0], -1)).sum(axis=1), kept))
    return bound, np.array(found)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bounds_hold_and_are_near_what_draws_give(case):
    bound, found = violations(case, 300)
    assert (found > bound).mean() <= 0.05  # the chance of one violation is at most that
    assert bound <= 4 * np.quantile(found, 0.95)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[:5], ids=str)
def test_bounds_hold_in_ten_thousand_layers(case):
    bound, found = violations(case, 10_000, seed=1)
    assert (found > bound).mean() <= 0.05
    assert bound <= 4 * np.quantile(found, 0.95)


def test_drift_against_an_adversary():
    """Rows move by as much as they may: what is small grows, what is large shrinks."""
    n, alpha, drift, kept = 300, 1.5, 0.5, 0.5
    bounds = [float(mo.guaranteed_share((n, 4), alpha, drift=d, kept=kept)) for d in (0.0, drift)]
    assert bounds[0] < bounds[1] < 1
    rng, found = np.random.default_rng(3), []
    for _ in range(500):
        norms = 2 * np.abs(mo.stable_noise((n,), alpha, seed=rng))
        middle = np.median(norms)
        moved = np.where(norms < middle, norms + drift, np.maximum(norms - drift, 0))
        found.append(lost(moved**2, kept))
    assert (np.array(found) > bounds[1]).mean() <= 0.05


def test_more_rows_more_confidence_fewer_kept():
    share = mo.guaranteed_share
    by_width = [float(share((n, 1), 1.5)) for n in (100, 1000, 10_000, 100_000)]
    assert by_width == sorted(by_width, reverse=True)
    assert by_width[3] < by_width[2] / 2  # like rows^(1 - 2 / alpha), which is .46 of it
    assert by_width[2] < 0.029  # what binomial and Bernstein bounds with levels above give
    by_confidence = [float(share((1000, 1), 1.5, confidence=c)) for c in (0.5, 0.9, 0.99)]
    assert by_confidence == sorted(by_confidence)
    by_kept = [float(share((1000, 1), 1.5, kept=k)) for k in (0.0, 0.2, 0.6, 1.0)]
    assert by_kept == sorted(by_kept, reverse=True)
    assert (by_kept[0], by_kept[-1]) == (1.0, 0.0)
    assert float(share((1, 1), 1.5)) == 1.0


def test_gaussian_noise_has_a_floor_in_closed_form():
    found = mo.guaranteed_share((100_000, 1), 2.0)
    z = 0.6744897501960817  # half of a normal law lies within
    exact = 0.5 - 2 * z * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    assert found.floor == pytest.approx(exact, rel=1e-12)
    assert found.floor < found.error < 1.2 * found.floor
    rows = np.square(np.random.default_rng(0).standard_normal((200_000, 8))).sum(axis=1)
    floor = mo.guaranteed_share((100, 8), 2.0, kind="iid").floor
    assert lost(rows, 0.5) == pytest.approx(floor, rel=0.01)
    with pytest.raises(mo.Undecided, match=r"limit of many rows Gaussian noise loses about 0\.07"):
        mo.guaranteed_width(0.05, 2.0)
    assert mo.guaranteed_share((100, 8), 1.9).floor == 0


@pytest.mark.parametrize(("error", "alpha", "options"), [
    (0.05, 1.5, {}), (0.1, 2.0, {}), (0.2, 1.75, {"kind": "isotropic", "entries": 5, "kept": 0.6}),
    (0.1, 1.5, {"drift": 0.3, "confidence": 0.99}),
])  # fmt: skip
def test_widths_are_the_first_of_their_search(error, alpha, options):
    width = mo.guaranteed_width(error, alpha, **options)
    rest = {**options}
    entries = rest.pop("entries", 1)
    assert float(mo.guaranteed_share((width, entries), alpha, **rest)) <= error
    assert float(mo.guaranteed_share((width - 1, entries), alpha, **rest)) > error


def test_no_width_that_was_tried():
    with pytest.raises(
        mo.Undecided, match=r"error=0\.02: not certified at .* 4, \.\.\. and 1000000000"
    ):
        mo.guaranteed_width(0.02, 1.9)


def test_a_probability_is_not_rounded_up():
    assert (
        "probability 0.99999999"
        in mo.guaranteed_share((100, 1), 1.5, confidence=0.99999999).statement
    )


def test_gaussian_entries_and_isotropic_noise_are_one_law():
    iid, isotropic = (
        mo.guaranteed_share((500, 6), 2.0, kind=k).error for k in ("iid", "isotropic")
    )
    assert iid == isotropic


@pytest.mark.parametrize("rows", [50, 5000])
def test_levels_that_few_rows_exceed(rows):
    """The binomial tail itself: few rows may be above a level that 1e-15 of the mass exceeds."""
    high = np.array([1e-3, 1e-9, 1e-15, 1e-18])
    law = _Law(1.0, high, high)
    exact = [binom.sf(1, rows, h) for h in high]  # two rows above, so fewer than rows - 1 below
    assert (_fails(law, rows, rows - 1) >= exact).all()


def test_it_says_what_it_speaks_of():
    found = mo.guaranteed_share((5000, 784), 1.75)
    assert found.status == "bounded"
    assert "<= keeping 50 % of 5000 rows loses at most" in repr(found)
    assert found.to_json()["theorem_lr"] == pytest.approx(1.2e-7, rel=0.05)
    assert ("lr of the theorem", "at most 1.2e-07 (from a summary)") in found.rows()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 0.1}, "alpha=0.1"), ({"alpha": 2 - 1e-9}, "alpha="), ({"alpha": 2.5}, "alpha="), ({"kind": "x"}, "kind="),
        ({"kept": 1.5}, "kept="), ({"kept": math.nan}, "kept="), ({"drift": -1.0}, "drift="), ({"drift": math.inf}, "drift="),
        ({"confidence": 1.0}, "confidence="), ({"shape": ()}, "shape="), ({"shape": (0, 3)}, "shape="),
        ({"shape": (10**10,)}, "shape="),
    ],
)  # fmt: skip
def test_refusals(options, said):
    with pytest.raises(ValueError, match=said):
        mo.guaranteed_share(**{"shape": (10, 3), "alpha": 1.5, **options})
    with pytest.raises(ValueError, match="error="):
        mo.guaranteed_width(1.5, 1.5)


def test_what_ranges_too_far_is_undecided():
    with pytest.raises(mo.Undecided, match="levels"):
        mo.guaranteed_share((10**6, 3), 0.25)
