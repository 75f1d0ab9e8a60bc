"""How alike units of two graphs are by what they compute on inputs: correlations of their activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from moduli.common.graph import Graph
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Place

from .alignment import STILL
from .graph_scales import Gauge
from .graph_units import Exchangeable, UnitSets

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


class Seen(NamedTuple):
    """An axis of a value that has the units of a set.

    Attributes:
        which: number of the set. place: the value and the axis. indices: of each member [member, its indices].
            turned: whether signs that are free change it.
    """

    which: int
    place: Place
    indices: Ints
    turned: bool


def correlations(
    a: Graph, b: Graph, sets: UnitSets, gauges: Sequence[Gauge], feeds: Iterable[Array]
) -> dict[int, Array]:
    """For each set the sum over values that have its units of the correlations of both graphs' units,
    ``[of b, of a]``; sizes of correlations where signs are free. Sets that no value shows alone are left out: heads
    and their coordinates, which order two axes of one value.

    Args:
        feeds: inputs of the only input of both, a batch at a time.
    """
    model = a.model.live()
    theirs = _names(model, b.model.live())
    seen = list(_seen(model, sets, gauges, theirs))
    moments = [_Moments(len(one.indices)) for one in seen]
    names = list(dict.fromkeys(one.place[0] for one in seen))
    for x in feeds:
        mine = a.source.values({a.inputs[0]: x}, names)
        other = b.source.values({b.inputs[0]: x}, [theirs[name] for name in names])
        for one, total in zip(seen, moments, strict=True):
            name = one.place[0]
            if name in mine and theirs[name] in other:
                total.add(_columns(other[theirs[name]], one), _columns(mine[name], one))
    found = dict[int, Array]()
    for one, total in zip(seen, moments, strict=True):
        if total.count > 1:
            gain = np.abs(total.correlation()) if one.turned else total.correlation()
            found[one.which] = found.get(one.which, 0.0) + gain
    return found


def _names(a: GraphModel, b: GraphModel) -> Mapping[str, str]:
    """The name in the second graph of each value of the first, from the outputs back."""
    found, left = dict[str, str](), list(zip(a.outputs, b.outputs, strict=True))
    while left:
        mine, other = left.pop()
        if mine in found:
            continue
        found[mine] = other
        if mine in a.makers:
            one, its = a.makers[mine], b.makers[other]
            left += zip(one.inputs, its.inputs, strict=True)
            left += zip(one.outputs, its.outputs, strict=True)
    return found


def _seen(
    model: GraphModel, sets: UnitSets, gauges: Sequence[Gauge], theirs: Mapping[str, str]
) -> Iterable[Seen]:
    """Values that nodes make, in which one axis alone is ordered by a set, and not by several."""
    ordered = [
        {
            place
            for place, labels in part.units.places.items()
            if np.isin(part.members, labels).any()
        }
        for part in sets.sets
    ]
    for which, part in enumerate(sets.sets):
        if part.head is not None:
            continue
        own = [gauge for gauge in gauges if gauge.part is part and gauge.sign]
        for name, axis in sorted(ordered[which]):
            if name not in model.makers or name not in theirs:
                continue
            others = {place for places in ordered for place in places if place[0] == name}
            indices = _indices(part, (name, axis))
            if others == {(name, axis)} and indices is not None:
                turned = any(gauge.powers.get((name, axis), 0) % 2 for gauge in own)
                yield Seen(which, (name, axis), indices, turned)


def _indices(part: Exchangeable, place: Place) -> Ints | None:
    """Of each member, if all have as many."""
    labels = part.units.places[place]
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], part.members)
    count = np.searchsorted(labels[order], part.members + 1) - starts
    if count.min() != count.max() or not count.max():
        return None
    return np.asarray(order[starts[:, None] + np.arange(count[0])], dtype=np.int64)


def _columns(array: Array, one: Seen) -> Array:
    """What each member computes, a column each."""
    moved = np.moveaxis(np.asarray(array, dtype=np.float64), one.place[1], 0)[one.indices]
    return moved.reshape(len(one.indices), -1).T


class _Moments:
    """Of two tables of as many columns, a batch of rows at a time (Chan, Golub, LeVeque 1983): means, and sums of
    products of what is left without them, so that large means cost no digits.
    """

    def __init__(self, units: int) -> None:
        self.count = 0
        self.means = np.zeros((2, units))
        self.squares = np.zeros((2, units))  # without means
        self.sizes = np.zeros((2, units))  # of squares with means
        self.products = np.zeros((units, units))  # without means

    def add(self, first: Array, second: Array) -> None:
        if not len(first):
            return
        tables = first, second
        means = np.stack([table.mean(axis=0) for table in tables])
        left, right = (table - mean for table, mean in zip(tables, means, strict=True))
        # Sums about the joint mean are those about both means, and what these are apart.
        apart, total = means - self.means, self.count + len(first)
        weight = self.count * len(first) / total
        self.products += left.T @ right + weight * np.outer(apart[0], apart[1])
        self.squares += [np.square(x).sum(axis=0) for x in (left, right)]
        self.squares += weight * np.square(apart)
        self.sizes += [np.square(table).sum(axis=0) for table in tables]
        self.means += apart * (len(first) / total)
        self.count = total

    def correlation(self) -> Array:
        """Between columns; 0 for those of which no more than rounding is left without their mean."""
        # what is computed in float32 varies by roundings of it
        still = self.squares <= STILL * self.sizes
        norms = np.where(still, 0.0, np.sqrt(self.squares))
        sizes = np.outer(norms[0], norms[1])
        return np.asarray(
            np.divide(self.products, sizes, out=np.zeros(sizes.shape), where=sizes > 0)
        )
