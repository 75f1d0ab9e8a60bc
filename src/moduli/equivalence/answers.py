"""Answers about two networks: whether they are one function, how far apart they are; each is proved
again from what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from moduli.common.domains import Domain
from moduli.common.exact_values import evaluate
from moduli.common.result import Result, plain_float
from moduli.kernel import fields
from moduli.kernel.bounds.decision import Decision
from moduli.kernel.box import Box
from moduli.kernel.certificate import Certificate, proved
from moduli.kernel.errors import CertificateRejected, Undecided
from moduli.kernel.exact_numbers import above, below, ceiling
from moduli.kernel.network import Network, rebuilt
from moduli.kernel.rules import replay
from moduli.kernel.slack import difference

from . import exact_gap
from .box_gap import Reduced, claimed
from .decisions import decided_apart, require_decisions, winner
from .witness_search import Witness, allowed, apart, behind, lipschitz, separates, span

Array = np.ndarray[Any, np.dtype[np.float64]]
SHOWN = 8  # boxes in a table
LARGE = 1_000  # entries of inputs beyond which it is asked whether such inputs occur
BOUNDED = (
    "do such inputs occur? ask on a box of those that do (on), or within a tolerance there (eps)"
)
WHERE = ("sup over all inputs", "sup over the box")


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
        with fields.made_by_hand("result"):
            a, b = both(self.a, self.b)
            on, decision = again(self.on), fields.flag(self.decision, "decision")
            eps = fields.real(plain_float(self.eps), "eps", least=0.0)
            if decision:
                require_decisions(a)
            if self.status == "refuted" and self.witness is not None:
                return differ(a, b, self.witness, on, eps, decision)
            if self.status != "proved":
                return super().check()
            if decision and self.decided is not None and on is not None:
                Decision.verify(self.decided, a, b, on)
                return True
            # One function decides as itself; one that is near it need not.
            require(self._proved_on(on, a, b, decision), 0.0 if decision else eps, a)
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
            *([] if self.on is None else [("on", repr(self.on))]),
            ("answer", f"{self.glyph} {self.status}"),
            ("because", self.reason),
        ]
        if self.witness is not None:
            gap = self.witness.gap
            rows += [("differ at", short([float(q) for q in self.witness.input]))]
            if self.decision:
                rows += [("they decide", f"{winner(self.witness.a)} and {winner(self.witness.b)}")]
            elif gap:
                rows += [("by at least", f"{float(gap):.3g}")]
            if self.on is None and self._far:
                rows += [("to go further", BOUNDED)]
        if self.a.output_map != "identity":
            rows += [("outputs", f"behind the {self.a.output_map} of both")]
        return rows

    @property
    def _far(self) -> bool:
        """Whether the witness is an input that hardly anybody would give."""
        return self.witness is not None and max(map(abs, self.witness.input), default=0) > LARGE

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


@dataclass(frozen=True, eq=False, repr=False)
class BranchedEquivalence(Result):
    """Whether two networks are one function on each of several boxes, where it is not proved on their
    hull.

    Attributes:
        on: the hull. parts: the answers, one for each box; none is refuted, as such an answer is the
            answer.
    """

    on: Box
    parts: tuple[Any, ...]
    kind: ClassVar[str] = "equal"

    def __bool__(self) -> bool:
        return all(map(bool, self.parts))

    def check(self) -> bool:
        """Prove the answers again, and that they are of the boxes."""
        if self.status != "proved":
            return super().check()
        asked = [branch.to_json() for branch in self.on.branches]
        if [part.on and part.on.to_json() for part in self.parts] != asked:
            raise CertificateRejected("the answers are not one for each box")
        if len({(part.a.digest, part.b.digest, part.statement) for part in self.parts}) > 1:
            raise CertificateRejected("the answers are about other networks, or say other things")
        for part in self.parts:
            if part.status != "proved":
                raise CertificateRejected(f"on {part.on} nothing is proved")
        return all(part.check() for part in self.parts)

    @property
    def statement(self) -> str:
        what = self.parts[0].statement if self.status == "proved" else self._open[0].statement
        count = len(self.parts)
        if self.status == "proved":
            return f"on each of the {count} boxes: {what}"
        return f"on {len(self._open)} of the {count} boxes: {what}"

    @property
    def _open(self) -> list[Any]:
        return [part for part in self.parts if part.status != "proved"]

    def rows(self) -> list[tuple[str, str]]:
        first = self.parts[0]
        rows = [("a", repr(first.a)), ("b", repr(first.b)), ("on", repr(self.on))]
        rows += [("answer", f"{self.glyph} {self.status}")]
        shown = self.parts if len(self.parts) <= SHOWN else (*self._open, *self.parts)[:SHOWN]
        rows += [(repr(part.on), f"{part.glyph} {part.status}") for part in shown]
        left = len(self.parts) - len(shown)
        return [*rows, ("and", f"{left} boxes more")] if left else rows

    def data(self) -> dict[str, Any]:
        return {"on": self.on.to_json(), "parts": [part.to_json() for part in self.parts]}


def on_each_box(on: Box, ask: Callable[..., Any]) -> Any:
    """An answer on the hull of boxes where it is proved there, else on each of them.

    Args:
        ask: gives the answer on one box.
    """
    whole = ask(on=replace(on, hull_of=()))
    if whole.status == "proved":
        return whole
    parts = []
    for branch in on.branches:
        parts.append(ask(on=branch))
        if parts[-1].status == "refuted":  # by an input that is meant
            return parts[-1]
    status = "proved" if all(part.status == "proved" for part in parts) else "undecided"
    return BranchedEquivalence(status, on, tuple(parts))


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
        with fields.made_by_hand("result"):
            a, b = both(self.a, self.b)
            box = again(self.box)
            box = None if box is None else box.of_dimension(a.widths[0])
            if self.upper == math.inf:
                return super().check()
            lower, upper = (
                fields.real(plain_float(end), "an end", least=0.0)
                for end in (self.lower, self.upper)
            )
            exact = "exact" in self.extra
            if exact and (box is None or upper > math.nextafter(lower, math.inf)):
                raise CertificateRejected(f"from {lower} to {upper} is not exact")
            if self.status != ("proved" if exact or lower == upper else "bounded"):
                raise CertificateRejected(f"{self.status} from {lower} to {upper}")
            if (self.on, self.output_map) != (WHERE[box is not None], a.output_map):
                raise CertificateRejected(f"{self.on}, behind {self.output_map}, is said")
            found = self._proved(a, b, box)
            if found > upper:
                raise CertificateRejected(
                    f"a distance of at most {upper} is claimed, but only {float(found):.6g} is proved"
                )
            if "value" in self.extra:
                raise CertificateRejected("a mean is claimed, and none is proved")
            if exact:  # at a rational point, which argmax rounds
                shown = Fraction(found)
            else:
                shown = self._shown(a, b, box, self.argmax, "identity")
            if lower > shown:
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
        if len(x) != a.widths[0] or not inside(x, box):
            raise CertificateRejected(f"argmax {short(list(map(float, x)))} is not in the box")
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
            fine = most >= behind_at_most(upper, a.output_map) and (
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
        found = f"lies in [{below(self.lower, 6)}, {above(self.upper, 6)}]"
        if self.status == "proved" or self._narrow:
            found = f"is {self.upper:.6g}"
        if mapped and self.behind is not None:
            found += f", behind it in [{below(self.behind[0], 6)}, {above(self.behind[1], 6)}]"
        return f"{what} {found} ({self.where})"

    @property
    def where(self) -> str:
        """How and where they are compared, in words."""
        if self.box is None or self.on != WHERE[1]:
            return self.on
        return f"sup over {self.box!r}"

    def rows(self) -> list[tuple[str, str]]:
        between = f"{below(self.lower, 6)} <= . <= {above(self.upper, 6)}"
        if "value" in self.extra:
            between = f"~ {self.extra['value']:.6g}, between {below(self.lower, 6)} and {above(self.upper, 6)}"
            if self._narrow:
                between = f"~ {self.extra['value']:.9g}, to {self.upper - self.lower:.1g}"
        rows = [("distance", between), ("on", self.where), ("status", self.status)]
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
        rows += [("largest found at", short(list(self.argmax)))] if self.argmax else []
        if self.box is None and self.upper == math.inf:
            rows.append(("to go further", "ask on a box of the inputs that occur (on)"))
        return rows + ([("stopped", "when interrupted")] if self.interrupted else [])

    def data(self) -> dict[str, Any]:
        behind = None if self.behind is None else {"lower": self.behind[0], "upper": self.behind[1]}
        return {
            "lower": self.lower, "upper": self.upper, "argmax": self.argmax, "on": self.on,
            "output_map": self.output_map, "behind": behind, "interrupted": self.interrupted,
            **self.extra,
        }  # fmt: skip


def both(a: Network, b: Network) -> tuple[Network, Network]:
    """Two networks made anew that can be compared."""
    a, b = rebuilt(a), rebuilt(b)
    ends = [(net.widths[0], net.widths[-1], net.output_map) for net in (a, b)]
    if ends[0] != ends[1]:
        raise CertificateRejected(f"inputs, outputs or output map differ: {a} and {b}")
    return a, b


def differ(
    a: Network, b: Network, witness: Witness, on: Box | None, eps: float, decision: bool
) -> bool:
    """Whether exact values at a witness in the box tell the networks apart."""
    parts = [(q.numerator, q.denominator) for q in witness.input if type(q) is Fraction]
    if len(parts) < len(witness.input) or {type(n) for pair in parts for n in pair} - {int}:
        raise CertificateRejected("the witness is not a tuple of Fractions")
    x = tuple(Fraction(*pair) for pair in parts)
    if not inside(x, on):
        raise CertificateRejected(f"the witness {short(list(map(float, x)))} is not in the box")
    values = tuple(evaluate(a, x)), tuple(evaluate(b, x)), a.output_map
    if (tuple(witness.a), tuple(witness.b), witness.output_map) != values:
        raise CertificateRejected("other values are shown at the witness than the networks have")
    if decision:
        apart = decided_apart(a, b, x) is not None
    else:
        apart = separates(evaluate(a, x), evaluate(b, x), a.output_map, eps)
    if not apart:
        raise CertificateRejected("the networks do not differ at the witness")
    return True


def again(box: Box | None) -> Box | None:
    """A box made anew from its ends."""
    if box is None:
        return None
    with fields.made_by_hand("box"):
        return Box(np.array(box.low, np.float64), np.array(box.high, np.float64))


def short(values: list[float]) -> str:
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
        left.arrays(), right.arrays(), left.activations, radius=radius_of(on, a)
    ).everywhere


def require(found: float | Fraction, eps: float, net: Network) -> None:
    """What is proved before the output map must be enough behind it."""
    most = allowed(eps, net.output_map)
    if found > most:
        raise CertificateRejected(
            f"a difference up to {most}{before(net)} is claimed, but only {float(found):.6g} is proved"
        )


def radius_of(on: Domain, net: Network) -> Array | None:
    """The largest size of each input in a box."""
    if not isinstance(on, Box):
        return None
    box = on.of_dimension(net.widths[0])
    return np.asarray(np.maximum(np.abs(box.low), np.abs(box.high)))


def inside(x: Sequence[Fraction], on: Box | None) -> bool:
    if on is None:
        return True
    box = on.of_dimension(len(x))
    return all(
        low <= q <= high
        for q, low, high in zip(x, box.low.tolist(), box.high.tolist(), strict=True)
    )


def behind_at_most(upper: float, output_map: str) -> float:
    """A bound before the output map, carried through it."""
    if upper == 0 or math.isinf(upper):
        return 0.0 if upper == 0 else span(output_map)
    return min(ceiling(Fraction(upper) * lipschitz(output_map)), span(output_map))
