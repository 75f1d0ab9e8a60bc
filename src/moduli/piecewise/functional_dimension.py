"""Functional dimension: how many directions of parameter space a ReLU network's function can tell
apart.

On a cell the outputs are A x + c with A and c polynomial in the parameters, so the functional
dimension on a box is the rank of the stacked Jacobians of (A, c) over its cells on which no unit
vanishes (Grigsby, Lindsey, Meyerhoff, Wu 2022 define it by points; coefficients are used here
because points in a sliver are ill conditioned). With B_l = d out / d z_l and h_{l-1} = H x + g on
the cell,

    d(A | c) / dW_l[i, j] = B_l[:, i] (H[j] | g[j]),      d(A | c) / db_l[i] = B_l[:, i] (0 | 1).

*From below.* Parameters are dyadic rationals, and a rank modulo an odd prime is never above the
rank over the rationals, nor is that of combinations of rows: one elimination modulo a prime proves
the lower bound. With more inputs than all cells can be listed for, points on creases prove one first,
without that matrix (`crease_points`).

*From above*, by the first that reaches it: the number of parameters less that of hidden units
(scaling); independent exact null vectors of known kinds (`_losses`, `_starved`), which name what is
lost; null vectors reconstructed from residues modulo many primes, or the vanishing of all minors of
the next size modulo more primes than they could bear (`modular.rank_at_most`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import chain
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common import modular
from moduli.common.domains import Domain
from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.kernel.bounds.input_splits import ends_of
from moduli.kernel.errors import Undecided
from moduli.kernel.network import Network

from . import cells_sampled
from .cells_exact import whole_numbers
from .crease_points import CreasePoints, crease_points, largest
from .polyhedral_complex import Pieces, gates
from .smooth_dimension import SmoothPoints, smooth_points

Array = np.ndarray[Any, np.dtype[np.float64]]
FLOOR = (
    2.0**-900
)  # bounds are at least this: below, products underflow, and a bound of 0 would claim a lower rank
BLOCK = 2**21  # entries of the Jacobian at a time
WORK = 5e10  # multiplications of a rank modulo a prime
MOST = 2**25  # entries of a Jacobian whose pairs of cells are read
MEMORY = 2**33  # bytes
PART = 256  # rows mixed at a time
LARGE = 2**12  # parameters beyond which no Jacobian is made where creases have given a bound
SPREAD = 4  # sums that each goes to: at most 1024 terms of one sum


@dataclass(frozen=True, eq=False, repr=False)
class Dimension(Result):
    """The functional dimension of a network on a box.

    Attributes:
        lower, upper: proved. cells: where it was computed: `Pieces`, an `Exploration`, `CreasePoints` or
            `SmoothPoints`.
        losses: what is lost, by kind and layer: (kind, layer, directions).
    """

    lower: int
    upper: int
    cells: Any
    losses: tuple[tuple[str, int, int], ...] = ()
    seed: int = 0
    kind: ClassVar[str] = "dimension"

    @property
    def pieces(self) -> Pieces:
        found: Pieces = self.cells
        return found

    @property
    def network(self) -> Network:
        found: Network = self.cells.network
        return found

    @property
    def generic(self) -> int:
        """Parameters less hidden units that can be scaled, the most it can be."""
        return largest(self.network)

    @property
    def exact(self) -> bool:
        return self.lower == self.upper

    def __int__(self) -> int:
        if not self.exact:
            raise Undecided(
                f"functional dimension between {self.lower} and {self.upper}",
                lower=self.lower,
                upper=self.upper,
            )
        return self.lower

    @cached_property
    def null_space(self) -> Array:
        """Directions of parameters that change nothing to first order, [count, parameters],
        orthonormal (floats).
        """
        values, rows = np.linalg.svd(_jacobian_floats(self.cells), full_matrices=True)[1:]
        if self.exact:
            rank = self.lower
        else:
            rank = int((values > 1e-9 * values.max(initial=0.0)).sum())
        return np.asarray(rows[rank:])

    def check(self) -> bool:
        """Check the cells and compute both bounds again, the lower one modulo another prime (should
        that fail, the first).
        """
        ranks = (_below(self.cells, prime, self.seed) for prime in reversed(modular.PRIMES))
        below = self.cells.check() and any(rank >= self.lower for rank in ranks)
        if self.upper >= self.generic:
            return below
        # what is lost beyond scaling is seen only where all cells are known
        return below and self.cells.complete and _upper(self.cells, self.upper)[0] <= self.upper

    @property
    def statement(self) -> str:
        why = ""
        if not isinstance(self.cells, (CreasePoints, SmoothPoints)) and not len(smooth(self.cells)):
            why = "; on every cell a unit vanishes identically: compress the network first"
        return f"{self.value} ({self.network.parameters} parameters){why}"

    @property
    def value(self) -> str:
        """The number, or its bounds, and what it could be."""
        value = str(self.lower) if self.exact else f"between {self.lower} and {self.upper}"
        return f"functional dimension {value} of at most {self.generic}"

    def asked(self) -> list[tuple[str, str]]:
        return [("network", repr(self.network)), ("on", repr(self.cells.box))]

    def facts(self) -> list[tuple[str, str]]:
        rows = [
            self._place(),
            (
                "functional dimension",
                f"= {self.lower}" if self.exact else f"{self.lower} <= . <= {self.upper}",
            ),
            (self._most_there_can_be(), str(self.generic)),
            ("directions lost", str(self.generic - self.upper)),
        ]
        places = [
            (f"lost in layer {layer}" if layer else "lost together", kind, count)
            for kind, layer, count in self.losses
        ]
        if isinstance(self.cells, CreasePoints):
            places += [(f"not seen in layer {l}", *part) for part, l in self._unseen()]
        return rows + [(place, f"{count}: {kind}") for place, kind, count in places]

    def _most_there_can_be(self) -> str:
        smooth_units = isinstance(self.cells, SmoothPoints)
        return "parameters less units" + (" that scale" if smooth_units else "")

    def _place(self) -> tuple[str, str]:
        if isinstance(self.cells, CreasePoints):
            points, samples = len(self.cells.units), len(self.cells.samples)
            return "points on creases", f"{points}, and {samples} where no unit vanishes"
        if isinstance(self.cells, SmoothPoints):
            return "rows at points", str(self.cells.cells)
        return "cells", str(self.cells.cells)

    def _unseen(self) -> list[tuple[tuple[str, int], int]]:
        return [((kind, count), l) for kind, l, count in self.cells.unseen()]

    def data(self) -> dict[str, Any]:
        creases = self.cells if isinstance(self.cells, CreasePoints) else None
        listed = creases is None and not isinstance(self.cells, SmoothPoints)
        return {
            "lower": self.lower, "upper": self.upper, "exact": self.exact, "generic": self.generic,
            "losses": [list(loss) for loss in self.losses],
            "cells": self.cells.cells if listed else None,
            "creases": None if creases is None else len(creases.units),
            "digest": self.network.digest,
        }  # fmt: skip


def with_many_inputs(
    net: Network, on: Domain, budget: int, seed: int, progress: Progress | None = None
) -> Dimension:
    """From points on creases; of networks that are not too large also from the cells that points
    find, where the first bound is not the most there can be.
    """
    creases = crease_points(net, cells_sampled.accepted(net, on), budget, seed, progress)
    lower, most = creases.shown, creases.most
    status = "proved" if lower == most else "bounded"
    found = Dimension(status, lower, most, creases, (), seed)
    if lower == most or net.parameters > LARGE:
        return found
    other = dimension(cells_sampled.explore(net, on, budget, seed, progress), seed)
    return other if other.lower > found.lower else found


def with_smooth_units(net: Network, on: Domain, seed: int) -> Dimension:
    """From independent rows of derivatives at points; see `smooth_dimension`."""
    found, most = smooth_points(net, on, seed), largest(net)
    lower = found.cells
    return Dimension("proved" if lower == most else "bounded", lower, most, found, (), seed)


def dimension(found: Any, seed: int) -> Dimension:
    """See `api.dimension`."""
    generic = largest(found.network)
    lower = _rank(found, modular.PRIMES[0], seed)
    upper, losses = generic, tuple[tuple[str, int, int], ...]()
    if lower < generic and found.complete:  # see `Dimension.check`
        upper, losses = _upper(found, lower)
    status = "proved" if lower == upper else "bounded"
    return Dimension(status, lower, upper, found, losses, seed)


# Jacobians ------------------------------------------------------------------------------------------------------


class Exact(NamedTuple):
    """Residues modulo a prime: how to read floats and to reduce what is computed with them."""

    prime: int

    def number(self, x: Array) -> Array:
        return modular.residues(x, self.prime)

    def reduced(self, x: Array) -> Array:
        return modular.reduced(x, self.prime)

    def times(self, a: Array, b: Array) -> Array:
        return modular.times(a, b, self.prime)


class Floats(NamedTuple):
    """Plain floats."""

    def number(self, x: Array) -> Array:
        return x

    def reduced(self, x: Array) -> Array:
        return x

    def times(self, a: Array, b: Array) -> Array:
        return np.asarray(a @ b)


def smooth(found: Any) -> Any:
    """Signs of cells on which no unit vanishes: elsewhere the function need not be differentiable
    in the parameters.
    """
    return found.cell_signs[(found.cell_signs != 0).all(axis=1)]


class Local(NamedTuple):
    """The network on some cells: what layers read (features, then 1), gates, and slopes of the
    outputs by pre-activations.

    Shapes: features [coefficients, cells, width + 1] with offsets last, gates [cells, width],
    slopes [outputs, cells, width].
    """

    features: list[Array]
    gates: list[Array]
    slopes: list[Array]


def local(found: Any, signs: Any, field: Exact | Floats) -> Local:
    """Features, gates and slopes on cells of given signs, in floats or residues."""
    net = found.network
    gate_of = [field.number(g) for g in gates(net, signs)]
    h = np.broadcast_to(
        field.number(found.start).T[:, None], (found.start.shape[1], len(signs), len(found.start))
    )
    one = np.zeros((len(h), len(signs), 1))
    one[-1] = 1.0
    weights = [field.number(np.column_stack([x.weight, x.bias])) for x in net.layers]
    features = [np.concatenate([h, one], axis=2)]
    for l, (weight, gate) in enumerate(zip(weights[:-1], gate_of, strict=True)):
        read = (
            features[-1] if l else features[0][:, :1]
        )  # the first layer reads the same on all cells
        h = field.reduced(field.times(read, weight.T) * gate)
        features.append(np.concatenate([h, one], axis=2))
    slopes = [
        np.broadcast_to(
            np.eye(net.widths[-1])[:, None], (net.widths[-1], len(signs), net.widths[-1])
        )
    ]
    for weight, gate in zip(weights[:0:-1], gate_of[::-1], strict=True):
        slopes.insert(0, field.reduced(field.times(slopes[0], weight[:, :-1]) * gate))
    return Local(features, gate_of, slopes)


def _jacobian(found: Any, field: Exact | Floats) -> Iterator[Array]:
    """Rows (cell, output, coefficient) of the Jacobian, [rows, parameters] in the order of
    `Network.flat`, block by block.
    """
    signs, net = smooth(found), found.network
    step = max(1, BLOCK // (net.parameters * net.widths[-1] * found.start.shape[1]))
    for at in range(0, len(signs), step):
        here = local(found, signs[at : at + step], field)
        parts = []
        for slope, feature in zip(here.slopes, here.features, strict=True):
            block = (
                slope.transpose(1, 0, 2)[:, :, None, :, None]
                * feature.transpose(1, 0, 2)[:, None, :, None, :]
            )
            rows = math.prod(block.shape[:3])
            parts += [block[..., :-1].reshape(rows, -1), block[..., -1].reshape(rows, -1)]
        yield field.reduced(np.concatenate(parts, axis=1))


def _jacobian_floats(found: Any) -> Array:
    if isinstance(found, SmoothPoints):
        parts = [found.jacobian[0]]
    else:
        parts = [*_jacobian(found, Floats())]
    whole = np.concatenate([np.zeros((0, found.network.parameters)), *parts])
    size = np.linalg.norm(whole, axis=1, keepdims=True)
    return np.asarray(whole / np.where(size > 0, size, 1.0))


# From below -----------------------------------------------------------------------------------------------------


def _below(found: Any, prime: int, seed: int) -> int:
    """A lower bound, from what is certain modulo a prime."""
    if isinstance(found, CreasePoints):
        return found.lower(prime)
    if isinstance(found, SmoothPoints):
        return found.lower()
    return _rank(found, prime, seed)


def _rank(found: Any, prime: int, seed: int) -> int:
    """The rank modulo a prime of all rows, or of sparse random combinations of them: never above
    the rank over the rationals.

    Each row goes to four of slightly more sums than parameters: almost surely no rank is lost (as
    in cuckoo hashing with four places, whose table may be filled to 97 %; Cain, Sanders, Wormald
    2007).
    """
    from scipy.sparse import csr_array

    columns = found.network.parameters
    rng, most = np.random.default_rng(seed), int(1.1 * columns) + 20
    count = len(smooth(found)) * found.network.widths[-1] * found.start.shape[1]
    if 8 * min(count, most) * columns > MEMORY:
        raise Undecided(
            f"the rank of a matrix of {min(count, most)} rows and {columns} columns, one for each parameter, is not taken: "
            f"more than {MEMORY >> 30} GiB; give a smaller budget or box, or a smaller network",
            lower=0,
            upper=columns,
        )
    total, rows, terms = np.zeros((0 if count <= most else most, columns)), list[Array](), 0
    for block in _jacobian(found, Exact(prime)):
        if count <= most:
            rows.append(block)
            continue
        for part in np.array_split(block, range(PART, len(block), PART)):
            place = rng.integers(0, most, (len(part), SPREAD))
            factor = rng.integers(1, prime, place.shape).astype(np.float64) - prime // 2
            start = np.arange(0, place.size + 1, SPREAD)
            fresh = int(np.bincount(place.ravel()).max())
            if terms + fresh > 2000:  # of fewer than 2^11 products below 2^42 the sums are exact
                total, terms = modular.reduced(total, prime), 1
            total += (
                csr_array((factor.ravel(), place.ravel(), start), shape=(len(part), most)).T @ part
            )
            terms += fresh
    whole = (
        np.concatenate([np.zeros((0, columns)), *rows])
        if count <= most
        else modular.reduced(total, prime)
    )
    return modular.rank(whole, prime)


# From above -----------------------------------------------------------------------------------------------------


Losses = dict[tuple[str, int], int]  # directions by kind and layer


def _upper(found: Any, wanted: int) -> tuple[int, tuple[tuple[str, int, int], ...]]:
    """An upper bound, as near to `wanted` as is proved, and what is lost."""
    net, prime = found.network, modular.PRIMES[0]
    if not len(smooth(found)):
        return 0, ()
    vectors, busy = [modular.residues(_scaling(net), prime)], exercised(found)
    idle, rank, losses = _unexercised(net, busy, vectors[0], prime)
    most = net.parameters - int(idle.sum())
    known = (
        (kind, layer, modular.residues(rows, prime)) for kind, layer, rows in _losses(net, busy)
    )
    for kind, layer, rows in (
        chain(known, _starved(found, busy, prime)) if most - rank > wanted else ()
    ):
        vectors.append(rows)
        before, rank = rank, modular.rank(np.concatenate(vectors)[:, ~idle], prime)
        losses[kind, layer] = losses.get((kind, layer), 0) + rank - before
        if most - rank <= wanted:
            break
    upper = most - rank
    if upper > wanted and _reached(found, np.concatenate(vectors), idle, wanted):
        losses["not of one unit or pair", 0] = upper - wanted
        upper = wanted
    return upper, tuple((kind, layer, count) for (kind, layer), count in losses.items() if count)


def _unexercised(
    net: Network, busy: Exercised, scaling: Array, prime: int
) -> tuple[Any, int, Losses]:
    """Weights that no cell exercises, each lost alone as its column is zero; the rank of scaling in
    the other columns.
    """
    losses = Losses()
    idle, rank = np.zeros(net.parameters, dtype=bool), modular.rank(scaling, prime)
    for l, table in enumerate(busy.seen):
        start = _places(net, l, 0, 0)
        idle[start : start + table.size] = np.concatenate([~table[:, :-1].ravel(), ~table[:, -1]])
        before, rank = rank, modular.rank(scaling[:, ~idle], prime)
        losses["weights that no cell exercises", l + 1] = int((~table).sum()) + rank - before
    return idle, rank, losses


def _reached(found: Any, vectors: Array, idle: Any, wanted: int) -> bool:
    """Whether the rank is proved to be no larger than `wanted`: on the columns that known null
    vectors leave.
    """
    prime, places = modular.PRIMES[0], np.flatnonzero(~idle)
    kept = np.setdiff1d(places, places[modular.pivots(vectors[:, ~idle], prime)[1]])
    sizes, powers = (part[kept] for part in _column_bits(found))
    none = np.zeros((0, found.network.parameters))

    def rows(p: int) -> Array:
        return np.asarray(np.concatenate([none, *_jacobian(found, Exact(p))])[:, kept])

    return modular.rank_at_most(rows, wanted, sizes, powers, WORK)


def _places(net: Network, l: int, unit: Any, column: Any) -> Any:
    """Where a weight of layer l (from 0) is in the flat vector; column -1 is the bias."""
    w = net.layers[l].weight
    start = sum(x.weight.size + x.bias.size for x in net.layers[:l])
    return start + (w.size + unit if column == -1 else unit * w.shape[1] + column)


def _scaling(net: Network) -> Array:
    """The row of a unit grows as its column shrinks (positively homogeneous activations), [units,
    parameters].
    """
    rows = []
    for l, act in enumerate(net.activations):
        if not act.homogeneous:
            continue
        w, b, after = net.layers[l].weight, net.layers[l].bias, net.layers[l + 1].weight
        for i in range(len(b)):
            row = np.zeros(net.parameters)
            row[_places(net, l, i, 0) : _places(net, l, i, 0) + w.shape[1]] = w[i]
            row[_places(net, l, i, -1)] = b[i]
            row[_places(net, l + 1, np.arange(len(after)), i)] = -after[:, i]
            rows.append(row)
    return np.array(rows).reshape(len(rows), net.parameters)


def _losses(net: Network, busy: Exercised) -> Iterator[tuple[str, int, Array]]:
    """Null vectors beside scaling, exact in floats: directions along which all coefficients stay,
    to first order.

    - mixing of units i, k of a layer: i reads a multiple of the row of k, and the column of k takes back what i sends.
      It is a null vector if on every cell where i is heard (its column times the slopes behind)
      both have one gate;
    - shift of unit i: its bias grows, the next layer's bias takes it back; if i is linear wherever it is heard.
    """

    def empty(count: int) -> Array:
        return np.zeros((count, net.parameters))

    for l in range(len(net.layers) - 1):
        w, b, after = net.layers[l].weight, net.layers[l].bias, net.layers[l + 1].weight
        gate, heard = busy.gates[l], busy.heard[l]
        values = np.unique(gate)
        differ = np.zeros(
            (gate.shape[1], gate.shape[1])
        )  # on how many cells unit i is heard and k has another slope
        for v in values:
            differ += (heard & (gate == v)).T.astype(np.float64) @ (gate != v).astype(np.float64)
        speaks = (heard & (gate != 0)).any(axis=0)
        pairs = np.argwhere((differ == 0) & speaks[:, None] & ~np.eye(len(differ), dtype=bool))
        if len(pairs) * net.parameters >= MOST:
            pairs = pairs[:0]
        rows = empty(len(pairs))
        for row, (i, k) in zip(rows, pairs.tolist(), strict=False):
            row[_places(net, l, i, 0) : _places(net, l, i, 0) + w.shape[1]] = w[k]
            row[_places(net, l, i, -1)] = b[k]
            row[_places(net, l + 1, np.arange(len(after)), k)] = -after[:, i]
        yield "units that bend nowhere apart, mixed", l + 1, rows
        straight = [i for i in range(gate.shape[1]) if len(np.unique(gate[heard[:, i], i])) == 1]
        rows = empty(len(straight))
        for row, i in zip(rows, straight, strict=True):
            slope = gate[heard[:, i], i][0]
            back = slope * after[:, i]
            if slope == 0 or (
                np.frexp(abs(slope))[0] == 0.5 and (back / slope == after[:, i]).all()
            ):  # the product is exact
                row[_places(net, l, i, -1)] = 1.0
                row[_places(net, l + 1, np.arange(len(after)), -1)] = -back
        yield "linear units, shifted", l + 1, rows


def _starved(found: Any, busy: Exercised, prime: int) -> Iterator[tuple[str, int, Array]]:
    """Null vectors in the row of one unit: the features it reads, where it is heard, span too
    little.

    Given modulo the prime, as the reduction of exact ones: that the rank of the features is no
    larger than modulo the prime is proved (`modular.rank_at_most`), so that the null space there is
    the reduction of the integer null vectors.
    """
    net, signs = found.network, smooth(found)
    on = [h & (g != 0) for h, g in zip(busy.heard, busy.gates, strict=True)]
    on.append(np.ones((len(signs), net.widths[-1]), dtype=bool))
    ends = ends_of(net)
    offsets = np.cumsum([0, *(x.weight.size + x.bias.size for x in net.layers)])
    sizes, shifts = _feature_bits(found)
    for l in range(len(net.layers)):
        before = np.column_stack([np.ones(len(signs), dtype=np.int8), signs[:, : ends[l]]])
        first, pattern = np.unique(before, axis=0, return_index=True, return_inverse=True)[1:]
        rows, short = cache(partial(_features, found, signs[first], l)), list[Array]()
        for unit in range(net.widths[l + 1]):
            where = np.unique(pattern.ravel()[on[l][:, unit]])
            null = modular.null_space(rows(prime)[where].reshape(-1, net.widths[l] + 1), prime)

            def read(p: int, rows: Any = rows, where: Any = where) -> Array:
                return np.asarray(rows(p)[where].reshape(-1, rows(p).shape[2]))

            if len(null) and modular.rank_at_most(
                read, net.widths[l] + 1 - len(null), sizes[l], shifts[l], WORK
            ):
                out = np.zeros((len(null), net.parameters))
                place = offsets[l] + unit * net.widths[l]
                out[:, place : place + net.widths[l]] = null[:, :-1]
                out[:, offsets[l] + net.layers[l].weight.size + unit] = null[:, -1]
                short.append(out)
        if short:
            yield "units that read too little where they are heard", l + 1, np.concatenate(short)


def _features(found: Any, signs: Any, l: int, prime: int) -> Array:
    """What layer l (from 0) reads on cells of some signs, modulo a prime [cells, coefficients,
    width + 1].
    """
    return np.ascontiguousarray(local(found, signs, Exact(prime)).features[l].transpose(1, 0, 2))


class Exercised(NamedTuple):
    """What the cells exercise, never too little: a value that vanishes for certain (no path bears
    it) is left out.

    By layer: seen [units, inputs of the layer + 1]; of hidden layers heard [cells, units], whether
    the outputs depend on what a unit sends, and gates [cells, units].
    """

    seen: list[Any]
    heard: list[Any]
    gates: list[Array]


def exercised(found: Any) -> Exercised:
    """See `Exercised`; on the cells on which no unit vanishes."""
    net, signs = found.network, smooth(found)
    slopes = gates(net, signs)
    bears = [np.column_stack([x.weight, x.bias]) != 0 for x in net.layers]
    one = np.ones((len(signs), 1), dtype=bool)
    alive = np.broadcast_to((found.start != 0).any(axis=1), (len(signs), len(found.start)))
    features = [np.concatenate([alive, one], axis=1)]
    for bear, slope in zip(bears, slopes, strict=False):
        reached = features[-1].astype(np.float64) @ bear.T.astype(np.float64) > 0
        features.append(np.concatenate([reached & (slope != 0), one], axis=1))
    behind = np.ones((len(signs), net.widths[-1]), dtype=bool)
    seen, heard = list[Any](), list[Any]()
    for l in range(len(net.layers) - 1, -1, -1):
        seen.insert(0, behind.T.astype(np.float64) @ features[l].astype(np.float64) > 0)
        if l:
            heard.insert(0, behind.astype(np.float64) @ bears[l][:, :-1].astype(np.float64) > 0)
            behind = heard[0] & (slopes[l - 1] != 0)
    return Exercised(seen, heard, slopes)


def _column_bits(found: Any) -> tuple[Array, Array]:
    """Of the entries of each column of the Jacobian: log2 of a bound, and the power of two that
    makes them integers.
    """
    net, bits, powers = found.network, list[Array](), list[Array]()
    sizes, shifts = _feature_bits(found)
    behind, shift = np.ones(net.widths[-1]), 0
    for l in range(len(net.layers) - 1, -1, -1):
        entry = np.log2(np.maximum(behind, FLOOR))[:, None] + sizes[l]
        bits[:0] = [entry[:, :-1].ravel(), entry[:, -1]]
        powers.insert(0, np.full(entry.size, float(shift + shifts[l])))
        steep, power = _gate_size(net, l - 1)
        with np.errstate(over="ignore"):
            behind = steep * (np.abs(net.layers[l].weight).T @ np.maximum(behind, FLOOR))
        shift += whole_numbers(net.layers[l].weight)[1] + power
    return np.concatenate(bits) + 1e-6, np.concatenate(powers)


def _feature_bits(found: Any) -> tuple[list[Array], list[int]]:
    """Of what each layer reads (and 1): log2 of a bound on all cells, and the power of two that
    makes it integers.
    """
    net, size, shift = (
        found.network,
        np.append(np.abs(found.start).max(axis=1), 1.0),
        whole_numbers(found.start)[1],
    )
    sizes, shifts = [np.log2(np.maximum(size, FLOOR))], [shift]
    for l, layer in enumerate(net.layers[:-1]):
        both = np.column_stack([layer.weight, layer.bias])
        steep, power = _gate_size(net, l)
        with np.errstate(over="ignore"):
            size = np.append(steep * (np.abs(both) @ np.maximum(size, FLOOR)), 1.0)
        shift += whole_numbers(both)[1] + power
        sizes.append(np.log2(np.maximum(size, FLOOR)) + 1e-6)
        shifts.append(shift)
    return sizes, shifts


def _gate_size(net: Network, l: int) -> tuple[float, int]:
    """The steepest slope of the activation after layer l (from 0), and the power of two that makes
    its slopes integers.
    """
    if l < 0:
        return 1.0, 0
    slope = net.activations[l].derivative(np.array([-1.0]))
    return max(1.0, float(np.abs(slope).max())), whole_numbers(slope)[1]
