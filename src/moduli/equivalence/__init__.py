"""Same or not: the symmetry group, normal forms, signatures, alignment, distances, paths.

For networks that are no dense chains, `Spec` and `Axis` declare what may be permuted, and `match`
finds the permutations.
"""

from .alignment import match as match
from .group import Axis as Axis
from .group import Spec as Spec
