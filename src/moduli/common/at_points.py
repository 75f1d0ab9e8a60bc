"""What a network does at points, in float arithmetic: signs of its units, proved where they can be,
and gradients, which prove nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64

from moduli.kernel.bounds.propagation import U
from moduli.kernel.network import Network

Signs = np.ndarray[Any, np.dtype[np.int8]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def signs_at(net: Network, x: Float64[np.ndarray[Any, Any], "points inputs"]) -> tuple[Signs, Mask]:
    """Signs of all hidden units at points ``[points, units]``, and which of them are proved.

    None is behind an activation that is not piecewise linear: its rounding is not known here.

    A layer's rounding is below gamma_{n+2} (|W| |h| + |b|), h its float input; what h is off is
    carried through |W|.

        >>> net = Network.mlp([[1.0], [1.0]], [0.5, -0.25], [[1.0, 1.0]], [0.0], activation="relu")
    >>> [part.tolist() for part in signs_at(net, np.array([[0.25]]))]
    [[[1, 0]], [[True, False]]]
    """
    h, off = x, np.zeros_like(x)
    found, sure = [np.zeros((len(x), 0), dtype=np.int8)], [np.zeros((len(x), 0), dtype=bool)]
    for layer in net.layers[:-1]:
        weight, steep = np.abs(layer.weight), float(layer.activation.lipschitz)
        gamma = (layer.weight.shape[1] + 4) * 2 * U
        with np.errstate(all="ignore"):
            z = h @ layer.weight.T + layer.bias
            rounded = gamma * (np.abs(h) @ weight.T + np.abs(layer.bias))
            lost = (off @ weight.T * (1 + 2 * gamma) + rounded) * (1 + 1e-12) + 1e-290
            h = np.asarray(layer.activation(z))
            off = (steep * lost + 2 * U * np.abs(h)) * (1 + 1e-12) + (
                0.0 if layer.activation.piecewise_linear else np.inf
            )
        found.append(np.sign(z).astype(np.int8))
        sure.append((np.abs(z) > lost) & np.isfinite(lost))
    return np.concatenate(found, axis=1), np.concatenate(sure, axis=1)


@np.errstate(all="ignore")
def gradient(
    net: Network,
    x: Float64[np.ndarray[Any, Any], "batch in"],
    v: Float64[np.ndarray[Any, Any], "batch out"],
) -> Float64[np.ndarray[Any, Any], "batch in"]:
    """The gradient of sum(v * logits(x)) with respect to each input.

    >>> net = Network.mlp([[1.0], [1.0]], [0.5, -0.25], [[1.0, 3.0]], [0.0], activation="relu")
    >>> gradient(net, np.array([[0.0], [1.0]]), np.ones((2, 1))).tolist()
    [[1.0], [4.0]]
    """
    h, slopes = np.asarray(x, dtype=np.float64), []
    for layer in net.layers:
        z = h @ layer.weight.T + layer.bias
        slopes.append(layer.activation.derivative(z))
        h = layer.activation(z)
    for layer, slope in zip(reversed(net.layers), reversed(slopes), strict=True):
        v = (v * slope) @ layer.weight
    return v
