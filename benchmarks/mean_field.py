"""The simplified problem of wide random ReLU networks: how fast it becomes true, and the frame it
predicts.

python benchmarks/mean_field.py OUT.svg
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import moduli as mo
from moduli.common.figures import BLUE, GREY, ORANGE, axes, save
from moduli.compression.average.closed_form import ShallowNetwork
from moduli.compression.average.fit import Population, descend, project
from moduli.compression.average.gaussian_expectations import UnitLaw, gram

LEVELS = (("S0", GREY), ("S-iso", ORANGE), ("S1", BLUE))


def wide(units: int, inputs: int, seed: int) -> mo.Network:
    rng = np.random.default_rng(seed)
    rows, outer = (
        rng.standard_normal((units, inputs)) / inputs**0.5,
        rng.uniform(0.5, 1.5, (1, units)) / units,
    )
    return mo.Network.mlp(rows, np.zeros(units), outer, [0.0], activation="relu")


def errors(units: int, inputs: int, seed: int) -> list[float]:
    """sup over 302 directions of |simplified - exact| / exact, for S0, S-iso, S1."""
    net = wide(units, inputs, seed)
    target = ShallowNetwork.of(net, mo.mean_field(wide(2, inputs, 0)).whitening)
    rows = np.random.default_rng(seed + 1).standard_normal((302, inputs))
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    truth = (
        gram(target.activation, UnitLaw(np.zeros(302), rows), None, target.units)[0] @ target.outer
    )[:, 0]
    field = mo.mean_field(net)
    return [float(np.abs(field.cross(rows, level) / truth - 1).max()) for level, _ in LEVELS]  # type: ignore[arg-type]


def slope(x: Any, y: Any) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def main(out: str) -> None:
    panels = axes(count=3)
    sizes, dims = (100, 300, 1000, 3000, 10_000), (8, 16, 32, 64, 128)
    by_size = np.median([[errors(n, 30, s) for n in sizes] for s in range(3)], axis=0)
    by_dim = np.median([[errors(10_000, d, s) for d in dims] for s in range(3)], axis=0)
    for k, (level, color) in enumerate(LEVELS):
        for ax, x, y in ((panels[0], sizes, by_size[:, k]), (panels[1], dims, by_dim[:, k])):
            ax.loglog(
                x, y, color=color, marker="o", ms=3, label=f"{level}, slope {slope(x, y):.2f}"
            )
        print(
            level,
            "units",
            *(f"{e:.1e}" for e in by_size[:, k]),
            "| inputs",
            *(f"{e:.1e}" for e in by_dim[:, k]),
        )
    panels[1].loglog(dims, 1 / (2 * np.array(dims)), color=GREY, ls=":", label="1/(2 inputs)")
    panels[0].set(
        xlabel="hidden units of the target (30 inputs)",
        ylabel="largest relative error of the cross term",
    )
    panels[1].set(xlabel="inputs (10 000 hidden units)")
    for ax in panels[:2]:
        ax.legend(frameon=False)
    m, d = 8, 30
    for n, color in ((100, GREY), (1000, ORANGE), (10_000, BLUE)):
        target = ShallowNetwork.of(wide(n, d, 0), mo.mean_field(wide(2, d, 0)).whitening)
        goal = Population(target, biases=False)
        start = UnitLaw(np.zeros(m), np.random.default_rng(0).standard_normal((m, d)))
        best = project(goal, descend(goal, start, 300))
        rows = best.units.row / np.linalg.norm(best.units.row, axis=1)[:, None]
        cosines = np.sort((rows @ rows.T)[np.triu_indices(m, 1)])
        panels[2].plot(cosines, color=color, label=f"{n} hidden units")
        print(
            n,
            "cosines",
            f"{cosines.min():.3f} .. {cosines.max():.3f}",
            "simplex",
            f"{-1 / (m - 1):.3f}",
            "error",
            f"{best.square / goal.variance:.4f}",
            "predicted",
            f"{mo.mean_field(wide(n, d, 0)).loss(m):.4f}",
        )
    panels[2].axhline(-1 / (m - 1), color=GREY, ls=":", label="simplex")
    panels[2].set(xlabel="pairs of units of the best student of 8", ylabel="cosine")
    panels[2].legend(frameon=False)
    save(panels[0], out)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "mean_field.svg")
