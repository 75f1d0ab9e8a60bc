"""Paths of one function: piecewise linear, through equivalent parameters of one hidden layer
(Farrugia-Roberts 2023).

A segment keeps the function if its ends are equivalent and every unit keeps its row (weights and
bias) or is blank (zero outgoing weights) at both ends: then the function is affine along it. So two
kinds are enough: *load* changes outgoing weights at fixed rows, *move* changes rows of blank units.
With rank r and r <= h/2, seven segments: load one carrier per class; move blank units to where they
end, spare ones to copies of rows whose last carrier is still in use; load those; move the rest;
load the last carriers; move the spares; load the target. With fewer blank units the classes walk
one after another through the holes. Irreducible parameters (r = h) are isolated from all others:
there is no path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from moduli.common.exact_values import evaluate, exact_arrays
from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.kernel import arithmetic, fields
from moduli.kernel.errors import CertificateRejected, ShapeError, Undecided, UnsupportedModel
from moduli.kernel.exact_numbers import (
    Array,
    Constant,
    ExactArray,
    Number,
    above,
    bounded,
    enclose,
    linear,
    value,
)
from moduli.kernel.network import Layer, Network, rebuilt
from moduli.kernel.slack import difference

SCHEMA = "moduli.path/1"
Vector = tuple[Fraction, ...]
Key = tuple[float, ...]


@dataclass(frozen=True)
class Knot:
    """A parameter on the way.

    Attributes:
        rows: for every unit the unit whose row it has: 0 to h - 1 of the first network, h to 2h - 1
            of the second.
        out: exact outgoing weights of every unit. The output bias follows from the function.
    """

    rows: tuple[int, ...]
    out: tuple[Vector, ...]


class _Pair:
    """Two networks of one shape: their rows side by side, what a row is a copy of, and constants."""

    def __init__(self, a: Network, b: Network) -> None:
        if len(a.layers) != 2 or len(b.layers) != 2:
            raise ShapeError(f"paths join networks with one hidden layer, not {a} and {b}")
        if a.widths != b.widths or a.activations != b.activations or a.output_map != b.output_map:
            raise ShapeError(f"paths join networks of one shape and activation, not {a} and {b}")
        self.a, self.b, self.h = a, b, a.widths[1]
        self.activation = a.activations[0]
        self.flip, self.offset = self.activation.turned
        self.signed = self.activation.symmetric
        rows = (
            np.concatenate(
                [np.column_stack([n.layers[0].weight, n.layers[0].bias]) for n in (a, b)]
            )
            + 0.0
        )
        self.rows: list[Key] = [tuple(row) for row in rows.tolist()]
        seen: dict[Key, int] = {}
        self.label = [
            seen.setdefault(row, k) for k, row in enumerate(self.rows)
        ]  # equal rows, equal labels
        keyed = [self._key(row) for row in self.rows]
        self.key, self.sign = [k for k, _ in keyed], [s for _, s in keyed]

    def _key(self, row: Key) -> tuple[Key | None, int]:
        """The class of a row (None where the unit is constant) and whether it is mirrored."""
        first = next((x for x in row[:-1] if x), 0.0)
        if first == 0:
            return None, 1
        return (tuple(0.0 - x for x in row), -1) if self.signed and first < 0 else (row, 1)

    def start(self, second: bool) -> Knot:
        net = self.b if second else self.a
        out = tuple(tuple(map(Fraction, column)) for column in net.layers[1].weight.T.tolist())
        return Knot(tuple(self.label[second * self.h : (second + 1) * self.h]), out)

    def sums(self, knot: Knot) -> dict[Key, Vector]:
        """Outgoing weights of every class, added up; zero sums left out."""
        total: dict[Key, Vector] = {}
        for row, column in zip(knot.rows, knot.out, strict=True):
            key = self.key[row]
            if key is not None and any(column):
                factor = self.flip if self.sign[row] < 0 else 1
                before = total.get(key, (Fraction(0),) * len(column))
                total[key] = tuple(
                    bounded(x + factor * y) for x, y in zip(before, column, strict=True)
                )
        return {key: column for key, column in total.items() if any(column)}

    def constants(self, knot: Knot, k: int) -> Number:
        """What units add to output k whatever the input: constant ones, and the offsets of mirrored
        ones.
        """
        terms: list[tuple[Fraction, Number]] = []
        for row, column in zip(knot.rows, knot.out, strict=True):
            if self.key[row] is None and column[k]:
                terms.append((column[k], value(self.activation, Fraction(self.rows[row][-1]))))
            elif self.sign[row] < 0:
                terms.append((column[k], Fraction(self.offset)))
        return linear(terms)

    def base(self, second: bool) -> list[Number]:
        """The constant part of a network's function, per output."""
        knot, bias = self.start(second), (self.b if second else self.a).layers[1].bias.tolist()
        return [
            linear([(Fraction(1), Fraction(d)), (Fraction(1), self.constants(knot, k))])
            for k, d in enumerate(bias)
        ]

    def arrays(self, knot: Knot) -> list[tuple[ExactArray, ExactArray]]:
        """Exact weights and biases of a knot."""
        rows = np.array([self.rows[r] for r in knot.rows]).reshape(self.h, -1)
        m = self.a.widths[2]
        weight, bias = ExactArray(np.zeros((m, self.h))), ExactArray(np.zeros(m))
        for u, column in enumerate(knot.out):
            for k, x in enumerate(column):
                weight.put((k, u), x)
        for k, total in enumerate(self.base(False)):
            bias.put((k,), linear([(Fraction(1), total), (Fraction(-1), self.constants(knot, k))]))
        return [(ExactArray(rows[:, :-1]), ExactArray(rows[:, -1])), (weight, bias)]

    def network(self, knot: Knot) -> Network:
        """A knot, outgoing weights and output bias rounded once."""
        (w, b), (v, d) = self.arrays(knot)
        if not (np.isfinite(v.hi).all() and np.isfinite(d.hi).all()):
            raise UnsupportedModel(
                "a knot's outgoing weight or bias exceeds the range of float64; rescale the outputs first"
            )
        return self.a.with_layers(
            [Layer(w.hi, b.hi, self.activation), Layer(v.hi, d.hi, self.a.layers[1].activation)]
        )

    def differ(self) -> str | None:
        """Why the functions are not seen to be the same, or None."""
        one, two = (self.sums(self.start(second)) for second in (False, True))
        for unit, key in enumerate(self.key):
            if key is not None and one.get(key) != two.get(key):
                net, u = ("b", unit - self.h) if unit >= self.h else ("a", unit)
                up_to = " or opposite" if self.signed else ""
                return f"outgoing weights of rows equal{up_to} to that of unit {u} of {net} have different sums in a and b"
        for k, (p, q) in enumerate(zip(self.base(False), self.base(True), strict=True)):
            if p != q:
                return f"the constant parts of output {k} differ"
        return None

    def proved_different(self) -> bool:
        """Whether the functions surely differ: by independence of the classes, by their constants,
        or at an input.
        """
        if self.activation.minimal:
            if self.sums(self.start(False)) != self.sums(self.start(True)):
                return True
            pairs = zip(self.base(False), self.base(True), strict=True)
            return any(
                self._nonzero(linear([(Fraction(1), p), (Fraction(-1), q)])) for p, q in pairs
            )
        x = np.random.default_rng(0).integers(-64, 65, (64, self.a.widths[0])) / 16.0
        with np.errstate(all="ignore"):
            off = np.nan_to_num(np.abs(self.a.logits(x) - self.b.logits(x))).max(axis=1)
        at = list(map(Fraction, x[int(off.argmax())].tolist()))
        ends = zip(evaluate(self.a, at), evaluate(self.b, at), strict=True)
        return any(p[1] < q[0] or q[1] < p[0] for p, q in ends)

    def _nonzero(self, gap: Number) -> bool:
        """Whether a constant is proved not to be zero: by its enclosure, or because no unit reaches
        its bounds.
        """
        low, high = enclose(gap)
        if low > 0 or high < 0:
            return True
        if (
            not isinstance(gap, Constant)
            or self.activation.bound is None
            or not self.activation.injective
        ):
            return False
        middle, coefficients = self.offset / 2, [c for _, c in gap.atoms]
        reach = sum(map(abs, coefficients), Fraction(0)) * (self.activation.bound - abs(middle))
        return abs(gap.rational + middle * sum(coefficients, Fraction(0))) >= reach


@dataclass(frozen=True)
class PathCertificate:
    """Knots between two networks, by digest; checked in exact arithmetic, without search."""

    a: str
    b: str
    knots: tuple[Knot, ...]

    def verify(self, a: Network, b: Network) -> None:
        """Check that all knots compute one function and that it does not change along any segment.

        Raises:
            CertificateRejected: naming the knot or segment.
            Undecided: this process does not compute as IEEE 754 asks (see `arithmetic`).
        """
        arithmetic.require_everywhere()
        with fields.made_by_hand("path"):
            claim = PathCertificate._of(self.plain())
        with fields.made_by_hand("network"):
            a, b = rebuilt(a), rebuilt(b)
        claim._verify(a, b)

    def _verify(self, a: Network, b: Network) -> None:
        for digest, net in ((self.a, a), (self.b, b)):
            if net.digest != digest:
                raise CertificateRejected(
                    f"a network has digest {net.digest}; the path is about {digest}"
                )
        pair = _Pair(a, b)
        if why := pair.differ():
            raise CertificateRejected(f"the ends: {why}")
        if (
            not self.knots
            or self.knots[0] != pair.start(False)
            or self.knots[-1] != pair.start(True)
        ):
            raise CertificateRejected("the path does not begin and end at the two networks")
        wanted = pair.sums(self.knots[0])
        for k, knot in enumerate(self.knots):
            if (
                len(knot.rows) != pair.h
                or len(knot.out) != pair.h
                or not all(0 <= r < 2 * pair.h for r in knot.rows)
            ):
                raise CertificateRejected(
                    f"knot {k} does not have {pair.h} units with rows of the two networks"
                )
            if any(len(column) != a.widths[2] for column in knot.out):
                raise CertificateRejected(
                    f"knot {k}: a unit does not have {a.widths[2]} outgoing weights"
                )
            if pair.sums(knot) != wanted:
                raise CertificateRejected(f"knot {k} computes another function")
        for k, (one, two) in enumerate(pairwise(self.knots)):
            for u in range(pair.h):
                if one.rows[u] != two.rows[u] and (any(one.out[u]) or any(two.out[u])):
                    raise CertificateRejected(
                        f"segment {k} moves unit {u}, which is not blank at both ends"
                    )

    def plain(self) -> dict[str, Any]:
        """Its fields, for `from_json` to read again: numbers as they are."""
        knots = [{"rows": knot.rows, "out": knot.out} for knot in self.knots]
        return {"schema": SCHEMA, "a": self.a, "b": self.b, "knots": knots}

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = fields.jsonable(self.plain())
        return found

    @staticmethod
    def from_json(text: str | bytes) -> PathCertificate:
        """Read what `to_json` gives; nothing else is accepted.

        Raises:
            CertificateRejected: naming the knot that is none.
        """
        return fields.read_json(text, PathCertificate._of)

    @staticmethod
    def _of(data: Any) -> PathCertificate:
        read = fields.record(data, ("schema", "a", "b", "knots"), f"a path of schema {SCHEMA}")
        if fields.text(read["schema"], "schema") != SCHEMA:
            raise CertificateRejected(f"not a path of schema {SCHEMA} but of {read['schema']}")
        knots = tuple(_knot(k, knot) for k, knot in enumerate(fields.items(read["knots"], "knots")))
        return PathCertificate(fields.text(read["a"], "a"), fields.text(read["b"], "b"), knots)


def _knot(k: int, data: Any) -> Knot:
    """A knot; the length of numbers is limited before they are made."""
    read = fields.record(data, ("rows", "out"), f"knot {k}")
    rows = tuple(fields.indices(read["rows"], f"rows of knot {k}").tolist())
    out: list[Vector] = []
    for column in fields.items(read["out"], f"out of knot {k}"):
        numbers = fields.items(column, f"a column of knot {k}")
        out.append(tuple(fields.rational(x, f"a number of knot {k}") for x in numbers))
    return Knot(rows, tuple(out))


@dataclass(frozen=True, eq=False, repr=False)
class Path(Result):
    """A piecewise linear path of parameters that all compute one function.

    Attributes:
        a, b: its ends. proof: exact knots; `certificate` is another name.
    """

    a: Network
    b: Network
    proof: PathCertificate
    kind: ClassVar[str] = "path"

    @property
    def certificate(self) -> PathCertificate:  # type: ignore[override]
        return self.proof

    @cached_property
    def knots(self) -> list[Network]:
        """The corners, ends included; inner ones with outgoing weights and output bias rounded
        once, see `slack`.
        """
        pair = _Pair(self.a, self.b)
        return [self.a, *(pair.network(knot) for knot in self.proof.knots[1:-1]), self.b][
            : len(self.proof.knots)
        ]

    @property
    def segments(self) -> int:
        return len(self.proof.knots) - 1

    @cached_property
    def slack(self) -> float:
        """Certified sup over all inputs (inf where it grows) of what rounding a knot does to the
        function.
        """
        pair = _Pair(self.a, self.b)
        found = (
            difference(pair.arrays(k), exact_arrays(net), net.activations)
            for k, net in zip(self.proof.knots, self.knots, strict=True)
        )
        return max(s.everywhere for s in found)

    def check(self) -> bool:
        self.proof.verify(self.a, self.b)
        return True

    @property
    def statement(self) -> str:
        return f"{self.segments} segments along which the function does not change"

    def rows(self) -> list[tuple[str, str]]:
        steps = [
            (f"segment {k + 1}", _kind(*ends)) for k, ends in enumerate(pairwise(self.proof.knots))
        ]
        return [
            ("from", repr(self.a)),
            ("to", repr(self.b)),
            *steps,
            ("knots as floats", f"<= {above(self.slack, 2)} off"),
        ]

    def data(self) -> dict[str, Any]:
        return {
            "a": self.a.digest,
            "b": self.b.digest,
            "segments": self.segments,
            "slack": self.slack,
        }

    def plot_data(self, *, on: Any = None, seed: int = 0) -> dict[str, Any]:
        """The path in a plane of parameter space, and how much the function changes along it and
        along the straight line.

        Args:
            on: ``[batch, in]`` inputs; by default 256 standard normal ones.
        """
        x = (
            np.random.default_rng(seed).standard_normal((256, self.a.widths[0]))
            if on is None
            else np.asarray(on, dtype=float)
        )
        theta = np.stack([net.flat() for net in self.knots])
        first = theta[-1] - theta[0]
        first = first / max(float(np.linalg.norm(first)), 1e-300)
        rest = theta - theta[0] - np.outer((theta - theta[0]) @ first, first)
        second = np.linalg.svd(rest, full_matrices=False)[2][0]
        steps = np.linspace(0.0, 1.0, 16)
        ends = list(pairwise(theta)) or [(theta[0], theta[0])]
        along = np.concatenate([np.outer(1 - steps, p) + np.outer(steps, q) for p, q in ends])
        straight = np.outer(1 - steps, theta[0]) + np.outer(steps, theta[-1])
        return {
            "knots": (theta - theta[0]) @ np.stack([first, second], axis=1),
            "position": np.concatenate([k + steps for k in range(len(ends))]),
            "change": self._changes(along, x), "straight_position": steps * self.segments,
            "straight_change": self._changes(straight, x),
        }  # fmt: skip

    def _changes(self, thetas: Array, x: Array) -> Array:
        start = self.a.logits(x)
        return np.array(
            [np.abs(self.a.with_flat(theta).logits(x) - start).max() for theta in thetas]
        )

    def plot(self, ax: Any = None) -> Any:
        """The path in a plane of parameter space (left), the change of the function along it
        (right); returns both axes.
        """
        from moduli.common.figures import path_figure

        return path_figure(self.plot_data(), ax)


def _kind(one: Knot, two: Knot) -> str:
    moved = sum(p != q for p, q in zip(one.rows, two.rows, strict=True))
    if moved:
        return f"move {moved} blank units"
    return f"load: {sum(p != q for p, q in zip(one.out, two.out, strict=True))} units change outgoing weights"


def path(a: Network, b: Network, *, progress: Progress | None = None) -> Path | None:
    """A path from a to b through parameters of the same function; None where the function isolates
    them.

    With r the rank and h the hidden units: at most seven segments if r <= h/2, else at most 2 (r +
    cycles + 1), where cycles count classes that only change places among themselves (an active unit
    that only changes sign is one). Constant units do not count as they are loaded into the output
    bias, which may then be no rational number. If r = h the parameters of the function are
    isolated: None, unless a and b are the same.

    Raises:
        ShapeError: not one hidden layer each, or different shapes. ValueError: different functions.
        Undecided: not seen to be the same, or no path found, by an activation whose laws are not
            all known here.

    >>> a = Network.mlp([[1.0], [2.0]], [0.0, 0.0], [[1.0, 0.0]], [0.0])
    >>> b = Network.mlp([[2.0], [-1.0]], [0.0, 0.0], [[0.0, -1.0]], [0.0])
    >>> found = path(a, b)
    >>> found.segments, found.check(), found.knots[0] == a, found.knots[-1] == b
    (3, True, True, True)
    """
    pair = _Pair(a, b)
    if why := pair.differ():
        if pair.proved_different():
            raise ValueError(f"not the same function: {why}")
        raise Undecided(
            f"{why}; with {pair.activation} the functions may be the same nevertheless, by laws not used here"
        )
    knots = _Walk(pair, progress).knots()
    if knots is None and not pair.activation.minimal:
        raise Undecided(
            f"no blank unit to move through; with {pair.activation} there may be a path by laws not used here"
        )
    return (
        None
        if knots is None
        else Path("proved", a, b, PathCertificate(a.digest, b.digest, tuple(knots)))
    )


class _Walk:
    """Where every unit is, and which unit carries each class, on the way from a to b."""

    def __init__(self, pair: _Pair, progress: Progress | None = None) -> None:
        self.pair, self.h, self.progress = pair, pair.h, progress
        first, last = pair.start(False), pair.start(True)
        self.first, self.last, self.sums = first, last, pair.sums(first)
        self.rows = list(first.rows)
        self.found = [first]
        self.home, self.goal = self._carriers()
        self.at = dict(self.home)

    def _carriers(self) -> tuple[dict[Key, int], dict[Key, int]]:
        """A unit of each class at the start and one at the end, different units as far as possible.

        A unit whose row is the same at both ends serves for both: it need not move.
        """
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import maximum_bipartite_matching

        pair, classes = self.pair, list(self.sums)
        home: dict[Key, int] = {}
        goal: dict[Key, int] = {}
        members = (
            _by_key(pair.key[: self.h]),
            _by_key(pair.key[self.h :]),
        )  # of each class, at the start and at the end
        # Who keeps its row carries its class all the way: the proof needs no segment for it.
        for key in classes:
            still = [u for u in members[0][key] if self.first.rows[u] == self.last.rows[u]]
            if still:
                home[key] = goal[key] = still[0]
        # Carriers at the start and at the end want to be different units: then every goal is blank
        # once the first load is done, and the seven segments do. Two slots (start, end) a class,
        # matched to units; one unit for two slots is no fault, only another step: the class that
        # waits for it steps aside (`_step`).
        taken = set(home.values())
        slots = [(side, key) for key in classes if key not in home for side in (0, 1)]
        if not slots:
            return home, goal
        options = list[list[int]]()
        for side, key in slots:
            units = members[side][key]
            options.append([u for u in units if u not in taken] or units)
        row = np.repeat(np.arange(len(slots)), [len(units) for units in options])
        graph = csr_matrix(
            (np.ones(len(row)), (row, np.concatenate(options))), shape=(len(slots), self.h)
        )
        match = maximum_bipartite_matching(graph, perm_type="column")
        for (side, key), units, unit in zip(slots, options, match.tolist(), strict=True):
            carriers = goal if side else home
            carriers[key] = unit if unit >= 0 else units[0]  # no unit of its own: share one
        return home, goal

    def knots(self) -> list[Knot] | None:
        if self.first.rows == self.last.rows:  # only outgoing weights differ: one load
            return _shortened([self.first, self.last])
        if len(self.sums) == self.h:  # irreducible: no unit is ever blank, so no row can move
            return None
        self._load()  # first segment: one carrier a class, all other units blank
        while left := [key for key in self.sums if not self._there(key)]:
            if self.progress is not None:
                self.progress(len(self.sums) - len(left), len(self.sums), "classes in place")
            self._step()
        # Every class is where it ends: all other units are blank, their rows free to go, and the
        # target can be loaded.
        self._move(dict(enumerate(self.last.rows)))
        self.found.append(self.last)
        return _shortened(self.found)

    def _there(self, key: Key) -> bool:
        unit = self.goal[key]
        return self.at[key] == unit and self.rows[unit] == self.last.rows[unit]

    def _step(self) -> None:
        """Move blank units to where they end, or to copies for classes whose last carrier is in
        use; load what that allows.
        """
        busy = set(self.at.values())
        blank = [u for u in range(self.h) if u not in busy]
        waiting = {self.goal[key]: key for key in self.sums if not self._there(key)}
        # A blank unit computes nothing, so its row may go to where it ends. If that is a class's
        # last carrier, the class goes home with the load that follows.
        moves = {u: self.last.rows[u] for u in blank}
        shift = {waiting[u]: u for u in blank if u in waiting}
        # Classes whose last carrier another class still uses: copied into blank units nobody waits
        # for, they make way.
        blocked = [key for unit, key in waiting.items() if unit in busy]
        spare = [u for u in blank if u not in waiting]
        if len(spare) >= len(blocked):
            aside = blocked  # room for all of them: the seven segments of the proof (r <= h / 2)
        elif shift:
            aside = []  # some class gets home anyway and leaves a hole: the others follow through it, a step each
        else:
            aside = blocked[
                : len(spare)
            ]  # classes only change places among themselves: break a cycle with what room is left
        for key, unit in zip(aside, spare, strict=False):
            moves[unit] = self.rows[self.at[key]]
            shift[key] = unit
        self._move(moves)
        self.at |= shift
        self._load()

    def _move(self, rows: dict[int, int]) -> None:
        """A segment on which blank units change rows; outgoing weights stay."""
        for unit, row in rows.items():
            self.rows[unit] = row
        self.found.append(Knot(tuple(self.rows), self.found[-1].out))

    def _load(self) -> None:
        """A segment on which outgoing weights change at fixed rows, until each class has just the
        carrier in `at`.
        """
        zero = (Fraction(0),) * self.pair.a.widths[2]
        out = [zero] * self.h
        for key, unit in self.at.items():
            mirrored = self.pair.sign[self.rows[unit]] < 0  # flip is 1 or -1, so its own inverse
            factor = self.pair.flip if mirrored else 1
            out[unit] = tuple(factor * x for x in self.sums[key])
        self.found.append(Knot(tuple(self.rows), tuple(out)))


def _by_key(keys: Sequence[Key | None]) -> dict[Key | None, list[int]]:
    """The units of each class, in order."""
    found: dict[Key | None, list[int]] = {}
    for unit, key in enumerate(keys):
        found.setdefault(key, []).append(unit)
    return found


def _shortened(knots: list[Knot]) -> list[Knot]:
    """Without knots whose neighbours one segment joins as well."""
    kept = knots[:1]
    for knot in knots[1:]:
        while len(kept) > 1 and _straight(kept[-2], knot):
            kept.pop()
        if knot != kept[-1]:
            kept.append(knot)
    return kept


def _straight(one: Knot, two: Knot) -> bool:
    """The segment rule: every unit keeps its row, or is blank at both ends."""
    units = zip(one.rows, two.rows, one.out, two.out, strict=True)
    return all(p == q or not (any(x) or any(y)) for p, q, x, y in units)
