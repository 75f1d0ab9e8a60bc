"""Classes and ratios of rows: equal exactly where the rows are multiples."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moduli.kernel.graph import slices
from moduli.kernel.graph.slices import ONE, Classes, multiples, of_array

small = st.integers(-3, 3)
rows = st.lists(st.lists(small, min_size=3, max_size=3), min_size=1, max_size=8)


def proportional(a, b):
    return all(a[i] * b[j] == a[j] * b[i] for i in range(3) for j in range(3))


@given(rows)
def test_rows_share_a_class_exactly_where_they_are_multiples(table):
    array = np.array(table, dtype=np.float32)
    names, ratios = multiples(array, Classes())
    for i, a in enumerate(table):
        for j, b in enumerate(table):
            if any(a) and any(b) and len(set(a)) > 1 and len(set(b)) > 1:
                assert (names[i] == names[j]) == proportional(a, b)
                if names[i] == names[j]:
                    assert [Fraction(x) * ratios[j] for x in a] == [
                        Fraction(x) * ratios[i] for x in b
                    ]
            if len(set(a)) == 1:
                assert names[i] == ONE
                assert ratios[i] == a[0]


@given(rows, st.lists(small, min_size=8, max_size=8))
def test_with_biases_only_rows_of_zeros_are_constant(table, biases):
    array, b = np.array(table, dtype=np.float64), np.array(biases[: len(table)], dtype=np.float64)
    names, ratios = multiples(array, Classes(), b)
    for i, row in enumerate(table):
        assert (names[i] == ONE) == (not any(row) and b[i] == 0)
        for j, other in enumerate(table):
            if names[i] == names[j] != ONE:
                left = [Fraction(x) * ratios[j] for x in (*row, b[i])]
                assert left == [Fraction(x) * ratios[i] for x in (*other, b[j])]


def test_rows_whose_quotients_round_alike_but_differ_are_told_apart():
    a = np.array([3.0, 1.0])
    b = np.array([9.0, np.nextafter(3.0, 4.0)])
    c = np.array([1.0, 1 / 3])
    assert a[1] / a[0] == c[1] / c[0]
    names, _ = multiples(np.array([a, b, c]), Classes())
    assert len(set(names.tolist())) == 3


def test_blocks_of_rows_see_the_rows_of_other_blocks(monkeypatch):
    array = np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 4.0], [-1.0, -2.0]])
    monkeypatch.setattr(slices, "BLOCK", 2)
    names, ratios = multiples(array, Classes())
    assert names[0] == names[2] == names[3] != names[1]
    assert ratios == (1, 3, 2, -1)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_of_numbers_that_are_none_nothing_is_known(value):
    found = of_array(np.array([[1.0, 1.0], [value, 1.0]]), 0, Classes())
    assert ONE not in found.classes
    assert not np.isfinite(found.low).any()


def test_a_range_of_one_number_is_a_constant():
    found = Classes().made(2, np.array([0.5, 0.0]), np.array([0.5, 1.0]), {})
    assert found.constant(0) == Fraction(1, 2)
    assert found.constant(1) is None


def test_of_large_rationals_the_float_ends_enclose():
    third = Fraction(1, 3)
    found = Classes().made(1, np.array([-np.inf]), np.array([np.inf]), {0: (ONE, third)})
    assert Fraction(found.low[0]) <= third <= Fraction(found.high[0])
    assert found.low[0] < found.high[0]
