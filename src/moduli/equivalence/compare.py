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
from typing import Any, ClassVar

import numpy as np

from moduli.common.domains import Domain, Gaussian, Samples
from moduli.common.exact_values import evaluate
from moduli.common.progress import Progress
from moduli.common.result import Result, counted, plain_float
from moduli.compression.average import closed_form
from moduli.compression.exact import reduce
from moduli.kernel import fields
from moduli.kernel.bounds.decision import Decision
from moduli.kernel.box import Box
from moduli.kernel.certificate import Certificate, proved
from moduli.kernel.creases import Creased, creased
from moduli.kernel.errors import (
    ArgumentError,
    Asked,
    CertificateRejected,
    ShapeError,
    Undecided,
    UnsupportedModel,
)
from moduli.kernel.exact_numbers import ExactArray, ceiling
from moduli.kernel.network import Network, rebuilt
from moduli.kernel.rules import replay
from moduli.kernel.slack import difference

from . import exact_gap
from .box_gap import Reduced, Search, claimed, enclosed
from .decisions import decided_apart, require_decisions, search_decisions, winner
from .group import normal_form
from .matching import Matching, matchings
from .witness_search import (
    Witness,
    allowed,
    apart,
    behind,
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
WHERE = ("sup over all inputs", "sup over the box")
PIECE = 10_000  # inputs that are evaluated at a time
AGAIN = 2  # compressions of one network more on a box, until both have the same widths
EXACT = 200_000  # weights that may be scaled by other factors than powers of two


# Equality -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Equivalence(Result):
    """Whether two networks are one function: of their outputs, behind the output map.

    Attributes:
        status: proved, refuted or undecided. witness: where they differ. reason: one line.
        reduced: a proof through smaller networks on a box. pieces: whether the proof is the exact
            maximum over all linear pieces.
        decision: whether only the largest output was asked for. decided: a proof that it is one
            everywhere on the box.
    """

    a: Network
    b: Network
    eps: float = 0.0
    on: Box | None = None
    proof: Certificate | None = None
    witness: Witness | None = None
    reason: str = ""
    reduced: Reduced | None = None
    pieces: bool = False
    decision: bool = False
    decided: Decision | None = None
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
        with fields.made_by_hand("answer"):
            a, b = _both(self.a, self.b)
            on, decision = _again(self.on), fields.flag(self.decision, "decision")
            eps = fields.real(plain_float(self.eps), "eps", least=0.0)
            if decision:
                require_decisions(a)
            if self.status == "refuted" and self.witness is not None:
                return _differ(a, b, self.witness, on, eps, decision)
            if self.status != "proved":
                return super().check()
            if decision and self.decided is not None and on is not None:
                Decision.verify(self.decided, a, b, on)
                return True
            # One function decides as itself; one that is near it need not.
            _require(self._proved_on(on, a, b, decision), 0.0 if decision else eps, a)
            return True

    def _proved_on(
        self, on: Box | None, a: Network, b: Network, decision: bool
    ) -> float | Fraction:
        """What is proved of the difference on the box, or on all inputs."""
        if self.proof is not None:
            return certified(self.proof, a, b, on)
        if on is None or decision:
            raise Undecided(f"{self.kind} carries no certificate: {self.statement}")
        box = on.of_dimension(a.widths[0])
        if self.reduced is not None:
            return Reduced.verify(self.reduced, a, b, box)
        if not self.pieces:
            raise Undecided(f"{self.kind} carries no certificate: {self.statement}")
        peak = exact_gap.peak(a, b, box, exact_gap.CELLS, shifts=a.output_map == "softmax")
        return math.inf if peak is None else peak.gap

    @property
    def statement(self) -> str:
        far = f" within {self.eps:g}" if self.eps else ""
        if self.decision:
            return {
                "proved": "the same decision everywhere on the box", "refuted": "not the same decisions",
                "undecided": "neither proved nor refuted the same decisions",
            }[self.status]  # fmt: skip
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
            if self.decision:
                rows += [("they decide", f"{winner(self.witness.a)} and {winner(self.witness.b)}")]
            elif gap:
                rows += [("by at least", f"{float(gap):.3g}")]
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
            "a": self.a.digest, "b": self.b.digest, "eps": self.eps, "decision": self.decision,
            "winner": None if self.decided is None else self.decided.winner,
            "output_map": self.a.output_map, "witness": witness, "reason": self.reason,
        }  # fmt: skip


def _both(a: Network, b: Network) -> tuple[Network, Network]:
    """Two networks made anew that can be compared."""
    a, b = rebuilt(a), rebuilt(b)
    ends = [(net.widths[0], net.widths[-1], net.output_map) for net in (a, b)]
    if ends[0] != ends[1]:
        raise CertificateRejected(f"inputs, outputs or output map differ: {a} and {b}")
    return a, b


def _differ(
    a: Network, b: Network, witness: Witness, on: Box | None, eps: float, decision: bool
) -> bool:
    """Whether exact values at a witness in the box tell the networks apart."""
    parts = [(q.numerator, q.denominator) for q in witness.input if type(q) is Fraction]
    if len(parts) < len(witness.input) or {type(n) for pair in parts for n in pair} - {int}:
        raise CertificateRejected("the witness is not a tuple of Fractions")
    x = tuple(Fraction(*pair) for pair in parts)
    if not _inside(x, on):
        raise CertificateRejected(f"the witness {_short(list(map(float, x)))} is not in the box")
    if decision:
        apart = decided_apart(a, b, x) is not None
    else:
        apart = separates(evaluate(a, x), evaluate(b, x), a.output_map, eps)
    if not apart:
        raise CertificateRejected("the networks do not differ at the witness")
    return True


def _again(box: Box | None) -> Box | None:
    """A box made anew from its ends."""
    if box is None:
        return None
    with fields.made_by_hand("box"):
        return Box(np.array(box.low, np.float64), np.array(box.high, np.float64))


def _short(values: list[float]) -> str:
    return (
        "(" + ", ".join(f"{v:.4g}" for v in values[:6]) + (", ..." if len(values) > 6 else "") + ")"
    )


def before(net: Network) -> str:
    """Where bounds hold, in words: before the output map, if there is one."""
    return "" if net.output_map == "identity" else f" before the output {net.output_map}"


def certified(proof: Certificate, a: Network, b: Network, on: Box | None) -> float:
    """What a certificate proves of the difference on the box, or on all inputs."""
    if proof.region is not None and on is not None:
        return claimed(proof, a, b, on.of_dimension(a.widths[0]))
    claim = proved(proof, b, a).certificate
    if claim.creases:
        return 0.0
    if claim.region is not None or claim.near is not None:
        raise CertificateRejected("a proof holds on a box, and all inputs are asked for")
    left, right = replay(a, claim.large_moves), replay(b, claim.small_moves)
    return difference(
        left.arrays(), right.arrays(), left.activations, radius=_radius(on, a)
    ).everywhere


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
            return Equivalence("proved", a, b, eps, on, m.certificate(a, b), None, why)
        why = "normal forms differ"
        if eps and math.isfinite(within):
            why = f"units match only up to a certified difference of {within:.3g}{before(a)}"
        if eps == 0 and matched is None:
            witness = furthest(a, b, inputs(), gaps(a, b, inputs()), eps)
            if witness is not None:
                break
        matched = m
    exact = by_creases(a, b, progress) if witness is None else None
    if exact is not None and (exact.proof is not None or (eps == 0 and on is None)):
        return replace(exact, eps=eps, on=on)
    x = inputs()
    if witness is None and eps == 0 and matched is not None:
        witness = furthest(a, b, x, seen_through(a, x, matched.tangent(x)), eps)
    if witness is None:
        witness = find_witness(a, b, on, eps, x, seed)
    if witness is None and isinstance(on, Box):
        decided = _on_box(a, b, on.of_dimension(a.widths[0]), eps, budget, executor, progress)
        if decided is not None and decided.status != "undecided":
            return decided
        why = why if decided is None else decided.reason
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


def by_creases(a: Network, b: Network, progress: Progress | None) -> Equivalence | None:
    """Exactly, on all inputs, where both are functions of at most one piecewise linear hidden layer;
    None where not, or where the output map hides how they differ.
    """
    (left, left_moves), (right, right_moves) = (normal_form(net, progress) for net in (a, b))
    one, two = creased(left), creased(right)
    if one is None or two is None:
        return None
    if one == two:
        proof = Certificate(a.digest, b.digest, left_moves, right_moves, creases=True)
        why = f"the same {counted(len(one.creases), 'crease', 'creases')}, and the same affine rest"
        return Equivalence("proved", a, b, proof=proof, reason=why)
    found = (separated_at(a, b, x, 0.0) for x in points_apart(one, two))
    witness = next((w for w in found if w is not None), None)
    if witness is None:
        return None
    why = "creases or the affine rest differ, and exact values at an input"
    return Equivalence("refuted", a, b, witness=witness, reason=why)


def points_apart(one: Creased, two: Creased) -> Iterator[tuple[Fraction, ...]]:
    """Inputs at one of which two different functions of creases differ.

    On a hyperplane where creases differ, away from all others, the second difference across it is
    not zero; else the difference is affine, and not zero at 0 or at a unit vector.
    """
    inputs = len(one.weight[0])
    keys = {*one.creases, *two.creases}
    apart = sorted(key for key in keys if one.creases.get(key) != two.creases.get(key))
    rng = np.random.default_rng(0)
    for *w, b in apart[:1]:
        for _ in range(8):
            x = [Fraction(int(q), 64) for q in rng.integers(-256, 257, inputs)]
            off = sum((p * q for p, q in zip(w, x, strict=True)), Fraction(b)) / sum(
                q * q for q in w
            )
            x = [p - off * Fraction(q) for p, q in zip(x, w, strict=True)]
            free = list[Fraction]()
            for *v, c in keys - {(*w, b)}:
                steep = sum(p * q for p, q in zip(v, w, strict=True))
                if steep:
                    free.append(
                        abs(sum((p * q for p, q in zip(v, x, strict=True)), Fraction(c)) / steep)
                    )
            step = min(free, default=Fraction(1)) / 2
            if step:
                for k in (0, 1, -1):
                    yield tuple(p + k * step * q for p, q in zip(x, w, strict=True))
    if not apart:
        for k in range(-1, inputs):
            yield tuple(Fraction(k == j) for j in range(inputs))


def alike(
    a: Network, b: Network, on: Domain, seed: int | np.random.Generator, search: Search
) -> Equivalence:
    """Whether the largest output is the same everywhere on a box; see `api.equivalent`."""
    if not isinstance(on, Box):
        raise ArgumentError(
            Asked("decision", True), " on ", "all inputs" if on is None else Asked("on", type(on)),
            ": decisions are compared on a Box",
        )  # fmt: skip
    _require_one_map(a, b)
    require_decisions(a)
    box = on.of_dimension(a.widths[0])
    for m in matchings(a, b, search.progress):
        if m.slack().everywhere == 0:
            proof, why = m.certificate(a, b), "the same function: equal normal forms"
            return Equivalence("proved", a, b, 0.0, box, proof, None, why, decision=True)
    found = search_decisions(a, b, box, seed, search)
    if isinstance(found, Decision):
        why = f"output {found.winner} is the largest of both, by signs of its margins"
        return Equivalence("proved", a, b, 0.0, box, None, None, why, decision=True, decided=found)
    if isinstance(found, Witness):
        why = "an input was found where exact values decide in different ways"
        return Equivalence("refuted", a, b, 0.0, box, None, found, why, decision=True)
    return Equivalence("undecided", a, b, 0.0, box, None, None, found, decision=True)


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
    found = enclosed(a, b, box, Search(budget, most, executor=executor, progress=progress))
    if found.upper <= most:
        why = (
            f"certified difference at most {found.upper:.3g}{before(a)}"
            if found.upper
            else "no difference"
        )
        why += f", by bounds on {counted(found.bound.boxes, 'box', 'boxes')}"
        if isinstance(found.proof, Certificate):
            return Equivalence("proved", a, b, eps, box, found.proof, None, why)
        units = (chain[-1].network.units for chain in found.proof[:2])
        why += ", of the {} and {} units that the box leaves".format(*units)
        return Equivalence("proved", a, b, eps, box, None, None, why, found.proof)
    witness = separated_at(a, b, tuple(map(Fraction, found.bound.at)), eps)
    if witness is not None:
        why = "an input was found where exact values differ"
        return Equivalence("refuted", a, b, eps, box, None, witness, why)
    why = f"certified difference at most {found.upper:.3g}{before(a)}"
    why += ", when the search was interrupted" if found.interrupted else ""
    return Equivalence("undecided", a, b, eps, box, None, None, why)


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
    a: Network | None = None
    b: Network | None = None
    box: Box | None = None
    proof: Certificate | Reduced | None = None
    interrupted: bool = False
    kind: ClassVar[str] = "distance"

    @property
    def certificate(self) -> Certificate | None:
        return self.proof if isinstance(self.proof, Certificate) else None

    def check(self) -> bool:
        """Prove both ends of the sup norm again: the upper one by its proof, the lower one by exact
        values at `argmax`.

        Raises:
            CertificateRejected: naming what fails. Undecided: an end rests on no proof.
        """
        if self.a is None or self.b is None or self.status == "estimated":
            return super().check()
        with fields.made_by_hand("answer"):
            a, b = _both(self.a, self.b)
            box = None if self.box is None else _again(self.box.of_dimension(a.widths[0]))
            if self.upper == math.inf:
                return super().check()
            lower, upper = (
                fields.real(plain_float(end), "an end", least=0.0)
                for end in (self.lower, self.upper)
            )
            exact = "exact" in self.extra and upper <= math.nextafter(lower, math.inf)
            if self.status != ("proved" if exact or lower == upper else "bounded"):
                raise CertificateRejected(f"{self.status} from {lower} to {upper}")
            if (self.on, self.output_map) != (WHERE[box is not None], a.output_map):
                raise CertificateRejected(f"{self.on}, behind {self.output_map}, is said")
            found = self._proved(a, b, box)
            if found > upper:
                raise CertificateRejected(
                    f"a distance of at most {upper} is claimed, but only {float(found):.6g} is proved"
                )
            if lower > 0 and self._shown(a, b, box, self.argmax, "identity") < lower:
                raise CertificateRejected(
                    f"a distance of at least {lower} is claimed, and argmax does not show it"
                )
            self._check_behind(a, b, box, lower, upper)
            return True

    def _proved(self, a: Network, b: Network, box: Box | None) -> float | Fraction:
        if "exact" in self.extra and box is not None:
            peak = exact_gap.peak(a, b, box, exact_gap.CELLS)
            if peak is None or Fraction(self.extra["exact"]) != peak.gap:
                raise CertificateRejected(f"{self.extra['exact']} is not the exact distance")
            return peak.gap
        if isinstance(self.proof, Reduced) and box is not None:
            left, right = (replace(net, output_map="identity") for net in (a, b))
            return Reduced.verify(self.proof, left, right, box)
        if isinstance(self.proof, Certificate):
            return certified(self.proof, a, b, box)
        raise Undecided(f"{self.kind} carries no certificate: {self.statement}")

    @staticmethod
    def _shown(a: Network, b: Network, box: Box | None, at: Any, output_map: str) -> Fraction:
        """How far apart exact values are at an input."""
        if at is None:
            return Fraction(0)
        x = tuple(Fraction(fields.real(end, "argmax")) for end in at)
        if len(x) != a.widths[0] or not _inside(x, box):
            raise CertificateRejected(f"argmax {_short(list(map(float, x)))} is not in the box")
        return apart(behind(evaluate(a, x), output_map), behind(evaluate(b, x), output_map))

    def _check_behind(
        self, a: Network, b: Network, box: Box | None, lower: float, upper: float
    ) -> None:
        if self.behind is None:
            return
        least, most = (fields.real(end, "behind", least=0.0) for end in self.behind)
        if a.output_map == "identity":
            fine = (least, most) == (lower, upper)
        else:
            at = self.extra.get("behind_at")
            fine = most >= _behind_at_most(upper, a.output_map) and (
                least == 0 or least <= self._shown(a, b, box, at, a.output_map)
            )
        if not fine:
            raise CertificateRejected(
                f"behind the output map {self.behind} is claimed, and not proved"
            )

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
        rows += [("largest found at", _short(list(self.argmax)))] if self.argmax else []
        return rows + ([("stopped", "when interrupted")] if self.interrupted else [])

    def data(self) -> dict[str, Any]:
        behind = None if self.behind is None else {"lower": self.behind[0], "upper": self.behind[1]}
        return {
            "lower": self.lower, "upper": self.upper, "argmax": self.argmax, "on": self.on,
            "output_map": self.output_map, "behind": behind, "interrupted": self.interrupted,
            **self.extra,
        }  # fmt: skip


def distance(
    a: Network, b: Network, on: Domain, seed: int | np.random.Generator, search: Search
) -> Distance:
    """See `api.distance`."""
    _require_one_map(a, b)
    bare = replace(a, output_map="identity"), replace(b, output_map="identity")
    if isinstance(on, (Gaussian, Samples)):
        return replace(_mean_square(*bare, on, seed, search.progress), output_map=a.output_map)
    found = _supremum(*bare, on, seed, search)
    if a.output_map == "identity":
        return replace(found, behind=(found.lower, found.upper))
    if isinstance(found.proof, Certificate):  # it speaks of what stands before the output map
        found = replace(found, proof=replace(found.proof, large=a.digest, small=b.digest))
    found = replace(found, a=a, b=b, output_map=a.output_map)
    return _with_behind(a, b, on, search.budget, seed, found)


def _behind_at_most(upper: float, output_map: str) -> float:
    """A bound before the output map, carried through it."""
    if upper == 0 or math.isinf(upper):
        return 0.0 if upper == 0 else span(output_map)
    return min(ceiling(Fraction(upper) * lipschitz(output_map)), span(output_map))


def _with_behind(
    a: Network, b: Network, on: Box | None, budget: int, seed: Any, found: Distance
) -> Distance:
    """With bounds of the distance of outputs: the upper end carried through the map, exact values
    behind it from below.
    """
    most = _behind_at_most(found.upper, a.output_map)
    if most == 0:
        return replace(found, behind=(0.0, 0.0))
    x = candidates(a, b, on, budget, np.random.default_rng(seed))
    tiny = math.ulp(0.0)  # so that outputs are compared, and not values before the map
    places = [find_witness(a, b, on, tiny, x, seed)]
    if found.argmax is not None:
        places.append(separated_at(a, b, tuple(map(Fraction, found.argmax)), tiny))
    best = max((w for w in places if w is not None), key=lambda w: w.gap, default=None)
    if best is None:
        return replace(found, behind=(0.0, most))
    at = tuple(map(float, best.input))
    return replace(
        found, behind=(0.0 - ceiling(-best.gap), most), extra={**found.extra, "behind_at": at}
    )


def _supremum(a: Network, b: Network, on: Box | None, seed: Any, search: Search) -> Distance:
    """Of networks without an output map."""
    box = on.of_dimension(a.widths[0]) if isinstance(on, Box) else None
    where = WHERE[box is not None]
    upper, proof = _upper(a, b, box, search.progress)
    found = Distance("bounded", 0.0, upper, None, where, a=a, b=b, box=box, proof=proof)
    if upper == 0:
        return replace(found, status="proved")
    peak = None if box is None else exact_gap.peak(a, b, box, search.budget, search.progress)
    if peak is not None:
        at, extra = tuple(map(float, peak.at)), {"exact": str(peak.gap)}
        lower, upper = 0.0 - ceiling(-peak.gap), ceiling(peak.gap)
        return Distance("proved", lower, upper, at, where, extra, a=a, b=b, box=box)
    x = candidates(a, b, on, search.budget, np.random.default_rng(seed))
    witnesses = [find_witness(a, b, on, 0.0, x, seed)]
    if box is not None:
        seen = -1.0 if witnesses[0] is None else 0.0 - ceiling(-witnesses[0].gap)
        narrow = enclosed(a, b, box, search._replace(seen=seen))
        witnesses.append(separated_at(a, b, tuple(map(Fraction, narrow.bound.at)), 0.0))
        if narrow.upper < upper:
            found = replace(found, upper=narrow.upper, proof=narrow.proof)
        found = replace(found, interrupted=narrow.interrupted)
    witness = max((w for w in witnesses if w is not None), key=lambda w: w.gap, default=None)
    if witness is not None:
        at, lower = tuple(map(float, witness.input)), 0.0 - ceiling(-witness.gap)
        found = replace(found, lower=lower, argmax=at)
    return replace(found, status="proved" if found.lower == found.upper else "bounded")


def _upper(
    a: Network, b: Network, box: Box | None, progress: Progress | None
) -> tuple[float, Certificate | None]:
    """Certified: matched units, or else the size of both functions, which has no certificate."""
    radius = _radius(box, a)
    best, proof = math.inf, None
    for m in matchings(a, b, progress):
        found = m.slack(radius).everywhere
        if found < best:
            best, proof = found, m.certificate(a, b)
        if best == 0:
            return best, proof
    size = math.nextafter(_size(a, radius) + _size(b, radius), math.inf)
    return (size, None) if size < best else (best, proof)


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
    if _upper(a, b, None, progress)[0] == 0:
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
