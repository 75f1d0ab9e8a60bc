"""Fewer hidden units with the least mean square error: variable projection from several starts.

For fixed incoming weights the best outgoing ones solve a linear system, (K + ridge) V = R with K
the Gram matrix of the student's units and R their products with the target. What is left is a
smooth function of the incoming weights, minimised with its exact gradient by L-BFGS. Under a
Gaussian K and R are closed forms (`gaussian_expectations`), on samples sums.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import count as counted
from typing import Any, NamedTuple

import numpy as np

from moduli.common.progress import Progress
from moduli.kernel.activations import Activation

from .closed_form import ShallowNetwork, inner
from .gaussian_expectations import COARSE, MEDIUM, UnitLaw, accuracy, gram, means

Array = np.ndarray[Any, np.dtype[np.float64]]
RIDGE = 1e-9
FAR = 1e100  # incoming weights beyond are no candidates: products of their squares leave the range of floats
TRIAL = 30  # steps after which the best of several attempts goes on
ITERATIONS = 300  # steps of L-BFGS at most
CANDIDATES = 4096  # units of the teacher that may become units of the student
ROWS = 64  # units of the student at a time
PAIRS = 4 * 10**8
ORDERS = ((0, 0), (1, 0), (2, 0), (1, 1))
Pull = Callable[[Array, Array], tuple[Array, Array]]


class Goal(ABC):
    """What the student's centred outputs are fitted to.

    Attributes:
        activation: of the student. units: candidates for its units. outer: ``[candidates, out]``
            their weights in the target.
        variance: sum over outputs of the target's variance (what a linear map explains taken out
            where there is a skip; without biases, of its mean square).
        offset: ``[k]``, of students without biases: the mean of whitened inputs, so that a unit with
            this row has pre-activations of mean row @ offset. None where units have biases.
    """

    activation: Activation
    units: UnitLaw
    outer: Array
    variance: float
    offset: Array | None = None

    def admissible(self, units: UnitLaw) -> UnitLaw:
        """The same units, without their biases where students have none."""
        return units if self.offset is None else UnitLaw(units.row @ self.offset, units.row)

    @abstractmethod
    def system(
        self, student: UnitLaw, *, exact: bool = False, slopes: bool = True
    ) -> tuple[Array, Array, Pull]:
        """K ``[M, M]``, R ``[M, out]`` and, where slopes are wanted, what takes derivatives by K
        and R to means and rows.
        """

    @abstractmethod
    def pairs(self, count: int) -> int:
        """What one iteration with `count` units costs, in kernel evaluations or what takes as long."""

    @abstractmethod
    def linear(self) -> float:
        """The error of the best affine map."""

    def at_most(self, fit: Fit) -> float:
        """The mean square error of a fit, with what rounding may have hidden of it."""
        return fit.square

    @abstractmethod
    def affine(self, fit: Fit) -> tuple[Array, Array]:
        """What the student adds to its units: a map ``[out, k]`` of the whitened inputs (zero
        without skip), a bias.
        """


class Population(Goal):
    """The target is a network with one hidden layer, the law of its inputs is Gaussian.

    Without `biases`: the student has none, neither hidden nor at its output, and errors count the
    mean as well.

    Args:
        center: ``[k]``, without biases: the mean of the whitened inputs, `Whitening.center`; by
            default 0.
    """

    def __init__(
        self,
        target: ShallowNetwork,
        skip: bool = False,
        biases: bool = True,
        center: Array | None = None,
    ) -> None:
        self.target, self.skip, self.biases = target, skip, float(biases)
        self.activation, self.outer = target.activation, target.outer
        if not biases:
            self.offset = np.zeros(target.units.row.shape[1]) if center is None else center
        self.units = self.admissible(target.units)
        self.slope = _slope(self.activation, target.units, self.outer)
        mean = target.mean(MEDIUM)
        total, self.rounding = inner(target, target, MEDIUM)
        if (
            total <= self.rounding
        ):  # a constant, as far as can be seen: which part of the rounding units explain says nothing
            total = 0.0
        total += (1 - self.biases) * float(mean @ mean)
        explained = float(np.square(self.slope).sum())
        if self.offset is not None:  # E f (z + c)', and (I + c c')^-1 = I - c c' / (1 + |c|^2)
            cross = self.slope + np.outer(mean, self.offset)
            along = float(np.square(cross @ self.offset).sum())
            explained = float(np.square(cross).sum()) - along / (
                1 + float(self.offset @ self.offset)
            )
        self.left = max(0.0, total - explained)
        self.variance = self.left if skip else total

    def pairs(self, count: int) -> int:
        terms, _ = accuracy(self.activation, COARSE)
        return count * (count + len(self.units)) * terms * terms

    def linear(self) -> float:
        return self.left

    def at_most(self, fit: Fit) -> float:
        student = ShallowNetwork(
            self.activation, fit.units, fit.outer, np.zeros(fit.outer.shape[1])
        )
        rounding = 2 * (
            self.rounding + inner(student, student, MEDIUM)[1]
        )  # of twice the product of both: at most as much
        slip = self.target.slip() + self.target.reach(MEDIUM) + student.reach(MEDIUM)
        return (math.sqrt(fit.square + rounding) + slip) ** 2

    def affine(self, fit: Fit) -> tuple[Array, Array]:
        """What the student adds to its units: a map ``[out, k]`` of the whitened inputs (zero
        without skip), a bias.
        """
        (mean,) = means(self.activation, fit.units, (0,), MEDIUM)
        bias = self.biases * (self.target.mean(MEDIUM) - mean @ fit.outer)
        slope = self.slope - _slope(self.activation, fit.units, fit.outer)
        return slope if self.skip else 0 * slope, bias

    def system(
        self, student: UnitLaw, *, exact: bool = False, slopes: bool = True
    ) -> tuple[Array, Array, Pull]:
        s, nodes, orders = (
            self.activation,
            MEDIUM if exact else COARSE,
            ORDERS if slopes else ORDERS[:1],
        )
        own = gram(s, student, s, student, orders, nodes)
        cross = gram(s, student, s, self.target.units, orders, nodes)
        s0, s1, s2, s3 = means(s, student, (0, 1, 2, 3), nodes)
        mean, tilt = means(s, self.target.units, (0, 1), nodes)
        # With biases both are centred; without, the output bias of the target is to be met as well.
        shift = mean @ self.outer if self.biases else -self.target.bias
        slope = (self.outer * tilt[:, None]).T @ self.target.units.row
        k = own[0] - self.biases * np.outer(s0, s0)
        r = cross[0] @ self.outer - np.outer(s0, shift)
        linear = student.row * s1[:, None]
        if self.skip:
            k, r = k - linear @ linear.T, r - linear @ slope.T
        return k, r, _Adjoint(self, student, own, cross, shift, slope, linear, s0, s1, s2, s3)


@dataclass(frozen=True, eq=False)
class _Adjoint:
    """From derivatives G by K and H by R to those by the student's means m ``[M]`` and rows w ``[M,
    k]``.

    With X_i = m_i + w_i z, Y_j those of the target and S_k = E s^(k)(X):

        K = E s(X) s(X)' - S_0 S_0' - L L',   R = E s(X) s(Y)' V - S_0 shift' - L slope',   L = diag(S_1) w

    (without biases K without S_0 S_0', and shift is minus the output bias; without skip L = 0).
    Price's theorem gives the derivatives of an expectation: by the mean of X that of order (1, 0), by
    its variance |w_i|^2 half of (2, 0), by a covariance <w_i, w_j> that of (1, 1). So

        d/dm_i E s(X_i) s(X_j) = E s' s,      d/dw_i E s(X_i) s(X_j) = (E s'' s) w_i + (E s' s') w_j
        d/dm_i S_k = S_{k+1},                 d/dw_i S_k = S_{k+2} w_i

    and the chain rule the rest; K is symmetric, so G counts with its transpose.
    `test_fit.py::test_gradients` compares with differences.

    Attributes:
        own, cross: expectations ``[M, M]``, ``[M, target]`` of orders (0, 0), (1, 0), (2, 0), (1,
            1). shift: ``[out]``.
        slope: ``[out, k]``. linear: L ``[M, k]``. s0 to s3: S_k ``[M]``.
    """

    goal: Population
    student: UnitLaw
    own: list[Array]
    cross: list[Array]
    shift: Array
    slope: Array
    linear: Array
    s0: Array
    s1: Array
    s2: Array
    s3: Array

    def __call__(self, by_k: Array, by_r: Array) -> tuple[Array, Array]:
        goal, row = self.goal, self.student.row
        both = by_k + by_k.T
        by_s0 = -(goal.biases * (both @ self.s0) + by_r @ self.shift)
        by_mean = (both * self.own[1]).sum(axis=1) + by_s0 * self.s1
        along_row = (both * self.own[2]).sum(axis=1) + by_s0 * self.s2  # what multiplies w_i itself
        by_row = (both * self.own[3]) @ row
        for top in range(0, len(self.student), ROWS):
            at = slice(top, top + ROWS)
            by_product = by_r[at] @ goal.outer.T  # by E s(X) s(Y)'
            by_mean[at] += (by_product * self.cross[1][at]).sum(axis=1)
            along_row[at] += (by_product * self.cross[2][at]).sum(axis=1)
            by_row[at] += (by_product * self.cross[3][at]) @ goal.target.units.row
        by_row += along_row[:, None] * row
        if goal.skip:
            by_linear = -(both @ self.linear) - by_r @ self.slope
            by_s1 = (by_linear * row).sum(axis=1)
            by_mean = by_mean + by_s1 * self.s2
            by_row = by_row + by_linear * self.s1[:, None] + (by_s1 * self.s3)[:, None] * row
        return by_mean, by_row


def _slope(s: Activation, units: UnitLaw, outer: Array) -> Array:
    """The linear part of a network in whitened inputs: ``[out, k]``."""
    (tilt,) = means(s, units, (1,), MEDIUM)
    return np.asarray((outer * tilt[:, None]).T @ units.row)


class Empirical(Goal):
    """The target's outputs on samples; inputs whitened.

    Args:
        center: where the student has no biases, see `Population`.
    """

    def __init__(
        self,
        z: Array,
        values: Array,
        activation: Activation,
        units: UnitLaw,
        outer: Array,
        skip: bool = False,
        center: Array | None = None,
    ) -> None:
        self.z, self.activation, self.outer, self.skip, self.raw = (
            z,
            activation,
            outer,
            skip,
            values,
        )
        self.offset = center
        self.units = self.admissible(units)
        basis = np.column_stack([np.ones(len(z)), z]) if center is None else z + center
        self.basis = np.linalg.qr(basis)[0] if basis.shape[1] < len(z) else np.eye(len(z))
        self.values = self._free(values)
        self.variance = float(np.square(self.values).mean(axis=0).sum())
        rest = values - self.basis @ (self.basis.T @ values)
        self.left = float(np.square(rest).mean(axis=0).sum())

    def _free(self, h: Array) -> Array:
        """Without what a constant (or, beside a skip, an affine map) explains; with biases only."""
        if self.offset is not None:
            return h
        explained = self.basis @ (self.basis.T @ h) if self.skip else h.mean(axis=0)
        return np.asarray(h - explained)

    def affine(self, fit: Fit) -> tuple[Array, Array]:
        if self.offset is not None:
            outputs = self.raw.shape[1]
            return np.zeros((outputs, self.z.shape[1])), np.zeros(outputs)
        rest = self.raw - self.activation(self.z @ fit.units.row.T + fit.units.mean) @ fit.outer
        slope = np.zeros((rest.shape[1], self.z.shape[1]))
        if self.skip:
            slope = np.linalg.lstsq(
                self.z - self.z.mean(axis=0), rest - rest.mean(axis=0), rcond=None
            )[0].T
        return slope, np.asarray(rest.mean(axis=0) - slope @ self.z.mean(axis=0))

    def pairs(self, count: int) -> int:
        columns: int = self.z.shape[1] + self.values.shape[1]
        return max(1, count * len(self.z) * (50 + columns + count) // 400)

    def linear(self) -> float:
        return self.left

    def system(
        self, student: UnitLaw, *, exact: bool = False, slopes: bool = True
    ) -> tuple[Array, Array, Pull]:
        pre = self.z @ student.row.T + student.mean
        h, n = self._free(self.activation(pre)), len(self.z)
        return h.T @ h / n, h.T @ self.values / n, partial(self._pulled, pre, h)

    def _pulled(self, pre: Array, h: Array, gk: Array, gr: Array) -> tuple[Array, Array]:
        """Gradients for means and rows, from G and H for K = h'h / n and R = h'values / n."""
        back = (
            (h @ (gk + gk.T) + self.values @ gr.T) * self.activation.derivative(pre) / len(self.z)
        )
        return back.sum(axis=0), back.T @ self.z


class Fit(NamedTuple):
    """Units of a student, its outgoing weights ``[M, out]`` and its mean square error."""

    units: UnitLaw
    outer: Array
    square: float
    start: str = ""


def project(goal: Goal, units: UnitLaw, start: str = "") -> Fit:
    """The best outgoing weights for given units, and the error (not of the ridge, but of these
    weights).

    Units that are constant where the error is measured get none.
    """
    if not len(units):
        return Fit(units, np.zeros((0, goal.outer.shape[1])), goal.variance, start)
    k, r, _ = goal.system(units, exact=True, slopes=False)
    spread = np.diag(k)
    size = np.where(
        spread.astype(bool) | r.any(axis=1), np.sqrt(np.maximum(spread, 1e-300)), np.inf
    )
    values, vectors = np.linalg.eigh(k / np.outer(size, size))
    keep = values > 1e-11 * values[-1]
    v = (
        (vectors[:, keep] / values[keep])
        @ (vectors[:, keep].T @ (r / size[:, None]))
        / size[:, None]
    )
    square = goal.variance - 2 * float((v * r).sum()) + float((v * (k @ v)).sum())
    return Fit(units, v, max(0.0, square), start)


def descend(
    goal: Goal, start: UnitLaw, iterations: int, progress: Progress | None = None
) -> UnitLaw:
    """L-BFGS on the incoming weights, the outgoing ones eliminated."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    shape, scale = start.row.shape, 1.0
    homogeneous, offset = goal.activation.homogeneous, goal.offset

    def packed(row: Array, mean: Array) -> Array:
        """Rows and biases; without biases, rows alone."""
        return row if offset is not None else np.column_stack([row, mean])

    def unpack(theta: Array) -> tuple[UnitLaw, Array]:
        full = theta.reshape(shape[0], -1)
        size = np.sqrt(np.square(full).sum(axis=1)) if homogeneous else np.ones(shape[0])
        size = np.maximum(size, 1e-100)
        full = full / size[:, None]
        if offset is not None:
            return UnitLaw(full @ offset, np.ascontiguousarray(full)), size
        return UnitLaw(np.ascontiguousarray(full[:, -1]), np.ascontiguousarray(full[:, :-1])), size

    def value(theta: Array) -> tuple[float, Array]:
        if not (np.abs(theta) < FAR).all():  # a step along a slope that is rounding over rounding
            return math.inf, np.zeros(theta.size)
        units, size = unpack(theta)
        k, r, pull = goal.system(units)
        diagonal = np.diag(k)
        k = k + np.diag(RIDGE * diagonal + 1e-14 * diagonal.max() + 1e-280)
        try:
            v = cho_solve(cho_factor(k), r)
        except np.linalg.LinAlgError:
            return math.inf, np.zeros(theta.size)
        # The error variance - <R, V> with V = K^-1 R: its differential is <V V', dK> - 2 <V, dR>,
        # without that of V.
        with np.errstate(over="ignore", invalid="ignore"):
            gk = v @ v.T
            gk[np.diag_indices(len(gk))] *= 1 + RIDGE  # the ridge is a share of K's diagonal
            dm, dr = pull(gk, -2 * v)
            if offset is not None:
                dr = dr + np.outer(dm, offset)
        g = packed(dr, dm)
        if not np.isfinite(g).all():  # outgoing weights of a matrix that is all but zero
            return math.inf, np.zeros(theta.size)
        if homogeneous:
            point = packed(units.row, units.mean)
            # The function knows only the direction of (w, m): the gradient of a function of theta /
            # |theta|.
            g = (g - (g * point).sum(axis=1)[:, None] * point) / size[:, None]
        return (goal.variance - float((r * v).sum())) / scale, g.ravel() / scale

    steps = counted(1)

    def told(_: Array) -> None:
        if progress is not None:
            progress(next(steps), iterations, "iterations")

    memory = 20 if start.row.size < 10**5 else 8
    options = {
        "maxiter": iterations,
        "maxcor": memory,
        "ftol": 1e-7,
        "gtol": 1e-12,
        "maxfun": 2 * iterations,
    }
    first = unpack(packed(start.row, start.mean).ravel())[0]
    theta = packed(first.row, first.mean).ravel()
    scale = max(abs(value(theta)[0]), 1e-12 * goal.variance, 1e-280)
    return unpack(
        minimize(value, theta, jac=True, method="L-BFGS-B", callback=told, options=options).x
    )[0]


def pursuit(goal: Goal, count: int) -> tuple[Any, Array]:
    """Orthogonal matching pursuit among the target's own units: their indices, and the error after
    each.

    Stops where no unit adds anything.
    """
    pick = _candidates(goal)
    k, r, _ = goal.system(goal.units[pick], slopes=False)
    return _pursue(k, r, goal.variance, count, pick)


def _pursue(k: Array, r: Array, variance: float, count: int, pick: Any) -> tuple[Any, Array]:
    # Cholesky steps: `basis` holds the columns of the chosen units, made orthonormal, `left` and r
    # what they leave over.
    left, start, r = np.diag(k).copy(), np.diag(k).copy(), r.copy()
    basis = np.zeros((len(k), min(count, len(k))))
    chosen: list[int] = []
    errors = []
    for step in range(basis.shape[1]):
        free = left > 1e-11 * np.maximum(start, 1e-300)
        gain = np.where(free, np.square(r).sum(axis=1) / np.where(free, left, 1.0), -1.0)
        gain[chosen] = -1.0
        at = int(gain.argmax())
        if gain[at] <= 0:
            break
        root = math.sqrt(left[at])
        column = (k[:, at] - basis[:, :step] @ basis[at, :step]) / root
        share = r[at] / root
        basis[:, step], variance = column, variance - float(share @ share)
        left, r = left - column**2, r - np.outer(column, share)
        chosen.append(at)
        errors.append(max(0.0, variance))
    return pick[chosen], np.array(errors)


def _candidates(goal: Goal) -> Any:
    """The target's units, or those with the largest part in it where there are many."""
    if len(goal.units) <= CANDIDATES:
        return np.arange(len(goal.units))
    weight = np.linalg.norm(goal.outer, axis=1) * np.sqrt(goal.units.variance + goal.units.mean**2)
    return np.sort(np.argsort(-weight, kind="stable")[:CANDIDATES])


def starts(goal: Goal, count: int, rng: np.random.Generator) -> dict[str, UnitLaw]:
    """Units to start from, by name."""
    chosen, _ = pursuit(goal, count)
    found = {"pursuit": _filled(goal, chosen, count, rng)}
    found["k-means"] = kmeans(goal, count, rng)
    found["random"] = goal.units[np.sort(rng.permutation(len(goal.units))[:count])]
    width = goal.units.row.shape[1]
    if goal.activation.bound is None and 2 <= count <= width + 1:
        size = float(np.sqrt(goal.units.variance).mean()) or 1.0
        turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
        mean = np.full(
            count,
            float(np.average(goal.units.mean, weights=np.abs(goal.outer).sum(axis=1) + 1e-300)),
        )
        found["frame"] = goal.admissible(UnitLaw(mean, size * simplex(count, width) @ turn))
    return found


def simplex(count: int, width: int) -> Array:
    """Unit vectors with pairwise products -1/(count - 1): ``[count, width]``, count <= width + 1."""
    centred = np.eye(count) - 1 / count
    basis = np.linalg.svd(centred)[2][: count - 1]
    frame = np.zeros((count, width))
    frame[:, : count - 1] = math.sqrt(count / (count - 1)) * centred @ basis.T if count > 1 else 0.0
    if count == 1:
        frame[0, 0] = 1.0
    return frame


def _filled(goal: Goal, chosen: Any, count: int, rng: np.random.Generator) -> UnitLaw:
    rest = np.setdiff1d(np.arange(len(goal.units)), chosen)
    return goal.units[
        np.concatenate([chosen, rng.permutation(rest)[: count - len(chosen)]]).astype(int)
    ]


def kmeans(goal: Goal, count: int, rng: np.random.Generator, rounds: int = 50) -> UnitLaw:
    """Centres of the target's units, weighted by their part in it; up to scale and sign where the
    activation allows.
    """
    points = np.column_stack([goal.units.row, goal.units.mean])
    weight = np.linalg.norm(goal.outer, axis=1)
    if goal.activation.homogeneous:
        size = np.linalg.norm(points, axis=1)
        points, weight = points / np.where(size > 0, size, 1.0)[:, None], weight * size
    if goal.activation.symmetric:
        lead = points[np.arange(len(points)), np.abs(points).argmax(axis=1)]
        points = points * np.where(lead < 0, -1.0, 1.0)[:, None]
    weight = weight + 1e-12 * (weight.max() or 1.0)
    centres = points[[int(rng.choice(len(points), p=weight / weight.sum()))]]
    for _ in range(count - 1):  # k-means++
        gap = _gaps(points, centres).min(axis=1) * weight
        at = (
            int(rng.choice(len(points), p=gap / gap.sum()))
            if gap.sum() > 0
            else int(rng.integers(len(points)))
        )
        centres = np.concatenate([centres, points[[at]]])
    for _ in range(rounds):
        nearest = _gaps(points, centres).argmin(axis=1)
        total = np.zeros(count)
        np.add.at(total, nearest, weight)
        moved = np.zeros(centres.shape)
        np.add.at(moved, nearest, points * weight[:, None])
        new = np.where(
            total[:, None] > 0, moved / np.where(total > 0, total, 1.0)[:, None], centres
        )
        if np.array_equal(new, centres):
            break
        centres = new
    found = UnitLaw(np.ascontiguousarray(centres[:, -1]), np.ascontiguousarray(centres[:, :-1]))
    return goal.admissible(found)


def largest(goal: Goal, count: int, rng: np.random.Generator) -> UnitLaw:
    """The target's units with the largest weights: magnitude pruning."""
    size = np.linalg.norm(goal.outer, axis=1) * np.sqrt(goal.units.variance + goal.units.mean**2)
    return goal.units[np.sort(np.argsort(-size, kind="stable")[:count])]


def _gaps(points: Array, centres: Array) -> Array:
    square = np.square(points).sum(axis=1)[:, None] + np.square(centres).sum(axis=1)[None, :]
    return np.asarray(np.maximum(square - 2 * points @ centres.T, 0.0))


def fit(
    goal: Goal,
    count: int,
    rng: np.random.Generator,
    more: Sequence[tuple[str, UnitLaw]] = (),
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Fit:
    """The best student with `count` units that was found: every start a short way, the best one to
    the end.

    Where an iteration takes long there are fewer, so that all of them take about `PAIRS`
    evaluations of a kernel.
    """
    if count >= len(goal.units) and not more:
        return project(goal, goal.units, "target")
    if not count or goal.variance <= 0:
        return project(goal, goal.units[:0])
    steps = max(20, min(ITERATIONS, PAIRS // goal.pairs(count)))
    trials = {**starts(goal, count, rng), **dict(more)}
    if steps < ITERATIONS:
        trials = {name: trials[name] for name in ("pursuit", "k-means")}
    attempt = partial(_attempt, goal, TRIAL * steps // ITERATIONS)
    mapped = executor.map if executor else map
    short = list(mapped(attempt, trials.items()))
    best = min(short, key=lambda f: f.square)
    last = project(goal, descend(goal, best.units, steps, progress), best.start)
    return min(last, best, key=lambda f: f.square)


def _attempt(goal: Goal, iterations: int, trial: tuple[str, UnitLaw]) -> Fit:
    return project(goal, descend(goal, trial[1], iterations), trial[0])
