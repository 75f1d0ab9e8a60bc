"""Inputs where two networks differ: floats look for them, exact values at rational points decide."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from .activations import Activation
from .domains import Box, Domain
from .enclosure import Interval, enclose_value, evaluate
from .network import Network

Array = np.ndarray[Any, np.dtype[np.float64]]
STARTS, STEPS = 16, 40


class Witness(NamedTuple):
    """An input where two networks differ, and enclosures of both outputs (points where all values are rational)."""

    input: tuple[Fraction, ...]
    a: tuple[Interval, ...]
    b: tuple[Interval, ...]

    @property
    def gap(self) -> Fraction:
        """A lower bound of |a - b|_inf at the input."""
        return max((_gap(p, q) for p, q in zip(self.a, self.b, strict=True)), default=Fraction(0))


def _gap(p: Interval, q: Interval) -> Fraction:
    return max(p[0] - q[1], q[0] - p[1], Fraction(0))


def separated_at(a: Network, b: Network, x: tuple[Fraction, ...], eps: float) -> Witness | None:
    """The input as a witness, if exact values prove a difference above eps there."""
    p, q = evaluate(a, x), evaluate(b, x)
    return Witness(x, tuple(p), tuple(q)) if separates(p, q, a.output_map, eps) else None


def separates(p: Sequence[Interval], q: Sequence[Interval], output_map: str, eps: float) -> bool:
    """Whether enclosed outputs prove a difference above eps (for eps = 0, one that survives the output map)."""
    if eps > 0:
        return any(_gap(x, y) > Fraction(eps) for x, y in zip(p, q, strict=True))
    if output_map == "softmax":  # shifts of all outputs are invisible
        d = [(x[0] - y[1], x[1] - y[0]) for x, y in zip(p, q, strict=True)]
        return any(_gap(x, y) > 0 for x in d for y in d)
    act = Activation.of(output_map)
    if act.injective:
        return any(_gap(x, y) > 0 for x, y in zip(p, q, strict=True))
    return any(_gap(enclose_value(act, x), enclose_value(act, y)) > 0 for x, y in zip(p, q, strict=True))


def find_witness(a: Network, b: Network, on: Domain, eps: float, x: Array) -> Witness | None:
    """Of the best inputs, and those that ascent makes of them, the one where exact values differ most, if by more than eps."""
    gap = gaps(a, b, x)
    climbed = _ascend(a, b, x[np.argsort(-gap, kind="stable")[:STARTS]], on)
    found = [furthest(a, b, x, gap, eps), furthest(a, b, climbed, gaps(a, b, climbed), eps)]
    return max((w for w in found if w is not None), key=lambda w: w.gap, default=None)


def furthest(a: Network, b: Network, x: Array, gap: Array, eps: float) -> Witness | None:
    """The first of the three inputs of largest gap where exact values prove a difference above eps."""
    return _separated(a, b, x[np.argsort(-gap, kind="stable")[:3]], eps)


def _separated(a: Network, b: Network, x: Array, eps: float) -> Witness | None:
    found = (separated_at(a, b, tuple(map(Fraction, row.tolist())), eps) for row in x)
    return next((witness for witness in found if witness is not None), None)


def gaps(a: Network, b: Network, x: Array) -> Array:
    """The largest difference of outputs at each input, in floats; -1 where that is not finite."""
    with np.errstate(all="ignore"):
        gap = np.abs(a.logits(x) - b.logits(x)).max(axis=1)
    return np.where(np.isfinite(gap), gap, -1.0)


def seen_through(a: Network, x: Array, change: Array) -> Array:
    """How large a small change of the outputs is after the output map."""
    if a.output_map == "softmax":
        change = change - change.mean(axis=1, keepdims=True)
    else:
        with np.errstate(all="ignore"):
            change = change * Activation.of(a.output_map).derivative(a.logits(x))
    size = np.abs(change).max(axis=1)
    return np.where(np.isfinite(size), size, -1.0)


def _ascend(a: Network, b: Network, x: Array, on: Domain) -> Array:
    """Gradient ascent on the largest difference of outputs, each point with a step of its own."""
    box = on.of_dimension(a.widths[0]) if isinstance(on, Box) else None
    step, gap = np.full((len(x), 1), 0.25), gaps(a, b, x)
    for _ in range(STEPS):
        with np.errstate(all="ignore"):
            apart = a.logits(x) - b.logits(x)
            pick = np.zeros_like(apart)
            at = np.arange(len(x)), np.abs(np.nan_to_num(apart)).argmax(axis=1)
            pick[at] = np.sign(apart[at])
            slope = np.nan_to_num(a.pullback(x, pick) - b.pullback(x, pick))
        if box is not None:
            new = np.clip(x + step * (box.high - box.low) * np.sign(slope), box.low, box.high)
        else:
            size = np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-300)
            new = x + step * (1 + np.linalg.norm(x, axis=1, keepdims=True)) * slope / size
        higher = gaps(a, b, new)
        better = higher > gap
        x, gap = np.where(better[:, None], new, x), np.where(better, higher, gap)
        step = np.where(better[:, None], 1.5 * step, 0.5 * step)
    return x


def candidates(a: Network, b: Network, on: Domain, budget: int, rng: np.random.Generator) -> Array:
    """Points at several scales, on both sides of the hyperplanes of the first layers, and where their units are largest."""
    n = a.widths[0]
    if isinstance(on, Box):
        box = on.of_dimension(n)
        spread = rng.uniform(box.low, box.high, (max(1, budget // 4), n))
    else:
        spread = rng.standard_normal((max(1, budget // 4), n)) * rng.choice([0.1, 1.0, 10.0, 100.0], (max(1, budget // 4), 1))
    near = []
    for net in (a, b):
        w, c = net.layers[0].weight, net.layers[0].bias
        if len(w) and budget > 1:
            pick, base = rng.integers(0, len(w), budget // 4), spread[rng.integers(0, len(spread), budget // 4)]
            norm = np.maximum((w[pick] ** 2).sum(axis=1), 1e-300)
            step = -((w[pick] * base).sum(axis=1) + c[pick]) / norm * rng.choice([0.99, 1.0, 1.01], budget // 4)
            near.append(base + step[:, None] * w[pick])
            pick, side = rng.integers(0, len(w), budget // 8), rng.choice([-1.0, 1.0], (budget // 8, 1))
            near.append(np.where(side * w[pick] > 0, box.high, box.low) if isinstance(on, Box) else side * w[pick])
    x = np.concatenate([np.zeros((1, n)), spread, *near])
    x = x[np.isfinite(x).all(axis=1)]
    return np.asarray(np.clip(x, box.low, box.high)) if isinstance(on, Box) else x
