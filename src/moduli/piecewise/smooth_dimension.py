"""Functional dimension of networks with tanh, sigmoid or softplus units: the rank of the derivative of
outputs at points by the parameters.

*From below.* Entries of that matrix are enclosed: sums by the usual bounds of rounding, activations
at the floats that were computed by `exact_numbers` (110 decimal digits), their derivatives by 1 - t^2,
s (1 - s), and the sigmoid. Rows, columns and an approximate inverse are chosen in floats; that all
matrices within the enclosure have that rank is proved by it (`crease_margins.has_full_rank`).

*From above.* By the scaling of units with homogeneous activations; of the others no group moves
parameters continuously, so the bound is the number of parameters. If it is reached, the derivative
is one to one (up to scaling), so that no other parameters close by have the function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.domains import ON_BOX, Domain
from moduli.kernel.activations import Activation
from moduli.kernel.bounds.propagation import U
from moduli.kernel.box import Box
from moduli.kernel.errors import ArgumentError, Asked, CertificateRejected, Undecided
from moduli.kernel.exact_numbers import enclose_value
from moduli.kernel.network import Network

from .cells_sampled import scattered
from .crease_margins import has_full_rank

Array = np.ndarray[Any, np.dtype[np.float64]]
SMOOTH = ("tanh", "sigmoid", "softplus")
LARGEST = 1_500  # parameters: the matrix is inverted, and its entries enclosed one by one
SPARE = 3  # rows in floats for each parameter, of which the best are taken
NEGLIGIBLE = 1e-13  # of the largest pivot: what floats cannot tell from 0
SLOP = 1 + 1e-12  # for the rounding of a few operations on bounds
SIGMOID = Activation("sigmoid")


def applies(net: Network) -> bool:
    """Whether there is a smooth unit, and all others are of these kinds or piecewise linear."""
    kinds = [str(act) in SMOOTH for act in net.activations]
    return any(kinds) and all(
        smooth or act.piecewise_linear for smooth, act in zip(kinds, net.activations, strict=True)
    )


@dataclass(frozen=True, eq=False)
class SmoothPoints:
    """Points whose derivatives by the parameters are independent.

    Attributes:
        points: ``[rows, inputs]``. outputs: ``[rows]``, which output is differentiated at each.
    """

    network: Network
    box: Box
    points: Array
    outputs: Any
    complete: ClassVar[bool] = False

    @property
    def cells(self) -> int:
        return len(self.points)

    @cached_property
    def jacobian(self) -> tuple[Array, Array]:
        """Middle and reach of the derivatives ``[rows, parameters]``, in the order of `Network.flat`."""
        return _enclosed_rows(self.network, self.points, self.outputs)

    def check(self) -> bool:
        """Look whether the points are in the box.

        Raises:
            CertificateRejected: one is not.
        """
        box = self.box.of_dimension(self.network.widths[0])
        inside = ((self.points >= box.low) & (self.points <= box.high)).all(axis=1)
        if not inside.all():
            raise CertificateRejected(f"point {int(np.argmin(inside))} is outside the box")
        return True

    def lower(self) -> int:
        """How many rows there are, if they are proved to be independent, else 0."""
        return len(self.points) if has_full_rank(*self.jacobian) else 0


def smooth_points(net: Network, on: Domain, seed: int) -> SmoothPoints:
    """As many points as are found, with rows proved to be independent.

    Raises:
        ArgumentError: no box. Undecided: too many parameters.
    """
    from scipy.linalg import qr

    if not isinstance(on, Box):
        raise ArgumentError(Asked("on", on), ": points are taken in a box; give ", ON_BOX)
    if net.parameters > LARGEST:
        raise Undecided(
            f"{net.parameters} parameters: of networks with smooth units the functional dimension is "
            f"computed up to {LARGEST}; give a smaller network",
            lower=0,
            upper=net.parameters,
        )
    box, rng, outputs = on.of_dimension(net.widths[0]), np.random.default_rng(seed), net.widths[-1]
    x = scattered(box, SPARE * (net.parameters // outputs + 8), rng)
    points, which = np.repeat(x, outputs, axis=0), np.tile(np.arange(outputs), len(x))
    rows = _plain_rows(net, points, which)
    kept = np.isfinite(rows).all(axis=1)
    rows, points, which = rows[kept], points[kept], which[kept]
    size = np.abs(rows).max(axis=0, initial=0.0)
    scaled = rows / np.where(size > 0, size, 1.0)
    corner, order = qr(scaled.T, mode="r", pivoting=True)
    pivots = np.abs(np.diagonal(corner))
    count = int((pivots > NEGLIGIBLE * pivots.max(initial=0.0)).sum())
    order = order[:count]
    middle, reach = _enclosed_rows(net, points[order], which[order])
    # The first pivots are the best: as many as are proved, by halving.
    least, most = 0, count + 1
    while most - least > 1:
        k = count if most == count + 1 and least == 0 else (least + most) // 2
        if has_full_rank(middle[:k], reach[:k]):
            least = k
        else:
            most = k
    return SmoothPoints(net, on, points[order[:least]], which[order[:least]])


def _plain_rows(net: Network, points: Array, outputs: Any) -> Array:
    """The derivatives in floats."""
    reads, slopes, h = list[Array](), list[Array](), points
    with np.errstate(all="ignore"):
        for layer in net.layers:
            reads.append(h)
            z = h @ layer.weight.T + layer.bias
            slopes.append(np.asarray(layer.activation.derivative(z)))
            h = np.asarray(layer.activation(z))
        back = np.eye(net.widths[-1])[outputs]
        parts = list[Array]()
        for layer, read, slope in zip(net.layers[::-1], reads[::-1], slopes[::-1], strict=True):
            back = back * slope
            parts[:0] = [(back[:, :, None] * read[:, None]).reshape(len(back), -1), back]
            back = back @ layer.weight
    return np.concatenate(parts, axis=1)


class _Near(NamedTuple):
    """Floats and how far the true numbers may be from them."""

    middle: Array
    reach: Array

    def times(self, other: _Near) -> _Near:
        middle = self.middle * other.middle
        reach = np.abs(self.middle) * other.reach
        reach = reach + self.reach * (np.abs(other.middle) + other.reach)
        return _Near(middle, reach * SLOP + 2 * U * np.abs(middle) + 1e-300)


def _enclosed_rows(net: Network, points: Array, outputs: Any) -> tuple[Array, Array]:
    """The derivatives, enclosed."""
    reads, slopes, h = list[_Near](), list[_Near](), _Near(points, np.zeros_like(points))
    for layer in net.layers:
        reads.append(h)
        z = _product(h, layer.weight.T, layer.bias)
        h, slope = _activated(layer.activation, z)
        slopes.append(slope)
    eye = np.eye(net.widths[-1])[outputs]
    back, parts = _Near(eye, np.zeros_like(eye)), list[_Near]()
    for layer, read, slope in zip(net.layers[::-1], reads[::-1], slopes[::-1], strict=True):
        back = back.times(slope)
        wide = _Near(back.middle[:, :, None], back.reach[:, :, None])
        entries = wide.times(_Near(read.middle[:, None], read.reach[:, None]))
        flat = (part.reshape(len(points), -1) for part in entries)
        parts[:0] = [_Near(*flat), back]
        back = _product(back, layer.weight, np.zeros(layer.weight.shape[1]))
    middle = np.concatenate([part.middle for part in parts], axis=1)
    return middle, np.concatenate([part.reach for part in parts], axis=1)


def _product(h: _Near, weight: Array, bias: Array) -> _Near:
    size, gamma = np.abs(weight), (len(weight) + 4) * 2 * U
    with np.errstate(all="ignore"):
        middle = h.middle @ weight + bias
        reach = h.reach @ size * (1 + 2 * gamma)
        reach = reach + gamma * (np.abs(h.middle) @ size + np.abs(bias))
    return _Near(middle, reach * SLOP + 1e-290)


def _activated(act: Activation, z: _Near) -> tuple[_Near, _Near]:
    """Values and derivatives."""
    if act.piecewise_linear:
        middle = np.asarray(act(z.middle))
        reach = float(act.lipschitz) * z.reach * SLOP + 2 * U * np.abs(middle)
        sure = (np.abs(z.middle) > z.reach) | (act.kind == "identity")
        slope = np.asarray(act.derivative(z.middle))
        return _Near(middle, reach), _Near(slope, np.where(sure, 0.0, np.inf))
    value = _values(act, z)
    if act.kind == "softplus":
        return value, _values(SIGMOID, z)
    if act.kind == "tanh":
        square = value.times(value)
        return value, _difference(square)
    return value, value.times(_difference(value))


def _difference(t: _Near) -> _Near:
    """1 - t."""
    middle = 1.0 - t.middle
    return _Near(middle, t.reach * SLOP + 2 * U * np.abs(middle))


def _values(act: Activation, z: _Near) -> _Near:
    """The activation at floats to their last digit; from there its steepest slope carries what they
    are off.
    """
    middle, reach = np.empty(z.middle.shape), np.empty(z.middle.shape)
    for at, number in enumerate(z.middle.ravel().tolist()):
        if not math.isfinite(number):
            middle.flat[at], reach.flat[at] = 0.0, np.inf
            continue
        low, high = enclose_value(act, (Fraction(number), Fraction(number)))
        middle.flat[at] = float((low + high) / 2)
        reach.flat[at] = float(high - low)
    steep = float(act.lipschitz)
    return _Near(middle, (steep * z.reach + reach + 2 * U * np.abs(middle)) * SLOP + 1e-300)
