"""Fewer units of a graph whose source can be written with them.

A file or module may not let every axis change: a `forward` has shapes written into it. What could
not be written says which tensors are in the way; their axes are left as they are, and the search
begins again. Where it cannot say, halves of the moves are tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moduli.common.graph import Graph, NotWritable
from moduli.common.progress import Progress
from moduli.kernel.errors import CertificateRejected, UnsupportedModel
from moduli.kernel.graph.facts import Ranges
from moduli.kernel.graph.infinities import require_numbers
from moduli.kernel.graph.operators import Linear, Place

from .reduce_graph import Found, reduce_graph

TRIES = 40


@dataclass(frozen=True)
class Written:
    """A search and the graph that was written.

    Attributes:
        found: what the search found. graph: as it was read from what was written. refused: why axes
            were left as they are, in words.
    """

    found: Found
    graph: Graph
    refused: tuple[str, ...] = ()


def reduce_source(
    graph: Graph,
    *,
    ranges: Ranges,
    budget: int,
    progress: Progress | None = None,
    rounding: bool = True,
    eps: float = 0.0,
) -> Written:
    """Leave out what can be left out and written.

    Raises:
        UnsupportedModel: nothing of what can be left out can be written, and it is not known why.
    """
    source = graph.source
    refused = list[str]()
    left, bypasses = TRIES, source.bypasses

    def search(frozen: frozenset[Place]) -> Found:
        return reduce_graph(
            graph.model,
            ranges=ranges,
            budget=budget,
            progress=progress,
            frozen=frozen,
            bypasses=bypasses,
            rounding=rounding,
            eps=eps,
        )

    def write(found: Found) -> Graph:
        return source.rewritten(found.graph, found.renamed)

    try:
        require_numbers(graph.model)
    except CertificateRejected as error:
        return Written(Found(graph.model), graph, (str(error),))
    frozen = frozenset[Place]()
    while True:
        found = search(frozen)
        if not found.rounds:
            return Written(found, graph, tuple(refused))
        left -= 1
        try:
            return Written(found, write(found), tuple(refused))
        except NotWritable as error:
            blamed = _changed(graph, found, error.tensors) - frozen
            if left <= 0:
                raise
            if blamed:
                refused.append(str(error))
                frozen |= blamed
                continue
            reason = error
        # nobody is to blame: moves by halves
        seeds = _seeds(graph, found)
        bad = _refusing(seeds, frozen, search, write, left)
        refused.append(str(reason))
        if not bad:
            if not bypasses:
                raise UnsupportedModel(str(reason))
            bypasses = False
            continue
        frozen |= bad
        left -= len(bad)


def _changed(graph: Graph, found: Found, tensors: tuple[str, ...]) -> frozenset[Place]:
    """Axes of some tensors that have lost indices."""
    places = set[Place]()
    for name in tensors:
        old, new = graph.model.shapes.get(name), found.graph.shapes.get(name)
        for axis, n in enumerate(old or ()):
            if new is None or new[axis] != n:
                places.add((name, axis))
    return frozenset(places)


def _seeds(graph: Graph, found: Found) -> list[Place]:
    """Axes that moves take units from."""
    places = list[Place]()
    for move in (move for moves in found.rounds for move in moves):
        if move.kind == "remove":
            places.append((move.tensor, move.axis))
        if move.kind == "combine":
            layer = graph.model.makers[move.tensor].op
            places += [(move.tensor, layer.writes)] if isinstance(layer, Linear) else []
    return list(dict.fromkeys(places))


def _refusing(
    seeds: list[Place],
    frozen: frozenset[Place],
    search: Callable[[frozenset[Place]], Found],
    write: Callable[[Found], Graph],
    tries: int,
) -> frozenset[Place] | None:
    """Seeds without which the rest can be written, as few as halving finds; None after too many
    tries.
    """
    bad, good = set[Place](), set[Place]()
    waiting = [seeds] if seeds else []
    while waiting:
        part = waiting.pop()
        tries -= 1
        if tries <= 0:
            return None
        others = set(seeds) - good - set(part)
        try:
            write(search(frozen | others))
            good |= set(part)
        except NotWritable:
            if len(part) == 1:
                bad |= set(part)
            else:
                half = len(part) // 2
                waiting += [part[half:], part[:half]]
    return frozenset(bad)
