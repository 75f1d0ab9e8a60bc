"""The distance of two networks with one hidden layer under Gaussian inputs, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from .activations import Activation
from .domains import Gaussian
from .errors import UnsupportedModel
from .kernels import FINE, Order, Units, Whitening, accuracy, gram, means
from .network import Layer, Network

Array = np.ndarray[Any, np.dtype[np.float64]]
ROUNDING = 2e-15
NEAR = 1e-8
STEPS, SLOPES = 2, 8
CHUNK = 2**21
ORDERS: tuple[Order, ...] = (
    (0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (1, 3)
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Readout:
    """f(z) = outer^T s(mean + row z) + bias, z ~ N(0, I).

    Args:
        outer: ``[units, out]``. bias: ``[out]``.
    """

    activation: Activation
    units: Units
    outer: Float64[np.ndarray[Any, Any], "units out"]
    bias: Float64[np.ndarray[Any, Any], " out"]

    @staticmethod
    def of(net: Network, whitening: Whitening) -> Readout:
        """A network with at most one hidden layer."""
        first, last = net.layers[0], net.layers[-1]
        if len(net.layers) == 1:  # affine: one identity unit per output
            eye, zero = np.eye(len(last.bias)), np.zeros(len(last.bias))
            return Readout(last.activation, whitening.units(last.weight, last.bias), eye, zero)
        if len(net.layers) != 2:
            raise UnsupportedModel(f"{len(net.layers) - 1} hidden layers; the closed form is for one")
        return Readout(first.activation, whitening.units(first.weight, first.bias), last.weight.T, last.bias)

    def __len__(self) -> int:
        return len(self.units)

    def reach(self, nodes: int = FINE) -> float:
        """At least the root mean square of what the expansion of the activation leaves out."""
        error = accuracy(self.activation, nodes)[1]
        return error * float(np.linalg.norm(self.outer, axis=1).sum()) if error else 0.0

    def mean(self, nodes: int = FINE) -> Array:
        """E f: ``[out]``."""
        (e,) = means(self.activation, self.units, (0,), nodes)
        return np.asarray(e @ self.outer + self.bias)


def inner(f: Readout, g: Readout, nodes: int = FINE) -> tuple[float, float]:
    """sum over outputs of the covariance of f and g, and what rounding may have done to it."""
    same = f is g
    (e,), (k,) = means(f.activation, f.units, (0,), nodes), means(g.activation, g.units, (0,), nodes)
    total, size = 0.0, 0.0
    step = max(1, CHUNK // max(1, len(g)))
    for top in range(0, len(f), step):
        one, start = f.units[top : top + step], top if same else 0
        weight = f.outer[top : top + step] @ g.outer[start:].T
        if same:  # what lies left of the diagonal block is left out: what lies right of it counts twice
            weight[:, step:] *= 2
        (part,) = gram(f.activation, one, g.activation, g.units[start:], ((0, 0),), nodes)
        product = np.outer(e[top : top + step], k[start:])
        total += float((weight * (part - product)).sum())
        size += float((np.abs(weight) * (np.abs(part) + np.abs(product))).sum())
    return total, ROUNDING * size


def distance(a: Network, b: Network, law: Gaussian, nodes: int = FINE) -> tuple[float, float, float]:
    """sqrt(E |a - b|^2): value, and bounds up to rounding. For networks with at most one hidden layer.

    Direct: a quadratic form in kernels, which loses what lies below 1e-8 of the networks' own size. Near that, unit by unit
    along the straight line from one network to the other (`_along`), where nothing cancels.
    """
    whitening = Whitening.of(law, a.widths[0])
    f, g = Readout.of(a, whitening), Readout.of(b, whitening)
    parts = [inner(f, f, nodes), inner(f, g, nodes), inner(g, g, nodes)]
    shift = f.mean(nodes) - g.mean(nodes)
    size = sum(floor for _, floor in parts) + ROUNDING * float(
        np.square(np.abs(f.mean(nodes)) + np.abs(g.mean(nodes)) + np.abs(f.bias) + np.abs(g.bias)).sum()
    )
    square = parts[0][0] - 2 * parts[1][0] + parts[2][0] + float(shift @ shift)
    slip = f.reach(nodes) + g.reach(nodes)
    value, low, high = _ends(square, size, slip)
    if square < size * NEAR / ROUNDING and f.activation == g.activation and len(f) == len(g):
        end = _matched(f, g)
        near, error = _along(f, end, nodes)
        one, low_one, high_one = _ends(near, error, _parameter_rounding(f) + _parameter_rounding(g) + _left_out(f, end, nodes))
        if high_one - low_one < high - low:
            return one, low_one, high_one
    return value, low, high


def _parameter_rounding(f: Readout) -> float:
    """At least the effect of a few roundings of every mean, row and outgoing weight."""
    reach = np.abs(f.units.mean) + np.sqrt(f.units.variance)
    return 2.0**-50 * float(f.activation.lipschitz) * float((np.linalg.norm(f.outer, axis=1) * reach).sum())


def _left_out(f: Readout, g: Readout, nodes: int) -> float:
    """What the expansion of the activation does to f - g: its error, and that of its slope, at most SLOPES times as large."""
    error = accuracy(f.activation, nodes)[1]
    if not error:
        return 0.0
    f, size = _oriented(f), np.linalg.norm
    moved = np.sqrt((f.units.mean - g.units.mean) ** 2 + np.square(f.units.row - g.units.row).sum(axis=1))
    weight = size(f.outer, axis=1) + size(g.outer, axis=1)
    return error * float((size(f.outer - g.outer, axis=1) + SLOPES * weight * moved).sum())


def _ends(square: float, floor: float, slip: float) -> tuple[float, float, float]:
    root = math.sqrt(max(0.0, square))
    low = math.sqrt(max(0.0, square - floor)) - slip
    return root, max(0.0, low), math.sqrt(max(0.0, square + floor)) + slip


def _oriented(f: Readout) -> Readout:
    """Scales and signs that the activation allows, in one form: unit length and a positive leading entry."""
    act, mean, row, outer, bias = f.activation, f.units.mean, f.units.row, f.outer, f.bias
    if act.homogeneous:
        size = np.sqrt(mean**2 + f.units.variance)
        size[size == 0] = 1.0
        mean, row, outer = mean / size, row / size[:, None], outer * size[:, None]
    if act.symmetric:
        ends = np.column_stack([row, mean])
        lead = ends[np.arange(len(ends)), np.abs(ends).argmax(axis=1)]
        sign, offset = map(float, act.turned)
        turn = lead < 0
        bias = bias + offset * outer[turn].sum(axis=0)
        flip = np.where(turn, -1.0, 1.0)
        mean, row, outer = mean * flip, row * flip[:, None], outer * np.where(turn, sign, 1.0)[:, None]
    return Readout(act, Units(mean, row), outer, bias)


def _matched(f: Readout, g: Readout) -> Readout:
    """g with its units in the order, signs and scales in which they lie nearest to those of f."""
    from scipy.optimize import linear_sum_assignment

    one, two = _oriented(f), _oriented(g)
    theta = [np.column_stack([r.units.mean, r.units.row, r.outer]) for r in (one, two)]
    gap = np.square(theta[0]).sum(1)[:, None] + np.square(theta[1]).sum(1)[None, :] - 2 * theta[0] @ theta[1].T
    order = linear_sum_assignment(gap)[1]
    return Readout(two.activation, two.units[order], two.outer[order], two.bias)


def _along(f: Readout, g: Readout, nodes: int) -> tuple[float, float]:
    """E |f - g|^2 as a double integral of mixed derivatives along the line from g to f, and an estimate of its error.

    f - g = int_0^1 d/dt f_t dt, so E |f - g|^2 integrates E of the product of two derivatives over the unit square; by
    symmetry over the triangle u < t, where ReLU's kernel has no kink.
    """
    f, found = _oriented(f), []
    for steps in (STEPS, STEPS + 1):
        node, weight = np.polynomial.legendre.leggauss(steps)
        total = np.zeros(2)
        for t, p in zip(node / 2 + 0.5, weight / 2, strict=True):
            for share, q in zip(node / 2 + 0.5, weight / 2, strict=True):
                total += 2 * p * q * t * np.array(_mixed(f, g, float(t), float(t * share), nodes))
        found.append(total)
    return float(found[1][0]), float(abs(found[1][0] - found[0][0]) + 2**-46 * found[1][1])


def _mixed(f: Readout, g: Readout, t: float, u: float, nodes: int) -> tuple[float, float]:
    """E of (d/dt f_t)(d/du f_u) where f_0 = g and f_1 = f, and the sum of the sizes of its terms."""
    act, da, db = f.activation, f.outer - g.outer, f.bias - g.bias
    dm, dr = f.units.mean - g.units.mean, f.units.row - g.units.row
    one, two = (Units(g.units.mean + x * dm, g.units.row + x * dr) for x in (t, u))
    a, b = g.outer + t * da, g.outer + u * da
    k = dict(zip(ORDERS, gram(act, one, act, two, ORDERS, nodes), strict=True))
    v1, v2 = (np.einsum("ik,ik->i", x.row, dr) for x in (one, two))
    m1, m2, w1, w2 = dm[:, None], dm[None, :], v1[:, None], v2[None, :]
    x, y, z = dr @ two.row.T, one.row @ dr.T, dr @ dr.T
    first = [m1 * k[1, 0], w1 * k[2, 0], x * k[1, 1]]
    second = [m2 * k[0, 1], w2 * k[0, 2], y * k[1, 1]]
    both = [
        m1 * m2 * k[1, 1], m1 * w2 * k[1, 2], m1 * y * k[2, 1], w1 * m2 * k[2, 1], w1 * w2 * k[2, 2], w1 * y * k[3, 1],
        x * m2 * k[1, 2], x * w2 * k[1, 3], x * y * k[2, 2], z * k[1, 1],
    ]  # fmt: skip
    parts = [(da @ da.T, [k[0, 0]]), (da @ b.T, second), (a @ da.T, first), (a @ b.T, both)]
    for units, outer, move in ((one, a, v1), (two, b, v2)):
        e = means(act, units, (0, 1, 2), nodes)
        parts.append(((da @ db), [e[0]]))
        parts.append(((outer @ db), [dm * e[1], move * e[2]]))
    total = sum(float((weight * sum(terms)).sum()) for weight, terms in parts)
    size = sum(float((np.abs(weight) * sum(map(np.abs, terms))).sum()) for weight, terms in parts)
    return total + float(db @ db), size + float(db @ db)


def student(readout: Readout, whitening: Whitening, like: Network) -> Network:
    """The network of a readout, with the output map and frame of another."""
    weight, bias = whitening.parameters(readout.units)
    last = Layer(np.ascontiguousarray(readout.outer.T), readout.bias, like.layers[-1].activation)
    return like.with_layers([Layer(weight, bias, readout.activation), last])
