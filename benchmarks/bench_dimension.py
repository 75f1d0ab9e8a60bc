"""Functional dimension from points on creases; of architectures; constructed identifiable parameters.

Times are of one process; the peak of memory is that of the process so far, which takes the sizes in
order.
"""

from __future__ import annotations

import resource
import time
from itertools import pairwise

import numpy as np

import moduli as mo
from moduli.piecewise import cells_sampled, functional_dimension
from moduli.piecewise.crease_points import crease_points

SIZES = (
    (16, 48, 48, 4), (16, 64, 64, 4), (16, 128, 128, 4), (32, 256, 256, 10), (64, 256, 256, 64, 10),
)  # fmt: skip
BY_CELLS = (8, 8, 8, 1), (16, 48, 48, 4)
TINY = (
    (1, 3, 2, 1), (2, 2, 2, 1), (2, 3, 3, 1), (2, 2, 2, 2, 1), (2, 4, 1), (3, 3, 2, 1), (3, 2, 2, 2),
    (3, 4, 3, 2), (3, 5, 5, 1),
)  # fmt: skip
ARCHITECTURES = (
    (2, 2, 2, 1), (2, 2, 2, 2, 1), (2, 2, 2, 2, 2, 1), (2, 2, 2, 2, 2, 2, 2, 2, 2, 1), (3, 2, 2, 1),
    (4, 3, 2, 2, 1), (5, 2, 2, 2, 1), (6, 5, 4, 3, 1), (2, 1, 1, 1, 1), (2, 2, 1, 1, 1, 2, 1),
    (2, 1, 1, 1, 3, 1), (2, 2, 1, 2, 1, 1, 1), (1, 3, 3, 1), (1, 4, 4, 1), (16, 48, 48, 4),
    (16, 128, 128, 4),
)  # fmt: skip
CONSTRUCTED = (
    (2, 2, 2, 1), (2, 3, 3, 3, 1), (2, 2, 2, 2, 2, 1), (3, 4, 3, 2), (4, 4, 4, 1), (8, 8, 8, 8, 3),
    (16, 32, 24, 5),
)  # fmt: skip


def he(seed: int, widths: tuple[int, ...], bias: float = 0.1) -> mo.Network:
    rng = np.random.default_rng(seed)
    parts = []
    for a, b in pairwise(widths):
        parts += [rng.standard_normal((b, a)) * np.sqrt(2 / a), bias * rng.standard_normal(b)]
    return mo.Network.mlp(*parts, activation="relu")


def name(widths: tuple[int, ...]) -> str:
    return "-".join(map(str, widths))


def head(*names: str) -> None:
    print("\n| " + " | ".join(names) + " |\n|" + "---|" * len(names))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def many_inputs() -> None:
    head(
        "widths", "parameters", "functional dimension", "at most", "points", "seconds", "check, s", "MB",
    )  # fmt: skip
    for widths in SIZES:
        net, box = he(0, widths), mo.Box(-1, 1)
        start = time.process_time()
        found = mo.dimension(net, on=box)
        middle = time.process_time()
        assert found.check()
        end = time.process_time()
        print(
            f"| {name(widths)} | {net.parameters} | {found.lower} | {found.generic} | {len(found.cells.units)} | "
            f"{middle - start:.1f} | {end - middle:.1f} | {peak()} |",
            flush=True,
        )


def by_cells() -> None:
    """The other method: the Jacobian over the cells that points find."""
    head("widths", "functional dimension", "at most", "seconds")
    for widths in BY_CELLS:
        net, start = he(0, widths), time.process_time()
        cells = cells_sampled.explore(net, mo.Box(-1, 1), 10_000, 0)
        found = functional_dimension.dimension(cells, 0)
        seconds = time.process_time() - start
        print(f"| {name(widths)} | {found.lower} | {found.generic} | {seconds:.1f} |", flush=True)


def against_exact(draws: int) -> None:
    """Few inputs: the bound beside the exact dimension over all cells."""
    head("widths", "networks", "bound above", "bound equal", "mean of bound", "mean of exact", "at most")  # fmt: skip
    for widths in TINY:
        bounds, exact = [], []
        for seed in range(draws):
            net, box = he(seed, widths, 0.3), mo.Box(-4, 4)
            exact.append(int(mo.dimension(net, on=box)))
            bounds.append(crease_points(net, box, 200, 0).shown)
        low, true = np.array(bounds), np.array(exact)
        most = net.parameters - net.units
        print(
            f"| {name(widths)} | {draws} | {(low > true).sum()} | {(low == true).sum()} | {low.mean():.1f} | "
            f"{true.mean():.1f} | {most} |",
            flush=True,
        )


def architectures() -> None:
    head("widths", "parameters", "less units", "functional dimension", "shown by", "seconds", "check, s")  # fmt: skip
    for widths in ARCHITECTURES:
        start = time.process_time()
        found = mo.dimension(widths)
        middle = time.process_time()
        assert found.check()
        end = time.process_time()
        value = f"{found.lower}" if found.exact else f"[{found.lower}, {found.upper}]"
        by = dict(found.rows())["shown by"].removeprefix("a network of whole numbers, ")
        print(
            f"| {name(widths)} | {found.network.parameters} | {found.generic} | {value} | {by} | {middle - start:.1f} | "
            f"{end - middle:.2f} |",
            flush=True,
        )


def constructed() -> None:
    head("widths", "identifiable among", "radius", "seconds", "check, s")
    for widths in CONSTRUCTED:
        start = time.process_time()
        found = mo.identifiable_parameters(widths)
        middle = time.process_time()
        assert found.check()
        end = time.process_time()
        radius = "" if found.radius is None else f"{found.radius:.1e}"
        print(
            f"| {name(widths)} | {found.scope} | {radius} | {middle - start:.1f} | {end - middle:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    many_inputs()
    architectures()
    constructed()
    against_exact(40)
    by_cells()
