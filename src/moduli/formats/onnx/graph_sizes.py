"""Integer tensors of an ONNX graph that are made of sizes, followed entry by entry.

An entry is a number, the name of a size that is not known, or None where it is something else.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Tensor = np.ndarray[Any, np.dtype[Any]]
Sources = list[tuple[str, int]]
MAX_ENTRIES = 64
INTEGERS = (6, 7, 9)  # element types int32, int64, bool


def follow(reader: Any, node: Any) -> tuple[Tensor, Sources] | None:
    """Entries of the node's output and the axes whose sizes it reads itself; None where it is no such
    node.
    """
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    if node.op_type == "Shape":
        return _shape(reader, node)
    if node.op_type == "Size":
        return None
    if not any(name in reader.read_sizes for name in node.input):
        return None
    operands: list[Tensor | None] = []
    for name in node.input:
        operands.append(_entries(reader, name))
    rule = RULES.get(node.op_type)
    if rule is None or any(x is None for x, name in zip(operands, node.input, strict=True) if name):
        return None
    try:
        found = rule(node, operands, reader)
    except (ValueError, IndexError, TypeError):
        return None
    if found is None or found.size > MAX_ENTRIES:
        return None
    return found, []


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _entries(reader: Any, name: str) -> Tensor | None:
    if name in reader.sizes:
        found: Tensor = reader.sizes[name]
        return found
    array = reader.constant(name) if name else None
    if array is None or array.size > MAX_ENTRIES or array.dtype.kind not in "iub":
        return None
    out = np.empty(array.shape, dtype=object)
    out[...] = array.astype(object)
    return out


def _shape(reader: Any, node: Any) -> tuple[Tensor, Sources] | None:
    shape = reader.shapes.get(node.input[0])
    if shape is None:
        return None
    attributes = _attributes(node)
    axes = list(range(len(shape)))[slice(attributes.get("start", 0), attributes.get("end"))]
    out = np.empty(len(axes), dtype=object)
    out[:] = [shape[axis] for axis in axes]
    if node.input[0] in reader.read_sizes or reader.constant(node.input[0]) is not None:
        return out, []  # of a tensor whose sizes do not change
    return out, [(node.input[0], axis) for axis in axes]


def _map(f: Any) -> Any:
    def rule(node: Any, operands: list[Tensor], reader: Any) -> Tensor:
        found = np.frompyfunc(f, len(operands), 1)(*operands)
        out = np.empty(np.shape(found), dtype=object)
        out[...] = found
        return out

    return rule


def _add(a: Any, b: Any) -> Any:
    if a == 0 and isinstance(a, int):
        return b
    if b == 0 and isinstance(b, int):
        return a
    return a + b if isinstance(a, int) and isinstance(b, int) else None


def _sub(a: Any, b: Any) -> Any:
    if b == 0 and isinstance(b, int):
        return a
    return a - b if isinstance(a, int) and isinstance(b, int) else None


def _mul(a: Any, b: Any) -> Any:
    if isinstance(a, int) and a == 1:
        return b
    if isinstance(b, int) and b == 1:
        return a
    return a * b if isinstance(a, int) and isinstance(b, int) else None


def _div(a: Any, b: Any) -> Any:
    if isinstance(b, int) and b == 1:
        return a
    if isinstance(a, int) and isinstance(b, int) and a >= 0 and b > 0:
        return a // b
    return None


def _equal(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    # a size is never negative
    if isinstance(a, str) and isinstance(b, int) and b < 0:
        return False
    if isinstance(b, str) and isinstance(a, int) and a < 0:
        return False
    return True if a == b and isinstance(a, str) else None


def _where(condition: Any, a: Any, b: Any) -> Any:
    if condition is None:
        return a if a == b else None
    return a if condition else b


def _gather(node: Any, operands: list[Tensor], reader: Any) -> Tensor | None:
    data, index = operands
    if data.ndim != 1 or not all(isinstance(i, int) for i in index.ravel().tolist()):
        return None
    out = np.empty(index.shape, dtype=object)
    out[...] = data[index.astype(np.int64)]
    return out


def _concat(node: Any, operands: list[Tensor], reader: Any) -> Tensor | None:
    return np.concatenate(operands) if all(x.ndim == 1 for x in operands) else None


def _reshape(node: Any, operands: list[Tensor], reader: Any) -> Tensor | None:
    shape = operands[1].tolist()
    return operands[0].reshape(shape) if all(isinstance(n, int) and n != 0 for n in shape) else None


def _squeeze(node: Any, operands: list[Tensor], reader: Any) -> Tensor | None:
    return operands[0].reshape(()) if operands[0].shape == (1,) else None


def _unsqueeze(node: Any, operands: list[Tensor], reader: Any) -> Tensor | None:
    listed = operands[1].ravel().tolist() if len(operands) > 1 else _attributes(node)["axes"]
    return operands[0].reshape(1) if operands[0].ndim == 0 and list(listed) in ([0], [-1]) else None


def _slice(node: Any, operands: list[Any], reader: Any) -> Tensor | None:
    data = operands[0]
    if len(operands) > 1:
        starts, ends = operands[1], operands[2]
        given = len(operands) > 4 and operands[4] is not None
        steps = operands[4] if given else np.ones(1, dtype=object)
    else:
        attributes = _attributes(node)
        starts, ends = np.array(attributes["starts"]), np.array(attributes["ends"])
        steps = np.ones(1, dtype=np.int64)
    bounds = [x.ravel().tolist() for x in (starts, ends, steps)]
    if data.ndim != 1 or any(len(b) != 1 or not isinstance(b[0], int) for b in bounds):
        return None
    found: Tensor = data[bounds[0][0] : bounds[1][0] : bounds[2][0]]
    return found


def _cast(node: Any, operands: list[Tensor], reader: Any) -> Tensor | None:
    if _attributes(node)["to"] not in (6, 7):
        return None
    out = np.empty(operands[0].shape, dtype=object)
    out[...] = np.frompyfunc(lambda x: int(x) if isinstance(x, bool) else x, 1, 1)(operands[0])
    return out


def _constant_of_shape(node: Any, operands: list[Tensor], reader: Any) -> Tensor | None:
    from onnx import numpy_helper

    value = _attributes(node).get("value")
    array = np.zeros(1, dtype=np.float32) if value is None else numpy_helper.to_array(value)
    shape = operands[0].tolist()
    if array.dtype.kind not in "iu" or not all(
        isinstance(n, int) and n <= MAX_ENTRIES for n in shape
    ):
        return None
    if math.prod(shape) > MAX_ENTRIES:
        return None
    out = np.empty(shape, dtype=object)
    out[...] = int(array[0])
    return out


def _expand(node: Any, operands: list[Tensor], reader: Any) -> Tensor | None:
    shape = operands[1].tolist()
    if not all(isinstance(n, int) and 0 < n <= MAX_ENTRIES for n in shape):
        return None
    made = np.broadcast_shapes(operands[0].shape, tuple(shape))
    if math.prod(made) > MAX_ENTRIES:
        return None
    found: Tensor = np.array(np.broadcast_to(operands[0], made))
    return found


def _product(node: Any, operands: list[Tensor], reader: Any) -> Tensor | None:
    if operands[0].ndim > 1:
        return None
    entries = operands[0].ravel().tolist()
    total: Any = 1
    for entry in entries:
        total = _mul(total, entry)
    out = np.empty((1,) if _attributes(node).get("keepdims", 1) else (), dtype=object)
    out[...] = total
    return out


RULES: dict[str, Any] = {
    "Add": _map(_add), "Sub": _map(_sub), "Mul": _map(_mul), "Div": _map(_div),
    "Equal": _map(_equal), "Where": _map(_where), "Identity": _map(lambda a: a), "Gather": _gather,
    "Concat": _concat, "Reshape": _reshape, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Slice": _slice, "Cast": _cast, "ConstantOfShape": _constant_of_shape, "Expand": _expand,
    "ReduceProd": _product,
}  # fmt: skip
