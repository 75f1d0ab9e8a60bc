"""All operators of a graph, from where each is declared."""

from .entrywise import Elementwise, PerUnit
from .operator import Facts, Node, Opaque, Operator, Place, Shape, Shapes, Size, Sizes, Ties
from .rearranging import Broadcast, Concat, Lookup, Reshape, Take, Transpose
from .slicewise import Slicewise
from .sums import Contract, Linear

__all__ = [
    "Broadcast", "Concat", "Contract", "Elementwise", "Facts", "Linear", "Lookup", "Node", "Opaque",
    "Operator", "PerUnit", "Place", "Reshape", "Shape", "Shapes", "Size", "Sizes", "Slicewise", "Take",
    "Ties", "Transpose",
]  # fmt: skip
