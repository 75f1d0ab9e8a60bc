"""The skeleton of a polyhedral complex in general position: proposed by floats, proved by
outward-rounded arithmetic.

*Search* (edge subdivision after Berzins 2023, on sign vectors after Masden 2022): vertices and
edges of the box are split unit by unit. An edge whose ends have opposite signs gets a vertex; new
vertices in a common 2-face (found by hashing the face's sign vector) are joined. One float per
vertex and unit, no linear program.

*Proof* (`certify`). A vertex is claimed by its marks: the sign of every wall there, 0 for exactly
as many walls as there are inputs (a wall is a side of the box, or the bent hyperplane of a unit).
For the marks, all pre-activations are affine forms; the vertex is the point where those of its
zeros vanish. With R near the inverse of their matrix A, |I - R A| <= q < 1 shows that the point
exists and lies within |R r| / (1 - q) of the float point, r the forms there; each other form must
keep its sign over that distance, rounding included. What floats cannot decide is solved and
evaluated in rationals.

Near a proved vertex the complex looks like coordinate hyperplanes (the forms' matrices of its cells
have one determinant), so its edges and cells are known by their signs: one zero set free, or all.
If every edge is met by exactly two proved vertices, the vertices are closed under walking along
edges, and as the skeleton of a subdivided box is connected, there are no others. Every cell has a
vertex: cells are then counted by their signs. Nothing about the search is believed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np

from moduli.common.progress import Progress
from moduli.kernel.box import Box
from moduli.kernel.errors import BudgetExhausted
from moduli.kernel.exact_numbers import class_keys
from moduli.kernel.network import Network

from .cells_exact import Forms, Homogeneous

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.intp]]
Marks = np.ndarray[Any, np.dtype[np.int8]]
BLOCK = 2**18  # numbers held at a time: what fits the cache
LARGEST = 1e60  # products of weights up to that turn all underflows into less than TINY
TINY = 1e-200
UP = 1 + 1e-10  # more than all roundings of a sum of positive floats
DOWN = 1 - 1e-10


class Degenerate(Exception):
    """The complex is not in general position, or floats lost their way: take the rational route."""


# Walls ----------------------------------------------------------------------------------------------------------


class Walls(NamedTuple):
    """The units of a layer up to proportional rows: those that stand for others, and what each unit
    is of its wall.
    """

    units: Ints  # one per wall
    wall: Ints  # of each unit, -1 where the row is zero
    sign: Marks  # of the factor to its wall, or of the constant
    factor: Array  # |w| of each unit over that of the one which stands for it, a few roundings off


def walls(weight: Array, bias: Array) -> Walls:
    """Units with proportional (w, b) share a wall; proved in rationals."""
    count = len(bias)
    wall, sign, factor = np.full(count, -1), np.ones(count, dtype=np.int8), np.ones(count)
    keys = class_keys(weight, bias, sign=True, scale=True)[0]
    alive = (weight != 0).any(axis=1)
    stands: dict[int, list[int]] = {}
    chosen: list[int] = []
    for unit in range(count):
        if not alive[unit]:
            sign[unit] = np.sign(bias[unit])
            continue
        for other in stands.get(int(keys[unit]), ()):
            ratio = _ratio(weight[unit], bias[unit], weight[chosen[other]], bias[chosen[other]])
            if ratio:
                wall[unit], sign[unit], factor[unit] = (
                    other,
                    1 if ratio > 0 else -1,
                    abs(float(ratio)),
                )
                break
        else:
            stands.setdefault(int(keys[unit]), []).append(len(chosen))
            wall[unit] = len(chosen)
            chosen.append(unit)
    return Walls(np.array(chosen, dtype=np.intp), wall, sign, factor)


def _ratio(w: Array, b: float, v: Array, c: float) -> Fraction | None:
    """The factor r with (w, b) = r (v, c), if there is one."""
    at = int(np.flatnonzero(v)[0])
    ratio = Fraction(w[at]) / Fraction(v[at])
    same = all(
        Fraction(p) == ratio * Fraction(q)
        for p, q in zip([*w.tolist(), b], [*v.tolist(), c], strict=True)
    )
    return ratio if same and ratio else None


# Skeleton -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Vertices of a complex in general position.

    Attributes:
        points: [vertices, inputs], near the true ones. marks: signs of 2 inputs + walls columns at
            each vertex: sides of the box in the order low, high of each input (0 on it, 1 inside),
            then the walls of each layer. start: the inputs as affine forms of the coordinates,
            offsets last.
    """

    network: Network
    box: Box
    start: Array
    points: Array
    marks: Marks

    @cached_property
    def walls(self) -> list[Walls]:
        return [walls(layer.weight, layer.bias) for layer in self.network.layers[:-1]]

    @cached_property
    def slopes(self) -> list[float]:
        """Of each layer's activation at negative inputs."""
        return [-float(act.exact(Fraction(-1)) or 0) for act in self.network.activations]

    @cached_property
    def exact(self) -> Forms:
        return Forms(self.network, self.start)

    def unit_signs(self, marks: Marks) -> Marks:
        """Signs of all hidden units, from those of the walls."""
        found, at = [], 2 * self.points.shape[1]
        for part in self.walls:
            column = marks[:, at : at + len(part.units)]
            at += len(part.units)
            constant = np.ones((len(marks), 1), dtype=np.int8)
            found.append(np.concatenate([column, constant], axis=1)[:, part.wall] * part.sign)
        return np.concatenate([np.zeros((len(marks), 0), dtype=np.int8), *found], axis=1)


def subdivide(
    net: Network, box: Box, start: Array, budget: int, progress: Progress | None = None
) -> Skeleton:
    """Propose the skeleton of the complex of a network in a box.

    Raises:
        Degenerate: general position fails, as far as floats see. BudgetExhausted: more cells than
            `budget`.
    """
    dimension = len(box.low)
    state = _Edges(box, budget)
    h = state.points @ start[:, :-1].T + start[:, -1]
    for l, layer in enumerate(net.layers[:-1], 1):
        part = walls(layer.weight, layer.bias)
        if progress is not None:
            progress(l - 1, len(net.layers) - 1, f"layer {l}, {len(state.points)} vertices")
        z = state.split(
            h @ layer.weight[part.units].T + layer.bias[part.units], f"{l} of {len(net.layers) - 1}"
        )
        if l == len(net.layers) - 1:
            break  # nobody asks for the activations behind the last bends
        full = (
            np.concatenate([z, np.ones((len(z), 1))], axis=1)[:, part.wall]
            * part.sign
            * part.factor
        )
        full[:, part.wall < 0] = layer.bias[part.wall < 0]
        h = np.asarray(layer.activation(full))
    if (np.count_nonzero(state.marks == 0, axis=1) != dimension).any():
        raise Degenerate("a vertex on too many walls")
    on = state.marks[:, : 2 * dimension] == 0
    points = np.where(on[:, 0::2], box.low, np.where(on[:, 1::2], box.high, state.points))
    return Skeleton(net, box, start, points, state.marks)


class _Edges:
    """Vertices and edges of the complex so far."""

    def __init__(self, box: Box, budget: int) -> None:
        self.dimension = n = len(box.low)
        self.budget, self.cells = budget, 1
        self.random = np.random.default_rng(0)
        corners = np.array(list(product((0, 1), repeat=n)), dtype=np.intp)
        self.points = np.where(corners == 1, box.high, box.low).astype(np.float64)
        self.marks: Marks = np.ones((len(corners), 2 * n), dtype=np.int8)
        self.marks[np.arange(len(corners))[:, None], 2 * np.arange(n) + corners] = 0
        pairs = [
            (a, b)
            for a in range(len(corners))
            for b in range(a)
            if (corners[a] != corners[b]).sum() == 1
        ]
        self.ends = np.array(pairs, dtype=np.intp)
        zeros = [
            sorted(
                set(np.flatnonzero(self.marks[a] == 0)) & set(np.flatnonzero(self.marks[b] == 0))
            )
            for a, b in pairs
        ]
        self.zeros = np.array(zeros, dtype=np.intp).reshape(len(pairs), n - 1)
        self.words = self._words(2 * n)
        self.words[0] = self.words[1]  # inside a side is the only way off it
        on = np.zeros((len(pairs), 2 * n), dtype=bool)
        np.put_along_axis(on, self.zeros, True, axis=1)
        self.hash = np.where(on, np.uint64(0), self.words[1]).sum(axis=1, dtype=np.uint64)

    def _words(self, count: int) -> Any:
        """Random words for the signs -1 and 1 of so many walls."""
        return self.random.integers(0, 2**63, (2, count), dtype=np.uint64) * np.uint64(
            2
        ) + np.uint64(1)

    def split(self, z: Array, layer: str) -> Array:
        """Cut by every wall of a layer, with values z [vertices, walls]; returns those of all
        vertices after.
        """
        old, n = self.marks.shape[1], self.dimension
        self.words = np.concatenate([self.words, self._words(z.shape[1])], axis=1)
        values, points, marks = [np.asarray(v) for v in (z, self.points, self.marks)]
        store = _Growing(points, values, marks)
        for j in range(z.shape[1]):
            column = old + j
            at = store.values[: store.count, j]
            if not at.all():
                raise Degenerate(f"wall {j} of layer {layer} meets a vertex")
            positive = at > 0
            if positive.all() or not positive.any():
                continue
            a, b = positive[self.ends[:, 0]], positive[self.ends[:, 1]]
            cut = np.flatnonzero(a != b)
            ends, zeros, before = self.ends[cut], self.zeros[cut], self.hash[cut]
            self.hash += self.words[a.astype(np.intp), column]
            fresh = store.add(ends, j)
            # A wall cuts as many cells in two as it has pieces: points for n = 1, new edges for n =
            # 2, polygons for n = 3. Of those there are, by Euler, edges less vertices and one more
            # for each connected part: near enough for a budget.
            if n > 1:
                joined = self._join(fresh, zeros, before)
                self.cells += len(joined.ends) if n == 2 else len(joined.ends) - len(fresh)
            else:
                none = np.zeros((0, 2), dtype=np.intp)
                joined = _NewEdges(none, none[:, :0], np.zeros(0, dtype=np.uint64))
                self.cells += len(fresh)
            if self.cells > self.budget:
                raise BudgetExhausted(
                    f"more than {self.budget} cells, in layer {layer}; give a larger budget or a smaller box"
                )
            halves = np.stack([fresh, ends[:, 1]], axis=1)
            self.ends[cut, 1] = fresh
            self.ends = np.concatenate([self.ends, halves, joined.ends])
            wall = np.full(
                (len(joined.ends), min(1, n - 1)), column, dtype=np.intp
            )  # new edges lie on the wall
            self.zeros = np.concatenate(
                [self.zeros, zeros, np.concatenate([joined.zeros, wall], axis=1)]
            )
            self.hash = np.concatenate(
                [self.hash, before + self.words[b[cut].astype(np.intp), column], joined.hashes]
            )
        self.points, self.marks = store.points[: store.count], store.marks[: store.count]
        z = store.values[: store.count]
        self.marks = np.concatenate([self.marks, np.sign(z).astype(np.int8)], axis=1)
        return z

    def _join(self, fresh: Ints, zeros: Ints, before: Any) -> _NewEdges:
        """New edges. Every 2-face that is cut holds two new vertices; the hash of a face brings
        them together.
        """
        n, sides = self.dimension, 2 * self.dimension
        vertices, rests, hashes = [], [], []
        for i in range(n - 1):
            rest = np.delete(zeros, i, axis=1)
            for sign in (0, 1):
                there = (zeros[:, i] >= sides) if sign == 0 else np.ones(len(zeros), dtype=bool)
                vertices.append(fresh[there])
                rests.append(rest[there])
                hashes.append(before[there] + self.words[sign, zeros[there, i]])
        vertex, rest, hash_ = (
            np.concatenate(vertices),
            np.concatenate(rests),
            np.concatenate(hashes),
        )
        order = np.argsort(hash_, kind="stable")
        vertex, rest, hash_ = vertex[order], rest[order], hash_[order]
        one, two = hash_[::2], hash_[1::2]
        if len(hash_) % 2 or not np.array_equal(one, two) or (one[1:] == one[:-1]).any():
            raise Degenerate("a face is not cut in two points")
        return _NewEdges(vertex.reshape(-1, 2), rest[::2], one)


class _NewEdges(NamedTuple):
    """Edges ``[edges]`` of a complex: ends ``[edges, 2]``, the walls of the 2-faces that were cut,
    hashes of those faces.
    """

    ends: Ints
    zeros: Ints
    hashes: Any


class _Growing:
    """Points, values and marks of vertices, with room for more."""

    def __init__(self, points: Array, values: Array, marks: Marks) -> None:
        self.count = len(points)
        # Copies, because they grow where they are.
        self.points, self.values, self.marks = points.copy(), values.copy(), marks.copy()

    def add(self, ends: Ints, j: int) -> Ints:
        """The zeros of value j on edges."""
        fresh = np.arange(self.count, self.count + len(ends))
        if len(self.points) < self.count + len(ends):
            room = self.count + len(ends) + self.count // 4
            for part in (self.points, self.values, self.marks):
                part.resize((room, part.shape[1]), refcheck=False)
        a, b = ends[:, 0], ends[:, 1]
        za, zb = self.values[a, j], self.values[b, j]
        t = (za / (za - zb))[:, None]
        self.points[fresh] = (1 - t) * self.points[a] + t * self.points[b]
        self.values[fresh] = (1 - t) * self.values[a] + t * self.values[b]
        self.values[fresh, j] = 0.0
        left, right = self.marks[a], self.marks[b]
        self.marks[fresh] = np.where(left == 0, right, left)
        self.count += len(ends)
        return fresh


# Proof ----------------------------------------------------------------------------------------------------------


def certify(skeleton: Skeleton) -> int:
    """Prove the marks of every vertex, and that every edge has two of them; see the head of this
    module.

    Returns how many vertices needed rationals.

    Raises:
        Degenerate: what could not be proved; the complex is in no general position, or the marks
            are wrong.
    """
    n = len(skeleton.box.low)
    if (np.count_nonzero(skeleton.marks == 0, axis=1) != n).any():
        raise Degenerate("a vertex on too many walls")
    block = max(1, BLOCK // ((n + 4) * skeleton.marks.shape[1]))
    small, doubtful = growth(skeleton) < LARGEST, list[int]()
    for at in range(0, len(skeleton.points), block):
        local = _Local(skeleton, at, at + block)
        if small:
            unproved = np.flatnonzero(~local.proved())
        else:  # forms may leave the range of floats, where no bound of their rounding holds
            unproved = np.arange(len(local.near))
        doubtful += (at + unproved).tolist()
    for v in doubtful:
        _prove_exactly(skeleton, skeleton.marks[v])
    if (np.bincount(faces(skeleton.marks, n, 1).face) != 2).any():
        raise Degenerate("an edge without two ends")
    return len(doubtful)


def growth(skeleton: Skeleton) -> float:
    """A bound of all pre-activations and slopes in the box, below infinity where floats hold them."""
    size = max(1.0, float(np.abs(skeleton.box.low).max()), float(np.abs(skeleton.box.high).max()))
    for matrix in (
        skeleton.start,
        *(np.column_stack([x.weight, x.bias]) for x in skeleton.network.layers[:-1]),
    ):
        size *= max(1.0, float(np.abs(matrix).sum(axis=1).max(initial=0.0)))
    return size * math.prod(max(1.0, abs(slope)) for slope in skeleton.slopes)


class _Local:
    """Affine forms of all walls at some vertices, by their marks, with bounds of all rounding
    errors.

    A coefficient is a sum of products of weights along paths; with K roundings on a path it is off
    by at most K u / (1 - K u) times the sum of the absolute values (Higham 2002, 3.1), u = 2^-53,
    whatever the order of summation.

    Attributes:
        forms: [inputs + 1, vertices, walls], offsets last. size, flat: sums of absolute values of
            the terms of the linear part's coefficients (over all of them) and of the offset
            [vertices, walls]. gamma: of each wall, twice K u.
    """

    def __init__(self, skeleton: Skeleton, first: int, last: int) -> None:
        self.skeleton = skeleton
        self.marks = skeleton.marks[first:last]
        self.near = skeleton.points[first:last]
        count, n = self.near.shape
        box, start = skeleton.box, skeleton.start
        sides = np.zeros((n + 1, 2 * n))
        sides[np.arange(2 * n) // 2, np.arange(2 * n)] = np.tile([1.0, -1.0], n)
        sides[-1, 0::2], sides[-1, 1::2] = -box.low, box.high
        parts = [np.broadcast_to(sides[:, None], (n + 1, count, 2 * n))]
        absolute = [
            np.broadcast_to(
                np.stack([np.ones(2 * n), np.abs(sides[-1])])[:, None], (2, count, 2 * n)
            )
        ]
        gamma = [np.full(2 * n, 4.0)]
        h = start.T[:, None]  # of one vertex: nothing depends on the marks before the first gates
        size = np.stack([np.abs(start[:, :-1]).sum(axis=1), np.abs(start[:, -1])])[:, None]
        roundings, at = 2.0 * n + 4, 2 * n
        for layer, part, slope in zip(
            skeleton.network.layers[:-1], skeleton.walls, skeleton.slopes, strict=True
        ):
            roundings += layer.weight.shape[1] + 4
            z, total = h @ layer.weight.T, size @ np.abs(layer.weight).T
            z[-1] += layer.bias
            total[-1] += np.abs(layer.bias)
            parts.append(np.broadcast_to(z[..., part.units], (n + 1, count, len(part.units))))
            absolute.append(np.broadcast_to(total[..., part.units], (2, count, len(part.units))))
            gamma.append(np.full(len(part.units), roundings))
            gate = _gates(self.marks[:, at : at + len(part.units)], part, slope)
            at += len(part.units)
            h, size = z * gate, total * np.abs(gate)
        self.forms = np.concatenate(parts, axis=2)
        self.size, self.flat = np.concatenate(absolute, axis=2)
        self.gamma = np.concatenate(gamma) * 2.0**-52
        self.zeros = zeros_of(self.marks, n)

    def _at(self, x: Array) -> Array:
        """Values of all forms at one point for each vertex."""
        return np.asarray(
            sum(self.forms[i] * x[:, i, None] for i in range(x.shape[1])) + self.forms[-1]
        )

    def proved(self) -> Any:
        """Whether the marks are proved, for each vertex."""
        n, pick = self.near.shape[1], np.arange(len(self.near))[:, None]
        matrix = np.moveaxis(self.forms[:-1, pick, self.zeros], 0, -1)
        with np.errstate(all="ignore"):
            inverse = _inverses(matrix)
            step = (inverse @ self._at(self.near)[pick, self.zeros][..., None])[..., 0]
            x = np.clip(
                self.near - np.where(np.isfinite(step), step, 0.0),
                self.skeleton.box.low,
                self.skeleton.box.high,
            )
            values, largest = self._at(x), np.maximum(1.0, np.abs(x).max(axis=1, keepdims=True))
            error = self.gamma * (self.size * largest + self.flat) + TINY
            slip = self.gamma * self.size + TINY
            weight = np.abs(inverse)
            rounded = (n + 2) * 2.0**-52 * np.abs(matrix) + slip[pick, self.zeros][..., None]
            off = np.abs(np.eye(n) - inverse @ matrix) + weight @ rounded
            q = off.sum(axis=2).max(axis=1) * UP
            residual = np.abs(values) + error
            reach = (
                (weight @ residual[pick, self.zeros][..., None])[..., 0].max(axis=1) / (1 - q) * UP
                + TINY
            )[:, None]
            slopes = np.abs(self.forms[:-1]).sum(axis=0) + slip
            clear = (np.abs(values) * DOWN > (error + slopes * reach) * UP) & (
                np.sign(values) == self.marks
            )
        clear[pick, self.zeros] = True
        return clear.all(axis=1) & (q < 0.5) & np.isfinite(reach[:, 0])


def zeros_of(marks: Marks, inputs: int) -> Ints:
    """The walls of each vertex; it has as many as there are inputs."""
    return np.nonzero(marks == 0)[1].reshape(len(marks), inputs)


def _gates(marks: Marks, part: Walls, slope: float) -> Array:
    """Slopes of the activation of each unit of a layer, by the marks of its walls; on the wall that
    at negative inputs.
    """
    column = np.concatenate([marks, np.ones((len(marks), 1), dtype=np.int8)], axis=1)[:, part.wall]
    return np.where(column * part.sign > 0, 1.0, slope)


def _inverses(matrices: Array) -> Array:
    """Near inverses of small matrices by cofactors; not finite where singular."""
    n = matrices.shape[-1]
    if n == 1:
        return np.asarray(1.0 / matrices)
    if n == 2:
        (a, b), (c, d) = np.moveaxis(matrices, 0, -1)
        return np.asarray(np.moveaxis(np.array([[d, -b], [-c, a]]) / (a * d - b * c), -1, 0))
    one, two, three = matrices[:, 0], matrices[:, 1], matrices[:, 2]
    columns = np.stack([np.cross(two, three), np.cross(three, one), np.cross(one, two)], axis=2)
    return np.asarray(columns / (one * columns[:, :, 0]).sum(axis=1)[:, None, None])


def exact_forms(skeleton: Skeleton, marks: Marks) -> list[tuple[int, ...]]:
    """All walls' forms for the marks of one vertex or cell, each times some positive number, in
    integers.
    """
    n = len(skeleton.box.low)
    found = []
    for i, (low, high) in enumerate(
        zip(skeleton.box.low.tolist(), skeleton.box.high.tolist(), strict=True)
    ):
        for sign, end in ((1, Fraction(low)), (-1, Fraction(high))):
            row = [0] * n
            row[i] = sign * end.denominator
            found.append((*row, -sign * end.numerator))
    exact = skeleton.exact
    h, shift, unit = exact.start, exact.start_shift, 0
    signs = skeleton.unit_signs(marks[None])[0].tolist()
    for l, part in enumerate(skeleton.walls):
        z, shift = exact.through(l, h, shift)
        found += [tuple(z[k].tolist()) for k in part.units.tolist()]
        h, shift = exact.gated(l, z, shift, signs[unit : unit + len(z)])
        unit += len(z)
    return found


def exact_vertex(
    skeleton: Skeleton, marks: Marks, forms: list[tuple[int, ...]] | None = None
) -> Homogeneous:
    """The point where the walls marked 0 meet, in homogeneous coordinates.

    Raises:
        Degenerate: they do not meet in one point.
    """
    forms = forms or exact_forms(skeleton, marks)
    rows = [forms[k] for k in np.flatnonzero(marks == 0).tolist()]
    # Cramer's rule: the kernel of n rows in n + 1 columns is made of the minors, with alternating
    # signs.
    minors = [(-1) ** i * _determinant(_without(rows, i)) for i in range(len(rows) + 1)]
    if minors[-1] == 0:
        raise Degenerate("walls that do not meet in a point")
    sign, factor = (1 if minors[-1] > 0 else -1), math.gcd(*minors)
    return tuple(sign * v // factor for v in minors)


def _determinant(rows: Sequence[Sequence[int]]) -> int:
    if len(rows) == 1:
        return rows[0][0]
    total = 0
    for i, a in enumerate(rows[0]):
        total += (-1) ** i * a * _determinant(_without(rows[1:], i))
    return total


def _without(rows: Sequence[Sequence[int]], column: int) -> list[list[int]]:
    return [[*row[:column], *row[column + 1 :]] for row in rows]


def _prove_exactly(skeleton: Skeleton, marks: Marks) -> None:
    forms = exact_forms(skeleton, marks)
    point = exact_vertex(skeleton, marks, forms)
    for form, mark in zip(forms, marks.tolist(), strict=True):
        value = sum(map(int.__mul__, form, point))
        if (value > 0) - (value < 0) != mark:
            raise Degenerate("a mark that is not the sign there")


# Faces ----------------------------------------------------------------------------------------------------------


class Faces(NamedTuple):
    """Faces of one dimension as incidences with vertices.

    Attributes:
        vertex, face: of each incidence. first: an incidence of each face. free: the walls of the
            vertex that the face leaves [incidences, dimension]. sign: to which side. marks: of all
            vertices.
    """

    vertex: Ints
    face: Ints
    first: Ints
    free: Ints
    sign: Marks
    marks: Marks

    def signs(self, incidence: Ints) -> Marks:
        """The signs of all walls on the faces of some incidences."""
        found = self.marks[self.vertex[incidence]]
        np.put_along_axis(found, self.free[incidence], self.sign[incidence], axis=1)
        return found


def faces(marks: Marks, inputs: int, dimension: int) -> Faces:
    """All faces of a dimension that have one of these vertices, told apart by the signs of all
    walls.

    Order of incidences: the freed walls (combinations), then the sides (-1 before 1, the first wall
    slowest), then vertices.
    """
    words = np.random.default_rng(1).integers(
        0, 2**63, (2, marks.shape[1]), dtype=np.uint64
    ) * np.uint64(2) + np.uint64(1)
    base = (marks > 0) @ words[1] + (marks < 0) @ words[0]
    zeros = zeros_of(marks, inputs)
    vertices, frees, signs, hashes = [], [], [], []
    for chosen in combinations(range(inputs), dimension):
        free = zeros[:, chosen]
        for sides in product((-1, 1), repeat=dimension):
            side = np.array(sides, dtype=np.int8)
            inside = np.flatnonzero(((free >= 2 * inputs) | (side > 0)).all(axis=1))
            vertices.append(inside)
            frees.append(free[inside])
            signs.append(np.broadcast_to(side, (len(inside), dimension)))
            hashes.append(
                base[inside]
                + words[(side > 0).astype(np.intp), free[inside]].sum(axis=1, dtype=np.uint64)
            )
    _, first, face = np.unique(np.concatenate(hashes), return_index=True, return_inverse=True)
    found = Faces(
        np.concatenate(vertices), face, first, np.concatenate(frees), np.concatenate(signs), marks
    )
    block = max(1, BLOCK // marks.shape[1])
    for at in range(0, len(face), block):
        some = np.arange(at, min(at + block, len(face)))
        if not np.array_equal(found.signs(some), found.signs(first[face[some]])):
            raise Degenerate("two faces share a hash")
    return found
