"""sup |a - b| over a box: a certified enclosure by bisection.

Bounds of a - b on boxes (`output_gap`), the box with the largest one halved first; from below,
values at points, re-evaluated exactly. `exact_gap` has the exact number where linear pieces give
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np

from moduli.common.progress import Progress
from moduli.compression.certify import BREATH
from moduli.kernel.bounds import input_splits
from moduli.kernel.bounds.output_gap import (
    BATCH,
    GapBound,
    Measure,
    Measured,
    joint,
    measures,
)
from moduli.kernel.box import Box
from moduli.kernel.exact_numbers import above
from moduli.kernel.network import Network

from .linear_programs import PRODUCTS

Array = np.ndarray[Any, np.dtype[np.float64]]
PART = 128  # boxes that a worker takes at a time
PAIR = (
    4 * PRODUCTS
)  # multiplications that bounds of a difference may take on one box before it counts as several
PLACES = 63  # boxes in which a difference may be largest
HOPE = 4.0  # bounds so many times too large do not get small enough by care, only by halving
CLOSE = 2.0**-20  # of the upper end: as near to each other as both ends need to come
NEARLY = 2.0  # a kind of bounds that is cheaper may be so much worse at the start
WIDTH = (
    2.0**-6
)  # of what decides which input is halved: how wide it is, beside what it is to blame for


def in_parts(rows: Any, size: int) -> list[Any]:
    """Rows in blocks of a size, the last one perhaps smaller: what a worker takes at a time."""
    return [rows[k : k + size] for k in range(0, len(rows), size)]


class BoxSearch:
    """Boxes with their bounds; the worst are halved first, each across the input that is most to
    blame for its bound, or else across its relatively widest side.

    Args:
        measures: bounds of what is sought, by name. value: what is sought, at inputs ``[points,
            inputs]``. price: as how many boxes one counts. executor: takes boxes.
    """

    def __init__(
        self, measures: Mapping[str, Measure], value: Callable[[Array], Array], box: Box,
        price: int = 1, executor: Executor | None = None,
    ) -> None:  # fmt: skip
        self.value, self.box, self.price = value, box, price
        self.map = map if executor is None else executor.map
        found = {
            name: (f(box.low[None], box.high[None], 0.0, np.inf), f) for name, f in measures.items()
        }
        self.how = min(found, key=lambda name: float(found[name][0].top[0]))
        if "zonotopes" in found and found["zonotopes"][0].top <= NEARLY * found[self.how][0].top:
            self.how = "zonotopes"
        first, self.measure = found[self.how]
        self.low, self.high, self.top = box.low[None], box.high[None], first.top
        self.blame = self._shares(first, self.low, self.high)
        self.node, self.tree, self.boxes = np.zeros(1, dtype=np.intp), [(-1, -1, -1)], 1
        self.latest = first.top
        self.seen, self.at = -1.0, box.low
        self.look(input_splits.middle(box.low, box.high)[None])

    def look(self, x: Array) -> None:
        with np.errstate(all="ignore"):
            here = self.value(x)
        here = np.where(np.isfinite(here), here, -1.0)
        if here.max() > self.seen:
            self.seen, self.at = float(here.max()), x[int(here.argmax())]

    @property
    def upper(self) -> float:
        """Above all bounds, those too that an interrupted step may not have filed yet."""
        return float(max(self.top.max(), self.latest.max())) * BREATH

    @np.errstate(all="ignore")
    def _shares(self, found: Measured, low: Array, high: Array) -> Array:
        width: Array = (high - low) / np.maximum(self.box.high - self.box.low, 1e-300)
        width /= np.maximum(width.sum(axis=1, keepdims=True), 1e-300)
        if found.blame is None:
            return width
        total = np.maximum(found.blame.sum(axis=1, keepdims=True), 1e-300)
        shares = found.blame / total + WIDTH * width
        return np.asarray(np.where(np.isfinite(shares), shares, width))

    def split(self, room: int, enough: float) -> bool:
        """Halve the worst boxes; False where none can be.

        Args:
            enough: bounds below that need not be better.
        """
        size = max(1, min(BATCH, len(self.top), room // 2))
        pick = np.argsort(-self.top, kind="stable")[:size]
        pick = pick[(self.top[pick] > enough) | (np.arange(size) == 0)]
        low, high = self.low[pick], self.high[pick]
        middle = input_splits.middle(low, high)
        score = np.where((low < middle) & (middle < high), self.blame[pick], -1.0)
        able = score.max(axis=1) >= 0
        if not able[0]:
            return False
        pick, low, high, axis = pick[able], low[able], high[able], score[able].argmax(axis=1)
        a, b, c, d = input_splits.halves(low, high, axis)
        new = np.concatenate([a, c]), np.concatenate([b, d])
        boxes = [in_parts(ends, PART) for ends in new]
        found = [*self.map(partial(_measured, self.measure, enough), *boxes)]
        fresh = np.concatenate([part.top for part in found])
        blame = np.concatenate([self._shares(*part) for part in zip(found, *boxes, strict=True)])
        self.look(input_splits.middle(*new))
        self.latest = fresh
        self._replace(pick, axis, new, fresh, blame)
        return True

    def run(
        self,
        budget: int,
        *,
        eps: float | None = None,
        tol: float = 0.0,
        seen: float = -1.0,
        progress: Progress | None = None,
    ) -> None:
        """Halve boxes until both ends are close, eps is decided, or the budget is spent; what is found
        holds also where this is interrupted.

        Args:
            budget: boxes, each counting as `price` of them.
            tol: the upper end may be above the lower one by so much of it.
            seen: a difference known from elsewhere.
        """
        budget //= self.price
        while self.boxes + 2 <= budget:
            top, floor = self.upper, max(seen, self.seen, 0.0)
            enough = max(floor * (1 + max(tol, CLOSE)), 0.0 if eps is None else eps)
            if top <= enough or (eps is not None and floor > eps):
                return
            if progress is not None:
                progress(
                    self.boxes, budget, f"difference at most {above(top, 4)}, {floor:.3g} seen"
                )
            if not self.split(budget - self.boxes, enough / BREATH):
                break
        self.polish()

    def bound(self) -> GapBound:
        """What is known of all boxes so far."""
        return GapBound(self.upper, self.how, self.preorder(), tuple(self.at.tolist()), self.boxes)

    def places(self) -> Array:
        """The input of the largest difference seen, and the middles of the worst boxes."""
        pick = np.argsort(-self.top, kind="stable")[:PLACES]
        middles = input_splits.middle(self.low[pick], self.high[pick])
        return np.concatenate([self.at[None], middles])

    def polish(self) -> None:
        """Bound the worst boxes with care, until the worst one had it or all that were picked."""
        pick = np.argsort(-self.top, kind="stable")[:BATCH]
        tops = self.top.copy()
        for part in in_parts(pick, PART // 8):
            if tops[part].max() < tops.max():
                break
            tops[part] = np.minimum(
                tops[part], self.measure(self.low[part], self.high[part], 0.0, np.inf).top
            )
        self.top = self.latest = tops

    def _replace(
        self, pick: Any, axis: Any, new: tuple[Array, Array], fresh: Array, blame: Array
    ) -> None:
        first = len(self.tree)
        # Leaves first: an interrupt may fall anywhere, and a tree has to be one at every moment.
        self.tree += [(-1, -1, -1)] * (2 * len(pick))
        for k, (node, split) in enumerate(
            zip(self.node[pick].tolist(), axis.tolist(), strict=True)
        ):
            self.tree[node] = (split, first + k, first + len(pick) + k)
        keep = np.ones(len(self.top), dtype=bool)
        keep[pick] = False
        self.low, self.high = (
            np.concatenate([self.low[keep], new[0]]),
            np.concatenate([self.high[keep], new[1]]),
        )
        self.top = np.concatenate([self.top[keep], fresh])
        self.blame = np.concatenate([self.blame[keep], blame])
        self.node = np.concatenate([self.node[keep], np.arange(first, len(self.tree))])
        self.boxes += len(fresh)

    def preorder(self) -> tuple[int, ...]:
        out, stack = list[int](), [0]
        while stack:
            split, left, right = self.tree[stack.pop()]
            out.append(split)
            stack += [right, left] if split >= 0 else []
        return tuple(out)


class GapSearch(BoxSearch):
    """Of two networks, how far they are apart."""

    def __init__(self, a: Network, b: Network, box: Box, executor: Executor | None = None) -> None:
        box = box.of_dimension(a.widths[0])
        super().__init__(measures(a, b), partial(_apart, a, b), box, price(a, b), executor)


def _apart(a: Network, b: Network, x: Array) -> Array:
    return np.asarray(np.abs(a.logits(x) - b.logits(x)).max(axis=1))


def _measured(measure: Measure, enough: float, low: Array, high: Array) -> Measured:
    return measure(low, high, enough, enough * HOPE)


def price(a: Network, b: Network) -> int:
    """As how many boxes one counts: by the multiplications that bounds of all units of both
    networks side by side take.
    """
    both = joint(a, b)
    total = 0
    for net in (a, b) if both is None else (both,):
        below = 0
        for layer in net.layers:
            total += 4 * layer.weight.size + 2 * len(layer.bias) * below
            below += layer.weight.size
    return max(1, -(-total // PAIR))


def enclose(
    a: Network,
    b: Network,
    box: Box,
    budget: int,
    *,
    eps: float | None = None,
    executor: Executor | None = None,
) -> GapBound:
    """Bisect the box until both ends are close, or decide about eps, or the budget (boxes) is
    spent.

    Args:
        budget: boxes; one of large networks counts as several, see `price`. executor: takes boxes.

    >>> a = Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="relu")
    >>> b = Network.mlp([[1.0]], [0.0], [[1.5]], [0.0], activation="relu")
    >>> enclose(a, b, Box([-1.0], [1.0]), 100).upper < 0.51
    True
    """
    search = GapSearch(a, b, box, executor)
    search.run(budget, eps=eps)
    return search.bound()
