"""The distance of two networks with one hidden layer under Gaussian inputs, in closed form.

Three ways, each with bounds of its error; what lies in all their intervals is the answer.

Direct: a quadratic form in kernels. It loses what lies below about 1e-7 of the networks' own size.

Linear, for smooth activations s and as many units in both: with unit i of one network matched to
one of the other, outgoing weights a, b and pre-activations X, Y, let M = (X + Y) / 2 and D = X - Y.
Taylor's theorem at M gives

    a s(X) - b s(Y) = (a - b) s(M) + (a + b)/2 s'(M) D + R,    |R| <= |a - b| sup|s''| D^2 / 8 + |a + b|/2 sup|s'''| |D|^3 / 24,

and the mean square of the sum of the first two terms is a quadratic form in which nothing cancels:
D comes from the differences of the weights.

In 31 digits, for piecewise linear networks (`piecewise_linear_expectations`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from moduli.common.domains import Gaussian
from moduli.common.exact_values import evaluate
from moduli.kernel.activations import Activation
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.exact_numbers import ceiling
from moduli.kernel.network import Layer, Network

from . import piecewise_linear_expectations
from .gaussian_expectations import (
    FINE,
    Order,
    UnitLaw,
    Whitening,
    accuracy,
    cancellation,
    gram,
    means,
)

Array = np.ndarray[Any, np.dtype[np.float64]]
POINT = 4096  # hidden units whose values are enclosed one by one
ROUNDING = 8e-15  # 72 roundings: of a kernel, of its part in the sum, and of sums in blocks
SPREAD = 32  # inputs whose products add another ROUNDING
LINEAR_ROUNDING = 2.0**-44
UNDERFLOW = 2.0**-460  # of networks scaled to outgoing weights of about 1
NARROW = 1e-7  # a relative width that needs no second way
MATCHED = 3000  # units that are matched
SLOPES = 8  # the error of an expansion's slope, in errors of its values
CHUNK = 2**21
ORDERS: tuple[Order, ...] = (
    (0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (1, 3)
)  # fmt: skip
BENDS = {  # sup |s''| and sup |s'''|, rounded up; tests/compression/average/test_closed_form.py
    "tanh": (0.77, 2.0), "sigmoid": (0.0963, 0.125), "softplus": (0.25, 0.0963),
    "silu": (0.5, 0.31), "sin": (1.0, 1.0), "erf": (0.968, 2.257), "gelu": (0.798, 0.779),
    "gelu_tanh": (0.798, 0.777), "identity": (0.0, 0.0),
}  # fmt: skip


class Ends(NamedTuple):
    """A distance and an interval that holds it."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(square: float, error: float, slip: float) -> Ends:
        """The root of a square, from a bound of the error of the square and one of the error of the
        root.
        """
        low = math.sqrt(max(0.0, square - error)) * (1 - 2.0**-50) - slip
        return Ends(
            math.sqrt(max(0.0, square)),
            max(0.0, low),
            math.sqrt(max(0.0, square + error)) * (1 + 2.0**-50) + slip,
        )

    @property
    def width(self) -> float:
        """Relative to the upper end."""
        return (self.high - self.low) / self.high if self.high else 0.0

    def scaled(self, factor: float) -> Ends:
        return Ends(*(factor * x for x in self))


def common(found: Iterable[Ends]) -> Ends:
    """What lies in all intervals, with the value of the narrowest."""
    every = sorted(found, key=lambda ends: ends.high - ends.low)
    low, high = max(ends.low for ends in every), min(ends.high for ends in every)
    if low > high:  # a bound of an error is wrong: claim no more than the widest
        low, high = min(ends.low for ends in every), max(ends.high for ends in every)
    return Ends(min(max(every[0].value, low), high), low, high)


@dataclass(frozen=True, eq=False)
class ShallowNetwork:
    """f(z) = outer^T s(mean + row z) + bias, z ~ N(0, I).

    Args:
        outer: ``[units, out]``. bias: ``[out]``. rounding, lost: ``[units]``, at least the root
            mean squares of what rounding did to the pre-activations, and of what is independent of
            them and left out; None where these units are what is meant.
    """

    activation: Activation
    units: UnitLaw
    outer: Float64[np.ndarray[Any, Any], "units out"]
    bias: Float64[np.ndarray[Any, Any], " out"]
    rounding: Float64[np.ndarray[Any, Any], " units"] | None = None
    lost: Float64[np.ndarray[Any, Any], " units"] | None = None

    @staticmethod
    def of(net: Network, whitening: Whitening) -> ShallowNetwork:
        """A network with at most one hidden layer."""
        first, last = net.layers[0], net.layers[-1]
        if len(net.layers) > 2:
            raise UnsupportedModel(
                f"{len(net.layers) - 1} hidden layers; the closed form is for one"
            )
        units, moved = (
            whitening.units(first.weight, first.bias),
            whitening.rounding(first.weight, first.bias),
        )
        lost = whitening.lost * np.linalg.norm(first.weight, axis=1)
        if len(net.layers) == 1:  # affine: one identity unit per output
            eye, zero = np.eye(len(last.bias)), np.zeros(len(last.bias))
            return ShallowNetwork(last.activation, units, eye, zero, moved, lost)
        return ShallowNetwork(first.activation, units, last.weight.T, last.bias, moved, lost)

    def __len__(self) -> int:
        return len(self.units)

    def reach(self, nodes: int = FINE) -> float:
        """At least the root mean square of what the expansion of the activation leaves out."""
        error = accuracy(self.activation, nodes)[1]
        return error * float(np.linalg.norm(self.outer, axis=1).sum()) if error else 0.0

    def slip(self) -> float:
        """At least the root mean square of what rounding of the pre-activations does to the
        outputs.
        """
        if self.rounding is None:
            return 0.0
        each = float(self.activation.lipschitz) * self.rounding
        if self.activation.bound is not None:
            each = np.minimum(each, 2.0 * self.activation.bound)
        return float(np.linalg.norm(self.outer, axis=1) @ each)

    def smoothed(self) -> tuple[float, float]:
        """What is lost of the pre-activations: its root mean square in the outputs, and that of its
        mean given the rest.

        A unit s(X + e) has mean s(X) + sup|s''| Var e / 2 at most given X; with a kink, the
        smoothed kink less the kink, which has a mean square of at most (jump of the slope)^2
        Var(e)^(3/2) / (10 sqrt(2 pi Var X)).
        """
        if self.lost is None or not self.lost.any():
            return 0.0, 0.0
        s, weight = self.activation, np.linalg.norm(self.outer, axis=1)
        whole = float(s.lipschitz) * self.lost
        part = whole
        if s.kind in BENDS:
            part = np.minimum(whole, BENDS[s.kind][0] * self.lost**2 / 2)
        elif s.homogeneous:
            spread = np.sqrt(np.maximum(self.units.variance, 1e-300))
            part = np.minimum(
                whole,
                2
                * float(s.lipschitz)
                * np.sqrt(self.lost**3 / (10 * math.sqrt(2 * math.pi) * spread)),
            )
        return float(weight @ whole), float(weight @ part)

    def sizes(self) -> Array:
        """At least the root mean square of each unit's output, times how much its expansion
        cancels: ``[units]``.
        """
        s = self.activation
        each = s.zero + float(s.lipschitz) * np.sqrt(
            np.square(self.units.mean) + self.units.variance
        )
        if s.bound is not None:
            each = np.minimum(each, float(s.bound))
        return np.asarray(each * cancellation(s))

    def mean(self, nodes: int = FINE) -> Array:
        """E f: ``[out]``."""
        if not self.units.row.any():  # nothing varies
            return np.asarray(self.activation(self.units.mean) @ self.outer + self.bias)
        (e,) = means(self.activation, self.units, (0,), nodes)
        return np.asarray(e @ self.outer + self.bias)


def inner(f: ShallowNetwork, g: ShallowNetwork, nodes: int = FINE) -> tuple[float, float]:
    """sum over outputs of the covariance of f and g, and what rounding may have done to it."""
    same = f is g
    (e,), (k,) = (
        means(f.activation, f.units, (0,), nodes),
        means(g.activation, g.units, (0,), nodes),
    )
    total, size = 0.0, 0.0
    step = max(1, CHUNK // max(1, len(g)))
    one_size, two_size = f.sizes(), g.sizes()
    for top in range(0, len(f), step):
        one, start = f.units[top : top + step], top if same else 0
        weight = f.outer[top : top + step] @ g.outer[start:].T
        if (
            same
        ):  # what lies left of the diagonal block is left out: what lies right of it counts twice
            weight[:, step:] *= 2
        (part,) = gram(f.activation, one, g.activation, g.units[start:], ((0, 0),), nodes)
        product = np.outer(e[top : top + step], k[start:])
        total += float((weight * (part - product)).sum())
        size += 2 * float(one_size[top : top + step] @ np.abs(weight) @ two_size[start:])
    return total, ROUNDING * (1 + f.units.row.shape[1] / SPREAD) * size


def distance(a: Network, b: Network, law: Gaussian, nodes: int = FINE) -> Ends:
    """sqrt(E |a - b|^2): value, and bounds. For networks with at most one hidden layer, before
    their output maps.

    The bounds are of the roundings of floats and of the sums, as far as they were analysed: an
    estimate with its error, not a certificate.

    Raises:
        UnsupportedModel: an activation, or a pair of them, without a closed form.
    """
    a, b = _used(a), _used(b)
    if a.digest == b.digest:
        return Ends(0.0, 0.0, 0.0)
    a, b, scale = _of_one_size(a, b)
    whitening = Whitening.of(law, a.widths[0])
    if not whitening.root.shape[1] and a.units + b.units <= POINT:
        return _at_point(a, b, whitening.mean).scaled(scale)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        found = [_direct(ShallowNetwork.of(a, whitening), ShallowNetwork.of(b, whitening), nodes)]
        if not found[0].width <= NARROW:
            found += _closer(a, b, law, whitening, nodes)
    found = [ends for ends in found if math.isfinite(ends.low + ends.high)]
    if not found:
        return Ends(math.inf, 0.0, math.inf)
    best = common(found)
    return Ends(best.value, best.low, best.high + UNDERFLOW).scaled(scale)


def _at_point(a: Network, b: Network, x: Array) -> Ends:
    """Where nothing varies: the difference at one input, by exact enclosures."""
    at = [Fraction(v) for v in x.tolist()]
    low = high = Fraction(0)
    for p, q in zip(evaluate(a, at), evaluate(b, at), strict=True):
        least, most = p[0] - q[1], p[1] - q[0]
        low += max(Fraction(0), least, -most) ** 2
        high += max(most, -least) ** 2
    ends = -ceiling(-low), ceiling(high)
    lower, upper = math.nextafter(math.sqrt(ends[0]), 0.0), math.sqrt(ends[1])
    above = (
        math.nextafter(upper, math.inf) if upper else 0.0
    )  # a root is rounded to nearest; that of 0 is exact
    return Ends(upper, lower, above)


def _closer(a: Network, b: Network, law: Gaussian, whitening: Whitening, nodes: int) -> list[Ends]:
    """By what cancels less, where it applies."""
    found = []
    if piecewise_linear_expectations.feasible(a, b, law):
        square = piecewise_linear_expectations.squared(a, b, law)
        found.append(Ends.of(square.value, square.error, 0.0))
    kinds = {layer.activation for net in (a, b) for layer in net.layers[:-1]}
    if (
        len(kinds) == 1
        and next(iter(kinds)).kind in BENDS
        and a.widths == b.widths
        and a.units <= MATCHED
    ):
        found.append(_linear(a, b, whitening, nodes))
    return found


def _used(net: Network) -> Network:
    """Without hidden units that no output reads; a constant as an affine map."""
    if len(net.layers) != 2:
        return net
    first, last = net.layers
    read = last.weight.any(axis=0)
    if not read.any():
        return net.with_layers(
            [Layer(np.zeros((net.widths[-1], net.widths[0])), last.bias, last.activation)]
        )
    inside = Layer(first.weight[read], first.bias[read], first.activation)
    return net.with_layers([inside, Layer(last.weight[:, read], last.bias, last.activation)])


def _of_one_size(a: Network, b: Network) -> tuple[Network, Network, float]:
    """Both with outgoing weights and biases of at most about 1, and what to multiply distances
    with: a power of two.
    """
    a, b = _even(a), _even(b)
    ends = [part for net in (a, b) for part in (net.layers[-1].weight, net.layers[-1].bias)]
    size = max(float(np.abs(part).max(initial=0.0)) for part in ends)
    scale = math.ldexp(1.0, min(1000, max(-1000, math.frexp(size)[1]))) if size else 1.0
    return _divided(a, scale), _divided(b, scale), scale


def _even(net: Network) -> Network:
    """Rows of positively homogeneous units with largest entry about 1, up to powers of two."""
    if len(net.layers) != 2 or not net.layers[0].activation.homogeneous:
        return net
    first, last = net.layers
    size = np.maximum(np.abs(first.weight).max(axis=1, initial=0.0), np.abs(first.bias))
    power = np.clip(np.frexp(size)[1], -1000, 1000)
    with np.errstate(over="ignore", under="ignore"):
        outer = np.ldexp(last.weight, power)
        if not np.isfinite(outer).all():
            return net
        inside = Layer(
            np.ldexp(first.weight, -power[:, None]), np.ldexp(first.bias, -power), first.activation
        )
    return net.with_layers([inside, Layer(outer, last.bias, last.activation)])


def _divided(net: Network, scale: float) -> Network:
    last = net.layers[-1]
    return net.with_layers(
        [*net.layers[:-1], Layer(last.weight / scale, last.bias / scale, last.activation)]
    )


def _direct(f: ShallowNetwork, g: ShallowNetwork, nodes: int) -> Ends:
    """A quadratic form in kernels."""
    parts = [inner(f, f, nodes), inner(f, g, nodes), inner(g, g, nodes)]
    shift = f.mean(nodes) - g.mean(nodes)
    reach = [float(np.square(r.sizes() @ np.abs(r.outer) + np.abs(r.bias)).sum()) for r in (f, g)]
    error = (
        parts[0][1]
        + 2 * parts[1][1]
        + parts[2][1]
        + 4 * ROUNDING * (1 + max(len(f), len(g)) / SPREAD) * sum(reach)
    )
    square = parts[0][0] - 2 * parts[1][0] + parts[2][0] + float(shift @ shift)
    whole, part = map(sum, zip(f.smoothed(), g.smoothed(), strict=True))
    error += whole**2 + 2 * part * math.sqrt(max(0.0, square + error))
    return Ends.of(square, error, f.reach(nodes) + g.reach(nodes) + f.slip() + g.slip())


class Pairs(NamedTuple):
    """Two networks unit by unit: weights halfway between them, and differences.

    Attributes:
        weight: ``[units, in]``. bias: ``[units]``. outer: ``[units, out]``. rows, starts, outers,
            shift: differences of the three, and of the output biases. slip: what rounding of the
            shift amounts to.
    """

    weight: Array
    bias: Array
    outer: Array
    rows: Array
    starts: Array
    outers: Array
    shift: Array
    slip: float


def _paired(a: Network, b: Network, whitening: Whitening) -> Pairs:
    """The units of b in the order, and with the signs, in which they lie nearest to those of a."""
    from scipy.optimize import linear_sum_assignment

    act, (f, out), (g, end) = a.layers[0].activation, a.layers, b.layers
    (read, gives), (other, takes) = _points(a, whitening), _points(b, whitening)
    gap = _gaps(read, gives, other, takes)
    flipped = np.zeros(gap.shape, dtype=bool)
    sign, offset = map(float, act.turned)
    if act.symmetric:
        turned = _gaps(read, gives, -other, sign * takes)
        flipped, gap = turned < gap, np.minimum(gap, turned)
    order = linear_sum_assignment(gap)[1]
    flip = flipped[np.arange(len(order)), order]
    turn, back = np.where(flip, -1.0, 1.0), np.where(flip, sign, 1.0)
    weight, bias = turn[:, None] * g.weight[order], turn * g.bias[order]
    moved = end.weight.T[order]
    outer, carried = back[:, None] * moved, offset * moved[flip]
    shift, slip = out.bias - end.bias, 0.0
    if carried.any():
        size = np.abs(carried).sum(axis=0) + np.abs(out.bias) + np.abs(end.bias)
        slip = 2.0**-52 * (1 + len(carried)) * float(np.linalg.norm(size))
        shift = shift - carried.sum(axis=0)
    rows, starts, outers = f.weight - weight, f.bias - bias, out.weight.T - outer
    return Pairs(
        weight + rows / 2, bias + starts / 2, outer + outers / 2, rows, starts, outers, shift, slip
    )


def _points(net: Network, whitening: Whitening) -> tuple[Array, Array]:
    """What a unit reads and what it gives: ``[units, k + 1]``, ``[units, out]``."""
    units = whitening.units(net.layers[0].weight, net.layers[0].bias)
    return np.column_stack([units.row, units.mean]), net.layers[1].weight.T


def _gaps(x: Array, v: Array, y: Array, w: Array) -> Array:
    """Squared distances of units: ``[units, units]``."""
    one, two = np.column_stack([x, v]), np.column_stack([y, w])
    return np.asarray(
        np.square(one).sum(axis=1)[:, None] + np.square(two).sum(axis=1)[None, :] - 2 * one @ two.T
    )


def _linear(a: Network, b: Network, whitening: Whitening, nodes: int) -> Ends:
    """By Taylor's theorem halfway between matched units."""
    p, act = _paired(a, b, whitening), a.layers[0].activation
    middle = whitening.units(p.weight, p.bias)
    move = UnitLaw(p.starts + p.rows @ whitening.mean, p.rows @ whitening.root)
    square, size = _mixed(act, middle, p.outer, move, p.outers, p.shift, nodes)
    second, third = BENDS[act.kind]
    changed, weight = np.linalg.norm(p.outers, axis=1), np.linalg.norm(p.outer, axis=1)
    lipschitz = float(act.lipschitz)
    mean, var = np.square(move.mean), move.variance
    near = np.sqrt(mean + var)
    fourth = mean**2 + 6 * mean * var + 3 * var**2
    sixth = mean**3 + 15 * mean**2 * var + 45 * mean * var**2 + 15 * var**3
    slip = changed * second * np.sqrt(fourth) / 8 + weight * third * np.sqrt(sixth) / 24
    left_out = accuracy(act, nodes)[1]
    slip += left_out * (changed + SLOPES * weight * near)
    at, by = whitening.rounding(p.weight, p.bias), whitening.rounding(p.rows, p.starts)
    at, by = (
        x + whitening.lost * np.linalg.norm(w, axis=1) for x, w in ((at, p.weight), (by, p.rows))
    )
    slip += changed * lipschitz * at + weight * (3 * second * at * near + lipschitz * by)
    sizes = ShallowNetwork(act, middle, p.outer, p.shift).sizes()
    slip += 2.0**-50 * (changed * sizes + weight * lipschitz * near)
    return Ends.of(
        square,
        LINEAR_ROUNDING * (1 + len(whitening.mean) / SPREAD) * size,
        float(slip.sum()) + p.slip,
    )


def _mixed(
    act: Activation, at: UnitLaw, outer: Array, move: UnitLaw, outers: Array, shift: Array, nodes: int
) -> tuple[float, float]:  # fmt: skip
    """E |sum_i outers_i s(M_i) + outer_i s'(M_i) D_i + shift|^2, and the sum of the sizes of its
    terms.
    """
    k = dict(zip(ORDERS, gram(act, at, act, at, ORDERS, nodes), strict=True))
    v = np.einsum("ik,ik->i", at.row, move.row)
    m1, m2, w1, w2 = move.mean[:, None], move.mean[None, :], v[:, None], v[None, :]
    x, y, z = move.row @ at.row.T, at.row @ move.row.T, move.row @ move.row.T
    first = [m1 * k[1, 0], w1 * k[2, 0], x * k[1, 1]]
    second = [m2 * k[0, 1], w2 * k[0, 2], y * k[1, 1]]
    both = [
        m1 * m2 * k[1, 1], m1 * w2 * k[1, 2], m1 * y * k[2, 1], w1 * m2 * k[2, 1],
        w1 * w2 * k[2, 2], w1 * y * k[3, 1], x * m2 * k[1, 2], x * w2 * k[1, 3], x * y * k[2, 2],
        z * k[1, 1],
    ]  # fmt: skip
    parts = [
        (outers @ outers.T, [k[0, 0]]),
        (outers @ outer.T, second),
        (outer @ outers.T, first),
        (outer @ outer.T, both),
    ]
    e = means(act, at, (0, 1, 2), nodes)
    parts += [(2 * outers @ shift, [e[0]]), (2 * outer @ shift, [move.mean * e[1], v * e[2]])]
    total = sum(float((weight * sum(terms)).sum()) for weight, terms in parts)
    size = sum(float((np.abs(weight) * sum(map(np.abs, terms))).sum()) for weight, terms in parts)
    return total + float(shift @ shift), size * cancellation(act) ** 2 + float(shift @ shift)


def student(readout: ShallowNetwork, whitening: Whitening, like: Network) -> Network:
    """The network of a readout, with the output map and frame of another."""
    weight, bias = whitening.parameters(readout.units)
    last = Layer(np.ascontiguousarray(readout.outer.T), readout.bias, like.layers[-1].activation)
    return like.with_layers([Layer(weight, bias, readout.activation), last])
