"""Which indices of a graph's tensors stand or fall together: its axes of units. Part of the kernel.

From a *seed*, one axis of one tensor with its own class for each index, the operators' `couple`
spreads classes to whatever is tied to it, until nothing is added. A class is then a *unit*: leaving
out all its indices everywhere is what a removal does. Class `FIXED` is never left out.

An axis of a tensor that is reached has a class for each of its indices; one that is not reached is
kept whole. At the end each node's `couple` adds nothing, which is all that the proof needs: it does
not matter which seed was taken, nor in which order nodes were visited.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from .model import GraphModel
from .operators import Node, Place, Shape, Ties

Ints = np.ndarray[Any, np.dtype[np.int64]]
FIXED = 0


class Coupling(Ties):
    """The classes that grow from one seed; what operators may do to them is `operators.Ties`."""

    def __init__(self, graph: GraphModel, seed: Place) -> None:
        self.graph, self.seed = graph, seed
        self.parent = np.zeros(1, dtype=np.int64)
        self.classes: dict[Place, Ints] = {}
        self.why: dict[int, str] = {}
        self.waiting: deque[Node] = deque()
        self.queued: set[int] = set()  # by identity: names are for people
        self._start(seed)
        for name in (*graph.inputs, *graph.outputs):
            if name == seed[0]:
                self._fix_ends(name)
        while self.waiting:
            node = self.waiting.popleft()
            self.queued.discard(id(node))
            self._couple(node)

    def _couple(self, node: Node) -> None:
        node.op.couple(node, self)

    # What operators ask

    def shape(self, name: str) -> Shape | None:
        return self.graph.shapes.get(name)

    def labels(self, a: Place) -> Ints | None:
        found = self.classes.get(a)
        return None if found is None else self.root(found)

    def same(self, a: Place, b: Place) -> None:
        """Index i of one is index i of the other."""
        n = self._size(a)
        if n is None or n != self._size(b):
            self.fix(a, "sizes that do not agree")
            self.fix(b, "sizes that do not agree")
        elif n > 1:
            self.pick(a, b, np.arange(n))

    def pick(self, a: Place, b: Place, index: Ints) -> None:
        """Index j of b is index[j] of a."""
        first, second = self.classes.get(a), self.classes.get(b)
        if first is None and second is None:
            return
        if first is None:
            first = self._start(a)
        if second is None:
            # nothing is known of b yet: it takes the classes of a
            self.classes[b] = first[index]
            self._reached(b)
            return
        self._join(first[index], second)

    def fix(self, a: Place, why: str, index: Ints | None = None) -> None:
        """Indices that stay, all where none are given; says why in words."""
        found = self.classes.get(a)
        if found is not None:
            some = found if index is None else found[index]
            for label in np.unique(self.root(some)).tolist():
                self.why.setdefault(label, why)
            self._join(some, np.zeros(len(some), dtype=np.int64))

    # How classes are kept

    def root(self, labels: Ints) -> Ints:
        found = self.parent[labels]
        while True:
            further = self.parent[found]
            if np.array_equal(further, found):
                return found
            found = further

    def _size(self, a: Place) -> int | None:
        shape = self.graph.shapes.get(a[0])
        n = None if shape is None else shape[a[1]]
        return n if isinstance(n, int) else None

    def _start(self, a: Place) -> Ints:
        n = self._size(a)
        assert n is not None
        first = len(self.parent)
        self.parent = np.append(self.parent, np.arange(first, first + n))
        self.classes[a] = np.arange(first, first + n)
        self._reached(a)
        return self.classes[a]

    def _reached(self, a: Place) -> None:
        if a[0] in self.graph.inputs or a[0] in self.graph.outputs:
            self._fix_ends(a[0])
        maker = self.graph.makers.get(a[0])
        for node in (*([] if maker is None else [maker]), *self.graph.readers.get(a[0], ())):
            if id(node) not in self.queued:
                self.queued.add(id(node))
                self.waiting.append(node)

    def _fix_ends(self, name: str) -> None:
        kind = "input" if name in self.graph.inputs else "output"
        for axis in range(len(self.graph.shapes.get(name) or ())):
            self.fix((name, axis), f"{kind} {name!r} of the graph")

    def _join(self, a: Ints, b: Ints) -> None:
        a, b = self.root(a), self.root(b)
        differ = a != b
        while differ.any():
            low, high = np.minimum(a[differ], b[differ]), np.maximum(a[differ], b[differ])
            # one partner for each class at a time; the others follow in the next round
            self.parent[high] = low
            a, b = self.root(a), self.root(b)
            differ = a != b


@dataclass(frozen=True)
class Units:
    """The classes grown from a seed, with numbers from 1 in the order of the seed; 0 is `FIXED`.

    Attributes:
        places: for each axis of each tensor that is reached, the unit of each of its indices.
        why: what fixes the seed's indices, where something does.
    """

    seed: Place
    places: dict[Place, Ints]
    why: tuple[str, ...]

    @property
    def count(self) -> int:
        return int(max(labels.max(initial=0) for labels in self.places.values()))


def units_from(graph: GraphModel, seed: Place, kind: type[Coupling] = Coupling) -> Units:
    """Of the units that an axis of a tensor has a part in."""
    coupling = kind(graph, seed)
    order = [seed, *(place for place in coupling.classes if place != seed)]
    roots = [coupling.labels(place) for place in order]
    together = np.concatenate([r for r in roots if r is not None])
    labels, first = np.unique(together, return_index=True)
    moving = labels != FIXED
    ranks = np.zeros(len(labels), dtype=np.int64)
    ranks[np.flatnonzero(moving)[np.argsort(first[moving], kind="stable")]] = np.arange(
        1, moving.sum() + 1
    )
    places = {
        place: ranks[np.searchsorted(labels, r)]
        for place, r in zip(order, roots, strict=True)
        if r is not None
    }
    reasons = tuple(dict.fromkeys(coupling.why.values()))
    return Units(seed, places, reasons)
