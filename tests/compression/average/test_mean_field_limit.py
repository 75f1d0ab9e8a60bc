"""The simplified problem against the exact one, and the simplex frame."""

import json

import numpy as np
import pytest

import moduli as mo
from moduli.compression.average.closed_form import ShallowNetwork, distance
from moduli.compression.average.fit import Population, fit, project
from moduli.compression.average.gaussian_expectations import UnitLaw, gram
from moduli.compression.average.mean_field_limit import (
    angular,
    etf,
    harmonics,
    isotropic,
    mean_field,
    strength,
)


def wide(units, inputs, seed=0):
    rng = np.random.default_rng(seed)
    rows, outer = (
        rng.standard_normal((units, inputs)) / inputs**0.5,
        rng.uniform(0.5, 1.5, (1, units)) / units,
    )
    return mo.Network.mlp(rows, np.zeros(units), outer, [0.0], activation="relu")


def test_frames():
    for m, d in ((1, 1), (2, 1), (2, 5), (5, 4), (6, 20)):
        products = etf(m, d) @ etf(m, d).T
        assert np.allclose(
            products, np.where(np.eye(m, dtype=bool), 1.0, -1 / max(1, m - 1)), atol=1e-14
        )
    with pytest.raises(ValueError, match="1 to 4 vectors"):
        etf(5, 3)


def test_stored_values(shared):
    cases = json.loads((shared / "cases" / "etf.json").read_text())
    for c in cases["etf"]:
        assert strength(c["M"]) == pytest.approx(c["one_Kinv_one"], rel=1e-12)
        assert 1 - strength(c["M"]) / (2 * np.pi) == pytest.approx(
            c["rel_loss_constant"], abs=1e-12
        )
    for c in cases["dimension_constants"]:
        assert isotropic(c["d"]) == pytest.approx(c["kappa_d"], rel=1e-12)
    for c in cases["isotropic"]:
        assert 1 - isotropic(c["d"]) * strength(c["M"]) == pytest.approx(
            c["rel_loss_isotropic"], abs=1e-12
        )


def test_no_search_goes_below_the_simplex(shared):
    cases = json.loads((shared / "cases" / "etf.json").read_text())["multistart_optima"]
    for c in [c for c in cases if c["M"] <= c["d"] + 1]:
        assert c["best"] >= c["etf"] - 1e-8
        rows = etf(c["M"], c["d"])
        s = np.linalg.solve(angular(rows @ rows.T), np.ones(c["M"])).sum()
        assert 1 - s / (2 * np.pi) == pytest.approx(c["etf"], abs=1e-12)


def test_rates():
    """S0 is off by 1/(2d), S-iso by N^-1/2, S1 by 1/sqrt(dN): relative to the isotropic term,
    median over directions.
    """

    def errors(units, inputs):
        net = wide(units, inputs)
        field = mean_field(net, mo.Gaussian())
        target = ShallowNetwork.of(net, field.whitening)
        rows = np.random.default_rng(1).standard_normal((50, inputs))
        rows /= np.linalg.norm(rows, axis=1)[:, None]
        truth = (
            gram(target.activation, UnitLaw(np.zeros(50), rows), None, target.units)[0]
            @ target.outer
        )[:, 0]
        return [
            np.median(np.abs(field.cross(rows, level) / truth - 1))
            for level in ("S0", "S-iso", "S1")
        ]

    for d in (8, 32):
        assert errors(6000, d)[0] == pytest.approx(1 / (2 * d), rel=0.5)
    few, many = errors(60, 30), errors(6000, 30)
    assert few[1] > 3 * many[1]
    assert few[2] > 4 * many[2]
    assert many[2] < many[1] < many[0]


def test_the_student_of_the_simplified_problem():
    net = wide(1500, 50)
    field = mean_field(net, mo.Gaussian())
    assert field.applies
    assert field.share > 0.98
    goal = Population(ShallowNetwork.of(net, field.whitening), biases=False)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 50)))[0]
    random = project(goal, UnitLaw(np.zeros(10), etf(10, 50) @ turn)).square / field.square
    assert random == pytest.approx(field.loss(10), rel=0.05)
    assert field.loss(10, "S0") > 1.2 * random
    small = field.student(10)
    turned = distance(net, small, mo.Gaussian())[0] ** 2 / field.square
    assert turned < random
    best = fit(goal, 10, np.random.default_rng(0)).square / field.square
    assert best < turned < 1.15 * best
    assert "mean square" in field.statement
    json.dumps(field.to_json())


def circle(units, lean, inputs=2):
    """Directions all around a circle and weights 1 + lean cos: the isotropic and the linear part,
    and nothing else.
    """
    turn = 2 * np.pi * np.arange(units) / units
    rows = np.column_stack([np.cos(turn), np.sin(turn), np.zeros((units, inputs - 2))])
    return mo.Network.mlp(
        rows, np.zeros(units), [(1 + lean * np.cos(turn)) / units], [0.0], activation="relu"
    )


@pytest.mark.parametrize("units", [1, 2, 3])
@pytest.mark.parametrize("lean", [0.0, 0.5, -0.8])
def test_the_predicted_losses_against_integration(units, lean):
    """On the circle S1 leaves nothing out, so its loss is that of the best outgoing weights, here
    by quadrature.
    """
    net = circle(400, lean)
    field = mean_field(net, mo.Gaussian())
    rows = field.frame(units)
    turn = (np.arange(20_000) + 0.5) * (
        2 * np.pi / 20_000
    )  # E of what has degree 2: twice its mean on the circle
    x = np.column_stack([np.cos(turn), np.sin(turn)])
    truth, hidden = net(x)[:, 0], np.maximum(x @ rows.T, 0)
    assert field.square == pytest.approx(2 * np.square(truth).mean(), rel=1e-6)
    cross = 2 * (hidden * truth[:, None]).mean(axis=0)
    assert field.cross(rows, "S1") == pytest.approx(cross, rel=1e-6)
    left = truth - hidden @ np.linalg.lstsq(hidden, truth, rcond=None)[0]
    assert field.loss(units, "S1") == pytest.approx(
        np.square(left).mean() / np.square(truth).mean(), rel=1e-5
    )
    for level, weight in (("S-iso", isotropic(2)), ("S0", 1 / (2 * np.pi))):
        explained = (field.expected * weight) ** 2 * strength(units)
        assert field.loss(units, level) == pytest.approx(1 - explained / field.square)
    leans = np.abs(rows @ field.drift).max() > 1e-3
    assert (abs(field.loss(units, "S1") - field.loss(units, "S-iso")) > 1e-4) == leans
    constant = (
        2 * (np.maximum(x[:, 0], 0) * np.maximum(x[:, :1] * 0.6 + x[:, 1:] * 0.8, 0)[:, 0]).mean()
    )
    assert angular(0.6) == pytest.approx(constant, rel=1e-7)


@pytest.mark.parametrize("kind", ["relu", "gelu", "softplus"])
@pytest.mark.parametrize("inputs", [1, 2, 5])
def test_harmonics_against_means_over_rotations(kind, inputs):
    """Coefficients of degree 0, 1 and 2, fitted in random directions; ReLU's are known."""
    s = mo.Activation(kind)
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((20_000, inputs))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    rows = np.zeros((1, inputs))
    rows[0, 0] = 0.7
    (kernel,) = gram(
        s, UnitLaw(np.zeros(20_000), 1.3 * directions), None, UnitLaw(np.zeros(1), rows)
    )
    cosine = directions[:, 0]
    basis = np.column_stack([np.ones(20_000), cosine, cosine**2 - 1 / inputs])
    first, tilt, bend = np.linalg.lstsq(basis, kernel[:, 0], rcond=None)[0]
    found = harmonics(s, np.array([1.3]), np.array([0.7]), inputs)
    # What is left of degree 3 and above is small beside these: so is what sampling makes of it.
    size = abs(first)
    assert found[0][0, 0] == pytest.approx(first, abs=1e-3 * size)
    assert found[1][0, 0] == pytest.approx(tilt, abs=1e-3 * size)
    assert found[2][0, 0] == pytest.approx(bend if inputs > 1 else 0.0, abs=2e-3 * size)
    first, tilt = found[0][0, 0], found[1][0, 0]
    if kind == "relu":
        assert first == pytest.approx(1.3 * 0.7 * isotropic(inputs), rel=1e-4)
        assert tilt == pytest.approx(1.3 * 0.7 / 4, rel=1e-4)


@pytest.mark.parametrize("kind", ["relu", "gelu"])
def test_finite_targets(kind):
    """Each level is nearer; with the quadratic part the loss of the frame is right to a hundredth
    even for 100 units, where the limit is off by half of it.
    """
    net = mo.Network.mlp(
        *(p for layer in wide(100, 10).layers for p in (layer.weight, layer.bias)), activation=kind
    )
    field = mean_field(net, mo.Gaussian())
    off = [field.off(level) for level in ("S0", "S-iso", "S1", "S2")]
    assert off == sorted(off, reverse=True)
    assert off[3] < 0.1 * off[2] < 0.1 * off[1]
    true = field.loss(5, "exact")
    assert abs(field.loss(5, "S2") - true) < 0.02 * true
    assert field.loss(5) > 1.2 * true
    goal = Population(ShallowNetwork.of(net, field.whitening), biases=False)
    rows = UnitLaw(np.zeros(5), field.frame(5))
    assert project(goal, rows).square / field.square == pytest.approx(true, rel=1e-5)


def test_other_activations():
    """The frame of gelu has a length: the longer the better, up to where it is searched for. Its
    student has equal weights: not better than the frame with the best ones; the limit, which forgets
    what a finite target has beside it, predicts more.
    """
    arrays = [p for layer in wide(600, 20).layers for p in (layer.weight, layer.bias)]
    field = mean_field(mo.Network.mlp(*arrays, activation="gelu"), mo.Gaussian())
    assert field.applies
    assert field.share > 0.95
    rows = field.frame(6)
    lengths = np.linalg.norm(rows, axis=1)
    assert np.ptp(lengths) < 1e-9
    for factor in (0.02, 0.1, 0.5):
        assert field._left(factor * rows, "S-iso") > field.loss(6)
    small = field.student(6)
    lost = distance(field.network, small, mo.Gaussian())[0] ** 2 / field.square
    assert field.loss(6, "exact") * (1 - 1e-6) <= lost < field.loss(6)
    assert small.activations[0].kind == "gelu"


def test_functions_that_are_nothing():
    zero = mean_field(
        mo.Network.mlp(np.zeros((3, 2)), np.zeros(3), np.zeros((1, 3)), [0.0], activation="relu"),
        mo.Gaussian(),
    )
    assert [zero.loss(2, level) for level in ("S0", "S-iso", "S1")] == [0.0] * 3
    empty = mean_field(
        mo.Network.mlp(np.zeros((0, 2)), [], np.zeros((1, 0)), [0.0], activation="relu"),
        mo.Gaussian(),
    )
    assert empty.loss(1) == 0
    assert empty.share == 0
    still = mean_field(circle(8, 0.0), mo.Gaussian(0, 0))
    with pytest.raises(ValueError, match="no direction"):
        still.loss(1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda w, b, v, d: (w, b + 0.1, v, d), "hidden biases"), (lambda w, b, v, d: (w, b, v, d + 1), "output bias"),
        (lambda w, b, v, d: (w, b, v * np.where(np.arange(v.size) % 2, 1, -1), d), "cancel"),
        (lambda w, b, v, d: (w + 3 * w[:1], b, v, d), "linear part"),
    ],
)  # fmt: skip
def test_when_it_does_not_apply(change, why):
    net = wide(500, 20)
    arrays = [p for layer in net.layers for p in (layer.weight, layer.bias)]
    field = mean_field(mo.Network.mlp(*change(*arrays), activation="relu"), mo.Gaussian())
    assert not field.applies
    assert why in field.statement
    odd = mean_field(mo.Network.mlp(*arrays, activation="tanh"), mo.Gaussian())
    assert "odd" in odd.statement
    with pytest.raises(ValueError, match="one output"):
        mean_field(
            mo.Network.mlp(np.ones((3, 2)), np.zeros(3), np.ones((2, 3)), np.zeros(2)),
            mo.Gaussian(),
        )
