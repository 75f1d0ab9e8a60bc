"""How far what a runtime computes of a chain of layers is from its function over the reals, on boxes.
Part of the kernel.

What is assumed of it, and what one sum and one activation are off by, stands in `runtime`. Here these
errors are carried to the outputs, by symbols: an error of one unit keeps its sign on all its ways.
Beside them goes a bound of the Euclidean norm of all errors of a layer: it grows by the norm of the
matrix and by the Lipschitz constant of the activation, whatever the phases of the units are.

    z - z' = W (h - h') + (W - W') h' + (v - v') + e,      h - h' = m (z - z') + e'

with z' and h' computed, W' and v' as they are held, m a mean slope between z and z', and errors e, e'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel import arithmetic
from moduli.kernel.arithmetic import LEAST
from moduli.kernel.exact_numbers import up, up_matmul
from moduli.kernel.network import Layer, Network
from moduli.kernel.runtime import Runtime

from . import propagation
from .output_gap import Measured
from .propagation import U
from .relaxations import add_up, relaxation, slopes

Array = np.ndarray[Any, np.dtype[np.float64]]
SQUARINGS = 7  # of a matrix of n rows, after which its norm is n^(2^-8) too large at most


class RuntimeErrors(NamedTuple):
    """Bounds of |computed - function|, before the output map, on boxes.

    Attributes:
        top: of the outputs ``[batch]``. layers: of the values of each layer, before its activation,
            ``[layers, batch]``. fresh: what of these the sums of the layer itself make.
    """

    top: Array
    layers: Array
    fresh: Array


@np.errstate(all="ignore")
def runtime_errors(
    net: Network, runtime: Runtime, low: Array, high: Array, *, alone: int | None = None
) -> RuntimeErrors:
    """Bounds on boxes ``[batch, inputs]``.

    Args:
        alone: number of the only layer that rounds, from 0 on; by default all do.

    Raises:
        Undecided: the runtime has no number for a parameter.
    """
    arithmetic.require()
    held, lengths = runtime.layers(net.layers), [spectral(x.weight) for x in net.layers]
    width = max(net.widths) * net.units
    carrier = _Carrier(net.layers, held, lengths, runtime, alone)
    parts = [carrier(low[block], high[block]) for block in propagation.blocks_of(len(low), width)]
    layers, fresh = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return RuntimeErrors(layers[-1], layers, fresh)


@np.errstate(all="ignore")
def measured(
    net: Network, runtime: Runtime, low: Array, high: Array, enough: float, far: float
) -> Measured:
    """The same, as `output_gap` bounds differences; inputs are to blame for what their layer makes of
    them.
    """
    blame = (high - low) * np.abs(net.layers[0].weight).sum(axis=0)
    return Measured(runtime_errors(net, runtime, low, high).top, blame)


class _Carrier(NamedTuple):
    """Carries errors through layers: those over the reals, and those that a runtime holds."""

    layers: Sequence[Layer]
    held: Sequence[Layer]
    lengths: Sequence[float]
    runtime: Runtime
    alone: int | None

    def __call__(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Bounds of the errors of all values, and of new ones, the largest of each layer ``[layers,
        batch]``.

        The error of a unit is a sum over symbols, each within [-1, 1], with coefficients `made`
        ``[batch, symbols, units]``, and a rest; all together are no longer than `length`.
        """
        reals = propagation.linear(self.layers, low, high, lazy=True)
        size = np.maximum(np.abs(low), np.abs(high))  # of what a layer reads
        made, length = np.zeros((len(low), 0, low.shape[1])), np.zeros((len(low), 1))
        found, new = [], []
        for l, (layer, held) in enumerate(zip(self.layers, self.held, strict=True)):
            rounds = self.alone in (None, l)
            fresh = np.where(rounds, self._fresh(layer, held, size), 0.0)
            # a row is as long as its norm makes what it reads, a layer as the norm of its matrix does
            cap = up(length * norms(layer.weight) + fresh, 4)
            length = up(length * self.lengths[l] + norms(fresh)[:, None], 4)
            made, rest = _mapped(made, layer.weight, fresh)
            error = _least(up(np.abs(made).sum(axis=1) + rest, made.shape[1] + 2), cap)
            length = _least(length, norms(error)[:, None])
            found.append(error.max(axis=1, initial=0.0))
            new.append(fresh.max(axis=1, initial=0.0))
            if l == len(self.layers) - 1:
                break
            lo, hi = -add_up(-reals[l][0], error), add_up(reals[l][1], error)
            lines = relaxation(layer.activation, lo, hi)
            off = self.runtime.values(layer.activation, lines, np.maximum(np.abs(lo), np.abs(hi)))
            off = np.where(rounds, off, 0.0)
            shallow, steep = slopes(layer.activation, lo, hi)
            made, reach = _acted(made, rest, error, shallow, steep)
            made = _with_symbols(made, add_up(reach, off))
            size = add_up(np.maximum(np.abs(lines.least), np.abs(lines.most)), off)
            most = np.maximum(np.abs(shallow), np.abs(steep))
            steepest = most.max(axis=1, keepdims=True, initial=0.0)
            length = _least(length * steepest, norms(most * error)[:, None])
            length = up(length + norms(off)[:, None], 4)
        return np.stack(found), np.stack(new)

    def _fresh(self, layer: Layer, held: Layer, size: Array) -> Array:
        """What a layer adds to the error: its sums, and parameters that are not those over the
        reals.
        """
        made = self.runtime.sums(held.weight, held.bias, size)
        weight, bias = np.abs(layer.weight - held.weight), np.abs(layer.bias - held.bias)
        return up(made + up_matmul(size, up(weight).T) + up(bias), 2)


def _mapped(made: Array, weight: Array, fresh: Array) -> tuple[Array, Array]:
    """Coefficients behind a matrix, and the rest: what is new, and what float products lose."""
    batch, symbols, units = made.shape
    product = (made.reshape(batch * symbols, units) @ weight.T).reshape(batch, symbols, len(weight))
    mass = up(np.abs(made).sum(axis=1), symbols) @ np.abs(weight).T
    lost = up(mass * ((2 * units + 8) * U), 4) + symbols * (units + 2) * LEAST
    return product, up(fresh + np.where(symbols, lost, 0.0), 2)


def _acted(
    made: Array, rest: Array, error: Array, shallow: Array, steep: Array
) -> tuple[Array, Array]:
    """Coefficients and what is left of m e, for errors e and slopes m in [shallow, steep].

    m e = middle e + (m - middle) e, or all of it is what is left, where that is less.
    """
    middle = 0.5 * shallow + 0.5 * steep
    half = np.maximum(add_up(steep, -middle), add_up(middle, -shallow))
    size, sum_of = np.abs(middle), np.abs(made).sum(axis=1)
    lost = np.where(
        (middle == 0) | (size == 1), 0.0, sum_of * (4 * U) + (made.shape[1] + 2) * LEAST
    )
    reach = up(up(half * error + size * rest, 4) + lost, 2) + 4 * LEAST * (error != 0)
    whole = up(np.maximum(np.abs(shallow), np.abs(steep)) * error, 2) + LEAST * (error != 0)
    level = ~(reach + size * sum_of < whole)
    made = made * np.where(level, 0.0, middle)[:, None]
    return np.where(np.isnan(made), np.inf, made), np.where(level, whole, reach)


def _with_symbols(made: Array, reach: Array) -> Array:
    """One more symbol for each unit."""
    batch, units = reach.shape
    new = np.zeros((batch, units, units))
    new[:, range(units), range(units)] = reach
    return np.concatenate([made, new], axis=1)


def _least(a: Array, b: Array) -> Array:
    """The smaller of two bounds; what is no number bounds nothing."""
    found: Array = np.fmin(a, b)
    return np.where(np.isnan(found), np.inf, found)


@np.errstate(all="ignore")
def norms(rows: Array) -> Array:
    """Upper bounds of the Euclidean norms of rows.

    >>> import numpy as np
    >>> 5.0 <= float(norms(np.array([3.0, 4.0]))) < 5.001
    True
    """
    n = rows.shape[-1]
    return up(np.sqrt(up((rows * rows).sum(axis=-1), n + 2) + n * LEAST), 2)


@np.errstate(all="ignore")
def spectral(matrix: Array) -> float:
    """An upper bound of the largest singular value.

    |A|^2 = |A' A|, again and again; the last matrix is no longer than its Frobenius norm. A computed
    A' A is off by gamma_n |A|' |A| at most, entry by entry, whose Frobenius norm is at most gamma_n
    times the square of that of A; and powers of two are exact but for what underflows.

    >>> import numpy as np
    >>> 2.0 <= spectral(np.diag([1.0, 2.0])) < 2.03
    True
    """
    n = max(matrix.shape)
    scale = float(np.abs(matrix).max(initial=0.0))
    if scale == 0 or not 2.0**-900 < scale < 2.0**900:
        return float(norms(matrix.ravel()))
    _, exponent = math.frexp(scale)
    power = np.ldexp(matrix, -exponent)
    if matrix.shape[0] < matrix.shape[1]:
        power = power.T
    lost, logs = list[float](), list[int]()
    for _ in range(SQUARINGS):
        length = float(norms(power.ravel()))
        power = power.T @ power
        lost.append(float(up(np.float64(length * length * ((n + 4) * U)), 4)) + n * n * 2.0**-1000)
        _, log = math.frexp(float(np.abs(power).max()))
        power = np.ldexp(power, -log)
        logs.append(log)
    found = float(norms(power.ravel()))
    for log, error in zip(reversed(logs), reversed(lost), strict=True):
        found = float(up(np.sqrt(up(np.float64(math.ldexp(found, log) + error))), 2))
    found += n * 2.0**-1000  # what underflowed at the start
    return float(up(np.float64(math.ldexp(found, exponent))))
