"""Runs in the setting of the theorem of Wan et al. (2023), as a summary of it has it: one hidden
layer of a smooth activation, outputs divided by the width, the second layer fixed, every unit moved
by width times the gradient of the loss.

f(x) = 1/n sum_i c_i tanh(theta_i . x), c_i fixed, theta_i <- theta_i - lr n dL/dtheta_i
+ sigma lr^(1/alpha) X_i. The statement that is measured: at a fixed time t = lr * steps, how much of
the squared norm do the smaller rows hold, as n grows? Beside it stand what it does not speak of (the
change of the function, the score) and the bound of `guaranteed_share` for a drift that is fixed
beforehand at the size that this run had. Of the run itself that bound is no proof: its drift comes
from the same draws as its noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from moduli.common.result import Result
from moduli.kernel.errors import ArgumentError, Asked, ShapeError
from moduli.kernel.exact_numbers import above

from .guarantees import guaranteed_share
from .measures import ACCURACY, ERROR, are_classes, score
from .noise import check, stable_noise, theorem_step
from .pruning import relative_change

Array = np.ndarray[Any, np.dtype[np.float64]]
OUTER = 5.0  # size of the fixed outgoing weights
HUGE = 1e100  # a row beyond that is no number of interest, and its square may be none
ROWS = 4096  # units at a time, so that memory does not grow with samples times units


@dataclass(frozen=True, eq=False, repr=False)
class MeanFieldRun(Result):
    """A run, and what is left of it with the larger rows alone.

    Attributes:
        width, alpha, lr, steps, kept: of the run. error: relative squared error of the parameters
            when the share `kept` of the rows is kept. change: of the outputs, relative, root mean
            square, about their means. before, after: accuracy (classes) or mean square error
            (values), with all rows and with those kept; measure says which. drift: the largest norm
            of a row less its noise, in units of sigma time^(1/alpha). bound: what `guaranteed_share`
            certifies (95 %) for a drift fixed at that size beforehand; not proved of this run, whose
            drift depends on its noise. theta: [width, in]; noise: the sum of its noise.
    """

    width: int
    alpha: float
    lr: float
    steps: int
    kept: float
    error: float
    change: float
    before: float
    after: float
    measure: str
    drift: float
    bound: float
    theta: Array
    noise: Array
    kind: ClassVar[str] = "mean_field_run"

    @property
    def theorem_lr(self) -> float:
        """The step that the theorem asks for; from a summary, not checked."""
        return theorem_step(self.width, self.alpha)

    @property
    def statement(self) -> str:
        return (
            f"{self.width} units at time {self.lr * self.steps:g}: keeping {100 * self.kept:g} % loses {self.error:.4g} of the "
            f"squared norm and {self.change:.3g} of the function"
        )

    def facts(self) -> list[tuple[str, str]]:
        return [
            ("relative squared error", f"{self.error:.4g}"),
            ("... certified, were such a drift fixed beforehand", f"<= {above(self.bound, 4)}"),
            ("change of the function", f"{self.change:.4g}"),
            (f"{self.measure} before, after", f"{self.before:.4g}, {self.after:.4g}"),
            ("lr, and that of the theorem", f"{self.lr:g}, at most {self.theorem_lr:.2g}"),
        ]

    def data(self) -> dict[str, Any]:
        names = "width alpha lr steps kept error change before after measure drift bound theorem_lr"
        return {name: getattr(self, name) for name in names.split()}


def mean_field_run(
    x: Any,
    y: Any,
    width: int,
    *,
    alpha: float,
    sigma: float = 0.05,
    kind: str = "isotropic",
    time: float = 2.0,
    lr: float = 0.04,
    batch: int = 100,
    kept: float = 0.5,
    test: tuple[Any, Any] | None = None,
    seed: int = 0,
) -> MeanFieldRun:
    """Train in the mean-field setting up to a time and keep the larger rows.

    Args:
        x: [samples, in]. y: classes from 0 on (cross-entropy) or values (mean square error).
            width: hidden units. alpha, sigma, kind: of the noise. time: lr times steps. batch: size
            of mini-batches. kept: share of the rows. test: inputs and targets to measure on,
            otherwise the first. seed: of start, outgoing signs, batches and noise.

    Returns:
        A `MeanFieldRun`.

    Raises:
        ValueError: settings that are none, or a run that diverged.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((200, 4)); y = (x[:, 0] > 0).astype(int)
    >>> run = mean_field_run(x, y, 500, alpha=1.75)
    >>> run.before > 0.8, 0 < run.error < run.bound
    (True, True)
    """
    check(alpha, kind)
    points, targets, classes = np.asarray(x, dtype=np.float64), np.asarray(y), False
    if points.ndim != 2 or len(points) != len(targets) or not len(points):
        raise ShapeError(f"inputs have shape {points.shape} and targets {targets.shape}")
    for name, value in (("lr", lr), ("time", time), ("sigma", sigma)):
        if not 0 < value < math.inf:
            raise ArgumentError(Asked(name, value), ": a positive number is needed")
    if not 0 <= kept <= 1:
        raise ArgumentError(Asked("kept", kept), ": a share from 0 to 1")
    if width < 1:
        raise ArgumentError(Asked("width", width), ": at least one unit")
    if are_classes(targets):
        if targets.min() < 0:
            raise ArgumentError(
                Asked("y"), f"holds {targets.min()}; classes are numbered from 0 on"
            )
        classes, targets = True, np.eye(int(targets.max()) + 1)[targets.astype(np.intp)]
    targets = targets.reshape(len(points), -1).astype(np.float64)
    inputs, outputs = points.shape[1], targets.shape[1]
    start, batches, noisy = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)
    )
    theta = start.uniform(-(inputs**-0.5), inputs**-0.5, (width, inputs))
    outer = OUTER * start.choice([-1.0, 1.0], (outputs, width))
    noise, steps = np.zeros_like(theta), max(1, round(time / lr))
    scale = sigma * lr ** (1 / alpha)
    for _ in range(steps):
        pick = batches.integers(0, len(points), batch)
        hidden = np.tanh(points[pick] @ theta.T)
        wrong = _probabilities(hidden @ outer.T / width, classes) - targets[pick]
        wrong *= (1.0 if classes else 2.0 / outputs) / batch
        # n dL/dtheta: the width cancels against that of the outputs
        theta -= lr * ((wrong @ outer) * (1 - np.square(hidden))).T @ points[pick]
        more = scale * stable_noise(theta.shape, alpha, kind=kind, seed=noisy)
        theta += more
        noise += more
        if not np.abs(theta).max() < HUGE:
            raise ValueError("the run diverged; lower lr, sigma or time")
    return _measured(
        theta, noise, outer, test or (x, y), classes,
        {"alpha": alpha, "lr": lr, "steps": steps, "kept": kept, "sigma": sigma, "kind": kind},
    )  # fmt: skip


def _probabilities(outputs: Array, classes: bool) -> Array:
    if not classes:
        return outputs
    from scipy.special import softmax

    return np.asarray(softmax(outputs, axis=1))


def _measured(
    theta: Array, noise: Array, outer: Array, test: Any, classes: bool, of: dict[str, Any]
) -> MeanFieldRun:
    width = len(theta)
    squares = np.square(theta).sum(axis=1)
    stay = np.argsort(-squares, kind="stable")[: math.floor(of["kept"] * width)]
    gone = np.setdiff1d(np.arange(width), stay)
    x, y = np.asarray(test[0], dtype=np.float64), np.asarray(test[1])
    whole, rest = (_outputs(x, theta, outer, rows) for rows in (np.arange(width), stay))
    unit = of["sigma"] * (of["lr"] * of["steps"]) ** (1 / of["alpha"])
    drift = float(np.linalg.norm(theta - noise, axis=1).max()) / unit
    asked = {"kind": of["kind"], "kept": of["kept"], "drift": drift}
    return MeanFieldRun(
        "estimated", width, of["alpha"], of["lr"], of["steps"], of["kept"],
        float(squares[gone].sum() / squares.sum()), relative_change(whole, rest),
        score(whole, y), score(rest, y),
        ACCURACY if classes else ERROR, drift,
        float(guaranteed_share(theta.shape, of["alpha"], **asked)), theta, noise,
    )  # fmt: skip


def _outputs(x: Array, theta: Array, outer: Array, units: Any) -> Array:
    """Of the network with some of its units, still divided by the width."""
    total = np.zeros((len(x), len(outer)))
    for at in range(0, len(units), ROWS):
        some = units[at : at + ROWS]
        total += np.tanh(x @ theta[some].T) @ outer[:, some].T
    return total / len(theta)
