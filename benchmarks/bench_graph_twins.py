"""Graphs against copies of themselves with units of another order, sign and scale, and near misses.

python benchmarks/bench_graph_twins.py                              (about ten minutes)

The folder of models that MODULI_SHARED names, zoo:person-detector, and the layout of ResNet-50. Of a near
miss one stored number is another float: it must not be called the same.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_graph import SHARED, resnet50
from rivals.common import table

import moduli as mo
from moduli.common.graph import Graph

HEAD = (
    "graph", "parameters", "units", "ln of orders and signs", "dimension", "found, s", "equal, s",
    "check, s", "align, s", "read, s", "twin", "moved back to within", "near miss",
)  # fmt: skip


def near_miss(graph: Graph, rng: Any) -> Graph:
    """The same graph with one number moved to the next float."""
    names = [name for name, array in graph.model.constants.items() if array.dtype == np.float32]
    name = names[int(rng.integers(len(names)))]
    array = graph.model.constants[name].copy()
    at = int(rng.integers(array.size))
    array.flat[at] = np.nextafter(array.flat[at], np.float32(np.inf))
    constants = {**graph.model.constants, name: array}
    return graph.source.rewritten(replace(graph.model, constants=constants), {})


def row(name: str, source: Any) -> list[Any]:
    start = time.perf_counter()
    graph = mo.load(source)
    read = time.perf_counter() - start
    if not isinstance(graph, Graph):
        return [name, graph.parameters, *["a chain"] * 11]
    start = time.perf_counter()
    group = mo.symmetries(graph)
    found = time.perf_counter() - start
    element = group.random(1)
    twin = element(graph)
    start = time.perf_counter()
    answer = mo.equivalent(graph, twin)
    equal = time.perf_counter() - start
    start = time.perf_counter()
    proved = answer.status == "proved" and answer.check()
    check = time.perf_counter() - start
    start = time.perf_counter()
    moved = mo.align(twin, graph)
    align = time.perf_counter() - start
    other = mo.equivalent(graph, near_miss(twin, np.random.default_rng(0)))
    units = sum(part.size for part in group.units)
    times = [f"{x:.2f}" for x in (found, equal, check, align, read)]
    said = "proved" if proved else answer.status
    sizes = f"{group.log_order:,.0f}", f"{group.dimension:,}"
    back = f"{moved.after / moved.before:.1g}"
    return [
        name, f"{graph.parameters:,}", f"{units:,}", *sizes, *times, said, back, other.status
    ]  # fmt: skip


def main() -> None:
    print(", ".join(HEAD), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sources: dict[str, Any] = {"zoo:person-detector": "zoo:person-detector"}
        sources |= {path.stem: path for path in sorted((SHARED / "models/graph").glob("*.onnx"))}
        sources["ResNet-50 layout"] = resnet50(Path(folder) / "r.onnx")
        for name, source in sources.items():
            rows.append(row(name, source))
            print(*rows[-1], sep=", ", flush=True)
    table("Twins of graphs", HEAD, rows)


if __name__ == "__main__":
    main()
