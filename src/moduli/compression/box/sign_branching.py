"""Signs of units by cases: which units are tried, in which order, and with how much of a budget.

`phase_branching` tries one unit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from moduli.kernel.bounds import input_splits
from moduli.kernel.bounds.input_splits import ends_of
from moduli.kernel.bounds.sign_splits import Case

from . import linear_programs, phase_branching
from .sign_bisection import HOW, MANY, Bisection

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.intp]]
Signs = np.ndarray[Any, np.dtype[np.int8]]
LATE = 1024  # boxes before which bisection of few inputs has not shown what it can do
DEEP = 3  # hidden layers beyond which branching takes long, and
FEW = 4  # gets one part in so many until it proves something, should inputs be few
LEAST = 64  # boxes that branching is worth with
GROWTH = 4  # by which a limit is larger when a unit is tried again
REACH = 2  # times what is left in a round: a unit that seems to need more waits for a larger one
AGAIN = 4  # times the size of a case may be spent on searching it anew
TOGETHER = 8  # units that are tried before the next look at the budget
LITTLE_SETTLED = 1 / 1024  # of a box: less tells no more of what a unit will need
EARLY_GROWTH = 8  # times what an early try took: it tells little, so no more is feared


class Branching:
    """Units that bisection leaves open are tried layer by layer, round by round, each time with more.

    Attributes:
        cases: what was found, with the signs that were known then. spent, parts, programs: so far.
        tried: for each unit how much was spent on its last try, and the share of the box that was
            settled.
    """

    def __init__(self, bisection: Bisection) -> None:
        self.bisection, self.net, self.box = bisection, bisection.net, bisection.box
        self.ends, self.cases = ends_of(self.net), list[tuple[Case, Signs]]()
        self.signs = np.zeros(self.net.units, dtype=np.int8)
        self.how = np.zeros(self.net.units, dtype=np.int8)
        self.spent, self.parts, self.programs, self.allowed = 0, 0, 0, 0
        self.budget, self.over = 0, False
        self.searches = dict[int, phase_branching.Search | None]()
        self.tried = np.zeros((self.net.units, 2))
        self.worth = np.ones(self.net.units, dtype=bool)
        weights = sum(layer.weight.size for layer in self.net.layers)
        self.able = weights <= linear_programs.ENTRIES

    def run(self, share: int, budget: int) -> bool:
        """Spend what is left of a share; whether the budget cuts that off.

        Where inputs are few, on units that bisection does not seem to settle soon.
        """
        few = self.net.widths[0] <= MANY
        brief = few and len(self.net.layers) > DEEP + 1 and not self.cases
        self.allowed = share // FEW if brief else share
        self.worth, self.budget = self.bisection.slow | (not few), budget
        if not self.able or self.allowed - self.spent < LEAST or (few and share < LATE):
            return False
        settled, wanted = self.bisection.settled, self.bisection.wanted
        self.signs = np.where(settled, wanted, self.signs).astype(np.int8)
        self._pass(evenly=True)
        while self._pass(evenly=False):
            pass
        return self.over

    def _pass(self, *, evenly: bool) -> bool:
        """Try the units that are open, each once, with half of what is left: all of them with as
        much, or the first with all that, the next with half of the rest. Whether any was tried.
        """
        before, open_ = self.spent, (self.signs == 0) & self.bisection.alive & self.worth
        rest = int(open_[self.net.widths[1] :].sum()) if len(self.net.layers) > 1 else 0
        for layer in range(2, len(self.net.layers)):
            units = np.arange(self.ends[layer - 1], self.ends[layer])
            units = units[open_[units]]
            if self.net.activations[layer - 1].bends:
                self._layer(layer, units, rest if evenly else 1)
            rest -= len(units)
        return self.spent > before and not self.over

    def _layer(self, layer: int, units: Ints, rest: int) -> None:
        """What seems to need least first, with as much or with its share, one of `rest` that wait."""
        need = self._need(layer, units)
        order = np.argsort(need, kind="stable")
        units, need = units[order], need[order]
        start = 0
        while start < len(units) and self.spent < self.allowed and not self.over:
            left = self.allowed - self.spent
            fair = max(LEAST, left // max(2, 2 * (rest - start)))
            each = min(left, max(fair, int(min(need[start], left))))
            some = units[start : start + max(1, min(TOGETHER, left // each))]
            hopeless = need[start : start + len(some)] > REACH * left
            start += len(some)
            enough = each >= GROWTH * self.tried[some, 0]
            some = some[(enough | self._resume(layer, some)) & ~hopeless]
            some = some[self.bisection.alive[some]]
            if len(some):
                self._try(layer, some, each)

    def _need(self, layer: int, units: Ints) -> Array:
        """Twice what units seem to need by their last try, less what a search that goes on has spent."""
        before, share = self.tried[units].T
        need = before / np.maximum(share, LITTLE_SETTLED)
        early = before < phase_branching.EARLY
        need = np.where(early, np.minimum(need, EARLY_GROWTH * before), need)
        return np.asarray(2 * need - before * self._resume(layer, units))

    def _resume(self, layer: int, units: Ints) -> Any:
        """Whose search can go on."""
        return np.array([self._waiting(layer, u) is not None for u in units.tolist()], dtype=bool)

    def _waiting(self, layer: int, unit: int) -> phase_branching.Search | None:
        """The search of a unit, where nothing new is known of the layers below."""
        search, known = self.searches.get(unit), self.signs[: self.ends[layer - 1]]
        return search if search is not None and np.array_equal(search.known, known) else None

    def _search(self, layer: int, unit: int) -> phase_branching.Search:
        """That of a unit, or a new one."""
        own, sign = unit - self.ends[layer - 1], int(self.bisection.wanted[unit])
        return self._waiting(layer, unit) or phase_branching.Search(
            self.net, self.box, self.signs, layer, own, sign
        )

    def _try(self, layer: int, units: Ints, limit: int) -> None:
        """Try some units of a layer at a time: as many of them as the budget is enough for."""
        left = self.budget - self.spent
        enough = max(1, left // limit)
        self.over = left < limit or enough < len(units)
        units = units[:enough]
        resumed = self._resume(layer, units)
        searches = [self._search(layer, unit) for unit in units.tolist()]
        prove = partial(phase_branching.prove, limit=limit, most=left)
        tried = self.bisection.map(prove, searches)
        known = self.signs.copy()
        for unit, goes_on, found in zip(units.tolist(), resumed, tried, strict=True):
            self.spent += found.spent
            self.parts += found.parts
            self.programs += found.programs
            self.searches[unit] = found.rest
            old = self.tried[unit, 0] if goes_on else 0.0
            self.tried[unit] = old + found.spent, found.share
            self.bisection.seen.look(np.clip(found.points, self.box.low, self.box.high))
            if found.case is not None and self._accept(found.case, known):
                self.bisection.leave(unit)
        self.bisection.look_again()
        self._tell()

    def _tell(self) -> None:
        progress = self.bisection.progress
        if progress is not None:
            open_ = int(self.bisection.alive.sum())
            done = min(self.spent, self.budget)
            progress(done, self.budget, f"branching, {open_} units open")

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
        """The cases, where these signs are known from the tree; `signs` and `how` are updated."""
        out = list[Case]()
        for case, known in self.cases:
            below = self.ends[case.layer - 1]
            same = np.array_equal(signs[:below], known[:below])
            kept = case if same else self._mended(case, signs)
            if kept is None:
                continue
            out.append(kept)
            unit = below + case.unit
            signs[unit], how[unit] = case.sign, self.how[unit]
        return out

    def _mended(self, case: Case, known: Signs) -> Case | None:
        """A case that stands on other signs below it than it was found with.

        Where more of them are known by now, its tree may tell apart what is known, so it is cut
        down, and searched anew should that not do.
        """
        kept = without_known(case, known)
        if linear_programs.holds(self.net, self.box, known, kept):
            return kept
        search = phase_branching.Search(self.net, self.box, known, case.layer, case.unit, case.sign)
        found = phase_branching.prove(search, AGAIN * len(case.tree)).case
        fine = found is not None and linear_programs.holds(self.net, self.box, known, found)
        return found if fine else None


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
