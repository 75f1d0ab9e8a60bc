"""Random networks, and others that are nearly the same."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

import moduli as mo


def network(*widths: int, activation: str = "relu", seed: int = 0, lead: float = 0.0) -> mo.Network:
    """Random; the first output is ahead by about `lead`."""
    rng = np.random.default_rng(seed)
    arrays = [
        part
        for n, m in pairwise(widths)
        for part in (rng.normal(size=(m, n)) / n**0.5, rng.normal(size=m) / 4)
    ]
    arrays[-1][0] += lead
    return mo.Network.mlp(*arrays, activation=activation)


def noisy(net: mo.Network, by: float = 1e-3) -> mo.Network:
    """Every parameter times 1 + `by` times a standard normal number."""
    return net.with_flat(
        net.flat() * (1 + by * np.random.default_rng(1).normal(size=net.parameters))
    )
