"""Parameters of a ReLU network with one or two hidden layers from its function, in a box of up to three inputs.

Only cells with their affine maps are read, never which unit made them. With two hidden layers,

1. the hyperplanes of the first layer are those at which creases bend: one of the planes at every face of codimension 2 where
   creases do not all go straight on, and no other plane there (`traces` has the pictures);
2. the other creases are of the last hidden layer and visible all along. Continued through the planes of the first layer they
   fall into components, and components into units: a unit has one hyperplane in each region of the first layer;
3. each unit is on at one side of its creases. Given which side, and the orientations of the first layer, f is on every cell
   *linear* in V_j (W_j, b_j) and the last bias: one linear system. A wrong side or orientation costs an affine function of the
   features, relu(-t) = relu(t) - t, so sides are found as a subset sum; orientations are enumerated.

With one hidden layer only step 3 is left (Petzka, Trimmel, Sminchisescu 2020 study its uniqueness). Choices are refuted modulo
a prime, the system is solved modulo a large one, and every answer is compared with the function in rational arithmetic on every
cell: what is returned computes it, whatever the steps before assumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import combinations, product
from math import gcd, lcm
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .errors import CertificateRejected, ShapeError, Undecided
from .network import Network
from .polyhedra import Cell, Form, Pieces, _forms, _split, _through, _value
from .readout import Affine, Budget, Features, Unit, readouts, solve
from .result import Result
from .traces import Crease, Star, creases, meetings, possible, stars

OWN = 10**6  # the constraints of a candidate are numbered from here, above those of any cell


@dataclass(frozen=True, eq=False, repr=False)
class Recovery(Result):
    """A network read off a function, or why there is none.

    Attributes:
        layers: weights and biases of each layer as rationals; every row of incoming weights with its bias consists of integers
            without a common factor. network: the same in floats. exact: whether they hold the rationals exactly.
        reason: what ended a search that found nothing. tried: linear systems that were set up.
    """

    pieces: Pieces
    widths: tuple[int, ...]
    layers: tuple[Affine, ...] | None
    reason: str = ""
    tried: int = 0
    kind: ClassVar[str] = "recovery"

    @cached_property
    def network(self) -> Network:
        if self.layers is None:
            raise Undecided(f"no network of widths {self.widths} was found: {self.reason}")
        return Network.mlp(*(np.array(part, dtype=np.float64) for pair in self.layers for part in pair), activation="relu")

    @cached_property
    def exact(self) -> bool:
        if self.layers is None:
            return False
        kept = ((layer.weight.tolist(), layer.bias.tolist()) for layer in self.network.layers)
        return all(w == v and b == c for (w, b), (v, c) in zip(self.layers, kept, strict=True))

    def check(self) -> bool:
        """Compare the rational network with the function, on every cell.

        Raises:
            Undecided: if nothing was found. CertificateRejected: if they differ.
        """
        if self.layers is None:
            raise Undecided(f"no network of widths {self.widths} was found: {self.reason}")
        if not self.pieces.check() or not same_function(self.pieces, self.layers):
            raise CertificateRejected("the network that was recovered computes another function")
        return True

    @property
    def statement(self) -> str:
        name = "-".join(map(str, self.widths))
        if self.layers is None:
            return f"no {name} network recovered: {self.reason}"
        return f"a {name} network recovered, {'exactly in floats' if self.exact else 'exactly as rationals, rounded in floats'}"

    def rows(self) -> list[tuple[str, str]]:
        return [
            ("function of", repr(self.pieces.network)), ("in", repr(self.pieces.box)),
            ("recovered", "nothing" if self.layers is None else repr(self.network)),
            ("floats hold it", "yes" if self.exact else "no"), ("linear systems", str(self.tried)),
        ]  # fmt: skip

    def data(self) -> dict[str, Any]:
        layers = [[[list(map(str, row)) for row in w], list(map(str, b))] for w, b in self.layers or ()]
        return {
            "widths": list(self.widths), "exact": self.exact, "reason": self.reason, "tried": self.tried,
            "layers": layers or None, "digest": self.pieces.network.digest,
        }  # fmt: skip


@dataclass
class Search:
    """A function prepared for guesses."""

    pieces: Pieces
    budget: Budget
    creases: tuple[Crease, ...] = field(init=False)
    stars: list[Star] = field(init=False)
    neighbours: dict[int, list[tuple[int, int]]] = field(init=False)

    def __post_init__(self) -> None:
        self.creases = creases(self.pieces)
        self.stars = [star for star in stars(self.pieces, self.creases).values() if possible(self.creases, star)]
        number = {crease.points: k for k, crease in enumerate(self.creases)}
        self.neighbours = {}
        for points, (a, b) in meetings(self.pieces).items():
            self.neighbours.setdefault(a, []).append((b, number.get(points, -1)))
            self.neighbours.setdefault(b, []).append((a, number.get(points, -1)))

    def sides(self, units: Sequence[Unit]) -> list[list[int]] | None:
        """Of each cell, on which side of the creases of each unit it is (0, 1); None if they do not separate."""
        found = []
        for unit in units:
            side, queue = {0: 0}, [0]
            for a in queue:
                for b, crease in self.neighbours.get(a, []):
                    value = side[a] ^ (crease in unit.members)
                    if b not in side:
                        side[b] = value
                        queue.append(b)
                    elif side[b] != value:
                        return None
            found.append([side[k] for k in range(len(self.pieces.complex))])
        return [list(row) for row in zip(*found, strict=True)] if found else [[] for _ in self.pieces.complex]


def recover(pieces: Pieces, widths: Sequence[int], budget: int = 5_000) -> Recovery:
    """A ReLU network of these widths that computes the function of `pieces` in its box, if one is found.

    Args:
        widths: inputs (of the box or slice), one or two hidden widths, outputs. budget: linear systems to set up at most.

    Raises:
        ShapeError: widths that do not fit. ValueError: no hidden layer, or more than two.
    """
    wanted = _accepted(pieces, widths)
    search = Search(pieces, Budget(budget))
    reason = "no choice of hyperplanes and orientations fits"
    try:
        for layers in _shallow(search, wanted) if len(wanted) == 3 else _deep(search, wanted):
            if same_function(pieces, layers):
                return Recovery("proved", pieces, wanted, primitive(layers), "", search.budget.spent)
    except Undecided as stop:
        reason = str(stop)
    return Recovery("undecided", pieces, wanted, None, reason, search.budget.spent)


def _accepted(pieces: Pieces, widths: Sequence[int]) -> tuple[int, ...]:
    wanted = tuple(widths)
    ends = len(pieces.box.low), len(pieces.complex[0].maps)
    if (wanted[0], wanted[-1]) != ends:
        raise ShapeError(f"widths {wanted}: the function has {ends[0]} inputs and {ends[1]} outputs")
    if len(wanted) not in (3, 4) or min(wanted) < 1:
        raise ValueError(f"widths {wanted}: one or two hidden layers of at least one unit are recovered")
    return wanted


def everything(pieces: Pieces, widths: Sequence[int], budget: int = 5_000) -> list[tuple[Affine, ...]]:
    """All networks of these widths, with two hidden layers, in general position, that compute the function of `pieces`.

    In `standard` form: up to permutation and scale there are no others. `docs/identifiability.md` says why.

    Raises:
        Undecided: where that cannot be said, or the budget ran out.
    """
    wanted, found = _accepted(pieces, widths), dict[str, tuple[Affine, ...]]()
    if len(wanted) != 4:
        raise ValueError(f"widths {wanted}: all networks are enumerated with two hidden layers")
    for layers in _deep(Search(pieces, Budget(budget)), wanted, all=True):
        form = standard(layers)
        if str(form) not in found and same_function(pieces, form):
            found[str(form)] = form
    return list(found.values())


def standard(layers: Sequence[Affine]) -> tuple[Affine, ...]:
    """The primitive form with the units of each layer sorted by incoming weights and bias, from the input on."""
    found = list(primitive(layers))
    for l in range(len(found) - 1):
        weights, biases = found[l]
        order = sorted(range(len(biases)), key=lambda k: (weights[k], biases[k]))
        above, ends = found[l + 1]
        found[l] = [weights[k] for k in order], [biases[k] for k in order]
        found[l + 1] = [[row[k] for k in order] for row in above], ends
    return tuple(found)


def same_function(pieces: Pieces, layers: Sequence[Affine]) -> bool:
    """Whether a ReLU network with rational parameters computes the function of `pieces`.

    Its units cut all cells, and the affine maps are compared.
    """
    dimension, name = len(pieces.box.low), OWN
    start = _identity(dimension)
    for cell in pieces.complex:
        parts, name = [Cell(cell.vertices, (), start)], OWN
        for weights, biases in layers[:-1]:
            parts = [piece for part in parts for piece in _through(part, weights, biases, Fraction(0), name)]
            name += len(biases)
        if any(_forms(*layers[-1], part.maps, dimension) != cell.maps for part in parts):
            return False
    return True


def primitive(layers: Sequence[Affine]) -> tuple[Affine, ...]:
    """The same function, every unit scaled so that its incoming weights and bias are integers without a common factor."""
    found, scale = list[Affine](), list[Fraction]()
    for l, (weights, biases) in enumerate(layers):
        rows = [[w * s for w, s in zip(row, scale, strict=True)] if scale else list(row) for row in weights]
        if l == len(layers) - 1:
            return (*found, (rows, list(biases)))
        scale = [_content([*row, b]) for row, b in zip(rows, biases, strict=True)]
        rows = [[w / s for w in row] for row, s in zip(rows, scale, strict=True)]
        found.append((rows, [b / s for b, s in zip(biases, scale, strict=True)]))
    raise ValueError("a network has at least one layer")


def _content(row: Sequence[Fraction]) -> Fraction:
    """The positive number that leaves integers without a common factor; 1 for zeros."""
    top, bottom = gcd(*(v.numerator for v in row)), lcm(*(v.denominator for v in row))
    return Fraction(top, bottom) if top else Fraction(1)


def _shallow(search: Search, widths: tuple[int, ...]) -> Iterator[Sequence[Affine]]:
    """One unit for each hyperplane."""
    planes: dict[Form, set[int]] = {}
    for k, crease in enumerate(search.creases):
        planes.setdefault(crease.plane, set()).add(k)
    units = [Unit(*_direction(search.creases[min(group)]), frozenset(group)) for _, group in sorted(planes.items())]
    sides = search.sides(units)
    if len(units) > widths[1] or sides is None:
        raise Undecided(f"creases on {len(units)} hyperplanes for {widths[1]} units, or creases that end")
    cells = list(search.pieces.complex)
    forms = [_identity(widths[0])] * len(cells)
    features = Features(cells, forms, np.ones((len(cells), widths[0]), dtype=np.int64))
    yield from readouts(features, units, np.array(sides, dtype=np.int64).reshape(len(cells), -1), widths[1], search.budget)


def _deep(search: Search, widths: tuple[int, ...], *, all: bool = False) -> Iterator[Sequence[Affine]]:
    """Guess the first layer, then the units of the second, then orientations.

    With `all`, every network of these widths in general position that computes the function is among the candidates; Undecided
    is raised where that cannot be said: fewer planes or units than the widths would do, or a system has many solutions.
    """
    if all and next(_hitting(_bends(search), frozenset(), frozenset(), widths[1] - 1), None) is not None:
        raise Undecided("fewer hyperplanes of the first layer explain all bends")
    for planes in first_layers(search, widths[1]):
        parts = components(search, planes)
        if parts is None:
            continue
        forms = [_integral(plane) for plane in planes]
        origin, features = _cut(search.pieces.complex, forms)
        for units in groups(parts, widths[2]):
            sides = search.sides(units)
            if sides is None:
                continue
            table = np.array([sides[k] for k in origin], dtype=np.int64).reshape(len(origin), -1)
            for signs in product((1, -1), repeat=len(planes)):
                if all and len(units) < widths[2]:
                    if solve(features.turned(signs), units, table, True, search.budget, True):
                        raise Undecided("fewer units of the second layer explain all creases")
                    continue
                rows = [[s * a for a in form[0]] for form, s in zip(forms, signs, strict=True)]
                first = rows, [s * form[1] for form, s in zip(forms, signs, strict=True)]
                for last in readouts(features.turned(signs), units, table, widths[2], search.budget, all=all):
                    yield _widened(first, last, widths)


def _widened(first: Affine, last: list[Affine], widths: tuple[int, ...]) -> list[Affine]:
    """With units of zeros in the first layer."""
    more = widths[1] - len(first[1])
    zero = Fraction(0)
    rows = [*first[0], *([zero] * widths[0] for _ in range(more))], [*first[1], *[zero] * more]
    return [rows, ([[*row, *[zero] * more] for row in last[0][0]], last[0][1]), last[1]]


def _cut(cells: Sequence[Cell], forms: Sequence[Form]) -> tuple[list[int], Features]:
    """Cells cut along hyperplanes, with the number of the cell that each piece is of."""
    origin, found, on = list[int](), list[Cell](), list[tuple[int, ...]]()
    for k, cell in enumerate(cells):
        parts: list[Any] = [(cell.vertices, ())]
        for name, form in enumerate(forms, OWN):
            parts = [piece for vertices, signs in parts for piece in _split(vertices, signs, form, name)]
        for vertices, signs in parts:
            origin.append(k)
            found.append(Cell(vertices, (), cell.maps))
            on.append(tuple(int(s > 0) for s in signs))
    return origin, Features(found, [tuple(forms)] * len(found), np.array(on, dtype=np.int64).reshape(len(found), len(forms)))


def first_layers(search: Search, width: int) -> Iterator[tuple[Form, ...]]:
    """Sets of hyperplanes at which all creases that bend can bend, the smallest first chosen by the faces where they do.

    At a face with one straight pair and two others the pair's is one of them, at one with three creases any of the three; the
    other creases there are not on a plane of the set. Planes are added that creases follow without a bend.
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


Bend = tuple[frozenset[Form], frozenset[Form]]  # planes of which one is of the first layer; all planes there


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
    """Choices of one plane at each bend, such that no other plane of any bend is chosen; with those others."""
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
    """Connected creases of the second layer: as a unit, the plane in each region of the first layer, what they cross."""

    unit: Unit
    planes: dict[tuple[bool, ...], Form]
    crossed: frozenset[int]


def components(search: Search, first: Sequence[Form]) -> list[Part] | None:
    """The creases not on planes of the first layer, continued; None if one bends or ends elsewhere."""
    found, known = search.creases, set(first)
    own = [k for k, crease in enumerate(found) if crease.plane not in known]
    root = {k: k for k in own}

    def find(k: int) -> int:
        while root[k] != k:
            root[k] = root[root[k]]
            k = root[k]
        return k

    crossings = list[tuple[int, int]]()
    for star in search.stars:
        ends = [k for k in star.rest if k in root]
        pairs = [pair for pair in star.pairs if pair[0] in root]
        if len(ends) not in (0, 2):
            return None
        joined = [*pairs, *([(ends[0], ends[1])] if ends else [])]
        for a, b in joined:
            root[find(a)] = find(b)
        crossings += [(a, b) for (a, _), (b, _) in combinations(joined, 2)]
    groups: dict[int, list[int]] = {}
    for k in own:
        groups.setdefault(find(k), []).append(k)
    names = {root_: n for n, root_ in enumerate(groups)}
    parts = []
    for members in groups.values():
        planes: dict[tuple[bool, ...], Form] = {}
        for k in members:
            centre = found[k].centre
            if planes.setdefault(tuple(_value(form, centre) > 0 for form in first), found[k].plane) != found[k].plane:
                return None
        if len({_direction(found[k]) for k in members}) > 1:
            return None
        met = {names[find(b)] for a, b in crossings if find(a) == find(members[0])}
        parts.append(Part(Unit(*_direction(found[members[0]]), frozenset(members)), planes, frozenset(met)))
    return parts


def groups(parts: Sequence[Part], most: int) -> Iterator[list[Unit]]:
    """Components put together into at most so many units, as many as possible first."""
    bad = {
        (a, b)
        for (a, p), (b, q) in combinations(enumerate(parts), 2)
        if (p.unit.out, p.unit.sign) != (q.unit.out, q.unit.sign) or b in p.crossed or a in q.crossed
        or any(p.planes[region] != q.planes[region] for region in p.planes.keys() & q.planes.keys())
    }  # fmt: skip

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
                merged = [frozenset[int]().union(*(parts[k].unit.members for k in block)) for block in blocks]
                yield [parts[block[0]].unit._replace(members=m) for block, m in zip(blocks, merged, strict=True)]


def _direction(crease: Crease) -> tuple[tuple[Fraction, ...], int]:
    """Weights with first non-zero entry 1, and its sign."""
    lead = next(w for w in crease.weight if w)
    return tuple(w / lead for w in crease.weight), 1 if lead > 0 else -1


def _integral(plane: Form) -> Form:
    """Scaled to integers without a common factor."""
    scale = _content([*plane[0], plane[1]])
    return tuple(a / scale for a in plane[0]), plane[1] / scale


def _identity(dimension: int) -> tuple[Form, ...]:
    return tuple((tuple(Fraction(int(i == j)) for j in range(dimension)), Fraction(0)) for i in range(dimension))
