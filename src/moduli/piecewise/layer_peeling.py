"""Hidden layers of a ReLU network guessed one after another from the creases of its function.

Only cells with their affine maps are read, never which unit made them.

*The last hidden layer*, given those below: its creases are the ones on which no unit below
vanishes; all are visible. They are continued through the others into components, and these are put
together into units: a unit has one hyperplane in each region of the units below. `output_layer`
does the rest, for every orientation of the layer below.

*The first of two*: its hyperplanes are those at which creases bend. One plane at every face of
codimension 2 where creases do not all go straight on is of the first layer, and no other plane
there is.

*Others*: where a trace has just one vector (W, b) with W h + b = 0 on it, that is a guess at a
unit. A bent one has none before the layers at which it bends are known.

With `all` every network with two hidden layers in general position is among the candidates
(`docs/identifiability.md`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, combinations, product
from math import gcd, lcm
from typing import NamedTuple

import numpy as np

from moduli.kernel.errors import Undecided

from .cells_exact import Cell, Form, Point, affine, parts_of, through
from .forced_depth import Crease, Star, creases, meetings, possible, stars
from .output_layer import Affine, Budget, Features, Unit, readouts, solve
from .polyhedral_complex import Pieces
from .rational_rows import dot, plus, times

OWN = 10**6  # the constraints of a candidate are numbered from here, above those of any cell
Bend = tuple[
    frozenset[Form], frozenset[Form]
]  # planes of which one is of the first layer; all planes there


@dataclass
class Search:
    """A function prepared for guesses."""

    pieces: Pieces
    budget: Budget
    creases: tuple[Crease, ...] = field(init=False)
    stars: list[Star] = field(init=False)
    neighbours: dict[int, list[tuple[int, int]]] = field(init=False)
    first: int = field(init=False)

    def __post_init__(self) -> None:
        self.creases = creases(self.pieces)
        self.stars = [
            star
            for star in stars(self.pieces, self.creases).values()
            if possible(self.creases, star)
        ]
        whole = self.pieces.complex
        self.first = min(
            range(len(whole)), key=lambda k: sorted(whole[k].points)
        )  # whatever the order of the cells
        number = {crease.points: k for k, crease in enumerate(self.creases)}
        self.neighbours = {}
        for points, (a, b) in meetings(self.pieces).items():
            self.neighbours.setdefault(a, []).append((b, number.get(points, -1)))
            self.neighbours.setdefault(b, []).append((a, number.get(points, -1)))

    def sides(self, units: Sequence[Unit]) -> list[list[int]] | None:
        """Of each cell, on which side of the creases of each unit it is (0, 1); None if they do not
        separate.
        """
        found = []
        for unit in units:
            side, queue = {self.first: 0}, [self.first]
            for a in queue:
                for b, crease in self.neighbours.get(a, []):
                    value = side[a] ^ (crease in unit.members)
                    if b not in side:
                        side[b] = value
                        queue.append(b)
                    elif side[b] != value:
                        return None
            found.append([side[k] for k in range(len(self.pieces.complex))])
        return (
            [list(row) for row in zip(*found, strict=True)]
            if found
            else [[] for _ in self.pieces.complex]
        )


def networks(
    search: Search, widths: tuple[int, ...], *, all: bool = False
) -> Iterator[list[Affine]]:
    """Candidates for networks of these widths that compute a function; none is believed.

    With `all` (two hidden layers) every one in general position is among them, up to symmetry.

    Raises:
        Undecided: the budget ran out, or `all` cannot be promised: fewer planes or units than the
            widths would do, or a linear system has many solutions.
    """
    if len(widths) == 3:
        yield from _top(search, [], widths, all)
    elif len(widths) > 4:
        yield from _tower(search, [], widths)
    else:
        if (
            all
            and next(_hitting(_bends(search), frozenset(), frozenset(), widths[1] - 1), None)
            is not None
        ):
            raise Undecided("fewer hyperplanes of the first layer explain all bends")
        for planes in first_layers(search, widths[1]):
            rows = [integral([*slope, offset]) for slope, offset in planes]
            yield from _top(
                search, [([row[:-1] for row in rows], [row[-1] for row in rows])], widths, all
            )


def _top(
    search: Search, known: list[Affine], widths: tuple[int, ...], all: bool
) -> Iterator[list[Affine]]:
    """The last hidden layer and the output, given the layers below up to the orientation of the
    uppermost.
    """
    parts = components(search, known)
    if parts is None:
        return
    origin, features = refined(search.pieces, known)
    for units in groups(parts, widths[-2]):
        sides = search.sides(units)
        if sides is None:
            continue
        table = np.array([sides[k] for k in origin], dtype=np.int64).reshape(len(origin), -1)
        units_below = len(known[-1][1]) if known else 0
        for signs in product((1, -1), repeat=units_below):
            turned = features.turned(signs) if known else features
            if all and len(units) < widths[-2]:
                if solve(turned, units, table, True, search.budget, True):
                    raise Undecided("fewer units of the second layer explain all creases")
                continue
            below = [*known[:-1], oriented(known[-1], signs)] if known else []
            for last in readouts(turned, units, table, widths[-2], search.budget, all=all):
                yield widened([*below, *last], widths)


def _tower(search: Search, known: list[Affine], widths: tuple[int, ...]) -> Iterator[list[Affine]]:
    """Three hidden layers or more: guess a layer from traces with one annihilator, orient it, go
    on.
    """
    wanted, last = widths[len(known) + 1], len(known) == len(widths) - 4
    for rows in combinations(annihilators(search, known), wanted):
        layer = [list(row[:-1]) for row in rows], [row[-1] for row in rows]
        if last:
            yield from _top(search, [*known, layer], widths, False)
        elif joined(search, [*known, layer]) is not None:
            for signs in product((1, -1), repeat=wanted):
                yield from _tower(search, [*known, oriented(layer, signs)], widths)


def oriented(layer: Affine, signs: Sequence[int]) -> Affine:
    rows = [times(s, row) for row, s in zip(layer[0], signs, strict=True)]
    return rows, [s * b for b, s in zip(layer[1], signs, strict=True)]


def widened(layers: list[Affine], widths: tuple[int, ...]) -> list[Affine]:
    """With units of zeros wherever a layer has too few."""
    found, zero = list[Affine](), Fraction(0)
    for (rows, biases), inputs, outputs in zip(layers, widths, widths[1:], strict=False):
        wide = [[*row, *[zero] * (inputs - len(row))] for row in rows]
        more = outputs - len(biases)
        found.append(([*wide, *([zero] * inputs for _ in range(more))], [*biases, *[zero] * more]))
    return found


def identity(dimension: int) -> tuple[Form, ...]:
    rows = np.eye(dimension, dtype=int).tolist()
    return tuple((tuple(map(Fraction, row)), Fraction(0)) for row in rows)


def refined(pieces: Pieces, known: Sequence[Affine]) -> tuple[list[int], Features]:
    """Cells cut by known units, with their numbers, and what the uppermost known layer gives on the
    pieces.
    """
    dimension = len(pieces.box.low)
    start = identity(dimension)
    origin, found, forms, on = (
        list[int](),
        list[Cell](),
        list[tuple[Form, ...]](),
        list[tuple[int, ...]](),
    )
    for k, cell in enumerate(pieces.complex):
        parts, name = [Cell(cell.vertices, (), start)], OWN
        for weights, biases in known[:-1]:
            parts = [
                piece
                for part in parts
                for piece in through(part, weights, biases, Fraction(0), name)
            ]
            name += len(biases)
        for part in parts:
            # Without known layers the features are the inputs, which cut nothing and are always on.
            here = affine(*known[-1], part.maps, dimension) if known else start
            cuts = here if known else ()
            for vertices, signs in parts_of(part.vertices, cuts, name):
                origin.append(k)
                found.append(Cell(vertices, (), cell.maps))
                forms.append(here)
                gates = (1,) * dimension
                if known:
                    gates = tuple(int(s > 0) for s in signs)
                on.append(gates)
    width = len(forms[0]) if found else 0
    return origin, Features(found, forms, np.array(on, dtype=np.int64).reshape(len(found), width))


def values(known: Sequence[Affine], point: Point) -> list[list[Fraction]]:
    """The pre-activations of known layers at a point."""
    found, h = list[list[Fraction]](), list(point)
    for weights, biases in known:
        z = [dot(row, h, b) for row, b in zip(weights, biases, strict=True)]
        found.append(z)
        h = [max(v, Fraction(0)) for v in z]
    return found


class Joined(NamedTuple):
    """Creases that no known unit makes: the component of each, which components cross, the region
    that each is in.
    """

    label: dict[int, int]
    crossings: set[tuple[int, int]]
    region: dict[int, tuple[bool, ...]]


class UnionFind:
    """Disjoint sets of numbers, of which two may be joined."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.parent = {k: k for k in numbers}

    def __contains__(self, k: int) -> bool:
        return k in self.parent

    def root(self, k: int) -> int:
        """The number that stands for the set of another one."""
        while self.parent[k] != k:
            self.parent[k] = self.parent[self.parent[k]]
            k = self.parent[k]
        return k

    def join(self, a: int, b: int) -> None:
        self.parent[self.root(a)] = self.root(b)


def joined(search: Search, known: Sequence[Affine]) -> Joined | None:
    """The other creases, continued: straight on, across known units, and within a hyperplane in one
    region of known units.

    None if a star has a pair, or two of three creases, of which known units make just one.
    """
    found, at = search.creases, dict[Point, frozenset[int]]()

    def vanishing(point: Point) -> frozenset[int]:
        if point not in at:
            at[point] = frozenset(k for k, v in enumerate(chain(*values(known, point))) if v == 0)
        return at[point]

    own = [
        k
        for k, crease in enumerate(found)
        if not frozenset.intersection(*map(vanishing, crease.points))
    ]
    trace = UnionFind(own)
    crossings = list[tuple[int, int]]()
    for star in search.stars:
        ends = [k for k in star.rest if k in trace]
        if len(ends) == 1 or any((a in trace) != (b in trace) for a, b in star.pairs):
            return None
        links = [pair for pair in star.pairs if pair[0] in trace]
        if len(ends) == 2:
            links.append((ends[0], ends[1]))
        for a, b in links:
            trace.join(a, b)
        crossings += [(a, b) for (a, _), (b, _) in combinations(links, 2)]
    region: dict[int, tuple[bool, ...]] = {}  # of each crease, which known units are active there
    for k in own:
        region[k] = tuple(v > 0 for v in chain(*values(known, found[k].centre)))
    first: dict[tuple[tuple[bool, ...], Form], int] = {}
    for k in own:
        trace.join(k, first.setdefault((region[k], found[k].plane), k))
    traces = {k: trace.root(k) for k in own}
    return Joined(traces, {(traces[a], traces[b]) for a, b in crossings}, region)


def annihilators(search: Search, known: Sequence[Affine]) -> list[tuple[Fraction, ...]]:
    """Rows (W, b) that are alone, up to scale, in having W h + b = 0 on a trace, or on two; those
    on the most creases first.

    Two traces are tried together where neither says enough, and no region of known units has both.
    """
    search.budget.spend()
    whole = joined(search, known)
    if whole is None:
        return []
    members: dict[int, list[int]] = {}
    for k, label in whole.label.items():
        members.setdefault(label, []).append(k)
    read = {p: _read(known, p) for k in whole.label for p in search.creases[k].points}
    score, short = (
        dict[tuple[Fraction, ...], int](),
        list[tuple[set[Point], set[tuple[bool, ...]]]](),
    )

    def tried(points: set[Point]) -> bool:
        row, free = _annihilator([read[p] for p in sorted(points)])
        if row is not None:
            score[row] = score.get(row, 0) + len(points)
        return free < 2

    for group in members.values():
        points = {p for k in group for p in search.creases[k].points}
        if not tried(points):
            short.append((points, {whole.region[k] for k in group}))
    for (points, regions), (others, places) in combinations(short, 2):
        if not regions & places:
            tried(points | others)
    return sorted(score, key=lambda row: (-score[row], row))


def _read(known: Sequence[Affine], point: Point) -> list[Fraction]:
    """What the next layer reads at a point, and 1."""
    h = [max(v, Fraction(0)) for v in values(known, point)[-1]] if known else list(point)
    return [*h, Fraction(1)]


def _annihilator(rows: list[list[Fraction]]) -> tuple[tuple[Fraction, ...] | None, int]:
    """The vector orthogonal to rows, if there is one up to scale and it is no constant (integers,
    the first positive).

    And the dimension of all such vectors.
    """
    basis, leads = list[list[Fraction]](), list[int]()
    for row in rows:
        for other, lead in zip(basis, leads, strict=True):
            if row[lead]:
                row = plus(row, -row[lead], other)
        if any(row):
            lead = next(k for k, v in enumerate(row) if v)
            row = [v / row[lead] for v in row]
            basis = [
                *(plus(other, -other[lead], row) for other in basis),
                row,
            ]  # reduced: a lead is alone in its column
            leads.append(lead)
    free = [k for k in range(len(rows[0])) if k not in leads]
    if len(free) != 1:
        return None, len(free)
    vector = [Fraction(0)] * len(rows[0])
    vector[free[0]] = Fraction(1)
    for other, lead in zip(basis, leads, strict=True):
        vector[lead] = -other[free[0]]
    if not any(vector[:-1]):
        return None, 1
    head = next(v for v in vector if v)
    return tuple(integral([v / head for v in vector])), 1


def first_layers(search: Search, width: int) -> Iterator[tuple[Form, ...]]:
    """Sets of hyperplanes at which all creases that bend can bend, the smallest first chosen by the
    faces where they do.

    At a face with one straight pair and two others the pair's is one of them, at one with three
    creases any of the three; the other creases there are not on a plane of the set. Planes are
    added that creases follow without a bend.
    """
    wanted, seen = _bends(search), set[frozenset[Form]]()
    for chosen, barred in _hitting(wanted, frozenset(), frozenset(), width):
        free = sorted({crease.plane for crease in search.creases} - chosen - barred)
        for more in range(min(width - len(chosen), len(free)), -1, -1):
            for extra in combinations(free, more):
                whole = chosen | set(extra)
                if whole not in seen:
                    seen.add(whole)
                    yield tuple(sorted(whole))


def _bends(search: Search) -> list[Bend]:
    bends = (_options(search.creases, star) for star in search.stars)
    return [bend for bend in bends if bend is not None]


def _options(found: Sequence[Crease], star: Star) -> Bend | None:
    straight = frozenset(found[a].plane for a, _ in star.pairs)
    bent = frozenset(found[k].plane for k in star.rest)
    if star.decisive:
        return straight, straight | bent
    return (bent, bent) if len(bent) == 3 and not straight else None


def _hitting(
    bends: Sequence[Bend], chosen: frozenset[Form], barred: frozenset[Form], width: int
) -> Iterator[tuple[frozenset[Form], frozenset[Form]]]:
    """Choices of one plane at each bend, such that no other plane of any bend is chosen; with those
    others.
    """
    for options, whole in bends:
        here = whole & chosen
        if len(here) > 1 or (here and not here <= options):
            return
        barred |= whole - here if here else frozenset()
    if chosen & barred or len(chosen) > width:
        return
    left = [(options - barred, whole) for options, whole in bends if not whole & chosen]
    if not left:
        yield chosen, barred
        return
    options, _ = min(left, key=lambda bend: len(bend[0]))
    for plane in sorted(options):
        yield from _hitting(bends, chosen | {plane}, barred, width)
        barred |= {plane}


class Part(NamedTuple):
    """Connected creases of the last hidden layer: as a unit, the plane in each region of the
    others, what they cross.
    """

    unit: Unit
    planes: dict[tuple[bool, ...], Form]
    crossed: frozenset[int]


def components(search: Search, known: Sequence[Affine]) -> list[Part] | None:
    """The creases of units that are not known, continued; None if they bend or end where no known
    unit vanishes.
    """
    whole, found = joined(search, known), search.creases
    if whole is None:
        return None
    for star in search.stars:
        if sum(k in whole.label for k in star.rest) > 2:
            return None
    members: dict[int, list[int]] = {}
    for k, label in whole.label.items():
        members.setdefault(label, []).append(k)
    names = {label: n for n, label in enumerate(members)}
    parts = []
    for label, group in members.items():
        planes: dict[tuple[bool, ...], Form] = {}
        if any(planes.setdefault(whole.region[k], found[k].plane) != found[k].plane for k in group):
            return None
        if len({_direction(found[k]) for k in group}) > 1:
            return None
        met = frozenset(names[b] for a, b in whole.crossings if a == label)
        parts.append(Part(Unit(*_direction(found[group[0]]), frozenset(group)), planes, met))
    return parts


def groups(parts: Sequence[Part], most: int) -> Iterator[list[Unit]]:
    """Components put together into at most so many units, as many as possible first."""
    bad = set[
        tuple[int, int]
    ]()  # pairs that cannot be one unit: other weights, a crossing, two planes in one region
    for (a, p), (b, q) in combinations(enumerate(parts), 2):
        alike = (p.unit.out, p.unit.sign) == (q.unit.out, q.unit.sign)
        both = p.planes.keys() & q.planes.keys()
        if (
            not alike
            or b in p.crossed
            or a in q.crossed
            or any(p.planes[x] != q.planes[x] for x in both)
        ):
            bad.add((a, b))

    def placed(k: int, blocks: list[list[int]]) -> Iterator[list[list[int]]]:
        if len(blocks) + len(parts) - k < goal:
            return
        if k == len(parts):
            yield blocks
            return
        for i, block in enumerate(blocks):
            if not any((a, k) in bad for a in block):
                yield from placed(k + 1, [*blocks[:i], [*block, k], *blocks[i + 1 :]])
        if len(blocks) < goal:
            yield from placed(k + 1, [*blocks, [k]])

    for goal in range(min(most, len(parts)), -1, -1):
        for blocks in placed(0, []):
            if len(blocks) == goal:
                yield [_merged([parts[k].unit for k in block]) for block in blocks]


def _merged(units: Sequence[Unit]) -> Unit:
    """One unit with the creases of all."""
    members = frozenset[int]().union(*(unit.members for unit in units))
    return units[0]._replace(members=members)


def _direction(crease: Crease) -> tuple[tuple[Fraction, ...], int]:
    """Weights with first non-zero entry 1, and its sign."""
    lead = next(w for w in crease.weight if w)
    return tuple(w / lead for w in crease.weight), 1 if lead > 0 else -1


def content(row: Iterable[Fraction]) -> Fraction:
    """The positive number that leaves integers without a common factor; 1 for zeros."""
    entries = list(row)
    top, bottom = gcd(*(v.numerator for v in entries)), lcm(*(v.denominator for v in entries))
    return Fraction(top, bottom) if top else Fraction(1)


def integral(row: Sequence[Fraction]) -> list[Fraction]:
    """Scaled by a positive number to integers without a common factor."""
    scale = content(row)
    return [v / scale for v in row]
