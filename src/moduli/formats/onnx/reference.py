"""ONNX: the file itself, run by the reference evaluator of the onnx package in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from moduli.kernel.errors import UnsupportedModel

from .fused_reference import fused

if TYPE_CHECKING:
    from onnx import NodeProto

SINGLE = {
    "Gelu",
    "Celu",
    "Elu",
    "Selu",
    "Mish",
    "Softplus",
    "HardSwish",
}  # some of these are evaluated in float32
FLOATS = (1, 10, 16)  # element types that are widened: float32, float16, bfloat16
DOUBLE = 11


class CannotRun(UnsupportedModel):
    """The reference evaluator does not take the model."""


class Evaluator:
    """Some nodes of a model, run by `onnx.reference`.

    Stored floats keep their values and are widened to float64, and so are all casts to floating
    types, so that the result is the function over the reals up to roundings of float64. Integers
    stay what they are.

    Args:
        nodes: of the model, in order.
        arrays: the stored tensors by name.
        opsets: versions by domain.
    """

    def __init__(
        self,
        nodes: Sequence[NodeProto],
        arrays: Mapping[str, Any],
        source: str,
        output: str,
        opsets: Mapping[str, int],
    ) -> None:
        from onnx import helper, numpy_helper
        from onnx.reference import ReferenceEvaluator

        self.source, self.output = source, output
        self.single = any(node.op_type in SINGLE for node in nodes)
        graph = helper.make_graph(
            [_widened(node) for node in nodes],
            "second_reading",
            [helper.make_tensor_value_info(source, DOUBLE, None)],
            [helper.make_value_info(output, helper.make_tensor_type_proto(DOUBLE, None))],
            [numpy_helper.from_array(_wide(array), name) for name, array in arrays.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid(d, v) for d, v in opsets.items()]
        )
        try:
            self.evaluator = ReferenceEvaluator(model, new_ops=list(mended(opsets.get("", 1))))
        except Exception as error:  # whatever the evaluator stumbles over
            raise CannotRun(f"{type(error).__name__}: {error}") from None

    def __call__(self, x: Any) -> Any:
        """The output for an input of the model's shape.

        Raises:
            CannotRun: the evaluator fails.
        """
        try:
            with np.errstate(all="ignore"):
                (result,) = self.evaluator.run(
                    [self.output], {self.source: np.asarray(x, dtype=np.float64)}
                )
        except Exception as error:  # whatever the evaluator stumbles over
            raise CannotRun(f"{type(error).__name__}: {error}") from None
        return np.asarray(result)


@cache
def mended(opset: int) -> tuple[Any, ...]:
    """Operators that `onnx.reference` evaluates otherwise than ONNX defines them.

    Erf in float32 only; quantised weights not at all before opset 19; a normalisation before opset
    14 in training mode, whatever it says; squares of integers summed in another type; a softmax, or
    the logarithm of one, before opset 13 along one axis, where it is over that axis and all after
    it; axes that are added or dropped before opset 13 one by one, where all are axes of the larger
    tensor; the largest entry over positions of two axes alone. And those that it has not (`fused`).
    """
    from onnx import defs
    from onnx.reference.op_run import OpRun
    from scipy import special

    class Erf(OpRun):
        def _run(self, x: Any) -> Any:
            return (special.erf(x).astype(x.dtype),)

    class BatchNormalization(OpRun):
        def _run(
            self, x: Any, scale: Any, bias: Any, mean: Any, var: Any, epsilon: Any = None, **_: Any
        ) -> Any:
            shape = [1, -1] + [1] * (x.ndim - 2)
            scale, bias, mean, var = (part.reshape(shape) for part in (scale, bias, mean, var))
            return ((scale * (x - mean) / np.sqrt(var + epsilon) + bias).astype(x.dtype),)

    class ReduceSumSquare(OpRun):
        def _run(
            self, x: Any, axes: Any = None, keepdims: Any = 1, noop_with_empty_axes: Any = 0
        ) -> Any:
            if axes is None or np.size(axes) == 0:
                chosen = () if noop_with_empty_axes else None
            else:
                chosen = tuple(np.ravel(axes).tolist())
            return (
                np.asarray(
                    np.sum(np.square(x), axis=chosen, keepdims=bool(keepdims), dtype=x.dtype)
                ),
            )

    class Softmax(OpRun):
        def _run(self, x: Any, axis: Any = 1) -> Any:
            powers = np.exp(_centred(x, axis))
            return ((powers / powers.sum(axis=1, keepdims=True)).reshape(x.shape).astype(x.dtype),)

    class LogSoftmax(OpRun):
        def _run(self, x: Any, axis: Any = 1) -> Any:
            flat = _centred(x, axis)
            total = np.log(np.exp(flat).sum(axis=1, keepdims=True))
            return ((flat - total).reshape(x.shape).astype(x.dtype),)

    class Unsqueeze(OpRun):
        def _run(self, x: Any, axes: Any = None) -> Any:
            return (np.expand_dims(x, tuple(axes)),)

    class Squeeze(OpRun):
        def _run(self, x: Any, axes: Any = None) -> Any:
            return (np.squeeze(x, tuple(axes) if axes else None),)

    class DequantizeLinear(OpRun):
        def _run(self, x: Any, scale: Any, zero: Any = None, axis: Any = 1, **_: Any) -> Any:
            shape = [1] * x.ndim
            if np.size(scale) > 1:
                shape[axis] = -1
            offset = 0 if zero is None else np.reshape(zero, shape).astype(np.float64)
            return ((x.astype(np.float64) - offset) * np.reshape(scale, shape),)

    class GlobalMaxPool(OpRun):
        def _run(self, x: Any) -> Any:
            return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)

    found: list[Any] = [Erf, BatchNormalization, ReduceSumSquare, GlobalMaxPool]
    if opset < 13:
        found += [Softmax, LogSoftmax, Unsqueeze, Squeeze]
    if opset < 19:
        found.append(DequantizeLinear)
    for kind in found:
        kind.op_domain = ""
        if defs.has(kind.__name__, opset, ""):  # for the defaults of attributes, which have changed
            kind.op_schema = defs.get_schema(kind.__name__, opset, "")
    return (*found, *fused())


def _centred(x: Any, axis: int) -> Any:
    """As a matrix whose rows are what a softmax of early versions is over, less the largest entry
    of each row.
    """
    flat = x.reshape(int(np.prod(x.shape[: axis % x.ndim])), -1)
    return flat - flat.max(axis=1, keepdims=True)


def _wide(array: Any) -> Any:
    return np.asarray(array) if array.dtype.kind in "iub" else np.asarray(array).astype(np.float64)


def _widened(node: NodeProto) -> NodeProto:
    """The same node, with float64 for other floating types in what it stores or casts to."""
    from onnx import helper, numpy_helper

    own = type(node)()
    own.CopyFrom(node)
    for attribute in own.attribute:
        if attribute.name == "to" and attribute.i in FLOATS:
            attribute.i = DOUBLE
        elif attribute.name == "value" and attribute.t.data_type in FLOATS:
            attribute.t.CopyFrom(
                numpy_helper.from_array(_wide(numpy_helper.to_array(attribute.t)), attribute.t.name)
            )
        elif attribute.name in ("value_float", "value_floats"):
            numbers = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            wide = numpy_helper.from_array(np.array(numbers, dtype=np.float64))
            attribute.CopyFrom(helper.make_attribute("value", wide))
    return own


def run_model(model: Any, stored: Mapping[str, Any], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """All outputs of a model for inputs by name, in float64 as `Evaluator` does it.

    Raises:
        CannotRun: the evaluator does not take the model, or fails on it.
    """
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    single = {
        name
        for node in model.graph.node
        if node.op_type in ("Resize", "Upsample")
        for name in node.input[1:]
    }
    outputs = [value.name for value in model.graph.output]
    kinds = helper.make_tensor_type_proto(DOUBLE, None)
    arrays = {
        name: np.asarray(array) if name in single else _wide(array)
        for name, array in stored.items()
    }
    nodes = [
        node if node.op_type == "Constant" and node.output[0] in single else _widened(node)
        for node in model.graph.node
        if not (node.op_type == "Constant" and node.output[0] in arrays)
    ]
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info(name, DOUBLE, None) for name in feeds],
        [helper.make_value_info(name, kinds) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    whole = helper.make_model(
        graph, opset_imports=[helper.make_opsetid(d, v) for d, v in opsets.items()]
    )
    for function in model.functions:
        own = whole.functions.add()
        own.CopyFrom(function)
        del own.node[:]
        own.node.extend(map(_widened, function.node))
    wide = {
        name: np.asarray(x)
        if np.asarray(x).dtype.kind in "iub"
        else np.asarray(x, dtype=np.float64)
        for name, x in feeds.items()
    }
    try:
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(whole, new_ops=list(mended(opsets.get("", 1))))
            found = evaluator.run(outputs, wide)
    except Exception as error:  # whatever the evaluator stumbles over
        raise CannotRun(f"{type(error).__name__}: {error}") from None
    return dict(zip(outputs, map(np.asarray, found), strict=True))
