"""OnnxSlim (MIT) fuses and removes nodes of an ONNX graph; it is not made to look for units."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import moduli as mo

IMPORT, NAME, LICENCE, PROOF = "onnxslim", "onnxslim", "MIT", "none"


def slim(model: Any, on: mo.Box | None) -> Any:
    import onnxslim

    return onnxslim.slim(model)


def shrink(net: mo.Network, needed: int, on: mo.Box | None) -> mo.Network:
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        return mo.load(slim(onnx.load(mo.save(net, Path(folder) / "net.onnx")), on))
