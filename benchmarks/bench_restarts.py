"""Students beside the best of many plain restarts, and whether more units are ever worse.

python benchmarks/bench_restarts.py [restarts] [problem ...]      (60 restarts of all fifteen by default)

Every problem is a random target with one hidden layer under N(0, I). A plain restart is a random
student of the target's size, taken to the end by L-BFGS; the student is that of `compress` with its
settings, which finds those with fewer units on the way. The ratio is of mean square errors: above 1,
the best restart was better.
"""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from typing import NamedTuple

import numpy as np

import moduli as mo
from moduli.compression.average.closed_form import ShallowNetwork
from moduli.compression.average.fit import Goal, Population, descend, project
from moduli.compression.average.gaussian_expectations import UnitLaw, Whitening


class Problem(NamedTuple):
    """Targets have `of` units with standard normal rows over `spread`."""

    activation: str
    of: int
    inputs: int
    outputs: int
    units: int
    biases: bool
    spread: float = 1.0


PROBLEMS = (
    Problem("relu", 30, 4, 1, 3, True),
    Problem("tanh", 40, 5, 2, 4, True, 5**0.5),
    Problem("erf", 60, 6, 1, 5, False),
    Problem("gelu", 30, 3, 1, 4, True, 3**0.5),
    Problem("silu", 50, 5, 1, 6, True),
    Problem("softplus", 40, 4, 2, 3, False, 2.0),
    Problem("sigmoid", 30, 5, 1, 4, True),
    Problem("relu", 100, 10, 1, 5, True, 10**0.5),
    Problem("erf", 12, 6, 1, 5, False),
    Problem("gelu", 60, 8, 1, 6, True, 8**0.5),
    Problem("sin", 20, 3, 1, 4, True),
    Problem("leaky_relu(0.1)", 40, 6, 2, 6, False, 6**0.5),
    Problem("tanh", 80, 4, 1, 8, True),
    Problem("relu", 24, 8, 3, 8, True, 8**0.5),
    Problem("abs", 40, 4, 1, 5, False),
)


def network(problem: Problem, seed: int) -> mo.Network:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((problem.of, problem.inputs)) / problem.spread
    outer = rng.standard_normal((problem.outputs, problem.of))
    hidden = rng.standard_normal(problem.of) * problem.biases
    return mo.Network.mlp(
        rows, hidden, outer, np.zeros(problem.outputs), activation=problem.activation
    )


def restarts(goal: Goal, units: int, count: int) -> np.ndarray:
    """Mean square errors reached from random starts: ``[count]``."""
    rng = np.random.default_rng(1)
    width, spread = goal.units.row.shape[1], goal.units.mean.std()
    size = float(np.sqrt(goal.units.variance.mean() / width))
    found = []
    for _ in range(count):
        means = spread * rng.standard_normal(units)
        start = UnitLaw(means, size * rng.standard_normal((units, width)))
        found.append(project(goal, descend(goal, goal.admissible(start), 300)).square)
    return np.array(found)


def main(count: int, chosen: list[int]) -> None:
    names = (
        "problem", "units", "biases", "share lost", "ratio to the best restart", "within 1 %",
        "CPU s: students", "restarts", "worse with a unit more",
    )  # fmt: skip
    print("|", *(f"{name} |" for name in names))
    print("|" + "---|" * len(names))
    worst = 0.0
    for number in chosen:
        problem = PROBLEMS[number]
        net, law = network(problem, number), mo.Gaussian()
        target = ShallowNetwork.of(net, Whitening.of(law, problem.inputs))
        goal = Population(target, biases=problem.biases)
        start = time.process_time()
        reached = restarts(goal, problem.units, count)
        between = time.process_time()
        curve = mo.error_curve(
            net, on=law, units=range(1, problem.units + 1), biases=problem.biases
        )
        seconds = time.process_time() - between
        best = float(reached.min())
        ratio = curve.students[-1].absolute ** 2 / best
        worst = max(worst, ratio)
        errors = [e.absolute for e in curve.students]
        rises = sum(b > a * (1 + 1e-9) for a, b in pairwise(errors))
        kind = f"{problem.activation} {problem.inputs}-{problem.of}-{problem.outputs}"
        cells = (
            kind, problem.units, "yes" if problem.biases else "no", f"{best / goal.variance:.4g}",
            f"{ratio:.3f}", f"{int((reached <= 1.01 * best).sum())} of {count}",
            f"{seconds:.1f}", f"{between - start:.1f}", f"{rises} of {problem.units - 1}",
        )  # fmt: skip
        print("|", *(f"{cell} |" for cell in cells), flush=True)
    print(f"\nlargest ratio {worst:.3f}")


if __name__ == "__main__":
    given = [int(x) for x in sys.argv[1:]]
    main(given[0] if given else 60, given[1:] or list(range(len(PROBLEMS))))
