"""Moves as a certificate holds them: what is written is read again, and nothing else is read."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moduli as mo
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.move import KINDS, Move

UNITS = st.lists(st.integers(0, 2**40 - 1), max_size=4)
NUMBERS = st.fractions()
ROWS = st.lists(NUMBERS, max_size=3).map(tuple)


@pytest.mark.parametrize(
    "text",
    [
        "0/5",
        "-0",
        "00/1",
        "0",
        "2/4",
        "1/01",
        "01",
        "1/-2",
        "+1",
        "1/1",
        "1/0",
        "\uff11",
        " 1",
        "1\n",
    ],
)
@pytest.mark.parametrize("kind", ["merge", "scale"])
def test_ratios_stand_in_lowest_terms_and_are_not_zero(kind, text):
    move = {
        "move": kind,
        "layer": 1,
        "units": [1],
        "ratio": text,
        **({"into": [0]} if kind == "merge" else {}),
    }
    with pytest.raises(mo.CertificateRejected, match="ratio of a"):
        Move.from_json(move)


@given(st.data())
def test_what_is_written_is_read_again(data):
    kind, names = data.draw(st.sampled_from(sorted(KINDS.items())))
    draw = data.draw
    into = np.array(draw(UNITS), dtype=np.intp) if "into" in names else None
    ratio = draw(NUMBERS.filter(bool)) if "ratio" in names else Fraction(1)
    rows = tuple(draw(st.lists(st.none() | ROWS, max_size=3))) if "rows" in names else ()
    outgoing = tuple(draw(st.lists(ROWS, max_size=3))) if "outgoing" in names else ()
    move = Move(
        kind,
        draw(st.integers(-(2**31), 2**31)),
        np.array(draw(UNITS), dtype=np.intp),
        into,
        ratio,
        rows,
        outgoing,
    )
    for again in (
        Move.from_json(json.loads(json.dumps(move.to_json()))),
        Move.from_json(move.plain()),
    ):
        assert again.to_json() == move.to_json()
        assert (again.kind, again.layer, again.ratio, again.rows, again.outgoing) == (
            kind,
            move.layer,
            ratio,
            rows,
            outgoing,
        )
    assert move.gone == (
        0
        if kind in ("scale", "permute", "tanh")
        else len(move.units) - (len(into) if kind == "block" else 0)
    )


GOOD = {"move": "merge", "layer": 1, "units": [1], "into": [0], "ratio": "1"}
BLOCK = {
    "move": "block",
    "layer": 1,
    "units": [1],
    "into": [1],
    "rows": [["1", "2"]],
    "outgoing": [["1/2"]],
}


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        "merge",
        {**GOOD, "more": 1},
        {k: v for k, v in GOOD.items() if k != "ratio"},
        {**GOOD, "move": "drop"},
        {k: v for k, v in GOOD.items() if k != "ratio"} | {"extra": 1},
        {**GOOD, "move": "remove"},
        {**GOOD, "move": 1},
        {**GOOD, "layer": True},
        {**GOOD, "layer": 1.0},
        {**GOOD, "layer": 2**31 + 1},
        {**GOOD, "units": [-1]},
        {**GOOD, "units": "1"},
        {**GOOD, "units": [True]},
        {**GOOD, "into": None},
        {**GOOD, "into": [2**40]},
        {**GOOD, "ratio": 1},
        {**GOOD, "ratio": 0.5},
        {**BLOCK, "rows": [["1", 2]]},
        {**BLOCK, "rows": "x"},
        {**BLOCK, "outgoing": [None]},
        {**BLOCK, "outgoing": [["1e3"]]},
    ],
)
def test_nothing_else_is_read(wrong):
    assert Move.from_json(GOOD).to_json() == GOOD
    assert Move.from_json(BLOCK).to_json() == BLOCK
    with pytest.raises(CertificateRejected):
        Move.from_json(wrong)


def test_moves_are_named_by_their_units():
    assert str(Move("drop", 2, np.arange(3))) == "drop of unit 0, 1, 2 in layer 2"
    assert str(Move("drop", 2, np.arange(9))) == "drop of unit 0, 1, 2, 3, ... in layer 2"
    assert str(Move("drop", 2, np.arange(0))) == "drop of unit none in layer 2"
