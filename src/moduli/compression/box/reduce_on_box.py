"""Fewer hidden units with the same function on a box: the search. What it proposes, `box_claim` and
`certificate` check.

`stable_units` proves which units never change sign, then all moves are tried (`reduce`). Before that,
units that later layers hide lose their outgoing weights (`masked_units`). Not tried: dependence of
features that bend, but for shared hyperplanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

from moduli.common.progress import Progress
from moduli.compression.certify import certify, first
from moduli.compression.exact.first_layers import SCALE, FirstLayers
from moduli.compression.exact.reduce import flattened, needed, no_units, settle
from moduli.compression.results import MOVES_ON_BOX, NEXT_ON_BOX, Compression, Rank
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.bounds.sign_splits import Case
from moduli.kernel.box import Box
from moduli.kernel.minimality import reducible
from moduli.kernel.network import Network
from moduli.kernel.rules import replay
from moduli.kernel.state import State

from .linear_programs import BOXES
from .masked_units import cuts
from .stable_units import Stability, stable


@dataclass(frozen=True, eq=False, repr=False)
class RegionalCompression(Compression):
    """A smaller network with the same function on a box.

    Attributes:
        stability: the signs of units of the original network that the proof uses. tried: a tolerance
            within which no further unit was found to go; 0 where none was asked for.
    """

    stability: Stability
    tried: float = 0.0
    names: ClassVar[dict[str, str]] = MOVES_ON_BOX
    next_step: ClassVar[str] = NEXT_ON_BOX

    @property
    def on(self) -> Box:
        return self.stability.box

    @property
    def masked_units(self) -> int:
        """How many units lost their outgoing weights because later layers hide them."""
        cases = self.proof.region.cases if self.proof.region is not None else ()
        return len(
            {(case.layer, case.assuming_active) for case in cases if case.assuming_active >= 0}
        )

    def rounded(self, dtype: str) -> Compression:
        small = self.network.rounded(dtype)
        if small == self.network:
            return self
        proof = certify(self.original, self.proof.large_moves, small, region=self.proof.region)
        return replace(self, network=small, proof=proof, computed=None)

    @property
    def first_layer(self) -> FirstLayers | None:
        """Units of the first layer, and how many are off on the box; None where none can be off."""
        if len(self.original.layers) < 2 or self.original.activations[0].exact(Fraction(-1)) != 0:
            return None
        constant = ~self.original.layers[0].weight.any(axis=1)
        off = (self.stability.signs[0] < 0) | constant
        return FirstLayers(len(off), int(off.sum()), int(constant.sum()))

    @property
    def statement(self) -> str:
        return f"{super().statement}, on {self.on!r}"

    def rows(self) -> list[tuple[str, str]]:
        (network, *rest) = super().rows()
        rows = dict([network, ("on", repr(self.on)), *rest])
        first = self.first_layer
        if first is not None:
            rows["first layer"] = str(first) + (f": {SCALE}" if first.suspicious else "")
        rows["same function"] = f"{self.glyph} proved on the box" + (
            ", up to the slack" if self.slack else ""
        )
        found = self.stability
        for name, sign in (("inactive", -1), ("active", 1)):
            rows[f"proved {name}"] = found.methods(sign) or "none"
        if self.tried:
            rows["within a tolerance"] = (
                f"no further unit was found that can go within {self.tried:g}"
            )
            if "to go further" in rows:
                rows["to go further"] = "a smaller box (on), or a larger tolerance on it (eps)"
        if self.masked_units:
            rows["hidden by later layers"] = str(self.masked_units)
        return [*rows.items(), ("bounded", found.effort)]

    def data(self) -> dict[str, Any]:
        rest = sum(int((u != 0).sum()) for u in self.stability.undecided)
        box = {"low": self.on.low.tolist(), "high": self.on.high.tolist()}
        found = self.stability
        effort = {"boxes": found.boxes, "parts": found.parts, "programs": found.programs}
        return {
            **super().data(),
            "box": box,
            **effort,
            "undecided": rest,
            "masked_units": self.masked_units,
            "tried": self.tried,
            "first_layer": None if self.first_layer is None else self.first_layer._asdict(),
        }


def compress(
    net: Network,
    on: Box,
    budget: int,
    seed: Any = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> RegionalCompression:
    """The smallest network found with the same function on a box.

    Args:
        budget: boxes to bound when signs of units are proved.
    """
    found = stable(net, on, budget=budget, seed=seed, executor=executor, progress=progress)
    cases = cuts(net, found.box, found.signs, budget // BOXES, seed, progress)
    claim = claimed(found, cases)
    state = State(first(net, claim), region=claim)
    moves = settle(state)
    small = state.network()
    proof = certify(net, moves, small, state=state, region=claim)
    return RegionalCompression("proved", small, net, proof, found)


def rank(
    net: Network,
    on: Box,
    budget: int,
    seed: Any = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Rank:
    """The least number of hidden units with this function on a box; an interval where minimality is
    no theorem.
    """
    small = compress(net, on, budget, seed, executor, progress)
    region = small.proof.region
    state = replay(first(net, region), small.proof.large_moves, region=region)
    more = flattened(state)
    if more:
        flat, moves = state.network(), (*small.proof.large_moves, *more)
        small = replace(
            small, network=flat, proof=certify(net, moves, flat, state=state, region=region)
        )
    upper, moves = small.network.units, small.proof.large_moves
    if small.optimal:
        why = "no unit can be spared on the box" if upper else f"{no_units(state)} on the box"
        return Rank("proved", upper, upper, net.units, net, moves, why, found=small, on=on)
    return Rank(
        "bounded",
        needed(state),
        upper,
        net.units,
        net,
        moves,
        reducible(state) or "",
        found=small,
        on=on,
    )


def claimed(found: Stability, cuts: Sequence[Case] = ()) -> Region:
    """What was proved of signs, and weights that play no part, as part of a certificate."""
    signs = tuple(tuple(s.tolist()) for s in found.signs)
    ends = tuple(found.box.low.tolist()), tuple(found.box.high.tolist())
    return Region(*ends, found.tree, signs, (*found.cases, *cuts))
