"""Searches for frames, the floor, copies and averages: against closed forms, sampling and fits."""

import json

import numpy as np
import pytest

import moduli as mo
from moduli.compression.average.closed_form import ShallowNetwork
from moduli.compression.average.fit import Population, fit
from moduli.compression.average.frames import Constant, best_frame, copy_average_loss, floor
from moduli.compression.average.gaussian_expectations import UnitLaw
from moduli.compression.average.mean_field_limit import strength


def test_searches_find_the_simplex_and_no_less():
    for units, inputs in ((1, 2), (2, 3), (3, 2)):
        found = best_frame(units, inputs, starts=6)
        assert found.loss == pytest.approx(1 - strength(units) / (2 * np.pi), abs=1e-7)
        lengths = np.linalg.norm(found.rows, axis=1)
        products = (found.rows @ found.rows.T) / np.outer(lengths, lengths)
        assert np.allclose(products[~np.eye(units, dtype=bool)], -1 / max(1, units - 1), atol=2e-3)


def test_beyond_the_simplex(shared):
    """The stored optima of other searches are reached; none is below the floor, and all gains over
    the largest simplex are small.
    """
    cases = json.loads((shared / "cases" / "etf.json").read_text())["multistart_optima"]
    beyond = [c for c in cases if c["M"] > c["d"] + 1 and c["d"] <= 3]
    assert beyond
    for c in beyond[:3]:
        found = best_frame(c["M"], c["d"], starts=12).loss
        assert found <= c["best"] + 1e-5
        assert floor(c["d"]) < found < 1 - strength(c["d"] + 1) / (2 * np.pi)


def test_the_loss_is_that_of_sampling():
    for activation in ("relu", "gelu", "abs"):
        found = best_frame(3, 2, activation, starts=3)
        x = np.random.default_rng(0).standard_normal((200_000, 2))
        student = np.asarray(mo.Activation(activation)(x @ found.rows.T)) @ found.outer
        assert np.square(1 - student).mean() == pytest.approx(found.loss, rel=0.05)


@pytest.mark.parametrize("activation", ["relu", "gelu", "softplus"])
def test_gradients(activation):
    goal, rng = Constant(mo.Activation(activation), 3), np.random.default_rng(0)
    row, step, g, h = (rng.standard_normal(s) for s in ((4, 3), (4, 3), (4, 4), (4, 1)))

    def value(t):
        k, r, _ = goal.system(UnitLaw(np.zeros(4), row + t * step), slopes=False)
        return float((g * k).sum() + (h * r).sum())

    _, by_row = goal.system(UnitLaw(np.zeros(4), row))[2](g, h)
    assert (value(1e-4) - value(-1e-4)) / 2e-4 == pytest.approx(
        float((by_row * step).sum()), rel=1e-5
    )


def test_the_floor_is_what_many_units_reach():
    """1 - (E|x|)^2 / d; units all around the circle come near it, random students stay above."""
    rng = np.random.default_rng(0)
    for inputs in (2, 3, 10):
        x = np.linalg.norm(rng.standard_normal((400_000, inputs)), axis=1)
        assert floor(inputs) == pytest.approx(1 - x.mean() ** 2 / inputs, abs=5e-3)
    turn = 2 * np.pi * np.arange(40) / 40
    goal = Constant(mo.Activation("relu"), 2)
    for rows in (np.column_stack([np.cos(turn), np.sin(turn)]), rng.standard_normal((40, 2))):
        k, r, _ = goal.system(UnitLaw(np.zeros(40), rows), exact=True, slopes=False)
        left = 1 - float((r.T @ np.linalg.lstsq(k, r, rcond=1e-12)[0])[0, 0])
        assert floor(2) - 1e-9 < left < floor(2) + 0.01


def test_copies_and_averages_are_critical_values():
    """Nothing better is found for these."""
    for units, students in ((2, 1), (3, 2), (4, 3)):
        target = ShallowNetwork(
            mo.Activation("erf"),
            UnitLaw(np.zeros(units), np.eye(units) / 2**0.5),
            np.ones((units, 1)),
            np.zeros(1),
        )
        goal = Population(target, biases=False)
        found = min(fit(goal, students, np.random.default_rng(s)).square for s in range(3))
        assert found == pytest.approx(copy_average_loss(units, students), rel=1e-4)


@pytest.mark.slow
def test_copies_and_averages_are_not_always_best():
    """The stored value of six units and five students: searches find less."""
    six = mo.Network.mlp(np.eye(6) / 2**0.5, np.zeros(6), np.ones((1, 6)), [0.0], activation="erf")
    least = mo.compress(six, units=5, on=mo.Gaussian(), biases=False).error.absolute ** 2
    assert least == pytest.approx(0.0222806, rel=1e-4)
    assert least < copy_average_loss(6, 5)


def test_refusals():
    with pytest.raises(mo.ArgumentError, match="mean of an odd unit"):
        best_frame(2, 2, "tanh")
    with pytest.raises(mo.ArgumentError, match="no Gaussian expectations"):
        best_frame(2, 2, "mish")
    with pytest.raises(mo.ArgumentError, match="at least one"):
        best_frame(0, 2)
    with pytest.raises(mo.ArgumentError, match="from 1 to 3"):
        copy_average_loss(3, 4)
    with pytest.raises(mo.ArgumentError, match="at least 1"):
        floor(0)
