"""The polyhedral complex of a network with piecewise linear activations, in integers: the route
that needs no general position.

Cells are split unit by unit, layer by layer: on a cell the pre-activation of a unit is one affine
form, and the cell is cut where it changes sign. A cell is held as its vertices, each with the set
of constraints (sides of the box, units) that vanish there: two vertices span an edge if no other
vertex has all the constraints they share (the double description method). Nothing is assumed about
general position: duplicated, proportional, dead and constant units and zero biases need no special
case.

Weights are integers times a power of two, so are all affine forms; vertices are integers in
homogeneous coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import cmp_to_key
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np

from moduli.common.exact_values import integers
from moduli.common.progress import Progress
from moduli.kernel.box import Box
from moduli.kernel.errors import BudgetExhausted
from moduli.kernel.network import Network

Array = np.ndarray[Any, np.dtype[np.float64]]
Point = tuple[Fraction, ...]
Form = tuple[Point, Fraction]  # x -> sum a_i x_i + c
Vertex = tuple[Point, frozenset[int]]
Homogeneous = tuple[int, ...]  # x_1 w, ..., x_n w, w > 0
Corner = tuple[Homogeneous, frozenset[int]]


class Cell(NamedTuple):
    """A cell with its sign of every hidden unit (-1, 0, 1; in the order of the layers) and the
    affine maps of its outputs.

    Each vertex comes with the constraints that vanish there: 2i and 2i + 1 are the sides of input
    i, units follow.
    """

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
        """Vertices of each facet, by one constraint that vanishes on it (extreme points: as many as
        inputs span it).
        """
        dimension, found, seen = (
            len(self.vertices[0][0]),
            dict[int, tuple[Point, ...]](),
            set[frozenset[Point]](),
        )
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
            ring = ring_of(face)
            for b, c in pairwise(ring[1:]):
                total += abs(_determinant([minus(p, centre) for p in (ring[0], b, c)]))
        return total / 6


class Forms:
    """Affine forms of a network's layers where the signs of its units are known, in integers times
    one power of two a layer.
    """

    def __init__(self, net: Network, start: Array) -> None:
        self.start, self.start_shift = whole_numbers(start)
        self.layers = [
            (*whole_numbers(np.column_stack([x.weight, x.bias])), _slope(x.activation))
            for x in net.layers
        ]

    def through(self, layer: int, h: Any, shift: int) -> tuple[Any, int]:
        """Pre-activations [units, inputs + 1] of a layer (from 0) from the forms h 2^-shift before
        it.
        """
        whole, scale, _ = self.layers[layer]
        z = whole[:, :-1].dot(h)
        z[:, -1] += whole[:, -1] * (1 << shift)
        return z, shift + scale

    def gated(self, layer: int, z: Any, shift: int, signs: Sequence[int]) -> tuple[Any, int]:
        """What units put out, by their signs."""
        top, power = self.layers[layer][2]
        gate = np.array([1 << power if s > 0 else top for s in signs], dtype=object)
        return z * gate[:, None], shift + power

    def outputs(self, signs: Sequence[int]) -> tuple[Any, int]:
        """The outputs [outputs, inputs + 1] as integers, and the power of two to divide by: the
        same for all signs.
        """
        h, shift, at = self.start, self.start_shift, 0
        for l in range(len(self.layers) - 1):
            z, shift = self.through(l, h, shift)
            h, shift = self.gated(l, z, shift, signs[at : at + len(z)])
            at += len(z)
        return self.through(len(self.layers) - 1, h, shift)

    def maps(self, signs: Sequence[int]) -> tuple[Form, ...]:
        """The outputs as rationals."""
        return rational(*self.outputs(signs))


def whole_numbers(a: Array) -> tuple[Any, int]:
    """Integers and a power of two to divide them by."""
    whole, exponent = integers(a)
    return (whole << exponent, 0) if exponent > 0 else (whole, -exponent)


def _slope(activation: Any) -> tuple[int, int]:
    """The slope at negative inputs as an integer and a power of two."""
    slope = -(activation.exact(Fraction(-1)) or Fraction(0))
    return slope.numerator, slope.denominator.bit_length() - 1


def rational(forms: Any, shift: int) -> tuple[Form, ...]:
    """Rows of integers over 2^shift as forms."""
    scale = 1 << shift
    found = []
    for row in forms.tolist():
        *slope, offset = (Fraction(v, scale) for v in row)
        found.append((tuple(slope), offset))
    return tuple(found)


class _Part(NamedTuple):
    corners: tuple[Corner, ...]
    signs: tuple[int, ...]
    forms: Any


def clip(
    net: Network, box: Box, start: Array, budget: int, progress: Progress | None
) -> tuple[Cell, ...]:
    """All cells in a box, where the inputs are the affine forms `start` of its coordinates.

    Raises:
        BudgetExhausted: more cells than `budget`.
    """
    forms = Forms(net, start)
    shift, name = forms.start_shift, 2 * len(box.low)
    parts = [_Part(corners(box), (), forms.start)]
    for l in range(len(net.layers) - 1):
        done: list[_Part] = []
        for k, part in enumerate(parts):
            if progress is not None and k % 100 == 0:
                progress(k, len(parts), f"layer {l + 1}")
            z, after = forms.through(l, part.forms, shift)
            pieces = split_by(part.corners, z.tolist(), name)
            for vertices, signs in pieces:
                h, last = forms.gated(l, z, after, signs)
                done.append(_Part(vertices, part.signs + signs, h))
            if len(done) + len(parts) - k > budget:
                where = f"in layer {l + 1} of {len(net.layers) - 1}"
                raise BudgetExhausted(
                    f"more than {budget} cells, {where}; give a larger budget or a smaller box"
                )
        parts, shift = done, last
        name += len(z)
    cells = []
    for part in parts:
        points = tuple((point_of(x), tight) for x, tight in part.corners)
        cells.append(
            Cell(
                points, part.signs, rational(*forms.through(len(net.layers) - 1, part.forms, shift))
            )
        )
    return tuple(cells)


def split_by(
    vertices: tuple[Corner, ...], forms: Sequence[Sequence[int]], name: int
) -> list[tuple[tuple[Corner, ...], tuple[int, ...]]]:
    """The parts of a polytope by the signs of integer forms; constraints are numbered from `name`."""
    parts: list[tuple[tuple[Corner, ...], tuple[int, ...]]] = [(vertices, ())]
    for k, form in enumerate(forms):
        parts = [
            piece for corners, signs in parts for piece in _split(corners, signs, form, name + k)
        ]
    return parts


def _split(
    vertices: tuple[Corner, ...], signs: tuple[int, ...], form: Sequence[int], name: int
) -> list[tuple[tuple[Corner, ...], tuple[int, ...]]]:
    values = [sum(map(int.__mul__, form, point)) for point, _ in vertices]
    low, high = min(values), max(values)
    if low >= 0 or high <= 0:
        side = (high > 0) - (low < 0)  # 0 where the form vanishes on the whole cell
        return [(vertices, (*signs, side))]
    zero = [
        (point, tight | {name})
        for (point, tight), v in zip(vertices, values, strict=True)
        if v == 0
    ]
    for (k, (p, tight)), (m, (q, other)) in combinations(enumerate(vertices), 2):
        if (values[k] > 0 and values[m] < 0) or (values[k] < 0 and values[m] > 0):
            common = tight & other
            if not any(common <= third for j, (_, third) in enumerate(vertices) if j not in (k, m)):
                s, t = abs(values[m]), abs(values[k])
                x = [s * a + t * b for a, b in zip(p, q, strict=True)]
                factor = math.gcd(*x)
                zero.append((tuple(a // factor for a in x), common | {name}))
    sides = []
    for sign in (-1, 1):
        kept = [vertex for vertex, v in zip(vertices, values, strict=True) if v * sign > 0]
        sides.append(((*kept, *zero), (*signs, sign)))
    return sides


def parts_of(
    vertices: tuple[Vertex, ...], forms: Sequence[Form], name: int
) -> list[tuple[tuple[Vertex, ...], tuple[int, ...]]]:
    """The same for rational vertices and forms."""
    whole = tuple((homogeneous(point), tight) for point, tight in vertices)
    known = {x: point for (x, _), (point, _) in zip(whole, vertices, strict=True)}
    found = split_by(whole, [homogeneous((*slope, offset))[:-1] for slope, offset in forms], name)
    parts = []
    for part, signs in found:
        corners = tuple((known.get(x) or point_of(x), tight) for x, tight in part)
        parts.append((corners, signs))
    return parts


def through(
    cell: Cell, weights: list[list[Fraction]], biases: list[Fraction], slope: Fraction, name: int
) -> list[Cell]:
    """The cells that a layer of rational weights makes of one; `slope` is that of the activation at
    negative inputs.
    """
    forms = affine(weights, biases, cell.maps, len(cell.vertices[0][0]))
    found = []
    for vertices, signs in parts_of(cell.vertices, forms, name):
        factors = [Fraction(1) if s > 0 else slope for s in signs]
        maps = tuple(map(_scaled, forms, factors))
        found.append(Cell(vertices, cell.signs + signs, maps))
    return found


def affine(
    weights: list[list[Fraction]], biases: list[Fraction], maps: Sequence[Form], dimension: int
) -> tuple[Form, ...]:
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


def corners(box: Box) -> tuple[Corner, ...]:
    """Constraints 2i and 2i + 1 are the lower and the upper side of input i."""
    ends = list(zip(map(Fraction, box.low.tolist()), map(Fraction, box.high.tolist()), strict=True))
    if any(low >= high for low, high in ends):
        raise ValueError(f"{box}: a box with an interior is needed")
    found: list[Vertex] = [((), frozenset())]
    for i, pair in enumerate(ends):
        found = [
            ((*point, x), tight | {2 * i + side})
            for point, tight in found
            for side, x in enumerate(pair)
        ]
    return tuple((homogeneous(point), tight) for point, tight in found)


def homogeneous(point: Point) -> Homogeneous:
    scale = math.lcm(*(x.denominator for x in point))
    return (*(int(x * scale) for x in point), scale)


def point_of(x: Homogeneous) -> Point:
    return tuple(Fraction(v, x[-1]) for v in x[:-1])


def value(form: Form, point: Point) -> Fraction:
    return sum((a * x for a, x in zip(form[0], point, strict=True) if a), form[1])


def minus(p: Point, q: Point) -> Point:
    return tuple(a - b for a, b in zip(p, q, strict=True))


def dot(p: Point, q: Point) -> Fraction:
    return sum((a * b for a, b in zip(p, q, strict=True)), Fraction(0))


def _determinant(rows: Sequence[Point]) -> Fraction:
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def _area(points: Iterable[Point]) -> Fraction:
    ring = ring_of(tuple(points))
    return (
        abs(
            sum(
                (p[0] * q[1] - q[0] * p[1] for p, q in zip(ring, ring[1:] + ring[:1], strict=True)),
                Fraction(0),
            )
        )
        / 2
    )


def ring_of(points: Sequence[Point]) -> list[Point]:
    """Extreme points of a polygon (in the plane or in a plane of space) in order around it, by
    exact cross products.
    """
    if len(points[0]) == 1 or len(points) < 3:
        return sorted(points)
    if len(points[0]) == 3:  # look along an axis in which the polygon is not flat
        for drop in range(3):
            flat = {tuple(p[:drop] + p[drop + 1 :]): p for p in points}
            if len(flat) == len(points) and _area(tuple(flat)) > 0:
                return [flat[p] for p in ring_of(tuple(flat))]
        raise AssertionError("a facet without area")
    start = min(points)

    def before(p: Point, q: Point) -> int:
        cross = (p[0] - start[0]) * (q[1] - start[1]) - (p[1] - start[1]) * (q[0] - start[0])
        return (cross < 0) - (cross > 0)

    return [start, *sorted((p for p in points if p != start), key=cmp_to_key(before))]
