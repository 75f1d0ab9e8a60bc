"""Whether two networks are one function, and how far apart they are: proofs, certified bounds,
witnesses, estimates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.domains import Domain, Gaussian, Samples
from moduli.common.exact_values import evaluate, exact_arrays
from moduli.common.progress import Progress
from moduli.common.result import Result, counted, plain_float
from moduli.compression.average import closed_form
from moduli.compression.box import bisection, reduce_on_box
from moduli.compression.box.stable_units import bisection_budget
from moduli.compression.exact import reduce
from moduli.compression.results import Compression
from moduli.kernel import fields
from moduli.kernel.bounds.output_gap import Changed, GapBound
from moduli.kernel.box import Box
from moduli.kernel.certificate import Certificate, proved
from moduli.kernel.errors import (
    ArgumentError,
    Asked,
    CertificateRejected,
    ShapeError,
    Undecided,
    UnsupportedModel,
)
from moduli.kernel.exact_numbers import ExactArray, ceiling, sum_up
from moduli.kernel.move import Move
from moduli.kernel.network import Network, rebuilt
from moduli.kernel.rules import apply, replay
from moduli.kernel.slack import Slack, difference
from moduli.kernel.state import State

from . import exact_gap
from .alignment import align
from .group import Element, normal_form
from .witness_search import (
    Witness,
    allowed,
    candidates,
    find_witness,
    furthest,
    gaps,
    lipschitz,
    seen_through,
    separated_at,
    separates,
    span,
)

Array = np.ndarray[Any, np.dtype[np.float64]]
DRAWS = 100_000  # of inputs, where an average has no closed form
PIECE = 10_000  # inputs that are evaluated at a time
AGAIN = 2  # compressions of one network more on a box, until both have the same widths
EXACT = 200_000  # weights that may be scaled by other factors than powers of two


# Equality -------------------------------------------------------------------------------------------------------


class Bisection(NamedTuple):
    """A bound of |a - b| on a box: by bisection for two networks that moves and one rounding make
    of a and b.

    Attributes:
        a_moves, b_moves: from a and b to these networks. enclosure: the bound of their difference.
    """

    a_moves: tuple[Move, ...]
    b_moves: tuple[Move, ...]
    enclosure: GapBound

    def verify(self, a: Network, b: Network, box: Box) -> float:
        """The certified bound; raises `CertificateRejected`."""
        with fields.made_by_hand("bound of a difference"):
            a_moves = tuple(Move.from_json(move.plain()) for move in self.a_moves)
            b_moves = tuple(Move.from_json(move.plain()) for move in self.b_moves)
            enclosure = Changed.from_json(Changed((), self.enclosure).plain()).enclosure
        left, right = replay(a, a_moves), replay(b, b_moves)
        enclosure.verify(left.network(), right.network(), box)
        return sum_up(enclosure.upper, _rounded(left, box), _rounded(right, box))


class Reduced(NamedTuple):
    """A bound of |a - b| on a box through smaller networks that have the functions of a and b
    there.

    Attributes:
        left, right: ever smaller networks, each with a proof that on the box it is the one before,
            the first that it is a or b.
        bisection: how far the last two are apart.
    """

    left: tuple[Compression, ...]
    right: tuple[Compression, ...]
    bisection: Bisection

    @property
    def slack(self) -> float:
        """What rounding did on the way."""
        return sum_up(*(small.slack for small in (*self.left, *self.right)))

    def verify(self, a: Network, b: Network, box: Box) -> float:
        """The certified bound; raises `CertificateRejected`."""
        left, slacks = Reduced._end(a, self.left, box)
        right, more = Reduced._end(b, self.right, box)
        return sum_up(Bisection.verify(self.bisection, left, right, box), *slacks, *more)

    @staticmethod
    def _end(net: Network, chain: Sequence[Compression], box: Box) -> tuple[Network, list[float]]:
        """The last network of a chain, and the slack of each proof in it."""
        slacks = list[float]()
        for small in chain:
            claim, net, _ = proved(small.proof, small.network, net)
            region = claim.region
            if region is None or (region.low, region.high) != (tuple(box.low), tuple(box.high)):
                raise CertificateRejected(f"a proof holds on another box than {box}")
            slacks.append(claim.slack.constant)
        return net, slacks


def _rounded(state: State, box: Box) -> float:
    """What rounding exact parameters once changes on a box."""
    small = exact_arrays(state.network())
    return difference(
        state.arrays(), small, state.activations, radius=_radius(box, state.net)
    ).everywhere


@dataclass(frozen=True, eq=False, repr=False)
class Equivalence(Result):
    """Whether two networks are one function: of their outputs, behind the output map.

    Attributes:
        status: proved, refuted or undecided. witness: where they differ. reason: one line.
        bisection: a proof by bounds on a box. pieces: whether the proof is the exact maximum over
            all linear pieces.
    """

    a: Network
    b: Network
    eps: float = 0.0
    on: Box | None = None
    proof: Certificate | None = None
    witness: Witness | None = None
    reason: str = ""
    bisection: Bisection | Reduced | None = None
    pieces: bool = False
    kind: ClassVar[str] = "equal"

    @property
    def certificate(self) -> Certificate | None:
        return self.proof

    def __bool__(self) -> bool:
        if self.status == "undecided":
            raise Undecided(f"{self.statement}: {self.reason}")
        return self.status == "proved"

    def check(self) -> bool:
        """Prove the answer again, for networks, box and proofs that are made anew from what these
        hold.

        Raises:
            CertificateRejected: naming what fails. Undecided: if nothing is claimed.
        """
        with fields.made_by_hand("network"):
            a, b = rebuilt(self.a), rebuilt(self.b)
        with fields.made_by_hand("box"):
            on = (
                None
                if self.on is None
                else Box(np.array(self.on.low, np.float64), np.array(self.on.high, np.float64))
            )
        eps = fields.real(plain_float(self.eps), "eps", least=0.0)
        if self.proof is not None:
            claim = proved(self.proof, b, a).certificate
            left, right = replay(a, claim.large_moves), replay(b, claim.small_moves)
            found = difference(
                left.arrays(), right.arrays(), a.activations, radius=_radius(on, a)
            ).everywhere
            _require(found, eps, a)
            return True
        if self.witness is not None:
            x = tuple(self.witness.input)
            if any(type(number) is not Fraction for number in x):
                raise CertificateRejected("the witness is not a tuple of Fractions")
            if not _inside(x, on):
                raise CertificateRejected(
                    f"the witness {_short(list(map(float, x)))} is not in the box"
                )
            return separates(evaluate(a, x), evaluate(b, x), a.output_map, eps)
        if on is not None and (self.bisection is not None or self.pieces):
            _require(self._proved_on(on.of_dimension(a.widths[0]), a, b), eps, a)
            return True
        return super().check()

    def _proved_on(self, box: Box, a: Network, b: Network) -> float | Fraction:
        """What is proved of the difference on the box."""
        if isinstance(self.bisection, Reduced):
            return Reduced.verify(self.bisection, a, b, box)
        if self.bisection is not None:
            return Bisection.verify(self.bisection, a, b, box)
        peak = exact_gap.peak(a, b, box, exact_gap.CELLS, shifts=a.output_map == "softmax")
        return math.inf if peak is None else peak.gap

    @property
    def statement(self) -> str:
        far = f" within {self.eps:g}" if self.eps else ""
        return {
            "proved": f"the same function{far}", "refuted": f"not the same function{far}",
            "undecided": f"neither proved nor refuted the same function{far}",
        }[self.status]  # fmt: skip

    def rows(self) -> list[tuple[str, str]]:
        rows = [
            ("a", repr(self.a)),
            ("b", repr(self.b)),
            ("answer", f"{self.glyph} {self.status}"),
            ("because", self.reason),
        ]
        if self.witness is not None:
            gap = self.witness.gap
            rows += [("differ at", _short([float(q) for q in self.witness.input]))]
            rows += [("by at least", f"{float(gap):.3g}")] if gap else []
        if self.a.output_map != "identity":
            rows += [("outputs", f"behind the {self.a.output_map} of both")]
        return rows

    def data(self) -> dict[str, Any]:
        witness = None
        if self.witness is not None:
            witness = {
                "input": list(map(str, self.witness.input)),
                "a": [list(map(str, ends)) for ends in self.witness.a],
                "b": [list(map(str, ends)) for ends in self.witness.b],
                "gap": 0.0 - ceiling(-self.witness.gap),
            }
        return {
            "a": self.a.digest, "b": self.b.digest, "eps": self.eps,
            "output_map": self.a.output_map, "witness": witness, "reason": self.reason,
        }  # fmt: skip


def _short(values: list[float]) -> str:
    return (
        "(" + ", ".join(f"{v:.4g}" for v in values[:6]) + (", ..." if len(values) > 6 else "") + ")"
    )


def before(net: Network) -> str:
    """Where bounds hold, in words: before the output map, if there is one."""
    return "" if net.output_map == "identity" else f" before the output {net.output_map}"


def _require(found: float | Fraction, eps: float, net: Network) -> None:
    """What is proved before the output map must be enough behind it."""
    most = allowed(eps, net.output_map)
    if found > most:
        raise CertificateRejected(
            f"a difference up to {most}{before(net)} is claimed, but only {float(found):.6g} is proved"
        )


def _require_one_map(a: Network, b: Network) -> None:
    if a.output_map != b.output_map:
        raise ShapeError(
            f"output maps {a.output_map} and {b.output_map} differ; compare networks with the same one"
        )


def equivalent(
    a: Network,
    b: Network,
    on: Domain,
    eps: float,
    budget: int,
    seed: int | np.random.Generator,
    executor: Executor | None,
    progress: Progress | None,
) -> Equivalence:
    """See `api.equivalent`."""
    if isinstance(on, (Gaussian, Samples)):
        raise ArgumentError(
            Asked("on", type(on)),
            ": equality is asked on all inputs (None) or on a Box; for averages use distance",
        )
    if not (eps >= 0 and math.isfinite(eps)):
        raise ArgumentError(Asked("eps", eps), ": a finite non-negative number is needed")
    eps = float(eps)  # of NumPy or whole: an answer holds a plain float
    _require_one_map(a, b)
    why, radius = "reduced widths differ", _radius(on, a)
    most = allowed(eps, a.output_map)
    witness: Witness | None = None
    matched: Matching | None = None
    inputs = cache(lambda: candidates(a, b, on, budget, np.random.default_rng(seed)))
    for m in matchings(a, b, progress):
        slack = m.slack()
        within = (
            slack.everywhere
            if radius is None or slack.everywhere == 0
            else m.slack(radius).everywhere
        )
        if within <= most:
            far = f"units matched; certified difference at most {within:.3g}{before(a)}"
            why = far if within else "equal normal forms"
            proof = Certificate(a.digest, b.digest, m.left_moves, m.right_moves, slack)
            return Equivalence("proved", a, b, eps, on, proof, None, why)
        why = "normal forms differ"
        if eps and math.isfinite(within):
            why = f"units match only up to a certified difference of {within:.3g}{before(a)}"
        if eps == 0 and matched is None:
            witness = furthest(a, b, inputs(), gaps(a, b, inputs()), eps)
            if witness is not None:
                break
        matched = m
    x = inputs()
    if witness is None and eps == 0 and matched is not None:
        witness = furthest(a, b, x, seen_through(a, x, matched.tangent(x)), eps)
    if witness is None:
        witness = find_witness(a, b, on, eps, x)
    if witness is None and isinstance(on, Box):
        decided = _on_box(a, b, on.of_dimension(a.widths[0]), eps, budget, executor, progress)
        if decided is not None:
            return decided
    if witness is not None:
        return Equivalence(
            "refuted", a, b, eps, on, None, witness, "an input was found where exact values differ"
        )
    return Equivalence(
        "undecided",
        a,
        b,
        eps,
        on,
        None,
        None,
        f"{why}, and no such difference was found at {len(x)} inputs",
    )


def _on_box(
    a: Network,
    b: Network,
    box: Box,
    eps: float,
    budget: int,
    executor: Executor | None,
    progress: Progress | None,
) -> Equivalence | None:
    """By the exact maximum over all linear pieces, or by bisection."""
    most, shifts = allowed(eps, a.output_map), a.output_map == "softmax"
    peak = exact_gap.peak(a, b, box, budget, progress, shifts=shifts)
    if peak is not None:
        if peak.gap <= most:
            free = ", up to shifts of all values," if shifts else ""
            why = f"the largest difference{before(a)}{free} at vertices of all linear pieces is {float(peak.gap):.3g}"
            return Equivalence("proved", a, b, eps, box, None, None, why, pieces=True)
        witness = separated_at(a, b, peak.at, eps)
        why = "the largest difference of exact values at vertices of all linear pieces"
        return (
            None if witness is None else Equivalence("refuted", a, b, eps, box, None, witness, why)
        )
    found, upper, enclosure = _narrowed(a, b, box, budget, most, -1.0, executor, progress)
    if upper <= most:
        why = f"certified difference at most {upper:.3g}{before(a)}" if upper else "no difference"
        why += f", by bounds on {counted(enclosure.boxes, 'box', 'boxes')}"
        if isinstance(found, Reduced):
            why += f", of the {found.left[-1].network.units} and {found.right[-1].network.units} units that the box leaves"
        return Equivalence("proved", a, b, eps, box, None, None, why, found)
    witness = separated_at(a, b, tuple(map(Fraction, enclosure.at)), eps)
    why = "an input was found where exact values differ"
    return None if witness is None else Equivalence("refuted", a, b, eps, box, None, witness, why)


def _narrowed(
    a: Network,
    b: Network,
    box: Box,
    budget: int,
    eps: float | None,
    seen: float,
    executor: Executor | None,
    progress: Progress | None,
) -> tuple[Bisection | Reduced, float, GapBound]:
    """A bound by bisection; of what both networks become on the box, where units cannot be matched
    as they are.
    """
    if any(matchings(a, b)) or a.widths[1:-1] == b.widths[1:-1]:
        found, upper = _bisected(a, b, box, budget, eps, seen, executor, progress)
        return found, upper, found.enclosure
    chains = [[reduce_on_box.compress(net, box, budget, 0, executor, progress)] for net in (a, b)]
    for _ in range(AGAIN):
        p, q = (chain[-1].network for chain in chains)
        if p.widths == q.widths:
            break
        larger = chains[p.units < q.units]
        larger.append(
            reduce_on_box.compress(larger[-1].network, box, budget, 0, executor, progress)
        )
    extra = sum_up(*(small.slack for chain in chains for small in chain))
    goal = None if eps is None else max(0.0, eps - extra)
    found, upper = _bisected(
        chains[0][-1].network, chains[1][-1].network, box, budget, goal, seen, executor, progress
    )
    return Reduced(tuple(chains[0]), tuple(chains[1]), found), sum_up(upper, extra), found.enclosure


def _bisected(
    a: Network,
    b: Network,
    box: Box,
    budget: int,
    eps: float | None,
    seen: float,
    executor: Executor | None,
    progress: Progress | None,
) -> tuple[Bisection, float]:
    """Bounds by bisection for the networks as they are, or for their matched forms, whichever start
    lower.
    """
    plain: tuple[tuple[Move, ...], tuple[Move, ...]] = ((), ())
    pairs = [(a, b, 0.0, plain)]
    for m in matchings(a, b, progress):
        extra = sum_up(_rounded(m.left, box), _rounded(m.right, box))
        pairs.append((m.left.network(), m.right.network(), extra, (m.left_moves, m.right_moves)))
    start = [bisection.enclose(p, q, box, 1).upper + extra for p, q, extra, _ in pairs]
    p, q, extra, moves = pairs[min(range(len(pairs)), key=start.__getitem__)]
    goal = None if eps is None else max(0.0, eps - extra)
    budget = max(1, bisection_budget(len(box.low), budget))
    found = bisection.enclose(
        p, q, box, budget, eps=goal, seen=seen, executor=executor, progress=progress
    )
    return Bisection(*moves, found), sum_up(found.upper, extra)


def _radius(on: Domain, net: Network) -> Array | None:
    """The largest size of each input in a box."""
    if not isinstance(on, Box):
        return None
    box = on.of_dimension(net.widths[0])
    return np.asarray(np.maximum(np.abs(box.low), np.abs(box.high)))


def _inside(x: Sequence[Fraction], on: Box | None) -> bool:
    if on is None:
        return True
    box = on.of_dimension(len(x))
    return all(
        low <= q <= high
        for q, low, high in zip(x, box.low.tolist(), box.high.tolist(), strict=True)
    )


class Matching(NamedTuple):
    """Two networks brought to one architecture by moves, unit beside unit."""

    left: State
    right: State
    left_moves: tuple[Move, ...]
    right_moves: tuple[Move, ...]

    def slack(self, radius: Array | None = None) -> Slack:
        """A certified bound of the difference."""
        return difference(
            self.left.arrays(), self.right.arrays(), self.left.activations, radius=radius
        )

    def tangent(self, x: Array) -> Array:
        """The difference at each input to first order: it keeps its digits where subtracting
        outputs keeps none.
        """
        a, b = self.left.arrays(), self.right.arrays()
        h, t = x, np.zeros_like(x)
        with np.errstate(all="ignore"):
            for k, ((w, c), (v, d)) in enumerate(zip(a, b, strict=True)):
                z = h @ w.hi.T + c.hi
                t = t @ w.hi.T + h @ (v.hi - w.hi).T + (d.hi - c.hi)
                if k < len(self.left.activations):
                    act = self.left.activations[k]
                    h, t = act(z), act.derivative(z) * t
        return np.asarray(t)


def matchings(a: Network, b: Network, progress: Progress | None = None) -> Iterator[Matching]:
    """Normal forms, where they have one architecture; then, where these differ, the same with units
    aligned.
    """
    left, left_moves = normal_form(a, progress)
    right, right_moves = normal_form(b, progress)
    if left.widths != right.widths or left.activations != right.activations:
        return
    yield Matching(left, right, left_moves, right_moves)
    try:
        element = align(left.network(), right.network()).element
    except UnsupportedModel:
        return
    moves = _binary(element, left).moves(left.alive[1:-1])
    for move in moves:
        apply(left, move)
    yield Matching(left, right, (*left_moves, *moves), right_moves)


def _binary(element: Element, state: State) -> Element:
    """Factors near powers of two become such; all do where exact numbers would be too many."""
    widths, factors = state.widths, []
    for l, factor in enumerate(element.factor, 1):
        near = np.copysign(np.exp2(np.round(np.log2(np.abs(factor)))), factor)
        many = widths[l] * (widths[l - 1] + widths[l + 1]) > EXACT
        if not many:
            near = np.where(np.abs(factor / near - 1) < 1e-6, near, factor)
        factors.append(near)
    return Element(element.order, tuple(factors))


# Distance -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Distance(Result):
    """How far two functions are apart, before the output map where there is one.

    Attributes:
        lower, upper: certified on a box and on all inputs (sup norm); two standard errors around
            the root mean square of the Euclidean distance otherwise. argmax: an input that attains
            `lower`.
        output_map: of both networks. behind: for the sup norm, certified bounds of the distance of
            the outputs, behind the output map; None for means.
    """

    lower: float
    upper: float
    argmax: tuple[float, ...] | None = None
    on: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    output_map: str = "identity"
    behind: tuple[float, float] | None = None
    kind: ClassVar[str] = "distance"

    @property
    def _narrow(self) -> bool:
        """An estimate whose ends agree to six digits."""
        return "value" in self.extra and self.upper - self.lower <= 1e-6 * self.upper

    @property
    def statement(self) -> str:
        mapped = self.output_map != "identity"
        what = f"the distance before the output {self.output_map}" if mapped else "the distance"
        found = f"lies in [{self.lower:.6g}, {self.upper:.6g}]"
        if self.status == "proved" or self._narrow:
            found = f"is {self.upper:.6g}"
        if mapped and self.behind is not None:
            found += f", behind it in [{self.behind[0]:.6g}, {self.behind[1]:.6g}]"
        return f"{what} {found} ({self.on})"

    def rows(self) -> list[tuple[str, str]]:
        between = f"{self.lower:.6g} <= . <= {self.upper:.6g}"
        if "value" in self.extra:
            between = f"~ {self.extra['value']:.6g}, between {self.lower:.6g} and {self.upper:.6g}"
            if self._narrow:
                between = f"~ {self.extra['value']:.9g}, to {self.upper - self.lower:.1g}"
        rows = [("distance", between), ("on", self.on), ("status", self.status)]
        if self.output_map != "identity":
            rows[0] = (f"before the {self.output_map}", between)
            if self.behind is not None:
                rows.insert(
                    1,
                    (
                        f"behind the {self.output_map}",
                        f"{self.behind[0]:.6g} <= . <= {self.behind[1]:.6g}",
                    ),
                )
        return rows + ([("largest found at", _short(list(self.argmax)))] if self.argmax else [])

    def data(self) -> dict[str, Any]:
        behind = None if self.behind is None else {"lower": self.behind[0], "upper": self.behind[1]}
        return {
            "lower": self.lower, "upper": self.upper, "argmax": self.argmax, "on": self.on,
            "output_map": self.output_map, "behind": behind, **self.extra,
        }  # fmt: skip


def distance(
    a: Network,
    b: Network,
    on: Domain,
    budget: int,
    seed: int | np.random.Generator,
    executor: Executor | None,
    progress: Progress | None,
) -> Distance:
    """See `api.distance`."""
    _require_one_map(a, b)
    bare = replace(a, output_map="identity"), replace(b, output_map="identity")
    if isinstance(on, (Gaussian, Samples)):
        return replace(_mean_square(*bare, on, seed, progress), output_map=a.output_map)
    found = _supremum(*bare, on, budget, seed, executor, progress)
    if a.output_map == "identity":
        return replace(found, behind=(found.lower, found.upper))
    return replace(found, output_map=a.output_map, behind=_behind(a, b, on, budget, seed, found))


def _behind(
    a: Network,
    b: Network,
    on: Box | None,
    budget: int,
    seed: int | np.random.Generator,
    found: Distance,
) -> tuple[float, float]:
    """Bounds of the distance of outputs: the upper end carried through the map, exact values behind
    it from below.
    """
    if found.upper == 0:
        return 0.0, 0.0
    upper = (
        math.inf
        if math.isinf(found.upper)
        else ceiling(Fraction(found.upper) * lipschitz(a.output_map))
    )
    x = candidates(a, b, on, budget, np.random.default_rng(seed))
    tiny = math.ulp(0.0)  # so that outputs are compared, and not values before the map
    places = [find_witness(a, b, on, tiny, x)]
    if found.argmax is not None:
        places.append(separated_at(a, b, tuple(map(Fraction, found.argmax)), tiny))
    gap = max((w.gap for w in places if w is not None), default=Fraction(0))
    return max(0.0, 0.0 - ceiling(-gap)), min(upper, span(a.output_map))


def _supremum(
    a: Network,
    b: Network,
    on: Box | None,
    budget: int,
    seed: int | np.random.Generator,
    executor: Executor | None,
    progress: Progress | None,
) -> Distance:
    """Of networks without an output map."""
    upper = _upper(a, b, _radius(on, a), progress)
    where = "sup over the box" if isinstance(on, Box) else "sup over all inputs"
    if upper == 0:
        return Distance("proved", 0.0, 0.0, None, where)
    box = on.of_dimension(a.widths[0]) if isinstance(on, Box) else None
    peak = None if box is None else exact_gap.peak(a, b, box, budget, progress)
    if peak is not None:
        at = tuple(map(float, peak.at))
        return Distance(
            "proved",
            0.0 - ceiling(-peak.gap),
            ceiling(peak.gap),
            at,
            where,
            {"exact": str(peak.gap)},
        )
    witness = find_witness(a, b, on, 0.0, candidates(a, b, on, budget, np.random.default_rng(seed)))
    if box is not None:
        seen = -1.0 if witness is None else 0.0 - ceiling(-witness.gap)
        _, bound, enclosure = _narrowed(a, b, box, budget, None, seen, executor, progress)
        other = separated_at(a, b, tuple(map(Fraction, enclosure.at)), 0.0)
        witness = max(
            (w for w in (witness, other) if w is not None), key=lambda w: w.gap, default=None
        )
        upper = min(upper, bound)
    if witness is None:
        status = "proved" if upper == 0 else "bounded"
        return Distance(status, 0.0, upper, None, where)
    at, lower = tuple(map(float, witness.input)), 0.0 - ceiling(-witness.gap)
    status = "proved" if lower == upper else "bounded"
    return Distance(status, lower, upper, at, where)


def _upper(a: Network, b: Network, radius: Array | None, progress: Progress | None) -> float:
    """Certified: matched units, or else the size of both functions."""
    best = math.inf
    for m in matchings(a, b, progress):
        best = min(best, m.slack(radius).everywhere)
        if best == 0:
            return 0.0
    size = _size(a, radius) + _size(b, radius)
    return min(best, math.nextafter(size, math.inf))


def _size(net: Network, radius: Array | None) -> float:
    """A bound of the outputs: how far they are from those of a last layer that is zero."""
    *hidden, (weight, bias) = normal_form(net)[0].arrays()
    zero = ExactArray(np.zeros_like(weight.hi)), ExactArray(np.zeros_like(bias.hi))
    layers = [*hidden, (weight, bias)], [*hidden, zero]
    return difference(*layers, net.activations, radius=radius).everywhere


def _mean_square(
    a: Network, b: Network, on: Gaussian | Samples, seed: Any, progress: Progress | None
) -> Distance:
    if isinstance(on, Gaussian) and max(len(a.layers), len(b.layers)) <= 2:
        try:
            return _closed_form(a, b, on, progress)
        except (
            UnsupportedModel
        ):  # an activation without Gaussian expectations: by draws, as for deeper networks
            pass
    if isinstance(on, Samples) and on.x.shape[1] != a.widths[0]:
        raise ShapeError(f"samples have shape {on.x.shape}; the networks have {a.widths[0]} inputs")
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.concatenate(
            [((a.logits(x) - b.logits(x)) ** 2).sum(axis=1) for x in _pieces(on, a.widths[0], seed)]
        )
        if not np.isfinite(squares.sum()):
            raise Undecided(
                "the squared difference of the outputs exceeds float64 on these inputs; scale them down"
            )
    top = float(squares.max()) or 1.0  # the squares of these may overflow
    squares = squares / top
    mean, error = float(squares.mean()), math.inf
    if len(squares) > 1:
        error = float(squares.std(ddof=1) / math.sqrt(len(squares)))
    mean, error = mean * top, error * top
    ends = [math.sqrt(max(0.0, mean + k * error)) for k in (-2, 2)]
    name = (
        f"root mean square on {len(squares)} samples"
        if isinstance(on, Samples)
        else f"root mean square under a Gaussian, {DRAWS} draws"
    )
    return Distance("estimated", ends[0], ends[1], None, name, {"value": math.sqrt(mean)})


def _closed_form(a: Network, b: Network, on: Gaussian, progress: Progress | None) -> Distance:
    name = "root mean square under the Gaussian, in closed form"
    if _upper(a, b, None, progress) == 0:
        return Distance("proved", 0.0, 0.0, None, name)
    ends = closed_form.distance(a, b, on)
    if ends.width > 1e-6:
        ends = closed_form.common([ends, _reduced_distance(a, b, on)])
    if not math.isfinite(ends.high):
        raise Undecided(
            "the squared difference of the outputs exceeds float64 under this Gaussian; scale the networks down"
        )
    return Distance("estimated", ends.low, ends.high, None, name, {"value": ends.value})


def _pieces(on: Gaussian | Samples, n: int, seed: Any) -> Iterator[Array]:
    """The rows, or draws from the Gaussian, a few thousand at a time."""
    if isinstance(on, Samples):
        yield from (on.x[at : at + PIECE] for at in range(0, len(on.x), PIECE))
    else:
        rng = np.random.default_rng(seed)
        yield from (on.sample(PIECE, n, rng) for _ in range(DRAWS // PIECE))


def _reduced_distance(a: Network, b: Network, on: Gaussian) -> closed_form.Ends:
    """The same of the losslessly reduced networks, whose units match where those of a and b do not."""
    small = [reduce.compress(net) for net in (a, b)]
    ends = closed_form.distance(small[0].network, small[1].network, on)
    size = math.sqrt(
        float(np.square(on.mean).max() + np.abs(on.cov).max()) * a.widths[0] * a.widths[-1]
    )
    slip = sum(s.proof.slack.constant * math.sqrt(a.widths[-1]) + s.growth * size for s in small)
    return closed_form.Ends(ends.value, max(0.0, ends.low - slip), ends.high + slip)
