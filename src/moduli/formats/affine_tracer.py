"""The tracer: a tensor that is an affine image of the last activations, and what it becomes when it
meets an activation.

Readers of graphs (ONNX, torch) walk the operations of a model with one `Tensor` in hand.
Rearrangements move positions, elementwise scales and shifts stay lazy, matrices compose exactly,
and an activation closes a layer:

    tensor = (scale * u[select] + shift)[index],   u = the last activations h, or weight @ h + bias

so that a flattened image of 150 000 pixels costs a vector and no identity matrix. Numbers are kept
as `BallArray`: exact where doubles and pairs of doubles allow, else with a rigorous error bound;
they are rounded once, in `finish`, and what that rounding does to the function is certified and
noted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from moduli.common.exact_values import exact_arrays
from moduli.kernel.activations import Activation
from moduli.kernel.errors import ShapeError, UnsupportedModel
from moduli.kernel.exact_numbers import (
    ExactArray,
    enclose,
    matmul,
    two_product,
    two_sum,
    up,
    up_matmul,
)
from moduli.kernel.network import IDENTITY, Layer, Network, _float64
from moduli.kernel.slack import difference

Array = np.ndarray[Any, np.dtype[np.float64]]
Indices = np.ndarray[Any, np.dtype[np.intp]]

MAX_PARAMETERS = 2**29
MAX_ENTRIES = 2**22  # of one tensor
MAX_MADE = (
    2**24
)  # of all matrices that no model holds: identities, block diagonals, products of narrow ones
EXACT_PRODUCTS = 2**16
TINY = 1e-320


# Numbers with an error bound ------------------------------------------------------------------------------------


class BallArray:
    """An array of real numbers: an `ExactArray`, and absolute error bounds, or None where it is
    exact.
    """

    def __init__(self, centre: ExactArray, radius: Array | None = None) -> None:
        self.centre, self.radius = centre, radius

    @staticmethod
    def of(array: Any) -> BallArray:
        """Stored floats, which are exact and must be finite."""
        if isinstance(array, BallArray):
            return array
        own = _float64(array, "a constant")
        if not np.isfinite(own).all():
            raise UnsupportedModel(
                f"a constant of shape {own.shape} holds {own[~np.isfinite(own)][0]}; it must be finite"
            )
        return BallArray(ExactArray(own))

    @staticmethod
    def near(numbers: Sequence[Fraction], relative: float, shape: tuple[int, ...]) -> BallArray:
        """Rationals that are right up to a relative error, kept as pairs of floats."""
        centre = ExactArray(np.zeros(len(numbers)))
        for k, number in enumerate(numbers):
            centre.put((k,), number)
        ball = BallArray(centre).loose()
        radius = ball._radius() + (up(relative * np.abs(centre.hi)) + TINY if relative else 0.0)
        return BallArray(ball.centre, up(radius) if radius.any() else None).map(
            lambda a: a.reshape(shape)
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.centre.hi.shape)

    def equals(self, other: BallArray) -> bool:
        """Whether both are the same numbers with the same bounds."""
        if self.shape != other.shape or not self.centre.equals(other.centre):
            return False
        return np.array_equal(self._radius(), other._radius())

    def is_float(self) -> bool:
        return self.radius is None and self.centre.is_float()

    def is_constant(self, value: float) -> bool:
        return self.is_float() and bool((self.centre.hi == value).all())

    def _radius(self) -> Array:
        return np.zeros(self.shape) if self.radius is None else self.radius

    def _size(self) -> Array:
        """Upper bounds of the absolute values of the centre."""
        return np.asarray(up(np.abs(self.centre.hi)) + (TINY if self.centre.rest else 0.0))

    def loose(self) -> BallArray:
        """The same numbers as pairs of floats: what these do not hold goes into the radius."""
        if not self.centre.rest:
            return self
        radius = self._radius().copy()
        pairs = ExactArray(self.centre.hi, self.centre.lo)
        for at, number in self.centre.rest.items():
            if not math.isfinite(pairs.hi[at]):
                raise UnsupportedModel(
                    f"a folded affine map holds a number {_power(number)}, beyond float64"
                )
            low, high = (end - _rational(pairs, at) for end in enclose(number))
            radius[at] += math.nextafter(float(max(abs(low), abs(high))), math.inf)
        return BallArray(pairs, up(radius))

    def map(self, fn: Callable[[Array], Array]) -> BallArray:
        """The same rearrangement of centre and radius."""
        ball = self.loose()

        def moved(part: Array | None) -> Array | None:
            return None if part is None else np.asarray(fn(part))

        centre = ExactArray(np.asarray(fn(ball.centre.hi)), moved(ball.centre.lo))
        return BallArray(centre, moved(ball.radius))

    def times(self, other: BallArray) -> BallArray:
        """The elementwise product, with broadcasting: exact for plain floats, else right to 2^-101."""
        a, b = self.loose(), other.loose()
        exact = a.centre.is_float() and b.centre.is_float()
        x, y = np.broadcast_arrays(a.centre.hi, b.centre.hi)
        size = np.abs(np.stack([x, y]))
        far = ((size < 2.0**-450) | (size > 2.0**450)).any(axis=0) & (x != 0) & (y != 0)
        near = (x != 0) & (y != 0) & ~far
        p, q = np.where(near, x, 0.0), np.where(near, y, 0.0)
        hi, lo = two_product(p, q)
        if not exact:
            hi, lo = two_sum(hi, lo + (p * b._low() + q * a._low()))
        out = _pairs(hi, lo)
        places = [
            np.broadcast_to(np.arange(math.prod(c.shape)).reshape(c.shape), x.shape) for c in (a, b)
        ]
        for at in map(tuple, np.argwhere(far).tolist()):
            left, right = (
                _rational(c.centre, np.unravel_index(k[at], c.shape))
                for c, k in zip((a, b), places, strict=True)
            )
            out.put(at, left * right)
        if exact and a.radius is None and b.radius is None:
            return BallArray(out)
        ra, rb = a._radius(), b._radius()
        with np.errstate(over="ignore", invalid="ignore"):
            total = (
                a._size() * rb
                + b._size() * ra
                + ra * rb
                + (0.0 if exact else 2.0**-101 * np.abs(hi))
            )
        return BallArray(out, up(np.where(np.isnan(total), np.inf, total), 12) + TINY)

    def plus(self, other: BallArray) -> BallArray:
        """The exact elementwise sum of two arrays of one shape."""
        a, b = self.centre, other.centre
        radius = None
        if self.radius is not None or other.radius is not None:
            radius = up(self._radius() + other._radius())
        with np.errstate(over="ignore", invalid="ignore"):
            hi, lo = two_sum(a.hi, b.hi)
        if a.is_float() and b.is_float() and np.isfinite(hi).all():
            return BallArray(_pairs(hi, lo), radius)
        if not (a.rest or b.rest) and hi.size > EXACT_PRODUCTS and np.isfinite(hi).all():
            return BallArray(*_pair_sum(hi, lo, self._low(), other._low(), radius))
        out = ExactArray(np.zeros(self.shape))
        for at in np.ndindex(self.shape):
            out.put(at, _rational(a, at) + _rational(b, at))
        return BallArray(out, radius)

    def after(self, other: BallArray) -> BallArray:
        """The matrix product ``self @ other``: exact where it is small or pairs of floats suffice."""
        if self.shape[0] * math.prod(other.shape) <= EXACT_PRODUCTS:
            a, b, centre, lost = self, other, matmul(self.centre, other.centre), None
        else:
            a, b = self._ranged(), other._ranged()
            centre, lost = _pair_product(a.centre, b.centre)
        if a.radius is None and b.radius is None:
            return BallArray(centre, lost)
        ra, rb = a._radius(), b._radius()
        radius = up_matmul(up(a._size() + ra), rb) + up_matmul(ra, b._size())
        if lost is not None:
            radius = radius + lost
        return BallArray(centre, up(radius) + TINY)

    def _ranged(self) -> BallArray:
        """Pairs of floats that `two_product` takes; what is too small goes into the radius."""
        ball = self.loose()
        hi, lo = ball.centre.hi, ball._low()
        if (np.abs(hi) > 2.0**450).any():
            raise UnsupportedModel(
                f"consecutive affine maps hold the number {hi[np.abs(hi) > 2.0**450][0]}; at most 2^450 is folded"
            )
        tiny_hi, tiny_lo = (np.where(np.abs(part) < 2.0**-450, part, 0.0) for part in (hi, lo))
        if not (tiny_hi.any() or tiny_lo.any()):
            return ball
        radius = up(ball._radius() + np.abs(tiny_hi) + np.abs(tiny_lo))
        return BallArray(ExactArray(np.asarray(hi - tiny_hi), np.asarray(lo - tiny_lo)), radius)

    def _low(self) -> Array:
        return np.zeros(self.shape) if self.centre.lo is None else self.centre.lo

    def rows(self, index: Indices) -> BallArray:
        """Sub-array along the first axis; an index may occur several times."""
        if len(index) == self.shape[0] and np.array_equal(index, np.arange(len(index))):
            return self
        return self.map(lambda a: a[index])

    def spread(self, columns: Indices, width: int) -> BallArray:
        """The matrix of ``width`` columns that applies ``self`` to the given columns of a vector."""
        if len(columns) == width and np.array_equal(columns, np.arange(width)):
            return self
        if len(np.unique(columns)) < len(columns):
            places, inverse = np.unique(columns, return_inverse=True)
            merge = np.zeros((len(columns), len(places)))
            merge[np.arange(len(columns)), inverse] = 1.0
            return self.after(BallArray.of(merge)).spread(places, width)

        def wide(a: Array) -> Array:
            out = np.zeros((a.shape[0], width))
            out[:, columns] = a
            return out

        return self.map(wide)

    def away(self) -> ExactArray:
        """Numbers at least as far from the nearest floats `hi` as any number of the ball."""
        if self.radius is None:
            return self.centre
        pairs = self.loose()
        lo = pairs._low()
        return ExactArray(pairs.centre.hi, np.copysign(up(np.abs(lo) + pairs._radius()), lo))


def _rational(array: ExactArray, at: Any) -> Fraction:
    number = array.get(tuple(int(i) for i in at))
    assert isinstance(number, Fraction)
    return number


def _pair_product(a: ExactArray, b: ExactArray) -> tuple[ExactArray, Array | None]:
    """``a @ b`` summed in pairs of floats, and a bound of what was lost, or None where nothing was."""
    left, right = ([x.hi] if x.lo is None else [x.hi, x.lo] for x in (a, b))
    shape = a.hi.shape[0], b.hi.shape[1]
    hi, lo, lost = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for p, q in ((p, q) for p in left for q in right):
        for k in range(p.shape[1]):
            product, e = two_product(p[:, k, None], q[None, k])
            hi, e1 = two_sum(hi, product)
            e, e2 = two_sum(e, e1)
            lo, e3 = two_sum(lo, e)
            lost += np.abs(e2) + np.abs(e3)
    hi, lo = two_sum(hi, lo)
    terms = len(left) * len(right) * a.hi.shape[1]
    return _pairs(hi, lo), up(lost, 2 * terms) if lost.any() else None


def _pairs(hi: Array, lo: Array) -> ExactArray:
    """hi + lo, as plain floats where nothing is left below them."""
    return ExactArray(hi, lo if lo.any() else None)


def _pair_sum(hi: Array, *rest: Any) -> tuple[ExactArray, Array | None]:
    """``hi + lo + low + low`` as pairs of floats, and a bound of what these do not hold."""
    *lows, radius = rest
    lo, lost = np.zeros(hi.shape), np.zeros(hi.shape)
    for low in lows:
        lo, error = two_sum(lo, low)
        lost += np.abs(error)
    hi, lo = two_sum(hi, lo)
    total = lost if radius is None else lost + radius
    return _pairs(hi, lo), up(total, 4) if total.any() else None


def _power(number: Any) -> str:
    low, _ = enclose(number)
    return f"about 2^{abs(low.numerator).bit_length() - low.denominator.bit_length()}"


def reciprocal(array: Any) -> BallArray:
    """1 / array, elementwise.

    Raises:
        UnsupportedModel: an entry is zero.

    >>> import numpy as np
    >>> reciprocal(np.array([2.0])).is_float(), reciprocal(np.array([3.0])).is_float()
    (True, False)
    """
    divisor = _float64(array, "a divisor")
    if not divisor.all():
        raise UnsupportedModel("a division by zero; remove it from the model")
    mantissas, _ = np.frexp(divisor)
    if (np.abs(mantissas) == 0.5).all() and np.isfinite(1 / divisor).all():
        return BallArray.of(1 / divisor)
    values, inverse = np.unique(divisor, return_inverse=True)
    ball = BallArray.near([1 / Fraction(c) for c in values.tolist()], 0.0, (len(values),))
    return ball.map(lambda a: a[inverse].reshape(divisor.shape))


def inverse_root(variance: Any, epsilon: float) -> BallArray:
    """1 / sqrt(variance + epsilon), elementwise: the factor of a batch normalisation, within
    2^-100.

    >>> import numpy as np
    >>> inverse_root(np.array([3.75]), 0.25).centre.hi
    array([0.5])
    """
    array = _float64(variance, "a variance")
    roots = []
    for v in array.ravel().tolist():
        total = Fraction(v) + Fraction(epsilon)
        if total <= 0:
            raise UnsupportedModel(
                f"variance {v} + epsilon {epsilon} is not positive; the normalisation is undefined"
            )
        roots.append(inverse_root_of(total))
    return BallArray.near(roots, 2.0**-120, array.shape)


def inverse_root_of(total: Fraction) -> Fraction:
    """1 / sqrt(total) of a positive rational, with a relative error of at most 2^-120."""
    n, d = total.as_integer_ratio()
    k = max(0, 130 - (n * d).bit_length() // 2)
    return Fraction(math.isqrt(n * d << 2 * k), n << k)


# The tensor -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Tensor:
    """An abstract tensor flowing through a graph; made by `Tensor.input`, immutable.

    A reader may carry several samples at once, to see that the model treats them apart and alike.
    What is known is then known of one sample, and `index` says which entry of which sample stands
    at each place: k * entries + entry of sample k.

    Attributes:
        layers: the finished hidden layers (weight, bias, activation).
        inputs: size of the network's input.
        width: size of the last activations (of the input, where there are none).
        dense: pending map (weight [m, width], bias [m]), or None.
        select, scale, shift, index: as in the module docstring; None is 1 or 0.
        folded: affine maps met so far, for the notes. made: numbers in matrices so far that no file
            stores.
        samples: how many are carried.
        notes: what was done to the model on the way, for `Network.notes`.

    >>> import numpy as np
    >>> x = Tensor.input((1, 2)).shifted(np.array([-1.0, 0.0])).matmul(np.array([[1.0, 0.0], [1.0, 2.0]]))
    >>> net = x.activate(Activation("relu")).matmul(np.array([[1.0], [1.0]])).finish()
    >>> net.widths, net(np.array([[3.0, 1.0]]))
    ((2, 2, 1), array([[5.]]))
    >>> Tensor.input((3, 2), samples=3).rearrange(np.transpose).matmul(np.ones((3, 1)))
    Traceback (most recent call last):
    ...
    moduli.kernel.errors.UnsupportedModel: a sum mixes samples of the batch; each sample must be treated by itself
    """

    layers: tuple[tuple[BallArray, BallArray, Activation], ...]
    inputs: int
    width: int
    dense: tuple[BallArray, BallArray] | None
    select: Indices
    scale: BallArray | None
    shift: BallArray | None
    index: Indices
    folded: int = 0
    made: int = 0
    samples: int = 1
    notes: tuple[str, ...] = ()

    @staticmethod
    def input(shape: Sequence[int], *, samples: int = 1) -> Tensor:
        """The network's input; of several samples the first axis counts them."""
        size = math.prod(shape)
        _limit(size, f"an input of shape {tuple(shape)}", MAX_ENTRIES)
        if samples != 1 and (samples < 1 or shape[0] != samples):
            raise ShapeError(
                f"{samples} samples in an input of shape {tuple(shape)}; the first axis must count them"
            )
        one = size // samples
        index = np.arange(size).reshape(tuple(shape))
        return Tensor((), one, one, None, np.arange(one), None, None, index, samples=samples)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.index.shape)

    @property
    def size(self) -> int:
        return self.index.size

    @property
    def pristine(self) -> bool:
        """Whether these are the last activations themselves, rearranged."""
        return self.dense is None and self.scale is None and self.shift is None

    def rearrange(self, fn: Callable[[Any], Any]) -> Tensor:
        """Apply a numpy function that moves, drops or repeats entries (reshape, transpose, slice,
        take).
        """
        index = np.asarray(fn(self.index))
        _limit(index.size, f"a tensor of shape {index.shape}", MAX_ENTRIES)
        return replace(self, index=index)

    # Samples ----------------------------------------------------------------------------------------------------

    def _places(self, shape: tuple[int, ...]) -> tuple[Indices, Indices]:
        """Places ``[samples, n]`` of each sample's entries in a tensor broadcast to a shape, and
        the entries ``[n]`` there.

        Raises:
            UnsupportedModel: the samples are not alike: what is read of one would not hold of
                another.
        """
        _limit(math.prod(shape), f"a tensor of shape {shape}", MAX_ENTRIES)
        codes = np.broadcast_to(self.index, shape).ravel()
        if self.samples == 1:
            return np.arange(len(codes))[None], codes
        return self._alike(codes)

    def _alike(self, codes: Indices) -> tuple[Indices, Indices]:
        """The same of a list of codes; samples must have the same entries in the same order."""
        of, entry = np.divmod(codes, max(1, len(self.select)))
        counts = np.bincount(of, minlength=self.samples)
        if (counts != counts[0]).any():
            raise UnsupportedModel(_APART)
        places = np.argsort(of, kind="stable").reshape(self.samples, -1)
        if (entry[places] != entry[places[:1]]).any():
            raise UnsupportedModel(_APART)
        return places, entry[places[0]]

    def _even(self, shape: tuple[int, ...]) -> Tensor:
        """The same tensor, broadcast, with one lazy entry per entry of a sample."""
        return self._spread(shape, *self._places(shape))

    def _spread(self, shape: tuple[int, ...], places: Indices, entries: Indices) -> Tensor:
        scale, shift = (
            None if part is None else part.rows(entries) for part in (self.scale, self.shift)
        )
        index = np.empty(math.prod(shape), dtype=np.intp)
        index[places] = np.arange(places.size).reshape(places.shape)
        return replace(
            self, select=self.select[entries], scale=scale, shift=shift, index=index.reshape(shape)
        )

    def _constant(self, ball: BallArray, shape: tuple[int, ...], places: Indices) -> BallArray:
        """The entries of a constant that meet one sample's; it must meet every sample with the same
        ones.
        """

        def meets(a: Array) -> Array:
            rows = np.broadcast_to(a, shape).ravel()[places]
            if (rows != rows[:1]).any():
                raise UnsupportedModel(
                    f"a constant of shape {a.shape} meets a tensor of shape {self.shape}: it would differ from sample to sample"
                )
            return np.asarray(rows[0])

        return ball.map(meets)

    # Affine maps ------------------------------------------------------------------------------------------------

    def scaled(self, factor: Any) -> Tensor:
        """Elementwise product with constants (array or `BallArray`), by numpy's broadcasting."""
        ball = BallArray.of(factor)
        shape = self._joint(ball.shape)
        places, entries = self._places(shape)
        even = self._spread(shape, places, entries)
        if ball.is_constant(1.0):
            return even
        flat = self._constant(ball, shape, places)
        scale = flat if even.scale is None else even.scale.times(flat)
        shift = None if even.shift is None else even.shift.times(flat)
        return replace(even, scale=scale, shift=shift, folded=self.folded + 1)

    def shifted(self, offset: Any) -> Tensor:
        """Elementwise sum with constants, by numpy's broadcasting."""
        ball = BallArray.of(offset)
        shape = self._joint(ball.shape)
        places, entries = self._places(shape)
        even = self._spread(shape, places, entries)
        if ball.is_constant(0.0):
            return even
        flat = self._constant(ball, shape, places)
        shift = flat if even.shift is None else even.shift.plus(flat)
        return replace(even, shift=shift, folded=self.folded + (self.dense is None))

    def normalised(
        self, scale: Any, shift: Any, mean: Any, variance: Any, epsilon: float, *, axis: int = 1
    ) -> Tensor:
        """Batch normalisation with stored statistics: scale * (x - mean) / sqrt(variance + epsilon)
        + shift.
        """
        parts = [_float64(a, "a normalisation parameter") for a in (scale, shift, mean, variance)]
        shape = [1] * len(self.shape)
        shape[axis] = self.shape[axis]
        if any(a.shape != (shape[axis],) for a in parts):
            raise ShapeError(
                f"normalisation of {shape[axis]} channels with parameters of shape {[a.shape for a in parts]}"
            )
        gain, offset, centre, var = parts
        factor = (
            inverse_root(var, epsilon).times(BallArray.of(gain)).map(lambda a: a.reshape(shape))
        )
        return self.shifted(-centre.reshape(shape)).scaled(factor).shifted(offset.reshape(shape))

    def matmul(self, weight: Any) -> Tensor:
        """``x @ weight`` over the last axis; ``weight`` is [k, n], or [k]."""
        matrix = BallArray.of(weight)
        columns = matrix.map(lambda a: a[:, None]) if len(matrix.shape) == 1 else matrix
        if len(columns.shape) != 2 or not self.shape or self.shape[-1] != columns.shape[0]:
            raise ShapeError(
                f"a tensor of shape {self.shape} times a matrix of shape {matrix.shape}"
            )
        (k, n), rows = columns.shape, math.prod(self.shape[:-1])
        places, entries = self._sums(rows, k)
        copies = places.shape[1]
        made = self._made(
            copies * n * copies * k, k * n, f"a product of shapes {self.shape} and {matrix.shape}"
        )

        def blocks(a: Array) -> Array:
            return a.T if copies == 1 else np.asarray(np.kron(np.eye(copies), a.T))

        out = np.empty((rows, n), dtype=np.intp)
        out[places.ravel()] = np.arange(rows * n).reshape(rows, n)
        shape = self.shape[:-1] if len(matrix.shape) == 1 else (*self.shape[:-1], n)
        return replace(self, made=made)._mapped(columns.map(blocks), entries, out.reshape(shape))

    def _sums(self, rows: int, k: int) -> tuple[Indices, Indices]:
        """Rows ``[samples, n]`` that hold each sample's entries, for sums over the last axis, and
        the entries ``[n * k]``.
        """
        codes = self.index.reshape(rows, k)
        of = codes // max(1, len(self.select))
        if (of != of[:, :1]).any():
            raise UnsupportedModel(
                "a sum mixes samples of the batch; each sample must be treated by itself"
            )
        if rows % self.samples:
            raise UnsupportedModel(_APART)
        if k == 0 or self.samples == 1:  # sums over nothing are all alike
            return np.arange(rows).reshape(self.samples, -1), self.index.ravel()
        places, entries = self._alike(codes.ravel())
        return places[:, ::k] // k, entries

    def matmul_left(self, weight: Any) -> Tensor:
        """``weight @ x``: over the last axis but one (the only axis of a vector); ``weight`` is [n,
        k].
        """
        matrix = BallArray.of(weight).map(lambda a: a.T)
        if len(self.shape) == 1:
            return self.matmul(matrix)

        def swap(a: Any) -> Any:
            return a.swapaxes(-1, -2)

        moved = self.rearrange(swap).matmul(matrix)
        return moved if len(matrix.shape) == 1 else moved.rearrange(swap)

    def linear(self, matrix: Any, shape: Sequence[int]) -> Tensor:
        """``matrix [out, n] @`` the entries of a sample in row-major order, as a tensor of the
        given shape of all samples.
        """
        weight = BallArray.of(matrix)
        _, entries = self._places(self.shape)
        if len(weight.shape) != 2 or weight.shape[1] != len(entries):
            raise ShapeError(
                f"a matrix of shape {weight.shape} applied to a tensor of shape {self.shape}"
            )
        index = np.arange(self.samples * weight.shape[0])
        return self._mapped(weight, entries, index.reshape(tuple(shape)))

    def _mapped(self, weight: BallArray, entries: Indices, index: Indices) -> Tensor:
        """``weight @`` some entries of a sample, placed by an index."""
        rows = weight.shape[0]
        inner = self.width if self.dense is None else self.dense[0].shape[0]
        stored = math.prod(weight.shape) + (
            0 if self.dense is None else math.prod(self.dense[0].shape)
        )
        made = self._made(
            rows * max(inner, self.width), stored, f"a layer from {self.width} to {rows}"
        )
        bias = BallArray.of(np.zeros((rows, 1)))
        if self.shift is not None:
            bias = weight.after(self.shift.rows(entries).map(lambda a: a[:, None]))
        if self.scale is not None:
            weight = weight.times(self.scale.rows(entries))
        weight = weight.spread(self.select[entries], inner)
        if self.dense is not None:
            bias = weight.after(self.dense[1].map(lambda a: a[:, None])).plus(bias)
            weight = weight.after(self.dense[0])
        dense = weight, bias.map(lambda a: a[:, 0])
        return replace(
            self,
            dense=dense,
            select=np.arange(rows),
            scale=None,
            shift=None,
            index=index,
            folded=self.folded + 1,
            made=made,
        )

    def _made(self, numbers: int, stored: int, what: str) -> int:
        """`made` with a further matrix: a small file may not ask for gigabytes."""
        _limit(numbers, what)
        made = self.made + max(0, numbers - stored)
        _limit(made, f"{what}, with what was made before it,", MAX_MADE)
        return made

    def _joint(self, other: tuple[int, ...]) -> tuple[int, ...]:
        try:
            return np.broadcast_shapes(self.shape, other)
        except ValueError:
            raise ShapeError(
                f"a tensor of shape {self.shape} and a constant of shape {other} do not broadcast"
            ) from None

    def _closed(self) -> tuple[BallArray, BallArray, int]:
        """Weight and bias of a sample's entries in row-major order over the last activations; what
        was made so far.
        """
        even = self._even(self.shape)
        size = len(even.select)
        stored = 0 if even.dense is None else math.prod(even.dense[0].shape)
        made = self._made(size * self.width, stored, f"a layer from {self.width} to {size}")
        if even.dense is None:

            def placed(a: Array) -> Array:
                out = np.zeros((size, self.width))
                out[np.arange(size), even.select] = a
                return out

            weight, bias = (
                (even.scale or BallArray.of(np.ones(size))).map(placed),
                BallArray.of(np.zeros(size)),
            )
        else:
            weight, bias = (part.rows(even.select) for part in even.dense)
            if even.scale is not None:
                weight, bias = (
                    weight.times(even.scale.map(lambda a: a[:, None])),
                    bias.times(even.scale),
                )
        return weight, bias if even.shift is None else bias.plus(even.shift), made

    # Several tensors --------------------------------------------------------------------------------------------

    def beside(self, other: Tensor) -> bool:
        """Whether both are affine images of the same activations."""
        return len(self.layers) == len(other.layers) and all(
            p is q for p, q in zip(self.layers, other.layers, strict=True)
        )

    def plus(self, other: Tensor) -> Tensor:
        """The sum of two affine images of the same activations, by numpy's broadcasting.

        Raises:
            UnsupportedModel: they are images of different activations (a residual connection).
        """
        if not self.beside(other):
            raise UnsupportedModel(_RESIDUAL)
        shape = self._joint(other.shape)
        parts = [tensor._even(shape) for tensor in (self, other)]
        if not np.array_equal(parts[0].index, parts[1].index):
            raise UnsupportedModel(
                "a sum mixes samples of the batch; each sample must be treated by itself"
            )
        (w, b, made), (v, c, more) = (part._closed() for part in parts)
        dense = w.plus(v), b.plus(c)
        folded = self.folded + other.folded + 1
        return replace(
            parts[0], dense=dense, select=np.arange(len(parts[0].select)), scale=None, shift=None,
            folded=folded, made=self.made + (made - self.made) + (more - other.made),
        )  # fmt: skip

    @staticmethod
    def joined(parts: Sequence[Tensor], axis: int) -> Tensor:
        """Affine images of the same activations, side by side along an axis.

        Raises:
            UnsupportedModel: they are images of different activations (branches of a network).
        """
        first = parts[0]
        if not all(first.beside(part) for part in parts):
            raise UnsupportedModel(_RESIDUAL)
        along = axis % max(1, len(first.shape))

        def beside(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
            """What must agree: the axes before and behind the one along which they are joined."""
            return shape[:along], shape[along + 1 :]

        if any(
            beside(part.shape) != beside(first.shape) or len(part.shape) != len(first.shape)
            for part in parts
        ):
            raise ShapeError(
                f"tensors of shapes {', '.join(str(p.shape) for p in parts)} joined along axis {axis}"
            )
        _limit(sum(part.size for part in parts), "a joined tensor", MAX_ENTRIES)
        if all(part.dense is first.dense for part in parts):
            maps = [(part.select, part.scale, part.shift) for part in parts]
            dense, made = first.dense, max(part.made for part in parts)
        else:
            closed = [
                replace(part, index=np.arange(len(part.select)), samples=1)._closed()
                for part in parts
            ]
            starts = np.cumsum([0, *(len(part.select) for part in parts)])
            maps = [(np.arange(p, q), None, None) for p, q in pairwise(starts.tolist())]
            dense = _stacked([w for w, _, _ in closed]), _stacked([b for _, b, _ in closed])
            more = [new - part.made for (_, _, new), part in zip(closed, parts, strict=True)]
            made = max(part.made for part in parts) + sum(more)
            _limit(made, "a joined tensor, with what was made before it,", MAX_MADE)
        sizes = [len(part.select) for part in parts]
        total, start, indices = sum(sizes), 0, []
        for part, size in zip(parts, sizes, strict=True):
            of, entry = np.divmod(part.index, max(1, size))
            indices.append(of * total + entry + start)
            start += size
        scale = shift = None
        if any(part is not None for _, part, _ in maps):
            scale = _stacked(
                [part or BallArray.of(np.ones(len(select))) for select, part, _ in maps]
            )
        if any(part is not None for _, _, part in maps):
            shift = _stacked(
                [part or BallArray.of(np.zeros(len(select))) for select, _, part in maps]
            )
        return replace(
            first, dense=dense, select=np.concatenate([select for select, _, _ in maps]),
            scale=scale, shift=shift, index=np.concatenate(indices, axis),
            folded=sum(part.folded for part in parts), made=made,
        )  # fmt: skip

    # Layers -----------------------------------------------------------------------------------------------------

    def activate(self, activation: Activation) -> Tensor:
        """Apply an activation to every entry; closes a layer, or goes into the last one where both
        are one activation.
        """
        if activation == IDENTITY:
            return self
        if self.pristine and self.layers:
            *before, (weight, bias, last) = self.layers
            both = _composed(activation, last)
            if both is not None:
                return replace(self, layers=(*before, (weight, bias, both)))
        weight, bias, made = self._closed()
        return self._behind(weight, bias, activation, made, self._even(self.shape).index)

    def clamped(self, low: float | None, high: float | None) -> Tensor:
        """min(max(x, low), high), the low end below the high one; None is no end.

        >>> Tensor.input((1, 2)).clamped(None, 6.0).finish()
        Network(2-2-2, relu, 12 parameters)
        """
        if low is not None and high is not None:
            if not low < high:
                raise UnsupportedModel(
                    f"a clip to [{low}, {high}] is constant; its low end must lie below its high end"
                )
            return self.activate(Activation("clip", low, high))
        if low is not None:
            return self.shifted(-low).activate(Activation("relu")).shifted(low)
        if high is not None:
            return (
                self.scaled(-1.0)
                .shifted(high)
                .activate(Activation("relu"))
                .scaled(-1.0)
                .shifted(high)
            )
        return self

    def rectified(self, slopes: Any) -> Tensor:
        """max(z, 0) + slope * min(z, 0), with one slope for every entry (by numpy's broadcasting):
        a PReLU.

        Slopes that differ have no activation of their own: an entry becomes relu(z) - slope *
        relu(-z), a pair of units, and one unit where its slope is 0.

        Raises:
            ShapeError: the slopes would change the shape.

        >>> import numpy as np
        >>> x = Tensor.input((1, 3)).rectified(np.array([0.0, 0.5, -2.0]))
        >>> net = x.finish()
        >>> net.widths, net(np.array([[-1.0, -1.0, -1.0], [4.0, 5.0, 6.0]])).tolist()
        ((3, 5, 3), [[0.0, -0.5, 2.0], [4.0, 5.0, 6.0]])
        """
        ball = BallArray.of(slopes)
        if self._joint(ball.shape) != self.shape:
            raise ShapeError(
                f"slopes of shape {ball.shape} would change a tensor of shape {self.shape}"
            )
        places, entries = self._places(self.shape)
        slope, size = self._constant(ball, self.shape, places).centre.hi, len(entries)
        if len(np.unique(slope)) == 1:
            return self.activate(Activation("leaky_relu", float(slope[0])))
        pairs = np.flatnonzero(slope)
        units = np.concatenate([np.arange(size), pairs])
        _limit(size * len(units), f"a PReLU of {size} units", MAX_MADE)
        weight, bias, made = self._closed()
        turned = BallArray.of(np.where(np.arange(len(units)) < size, 1.0, -1.0))
        rows = weight.rows(units).times(turned.map(lambda a: a[:, None]))
        relu = self._behind(
            rows, bias.rows(units).times(turned), Activation("relu"), made, np.arange(len(units))
        )
        joined = np.eye(size, len(units))
        joined[pairs, np.arange(size, len(units))] = -slope[pairs]
        note = (
            f"read a PReLU of {size} units as {len(units)} ReLU units: relu(z) - slope * relu(-z)"
        )
        index = self._spread(self.shape, places, entries).index
        return replace(
            relu._mapped(BallArray.of(joined), np.arange(len(units)), index),
            notes=(*self.notes, note),
        )

    def _behind(
        self, weight: BallArray, bias: BallArray, activation: Activation, made: int, index: Indices
    ) -> Tensor:
        """The activations of a further layer, placed by an index."""
        layers = (*self.layers, (weight, bias, activation))
        _limit(sum(w.centre.hi.size for w, _, _ in layers), "a network")
        size = weight.shape[0]
        return Tensor(
            layers,
            self.inputs,
            size,
            None,
            np.arange(size),
            None,
            None,
            index,
            self.folded,
            made,
            self.samples,
            self.notes,
        )

    def one_sample(self) -> Tensor:
        """The tensor of the first sample alone, as a batch of one.

        Raises:
            UnsupportedModel: the first axis does not count the samples, or they are not alike.
        """
        if self.samples == 1:
            return self
        codes = (
            self.index.reshape(self.shape[0], -1)
            if self.shape and self.shape[0] == self.samples
            else None
        )
        starts = np.arange(self.samples)[:, None] * len(self.select)
        if codes is None or (codes - starts != codes[:1]).any():
            raise UnsupportedModel(
                f"the output of shape {self.shape} for a batch of {self.samples} does not hold one sample in each row, in order"
            )
        return replace(self, index=self.index[:1], samples=1)

    def parts(
        self, output_map: str | None = None
    ) -> tuple[list[tuple[BallArray, BallArray, Activation]], str]:
        """Layers of the network whose outputs are all entries, not yet rounded, and its output map."""
        if self.samples != 1:
            return self.one_sample().parts(output_map)
        if output_map is None and self.pristine and self.layers:
            *hidden, (weight, bias, last) = self.layers
            flat = self.select[self.index.ravel()]
            return [*hidden, (weight.rows(flat), bias.rows(flat), IDENTITY)], str(last)
        return [*self.layers, (*self._closed()[:2], IDENTITY)], output_map or "identity"

    def finish(self, output_map: str | None = None, notes: Sequence[str] = ()) -> Network:
        """The network whose outputs are all entries in row-major order.

        Args:
            output_map: what the model applies to them; None: an activation that ends the model
                becomes the output map.
            notes: lines for `Network.notes`, after the tensor's own. The certified effect of
                rounding follows them where there is any.
        """
        parts, output_map = self.parts(output_map)
        notes = (*self.notes, *notes)
        net = Network(tuple(_layer(l, *part) for l, part in enumerate(parts, 1)), notes, output_map)
        if all(w.is_float() and b.is_float() for w, b, _ in parts):
            return net
        return replace(
            net,
            notes=(
                *notes,
                f"folded {self.folded} affine maps into {len(parts)}; {_rounding(parts, net)}",
            ),
        )


_APART = "the samples of a batch are not treated alike, each by itself"
_RESIDUAL = (
    "two tensors that depend on the input meet, with activations between them (a residual connection or a branch); "
    "affine images of the same activations may meet"
)


def _stacked(parts: Sequence[BallArray]) -> BallArray:
    """Balls one after the other along the first axis."""
    loose = [part.loose() for part in parts]
    hi = np.concatenate([part.centre.hi for part in loose])
    lo = (
        None
        if all(part.centre.lo is None for part in loose)
        else np.concatenate([part._low() for part in loose])
    )
    radius = (
        None
        if all(part.radius is None for part in loose)
        else np.concatenate([part._radius() for part in loose])
    )
    return BallArray(ExactArray(hi, lo), radius)


def _composed(outer: Activation, inner: Activation) -> Activation | None:
    """The activation that z -> outer(inner(z)) is, where it is one.

    >>> relu, sigmoid = Activation.of("relu"), Activation.of("sigmoid")
    >>> str(_composed(relu, sigmoid)), _composed(sigmoid, relu)
    ('sigmoid', None)
    """
    if not (outer.homogeneous and outer.exact(Fraction(1)) == 1):
        return None
    if outer.kind == "identity" or (inner.least is not None and inner.least >= 0):
        return inner
    if inner.kind != "elu" or inner.least == 0 or outer.kind not in ("relu", "leaky_relu"):
        return None
    # An elu has the sign of z, as its alpha is positive.
    alpha = Fraction(outer.slope or 0) * Fraction(inner.parameters[0])
    if alpha == 0:
        return Activation("relu")
    try:
        slope = float(alpha)
    except OverflowError:
        return None
    return Activation("elu", slope) if slope == alpha else None


def _rounding(parts: Sequence[tuple[BallArray, BallArray, Activation]], net: Network) -> str:
    """The certified effect of rounding: everywhere, and near the origin where bounded activations
    hide it.
    """
    exact = [(w.away(), b.away()) for w, b, _ in parts]
    slack = difference(exact, exact_arrays(net), net.activations)
    near = difference(exact, exact_arrays(net), net.activations, radius=1.0)
    line = f"rounding to float64 changes the output by at most {slack}"
    return (
        line if slack.within(1.0) <= 2 * near.constant else f"{line}, at most {near} where |x| <= 1"
    )


def _layer(place: int, weight: BallArray, bias: BallArray, activation: Activation) -> Layer:
    try:
        return Layer(weight.centre.hi, bias.centre.hi, activation)
    except UnsupportedModel as error:
        raise error.at(f"layer {place}") from None


def _limit(numbers: int, what: str, most: int = MAX_PARAMETERS) -> None:
    if numbers > most:
        raise UnsupportedModel(f"{what} needs {numbers} numbers; at most {most} are held")
