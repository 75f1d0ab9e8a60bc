"""How fast many particles with heavy-tailed noise become independent, and the strong error of the
Euler scheme.

python benchmarks/rates.py      writes benchmarks/rates.svg

dX_i = (-X_i + 2 tanh(m + 1/2)) dt + dL_i, m the mean of cos X_j, t = 1, L symmetric alpha-stable.
Chaos: the mean distance to a copy with the same noise in the limit of infinitely many particles
falls like n^(-1/2). Euler: like the step. Mean absolute errors: with alpha < 2 there are no second
moments.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moduli import stable_noise
from moduli.common.figures import BLUE, GREY, ORANGE, axes, save

STEPS, LIMIT = 64, 10**6
COLOURS = {1.5: ORANGE, 1.75: BLUE, 1.9: GREY}


def drift(x: np.ndarray, mean: float) -> np.ndarray:
    return -x + 2 * np.tanh(mean + 0.5)


def limit(alpha: float, seed: int) -> np.ndarray:
    """The mean of cos X at each step, from very many particles."""
    rng, dt = np.random.default_rng(seed), 1 / STEPS
    x, means = rng.standard_normal(LIMIT), []
    for _ in range(STEPS):
        means.append(float(np.cos(x).mean()))
        x = (
            x
            + drift(x, means[-1]) * dt
            + dt ** (1 / alpha) * stable_noise((LIMIT,), alpha, seed=rng)
        )
    return np.array(means)


def chaos(alpha: float, means: np.ndarray, n: int, seed: int) -> float:
    rng, dt = np.random.default_rng(seed), 1 / STEPS
    x = rng.standard_normal(n)
    y = x.copy()
    for mean in means:
        noise = dt ** (1 / alpha) * stable_noise((n,), alpha, seed=rng)
        x, y = x + drift(x, float(np.cos(x).mean())) * dt + noise, y + drift(y, mean) * dt + noise
    return float(np.abs(x - y).mean())


def euler(
    alpha: float, levels: list[int], seed: int, n: int = 2000, finest: int = 1024
) -> list[float]:
    """Mean error of 2^k steps against 1024, increments summed."""
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(n)
    noise = (1 / finest) ** (1 / alpha) * stable_noise((n, finest), alpha, seed=rng)

    def path(steps: int) -> np.ndarray:
        x, summed = start.copy(), noise.reshape(n, steps, -1).sum(axis=2)
        for k in range(steps):
            x = x + drift(x, float(np.cos(x).mean())) / steps + summed[:, k]
        return x

    exact = path(finest)
    return [float(np.abs(path(2**k) - exact).mean()) for k in levels]


def fitted(x: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """Slope in logarithms over seeds, and two standard errors."""
    slopes = [np.polyfit(np.log(x), np.log(row), 1)[0] for row in rows]
    return float(np.mean(slopes)), float(2 * np.std(slopes, ddof=1) / np.sqrt(len(slopes)))


def main() -> None:
    left, right = axes(count=2)
    sizes, levels = [100, 300, 1000, 3000, 10_000], [1, 2, 3, 4, 5]
    print("| alpha | chaos: exponent of n | Euler: order |\n|---|---|---|")
    for alpha, colour in COLOURS.items():
        means = limit(alpha, 0)
        runs = np.array(
            [
                [np.mean([chaos(alpha, means, n, 1000 * s + k) for k in range(10)]) for n in sizes]
                for s in range(8)
            ]
        )
        slope, error = fitted(np.array(sizes, float), runs)
        steps = np.array([euler(alpha, levels, s) for s in range(8)])
        order, spread = fitted(0.5 ** np.array(levels), steps)
        print(f"| {alpha} | {slope:.3f} +- {error:.3f} | {order:.3f} +- {spread:.3f} |", flush=True)
        style = {"color": colour, "marker": "o", "ms": 3, "lw": 1.4, "label": f"alpha {alpha}"}
        left.loglog(sizes, runs.mean(axis=0), **style)
        right.loglog(0.5 ** np.array(levels), steps.mean(axis=0), **style)
    left.set(xlabel="particles", ylabel="mean distance to the limit copy")
    right.set(xlabel="step", ylabel="mean error at t = 1")
    left.legend(frameon=False)
    save(left, Path(__file__).with_name("rates.svg"))


if __name__ == "__main__":
    main()
