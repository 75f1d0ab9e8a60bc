"""How often a ReLU network of given hidden widths can bend along a line, and so how many hidden units
a function needs in a network of any depth.

On a line h^(l-1), what a layer reads, is piecewise affine in t. Let it have at most k *breaks*, and let
every affine function of it vanish at no more than q points inside pieces on which it is not constant.
The input t has k = 0 and q = 1.

- *A layer of m units.* relu(z) has breaks at those of z, and where z changes its sign inside a piece; z
  is not constant there. So k' = k + m q, and q' = k' + 1, one for each piece.
- *The first layer, of two units,* has q' = 2. If both look the same way, both are off on the first or
  last of the three pieces. If not, their slopes are (-b, a - b, a) where they overlap, up to factors,
  or (-b, 0, a); three zeros inside three pieces need slopes that alternate in sign, but if a and -b have
  one sign, a - b has it too.
- *A run of r layers of one unit* sends A + B clip(z, low, high) of the first one's z
  (`architectures`): it breaks where z does or has one of two values, or one if r = 1. So k' = k +
  min(r, 2) q. An affine function of it vanishes, where it is not constant, only where z has one value and
  is not constant: q' = q.

An affine function of the last features has no more breaks than these. A network with more inputs is one
with one input along each line, with the same hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby


def most_breaks(hidden: Sequence[int]) -> int:
    """Breaks along a line, at most, of a ReLU network with these hidden widths.

    >>> most_breaks([3]), most_breaks([2, 1]), most_breaks([1, 1, 1]), most_breaks([2, 2])
    (3, 4, 2, 6)
    """
    breaks, zeros, first = 0, 1, True
    for width, group in groupby(hidden):
        run = len(list(group))
        if width == 1:
            breaks, first = breaks + min(run, 2) * zeros, False
            continue
        for _ in range(run):
            breaks += width * zeros
            zeros = 2 if first and width == 2 else breaks + 1
            first = False
    return breaks


@cache
def fewest_hidden_units(breaks: int) -> int:
    """Hidden units that a ReLU network of any depth needs to bend so often along a line.

    >>> [fewest_hidden_units(k) for k in range(9)]
    [0, 1, 2, 3, 3, 4, 4, 4, 5]
    """
    units = 0
    while max(map(most_breaks, _widths(units)), default=0) < breaks:
        units += 1
    return units


def _widths(units: int) -> Iterator[tuple[int, ...]]:
    """Hidden widths with this sum, in all ways."""
    if not units:
        yield ()
    for first in range(1, units + 1):
        for rest in _widths(units - first):
            yield (first, *rest)
