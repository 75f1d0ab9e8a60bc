"""Signs of units that points of a box show: what is seen on both sides of zero has no sign."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from moduli.common.at_points import gradient
from moduli.kernel.bounds import input_splits
from moduli.kernel.bounds.input_splits import by_layer
from moduli.kernel.box import Box
from moduli.kernel.network import IDENTITY, Layer, Network

from .linear_programs import PRODUCTS

Array = np.ndarray[Any, np.dtype[np.float64]]
Signs = np.ndarray[Any, np.dtype[np.int8]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
HUGE = 1e300
# multiplications, for each box of the budget, that steps from points may take
CLIMB = 8 * PRODUCTS


class Points:
    """The least and largest pre-activation of every hidden unit that some point of the box shows,
    in float arithmetic.

    Attributes:
        least, most: ``[hidden units]``. at_least, at_most: the points, ``[hidden units, inputs]``.
    """

    def __init__(
        self, net: Network, box: Box, rng: np.random.Generator, budget: int = 10_000
    ) -> None:
        self.net, self.box = net, box
        inputs, units = net.widths[0], net.units
        self.least, self.most = np.full(units, np.inf), np.full(units, -np.inf)
        self.at_least, self.at_most = np.zeros((units, inputs)), np.zeros((units, inputs))
        rows = int(np.clip(2**22 // inputs, 64, 4096))
        if inputs <= 10:
            corners = np.array(list(product((False, True), repeat=inputs)))
        else:
            corners = rng.random((rows // 4, inputs)) < 0.5
        self.look(np.where(corners, box.high, box.low))
        self.look(input_splits.middle(box.low, box.high)[None])
        self.look(self._anywhere(rng, (rows, inputs)))
        self.rng, self.starts = rng, [0] * len(net.layers)
        self.climb(budget)

    def _anywhere(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Uniform points, for boxes of any size."""
        mix = rng.random(shape)
        points: Array = np.clip(
            (1 - mix) * self.box.low + mix * self.box.high, self.box.low, self.box.high
        )
        return points

    def look(self, x: Array) -> None:
        """Evaluate the network at points of the box."""
        for start in range(0, len(x), 4096):
            h, values = x[start : start + 4096], []
            for layer in self.net.layers[:-1]:
                values.append(h @ layer.weight.T + layer.bias)
                h = layer.activation(values[-1])
            if values:
                z = np.nan_to_num(
                    np.concatenate(values, axis=1), nan=0.0, posinf=HUGE, neginf=-HUGE
                )
                self._keep(x[start : start + 4096], z)

    def _keep(self, x: Array, z: Array) -> None:
        for best, at, better in (
            (self.least, self.at_least, np.argmin(z, axis=0)),
            (self.most, self.at_most, np.argmax(z, axis=0)),
        ):
            new = z[better, np.arange(z.shape[1])]
            found = new < best if best is self.least else new > best
            best[found], at[found] = new[found], x[better[found]]

    def wanted(self) -> Signs:
        """The sign that no point refutes, else 0; a breath beyond zero may be rounding."""
        breath = 2.0**-40 * np.maximum(np.abs(self.least), np.abs(self.most))
        return np.where(self.most <= breath, -1, np.where(self.least >= -breath, 1, 0)).astype(
            np.int8
        )

    def climb(self, budget: int, units: Mask | None = None, most: int = 6, steps: int = 16) -> None:
        """Signs of gradients, with shrinking steps, against every sign that is not refuted yet.

        From up to `most` starts for each unit, those of earlier calls among them; fewer, or none,
        where all steps from one start are beyond the budget.

        Args:
            units: which units, else all.
        """
        low, high = self.box.low, self.box.high
        for l, own in enumerate(by_layer(self.net, np.arange(self.net.units))):
            own = own[self.wanted()[own] != 0]
            own = own if units is None else own[units[own]]
            if not len(own) or self.starts[l] == most:
                continue
            way = -self.wanted()[own].astype(np.float64)
            layer = self.net.layers[l]
            first = int(sum(self.net.widths[1 : l + 1]))
            head = Layer(layer.weight[own - first], layer.bias[own - first], IDENTITY)
            prefix = Network((*self.net.layers[:l], head))
            each = len(own) * steps * 2 * sum(layer.weight.size for layer in prefix.layers)
            able = min(most, budget * CLIMB // max(1, each * (len(self.net.layers) - 1)))
            starts = able - self.starts[l]
            if starts <= 0:
                continue
            x = self._anywhere(self.rng, (starts, len(own), len(low)))
            if not self.starts[l]:
                x[0] = np.where(way[:, None] > 0, self.at_most[own], self.at_least[own])
            self.starts[l] = able
            x, v = x.reshape(-1, len(low)), np.tile(np.diag(way), (starts, 1))
            for k in range(steps):
                turn = np.nan_to_num(np.sign(gradient(prefix, x, v)))
                x = np.clip(x + turn * (0.5 * high - 0.5 * low) * 0.7**k, low, high)
                self.look(x)
