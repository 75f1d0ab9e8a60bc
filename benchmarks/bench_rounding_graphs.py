"""Whether closer ranges of values would help bounds of rounding of convolutional graphs.

python benchmarks/bench_rounding_graphs.py      (MODULI_SHARED names the folder)

Each model on all images of [0, 1] and within 1e-3 of one of random numbers, in float32: the largest bound of any
value of the last layers that is before a softmax, with the ranges that the kernel finds, and with those that values
have at a few images. No sound range is smaller than these: they show the most that any method could gain.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import moduli as mo
from moduli.kernel.graph import runtime_errors
from moduli.kernel.graph.facts import Known
from moduli.kernel.runtime import Runtime

SHARED = Path(os.environ.get("MODULI_SHARED", Path(__file__).parents[2] / "shared")) / "models"
MODELS = (
    "vww_96_float.tflite", "mlperf_resnet8.onnx", "v21_cifar_base_kw.onnx", "v21_resnet_2b.onnx",
    "v23_TinyYOLO.onnx", "v23_cGAN_imgSz32_nCh_1.onnx",
)  # fmt: skip
IMAGES = 12
Ends = dict[str, tuple[np.ndarray, np.ndarray]]


def seen(graph: mo.Graph, model: Any, low: np.ndarray, high: np.ndarray) -> Ends:
    """The least and the largest numbers of each value at some images, half of them corners."""
    rng, found = np.random.default_rng(0), Ends()
    names = [node.output for node in model.nodes if node.outputs]
    for k in range(IMAGES):
        share = rng.random(low.shape)
        x = low + (high - low) * (np.round(share) if k % 2 else share)
        for name, value in graph.source.values({graph.inputs[0]: x}, names).items():
            value = np.asarray(value, dtype=np.float64)
            least, most = found.get(name, (value, value))
            found[name] = np.minimum(least, value), np.maximum(most, value)
    return found


def narrowed(ends: Ends, known: Known, node: Any) -> None:
    """Let the kernel believe these ranges. This proves nothing."""
    name = node.output
    for axis, slices in list(known.along(name, known.shape(name))) if name in ends else ():
        rows = [np.moveaxis(end, axis, 0).reshape(len(slices), -1) for end in ends[name]]
        low, high = (
            np.maximum(slices.low, rows[0].min(axis=1)),
            np.minimum(slices.high, rows[1].max(axis=1)),
        )
        known.found[name, axis] = replace(slices, low=low, high=high)


def bound(model: Any, ranges: Any, refine: Callable[[Known, Any], None] | None) -> float:
    plain = runtime_errors.Known
    runtime_errors.Known = lambda graph, given: Known(graph, given, refine=refine)  # type: ignore[assignment, misc]
    try:
        found = runtime_errors.RuntimeErrors(model, Runtime("float32"), ranges)
    finally:
        runtime_errors.Known = plain  # type: ignore[misc]
    return max(found.gap(node.output) for node in model.nodes[-6:] if node.outputs)


def main() -> None:
    print("| model | images | bound | with the smallest ranges | gain |")
    print("|---|---|---|---|---|")
    for name in MODELS:
        graph = mo.load(SHARED / "graph" / name)
        model = graph.model.live()
        shape = [n if isinstance(n, int) else 1 for n in model.shapes[graph.inputs[0]]]
        middle = np.random.default_rng(1).random(shape)
        for said, radius in (("all", 1.0), ("+-1e-3", 1e-3)):
            low, high = np.clip(middle - radius, 0, 1), np.clip(middle + radius, 0, 1)
            ranges = {graph.inputs[0]: (low, high)}
            refine = partial(narrowed, seen(graph, model, low, high))
            first, least = bound(model, ranges, None), bound(model, ranges, refine)
            print(
                f"| {name} | {said} | {first:.2g} | {least:.2g} | {first / least:.2g} |", flush=True
            )


if __name__ == "__main__":
    main()
