"""Formulas of gaps and of other bounds against stored values and against numerical integration."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from moduli.capacity.gap_bounds import (
    Norms,
    anthony_covering,
    bartlett_capacity,
    bartlett_rademacher,
    dimension_covering,
    dudley,
    golowich_rademacher,
    lin_zhang_covering,
    neyshabur_rademacher,
    occam_gap,
    rademacher_gap,
    sparse_covering,
    spectral_order,
    uniform_gap,
    vc_dimension,
)


def numbers(values):
    return tuple(float(x) for x in values)


def test_stored_values(shared):
    cases = json.loads((shared / "cases" / "complexity.json").read_text())["cases"]
    with np.load(shared / "cases" / "complexity_net.npz") as z:
        norms, x = Norms.of([z["W1"], z["W2"], z["W3"]]), z["X"]
    seen = set()
    for case in cases:
        a, name = case["args"], case["function"]
        if name == "log_spec":
            continue
        some = Norms(
            numbers(a.get("spec", ())),
            numbers(a.get("fro", ())),
            numbers(a.get("b21", ())),
            tuple(a.get("params", ())),
            a.get("Wmax", 0),
        )
        if name == "rademacher_bartlett17":
            found = bartlett_rademacher(some, float(a["X_fro"]), a["n"], a["rho"])
        elif name == "rademacher_neyshabur15":
            found = neyshabur_rademacher(some, float(a["Bx2"]), a["n"])
        elif name == "rademacher_golowich18":
            found = golowich_rademacher(some, float(a["Bx2"]), a["n"])
        elif name == "log_cover_lin_zhang":
            found = lin_zhang_covering(some, float(a["x_rms"]), float(a["eps"]))
        elif name == "log_cover_from_pdim":
            found = dimension_covering(float(a["pdim"]), a["n"], a["width"], float(a["eps"]))
        elif name == "vcdim_bartlett19":
            found = vc_dimension(a["arch"])
        elif name == "log_schmidt_hieber":
            found = sparse_covering(a["arch"], a["s"], float(a["delta"]))
        elif name == "dudley_closed":
            found = dudley(a["S"], float(a["logA"]), float(a["logG"]), float(a["D"]), a["n"])
        elif name == "gap_finite":
            found = uniform_gap(
                float(a["logN"]), float(a["eps"]), a["n"], float(a["delta"]), lipschitz=a["lip"]
            )
        elif name == "gap_occam":
            found = occam_gap(a["bits"], float(a["free"]), a["n"], float(a["delta"]))
        elif name.startswith("net") or case["id"].startswith("net-"):
            what = a["what"]
            table = {
                "spectral": norms.spectral,
                "rows21": norms.rows,
                "fro": norms.frobenius,
                "X_max": [np.linalg.norm(x, axis=1).max()],
            }
            found = table.get(what)
            if found is None:
                continue
            for p, q in zip(found, case["expected"], strict=True):
                assert math.isclose(p, float(q), rel_tol=1e-12), case["id"]
            seen.add("net")
            continue
        else:
            continue
        seen.add(name)
        assert math.isclose(found, float(case["expected"]), rel_tol=1e-12), case["id"]
    assert len(seen) >= 10


def test_values_of_the_example_network(shared):
    """The table of the specification, rounded there."""
    with np.load(shared / "cases" / "complexity_net.npz") as z:
        norms, x = Norms.of([z["W1"], z["W2"], z["W3"]]), z["X"]
    size, rms = np.linalg.norm(x, axis=1).max(), np.sqrt(np.square(x).sum(axis=1).mean())
    assert bartlett_capacity(norms, rms) / 0.1**2 == pytest.approx(2.15e6, rel=2e-3)
    assert golowich_rademacher(norms, size, 64) == pytest.approx(7.41, rel=1e-3)
    assert spectral_order(norms, size, 64, 0.1, 0.05) == pytest.approx(422, rel=1e-3)
    assert anthony_covering(121, 3, 5.0, 1.0, 1.0, 64, 0.1) == pytest.approx(2067, rel=1e-3)
    assert vc_dimension((4, 8, 8, 1)) == pytest.approx(3343, rel=1e-3)
    assert sparse_covering((4, 8, 8, 1), 121, 0.1) == pytest.approx(2134, rel=2e-3)


@pytest.mark.parametrize("parameters", [1, 10, 1000, 10**5])
@pytest.mark.parametrize("log_scale", [-2.0, 0.5, 3.0, 40.0])
@pytest.mark.parametrize("samples", [10, 10**4, 10**9])
def test_dudley_is_the_least_of_the_integrals(parameters, log_scale, samples):
    from scipy.integrate import quad

    found = dudley(parameters, log_scale, 0.0, 1.0, samples)

    def integrand(t):  # e = exp(-t)
        return math.sqrt(parameters * max(0.0, log_scale + t)) * math.exp(-t)

    def value(log_alpha):
        start = max(0.0, -log_scale)
        integral = (
            quad(integrand, start, max(start, min(-log_alpha, start + 60)), limit=400)[0]
            if -log_alpha > start
            else 0.0
        )
        return 4 * math.exp(log_alpha) + 12 / math.sqrt(samples) * integral

    tried = [value(x) for x in np.linspace(-60, 0, 1201)]
    assert found <= min(tried) * (1 + 1e-6)
    assert found >= min(tried) * (1 - 1e-2)


def test_the_group_acts_as_a_smaller_scale():
    assert dudley(100, 5.0, 50.0, 1.0, 10**4) == pytest.approx(dudley(100, 4.5, 0.0, 1.0, 10**4))
    assert dudley(100, 5.0, 0.0, 1.0, 10**4) > dudley(100, 5.0, 50.0, 1.0, 10**4)
    assert dudley(10, -800.0, 0.0, 1.0, 10**4) == 0


def test_gaps():
    assert uniform_gap(0, 0, 10**6) < rademacher_gap(0, 10**6)
    assert occam_gap(968, 0, 10**4) == pytest.approx(0.1837, abs=5e-5)
    bits = 4 * (784 * 10 + 10 + 10 + 1)
    assert occam_gap(bits, math.log2(math.factorial(10)), 60000) < occam_gap(bits, 0, 60000)
