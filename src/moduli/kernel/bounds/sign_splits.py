"""Signs of units by cases and multipliers, and weights that play no part on a box. Part of the
kernel.

A `Case` says of one hidden unit, z = w . h + b with h the activations of the layer before, on a box
where signs of other units are known,

    sign * z >= 0,      or, with `assuming_active`, a unit i of the layer before:      w' . h + b <= 0 wherever z_i >= 0,

w' being w with max(w_i, 0) for w_i. Its proof is a tree: a node tells apart the two signs of a unit
(z_k <= 0 left, z_k >= 0 right), and at each leaf a bound is computed anew
(`propagation.Propagation`) under the signs that hold there. Multipliers may go with a leaf, from
the dual of a linear program or from anywhere; any will do:

    a unit that bends at 0, with slopes p and q beside it, lies on one side of all lines s z through
    0 with s between p and q; where z_k >= 0 (or <= 0) is known, m z_k (or -m z_k) with m >= 0 may
    be added to what is bounded from above.

A number beyond these limits is cut. So no solver is believed: this is weak duality, computed with
outward rounding. A leaf whose bounds contradict its signs is empty.

Why w_i may become 0 then (a *cut*; ReLU on both layers). Where z_i <= 0, h_i = 0 and nothing
changes. Elsewhere z <= w' . h + b <= 0 and also z - w_i h_i <= w' . h + b <= 0, as h_i >= 0: the
unit is off before and after. So all activations stay the same functions on the box, and cuts may
follow each other. A sign -1 of the unit stays true; a sign 1 may become false, so a cut into a unit
with that sign is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel import fields
from moduli.kernel.box import Box
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.network import IDENTITY, Layer, Network

from . import input_splits, propagation
from .input_splits import by_layer, concatenated, ends_of, locate
from .propagation import Choice, Propagation
from .relaxations import Relaxation, beside, relaxation

Array = np.ndarray[Any, np.dtype[np.float64]]
Signs = np.ndarray[Any, np.dtype[np.int8]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
SplitLeaf = tuple[tuple[int, ...], tuple[float, ...]]
BATCH = 64


@dataclass(frozen=True)
class Case:
    """A claim about a hidden unit with its proof; see the top of this module.

    Attributes:
        layer, unit: whose pre-activation is bounded; layers count from 1. sign: 1 or -1; -1 with
            `assuming_active`.
        assuming_active: a unit of the layer before, -1 for none.
        tree: nodes in preorder: the hidden unit, counted over all layers, whose signs are told
            apart, or -1 for a leaf.
        leaves: for each leaf hidden units and their multipliers.
    """

    layer: int
    unit: int
    sign: int
    assuming_active: int
    tree: tuple[int, ...]
    leaves: tuple[SplitLeaf, ...]

    def __str__(self) -> str:
        return f"unit {self.unit} of layer {self.layer}" + (
            f" where unit {self.assuming_active} is on" if self.assuming_active >= 0 else ""
        )

    def plain(self) -> dict[str, Any]:
        """Its fields, for `from_json` to read again."""
        return {
            "layer": self.layer, "unit": self.unit, "sign": self.sign,
            "given": self.assuming_active, "tree": self.tree, "leaves": self.leaves,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = fields.jsonable(self.plain())
        return found

    @staticmethod
    def from_json(data: Any) -> Case:
        """Strict: unknown or missing fields, other types, numbers that are not finite are refused."""
        read = fields.record(data, ("layer", "unit", "sign", "given", "tree", "leaves"), "a case")
        layer, unit, sign, given = (
            fields.whole(read[name], -1, 2**31 - 1, f"{name} of a case")
            for name in ("layer", "unit", "sign", "given")
        )
        leaves = map(_leaf, fields.pairs(read["leaves"], "leaves of a case"))
        return Case(
            layer, unit, sign, given, input_splits.read_tree(read["tree"], "case"), tuple(leaves)
        )


def _leaf(data: list[Any]) -> SplitLeaf:
    units = tuple(fields.indices(data[0], "units of a leaf of a case").tolist())
    values = [
        fields.real(x, "a multiplier of a case")
        for x in fields.items(data[1], "multipliers of a case")
    ]
    if len(units) != len(values):
        raise CertificateRejected(
            f"a leaf of a case has {len(units)} units and {len(values)} multipliers"
        )
    return units, tuple(values)


# Bounds ---------------------------------------------------------------------------------------------------------


def objective_network(net: Network, layer: int, unit: int, sign: int, given: int = -1) -> Network:
    """What a case bounds from above by 0, as the output of a network of the layers before."""
    last = net.layers[layer - 1]
    row, bias = (
        last.weight[unit : unit + 1] * float(-sign),
        last.bias[unit : unit + 1] * float(-sign),
    )
    if given >= 0:
        row[0, given] = max(row[0, given], 0.0)
    return Network((*net.layers[: layer - 1], Layer(row, bias, IDENTITY)))


def propagate(target: Network, box: Box, signs: Signs) -> Propagation:
    """Bounds of the layers of a `objective_network` on parts of a box, where hidden units have
    signs ``[parts, units]`` (0: not known).
    """
    layers, count = target.layers, len(signs)
    signs = np.concatenate([signs, np.zeros((count, 1), dtype=np.int8)], axis=1)
    known = [
        (np.where(s > 0, 0.0, -np.inf), np.where(s < 0, 0.0, np.inf))
        for s in np.split(signs, ends_of(target)[1:], axis=1)
    ]

    def relax(l: int, lo: Array, hi: Array) -> Relaxation:
        return relaxation(layers[l].activation, lo, hi)

    low, high = (np.tile(end, (count, 1)) for end in (box.low, box.high))
    return Propagation(propagation.maps(layers), relax, low, high, lazy=True, known=known)


class Multipliers(NamedTuple):
    """Multipliers of hidden units, ``[parts, hidden units]``; where none is given the usual lines
    are taken.
    """

    values: Array
    given: Mask

    @staticmethod
    def none(parts: int, units: int) -> Multipliers:
        return Multipliers(np.zeros((parts, units)), np.zeros((parts, units), dtype=bool))

    def give(self, part: int, units: Sequence[int], values: Sequence[float]) -> None:
        """Write those of some units of a part."""
        self.values[part, list(units)] = values
        self.given[part, list(units)] = True


def upper(
    target: Network, found: Propagation, signs: Signs, multipliers: Multipliers | None = None
) -> Array:
    """Upper bounds of the output of a `objective_network`, -inf on parts that are empty."""
    top = found.bounds[-1][1][:, 0]
    if multipliers is not None:
        every, zero = np.arange(len(top)), np.zeros(len(top), dtype=np.intp)
        with np.errstate(all="ignore"):
            choices = _choices(target, found, signs, multipliers)
            top = np.fmin(
                top, found.unit_upper(len(target.layers) - 1, every, zero, 1.0, choices)[0]
            )
    empty = np.any([(lo > hi).any(axis=1) for lo, hi in found.bounds], axis=0)
    return np.where(empty, -np.inf, top)


def _choices(
    target: Network, found: Propagation, signs: Signs, multipliers: Multipliers
) -> list[Choice]:
    out = []
    parts = (by_layer(target, x, axis=1) for x in (*multipliers, signs))
    for layer, (lo, hi), m, given, s in zip(target.layers, found.bounds, *parts, strict=False):
        right, left = beside(layer.activation)
        free = given & (lo < 0) & (hi > 0) & (right != left)
        slope: Array = np.clip(m, min(right, left), max(right, left))
        tilt: Array = np.where(given & (s != 0), s * np.maximum(m, 0.0), 0.0)
        out.append(Choice(free, slope, right < left, tilt))
    return out


# The check ------------------------------------------------------------------------------------------------------


def verify(
    net: Network, box: Box, tree: Sequence[int], signs: Sequence[Signs], cases: Sequence[Case] = ()
) -> Network:
    """Check signs of hidden units on a box, by a tree of boxes and by cases; the network with its
    cuts is returned.

    Args:
        tree: proves those signs that no case does, see `input_splits.verify`.
        cases: signs, each by what was proved before it, then cuts.

    Raises:
        CertificateRejected: naming the unit.
    """
    count = next((k for k, case in enumerate(cases) if case.assuming_active >= 0), len(cases))
    own, cuts = cases[:count], cases[count:]
    rest = [np.array(s, dtype=np.int8) for s in signs]
    for case in own:
        if not (1 <= case.layer <= len(signs) and 0 <= case.unit < len(signs[case.layer - 1])):
            raise CertificateRejected(f"a case of {case}, which is not there")
        if case.sign not in (-1, 1) or signs[case.layer - 1][case.unit] != case.sign:
            raise CertificateRejected(
                f"a case proves sign {case.sign} of {case}, and another one is claimed"
            )
        rest[case.layer - 1][case.unit] = 0
    input_splits.verify(net, box, tree, rest)
    whole, known, ends = box.of_dimension(net.widths[0]), concatenated(rest), ends_of(net)
    for case in own:
        require(net, whole, known, case)
        known[ends[case.layer - 1] + case.unit] = case.sign
    for case in cuts:
        _require_cut(net, case, known)
        require(net, whole, known, case)
        net = without_masked_weights(net, [case])
    return net


def _require_cut(net: Network, case: Case, known: Signs) -> None:
    widths = net.widths[1:-1]
    if case.assuming_active < 0:
        raise CertificateRejected(f"the case of {case} stands behind a cut")
    if not (
        2 <= case.layer <= len(widths)
        and 0 <= case.unit < widths[case.layer - 1]
        and case.assuming_active < widths[case.layer - 2]
    ):
        raise CertificateRejected(f"a cut into {case}, which is not there")
    if any(beside(net.activations[l]) != (1.0, 0.0) for l in (case.layer - 2, case.layer - 1)):
        raise CertificateRejected(f"a cut into {case}: not both layers are of ReLU")
    if case.sign != -1 or known[ends_of(net)[case.layer - 1] + case.unit] > 0:
        raise CertificateRejected(f"a cut into {case}, which is not known to be off there")


def without_masked_weights(net: Network, cases: Sequence[Case]) -> Network:
    """The network with zeros in place of the weights that cases cut."""
    layers = list(net.layers)
    for case in cases:
        if case.assuming_active >= 0:
            layer = layers[case.layer - 1]
            weight = layer.weight.copy()
            weight[case.unit, case.assuming_active] = 0.0
            layers[case.layer - 1] = Layer(weight, layer.bias, layer.activation)
    return net.with_layers(layers)


def require(net: Network, box: Box, known: Signs, case: Case) -> None:
    """Check one case, given signs of all hidden units; raises `CertificateRejected` naming the
    leaf.
    """
    target = objective_network(net, case.layer, case.unit, case.sign, case.assuming_active)
    walk, leaf = _walk(net, known, case), 0
    while some := list(islice(walk, BATCH)):
        if leaf + len(some) > len(case.leaves):
            raise CertificateRejected(
                f"the case of {case} has more leaves than the {len(case.leaves)} that it lists"
            )
        signs = np.array(some)
        multipliers = Multipliers.none(*signs.shape)
        for part, (units, values) in enumerate(case.leaves[leaf : leaf + len(some)]):
            if any(u >= signs.shape[1] for u in units):
                raise CertificateRejected(
                    f"a multiplier in the case of {case} names a unit that is not below it"
                )
            multipliers.give(part, units, values)
        tops = upper(target, propagate(target, box, signs), signs, multipliers)
        if not (tops <= 0).all():
            at = leaf + int(np.argmax(~(tops <= 0)))
            raise CertificateRejected(
                f"leaf {at} of the case of {case}: sign {case.sign} is not proved"
            )
        leaf += len(some)
    if leaf < len(case.leaves):
        raise CertificateRejected(
            f"the case of {case} has {leaf} leaves and lists {len(case.leaves)}"
        )


def _walk(net: Network, known: Signs, case: Case) -> Iterator[Signs]:
    """The signs at the leaves of a case, one by one."""
    ends = ends_of(net)
    below = ends[case.layer - 1]
    start = known[:below].copy()
    if case.assuming_active >= 0:
        start[ends[case.layer - 2] + case.assuming_active] = 1
    input_splits.right_children(case.tree, below, f"the tree of the case of {case}")
    stack = [start]
    for at, split in enumerate(case.tree):
        signs = stack.pop()
        if split < 0:
            yield signs
        elif signs[split]:
            layer, unit = locate(net, split)
            raise CertificateRejected(
                f"node {at} of the case of {case}: the sign of unit {unit} of layer {layer} is known"
            )
        else:
            stack += [with_sign(signs, split, sign) for sign in (1, -1)]


def with_sign(signs: Signs, unit: int, sign: int) -> Signs:
    """Signs, with that of one more unit."""
    signs = signs.copy()
    signs[unit] = sign
    return signs
