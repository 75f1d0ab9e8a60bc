"""ONNX: the operations that are understood, each a function under its names in the registry of
`nodes`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from moduli.formats.affine_tracer import MAX_ENTRIES, MAX_MADE, BallArray, Tensor, reciprocal
from moduli.kernel.errors import UnsupportedModel

from .constants import FLOATS, size_of, sparse_array, stored_array
from .gated_activations import gate
from .nodes import (  # fmt: skip
    ELSEWHERE,
    Mapped,
    Node,
    Reader,
    Value,
    as_ball,
    as_data,
    as_ints,
    as_number,
    move,
    op,
    shape_of,
)

FAR = 2**31 - 1  # as the end of a slice it means all
MOST_PRODUCTS = 2**28  # of numbers in one product of constant matrices, each exact

Indices = np.ndarray[Any, np.dtype[Any]]

# Sums and products ----------------------------------------------------------------------------------------------


@op("Softmax")
def _softmax(reader: Reader, node: Node, x: Value) -> Value:
    tensor = as_data(x)
    rank = len(tensor.shape)
    axis = node.attribute("axis", 1 if reader.opset < 13 else -1)
    if not -rank <= axis < rank:
        raise UnsupportedModel(f"axis {axis} of a tensor with {rank} axes")
    axis %= rank
    last = rank if reader.opset < 13 else axis + 1
    over = math.prod(tensor.shape[axis:last])
    groups = np.moveaxis(tensor.index, axis, -1) if last == axis + 1 else tensor.index
    groups = groups.reshape(-1, over) if over else groups.reshape(0, 0)
    _one_group_a_sample(reader, groups, tensor)
    return Mapped(tensor, "softmax")


def _one_group_a_sample(reader: Reader, groups: Indices, tensor: Tensor) -> None:
    """Softmax is over all outputs of a sample, and over nothing else."""
    of = groups // max(1, len(tensor.select))
    if len(groups) != reader.samples or (of != of[:, :1]).any():
        raise UnsupportedModel(
            f"over {groups.shape[-1]} entries of a tensor of shape {tensor.shape}; "
            "softmax over all outputs of a sample is understood"
        )


@op("LogSoftmax")
def _log_softmax(reader: Reader, node: Node, x: Value) -> Value:
    raise UnsupportedModel(
        "LogSoftmax is not understood; export the model without it, or with Softmax (the logits are the same)"
    )


@op("Add", "Sum")
def _add(reader: Reader, node: Node, a: Value, *rest: Value) -> Value:
    for b in rest:
        a = _sum(reader, node, a, b)
    return a


@op("Sub")
def _sub(reader: Reader, node: Node, a: Value, b: Value) -> Value:
    return _sum(reader, node, a, _negative(_aligned(reader, node, a, b)))


@op("Neg")
def _neg(reader: Reader, node: Node, x: Value) -> Value:
    return _negative(x)


def _negative(x: Value) -> Value:
    return x.times(BallArray.of(-1.0)) if isinstance(x, BallArray) else as_data(x).scaled(-1.0)


def _aligned(reader: Reader, node: Node, a: Value, b: Value) -> Value:
    """The second operand under the rules of before opset 7, where `axis` says where its axes begin."""
    axis = node.attribute("axis", 0)
    if reader.opset >= 7 or not node.attribute("broadcast", 0) or not axis:
        return b
    tail = len(shape_of(a)) - axis - len(shape_of(b))
    return move(b, lambda v: v.reshape(*v.shape, *[1] * max(tail, 0)))


def _sum(reader: Reader, node: Node, a: Value, b: Value) -> Value:
    b = _aligned(reader, node, a, b)
    x, c = (a, b) if isinstance(a, (Tensor, Mapped)) else (b, a)
    if not isinstance(x, (Tensor, Mapped)):
        shape = _joint(a, b)
        p, q = (as_ball(v, "a term").map(lambda u: np.broadcast_to(u, shape)) for v in (a, b))
        return p.plus(q)
    if isinstance(c, (Tensor, Mapped)):
        return as_data(x).plus(as_data(c))
    return as_data(x).shifted(as_ball(c, "a term"))


def _joint(a: Value, b: Value) -> tuple[int, ...]:
    shape = np.broadcast_shapes(shape_of(a), shape_of(b))
    if math.prod(shape) > max(MAX_ENTRIES, *(math.prod(shape_of(v)) for v in (a, b))):
        raise UnsupportedModel(
            f"makes a constant of shape {shape}; at most {MAX_ENTRIES} entries are made"
        )
    return shape


@op("Mul", pattern=gate)
def _mul(reader: Reader, node: Node, a: Value, b: Value) -> Value:
    b = _aligned(reader, node, a, b)
    x, c = (a, b) if isinstance(a, (Tensor, Mapped)) else (b, a)
    if not isinstance(x, (Tensor, Mapped)):
        _joint(a, b)
        return as_ball(a, "a factor").times(as_ball(b, "a factor"))
    if isinstance(c, (Tensor, Mapped)):
        raise UnsupportedModel(
            "multiplies two tensors that depend on the input; products with constants, x*sigmoid(x) and gelu are understood"
        )
    return as_data(x).scaled(as_ball(c, "a factor"))


@op("Div")
def _div(reader: Reader, node: Node, a: Value, b: Value) -> Value:
    b = _aligned(reader, node, a, b)
    divisor = as_ball(b, "the divisor")
    if not divisor.is_float():
        raise UnsupportedModel(
            "the divisor is itself a result of rounding arithmetic; fold the constants of the model first"
        )
    inverse = reciprocal(divisor.centre.hi)
    if isinstance(a, (Tensor, Mapped)):
        return as_data(a).scaled(inverse)
    _joint(a, inverse)
    return as_ball(a, "the dividend").times(inverse)


@op("MatMul")
def _matmul(reader: Reader, node: Node, a: Value, b: Value) -> Value:
    return _product(a, b)


def _product(a: Value, b: Value) -> Value:
    """A matrix with axes of size 1 before its last two gives them to a product with fewer axes."""
    if not isinstance(a, (Tensor, Mapped)) and not isinstance(b, (Tensor, Mapped)):
        p, q = (as_ball(v, "a factor") for v in (a, b))
        if len(p.shape) != 2 or len(q.shape) != 2 or p.shape[1] != q.shape[0]:
            raise UnsupportedModel(
                f"constants of shapes {p.shape} and {q.shape}; the product of two matrices is understood"
            )
        work = math.prod(p.shape) * q.shape[1]
        if work > MOST_PRODUCTS:
            raise UnsupportedModel(
                f"a product of constants of shapes {p.shape} and {q.shape} takes {work} products of numbers; at most "
                f"{MOST_PRODUCTS} are taken, fold the constants of the model first"
            )
        return p.after(q)
    if isinstance(a, (Tensor, Mapped)) and isinstance(b, (Tensor, Mapped)):
        raise UnsupportedModel(
            "a product of a tensor that depends on the input with a constant is understood"
        )
    data, constant = (a, b) if isinstance(a, (Tensor, Mapped)) else (b, a)
    x, matrix = as_data(data), as_ball(constant, "the matrix")
    extra = matrix.shape[:-2]
    if math.prod(extra) != 1:
        raise UnsupportedModel(
            f"a matrix of shape {matrix.shape}, another one for each position; one matrix is understood"
        )
    if extra:
        missing = max(0, len(matrix.shape) - max(2, len(x.shape)))
        matrix = matrix.map(lambda v: v.reshape(v.shape[-2:]))
        if len(x.shape) == 1:
            vector = x.matmul(matrix) if data is a else x.matmul_left(matrix)
            return vector.rearrange(lambda v: v.reshape(*extra, *v.shape))
        x = x.rearrange(lambda v: v.reshape(*[1] * missing, *v.shape))
    return x.matmul(matrix) if data is a else x.matmul_left(matrix)


@op("Gemm")
def _gemm(reader: Reader, node: Node, a: Value, b: Value, c: Value | None = None) -> Value:
    turned_a, turned_b = node.attribute("transA", 0), node.attribute("transB", 0)
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    if reader.opset < 7:
        a, b = _flat(a), _flat(b)
    if len(shape_of(a)) != 2 or len(shape_of(b)) != 2:
        raise UnsupportedModel(
            f"operands of shapes {shape_of(a)} and {shape_of(b)}; two matrices are needed"
        )
    a, b = _turned(a, turned_a), _turned(b, turned_b)
    product = _product(a, b)
    node.attribute(
        "broadcast", 0
    )  # before opset 7: the third operand may be smaller, as since then
    scaled = as_data(product).scaled(alpha)
    if c is None or beta == 0:
        return scaled
    offset = as_ball(c, "the third operand").times(BallArray.of(beta))
    if len(offset.shape) > 2:
        raise UnsupportedModel(
            f"the third operand has shape {offset.shape}; two axes are understood"
        )
    if np.broadcast_shapes(offset.shape, scaled.shape) != scaled.shape:
        raise UnsupportedModel(
            f"the third operand has shape {offset.shape}, which does not fit {scaled.shape}"
        )
    return scaled.shifted(offset)


def _flat(value: Value) -> Value:
    """Two axes, as early exporters meant Gemm on an image."""
    shape = shape_of(value)
    return (
        value
        if len(shape) <= 2
        else move(value, lambda v: v.reshape(shape[0], math.prod(shape[1:])))
    )


def _turned(value: Value, turn: int) -> Value:
    return move(value, lambda v: v.T) if turn else value


@op("Conv")
def _conv(reader: Reader, node: Node, x: Value, w: Value, b: Value | None = None) -> Value:
    tensor, kernel = as_data(x), as_ball(w, "the kernel")
    image, window = tensor.shape[2:], kernel.shape[2:]
    plain = (
        node.attribute("group", 1) == 1
        and not any(node.attribute("pads", ()))
        and node.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and (set(node.attribute("dilations", ())) <= {1} or set(window) == {1})
        and node.attribute("kernel_shape", None) in (None, window)
    )
    if not plain or image != window:
        raise UnsupportedModel(
            f"a convolution proper (kernel {window} on an image {image}); "
            f"understood is one unpadded kernel on all of its image; {ELSEWHERE}"
        )
    if tensor.shape[1] != kernel.shape[1]:
        raise UnsupportedModel(
            f"a kernel of shape {kernel.shape} on a tensor of shape {tensor.shape}"
        )
    out, count, ones = kernel.shape[0], tensor.shape[0], [1] * len(image)
    dense = kernel.map(lambda v: v.reshape(out, math.prod(v.shape[1:])).T)
    flat = tensor.rearrange(lambda v: v.reshape(count, math.prod(v.shape[1:])))
    y = flat.matmul(dense).rearrange(lambda v: v.reshape(count, out, *ones))
    return (
        y
        if b is None
        else y.shifted(as_ball(b, "the bias").map(lambda v: v.reshape(1, out, *ones)))
    )


@op("BatchNormalization")
def _batch_norm(reader: Reader, node: Node, x: Value, *parts: Value) -> Value:
    training = node.attribute("training_mode", 0) or (
        reader.opset < 7 and not node.attribute("is_test", 0)
    )
    if training or len([name for name in node.outputs if name]) > 1:
        raise UnsupportedModel(
            "a normalisation in training mode; export the model in evaluation mode (model.eval())"
        )
    if node.attribute("spatial", 1) != 1:
        raise UnsupportedModel("spatial=0; one pair of statistics per channel is understood")
    tensor, floats = as_data(x), [as_ball(part, "a parameter") for part in parts]
    if len(floats) != 4 or len(tensor.shape) < 2 or not all(part.is_float() for part in floats):
        raise UnsupportedModel(
            f"needs four stored parameters and two axes; {len(floats)} and shape {tensor.shape} are given"
        )
    reader.note("folded a batch normalisation with its stored statistics")
    scale, shift, mean, variance = (part.centre.hi for part in floats)
    return tensor.normalised(
        scale, shift, mean, variance, node.attribute("epsilon", float(np.float32(1e-5)))
    )


# Structure ------------------------------------------------------------------------------------------------------


@op("Identity", moves=True)
def _identity(reader: Reader, node: Node, x: Value) -> Value:
    return x


@op("Dropout")
def _dropout(
    reader: Reader, node: Node, x: Value, ratio: Value | None = None, training: Value | None = None
) -> Value:
    if (training is not None and as_number(training, "training_mode") != 0) or (
        reader.opset < 7 and not node.attribute("is_test", 0)
    ):
        raise UnsupportedModel(
            "dropout in training mode; export the model in evaluation mode (model.eval())"
        )
    return x


@op("Cast")
def _cast(reader: Reader, node: Node, x: Value) -> Value:
    return _in_type(reader, node, x, node.attribute("to", 0))


@op("CastLike")
def _cast_like(reader: Reader, node: Node, x: Value, like: Value) -> Value:
    return _in_type(reader, node, x, reader.kind(node.inputs[1]))


def _in_type(reader: Reader, node: Node, x: Value, kind: int) -> Value:
    """Among floating types nothing happens to data, which are real numbers; constants are rounded
    and wrap.
    """
    if kind not in (*FLOATS, 2, 3, 4, 5, 6, 7, 9, 12, 13):
        raise UnsupportedModel(
            f"a cast to ONNX type {kind}; floating types and integers are understood"
        )
    if isinstance(x, (BallArray, np.ndarray)):
        return reader.cast_constant(node, x, kind)
    if kind not in FLOATS:
        raise UnsupportedModel(
            f"a cast of data to ONNX type {kind}; casts among floats are understood"
        )
    reader.kinds[node.outputs[0]] = kind
    return x


@op("Flatten", moves=True)
def _flatten(reader: Reader, node: Node, x: Value) -> Value:
    shape, axis = shape_of(x), node.attribute("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise UnsupportedModel(f"axis {axis} of a tensor with {len(shape)} axes")
    axis += len(shape) if axis < 0 else 0
    return move(x, lambda v: v.reshape(math.prod(shape[:axis]), math.prod(shape[axis:])))


@op("Reshape", moves=True)
def _reshape(reader: Reader, node: Node, x: Value, target: Value) -> Value:
    shape, wanted = shape_of(x), as_ints(target, "the shape")
    allowed = node.attribute("allowzero", 0)
    if isinstance(x, (Tensor, Mapped)):
        wanted = _fewer(reader, wanted)
    if (
        any(n < -1 for n in wanted)
        or wanted.count(-1) > 1
        or (allowed and -1 in wanted and 0 in wanted)
    ):
        raise UnsupportedModel(f"reshapes to {wanted}")
    if not allowed:
        if any(n == 0 and k >= len(shape) for k, n in enumerate(wanted)):
            raise UnsupportedModel(
                f"reshapes {shape} to {wanted}, where 0 stands for an axis that is not there"
            )
        wanted = [shape[k] if n == 0 else n for k, n in enumerate(wanted)]
    return move(x, lambda v: v.reshape(wanted))


def _fewer(reader: Reader, dims: list[int]) -> list[int]:
    """A shape for the samples that are carried, where they stand for a batch of a large fixed size."""
    declared = reader.stands_for
    if declared is None or declared == reader.samples:
        return dims
    return [reader.samples if n == declared else n for n in dims]


@op("Expand", moves=True)
def _expand(reader: Reader, node: Node, x: Value, target: Value) -> Value:
    wanted = as_ints(target, "the shape")
    if isinstance(x, (Tensor, Mapped)):
        wanted = _fewer(reader, wanted)
    shape = np.broadcast_shapes(shape_of(x), tuple(wanted))
    if math.prod(shape) > max(MAX_ENTRIES, math.prod(shape_of(x))):
        raise UnsupportedModel(
            f"makes a tensor of shape {shape}; at most {MAX_ENTRIES} entries are made"
        )
    return move(x, lambda v: np.broadcast_to(v, shape))


@op("Tile", moves=True)
def _tile(reader: Reader, node: Node, x: Value, repeats: Value) -> Value:
    times, shape = as_ints(repeats, "the repeats"), shape_of(x)
    if len(times) != len(shape) or any(n < 0 for n in times):
        raise UnsupportedModel(f"repeats {times} of a tensor of shape {shape}")
    if math.prod(times) * math.prod(shape) > max(MAX_ENTRIES, math.prod(shape)):
        raise UnsupportedModel(
            f"makes {math.prod(times)} copies of {shape}; at most {MAX_ENTRIES} entries are made"
        )
    return move(x, lambda v: np.tile(v, times))


@op("Transpose", moves=True)
def _transpose(reader: Reader, node: Node, x: Value) -> Value:
    order, rank = node.attribute("perm", None), len(shape_of(x))
    if order is not None and sorted(order) != list(range(rank)):
        raise UnsupportedModel(f"perm {order} of a tensor with {rank} axes")
    return move(x, lambda v: v.transpose(order))


def _axes(node: Node, axes: Value | None) -> tuple[int, ...] | None:
    found = node.attribute("axes", None) if axes is None else as_ints(axes, "axes")
    return None if found is None else tuple(found)


@op("Squeeze", moves=True)
def _squeeze(reader: Reader, node: Node, x: Value, axes: Value | None = None) -> Value:
    chosen = _axes(node, axes)
    return move(x, lambda v: v.squeeze(chosen))


@op("Unsqueeze", moves=True)
def _unsqueeze(reader: Reader, node: Node, x: Value, axes: Value | None = None) -> Value:
    chosen = _axes(node, axes)
    if chosen is None:
        raise UnsupportedModel("has no axes")
    return move(x, lambda v: np.expand_dims(v, chosen))


@op("Shape")
def _shape(reader: Reader, node: Node, x: Value) -> Value:
    if isinstance(x, (Tensor, Mapped)):
        reader.counted.add(node.outputs[0])
    end = node.attribute("end", len(shape_of(x)))
    return np.array(shape_of(x)[node.attribute("start", 0) : end], dtype=np.int64)


@op("Size")
def _size(reader: Reader, node: Node, x: Value) -> Value:
    if isinstance(x, (Tensor, Mapped)):
        reader.counted.add(node.outputs[0])
    return np.array(math.prod(shape_of(x)), dtype=np.int64)


@op("Gather", moves=True)
def _gather(reader: Reader, node: Node, x: Value, indices: Value) -> Value:
    if not isinstance(indices, np.ndarray):
        raise UnsupportedModel("the indices must be constant integers")
    axis, shape = node.attribute("axis", 0), shape_of(x)
    if math.prod(shape) * indices.size > MAX_ENTRIES * max(shape[axis], 1):
        raise UnsupportedModel(f"takes {indices.size} indices of a tensor of shape {shape}")
    return move(x, lambda v: np.take(v, indices, axis))


@op("Concat", moves=True)
def _concat(reader: Reader, node: Node, *parts: Value) -> Value:
    axis, size = node.attribute("axis", 0), sum(math.prod(shape_of(part)) for part in parts)
    rank = len(shape_of(parts[0]))
    if not -rank <= axis < rank:
        raise UnsupportedModel(f"axis {axis} of a tensor with {rank} axes")
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, (Tensor, Mapped)) for part in parts):
        if any(isinstance(part, (BallArray, np.ndarray)) for part in parts):
            raise UnsupportedModel("joins a tensor that depends on the input with a constant")
        return Tensor.joined([as_data(part) for part in parts], axis)
    if size > MAX_MADE:
        raise UnsupportedModel(f"makes a constant of {size} entries; at most {MAX_MADE} are made")
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts):
        return np.concatenate(arrays, axis)
    balls = [as_ball(part, "a part") for part in parts]
    if not all(ball.is_float() for ball in balls):
        raise UnsupportedModel(
            "joins results of rounding arithmetic; fold the constants of the model first"
        )
    return BallArray.of(np.concatenate([ball.centre.hi for ball in balls], axis))


@op("Split", moves=True)
def _split(reader: Reader, node: Node, x: Value, given: Value | None = None) -> list[Value]:
    shape, axis = shape_of(x), node.attribute("axis", 0)
    if not -len(shape) <= axis < len(shape):
        raise UnsupportedModel(f"axis {axis} of a tensor with {len(shape)} axes")
    size, count = shape[axis], len(node.outputs)
    named = node.attribute("split", None) if given is None else as_ints(given, "split")
    if named is None:
        whole = -(-size // count) if node.attribute("num_outputs", count) == count else 0
        if not whole or (size % count and not node.has("num_outputs")):
            raise UnsupportedModel(f"splits an axis of size {size} into {count} parts")
        named = [min(whole, size - k * whole) for k in range(count)]
    if len(named) != count or sum(named) != size or min(named) < 0:
        raise UnsupportedModel(
            f"splits an axis of size {size} into {count} parts of sizes {list(named)}"
        )
    ends = np.cumsum([0, *named]).tolist()
    return [_part(x, p, q, axis) for p, q in pairwise(ends)]


def _part(x: Value, start: int, end: int, axis: int) -> Value:
    return move(x, lambda v: v.take(range(start, end), axis))


@op("Slice", moves=True)
def _slice(reader: Reader, node: Node, x: Value, *given: Value | None) -> Value:
    names = ("starts", "ends", "axes", "steps")
    if reader.opset < 10:
        starts, ends, axes = (node.attribute(name, None) for name in names[:3])
        steps = None
    else:
        found = [
            None if value is None else as_ints(value, name)
            for name, value in zip(names, given, strict=False)
        ]
        starts, ends, axes, steps = [*found, None, None, None, None][:4]
    if starts is None or ends is None:
        raise UnsupportedModel("has no starts or ends")
    rank = len(shape_of(x))
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise UnsupportedModel(
            f"has {len(starts)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps"
        )
    cuts = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not -rank <= axis < rank or cuts[axis] != slice(None) or step == 0:
            raise UnsupportedModel(f"axis {axis} with step {step} of a tensor with {rank} axes")
        if (start, step) != (0, 1) or end < FAR:
            _keeps_samples(reader, x, axis)
        cuts[axis] = slice(start, end, step)
    return move(x, lambda v: v[tuple(cuts)])


def _keeps_samples(reader: Reader, x: Value, axis: int) -> None:
    """Refuse to cut the axis of samples where their number is free: what keeps three may drop the
    fourth.
    """
    if reader.declared != 0 or reader.samples == 1 or not isinstance(x, (Tensor, Mapped)):
        return
    tensor = x.tensor if isinstance(x, Mapped) else x
    of = tensor.index // max(1, len(tensor.select))
    if of.size and (of != of.take([0], axis)).any():
        raise UnsupportedModel("cuts the axis that counts samples, whose number is free")


@op("Constant")
def _constant(reader: Reader, node: Node) -> Value:
    if len(node.proto.attribute) != 1:
        raise UnsupportedModel(f"has {len(node.proto.attribute)} attributes; one value is needed")
    tensor, (found,) = node.tensor("value"), node.proto.attribute
    if tensor is not None:
        reader.kinds[node.outputs[0]] = tensor.data_type
        return reader.constant(stored_array(tensor, reader.folder), str(node))
    node.asked.add(found.name)
    if found.name == "sparse_value":
        reader.kinds[node.outputs[0]] = found.sparse_tensor.values.data_type
        return reader.constant(sparse_array(found.sparse_tensor, reader.folder), str(node))
    if found.name in ("value_float", "value_floats"):
        reader.kinds[node.outputs[0]] = 1
        real = found.f if found.type == 1 else list(found.floats)
        return BallArray.of(np.array(real, dtype=np.float64))
    if found.name in ("value_int", "value_ints"):
        whole = found.i if found.type == 2 else list(found.ints)
        return np.array(whole, dtype=np.int64)
    raise UnsupportedModel("holds no tensor of numbers")


@op("ConstantOfShape")
def _constant_of_shape(reader: Reader, node: Node, shape: Value) -> Value:
    dims = as_ints(shape, "the shape")
    if any(d < 0 for d in dims) or size_of(dims) > MAX_ENTRIES:
        raise UnsupportedModel(
            f"makes a constant of shape {dims}; at most {MAX_ENTRIES} entries are made"
        )
    tensor = node.tensor("value")
    reader.kinds[node.outputs[0]] = 1 if tensor is None else tensor.data_type
    if tensor is None:
        return BallArray.of(np.zeros(dims))
    if size_of(tensor.dims) != 1:
        raise UnsupportedModel(f"has a value of shape {tuple(tensor.dims)}; one number is needed")
    number = reader.constant(stored_array(tensor, reader.folder), str(node))
    return move(number, lambda v: np.broadcast_to(v.ravel(), dims))


@op("DequantizeLinear")
def _dequantize(
    reader: Reader, node: Node, x: Value, scale: Value, zero: Value | None = None
) -> Value:
    """(x - zero point) * scale, of constants."""
    axis, size = node.attribute("axis", 1), node.attribute("block_size", 0)
    if (
        not isinstance(x, np.ndarray)
        or x.dtype.kind not in "iu"
        or size
        or node.attribute("output_dtype", 0)
    ):
        raise UnsupportedModel(
            "integers that the file stores, in whole tensors or channels, are understood"
        )
    factor = as_ball(scale, "the scale")
    offset = np.zeros((), dtype=x.dtype) if zero is None else zero
    if not isinstance(offset, np.ndarray) or reader.kinds.get(node.inputs[1], 1) not in (1, 11):
        raise UnsupportedModel(
            f"a zero point of type {type(offset).__name__} or a scale of half precision"
        )
    per_axis = [part for part in (factor.shape, offset.shape) if part not in ((), (1,))]
    if any(
        len(part) != 1 or not -x.ndim <= axis < x.ndim or part[0] != x.shape[axis]
        for part in per_axis
    ):
        raise UnsupportedModel(
            f"scales {factor.shape} and zero points {offset.shape} for a tensor of shape {x.shape}"
        )

    def along(v: Indices) -> Indices:
        if v.shape in ((), (1,)):
            return v.reshape(())
        wide = [1] * x.ndim
        wide[axis] = len(v)
        return v.reshape(wide)

    reader.kinds[node.outputs[0]] = reader.kinds.get(node.inputs[1], 1)
    reader.rounded(1)
    reader.note("read quantised weights as (q - zero point) scale, over the reals")
    return BallArray.of(x.astype(np.float64) - along(offset).astype(np.float64)).times(
        factor.map(along)
    )


@op("ai.onnx.ml.Scaler")
def _scaler(reader: Reader, node: Node, x: Value) -> Value:
    """(x - offset) * scale over the last axis of [samples, features]."""
    tensor = as_data(x)
    offset, scale = (np.array(node.floats(name)) for name in ("offset", "scale"))
    if len(tensor.shape) != 2 or any(len(v) not in (1, tensor.shape[1]) for v in (offset, scale)):
        raise UnsupportedModel(
            f"{len(offset)} offsets and {len(scale)} scales for a tensor of shape {tensor.shape}"
        )
    reader.kinds[node.outputs[0]] = 1
    return tensor.shifted(-offset).scaled(scale)
