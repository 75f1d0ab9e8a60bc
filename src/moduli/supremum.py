"""sup |a - b| over a box: a certified enclosure by bisection, or the exact number from the linear pieces of both networks.

Both networks side by side are one network of twice the width (`joint`). Up to three inputs and piecewise linear: a - b is
affine on each cell of its complex, so the supremum is at a vertex, and all is rational. Otherwise bounds of a - b on boxes
(`bounds`), the box with the largest one halved first; from below, values at points, re-evaluated exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from . import bounds
from .activations import Activation
from .domains import Box
from .enclosure import evaluate
from .errors import CertificateRejected, Undecided
from .lossless import Progress
from .network import IDENTITY, Layer, Network
from .polyhedra import MOST, pieces

Array = np.ndarray[Any, np.dtype[np.float64]]
Point = tuple[Fraction, ...]
Worst = Callable[[Array, Array], Array]
CELLS, UNITS, BATCH = 3000, 128, 64
BREATH = 1 + 2.0**-40
CLOSE = 2.0**-20  # of the upper end: as near to each other as both ends need to come


# One network of two ---------------------------------------------------------------------------------------------


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
        if list(activation.reflection) != [Fraction(1), Fraction(-1), Fraction(0)]:
            break
        last = layers.pop()
        one = np.eye(len(last.bias))
        layers.append(Layer(np.concatenate([last.weight, -last.weight]), np.concatenate([last.bias, -last.bias]), activation))
        layers.append(Layer(np.concatenate([one, -one], axis=1), np.zeros(len(one)), IDENTITY))
    return Network(tuple(layers))


# Exactly --------------------------------------------------------------------------------------------------------


class Peak(NamedTuple):
    """The supremum of |a - b|_inf over a box, and a point where it is attained."""

    gap: Fraction
    at: Point


def gap(a: Network, b: Network, x: Point) -> Fraction:
    """A lower bound of |a(x) - b(x)|_inf, exact where all values are rational."""
    pairs = zip(evaluate(a, x), evaluate(b, x), strict=True)
    return max((max(p[0] - q[1], q[0] - p[1], Fraction(0)) for p, q in pairs), default=Fraction(0))


def peak(a: Network, b: Network, box: Box, budget: int, progress: Progress | None = None) -> Peak | None:
    """The exact supremum, or None: too many inputs, cells or units, a flat box, another activation.

    Args:
        budget: cells.
    """
    both = joint(a, b)
    flat = bool((box.low >= box.high).any())
    if both is None or flat or both.widths[0] > MOST or both.units > UNITS:
        return None
    if not all(s.piecewise_linear for s in both.activations):
        return None
    try:
        cells = pieces(both, box, None, min(budget, CELLS), progress).complex
    except Undecided:
        return None
    points = dict.fromkeys(point for cell in cells for point, _ in cell.vertices)
    best = Peak(Fraction(-1), ())
    for point in points:
        here = gap(a, b, point)
        if here > best.gap:
            best = Peak(here, point)
    return best


# By bisection ---------------------------------------------------------------------------------------------------


def measures(a: Network, b: Network) -> dict[str, Worst]:
    """Upper bounds of |a - b|_inf on boxes [batch, inputs], by how they are found."""
    found: dict[str, Worst] = {"separate": lambda low, high: _separate(a, b, low, high)}
    if a.widths == b.widths and a.activations == b.activations:
        found["difference"] = lambda low, high: _size(*bounds.difference(a.layers, b.layers, low, high, lazy=True)[-1])
    both = joint(a, b)
    if both is not None:
        one = np.eye(a.widths[-1])
        layers = (*both.layers, Layer(np.concatenate([one, -one], axis=1), np.zeros(len(one)), IDENTITY))
        found["joint"] = lambda low, high: _size(*bounds.linear(layers, low, high, lazy=True)[-1])
    return found


def _size(lo: Array, hi: Array) -> Array:
    worst: Array = np.maximum(-lo, hi).max(axis=1)
    return np.where(np.isnan(worst), np.inf, np.maximum(worst, 0.0))


def _separate(a: Network, b: Network, low: Array, high: Array) -> Array:
    (a_lo, a_hi), (b_lo, b_hi) = (bounds.linear(net.layers, low, high, lazy=True)[-1] for net in (a, b))
    with np.errstate(all="ignore"):
        return _size(np.nextafter(a_lo - b_hi, -np.inf), np.nextafter(a_hi - b_lo, np.inf))


@dataclass(frozen=True)
class Enclosure:
    """A certified upper bound of |a - b|_inf on a box with its proof.

    Attributes:
        upper: the bound. how: the kind of bounds, see `measures`.
        tree: splits in preorder, -1 for a leaf, as in `bounds.verify`.
        at: the input of the largest difference seen. boxes: how many were bounded.
    """

    upper: float
    how: str
    tree: tuple[int, ...]
    at: tuple[float, ...]
    boxes: int

    def verify(self, a: Network, b: Network, box: Box) -> None:
        """Bound all leaves of the tree anew; raises `CertificateRejected`."""
        measure = measures(a, b).get(self.how)
        if measure is None:
            raise CertificateRejected(f"bounds by {self.how!r} do not apply to {a} and {b}")
        found = _worst(measure, box.of_dimension(a.widths[0]), self.tree)
        if not found <= self.upper:
            raise CertificateRejected(f"a difference up to {self.upper} is claimed, but only {found} is proved")


def _worst(measure: Worst, box: Box, tree: Sequence[int]) -> float:
    """The largest bound on the leaves of a tree."""
    low, high = leaves(box, tree)
    blocks = [slice(start, start + BATCH) for start in range(0, len(low), BATCH)]
    return max(float(measure(low[block], high[block]).max()) for block in blocks)


def leaves(box: Box, tree: Sequence[int]) -> tuple[Array, Array]:
    """The boxes of the leaves of a tree in preorder, which cover the box."""
    stack, low, high = [(box.low, box.high)], list[Array](), list[Array]()
    for at, split in enumerate(tree):
        if not stack or not -1 <= split < len(box.low):
            raise CertificateRejected(f"node {at} of {len(tree)} is no part of a tree of {len(box.low)} inputs")
        p, q = stack.pop()
        if split < 0:
            low.append(p)
            high.append(q)
        else:
            a, b, c, d = bounds.halves(p[None], q[None], np.array([split]))
            stack += [(c[0], d[0]), (a[0], b[0])]
    if stack or not low:
        raise CertificateRejected(f"the tree of {len(tree)} nodes lacks {max(1, len(stack))} subtrees")
    return np.array(low), np.array(high)


class _Search:
    """Boxes with their bounds; the worst are halved first, each across its relatively widest side."""

    def __init__(self, a: Network, b: Network, box: Box) -> None:
        self.a, self.b, self.box = a, b, box
        found = {name: (float(f(box.low[None], box.high[None])[0]), f) for name, f in measures(a, b).items()}
        self.how = min(found, key=lambda name: found[name][0])
        top, self.measure = found[self.how]
        self.low, self.high, self.top = box.low[None], box.high[None], np.array([top])
        self.node, self.tree, self.boxes = np.zeros(1, dtype=np.intp), [(-1, -1, -1)], 1
        self.seen, self.at = -1.0, box.low
        self.look(bounds.middle(box.low, box.high)[None])

    def look(self, x: Array) -> None:
        with np.errstate(all="ignore"):
            here = np.abs(self.a.logits(x) - self.b.logits(x)).max(axis=1)
        here = np.where(np.isfinite(here), here, -1.0)
        if here.max() > self.seen:
            self.seen, self.at = float(here.max()), x[int(here.argmax())]

    def split(self, room: int) -> bool:
        """Halve the worst boxes; False where none can be."""
        pick = np.argsort(-self.top, kind="stable")[: max(1, min(BATCH, len(self.top), room // 2))]
        width = np.maximum(self.box.high - self.box.low, 1e-300)
        low, high = self.low[pick], self.high[pick]
        middle = bounds.middle(low, high)
        score = np.where((low < middle) & (middle < high), (high - low) / width, -1.0)
        able = score.max(axis=1) >= 0
        if not able[0]:
            return False
        pick, low, high, axis = pick[able], low[able], high[able], score[able].argmax(axis=1)
        a, b, c, d = bounds.halves(low, high, axis)
        new = np.concatenate([a, c]), np.concatenate([b, d])
        fresh = self.measure(*new)
        self.look(bounds.middle(*new))
        self._replace(pick, axis, new, fresh)
        return True

    def _replace(self, pick: Any, axis: Any, new: tuple[Array, Array], fresh: Array) -> None:
        first = len(self.tree)
        for k, (node, split) in enumerate(zip(self.node[pick].tolist(), axis.tolist(), strict=True)):
            self.tree[node] = (split, first + k, first + len(pick) + k)
        self.tree += [(-1, -1, -1)] * (2 * len(pick))
        keep = np.ones(len(self.top), dtype=bool)
        keep[pick] = False
        self.low, self.high = np.concatenate([self.low[keep], new[0]]), np.concatenate([self.high[keep], new[1]])
        self.top = np.concatenate([self.top[keep], fresh])
        self.node = np.concatenate([self.node[keep], np.arange(first, len(self.tree))])
        self.boxes += len(fresh)

    def preorder(self) -> tuple[int, ...]:
        out, stack = list[int](), [0]
        while stack:
            split, left, right = self.tree[stack.pop()]
            out.append(split)
            stack += [right, left] if split >= 0 else []
        return tuple(out)


def enclose(
    a: Network,
    b: Network,
    box: Box,
    budget: int,
    *,
    eps: float | None = None,
    seen: float = -1.0,
    progress: Progress | None = None,
) -> Enclosure:
    """Bisect the box until both ends are close, or decide about eps, or the budget (boxes) is spent.

    Args:
        seen: a difference known from elsewhere.

    >>> a = Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="relu")
    >>> b = Network.mlp([[1.0]], [0.0], [[1.5]], [0.0], activation="relu")
    >>> enclose(a, b, Box([-1.0], [1.0]), 100).upper < 0.51
    True
    """
    search = _Search(a, b, box.of_dimension(a.widths[0]))
    while search.boxes + 2 <= budget:
        top, floor = float(search.top.max()), max(seen, search.seen)
        if top - floor <= CLOSE * top or (eps is not None and (top * BREATH <= eps or floor > eps)):
            break
        if progress is not None:
            progress(search.boxes, budget, f"difference at most {1.001 * top:.4g}, {max(floor, 0.0):.3g} seen")
        if not search.split(budget - search.boxes):
            break
    tree = search.preorder()
    upper = _worst(search.measure, search.box, tree) * BREATH  # rounding depends on the machine and on the size of batches
    return Enclosure(upper, search.how, tree, tuple(search.at.tolist()), search.boxes)
