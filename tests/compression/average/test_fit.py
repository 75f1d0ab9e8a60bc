"""Students with fewer units: gradients, planted targets, closed-form optima, both laws, deep
networks.
"""

import json
import math

import numpy as np
import pytest

import moduli as mo
from moduli.compression.average.closed_form import ShallowNetwork
from moduli.compression.average.fit import (
    Empirical,
    Population,
    descend,
    fit,
    kmeans,
    largest,
    project,
    pursuit,
    starts,
)
from moduli.compression.average.gaussian_expectations import UnitLaw, Whitening
from moduli.compression.average.students import Narrowed, narrow, refine

KINDS = ("relu", "tanh", "erf", "gelu", "sin", "softplus")


def readout(kind, units, inputs, outputs, seed=0, bias=1.0):
    rng = np.random.default_rng(seed)
    rows = UnitLaw(bias * rng.standard_normal(units), rng.standard_normal((units, inputs)))
    return ShallowNetwork(
        mo.Activation(kind),
        rows,
        rng.standard_normal((units, outputs)),
        rng.standard_normal(outputs),
    )


def network(kind, units, inputs, outputs, seed=0):
    r = readout(kind, units, inputs, outputs, seed)
    return mo.Network.mlp(r.units.row, r.units.mean, r.outer.T, r.bias, activation=kind)


def goals(kind, skip):
    target = readout(kind, 12, 4, 2)
    yield Population(target, skip)
    z = np.random.default_rng(1).standard_normal((200, 4))
    values = target.activation(z @ target.units.row.T + target.units.mean) @ target.outer
    yield Empirical(z, values, target.activation, target.units, target.outer, skip)
    if not skip:
        yield Population(target, biases=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [False, True])
def test_gradients(kind, skip):
    """Of <G, K> + <H, R> for arbitrary G, H."""
    rng = np.random.default_rng(2)
    for goal in goals(kind, skip):
        student = UnitLaw(rng.standard_normal(3), rng.standard_normal((3, 4)))
        g, h = rng.standard_normal((3, 3)), rng.standard_normal((3, 2))

        def value(mean, row, goal=goal, g=g, h=h):
            k, r, _ = goal.system(UnitLaw(mean, row), slopes=False)
            return float((g * k).sum() + (h * r).sum())

        dm, dr = goal.system(student)[2](g, h)
        for direction in range(6):
            a, b = (
                rng.standard_normal(3) * getattr(goal, "biases", 1.0),
                rng.standard_normal((3, 4)),
            )
            step = 1e-4
            ends = [
                value(student.mean + k * step * a, student.row + k * step * b)
                for k in (-2, -1, 1, 2)
            ]
            slope = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
            kink = isinstance(goal, Empirical) and kind == "relu"
            assert slope == pytest.approx(
                float(dm @ a + (dr * b).sum()), rel=2e-2 if kink else 1e-6, abs=1e-7
            ), direction


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_with_copies_is_found_again(kind):
    """Twelve units of which each is there three times: four are enough, whatever the start."""
    base = readout(kind, 4, 5, 2)
    copies = np.tile(np.arange(4), 3)
    target = ShallowNetwork(base.activation, base.units[copies], base.outer[copies] / 3, base.bias)
    goal = Population(target)
    found = fit(goal, 4, np.random.default_rng(0))
    assert found.square < 1e-6 * goal.variance
    chosen, errors = pursuit(goal, 12)
    assert len(chosen) == 4
    assert errors[-1] < 1e-6 * goal.variance


def test_the_error_is_the_distance():
    rng = np.random.default_rng(0)
    half = rng.standard_normal((4, 2))
    law = mo.Gaussian(rng.standard_normal(4), half @ half.T)  # singular
    for kind in ("relu", "tanh", "gelu", "sin"):
        net = network(kind, 12, 4, 3)
        small = mo.compress(net, units=3, on=law)
        apart = mo.distance(net, small.network, on=law)
        assert small.error.absolute == pytest.approx(apart.extra["value"], rel=1e-6, abs=1e-7)
        assert small.network.widths == (4, 3, 3)
        x = law.sample(50_000, 4, 1)
        spread = np.sqrt(net.logits(x).var(axis=0).sum())
        assert small.error.relative == pytest.approx(small.error.absolute / spread, rel=0.05)


def test_never_worse_than_simpler_choices():
    for seed in range(3):
        goal = Population(readout("relu", 60, 8, 2, seed))
        best = fit(goal, 6, np.random.default_rng(seed)).square
        for choose in (largest, kmeans):
            assert best <= project(goal, choose(goal, 6, np.random.default_rng(seed))).square
        assert best <= pursuit(goal, 6)[1][-1]
        assert set(starts(goal, 6, np.random.default_rng(0))) == {
            "pursuit",
            "k-means",
            "random",
            "frame",
        }


def test_pursuit_agrees_with_projection():
    goal = Population(readout("erf", 30, 6, 2))
    chosen, errors = pursuit(goal, 8)
    for m in (1, 4, 8):
        assert project(goal, goal.units[np.sort(chosen[:m])]).square == pytest.approx(
            errors[m - 1], rel=1e-6
        )


def test_copy_average_values(shared):
    """Orthonormal erf teachers: one student for q units has inner norm 1/sqrt(2q - 1) and outer
    weight q.
    """
    cases = json.loads((shared / "cases" / "copy_average.json").read_text())
    for q in (2, 3, 5, 8):
        target = ShallowNetwork(
            mo.Activation("erf"),
            UnitLaw(np.zeros(q), np.eye(q) / 2**0.5),
            np.ones((q, 1)),
            np.zeros(1),
        )
        found = fit(Population(target, biases=False), 1, np.random.default_rng(0))
        expected = cases["erf_one_neuron"][str(q)]
        assert found.square == pytest.approx(expected["loss"], rel=1e-5)
        assert np.linalg.norm(found.units.row) * 2**0.5 == pytest.approx(
            expected["inner_norm"], rel=1e-2
        )
        assert abs(found.outer[0, 0]) == pytest.approx(q, rel=1e-2)
    for case in [c for c in cases["students"] if c["act"] == "erf" and c["k"] <= 4]:
        k, n = case["k"], case["n"]
        target = ShallowNetwork(
            mo.Activation("erf"),
            UnitLaw(np.zeros(k), np.eye(k) / 2**0.5),
            np.ones((k, 1)),
            np.zeros(1),
        )
        found = min(
            fit(Population(target, biases=False), n, np.random.default_rng(s)).square
            for s in range(2)
        )
        assert found <= case["copy_average"] * (1 + 1e-4)


@pytest.mark.parametrize(
    "on", [mo.Gaussian(0.2, 0.8), mo.Samples(np.random.default_rng(3).standard_normal((200, 3)))]
)
def test_goals_of_compress(on):
    net = network("gelu", 6, 3, 2)
    half = mo.compress(net, units=3, on=on)
    assert isinstance(half, Narrowed)
    assert half.status == "estimated"
    assert not half.optimal
    assert half.certificate is None
    with pytest.raises(mo.Undecided):
        half.check()
    fewer = mo.compress(net, eps=2 * half.error.absolute, on=on)
    assert fewer.error.absolute <= 2 * half.error.absolute
    assert fewer.network.units <= 3
    assert mo.compress(net, units=99, on=on).error.absolute == 0
    none = mo.compress(net, units=0, on=on)
    assert none.network.units == 0
    assert none.error.relative == pytest.approx(1, abs=1e-6)
    assert mo.compress(net, units=3, on=on, seed=0).network == half.network
    with_skip = mo.compress(net, units=2, on=on, skip=True)
    assert with_skip.error.relative < min(
        mo.compress(net, units=2, on=on).error.relative, with_skip.linear.relative
    )
    if isinstance(on, mo.Samples):
        gap = with_skip(on.x) - net.logits(on.x)
        assert np.sqrt(np.square(gap).sum(axis=1).mean()) == pytest.approx(
            with_skip.error.absolute, rel=1e-6
        )
        assert half.error.absolute == pytest.approx(
            mo.distance(net, half.network, on=on).extra["value"], rel=1e-9
        )
    else:
        x = on.sample(100_000, 3, 0)
        gap = np.square(with_skip(x) - net.logits(x)).sum(axis=1).mean()
        assert np.sqrt(gap) == pytest.approx(with_skip.error.absolute, rel=0.03)
    data = json.loads(json.dumps(half.to_json()))
    assert data["error"]["absolute"] == half.error.absolute
    assert data["slack"] is None


def test_mistakes():
    net = network("relu", 6, 3, 1)
    for options, text in (
        ({}, "give one of them"), ({"units": 2, "eps": 0.1}, "give one of them"), ({"eps": -1.0}, "positive"),
        ({"eps": math.nan}, "positive"), ({"units": [2, 2]}, "hidden widths"), ({"units": -1}, "hidden widths"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            narrow(net, mo.Gaussian(), **options)
    with pytest.raises(ValueError, match="3 inputs"):
        narrow(net, mo.Samples(np.zeros((5, 4))), units=2)
    with pytest.raises(ValueError, match="units=3"):
        mo.compress(net, units=3)
    deep = mo.Network.mlp(*[np.ones(s) for s in ((3, 2), (3,), (3, 3), (3,), (1, 3), (1,))])
    with pytest.raises(ValueError, match="skip"):
        narrow(deep, mo.Gaussian(), units=2, skip=True)


def test_units_that_no_sample_moves_get_no_outgoing_weight():
    target = readout("relu", 4, 3, 2)
    z = np.random.default_rng(1).standard_normal((50, 3))
    values = target.activation(z @ target.units.row.T + target.units.mean) @ target.outer
    goal = Empirical(z, values, target.activation, target.units, target.outer, False)
    rows = np.concatenate([target.units.row, 0.01 * target.units.row[:2]])
    found = project(goal, UnitLaw(np.concatenate([target.units.mean, [-9.0, 9.0]]), rows))
    assert not found.outer[4].any()
    assert np.abs(found.outer).max() < 1e3
    assert not project(goal, UnitLaw(np.array([-9.0]), rows[4:5])).outer.any()


def test_one_unit_in_all_of_a_deep_network_is_one_in_each_layer():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=shape) for shape in ((5, 4), 5, (4, 5), 4, (2, 4), 2)]
    found = mo.compress(
        mo.Network.mlp(*parts, activation="relu"), units=1, on=mo.Samples(rng.normal(size=(50, 4)))
    )
    assert found.network.widths == (4, 1, 1, 2)


@pytest.mark.parametrize("kind", ["relu", "tanh"])
def test_deep_networks(kind):
    rng = np.random.default_rng(0)
    shapes = ((24, 5), (24,), (16, 24), (16,), (2, 16), (2,))
    net = mo.Network.mlp(*(rng.standard_normal(s) / s[-1] ** 0.5 for s in shapes), activation=kind)
    x = rng.standard_normal((2000, 5))
    small = mo.compress(net, units=20, on=mo.Samples(x))
    assert small.network.widths == (5, 12, 8, 2)
    truth = np.sqrt(np.square(small.network.logits(x) - net.logits(x)).sum(axis=1).mean())
    assert small.error.absolute == pytest.approx(truth, rel=1e-9)
    assert small.error.relative < 0.5 * small.linear.relative
    drawn = mo.compress(net, units=[12, 16], on=mo.Gaussian())
    assert drawn.network.widths == (5, 12, 16, 2)
    assert "fresh draws" in drawn.on
    assert drawn.error.absolute == pytest.approx(
        mo.distance(net, drawn.network, on=mo.Gaussian()).extra["value"], rel=0.05
    )


def test_refinement_only_improves():
    rng = np.random.default_rng(0)
    net = network("gelu", 10, 3, 2)
    x = rng.standard_normal((300, 3))
    start = net.with_flat(net.flat() + 0.1 * rng.standard_normal(net.parameters))
    before = np.square(start.logits(x) - net.logits(x)).sum()
    better = refine(start, x, net.logits(x))
    assert np.square(better.logits(x) - net.logits(x)).sum() < 1e-3 * before
    noise = rng.standard_normal((300, 2))
    kept = refine(net, x[:20], net.logits(x[:20]) + noise[:20])
    fresh = rng.standard_normal((500, 3))
    assert np.square(kept.logits(fresh) - net.logits(fresh)).mean() < 1


def test_error_curve():
    net = network("relu", 12, 4, 2)
    curve = mo.error_curve(net, on=mo.Gaussian(), units=[2, 4, 6])
    shares = [e.unexplained for e in curve.students]
    assert shares[0] > shares[1] > shares[2]
    assert all(s.absolute <= min(m.absolute, k.absolute) for s, m, k in
               zip(curve.students, curve.magnitude, curve.kmeans, strict=True))  # fmt: skip
    assert curve.linear.relative < 1
    json.dumps(curve.to_json())
    assert curve.plot().get_xlabel() == "hidden units"
    assert [row.units for row in curve] == list(curve.to_dict()["units"]) == [2, 4, 6]
    assert curve[-1].student == shares[-1] == curve.to_dict()["student"][-1]
    assert mo.error_curve(net, on=mo.Gaussian()).units[-1] == 6
    with pytest.raises(ValueError, match="positive"):
        mo.error_curve(net, on=mo.Gaussian(), units=[0])


@pytest.mark.parametrize("kind", ["relu", "tanh"])
def test_degenerate_targets(kind):
    """Dead, constant, duplicate and antipodal units; a target that is constant; more units than
    anyone needs.
    """
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.5, 1.0]])
    net = mo.Network.mlp(
        rows, [0.0, 0.0, 0.0, 2.0, 0.3], [[1.0, 2.0, 1.0, 5.0, 0.0]], [1.0], activation=kind
    )
    assert mo.compress(net, units=2, on=mo.Gaussian()).error.relative < 1e-4
    constant = mo.Network.mlp(rows, np.ones(5), np.zeros((1, 5)), [2.0], activation=kind)
    assert mo.compress(constant, units=2, on=mo.Gaussian()).error == (0, 0)
    assert mo.compress(net, units=2, on=mo.Gaussian([1.0, 2.0], 0.0)).error.absolute < 1e-12
    one = mo.Samples(np.ones((1, 2)))
    assert mo.compress(net, units=2, on=one).error.absolute < 1e-12


@pytest.mark.parametrize("size", [1e-17, 1e-40, 1e-160])
@pytest.mark.parametrize("kind", ["relu", "tanh"])
def test_rounding_of_another_matrix_library_is_no_signal(kind, size, monkeypatch):
    """Units that do not vary, their products off by as little as libraries differ in: the error is
    none, nothing overflows.
    """
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.5, 1.0]])
    net = mo.Network.mlp(
        rows, [0.0, 0.0, 0.0, 2.0, 0.3], [[1.0, 2.0, 1.0, 5.0, 0.0]], [1.0], activation=kind
    )
    exact, rng = Population.system, np.random.default_rng(0)

    def rounded(self, student, **options):
        k, r, pull = exact(self, student, **options)
        noise = size * rng.standard_normal(k.shape)
        return k + noise @ noise.T / size, r + size * rng.standard_normal(r.shape), pull

    monkeypatch.setattr(Population, "system", rounded)
    for at in ([1.0, 2.0], [0.0, 0.0], [-3.0, 0.5]):
        for _ in range(5):
            small = mo.compress(net, units=2, on=mo.Gaussian(at, 0.0))
            assert small.error.absolute < 1e-12
        goal = Population(ShallowNetwork.of(net, Whitening.of(mo.Gaussian(at, 0.0), 2)))
        goal.variance = goal.left = 4e-15  # as rounding leaves it
        for _ in range(5):
            found = descend(goal, goal.units[:2], 30)
            assert np.isfinite(np.column_stack([found.row, found.mean])).all()
            assert project(goal, found).square < 1e-14


def test_descent_respects_the_ridge_free_error():
    goal = Population(readout("relu", 40, 5, 1))
    start = goal.units[:5]
    assert project(goal, descend(goal, start, 50)).square < project(goal, start).square


def test_deep_students_keep_a_unit_in_each_layer():
    rng = np.random.default_rng(0)
    net = mo.Network.mlp(
        *(rng.standard_normal(s) for s in ((4, 3), 4, (4, 4), 4, (1, 4), 1)), activation="relu"
    )
    on = mo.Samples(rng.standard_normal((50, 3)))
    for units in (0, -3, [2, 0]):
        with pytest.raises(mo.ShapeError, match="each at least 1"):
            mo.compress(net, units=units, on=on)
    assert mo.compress(net, eps=1e6, on=on).network.widths == (3, 1, 1, 1)
