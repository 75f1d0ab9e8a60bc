"""Symmetric alpha-stable noise of three kinds, and the tail index of values that may carry it.

A symmetric alpha-stable X has characteristic function exp(-|t|^alpha): N(0, 2) for alpha = 2,
Cauchy for alpha = 1. One row of noise belongs to one unit:

| kind | law | characteristic function of a row |
|---|---|---|
| `iid` | independent entries | exp(-sum_j |t_j|^alpha) |
| `rows` | one X for the whole row | exp(-|sum_j t_j|^alpha) |
| `isotropic` | sqrt(2A) G, A positive alpha/2-stable, G standard normal | exp(-|t|_2^alpha) |

Sampling after Chambers, Mallows and Stuck (1976) and, for A, Kanter (1975), written with the
distance q from the pole of the uniform angle: the tail comes from there, and 1 - u loses what q
keeps.

The convention "published" is that of the code released with Wan et al. (2023): the isotropic kind
lacks its factor sqrt(2), and one number per row is N(0, 1) at alpha = 2, while independent entries
are N(0, 2) there, as here. Isotropic noise at alpha = 2 divides by the cosine of pi/2 in that code
and is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float64

from moduli.common.arguments import question
from moduli.common.result import Result
from moduli.kernel.errors import ArgumentError, Asked

Array = np.ndarray[Any, np.dtype[np.float64]]
BLOCK = 2**13  # entries at a time: all intermediate values stay in the cache
KINDS = ("iid", "rows", "isotropic")
CONVENTIONS = ("exact", "published")


def check(alpha: float, kind: str = "iid", convention: str = "exact") -> None:
    """Raises ValueError for what is no stable noise."""
    if not 0 < alpha <= 2:
        raise ArgumentError(Asked("alpha", alpha), ": a stability index lies in (0, 2]")
    if kind not in KINDS:
        raise ArgumentError(Asked("kind", kind), f": {', '.join(KINDS)}")
    if convention not in CONVENTIONS:
        raise ArgumentError(Asked("convention", convention), f": {', '.join(CONVENTIONS)}")
    if convention == "published" and kind == "isotropic" and alpha == 2:
        raise ArgumentError(
            Asked("convention", convention), ": the released code gives no numbers for ",
            Asked("kind", kind), " and ", Asked("alpha", 2.0), "; choose ",
            Asked("convention", "exact"),
        )  # fmt: skip


def theorem_step(width: int, alpha: float) -> float:
    """The step size up to which the theorem of Wan et al. (2023) speaks of a layer of so many
    units: width^(-alpha/2 - 1). From a summary of the paper; it was not checked here.

    >>> f"{theorem_step(5000, 1.75):.1e}"
    '1.2e-07'
    """
    return float(width ** (-alpha / 2 - 1))


def slip(alpha: float, kind: str, convention: str) -> float:
    """The factor by which noise of a convention is smaller than that of the exact laws."""
    smaller = kind == "isotropic" or (kind == "rows" and alpha == 2)
    return math.sqrt(0.5) if convention == "published" and smaller else 1.0


def symmetric(q: Array, w: Array, alpha: float) -> Array:
    """The size of a symmetric alpha-stable number, from q uniform on (0, 1] and w exponential;
    alpha below 2.

    With v = pi/2 (1 - q) the formula of Chambers, Mallows and Stuck is
    w sin(alpha v) / c (c / (w cos v))^(1/alpha), c = cos((alpha - 1) v). As sin(alpha v) / c is
    sin v + cos v tan((alpha - 1) v), two tangents do, which NumPy has six times as fast as sines.
    """
    s = np.tan(q * (math.pi / 2))  # cot v; what follows works in place, which halves the time
    t = 1 - q
    t *= (alpha - 1) * (math.pi / 2)
    t = np.tan(t)
    size = s * t
    size += 1
    size *= w
    root = s * s
    root += 1
    root = np.sqrt(root)  # sin v = 1 / root, cos v = s / root
    size /= root
    t *= t
    t += 1
    below = np.sqrt(t)  # 1 / c
    below *= s
    below *= w
    root /= below
    power = np.log(root)
    power *= 1 / alpha
    size *= np.exp(power)
    return np.asarray(size)


def positive(q: Any, w: Any, a: float, xp: Any = np) -> Any:
    """Positive a-stable, E exp(-sA) = exp(-s^a), from q uniform on (0, 1] and w exponential; a
    below 1.
    """
    angle = math.pi * (1 - q)
    pole = xp.log(xp.sin(math.pi * q))
    rest = (1 - a) / a * (xp.log(xp.sin((1 - a) * angle)) - xp.log(w))
    return xp.exp(xp.log(xp.sin(a * angle)) - pole / a + rest)


@question
def stable_noise(
    shape: int | Sequence[int],
    alpha: float,
    *,
    kind: str = "iid",
    seed: int | np.random.Generator = 0,
    convention: str = "exact",
) -> Float64[np.ndarray[Any, Any], "..."]:
    """Symmetric alpha-stable noise of scale 1, one unit for each entry of the first axis.

    Args:
        shape: [units, ...]. alpha: in (0, 2]. kind: "iid", "rows" or "isotropic". seed: a number,
            or a generator, which moves on. convention: "published" is that of the code released
            with Wan et al. (2023): the isotropic kind without its factor sqrt(2), and N(0, 1) for
            rows at alpha = 2.

    Returns:
        Floats of that shape. Below alpha about 0.1 some exceed float64 and are infinite.

    Raises:
        ValueError: no index in (0, 2], another kind or convention, no axis.

    >>> import moduli as mo, numpy as np
    >>> x = mo.stable_noise((100_000,), 1.5, seed=0)
    >>> bool(abs(np.cos(x).mean() - np.exp(-1)) < 6 * x.size**-0.5)
    True
    >>> rows = mo.stable_noise((3, 2), 1.5, kind="rows", seed=0)
    >>> bool((rows[:, 0] == rows[:, 1]).all())
    True
    """
    check(alpha, kind, convention)
    sizes = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
    if not sizes or min(sizes) < 0:
        raise ArgumentError(Asked("shape", shape), ": at least one axis, the first for units")
    rng = np.random.default_rng(seed)
    units = sizes[:1] + (1,) * (len(sizes) - 1)
    factor = slip(alpha, kind, convention)
    if kind == "isotropic":
        return np.asarray(factor * radius(units, alpha, rng) * rng.standard_normal(sizes))
    axes = sizes if kind == "iid" else units  # one number an entry, or one for all of a unit
    drawn = _symmetric(axes, alpha, rng)
    if factor != 1:
        drawn = factor * drawn
    return drawn if kind == "iid" else np.broadcast_to(drawn, sizes).copy()


def _symmetric(shape: tuple[int, ...], alpha: float, rng: np.random.Generator) -> Array:
    if alpha == 2:
        return np.asarray(math.sqrt(2) * rng.standard_normal(shape))
    out = np.empty(shape)
    flat = out.reshape(-1)
    with np.errstate(over="ignore"):  # the tail of a small alpha exceeds float64
        for start in range(0, out.size, BLOCK):
            part = flat[start : start + BLOCK]
            sign = rng.random(len(part)) - 0.5
            q = 2 * np.abs(sign) + 2.0**-54  # never 0
            w = rng.standard_exponential(len(part)) + 2.0**-64
            np.copysign(symmetric(q, w, alpha), sign, out=part)
    return out


def radius(shape: tuple[int, ...], alpha: float, rng: np.random.Generator) -> Array:
    """sqrt(2A) of the isotropic kind."""
    if alpha == 2:
        return np.full(shape, math.sqrt(2))
    with np.errstate(divide="ignore"):
        return np.asarray(
            np.sqrt(2 * positive(1 - rng.random(shape), rng.standard_exponential(shape), alpha / 2))
        )


# Tail index -----------------------------------------------------------------------------------------------------

GROUPS = 50
REPEATED = 0.01


@dataclass(frozen=True, eq=False, repr=False)
class Estimate(Result):
    """A tail index with an interval.

    Attributes:
        value: in (0, 2] for stable laws (Hill may exceed it). low, high: two standard errors (95 %)
            on either side of what the method averages, by a jackknife over groups; they hold where
            the values are symmetric about any centre and stable, for Hill where the tail is a power
            beyond its share. method. count: numbers used.
    """

    value: float
    low: float
    high: float
    method: str
    count: int
    extra: dict[str, Any] = field(default_factory=dict)
    kind: ClassVar[str] = "tail_index"

    def __float__(self) -> float:
        return self.value

    @property
    def statement(self) -> str:
        return f"tail index {self.value:.4g}, between {self.low:.4g} and {self.high:.4g} ({self.method}, {self.count} values)"

    def rows(self) -> list[tuple[str, str]]:
        return [
            ("tail index", f"~ {self.value:.6g}, between {self.low:.4g} and {self.high:.4g}"),
            ("method", self.method),
            ("values", str(self.count)),
            (
                "read with care",
                "a number near 1.7 does not show stability: t with 3 degrees reads 1.6",
            ),
        ]

    def data(self) -> dict[str, Any]:
        high = (
            self.high if math.isfinite(self.high) else None
        )  # Hill with a handful of values in the tail
        return {
            "value": self.value,
            "low": self.low,
            "high": high,
            "method": self.method,
            "count": self.count,
        }


@question
def tail_index(
    values: Any,
    *,
    start: Any = None,
    kind: str = "iid",
    method: str = "log-moment",
    share: float = 0.01,
    seed: int = 0,
) -> Estimate:
    """The tail index of values that are symmetric alpha-stable about some centre, as far as it can
    be told from them.

    The centre is estimated by the median, and neither it nor the scale matters.

    Weights after training are a start plus noise: give the start too, or the estimate means
    nothing. For noise of kind "rows" or "isotropic" the entries of a row depend on each other: one
    number per row is used.

    Args:
        values: numbers, or a matrix of weights with one row per unit. start: the same before
            training.
        kind: of the noise. method: "log-moment", "blocks", "characteristic" or "hill" (biased for
            stable laws: 2.6 for 1.9).
        share: of the sample in the tail, for Hill.

    Raises:
        ValueError: repeated values, fewer than 100, or an unknown method.

    >>> import moduli as mo
    >>> round(float(mo.tail_index(mo.stable_noise(20_000, 1.5, seed=1))), 1)
    1.5
    """
    methods: dict[str, _Method] = {
        "log-moment": _Method(_log_moment, _from_square),
        "blocks": _Method(_blocks, _from_inverse),
        "characteristic": _Method(_characteristic, _capped),
        "hill": _Method(partial(_hill, share=share), _inverse),
    }  # fmt: skip
    if method not in methods:
        raise ArgumentError(Asked("method", method), f": {', '.join(methods)}")
    check(2.0, kind)
    x = np.asarray(values, dtype=np.float64) - (
        0.0 if start is None else np.asarray(start, dtype=np.float64)
    )
    if kind != "iid":
        if x.ndim < 2:
            raise ArgumentError(
                Asked("kind", kind), f" needs a matrix with one row per unit, not shape {x.shape}"
            )
        x = x.reshape(len(x), -1)
        direction = (
            np.random.default_rng(seed).standard_normal(x.shape[1])
            if kind == "isotropic"
            else np.ones(x.shape[1])
        )
        x = x @ (direction / np.linalg.norm(direction))
    x = x.ravel()
    if not np.isfinite(x).all():
        raise ValueError(f"{int((~np.isfinite(x)).sum())} values are not finite")
    if len(x) < 100:
        raise ValueError(f"{len(x)} values; at least 100 are needed")
    repeated = 1 - len(np.unique(x)) / len(x)
    if repeated > REPEATED:
        raise ValueError(
            f"{100 * repeated:.3g} % of the values repeat others: no sample of a stable law; for noise that is one number "
            "for each row say kind='rows'"
        )
    average, index = methods[method].average, methods[method].of
    x = x - np.median(
        x
    )  # within n^-1/2 of the centre of symmetry, on which all averages depend to second order
    found = average(x)
    parts = np.array_split(x, GROUPS)
    with np.errstate(invalid="ignore"):  # where sums overflow
        left = np.array(
            [average(np.concatenate(parts[:k] + parts[k + 1 :])) for k in range(GROUPS)]
        )
        error = math.sqrt((GROUPS - 1) / GROUPS * float(np.square(left - left.mean()).sum()))
    if not math.isfinite(found + error):
        raise ValueError(
            f"sums of values up to {np.abs(x).max():.3g} exceed float64; divide them, or choose another method"
        )
    low, high = sorted((index(found - 2 * error), index(found + 2 * error)))
    return Estimate("estimated", index(found), low, high, method, len(x))


class _Method(NamedTuple):
    """What is averaged over the sample, near normal for many values, and the index as a monotone
    function of it.
    """

    average: Callable[[Array], float]
    of: Callable[[float], float]


def _from_square(x: float) -> float:
    """From 1/alpha^2, at least 1/4."""
    return float(max(x, 0.25) ** -0.5)


def _from_inverse(x: float) -> float:
    """From 1/alpha, at least 1/2."""
    return float(1 / max(x, 0.5))


def _capped(x: float) -> float:
    return min(2.0, max(0.0, x))


def _inverse(x: float) -> float:
    return 1 / x if x > 0 else math.inf


def _log_moment(x: Array) -> float:
    """1/alpha^2 = 6/pi^2 var log|X| - 1/2."""
    return float(6 * np.log(np.abs(x[x != 0])).var() / math.pi**2 - 0.5)


def _blocks(x: Array) -> float:
    """1/alpha, as sums of m values are m^(1/alpha) times as large (Mohammadi et al. 2015)."""
    m = max(2, math.isqrt(len(x)))
    with np.errstate(over="ignore", invalid="ignore"):  # found by the caller, who refuses
        sums = x[: len(x) // m * m].reshape(-1, m).sum(axis=1)
    return float(
        (np.log(np.abs(sums[sums != 0])).mean() - np.log(np.abs(x[x != 0])).mean()) / math.log(m)
    )


def _characteristic(x: Array) -> float:
    """Slope of log(-log |phi(t)|^2) against log t (Koutrouvelis 1980)."""
    x = x / max(float(np.subtract(*np.percentile(x, [75, 25]))) / 2, 1e-300)
    t = np.pi * np.arange(1, 12) / 25
    size = np.array([np.cos(s * x).mean() ** 2 + np.sin(s * x).mean() ** 2 for s in t])
    return float(np.polyfit(np.log(t), np.log(-np.log(size)), 1)[0])


def _hill(x: Array, share: float) -> float:
    """1/alpha, the mean of log(|X| / level) beyond a level."""
    count = max(2, int(share * len(x)))
    top = np.sort(np.abs(x))[-count - 1 :]
    return float(np.log(top[1:] / top[0]).mean())
