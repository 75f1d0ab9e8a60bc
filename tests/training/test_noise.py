"""Stable noise against its characteristic functions; the tail index against known laws."""

from __future__ import annotations

import numpy as np
import pytest

import moduli as mo
from moduli.training.noise import KINDS, positive, radius, symmetric

ALPHAS = (0.7, 1.0, 1.3, 1.75, 1.9, 2.0)


def agrees(values, exact):
    """A mean within six standard errors."""
    assert abs(values.mean() - exact) <= 6 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_joint_characteristic_functions(alpha):
    t = np.array([0.5, -0.2, 0.9])
    exponent = {
        "iid": (np.abs(t) ** alpha).sum(),
        "rows": abs(t.sum()) ** alpha,
        "isotropic": np.linalg.norm(t) ** alpha,
    }
    for kind in KINDS:
        x = mo.stable_noise((200_000, 3), alpha, kind=kind, seed=1)
        assert np.isfinite(x).all()
        agrees(np.cos(x @ t), np.exp(-exponent[kind]))
        agrees(np.sin(x @ t), 0.0)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_one_dimension_against_scipy(alpha):
    from scipy.stats import cauchy, kstest, levy_stable, norm

    x = mo.stable_noise(2000, alpha, seed=2)
    law = {1.0: cauchy(), 2.0: norm(scale=np.sqrt(2))}.get(alpha, levy_stable(alpha, 0))
    assert kstest(x, law.cdf).pvalue > 1e-4


def test_the_positive_law():
    rng = np.random.default_rng(0)
    for a in (0.35, 0.5, 0.875, 0.95):
        x = positive(1 - rng.random(200_000), rng.standard_exponential(200_000), a)
        for s in (0.3, 1.0, 3.0):
            agrees(np.exp(-s * x), np.exp(-(s**a)))
    assert (x > 0).all()


def test_shapes_kinds_and_conventions():
    assert mo.stable_noise(5, 1.5).shape == (5,)
    x = mo.stable_noise((4, 3, 2, 2), 1.5, kind="rows", seed=3)
    assert all(len(np.unique(unit)) == 1 for unit in x)
    assert len(np.unique(x)) == 4
    one, other = (
        mo.stable_noise((4, 3), 1.5, kind="isotropic", seed=3, convention=c)
        for c in ("exact", "published")
    )
    assert np.allclose(one, np.sqrt(2) * other)
    for kind, factor in (("iid", 1.0), ("rows", np.sqrt(2))):  # N(0, 2) and N(0, 1) in that code
        exact, published = (
            mo.stable_noise((1000, 3), 2.0, kind=kind, seed=3, convention=c)
            for c in ("exact", "published")
        )
        assert np.allclose(exact, factor * published)
    with pytest.raises(ValueError, match="gives no numbers for kind='isotropic' and alpha=2"):
        mo.stable_noise((4, 3), 2.0, kind="isotropic", convention="published")
    assert np.array_equal(
        mo.stable_noise((3, 3), 1.2, seed=5), mo.stable_noise((3, 3), 1.2, seed=5)
    )
    assert radius((3,), 2.0, np.random.default_rng(0)).tolist() == [np.sqrt(2)] * 3


def test_extreme_uniforms_stay_finite():
    q = np.array([2.0**-53, 2.0**-30, 1.0, 1.0 - 2**-53])
    with np.errstate(divide="ignore"):
        for alpha in (0.5, 1.0, 1.5, 1.99):
            for w in (1e-17, 1.0, 36.0):
                x = symmetric(q, np.full(4, w), alpha)
                assert not np.isnan(x).any()
                assert not np.isnan(positive(q, np.full(4, w), alpha / 2)).any()


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.0},
        {"alpha": 2.1},
        {"alpha": float("nan")},
        {"alpha": 1.5, "kind": "columns"},
        {"alpha": 1.5, "convention": "x"},
    ],
)
def test_refusals(options):
    with pytest.raises(ValueError, match=r"alpha=|kind=|convention="):
        mo.stable_noise((3, 3), **options)


@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.0, 1.5, 1.9, 1.99])
def test_sizes_against_the_formula_in_high_precision(alpha):
    """Chambers, Mallows and Stuck with 40 digits; what is lost near v = 0 is absolute."""
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(0)
    q = np.concatenate([rng.random(100), 2.0 ** -rng.integers(1, 53, 100)])
    w = rng.standard_exponential(200)
    with mpmath.workdps(40):
        for one, wait, found in zip(q, w, symmetric(q, w, alpha), strict=True):
            a, v = mpmath.mpf(alpha), mpmath.pi / 2 * (1 - mpmath.mpf(one))
            rest = (mpmath.cos((1 - a) * v) / mpmath.mpf(wait)) ** ((1 - a) / a)
            exact = mpmath.sin(a * v) / mpmath.cos(v) ** (1 / a) * rest
            assert abs(found - exact) <= 1e-13 * abs(exact / a) + 1e-14 * rest


def test_shapes_that_are_none():
    with pytest.raises(ValueError, match="at least one axis"):
        mo.stable_noise((), 1.5)


# Tail index -----------------------------------------------------------------------------------------------------


def test_the_default_covers_the_truth():
    inside, values = 0, []
    for seed in range(100):
        found = mo.tail_index(mo.stable_noise(20_000, 1.75, seed=seed))
        inside += found.low <= 1.75 <= found.high
        values.append(found.value)
    assert inside >= 90
    assert abs(np.mean(values) - 1.75) < 0.02


@pytest.mark.parametrize("method", ["log-moment", "blocks", "characteristic"])
@pytest.mark.parametrize("alpha", [1.2, 1.5, 1.9])
def test_methods_agree_with_the_law(method, alpha):
    values = [
        float(mo.tail_index(mo.stable_noise(20_000, alpha, seed=seed), method=method))
        for seed in range(10)
    ]
    assert abs(np.mean(values) - alpha) < 0.1


def test_hill_is_biased_as_documented():
    values = [
        float(mo.tail_index(mo.stable_noise(20_000, 1.9, seed=seed), method="hill"))
        for seed in range(10)
    ]
    assert np.mean(values) > 2.3


METHODS = ("log-moment", "blocks", "characteristic", "hill")


def student(degrees, count, seed):
    return np.random.default_rng(seed).standard_t(degrees, count)


@pytest.mark.parametrize("method", METHODS)
def test_neither_centre_nor_scale_matters(method):
    for sample in (mo.stable_noise(5000, 1.3, seed=1), student(3, 5000, 1), student(1, 5001, 2)):
        plain = mo.tail_index(sample, method=method)
        for shift, scale in ((10, 1), (-1e4, 1), (0, 1e6), (1e3, 1e-3), (100, 100)):
            moved = mo.tail_index(shift + scale * sample, method=method)
            for name in ("value", "low", "high"):
                assert getattr(moved, name) == pytest.approx(getattr(plain, name), rel=1e-3), (
                    shift,
                    scale,
                    name,
                )


@pytest.mark.parametrize("method", ["log-moment", "blocks", "characteristic"])
@pytest.mark.parametrize("alpha", [0.7, 1.0, 1.5, 1.9, 1.97, 2.0])
def test_intervals_of_moved_samples_hold_as_often_as_they_say(method, alpha):
    count, inside = 60, 0
    for seed in range(count):
        found = mo.tail_index(10 + 3 * mo.stable_noise(2000, alpha, seed=seed), method=method)
        assert 0 <= found.low <= found.value <= found.high <= 2
        inside += found.low <= alpha <= found.high
    assert inside >= 0.95 * count - 6 * (0.95 * 0.05 * count) ** 0.5


@pytest.mark.parametrize("method", METHODS)
def test_student_with_one_degree_is_cauchy(method):
    count = 60
    found = [
        mo.tail_index(7 + 0.5 * student(1, 4000, seed), method=method) for seed in range(count)
    ]
    assert (
        sum(e.low <= 1 <= e.high for e in found) >= 0.95 * count - 6 * (0.95 * 0.05 * count) ** 0.5
    )


def test_sums_beyond_float64_are_refused():
    x = np.random.default_rng(0).uniform(-1.0, 1.0, 1000) * 1.7e308
    with pytest.raises(ValueError, match="exceed float64"):
        mo.tail_index(x, method="blocks")
    assert mo.tail_index(x).value == pytest.approx(mo.tail_index(x * 2.0**-900).value, rel=1e-9)


def test_weights_need_their_start_and_the_kind_of_noise():
    rng = np.random.default_rng(0)
    start = rng.uniform(-0.5, 0.5, (2000, 30))
    for kind in KINDS:
        after = start + 0.05 * mo.stable_noise(start.shape, 1.5, kind=kind, seed=7)
        found = mo.tail_index(after, start=start, kind=kind)
        assert found.low <= 1.5 <= found.high
        assert found.count == (60_000 if kind == "iid" else 2000)
    assert float(mo.tail_index(after)) > 1.7  # without its start


def test_what_is_no_sample_is_refused():
    x = mo.stable_noise((500, 10), 1.5, kind="rows", seed=1)
    with pytest.raises(ValueError, match=r"90 % of the values repeat.*kind='rows'"):
        mo.tail_index(x)
    for bad, said in ((np.arange(50.0), "at least 100"), (np.full(200, np.nan), "not finite")):
        with pytest.raises(ValueError, match=said):
            mo.tail_index(bad)
    with pytest.raises(ValueError, match="log-moment, blocks"):
        mo.tail_index(np.arange(200.0), method="magic")
    with pytest.raises(ValueError, match="one row per unit"):
        mo.tail_index(np.arange(200.0), kind="rows")
