"""Sets of units that can be turned: none is missed."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from strategies import folded

from moduli.kernel.flippable_subsets import PRIME, _subsets, cancelling_turns
from moduli.kernel.hyperplane_sums import Unit, hyperplane_sums, unit
from moduli.kernel.state import State


def test_no_set_is_missed():
    rng = np.random.default_rng(5)
    for _ in range(30):
        state = State(folded(rng, 2, 5, 1, 7))
        units = [
            u for name in range(7) if (u := unit(state, 1, name)) is not None and any(u.row[:-1])
        ]
        seen, half = (
            hyperplane_sums(((u.row, u.column) for u in units), homogeneous=True),
            Fraction(1, 2),
        )
        found = {frozenset(some) for some in cancelling_turns(units, seen, half)}
        for mask in product((0, 1), repeat=len(seen)):
            turned = frozenset(key for key, on in zip(seen, mask, strict=True) if on)
            rest = [
                sum(half * u.column[0] * u.row[j] for u in units)
                - sum(
                    (-1 if key in turned else 1) * half * a[0] * key[j] for key, a in seen.items()
                )
                for j in range(2)
            ]
            assert (turned in found) == (not any(rest)) or len(found) == 16


def test_with_one_unit_more_a_product_of_one_hyperplane_may_remain():
    """P(T) = v w for the hyperplane left out: all such sets are among those that are found."""
    rng = np.random.default_rng(8)
    half, hits = Fraction(1, 2), 0
    for _ in range(40):
        state = State(folded(rng, 2, 3, 1, 5))
        units = [
            u for name in range(5) if (u := unit(state, 1, name)) is not None and any(u.row[:-1])
        ]
        seen = hyperplane_sums(((u.row, u.column) for u in units), homogeneous=True)
        for but in seen:
            found = {frozenset(some) for some in cancelling_turns(units, seen, half, but)}
            others = [key for key in seen if key != but]
            for mask in product((0, 1), repeat=len(others)):
                turned = frozenset(key for key, on in zip(others, mask, strict=True) if on)
                rest = [
                    sum(half * u.column[0] * u.row[j] for u in units)
                    - sum(
                        (-1 if key in turned else 1) * half * a[0] * key[j]
                        for key, a in seen.items()
                    )
                    for j in range(2)
                ]
                if rest[0] * but[1] == rest[1] * but[0]:
                    hits += 1
                    assert turned in found or len(found) == 16
    assert hits > 10


def test_subsets_have_their_sums_modulo_the_prime():
    rng = np.random.default_rng(9)
    for size in (0, 1, 2, 7):
        terms = rng.integers(0, PRIME, (size, 2))
        for mask in product((0, 1), repeat=size):
            total = (
                np.array(mask, dtype=np.int64) @ terms % PRIME
                if size
                else np.zeros(2, dtype=np.int64)
            )
            assert tuple(np.flatnonzero(mask).tolist()) in _subsets(total, terms)
    many = _subsets(np.zeros(2, dtype=np.int64), np.zeros((8, 2), dtype=np.int64))
    assert len(many) == 16, "all 256 have the sum 0; a few are as good as all"


def test_a_denominator_that_the_prime_divides_is_said():
    row = (Fraction(1, PRIME), Fraction(0))
    with pytest.raises(ValueError, match="not invertible"):
        cancelling_turns([Unit(row, (Fraction(1),), None)], {row: (Fraction(1),)}, Fraction(1, 2))
