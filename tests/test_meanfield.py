"""The simplified problem against the exact one, and the simplex frame."""

import json

import numpy as np
import pytest

import moduli as mo
from moduli.kernels import Units, gram
from moduli.meanfield import angular, etf, isotropic, mean_field, strength
from moduli.narrowing import Population, fit, project
from moduli.population import Readout, distance


def wide(units, inputs, seed=0):
    rng = np.random.default_rng(seed)
    rows, outer = rng.standard_normal((units, inputs)) / inputs**0.5, rng.uniform(0.5, 1.5, (1, units)) / units
    return mo.Network.mlp(rows, np.zeros(units), outer, [0.0], activation="relu")


def test_frames():
    for m, d in ((1, 1), (2, 1), (2, 5), (5, 4), (6, 20)):
        products = etf(m, d) @ etf(m, d).T
        assert np.allclose(products, np.where(np.eye(m, dtype=bool), 1.0, -1 / max(1, m - 1)), atol=1e-14)
    with pytest.raises(ValueError, match="1 to 4 vectors"):
        etf(5, 3)


def test_stored_values(shared):
    cases = json.loads((shared / "cases" / "etf.json").read_text())
    for c in cases["etf"]:
        assert strength(c["M"]) == pytest.approx(c["one_Kinv_one"], rel=1e-12)
        assert 1 - strength(c["M"]) / (2 * np.pi) == pytest.approx(c["rel_loss_constant"], abs=1e-12)
    for c in cases["dimension_constants"]:
        assert isotropic(c["d"]) == pytest.approx(c["kappa_d"], rel=1e-12)
    for c in cases["isotropic"]:
        assert 1 - isotropic(c["d"]) * strength(c["M"]) == pytest.approx(c["rel_loss_isotropic"], abs=1e-12)


def test_no_search_goes_below_the_simplex(shared):
    cases = json.loads((shared / "cases" / "etf.json").read_text())["multistart_optima"]
    for c in [c for c in cases if c["M"] <= c["d"] + 1]:
        assert c["best"] >= c["etf"] - 1e-8
        rows = etf(c["M"], c["d"])
        s = np.linalg.solve(angular(rows @ rows.T), np.ones(c["M"])).sum()
        assert 1 - s / (2 * np.pi) == pytest.approx(c["etf"], abs=1e-12)


def test_rates():
    """S0 is off by 1/(2d), S-iso by N^-1/2, S1 by 1/sqrt(dN): relative to the isotropic term, median over directions."""
    def errors(units, inputs):
        net = wide(units, inputs)
        field = mean_field(net, mo.Gaussian())
        target = Readout.of(net, field.whitening)
        rows = np.random.default_rng(1).standard_normal((50, inputs))
        rows /= np.linalg.norm(rows, axis=1)[:, None]
        truth = (gram(target.activation, Units(np.zeros(50), rows), None, target.units)[0] @ target.outer)[:, 0]
        return [np.median(np.abs(field.cross(rows, level) / truth - 1)) for level in ("S0", "S-iso", "S1")]

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
    goal = Population(Readout.of(net, field.whitening), biases=False)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 50)))[0]
    random = project(goal, Units(np.zeros(10), etf(10, 50) @ turn)).square / field.square
    assert random == pytest.approx(field.loss(10), rel=0.05)
    assert field.loss(10, "S0") > 1.2 * random
    small = field.student(10)
    turned = distance(net, small, mo.Gaussian())[0] ** 2 / field.square
    assert turned < random
    best = fit(goal, 10, np.random.default_rng(0)).square / field.square
    assert best < turned < 1.15 * best
    assert "mean square" in field.statement
    json.dumps(field.to_json())


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
        mean_field(mo.Network.mlp(np.ones((3, 2)), np.zeros(3), np.ones((2, 3)), np.zeros(2)), mo.Gaussian())
