"""Arithmetic modulo a prime below 2^31, for proofs that something is not zero: a rank there is never above the true one."""

from __future__ import annotations

from typing import Any

import numpy as np

PRIMES = 2**31 - 1, 2**31 - 19


def residues(numbers: Any, prime: int) -> Any:
    """Floats (rationals whose denominators are powers of two) modulo an odd prime, exactly; the shape stays.

    >>> residues([0.5, -1.0], 7).tolist()
    [4, 6]
    """
    array = np.asarray(numbers, dtype=np.float64)
    ratios = (x.as_integer_ratio() for x in array.ravel().tolist())
    values = [top * pow(bottom, -1, prime) % prime for top, bottom in ratios]
    return np.array(values, dtype=np.int64).reshape(array.shape)


def times(a: Any, b: Any, prime: int) -> Any:
    """The product of two matrices of residues."""
    out = np.zeros((a.shape[0], b.shape[1]), dtype=np.int64)
    for k in range(a.shape[1]):
        out = (out + a[:, k, None] * b[None, k]) % prime
    return out


def rank(matrix: Any, prime: int) -> int:
    """By elimination.

    >>> rank(np.array([[1, 2], [2, 4]]), 7), rank(np.array([[1, 2], [2, 5]]), 7)
    (1, 2)
    """
    a, found = matrix.copy(), 0
    for column in range(a.shape[1]):
        pivots = np.flatnonzero(a[found:, column])
        if not len(pivots):
            continue
        a[[found, found + pivots[0]]] = a[[found + pivots[0], found]]
        a[found] = a[found] * pow(int(a[found, column]), -1, prime) % prime
        below = found + 1 + np.flatnonzero(a[found + 1 :, column])
        a[below] = (a[below] - a[below, column, None] * a[found]) % prime
        found += 1
        if found == len(a):
            break
    return found
