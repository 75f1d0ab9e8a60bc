"""Every readable model of the shared folder and the zoo: units before and after, moves, slack,
seconds, float agreement.

python benchmarks/bench_models.py          (MODULI_SHARED names the folder, default ../shared)
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np

import moduli as mo

SHARED = (
    Path(os.environ.get("MODULI_SHARED", Path(__file__).parents[1] / ".." / "shared")) / "models"
)
ZOO = ("digits-tanh", "digits-tanh-grid", "digits-relu", "digits-plain")


def line(name: str, source: str | Path, box: mo.Box) -> str:
    start = time.perf_counter()
    net = mo.load(source)
    loaded = time.perf_counter()
    small = mo.compress(net)
    made = time.perf_counter()
    small.check()
    checked = time.perf_counter()
    x = box.sample(1000, net.widths[0])
    p, q = net.logits(x), small.network.logits(x)
    apart = np.abs(p - q).max() / np.abs(p).max()
    moves = ", ".join(f"{n} {kind}" for kind, n in small.removed.items() if n) or "nothing"
    seconds = " / ".join(f"{t:.2f}" for t in (loaded - start, made - loaded, checked - made))
    widths = " -> ".join("-".join(map(str, n.widths)) for n in dict.fromkeys((net, small.network)))
    best = " (fewest)" if small.optimal else ""
    units = f"{net.units} -> {small.network.units}{best}"
    return (
        f"| {name} | {widths} | {units} | {moves} | {small.proof.slack} | {seconds} | {apart:.1g} |"
    )


def main() -> None:
    print(
        "| model | widths | hidden units | removed | slack | load / compress / check, s | float difference |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in ZOO:
        print(line(f"zoo:{name}", f"zoo:{name}", mo.Box(0, 1)))
    if not SHARED.is_dir():
        print(f"\nno models at {SHARED}: set MODULI_SHARED")
        return
    boxes = json.loads((SHARED / "boxes.json").read_text())
    for path in sorted(SHARED.iterdir()):
        original = path.name.removesuffix(".converted.onnx")
        box = next(
            (boxes[k] for k in sorted(boxes) if k == path.name or k.startswith(f"{original}.")),
            None,
        )
        if path.suffix in (".onnx", ".nnet") and box is not None:
            try:
                print(line(path.name, path, mo.Box(box["lo"], box["hi"])))
            except mo.UnsupportedModel as error:
                print(f"| {path.name} | refused: {str(error).split(': ', 1)[1][:80]} | | | | | |")


if __name__ == "__main__":
    main()
