"""Whether two networks decide alike on a box: which output is the largest, not its value."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from moduli.common.exact_values import evaluate
from moduli.compression.box.stable_units import Stability, stable
from moduli.kernel.activations import Activation
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.bounds.decision import Decision, margins
from moduli.kernel.box import Box
from moduli.kernel.errors import ArgumentError, Asked, ShapeError
from moduli.kernel.exact_numbers import Interval
from moduli.kernel.network import Network

from .box_gap import Search
from .witness_search import Witness, candidates

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.intp]]
PAIRS = 256  # of inputs that are decided in two ways: a boundary is looked for between them
HALVINGS = 60


def require_decisions(net: Network) -> None:
    """Raise where no output can be the largest, or the output map hides which one is."""
    if net.widths[-1] < 2:
        raise ShapeError(
            f"{net} has one output: there is nothing to decide; compare values (",
            Asked("eps", 0.0),
            ")",
        )
    name = net.output_map
    if name not in ("identity", "softmax") and not Activation.of(name).injective:
        raise ArgumentError(
            Asked("decision", True),
            f": behind the output {name} values may be equal; compare the networks without it",
        )


def winner(values: Sequence[Interval]) -> int | None:
    """The output that is larger than all others, as far as enclosures tell."""
    best = max(range(len(values)), key=lambda k: values[k][0])
    rest = max(values[k][1] for k in range(len(values)) if k != best)
    return best if values[best][0] > rest else None


def decided_apart(a: Network, b: Network, x: tuple[Fraction, ...]) -> Witness | None:
    """The input as a witness, if exact values prove that the networks decide in different ways
    there.
    """
    p, q = evaluate(a, x), evaluate(b, x)
    first, second = winner(p), winner(q)
    if first is None or second is None or first == second:
        return None
    return Witness(x, tuple(p), tuple(q), a.output_map)


def search_decisions(
    a: Network, b: Network, box: Box, seed: int | np.random.Generator, search: Search
) -> Witness | Decision | str:
    """An input where they decide in different ways, or a proof that there is none, or why neither
    was found.
    """
    x = candidates(a, b, box, search.budget, np.random.default_rng(seed))
    if (witness := _seen_apart(a, b, x)) is not None:
        return witness
    kinds, first = np.unique(_decided(a, x), return_index=True)
    if len(kinds) > 1:
        return _both_ways(a, b, x)
    proofs = list[Region]()
    for net in (a, b):
        found = _proved(net, int(kinds[0]), box, seed, search)
        points = found.witnesses[-1][:, 0]
        if (witness := _seen_apart(a, b, points)) is not None:
            return witness
        if len(np.unique(_decided(net, points))) > 1 or (_decided(net, points) != kinds[0]).any():
            return _both_ways(a, b, np.concatenate([x[first], points]))
        if not (found.signs[-1] == 1).all():
            return f"output {int(kinds[0])} is the largest of both at {len(x)} inputs, which is not proved"
        ends = tuple(box.low.tolist()), tuple(box.high.tolist())
        signs = tuple(tuple(s.tolist()) for s in found.signs)
        proofs.append(Region(*ends, found.tree, signs, found.cases))
    return Decision(int(kinds[0]), *proofs)


def _proved(net: Network, best: int, box: Box, seed: Any, search: Search) -> Stability:
    """Signs of the margins, and of no other units."""
    ahead = margins(net, best)
    asked = np.arange(ahead.units) >= ahead.units - (net.widths[-1] - 1)
    return stable(
        ahead, box, asked=asked, budget=search.budget, seed=seed, executor=search.executor,
        progress=search.progress,
    )  # fmt: skip


def _decided(net: Network, x: Array) -> Ints:
    with np.errstate(all="ignore"):
        return np.asarray(np.nan_to_num(net.logits(x)).argmax(axis=1))


def _seen_apart(a: Network, b: Network, x: Array) -> Witness | None:
    apart = np.flatnonzero(_decided(a, x) != _decided(b, x))[:PAIRS]
    found = (decided_apart(a, b, tuple(map(Fraction, x[k].tolist()))) for k in apart)
    return next((witness for witness in found if witness is not None), None)


def _both_ways(a: Network, b: Network, x: Array) -> Witness | str:
    """Where one network decides in two ways the other has a boundary nearby, but not the same one:
    between the two lies an input that they decide in different ways.
    """
    kinds = _decided(a, x)
    other = np.flatnonzero(kinds != kinds[0])
    pick = np.resize(other, min(PAIRS, len(other)))
    start, end = np.repeat(x[:1], len(pick), axis=0), x[pick]
    places = []
    for net in (a, b):
        low, high = np.zeros(len(pick)), np.ones(len(pick))
        before = _decided(net, start)
        for _ in range(HALVINGS):
            middle = 0.5 * low + 0.5 * high
            same = _decided(net, start + middle[:, None] * (end - start)) == before
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        places.append(0.5 * low + 0.5 * high)
    between = 0.5 * places[0] + 0.5 * places[1]
    for k in np.argsort(-np.abs(places[0] - places[1]), kind="stable").tolist():
        p, q, t = ([Fraction(v) for v in row] for row in (start[k], end[k], between[k : k + 1]))
        point = tuple(u + t[0] * (v - u) for u, v in zip(p, q, strict=True))
        if (witness := decided_apart(a, b, point)) is not None:
            return witness
    return "decisions change on the box, and no input was found that the networks decide in different ways"
