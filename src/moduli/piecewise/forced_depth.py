"""Creases of a piecewise linear function, the traces they form, and the depth they force; from the
function alone.

Where two linear pieces meet, the affine maps differ by f_+ - f_- = w (n.x + c): the hyperplane n.x
+ c = 0 (first non-zero entry of n is 1) and one weight w for each output, positive for a convex
crease. Around a face of codimension 2 they balance.

*Strict depth.* f is affine (0 hidden layers), or every crease runs through the box in its whole
hyperplane with one weight (1: subtract w relu(n.x + c), an affine function is left), or neither.
With one to three inputs two hidden layers of some width always suffice (Arora, Basu, Mianjy,
Mukherjee 2018; with four, too: Bakaev, Brunck, Hertrich, Stade, Yehudayoff 2025), so that these
three values are all there is, and the answer is exact.

*General position.* At almost all points where two units vanish no third does: the sets of points of
the open box where 1, 2 and 3 units vanish have codimension at least 1, 2 and 3. Near such a point f
= a' + a relu(y) + b relu(z), with y affine and z = g + c relu(y), so the creases at a face of
codimension 2 are

    one hyperplane                                           one unit
    two crossing hyperplanes                                 two units
    a hyperplane, and halves of two others on its two sides  decisive: the hyperplane is of a unit of an earlier layer
    three halves of hyperplanes                              says nothing: any of the three may continue unseen.

Traces are creases continued through the first three kinds. Each lies in the bent hyperplane of one
unit, for *every* network in general position that computes f, whatever its widths; along a chain of
traces, each decisively earlier than the next, the layer grows. So a chain of k traces needs k
hidden layers, in general position. Any other star excludes general position there, in every
network: such faces are left out of the box ("excepted") before general position is asked for.
`docs/identifiability.md` has the proofs.

*More than three inputs*: slices (`through_slices`). In a plane through the box the first layer of a
network reads an affine function of two coordinates, so what the function in the plane needs is needed
by the function: strictly 0, 1 or 2, never more. Some plane shows 2 wherever 2 are needed (one across a
ridge where a crease ends, or changes its weight), but planes are drawn and may miss it. What is enough
is known otherwise: the layers of the network at hand, or ceil(log3(n - 1)) + 1 of n > 2 inputs (Bakaev et
al. 2025; two of four inputs, so that nothing above 2 is needed there).

A chain in a plane holds for all networks in general position on the box if the network at hand is
in general position in the plane, cells, edges and vertices: *Proof.* Move the plane by a small t,
across it. Each vertex is where as many walls (units with proportional rows are one, and sides of
the square) vanish as there are coordinates, transversally (`cells_generic`), so all cells stay,
with their signs, and with them the gradients along the plane, which no constant enters. So creases,
straight pairs, traces and the chain are the same. Let theta' be in general position on the box with
the same function. Where k of its units vanish is a finite union of polyhedra of dimension n - k at
most; for almost all t the moved plane meets each of them in dimension 2 - k at most (or not at
all). So theta' is in general position in such a plane, where Theorem 1 of that page asks for a
layer for each trace. QED
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.domains import ON_BOX, Domain
from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.kernel.box import Box
from moduli.kernel.errors import ArgumentError, Asked, CertificateRejected, Undecided
from moduli.kernel.network import Network

from .cells_exact import Cell, Form, Point, dot, minus, ring_of, value
from .polyhedral_complex import Pieces, pieces

Ridge = tuple[Point, ...]
PLANES = 12  # drawn through a box with more than three inputs
SMALLER = 4  # times a square is made smaller where its cells are too many
INSIDE = 0.999  # of the way to the sides of the box


class Crease(NamedTuple):
    """A facet on which the gradient jumps: its vertices, its hyperplane, the weight of each output."""

    points: tuple[Point, ...]
    plane: Form
    weight: tuple[Fraction, ...]

    @property
    def centre(self) -> Point:
        return _mean(self.points)


def ridges(points: tuple[Point, ...]) -> tuple[Ridge, ...]:
    """The facets of a facet: none in one dimension, points in two, edges in three."""
    dimension = len(points[0])
    if dimension < 3:
        return tuple((p,) for p in points) if dimension == 2 else ()
    ring = ring_of(points)
    return tuple((min(p, q), max(p, q)) for p, q in pairwise([*ring, ring[0]]))


class Star(NamedTuple):
    """The creases at a face of codimension 2: those that continue straight, in pairs, and the
    others.
    """

    pairs: tuple[tuple[int, int], ...]
    rest: tuple[int, ...]

    @property
    def decisive(self) -> bool:
        return len(self.pairs) == 1 and len(self.rest) == 2

    @property
    def crossing(self) -> bool:
        return len(self.pairs) == 2 and not self.rest


@dataclass(frozen=True)
class Traces:
    """The creases of a function in a box, and which of them belong to one unit.

    Attributes:
        creases. stars: the creases at each face of codimension 2. excepted: those of the faces at
            which no network that computes the function is in general position.
        label: the trace of each crease, counted from 0. earlier: pairs of traces with the ridge
            that orders them. crossing: pairs of traces that meet straight.
    """

    creases: tuple[Crease, ...]
    stars: dict[Ridge, Star]
    label: tuple[int, ...]
    earlier: dict[tuple[int, int], Ridge]
    crossing: frozenset[frozenset[int]]
    excepted: tuple[Ridge, ...]

    @property
    def count(self) -> int:
        return len(set(self.label))

    def of(self, trace: int) -> tuple[Crease, ...]:
        return tuple(c for c, k in zip(self.creases, self.label, strict=True) if k == trace)

    @cached_property
    def after(self) -> tuple[tuple[int, ...], ...]:
        """The longest chain that starts at each trace; empty where the order has circles."""
        later: dict[int, list[int]] = {}
        for a, b in self.earlier:
            later.setdefault(a, []).append(b)
        return _chains(self.count, later)

    @property
    def possible(self) -> bool:
        """Whether nothing was found that excludes every network in general position: circles,
        traces that cross themselves.
        """
        return (bool(self.after) or not self.creases) and all(
            len(pair) == 2 for pair in self.crossing
        )

    @property
    def chain(self) -> tuple[int, ...]:
        """A longest chain of traces, earliest first."""
        return max(self.after, key=len, default=()) if self.possible else ()


@dataclass(frozen=True, eq=False, repr=False)
class Depth(Result):
    """How many hidden layers a ReLU network that computes a piecewise linear function in a box
    needs.

    Attributes:
        status: "proved", or "bounded" where only `strict` layers are proved to be needed, and `enough`
            are more. strict: 0, 1 or 2: needed by every network that computes it. generic: needed by
            every network in general position that computes it; None where there is none. traces,
            pieces: what it was read from; of a function of more than three inputs in a plane.
        on: the box, with more than three inputs.
    """

    strict: int
    generic: int | None
    traces: Traces
    pieces: Pieces
    on: Box | None = None
    kind: ClassVar[str] = "depth"

    @property
    def enough(self) -> int:
        """Hidden layers that a network with enough units needs at most: `strict`, or with more than three
        inputs what theorems and the network at hand say.
        """
        if self.on is None:
            return self.strict
        return _enough(self.pieces.network)

    @property
    def chain(self) -> tuple[Ridge, ...]:
        """The faces that order the traces of a longest chain, from the earliest on."""
        return tuple(self.traces.earlier[pair] for pair in pairwise(self.traces.chain))

    def check(self) -> bool:
        """Check the cells, the balance at each face of codimension 2, and the chain link by link;
        then ask again.

        Raises:
            CertificateRejected: naming what fails.
        """
        if self.on is not None and not _lies_in(self.pieces, self.on):
            raise CertificateRejected("the plane leaves the box")
        self.pieces.check()
        found, again = self.traces, traces(self.pieces)
        if found.creases != again.creases:
            raise CertificateRejected("the creases are not those of the cells")
        for ridge in found.stars:
            if any(balance(found.creases, found.stars[ridge], ridge)):
                raise CertificateRejected(f"the weights at {_shown(ridge)} do not balance")
        if found != again or any(not found.stars[ridge].decisive for ridge in self.chain):
            raise CertificateRejected("the traces do not follow from the creases")
        if (self.strict, self.generic, self.status) != _verdict(self.pieces, again, self.on):
            raise CertificateRejected("the depths do not follow from the traces")
        return True

    @property
    def statement(self) -> str:
        more = (
            "no network in general position"
            if self.generic is None
            else f"at least {self.generic} in general position"
        )
        but = f" ({len(self.traces.excepted)} faces excepted)" if self.traces.excepted else ""
        layers = f"{self.strict} hidden layer{'s' * (self.strict != 1)}"
        if self.status == "bounded":
            return f"at least {layers} needed, {self.enough} are enough, {more}{but}"
        return f"{layers} needed, {more}{but}"

    def rows(self) -> list[tuple[str, str]]:
        found, box = (
            self.traces,
            repr(self.pieces.box) + (" of a slice" if self.pieces.slice else ""),
        )
        if self.on is not None:
            box = f"{self.on!r}, through a plane"
        return [
            ("network", repr(self.pieces.network)),
            ("on", box),
            ("hidden layers", f">= {self.strict}"),
            ("enough", str(self.enough)),
            (
                "in general position",
                "none exists" if self.generic is None else f">= {self.generic}",
            ),
            ("creases", str(len(found.creases))),
            ("traces", str(found.count)),
            ("chain", " < ".join(map(_shown, self.chain)) or "none"),
        ]

    def data(self) -> dict[str, Any]:
        return {
            "strict": self.strict, "enough": self.enough, "generic": self.generic, "creases": len(self.traces.creases),
            "traces": self.traces.count, "chain": [_written(ridge) for ridge in self.chain],
            "digest": self.pieces.network.digest,
        }  # fmt: skip


def meetings(pieces: Pieces) -> dict[tuple[Point, ...], tuple[int, int]]:
    """The facets inside the box, by their sorted vertices, with the numbers of the two cells that
    meet there.
    """
    met: dict[tuple[Point, ...], list[int]] = {}
    for k, cell in enumerate(pieces.complex):
        for points in cell.facets().values():
            met.setdefault(tuple(sorted(points)), []).append(k)
    return {points: (cells[0], cells[1]) for points, cells in met.items() if len(cells) == 2}


def creases(pieces: Pieces) -> tuple[Crease, ...]:
    """The visible facets inside the box, from the vertices and affine maps of the cells alone;
    sorted.
    """
    found = []
    for points, (a, b) in meetings(pieces).items():
        if pieces.complex[a].maps != pieces.complex[b].maps:
            found.append(_crease(points, pieces.complex[a], pieces.complex[b]))
    return tuple(sorted(found))


def _crease(points: tuple[Point, ...], a: Cell, b: Cell) -> Crease:
    """Both cells are on the sides of one hyperplane, and the difference of their maps vanishes
    there.
    """
    jumps = [(minus(q[0], p[0]), q[1] - p[1]) for p, q in zip(a.maps, b.maps, strict=True)]
    slope, offset = next(jump for jump in jumps if any(jump[0]))
    lead = next(k for k, v in enumerate(slope) if v)
    plane = tuple(v / slope[lead] for v in slope), offset / slope[lead]
    side = 1 if value(plane, b.centre) > 0 else -1
    return Crease(points, plane, tuple(side * jump[lead] for jump, _ in jumps))


def inside(pieces: Pieces, ridge: Ridge) -> bool:
    """Whether the relative interior of a face is in the open box."""
    ends = zip(_mean(ridge), pieces.box.low.tolist(), pieces.box.high.tolist(), strict=True)
    return all(low < x < high for x, low, high in ends)


def stars(pieces: Pieces, found: tuple[Crease, ...]) -> dict[Ridge, Star]:
    """The creases at each face of codimension 2 inside the box."""
    met: dict[Ridge, list[int]] = {}
    for k, crease in enumerate(found):
        for ridge in ridges(crease.points):
            met.setdefault(ridge, []).append(k)
    return {r: _star(found, group) for r, group in sorted(met.items()) if inside(pieces, r)}


def _star(found: tuple[Crease, ...], group: list[int]) -> Star:
    planes: dict[Form, list[int]] = {}
    for k in group:
        planes.setdefault(found[k].plane, []).append(k)
    pairs = tuple((p[0], p[1]) for p in planes.values() if len(p) == 2)
    return Star(pairs, tuple(p[0] for p in planes.values() if len(p) == 1))


def balance(found: tuple[Crease, ...], star: Star, ridge: Ridge) -> tuple[Fraction, ...]:
    """The sum of the jumps of all gradients on the way around a ridge: zero, for the star of a
    continuous function.
    """
    total: dict[tuple[int, int], Fraction] = {}
    for k in (*star.rest, *(k for pair in star.pairs for k in pair)):
        normal = found[k].plane[0]
        side = 1 if dot(normal, _turned(ridge, found[k].centre)) > 0 else -1
        for output, w in enumerate(found[k].weight):
            for axis, n in enumerate(normal):
                total[output, axis] = total.get((output, axis), Fraction(0)) + side * w * n
    return tuple(total.values())


def _turned(ridge: Ridge, point: Point) -> Point:
    """The direction from a ridge to a point, turned by a right angle around the ridge."""
    u = minus(point, _mean(ridge))
    if len(u) == 2:
        return (-u[1], u[0])
    e = minus(ridge[1], ridge[0])
    return (e[1] * u[2] - e[2] * u[1], e[2] * u[0] - e[0] * u[2], e[0] * u[1] - e[1] * u[0])


def traces(pieces: Pieces) -> Traces:
    """Creases continued through ridges, and their order; see the head of this module."""
    found = creases(pieces)
    at = stars(pieces, found)
    root = list(range(len(found)))

    def find(k: int) -> int:
        while root[k] != k:
            root[k] = root[root[k]]
            k = root[k]
        return k

    excepted = tuple(ridge for ridge, star in at.items() if not possible(found, star))
    usable = {ridge: star for ridge, star in at.items() if ridge not in excepted}
    for star in usable.values():
        links = list(star.pairs)
        if star.decisive:
            links.append((star.rest[0], star.rest[1]))
        for a, b in links:
            root[max(find(a), find(b))] = min(find(a), find(b))
    names: dict[int, int] = {}
    label = tuple(names.setdefault(find(k), len(names)) for k in range(len(found)))
    earlier: dict[tuple[int, int], Ridge] = {}
    for ridge, star in usable.items():
        if star.decisive:
            earlier.setdefault((label[star.pairs[0][0]], label[star.rest[0]]), ridge)
    crossing = set[frozenset[int]]()
    for star in usable.values():
        if star.crossing:
            crossing.add(frozenset(label[a] for a, _ in star.pairs))
    return Traces(found, at, label, earlier, frozenset(crossing), excepted)


def possible(found: tuple[Crease, ...], star: Star) -> bool:
    """Whether a network can have these creases where at most two of its units vanish."""
    if star.decisive:
        plane = found[star.pairs[0][0]].plane
        a, b = (value(plane, found[k].centre) for k in star.rest)
        return a * b < 0
    return star.crossing or (len(star.pairs), len(star.rest)) in ((1, 0), (0, 3))


def _chains(count: int, later: dict[int, list[int]]) -> tuple[tuple[int, ...], ...]:
    """The longest chain that starts at each; nothing where there is a circle."""
    found: list[tuple[int, ...] | None] = [None] * count
    for _ in range(count):
        for k in range(count):
            if found[k] is None:
                tails = [found[m] for m in sorted(later.get(k, []))]
                ready = [t for t in tails if t is not None]
                if len(ready) == len(tails):
                    found[k] = (k, *max(ready, key=len, default=()))
    return tuple(c for c in found if c is not None) if None not in found else ()


def strict_depth(pieces: Pieces) -> int:
    """0, 1 or 2: hidden layers needed by every network that computes this function in this box."""
    found = creases(pieces)
    return _strict(found, stars(pieces, found))


def _strict(found: tuple[Crease, ...], at: dict[Ridge, Star]) -> int:
    for star in at.values():
        if star.rest or any(found[a].weight != found[b].weight for a, b in star.pairs):
            return 2
    return int(bool(found))


def _generic_depth(found: Traces) -> int | None:
    return len(found.chain) if found.possible else None


def depth(pieces: Pieces) -> Depth:
    """How many hidden layers the function of `pieces` needs in its box (or in the slice), strictly
    and in general position.

    >>> from moduli import Box, Network, pieces
    >>> first, second = ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]), ([[1.0, -1.0]], [-1.0])
    >>> depth(pieces(Network.mlp(*first, *second, [[1.0]], [0.0], activation="relu"), on=Box(-4, 4)))    # relu(x+ - y+ - 1)
    <depth = 2 hidden layers needed, at least 1 in general position>
    """
    return _read(pieces, None)


def through_slices(
    net: Network, on: Domain, budget: int, seed: int, progress: Progress | None
) -> Depth:
    """The same of more than three inputs, through planes that are drawn; see the head of this module.

    The plane that shows most is returned. `budget` is how many cells all of them may have.

    Raises:
        Undecided: no plane had so few cells.
    """
    if not isinstance(on, Box):
        raise ArgumentError(Asked("on", on), ": depth is asked in a box; give ", ON_BOX)
    box, rng = on.of_dimension(net.widths[0]), np.random.default_rng(seed)
    if (box.low >= box.high).any():
        raise ValueError(f"{box}: a box with an interior is needed")
    best: Depth | None = None
    share = max(budget // (PLANES * SMALLER), 4)  # of one square
    for k in range(PLANES):
        frame, reach = _plane(box, rng, middle=k == 0)
        found = _in_plane(net, box, frame, reach, share, progress)
        if found is None:
            continue
        if best is None or _shows(found) > _shows(best):
            best = found
        if best.strict == best.enough and best.generic == len(net.layers) - 1:
            break
    if best is None:
        raise Undecided(
            f"{net}: in no plane that was drawn were there {share} cells or fewer; give more budget"
        )
    return best


def _read(pieces: Pieces, box: Box | None) -> Depth:
    found = traces(pieces)
    strict, generic, status = _verdict(pieces, found, box)
    return Depth(status, strict, generic, found, pieces, box)


def _verdict(pieces: Pieces, found: Traces, box: Box | None) -> tuple[int, int | None, str]:
    """Strict and generic depth, and whether the strict one is all that is needed."""
    strict, generic = _strict(found.creases, found.stars), _generic_depth(found)
    if box is None:
        return strict, generic, "proved"
    if not pieces.generic:
        # such a plane says nothing of those beside it: what every network needs is left
        generic = strict
    return strict, generic, "proved" if strict == _enough(pieces.network) else "bounded"


def _enough(net: Network) -> int:
    """Hidden layers with which a network of many units has the function."""
    inputs, layers = net.widths[0], len(net.layers) - 1
    assert inputs > 2, "with fewer the strict depth is known"
    known = 1
    while 3 ** (known - 1) < inputs - 1:  # ceil(log3(inputs - 1)) + 1
        known += 1
    return min(layers, known)


def _shows(found: Depth) -> tuple[int, int]:
    return found.strict, found.generic or 0


def _plane(box: Box, rng: np.random.Generator, *, middle: bool) -> tuple[Any, float]:
    """Origin and two directions through a point of the box, and how far coordinates stay in it."""
    half = (box.high - box.low) / 2
    part = np.zeros(len(half)) if middle else rng.uniform(-0.5, 0.5, len(half))
    u, v = np.linalg.qr(rng.standard_normal((len(half), 2)))[0].T
    reach = INSIDE * float(((1 - np.abs(part)) / (np.abs(u) + np.abs(v))).min())
    return (box.low + half * (1 + part), half * u, half * v), reach


def _in_plane(
    net: Network, box: Box, frame: Any, reach: float, most: int, progress: Progress | None
) -> Depth | None:
    """What a square shows, made smaller until it has few cells; None where that is not reached."""
    for k in range(SMALLER):
        end = reach / 4**k
        try:
            found = _read(pieces(net, Box(-end, end), frame, most, progress), box)
        except Undecided:
            continue
        return found if _lies_in(found.pieces, box) else None
    return None


def _lies_in(found: Pieces, box: Box) -> bool:
    """Whether a square is in the box, exactly: its corners are."""
    if found.slice is None:
        return False
    origin, *directions = [list(map(Fraction, part.tolist())) for part in found.slice]
    ends = list(zip(found.box.low.tolist(), found.box.high.tolist(), strict=True))
    if len(ends) != len(directions):
        return False
    box = box.of_dimension(len(origin))
    for i, start in enumerate(origin):
        low = high = start
        for direction, (first, last) in zip(directions, ends, strict=True):
            steps = sorted((direction[i] * Fraction(first), direction[i] * Fraction(last)))
            low, high = low + steps[0], high + steps[1]
        if low < Fraction(float(box.low[i])) or high > Fraction(float(box.high[i])):
            return False
    return True


def lines(
    found: Iterable[Crease],
) -> Iterator[tuple[Form, tuple[Point, Point], tuple[Fraction, ...]]]:
    """In the plane: creases joined where they continue straight with one weight, as (line, ends,
    weight).
    """
    groups: dict[tuple[Form, tuple[Fraction, ...]], list[tuple[Point, ...]]] = {}
    for crease in found:
        groups.setdefault((crease.plane, crease.weight), []).append(tuple(sorted(crease.points)))
    for (plane, weight), segments in sorted(groups.items()):
        start, end = None, None
        for low, high in sorted(segments):
            if end is not None and start is not None and low != end:
                yield plane, (start, end), weight
                start = None
            start, end = start or low, high
        if start is not None and end is not None:
            yield plane, (start, end), weight


def _mean(points: Iterable[Point]) -> Point:
    whole = tuple(points)
    return tuple(sum(axis, Fraction(0)) / len(whole) for axis in zip(*whole, strict=True))


def _shown(ridge: Ridge) -> str:
    places = [", ".join(f"{float(x):.4g}" for x in point) for point in ridge]
    return "-".join(f"({place})" for place in places)


def _written(ridge: Ridge) -> list[list[str]]:
    return [list(map(str, point)) for point in ridge]
