"""What a unit's activation and pre-activation can be on the domain, for a network in exact numbers.
Part of the kernel.

The domain is the box of a region, or all inputs. There signs are not claimed but found, of the network
as it is between two moves: pre-activations of the first layer may be anything, and behind it
activations have ranges (relu: from 0 on; tanh: from -1 to 1), which intervals carry on. So a unit that
reads what is never negative with weights <= 0 and a bias <= 0 is off for all inputs.

Where a sign is known, an activation with slopes on either side of 0 is linear on the domain: s(z) = c
z, and c is the unit's *slope* (relu: 1 or 0).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from moduli.kernel.exact_numbers import ExactArray, total
from moduli.kernel.state import State

from . import propagation
from .relaxations import relaxation

Array = np.ndarray[Any, np.dtype[np.float64]]
Signs = np.ndarray[Any, np.dtype[np.int8]]
Row = tuple[Fraction, ...]
TINY = 2.0**-960  # below it roundings may be large beside numbers


def slope(state: State, l: int, unit: int) -> Fraction | None:
    """c with s(z) = c z on the domain for the pre-activation of a unit of layer l, or None where that
    is not known.
    """
    activation = state.activations[l - 1]
    if not activation.piecewise_linear:
        return None
    sign = signs(state, l)[unit] if activation.bends else 1
    end = activation.exact(Fraction(int(sign)))
    return None if sign == 0 or end is None else end * int(sign)


def extent(state: State, l: int, row: Row) -> tuple[Fraction | None, Fraction | None]:
    """The least and the largest of row . h on the domain, h what layer l reads (remaining columns);
    None where no finite bound is known.
    """
    lo, hi = (part[state.alive[l - 1]] for part in activation_bounds(state, l - 1))
    used = [(q, p, r) for q, p, r in zip(row, lo.tolist(), hi.tolist(), strict=True) if q != 0]
    below = [(q, p if q > 0 else r) for q, p, r in used]
    above = [(q, r if q > 0 else p) for q, p, r in used]
    least, most = (
        total(q * Fraction(end) for q, end in ends)
        if all(math.isfinite(end) for _, end in ends)
        else None
        for ends in (below, above)
    )
    return least, most


def activation_bounds(state: State, l: int) -> tuple[Array, Array]:
    """Bounds of the activations of layer l on the domain (0: the inputs)."""
    if l == 0:
        ends = np.full(state.slots(0), np.inf)
        region = state.region
        return (-ends, ends) if region is None else (np.array(region.low), np.array(region.high))
    (lo, hi), sign = preactivation_bounds(state, l), signs(state, l)
    lo = np.where(sign > 0, np.maximum(lo, 0.0), lo)
    hi = np.where(sign < 0, np.minimum(hi, 0.0), hi)
    found = relaxation(state.activations[l - 1], lo, hi)
    return found.least, found.most


def preactivation_bounds(state: State, l: int) -> tuple[Array, Array]:
    """Bounds of the pre-activations of layer l on the domain. On a box: of the original units, and
    those that blocks have proved of new ones; on all inputs of the units as they are.
    """
    found, region = state.preactivation_bounds, state.region
    if region is None:
        while len(found) < l:
            found.append(_everywhere(state, len(found) + 1))
    elif not found:
        low, high = np.array([region.low]), np.array([region.high])
        known = propagation.linear(state.net.layers[:-1], low, high, lazy=True)
        found += [(lo[0].copy(), hi[0].copy()) for lo, hi in known]
    return found[l - 1]


def signs(state: State, l: int) -> Signs:
    """Signs of the units of layer l: those that a region claims; on all inputs those that bounds show,
    but for constants, which have a move of their own.
    """
    while len(state.signs) < l:
        lo, hi = preactivation_bounds(state, len(state.signs) + 1)
        state.signs.append((np.int8(1) * (lo >= 0) - (hi <= 0)) * (lo < hi))
    return state.signs[l - 1]


def _everywhere(state: State, l: int) -> tuple[Array, Array]:
    """Bounds on all inputs: of the first layer none, of others by what the layer before can be."""
    ends = np.full(state.slots(l), np.inf)
    w, b = state.weights[l - 1], state.biases[l - 1]
    if l == 1 or not (_held(w) and _held(b)):
        return -ends, ends
    before = activation_bounds(state, l - 1)
    alive = np.zeros(state.slots(l - 1), dtype=bool)
    alive[state.alive[l - 1]] = True
    exact = w.is_float() and b.is_float()
    low, high = (np.where(alive, end, 0.0)[None] for end in before)
    lo, hi = ends.copy(), ends.copy()
    with np.errstate(all="ignore"):
        # in blocks, so that no large copy is made
        for rows in propagation.blocks_of(len(ends), w.hi.shape[1]):
            part = propagation.Affine(w.hi[rows], b.hi[rows], exact)
            (lo[rows],), (hi[rows],) = propagation.interval(part, low, high)
    return lo, hi


def _held(x: ExactArray) -> bool:
    """Whether floats hold all numbers, but for a relative rounding."""
    return x.is_float() or not ((np.abs(x.hi) < TINY) & x.nonzero()).any()
