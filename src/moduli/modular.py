"""Arithmetic modulo a prime below 2^22, for proofs that something is not zero: a rank there is never above the true one.

Residues are whole floats of at most about half the prime in size, so that matrix products are those of floats: sums of up to
1024 products stay below 2^53 and are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
PRIMES = 4194301, 4194287, 4194277  # the largest below 2^22
CHUNK, PANEL = 1024, 64


def residues(numbers: Any, prime: int) -> Array:
    """Floats (rationals whose denominators are powers of two) modulo an odd prime, exactly; the shape stays.

    >>> residues([0.5, -1.0], 7).tolist()
    [-3.0, -1.0]
    """
    array = np.asarray(numbers, dtype=np.float64)
    mantissa, exponent = np.frexp(array)
    whole = (mantissa * 2.0**53).astype(np.int64) % prime
    steps, place = np.unique(exponent.astype(np.int64) - 53, return_inverse=True)
    powers = np.array([pow(2, int(e), prime) for e in steps], dtype=np.int64)
    return reduced((whole * powers[place.reshape(array.shape)] % prime).astype(np.float64), prime)


def reduced(a: Array, prime: int) -> Array:
    """Whole floats up to 2^53 in size modulo a prime; multiples of it become 0."""
    out = np.rint(a * (1.0 / prime))
    out *= -prime
    out += a
    return np.asarray(out)


def times(a: Array, b: Array, prime: int) -> Array:
    """The product of matrices (or stacks of them) of residues."""
    inner = a.shape[-1]
    total = reduced(a[..., :CHUNK] @ b[..., :CHUNK, :], prime)
    for k in range(CHUNK, inner, CHUNK):
        total = reduced(total + times(a[..., k : k + CHUNK], b[..., k : k + CHUNK, :], prime), prime)
    return total


def rank(matrix: Array, prime: int) -> int:
    """By elimination, a panel of columns at a time.

    >>> rank(np.array([[1.0, 2.0], [2.0, 4.0]]), 7), rank(np.array([[1.0, 2.0], [2.0, 5.0]]), 7)
    (1, 2)
    """
    a, found = np.array(matrix, dtype=np.float64), 0
    for start in range(0, a.shape[1], PANEL):
        rows, columns = _pivots(a[found:, start : start + PANEL].copy(), prime)
        count = len(rows)
        holes, moved = [r for r in rows if r >= count], [r for r in range(count) if r not in rows]
        a[[found + r for r in (*range(count), *holes)]] = a[[found + r for r in (*rows, *moved)]]
        top, below = a[found : found + count, start:], a[found + count :, start:]
        found += count
        if count and len(below):
            factor = times(below[:, columns], _inverse(top[:, columns], prime), prime)
            below[:] = reduced(below - factor @ top, prime)
    return found


def _pivots(panel: Array, prime: int) -> tuple[list[int], list[int]]:
    """Rows and columns of a largest invertible block."""
    rows: list[int] = []
    columns: list[int] = []
    free = np.ones(len(panel), dtype=bool)
    for column in range(panel.shape[1]):
        candidates = np.flatnonzero(free & (panel[:, column] != 0))
        if not len(candidates):
            continue
        row = int(candidates[0])
        free[row] = False
        rows.append(row)
        columns.append(column)
        inverse = pow(int(panel[row, column]), -1, prime)
        factor = reduced(panel[:, column] * inverse, prime) * free
        panel[:, column:] = reduced(panel[:, column:] - factor[:, None] * panel[row, column:], prime)
    return rows, columns


def _inverse(block: Array, prime: int) -> Array:
    """Of an invertible block, by Gauss and Jordan."""
    n = len(block)
    a = np.concatenate([block, np.eye(n)], axis=1)
    for k in range(n):
        row = k + int(np.flatnonzero(a[k:, k])[0])
        a[[k, row]] = a[[row, k]]
        a[k] = reduced(a[k] * pow(int(a[k, k]), -1, prime), prime)
        factor = a[:, k].copy()
        factor[k] = 0.0
        a = reduced(a - reduced(factor[:, None] * a[k], prime), prime)
    return np.asarray(a[:, n:])
