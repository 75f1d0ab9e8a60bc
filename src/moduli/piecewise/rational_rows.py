"""Rows and tables of rationals: what several searches do with weights, one name each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

Row = list[Fraction]
Rational = Sequence[Fraction]


def rationals(table: Iterable[Iterable[Any]]) -> list[Row]:
    """A table of floats, exactly."""
    return [list(map(Fraction, row)) for row in table]


def column(table: Sequence[Sequence[Any]], k: int) -> list[Any]:
    return [row[k] for row in table]


def columns(table: Sequence[Sequence[Any]], count: int) -> list[list[Any]]:
    """All `count` columns of a table, which may have no rows."""
    return [column(table, k) for k in range(count)]


def dot(row: Rational, x: Rational, offset: Fraction) -> Fraction:
    """row . x + offset; zero weights, of which sparse layers have many, cost nothing."""
    return sum((w * v for w, v in zip(row, x, strict=True) if w), offset)


def times(factor: Fraction | int, row: Rational) -> Row:
    return [factor * v for v in row]


def plus(row: Rational, factor: Fraction | int, other: Rational) -> Row:
    """row + factor * other: a step of elimination."""
    return [v + factor * w for v, w in zip(row, other, strict=True)]


def outer(column: Rational, row: Rational) -> tuple[Fraction, ...]:
    """The tensor v w^T of a unit, flat: what it contributes to the linear part of its layer, and
    all of it that a sum sees.
    """
    return tuple(v * w for v in column for w in row)


def written(layers: Iterable[tuple[Iterable[Rational], Rational]]) -> list[list[Any]]:
    """Layers (weights, biases) for JSON: rationals as strings."""
    found: list[list[Any]] = []
    for weights, biases in layers:
        rows = [list(map(str, row)) for row in weights]
        found.append([rows, list(map(str, biases))])
    return found
