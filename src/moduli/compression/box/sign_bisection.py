"""Signs of units by bisection of a box, with one tree for all of them: the search."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from moduli.common.progress import Progress
from moduli.kernel.bounds import input_splits, propagation
from moduli.kernel.bounds.input_splits import by_layer
from moduli.kernel.box import Box
from moduli.kernel.network import Network

from .bisection import in_parts
from .linear_programs import PRODUCTS
from .seen_signs import Points

Array = np.ndarray[Any, np.dtype[np.float64]]
Signs = np.ndarray[Any, np.dtype[np.int8]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
HOW = ("", "interval", "linear", "bisection", "program", "branching")
BATCH = 256  # boxes bounded at a time
PART = 64  # boxes that a worker takes at a time
MANY = 10  # inputs beyond which halving boxes settles little


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


class Bisection:
    """Bisection of a box with one tree for all candidates.

    Boxes are bounded in order of depth. When half of a share is spent, and half of each rest, the
    half of the candidates with the larger unsettled volume is laid aside, so that the others
    get what remains; once these are done, all that is unsettled has its turn again.

    Attributes:
        wanted: the sign that each hidden unit may have (0: no candidate). alive: candidates that no
            point refutes.
        focus: those of them that boxes are split for. slow: those of which the last run settled less
            than half. proved_elsewhere: those that other means have proved.
        boxes, spent: how many were bounded, and as how many of a small network these count.
        tree: per node the input that is split (or -1), the children, what stayed open.
    """

    def __init__(
        self,
        net: Network,
        box: Box,
        seen: Points,
        executor: Executor | None,
        progress: Progress | None,
        asked: Mask | None = None,
    ) -> None:
        self.net, self.box, self.seen, self.progress = net, box, seen, progress
        self.share, self.budget, self.over = 0, 0, False
        self.map = map if executor is None else executor.map
        self.wanted = seen.wanted()
        if asked is not None:
            self.wanted[~asked] = 0
        self.alive: Mask = self.wanted != 0
        self.focus = self.alive.copy()
        self.stuck = np.zeros(net.units, dtype=bool)
        self.proved_elsewhere = np.zeros(net.units, dtype=bool)
        self.slow = np.zeros(net.units, dtype=bool)
        self.last_volume = np.ones(net.units)
        self.how = np.zeros(net.units, dtype=np.int8)
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
        volume = self.volume()
        self.slow = volume > self.last_volume / 2
        self.last_volume = volume
        return self.over

    def look_again(self) -> None:
        """What points refute by now is no candidate."""
        self.alive &= self.seen.wanted() == self.wanted
        self.focus &= self.alive

    def leave(self, unit: int) -> None:
        """A candidate that is proved by other means."""
        self.alive[unit], self.proved_elsewhere[unit] = False, True

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
        self.focus = self.alive.copy()
        reserve = (self.share - self.spent) // 2
        if reserve >= BATCH:
            self._lay_aside(self.slow)
        while self.queue and self.spent < self.share and not self.over:
            self._step()
            if self.spent >= self.share - reserve and reserve >= BATCH:
                self._lay_aside(self.focus)
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
        need = np.array([n.open for n in nodes]) & self.focus
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
            if (node.open & self.focus).any():
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
        if not (left & self.focus).any():
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
        volume = self.volume() * self.focus
        rest = np.flatnonzero(volume)
        rest = rest[np.argsort(volume[rest], kind="stable")][(len(rest) + 1) // 2 :]
        self.focus[rest[these[rest]]] = False

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
