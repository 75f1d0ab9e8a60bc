"""The words that every question shares: what may stand there, refused in one line before the work.

A range that only one question has (a radius below some number, a size that fits) is that question's own.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypedDict, TypeVar

import numpy as np

from moduli.kernel.box import Box
from moduli.kernel.errors import ArgumentError, Asked

from .domains import ON_BOX, ON_GAUSSIAN, ON_GRID, ON_SAMPLES, Gaussian, Grid, Samples

P = ParamSpec("P")
R = TypeVar("R")


class Reading(TypedDict, total=False):
    """How a model is read where its file does not say everything; the same four in every question.

    Attributes:
        activation: of the hidden layers, one or one for each, for sources that store none (state
            dicts, pairs). keys: prefixes of the layers of a state dict, in order.
        output: name of the wanted output, where a model has several. input_shape: of one sample,
            where a model leaves it open.
    """

    activation: Any
    keys: Sequence[str] | None
    output: str | None
    input_shape: int | Sequence[int] | None


READING = tuple(Reading.__annotations__)


def no_model(reading: Mapping[str, Any]) -> None:
    """Where widths were given, options of reading a model are refused."""
    for name, value in reading.items():
        if value is not None:
            raise ArgumentError(
                Asked(name, value), " is for a model, and widths were given; leave it out"
            )


class Word(NamedTuple):
    """A shared word: whether a value may stand there, and what is said where it may not."""

    allows: Callable[[Any], bool]
    needed: tuple[str | Asked, ...]


def _number(value: Any) -> bool:
    real = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    return real and not np.isnan(float(value))


def _whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))


def _truth(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _start(value: Any) -> bool:
    return bool(_whole(value) and value >= 0)


def _seed(value: Any) -> bool:
    return isinstance(value, np.random.Generator) or _start(value)


def _sizes(value: Any) -> bool:
    several = isinstance(value, (list, tuple, np.ndarray))
    return _whole(value) or (several and all(map(_whole, value)))


def _sizes_by_name(value: Any) -> bool:
    return all(map(_whole, value.values())) if isinstance(value, Mapping) else _sizes(value)


def _domain(value: Any) -> bool:
    return value is None or isinstance(value, (Box, Gaussian, Samples))


def _domain_or_grid(value: Any) -> bool:
    return _domain(value) or isinstance(value, Grid)


def _demanded(value: Any) -> bool:
    return _domain(value) or isinstance(value, str)


def _executor(value: Any) -> bool:
    return callable(getattr(value, "submit", None))


NUMBER = Word(_number, ("a number is needed",))
WORDS = {
    "budget": Word(
        _start,
        ("a whole number of search nodes is needed, such as ", Asked("budget", 10_000)),
    ),
    "seed": Word(_seed, ("a whole number from 0 on is needed, or a numpy.random.Generator",)),
    "eps": NUMBER,
    "relative_eps": NUMBER,
    "radius": NUMBER,
    "tol": Word(_number, ("a finite non-negative number is needed",)),
    "max_slack": NUMBER,
    "ulps": NUMBER,
    "units": Word(_sizes, ("a whole number of hidden units is needed, or one for each layer",)),
    "on": Word(
        _domain,
        ("say where functions are compared: None (all inputs), ", ON_BOX, ", ", ON_GAUSSIAN, " or ",
         ON_SAMPLES),
    ),
    "executor": Word(_executor, ("a concurrent.futures.Executor is needed",)),
    "starts": Word(_start, ("a whole number of rounds from 0 on is needed",)),
    "biases": Word(_truth, ("True or False is needed",)),
    "skip": Word(_truth, ("True or False is needed",)),
    "progress": Word(
        callable,
        ("something to call with (done, total, label) is needed",),
    ),
}  # fmt: skip
START = Word(_start, ("a whole number from 0 on is needed",))
BY_NAME = Word(
    _sizes_by_name,
    ("a whole number of hidden units is needed, or one for each block by its name",),
)
GRIDDED = Word(_domain_or_grid, (*WORDS["on"].needed, " or ", ON_GRID))
DEMANDED = Word(_demanded, WORDS["on"].needed)


def checked(name: str, value: Any, word: Word) -> None:
    """Raises `ArgumentError` where a value may not stand behind a name."""
    if not word.allows(value):
        shown = Asked(name, value) if len(repr(value)) <= 80 else Asked(name, type(value))
        raise ArgumentError(shown, ": ", *word.needed)


def briefly(verb: Callable[P, R]) -> Callable[P, R]:
    """A public function of which a notebook shows one line, where a file is not there."""

    @wraps(verb)
    def asked(*args: P.args, **given: P.kwargs) -> R:
        try:
            return verb(*args, **given)
        except OSError as error:
            said = f"{type(error).__name__}: {error}"
            error._render_traceback_ = lambda: [said]  # type: ignore[attr-defined]
            raise

    return asked


def question(verb: Callable[P, R]) -> Callable[P, R]:
    """A public question: its shared words are looked at before it begins, names that it does not
    have are refused as Python does, and NumPy warns of nothing, since numbers that are too large
    are told in words.

    >>> @question
    ... def doubled(net: float, *, seed: int | np.random.Generator = 0) -> float:
    ...     return 2 * net
    >>> doubled(1.5)
    3.0
    >>> doubled(1.5, seed="x")
    Traceback (most recent call last):
    moduli.kernel.errors.ArgumentError: seed='x': a whole number from 0 on is needed, or a numpy.random.Generator
    """
    parameters = inspect.signature(verb).parameters
    reads = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    kinds = {name: str(p.annotation) for name, p in parameters.items()}
    words = {name: WORDS[name] for name in WORDS if name in parameters}
    if "str" in kinds.get("on", ""):
        words["on"] = DEMANDED
    if "Grid" in kinds.get("on", ""):
        words["on"] = GRIDDED
    if "Mapping" in kinds.get("units", ""):
        words["units"] = BY_NAME
    if "seed" in words and "Generator" not in kinds["seed"]:
        words["seed"] = START

    verb = briefly(verb)

    @wraps(verb)
    def asked(*args: P.args, **given: P.kwargs) -> R:
        for name, value in {**dict(zip(parameters, args, strict=False)), **given}.items():
            if name in words:
                if value is not None or "None" not in kinds[name]:
                    checked(name, value, words[name])
            elif name not in parameters and not (reads and name in READING):
                raise TypeError(f"{verb.__name__}() got an unexpected keyword argument {name!r}")
        with np.errstate(all="ignore"):
            return verb(*args, **given)

    return asked
