"""The kernel: moves, replay, slack, check. Whoever doubts a result of this library needs to read
this file.

A *certificate* says of two networks of the same inputs and outputs, by the digests of their
parameters:

    for every input x,  |small(x) - large(x)|_inf <= constant + growth * |x|_inf        (outputs before the output map)

and, if `minimal`, that no network of one hidden layer with this activation and fewer hidden units
than `small` computes the function of `large`. With a radius (`cover_bound.Near`) both are said of
parameters that differ from those of `large` by at most the radius: `small` is compared with one of
them, and `minimal` says that none of them has fewer.

With a `box_claim.Region` the first is said of the inputs in a box instead,

    for every input x in the box,  |small(x) - large(x)|_inf <= constant,

and `minimal` of functions on the box; signs of units of `large`, proved on the box, then allow
further moves (see `substitution`). Weights that play no part there are zero before the first move
(see `sign_splits`). With `output_gap.Changed` beside it the moves start at other parameters, proved
to change the outputs on the box by little, which counts into the constant; signs are then those of
units of that network, and nothing is minimal. With an `output_gap.GapBound` what is left after all
moves, rounded once, is compared by bounds on the parts of the box, whatever its widths. With
`creases` both sides are, after their moves, one function of `creases`, and nothing is rounded.

The proof is a list of *moves* for each side. Every move keeps the function exactly, and the kernel
checks its precondition in exact arithmetic (`exact_numbers.ExactArray`; a stored float is a
rational). What is left is compared entry by entry, and the difference is carried through the layers
with outward-rounded bounds. No search, no solver and no tolerance takes part.

| move | precondition | effect on the next layer |
|---|---|---|
| constant | incoming weights all zero | bias += outgoing * s(bias of the unit) |
| drop | outgoing weights all zero | none |
| merge | row = ratio * row of another unit, s(ratio z) = a s(z) + k z + g | column of the other += a * outgoing, ... |
| scale | s(z / ratio) = a s(z) + k z + g | outgoing *= a, ... |
| permute | an order of all remaining units | columns reordered |
| tanh | s is the sigmoid: 1/2 + 1/2 tanh(z/2), for a whole layer | outgoing *= 1/2, bias += 1/2 outgoing |
| block | other units in the place of some, with the same sum, see `substitution` | columns of these |

... : bias += g * outgoing, and the linear parts k * outgoing * row must cancel over the move, up to a constant.
skip: a layer that is linear goes; inactive: on a box only; for both see `substitution`. Layers
count from 1; units are named by their place in the original network throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from . import arithmetic, fields
from .bounds.box_claim import Region
from .bounds.output_gap import Changed, GapBound, measures
from .creases import creased
from .errors import CertificateRejected, UnsupportedModel
from .exact_numbers import ExactArray, sum_up
from .minimality import reducible
from .move import Move
from .network import Layer, Network, rebuilt
from .radius.compatibility import ParameterBall
from .radius.cover_bound import Near
from .rules import replay
from .slack import NO_SLACK, Layers, Slack, difference
from .state import State

Array = np.ndarray[Any, np.dtype[np.float64]]
Units = np.ndarray[Any, np.dtype[np.intp]]
SCHEMA = "moduli.certificate/1"
SYMBOLS = 2**25  # coefficients of a zonotope
PARTS: dict[str, Any] = {"near": Near, "region": Region, "changed": Changed, "apart": GapBound}


@dataclass(frozen=True)
class Certificate:
    """A claim about two networks with its proof; the claim is stated at the top of this module."""

    large: str
    small: str
    large_moves: tuple[Move, ...]
    small_moves: tuple[Move, ...] = ()
    slack: Slack = NO_SLACK
    minimal: bool = False
    near: Near | None = None
    region: Region | None = None
    changed: Changed | None = None
    apart: GapBound | None = None
    creases: bool = False

    def __repr__(self) -> str:
        moves = len(self.large_moves) + len(self.small_moves)
        return f"<certificate: {self.small[:19]}... is {self.large[:19]}... after {moves} moves, slack {self.slack}>"

    def verify(self, small: Network, large: Network) -> None:
        """Check the claim for two networks, trusting nothing but this module, those it imports, and
        the two networks.

        Raises:
            CertificateRejected: naming the move or the claim that fails.
            Undecided: this process does not compute as IEEE 754 asks (see `arithmetic`).
        """
        proved(self, small, large)

    def _verify(self, small: Network, large: Network) -> None:
        if (small.digest, large.digest) == (self.large, self.small) != (self.small, self.large):
            raise CertificateRejected(
                "the networks are swapped: give the smaller one first, the original second"
            )
        for side, net, digest in (("large", large, self.large), ("small", small, self.small)):
            if net.digest != digest:
                raise CertificateRejected(
                    f"the {side} network is not the certified one: digest {net.digest}, not {digest}"
                )
        if (small.widths[0], small.widths[-1], small.output_map) != (
            large.widths[0],
            large.widths[-1],
            large.output_map,
        ):
            raise CertificateRejected(f"inputs, outputs or output map differ: {small} and {large}")
        start = self._start(large)
        # Beside a bound by parts of the box all moves hold for all inputs.
        region = self.region if self.apart is None else None
        left = replay(start, self.large_moves, self.near, region)
        right = replay(small, self.small_moves)
        found = self._found(left, right)
        if not (found.constant <= self.slack.constant and found.growth <= self.slack.growth):
            raise CertificateRejected(f"slack {self.slack} is claimed, but only {found} is proved")
        if self.near is not None and self.near.bound is not None:
            self.near.bound.verify(ball(large, self.near.radius))
        if self.minimal and (why := self.not_minimal(left, small)):
            raise CertificateRejected(f"minimality is claimed, but {why}")

    def _found(self, left: State, right: State) -> Slack:
        """The difference of what both sides are after all moves, as far as it is proved."""
        if self.creases and any(getattr(self, name) is not None for name in PARTS):
            raise CertificateRejected("equal creases are claimed beside another domain or proof")
        if self.apart is not None:
            if self.region is None or self.near is not None or self.changed is not None:
                raise CertificateRejected(
                    "a difference by parts of a box is claimed without a box, or of changed parameters"
                )
            return Slack(on_parts(left, right, self.region, self.apart), 0.0)
        if self.creases:
            found = creased(left)
            if found is None or found != creased(right):
                raise CertificateRejected("equal creases are claimed, and they are not equal")
            return NO_SLACK
        if left.widths != right.widths or left.activations != right.activations:
            raise CertificateRejected(
                f"after all moves the widths are {left.widths} and {right.widths}; they must agree"
            )
        return slack_of(left, right.arrays(), self.region, self.changed)

    def _start(self, large: Network) -> Network:
        """The network at which the moves start, after the check of what is claimed on a box."""
        if self.region is None:
            if self.changed is not None:
                raise CertificateRejected(
                    "parameters are changed, and no box says where the outputs stay close"
                )
            return large
        if self.near is not None:
            raise CertificateRejected(
                "a claim is made on a box or within a radius of parameters, not both"
            )
        start = large if self.changed is None else self.changed.network(large)
        without = self.region.verify(start)
        if self.changed is not None:
            self.changed.enclosure.verify(large, start, self.region.box)
        return without

    def not_minimal(self, left: State, small: Network) -> str | None:
        if self.changed is not None:
            return "parameters are changed"
        if self.apart is not None or self.creases:
            return "moves do not end at one network"
        if small.units != sum(left.widths[1:-1]):
            return f"the small network has {small.units} units, and moves leave {sum(left.widths[1:-1])}"
        if self.near is None:
            return reducible(left)
        lower, units = self.near.bound.lower if self.near.bound else 0, sum(left.widths[1:-1])
        return (
            None
            if lower == units
            else f"{units} units remain and at least {lower} are proved to be needed"
        )

    def plain(self) -> dict[str, Any]:
        """Its fields, for `of` to read again: numbers as they are."""
        out: dict[str, Any] = {
            "schema": SCHEMA, "large": self.large, "small": self.small,
            "slack": {"constant": self.slack.constant, "growth": self.slack.growth},
            "minimal": self.minimal, "large_moves": [m.plain() for m in self.large_moves],
            "small_moves": [m.plain() for m in self.small_moves],
        }  # fmt: skip
        for name in PARTS:
            part = getattr(self, name)
            if part is not None:
                out[name] = part.plain()
        return {**out, "creases": True} if self.creases else out

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = fields.jsonable(self.plain())
        return found

    @staticmethod
    def from_json(text: str | bytes) -> Certificate:
        """Read a certificate; strict: unknown, missing or doubled fields are refused."""
        return fields.read_json(text, Certificate._of)

    @staticmethod
    def _of(data: Any) -> Certificate:
        names = ("schema", "large", "small", "slack", "minimal", "large_moves", "small_moves")
        read = fields.record(
            data, names, f"a certificate of schema {SCHEMA}", maybe=(*PARTS, "creases")
        )
        if fields.text(read["schema"], "schema") != SCHEMA:
            raise CertificateRejected(
                f"not a certificate of schema {SCHEMA} but of {read['schema']}"
            )
        slack = fields.record(read["slack"], ("constant", "growth"), "slack")
        constant, growth = (
            fields.real(slack[name], f"{name} of the slack", least=0.0)
            for name in ("constant", "growth")
        )
        large_moves, small_moves = (
            tuple(map(Move.from_json, fields.items(read[k], k))) for k in names[-2:]
        )
        return Certificate(
            fields.text(read["large"], "large"), fields.text(read["small"], "small"), large_moves,
            small_moves, Slack(constant, growth), fields.flag(read["minimal"], "minimal"),
            **{name: part.from_json(read[name]) for name, part in PARTS.items() if name in read},
            creases=fields.flag(read.get("creases", False), "creases"),
        )  # fmt: skip


class Proved(NamedTuple):
    """A certificate that was checked, and the networks that it is about."""

    certificate: Certificate
    small: Network
    large: Network


@np.errstate(all="ignore")
def proved(certificate: Certificate, small: Network, large: Network) -> Proved:
    """What `Certificate.verify` checks, made anew of what is given: whoever speaks of the claim
    afterwards takes it from here.

    An object made in Python may hold anything, and a class derived from one of these may say
    anything. So the certificate is read again as if from a file, and the networks, with their
    digests, are made again from their arrays.
    """
    arithmetic.require_everywhere()
    with fields.made_by_hand("certificate"):
        claim = Certificate._of(certificate.plain())
    with fields.made_by_hand("network"):
        found = Proved(claim, rebuilt(small), rebuilt(large))
    claim._verify(found.small, found.large)
    return found


def ball(net: Network, radius: float) -> ParameterBall:
    """The parameters within a radius of a network whose rank the kernel can bound from below.

    Raises:
        CertificateRejected: more than one hidden layer, or an activation whose irreducible networks
            need not be minimal.
    """
    if len(net.layers) != 2 or not (net.activations[0].minimal and net.activations[0].symmetric):
        raise CertificateRejected(
            f"lower bounds within a radius are known for one hidden layer of tanh, sigmoid or erf, not {net}"
        )
    hidden, last = net.layers
    rows = np.concatenate([hidden.weight, hidden.bias[:, None]], axis=1)
    return ParameterBall(rows, np.ascontiguousarray(last.weight.T), radius)


def slack_of(left: State, right: Layers, region: Region | None, changed: Changed | None) -> Slack:
    """The difference on all inputs, or on the box of a region; plus what changed parameters do
    there.
    """
    radius = None if region is None else region.radius
    right = list(right)
    found = difference(left.arrays(), right, left.activations, radius=radius)
    if region is not None and found.constant > 0:
        found = Slack(min(found.constant, _near(left, right, region)), found.growth)
    if changed is None:
        return found
    return replace(found, constant=sum_up(found.constant, changed.enclosure.upper))


def _near(left: State, right: Sequence[tuple[ExactArray, ExactArray]], region: Region) -> float:
    """The difference on the box of a region by zonotopes, which follow signs; infinite where they do
    not apply.
    """
    size = max(left.widths) * (left.widths[0] + sum(left.widths[1:-1]))
    if size > SYMBOLS or not all(part.is_float() for layer in right for part in layer):
        return math.inf
    try:
        a = left.network()
    except UnsupportedModel:
        return math.inf
    layers = [
        Layer(weight.hi, bias.hi, layer.activation)
        for (weight, bias), layer in zip(right, a.layers, strict=True)
    ]
    box = region.box
    found = measures(a, a.with_layers(layers))["zonotopes"](box.low[None], box.high[None], 0.0, 0.0)
    return sum_up(float(found.top[0]), rounded(left, region.radius))


def on_parts(left: State, right: State, region: Region, apart: GapBound) -> float:
    """The difference on a box, by bounds on its parts, of two networks that are rounded once."""
    try:
        a, b = left.network(), right.network()
    except UnsupportedModel as error:
        raise CertificateRejected(f"moves leave no network of floats: {error}") from None
    apart.verify(a, b, region.box)
    return sum_up(apart.upper, rounded(left, region.radius), rounded(right, region.radius))


def rounded(state: State, radius: Array) -> float:
    """What rounding exact parameters once changes for inputs of these sizes."""
    net = state.network()
    once = [(ExactArray(layer.weight), ExactArray(layer.bias)) for layer in net.layers]
    return difference(state.arrays(), once, state.activations, radius=radius).everywhere
