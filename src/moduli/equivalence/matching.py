"""Two networks brought to one architecture by moves, unit beside unit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from moduli.common.progress import Progress
from moduli.kernel.certificate import Certificate
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.move import Move
from moduli.kernel.network import Network
from moduli.kernel.rules import apply
from moduli.kernel.slack import Slack, difference
from moduli.kernel.state import State

from .alignment import align
from .group import Element, normal_form

Array = np.ndarray[Any, np.dtype[np.float64]]
EXACT = 200_000  # weights that may be scaled by other factors than powers of two


class Matching(NamedTuple):
    """Two networks brought to one architecture by moves, unit beside unit."""

    left: State
    right: State
    left_moves: tuple[Move, ...]
    right_moves: tuple[Move, ...]

    def slack(self, radius: Array | None = None) -> Slack:
        """A certified bound of the difference."""
        return difference(
            self.left.arrays(), self.right.arrays(), self.left.activations, radius=radius
        )

    def certificate(self, a: Network, b: Network) -> Certificate:
        """That b is a, up to this difference on all inputs."""
        return Certificate(a.digest, b.digest, self.left_moves, self.right_moves, self.slack())

    def tangent(self, x: Array) -> Array:
        """The difference at each input to first order: it keeps its digits where subtracting
        outputs keeps none.
        """
        a, b = self.left.arrays(), self.right.arrays()
        h, t = x, np.zeros_like(x)
        with np.errstate(all="ignore"):
            for k, ((w, c), (v, d)) in enumerate(zip(a, b, strict=True)):
                z = h @ w.hi.T + c.hi
                t = t @ w.hi.T + h @ (v.hi - w.hi).T + (d.hi - c.hi)
                if k < len(self.left.activations):
                    act = self.left.activations[k]
                    h, t = act(z), act.derivative(z) * t
        return np.asarray(t)


def normal_forms(a: Network, b: Network, progress: Progress | None = None) -> Matching:
    """Both normal forms; units stand beside each other only where they have one architecture."""
    kinds = {s.kind for net in (a, b) for s in net.activations}
    as_tanh = {"tanh", "sigmoid"} <= kinds
    left, left_moves = normal_form(a, progress, as_tanh=as_tanh)
    right, right_moves = normal_form(b, progress, as_tanh=as_tanh)
    return Matching(left, right, left_moves, right_moves)


def matchings(
    a: Network, b: Network, progress: Progress | None = None, *, forms: Matching | None = None
) -> Iterator[Matching]:
    """Normal forms, where they have one architecture; then, where these differ, the same with units
    aligned.

    Args:
        forms: both `normal_forms`, where they are known. Aligning goes on from them: used once.
    """
    left, right, left_moves, right_moves = forms or normal_forms(a, b, progress)
    if left.widths != right.widths or left.activations != right.activations:
        return
    yield Matching(left, right, left_moves, right_moves)
    try:
        element = align(left.network(), right.network()).element
    except UnsupportedModel:
        return
    element = _binary(element, left)
    if not all(np.isfinite(factor).all() and factor.all() for factor in element.factor):
        return  # floats lost their way among huge and tiny weights
    moves = element.moves(left.alive[1:-1])
    for k, move in enumerate(moves, 1):
        apply(left, move)
        if progress is not None:
            progress(k, len(moves), "matched units")
    yield Matching(left, right, (*left_moves, *moves), right_moves)


def _binary(element: Element, state: State) -> Element:
    """Factors near powers of two become such; all do where exact numbers would be too many."""
    widths, factors = state.widths, []
    for l, factor in enumerate(element.factor, 1):
        near = np.copysign(np.exp2(np.round(np.log2(np.abs(factor)))), factor)
        many = widths[l] * (widths[l - 1] + widths[l + 1]) > EXACT
        if not many:
            near = np.where(np.abs(factor / near - 1) < 1e-6, near, factor)
        factors.append(near)
    return Element(element.order, tuple(factors))
