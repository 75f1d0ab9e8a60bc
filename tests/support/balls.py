"""Balls of parameters, and what is found in them."""

from __future__ import annotations

import itertools

import numpy as np

from moduli.kernel.radius.compatibility import ParameterBall, at_most


def random_ball(rng, h, m=None):
    n, m = int(rng.integers(1, 3)), m or int(rng.integers(1, 3))
    rows, outgoing = rng.integers(-6, 7, (h, n + 1)) / 4.0, rng.integers(-6, 7, (h, m)) / 4.0
    return ParameterBall(rows + 0.0, outgoing + 0.0, float(rng.choice([0.25, 0.5, 0.75, 1.0])))


def fits(ball, group):
    """Whether a group is a signed box."""
    p = ball.rows[list(group.units)] * np.array(group.signs, dtype=float)[:, None]
    return bool(at_most(p.max(axis=0), p.min(axis=0), 2 * ball.radius).all())


def signings(units):
    return itertools.product(*[(1, -1)] * len(units))


def keys(matrix):
    return {frozenset(zip(g.indices.tolist(), g.data.tolist(), strict=True)) for g in matrix}
