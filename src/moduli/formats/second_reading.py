"""A second reading: what a reader made of a model is compared with the model itself, run by
somebody else.

A proof about a network that is not the file's is worth nothing, so nothing is claimed about a file
before an evaluator that shares no code with the reader (`onnx.reference`, torch) has agreed with
the network that was read: at seeded inputs, small and large and negative and zero, one by one and,
where the number of samples is free, three at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moduli.kernel.activations import Activation
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.network import Network

Array = np.ndarray[Any, np.dtype[np.float64]]
Run = Callable[[Array], Any]

MAX_PARAMETERS = 2**24  # larger networks are not run twice: an evaluator copies what it runs
SAFETY = 16.0  # evaluators may sum in any order and use activations right to a few units in the last place
FLOOR = 1e-9  # of sizes: what cancels inside a model may leave this much of its parts
# Relative errors of arithmetic; float64 with room for numbers that cancel inside a model but not in
# what was read of it.
UNITS = {"float64": 2.0**-42, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def confirm(net: Network, run: Run, *, samples: Sequence[int], unit: float, by: str) -> str:
    """A note that the network agrees with an independent evaluator of the model.

    Args:
        net: what was read.
        run: the evaluator, from inputs ``[batch, in]`` to outputs ``[batch, ...]``, rows of which
            are samples.
        samples: the batch sizes to run at, ``(1, 3)`` where the number of samples is free.
        unit: relative rounding error of the arithmetic in which the model and what was read may
            differ, see `UNITS`.
        by: who runs the model, for the note and the error.

    Raises:
        UnsupportedModel: the two disagree; shows both values. What `run` raises is passed on.

    >>> net = Network.mlp([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0]], [0.0], activation="relu")
    >>> confirm(net, abs, samples=(1, 3), unit=2.0**-53, by="hand")
    'agrees with hand at 18 inputs (batch 1 and 3)'
    >>> confirm(net, lambda x: x, samples=(1,), unit=2.0**-53, by="hand")
    Traceback (most recent call last):
    ...
    moduli.kernel.errors.UnsupportedModel: read as Network(1-2-1, relu, 7 parameters), which gives ...
    """
    inputs, compared = _inputs(net.widths[0]), 0
    for batch in samples:
        for start in range(0, len(inputs), batch):
            rows = np.resize(inputs[start : start + batch], (batch, net.widths[0]))
            compared += _compare(net, rows, run, unit, by)
    if not compared:
        return f"not compared with {by}: none of its outputs was finite"
    return f"agrees with {by} at {compared} inputs (batch {' and '.join(map(str, samples))})"


def _inputs(width: int) -> Array:
    """Nine inputs: zero, small, of size one with either sign, and large."""
    rng = np.random.default_rng(0)
    sizes = np.array([0.0, 1.0, 1.0, -1.0, 1e-3, 30.0, 30.0, 1e3, -1e3])
    drawn = rng.normal(size=(len(sizes), width))
    drawn[3], drawn[8] = np.abs(drawn[3]), np.abs(drawn[8])
    return np.asarray(drawn * sizes[:, None])


def _compare(net: Network, rows: Array, run: Run, unit: float, by: str) -> int:
    """How many rows were compared; those at which the model overflows say nothing."""
    with np.errstate(all="ignore"):
        theirs = np.asarray(run(rows), dtype=np.float64)
        ours, error = net(rows), SAFETY * unit * (_sensitivity(net, rows) + FLOOR)
    if theirs.size != ours.size or theirs.shape[:1] != (len(rows),):
        raise UnsupportedModel(
            f"read as {net}, which gives outputs of shape {ours.shape} for {len(rows)} samples, "
            f"but {by} gives {theirs.shape}"
        )
    theirs = theirs.reshape(ours.shape)
    with np.errstate(invalid="ignore"):  # one infinity less another
        gap = np.abs(ours - theirs)
    finite = (
        np.isfinite(theirs).all(axis=1)
        & np.isfinite(ours).all(axis=1)
        & np.isfinite(error).all(axis=1)
    )
    far = np.argwhere(finite[:, None] & (gap > error))
    if len(far):
        row, output = far[0].tolist()
        raise UnsupportedModel(
            f"read as {net}, which gives {ours[row, output]:.9g} for output {output} where the model run by {by} gives "
            f"{theirs[row, output]:.9g} (batch of {len(rows)}, input {_brief(rows[row])}); the reader does not understand "
            "this model"
        )
    return int(finite.sum())


def _brief(x: Array) -> str:
    shown = ", ".join(f"{v:.4g}" for v in x[:4].tolist())
    return f"[{shown}, ...]" if len(x) > 4 else f"[{shown}]"


def _sensitivity(net: Network, x: Array) -> Array:
    """First-order bound, in units of roundoff, of what arithmetic may do to the outputs ``[batch,
    out]`` at these inputs.

    A sum of n products errs by at most n + 1 roundings of the sum of the absolute values; an
    activation passes an error on times its Lipschitz constant and adds a few roundings of its own.
    """
    h, error = x, np.abs(x)
    for layer in net.layers:
        size = np.abs(layer.weight)
        magnitude = np.abs(h) @ size.T + np.abs(layer.bias)
        error = error @ size.T + (layer.weight.shape[1] + 2) * magnitude
        h, error = _through(layer.activation, h @ layer.weight.T + layer.bias, error)
    if net.output_map == "softmax":
        return error + 4.0  # softmax is 1-Lipschitz in the sup norm, with values up to 1
    return _through(Activation.of(net.output_map), h, error)[1]


def _through(activation: Activation, z: Array, error: Array) -> tuple[Array, Array]:
    """Values of an activation, and the errors of their arguments passed on to them."""
    h = activation(z)
    return h, float(activation.lipschitz) * error + 4.0 * np.abs(h) + 4.0 * activation.zero
