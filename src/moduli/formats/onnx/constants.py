"""ONNX: stored arrays, and constants that a model computes from constants.

Sums and products of stored floats are taken over the reals, as everywhere. All else that is
constant (integers that wrap, half precision that rounds, functions, comparisons, casts) is what the
operator gives in the file's own types, computed by `onnx.reference`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from moduli.common.files import refuse_stand_in
from moduli.formats.affine_tracer import MAX_ENTRIES
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.exact_numbers import two_product, two_sum

if TYPE_CHECKING:
    from onnx import NodeProto, SparseTensorProto, TensorProto

MAX_AXES = 32
FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
ELEMENTWISE = {
    "Abs", "Add", "And", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Ceil", "Clip",
    "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Greater", "GreaterOrEqual",
    "HardSigmoid", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mod", "Mul",
    "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign",
    "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "Where", "Xor",
}  # fmt: skip
REDUCTIONS = {
    "ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "CumSum", "Softmax",
    "LogSoftmax", "Trilu",
}  # fmt: skip
SQUARED, SUMMED = {"ReduceL2", "ReduceSumSquare"}, {"ReduceL1", "ReduceMean", "ReduceSum"}
WHOLE = 2**53  # up to here doubles hold all integers
EVALUATED = ELEMENTWISE | REDUCTIONS | {"Gemm", "MatMul", "Range"}
# Those that rearrange or choose, and of which `_size` knows how large the result is at most.
CHOOSING = {
    "Cast", "Concat", "ConstantOfShape", "DequantizeLinear", "Dropout", "Expand", "Flatten", "Gather",
    "GatherElements", "Identity", "QuantizeLinear", "Reshape", "ScatterElements", "ScatterND", "Shape",
    "Size", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip
FOLDED = EVALUATED | CHOOSING
SUMS = {
    "Gemm", "MatMul", "CumSum", "Mean", "ReduceMean", "ReduceSum", "ReduceL1", "ReduceProd",
    "ReduceSumSquare",
}  # fmt: skip


def evaluate(node: NodeProto, arrays: Sequence[Any], opset: int, mended: Sequence[Any]) -> Any:
    """The first output of a node whose inputs are constants, in the types of the file.

    Args:
        mended: operators that `onnx.reference` gets wrong, see `onnx_reference.mended`.

    Raises:
        UnsupportedModel: too large, `onnx.reference` cannot do it, or runtimes do not agree on it.
    """
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    size = _size(node.op_type, arrays)
    if size > max(MAX_ENTRIES, *(np.size(a) for a in arrays if a is not None), 0):
        raise UnsupportedModel(
            f"makes a constant of {size} entries; at most {MAX_ENTRIES} are made"
        )
    _refuse_overflow(node.op_type, arrays)
    feeds = {name: array for name, array in zip(node.input, arrays, strict=True) if name}
    ends = [[helper.make_tensor_value_info(n, type_of(a), a.shape) for n, a in feeds.items()]]
    last = [helper.make_value_info(node.output[0], helper.make_tensor_type_proto(1, None))]
    graph = helper.make_graph([node], "constant", ends[0], last)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            (result,) = ReferenceEvaluator(model, new_ops=list(mended)).run([node.output[0]], feeds)
    except Exception as error:  # whatever the evaluator stumbles over
        raise UnsupportedModel(
            f"its constant operands cannot be evaluated ({type(error).__name__}: {error})"
        ) from None
    return np.asarray(result)


def exact(operator: str, arrays: Sequence[Any], result: Any) -> bool:
    """Whether a sum or product of stored floats is what it is over the reals; yes of all other
    operators, which are what they are in the types of the file.
    """
    if operator in SUMS:
        return False
    if operator not in ("Add", "Sub", "Mul", "Div", "Sum") or len(arrays) != 2:
        return operator != "Sum"
    a, b = (np.asarray(array, dtype=np.float64) for array in arrays)
    found = np.asarray(result, dtype=np.float64)
    with np.errstate(all="ignore"):
        if operator in ("Mul", "Div"):
            x, y, z = (found, b, a) if operator == "Div" else (a, b, found)
            product, rest = two_product(*np.broadcast_arrays(x, y))
            sizes = np.abs(np.concatenate([x.ravel(), y.ravel()]))
            inside = (sizes == 0) | ((sizes > 2.0**-450) & (sizes < 2.0**450))
            return bool((product == z).all() and not rest.any() and inside.all())
        total, rest = two_sum(*np.broadcast_arrays(a, -b if operator == "Sub" else b))
        return bool((total == found).all() and not rest.any() and np.isfinite(found).all())


def _refuse_overflow(operator: str, arrays: Sequence[Any]) -> None:
    """Integers that may leave their type, or those that doubles hold, in a reduction: runtimes wrap
    or saturate there.
    """
    if operator not in SQUARED | SUMMED | {"ReduceProd"} or arrays[0].dtype.kind not in "iu":
        return
    limit, most = min(WHOLE, int(np.iinfo(arrays[0].dtype).max)), int(operator == "ReduceProd")
    for size in map(abs, arrays[0].ravel().tolist()):
        if operator == "ReduceProd":
            most *= max(1, size)
        else:
            most += size**2 if operator in SQUARED else size
        if most > limit:
            break
    if most > limit:
        kind = arrays[0].dtype
        raise UnsupportedModel(
            f"{operator} of constants of type {kind} may overflow, on which runtimes do not agree"
        )


def _size(operator: str, arrays: Sequence[Any]) -> int:
    """How many entries the result can have."""
    shapes = [np.shape(a) for a in arrays if a is not None]
    if operator in ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*shapes))
    if operator in ("Gemm", "MatMul"):
        inner = max(1, min(shapes[0][-1:] + shapes[0][:1], default=1))
        return int(math.prod(shapes[0]) * math.prod(shapes[1]) // inner**2)
    if operator == "Range":
        start, limit, delta = (float(np.ravel(a)[0]) for a in arrays)
        return math.ceil(abs((limit - start) / delta)) + 1 if delta else 0
    if operator == "Expand":
        return math.prod(np.broadcast_shapes(shapes[0], tuple(np.ravel(arrays[1]).tolist())))
    if operator == "Tile":
        return int(math.prod(shapes[0]) * math.prod(np.ravel(arrays[1]).astype(int).tolist()))
    if operator == "ConstantOfShape":
        return int(math.prod(np.ravel(arrays[0]).astype(int).tolist()))
    if operator == "Gather":
        return int(math.prod(shapes[0]) * math.prod(shapes[1]))
    if operator == "Concat":
        return sum(map(math.prod, shapes))
    return math.prod(shapes[0])


def type_of(array: Any) -> int:
    """The ONNX element type of an array."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype))


def numpy_type(kind: int) -> Any:
    """The numpy type of an ONNX element type."""
    from onnx import helper

    return helper.tensor_dtype_to_np_dtype(kind)


def cast(array: Any, kind: int, what: str) -> Any:
    """A constant in another type as runtimes agree on it: floats round to nearest, integers wrap.

    Raises:
        UnsupportedModel: a float beyond the range of an integer type, of which runtimes make
            different numbers.
    """
    dtype = numpy_type(kind)
    if kind in FLOATS or dtype == np.bool_ or array.dtype.kind in "iub":
        with np.errstate(all="ignore"):
            return array.astype(dtype)
    limits = np.iinfo(dtype)
    whole = np.trunc(array.astype(np.float64))
    if not ((whole >= float(limits.min)) & (whole < float(limits.max) + 1)).all():
        raise UnsupportedModel(
            f"{what} casts numbers beyond {dtype} to it, on which runtimes do not agree"
        )
    return whole.astype(dtype)


# Stored arrays --------------------------------------------------------------------------------------------------

_WIDTHS = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
_FIELDS = {
    1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data",
    **dict.fromkeys((2, 3, 4, 5, 6, 9, 10, 16), "int32_data"),
}  # fmt: skip


NARROW = {21: np.uint8, 22: np.int8}  # integers of four bits, a byte holds two; and what takes one


def widened_array(tensor: TensorProto, folder: Path | None) -> Any:
    """Stored integers of four bits, one byte for each."""
    from onnx import TensorProto

    where = f"tensor {tensor.name!r}"
    if any(d < 0 for d in tensor.dims):
        raise UnsupportedModel(f"{where} has shape {tuple(tensor.dims)}")
    count = size_of(tensor.dims)
    size = (count + 1) // 2
    if tensor.data_location == TensorProto.EXTERNAL:
        payload = _external(tensor, folder, size, where)
    elif tensor.HasField("raw_data"):
        payload = tensor.raw_data
    else:
        if not all(0 <= number < 256 for number in tensor.int32_data):
            raise UnsupportedModel(f"{where} stores numbers that are no bytes")
        payload = bytes(tensor.int32_data)
    if len(payload) != size:
        raise UnsupportedModel(
            f"{where} declares shape {tuple(tensor.dims)}, which takes {size} bytes, but stores {len(payload)}"
        )
    pairs = np.frombuffer(payload, dtype=np.uint8)
    found = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(-1)[:count]
    if NARROW[tensor.data_type] is np.int8:
        found = ((found ^ 8).astype(np.int8) - np.int8(8)).astype(np.int8)
    return found.reshape(tuple(tensor.dims))


def narrowed(array: Any, kind: int) -> Any:
    """Integers of four bits as bytes, two in each, the lower bits first; see `widened_array`.

    Raises:
        UnsupportedModel: one needs more bits.
    """
    low = 0 if NARROW[kind] is np.uint8 else -8
    if not ((array >= low) & (array <= low + 15)).all():
        raise UnsupportedModel("an integer would need more than four bits")
    half = array.astype(np.int8).view(np.uint8).ravel() & 15
    if half.size % 2:
        half = np.append(half, np.uint8(0))
    return half[0::2] | half[1::2] << 4


def stored_array(tensor: TensorProto, folder: Path | None) -> Any:
    """The stored array; its declared size is compared with its payload before anything is
    allocated.
    """
    from onnx import TensorProto, numpy_helper

    where = f"tensor {tensor.name!r}"
    kind, dims = tensor.data_type, tuple(tensor.dims)
    if kind not in _WIDTHS:
        raise UnsupportedModel(
            f"{where} has ONNX data type {kind}; floats up to 64 bits and integers are understood"
        )
    if any(d < 0 for d in dims):
        raise UnsupportedModel(f"{where} has shape {dims}")
    count = size_of(dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        payload = _external(tensor, folder, count * _WIDTHS[kind], where)
        tensor = TensorProto(data_type=kind, dims=dims, raw_data=payload)
    stored = (
        len(tensor.raw_data) if tensor.HasField("raw_data") else len(getattr(tensor, _FIELDS[kind]))
    )
    needed = count * (_WIDTHS[kind] if tensor.HasField("raw_data") else 1)
    if stored != needed:
        unit = "bytes" if tensor.HasField("raw_data") else "numbers"
        raise UnsupportedModel(
            f"{where} declares shape {dims}, which takes {needed} {unit}, but stores {stored}"
        )
    array: Any = numpy_helper.to_array(tensor)
    return array


def sparse_array(sparse: SparseTensorProto, folder: Path | None) -> Any:
    """A dense array of the entries that a sparse tensor stores; the others are zero."""
    dims = tuple(sparse.dims)
    where = f"sparse tensor {sparse.values.name!r}"
    if any(d < 0 for d in dims) or size_of(dims) > MAX_ENTRIES:
        raise UnsupportedModel(
            f"{where} has shape {dims}; at most {MAX_ENTRIES} entries are made of one"
        )
    values, places = stored_array(sparse.values, folder), stored_array(sparse.indices, folder)
    if (
        values.ndim != 1
        or places.dtype != np.int64
        or places.shape not in ((len(values),), (len(values), len(dims)))
    ):
        raise UnsupportedModel(
            f"{where} has values of shape {values.shape} at indices of shape {places.shape}"
        )
    if places.ndim == 2:
        if ((places < 0) | (places >= np.array(dims))).any():
            raise UnsupportedModel(f"{where} of shape {dims} stores an entry outside of it")
        places = (
            np.ravel_multi_index(tuple(places.T), dims)
            if len(dims)
            else np.zeros(len(values), dtype=np.int64)
        )
    if len(np.unique(places)) < len(places) or ((places < 0) | (places >= math.prod(dims))).any():
        raise UnsupportedModel(f"{where} of shape {dims} stores an entry twice, or outside of it")
    dense = np.zeros(math.prod(dims), dtype=values.dtype)
    dense[places] = values
    return dense.reshape(dims)


def size_of(dims: Sequence[int]) -> int:
    if len(dims) > MAX_AXES:
        raise UnsupportedModel(f"a tensor with {len(dims)} axes; at most {MAX_AXES} are understood")
    return math.prod(dims)


def _external(tensor: TensorProto, folder: Path | None, size: int, where: str) -> bytes:
    """The payload of a tensor kept in another file, which must be a regular one inside the model's
    folder.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise UnsupportedModel(f"{where} lies in the file {location!r}; load the model by its path")
    parts = PurePosixPath(location).parts
    if (
        not location
        or "\\" in location
        or "\0" in location
        or ":" in location
        or location.startswith("/")
        or ".." in parts
    ):
        raise UnsupportedModel(
            f"{where} lies in {location!r}; only files inside the model's folder are read"
        )
    if max(map(len, map(os.fsencode, parts))) > 255 or len(location) > 1000:
        raise UnsupportedModel(
            f"{where} lies in {location[:40]!r}..., a name of {len(location)} characters"
        )
    target = (folder / location).resolve()
    if not target.is_relative_to(folder.resolve()) or not target.is_file():
        raise UnsupportedModel(
            f"{where} lies in {location!r}, which is no regular file inside the model's folder"
        )
    refuse_stand_in(target)  # whose text must not be taken for numbers
    offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(size)))
    if offset < 0 or length != size or offset + length > target.stat().st_size:
        raise UnsupportedModel(
            f"{where} takes {size} bytes but is said to be {length} from {offset} on in {location!r}, "
            f"which has {target.stat().st_size}"
        )
    with target.open("rb") as file:
        file.seek(offset)
        payload: bytes = file.read(length)
    return payload
