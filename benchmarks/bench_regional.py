"""Hidden units that real networks need on their box, with proof: exactly, and within a tolerance.

python benchmarks/bench_regional.py [exact] [tolerance] [--only NAME]      (both by default; MODULI_SHARED names the folder)
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from bench_stability import sources

import moduli as mo
from moduli.compression.box.tolerance import Within

POINTS, BUDGET = 100_000, 10_000
SHARES = 1e-3, 1e-2, 3e-2
WITHIN = (
    "rl_cartpole", "nn4sys", "arch_acc", "arch_tora", "reach_vdp", "TORA", "HCAS", "tll_8",
    "acasxu_1_1.onnx, ", "serra_cifar",
)  # fmt: skip
SKIPPED = ("mnist", "serra_mnist", "KERAS", "hls", "safenlp", "marabou")


def seen(path: Path, small: mo.Network, box: mo.Box) -> str:
    """The largest difference at random points: of the model by onnxruntime (float32), and by this
    library (float64).
    """
    large = mo.load(path)
    x = box.sample(min(POINTS, 2**27 // large.widths[0]), large.widths[0], 1)
    ours = np.abs(small.logits(x) - large.logits(x)).max()
    try:
        import onnxruntime as ort

        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0]
        rows = given.shape[0] if isinstance(given.shape[0], int) else len(x)
        shape = [rows, *(n for n in given.shape[1:])]
        rows = len(x) if rows == 1 else rows
        x = x[:rows].astype(np.float32)
        parts = [x] if shape[0] == len(x) else [row[None] for row in x]
        out = np.concatenate(
            [
                session.run(None, {given.name: p.reshape(shape)})[0].reshape(len(p), -1)
                for p in parts
            ]
        )
        theirs = f"{np.abs(out - small(x.astype(np.float64))).max():.1g} ({len(x)})"
    except Exception as error:  # an operator that this runtime lacks is no reason to stop
        theirs = type(error).__name__
    return f"{ours:.1g} | {theirs}"


def line(name: str, path: Path, box: mo.Box, budget: int) -> str | None:
    try:
        net = mo.load(path)
    except mo.UnsupportedModel:
        return None
    if not any(a.piecewise_linear for a in net.activations) or name.startswith(SKIPPED):
        return None
    start = time.perf_counter()
    small = mo.compress(net, on=box, budget=budget)
    made = time.perf_counter()
    small.check()
    checked = time.perf_counter()
    moves = ", ".join(f"{n} {kind}" for kind, n in small.removed.items() if n)
    size = len(json.dumps(small.certificate.to_json())) / 1024
    sizes = f"{net.units} -> {small.network.units} | {net.parameters} -> {small.network.parameters}"
    shape = "-".join(map(str, small.network.widths))
    times = f"{made - start:.1f} / {checked - made:.1f} | {size:.0f}"
    return f"| {name} | {sizes} | {shape} | {moves} | {small.slack:.1g} | {seen(path, small.network, box)} | {times} |"


def exact(only: str) -> None:
    print(
        "| model, box | hidden units | parameters | widths | removed | slack | at points | onnxruntime | seconds | KiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, path, box in sources():
        if only in name and (text := line(name, path, box, BUDGET)):
            print(text, flush=True)


def tolerance(only: str) -> None:
    """Units against a tolerance that is a share of the range of the outputs at points."""
    print(
        "\n| model, box | units | exactly |"
        + "".join(f" {share:g} of the range |" for share in SHARES)
    )
    print("|---|---|---|" + len(SHARES) * "---|")
    for name, path, box in sources():
        if not name.startswith(WITHIN) or only not in name:
            continue
        net = mo.load(path)
        x = box.sample(min(POINTS, 2**27 // net.widths[0]), net.widths[0], 1)
        y = net.logits(x)
        size = float(np.ptp(y, axis=0).max())
        cells = [
            f"{name} | {net.units} | {mo.compress(net, on=box, budget=BUDGET // 5).network.units}"
        ]
        for share in SHARES:
            start = time.perf_counter()
            small = mo.compress(net, on=box, eps=share * size, budget=BUDGET // 5)
            seconds = time.perf_counter() - start
            small.check()
            error = small.error if isinstance(small, Within) else small.slack
            seen = np.abs(small.network.logits(x) - y).max()
            cells.append(
                f"{small.network.units}: {error / size:.1e} ({seen / size:.1e}), {seconds:.0f} s"
            )
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["exact", "tolerance"])
    parser.add_argument("--only", default="", help="a part of the names of models")
    given = parser.parse_args()
    for part in given.parts:
        {"exact": exact, "tolerance": tolerance}[part](given.only)


if __name__ == "__main__":
    main()
