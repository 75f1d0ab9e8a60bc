"""PyTorch modules as graphs: read through `torch.export`, run, rewritten with fewer units.

A module is read as the function that it is in evaluation mode, over the reals: dropout does
nothing, casts between floating types do nothing. First axes of inputs are batches of any size from
2 on, where the module lets them be. All of that happens to a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moduli.common.graph import Graph, Source
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.graph.certificate import GraphMove
from moduli.kernel.graph.facts import Ranges
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.network import Network

from . import torch_graph_operators  # noqa: F401  its handlers register themselves
from .torch_copy import settled
from .torch_graph_reader import TorchReader, gives_tensors, kind_of
from .torch_modules import _brief, _same_random_numbers, _silence
from .torch_surgery import Surgeon

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]
# What torch defines by operators that are understood.
COMPOSED = {"aten::einsum", "aten::tensordot", "aten::inner", "aten::linalg_multi_dot"}
FEWEST = 2  # a batch of one could be told apart from an axis that is broadcast


@dataclass
class Example:
    """Arguments of a module, as `torch.export` wants them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @staticmethod
    def of(sample_inputs: Any) -> Example:
        """A tensor, a tuple of arguments, a dict of keyword arguments, or a list of such batches, of
        which the first is taken.
        """
        first = (
            sample_inputs[0] if isinstance(sample_inputs, list) and sample_inputs else sample_inputs
        )
        if isinstance(first, Mapping):
            return Example((), dict(first))
        return Example(tuple(first) if isinstance(first, (tuple, list)) else (first,), {})

    def tensors(self) -> list[Any]:
        from torch.utils import _pytree

        flat, _ = _pytree.tree_flatten((self.args, self.kwargs))
        return [x for x in flat if hasattr(x, "shape")]

    def map(self, fn: Any) -> Example:
        from torch.utils import _pytree

        args, kwargs = _pytree.tree_map(
            lambda x: fn(x) if hasattr(x, "shape") else x, (self.args, self.kwargs)
        )
        return Example(args, kwargs)


class TorchSource(Source):
    """A module, as `moduli.common.graph.Source` asks.

    Attributes:
        module: a copy in evaluation mode, with computed parameters stored.
        full: the graph with what no output needs; a module computes it all the same.
        modes: which parts of the module that was given were in training mode.
    """

    bypasses = False  # `forward` adds what it adds

    def __init__(
        self, module: Any, example: Example, notes: Sequence[str], modes: Mapping[str, bool]
    ) -> None:
        self.module, self.example, self.modes = module, example, modes
        self.where = type(module).__name__
        self.program = _exported(module, example)
        self.reader = TorchReader(self.program, _stored(self.program, module))
        self.full = self.reader.read()
        self.model = self.full.live()
        self.integers = frozenset(x for x in self.model.inputs if not self.reader.floats[x])
        live = {name for node in self.model.nodes for name in node.outputs}
        opaque = [f"opaque: {text}" for name, text in self.reader.opaque.items() if name in live]
        self.given_notes = tuple(notes)
        sizes = [n for name in self.model.inputs for n in self.model.shapes[name] or ()]
        fixed = bool(sizes) and all(isinstance(n, int) for n in sizes)
        self.notes = (*notes, *([_one_size(self.model)] if fixed else []), *opaque)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the module in float64."""
        import torch
        from torch.utils import _pytree

        program = self.program
        inputs = [
            spec for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"
        ]
        flat = []
        for spec in inputs:
            name = self.reader.named(spec.arg.name)
            if name not in feeds:
                flat.append(spec.arg.value)
                continue
            flat.append(torch.from_numpy(np.ascontiguousarray(feeds[name])))
        args, kwargs = _pytree.tree_unflatten(flat, program.call_spec.in_spec)
        wide = copy.deepcopy(self.module).cpu().double()
        try:
            with _quiet(), torch.no_grad():
                found = wide(*args, **kwargs)
        except Exception as error:  # whatever the module raises
            raise UnsupportedModel(
                f"{self.where} does not run in float64: {_brief(error)}"
            ) from None
        outputs = [x for x in _pytree.tree_flatten(found)[0] if hasattr(x, "shape")]
        return {
            name: x.detach().numpy() for name, x in zip(self.model.outputs, outputs, strict=True)
        }

    def rewritten(
        self,
        wanted: GraphModel,
        renamed: Mapping[str, str],
        rounds: Sequence[Sequence[GraphMove]] = (),
        ranges: Ranges | None = None,
    ) -> Graph:
        """The module with smaller tensors, exported and read again.

        Args:
            wanted: the graph that is to be read. rounds: the moves that lead to it, which say what
                becomes of parts that no output needs. ranges: bounds that the moves need.

        Raises:
            NotWritable: `forward` does not let it be; names tensors whose sizes are in the way.
        """
        source = Surgeon(self, wanted, rounds, ranges or {}).smaller(self._again)
        return Graph(source.model, source)

    def _again(self, module: Any) -> TorchSource:
        return TorchSource(module, self.example, self.given_notes, self.modes)

    def result(self) -> torch.nn.Module:
        """The module, to be given away: its parts are in the modes in which they were."""
        new = copy.deepcopy(self.module)
        for name, part in new.named_modules():
            part.training = self.modes.get(name, False)
        found: torch.nn.Module = new
        return found

    def chain(self) -> Network:
        raise UnsupportedModel("load(module, input_shape=...) reads a module as a chain")

    def save(self, path: Path) -> Path:
        raise UnsupportedModel(
            f"{path}: a graph of a torch module is no file; torch.save the module's state_dict"
        )


def read_module(module: torch.nn.Module, sample_inputs: Any) -> Graph:
    """The graph of a module in evaluation mode; the module stays as it was.

    Masks of `torch.nn.utils.prune`, weight norm and other parametrisations are applied as torch does
    in evaluation mode, which is noted. What is not understood is opaque: a function of which nothing
    is assumed.

    Args:
        sample_inputs: a tensor, a tuple of arguments or a dict of keyword arguments. Only shapes and
            types matter; batches of any size from 2 on are meant where the module takes them.

    Raises:
        UnsupportedModel: torch cannot export the module, or it is no function of its inputs.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1))
    >>> graph = read_module(net, torch.zeros(2, 3, 8, 8))
    >>> graph
    Graph(3 operators, 242 parameters, input -> conv2d_1)
    >>> [(axis.name, axis.size) for axis in graph.axes if axis.frozen is None]
    [('0.weight', 8)]
    """
    import torch

    name = type(module).__name__
    if not isinstance(module, torch.nn.Module) or isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModel(
            f"{name} is no torch.nn.Module in Python; pass the module it was made from"
        )
    tensors = [*module.parameters(), *module.buffers()]
    if any(t.is_meta or torch.nn.parameter.is_lazy(t) for t in tensors):
        raise UnsupportedModel(
            f"{name} has parameters without values (lazy, or on the meta device); load them first"
        )
    modes = {path: part.training for path, part in module.named_modules()}
    plain, computed = settled(module)
    with _same_random_numbers(name):
        source = TorchSource(
            plain, Example.of(sample_inputs), [found.note for found in computed], modes
        )
    return Graph(source.model, source)


@contextmanager
def _quiet() -> Iterator[None]:
    """No noise, and modules of torch on the path that their Python code describes."""
    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with _silence():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _exported(module: Any, example: Example) -> Any:
    """The program of a module, with batches of any size where that can be.

    Raises:
        UnsupportedModel: torch cannot follow the module, or it changes something.
    """
    import torch

    wide = example.map(_wider)
    tries = [(wide, True), (example, True), (example, False)]
    first: Exception | None = None
    for tried, any_size in tries:
        try:
            with _quiet(), torch.no_grad():
                program = _export(module, tried, any_size)
            break
        except UnsupportedModel:
            raise
        except Exception as error:  # whatever torch raises
            first = first or error
    else:
        assert first is not None
        raise UnsupportedModel(
            f"torch.export cannot follow {type(module).__name__}: {_brief(first)}; "
            "control flow must not depend on the data"
        )
    for spec in program.graph_signature.output_specs:
        if spec.kind.name != "USER_OUTPUT":
            raise UnsupportedModel(
                f"{type(module).__name__} changes {spec.target!r} when evaluated; it must not"
            )
    return program


def _export(module: Any, example: Example, any_size: bool) -> Any:
    import torch

    shapes = None
    if any_size:
        dims = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
        first = [getattr(part, "batch_first", True) for part in module.modules()]
        axes = (0,) if all(first) else (0, 1)
        for tensor in example.tensors():
            dims[tensor] = {axis: torch.export.Dim.AUTO for axis in axes if axis < tensor.ndim}
        shapes = dims.dynamic_shapes(module, example.args, example.kwargs)  # type: ignore[no-untyped-call]
    program = torch.export.export(
        module, example.args, example.kwargs, dynamic_shapes=shapes, strict=False
    )
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    targets = [node.target for node in calls if gives_tensors(node.meta.get("val"))]
    mutable = any(getattr(getattr(t, "_schema", None), "is_mutable", False) for t in targets)
    composed = {t for t in targets if kind_of(t) in COMPOSED}
    if mutable or composed:
        rules = torch.export.default_decompositions() if composed else {}
        program = program.run_decompositions({t: rules[t] for t in composed})
    return program


def _wider(tensor: Any) -> Any:
    """At least two samples: a batch of one would be read as that."""
    import torch

    if tensor.ndim == 0 or tensor.shape[0] != 1:
        return tensor
    return torch.cat([tensor] * FEWEST)


def _one_size(model: GraphModel) -> str:
    shapes = ", ".join(f"{name} {model.shapes[name]}" for name in model.inputs)
    return f"read for inputs of these shapes alone: {shapes}"


def _stored(program: Any, module: Any) -> dict[str, tuple[str, Any]]:
    """Names in the state dict and tensors by the names of placeholders; a shared one has one name."""
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    tensors, first = dict(named), dict[int, str]()
    for name, tensor in named:
        first.setdefault(id(tensor), name)
    found = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind.name in ("PARAMETER", "BUFFER"):
            tensor = tensors[spec.target]
            found[spec.arg.name] = (first[id(tensor)], tensor)
        elif spec.kind.name == "CONSTANT_TENSOR":
            found[spec.arg.name] = (spec.target, program.constants[spec.target])
    return found
