"""Modules that `torch.ao.quantization` or PT2E have quantised: what their exported programs compute.

    quantize_per_tensor(x, s, z, lowest, highest) = clip(round(x / s) + z, lowest, highest)
    dequantize_per_tensor(q, s, z) = s (q - z)

and so with one s and z for each channel. As everywhere rounding is a declared operator and all else is over
the reals. Weights are kept as floats in such modules, and rounded each time: they are what torch makes of
them in their own type, once. A module of another kind of quantisation is refused by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.graph.operators import PerUnit

from .registry import registrar
from .torch_graph_reader import HANDLERS, Arguments, Result, TorchReader, Value, kind_of
from .torch_graph_shapes import NotUnderstood

DECOMPOSED = "quantized_decomposed::"
decomposed = registrar(HANDLERS, DECOMPOSED)
LARGEST = 2**16  # of the type's integers: 16 bits without a sign
ADVICE = (
    "quantise it with PT2E (torchao), with torch.ao.quantization.quantize_fx and "
    "_convert_to_reference_decomposed_fx, or read its ONNX export"
)


def require_readable(module: Any) -> None:
    """Refuse modules whose quantisation no exported program shows.

    Raises:
        UnsupportedModel: names the first part, and the way out.
    """
    for name, part in module.named_modules():
        where = type(part).__module__
        said = f"{type(part).__name__} ({where}) at {name or 'the module'!r}"
        if not where.startswith(("torch.ao.", "torchao.")):
            continue
        if hasattr(part, "_packed_params") or ".nn.quantized.modules" in where:
            raise UnsupportedModel(
                f"{said} is packed for a backend, which torch.export does not follow; {ADVICE}"
            )
        if ".quantized.reference" in where and not getattr(part, "is_decomposed", True):
            raise UnsupportedModel(
                f"{said} has tensors of quantised types, which torch.export does not follow; {ADVICE}"
            )
        enabled = getattr(part, "observer_enabled", None)
        observes = where.endswith(".observer") if enabled is None else bool(enabled.any())
        if observes:
            raise UnsupportedModel(
                f"{said} still observes ranges: the module is prepared for quantisation; convert it"
            )


def _constant(reader: TorchReader, argument: Any) -> Any:
    """A stored tensor of the module; None of what is computed."""
    if not reader.is_tensor(argument):
        return None
    value = reader.values[argument]
    return reader.tensors.get(value.name) if isinstance(value, Value) else None


def _steps(reader: TorchReader, scale: Any, zero: Any) -> tuple[Any, Any]:
    """Scales and zero points, as arrays.

    Raises:
        NotUnderstood: they are computed, or no positive numbers.
    """
    found = []
    for part in (scale, zero):
        tensor = _constant(reader, part) if hasattr(part, "op") else part
        if part is None:
            tensor = 0
        if tensor is None:
            raise NotUnderstood("its scale or its zero point is computed")
        array = tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(tensor)
        found.append(array.reshape(-1) if array.size > 1 else array.reshape(()))
    steps, points = found[0].astype(np.float64), found[1]
    whole = np.asarray(points, dtype=np.float64)
    if not (np.isfinite(steps) & (steps > 0)).all() or (whole != np.rint(whole)).any():
        raise NotUnderstood(
            "a scale that is no positive number, or a zero point that is no integer"
        )
    return steps, whole.astype(np.int64)


def _emit(
    reader: TorchReader, node: Any, kind: str, x: Value, steps: Any, points: Any, axis: int,
    numbers: tuple[float, ...], name: str, floats: bool,
) -> Value:  # fmt: skip
    shape = reader.shape(x)
    if steps.ndim and (not 0 <= axis < len(shape) or shape[axis] != steps.size):
        raise NotUnderstood(f"{steps.size} scales along axis {axis} of shape {shape}")
    points = np.broadcast_to(points, steps.shape)
    parts = [reader.keep(f"{name}:scale", steps), reader.keep(f"{name}:zero", points, False)]
    op = PerUnit(kind, axis if steps.ndim else 0, numbers)
    return reader.emit(op, [x, *parts], name, shape, floats)


def _made(reader: TorchReader, node: Any, given: Arguments, x: Any) -> Value | None:
    """What torch makes of a stored tensor, in its own type; None of what is computed."""
    source = _constant(reader, x)
    if source is None:
        return None
    args = {
        key: _constant(reader, value) if hasattr(value, "op") else value
        for key, value in given.items()
    }
    if any(hasattr(given[key], "op") and args[key] is None for key in given):
        raise NotUnderstood("its scale or its zero point is computed")
    result = node.target(**args).detach().cpu()
    name = reader.named(node.name)
    reader.tensors[name] = result
    reader._give(node, name, result)
    return Value(name)


@decomposed("quantize_per_tensor", "quantize_per_channel")
def _quantise(reader: TorchReader, node: Any, given: Arguments) -> Result:
    made = _made(reader, node, given, given["input"])
    if made is not None:
        return made
    x = reader.plain(reader.value(given["input"]))
    per_channel = "scales" in given
    scale, zero = ("scales", "zero_points") if per_channel else ("scale", "zero_point")
    steps, points = _steps(reader, given[scale], given[zero])
    ends = float(reader.number(given["quant_min"])), float(reader.number(given["quant_max"]))
    if not -LARGEST <= ends[0] <= ends[1] <= LARGEST:
        raise NotUnderstood(f"it rounds to integers from {ends[0]:g} to {ends[1]:g}")
    axis = int(given["axis"]) if per_channel else 0
    name = reader.named(node.name)
    return _emit(reader, node, "quantise", x, steps, points, axis, ends, name, False)


@decomposed("dequantize_per_tensor", "dequantize_per_channel")
def _dequantise(reader: TorchReader, node: Any, given: Arguments) -> Result:
    per_channel = "scales" in given
    scale, zero = ("scales", "zero_points") if per_channel else ("scale", "zero_point")
    steps, points = _steps(reader, given[scale], given[zero])
    if (steps != steps.astype(np.float32)).any():
        raise NotUnderstood("a scale that is no float of 32 bits, to which torch would round it")
    axis = int(given["axis"]) if per_channel else 0
    name = reader.named(node.name)
    stored = _constant(reader, given["input"])
    if stored is not None:
        q = stored.detach().cpu().numpy().astype(np.float64)
        along = tuple(-1 if k == axis else 1 for k in range(q.ndim)) if steps.ndim else ()
        if steps.ndim and q.shape[axis] != steps.size:
            raise NotUnderstood(f"{steps.size} scales along axis {axis} of shape {q.shape}")
        # a difference of bytes times a float of 32 bits: exact
        real = (q - points.reshape(along)) * steps.reshape(along)
        return reader.keep(name, np.ascontiguousarray(real))
    x = reader.plain(reader.value(given["input"]))
    return _emit(reader, node, "dequantise", x, steps, points, axis, (), name, True)


def rounds(program: Any) -> bool:
    """Whether a program rounds to integers by these operators, which torch runs in float32 alone."""
    return any(kind_of(node.target).startswith(DECOMPOSED) for node in program.graph.nodes)


def run_wide(program: Any, flat: list[Any]) -> list[Any]:
    """The outputs of such a program in float64. To stored floats alone torch does what it does in float32:
    it rounds them to integers, which are then as good as stored. What integers stand for is worked out in
    float64, where the product of such an integer with its scale is exact.
    """
    import torch

    class Wide(torch.fx.Interpreter):
        def run_node(self, node: Any) -> Any:
            kind = kind_of(node.target) if node.op == "call_function" else ""
            if not kind.startswith(DECOMPOSED):
                return super().run_node(node)
            args, kwargs = self.fetch_args_kwargs_from_env(node)
            if "::quantize" in kind and all(x.op == "get_attr" for x in node.all_input_nodes):
                args, kwargs = torch.fx.node.map_aggregate((args, kwargs), _single)
                found = node.target(*args, **kwargs)
                return found.double() if found.is_floating_point() else found
            return _computed(kind, *args, **kwargs)

    module = program.module()
    for part in (*module.parameters(), *module.buffers()):
        part.data = part.data.double() if part.is_floating_point() else part.data
    found = Wide(module).run(*flat, enable_io_processing=False)
    from torch.utils import _pytree

    return [x for x in _pytree.tree_flatten(found)[0] if hasattr(x, "shape")]


def _single(x: Any) -> Any:
    return x.float() if hasattr(x, "shape") and x.is_floating_point() else x


def _computed(kind: str, x: Any, scale: Any, zero: Any, *rest: Any, **further: Any) -> Any:
    """One of these operators in float64."""
    import torch

    if kind.endswith("_channel"):
        axis, *rest = rest  # type: ignore[assignment]
        along = [-1 if k == axis else 1 for k in range(x.ndim)]
        scale = scale.double().reshape(along)
        zero = 0 if zero is None else zero.reshape(along)
    if "::dequantize" in kind:
        return (x.double() - zero) * scale
    low, high, dtype = rest
    return torch.clamp(torch.round(x / scale) + zero, low, high).to(dtype)
