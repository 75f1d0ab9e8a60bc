"""Boxes of inputs against what the kernel says of the tensors of a graph on them.

Graphs are those of `graph_fuzz`, some with stored numbers from the least floats to the largest. On
boxes of all kinds

- every value of every tensor lies within the bounds of its slices, constants are what they are said
  to be, and multiples are multiples: at corners and inside, and where slices are pushed against
  their bounds uphill, entry by entry of the inputs (a trial: a graph, a box, a slice);
- what `compress` makes of the graph on the box is what the graph is, up to the slack, there too, and
  the certificate holds.

Values are those of `onnx.reference` in 64 bits. What they say against the kernel is looked at again
at the same inputs: in rationals, without any allowance, where all that makes a tensor is rational;
else in 80 bits, where the allowance is what 64 bits were off, much reduced.

    python -m tests.adversarial.graph_box_fuzz --seed S --count N [--findings FOLDER]
"""

from __future__ import annotations

import collections
import math
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

import graph_fuzz as fuzz
import many_seeds
from any_numbers import DOUBLE, LONG, RATIONAL, Array, Runner, Values, exact, numbered
from graph_fuzz import Case, Skipped, Wrong, guarded
from many_seeds import FINDING, Ending

from moduli.compression.exact.reduce_source import reduce_source
from moduli.compression.graph_results import compress, ranges_of
from moduli.formats.onnx.graph_files import read_graph
from moduli.kernel.box import Box
from moduli.kernel.graph.certificate import GraphCertificate
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.slices import ONE
from moduli.kernel.slack import Slack

Rng = np.random.Generator
Ranges = dict[str, tuple[Any, Any]]
ROWS = 40  # inputs at once, where a graph takes any number of samples
TRIALS = 14  # of a graph and a box
EPSILONS = (0.0, 0.0, 2.0**-6, 1.0, 16.0, 256.0)  # that compression is asked for
VARIANCE = 4  # its place among what a BatchNormalization reads


# Boxes ----------------------------------------------------------------------------------------------------------


@dataclass
class Region:
    """Inputs that are allowed, and where in them to look.

    Attributes:
        ranges: what the kernel is told. box: the same for `compress`, where it is a `Box`.
        shapes: of the inputs, with one sample where there may be any number (`many`).
        low, high: of all entries of all inputs in a row, finite also where the ranges are not.
    """

    kind: str
    ranges: Ranges
    box: Box | None
    shapes: dict[str, tuple[int, ...]]
    many: bool
    low: Array
    high: Array

    def feeds(self, points: Array) -> Values:
        """Points ``[rows, entries]`` as inputs, one behind the other along their first axis."""
        found, at = {}, 0
        for name, shape in self.shapes.items():
            part = points[:, at : at + math.prod(shape)]
            found[name] = part.reshape(len(points) * shape[0], *shape[1:])
            at += math.prod(shape)
        return found


def regions(rng: Rng, case: Case, model: Any, loud: bool) -> Iterator[Region]:
    """Boxes of all kinds; `loud` ones have ends of any size."""
    ends = {end.name: end for end in case.model.graph.input if end.name in case.shapes}
    many = all(not end.type.tensor_type.shape.dim[0].dim_value for end in ends.values())
    for kind in rng.choice(KINDS, 3, replace=False, p=CHANCES):
        ranges, box = ranged(rng, str(kind), case, model, many, loud)
        shapes = {n: (1, *shape[1:]) if many else shape for n, shape in case.shapes.items()}
        lows, highs = [], []
        for name, shape in shapes.items():
            wide = float(rng.choice([2.0, 16.0, 1024.0]))
            given = ranges.get(name, (np.array(-wide), np.array(wide)))
            low, high = (np.broadcast_to(x, shape) for x in given)
            lows.append(np.where(np.isfinite(low), low, np.minimum(high, 0) - wide).ravel())
            highs.append(np.where(np.isfinite(high), high, np.maximum(low, 0) + wide).ravel())
        yield Region(
            str(kind), ranges, box, shapes, many, np.concatenate(lows), np.concatenate(highs)
        )


KINDS = ("none", "number", "channels", "full", "named", "broadcast", "half")
CHANCES = (0.1, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1)


def ranged(
    rng: Rng, kind: str, case: Case, model: Any, many: bool, loud: bool
) -> tuple[Ranges, Box | None]:
    def channels(shape: Sequence[int]) -> tuple[int, ...]:
        return (shape[1],) if len(shape) > 1 else ()

    if kind == "none":
        return {}, None
    if kind in ("broadcast", "half"):  # what the kernel takes and no `Box` says
        ranges: Ranges = {}
        for name, shape in case.shapes.items():
            sizes = [
                1 if (k == 0 and many) or rng.random() < 0.5 else n for k, n in enumerate(shape)
            ]
            low, high = pair(rng, sizes[int(rng.integers(len(sizes) + 1)) :], loud)
            if kind == "half":
                low, high = (
                    (low, np.full((), np.inf))
                    if rng.random() < 0.5
                    else (np.full((), -np.inf), high)
                )
            elif rng.random() < 0.3 and (low.min(initial=0) <= high).all():
                low = np.asarray(low.min(initial=0))  # ends of different shapes
            ranges[name] = low, high
        return ranges, None
    if kind == "named":
        names = [name for name in case.shapes if rng.random() < 0.6] or list(case.shapes)[:1]
        parts = {}
        for name in names:
            shape = case.shapes[name]
            own = [(), channels(shape), tuple(shape[1:])][int(rng.integers(3))]
            parts[name] = pair(rng, own, loud)
        box = Box(parts)
    else:
        shapes = {
            {"number": (), "channels": channels(s), "full": tuple(s[1:])}[kind]
            for s in case.shapes.values()
        }
        box = Box(*pair(rng, shapes.pop() if len(shapes) == 1 else (), loud))
    return dict(ranges_of(model, box)), box


def pair(rng: Rng, shape: Sequence[int], loud: bool) -> tuple[Array, Array]:
    """Ends of a box: small multiples of powers of two mostly, so that sums of them are exact."""
    size = tuple(shape)
    scale = 2.0 ** rng.choice([0, 0, 0, 0, -3, 3, -20, 20, -40, 40])
    if loud:
        scale = 2.0 ** float(rng.integers(-1060, 1000))
    a, b = np.sort(rng.integers(-16, 17, (2, *size)), axis=0) / 8.0
    way = rng.choice(["any", "around", "up", "down", "point", "thin", "some points", *["real"] * 3])
    if way == "around":
        a, b = -np.abs(a) - 0.125, np.abs(b) + 0.125
    elif way == "up":  # from zero, or above it
        a, b = np.abs(a) * (rng.random() < 0.5), np.abs(a) + np.abs(b)
    elif way == "down":
        a, b = -np.abs(a) - np.abs(b), -np.abs(a) * (rng.random() < 0.5)
    elif way == "point":
        b = a
    elif way == "thin":
        b = a + 2.0 ** -float(rng.choice([10, 30, 44]))
    elif way == "some points":
        b = np.where(rng.random(size) < 0.5, a, b)
    elif way == "real":
        a, b = np.sort(rng.normal(size=(2, *size)), axis=0)
    with np.errstate(all="ignore"):
        return np.asarray(a * scale), np.asarray(b * scale)


def points(rng: Rng, region: Region, count: int) -> Array:
    """Corners, insides, points near zero, and mixtures."""
    low, high = region.low, region.high
    size = (count, len(low))
    zero = np.clip(0.0, low, high)
    with np.errstate(all="ignore"):
        step = high / 8 - low / 8
        grid = np.clip(low + step * rng.integers(0, 9, size), low, high)
        inside = np.clip(low + (high - low) * rng.random(size), low, high)
    inside = np.where(np.isfinite(inside), inside, grid)
    corner = np.where(rng.random(size) < rng.choice([0.1, 0.5, 0.9], (count, 1)), low, high)
    tables = np.stack(
        [
            corner,
            grid,
            inside,
            np.broadcast_to(zero, size),
            np.where(rng.random(size) < 0.5, zero, corner),
        ]
    )
    way = rng.choice(5, count, p=[0.35, 0.2, 0.2, 0.05, 0.2])
    return np.asarray(tables[way, np.arange(count)])


# What is said ---------------------------------------------------------------------------------------------------


@dataclass
class Claim:
    """What is known along an axis of a tensor.

    Attributes:
        fixed: indices of constant slices, and their values.
    """

    name: str
    axis: int
    low: Array
    high: Array
    fixed: dict[int, Fraction]

    def slices(self, values: Values) -> Array:
        x = values[self.name]
        return np.moveaxis(x.astype(DOUBLE) if x.dtype.kind in "iub" else x, self.axis, 0)

    def __str__(self) -> str:
        return f"{self.name} along {self.axis}"


class Claims:
    """All that is known of what nodes give, as far as it says anything.

    Attributes:
        alike: slices of one class: where they are, and their ratios.
    """

    def __init__(self, known: Known) -> None:
        self.each = list[Claim]()
        self.alike = list[list[tuple[Claim, int, Fraction]]]()
        classes = dict[int, list[tuple[Claim, int, Fraction]]]()
        for (name, axis), facts in known.found.items():
            if known.array(name) is not None or not len(facts):
                continue
            claim = Claim(name, axis, facts.low, facts.high, {})
            for i, (kind, ratio) in enumerate(
                zip(facts.classes.tolist(), facts.ratios, strict=True)
            ):
                if kind == ONE or ratio == 0:
                    claim.fixed[i] = ratio
                else:
                    classes.setdefault(kind, []).append((claim, i, ratio))
            if claim.fixed or np.isfinite(claim.low).any() or np.isfinite(claim.high).any():
                self.each.append(claim)
        self.alike = [group for group in classes.values() if len(group) > 1]

    def broken(
        self, values: Values, room: Callable[[str], Any], names: set[str], near: float = 0
    ) -> Iterator[tuple[str, str, str]]:
        """What values of some tensors are against: a kind, the tensor, and what is seen.

        Args:
            room: how far values may be off. near: constants and multiples, in parts of themselves.
        """
        for claim in self.each:
            if claim.name not in names:
                continue
            slices = claim.slices(values)
            if not slices.size:
                continue
            rows = slices.reshape(len(slices), -1)
            if len(rows) != len(claim.low):
                yield "facts", claim.name, f"{claim}: {len(claim.low)} slices of {len(rows)}"
                continue
            off = room(claim.name)
            least, most = rows.min(axis=1) + off, rows.max(axis=1) - off
            out = np.asarray((least < claim.low) | (most > claim.high), dtype=bool)
            for i in np.flatnonzero(out).tolist():
                said = f"said {claim.low[i]!r} to {claim.high[i]!r}"
                seen = f"{rows[i].min()!r} to {rows[i].max()!r}"
                yield "bounds", claim.name, f"{claim}, {i}: {seen}, {said}"
            for i, value in claim.fixed.items():
                wanted = numbered(value, rows.dtype)
                if np.asarray(np.abs(rows[i] - wanted)).max() > off + near * abs(wanted):
                    yield "constant", claim.name, f"{claim}, {i}: {rows[i][:4]}, said {value}"
        for group in self.alike:
            there = [part for part in group if part[0].name in names]
            for other in there[1:]:
                yield from alike(there[0], other, values, room, near)

    def count(self, values: Values) -> tuple[int, int]:
        """How many slices, and how many of their entries, are compared with anything."""
        sizes = [values[c.name].size for c in self.each if c.name in values]
        slices = [len(c.low) for c in self.each if c.name in values]
        groups = [len(group) - 1 for group in self.alike]
        return sum(slices) + sum(groups), sum(sizes)


def alike(
    first: Any, other: Any, values: Values, room: Callable[[str], Any], near: float
) -> Iterator[tuple[str, str, str]]:
    """Two slices that are multiples of one tensor."""
    (a, i, r), (b, j, q) = first, other
    x, y = (np.asarray(c.slices(values)[k]) for c, k in ((a, i), (b, j)))
    if x.shape != y.shape or not x.size:
        return  # one of them is repeated along an axis
    factor = numbered(q / r, x.dtype)
    largest = np.asarray(np.abs(y)).max() if near else 0
    off = room(a.name) * abs(factor) + room(b.name) + near * largest
    if np.asarray(np.abs(y - x * factor)).max() > off:
        seen = f"{y.ravel()[:4]}, {x.ravel()[:4]}"
        yield "multiple", b.name, f"{b}, {j} is not {q / r} times {a}, {i}: {seen}"


# Trials ---------------------------------------------------------------------------------------------------------


def sound(runner: Runner, values: Values) -> set[str]:
    """Tensors that are made of numbers alone: of others nothing is said."""
    bad = {n for n, x in values.items() if x.dtype.kind == "f" and not np.isfinite(x).all()}
    return {n for n in values if bad.isdisjoint(runner.above(n))} - runner.rough


def judged(runner: Runner, claims: Claims, feeds: Values, said: collections.Counter[str]) -> None:
    """Look at all claims at some inputs as closely as can be.

    Raises:
        Wrong: one does not hold.
    """
    said["judged"] += 1
    fractions = runner.run(feeds, RATIONAL)
    clear = {n for n, x in fractions.items() if x.dtype == RATIONAL} - runner.rough
    for kind, _, what in claims.broken(fractions, lambda name: 0, clear):
        raise Wrong(kind, f"{what} (in rationals)")
    long = runner.run(feeds, LONG)
    left = sound(runner, long) - clear
    short = runner.run(feeds, DOUBLE) if runner.first == DOUBLE else {}
    for kind, name, what in claims.broken(
        long, lambda name: allowed(runner, name, long, short), left
    ):
        if runner.unsteady(name):
            said["unsure"] += 1
        else:
            raise Wrong(kind, f"{what} (of 80 bits)")


def allowed(runner: Runner, name: str, long: Values, short: Values) -> Any:
    """What 80 bits may be off: 64 bits are off by 2^11 times as much, or by luck by less. Some operators
    have numbers of 64 bits in them.
    """
    above = [long[n] for n in runner.above(name) if n in long and long[n].dtype == LONG]
    largest = max((np.abs(x).max(initial=0) for x in above), default=LONG.type(0))
    if name not in short:
        return largest * 2.0**-40
    seen = np.abs(np.asarray(long[name], LONG) - np.asarray(short[name], LONG)).max(initial=0)
    return seen * 2.0**-6 + largest * (2.0**-58 if name in runner.plain else 2.0**-46)


Scores = Callable[[Array], Array]  # of points [rows, entries], one for each


def climbed(rng: Rng, region: Region, scores: Scores, start: Array) -> tuple[Array, float]:
    """A point uphill of another one, and its score."""
    low, high = region.low, region.high
    free = np.flatnonzero(high > low)
    best, score = start, float(scores(start[None])[0])
    if not np.isfinite(score):
        return best, score

    def look(tried: Array) -> Array:
        nonlocal best, score
        if not len(tried):
            return np.zeros(0)
        found = scores(tried)
        at = int(found.argmax())
        if found[at] > score:
            best, score = tried[at], float(found[at])
        return found

    for _ in range(2):
        some = rng.permutation(free)[:ROWS]
        base = best
        moves = [(k, end) for k in some.tolist() for end in {low[k], high[k]} - {base[k]}]
        tried = np.repeat(base[None], len(moves), axis=0)
        for row, (k, end) in zip(tried, moves, strict=True):
            row[k] = end
        before = score
        gains = look(tried) - before
        order = [i for i in np.argsort(gains).tolist() if gains[i] > 0]
        if not order:
            break
        unions = []
        for count in sorted({2, 4, len(order) // 2, len(order)} - {0, 1}):
            union = base.copy()
            for i in order[-count:]:  # the best last: of two ends of an entry it stays
                union[moves[i][0]] = moves[i][1]
            unions.append(union)
        look(np.array(unions))
    for near in (False, True):  # elsewhere in the box, and close by
        mask = rng.random((ROWS, len(low))) < rng.choice([0.1, 0.3, 0.7], (ROWS, 1))
        with np.errstate(all="ignore"):
            step = (high - low) * rng.normal(size=mask.shape) * rng.choice([0.2, 0.02], (ROWS, 1))
        beside = np.where(np.isfinite(step), np.clip(best + step, low, high), best)
        look(np.where(mask, beside if near else points(rng, region, ROWS), best))
    return best, score


def one_by_one(runner: Runner, region: Region, name: str, tried: Array) -> list[Array | None]:
    """A value at each of some points: of all at once, where these do not mix."""
    wanted = runner.above(name)
    if len(tried) > 1 and runner.parts.get(name, True):
        x = runner.run(region.feeds(tried), wanted=wanted).get(name)
        if x is not None and x.ndim and len(x) % len(tried) == 0:
            found = list(x.reshape(len(tried), len(x) // len(tried), *x.shape[1:]))
            if name not in runner.parts:
                (alone,) = one_by_one(runner, region, name, tried[:1])
                same = alone is not None and alone.shape == found[0].shape
                runner.parts[name] = same and np.allclose(alone, found[0], equal_nan=True)
            if runner.parts[name]:
                return found
    return [runner.run(region.feeds(point[None]), wanted=wanted).get(name) for point in tried]


def slice_scores(runner: Runner, region: Region, claim: Claim, i: int, sign: int) -> Scores:
    """The largest entry of a slice at each point, or the smallest negated."""

    def score(x: Array | None) -> float:
        if x is None:
            return -np.inf
        found = (np.moveaxis(x, claim.axis, 0)[i] * sign).max(initial=-np.inf)
        with np.errstate(over="ignore"):
            return float(found) if np.isfinite(float(found)) else -np.inf

    def scores(tried: Array) -> Array:
        return np.array([score(x) for x in one_by_one(runner, region, claim.name, tried)])

    return scores


def attacked(
    rng: Rng,
    runner: Runner,
    claims: Claims,
    region: Region,
    seen: Array,
    said: collections.Counter[str],
) -> None:
    """Push slices against their bounds."""
    there = sound(runner, runner.run(region.feeds(seen[:1])))
    targets = [
        (claim, i, sign)
        for claim in claims.each
        if claim.name in there and claim.name in runner.makers
        for i in range(len(claim.low))
        if i not in claim.fixed
        for sign in [s for s, end in ((-1, claim.low[i]), (1, claim.high[i])) if np.isfinite(end)]
    ]
    done, turns = set[tuple[str, int, int]](), collections.Counter[str]()
    order = [targets[k] for k in rng.permutation(len(targets)).tolist()]
    places = []
    for target in order:  # tensor by tensor in turn, whatever their sizes are
        turns[target[0].name] += 1
        places.append(turns[target[0].name])
    for k in np.argsort(places, kind="stable").tolist():
        claim, i, sign = order[k]
        if len(done) >= TRIALS or (claim.name, claim.axis, i) in done:
            continue
        done.add((claim.name, claim.axis, i))
        said["trials"] += 1
        scores = slice_scores(runner, region, claim, i, sign)
        best, _ = climbed(rng, region, scores, seen[int(scores(seen).argmax())])
        score = float(scores(best[None])[0])  # alone, as it may have been one of many
        if not np.isfinite(score):
            continue
        gap = float(sign * (claim.high[i] if sign > 0 else claim.low[i])) - score
        said["attained"] += gap <= 1e-9 * abs(score)
        feeds = region.feeds(best[None])
        values = runner.run(feeds, wanted=runner.above(claim.name))
        largest = max(float(np.abs(x).max(initial=0)) for x in values.values())
        if gap < 0 or (gap <= 2.0**-46 * largest and rng.random() < 0.35):
            judged(runner, claims, feeds, said)


def sampled(
    rng: Rng, runner: Runner, claims: Claims, region: Region, said: collections.Counter[str]
) -> Array:
    """Hold all claims against values at random points, which are given back."""
    seen = points(rng, region, ROWS)
    for part in [seen, *seen[:3, None]] if region.many else seen[:8, None]:
        feeds = region.feeds(part)
        values = runner.run(feeds)
        there = sound(runner, values)
        slices, entries = claims.count({n: values[n] for n in there})
        said["slices"] = max(said["slices"], slices)
        said["values"] += entries
        if not any(claims.broken(values, lambda name: 0, there, 2.0**-48)):
            continue
        for point in part[:, None]:
            feeds = region.feeds(point)
            values = runner.run(feeds)
            if any(claims.broken(values, lambda name: 0, sound(runner, values), 2.0**-48)):
                judged(runner, claims, feeds, said)
                break
        else:
            judged(runner, claims, region.feeds(part), said)
    return seen


# Smaller graphs -------------------------------------------------------------------------------------------------


def compressed(
    rng: Rng, case: Case, graph: Any, runner: Runner, region: Region, seen: Array, said: collections.Counter[str]
) -> None:  # fmt: skip
    """What a graph becomes on a box is what it is there."""
    eps = float(rng.choice(EPSILONS)) if region.box else 0.0
    result = None
    if region.box or not region.ranges:
        try:
            result = guarded("compress", lambda: compress(graph, region.box, 300, None, eps=eps))
        except Wrong as error:
            # its second look at the files takes roundings of large numbers for faults: ours decides
            if "does not understand" not in error.what:
                raise
            said["refused by a second look"] += 1
    if result is not None:
        guarded("check", result.check)
        proof, small = result.proof, result.network
    else:
        found = guarded(
            "search", lambda: reduce_source(graph, ranges=region.ranges, budget=300, eps=eps)
        )
        small, moves, slack = found.graph, tuple(found.found.rounds), found.found.slack
        proof = GraphCertificate(graph.digest, small.digest, moves, region.ranges, slack)
    if region.kind != "half":  # files hold no infinite ends
        proof = guarded("text", lambda: GraphCertificate.from_json(fuzz.as_text(proof)))
    guarded("certificate", lambda: proof.verify(small.model, graph.model))
    if eps and not proof.slack.everywhere <= eps:
        raise Wrong("slack", f"{proof.slack} of {eps}")
    if not proof.rounds:
        return
    said["compressed"] += 1
    said["with slack"] += proof.slack.constant + proof.slack.growth > 0
    pair = Pair(runner, Runner(fuzz.saved(small), runner.first), proof.slack)
    scores = pair.scores(region)
    worst = scores(seen)
    starts = [seen[int(worst.argmax())]]
    if proof.slack.constant + proof.slack.growth > 0:
        for start in (starts[0], seen[int(rng.integers(len(seen)))]):
            said["trials"] += 1
            starts.append(climbed(rng, region, scores, start)[0])
    for point in starts:
        pair.judge(region.feeds(point[None]), said)


@dataclass
class Pair:
    """A model and a smaller one, outputs of which may be apart by a slack."""

    large: Runner
    small: Runner
    slack: Slack

    def gaps(self, feeds: Values, dtype: Any = None) -> Iterator[tuple[str, Array]]:
        """By how much outputs are apart, as far as they are known."""
        pairs = [(runner, runner.run(feeds, dtype)) for runner in (self.large, self.small)]
        there = set.intersection(*(sound(*pair) for pair in pairs)) - self.large.rough
        for name in self.large.outputs:
            if name in there:
                a, b = (np.asarray(values[name]) for _, values in pairs)
                if a.shape != b.shape:
                    raise Wrong("shape", f"{name}: {a.shape} is {b.shape}")
                if a.dtype.kind not in "iub":
                    yield name, np.asarray(np.abs(a - b))

    def scores(self, region: Region) -> Scores:
        def scores(tried: Array) -> Array:
            room = [self.slack.within(float(np.abs(x).max())) for x in tried]
            found = np.full(len(tried), -np.inf)
            for _, gap in self.gaps(region.feeds(tried)):
                if gap.ndim and gap.size and len(gap) % len(tried) == 0:
                    found = np.maximum(found, gap.reshape(len(tried), -1).max(axis=1) - room)
            with np.errstate(over="ignore"):
                return found.astype(DOUBLE)

        return scores

    def judge(self, feeds: Values, said: collections.Counter[str]) -> None:
        """Compare at one point, in rationals where that can be."""
        said["outputs judged"] += 1
        reach = max(
            (exact(np.abs(x).max()) for x in feeds.values() if x.size), default=exact(np.zeros(()))
        )
        room = Fraction(self.slack.constant) + Fraction(self.slack.growth) * reach.item()
        clear = set[str]()
        for name, gap in self.gaps(feeds, RATIONAL):
            clear.add(name)
            if gap.size and gap.max() > room:
                raise Wrong(
                    "outputs", f"{name}: by {float(gap.max())} of {float(room)} (in rationals)"
                )
        long = [runner.run(feeds, LONG) for runner in (self.large, self.small)]
        first = self.large.first == DOUBLE
        short = [runner.run(feeds, DOUBLE) if first else {} for runner in (self.large, self.small)]
        for name, gap in self.gaps(feeds, LONG):
            if name in clear or not gap.size:
                continue
            off = sum(
                allowed(runner, name, *values)
                for runner, *values in zip((self.large, self.small), long, short, strict=True)
            )
            if gap.max() <= numbered(room, LONG) + off:
                continue
            if self.large.unsteady(name):
                said["unsure"] += 1
                continue
            raise Wrong(
                "outputs", f"{name}: by {gap.max()} of {float(room)} and {off} (of 80 bits)"
            )


# Many -----------------------------------------------------------------------------------------------------------


SHORT = (
    "conv", "conv_transposed", "dense", "dense_left", "batch_norm", "clip", "prelu", "with_numbers", "with_value",
    "several", "pool", "pool_all", "reduction", "pad", "resize", "concat", "split", "slice_", "gather", "transpose",
    "reshape", "flatten", "ones", "repeated", "depth_to_space", "moved_difference", "shuffle", "with_numbers",
    "with_value", "with_value", *["unary"] * 8,
)  # fmt: skip
BOUNDED = (
    "Relu", "LeakyRelu", "Abs", "Neg", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Softsign", "Sin", "Sigmoid", "Exp",
    "Softplus", "Sqrt", "Gelu", "Mish",
)  # fmt: skip


class Even(fuzz.Planted):
    """What is seldom in other graphs is as often as the rest."""

    def weighted(self, table: Any) -> Any:
        if table is fuzz.UNARY:
            return self.pick(BOUNDED)
        return self.pick(table) if isinstance(next(iter(table)), str) else super().weighted(table)


def short(seed: int) -> Case | None:
    """A graph of a few steps, of which each rule is looked at by itself."""
    g = Even(np.random.default_rng([seed, 1]))
    body = g.pick(fuzz.SHAPES[g.pick((1, 2, 3, 3, 4))])
    shape = body if g.batch is None else (g.rows, *body)
    for name in ("x", "z"):
        g.values[name] = np.asarray(g.dyadic(shape), dtype=np.float32)
        dims = ["N" if g.batch == 0 else shape[0], *shape[1:]]
        g.declared[name] = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
    if g.chance(0.4):  # what compression is about
        layer = "conv" if len(shape) > 2 and g.chance(0.7) else "dense"
        wanted = [layer, g.pick(("unary", "unary", "clip", "batch_norm", "with_numbers")), layer]
    else:
        wanted = [g.pick(SHORT) for _ in range(g.integer(1, 2))]
    x, done = "x", []
    for name in wanted:
        for _ in range(4):
            mark = g.mark()
            try:
                x = g.settled(fuzz.STEPS[name][1](g, x))
            except fuzz.Rejected:
                g.back(mark)
                continue
            done.append(name)
            break
    if x in g.declared or g.is_constant(x):
        return None
    model = g.model([x])
    dims = [f"{x}_{k}" for k in range(g.rank(x))]
    kind = fuzz.onnx_builder.kind_of(g.value(x).dtype)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(x, kind, dims))
    sizes = {name: array.shape for name, array in g.values.items()}
    return Case(model, {}, {name: shape for name in ("x", "z")}, tuple(done), sizes)


def stretched(rng: Rng, case: Case, loud: bool) -> Case:
    """The same with stored numbers that are multiples of no small power of two; of `loud` ones, of
    all sizes that 64 bits hold.
    """
    model = type(case.model)()
    model.CopyFrom(fuzz.retyped(case.model, "float64") if loud else case.model)
    fixed = {
        n for node in model.graph.node if node.op_type in ("Resize", "Upsample") for n in node.input
    }
    fixed |= {n.input[VARIANCE] for n in model.graph.node if n.op_type == "BatchNormalization"}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind != "f" or tensor.name in fixed:
            continue
        factor = 1.0 if rng.random() < 0.5 else float(rng.uniform(0.5, 1.0))
        power = int(rng.choice([0, 0, 0, -30, 30, -300, 300, -500, 500, -900, 900, -1050]))
        if loud and array.dtype == DOUBLE:
            factor = math.ldexp(factor, power)
        tensor.CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), tensor.name))
    return Case(model, {}, case.shapes, case.steps, case.sizes, True)


def checked(case: Case, seed: int) -> collections.Counter[str]:
    """Everything that has to hold of a case; what was done.

    Raises:
        Wrong: something does not.
    """
    rng = np.random.default_rng(seed)
    said = collections.Counter[str]()
    loud = bool(rng.random() < 0.15)
    if loud or rng.random() < 0.3:
        case = stretched(rng, case, loud)
    runner = Runner(case.model, LONG if loud else DOUBLE)
    shapes = runner.run({name: np.zeros(shape) for name, shape in case.shapes.items()})
    for name, value in shapes.items():
        if case.sizes.get(name, value.shape) != value.shape:
            raise Skipped("the reference gives another shape than onnxruntime")
    graph = guarded(
        "read", lambda: read_graph(case.model.SerializeToString(), None, "random", fuzz.no_chain)
    )
    said["graphs"] += 1
    for k, region in enumerate(regions(rng, case, graph.model, loud)):
        said["boxes"] += 1
        said[f"boxes: {region.kind}"] += 1
        mine = collections.Counter[str]()
        try:
            claims = Claims(Known(graph.model, region.ranges))
            seen = sampled(rng, runner, claims, region, mine)
            attacked(rng, runner, claims, region, seen, mine)
            compressed(rng, case, graph, runner, region, seen, mine)
        except Wrong as error:
            raise Wrong(error.kind, f"box {k} ({region.kind}): {error.what}") from error
        said.update(mine)
    return said


def tried(seed: int) -> Ending:
    """How one seed ends."""
    case = None
    try:
        case = short(seed) if seed % 2 else fuzz.make(seed)
        if case is None:
            return Ending("none")
        return Ending("passed", done=checked(case, seed))
    except Skipped as error:
        return Ending("skipped", str(error))
    except Wrong as error:
        kind, what = error.kind, error.what
    except Exception:  # those of the library are findings, and those of this file faults
        kind, what = "escapes", traceback.format_exc()
    return Ending(FINDING + kind, f"{what} {case and case.steps}", case and case.model)


def run(seeds: Iterable[int], findings: Path | None = None) -> collections.Counter[str]:
    return many_seeds.run(tried, seeds, findings)


if __name__ == "__main__":
    raise SystemExit(many_seeds.main(__doc__, 1000, run))
