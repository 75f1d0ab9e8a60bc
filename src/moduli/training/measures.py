"""What stands beside a prunable share: scores with and without the units that hold little, and with
many gone by norm, by contribution and at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from moduli.kernel.network import Network

from .pruning import (
    blocks,
    contributions,
    keep,
    largest_share,
    prunable_share,
    relative_change,
    removable,
    visible_rows,
)

Array = np.ndarray[Any, np.dtype[np.float64]]
ACCURACY, ERROR = "accuracy", "mean square error"
GONE = (0.8, 0.9, 0.95, 0.99)
ROWS = 10_000  # training rows that contributions are measured on


def are_classes(y: Any) -> bool:
    """Whether targets are numbers of classes."""
    return np.asarray(y).dtype.kind in "iub"


def measure(net: Network, x: Array, x_test: Array, y_test: Any, *, seed: int = 0) -> dict[str, Any]:
    """Everything that must stand beside a prunable share. Shares are of the first hidden layer,
    accuracies prune all layers.
    """
    seen = visible_rows(net, x)
    asked = choices(seen, contributions(net, x[:ROWS]), seed)
    return measured(
        seen[0], net.layers[0].weight, _outputs(net, x_test, asked), y_test,
        keep(net, asked[1]).parameters / net.parameters,
    )  # fmt: skip


def choices(seen: Sequence[Array], contributed: Sequence[Array], seed: int) -> list[list[Any]]:
    """Which units of each layer are kept: all; those beside the smallest that hold a tenth of the
    squared norm; the largest by norm, by contribution, and at random, when `GONE` of them go.

    Args:
        seen: the visible part of the rows of each layer. contributed: what its units contribute.
    """
    squares = [np.square(w).sum(axis=1) for w in seen]
    rng = np.random.default_rng(seed)
    orders = (
        [np.argsort(-s, kind="stable") for s in squares],
        [np.argsort(-s, kind="stable") for s in contributed],
        [rng.permutation(len(s)) for s in squares],
    )
    some = [np.argsort(s, kind="stable")[removable(s) :] for s in squares]
    asked = [[np.arange(len(s)) for s in squares], some]
    for order in orders:
        for share in GONE:
            asked.append([one[: len(one) - math.floor(share * len(one))] for one in order])
    return asked


def measured(
    seen: Array, rows: Array, outputs: Sequence[Array], y_test: Any, kept: float
) -> dict[str, Any]:
    """What stands beside a prunable share.

    Args:
        seen, rows: of the first hidden layer, their visible part and all of them. outputs: on the
            test data, for each of the `choices`. kept: share of the parameters that the second of them keeps.
    """
    whole, left, *others = outputs
    scores = [score(z, y_test) for z in others]
    found: dict[str, Any] = {
        "measure": ACCURACY if are_classes(y_test) else ERROR,
        "test": score(whole, y_test), "after": score(left, y_test),
        "change": relative_change(whole, left), "share": prunable_share(seen),
        "share_whole": prunable_share(rows), "largest": largest_share(seen), "parameters_kept": kept,
    }  # fmt: skip
    for number, name in enumerate(("norm", "contribution", "random")):
        found[f"at_{name}"] = scores[number * len(GONE) : (number + 1) * len(GONE)]
    return found


def _outputs(net: Network, x: Array, asked: Sequence[Sequence[Any]]) -> list[Array]:
    """Outputs with only some units, for each of many choices; in parts of the samples, so that
    memory does not grow with samples times width. What one hidden layer holds is computed once.
    """
    if len(net.layers) != 2:
        smaller = [keep(net, units) for units in asked]
        return [np.concatenate([one.logits(h) for h in blocks(net, x)]) for one in smaller]
    hidden, last = net.layers
    parts: list[list[Array]] = [[] for _ in asked]
    for some in blocks(net, x):
        h = hidden(some)
        for part, units in zip(parts, asked, strict=True):
            part.append(h[:, units[0]] @ last.weight[:, units[0]].T + last.bias)
    return [np.concatenate(part) for part in parts]


def score(z: Array, y: Any) -> float:
    """Accuracy for classes, mean square error (over all outputs) for values."""
    if are_classes(y):
        return float((z.argmax(axis=1) == y).mean())
    return float(np.square(z - y.reshape(len(z), -1)).mean())
