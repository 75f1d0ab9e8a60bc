"""Functional dimension: how many directions of parameter space a ReLU network's function can tell apart.

On a cell the outputs are A x + c with A and c polynomial in the parameters, so the functional dimension on a box is the rank of
the stacked Jacobians of (A, c) over its cells on which no unit vanishes (Grigsby, Lindsey, Meyerhoff, Wu 2022 define it by
points; coefficients are used here because points in a sliver are ill conditioned). With B_l = d out / d z_l and
h_{l-1} = H x + g on the cell,

    d(A | c) / dW_l[i, j] = B_l[:, i] (H[j] | g[j]),      d(A | c) / db_l[i] = B_l[:, i] (0 | 1).

Parameters are dyadic rationals, and a rank modulo an odd prime is never above the rank over the rationals: one elimination
modulo a prime proves the lower bound. The upper bound is the number of parameters less that of hidden units (scaling), or the
exact rank by elimination over the rationals where the matrix is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from .network import Network
from .polyhedra import Cell, Pieces
from .result import Result

Array = np.ndarray[Any, np.dtype[np.float64]]
PRIME = 2**31 - 1
SMALL = 40_000  # entries that are eliminated over the rationals


@dataclass(frozen=True, eq=False, repr=False)
class Dimension(Result):
    """The functional dimension of a network on a box.

    Attributes:
        lower, upper: proved. generic: parameters less hidden units, the most it can be. pieces: the cells it was computed on.
    """

    lower: int
    upper: int
    generic: int
    pieces: Pieces
    seed: int = 0
    kind: ClassVar[str] = "dimension"

    @property
    def exact(self) -> bool:
        return self.lower == self.upper

    def __int__(self) -> int:
        from .errors import Undecided

        if not self.exact:
            raise Undecided(f"functional dimension between {self.lower} and {self.upper}", lower=self.lower, upper=self.upper)
        return self.lower

    @cached_property
    def null_space(self) -> Array:
        """Directions of parameters that change nothing to first order, [count, parameters], orthonormal (floats)."""
        values, rows = np.linalg.svd(_jacobian_floats(self.pieces), full_matrices=True)[1:]
        rank = self.lower if self.exact else int((values > 1e-9 * values[0]).sum()) if len(values) else 0
        return np.asarray(rows[rank:])

    def check(self) -> bool:
        """Compute the lower bound again, modulo another prime."""
        return _rank_modulo(self.pieces, 2**31 - 19, self.seed + 1) <= self.upper and self.pieces.check()

    @property
    def statement(self) -> str:
        value = str(self.lower) if self.exact else f"between {self.lower} and {self.upper}"
        return f"functional dimension {value} of at most {self.generic} ({self.pieces.network.parameters} parameters)"

    def rows(self) -> list[tuple[str, str]]:
        net = self.pieces.network
        return [
            ("network", repr(net)), ("in", repr(self.pieces.box)), ("cells", str(self.pieces.cells)),
            ("functional dimension", f"= {self.lower}" if self.exact else f"{self.lower} <= . <= {self.upper}"),
            ("parameters less units", str(self.generic)), ("directions lost", str(self.generic - self.upper)),
        ]  # fmt: skip

    def data(self) -> dict[str, Any]:
        return {
            "lower": self.lower, "upper": self.upper, "exact": self.exact, "generic": self.generic,
            "cells": self.pieces.cells, "digest": self.pieces.network.digest,
        }  # fmt: skip


def dimension(found: Pieces, seed: int) -> Dimension:
    """See `solve.dimension`."""
    net = found.network
    hidden = sum(n for n, s in zip(net.widths[1:-1], net.activations, strict=True) if s.homogeneous)
    generic = net.parameters - hidden
    lower = _rank_modulo(found, PRIME, seed)
    upper = generic
    inputs = len(found.box.low) + 1
    if lower < generic and len(_smooth(found)) * inputs * net.widths[-1] * net.parameters <= SMALL:
        upper = _rank_exact(found)
    return Dimension("proved" if lower == upper else "bounded", lower, upper, generic, found, seed)


def _smooth(found: Pieces) -> list[Cell]:
    """Cells on which no unit vanishes: elsewhere the function need not be differentiable in the parameters."""
    return [cell for cell in found.complex if 0 not in cell.signs]


def _slopes(net: Network, signs: Sequence[int]) -> list[list[Fraction]]:
    """Of the activation of each unit, by layer."""
    found, at = [], 0
    for n, act in zip(net.widths[1:-1], net.activations, strict=True):
        below = act.exact(Fraction(-1))
        found.append([Fraction(1) if s > 0 else -(below or Fraction(0)) for s in signs[at : at + n]])
        at += n
    return found


def _blocks(weights: list[Any], biases: list[Any], slopes: list[Any], start: tuple[Any, Any], times: Any) -> Any:
    """Rows d(A | c) of one cell, [outputs * (inputs + 1), parameters], in whatever arithmetic `times` multiplies."""
    h = np.concatenate(start, axis=1)
    read, gates = [h], []
    for w, b, s in zip(weights[:-1], biases[:-1], slopes, strict=True):
        z = times(w, h)
        z[:, -1] += b
        h = times(np.diag(s), z)
        read.append(h)
        gates.append(s)
    back = np.eye(len(biases[-1]), dtype=weights[-1].dtype) * 1
    parts: list[Any] = []
    for l in reversed(range(len(weights))):
        feature = read[l]
        one = np.zeros((1, feature.shape[1]), dtype=feature.dtype)
        one[0, -1] = 1
        row = np.concatenate([feature, one])  # features, then the constant that the bias sees
        block = back[:, None, :, None] * row.T[None, :, None, :]  # output, coefficient, unit, feature
        weight, bias = block[..., :-1], block[..., -1]
        shape = (block.shape[0] * block.shape[1], -1)
        parts[:0] = [weight.reshape(shape), bias.reshape(shape)]
        if l:
            back = times(times(back, weights[l]), np.diag(gates[l - 1]))
    return np.concatenate(parts, axis=1)


def _start(found: Pieces) -> tuple[list[list[Fraction]], list[list[Fraction]]]:
    """The inputs as affine maps of the coordinates of the box or slice."""
    inputs = found.network.widths[0]
    if found.slice is None:
        return [[Fraction(int(i == j)) for j in range(inputs)] for i in range(inputs)], [[Fraction(0)] for _ in range(inputs)]
    origin, *directions = ([Fraction(v) for v in part.tolist()] for part in found.slice)
    return [[u[i] for u in directions] for i in range(inputs)], [[origin[i]] for i in range(inputs)]


def _jacobian_floats(found: Pieces) -> Array:
    net = found.network
    start = tuple(np.array(part, dtype=np.float64) for part in _start(found))
    weights, biases = [x.weight for x in net.layers], [x.bias for x in net.layers]
    rows = []
    for cell in _smooth(found):
        slopes = [np.array(s, dtype=np.float64) for s in _slopes(net, cell.signs)]
        rows.append(_blocks(weights, biases, slopes, (start[0], start[1]), np.matmul))
    whole = np.concatenate([np.zeros((0, net.parameters)), *rows]).astype(np.float64)
    size = np.linalg.norm(whole, axis=1, keepdims=True)
    return np.asarray(whole / np.where(size > 0, size, 1.0))


def _rank_modulo(found: Pieces, prime: int, seed: int) -> int:
    """The rank of random combinations of all rows, modulo a prime: never above the rank over the rationals."""
    net = found.network

    def reduced(rows: Any) -> Any:
        return np.array([[q.numerator * pow(q.denominator, -1, prime) % prime for q in row] for row in rows], dtype=np.int64)

    def times(a: Any, b: Any) -> Any:
        out = np.zeros((a.shape[0], b.shape[1]), dtype=np.int64)
        for k in range(a.shape[1]):
            out = (out + a[:, k, None] * b[None, k]) % prime
        return out

    def exact(array: Array) -> list[list[Fraction]]:
        return [[Fraction(v) for v in row] for row in np.atleast_2d(array).tolist()]

    weights = [reduced(exact(x.weight)).reshape(x.weight.shape) for x in net.layers]
    biases = [reduced(exact(x.bias))[0] if len(x.bias) else np.zeros(0, np.int64) for x in net.layers]
    start = tuple(reduced(part) for part in _start(found))
    rng, most = np.random.default_rng(seed), net.parameters + 20
    basis = np.zeros((0, net.parameters), dtype=np.int64)
    for cell in _smooth(found):
        slopes = [reduced([s])[0] if s else np.zeros(0, np.int64) for s in _slopes(net, cell.signs)]
        rows = _blocks(weights, biases, slopes, (start[0], start[1]), lambda a, b: times(a % prime, b % prime)) % prime
        basis = np.concatenate([basis, rows[rows.any(axis=1)]])
        if len(basis) > 2 * most:
            basis = _mixed(basis, most, prime, rng)
    return _eliminate(basis, prime)


def _mixed(rows: Any, count: int, prime: int, rng: np.random.Generator) -> Any:
    """So many random combinations: of the same rank, almost surely, and never of more."""
    out = np.zeros((count, rows.shape[1]), dtype=np.int64)
    for row in rows:
        out = (out + rng.integers(0, prime, (count, 1)) * row) % prime
    return out


def _eliminate(matrix: Any, prime: int) -> int:
    a, rank = matrix.copy(), 0
    for column in range(a.shape[1]):
        pivots = np.flatnonzero(a[rank:, column])
        if not len(pivots):
            continue
        a[[rank, rank + pivots[0]]] = a[[rank + pivots[0], rank]]
        a[rank] = a[rank] * pow(int(a[rank, column]), -1, prime) % prime
        below = rank + 1 + np.flatnonzero(a[rank + 1 :, column])
        a[below] = (a[below] - a[below, column, None] * a[rank]) % prime
        rank += 1
        if rank == len(a):
            break
    return rank


def _rank_exact(found: Pieces) -> int:
    """By elimination over the rationals."""
    net = found.network

    def exact(array: Any) -> Any:
        out = np.empty(np.shape(array), dtype=object)
        out.ravel()[:] = [Fraction(v) for v in np.asarray(array, dtype=object).ravel()]
        return out

    start = tuple(exact(part) for part in _start(found))
    weights, biases = (
        [exact(x.weight.tolist()).reshape(x.weight.shape) for x in net.layers],
        [exact(x.bias.tolist()) for x in net.layers],
    )
    rows: list[list[Fraction]] = []
    for cell in _smooth(found):
        block = _blocks(weights, biases, [exact(s) for s in _slopes(net, cell.signs)], (start[0], start[1]), lambda a, b: a @ b)
        for row in block.tolist():
            row = _reduced_by(list(map(Fraction, row)), rows)
            if any(row):
                rows.append(row)
    return len(rows)


def _reduced_by(row: list[Fraction], rows: list[list[Fraction]]) -> list[Fraction]:
    for other in rows:
        lead = next(k for k, v in enumerate(other) if v)
        if row[lead]:
            factor = row[lead] / other[lead]
            row = [v - factor * w for v, w in zip(row, other, strict=True)]
    return row
