"""What compression without a tolerance answers: a smaller network with its proof, and how many
units a function needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from moduli.common.result import AsComputed, Result
from moduli.kernel.box import Box
from moduli.kernel.certificate import Certificate, proved
from moduli.kernel.errors import Undecided
from moduli.kernel.move import Move
from moduli.kernel.network import Network
from moduli.kernel.rules import replay
from moduli.kernel.state import State

from .certify import certify

MOVES = {
    "drop": "dropped", "constant": "folded into a bias", "inactive": "inactive", "merge": "merged",
    "block": "by linear dependence", "skip": "with a linear layer",
}  # fmt: skip
MOVES_ON_BOX = {**MOVES, "inactive": "inactive on the box"}
# Where nothing could go: what may let units go, in the words of the library and of the command line.
NEXT = (
    "ask on a box of the inputs that occur (on), there within a tolerance (eps); of parameters nearby "
    "(radius); for fewer units on average (on, units); or train so that units vanish (group lasso)"
)
NEXT_ON_BOX = "a smaller box (on), or a tolerance on it (eps)"
NEXT_NEARBY = "a larger radius, or a box of the inputs that occur (on)"


def removed(moves: Iterable[Move]) -> dict[str, int]:
    """How many units go by moves of each kind."""
    gone = dict.fromkeys(MOVES, 0)
    for move in moves:
        if move.kind in gone:
            gone[move.kind] += move.gone
    return gone


def counts(removed: dict[str, int], names: dict[str, str] = MOVES) -> str:
    """How many units went in which way, in words."""
    return ", ".join(f"{count} {names[kind]}" for kind, count in removed.items() if count)


class WithSlack:
    """What the certificate of a compression says of the largest difference of any entry of an output."""

    proof: Any

    @property
    def slack(self) -> float:
        """Certified largest difference, for the inputs that the certificate is about; inf where it grows
        with the input, see `growth`.
        """
        return float(self.proof.slack.everywhere)

    @property
    def growth(self) -> float:
        """The difference is at most constant + growth * |x|_inf."""
        return float(self.proof.slack.growth)

    def within(self, radius: float) -> float:
        """Certified largest difference for those inputs with |x|_inf <= radius."""
        return float(self.proof.slack.within(radius))


@dataclass(frozen=True, eq=False, repr=False)
class Compression(WithSlack, Result):
    """A smaller network with the same function.

    Attributes:
        network: the smaller network, parameters rounded once to float64.
        original: the network it came from.
        certificate: the proof.
        optimal: whether fewest units is proved, among the networks that `among` names.
        status: undecided where no float bounds what rounding changes.
        computed: how far both are apart as runtimes compute them, on the box, where that was asked for.
    """

    network: Network
    original: Network
    proof: Certificate
    computed: AsComputed | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "compress"
    names: ClassVar[dict[str, str]] = MOVES
    next_step: ClassVar[str] = NEXT

    def __post_init__(self) -> None:
        if not self.proof.slack.finite:
            object.__setattr__(self, "status", "undecided")
        super().__post_init__()

    @property
    def glyph(self) -> str:
        """Equality where nothing was rounded, a certified bound otherwise."""
        if self.status == "undecided":
            return super().glyph
        return "=" if self.slack == 0 else "<="

    @property
    def certificate(self) -> Certificate:
        return self.proof

    @property
    def optimal(self) -> bool:
        """Whether no network of one hidden layer of this activation with fewer hidden units has
        this function.

        No hidden units are the fewest of all networks. Deeper networks may need fewer than one
        hidden layer does.
        """
        return self.proof.minimal or self.network.units == 0

    @property
    def among(self) -> str | None:
        """The networks among which the units are the fewest: "one hidden layer of tanh"; None where
        that is not claimed.
        """
        return one_layer(self.network) if self.optimal and self.network.units else None

    @property
    def error(self) -> None:
        """For L2 goals: none here."""
        return None

    def check(self) -> bool:
        if self.status == "undecided":
            return super().check()
        proved(self.proof, self.network, self.original)
        return self.computed is None or self.computed.check()

    def rounded(self, dtype: str) -> Compression:
        """The same compression with parameters rounded to ``float32`` and the certificate of that
        network.
        """
        small = self.network.rounded(dtype)
        if small == self.network:
            return self
        return Compression(
            "proved", small, self.original, certify(self.original, self.proof.large_moves, small)
        )

    @property
    def removed(self) -> dict[str, int]:
        """Units removed, by move."""
        return removed(self.proof.large_moves)

    @property
    def statement(self) -> str:
        same = (
            "the same function"
            if self.slack == 0
            else f"the same function up to {self.proof.slack}"
        )
        if self.status == "undecided":
            same = "no float bounds what rounding the parameters changes; scale the weights of the network down first"
        return f"{self.original.units} -> {self.network.units} hidden units{self.fewest}; {same}"

    @property
    def fewest(self) -> str:
        """What is said of fewest units, as a part of a sentence."""
        if not self.optimal:
            return ""
        return ", the fewest possible" + (f" in {self.among}" if self.among else "")

    def rows(self) -> list[tuple[str, str]]:
        return [
            ("network", repr(self.original)),
            ("smaller", repr(self.network)),
            (
                "hidden units",
                f"{self.original.units} -> {self.network.units}"
                + (" (optimal)" if self.optimal else ""),
            ),
            ("parameters", f"{self.original.parameters} -> {self.network.parameters}"),
            ("removed", counts(self.removed, self.names) or "nothing"),
            *([] if any(self.removed.values()) else [("to go further", self.next_step)]),
            (
                "same function",
                f"{self.glyph} proved on all inputs" + (", up to the slack" if self.slack else ""),
            ),
            ("slack", f"<= {self.proof.slack}" if self.slack else "= 0 (nothing was rounded)"),
            *(self.computed.rows() if self.computed else []),
        ]

    def data(self) -> dict[str, Any]:
        slack = self.proof.slack
        return {
            "widths": list(self.network.widths), "original_widths": list(self.original.widths),
            "units": self.network.units, "original_units": self.original.units,
            "parameters": self.network.parameters, "original_parameters": self.original.parameters,
            "removed": self.removed, "optimal": self.optimal, "among": self.among,
            "slack": None if slack.growth else slack.constant, "growth": slack.growth,
            "constant": slack.constant, "digest": self.network.digest,
            "original_digest": self.original.digest,
            **({"computed": self.computed.data()} if self.computed else {}),
        }  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Rank(Result):
    """How many hidden units the function needs.

    Attributes:
        lower, upper: proved bounds; `lower` among the networks that `among` names, `upper` is
            attained by `witness`.
        of: hidden units of the network. reason: what the bounds rest on. on: the box; None for all
            inputs.
    """

    lower: int
    upper: int
    of: int
    original: Network
    moves: tuple[Move, ...] = field(default=())
    reason: str = ""
    found: Compression | None = field(default=None, kw_only=True)
    on: Box | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "rank"

    @property
    def exact(self) -> bool:
        return self.lower == self.upper

    @property
    def among(self) -> str | None:
        """The networks that need `lower` units: "one hidden layer of tanh"; None where that is 0,
        for all networks.

        Deeper networks may have the function with fewer units.
        """
        if not self.lower:
            return None
        shallow = self.original if len(self.original.layers) == 2 else self.compression.network
        return one_layer(shallow)

    @cached_property
    def compression(self) -> Compression:
        """The network that reaches `upper`, with its certificate."""
        return self.found or compression_of(self.original, self.moves)

    @property
    def witness(self) -> Network:
        return self.compression.network

    @property
    def certificate(self) -> Certificate:
        return self.compression.proof

    def check(self) -> bool:
        return self.compression.check() and self.compression.network.units == self.upper

    def __int__(self) -> int:
        if not self.exact:
            raise Undecided(
                f"rank is between {self.lower} and {self.upper}: {self.reason}",
                lower=self.lower,
                upper=self.upper,
            )
        return self.upper

    @property
    def statement(self) -> str:
        among = f", in {self.among}" if self.among else ""
        among += f", on {self.on!r}" if self.on is not None else ""
        if self.exact:
            return f"rank {self.upper} of {self.of} hidden units{among}"
        return f"rank between {self.lower} and {self.upper} of {self.of} hidden units{among}"

    def rows(self) -> list[tuple[str, str]]:
        bound = f"= {self.upper}" if self.exact else f"{self.lower} <= . <= {self.upper}"
        box = [] if self.on is None else [("on", repr(self.on))]
        return [("network", repr(self.original)), *box, ("rank", bound), ("because", self.reason)]

    def data(self) -> dict[str, Any]:
        return {
            "lower": self.lower, "upper": self.upper, "exact": self.exact, "of": self.of,
            "among": self.among, "reason": self.reason, "digest": self.original.digest,
            "box": None if self.on is None else {"low": self.on.low.tolist(), "high": self.on.high.tolist()},
        }  # fmt: skip


def one_layer(net: Network) -> str:
    """The class of networks in which minimality is a theorem, in words."""
    return f"one hidden layer of {net.activations[0]}"


def compression_of(
    net: Network, moves: tuple[Move, ...], state: State | None = None
) -> Compression:
    """The network that moves lead to, with its certificate; `state` where they were applied
    already.
    """
    state = state or replay(net, moves)
    small = state.network()
    return Compression("proved", small, net, certify(net, moves, small, state=state))
