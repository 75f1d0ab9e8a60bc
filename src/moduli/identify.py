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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from . import modular
from .errors import Undecided
from .network import Network
from .polyhedra import Pieces
from .result import Result

Array = np.ndarray[Any, np.dtype[np.float64]]
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
        """Check the cells and compute both bounds again, the lower one modulo another prime (should that fail, the first)."""
        ranks = (_rank_modulo(self.pieces, prime, self.seed) for prime in reversed(modular.PRIMES))
        above = self.upper >= self.generic or self.upper >= _rank_exact(self.pieces)
        return self.pieces.check() and above and any(rank >= self.lower for rank in ranks)

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
    lower = _rank_modulo(found, modular.PRIMES[0], seed)
    upper = generic
    inputs = len(found.box.low) + 1
    if lower < generic and len(_smooth(found)) * inputs * net.widths[-1] * net.parameters <= SMALL:
        upper = _rank_exact(found)
    return Dimension("proved" if lower == upper else "bounded", lower, upper, generic, found, seed)


def _smooth(found: Pieces) -> Any:
    """Signs of cells on which no unit vanishes: elsewhere the function need not be differentiable in the parameters."""
    return found.cell_signs[(found.cell_signs != 0).all(axis=1)]


def _slopes(net: Network, signs: Sequence[int]) -> list[Array]:
    """Of the activation of each unit, by layer; floats that hold them exactly."""
    found, at = [], 0
    for n, act in zip(net.widths[1:-1], net.activations, strict=True):
        found.append(act.derivative(np.array(signs[at : at + n], dtype=np.float64)))
        at += n
    return found


def _blocks(weights: list[Any], biases: list[Any], slopes: list[Any], start: Any, times: Any) -> Any:
    """Rows d(A | c) of one cell, [outputs * (inputs + 1), parameters], in whatever arithmetic `times` multiplies."""
    h = start
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


def _jacobian(found: Pieces, number: Callable[[Array], Any], times: Callable[[Any, Any], Any]) -> Iterator[Any]:
    """Rows of each cell, in the arithmetic of `number` and `times`."""
    layers = found.network.layers
    weights, biases = [number(x.weight) for x in layers], [number(x.bias) for x in layers]
    start = number(found.start)
    for signs in _smooth(found).tolist():
        yield _blocks(weights, biases, [number(s) for s in _slopes(found.network, signs)], start, times)


def _jacobian_floats(found: Pieces) -> Array:
    blocks = _jacobian(found, lambda x: x, np.matmul)
    whole = np.concatenate([np.zeros((0, found.network.parameters)), *blocks])
    size = np.linalg.norm(whole, axis=1, keepdims=True)
    return np.asarray(whole / np.where(size > 0, size, 1.0))


def _rank_modulo(found: Pieces, prime: int, seed: int) -> int:
    """The rank of random combinations of all rows, modulo a prime: never above the rank over the rationals."""
    rng, most = np.random.default_rng(seed), found.network.parameters + 20
    basis = np.zeros((0, found.network.parameters))

    def product(a: Any, b: Any) -> Any:
        return modular.times(modular.reduced(a, prime), modular.reduced(b, prime), prime)

    for block in _jacobian(found, lambda x: modular.residues(x, prime), product):
        rows = modular.reduced(block, prime)
        basis = np.concatenate([basis, rows[rows.any(axis=1)]])
        if len(basis) > 2 * most:
            basis = _mixed(basis, most, prime, rng)
    return modular.rank(basis, prime)


def _mixed(rows: Any, count: int, prime: int, rng: np.random.Generator) -> Any:
    """So many random combinations: of the same rank, almost surely, and never of more."""
    return modular.times(rng.integers(0, prime, (count, len(rows))).astype(np.float64), rows, prime)


def _rank_exact(found: Pieces) -> int:
    """By elimination over the rationals."""
    rows: list[list[Fraction]] = []
    for block in _jacobian(found, np.vectorize(Fraction, otypes=[object]), np.matmul):
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
