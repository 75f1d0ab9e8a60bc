"""Which hidden units never change sign on a box: inactive ones (z <= 0) and active ones (z >= 0).

The search: points first (`seen_signs`: a unit seen on both sides is out, with the points as
witnesses), then bounds on the whole box, then in turns bisection of the box, one tree for all
candidates (`sign_bisection`; briefly where inputs are many), and branching on the signs of other
units, a case for each candidate (`sign_branching`; where inputs are few, only for what bisection
does not seem to settle soon).
What it finds is a tree, a list of signs and cases, and only `sign_splits.verify` decides whether
they hold. Touching zero is allowed on either side, because relu is continuous.

The turns are one fixed sequence of rounds, and a budget only says where it is cut off. So a larger
budget does what a smaller one does, and goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar

import numpy as np

from moduli.common.at_points import signs_at
from moduli.common.domains import Domain
from moduli.common.progress import Progress
from moduli.common.result import Result, counted
from moduli.kernel.bounds import input_splits
from moduli.kernel.bounds.input_splits import by_layer
from moduli.kernel.bounds.sign_splits import Case, verify
from moduli.kernel.box import Box
from moduli.kernel.errors import Asked, ShapeError
from moduli.kernel.network import Network

from .seen_signs import Points
from .sign_bisection import HOW, MANY, Bisection
from .sign_branching import Branching

Array = np.ndarray[Any, np.dtype[np.float64]]
Signs = np.ndarray[Any, np.dtype[np.int8]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
LITTLE = 64  # of a budget bisection of many inputs gets one part in so many
WHOLE = 10_000  # boxes at the end of a round: the usual budget cuts no round in two
ROUNDS = 13  # until then, each ending with twice what the last one did


@dataclass(frozen=True, eq=False, repr=False)
class Stability(Result):
    """Signs of hidden units on a box, with a proof.

    Attributes:
        network, box: whose, and where.
        signs: per hidden layer -1 (inactive: pre-activation <= 0 on the box), 1 (active: >= 0), 0
            (neither is proved).
        tree: the splits of the proof, see `input_splits.verify`.
        cases: the proofs of those signs that the tree does not prove, see `sign_splits`.
        how: per hidden layer where in `sign_bisection.HOW` the method stands that proved the sign, else 0.
        undecided: per hidden layer the sign (-1, 1) that no point refutes and no bound proves, else
            0.
        witnesses: per hidden layer ``[units, 2, inputs]``: points of the least and largest
            pre-activation seen.
        boxes, parts, programs: how many boxes the search has bounded, parts of cases, and linear
            programs solved.
        status: proved if all other units are proved to have both signs, at the witnesses.
    """

    network: Network
    box: Box
    signs: tuple[Signs, ...]
    tree: tuple[int, ...]
    cases: tuple[Case, ...]
    how: tuple[Signs, ...]
    undecided: tuple[Signs, ...]
    witnesses: tuple[Array, ...]
    boxes: int
    parts: int
    programs: int
    kind: ClassVar[str] = "stability"

    def count(self, sign: int, how: int | None = None) -> int:
        """How many units are proved to have a sign (by one method)."""
        return sum(
            int(((s == sign) & (h == how if how else h > 0)).sum())
            for s, h in zip(self.signs, self.how, strict=True)
        )

    @property
    def statement(self) -> str:
        rest = sum(int((u != 0).sum()) for u in self.undecided)
        tail = f", {rest} undecided" if rest else ""
        return f"{self.count(-1)} of {self.network.units} hidden units are inactive and {self.count(1)} active on the box{tail}"

    def check(self) -> bool:
        """Prove all signs anew from the tree and the cases; raises `CertificateRejected`."""
        verify(self.network, self.box, self.tree, self.signs, self.cases)
        return True

    def rows(self) -> list[tuple[str, str]]:
        rows = [("hidden units", str(self.network.units))]
        for name, sign in (("inactive", -1), ("active", 1)):
            parts = self.methods(sign)
            rows.append((name, f"{self.count(sign)}" + (f" ({parts})" if parts else "")))
        return [*rows, ("bounded", self.effort)]

    def methods(self, sign: int) -> str:
        """How many units each method proved to have a sign."""
        counts = {HOW[k]: self.count(sign, k) for k in range(1, len(HOW))}
        return ", ".join(f"{count} by {how}" for how, count in counts.items() if count)

    @property
    def leaves(self) -> int:
        """Of the tree and of all cases."""
        return self.tree.count(-1) + sum(len(case.leaves) for case in self.cases)

    @property
    def effort(self) -> str:
        """What the search has bounded, and what of it is left in the proof."""
        parts = [counted(self.boxes, "box", "boxes")]
        parts += [counted(self.parts, "part of a case", "parts of cases")] if self.parts else []
        parts += (
            [counted(self.programs, "linear program", "linear programs")] if self.programs else []
        )
        return f"{', '.join(parts)}; {counted(self.leaves, 'leaf', 'leaves')} in the proof"

    def data(self) -> dict[str, Any]:
        return {
            "network": self.network.digest, "low": self.box.low.tolist(),
            "high": self.box.high.tolist(), "signs": [s.tolist() for s in self.signs],
            "undecided": [u.tolist() for u in self.undecided], "tree": list(self.tree),
            "cases": [case.to_json() for case in self.cases], "boxes": self.boxes,
            "parts": self.parts, "programs": self.programs,
        }  # fmt: skip


def stable(
    net: Network,
    on: Domain,
    *,
    asked: Mask | None = None,
    budget: int = 10_000,
    seed: Any = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Stability:
    """Prove which hidden units never change sign on a box.

    Args:
        on: a `Box`. asked: which hidden units are asked for (all by default).
        budget: boxes to bound, and as many parts of cases; those of large networks count as
            several, see `linear_programs.PRODUCTS`. The search is cut off where either is spent;
            before that it does not depend on the budget.
        executor: takes boxes, and units of a layer.

    >>> net = Network.mlp([[1.0], [1.0], [-1.0]], [2.0, 0.0, -1.0], [[1.0, 1.0, 1.0]], [0.0], activation="relu")
    >>> found = stable(net, Box(-1, 1))
    >>> found.signs[0].tolist(), found.check()
    ([1, 0, -1], True)
    """
    if not isinstance(on, Box):
        raise ShapeError(Asked("on", on), ": signs of units are proved on a Box")
    box = on.of_dimension(net.widths[0])
    with np.errstate(all="ignore"):
        seen = Points(net, box, np.random.default_rng(seed), 0)
        bisection = Bisection(net, box, seen, executor, progress, asked)
        branching = Branching(bisection)
        _in_turns(bisection, branching, budget)
    tree, signs = bisection.proof()
    # rounding depends on the size of a batch
    failed = input_splits.unproved(net, box, tree, by_layer(net, signs)) >= 0
    signs[failed] = 0
    how = np.where(signs != 0, bisection.how, 0).astype(np.int8)
    with np.errstate(all="ignore"):
        cases = branching.proof(signs, how)
    open_ = (signs == 0) & (bisection.alive | bisection.proved_elsewhere)
    undecided = np.where(open_, bisection.wanted, 0).astype(np.int8)
    witnesses = by_layer(net, np.stack([seen.at_least, seen.at_most], axis=1))
    proved = not undecided.any() and _refuted(net, seen, signs == 0)
    return Stability(
        "proved" if proved else "bounded", net, box, by_layer(net, signs), tree, tuple(cases),
        by_layer(net, how), by_layer(net, undecided), witnesses, bisection.boxes, branching.parts,
        branching.programs,
    )  # fmt: skip


def rounds() -> Iterator[int]:
    """How much bisection and branching may each have spent when a round ends, round by round."""
    for k in count():
        yield -(-WHOLE * 2**k // 2**ROUNDS)


def _in_turns(bisection: Bisection, branching: Branching, budget: int) -> None:
    """Round after round, until nothing is open or the budget cuts one off."""
    inputs = bisection.net.widths[0]
    for share in rounds() if budget > 0 else ():
        bisection.seen.climb(share, bisection.open)
        bisection.look_again()
        # what is cut off ends all: with a larger budget it would go on before anything else does
        if bisection.run(max(1, bisection_budget(inputs, share)), budget):
            return
        if branching.run(share, budget) or share >= budget or not bisection.open.any():
            return


def bisection_budget(inputs: int, budget: int) -> int:
    """How much of a budget bisection is worth: little where inputs are many."""
    return budget if inputs <= MANY else budget // LITTLE


def _refuted(net: Network, seen: Points, units: Mask) -> bool:
    """Whether some units are proved to have both signs on the box, at the points that show them."""
    at = np.flatnonzero(units)
    return all(
        bool((sure & (found == sign))[np.arange(len(at)), at].all())
        for points, sign in ((seen.at_least[at], -1), (seen.at_most[at], 1))
        for found, sure in (signs_at(net, points),)
    )
