"""Annotations are checked while tests run, see `tests/support/type_checks.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from jaxtyping import Float64, TypeCheckError
from type_checks import MARK, checked

from moduli.kernel import exact_numbers

if TYPE_CHECKING:
    from nowhere import Unknown


def test_modules_of_the_package_are_checked():
    loaded = {name: vars(m) for name, m in sys.modules.items() if name.startswith("moduli.")}
    modules = {name: names for name, names in loaded.items() if "__path__" not in names}
    assert len(modules) > 3
    assert not [name for name, names in modules.items() if names.get(MARK) is not checked]
    assert not hasattr(np, MARK)
    with pytest.raises(TypeCheckError, match="parameter"):
        exact_numbers.residue("1/2", 7)


@checked
def halves(x: Float64[np.ndarray, "n 2"], y: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    return x[:, 0] if y[0] else y[1:]


def test_letters_of_shapes_mean_the_same_within_a_call():
    x, y = np.ones((3, 2)), np.ones(3)
    assert (halves(x, y) == y).all()
    with pytest.raises(TypeCheckError, match="parameter"):
        halves(x, np.ones(4))
    with pytest.raises(TypeCheckError, match="parameter"):
        halves(x.astype(np.float32), y)
    with pytest.raises(TypeCheckError, match="return"):
        halves(x, np.zeros(3))
    assert len(halves(np.ones((4, 2)), np.ones(4))) == 4


@checked
@dataclass(frozen=True)
class Word:
    text: str

    @classmethod
    @checked
    def of(cls, number: int) -> Word:
        return cls(str(number))


@checked
def length(words: list[Word], known: Unknown | int = 3) -> int:
    return len(words) or "none"


@checked
def letters(word: str) -> Iterator[str]:
    yield from word


def test_arguments_results_and_fields():
    assert length([Word("a"), Word.of(1)]) == 2
    assert length([Word("a")], "what only a type checker knows is not looked at") == 1
    with pytest.raises(TypeCheckError, match="parameter"):
        length(["a"])
    with pytest.raises(TypeCheckError, match="return"):
        length([])
    with pytest.raises(TypeCheckError, match="parameter"):
        Word(3)
    with pytest.raises(TypeCheckError, match="parameter"):
        Word.of("one")
    assert [*letters("ab")] == ["a", "b"]
    with pytest.raises(TypeCheckError, match="parameter"):
        [*letters(3)]


def test_declarations_stay_as_written():
    length([Word("a")])
    assert length.__annotations__["words"] == "list[Word]"
    assert length.__wrapped__.__name__ == length.__name__ == "length"


def test_functions_within_functions_keep_what_they_know():
    def adder(k):
        @checked
        def add(n: int, m: int = k) -> int:
            return k + m + n if k else "none"

        return add

    one, two = adder(1), adder(2)
    assert [one(5), two(5), one(5, 0), two(5, 0)] == [7, 9, 6, 7]
    for add in (one, two):
        with pytest.raises(TypeCheckError, match="parameter"):
            add("5")
    with pytest.raises(TypeCheckError, match="return"):
        adder(0)(1)

    def same(k):
        @checked
        def it(x):
            return x, k

        return it

    assert [same(1)(0), same(2)(0)] == [(0, 1), (0, 2)]
