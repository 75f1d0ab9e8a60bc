"""How far two networks of one architecture are apart on boxes, by zonotopes that share symbols. Part
of the kernel.

Along with the values z_a of one network goes the difference z_a - z_b. On a box, each is enclosed by
a `Form`

    center + sum of shared[s] e_s + sum of own[t] o_t + r,     |e_s|, |o_t| <= 1, |r| <= rest,

with the same e_s and o_t for all units [zonotopes: Singh et al. 2018; of differences: Teuber et al.
2025]. The first e_s are the inputs. An affine map acts on the coefficients:

    z_a = W_a h_a + v_a,      z_a - z_b = W_b (h_a - h_b) + (W_a - W_b) h_a + (v_a - v_b).

An activation multiplies by a slope and adds a symbol: an e_s for what `band` leaves of h_a, and an
o_t for what it leaves of h_a - h_b, which is z_a - z_b times a mean slope between the two; or lies
between the ends of h_a less those of h_b, where these are nearer to each other.

Rounding. U = 2^-53. An entry of a product with n terms is off by at most gamma_n times the sum of
their sizes, see `propagation`; summed over all coefficients of a unit this is gamma_n times the row
|W| (|center| + sum |shared| + sum |own|), one number for a unit, which goes into its rest. Factors
are doubled, for the roundings of these sums themselves. What underflows is counted in `LEAST`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from moduli.kernel import arithmetic
from moduli.kernel.arithmetic import LEAST
from moduli.kernel.exact_numbers import up
from moduli.kernel.network import Layer

from .propagation import Affine, Bounds, U, interval
from .relaxations import Band, add_up, band, band_of_slopes, between, narrower, relaxation, slopes

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.intp]]


class Form(NamedTuple):
    """Enclosures of the values of a layer on boxes; see the top of this module.

    Attributes:
        center, rest: ``[batch, units]``. shared, own: ``[batch, symbols, units]``.
        radius: the sizes of all coefficients, summed. size: |center| + radius.
    """

    center: Array
    shared: Array
    own: Array
    rest: Array
    radius: Array
    size: Array


def _form(center: Array, shared: Array, own: Array, rest: Array) -> Form:
    radius = np.abs(shared).sum(axis=1) + np.abs(own).sum(axis=1)
    return Form(center, shared, own, rest, radius, np.abs(center) + radius)


class Apart(NamedTuple):
    """What z_a, z_b and z_a - z_b can be, per layer, each ``[batch, units]``.

    Attributes:
        blame: how much of the widest difference of the outputs is due to each input, ``[batch,
            inputs]``. Nothing is proved by it.
    """

    a: Bounds
    b: Bounds
    difference: Bounds
    blame: Array


@runtime_checkable
class Drift(Protocol):
    """By how much a network is off on the way, beside what its parameters say: sizes ``[batch, units]``,
    for values within ends.
    """

    def reads(self, layer: int, low: Array, high: Array) -> Array:
        """Of what a layer reads, from 0 on."""

    def gives(self, layer: int, low: Array, high: Array) -> Array:
        """Of what its sums are, before the activation."""


class _Trace(NamedTuple):
    """Of a layer: |coefficients| of its values, and which units the new symbols stand for."""

    coefficients: Array
    shared: Ints
    own: Ints


def apart(
    a: Sequence[Layer], b: Sequence[Layer], low: Array, high: Array, drift: Drift | None = None
) -> Apart:
    """Bounds for two networks of one architecture on boxes [batch, inputs].

    Args:
        drift: of b, if it is off on the way. Its errors get symbols, one for each unit.
    """
    arithmetic.require()
    found, traces = Apart([], [], [], np.zeros_like(low)), list[_Trace]()
    with np.errstate(all="ignore"):
        one, h = _box(low, high), (low, high)
        two = _form(np.zeros_like(low), np.zeros_like(one.shared), one.own, np.zeros_like(low))
        if drift is not None:
            two = _drifted(two, drift.reads(0, low, high))
        for l, (p, q) in enumerate(zip(a, b, strict=True)):
            two = _mapped([(q.weight, two), (p.weight - q.weight, one)], p.bias - q.bias)
            one = _mapped([(p.weight, one)], p.bias)
            z, d = _range(one, *interval(Affine(p.weight, p.bias), *h)), _range(two)
            other = -add_up(-z[0], d[1]), add_up(z[1], -d[0])
            if drift is not None:
                off = drift.gives(l, *other)
                two = two._replace(rest=add_up(two.rest, off))
                d, other = _wider(d, off), _wider(other, off)
            for bounds, new in zip(found[:3], (z, other, d), strict=True):
                bounds.append(new)
            if l == len(a) - 1:
                break
            lines, beside = relaxation(p.activation, *z), relaxation(p.activation, *other)
            h = lines.least, lines.most
            before = one.shared
            one, shared = _acted(one, band(p.activation, lines, *z))
            ends = np.minimum(z[0], other[0]), np.maximum(z[1], other[1])
            line = band_of_slopes(*slopes(p.activation, *ends), *d)
            # Where one of both is off, or nearly, h_a - h_b is no larger than the other.
            line = narrower(line, between(h[0], beside.most), -between(beside.least, h[1]))
            if drift is not None:
                off = drift.reads(l + 1, beside.least, beside.most)
                line = line._replace(least=-add_up(-line.least, off), most=add_up(line.most, off))
            two, own = _acted(two, line, own=True, whole=drift is not None)
            two = two._replace(shared=_with_rows(two.shared, one.shared.shape[1]))
            traces.append(_Trace(np.abs(before), shared, own))
        worst = np.maximum(-found.difference[-1][0], found.difference[-1][1]).argmax(axis=1)
        return found._replace(blame=_blame(two, worst, traces))


def _box(low: Array, high: Array) -> Form:
    """The inputs: middle and half width, rounded outward."""
    center = np.clip(0.5 * low + 0.5 * high, low, high)
    reach = np.maximum(add_up(high, -center), add_up(center, -low))
    shared = reach[:, None] * np.eye(low.shape[1])
    return _form(center, shared, shared[:, :0], np.zeros_like(low))


def _mapped(parts: Sequence[tuple[Array, Form]], bias: Array) -> Form:
    """The sum of weight @ h over parts, plus a bias; all entries of weights and bias may be off by
    one rounding, and only the first part has symbols of its own.
    """
    terms = sum(weight.shape[1] for weight, _ in parts)
    count = max(form.shared.shape[1] + form.own.shape[1] for _, form in parts)
    center = sum((form.center @ weight.T for weight, form in parts), bias[None])
    shared = sum(
        (_times(form.shared, weight) for weight, form in parts[1:]),
        _times(parts[0][1].shared, parts[0][0]),
    )
    own = _times(parts[0][1].own, parts[0][0])
    sizes = [np.abs(weight).T for weight, _ in parts]
    mass = sum(
        (form.size @ size for size, (_, form) in zip(sizes, parts, strict=True)), np.abs(bias)[None]
    )
    rest = sum(
        (form.rest @ size for size, (_, form) in zip(sizes, parts, strict=True)), np.zeros((1, 1))
    )
    met = mass + rest != 0
    if not met.all():  # sizes may underflow in a product: a unit is exact where no factor is there
        for size, (_, form) in zip(sizes, parts, strict=True):
            met |= ((form.size + form.rest != 0).astype(np.float64) @ (size != 0)) > 0
    lost = (terms + 2) * (count + 2) * 4 * LEAST
    error = up(mass * ((4 * terms + 16) * U), 4) + lost
    return _form(center, shared, own, up(rest, terms + 4) + np.where(met, error, 0.0))


def _times(coefficients: Array, weight: Array) -> Array:
    batch, symbols, units = coefficients.shape
    product = coefficients.reshape(batch * symbols, units) @ weight.T
    return product.reshape(batch, symbols, len(weight))


def _range(form: Form, least: Any = -np.inf, most: Any = np.inf) -> tuple[Array, Array]:
    """What a form can be, within bounds known for other reasons; without an end where a number
    overflowed.
    """
    radius = up(form.radius + form.rest, form.shared.shape[1] + form.own.shape[1] + 4)
    lo, hi = -add_up(-form.center, radius), add_up(form.center, radius)
    lo, hi = np.where(np.isnan(lo), -np.inf, lo), np.where(np.isnan(hi), np.inf, hi)
    return np.maximum(lo, least), np.minimum(hi, most)


def _wider(ends: tuple[Array, Array], off: Array) -> tuple[Array, Array]:
    return -add_up(-ends[0], off), add_up(ends[1], off)


def _drifted(two: Form, off: Array) -> Form:
    """A difference, with a symbol for each unit that is off."""
    new, _ = _symbols(off)
    return _form(two.center, two.shared, np.concatenate([two.own, new], axis=1), two.rest)


def _acted(form: Form, line: Band, *, own: bool = False, whole: bool = False) -> tuple[Form, Ints]:
    """slope z + least <= h <= slope z + most, with one more symbol for each unit where least < most;
    and the units of the new symbols. Where `whole`, a new symbol stands for the rest as well.

    Nothing is rounded where the middle is 0 and the slope is 0, 1 or -1, or all coefficients are 0.
    """
    slope, least, most = line
    middle = 0.5 * least + 0.5 * most
    reach = np.maximum(add_up(most, -middle), add_up(middle, -least))
    exact = ((slope == 0) | (np.abs(slope) == 1) | (form.size == 0)) & (middle == 0)
    count = form.shared.shape[1] + form.own.shape[1] + 2
    error = up((np.abs(slope) * form.size + np.abs(middle)) * (4 * U), 4) + count * LEAST
    rest = up(np.abs(slope) * form.rest, 2) + LEAST * (form.rest != 0) + np.where(exact, 0.0, error)
    if whole:
        reach, rest = add_up(reach, rest), np.zeros_like(rest)
    shared, mine = (part * slope[:, None] for part in (form.shared, form.own))
    new, units = _symbols(reach)
    if own:
        mine = np.concatenate([mine, new], axis=1)
    else:
        shared = np.concatenate([shared, new], axis=1)
    return _form(slope * form.center + middle, shared, mine, rest), units


def _symbols(reach: Array) -> tuple[Array, Ints]:
    """Rows of coefficients, one for each unit that has a reach, as many as some box needs."""
    batch, width = reach.shape
    count = int((reach != 0).sum(axis=1).max(initial=0))
    units = np.argsort(reach == 0, axis=1, kind="stable")[:, :count]
    rows = np.zeros((batch, count, width))
    np.put_along_axis(
        rows, units[:, :, None], np.take_along_axis(reach, units, axis=1)[:, :, None], 2
    )
    return rows, units


def _with_rows(coefficients: Array, count: int) -> Array:
    """Coefficients, zero for symbols that came later."""
    batch, symbols, units = coefficients.shape
    return np.concatenate([coefficients, np.zeros((batch, count - symbols, units))], axis=1)


def _blame(two: Form, worst: Ints, traces: Sequence[_Trace]) -> Array:
    """Sizes of coefficients of one output of each box, those of hidden units handed down to what
    their values are made of.
    """
    shared, own = (
        np.abs(np.take_along_axis(part, worst[:, None, None], axis=2)[:, :, 0])
        for part in (two.shared, two.own)
    )
    for coefficients, units, mine in reversed(traces):
        below, above = shared.shape[1] - units.shape[1], own.shape[1] - mine.shape[1]
        weight = np.zeros((len(worst), coefficients.shape[2]))
        for part, at in ((shared[:, below:], units), (own[:, above:], mine)):
            np.put_along_axis(weight, at, np.take_along_axis(weight, at, axis=1) + part, axis=1)
        weight /= np.maximum(coefficients.sum(axis=1), LEAST)
        shared = shared[:, :below] + np.einsum("bsu,bu->bs", coefficients, weight)
        own = own[:, :above]
    return np.nan_to_num(shared, nan=0.0, posinf=0.0)
