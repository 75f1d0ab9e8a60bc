"""Networks to be recovered."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import strategies as plants

import moduli as mo

BOX = mo.Box(-1024, 1024)


def drawn(seed, widths):
    return plants.minimal(
        np.random.default_rng(seed), widths, ["relu"] * (len(widths) - 2)
    ).network()


def rational(net):
    rows = ((layer.weight.tolist(), layer.bias.tolist()) for layer in net.layers)
    return [
        ([[Fraction(w) for w in row] for row in weights], [Fraction(b) for b in biases])
        for weights, biases in rows
    ]
