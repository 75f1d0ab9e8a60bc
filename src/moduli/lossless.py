"""Lossless compression and rank on all inputs: the search. What it proposes, the kernel checks, move by move.

One hidden layer with tanh, sigmoid or erf: the result is the smallest network (Sussmann 1992; Farrugia-Roberts 2023,
section 4). One hidden layer of an activation that bends (ReLU, leaky ReLU, abs): smallest for one output (see `turning`), and
where no two remaining units share a hyperplane. Anything deeper: sound, not claimed optimal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np

from . import creases, turning
from .certificate import Certificate, Move, State, Units, certify, proved, reducible, replay
from .enclosure import Number, class_keys, linear
from .errors import CertificateRejected, Undecided
from .network import Network
from .proximity import Near
from .result import Result

Progress = Callable[[int, int | None, str], None]
MOVES = {
    "drop": "dropped", "constant": "folded into a bias", "merge": "merged", "block": "by turning others",
    "skip": "with a linear layer",
}  # fmt: skip
EXACT = 2**18  # numbers of rows that are not floats, and are compared one by one


@dataclass(frozen=True, eq=False, repr=False)
class Compression(Result):
    """A smaller network with the same function.

    Attributes:
        network: the smaller network, parameters rounded once to float64.
        original: the network it came from.
        certificate: the proof.
        optimal: whether fewest units is proved, among the networks that `among` names.
        status: undecided where no float bounds what rounding changes.
    """

    network: Network
    original: Network
    proof: Certificate
    kind: ClassVar[str] = "compress"
    names: ClassVar[dict[str, str]] = MOVES

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
        """Whether no network of one hidden layer of this activation with fewer hidden units has this function.

        No hidden units are the fewest of all networks. Deeper networks may need fewer than one hidden layer does.
        """
        return self.proof.minimal or self.network.units == 0

    @property
    def among(self) -> str | None:
        """The networks among which the units are the fewest: "one hidden layer of tanh"; None where that is not claimed."""
        return one_layer(self.network) if self.optimal and self.network.units else None

    @property
    def slack(self) -> float:
        """Certified sup over all inputs of |network - original|; inf where it grows with the input, see `growth`."""
        return self.proof.slack.everywhere

    @property
    def growth(self) -> float:
        """The difference is at most constant + growth * |x|_inf."""
        return self.proof.slack.growth

    def within(self, radius: float) -> float:
        """Certified sup of |network - original|_inf over |x|_inf <= radius."""
        return self.proof.slack.within(radius)

    @property
    def error(self) -> None:
        """For L2 goals: none here."""
        return None

    def check(self) -> bool:
        if self.status == "undecided":
            return super().check()
        proved(self.proof, self.network, self.original)
        return True

    def rounded(self, dtype: str) -> Compression:
        """The same compression with parameters rounded to ``float32`` and the certificate of that network."""
        small = self.network.rounded(dtype)
        if small == self.network:
            return self
        return Compression("proved", small, self.original, certify(self.original, self.proof.large_moves, small))

    @property
    def removed(self) -> dict[str, int]:
        """Units removed, by move."""
        moves = self.proof.large_moves
        return {kind: sum(move.gone for move in moves if move.kind == kind) for kind in self.names}

    @property
    def statement(self) -> str:
        same = "the same function" if self.slack == 0 else f"the same function up to {self.proof.slack}"
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
        moves = ", ".join(f"{n} {self.names[kind]}" for kind, n in self.removed.items() if n)
        return [
            ("network", repr(self.original)),
            ("smaller", repr(self.network)),
            ("hidden units", f"{self.original.units} -> {self.network.units}" + (" (optimal)" if self.optimal else "")),
            ("parameters", f"{self.original.parameters} -> {self.network.parameters}"),
            ("removed", moves or "nothing"),
            ("same function", f"{self.glyph} proved on all inputs" + (", up to the slack" if self.slack else "")),
            ("slack", f"<= {self.proof.slack}" if self.slack else "= 0 (nothing was rounded)"),
        ]

    def data(self) -> dict[str, Any]:
        slack = self.proof.slack
        return {
            "widths": list(self.network.widths), "original_widths": list(self.original.widths),
            "units": self.network.units, "original_units": self.original.units,
            "parameters": self.network.parameters, "original_parameters": self.original.parameters,
            "removed": self.removed, "optimal": self.optimal, "among": self.among,
            "slack": None if slack.growth else slack.constant, "growth": slack.growth, "constant": slack.constant,
            "digest": self.network.digest, "original_digest": self.original.digest,
        }  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Rank(Result):
    """How many hidden units the function needs.

    Attributes:
        lower, upper: proved bounds; `lower` among the networks that `among` names, `upper` is attained by `witness`.
        of: hidden units of the network. reason: what the bounds rest on.
    """

    lower: int
    upper: int
    of: int
    original: Network
    moves: tuple[Move, ...] = field(default=())
    reason: str = ""
    found: Compression | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "rank"

    @property
    def exact(self) -> bool:
        return self.lower == self.upper

    @property
    def among(self) -> str | None:
        """The networks that need `lower` units: "one hidden layer of tanh"; None where that is 0, for all networks.

        Deeper networks may have the function with fewer units.
        """
        if not self.lower:
            return None
        return one_layer(self.original if len(self.original.layers) == 2 else self.compression.network)

    @cached_property
    def compression(self) -> Compression:
        """The network that reaches `upper`, with its certificate."""
        return self.found or _compression(self.original, self.moves)

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
            raise Undecided(f"rank is between {self.lower} and {self.upper}: {self.reason}", lower=self.lower, upper=self.upper)
        return self.upper

    @property
    def statement(self) -> str:
        among = f", in {self.among}" if self.among else ""
        if self.exact:
            return f"rank {self.upper} of {self.of} hidden units{among}"
        return f"rank between {self.lower} and {self.upper} of {self.of} hidden units{among}"

    def rows(self) -> list[tuple[str, str]]:
        bound = f"= {self.upper}" if self.exact else f"{self.lower} <= . <= {self.upper}"
        return [("network", repr(self.original)), ("rank", bound), ("because", self.reason)]

    def data(self) -> dict[str, Any]:
        return {
            "lower": self.lower, "upper": self.upper, "exact": self.exact, "of": self.of, "among": self.among,
            "reason": self.reason, "digest": self.original.digest,
        }  # fmt: skip


def one_layer(net: Network) -> str:
    """The class of networks in which minimality is a theorem, in words."""
    return f"one hidden layer of {net.activations[0]}"


def compress(net: Network, progress: Progress | None = None) -> Compression:
    """The smallest network found with the same function on all inputs."""
    state, moves = reduce(net, progress)
    return _compression(net, moves, state)


def _compression(net: Network, moves: tuple[Move, ...], state: State | None = None) -> Compression:
    state = state or replay(net, moves)
    small = state.network()
    return Compression("proved", small, net, certify(net, moves, small, state=state))


def rank(net: Network, progress: Progress | None = None) -> Rank:
    """The least number of hidden units with this function on all inputs; an interval where minimality is no theorem."""
    state, moves = reduce(net, progress)
    moves = (*moves, *flattened(state))
    upper = sum(state.widths[1:-1])
    if upper == 0:
        return Rank("proved", 0, 0, net.units, net, moves, no_units(state))
    why = reducible(state)
    if why is None:
        source = state.activations[0].source or "no unit can be spared, whichever way the others are turned"
        why = f"irreducible, hence minimal ({source})"
        if upper == 2 and needed(state) == 0 and state.activations[0].bends:
            why += "; the function is affine, without a hidden layer it needs no unit"
        return Rank("proved", upper, upper, net.units, net, moves, why)
    return Rank("bounded", needed(state), upper, net.units, net, moves, why)


def no_units(state: State) -> str:
    """Why no hidden unit is needed."""
    return "the function is affine" if len(state.alive) == 2 else "the function is constant"


def flattened(state: State) -> list[Move]:
    """Layers that are linear go, at any cost of parameters: a rank counts units.

    On all inputs a single layer that bends stays, as two units that face each other: the rank is one among such layers.
    """
    moves = list[Move]()
    for l in range(len(state.alive) - 2, 0, -1):
        alone = len(state.alive) == 3 and state.region is None and state.activations[0].bends
        move = None if alone else turning.flat(state, l)
        if move is not None and _accepted(state, move):
            moves.append(move)
    return moves


def needed(state: State) -> int:
    """A lower bound: for one hidden layer that bends, hyperplanes where the function does."""
    if len(state.alive) != 3 or not state.activations[0].bends:
        return 0
    found = creases.bends(state)
    if not isinstance(found, str):
        return len(found.seen)
    if state.region is not None:
        return 0
    w, b = state.weights[0].take(state.alive[1], state.alive[0]), state.biases[0].take(state.alive[1])
    if not (w.is_float() and b.is_float()):
        return 0
    keys, _ = class_keys(w.hi, b.hi, sign=True, scale=True)
    visible = (w.hi != 0).any(axis=1) & state.weights[1].take(state.alive[2], state.alive[1]).nonzero().any(axis=0)
    single, counts = np.unique(keys, return_counts=True)
    return int((np.isin(keys, single[counts == 1]) & visible).sum())


def reduce(net: Network, progress: Progress | None = None, near: Near | None = None) -> tuple[State, tuple[Move, ...]]:
    """Apply moves, layer by layer, until no rule applies; the kernel's state and the moves."""
    state = State(net, near)
    return state, tuple(settle(state, progress))


def settle(state: State, progress: Progress | None = None) -> list[Move]:
    """Moves that hold on all inputs, applied until no rule does."""
    moves = list[Move]()
    waiting, visits = set(range(1, len(state.weights))), 0
    while waiting:
        layer = min(waiting)
        waiting.remove(layer)
        if progress is not None:
            progress(visits, visits + len(waiting) + 1, f"layer {layer}")
        visits += 1
        before = len(moves)
        for move in _proposals(state, layer):
            moves.append(move)
        hidden = range(1, len(state.weights))
        if any(move.kind == "skip" for move in moves[before:]):
            waiting = set(hidden)
        elif len(moves) > before:
            waiting |= {layer - 1, layer + 1} & set(hidden)
    if progress is not None:
        progress(visits, visits, "reduced")
    return moves


def _proposals(state: State, l: int) -> Iterator[Move]:
    """Moves of one layer, each applied before it is yielded."""
    yield from _apply(state, l, "drop", _zero_outgoing(state, l))
    yield from _apply(state, l, "constant", _zero_incoming(state, l))
    activation = state.activations[l - 1]
    yield from _merge(state, l, sign=activation.symmetric, scale=False)
    if activation.homogeneous:
        yield from _merge(state, l, sign=activation.symmetric, scale=True)
    yield from _apply(state, l, "drop", _zero_outgoing(state, l))
    yield from _turned(state, l)


def _turned(state: State, l: int) -> Iterator[Move]:
    """The best block of fewer units that the kernel accepts, and again: with fewer units more can be tried."""
    while move := next(filter(partial(_accepted, state), turning.proposals(state, l)), None):
        yield move
        if move.kind == "skip":
            return


def _accepted(state: State, move: Move) -> bool:
    try:
        state.apply(move)
    except CertificateRejected:  # a unit that would bend is linear on the box, or the other way round
        return False
    return True


def _apply(state: State, l: int, kind: str, units: Units) -> Iterator[Move]:
    if len(units):
        move = Move(kind, l, units)
        state.apply(move)
        yield move


def _zero_outgoing(state: State, l: int) -> Units:
    columns = state.weights[l].take(state.alive[l + 1], state.alive[l]).nonzero().any(axis=0)
    return state.alive[l][~columns]


def _zero_incoming(state: State, l: int) -> Units:
    """Rows are read whole where that saves a copy; removed units are masked out afterwards."""
    every = np.arange(state.slots(l))
    heavy = np.flatnonzero(state.weights[l - 1].take(every, state.alive[l - 1]).nonzero().any(axis=1))
    zero = np.ones(len(every), dtype=bool)
    zero[heavy] = False
    return state.alive[l][zero[state.alive[l]]]


def _merge(state: State, l: int, *, sign: bool, scale: bool) -> Iterator[Move]:
    """Groups of equal keys; where ratios are signs, the kernel's check settles the rest."""
    every, alive = np.arange(state.slots(l)), state.alive[l]
    w = state.weights[l - 1].take(every, state.alive[l - 1])
    keys, signs = class_keys(w.hi, state.biases[l - 1].hi, sign=sign, scale=scale)
    order = alive[np.argsort(keys[alive], kind="stable")]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = keys[order[1:]] != keys[order[:-1]]
    leaders = order[fresh][np.cumsum(fresh) - 1]
    units, into = order[~fresh], leaders[~fresh]
    if scale and not w.is_float() and len(alive) * w.hi.shape[1] <= EXACT:
        yield from _merge_exact(state, l, alive.tolist(), sign)  # keys are of floats: they do not show such multiples
        return
    if not len(units):
        return
    if not scale:
        try:
            for factor in (1, -1):
                of = signs[units] * signs[into] == factor
                yield from _apply_merge(state, l, Fraction(factor), units[of], into[of])
            return
        except CertificateRejected:  # two rows with one key, astronomically rare among floats: settled exactly below
            present = set(state.alive[l].tolist())
            units = np.array([u for u in units.tolist() if u in present], dtype=np.intp)
    yield from _merge_exact(state, l, [*dict.fromkeys(into.tolist()), *units.tolist()], sign)


def _apply_merge(state: State, l: int, ratio: Fraction, units: Units, into: Units) -> Iterator[Move]:
    if len(units):
        move = Move("merge", l, units, into, ratio)
        state.apply(move)
        yield move


def _merge_exact(state: State, l: int, candidates: list[int], sign: bool) -> Iterator[Move]:
    """Group candidates by their exact rows, divided by the first non-zero weight where a factor is allowed."""
    groups: dict[tuple[Number, ...], list[tuple[Fraction, int]]] = {}
    homogeneous = state.activations[l - 1].homogeneous
    for unit in sorted(candidates):
        row = [state.weights[l - 1].get((unit, j)) for j in state.alive[l - 1].tolist()]
        lead = next((q for q in row if isinstance(q, Fraction) and q != 0), Fraction(1))
        if not homogeneous:
            lead /= abs(lead)
        if not sign:
            lead = abs(lead)
        key = tuple(linear([(1 / lead, q)]) for q in [*row, state.biases[l - 1].get((unit,))])
        groups.setdefault(key, []).append((lead, unit))
    moves: dict[Fraction, list[tuple[int, int]]] = {}
    for members in groups.values():
        leader = min(members, key=lambda m: (abs(m[0]), m[1]))
        for lead, unit in members:
            if unit != leader[1]:
                moves.setdefault(lead / leader[0], []).append((unit, leader[1]))
    for ratio, pairs in sorted(moves.items()):
        units, into = (np.array(side, dtype=np.intp) for side in zip(*pairs, strict=True))
        yield from _apply_merge(state, l, ratio, units, into)
