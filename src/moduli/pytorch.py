"""PyTorch: modules in and out, narrower blocks inside any module, heavy-tailed noise, training
runs.

| name | what |
|---|---|
| `to_torch(net)` | a network as a module; `moduli.load(module)` is the way back |
| `shrink(module, samples, ...)` | every Linear-activation-Linear block narrower |
| `prune_dead(module, samples)` | the same function without the units that it does not need, proved |
| `read_module(module, samples)` | a module as a `moduli.Graph` |
| `HeavyTailedSGD`, `HeavyTailedNoise` | noise that makes wide networks prunable, alone or on any optimizer |
| `hidden_parameters(module, *inputs)` | the matrices that carry it, as the graph of the module has it |
| `fit(module, x, y, ...)` | a training run with noise or a penalty that makes units vanish |

>>> from moduli.pytorch import HeavyTailedSGD
>>> HeavyTailedSGD.__name__
'HeavyTailedSGD'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moduli.common.extras import needed

_HOME = {
    "to_torch": "formats.torch_modules", "shrink": "compression.torch_blocks",
    "prune_dead": "compression.torch_pruning", "Pruned": "compression.torch_pruning",
    "read_module": "formats.torch_graph",
    "Shrunk": "compression.torch_blocks", "HeavyTailedSGD": "training.torch_sgd",
    "HeavyTailedNoise": "training.torch_sgd", "hidden_parameters": "training.torch_layers",
    "fit": "training.torch_runs", "perceptron": "training.torch_runs",
    "convolutional": "training.torch_runs",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(
            f"module 'moduli.pytorch' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}"
        )
    with needed("torch", "torch"):
        return getattr(importlib.import_module(f".{_HOME[name]}", __package__), name)


def __dir__() -> list[str]:
    return sorted(_HOME)


if TYPE_CHECKING:
    from .compression.torch_blocks import Shrunk as Shrunk
    from .compression.torch_blocks import shrink as shrink
    from .compression.torch_pruning import Pruned as Pruned
    from .compression.torch_pruning import prune_dead as prune_dead
    from .formats.torch_graph import read_module as read_module
    from .formats.torch_modules import to_torch as to_torch
    from .training.torch_layers import hidden_parameters as hidden_parameters
    from .training.torch_runs import convolutional as convolutional
    from .training.torch_runs import fit as fit
    from .training.torch_runs import perceptron as perceptron
    from .training.torch_sgd import HeavyTailedNoise as HeavyTailedNoise
    from .training.torch_sgd import HeavyTailedSGD as HeavyTailedSGD
