"""Which hidden units never change sign on a box: stably inactive (z <= 0) or stably active (z >=
0).

The search: points first (a unit seen on both sides is out, with the points as witnesses), then
bounds on the whole box, then in turns bisection of the box, one tree for all candidates (briefly
where inputs are many), and branching on the signs of other units, a case for each candidate
(where inputs are few, only for what bisection does not seem to settle soon).
What it finds is a tree, a list of signs and cases, and only `sign_splits.verify` decides whether
they hold. Touching zero is allowed on either side, because relu is continuous.

The turns are one fixed sequence of rounds, and a budget only says where it is cut off. So a larger
budget does what a smaller one does, and goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, product
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.at_points import gradient, signs_at
from moduli.common.domains import Domain
from moduli.common.progress import Progress
from moduli.common.result import Result, counted
from moduli.kernel.bounds import input_splits, propagation
from moduli.kernel.bounds.input_splits import by_layer, ends_of
from moduli.kernel.bounds.sign_splits import Case, verify
from moduli.kernel.box import Box
from moduli.kernel.errors import Asked, ShapeError
from moduli.kernel.network import IDENTITY, Layer, Network

from . import linear_programs, phase_branching
from .bisection import in_parts
from .linear_programs import PRODUCTS

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.intp]]
Signs = np.ndarray[Any, np.dtype[np.int8]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
BATCH = 256  # boxes bounded at a time
PART = 64  # boxes that a worker takes at a time
HUGE = 1e300
HOW = ("", "interval", "linear", "bisection", "program", "branching")
MANY = 10  # inputs beyond which bisection gets a part of the budget only
LITTLE = 64  # that part is one in so many
WHOLE = 10_000  # boxes at the end of a round: the usual budget cuts no round in two
ROUNDS = 13  # until then, each ending with twice what the last one did
LATE = 1024  # boxes before which bisection of few inputs has not shown what it can do
DEEP = 3  # hidden layers beyond which branching takes long, and
FEW = 4  # gets one part in so many until it proves something, should inputs be few
LEAST = 64  # boxes that branching is worth with
GROWTH = 4  # by which a limit is larger when a unit is tried again
REACH = 2  # times what is left in a round: a unit that seems to need more waits for a larger one
AGAIN = 4  # times the size of a case may be spent on searching it anew
CLIMB = (
    8 * PRODUCTS
)  # multiplications, for each box of the budget, that the first look at points may take
TOGETHER = 8  # units that are tried before the next look at the budget


@dataclass(frozen=True, eq=False, repr=False)
class Stability(Result):
    """Signs of hidden units on a box, with a proof.

    Attributes:
        network, box. signs: per hidden layer -1 (inactive: pre-activation <= 0 on the box), 1
        (active: >= 0), 0 (neither is proved).
        tree: the splits of the proof, see `input_splits.verify`.
        cases: the proofs of those signs that the tree does not prove, see `sign_splits`.
        how: per hidden layer where in `HOW` the method stands that proved the sign, else 0.
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
    budget: int = 10_000,
    seed: Any = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Stability:
    """Prove which hidden units never change sign on a box.

    Args:
        on: a `Box`. budget: boxes to bound, and as many parts of cases; those of large networks
            count as several, see `linear_programs.PRODUCTS`. The search is cut off where either is
            spent; before that it does not depend on the budget.
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
        search = Search(net, box, seen, executor, progress)
        branching = Branching(net, box, search, executor, progress)
        _in_turns(search, branching, budget)
    tree, signs = search.proof()
    failed = (
        input_splits.unproved(net, box, tree, by_layer(net, signs)) >= 0
    )  # rounding depends on the size of a batch
    signs[failed] = 0
    how = np.where(signs != 0, search.how, 0).astype(np.int8)
    with np.errstate(all="ignore"):
        cases = branching.proof(signs, how)
    search.alive |= search.left
    left = np.where((signs == 0) & search.alive, search.wanted, 0).astype(np.int8)
    witnesses = by_layer(net, np.stack([seen.at_least, seen.at_most], axis=1))
    status = "proved" if not left.any() and _refuted(net, seen, signs == 0) else "bounded"
    return Stability(
        status, net, box, by_layer(net, signs), tree, tuple(cases), by_layer(net, how),
        by_layer(net, left), witnesses, search.boxes, branching.parts,
        branching.programs,
    )  # fmt: skip


def rounds() -> Iterator[int]:
    """How much bisection and branching may each have spent when a round ends, round by round."""
    for k in count():
        yield -(-WHOLE * 2**k // 2**ROUNDS)


def _in_turns(search: Search, branching: Branching, budget: int) -> None:
    """Round after round, until nothing is open or the budget cuts one off."""
    inputs = search.net.widths[0]
    for share in rounds() if budget > 0 else ():
        search.seen.climb(share, search.open)
        search.look_again()
        # what is cut off ends all: with a larger budget it would go on before anything else does
        if search.run(max(1, bisection_budget(inputs, share)), budget):
            return
        if branching.run(share, budget) or share >= budget or not search.open.any():
            return


def bisection_budget(inputs: int, budget: int) -> int:
    """How much of a budget bisection is worth: little where inputs are many."""
    return budget if inputs <= MANY else budget // LITTLE


class Branching:
    """Signs by cases: units that are open are tried layer by layer, round by round, each time with
    more; see `phase_branching`.

    Attributes:
        cases: what was found, with the signs that were known then. spent, parts, programs: so far.
        tried: for each unit how much was spent on its last try, and the share of the box that was
            settled.
    """

    def __init__(
        self, net: Network, box: Box, search: Search, executor: Executor | None, progress: Progress | None
    ) -> None:  # fmt: skip
        self.net, self.box, self.search = net, box, search
        self.map, self.progress = map if executor is None else executor.map, progress
        self.ends, self.cases = ends_of(net), list[tuple[Case, Signs]]()
        self.signs, self.how = (np.zeros(net.units, dtype=np.int8) for _ in range(2))
        self.spent, self.parts, self.programs, self.allowed = 0, 0, 0, 0
        self.budget, self.over = 0, False
        self.searches = dict[int, phase_branching.Search | None]()
        self.tried, self.worth = np.zeros((net.units, 2)), np.ones(net.units, dtype=bool)
        self.able = sum(layer.weight.size for layer in net.layers) <= linear_programs.ENTRIES

    def run(self, share: int, budget: int) -> bool:
        """Spend what is left of a share; whether the budget cuts that off.

        Where inputs are few, on units that bisection does not seem to settle soon.
        """
        few = self.net.widths[0] <= MANY
        brief = few and len(self.net.layers) > DEEP + 1 and not self.cases
        self.allowed = share // FEW if brief else share
        self.worth, self.budget = self.search.slow | (not few), budget
        if not self.able or self.allowed - self.spent < LEAST or (few and share < LATE):
            return False
        self.signs = np.where(self.search.settled, self.search.wanted, self.signs).astype(np.int8)
        self._pass(False)
        while self._pass(True):
            pass
        return self.over

    def _pass(self, focus: bool) -> bool:
        """Try the units that are open, each once, with half of what is left: all of them with as
        much, or the first with all that, the next with half of the rest. Whether any was tried.
        """
        before, open_ = self.spent, (self.signs == 0) & self.search.alive & self.worth
        rest = int(open_[self.net.widths[1] :].sum()) if len(self.net.layers) > 1 else 0
        for layer in range(2, len(self.net.layers)):
            units = np.arange(self.ends[layer - 1], self.ends[layer])
            units = units[open_[units]]
            if self.net.activations[layer - 1].bends:
                self._layer(layer, units, 1 if focus else rest)
            rest -= len(units)
        return self.spent > before and not self.over

    def _layer(self, layer: int, units: Ints, rest: int) -> None:
        """What seems to need least first, with twice as much as it seems to need or with its share."""
        start = 0
        before, share = self.tried[units].T
        need = before / np.maximum(share, 1 / 1024)
        need = np.where(before < phase_branching.EARLY, np.minimum(need, 8 * before), need)
        need = 2 * need - before * [self._resumes(layer, unit) for unit in units.tolist()]
        order = np.argsort(need, kind="stable")
        units, need = units[order], need[order]
        while start < len(units) and self.spent < self.allowed and not self.over:
            left = self.allowed - self.spent
            fair = max(LEAST, left // max(2, 2 * (rest - start)))
            each = min(left, max(fair, int(min(need[start], left))))
            some = units[start : start + max(1, min(TOGETHER, left // each))]
            hopeless = need[start : start + len(some)] > REACH * left
            start += len(some)
            again = [
                each >= GROWTH * self.tried[unit, 0] or self._resumes(layer, unit)
                for unit in some.tolist()
            ]
            some = some[again & ~hopeless & self.search.alive[some]]
            if len(some):
                self._try(layer, some, each)

    def _resumes(self, layer: int, unit: int) -> bool:
        """Whether a search can go on: nothing new is known of the layers below."""
        return self._rest(layer, unit) is not None

    def _rest(self, layer: int, unit: int) -> phase_branching.Search | None:
        search, known = self.searches.get(unit), self.signs[: self.ends[layer - 1]]
        return search if search is not None and np.array_equal(search.known, known) else None

    def _search(self, layer: int, unit: int) -> phase_branching.Search:
        """That of a unit, or a new one."""
        return self._rest(layer, unit) or phase_branching.Search(
            self.net, self.box, self.signs, layer, unit - self.ends[layer - 1], int(self.search.wanted[unit])
        )  # fmt: skip

    def _try(self, layer: int, units: Ints, limit: int) -> None:
        """Try some units of a layer at a time: as many of them as the budget is enough for."""
        left = self.budget - self.spent
        enough = max(1, left // limit)
        self.over = left < limit or enough < len(units)
        units = units[:enough]
        resumed = [unit for unit in units.tolist() if self._resumes(layer, unit)]
        searches = [self._search(layer, unit) for unit in units.tolist()]
        tried = self.map(partial(phase_branching.prove, limit=limit, most=left), searches)
        known = self.signs.copy()
        for unit, found in zip(units.tolist(), tried, strict=True):
            self.spent += found.spent
            self.parts += found.parts
            self.programs += found.programs
            self.searches[unit] = found.rest
            old = self.tried[unit, 0] if unit in resumed else 0.0
            self.tried[unit] = old + found.spent, found.share
            self.search.seen.look(np.clip(found.points, self.box.low, self.box.high))
            if found.case is not None and self._accept(found.case, known):
                self.search.leave(unit)
        self.search.look_again()
        if self.progress is not None:
            open_ = int(self.search.alive.sum())
            self.progress(
                min(self.spent, self.budget), self.budget, f"branching, {open_} units open"
            )

    def _accept(self, case: Case, known: Signs) -> bool:
        if not linear_programs.holds(self.net, self.box, known, case):
            return False
        unit = self.ends[case.layer - 1] + case.unit
        self.cases.append((case, known))
        self.signs[unit] = case.sign
        plain = HOW.index("program" if any(units for units, _ in case.leaves) else "linear")
        self.how[unit] = HOW.index("branching") if len(case.tree) > 1 else plain
        return True

    def proof(self, signs: Signs, how: Signs) -> list[Case]:
        """The cases, where these signs are known from the tree; `signs` and `how` are updated.

        A case stands on the signs below it. Where more of them are known by now, its tree may tell
        apart what is known, so it is cut down, and searched anew should that not do.
        """
        out = list[Case]()
        for case, known in self.cases:
            below = self.ends[case.layer - 1]
            kept: Case | None = case
            if not np.array_equal(signs[:below], known[:below]):
                kept = without_known(case, signs)
                if not linear_programs.holds(self.net, self.box, signs, kept):
                    search = phase_branching.Search(
                        self.net, self.box, signs, case.layer, case.unit, case.sign
                    )
                    kept = phase_branching.prove(search, AGAIN * len(case.tree)).case
                    if kept is None or not linear_programs.holds(self.net, self.box, signs, kept):
                        kept = None
            if kept is None:
                continue
            out.append(kept)
            unit = below + case.unit
            signs[unit], how[unit] = case.sign, self.how[unit]
        return out


def without_known(case: Case, known: Signs) -> Case:
    """A case whose tree tells no signs apart that are known."""
    right = input_splits.right_children(case.tree, len(known))
    leaf = np.cumsum(np.array(case.tree) < 0) - 1
    tree, leaves, stack = list[int](), list[Any](), [0]
    while stack:
        at = stack.pop()
        unit = case.tree[at]
        if unit < 0:
            units, values = case.leaves[leaf[at]]
            kept = [(u, v) for u, v in zip(units, values, strict=True) if not known[u]]
            leaves.append((tuple(u for u, _ in kept), tuple(v for _, v in kept)))
            tree.append(-1)
        elif known[unit]:
            stack.append(at + 1 if known[unit] < 0 else int(right[at]))
        else:
            tree.append(unit)
            stack += [int(right[at]), at + 1]
    return replace(case, tree=tuple(tree), leaves=tuple(leaves))


def _refuted(net: Network, seen: Points, units: Mask) -> bool:
    """Whether some units are proved to have both signs on the box, at the points that show them."""
    at = np.flatnonzero(units)
    return all(
        bool((sure & (found == sign))[np.arange(len(at)), at].all())
        for points, sign in ((seen.at_least[at], -1), (seen.at_most[at], 1))
        for found, sure in (signs_at(net, points),)
    )


class Points:
    """The least and largest pre-activation of every hidden unit that some point of the box shows,
    in float arithmetic.

    Attributes:
        least, most: ``[hidden units]``. at_least, at_most: the points, ``[hidden units, inputs]``.
    """

    def __init__(
        self, net: Network, box: Box, rng: np.random.Generator, budget: int = 10_000
    ) -> None:
        self.net, self.box = net, box
        inputs, units = net.widths[0], net.units
        self.least, self.most = np.full(units, np.inf), np.full(units, -np.inf)
        self.at_least, self.at_most = np.zeros((units, inputs)), np.zeros((units, inputs))
        rows = int(np.clip(2**22 // inputs, 64, 4096))
        if inputs <= 10:
            corners = np.array(list(product((False, True), repeat=inputs)))
        else:
            corners = rng.random((rows // 4, inputs)) < 0.5
        self.look(np.where(corners, box.high, box.low))
        self.look(input_splits.middle(box.low, box.high)[None])
        self.look(self._anywhere(rng, (rows, inputs)))
        self.rng, self.starts = rng, [0] * len(net.layers)
        self.climb(budget)

    def _anywhere(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Uniform points, for boxes of any size."""
        mix = rng.random(shape)
        points: Array = np.clip(
            (1 - mix) * self.box.low + mix * self.box.high, self.box.low, self.box.high
        )
        return points

    def look(self, x: Array) -> None:
        """Evaluate the network at points of the box."""
        for start in range(0, len(x), 4096):
            h, values = x[start : start + 4096], []
            for layer in self.net.layers[:-1]:
                values.append(h @ layer.weight.T + layer.bias)
                h = layer.activation(values[-1])
            if values:
                z = np.nan_to_num(
                    np.concatenate(values, axis=1), nan=0.0, posinf=HUGE, neginf=-HUGE
                )
                self._keep(x[start : start + 4096], z)

    def _keep(self, x: Array, z: Array) -> None:
        for best, at, better in (
            (self.least, self.at_least, np.argmin(z, axis=0)),
            (self.most, self.at_most, np.argmax(z, axis=0)),
        ):
            new = z[better, np.arange(z.shape[1])]
            found = new < best if best is self.least else new > best
            best[found], at[found] = new[found], x[better[found]]

    def wanted(self) -> Signs:
        """The sign that no point refutes, else 0; a breath beyond zero may be rounding."""
        breath = 2.0**-40 * np.maximum(np.abs(self.least), np.abs(self.most))
        return np.where(self.most <= breath, -1, np.where(self.least >= -breath, 1, 0)).astype(
            np.int8
        )

    def climb(self, budget: int, units: Mask | None = None, most: int = 6, steps: int = 16) -> None:
        """Signs of gradients, with shrinking steps, against every sign that is not refuted yet.

        From up to `most` starts for each unit, those of earlier calls among them; fewer, or none,
        where all steps from one start are beyond the budget.

        Args:
            units: which units, else all.
        """
        low, high = self.box.low, self.box.high
        for l, own in enumerate(by_layer(self.net, np.arange(self.net.units))):
            own = own[self.wanted()[own] != 0]
            own = own if units is None else own[units[own]]
            if not len(own) or self.starts[l] == most:
                continue
            way = -self.wanted()[own].astype(np.float64)
            layer = self.net.layers[l]
            first = int(sum(self.net.widths[1 : l + 1]))
            head = Layer(layer.weight[own - first], layer.bias[own - first], IDENTITY)
            prefix = Network((*self.net.layers[:l], head))
            each = len(own) * steps * 2 * sum(layer.weight.size for layer in prefix.layers)
            able = min(most, budget * CLIMB // max(1, each * (len(self.net.layers) - 1)))
            starts = able - self.starts[l]
            if starts <= 0:
                continue
            x = self._anywhere(self.rng, (starts, len(own), len(low)))
            if not self.starts[l]:
                x[0] = np.where(way[:, None] > 0, self.at_most[own], self.at_least[own])
            self.starts[l] = able
            x, v = x.reshape(-1, len(low)), np.tile(np.diag(way), (starts, 1))
            for k in range(steps):
                turn = np.nan_to_num(np.sign(gradient(prefix, x, v)))
                x = np.clip(x + turn * (0.5 * high - 0.5 * low) * 0.7**k, low, high)
                self.look(x)


class Node(NamedTuple):
    """A box that waits: its place in the tree, its depth, its ends, and the candidates that it has
    to settle.
    """

    place: int
    depth: int
    low: Array
    high: Array
    open: Mask


class Look(NamedTuple):
    """What bounds say on some boxes.

    Attributes:
        proved: signs, ``[boxes, units]``. score: how much each input moves the affine bounds of
            open units, -1 where it has no middle. corners: where these bounds are largest.
            products: what that took.
    """

    proved: Mask
    score: Array
    corners: Array
    products: int


def _look(net: Network, wanted: Signs, low: Array, high: Array, need: Mask) -> Look:
    with np.errstate(all="ignore"):
        found, proved = input_splits.signs(net, low, high, wanted, need)
        need = need & ~proved
        width = 0.5 * high - 0.5 * low
        score: Array = 1e-6 * width / np.maximum(width.max(axis=1, keepdims=True), 1e-300)
        start, corners = 0, [np.zeros((0, low.shape[1]))]
        for l, (lo, _) in enumerate(found.bounds):
            box, unit = np.nonzero(need[:, start : start + lo.shape[1]])
            way = -wanted[start + unit].astype(np.float64)
            start += lo.shape[1]
            if len(unit):
                rows = found.unit_upper(l, box, unit, way)[1]
                corners.append(np.where(rows > 0, high[box], low[box]))
                weight = np.nan_to_num(np.abs(rows) * width[box])
                np.add.at(
                    score, box, weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
                )
        inside = input_splits.middle(low, high)
        score = np.where((low < inside) & (inside < high), score, -1.0)
        return Look(proved, score, np.unique(np.concatenate(corners), axis=0), found.products)


class Search:
    """Bisection of a box with one tree for all candidates.

    Boxes are bounded in order of depth. When half of a share is spent, and half of each rest, the
    half of the candidates with the larger unsettled volume is laid aside, so that the others
    get what remains; once these are done, all that is unsettled has its turn again.

    Attributes:
        wanted: the sign that each hidden unit may have (0: no candidate). alive: candidates that no
            point refutes.
        tried: those of them in focus. boxes, spent: how many were bounded, and as how many of a
            small network these count.
        tree: per node the input that is split (or -1), the children, what stayed open.
    """

    def __init__(
        self,
        net: Network,
        box: Box,
        seen: Points,
        executor: Executor | None,
        progress: Progress | None,
    ) -> None:
        self.net, self.seen, self.progress = net, seen, progress
        self.share, self.budget, self.over = 0, 0, False
        self.map = map if executor is None else executor.map
        self.wanted = seen.wanted()
        self.alive: Mask = self.wanted != 0
        self.tried = self.alive.copy()
        self.stuck, self.left = (np.zeros(net.units, dtype=bool) for _ in range(2))
        self.how = np.zeros(net.units, dtype=np.int8)
        self.left_over, self.slow = np.ones(len(self.alive)), np.zeros(len(self.alive), dtype=bool)
        self.boxes, self.spent = 0, 0
        self.price = 1  # as how many boxes each of the last ones counted
        self.tree: list[tuple[int, int, int, Mask]] = [(-1, -1, -1, self.alive.copy())]
        self.queue = deque([Node(0, 0, box.low, box.high, self.alive.copy())])
        self.aside: list[Node] = []

    def run(self, share: int, budget: int) -> bool:
        """Search until every candidate is settled or a share is spent, of which some may be spent
        already; whether the budget cuts that off.
        """
        self.share, self.budget = share, budget
        if not self.boxes:
            self._begin()
        while (self.queue or self.aside) and self.spent < share and not self.over:
            self._round()
        self.how[self.settled & (self.how == 0)] = HOW.index("bisection")
        before, self.left_over = self.left_over, self.volume()
        self.slow = self.left_over > before / 2
        return self.over

    def look_again(self) -> None:
        """What points refute by now is no candidate."""
        self.alive &= self.seen.wanted() == self.wanted
        self.tried &= self.alive

    def leave(self, unit: int) -> None:
        """A candidate that is proved by other means."""
        self.alive[unit], self.left[unit] = False, True

    @property
    def open(self) -> Mask:
        """Candidates that are not settled."""
        return self.alive & ~self.settled

    def _begin(self) -> None:
        """Bounds on the whole box."""
        root = self.queue[0]
        plain = propagation.propagate(
            self.net.layers[:-1], root.low[None], root.high[None], linear=False
        ).bounds
        for way, how, (lo, hi) in zip(
            by_layer(self.net, self.wanted), by_layer(self.net, self.how), plain, strict=True
        ):
            how[((way < 0) & (hi[0] <= 0)) | ((way > 0) & (lo[0] >= 0))] = 1
        self._step()
        self.how[self.settled & (self.how == 0)] = HOW.index("linear")

    def _round(self) -> None:
        """All candidates anew, fewer and fewer of them, until those in focus are settled."""
        self.queue.extend(self.aside)
        self.aside.clear()
        self.tried = self.alive.copy()
        reserve = (self.share - self.spent) // 2
        if reserve >= BATCH:
            self._lay_aside(self.slow)
        while self.queue and self.spent < self.share and not self.over:
            self._step()
            if self.spent >= self.share - reserve and reserve >= BATCH:
                self._lay_aside(self.tried)
                reserve //= 2
            if self.progress is not None:
                open_ = int(self.open.sum())
                self.progress(min(self.spent, self.budget), self.budget, f"{open_} units open")

    def _step(self) -> None:
        """Bound the next boxes, look at their worst corners, split those that leave something open."""
        nodes = self._next()
        if not nodes:
            return
        low, high = np.array([n.low for n in nodes]), np.array([n.high for n in nodes])
        need = np.array([n.open for n in nodes]) & self.tried
        look = partial(_look, self.net, self.wanted)
        found = list(
            self.map(look, in_parts(low, PART), in_parts(high, PART), in_parts(need, PART))
        )
        self.price = max(1, -(-sum(one.products for one in found) // (len(nodes) * PRODUCTS)))
        self.boxes += len(nodes)
        self.spent += len(nodes) * self.price
        self.over |= self.budget <= self.spent < self.share
        for one in found:
            self.seen.look(one.corners)
        self.seen.look(input_splits.middle(low, high))
        self.look_again()
        proved = np.concatenate([one.proved for one in found])
        score = np.concatenate([one.score for one in found])
        split = np.argmax(score, axis=1)
        split[~(score.max(axis=1) >= 0)] = -1  # no axis has a float between its ends
        for node, axis, done in zip(nodes, split.tolist(), proved, strict=True):
            self._place(node, axis, node.open & ~done & self.alive)

    def _next(self) -> list[Node]:
        nodes: list[Node] = []
        most = max(1, min(BATCH, (self.share - self.spent) // self.price))
        enough = max(1, (self.budget - self.spent) // self.price)
        while self.queue and len(nodes) < min(most, enough):
            node = self.queue.popleft()
            if (node.open & self.tried).any():
                nodes.append(node)
            elif (node.open & self.alive).any():
                self.aside.append(node)
        self.over = len(nodes) == enough < most
        return nodes

    def _place(self, node: Node, split: int, left: Mask) -> None:
        """Both halves into the queue where a candidate in focus is left; a box that cannot be
        halved ends the candidate.
        """
        self.tree[node.place] = (-1, -1, -1, left)
        if not (left & self.tried).any():
            if left.any():
                self.aside.append(node._replace(open=left))
        elif split < 0:
            self.stuck |= left
        else:
            at = len(self.tree)
            self.tree[node.place] = (split, at, at + 1, left)
            ends = input_splits.halves(node.low[None], node.high[None], np.array([split]))
            for k in (0, 2):
                self.tree.append((-1, -1, -1, left))
                self.queue.append(
                    Node(at + k // 2, node.depth + 1, ends[k][0], ends[k + 1][0], left)
                )

    @property
    def settled(self) -> Mask:
        """Candidates with no box left."""
        open_ = self.stuck.copy()
        for node in (*self.queue, *self.aside):
            open_ |= node.open
        return self.alive & ~open_

    def volume(self) -> Array:
        """Of the boxes that are left to each candidate, as a share of the whole box."""
        out = np.zeros(len(self.wanted))
        for node in (*self.queue, *self.aside):
            out += node.open * 2.0**-node.depth
        return out

    def _lay_aside(self, these: Mask) -> None:
        """Of the candidates in focus the half with the larger volume, where they are among these."""
        volume = self.volume() * self.tried
        rest = np.flatnonzero(volume)
        rest = rest[np.argsort(volume[rest], kind="stable")][(len(rest) + 1) // 2 :]
        self.tried[rest[these[rest]]] = False

    def proof(self) -> tuple[tuple[int, ...], Signs]:
        """The tree, cut down to what the settled units need, and the signs."""
        settled, out, stack = self.settled, list[int](), [0]
        while stack:
            split, left, right, open_ = self.tree[stack.pop()]
            if split >= 0 and (open_ & settled).any():
                out.append(split)
                stack += [right, left]
            else:
                out.append(-1)
        return tuple(out), np.where(settled, self.wanted, 0).astype(np.int8)
