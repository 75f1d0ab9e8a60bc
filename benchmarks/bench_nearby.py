"""Proximate rank: greedy, first fit and proved bounds; nodes and seconds.

python benchmarks/bench_nearby.py [digits] [points] [large] [models] [rosetta] [figure]      (all by default)
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import moduli as mo
from moduli.compression.radius.cover_heuristics import first_fit
from moduli.compression.radius.hard_instances import (
    lattice,
    planar_formula,
    random_planar_formula,
    ring,
    uniform_points,
)
from moduli.kernel.certificate import ball

SHARED = Path(os.environ.get("MODULI_SHARED", Path(__file__).parents[1] / ".." / "shared"))
DIGITS = {
    (64, 0.01): (0.08, 0.1, 0.12, 0.15, 0.185, 0.22, 0.25), (128, 0.01): (0.08, 0.1, 0.12, 0.16),
    (256, 0.001): (0.08, 0.09, 0.1, 0.12, 0.2), (512, 0.001): (0.03, 0.05),
    (512, 0.0): (0.147, 0.177, 0.206, 0.22, 0.236),
}  # fmt: skip


def digits(width: int, decay: float) -> mo.Network:
    """64-width-10 tanh, Adam, 200 epochs on scikit-learn's digits."""
    import torch
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16.0, dtype=torch.float32), torch.tensor(y)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, width), torch.nn.Tanh(), torch.nn.Linear(width, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=decay)
    order = torch.Generator().manual_seed(0)
    for _ in range(200):
        for batch in torch.randperm(len(x), generator=order).split(128):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return mo.load(model)


def row(name: str, net: mo.Network, radius: float, budget: int) -> None:
    simple = len(first_fit(ball(net, radius)))
    start = time.perf_counter()
    rank = mo.rank(net, radius=radius, budget=budget)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    rank.check()
    check = time.perf_counter() - start
    found = f"**{rank.upper}**" if rank.exact else f"[{rank.lower}, {rank.upper}]"
    cells = (
        name,
        f"{radius:g}",
        rank.greedy,
        simple,
        found,
        rank.nodes,
        f"{seconds:.1f}",
        f"{check:.1f}",
    )
    print("|", *(f"{cell} |" for cell in cells), flush=True)


def head(what: str) -> None:
    print(
        f"\n| {what} | radius | greedy | first fit | proved | nodes | seconds | check, s |\n"
        + 8 * "|---"
        + "|"
    )


def run_digits(budget: int) -> None:
    head("digits 64-h-10, weight decay")
    for (width, decay), radii in DIGITS.items():
        net = digits(width, decay)
        for radius in radii:
            row(f"{width}, {decay:g}", net, radius, budget)


def run_points(budget: int) -> None:
    head("points")
    for count, per_box in ((500, 3), (1000, 3), (2000, 3), (500, 6), (1000, 6), (1000, 12)):
        row(
            f"{count} uniform, {4 * per_box} neighbours",
            mo.hard_instance(uniform_points(count, per_box), 0.5),
            0.5,
            budget,
        )
    row("ring of 99", mo.hard_instance(ring(99), 0.5), 0.5, budget)
    row("lattice 20 x 20", mo.hard_instance(lattice(20), 0.5), 0.5, budget)
    for clauses in (4, 12, 30):
        formula = random_planar_formula(4 * clauses // 3, clauses, seed=1)
        points, boxes = planar_formula(formula)
        row(
            f"formula, {clauses} clauses, {len(points)} points, K = {boxes}",
            mo.hard_instance(points, 0.5),
            0.5,
            budget,
        )


def run_large(budget: int) -> None:
    head("large")
    for count in (10_000, 100_000):
        row(f"{count} uniform", mo.hard_instance(uniform_points(count, 3.0), 0.5), 0.5, budget)


def run_models(budget: int) -> None:
    print(
        "\n| model | radius | hidden units | certified difference, abs(x) <= 1 | float difference | seconds |"
    )
    print(6 * "|---" + "|")
    for name, radii in {
        "verisig_quadrotor_tanh20x20.converted.onnx": (1e-6, 1e-4), "sl2p_v1_v2_v3.converted.onnx": (0.01, 0.02),
        "serra_cifar10_400-400_L1_pruned_checkpoint_120.converted.onnx": (1e-6,),
        "TORA_ReLUtanh_controller.converted.onnx": (1e-8,),
    }.items():  # fmt: skip
        net = mo.load(SHARED / "models" / name)
        x = np.random.default_rng(0).uniform(-1, 1, (1000, net.widths[0]))
        for radius in radii:
            start = time.perf_counter()
            small = mo.compress(net, radius=radius, budget=budget)
            seconds = time.perf_counter() - start
            small.check()
            off = np.abs(small.network.logits(x) - net.logits(x)).max()
            widths = (
                f"{net.units} -> {small.network.units} ({'-'.join(map(str, small.network.widths))})"
            )
            print(
                f"| {name.split('.')[0]} | {radius:g} | {widths} | {small.within(1.0):.1e} | {off:.1e} | {seconds:.2f} |"
            )


def rosetta() -> list[mo.Network]:
    with np.load(SHARED / "models" / "rosetta3_model2_1000nets.npz") as z:
        parts = [z[k].astype(np.float64) for k in ("W1", "b1", "W2", "b2")]
    return [mo.Network.mlp(*x, activation="tanh") for x in zip(*parts, strict=True)]


def run_rosetta(budget: int) -> None:
    nets = rosetta()
    with ProcessPoolExecutor(2) as executor:
        start = time.perf_counter()
        curve = mo.rank_curve(
            nets, radii=np.linspace(0, 6, 25).tolist(), budget=budget, executor=executor
        )
    print(
        f"\n{curve.statement}, {time.perf_counter() - start:.0f} s\n\n| radius | mean rank | mean greedy bound |"
    )
    print(3 * "|---" + "|")
    lines = (curve.radii, curve.lower, curve.upper, curve.greedy)
    for radius, low, high, greedy in zip(*(line[::4] for line in lines), strict=True):
        print(
            f"| {radius:g} | {high:.3f}{'' if low == high else f' (at least {low:.3f})'} | {greedy:.3f} |"
        )


def run_figure(budget: int) -> None:
    from moduli.common.figures import save

    curve = mo.rank_curve(digits(64, 0.01), radii=np.linspace(0, 0.3, 31).tolist(), budget=budget)
    save(curve.plot(), Path(__file__).with_name("proximate_rank.svg"))
    print(f"\n{curve.statement}")


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["digits", "points", "large", "models", "rosetta", "figure"]
    for part in wanted:
        globals()[f"run_{part}"](2_000 if part in ("digits", "figure") else 10_000)
