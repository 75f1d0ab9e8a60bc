"""Errors fit on one line that controls no terminal, and carry what the command line returns."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import moduli as mo
from moduli.kernel import errors
from moduli.kernel.errors import (
    ArgumentError,
    Asked,
    MissingExtra,
    ModuliError,
    Undecided,
    printable,
)


def test_one_printable_line():
    assert printable("a\n  b\tc") == "a b c"
    assert printable("a\x1b[31mb\x00") == "a?[31mb?"
    long = printable("x" * 5000)
    assert len(long) == 994
    assert long.endswith("x ...")
    assert str(mo.UnsupportedModel("a\nb\x07")) == "a b?"


@pytest.mark.parametrize(
    ("error", "code", "also"),
    [
        (mo.CertificateRejected("x"), 1, Exception),
        (mo.ShapeError("x"), 2, ValueError),
        (mo.Undecided("x"), 3, RuntimeError),
        (mo.BudgetExhausted("x"), 3, mo.Undecided),
        (mo.UnsupportedModel("x"), 4, ValueError),
        (mo.MissingExtra("torch", "torch"), 4, ImportError),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Exception) else "",
)
def test_codes_and_kinds(error, code, also):
    assert error.exit_code == code
    assert isinstance(error, mo.ModuliError)
    assert isinstance(error, also)


def test_what_they_carry():
    assert (mo.Undecided("x").lower, mo.Undecided("x", lower=1, upper=2).upper) == (None, 2)
    assert "pip install 'moduli[plot]'" in str(mo.MissingExtra("matplotlib", "plot"))


def test_the_parameters_of_a_message_stay_fields_through_places_and_processes():
    error = ArgumentError(Asked("eps", -1.0), ": positive; give ", Asked("units", 16))
    for same in (error, pickle.loads(pickle.dumps(error))):
        assert str(same) == "eps=-1.0: positive; give units=16"
        assert same.parameter == "eps"
        assert same.parts == error.parts
    placed = error.at("layer 2")
    assert (type(placed), str(placed)) == (ArgumentError, f"layer 2: {error}")
    assert placed.parameter == "eps"
    assert mo.UnsupportedModel("no parameter").parameter is None


@given(st.text(max_size=3000))
def test_every_message_is_one_line_that_controls_no_terminal(text):
    found = printable(text)
    assert found.isprintable()
    assert len(found) <= 1000
    assert str(ModuliError(text)) == found
    assert printable(found) == found


def test_every_error_is_caught_as_what_it_is():
    found = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, ModuliError)
    }
    codes = {name: kind.exit_code for name, kind in found.items()}
    assert codes == {
        "ModuliError": 2,
        "ArgumentError": 2,
        "UnsupportedModel": 4,
        "ShapeError": 2,
        "Undecided": 3,
        "BudgetExhausted": 3,
        "PrecisionExhausted": 3,
        "CertificateRejected": 1,
        "MissingExtra": 4,
    }
    for name, kind in (
        ("ArgumentError", ValueError),
        ("UnsupportedModel", ValueError),
        ("ShapeError", ValueError),
        ("Undecided", RuntimeError),
        ("MissingExtra", ImportError),
    ):
        assert issubclass(found[name], kind)
    some = Undecided("open", lower=1, upper=2.5)
    assert (some.lower, some.upper, str(some)) == (1, 2.5, "open")
    assert (
        str(MissingExtra("torch", "torch"))
        == "torch is not installed; run: pip install 'moduli[torch]'"
    )
