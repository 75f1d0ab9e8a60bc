"""Nearly equal networks on boxes: how near the bracket of their distance, beside an older search in the same run;
decisions; certificates.

python benchmarks/bench_nearly_equal.py [kinds] [track] [pairs] [decisions] [exact]      (MODULI_SHARED names the folder)
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import moduli as mo
from moduli.compression.box.bisection import GapSearch
from moduli.kernel.bounds.output_gap import measures

SHARED = Path(os.environ.get("MODULI_SHARED", Path(__file__).parents[2] / "shared"))
ACAS = SHARED / "models" / "acasxu_1_1.onnx"
REPORT = SHARED / "cases" / "reports" / "iso_acas_eps"
EPS = 0.05  # what the track of nearly equal ACAS Xu networks asks


def noisy(net: mo.Network, by: float, seed: int) -> mo.Network:
    """Every parameter times 1 + `by` times a standard normal number."""
    return net.with_flat(
        net.flat() * (1 + by * np.random.default_rng(seed).normal(size=net.parameters))
    )


def random_network(*widths: int, seed: int) -> mo.Network:
    """Uniform in +-1/sqrt(inputs), as torch starts."""
    rng = np.random.default_rng(seed)
    shapes = [(shape, n) for n, m in pairwise(widths) for shape in ((m, n), (m,))]
    return mo.Network.mlp(
        *(rng.uniform(-1, 1, shape) / n**0.5 for shape, n in shapes), activation="relu"
    )


def widest(_: Any, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """What 0.1.0 halves, where all sides are about as long."""
    return high - low


def part(box: mo.Box, share: float) -> mo.Box:
    """The middle of a box."""
    middle, half = (box.low + box.high) / 2, (box.high - box.low) / 2
    return mo.Box(middle - share * half, middle + share * half)


def timed(call: Callable[..., Any], *args: Any, **asked: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return call(*args, **asked), time.perf_counter() - start


def kinds() -> None:
    """Upper ends after so many boxes: the widest side halved and bounds of 0.1.0; the input to blame; zonotopes."""
    way = "back only, widest side: upper end, s | zonotopes, blame: upper end, s"
    print(f"| pair, box | boxes | {way} | lower end |\n|---|---|---|---|---|")
    f, g = mo.load(REPORT / "f.onnx"), mo.load(REPORT / "g_0.01.onnx")
    whole = mo.Box.from_vnnlib(REPORT / "box.vnnlib")
    small = random_network(8, 32, 32, 1, seed=1)
    cases = [
        (f"ACAS Xu 2_4, noise 8.7e-4, {share:g} of the range", f, g, part(whole, share))
        for share in (0.05, 0.1, 0.2)
    ]
    cases += [("8-32-32-1, noise 1e-3", small, noisy(small, 1e-3, 2), mo.Box(-1, 1))]
    for name, a, b, box in cases:
        lower = mo.distance(a, b, on=box, budget=2000, tol=99.0).lower
        found = []
        for how in ("difference", "zonotopes"):
            search = GapSearch(a, b, box)
            search.how, search.measure = how, measures(a, b)[how]
            if how == "difference":
                search.blame = search.high - search.low
                search._shares = widest
            _, seconds = timed(search.run, 4000, seen=lower)
            found.append(f"{search.upper:.3g}, {seconds:.1f}")
        print(f"| {name} | 4000 | {found[0]} | {found[1]} | {lower:.3g} |", flush=True)


def track(budget: int = 40_000) -> None:
    """Ten pairs on the whole range of inputs."""
    head = "| pair | noise | lower end | upper end | at most 0.05 | boxes | seconds |"
    print(f"\n{head}\n|---|---|---|---|---|---|---|")
    box = mo.Box.from_vnnlib(REPORT / "box.vnnlib")
    for seed, by in enumerate(np.geomspace(1e-4, 1e-3, 5)):
        for name, path in (("1_1", ACAS), ("2_4", REPORT / "f.onnx")):
            a = mo.load(path)
            b = noisy(a, float(by), seed)
            found, seconds = timed(mo.distance, a, b, on=box, budget=budget)
            answer = "proved" if found.upper < EPS else "refuted" if found.lower >= EPS else "open"
            boxes = found.certificate.apart.boxes if found.certificate else 0
            print(
                f"| {name} | {by:.1e} | {found.lower:.2g} | {found.upper:.3g} | {answer} | {boxes} | {seconds:.0f} |",
                flush=True,
            )


def pairs() -> None:
    """Brackets within a factor, with the size of their certificates."""
    head = "| pair, box | tol | lower end | upper end | boxes | search, s | file, KiB | check, s |"
    print(f"\n{head}\n|---|---|---|---|---|---|---|---|")
    f, g = mo.load(REPORT / "f.onnx"), mo.load(REPORT / "g_0.01.onnx")
    whole = mo.Box.from_vnnlib(REPORT / "box.vnnlib")
    twins = mo.load(SHARED / "models" / "acasxu_1_1.nnet"), mo.load(ACAS)
    cases = [
        (f"ACAS Xu 2_4, noise 8.7e-4, {share:g} of the range", f, g, part(whole, share), 0.5)
        for share in (0.05, 0.1, 0.2)
    ]
    cases += [
        (f"ACAS Xu 1_1, .nnet and .onnx, {share:g} of the range", *twins, part(whole, share), 0.5)
        for share in (0.1, 0.2)
    ]
    for widths in ((8, 32, 32, 1), (4, 32, 32, 1), (16, 64, 10)):
        net = random_network(*widths, seed=1)
        cases.append(
            (
                f"{'-'.join(map(str, widths))}, noise 1e-3",
                net,
                noisy(net, 1e-3, 2),
                mo.Box(-1, 1),
                0.3,
            )
        )
    tanh = mo.load("zoo:digits-tanh")
    cases.append(
        (
            "zoo:digits-tanh, noise 1e-3, +-0.05 around 8",
            tanh,
            noisy(tanh, 1e-3, 2),
            mo.Box(7.95, 8.05),
            0.3,
        )
    )
    for name, a, b, box, tol in cases:
        found, seconds = timed(mo.distance, a, b, on=box, tol=tol, budget=30_000)
        line = f"| {name} | {tol} | {found.lower:.3g} | {found.upper:.3g} "
        if found.certificate is None or found.certificate.apart is None:
            print(line + f"| - | {seconds:.1f} | - | - |", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = found.save(Path(folder) / "far.cert.json")
            size = path.stat().st_size / 1024
            _, check = timed(mo.check, path, b, a)
        print(
            line
            + f"| {found.certificate.apart.boxes} | {seconds:.1f} | {size:.0f} | {check:.1f} |",
            flush=True,
        )


def rounded_to(net: mo.Network, how: str) -> mo.Network:
    def bfloat16(x: np.ndarray) -> np.ndarray:
        bits = x.astype(np.float32).view(np.uint32).astype(np.uint64) + 0x8000
        return (bits & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)

    def int8(x: np.ndarray) -> np.ndarray:
        step = np.abs(x).max() / 127
        return np.round(x / step) * step

    layers = []
    for layer in net.layers:
        weight, bias = (
            (bfloat16(layer.weight), bfloat16(layer.bias))
            if how == "bfloat16"
            else (int8(layer.weight), layer.bias)
        )
        layers.append(type(layer)(weight, bias, layer.activation))
    return net.with_layers(layers)


def images(count: int) -> np.ndarray:
    """Digits of the test set, in [0, 1]."""
    for path in sorted((SHARED / "data").rglob("*.npz")):
        with np.load(path) as data:
            for name in data.files:
                if "test" in name and data[name].reshape(len(data[name]), -1).shape[1] == 784:
                    x = data[name][:count].reshape(count, -1).astype(np.float64)
                    return x / max(1.0, x.max())
    raise SystemExit(f"no images of 784 pixels under {SHARED / 'data'}")


def decisions(count: int = 20) -> None:
    """MNIST 256x2 against its copies of fewer bits, on boxes around images."""
    net = mo.load(SHARED / "models" / "mnistfc_256x2.onnx")
    head = "| copy | radius | proved, refuted, open | s each | distance: median lower, upper | s each |"
    print(f"\n{head}\n|---|---|---|---|---|---|")
    for how in ("bfloat16", "int8"):
        copy = rounded_to(net, how)
        for radius in (0.01, 0.02, 0.05):
            answers, spent, ends, more = [], 0.0, [], 0.0
            for k, x in enumerate(images(count)):
                box = mo.Box(np.clip(x - radius, 0, 1), np.clip(x + radius, 0, 1))
                answer, seconds = timed(mo.equivalent, net, copy, on=box, decision=True, budget=400)
                answers.append(answer.status)
                spent += seconds
                if k < 5:
                    found, seconds = timed(mo.distance, net, copy, on=box, budget=400)
                    ends.append((found.lower, found.upper))
                    more += seconds
            counts = ", ".join(str(answers.count(s)) for s in ("proved", "refuted", "undecided"))
            low, high = np.median(ends, axis=0)
            print(
                f"| {how} | {radius} | {counts} | {spent / count:.1f} | {low:.3g}, {high:.3g} | {more / 5:.1f} |",
                flush=True,
            )


def exact(count: int = 10_000) -> None:
    """Brackets of random pairs against the exact supremum over all linear pieces (one and two inputs)."""
    wrong, ratios, start = 0, [], time.perf_counter()
    for seed in range(count):
        rng = np.random.default_rng(seed)
        a = random_network(
            int(rng.integers(1, 3)), *rng.integers(1, 6, rng.integers(1, 3)).tolist(), 1, seed=seed
        )
        b = noisy(a, 10.0 ** rng.integers(-6, 0), seed)
        peak = mo.distance(a, b, on=mo.Box(-1, 1), budget=300)
        search = GapSearch(a, b, mo.Box(-1, 1))
        search.run(int(rng.integers(1, 64)))
        wrong += not (peak.lower <= search.upper and search.seen * (1 - 1e-9) <= peak.upper + 1e-15)
        ratios.append(search.upper / peak.upper if peak.upper else 1.0)
    seconds = time.perf_counter() - start
    print(
        f"\n{count} random pairs: {wrong} brackets without the exact distance; "
        f"upper / exact median {np.median(ratios):.2f}, {seconds:.0f} s"
    )


if __name__ == "__main__":
    parts = {"kinds": kinds, "track": track, "pairs": pairs, "decisions": decisions, "exact": exact}
    asked = sys.argv[1:] or list(parts)
    print(json.dumps({"cores": os.cpu_count(), "numpy": np.__version__}))
    for name in asked:
        parts[name]()
