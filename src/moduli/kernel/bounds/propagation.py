"""Rigorous bounds of pre-activations on boxes. A sceptic reads this file.

All bounds hold over the reals for the function whose parameters are the stored floats; every float
operation here is charged with its worst error, and no tolerance takes part. Boxes come in batches:
low, high of shape [batch, inputs].

One interval per unit is carried from layer to layer. `linear` adds, for each unit, an affine
function of the input above and one below it [idea: Singh et al. 2019, Zhang et al. 2018]:
going back through the layers, an inequality

    target <= a . h + c  on the box        (h: activations of a layer, one row a and number c per target and box)

is replaced by one about the layer before, see `Propagation._back`. `difference` does both for the
difference of two networks of one architecture, by relations between their units.

Rounding. u = 2^-53. A float sum of n products, in any order, fused or not, is off by at most
gamma_n times the sum of their sizes plus n 2^-1075, where gamma_n = n u / (1 - n u) <= (n + 1) u
[Higham 2002, 3.1; matrix products here are such sums; underflow is gradual]. Extremes that are
exactly zero stay zero where the sum is exact: because every product is zero, or because all terms
are multiples of a power of two, the *grain*, and their sizes sum to at most 2^53 grains, so that no
partial sum is rounded (`_unrounded`). An interval whose sign is in doubt is summed again exactly
(`_exact_upper`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from moduli.kernel import arithmetic
from moduli.kernel.arithmetic import LEAST
from moduli.kernel.errors import ShapeError
from moduli.kernel.exact_numbers import class_keys, two_product, two_sum, up
from moduli.kernel.network import Layer

from .relaxations import Relaxation, add_up, between, relaxation, relaxation_of_kink, slopes, within

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.intp]]
Signs = np.ndarray[Any, np.dtype[np.int8]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Batch = Float64[np.ndarray[Any, Any], "batch inputs"]
Bounds = list[tuple[Array, Array]]
U = 2.0**-53

TOUCH = 2.0**-35  # of all sizes: so little above zero a bound is computed again with care
ENTRIES = 2**20  # floats in one array of rows


class Twins(NamedTuple):
    """Activations of a layer by those of fewer units: s(z) = fold @ s(z) + tilt @ z + shift, with
    entries -1, 0, 1.
    """

    fold: Array
    tilt: Array
    shift: Array


class Affine(NamedTuple):
    """h -> weight @ h + bias; each parameter may be off by one rounding unless `exact`."""

    weight: Array
    bias: Array
    exact: bool = True
    twins: Twins | None = None


def maps(layers: Sequence[Layer], *, merged: bool = True) -> list[Affine]:
    """The affine maps of layers; with twins merged in all but the last."""
    last = len(layers) - 1
    return [
        Affine(x.weight, x.bias, twins=_twins(x) if merged and l < last else None)
        for l, x in enumerate(layers)
    ]


def _twins(layer: Layer) -> Twins | None:
    """Units whose row and bias equal those of an earlier unit or are their negatives, where the
    reflection law gives s(-z).
    """
    law, every = layer.activation.under(Fraction(-1)), np.arange(len(layer.bias))
    keys, signs = class_keys(layer.weight, layer.bias, sign=law is not None, scale=False)
    law = law or (Fraction(1), Fraction(0), Fraction(0))  # of use for no unit
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    if len(first) == len(every) or not all(part in (-1, 0, 1) for part in law):
        return None
    root = first[group]
    sign = signs * signs[root]
    rows = np.concatenate([layer.weight, layer.bias[:, None]], axis=1)
    same = (rows == sign[:, None] * rows[root]).all(axis=1)
    root, turned = np.where(same, root, every), same & (sign < 0)
    twins = Twins(
        np.zeros((len(every), len(every))),
        np.zeros((len(every), len(every))),
        np.where(turned, float(law[2]), 0.0),
    )
    twins.fold[every, root] = np.where(turned, float(law[0]), 1.0)
    twins.tilt[every, root] = np.where(turned, float(law[1]), 0.0)
    return twins


def _upper_sum(
    terms: Array, bias: Array, mass: Array, count: int, met: Mask | bool = True
) -> Array:
    """An upper bound of exact sums that were computed as `terms + bias`.

    Args:
        mass: float sums of the sizes of the same terms. count: products per sum, at most.
        met: where some product is not zero; elsewhere the sum is the bias, exactly.

    The sum is off by gamma_{count + 2} times the exact mass (count products, the bias, one rounding
    of a parameter) and by underflows, count 2^-1075. Where it is not finite nothing is known.
    """
    total = terms + bias
    error = up(up(mass, count + 2) * ((count + 4) * U)) + (count + 1) * LEAST
    return _raised(total, np.where(met, error, 0.0))


def _raised(total: Array, error: Array) -> Array:
    """An upper bound of total + error; infinite where an overflow may have spoilt a sum."""
    top = np.where(error == 0, total, np.nextafter(total + error, np.inf))
    return np.where(np.isfinite(total) & np.isfinite(top), top, np.inf)


def interval(map: Affine, low: Array, high: Array) -> tuple[Array, Array]:
    """Intervals of weight @ h + bias for h in [low, high], whose ends may be infinite.

    Upper ends: weight+ @ high + weight- @ low + bias; lower ends: minus the upper ends of -weight,
    -bias.
    """
    inputs = map.weight.shape[1]
    both = np.concatenate([np.maximum(map.weight, 0.0), np.minimum(map.weight, 0.0)], axis=1).T
    ends = np.concatenate(
        [np.concatenate([high, low], axis=1), np.concatenate([-low, -high], axis=1)]
    )
    endless = np.isinf(ends)
    ends = np.where(endless, 0.0, ends)
    bias = np.repeat([map.bias, -map.bias], len(low), axis=0)
    terms, sizes = ends @ both, np.abs(ends) @ np.abs(both)
    met = sizes != 0
    if not met.all():
        met = (ends != 0).astype(np.float64) @ (both != 0).astype(np.float64) > 0
    if map.exact:
        grain = np.outer(
            _grain(ends).min(axis=1, initial=np.inf), _grain(both).min(axis=0, initial=np.inf)
        )
        met &= ~_unrounded(sizes + np.abs(bias), grain, _grain(bias))
    else:
        met |= bias != 0
    top = _upper_sum(terms, bias, sizes + np.abs(bias), inputs + 1, met)
    if map.exact:
        unsure = met & (np.abs(terms + bias) <= top - (terms + bias))
        for i, j in np.argwhere(unsure).tolist():
            top[i, j] = min(top[i, j], _exact_upper(ends[i], both[:, j], float(bias[i, j])))
    if endless.any():  # a term without an end leaves the sum without one, unless its weight is zero
        top[endless.astype(np.float64) @ (both != 0).astype(np.float64) > 0] = np.inf
    return -top[len(low) :], top[: len(low)]


def _exact_upper(a: Array, b: Array, bias: float) -> float:
    """An upper bound of a . b + bias, 0 where that is its exact value: exact products, and a
    correctly rounded sum.

    `math.fsum` returns the nearest float, which is 0 only for 0, because all terms are multiples of
    2^-1074.
    """
    kept = (a != 0) & (b != 0)
    a, b = a[kept], b[kept]
    sizes = np.abs(np.concatenate([a, b]))
    if not (np.isfinite(sizes).all() and (sizes > 2.0**-450).all() and (sizes < 2.0**450).all()):
        return math.inf
    total = math.fsum([*(float(x) for part in two_product(a, b) for x in part), bias])
    return total if total == 0 else math.nextafter(total, math.inf)


def _grain(x: Array) -> Array:
    """The largest power of two that divides each float, infinite for 0."""
    mantissa, exponent = np.frexp(x)
    whole = (mantissa * 2.0**53).astype(np.int64)
    return np.where(
        whole == 0, np.inf, np.ldexp((whole & -whole).astype(np.float64), exponent - 53)
    )


def _unrounded(mass: Array, *grains: Array) -> Mask:
    """Whether float sums of terms with these grains and sums of sizes are exact; a grain below the
    least float is 0 here.
    """
    grain = np.minimum.reduce(grains)
    return np.asarray((grain > 0) & (up(mass, 2**20) <= 2.0**53 * grain))


Relax = Callable[[int, Array, Array], Relaxation]


class Choice(NamedTuple):
    """What a step back may choose, one row for each target: multipliers, as a linear program has
    them.

    Attributes:
        free: where the line on one side of the activation may be any through the origin, and is of
            the slope `slope`.
        rising: whether that is the side above. tilt: multiples of pre-activations, each >= 0 where
            it counts, to be added.
    """

    free: Mask
    slope: Array
    rising: bool
    tilt: Array

    def rows(self, at: Ints) -> Choice:
        return Choice(self.free[at], self.slope[at], self.rising, self.tilt[at])


Choices = Sequence[Choice]


class Propagation:
    """Bounds of all pre-activations of a chain of affine maps on a batch of boxes.

    Args:
        maps: the affine maps; relaxations of activations stand between them.
        relax: (layer, lo, hi) -> relaxations of the activations behind a layer, for pre-activations
            in [lo, hi].
        low, high: ``[batch, inputs]``.
        linear: whether to go back through the layers. lazy: only for units whose sign intervals
            leave open.
        known: bounds of pre-activations that hold for other reasons, per layer.
        units: per layer, which units to bound by going back (all by default).

    Attributes:
        bounds: (lo, hi) per layer, each ``[batch, units]``.
        products: multiplications of matrix entries so far: what a search that is bounded in work
            counts.
    """

    def __init__(
        self, maps: Sequence[Affine], relax: Relax, low: Array, high: Array, *, linear: bool = True,
        lazy: bool = False, known: Bounds | None = None, units: Sequence[Mask] | None = None,
    ) -> None:  # fmt: skip
        arithmetic.require()  # here, because worker processes begin here too
        self.maps, self.low, self.high = maps, low, high
        self.bounds: Bounds = []
        self.relaxations: list[Relaxation] = []
        self.sizes: list[tuple[Array, Array]] = []
        self.products = 4 * len(low) * sum(map.weight.size for map in maps)
        h = low, high
        with np.errstate(all="ignore"):
            for l, map in enumerate(maps):
                self._measure(map, *h)
                lo, hi = interval(map, *h)
                if known is not None:
                    lo, hi = np.maximum(lo, known[l][0]), np.minimum(hi, known[l][1])
                if linear and l > 0:
                    wanted = (lo < 0) & (hi > 0) if lazy else np.ones(lo.shape, dtype=bool)
                    lo, hi = self._tighten(
                        l, lo, hi, wanted if units is None else wanted & units[l]
                    )
                self.bounds.append((lo, hi))
                if l + 1 < len(maps):
                    self.relaxations.append(relax(l, lo, hi))
                    h = self.relaxations[-1].least, self.relaxations[-1].most

    def _measure(self, map: Affine, low: Array, high: Array) -> None:
        """Upper bounds of |weight| |h| + |bias| per unit, and of what underflows of one step back
        can cost per box.
        """
        count, reach = map.weight.shape[1], np.maximum(np.abs(low), np.abs(high))
        sizes = up(reach @ np.abs(map.weight).T + np.abs(map.bias), count + 2) + count * LEAST
        lost = (len(map.bias) + 1) * up(reach.sum(axis=1), count) + up(
            sizes.sum(axis=1), len(map.bias)
        )
        self.sizes.append((sizes, (up(lost, 4) + 4.0 * len(map.bias) + 4.0) * (2 * LEAST)))

    def _tighten(self, l: int, lo: Array, hi: Array, wanted: Mask) -> tuple[Array, Array]:
        owner, unit = np.nonzero(wanted)
        lo, hi = lo.copy(), hi.copy()
        step = max(1, ENTRIES // max(max(m.weight.shape) for m in self.maps))
        for start in range(0, len(unit), step):
            b, j = owner[start : start + step], unit[start : start + step]
            hi[b, j] = np.minimum(hi[b, j], self.unit_upper(l, b, j, 1.0)[0])
            lo[b, j] = np.maximum(lo[b, j], -self.unit_upper(l, b, j, -1.0)[0])
        return lo, hi

    def unit_upper(
        self, l: int, owner: Ints, unit: Ints, sign: Any, choices: Choices | None = None
    ) -> tuple[Array, Array]:
        """Upper bounds of sign (1 or -1, one or one per row) times the pre-activation of units of
        layer l on boxes.

        Args:
            choices: per layer before l; by default the lines of the relaxations.
        """
        map, sign = self.maps[l], np.broadcast_to(sign, unit.shape)
        c = map.bias[unit] * sign
        if not map.exact:  # the rows are off by one rounding of each entry
            c = _raised(c, up(self.sizes[l][0][owner, unit]) * (2 * U) + LEAST)
        rows = map.weight[unit] * sign[:, None]
        top, last = self.upper(l, rows, c, owner, choices)
        doubt = np.flatnonzero((top > 0) & (top <= TOUCH * self.sizes[l][0][owner, unit]))
        if map.exact and len(doubt):
            some = None if choices is None else [choice.rows(doubt) for choice in choices]
            again = self.upper(l, rows[doubt], c[doubt], owner[doubt], some, careful=True)[0]
            top[doubt] = np.minimum(top[doubt], again)
        return top, last

    def upper(
        self, l: int, a: Array, c: Array, owner: Ints, choices: Choices | None = None, *,
        careful: bool = False,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Upper bounds over the boxes `owner` of a . h + c, h the input of map l; and the last
        rows, about the inputs.

        Args:
            careful: spend time on finding out which roundings did not happen.
        """
        self.products += len(a) * sum(map.weight.size for map in self.maps[:l])
        with np.errstate(all="ignore"):
            for k in reversed(range(l)):
                a, c = self._back(k, a, c, owner, None if choices is None else choices[k], careful)
            ends = np.where(a > 0, self.high[owner], self.low[owner])
            sums, sizes = (
                np.einsum("ij,ij->i", a, ends),
                np.einsum("ij,ij->i", np.abs(a), np.abs(ends)),
            )
            top = _upper_sum(sums, c, sizes + np.abs(c), a.shape[1] + 1, (a != 0).any(axis=1))
            for k in range(len(top)) if careful else ():
                if np.isfinite(top[k]):
                    top[k] = min(top[k], _exact_upper(a[k], ends[k], float(c[k])))
        return top, a

    def _back(
        self, k: int, a: Array, c: Array, owner: Ints, choice: Choice | None, careful: bool
    ) -> tuple[Array, Array]:
        """From target <= a . h + c, h the activations behind map k, to target <= a' . g + c', g the
        input of map k.

        With lines h_j <= s_j z_j + t_j where a_j > 0 and h_j >= s_j z_j + t_j elsewhere: a . h <=
        sum a_j s_j z_j + a_j t_j. Let b_j = fl(a_j s_j): |a_j s_j - b_j| <= u |b_j| + 2^-1075. As z
        = W g + v, |z_j| is at most Z_j = (|W| |g| + |v|)_j, so sum a_j s_j z_j <= b . (W g + v) + u
        |b| . Z + 2^-1075 sum Z. Let a' = fl(b W): (b W) . g <= a' . g + gamma_n |b| |W| |g| + n
        2^-1074 sum |g|, and |b| |W| |g| + |b| |v| <= |b| . Z. So c' = c + b . v + a . t needs (2n +
        4) roundings (of a parameter, too) of the mass |c| + |b| . Z + |a| . |t|, and underflows as
        `_measure` counts them, plus 3 n 2^-1075 for the dot products of c'. None of this where b =
        a s, and the sums of c' and a' are exact. `_merge` adds a term d . z to a . h, hence d_j to
        b_j and one more rounding. A `Choice` has other lines, and its tilt adds multiples of z_j
        that are >= 0; twins stay apart then.
        """
        map, tilt = self.maps[k], None
        if choice is not None:
            tilt = choice.tilt
        elif map.twins is not None:
            a, c, tilt = self._merge(k, a, c, owner)
        slope, offset = self._lines(k, a > 0, owner, choice)
        on_z = a * slope
        size = np.abs(on_z)
        if tilt is not None:
            on_z, size = on_z + tilt, size + np.abs(tilt)
        shift = c + on_z @ map.bias + np.einsum("ij,ij->i", a, offset)
        sizes, lost = (part[owner] for part in self.sizes[k])
        mass = (
            np.abs(c)
            + np.einsum("ij,ij->i", size, sizes)
            + np.einsum("ij,ij->i", np.abs(a), np.abs(offset))
        )
        n = a.shape[1]
        error = up(up(mass, 2 * n + 4) * ((2 * n + 8) * U)) + lost
        if careful:
            error[self._exact_step(map, a, slope, offset, c, mass, tilt)] = 0.0
        something = (size != 0).any(axis=1) | (a != 0).any(axis=1)
        return on_z @ map.weight, np.where(something, _raised(shift, error), c)

    def _lines(
        self, k: int, rising: Mask, owner: Ints, choice: Choice | None
    ) -> tuple[Array, Array]:
        """Slopes and offsets of lines above the activations where these are `rising`, below them
        elsewhere.
        """
        lines = self.relaxations[k]
        slope = np.where(rising, lines.upper_slope[owner], lines.lower_slope[owner])
        offset = np.where(rising, lines.upper_offset[owner], lines.lower_offset[owner])
        if choice is None:
            return slope, offset
        chosen = choice.free & (rising == choice.rising)
        return np.where(chosen, choice.slope, slope), np.where(chosen, 0.0, offset)

    def _merge(self, k: int, a: Array, c: Array, owner: Ints) -> tuple[Array, Array, Array]:
        """a . h + c as a' . h + d . z + c' with the twins of map k merged: a' = a fold, d = a tilt,
        c' = c + a . shift.

        Sums of numbers without products: off by gamma_{n+1} times |c| + sum |a_j| (|fold| |h| +
        |tilt| |z| + |shift|)_j.
        """
        twins = self.maps[k].twins
        assert twins is not None
        lines, n = self.relaxations[k], a.shape[1]
        reach = np.maximum(np.abs(lines.least), np.abs(lines.most))
        sizes = (
            reach @ np.abs(twins.fold).T
            + self.sizes[k][0] @ np.abs(twins.tilt).T
            + np.abs(twins.shift)
        )
        mass = np.abs(c) + np.einsum("ij,ij->i", np.abs(a), sizes[owner])
        exact = _unrounded(
            np.abs(a).sum(axis=1) + np.abs(c), _grain(a).min(axis=1, initial=np.inf), _grain(c)
        )
        error = np.where(exact, 0.0, up(up(mass, n + 6) * ((n + 4) * U)) + LEAST)
        return a @ twins.fold, _raised(c + a @ twins.shift, error), a @ twins.tilt

    def _exact_step(
        self, map: Affine, a: Array, s: Array, t: Array, c: Array, mass: Array, tilt: Array | None
    ) -> Mask:
        """Rows of which `_back` rounds nothing: a s by `two_product`, sums by their grains."""
        b, lost = two_product(a, s)
        if tilt is not None:
            b, more = two_sum(b, tilt)
            lost = np.abs(lost) + np.abs(more)
        tame = ((np.abs(a) > 2.0**-450) & (np.abs(a) < 2.0**450) | (a == 0)) & (
            (s == 0) | (np.abs(s) > 2.0**-450)
        )
        same = (tame & (lost == 0) & (np.abs(s) < 2.0**450)).all(axis=1)
        grain, largest = (
            _grain(map.weight).min(axis=1, initial=np.inf),
            np.abs(map.weight).max(axis=1, initial=0.0),
        )
        rows = _unrounded(np.abs(b) @ largest, (_grain(b) * grain).min(axis=1, initial=np.inf))
        parts = [
            (_grain(x) * _grain(y)).min(axis=1, initial=np.inf) for x, y in ((b, map.bias), (a, t))
        ]
        return np.asarray(same & rows & _unrounded(mass, *parts, _grain(c)))


def blocks_of(count: int, widest: int) -> list[slice]:
    """Blocks of boxes that keep arrays at a bounded size."""
    step = max(1, ENTRIES // max(1, widest))
    return [slice(start, start + step) for start in range(0, max(count, 1), step)]


def propagate(
    layers: Sequence[Layer], low: Array, high: Array, *, linear: bool = True, lazy: bool = False,
    units: Sequence[Mask] | None = None,
) -> Propagation:  # fmt: skip
    """Bounds of the pre-activations of `layers`; see `Propagation`."""
    relax = partial(_relaxed, layers)
    return Propagation(
        maps(layers, merged=linear), relax, low, high, linear=linear, lazy=lazy, units=units
    )


def _relaxed(layers: Sequence[Layer], l: int, lo: Array, hi: Array) -> Relaxation:
    return relaxation(layers[l].activation, lo, hi)


def linear(layers: Sequence[Layer], low: Batch, high: Batch, *, lazy: bool = False) -> Bounds:
    """Bounds (lo, hi) of the pre-activations of each layer, each ``[batch, units]``, by affine
    functions and intervals.

    Args:
        lazy: leave the interval to units whose sign it settles (cheaper, and as tight for signs of
            ReLU networks).
    """
    return _batched(
        lambda low, high: propagate(layers, low, high, lazy=lazy).bounds, layers, low, high
    )


def _batched(
    find: Callable[[Array, Array], Bounds], layers: Sequence[Layer], low: Array, high: Array
) -> Bounds:
    inputs = layers[0].weight.shape[1]
    if low.shape != high.shape or low.ndim != 2 or low.shape[1] != inputs:
        raise ShapeError(
            f"boxes of shapes {low.shape} and {high.shape}; [batch, {inputs}] is needed"
        )
    if not (low <= high).all() or not np.isfinite([low, high]).all():
        raise ShapeError("a box has low > high, or an end that is not finite")
    widest = max(max(layer.weight.shape) for layer in layers)
    parts = [find(low[block], high[block]) for block in blocks_of(len(low), widest)]
    joined: Bounds = []
    for layer in zip(*parts, strict=True):
        lower, upper = zip(*layer, strict=True)
        joined.append((np.concatenate(lower), np.concatenate(upper)))
    return joined


# Two networks ---------------------------------------------------------------------------------------------------


def difference(
    a: Sequence[Layer], b: Sequence[Layer], low: Batch, high: Batch, *, relax: bool = True,
    lazy: bool = False,
) -> Bounds:  # fmt: skip
    """Bounds of z_a - z_b, the pre-activations of two networks of one architecture, layer by layer.

    With h = s(z): z_a - z_b = W_a (h_a - h_b) + (W_a - W_b) h_b + (b_a - b_b), and h_a - h_b is z_a
    - z_b times a mean slope of s between them. So the pairs (z_a - z_b, z_b) obey a chain of affine
    maps of twice the width.

    Args:
        relax: also go back through the layers by affine functions, not only by intervals. lazy: as
            in `linear`, for the bounds of each network alone.
    """
    shapes = [[(layer.weight.shape, layer.activation) for layer in net] for net in (a, b)]
    if shapes[0] != shapes[1]:
        raise ShapeError(
            f"networks of shapes {[s for s, _ in shapes[0]]} and {[s for s, _ in shapes[1]]}, or activations, differ"
        )
    return _batched(lambda low, high: _difference(a, b, low, high, relax, lazy), a, low, high)


@np.errstate(all="ignore")
def _difference(
    a: Sequence[Layer], b: Sequence[Layer], low: Array, high: Array, relax: bool, lazy: bool
) -> Bounds:
    alone = [propagate(net, low, high, linear=relax, lazy=lazy).bounds for net in (a, b)]
    known = []
    for (a_lo, a_hi), (b_lo, b_hi) in zip(*alone, strict=True):
        known.append((-add_up(-a_lo, b_hi), add_up(a_hi, -b_lo)))
    return _pairs(a, b, low, high, (alone[0], alone[1], known), relax)


@np.errstate(all="ignore")
def difference_within(
    a: Sequence[Layer], b: Sequence[Layer], low: Array, high: Array,
    known: tuple[Bounds, Bounds, Bounds],
) -> Bounds:  # fmt: skip
    """Bounds as by `difference`, from bounds of z_a, z_b and z_a - z_b that hold for other reasons.

    Going back through the layers is left to units of z_a whose sign is open, and to those of z_a -
    z_b behind which mean slopes are not known, and to the outputs.
    """
    found = Propagation(maps(a), partial(_relaxed, a), low, high, lazy=True, known=known[0]).bounds
    other = [
        (np.maximum(lo, -add_up(-x, d_hi)), np.minimum(hi, add_up(y, -d_lo)))
        for (lo, hi), (x, y), (d_lo, d_hi) in zip(known[1], found, known[2], strict=True)
    ]
    return _pairs(a, b, low, high, (found, other, known[2]), relax=True, lazy=True)


def _pairs(
    a: Sequence[Layer], b: Sequence[Layer], low: Array, high: Array,
    known: tuple[Bounds, Bounds, Bounds], relax: bool, lazy: bool = False,
) -> Bounds:  # fmt: skip
    """By the chain of pairs (z_a - z_b, z_b), given bounds of z_a, z_b and z_a - z_b."""
    both, units = [], []
    for l, (one, two, apart) in enumerate(zip(*known, strict=True)):
        mine = np.arange(2 * len(a[l].bias)) < len(a[l].bias)
        if lazy and l < len(a) - 1:
            ends = np.minimum(one[0], two[0]), np.maximum(one[1], two[1])
            least, most = slopes(a[l].activation, *ends)
            units.append(mine & np.concatenate([least < most] * 2, axis=1))
        else:
            units.append(mine)
        both.append(
            (np.concatenate([apart[0], two[0]], axis=1), np.concatenate([apart[1], two[1]], axis=1))
        )
    zero = np.zeros_like(low)
    found = Propagation(
        [_pair(p, q) for p, q in zip(a, b, strict=True)], partial(_lines_of_pairs, a, known[0]),
        np.concatenate([zero, low], axis=1), np.concatenate([zero, high], axis=1),
        linear=relax, known=both, units=units,
    ).bounds  # fmt: skip
    return [
        (lo[:, : len(x.bias)], hi[:, : len(x.bias)]) for (lo, hi), x in zip(found, a, strict=True)
    ]


def _lines_of_pairs(a: Sequence[Layer], alone: Bounds, l: int, lo: Array, hi: Array) -> Relaxation:
    return _pair_lines(a[l], lo, hi, *alone[l])


def _pair(a: Layer, b: Layer) -> Affine:
    """(h_a - h_b, h_b) -> (z_a - z_b, z_b); the differences of parameters are rounded once."""
    with np.errstate(over="ignore"):
        weight = np.block([[a.weight, a.weight - b.weight], [np.zeros_like(b.weight), b.weight]])
        return Affine(weight, np.concatenate([a.bias - b.bias, b.bias]), exact=False)


def _pair_lines(layer: Layer, lo: Array, hi: Array, a_lo: Array, a_hi: Array) -> Relaxation:
    """Lines around h_a - h_b in z_a - z_b, by mean slopes over what z_a and z_b can be, beside
    those around h_b.
    """
    n = len(layer.bias)
    b_lo, b_hi = lo[:, n:], hi[:, n:]
    least, most = slopes(layer.activation, np.minimum(a_lo, b_lo), np.maximum(a_hi, b_hi))
    apart = relaxation_of_kink(most, least, least, most, lo[:, :n], hi[:, :n])
    one, two = (relaxation(layer.activation, *z) for z in ((a_lo, a_hi), (b_lo, b_hi)))
    apart = within(
        apart, lo[:, :n], hi[:, :n], between(one.least, two.most), -between(two.least, one.most)
    )
    return Relaxation(*(np.concatenate(pair, axis=1) for pair in zip(apart, two, strict=True)))
