"""Signs of hidden units on a box, proved by bounds on the boxes of a tree of splits. Part of the
kernel.

The nodes of a tree stand in preorder: the input at whose `middle` a box is halved, or -1 for a
leaf.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from moduli.kernel import fields
from moduli.kernel.box import Box
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.network import Network

from .propagation import Propagation, blocks_of, propagate

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.intp]]
Signs = np.ndarray[Any, np.dtype[np.int8]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def middle(low: Array, high: Array) -> Array:
    """Where a box is split."""
    return np.clip(0.5 * low + 0.5 * high, low, high)


def halves(low: Array, high: Array, split: Ints) -> tuple[Array, Array, Array, Array]:
    """Low and high of both closed halves of boxes ``[batch, inputs]``, each cut at the middle of
    one input.
    """
    rows = np.arange(len(low))
    cut = middle(low, high)[rows, split]
    left, right = high.copy(), low.copy()
    left[rows, split] = right[rows, split] = cut
    return low, left, right, high


def verify(net: Network, box: Box, tree: Sequence[int], claims: Sequence[Signs]) -> None:
    """Check that hidden units never change sign on a box, by bounds on boxes of a tree of splits.

    A claim holds on a box if bounds prove it there, or if it holds on both halves. Bounds are
    computed anew.

    Args:
        tree: the nodes in preorder: the input at whose `middle` the box is halved, or -1 for a
            leaf.
        claims: per hidden layer -1 (pre-activation <= 0 on the box), 1 (>= 0) or 0 (nothing is
            claimed), ``[units]``.

    Raises:
        CertificateRejected: the tree is none, or naming the leaf and the unit.
    """
    if [c.shape for c in claims] != [(n,) for n in net.widths[1:-1]] or not all(
        np.isin(c, (-1, 0, 1)).all() for c in claims
    ):
        raise CertificateRejected(
            f"claims of shapes {[c.shape for c in claims]} for hidden layers of {net.widths[1:-1]} units"
        )
    failed = unproved(net, box, tree, claims)
    if (failed >= 0).any():
        at = int(np.argmax(failed >= 0))
        layer, unit = locate(net, at)
        raise CertificateRejected(
            f"node {failed[at]} of the tree, a leaf: unit {unit} of layer {layer} is not proved to have sign "
            f"{concatenated(claims)[at]}"
        )


def locate(net: Network, at: int) -> tuple[int, int]:
    """Layer (from 1) and place of a hidden unit counted over all layers."""
    starts = ends_of(net)
    layer = bisect_right(starts, at)
    return layer, at - starts[layer - 1]


def ends_of(net: Network) -> list[int]:
    """Where the hidden units of each layer start, counted over all layers; last, how many there
    are.
    """
    return [0, *accumulate(net.widths[1:-1])]


def by_layer(net: Network, values: Any, axis: int = 0) -> tuple[Any, ...]:
    """What is stored for all hidden units along an axis, cut into hidden layers."""
    return tuple(np.split(values, ends_of(net)[1:], axis=axis)[:-1])


def unproved(net: Network, box: Box, tree: Sequence[int], claims: Sequence[Signs]) -> Ints:
    """For each hidden unit -1 where the claim is proved (or none is made), else a leaf where it is
    not; see `verify`.
    """
    whole, right, wanted = (
        box.of_dimension(net.widths[0]),
        right_children(tree, net.widths[0]),
        concatenated(claims),
    )
    failed = np.full(len(wanted), -1, dtype=np.intp)
    nodes, low, high, need = (
        np.zeros(1, dtype=np.intp), whole.low[None], whole.high[None], (wanted != 0)[None],
    )  # fmt: skip
    split = np.array(tree, dtype=np.intp)
    while len(nodes):
        for block in blocks_of(len(nodes), max(net.widths)):
            need[block] &= ~signs(net, low[block], high[block], wanted, need[block])[1]
        ends = split[nodes] < 0
        for node, missing in zip(nodes[ends].tolist(), need[ends], strict=True):
            failed[missing & (failed < 0)] = node
        on = ~ends & need.any(axis=1)
        nodes, need = nodes[on], np.concatenate([need[on]] * 2)
        if len(nodes):
            low, left, rest, high = halves(low[on], high[on], split[nodes])
            low, high = np.concatenate([low, rest]), np.concatenate([left, high])
        nodes = np.concatenate([nodes + 1, right[nodes]])
    return failed


def concatenated(claims: Sequence[Signs]) -> Signs:
    """Signs of all hidden units, from those of each layer."""
    return np.concatenate([*claims, np.zeros(0, dtype=np.int8)]).astype(np.int8)


def right_children(tree: Sequence[int], choices: int, name: str = "the tree") -> Ints:
    """The right child of each inner node of a tree in preorder (the left one comes next).

    Raises:
        CertificateRejected: it is no tree, or a node splits none of so many choices.
    """
    right, waiting = np.zeros(len(tree), dtype=np.intp), [-1]
    for at, split in enumerate(tree):
        if not waiting:
            raise CertificateRejected(f"{name} ends at node {at} of {len(tree)}")
        parent = waiting.pop()
        if parent >= 0:
            right[parent] = at
        if type(split) is not int or not -1 <= split < choices:
            raise CertificateRejected(f"node {at} of {name} splits {split!r}, none of {choices}")
        if split >= 0:
            waiting += [at, -1]
    if waiting:
        raise CertificateRejected(f"{name} of {len(tree)} nodes lacks {len(waiting)} subtrees")
    return right


def leaves(box: Box, tree: Sequence[int]) -> tuple[Array, Array]:
    """The boxes ``[leaves, inputs]`` of the leaves of a tree in preorder, which cover the box."""
    inputs = len(box.low)
    right = right_children(tree, inputs)
    low, high = np.empty((len(tree), inputs)), np.empty((len(tree), inputs))
    low[0], high[0] = box.low, box.high
    for at in np.flatnonzero(np.array(tree) >= 0).tolist():
        of = slice(at, at + 1)
        parts = halves(low[of], high[of], np.array(tree[at : at + 1]))
        low[at + 1], high[at + 1], low[right[at]], high[right[at]] = (part[0] for part in parts)
    ends = np.array(tree) < 0
    return low[ends], high[ends]


def read_tree(values: Any, of: str) -> tuple[int, ...]:
    """The splits of a tree; whether they are a tree is for those who walk it.

    Raises:
        CertificateRejected: they are no list of inputs or -1.
    """
    tree = fields.items(values, f"the tree of the {of}")
    if not all(type(x) is int and -1 <= x < 2**31 for x in tree):
        raise CertificateRejected(
            f"the tree of the {of} must be a list of inputs or -1, not {str(values)[:60]}"
        )
    return tuple(tree)


def signs(
    net: Network, low: Array, high: Array, wanted: Signs, need: Mask
) -> tuple[Propagation, Mask]:
    """Where on each box bounds prove the wanted sign of each hidden unit, ``[batch, hidden
    units]``.

    Args:
        wanted: -1 (pre-activation <= 0) or 1 (>= 0) per hidden unit. need: where an answer counts:
            layers behind the last one are left out, and bounds of units of that layer which nobody
            needs are not improved.
    """
    ends = ends_of(net)
    depth = max((l for l in range(1, len(ends)) if need[:, ends[l - 1] : ends[l]].any()), default=0)
    some: Mask = np.asarray(need.any(axis=0))
    useful = [some[ends[l] : ends[l + 1]] | (l + 1 < depth) for l in range(depth)]
    found = propagate(net.layers[:depth], low, high, lazy=True, units=useful)
    proved = np.zeros(need.shape, dtype=bool)
    for l, (lo, hi) in enumerate(found.bounds):
        part = slice(ends[l], ends[l + 1])
        proved[:, part] = np.where(wanted[part] < 0, hi <= 0, lo >= 0)
    return found, proved
