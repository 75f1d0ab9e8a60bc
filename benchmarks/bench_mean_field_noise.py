"""The setting of the theorem of Wan et al.: what the smaller half of the rows holds, against the width.

python benchmarks/bench_mean_field_noise.py [DATA] [FOLDER]      (digits by default; minutes)
"""

from __future__ import annotations

import sys

import numpy as np

from moduli import guaranteed_share
from moduli.training.experiments import load_data
from moduli.training.mean_field_runs import mean_field_run

WIDTHS = {100: 9, 1000: 9, 10_000: 3}  # and seeds
ALPHAS = (1.5, 1.75, 1.9, 2.0)


def main(name: str, folder: str | None) -> None:
    told = load_data(name, folder)
    print(
        "| alpha | n | seeds | squared error (most) | noise alone, certified | were this drift fixed beforehand, certified | "
        "function | accuracy before, after | lr of the theorem |\n|---|---|---|---|---|---|---|---|---|"
    )
    for alpha in ALPHAS:
        for width, seeds in WIDTHS.items():
            runs = [
                mean_field_run(
                    told.x, told.y, width, alpha=alpha, test=(told.x_test, told.y_test), seed=seed
                )
                for seed in range(seeds)
            ]
            middle = {
                key: float(np.median([getattr(run, key) for run in runs]))
                for key in ("error", "bound", "change", "before", "after")
            }
            worst = max(run.error for run in runs)
            alone = guaranteed_share((width, told.x.shape[1]), alpha, kind="isotropic").error
            print(
                f"| {alpha} | {width} | {seeds} | {middle['error']:.3f} ({worst:.3f}) | {alone:.3f} | {middle['bound']:.3f} | "
                f"{middle['change']:.3f} | {middle['before']:.3f}, {middle['after']:.3f} | {runs[0].theorem_lr:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "digits", sys.argv[2] if len(sys.argv) > 2 else None)
