"""Certified errors of keeping half of the rows of stable noise, beside what draws give.

python benchmarks/bench_guarantees.py      a minute or two
"""

from __future__ import annotations

import time

import numpy as np

from moduli import guaranteed_share, guaranteed_width, stable_noise
from moduli.kernel.errors import Undecided

DRAWS = {200: 10_000, 1000: 10_000, 10_000: 2000, 100_000: 200}
ALPHAS = (1.0, 1.5, 1.75, 1.9, 2.0)


def lost(width: int, alpha: float, draws: int) -> np.ndarray:
    """What the smaller half of one number per row holds."""
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        squares = np.sort(np.square(stable_noise((width,), alpha, seed=rng)))
        found.append(squares[: width - width // 2].sum() / squares.sum())
    return np.array(found)


def main() -> None:
    print(
        "| alpha | rows | certified, 95 % | 95 % of draws | ratio | draws above it | largest | ms |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for alpha in ALPHAS:
        for width, draws in DRAWS.items():
            start = time.perf_counter()
            bound = float(guaranteed_share((width, 1), alpha))
            taken = 1000 * (time.perf_counter() - start)
            found = lost(width, alpha, draws)
            usual, above = float(np.quantile(found, 0.95)), int((found > bound).sum())
            print(
                f"| {alpha} | {width} | {bound:.3g} | {usual:.3g} | {bound / usual:.2f} | {above} of {draws} | "
                f"{found.max():.3g} | {taken:.0f} |",
                flush=True,
            )
    print("\n| least rows for a squared error of | " + " | ".join(map(str, ALPHAS)) + " |")
    print("|---" * (len(ALPHAS) + 1) + "|")
    for error in (0.2, 0.1, 0.05, 0.02):
        widths = []
        for alpha in ALPHAS:
            try:
                widths.append(str(guaranteed_width(error, alpha)))
            except Undecided:
                widths.append("none found")
        print(f"| {error} | " + " | ".join(widths) + " |", flush=True)


if __name__ == "__main__":
    main()
