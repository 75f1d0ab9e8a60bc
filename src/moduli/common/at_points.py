"""What a network does at points, in float arithmetic: signs of its units, proved where they can be,
and gradients, which prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from moduli.kernel.bounds.propagation import U
from moduli.kernel.network import Network

Signs = np.ndarray[Any, np.dtype[np.int8]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Array = np.ndarray[Any, np.dtype[np.float64]]


class Enclosed(NamedTuple):
    """A layer at points: what it reads and its pre-activations ``[points, units]`` in floats, and how
    far the true ones may be from these.
    """

    reads: Array
    reads_off: Array
    z: Array
    off: Array


def enclosed(
    net: Network,
    x: Float64[np.ndarray[Any, Any], "points inputs"],
    off: Array | float = 0.0,
    moved: float = 0.0,
) -> Iterator[Enclosed]:
    """The layers, one after another, at all inputs within `off` of points and for all parameters
    within `moved` of the network's, entry by entry.

    A layer's rounding is below gamma_{n+2} (|W| |h| + |b|), h its float input; what h is off is
    carried through |W|, and what parameters move through |h| and what h is off. Behind an activation
    that is not piecewise linear nothing is known of its rounding here.

    >>> net = Network.mlp([[2.0]], [1.0], [[1.0]], [0.0], activation="relu")
    >>> first, _ = enclosed(net, np.array([[0.5]]), off=0.25, moved=0.125)
    >>> first.z.item(), round(first.off.item(), 9)
    (2.0, 0.71875)
    """
    h, lost_before = x, np.broadcast_to(np.asarray(off, dtype=np.float64), x.shape)
    for layer in net.layers:
        weight, steep = np.abs(layer.weight), float(layer.activation.lipschitz)
        gamma = (layer.weight.shape[1] + 4) * 2 * U
        with np.errstate(all="ignore"):
            z = h @ layer.weight.T + layer.bias
            size = np.abs(h)
            lost = lost_before @ weight.T * (1 + 2 * gamma)
            lost += gamma * (size @ weight.T + np.abs(layer.bias))
            if moved:
                reach = (size + lost_before).sum(axis=1, keepdims=True) * (1 + 2 * gamma)
                lost += moved * (reach + 1.0)
            lost = lost * (1 + 1e-12) + 1e-290
            yield Enclosed(h, lost_before, z, lost)
            h = np.asarray(layer.activation(z))
            lost_before = (steep * lost + 2 * U * np.abs(h)) * (1 + 1e-12) + (
                0.0 if layer.activation.piecewise_linear else np.inf
            )


def signs_at(net: Network, x: Float64[np.ndarray[Any, Any], "points inputs"]) -> tuple[Signs, Mask]:
    """Signs of all hidden units at points ``[points, units]``, and which of them are proved.

    None is behind an activation that is not piecewise linear: its rounding is not known here.

    >>> net = Network.mlp([[1.0], [1.0]], [0.5, -0.25], [[1.0, 1.0]], [0.0], activation="relu")
    >>> [part.tolist() for part in signs_at(net, np.array([[0.25]]))]
    [[[1, 0]], [[True, False]]]
    """
    found, sure = [np.zeros((len(x), 0), dtype=np.int8)], [np.zeros((len(x), 0), dtype=bool)]
    for _, part in zip(net.layers[:-1], enclosed(net, x), strict=False):
        found.append(np.sign(part.z).astype(np.int8))
        sure.append((np.abs(part.z) > part.off) & np.isfinite(part.off))
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
