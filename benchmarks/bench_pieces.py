"""Linear pieces, functional dimension, identifiability and recovery: speed and tables, in one run.

python benchmarks/bench_pieces.py            the tables; python benchmarks/bench_pieces.py figures   also the two figures

The baseline splits cells one by one in integers (`cells_exact`): the route that needs no general
position. Networks have He weights and biases of deviation 0.3 (0.1 where said), seeded.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import moduli as mo
from moduli.common import modular
from moduli.piecewise.cells_exact import clip
from moduli.piecewise.cells_generic import certify, faces, subdivide

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("MODULI_SHARED", HERE.parents[1] / "shared")) / "models"
SIZES = (
    (2, 16, 16, 1), (2, 32, 32, 1), (2, 64, 64, 1), (2, 128, 128, 1), (2, 256, 256, 1),
    (2, 64, 64, 64, 1), (2, 32, 32, 32, 32, 1), (3, 8, 8, 1), (3, 16, 16, 1), (3, 16, 16, 16, 1),
    (3, 32, 32, 1),
)  # fmt: skip
PLAIN = 2_200  # cells that the baseline is given


def he(seed: int, widths: tuple[int, ...], bias: float = 0.3) -> mo.Network:
    rng = np.random.default_rng(seed)
    parts = []
    for a, b in pairwise(widths):
        parts += [rng.standard_normal((b, a)) * np.sqrt(2 / a), bias * rng.standard_normal(b)]
    return mo.Network.mlp(*parts, activation="relu")


def head(*names: str) -> None:
    print("\n| " + " | ".join(names) + " |\n|" + "---|" * len(names))


def timed(work: object, times: int = 3) -> float:
    best = []
    for _ in range(times):
        start = time.perf_counter()
        work()  # type: ignore[operator]
        best.append(time.perf_counter() - start)
    return float(np.median(best))


def speed() -> list[tuple[int, float]]:
    head(
        "widths",
        "cells",
        "search, s",
        "proof, s",
        "counted, s",
        "cells/s",
        "integers, cells/s",
        "ratio",
    )
    seen = []
    for widths in SIZES:
        net, n = he(0, widths), widths[0]
        box, start = mo.Box(-4, 4).of_dimension(n), np.eye(n, n + 1)
        found = subdivide(net, box, start, 10**7)
        search = timed(lambda: subdivide(net, box, start, 10**7))  # noqa: B023
        proof, count = timed(lambda: certify(found)), timed(lambda: faces(found.marks, n, n))  # noqa: B023
        cells = len(faces(found.marks, n, n).first)
        total = search + proof + count
        seen.append((cells, total))
        plain = "", ""
        if cells <= PLAIN:
            slow = timed(lambda: clip(net, box, start, 10**6, None), 1)  # noqa: B023
            plain = f"{cells / slow:.0f}", f"{slow / total:.0f}"
        shares = f"{search:.3f} | {proof:.3f} | {count:.3f}"
        print(
            f"| {'-'.join(map(str, widths))} | {cells} | {shares} | {cells / total:.0f} | {plain[0]} | {plain[1]} |"
        )
    return seen


def elimination() -> None:
    rng, prime = np.random.default_rng(0), modular.PRIMES[0]
    head("rank modulo a prime", "s", "numpy.linalg.svd, s")
    for size in (600, 1200, 2400):
        matrix = rng.integers(-(prime // 2), prime // 2, (size + 20, size)).astype(np.float64)
        found = timed(lambda: modular.rank(matrix, prime))  # noqa: B023
        svd = timed(lambda: np.linalg.svd(matrix, compute_uv=False), 1)  # noqa: B023
        print(f"| {size} | {found:.2f} | {svd:.2f} |")


def models() -> None:
    head(
        "model, where",
        "cells",
        "regions",
        "pieces",
        "general position",
        "s",
        "functional dimension",
        "s",
    )
    u = np.eye(5)
    digits = np.load(SHARED.parent / "data" / "mnist.npz")
    a, b, c = (
        digits["x_train"][np.flatnonzero(digits["y_train"] == k)[0]].reshape(784) / 255.0
        for k in (0, 1, 4)
    )
    asked = [
        ("reach_vdp, [-1,1]^3", "reach_vdp.onnx", mo.Box(-1, 1), None, True),
        ("reach_vdp, [-4,4]^3", "reach_vdp.onnx", mo.Box(-4, 4), None, True),
        ("tll_8, [-1,1]^2", "tll_8.onnx", mo.Box(-1, 1), None, True),
        (
            "acasxu_1_1, first two inputs",
            "acasxu_1_1.onnx",
            mo.Box(-0.5, 0.5),
            (np.zeros(5), u[0], u[1]),
            False,
        ),
        (
            "acasxu_1_1, last two inputs",
            "acasxu_1_1.onnx",
            mo.Box(-0.5, 0.5),
            (np.zeros(5), u[3], u[4]),
            False,
        ),
        (
            "mnistfc_256x2, through a 0, a 1 and a 4",
            "mnistfc_256x2.onnx",
            mo.Box(-0.5, 1.5),
            (a, b - a, c - a),
            False,
        ),
    ]
    for name, file, box, plane, ranked in asked:
        start = time.perf_counter()
        found = mo.pieces(SHARED / file, on=box, slice=plane, budget=10**6)
        text = f"{found.cells} | {found.linear_regions} | {found.affine_pieces} | {'yes' if found.generic else 'no'}"
        middle, rank = time.perf_counter(), ""
        if ranked:
            answer = mo.dimension(SHARED / file, on=box, budget=10**6)
            value = str(answer.lower) if answer.exact else f"[{answer.lower}, {answer.upper}]"
            rank = f"{value} of {answer.generic}"
        end = time.perf_counter()
        print(
            f"| {name} | {text} | {middle - start:.2f} | {rank} | {f'{end - middle:.1f}' if ranked else ''} |",
            flush=True,
        )


def dimensions(draws: int) -> dict[int, list[float]]:
    """Mean functional dimension over its bound, at He initialisation with biases of deviation 0.1."""
    head("widths", *(f"{d} hidden" for d in range(1, 6)))
    curves: dict[int, list[float]] = {}
    for inputs, width in [(2, w) for w in (2, 3, 5, 8, 12)] + [(w, w) for w in (4, 6, 8)]:
        line = []
        for depth in range(1, 6 if inputs == 2 else 5):
            widths = (inputs, *[width] * depth, 1)
            count = draws if inputs == 2 and width * depth <= 24 else draws // 4
            found = [
                mo.dimension(he(seed, widths, 0.1), on=mo.Box(-1000, 1000), budget=20_000)
                for seed in range(count)
            ]
            mean, most = np.mean([d.lower for d in found]), found[0].generic
            exact = np.mean([d.exact for d in found])
            line.append(
                f"{mean:.1f}/{most} ({np.mean([d.lower == most for d in found]):.2f}, {exact:.2f})"
            )
            if inputs == 2:
                curves.setdefault(width, []).append(float(mean / most))
        print(f"| n_0={inputs}, w={width} | " + " | ".join(line) + " |", flush=True)
    return curves


def identified(draws: int = 60) -> None:
    """Dyadic networks (entries k/16, |k| <= 32) in a box of half-width 1024."""
    head(
        "widths", "full dimension", "generic", "refuted", "recovered", "verdict, ms", "recovery, ms"
    )
    for widths in ((2, 2, 2, 1), (2, 3, 3, 1), (2, 4, 4, 1), (2, 2, 2, 2, 1)):
        full = generic = refuted = recovered = 0
        times: tuple[list[float], list[float]] = [], []
        for seed in range(draws):
            rng = np.random.default_rng(seed)
            parts = [
                rng.integers(-32, 33, s) / 16 for a, b in pairwise(widths) for s in ((b, a), (b,))
            ]
            net = mo.Network.mlp(*parts, activation="relu")
            start = time.perf_counter()
            answer = mo.identifiable(net, on=mo.Box(-1024, 1024))
            times[0].append(time.perf_counter() - start)
            generic += answer.scope == "generic"
            refuted += answer.status == "refuted"
            if answer.dimension is None or answer.dimension.lower < answer.dimension.generic:
                continue
            full += 1
            start = time.perf_counter()
            again = mo.recover(net, on=mo.Box(-1024, 1024))
            times[1].append(time.perf_counter() - start)
            recovered += again.layers is not None and mo.canonical(again.network) == mo.canonical(
                net
            )
        ms = [f"{1000 * np.median(t):.0f}" for t in times]
        counts = f"{full} of {draws} | {generic} | {refuted} | {recovered} of {full}"
        print(f"| {'-'.join(map(str, widths))} | {counts} | {ms[0]} | {ms[1]} |", flush=True)


def figures(seen: list[tuple[int, float]], curves: dict[int, list[float]]) -> None:
    from moduli.common.figures import BLUE, GREY, LAYERS, axes, save

    left, right = axes(None, 2)
    cells, seconds = np.array(seen).T
    left.loglog(cells, seconds, "o", color=BLUE, ms=4)
    grid = np.array([cells.min(), cells.max()])
    left.loglog(grid, grid / 50_000, color=GREY, lw=0.8, ls=":", label="50,000 cells/s")
    left.set(xlabel="cells", ylabel="seconds, search and proof")
    left.legend(frameon=False)
    for (width, line), hue in zip(curves.items(), LAYERS, strict=False):
        right.plot(
            range(1, len(line) + 1),
            line,
            color=hue,
            marker="o",
            ms=3,
            lw=1.4,
            label=f"width {width}",
        )
    right.set(
        xlabel="hidden layers",
        ylabel="functional dimension / bound",
        ylim=(0, 1.03),
        xticks=range(1, 6),
    )
    right.legend(frameon=False)
    save(left, HERE / "pieces.svg")


if __name__ == "__main__":
    seen = speed()
    elimination()
    if SHARED.exists():
        models()
    identified()
    curves = dimensions(40)
    if "figures" in sys.argv:
        figures(seen, curves)
