"""Arithmetic modulo primes below 2^22, for proofs about ranks: modulo one never above the true one,
modulo enough equal to it.

Residues are whole floats of at most about half the prime in size, so that matrix products are those
of floats: sums of up to 1024 products stay below 2^53 and are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from moduli.kernel.exact_numbers import residue as residue

Array = np.ndarray[Any, np.dtype[np.float64]]
PRIMES = 4194301, 4194287, 4194277  # the largest below 2^22
CHUNK = 1024  # terms of a sum that stay exact in a float: products are below 2^42
PANEL = 64  # columns eliminated at a time
LAZY = 16  # panels after which the rest is reduced


def residues(numbers: Any, prime: int) -> Array:
    """Floats (rationals whose denominators are powers of two) modulo an odd prime, exactly; the
    shape stays.

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
        total = reduced(
            total + times(a[..., k : k + CHUNK], b[..., k : k + CHUNK, :], prime), prime
        )
    return total


def rank(matrix: Array, prime: int) -> int:
    """By elimination.

    >>> rank(np.array([[1.0, 2.0], [2.0, 4.0]]), 7), rank(np.array([[1.0, 2.0], [2.0, 5.0]]), 7)
    (1, 2)
    """
    return len(pivots(matrix, prime)[0])


def pivots(matrix: Array, prime: int) -> tuple[list[int], list[int]]:
    """Rows and columns of a largest invertible block, in an order in which all leading blocks are;
    by panels of columns.

    What is left of the matrix is reduced only when it is read, or after LAZY panels: each adds less
    than 64 2^42 to an entry.
    """
    a, order = np.array(matrix, dtype=np.float64), np.arange(len(matrix))
    found = list[int]()
    for turn, start in enumerate(range(0, a.shape[1], PANEL)):
        done = len(found)
        if turn % LAZY == LAZY - 1:
            a[done:, start:] = reduced(a[done:, start:], prime)
        panel = reduced(a[done:, start : start + PANEL], prime)
        rows, columns = _pivots(panel.copy(), prime)
        count = len(rows)
        holes, moved = [r for r in rows if r >= count], [r for r in range(count) if r not in rows]
        places, contents = [*range(count), *holes], [*rows, *moved]
        for part in (a[done:], order[done:], panel):
            part[places] = part[contents]
        found += [start + c for c in columns]
        if count and count < len(panel):
            top = reduced(a[done : done + count, start:], prime)
            factor = times(panel[count:, columns], inverse(top[:, columns], prime), prime)
            a[done + count :, start:] -= factor @ top
    return order[: len(found)].tolist(), found


def inverse(block: Array, prime: int) -> Array:
    """Of a square matrix whose leading blocks are invertible; by halves.

    Raises:
        ZeroDivisionError: a block is not.
    """
    n = len(block)
    if n <= 1:
        if n and block[0, 0] == 0:
            raise ZeroDivisionError("singular modulo the prime")
        return np.array([[float(pow(int(v), -1, prime)) for v in row] for row in block]).reshape(
            block.shape
        )
    k = n // 2
    a, b, c = inverse(block[:k, :k], prime), block[:k, k:], block[k:, :k]
    ab, ca = times(a, b, prime), times(c, a, prime)
    d = inverse(reduced(block[k:, k:] - times(c, ab, prime), prime), prime)
    abd = times(ab, d, prime)
    return np.block([[reduced(a + times(abd, ca, prime), prime), -abd], [-times(d, ca, prime), d]])


def null_space(matrix: Array, prime: int) -> Array:
    """A basis of the vectors x with matrix @ x = 0, as rows.

    >>> null_space(np.array([[1.0, 2.0], [2.0, 4.0]]), 7).tolist()
    [[-2.0, 1.0]]
    """
    a, leading, count = np.array(matrix, dtype=np.float64), list[int](), matrix.shape[1]
    for column in range(count):
        rows = np.flatnonzero(a[len(leading) :, column])
        if len(rows):
            k = len(leading)
            a[[k, k + rows[0]]] = a[[k + rows[0], k]]
            a[k] = reduced(a[k] * pow(int(a[k, column]), -1, prime), prime)
            factor = a[:, column].copy()
            factor[k] = 0.0
            a = reduced(a - factor[:, None] * a[k], prime)
            leading.append(column)
    free = [c for c in range(count) if c not in leading]
    out = np.zeros((len(free), count))
    out[np.arange(len(free)), free] = 1.0
    out[:, leading] = -a[: len(leading), free].T
    return out


def _pivots(panel: Array, prime: int) -> tuple[list[int], list[int]]:
    """Rows and columns of a largest invertible block of up to PANEL columns.

    A column or a row is reduced when it is read; 64 updates of less than 2^42 leave whole numbers
    below 2^53.
    """
    rows: list[int] = []
    columns: list[int] = []
    free = np.ones(len(panel), dtype=bool)
    for column in range(panel.shape[1]):
        head = reduced(panel[:, column], prime) * free
        candidates = np.flatnonzero(head)
        if not len(candidates):
            continue
        row = int(candidates[0])
        free[row] = False
        rows.append(row)
        columns.append(column)
        factor = reduced(head * pow(int(head[row]), -1, prime), prime) * free
        panel[:, column + 1 :] -= factor[:, None] * reduced(panel[row, column + 1 :], prime)
    return rows, columns


def prime_below(n: int) -> int:
    """The largest prime below n."""
    candidate = n - 1
    while any(candidate % d == 0 for d in range(2, int(candidate**0.5) + 1)):
        candidate -= 1
    return candidate


def fraction(value: int, modulus: int, most: int) -> Fraction | None:
    """A fraction n / d with n = d * value modulo the modulus, n and d at most `most` (Wang 1981);
    None if there is none.

    If 2 most^2 is below the modulus, there is no second one.

    >>> fraction(residue(Fraction(2, 3), 101), 101, 7)
    Fraction(2, 3)
    """
    r, s, top, bottom = modulus, value % modulus, 0, 1
    while s > most:
        q = r // s
        r, s, top, bottom = s, r - q * s, bottom, top - q * bottom
    return Fraction(s, bottom) if 0 < abs(bottom) <= most and math.gcd(s, bottom) == 1 else None


def rank_at_most(
    matrix_of: Callable[[int], Array], rank: int, sizes: Array, powers: Any, work: float
) -> bool:
    """Whether a rational matrix, given modulo any prime, is proved to have no larger rank; False
    says nothing.

    Args:
        sizes, powers: entries of a column are below 2^size, and integers after multiplication by
            2^power. work: about as many products of numbers are spent.

    Modulo each of several primes the other columns are combinations X of `rank` columns, on all
    rows. Either the fractions that X reduces give exact null vectors: they annihilate all rows
    modulo the product of the primes, which exceeds whatever the integers could be. Or the product
    exceeds all minors of size rank + 1: they vanish.
    """
    minors = (
        float(np.sort(np.maximum(0.0, sizes + powers))[::-1][: rank + 1].sum())
        + (rank + 1) * math.log2(rank + 2) / 2
        + 1
    )
    prime, product, crt, count, block = PRIMES[0] + 2, 1, np.zeros(0, dtype=object), 0, None
    while work > 0:
        prime = prime_below(prime)
        matrix = matrix_of(prime)
        work -= matrix.size * (rank + 100) + rank**3 + 1e6
        if block is None:
            block = pivots(matrix, prime)
            if len(block[1]) != rank:
                return False
            free = np.setdiff1d(np.arange(matrix.shape[1]), block[1])
        try:
            base = inverse(matrix[block[0]][:, block[1]], prime)
        except ZeroDivisionError:
            continue
        combination = times(base, matrix[block[0]][:, free], prime)
        if reduced(matrix[:, free] - times(matrix[:, block[1]], combination, prime), prime).any():
            return False
        crt, product, count = _chinese(crt, product, combination, prime), product * prime, count + 1
        if product.bit_length() > minors:
            return True
        if count & (count - 1) == 0 and _annihilate(
            crt, product, float(np.max(sizes) + np.max(powers))
        ):
            return True
    return False


def _chinese(known: Any, product: int, fresh: Array, prime: int) -> Any:
    """The residues modulo product * prime, as integers (flat)."""
    values = fresh.ravel().astype(np.int64).astype(object)
    if product == 1:
        return values % prime
    step = (values - known) * pow(product, -1, prime) % prime
    return known + step * product


def _annihilate(residues: Any, product: int, entry: float) -> bool:
    """Whether the fractions behind the combinations, residues modulo a product, are null vectors of
    integers below 2^entry.

    With one denominator d and numerators n_k, d J_free - sum n_k J_k vanishes modulo the product,
    and is smaller.
    """
    found, most = list[Fraction](), math.isqrt(product // 2)
    for value in residues:
        number = fraction(int(value), product, most)
        if number is None:
            return False
        found.append(number)
    bits = max((max(abs(q.numerator), q.denominator).bit_length() for q in found), default=0)
    common = math.lcm(*{q.denominator for q in found}).bit_length()
    return entry + bits + common + math.log2(len(found) + 2) + 2 < product.bit_length() - 1
