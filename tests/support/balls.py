"""Balls of parameters, and what is found in them."""

from __future__ import annotations

import itertools

from moduli.kernel.radius.compatibility import ParameterBall


def random_ball(rng, h, m=None):
    n, m = int(rng.integers(1, 3)), m or int(rng.integers(1, 3))
    rows, outgoing = rng.integers(-6, 7, (h, n + 1)) / 4.0, rng.integers(-6, 7, (h, m)) / 4.0
    return ParameterBall(rows + 0.0, outgoing + 0.0, float(rng.choice([0.25, 0.5, 0.75, 1.0])))


def signings(units):
    return itertools.product(*[(1, -1)] * len(units))


def keys(matrix):
    return {frozenset(zip(g.indices.tolist(), g.data.tolist(), strict=True)) for g in matrix}
