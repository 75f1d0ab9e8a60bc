"""How far apart on [-1, 1]^n are a ReLU network and a copy with 0.1 % noise on its weights: bounds,
and whether they meet.
"""

from __future__ import annotations

import numpy as np
import solver
from common import mlp, shape, table, timed

import moduli as mo

LIMIT = 60.0
BOX = mo.Box(-1, 1)


def shown(low: float, high: float) -> tuple[str, str, str]:
    return f"{low:.6f}", f"{high:.6f}", "yes" if low >= (1 - 1e-6) * high else "no"


def main() -> None:
    head = ("network", "tool", "at least", "at most", "gap closed", "what vouches", "seconds")
    mo.distance(mlp((2, 2, 1), 0), mlp((2, 2, 1), 1), on=BOX)  # imports are not timed
    rows: list[tuple[object, ...]] = []
    for widths in ((2, 8, 8, 1), (2, 16, 16, 1), (4, 16, 16, 1)):
        f = mlp(widths, 0)
        g = f.with_flat(
            f.flat() * (1 + 1e-3 * np.random.default_rng(1).standard_normal(f.parameters))
        )
        ours, seconds = timed(lambda f=f, g=g: mo.distance(f, g, on=BOX))
        rows.append(
            (
                shape(f),
                "moduli",
                *shown(ours.lower, ours.upper),
                "exact and outward-rounded arithmetic",
                seconds,
            )
        )
        (low, high), seconds = timed(lambda f=f, g=g: solver.distance(f, g, BOX, LIMIT))
        rows.append(("", "HiGHS", *shown(low, high), "the solver, its tolerances", seconds))
    table(
        f"The distance of a network and a copy with 0.1 % noise; {LIMIT:.0f} s for HiGHS",
        head,
        rows,
    )


if __name__ == "__main__":
    main()
