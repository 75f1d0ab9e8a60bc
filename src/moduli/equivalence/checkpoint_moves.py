"""Tensors of a checkpoint moved by orders and numbers of units, one at a time; compared, and their digest.

What decides is here, and searches for nothing: `require_laws` looks whether orders and numbers are those that
`checkpoint_axes` proves to keep the function, and `compare` reads both checkpoints from their files, moves
each tensor of the first and counts the numbers that are just those of the second. Two products with powers
of two from 2^-128 to 2^128 are exact in float64 for every float32, and for every float64 of size 2^-700 to
2^700; smaller and larger ones are never counted as equal.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from moduli.common.checkpoint import ROUNDOFF, SMALLEST, Checkpoint, Stored, encoded_as
from moduli.kernel.errors import CertificateRejected, UnsupportedModel

from .checkpoint_axes import Attention, Decoder, Piece
from .group import Axis

Array = np.ndarray[Any, np.dtype[Any]]
Order = np.ndarray[Any, np.dtype[np.intp]]
BLOCK = 2**22  # numbers that are read at a time where rows stay
ROUNDINGS = 4  # see `Agreement`
POWER = 128  # of two, in products that are exact
SMALL = (
    2.0**-700
)  # smaller numbers in float64, and larger than their inverse, may be rounded by them
HUGE = 2.0**250  # times numbers up to 2^200, squared, and summed 2^100 times they are floats


class Moved(NamedTuple):
    """What comes to each place of an axis: which former index, and by what it is multiplied."""

    order: Order
    factor: Array


Element = Mapping[str, Moved]  # by the names of axes; what is not named stays


# Laws --------------------------------------------------------------------------------------------------------------


def exact(element: Element) -> bool:
    """Whether all numbers are powers of two that round nothing, or their opposites."""
    for moved in element.values():
        mantissa, power = np.frexp(moved.factor)
        if (np.abs(mantissa) != 0.5).any() or (np.abs(power - 1) > POWER).any():
            return False
    return True


def require_laws(decoder: Decoder, element: Element) -> None:
    """Whether every order and number is of a law of `checkpoint_axes`; all axes must be named.

    Raises:
        CertificateRejected: names an axis and what is wrong with it.
    """
    for name, moved in element.items():
        count = len(moved.order)
        if not np.array_equal(np.sort(moved.order), np.arange(count)):
            raise CertificateRejected(f"{name}: no order of its {count} units")
        _hold(len(moved.factor) == count, name, "not one number for each unit")
        _hold(np.isfinite(moved.factor).all() and moved.factor.all(), name, "a number is 0")
    stream = _named(element, "stream")
    _hold(len(stream.order) == decoder.width, "stream", "another width")
    _hold((np.abs(stream.factor) == 1).all(), "stream", "a number is no sign")
    if not decoder.signs:
        _hold((stream.factor == stream.factor[0]).all(), "stream", "signs differ")
    for norm in decoder.norms():
        if norm.gain.rows != Axis(f"gain {norm.name}", 1):
            continue  # that of embeddings: it moves as the stream does
        gain, given = (_named(element, f"{what} {norm.name}") for what in ("gain", "norm"))
        for moved in (gain, given):
            _hold(np.array_equal(moved.order, stream.order), norm.name, "not in the stream's order")
        product = given.factor * stream.factor
        _hold(np.array_equal(gain.factor, product), norm.name, "gains of other numbers")
    for number, layer in enumerate(decoder.layers):
        units = _named(element, f"units {number}")
        _hold(len(units.order) == layer.feedforward.units, f"units {number}", "another width")
        if not layer.feedforward.signs:
            _hold((units.factor > 0).all(), f"units {number}", "a sign")
        if not layer.feedforward.scales:
            _hold((np.abs(units.factor) == 1).all(), f"units {number}", "a scale")
        _require_heads(number, layer.attention, element)


def _require_heads(number: int, heads: Attention, element: Element) -> None:
    """Laws 4 and 5: heads as blocks, coordinates inside them."""
    size, shared = heads.size, heads.shared
    named = {
        name: _named(element, f"{name} {number}")
        for name in ("queries", "keys", "values", "outputs")
    }
    at, blocks, factor = {}, {}, {}
    for name, moved in named.items():
        count = heads.heads if name in ("queries", "outputs") else heads.groups
        _hold(len(moved.order) == count * size, f"{name} {number}", "another width")
        owner, inside = np.divmod(moved.order.reshape(count, size), size)
        _hold((owner == owner[:, :1]).all(), f"{name} {number}", "a head is torn apart")
        at[name], blocks[name] = inside, owner[:, 0]
        factor[name] = moved.factor.reshape(count, size)
    group = np.arange(heads.heads) // shared
    for name, key in (("queries", "keys"), ("outputs", "values")):
        place = f"{name} {number}"
        _hold(np.array_equal(blocks[name] // shared, blocks[key][group]), place, "other key heads")
        _hold(np.array_equal(at[name], at[key][group]), place, "coordinates in another order")
    _hold(np.array_equal(blocks["queries"], blocks["outputs"]), f"outputs {number}", "other heads")
    _hold(np.array_equal(blocks["keys"], blocks["values"]), f"values {number}", "other heads")
    same = np.array_equal(factor["outputs"], factor["values"][group])
    _hold(same, f"outputs {number}", "other numbers than the values")
    # A product of a number and its inverse is 1 but for one rounding.
    product = factor["queries"] * factor["keys"][group]
    _hold((np.abs(product - 1) < 2.0**-50).all(), f"queries {number}", "not inverse to the keys")
    if not heads.rotary:
        return
    half = size // 2
    low, high = at["keys"][:, :half], at["keys"][:, half:]
    x, y = factor["keys"][:, :half], factor["keys"][:, half:]
    plane = np.arange(half)
    still = (low == plane) & (high == plane + half) & (x == y)
    quarter = (low == plane + half) & (high == plane) & (x == -y)
    _hold((still | quarter).all(), f"keys {number}", "a plane of positions is not turned")


def _named(element: Element, name: str) -> Moved:
    if name not in element:
        raise CertificateRejected(f"{name}: nothing says how it is moved")
    return element[name]


def _hold(holds: Any, name: str, why: str) -> None:
    if not holds:
        raise CertificateRejected(f"{name}: {why}")


# Pieces ------------------------------------------------------------------------------------------------------------


def matrices(checkpoint: Checkpoint, piece: Piece) -> Iterator[Array]:
    """A piece, whole; rows that stay come some at a time.

    Raises:
        UnsupportedModel: numbers above 2^250.
    """
    shape = checkpoint.shape(piece.tensor)
    if len(shape) == 2 and piece.rows is None and not piece.transposed:
        step = max(1, BLOCK // max(1, shape[1]))
        for start in range(0, shape[0], step):
            yield _not_huge(checkpoint, piece, checkpoint.rows(piece.tensor, start, start + step))
        return
    yield matrix(checkpoint, piece)


def matrix(checkpoint: Checkpoint, piece: Piece) -> Array:
    """A piece, whole; see `matrices`."""
    shape = checkpoint.shape(piece.tensor)
    if piece.part is None:
        found = checkpoint.rows(piece.tensor)
    elif len(shape) == 1:
        found = checkpoint.rows(piece.tensor, *piece.part)
    else:
        found = checkpoint.rows(piece.tensor)[:, piece.part[0] : piece.part[1]]
    found = _not_huge(checkpoint, piece, found)
    if found.ndim == 1:
        return found[:, None]
    return found.T if piece.transposed else found


def _not_huge(checkpoint: Checkpoint, piece: Piece, numbers: Array) -> Array:
    """The numbers, if squares of them, moved, are floats in sums; of smaller types they always are."""
    if numbers.dtype == np.float64 and np.abs(numbers).max(initial=0.0) > HUGE:
        raise UnsupportedModel(
            f"{checkpoint.path}: {piece.tensor!r} holds numbers above 2^250; smaller ones are moved"
        )
    return numbers


def placed(numbers: Array, piece: Piece, element: Element) -> Array:
    """A piece, or some rows of one whose rows stay, with its units in their new places; in float64 where
    numbers are multiplied.
    """
    for k, axis in enumerate((piece.rows, piece.columns)):
        if axis is not None and axis.part in element:
            numbers = _along(numbers, k, axis, element[axis.part])
    return numbers


def _along(numbers: Array, k: int, axis: Axis, moved: Moved) -> Array:
    if not np.array_equal(moved.order, np.arange(len(moved.order))):
        numbers = np.take(numbers, moved.order, axis=k)
    if axis.power and (moved.factor != 1).any():
        factor = moved.factor**axis.power
        numbers = numbers * (factor[:, None] if k == 0 else factor[None, :])
    return numbers


# Comparing ---------------------------------------------------------------------------------------------------------


class Agreement(NamedTuple):
    """How far numbers of one checkpoint, moved, are those of another.

    Attributes:
        numbers: how many. equal: how many are just the same. within: how many are within four roundings,
            |moved - other| <= 4 u |other|, u the unit roundoff of the coarser type (of numbers next to 0 its
            smallest one): where a copy was scaled by any numbers and rounded, the number itself is off by u, the
            gain that says by what its column was scaled by u, and what the norms of its row say by 2 u at most.
        before, after: sums of squares of differences. size: of the other.
    """

    numbers: int = 0
    equal: int = 0
    within: int = 0
    before: float = 0.0
    after: float = 0.0
    size: float = 0.0

    def plus(self, other: Agreement) -> Agreement:
        return Agreement(
            self.numbers + other.numbers,
            self.equal + other.equal,
            self.within + other.within,
            self.before + other.before,
            self.after + other.after,
            self.size + other.size,
        )

    @property
    def relative(self) -> tuple[float, float]:
        """Norms of the differences, before and after, over the norm of the other."""
        size = self.size or 1.0
        return math.sqrt(self.before / size), math.sqrt(self.after / size)


def compare(
    a: Checkpoint, b: Checkpoint, pieces: tuple[Piece, Piece], element: Element
) -> Agreement:
    """A piece of a, moved, beside that of b."""
    mine, other = pieces
    if mine.rows is None and mine.columns is None:
        return _same_bytes(a, b, mine.tensor, other.tensor)
    types = a.tensors[mine.tensor].dtype, b.tensors[other.tensor].dtype
    near = ROUNDINGS * max(ROUNDOFF[dtype] for dtype in types)
    least = ROUNDINGS * max(SMALLEST[dtype] for dtype in types)
    total = Agreement()
    for left, right in zip(matrices(a, mine), matrices(b, other), strict=True):
        wanted = right.astype(np.float64)
        moved = placed(left.astype(np.float64), mine, element)
        apart = np.abs(moved - wanted)
        before = left.astype(np.float64) - wanted
        equal = moved == wanted
        if "F64" in types:
            equal &= _not_rounded(left, moved)
        total = total.plus(
            Agreement(
                wanted.size,
                int(np.count_nonzero(equal)),
                int(np.count_nonzero(apart <= near * np.abs(wanted) + least)),
                float(np.vdot(before, before)),
                float(np.vdot(apart, apart)),
                float(np.vdot(wanted, wanted)),
            )
        )
    return total


def _not_rounded(given: Array, moved: Array) -> Array:
    """Where products in float64 cannot have been rounded: of numbers from SMALL to its inverse, and of 0,
    if no other number became 0.
    """
    size = np.abs(moved)
    sure: Array = (size >= SMALL) & (size <= 1 / SMALL)
    if np.count_nonzero(given) == np.count_nonzero(moved):
        sure |= size == 0
    return sure


def _same_bytes(a: Checkpoint, b: Checkpoint, mine: str, other: str) -> Agreement:
    """Of a tensor that stays: all or nothing."""
    left, right = a.tensors[mine], b.tensors[other]
    same = (left.dtype, left.shape) == (right.dtype, right.shape)
    length = left.end - left.start if same else 0
    for start in range(0, length, BLOCK):
        stop = start + BLOCK
        same &= bool(np.array_equal(a.raw(mine, start, stop), b.raw(other, start, stop)))
    return Agreement(left.size, left.size * same, left.size * same)


# Digest and file ---------------------------------------------------------------------------------------------------


def digest(
    decoder: Decoder, checkpoint: Checkpoint, element: Element, config: Mapping[str, Any]
) -> str:
    """SHA-256 of all numbers, moved, and of what else says which function they are.

    Numbers are hashed as float64, so that it does not matter in which type they are stored.
    """
    sha = hashlib.sha256(json.dumps([decoder.kind, config], sort_keys=True).encode())
    for _, section in decoder.sections():
        for piece in section:
            part, shape = piece.part, list(checkpoint.shape(piece.tensor))
            stays = piece.rows is None and piece.columns is None
            held = checkpoint.tensors[piece.tensor]
            # bytes of what stays mean other numbers in another type
            sha.update(
                json.dumps([part, shape, [bare(piece), held.dtype] if stays else ""]).encode()
            )
            if stays:
                length = held.end - held.start
                for start in range(0, length, BLOCK):
                    sha.update(checkpoint.raw(piece.tensor, start, start + BLOCK).data)
                continue
            for numbers in matrices(checkpoint, piece):
                moved = placed(numbers.astype(np.float64), piece, element) + 0.0  # no -0.0
                if numbers.dtype == np.float64 and not _not_rounded(numbers, moved).all():
                    raise UnsupportedModel(
                        f"{checkpoint.path}: {piece.tensor!r} holds numbers below 2^-700"
                    )
                sha.update(np.ascontiguousarray(moved).data.cast("B"))
    return sha.hexdigest()


def bare(piece: Piece) -> str:
    """The name of its tensor, without what some libraries write in front."""
    return piece.tensor.removeprefix("transformer.")


def written(
    decoder: Decoder, checkpoint: Checkpoint, element: Element
) -> tuple[dict[str, Stored], Iterator[tuple[str, Array]]]:
    """The tensors of a checkpoint in the order in which they are declared, and the bytes of each, moved."""
    pieces: dict[str, list[Piece]] = {}
    for _, section in decoder.sections():
        for piece in section:
            pieces.setdefault(piece.tensor, []).append(piece)
    tensors = {name: checkpoint.tensors[name] for name in pieces}
    return tensors, _bytes(checkpoint, pieces, element)


def _bytes(
    checkpoint: Checkpoint, pieces: Mapping[str, list[Piece]], element: Element
) -> Iterator[tuple[str, Array]]:
    for name, parts in pieces.items():
        first = parts[0]
        if first.rows is None and first.columns is None:
            yield name, checkpoint.raw(name)
        elif len(parts) == 1:
            yield name, _stored(checkpoint, first, element)
        else:
            yield name, _joined(checkpoint, parts, element)


def _stored(checkpoint: Checkpoint, piece: Piece, element: Element) -> Array:
    dtype = checkpoint.tensors[piece.tensor].dtype
    blocks = []
    for numbers in matrices(checkpoint, piece):
        moved = placed(numbers, piece, element)
        blocks.append(rounded(moved.T if piece.transposed else moved, dtype, piece.tensor))
    return np.concatenate(blocks)


def _joined(checkpoint: Checkpoint, parts: list[Piece], element: Element) -> Array:
    """Parts side by side along the last axis of the file."""
    name = parts[0].tensor
    moved = [placed(matrix(checkpoint, piece), piece, element) for piece in parts]
    whole = np.concatenate(moved)
    whole = whole.T if parts[0].transposed else whole
    return rounded(whole, checkpoint.tensors[name].dtype, name)


def rounded(numbers: Array, dtype: str, name: str) -> Array:
    """The bytes of the nearest numbers of a type.

    Raises:
        UnsupportedModel: a number is too large for it.
    """
    with np.errstate(over="ignore"):
        found = encoded_as(numbers, dtype)
        top = float(np.abs(numbers).max(initial=0.0))
    if top > LARGEST[dtype]:
        raise UnsupportedModel(f"{name!r}: {top:.6g} is too large for {dtype}")
    return found


LARGEST = {
    "F64": float(np.finfo(np.float64).max),
    "F32": float(np.finfo(np.float32).max),
    "F16": 65504.0,
    "BF16": 2.0**127 * (2 - 2.0**-7),
}
