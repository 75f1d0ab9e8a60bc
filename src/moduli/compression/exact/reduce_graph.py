"""Which units of a graph can be left out: the search. What it proposes the kernel checks.

From the outputs back to the inputs, axis by axis: a unit goes where every sum that reads it has a
zero column for it, or reads a constant, or a multiple of another unit that stays. Rounds follow each
other until nothing more goes, because what goes in one leaves columns and facts behind for the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from moduli.common.graph import size_of, stored_axis
from moduli.common.progress import Progress
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.axes import Units, units_from
from moduli.kernel.graph.bypasses import bypassed, passed_through, unseen
from moduli.kernel.graph.carrying import carried
from moduli.kernel.graph.certificate import GraphMove, ended
from moduli.kernel.graph.facts import Known, Ranges
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Linear, Node, Place
from moduli.kernel.graph.removal import Changes, Into, Rounds, lost_by, remove
from moduli.kernel.slack import NO_SLACK, Slack

from .affine_bounds import Refinement
from .graph_plan import Step, constants, middles, move_of, plan, seeds, staying
from .graph_rounding import Bounded, tells
from .near_constants import near_constants
from .summed_units import summed

Moves = tuple[GraphMove, ...]
PRODUCTS = 200_000  # for affine bounds, for each axis that may be looked at


@dataclass
class Found:
    """What a search found.

    Attributes:
        graph: what is left. rounds: the moves that lead there.
        slack: how far outputs are apart by what was rounded. rounded: how many stored numbers were.
        rounding: how many more units would go by a move that rounds without a known bound, by seed.
        renamed: values that are bypassed, and what is read instead.
        constant: for each removal, in order, the units that are constants other than zero.
    """

    graph: GraphModel
    rounds: list[Moves] = field(default_factory=list)
    slack: Slack = NO_SLACK
    rounded: int = 0
    rounding: dict[Place, int] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    constant: list[tuple[int, ...]] = field(default_factory=list)


def reduce_graph(
    graph: GraphModel,
    *,
    ranges: Ranges,
    budget: int,
    progress: Progress | None = None,
    frozen: frozenset[Place] = frozenset(),
    bypasses: bool = True,
    rounding: bool = True,
    eps: float = 0.0,
) -> Found:
    """Leave out what can be left out.

    Args:
        ranges: bounds of inputs, see `Known`. budget: how many axes are looked at, at most.
        frozen: axes all of whose indices stay. bypasses: whether sums may lose a branch. rounding:
            whether numbers may be rounded where a bound of what that does says something: where it is
            small beside what outputs can be. eps: how far outputs may be apart at most; 0 for what
            rounding does alone.
    """
    found, by_rounding = Found(graph.live()), NO_SLACK
    tried = set[Place]()
    left, products = budget, budget * PRODUCTS
    while left > 0:
        known = Known(found.graph, ranges)
        steps = _steps(known, found, left, progress, frozen, bypasses, rounding)
        moves = list[GraphMove]()
        if not steps and ranges and products:
            # bounds that take more work come when intervals tell nothing more
            affine = Refinement(products)
            sharper = Known(found.graph, ranges, refine=affine)
            if affine.settled:
                steps = _steps(sharper, found, left, progress, frozen, bypasses, rounding)
            products = affine.left if steps else 0
            if steps:
                known, moves = sharper, [*affine.moves]
        left -= 1 + len(steps)
        nearly = False
        if steps:
            found.graph, further = ended(known)
            moves += [step.move for step in steps]
            found.constant += [step.constant for step in steps if step.move.kind == "remove"]
        # what needs facts about all again comes when nothing else goes
        elif rounding and (combined := summed(known, ranges, frozen)) is not None:
            move, found.graph, further = combined
            moves = [move]
        elif eps and (near := near_constants(known, frozen, eps - found.slack.everywhere, tried)):
            found.graph, further = ended(known)
            moves, nearly = [near.move], True
            found.constant.append(near.constant)
        else:
            break
        found.rounds.append(tuple(moves))
        found.slack += further
        by_rounding = by_rounding if nearly else by_rounding + further
        found.rounded += sum(some.count for some in known.rounded.values())
    if not rounding:
        return found
    within = found.slack.everywhere <= eps or not eps
    if within and tells(by_rounding, Known(graph.live(), ranges, inputs_alone=True)):
        return found
    return reduce_graph(
        graph, ranges=ranges, budget=budget, progress=progress, frozen=frozen, bypasses=bypasses,
        rounding=False, eps=eps,
    )  # fmt: skip


def _steps(
    known: Known,
    found: Found,
    budget: int,
    progress: Progress | None,
    frozen: frozenset[Place],
    bypasses: bool,
    rounding: bool,
) -> list[Step]:
    """What goes by what is known, all of it in one round."""
    found.rounding = {}
    bounded = Bounded(known) if rounding else None
    passed = [*map(Step, _bypasses(known, found, bounded))] if bypasses else []
    return passed + _removals(known, found, budget, progress, frozen, bounded)


def _bypasses(known: Known, found: Found, bounded: Bounded | None) -> Iterator[GraphMove]:
    """Branches that are zero, layers that change nothing, biases that no output can tell or that
    others can take over.
    """
    for name in [node.output for node in known.graph.nodes]:
        node = known.graph.makers.get(name)
        if node is None or name in known.graph.outputs:
            continue
        branches = all(known.array(x) is None for x in node.inputs) or isinstance(node.op, Linear)
        passes = passed_through(known, node) if branches else unseen(known, node)
        if passes is not None:
            _, found.renamed[name] = bypassed(known, name)
            yield GraphMove("bypass", name)
    for name in [node.output for node in reversed(known.graph.nodes)]:
        node = known.graph.makers.get(name)
        if node is None or name in known.graph.outputs:
            continue
        if all(known.array(x) is None for x in node.inputs) or not _carries(known, node, bounded):
            continue
        _, found.renamed[name] = bypassed(known, name)
        yield GraphMove("bypass", name)
    known.graph = known.graph.live()


def _carries(known: Known, node: Node, bounded: Bounded | None) -> bool:
    """Whether layers can take over what a node adds."""
    changes = Changes(known)
    try:
        if carried(known, node, changes) is None:
            return False
        _, rounded = changes.applied()
    except CertificateRejected:
        return False
    return not rounded or (bounded is not None and bounded(rounded))


def _removals(
    known: Known,
    found: Found,
    budget: int,
    progress: Progress | None,
    frozen: frozenset[Place],
    bounded: Bounded | None,
) -> list[Step]:
    """Units are left out, axis by axis; what would go by rounding without a bound is noted."""
    steps, covered = list[Step](), set[Place]()
    queue = seeds(known.graph)
    if bounded is not None:
        bounded.again()
    for k, seed in enumerate(queue):
        if seed in covered or size_of(known.graph, seed) is None or len(steps) >= budget:
            continue
        if progress is not None:
            progress(k, len(queue), "axes")
        units = _named(known.graph, units_from(known.graph, seed))
        own = np.unique(units.places[units.seed])
        covered.update(p for p, labels in units.places.items() if np.isin(labels, own).all())
        if units.count < 2:
            continue
        there, stay = {None, *own.tolist()}, staying(units, frozen)
        into = {}
        for unit, target in plan(known, units).items():
            if unit in there and unit not in stay and target in there:
                into[unit] = target
        done, more = _left_out(known, units, into, bounded)
        steps += done
        if more:
            found.rounding[units.seed] = more
    return steps


def _left_out(
    known: Known, units: Units, into: Into, bounded: Bounded | None
) -> tuple[list[Step], int]:
    """Leave out what a plan says; how many units are left that would have to be rounded."""
    exact, rounds = _parted(known, units, into)
    both = _settled(exact | rounds)
    if rounds and bounded is not None and _may_be_rounded(known, units, both, bounded):
        return _applied(known, units, both, False)
    done, more = _applied(known, units, exact, True) if exact else ([], 0)
    return done, more + len(rounds)


def _named(graph: GraphModel, units: Units) -> Units:
    """The same units from the first rows of weights that have them, after which an axis is called."""
    own = np.unique(units.places[units.seed])
    for node in graph.nodes:
        if not isinstance(node.op, Linear):
            continue
        place = stored_axis(graph, node.inputs[1], node.op.rows)
        labels = units.places.get(place)
        if place == units.seed:
            break
        if labels is None or not np.isin(own, labels).all():
            continue
        # an axis that is split gives its outer part: the coordinates of heads have no rows of their own
        again = units_from(graph, place)
        same = again.places.get(units.seed)
        whole = len(np.unique(labels)) == len(np.unique(again.places[place]))
        if same is not None and whole and len(np.unique(same)) == len(own):
            return again
    return units


def _parted(
    known: Known, units: Units, into: Into
) -> tuple[dict[int, int | None], dict[int, int | None]]:
    """What of a plan rounds no number, and what does, as far as each unit alone can tell."""
    exact, rounds = dict[int, int | None](), dict[int, int | None]()
    values = middles(known, units, into)
    for unit, target in into.items():
        try:
            lost = lost_by(known, units, {unit: target}, values)
        except CertificateRejected:
            continue
        (rounds if lost else exact)[unit] = target
    return _settled(exact), rounds


def _may_be_rounded(known: Known, units: Units, into: Into, bounded: Bounded) -> bool:
    try:
        return bounded(lost_by(known, units, into, middles(known, units, into)))
    except CertificateRejected:
        return False


def _settled(into: dict[int, int | None]) -> dict[int, int | None]:
    """A unit whose target is merged itself waits for another round."""
    return {u: v for u, v in into.items() if v not in into}


def _applied(
    known: Known, units: Units, into: dict[int, int | None], exact: bool
) -> tuple[list[Step], int]:
    """Let the kernel take a plan, in parts where all of it would round; how many units are left."""
    try:
        values = middles(known, units, into)
        move, constant = move_of(units, into, values), constants(known, units, into)
        remove(known, units, into, values, exact=exact)
        return [Step(move, constant)], 0
    except Rounds:
        if len(into) == 1:
            return [], 1
    except CertificateRejected:
        if len(into) == 1:
            return [], 0
    names = sorted(into)
    # units are numbered anew once some have gone: name them by an index that stays in order
    first, second = names[: len(names) // 2], names[len(names) // 2 :]
    steps, left = _applied(known, units, {u: into[u] for u in second}, exact)
    renumber = _renumbered(units, _gone([step.move for step in steps], units))
    again = units_from(known.graph, units.seed) if steps else units
    rest = {renumber[u]: _target(renumber, into[u]) for u in first}
    more, further = _applied(known, again, rest, exact)
    return steps + more, left + further


def _target(renumber: dict[int, int], unit: int | None) -> int | None:
    return None if unit is None else renumber[unit]


def _gone(moves: list[GraphMove], units: Units) -> set[int]:
    """Numbers, in the first numbering, of the units that moves removed one after the other."""
    labels = units.places[units.seed]
    alive = np.arange(len(labels))
    gone = set[int]()
    for move in moves:
        leaving = {int(labels[alive[i]]) for i in move.units}
        gone |= leaving
        alive = alive[~np.isin(labels[alive], list(leaving))]
    return gone


def _renumbered(units: Units, gone: set[int]) -> dict[int, int]:
    stay = [u for u in range(1, units.count + 1) if u not in gone]
    return {u: k for k, u in enumerate(stay, 1)}
