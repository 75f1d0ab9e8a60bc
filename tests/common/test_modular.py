"""Residues, products, ranks, inverses, null spaces and fractions modulo a prime, against integers
and rationals.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from moduli.common import modular

P = modular.PRIMES[0]


def test_primes():
    import sympy

    assert all(sympy.isprime(p) and p < 2**22 for p in modular.PRIMES)
    assert modular.prime_below(modular.PRIMES[0] + 1) == modular.PRIMES[0]
    assert modular.prime_below(modular.PRIMES[0]) == modular.PRIMES[1]


def test_residues_are_exact():
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            rng.standard_normal(500) * 10.0 ** rng.integers(-300, 300, 500),
            [0.0, 5e-324, -1.5, 2.0**1023],
        ]
    )
    for value, found in zip(x.tolist(), modular.residues(x, P).tolist(), strict=True):
        q = Fraction(value)
        assert int(found) % P == q.numerator * pow(q.denominator, -1, P) % P
        assert abs(found) <= P / 2 + 1


def test_products_of_any_length():
    rng = np.random.default_rng(1)
    for inner in (1, 1023, 1024, 2500):
        a, b = (
            rng.integers(-(P // 2), P // 2 + 1, (3, inner)),
            rng.integers(-(P // 2), P // 2 + 1, (inner, 2)),
        )
        exact = a.astype(object) @ b.astype(object) % P
        assert (modular.times(a.astype(float), b.astype(float), P) % P == exact.astype(float)).all()
    worst = np.full((1, 5000), float(P // 2))
    assert modular.times(worst, worst.T, P)[0, 0] % P == 5000 * (P // 2) ** 2 % P


@pytest.mark.parametrize(
    "shape", [(5, 5, 3), (70, 90, 41), (200, 150, 128), (300, 300, 299), (40, 200, 40), (64, 64, 0)]
)
def test_planted_ranks(shape):
    rows, columns, rank = shape
    rng = np.random.default_rng(rows)
    left, right = (
        rng.integers(-(P // 2), P // 2, s).astype(float) for s in ((rows, rank), (rank, columns))
    )
    matrix = modular.times(left, right, P) if rank else np.zeros((rows, columns))
    matrix[:, ::7] = 0.0
    expected = min(rank, columns - len(range(0, columns, 7)))
    assert modular.rank(matrix, P) == expected
    picked, at = modular.pivots(matrix, P)
    assert modular.rank(matrix[picked][:, at], P) == expected
    null = modular.null_space(matrix, P)
    assert len(null) == columns - expected
    assert not modular.times(matrix, null.T, P).any()
    inverse = modular.inverse(matrix[picked][:, at], P)
    product = modular.times(matrix[picked][:, at], inverse, P)
    assert np.array_equal(product % P, np.eye(expected))


def test_integer_ranks_are_never_exceeded():
    """Matrices of small integers, where the rank modulo a small prime can drop, but not rise."""
    import sympy

    rng, dropped = np.random.default_rng(2), 0
    for _ in range(60):
        a = rng.integers(-3, 4, (4, 3)) @ rng.integers(-3, 4, (3, 5))
        true = sympy.Matrix(a.tolist()).rank()
        found = modular.rank(modular.reduced(a.astype(float), 5), 5)
        assert found <= true
        dropped += found < true
    assert dropped > 0


def test_singular_blocks_are_refused():
    with pytest.raises(ZeroDivisionError):
        modular.inverse(np.array([[1.0, 2.0], [2.0, 4.0]]), P)


def test_fractions_come_back():
    product = modular.PRIMES[0] * modular.PRIMES[1] * modular.PRIMES[2]
    wanted = [(3, 7), (-22, 5), (0, 1), (123456789, 1000003)]
    for number in (Fraction(*pair) for pair in wanted):
        assert modular.fraction(modular.residue(number, product), product, 2**32) == number
    assert modular.fraction(modular.residue(Fraction(3, 7), product), product, 2) is None
    with pytest.raises(ValueError, match="not invertible"):
        modular.residue(Fraction(1, 7), 7)


def test_ranks_are_proved_from_above():
    """Rational matrices of known rank, given by residues: the true rank is proved, one less never,
    too little work never.
    """
    rng = np.random.default_rng(4)
    for rank in (0, 1, 3, 5):
        whole = rng.integers(-50, 51, (12, rank)) @ rng.integers(-50, 51, (rank, 6))
        exact = [[Fraction(int(v), 8) for v in row] for row in whole]

        def modulo(prime, exact=exact):
            return modular.reduced(
                np.array([[modular.residue(q, prime) for q in row] for row in exact], float), prime
            )

        sizes, powers = np.full(6, float(np.log2(np.abs(whole).max() / 8 + 1))), np.full(6, 3.0)
        assert modular.rank_at_most(modulo, rank, sizes, powers, 1e9)
        assert not modular.rank_at_most(modulo, rank, sizes, powers, 0.0)
        if rank:
            assert not modular.rank_at_most(modulo, rank - 1, sizes, powers, 1e9)
        if rank < 5:
            assert not modular.rank_at_most(
                modulo, rank + 1, sizes, powers, 1e9
            )  # not the rank: nothing is said


def test_a_rank_that_drops_modulo_one_prime_is_not_proved():
    """Divisible by the first prime, not zero: the next primes say so."""
    big = float(modular.PRIMES[0])

    def modulo(prime):
        return modular.residues(np.array([[1.0, 2.0], [2.0, 4.0 + big]]), prime)

    assert modular.rank(modulo(modular.PRIMES[0]), modular.PRIMES[0]) == 1
    assert not modular.rank_at_most(modulo, 1, np.full(2, 23.0), np.zeros(2), 1e9)
