"""Certified bounds of rounding beside what runtimes do: onnxruntime, torch, NumPy, on real dense models.

python benchmarks/bench_rounding.py [inputs] [model ...]      (MODULI_SHARED names the folder; 10^6 inputs by default)

Each model on two boxes: its own, and a hundredth of it around the middle. Runtimes: onnxruntime optimised and
not, with one and two threads; torch with one and two; NumPy in float32; NumPy in float16, weights and values, added
in float32 (where float16 holds the model). Half of the inputs are corners.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import moduli as mo
from moduli.equivalence.computed import computed
from moduli.formats import load_as_written
from moduli.kernel.runtime import FORMATS, Runtime

SHARED = Path(os.environ.get("MODULI_SHARED", Path(__file__).parents[2] / "shared")) / "models"
BATCH = 2**24  # numbers of inputs at a time
BUDGET = 10_000
Run = Callable[[np.ndarray], np.ndarray]


def session(path: Path, threads: int, optimised: bool) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    found = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = found.get_inputs()[0]
    fixed = isinstance(given.shape[0], int) and given.shape[0] == 1
    shape = [n if isinstance(n, int) else -1 for n in given.shape]

    def run(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float32)
        if fixed:  # one sample at a time: few of them
            return np.stack(
                [np.ravel(found.run(None, {given.name: row.reshape(shape)})[0]) for row in x[:2000]]
            )
        return np.asarray(found.run(None, {given.name: x.reshape(-1, *shape[1:])})[0]).reshape(
            len(x), -1
        )

    return run


def torch_run(net: mo.Network, threads: int) -> Run:
    module = mo.to_torch(net, dtype=torch.float32)

    def run(x: np.ndarray) -> np.ndarray:
        torch.set_num_threads(threads)
        with torch.no_grad():
            return module(torch.from_numpy(x.astype(np.float32))).numpy()

    return run


def runs_of(path: Path, net: mo.Network, folder: Path) -> dict[str, Run]:
    """Those that compute the layers as they are; the file itself where it is one."""
    file = path if path.suffix == ".onnx" else mo.save(net, folder / "net.onnx", dtype="float32")
    found: dict[str, Run] = {"numpy": lambda x: computed(net, Runtime("float32"), x)}
    for threads in (1, 2):
        found[f"torch, {threads}"] = torch_run(net, threads)
        for optimised in (True, False):
            found[f"onnxruntime, {threads}, {optimised}"] = session(file, threads, optimised)
    return found


def batches(box: mo.Box, inputs: int) -> Iterator[np.ndarray]:
    """Numbers of float32 within the box, half of the rows corners."""
    rng, n = np.random.default_rng(0), len(box.low)
    low, high = box.low.astype(np.float32), box.high.astype(np.float32)
    left = inputs
    while left > 0:
        rows = min(left, max(1, BATCH // n))
        x = rng.uniform(low, high, (rows, n)).astype(np.float32)
        corner = rng.random(rows) < 0.5
        x[corner] = np.where(rng.random((int(corner.sum()), n)) < 0.5, low, high)
        yield np.clip(x, low, high).astype(np.float64)
        left -= rows


def inner(box: mo.Box) -> mo.Box:
    middle, half = (box.low + box.high) / 2, (box.high - box.low) / 200
    nearest = FORMATS["float32"].nearest
    return mo.Box(nearest(middle - half), nearest(middle + half))


def row(path: Path, net: mo.Network, box: mo.Box, inputs: int, folder: Path) -> str:
    source: Any = load_as_written(path) if path.suffix == ".onnx" else net
    start = time.perf_counter()
    bound = mo.rounding(source, on=box, budget=BUDGET)
    took, bare = time.perf_counter() - start, net.output_map == "identity"
    seen = dict.fromkeys(("onnxruntime", "torch", "numpy"), 0.0)
    runs, count = runs_of(path, net, folder), 0
    for x in batches(box, inputs):
        true, logits = net(x), net.logits(x)
        for name, run in runs.items():
            got = run(x)
            wanted = logits if name == "numpy" else true
            key = name.split(",")[0]
            seen[key] = max(seen[key], float(np.abs(got - wanted[: len(got)]).max()))
        count += len(x)
    largest = max(seen.values()) if bare else max(seen["onnxruntime"], seen["torch"])
    assert largest <= bound.upper, (path, largest, bound.upper)
    sixteen = half(net, box, min(inputs, 10**5))
    parts = " | ".join(f"{v:.2g}" for v in seen.values())
    return f"{bound.upper:.2g} | {parts} | {bound.upper / largest:.3g} | {took:.1f} | {sixteen}"


def half(net: mo.Network, box: mo.Box, inputs: int) -> str:
    """Bound and factor in float16."""
    try:
        bound = mo.rounding(net, on=box, dtype="float16", budget=1000)
    except mo.Undecided:
        return "no number"
    if not np.isfinite(bound.upper):
        return "may overflow"
    nearest, runtime, seen = FORMATS["float16"].nearest, Runtime("float16"), 0.0
    for x in batches(box, inputs):
        x = np.clip(nearest(x), box.low, box.high)
        x = np.where(nearest(x) == x, x, nearest(0.5 * (box.low + box.high)))
        x = x[((x >= box.low) & (x <= box.high) & (nearest(x) == x)).all(axis=1)]
        if len(x):
            seen = max(seen, float(np.abs(computed(net, runtime, x) - net.logits(x)).max()))
    assert seen <= bound.upper
    return f"{bound.upper:.2g}, {bound.upper / seen:.3g}" if seen else f"{bound.upper:.2g}"


def runs(path: Path) -> bool:
    """Whether onnxruntime takes the file; it does not take all that others do."""
    try:
        if path.suffix == ".onnx":
            session(path, 1, optimised=False)
    except Exception as error:  # its own kinds
        return "FAIL" not in str(error)
    return True


def main() -> None:
    inputs = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10**6
    boxes = json.loads((SHARED / "boxes.json").read_text())
    wanted = sys.argv[2:] or list(boxes)
    print(
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, numpy {np.__version__}; {inputs} inputs"
    )
    print(
        "| model | box | bound | onnxruntime | torch | numpy | factor | s | float16: bound, factor |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            path = SHARED / name
            if path.suffix not in (".onnx", ".nnet"):  # other files stand there as ONNX, too
                path = path.with_suffix(".converted.onnx")
            try:
                net = mo.load(path)
            except (mo.UnsupportedModel, FileNotFoundError):
                continue
            if not isinstance(net, mo.Network) or any("folded" in note for note in net.notes):
                continue  # other runtimes would not compute what the file says
            ends = (np.array(boxes[name][key], dtype=np.float64).ravel() for key in ("lo", "hi"))
            nearest = FORMATS["float32"].nearest
            low, high = (np.broadcast_to(nearest(end), (net.widths[0],)) for end in ends)
            own = mo.Box(low, high)
            share = max(1, net.parameters // 20_000)  # fewer inputs of larger models
            for said, box in (("its own", own), ("1/100", inner(own))):
                if not runs(path):
                    print(f"| {name} | onnxruntime does not load it |", flush=True)
                    break
                start = f"| {name} {'-'.join(map(str, net.widths))} | {said} |"
                print(start, row(path, net, box, inputs // share, Path(folder)), "|", flush=True)


if __name__ == "__main__":
    main()
