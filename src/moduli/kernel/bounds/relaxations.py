"""Lines below and above an activation on intervals, proved in float arithmetic; part of what a
sceptic reads.

For pre-activations z in [lo, hi], one interval per entry, an `Relaxation` promises

    lower_slope z + lower_offset <= s(z) <= upper_slope z + upper_offset      and      least <= s(z) <= most.

A slope may be any float: only the offset carries the proof, and it is computed for that very slope
with every rounding outward. Piecewise linear activations need a kink and two slopes. tanh and the
sigmoid are enclosed by an exponential with a proved error (`_decay`), and lines come from their
shape: convex below zero, concave above, the derivative largest at zero. A clip has two kinks. Any
other activation gets constant lines from the decimal enclosures of `exact_numbers`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.activations import Activation
from moduli.kernel.exact_numbers import ceiling, enclose_value

Array = np.ndarray[Any, np.dtype[np.float64]]
TANH = {
    "tanh": (0.0, 1.0, 1.0),
    "sigmoid": (0.5, 0.5, 0.5),
}  # s(z) = k + b tanh(c z), with powers of two


class Relaxation(NamedTuple):
    """Lines and ranges of an activation; the inequalities stand at the top of this module."""

    lower_slope: Array
    lower_offset: Array
    upper_slope: Array
    upper_offset: Array
    least: Array
    most: Array


def relaxation(activation: Activation, lo: Array, hi: Array) -> Relaxation:
    """Lines around s on each [lo, hi]; ends may be infinite.

    >>> import numpy as np
    >>> lines = relaxation(Activation("relu"), np.array([-1.0]), np.array([3.0]))
    >>> float(lines.upper_slope[0]), float(lines.lower_slope[0]), float(lines.most[0])
    (0.75, 1.0, 3.0)
    """
    with np.errstate(all="ignore"):
        if activation.piecewise_linear:
            p, q = (np.full(lo.shape, slope) for slope in beside(activation))
            return relaxation_of_kink(p, q, p, q, lo, hi)
        if activation.kind in TANH:
            return _finite(_tanh_lines(*TANH[activation.kind], lo, hi))
        if activation.kind == "clip":
            return _finite(_clip_lines(activation.parameters, lo, hi))
    least, most = _ranges(activation, lo, hi)
    return Relaxation(np.zeros(lo.shape), least, np.zeros(lo.shape), most, least, most)


def slopes(activation: Activation, lo: Array, hi: Array) -> tuple[Array, Array]:
    """Bounds of (s(y) - s(z)) / (y - z) over all y != z in [lo, hi].

    A mean slope lies between the extreme derivatives; for tanh these sit at the ends and at the
    point next to zero.
    """
    if activation.piecewise_linear:
        p, q = beside(activation)
        right, left = np.where(hi > 0, p, q), np.where(lo < 0, q, p)
        return np.minimum(right, left), np.maximum(right, left)
    if activation.kind in TANH:
        _, b, c = TANH[activation.kind]
        least = np.minimum(_derivative(c * lo)[0], _derivative(c * hi)[0])
        most = _derivative(c * np.clip(0.0, lo, hi))[1]
        return b * c * least, b * c * most
    steepest = ceiling(activation.lipschitz)
    return np.full(lo.shape, 0.0 if activation.monotone else -steepest), np.full(lo.shape, steepest)


def _finite(lines: Relaxation) -> Relaxation:
    """Constant lines where a slope or an offset is not finite."""
    out = []
    for slope, offset, flat in (lines[0:2] + lines[4:5], lines[2:4] + lines[5:6]):
        fine = np.isfinite(slope) & np.isfinite(offset)
        out += [np.where(fine, slope, 0.0), np.where(fine, offset, flat)]
    return Relaxation(out[0], out[1], out[2], out[3], lines.least, lines.most)


def within(lines: Relaxation, lo: Array, hi: Array, least: Array, most: Array) -> Relaxation:
    """Lines around the same, given bounds of it that hold for other reasons: level ones there where
    they are nearer in the middle.
    """
    least, most = np.maximum(lines.least, least), np.minimum(lines.most, most)
    with np.errstate(all="ignore"):
        middle = 0.5 * lo + 0.5 * hi
        above = most < lines.upper_slope * middle + lines.upper_offset
        below = least > lines.lower_slope * middle + lines.lower_offset
    return Relaxation(
        np.where(below, 0.0, lines.lower_slope), np.where(below, least, lines.lower_offset),
        np.where(above, 0.0, lines.upper_slope), np.where(above, most, lines.upper_offset),
        least, most,
    )  # fmt: skip


# Rounding -------------------------------------------------------------------------------------------------------


def add_up(a: Array, b: Array) -> Array:
    """An upper bound of a + b; exact where a term is zero or the sum is (a float sum is 0 only if
    the true one is).
    """
    total = a + b
    return np.where((a == 0) | (b == 0) | (total == 0), total, np.nextafter(total, np.inf))


def times_up(a: Array, b: Array) -> Array:
    """An upper bound of a * b, also for all b up to an infinite end; exact where a factor is 0 or
    +-1.
    """
    zero = (a == 0) | (b == 0)
    product = np.where(zero, 0.0, a * b)
    exact = zero | (np.abs(a) == 1) | (np.abs(b) == 1)
    return np.where(exact, product, np.nextafter(product, np.inf))


# Piecewise linear -----------------------------------------------------------------------------------------------


def beside(activation: Activation) -> tuple[float, float]:
    """Slopes right and left of 0 of a piecewise linear activation, else zeros; floats, hence exact."""
    right, left = (
        (activation.exact(Fraction(z)) for z in (1, -1))
        if activation.piecewise_linear
        else (None, None)
    )
    return (0.0, 0.0) if right is None or left is None else (float(right), float(-left))


def relaxation_of_kink(
    right: Array, left: Array, low_right: Array, low_left: Array, lo: Array, hi: Array
) -> Relaxation:
    """Lines above z -> (right if z > 0 else left) * z and below the same with `low_right` and
    `low_left`.
    """
    below = [-part for part in _above(-low_right, -low_left, lo, hi)]
    above = _above(right, left, lo, hi)
    return _finite(Relaxation(below[0], below[1], above[0], above[1], below[2], above[2]))


def _above(right: Array, left: Array, lo: Array, hi: Array) -> tuple[Array, Array, Array]:
    """Slope, offset of a line above the function with these slopes, and a bound of its values.

    The function minus a line is linear on either side of 0, so its maximum over [lo, hi] is at lo,
    at hi or, if that lies inside, at 0, where it is 0. The slope is that of the side where 0 is not
    inside, else the chord (convex), else the steeper choice that is better at the farther end.
    """
    inside = (lo < 0) & (hi > 0)
    chord = (right * hi - left * lo) / (hi - lo)
    slope = np.where(inside & (right > left), chord, np.where(hi > -lo, right, left))
    slope = np.where(inside, slope, np.where(hi > 0, right, left))
    ends = [(np.where(z > 0, right, left), z) for z in (lo, hi)]
    top = np.maximum(*(times_up(side, z) for side, z in ends))
    return slope, _offset(right, left, slope, lo, hi), np.where(inside, np.maximum(top, 0.0), top)


def _offset(right: Array, left: Array, slope: Array, lo: Array, hi: Array) -> Array:
    """An upper bound of (right if z > 0 else left) z - slope z over [lo, hi]; see `_above`."""
    left, right = (_tilted(np.where(z > 0, right, left), slope, z) for z in (lo, hi))
    offset = np.maximum(left, right)
    return np.where((lo < 0) & (hi > 0), np.maximum(offset, 0.0), offset)


def _tilted(steep: Array, slope: Array, z: Array) -> Array:
    """An upper bound of (steep - slope) z."""
    gap = np.where(z >= 0, add_up(steep, -slope), -add_up(slope, -steep))
    return times_up(gap, z)


# Between two parallel lines --------------------------------------------------------------------------------------


class Band(NamedTuple):
    """slope z + least <= h <= slope z + most, an entry each."""

    slope: Array
    least: Array
    most: Array


def band(activation: Activation, lines: Relaxation, lo: Array, hi: Array) -> Band:
    """Parallel lines around h = s(z) for z in [lo, hi], from `relaxation` there.

    >>> import numpy as np
    >>> lo, hi = np.array([-1.0]), np.array([3.0])
    >>> relu = Activation("relu")
    >>> [round(float(part[0]), 6) + 0.0 for part in band(relu, relaxation(relu, lo, hi), lo, hi)]
    [0.75, 0.0, 0.75]
    """
    with np.errstate(all="ignore"):
        if activation.piecewise_linear:
            right, left = (np.full(lo.shape, slope) for slope in beside(activation))
            slope = np.where(right >= left, lines.upper_slope, lines.lower_slope)
            least, most = (
                -_offset(-right, -left, -slope, lo, hi),
                _offset(right, left, slope, lo, hi),
            )
        else:
            slope = 0.5 * lines.lower_slope + 0.5 * lines.upper_slope
            above = [_tilted(lines.upper_slope, slope, z) for z in (lo, hi)]
            below = [_tilted(-lines.lower_slope, -slope, z) for z in (lo, hi)]
            most = add_up(lines.upper_offset, np.maximum(*above))
            least = -add_up(-lines.lower_offset, np.maximum(*below))
        return _level(Band(slope, least, most), lines.least, lines.most)


def band_of_slopes(shallow: Array, steep: Array, lo: Array, hi: Array) -> Band:
    """Parallel lines around h = m z for z in [lo, hi] and any m in [shallow, steep]."""
    with np.errstate(all="ignore"):
        slope = 0.5 * shallow + 0.5 * steep
        most = _offset(steep, shallow, slope, lo, hi)
        least = -_offset(-shallow, -steep, -slope, lo, hi)
        top = np.maximum(*(np.maximum(times_up(m, lo), times_up(m, hi)) for m in (shallow, steep)))
        low = np.maximum(
            *(np.maximum(times_up(-m, lo), times_up(-m, hi)) for m in (shallow, steep))
        )
        return _level(Band(slope, least, most), -low, top)


def between(p: Array, q: Array) -> Array:
    """A lower bound of p - q."""
    return -add_up(-p, q)


def narrower(lines: Band, least: Array, most: Array) -> Band:
    """Level lines at these bounds of h where they are nearer to each other."""
    with np.errstate(all="ignore"):
        level = most - least < lines.most - lines.least
    return Band(
        np.where(level, 0.0, lines.slope),
        np.where(level, least, lines.least),
        np.where(level, most, lines.most),
    )


def _level(lines: Band, least: Array, most: Array) -> Band:
    """Level lines at these bounds of h where others are not finite."""
    fine = np.isfinite(lines.slope) & np.isfinite(lines.least) & np.isfinite(lines.most)
    slope = np.where(fine, lines.slope, 0.0)
    return Band(slope, np.where(fine, lines.least, least), np.where(fine, lines.most, most))


# tanh and the sigmoid -------------------------------------------------------------------------------------------


def _decay(y: Array) -> Array:
    """exp(-y) for 0 <= y <= 64 with a relative error below 2^-41.

    r = y / 512 <= 1/8 is exact (or off by 2^-1075, where the result rounds to 1). Horner's 1 - r(1
    - r/2(1 - ... r/13)): all brackets lie in [7/8, 1], so an error d of one becomes at most d/8 +
    2u/8 + u in the next, u = 2^-53: below 2u. The rest of the series is below (1/8)^14/14! < u/100.
    Relative to values above 7/8 this is below 3u. Each of nine squarings doubles the relative error
    and adds u: below 2^9 (3u + u) = 2^-42, squares of errors included below 2^-41.
    """
    r = y * 2.0**-9
    total = np.ones_like(y)
    for k in range(13, 0, -1):
        total = 1.0 - r / k * total
    for _ in range(9):
        total = total * total
    return np.asarray(total)


def exponential(lo: Array, hi: Array) -> tuple[Array, Array]:
    """Bounds of exp on each [lo, hi]; it grows. Beyond 64 either way it is beyond exp(64)."""
    (low, _), (_, high) = (_exp(np.clip(z, -64.0, 64.0)) for z in (lo, hi))
    return np.where(lo < -64, 0.0, low), np.where(hi > 64, np.inf, high)


def _exp(z: Array) -> tuple[Array, Array]:
    """Bounds of exp(z) for |z| <= 64, equal to 1 at 0."""
    e = _decay(np.abs(z))
    value = np.where(z > 0, 1.0 / e, e)
    wide = np.where(z == 0, 0.0, value * 2.0**-40)
    return value - wide, value + wide


def _tanh(z: Array) -> tuple[Array, Array]:
    """Bounds of tanh(z), equal to 0 at 0.

    With e = exp(-2|z|), |z| cut at 32: (1 - e)/(1 + e) has a derivative in e of at most 2, so an
    error below 2^-40 and four roundings: below 2^-39. Near 0: |z| (1 - z^2/3) <= |tanh z| <= |z|;
    0.34 for 1/3 and a factor 1 - 4u outweigh the roundings. Beyond the cut tanh grows, up to 1.
    """
    y = np.abs(z)
    e = _decay(2.0 * np.minimum(y, 32.0))
    value = (1.0 - e) / (1.0 + e)
    near = np.minimum(y, 1.0)
    series = np.nextafter(near * (1.0 - 0.34 * near * near) * (1.0 - 2.0**-51), 0.0)
    least = np.maximum(value - 2.0**-39, np.maximum(series, 0.0))
    most = np.minimum(np.minimum(value + 2.0**-39, y), 1.0)
    return np.where(z >= 0, least, -most), np.where(z >= 0, most, -least)


def _derivative(z: Array) -> tuple[Array, Array]:
    """Bounds of tanh'(z) = (1 - |t|)(1 + |t|): three roundings, each below one part in 2^53."""
    least, most = _tanh(np.abs(z))
    return (1.0 - most) * (1.0 + most) * (1.0 - 2.0**-50), (1.0 - least) * (1.0 + least) * (
        1.0 + 2.0**-50
    )


def _tanh_lines(k: float, b: float, c: float, lo: Array, hi: Array) -> Relaxation:
    """Lines around k + b tanh(c z), through the mirror image where the interval is not positive.

    c z is exact, or rounded outward near the least floats; slopes below 2^-900 are 0, so b c s is
    exact too.
    """
    flip = hi <= 0
    near, far = (
        _scaled(np.where(flip, -hi, lo), c, -np.inf),
        _scaled(np.where(flip, -lo, hi), c, np.inf),
    )
    a = _tanh_right(near, far)
    lines = (
        np.where(flip, a.upper_slope, a.lower_slope),
        np.where(flip, -a.upper_offset, a.lower_offset),
        np.where(flip, a.lower_slope, a.upper_slope),
        np.where(flip, -a.lower_offset, a.upper_offset), np.where(flip, -a.most, a.least),
        np.where(flip, -a.least, a.most),
    )  # fmt: skip
    low, least = (-_shifted(-k, -b, x) for x in (lines[1], lines[4]))
    high, most = (_shifted(k, b, x) for x in (lines[3], lines[5]))
    return Relaxation(
        b * c * lines[0], low, b * c * lines[2], high, np.maximum(least, k - b),
        np.minimum(most, k + b),
    )  # fmt: skip


def _shifted(k: float, b: float, x: Array) -> Array:
    """An upper bound of k + b x for powers of two (or k = 0, b = 1): b x is exact, or too small to
    be seen beside k.
    """
    total = k + b * x
    return np.where((x == 0) | (total == 0) | (k == 0), total, np.nextafter(total, np.inf))


def _scaled(z: Array, c: float, way: float) -> Array:
    """c z for a power of two c, rounded towards `way` where that is not exact."""
    return np.where((np.abs(z) < 2.0**-1000) & (z != 0) & (c != 1), np.nextafter(c * z, way), c * z)


def _tanh_right(lo: Array, hi: Array) -> Relaxation:
    """Lines around tanh where hi > 0, or lo = hi = 0.

    The derivative is at least s = min(tanh'(lo), tanh'(hi)) on [lo, hi], so tanh z - s z grows: its
    extremes are at the ends. For lo >= 0 tanh is concave: tanh z - s z is least at an end for
    *every* s, and the tangent at the middle m lies above: tanh z <= tanh m + tanh'(m)(z - m) <=
    tanh m + s (z - m) + |tanh'(m) - s| (hi - lo).
    """
    concave = lo >= 0
    (least, at_lo), (at_hi, most) = _tanh(lo), _tanh(hi)
    s = np.maximum(np.minimum(_derivative(lo)[0], _derivative(hi)[0]), 0.0)
    chord = np.clip((at_hi - at_lo) / (hi - lo), 0.0, 1.0)
    lower = np.where(concave & (chord > 2.0**-900), chord, s)
    left, right = -add_up(-least, times_up(lower, lo)), -add_up(-at_hi, times_up(lower, hi))
    below = np.where(concave, np.minimum(left, right), left)
    m = np.where(concave, np.clip(0.5 * lo + 0.5 * hi, lo, hi), hi)
    d_least, d_most = _derivative(m)
    upper = np.where(concave, d_most, s)
    spread = times_up(add_up(d_most, -d_least), add_up(hi, -lo))
    above = add_up(_tanh(m)[1], times_up(-upper, m))
    above = np.where(concave, add_up(above, spread), above)
    return Relaxation(lower, below, upper, above, least, most)


# Clips ----------------------------------------------------------------------------------------------------------


def _clip_lines(ends: tuple[float, ...], lo: Array, hi: Array) -> Relaxation:
    """Lines around z -> min(max(z, low), high), which grows, with slopes 0 and 1.

    Minus any line it is linear between lo, low, high and hi, so its extremes are at those of the
    four that lie inside. The line above goes through the value at lo and, where the function is
    flat at the end, through its upper kink; it is level where lo lies beyond the lower kink and the
    flat part is the longer one. Below it is the same, seen from the other end.
    """
    low, high = ends
    at_lo, at_hi = np.clip(lo, low, high), np.clip(hi, low, high)
    rise, run = high - at_lo, np.minimum(hi, high) - lo
    upper = np.where(hi > lo, np.where(hi > high, rise, at_hi - at_lo) / run, 0.0)
    upper = np.where((hi - high > high - lo) & (lo >= low) | (lo >= high), 0.0, upper)
    fall, back = at_hi - low, hi - np.maximum(lo, low)
    lower = np.where(hi > lo, np.where(lo < low, fall, at_hi - at_lo) / back, 0.0)
    lower = np.where((low - lo > hi - low) & (hi <= high) | (hi <= low), 0.0, lower)
    upper, lower = (
        np.clip(np.where(np.isnan(slope), 0.0, slope), 0.0, 1.0) for slope in (upper, lower)
    )
    corners = [
        (lo, at_lo),
        (hi, at_hi),
        *((np.clip(z, lo, hi), np.clip(np.clip(z, lo, hi), low, high)) for z in (low, high)),
    ]
    above = np.maximum.reduce([add_up(value, times_up(-upper, z)) for z, value in corners])
    below = np.maximum.reduce([add_up(-value, times_up(lower, z)) for z, value in corners])
    return Relaxation(lower, -below, upper, above, at_lo, at_hi)


# Any other activation -------------------------------------------------------------------------------------------


def _ranges(activation: Activation, lo: Array, hi: Array) -> tuple[Array, Array]:
    pairs = [
        _range(activation, a, b)
        for a, b in zip(lo.ravel().tolist(), hi.ravel().tolist(), strict=True)
    ]
    both = np.array(pairs, dtype=np.float64).reshape(*lo.shape, 2)
    return np.ascontiguousarray(both[..., 0]), np.ascontiguousarray(both[..., 1])


@lru_cache(maxsize=2**16)
def _value(activation: Activation, lo: float, hi: float) -> tuple[float, float]:
    """Floats around the values on [lo, hi]."""
    low, high = enclose_value(activation, (Fraction(lo), Fraction(hi)))
    return -ceiling(-low), ceiling(high)


def _range(activation: Activation, lo: float, hi: float) -> tuple[float, float]:
    """Activations that never fall, by their ends; those with a valley by their ends and the bottom
    of it.
    """
    floor = -math.inf if activation.least is None else -ceiling(-activation.least)
    roof = math.inf if activation.most is None else ceiling(activation.most)
    if activation.valley is not None:
        floor = max(floor, _bottom(activation))
    if not (math.isfinite(lo) and math.isfinite(hi)):
        return floor, roof
    if not (activation.monotone or activation.valley):
        return _value(activation, lo, hi)
    left, right = _value(activation, lo, lo), _value(activation, hi, hi)
    if activation.valley is None:
        return max(left[0], floor), min(right[1], roof)
    start, end = activation.valley
    least = floor if lo <= end and hi >= start else max(min(left[0], right[0]), floor)
    return least, max(left[1], right[1])


@lru_cache
def _bottom(activation: Activation) -> float:
    """A lower bound of all values of an activation with a valley."""
    assert activation.valley is not None
    return -ceiling(-enclose_value(activation, activation.valley)[0])
