"""Random wide targets: closed forms against draws and quadrature, planted power laws, regimes."""

from __future__ import annotations

import math

import numpy as np
import pytest

import moduli as mo
from moduli.compression.average.mean_field_limit import angular, etf, isotropic
from moduli.compression.average.random_targets import (
    Estimate,
    _products,
    expected_loss,
    experiment,
    exponent,
    limit_loss,
    random_target,
)
from moduli.kernel.errors import ArgumentError


@pytest.mark.parametrize("rho", [1.0, 0.3, -0.25, -1.0])
def test_products_over_the_circle_by_quadrature(rho):
    turn = 2 * np.pi * np.arange(20_000) / 20_000
    apart = math.acos(rho)
    direct = np.mean(angular(np.cos(turn)) * angular(np.cos(turn - apart)))
    assert _products(2, rho) == pytest.approx(direct, rel=1e-8)


def test_products_over_spheres_by_draws():
    rng = np.random.default_rng(0)
    for d in (3, 7):
        w = rng.standard_normal((400_000, d))
        w /= np.linalg.norm(w, axis=1)[:, None]
        for rho in (1.0, -0.5):
            v = np.zeros(d)
            v[:2] = rho, math.sqrt(1 - rho**2)
            both = angular(w[:, 0]) * angular(w @ v)
            error = both.std() / math.sqrt(len(w))
            assert abs(both.mean() - _products(d, rho)) < 6 * error


@pytest.mark.parametrize("size", [(1, 3, 1), (12, 2, 3), (20, 5, 4), (40, 10, 11)], ids=str)
def test_the_expected_loss_against_draws(size):
    units, inputs, students = size
    (cell,) = experiment([units], [inputs], [students], draws=80, levels=False).cells
    value, error = cell.loss("frame")
    assert cell.expected == expected_loss(units, inputs, students)
    assert abs(value - cell.expected) < 6 * error


def test_losses_are_those_of_networks_on_samples():
    """One target, one student with these rows, sampled: not by Gaussian expectations."""
    (cell,) = experiment([9], [3], [3], draws=2, levels=False).cells
    target = random_target(9, 3, np.random.default_rng([0, 9, 3, 0]))
    x = np.random.default_rng(1).standard_normal((200_000, 3))
    y = target(x)[:, 0]
    hidden = np.maximum(x @ etf(3, 3).T, 0)
    v = np.linalg.lstsq(hidden, y, rcond=None)[0]
    assert np.mean(y**2) == pytest.approx(cell.square[0], rel=0.03)
    assert np.mean((y - hidden @ v) ** 2) == pytest.approx(cell.left["frame"][0], rel=0.03)
    field = mo.mean_field(target)
    exact = field.loss(3, "exact") * field.square
    assert cell.left["turned"][0] == pytest.approx(exact, rel=1e-6)


def test_very_wide_targets_reach_the_limit():
    for d, m in ((2, 3), (10, 5), (30, 8)):
        assert expected_loss(10**9, d, m) == pytest.approx(limit_loss(d, m), abs=1e-8)
        gaps = [expected_loss(n, d, m) - limit_loss(d, m) for n in (10**4, 10**5)]
        assert gaps[0] / gaps[1] == pytest.approx(10, rel=1e-2)
        assert limit_loss(d, m) == pytest.approx(
            1 - isotropic(d) * np.linalg.inv(angular(etf(m, d) @ etf(m, d).T)).sum(), abs=1e-12
        )


def test_a_hundred_units_are_far_from_the_limit_and_the_correction_is_not():
    """The limit is off by several standard errors, the expected loss is not; of a turned frame S2 says it."""
    (cell,) = experiment([100], [10], [5], draws=30, levels=False).cells
    value, error = cell.loss("frame")
    assert value - cell.limit > 4 * error
    assert abs(value - cell.expected) < 6 * error
    turned, _ = cell.loss("turned")
    assert turned < value - 6 * error
    fields = [mo.mean_field(random_target(100, 10, s)) for s in range(4)]
    for field in fields:
        assert field.loss(5, "S2") == pytest.approx(field.loss(5, "exact"), rel=0.03)
        assert abs(field.loss(5, "S-iso") - field.loss(5, "exact")) > 0.1 * field.loss(5, "exact")


def test_exponents_of_planted_laws_have_honest_errors():
    rng, sizes = np.random.default_rng(0), np.array([10, 30, 100, 300, 1000])
    for power in (-0.5, -1.0):
        scores = []
        for _ in range(300):
            noise = rng.normal(size=(5, 20)) * 0.2 + 1
            draws = 3 * sizes[:, None] ** power * noise
            errors = draws.std(axis=1, ddof=1) / math.sqrt(20)
            means = [Estimate(m, e) for m, e in zip(draws.mean(axis=1), errors, strict=True)]
            law = exponent(sizes.tolist(), means)
            scores.append((law.power - power) / law.error)
        # the error is at most a little too large, as the misfit only widens it
        assert 0.7 < np.std(scores) < 1.2
        assert abs(np.mean(scores)) < 6 / math.sqrt(300)


def test_a_law_that_is_none_shows():
    """A sum of two powers, known well: far from any line, and the error says so."""
    sizes = [1, 10, 100, 1000]
    values = [Estimate(1 / n + 0.05, 1e-4 / n) for n in sizes]
    law = exponent(sizes, values)
    assert law.misfit > 1e3
    assert law.error > 0.05


def test_the_levels_fall_as_they_should():
    found = experiment([30, 100, 300, 1000], [10], [5], draws=8)
    for level in ("S-iso", "S1"):
        law = found.exponent(level, "units")
        assert abs(law.power + 0.5) < 6 * law.error
    law = found.exponent("gap", "units")
    assert abs(law.power + 1) < 6 * law.error


def test_copies_win_where_few_are_left_over_and_the_simplex_where_many_are():
    cells = experiment([4, 7, 200], [6], [4, 6], draws=10, levels=False).cells
    won = {(c.units, c.students): c.winner for c in cells}
    assert won[4, 4] == won[4, 6] == won[7, 6] == "copies"
    assert won[200, 4] == won[200, 6] == "turned"
    exact = next(c for c in cells if (c.units, c.students) == (4, 6))
    assert exact.loss("copies").value < 1e-12


def test_the_same_target_whatever_else_is_asked():
    one = experiment([20], [4], [3], draws=3, levels=False).cells[0]
    two = experiment([10, 20], [4, 5], [2, 3], draws=5, levels=False).cells
    same = next(c for c in two if (c.units, c.inputs, c.students) == (20, 4, 3))
    assert same.square[:3].tolist() == one.square.tolist()
    assert same.left["copies"][:3].tolist() == one.left["copies"].tolist()


def test_what_cannot_be_asked_is_said():
    with pytest.raises(ArgumentError, match="draws"):
        experiment([5], [3], [2], draws=1)
    with pytest.raises(ArgumentError, match="students"):
        experiment([5], [3], [9])
    with pytest.raises(ArgumentError, match="inputs"):
        expected_loss(5, 1, 1)
    with pytest.raises(ArgumentError, match="three"):
        exponent([1, 2], [Estimate(1, 1), Estimate(1, 1)])
    with pytest.raises(ArgumentError, match="positive"):
        exponent([1, 2, 3], [Estimate(1, 1), Estimate(-1, 1), Estimate(1, 1)])
    found = experiment([5, 6, 7], [3, 4], [2], draws=2, levels=False)
    with pytest.raises(ArgumentError, match="same in all"):
        found.exponent("frame", "units")
    for of in ("S2", "nothing"):  # not measured, not known
        with pytest.raises(ArgumentError, match=f"of='{of}'"):
            found.exponent(of, "units")
    with pytest.raises(ArgumentError, match="along"):
        found.exponent("frame", "students")
