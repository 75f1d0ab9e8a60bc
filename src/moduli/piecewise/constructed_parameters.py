"""Identifiable parameters of given widths, constructed: drawn layer by layer so that the creases of
all layers so far can be seen (`architectures.constructed`), and proved.

Points on creases (`crease_points`) prove local identifiability, with any number of inputs;
`identifiability` more, where it can: one hidden layer among all parameters, up to three inputs and few
cells among those in general position. Networks for which it finds others with the same function
(units that can be turned together, which no first order shows) are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.kernel.box import Box
from moduli.kernel.errors import CertificateRejected, Undecided
from moduli.kernel.network import Network

from . import architectures, crease_margins, functional_dimension, identifiability
from .crease_points import CreasePoints
from .functional_dimension import Dimension
from .identifiability import Identifiability
from .polyhedral_complex import MOST, pieces

EXACT = 400  # cells of networks that are compared with others in rational arithmetic
FEW = 60  # hidden units of networks whose cells are counted
WIDE = 4096  # parameters up to which a radius is looked for
ASKED = 8  # networks that are proved locally, before the best answer so far is taken
SYSTEMS = 2_000  # linear systems that may be tried for each


@dataclass(frozen=True, eq=False, repr=False)
class IdentifiableParameters(Result):
    """Parameters that the function on a box determines, up to permutations and positive scaling.

    Attributes:
        status: "proved", or "undecided": none were found, `network` is the best one. scope: among
            whom: "global" all parameters of these widths, "generic" those in general position,
            "local" those close by; "" otherwise. on: the box. radius: every network whose parameters
            differ from these by at most so much, entry by entry, is locally identifiable on the box;
            None where none is proved. answer: what proves the scope. creases: what proves the radius.
    """

    network: Network
    on: Box
    scope: str
    radius: float | None
    answer: Identifiability
    creases: CreasePoints
    kind: ClassVar[str] = "identifiable_parameters"

    @property
    def widths(self) -> tuple[int, ...]:
        return self.network.widths

    def check(self) -> bool:
        """Prove the scope again, and the radius.

        Raises:
            CertificateRejected: naming what fails. Undecided: nothing was found.
        """
        if self.status != "proved":
            raise Undecided(f"{self.statement}: {self.answer.reason}")
        answer = self.answer
        if (answer.status, answer.scope) != (self.status, self.scope):
            raise CertificateRejected("the scope is not that of the answer")
        if answer.network != self.network or self.creases.network != self.network:
            raise CertificateRejected("the proofs are about another network")
        if answer.on != self.on or self.creases.box != self.on:
            raise CertificateRejected("the proofs are about another box")
        answer.check()
        if self.radius is not None:
            self.creases.check()
            if self.creases.unseen() or not crease_margins.holds(self.creases, self.radius):
                raise CertificateRejected(f"within {self.radius:g} a condition is not proved")
        return True

    @property
    def statement(self) -> str:
        name = "-".join(map(str, self.widths))
        if self.status != "proved":
            return f"no identifiable parameters of {name} networks (relu) were found"
        among = {
            "global": "among all parameters",
            "generic": "among parameters in general position",
            "local": "among parameters close by",
        }[self.scope]
        return f"parameters of a {name} network (relu), identifiable {among}"

    def asked(self) -> list[tuple[str, str]]:
        return [("widths", "-".join(map(str, self.widths))), ("on", repr(self.on))]

    def facts(self) -> list[tuple[str, str]]:
        near = (
            "none is proved"
            if self.radius is None
            else f"{self.radius:g}: all parameters within it are locally identifiable"
        )
        return [
            ("network", repr(self.network)),
            ("because", self.answer.reason),
            ("radius", near),
        ]

    def data(self) -> dict[str, Any]:
        layers = [[x.weight.tolist(), x.bias.tolist()] for x in self.network.layers]
        return {
            "widths": list(self.widths), "on": self.on.to_json(), "scope": self.scope or None,
            "radius": self.radius, "reason": self.answer.reason, "layers": layers,
            "digest": self.network.digest,
        }  # fmt: skip


def construct(
    widths: Sequence[int], budget: int, seed: int, progress: Progress | None = None
) -> IdentifiableParameters:
    """See `api.identifiable_parameters`."""
    widths = architectures.accepted(widths)
    best: IdentifiableParameters | None = None
    asked = 0
    for raw, wide in architectures.constructed(widths, budget, seed, progress, pieces=False):
        net, creases = _in_unit_box(raw, wide)
        found = _answer(net, creases)
        if best is None or _worth(found) > _worth(best):
            best = found
        asked += found.status == "proved"
        finest = found.scope in ("global", "generic") or not _may_be_generic(net)
        if asked >= ASKED or (finest and found.status == "proved" and not creases.unseen()):
            break
        if architectures.most(widths) < found.creases.most:
            break
    assert best is not None, "a network is tried whatever the budget"
    if best.status == "proved" and best.network.parameters <= WIDE:
        return replace(best, radius=crease_margins.radius(best.creases))
    return best


def _worth(found: IdentifiableParameters) -> tuple[int, bool]:
    """By scope, then whether creases show it, as the radius needs."""
    return ["", "local", "generic", "global"].index(found.scope), not found.creases.unseen()


def _may_be_generic(net: Network) -> bool:
    return net.widths[0] <= MOST and net.units <= FEW


def _in_unit_box(net: Network, creases: CreasePoints) -> tuple[Network, CreasePoints]:
    """The same with inputs in [-1, 1]: biases and points over a power of two, exactly."""
    scale = 1.0 / architectures.REACH
    arrays = [part for x in net.layers for part in (x.weight, x.bias * scale)]
    small = Network.mlp(*arrays, activation="relu")
    starts, ends, samples = (
        part * scale for part in (creases.starts, creases.ends, creases.samples)
    )
    return small, replace(
        creases, network=small, box=Box(-1, 1), starts=starts, ends=ends, samples=samples
    )


def _answer(net: Network, creases: CreasePoints) -> IdentifiableParameters:
    box, most = creases.box, creases.most
    known = identifiability.without_dimension(net, box)
    if known is not None:
        answer = known
    elif creases.shown == most or _may_be_generic(net):
        answer = _deep(net, creases)
    else:
        answer = _not_seen(creases, creases.shown)
    proved = answer.status == "proved"
    return IdentifiableParameters(
        "proved" if proved else "undecided", net, box, answer.scope if proved else "", None, answer,
        creases,
    )  # fmt: skip


def _not_seen(creases: CreasePoints, lower: int) -> Identifiability:
    most, runs = creases.most, architectures.most(creases.network.widths)
    missing = f"{most - lower} of {most} directions were not seen"
    if runs < most:
        missing = (
            f"the functional dimension is at most {runs} of {most}, by layers of width 1: almost all "
            "parameters of these widths have others close by, no copies, with the same function"
        )
    return Identifiability("undecided", creases.network, creases.box, "", missing)


def _deep(net: Network, creases: CreasePoints) -> Identifiability:
    """Among parameters in general position where that can be decided, else among those close by."""
    lower, most = creases.shown, creases.most
    if _may_be_generic(net):
        try:
            cells = pieces(net, creases.box, None, EXACT, None)
        except Undecided:
            cells = None
        if cells is not None:
            found = functional_dimension.dimension(cells, 0)
            if found.lower < most:
                return _not_seen(creases, found.lower)
            return identifiability.identifiable(net, creases.box, found, SYSTEMS)
    if lower < most:
        return _not_seen(creases, lower)
    found = Dimension("proved", most, most, creases)
    why = f"functional dimension {most}, parameters less hidden units"
    return Identifiability("proved", net, creases.box, "local", why, dimension=found)
