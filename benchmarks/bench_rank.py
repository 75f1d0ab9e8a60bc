"""Rank of many tanh units beside numpy.unique on the same rows, in one run: seconds, ratio, peak
memory.

python benchmarks/bench_rank.py [--units 1000000] [--inputs 64]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import moduli as mo


def rows(units: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian rows; a quarter are copies, a tenth have the other sign."""
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((units, inputs)), rng.standard_normal(units)
    quarter = units // 4
    w[2 * quarter : 3 * quarter], b[2 * quarter : 3 * quarter] = w[:quarter], b[:quarter]
    w[: units // 10] *= -1
    b[: units // 10] *= -1
    return w, b


def seconds(*calls: Callable[[], Any]) -> list[float]:
    """Median seconds of each of several calls, made in turn three times."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(3):
        for call, times in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def peak() -> float:
    """Highest resident memory of this process in GiB (Linux; getrusage would count the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def memory(units: int, inputs: int) -> None:
    """In a process of its own: peak memory of building the network and its rank, over the input's
    size.
    """
    mo.rank(mo.Network.mlp(np.ones((1, 1)), [0.0], [[1.0]], [0.0]))
    base = peak()
    w, b = rows(units, inputs)
    size = (w.nbytes + b.nbytes) / 2**30
    net = mo.Network.mlp(w, b, np.ones((1, units)), [0.0])
    del w, b
    mo.rank(net)
    print(f"{(peak() - base) / size:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=1_000_000)
    parser.add_argument("--inputs", type=int, default=64)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        return memory(args.units, args.inputs)
    w, b = rows(args.units, args.inputs)
    a = np.random.default_rng(1).standard_normal((1, args.units))
    net = mo.Network.mlp(w, b, a, [0.0])
    stacked, small, answer = np.column_stack([w, b]), mo.compress(net), mo.rank(net)
    rank, unique = seconds(lambda: mo.rank(net), lambda: np.unique(stacked, axis=0))
    compress, check = seconds(lambda: mo.compress(net), small.check)
    command = [
        sys.executable,
        __file__,
        "--memory",
        "--units",
        str(args.units),
        "--inputs",
        str(args.inputs),
    ]
    times = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    print(f"{args.units} units, {args.inputs} inputs: {answer.statement}\n")
    print("| what | measured | goal |\n|---|---|---|")
    print(f"| rank | {rank:.2f} s | |\n| numpy.unique(axis=0) | {unique:.2f} s | |")
    print(f"| rank / unique | {rank / unique:.2f} | 0.3 |\n| peak memory / input | {times} | 3 |")
    print(f"| compress | {compress:.2f} s | |\n| check / compress | {check / compress:.2f} | 1 |")
    return None


if __name__ == "__main__":
    main()
