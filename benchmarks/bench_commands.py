"""Every command on ten real models: what it answers, or why it refuses, and in how many seconds.

python benchmarks/bench_commands.py [model ...]          (MODULI_SHARED names the folder, default ../shared)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_stability import SHARED

import moduli as mo
from moduli.common.result import GLYPHS

MODELS = (
    "sl2p_v1_v2_v3.converted.onnx", "reach_vdp.onnx", "safenlp_ruarobot.onnx",
    "verisig_quadrotor_tanh20x20.converted.onnx", "tll_8.onnx", "nn4sys_lindex.onnx",
    "hls_three_layer_keras.onnx", "serra_mnist_100-100_checkpoint_120.tar", "acasxu_1_1.onnx",
    "mnistfc_256x2.onnx",
)  # fmt: skip
COMMANDS = {
    "info": "info M",
    "compress": "compress M -o small.onnx",
    "check": "check small.onnx.cert.json small.onnx M",
    "equal": "equal M small.onnx",
    "rank": "rank M",
    "canon": "canon M -o normal.onnx",
    "align": "align M normal.onnx -o moved.onnx",
    "compress on a box": "compress M -o boxed.onnx --on box:B --budget 500",
    "check on a box": "check boxed.onnx.cert.json boxed.onnx M",
    "distance on a box": "distance M boxed.onnx --on box:B --budget 500",
    "compress within a radius": "compress M -o near.onnx --radius 0.001 --budget 500",
    "rank within a radius": "rank M --radius 0.001 --budget 500",
    "curve of radii": "curve M --radii 0,0.1,3 --budget 100",
    "compress on average": "compress M -o student.onnx --on gaussian --units U",
    "distance on average": "distance M student.onnx --on gaussian",
    "curve of errors": "curve M --on gaussian --units 2,4 -o errors.svg",
    "complexity": "complexity M --samples 1000",
    "identify": "identify M --on box:B --budget 50",
    "plot": "plot M -o pieces.svg --on box:-1,1 --budget 20000 S",
    "report": "report M -o report.html --on box:B --budget 20",
}
LIMIT = 120


def box_file(bounds: dict[str, object], inputs: int, path: Path) -> None:
    """The box of a model as a VNN-LIB property, which is how a command line takes one with
    different sides.
    """
    box = mo.Box(bounds["lo"], bounds["hi"]).of_dimension(inputs)
    sides = enumerate(zip(box.low.tolist(), box.high.tolist(), strict=True))
    lines = [
        f"(declare-const X_{k} Real)\n(assert (>= X_{k} {lo!r}))\n(assert (<= X_{k} {hi!r}))"
        for k, (lo, hi) in sides
    ]
    path.write_text("\n".join(lines))


def answer(data: dict[str, object]) -> str:
    """The heart of a command's JSON."""
    sign = GLYPHS.get(str(data.get("status")), "")
    kind = str(data["schema"]).split(".")[1].split("/")[0]
    if kind == "compress":
        return f"{sign} {data['original_units']} -> {data['units']}"
    if kind == "rank":
        return (
            f"= {data['upper']}"
            if data["lower"] == data["upper"]
            else f"{data['lower']} to {data['upper']}"
        )
    if kind == "distance":
        return f"{sign} {data['upper']:.2g}" if data["upper"] is not None else f"{sign} inf"
    if kind == "pieces":
        return f"{sign} {data['cells']} cells"
    if kind == "canon":
        return "complete" if data["complete"] else "not complete"
    return sign or "done"


def cell(line: list[str], folder: Path, reasons: dict[str, int]) -> str:
    """What a command says, its exit code where that is no 0, its seconds."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "moduli.interface.cli", *line, "--json"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        return f"over {LIMIT} s"
    seconds = f"{time.perf_counter() - start:.0f} s"
    if done.returncode in (0, 1, 3) and done.stdout:
        code = f", exit {done.returncode}" if done.returncode else ""
        return f"{answer(json.loads(done.stdout))}{code}, {seconds}"
    if done.stderr.count("\n") != 1 or "Traceback" in done.stderr:
        return f"BUG: {done.stderr[-300:]}"
    why = re.sub(r"Network\([^)]*\)", "this network", done.stderr.strip().removeprefix("moduli: "))
    return f"no [{reasons.setdefault(why, len(reasons) + 1)}], exit {done.returncode}"


def main() -> None:
    boxes = json.loads((SHARED / "boxes.json").read_text())
    reasons: dict[str, int] = {}
    for name in sys.argv[1:] or MODELS:
        path, state = SHARED / name, name.endswith(".tar")
        net = mo.load(path, activation="relu" if state else None)
        print(
            f"\n{name} {'-'.join(map(str, net.widths))} {', '.join(sorted(set(map(str, net.activations))))}"
        )
        with tempfile.TemporaryDirectory() as folder:
            bounds = next(
                box for file, box in boxes.items() if file.split(".")[0] == name.split(".")[0]
            )
            box_file(bounds, net.widths[0], Path(folder) / "box.vnnlib")
            for title, command in COMMANDS.items():
                words = {
                    "M": [str(path)],
                    "U": [str(max(1, net.units // 4))],
                    "S": ["--slice", "random"] * (net.widths[0] > 3),
                }
                line = [
                    part
                    for word in command.replace("box:B", "box:box.vnnlib").split()
                    for part in words.get(word, [word])
                ]
                line += ["--activation", "relu"] if state else []
                print(f"| {title} | {cell(line, Path(folder), reasons)} |", flush=True)
    for why, number in reasons.items():
        print(f"[{number}] {why}")


if __name__ == "__main__":
    main()
