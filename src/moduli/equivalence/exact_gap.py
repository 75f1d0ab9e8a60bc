"""sup |a - b| over a box as an exact number, from the linear pieces of both networks side by side.

Both networks side by side are one network of twice the width (`output_gap.joint`). Up to three
inputs and piecewise linear: a - b is affine on each cell of its complex, so the supremum is at a
vertex, and all is rational.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from moduli.common.exact_values import evaluate
from moduli.common.progress import Progress
from moduli.kernel.bounds.output_gap import joint
from moduli.kernel.box import Box
from moduli.kernel.errors import Undecided
from moduli.kernel.network import Network
from moduli.piecewise.polyhedral_complex import MOST, pieces

Point = tuple[Fraction, ...]
CELLS = 3000  # of the complex of both networks
UNITS = 128  # of both networks


class Peak(NamedTuple):
    """The supremum of |a - b|_inf over a box (or up to shifts, see `shifted`), and a point where it
    is attained.
    """

    gap: Fraction
    at: Point


def gap(a: Network, b: Network, x: Point) -> Fraction:
    """A lower bound of |a(x) - b(x)|_inf, exact where all values are rational."""
    pairs = zip(evaluate(a, x), evaluate(b, x), strict=True)
    return max((max(p[0] - q[1], q[0] - p[1], Fraction(0)) for p, q in pairs), default=Fraction(0))


def shifted(a: Network, b: Network, x: Point) -> Fraction:
    """min over c of |a(x) - b(x) - c|_inf, half the spread of the differences: what a softmax sees;
    all values rational.

    A convex function of a - b, as `gap` is: on a cell where a - b is affine it is largest at a
    vertex.
    """
    apart = [p[0] - q[0] for p, q in zip(evaluate(a, x), evaluate(b, x), strict=True)]
    return (max(apart) - min(apart)) / 2


def peak(
    a: Network,
    b: Network,
    box: Box,
    budget: int,
    progress: Progress | None = None,
    *,
    shifts: bool = False,
) -> Peak | None:
    """The exact supremum, or None: too many inputs, cells or units, a flat box, another activation.

    Args:
        budget: cells. shifts: up to a shift of all outputs by one number, see `shifted`.
    """
    measure = shifted if shifts else gap
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
        here = measure(a, b, point)
        if here > best.gap:
            best = Peak(here, point)
    return best
