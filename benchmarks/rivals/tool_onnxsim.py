"""onnxsim (MIT and Apache-2.0 or BSD-2-Clause) folds constants and fuses nodes of an ONNX graph.

On a box it also takes out ReLU units that interval bounds, CROWN or zonotopes show to be dead
there, and merges layers that are active there; its bounds are floats with a margin of 1e-5, its
result is tried at 32 points. It can ask Z3, where that is installed, to prove that its graph does
the same within 1e-5; left out here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import moduli as mo

IMPORT, NAME, LICENCE, PROOF = (
    "onnxsim",
    "onnxsim",
    "MIT and (Apache-2.0 or BSD-2-Clause)",
    "bounds in floats, on a box",
)


def simplified(model: Any) -> Any:
    import onnxsim

    return onnxsim.simplify(model, certify=False)[0]


def pruned(model: Any, on: mo.Box) -> tuple[Any, Any]:
    """The model without units that are dead on the box, and onnxsim's report of its layers."""
    from onnxsim.stable_relu_prune import apply

    given = model.graph.input[0]
    shape = tuple(d.dim_value or 1 for d in given.type.tensor_type.shape.dim)
    low, high = (side.reshape(shape) if side.ndim else side for side in (on.low, on.high))
    methods = ("interval", "crown", "zonotope")
    return apply(model, {given.name: (low, high)}, merge_active=True, methods=methods)


def slim(model: Any, on: mo.Box | None) -> Any:
    small = simplified(model)
    return small if on is None else pruned(small, on)[0]


def shrink(net: mo.Network, needed: int, on: mo.Box | None) -> mo.Network:
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        return mo.load(
            slim(onnx.load(mo.save(net, Path(folder) / "net.onnx", dtype="float32")), on)
        )
