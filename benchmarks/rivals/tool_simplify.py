"""torch-simplify (BSD-3-Clause) takes out units that pruning has set to zero and moves their
constants onward.

It imports torchvision only to recognise three of its classes. Where torchvision does not load (its
wheels are for CUDA), three empty classes stand in for them."""

from __future__ import annotations

import sys
import types

import moduli as mo

IMPORT, NAME, LICENCE, PROOF = "simplify", "torch-simplify", "BSD-3-Clause", "none"
CLASSES: dict[str, tuple[str, ...]] = {
    "torchvision": (), "torchvision.models": ("MobileNetV3", "ShuffleNetV2"),
    "torchvision.models.densenet": ("_DenseLayer",),
}  # fmt: skip


def prepare() -> None:
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name, classes in CLASSES.items():
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update({each: type(each, (), {}) for each in classes})


def shrink(net: mo.Network, needed: int, on: mo.Box | None) -> mo.Network:
    import torch
    from simplify import simplify

    return mo.load(
        simplify(
            mo.to_torch(net).eval(),
            torch.zeros(1, net.widths[0], dtype=torch.float64),
            fuse_bn=False,
        )
    )
