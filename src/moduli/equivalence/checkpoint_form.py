"""One form for all checkpoints that differ by orders, signs and powers of two, and its digest.

Embeddings are indexed by tokens, which stay: their columns, the first number of each positive, are sorted by their
digests. Then gains become numbers of [1, 2), and in each layer units and coordinates of heads have a largest number of
[1, 2) and a positive first one, and are sorted by digests of all their numbers. One layer is in memory at a time.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from moduli.common.checkpoint import Array, Checkpoint, Stored
from moduli.common.result import Result
from moduli.kernel.errors import CertificateRejected, printable

from .checkpoint_axes import Attention, Decoder, Piece
from .checkpoint_moves import (
    POWER,
    Element,
    Moved,
    digest,
    exact,
    matrices,
    matrix,
    placed,
    require_laws,
    written,
)
from .group import Signature

Order = np.ndarray[Any, np.dtype[np.intp]]
UNSAID = {  # of a configuration: what does not change the function
    "_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache",
    "bos_token_id", "eos_token_id", "pad_token_id", "task_specific_params", "initializer_range", "attention_dropout",
    "attn_pdrop", "embd_pdrop", "resid_pdrop", "pretraining_tp",
}  # fmt: skip


def said(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a configuration says of the function."""
    return {key: value for key, value in checkpoint.config.items() if key not in UNSAID}


@dataclass(frozen=True, eq=False, repr=False)
class CheckpointForm(Result):
    """The normal form of a checkpoint: its tensors moved by orders, signs and powers of two.

    Attributes:
        checkpoint: whose. decoder: the declared architecture. element: what moves it. signature: the digest.
    """

    checkpoint: Checkpoint
    decoder: Decoder
    element: Element
    signature: Signature
    kind: ClassVar[str] = "canon"

    @property
    def statement(self) -> str:
        return (
            f"normal form of {self.checkpoint.parameters} numbers under the declared architecture "
            f"({self.decoder.kind}); nothing was rounded"
        )

    def check(self) -> bool:
        """Find the form again, from the files."""
        again = canon(self.checkpoint)
        same = (
            self.status == again.status
            and self.decoder == again.decoder
            and self.signature == again.signature
            and self.signature.complete == again.signature.complete
            and _equal(self.element, again.element)
        )
        if not same:
            raise CertificateRejected(f"{self.checkpoint.path}: found again is another form")
        return True

    def asked(self) -> list[tuple[str, str]]:
        return [("checkpoint", repr(self.checkpoint))]

    def facts(self) -> list[tuple[str, str]]:
        return [
            ("signature", self.signature), ("complete", "another signature proves nothing"),
        ]  # fmt: skip

    def data(self) -> dict[str, Any]:
        return {
            "checkpoint": str(self.checkpoint.path), "architecture": self.decoder.kind,
            "numbers": self.checkpoint.parameters, "signature": str(self.signature),
            "complete": self.signature.complete,
        }  # fmt: skip

    def written(self) -> tuple[dict[str, Stored], Iterator[tuple[str, Array]]]:
        """The tensors in normal form, in the types that they have, for `formats.checkpoint_files`."""
        return written(self.decoder, self.checkpoint, self.element)


def canon(checkpoint: Checkpoint) -> CheckpointForm:
    """The normal form. Equal digests: the same numbers but for a symmetry under the declared architecture, so the
    same function. Never complete: numbers that were rounded, or another basis, have another one.
    """
    decoder = Decoder.of(checkpoint)
    element = normal_element(decoder, checkpoint)
    found = digest(decoder, checkpoint, element, said(checkpoint))
    mark = Signature(f"{decoder.kind}:{found}", complete=False)
    return CheckpointForm("proved", checkpoint, decoder, element, mark)


def signature(checkpoint: Checkpoint) -> Signature:
    """The digest of the normal form; see `canon`."""
    return canon(checkpoint).signature


def normal_element(decoder: Decoder, checkpoint: Checkpoint) -> dict[str, Moved]:
    """The orders, signs and powers of two that lead to the normal form."""
    form = _Form(decoder, checkpoint)
    form.order_stream()
    form.scale_norms()
    for number in range(len(decoder.layers)):
        form.order_units(number)
        form.order_heads(number)
    require_laws(decoder, form.element)
    if not exact(form.element):
        raise CertificateRejected(
            f"{checkpoint.path}: a number of the normal form is no power of two"
        )
    return form.element


def _equal(one: Element, other: Element) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(x, y)
        for name, moved in one.items()
        for x, y in zip(moved, other[name], strict=True)
    )


class _Form:
    """The element that is found so far."""

    def __init__(self, decoder: Decoder, checkpoint: Checkpoint) -> None:
        self.decoder, self.checkpoint = decoder, checkpoint
        self.element = dict[str, Moved]()

    def read(self, pieces: Sequence[Piece]) -> Array:
        """A weight with its bias as a last column, as far as it can be moved, in the wider of float32 and its type."""
        parts = []
        for piece in pieces:
            numbers = matrix(self.checkpoint, piece)
            moved = placed(numbers, piece, self.element)
            fits = np.abs(moved).max(initial=0.0) <= np.finfo(numbers.dtype).max
            parts.append(moved.astype(numbers.dtype) if fits else moved)
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def order_stream(self) -> None:
        width = self.decoder.width
        sign = self._signs() if self.decoder.signs else np.full(width, self._one_sign())
        hashes = [hashlib.sha256() for _ in range(width)]
        for piece in self.decoder.embeddings:
            for numbers in matrices(self.checkpoint, piece):
                columns = np.ascontiguousarray((numbers * sign.astype(numbers.dtype) + 0.0).T)
                for column, one in zip(columns, hashes, strict=True):
                    one.update(column.data)
        order = _sorted([one.digest() for one in hashes])
        self.element["stream"] = Moved(order, sign[order])

    def _signs(self) -> Array:
        """So that the first number of each column that is not 0 is positive."""
        sign = np.zeros(self.decoder.width)
        for piece in self.decoder.embeddings:
            for numbers in matrices(self.checkpoint, piece):
                if sign.all():
                    return sign
                sign = np.where(sign == 0, _first_signs(numbers.T), sign)
        return np.where(sign == 0, 1.0, sign)

    def _one_sign(self) -> float:
        """So that more numbers are positive than negative."""
        more = 0
        for piece in self.decoder.embeddings:
            for numbers in matrices(self.checkpoint, piece):
                more += int((numbers > 0).sum()) - int((numbers < 0).sum())
        return -1.0 if more < 0 else 1.0

    def scale_norms(self) -> None:
        stream = self.element["stream"]
        for norm in self.decoder.norms():
            if norm.gain.rows is None or norm.gain.rows.part == "stream":
                continue
            gains = matrix(self.checkpoint, norm.gain)[stream.order]
            factor = np.where(gains[:, 0] == 0, stream.factor, _normal(gains))
            given = factor * stream.factor
            self.element[f"gain {norm.name}"] = Moved(stream.order, factor)
            self.element[f"norm {norm.name}"] = Moved(stream.order, given)

    def order_units(self, number: int) -> None:
        units = self.decoder.layers[number].feedforward
        up = self.read(units.up)
        factor = np.ones(units.units)
        if units.signs and units.scales:
            factor = _normal(up)
        elif units.signs:
            factor = np.sign(_normal(up))
        elif units.scales:
            factor = np.abs(_normal(up))
        parts = [up * factor[:, None], self.read((units.down,)) / factor[:, None]]
        if units.gate:
            parts.append(self.read(units.gate))
        order = _sorted(_digests(parts))
        self.element[f"units {number}"] = Moved(order, factor[order])

    def order_heads(self, number: int) -> None:
        heads = self.decoder.layers[number].attention
        size, shared = heads.size, heads.shared
        queries, keys, values = (
            self.read(pieces) for pieces in (heads.queries, heads.keys, heads.values)
        )
        outputs = self.read((heads.outputs,))
        groups = []
        for group in range(heads.groups):
            own = slice(group * size, (group + 1) * size)
            inside = _planes(keys[own]) if heads.rotary else _coordinates(keys[own])
            held = _coordinates(values[own])
            inverse = Moved(inside.order, 1 / inside.factor)
            readers = []
            for head in range(group * shared, (group + 1) * shared):
                rows = slice(head * size, (head + 1) * size)
                query, output = _moved(queries[rows], inverse), _moved(outputs[rows], held, -1)
                readers.append((_digest([query, output]), head))
            readers.sort()
            own_digest = _digest([_moved(keys[own], inside), _moved(values[own], held)])
            name = own_digest + b"".join(one for one, _ in readers)
            groups.append((name, group, [head for _, head in readers], inside, held))
        groups.sort(key=lambda found: found[:2])
        self._put_heads(number, heads, groups)

    def _put_heads(self, number: int, heads: Attention, groups: Sequence[Any]) -> None:
        found = {name: list[Moved]() for name in ("queries", "keys", "values", "outputs")}
        for _, group, readers, inside, held in groups:
            found["keys"].append(_shifted(inside, group * heads.size))
            found["values"].append(_shifted(held, group * heads.size))
            for head in readers:
                inverse = Moved(inside.order, 1 / inside.factor)
                found["queries"].append(_shifted(inverse, head * heads.size))
                found["outputs"].append(_shifted(held, head * heads.size))
        for name, parts in found.items():
            self.element[f"{name} {number}"] = Moved(
                np.concatenate([part.order for part in parts]),
                np.concatenate([part.factor for part in parts]),
            )


def _shifted(moved: Moved, by: int) -> Moved:
    return Moved(moved.order + by, moved.factor)


def _moved(rows: Array, moved: Moved, power: int = 1) -> Array:
    return np.asarray(rows[moved.order] * (moved.factor**power)[:, None])


def _coordinates(rows: Array) -> Moved:
    """Each with its normal number, sorted."""
    factor = _normal(rows)
    order = _sorted(_digests([rows * factor[:, None]]))
    return Moved(order, factor[order])


def _planes(rows: Array) -> Moved:
    """Rows j and j + size / 2 as complex numbers: the first that is not 0 turned by quarters to where the real part
    is positive and the imaginary part is not negative, the largest part in [1, 2).
    """
    half = len(rows) // 2
    x, y = rows[:half], rows[half:]
    there = (x != 0) | (y != 0)
    first = there.argmax(axis=1)
    at = np.arange(half)
    u, v = x[at, first], y[at, first]
    # how many quarter turns lead into the first quarter: 0, 3, 2, 1 from the four quarters
    turns = np.select([(u > 0) & (v >= 0), (u <= 0) & (v > 0), (u < 0) & (v <= 0)], [0, 3, 2], 1)
    turns = np.where(there.any(axis=1), turns, 0)
    size = np.abs(_normal(np.concatenate([x, y], axis=1)))
    odd = turns % 2 == 1
    # i (x + i y) = -y + i x
    order = np.concatenate([np.where(odd, at + half, at), np.where(odd, at, at + half)])
    low = size * np.where((turns == 1) | (turns == 2), -1.0, 1.0)
    high = size * np.where((turns == 2) | (turns == 3), -1.0, 1.0)
    return Moved(order, np.concatenate([low, high]))


def _first_signs(rows: Array) -> Array:
    """The sign of the first number of each row that is not 0; 0 where there is none."""
    first = (rows != 0).argmax(axis=1)
    return np.asarray(np.sign(rows[np.arange(len(rows)), first]), dtype=np.float64)


def _normal(rows: Array) -> Array:
    """By what each row is multiplied for a first number that is positive and a largest one of [1, 2)."""
    sign = _first_signs(rows)
    _, power = np.frexp(np.abs(rows).max(axis=1))
    scale = np.exp2(np.clip(1.0 - power, -POWER, POWER))
    return np.where(sign == 0, 1.0, sign * scale)


def _digest(parts: Sequence[Array]) -> bytes:
    one = hashlib.sha256()
    for part in parts:
        one.update(np.ascontiguousarray(part + part.dtype.type(0)).data)  # no -0.0
    return one.digest()


def _digests(parts: Sequence[Array]) -> list[bytes]:
    """Of each row, of all parts."""
    return [_digest(list(own)) for own in zip(*parts, strict=True)]


def _sorted(names: Sequence[bytes]) -> Order:
    return np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.intp)


def differing(a: Checkpoint, b: Checkpoint) -> tuple[str, ...]:
    """What two configurations say differently of the function."""
    one, other = said(a), said(b)
    keys = sorted(set(itertools.chain(one, other)))
    missing = object()  # what is left out has a default, which need not be null
    return tuple(
        printable(key)[:80] for key in keys if one.get(key, missing) != other.get(key, missing)
    )
