"""What searches on boxes do, counted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import optimize

import moduli as mo
from moduli.compression.box.seen_signs import Points
from moduli.kernel.bounds import propagation


class Work:
    """What a search does: multiplications of bounds, iterations times numbers of linear programs,
    points of networks.
    """

    def __init__(self, monkeypatch):
        self.products, self.steps, self.forward = 0, 0, 0
        upper, solve, logits, look = (
            propagation.Propagation.upper,
            optimize.linprog,
            mo.Network.logits,
            Points.look,
        )

        def counted_upper(found, l, a, *rest, **more):
            self.products += len(a) * sum(map.weight.size for map in found.maps[:l])
            return upper(found, l, a, *rest, **more)

        def counted_solve(c, a, b, e, *rest, **more):
            done = solve(c, a, b, e, *rest, **more)
            self.steps += done.nit * (a.nnz + e.nnz)
            return done

        def counted_logits(net, x):
            self.forward += len(x) * net.parameters
            return logits(net, x)

        def counted_look(seen, x):
            self.forward += len(x) * seen.net.parameters
            return look(seen, x)

        monkeypatch.setattr(propagation.Propagation, "upper", counted_upper)
        monkeypatch.setattr(optimize, "linprog", counted_solve)
        monkeypatch.setattr(mo.Network, "logits", counted_logits)
        monkeypatch.setattr(Points, "look", counted_look)


def wide(width, seed=0, depth=3):
    """Many units, about half of which are nearly stable on the box."""
    rng = np.random.default_rng(seed)
    widths = [4, *[width] * depth, 1]
    parts = []
    for n, m in pairwise(widths):
        parts += [rng.normal(0, 1 / np.sqrt(n), (m, n)), rng.normal(0, 1, m)]
    return mo.Network.mlp(*parts, activation="relu")


def dearest(net):
    """Multiplications for bounds of all units on one box."""
    sizes = np.cumsum([layer.weight.size for layer in net.layers])
    return sum(2 * n * int(size) for n, size in zip(net.widths[2:-1], sizes, strict=False))
