"""The best student of many starts: what `fit` does from a few, from more of them, and from students
with fewer units.

Errors as functions of incoming weights have many local minima. What helps, in the order of what it
costs: further random starts, of which the most promising go on; and a student with fewer units, to
which a unit is added where it explains most. From that one can only gain, so that more units are never
worse: up to `LADDER` units the student with one unit less is found first, beyond it the one with half
as many (8, 16, 32 ...).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from moduli.common.progress import Progress

from .fit import ITERATIONS, PAIRS, Fit, Goal, descend, fit, largest, project, starts
from .gaussian_expectations import UnitLaw

Array = np.ndarray[Any, np.dtype[np.float64]]
LADDER = 8  # units up to which each size starts from the one below it
ROUND = 6  # random starts of a round
FIRST = 25  # steps of L-BFGS after which the best few go on
SECOND = 60  # further ones after which the best two go to the end
KEPT = 6
LAST = 2
HOPELESS = 1.5  # times the best error, after which a start is left
SAME = 1e-4  # relative difference of errors at what is taken for one minimum
RESTARTED = 20_000  # evaluations of a kernel in one iteration up to which there is time for this
POOL = 128  # units of the target that are tried as further units
Named = tuple[str, UnitLaw]


class Stage(NamedTuple):
    """How many of the best go on, and by how many iterations."""

    kept: int
    iterations: int


class Restarts:
    """Searches for students of one target, which know of each other.

    Args:
        rounds: of random starts; with 0 only what `fit` starts from, and no smaller students.
        more: further starts for a number of units.
    """

    def __init__(
        self,
        goal: Goal,
        seed: int,
        rounds: int = 1,
        more: Callable[[int], Sequence[Named]] = lambda count: (),
    ) -> None:
        self.goal, self.seed, self.rounds, self.more = goal, seed, rounds, more
        self.known: dict[int, Fit] = {}

    def best(
        self, count: int, executor: Executor | None = None, progress: Progress | None = None
    ) -> Fit:
        """The best student found with `count` units."""
        if count not in self.known:
            self.known[count] = self._search(count, executor, progress)
        return self.known[count]

    def best_after(self, count: int, before: int | None, executor: Executor | None = None) -> Fit:
        """The same, and never worse than a smaller student that is known, whatever the cost of both."""
        found = self.best(count, executor)
        if before is None or before >= count:
            return found
        smaller = self.known[before]
        if smaller.square < found.square:
            units = self._enlarged(smaller, count)
            steps = max(20, min(ITERATIONS, PAIRS // self.goal.pairs(count)))
            start = project(self.goal, units, f"{before} units and more")
            found = min(_advanced(self.goal, steps, start), found, key=lambda f: f.square)
            self.known[count] = found
        return found

    def _search(self, count: int, executor: Executor | None, progress: Progress | None) -> Fit:
        goal = self.goal
        rng = np.random.default_rng([self.seed, count])
        more = list(self.more(count))
        quick = goal.pairs(max(1, count)) <= RESTARTED
        few = self.rounds if quick else self.rounds - 1
        if not count or goal.variance <= 0 or count >= len(goal.units):
            return fit(goal, count, rng, more, executor, progress)
        if self.rounds and quick and count > 1:
            more += self._from_fewer(count, executor)
        if few <= 0:
            return fit(goal, count, rng, more, executor, progress)
        trials = [*starts(goal, count, rng).items(), *more]
        trials += [("largest units", largest(goal, count, rng))]
        trials += [("copy and average", copy_and_average(goal, count))]
        trials += [
            (f"random start {k + 1}", _drawn(goal, count, rng, k)) for k in range(ROUND * few)
        ]
        steps = max(20, min(ITERATIONS, PAIRS // goal.pairs(count)))
        stages = (
            Stage(len(trials), FIRST),
            Stage(KEPT * few, SECOND),
            Stage(LAST * few, ITERATIONS),
        )
        found = [project(goal, units, name) for name, units in trials]
        mapped = executor.map if executor else map
        for k, stage in enumerate(stages):
            if progress is not None:
                progress(k, len(stages), f"{stage.kept} starts")
            found = _promising(found, stage.kept)
            advance = partial(_advanced, goal, min(steps, stage.iterations))
            found = list(mapped(advance, found))
        return min(found, key=lambda f: f.square)

    def _from_fewer(self, count: int, executor: Executor | None) -> list[Named]:
        """A smaller student, and units added to it one after another."""
        below = count - 1
        if count > LADDER:
            below = 1 << (count - 1).bit_length() - 1
        smaller = self.best(below, executor)
        units = self._enlarged(smaller, count)
        return [(f"{below} units and more", units)]

    def _enlarged(self, smaller: Fit, count: int) -> UnitLaw:
        """Units added one after another."""
        units = smaller.units
        rng = np.random.default_rng([self.seed, count, len(units)])
        while len(units) < count:
            units = grown(self.goal, units, rng)
        return units


def _promising(found: list[Fit], kept: int) -> list[Fit]:
    """The best few: what is far behind is left, and of what has come to one minimum all but one."""
    order = sorted(found, key=lambda f: f.square)
    if kept >= len(order):
        return order
    out = order[:1]
    for one in order[1:]:
        if one.square > HOPELESS * order[0].square or len(out) == kept:
            break
        if one.square > out[-1].square * (1 + SAME):
            out.append(one)
    return out


def _advanced(goal: Goal, iterations: int, found: Fit) -> Fit:
    moved = project(goal, descend(goal, found.units, iterations), found.start)
    return min(moved, found, key=lambda f: f.square)


def _drawn(goal: Goal, count: int, rng: np.random.Generator, k: int) -> UnitLaw:
    """Units of the target, or normal ones of their size."""
    if k % 2:
        return goal.units[np.sort(rng.permutation(len(goal.units))[:count])]
    width = goal.units.row.shape[1]
    size = float(np.sqrt(goal.units.variance.mean() / max(1, width)))
    mean, spread = float(goal.units.mean.mean()), float(goal.units.mean.std())
    row = size * rng.standard_normal((count, width))
    return goal.admissible(UnitLaw(mean + spread * rng.standard_normal(count), row))


def copy_and_average(goal: Goal, count: int) -> UnitLaw:
    """The target's largest units but one, and the weighted mean of all others in place of the last.

    Simsek, Bendjeddou, Gerstner and Brea (2023) show that such students are critical points for
    erf and orthonormal units with equal outgoing weights; here they are a start.
    """
    size = np.linalg.norm(goal.outer, axis=1) * np.sqrt(goal.units.variance + goal.units.mean**2)
    order = np.argsort(-size, kind="stable")
    copied, rest = order[: count - 1], order[count - 1 :]
    points = np.column_stack([goal.units.row, goal.units.mean])[rest]
    # Weights carry the sign of the outgoing ones, summed over outputs: a unit that counts against
    # the others is turned where the activation is odd.
    weight = goal.outer[rest].sum(axis=1)
    if not goal.activation.symmetric:
        weight = np.abs(weight)
    total = float(np.abs(weight).sum()) or 1.0
    mean = (weight / total) @ points
    row = np.vstack([goal.units.row[copied], mean[:-1]])
    return goal.admissible(UnitLaw(np.append(goal.units.mean[copied], mean[-1]), row))


def grown(goal: Goal, units: UnitLaw, rng: np.random.Generator) -> UnitLaw:
    """With one unit more: of the target's units the one that explains most of what is left."""
    at = np.arange(len(goal.units))
    if len(at) > POOL:
        at = np.sort(rng.permutation(at)[:POOL])
    pool = goal.units[at]
    both = UnitLaw(np.concatenate([units.mean, pool.mean]), np.concatenate([units.row, pool.row]))
    k, r, _ = goal.system(both, slopes=False)
    own = len(units)
    size = np.diag(k)
    inner = k[:own, :own] + np.diag(1e-10 * size[:own] + 1e-300)
    solved = np.linalg.lstsq(inner, np.column_stack([k[:own, own:], r[:own]]), rcond=None)[0]
    shared, weights = solved[:, : len(pool)], solved[:, len(pool) :]
    left = size[own:] - (k[:own, own:] * shared).sum(axis=0)
    rest = r[own:] - k[own:, :own] @ weights
    new = left > 1e-9 * np.maximum(size[own:], 1e-300)
    gain = np.where(new, np.square(rest).sum(axis=1) / np.where(new, left, 1.0), -1.0)
    best = own + int(gain.argmax())
    chosen = np.append(np.arange(own), best)
    return both[chosen]
