"""Which networks of one hidden layer have the fewest units that their function allows. Part of the
kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .bounds.activation_bounds import extent
from .bounds.box_claim import Row
from .exact_numbers import class_keys
from .flippable_subsets import cancelling_turns
from .hyperplane_sums import Unit, hyperplane_sums, linear_coefficient, unit
from .state import State

MOST = 40  # hyperplanes whose turns are tried where one unit more remains than they need
TURNS = 32  # the same where two units more remain
ENTRIES = 2**20  # parameters that are compared as rationals


def reducible(state: State) -> str | None:
    """Why minimality of the remaining network is not proved, or None where it is.

    One hidden layer only. For tanh, sigmoid and erf irreducible networks are minimal
    (`Activation.source`); those that agree on an open box agree everywhere, being analytic. For
    activations that bend at 0 see `hyperplane_sums`.
    """
    if state.region is not None and state.region.flat:
        return "the box is flat"  # functions that agree there may differ close to it: no theorem below applies
    if len(state.alive) != 3:
        return f"{len(state.alive) - 2} hidden layers: minimality is known for one"
    activation = state.activations[0]
    if not (activation.bends or (activation.minimal and activation.kind != "identity")):
        return f"minimality of irreducible {activation} networks is not known"
    alive = state.alive[1]
    w = state.weights[0].take(
        np.arange(state.slots(1)), state.alive[0]
    )  # whole rows: slicing would copy the weights
    if not w.nonzero()[alive].any(axis=1).all():
        return "a unit has zero incoming weights"
    if not state.weights[1].take(state.alive[2], alive).nonzero().any(axis=0).all():
        return "a unit has zero outgoing weights"
    if activation.bends:
        # on R^n units of different hyperplanes, none of them idle: as many as there are creases,
        # and each needs one
        return None if state.region is None and distinct(state) else _reducible_bends(state)
    # irreducible (Sussmann): no zero row or column, no two rows equal up to sign
    return None if distinct(state) else "two units may be equal up to sign"


def distinct(state: State) -> bool:
    """Whether no two remaining units of the first layer are proportional (where that merges them)
    or equal up to sign.
    """
    w, b = state.weights[0].take(np.arange(state.slots(1)), state.alive[0]), state.biases[0]
    if not (w.is_float() and b.is_float()):
        return False
    keys = np.sort(
        class_keys(w.hi, b.hi, sign=True, scale=state.activations[0].homogeneous)[0][state.alive[1]]
    )
    return not (keys[1:] == keys[:-1]).any()


class Unknown(NamedTuple):
    """That something is not known, and why."""

    reason: str


class Bends(NamedTuple):
    """The units of a hidden layer, creases on the domain, and units that may not bend there though
    nothing says so.
    """

    units: list[Unit]
    seen: dict[Row, Row]
    doubtful: list[int]


def bends(state: State) -> Bends | Unknown:
    """Of a network of one hidden layer, or why that is not known."""
    if state.region is not None and state.region.flat:
        return Unknown("the box is flat")
    size = len(state.alive[1]) * (len(state.alive[0]) + len(state.alive[2]))
    if size > ENTRIES:
        return Unknown(f"{size} parameters are too many to compare hyperplanes in rationals")
    names = state.alive[1].tolist()
    units = [u for name in names if (u := unit(state, 1, name)) is not None]
    if len(units) < len(names) or not all(any(u.row[:-1]) for u in units):
        return Unknown("a parameter is not rational, or a unit has no incoming weight")
    inside = [u.slope is None and (state.region is None or _inside(state, u)) for u in units]
    seen = hyperplane_sums(
        ((u.row, u.column) for u, bent in zip(units, inside, strict=True) if bent), homogeneous=True
    )
    doubtful = [
        name
        for name, u, bent in zip(names, units, inside, strict=True)
        if u.slope is None and not bent
    ]
    return Bends(units, seen, doubtful)


def _inside(state: State, u: Unit) -> bool:
    least, most = extent(state, 1, u.row[:-1])
    if least is None or most is None:
        return False
    return least + u.row[-1] < 0 < most + u.row[-1]


def _reducible_bends(state: State) -> str | None:
    """Why a network of one hidden layer that bends may not have the fewest units, or None where it
    has; see above.
    """
    found, c = bends(state), linear_coefficient(state, 1)
    if isinstance(found, Unknown):
        return found.reason
    assert c is not None
    if found.doubtful:
        return f"unit {found.doubtful[0]} may not bend inside the box"
    units, seen = found.units, found.seen
    if (
        units and not seen and state.region is not None
    ):  # units that stay active there; nothing bends
        return "the function is affine on the box, and a network without hidden units has it"
    extra = len(units) - len(seen)
    if extra == 0:
        return (
            None  # a crease on each of r hyperplanes needs r units: the function has a kink there
        )
    if extra > (2 if state.region is None else 1) or len(seen) > (MOST if extra == 1 else TURNS):
        return f"{len(units)} units remain and no more than {len(seen)}, one for each bend of the function, are proved needed"
    try:
        spare = bool(cancelling_turns(units, seen, c)) or (
            extra == 2 and any(cancelling_turns(units, seen, c, at) for at in seen)
        )
    except ValueError:  # a denominator is a multiple of the prime
        spare = True
    return "a unit may be spared if others are turned" if spare else None
