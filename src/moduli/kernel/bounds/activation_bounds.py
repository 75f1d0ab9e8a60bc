"""What a unit's activation and pre-activation can be on a box, for a network in exact numbers. Part
of the kernel.

Where a sign is known, an activation with slopes on either side of 0 is linear on the box: s(z) = c
z, and c is the unit's *slope* (relu: 1 or 0).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from moduli.kernel.exact_numbers import total
from moduli.kernel.state import State

from . import propagation
from .relaxations import relaxation

Array = np.ndarray[Any, np.dtype[np.float64]]
Row = tuple[Fraction, ...]


def slope(state: State, l: int, unit: int) -> Fraction | None:
    """c with s(z) = c z on the box for the pre-activation of a unit of layer l, or None where that
    is not known.
    """
    activation = state.activations[l - 1]
    if not activation.piecewise_linear:
        return None
    known = state.signs[l - 1][unit] if state.region is not None else 0
    sign = known if activation.bends else 1
    end = activation.exact(Fraction(int(sign)))
    return None if sign == 0 or end is None else end * int(sign)


def extent(state: State, l: int, row: Row) -> tuple[Fraction, Fraction] | None:
    """Bounds of row . h on the box, h what layer l reads (remaining columns); None where there is
    no box or no finite one.
    """
    if state.region is None:
        return None
    lo, hi = (part[state.alive[l - 1]] for part in activation_bounds(state, l - 1))
    used = [(q, p, r) for q, p, r in zip(row, lo.tolist(), hi.tolist(), strict=True) if q != 0]
    if not all(math.isfinite(p) and math.isfinite(r) for _, p, r in used):
        return None
    least = total(q * Fraction(p if q > 0 else r) for q, p, r in used)
    most = total(q * Fraction(r if q > 0 else p) for q, p, r in used)
    return least, most


def activation_bounds(state: State, l: int) -> tuple[Array, Array]:
    """Bounds of the activations of layer l on the box (0: the inputs)."""
    assert state.region is not None
    if l == 0:
        return np.array(state.region.low), np.array(state.region.high)
    lo, hi = preactivation_bounds(state)[l - 1]
    sign = state.signs[l - 1]
    lo, hi = (
        np.where(sign > 0, np.maximum(lo, 0.0), lo),
        np.where(sign < 0, np.minimum(hi, 0.0), hi),
    )
    found = relaxation(state.activations[l - 1], lo, hi)
    return found.least, found.most


def preactivation_bounds(state: State) -> list[tuple[Array, Array]]:
    """Bounds of pre-activations on the box: of the original units, and those that blocks have
    proved of new ones.
    """
    if state.preactivation_bounds is None:
        assert state.region is not None
        low, high = np.array([state.region.low]), np.array([state.region.high])
        hidden = state.net.layers[:-1]
        found = propagation.linear(hidden, low, high, lazy=True) if hidden else []
        state.preactivation_bounds = [(lo[0].copy(), hi[0].copy()) for lo, hi in found]
    return state.preactivation_bounds
