"""What the comparisons share: inputs, time, the effect on a function, other tools that may be
absent, tables.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

import moduli as mo

POINTS = 10_000


def present(*peers: ModuleType) -> list[ModuleType]:
    """The modules whose tool, their `NAME`, is installed; says loudly which is not."""
    found = []
    for peer in peers:
        try:
            getattr(peer, "prepare", lambda: None)()
            importlib.import_module(peer.IMPORT)
            found.append(peer)
        except ImportError as error:
            print(
                f"\n**skipped: {peer.NAME} is not installed (pip install {peer.NAME})**: {error}",
                flush=True,
            )
    return found


def mlp(widths: tuple[int, ...], seed: int, activation: str = "relu") -> mo.Network:
    """He weights and biases of deviation 0.3, on a grid of 2^-16, so that sums and multiples of
    units are exact.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for n, m in pairwise(widths):
        parts += [rng.standard_normal((m, n)) * np.sqrt(2 / n), 0.3 * rng.standard_normal(m)]
    return mo.Network.mlp(
        *(np.round(part * 2**16) / 2**16 for part in parts), activation=activation
    )


def timed(work: Callable[[], Any], repeats: int = 1) -> tuple[Any, float]:
    """The result and the least seconds; with repeats, imports and caches of the first call do not
    count.
    """
    least, found = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        found = work()
        least = min(least, time.perf_counter() - start)
    return found, least


def change(a: mo.Network, b: mo.Network, box: mo.Box) -> float:
    """The largest difference of outputs at 10^4 points of a box."""
    x = box.sample(POINTS, a.widths[0], 1)
    return float(np.abs(a.logits(x) - b.logits(x)).max())


def failed(error: Exception) -> str:
    return f"fails, {type(error).__name__}: {error}"[:100]


def shape(net: mo.Network) -> str:
    return "-".join(map(str, net.widths))


def table(title: str, head: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    head = list(head)
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for row in rows:
        cells = (f"{cell:.2g}" if isinstance(cell, float) else str(cell) for cell in row)
        print(f"| {' | '.join(cells)} |", flush=True)
