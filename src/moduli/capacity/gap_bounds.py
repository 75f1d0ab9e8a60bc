"""From covering numbers to generalisation, and the bounds of others, as plain formulas.

The gap is the difference between expected and empirical loss, for a loss in [0, 1] that is
1-Lipschitz in the outputs, n independent samples, with probability 1 - delta. Formulas marked
*remembered* were not read again in their papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Real = float | int
MOST = 1e30  # samples that anybody asks for


def uniform_gap(
    log_covering: Real, eps: Real, samples: Real, delta: Real = 0.05, *, lipschitz: Real = 1.0
) -> float:
    """From a cover in the sup norm at `eps`: 2 lip eps + sqrt((log N + log(2/delta)) / 2n).

    >>> round(uniform_gap(1000, 0.01, 60000), 6)
    0.111455
    """
    return 2 * lipschitz * eps + math.sqrt((log_covering + math.log(2 / delta)) / (2 * samples))


def needed(gap: Callable[[Real], float]) -> float | None:
    """The least number of samples (to a thousandth) with a gap below 1."""
    low, high = 1.0, 2.0
    while gap(high) >= 1:
        low, high = high, high * 2
        if high > MOST:
            return None
    while high / low > 1.001 and high - low > 1:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if gap(middle) >= 1 else (low, middle)
    return float(math.ceil(high))


def rademacher_gap(complexity: Real, samples: Real, delta: Real = 0.05) -> float:
    """From an empirical Rademacher complexity: 2 R + 3 sqrt(log(2/delta) / 2n)."""
    return 2 * complexity + 3 * math.sqrt(math.log(2 / delta) / (2 * samples))


def dudley(
    parameters: int, log_scale: Real, log_group: Real, largest: Real, samples: Real
) -> float:
    """Dudley's integral, inf 4 alpha + 12/sqrt(n) int_alpha^D sqrt(log N), for log N(e) = S
    log(A/e) - log|G|.

    With A' = A |G|^(-1/S) and u = log(A'/e) the primitive of sqrt(u) is e sqrt(u) + A' sqrt(pi)/2
    erfc(sqrt u), and the best alpha is A' exp(-n / 9S): the group acts through |G|^(-1/S) alone.

    Args:
        log_scale: log A. largest: D, functions take values in [0, D].

    >>> round(dudley(100, math.log(50), 0.0, 1.0, 10_000), 6)
    2.647471
    """
    top = log_scale - log_group / parameters
    if top < -700:
        return 0.0

    log_alpha = top - samples / (9 * parameters)
    if log_alpha >= math.log(largest):
        return 4 * largest
    end = min(math.log(largest), top)
    tail = _primitive(math.exp(log_alpha), top) if log_alpha > -700 else 0.0
    integral = _primitive(math.exp(end), top) - tail
    return (4 * math.exp(log_alpha) if log_alpha > -700 else 0.0) + 12 * math.sqrt(
        parameters / samples
    ) * integral


def _primitive(e: float, top: float) -> float:
    """Of sqrt(top - log e)."""
    from scipy.special import erfcx

    u = max(0.0, top - math.log(e))
    return e * (math.sqrt(u) + math.sqrt(math.pi) / 2 * float(erfcx(math.sqrt(u))))


def occam_gap(bits: Real, free: Real, samples: Real, delta: Real = 0.05) -> float:
    """From a prefix-free code that gives all symmetric copies one length: sqrt(((bits - free) ln 2
    + ln(2/delta)) / 2n).

    >>> round(occam_gap(968, 30.598416, 10_000), 6)
    0.180755
    """
    return math.sqrt(((bits - free) * math.log(2) + math.log(2 / delta)) / (2 * samples))


def upward(x: Real, roundings: int) -> float:
    """At least what `x` is a rounding of: the sum of so many non-negative terms, or a root or
    product of such.

    >>> upward(1.0, 1) > 1
    True
    """
    return math.nextafter(float(x) * (1 + (roundings + 4) * 2.0**-53), math.inf)


class Norms(NamedTuple):
    """Of the weight matrices of a network without biases, rounded up.

    Attributes:
        spectral, frobenius: one per layer. rows: sums of the Euclidean norms of rows. sizes:
            entries. width: largest dimension.
    """

    spectral: tuple[float, ...]
    frobenius: tuple[float, ...]
    rows: tuple[float, ...]
    sizes: tuple[int, ...]
    width: int

    @staticmethod
    def of(weights: Sequence[Array]) -> Norms:
        spectral, frobenius, rows = [], [], []
        for w in weights:
            some = w if w.size else np.zeros((1, 1))
            spectral.append(
                _upward(np.linalg.norm(some, 2), 8 * sum(some.shape))
            )  # what LAPACK may be off
            frobenius.append(_upward(np.linalg.norm(some), some.size))
            rows.append(_upward(np.linalg.norm(some, axis=1).sum(), sum(some.shape)))
        sizes = tuple(w.size for w in weights)
        return Norms(
            tuple(spectral),
            tuple(frobenius),
            tuple(rows),
            sizes,
            max(max(w.shape) for w in weights),
        )


def _upward(x: Any, roundings: int) -> float:
    return upward(float(x), roundings) if x else 0.0


def bartlett_capacity(norms: Norms, data: Real, lipschitz: Real = 1.0) -> float:
    """Bartlett, Foster, Telgarsky 2017, Theorem 3.3: eps^2 log N in the Frobenius norm of all
    outputs, `data` = |X|_F.
    """
    ratios = sum((b / s) ** (2 / 3) for b, s in zip(norms.rows, norms.spectral, strict=True) if s)
    product = math.prod(
        s * lipschitz * s * lipschitz for s in norms.spectral
    )  # powers of floats would raise where too large
    return float(data * data * math.log(2 * norms.width**2) * product * ratios * ratios * ratios)


def bartlett_rademacher(norms: Norms, data: Real, samples: Real, lipschitz: Real = 1.0) -> float:
    """The Rademacher complexity that follows."""
    root = math.sqrt(bartlett_capacity(norms, data, lipschitz))
    return float(4 / samples**1.5 + 18 * math.log(samples) * root / samples)


def neyshabur_rademacher(norms: Norms, input_size: Real, samples: Real) -> float:
    """Neyshabur, Tomioka, Srebro 2015: B_x 2^depth prod F / sqrt n."""
    return input_size * math.prod(2 * f for f in norms.frobenius) / math.sqrt(samples)


def golowich_rademacher(norms: Norms, input_size: Real, samples: Real) -> float:
    """Golowich, Rakhlin, Shamir 2018, Theorem 1: B_x (sqrt(2 ln 2 depth) + 1) prod F / sqrt n."""
    factor = math.sqrt(2 * math.log(2) * len(norms.frobenius)) + 1
    return input_size * factor * math.prod(norms.frobenius) / math.sqrt(samples)


def spectral_order(
    norms: Norms, input_size: Real, samples: Real, margin: Real, delta: Real
) -> float:
    """Neyshabur, Bhojanapalli, Srebro 2018, up to a constant that is not explicit."""
    depth, width = len(norms.spectral), norms.width
    ratios = sum((f / s) ** 2 for f, s in zip(norms.frobenius, norms.spectral, strict=True) if s)
    size = (
        (input_size * depth) ** 2
        * width
        * math.log(depth * width)
        * math.prod(s * s for s in norms.spectral)
        * ratios
    )
    return math.sqrt((size + math.log(depth * samples / delta)) / (margin**2 * samples))


def lin_zhang_covering(norms: Norms, data_rms: Real, eps: Real) -> float:
    """Lin and Zhang 2019."""
    ratios = sum(
        w * w * f / s
        for w, f, s in zip(norms.sizes, norms.frobenius, norms.spectral, strict=True)
        if s
    )
    return math.sqrt(data_rms * math.prod(norms.spectral) * len(norms.sizes) ** 2 * ratios / eps)


def anthony_covering(
    parameters: int, layers: int, row: Real, bound: Real, lipschitz: Real, samples: Real, eps: float
) -> float:
    """Anthony and Bartlett 1999, Theorem 14.5: rows of l1 norm at most V > 1/L."""
    growth = lipschitz * row
    if math.isinf(growth):
        return math.inf
    inside = 4 * math.e * samples * bound * parameters / (eps * (growth - 1))
    return parameters * (math.log(inside) + layers * math.log(growth))


def vc_dimension(widths: Sequence[int], pieces: int = 2) -> float:
    """Bartlett, Harvey, Liaw, Mehrabian 2019, Theorem 7: an upper bound for piecewise linear
    networks with one output.
    """
    sizes = np.cumsum([(a + 1) * b for a, b in pairwise(widths)])
    r = sum(k * d for k, d in enumerate(widths[1:], 1))
    inner = math.log2(2 * math.e * pieces * r)
    return len(sizes) + float(sizes.sum()) * math.log2(4 * math.e * pieces * r * inner)


def dimension_covering(dimension: Real, samples: Real, width: Real, eps: Real) -> float:
    """From the pseudo-dimension d <= n: d log(e n width / (eps d)), empirical sup norm, outputs in
    an interval of `width`.
    """
    return dimension * math.log(math.e * samples * width / (eps * dimension))


def sparse_covering(widths: Sequence[int], nonzero: int, eps: Real) -> float:
    """Schmidt-Hieber 2020, Lemma 5: entries at most 1, inputs in [0, 1]."""
    return (nonzero + 1) * (
        math.log(2 * (len(widths) - 1) / eps) + 2 * math.fsum(math.log(d + 1) for d in widths)
    )
