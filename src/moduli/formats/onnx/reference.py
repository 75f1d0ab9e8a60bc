"""ONNX: the file itself, run by the reference evaluator of the onnx package in float64."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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

    One node at a time: its stored tensors are widened when it runs, and a value that no later node reads
    is let go, so that a large model takes little more memory than its numbers have already.

    Raises:
        CannotRun: the evaluator does not take the model, or fails on it.
    """
    nodes = list(model.graph.node)
    unwidened = {
        name for node in nodes if node.op_type in ("Resize", "Upsample") for name in node.input[1:]
    }
    nodes = [n for n in nodes if n.op_type != "Constant" or n.output[0] not in stored]
    outputs = [value.name for value in model.graph.output]
    last = {name: k for k, node in enumerate(nodes) for name in (*node.input, *captured(node))}
    last.update(dict.fromkeys(outputs, len(nodes)))
    step = _Steps(model, unwidened)
    held = {name: _wide(np.asarray(x)) for name, x in feeds.items()}

    def value(name: str) -> Any:
        if name in held:
            return held[name]
        if name not in stored:
            raise CannotRun(f"{name!r} is given by nothing before it is read")
        return np.asarray(stored[name]) if name in unwidened else _wide(stored[name])

    for k, node in enumerate(nodes):
        names = dict.fromkeys(name for name in (*node.input, *captured(node)) if name)
        held.update(step(node, {name: value(name) for name in names}))
        for name in names:
            if last[name] == k:
                held.pop(name, None)
    return {name: np.asarray(value(name)) for name in outputs}


class _Steps:
    """Runs nodes of a model, each as a model of its own."""

    def __init__(self, model: Any, unwidened: Collection[str]) -> None:
        self.opsets = {entry.domain: entry.version for entry in model.opset_import}
        self.mended = list(mended(self.opsets.get("", 1)))
        self.unwidened, self.functions = unwidened, []
        for function in model.functions:
            own = type(function)()
            own.CopyFrom(function)
            del own.node[:]
            own.node.extend(map(_widened, function.node))
            self.functions.append(own)

    def __call__(self, node: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """What a node gives, by name.

        Raises:
            CannotRun: the evaluator does not take it, or fails.
        """
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        names = [name for name in node.output if name]
        stays = node.op_type == "Constant" and names[0] in self.unwidened
        graph = helper.make_graph(
            [node if stays else _widened(node)],
            "node",
            [helper.make_tensor_value_info(name, DOUBLE, None) for name in given],
            [
                helper.make_value_info(name, helper.make_tensor_type_proto(DOUBLE, None))
                for name in names
            ],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(d, v) for d, v in self.opsets.items()],
            functions=self.functions,
        )
        try:
            with np.errstate(all="ignore"):
                evaluator = ReferenceEvaluator(model, new_ops=self.mended)
                return dict(zip(names, evaluator.run(names, dict(given)), strict=True))
        except Exception as error:  # whatever the evaluator stumbles over
            raise CannotRun(f"{type(error).__name__}: {error}") from None


def captured(node: Any) -> list[str]:
    """Names that the subgraphs of a node read from outside."""
    found: list[str] = []
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for graph in graphs:
            own = {value.name for value in graph.input} | {t.name for t in graph.initializer}
            own |= {name for inner in graph.node for name in inner.output}
            for inner in graph.node:
                found += [
                    name for name in (*inner.input, *captured(inner)) if name and name not in own
                ]
            found += [value.name for value in graph.output if value.name not in own]
    return list(dict.fromkeys(found))
