"""What float32 rounds, and what quantising does, bounded on boxes: moduli beside onnxsim, on public models.

The whole box of a model, and a hundredth of it around the middle (of quantised ones a tenth). Models are
quantised by onnxruntime, calibrated on 30 random inputs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from common import present, table, timed

import moduli as mo

NAME = IMPORT = "onnxsim"
SHARED = Path(os.environ.get("MODULI_SHARED", Path(__file__).parents[3] / "shared")) / "models"
ROUNDED = (
    "reach_vdp.onnx", "rl_cartpole.onnx", "mnistfc_256x2.onnx", "acasxu_1_1.onnx",
    "cifar10_resnet_2b.onnx", "graph/mlperf_vww_mobilenet025.onnx",
)  # fmt: skip
QUANTISED = (
    ("reach_vdp.onnx", -1.0, 1.0), ("rl_cartpole.onnx", -1.0, 1.0), ("mnistfc_256x2.onnx", 0.0, 1.0),
    ("mnist_convnet_maxpool.onnx", 0.0, 1.0),
)  # fmt: skip
BUDGET = 2000
Ends = tuple[np.ndarray, np.ndarray]


def part(low: np.ndarray, high: np.ndarray, share: float) -> Ends:
    middle = (low + high) / 2
    return middle - share * (middle - low), middle + share * (high - middle)


def shape_of(path: Path) -> tuple[str, tuple[int, ...]]:
    given = onnx.load(path).graph.input[0]
    return given.name, tuple(d.dim_value or 1 for d in given.type.tensor_type.shape.dim)


def theirs_rounded(path: Path, ends: Ends, shape: tuple[int, ...]) -> float:
    from onnxsim import fp_error

    model = onnx.load(path)
    name = model.graph.input[0].name
    found = fp_error.roundoff_bound(model, {name: tuple(end.reshape(shape) for end in ends)})
    parts = getattr(found, "outputs", None) or getattr(found, "bounds", {})
    return max((float(np.max(value)) for value in parts.values()), default=float("nan"))


def rounding() -> None:
    boxes = json.loads((SHARED / "boxes.json").read_text())
    rows = []
    for name in ROUNDED:
        path = SHARED / name
        _, shape = shape_of(path)
        known = boxes.get(name, {"lo": [0.0], "hi": [1.0]})
        size = int(np.prod(shape[1:]))
        low, high = (
            np.broadcast_to(np.ravel(known[key]), (size,)).astype(float) for key in ("lo", "hi")
        )
        for said, share in (("whole", 1.0), ("1/100", 0.01)):
            ends = part(low, high, share)
            box = mo.Box(*(end.reshape(shape[1:]) for end in ends))
            ours, seconds = timed(lambda p=path, b=box: mo.rounding(p, on=b, budget=BUDGET))
            other, took = timed(lambda p=path, e=ends, s=shape: theirs_rounded(p, e, s))
            seen = "" if ours.seen is None else f"{ours.seen:.2g}"
            rows.append(
                (name, said, f"{ours.upper:.2g}", f"{seconds:.1f}", f"{other:.2g}", f"{took:.1f}", seen)
            )  # fmt: skip
    table(
        "What float32 rounds",
        ("model", "box", "moduli", "s", "onnxsim", "s", "seen in NumPy"),
        rows,
    )


def quantised() -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxsim import quant_verify

    class Drawn(CalibrationDataReader):
        def __init__(self, name: str, shape: tuple[int, ...], low: float, high: float) -> None:
            rng = np.random.default_rng(0)
            feeds = ({name: rng.uniform(low, high, shape).astype(np.float32)} for _ in range(30))
            self.left = iter(feeds)

        def get_next(self) -> Any:
            return next(self.left, None)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, low, high in QUANTISED:
            path = Path(folder) / Path(name).name
            given, shape = shape_of(SHARED / name)
            onnx.save(onnx.version_converter.convert_version(onnx.load(SHARED / name), 13), path)
            for how in ("static", "dynamic"):
                out = Path(folder) / f"{how}-{path.name}"
                if how == "static":
                    quantize_static(
                        path, out, Drawn(given, shape, low, high), quant_format=QuantFormat.QDQ,
                        per_channel=True, weight_type=QuantType.QInt8,
                    )  # fmt: skip
                else:
                    quantize_dynamic(path, out, weight_type=QuantType.QInt8)
                for said, share in (("whole", 1.0), ("1/10", 0.1)):
                    a, b = (float(end) for end in part(np.array(low), np.array(high), share))
                    ours, seconds = timed(
                        lambda p=path, q=out, a=a, b=b: mo.distance(
                            p, q, on=mo.Box(a, b), budget=BUDGET
                        )
                    )
                    ranges = {given: (np.full(shape, a), np.full(shape, b))}
                    other, took = timed(
                        lambda p=path, q=out, r=ranges: quant_verify.verify(
                            onnx.load(p), onnx.load(q), r, breakdown=False
                        )
                    )
                    text = str(other).partition("<= ")[2].split()[0]
                    rows.append((
                        name, how, said, f"{ours.upper:.3g}", f"{seconds:.1f}", text, f"{took:.1f}",
                        f"{ours.seen:.2g}",
                    ))  # fmt: skip
    head = ("model", "quantised", "box", "moduli", "s", "onnxsim", "s", "seen")
    table("What quantising does", head, rows)


def main() -> None:
    if not present(sys.modules[__name__]):
        return
    rounding()
    print()
    quantised()
