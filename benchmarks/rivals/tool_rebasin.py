"""rebasin (MIT), an implementation of weight matching as in Git Re-Basin: permutes the units of one
model towards another.
"""

from __future__ import annotations

import moduli as mo

IMPORT, NAME, LICENCE = "rebasin", "rebasin", "MIT"


def match(a: mo.Network, b: mo.Network) -> mo.Network:
    """`a`, its units permuted towards those of `b`."""
    import torch
    from rebasin import PermutationCoordinateDescent

    torch.manual_seed(0)
    moved = mo.to_torch(a, dtype=torch.float32)
    target = mo.to_torch(b, dtype=torch.float32)
    PermutationCoordinateDescent(target, moved, torch.zeros(1, a.widths[0])).rebasin()
    return mo.load(moved)
