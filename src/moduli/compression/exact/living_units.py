"""Which units of the original each move of a certificate took.

Indices in a move are those of the graph as it is when its turn comes. The moves are played once more
on shapes and wiring alone, without the check of what they claim, and each index that is left keeps
the number that it had at first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from moduli.common.graph import AxisPlaces, placed_axes
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.axes import Units, units_from
from moduli.kernel.graph.certificate import GraphMove, numbered
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Linear, Place
from moduli.kernel.graph.removal import kept_places, restricted

Ints = np.ndarray[Any, np.dtype[np.int64]]
# What the numbers mean. Dead: zero, or read by nothing. Constant: its value goes into a bias.
FATES = "lives", "dead", "merged", "combined", "constant", "with its branch"
LIVES = FATES.index("lives")
DEAD = FATES.index("dead")
MERGED = FATES.index("merged")
COMBINED = FATES.index("combined")
CONSTANT = FATES.index("constant")
WITH_BRANCH = FATES.index("with its branch")


def fates_of_units(
    graph: GraphModel,
    rounds: Iterable[Sequence[GraphMove]],
    passed: Mapping[str, str],
    constant: Iterable[Sequence[int]] = (),
) -> dict[str, Ints]:
    """What became of each unit of each axis, as numbers of `FATES`, in the order of the original.

    Args:
        graph: the original. rounds: moves that were checked. passed: what is read instead of each
            value that a move passes by. constant: for each removal, in order, those of its units that
            are constants other than zero.

    Raises:
        CertificateRejected: a move neither leaves units out nor passes a value by.
    """
    replay = _Replay(graph, constant)
    for moves in rounds:
        replay.round(moves, passed)
    return {found.axis.name: replay.fates(found) for found in placed_axes(graph)}


class _Replay:
    """A graph that loses units, and where the indices that are left were at first."""

    def __init__(self, graph: GraphModel, constant: Iterable[Sequence[int]]) -> None:
        self.constant = iter(constant)
        # facts are asked for nowhere: of a known graph alone indices can be left out
        self.known = Known(graph.live(), {}, inputs_alone=True)
        self.left: dict[Place, Ints] = {}  # the original indices that are left
        self.fate: dict[Place, Ints] = {}  # of each original index

    def round(self, moves: Sequence[GraphMove], passed: Mapping[str, str]) -> None:
        for move in moves:
            if move.kind == "bound":
                continue
            if move.kind == "bypass":
                self._pass_by(move.tensor, passed[move.tensor])
                continue
            # what was passed by may hold units that have to go
            self.known.graph = self.known.graph.live()
            if move.kind == "combine":
                self._combine(move)
            elif move.kind == "remove":
                self._remove(move)
            else:
                raise CertificateRejected(f"{move}: no move that leaves units out")
        self.known.graph = self.known.graph.live()

    def _pass_by(self, name: str, source: str) -> None:
        graph = self.known.graph
        nodes = []
        for node in graph.nodes:
            if name in node.inputs:
                node = replace(node, inputs=tuple(source if x == name else x for x in node.inputs))
            if name not in node.outputs:
                nodes.append(node)
        self.known.graph = replace(graph, nodes=tuple(nodes))

    def _remove(self, move: GraphMove) -> None:
        units = units_from(self.known.graph, (move.tensor, move.axis))
        gone, targets = numbered(units, move)
        constant = set(next(self.constant, ()))
        fates = []
        for index, target in zip(move.units, targets, strict=True):
            left_out = CONSTANT if index in constant else DEAD
            fates.append(left_out if target is None else MERGED)
        self._leave_out(units, dict(zip(gone, fates, strict=True)))

    def _combine(self, move: GraphMove) -> None:
        layer = self.known.graph.makers[move.tensor].op
        assert isinstance(layer, Linear)
        units = units_from(self.known.graph, (move.tensor, layer.writes))
        gone = units.places[units.seed][list(move.units)]
        self._leave_out(units, dict.fromkeys(gone.tolist(), COMBINED))

    def _leave_out(self, units: Units, fates: Mapping[int, int]) -> None:
        """Units go, each with a fate."""
        fate_of = np.zeros(units.count + 1, dtype=np.int64)
        for unit, fate in fates.items():
            fate_of[unit] = fate
        kept = kept_places(units, np.array(sorted(fates), dtype=np.int64))
        for place, stay in kept.items():
            labels = units.places[place]
            left = self.left.get(place, np.arange(len(labels)))
            fates_there = self.fate.setdefault(place, np.zeros(len(labels), dtype=np.int64))
            fates_there[left] = fate_of[labels]
            self.left[place] = left[stay]
        restricted(self.known, kept, {}, {}, set())

    def fates(self, found: AxisPlaces) -> Ints:
        """Of the units of an axis. A unit lives as long as any of its indices does; one that no move
        took and that is not there any more went with its branch.
        """
        graph = self.known.graph
        fates = np.zeros(found.axis.size, dtype=np.int64)
        lives = np.zeros(found.axis.size, dtype=bool)
        for place, numbers in found.places:
            mine = numbers >= 0
            fate = self.fate.get(place, np.zeros(len(numbers), dtype=np.int64))
            np.maximum.at(fates, numbers[mine], fate[mine])
            if place[0] in graph.constants or place[0] in graph.makers:
                lives[numbers[mine & (fate == LIVES)]] = True
        fates[fates == LIVES] = WITH_BRANCH
        fates[lives] = LIVES
        fates.setflags(write=False)
        return fates
