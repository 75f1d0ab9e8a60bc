"""Errors: one printable line each, and what the command line returns for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moduli.kernel import errors
from moduli.kernel.errors import (
    MissingExtra,
    ModuliError,
    Undecided,
    UnsupportedModel,
    one_line,
    printable,
)


@given(st.text(max_size=3000))
def test_every_message_is_one_line_that_controls_no_terminal(text):
    found = printable(text)
    assert found.isprintable()
    assert len(found) <= 1000
    assert str(ModuliError(text)) == found
    assert printable(found) == found


def test_the_ends_of_long_messages_are_left_out():
    assert printable("x" * 1001) == "x" * 990 + " ..."
    assert printable(" a\n b\x1b[31m\u202e ") == "a b?[31m?"


def test_every_error_is_caught_as_what_it_is():
    found = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, ModuliError)
    }
    codes = {name: kind.exit_code for name, kind in found.items()}
    assert codes == {
        "ModuliError": 2,
        "UnsupportedModel": 4,
        "ShapeError": 2,
        "Undecided": 3,
        "BudgetExhausted": 3,
        "PrecisionExhausted": 3,
        "CertificateRejected": 1,
        "MissingExtra": 4,
    }
    for name, kind in (
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


@pytest.mark.parametrize(
    "error",
    [
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        RuntimeError,
        RecursionError,
    ],
)
def test_what_readers_stumble_over_names_the_file(error):
    with pytest.raises(UnsupportedModel, match=r"model\.onnx: malformed"), one_line("model.onnx"):
        raise error("odd")


def test_errors_of_the_library_keep_their_words():
    for raised, said in (
        (errors.ShapeError("two shapes"), "f: two shapes"),
        (UnsupportedModel("f: known"), "f: known"),
    ):
        with pytest.raises(UnsupportedModel) as caught, one_line("f"):
            raise raised
        assert str(caught.value) == said
    for passed in (FileNotFoundError("f"), MissingExtra("onnx", "onnx")):
        with pytest.raises(type(passed)), one_line("f"):
            raise passed
