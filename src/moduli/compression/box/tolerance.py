"""Fewer hidden units on a box within a tolerance: parameters are changed, the change is certified,
the rest is lossless.

Two steps in one certificate: bounds of |original - changed| on the box by bisection (`bisection`),
for two networks of one architecture; then `reduce_on_box.compress` of the changed network, exact
but for one rounding. Changes are such that a unit goes: its row becomes zero (nearly constant
units), a multiple of another row (nearly dependent ones), or its bias moves so that it never bends
(nearly stable ones). Tried in the order of their effect at points: all together, then halves, and
so on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from moduli.common.progress import Progress
from moduli.common.result import plain_float
from moduli.compression.certify import certify
from moduli.compression.results import Compression
from moduli.kernel import fields
from moduli.kernel.bounds.output_gap import Changed, GapBound
from moduli.kernel.box import Box
from moduli.kernel.certificate import proved
from moduli.kernel.errors import ArgumentError, Asked, CertificateRejected
from moduli.kernel.exact_numbers import ExactArray, above, two_product
from moduli.kernel.network import Layer, Network
from moduli.kernel.radius import cover_bound

from . import bisection, reduce_on_box
from .reduce_on_box import RegionalCompression
from .seen_signs import CLIMB
from .stable_units import bisection_budget

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.intp]]
POINTS = 512  # at which a change is tried before it is bounded
SHARE = 8  # one in so many boxes of the budget bounds changes
TRIES = 16  # sets of changes at most
FEW = 16  # points, at least, at which the effect of a change is looked at
KINDS = 4  # changes of a unit that are tried


@dataclass(frozen=True, eq=False, repr=False)
class Within(Compression):
    """A smaller network whose outputs differ by at most `error` on a box.

    Attributes:
        eps: the tolerance. boxes: how many were bounded to prove the difference.
    """

    eps: float
    boxes: int

    @property
    def glyph(self) -> str:
        return "<="

    @property
    def on(self) -> Box:
        assert self.proof.region is not None
        return self.proof.region.box

    @property
    def error(self) -> float:  # type: ignore[override]
        """Certified sup over the box of |network - original|."""
        return self.proof.slack.constant

    def check(self) -> bool:
        """Prove both steps anew; raises `CertificateRejected`."""
        found = proved(self.proof, self.network, self.original).certificate.slack.constant
        eps = fields.real(plain_float(self.eps), "eps", least=0.0)
        if not found <= eps:
            raise CertificateRejected(
                f"a difference up to {self.eps} is claimed, but only {found} is proved"
            )
        return self.computed is None or self.computed.check()

    def rounded(self, dtype: str) -> Within:
        """The same with parameters rounded to ``float32``; the tolerance grows where that costs
        more than is left of it.
        """
        small, old = self.network.rounded(dtype), self.proof
        proof = certify(
            self.original, old.large_moves, small, region=old.region, changed=old.changed
        )
        eps = max(self.eps, proof.slack.constant)
        return replace(self, network=small, proof=proof, eps=eps, computed=None)

    @property
    def statement(self) -> str:
        sizes = f"{self.original.units} -> {self.network.units} hidden units"
        return f"{sizes}; outputs differ by at most {above(self.error, 3)} on {self.on!r}"

    def rows(self) -> list[tuple[str, str]]:
        return [
            ("network", repr(self.original)), ("on", repr(self.on)),
            ("smaller", repr(self.network)),
            ("hidden units", f"{self.original.units} -> {self.network.units}"),
            ("parameters", f"{self.original.parameters} -> {self.network.parameters}"),
            ("difference", f"<= {above(self.error, 3)} proved on the box (allowed: {self.eps:.3g})"),
            ("boxes bounded", str(self.boxes)), *(self.computed.rows() if self.computed else []),
        ]  # fmt: skip

    def data(self) -> dict[str, Any]:
        return {
            "widths": list(self.network.widths), "original_widths": list(self.original.widths),
            "units": self.network.units, "original_units": self.original.units,
            "parameters": self.network.parameters, "original_parameters": self.original.parameters,
            "eps": self.eps, "error": self.error, "boxes": self.boxes,
            "box": {"low": self.on.low.tolist(), "high": self.on.high.tolist()},
            "digest": self.network.digest, "original_digest": self.original.digest,
            **({"computed": self.computed.data()} if self.computed else {}),
        }  # fmt: skip


class UnitChange(NamedTuple):
    """New row and bias of a unit, and what is added to the next biases."""

    layer: int
    unit: int
    row: Array
    bias: float
    shift: Array
    into: int = -1


def compress(
    net: Network,
    on: Box,
    eps: float,
    budget: int,
    seed: Any = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> RegionalCompression | Within:
    """The smallest network found within eps on a box; lossless if no change helps."""
    if not (eps > 0 and math.isfinite(eps)):
        raise ArgumentError(Asked("eps", eps), ": a finite non-negative number is needed")
    box = on.of_dimension(net.widths[0])
    best = reduce_on_box.compress(net, box, budget, seed, executor, progress)
    known = zip(best.stability.signs, net.activations, strict=True)
    units = [np.flatnonzero((signs >= 0) | (not s.bends)) for signs, s in known]
    units, count = _affordable(net, units, box.sample(FEW, net.widths[0], seed), budget)
    changes = _ordered(net, units, box.sample(count, net.widths[0], seed), eps)
    points = box.sample(8 * POINTS, net.widths[0], seed)
    boxes = max(1, bisection_budget(net.widths[0], budget) // SHARE)
    kept, enclosure = _kept(net, changes, points, box, eps, boxes, executor, progress)
    if enclosure is None:
        return replace(best, tried=eps)
    changed = _changed(net, kept)
    step = reduce_on_box.compress(changed, box, budget, seed, executor)
    between = changed_between(net, changed, enclosure)
    proof = certify(
        net, step.proof.large_moves, step.network, region=step.proof.region, changed=between
    )
    if proof.slack.constant > eps or step.network.units >= best.network.units:
        return replace(best, tried=eps)
    return Within("bounded", step.network, net, proof, eps, enclosure.boxes)


def changed_between(a: Network, b: Network, enclosure: GapBound) -> Changed:
    """From the parameters of one network to those of another, of one architecture."""
    changes = []
    for l, (old, new) in enumerate(zip(a.layers, b.layers, strict=True), 1):
        for part, p, q in (("weight", old.weight, new.weight), ("bias", old.bias, new.bias)):
            at = np.flatnonzero(p != q)
            if len(at):
                changes.append(cover_bound.Change(l, part, at, ExactArray(q.ravel()[at])))
    return Changed(tuple(changes), enclosure)


def _kept(
    net: Network,
    changes: list[UnitChange],
    points: Array,
    box: Box,
    eps: float,
    budget: int,
    executor: Executor | None,
    progress: Progress | None,
) -> tuple[list[UnitChange], GapBound | None]:
    """Changes that together are proved to stay within eps: all, or else halves, quarters, ... of
    those that are left.
    """
    kept, proof, waiting, size, tries = list[UnitChange](), None, changes, len(changes), 0
    y, most = (
        net.logits(points),
        max(1, min(TRIES, SHARE * budget // (4 * bisection.price(net, net)))),
    )
    while size and tries < most:
        left = list[UnitChange]()
        for start in range(0, len(waiting), size):
            part = waiting[start : start + size]
            trial = _changed(net, [*kept, *part])
            if tries < most and np.abs(trial.logits(points) - y).max() <= eps:
                if progress is not None:
                    progress(tries, most, f"{len(kept)} changes kept")
                tries += 1
                found = bisection.enclose(
                    net, trial, box, budget, eps=eps * (1 - 2.0**-20), executor=executor
                )
                if found.upper <= eps:
                    kept, proof, part = [*kept, *part], found, []
            left += part
        waiting, size = left, min(size // 2, len(left))
    return kept, proof


def _changed(net: Network, changes: list[UnitChange]) -> Network:
    """Changes in order; a unit that others were merged into, or that has changed, stays as it is."""
    weights, biases = (
        [np.array(x.weight) for x in net.layers],
        [np.array(x.bias) for x in net.layers],
    )
    touched = set[tuple[int, int]]()
    for c in changes:
        names = {(c.layer, c.unit), (c.layer, c.into)} - {(c.layer, -1)}
        if not names & touched:
            touched |= names
            weights[c.layer][c.unit], biases[c.layer][c.unit] = c.row, c.bias
            biases[c.layer + 1] = biases[c.layer + 1] + c.shift
    return net.with_layers(
        [Layer(w, b, x.activation) for w, b, x in zip(weights, biases, net.layers, strict=True)]
    )


def _affordable(net: Network, units: list[Ints], x: Array, budget: int) -> tuple[list[Ints], int]:
    """Units of which changes are tried, and at how many points: fewer points, then units that
    matter least, by the budget.
    """
    most, each = budget * CLIMB, KINDS * sum(layer.weight.size for layer in net.layers)
    total = sum(map(len, units))
    if total * each * POINTS <= most:
        return units, POINTS
    count = int(np.clip(most // max(1, total * each), FEW, POINTS))
    size, h = list[Array](), x
    for l, (layer, some) in enumerate(zip(net.layers[:-1], units, strict=True)):
        h = layer(h)
        size.append(
            np.ptp(h[:, some], axis=0)
            * np.abs(net.layers[l + 1].weight[:, some]).max(axis=0, initial=0.0)
        )
    order = np.argsort(np.concatenate(size), kind="stable")[: most // (each * count)]
    keep = np.zeros(total, dtype=bool)
    keep[order] = True
    ends = np.cumsum([len(some) for some in units])[:-1]
    return [some[mask] for some, mask in zip(units, np.split(keep, ends), strict=True)], count


def _ordered(net: Network, units: list[Ints], x: Array, eps: float) -> list[UnitChange]:
    """Changes of units that alone stay within eps at points, by their effect there; the best of
    each.
    """
    y, found = net.logits(x), list[tuple[float, int, UnitChange]]()
    for l, layer in enumerate(net.layers[:-1]):
        if not len(units[l]):
            continue
        z = Network((*net.layers[:l], replace(layer, activation=net.layers[-1].activation))).logits(
            x
        )
        for unit in units[l].tolist():
            best: tuple[float, int, UnitChange] | None = None
            for change in _proposals(net, l, unit, z):
                effect = float(np.abs(_changed(net, [change]).logits(x) - y).max())
                if effect <= eps and (best is None or effect < best[0]):
                    best = effect, len(found), change
            found += [] if best is None else [best]
    return [change for _, _, change in sorted(found, key=lambda f: f[:2])]


def _proposals(net: Network, l: int, unit: int, z: Array) -> Iterator[UnitChange]:
    layer, behind = net.layers[l], net.layers[l + 1]
    row, bias, low, high = (
        layer.weight[unit],
        float(layer.bias[unit]),
        float(z[:, unit].min()),
        float(z[:, unit].max()),
    )
    none, out = np.zeros(len(behind.bias)), behind.weight[:, unit]
    yield UnitChange(l, unit, 0 * row, 0.5 * (low + high), none)
    if layer.activation.bends and low < 0 < high:
        yield UnitChange(l, unit, 0 * row, 0.5 * high, none)
        shift = 2.0 ** min(1023, math.ceil(math.log2(-low) + 1))
        yield UnitChange(l, unit, row, bias + shift, -shift * out)
    norms = np.maximum(np.linalg.norm(layer.weight, axis=1), 1e-300)
    likeness = layer.weight @ row / norms
    likeness[unit] = -1.0
    other = int(likeness.argmax())
    if likeness[other] > 0:
        like = np.append(layer.weight[other], layer.bias[other])
        ratio = (
            _ratio(like, float(norms[unit] / norms[other])) if layer.activation.homogeneous else 1.0
        )
        yield UnitChange(l, unit, ratio * like[:-1], float(ratio * like[-1]), none, other)


def _ratio(row: Array, ratio: float) -> float:
    """A number near the ratio by which the row is multiplied exactly: of 24 bits if that will do,
    else a power of two.
    """
    short = float(np.float32(ratio))
    with np.errstate(all="ignore"):
        exact = not two_product(row, np.full_like(row, short))[1].any()
    return short if exact else 2.0 ** round(math.log2(min(max(ratio, 1e-300), 1e300)))
