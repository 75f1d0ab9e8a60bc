"""Hidden units that nothing reads, or that are constant: other parameters have the same function,
whatever the activation.

Both kinds come with other parameters that are no copy under permutations, signs and scales, because
these keep the number of units of a layer that read nothing (all weights and the bias 0) and the
number of those that nothing reads.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from moduli.kernel.network import Network

from .equivalent_parameters import Equivalent, exact_layers
from .output_layer import Affine


def idle(net: Network) -> tuple[str, Equivalent | None] | None:
    """Why other parameters have the function on all inputs, with such parameters where they are
    rational; None if not so.

    A layer without units reads nothing, so that no unit below it is read, and units above it are
    constant.

    >>> dead = Network.mlp([[1.0]], [2.0], [[0.0]], [3.0], activation="gelu")
    >>> why, found = idle(dead)
    >>> why, [[str(q) for q in row] for row in found.layers[0][0]]
    ('nothing reads unit 0 of hidden layer 1', [['0']])
    """
    for l in range(len(net.layers) - 1):
        read = net.layers[l + 1].weight.any(axis=0)
        if not read.all():
            u = int(np.argmin(read))
            why = f"nothing reads unit {u} of hidden layer {l + 1}"
            return why, Equivalent(_silenced(exact_layers(net), l, u), why)
    return _constant(net)


def _silenced(layers: list[Affine], l: int, u: int) -> tuple[Affine, ...]:
    """The unit reads nothing, or a bias if it did."""
    weights, biases = layers[l]
    nothing = not any(weights[u]) and not biases[u]
    weights[u], biases[u] = [Fraction(0)] * len(weights[u]), Fraction(int(nothing))
    return tuple(layers)


def _constant(net: Network) -> tuple[str, Equivalent | None] | None:
    """Units without incoming weights that something reads: their part in the next biases can be
    anything.
    """
    found = None
    for l, layer in enumerate(net.layers[:-1]):
        for u in np.flatnonzero(~layer.weight.any(axis=1)).tolist():
            why = f"unit {u} of hidden layer {l + 1} is constant"
            layers = exact_layers(net)
            value = layer.activation.exact(layers[l][1][u])
            if (
                value is None
            ):  # an irrational value: other parameters exist, but not among rationals
                found = found or (why, None)
                continue
            weights, biases = layers[l + 1]
            for o, row in enumerate(weights):
                biases[o] += row[u] * value
                row[u] = Fraction(0)
            return why, Equivalent(tuple(layers), why)
    return found
