"""Students of many starts: without biases, never worse with more units, near the best of many."""

import json
from itertools import pairwise

import numpy as np
import pytest

import moduli as mo
from moduli.compression.average.closed_form import ShallowNetwork
from moduli.compression.average.fit import Empirical, Fit, Population, descend, project
from moduli.compression.average.gaussian_expectations import UnitLaw, Whitening
from moduli.compression.average.restarts import Restarts, _promising, copy_and_average, grown


def network(kind, units, inputs, outputs, seed=0, biases=1.0):
    rng = np.random.default_rng(seed)
    rows, outer = rng.standard_normal((units, inputs)), rng.standard_normal((outputs, units))
    hidden, last = biases * rng.standard_normal(units), biases * rng.standard_normal(outputs)
    return mo.Network.mlp(rows, hidden, outer, last, activation=kind)


def plain_best(goal, count, tries, seed=7):
    """Random starts alone, each to its end."""
    rng = np.random.default_rng(seed)
    width, best = goal.units.row.shape[1], np.inf
    size = np.sqrt(goal.units.variance.mean() / width)
    for _ in range(tries):
        means = goal.units.mean.std() * rng.standard_normal(count)
        start = UnitLaw(means, size * rng.standard_normal((count, width)))
        best = min(best, project(goal, descend(goal, goal.admissible(start), 300)).square)
    return best


LAWS = [mo.Gaussian(), mo.Gaussian([0.5, -1.0, 0.2], [1.0, 0.3, 2.0])]


@pytest.mark.parametrize("kind", ["relu", "tanh"])
@pytest.mark.parametrize("on", LAWS)
def test_students_without_biases_have_none(kind, on):
    """Whatever the mean of the inputs and the network's own biases; the error is the distance."""
    net = network(kind, 8, 3, 2)
    small = mo.compress(net, units=3, on=on, biases=False, starts=0)
    assert small.network.widths == (3, 3, 2)
    assert not any(layer.bias.any() for layer in small.network.layers)
    apart = mo.distance(net, small.network, on=on)
    assert small.error.absolute == pytest.approx(apart.extra["value"], rel=1e-6)
    x = on.sample(100_000, 3, 1)
    truth = net.logits(x)
    gap = np.square(small.network.logits(x) - truth).sum(axis=1).mean()
    assert np.sqrt(gap) == pytest.approx(small.error.absolute, rel=0.05)
    size = np.sqrt(np.square(truth).sum(axis=1).mean())
    assert small.error.relative == pytest.approx(small.error.absolute / size, rel=0.05)
    map_ = np.linalg.lstsq(x, truth, rcond=None)[0]  # the best linear map has no constant either
    rest = np.sqrt(np.square(x @ map_ - truth).sum(axis=1).mean())
    assert small.linear.absolute == pytest.approx(rest, rel=0.05)
    assert json.loads(json.dumps(small.to_json()))["biases"] is False
    assert "none" in dict(small.rows())["biases"]


def test_without_biases_on_samples():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 3)) + 1
    net = network("gelu", 10, 3, 1)
    small = mo.compress(net, units=4, on=mo.Samples(x), biases=False, starts=0)
    assert not any(layer.bias.any() for layer in small.network.layers)
    gap = np.sqrt(np.square(small.network.logits(x) - net.logits(x)).mean())
    assert gap == pytest.approx(small.error.absolute, rel=1e-6)
    hidden = np.asarray(small.network.layers[0](x))
    best = np.linalg.lstsq(hidden, net.logits(x), rcond=None)[0]  # of these units
    assert gap == pytest.approx(np.sqrt(np.square(hidden @ best - net.logits(x)).mean()), rel=1e-6)


@pytest.mark.parametrize("kind", ["relu", "tanh", "gelu"])
def test_gradients_without_biases(kind):
    """Rows move the means along, where the inputs have one."""
    rng = np.random.default_rng(2)
    net, law = network(kind, 6, 3, 2), mo.Gaussian([0.5, -1.0, 0.2], [1.0, 0.3, 2.0])
    whitening = Whitening.of(law, 3)
    target = ShallowNetwork.of(net, whitening)
    z = rng.standard_normal((400, 3))
    values = net.logits(law.mean + z @ whitening.root.T)
    for goal in (
        Population(target, biases=False, center=whitening.center),
        Empirical(
            z, values, target.activation, target.units, target.outer, center=whitening.center
        ),
    ):
        row, step = rng.standard_normal((3, 3)), rng.standard_normal((3, 3))
        g, h = rng.standard_normal((3, 3)), rng.standard_normal((3, 2))

        def value(t, goal=goal, row=row, step=step, g=g, h=h):
            units = goal.admissible(UnitLaw(np.zeros(3), row + t * step))
            k, r, _ = goal.system(units, slopes=False)
            return float((g * k).sum() + (h * r).sum())

        dm, dr = goal.system(goal.admissible(UnitLaw(np.zeros(3), row)))[2](g, h)
        slope = float(((dr + np.outer(dm, goal.offset)) * step).sum())
        difference = (value(1e-4) - value(-1e-4)) / 2e-4
        kink = isinstance(goal, Empirical) and kind == "relu"
        assert difference == pytest.approx(slope, rel=2e-2 if kink else 1e-5)


def test_the_problem_of_the_paper_can_be_posed():
    """A target without biases: its own student of full size is exact; with biases one gains."""
    net = network("relu", 10, 4, 1, biases=0.0)
    whole = mo.compress(net, units=10, on=mo.Gaussian(), biases=False)
    assert whole.error.absolute == 0
    bare = mo.compress(net, units=3, on=mo.Gaussian(), biases=False, starts=0)
    free = mo.compress(net, units=3, on=mo.Gaussian(), starts=0)
    assert free.error.absolute < bare.error.absolute


@pytest.mark.parametrize(
    ("kind", "biases"),
    [
        ("relu", False),
        pytest.param("relu", True, marks=pytest.mark.slow),
        pytest.param("erf", False, marks=pytest.mark.slow),
    ],
)
def test_more_units_are_never_worse(kind, biases):
    net = network(kind, 8, 2, 1)
    errors = [
        mo.compress(net, units=m, on=mo.Gaussian(), biases=biases).error.absolute for m in range(4)
    ]
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(errors))


def test_a_curve_never_rises():
    """Not even where every search ends badly: each student starts from the one before, too."""
    net = network("gelu", 14, 3, 1, 3)
    curve = mo.error_curve(net, on=mo.Gaussian(), units=[1, 2, 3, 9, 10], starts=0)
    errors = [e.absolute for e in curve.students]
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(errors))
    goal = Population(ShallowNetwork.of(net, Whitening.of(mo.Gaussian(), 3)))
    search = Restarts(goal, 0, rounds=0)
    good = Restarts(goal, 0, rounds=0).best(3)
    search.known[3], search.known[4] = good, project(goal, goal.units[:4])
    assert search.known[4].square > good.square
    assert search.best_after(4, 3).square <= good.square


@pytest.mark.parametrize(
    ("kind", "biases"),
    [
        ("sin", True),
        pytest.param("erf", False, marks=pytest.mark.slow),
        pytest.param("relu", True, marks=pytest.mark.slow),
    ],
)
def test_near_the_best_of_many_plain_restarts(kind, biases):
    """benchmarks/bench_restarts.py does this for fifteen problems and sixty restarts."""
    net = network(kind, 24, 4, 1, 5, biases=float(biases))
    target = ShallowNetwork.of(net, Whitening.of(mo.Gaussian(), 4))
    goal = Population(target, biases=biases)
    found = Restarts(goal, 0).best(2)
    assert found.square <= 1.02 * plain_best(goal, 2, 20)


def test_starts_are_what_they_say():
    net = network("erf", 10, 3, 2)
    goal = Population(ShallowNetwork.of(net, Whitening.of(mo.Gaussian(), 3)))
    units = goal.units[:3]
    more = grown(goal, units, np.random.default_rng(0))
    assert np.array_equal(more.row[:3], units.row)
    least = min(
        project(goal, goal.units[[0, 1, 2, j]]).square for j in range(3, 10)
    )  # no other unit of the target explains more
    assert project(goal, more).square == pytest.approx(least, rel=1e-5)
    # k orthonormal units with equal weights: n - 1 copies and the mean direction of the others.
    plain = ShallowNetwork(
        mo.Activation("erf"), UnitLaw(np.zeros(5), np.eye(5)), np.ones((5, 1)), np.zeros(1)
    )
    found = copy_and_average(Population(plain, biases=False), 3)
    assert np.allclose(found.row[:2], np.eye(5)[:2])
    assert np.allclose(found.row[2], [0, 0, 1 / 3, 1 / 3, 1 / 3])


def test_what_goes_on():
    squares = (1.0, 1.00001, 1.2, 1.3, 1.4, 9.0)
    found = [Fit(UnitLaw(np.zeros(1), np.zeros((1, 1))), np.zeros((1, 1)), s) for s in squares]
    assert [f.square for f in _promising(found[::-1], 3)] == [1.0, 1.2, 1.3]
    assert len(_promising(found, 6)) == 6


def test_more_rounds_cost_more_and_are_deterministic():
    net = network("relu", 12, 3, 1)
    goal = Population(ShallowNetwork.of(net, Whitening.of(mo.Gaussian(), 3)))
    one = Restarts(goal, 0).best(2)
    assert np.array_equal(one.units.row, Restarts(goal, 0).best(2).units.row)
    assert Restarts(goal, 0, rounds=2).best(1).square <= Restarts(goal, 0).best(1).square * (
        1 + 1e-6
    )


def test_refusals():
    net = network("relu", 6, 3, 1)
    deep = mo.Network.mlp(
        np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), np.ones((1, 2)), [0.0], activation="tanh"
    )
    with pytest.raises(mo.ArgumentError, match="one hidden layer"):
        mo.compress(deep, units=[1, 1], on=mo.Gaussian(), biases=False)
    with pytest.raises(mo.ArgumentError, match="skip"):
        mo.compress(net, units=2, on=mo.Gaussian(), biases=False, skip=True)
    with pytest.raises(mo.ArgumentError, match="mean errors"):
        mo.compress(net, biases=False)
    with pytest.raises(mo.ArgumentError, match="starts=3"):
        mo.compress(net, on=mo.Box(-1, 1), starts=3)
    with pytest.raises(mo.ArgumentError, match="starts=-1: a whole number of rounds from 0 on"):
        mo.compress(net, units=2, on=mo.Gaussian(), starts=-1)
