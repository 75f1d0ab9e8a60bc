"""PyTorch: modules in and out, narrower blocks inside any module, heavy-tailed noise, training runs.

| name | what |
|---|---|
| `to_torch(net)` | a network as a module; `moduli.load(module)` is the way back |
| `shrink(module, samples, ...)` | every Linear-activation-Linear block narrower |
| `HeavyTailedSGD`, `HeavyTailedNoise` | noise that makes wide networks prunable, alone or on any optimizer |
| `hidden_parameters(module)` | the matrices that carry it |
| `fit(module, x, y, ...)` | a training run with noise or a penalty that makes units vanish |

>>> from moduli.pytorch import HeavyTailedSGD
>>> HeavyTailedSGD.__name__
'HeavyTailedSGD'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moduli.kernel.errors import MissingExtra

_HOME = {
    "to_torch": "formats.torch_modules", "shrink": "compression.torch_blocks", "Shrunk": "compression.torch_blocks",
    "HeavyTailedSGD": "training.torch_sgd", "HeavyTailedNoise": "training.torch_sgd", "hidden_parameters": "training.torch_sgd",
    "fit": "training.torch_runs", "perceptron": "training.torch_runs",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'moduli.pytorch' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    try:
        return getattr(importlib.import_module(f".{_HOME[name]}", __package__), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtra("torch", "torch") from None


def __dir__() -> list[str]:
    return sorted(_HOME)


if TYPE_CHECKING:
    from moduli.compression.torch_blocks import Shrunk as Shrunk
    from moduli.compression.torch_blocks import shrink as shrink
    from moduli.formats.torch_modules import to_torch as to_torch
    from moduli.training.torch_runs import fit as fit
    from moduli.training.torch_runs import perceptron as perceptron
    from moduli.training.torch_sgd import HeavyTailedNoise as HeavyTailedNoise
    from moduli.training.torch_sgd import HeavyTailedSGD as HeavyTailedSGD
    from moduli.training.torch_sgd import hidden_parameters as hidden_parameters
