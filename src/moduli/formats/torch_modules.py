"""The only door to torch: modules and checkpoints in, `torch.nn.Sequential` out.

A module is read as the function of one sample that it is in evaluation mode, over the reals:
dropout does nothing, batch normalisation uses its stored statistics, casts between floating types
do nothing, softplus has no threshold (which is noted, and refused below 20). Its graph comes from
`torch.export` (one spelling for each operation) or, where that fails, from `torch.fx`. It is traced
for three samples, which must stay apart, and what was read is compared with the module run by
torch, one by one and three at a time (`second_reading`). All of that happens to a copy.
"""

from __future__ import annotations

import functools
import inspect
import io
import logging
import math
import mmap
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Context, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from moduli.common.extras import needed
from moduli.kernel.activations import Activation
from moduli.kernel.errors import Asked, MissingExtra, ModuliError, ShapeError, UnsupportedModel
from moduli.kernel.network import Network, _float64

from .affine_tracer import BallArray, Tensor
from .second_reading import MAX_PARAMETERS, UNITS, confirm
from .state_dicts import network_from_checkpoint
from .torch_constants import compute, is_constant, reciprocal
from .torch_copy import settled

if TYPE_CHECKING:
    import torch

MAX_BYTES = 4 * 2**30
SAMPLES = 3  # that a module is traced with: they must stay apart
MIN_THRESHOLD = 20.0  # of a softplus: torch's default; below it the linear part is another function
UNDERSTOOD = (
    "understood are linear, matmul, addmm, + - * / with constants, batch_norm, dropout, reshapes and slices, "
    "relu, leaky_relu, prelu, elu, selu, celu, relu6, hardtanh, clamp, hardsigmoid, hardswish, mish, tanh, sigmoid, erf, "
    "gelu, silu, softplus, sin, abs, and a softmax at the end"
)
CODE = (
    "holds pickled objects beyond tensors, which could run code and are not loaded; "
    "save model.state_dict() or a .safetensors file instead, or pass the module itself"
)


def _torch() -> Any:
    with needed("torch", "torch"):
        import torch
    return torch


# Modules --------------------------------------------------------------------------------------------------------


def read_module(
    module: torch.nn.Module, *, input_shape: int | Sequence[int] | None = None
) -> Network:
    """The network that a module is in evaluation mode; the module stays as it was.

    Masks of `torch.nn.utils.prune`, weight and spectral normalisation and other parametrisations
    are applied as torch does in evaluation mode, which is noted.

    Args:
        input_shape: of one sample, without the batch axis; None: ``(in_features,)`` of the module's
            first `Linear`.

    Raises:
        UnsupportedModel: with the first operation that is not understood, and where it stands;
            samples of a batch do not stay apart; the module, run by torch, gives other values than
            what was read.
        ShapeError: the input shape does not fit the module.
        MissingExtra: torch is not installed.

    >>> import torch
    >>> net = read_module(torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)))
    >>> net, net.notes
    (Network(3-5-2, tanh, 32 parameters), ('agrees with torch in float64 at 18 inputs (batch 1 and 3)',))
    """
    torch = _torch()
    name = type(module).__name__
    if not isinstance(module, torch.nn.Module) or isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModel(
            f"{name} is no torch.nn.Module in Python; pass the module it was made from"
        )
    _one_input(module, name)
    tensors = [*module.parameters(), *module.buffers()]
    if any(t.is_meta or torch.nn.parameter.is_lazy(t) for t in tensors):
        raise UnsupportedModel(
            f"{name} has parameters without values (lazy, or on the meta device); load them first"
        )
    shape = _input_shape(module, name, input_shape)
    like = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))
    start = Tensor.input((SAMPLES, *shape), samples=SAMPLES)
    with _silence(), torch.no_grad(), _same_random_numbers(name):
        plain, found = settled(module)
        nodes, stored = _graph(
            plain, torch.zeros((SAMPLES, *shape), dtype=like.dtype, device=like.device)
        )
        walk = _Walk(plain, nodes, stored)
        net = walk.run(start, [parameter.note for parameter in found])
        return replace(
            net, notes=(*net.notes, _second_reading(net, module, plain, like, shape, walk.unit))
        )


@contextmanager
def _same_random_numbers(name: str) -> Iterator[None]:
    """The generator's state comes back; a module that draws from it is no function."""
    torch = _torch()
    state = torch.random.get_rng_state()
    try:
        yield
        if not torch.equal(torch.random.get_rng_state(), state):
            raise UnsupportedModel(
                f"{name} draws random numbers in evaluation mode; it is no function of its input"
            )
    finally:
        torch.random.set_rng_state(state)


def _second_reading(
    net: Network, module: Any, plain: Any, like: Any, shape: tuple[int, ...], unit: float
) -> str:
    """Compare what was read with the module run by torch: in float64, or in its own type where it
    insists on that.
    """
    if net.parameters > MAX_PARAMETERS:
        return f"not compared with torch: {net.parameters} parameters, at most {MAX_PARAMETERS} are run twice"
    name = type(module).__name__
    try:
        return _agreement(net, plain.double(), name, _torch().float64, like, shape, unit)
    except ModuliError:
        raise
    except Exception:  # casts in forward, a device without float64: then as it is
        own, _ = settled(module)
    try:
        return _agreement(net, own, name, like.dtype, like, shape, unit)
    except ModuliError:
        raise
    except Exception as error:
        raise UnsupportedModel(
            f"{name} does not run on batches of 1 and of {SAMPLES} samples: {_brief(error)}"
        ) from None


def _agreement(
    net: Network, model: Any, name: str, dtype: Any, like: Any, shape: tuple[int, ...], unit: float
) -> str:
    torch = _torch()
    kind = str(dtype).removeprefix("torch.")

    def run(rows: Any) -> Any:
        x = torch.from_numpy(rows).to(device=like.device, dtype=dtype).reshape(len(rows), *shape)
        result = model(x)
        result = result[0] if isinstance(result, (tuple, list)) else result
        values = result.detach().double().cpu().numpy()
        return (
            values.reshape(1, -1) if len(rows) == 1 else values
        )  # squeeze() drops the axis of a batch of one

    unit = max(unit, UNITS.get(kind, UNITS["bfloat16"]))
    try:
        return confirm(net, run, samples=(1, SAMPLES), unit=unit, by=f"torch in {kind}")
    except ModuliError as error:
        raise error.at(name) from None


def _one_input(module: Any, name: str) -> None:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    needed = [p.name for p in parameters if p.kind in kinds and p.default is p.empty]
    if len(needed) > 1:
        raise UnsupportedModel(
            f"{name}.forward takes {len(needed)} inputs ({', '.join(needed)}); one is needed"
        )


def _input_shape(module: Any, name: str, given: int | Sequence[int] | None) -> tuple[int, ...]:
    if given is None:
        linear = next(
            (part for part in module.modules() if isinstance(part, _torch().nn.Linear)), None
        )
        if linear is None:
            raise UnsupportedModel(
                f"{name} has no Linear to tell its input; give ", Asked("input_shape"),
                ", without the batch axis",
            )  # fmt: skip
        return (int(linear.in_features),)
    shape = (int(given),) if isinstance(given, int) else tuple(int(n) for n in given)
    if any(n < 1 for n in shape):
        raise ShapeError(
            f"input_shape {shape}: every axis must be positive; leave out the batch axis"
        )
    return shape


@contextmanager
def _silence() -> Iterator[None]:
    """torch warns, logs and prints about what it cannot follow; the error says it in one line."""
    level, sink = logging.root.manager.disable, io.StringIO()
    try:
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stdout(sink), redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _graph(module: Any, example: Any) -> tuple[list[Any], dict[str, Any]]:
    """Nodes in order, and the stored tensors by the names of the nodes that stand for them."""
    try:
        program = _torch().export.export(module, (example,), strict=False)
    except Exception as error:  # whatever torch raises, torch.fx may still do
        return _traced(module, error), {}
    if any(
        getattr(getattr(node.target, "_schema", None), "is_mutable", False)
        for node in program.graph.nodes
    ):
        program = program.run_decompositions({})
    for spec in program.graph_signature.output_specs:
        if spec.kind.name != "USER_OUTPUT":
            raise UnsupportedModel(
                f"{type(module).__name__} changes its buffer {spec.target!r} when evaluated; it must not"
            )
    tensors = {**program.state_dict, **program.constants}
    inner = [spec for spec in program.graph_signature.input_specs if spec.kind.name != "USER_INPUT"]
    return list(program.graph.nodes), {spec.arg.name: tensors[spec.target] for spec in inner}


def _readers(node: Any) -> int:
    """How many others read the values of a node, not only their shape."""
    return sum(_name(user) not in ("size", "getattr") for user in node.users)


def _traced(module: Any, first: Exception) -> list[Any]:
    """The nodes of `torch.fx`, in which operations in place are allowed only where no tensor has
    two readers.
    """
    try:
        nodes = list(_torch().fx.symbolic_trace(module).graph.nodes)
    except Exception as second:
        raise UnsupportedModel(
            f"{type(module).__name__}: neither torch.export ({_brief(first)}) nor torch.fx ({_brief(second)}) can follow it; "
            "control flow must not depend on the data"
        ) from None
    if any(part._forward_pre_hooks or part._forward_hooks for part in module.modules()):
        raise UnsupportedModel(
            f"{type(module).__name__} has hooks, which torch.fx does not see, and torch.export failed: {_brief(first)}"
        )
    changing = [node for node in nodes if _in_place(node, module)]
    shared = [node.name for node in nodes if _readers(node) > 1]
    if changing and shared:
        raise UnsupportedModel(
            f"{_place(changing[0], module)} works in place while {shared[0]!r} is read twice"
        )
    return nodes


_SPELLINGS = {
    "iadd": "add",
    "isub": "sub",
    "imul": "mul",
    "itruediv": "div",
    "imatmul": "matmul",
    "truediv": "div",
}


def _in_place(node: Any, module: Any) -> bool:
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(node.target), "inplace", False))
    name = getattr(node.target, "__name__", str(node.target))
    changes = (
        name.endswith("_")
        or (name in _SPELLINGS and name[0] == "i")
        or node.kwargs.get("inplace") is True
    )
    return node.op.startswith("call") and changes


def _brief(error: BaseException) -> str:
    """The first sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0][:160]


def _name(node: Any) -> str:
    """``relu`` for aten.relu.default, torch.relu, functional.relu, relu_ and the method."""
    packet = getattr(node.target, "overloadpacket", node.target)
    name = packet if isinstance(packet, str) else getattr(packet, "__name__", str(packet))
    if name == "batch_norm" and getattr(packet, "__module__", "") == "torch.nn.functional":
        return "functional.batch_norm"  # its arguments come in another order
    return _SPELLINGS.get(name, name.rstrip("_"))


def _place(node: Any, module: Any) -> str:
    """The operation and the path of the module that holds it."""
    paths = ["", *(str(entry[0]) for entry in (node.meta.get("nn_module_stack") or {}).values())]
    path, what = (
        paths[-1],
        str(node.target) if hasattr(node.target, "overloadpacket") else _name(node),
    )
    if node.op == "call_module":
        path, what = str(node.target), type(module.get_submodule(node.target)).__name__
    return f"{what} in {path!r}" if path else what


@dataclass(frozen=True)
class _Softmax:
    """A softmax over all entries, after which nothing may come."""

    of: Tensor


class _Walk:
    """Evaluates a graph with one `Tensor` in hand; stored tensors are float64 arrays, computed ones
    these or a `BallArray`.

    Attributes:
        unit: relative rounding error of the coarsest arithmetic that the graph itself asks for.
    """

    def __init__(self, module: Any, nodes: list[Any], stored: dict[str, Any]) -> None:
        self.module, self.nodes, self.stored, self.values = module, nodes, stored, dict[str, Any]()
        self.notes: list[str] = []
        self.unit = 0.0

    def run(self, start: Tensor, notes: Sequence[str]) -> Network:
        needed: set[Any] = set()
        for node in reversed(self.nodes):
            if node.op == "output" or node in needed:
                needed.update([node, *node.all_input_nodes])
        for node in filter(needed.__contains__, self.nodes):
            if node.op == "output":
                break
            self.values[node.name] = self._evaluate(node, start)
        return self._finish(node.args[0], [*notes, *dict.fromkeys(self.notes)])

    def _evaluate(self, node: Any, start: Tensor) -> Any:
        if node.name in self.stored:
            return _float64(self.stored[node.name], node.name)
        if node.op == "placeholder":
            return node.args[0] if node.args else start
        if node.op == "get_attr":
            return _float64(
                functools.reduce(getattr, node.target.split("."), self.module), node.target
            )
        args, options = (
            self._value(node.args),
            {key: self._value(a) for key, a in node.kwargs.items()},
        )
        try:
            return self._call(node, args, options)
        except ModuliError as error:
            raise error.at(self._at(node)) from None
        except (AttributeError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise UnsupportedModel(f"{self._at(node)}: {error}") from None

    def _at(self, node: Any) -> str:
        return f"{type(self.module).__name__}, {_place(node, self.module)}"

    def _value(self, argument: Any) -> Any:
        """The argument with nodes replaced by their values."""
        if isinstance(argument, (tuple, list)):
            return tuple(map(self._value, argument))
        if isinstance(argument, slice):
            return slice(*map(self._value, (argument.start, argument.stop, argument.step)))
        return self.values[argument.name] if hasattr(argument, "all_input_nodes") else argument

    def _call(self, node: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        name = _name(node)
        if node.op == "call_module":
            part = self.module.get_submodule(node.target)
            own = type(part).__module__.startswith(
                "torch.nn.modules."
            )  # not its quantised namesakes
            if not own or type(part).__name__ not in _MODULES:
                raise UnsupportedModel(
                    f"this module of {type(part).__module__} is not understood; {UNDERSTOOD}"
                )
            name, read = _MODULES[type(part).__name__]
            args = (
                *args,
                *(_float64(a, node.target) if hasattr(a, "detach") else a for a in read(part)),
            )
        flat = [
            b for a in (*args, *options.values()) for b in (a if isinstance(a, tuple) else (a,))
        ]
        if callable(node.target) and all(isinstance(a, int) for a in flat):
            return node.target(*args, **options)
        computed = any(isinstance(a, (Tensor, _Softmax)) for a in flat)
        if any(map(is_constant, flat)) and not computed and name not in _MOVES:
            return self._constant(node, name, args, options)
        if name not in _MOVES and name not in _OPERATIONS:
            raise UnsupportedModel(f"this operation is not understood; {UNDERSTOOD}")
        if any(isinstance(a, _Softmax) for a in flat) and _MOVES.get(name) is not _same:
            raise UnsupportedModel("it follows a softmax, which is read only as the last operation")
        self._observe(name, args, options)
        return (_MOVES.get(name) or _OPERATIONS[name])(*args, **options)

    def _constant(
        self, node: Any, name: str, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """A constant computed from constants; integers wrap around in torch, which is not followed."""
        kind = getattr(node.meta.get("val"), "dtype", None)
        if kind is not None and not kind.is_floating_point:
            raise UnsupportedModel(
                f"parameters are computed from parameters in {kind}; store the result in floating point"
            )
        value, rounded = compute(name, node.target, args, options)
        if rounded:
            self.notes.append(
                f"a constant was computed by torch in float64, rounded as it rounds: {name}"
            )
        return value

    def _observe(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Where torch computes something else than what is read: a softplus that turns linear, a
        cast that rounds.
        """
        if name == "softplus":
            note, error = _softplus_error(
                *args[1:], **{k: v for k, v in options.items() if k != "input"}
            )
            self.notes.append(note)
            self.unit = max(self.unit, error)
        if _MOVES.get(name) is _same:
            kinds = [name, *(str(v).removeprefix("torch.") for v in (*args[1:], *options.values()))]
            self.unit = max(
                [
                    self.unit,
                    *(
                        UNITS[_SHORT.get(kind, kind)]
                        for kind in kinds
                        if _SHORT.get(kind, kind) in UNITS
                    ),
                ]
            )

    def _finish(self, output: Any, notes: Sequence[str]) -> Network:
        result, name = self._value(output), type(self.module).__name__
        if isinstance(result, dict) or (isinstance(result, tuple) and len(result) > 1):
            raise UnsupportedModel(f"{name} returns {len(result)} values; one tensor is needed")
        result = result[0] if isinstance(result, tuple) else result
        output_map = "softmax" if isinstance(result, _Softmax) else None
        tensor = result.of if isinstance(result, _Softmax) else result
        if isinstance(tensor, Tensor):
            try:
                return tensor.finish(output_map, notes)
            except ModuliError as error:
                raise error.at(name) from None
        raise UnsupportedModel(
            f"{name} returns something that does not depend on its input; one computed tensor is needed"
        )


# Operations; arguments are ordered and named as torch does -------------------------------------------------------


def _same(x: Any, *rest: Any, **options: Any) -> Any:
    """Nothing, over the reals: copies, and casts to floating types."""
    for value in (*rest, *options.values()):
        if getattr(value, "is_floating_point", True) is False:
            raise UnsupportedModel(
                f"a cast to {value} rounds; only casts to floating types are read"
            )
    return x


def _moved(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Rearranges a computed tensor, or a stored one, as `fn` does an array."""

    def operation(x: Any, *args: Any, **options: Any) -> Any:
        if isinstance(x, Tensor):
            return x.rearrange(lambda a: fn(a, *args, **options))
        if isinstance(x, BallArray):
            return x.map(lambda a: fn(a, *args, **options))
        return fn(x, *args, **options)

    return operation


def _sizes(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """(2, 3) and ((2, 3),) are one thing."""
    return given[0] if len(given) == 1 and isinstance(given[0], tuple) else given


def _flatten(a: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    start, end = start_dim % a.ndim, end_dim % a.ndim
    return a.reshape(*a.shape[:start], -1, *a.shape[end + 1 :])


def _squeeze(a: Any, *dim: Any) -> Any:
    return a.squeeze(tuple(d for d in (_sizes(dim) if dim else range(a.ndim)) if a.shape[d] == 1))


def _slice(
    a: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    return a[(slice(None),) * (dim % a.ndim) + (slice(start, end, step),)]


def _getitem(x: Any, key: Any) -> Any:
    if not all(isinstance(part, (int, slice, type(None), type(...))) for part in _sizes((key,))):
        raise UnsupportedModel(f"an index {key!r}; slices and integers are read")
    return x[key] if isinstance(x, tuple) else _moved(lambda a: a[key])(x)


def _getattr(x: Any, name: str) -> Any:
    return _MOVES["t"](x) if name == "T" else {"shape": tuple(x.shape), "ndim": len(x.shape)}[name]


def _constant(value: Any) -> Any:
    if isinstance(value, Tensor):
        raise UnsupportedModel(
            f"two computed tensors meet (a residual or branching network); {UNDERSTOOD}"
        )
    if isinstance(value, BallArray):
        return value if value.shape else value.map(np.atleast_1d)
    return np.atleast_1d(value)


def _times(value: Any, factor: Any) -> Any:
    return (
        _constant(value)
        if factor == 1
        else BallArray.of(_constant(value)).times(BallArray.of(_constant(factor)))
    )


def _add(x: Any, y: Any, alpha: Any = 1) -> Any:
    return (
        x.shifted(_times(y, alpha))
        if isinstance(x, Tensor)
        else y.scaled(_constant(alpha)).shifted(_constant(x))
    )


def _sub(x: Any, y: Any, alpha: Any = 1) -> Any:
    return _add(x, y, -alpha)


def _mul(x: Any, y: Any) -> Any:
    return x.scaled(_constant(y)) if isinstance(x, Tensor) else y.scaled(_constant(x))


def _div(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None or isinstance(y, Tensor):
        raise UnsupportedModel(f"a division that is rounded, or by a computed tensor; {UNDERSTOOD}")
    return x.scaled(reciprocal(_constant(y)))


def _matmul(x: Any, y: Any) -> Any:
    return x.matmul(_constant(y)) if isinstance(x, Tensor) else y.matmul_left(x)


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    y = x.matmul(_MOVES["t"](_constant(weight)))
    return y if bias is None else y.shifted(_constant(bias))


def _addmm(bias: Any, x: Any, y: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return _matmul(x, y).scaled(_constant(alpha)).shifted(_times(bias, beta))


def _batch_norm(
    x: Any,
    gain: Any,
    offset: Any,
    mean: Any,
    variance: Any,
    training: bool,
    _: Any,
    eps: Any,
    *__: Any,
) -> Any:
    if training or mean is None or variance is None:
        raise UnsupportedModel(
            "the normalisation has no stored statistics; set track_running_stats=True"
        )
    ones = np.ones(len(mean))
    if gain is None:
        gain = ones
    if offset is None:
        offset = 0 * ones
    return x.normalised(gain, offset, mean, variance, eps)


def _functional_batch_norm(
    x: Any, mean: Any, variance: Any, weight: Any = None, bias: Any = None, training: bool = False, momentum: Any = 0.1,
    eps: Any = 1e-5,
) -> Any:  # fmt: skip
    return _batch_norm(x, weight, bias, mean, variance, training, momentum, eps)


def _dropout(x: Any, p: Any = 0.5, training: bool = True, inplace: bool = False) -> Any:
    if training:
        raise UnsupportedModel(
            "dropout is active in evaluation mode too; write training=self.training"
        )
    return x


def _softmax(x: Any, dim: int | None = None, *_: Any, **__: Any) -> _Softmax:
    axis = (len(x.shape) not in (0, 1, 3)) * 1 if dim is None else dim
    if not x.shape or not _all_of_a_sample(x, axis):
        raise UnsupportedModel(
            f"a softmax over axis {axis} of shape {x.shape} is not over all outputs of a sample"
        )
    return _Softmax(x)


def _all_of_a_sample(x: Tensor, axis: int) -> bool:
    """Whether every line along an axis holds all entries of one sample, and there are as many lines
    as samples.
    """
    of = np.moveaxis(x.index // max(1, len(x.select)), axis, -1)
    return x.shape[axis] * x.samples == x.size and bool((of == of[..., :1]).all())


def _leaky_relu(x: Any, negative_slope: Any = 0.01, inplace: bool = False) -> Any:
    return x.activate(Activation("leaky_relu", float(negative_slope)))


def _prelu(x: Any, weight: Any) -> Any:
    """One slope for all, or one for each channel, which is axis 1 (torch broadcasts no other way)."""
    if weight.size == 1:
        return x.rectified(weight.reshape(()))
    return x.rectified(weight.reshape(-1, *[1] * (len(x.shape) - 2)))


def _elu(
    x: Any, alpha: Any = 1.0, scale: Any = 1.0, input_scale: Any = 1.0, inplace: bool = False
) -> Any:
    """scale times x where x >= 0, alpha (exp(input_scale x) - 1) elsewhere."""
    if isinstance(scale, bool):  # torch.nn.functional.elu has `inplace` in this place
        scale = 1.0
    if input_scale != 1:
        raise UnsupportedModel(f"an elu with input_scale={input_scale}; 1 is read")
    activation = Activation("elu", float(alpha)) if alpha else Activation("relu")
    y = x.activate(activation)
    return y if scale == 1 else y.scaled(_constant(scale))


_SELU = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _selu(x: Any, inplace: bool = False) -> Any:
    return _elu(x, *_SELU)


def _celu(x: Any, alpha: Any = 1.0, inplace: bool = False) -> Any:
    if not alpha > 0:
        raise UnsupportedModel(f"a celu with alpha={alpha}; a positive one is read")
    return (
        x.scaled(reciprocal(_constant(alpha)))
        .activate(Activation("elu", 1.0))
        .scaled(_constant(alpha))
    )


def _hardtanh(x: Any, min_val: Any = -1.0, max_val: Any = 1.0, inplace: bool = False) -> Any:
    return x.activate(Activation("clip", min_val, max_val))


def _hardsigmoid(x: Any, inplace: bool = False) -> Any:
    return x.scaled(reciprocal(np.array([6.0]))).shifted(0.5).activate(Activation("clip", 0.0, 1.0))


def _gelu(x: Any, approximate: str = "none") -> Any:
    return x.activate(Activation("gelu_tanh" if approximate == "tanh" else "gelu"))


def _softplus(x: Any, beta: Any = 1.0, threshold: Any = 20.0) -> Any:
    if not threshold >= MIN_THRESHOLD:
        raise UnsupportedModel(
            f"a softplus with threshold {threshold}, beyond which torch takes the identity: another function by up to "
            f"{_decay(threshold, beta)}; a threshold of at least {MIN_THRESHOLD:g} is read"
        )
    if beta == 1:
        return x.activate(Activation("softplus"))
    return (
        x.scaled(_constant(beta))
        .activate(Activation("softplus"))
        .scaled(reciprocal(_constant(beta)))
    )


def _softplus_error(beta: Any = 1.0, threshold: Any = 20.0) -> tuple[str, float]:
    """What is noted about the threshold, and the error that it makes: log(1 + exp(-t)) / |beta| <=
    exp(-t) / |beta|.
    """
    note = f"torch's softplus is linear beyond threshold {threshold:g}: at most {_decay(threshold, beta)} from the one read"
    return note, float(_decay(threshold, 1.0))


def _decay(threshold: Any, beta: Any) -> Decimal:
    """exp(-threshold) / |beta|, rounded up to two digits."""
    fine = Context(prec=40, rounding=ROUND_CEILING)
    least = fine.minus(Decimal(float(threshold)))  # -threshold, rounded up
    above = fine.next_plus(
        fine.exp(least)
    )  # `exp` rounds to nearest, whatever the context's rounding
    size = Decimal(float(beta)).copy_abs()
    return (
        Context(prec=2, rounding=ROUND_CEILING).plus(fine.divide(above, size))
        if size
        else Decimal("Infinity")
    )


def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    if isinstance(min, (Tensor, np.ndarray)) or isinstance(max, (Tensor, np.ndarray)):
        raise UnsupportedModel("a clamp by tensors; numbers are read")
    low, high = (None if end is None or math.isinf(end) else float(end) for end in (min, max))
    return x.clamped(low, high)


def _plain(kind: str) -> Callable[..., Any]:
    return lambda x, inplace=False: x.activate(Activation(kind))


_SHORT = {"half": "float16", "float": "float32", "double": "float64"}  # methods that cast
_PLAIN = ("relu", "tanh", "sigmoid", "erf", "silu", "sin", "abs", "hardswish", "mish")
_MOVES: dict[str, Callable[..., Any]] = {  # exact on stored tensors too
    **dict.fromkeys(
        (
            "identity",
            "clone",
            "detach",
            "contiguous",
            "alias",
            "lift_fresh_copy",
            "to",
            "_to_copy",
            "type",
            "type_as",
            "float",
            "double",
            "half",
            "bfloat16",
            "cpu",
        ),
        _same,
    ),
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view"), _moved(lambda a, *shape: a.reshape(_sizes(shape)))
    ),
    **dict.fromkeys(("t", "numpy_T"), _moved(lambda a: a.T)),
    "permute": _moved(lambda a, *dims: a.transpose(_sizes(dims))),
    "transpose": _moved(lambda a, dim0, dim1: a.swapaxes(dim0, dim1)),
    "flatten": _moved(_flatten),
    "squeeze": _moved(_squeeze),
    "unsqueeze": _moved(lambda a, dim: np.expand_dims(a, dim)),
    "slice": _moved(_slice),
    "select": _moved(lambda a, dim, index: a.take([index], axis=dim).squeeze(dim)),
    "neg": lambda x: x.scaled(-1.0) if isinstance(x, Tensor) else _moved(np.negative)(x),
    "getitem": _getitem,
    "getattr": _getattr,
    "size": lambda x, dim=None: tuple(x.shape) if dim is None else x.shape[dim],
}
_OPERATIONS: dict[str, Callable[..., Any]] = {
    **{kind: _plain(kind) for kind in _PLAIN},
    **dict.fromkeys(("matmul", "mm", "mv"), _matmul),
    **dict.fromkeys(("softmax", "_softmax"), _softmax),
    **dict.fromkeys(("clamp", "clip", "clamp_min"), _clamp),
    "clamp_max": lambda x, max: _clamp(x, None, max),
    "elu": _elu,
    "selu": _selu,
    "celu": _celu,
    "hardtanh": _hardtanh,
    "relu6": lambda x, inplace=False: _hardtanh(x, 0.0, 6.0),
    "hardsigmoid": _hardsigmoid,
    "add": _add,
    "sub": _sub,
    "rsub": lambda x, y, alpha=1: _sub(y, x, alpha),
    "mul": _mul,
    "div": _div,
    "linear": _linear,
    "addmm": _addmm,
    "batch_norm": _batch_norm,
    "functional.batch_norm": _functional_batch_norm,
    "_native_batch_norm_legit_no_training": lambda *args: (
        _batch_norm(*args[:5], False, *args[5:]),
    ),
    "dropout": _dropout,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "gelu": _gelu,
    "softplus": _softplus,
}


class _Seen:
    """Stands for a tensor: what is applied to it is what it returns."""

    def activate(self, s: Activation) -> Activation:
        return s

    def clamped(self, low: float | None, high: float | None) -> Activation | None:
        if high is not None:
            return None if low is None else Activation("clip", low, high)
        return Activation("relu") if low == 0 else None


def activation_of(name: str, rest: Sequence[Any], options: Mapping[str, Any]) -> Activation | None:
    """The activation that a torch function with these further arguments is, or None."""
    if name not in (
        *_PLAIN,
        "leaky_relu",
        "gelu",
        "softplus",
        "clamp",
        "clip",
        "elu",
        "hardtanh",
        "relu6",
    ):
        return None
    try:
        found = _OPERATIONS[name](_Seen(), *rest, **options)
    except (AttributeError, TypeError, UnsupportedModel):
        return None
    return found if isinstance(found, Activation) else None


_MODULES: dict[
    str, tuple[str, Callable[[Any], Sequence[Any]]]
] = {  # of torch.nn; a class of the user is traced into
    **dict.fromkeys(
        ("Identity", "Dropout", "Dropout1d", "Dropout2d", "AlphaDropout"),
        ("identity", lambda m: ()),
    ),
    **{
        name: (name.lower(), lambda m: ())
        for name in ("ReLU", "Tanh", "Sigmoid", "SiLU", "SELU", "ReLU6", "Mish")
    },
    **{name: (name.lower(), lambda m: ()) for name in ("Hardsigmoid", "Hardswish")},
    "ELU": ("elu", lambda m: (m.alpha,)),
    "CELU": ("celu", lambda m: (m.alpha,)),
    "Hardtanh": ("hardtanh", lambda m: (m.min_val, m.max_val)),
    "Linear": ("linear", lambda m: (m.weight, m.bias)),
    "BatchNorm1d": (
        "batch_norm",
        lambda m: (m.weight, m.bias, m.running_mean, m.running_var, False, m.momentum, m.eps),
    ),
    "Flatten": ("flatten", lambda m: (m.start_dim, m.end_dim)),
    "LeakyReLU": ("leaky_relu", lambda m: (m.negative_slope,)),
    "PReLU": ("prelu", lambda m: (m.weight,)),
    "GELU": ("gelu", lambda m: (m.approximate,)),
    "Softplus": ("softplus", lambda m: (m.beta, m.threshold)),
    "Softmax": ("softmax", lambda m: (m.dim,)),
}


# Checkpoints ----------------------------------------------------------------------------------------------------


def read_checkpoint(
    path: str | Path, *, activation: Any = None, keys: Sequence[str] | None = None
) -> Network:
    """The network whose layers a `torch.save` file holds, as a state dict or inside a checkpoint.

    Only tensors are loaded (``weights_only=True``); code in the file is never run.

    Args:
        activation: of the hidden layers, one or one for each; the file does not say.
        keys: prefixes that select layers, in the order of evaluation; needed where there are
            several networks, or where nothing tells the order.

    Raises:
        UnsupportedModel: the file is damaged, too large or holds more than tensors, or the layers
            form no chain; see `state_dicts`.
        MissingExtra: torch is not installed.

    >>> import tempfile, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"state_dict": model.state_dict(), "epoch": 7}, f"{folder}/model.pth")
    ...     read_checkpoint(f"{folder}/model.pth", activation="tanh")
    Network(3-5-2, tanh, 32 parameters)
    """
    file = Path(path)
    _limited(file)
    size = file.stat().st_size
    return network_from_checkpoint(
        _loaded(file),
        activation=activation,
        keys=keys,
        where=str(file),
        check=lambda name, tensor: _whole(tensor, f"{file}: {name!r}", size),
    )


def _limited(file: Path) -> None:
    """Refuse, before anything is loaded, what would take more memory than the file has bytes."""
    size = file.stat().st_size
    if not size:
        raise UnsupportedModel(f"{file} is empty")
    if size > MAX_BYTES:
        raise UnsupportedModel(f"{file} has {size} bytes; checkpoints up to {MAX_BYTES} are read")
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        if view.find(b"\nbytearray\n") >= 0:
            raise UnsupportedModel(f"{file} {CODE}")
        archived = view[:4] == b"PK\3\4"
    if archived:
        _stored(file, size)


def _stored(file: Path, size: int) -> None:
    """Refuse a zip archive that does not hold its entries as they are and side by side."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise UnsupportedModel(f"{file} is damaged: its zip directory cannot be read") from None
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise UnsupportedModel(f"{file} is a TorchScript archive and {CODE}")
    if (
        any(e.compress_type != zipfile.ZIP_STORED for e in entries)
        or sum(e.file_size for e in entries) > size
    ):
        raise UnsupportedModel(
            f"{file} is packed in a way in which torch.save packs no file; save it again"
        )


def _loaded(file: Path) -> Any:
    try:
        with _silence():
            return _torch().load(file, weights_only=True, map_location="cpu")
    except (MissingExtra, OSError):
        raise
    except Exception as error:  # the many ways in which a damaged file ends
        if (
            "GLOBAL" in str(error)
            or "TorchScript" in str(error)
            or "Unsupported class" in str(error)
        ):
            raise UnsupportedModel(f"{file} {CODE}") from None
        if isinstance(error, pickle.UnpicklingError):
            raise UnsupportedModel(f"{file} is damaged or no torch file, or {CODE}") from None
        reason = f": {_brief(error)}" if isinstance(error, RuntimeError) else ""
        raise UnsupportedModel(f"{file} is damaged or no torch file{reason}") from None


def _whole(tensor: Any, where: str, size: int) -> None:
    """A tensor must be dense, and the file must store each number that it declares."""
    torch = _torch()
    if not isinstance(tensor, torch.Tensor):
        return
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise UnsupportedModel(
            f"{where} is a sparse, quantised or empty tensor; save it dense and in floating point"
        )
    if tensor.numel() * tensor.element_size() > min(size, tensor.untyped_storage().nbytes()):
        raise UnsupportedModel(
            f"{where} declares {tensor.numel()} numbers but the file does not store as many"
        )


# Back to torch --------------------------------------------------------------------------------------------------


def to_torch(net: Network, *, dtype: torch.dtype | None = None) -> torch.nn.Sequential:
    """The network as `Linear` layers and activation modules, the output map last.

    Args:
        dtype: of the parameters; None is float64, which holds them exactly (`moduli.load` then
            gives the same digest, unless a hidden activation is the identity, which loading folds
            away). Others round to nearest.

    Raises:
        UnsupportedModel: the dtype is not floating, or a parameter overflows in it.
        MissingExtra: torch is not installed.

    >>> import numpy as np, torch
    >>> net = Network.mlp([[1.0, -2.0]], [0.5], [[3.0]], [0.0], activation="relu")
    >>> model = to_torch(net)
    >>> model
    Sequential(
      (0): Linear(in_features=2, out_features=1, bias=True)
      (1): ReLU()
      (2): Linear(in_features=1, out_features=1, bias=True)
    )
    >>> read_module(model) == net
    True
    """
    lib = _torch()
    dtype = lib.float64 if dtype is None else dtype
    if not dtype.is_floating_point:
        raise UnsupportedModel(
            f"parameters cannot be {dtype}; give a floating type, such as torch.float32"
        )
    modules = []
    for place, layer in enumerate(net.layers, 1):
        modules += [
            _linear_module(layer, dtype, f"layer {place}"),
            _activation_module(layer.activation),
        ]
    if net.output_map == "softmax":
        modules[-1] = lib.nn.Softmax(dim=-1)
    elif net.output_map == "identity":
        modules.pop()
    else:
        modules[-1] = _activation_module(Activation.of(net.output_map))
    return cast("torch.nn.Sequential", lib.nn.Sequential(*modules))


def _linear_module(layer: Any, dtype: Any, where: str) -> Any:
    torch = _torch()
    with _silence():  # a layer without units is fine
        module = torch.nn.utils.skip_init(torch.nn.Linear, *layer.weight.shape[::-1], dtype=dtype)
    for name in ("weight", "bias"):
        exact = torch.tensor(getattr(layer, name))
        near = exact.to(dtype)
        if not torch.isfinite(near).all():
            first = exact[~torch.isfinite(near)][0].item()
            raise UnsupportedModel(
                f"{where}: {name} holds {first}, beyond {dtype}; use torch.float64"
            )
        setattr(module, name, torch.nn.Parameter(near))
    return module


def _activation_module(activation: Activation) -> Any:
    nn = _torch().nn
    if activation.slope is not None:
        return nn.LeakyReLU(activation.slope)
    if activation.kind == "elu":
        return nn.ELU(activation.parameters[0])
    if activation.kind == "clip":
        return nn.Hardtanh(*activation.parameters)
    known = {
        "hardswish": nn.Hardswish, "mish": nn.Mish, "identity": nn.Identity, "relu": nn.ReLU,
        "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "silu": nn.SiLU,
        "softplus": nn.Softplus, "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    }  # fmt: skip
    return (
        known[activation.kind]()
        if activation.kind in known
        else __getattr__("Elementwise")(activation.kind)
    )


def __getattr__(name: str) -> Any:
    """Classes derived from torch's, made when first asked for, so that importing this module does
    not import torch.
    """
    if name != "Elementwise":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    torch = _torch()

    class Elementwise(torch.nn.Module):  # type: ignore[misc, name-defined]
        """A function of torch, such as ``erf``, as a module."""

        def __init__(self, function: str) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Any) -> Any:
            return getattr(torch, self.function)(x)

        def extra_repr(self) -> str:
            return self.function

    Elementwise.__qualname__ = "Elementwise"
    return globals().setdefault("Elementwise", Elementwise)
