"""Which sets of units can be turned the other way round so that their linear parts cancel others.
Part of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from .bounds.box_claim import Row
from .exact_numbers import residue
from .hyperplane_sums import Unit

Keys = np.ndarray[Any, np.dtype[np.uint64]]
PRIME = 2**31 - 1


def cancelling_turns(
    units: Sequence[Unit], seen: dict[Row, Row], c: Fraction, but: Row | None = None
) -> list[tuple[Row, ...]]:
    """Sets T of hyperplanes with P(T) = 0, or P(T) = v w for that of one hyperplane: none missing,
    at most a few too many.

    Two fixed numbers are read off the matrices modulo a prime, (a . v)(y . w) for each term v w, y
    with y . w = 0 for the one hyperplane; then sums of one half of the terms are looked up among
    sums of the other.

    Raises:
        ValueError: a denominator is a multiple of the prime.
    """
    turned = [key for key in seen if key != but]
    total, terms = np.zeros(2, dtype=np.int64), np.zeros((len(turned), 2), dtype=np.int64)
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        a, y = _weights(rng, len(units[0].column) if units else 0), _across(rng, units, but)
        # P(T) = 0 makes the number a P(T) y zero, and P(T) = v w makes it (a . v)(w . y) = 0: so no
        # such T is missed; what is zero by chance modulo the prime only lets minimality be claimed
        # less often
        part = [
            _dot(a, u.column) * _dot(y, u.row[:-1]) * _residue(c if u.slope is None else u.slope)
            for u in units
        ]
        flips = [_dot(a, seen[key]) * _dot(y, key[:-1]) * _residue(c) for key in turned]
        total[seed] = (sum(flips) - sum(part)) % PRIME
        terms[:, seed] = [2 * x % PRIME for x in flips]
    return [tuple(turned[k] for k in some) for some in _subsets(total, terms)]


def _weights(rng: np.random.Generator, count: int) -> list[int]:
    found: list[int] = rng.integers(1, PRIME, count).tolist()
    return found


def _across(rng: np.random.Generator, units: Sequence[Unit], but: Row | None) -> list[int]:
    inputs = len(units[0].row) - 1 if units else 0
    y, z = _weights(rng, inputs), _weights(rng, inputs)
    if but is None:
        return y
    p, q = _dot(y, but[:-1]), _dot(z, but[:-1])
    return [(i * q - j * p) % PRIME for i, j in zip(y, z, strict=True)]


def _residue(q: Fraction) -> int:
    return residue(q, PRIME)


def _dot(weights: Sequence[int], row: Row) -> int:
    return sum(w * _residue(q) for w, q in zip(weights, row, strict=True)) % PRIME


def _subsets(total: Any, terms: Any, limit: int = 16) -> list[tuple[int, ...]]:
    """Sets of terms, up to a number of them, whose sums are the total modulo the prime, in both
    columns.
    """
    half = len(terms) // 2
    left, right = _sums(terms[:half]), _sums(terms[half:])
    wanted, have = _key((total - left) % PRIME), _key(right)
    order = np.argsort(have, kind="stable")
    first, last = (np.searchsorted(have[order], wanted, side=side) for side in ("left", "right"))
    found = list[tuple[int, ...]]()
    for i in np.flatnonzero(last > first)[:limit].tolist():
        for j in order[first[i] : last[i]][:limit].tolist():
            lower = [k for k in range(half) if i >> k & 1]
            upper = [half + k for k in range(len(terms) - half) if j >> k & 1]
            found.append((*lower, *upper))
    return found[:limit]


def _sums(terms: Any) -> Any:
    """Sums of all subsets, in the order of their binary numbers, modulo the prime."""
    found = np.zeros((1, 2), dtype=np.int64)
    for term in terms:
        found = np.concatenate([found, (found + term) % PRIME])
    return found


def _key(pairs: Any) -> Keys:
    """One number for two residues: both are below 2^31, so different pairs have different keys."""
    assert PRIME < 2**31
    keys: Keys = (pairs[:, 0] << 31 | pairs[:, 1]).astype(np.uint64)
    return keys
