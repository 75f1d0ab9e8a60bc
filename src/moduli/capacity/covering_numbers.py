"""Covering numbers of networks with bounded parameters, divided by their symmetries; the volume and
the copies they leave.

The class F: architecture (d_0, ..., d_{L+1}), entries of layer l at most B_l in size, inputs at
most B_x; sigma_l is rho_l-Lipschitz, s_l = |sigma_l(0)|, M_l = sup |sigma_l|. Layer l has S_l = p_l
d_l parameters, p_l = d_{l-1} + 1; S in all, and N hidden units.

**Perturbation.** Let H_0 = B_x and H_l = min(rho_l B_l (d_{l-1} H_{l-1} + 1) + s_l, M_l).
Parameters that differ by at most delta_l in layer l have outputs within sum_l K_l delta_l, where
K_l = (d_{l-1} H_{l-1} + 1) prod_{j > l} rho_{j-1} B_j d_{j-1}.

**Theorem P.** Cut each interval [-B_l, B_l] into m_l >= B_l / delta_l pieces. Permutations of
hidden units move the grid of centres onto itself, so one grid point for each orbit is enough: if
sum_l K_l delta_l <= eps,

    log N(F, eps) <= sum_{l <= L} log C(m_l^p_l + d_l - 1, d_l) + S_{L+1} log m_{L+1}.

The grid is divided, not the domain, so there are no boundary terms. For odd sigma half the rows,
rounded up, are enough: minus a row gives minus the unit, which the outgoing weights undo. For even
sigma (abs) too: minus a row gives the same unit.

**Theorem S** (positively homogeneous sigma). Rows of hidden layers can have size exactly 1: the
grid of the faces of a cube has 2 p m^(p - 1) cells, and the exponent of 1/eps falls from S to S -
N. Up to sign, where that counts, half of the cells.

Derived and proved for this library, as is every bound here but the two called `published`. Integers
and rationals are exact; logarithms are floats with a relative error below 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from moduli.equivalence.group import SymmetricPart, hidden_units
from moduli.kernel.activations import Activation
from moduli.kernel.errors import ArgumentError, Asked, ShapeError

Array = np.ndarray[Any, np.dtype[np.float64]]
DIGITS = 10**40
STARTS = ("he", "xavier")  # rules of random starts, by which bounds fall with the width
FLOATS = 650  # logs of numbers of kinds that floats hold with room to spare (they end at e^709); beyond, logs are kept


def signed(s: Activation) -> bool:
    """Whether a change of sign of rows, with one of outgoing weights for odd activations, keeps
    functions and boxes.

    Not for the sigmoid, whose law shifts the next bias.
    """
    return s.symmetric and not s.turned[1]


def holding(x: Any) -> Fraction:
    """A bound that holds where `x` stands for a decimal and where it stands for the float itself.

    >>> holding(0.1) > rational(0.1), holding(0.3) == rational(0.3)
    (True, True)
    """
    near = rational(x)
    return max(near, Fraction(float(x))) if isinstance(x, (float, np.floating)) else near


def rational(x: Any) -> Fraction:
    """A float as the shortest decimal that names it; integers, decimals in text and rationals as
    they are.

    >>> rational(0.1)
    Fraction(1, 10)
    """
    if isinstance(x, float) and not math.isfinite(x):
        raise ValueError(f"{x} is no number that bounds anything; a finite one is needed")
    return Fraction(repr(float(x))) if isinstance(x, (float, np.floating)) else Fraction(x)


def root(n: int) -> Fraction:
    """sqrt(n), rounded up where it is irrational."""
    exact = math.isqrt(n)
    return (
        Fraction(exact)
        if exact * exact == n
        else Fraction(math.isqrt(n * DIGITS * DIGITS) + 1, DIGITS)
    )


def log(x: Fraction | int) -> float:
    """Natural logarithm of a positive rational of any size."""
    if x == 1:
        return 0.0
    top, bottom = (x, 1) if isinstance(x, int) else (x.numerator, x.denominator)
    near = top.bit_length() - bottom.bit_length()
    if abs(near) <= 1:
        return math.log1p(float(Fraction(top - bottom, bottom)))
    return math.log(top) - math.log(bottom)


# Counting -------------------------------------------------------------------------------------------------------


def log_multisets(count: int, kinds: int | None = None, *, log_kinds: float | None = None) -> float:
    """log C(kinds + count - 1, count): multisets of `count` things of so many kinds.

    Args:
        log_kinds: instead of `kinds` where that is beyond all bounds.

    >>> round(log_multisets(3, 2), 12) == round(math.log(4), 12)
    True
    >>> round(log_multisets(10**5, log_kinds=1000.0) / 1e5, 3)       # log(e^1000 / 1e5) + 1
    989.487
    """
    size = log(kinds) if kinds is not None else float(log_kinds or 0.0)
    if size > 690:
        return count * size - math.lgamma(count + 1)
    small, large = sorted((count, (round(math.exp(size)) if kinds is None else kinds) - 1))
    return _log_choose(small, float(large)) if small else 0.0


def _log_choose(small: int, large: float) -> float:
    """log C(small + large, small) for 1 <= small <= large, by Stirling's series for the ratio of
    two factorials.
    """
    if large < 32:
        return math.log(math.comb(small + int(large), small))
    top, bottom = large + small + 0.0, large + 0.0
    rising = (
        small * math.log(large)
        + (top + 0.5) * math.log1p(small / large)
        - small
        + _stirling(top)
        - _stirling(bottom)
    )
    return rising - math.lgamma(small + 1)


def _stirling(x: float) -> float:
    """log Gamma(x + 1) - (x + 1/2) log x + x - log(2 pi)/2, for x >= 32."""
    y = 1 / (x * x)
    return (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y / 1680))) / x


# The class ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Class:
    """Networks of one architecture with bounded parameters, on bounded inputs.

    Attributes:
        widths: d_0, ..., d_{L+1}. activations: one per hidden layer. bounds: B_l, one per layer.
            input_bound: B_x.
        norm: of the inputs, "inf" or "2".

    >>> Class.of([10, 100, 1], "relu").log_permuted(Fraction(1, 10)) < Class.of([10, 100, 1], "relu").log_plain(Fraction(1, 10))
    True
    """

    widths: tuple[int, ...]
    activations: tuple[Activation, ...]
    bounds: tuple[Fraction, ...]
    input_bound: Fraction
    norm: str = "inf"

    @staticmethod
    def of(
        widths: Sequence[int],
        activation: Any = "relu",
        bound: Any = 1,
        input_bound: Any = 1,
        norm: str = "inf",
    ) -> Class:
        """From one activation or one per hidden layer, one bound or one per layer, or those that random starts
        have, "he" or "xavier" (`start_bounds`).

        Raises:
            ShapeError: other numbers of them. ValueError: no architecture, or a bound that is not
                positive.
        """
        sizes = tuple(int(d) for d in widths)
        if len(sizes) < 2 or any(d < 1 or d != e for d, e in zip(sizes, widths, strict=True)):
            raise ValueError(
                f"widths {list(widths)}: inputs, hidden layers, outputs, each a positive integer"
            )
        return Class.of_network(sizes, activation, bound, input_bound, norm)

    @staticmethod
    def of_network(
        sizes: tuple[int, ...], activation: Any = "relu", bound: Any = 1, input_bound: Any = 1, norm: str = "inf"
    ) -> Class:  # fmt: skip
        """The same for the widths of a network, which may have hidden layers without units."""
        depth = len(sizes) - 1
        acts = (
            [activation] * (depth - 1)
            if isinstance(activation, (str, Activation))
            else list(activation)
        )
        if isinstance(bound, str) and bound in STARTS:
            bound = start_bounds(sizes, bound)
        limits = list(bound) if isinstance(bound, (list, tuple, np.ndarray)) else [bound] * depth
        if len(acts) != depth - 1 or len(limits) != depth:
            raise ShapeError(
                f"{len(acts)} activations and {len(limits)} bounds for {depth - 1} hidden layers, {depth} layers"
            )
        if norm not in ("inf", "2"):
            raise ArgumentError(Asked("norm", norm), ": 'inf' or '2'")
        numbers = [holding(x) for x in (*limits, input_bound)]
        if min(numbers) <= 0:
            raise ValueError(f"bounds {[float(q) for q in numbers]}: each must be positive")
        return Class(sizes, tuple(map(Activation.of, acts)), tuple(numbers[:-1]), numbers[-1], norm)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Parameters of each layer, S_l."""
        return tuple((a + 1) * b for a, b in zip(self.widths[:-1], self.widths[1:], strict=True))

    @property
    def parameters(self) -> int:
        return sum(self.sizes)

    @property
    def units(self) -> int:
        """Hidden units, N."""
        return sum(self.widths[1:-1])

    @property
    def parts(self) -> tuple[SymmetricPart, ...]:
        """The symmetries of each hidden layer."""
        return hidden_units(self.widths, self.activations)

    @property
    def log_group(self) -> float:
        """Logarithm of the number of permutations, with signs of odd and even units: those that
        move the box onto itself.
        """
        layers = zip(self.widths[1:-1], self.activations, strict=True)
        return math.fsum(SymmetricPart(d, signed(s)).log_order for d, s in layers)

    def reaches(self) -> list[Fraction]:
        """H_0, ..., H_L: bounds of the outputs of each layer."""
        found = [self.input_bound]
        for l, s in enumerate(self.activations):
            size = s.lipschitz * self.bounds[l] * self._read(l, found[l]) + rational(s.zero)
            if s.bound is not None:
                size = min(size, Fraction(s.bound))
            found.append(size)
        return found

    def _read(self, l: int, reach: Fraction) -> Fraction:
        """d H + 1, or sqrt(d) H + 1 for inputs bounded in the Euclidean norm."""
        return (root(self.widths[0]) if l == 0 and self.norm == "2" else self.widths[l]) * reach + 1

    def sensitivities(self) -> list[Fraction]:
        """K_1, ..., K_{L+1}: how far a change of all parameters of a layer moves the outputs."""
        after, found = Fraction(1), list[Fraction]()
        reaches = self.reaches()
        for l in reversed(range(len(self.bounds))):
            found.append(self._read(l, reaches[l]) * after)
            after *= (
                self.bounds[l] * self.widths[l] * (self.activations[l - 1].lipschitz if l else 1)
            )
        return found[::-1]

    def cells(
        self, eps: Fraction, dimensions: Sequence[int] | None = None, *, uniform: bool = False
    ) -> list[int]:
        """m_1, ..., m_{L+1}: pieces of each interval, with delta_l = eps S_l / (S K_l) (or all
        equal).
        """
        if eps <= 0:
            raise ValueError(f"accuracy {float(eps)!r}: a positive number is needed")
        shares, moved = list(dimensions or self.sizes), self.sensitivities()
        if uniform:
            return [max(1, math.ceil(b * sum(moved) / eps)) for b in self.bounds]
        total = sum(shares)
        # a layer without free parameters, or that nothing reads, needs one cell
        layers = zip(self.bounds, moved, shares, strict=True)
        return [max(1, math.ceil(b * total * k / (eps * s))) if s else 1 for b, k, s in layers]

    def log_plain(self, eps: Fraction) -> float:
        """Without symmetries: all grid points."""
        return math.fsum(s * log(m) for s, m in zip(self.sizes, self.cells(eps), strict=True))

    def log_permuted(self, eps: Fraction, *, signs: bool = True, uniform: bool = False) -> float:
        """Theorem P; `signs` where activations are odd or even."""
        cells = self.cells(eps, uniform=uniform)
        hidden = zip(self.widths[:-2], self.widths[1:-1], self.activations, cells, strict=False)
        rows = [_log_rows(m, n + 1, d, signs and signed(s)) for n, d, s, m in hidden]
        return math.fsum([self.sizes[-1] * log(cells[-1]), *rows])

    def log_shallow(self, eps: Fraction, *, signs: bool = True) -> float:
        """One hidden layer: the exact number of orbits on the grid."""
        if len(self.widths) != 3:
            raise ValueError(
                f"widths {list(self.widths)}: the number of orbits is known for one hidden layer"
            )
        inner, outer = self.cells(eps)
        inputs, count, outputs = self.widths
        logs = (inputs + 1) * log(inner) + outputs * log(outer)
        s = self.activations[0]
        halved = signs and signed(s)
        if logs < 650:
            rows, ends = inner ** (inputs + 1), outer**outputs
            kinds = rows * ends
            if halved:  # odd: rows and outgoing weights change sign together; else the rows alone
                kinds = -(-kinds // 2) if s.odd else -(-rows // 2) * ends
            multisets = log_multisets(count, kinds)
        else:
            multisets = log_multisets(count, log_kinds=logs - (math.log(2) if halved else 0.0))
        return multisets + outputs * log(outer)

    def scaled(self) -> Class:
        """The same functions with rows of size 1 in all hidden layers (for one bound B = the
        largest).
        """
        b, size = max(self.bounds), Fraction(1)
        for _ in self.activations:
            size = b * max(Fraction(1), size)
        bounds = (*(Fraction(1) for _ in self.activations), b * max(Fraction(1), size))
        return Class(self.widths, self.activations, bounds, self.input_bound, self.norm)

    def log_scaled(self, eps: Fraction) -> float:
        """Theorem S.

        Raises:
            ValueError: an activation that is not positively homogeneous.
        """
        if not all(s.homogeneous for s in self.activations):
            raise ValueError(
                f"{', '.join(map(str, self.activations))}: scales are free for positively homogeneous activations only"
            )
        unit = self.scaled()
        dimensions = [
            *(s - d for s, d in zip(self.sizes[:-1], self.widths[1:-1], strict=True)),
            self.sizes[-1],
        ]
        cells = unit.cells(eps, dimensions)
        total = [self.sizes[-1] * log(cells[-1])]
        for n, d, s, m in zip(
            self.widths[:-2], self.widths[1:-1], self.activations, cells, strict=False
        ):
            p, faces = n + 1, (n + 1) * (1 if signed(s) else 2)  # opposite faces are one up to sign
            logs = math.log(faces) + (p - 1) * log(m)
            if logs < FLOATS:
                total.append(log_multisets(d, faces * m ** (p - 1)))
            else:
                total.append(log_multisets(d, log_kinds=logs))
        return math.fsum(total)

    def log_covering(self, eps: Any, *, symmetry: bool = True) -> float:
        """The least of the bounds proved here."""
        eps = rational(eps)
        if eps >= self.bounds[-1] * self._read(len(self.activations), self.reaches()[-1]):
            return 0.0  # no function of the class is larger: 0 covers them all
        found = [self.log_plain(eps)]
        if symmetry and self.activations:
            found.append(self.log_permuted(eps))
            if len(self.widths) == 3:
                found.append(self.log_shallow(eps))
            if all(s.homogeneous for s in self.activations):
                found.append(self.log_scaled(eps))
        return min(found)

    # Volume: how large the parameters modulo their symmetries are

    def log_volume(self) -> float:
        """Of the box divided by the order of the group."""
        return math.fsum(
            [
                *(s * log(2 * b) for s, b in zip(self.sizes, self.bounds, strict=True)),
                -self.log_group,
            ]
        )

    def log_volume_step(self, layer: int) -> float:
        """How much one more unit in a hidden layer adds to `log_volume`."""
        d, s = self.widths, self.activations[layer - 1]
        own = (d[layer - 1] + 1) * log(2 * self.bounds[layer - 1]) + d[layer + 1] * log(
            2 * self.bounds[layer]
        )
        return own - log(d[layer] + 1) - (math.log(2) if signed(s) else 0.0)

    def log_peak_width(self, layer: int = 1) -> float:
        """log(d + 1) where the volume stops growing with the width d of a layer; 0 where it always
        shrinks.
        """
        d, s = self.widths, self.activations[layer - 1]
        own = (d[layer - 1] + 1) * log(2 * self.bounds[layer - 1]) + d[layer + 1] * log(
            2 * self.bounds[layer]
        )
        return max(0.0, own - (math.log(2) if signed(s) else 0.0))


def start_bounds(widths: Sequence[int], rule: str) -> list[Fraction]:
    """B_l of uniform starts, rounded up: "he" sqrt(6 / inputs of the layer), "xavier" sqrt(6 / (inputs + outputs)), of
    weights; here of biases, too.

    >>> [round(float(b), 6) for b in start_bounds([6, 24, 1], "he")]
    [1.0, 0.5]
    """
    sizes = [max(1, n if rule == "he" else n + m) for n, m in pairwise(widths)]
    return [root(6 * size) / size for size in sizes]


def volume_curve(
    inputs: int, outputs: int, widths: Sequence[int], bound: Any, activation: Any = "relu"
) -> list[float]:
    """Logarithm of the volume of the parameters of one hidden layer modulo orders and signs, for some widths of it.

    One more unit multiplies the volume by (2 B_1)^(inputs + 1) (2 B_2)^outputs / (d + 1) where bounds stay:
    above 1 for a long time if B > 1/2. With "he" or "xavier" the bounds of what reads the units fall with the width,
    with "xavier" those of the units, too. So the peak comes earlier; where starts are above 1/2 (fewer than 24 inputs)
    there still is one.
    """
    return [Class.of([inputs, d, outputs], activation, bound).log_volume() for d in widths]


def _log_rows(m: int, p: int, count: int, signs: bool) -> float:
    """Multisets of rows of p entries with m values each, rows up to sign where signs count."""
    logs = p * log(m)
    if logs < FLOATS:
        kinds = m**p
        if signs:
            kinds = -(-kinds // 2)
        return log_multisets(count, kinds)
    if signs:
        logs -= math.log(2)
    return log_multisets(count, log_kinds=logs)


def published_deep(cls: Class, eps: Any) -> float:
    """Shen 2024, several hidden layers. The constant is remembered, not read: no certificate rests
    on it.
    """
    depth, b, rho = (
        len(cls.widths) - 2,
        max(cls.bounds),
        math.prod((s.lipschitz for s in cls.activations), start=Fraction(1)),
    )
    inside = (
        4
        * (depth + 1)
        * (cls.input_bound + 1)
        * (2 * b) ** (depth + 2)
        * rho
        * math.prod(cls.widths[:-1])
        / rational(eps)
    )
    return cls.parameters * log(inside) - math.fsum(math.lgamma(d + 1) for d in cls.widths[1:-1])


def published_shallow(cls: Class, eps: Any) -> float:
    """Shen 2024, one hidden layer, one output. The constant is remembered, not read: no certificate
    rests on it.
    """
    inputs, count, _ = cls.widths
    rho, b = cls.activations[0].lipschitz, max(cls.bounds)
    inside = 16 * b * b * (cls.input_bound + 1) * root(inputs) * count / rational(eps)
    return cls.parameters * log(inside) + cls.sizes[0] * log(rho) - math.lgamma(count + 1)


def sorted_cover(count: int, bound: Any, delta: Any) -> tuple[float, float, float]:
    """Logs of covers of sorted vectors in [-B, B]^d at delta: by a grid; by volume; and m^d / d!,
    which bounds nothing.
    """
    ratio = rational(bound) / rational(delta)
    m = math.ceil(ratio)
    factorial = math.lgamma(count + 1)
    return (
        log_multisets(count, m),
        count * log(2 * ratio + count) - factorial,
        count * log(m) - factorial,
    )


# Copies: starts near one of them --------------------------------------------------------------------------------


def row_distance(weight: Array, bias: Array, *, signs: bool = False) -> float:
    """The least sup distance between rows (weight, bias) of a layer; with signs also from minus a
    row to any row.

    Balls of less than half of it around the copies of a network are disjoint.
    """
    rows = np.column_stack([weight, bias])
    least = math.inf
    for k, row in enumerate(rows):
        others = rows[k + 1 :]
        far = [np.abs(others - row).max(axis=1, initial=0)] + (
            [np.abs(others + row).max(axis=1, initial=0)] if signs else []
        )
        least = min(
            [
                least,
                *(float(x.min()) for x in far if len(x)),
                *([2 * float(np.abs(row).max())] if signs else []),
            ]
        )
    return least


def log_hit_probability(
    values: Any, radius: float, sigma: float = 1.0, *, log_copies: float = 0.0
) -> float:
    """log of: copies times the probability that independent normal entries all lie within `radius`
    of `values`.

    The probability of a start near some copy if the balls are disjoint (see `row_distance`); an
    upper bound always.

    >>> round(log_hit_probability([[0.5, -0.25], [1, 0.75]], 0.25, log_copies=math.log(2)), 6)
    -6.714849
    """
    from scipy.special import log_ndtr

    t, r = np.abs(np.asarray(values, dtype=np.float64)).ravel() / sigma, radius / sigma
    low, high = log_ndtr(r - t), log_ndtr(-r - t)
    with np.errstate(divide="ignore"):
        exact = low + np.log(-np.expm1(high - low))
    series = (
        np.log(2 * r) - t * t / 2 - math.log(2 * math.pi) / 2 + np.log1p(r * r * (t * t - 1) / 6)
    )
    return log_copies + math.fsum(np.where(r * np.maximum(1, t) < 1e-4, series, exact).tolist())


def log_hit_cap(count: int, inputs: int, outputs: int) -> float:
    """A bound of the log of that probability for uniform starts in a box: d rows of p entries far
    apart leave small balls.

    d rows in [-B, B]^p at distance D force D <= 2B / (d^(1/p) - 1), so log(d! P(ball)) <= log d! -
    d (p + c) log(d^(1/p) - 1).

    >>> round(log_hit_cap(10, 2, 1), 6)
    -8.030452
    """
    side = count ** (1 / inputs)
    if side <= 2:
        return 0.0
    return min(0.0, math.lgamma(count + 1) - count * (inputs + outputs) * math.log(side - 1))
