"""E |f - g|^2 under a Gaussian for piecewise linear networks, in 31 digits.

With s(x) = left x + (right - left) x_+ the difference of two networks is a sum of ramps (X_i)_+ of
both and one affine map. The expectation of a product of two ramps is a closed form
(`gaussian_expectations`); for nearly equal networks these cancel in pairs, down to the square of
what they differ by. Here they have 31 digits, so that what is left keeps about 15 of them at a
distance of 1e-8. No root of the covariance is taken: the law of the pre-activations is A S A^T,
from the exact floats.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from moduli.common.domains import Gaussian
from moduli.kernel.activations import Activation
from moduli.kernel.network import Network

from .double_double import (
    PI,
    UNIT,
    Twofold,
    angle,
    density,
    distribution,
    exact_sum,
    exponential,
    owen,
    product,
    root,
    where,
)

Array = np.ndarray[Any, np.dtype[np.float64]]
ERRORS = (
    64  # of UNIT, for a kernel and its part in the sum; test_closed_form.py compares with 60 digits
)
PAIRS = 2 * 10**5  # of units, about five seconds
PRODUCTS = 5 * 10**7  # in A S A^T
BLOCK = 2**13
TINY = 2.0**-900
BEYOND = 1e8


class Square(NamedTuple):
    """E |f - g|^2 and a bound of what rounding did to it."""

    value: float
    error: float


class _Ramps(NamedTuple):
    """Ramps (X_i)_+ with outgoing weights, and an affine map.

    Attributes:
        mean: ``[units]`` of X. spread: ``[units]``, standard deviations. rows: ``[units, in]``.
            outer: ``[units, out]``.
    """

    mean: Twofold
    spread: Twofold
    rows: Twofold
    outer: Twofold


def slopes(s: Activation) -> tuple[float, float] | None:
    """Left and right of 0 where s(x) = left x + (right - left) x_+, else None."""
    if not (s.homogeneous and s.piecewise_linear):
        return None
    left, right = s(np.array([-1.0, 1.0]))
    return -float(left), float(right)


def feasible(a: Network, b: Network, law: Gaussian) -> bool:
    """Whether both are piecewise linear with at most one hidden layer, and small enough."""
    if any(len(net.layers) > 2 or slopes(net.layers[0].activation) is None for net in (a, b)):
        return False
    units, inputs = a.units + b.units + a.widths[-1], a.widths[0]
    entries = inputs * inputs if law.cov.ndim == 2 else inputs
    return units * (units + 1) // 2 <= PAIRS and units * (entries + units * inputs) <= PRODUCTS


def squared(a: Network, b: Network, law: Gaussian) -> Square:
    """E |a - b|^2 of two networks for which this is `feasible`."""
    inputs, outputs = a.widths[0], a.widths[-1]
    centre = np.broadcast_to(law.mean, (inputs,)).astype(np.float64)
    slope, bias = Twofold.of(np.zeros((outputs, inputs))), Twofold.of(np.zeros(outputs))
    rows, starts, outer = [], [], []
    for net, sign in ((a, 1.0), (b, -1.0)):
        last = net.layers[-1]
        bias = bias + sign * last.bias
        if len(net.layers) == 1:
            slope = slope + sign * last.weight
            continue
        first, (left, right) = net.layers[0], slopes(net.layers[0].activation) or (0.0, 0.0)
        weight = Twofold.of(sign * last.weight)
        slope = slope + product(weight * left, Twofold.of(first.weight))
        bias = bias + product(weight * left, Twofold.of(first.bias[:, None]))[:, 0]
        rows.append(first.weight)
        starts.append(first.bias)
        outer.append(weight * Twofold(*exact_sum(right, -left)))
    weight = Twofold.of(np.concatenate([*rows, np.zeros((0, inputs))]))
    mean = _along(weight, centre) + np.concatenate([*starts, np.zeros(0)])
    bias = bias + _along(slope, centre)
    nothing = np.zeros((outputs, 0))
    high = np.concatenate([*(weight.high for weight in outer), nothing], axis=1).T
    low = np.concatenate([*(weight.low for weight in outer), nothing], axis=1).T
    out = Twofold(high, low)
    covariance = _covariance(law, inputs)
    size = np.maximum(np.abs(weight.high).max(axis=1, initial=0.0), np.abs(mean.high))
    scale = np.exp2(np.floor(np.log2(np.where(size > 0, size, 1.0))))  # powers of two: exact
    weight, mean, out = (
        weight.scaled(1 / scale[:, None]),
        mean.scaled(1 / scale),
        out.scaled(scale[:, None]),
    )
    spread = root(_quadratic(weight, covariance))
    constant = spread.high <= 0
    if constant.any():  # a ramp that does not vary is a part of the bias
        fixed = where(mean.high > 0, mean, 0.0)[constant]
        bias = bias + product(Twofold(fixed.high[None, :], fixed.low[None, :]), out[constant])[0]
    vary = ~constant
    return _expected(
        _Ramps(mean[vary], spread[vary], weight[vary], out[vary]), slope, bias, covariance
    )


def _along(rows: Twofold, vector: Array) -> Twofold:
    """rows @ vector."""
    return product(rows, Twofold.of(vector[:, None]))[:, 0]


def _covariance(law: Gaussian, inputs: int) -> Twofold:
    """The covariance ``[in, in]``, its symmetric part, or the variances ``[in]``."""
    if law.cov.ndim < 2:
        return Twofold.of(np.broadcast_to(law.cov, (inputs,)).astype(np.float64))
    return Twofold(*exact_sum(law.cov, law.cov.T)).scaled(0.5)


def _times(rows: Twofold, covariance: Twofold) -> Twofold:
    """rows S."""
    return rows * covariance if len(covariance.shape) == 1 else product(rows, covariance)


def _quadratic(rows: Twofold, covariance: Twofold) -> Twofold:
    """Of each row: w S w^T, at least 0."""
    total = Twofold.of(np.zeros(rows.shape[0]))
    along = _times(rows, covariance)
    for k in range(rows.shape[1]):
        total = total + along[:, k] * rows[:, k]
    return where(total.high > 0, total, 0.0)


def _expected(ramps: _Ramps, slope: Twofold, bias: Twofold, covariance: Twofold) -> Square:
    """E of the squared norm of sum_i outer_i (X_i)_+ + slope (x - E x) + bias."""
    linear = _times(slope, covariance)
    parts = [(bias * bias).sum(), _quadratic(slope, covariance).sum()]
    sizes = [float(np.square(bias.high).sum()), float(parts[1].high)]
    count = ramps.mean.shape[0]
    if count:
        h = _bounded(ramps.mean / ramps.spread)
        tail, inside = density(h), distribution(h)
        means = ramps.mean * inside + ramps.spread * tail
        shared = product(
            ramps.rows, Twofold(linear.high.T, linear.low.T)
        )  # covariances of X and the affine map
        each = means[:, None] * bias[None, :] + inside[:, None] * shared
        parts.append((ramps.outer * each).sum().scaled(2.0))
        reach = np.abs(ramps.mean.high) + ramps.spread.high
        free = np.abs(bias.high) + np.sqrt(np.maximum(0.0, _quadratic(slope, covariance).high))
        sizes.append(2 * float((np.abs(ramps.outer.high) * reach[:, None] * free).sum()))
        along = _times(ramps.rows, covariance)
        step = max(1, BLOCK // count)
        for top in range(0, count, step):
            some, others = slice(top, top + step), slice(top, None)
            c = product(along[some], Twofold(ramps.rows.high[others].T, ramps.rows.low[others].T))
            weight = product(
                ramps.outer[some], Twofold(ramps.outer.high[others].T, ramps.outer.low[others].T)
            )
            twice = np.full(c.shape, 2.0)  # what lies left of the diagonal block is left out
            twice[:, : min(step, count - top)] = 1.0
            kernel = _kernel(ramps, h, tail, inside, some, others, c)
            parts.append((weight.scaled(twice) * kernel).sum())
            sizes.append(
                float((twice * np.abs(weight.high) * reach[some, None] * reach[None, others]).sum())
            )
    total = Twofold.of(0.0)
    for part in parts:
        total = total + part
    terms = ERRORS + 4 * slope.shape[1] + 2 * count
    return Square(float(total.rounded()), terms * UNIT * sum(sizes) + TINY)


def _kernel(
    ramps: _Ramps,
    h: Twofold,
    tail: Twofold,
    inside: Twofold,
    some: slice,
    others: slice,
    c: Twofold,
) -> Twofold:
    """E (X_i)_+ (X_j)_+ of a block, with covariances c."""
    s1, s2 = ramps.spread[some][:, None], ramps.spread[others][None, :]
    r = c / (s1 * s2)
    r = where((r.absolute() - 1.0).high > 0, np.sign(r.high), r)
    q = root((1.0 - r) * (1.0 + r))
    free = not (ramps.mean.high.any())
    if free:
        return s1 * s2 * (q + r * (PI - angle(q, r))) / PI.scaled(2.0)
    h1, h2 = h[some][:, None], h[others][None, :]
    sign = np.where(r.high < 0, -1.0, 1.0)
    short, apart = (
        1.0 - r * sign,
        h2 - h1 * sign,
    )  # nothing cancels in these beyond what h and r themselves have lost
    safe = where(q.high > 0, q, 2.0**-200)
    u, w = (short * h2 - apart) * sign / safe, (apart + short * h1 * sign) / safe
    u, w = _bounded(u), _bounded(w)
    p1, p2 = inside[some][:, None], inside[others][None, :]
    both = _both_positive(h1, h2, r, q, u, w, p1, p2)
    m1, m2 = ramps.mean[some][:, None], ramps.mean[others][None, :]
    edge = m2 * s1 * tail[some][:, None] * distribution(w) + m1 * s2 * tail[others][
        None, :
    ] * distribution(u)
    peak = s1 * s2 * q * exponential((h1 * h1 + w * w).scaled(-0.5)) / PI.scaled(2.0)
    return (r * s1 * s2 + m1 * m2) * both + edge + peak


def _bounded(x: Twofold) -> Twofold:
    """Arguments of normal laws, which are 0 or 1 from 12 on; differences of such far ones do not
    matter.
    """
    return where(np.abs(x.high) < BEYOND, x, np.clip(x.high, -BEYOND, BEYOND))


def _both_positive(
    h: Twofold, k: Twofold, r: Twofold, q: Twofold, u: Twofold, w: Twofold, p: Twofold, at: Twofold
) -> Twofold:  # fmt: skip
    """P(X > 0, Y > 0), by Owen's T; `p` and `at` are P(X > 0) and P(Y > 0)."""
    one = owen(h.absolute() + 0.0 * w.high, w.absolute()) * (
        np.sign(w.high) * np.where(h.high < 0, -1.0, 1.0)
    )
    two = owen(k.absolute() + 0.0 * u.high, u.absolute()) * (
        np.sign(u.high) * np.where(k.high < 0, -1.0, 1.0)
    )
    crossed = h.high * k.high
    opposite = (crossed < 0) | ((crossed == 0) & (h.high + k.high < 0))
    found: Twofold = (p + at).scaled(0.5) - one - two - np.where(opposite, 0.5, 0.0)
    centre = (h.high == 0) & (k.high == 0)
    if np.any(centre):
        found = where(centre, 0.5 - angle(q, r) / PI.scaled(2.0), found)
    return found
