"""Find the order, signs and scales that move one checkpoint onto another: the search.

The stream first, by the columns of the embeddings, whose rows are tokens and stay; then layer by layer heads and units,
whose rows are told apart by what they read from the stream and write into it. So nothing has to be known of
other layers, and one layer is in memory at a time. Every set of units is matched by two halves of its
numbers: what both halves say alike is evidence that chance does not give (see `Found`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from moduli.common.checkpoint import ROUNDOFF, Checkpoint

from .alignment import assign
from .checkpoint_axes import Attention, Decoder, Norm, Piece
from .checkpoint_moves import POWER, Moved, matrices, matrix, placed

Array = np.ndarray[Any, np.dtype[Any]]
Order = np.ndarray[Any, np.dtype[np.intp]]
Halves = Callable[[Order], tuple[Array, Array]]  # gains of some rows with all columns, by each half
GAINS = 2**24  # numbers of such a block
SUMS = 2.0**-40  # far above what the order of a sum in float64 changes
MOST_APART = 200  # of numbers, in powers of two
MOST_LEFT = 2**13  # units that are left over and are assigned at once


class Found(NamedTuple):
    """Evidence of one set of units.

    Attributes:
        units: how many. recognised: how many pairs are each other's best match by one half of their
            numbers and by the other half alike. Were both matchings drawn at random, one independent of
            the other, about 1 would be: the expected number of fixed points of a permutation.
    """

    units: int
    recognised: int


class Pair:
    """Two checkpoints of one architecture, and the element that is found so far.

    Attributes:
        roundoff: of the coarser type, or of float32, in which is searched.
    """

    def __init__(self, a: Checkpoint, b: Checkpoint, ours: Decoder, theirs: Decoder) -> None:
        self.a, self.b, self.ours, self.theirs = a, b, ours, theirs
        self.element = dict[str, Moved]()
        types = {
            held.dtype for c in (a, b) for held in c.tensors.values() if held.dtype in ROUNDOFF
        }
        self.roundoff = max(2.0**-24, *(ROUNDOFF[dtype] for dtype in types))

    def read(self, mine: Piece, other: Piece) -> tuple[Array, Array]:
        """A piece of a as far as it can be moved, and that of b, in float32."""
        left, right = placed(matrix(self.a, mine), mine, self.element), matrix(self.b, other)
        scale = _power_below(left, right)  # the same of both, whose ratios matter
        return (left * scale).astype(np.float32), (right * scale).astype(np.float32)

    # Stream and norms

    def match_stream(self) -> Found:
        """By the columns of the embeddings; one half are the even tokens, one the odd ones."""
        width = self.ours.width
        products = [np.zeros((width, width), np.float32) for _ in range(2)]
        sizes = np.zeros((2, 2, width))
        scales = [
            min((_power_below(part) for piece in embeddings for part in matrices(model, piece)), default=1.0)
            for model, embeddings in ((self.a, self.ours.embeddings), (self.b, self.theirs.embeddings))
        ]  # fmt: skip
        for mine, other in zip(self.ours.embeddings, self.theirs.embeddings, strict=True):
            seen = 0
            for left, right in zip(matrices(self.a, mine), matrices(self.b, other), strict=True):
                for k in range(2):
                    start = (seen + k) % 2
                    x, y = (
                        (z[start::2] * scale).astype(np.float32)
                        for z, scale in zip((left, right), scales, strict=True)
                    )
                    products[k] += y.T @ x
                    sizes[k] += [_squares(x.T), _squares(y.T)]
                seen += len(left)
        for k in range(2):
            products[k] /= np.outer(*(np.sqrt(np.where(s, s, 1.0)) for s in sizes[k][::-1]))
        if self.ours.signs:
            order, recognised = matched(
                width, lambda rows: (np.abs(products[0][rows]), np.abs(products[1][rows]))
            )
            signed = sum(product[np.arange(width), order] for product in products)
            sign = np.where(signed < 0, -1.0, 1.0)
        else:
            tries = [self._with_one_sign(products, sign) for sign in (1.0, -1.0)]
            _, sign, order, recognised = max(tries, key=lambda found: found[0])
        self.element["stream"] = Moved(order, sign)
        return Found(width, recognised)

    def _with_one_sign(self, products: list[Array], sign: float) -> tuple[float, Array, Order, int]:
        width = self.ours.width
        order, recognised = matched(
            width, lambda rows: (sign * products[0][rows], sign * products[1][rows])
        )
        total = sum(float(x[np.arange(width), order].sum()) for x in products)
        return sign * total, np.full(width, sign), order, recognised

    def match_norms(self) -> None:
        """Gains say by which numbers what a norm gives was multiplied; 1 where one of them is 0."""
        stream = self.element["stream"]
        for mine, other in zip(self.ours.norms(), self.theirs.norms(), strict=True):
            if not _scaled(mine):
                continue
            left = matrix(self.a, mine.gain)[stream.order, 0].astype(np.float64)
            right = matrix(self.b, other.gain)[:, 0].astype(np.float64)
            both = (left != 0) & (right != 0)
            ratio = np.divide(right, left, out=stream.factor.copy(), where=both)
            apart = np.abs(np.log2(np.abs(ratio)))
            ratio = np.where(
                apart < MOST_APART, ratio, stream.factor
            )  # no copy is scaled by so much
            ratio = snapped(ratio, 2 * self.roundoff)  # both gains may have been rounded
            given = ratio * stream.factor
            self.element[f"gain {mine.name}"] = Moved(stream.order, given * stream.factor)
            self.element[f"norm {mine.name}"] = Moved(stream.order, given)

    # Units

    def match_units(self, number: int) -> Found:
        """Gates as they are, units and what reads them up to sign and scale where the laws let them."""
        mine = self.ours.layers[number].feedforward
        other = self.theirs.layers[number].feedforward
        gate = [self.read(x, y) for x, y in zip(mine.gate[:1], other.gate[:1], strict=True)]
        moving = [self.read(mine.up[0], other.up[0]), self.read(mine.down, other.down)]
        norms = [[np.sqrt(_squares(x)) for x in pair] for pair in moving]
        still, turned = ([_halved(pair) for pair in pairs] for pairs in (gate, moving))
        del gate, moving

        def gains(rows: Order) -> tuple[Array, Array]:
            first, second = (
                _gains(rows, [h[k] for h in still], [h[k] for h in turned], signs=mine.signs)
                for k in range(2)
            )
            return first, second

        order, recognised = matched(mine.units, gains)
        signed = sum(np.einsum("ij,ij->i", y, x[order]) for half in turned for x, y in half)
        sign = np.where(signed < 0, -1.0, 1.0) if mine.signs else np.ones(mine.units)
        scale = np.ones(mine.units)
        if mine.scales:
            (up, wanted), (down, given) = norms
            scale = self._scale(up[order], wanted, down[order], given)
        self.element[f"units {number}"] = Moved(order, sign * scale)
        return Found(mine.units, recognised)

    def _scale(self, row: Array, wanted: Array, column: Array, given: Array) -> Array:
        """What rows are multiplied by, and columns divided by, from the norms of both: their geometric mean;
        one alone where the other is 0.
        """
        rows, columns = (row > 0) & (wanted > 0), (column > 0) & (given > 0)
        ones = np.ones(len(row))
        found = np.divide(wanted, row, out=ones.copy(), where=rows)
        found = found * np.divide(column, given, out=ones.copy(), where=columns)
        return snapped(np.where(rows & columns, np.sqrt(found), found), self.roundoff)

    # Heads

    def match_heads(self, number: int) -> Found:
        """One half are queries and keys, one values and outputs, each by products that no basis inside a head
        changes; then coordinates in each head.
        """
        mine = self.ours.layers[number].attention
        other = self.theirs.layers[number].attention
        queries, keys, values = (
            self.read(getattr(mine, name)[0], getattr(other, name)[0])
            for name in ("queries", "keys", "values")
        )
        outputs = self.read(mine.outputs, other.outputs)
        alike = _planes_alike if mine.rotary else _forms_alike
        first = alike(mine, queries, keys)
        second = _forms_alike(mine, outputs, values)
        recognised = _agreeing(first, second)
        groups, heads = _grouped(mine, first + second)
        size = mine.size
        found = {name: list[Moved]() for name in ("queries", "keys", "values", "outputs")}
        for k, group in enumerate(groups.tolist()):
            to = slice(k * mine.shared, (k + 1) * mine.shared)
            own = heads[to]
            queried = (
                _blocks(queries[0], own, size),
                _blocks(queries[1], range(to.start, to.stop), size),
            )
            written = (
                _blocks(outputs[0], own, size),
                _blocks(outputs[1], range(to.start, to.stop), size),
            )
            key, value = (
                (x[group * size : (group + 1) * size], y[k * size : (k + 1) * size])
                for x, y in (keys, values)
            )
            inside = self._planes(key, queried) if mine.rotary else self._coordinates(key, queried)
            held = self._coordinates(value, written)
            found["keys"].append(_at(group, size, inside))
            found["values"].append(_at(group, size, held))
            for head in own.tolist():
                found["queries"].append(_at(head, size, Moved(inside.order, 1 / inside.factor)))
                found["outputs"].append(_at(head, size, held))
        for name, parts in found.items():
            self.element[f"{name} {number}"] = Moved(
                np.concatenate([part.order for part in parts]),
                np.concatenate([part.factor for part in parts]),
            )
        return Found(mine.heads, recognised)

    def _coordinates(self, rows: tuple[Array, Array], others: tuple[Array, Array]) -> Moved:
        """Of one head: rows [size, width] that are multiplied, and others [heads, size, width] that are
        divided, by numbers.
        """
        joined = [x.transpose(1, 0, 2).reshape(len(rows[0]), -1) for x in others]
        signed = _unit(rows[1]) @ _unit(rows[0]).T + _unit(joined[1]) @ _unit(joined[0]).T
        order = assign(np.abs(signed).astype(np.float64))
        at = np.arange(len(order))
        sign = np.where(signed[at, order] < 0, -1.0, 1.0)
        norms = [np.sqrt(_squares(x)) for x in (*rows, *joined)]
        scale = self._scale(norms[0][order], norms[1], norms[2][order], norms[3])
        return Moved(order, sign * scale)

    def _planes(self, keys: tuple[Array, Array], queries: tuple[Array, Array]) -> Moved:
        """Of one head with rotary positions: each plane turned by quarters, and scaled."""
        x, y = (_complex(part) for part in keys)
        p, q = (_complex(part) for part in queries)
        sizes = [np.sqrt(_squares(z)) for z in (x, y)]
        others = [np.sqrt(np.square(np.abs(z)).sum(axis=(0, 2))) for z in (p, q)]
        turn = np.einsum("pd,pd->p", y, x.conj()) / _or_one(sizes[0] * sizes[1])
        turn = turn + np.einsum("hpd,hpd->p", q, p.conj()) / _or_one(others[0] * others[1])
        quarters = np.round(np.angle(turn) / (np.pi / 2)).astype(int) % 4
        scale = self._scale(*sizes, *others)
        half = len(scale)
        order = np.arange(2 * half)
        factor = np.concatenate([scale, scale])
        # i (x + i y) = -y + i x
        odd = quarters % 2 == 1
        low, high = order[:half].copy(), order[half:].copy()
        order[:half], order[half:] = np.where(odd, high, low), np.where(odd, low, high)
        factor[:half] *= np.where((quarters == 1) | (quarters == 2), -1.0, 1.0)
        factor[half:] *= np.where((quarters == 2) | (quarters == 3), -1.0, 1.0)
        return Moved(order, factor)


def _gains(
    rows: Order, still: list[tuple[Array, Array]], turned: list[tuple[Array, Array]], *, signs: bool
) -> Array:
    """Inner products of some rows of b with all of a, of what stays, and of what signs may change."""
    total = np.zeros((len(rows), len(turned[0][0])), np.float32)
    for x, y in turned:
        total += y[rows] @ x.T
    if signs:
        np.abs(total, out=total)
    for x, y in still:
        total += y[rows] @ x.T
    return total


def _scaled(norm: Norm) -> bool:
    """Whether what reads a norm may be multiplied; embeddings may not."""
    return norm.gain.rows is not None and norm.gain.rows.part != "stream"


def snapped(numbers: Array, near: float) -> Array:
    """Powers of two, or their opposites, in the place of all numbers if all are near some: of numbers that just
    happen to be near some are not. Those that are such but for sums in another order become such anyway.
    """
    powers = np.clip(np.round(np.log2(np.abs(numbers))), -POWER, POWER)
    whole = np.copysign(np.exp2(powers), numbers)
    apart = np.abs(numbers / whole - 1)
    return np.where(apart <= max(near if (apart <= near).all() else 0.0, SUMS), whole, numbers)


def matched(count: int, gains: Halves) -> tuple[Order, int]:
    """The former unit that comes to each place, and how many are recognised.

    Pairs that are each other's best match by all numbers are taken; what is left is assigned so that
    the sum of gains is largest, or stays in its order where too much is left.
    """
    best = np.zeros((3, count), np.intp)  # column of each row, by either half and by both
    back = np.zeros((3, count), np.intp)  # row of each column
    tops = np.full((3, count), -np.inf)
    for rows in _slices(count):
        first, second = gains(rows)
        for k, block in enumerate((first, second, first + second)):
            best[k, rows] = block.argmax(axis=1)
            at = block.argmax(axis=0)
            top = block[at, np.arange(count)]
            better = top > tops[k]
            tops[k, better], back[k, better] = top[better], rows[at[better]]
    place = np.arange(count)
    mutual = np.take_along_axis(back, best, axis=1) == place
    recognised = int((mutual[0] & mutual[1] & (best[0] == best[1])).sum())
    order = np.where(mutual[2], best[2], -1)
    left, free = place[~mutual[2]], np.setdiff1d(place, order)
    if 0 < len(left) <= MOST_LEFT:
        parts = []
        for rows in _slices(len(left), count):
            first, second = gains(left[rows])
            parts.append((first + second)[:, free])
        order[left] = free[assign(np.concatenate(parts).astype(np.float64))]
    else:
        order[left] = free
    return order, recognised


def _slices(count: int, columns: int | None = None) -> Iterator[Order]:
    step = max(1, GAINS // max(1, count if columns is None else columns))
    for start in range(0, count, step):
        yield np.arange(start, min(count, start + step))


def _agreeing(first: Array, second: Array) -> int:
    """Pairs that are each other's best match by both."""
    best = [gains.argmax(axis=1) for gains in (first, second)]
    rows = np.arange(len(first))
    mutual = [
        gains.argmax(axis=0)[own] == rows for gains, own in zip((first, second), best, strict=True)
    ]
    return int((mutual[0] & mutual[1] & (best[0] == best[1])).sum())


def _grouped(heads: Attention, gains: Array) -> tuple[Order, Order]:
    """The former key head that comes to each place, and the former query head: those of one key head
    stay together.
    """
    groups, shared = heads.groups, heads.shared
    blocks = gains.reshape(groups, shared, groups, shared)
    scores = np.zeros((groups, groups))
    inner = np.zeros((groups, groups, shared), np.intp)
    for k in range(groups):
        for j in range(groups):
            block = blocks[k, :, j].astype(np.float64)
            inner[k, j] = assign(block) if shared > 1 else 0
            scores[k, j] = block[np.arange(shared), inner[k, j]].sum()
    order = assign(scores)
    own = order[:, None] * shared + inner[np.arange(groups), order]
    return order, own.ravel()


def _forms_alike(
    heads: Attention, rows: tuple[Array, Array], columns: tuple[Array, Array]
) -> Array:
    """Cosines [heads of b, heads of a] of the matrices R_h^T C_h: rows are of query heads, columns of key
    heads. <R^T C, S^T D> is the sum of (R S^T) * (C D^T), so no such matrix is made.
    """
    size, count = heads.size, heads.heads
    found = np.zeros((count, count))
    squares = []
    for x, y in zip(rows, columns, strict=True):
        own = []
        for h in range(count):
            r, c = _blocks(x, [h], size)[0], _blocks(y, [h // heads.shared], size)[0]
            own.append(float(((r @ r.T) * (c @ c.T)).sum()))
        squares.append(np.sqrt(np.maximum(own, 0)))
    for h in range(count):
        r = _blocks(rows[1], [h], size)[0] @ rows[0].T
        c = _blocks(columns[1], [h // heads.shared], size)[0] @ columns[0].T
        c = c.reshape(size, heads.groups, size).repeat(heads.shared, axis=1)
        found[h] = (r.reshape(size, count, size) * c).sum(axis=(0, 2))
    return found / _or_one(np.outer(squares[1], squares[0]))


def _planes_alike(
    heads: Attention, queries: tuple[Array, Array], keys: tuple[Array, Array]
) -> Array:
    """The same where planes stay: cosines of conj(q) k, plane by plane, as complex numbers."""
    p, q = (_complex(x.reshape(heads.heads, heads.size, -1)) for x in queries)
    x, y = (_complex(z.reshape(heads.groups, heads.size, -1)) for z in keys)
    found = np.zeros((heads.heads, heads.heads))
    squares = np.zeros((2, heads.heads))
    for plane in range(heads.size // 2):
        query = q[:, plane] @ p[:, plane].conj().T
        key = (y[:, plane].conj() @ x[:, plane].T).repeat(heads.shared, 0).repeat(heads.shared, 1)
        found += (query * key).real
        for k, (one, two) in enumerate(((p, x), (q, y))):
            squares[k] += _squares(one[:, plane]) * _squares(two[:, plane]).repeat(heads.shared)
    return found / _or_one(np.sqrt(np.outer(squares[1], squares[0])))


def _blocks(rows: Array, which: Any, size: int) -> Array:
    """Rows of some heads [heads, size, width]."""
    return np.stack([rows[h * size : (h + 1) * size] for h in which])


def _at(head: int, size: int, inside: Moved) -> Moved:
    return Moved(head * size + inside.order, inside.factor)


def _complex(rows: Array) -> Array:
    """Coordinates j and j + size / 2 [..., size, width] as one complex number."""
    half = rows.shape[-2] // 2
    return rows[..., :half, :] + 1j * rows[..., half:, :]


def _halved(pair: tuple[Array, Array]) -> list[tuple[Array, Array]]:
    """Even and odd columns of both, each row of norm 1."""
    return [(_unit(pair[0][:, k::2]), _unit(pair[1][:, k::2])) for k in range(2)]


def _unit(rows: Array) -> Array:
    norm = np.sqrt(_squares(rows))
    return np.asarray(rows / _or_one(norm)[:, None].astype(rows.dtype))


def _squares(rows: Array) -> Array:
    """Of each row, in float64: so exact copies have norms of which ratios are seen to be powers of two."""
    wide = rows.astype(np.complex128 if np.iscomplexobj(rows) else np.float64)
    return np.asarray(np.einsum("ij,ij->i", wide, wide.conj()).real)


def _power_below(*rows: Array) -> float:
    """A power of two by which the largest number is multiplied to be below 1, so that products do not overflow."""
    top = max(float(np.abs(x).max(initial=0.0)) for x in rows)
    return math.ldexp(1.0, -math.frexp(top)[1]) if top else 1.0


def _or_one(numbers: Array) -> Array:
    return np.where(numbers > 0, numbers, 1.0)


def log_chance(parts: Sequence[Found]) -> float:
    """A bound of the logarithm of the probability that chance recognises as many units, in nats.

    Of a random permutation of n things let X be the number of its fixed points: its j-th factorial moment is 1
    for j <= n, so E exp(t X) = sum_(j <= n) (e^t - 1)^j / j! <= exp(e^t - 1) for t > 0. So over S independent sets, by
    Markov's inequality, P(sum X >= K) <= exp(S (e^t - 1) - t K), for K > S least at e^t = K / S, where it is
    exp(K - S - K log(K / S)).
    """
    count, seen = len(parts), sum(part.recognised for part in parts)
    if seen <= count:
        return 0.0
    return seen - count - seen * math.log(seen / count)
