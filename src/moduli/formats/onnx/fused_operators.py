"""Fused operators: those of onnxruntime (domain `com.microsoft`), rotary embeddings and gates of ONNX.

Each stands for a few operators of ONNX, which `handles` reads one after another; the node itself stays
in the file. The meaning is that of onnxruntime on a CPU, with which the tests compare each. Forms that keep
keys of earlier calls, mask by lengths, or give more than one value are opaque.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moduli.formats.registry import registrar
from moduli.kernel.graph.operators import Concat, Shape, Take

from .graph_attention import Part, Steps
from .graph_operators import attributes, broadcast_shapes, reshape
from .graph_reader import HANDLERS, GraphReader, NotUnderstood, handles
from .writing_out import new_node

CONTRIBUTED = "com.microsoft"
contributed = registrar(HANDLERS, f"{CONTRIBUTED}.")
FLOAT, INTEGER, BOOLEAN = 1, 7, 9  # element types


class Written:
    """Operators of ONNX that stand for a node, the last of which gives what it gives."""

    def __init__(self, reader: GraphReader, node: Any) -> None:
        self.reader, self.output = reader, node.output[0]
        self.steps = Steps(reader, self.output, reader.types.get(node.input[0], 0))

    def __call__(self, kind: str, inputs: list[str], what: str = "", **given: Any) -> str:
        """Read one operator, and name what it gives; without `what` it is the last one."""
        name = self.reader.apart(f"{self.output}:{what}") if what else self.output
        HANDLERS[kind](self.reader, new_node(kind, inputs, name, **given))
        return name

    def number(self, value: float, what: str) -> str:
        """A stored number, in 32 bits as attributes have it."""
        return self.steps.constant(np.float32(value), what, self.steps.kind)


def _inputs(node: Any, count: int, least: int) -> list[str]:
    """So many inputs, "" for those that are not given; the first ones are needed.

    Raises:
        NotUnderstood: others are given.
    """
    names = [*node.input, *[""] * count]
    if any(names[count:]) or not all(names[:least]):
        raise NotUnderstood("it has other inputs than are understood")
    return names[:count]


def _require_only(node: Any, *names: str, **neutral: Any) -> dict[str, Any]:
    """Its attributes, where all are read or change nothing.

    Raises:
        NotUnderstood: some are not.
    """
    found = attributes(node)
    for name, value in found.items():
        if name not in names and (name not in neutral or value != neutral[name]):
            raise NotUnderstood(f"its attribute {name} is {value}")
    return found


def _require_one_output(node: Any) -> None:
    if any(node.output[1:]):
        raise NotUnderstood("it gives more than one value")


# Entry by entry -------------------------------------------------------------------------------------------------


@contributed("Gelu")
def _gelu(reader: GraphReader, node: Any) -> None:
    _require_only(node)
    Written(reader, node)("Gelu", _inputs(node, 1, 1))


@contributed("BiasGelu", "FastGelu")
def _bias_gelu(reader: GraphReader, node: Any) -> None:
    _require_only(node)
    fast = node.op_type == "FastGelu"
    (x, bias), write = _inputs(node, 2, 1 if fast else 2), Written(reader, node)
    if bias:
        x = write("Add", [x, bias], "sum")
    write("Gelu", [x], approximate="tanh" if fast else "none")


@contributed("QuickGelu")
def _quick_gelu(reader: GraphReader, node: Any) -> None:
    given = _require_only(node, "alpha")
    (x,), write = _inputs(node, 1, 1), Written(reader, node)
    _gated(write, x, float(given.get("alpha", np.float32(1.702))))


@handles("Swish")
def _swish(reader: GraphReader, node: Any) -> None:
    (x,), write = _inputs(node, 1, 1), Written(reader, node)
    _gated(write, x, float(attributes(node).get("alpha", 1.0)))


@handles("SwiGLU")
def _swiglu(reader: GraphReader, node: Any) -> None:
    (a, b), write = _inputs(node, 2, 2), Written(reader, node)
    if reader.shape(a) != reader.shape(b):
        raise NotUnderstood(f"its inputs have shapes {reader.shape(a)} and {reader.shape(b)}")
    write("Mul", [_gated(write, a, float(attributes(node).get("alpha", 1.0)), "gate"), b])


def _gated(write: Written, x: str, alpha: float, what: str = "") -> str:
    """x sigmoid(alpha x)"""
    scaled = x if alpha == 1 else write("Mul", [x, write.number(alpha, "alpha")], "scaled")
    return write("Mul", [x, write("Sigmoid", [scaled], "sigmoid")], what)


# Products -------------------------------------------------------------------------------------------------------


@contributed("FusedMatMul")
def _fused_matmul(reader: GraphReader, node: Any) -> None:
    given = _require_only(node, "alpha", "transA", "transB", transBatchA=0, transBatchB=0)
    (a, b), write = _inputs(node, 2, 2), Written(reader, node)
    sides = ((a, given.get("transA", 0), "a"), (b, given.get("transB", 0), "b"))
    a, b = (_turned(write, name, what) if turn else name for name, turn, what in sides)
    alpha = float(given.get("alpha", 1.0))
    product = write("MatMul", [a, b], "" if alpha == 1 else "product")
    if alpha != 1:
        write("Mul", [product, write.number(alpha, "alpha")])


def _turned(write: Written, name: str, what: str) -> str:
    """A tensor whose last two axes are exchanged; vectors stay what they are."""
    rank = len(write.reader.shape(name))
    if rank < 2:
        return name
    return write("Transpose", [name], what, perm=[*range(rank - 2), rank - 1, rank - 2])


ACTIVATIONS = {
    b"": (None, ()),
    b"Relu": ("Relu", ()),
    b"Tanh": ("Tanh", ()),
    b"Sigmoid": ("Sigmoid", ()),
    b"LeakyRelu": ("LeakyRelu", ("alpha",)),
    b"HardSigmoid": ("HardSigmoid", ("alpha", "beta")),
}  # fmt: skip  with the names of their numbers


@contributed("FusedConv")
def _fused_conv(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    (x, w, bias, further), write = _inputs(node, 4, 2), Written(reader, node)
    kind, names = ACTIVATIONS.get(given.pop("activation", b""), ("", ()))
    numbers: list[Any] = list(given.pop("activation_params", []))
    if kind == "" or len(numbers) != len(names):
        raise NotUnderstood("its activation is not known")
    parts = "conv" if kind or further else ""
    y = write("Conv", [x, w, *([bias] if bias else [])], parts, **given)
    if further:
        y = write("Add", [y, further], "sum" if kind else "")
    if kind:
        write(kind, [y], **dict(zip(names, numbers, strict=True)))


@contributed("FusedGemm")
def _fused_gemm(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    (a, b, c), write = _inputs(node, 3, 2), Written(reader, node)
    kind, names = ACTIVATIONS.get(given.pop("activation", b""), ("", ()))
    numbers = {name: given.pop(f"activation_{name}") for name in names}
    given = {name: value for name, value in given.items() if not name.startswith("activation_")}
    if kind == "":
        raise NotUnderstood("its activation is not known")
    y = write("Gemm", [a, b, *([c] if c else [])], "product" if kind else "", **given)
    if kind:
        write(kind, [y], **numbers)


# Norms ----------------------------------------------------------------------------------------------------------


@handles("SimplifiedLayerNormalization")
def _simplified(reader: GraphReader, node: Any) -> None:
    given = _require_only(node, "axis", "epsilon", stash_type=1)
    _require_one_output(node)
    _normalised(Written(reader, node), _inputs(node, 2, 2), given, float(np.float32(1e-5)))


@contributed("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def _skip_layer_norm(reader: GraphReader, node: Any) -> None:
    given, write = _require_only(node, "epsilon"), Written(reader, node)
    plain = node.op_type == "SkipLayerNormalization"
    if plain:
        x, skip, scale, shift, bias = _inputs(node, 5, 3)
    else:
        (x, skip, scale, bias), shift = _inputs(node, 4, 3), ""
    outputs = [*node.output, *[""] * 4][:4]
    if any(outputs[1:3]):
        raise NotUnderstood("it gives means and deviations")
    shape = reader.shape(x)
    if broadcast_shapes(reader, [shape, reader.shape(skip)], outputs[0]) != shape:
        raise NotUnderstood(f"it adds {reader.shape(skip)} to {shape}")
    terms = [name for name in (skip, bias) if name]
    for k, name in enumerate(terms, 1):
        x = _sum(write, x, name, outputs[3] if k == len(terms) else "", k)
    inputs = [x, scale, *([shift] if shift else [])]
    if plain:
        write("LayerNormalization", inputs, **{"epsilon": np.float32(1e-12), **given})
    else:
        _normalised(write, inputs, given, float(np.float32(1e-12)))


def _sum(write: Written, x: str, y: str, name: str, k: int) -> str:
    """A sum that is given, too, where it has a name."""
    if not name:
        return write("Add", [x, y], f"sum{k}")
    HANDLERS["Add"](write.reader, new_node("Add", [x, y], name))
    return name


def _normalised(write: Written, inputs: list[str], given: dict[str, Any], epsilon: float) -> None:
    write("RMSNormalization", inputs, **{"epsilon": epsilon, **given})


# Attention ------------------------------------------------------------------------------------------------------

IGNORED = {"do_rotary": 0, "past_present_share_buffer": 0}


@contributed("MultiHeadAttention")
def _multi_head(reader: GraphReader, node: Any) -> None:
    q, k, v, bias, mask, added = _inputs(node, 6, 3)
    write = Written(reader, node)
    parts = [Part(name, reader.shape(name)) for name in (q, k, v)]
    if bias:
        parts = _biased(write.steps, parts, bias)
    _attention(write, node, parts, mask, added)


@contributed("Attention")
def _packed(reader: GraphReader, node: Any) -> None:
    x, weight, bias, mask, past, added = _inputs(node, 6, 2)
    if past:
        raise NotUnderstood("it keeps keys")
    write, whole = Written(reader, node), reader.shape(weight)[-1]
    if not isinstance(whole, int):
        raise NotUnderstood("its weights are computed in the graph")
    sizes = attributes(node).get("qkv_hidden_sizes") or [whole // 3] * 3
    if len(sizes) != 3 or sum(sizes) != whole or min(sizes) < 1:
        raise NotUnderstood(f"weights of {whole} columns for {sizes}")
    product = write("MatMul", [x, weight], "product")
    if bias:
        product = write("Add", [product, bias], "with bias")
    made = Part(product, reader.shape(product))
    parts = [_columns(write.steps, made, *_ends(sizes, i), "qkv"[i]) for i in range(3)]
    _attention(write, node, parts, mask, added)


def _ends(sizes: Sequence[int], i: int) -> tuple[int, int]:
    return sum(sizes[:i]), sum(sizes[: i + 1])


def _columns(steps: Steps, x: Part, start: int, end: int, what: str) -> Part:
    """Entries along the last axis."""
    shape: Shape = (*x.shape[:-1], end - start)
    return steps.emit(Take(len(x.shape) - 1, tuple(range(start, end))), [x.name], shape, what)


def _biased(steps: Steps, parts: Sequence[Part], bias: str) -> list[Part]:
    """Queries, keys and values with their part of one bias."""
    sizes = [n for part in parts if isinstance(n := part.shape[-1], int)]
    whole = Part(bias, steps.reader.shape(bias))
    if len(sizes) < len(parts) or whole.shape != (sum(sizes),):
        raise NotUnderstood(f"a bias of shape {whole.shape} for {sizes}")
    found = []
    for i, part in enumerate(parts):
        own = _columns(steps, whole, *_ends(sizes, i), f"bias of {'qkv'[i]}")
        name = steps.reader.apart(f"{steps.output}:{'qkv'[i]} with bias")
        HANDLERS["Add"](steps.reader, new_node("Add", [part.name, own.name], name))
        found.append(Part(name, part.shape))
    return found


def _attention(write: Written, node: Any, parts: Sequence[Part], mask: str, added: str) -> None:
    """The Attention of ONNX for what is [batch, positions, heads * size]."""
    given = _require_only(
        node,
        "num_heads",
        "unidirectional",
        "scale",
        "mask_filter_value",
        "qkv_hidden_sizes",
        **IGNORED,
    )
    _require_one_output(node)
    if any(len(part.shape) != 3 for part in parts):
        raise NotUnderstood("its inputs are not [batch, positions, numbers]")
    causal, heads = int(given.get("unidirectional", 0)), int(given["num_heads"])
    if causal and parts[0].shape[1] != parts[1].shape[1]:
        raise NotUnderstood("queries and keys at different positions")
    further = {"scale": given["scale"]} if given.get("scale") else {}
    if mask:
        added = _padding(
            write, parts, mask, given.get("mask_filter_value", np.float32(-10000.0)), added
        )
    write(
        "Attention", [*(part.name for part in parts), *([added] if added else [])],
        q_num_heads=heads, kv_num_heads=heads, is_causal=causal, **further,
    )  # fmt: skip


def _padding(write: Written, parts: Sequence[Part], mask: str, least: float, added: str) -> str:
    """What is added to scores: a number for each key that is not to be seen."""
    reader, steps = write.reader, write.steps
    shape, keys = reader.shape(mask), parts[1].shape
    if shape != keys[:2] or reader.types.get(mask) not in (6, INTEGER):
        raise NotUnderstood(f"a mask of shape {shape} for keys of shape {keys}")
    zero = steps.constant(np.array(0, dtype=np.int32), "zero", 6)
    seen = write("Greater", [mask, zero], "seen")
    reader.types[seen] = BOOLEAN
    numbers = [write.number(0.0, "nothing"), write.number(float(least), "filter")]
    chosen = Part(write("Where", [seen, *numbers], "padding"), shape)
    wide: Shape = (shape[0], 1, 1, shape[1])
    found = steps.emit(reshape(shape, wide), [chosen.name], wide, "padding of heads").name
    return write("Add", [added, found], "mask") if added else found


# Rotary embeddings ----------------------------------------------------------------------------------------------


@handles("RotaryEmbedding")
def _rotary(reader: GraphReader, node: Any) -> None:
    given = attributes(node)
    x, cosines, sines, positions = _inputs(node, 4, 3)
    _rotated(Written(reader, node), Part(x, reader.shape(x)), (cosines, sines), positions, given)


@contributed("RotaryEmbedding")
def _rotary_contributed(reader: GraphReader, node: Any) -> None:
    given = _require_only(
        node, "interleaved", "rotary_embedding_dim", "num_heads", is_packed_batching=0, scale=1.0
    )
    x, positions, cosines, sines = _inputs(node, 4, 4)
    if len(reader.shape(positions)) != 2:
        raise NotUnderstood("positions by an offset")
    shape, pairs = reader.shape(x), reader.shape(cosines)[-1]
    if len(shape) == 3 and isinstance(shape[2], int) and isinstance(pairs, int):
        given.setdefault("num_heads", 0)
        given["num_heads"] = given["num_heads"] or shape[2] // (2 * pairs)
    _rotated(Written(reader, node), Part(x, shape), (cosines, sines), positions, given)


def _rotated(
    write: Written, x: Part, tables: tuple[str, str], positions: str, given: dict[str, Any]
) -> None:
    """Pairs of coordinates of each head, turned by the angle of the position."""
    steps, heads = write.steps, int(given.get("num_heads", 0))
    flat = len(x.shape) == 3
    if flat:
        batch, places, whole = x.shape
        if not isinstance(whole, int) or not heads or whole % heads:
            raise NotUnderstood(f"{whole} numbers for {heads} heads")
        cut: Shape = (batch, places, heads, whole // heads)
        x = steps.emit(reshape(x.shape, cut), [x.name], cut, "heads")
    if len(x.shape) != 4 or not isinstance(x.shape[3], int):
        raise NotUnderstood("its input has no heads")
    size = x.shape[3]
    turned = int(given.get("rotary_embedding_dim", 0)) or size
    if turned % 2 or turned > size:
        raise NotUnderstood(f"{turned} of {size} coordinates turn")
    # tables are [batch, positions, pairs]; heads stand behind positions, or before them
    where = 2 if flat else 1
    angles = []
    for name, what in zip(tables, ("cosines", "sines"), strict=True):
        table = write("Gather", [name, positions], what, axis=0) if positions else name
        shape = steps.reader.shape(table)
        if len(shape) != 3 or shape[2] != turned // 2:
            raise NotUnderstood(f"{what} of shape {shape} for {turned} coordinates")
        wide: Shape = (*shape[:where], 1, *shape[where:])
        angles.append(steps.emit(reshape(shape, wide), [table], wide, f"{what} of heads").name)
    half = turned // 2
    if given.get("interleaved", 0):
        index = [tuple(range(0, turned, 2)), tuple(range(1, turned, 2))]
    else:
        index = [tuple(range(half)), tuple(range(half, turned))]
    sides: Shape = (*x.shape[:3], half)
    a, b = (
        steps.emit(Take(3, index[i]), [x.name], sides, ("first", "second")[i]).name for i in (0, 1)
    )
    cosine, sine = angles
    real = write("Sub", [write("Mul", [cosine, a], "ca"), write("Mul", [sine, b], "sb")], "real")
    other = write("Add", [write("Mul", [sine, a], "sa"), write("Mul", [cosine, b], "cb")], "other")
    pieces, rest = [real, other], size - turned
    if rest:
        kept: Shape = (*x.shape[:3], rest)
        pieces.append(steps.emit(Take(3, tuple(range(turned, size))), [x.name], kept, "kept").name)
    back = not flat and not given.get("interleaved", 0)
    whole_head = steps.emit(Concat(3), pieces, x.shape, "" if back else "turned")
    if given.get("interleaved", 0):
        order = np.argsort([*index[0], *index[1], *range(turned, size)]).tolist()
        whole_head = steps.emit(
            Take(3, tuple(order)), [whole_head.name], x.shape, "in order" if flat else ""
        )
    if flat:
        made: Shape = (*x.shape[:2], heads * size)
        steps.emit(reshape(x.shape, made), [whole_head.name], made, "")
