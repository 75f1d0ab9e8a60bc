"""Creases: units of one hyperplane add up, whatever their scale, order and orientation."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moduli as mo
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.hyperplane_sums import hyperplane, hyperplane_sums, linear_coefficient, unit
from moduli.kernel.move import Move
from moduli.kernel.rules import apply
from moduli.kernel.state import State

NUMBERS = st.fractions(min_value=-9, max_value=9, max_denominator=6)
ROWS = st.tuples(NUMBERS, NUMBERS, NUMBERS).filter(lambda row: any(row[:-1]))
UNITS = st.lists(st.tuples(ROWS, st.tuples(NUMBERS)), max_size=5)


def bend(units, x, y):
    """sum of v |z|, the even part of ReLU units twice over."""
    return sum((v * abs(a * x + b * y + c) for (a, b, c), (v,) in units), Fraction(0))


@given(UNITS, NUMBERS, NUMBERS)
def test_the_sums_are_the_even_part_of_the_function(units, x, y):
    found = hyperplane_sums(units, homogeneous=True)
    assert bend(units, x, y) == bend(found.items(), x, y)
    assert all(any(column) for column in found.values())


@given(
    UNITS, st.lists(NUMBERS.filter(bool), min_size=5, max_size=5), st.randoms(use_true_random=False)
)
def test_sums_do_not_depend_on_scale_order_and_orientation(units, factors, random):
    scaled = [
        (tuple(t * q for q in row), tuple(q / abs(t) for q in column))
        for (row, column), t in zip(units, factors, strict=False)
    ]
    random.shuffle(scaled)
    assert hyperplane_sums(scaled, homogeneous=True) == hyperplane_sums(units, homogeneous=True)


@given(ROWS)
def test_a_row_is_a_multiple_of_its_hyperplane(row):
    for homogeneous in (True, False):
        key, t = hyperplane(row, homogeneous=homogeneous)
        assert tuple(t * q for q in key) == row
        assert next(q for q in key if q) > 0
        assert homogeneous or abs(t) == 1


def test_no_weights_are_no_hyperplane():
    with pytest.raises(CertificateRejected, match="no incoming weight"):
        hyperplane((Fraction(0), Fraction(3)), homogeneous=True)


def test_units_that_cancel_have_no_crease():
    one = (Fraction(1), Fraction(2))
    assert (
        hyperplane_sums(
            [(one, (Fraction(3),)), ((-one[0], -one[1]), (Fraction(-3),))], homogeneous=False
        )
        == {}
    )


@pytest.mark.parametrize(
    ("activation", "c"),
    [
        ("relu", "1/2"),
        ("gelu", "1/2"),
        ("abs", "0"),
        ("leaky_relu(0.5)", "3/4"),
        ("tanh", None),
        ("sigmoid", None),
        ("elu(1)", None),
    ],
)
def test_what_is_even_but_for_a_line(activation, c):
    net = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation=activation)
    assert linear_coefficient(State(net), 1) == (None if c is None else Fraction(c))


def test_what_remains_of_a_unit():
    net = mo.Network.mlp(
        [[1.0], [0.0], [3.0]],
        [4.0, 0.5, 6.0],
        np.arange(6.0).reshape(2, 3),
        [0, 0],
        [[1.0, 1.0]],
        [0.0],
        activation="tanh",
    )
    state = State(net)
    assert unit(state, 1, 2) == ((Fraction(3), Fraction(6)), (Fraction(2), Fraction(5)), None)
    apply(state, Move("constant", 1, np.array([1])))
    assert unit(state, 2, 0) is None, "its bias is 0 + 1 tanh(1/2), which is no rational"
