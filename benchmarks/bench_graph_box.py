"""Real graphs on the box of their inputs: what goes, what it costs, and what a runtime makes of it.

python benchmarks/bench_graph_box.py [model ...]                   (all by default; about four minutes)

Reads the folder of models that MODULI_SHARED names, and zoo:person-detector. Before and after, and
what `stable_relu_prune` of onnxsim makes of the same file where it is installed: milliseconds of
onnxruntime on one thread, also without its kernels that take channels in blocks ("plain"), and the
largest difference of outputs, at the same random inputs. What optimisations of the runtime alone
change in the outputs of the original stands beside it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bench_graph import SHARED
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from rivals import tool_onnxsim
from rivals.common import failed, present, table

import moduli as mo
from moduli.formats.onnx import graph_files  # noqa: F401  what it imports is no cost of a model

INPUTS = 1000
SECONDS = 20  # a model, for differences; half of it for milliseconds
MOST_RUNS = 1000  # of one input, for milliseconds
ZOO = "zoo:person-detector"
MODULI = (
    "model", "box", "parameters", "all inputs", "on the box", "gone on the box", "slack",
    "compress, s", "check, s", "KiB", "ms", "ms, plain", "largest difference",
    "by the runtime alone", "largest output", "inputs",
)  # fmt: skip
ONNXSIM = (
    "model", "parameters", "simplified", "pruned", "channels gone", "layers pruned", "seconds",
    "KiB", "ms", "largest difference",
)  # fmt: skip


def session(
    path: Path, level: GraphOptimizationLevel = GraphOptimizationLevel.ORT_ENABLE_ALL
) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = level
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def drawn(model: InferenceSession, entry: Any, rng: Any) -> dict[str, Any]:
    """One input of the box, a batch of one: flat, near one side or at the corners, as it falls."""
    feeds = {}
    low, high = entry["box"]
    law = 2.0 ** rng.uniform(-3, 3, 2)
    for port in model.get_inputs():
        shape = (1, *entry["inputs"][port.name][1:])
        if port.type == "tensor(float)":
            share = rng.beta(*law, shape)
            feeds[port.name] = (low + (high - low) * share).astype(np.float32)
        else:
            kind = np.dtype(port.type.removeprefix("tensor(").removesuffix(")"))
            feeds[port.name] = rng.integers(low, high, shape, endpoint=True).astype(kind)
    return feeds


def milliseconds(models: list[Any], feeds: dict[str, Any]) -> list[float]:
    """Of each, the median of runs made in turn."""
    spent: list[list[float]] = [[] for _ in models]
    end = time.perf_counter() + SECONDS / 2
    while len(spent[0]) < MOST_RUNS and time.perf_counter() < end:
        for model, times in zip(models, spent, strict=True):
            start = time.perf_counter()
            model.run(None, feeds)
            times.append(time.perf_counter() - start)
    return [1e3 * float(np.median(times)) for times in spent]


def differences(models: list[Any], entry: Any) -> tuple[list[float], float, int]:
    """From the outputs of the first, of each other; the largest output; at how many inputs."""
    rng = np.random.default_rng(0)
    far, largest, count = [0.0] * (len(models) - 1), 0.0, 0
    end = time.perf_counter() + SECONDS
    while count < INPUTS and time.perf_counter() < end:
        feeds = drawn(models[0], entry, rng)
        wanted, *others = (
            [np.asarray(out, dtype=np.float64) for out in model.run(None, feeds)]
            for model in models
        )
        largest = max(largest, *(float(np.abs(out).max()) for out in wanted))
        for k, found in enumerate(others):
            off = (float(np.abs(a - b).max()) for a, b in zip(wanted, found, strict=True))
            far[k] = max(far[k], *off)
        count += 1
    return far, largest, count


def kib(path: Path) -> str:
    return f"{path.stat().st_size / 1024:,.0f}"


def by_moduli(path: Path, on: mo.Box | None, folder: Path) -> dict[str, Any]:
    """Load, compress, save, check: seconds of the processor."""
    graph, certificate = mo.load(path), folder / "small.cert.json"
    start = time.process_time()
    small = mo.compress(graph, on=on)
    reduced = time.process_time()
    mo.save(small.network, folder / "small.onnx")
    small.save(certificate)
    saved = time.process_time()
    verdict = mo.check(certificate, folder / "small.onnx", graph, on="all" if on is None else on)
    spent = time.process_time() - saved
    assert verdict.status == "proved"
    slack = f"{small.slack:.2g}" + (f" + {small.growth:.2g} \\|x\\|" if small.growth else "")
    gone = ", ".join(f"{n} {word}" for word, n in small.removed.items() if n) or "-"
    return {
        "before": graph.parameters, "after": small.network.parameters, "gone": gone,
        "slack": slack, "compress": reduced - start, "check": spent,
    }  # fmt: skip


def by_onnxsim(path: Path, on: mo.Box, folder: Path) -> list[Any]:
    """Simplify, then prune on the box: columns of the table."""
    start = time.process_time()
    simple = tool_onnxsim.simplified(onnx.load(path))
    model, report = tool_onnxsim.pruned(simple, on)
    spent = time.process_time() - start
    onnx.save(model, folder / "sim.onnx")
    layers = sum(layer.prunable and layer.dead > 0 for layer in report.layers)
    sizes = [f"{mo.load(file).parameters:,}" for file in (simple, model)]
    return [*sizes, report.removed_units, f"{layers} of {len(report.layers)}", f"{spent:.2f}"]


def rows(entry: Any, folder: Path, with_onnxsim: bool) -> tuple[list[Any], list[Any]]:
    """Of the table of moduli and that of onnxsim."""
    name = entry["name"]
    path, small = SHARED / "models" / "graph" / name, folder / "small.onnx"
    if name == ZOO:
        path = mo.save(mo.load(ZOO), folder / "zoo.onnx")
    name = name.removesuffix(".onnx")
    everywhere = boxed = by_moduli(path, None, folder)
    if "box" in entry:
        boxed = by_moduli(path, mo.Box(*entry["box"]), folder)
    before = f"{boxed['before']:,}"
    first = [name, entry.get("box", "none"), before, f"{everywhere['after']:,}"]
    first += [f"{boxed['after']:,}", boxed["gone"]] if "box" in entry else ["-", "-"]
    first += [boxed["slack"], f"{boxed['compress']:.2f}", f"{boxed['check']:.2f}"]
    first += [f"{kib(path)} -> {kib(small)}"]
    if "box" not in entry:
        return first + ["-"] * 6, [name, before, "no box", *["-"] * 7]

    second = [name, before, "not measured here", *["-"] * 7]
    slim = list[Path]()
    if with_onnxsim:
        try:
            found = by_onnxsim(path, mo.Box(*entry["box"]), folder)
            slim = [folder / "sim.onnx"]
        except Exception as error:  # a tool that fails is a row, not the end of the comparison
            second[2] = failed(error)
    fast = [session(file) for file in (path, small, *slim)]
    level = GraphOptimizationLevel.ORT_DISABLE_ALL
    far, largest, count = differences([*fast, session(path, level)], entry)
    level = GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    plain = [session(file, level) for file in (path, small)]
    spent = milliseconds([*fast, *plain], drawn(fast[0], entry, np.random.default_rng(1)))
    first += [f"{a:.3f} -> {b:.3f}" for a, b in (spent[:2], spent[-2:])]
    first += [far[0], far[-1], largest, count]
    if slim:
        second = [name, before, *found, kib(slim[0]), f"{spent[2]:.3f}", far[1]]
    return first, second


def main() -> None:
    folder = SHARED / "models" / "graph"
    if not folder.is_dir():
        sys.exit(f"no models at {folder}; set MODULI_SHARED")
    entries = json.loads((folder / "manifest.json").read_text())["models"]
    detector = next(e for e in entries if e["name"].startswith("mlperf_vww"))
    entries.append({**detector, "name": ZOO})
    wanted = sys.argv[1:]
    entries = [e for e in entries if not wanted or any(word in e["name"] for word in wanted)]
    with_onnxsim = bool(present(tool_onnxsim))
    found = []
    for entry in entries:
        with tempfile.TemporaryDirectory() as work:
            found.append(rows(entry, Path(work), with_onnxsim))
            print(f"{entry['name']} done", file=sys.stderr, flush=True)
    table("moduli", MODULI, (first for first, _ in found))
    table("onnxsim, the same files in the same run", ONNXSIM, (second for _, second in found))


if __name__ == "__main__":
    main()
