"""Move one checkpoint onto another, and say how far they are the same: a disguised copy, a relative, or neither."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from moduli.common.checkpoint import Array, Checkpoint, Stored
from moduli.common.progress import Progress
from moduli.common.result import TableResult, counted
from moduli.kernel.errors import CertificateRejected, ShapeError

from .checkpoint_axes import Decoder
from .checkpoint_form import differing
from .checkpoint_matching import Found, Pair, log_chance
from .checkpoint_moves import Agreement, Element, bare, compare, exact, require_laws, written

RELATED = math.log(1e-9)  # below it, chance is not what recognised the units


class Part(NamedTuple):
    """What is found of a part of a checkpoint.

    Attributes:
        name: of the part. units: of one set, or 0. recognised: pairs of them that two halves of their
            numbers match alike; chance recognises about one. numbers: stored. equal: just the same after moving.
            within: the same but for four roundings. before, after: norm of the difference over that of b.
    """

    name: str
    units: int
    recognised: int
    numbers: int
    equal: int
    within: int
    before: float
    after: float


@dataclass(frozen=True, eq=False, repr=False)
class CheckpointAlignment(TableResult):
    """One checkpoint moved onto another of the same architecture, and what that shows.

    It is about stored tensors under the architecture that `equivalence.checkpoint_axes` declares for their names:
    proved means that all numbers of `a`, moved by symmetries of that, are those of `b`, and that their configurations say
    the same. That a program computes this architecture is not looked at.

    Attributes:
        a, b: the checkpoints. element: what moves a. sets: what is recognised, set by set, the stream first.
            agreements: part by part, in the order of `sets`, then the rest. keys: of the configurations, which
            differ. rows: `Part`.
    """

    a: Checkpoint
    b: Checkpoint
    decoder: Decoder
    other: Decoder
    element: Element
    sets: tuple[Found, ...]
    agreements: tuple[tuple[str, Agreement], ...]
    keys: tuple[str, ...]
    kind: ClassVar[str] = "align"
    head: ClassVar[tuple[str, ...]] = (
        "part", "units", "recognised", "numbers", "equal", "within 4 roundings", "apart before", "after",
    )  # fmt: skip
    numbers: ClassVar[tuple[str, ...]] = head[1:]

    @cached_property
    def total(self) -> Agreement:
        """Of all parts."""
        found = Agreement()
        for _, agreement in self.agreements:
            found = found.plus(agreement)
        return found

    @property
    def same(self) -> bool:
        """Whether all numbers are the same after moves that round nothing."""
        return self.total.equal == self.total.numbers and exact(self.element) and not self.keys

    @property
    def within_rounding(self) -> bool:
        """Whether all numbers are the same but for four roundings each."""
        return self.total.within == self.total.numbers

    @property
    def evidence(self) -> tuple[Found, ...]:
        """The sets of heads and units. The stream is none: its columns are matched by rows of the embeddings, and
        tokens are the same in all models that share a tokenizer. A feature of tokens that two models
        learnt, each by itself, is seen in both halves of them.
        """
        return self.sets[1:]

    @property
    def recognised(self) -> int:
        """Heads and units that are recognised."""
        return sum(part.recognised for part in self.evidence)

    @property
    def log_chance(self) -> float:
        """A bound of the logarithm of the probability that chance recognises as many, in nats, if in unrelated
        checkpoints both halves of a unit's numbers are matched independently and at random.
        """
        return log_chance(self.evidence)

    @property
    def related(self) -> bool:
        """Whether more heads and units are recognised than chance does, with odds below 1e-9."""
        return self.log_chance < RELATED

    @property
    def before(self) -> float:
        """Norm of the difference over the norm of `b`."""
        return self.total.relative[0]

    @property
    def after(self) -> float:
        """The same of `a` after it is moved."""
        return self.total.relative[1]

    @property
    def statement(self) -> str:
        total, under = self.total, f"under the declared architecture ({self.decoder.kind})"
        differ = ""
        if self.keys:
            listed = ", ".join(self.keys[:3]) + (", ..." if len(self.keys) > 3 else "")
            differ = f"the configurations differ in {listed}"
        if differ and total.equal == total.numbers:
            return f"the same tensors {under}, but {differ}"
        if self.same:
            moved = "moved by a symmetry, " if self.before else ""
            return (
                f"the same tensors {under}: all {total.numbers} numbers of a, {moved}are those of b"
            )
        units = sum(part.units for part in self.evidence)
        seen = f"{self.recognised} of {units} heads and units recognised, about {len(self.evidence)} by chance"
        end = f"; {differ}" if differ else ""
        if self.within_rounding:
            return (
                f"a disguised copy within rounding {under}: of {total.numbers} numbers {total.equal} are equal after moving, "
                f"the others but for four roundings; {seen}{end}"
            )
        if self.related:
            apart = f"{self.after:.3g} of their norm apart after moving, {self.before:.3g} before"
            return f"related {under}, by chance {_odds(self.log_chance)}: {seen}; {apart}{end}"
        return f"no relation is seen {under}: {seen}{end}"

    def rows(self) -> list[Any]:
        found = []
        for number, (name, agreement) in enumerate(self.agreements):
            units = self.sets[number] if number < len(self.sets) else Found(0, 0)
            found.append(
                Part(name, units.units, units.recognised, agreement.numbers, agreement.equal,
                     agreement.within, *agreement.relative)
            )  # fmt: skip
        return found

    def cells(self) -> list[list[str]]:
        return [
            [
                row.name, str(row.units or ""), str(row.recognised) if row.units else "", str(row.numbers),
                str(row.equal), str(row.within), f"{row.before:.3g}", f"{row.after:.3g}",
            ]
            for row in self.rows()
        ]  # fmt: skip

    def notes(self) -> list[tuple[str, str]]:
        found = [("a", repr(self.a)), ("b", repr(self.b))]
        if self.related:
            found.append(("by chance", _odds(self.log_chance)))
        if self.keys:
            found.append(("configurations differ in", ", ".join(self.keys)))
        return found

    def data(self) -> dict[str, Any]:
        total = self.total
        return {
            "a": str(self.a.path), "b": str(self.b.path), "architecture": self.decoder.kind,
            "same": self.same, "within_rounding": self.within_rounding, "related": self.related,
            "recognised": self.recognised, "by_chance": len(self.evidence), "log_chance": self.log_chance,
            "numbers": total.numbers, "equal": total.equal, "within": total.within,
            "before": self.before, "after": self.after, "keys": list(self.keys),
            "parts": [row._asdict() for row in self.rows()],
        }  # fmt: skip

    def check(self) -> bool:
        """Look at the laws, compare all numbers and search for what is recognised again, from the files."""
        ours, theirs = Decoder.of(self.a), Decoder.of(self.b)
        _require_same(self.a, self.b, ours, theirs)
        if (ours, theirs) != (self.decoder, self.other):
            raise CertificateRejected("the checkpoints are of other architectures than is said")
        if differing(self.a, self.b) != self.keys:
            raise CertificateRejected("the configurations differ in other keys than is said")
        again = _compared(self.a, self.b, ours, theirs, self.element, None)
        if again != self.agreements:
            raise CertificateRejected("compared again, the checkpoints agree in other numbers")
        if _searched(Pair(self.a, self.b, ours, theirs), None) != self.sets:
            raise CertificateRejected("searched again, other units are recognised")
        if (self.status == "proved") != self.same or self.status == "refuted":
            raise CertificateRejected(f"{self.status} does not follow")
        return True

    def written(self) -> tuple[dict[str, Stored], Iterator[tuple[str, Array]]]:
        """The tensors of `a`, moved, in the types that they have, for `formats.checkpoint_files`."""
        return written(self.decoder, self.a, self.element)


def _odds(log_probability: float) -> str:
    return f"at most once in 10^{math.floor(-log_probability / math.log(10))}"


def align(a: Checkpoint, b: Checkpoint, progress: Progress | None = None) -> CheckpointAlignment:
    """See `api.align`."""
    ours, theirs = Decoder.of(a), Decoder.of(b)
    _require_same(a, b, ours, theirs)
    pair = Pair(a, b, ours, theirs)
    sets = _searched(pair, progress)
    agreements = _compared(a, b, ours, theirs, pair.element, progress)
    found = CheckpointAlignment(
        "estimated", a, b, ours, theirs, pair.element, sets, agreements, differing(a, b)
    )
    return replace(found, status="proved") if found.same else found


def equivalent(
    a: Checkpoint, b: Checkpoint, progress: Progress | None = None
) -> CheckpointAlignment:
    """See `api.equivalent`."""
    found = align(a, b, progress)
    return found if found.status == "proved" else replace(found, status="undecided")


def _require_same(a: Checkpoint, b: Checkpoint, ours: Decoder, theirs: Decoder) -> None:
    """Raises `ShapeError` where a tensor of one has no like in the other."""
    one, other = ([piece for _, part in d.sections() for piece in part] for d in (ours, theirs))
    for mine, its in zip(one, other, strict=False):
        shapes = a.shape(mine.tensor), b.shape(its.tensor)
        if shapes[0] != shapes[1] or mine[1:] != its[1:]:
            raise ShapeError(
                f"{mine.tensor!r} of {a.path} has shape {shapes[0]}, {its.tensor!r} of {b.path} {shapes[1]}; "
                "only checkpoints of one architecture are aligned"
            )
        if mine.rows is None and mine.columns is None and bare(mine) != bare(its):
            raise ShapeError(
                f"{mine.tensor!r} of {a.path} stands where {b.path} has {its.tensor!r}; both must be alike"
            )
    if len(one) != len(other):
        count = counted(abs(len(one) - len(other)), "tensor", "tensors")
        raise ShapeError(f"{a.path} and {b.path}: one has {count} more; both must be alike")
    heads = [
        [(x.heads, x.groups, x.size, x.rotary) for x in (y.attention for y in d.layers)]
        for d in (ours, theirs)
    ]
    if heads[0] != heads[1]:
        raise ShapeError(f"{a.path} and {b.path} have other numbers of heads")


def _searched(pair: Pair, progress: Progress | None) -> tuple[Found, ...]:
    """What is recognised: of the stream, then of the heads and units of each layer."""
    layers = len(pair.ours.layers)
    sets = [pair.match_stream()]
    pair.match_norms()
    _tell(progress, 1, 4 * layers + 3)
    for number in range(layers):
        sets.append(pair.match_heads(number))
        sets.append(pair.match_units(number))
        _tell(progress, 2 * number + 3, 4 * layers + 3)
    return tuple(sets)


def _compared(
    a: Checkpoint, b: Checkpoint, ours: Decoder, theirs: Decoder, element: Element,
    progress: Progress | None,
) -> tuple[tuple[str, Agreement], ...]:  # fmt: skip
    """How far all parts agree; what moves them must be a symmetry."""
    require_laws(ours, element)
    found, layers = list[tuple[str, Agreement]](), len(ours.layers)
    for (name, mine), (_, its) in zip(ours.sections(), theirs.sections(), strict=True):
        total = Agreement()
        for pieces in zip(mine, its, strict=True):
            total = total.plus(compare(a, b, pieces, element))
        found.append((name, total))
        _tell(progress, 2 * layers + 1 + len(found), 4 * layers + 3)
    return tuple(found)


def _tell(progress: Progress | None, done: int, steps: int) -> None:
    if progress is not None:
        progress(done, steps, "layers")
