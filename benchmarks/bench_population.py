"""Population compression beside simpler methods on the same data; kernels, gradients and large
sizes.

python benchmarks/bench_population.py [random] [digits] [regression] [models] [speed] [size]      (all by default)
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import moduli as mo
from moduli.compression.average.closed_form import ShallowNetwork
from moduli.compression.average.fit import (
    Empirical,
    Fit,
    Goal,
    Population,
    descend,
    fit,
    kmeans,
    largest,
    project,
    pursuit,
)
from moduli.compression.average.gaussian_expectations import UnitLaw, Whitening, gram, pulled

SHARED = Path(os.environ.get("MODULI_SHARED", Path(__file__).parents[1] / ".." / "shared"))
Array = np.ndarray[Any, Any]


def table(*names: str) -> None:
    print("\n|", *(f"{name} |" for name in names))
    print("|" + "---|" * len(names), flush=True)


def line(*cells: object) -> None:
    shown = (f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells)
    print("|", *(f"{cell} |" for cell in shown), flush=True)


def some(goal: Goal, count: int) -> UnitLaw:
    return goal.units[np.sort(np.random.default_rng(2).permutation(len(goal.units))[:count])]


def random_targets() -> None:
    """1000 units, 50 standard normal inputs, no biases anywhere: error over E f^2, as the paper has
    no output bias.
    """
    table(
        "target",
        "M",
        "random",
        "magnitude",
        "k-means",
        "pursuit",
        "student",
        "student with biases",
        "linear",
        "seconds",
    )
    for kind, sizes in (
        ("relu+", (10, 25, 50, 100)),
        ("relu", (10, 50, 200)),
        ("erf", (10, 100)),
        ("tanh", (10, 100)),
    ):
        rng = np.random.default_rng(0)
        row = (
            rng.standard_normal((1000, 50)) / 50**0.5 * {"erf": 2**0.5, "tanh": 2.0}.get(kind, 1.0)
        )
        outer = (
            rng.uniform(0.5, 1.5, (1000, 1)) if kind == "relu+" else rng.standard_normal((1000, 1))
        ) / 1000
        target = ShallowNetwork(
            mo.Activation(kind.rstrip("+")), UnitLaw(np.zeros(1000), row), outer, np.zeros(1)
        )
        goal, free = Population(target, biases=False), Population(target)
        for m in sizes:
            start = time.perf_counter()
            best = fit(free, m, np.random.default_rng(0)).square / free.variance
            seconds = time.perf_counter() - start
            simple = [
                project(goal, make).square
                for make in (
                    some(goal, m),
                    largest(goal, m, np.random.default_rng(0)),
                    kmeans(goal, m, np.random.default_rng(0)),
                )
            ]
            bare = fit(goal, m, np.random.default_rng(0)).square
            errors = [*simple, pursuit(goal, m)[1][-1], bare]
            line(
                kind,
                m,
                *(e / goal.variance for e in errors),
                best * free.variance / goal.variance,
                goal.linear() / goal.variance,
                round(seconds, 1),
            )


def trained(kind: str, x: Array, y: Array, hidden: int, epochs: int, classes: bool) -> mo.Network:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)

    class Erf(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.erf(z)

    act = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "erf": Erf}[kind]()
    outputs = int(y.max()) + 1 if classes else y.shape[1]
    model = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], hidden), act, torch.nn.Linear(hidden, outputs)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loss = torch.nn.functional.cross_entropy if classes else torch.nn.functional.mse_loss
    inputs, labels = (
        torch.tensor(x, dtype=torch.float32),
        torch.tensor(y) if classes else torch.tensor(y, dtype=torch.float32),
    )
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(128):
            optimizer.zero_grad()
            loss(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
    first, last = model[0], model[2]
    return mo.Network.mlp(first.weight, first.bias, last.weight, last.bias, activation=kind)


def students(
    name: str, net: mo.Network, x: Array, held: Array, sizes: tuple[int, ...], labels: Array | None
) -> None:
    """Held-out error (and accuracy) of students made with the Gaussian fitted to x, and with x
    itself.
    """
    law = mo.Gaussian(x.mean(axis=0), np.cov(x.T) + 1e-4 * np.eye(x.shape[1]))
    whitening = Whitening.of(law, x.shape[1])
    target = ShallowNetwork.of(net, whitening)
    gauss = Population(target)
    data = Empirical(
        whitening.points(x), net.logits(x), target.activation, target.units, target.outer
    )
    z, truth = whitening.points(held), net.logits(held)

    def shown(goal: Goal, found: Fit) -> str:
        slope, bias = goal.affine(found)
        y = (
            net.activations[0](z @ found.units.row.T + found.units.mean) @ found.outer
            + z @ slope.T
            + bias
        )
        return scored(y, truth, labels)

    for m in sizes:
        rng = np.random.default_rng(0)
        start = time.perf_counter()
        g = fit(gauss, m, np.random.default_rng(0))
        mid = time.perf_counter()
        e = fit(data, m, np.random.default_rng(0), [("Gaussian", g.units)])
        end = time.perf_counter()
        cheap = [
            shown(data, project(data, make))
            for make in (
                some(data, m),
                largest(data, m, rng),
                kmeans(data, m, np.random.default_rng(0)),
            )
        ]
        picked = shown(gauss, project(gauss, gauss.units[pursuit(gauss, m)[0]]))
        line(
            name,
            m,
            *cheap,
            picked,
            shown(gauss, g),
            f"{g.square / gauss.variance:.2g}",
            shown(data, e),
            round(mid - start, 1),
            round(end - mid, 1),
        )
    basis = np.column_stack([np.ones(len(x)), x])
    y = (
        np.column_stack([np.ones(len(held)), held])
        @ np.linalg.lstsq(basis, net.logits(x), rcond=None)[0]
    )
    own = f"; the network itself {scored(truth, truth, labels)}" if labels is not None else ""
    line(name, "linear map", scored(y, truth, labels) + own)


def scored(y: Array, truth: Array, labels: Array | None) -> str:
    error = np.square(y - truth).sum() / np.square(truth - truth.mean(axis=0)).sum()
    return f"{error:.2g}" + (
        f" / {(y.argmax(axis=1) == labels).mean():.3f}" if labels is not None else ""
    )


HEAD = (
    "network",
    "M",
    "random",
    "magnitude",
    "k-means",
    "pursuit, Gaussian",
    "student, Gaussian",
    "its own estimate",
    "student, samples",
    "s",
    "s",
)


def digits() -> None:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, order = x / 16.0, np.random.default_rng(0).permutation(1797)
    train, test = order[:1200], order[1200:]
    table(*HEAD)
    for kind, sizes in (("relu", (8, 16, 32, 64)), ("tanh", (16,)), ("erf", (16,))):
        net = trained(kind, x[train], y[train], 512, 60, True)
        students(kind, net, x[train], x[test], sizes, y[test])


def regression() -> None:
    """16 correlated normal inputs, three outputs that no linear map explains."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((16, 16)) / 4
    x = rng.standard_normal((12_000, 16)) @ mix.T
    a, b = rng.standard_normal((16, 6)) / 2, rng.standard_normal((6, 3))
    y = np.cos(2 * x @ a) @ b + np.abs(x @ a[:, ::-1]) @ b
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    table(*HEAD)
    for kind, sizes in (("relu", (16, 32, 64, 128)), ("erf", (16, 64))):
        net = trained(kind, x[:8000], y[:8000], 512, 60, False)
        students(kind, net, x[:8000], x[8000:], sizes, None)


def models() -> None:
    table(
        "model", "on", "units", "student", "held out", "k-means", "magnitude", "linear", "seconds"
    )
    rng = np.random.default_rng(0)
    for name in ("arch_docking", "mnistfc_256x2", "safenlp_ruarobot"):
        net = mo.load(SHARED / "models" / f"{name}.onnx")
        if name == "mnistfc_256x2":
            with np.load(SHARED / "data" / "mnist.npz") as file:
                x = (
                    next(file[k] for k in file.files if file[k].ndim >= 2).reshape(-1, 784)[:6000]
                    / 255.0
                )
        else:
            import json

            box = json.loads((SHARED / "models" / "boxes.json").read_text())[f"{name}.onnx"]
            low, high = np.array(box["lo"], dtype=float), np.array(box["hi"], dtype=float)
            x = rng.uniform(low, high, (6000, net.widths[0]))
        x, held = x[:4000], x[4000:]
        spread = net.logits(held).var(axis=0).sum()
        for on in (mo.Samples(x), mo.Gaussian.of(x)):
            start = time.perf_counter()
            curve = mo.error_curve(net, on=on, units=[net.units // k for k in (16, 4)])
            seconds = time.perf_counter() - start
            for k, m in enumerate(curve.units):
                errors = [
                    getattr(curve, column)[k].unexplained
                    for column in ("students", "kmeans", "magnitude")
                ]
                gap = (
                    np.square(curve.networks[k].logits(held) - net.logits(held)).sum(axis=1).mean()
                    / spread
                )
                each = round(seconds / len(curve.units), 1)
                line(
                    name,
                    type(on).__name__,
                    m,
                    errors[0],
                    gap,
                    *errors[1:],
                    curve.linear.unexplained,
                    each,
                )


def speed() -> None:
    table("activation", "biases", "inputs", "ns / pair", "ns / pair, gradient", "numpy exp, ns")
    for inputs in (50, 1000):
        for name in ("relu", "erf", "gelu", "tanh"):
            for bias in (0.0, 1.0):
                rng, s, square = np.random.default_rng(0), mo.Activation(name), np.ones((600, 600))
                shape = (600, inputs)
                one, two = (
                    UnitLaw(
                        bias * rng.standard_normal(600), rng.standard_normal(shape) / inputs**0.5
                    )
                    for _ in "ab"
                )
                times = [
                    _best(gram, s, one, s, two, nodes=5),
                    _best(pulled, s, one, two, square, 5),
                    _best(np.exp, square),
                ]
                line(
                    name, "yes" if bias else "no", inputs, *(round(t / 600**2 * 1e9) for t in times)
                )


def _best(call: Any, *args: Any, **options: Any) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call(*args, **options)
        times.append(time.perf_counter() - start)
    return min(times)


def size() -> None:
    """10^4 units to 10^3, 10^3 inputs, ReLU without biases."""
    rng = np.random.default_rng(0)
    units = UnitLaw(np.zeros(10_000), rng.standard_normal((10_000, 1000)) / 1000**0.5)
    target = ShallowNetwork(
        mo.Activation("relu"), units, rng.standard_normal((10_000, 1)) / 100, np.zeros(1)
    )
    start = time.perf_counter()
    goal = Population(target, biases=False)
    setup = time.perf_counter()
    student = UnitLaw(np.zeros(1000), units.row[:1000])
    before = project(goal, student).square
    mid = time.perf_counter()
    after = project(goal, descend(goal, student, 20)).square
    end = time.perf_counter()
    table("setup, s", "refit, s", "20 iterations, s", "error before", "after", "peak memory, MB")
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    times = (round(t, 1) for t in (setup - start, mid - setup, end - mid))
    line(*times, before / goal.variance, after / goal.variance, peak)


PARTS = {
    "random": random_targets,
    "digits": digits,
    "regression": regression,
    "models": models,
    "speed": speed,
    "size": size,
}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
