"""Canonical forms, equality, alignment, covering numbers: speed beside a bare assignment, recovery,
barriers.

python benchmarks/bench_symmetry.py [twins] [noise] [trained] [equal] [covering]      (all by default)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

import moduli as mo
from moduli.equivalence import alignment
from moduli.equivalence.group import Element, Spec, SymmetricPart

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared"
WIDE = (784, 512, 512, 512, 10)


def dense(rng: np.random.Generator, widths: tuple[int, ...], activation: str) -> mo.Network:
    arrays = []
    for n, m in pairwise(widths):
        arrays += [rng.standard_normal((m, n)) / np.sqrt(n), 0.1 * rng.standard_normal(m)]
    return mo.Network.mlp(*arrays, activation=activation)


def by_permutations(a: mo.Network, b: mo.Network) -> alignment.Alignment:
    """Weight matching as published: no signs, no scales."""
    spec = alignment.spec_of(b)
    plain = Spec({name: SymmetricPart(part.count) for name, part in spec.parts.items()}, spec.axes)
    found = alignment.match(plain, *(tensors(net) for net in (a, b)))
    hidden = b.widths[1:-1]
    element = Element(
        tuple(found[str(l)][0] for l in range(1, len(hidden) + 1)),
        tuple(np.ones(d) for d in hidden),
    )
    return alignment.Alignment("estimated", a, b, element, "weights")


def tensors(net: mo.Network) -> dict[str, np.ndarray]:
    return {f"W{l}": y.weight for l, y in enumerate(net.layers, 1)} | {
        f"b{l}": y.bias for l, y in enumerate(net.layers, 1)
    }


def align_and_move(a: mo.Network, b: mo.Network) -> alignment.Alignment:
    found = mo.align(a, b)
    assert found.network
    return found


def assignments(gains: list[np.ndarray]) -> None:
    for gain in gains:
        linear_sum_assignment(gain, maximize=True)


def timed(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    best, value = np.inf, None
    for _ in range(repeats):
        start = time.perf_counter()
        value = work()
        best = min(best, time.perf_counter() - start)
    return best, value


def twins() -> None:
    """Hidden by permutation, ReLU scaling, tanh signs."""
    print(
        "| twin of 784-512-512-512-10 | largest error | align, s | assignments, s | midpoint off | by permutations only |"
    )
    print("|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, WIDE[0]))
    for name in ("relu, scales 2^k", "relu, any scales", "tanh, signs", "gelu"):
        b = dense(rng, WIDE, name.split(",")[0])
        moved = mo.symmetries(b).random(1)
        if name.endswith("any scales"):
            moved = replace(
                moved, factor=tuple(np.exp(rng.standard_normal(len(f))) for f in moved.factor)
            )
        a = moved(b)
        gains: list[np.ndarray] = []
        assign = alignment._assign
        alignment._assign = lambda gain, seen=gains, assign=assign: (
            seen.append(gain),
            assign(gain),
        )[1]  # type: ignore
        mo.align(a, b)
        alignment._assign = assign
        seconds, found = timed(partial(align_and_move, a, b))
        bare, _ = timed(partial(assignments, gains))
        permuted = by_permutations(a, b).network

        def off(net: mo.Network, b: mo.Network = b) -> float:
            return float(
                np.linalg.norm(alignment._between(net, b, 0.5)(x) - b(x)) / np.linalg.norm(b(x))
            )

        error = np.abs(found.network.flat() - b.flat()).max()
        ours, theirs = off(found.network), off(permuted)
        print(
            f"| {name} | {error:.1g} | {seconds:.3f} | {bare:.3f} | {ours:.1g} | {theirs:.2g} |",
            flush=True,
        )


def noise() -> None:
    """Share of units matched, with noise relative to the standard deviation of the parameters."""
    levels = (0.1, 0.3, 1.0, 2.0)
    print(
        f"\n| units matched, % at noise | {' | '.join(map(str, levels))} |\n|---|"
        + "---|" * len(levels)
    )
    for widths in ((10, 64, 1), (10, 64, 64, 1), (784, 256, 256, 256, 10)):
        for activation in ("relu", "tanh"):
            row = []
            for level in levels:
                shares = []
                for seed in range(3):
                    rng = np.random.default_rng(seed)
                    b = dense(rng, widths, activation)
                    moved = mo.symmetries(b).random(seed)
                    layers = [
                        mo.Layer(
                            y.weight + level * y.weight.std() * rng.standard_normal(y.weight.shape),
                            y.bias + level * y.bias.std() * rng.standard_normal(y.bias.shape),
                            y.activation,
                        )
                        for y in b.layers
                    ]
                    found = mo.align(moved(b.with_layers(layers)), b).element
                    pairs = zip(moved.order, found.order, strict=True)
                    shares.append(
                        np.mean(np.concatenate([p[q] == np.arange(len(p)) for p, q in pairs]))
                    )
                row.append(f"{100 * np.mean(shares):.0f}")
            print(f"| {'-'.join(map(str, widths))} {activation} | {' | '.join(row)} |", flush=True)


def trained() -> None:
    """Two runs on 10 Gaussian classes in R^20; barriers in cross-entropy on held-out points."""
    import torch

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((10, 20)) * 0.7
    labels = rng.integers(0, 10, 6000)
    points = centres[labels] + rng.standard_normal((6000, 20)) * 0.8
    x, y = torch.tensor(points[:4000], dtype=torch.float32), torch.tensor(labels[:4000])
    held = mo.Samples(points[4000:])

    def run(width: int, activation: str, seed: int) -> mo.Network:
        torch.manual_seed(seed)
        act = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[activation]
        net = torch.nn.Sequential(
            torch.nn.Linear(20, width),
            act(),
            torch.nn.Linear(width, width),
            act(),
            torch.nn.Linear(width, 10),
        )
        optimizer = torch.optim.Adam(net.parameters(), 2e-3)
        for step in range(1500):
            pick = torch.randint(0, len(x), (128,))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[pick]), y[pick]).backward()
            optimizer.step()
            if step == 1100:
                optimizer.param_groups[0]["lr"] = 2e-4
        return mo.load(net)

    print(
        "\n| trained twice | as they are | permutations only | weights | activations |\n|---|---|---|---|---|"
    )
    for activation in ("relu", "tanh"):
        for width in (16, 64, 256):
            rows = []
            for seed in range(3):
                a, b = run(width, activation, 2 * seed), run(width, activation, 2 * seed + 1)
                targets = labels[4000:]
                by = mo.align(a, b).barrier(held, targets)
                permuted = by_permutations(a, b).barrier(held, targets)
                acts = mo.align(a, b, by="activations", on=held).barrier(held, targets)
                rows.append([by.before, permuted.height, by.height, acts.height])
            mean = np.mean(rows, axis=0)
            print(
                f"| {activation}, {width} | " + " | ".join(f"{v:.3f}" for v in mean) + " |",
                flush=True,
            )


def equal() -> None:
    """Equality by normal forms; signatures."""
    print("\n| question | s |\n|---|---|")
    rng = np.random.default_rng(0)
    for widths in ((5, 16, 16, 1), (784, 256, 256, 10), WIDE):
        for activation in ("relu", "tanh"):
            b = dense(rng, widths, activation)
            a = mo.symmetries(b).random(1)(b)
            seconds, answer = timed(lambda a=a, b=b: mo.equivalent(a, b))
            assert answer.status == "proved"
            print(
                f"| equal twins {'-'.join(map(str, widths))} {activation}, proved | {seconds:.4f} |",
                flush=True,
            )
    b = dense(rng, WIDE, "relu")
    print(
        f"| canonical {'-'.join(map(str, WIDE))} relu | {timed(lambda: mo.canonical(b))[0]:.3f} |"
    )
    print(f"| signature, the same | {timed(lambda: mo.signature(b))[0]:.3f} |")
    with np.load(SHARED / "models" / "rosetta3_model2_1000nets.npz") as z:
        arrays = [z[name].astype(np.float64) for name in ("W1", "b1", "W2", "b2")]
    nets = [mo.Network.mlp(*(part[k] for part in arrays)) for k in range(1000)]
    nets += [mo.symmetries(net).random(k)(net) for k, net in enumerate(nets)]
    seconds, marks = timed(lambda: {mo.signature(net) for net in nets}, 1)
    print(
        f"| signatures of 1000 Rosetta networks and a copy of each: {len(marks)} classes | {seconds:.2f} |"
    )


def covering() -> None:
    print("\n| covering number | ms |\n|---|---|")
    for widths in (
        [784, 300, 100, 10],
        [10, *[1000] * 5, 1],
        [5, 100_000, 1],
        [3, *[100_000] * 3, 2],
    ):
        answer = mo.complexity(widths)
        seconds, _ = timed(lambda answer=answer: answer.log_covering(), 20)
        print(f"| {'-'.join(map(str, widths))} | {1000 * seconds:.2f} |")


if __name__ == "__main__":
    parts = (twins, noise, trained, equal, covering)
    for part in parts:
        if len(sys.argv) == 1 or part.__name__ in sys.argv[1:]:
            part()
