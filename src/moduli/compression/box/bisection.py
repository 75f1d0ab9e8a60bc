"""sup |a - b| over a box: a certified enclosure by bisection.

Bounds of a - b on boxes (`output_gap`), the box with the largest one halved first; from below,
values at points, re-evaluated exactly. `exact_gap` has the exact number where linear pieces give
it.
"""

from __future__ import annotations

from concurrent.futures import Executor
from fractions import Fraction
from typing import Any

import numpy as np

from moduli.common.progress import Progress
from moduli.kernel.bounds import input_splits
from moduli.kernel.bounds.output_gap import BATCH, GapBound, joint, measures, worst
from moduli.kernel.box import Box
from moduli.kernel.network import Network

from .linear_programs import PRODUCTS

Array = np.ndarray[Any, np.dtype[np.float64]]
Point = tuple[Fraction, ...]
PART = 32  # boxes that a worker takes at a time
PAIR = (
    4 * PRODUCTS
)  # multiplications that bounds of a difference may take on one box before it counts as several
BREATH = 1 + 2.0**-40
CLOSE = 2.0**-20  # of the upper end: as near to each other as both ends need to come


def in_parts(rows: Any, size: int) -> list[Any]:
    """Rows in blocks of a size, the last one perhaps smaller: what a worker takes at a time."""
    return [rows[k : k + size] for k in range(0, len(rows), size)]


class _Search:
    """Boxes with their bounds; the worst are halved first, each across its relatively widest side."""

    def __init__(self, a: Network, b: Network, box: Box, executor: Executor | None) -> None:
        self.a, self.b, self.box, self.map = a, b, box, map if executor is None else executor.map
        found = {
            name: (float(f(box.low[None], box.high[None])[0]), f)
            for name, f in measures(a, b).items()
        }
        self.how = min(found, key=lambda name: found[name][0])
        top, self.measure = found[self.how]
        self.low, self.high, self.top = box.low[None], box.high[None], np.array([top])
        self.node, self.tree, self.boxes = np.zeros(1, dtype=np.intp), [(-1, -1, -1)], 1
        self.seen, self.at = -1.0, box.low
        self.look(input_splits.middle(box.low, box.high)[None])

    def look(self, x: Array) -> None:
        with np.errstate(all="ignore"):
            here = np.abs(self.a.logits(x) - self.b.logits(x)).max(axis=1)
        here = np.where(np.isfinite(here), here, -1.0)
        if here.max() > self.seen:
            self.seen, self.at = float(here.max()), x[int(here.argmax())]

    def split(self, room: int) -> bool:
        """Halve the worst boxes; False where none can be."""
        pick = np.argsort(-self.top, kind="stable")[: max(1, min(BATCH, len(self.top), room // 2))]
        width = np.maximum(self.box.high - self.box.low, 1e-300)
        low, high = self.low[pick], self.high[pick]
        middle = input_splits.middle(low, high)
        score = np.where((low < middle) & (middle < high), (high - low) / width, -1.0)
        able = score.max(axis=1) >= 0
        if not able[0]:
            return False
        pick, low, high, axis = pick[able], low[able], high[able], score[able].argmax(axis=1)
        a, b, c, d = input_splits.halves(low, high, axis)
        new = np.concatenate([a, c]), np.concatenate([b, d])
        fresh = np.concatenate([*self.map(self.measure, *(in_parts(ends, PART) for ends in new))])
        self.look(input_splits.middle(*new))
        self._replace(pick, axis, new, fresh)
        return True

    def _replace(self, pick: Any, axis: Any, new: tuple[Array, Array], fresh: Array) -> None:
        first = len(self.tree)
        for k, (node, split) in enumerate(
            zip(self.node[pick].tolist(), axis.tolist(), strict=True)
        ):
            self.tree[node] = (split, first + k, first + len(pick) + k)
        self.tree += [(-1, -1, -1)] * (2 * len(pick))
        keep = np.ones(len(self.top), dtype=bool)
        keep[pick] = False
        self.low, self.high = (
            np.concatenate([self.low[keep], new[0]]),
            np.concatenate([self.high[keep], new[1]]),
        )
        self.top = np.concatenate([self.top[keep], fresh])
        self.node = np.concatenate([self.node[keep], np.arange(first, len(self.tree))])
        self.boxes += len(fresh)

    def preorder(self) -> tuple[int, ...]:
        out, stack = list[int](), [0]
        while stack:
            split, left, right = self.tree[stack.pop()]
            out.append(split)
            stack += [right, left] if split >= 0 else []
        return tuple(out)


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
    seen: float = -1.0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> GapBound:
    """Bisect the box until both ends are close, or decide about eps, or the budget (boxes) is
    spent.

    Args:
        budget: boxes; one of large networks counts as several, see `price`.
        seen: a difference known from elsewhere. executor: takes boxes.

    >>> a = Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="relu")
    >>> b = Network.mlp([[1.0]], [0.0], [[1.5]], [0.0], activation="relu")
    >>> enclose(a, b, Box([-1.0], [1.0]), 100).upper < 0.51
    True
    """
    search = _Search(a, b, box.of_dimension(a.widths[0]), executor)
    budget //= price(a, b)
    while search.boxes + 2 <= budget:
        top, floor = float(search.top.max()), max(seen, search.seen)
        if top - floor <= CLOSE * top or (eps is not None and (top * BREATH <= eps or floor > eps)):
            break
        if progress is not None:
            progress(
                search.boxes,
                budget,
                f"difference at most {1.001 * top:.4g}, {max(floor, 0.0):.3g} seen",
            )
        if not search.split(budget - search.boxes):
            break
    tree = search.preorder()
    upper = (
        worst(search.measure, search.box, tree) * BREATH
    )  # rounding depends on the machine and on the size of batches
    return GapBound(upper, search.how, tree, tuple(search.at.tolist()), search.boxes)
