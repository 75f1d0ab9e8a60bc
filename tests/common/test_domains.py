"""Normal inputs and samples: what is one, what is drawn from it, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import moduli as mo
from moduli.kernel.errors import ShapeError


def test_a_gaussian_of_samples_has_their_moments():
    x = np.random.default_rng(0).normal(size=(50, 3)) @ np.diag([1.0, 2.0, 0.0]) + [1.0, 0.0, 5.0]
    found = mo.Gaussian.of(x)
    assert np.allclose(found.mean, x.mean(axis=0))
    assert np.allclose(found.cov, np.cov(x.T))
    drawn = found.sample(4, 3)
    assert drawn.shape == (4, 3)
    assert np.allclose(drawn[:, 2], 5.0), "a direction without variance"
    assert np.array_equal(drawn, found.sample(4, 3)), "seeded"


def test_draws_have_the_given_moments():
    for gaussian, deviation in (
        (mo.Gaussian(1.0, 4.0), [2, 2]),
        (mo.Gaussian([0.0, 1.0], [1.0, 9.0]), [1, 3]),
    ):
        x = gaussian.sample(20_000, 2)
        six = 6 * np.array(deviation) / np.sqrt(len(x))
        assert (np.abs(x.mean(axis=0) - gaussian.mean) <= six).all()
        assert (np.abs(x.std(axis=0) - deviation) <= six).all()


def test_how_they_are_shown():
    assert repr(mo.Gaussian()) == "Gaussian()"
    assert repr(mo.Gaussian([0.0, 1.0], 2.0)) == "Gaussian(mean=[0.0, 1.0], cov=2)"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: mo.Gaussian(np.zeros((2, 2))), "mean has shape"),
        (lambda: mo.Gaussian(0.0, np.zeros((1, 1, 1))), "cov"),
        (lambda: mo.Gaussian(np.nan), "must be finite"),
        (lambda: mo.Gaussian.of(np.zeros((1, 2))), "at least two rows"),
        (lambda: mo.Samples(np.zeros(3)), "samples"),
        (lambda: mo.Samples(np.zeros((0, 3))), "samples"),
        (lambda: mo.Samples([[np.inf]]), "finite"),
    ],
)
def test_what_is_no_domain(make, said):
    with pytest.raises(ShapeError, match=said):
        make()


def test_grids_have_the_ends_of_boxes_or_none():
    assert mo.Grid().box is None
    assert repr(mo.Grid(0, 1, kernels="litert")) == "Grid(0, 1, kernels='litert')"
    assert mo.Grid({"x": (0, [1, 2])}).box.named["x"].high.tolist() == [1, 2]
    assert mo.Grid(0, 1).to_json() == {"grid": [0.0, 1.0], "kernels": None}
    with pytest.raises(ShapeError, match="exceeds"):
        mo.Grid(1, 0)
    with pytest.raises(ShapeError, match="both ends or none"):
        mo.Grid(None, 1)
    with pytest.raises(ShapeError, match="no high end"):
        mo.Grid(1)
