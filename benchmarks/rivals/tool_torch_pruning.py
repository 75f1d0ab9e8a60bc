"""Torch-Pruning (MIT) removes the share of units that it is told to, the least important first; one
then trains on.

It is told here how many units suffice in all hidden layers together, which it cannot know by
itself; no training follows."""

from __future__ import annotations

import moduli as mo

IMPORT, NAME, LICENCE, PROOF = "torch_pruning", "torch-pruning", "MIT", "none"


def shrink(net: mo.Network, needed: int, on: mo.Box | None) -> mo.Network:
    import torch
    import torch_pruning as tp

    module = mo.to_torch(net)
    pruner = tp.pruner.BasePruner(
        module,
        torch.zeros(1, net.widths[0], dtype=torch.float64),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1 - needed / net.units,
        ignored_layers=[module[-1]],
    )
    pruner.step()
    return mo.load(module)
