"""Bounds of |a - b| on a box, for two networks, by a tree of smaller boxes. Part of the kernel.

Four kinds of bounds (`measures`). From `propagation`: of the two networks apart; of both side by
side as one network of twice the width (`joint`), minus one output from the other; of their
difference unit by unit, if they have one architecture. For such networks `zonotopes` are cheaper,
and where these do not suffice, what they know of all units makes going back through the layers
cheaper too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel import fields
from moduli.kernel.activations import Activation
from moduli.kernel.box import Box
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.exact_numbers import ExactArray
from moduli.kernel.network import IDENTITY, Layer, Network
from moduli.kernel.radius.cover_bound import Change

from . import input_splits, propagation, zonotopes

Array = np.ndarray[Any, np.dtype[np.float64]]
BATCH = 256  # boxes bounded at a time
ROOM = 4  # blocks of zonotopes are so much larger than those of rows
FAR = 2.0**1000  # any change is allowed: what it does is bounded, not how large it is


def joint(a: Network, b: Network) -> Network | None:
    """x -> (a(x), b(x)) as one network; None where hidden layers have different activations.

    The less deep one gets further layers, where z = s(z) - s(-z) is a law of the activation.

    >>> a = Network.mlp([[1.0]], [0.0], [[2.0]], [1.0], activation="relu")
    >>> joint(a, a).widths
    (1, 2, 2)
    """
    a, b = _deepened(a, b.activations), _deepened(b, a.activations)
    if a.activations != b.activations:
        return None
    layers = []
    for l, (p, q) in enumerate(zip(a.layers, b.layers, strict=True)):
        weight = np.concatenate([p.weight, q.weight]) if l == 0 else _diagonal(p.weight, q.weight)
        layers.append(Layer(weight, np.concatenate([p.bias, q.bias]), p.activation))
    return Network(tuple(layers))


def _diagonal(p: Array, q: Array) -> Array:
    return np.block([[p, np.zeros((len(p), q.shape[1]))], [np.zeros((len(q), p.shape[1])), q]])


def _deepened(net: Network, others: Sequence[Activation]) -> Network:
    layers = list(net.layers)
    for activation in others[len(layers) - 1 :]:
        if not activation.ramp:
            break
        last = layers.pop()
        one = np.eye(len(last.bias))
        layers.append(
            Layer(
                np.concatenate([last.weight, -last.weight]),
                np.concatenate([last.bias, -last.bias]),
                activation,
            )
        )
        layers.append(Layer(np.concatenate([one, -one], axis=1), np.zeros(len(one)), IDENTITY))
    return Network(tuple(layers))


class Measured(NamedTuple):
    """Upper bounds of |a - b|_inf on boxes ``[batch]``.

    Attributes:
        blame: how much of each is due to each input ``[batch, inputs]``, where that is known;
            nothing is proved by it.
    """

    top: Array
    blame: Array | None = None


# Bounds on boxes, from low and high [batch, inputs]. Those at most the third argument, or above the
# fourth, may be left as they are.
Measure = Callable[[Array, Array, float, float], Measured]


def measures(a: Network, b: Network) -> dict[str, Measure]:
    """Upper bounds of |a - b|_inf on boxes, by how they are found."""
    found: dict[str, Measure] = {"separate": partial(_separate, a, b)}
    if a.widths == b.widths and a.activations == b.activations:
        found["difference"] = partial(_difference, a, b)
        found["zonotopes"] = partial(_zonotopes, a, b)
    both = joint(a, b)
    if both is not None:
        one = np.eye(a.widths[-1])
        minus = Layer(np.concatenate([one, -one], axis=1), np.zeros(len(one)), IDENTITY)
        found["joint"] = partial(_outputs, (*both.layers, minus))
    return found


def _separate(
    a: Network, b: Network, low: Array, high: Array, enough: float, far: float
) -> Measured:
    (a_lo, a_hi), (b_lo, b_hi) = (
        propagation.linear(net.layers, low, high, lazy=True)[-1] for net in (a, b)
    )
    with np.errstate(all="ignore"):
        return Measured(
            _size(np.nextafter(a_lo - b_hi, -np.inf), np.nextafter(a_hi - b_lo, np.inf))
        )


def _difference(
    a: Network, b: Network, low: Array, high: Array, enough: float, far: float
) -> Measured:
    return Measured(_size(*propagation.difference(a.layers, b.layers, low, high, lazy=True)[-1]))


def _zonotopes(
    a: Network, b: Network, low: Array, high: Array, enough: float, far: float
) -> Measured:
    parts = []
    width = max(a.widths) * (a.widths[0] + a.units)
    for block in propagation.blocks_of(len(low), width // ROOM):
        left, right = low[block], high[block]
        found = zonotopes.apart(a.layers, b.layers, left, right)
        top = _size(*found.difference[-1])
        hard = (top > enough) & ~(top > far)
        if hard.any():
            known = [[(lo[hard], hi[hard]) for lo, hi in bounds] for bounds in found[:3]]
            again = propagation.difference_within(
                a.layers, b.layers, left[hard], right[hard], (known[0], known[1], known[2])
            )
            top[hard] = np.minimum(top[hard], _size(*again[-1]))
        parts.append((top, found.blame))
    tops, blames = zip(*parts, strict=True)
    return Measured(np.concatenate(tops), np.concatenate(blames))


def _outputs(
    layers: Sequence[Layer], low: Array, high: Array, enough: float, far: float
) -> Measured:
    return Measured(_size(*propagation.linear(layers, low, high, lazy=True)[-1]))


def _size(lo: Array, hi: Array) -> Array:
    worst: Array = np.maximum(-lo, hi).max(axis=1)
    return np.where(np.isnan(worst), np.inf, np.maximum(worst, 0.0))


@dataclass(frozen=True)
class GapBound:
    """A certified upper bound of |a - b|_inf on a box with its proof.

    Attributes:
        upper: the bound. how: the kind of bounds, see `measures`.
        tree: splits in preorder, -1 for a leaf, as in `input_splits.verify`.
        at: the input of the largest difference seen. boxes: how many were bounded.
    """

    upper: float
    how: str
    tree: tuple[int, ...]
    at: tuple[float, ...]
    boxes: int

    @np.errstate(all="ignore")
    def verify(self, a: Network, b: Network, box: Box) -> None:
        """Bound all leaves of the tree anew; raises `CertificateRejected`."""
        with fields.made_by_hand("bound of a difference"):
            claim = GapBound.from_json(self.plain())
        measure = measures(a, b).get(claim.how)
        if measure is None:
            raise CertificateRejected(f"bounds by {claim.how!r} do not apply to {a} and {b}")
        found = worst(measure, box.of_dimension(a.widths[0]), claim.tree, claim.upper)
        if not found <= claim.upper:
            raise CertificateRejected(
                f"a difference up to {claim.upper} is claimed, but only {found} is proved"
            )

    def plain(self) -> dict[str, Any]:
        """Its fields, for `from_json` to read again."""
        return {"upper": self.upper, "how": self.how, "tree": self.tree}

    @staticmethod
    def from_json(data: Any) -> GapBound:
        """Strict: unknown or missing fields and other types are refused."""
        read = fields.record(data, ("upper", "how", "tree"), "a bound of a difference")
        return GapBound(
            fields.real(read["upper"], "upper of the difference", least=0.0),
            fields.text(read["how"], "how of the difference"),
            input_splits.read_tree(read["tree"], "difference"), (), 0,
        )  # fmt: skip


def worst(measure: Measure, box: Box, tree: Sequence[int], enough: float = 0.0) -> float:
    """The largest bound on the leaves of a tree; those at most `enough` may be left as they are."""
    low, high = input_splits.leaves(box, tree)
    blocks = [slice(start, start + BATCH) for start in range(0, len(low), BATCH)]
    return max(
        float(measure(low[block], high[block], enough, np.inf).top.max()) for block in blocks
    )


@dataclass(frozen=True)
class Changed:
    """Other parameters with nearly the same function on a box: where the moves of a certificate
    start.

    Attributes:
        changes: from the large network. enclosure: the proof of how far that moves the outputs.
    """

    changes: tuple[Change, ...]
    enclosure: GapBound

    def network(self, net: Network) -> Network:
        """The network with the changes.

        Raises:
            CertificateRejected: a place that is not there, or a value that is no float.
        """
        parts = {
            (l, name): ExactArray(getattr(x, name))
            for l, x in enumerate(net.layers, 1)
            for name in ("weight", "bias")
        }
        if len({(c.layer, c.part) for c in self.changes}) < len(self.changes):
            raise CertificateRejected("the weights or biases of a layer are changed in two places")
        for change in self.changes:
            if (change.layer, change.part) not in parts:
                raise CertificateRejected(
                    f"changes in layer {change.layer} of a network with {len(net.layers)}"
                )
            array = parts[change.layer, change.part]
            change.apply(array, FAR)
            if not array.is_float():
                raise CertificateRejected(
                    f"a changed {change.part} of layer {change.layer} is no float"
                )
        layers = [
            Layer(parts[l, "weight"].hi, parts[l, "bias"].hi, x.activation)
            for l, x in enumerate(net.layers, 1)
        ]
        return net.with_layers(layers)

    def plain(self) -> dict[str, Any]:
        """Its fields, for `from_json` to read again."""
        return {"changes": [c.plain() for c in self.changes], **self.enclosure.plain()}

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = fields.jsonable(self.plain())
        return found

    @staticmethod
    def from_json(data: Any) -> Changed:
        """Strict: unknown or missing fields and other types are refused."""
        read = fields.record(data, ("changes", "upper", "how", "tree"), "changes on a box")
        changes = map(Change.from_json, fields.items(read.pop("changes"), "changes"))
        return Changed(tuple(changes), GapBound.from_json(read))
