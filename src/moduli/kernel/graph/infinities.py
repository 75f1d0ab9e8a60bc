"""Where a graph may store infinities and what is no number. Part of the kernel.

All facts and all removals are about real numbers: nothing is zero times infinity, and t - t is zero.
A mask of attention stores infinities nevertheless: it is added to what softmax compares, and what
softmax gives are numbers. So a value that is not of numbers may be moved, compared, chosen and added
to numbers, until a softmax ends it, or the larger of it and a number is taken; whatever multiplies
it is refused, with the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import CertificateRejected
from .model import GraphModel, Tensor
from .operators import (
    Broadcast,
    Concat,
    Elementwise,
    Lookup,
    Node,
    Opaque,
    Reshape,
    Size,
    Slicewise,
    Take,
    Transpose,
)
from .slices import are_numbers
from .slicewise import SOFTMAX

MOVING = (Broadcast, Concat, Lookup, Reshape, Take, Transpose)
MULTIPLYING = ("mul", "div", "pow", "prelu")


def require_numbers(graph: GraphModel) -> set[str]:
    """Stored tensors are numbers, but for masks that end in a softmax; the values that are not.

    Raises:
        CertificateRejected: naming the node that computes with something else.
    """
    beyond = {name for name, array in graph.constants.items() if not _finite(array)}
    for node in graph.nodes if beyond else ():
        read = [name for name in node.inputs if name in beyond]
        if read and not _ends(node, [graph.constants.get(name) for name in read]):
            if not _passes(node, len(read)):
                raise CertificateRejected(
                    f"{node.name!r} computes with {read[0]!r}, which is made of a stored infinity or NaN: nothing "
                    "is known of such graphs"
                )
            beyond.update(node.outputs)
    return beyond


def _finite(array: Tensor) -> bool:
    return array.dtype.kind in "biu" or are_numbers(array)


def _ends(node: Node, stored: Sequence[Tensor | None]) -> bool:
    """Whether what it gives are numbers, as far as they are known at all."""
    op = node.op
    if isinstance(op, Elementwise) and len(node.inputs) == 2 and len(stored) == 1:
        (array,) = stored
        harmless = {"max": np.less, "min": np.greater}.get(op.kind)
        end = np.inf if op.kind == "max" else -np.inf
        return array is not None and harmless is not None and bool(harmless(array, end).all())
    return isinstance(op, (Opaque, Size)) or (isinstance(op, Slicewise) and op.kind in SOFTMAX)


def _passes(node: Node, count: int) -> bool:
    """Whether facts about numbers are right of what it gives."""
    op = node.op
    if isinstance(op, Elementwise):
        return op.kind not in MULTIPLYING and (count == 1 or op.kind not in ("add", "sub"))
    return isinstance(op, (*MOVING, Slicewise))
