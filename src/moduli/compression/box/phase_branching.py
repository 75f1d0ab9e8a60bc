"""Cases by branching on signs of hidden units, many parts at a time: the search. What it proposes,
`sign_splits` checks.

On each part the bound that `sign_splits.upper` computes is a function of multipliers, concave where
it proves: steps along its gradients come close to what a linear program finds [Xu et al. 2021, Wang
et al. 2021], for all parts of a batch at once, and parts start from the multipliers of the part
that was split. Told apart next are the signs of the unit whose chord costs the bound most. Only a
part with nothing left to tell apart is solved as a linear program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.bounds.input_splits import by_layer, ends_of
from moduli.kernel.bounds.propagation import Propagation
from moduli.kernel.bounds.relaxations import beside
from moduli.kernel.bounds.sign_splits import (
    Case,
    Multipliers,
    SplitLeaf,
    objective_network,
    propagate,
    upper,
    with_sign,
)
from moduli.kernel.box import Box
from moduli.kernel.network import Network

from . import linear_programs
from .linear_programs import BOXES, PRODUCTS, refutes

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Signs = np.ndarray[Any, np.dtype[np.int8]]
BATCH = 128  # parts bounded at a time
ENTRIES = 2**20  # numbers of a layer in all parts of a batch
STEPS = 30, 10  # along gradients: on the whole box, and on a part of a part
RATE = 0.5, 0.2  # of what a multiplier may be, in the first of these steps
DECAY = 0.9  # of the rate, with each step
MEAN = 0.7, 0.3  # of gradients: what the mean keeps with each step, and what the step adds
MEAN_OF_SQUARES = 0.95, 0.05
DIGITS = 3  # of multipliers, where so few do
EARLY = 512  # boxes before which little can be said of what a case will need
REACH = 8  # times a limit that the rest may seem to need


class Attempt(NamedTuple):
    """What became of a claim.

    Attributes:
        case: a proof, or None. parts, programs: how many were bounded, and solved, this time.
        spent: as how many boxes of a small network all that counts. points: inputs at which bounds
            were largest ``[points, inputs]``.
        share: of the box that is settled, a split halving it.
        rest: the search, for `prove` to go on with; None once it has ended.
    """

    case: Case | None
    parts: int
    programs: int
    spent: int
    points: Array
    share: float
    rest: Search | None


class Part(NamedTuple):
    """A part that waits: its place in the tree, its depth, the signs that hold there, multipliers
    to begin with.
    """

    place: int
    depth: int
    signs: Signs
    multipliers: Array


class Bounded(NamedTuple):
    """A batch of parts, bounded.

    Attributes:
        top: upper bounds, computed in floats. multipliers: of all hidden units ``[parts, units]``.
        used: where the bounds depend on them.
        at: the inputs where the bounds are attained. cost: what the chord of each unit adds to the
            bound, -1 where its sign is known.
    """

    top: Array
    multipliers: Array
    used: Mask
    at: Array
    cost: Array


def prove(search: Search, limit: int, most: int | None = None) -> Attempt:
    """Try to prove a `sign_splits.Case`: go on with a search, which is updated.

    Args:
        limit: boxes of a small network that all parts may count as; the last batch may go beyond.
        most: where the attempt is cut off: until then it does what it does without.

    >>> net = Network.mlp([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0]], [-1.5], [[1.0]], [0.0], activation="relu")
    >>> found = prove(Search(net, Box([-1.0], [1.0]), np.zeros(3, dtype=np.int8), 2, 0, -1), 100)
    >>> found.case.layer, found.case.unit, found.case.sign
    (2, 0, -1)
    """
    most = search.spent + (limit if most is None else min(limit, most))
    before = search.parts, search.programs, search.spent
    limit += search.spent
    with np.errstate(all="ignore"):
        while search.going and search.spent < most and search.hopeful(limit):
            search.step(limit, most)
    return search.attempt(*before)


class Search:
    """A tree of parts that grows until all are settled, or one cannot be."""

    def __init__(
        self, net: Network, box: Box, known: Signs, layer: int, unit: int, sign: int
    ) -> None:
        self.target, self.box = objective_network(net, layer, unit, sign), box
        self.claim = layer, unit, sign, -1
        ends = ends_of(net)
        self.known = known[: ends[layer - 1]].copy()
        start = self.known.copy()
        self.tree: list[tuple[int, int]] = [(-1, -1)]
        self.leaves = dict[int, SplitLeaf]()
        self.waiting = [Part(0, 0, start, np.full(len(start), np.nan))]
        self.points, self.share = [np.zeros((0, len(box.low)))], 0.0
        self.parts, self.programs, self.spent = 0, 0, 0
        self.size = sum(x.weight.size for x in self.target.layers)
        self.batch = max(1, min(BATCH, ENTRIES // max(self.target.widths)))
        self.failed = False

    @property
    def going(self) -> bool:
        """Whether parts wait, and none has failed."""
        return bool(self.waiting) and not self.failed

    def hopeful(self, limit: int) -> bool:
        """Whether so much may be enough, judged by what a quarter of it settled."""
        return self.spent < max(EARLY, limit // 4) or self.share * limit * REACH >= self.spent

    def step(self, limit: int, most: int) -> None:
        """Bound the next parts, split those that are not settled; the more promising half later,
        hence sooner taken.
        """
        each = max(1, self.spent // max(1, len(self.tree)))
        count = max(1, min(self.batch, (limit - self.spent) // each, (most - self.spent) // each))
        parts = self.waiting[-count:]
        del self.waiting[-count:]
        signs = np.array([part.signs for part in parts])
        found = propagate(self.target, self.box, signs)
        settled = upper(self.target, found, signs) <= 0
        for at in np.flatnonzero(settled).tolist():
            self.leaves[parts[at].place] = ((), ())
        later = parts[0].depth > 0
        steps = STEPS[later]
        if not settled.all():
            start = np.array([part.multipliers for part in parts])
            done = _ascend(self.target, found, signs, start, steps, RATE[later])
            self._settle(parts, found, signs, settled, done)
        self.share += sum(2.0 ** -parts[at].depth for at in np.flatnonzero(settled).tolist())
        products = found.products + 2 * steps * len(parts) * self.size
        self.parts += len(parts)
        self.spent += max(len(parts), products // PRODUCTS)

    def _settle(
        self, parts: list[Part], found: Propagation, signs: Signs, settled: Mask, done: Bounded
    ) -> None:
        """Leaves where multipliers prove the bound; all other parts are split, unless one refutes it."""
        for numbers in (_short(done.multipliers), done.multipliers):
            given = done.used & np.isfinite(numbers)
            some = ~settled & (done.top <= 0)
            if not some.any():
                break
            tops = upper(
                self.target, found, signs, Multipliers(np.where(given, numbers, 0.0), given)
            )
            for at in np.flatnonzero(some & (tops <= 0)).tolist():
                units = np.flatnonzero(given[at])
                self.leaves[parts[at].place] = (
                    tuple(units.tolist()), tuple(numbers[at, units].tolist()),
                )  # fmt: skip
                settled[at] = True
        left = np.flatnonzero(~settled)
        self.points.append(done.at[left[:1]])
        for at in left.tolist():
            if refutes(self.target, done.at[at], -1):
                self.points.append(done.at[at][None])
                self.failed = True
                return
        for at in left[np.argsort(-done.top[left], kind="stable")].tolist():
            self._split(parts[at], at, done, settled)
            if self.failed:
                return

    def _split(self, part: Part, at: int, done: Bounded, settled: Mask) -> None:
        unit = int(np.argmax(done.cost[at]))
        if not done.cost[at, unit] >= 0:
            self._solve(part, at, settled)
            return
        place = len(self.tree)
        self.tree[part.place] = (unit, place)
        self.tree += [(-1, -1)] * 2
        numbers = done.multipliers[at].copy()
        numbers[unit] = np.nan
        self.waiting += [
            Part(place + k, part.depth + 1, with_sign(part.signs, unit, sign), numbers)
            for k, sign in enumerate((-1, 1))
        ]

    def _solve(self, part: Part, at: int, settled: Mask) -> None:
        """All signs are told apart: the program is exact."""
        signs = part.signs[None]
        found = propagate(self.target, self.box, signs)
        best, price = linear_programs.optimum(self.target, self.box, found, signs)
        self.programs, self.spent = self.programs + 1, self.spent + BOXES * price
        leaf = None if best is None else linear_programs.leaf_of(self.target, found, signs, best)
        if best is not None:
            self.points.append(best.at[None])
        if leaf is None:
            self.failed = True
        else:
            self.leaves[part.place] = leaf
            settled[at] = True

    def attempt(self, parts: int, programs: int, spent: int) -> Attempt:
        """What was found since so much was spent."""
        case = None
        if not (self.waiting or self.failed):
            tree, leaves, stack = list[int](), list[SplitLeaf](), [0]
            while stack:
                at = stack.pop()
                unit, place = self.tree[at]
                tree.append(unit)
                if unit >= 0:
                    stack += [place + 1, place]
                else:
                    leaves.append(self.leaves[at])
            case = Case(*self.claim, tuple(tree), tuple(leaves))
        points = np.concatenate(self.points)
        self.points = [points[:0]]
        return Attempt(
            case, self.parts - parts, self.programs - programs, self.spent - spent, points, self.share,
            self if self.going else None,
        )  # fmt: skip


def _short(numbers: Array) -> Array:
    """Numbers in few decimal digits, each the float next to these."""
    exponent = np.clip(DIGITS - 1 - np.floor(np.log10(np.abs(numbers))), -22, 22)
    exponent = np.where(np.isfinite(exponent), exponent, 0.0)
    power = 10.0 ** np.abs(exponent)
    whole = np.round(np.where(exponent >= 0, numbers * power, numbers / power))
    return np.where(exponent >= 0, whole / power, whole * power)


# Steps along gradients ---------------------------------------------------------------------------


class _Lines(NamedTuple):
    """Of the activations of a layer, ``[parts, units]``: lines above and below, where one of them
    is free, and the signs that are supposed.
    """

    above: tuple[Array, Array]
    below: tuple[Array, Array]
    free: Mask
    rising: bool
    ends: tuple[float, float]
    signs: Array

    @property
    def usual(self) -> Array:
        """The slope of the line that is free, where nothing is known to be better."""
        return self.above[0] if self.rising else self.below[0]


class _Pass(NamedTuple):
    """Bounds for some multipliers, their gradients, where they are attained, and the coefficients
    of activations.
    """

    top: Array
    gradients: list[Array]
    at: Array
    rows: list[Array]
    chosen: list[Mask]

    def take(self, other: _Pass, parts: Mask) -> None:
        """All but gradients of some parts, in place."""
        self.top[parts], self.at[parts] = other.top[parts], other.at[parts]
        for mine, theirs in zip(self.rows, other.rows, strict=True):
            mine[parts] = theirs[parts]
        for own, chosen in zip(self.chosen, other.chosen, strict=True):
            own[parts] = chosen[parts]


def _lines(target: Network, found: Propagation, signs: Signs) -> list[_Lines]:
    out, every = list[_Lines](), by_layer(target, signs, axis=1)
    for layer, (lo, hi), own, r in zip(
        target.layers, found.bounds, every, found.relaxations, strict=False
    ):
        right, left = beside(layer.activation)
        free = (lo < 0) & (hi > 0) & (right != left)
        ends = min(right, left), max(right, left)
        out.append(
            _Lines(
                (r.upper_slope, r.upper_offset), (r.lower_slope, r.lower_offset), free,
                right < left, ends, own.astype(np.float64),
            )
        )  # fmt: skip
    return out


def _pass(target: Network, found: Propagation, lines: list[_Lines], numbers: list[Array]) -> _Pass:
    last, parts = target.layers[-1], len(found.low)
    a, c = np.repeat(last.weight, parts, axis=0), np.full(parts, last.bias[0])
    rows, chosen, steps = [a] * len(lines), list[Mask](), list[tuple[Array, Array]]()
    for k in reversed(range(len(lines))):
        of, layer, m, up = lines[k], target.layers[k], numbers[k], a > 0
        own = of.free & (up == of.rising)
        slope = np.where(own, m, np.where(up, of.above[0], of.below[0]))
        offset = np.where(own, 0.0, np.where(up, of.above[1], of.below[1]))
        on_z = a * slope + np.where(of.signs != 0, of.signs * m, 0.0)
        c = c + on_z @ layer.bias + np.einsum("ij,ij->i", a, offset)
        rows[k], a = a, on_z @ layer.weight
        chosen.insert(0, own)
        steps.insert(0, (slope, offset))
    at = np.where(a > 0, found.high, found.low)
    h, gradients = at, list[Array]()
    for of, layer, row, own, (slope, offset) in zip(
        lines, target.layers, rows, chosen, steps, strict=False
    ):
        z = h @ layer.weight.T + layer.bias
        gradients.append(np.where(own, row * z, 0.0) + of.signs * z)
        h = slope * z + offset
    return _Pass(c + np.einsum("ij,ij->i", a, at), gradients, at, rows, chosen)


class _Momentum:
    """Steps of sizes that fit each multiplier of a layer [Kingma and Ba 2015].

    Args:
        scale: what a multiplier may be. rate: what share of that the first step takes.
    """

    def __init__(self, multipliers: Array, scale: Array | float, rate: float) -> None:
        self.scale, self.rate = scale, rate
        self.mean, self.squares = np.zeros_like(multipliers), np.zeros_like(multipliers)

    def step(self, t: int, gradient: Array) -> Array:
        """The t-th one, from 1."""
        g = np.nan_to_num(gradient * self.scale)
        self.mean = MEAN[0] * self.mean + MEAN[1] * g
        self.squares = MEAN_OF_SQUARES[0] * self.squares + MEAN_OF_SQUARES[1] * g * g
        size = np.sqrt(self.squares / (1 - MEAN_OF_SQUARES[0] ** t)) + 1e-300
        rate = self.rate * DECAY ** (t - 1)
        return np.asarray(rate * self.scale * self.mean / (1 - MEAN[0] ** t) / size)


def _ascend(
    target: Network, found: Propagation, signs: Signs, start: Array, steps: int, rate: float
) -> Bounded:
    """Steps with momentum; the best of all passes is kept, part by part."""
    lines = _lines(target, found, signs)
    numbers = list[Array]()
    for of, m in zip(lines, by_layer(target, start, axis=1), strict=True):
        usual = np.where(of.signs != 0, 0.0, of.usual)
        numbers.append(np.where(np.isnan(m), usual, m))
    best = _pass(target, found, lines, numbers)
    kept = [m.copy() for m in numbers]
    momenta = list[_Momentum]()
    for of, m, row in zip(lines, numbers, best.rows, strict=True):
        largest = np.abs(row).max(axis=1, keepdims=True, initial=0.0)
        momenta.append(_Momentum(m, np.where(of.signs != 0, largest, 1.0), rate))
    gradients = best.gradients
    for t in range(1, steps):
        for k, (of, gradient) in enumerate(zip(lines, gradients, strict=True)):
            moved = numbers[k] - momenta[k].step(t, gradient)
            numbers[k] = np.where(of.signs != 0, np.maximum(moved, 0.0), np.clip(moved, *of.ends))
        now = _pass(target, found, lines, numbers)
        gradients, better = now.gradients, now.top < best.top
        best.take(now, better)
        for mine, new in zip(kept, numbers, strict=True):
            mine[better] = new[better]
        if (best.top < 0).all():
            break
    return _bounded(lines, best, kept)


def _bounded(lines: list[_Lines], best: _Pass, multipliers: list[Array]) -> Bounded:
    used, cost = list[Mask](), list[Array]()
    for of, row, own, m in zip(lines, best.rows, best.chosen, multipliers, strict=True):
        used.append(np.where(of.signs != 0, m > 0, own & (m != of.usual)))
        chord = of.below if of.rising else of.above
        price = np.where((row > 0) != of.rising, row * chord[1], 0.0)
        cost.append(np.where(of.free & (of.signs == 0), np.maximum(price, 0.0), -1.0))
    none = np.zeros((len(best.top), 0))  # of networks without hidden layers
    return Bounded(
        best.top, np.concatenate([*multipliers, none], axis=1),
        np.concatenate([*used, none.astype(bool)], axis=1), best.at,
        np.concatenate([*cost, none], axis=1),
    )  # fmt: skip
