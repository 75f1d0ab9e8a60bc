"""Frames for any number of units: searches for the best bias-free students of a constant, which is
what the simplified problem S0 of `mean_field_limit` comes to; and copies and averages.

Up to d + 1 units of ReLU nothing better than the simplex was found, and among non-negative outgoing
weights nothing is. Beyond, and for other activations, what is known are results of searches:

| inputs d | units M | activation | least loss found |
|---|---|---|---|
| 2 | 4 | relu | .215576; the simplex of 3 leaves .215983 |
| 3 | 5 | relu | .154796; the simplex of 4 leaves .155951 |
| 3 | 6 | relu | .153194, no equiangular frame |
| 4 | 8 | relu | .118857, equal weights, rows with sum 0 |
| 5 | 10 | relu | .097113, equal weights, rows with sum 0 |
| 3 | 3 | gelu, silu | .215983, that of ReLU, for ever longer rows: no best student |
| 3 | 4 | gelu | at most .0607, with a unit of negative weight: no simplex |

No number of ReLU units goes below the `floor`. Where s(0) is not 0 (sigmoid, softplus) one unit without
weights is the constant, so S0 is trivial.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.activations import Activation
from moduli.kernel.errors import ArgumentError, Asked

from .fit import Fit, Goal, Pull, descend, project, simplex
from .gaussian_expectations import COARSE, MEDIUM, UnitLaw, accuracy, closed, gram, means
from .mean_field_limit import isotropic

Array = np.ndarray[Any, np.dtype[np.float64]]
STEPS = 500  # of L-BFGS from each start
ORDERS = ((0, 0), (1, 0), (2, 0), (1, 1))


class Frame(NamedTuple):
    """A bias-free student of the constant 1.

    Attributes:
        rows: ``[M, d]`` incoming weights. outer: ``[M]``. loss: E (1 - student)^2. start: what the
            search started from. found: how many of the starts came within 1e-6 of it.
    """

    rows: Array
    outer: Array
    loss: float
    start: str
    found: int


class Constant(Goal):
    """The target is the constant 1 under N(0, I); students have no biases."""

    def __init__(self, activation: Activation, inputs: int) -> None:
        self.activation = activation
        self.offset = np.zeros(inputs)
        self.units = UnitLaw(np.zeros(0), np.zeros((0, inputs)))
        self.outer = np.zeros((0, 1))
        self.variance = 1.0

    def pairs(self, count: int) -> int:
        terms, _ = accuracy(self.activation, COARSE)
        return count * (count + 1) * terms * terms

    def linear(self) -> float:
        return self.variance  # a linear map has mean 0

    def affine(self, fit: Fit) -> tuple[Array, Array]:
        return np.zeros((1, fit.units.row.shape[1])), np.zeros(1)

    def system(
        self, student: UnitLaw, *, exact: bool = False, slopes: bool = True
    ) -> tuple[Array, Array, Pull]:
        s, nodes = self.activation, MEDIUM if exact else COARSE
        own = gram(s, student, s, student, ORDERS if slopes else ORDERS[:1], nodes)
        mean, second = means(s, student, (0, 2), nodes)
        return own[0], mean[:, None], partial(self._pulled, student, own, second)

    @staticmethod
    def _pulled(
        student: UnitLaw, own: list[Array], second: Array, by_k: Array, by_r: Array
    ) -> tuple[Array, Array]:
        """By Price's theorem, as in `fit`: d E s(X) s(X') = (E s'' s) w + (E s' s') w' along a row,
        d E s(X) = (E s'') w.
        """
        both = by_k + by_k.T
        along = (both * own[2]).sum(axis=1) + by_r[:, 0] * second
        by_row = (both * own[3]) @ student.row + along[:, None] * student.row
        return np.zeros(len(student)), by_row


def best_frame(
    units: int,
    inputs: int,
    activation: str | Activation = "relu",
    *,
    starts: int = 20,
    seed: int | np.random.Generator = 0,
) -> Frame:
    """The best bias-free student of a constant that a search finds: rows, outgoing weights, loss.

    An estimate: starts are random rows of several lengths, and the simplex where there is one.

    Raises:
        ArgumentError: no units or inputs, or an activation without Gaussian expectations.

    >>> found = best_frame(3, 4, starts=2)
    >>> round(found.loss, 6)  # the simplex of three
    0.215983
    """
    s = Activation.of(activation)
    if units < 1 or inputs < 1:
        raise ArgumentError(
            Asked("units", units), " ", Asked("inputs", inputs), ": at least one of each"
        )
    if not closed(s) or s.odd:
        why = "the mean of an odd unit is 0" if s.odd else "no Gaussian expectations are known"
        raise ArgumentError(
            Asked("activation", str(s)), f": {why}, so it says nothing of constants"
        )
    goal, rng = Constant(s, inputs), np.random.default_rng(seed)
    trials = [(f"random start {k + 1}", _random(units, inputs, rng)) for k in range(starts)]
    if units <= inputs + 1:
        sizes = (1.0,) if s.homogeneous else (0.5, 1.0, 2.0, 4.0)
        trials += [(f"simplex of length {x:g}", x * simplex(units, inputs)) for x in sizes]
    found = []
    for name, rows in trials:
        moved = descend(goal, UnitLaw(np.zeros(units), rows), STEPS)
        found.append(project(goal, moved, name))
    best = min(found, key=lambda f: f.square)
    near = sum(f.square <= best.square + 1e-6 for f in found)
    return Frame(best.units.row, best.outer[:, 0], best.square, best.start, near)


def _random(units: int, inputs: int, rng: np.random.Generator) -> Array:
    rows = rng.standard_normal((units, inputs))
    length = math.exp(rng.uniform(-1.0, 1.5))
    return np.asarray(rows * length / np.linalg.norm(rows, axis=1)[:, None])


def floor(inputs: int) -> float:
    """What any number of bias-free ReLU units leaves of a constant: 1 - 1/(2 pi `isotropic`), about
    1/(2 inputs).

    A student is |x| c(x / |x|), with |x| and the direction independent: E (1 - student)^2 = 1 - 2 E|x| E
    c + d E c^2 is at least 1 - 2 E|x| E c + d (E c)^2, whatever the signs of its weights, and that at
    least 1 - (E|x|)^2 / d. Units in all directions come as near as one likes.

    >>> [round(floor(d), 3) for d in (1, 2, 10)]
    [0.363, 0.215, 0.049]
    """
    if inputs < 1:
        raise ArgumentError(Asked("inputs", inputs), ": at least 1")
    return 1 - 1 / (2 * math.pi * isotropic(inputs))


def copy_average_loss(units: int, students: int) -> float:
    """E |f - student|^2 for f the sum of `units` orthonormal erf(. / sqrt 2) units under N(0, I):
    students - 1 of them copied, one for the average of the q = units - students + 1 others.

    The one has the mean direction, length 1/sqrt(2 q - 1) and outgoing weight q, and leaves q/3 -
    (2/pi) q^2 asin(1/(2 q)). Simsek, Bendjeddou, Gerstner and Brea (2023) show that it is a critical
    point; it is not always the best student: for 6 units and 5 students searches find less.

    Raises:
        ArgumentError: no students, or more than units.

    >>> round(copy_average_loss(6, 5), 7), copy_average_loss(4, 4)
    (0.0232217, 0.0)
    """
    if not 1 <= students <= units:
        raise ArgumentError(
            Asked("students", students), f": from 1 to {units}, the units of the target"
        )
    q = units - students + 1
    if q == 1:
        return 0.0
    return q / 3 - (2 / math.pi) * q * q * math.asin(1 / (2 * q))
