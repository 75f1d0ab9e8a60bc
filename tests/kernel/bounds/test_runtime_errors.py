"""Bounds of rounding hold for machines of every kind, in rational arithmetic, and are not far off."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from runtimes import Machine, computed, function

import moduli as mo
from moduli.kernel.bounds.runtime_errors import norms, runtime_errors, spectral
from moduli.kernel.runtime import Runtime

KINDS = (
    "relu", "tanh", "sigmoid", "leaky_relu(0.1)", "abs", "clip(-0.5,0.7)", "gelu", "softplus", "sin",
    "identity",
)  # fmt: skip


def drawn(rng, kind, dtype):
    widths = [int(n) for n in rng.integers(1, 6, int(rng.integers(2, 5)))]
    parts = []
    for n, m in itertools.pairwise(widths):
        parts += [rng.standard_normal((m, n)) * rng.choice([0.3, 1.0, 3.0]), rng.standard_normal(m)]
    net = mo.Network.mlp(*parts, activation=kind)
    if rng.random() < 0.7:  # stored in the format
        nearest = Runtime(dtype).format.nearest
        net = net.with_flat(nearest(net.flat()))
    return net


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_machine_is_further_off(kind, dtype):
    rng = np.random.default_rng([KINDS.index(kind), len(dtype)])
    for _ in range(12):
        net = drawn(rng, kind, dtype)
        n, runtime = net.widths[0], Runtime(dtype)
        middle, width = rng.standard_normal(n), float(rng.choice([0.0, 0.1, 1.0]))
        low, high = runtime.format.nearest(middle - width), runtime.format.nearest(middle + width)
        bound = Fraction(float(runtime_errors(net, runtime, low[None], high[None]).top[0]))
        for _ in range(3):
            x = runtime.format.nearest(np.clip(rng.uniform(low, high), low, high))
            x = np.where(rng.random(n) < 0.3, low, np.clip(x, low, high))
            exact = [*map(Fraction, x.tolist())]
            got = computed(net, Machine(dtype, rng), exact)
            true = function(net, exact)
            assert max(abs(a - b) for a, b in zip(got, true, strict=True)) <= bound, (net, x)


def test_bounds_are_near_what_happens():
    """At points, where all phases are known, the bound is what sums in the worst order may do."""
    rng, ratios = np.random.default_rng(5), []
    for _ in range(20):
        parts = [rng.standard_normal(s) for s in ((8, 4), 8, (8, 8), 8, (1, 8), 1)]
        nearest = Runtime("float32").format.nearest
        net = mo.Network.mlp(*map(nearest, parts), activation="relu")
        x = nearest(rng.standard_normal(4))
        bound = runtime_errors(net, Runtime("float32"), x[None], x[None]).top[0]
        exact = [*map(Fraction, x.tolist())]
        true = function(net, exact)[0]
        seen = max(abs(computed(net, Machine("float32", rng), exact)[0] - true) for _ in range(20))
        ratios.append(bound / float(seen))
    assert np.median(ratios) < 40


def test_one_layer_alone_adds_less():
    net = mo.load("zoo:digits-tanh")
    low, high = np.zeros((1, 64)), np.ones((1, 64))
    whole = runtime_errors(net, Runtime("float32"), low, high)
    alone = [
        runtime_errors(net, Runtime("float32"), low, high, alone=l).top[0]
        for l in range(len(net.layers))
    ]
    assert max(alone) < whole.top[0] < 1.2 * sum(alone)
    assert (whole.fresh <= whole.layers).all()


def test_overflow_is_no_bound():
    net = mo.Network.mlp([[300.0]], [0.0], [[300.0]], [0.0], activation="relu")
    fine = runtime_errors(net, Runtime("float16"), np.array([[-0.5]]), np.array([[0.5]]))
    assert np.isfinite(fine.top[0])
    beyond = runtime_errors(net, Runtime("float16"), np.array([[-1.0]]), np.array([[1.0]]))
    assert np.isinf(beyond.top[0])
    assert np.isfinite(beyond.layers[0, 0])


def test_batches_are_boxes_apart():
    net = mo.load("zoo:digits-plain")
    rng = np.random.default_rng(0)
    low = rng.random((5, 64)) * 0.5
    high = low + 0.1
    together = runtime_errors(net, Runtime("bfloat16"), low, high).top
    apart = [
        runtime_errors(net, Runtime("bfloat16"), a[None], b[None]).top[0]
        for a, b in zip(low, high, strict=True)
    ]
    assert np.allclose(together, apart, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (40, 7), (0, 3), (30, 30)])
def test_spectral_norms(shape):
    rng = np.random.default_rng(6)
    for scale in (1.0, 1e-200, 1e200, 0.0, 5e-324, 1e300):
        a = rng.standard_normal(shape) * scale
        a[:1, :1] = scale
        found = spectral(a)
        if scale == 1.0 and a.size:
            true = float(np.linalg.norm(a, 2))
            assert true * (1 - 1e-12) <= found <= 1.03 * true
        else:
            assert found >= np.abs(a).max(initial=0.0)


def test_norms_of_rows():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [1e200, 0.0], [1e-200, 0.0], [np.inf, 1.0]])
    with np.errstate(over="ignore"):
        found = norms(rows)
    assert 5 <= found[0] <= 5 * (1 + 1e-14)
    assert found[1] < 1e-150
    assert found[2] >= 1e200
    assert found[3] >= 1e-200
    assert np.isinf(found[4])
