"""A network in exact numbers, from which moves remove units. Part of the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from . import arithmetic
from .bounds.box_claim import Region
from .errors import CertificateRejected, UnsupportedModel
from .exact_numbers import Entry, ExactArray, Number, Work, linear
from .network import IDENTITY, Layer, Network
from .radius.cover_bound import Near

Array = np.ndarray[Any, np.dtype[np.float64]]
Units = np.ndarray[Any, np.dtype[np.intp]]
Signs = np.ndarray[Any, np.dtype[np.int8]]
ENTRIES = 2 * 10**5  # of work in rationals, for every network
TIMES = 16  # of such work for each parameter of a large one


class State:
    """A network in exact numbers from which moves remove units.

    Attributes:
        weights, biases: exact arrays, one per layer, indexed as in the original network.
        alive: for inputs, every hidden layer and outputs, the original indices that remain, in
            order.
        activations: of the hidden layers.
        region, signs, preactivation_bounds: a box (None: all inputs), and signs and bounds of
            pre-activations there, per layer, as far as they were needed; see `activation_bounds`.
    """

    def __init__(
        self, net: Network, near: Near | None = None, region: Region | None = None
    ) -> None:
        self.net, self.region = net, region
        self.activations = list(net.activations)
        self.signs = list[Signs]()
        self.preactivation_bounds = list[tuple[Array, Array]]()
        if region is not None:
            self.signs = [np.array(s, dtype=np.int8) for s in region.signs]
            if [s.shape for s in self.signs] != [(n,) for n in net.widths[1:-1]]:
                raise CertificateRejected(
                    f"signs of {[len(s) for s in self.signs]} units for hidden layers of {net.widths[1:-1]}"
                )
        arithmetic.require()
        work = Work(ENTRIES + TIMES * net.parameters)
        self.weights = [ExactArray(layer.weight, work=work) for layer in net.layers]
        self.biases = [ExactArray(layer.bias, work=work) for layer in net.layers]
        if near is not None:
            self._change(near)
        self.alive: list[Units] = [np.arange(n) for n in net.widths]

    def _change(self, near: Near) -> None:
        parts = {"weight": self.weights, "bias": self.biases}
        if len({(c.layer, c.part) for c in near.changes}) < len(near.changes):
            raise CertificateRejected("the weights or biases of a layer are changed in two places")
        for change in near.changes:
            if not 1 <= change.layer <= len(self.weights):
                raise CertificateRejected(
                    f"changes in layer {change.layer} of a network with {len(self.weights)}"
                )
            change.apply(parts[change.part][change.layer - 1], near.radius)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(map(len, self.alive))

    def slots(self, l: int) -> int:
        """How many units layer l had at first, inputs for l = 0."""
        return int(self.weights[l - 1].hi.shape[0] if l else self.weights[0].hi.shape[1])

    def remove(self, l: int, units: Units, keep: Units | None = None) -> None:
        """Let units of layer l go, but for some."""
        gone = np.setdiff1d(units, [] if keep is None else keep)
        self.alive[l] = self.alive[l][~np.isin(self.alive[l], gone)]

    def weight(self, l: int, row: int, column: int) -> Fraction:
        number = self.weights[l - 1].get((row, column))
        assert isinstance(number, Fraction)
        return number

    def shifted(
        self, l: int, terms: Iterable[tuple[int, Iterable[tuple[Fraction, Number]]]]
    ) -> list[Entry]:
        """Biases with a sum of coefficient * number added to each, row by row; none is written
        yet, and the terms of one row only are held at a time.
        """
        found, biases = [], self.biases[l - 1]
        for row, some in terms:
            found.append(biases.entry((row,), linear([(Fraction(1), biases.get((row,))), *some])))
        return found

    def changed(self, l: int) -> None:
        """Units of layer l or what they read and send are others: on all inputs what was found of this
        layer and those behind it is forgotten.
        """
        if self.region is None:
            del self.signs[l - 1 :], self.preactivation_bounds[l - 1 :]

    def arrays(self) -> Iterator[tuple[ExactArray, ExactArray]]:
        """Exact weight and bias of each layer, remaining units only; one layer at a time, as it may
        be a copy.
        """
        for l, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            yield w.take(self.alive[l + 1], self.alive[l]), b.take(self.alive[l + 1])

    def network(self) -> Network:
        """The remaining network, every parameter rounded once to the nearest float."""
        layers = []
        for (w, b), activation in zip(self.arrays(), [*self.activations, IDENTITY], strict=True):
            if not (np.isfinite(w.hi).all() and np.isfinite(b.hi).all()):
                raise UnsupportedModel(
                    "a merged weight exceeds the range of float64; rescale the network's weights first"
                )
            layers.append(Layer(w.hi, b.hi, activation))
        return self.net.with_layers(layers)
