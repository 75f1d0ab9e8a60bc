"""Signs at points against rationals, gradients against differences."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import moduli as mo
from moduli.common.at_points import gradient, signs_at


@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.1)", "abs", "tanh"])
def test_signs_at_points_are_those_of_rationals(activation):
    """Wherever a sign is called proved, exact evaluation has it; cancellation is not called proved."""
    count = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        parts = [
            rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4)
            for shape in ((4, 3), 4, (4, 4), 4, (1, 4), 1)
        ]
        parts[0][1], parts[1][1] = parts[0][0], parts[1][0] * (1 + 1e-15)
        net = mo.Network.mlp(*parts, activation=activation)
        x = rng.normal(size=(5, 3))
        x[0] -= (
            parts[0][0] * (parts[0][0] @ x[0] + parts[1][0]) / (parts[0][0] @ parts[0][0])
        )  # nearly on a hyperplane
        signs, sure = signs_at(net, x)
        for point, row, known in zip(x, signs, sure, strict=True):
            h, exact = [Fraction(v) for v in point.tolist()], []
            for layer in net.layers[:-1] if activation != "tanh" else net.layers[:1]:
                rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
                z = [
                    sum((Fraction(w) * v for w, v in zip(r, h, strict=True)), Fraction(b))
                    for r, b in rows
                ]
                exact += z
                h = [layer.activation.exact(v) for v in z] if activation != "tanh" else h
            for k, (value, s, proved) in enumerate(
                zip(exact, row.tolist(), known.tolist(), strict=False)
            ):
                assert not proved or s == (value > 0) - (value < 0), (seed, k)
            count += int(known.sum())
            assert activation != "tanh" or not known[4:].any()
        assert not sure[0, 0]
    assert count > 100


@pytest.mark.parametrize("activation", ["tanh", "gelu", "silu", "sin", "softplus"])
def test_gradients_against_differences(activation):
    rng, step = np.random.default_rng(3), 1e-6
    parts = [rng.normal(size=shape) for shape in ((4, 3), 4, (5, 4), 5, (2, 5), 2)]
    net, x = mo.Network.mlp(*parts, activation=activation), rng.normal(size=(6, 3))
    v = np.random.default_rng(1).normal(size=(6, 2))
    columns = [
        (net.logits(x + step * e) - net.logits(x - step * e)) / (2 * step) for e in np.eye(3)
    ]
    jacobian = np.stack(columns, axis=2)
    assert np.allclose(gradient(net, x, v), np.einsum("bo,boi->bi", v, jacobian), atol=1e-8)
