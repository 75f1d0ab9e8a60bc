"""What rounding and small changes of parameters do to a function, certified: slack. Part of the
kernel.

From layer to layer a bound of the activations and one of their difference are carried along, with
every rounding outward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import arithmetic
from .activations import Activation
from .exact_numbers import ExactArray, above, ceiling, enclose, two_sum, up, up_matmul, up_scale

Array = np.ndarray[Any, np.dtype[np.float64]]
ENTRIES = 2**18


@dataclass(frozen=True)
class Slack:
    """A certified bound: |f - g|_inf <= constant + growth * |x|_inf."""

    constant: float
    growth: float

    @property
    def finite(self) -> bool:
        """Whether it bounds anything."""
        return math.isfinite(self.constant) and math.isfinite(self.growth)

    @property
    def everywhere(self) -> float:
        """sup over all of R^n."""
        return self.constant if self.growth == 0 else float("inf")

    def within(self, radius: float) -> float:
        """Upper bound for |x|_inf <= radius."""
        with np.errstate(over="ignore"):
            return float(up(up_scale(np.array([self.growth]), radius) + self.constant)[0])

    def __add__(self, other: Slack) -> Slack:
        """A difference, and then another one."""
        if NO_SLACK in (self, other):
            return other if self == NO_SLACK else self
        ends = np.array([self.constant + other.constant, self.growth + other.growth])
        return Slack(*up(ends).tolist())

    def __str__(self) -> str:
        return (
            above(self.constant, 2)
            if self.growth == 0
            else f"{above(self.constant, 2)} + {above(self.growth, 2)} |x|"
        )


NO_SLACK = Slack(0.0, 0.0)
Layers = Iterable[tuple[ExactArray, ExactArray]]


@np.errstate(all="ignore")  # a bound beyond all floats is infinite, and no news
def difference(
    a: Layers, b: Layers, activations: Sequence[Activation], *, radius: float | Array | None = None,
    relative: float = 0.0,
) -> Slack:  # fmt: skip
    """A certified bound of |f_a - f_b|_inf for two networks of one architecture.

    From layer to layer, with h_a - h_b bounded by e and |h_a| by h (affine functions of |x|_inf,
    two columns):
    |z_a - z_b| <= |W_a - W_b| h + |W_b| e + |b_a - b_b|, then the Lipschitz constant, or the range where that is less.

    Args:
        radius: if given, only inputs with |x_i| <= radius (of each, or of all) count, and the
            growth is zero.
        relative: a further relative uncertainty of every entry of `a`.
    """
    arithmetic.require()
    h = e = np.zeros((0, 2))
    for l, ((wa, ba), (wb, bb)) in enumerate(zip(a, b, strict=True)):
        if l == 0:
            h, e = _inputs(wa.hi.shape[1], radius), np.zeros((wa.hi.shape[1], 2))
        e = _carried(wa, wb, h, e, relative)
        shift = _deviation(ba, bb, relative)
        if shift is not None:
            e[:, 0] = up(e[:, 0] + shift)
        if l == len(activations):
            break
        activation = activations[l]
        e = up_scale(e, ceiling(activation.lipschitz))
        if activation.bound is not None:
            e[e[:, 1] > 0] = [2.0 * activation.bound, 0.0]
        h = _reach(wa, ba, h, activation)
    worst = e.max(axis=0)
    return Slack(float(worst[0]), float(worst[1]))


def _carried(a: ExactArray, b: ExactArray, h: Array, e: Array, relative: float) -> Array:
    """A bound of |a x - b y| for |x| <= h, |x - y| <= e; in blocks of rows, as a layer may fill the
    memory.
    """
    out = np.zeros((a.hi.shape[0], 2))
    for at in row_blocks(a):
        x, y = a.rows(at), b.rows(at)
        if e.any():
            out[at] = up_matmul(_size(y), e)
        moved = _deviation(x, y, relative)
        if moved is not None:
            out[at] = up(out[at] + up_matmul(moved, h))
    return out


def row_blocks(x: ExactArray) -> Iterator[slice]:
    """Rows in blocks of two megabytes."""
    height = max(1, ENTRIES // max(1, x.hi.shape[1]))
    return (slice(start, start + height) for start in range(0, x.hi.shape[0], height))


def _inputs(count: int, radius: float | Array | None) -> Array:
    """A bound of the inputs: constants and multiples of |x|_inf."""
    h = np.zeros((count, 2))
    h[:, 0 if radius is not None else 1] = 1.0 if radius is None else radius
    return h


def _reach(w: ExactArray, b: ExactArray, h: Array, activation: Activation) -> Array:
    """A bound of |activation(w h + b)|, given one of |h|."""
    if activation.bound is not None:
        return np.tile([float(activation.bound), 0.0], (w.hi.shape[0], 1))
    h = np.concatenate(
        [up_matmul(_size(w.rows(at)), h) for at in row_blocks(w)] or [np.zeros((0, 2))]
    )
    h[:, 0] = up(h[:, 0] + _size(b))
    h = up_scale(h, ceiling(activation.lipschitz))
    h[:, 0] = up(h[:, 0] + activation.zero)
    return h


def _size(x: ExactArray) -> Array:
    """An upper bound of |x|."""
    size = np.abs(x.hi) if x.lo is None else up(np.abs(x.hi) + np.abs(x.lo))
    for at, number in x.rest.items():
        size[at] = ceiling(max(abs(end) for end in enclose(number)))
    return size


def _deviation(a: ExactArray, b: ExactArray, relative: float) -> Array | None:
    """An upper bound of |a - b|, None where all of it is zero."""
    if relative == 0 and a.equals(b):
        return None
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # not a number where a sum overflows: no claim is below it
        s, t = two_sum(a.hi, -b.hi)
    out = up(np.abs(s) + np.abs(t))
    for part in (a.lo, b.lo):
        if part is not None:
            out = up(out + np.abs(part))
    for at in {*a.rest, *b.rest}:
        (a0, a1), (b0, b1) = enclose(a.get(at)), enclose(b.get(at))
        out[at] = 0.0 if a.get(at) == b.get(at) else ceiling(max(abs(a1 - b0), abs(b1 - a0)))
    return up(out + up_scale(_size(a), relative)) if relative else out
