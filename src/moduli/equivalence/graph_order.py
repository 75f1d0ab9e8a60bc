"""An order of the units of a graph that does not depend on the order in which they stand: the search.

Units are told apart by what their rows and columns hold, refined until nothing changes (colours, as in
tests of graph isomorphism), and sorted by that. What is proposed here the kernel checks
(`kernel.graph.ordering`): two graphs that reach one order of units are the same function. Where two
units cannot be told apart one of them is named first, and colours are refined again; that they can be
exchanged is not proved, so twins may be missed, and no others are taken for twins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.graph.model import GraphModel

from .graph_units import Exchangeable, Rounds, UnitSets, move_to

Array = np.ndarray[Any, np.dtype[Any]]
Words = np.ndarray[Any, np.dtype[np.uint64]]
BLOCK = 2**20  # entries that are looked at at a time
NAMED = 64  # units that are named to tell others apart


def rounds_to_order(found: UnitSets, graph: GraphModel) -> Rounds:
    """Moves after which units of a graph, which has these sets, stand in an order that does not depend on
    where they stood.
    """
    colours = _told_apart(graph, found.sets)
    return found.rounds(
        (part, move_to(part, part.members[np.argsort(own, kind="stable")]))
        for part, own in zip(found.sets, colours, strict=True)
    )


# Colours --------------------------------------------------------------------------------------------------------


def _mixed(x: Words) -> Words:
    """Words in which each bit depends on all bits (splitmix64)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def _word(*parts: int) -> Words:
    found: Words = np.array(0x9E3779B97F4A7C15, dtype=np.uint64)
    for part in parts:
        found = _mixed(np.asarray(found + np.uint64(part + 1)))
    return found


class _Tensor(NamedTuple):
    """A stored tensor that has units.

    Attributes:
        numbers: its entries. roles: for each axis the sets of units that it has, with the number of the
            unit of each index among its members, or -1. rest: for each axis what else tells its indices
            apart.
    """

    numbers: Array
    roles: tuple[tuple[tuple[int, Array], ...], ...]
    rest: tuple[Words, ...]


def _tensors(graph: GraphModel, axes: Sequence[Exchangeable]) -> Iterator[_Tensor]:
    for k, name in enumerate(in_order_of_use(graph)):
        array = graph.constants[name]
        roles, rest = [], []
        for axis in range(array.ndim):
            own, joint = [], np.zeros(array.shape[axis], dtype=np.int64)
            for which, (units, members, _) in enumerate(axes):
                labels = units.places.get((name, axis))
                if labels is None:
                    continue
                numbers = np.full(units.count + 1, -1)
                numbers[members] = np.arange(len(members))
                if (numbers[labels] >= 0).any():
                    own.append((which, numbers[labels]))
                    joint = joint * (len(members) + 1) + numbers[labels] + 1
                    joint = np.unique(joint, return_inverse=True)[1].astype(np.int64)
            roles.append(tuple(own))
            rest.append(_mixed(_rank_among(joint).astype(np.uint64) + _word(3, k, axis)))
        if any(roles):
            yield _Tensor(array, tuple(roles), tuple(rest))


def in_order_of_use(graph: GraphModel) -> list[str]:
    names = dict.fromkeys(name for node in graph.nodes for name in node.inputs)
    return [name for name in names if name in graph.constants]


def _rank_among(labels: Array) -> Array:
    """How many entries with the same label stand before each."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=labels[order][:1] - 1))
    ranks = np.arange(len(labels)) - np.repeat(starts, np.diff([*starts, len(labels)]))
    found = np.empty(len(labels), dtype=np.int64)
    found[order] = ranks
    return found


def _told_apart(graph: GraphModel, axes: Sequence[Exchangeable]) -> list[Words]:
    """A word for each member of each set, by what it reads and sends, and in the end all different."""
    tensors = list(_tensors(graph, axes))
    # coordinates of any head have one colour, of whichever they are
    kinds = [k if part.head is None else len(axes) + part.head.kind for k, part in enumerate(axes)]
    colours = [
        np.full(len(part.members), _word(7, kind)) for kind, part in zip(kinds, axes, strict=True)
    ]
    for named in range(NAMED + 1):
        colours = _refined(tensors, colours)
        open_ = [(k, c) for k, c in enumerate(colours) if len(np.unique(c)) < len(c)]
        if not open_ or named == NAMED:
            break
        k, own = open_[0]
        _, first, counts = np.unique(own, return_index=True, return_counts=True)
        colours[k][first[counts > 1][0]] = _word(11, named)
    return colours


def _refined(tensors: Sequence[_Tensor], colours: list[Words]) -> list[Words]:
    count = sum(len(np.unique(c)) for c in colours)
    while True:
        seen = [np.zeros(len(c), dtype=np.uint64) for c in colours]
        for tensor in tensors:
            _add(tensor, colours, seen)
        with np.errstate(over="ignore"):
            colours = [_mixed(c * np.uint64(3) + s) for c, s in zip(colours, seen, strict=True)]
        now = sum(len(np.unique(c)) for c in colours)
        if now == count:
            return colours
        count = now


def _add(tensor: _Tensor, colours: Sequence[Words], seen: list[Words]) -> None:
    """What the slices of a tensor say of the units that they belong to."""
    with np.errstate(over="ignore"):
        names = list[Words]()
        for rest, roles in zip(tensor.rest, tensor.roles, strict=True):
            own = rest.copy()
            for k, numbers in roles:
                own += np.where(numbers >= 0, colours[k][numbers], np.uint64(0))
            names.append(_mixed(own))
        sums = _sums(tensor.numbers, names)
        for rest, roles, total in zip(tensor.rest, tensor.roles, sums, strict=True):
            said = _mixed(total + rest)
            for k, numbers in roles:
                some = numbers >= 0
                np.add.at(seen[k], numbers[some], said[some])


def _sums(numbers: Array, names: Sequence[Words]) -> list[Words]:
    """For each index along each axis the sum of words for its entries, each made of the number and of
    the names of its indices.
    """
    found = [np.zeros(len(own), dtype=np.uint64) for own in names]
    every = range(numbers.ndim)
    for start, block in _blocks(numbers):
        words = _bits(block)
        for axis, own in enumerate(names):
            some = own[start : start + len(block)] if axis == 0 else own
            words = words + some.reshape([-1 if a == axis else 1 for a in every])
        words = _mixed(words)
        for axis in every:
            part = slice(start, start + len(block)) if axis == 0 else slice(None)
            others = tuple(a for a in every if a != axis)
            found[axis][part] += words.sum(axis=others, dtype=np.uint64)
    return found


def _blocks(array: Array) -> Iterator[tuple[int, Array]]:
    height = max(1, BLOCK // max(1, array[:1].size))
    for start in range(0, len(array), height):
        yield start, array[start : start + height]


def _bits(block: Array) -> Words:
    """The bits of numbers, the same for zeros of both signs."""
    wide = block.astype(np.int64 if block.dtype.kind in "biu" else np.float64)
    return (wide + 0).view(np.uint64)
