"""Training runs: determinism, penalties that make units vanish, noise with a clean end, refusals."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import moduli as mo

torch = pytest.importorskip("torch")

from moduli.pytorch import fit, perceptron  # noqa: E402


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 6))
    return x, (x[:, 0] * x[:, 1] > 0).astype(int)


NOISE = {"alpha": 1.75, "sigma": 0.05, "kind": "isotropic"}


def test_the_same_seed_gives_the_same_network(points):
    module = perceptron(6, 32, 2, seed=1)
    before = copy.deepcopy(module.state_dict())
    one, two, other = (fit(module, *points, steps=50, noise=NOISE, seed=s) for s in (0, 0, 1))
    assert one.network == two.network != other.network
    assert all(
        torch.equal(before[k], v) for k, v in module.state_dict().items()
    )  # a copy was trained
    assert np.array_equal(one.start[0], module[0].weight.detach().double().numpy())
    assert one.time == pytest.approx(50 * 0.02)
    half = fit(module, *points, steps=50, noise={**NOISE, "quiet": 25}).time
    falling = fit(module, *points, steps=50, noise={**NOISE, "annealed": True}).time
    assert half == pytest.approx(25 * 0.02)
    assert falling == pytest.approx(0.02 * sum((1 - k / 50) ** 1.75 for k in range(50)))
    assert "training accuracy" in repr(one)


def test_noise_has_the_size_it_claims(points):
    module = perceptron(6, 2000, 2, seed=1)
    quiet = fit(module, *points, steps=20, lr=1e-4)
    loud = fit(module, *points, steps=20, lr=1e-4, noise={**NOISE, "alpha": 1.5, "sigma": 1.0})
    moved = (loud.network.layers[0].weight - quiet.network.layers[0].weight) / (20 * 1e-4) ** (
        1 / 1.5
    )
    values = np.cos(moved[:, 0])
    assert abs(values.mean() - np.exp(-1)) < 6 * values.std() / np.sqrt(len(values)) + 0.01


def test_units_vanish_under_a_group_lasso(points):
    module = perceptron(6, 64, 2, seed=1)
    run = fit(module, *points, steps=1500, lr=0.1, penalty={"group_lasso": 0.01})
    rows = np.abs(run.network.layers[0].weight).sum(axis=1)
    gone = int((rows == 0).sum())
    assert gone > 20
    assert mo.compress(run.network).network.units <= 64 - gone
    entries = fit(module, *points, steps=800, lr=0.1, penalty={"l1": 0.01}).network.layers[0].weight
    assert (entries == 0).mean() > 0.3


def test_clean_steps_annealing_and_clipping(points):
    module = perceptron(6, 64, 2, seed=1)
    loud = {**NOISE, "alpha": 1.2, "sigma": 0.5}
    plain = fit(module, *points, steps=200, noise=loud)
    clean = fit(module, *points, steps=200, noise={**loud, "quiet": 200})
    assert clean.network == fit(module, *points, steps=200).network
    annealed = fit(module, *points, steps=200, noise={**loud, "annealed": True})
    sizes = [
        np.linalg.norm(run.network.layers[0].weight - run.start[0])
        for run in (plain, annealed, clean)
    ]
    assert sizes[0] > sizes[2]
    assert sizes[1] != sizes[0]
    clipped = fit(module, *points, steps=200, noise=loud, clip=3.0)
    rows = np.linalg.norm(clipped.network.layers[0].weight, axis=1)
    assert rows.max() <= 3.01 * np.median(rows)
    truncated = fit(module, *points, steps=200, noise={**loud, "truncation": 4.0})
    assert truncated.redrawn > 0


def test_training_stops_at_its_target(points):
    module = perceptron(6, 64, 2, seed=1)
    run = fit(module, *points, steps=5000, lr=0.2, target=0.9)
    assert run.train >= 0.9
    assert run.steps % 100 == 0
    assert run.steps < 5000


def test_values_are_fitted_in_mean_square(points):
    x, _ = points
    y = x[:, :2] * 2.0
    run = fit(perceptron(6, 32, 2, seed=0), x, y, steps=800, lr=0.05)
    assert run.measure == "mean square error"
    assert run.train < 0.3
    deep = perceptron(6, 16, 2, depth=3, bias=True, seed=0)
    assert fit(deep, x, y, steps=10).network.widths == (6, 16, 16, 16, 2)


def test_torch_has_nothing_to_warn_of(points, recwarn):
    """Read-only arrays, targets of other shapes: copied or refused, never left to torch."""
    x, y = (np.array(part) for part in points)
    for part in (x, y):
        part.flags.writeable = False
    fit(perceptron(6, 8, 2), x, y, steps=3)
    assert not recwarn.list
    with pytest.raises(mo.ShapeError, match=r"targets have 1 values .* outputs of shape \(2,\)"):
        fit(perceptron(6, 8, 2), x, y * 1.0, steps=3)
    with pytest.raises(mo.ShapeError, match="classes run from 0 to 1 and the module has 1 outputs"):
        fit(perceptron(6, 8, 1), x, y, steps=3)
    with pytest.raises(mo.ShapeError, match="classes run from -1"):
        fit(perceptron(6, 8, 2), x, y - 1, steps=3)
    with pytest.raises(ValueError, match="one whole number for each sample"):
        fit(perceptron(6, 8, 2), x, y.astype(str), steps=3)


def test_noise_goes_where_the_graph_says(points):
    class Backwards(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = torch.nn.Linear(8, 2), torch.nn.Linear(6, 8)

        def forward(self, x):
            return self.last(torch.relu(self.first(x)))

    run = fit(Backwards(), *points, steps=1, lr=1e-9, noise={**NOISE, "sigma": 1e6})
    assert [w.shape for w in run.start] == [(8, 6)]
    before, after = run.start[0], run.module.first.weight.detach().double().numpy()
    assert np.abs(after - before).max() > 0.1
    assert float(run.module.last.weight.detach().abs().max()) < 1.0


def test_the_step_of_the_theorem_stands_beside_the_one_used(points):
    run = fit(perceptron(6, 32, 2), *points, steps=2, noise=NOISE)
    assert run.theorem_lr == pytest.approx(32 ** (-1.75 / 2 - 1))
    assert ("lr of the theorem", f"at most {run.theorem_lr:.2g} (from a summary)") in run.rows()
    assert fit(perceptron(6, 32, 2), *points, steps=2).theorem_lr is None


def test_values_stop_at_their_target(points):
    x, _ = points
    run = fit(perceptron(6, 32, 2, seed=0), x, x[:, :2] * 2.0, steps=3000, lr=0.05, target=0.5)
    assert run.train <= 0.5
    assert run.steps < 3000


def test_refusals(points):
    module = perceptron(6, 8, 2)
    for options, said in (
        ({"noise": {"beta": 1}}, "unknown beta; known: kind, alpha"), ({"penalty": {"l2": 1}}, "unknown l2"),
        ({"noise": {"alpha": 1.1, "sigma": 1e30}, "lr": 1.0}, "diverged at step"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            fit(module, *points, **{"steps": 100, **options})
    with pytest.raises(mo.ShapeError, match="400 inputs and 3 targets"):
        fit(module, points[0], [0, 1, 1])
