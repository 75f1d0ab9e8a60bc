"""The polyhedral complex of a network with piecewise linear activations, in a box of up to three
inputs or in a slice.

Two routes lead to one `Complex`: `cells_generic` (general position; floats propose, outward-rounded
arithmetic proves) and, where that gives up, `cells_exact` (integers throughout; no assumption).
What is asked of the complex is asked here: cells, regions and affine pieces, bends and their
weights, each exact: floats decide only where their error bound allows it, integers otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common import modular
from moduli.common.domains import ON_BOX, Domain
from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.kernel.bounds.input_splits import by_layer
from moduli.kernel.box import Box
from moduli.kernel.errors import (
    ArgumentError,
    Asked,
    CertificateRejected,
    ShapeError,
    UnsupportedModel,
)
from moduli.kernel.network import Network

from .cells_exact import Cell, Forms, Point, clip, minus, point_of, value
from .cells_generic import (
    LARGEST,
    Degenerate,
    Skeleton,
    certify,
    exact_vertex,
    faces,
    growth,
    subdivide,
    zeros_of,
)

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.intp]]
MOST = 3  # inputs
BLOCK = 2**18  # numbers of a table at a time


class Facet(NamedTuple):
    """Where two cells meet: its vertices, the cells by number, the units that change sign, the
    change of slope across it.

    `weight` is the jump of the gradient of each output along the unit normal: positive for a convex
    crease. Invisible facets have weight zero.
    """

    vertices: Array
    cells: tuple[int, int]
    units: tuple[int, ...]
    weight: tuple[float, ...]
    visible: bool

    @property
    def unit(self) -> int:
        """The first unit that bends here, counted over all layers."""
        return self.units[0]


class Complex(NamedTuple):
    """Cells, facets and vertices by number.

    Attributes:
        signs: of all hidden units on each cell [cells, units], -1, 0, 1. points: [vertices,
            inputs], nearest floats or close.
        corners, walls: of each cell and of each facet, its vertices. sides: the cells of each
            facet, -1 beyond the box.
    """

    signs: Any
    points: Array
    corners: list[Ints]
    walls: list[Ints]
    sides: Ints


def _of_skeleton(skeleton: Skeleton) -> Complex:
    """Cells and facets from the vertices of a complex in general position.

    Exactly n walls meet in a vertex; near it they are n hyperplanes that cut space into 2^n
    octants, one a cell (none beyond the box), told apart by the side of each wall: `octant_code`.
    For n = 2, walls p < q and a vertex:

                    q = 0
              p - q -   |   p - q +
              code 0    |   code 2
         p = 0 ---------+--------- a facet on p: it leaves the vertex along p = 0, on one side of q
         ("free" wall),
              code 1    |   code 3   and has the cells p - and p + beside it
              p + q -   |   p + q +

    So a facet at one of its vertices gives its two cells at once: the sides of its n - 1 free
    walls, and both sides of the one wall that is kept. The facet on p with q + lies between codes 2
    and 2 + 1 = 3.
    """
    n = skeleton.points.shape[1]
    cells = faces(skeleton.marks, n, n)
    signs = skeleton.unit_signs(cells.signs(cells.first))
    corners = _grouped(cells.vertex, cells.face, len(signs))
    cell_at = np.full((len(skeleton.points), 2**n), -1)  # [vertices, octants], -1 beyond the box
    cell_at[cells.vertex, octant_code(cells.sign > 0)] = cells.face

    facets = faces(skeleton.marks, n, n - 1)
    vertex, free, sign = (
        facets.vertex[facets.first],
        facets.free[facets.first],
        facets.sign[facets.first],
    )
    zeros = zeros_of(skeleton.marks, n)[vertex]  # [facets, n]: the walls of that vertex
    is_free = (
        zeros[:, :, None] == free[:, None, :]
    )  # [facets, n walls of the vertex, n - 1 free ones]
    positive = (is_free & (sign > 0)[:, None, :]).any(axis=2)
    kept = ~is_free.any(axis=2)  # the one wall that the facet lies on
    below, above = octant_code(positive), octant_code(positive | kept)
    sides = np.stack([cell_at[vertex, below], cell_at[vertex, above]], axis=1)
    sides = np.where(
        sides[:, :1] < 0, sides[:, ::-1], sides
    )  # a cell first, what is beyond the box last
    walls = _grouped(facets.vertex, facets.face, len(sides))
    return Complex(signs, skeleton.points, corners, walls, sides)


def octant_code(positive: Any) -> Ints:
    """The number of an octant ``[...]`` from its sides of the walls ``[..., n]``: bit k for the
    positive side of wall k.

    >>> octant_code(np.array([[False, False], [True, False], [False, True], [True, True]])).tolist()
    [0, 1, 2, 3]
    """
    return np.asarray(positive @ 2 ** np.arange(positive.shape[-1]), dtype=np.intp)


def _grouped(items: Ints, group: Ints, count: int) -> list[Ints]:
    order = np.argsort(group, kind="stable")
    return np.split(items[order], np.cumsum(np.bincount(group, minlength=count))[:-1])


def _of_cells(cells: Sequence[Cell], units: int) -> Complex:
    place: dict[Point, int] = {}
    corners = []
    for cell in cells:
        numbers = [
            place.setdefault(point, len(place)) for point in cell.points
        ]  # the next number for a new point
        corners.append(np.array(numbers))
    met: dict[tuple[Point, ...], list[int]] = {}
    for k, cell in enumerate(cells):
        for points in cell.facets().values():
            met.setdefault(points, []).append(k)
    if any(len(pair) > 2 for pair in met.values()):
        raise CertificateRejected("more than two cells meet at a facet")
    walls = [np.array([place[p] for p in points]) for points in met]
    sides = np.array([[*pair, -1][:2] for pair in met.values()], dtype=np.intp)
    signs = np.array([cell.signs for cell in cells], dtype=np.int8).reshape(len(cells), units)
    return Complex(signs, _floats(list(place)), corners, walls, sides)


@dataclass(frozen=True, eq=False, repr=False)
class Pieces(Result):
    """The linear pieces of a network in a box, or in a slice of its inputs.

    Attributes:
        network, box. source: vertices with proved signs (general position), or all cells in
            rationals. slice: origin and directions, if one was asked.
    """

    network: Network
    box: Box
    source: Skeleton | tuple[Cell, ...]
    slice: tuple[Array, ...] | None = None
    kind: ClassVar[str] = "pieces"
    complete: ClassVar[bool] = True

    @cached_property
    def _complex(self) -> Complex:
        if isinstance(self.source, Skeleton):
            return _of_skeleton(self.source)
        return _of_cells(self.source, self.network.units)

    @property
    def generic(self) -> bool:
        """Whether the complex is in general position: as many bends meet in a vertex as there are
        inputs.
        """
        return isinstance(self.source, Skeleton)

    @property
    def cells(self) -> int:
        """Number of activation regions: one for each sign vector."""
        return len(self._complex.signs)

    @cached_property
    def complex(self) -> tuple[Cell, ...]:
        """The cells in rationals."""
        if not isinstance(self.source, Skeleton):
            return self.source
        names, vertices = _names(self.source), []
        for mark in self.source.marks:
            tight = frozenset(
                name for wall in np.flatnonzero(mark == 0).tolist() for name in names[wall]
            )
            vertices.append((point_of(exact_vertex(self.source, mark)), tight))
        cells = []
        for corners, sign in zip(self._complex.corners, self._complex.signs.tolist(), strict=True):
            own = tuple(vertices[v] for v in corners.tolist())
            cells.append(Cell(own, tuple(sign), self._forms.maps(sign)))
        return tuple(cells)

    @cached_property
    def start(self) -> Array:
        """The inputs as affine forms of the coordinates of the box or slice, [inputs, coordinates +
        1], offsets last.
        """
        return _start(self.network, self.slice)

    @cached_property
    def _forms(self) -> Forms:
        return Forms(self.network, self.start)

    def _gates(self, cells: Ints) -> list[Array]:
        return gates(self.network, self._complex.signs[cells])

    @cached_property
    def affine_maps(self) -> list[tuple[Array, Array]]:
        """Matrix and offset of the outputs on each cell."""
        found = []
        block = max(1, BLOCK // (max(self.network.widths[1:]) * (len(self.box.low) + 1)))
        for at in range(0, self.cells, block):
            cells = np.arange(at, min(at + block, self.cells))
            h = self.start.T[:, None]
            for layer, gate in zip(self.network.layers, [*self._gates(cells), None], strict=True):
                h = h @ layer.weight.T
                h[-1] += layer.bias
                h = h if gate is None else h * gate
            h = np.broadcast_to(h, (len(h), len(cells), h.shape[2]))
            found += [
                (part[:, :-1], part[:, -1]) for part in np.ascontiguousarray(h.transpose(1, 2, 0))
            ]
        return found

    @cached_property
    def _jumps(self) -> tuple[Ints, Array, Any]:
        """Of the facets inside: their numbers, the jumps of the outputs' gradients [facets,
        outputs, inputs], seen or not.
        """
        inside = np.flatnonzero(self._complex.sides[:, 1] >= 0)
        outputs, n = self.network.widths[-1], len(self.box.low)
        jumps, seen = np.zeros((len(inside), outputs, n)), np.zeros(len(inside), dtype=bool)
        block = max(1, BLOCK // (max(self.network.widths[1:]) * (2 * n + 2)))
        for at in range(0, len(inside), block):
            sides = self._complex.sides[inside[at : at + block]]
            jump, size = self._tangent(self._gates(sides[:, 0]), self._gates(sides[:, 1]))
            jumps[at : at + block] = jump
            surely = np.abs(jump).max(axis=(1, 2)) > size
            for k in np.flatnonzero(~surely & (size > 0)).tolist():
                one, two = (self._map(int(c)) for c in sides[k])
                surely[k] = any(p[0] != q[0] for p, q in zip(one, two, strict=True))
                jumps[at + k] = _floats([minus(q[0], p[0]) for p, q in zip(one, two, strict=True)])
            seen[at : at + block] = surely
        jumps[~seen] = 0.0
        return inside, jumps, seen

    @np.errstate(all="ignore")
    def _tangent(self, one: list[Array], two: list[Array]) -> tuple[Array, Array]:
        """How the gradient changes between cells with gates `one` and `two`, and a bound of the
        rounding in any entry.

        With z the pre-activations on the first, d = z' - z: h' - h = two d + (two - one) z. Where
        no path bears a change both are exactly 0. The bound is the sum of the absolute values of
        all products, times their roundings (Higham 2002, 3.1).
        """
        count = len(one[0]) if one else 0
        n = self.start.shape[1] - 1
        h, size = self.start[:, :-1].T[:, None], np.abs(self.start[:, :-1]).sum(axis=1)[None]
        change, spread = np.zeros(h.shape), np.zeros(size.shape)
        roundings, growth, least = (
            4.0 + n,
            1.0,
            float(np.abs(self.start)[self.start != 0].min(initial=1.0)),
        )
        for layer, a, b in zip(self.network.layers, [*one, None], [*two, None], strict=True):
            weight = np.abs(layer.weight).T
            h, size, change, spread = (
                h @ layer.weight.T,
                size @ weight,
                change @ layer.weight.T,
                spread @ weight,
            )
            roundings += layer.weight.shape[1] + 5
            growth *= max(1.0, float(weight.sum(axis=0).max(initial=0.0)))
            least *= float(weight[weight > 0].min(initial=1.0))
            if a is not None and b is not None:
                least *= min(float(np.abs(g)[g != 0].min(initial=1.0)) for g in (a, b))
                change = b * change + (b - a) * h
                spread = np.abs(b) * spread + np.abs(b - a) * size
                h, size = a * h, np.abs(a) * size
        lost = np.where(
            spread.max(axis=1) > 0, spread.max(axis=1) * roundings * 2.0**-51 + 1e-200, 0.0
        )
        change = np.broadcast_to(change, (n, count, self.network.widths[-1]))
        lost = np.broadcast_to(lost, count)
        sure = growth < LARGEST and least > 1e-200  # else sums might overflow, or products vanish
        return np.moveaxis(change, 0, 2), lost if sure else np.full(count, np.inf)

    def _map(self, cell: int) -> Any:
        return self._forms.maps(self._complex.signs[cell].tolist())

    @cached_property
    def region(self) -> Ints:
        """The linear region of each cell: connected unions of cells with one affine map are
        numbered from 0.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        inside, _, seen = self._jumps
        a, b = self._complex.sides[inside[~seen]].T
        graph = coo_array((np.ones(len(a)), (a, b)), shape=(self.cells, self.cells))
        return np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)

    @property
    def linear_regions(self) -> int:
        """Number of connected unions of cells with one affine map."""
        return int(self.region.max()) + 1

    @cached_property
    def piece(self) -> Ints:
        """The affine map of each cell, numbered from 0: equal numbers, equal maps.

        Residues tell most maps apart, integers the rest.
        """
        first = np.unique(self.region, return_index=True)[1]
        groups: dict[bytes, list[int]] = {}
        for r, key in enumerate(self._residues(first)):
            groups.setdefault(key, []).append(r)
        number, at = np.zeros(len(first), dtype=np.intp), 0
        for members in groups.values():
            maps: dict[Any, int] = {}
            for r in members:
                exact = self._map(int(first[r])) if len(members) > 1 else ()
                if exact not in maps:
                    maps[exact] = at
                    at += 1
                number[r] = maps[exact]
        return number[self.region]

    def _residues(self, cells: Ints) -> list[bytes]:
        """The maps on some cells modulo a prime."""
        prime, found = modular.PRIMES[0], []
        layers = [
            (modular.residues(x.weight, prime).T, modular.residues(x.bias, prime))
            for x in self.network.layers
        ]
        start = modular.residues(self.start, prime).T
        block = max(1, BLOCK // (max(self.network.widths[1:]) * len(start)))
        for at in range(0, len(cells), block):
            some = cells[at : at + block]
            h = start[:, None]
            for (weight, bias), gate in zip(layers, [*self._gates(some), None], strict=True):
                h = modular.times(h, weight, prime)
                h[-1] = modular.reduced(h[-1] + bias, prime)
                h = h if gate is None else modular.reduced(h * modular.residues(gate, prime), prime)
            h = np.broadcast_to(np.mod(h, prime), (len(h), len(some), h.shape[2]))
            found += [part.tobytes() for part in h.transpose(1, 0, 2)]
        return found

    @property
    def affine_pieces(self) -> int:
        """Number of different affine maps."""
        return int(self.piece.max()) + 1

    @property
    def corners(self) -> list[Ints]:
        """The numbers of the vertices of each cell."""
        return self._complex.corners

    @property
    def vertices(self) -> Array:
        """All vertices, [count, inputs]."""
        return self._complex.points

    @property
    def cell_signs(self) -> Any:
        """[cells, hidden units], of -1, 0, 1."""
        return self._complex.signs

    @property
    def boundary_facets(self) -> int:
        """Facets of cells on the sides of the box."""
        return int((self._complex.sides[:, 1] < 0).sum())

    @cached_property
    def facets(self) -> tuple[Facet, ...]:
        """Those inside the box."""
        found, data = [], self._complex
        centres = np.array([data.points[corners].mean(axis=0) for corners in data.corners])
        for k, jump, seen in zip(*self._jumps, strict=True):
            a, b = data.sides[k].tolist()
            units = tuple(np.flatnonzero(data.signs[a] != data.signs[b]).tolist())
            sizes = np.linalg.norm(jump, axis=1)
            weight = np.copysign(sizes, jump @ (centres[b] - centres[a])) * (sizes > 0)
            found.append(
                Facet(data.points[data.walls[k]], (a, b), units, tuple(weight.tolist()), bool(seen))
            )
        return tuple(found)

    def check(self) -> bool:
        """Prove the complex again.

        In general position: signs at all vertices, two vertices on every edge, Euler's formula.
        Else: the volumes of the cells sum to that of the box, no function jumps across a facet,
        sign vectors differ, Euler's formula in the plane.

        Raises:
            CertificateRejected: naming what fails.
        """
        if isinstance(self.source, Skeleton):
            try:
                certify(self.source)
            except Degenerate as problem:
                raise CertificateRejected(str(problem)) from None
        else:
            _check_cells(self.source, self.box)
        n, data = len(self.box.low), self._complex
        edges = (
            faces(self.source.marks, n, 1) if isinstance(self.source, Skeleton) and n == 3 else None
        )
        if n == 2 and len(data.walls) - len(data.points) + 1 != self.cells:
            raise CertificateRejected("Euler's formula fails")
        if (
            edges is not None
            and len(data.points) - len(edges.first) + len(data.walls) - self.cells != 1
        ):
            raise CertificateRejected("Euler's formula fails")
        return True

    @property
    def statement(self) -> str:
        return f"{self.cells} cells, {self.linear_regions} linear regions, {self.affine_pieces} affine pieces"

    def rows(self) -> list[tuple[str, str]]:
        seen = self._jumps[2]
        return [
            ("network", repr(self.network)),
            ("on", repr(self.box) + (" of a slice" if self.slice else "")),
            ("cells", str(self.cells)), ("linear regions", str(self.linear_regions)),
            ("affine pieces", str(self.affine_pieces)), ("vertices", str(len(self.vertices))),
            ("facets inside", f"{len(seen)}, of which {int(seen.sum())} bend the function"),
            ("route", "general position" if self.generic else "degenerate: integers throughout"),
        ]  # fmt: skip

    def data(self) -> dict[str, Any]:
        return {
            "cells": self.cells, "linear_regions": self.linear_regions,
            "affine_pieces": self.affine_pieces, "vertices": len(self.vertices),
            "facets": len(self._jumps[2]), "visible_facets": int(self._jumps[2].sum()),
            "boundary_facets": self.boundary_facets, "generic": self.generic,
            "digest": self.network.digest,
        }  # fmt: skip

    def plot_data(self) -> dict[str, Any]:
        """Polygons (or intervals; for three inputs those on the sides of the box) with their maps,
        and the bends.
        """
        data, piece = self._complex, self.piece
        layers = [l for l, n in enumerate(self.network.widths[1:-1], 1) for _ in range(n)]
        rings = [_ring(data.points[corners]) for corners in data.corners]
        if len(self.box.low) == 3:
            outer = np.flatnonzero(data.sides[:, 1] < 0)
            rings, piece = (
                [_ring(data.points[data.walls[k]]) for k in outer],
                piece[data.sides[outer, 0]],
            )
        along = "input" if self.slice is None else "direction"
        bends = [
            {
                "vertices": _ring(f.vertices),
                "layer": layers[f.unit],
                "weight": f.weight,
                "visible": f.visible,
            }
            for f in self.facets
        ]
        return {
            "cells": rings, "piece": piece, "maps": self.affine_maps, "bends": bends,
            "layers": len(self.network.layers) - 1,
            "coordinates": [f"{place} {along}" for place in ("first", "second", "third")],
        }  # fmt: skip

    def plot(self, ax: Any = None, *, color: str = "cell") -> Any:
        """The cells by colour ("cell"), the bends by layer ("layer") or by weight ("weight").

        For one input the graph of the function; for three the bends in space, cells by colour on
        the sides of the box.

        Raises:
            ValueError: another colouring.
        """
        if color not in ("cell", "layer", "weight"):
            raise ArgumentError(Asked("color", color), ": 'cell', 'layer' or 'weight'")
        from moduli.common.figures import pieces_figure

        return pieces_figure(self.plot_data(), color, ax)


def gates(net: Network, signs: Any) -> list[Array]:
    """Slopes of the activation of each unit by its sign, by layer [cells, width]."""
    parts = by_layer(net, signs.astype(np.float64), axis=1)
    return [
        np.asarray(act.derivative(part)) for act, part in zip(net.activations, parts, strict=True)
    ]


def _names(skeleton: Skeleton) -> list[list[int]]:
    """The constraints (sides of the box, then units) that vanish on each wall."""
    n = len(skeleton.box.low)
    found, unit = [[k] for k in range(2 * n)], 2 * n
    for part in skeleton.walls:
        for w in range(len(part.units)):
            found.append((unit + np.flatnonzero(part.wall == w)).tolist())
        unit += len(part.wall)
    return found


def _check_cells(cells: Sequence[Cell], box: Box) -> None:
    ends = zip(box.low.tolist(), box.high.tolist(), strict=True)
    whole = math.prod((Fraction(h) - Fraction(l) for l, h in ends), start=Fraction(1))
    if sum(cell.volume for cell in cells) != whole:
        raise CertificateRejected("the volumes of the cells do not sum to that of the box")
    if len({cell.signs for cell in cells}) != len(cells):
        raise CertificateRejected("two cells have the same signs")
    met: dict[tuple[Point, ...], Cell] = {}
    for cell in cells:
        for points in cell.facets().values():
            other = met.setdefault(points, cell)
            if any(
                value(f, p) != value(g, p)
                for p in points
                for f, g in zip(cell.maps, other.maps, strict=True)
            ):
                raise CertificateRejected("the function jumps across a facet")


def pieces(
    net: Network, on: Domain, slice: Sequence[Any] | None, budget: int, progress: Progress | None
) -> Pieces:
    """See `api.pieces`."""
    if not isinstance(on, Box):
        raise ArgumentError(Asked("on", on), ": pieces are counted in a box; give ", ON_BOX)
    for l, act in enumerate(net.activations, 1):
        if not act.piecewise_linear:
            raise UnsupportedModel(
                f"layer {l} is {act}: only piecewise linear activations have linear pieces"
            )
    frame = None if slice is None else tuple(np.asarray(part, dtype=np.float64) for part in slice)
    inputs = net.widths[0]
    if frame is not None and (len(frame) < 2 or any(part.shape != (inputs,) for part in frame)):
        raise ShapeError(
            f"slice of shapes {[p.shape for p in frame]}: an origin and directions, each of shape ({inputs},)"
        )
    dimension = inputs if frame is None else len(frame) - 1
    if dimension > MOST:
        raise ArgumentError(
            f"{dimension} inputs; pieces are counted for up to {MOST}; of more, give ",
            Asked("slice", "random", "(origin, u, v)"),
        )
    box = on.of_dimension(dimension)
    if (box.low >= box.high).any():
        raise ValueError(f"{box}: a box with an interior is needed")
    start = _start(net, frame)
    try:
        skeleton = subdivide(net, box, start, budget, progress)
        certify(skeleton)
        steep = float(np.abs(net.layers[-1].weight).sum(axis=1).max(initial=0.0))
        source: Skeleton | tuple[Cell, ...] = skeleton
        large = not growth(skeleton) * max(1.0, steep) < LARGEST
    except Degenerate:
        source, large = clip(net, box, start, budget, progress), True
    found = Pieces("proved", net, box, source, frame)
    if large:  # slopes that no float holds are told here, not when the answer is read
        _ = found.linear_regions
    return found


def random_plane(inputs: int, seed: int) -> tuple[Array, Array, Array]:
    """A plane through the origin: origin and two random orthonormal directions."""
    u, v = np.linalg.qr(np.random.default_rng(seed).standard_normal((inputs, 2)))[0].T
    return np.zeros(inputs), u, v


def plane_within(box: Box, inputs: int, seed: int) -> tuple[Box, tuple[Array, Array, Array]]:
    """A random plane through the middle of a box, and a square of its coordinates within the box.

    Directions are scaled by the sides of the box: a coordinate of the middle plus s u + t v is off by at
    most (|u_i| + |v_i|) max(|s|, |t|), which on the square is no more than half a side.
    """
    box = box.of_dimension(inputs)
    _, u, v = random_plane(inputs, seed)
    half = (box.high - box.low) / 2
    reach = 1 / float((np.abs(u) + np.abs(v)).max())
    return Box(-reach, reach), (box.low + half, half * u, half * v)


def _start(net: Network, frame: tuple[Array, ...] | None) -> Array:
    if frame is None:
        return np.eye(net.widths[0], net.widths[0] + 1)
    origin, *directions = frame
    return np.column_stack([*directions, origin])


def _ring(points: Array) -> Array:
    """Corners of a convex polygon in order around it; in space, of one in a plane."""
    n = points.shape[1]
    if len(points) < 4 or n == 1:
        return points
    centred = points - points.mean(axis=0)
    if n == 3:
        centred = centred @ np.linalg.svd(centred)[2][:2].T
    return points[np.argsort(np.arctan2(centred[:, 1], centred[:, 0]), kind="stable")]


def _floats(points: Sequence[Sequence[Fraction]]) -> Array:
    try:
        return np.array([list(map(float, point)) for point in points], dtype=np.float64)
    except OverflowError:
        raise UnsupportedModel(
            "a vertex or a slope of a linear piece exceeds float64; scale the weights down"
        ) from None
