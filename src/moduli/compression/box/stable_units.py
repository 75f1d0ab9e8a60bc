"""Which hidden units never change sign on a box: stably inactive (z <= 0) or stably active (z >=
0).

The search: points first (a unit seen on both sides is out, with the points as witnesses), then
bounds on the whole box, then bisection of the box, one tree for all candidates (briefly where
inputs are many), then for each that is left a linear program, and at last programs and branching.
What it finds is a tree, a list of signs and cases, and only `sign_splits.verify` decides whether
they hold. Touching zero is allowed on either side, because relu is continuous.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import product
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

from . import linear_programs
from .bisection import in_parts
from .linear_programs import BOXES, PRODUCTS

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
WORTH = 8  # programs that branching is worth with
CLIMB = (
    8 * PRODUCTS
)  # multiplications, for each box of the budget, that the first look at points may take
TOGETHER = 8  # linear programs that are begun before the next look at the budget


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
        boxes, programs: how many boxes the search has bounded, and linear programs solved.
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
            "programs": self.programs,
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
        on: a `Box`. budget: boxes to bound, and for what they leave open a fiftieth as many linear
            programs to solve; those of large networks count as several, see
            `linear_programs.PRODUCTS` and `linear_programs.STEPS`.
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
        seen = Points(net, box, np.random.default_rng(seed), budget)
        search = Search(net, box, seen, bisection_budget(net.widths[0], budget), executor, progress)
        search.run()
    tree, signs = search.proof()
    failed = (
        input_splits.unproved(net, box, tree, by_layer(net, signs)) >= 0
    )  # rounding depends on the size of a batch
    signs[failed] = 0
    how = np.where(signs != 0, search.how, 0).astype(np.int8)
    with np.errstate(all="ignore"):
        cases, solved = _by_cases(net, box, signs, how, search, budget // BOXES, executor, progress)
    left = np.where((signs == 0) & search.alive, search.wanted, 0).astype(np.int8)
    witnesses = by_layer(net, np.stack([seen.at_least, seen.at_most], axis=1))
    status = "proved" if not left.any() and _refuted(net, seen, signs == 0) else "bounded"
    return Stability(
        status, net, box, by_layer(net, signs), tree, tuple(cases), by_layer(net, how),
        by_layer(net, left), witnesses, search.boxes, solved,
    )  # fmt: skip


def bisection_budget(inputs: int, budget: int) -> int:
    """How much of a budget bisection is worth: little where inputs are many."""
    return budget if inputs <= MANY else budget // LITTLE


def _by_cases(
    net: Network, box: Box, signs: Signs, how: Signs, search: Search, limit: int, executor: Executor | None,
    progress: Progress | None,
) -> tuple[list[Case], int]:  # fmt: skip
    """Linear programs for the signs that are open, one for each and then many; `signs`, `how`,
    `search.alive` are updated.
    """
    ends, cases, left, map_ = (
        ends_of(net),
        list[Case](),
        limit,
        map if executor is None else executor.map,
    )
    gap, solved = np.zeros(net.units), 0
    if sum(layer.weight.size for layer in net.layers) > linear_programs.ENTRIES:
        return cases, 0
    for method, least in ((HOW.index("program"), 1), (HOW.index("branching"), WORTH)):
        for layer in range(2, len(net.layers)):
            open_ = (signs == 0) & search.alive
            units = np.arange(ends[layer - 1], ends[layer])
            units = units[open_[units]] if net.activations[layer - 1].bends else units[:0]
            each = least if least == 1 else max(least, left // max(1, int(open_.sum())))
            units = units[np.argsort(gap[units], kind="stable")][: max(0, left) // each]
            one = partial(linear_programs.prove, net, box, signs.copy(), layer, limit=each)
            for start in range(0, len(units), TOGETHER):
                if left <= 0:
                    break
                some = units[start : start + TOGETHER]
                tried = map_(one, (some - ends[layer - 1]).tolist(), search.wanted[some].tolist())
                for unit, found in zip(some.tolist(), tried, strict=True):
                    left, solved, gap[unit] = left - found.spent, solved + found.programs, found.gap
                    search.seen.look(np.clip(found.points, box.low, box.high))
                    if found.case is not None and linear_programs.holds(
                        net, box, signs, found.case
                    ):
                        cases.append(found.case)
                        signs[unit] = search.wanted[unit]
                        how[unit] = method if found.programs else HOW.index("linear")
                    if progress is not None:
                        count = int(((signs == 0) & search.alive).sum())
                        progress(
                            min(limit, limit - left), limit, f"linear programs, {count} units open"
                        )
            search.alive &= search.seen.wanted() == search.wanted
    return cases, solved


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
        self._climb(rng, budget)

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

    def _climb(self, rng: np.random.Generator, budget: int, most: int = 6, steps: int = 16) -> None:
        """Signs of gradients, with shrinking steps, against every sign that is not refuted yet.

        From up to `most` starts for each unit; fewer, or none, where all steps from one start are
        beyond the budget.
        """
        low, high = self.box.low, self.box.high
        for l, units in enumerate(by_layer(self.net, np.arange(self.net.units))):
            units = units[self.wanted()[units] != 0]
            if not len(units):
                continue
            way = -self.wanted()[units].astype(np.float64)
            layer = self.net.layers[l]
            first = int(sum(self.net.widths[1 : l + 1]))
            head = Layer(layer.weight[units - first], layer.bias[units - first], IDENTITY)
            prefix = Network((*self.net.layers[:l], head))
            each = len(units) * steps * 2 * sum(layer.weight.size for layer in prefix.layers)
            starts = min(most, budget * CLIMB // max(1, each * (len(self.net.layers) - 1)))
            if not starts:
                continue
            x = self._anywhere(rng, (starts, len(units), len(low)))
            x[0] = np.where(way[:, None] > 0, self.at_most[units], self.at_least[units])
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

    Boxes are bounded in order of depth. When half of the budget is spent, and half of each rest,
    the half of the candidates with the larger unsettled volume is laid aside, so that the others
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
        budget: int,
        executor: Executor | None,
        progress: Progress | None,
    ) -> None:
        self.net, self.seen, self.budget, self.progress = net, seen, budget, progress
        self.map = map if executor is None else executor.map
        self.wanted = seen.wanted()
        self.alive: Mask = self.wanted != 0
        self.tried, self.stuck = self.alive.copy(), np.zeros(net.units, dtype=bool)
        self.how = np.zeros(net.units, dtype=np.int8)
        self.boxes, self.spent = 0, 0
        self.price = 1  # as how many boxes each of the last ones counted
        self.tree: list[tuple[int, int, int, Mask]] = [(-1, -1, -1, self.alive.copy())]
        self.queue = deque([Node(0, 0, box.low, box.high, self.alive.copy())])
        self.aside: list[Node] = []

    def run(self) -> None:
        """Search until every candidate is settled or the budget is spent."""
        root = self.queue[0]
        if not self.alive.any() or self.budget < 1:
            return
        plain = propagation.propagate(
            self.net.layers[:-1], root.low[None], root.high[None], linear=False
        ).bounds
        for way, how, (lo, hi) in zip(
            by_layer(self.net, self.wanted), by_layer(self.net, self.how), plain, strict=True
        ):
            how[((way < 0) & (hi[0] <= 0)) | ((way > 0) & (lo[0] >= 0))] = 1
        self._step()
        self.how[self.settled & (self.how == 0)] = 2
        while (self.queue or self.aside) and self.spent < self.budget:
            self._round()
        self.how[self.settled & (self.how == 0)] = 3

    def _round(self) -> None:
        """All candidates anew, fewer and fewer of them, until those in focus are settled."""
        self.queue.extend(self.aside)
        self.aside.clear()
        self.tried = self.alive.copy()
        reserve = (self.budget - self.spent) // 2
        while self.queue and self.spent < self.budget:
            self._step()
            if self.spent >= self.budget - reserve and reserve >= BATCH:
                self._lay_aside()
                reserve //= 2
            if self.progress is not None:
                count = int((self.alive & ~self.settled).sum())
                self.progress(min(self.spent, self.budget), self.budget, f"{count} units open")

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
        for one in found:
            self.seen.look(one.corners)
        self.seen.look(input_splits.middle(low, high))
        self.alive &= self.seen.wanted() == self.wanted
        self.tried &= self.alive
        proved = np.concatenate([one.proved for one in found])
        score = np.concatenate([one.score for one in found])
        split = np.argmax(score, axis=1)
        split[~(score.max(axis=1) >= 0)] = -1  # no axis has a float between its ends
        for node, axis, done in zip(nodes, split.tolist(), proved, strict=True):
            self._place(node, axis, node.open & ~done & self.alive)

    def _next(self) -> list[Node]:
        nodes: list[Node] = []
        most = max(1, min(BATCH, (self.budget - self.spent) // self.price))
        while self.queue and len(nodes) < most:
            node = self.queue.popleft()
            if (node.open & self.tried).any():
                nodes.append(node)
            elif (node.open & self.alive).any():
                self.aside.append(node)
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

    def _lay_aside(self) -> None:
        volume = np.zeros(len(self.wanted))
        for node in self.queue:
            volume += (node.open & self.tried) * 2.0**-node.depth
        rest = np.flatnonzero(volume)
        self.tried[rest[np.argsort(volume[rest], kind="stable")][(len(rest) + 1) // 2 :]] = False

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
