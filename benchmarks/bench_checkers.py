"""Two checkers of the same certificates: `moduli check`, and `checker/moduli_check.py` as a whole process.

python benchmarks/bench_checkers.py          (MODULI_SHARED names the folder, default ../shared)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import moduli as mo

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("MODULI_SHARED", ROOT / ".." / "shared")) / "models"
ZOO = ("digits-tanh", "digits-tanh-grid", "digits-relu", "digits-plain")
MODELS = (
    "KERAS_3layer_70pruned_retrained_weights.converted.onnx", "TORA_ReLUtanh_controller.converted.onnx",
    "tll_8.onnx", "acasxu_1_1.converted.onnx", "mnistfc_256x2.onnx",
    "serra_mnist_100-100_checkpoint_120.converted.onnx", "rl_cartpole.onnx",
)  # fmt: skip
ON_BOXES = (
    "TORA_ReLUtanh_controller.converted.onnx", "acasxu_1_1.converted.onnx", "rl_cartpole.onnx",
)  # fmt: skip
GRAPHS = ("cifar10_resnet_2b.onnx", "mnist_convnet_maxpool.onnx")
LIMIT_S = 600


def taken(*command: Any) -> tuple[float, str]:
    """Seconds of a process, the median of three, and what it answers; one run where that is long."""
    runs = list[float]()
    while len(runs) < 3 and sum(runs) < 20:
        start = time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, *map(str, command)],
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            return LIMIT_S, f"more than {LIMIT_S} s"
        runs.append(time.perf_counter() - start)
        code = done.returncode
    answers = {0: "accepted", 1: "rejected", 3: "undecided", 4: "cannot read"}
    return statistics.median(runs), answers.get(code, f"code {code}")


def line(name: str, source: str | Path, on: Any) -> str:
    """One row: a certificate made anew, checked by both from files."""
    net = mo.load(source)
    small = mo.compress(net, on=on) if on is not None else mo.compress(net)
    chain = isinstance(net, mo.Network)
    moves = len(small.certificate.large_moves) if chain else sum(map(len, small.certificate.rounds))
    suffix = "npz" if chain else "onnx"
    with tempfile.TemporaryDirectory() as folder:
        files = [
            Path(folder) / name for name in ("cert.json", f"small.{suffix}", f"large.{suffix}")
        ]
        small.save(files[0])
        mo.save(small.network, files[1])
        mo.save(net, files[2])
        size = files[0].stat().st_size
        first, one = taken("-m", "moduli", "check", *files, "--quiet")
        second, two = taken("-I", ROOT / "checker" / "moduli_check.py", *files)
    units = (
        f"{net.units} -> {small.network.units}"
        if chain
        else f"of a graph, {small.network.parameters} parameters left"
    )
    where = "all inputs" if on is None else "box"
    return (
        f"| {name} | {where} | {units} | {net.parameters} | {moves} | {size / 1000:.1f} | "
        f"{one} in {first:.2f} | {two} in {second:.2f} | {second / first:.2g} |"
    )


def main() -> None:
    heads = "model", "claim on", "hidden units", "parameters", "moves", "certificate, kB"
    print(f"| {' | '.join(heads)} | moduli check, s | second checker, s | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in ZOO:
        print(line(f"zoo:{name}", f"zoo:{name}", None), flush=True)
    print(line("zoo:digits-relu", "zoo:digits-relu", mo.Box(0, 1)), flush=True)
    print(line("zoo:person-detector", "zoo:person-detector", None), flush=True)
    if not SHARED.is_dir():
        print(f"\nno models at {SHARED}: set MODULI_SHARED")
        return
    boxes = json.loads((SHARED / "boxes.json").read_text())
    for name in MODELS:
        print(line(name, SHARED / name, None), flush=True)
    for name in GRAPHS:
        print(line(name, SHARED / name, mo.Box(0, 1)), flush=True)
    for name in ON_BOXES:
        model = name.removesuffix(".converted.onnx")
        ends = next(boxes[k] for k in sorted(boxes) if k == name or k.startswith(f"{model}."))
        box = mo.Box(ends["lo"], ends["hi"])
        print(line(name, SHARED / name, box), flush=True)


if __name__ == "__main__":
    main()
