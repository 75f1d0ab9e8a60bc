"""Units of real ReLU networks that never change sign on their box, and how far two networks are
apart on a box.

python benchmarks/bench_stability.py [boxes] [local] [apart]     (all by default; MODULI_SHARED names the folder)
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

import moduli as mo
from moduli.compression.box.bisection import GapSearch
from moduli.compression.box.sign_bisection import HOW
from moduli.compression.box.stable_units import stable
from moduli.kernel.bounds import propagation

FOLDER = Path(os.environ.get("MODULI_SHARED", Path(__file__).parents[1] / ".." / "shared"))
SHARED = FOLDER / "models"
BUDGET, IMAGES = 10_000, 3
PROPERTIES = (
    ("rl_cartpole.onnx", "cartpole_case_safe_14.vnnlib"),
    ("acasxu_1_1.onnx", "acasxu_prop_1.vnnlib"),
    ("acasxu_1_1.onnx", "acasxu_prop_3.vnnlib"),
    ("safenlp_ruarobot.onnx", "safenlp_ruarobot_hyperrectangle_0.vnnlib"),
)
LOCAL = (
    ("mnistfc_256x2.onnx", 0.03), ("mnistfc_256x2.onnx", 0.05),
    ("serra_mnist_100-100_checkpoint_120.converted.onnx", 0.02),
    ("serra_mnist_100-100_checkpoint_120.converted.onnx", 0.03),
    ("marabou_mnist5x20_leaky_relu.onnx", 0.02), ("marabou_mnist5x20_leaky_relu.onnx", 0.04),
)  # fmt: skip
NETS = ((2, 8, 8, 1), (2, 16, 16, 1), (4, 16, 16, 1), (8, 16, 16, 1), (8, 32, 32, 1))


def sources() -> Iterator[tuple[str, Path, mo.Box]]:
    boxes = json.loads((SHARED / "boxes.json").read_text())
    for path in sorted(SHARED.iterdir()):
        original = path.name.removesuffix(".converted.onnx")
        box = next(
            (boxes[k] for k in sorted(boxes) if k == path.name or k.startswith(f"{original}.")),
            None,
        )
        twin = path.suffix == ".nnet" or (
            path.name.endswith(".converted.onnx") and path.with_name(f"{original}.onnx").exists()
        )
        if path.suffix == ".onnx" and box is not None and not twin:
            yield path.name, path, mo.Box(box["lo"], box["hi"])
    for model, file in PROPERTIES:
        yield (
            f"{model}, {file.removesuffix('.vnnlib')}",
            SHARED / model,
            mo.Box.from_vnnlib(SHARED / "vnnlib" / file),
        )


def line(name: str, path: Path, box: mo.Box) -> str | None:
    try:
        net = mo.load(path)
    except mo.UnsupportedModel:
        return None
    if not any(a.piecewise_linear for a in net.activations):
        return None
    start = time.perf_counter()
    found = stable(net, box, budget=BUDGET)
    made = time.perf_counter()
    found.check()
    checked = time.perf_counter()
    counts = [
        " + ".join(str(found.count(sign, how)) for how in range(1, len(HOW))) for sign in (-1, 1)
    ]
    left = sum(int((u != 0).sum()) for u in found.undecided)
    widths = "-".join(map(str, net.widths))
    work = f"{found.boxes} | {found.programs} | {found.leaves} | {made - start:.1f} / {checked - made:.1f}"
    return f"| {name} | {widths} | {counts[0]} | {counts[1]} | {left} | {work} |"


def around(name: str, radius: float, images: np.ndarray) -> str:
    """Signs on small boxes around images: sums over the images, and the smaller network of the
    first.
    """
    net, sums, seconds = mo.load(SHARED / name), np.zeros(len(HOW), dtype=int), np.zeros(2)
    both, left, solved, size = 0, 0, 0, 0
    for k, image in enumerate(images):
        box = mo.Box(np.clip(image - radius, 0, 1), np.clip(image + radius, 0, 1))
        start = time.perf_counter()
        found = stable(net, box, budget=BUDGET)
        made = time.perf_counter()
        found.check()
        seconds += made - start, time.perf_counter() - made
        sums += [0, *(found.count(-1, how) + found.count(1, how) for how in range(1, len(HOW)))]
        open_ = sum(int((u != 0).sum()) for u in found.undecided)
        left, solved, both = (
            left + open_,
            solved + found.programs,
            both + net.units - found.count(-1) - found.count(1) - open_,
        )
        if k == 0:
            small = mo.compress(net, on=box, budget=BUDGET)
            small.check()
            size = small.network.units
            x = box.sample(10_000, net.widths[0], 0)
            assert np.abs(small.network.logits(x) - net.logits(x)).max() <= small.slack + 1e-9
    ladder = " | ".join(map(str, sums[1:].tolist()))
    work = f"{solved} | {seconds[0]:.0f} / {seconds[1]:.1f} | {net.units} -> {size}"
    return f"| {name.split('.')[0]}, {radius} | {ladder} | {both} | {left} | {work} |"


def apart(widths: tuple[int, ...], budget: int, rng: np.random.Generator) -> str:
    """sup |f - g| on [-1, 1]^n for g = f with 0.1 % noise: intervals, affine bounds, bisection of
    the widest box first.
    """
    parts = [
        p
        for n, m in pairwise(widths)
        for p in (rng.normal(size=(m, n)) * (2 / n) ** 0.5, 0.3 * rng.normal(size=m))
    ]
    f = mo.Network.mlp(*parts, activation="relu")
    g = f.with_flat(f.flat() * (1 + 1e-3 * rng.normal(size=f.parameters)))
    low, high = -np.ones((1, widths[0])), np.ones((1, widths[0]))

    def worst(low: np.ndarray, high: np.ndarray, relax: bool = True) -> np.ndarray:
        lo, hi = propagation.difference(f.layers, g.layers, low, high, relax=relax, lazy=True)[-1]
        return np.maximum(-lo, hi).max(axis=1)

    plain, relaxed = worst(low, high, False)[0], worst(low, high)[0]
    start, search = time.perf_counter(), GapSearch(f, g, mo.Box(-1, 1))
    lower = mo.distance(f, g, on=mo.Box(-1, 1), budget=4, tol=99.0).lower
    search.run(budget, seen=lower)
    seconds = time.perf_counter() - start
    bisected = f"{search.upper:.3g} ({search.boxes} boxes, {seconds:.1f} s)"
    lower = max(lower, search.seen)
    return (
        f"| {','.join(map(str, widths))} | {plain:.3g} | {relaxed:.3g} | {bisected} | {lower:.3g} |"
    )


def boxes() -> None:
    print(
        "Units by intervals + affine bounds + bisection + linear programs + branching; seconds of search / check.\n"
    )
    print(
        "| model, box | widths | inactive | active | undecided | boxes | programs | leaves | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, path, box in sources() if SHARED.is_dir() else ():
        if text := line(name, path, box):
            print(text, flush=True)


def local() -> None:
    if not SHARED.is_dir():
        return
    images = np.load(FOLDER / "data" / "mnist.npz")["x_test"].reshape(-1, 784)[:IMAGES] / 255.0
    names = " | ".join(HOW[1:])
    print(
        f"\n| model, radius | {names} | both signs seen | undecided | programs | seconds | units, first image |"
    )
    print("|---" * (len(HOW) + 5) + "|")
    for name, radius in LOCAL:
        print(around(name, radius, images), flush=True)


def differences() -> None:
    print("\n| sup of the difference | intervals | affine | bisected | lower end |")
    print("|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for widths in NETS:
        print(apart(widths, 8000, rng), flush=True)


if __name__ == "__main__":
    for part in sys.argv[1:] or ["boxes", "local", "apart"]:
        {"boxes": boxes, "local": local, "apart": differences}[part]()
