"""Activation functions, as rows of properties.

Nothing outside this module asks an activation for its name to decide what is true of it.
The property that carries most of the library is the *reflection law*

    s(-z) = sign * s(z) + slope * z + offset        for all real z,

which every activation here obeys: tanh has (-1, 0, 0), the sigmoid (-1, 0, 1), ReLU (1, -1, 0).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import isfinite
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Law = tuple[Fraction, Fraction, Fraction]


def _erf(z: Array) -> Array:
    from scipy.special import erf

    return np.asarray(erf(z))


def _sigmoid(z: Array) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * z))


def _normal_cdf(z: Array) -> Array:
    from scipy.special import ndtr

    return np.asarray(ndtr(z))


def _normal_pdf(z: Array) -> Array:
    return np.asarray(np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi))


_C = np.sqrt(2 / np.pi)
_K = 0.044715


def _gelu_tanh(z: Array) -> Array:
    return np.asarray(0.5 * z * (1 + np.tanh(_C * (z + _K * z**3))))


def _gelu_tanh_derivative(z: Array) -> Array:
    t = np.tanh(_C * (z + _K * z**3))
    return np.asarray(0.5 * (1 + t) + 0.5 * z * (1 - t * t) * _C * (1 + 3 * _K * z * z))


@dataclass(frozen=True)
class _Row:
    value: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    reflection: tuple[int, int, int]
    lipschitz: Fraction
    bound: int | None = None  # sup |s|
    homogeneous: bool = False  # s(tz) = t s(z) for t > 0
    piecewise_linear: bool = False
    injective: bool = False
    zero: float = 0.0  # an upper bound of |s(0)|
    minimal: bool = False  # irreducible one-hidden-layer networks are minimal on R^n
    source: str = ""


_TABLE: dict[str, _Row] = {
    "identity": _Row(lambda z: z, lambda z: np.ones(z.shape), (-1, 0, 0), Fraction(1), None, True, True, True),
    "relu": _Row(
        lambda z: np.maximum(z, 0.0),
        lambda z: np.asarray(z > 0, dtype=np.float64),
        (1, -1, 0), Fraction(1), homogeneous=True, piecewise_linear=True,
    ),
    "abs": _Row(np.abs, lambda z: np.asarray(np.sign(z), dtype=np.float64), (1, 0, 0), Fraction(1), None, True, True),
    "tanh": _Row(
        np.tanh,
        lambda z: 1 - np.tanh(z) ** 2,
        (-1, 0, 0),
        Fraction(1),
        1,
        injective=True,
        minimal=True,
        source="Sussmann 1992",
    ),
    "sigmoid": _Row(
        _sigmoid,
        lambda z: _sigmoid(z) * (1 - _sigmoid(z)),
        (-1, 0, 1),
        Fraction(1, 4),
        1,
        injective=True,
        zero=0.5,
        minimal=True,
        source="Sussmann 1992, through 2 sigmoid(z) = 1 + tanh(z/2)",
    ),
    "erf": _Row(
        _erf,
        lambda z: 2 / np.sqrt(np.pi) * np.exp(-z * z),
        (-1, 0, 0),
        Fraction(1129, 1000),
        1,
        injective=True,
        minimal=True,
        source="derivatives are Gaussians with distinct exponents",
    ),
    "sin": _Row(np.sin, np.cos, (-1, 0, 0), Fraction(1), 1),
    "gelu": _Row(lambda z: z * _normal_cdf(z), lambda z: _normal_cdf(z) + z * _normal_pdf(z), (1, -1, 0), Fraction(1129, 1000)),
    "gelu_tanh": _Row(_gelu_tanh, _gelu_tanh_derivative, (1, -1, 0), Fraction(113, 100)),
    "silu": _Row(lambda z: z * _sigmoid(z), lambda z: _sigmoid(z) * (1 + z * (1 - _sigmoid(z))), (1, -1, 0), Fraction(11, 10)),
    "softplus": _Row(lambda z: np.logaddexp(0.0, z), _sigmoid, (1, -1, 0), Fraction(1), injective=True, zero=0.7),
}


@dataclass(frozen=True)
class Activation:
    """An elementwise activation function.

    Args:
        kind: one of `Activation.KINDS`.
        slope: for ``leaky_relu`` only, the slope for negative inputs (a float64, used exactly).

    >>> import numpy as np
    >>> s = Activation.of("leaky_relu(0.25)")
    >>> s(np.array([-4.0, 2.0]))
    array([-1.,  2.])
    >>> s.homogeneous, s.piecewise_linear, str(s)
    (True, True, 'leaky_relu(0.25)')
    """

    kind: str
    slope: float | None = None

    KINDS = (*_TABLE, "leaky_relu")

    def __reduce__(self) -> tuple[Any, ...]:
        return Activation, (self.kind, self.slope)

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise ValueError(f"unknown activation {self.kind!r}; known: {', '.join(sorted(self.KINDS))}")
        if (self.kind == "leaky_relu") != (self.slope is not None):
            raise ValueError(f"activation {self.kind!r} with slope {self.slope!r}: leaky_relu(slope) takes one, no other does")
        if self.slope is None:
            return
        slope = float.__add__(float(self.slope), 0.0)  # plain, as its text is part of digests
        if not isfinite(slope) or slope != self.slope:
            raise ValueError(f"leaky_relu slope {self.slope!r} is no finite float")
        object.__setattr__(self, "slope", slope)

    @staticmethod
    def of(name: str | Activation) -> Activation:
        """Parse a name such as ``"tanh"`` or ``"leaky_relu(0.1)"``."""
        if isinstance(name, Activation):
            return name
        match = re.fullmatch(r"\s*(\w+)\s*(?:\(\s*([^()]+?)\s*\))?\s*", str(name), re.ASCII)
        if not match:
            raise ValueError(f"cannot read activation {name!r}; examples: 'tanh', 'leaky_relu(0.1)'")
        kind, argument = match.groups()
        if kind == "leaky_relu" and argument is None:
            raise ValueError("leaky_relu needs its slope: write 'leaky_relu(0.01)'")
        try:
            slope = None if argument is None else float(argument)
        except ValueError:
            raise ValueError(f"slope {argument!r} in {name!r} is not a number; example: 'leaky_relu(0.1)'") from None
        return Activation(kind, slope)

    def __str__(self) -> str:
        return self.kind if self.slope is None else f"{self.kind}({self.slope!r})"

    @cached_property
    def _row(self) -> _Row:
        if self.slope is None:
            return _TABLE[self.kind]
        a = self.slope
        return _Row(
            lambda z: np.where(z >= 0, z, a * z),
            lambda z: np.where(z > 0, 1.0, a),
            (1, 0, 0),
            max(Fraction(1), abs(Fraction(a))),
            homogeneous=True,
            piecewise_linear=True,
            injective=a > 0,
        )

    def __call__(self, z: Array) -> Array:
        return self._row.value(z)

    def derivative(self, z: Array) -> Array:
        return self._row.derivative(z)

    @cached_property
    def reflection(self) -> Law:
        """(sign, slope, offset) of the law s(-z) = sign * s(z) + slope * z + offset."""
        if self.slope is not None:
            return Fraction(1), -1 - Fraction(self.slope), Fraction(0)
        sign, slope, offset = self._row.reflection
        return Fraction(sign), Fraction(slope), Fraction(offset)

    @property
    def symmetric(self) -> bool:
        """Whether the reflection law has no linear term, so that a unit can change sign on its own."""
        return self.reflection[1] == 0

    @property
    def odd(self) -> bool:
        return self.reflection[0] == -1 and not any(self.reflection[1:])

    @property
    def homogeneous(self) -> bool:
        """s(tz) = t s(z) for all t > 0."""
        return self._row.homogeneous

    @property
    def piecewise_linear(self) -> bool:
        return self._row.piecewise_linear

    @property
    def injective(self) -> bool:
        return self._row.injective

    @property
    def bound(self) -> int | None:
        """sup |s|, or None when unbounded."""
        return self._row.bound

    @property
    def lipschitz(self) -> Fraction:
        """A rational upper bound of the Lipschitz constant."""
        return self._row.lipschitz

    @property
    def zero(self) -> float:
        """An upper bound of |s(0)|."""
        return self._row.zero

    @property
    def minimal(self) -> bool:
        """Whether an irreducible one-hidden-layer network is known to be minimal on all of R^n."""
        return self._row.minimal

    @property
    def bends(self) -> bool:
        """Piecewise linear with a true kink at 0."""
        return self.piecewise_linear and self.kind != "identity" and self.slope != 1

    @property
    def source(self) -> str:
        """Where minimality is proved."""
        return self._row.source

    def under(self, ratio: Fraction) -> Law | None:
        """(a, k, g) with s(ratio * z) = a * s(z) + k * z + g for all z, or None where no such law is known.

        >>> from fractions import Fraction
        >>> [str(x) for x in Activation("relu").under(Fraction(-2))]
        ['2', '-2', '0']
        """
        size = abs(ratio)
        if ratio == 0 or (size != 1 and not self.homogeneous):
            return None
        if ratio > 0:
            return size, Fraction(0), Fraction(0)
        sign, slope, offset = self.reflection
        return size * sign, size * slope, offset

    def exact(self, z: Fraction) -> Fraction | None:
        """The value at a rational where it is rational by algebra alone, else None."""
        if self.piecewise_linear:
            if z >= 0 or self.kind == "identity":
                return z
            return -z if self.kind == "abs" else z * Fraction(self.slope or 0)
        if z == 0 and self.kind != "softplus":
            return self.reflection[2] / 2
        return None
