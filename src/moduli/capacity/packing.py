"""Covering numbers of ReLU networks from below: functions that are far from each other.

**Theorem L.** Let a chain have one hidden layer of d ReLU units, n inputs and c outputs, entries of size at
most B_1 and B_2, and inputs at most B_x in size. With X = min(B_x, 1), h = X / d and k = d (n + 1) + c d + c
- d,

    log N(F, eps) >= sum_(i = 1, ..., d) log( (B_1 / 6d)^n (B_1 h / 6) B_2^(n + 1) (2 h / 3) (i h)^(n - 1) ) + log 2 B_2
                     + (c - 1) ( (d + 1) log 2 B_2 + d log(2 B_1 h / 3) ) - k log 2 eps.

So the exponent k = S - N of 1/eps in Theorem S (parameters less units) is the right one.

*Proof.* Let units i = 1, ..., d have weights in B_1 [1 - 1/6d, 1] and biases in -B_1 [(i - 1) h, (i - 1) h +
h/6], and let the weight of each in the first output be B_2. On the axis of each input unit i then bends
between (i - 1) h and p_i = (i - 1) h + h/3, as ((i - 1) h + h/6) / (1 - 1/6d) is no more; let q_i = i h. At 0
the first output is its bias. Given those of earlier units, its values at p_i on the first axis and at q_i on
all are affine in the n weights and the bias of unit i, as later units are off there: with determinant B_2^(n
+ 1) (q_i - p_i) q_i^(n - 1). So all these values together are an affine and injective map of the parameters
with the product of these as its determinant: its image has the volume of the first line. At q_1, ..., q_d on
the first axis the units have a triangular matrix, with a diagonal of at least B_1 (i h (1 - 1/6d) - (i - 1) h
- h/6) >= 2 B_1 h / 3. So for each further output its values there and at 0 have a volume of at least the
second line's, whatever the units are. A function that is within eps of a centre has k values in a cube of
side 2 eps, and N cubes cover the image.

In deeper chains unit j of earlier layers may pass on input j, which is not negative here: then n is the least
of the widths before the last hidden layer, and B_x is multiplied by the bounds of the layers before that.

Derived and proved for this library.
"""

from __future__ import annotations

import math
from fractions import Fraction

from .covering_numbers import Class, log


def exponent(cls: Class) -> int:
    """k; 0 where the theorem does not apply."""
    if not applies(cls):
        return 0
    n, d, c = _sizes(cls)
    return d * (n + 1) + c * d + c - d


def applies(cls: Class) -> bool:
    """Whether all hidden layers are of ReLU units, and there is one."""
    return (
        bool(cls.activations)
        and all(s.kind == "relu" for s in cls.activations)
        and 0 not in cls.widths
    )


def _sizes(cls: Class) -> tuple[int, int, int]:
    return min(cls.widths[:-2]), cls.widths[-2], cls.widths[-1]


def log_packing(cls: Class, eps: Fraction) -> float | None:
    """A lower bound of the log of the covering number in the sup norm; None where the theorem does not apply.

    >>> cls = Class.of([1, 3, 1], "relu")
    >>> 0 < log_packing(cls, Fraction(1, 10**6)) < cls.log_covering(Fraction(1, 10**6))
    True
    """
    if not applies(cls):
        return None
    n, d, c = _sizes(cls)
    inner, outer = cls.bounds[-2], cls.bounds[-1]
    reach = min(math.prod(cls.bounds[:-2], start=cls.input_bound), Fraction(1))
    h = reach / d
    each = inner**n / (6 * d) ** n * (inner * h / 6) * outer ** (n + 1) * (2 * h / 3) * h ** (n - 1)
    whole = d * log(each) + (n - 1) * math.lgamma(d + 1) + log(2 * outer)
    whole += (c - 1) * ((d + 1) * log(2 * outer) + d * log(2 * inner * h / 3))
    found = whole - exponent(cls) * log(2 * eps)
    # logarithms are rounded
    return max(0.0, found - 1e-9 * (abs(whole) + abs(found)))
