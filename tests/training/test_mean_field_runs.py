"""Runs in the setting of the theorem: steps against autograd, what is measured against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

import moduli as mo
from moduli.training.mean_field_runs import OUTER, mean_field_run

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 5))
CLASSES = (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)
VALUES = np.stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]], axis=1)


@pytest.mark.parametrize("y", [CLASSES, VALUES], ids=["classes", "values"])
def test_one_step_is_n_times_the_gradient(y):
    torch = pytest.importorskip("torch")
    run = mean_field_run(X, y, 7, alpha=1.5, lr=0.3, time=0.3, batch=20, seed=4)
    start, batches, _ = (np.random.default_rng(s) for s in np.random.SeedSequence(4).spawn(3))
    outputs = 3 if y.ndim == 1 else 2
    before = start.uniform(-(5**-0.5), 5**-0.5, (7, 5))
    outer = OUTER * start.choice([-1.0, 1.0], (outputs, 7))
    pick = batches.integers(0, 60, 20)
    theta = torch.tensor(before, requires_grad=True)
    z = torch.tanh(torch.tensor(X[pick]) @ theta.T) @ torch.tensor(outer).T / 7
    loss = torch.nn.functional.cross_entropy if y.ndim == 1 else torch.nn.functional.mse_loss
    loss(z, torch.tensor(y[pick])).backward()
    expected = before - 0.3 * 7 * theta.grad.numpy() + run.noise
    assert np.allclose(run.theta, expected, rtol=1e-12, atol=1e-12)


def test_the_noise_of_a_run_is_stable_noise_of_its_time():
    """Sums of K draws of scale lr^(1/alpha) have scale (lr K)^(1/alpha)."""
    run = mean_field_run(X, CLASSES, 4000, alpha=1.5, sigma=0.2, kind="iid", time=0.4, lr=0.1)
    values = np.cos(run.noise[:, 0] / (0.2 * 0.4 ** (1 / 1.5)))
    assert abs(values.mean() - math.exp(-1)) < 6 * values.std() / math.sqrt(len(values))


def test_what_is_measured_against_brute_force():
    run = mean_field_run(X, CLASSES, 50, alpha=1.75, kept=0.3, seed=2, test=(X[:30], CLASSES[:30]))
    squares = sorted(float(row @ row) for row in run.theta)
    assert run.error == pytest.approx(sum(squares[:35]) / sum(squares))
    unit = 0.05 * 2.0 ** (1 / 1.75)
    assert run.drift == pytest.approx(max(np.linalg.norm(run.theta - run.noise, axis=1)) / unit)
    bound = mo.guaranteed_share((50, 5), 1.75, kind="isotropic", kept=0.3, drift=run.drift)
    assert run.bound == float(bound)
    assert run.theorem_lr == pytest.approx(50 ** (-1.875))
    again = mean_field_run(X, CLASSES, 50, alpha=1.75, kept=0.3, seed=2)
    assert np.array_equal(again.theta, run.theta)
    whole = mean_field_run(X, VALUES, 50, alpha=1.75, kept=1.0, seed=2)
    assert (whole.error, whole.before) == (0.0, pytest.approx(whole.after))
    assert whole.change < 1e-12
    assert whole.measure == "mean square error"


def test_the_statement_holds_of_parameters_and_not_of_the_function():
    """At a fixed time the rest falls with the width; the function changes as before."""
    narrow, wide = (
        [mean_field_run(X, CLASSES, n, alpha=1.3, seed=s) for s in range(7)] for n in (50, 5000)
    )
    errors = [float(np.median([run.error for run in some])) for some in (narrow, wide)]
    changes = [float(np.median([run.change for run in some])) for some in (narrow, wide)]
    assert errors[1] < errors[0] / 2
    assert changes[1] > changes[0] / 2


def test_truth_values_are_two_classes():
    truth, numbers = (mean_field_run(X, y, 20, alpha=1.5) for y in (CLASSES > 0, (CLASSES > 0) * 1))
    assert truth.measure == "accuracy"
    assert np.array_equal(truth.theta, numbers.theta)


def test_refusals():
    for options, said in (
        ({"alpha": 2.5}, "alpha="), ({"lr": 0.0}, "lr="), ({"time": math.inf}, "time="), ({"sigma": -1.0}, "sigma="),
        ({"kept": 2.0}, "kept="), ({"sigma": 1e300, "time": 0.1, "lr": 0.01, "alpha": 0.3}, "diverged"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            mean_field_run(X, CLASSES, 20, **{"alpha": 1.5, **options})
    with pytest.raises(ValueError, match="width=0: at least one unit"):
        mean_field_run(X, CLASSES, 0, alpha=1.5)
    with pytest.raises(ValueError, match="holds -1; classes are numbered from 0"):
        mean_field_run(X, CLASSES - 1, 20, alpha=1.5)
    with pytest.raises(mo.ShapeError, match="inputs have shape"):
        mean_field_run(X, CLASSES[:5], 20, alpha=1.5)
