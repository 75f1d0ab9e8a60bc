"""Whether this process computes as IEEE 754 asks; part of the kernel, which rests on that.

Every bound of the kernel counts on sums and products of floats rounded to nearest, with gradual
underflow. A library built with -ffast-math, or `torch.set_flush_denormal(True)`, has the processor
flush subnormal numbers to zero, one thread at a time; other calls change the way of rounding.
Either makes a bound false, so it is looked for:

- `require` in the thread that asks, wherever bounds or exact sums begin, in worker processes too;
- `require_everywhere` also in the threads of the matrix library, before a certificate is accepted: one product, large
  enough for the library to share it out, all entries of which are known. That every thread took
  part is not known.

The matrix library itself is trusted to form an entry of a product from the products of its terms by
sums in some order (fused or not), as the bounds of `up_matmul` and `propagation` need; Strassen's
scheme would not.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from .errors import Undecided

Array = np.ndarray[Any, np.dtype[np.float64]]
LEAST = 2.0**-1074  # the smallest positive float
NORMAL = 2.0**-1022  # the smallest normal one
HALF = 0.5
ONE = 1.0
ULP = 2.0**-52
SMALL = 2.0**-537  # its square is the least float
# A product of this size is one that OpenBLAS shares out among its threads.
ROWS = 192
COLUMNS = 128
TERMS = 64


def flaw() -> str | None:
    """What is not as it has to be in this thread, or None."""
    if NORMAL * HALF == 0.0 or not LEAST > 0.0 or LEAST + LEAST == LEAST or LEAST * ONE == 0.0:
        return "subnormal numbers are flushed to zero"
    above, below = ONE + 0.75 * ULP, ONE + 0.25 * ULP
    if (
        above != ONE + ULP
        or below != ONE
        or -ONE - 0.25 * ULP != -ONE
        or -ONE - 0.75 * ULP != -ONE - ULP
    ):
        return "sums are not rounded to the nearest float"
    if ONE + HALF * ULP * (ONE + ULP) != ONE + ULP:
        return "sums are rounded twice"
    return None


def require() -> None:
    """Raise `Undecided` where this thread flushes subnormal numbers or rounds in another way.

    >>> require()
    """
    found = flaw()
    if found is not None:
        raise Undecided(
            f"nothing can be certified in this process: {found}; undo what set that (torch.set_flush_denormal(False), "
            "no library built with -ffast-math), or start another process"
        )


def require_everywhere() -> None:
    """The same, of matrix products too."""
    require()
    left, right, product = _probe()
    if not np.array_equal(left @ right, product):
        raise Undecided(
            "nothing can be certified in this process: the threads of the matrix library flush subnormal numbers to zero or "
            "do not round to nearest; import moduli before what sets that, or start another process"
        )


@cache
def _probe() -> tuple[Array, Array, Array]:
    """Two matrices and their product: of subnormal products, and of 1 and less than half a unit
    beside it.

    Few terms, as the processor takes its time over each subnormal one.
    """
    left, right = np.zeros((ROWS, TERMS)), np.empty((TERMS, COLUMNS))
    left[:, 0] = ONE
    left[0::2, -1], left[1::2, -1] = ULP / 4, -ULP / 8
    left[0::8, 0], left[0::8, -1] = 0.0, SMALL
    right[:, 0::2], right[:, 1::2] = SMALL, ONE
    sums = np.ones(ROWS)
    sums[0::8] = SMALL
    return left, right, sums[:, None] * right[0]
