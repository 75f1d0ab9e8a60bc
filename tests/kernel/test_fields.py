"""What a certificate holds is read strictly: all but builtin values of limited size is refused."""

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


class Shy:
    def __repr__(self):
        raise RuntimeError("not shown")


class Mine(int):
    pass


@pytest.mark.parametrize("x", [True, 1.0, -1, 8, Mine(3), "3", None, Shy()])
def test_whole_numbers_that_are_none(x):
    with pytest.raises(
        CertificateRejected, match=r"layer is .*; a whole number from 0 to 7 is needed"
    ):
        fields.whole(x, 0, 7, "layer")


def test_whole_numbers():
    assert [fields.whole(x, 0, 7, "layer") for x in (0, 7)] == [0, 7]


@pytest.mark.parametrize(
    "x",
    [
        True,
        "1.0",
        None,
        float("nan"),
        float("inf"),
        -float("inf"),
        2**53 + 1,
        2**1024,
        -0.5,
        -1,
        np.float64(1.0),
        Shy(),
    ],
)
def test_reals_that_are_none(x):
    with pytest.raises(
        CertificateRejected, match=r"slack is .*; a finite number of at least 0 is needed"
    ):
        fields.real(x, "slack", least=0.0)


def test_reals():
    assert [fields.real(x, "slack") for x in (-1.5, 3, 2**60, 1.7e308)] == [
        -1.5,
        3.0,
        2.0**60,
        1.7e308,
    ]
    assert not np.signbit(fields.real(-0.0, "slack"))
    with pytest.raises(CertificateRejected, match="a finite number is needed"):
        fields.real(float("nan"), "slack")


@pytest.mark.parametrize(
    ("x", "why"),
    [
        *((x, "not in lowest terms") for x in ("2/4", "-0", "1/1")),
        *((x, "up to 700 digits") for x in ("01", "1/0", "0.5", " 1", "1\n", "\u0661", "1" * 701)),
        *((x, "up to 700 digits") for x in (1, 0.5, None)),
        *((x, "longer than 700") for x in (Fraction(10**700), Fraction(1, 10**700))),
    ],
)
def test_rationals_that_are_none(x, why):
    with pytest.raises(CertificateRejected, match=f"ratio is .*{why}"):
        fields.rational(x, "ratio")


def test_rationals():
    texts = ["0", "-1/3", "7", "1" * 700]
    assert [fields.rational(x, "ratio") for x in texts] == [Fraction(x) for x in texts]
    assert fields.rational(Fraction(-1, 3), "ratio") == Fraction(-1, 3)

    class Posing(Fraction):
        pass

    with pytest.raises(CertificateRejected, match="ratio is"):
        fields.rational(Posing(1, 2), "ratio")


def test_text_and_flags():
    assert fields.text("a", "kind") == "a"
    assert fields.flag(False, "minimal") is False
    with pytest.raises(CertificateRejected, match="kind is 1; text is needed"):
        fields.text(1, "kind")
    for x in (0, "false", None):
        with pytest.raises(CertificateRejected, match="true or false is needed"):
            fields.flag(x, "minimal")


@pytest.mark.parametrize(
    "x",
    [
        {1, 2},
        [True],
        [1.0],
        [-1],
        [2**40],
        np.array([-1]),
        np.array([[1]]),
        np.array([1.0]),
        np.array([2**40]),
        "12",
        None,
    ],
)
def test_units_that_are_none(x):
    with pytest.raises(CertificateRejected, match="units must be a list of unit numbers"):
        fields.indices(x, "units")


def test_units():
    given = np.array([2, 0, 2])
    found = fields.indices(given, "units")
    given[0] = 9
    assert found.tolist() == fields.indices((2, 0, 2), "units").tolist() == [2, 0, 2]
    assert (
        fields.indices([], "units").tolist()
        == fields.indices(np.zeros(0, np.intp), "units").tolist()
        == []
    )
    assert fields.units([2, 0], "units") == (2, 0)
    with pytest.raises(CertificateRejected, match="must be different units"):
        fields.units([2, 0, 2], "units")


def test_lists_and_pairs():
    assert fields.items((1, "a"), "moves") == [1, "a"]
    assert fields.pairs([(1, 2), [3, 4]], "weights") == [[1, 2], [3, 4]]
    for x in ({}, "ab", None, iter([1])):
        with pytest.raises(CertificateRejected, match="moves must be a list, not"):
            fields.items(x, "moves")
    for x in ([1], [[1, 2, 3]], ["ab"]):
        with pytest.raises(CertificateRejected, match="weights must be a list of pairs"):
            fields.pairs(x, "weights")


def test_records():
    names = ("a", "b")
    assert fields.record({"b": 1, "a": 2}, names, "it") == {"a": 2, "b": 1}
    assert fields.record({"b": 1, "a": 2, "c": 3}, names, "it", maybe=("c",))["c"] == 3
    for x in ({"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, 2: 3}, [("a", 1), ("b", 2)], None):
        with pytest.raises(CertificateRejected, match="it has the fields a, b, not"):
            fields.record(x, names, "it")
    with pytest.raises(CertificateRejected, match="a, b and perhaps c, not"):
        fields.record({}, names, "it", maybe=("c",))


def test_what_refuses_to_be_shown_is_named_by_its_type():
    with pytest.raises(CertificateRejected, match="kind is an object of type Shy"):
        fields.text(Shy(), "kind")


def test_what_is_written_is_plain():
    given = {"a": Fraction(1, 3), "b": (np.array([1, 2]), None), "c": [True, 0.5]}
    assert json.loads(json.dumps(fields.jsonable(given))) == {
        "a": "1/3",
        "b": [[1, 2], None],
        "c": [True, 0.5],
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 1}', "a field occurs twice"),
        ("NaN", "NaN is not a number"),
        ("[-Infinity]", "Infinity is not a number"),
        ("1" * 21, "is too long"),
        ("[" * 100_000, "nested too deep"),
        ("{", "not a JSON certificate"),
        (b"\xff", "not a JSON certificate"),
    ],
)
def test_json_that_is_none(text, why):
    with pytest.raises(CertificateRejected, match=why):
        fields.read_json(text, lambda x: x)


def test_json_is_read():
    assert fields.read_json('{"a": [1, 0.5, "x"]}', lambda x: x) == {"a": [1, 0.5, "x"]}


def test_files_have_a_largest_size(monkeypatch):
    monkeypatch.setattr(fields, "MAX_BYTES", 4)
    with pytest.raises(CertificateRejected, match="of 6 bytes; up to 4 are read"):
        fields.read_json("[1, 2]", lambda x: x)


@pytest.mark.parametrize(
    "error",
    [AttributeError, TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, OverflowError],
)
def test_whatever_an_object_is_made_of_the_error_is_one(error):
    with (
        pytest.raises(CertificateRejected, match=f"not a network: {error.__name__}"),
        fields.made_by_hand("network"),
    ):
        raise error("x")
    with (
        pytest.raises(CertificateRejected, match="nested too deep"),
        fields.made_by_hand("network"),
    ):
        raise RecursionError
    with pytest.raises(KeyboardInterrupt), fields.made_by_hand("network"):
        raise KeyboardInterrupt


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
