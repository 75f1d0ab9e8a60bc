"""Formats and single operations against rational arithmetic and NumPy's own types."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from runtimes import FORMATS as DIGITS
from runtimes import Machine

import moduli as mo
from moduli.kernel.activations import Activation
from moduli.kernel.bounds.relaxations import relaxation
from moduli.kernel.runtime import FORMATS, Runtime

FINITE = {"float16": np.float16, "float32": np.float32}


@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_nearest_numbers(dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(300) * 2.0 ** rng.integers(-40, 14, 300)
    x[:6] = [0.0, -0.0, 1.0, 2.0**-140, -(2.0**-24) * 1.5, 1.0 + 2.0**-8]
    machine = Machine(dtype, rng)
    machine.flush_out = False
    wanted = [float(machine.nearest(Fraction(v))) for v in x.tolist()]
    assert FORMATS[dtype].nearest(x).tolist() == wanted
    assert DIGITS[dtype] == FORMATS[dtype][:2]


@pytest.mark.parametrize("dtype", sorted(FINITE))
def test_nearest_numbers_as_numpy_has_them(dtype):
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2**63, 20_000, dtype=np.uint64)
    x = bits.view(np.float64)
    with np.errstate(all="ignore"):
        wanted = x.astype(FINITE[dtype]).astype(np.float64)
    assert np.array_equal(FORMATS[dtype].nearest(x), wanted, equal_nan=True)
    assert FORMATS[dtype].most == float(np.finfo(FINITE[dtype]).max)
    assert FORMATS[dtype].least == float(np.finfo(FINITE[dtype]).tiny)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_sums_as_any_machine_has_them(dtype):
    rng, runtime, largest = np.random.default_rng(2), Runtime(dtype), 0.0
    for _ in range(300):
        n = int(rng.integers(1, 20))
        scale = 2.0 ** float(rng.choice([0, 4, -DIGITS[dtype][0], DIGITS[dtype][1] // 2]))
        w, h, b = (runtime.format.nearest(rng.standard_normal(k) * scale) for k in (n, n, 1))
        w[rng.random(n) < 0.2] = 0.0
        bound = runtime.sums(w[None], b, np.abs(h)[None])[0, 0]
        exact = sum((Fraction(x) * Fraction(y) for x, y in zip(w, h, strict=True)), Fraction(b[0]))
        machine = Machine(dtype, rng)
        got = machine.dot([*map(Fraction, w)], [*map(Fraction, h)], Fraction(b[0]))
        assert abs(got - exact) <= Fraction(bound)
        if scale == 1.0:
            largest = max(largest, float(abs(got - exact)) / bound)
    assert largest > 0.1  # no bound of another size


def test_a_short_chain_of_sums_is_bounded_closer():
    w, b, h = np.ones((1, 100)), np.zeros(1), np.ones((1, 100))
    far, near = Runtime("float32").sums(w, b, h), Runtime("float32", 7).sums(w, b, h)
    assert 12 < far / near < 13  # 101 roundings, and 8


def test_sums_that_may_overflow_have_no_bound():
    runtime = Runtime("float16")
    w, b = np.full((2, 2), 300.0), np.zeros(2)
    w[1] = 100.0
    found = runtime.sums(w, b, np.full((1, 2), 150.0))
    assert np.isinf(found[0, 0])
    assert np.isfinite(found[0, 1])


@pytest.mark.parametrize(
    "kind", ["relu", "abs", "leaky_relu(0.1)", "leaky_relu(1e-40)", "clip(0,6)", "clip(-0.1,0.1)"]
)
def test_exact_activations_and_stored_slopes(kind):
    rng, runtime = np.random.default_rng(3), Runtime("float16")
    activation = Activation.of(kind)
    for z in runtime.format.nearest(rng.standard_normal(200) * 20):
        true = Fraction(float(activation(np.array([z]))[0]))
        machine = Machine("float16", rng)
        slope = machine.nearest(Fraction(activation.slope or 0))
        got = machine.nearest(true)
        if activation.slope and z < 0:
            got = machine.nearest(machine.read(slope) * machine.read(Fraction(z)))
        if activation.kind == "clip":
            low, high = (machine.nearest(Fraction(e)) for e in activation.parameters)
            got = min(max(Fraction(z), low), high)
        lines = relaxation(activation, np.array([z]), np.array([z]))
        bound = runtime.values(activation, lines, np.array([abs(z)]))[0]
        assert abs(got - true) <= Fraction(bound)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"dtype": "float8"}, "float8"),
        ({"dtype": "float32", "chain": 0}, "order"),
        ({"dtype": "float32", "ulps": -1.0}, "ulps"),
        ({"dtype": "float32", "ulps": float("nan")}, "ulps"),
    ],
)
def test_what_is_no_runtime(given, match):
    with pytest.raises(mo.ArgumentError, match=match):
        Runtime(**given)


def test_a_parameter_beyond_the_format():
    layers = mo.Network.mlp([[1e6]], [0.0], [[1.0]], [0.0], activation="relu").layers
    with pytest.raises(mo.Undecided, match=r"no number for 1e\+06.*weight of layer 1"):
        Runtime("float16").layers(layers)
