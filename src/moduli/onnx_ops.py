"""ONNX: the operations that are understood, each a function under its names in the registry of `onnx_nodes`."""

from __future__ import annotations

import math

import numpy as np

from .affine import MAX_ENTRIES, MAX_MADE, Ball, Tensor, reciprocal
from .errors import UnsupportedModel
from .onnx_gates import gate
from .onnx_nodes import (
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
    size_of,
)  # fmt: skip

# Sums and products ---------------------------------------------------------------------------------------------


@op("Softmax")
def _softmax(reader: Reader, node: Node, x: Value) -> Value:
    tensor = as_data(x)
    rank = len(tensor.shape)
    axis = node.attribute("axis", 1 if reader.opset < 13 else -1)
    if not -rank <= axis < rank:
        raise UnsupportedModel(f"axis {axis} of a tensor with {rank} axes")
    axis %= rank
    over = math.prod(tensor.shape[axis:]) if reader.opset < 13 else tensor.shape[axis]
    if over != tensor.size or (axis == 0 and rank > 1):
        raise UnsupportedModel(f"over axis {axis} of shape {tensor.shape}; softmax over all outputs of a sample is understood")
    return Mapped(tensor, "softmax")


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
    return _sum(reader, node, a, _neg(reader, node, _aligned(reader, node, a, b)))


@op("Neg")
def _neg(reader: Reader, node: Node, x: Value) -> Value:
    if isinstance(x, np.ndarray):
        return np.asarray(-x)
    return x.times(Ball.of(-1.0)) if isinstance(x, Ball) else as_data(x).scaled(-1.0)


def _aligned(reader: Reader, node: Node, a: Value, b: Value) -> Value:
    """The second operand under the rules of before opset 7, where `axis` says where its axes begin."""
    axis = node.attribute("axis", 0)
    if reader.opset >= 7 or not node.attribute("broadcast", 0) or not axis:
        return b
    tail = len(shape_of(a)) - axis - len(shape_of(b))
    return move(b, lambda v: v.reshape(*v.shape, *[1] * max(tail, 0)))


def _broadcast(reader: Reader, x: Tensor, c: Value) -> None:
    """A constant may not tell samples of a batch apart."""
    shape = shape_of(c)
    if reader.rank and len(x.shape) == len(shape) == reader.rank and shape[0] > 1 == x.shape[0]:
        raise UnsupportedModel(
            f"a constant of shape {shape} meets a tensor of shape {x.shape}: it would differ from sample to sample"
        )


def _sum(reader: Reader, node: Node, a: Value, b: Value) -> Value:
    b = _aligned(reader, node, a, b)
    x, c = (a, b) if isinstance(a, (Tensor, Mapped)) else (b, a)
    if not isinstance(x, (Tensor, Mapped)):
        shape = _joint(a, b)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return np.asarray(a + b)
        p, q = (as_ball(v, "a term").map(lambda u: np.broadcast_to(u, shape)) for v in (a, b))
        return p.plus(q)
    if isinstance(c, (Tensor, Mapped)):
        raise UnsupportedModel(
            "adds two tensors that depend on the input (a residual connection); adding constants is understood; "
            f"{ELSEWHERE}"
        )
    _broadcast(reader, as_data(x), c)
    return as_data(x).shifted(as_ball(c, "a term"))


def _joint(a: Value, b: Value) -> tuple[int, ...]:
    shape = np.broadcast_shapes(shape_of(a), shape_of(b))
    if math.prod(shape) > max(MAX_ENTRIES, *(math.prod(shape_of(v)) for v in (a, b))):
        raise UnsupportedModel(f"makes a constant of shape {shape}; at most {MAX_ENTRIES} entries are made")
    return shape


@op("Mul", pattern=gate)
def _mul(reader: Reader, node: Node, a: Value, b: Value) -> Value:
    b = _aligned(reader, node, a, b)
    x, c = (a, b) if isinstance(a, (Tensor, Mapped)) else (b, a)
    if not isinstance(x, (Tensor, Mapped)):
        _joint(a, b)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return np.asarray(a * b)
        return as_ball(a, "a factor").times(as_ball(b, "a factor"))
    if isinstance(c, (Tensor, Mapped)):
        raise UnsupportedModel(
            "multiplies two tensors that depend on the input; products with constants, x*sigmoid(x) and gelu are understood"
        )
    _broadcast(reader, as_data(x), c)
    return as_data(x).scaled(as_ball(c, "a factor"))


@op("Div")
def _div(reader: Reader, node: Node, a: Value, b: Value) -> Value:
    b = _aligned(reader, node, a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        _joint(a, b)
        if not b.all():
            raise UnsupportedModel("divides integers by zero")
        return np.asarray(np.trunc(a / b).astype(np.int64))
    divisor = as_ball(b, "the divisor")
    if not divisor.is_float():
        raise UnsupportedModel("the divisor is itself a result of rounding arithmetic; fold the constants of the model first")
    inverse = reciprocal(divisor.centre.hi)
    if isinstance(a, (Tensor, Mapped)):
        _broadcast(reader, as_data(a), inverse)
        return as_data(a).scaled(inverse)
    _joint(a, inverse)
    return as_ball(a, "the dividend").times(inverse)


@op("MatMul")
def _matmul(reader: Reader, node: Node, a: Value, b: Value) -> Value:
    if isinstance(a, (Tensor, Mapped)) == isinstance(b, (Tensor, Mapped)):
        raise UnsupportedModel("a product of a tensor that depends on the input with a constant is understood")
    if isinstance(a, (Tensor, Mapped)):
        return as_data(a).matmul(_matrix(b))
    return as_data(b).matmul_left(_matrix(a))


def _matrix(value: Value) -> Ball:
    ball = as_ball(value, "the matrix")
    extra = len(ball.shape) - 2
    if extra > 0 and math.prod(ball.shape[:extra]) == 1:
        return ball.map(lambda v: v.reshape(v.shape[extra:]))
    return ball


@op("Gemm")
def _gemm(reader: Reader, node: Node, a: Value, b: Value, c: Value | None = None) -> Value:
    turned_a, turned_b = node.attribute("transA", 0), node.attribute("transB", 0)
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    a, b = (_turned(_flat(v), turn) for v, turn in ((a, turned_a), (b, turned_b)))
    product = _matmul(reader, node, a, b)
    scaled = as_data(product).scaled(alpha)
    if c is None or beta == 0:
        return scaled
    offset = as_ball(c, "the third operand").times(Ball.of(beta))
    if len(offset.shape) > 2:
        raise UnsupportedModel(f"the third operand has shape {offset.shape}; two axes are understood")
    _broadcast(reader, scaled, offset)
    return scaled.shifted(offset)


def _flat(value: Value) -> Value:
    """Two axes, as early exporters meant Gemm on an image."""
    shape = shape_of(value)
    return value if len(shape) <= 2 else move(value, lambda v: v.reshape(shape[0], math.prod(shape[1:])))


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
    if not plain or image != window or tensor.shape[:1] != (1,):
        raise UnsupportedModel(
            f"a convolution proper (kernel {window} on an image {image}); "
            f"understood is one unpadded kernel on all of its image; {ELSEWHERE}"
        )
    if tensor.shape[1] != kernel.shape[1]:
        raise UnsupportedModel(f"a kernel of shape {kernel.shape} on a tensor of shape {tensor.shape}")
    out, after = kernel.shape[0], (1, kernel.shape[0], *[1] * len(image))
    dense = kernel.map(lambda v: v.reshape(out, math.prod(v.shape[1:])).T)
    y = tensor.rearrange(lambda v: v.reshape(1, -1)).matmul(dense).rearrange(lambda v: v.reshape(after))
    return y if b is None else y.shifted(as_ball(b, "the bias").map(lambda v: v.reshape(after)))


@op("BatchNormalization")
def _batch_norm(reader: Reader, node: Node, x: Value, *parts: Value) -> Value:
    training = node.attribute("training_mode", 0) or (reader.opset < 7 and not node.attribute("is_test", 0))
    if training or len([name for name in node.outputs if name]) > 1:
        raise UnsupportedModel("a normalisation in training mode; export the model in evaluation mode (model.eval())")
    if node.attribute("spatial", 1) != 1:
        raise UnsupportedModel("spatial=0; one pair of statistics per channel is understood")
    tensor, floats = as_data(x), [as_ball(part, "a parameter") for part in parts]
    if len(floats) != 4 or len(tensor.shape) < 2 or not all(part.is_float() for part in floats):
        raise UnsupportedModel(f"needs four stored parameters and two axes; {len(floats)} and shape {tensor.shape} are given")
    reader.note("folded a batch normalisation with its stored statistics")
    scale, shift, mean, variance = (part.centre.hi for part in floats)
    return tensor.normalised(scale, shift, mean, variance, node.attribute("epsilon", float(np.float32(1e-5))))


# Structure ------------------------------------------------------------------------------------------------------


@op("Identity")
def _identity(reader: Reader, node: Node, x: Value) -> Value:
    return x


@op("Dropout")
def _dropout(reader: Reader, node: Node, x: Value, ratio: Value | None = None, training: Value | None = None) -> Value:
    if (training is not None and as_number(training, "training_mode") != 0) or (
        reader.opset < 7 and not node.attribute("is_test", 0)
    ):
        raise UnsupportedModel("dropout in training mode; export the model in evaluation mode (model.eval())")
    return x


@op("Cast", "CastLike")
def _cast(reader: Reader, node: Node, x: Value, like: Value | None = None) -> Value:
    """Among floats nothing happens to a real number."""
    to = node.attribute("to", 1)
    if to in (1, 10, 11, 16):
        return Ball.of(x) if isinstance(x, np.ndarray) and node.op == "Cast" else x
    if to not in (2, 3, 4, 5, 6, 7, 12, 13) or isinstance(x, (Tensor, Mapped)):
        raise UnsupportedModel(f"a cast of data to ONNX type {to}; casts among floats are understood")
    return np.trunc(x.centre.hi).astype(np.int64) if isinstance(x, Ball) else x.astype(np.int64)


@op("Flatten")
def _flatten(reader: Reader, node: Node, x: Value) -> Value:
    shape, axis = shape_of(x), node.attribute("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise UnsupportedModel(f"axis {axis} of a tensor with {len(shape)} axes")
    axis += len(shape) if axis < 0 else 0
    return move(x, lambda v: v.reshape(math.prod(shape[:axis]), math.prod(shape[axis:])))


@op("Reshape")
def _reshape(reader: Reader, node: Node, x: Value, target: Value) -> Value:
    shape, wanted = shape_of(x), as_ints(target, "the shape")
    if reader.rank and reader.batch > 1 and reader.batch in wanted and isinstance(x, (Tensor, Mapped)):
        known = math.prod(n for n in wanted if n > 0)
        if wanted[0] == reader.batch or (-1 not in wanted and known != math.prod(shape)):
            wanted[wanted.index(reader.batch)] = 1
    if not node.attribute("allowzero", 0):
        wanted = [shape[k] if n == 0 else n for k, n in enumerate(wanted)]
    return move(x, lambda v: v.reshape(wanted))


@op("Transpose")
def _transpose(reader: Reader, node: Node, x: Value) -> Value:
    order = node.attribute("perm", None)
    return move(x, lambda v: v.transpose(order))


def _axes(node: Node, axes: Value | None) -> tuple[int, ...] | None:
    found = node.attribute("axes", None) if axes is None else as_ints(axes, "axes")
    return None if found is None else tuple(found)


@op("Squeeze")
def _squeeze(reader: Reader, node: Node, x: Value, axes: Value | None = None) -> Value:
    chosen = _axes(node, axes)
    return move(x, lambda v: v.squeeze(chosen))


@op("Unsqueeze")
def _unsqueeze(reader: Reader, node: Node, x: Value, axes: Value | None = None) -> Value:
    chosen = _axes(node, axes)
    if chosen is None:
        raise UnsupportedModel("has no axes")
    return move(x, lambda v: np.expand_dims(v, chosen))


@op("Shape")
def _shape(reader: Reader, node: Node, x: Value) -> Value:
    end = node.attribute("end", len(shape_of(x)))
    return np.array(shape_of(x)[node.attribute("start", 0) : end], dtype=np.int64)


@op("Gather")
def _gather(reader: Reader, node: Node, x: Value, indices: Value) -> Value:
    if not isinstance(indices, np.ndarray):
        raise UnsupportedModel("the indices must be constant integers")
    axis, shape = node.attribute("axis", 0), shape_of(x)
    if math.prod(shape) * indices.size > MAX_ENTRIES * max(shape[axis], 1):
        raise UnsupportedModel(f"takes {indices.size} indices of a tensor of shape {shape}")
    return move(x, lambda v: np.take(v, indices, axis))


@op("Concat")
def _concat(reader: Reader, node: Node, *parts: Value) -> Value:
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, (Tensor, Mapped)) for part in parts):
        raise UnsupportedModel("joins tensors that depend on the input; joining constants is understood")
    axis, size = node.attribute("axis", 0), sum(math.prod(shape_of(part)) for part in parts)
    if size > MAX_MADE:
        raise UnsupportedModel(f"makes a constant of {size} entries; at most {MAX_MADE} are made")
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts, axis)  # type: ignore[arg-type]
    balls = [as_ball(part, "a part") for part in parts]
    if not all(ball.is_float() for ball in balls):
        raise UnsupportedModel("joins results of rounding arithmetic; fold the constants of the model first")
    return Ball.of(np.concatenate([ball.centre.hi for ball in balls], axis))


@op("Slice")
def _slice(reader: Reader, node: Node, x: Value, *given: Value | None) -> Value:
    names = ("starts", "ends", "axes", "steps")
    attributes = {name: node.attribute(name, None) for name in names}
    inputs = {name: None if value is None else as_ints(value, name) for name, value in zip(names, given, strict=False)}
    starts, ends, axes, steps = (inputs.get(name) or attributes[name] for name in names)
    if starts is None or ends is None:
        raise UnsupportedModel("has no starts or ends")
    rank = len(shape_of(x))
    cuts = [slice(None)] * rank
    for k, axis in enumerate(range(len(starts)) if axes is None else axes):
        if not -rank <= axis < rank:
            raise UnsupportedModel(f"axis {axis} of a tensor with {rank} axes")
        cuts[axis] = slice(starts[k], ends[k], 1 if steps is None else steps[k])
    return move(x, lambda v: v[tuple(cuts)])


@op("Constant")
def _constant(reader: Reader, node: Node) -> Value:
    tensor = node.tensor("value")
    if tensor is not None:
        return reader.constant(tensor)
    for found in node.proto.attribute:
        if found.name in ("value_float", "value_floats"):
            return Ball.of(np.array(found.f if found.type == 1 else list(found.floats), dtype=np.float64))
        if found.name in ("value_int", "value_ints"):
            return np.array(found.i if found.type == 2 else list(found.ints), dtype=np.int64)
    raise UnsupportedModel("holds no dense tensor of numbers")


@op("ConstantOfShape")
def _constant_of_shape(reader: Reader, node: Node, shape: Value) -> Value:
    dims = as_ints(shape, "the shape")
    if any(d < 0 for d in dims) or size_of(dims) > MAX_ENTRIES:
        raise UnsupportedModel(f"makes a constant of shape {dims}; at most {MAX_ENTRIES} entries are made")
    tensor = node.tensor("value")
    if tensor is None:
        return Ball.of(np.zeros(dims))
    if size_of(tensor.dims) != 1:
        raise UnsupportedModel(f"has a value of shape {tuple(tensor.dims)}; one number is needed")
    return move(reader.constant(tensor), lambda v: np.broadcast_to(v.ravel(), dims))
