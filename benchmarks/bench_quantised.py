"""Real models quantised by onnxruntime beside themselves: certified distance, what is seen, what is to blame.

python benchmarks/bench_quantised.py [budget] [model ...]      (MODULI_SHARED names the folder)

Each model on its own box and on a hundredth of it around the middle; calibrated there on 64 random inputs. Static:
QuantizeLinear and DequantizeLinear, a scale for each channel; dynamic: scales from the values at run time.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

import moduli as mo
from moduli.equivalence.quantised_graphs import QuantisedDistance
from moduli.formats import load_as_written

SHARED = Path(os.environ.get("MODULI_SHARED", Path(__file__).parents[2] / "shared")) / "models"
MODELS = (
    "reach_vdp.onnx", "rl_cartpole.onnx", "safenlp_ruarobot.onnx", "nn4sys_lindex.onnx",
    "hls_three_layer_keras.onnx", "acasxu_1_1.onnx", "mnistfc_256x2.onnx",
    "mnist_convnet_maxpool.onnx", "graph/mlperf_resnet8.onnx",
)  # fmt: skip
INPUTS = 2000


class Drawn(CalibrationDataReader):
    def __init__(self, name: str, inputs: np.ndarray) -> None:
        self.left = iter([{name: row[None].astype(np.float32)} for row in inputs])

    def get_next(self) -> Any:
        return next(self.left, None)


def drawn(shape: tuple[int, ...], low: np.ndarray, high: np.ndarray, rows: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return low + (high - low) * rng.random((rows, *shape))


def boxes_of(name: str, shape: tuple[int, ...]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    known = json.loads((SHARED / "boxes.json").read_text()).get(name)
    low, high = (0.0, 255.0 if "resnet8" in name else 1.0)
    ends = (
        (np.array(known["lo"]), np.array(known["hi"])) if known else (np.array(low), np.array(high))
    )
    low, high = (
        np.broadcast_to(end, shape) if end.ndim == 0 else end.reshape(shape) for end in ends
    )
    middle, half = (low + high) / 2, (high - low) / 200
    return {"its own": (low, high), "1/100": (middle - half, middle + half)}


def newer(path: Path, folder: Path) -> Path:
    """The model in opset 13 at least: older ones have no scale for each channel, nor
    DynamicQuantizeLinear.
    """
    model = onnx.load(path)
    if model.opset_import[0].version < 13:
        path = folder / path.name
        onnx.save(onnx.version_converter.convert_version(model, 13), path)
    return path


def main() -> None:
    logging.disable(logging.WARNING)
    budget = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print("| model | box | how | bound | seen | factor | s | most to blame: alone |")
    print("|---|---|---|---|---|---|---|---|")
    for name in sys.argv[2:] or MODELS:
        path = SHARED / name
        graph = onnx.load(path).graph
        stored = {tensor.name for tensor in graph.initializer}
        given = next(value for value in graph.input if value.name not in stored)
        shape = tuple(d.dim_value for d in given.type.tensor_type.shape.dim[1:])
        plain = load_as_written(path)
        for said, (low, high) in boxes_of(name, shape).items():
            for how in ("static", "dynamic"):
                with tempfile.TemporaryDirectory() as folder:
                    path, out = newer(SHARED / name, Path(folder)), Path(folder) / "q.onnx"
                    if how == "static":
                        reader = Drawn(given.name, drawn(shape, low, high, 64))
                        quantize_static(
                            path, out, reader, quant_format=QuantFormat.QDQ, per_channel=True,
                            weight_type=QuantType.QInt8,
                        )  # fmt: skip
                    else:
                        quantize_dynamic(path, out, weight_type=QuantType.QInt8)
                    line(
                        f"| {name} | {said} | {how} |",
                        plain,
                        load_as_written(out),
                        low,
                        high,
                        budget,
                    )


def line(start: str, plain: Any, quantised: Any, low: Any, high: Any, budget: int) -> None:
    box = mo.Box(low, high)
    began = time.perf_counter()
    found = mo.distance(plain, quantised, on=box, budget=budget)
    took = time.perf_counter() - began
    if not isinstance(found, QuantisedDistance):
        print(start, "| not matched | | | |", flush=True)
        return
    rows = INPUTS if np.size(low) < 1000 else 64
    seen = 0.0
    for x in drawn(np.shape(low), low, high, rows)[:, None]:
        a, b = (np.asarray(net(x)) for net in (plain, quantised))
        seen = max(seen, float(np.abs(a - b).max()))
    assert seen <= found.upper
    worst = found.by_layer[0]
    factor = f"{found.upper / seen:.3g}" if seen else ""
    blame = f"{worst.name[:32]}: {worst.alone:.2g}"
    print(
        start,
        f"{found.upper:.2g} | {seen:.2g} | {factor} | {took:.1f} | {blame} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
