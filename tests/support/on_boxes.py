"""Networks and boxes to bound, and their values in rationals."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np

import moduli as mo


def exact_layers(layers, x):
    """Pre-activations at a point, by layer, in rationals."""
    h, out = [Fraction(v) for v in x], []
    for layer in layers:
        rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        out.append(
            [
                sum((Fraction(w) * v for w, v in zip(row, h, strict=True)), Fraction(b))
                for row, b in rows
            ]
        )
        h = [layer.activation.exact(z) for z in out[-1]]
    return out


def random_network(rng, scales=(1.0, 1.0), activation="relu", inputs=None):
    widths = [
        inputs or int(rng.integers(1, 4)),
        *rng.integers(1, 6, rng.integers(1, 4)).tolist(),
        int(rng.integers(1, 3)),
    ]
    parts = []
    for n, m in pairwise(widths):
        parts += [
            rng.normal(size=(m, n)) * scales[0] * (rng.random((m, n)) < 0.8),
            rng.normal(size=m) * scales[1],
        ]
    return mo.Network.mlp(*parts, activation=activation)


def random_box(rng, inputs):
    centre, radius = (
        rng.normal(size=inputs),
        np.abs(rng.normal(size=inputs)) * (rng.random(inputs) < 0.8),
    )
    radius *= 10.0 ** rng.integers(-3, 2)
    return centre - radius, centre + radius


def points(rng, low, high, count=15):
    corners = np.where(rng.random((count, len(low))) < 0.5, low, high)
    return np.concatenate([rng.uniform(low, high, (count, len(low))), corners])


def coarse_network(rng, scales=(1.0, 1.0)):
    """Weights of few bits, so that sums are exact and extremes are often 0."""
    net = random_network(rng)
    parts = []
    for layer in net.layers:
        parts += [
            rng.integers(-2, 3, layer.weight.shape) / 2 * scales[0],
            rng.integers(-2, 3, layer.bias.shape) / 2 * scales[1],
        ]
    return mo.Network.mlp(
        *parts, activation=str(rng.choice(["relu", "abs", "leaky_relu(0.5)", "leaky_relu(0.1)"]))
    )
