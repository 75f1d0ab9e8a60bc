"""Affine bounds of real graphs on their boxes beside intervals: what goes, which signs are settled, how
much nearer the ends of units are, and what it costs.

    python benchmarks/bench_graph_affine.py [FOLDER]

FOLDER holds ONNX and TensorFlow Lite files, and `manifest.json`, which says what box the inputs of an ONNX
file come from ([0, 1] where it does not); by default `graph` in the models that tests use.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import moduli as mo
from moduli.compression.exact import affine_bounds, reduce_graph
from moduli.compression.exact.affine_bounds import Refinement
from moduli.compression.graph_results import ranges_of
from moduli.kernel.graph.facts import Known

SHARED = Path(
    os.environ.get("MODULI_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared")
)
BOXES = {"pretrainedResnet.tflite": [0, 255], "vww_96_int8.tflite": [-128, 127]}
BUDGET = 10_000  # what `compress` has by default
HEAD = (
    "model", "box", "parameters", "by intervals", "by affine bounds", "units gone", "and",
    "CPU s", "and", "check, s", "and", "open units", "and", "width of these",
)  # fmt: skip


def compressed(path: Path, box: Any, products: int) -> tuple[Any, float, float]:
    """What is left, and seconds of the processor for that and for the check."""
    reduce_graph.PRODUCTS = products
    graph = mo.load(path)
    start = time.process_time()
    small = mo.compress(graph, on=box)
    middle = time.process_time()
    small.check()
    return small, middle - start, time.process_time() - middle


def gone(small: Any) -> int:
    return sum(n for kind, n in small.removed.items() if kind != "bypassed")


def widths(path: Path, box: Any) -> tuple[int, int, float]:
    """Units with a kink inside their interval, how many are left so by affine bounds, and by how much
    the widths of all these shrink, their geometric mean.
    """
    graph = mo.load(path).model.live()
    ranges = ranges_of(graph, box)
    plain, sharp = Known(graph, ranges), Known(graph, ranges, refine=Refinement(BUDGET * 200_000))
    before = after = 0
    ratios = list[float]()
    for name, kinks in _kinks(graph).items():
        for axis, n in enumerate(graph.shapes.get(name) or ()):
            if not isinstance(n, int) or (name, axis) not in plain.found:
                continue
            old, new = plain.of((name, axis)), sharp.of((name, axis))
            units = affine_bounds._open(old.low, old.high, kinks)
            before += int(units.sum())
            after += int((units & affine_bounds._open(new.low, new.high, kinks)).sum())
            ratios += ((new.high - new.low)[units] / (old.high - old.low)[units]).tolist()
    mean = float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-300))))) if ratios else 1.0
    return before, after, mean


def _kinks(graph: Any) -> Mapping[str, list[float]]:
    found: dict[str, list[float]] = {}
    for node in graph.nodes:
        if node.inputs:
            found.setdefault(node.inputs[0], []).extend(affine_bounds._kinks(node))
    return {name: sorted(set(kinks)) for name, kinks in found.items() if kinks}


def main(folder: Path) -> None:
    manifest = {m["name"]: m for m in json.loads((folder / "manifest.json").read_text())["models"]}
    print("| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|", sep="\n")
    for path in [*sorted(folder.glob("*.onnx")), *sorted(folder.glob("*.tflite"))]:
        said = manifest.get(path.name, {})
        ends = BOXES.get(path.name) or said.get("box") or [0, 1]
        box = mo.Box(*ends)
        try:
            plain = compressed(path, box, 0)
        except mo.UnsupportedModel as error:
            print(f"| {path.stem} | {ends} | {error} |")
            continue
        sharp = compressed(path, box, 200_000)
        before, after, mean = widths(path, box)
        name = path.stem if path.suffix == ".onnx" else path.name
        cells = [
            name, ends, f"{mo.load(path).parameters:,}", f"{plain[0].network.parameters:,}",
            f"{sharp[0].network.parameters:,}", gone(plain[0]), gone(sharp[0]),
            f"{plain[1]:.2f}", f"{sharp[1]:.2f}", f"{plain[2]:.2f}", f"{sharp[2]:.2f}",
            before, after, f"{mean:.3f}",
        ]  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else SHARED / "models" / "graph")
