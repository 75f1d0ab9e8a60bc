"""Whether floats are those of IEEE 754: here they are, and each flaw would be seen."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from moduli.kernel import arithmetic
from moduli.kernel.errors import Undecided


def test_arithmetic_here_is_fine():
    arithmetic.require_everywhere()
    left, right, product = arithmetic._probe()
    exact = sum(
        Fraction(x) * Fraction(y)
        for x, y in zip(left[0].tolist(), right[:, 0].tolist(), strict=True)
    )
    assert Fraction(float(product[0, 0])) == exact == Fraction(5e-324)
    for row in (1, 2):
        exact = sum(
            Fraction(x) * Fraction(y)
            for x, y in zip(left[row].tolist(), right[:, 1].tolist(), strict=True)
        )
        assert product[row, 1] == 1.0 == float(exact) != exact


class Flushed(float):
    """A number whose subnormal products are zero."""

    def __mul__(self, other):
        found = float(self) * float(other)
        return 0.0 if abs(found) < arithmetic.NORMAL else found


class Upward(float):
    """A number whose sums are rounded up."""

    def __add__(self, other):
        found = float(self) + float(other)
        exact = Fraction(float(self)) + Fraction(float(other))
        return found if Fraction(found) >= exact else np.nextafter(found, np.inf)


class Twice(float):
    """Sums as on a processor of 80 bits: rounded to 64 bits of mantissa first."""

    def __add__(self, other):
        exact = Fraction(float(self)) + Fraction(float(other))
        return float(Fraction(round(exact * 2**63), 2**63))


@pytest.mark.parametrize(
    ("name", "number", "said"),
    [
        ("NORMAL", Flushed(2.0**-1022), "flushed to zero"),
        ("LEAST", Flushed(2.0**-1074), "flushed to zero"),
        ("LEAST", 0.0, "flushed to zero"),
        ("ONE", Upward(1.0), "not rounded to the nearest"),
        ("ONE", Twice(1.0), "rounded twice"),
    ],
)
def test_each_flaw_is_seen(monkeypatch, name, number, said):
    assert arithmetic.flaw() is None
    monkeypatch.setattr(arithmetic, name, number)
    assert said in arithmetic.flaw()
    with pytest.raises(Undecided, match="nothing can be certified in this process"):
        arithmetic.require()


def test_a_matrix_library_that_flushes_is_seen(monkeypatch):
    left, right, product = arithmetic._probe()
    wrong = np.where(np.abs(product) < arithmetic.NORMAL, 0.0, product)
    assert (wrong != product).any()
    monkeypatch.setattr(arithmetic, "_probe", lambda: (left, right, wrong))
    with pytest.raises(Undecided, match="threads of the matrix library"):
        arithmetic.require_everywhere()
