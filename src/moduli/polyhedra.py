"""The polyhedral complex of a network with piecewise linear activations, in a box of up to three inputs, in exact arithmetic.

Cells are split unit by unit, layer by layer: on a cell the pre-activation of a unit is one affine form, and the cell is cut
where it changes sign. A cell is held as its vertices, each with the set of constraints (sides of the box, units) that vanish
there: two vertices span an edge if no other vertex has all the constraints they share (the double description method). Nothing
is assumed about general position: duplicated, proportional, dead and constant units and zero biases need no special case.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, cmp_to_key
from itertools import combinations, pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .domains import Box, Domain
from .errors import BudgetExhausted, CertificateRejected, ShapeError, UnsupportedModel
from .lossless import Progress
from .network import Network
from .result import Result

Array = np.ndarray[Any, np.dtype[np.float64]]
Point = tuple[Fraction, ...]
Form = tuple[Point, Fraction]  # x -> sum a_i x_i + c
Vertex = tuple[Point, frozenset[int]]
MOST = 3


class Cell(NamedTuple):
    """A cell with its sign of every hidden unit (-1, 0, 1; in the order of the layers) and the affine maps of its outputs."""

    vertices: tuple[Vertex, ...]
    signs: tuple[int, ...]
    maps: tuple[Form, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        return tuple(point for point, _ in self.vertices)

    @property
    def centre(self) -> Point:
        """An interior point."""
        count = len(self.vertices)
        return tuple(sum(axis, Fraction(0)) / count for axis in zip(*self.points, strict=True))

    def facets(self) -> dict[int, tuple[Point, ...]]:
        """Vertices of each facet, by one constraint that vanishes on it (extreme points: as many as inputs span it)."""
        dimension, found, seen = len(self.vertices[0][0]), dict[int, tuple[Point, ...]](), set[frozenset[Point]]()
        for constraint in sorted(frozenset().union(*(tight for _, tight in self.vertices))):
            points = tuple(sorted(point for point, tight in self.vertices if constraint in tight))
            if len(points) >= dimension and frozenset(points) not in seen:
                seen.add(frozenset(points))
                found[constraint] = points
        return found

    @property
    def volume(self) -> Fraction:
        """Length, area or volume."""
        points = self.points
        if len(points[0]) == 1:
            return max(points)[0] - min(points)[0]
        if len(points[0]) == 2:
            return _area(points)
        centre, total = self.centre, Fraction(0)
        for face in self.facets().values():
            ring = _ring(face)
            for b, c in pairwise(ring[1:]):
                total += abs(_determinant([_minus(p, centre) for p in (ring[0], b, c)]))
        return total / 6


class Facet(NamedTuple):
    """Where two cells meet: its vertices, the cells by number, the units that change sign, the change of slope across it.

    `weight` is the jump of the gradient of each output along the unit normal: positive for a convex crease. Invisible facets
    have weight zero.
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


@dataclass(frozen=True, eq=False, repr=False)
class Pieces(Result):
    """The linear pieces of a network in a box, or in a slice of its inputs.

    Attributes:
        network, box. complex: the cells in exact arithmetic. slice: origin and directions, if one was asked.
    """

    network: Network
    box: Box
    complex: tuple[Cell, ...]
    slice: tuple[Array, ...] | None = None
    kind: ClassVar[str] = "pieces"

    @property
    def cells(self) -> int:
        """Number of activation regions: one for each sign vector."""
        return len(self.complex)

    @cached_property
    def affine_pieces(self) -> int:
        """Number of different affine maps."""
        return len({cell.maps for cell in self.complex})

    @cached_property
    def linear_regions(self) -> int:
        """Number of connected unions of cells with one affine map."""
        root = list(range(self.cells))

        def find(k: int) -> int:
            while root[k] != k:
                root[k] = root[root[k]]
                k = root[k]
            return k

        for facet in self.facets:
            if not facet.visible:
                a, b = map(find, facet.cells)
                root[a] = b
        return len({find(k) for k in range(self.cells)})

    @cached_property
    def vertices(self) -> Array:
        """All vertices, [count, inputs]."""
        return _floats(sorted({point for cell in self.complex for point in cell.points}))

    @property
    def cell_signs(self) -> Any:
        """[cells, hidden units], of -1, 0, 1."""
        return np.array([cell.signs for cell in self.complex], dtype=np.int8).reshape(self.cells, -1)

    @property
    def affine_maps(self) -> list[tuple[Array, Array]]:
        """Matrix and offset of the outputs on each cell."""
        return [(_floats([a for a, _ in cell.maps]), np.array([float(c) for _, c in cell.maps])) for cell in self.complex]

    @cached_property
    def _meetings(self) -> tuple[dict[tuple[Point, ...], list[int]], int]:
        """Cells at each facet, and how many facets are on the box."""
        met: dict[tuple[Point, ...], list[int]] = {}
        for k, cell in enumerate(self.complex):
            for points in cell.facets().values():
                met.setdefault(points, []).append(k)
        return met, sum(len(cells) == 1 for cells in met.values())

    @property
    def boundary_facets(self) -> int:
        """Facets of cells on the sides of the box."""
        return self._meetings[1]

    @cached_property
    def facets(self) -> tuple[Facet, ...]:
        """Those inside the box."""
        found = []
        for points, pair in self._meetings[0].items():
            if len(pair) == 1:
                continue
            a, b = (self.complex[k] for k in pair)
            units = tuple(k for k, (s, t) in enumerate(zip(a.signs, b.signs, strict=True)) if s != t)
            jump = [_minus(q[0], p[0]) for p, q in zip(a.maps, b.maps, strict=True)]
            across = _minus(b.centre, a.centre)
            weights = [math.copysign(math.hypot(*map(float, j)), _dot(j, across)) if any(j) else 0.0 for j in jump]
            found.append(Facet(_floats(points), (pair[0], pair[1]), units, tuple(weights), any(any(j) for j in jump)))
        return tuple(found)

    def check(self) -> bool:
        """Volumes sum to the box, the function is continuous across facets, sign vectors differ, Euler's formula in the plane.

        Raises:
            CertificateRejected: naming what fails.
        """
        low, high = self.box.low.tolist(), self.box.high.tolist()
        whole = math.prod((Fraction(h) - Fraction(l) for l, h in zip(low, high, strict=True)), start=Fraction(1))
        if sum(cell.volume for cell in self.complex) != whole:
            raise CertificateRejected("the volumes of the cells do not sum to that of the box")
        if len({cell.signs for cell in self.complex}) != self.cells:
            raise CertificateRejected("two cells have the same signs")
        for points, pair in self._meetings[0].items():
            if len(pair) > 2:
                raise CertificateRejected("more than two cells meet at a facet")
            values = [[[_value(form, p) for form in self.complex[k].maps] for p in points] for k in pair]
            if any(v != values[0] for v in values):
                raise CertificateRejected("the function jumps across a facet")
        edges = len(self._meetings[0])
        if len(low) == 2 and edges - len(self.vertices) + 1 != self.cells:
            raise CertificateRejected("Euler's formula fails")
        return True

    @property
    def statement(self) -> str:
        return f"{self.cells} cells, {self.linear_regions} linear regions, {self.affine_pieces} affine pieces"

    def rows(self) -> list[tuple[str, str]]:
        shown = sum(facet.visible for facet in self.facets)
        return [
            ("network", repr(self.network)), ("in", repr(self.box) + (" of a slice" if self.slice else "")),
            ("cells", str(self.cells)),
            ("linear regions", str(self.linear_regions)), ("affine pieces", str(self.affine_pieces)),
            ("vertices", str(len(self.vertices))), ("facets inside", f"{len(self.facets)}, of which {shown} bend the function"),
        ]  # fmt: skip

    def data(self) -> dict[str, Any]:
        return {
            "cells": self.cells, "linear_regions": self.linear_regions, "affine_pieces": self.affine_pieces,
            "vertices": len(self.vertices), "facets": len(self.facets), "visible_facets": sum(f.visible for f in self.facets),
            "boundary_facets": self.boundary_facets, "digest": self.network.digest,
        }  # fmt: skip

    def plot_data(self) -> dict[str, Any]:
        """Polygons (or intervals) with their maps, and bends with unit, layer and weight."""
        layers = [l for l, n in enumerate(self.network.widths[1:-1], 1) for _ in range(n)]
        rings = [_floats(_ring(cell.points)) for cell in self.complex]
        bends = [
            {"vertices": f.vertices, "layer": layers[f.unit], "weight": f.weight, "visible": f.visible} for f in self.facets
        ]  # fmt: skip
        return {"cells": rings, "maps": self.affine_maps, "bends": bends, "layers": len(self.network.layers) - 1}

    def plot(self, ax: Any = None, *, color: str = "cell") -> Any:
        """The cells by colour ("cell"), the bends by layer ("layer") or by weight ("weight"); for one input the graph.

        Raises:
            ValueError: three inputs (take a slice), or another colouring.
        """
        if len(self.box.low) > 2:
            raise ValueError("pictures are of one or two inputs; ask for a slice=(origin, u, v)")
        if color not in ("cell", "layer", "weight"):
            raise ValueError(f"color={color!r}: 'cell', 'layer' or 'weight'")
        from .plot import pieces_figure

        return pieces_figure(self.plot_data(), color, ax)


def pieces(net: Network, on: Domain, slice: Sequence[Any] | None, budget: int, progress: Progress | None) -> Pieces:
    """See `solve.pieces`."""
    if not isinstance(on, Box):
        raise ValueError(f"on={on!r}: pieces are counted in a Box")
    for l, act in enumerate(net.activations, 1):
        if not act.piecewise_linear:
            raise UnsupportedModel(f"layer {l} is {act}: only piecewise linear activations have linear pieces")
    inputs = net.widths[0]
    if slice is None:
        frame = None
        start = [(tuple(Fraction(int(i == j)) for j in range(inputs)), Fraction(0)) for i in range(inputs)]
        dimension = inputs
    else:
        frame = tuple(np.asarray(part, dtype=np.float64) for part in slice)
        if len(frame) < 2 or any(part.shape != (inputs,) for part in frame):
            raise ShapeError(f"slice of shapes {[p.shape for p in frame]}: an origin and directions, each of shape ({inputs},)")
        exact = [[Fraction(v) for v in part.tolist()] for part in frame]
        dimension = len(exact) - 1
        start = [(tuple(u[i] for u in exact[1:]), exact[0][i]) for i in range(inputs)]
    if dimension > MOST:
        raise ValueError(f"{dimension} inputs; pieces are counted for up to {MOST}, or in a slice=(origin, u, v)")
    box = on.of_dimension(dimension)
    cells = [Cell(_corners(box), (), tuple(start))]
    name = 2 * dimension
    for l, layer in enumerate(net.layers[:-1], 1):
        slope = layer.activation.exact(Fraction(-1))
        weights = [[Fraction(w) for w in row] for row in layer.weight.tolist()]
        biases = [Fraction(b) for b in layer.bias.tolist()]
        done: list[Cell] = []
        for k, cell in enumerate(cells):
            if progress is not None and k % 100 == 0:
                progress(k, len(cells), f"layer {l}")
            done += _through(cell, weights, biases, -(slope or Fraction(0)), name)
            if len(done) + len(cells) - k > budget:
                raise BudgetExhausted(
                    f"more than {budget} cells, in layer {l} of {len(net.layers) - 1}; give a larger budget or a smaller box"
                )
        cells = done
        name += len(biases)
    last = net.layers[-1]
    rows = [[Fraction(w) for w in row] for row in last.weight.tolist()]
    ends = [Fraction(b) for b in last.bias.tolist()]
    cells = [cell._replace(maps=_forms(rows, ends, cell.maps, dimension)) for cell in cells]
    return Pieces("proved", net, box, tuple(cells), frame)


def _through(cell: Cell, weights: list[list[Fraction]], biases: list[Fraction], slope: Fraction, name: int) -> list[Cell]:
    """The cells that a layer makes of one; `slope` is that of the activation at negative inputs."""
    dimension = len(cell.vertices[0][0])
    forms = _forms(weights, biases, cell.maps, dimension)
    none: tuple[int, ...] = ()
    parts = [(cell.vertices, none)]
    for k, form in enumerate(forms):
        parts = [piece for vertices, signs in parts for piece in _split(vertices, signs, form, name + k)]
    found = []
    for vertices, signs in parts:
        maps = tuple(_scaled(form, Fraction(1) if s > 0 else slope) for form, s in zip(forms, signs, strict=True))
        found.append(Cell(vertices, cell.signs + signs, maps))
    return found


def _split(
    vertices: tuple[Vertex, ...], signs: tuple[int, ...], form: Form, name: int
) -> list[tuple[tuple[Vertex, ...], tuple[int, ...]]]:
    values = [_value(form, point) for point, _ in vertices]
    low, high = min(values), max(values)
    if low >= 0 or high <= 0:
        return [(vertices, (*signs, 1 if high > 0 else -1 if low < 0 else 0))]
    zero = [(point, tight | {name}) for (point, tight), v in zip(vertices, values, strict=True) if v == 0]
    for (k, (p, tight)), (m, (q, other)) in combinations(enumerate(vertices), 2):
        if values[k] * values[m] < 0:
            common = tight & other
            if not any(common <= third for j, (_, third) in enumerate(vertices) if j not in (k, m)):
                t = values[k] / (values[k] - values[m])
                zero.append((tuple(a + t * (b - a) for a, b in zip(p, q, strict=True)), common | {name}))
    sides = []
    for sign in (-1, 1):
        kept = [vertex for vertex, v in zip(vertices, values, strict=True) if v * sign > 0]
        sides.append(((*kept, *zero), (*signs, sign)))
    return sides


def _forms(weights: list[list[Fraction]], biases: list[Fraction], maps: Sequence[Form], dimension: int) -> tuple[Form, ...]:
    """weights @ maps + biases, passing over what is zero."""
    found = []
    for row, bias in zip(weights, biases, strict=True):
        slopes, offset = [Fraction(0)] * dimension, bias
        for w, (a, c) in zip(row, maps, strict=True):
            if w and (c or any(a)):
                slopes = [s + w * x for s, x in zip(slopes, a, strict=True)]
                offset += w * c
        found.append((tuple(slopes), offset))
    return tuple(found)


def _scaled(form: Form, factor: Fraction) -> Form:
    return form if factor == 1 else (tuple(factor * a for a in form[0]), factor * form[1])


def _corners(box: Box) -> tuple[Vertex, ...]:
    """Constraints 2i and 2i + 1 are the lower and the upper side of input i."""
    ends = list(zip(map(Fraction, box.low.tolist()), map(Fraction, box.high.tolist()), strict=True))
    if any(low >= high for low, high in ends):
        raise ValueError(f"{box}: a box with an interior is needed")
    found: list[Vertex] = [((), frozenset())]
    for i, pair in enumerate(ends):
        found = [((*point, x), tight | {2 * i + side}) for point, tight in found for side, x in enumerate(pair)]
    return tuple(found)


def _value(form: Form, point: Point) -> Fraction:
    return sum((a * x for a, x in zip(form[0], point, strict=True) if a), form[1])


def _minus(p: Point, q: Point) -> Point:
    return tuple(a - b for a, b in zip(p, q, strict=True))


def _dot(p: Point, q: Point) -> Fraction:
    return sum((a * b for a, b in zip(p, q, strict=True)), Fraction(0))


def _determinant(rows: Sequence[Point]) -> Fraction:
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def _area(points: Iterable[Point]) -> Fraction:
    ring = _ring(tuple(points))
    return abs(sum((p[0] * q[1] - q[0] * p[1] for p, q in zip(ring, ring[1:] + ring[:1], strict=True)), Fraction(0))) / 2


def _ring(points: Sequence[Point]) -> list[Point]:
    """Extreme points of a polygon (in the plane or in a plane of space) in order around it, by exact cross products."""
    if len(points[0]) == 1 or len(points) < 3:
        return sorted(points)
    if len(points[0]) == 3:  # look along an axis in which the polygon is not flat
        for drop in range(3):
            flat = {tuple(p[:drop] + p[drop + 1 :]): p for p in points}
            if len(flat) == len(points) and _area(tuple(flat)) > 0:
                return [flat[p] for p in _ring(tuple(flat))]
        raise AssertionError("a facet without area")
    start = min(points)

    def before(p: Point, q: Point) -> int:
        cross = (p[0] - start[0]) * (q[1] - start[1]) - (p[1] - start[1]) * (q[0] - start[0])
        return -1 if cross > 0 else 1 if cross < 0 else 0

    return [start, *sorted((p for p in points if p != start), key=cmp_to_key(before))]


def _floats(points: Sequence[Point]) -> Array:
    return np.array([[float(x) for x in point] for point in points], dtype=np.float64)
