"""Which units of a graph can be left out: the search. What it proposes the kernel checks.

From the outputs back to the inputs, axis by axis: a unit goes where every sum that reads it has a
zero column for it, or reads a constant, or a multiple of another unit that stays. Rounds follow each
other until nothing more goes, because what goes in one leaves columns and facts behind for the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from moduli.common.graph import stored_axis
from moduli.common.progress import Progress
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.axes import Units, units_from
from moduli.kernel.graph.bypasses import bypassed, passed_through, unseen
from moduli.kernel.graph.carrying import carried
from moduli.kernel.graph.certificate import GraphMove, added, combination, ended
from moduli.kernel.graph.combining import between
from moduli.kernel.graph.differences import difference, sizes_of_outputs
from moduli.kernel.graph.facts import Known, Ranges, Rounding
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Contract, Linear, Lookup, Node, Place
from moduli.kernel.graph.removal import (
    Changes,
    Into,
    Rounds,
    lost_by,
    nearly_constant,
    remove,
    unread_rows,
)
from moduli.kernel.graph.slices import Slices
from moduli.kernel.slack import NO_SLACK, Slack

Ints = np.ndarray[Any, np.dtype[np.int64]]
Moves = tuple[GraphMove, ...]
CLOSE = 2.0**-45
SMALL = 2.0**-10  # of what an output can be


@dataclass
class Found:
    """What a search found.

    Attributes:
        graph: what is left. rounds: the moves that lead there.
        slack: how far outputs are apart by what was rounded. rounded: how many stored numbers were.
        rounding: how many more units would go by a move that rounds without a known bound, by seed.
        renamed: values that are bypassed, and what is read instead.
    """

    graph: GraphModel
    rounds: list[Moves] = field(default_factory=list)
    slack: Slack = NO_SLACK
    rounded: int = 0
    rounding: dict[Place, int] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)


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
    found, asked = Found(graph.live()), NO_SLACK
    tried = set[Place]()
    left = budget
    while left > 0:
        found.rounding = {}
        known = Known(found.graph, ranges)
        bounded = Bounded(known) if rounding else None
        moves = [*_bypasses(known, found, bounded)] if bypasses else []
        moves += _removals(known, found, left, progress, frozen, bounded)
        left -= 1 + len(moves)
        if moves:
            found.graph, further = ended(known)
        else:
            # what needs facts about all again comes when nothing else goes
            summed = _combination(known, ranges, frozen) if rounding else None
            if summed is not None:
                move, found.graph, further = summed
            else:
                near = _nearly(known, frozen, eps - found.slack.everywhere, tried) if eps else None
                if near is None:
                    break
                move = near
                found.graph, further = ended(known)
                asked = added(asked, further)
            moves = [move]
        found.rounds.append(tuple(moves))
        found.slack = added(found.slack, further)
        found.rounded += sum(lost.count for lost in known.rounded.values())
    lost = found.slack.everywhere - asked.everywhere if asked != NO_SLACK else None
    told = found.slack if lost is None else Slack(max(lost, 0.0), 0.0)
    if rounding and not _tells(told, Known(graph.live(), ranges, inputs_alone=True)):
        return reduce_graph(
            graph, ranges=ranges, budget=budget, progress=progress, frozen=frozen,
            bypasses=bypasses, rounding=False, eps=eps,
        )  # fmt: skip
    return found


def _tells(slack: Slack, known: Known) -> bool:
    """Whether a bound is small beside what outputs can be, so that it says something."""
    if slack == NO_SLACK:
        return True
    most = sizes_of_outputs(known.graph, known).within(1.0)
    return slack.finite and slack.within(1.0) <= SMALL * most


class Bounded:
    """What rounding some stored tensors does, as far as a bound of it says something.

    Layers are asked for from the last to the first: one whose rounding might do too much ends it, as
    what comes before reaches the outputs through more layers.
    """

    def __init__(self, known: Known) -> None:
        self.known = known
        self.everywhere: bool | None = None
        self.ended = False

    def __call__(self, lost: Mapping[str, Rounding]) -> bool:
        """Whether stored numbers may lose so much."""
        graph = self.known.graph
        if self.everywhere is None:
            self.everywhere = self._tells(self._each(_of_layers(graph)))
        if self.everywhere and _of_layers(graph).issuperset(lost):
            return True
        if self.ended:
            return False
        self.ended = not self._tells(_of(graph, lost))
        return not self.ended

    def _each(self, names: set[str]) -> Any:
        """Each number of some tensors rounded: where that does little, no more need be asked."""
        graph = self.known.graph

        def deviation(name: str) -> Any:
            stored = graph.constants[name]
            precision = _precision(stored.dtype)
            if name not in names or precision is None:
                return None
            return np.asarray(np.abs(np.asarray(stored, dtype=np.float64)) * precision)

        return deviation

    def _tells(self, deviation: Any) -> bool:
        return _tells(difference(self.known.graph, deviation, self.known), self.known)


def _of_layers(graph: GraphModel) -> set[str]:
    """Stored weights and biases of layers."""
    layers = [node for node in graph.nodes if isinstance(node.op, Linear)]
    names = {name for node in layers for name in node.inputs[1:3] if name}
    return {stored_axis(graph, name, 0)[0] for name in names} & graph.constants.keys()


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


def seeds(graph: GraphModel) -> list[Place]:
    """Axes whose units are looked at, last ones first: rows of weights, then all others."""
    rows, others = list[Place](), list[Place]()
    for node in reversed(graph.nodes):
        if isinstance(node.op, Linear):
            rows.append(stored_axis(graph, node.inputs[1], node.op.rows))
        if isinstance(node.op, Lookup):
            shape = graph.shapes[node.inputs[0]] or ()
            rows += [(node.inputs[0], axis) for axis in range(len(shape)) if axis != node.op.axis]
        for name in node.outputs:
            for axis, n in enumerate(graph.shapes.get(name) or ()):
                if isinstance(n, int) and n > 1:
                    others.append((name, axis))
    return list(dict.fromkeys([*rows, *others]))


def _removals(
    known: Known,
    found: Found,
    budget: int,
    progress: Progress | None,
    frozen: frozenset[Place],
    bounded: Bounded | None,
) -> list[GraphMove]:
    moves, covered = list[GraphMove](), set[Place]()
    queue = seeds(known.graph)
    for k, seed in enumerate(queue):
        shape = known.graph.shapes.get(seed[0])
        if (
            seed in covered
            or shape is None
            or not isinstance(shape[seed[1]], int)
            or len(moves) >= budget
        ):
            continue
        if progress is not None:
            progress(k, len(queue), "axes")
        units = units_from(known.graph, seed)
        own = np.unique(units.places[seed])
        named = _named(known.graph, units)
        if named is not None:
            seed, units = named.seed, named
            own = np.unique(units.places[seed])
        covered.update(p for p, labels in units.places.items() if np.isin(labels, own).all())
        if units.count < 2:
            continue
        stay = _staying(units, frozen)
        into = {
            u: v
            for u, v in plan(known, units).items()
            if u in own and u not in stay and (v is None or v in own)
        }
        if not into:
            continue
        into, rounds = _parted(known, units, into)
        exact = True
        if rounds and bounded is not None:
            both = _settled(into | rounds)
            if _may_be_rounded(known, units, both, bounded):
                into, rounds, exact = both, {}, False
        done, rounding = _applied(known, seed, units, into, exact) if into else ([], 0)
        rounding += len(rounds)
        moves += done
        if rounding:
            found.rounding[seed] = rounding
    return moves


def _named(graph: GraphModel, units: Units) -> Units | None:
    """The same units from the first rows of weights that have them, after which an axis is called."""
    own = np.unique(units.places[units.seed])
    for node in graph.nodes:
        if not isinstance(node.op, Linear):
            continue
        place = stored_axis(graph, node.inputs[1], node.op.rows)
        labels = units.places.get(place)
        if place == units.seed:
            return None
        if labels is None or not np.isin(own, labels).all():
            continue
        # an axis that is split gives its outer part: the coordinates of heads have no rows of their own
        again = units_from(graph, place)
        same = again.places.get(units.seed)
        whole = len(np.unique(labels)) == len(np.unique(again.places[place]))
        if same is not None and whole and len(np.unique(same)) == len(own):
            return again
    return None


def _staying(units: Units, frozen: frozenset[Place]) -> set[int]:
    """Units with an index of a frozen axis."""
    there = [units.places[place] for place in frozen if place in units.places]
    return {int(u) for labels in there for u in np.unique(labels)}


def _parted(
    known: Known, units: Units, into: Into
) -> tuple[dict[int, int | None], dict[int, int | None]]:
    """What of a plan rounds no number, and what does, as far as each unit alone can tell."""
    exact, rounds = dict[int, int | None](), dict[int, int | None]()
    for unit, target in into.items():
        try:
            lost = lost_by(known, units, {unit: target})
        except CertificateRejected:
            continue
        (rounds if lost else exact)[unit] = target
    return _settled(exact), rounds


def _may_be_rounded(known: Known, units: Units, into: Into, bounded: Bounded) -> bool:
    try:
        return bounded(lost_by(known, units, into))
    except CertificateRejected:
        return False


def _settled(into: dict[int, int | None]) -> dict[int, int | None]:
    """A unit whose target is merged itself waits for another round."""
    return {u: v for u, v in into.items() if v not in into}


def _applied(
    known: Known, seed: Place, units: Units, into: dict[int, int | None], exact: bool
) -> tuple[list[GraphMove], int]:
    """Let the kernel take a plan, in parts where all of it would round; how many units are left."""
    try:
        move = _move(seed, units, into)
        remove(known, units, into, exact=exact)
        return [move], 0
    except Rounds:
        if len(into) == 1:
            return [], 1
    except CertificateRejected:
        if len(into) == 1:
            return [], 0
    names = sorted(into)
    moves, rounding = list[GraphMove](), 0
    # units are numbered anew once some have gone: name them by an index that stays in order
    first, second = names[: len(names) // 2], names[len(names) // 2 :]
    done, lost = _applied(known, seed, units, {u: into[u] for u in second}, exact)
    moves, rounding = moves + done, rounding + lost
    gone = _gone(done, units)
    again = units_from(known.graph, seed) if done else units
    renumber = _renumbered(units, gone)
    rest = {renumber[u]: _target(renumber, into[u]) for u in first}
    done, lost = _applied(known, seed, again, rest, exact)
    return moves + done, rounding + lost


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


def _move(seed: Place, units: Units, into: dict[int, int | None]) -> GraphMove:
    labels = units.places[units.seed]
    first = {int(u): int(i) for u, i in zip(*np.unique(labels, return_index=True), strict=True)}
    names = sorted(into)
    if any(u not in first for u in names):
        raise CertificateRejected("the seed does not have the unit")
    targets = [into[u] for u in names]
    return GraphMove(
        "remove", seed[0], seed[1], tuple(first[u] for u in names),
        tuple(-1 if v is None else first[v] for v in targets),
    )  # fmt: skip


# Units between two layers --------------------------------------------------------------------------------------

MOST = 2**24  # numbers of a layer whose rank is looked for


def _combination(
    known: Known, ranges: Ranges, frozen: frozenset[Place]
) -> tuple[GraphMove, GraphModel, Slack] | None:
    """Units between two layers that are sums of others, and the graph without them; None where there
    are none whose leaving has a known bound.
    """
    for node in known.graph.nodes:
        found = between(known.graph, node.output) if isinstance(node.op, Linear) else None
        rows = None if found is None else found.rows(known)
        if found is None or rows is None or rows.size > MOST:
            continue
        weight = known.array(node.inputs[1])
        assert weight is not None
        precision = _precision(weight.dtype)
        summed = _sums_of_rows(rows, precision) if precision else None
        units = units_from(known.graph, (node.output, found.op.writes)) if summed else None
        if summed is None or units is None or _staying(units, frozen):
            continue
        gone, stay, coefficients = summed
        move = GraphMove(
            "combine", node.output, 0, gone, stay, tuple(coefficients.ravel().tolist())
        )
        again = Known(known.graph, ranges)
        try:
            small, slack = combination(again, move, ranges)
        except CertificateRejected:
            continue
        if _tells(slack, known):
            known.rounded = again.rounded
            return move, small, slack
    return None


def _precision(dtype: Any) -> float | None:
    """Twice the relative error of a rounding; None of types in which no sums are stored."""
    if dtype.name == "bfloat16":
        return 2.0**-7
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else None


def _sums_of_rows(
    rows: Any, precision: float
) -> tuple[tuple[int, ...], tuple[int, ...], Any] | None:
    """Rows that are sums of others as far as numbers of a precision tell: which, of which, and with
    what coefficients. None where there are none, or none would stay.
    """
    import scipy.linalg

    if not rows.any():
        return None
    _, upper, order = scipy.linalg.qr(rows.T, mode="economic", pivoting=True)
    sizes = np.abs(np.diag(upper))
    rank = int((sizes > 4 * precision * sizes[0]).sum())
    if rank == len(rows):
        return None
    coefficients = scipy.linalg.solve_triangular(upper[:rank, :rank], upper[:rank, rank:]).T
    return tuple(order[rank:].tolist()), tuple(order[:rank].tolist()), coefficients


# Units that are nearly constant -----------------------------------------------------------------------------------


def _nearly(
    known: Known, frozen: frozenset[Place], room: float, tried: set[Place]
) -> GraphMove | None:
    """As many units of the next axis as may be taken for constants within half of what is left, those
    first that do least; they are left out. None where no axis has any.
    """
    for seed in seeds(known.graph):
        shape = known.graph.shapes.get(seed[0])
        if seed in tried or shape is None or not isinstance(shape[seed[1]], int):
            continue
        tried.add(seed)
        units = units_from(known.graph, seed)
        stay = _staying(units, frozen)
        own = np.unique(units.places[seed])
        names = [u for u in _least_first(known, units) if u not in stay and u in own]
        count = _within(known, units, names, room / 2)
        if count:
            into = dict[int, int | None].fromkeys(names[:count])
            remove(known, units, into)
            return _move(seed, units, into)
    return None


def _within(known: Known, units: Units, names: list[int], room: float) -> int:
    """How many units may go before the bound of what that does is more than there is room for."""
    low, high = 0, len(names)
    while low < high:
        middle = (low + high + 1) // 2
        try:
            lost = lost_by(known, units, dict[int, int | None].fromkeys(names[:middle]))
            fits = difference(known.graph, _of(known.graph, lost), known).everywhere <= room
        except CertificateRejected:
            fits = False
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _least_first(known: Known, units: Units) -> list[int]:
    """Units that every layer which reads them may take for constants, by how much that changes what
    layers give; one stays.
    """
    cost = np.zeros(units.count + 1)
    cost[0] = np.inf
    for node in known.graph.nodes:
        reading = _product(known, node, units) if isinstance(node.op, Contract) else None
        if reading is not None:
            cost[reading.labels[~np.array(reading.settled)]] = np.inf
        op = node.op
        labels = units.places.get((node.inputs[1], op.columns)) if isinstance(op, Linear) else None
        if not isinstance(op, Linear) or labels is None:
            continue
        if (node.inputs[0], op.reads) not in units.places:
            continue  # whole groups
        weight = known.array(node.inputs[1])
        if weight is None or op.groups > 1:
            cost[labels] = np.inf
            continue
        x = known.of((node.inputs[0], op.reads))
        masses = np.abs(np.moveaxis(weight, op.columns, 0).reshape(len(labels), -1)).sum(axis=1)
        for column in np.flatnonzero(masses).tolist():
            near = nearly_constant(x, column, op)
            width = np.inf if near is None else near[1]
            cost[labels[column]] += masses[column] * width
    order = [int(u) for u in np.argsort(cost, kind="stable") if np.isfinite(cost[u])]
    return order[: units.count - 1] if not _fixed(units) else order


def _of(graph: GraphModel, lost: Mapping[str, Rounding]) -> Any:
    return lambda name: lost[name].whole(graph.constants[name].shape) if name in lost else None


# What can go ----------------------------------------------------------------------------------------------------


@dataclass
class Reading:
    """One sum that reads an axis.

    Attributes:
        labels: the unit of each column. settled: whether nothing has to be made up for, or only a
            constant. classes, ratios: of what is read; None where no merge is possible.
    """

    labels: Ints
    settled: list[bool]
    names: list[tuple[int, Fraction]] | None


def plan(known: Known, units: Units) -> Into:
    """Units of an axis that seem to go, and what each is merged into."""
    readings = [r for node in known.graph.nodes if (r := _reading(known, node, units)) is not None]
    open_at: dict[int, list[tuple[int, int]]] = {}
    position = [_positions(r.labels) for r in readings]
    for k, reading in enumerate(readings):
        for column, unit in enumerate(reading.labels.tolist()):
            if unit and not reading.settled[column]:
                open_at.setdefault(unit, []).append((k, column))
    into: dict[int, int | None] = {u: None for u in range(1, units.count + 1) if u not in open_at}
    buckets: dict[Any, list[int]] = {}
    kept = set[int]()
    for unit in sorted(open_at):
        k, column = open_at[unit][0]
        names = readings[k].names
        if any(readings[j].names is None for j, _ in open_at[unit]) or names is None:
            kept.add(unit)
            continue
        key = (k, position[k][column], names[column][0])
        partner = next(
            (v for v in buckets.get(key, []) if _mergeable(readings, position, open_at[unit], v)),
            None,
        )
        if partner is None:
            kept.add(unit)
        else:
            into[unit] = partner
        for j, other in open_at[unit]:
            found = readings[j].names
            if partner is None and found is not None:
                buckets.setdefault((j, position[j][other], found[other][0]), []).append(unit)
    if not kept and not _fixed(units):
        # an axis has at least one index
        into.pop(next(u for u in sorted(into) if u not in set(into.values())))
    return into


def _fixed(units: Units) -> bool:
    return all(bool((labels == 0).any()) for labels in units.places.values())


def _positions(labels: Ints) -> list[int]:
    seen = dict[int, int]()
    found = []
    for unit in labels.tolist():
        found.append(seen.get(unit, 0))
        seen[unit] = found[-1] + 1
    return found


def _mergeable(
    readings: list[Reading], position: list[list[int]], wanted: list[tuple[int, int]], target: int
) -> bool:
    """Whether what is read of a unit is everywhere a multiple of what is read of another."""
    for k, column in wanted:
        names = readings[k].names
        assert names is not None
        others = np.flatnonzero(readings[k].labels == target)
        place = position[k][column]
        if place >= len(others):
            return False
        a, b = names[column], names[int(others[place])]
        if a[0] != b[0] or b[1] == 0:
            return False
    return True


def _reading(known: Known, node: Node, units: Units) -> Reading | None:
    op = node.op
    if isinstance(op, Contract):
        return _product(known, node, units)
    if not isinstance(op, Linear):
        return None
    labels = units.places.get((node.inputs[1], op.columns))
    if labels is None or (node.inputs[0], op.reads) not in units.places or not labels.any():
        return None
    weight = known.array(node.inputs[1])
    x = known.of((node.inputs[0], op.reads))
    n = len(labels)
    if weight is None:
        return Reading(labels, [False] * n, None)
    moved = np.moveaxis(weight, (op.columns, op.rows), (0, 1))
    unread = unread_rows(known, node, op)
    moved = (moved if unread is None else moved[:, ~unread]).reshape(n, -1)
    nothing = ~(moved != 0).any(axis=1)
    settled = []
    for column in range(n):
        values = [x.constant(g * n + column) for g in range(op.groups)]
        zero = all(v == 0 for v in values)
        folds = op.groups == 1 and values[0] is not None and op.uniform and not op.padded
        near = op.groups == 1 and _irrational(x, column, op)
        settled.append(bool(nothing[column]) or zero or folds or near)
    names = [(int(x.classes[i]), x.ratios[i]) for i in range(n)]
    return Reading(labels, settled, names)


def _irrational(x: Slices, i: int, op: Linear) -> bool:
    """Whether bounds of a slice tell a constant as well as floats do: behind a batch norm is a root."""
    near = nearly_constant(x, i, op)
    return near is not None and near[1] <= CLOSE * abs(near[0])


def _product(known: Known, node: Node, units: Units) -> Reading | None:
    first, second = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if first is None or second is None:
        return None
    a, b = (node.inputs[0], len(first) - 1), (node.inputs[1], len(second) - 2)
    labels = units.places.get(a)
    if labels is None or not labels.any():
        return None
    left, right = known.of(a).ratios, known.of(b).ratios
    return Reading(labels, [x == 0 or y == 0 for x, y in zip(left, right, strict=True)], None)
