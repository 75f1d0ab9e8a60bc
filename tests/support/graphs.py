"""Graphs of the kernel built by hand, and run by an evaluator that shares nothing with the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special

from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import (
    Broadcast,
    Concat,
    Contract,
    Elementwise,
    Linear,
    Lookup,
    Node,
    PerUnit,
    Reshape,
    Size,
    Slicewise,
    Take,
    Transpose,
)

OF_INTEGERS = ("bool", "uint8", "int8", "uint16", "int16")  # casts, of what is of this type
FUNCTIONS: dict[str, Any] = {
    **dict.fromkeys(("identity", *OF_INTEGERS), lambda x: x),
    "neg": np.negative,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x, a: np.where(x >= 0, x, a * x),
    "abs": np.abs,
    "sign": np.sign,
    "clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "hardsigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "tanh": np.tanh,
    "erf": special.erf,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "sin": np.sin,
    "tan": np.tan,
    "asin": np.arcsin,
    "atan": np.arctan,
    "sinh": np.sinh,
    "asinh": np.arcsinh,
    "atanh": np.arctanh,
    "cos": np.cos,
    "cosh": np.cosh,
    "sigmoid": special.expit,
    "exp": np.exp,
    "softplus": lambda x: np.logaddexp(0, x),
    "sqrt": np.sqrt,
    "elu": lambda x, a=1.0: np.where(x > 0, x, a * np.expm1(x)),
    "celu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x, a=1.67326, g=1.0507: g * np.where(x > 0, x, a * np.expm1(x)),
    "silu": lambda x: x * special.expit(x),
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "round": np.round,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "prelu": lambda x, s: np.where(x >= 0, x, s * x),
    "where": np.where,
    "greater of integers": np.greater,
}


class Builder:
    """Nodes one after another; `x` is the input."""

    def __init__(self, *shape: Any, name: str = "x") -> None:
        self.shapes: dict[str, Any] = {name: tuple(shape)}
        self.constants: dict[str, Any] = {}
        self.nodes: list[Node] = []
        self.inputs = [name]

    def constant(self, name: str, array: Any) -> str:
        self.constants[name] = np.asarray(array, dtype=np.float32)
        self.shapes[name] = self.constants[name].shape
        return name

    def add(self, op: Any, inputs: Any, shape: Any, name: str | None = None) -> str:
        name = name or f"t{len(self.nodes)}"
        self.nodes.append(Node(op, tuple(inputs), (name,), name))
        self.shapes[name] = tuple(shape)
        return name

    def dense(self, x: str, name: str, weight: Any, bias: Any = None) -> str:
        """Along the last axis; weight [out, in]."""
        shape = self.shapes[x]
        inputs = [x, self.constant(f"{name}.w", weight)]
        if bias is not None:
            inputs.append(self.constant(f"{name}.b", bias))
        last = len(shape) - 1
        op = Linear(last, last, 1, 0, free=tuple((a, a) for a in range(last)))
        return self.add(op, inputs, (*shape[:-1], len(np.asarray(weight))))

    def each(self, kind: str, *inputs: str, numbers: Any = ()) -> str:
        shapes = [self.shapes[x] for x in inputs]
        sizes = [
            next((n for n in (s[b] for s in shapes if -b <= len(s)) if n != 1), 1)
            for b in range(-max(map(len, shapes)), 0)
        ]
        return self.add(Elementwise(kind, tuple(numbers)), inputs, sizes)

    def model(self, *outputs: str) -> GraphModel:
        return GraphModel(
            tuple(self.inputs), outputs, tuple(self.nodes), self.shapes, self.constants
        )


def run(model: GraphModel, feeds: Mapping[str, Any]) -> list[Any]:
    """Outputs in float64."""
    values = {name: np.asarray(array, dtype=np.float64) for name, array in model.constants.items()}
    values.update({name: np.asarray(x, dtype=np.float64) for name, x in feeds.items()})
    for node in model.nodes:
        values[node.output] = step(node.op, [values[name] for name in node.inputs], node, model)
    return [values[name] for name in model.outputs]


def step(op: Any, x: list[Any], node: Node, model: GraphModel) -> Any:
    if isinstance(op, Elementwise):
        return FUNCTIONS[op.kind](*x, *op.numbers)
    if isinstance(op, Linear) and op.detail[:1] == ("conv",) and x[1].ndim == 4:
        windows = np.lib.stride_tricks.sliding_window_view(x[0], x[1].shape[2:], axis=(2, 3))
        y = np.einsum("bihwkl,oikl->bohw", windows, x[1])
        return y + x[2][:, None, None] if len(x) > 2 else y
    if isinstance(op, Linear):
        rows = np.moveaxis(x[1], (op.rows, op.columns), (0, 1))
        moved = np.moveaxis(x[0], op.reads, -1)
        groups = [
            part @ weight.T
            for part, weight in zip(
                np.split(moved, op.groups, axis=-1), np.split(rows, op.groups), strict=True
            )
        ]
        y = np.concatenate(groups, axis=-1)
        return np.moveaxis(y + x[2] if len(x) > 2 else y, -1, op.writes)
    if isinstance(op, Contract):
        return x[0] @ x[1]
    if isinstance(op, PerUnit) and op.kind == "batchnorm":
        along = [-1 if a == op.axis else 1 for a in range(x[0].ndim)]
        g, b, m, v = (part.reshape(along) for part in x[1:])
        return (x[0] - m) / np.sqrt(v + op.numbers[0]) * g + b
    if isinstance(op, Slicewise):
        axes = tuple(a for a in range(x[0].ndim) if a not in {i for i, _ in op.free})
        if op.kind == "softmax":
            return special.softmax(x[0], axis=axes)
        if op.kind in ("layer_norm", "LayerNormalization", "RMSNormalization"):
            centre = 0 if op.kind == "RMSNormalization" else x[0].mean(axis=axes, keepdims=True)
            u = x[0] - centre
            root = np.sqrt(np.square(u).mean(axis=axes, keepdims=True) + (op.normalises or 0))
            return u / root * x[1] + (x[2] if len(x) > 2 else 0)
        return getattr(np, op.kind)(x[0], axis=axes, keepdims=True)
    if isinstance(op, Transpose):
        return x[0].transpose(op.order)
    if isinstance(op, Concat):
        return np.concatenate(x, axis=op.axis)
    if isinstance(op, Take):
        return np.take(x[0], op.index[0] if op.drop else list(op.index), op.axis)
    if isinstance(op, Reshape):
        sizes = [n if isinstance(n, int) else -1 for n in op.sizes]
        return x[0].reshape(sizes)
    if isinstance(op, Broadcast):
        return np.broadcast_to(x[0], [n or 1 for n in op.sizes])
    if isinstance(op, Lookup):
        return np.take(x[0], x[1].astype(int), op.axis)
    if isinstance(op, Size) and op.payload == "1 / root":
        ((_, axis),) = op.axes
        return x[0].shape[axis] ** -0.5
    if isinstance(op, Size) and op.payload == "lower triangle":
        (_, i), (_, j) = op.axes
        return np.tri(x[0].shape[i], x[1].shape[j], dtype=bool)
    raise NotImplementedError(op)
