"""How often a trained classifier is wrong on new inputs: bounds from its mistakes on samples with labels.

Samples are n independent draws, and so is the input asked about. A class is wrong where the output of the
label is not above all others, as the network computes it in floats here.

**By a code.** Let networks have prefix-free codes, of b bits this one, fixed before the samples were seen. With probability at
least 1 - delta

    kl(k/n, risk) <= (b log 2 + log(1/delta)) / n,    kl(q, p) = q log(q/p) + (1 - q) log((1 - q)/(1 - p)),

for k wrong of n. *Proof.* For one network with risk p, P(k/n <= q) <= exp(-n kl(q, p)) for q <= p (Chernoff). Give it the
part 2^-b of delta; by Kraft's inequality the sum of these over all networks is at most delta. (Copies of it by orders and
signs of units are one function over the reals, but not in floats, where sums have an order: their bits are not free.)

**By a cover.** Let margins m be the output of the label less the largest other one, and l_g(m) be 1 for m <= 0, 0 for m >= g,
linear between. A change of outputs by e changes m by at most 2e, so l_g is 2/g-Lipschitz; it is at least 1 where the class is
wrong. So risk <= mean l_g + the gap of `gap_bounds.uniform_gap`, for g = ..., 1/2, 1, 2, ... at the price of trying all.
Covers are of functions over the reals, margins are computed: this row holds up to the rounding of the network.

**By fresh samples.** For samples that had no part in training one network is looked at: b = 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.errors import ArgumentError, Asked, ShapeError
from moduli.kernel.network import Network

from .gap_bounds import Real, needed, upward

Array = np.ndarray[Any, np.dtype[np.float64]]
Gap = Callable[
    [Real, Real, Real], float
]  # of samples, delta and the Lipschitz constant of the loss
MARGINS = 20  # powers of two, up and down
HALF = 0.5
ROUNDED = "up to rounding of the network"
DIGITS = 53  # of a float64


class Risk(NamedTuple):
    """A bound of the probability of a wrong class.

    Attributes:
        name: of the argument. seen: part of the samples that are wrong, or the mean of l_g. margin: g. bound: holds
            with probability 1 - delta. needed: samples for a bound below 1/2 at the same `seen`. guess: how
            often guessing is wrong, 1 - 1/classes. note: what is assumed.
    """

    name: str
    seen: float
    margin: float | None
    bound: float
    needed: float | None
    guess: float
    note: str

    @property
    def vacuous(self) -> bool:
        """Whether it says no more than guessing."""
        return self.bound >= self.guess

    @property
    def said(self) -> str:
        """In words."""
        at = "wrong" if self.margin is None else f"margin loss at {self.margin:g}"
        more = "" if self.needed is None else f"; below 1/2 from {self.needed:.4g} samples"
        empty = ", vacuous: guessing errs as often" if self.vacuous else ""
        return (
            f"<= {self.bound:.4g}{empty} ({self.seen:.4g} {at} on the samples){more}; {self.note}"
        )


def margins(outputs: Array, labels: Any) -> Array:
    """The output of the label less the largest other one.

    Raises:
        ArgumentError: no class numbers. ShapeError: not one for each sample, or fewer than two outputs.
    """
    wanted = np.asarray(labels)
    if wanted.dtype.kind not in "iu":
        raise ArgumentError(Asked("targets", str(wanted.dtype)), ": whole numbers, the classes")
    if wanted.shape != (len(outputs),):
        raise ShapeError(f"targets of shape {wanted.shape} for {len(outputs)} samples")
    count = outputs.shape[1]
    if count < 2 or wanted.min() < 0 or wanted.max() >= count:
        raise ShapeError(f"classes from {wanted.min()} to {wanted.max()} for {count} outputs")
    rows = np.arange(len(outputs))
    others = outputs.copy()
    others[rows, wanted] = -np.inf
    found: Array = outputs[rows, wanted] - others.max(axis=1)
    return np.where(np.isnan(found), -np.inf, found)


def kl_end(seen: Real, budget: Real) -> float:
    """The largest p with kl(seen, p) <= budget, rounded up.

    >>> round(kl_end(0.0, math.log(2)), 6), round(kl_end(0.1, 0.0), 6), kl_end(1.0, 0.3)
    (0.5, 0.1, 1.0)
    """
    if seen >= 1:
        return 1.0
    low, high = float(seen), 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        # a little more than the budget, as logarithms are rounded
        if _kl(float(seen), middle) > budget * (1 + 2.0**-40) + 2.0**-40:
            high = middle
        else:
            low = middle
    return high


def _kl(q: float, p: float) -> float:
    first = q * math.log(q / p) if q else 0.0
    return first + (1 - q) * (math.log1p(-q) - math.log1p(-p))


def by_code(name: str, at: Array, bits: Real, delta: Real, classes: int, note: str) -> Risk:
    """Of a network with a code of so many bits."""
    count, wrong = len(at), int((at <= 0).sum())
    seen, nats = wrong / count, bits * math.log(2) + math.log(1 / delta)
    least = None if seen >= HALF else math.ceil(nats / _kl(seen, HALF))
    return Risk(name, seen, None, kl_end(seen, nats / count), least, 1 - 1 / classes, note)


def by_cover(name: str, at: Array, gap: Gap, delta: Real, classes: int, note: str) -> Risk:
    """The least over margins, each with its part of delta."""
    count, best = len(at), None
    for k, power in enumerate(_powers(), 1):
        g, share = 2.0**power, delta * 6 / (math.pi * k) ** 2
        seen = upward(float(np.clip(1 - at / g, 0, 1).mean()) + 2.0**-52, count)
        bound = upward(seen + gap(count, share, 2 / g), 8)
        if best is None or bound < best[0]:
            best = bound, seen, g, share
    assert best is not None
    bound, seen, g, share = best
    least = None
    if seen < HALF:
        least = needed(lambda n: (seen + gap(n, share, 2 / g)) / HALF)
    return Risk(name, seen, g, bound, least, 1 - 1 / classes, note)


def _powers() -> Iterator[int]:
    yield 0
    for k in range(1, MARGINS + 1):
        yield from (k, -k)


# A code for few values ---------------------------------------------------------------------------------------------


def coded_bits(arrays: Sequence[Any]) -> float:
    """Bits of a code for numbers that are few different ones, array by array.

    One bit says whether an array stands as it is stored, or so: floats are k 2^e with whole k. The largest such e is
    named, T = max |k|, how often each size from 0 to T is there (one of C(S + T, T) lists for S numbers), which
    numbers have which size (a multinomial coefficient), and the signs of those that are not 0. Whole numbers m >= 0 take
    2 floor(log2(m + 1)) + 1 bits (Elias). Lengths are those of a prefix-free code but for rounding up, which
    Kraft's inequality does without.

    >>> coded_bits([[0.0] * 1000]) < 30 < coded_bits([[0.5, -0.5] * 500]) < 1030
    True
    """
    total = 0.0
    for array in map(np.asarray, arrays):
        as_stored, known = 8.0 * array.nbytes, array.dtype.kind in "fiu"
        known = known and bool(np.isfinite(array).all())
        if array.dtype.kind in "iu" and array.size:  # as floats without rounding
            known = max(abs(int(array.min())), abs(int(array.max()))) <= 2**53
        few = _bits(np.asarray(array, dtype=np.float64).ravel()) if known else math.inf
        total += 1 + min(as_stored, few)
    return total


def _bits(numbers: Array) -> float:
    there = numbers[numbers != 0]
    if not len(there):
        return float(_elias(0) + _elias(0))
    mantissa, power = np.frexp(there)
    whole = [abs(int(m)) for m in (mantissa * 2.0**DIGITS).tolist()]
    places = [int(p) - DIGITS for p in power]  # each number is whole 2^place
    shift = min(p + (m & -m).bit_length() - 1 for m, p in zip(whole, places, strict=True))
    lowest = min(places)  # below the shift where all have trailing zeros
    sizes = [(m << (p - lowest)) >> (shift - lowest) for m, p in zip(whole, places, strict=True)]
    counts = Counter(sizes)
    total, top = len(numbers), max(sizes)
    each = [total - len(sizes), *counts.values()]
    among = math.lgamma(total + 1) - math.fsum(math.lgamma(n + 1) for n in each)
    named = _elias(2 * abs(shift) + (shift < 0)) + _elias(top)
    # logarithms are rounded: a little more
    return named + (_log_choose(total, top) + among) / math.log(2) * (1 + 1e-9) + len(sizes) + 1e-3


def _log_choose(count: int, top: int) -> float:
    """log C(count + top, count), or a little more, for whole numbers of any size."""
    if top < 2**30:
        return math.lgamma(count + top + 1) - math.lgamma(count + 1) - math.lgamma(top + 1)
    # C <= ((count + top) e / count)^count
    return count * (math.log(count + top) + 1 - math.log(count))


def _elias(m: int) -> int:
    return 2 * (m + 1).bit_length() - 1


def network_bits(net: Network) -> float:
    """Of a network, its hidden widths and the wider of two types included; how many layers and which activations is
    fixed in advance.
    """
    widths = sum(_elias(d) for d in net.widths[1:-1])
    arrays = [np.concatenate([layer.weight.ravel(), layer.bias]) for layer in net.layers]
    narrow = [array.astype(np.float32) for array in arrays]
    same = all(np.array_equal(x, y) for x, y in zip(arrays, narrow, strict=True))
    return 1 + widths + coded_bits(narrow if same else arrays)
