"""What do symmetric copies buy for optimisation? Predicted and observed success of random starts.

python benchmarks/starts.py            writes benchmarks/starts.svg and prints the table

A teacher of d tanh units has |G| = 2^d d! copies with the same function. If training from any start
within r of a copy ends there, a random start ends at some copy with probability at least |G| P(ball
of radius r), as long as the balls are disjoint. Measured here: the largest r below half the
separation for which 300 starts in the ball all returned (an estimate), that bound, the same without
the factor |G|, and how many of the random starts reached any copy; and whether they reached all
copies alike.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

from moduli.capacity.covering_numbers import log_hit_probability, row_distance
from moduli.common.figures import BLUE, GREY, ORANGE, axes, save
from moduli.equivalence.group import SymmetricPart

POINTS, STEPS = 64, 300


def teacher(d: int, seed: int) -> np.ndarray:
    """[3, d]: incoming weights, biases, outgoing weights, well apart."""
    rng = np.random.default_rng(seed)
    while True:
        theta = rng.uniform(0.7, 2.0, (3, d)) * rng.choice([-1.0, 1.0], (3, d))
        if row_distance(theta[:1].T, theta[1], signs=True) > 0.5:
            return theta


def outputs(theta: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    h = np.tanh(theta[..., 0, None, :] * x[:, None] + theta[..., 1, None, :])
    return (h * theta[..., 2, None, :]).sum(axis=-1), h


def train(start: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Levenberg and Marquardt, all starts at once: permutations and signs of units commute with it."""
    theta, damping = start.copy(), np.full(len(start), 1.0)
    loss = np.square(outputs(theta, x)[0] - y).sum(axis=1)
    for _ in range(STEPS):
        f, h = outputs(theta, x)
        back = theta[:, 2, None, :] * (1 - h * h)
        jacobian = np.concatenate([back * x[:, None], back, h], axis=2)
        normal = np.swapaxes(jacobian, 1, 2) @ jacobian
        normal += damping[:, None, None] * np.eye(normal.shape[1])
        step = np.linalg.solve(normal, (np.swapaxes(jacobian, 1, 2) @ (f - y)[..., None]))[..., 0]
        new = theta - step.reshape(theta.shape)
        after = np.square(outputs(new, x)[0] - y).sum(axis=1)
        better = after < loss
        theta, loss = np.where(better[:, None, None], new, theta), np.where(better, after, loss)
        damping = np.clip(damping * np.where(better, 0.3, 4.0), 1e-12, 1e12)
    return theta


def copy_of(theta: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """For each start the number of the copy of the teacher it reached, -1 for none."""
    from itertools import permutations, product

    d, found = goal.shape[1], np.full(len(theta), -1)
    for k, (order, sign) in enumerate(
        product(permutations(range(d)), product([1.0, -1.0], repeat=d))
    ):
        near = np.abs(theta - goal[:, list(order)] * np.array(sign)).max(axis=(1, 2)) < 0.01
        found[near] = k
    return found


def main(starts: int) -> None:
    x = np.linspace(-3, 3, POINTS)
    table, spread = [], None
    for d in (1, 2, 3, 4):
        goal = teacher(d, d)
        y = outputs(goal, x)[0]
        rng = np.random.default_rng(0)
        half = row_distance(goal[:1].T, goal[1], signs=True) / 2
        order = SymmetricPart(d, signs=True).log_order
        radius = 0.0
        for r in np.linspace(0.1, 0.99, 10) * half:
            around = goal + rng.uniform(-r, r, (300, 3, d))
            if not (copy_of(train(around, x, y), goal) == 0).all():
                break
            radius = float(r)
        one = log_hit_probability(goal, radius) if radius else -math.inf
        found = copy_of(train(rng.standard_normal((starts, 3, d)), x, y), goal)
        observed = float((found >= 0).mean())
        counts = np.bincount(found[found >= 0], minlength=round(math.exp(order)))
        mean = counts.mean()
        chi = float(((counts - mean) ** 2 / mean).sum()) if mean else math.nan
        table.append(
            (d, round(math.exp(order)), radius, math.exp(one), math.exp(one + order), observed, chi)
        )
        spread = counts if d == 3 else spread
        _, copies, _, single, union, _, _ = table[-1]
        degrees = len(counts) - 1
        print(
            f"| {d} | {copies} | {radius:.3f} | {single:.2g} | {union:.2g} | {observed:.3f} | {chi:.1f} / {degrees} |"
        )
    picture(table, spread)


def picture(table: list[tuple[float, ...]], spread: np.ndarray) -> None:
    left, right = axes(count=2)
    d, group, _, one, union, observed, _ = map(list, zip(*table, strict=True))
    left.semilogy(d, observed, color=BLUE, lw=1.6, marker="o", ms=4, label="reached some copy")
    left.semilogy(d, union, color=ORANGE, lw=1.4, marker="o", ms=3, label="bound, all copies")
    left.semilogy(d, one, color=GREY, lw=1.2, ls="--", marker="o", ms=3, label="bound, one copy")
    left.set(xlabel="units of the teacher", ylabel="share of random starts", xticks=d)
    left.legend(frameon=False)
    right.bar(range(1, len(spread) + 1), spread, color=BLUE, width=0.8)
    right.axhline(spread.mean(), color=GREY, lw=0.8, ls=":")
    right.set(
        xlabel=f"which of the {group[2]} copies of the teacher with 3 units",
        ylabel="starts that ended there",
    )
    save(left, Path(__file__).with_name("starts.svg"))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
