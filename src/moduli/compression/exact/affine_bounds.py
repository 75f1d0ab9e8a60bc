"""Which bounds by affine functions are worth their work on a box: the search. The kernel computes them.

Units in front of a kink are gone back from, from few layers to many, as long as that settles signs or
makes bounds much nearer, and as products are left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.back_substitution import BackSubstitution
from moduli.kernel.graph.certificate import GraphMove
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.operators import Elementwise, Node

DEPTHS = (1, 2, 4, 8, 16, 32, 64)
WORTH = 0.1  # the part of the width of open units that going deeper has to take away
SHARE = 8  # a tensor gets at most one in so many of the products that are left
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class Refinement:
    """Asks for bounds behind each node, and notes what was asked.

    Attributes:
        left: products. moves: those of which some end became nearer. settled: units whose kink was
            inside their interval and no longer is.
    """

    left: int
    moves: list[GraphMove] = field(default_factory=list)
    settled: int = 0
    _back: BackSubstitution | None = None

    def __call__(self, known: Known, node: Node) -> None:
        shape = known.shape(node.outputs[0]) if node.outputs else None
        kinks = sorted(
            {k for reader in known.graph.readers.get(node.output, ()) for k in _kinks(reader)}
        )
        for axis, n in enumerate(shape or ()) if kinks and known.array(node.output) is None else ():
            if isinstance(n, int) and n > 0 and (node.output, axis) in known.found:
                self._axis(known, node.output, axis, kinks)

    def _axis(self, known: Known, name: str, axis: int, kinks: list[float]) -> None:
        if self._back is None or self._back.known is not known:
            self._back = BackSubstitution(known, 0)
        back, share = self._back, self.left // SHARE
        for depth in DEPTHS:
            before = known.of((name, axis))
            units = np.flatnonzero(_open(before.low, before.high, kinks))
            if not len(units):
                return
            back.left = share
            try:
                nearer = back.narrow(name, axis, units, depth)
            except CertificateRejected:
                return
            self.left -= share - back.left
            share = back.left
            better = nearer.any(axis=0)
            if better.any():
                chosen = tuple(units[better].tolist())
                self.moves.append(GraphMove("bound", name, axis, chosen, depth=depth))
            after = known.of((name, axis))
            still = _open(after.low, after.high, kinks)
            self.settled += int((~still[units]).sum())
            wide, width = (float((x.high - x.low)[units].sum()) for x in (before, after))
            if depth > 1 and not width < (1.0 - WORTH) * wide:
                return


def _kinks(node: Node) -> tuple[float, ...]:
    """Where a function of one entry bends."""
    if not isinstance(node.op, Elementwise):
        return ()
    if node.op.kind in ("relu", "leaky_relu", "abs", "prelu"):
        return (0.0,)
    if node.op.kind == "clip":
        return tuple(x for x in node.op.numbers if np.isfinite(x))
    if node.op.kind == "hardswish":
        return (-3.0, 3.0)
    if node.op.kind == "hardsigmoid" and len(node.op.numbers) == 2 and node.op.numbers[0] > 0:
        slope, shift = node.op.numbers
        return (-shift / slope, (1.0 - shift) / slope)
    return ()


def _open(low: Array, high: Array, kinks: list[float]) -> Any:
    """Units with a kink inside their interval, which has ends."""
    inside = np.logical_or.reduce([(low < kink) & (high > kink) for kink in kinks])
    return inside & np.isfinite(low) & np.isfinite(high)
