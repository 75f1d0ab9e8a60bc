"""Tables of a terminal: nothing is padded, lost or broken that fits, at any width."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import moduli as mo
from moduli.common.tables import Columns, Labelled, Parts

WORDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=90)
TEXT = st.lists(WORDS, max_size=8).map(" ".join)
DIGEST = "sha256:" + "0123456789abcdef" * 4


def words(text: str) -> list[str]:
    return text.split()


@given(st.lists(st.tuples(WORDS, TEXT), max_size=5), TEXT, st.integers(20, 200))
def test_every_word_of_a_labelled_table_is_there_and_fits(rows, title, width):
    lines = Labelled(title, rows).text(width).splitlines()
    found = [word for line in lines for word in words(line)]
    wanted = words(title) + [w for name, value in rows for w in (*words(name), *words(value))]
    assert found == wanted
    for line in lines:
        assert line == line.rstrip()
        longest = max(map(len, words(line)), default=0)
        assert len(line) <= width or longest > width - 4, (line, width)


@given(st.lists(st.tuples(WORDS, TEXT, TEXT), min_size=1, max_size=5), st.integers(30, 200))
def test_every_cell_of_columns_is_there_in_order(rows, width):
    lines = Columns(("name", "one", "two"), rows, ("one",)).text(width).splitlines()
    shown = " ".join(lines)
    for row in rows:
        for cell in row:
            for word in words(cell):
                assert word in shown
    assert all(line == line.rstrip() for line in lines)


def test_narrow_columns_become_records():
    rows = [("a bound", "12", "of the log covering number, derived here"), ("another", "", "x")]
    grid = Columns(("bound", "value", "of"), rows, ("value",))
    assert grid.text(80).splitlines() == [
        "bound    value  of",
        "a bound     12  of the log covering number, derived here",
        "another         x",
    ]
    assert grid.text(30).splitlines() == [
        "a bound",
        "  value  12",
        "  of     of the log covering",
        "         number, derived here",
        "another",
        "  of     x",
    ]


def test_a_column_in_which_nothing_stands_is_left_out():
    assert Columns(("a", "b", "c"), [("1", "", "3")]).text(40) == "a  c\n1  3"


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 120])
def test_a_digest_is_whole(width):
    shown = Labelled("model", [("digest", DIGEST), ("note", "x")]).text(width)
    assert DIGEST in shown
    assert ("\n  " + DIGEST in shown) == (width < 8 + len(DIGEST))


def test_rich_shows_the_same_lines(capsys):
    from rich.console import Console

    table = Parts([Labelled("an answer", [("digest", DIGEST)]), Columns(("a",), [("1",)])])
    Console(width=60, soft_wrap=True).print(table)
    printed = capsys.readouterr().out
    assert [line.rstrip() for line in printed.splitlines()] == table.text(60).splitlines()


def test_real_tables_fit():
    for answer in (
        mo.complexity([3, 4, 1], samples=600),
        mo.compress(mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0])),
        mo.rank_curve(mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0]), radii=[0.0, 0.5]),
    ):
        for width in (40, 80):
            for line in answer.table().text(width).splitlines():
                assert len(line) <= width or not re.search(r"\S\s+\S", line.strip())


def test_a_record_that_a_number_names_says_of_what():
    grid = Columns(
        ["hidden units", "student", "largest units"], [["4", "~ 6.98e-02", "~ 5.48e-01"]]
    )
    first, *_ = grid.text(20).splitlines()
    assert first == "hidden units 4"
    named = Columns(["run", "student", "largest units"], [["a", "~ 6.98e-02", "~ 5.48e-01"]])
    assert named.text(20).splitlines()[0] == "a"
