"""Functional dimension and local identifiability from points on visible creases, with any number of
inputs and at a price that grows with the square of the number of parameters.

Notation as in `functional_dimension`: hidden layers 1..L, z_l = W_l h_{l-1} + b_l, f the outputs, m
of them. For a direction d of parameters let df_R be the first-order change of f on a cell R, an
affine function of x; the functional dimension on the box is the number of parameters less the
dimension of K = {d: df_R = 0 on all cells}.

**Crease lemma.** *For each hidden unit j of each layer l let T_j be points of the box at which
z_j is 0, changes sign, and no other unit vanishes, and at which v, the derivative of the outputs
behind layer l by what unit j sends, is not 0 (the activation of layer l has two different slopes).
Let r_j be the rank of {(h_{l-1}(x), 1): x in T_j}, 0 without points, and r the rank of {(h_L(x),
1)} over points of the box at which no hidden unit vanishes. Then*

    functional dimension >= sum_j r_j + m r.

*Proof.* Let d be in K and x in T_j. Near x the signs of all units but j are constant, so there are
two cells R+ and R- at x, whose signs differ in j alone. By the chain rule df_R(y) = sum_k B_k(R)
(dW_k h_{k-1}(y) + db_k), where B_k(R) is the slope of the outputs by z_k on R; both sides are
continuous up to x, and h_k(x) is the same from both sides. The B_k of layers behind l agree on R+
and R-. B_l differs in column j only, by s v, where s != 0 is the difference of the slopes of the
activation, and for k < l the difference of the B_k is s v times dz_j / dz_k. So

    0 = df_{R+}(x) - df_{R-}(x) = s v (dW_j h_{l-1}(x) + db_j + W_j dh_{l-1}(x)),

where dh_{l-1}(x) is the change of h_{l-1}(x) under the parts of d in the layers below l; hence the
bracket is 0 for every x in T_j. Project K onto the parameters of the layers up to l and call the
image K_l. In the fibre over a point of K_{l-1} two elements differ by (dW_j, db_j) that annihilate
{(h_{l-1}(x), 1): x in T_j}, for each unit j of layer l, so dim K_l <= dim K_{l-1} + sum_j (n_{l-1} +
1 - r_j), the sum over the units of layer l. In the fibre of K over a point of K_L two elements
differ in the last layer alone, by (dW, db) with dW h_L + db = 0 on all cells: m (n_L + 1 - r)
dimensions at most. The numbers n_{l-1} + 1 over all units, and m (n_L + 1), sum to the number of
parameters. QED

If all r_j are n_{l-1} and r = n_L + 1, the bound is the number of parameters less that of hidden
units, as much as there can be with ReLU. Then the parameters are *locally identifiable*: the
derivative of (f(x_1), f(x_2), ...) has, at points x_i that show it, rank P - N, which it has at all
parameters close by, as it is never more; so its fibres there are manifolds of dimension N, which
are the orbits of scaling.

*What is proved how.* Signs are those of `at_points`, by outward rounding. A point of T_j is not
stored: its segment is, from a to b in the box. If all units of the layers below l, and those beside
j, have one sign at both ends, they have it between: layer by layer they are affine on the segment.
So z_j is affine on it, and if its signs at the ends differ it vanishes at one point c, where the
other units are seen not to vanish. With x = c, a multiple of (h_{l-1}(c), 1) is z_j(b) (h_{l-1}(a),
1) - z_j(a) (h_{l-1}(b), 1), a row of rationals, of which residues modulo a prime are computed. Ranks
modulo a prime are never above the true ones, and a derivative v whose residue (of one combination
of the outputs) is not 0 is not 0: both errors go to the safe side. (A rank can come out too low by
chance, with probability about its size over 2^22 for each unit; another prime would show it.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common import modular
from moduli.common.at_points import enclosed, signs_at
from moduli.common.progress import Progress
from moduli.kernel.box import Box
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.network import Network

from .cells_sampled import free_inputs, scattered

Array = np.ndarray[Any, np.dtype[np.float64]]
Whole = np.ndarray[Any, np.dtype[np.int64]]
ENTRIES = 2**22  # floats in one array
NEAR = 2.0**-26  # half a segment, as a part of the line on which the crease was found
STEPS = 60  # evaluations along a line
SPARE = 2  # lines tried beyond the rank that a unit misses
POOL = 2048  # points between which lines are drawn
STALE = 6  # rounds without a new point after which a unit is given up


@dataclass(frozen=True, eq=False)
class CreasePoints:
    """Short segments that each cross the crease of one hidden unit, and points where none vanishes.

    Attributes:
        units: of each segment the unit, counted through the hidden layers; sorted. starts, ends:
            ``[segments, inputs]``. samples: ``[points, inputs]``.
    """

    network: Network
    box: Box
    units: Whole
    starts: Array
    ends: Array
    samples: Array
    complete: ClassVar[bool] = False

    @cached_property
    def start(self) -> Array:
        return free_inputs(self.network, self.box)

    @cached_property
    def signs(self) -> Any:
        """Of all hidden units at the creases ``[segments, units]``: 0 for the own unit."""
        return _proved(self.network, self.units, self.starts, self.ends)[1]

    @cached_property
    def cell_signs(self) -> Any:
        """Of the cells on both sides of the creases, and at the samples ``[cells, units]``."""
        sides = []
        for side in (-1, 1):
            signs = self.signs.copy()
            signs[np.arange(len(signs)), self.units] = side
            sides.append(signs)
        return np.unique(np.concatenate([*sides, signs_at(self.network, self.samples)[0]]), axis=0)

    @property
    def cells(self) -> int:
        return len(self.cell_signs)

    def check(self) -> bool:
        """Prove again what makes each segment one across a crease, and each sample a smooth point.

        Raises:
            CertificateRejected: naming the segment or the point.
        """
        box, inputs = self.box.of_dimension(self.network.widths[0]), self.network.widths[0]
        shape = (len(self.units), inputs)
        if self.starts.shape != shape or self.ends.shape != shape or self.samples.ndim != 2:
            raise CertificateRejected("not one start and one end for each unit of a segment")
        if self.samples.shape[1] != inputs:
            raise CertificateRejected(f"samples of {self.samples.shape[1]} inputs, not {inputs}")
        for name, points in (
            ("start", self.starts),
            ("end", self.ends),
            ("sample", self.samples),
        ):
            inside = ((points >= box.low) & (points <= box.high)).all(axis=1)
            if not inside.all():
                raise CertificateRejected(f"{name} {int(np.argmin(inside))} is outside the box")
        if (np.diff(self.units) < 0).any() or not set(self.units) <= set(range(self.network.units)):
            raise CertificateRejected("the units of the segments are not sorted hidden units")
        good = _proved(self.network, self.units, self.starts, self.ends)[0]
        if not good.all():
            at = int(np.argmin(good))
            raise CertificateRejected(
                f"segment {at} is not proved to cross the crease of unit {int(self.units[at])} alone"
            )
        if not signs_at(self.network, self.samples)[1].all():
            raise CertificateRejected("at a sample a unit is not proved to be other than 0")
        return True

    def ranks(self, prime: int) -> tuple[list[int], int]:
        """Modulo a prime: r_j of each hidden unit, and r of what the last layer reads.

        Never above the true ones.
        """
        found = [0] * self.network.units
        for unit, rows in _rows_by_unit(self, prime):
            found[unit] = modular.rank(rows, prime)
        return found, modular.rank(_last_reads(self.network, self.samples, prime), prime)

    def lower(self, prime: int) -> int:
        """The bound of the lemma."""
        ranks, last = self.ranks(prime)
        return sum(ranks) + self.network.widths[-1] * last

    @property
    def most(self) -> int:
        """Parameters less hidden units that can be scaled: no functional dimension is larger."""
        return largest(self.network)

    @property
    def shown(self) -> int:
        """The bound of the lemma, if all segments of a unit have independent rows, and the samples
        too: as the search leaves them.
        """
        return len(self.units) + self.network.widths[-1] * len(self.samples)

    def unseen(self) -> list[tuple[str, int, int]]:
        """What `shown` misses of parameters less hidden units: (kind, layer, directions)."""
        net, found = self.network, list[tuple[str, int, int]]()
        ranks = np.bincount(self.units, minlength=net.units)
        for l, places in layers_of(net):
            part, reads = ranks[places], net.widths[l]
            none = int((part == 0).sum()) * reads
            some = int((reads - part)[part > 0].sum())
            for kind, count in (
                ("units without a visible crease", none),
                ("units whose creases show too little", some),
            ):
                if count:
                    found.append((kind, l + 1, count))
        short = net.widths[-1] * (net.widths[-2] + 1 - len(self.samples))
        if short:
            found.append(("what the last layer reads", len(net.layers), short))
        return found


def largest(net: Network) -> int:
    """Parameters less hidden units of homogeneous activations: scaling a unit changes nothing."""
    scaled = zip(net.widths[1:-1], net.activations, strict=True)
    return net.parameters - sum(width for width, act in scaled if act.homogeneous)


# Proof ----------------------------------------------------------------------------------------------------------


def layers_of(net: Network) -> Iterator[tuple[int, slice]]:
    """Hidden layers, counted from 0, and the places of their units."""
    at = 0
    for l, width in enumerate(net.widths[1:-1]):
        yield l, slice(at, at + width)
        at += width


def up_to(net: Network, layers: int) -> Network:
    """The first layers; what comes behind them is left out."""
    kept = [x.weight for x in net.layers[:layers]], [x.bias for x in net.layers[:layers]]
    kinds = [*net.activations[:layers]]
    last = np.ones((1, net.widths[layers])), np.zeros(1)
    arrays = [part for pair in zip(*kept, strict=True) for part in pair]
    return Network.mlp(*arrays, *last, activation=kinds)


def _proved(net: Network, units: Whole, starts: Array, ends: Array) -> tuple[Any, Any]:
    """Which segments are proved to cross the crease of their unit and of no other, and the signs of
    all units there ``[segments, units]``, 0 for the own one.
    """
    good, signs = np.zeros(len(units), dtype=bool), np.zeros((len(units), net.units), dtype=np.int8)
    step = max(1, ENTRIES // max(net.widths))
    for l, places in layers_of(net):
        if not net.activations[l].bends:
            continue
        prefix = up_to(net, l + 1)
        whole = np.flatnonzero((units >= places.start) & (units < places.stop))
        for at in range(0, len(whole), step):
            part = whole[at : at + step]
            own = units[part] - places.start
            good[part], signs[part] = _crossing(net, prefix, l, own, starts[part], ends[part])
    return good, signs


def _crossing(
    net: Network, prefix: Network, l: int, own: Whole, starts: Array, ends: Array
) -> tuple[Any, Any]:
    """See `_proved`, for units `own` of layer l (from 0)."""
    good, rows = np.ones(len(own), dtype=bool), np.arange(len(own))
    sides, values, errors = list[Any](), list[Array](), list[Array]()
    for points in (starts, ends):
        seen = list[Any]()
        for k, part in zip(range(l + 1), enclosed(prefix, points), strict=False):
            sure = (np.abs(part.z) > part.off) & np.isfinite(part.off)
            good &= sure.all(axis=1)
            seen.append(part.z > 0)
            if k == l:
                values.append(part.z[rows, own])
                errors.append(part.off[rows, own])
        sides.append(np.concatenate(seen, axis=1))
    differ = sides[0] != sides[1]
    at = sum(prefix.widths[1 : l + 1]) + own
    good &= differ[rows, at] & (differ.sum(axis=1) == 1)
    # The zero is at start + t (end - start), t = |z_a| / (|z_a| + |z_b|), each within its error.
    a, b = np.abs(values[0]), np.abs(values[1])
    with np.errstate(all="ignore"):
        t = a / (a + b)
        least = (a - errors[0]) / ((a - errors[0]) + (b + errors[1]))
        most = (a + errors[0]) / ((a + errors[0]) + (b - errors[1]))
        wide = np.maximum(most - t, t - least) + 2.0**-48
    good &= np.isfinite(wide)
    t, wide = np.where(good, t, 0.5), np.where(good, wide, 1.0)
    centre = starts + t[:, None] * (ends - starts)
    size = np.maximum(np.abs(starts), np.abs(ends))
    off = (np.abs(ends - starts) * wide[:, None] + 2.0**-50 * size) * (1 + 2.0**-40)
    found = []
    for _, part in zip(net.layers[:-1], enclosed(net, centre, off), strict=False):
        sure = (np.abs(part.z) > part.off) & np.isfinite(part.off)
        found.append(np.where(sure, np.sign(part.z), 0.0).astype(np.int8))
    signs = np.concatenate(found, axis=1)
    signs[rows, at] = 0
    good &= (signs != 0).sum(axis=1) == net.units - 1
    return good, signs


def _features(net: Network, signs: Any, x: Array, l: int, prime: int) -> Array:
    """What layer l (from 0) reads at points at which all units of the layers before have these
    signs, modulo a prime.
    """
    h = modular.residues(x, prime)
    for k, places in zip(range(l), (p for _, p in layers_of(net)), strict=False):
        layer = net.layers[k]
        slope = layer.activation.derivative(signs[:, places].astype(np.float64))
        weight, bias = (modular.residues(part, prime) for part in (layer.weight, layer.bias))
        z = modular.reduced(modular.times(h, weight.T, prime) + bias, prime)
        h = modular.reduced(z * modular.residues(slope, prime), prime)
    return np.asarray(h)


def _last_reads(net: Network, samples: Array, prime: int) -> Array:
    h = _features(net, signs_at(net, samples)[0], samples, len(net.layers) - 1, prime)
    return np.column_stack([h, np.ones(len(h))])


def _visible(net: Network, signs: Any, own: Whole, l: int, prime: int) -> Any:
    """Whether the outputs depend on what unit `own` of layer l sends: a combination of their
    derivatives is not 0 modulo the prime, hence not 0.
    """
    rng = np.random.default_rng(prime)
    mix = rng.integers(1, prime, (1, net.widths[-1])).astype(np.float64) - prime // 2
    slope = modular.times(mix, modular.residues(net.layers[-1].weight, prime), prime)
    slope = np.broadcast_to(slope, (len(own), slope.shape[1]))
    for k, places in reversed([*layers_of(net)][l + 1 :]):
        gate = net.activations[k].derivative(signs[:, places].astype(np.float64))
        slope = modular.reduced(slope * modular.residues(gate, prime), prime)
        slope = modular.times(slope, modular.residues(net.layers[k].weight, prime), prime)
    shown: Any = slope[np.arange(len(own)), own] != 0
    return shown


def _rows(
    net: Network, signs: Any, own: Whole, starts: Array, ends: Array, l: int, prime: int
) -> Array:
    """A multiple of (what layer l reads, 1) at each crossing, modulo the prime; 0 where it is not
    seen.
    """
    layer = net.layers[l]
    weight, bias = (modular.residues(part, prime)[own] for part in (layer.weight, layer.bias))
    reads, values = [], []
    for x in (starts, ends):
        h = _features(net, signs, x, l, prime)
        products = modular.reduced(h * weight, prime)
        values.append(modular.reduced(products.sum(axis=1) + bias, prime)[:, None])
        reads.append(np.column_stack([h, np.ones(len(h))]))
    rows = modular.reduced(values[1] * reads[0] - values[0] * reads[1], prime)
    return np.asarray(rows * _visible(net, signs, own, l, prime)[:, None])


def _rows_by_unit(found: CreasePoints, prime: int) -> Iterator[tuple[int, Array]]:
    """The rows of each unit that has segments."""
    net = found.network
    step = max(1, ENTRIES // max(net.widths))
    for l, places in layers_of(net):
        whole = np.flatnonzero((found.units >= places.start) & (found.units < places.stop))
        if not len(whole) or not net.activations[l].bends:
            continue
        rows = np.zeros((len(whole), net.widths[l] + 1))
        for at in range(0, len(whole), step):
            part = whole[at : at + step]
            own = found.units[part] - places.start
            ends = found.starts[part], found.ends[part]
            rows[at : at + step] = _rows(net, found.signs[part], own, *ends, l, prime)
        first = np.flatnonzero(np.diff(found.units[whole], prepend=-1))
        for group in np.split(np.arange(len(whole)), first[1:]):
            yield int(found.units[whole[group[0]]]), rows[group]


# Search ---------------------------------------------------------------------------------------------------------


class _Known(NamedTuple):
    """Of one unit: independent rows, and their segments."""

    rows: Array
    starts: Array
    ends: Array


def crease_points(
    net: Network, on: Box, budget: int, seed: int, progress: Progress | None = None
) -> CreasePoints:
    """Segments across creases, as many as show independent features, and smooth points.

    A line between two points at which a unit has different signs crosses its crease; where, is found
    by secants. `budget` counts units, each time lines are drawn for one, until its rank is full.
    """
    box, rng = on.of_dimension(net.widths[0]), np.random.default_rng(seed)
    prime, inputs = modular.PRIMES[0], net.widths[0]
    known: dict[int, _Known] = {}
    stale = np.zeros(net.units, dtype=np.int64)
    spent, turn = 0, 0
    while spent < budget:
        before = spent
        pool = _pool(net, box, known, turn, rng)
        signs = _plain_signs(net, pool)
        for l, places in layers_of(net):
            missing = [
                u
                for u in range(places.start, places.stop)
                if net.activations[l].bends
                and stale[u] < STALE
                and len(known[u].rows if u in known else ()) < net.widths[l]
            ][: budget - spent]
            spent += len(missing)
            for group in _groups(net, known, missing, l, turn):
                fresh = _fresh(net, box, l, places.start, group, pool, signs, rng, prime)
                for unit, _ in group:
                    gained = _keep(known, unit, fresh, prime)
                    stale[unit] = 0 if gained else stale[unit] + 1
            if progress is not None:
                have = sum(len(k.rows) for k in known.values())
                progress(spent, budget, f"{have} points on creases")
        turn += 1
        if spent == before:
            break
    units = sorted(known)
    nothing = np.zeros((0, inputs))
    return CreasePoints(
        net,
        on,
        np.repeat(np.array(units, dtype=np.int64), [len(known[u].rows) for u in units]),
        np.concatenate([nothing, *(known[u].starts for u in units)]),
        np.concatenate([nothing, *(known[u].ends for u in units)]),
        _samples(net, box, known, rng, prime),
    )


def _groups(
    net: Network, known: dict[int, _Known], missing: list[int], l: int, turn: int
) -> Iterator[list[tuple[int, int]]]:
    """Units with the number of lines to draw for each, as many as fit into memory at a time."""
    most, group, lines = max(1, ENTRIES // max(net.widths)), list[tuple[int, int]](), 0
    for unit in missing:
        need = net.widths[l] - (len(known[unit].rows) if unit in known else 0)
        count = min(most, (need + SPARE) * (1 if turn == 0 else 2) + need // 8)
        if lines + count > most:
            yield group
            group, lines = [], 0
        group.append((unit, count))
        lines += count
    if group:
        yield group


def _pool(
    net: Network, box: Box, known: dict[int, _Known], turn: int, rng: np.random.Generator
) -> Array:
    """Points at several scales, in later rounds also around creases that were found."""
    count = min(POOL, max(64, ENTRIES // max(1, net.units)))
    x = scattered(box, count, rng)
    places = np.concatenate([box.low[None][:0], *(k.starts for k in known.values())])
    if turn and len(places):
        half = count // 2
        centre = places[rng.integers(len(places), size=half)]
        scale = (box.high - box.low) * 10.0 ** -rng.uniform(0, 4, (half, 1))
        x[:half] = np.clip(centre + scale * rng.standard_normal(centre.shape), box.low, box.high)
    return x


def _plain_signs(net: Network, x: Array) -> Any:
    """Signs in floats, for the search."""
    found, h = [np.zeros((len(x), 0), dtype=bool)], x
    with np.errstate(all="ignore"):
        for layer in net.layers[:-1]:
            z = h @ layer.weight.T + layer.bias
            found.append(z > 0)
            h = np.asarray(layer.activation(z))
    return np.concatenate(found, axis=1)


class _Fresh(NamedTuple):
    """Segments that are proved, with the row of each."""

    units: Whole
    rows: Array
    starts: Array
    ends: Array


def _fresh(
    net: Network, box: Box, l: int, first: int, group: list[tuple[int, int]], pool: Array,
    signs: Any, rng: np.random.Generator, prime: int,
) -> _Fresh:  # fmt: skip
    """New segments of some units of layer l, proved and with their rows."""
    own, low, high = list[Whole](), list[Array](), list[Array]()
    for unit, count in group:
        on = signs[:, unit]
        sides = [pool[~on], pool[on]]
        for k, empty in enumerate(not len(side) for side in sides):
            if empty:
                sides[k] = _climb(net, box, l, unit - first, sides[1 - k], (-1.0, 1.0)[k])
        if len(sides[0]) and len(sides[1]):
            pick = [side[rng.integers(len(side), size=count)] for side in sides]
            own.append(np.full(count, unit - first))
            low.append(pick[0])
            high.append(pick[1])
    if not own:
        none = np.zeros((0, net.widths[0]))
        return _Fresh(np.zeros(0, dtype=np.int64), np.zeros((0, net.widths[l] + 1)), none, none)
    units, starts, ends = _narrowed(
        net, l, np.concatenate(own), np.concatenate(low), np.concatenate(high)
    )
    good, seen = _crossing(net, up_to(net, l + 1), l, units, starts, ends)
    units, starts, ends, seen = units[good], starts[good], ends[good], seen[good]
    rows = _rows(net, seen, units, starts, ends, l, prime)
    shown = rows.any(axis=1)
    return _Fresh(units[shown] + first, rows[shown], starts[shown], ends[shown])


def _keep(known: dict[int, _Known], unit: int, fresh: _Fresh, prime: int) -> bool:
    """Add the segments of a unit whose rows are independent of those known; whether there are any."""
    mine = fresh.units == unit
    if not mine.any():
        return False
    parts = [_Known(fresh.rows[mine], fresh.starts[mine], fresh.ends[mine])]
    if unit in known:
        parts.insert(0, known[unit])
    before = len(parts[0].rows) if len(parts) > 1 else 0
    rows, starts, ends = (np.concatenate(part) for part in zip(*parts, strict=True))
    kept = sorted(modular.pivots(rows, prime)[0])
    known[unit] = _Known(rows[kept], starts[kept], ends[kept])
    return len(kept) > before


def _values(net: Network, l: int, own: Whole, x: Array) -> Array:
    """Pre-activations of one unit of layer l each, at points, in floats."""
    h = x
    for layer in net.layers[:l]:
        h = np.asarray(layer.activation(h @ layer.weight.T + layer.bias))
    layer = net.layers[l]
    return np.asarray(np.einsum("ij,ij->i", h, layer.weight[own]) + layer.bias[own])


@np.errstate(all="ignore")
def _narrowed(
    net: Network, l: int, own: Whole, low: Array, high: Array
) -> tuple[Whole, Array, Array]:
    """Short segments around a zero of a unit on the way from a point where it is negative to one
    where it is positive: by secants with one end weighed down (Illinois), and halving.
    """
    a, b = np.zeros(len(own)), np.ones(len(own))
    fa, fb = _values(net, l, own, low), _values(net, l, own, high)
    step, live = high - low, np.flatnonzero((fa < 0) & (fb > 0))
    side = np.zeros(len(own), dtype=np.int8)
    for turn in range(STEPS):
        secant = a[live] - fa[live] * (b[live] - a[live]) / (fb[live] - fa[live])
        middle = (a[live] + b[live]) / 2
        inside = (secant > a[live]) & (secant < b[live]) & (turn % 4 != 3)
        t = np.where(inside, secant, middle)
        f = _values(net, l, own[live], low[live] + t[:, None] * step[live])
        up, down = live[f > 0], live[f <= 0]
        fa[up] = np.where(side[up] == 1, fa[up] / 2, fa[up])
        fb[down] = np.where(side[down] == -1, fb[down] / 2, fb[down])
        b[up], fb[up], side[up] = t[f > 0], f[f > 0], 1
        a[down], fa[down], side[down] = t[f <= 0], f[f <= 0], -1
        live = live[(b[live] - a[live] > NEAR / 8) & (f != 0)]
        if not len(live):
            break
    found = (fa <= 0) & (fb >= 0)
    t, step, low, own = ((a + b) / 2)[found], step[found], low[found], own[found]
    before, after = np.maximum(t - NEAR, 0.0), np.minimum(t + NEAR, 1.0)
    # Between the points of a box; a float rounded beyond its sides is put back.
    least, most = np.minimum(low, low + step), np.maximum(low, low + step)
    ends = [np.clip(low + part[:, None] * step, least, most) for part in (before, after)]
    return own, ends[0], ends[1]


def _climb(net: Network, box: Box, l: int, unit: int, points: Array, side: float) -> Array:
    """Points at which a unit has a sign that no point of the pool shows: uphill, to a corner of the
    box or part of the way, as far as that goes.
    """
    own = np.full(1, unit)
    if not len(points):
        return points
    value = side * _values(net, l, np.full(len(points), unit), points)
    x = points[int(np.argmax(value))]
    best = float(value.max())
    for _ in range(8):
        slope = side * _slope(net, l, unit, x)
        corner = np.where(slope > 0, box.high, np.where(slope < 0, box.low, x))
        parts = x + np.array([1.0, 0.3, 0.1, 0.01])[:, None] * (corner - x)
        parts = np.clip(parts, box.low, box.high)
        values = side * _values(net, l, np.repeat(own, len(parts)), parts)
        k = int(np.argmax(values))
        if not values[k] > best:
            break
        x, best = parts[k], float(values[k])
        if best > 0:
            return np.asarray(x[None])
    return points[:0]


def _slope(net: Network, l: int, unit: int, x: Array) -> Array:
    """The gradient of a unit's pre-activation."""
    zs, h = [], x
    for layer in net.layers[:l]:
        zs.append(layer.weight @ h + layer.bias)
        h = np.asarray(layer.activation(zs[-1]))
    row = net.layers[l].weight[unit]
    for layer, z in zip(net.layers[l - 1 :: -1] if l else (), reversed(zs), strict=True):
        row = (row * layer.activation.derivative(z)) @ layer.weight
    return np.asarray(row)


def _samples(
    net: Network, box: Box, known: dict[int, _Known], rng: np.random.Generator, prime: int
) -> Array:
    """Smooth points at which what the last layer reads is independent, as many as are found."""
    parts = [scattered(box, 2 * net.widths[-2] + 64, rng)]
    parts += [k.starts[:4] for k in known.values()]
    x = np.concatenate(parts)
    most = max(1, ENTRIES // max(net.widths))
    x = x[rng.permutation(len(x))[:most]]
    x = np.asarray(x[signs_at(net, x)[1].all(axis=1)])
    return np.asarray(x[sorted(modular.pivots(_last_reads(net, x, prime), prime)[0])])
