"""How much of a layer of heavy-tailed noise lies in its smaller rows: bounds without sampling.

The rows of a layer carry squared norms R_1, ..., R_n, independent and alike. The k largest are kept,
the m = n - k smallest go, and the relative squared error is what goes over the whole. It is bounded
in three steps; none draws a number.

**1. The law of R is enclosed.** A symmetric alpha-stable X has, by the formula of Chambers, Mallows
and Stuck with v uniform on (0, pi/2) and w exponential, the size a(v) w^(1 - 1/alpha) with
a(v) = sin(alpha v) cos(v)^(-1/alpha) cos((1 - alpha) v)^(1/alpha - 1), so that

    P(|X| > t) = 2/pi * integral over v of h(t / a(v)),

h(z) = exp(-z^(alpha / (alpha - 1))) for alpha > 1, 1 - exp(-z^(-alpha / (1 - alpha))) for alpha < 1,
and 1 for z < 1, else 0, for alpha = 1: decreasing in z. And a increases. Proof: with A = v,
B = (alpha - 1) v, x = tan A, y = tan B and c = alpha - 1, alpha (log a)' is
alpha^2 cot(A + B) + x + c^2 y; times x + y, which has the sign of sin(A + B) = sin(alpha v) > 0 as
both cosines are positive, it is (1 + c)^2 (1 - x y) + (x + c^2 y)(x + y)
= (1 + c)^2 + (x - c y)^2 > 0. So the integrand is monotone, and sums of its values at the left and
at the right ends of cells enclose the integral.
The positive a-stable A (a = alpha / 2) of isotropic noise, by the formula of Kanter, is
b(u) w^(1 - 1/a) with u uniform on (0, pi), b(u) = sin(a u) sin(u)^(-1/a) sin((1 - a) u)^(1/a - 1),
and b increases: with A = a u, B = (1 - a) u, x = cot A, y = cot B, a (log b)' is
a^2 x + (1 - a)^2 y - cot(A + B), and times x + y > 0 it is (a x - (1 - a) y)^2 + 1 > 0.
The law of chi^2 is enclosed in the same way (its density in log x rises to x = d, then falls).
A row of independent entries is a sum of d squares, an isotropic row a product 2 A chi^2_d: sums and
products of variables on a geometric grid, rounded up for a variable that is larger and down for one
that is smaller (in the sense of distribution functions, which sums and products of independent
positive variables respect).

**2. Which rows go.** Let L be any level. If at least m of the R_i are at most L, then what goes sums
to at most S, the sum of all R_i <= L (the m smallest are among them), and what stays sums to at
least T, the sum of all R_i > L. The number of R_i <= L is binomial with p = P(R <= L), and by
Chernoff P(it is < m) <= exp(-n KL((m - 1)/n, p)) where (m - 1)/n <= p.

**3. What they hold.** The error exceeds eps only if (1 - eps) S > eps T, that is if the sum of
Z_i = (1 - eps) R_i for R_i <= L, -eps R_i otherwise, is positive, and by Markov's inequality
P(sum Z_i > 0) <= (E exp(s Z))^n for every s > 0 (Bernstein's inequality is a weaker form of it, for
the same sums). The expectation is bounded from the enclosures of P(R > t) by summation by parts:
exp(s Z) rises up to L and falls beyond it.

With probability at least 1 - (the sum of both) the error is at most eps. L and s may be chosen
freely, as they do not depend on the draw; eps is the least one found with the sum at most
1 - confidence.

**Drift.** If each row differs from noise by at most D in norm, the m smallest rows hold at most what
the m rows with the smallest noise hold, at most sum (r_i + D)^2, and the others at least
sum max(r_i - D, 0)^2: in Z, R becomes (sqrt(R) + D)^2 and max(sqrt(R) - D, 0)^2.

**Rounding.** Everything is computed in float64 with every value of a and b widened by 2^-30, and
every probability too. NumPy's elementary functions are taken to be right within 2^-45 relatively (a
test compares a and b with 40 digits); sums of at most 10^5 terms of one sign lose 2^-36.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.result import Result
from moduli.kernel.errors import ArgumentError, Asked, Undecided
from moduli.kernel.exact_numbers import above

from .noise import check, positive, symmetric, theorem_step

Array = np.ndarray[Any, np.dtype[np.float64]]
WIDER = 2.0**-30  # relative, of every value and probability
RATIO = 1.015  # of neighbouring levels of squared norms
CELL = 1.01  # of neighbouring cells of an angle
FINE = 32  # parts of a step of levels, for the density of chi^2
LEVELS = 10_000
LEAST_ALPHA = 0.25
NEAR_TWO = 1e-6  # nearer to 2 a tangent near its pole loses the digits that WIDER allows for
WIDEST = 10**9
TINY = 1e-300  # above what rounds to a subnormal number or to 0
GROUP = 32  # laws are computed for powers of this number of rows, and kept
STEPS = 24  # of bisections
STEEPEST = 60.0  # s (1 - eps) times the level, in step 3; the flattest is 1 / rows
SLOPES = 64  # values of s that are tried
TAKEN = (0.5, 0.2, 0.05, 0.01)  # parts of the failure probability that step 2 may take


class _Law(NamedTuple):
    """P(R > level) between two bounds, on levels first * RATIO^j."""

    first: float
    low: Array
    high: Array

    @property
    def levels(self) -> Array:
        return np.asarray(self.first * RATIO ** np.arange(len(self.low)))


# 1. The law of a row's squared norm ---------------------------------------------------------------


def _cells(most: float) -> Array:
    """Distances from the pole of an angle as parts of its range, from 0 to 1: geometric towards
    both ends.
    """
    near = np.geomspace(most, 0.5, math.ceil(math.log(0.5 / most) / math.log(CELL)) + 1)
    far = np.geomspace(1e-4, 0.5, math.ceil(math.log(0.5e4) / math.log(CELL)) + 1)
    return np.concatenate([[0.0], near, (1 - far)[-2::-1], [1.0]])


def _survival(size: Array, cells: Array, power: float, levels: Array) -> tuple[Array, Array]:
    """P(size w^power > level) for size falling along cells of a uniform, enclosed; w exponential."""
    width = np.diff(cells)
    with np.errstate(all="ignore"):
        logs = np.log(size)
    upper, lower = logs[:-1] + WIDER, logs[1:] - WIDER  # the greatest and the least in each cell
    low, high = np.empty(len(levels)), np.empty(len(levels))
    with np.errstate(all="ignore"):
        for k, level in enumerate(np.log(levels)):
            high[k] = width @ _exceeds(level - upper, power)
            low[k] = width @ _exceeds(level - lower, power)
    return low * (1 - WIDER), np.minimum(high * (1 + WIDER) + TINY, 1.0)


def _exceeds(gap: Array, power: float) -> Array:
    """P(w^power > exp(gap))."""
    if power == 0:
        return np.asarray((gap < 0).astype(np.float64))
    if power > 0:
        return np.asarray(np.exp(-np.exp(gap / power)))
    return np.asarray(-np.expm1(-np.exp(gap / power)))


def _squares(alpha: float, levels: Array) -> tuple[Array, Array]:
    """Of X^2 for a symmetric alpha-stable X."""
    cells = _cells(1e-18)
    if alpha == 2:
        size = 2 * np.cos(math.pi / 2 * cells)
    else:
        with np.errstate(all="ignore"):
            size = symmetric(cells, np.ones(len(cells)), alpha)
        size[0] = math.inf
    size[-1] = 0.0
    return _survival(size, cells, 1 - 1 / alpha, np.sqrt(levels))


def _radii(alpha: float, levels: Array) -> tuple[Array, Array]:
    """Of 2A for a positive alpha/2-stable A."""
    a, cells = alpha / 2, _cells(1e-18)
    with np.errstate(all="ignore"):
        size = positive(cells, np.ones(len(cells)), a)
    size[0], size[-1] = math.inf, a * (1 - a) ** (1 / a - 1)  # its limits
    return _survival(size, cells, 1 - 1 / a, levels / 2)


def _chi_square(degrees: int, levels: Array) -> tuple[Array, Array]:
    """Of chi^2; the density of its logarithm is exp(d/2 y - exp(y)/2) / (2^(d/2) Gamma(d/2))."""
    y = np.log(levels[0]) + np.log(RATIO) / FINE * np.arange(FINE * (len(levels) - 1) + 1)
    norm = degrees / 2 * math.log(2) + math.lgamma(degrees / 2)

    def density(y: Any) -> Any:
        return np.exp(degrees / 2 * y - np.exp(y) / 2 - norm)

    values = density(y)
    least = np.minimum(values[:-1], values[1:])
    most = np.maximum(values[:-1], values[1:])
    top = int(np.searchsorted(y, math.log(degrees))) - 1  # the cell that holds the greatest value
    if 0 <= top < len(most):
        most[top] = density(math.log(degrees))
    width = np.log(RATIO) / FINE
    # below the first level exp(-x/2) is at most 1
    start = math.exp(min(0.0, degrees / 2 * math.log(levels[0]) - norm - math.log(degrees / 2)))
    under = [np.concatenate([[0.0], np.cumsum(part)])[::FINE] * width for part in (least, most)]
    wider = WIDER + degrees * 2.0**-44  # the exponent is a difference of numbers of that size
    high = 1 - under[0] * (1 - wider)
    low = 1 - (start + under[1]) * (1 + wider)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def _masses(survival: Array) -> Array:
    """Of a variable on the grid: at or below the first level, then step by step; what is beyond
    the last level is missing.
    """
    return np.asarray(-np.diff(np.concatenate([[1.0], survival])))


def _product(one: _Law, other: _Law) -> _Law:
    """Of two independent positive variables: levels multiply, so their numbers add.

    The upper variable is rounded up to levels (mass beyond the last one is at infinity), the lower
    one down (mass below the first one is at 0).
    """
    count = len(one.low) + len(other.low) - 1
    up, down = _masses(one.high), _below(one.low)
    high = np.convolve(up, np.pad(other.high, (0, len(up)), "edge"))[:count]
    low = np.convolve(down, np.pad(other.low, (0, len(down))))[:count]
    # below its first level the other variable exceeds for certain, or at least as that level says
    high += _beyond(up, count) + one.high[-1]
    low += _beyond(down, count) * other.low[0]
    return _Law(one.first * other.first, low * (1 - WIDER), np.minimum(high * (1 + WIDER), 1.0))


def _beyond(masses: Array, count: int) -> Array:
    """The mass above each of so many levels; sums from the top, which keep small masses exact."""
    sums = np.cumsum(masses[::-1])[::-1]
    return np.pad(sums[1:], (0, max(0, count - len(sums) + 1)))[:count]


def _sum(one: _Law, other: _Law) -> _Law:
    """Of two independent positive variables on the same levels."""
    count = len(one.low)
    gap = np.log1p(RATIO ** -np.arange(count, dtype=np.float64)) / math.log(RATIO)
    up, down = np.ceil(gap * (1 + WIDER)).astype(int), np.floor(gap * (1 - WIDER)).astype(int)
    found = []
    for masses, shifts in (
        ((_masses(one.high), _masses(other.high)), up),
        ((_below(one.low), _below(other.low)), down),
    ):
        total = np.zeros(2 * count + shifts[0])
        for k in range(count):  # the larger one is k levels above the smaller one
            pair = masses[0][k:] * masses[1][: count - k]
            if k:
                pair = pair + masses[1][k:] * masses[0][: count - k]
            total[k + shifts[k] : count + shifts[k]] += pair
        found.append(total)
    high = 1 - np.cumsum(found[0])[:count] * (1 - WIDER)
    # a summand that is rounded down to 0 leaves the other one
    alone = _masses(one.low)[0] * other.low + _masses(other.low)[0] * one.low
    exceed = _beyond(found[1], len(found[1]))[:count]
    low = np.maximum(exceed + alone, np.maximum(one.low, other.low)) * (1 - WIDER)
    return _Law(one.first, np.clip(low, 0, 1), np.clip(high, 0, 1))


def _below(survival: Array) -> Array:
    """Masses at levels of a variable rounded down; what is below the first one is at 0, and
    missing.
    """
    return np.concatenate([_masses(survival)[1:], survival[-1:]])


@lru_cache(maxsize=16)
def _law(kind: str, alpha: float, entries: int, width: int) -> _Law:
    """Of the squared norm of a row of noise of scale 1."""
    tail = (1e3 * width * entries) ** (2 / alpha) if alpha < 2 else 1.0
    low, high = 1e-7, 1e2 * max(tail, 1.0) * (entries if kind == "iid" else 1)
    count = math.ceil(math.log(high / low) / math.log(RATIO)) if high < math.inf else LEVELS + 1
    if count > LEVELS:
        raise Undecided(
            f"at alpha {alpha} and {width} rows squared norms range over {count} levels; {LEVELS} are the limit"
        )
    levels: Array = low * RATIO ** np.arange(count, dtype=np.float64)
    if kind == "rows" or entries == 1:
        scaled = _Law(low * entries, *_squares(alpha, levels))
        return scaled
    if kind == "iid" and alpha < 2:  # independent Gaussian entries are isotropic
        return _times(_Law(low, *_squares(alpha, levels)), entries)
    spread = entries + 12 * math.sqrt(2 * entries) + 100
    first = entries * math.exp(-min(12 * math.sqrt(2 / entries), 20.0))
    steps = math.ceil(math.log(spread / first) / math.log(RATIO)) + 1
    normal: Array = first * RATIO ** np.arange(steps, dtype=np.float64)
    square = _Law(first, *_chi_square(entries, normal))
    if alpha == 2:
        return _Law(2 * first, square.low, square.high)
    return _product(square, _Law(low, *_radii(alpha, levels)))


def _times(law: _Law, count: int) -> _Law:
    """The sum of so many independent copies."""
    if count == 1:
        return law
    half = _times(law, count // 2)
    double = _sum(half, half)
    return _sum(double, law) if count % 2 else double


# 2 and 3. The bound -------------------------------------------------------------------------------


def _fails(law: _Law, width: int, gone: int) -> Array:
    """Bounds of the probability that fewer than `gone` rows are at most each level."""
    p, share = 1 - law.high, (gone - 1) / width
    with np.errstate(all="ignore"):
        one = share * np.log(share / p) if share else np.zeros_like(p)
        exponent = one + (1 - share) * np.log((1 - share) / law.high)
        bound = np.exp(-width * (exponent * (1 - WIDER) - 2.0**-49))
    return np.where((p > share) & np.isfinite(bound), bound, np.where(p >= 1, 0.0, 1.0))


def _exceed_log(law: _Law, at: int, eps: float, width: int, drift: float) -> float:
    """The logarithm of a bound of P(sum Z_i > 0), the level being number `at`."""
    root = np.sqrt(law.levels)
    goes = np.square(root[: at + 1] + drift) * (1 + WIDER)
    stays = np.square(np.maximum(root[at:] - drift, 0.0)) * (1 - WIDER)
    slopes = np.geomspace(1 / (width + 1), STEEPEST, SLOPES) / goes[-1]  # s (1 - eps)
    f = np.expm1(slopes[:, None] * goes)
    g = np.expm1(-(slopes * (eps / (1 - eps)))[:, None] * stays)
    above_one = (
        f[:, 0]
        + np.diff(f, axis=1) @ law.high[:at]
        + (g[:, 0] - f[:, -1]) * law.low[at]
        + np.diff(g, axis=1) @ law.low[at + 1 :]
    )
    size = f[:, -1] + 1  # an upper bound of all partial sums
    return float(width * np.log1p(np.maximum(above_one + size * 2.0**-38, -1 + 1e-15)).min())


def _least_error(law: _Law, width: int, gone: int, drift: float, confidence: float) -> float:
    """The least eps found with failure probability at most 1 - confidence; 1 where none is."""
    failure, fails = 1 - confidence, _fails(law, width, gone)
    best = 1.0
    for part in TAKEN:
        fits = np.flatnonzero(fails <= part * failure)
        if not len(fits) or fits[0] >= len(law.low) - 1:
            continue
        at = int(fits[0])
        allowed = math.log((failure - float(fails[at])) * (1 - WIDER))
        if _exceed_log(law, at, best * (1 - 1e-6), width, drift) > allowed:
            continue
        low, high = 0.0, best * (1 - 1e-6)
        for _ in range(STEPS):
            middle = (low + high) / 2 if low else high / 4
            if _exceed_log(law, at, middle, width, drift) <= allowed:
                high = middle
            else:
                low = middle
        best = high
    return best


@dataclass(frozen=True, eq=False, repr=False)
class Guarantee(Result):
    """What the smaller rows of a layer of noise hold at most.

    Attributes:
        error: a bound of the relative squared error of keeping the larger rows, that holds with
            probability `confidence` over the noise. shape, alpha, noise, kept, drift, confidence:
            what was asked. floor: what Gaussian noise (alpha = 2) loses in the limit of many rows,
            in closed form, in float64; 0 for other noise.
    """

    error: float
    shape: tuple[int, ...]
    alpha: float
    noise: str
    kept: float
    drift: float
    confidence: float
    floor: float
    kind: ClassVar[str] = "guaranteed_share"

    def __float__(self) -> float:
        return self.error

    @property
    def statement(self) -> str:
        return (
            f"keeping {100 * self.kept:g} % of {self.shape[0]} rows loses at most {above(self.error, 4)} of their squared "
            f"norm, with probability {self.confidence!r}"
        )

    def asked(self) -> list[tuple[str, str]]:
        return [
            ("noise", f"{self.noise}, alpha {self.alpha:g}, scale 1"),
            ("rows", f"{self.shape[0]} of {math.prod(self.shape[1:])} entries"),
            ("kept", f"{100 * self.kept:g} %"), ("drift of a row", f"at most {self.drift:g}"),
        ]  # fmt: skip

    def facts(self) -> list[tuple[str, str]]:
        rows = [
            ("relative squared error", f"<= {above(self.error, 4)}"),
            ("relative error", f"<= {above(math.sqrt(self.error) * (1 + 1e-15), 4)}"),
            ("probability", f">= {self.confidence!r}"),
        ]
        if self.floor:
            rows.append(("in the limit of many rows", f"~ {self.floor:.4g}"))
        step = theorem_step(self.shape[0], self.alpha)
        rows.append(("lr of the theorem", f"at most {step:.2g} (from a summary)"))
        rows.append(("says nothing of", "the function: kept rows may differ from it by as much"))
        return rows

    def data(self) -> dict[str, Any]:
        return {
            "error": self.error, "shape": list(self.shape), "alpha": self.alpha, "noise": self.noise, "kept": self.kept,
            "drift": self.drift, "confidence": self.confidence, "floor": self.floor,
            "theorem_lr": theorem_step(self.shape[0], self.alpha),
        }  # fmt: skip


def guaranteed_share(
    shape: Sequence[int],
    alpha: float,
    *,
    kind: str = "rows",
    kept: float = 0.5,
    drift: float = 0.0,
    confidence: float = 0.95,
) -> Guarantee:
    """What the smaller rows of a layer of stable noise hold of its squared norm, at most.

    The rows of largest norm are kept, floor(kept * rows) of them: with probability `confidence` over
    the noise, the squared norm of the others is at most `error` of the whole. No number is drawn;
    the proof stands in `moduli.training.guarantees`. It speaks of parameters: the function may
    change all the same. As a layer grows the bound falls like rows^(1 - 2/alpha), slowly near 2.

    Args:
        shape: [rows, ...] of the layer. alpha: of the noise, in [0.25, 2]. kind: "rows", "iid" or
            "isotropic". kept: share of the rows. drift: how far, in norm, a row may be from its
            noise of scale 1: start and gradient steps over sigma time^(1/alpha).

    Returns:
        A `Guarantee`; `float()` gives the bound, and 1 means that nothing is known.

    Raises:
        ValueError: an index, kind, shape, share, drift or confidence that is none. Undecided:
            squared norms over too many orders of magnitude.

    >>> import moduli as mo
    >>> found = mo.guaranteed_share((1000, 20), 1.5)
    >>> found.status, 0.02 < found.error < 0.09
    ('bounded', True)
    """
    sizes = _asked(shape, alpha, kind, kept, drift, confidence)
    width, entries = sizes[0], math.prod(sizes[1:])
    gone = width - math.floor(kept * width)
    error = 1.0 if gone == width else 0.0
    if 0 < gone < width:
        law = _law(kind, alpha, entries, GROUP ** math.ceil(math.log(width, GROUP) - 1e-9))
        error = min(1.0, _least_error(law, width, gone, drift, confidence) * (1 + WIDER))
    floor = _floor(kind, entries, 1 - kept) if alpha == 2 else 0.0
    return Guarantee("bounded", error, sizes, alpha, kind, kept, drift, confidence, floor)


def guaranteed_width(
    error: float,
    alpha: float,
    *,
    entries: int = 1,
    kind: str = "rows",
    kept: float = 0.5,
    drift: float = 0.0,
    confidence: float = 0.95,
) -> int:
    """A number of rows at which `guaranteed_share` certifies this relative squared error, found by
    doubling and bisection: at one row less, it does not.

    Args:
        error: relative and squared. entries: of a row. The rest as for `guaranteed_share`.

    Raises:
        ValueError: arguments that are none. Undecided: no width is found up to 10^9 rows, or Gaussian
            noise (alpha = 2) loses more than this error in the limit of many rows.

    >>> import moduli as mo
    >>> width = mo.guaranteed_width(0.05, 1.5)
    >>> float(mo.guaranteed_share((width, 1), 1.5)) <= 0.05
    True
    """
    if not 0 < error < 1:
        raise ArgumentError(Asked("error", error), ": a share between 0 and 1")
    _asked((1, entries), alpha, kind, kept, drift, confidence)
    floor = _floor(kind, entries, 1 - kept)
    if alpha == 2 and error <= floor:
        raise Undecided(
            Asked("error", error), f": in the limit of many rows Gaussian noise loses about {floor:.4g}; no width is sought"
        )  # fmt: skip
    options: dict[str, Any] = {"kind": kind, "kept": kept, "drift": drift}

    def holds(width: int) -> bool:
        shape = (width, entries)
        return guaranteed_share(shape, alpha, confidence=confidence, **options).error <= error

    low, high = 0, 1
    while not holds(high):
        if high == WIDEST:
            raise Undecided(
                Asked("error", error), f": not certified at any of the widths tried, 1, 2, 4, ... and {WIDEST}"
            )  # fmt: skip
        low, high = high, min(2 * high, WIDEST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _asked(
    shape: Sequence[int], alpha: float, kind: str, kept: float, drift: float, confidence: float
) -> tuple[int, ...]:
    check(alpha, kind)
    if alpha < LEAST_ALPHA or 2 - NEAR_TWO < alpha < 2:
        raise ArgumentError(
            Asked("alpha", alpha),
            f": bounds are for indices from {LEAST_ALPHA} to {2 - NEAR_TWO}, and for 2",
        )
    sizes = tuple(int(n) for n in shape)
    if not sizes or min(sizes) < 1 or sizes[0] > WIDEST:
        raise ArgumentError(Asked("shape", shape), f": rows (at most {WIDEST}) and entries")
    for name, value, most in (("kept", kept, 1.0), ("drift", drift, math.inf)):
        if not 0 <= value <= most or value == math.inf:
            raise ArgumentError(Asked(name, value), f": from 0 to {most:g}")
    if not 0 < confidence < 1:
        raise ArgumentError(Asked("confidence", confidence), ": a probability between 0 and 1")
    return sizes


def _floor(kind: str, entries: int, gone: float) -> float:
    """What Gaussian rows lose in the limit of many: E[R; R <= q] / E R with P(R <= q) = gone. R is
    a multiple of chi^2_d, and x times its density is d times that of chi^2_(d + 2).
    """
    from scipy.special import gammainc, gammaincinv

    half = 0.5 if kind == "rows" else entries / 2
    return float(gammainc(half + 1, gammaincinv(half, gone)))
