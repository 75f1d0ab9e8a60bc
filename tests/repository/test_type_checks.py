"""Annotations are checked while tests run, see `tests/support/type_checks.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintParamViolation as WrongArgument
from beartype.roar import BeartypeCallHintReturnViolation as WrongResult
from jaxtyping import Float64
from type_checks import MARK, checked

from moduli.kernel import exact_numbers

if TYPE_CHECKING:
    from nowhere import Unknown


def test_modules_of_the_package_are_checked():
    loaded = [name for name in sys.modules if name.split(".")[0] == "moduli"]
    assert len(loaded) > 3
    assert all(getattr(sys.modules[name], MARK) is checked for name in loaded)
    assert not hasattr(np, MARK)
    with pytest.raises(WrongArgument):
        exact_numbers.residue("1/2", 7)


@checked
def halves(x: Float64[np.ndarray, "n 2"], y: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    return x[:, 0] if y[0] else y[1:]


def test_letters_of_shapes_mean_the_same_within_a_call():
    x, y = np.ones((3, 2)), np.ones(3)
    assert (halves(x, y) == y).all()
    with pytest.raises(WrongArgument):
        halves(x, np.ones(4))
    with pytest.raises(WrongArgument):
        halves(x.astype(np.float32), y)
    with pytest.raises(WrongResult):
        halves(x, np.zeros(3))
    assert len(halves(np.ones((4, 2)), np.ones(4))) == 4


@checked
def length(words: list[Later], known: Unknown | int = 3) -> int:
    return len(words) or "none"


@checked
@dataclass(frozen=True)
class Later:
    word: str

    @classmethod
    @checked
    def of(cls, number: int) -> Later:
        return cls(str(number))


@checked
def letters(word: str) -> Iterator[str]:
    yield from word


def test_arguments_results_fields_and_names_that_come_later():
    assert length([Later("a"), Later.of(1)]) == 2
    assert length([Later("a")], "what only a type checker knows is not looked at") == 1
    with pytest.raises(WrongArgument):
        length(["a"])
    with pytest.raises(WrongResult):
        length([])
    with pytest.raises(WrongArgument):
        Later(3)
    with pytest.raises(WrongArgument):
        Later.of("one")
    assert [*letters("ab")] == ["a", "b"]
    with pytest.raises(WrongArgument):
        [*letters(3)]


def test_declarations_stay_as_written():
    length([Later("a")])
    assert length.__annotations__["words"] == "list[Later]"
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
        with pytest.raises(WrongArgument):
            add("5")
    with pytest.raises(WrongResult):
        adder(0)(1)

    def same(k):
        @checked
        def it(x):
            return x, k

        return it

    assert [same(1)(0), same(2)(0)] == [(0, 1), (0, 2)]
