"""Weights of four bits, and scales of blocks, written out with operators that are read anyway.

    W = DequantizeLinear(q, s, z, axis, block_size):  W = (q - z) s, one s for so many neighbours
    y = MatMulNBits(x, q, s, z, bias):                y = x W^T + bias, blocks along the rows of W

Neighbours become rows: q as [blocks, block_size], one s and z for each row, then a Reshape, and a
Transpose where blocks went along another axis than the last. All are constants; what the file says is
what is read, over the reals. Such a model is read, and not written. Where nothing has to be written out,
integers of four bits are read as bytes, and written in four bits again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.errors import UnsupportedModel

from .constants import NARROW, widened_array
from .nodes import kind_of
from .writing_out import Draft, integer_of, new_node

Tensor = np.ndarray[Any, np.dtype[Any]]
FLOAT = 1  # element type
MOST = 2**16  # neighbours that share a scale: evaluators spread scales before they compare sizes
CONTRIBUTED, PRODUCT = "com.microsoft", "MatMulNBits"
EXACT = (0, 1)  # levels of accuracy of MatMulNBits at which its input is not rounded to integers


class WrittenOut(NamedTuple):
    """A model with whole scales and bytes.

    Attributes:
        sums: operators of which nobody says how a runtime adds. narrow: tensors that were stored in
            four bits, and their types. changed: whether its nodes are others.
    """

    proto: Any
    sums: frozenset[str]
    narrow: Mapping[str, int]
    changed: bool


def concerns(proto: Any) -> bool:
    """Whether a model has such weights, without a look at their numbers.

    Raises:
        UnsupportedModel: its blocks are too large; it defines what runtimes have of their own.
    """
    for node in proto.graph.node:
        size = integer_of(node, "block_size", 0)
        if not 0 <= size <= MOST:
            raise UnsupportedModel(
                f"{node.op_type} has blocks of {size}; between 1 and {MOST} are understood"
            )
    if any((f.domain, f.name) == (CONTRIBUTED, PRODUCT) for f in proto.functions):
        raise UnsupportedModel(f"a function {PRODUCT} of its own, which runtimes do not call")
    return any(tensor.data_type in NARROW for tensor in proto.graph.initializer) or any(
        _is_block(node) or _is_product(node) for node in proto.graph.node
    )


def written_out(proto: Any, folder: Path | None) -> WrittenOut:
    """The model with whole scales; nodes that are not understood stay.

    Args:
        folder: where its external data lies.

    Raises:
        UnsupportedModel: integers of four bits are read by what might make others of that type.
    """
    made = type(proto)()
    made.CopyFrom(proto)
    work = _Work(made, folder)
    nodes, changed = list[Any](), False
    for each in made.graph.node:
        others = work.block(each) or work.product(each)
        changed |= others is not None
        nodes += others or [each]
    work.replace(nodes)
    return WrittenOut(made, frozenset(work.sums), work.narrow, changed)


def _is_block(node: Any) -> bool:
    return kind_of(node) == "DequantizeLinear" and bool(integer_of(node, "block_size", 0))


def _is_product(node: Any) -> bool:
    return kind_of(node) == f"{CONTRIBUTED}.{PRODUCT}"


class _Work(Draft):
    def __init__(self, proto: Any, folder: Path | None) -> None:
        super().__init__(proto, folder)
        self.sums = set[str]()
        narrow = {t.name for t in self.graph.initializer if t.data_type in NARROW}
        if narrow:
            self._refuse(narrow)
        self.narrow = {name: self.stored[name].data_type for name in sorted(narrow)}
        for name in sorted(narrow):
            self.put(self.stored[name], widened_array(self.stored[name], folder))

    def _refuse(self, narrow: set[str]) -> None:
        """Integers that are stored in four bits and do not become floats at once."""
        read = (
            (name, node)
            for node in self.graph.node
            for i, name in enumerate(node.input)
            if name in narrow
            and not (kind_of(node) == "DequantizeLinear" and i != 1 and node.input[0] in narrow)
        )
        name, node = next(read, ("", None))
        ends = narrow & {v.name for v in (*self.graph.input, *self.graph.output)}
        if node is not None or self.nested or ends:
            name = name or min(ends or narrow)
            reader = "" if node is None else f", read by {node.op_type},"
            raise UnsupportedModel(
                f"tensor {name!r}{reader} has integers of four bits; they are understood where DequantizeLinear "
                "reads them and their zero points, in graphs without parts of their own"
            )

    def block(self, node: Any) -> list[Any] | None:
        """DequantizeLinear of blocks."""
        if not _is_block(node) or integer_of(node, "output_dtype", 0) not in (0, FLOAT):
            return None
        names = [name for name in node.input if name]
        if len(names) != len(node.input) or len(names) > 3:
            return None
        if not self.known(names) or self.stored[names[1]].data_type != FLOAT:
            return None
        q, scale, *zero = map(self.array, names)
        size, axis = integer_of(node, "block_size", 0), integer_of(node, "axis", 1)
        if q.dtype not in (np.int8, np.uint8) or not -q.ndim <= axis < q.ndim or not q.size:
            return None
        last = q.ndim - 1
        order = [i for i in range(q.ndim) if i != axis % q.ndim] + [axis % q.ndim]
        wanted = list(q.shape)
        wanted[axis] //= size
        if q.shape[axis] % size or any(list(part.shape) != wanted for part in (scale, *zero)):
            return None
        if any(part.dtype != q.dtype for part in zero):
            return None
        rows = np.transpose(q, order)
        whole, output = rows.shape, node.output[0]
        further = [np.transpose(part, order).reshape(-1) for part in (scale, *zero)]
        shaped = output if order[-1] == last else self.fresh(f"{output}:turned")
        found = self._whole(output, rows.reshape(-1, size), further, whole, shaped)
        if order[-1] != last:
            found.append(new_node("Transpose", [shaped], output, perm=np.argsort(order).tolist()))
        return found

    def product(self, node: Any) -> list[Any] | None:
        """MatMulNBits."""
        if not _is_product(node) or integer_of(node, "accuracy_level", 0) not in EXACT:
            return None
        x, packed, scales, zero, order, bias = [*node.input, *[""] * 6][:6]
        stored = [name for name in (packed, scales, zero, bias) if name]
        bits, size = integer_of(node, "bits", 4), integer_of(node, "block_size", 0)
        inside, outside = integer_of(node, "K", 0), integer_of(node, "N", 0)
        if order or not x or bits != 4 or size < 16 or size & size - 1 or inside < 1 or outside < 1:
            return None
        if not self.known(stored) or self.stored[scales].data_type != FLOAT or inside % size:
            return None
        blocks = inside // size
        q, s = self.array(packed), self.array(scales)
        if q.dtype != np.uint8 or q.size != outside * blocks * size // 2:
            return None
        if q.shape != (outside, blocks, size // 2) or not _either(s, outside, blocks):
            return None
        rows = _unpacked(q.reshape(outside * blocks, -1))
        if zero:
            z = self.array(zero)
            if z.dtype != np.uint8 or not _either(z, outside, math.ceil(blocks / 2)):
                return None
            points = _unpacked(z.reshape(outside, -1))[:, :blocks].reshape(-1)
        else:
            points = np.full(outside * blocks, 8, dtype=np.uint8)
        y = node.output[0]
        weight, turned = self.fresh(f"{y}:weight"), self.fresh(f"{y}:turned")
        summed = self.fresh(f"{y}:sum") if bias else y
        found = self._whole(weight, rows, [s.reshape(-1), points], (outside, inside), weight)
        found.append(new_node("Transpose", [weight], turned, perm=[1, 0]))
        found.append(new_node("MatMul", [x, turned], summed))
        if bias:
            found.append(new_node("Add", [summed, bias], y))
        self.sums.add(node.op_type)
        return found

    def _whole(
        self, name: str, rows: Tensor, further: list[Tensor], shape: tuple[int, ...], output: str
    ) -> list[Any]:
        """Rows with a scale each, as a tensor of that shape."""
        inputs = [
            self.store(f"{name}:{what}", part)
            for what, part in zip(("rows", "scales", "zeros"), (rows, *further), strict=False)
        ]
        sizes = self.store(f"{name}:shape", np.array(shape, dtype=np.int64))
        made = self.fresh(f"{name}:blocks")
        return [
            new_node("DequantizeLinear", inputs, made, axis=0),
            new_node("Reshape", [made, sizes], output),
        ]


def _either(array: Tensor, rows: int, columns: int) -> bool:
    """Whether an array is a matrix of that shape, or its rows one after another."""
    return array.shape in ((rows * columns,), (rows, columns))


def _unpacked(rows: Tensor) -> Tensor:
    """Bytes as pairs of entries along the last axis, the lower bits first."""
    return np.stack([rows & 15, rows >> 4], axis=-1).reshape(len(rows), -1)
