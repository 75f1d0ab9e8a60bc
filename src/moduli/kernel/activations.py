"""Activation functions, as rows of properties.

Nothing outside this module asks an activation for its name to decide what is true of it.
Most activations obey a *reflection law*

    s(-z) = sign * s(z) + slope * z + offset        for all real z:

tanh has (-1, 0, 0), the sigmoid (-1, 0, 1), ReLU (1, -1, 0). Those without one (elu, mish, a clip
whose ends are not opposite) let no unit change its sign. That constant, dead and equal units can
go, and every enclosure, needs no law at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Law = tuple[Fraction, Fraction, Fraction]
Ends = tuple[Fraction, Fraction]
Real = float | int


class Line(NamedTuple):
    """s(z) = slope * z + offset for start <= z <= end; an end that is None does not bound."""

    start: Fraction | None
    end: Fraction | None
    slope: Fraction
    offset: Fraction

    def covers(self, low: Fraction, high: Fraction) -> bool:
        """Whether [low, high] lies between the ends."""
        return (self.start is None or self.start <= low) and (self.end is None or high <= self.end)


def _line(start: Real | None, end: Real | None, slope: Real, offset: Real) -> Line:
    first, last = (None if z is None else Fraction(z) for z in (start, end))
    return Line(first, last, Fraction(slope), Fraction(offset))


def _law(sign: Real, slope: Real, offset: Real) -> Law:
    return Fraction(sign), Fraction(slope), Fraction(offset)


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


def _hardswish(z: Array) -> Array:
    return np.asarray(z * np.clip(z / 6 + 0.5, 0.0, 1.0))


def _hardswish_derivative(z: Array) -> Array:
    return np.asarray(np.where(np.abs(z) < 3, z / 3 + 0.5, z > 0))


def _mish(z: Array) -> Array:
    return np.asarray(z * np.tanh(np.logaddexp(0.0, z)))


def _mish_derivative(z: Array) -> Array:
    t = np.tanh(np.logaddexp(0.0, z))
    return np.asarray(t + z * (1 - t * t) * _sigmoid(z))


def _valley(near: str) -> Ends:
    """A function that falls, then rises, turns within 1e-15 of this decimal.

    The derivative has other signs at these two ends (tests/kernel/test_activations.py), and one
    change of sign: silu' = sigmoid(z) (1 + z sigmoid(-z)), where z sigmoid(-z) grows for z < 0 and
    is positive for z > 0. gelu' = Phi + z phi falls from 0 up to -sqrt(2), rises up to sqrt(2), to
    more than 1, and falls to 1. gelu_tanh' = (1 + t)/2 (1 + z (1 - t) u'), t = tanh(u): for z < 0
    all of |z|, 1 - t, u' grow with |z|. mish' = t (1 + z q) with q as below: for z < 0 both |z| and
    q grow with |z|.
    """
    return Fraction(near) - Fraction(1, 10**15), Fraction(near) + Fraction(1, 10**15)


# mish(z) = z t with t = tanh(softplus(z)). Let w = e^z, v = w + 1, D = v^2 + 1: then t = 1 - 2/D
# and     mish' = t + 4 z w v / D^2 = t (1 + z q),  q = 4 v / (D (v + 1)), which falls as v >= 1
# grows, since     its logarithm has the derivative 1/(v (v + 1)) - 2v/D < 0, as 2 v^2 (v + 1) > v^2
# + 1. z <= 0: D >= 2v, so |4 z w v / D^2| <= |z| w <= 1/e, and 0 < t < 1: |mish'| < 1. z > 0: z =
# ln w <= w/e < 3w/8, so mish' - 1 < (3/2 w^2 v - 2 D) / D^2. This is below 3/20:     3/20 D^2 + 2 D
# - 3/2 w^2 v = w^2 (3/20 w^2 - 9/10 w + 17/10) + 26/5 w + 23/5 with D = w^2 + 2w + 2,     and the
# square has no zero, as 81/100 < 4 (3/20) (17/10): all terms are positive.
MISH_STEEPEST = Fraction(23, 20)


@dataclass(frozen=True)
class _Row:
    value: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    reflection: Law | None
    lipschitz: Fraction
    least: Fraction | None = None  # a lower bound of s, None where there is none or none is needed
    most: Fraction | None = None  # an upper bound of s
    homogeneous: bool = False  # s(tz) = t s(z) for t > 0
    piecewise_linear: bool = False  # two lines that meet at 0
    injective: bool = False  # and rising
    monotone: bool = False  # never falling
    valley: Ends | None = None
    lines: tuple[Line, ...] = ()  # where s is affine
    between: Callable[[Fraction], Fraction] | None = None  # s at rationals outside the lines
    tails: tuple[Ends, Ends] | None = (
        None  # (slope, offset) far left and far right: off by less than 1e-50 beyond 1e40
    )
    at_zero: Fraction | None = None
    zero: float = 0.0  # an upper bound of |s(0)|
    minimal: bool = False  # irreducible one-hidden-layer networks are minimal on R^n
    source: str = ""


def _kinked(
    value: Callable[[Array], Array], derivative: Callable[[Array], Array], law: Law, left: float
) -> _Row:
    """z for z >= 0, left * z for z <= 0."""
    return _Row(
        value, derivative, law, max(Fraction(1), abs(Fraction(left))),
        least=Fraction(0) if left <= 0 else None,
        homogeneous=True, piecewise_linear=True, injective=left > 0, monotone=left >= 0,
        lines=(_line(0, None, 1, 0), _line(None, 0, left, 0)),
    )  # fmt: skip


def _leaky(a: float) -> _Row:
    law = Fraction(1), -1 - Fraction(a), Fraction(0)
    return _kinked(lambda z: np.where(z >= 0, z, a * z), lambda z: np.where(z > 0, 1.0, a), law, a)


def _elu(a: float) -> _Row:
    """z for z >= 0, a (e^z - 1) for z <= 0: its derivatives are 1 and a e^z; with a < 0 it falls up
    to 0.
    """
    return _Row(
        lambda z: np.where(z > 0, z, a * np.expm1(np.minimum(z, 0.0))),
        lambda z: np.where(z > 0, 1.0, a * np.exp(np.minimum(z, 0.0))),
        None, max(Fraction(1), abs(Fraction(a))),
        least=min(-Fraction(a), Fraction(0)),
        injective=a > 0, monotone=a > 0, valley=None if a > 0 else (Fraction(0), Fraction(0)),
        lines=(_line(0, None, 1, 0),),
        tails=((Fraction(0), -Fraction(a)), (Fraction(1), Fraction(0))),
    )  # fmt: skip


def _clip(low: float, high: float) -> _Row:
    """z, but not below low nor above high."""
    return _Row(
        lambda z: np.clip(z, low, high),
        lambda z: np.asarray((z > low) & (z < high), dtype=np.float64),
        _law(-1, 0, 0) if low == -high else None, Fraction(1),
        least=Fraction(low), most=Fraction(high),
        monotone=True,
        lines=(_line(low, high, 1, 0), _line(None, low, 0, low), _line(high, None, 0, high)),
    )  # fmt: skip


_ZERO = Fraction(0)
_ONE = Fraction(1)
_ODD = _law(-1, 0, 0)  # s(-z) = -s(z)
_HALVES = _law(-1, 0, 1)  # s(-z) = 1 - s(z)
_RAMP = _law(1, -1, 0)  # s(-z) = s(z) - z
_STEP_TAILS = (_ZERO, -_ONE), (_ZERO, _ONE)
_RAMP_TAILS = (_ZERO, _ZERO), (_ONE, _ZERO)

_TABLE: dict[str, _Row] = {
    "identity": _Row(
        lambda z: z,
        lambda z: np.ones(z.shape),
        _ODD,
        _ONE,
        homogeneous=True,
        piecewise_linear=True,
        injective=True,
        monotone=True,
        lines=(_line(None, None, 1, 0),),
    ),
    "relu": _kinked(
        lambda z: np.maximum(z, 0.0), lambda z: np.asarray(z > 0, dtype=np.float64), _RAMP, 0.0
    ),
    "abs": _kinked(np.abs, lambda z: np.asarray(np.sign(z), dtype=np.float64), _law(1, 0, 0), -1.0),
    "tanh": _Row(
        np.tanh,
        lambda z: 1 - np.tanh(z) ** 2,
        _ODD,
        _ONE,
        least=-_ONE,
        most=_ONE,
        injective=True,
        monotone=True,
        tails=_STEP_TAILS,
        at_zero=_ZERO,
        minimal=True,
        source="Sussmann 1992",
    ),
    "sigmoid": _Row(
        _sigmoid,
        lambda z: _sigmoid(z) * (1 - _sigmoid(z)),
        _HALVES,
        Fraction(1, 4),
        least=_ZERO,
        most=_ONE,
        injective=True,
        monotone=True,
        tails=((_ZERO, _ZERO), (_ZERO, _ONE)),
        at_zero=Fraction(1, 2),
        minimal=True,
        source="Sussmann 1992, through 2 sigmoid(z) = 1 + tanh(z/2)",
    ),
    "erf": _Row(
        _erf,
        lambda z: 2 / np.sqrt(np.pi) * np.exp(-z * z),
        _ODD,
        Fraction(1129, 1000),
        least=-_ONE,
        most=_ONE,
        injective=True,
        monotone=True,
        tails=_STEP_TAILS,
        at_zero=_ZERO,
        minimal=True,
        source="derivatives are Gaussians with distinct exponents",
    ),
    "sin": _Row(np.sin, np.cos, _ODD, _ONE, least=-_ONE, most=_ONE, at_zero=_ZERO),
    "gelu": _Row(
        lambda z: z * _normal_cdf(z),
        lambda z: _normal_cdf(z) + z * _normal_pdf(z),
        _RAMP,
        Fraction(1129, 1000),
        valley=_valley("-0.7517915246935645"),
        tails=_RAMP_TAILS,
        at_zero=_ZERO,
    ),
    "gelu_tanh": _Row(
        _gelu_tanh,
        _gelu_tanh_derivative,
        _RAMP,
        Fraction(113, 100),
        valley=_valley("-0.752461422071016"),
        tails=_RAMP_TAILS,
        at_zero=_ZERO,
    ),
    "silu": _Row(
        lambda z: z * _sigmoid(z),
        lambda z: _sigmoid(z) * (1 + z * (1 - _sigmoid(z))),
        _RAMP,
        Fraction(11, 10),
        valley=_valley("-1.2784645427610738"),
        tails=_RAMP_TAILS,
        at_zero=_ZERO,
    ),
    "softplus": _Row(
        lambda z: np.logaddexp(0.0, z),
        _sigmoid,
        _RAMP,
        _ONE,
        least=_ZERO,
        injective=True,
        monotone=True,
        tails=_RAMP_TAILS,
        zero=0.7,
    ),
    # -z clip(1/2 - z/6, 0, 1) = z clip(1/2 + z/6, 0, 1) - z; between -3 and 3 the derivative is
    # z/3 + 1/2, at most 3/2 in size
    "hardswish": _Row(
        _hardswish,
        _hardswish_derivative,
        _RAMP,
        Fraction(3, 2),
        least=Fraction(-3, 8),
        valley=(Fraction(-3, 2), Fraction(-3, 2)),
        lines=(_line(None, -3, 0, 0), _line(3, None, 1, 0)),
        between=lambda z: z * (z + 3) / 6,
    ),
    "mish": _Row(
        _mish,
        _mish_derivative,
        None,
        MISH_STEEPEST,
        valley=_valley("-1.1924312145154952"),
        tails=_RAMP_TAILS,
        at_zero=_ZERO,
    ),
}
_FAMILIES: dict[str, tuple[Callable[..., _Row], tuple[str, ...]]] = {
    "leaky_relu": (_leaky, ("slope",)), "elu": (_elu, ("alpha",)), "clip": (_clip, ("low", "high")),
}  # fmt: skip
_SPELLINGS = {"relu6": "clip(0,6)", "elu": "elu(1)"}


@dataclass(frozen=True, init=False)
class Activation:
    """An elementwise activation function.

    Args:
        kind: one of `Activation.KINDS`.
        parameters: floats, used exactly: the slope of ``leaky_relu`` for negative inputs; alpha of
            ``elu``, which is alpha (e^z - 1) there; the ends of ``clip``, low < high.

    >>> import numpy as np
    >>> s = Activation.of("leaky_relu(0.25)")
    >>> s(np.array([-4.0, 2.0]))
    array([-1.,  2.])
    >>> s.homogeneous, s.piecewise_linear, str(s)
    (True, True, 'leaky_relu(0.25)')
    >>> str(Activation.of("relu6")), Activation("clip", 0, 6) == Activation.of("relu6")
    ('clip(0.0,6.0)', True)
    """

    kind: str
    parameters: tuple[float, ...]

    KINDS = (*_TABLE, *_FAMILIES)

    def __init__(self, kind: str, *parameters: Real) -> None:
        if kind not in self.KINDS:
            raise ValueError(f"unknown activation {kind!r}; known: {', '.join(sorted(self.KINDS))}")
        names = _FAMILIES[kind][1] if kind in _FAMILIES else ()
        if len(parameters) != len(names):
            raise ValueError(
                f"activation {kind!r} with parameters {parameters}: {_taken(kind, names)}"
            )
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "parameters", tuple(map(_float, names, parameters)))
        self._check()

    def _check(self) -> None:
        if not all(map(isfinite, self.parameters)):
            raise ValueError(f"{self}: its {' and '.join(_FAMILIES[self.kind][1])} must be finite")
        if self.kind == "elu" and self.parameters[0] == 0:
            raise ValueError(f"{self} is relu; name it so")
        if self.kind == "clip" and not self.parameters[0] < self.parameters[1]:
            raise ValueError(f"{self}: its low end must lie below its high end")

    def __reduce__(self) -> tuple[Any, ...]:
        return Activation, (self.kind, *self.parameters)

    @staticmethod
    def of(name: str | Activation) -> Activation:
        """Parse a name such as ``"tanh"``, ``"leaky_relu(0.1)"`` or ``"clip(0,6)"``; ``"relu6"`` is
        the latter.
        """
        if isinstance(name, Activation):
            return name
        text = str(name).strip()
        match = re.fullmatch(
            r"(\w+)\s*(?:\(\s*([^()]+?)\s*\))?", _SPELLINGS.get(text, text), re.ASCII
        )
        if not match:
            raise ValueError(
                f"cannot read activation {name!r}; examples: 'tanh', 'leaky_relu(0.1)', 'clip(0,6)'"
            )
        kind, inside = match.groups()
        if kind in _FAMILIES and inside is None:
            needed = ", ".join(_FAMILIES[kind][1])
            example = {"leaky_relu": "leaky_relu(0.01)", "clip": "clip(0,6)"}[kind]
            raise ValueError(f"{kind} needs its {needed}: write {example!r}")
        return Activation(
            kind, *(_number(part, str(name)) for part in (inside.split(",") if inside else ()))
        )

    def __str__(self) -> str:
        return (
            f"{self.kind}({','.join(map(repr, self.parameters))})" if self.parameters else self.kind
        )

    @cached_property
    def _row(self) -> _Row:
        return (
            _FAMILIES[self.kind][0](*self.parameters)
            if self.kind in _FAMILIES
            else _TABLE[self.kind]
        )

    def __call__(self, z: Array) -> Array:
        return self._row.value(z)

    def derivative(self, z: Array) -> Array:
        return self._row.derivative(z)

    @property
    def slope(self) -> float | None:
        """Of ``leaky_relu`` for negative inputs, None for any other."""
        return self.parameters[0] if self.kind == "leaky_relu" else None

    @property
    def reflection(self) -> Law | None:
        """(sign, slope, offset) of the law s(-z) = sign * s(z) + slope * z + offset, None where
        there is none.
        """
        return self._row.reflection

    @property
    def symmetric(self) -> bool:
        """Whether there is a reflection law without a linear term, so that a unit can change sign
        on its own.
        """
        return self.reflection is not None and self.reflection[1] == 0

    @property
    def turned(self) -> tuple[Fraction, Fraction]:
        """(sign, offset) with s(-z) = sign * s(z) + offset where units can change sign; else (1,
        0), of no use.
        """
        if self.reflection is None or not self.symmetric:
            return _ONE, _ZERO
        return self.reflection[0], self.reflection[2]

    @property
    def odd(self) -> bool:
        """s(-z) = -s(z)."""
        return self.reflection == _ODD

    @property
    def ramp(self) -> bool:
        """s(-z) = s(z) - z, so that z = s(z) - s(-z)."""
        return self.reflection == _RAMP

    @property
    def homogeneous(self) -> bool:
        """s(tz) = t s(z) for all t > 0."""
        return self._row.homogeneous

    @property
    def piecewise_linear(self) -> bool:
        """Linear on either side of 0: two slopes and no other bend. So a clip is not."""
        return self._row.piecewise_linear

    @property
    def injective(self) -> bool:
        """Rising everywhere, hence one to one."""
        return self._row.injective

    @property
    def monotone(self) -> bool:
        """Nowhere falling."""
        return self._row.monotone

    @property
    def valley(self) -> Ends | None:
        """Of a function that falls up to one point and rises from there on: rationals around that
        point.
        """
        return self._row.valley

    @property
    def least(self) -> Fraction | None:
        """A lower bound of s, None where it has none or none is known here."""
        return self._row.least

    @property
    def most(self) -> Fraction | None:
        """An upper bound of s, None where it has none."""
        return self._row.most

    @property
    def bound(self) -> Fraction | None:
        """sup |s|, or None when unbounded."""
        return None if self.least is None or self.most is None else max(-self.least, self.most)

    @property
    def lipschitz(self) -> Fraction:
        """A rational upper bound of the Lipschitz constant."""
        return self._row.lipschitz

    @property
    def zero(self) -> float:
        """An upper bound of |s(0)|."""
        value = self.exact(_ZERO)
        return self._row.zero if value is None else float(abs(value))

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

    @property
    def tails(self) -> tuple[Ends, Ends] | None:
        """Lines (slope, offset) left of -1e40 and right of 1e40, where s is less than 1e-50 off."""
        return self._row.tails

    def under(self, ratio: Fraction) -> Law | None:
        """(a, k, g) with s(ratio * z) = a * s(z) + k * z + g for all z, or None where no such law
        is known.

        >>> from fractions import Fraction
        >>> [str(x) for x in Activation("relu").under(Fraction(-2))]
        ['2', '-2', '0']
        """
        size = abs(ratio)
        if ratio == 0 or (size != 1 and not self.homogeneous):
            return None
        if ratio > 0:
            return size, Fraction(0), Fraction(0)
        if self.reflection is None:
            return None
        sign, slope, offset = self.reflection
        return size * sign, size * slope, offset

    def line(self, low: Fraction, high: Fraction) -> tuple[Fraction, Fraction] | None:
        """(slope, offset) of s on [low, high] where it is affine there, else None."""
        return next(((x.slope, x.offset) for x in self._row.lines if x.covers(low, high)), None)

    def exact(self, z: Fraction) -> Fraction | None:
        """The value at a rational where it is rational by algebra alone, else None."""
        line = self.line(z, z)
        if line is not None:
            return line[0] * z + line[1]
        if self._row.between is not None:
            return self._row.between(z)
        return self._row.at_zero if z == 0 else None


def _taken(kind: str, names: tuple[str, ...]) -> str:
    return f"it takes {', '.join(names)}" if names else f"it takes none; {', '.join(_FAMILIES)} do"


def _float(name: str, number: Real) -> float:
    own = float(number) + 0.0 if name != "slope" else float(number)
    if own != number and own == own:
        raise ValueError(
            f"{name} {number!r} of an activation is no float64; give the float that is meant"
        )
    return own


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"{text.strip()!r} in {name!r} is not a number; examples: 'leaky_relu(0.1)', 'clip(0,6)'"
        ) from None
