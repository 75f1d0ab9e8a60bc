"""The fused Attention of ONNX (opset 23 on) as operators of the kernel: softmax(scale q k' + mask) v,
head by head.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.graph.operators import (
    Contract,
    Elementwise,
    Shape,
    Size,
    Slicewise,
    Take,
    Transpose,
)

from .graph_operators import attributes, broadcast_shapes, reshape
from .graph_reader import GraphReader, NotUnderstood, handles

BOOLEAN = 9
# attributes that are read, and what others have to be; softmax_precision is for runtimes
READ = ("q_num_heads", "kv_num_heads", "scale", "is_causal", "softmax_precision")
NEUTRAL = {
    "softcap": 0,
    "qk_matmul_output_mode": 0,
    "left_window_size": -1,
    "right_window_size": -1,
}


class Part(NamedTuple):
    """A value on the way, with its shape."""

    name: str
    shape: Shape


class Steps:
    """Nodes that stand for one of the file, each named after what the last one gives."""

    def __init__(self, reader: GraphReader, output: str, kind: int) -> None:
        self.reader, self.output, self.kind = reader, output, kind

    def emit(self, op: Any, inputs: list[str], shape: Shape, what: str, kind: int = 0) -> Part:
        name = self.reader.apart(f"{self.output}:{what}") if what else self.output
        self.reader.emit(op, inputs, name, shape, kind or self.kind)
        return Part(name, shape)

    def constant(self, array: Any, what: str, kind: int) -> str:
        name = self.reader.apart(f"{self.output}:{what}")
        self.reader.folded[name] = np.asarray(array)
        self.reader.shapes[name], self.reader.types[name] = np.shape(array), kind
        return name


@handles("Attention")
def _attention(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    names = [*node.input, *[""] * (7 - len(node.input))]
    if any(names[4:]) or any(node.output[1:]):
        raise NotUnderstood("it keeps keys, or gives more than one value")
    for key, value in given.items():
        if key not in READ and value != NEUTRAL.get(key):
            raise NotUnderstood(f"its attribute {key} is {value}")
    steps = Steps(reader, node.output[0], reader.types.get(names[0], 0))
    shapes = [reader.shape(name) for name in names[:3]]
    flat = len(shapes[0]) == 3
    heads = [given.get(key) for key in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    q, k, v = (
        _by_heads(steps, Part(name, shape), n, what) if flat else Part(name, shape)
        for name, shape, n, what in zip(names, shapes, heads, "qkv", strict=False)
    )
    if len(q.shape) != 4 or len(k.shape) != 4 or len(v.shape) != 4:
        raise NotUnderstood("its inputs have no heads")
    scale = _scale(steps, q, given.get("scale"))
    k, v = (_repeated(steps, x, q.shape[1], what) for x, what in ((k, "keys"), (v, "values")))
    turned = steps.emit(
        Transpose((0, 1, 3, 2)), [k.name], (*k.shape[:2], k.shape[3], k.shape[2]), "turned"
    )
    batch = broadcast_shapes(reader, [q.shape[:2], k.shape[:2]], steps.output)
    scores = steps.emit(
        Contract(), [q.name, turned.name], (*batch, q.shape[2], k.shape[2]), "products"
    )
    scores = steps.emit(Elementwise("mul"), [scores.name, scale], scores.shape, "scaled")
    if given.get("is_causal", 0):
        scores = _causal(steps, scores, q, k)
    if names[3]:
        scores = _masked(steps, scores, names[3])
    free = tuple((axis, axis) for axis in range(3))
    weights = steps.emit(Slicewise("softmax", free, (3,)), [scores.name], scores.shape, "weights")
    made = (*scores.shape[:3], v.shape[3])
    last = steps.emit(Contract(), [weights.name, v.name], made, "heads" if flat else "")
    if flat:
        _joined(steps, last)


def _by_heads(steps: Steps, x: Part, heads: Any, what: str) -> Part:
    """[batch, positions, heads * size] as [batch, heads, positions, size]."""
    batch, positions, whole = x.shape
    if not isinstance(whole, int) or not heads or whole % heads:
        raise NotUnderstood(f"{whole} numbers for {heads} heads")
    cut = (batch, positions, int(heads), whole // int(heads))
    parts = steps.emit(reshape(x.shape, cut), [x.name], cut, f"{what}:heads")
    return steps.emit(Transpose((0, 2, 1, 3)), [parts.name], (cut[0], cut[2], cut[1], cut[3]), what)


def _joined(steps: Steps, x: Part) -> None:
    batch, heads, positions, size = x.shape
    if not isinstance(heads, int) or not isinstance(size, int):
        raise NotUnderstood("heads of unknown size")
    back = (batch, positions, heads, size)
    turned = steps.emit(Transpose((0, 2, 1, 3)), [x.name], back, "back")
    made = (batch, positions, heads * size)
    steps.emit(reshape(back, made), [turned.name], made, "")


def _scale(steps: Steps, q: Part, scale: float | None) -> str:
    """The number that is given, or one over the root of the size of a head, which then is fixed."""
    if scale is not None:
        return steps.constant(float(scale), "scale", steps.kind)
    name = steps.emit(Size(((0, 3),), "1 / root"), [q.name], (), "scale")
    return name.name


def _repeated(steps: Steps, x: Part, heads: int | str, what: str) -> Part:
    """Each head of keys or values for several heads of queries in a row."""
    own = x.shape[1]
    if own == heads:
        return x
    if not isinstance(own, int) or not isinstance(heads, int) or heads % own:
        raise NotUnderstood(f"{heads} heads of queries for {own} of keys")
    index = tuple(k // (heads // own) for k in range(heads))
    return steps.emit(Take(1, index), [x.name], (x.shape[0], heads, *x.shape[2:]), what)


def _causal(steps: Steps, scores: Part, q: Part, k: Part) -> Part:
    """Position i sees the positions up to i."""
    rows, columns = scores.shape[2:]
    least = steps.constant(-math.inf, "least", steps.kind)
    if isinstance(rows, int) and isinstance(columns, int):
        seen = steps.constant(np.tri(rows, columns, dtype=bool), "causal", BOOLEAN)
    else:
        triangle = Size(((0, 2), (1, 2)), "lower triangle")
        seen = steps.emit(triangle, [q.name, k.name], (rows, columns), "causal", BOOLEAN).name
    return steps.emit(Elementwise("where"), [seen, scores.name, least], scores.shape, "causally")


def _masked(steps: Steps, scores: Part, mask: str) -> Part:
    """A mask of booleans chooses, one of numbers is added."""
    shape = steps.reader.shape(mask)
    made = broadcast_shapes(steps.reader, [scores.shape, shape], steps.output)
    if made != scores.shape or shape[-1] != scores.shape[-1]:
        raise NotUnderstood(f"a mask of shape {shape} for scores of shape {scores.shape}")
    if steps.reader.types.get(mask) == BOOLEAN:
        least = steps.constant(-math.inf, "hidden", steps.kind)
        return steps.emit(Elementwise("where"), [mask, scores.name, least], made, "masked")
    if not steps.reader.floating(mask):
        raise NotUnderstood("its mask is of an unknown type")
    return steps.emit(Elementwise("add"), [scores.name, mask], made, "masked")
