"""Values of a certificate: strict, and the same from a file as from Python."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moduli.kernel import fields
from moduli.kernel.errors import CertificateRejected

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.fractions(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.fractions())
def test_rationals_are_read_in_lowest_terms_only(q):
    assert fields.rational(str(q), "x") == fields.rational(q, "x") == q
    doubled = f"{2 * q.numerator}/{2 * q.denominator}"
    with pytest.raises(CertificateRejected, match="lowest terms"):
        fields.rational(doubled, "x")


@given(ANYTHING)
def test_whatever_is_read_is_of_builtin_types_and_reads_again(x):
    readers = {
        fields.rational: Fraction,
        fields.text: str,
        fields.flag: bool,
        fields.items: list,
        fields.pairs: list,
        fields.units: tuple,
    }
    for reader, kind in readers.items():
        try:
            found = reader(x, "x")
        except CertificateRejected:
            continue
        assert type(found) is kind
        assert reader(found, "x") == found
    try:
        assert math.isfinite(fields.real(x, "x"))
        assert fields.real(x, "x") == x
    except CertificateRejected:
        assert type(x) not in (int, float) or not math.isfinite(x) or abs(x) > 2**53
    try:
        assert 0 <= fields.whole(x, 0, 9, "x") <= 9
    except CertificateRejected:
        assert type(x) is not int or not 0 <= x <= 9


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive_json(x):
    assert fields.real(json.loads(json.dumps(x)), "x") == x
    assert math.copysign(1, fields.real(-0.0, "x")) == 1


def test_limits():
    longest = 10**fields.MAX_DIGITS - 1
    assert fields.rational(str(longest), "x") == fields.rational(Fraction(longest), "x") == longest
    for wrong in (
        str(longest + 1),
        Fraction(longest + 1),
        Fraction(1, longest + 1),
        "1/" + "0" * 3,
        "x",
    ):
        with pytest.raises(CertificateRejected):
            fields.rational(wrong, "x")
    with pytest.raises(CertificateRejected, match="of at least 0"):
        fields.real(-1.0, "x", least=0.0)
    for wrong in (2**53 + 1, 2**1024, float("inf"), float("nan"), True, "1", None):
        with pytest.raises(CertificateRejected, match="finite number"):
            fields.real(wrong, "x")
    assert fields.indices(np.array([3, 3]), "x").tolist() == [3, 3]
    for wrong in (
        np.array([-1]),
        np.array([2**40]),
        np.array([1.0]),
        np.array([[1]]),
        [2**40],
        [1.0],
        "1",
        None,
    ):
        with pytest.raises(CertificateRejected, match="must be a list of unit numbers"):
            fields.indices(wrong, "x")
    with pytest.raises(CertificateRejected, match="different units"):
        fields.units([1, 1], "x")
    with pytest.raises(CertificateRejected, match="list of pairs"):
        fields.pairs([[1, 2, 3]], "x")


def test_records_have_their_fields():
    assert fields.record({"a": 1, "b": 2}, ("a",), "x", maybe=("b",)) == {"a": 1, "b": 2}
    for wrong in ({}, {"a": 1, "c": 2}, {1: 1}, None, [("a", 1)]):
        with pytest.raises(CertificateRejected, match="x has the fields a and perhaps b"):
            fields.record(wrong, ("a",), "x", maybe=("b",))


class Unshown:
    def __repr__(self):
        raise RuntimeError("no")


def test_an_object_that_refuses_to_be_shown_is_named_by_its_type():
    with pytest.raises(CertificateRejected, match="an object of type Unshown"):
        fields.text(Unshown(), "x")


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', "NaN", "[Infinity]", "1" * 21, "[" * 100_000, "{", b"\xff"]
)
def test_json_that_is_none_is_refused_in_one_line(text):
    with pytest.raises(CertificateRejected) as caught:
        fields.read_json(text, lambda data: data)
    assert str(caught.value).isprintable()
    assert fields.read_json('{"a": [1, 2.5]}', lambda data: data) == {"a": [1, 2.5]}


def test_longer_texts_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(fields, "MAX_BYTES", 3)
    with pytest.raises(CertificateRejected, match="a certificate of 4 bytes"):
        fields.read_json("1234", lambda data: data)


@pytest.mark.parametrize(
    "error", [RecursionError, AttributeError, TypeError, ValueError, KeyError, ZeroDivisionError]
)
def test_objects_fail_in_one_way(error):
    with pytest.raises(CertificateRejected, match="not a thing"), fields.made_by_hand("thing"):
        raise error("odd")
    with pytest.raises(KeyboardInterrupt), fields.made_by_hand("thing"):
        raise KeyboardInterrupt


def test_what_is_written_is_plain():
    plain = {"a": (Fraction(1, 3), 2.5), "b": np.array([1, 2]), "c": None}
    assert fields.jsonable(plain) == {"a": ["1/3", 2.5], "b": [1, 2], "c": None}
