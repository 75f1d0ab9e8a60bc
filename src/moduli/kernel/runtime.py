"""What is assumed of a runtime that computes a network in floats, and what its sums and functions are
off by at most. Part of the kernel.

A runtime holds numbers of one floating point format. Of it is assumed, and nothing more:

- Inputs are numbers of the format. Parameters are the nearest numbers of the format; what a file
  computes of constants alone is a parameter.
- A sum of products is added in any order; each product and each sum is rounded to a nearest number of
  the format, or of a wider one, or not at all (fused). So no Winograd, Fourier or Strassen scheme, and
  no format narrower than it says (TF32).
- What is below the least normal number may be flushed to zero, whether it is read or made.
- max(x, 0), |x| and clips are exact; a quotient is rounded once, a root is off by twice that at most,
  s x with a stored slope s is a rounded product. Of any other function f the result is off by at most
  `ulps` 2u max(1, |f(x)|); but of a gate x g(x) (silu, gelu, mish, hardswish) by `ulps` 2u max(1, |x|),
  since some multiply x by a g that is off, and nothing is known where 8 |x| is beyond the format. No
  power exp(x) is negative.

One sum. With u the unit and N the least normal number, a rounded product or sum is x (1 + d) + e
with |d| <= u, where |e| <= N (1 + |w| + |h|) for w h, since flushing w loses at most N |h| and
flushing h at most N |w|; and |e| <= 4 N for a sum, two operands and the result. A term passes
through its product and at most k sums, k being the number of terms less one or what `chain` says:

    |computed - sum| <= ((1 + u)^(k+1) - 1) sum |terms| + (1 + u)^(k+1) N (sum (|w| + |h|) + 5 n + 5).

Terms whose weight is zero are exact and count in n only. No partial sum is larger than
(1 + u)^(k+1) sum |terms| and the last part; where that is above the largest number, it may overflow,
and nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .activations import Activation
from .bounds.relaxations import Relaxation
from .errors import ArgumentError, Asked, Undecided
from .exact_numbers import ceiling, up, up_matmul
from .network import Layer

Array = np.ndarray[Any, np.dtype[np.float64]]
SLIGHT = 2.0**-40  # more than all roundings of a short expression in float64
GATES = ("silu", "gelu", "gelu_tanh", "mish", "hardswish")
GATE_ROOM = 8.0  # some compute 6 x on the way


class Format(NamedTuple):
    """A floating point format: digits in binary, exponents of its normal numbers."""

    digits: int
    lowest: int
    highest: int

    @property
    def unit(self) -> float:
        """|nearest(x) - x| <= unit |x| where x is normal."""
        return 2.0**-self.digits

    @property
    def least(self) -> float:
        """The smallest normal number."""
        return 2.0**self.lowest

    @property
    def most(self) -> float:
        """The largest number."""
        return math.ldexp(2.0 - 2.0 * self.unit, self.highest)

    @np.errstate(all="ignore")
    def nearest(self, x: Array) -> Array:
        """The nearest numbers, ties to even; infinite beyond the largest.

        >>> import numpy as np
        >>> float(FORMATS["bfloat16"].nearest(np.array(1.01)))
        1.0078125
        """
        _, exponent = np.frexp(x)
        step = np.maximum(exponent - self.digits, self.lowest - self.digits + 1)
        rounded = np.ldexp(np.rint(np.ldexp(x, -step)), step)
        beyond = np.abs(rounded) > self.most
        return np.asarray(np.where(beyond, np.copysign(np.inf, x), rounded))


FORMATS = {
    "float64": Format(53, -1022, 1023),
    "float32": Format(24, -126, 127),
    "float16": Format(11, -14, 15),
    "bfloat16": Format(8, -126, 127),
}


@dataclass(frozen=True)
class Runtime:
    """What is assumed of a runtime; see the top of this module.

    Attributes:
        dtype: name of its format. chain: sums that a term passes through at most; None in any order.
        ulps: of activations.
    """

    dtype: str
    chain: int | None = None
    ulps: float = 4.0

    def __post_init__(self) -> None:
        if type(self.dtype) is not str or self.dtype not in FORMATS:
            raise ArgumentError(Asked("dtype", self.dtype), f": {', '.join(FORMATS)} are known")
        if self.chain is not None and (type(self.chain) is not int or self.chain < 1):
            raise ArgumentError(
                Asked("order", self.chain), ": 'any', or how many sums a term may pass through"
            )
        if type(self.ulps) not in (int, float) or not 0 <= self.ulps <= 2.0**40:
            raise ArgumentError(Asked("ulps", self.ulps), ": a number from 0 on is needed")

    @property
    def format(self) -> Format:
        return FORMATS[self.dtype]

    def growth(self, terms: Any) -> Array:
        """(1 + u)^(k + 1) - 1 for sums of so many products and a bias, rounded up."""
        sums = terms if self.chain is None else np.minimum(terms, self.chain)
        return self.roundings(sums + 1)

    def roundings(self, count: Any) -> Array:
        """(1 + u)^count - 1, rounded up: it is at most exp(count u) - 1."""
        return np.asarray(np.expm1(count * self.format.unit) * (1 + SLIGHT))

    def sums(self, weight: Array, bias: Array, size: Array) -> Array:
        """Bounds of the errors of weight @ h + bias as it is computed, for |h| <= size.

        Args:
            weight, bias: numbers of the format, or infinite. size: ``[batch, inputs]``.

        Returns:
            ``[batch, units]``, infinite where a sum may overflow.
        """
        sizes, n = np.abs(weight), weight.shape[1]
        growth = self.growth((weight != 0).sum(axis=1).astype(np.float64))
        mass = up(up_matmul(size, sizes.T) + np.abs(bias), 2)
        flushed = self.format.least * up(
            size.sum(axis=1, keepdims=True) + sizes.sum(axis=1) + (5.0 * n + 5.0), 2 * n + 4
        )
        lost = up(flushed * up(1.0 + growth), 4)
        reached = up(up(mass * up(1.0 + growth)) + lost)
        found = up(up(mass * growth, 4) + lost)
        return np.where(reached <= self.format.most, found, np.inf)

    def values(self, activation: Activation, lines: Relaxation, size: Array) -> Array:
        """Bounds of the errors of an activation as it is computed.

        Args:
            lines: of its values. size: of what it is computed from.
        """
        reads, size = size, np.maximum(np.abs(lines.least), np.abs(lines.most))
        if activation.kind == "clip":
            return np.full(size.shape, self.flushed + self.moved(activation.parameters))
        if not activation.piecewise_linear:
            steep = ceiling(activation.lipschitz)  # what is read may be flushed
            return self.function(activation.kind, size, reads) + self.flushed * steep
        slope = activation.slope
        if slope in (None, -1.0, 0.0, 1.0):
            return np.full(size.shape, self.flushed)
        return self.product(size, slope)

    @property
    def flushed(self) -> float:
        """What flushing the operands and the result of one operation costs at most, beside a product."""
        return 4.0 * self.format.least

    def function(self, kind: str, size: Array, reads: Array) -> Array:
        """Of a function whose values are at most `size`, at numbers that are at most `reads`."""
        gate = kind in GATES
        unit = 2.0 * self.format.unit * self.ulps
        off = up(np.maximum(reads if gate else size, 1.0) * unit, 4) + self.flushed
        fits = up(size + off) <= self.format.most
        if gate:
            fits &= GATE_ROOM * reads <= self.format.most
        return np.where(fits, up(off), np.inf)

    def product(self, size: Array, factor: float) -> Array:
        """Of a value times a stored factor: that is rounded, or flushed, then the product is."""
        lost = 1.0 if abs(factor) < self.format.least else 2.5 * self.format.unit
        off = up(size * lost, 4) + self.flushed * (1.0 + abs(factor))
        return np.where(up(size + off) <= self.format.most, up(off), np.inf)

    def moved(self, numbers: Sequence[float]) -> float:
        """How far numbers are from the nearest of the format, at most; infinities are where they are."""
        given = np.array([x for x in numbers if math.isfinite(x)])
        return float(np.abs(given - self.format.nearest(given)).max(initial=0.0) * (1 + SLIGHT))

    def layers(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """The layers as the runtime holds them.

        Raises:
            Undecided: a parameter is beyond the largest number.
        """
        held = []
        for l, layer in enumerate(layers, 1):
            weight = self.held(layer.weight, f"the weight of layer {l}")
            bias = self.held(layer.bias, f"the bias of layer {l}")
            held.append(Layer(weight, bias, layer.activation))
        return tuple(held)

    def held(self, numbers: Array, where: str) -> Array:
        """Stored numbers as the runtime holds them.

        Raises:
            Undecided: one is beyond the largest number.
        """
        found = self.format.nearest(numbers)
        beyond = np.isinf(found) & np.isfinite(numbers)
        if beyond.any():
            raise Undecided(
                f"{self.dtype} has no number for {numbers[beyond].flat[0]:g}, an entry of {where}: its largest "
                f"is {self.format.most:g}"
            )
        return found
