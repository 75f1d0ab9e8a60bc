"""Stable noise: speed beside scipy, price of a step, 10^9 draws.

python benchmarks/bench_noise.py [speed] [step] [finite]      (the first two by default; the last takes a minute)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import levy_stable

from moduli import stable_noise
from moduli.pytorch import HeavyTailedNoise, perceptron
from moduli.training.noise import KINDS
from moduli.training.torch_sgd import draw

DRAWS, ALPHA = 10**6, 1.75


def speed() -> None:
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    works: dict[str, Callable[[], object]] = {
        "scipy levy_stable": lambda: levy_stable.rvs(ALPHA, 0, size=DRAWS, random_state=1),
        "stable_noise (numpy)": lambda: stable_noise((DRAWS,), ALPHA, seed=rng),
        "torch float64, iid": lambda: draw((DRAWS,), ALPHA, generator=g, dtype=torch.float64),
        "torch float32, iid": lambda: draw((DRAWS,), ALPHA, generator=g),
        "torch float32, isotropic, 1000 x 1000": lambda: draw((1000, 1000), ALPHA, "isotropic", generator=g),
        "torch float32, rows, 1000 x 1000": lambda: draw((1000, 1000), ALPHA, "rows", generator=g),
        "torch randn, float32": lambda: torch.randn(DRAWS, generator=g),
        "torch, float32 written": lambda: torch.empty(DRAWS).fill_(1.0),
    }  # fmt: skip
    seconds = {name: min(times) for name, times in in_turn(works, 7).items()}
    peer = seconds["scipy levy_stable"]
    print("| 10^6 draws, one thread | million / s | of scipy |\n|---|---|---|")
    for name, s in seconds.items():
        print(f"| {name} | {DRAWS / s / 1e6:.0f} | {peer / s:.1f} |", flush=True)


def step() -> None:
    """2000 x 784, batch 128: a plain step of SGD, and with noise; and dense Gaussian noise of the
    same shape.
    """
    torch.set_num_threads(1)
    x, y = torch.randn(128, 784), torch.randint(0, 10, (128,))

    def one(kind: str | None, alpha: float = ALPHA) -> Callable[[], None]:
        net = perceptron(784, 2000, 10)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        if kind is not None:
            HeavyTailedNoise(optimizer, alpha, 0.01, kind, on=net)

        def work() -> None:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()

        work()
        return work

    works = {
        "plain": one(None),
        "dense Gaussian": one("iid", 2.0),
        **{kind: one(kind) for kind in KINDS},
    }
    seconds = {name: np.median(times) for name, times in in_turn(works, 40).items()}
    print("\n| step | ms | of a plain step | of dense Gaussian noise |\n|---|---|---|---|")
    for name, s in seconds.items():
        print(
            f"| {name} | {1000 * s:.1f} | {s / seconds['plain']:.2f} | {s / seconds['dense Gaussian']:.2f} |",
            flush=True,
        )


def in_turn(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Times of each, taken in turn, so that what else runs on the machine meets all alike."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            found[name].append(time.perf_counter() - start)
    return found


def finite() -> None:
    g, bad, largest = torch.Generator().manual_seed(0), 0, 0.0
    for _ in range(100):
        x = draw((10**7,), ALPHA, generator=g)
        bad += int((~torch.isfinite(x)).sum())
        largest = max(largest, float(x.abs().max()))
    print(f"\n10^9 float32 draws at alpha {ALPHA}: {bad} not finite, largest {largest:.3g}")


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["speed", "step"]
    for part in (speed, step, finite):
        if part.__name__ in chosen:
            part()
