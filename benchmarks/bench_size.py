"""How cost grows with size: large networks on the command line, long certificates, many jobs, and
every operation over decades, of chains and of graphs.

python benchmarks/bench_size.py [large] [certificate] [sweep] [growth] [graphs] [--parameters 10000000]    (all by default)

Every measurement runs in a process of its own, on one thread; seconds are of the processor. Peak
memory is the highest resident memory during the operation, less that of the interpreter with the
library loaded (Linux). `large` at 10^8 parameters takes some minutes and 4 GB.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import moduli as mo
from moduli.compression.radius.hard_instances import uniform_points

HERE = Path(__file__).parent
LARGE = (4096, 16384, 2048, 16)
Made = tuple[Callable[[], Any], float]


# Networks -------------------------------------------------------------------------------------------------------


def planted(widths: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """float32 arrays: in each hidden layer an eighth of the units are copies, a sixteenth dead, a
    sixteenth constant.
    """
    rng = np.random.default_rng(seed)
    arrays = []
    for n, m in pairwise(widths):
        arrays.append(rng.standard_normal((m, n), dtype=np.float32) * np.float32(n**-0.5))
        arrays.append(rng.standard_normal(m, dtype=np.float32) * np.float32(0.3))
    for l in range(len(widths) - 2):
        w, b, after, k = arrays[2 * l], arrays[2 * l + 1], arrays[2 * l + 2], widths[l + 1] // 8
        w[k : 2 * k], b[k : 2 * k] = w[:k], b[:k]
        after[:, 2 * k : 2 * k + k // 2] = 0
        w[3 * k : 3 * k + k // 2] = 0
    return arrays


def scaled(parameters: float) -> tuple[int, ...]:
    """Widths in the proportions of `LARGE`."""
    ratio = (parameters / 1e8) ** 0.5
    return (*(max(8, round(w * ratio / 8) * 8) for w in LARGE[:-1]), LARGE[-1])


def network(parameters: float, activation: str = "relu") -> mo.Network:
    return mo.Network.mlp(*planted(scaled(parameters)), activation=activation)


def safetensors(arrays: list[np.ndarray], path: Path, activation: str) -> None:
    names = ",".join([activation] * (len(arrays) // 2 - 1))
    header: dict[str, Any] = {"__metadata__": {"format": "moduli/1", "activations": names}}
    at = 0
    for k, array in enumerate(arrays):
        name = f"layers.{k // 2}.{('weight', 'bias')[k % 2]}"
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [at, at := at + array.nbytes],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.writelines([len(text).to_bytes(8, "little"), text, *(a.data for a in arrays)])


def onnx(arrays: list[np.ndarray], path: Path, activation: str) -> None:
    """Weights in a file beside the graph."""
    from onnx import TensorProto, helper, save_model

    beside, at, stored, nodes, name = path.with_suffix(".data"), 0, [], [], "input"
    with beside.open("wb") as file:
        for k, array in enumerate(arrays):
            tensor = TensorProto(
                name=f"p{k}", data_type=1, dims=array.shape, data_location=TensorProto.EXTERNAL
            )
            for key, value in (("location", beside.name), ("offset", at), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            file.write(array.data)
            at += array.nbytes
            stored.append(tensor)
    for l in range(len(arrays) // 2):
        last = l == len(arrays) // 2 - 1
        nodes.append(
            helper.make_node(
                "Gemm",
                [name, f"p{2 * l}", f"p{2 * l + 1}"],
                ["output" if last else f"z{l}"],
                transB=1,
            )
        )
        if not last:
            nodes.append(helper.make_node(activation.title(), [f"z{l}"], [name := f"h{l}"]))
    sizes = {"input": arrays[0].shape[1], "output": len(arrays[-1])}
    x, y = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", d]) for n, d in sizes.items()
    )
    graph = helper.make_graph(nodes, "large", [x], [y], stored)
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


# Measuring ------------------------------------------------------------------------------------------------------


def memory(field: str = "VmHWM:") -> float:
    """MiB."""
    return int(Path("/proc/self/status").read_text().split(field)[1].split()[0]) / 1024


def command(*arguments: object) -> tuple[float, float]:
    """Seconds and peak MiB of one command, both without the start of the interpreter."""
    script = f"import runpy; m = runpy.run_path({__file__!r}); m['watched']()"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"moduli {' '.join(map(str, arguments))}: {done.stderr[-2000:]}")
    seconds, peak = map(float, done.stderr.strip().splitlines()[-1].split())
    return seconds, peak


def watched() -> None:
    """In the process of a command: the command line, then its cost on stderr."""
    from moduli.interface.cli import main

    base, start = memory("VmRSS:"), time.process_time()
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    print(f"{time.process_time() - start} {memory() - base}", file=sys.stderr)


def once(operation: str, size: float, which: str) -> tuple[float, float, float]:
    """Size as measured, seconds and peak MiB of one operation, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, which, operation, str(size)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{operation} at {size}: {done.stderr[-2000:]}")
    found, seconds, peak = map(float, done.stdout.split())
    return found, seconds, peak


def one(operations: Operations, operation: str, size: float) -> None:
    import scipy.optimize
    import scipy.spatial  # noqa: F401

    base = memory("VmRSS:")
    with tempfile.TemporaryDirectory() as folder:
        call, found = operations[operation][0](size, Path(folder))
        Path("/proc/self/clear_refs").write_text("5")
        start = time.process_time()
        call()
        print(found, time.process_time() - start, memory() - base)


# Operations by size ---------------------------------------------------------------------------------------------


def of_network(call: Callable[[mo.Network], Any]) -> Callable[[float, Path], Made]:
    def make(size: float, folder: Path) -> Made:
        net = network(size)
        return (lambda: call(net)), net.parameters

    return make


def _load(size: float, folder: Path) -> Made:
    safetensors(planted(scaled(size)), folder / "a.safetensors", "relu")
    return (lambda: mo.load(folder / "a.safetensors")), sum(
        m * (n + 1) for n, m in pairwise(scaled(size))
    )


def _save(size: float, folder: Path) -> Made:
    net = network(size)
    return (lambda: mo.save(net, folder / "a.safetensors")), net.parameters


def _check(size: float, folder: Path) -> Made:
    small = mo.compress(network(size))
    return small.check, small.original.parameters


def _proximate(size: float, folder: Path) -> Made:
    """Every unit a point of the plane, as in `bench_nearby.py`; the polynomial bounds alone."""
    net = mo.hard_instance(uniform_points(int(size), 3.0), 0.5)
    return (lambda: mo.rank(net, radius=0.5, budget=4)), net.units


def _twins(size: float, folder: Path) -> Made:
    net = network(size)
    twin = mo.symmetries(net).random(1)(net)
    return (lambda: mo.equivalent(net, twin)), net.parameters


def _dense(widths: tuple[int, ...], seed: int = 0) -> mo.Network:
    rng = np.random.default_rng(seed)
    parts = [
        p
        for n, m in pairwise(widths)
        for p in (rng.normal(size=(m, n)) * (2 / n) ** 0.5, 0.3 * rng.normal(size=m))
    ]
    return mo.Network.mlp(*parts, activation="relu")


def _stable(size: float, folder: Path) -> Made:
    from moduli.compression.box.stable_units import stable

    width = round(size**0.5)
    net = _dense((8, width, width, 1))
    return (lambda: stable(net, mo.Box(-1, 1), budget=100)), net.parameters


def _pieces(size: float, folder: Path) -> Made:
    width = max(2, round((size / 1.8) ** 0.5))
    net = _dense((2, width, width, 1))
    cells = mo.pieces(net, on=mo.Box(-4, 4), budget=10**6).cells
    return (lambda: mo.pieces(net, on=mo.Box(-4, 4), budget=10**6)), cells


def _dimension(size: float, folder: Path) -> Made:
    width = round(size**0.5)
    net = _dense((2, width, width, 1))
    return (lambda: mo.dimension(net, on=mo.Box(-4, 4), budget=10**6)), net.parameters


def _pruning(size: float, folder: Path) -> Made:
    net = network(size)
    return (lambda: mo.pruning_curve(net)), net.parameters


def _noise(size: float, folder: Path) -> Made:
    return (lambda: mo.stable_noise((int(size),), 1.75, seed=0)), size


# Graphs: a residual convolutional network on images of 16 x 16


def convolutional(size: float, path: Path) -> Path:
    """About so many parameters; the middle channels of each block have copies and zeros."""
    from bench_graph import Model
    from onnx import TensorProto, helper

    m, n = Model(), max(8, round((size / 55) ** 0.5 / 8) * 8)

    def conv(x: str, inside: int, out: int, k: int, planted: bool = False) -> str:
        w = m.weight(out, inside, k, k, planted=0 if planted else None)
        y = m.node("Conv", x, w, kernel_shape=[k, k], pads=[k // 2] * 4)
        return m.node("BatchNormalization", y, *(m.keep(np.full(out, v)) for v in (1, 0, 0, 1)))

    x = m.node("Relu", conv("x", 3, n, 3))
    for _ in range(3):
        y = m.node("Relu", conv(x, n, n, 3, planted=True))
        x = m.node("Relu", m.node("Add", x, conv(y, n, n, 3)))
    x = m.node("Flatten", m.node("GlobalAveragePool", x))
    y = m.node("Gemm", x, m.weight(10, n), m.keep(np.zeros(10)), transB=1)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])
    return m.save(path, image, y, 17)


def of_graph(call: Callable[[Any], Any]) -> Callable[[float, Path], Made]:
    def make(size: float, folder: Path) -> Made:
        graph = mo.load(convolutional(size, folder / "a.onnx"))
        return (lambda: call(graph)), graph.parameters

    return make


PIXELS = mo.Box(np.zeros(768), np.ones(768))


def _load_graph(size: float, folder: Path) -> Made:
    path = convolutional(size, folder / "a.onnx")
    return (lambda: mo.load(path)), mo.load(path).parameters


def _save_graph(size: float, folder: Path) -> Made:
    small = mo.compress(mo.load(convolutional(size, folder / "a.onnx")))
    return (lambda: mo.save(small.network, folder / "b.onnx")), small.original.parameters


def _check_graph(on: mo.Box | None) -> Callable[[float, Path], Made]:
    def make(size: float, folder: Path) -> Made:
        small = mo.compress(mo.load(convolutional(size, folder / "a.onnx")), on=on)
        return small.check, small.original.parameters

    return make


def _disguised(call: Callable[[Any, Any], Any]) -> Callable[[float, Path], Made]:
    def make(size: float, folder: Path) -> Made:
        graph = mo.load(convolutional(size, folder / "a.onnx"))
        twin = mo.symmetries(graph).random(1)(graph)
        return (lambda: call(graph, twin)), graph.parameters

    return make


def _rounded(size: float, folder: Path) -> Made:
    """A graph beside itself in float16."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(convolutional(size, folder / "a.onnx"))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            near = array.astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(near, tensor.name))
    pair = [mo.load(folder / "a.onnx"), mo.load(model)]
    return (lambda: mo.distance(*pair, on=PIXELS)), pair[0].parameters


PARAMETERS = (1e4, 1e5, 1e6, 1e7)
Operations = dict[str, tuple[Callable[[float, Path], Made], tuple[float, ...], str]]
OF_GRAPHS: Operations = {
    name: (make, PARAMETERS, "parameters")
    for name, make in {
        "load": _load_graph,
        "save": _save_graph,
        "compress": of_graph(mo.compress),
        "compress on a box": of_graph(lambda graph: mo.compress(graph, on=PIXELS)),
        "check": _check_graph(None),
        "check on a box": _check_graph(PIXELS),
        "symmetries": of_graph(mo.symmetries),
        "canonical": of_graph(mo.canonical),
        "signature": of_graph(mo.signature),
        "equivalent": _disguised(mo.equivalent),
        "align": _disguised(mo.align),
        "distance on a box": _rounded,
        "rounding on a box": of_graph(lambda graph: mo.rounding(graph, on=PIXELS)),
        "complexity": of_graph(lambda graph: mo.complexity(graph)),
    }.items()
}
OPERATIONS: Operations = {
    "load": (_load, PARAMETERS, "parameters"),
    "save": (_save, PARAMETERS, "parameters"),
    "canonical": (of_network(mo.canonical), PARAMETERS, "parameters"),
    "signature": (of_network(mo.signature), PARAMETERS, "parameters"),
    "compress": (of_network(mo.compress), PARAMETERS, "parameters"),
    "check": (_check, PARAMETERS, "parameters"),
    "equivalent": (_twins, (1e3, 1e4, 1e5, 1e6), "parameters"),
    "complexity": (of_network(mo.complexity), PARAMETERS, "parameters"),
    "pruning_curve": (_pruning, PARAMETERS, "parameters"),
    "stable_noise": (_noise, PARAMETERS, "draws"),
    "proximate rank": (_proximate, (3e1, 3e2, 3e3, 3e4), "units"),
    "stability": (_stable, (1e3, 1e4, 1e5, 1e6), "parameters"),
    "pieces": (_pieces, (3e1, 3e2, 3e3, 3e4), "cells"),
    "dimension": (_dimension, (1.0, 2.5e1, 6.8e2, 6.7e3), "parameters"),
}


# Parts ----------------------------------------------------------------------------------------------------------


def large(parameters: float) -> None:
    widths = scaled(parameters)
    size = sum(m * (n + 1) for n, m in pairwise(widths))
    unit = 8 * size / 2**20
    print(f"{'-'.join(map(str, widths))}, {size} parameters, {unit:.0f} MiB in float64\n")
    print("| activation, file | command | s | peak, MiB | of float64 |\n|---|---|---|---|---|")
    for activation, write in (("tanh", safetensors), ("relu", safetensors), ("relu", onnx)):
        with tempfile.TemporaryDirectory() as folder:
            suffix = write.__name__
            path, small = Path(folder, f"large.{suffix}"), Path(folder, f"small.{suffix}")
            write(planted(widths), path, activation)
            proof = f"{small}.cert.json"
            for arguments in (
                ("info", path), ("compress", path, "-o", small), ("check", proof, small, path),
                ("canon", path, "-o", Path(folder, f"form.{suffix}")),
            ):  # fmt: skip
                seconds, peak = command(*arguments)
                name = f"{activation}, {suffix} | {arguments[0]}"
                print(f"| {name} | {seconds:.1f} | {peak:.0f} | {peak / unit:.1f} |", flush=True)


def certificate(units: int = 10**6) -> None:
    """Half of the units are copies of the other half."""
    rng = np.random.default_rng(0)
    w, b, a = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((units, 4), units, (2, units))
    )
    w[units // 2 :], b[units // 2 :] = w[: units // 2], b[: units // 2]
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder, "large.safetensors"), Path(folder, "small.safetensors")
        safetensors([w, b, a, np.zeros(2, np.float32)], path, "tanh")
        proof = Path(f"{small}.cert.json")
        rows = [
            ("compress", *command("compress", path, "-o", small)),
            ("check", *command("check", proof, small, path)),
        ]
        size = proof.stat().st_size / 2**20
    print(f"\n4-{units}-2 tanh, {units // 2} units removed; certificate {size:.1f} MiB\n")
    print("| command | s | peak, MiB |\n|---|---|---|")
    for name, seconds, peak in rows:
        print(f"| {name} | {seconds:.1f} | {peak:.0f} |", flush=True)


def job(seed: int) -> int:
    """Rank of a small random network with copies."""
    return int(mo.rank(mo.Network.mlp(*planted((4, 16, 2), seed), activation="tanh")))


def sweep(count: int = 10**4) -> None:
    from moduli.training.job_store import Job, run

    sys.path.insert(0, str(HERE))
    jobs = [Job("bench_size:job", {"seed": seed}) for seed in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        times, written = [], []
        for _ in range(2):
            start = time.process_time()
            found = run(jobs, store=folder)
            times.append(time.process_time() - start)
            written.append(max(path.stat().st_mtime_ns for path in Path(folder).iterdir()))
        stored = sum(path.stat().st_size for path in Path(folder).iterdir())
    assert len(found) == count
    assert written[0] == written[1], "a run that had nothing to do wrote a result"
    print(
        f"\n{count} networks 4-16-2: {times[0]:.1f} s, {stored / 2**20:.1f} MiB stored; run again {times[1]:.1f} s"
    )


def exponent(sizes: list[float], values: list[float], least: float) -> tuple[float, float] | None:
    """Slope of the logarithms, and the least size used: values that are all overhead are left out."""
    points = [(math.log(s), math.log(v)) for s, v in zip(sizes, values, strict=True) if v >= least]
    if len(points) < 2:
        return None
    x, y = np.array(points).T
    return float(np.polyfit(x, y, 1)[0]), math.exp(x[0])


def growth(operations: Operations, picture: str = "") -> None:
    found = {}
    print("\n| operation | size | s | peak, MiB | time grows as | from | memory grows as | from |")
    print("|---|---|---|---|---|---|---|---|")
    which = "--graph" if operations is OF_GRAPHS else "--one"
    for name, (_, sizes, unit) in operations.items():
        rows = [once(name, size, which) for size in sizes]
        found[name] = unit, rows
        x, seconds, peaks = (list(column) for column in zip(*rows, strict=True))
        fits = exponent(x, seconds, 0.005), exponent(x, peaks, 4.0)
        shown = [f"n^{fit[0]:.2f} | {fit[1]:.2g}" if fit else "too little to say |" for fit in fits]
        cost = f"{seconds[0]:.3g} to {seconds[-1]:.3g} | {max(0, peaks[0]):.0f} to {peaks[-1]:.0f}"
        print(
            f"| {name} | {x[0]:.2g} to {x[-1]:.2g} {unit} | {cost} | {shown[0]} | {shown[1]} |",
            flush=True,
        )
    if picture:
        draw(found, picture)


def draw(found: dict[str, tuple[str, list[tuple[float, float, float]]]], picture: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "moduli"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 5.5), layout="constrained", sharex=True)
    marks = "osD^vP*"
    for k, (name, (unit, rows)) in enumerate(found.items()):
        x, *columns = (np.array(column) for column in zip(*rows, strict=True))
        for ax, y, least in zip(axes, columns, (1e-4, 1), strict=True):
            style = {
                "color": f"C{k % 10}",
                "marker": marks[k % len(marks)],
                "ls": "-" if unit == "parameters" else "--",
            }
            ax.plot(x, np.maximum(y, least), label=f"{name} ({unit})", ms=5, lw=1.2, **style)
    for ax, title in zip(axes, ("seconds", "peak memory, MiB"), strict=True):
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="size (what is counted stands in brackets)",
            title=title,
        )
        ax.grid(alpha=0.3)
    ends = np.array([1e4, 1e7])
    axes[0].plot(ends, 2e-6 * ends, color="0.6", lw=4, alpha=0.5, label="linear", zorder=0)
    axes[1].plot(
        ends, 8 * ends / 2**20, color="0.6", lw=4, alpha=0.5, label="8 bytes each", zorder=0
    )
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9
    )
    figure.savefig(HERE / picture, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--parameters", type=float, default=1e7)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--graph", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for operations, asked in ((OPERATIONS, args.one), (OF_GRAPHS, args.graph)):
        if asked:
            return one(operations, asked[0], float(asked[1]))
    parts = {
        "large": lambda: large(args.parameters),
        "certificate": certificate,
        "sweep": sweep,
        "growth": lambda: growth(OPERATIONS, "size.svg"),
        "graphs": lambda: growth(OF_GRAPHS),
    }
    for name in args.parts or parts:
        parts[name]()
    return None


if __name__ == "__main__":
    main()
