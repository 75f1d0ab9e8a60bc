"""Which units of a graph may trade places: the search.

Sets of units of an axis, as they are, and the coordinates of each head apart from those of others,
which are found in the graph that is cut along its heads (`kernel.graph.unrolling`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from moduli.compression.exact.graph_plan import first_indices, seeds
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.axes import Units
from moduli.kernel.graph.certificate import GraphMove
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Contract, Place
from moduli.kernel.graph.ordering import commuting, exchangeable
from moduli.kernel.graph.unrolling import taken_apart, unrolled

Array = np.ndarray[Any, np.dtype[Any]]
Rounds = tuple[tuple[GraphMove, ...], ...]


class Head(NamedTuple):
    """Where coordinates are: the number of the set of heads, of the head among them, and of what these
    coordinates are of each of them.
    """

    heads: int
    number: int
    kind: int


class Exchangeable(NamedTuple):
    """Units that may trade places in every way.

    Attributes:
        units: of the axis. members: numbers of those that do, from 1. head: of coordinates of a single
            head, where that is.
    """

    units: Units
    members: Array
    head: Head | None = None


@dataclass(frozen=True)
class UnitSets:
    """All units of a graph that may trade places.

    Attributes:
        graph: whose. sets: of units. cut: the graph that is cut along heads, and where.
    """

    graph: GraphModel
    sets: tuple[Exchangeable, ...]
    cut: GraphModel
    places: tuple[Place, ...]

    @staticmethod
    def of(graph: GraphModel) -> UnitSets:
        sets = exchangeable_units(graph)
        heads, split = list[list[Place]](), dict[str, int]()
        for part in sets:  # a tensor is cut once, however many axes of heads it has
            heads.append([place for place in _split_along(graph, part) if place[0] not in split])
            split.update(heads[-1])
        places = tuple(split.items())
        cut = _cut(graph, places)
        if cut is None:
            return UnitSets(graph, tuple(sets), graph, ())
        apart = _of_heads(graph, sets, heads, exchangeable_units(cut, graph.shapes))
        mine = {place for part in apart for place in _stored(graph, part)}
        left = [
            part for part in sets
            if not any(name in split and split[name] != axis for name, axis in _places(part))
            or not set(_stored(graph, part)) <= mine
        ]  # fmt: skip
        number = {id(part): k for k, part in enumerate(left)}
        for k, part in enumerate(apart):
            assert part.head is not None
            owner = number[id(sets[part.head.heads])]
            apart[k] = part._replace(head=part.head._replace(heads=owner))
        return UnitSets(graph, (*left, *apart), cut, places)

    def model(self, part: Exchangeable) -> GraphModel:
        """The graph of which a set is."""
        return self.graph if part.head is None else self.cut

    def rounds(self, moves: Iterable[tuple[Exchangeable, GraphMove | None]]) -> Rounds:
        """Moves of sets, those of coordinates of single heads first."""
        given = [(part.head is None, move) for part, move in moves if move is not None]
        apart = [move for whole, move in given if not whole]
        if apart:
            apart = [GraphMove("unroll", *place) for place in self.places] + apart
        rounds = tuple(apart), tuple(move for whole, move in given if whole)
        return tuple(some for some in rounds if some)


def _cut(graph: GraphModel, places: Sequence[Place]) -> GraphModel | None:
    """None where there is nothing to cut, names are taken, or there are too many heads."""
    try:
        return unrolled(graph, places) if places else None
    except CertificateRejected:
        return None


def _places(part: Exchangeable) -> list[Place]:
    """Where members are."""
    return [
        place for place, labels in part.units.places.items() if np.isin(part.members, labels).any()
    ]


def _stored(graph: GraphModel, part: Exchangeable) -> list[Place]:
    return [place for place in _places(part) if place[0] in graph.constants]


def _split_along(graph: GraphModel, part: Exchangeable) -> list[Place]:
    """Where a reshape makes an axis of just these units of a part of another, if they are heads: further
    on products of tensors keep them apart.
    """
    own = {
        place for place, labels in part.units.places.items()
        if np.array_equal(np.sort(labels), np.sort(part.members))
    }  # fmt: skip
    kept_apart = any(
        isinstance(node.op, Contract) and place[0] == node.output and place[1] < len(graph.shapes[node.output] or ()) - 2
        for place in own for node in [graph.makers.get(place[0])] if node is not None
    )  # fmt: skip
    found = []
    for name, axis in own if kept_apart else ():
        node = graph.makers.get(name)
        if node is not None and taken_apart(node, graph.shapes, axis) is not None:
            found.append((name, axis))
    return sorted(found)


def _of_heads(
    graph: GraphModel,
    sets: Sequence[Exchangeable],
    heads: Sequence[Sequence[Place]],
    apart: Sequence[Exchangeable],
) -> list[Exchangeable]:
    """Sets of the graph that is cut, each with the head in which it is."""
    kinds, found = dict[tuple[int, tuple[Place, ...]], int](), list[Exchangeable]()
    for part in apart:
        stored = tuple(sorted(_stored(graph, part)))
        for k, whole in enumerate(sets):
            if not heads[k] or not stored or stored[0] not in whole.units.places:
                continue
            inside = np.isin(part.units.places[stored[0]], part.members)
            owners = np.unique(whole.units.places[stored[0]][inside])
            number = np.flatnonzero(whole.members == owners[0])
            if len(owners) == 1 and len(number):
                kind = kinds.setdefault((k, stored), len(kinds))
                found.append(part._replace(head=Head(k, int(number[0]), kind)))
                break
    return found


def exchangeable_units(graph: GraphModel, but: Iterable[str] = ()) -> list[Exchangeable]:
    """All sets of units that may trade places in every way, axis by axis; of some tensors none."""
    found, covered = list[Exchangeable](), set[Place]()
    taken, tried = set[tuple[Place, bytes]](), set[tuple[Place, bytes]]()
    left_out = set(but)
    for seed in reversed(seeds(graph)):
        if seed in covered or seed[0] in left_out or not _known(graph, seed):
            continue
        units = exchangeable(graph, seed)
        keys = _keys(units)
        for part in _alike(units):
            own = [unit for unit in part if keys[unit] not in taken]
            tried.update(keys[unit] for unit in own)
            if len(own) > 1 and _trade(graph, units, own):
                found.append(Exchangeable(units, np.array(own)))
                taken.update(keys[unit] for unit in own)
        for place, labels in units.places.items():
            if all(keys[unit] in tried for unit in np.unique(labels).tolist() if unit):
                covered.add(place)
    return found


def _keys(units: Units) -> dict[int, tuple[Place, bytes]]:
    """A name for each unit that does not depend on the seed: the first place, by name, where it is, and
    all its indices there; a head and a coordinate inside heads share some.
    """
    found: dict[int, tuple[Place, bytes]] = {}
    for place in sorted(units.places):
        labels = units.places[place]
        order = np.argsort(labels, kind="stable")
        names, starts = np.unique(labels[order], return_index=True)
        for unit, own in zip(names.tolist(), np.split(order, starts[1:]), strict=True):
            if unit not in found:
                found[unit] = place, own.tobytes()
    return found


def _known(graph: GraphModel, seed: Place) -> bool:
    shape = graph.shapes.get(seed[0])
    return shape is not None and isinstance(shape[seed[1]], int) and shape[seed[1]] != 1


def _alike(units: Units) -> list[list[int]]:
    """Units of the seed with as many indices in each place."""
    size = units.count + 1
    counts = [np.bincount(labels, minlength=size) for labels in units.places.values()]
    on_seed = set(units.places[units.seed].tolist())
    groups: dict[tuple[int, ...], list[int]] = {}
    for unit in range(1, size):
        if unit in on_seed:
            groups.setdefault(tuple(int(c[unit]) for c in counts), []).append(unit)
    return [part for part in groups.values() if len(part) > 1]


def _trade(graph: GraphModel, units: Units, part: Sequence[int]) -> bool:
    """Whether two of them may trade places, and all in a circle: so they may in every way."""
    for moved in ((part[1], part[0], *part[2:]), (*part[1:], part[0])):
        try:
            commuting(graph, units, order_of(units, part, moved))
        except CertificateRejected:
            return False
    return True


def order_of(units: Units, part: Sequence[int], moved: Sequence[int]) -> list[int]:
    """Of all units, where some are put in the places of others."""
    order = list(range(1, units.count + 1))
    for place, former in zip(part, moved, strict=True):
        order[place - 1] = former
    return order


def move_to(part: Exchangeable, moved: Array) -> GraphMove | None:
    """The move that puts units in the places of the members, one after another; None where they are
    there.
    """
    units, members, _ = part
    if np.array_equal(members, moved):
        return None
    first = first_indices(units)
    order = order_of(units, members.tolist(), moved.tolist())
    return GraphMove("order", *units.seed, tuple(first[u] for u in order if u in first))
