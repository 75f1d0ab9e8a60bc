"""Closed-form distances under a Gaussian: stored losses, near-equal networks, sampling."""

import json

import numpy as np
import pytest

import moduli as mo
from moduli.population import distance


def case_networks(case, arrays):
    part = {k: arrays[f"{case['id']:03d}_{k}"] for k in ("W", "b", "A", "U", "bu", "V", "mean", "cov")}
    act = f"leaky_relu({case.get('slope', 0.1)})" if case["act"] == "leaky_relu" else case["act"]
    scale, zero = (2**-0.5 if act == "erf" else 1.0), np.zeros(part["A"].shape[1])
    a = mo.Network.mlp(scale * part["W"], scale * part["b"], part["A"].T, zero, activation=act)
    b = mo.Network.mlp(scale * part["U"], scale * part["bu"], part["V"].T, zero, activation=act)
    return a, b, mo.Gaussian(part["mean"], part["cov"])


def test_stored_losses(shared):
    arrays = np.load(shared / "cases" / "gaussian.npz")
    for case in json.loads((shared / "cases" / "gaussian.json").read_text())["cases"]:
        a, b, law = case_networks(case, arrays)
        value, low, high = distance(a, b, law)
        truth = max(0.0, case["loss"]) ** 0.5
        assert low <= truth * (1 + 1e-9) + 1e-12
        assert truth <= high * (1 + 1e-9)
        assert abs(value**2 - case["loss"]) <= case["atol_inner"]
        if case["loss_rel_trust"] and case["loss"] > 0:
            assert value**2 == pytest.approx(case["loss"], rel=1e-6)
            assert high - low <= 1e-6 * value
    a, b, law = case_networks(next(c for c in _cases(shared) if "lossless" in c["tag"]), arrays)
    assert mo.distance(a, b, on=law).upper < 1e-12
    same = mo.distance(a, a, on=law)
    assert same.status == "proved"
    assert same.upper == 0


def _cases(shared):
    return json.loads((shared / "cases" / "gaussian.json").read_text())["cases"]


@pytest.mark.parametrize(
    ("kind", "gap"),
    [(k, g) for k in ("relu", "abs", "leaky_relu(0.1)", "erf", "sin", "gelu") for g in (1e-3, 1e-6, 1e-9)]
    + [(k, 1e-6) for k in ("tanh", "sigmoid", "silu", "softplus")],
)
def test_near_equal_networks_keep_their_digits(kind, gap):
    """To first order the distance is linear in the perturbation, so it is known from a larger one; units are hidden too."""
    rng = np.random.default_rng(0)
    theta = [rng.integers(-64, 65, shape) / 32.0 for shape in ((6, 3), (6,), (2, 6), (2,))]
    move = [rng.integers(-64, 65, t.shape) / 32.0 for t in theta]
    act = mo.Activation.of(kind)

    def moved(step):
        w, b, v, d = (t + step * m for t, m in zip(theta, move, strict=True))
        order = rng.permutation(6)
        sign, scale = np.ones(6), np.ones(6)
        if act.symmetric:
            sign = rng.choice([-1.0, 1.0], 6)
            reflect, _, offset = map(float, act.reflection)
            d = d + (v * (offset * (sign < 0))).sum(axis=1)
            v = v * np.where(sign < 0, reflect, 1.0)
        if act.homogeneous:
            scale = 2.0 ** rng.integers(-3, 4, 6)
        rows = np.column_stack([w, b]) * (sign * scale)[:, None]
        return mo.Network.mlp(rows[order, :3], rows[order, 3], (v / scale)[:, order], d, activation=kind)

    here = moved(0.0)
    value, low, high = distance(here, moved(gap), mo.Gaussian(0.3, 0.7))
    reference = distance(here, moved(2.0**-8), mo.Gaussian(0.3, 0.7))[0] * 2**8
    assert low <= value <= high
    assert high - low <= 1e-5 * value + 1e-12
    assert value == pytest.approx(reference * gap, rel=0.2)
    if gap < 1e-4:
        half, *_ = distance(here, moved(gap / 2), mo.Gaussian(0.3, 0.7))
        assert half == pytest.approx(value / 2, rel=1e-4)


@pytest.mark.parametrize("pair", ["relu gelu", "tanh erf", "sin sin", "silu softplus", "abs affine"])
def test_against_sampling(pair):
    a, b = pair.split()
    rng = np.random.default_rng(1)
    nets = []
    for kind, units in ((a, 7), (b, 4)):
        if kind == "affine":
            nets.append(mo.Network.mlp(rng.standard_normal((2, 3)), rng.standard_normal(2)))
        else:
            arrays = (rng.standard_normal(s) for s in ((units, 3), (units,), (2, units), (2,)))
            nets.append(mo.Network.mlp(*arrays, activation=kind))
    half = rng.standard_normal((3, 3))
    law = mo.Gaussian(rng.standard_normal(3), half @ half.T)
    value, low, high = distance(*nets, law)
    x = law.sample(200_000, 3, 0)
    squares = np.square(nets[0].logits(x) - nets[1].logits(x)).sum(axis=1)
    assert abs(squares.mean() - value**2) < 6 * squares.std() / len(x) ** 0.5
    assert low <= value <= high <= low * (1 + 1e-9)


def test_distance_dispatches():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in ((5, 3), (5,), (4, 5), (4,), (2, 4), (2,))]
    deep, flat = mo.Network.mlp(*arrays), mo.Network.mlp(*arrays[:2], arrays[2][:2], arrays[3][:2])
    closed = mo.distance(flat, mo.Network.mlp(*arrays[:2], arrays[2][2:], arrays[3][2:]), on=mo.Gaussian())
    assert "closed form" in closed.on
    assert closed.upper - closed.lower < 1e-10 * closed.upper
    assert "draws" in mo.distance(deep, flat, on=mo.Gaussian()).on
    x = rng.standard_normal((50, 3))
    sampled = mo.distance(deep, flat, on=mo.Samples(x))
    truth = np.sqrt(np.square(deep.logits(x) - flat.logits(x)).sum(axis=1).mean())
    assert sampled.lower < truth < sampled.upper
    with pytest.raises(mo.ShapeError, match="3 inputs"):
        mo.distance(deep, flat, on=mo.Samples(x[:, :2]))
    with pytest.raises(mo.ShapeError, match="3 inputs"):
        mo.distance(flat, flat.with_flat(2 * flat.flat()), on=mo.Gaussian([0.0, 1.0], 1))
