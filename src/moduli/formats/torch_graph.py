"""PyTorch modules as graphs: read through `torch.export`, run, rewritten with fewer units.

A module is read as the function that it is in evaluation mode, over the reals: dropout does
nothing, casts between floating types do nothing. First axes of inputs are batches of any size from
2 on, where the module lets them be. All of that happens to a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moduli.common.graph import Graph, NotWritable, Source
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.network import Network

from . import (
    torch_graph_operators,  # noqa: F401  its handlers register themselves
    torch_quantised,
)
from .torch_copy import settled
from .torch_graph_reader import TorchReader
from .torch_modules import _brief, _same_random_numbers
from .torch_programs import Example, exported, quiet, stored
from .torch_surgery import Surgeon

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]


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
        self.program = exported(module, example)
        self.quantised = torch_quantised.rounds(self.program)
        tensors = stored(self.program, module)
        self.reader = TorchReader(self.program, tensors)
        self.full = self.reader.read()
        self.model = self.full.live()
        self.integers = frozenset(x for x in self.model.inputs if not self.reader.floats[x])
        live = {name for node in self.model.nodes for name in node.outputs}
        opaque = [f"opaque: {text}" for name, text in self.reader.opaque.items() if name in live]
        owners = {fqn: fqn.rpartition(".")[0] for fqn, _ in tensors.values()}
        run = {owners[fqn] for fqn in self.full.constants if fqn in owners}
        idle = [part for part in dict.fromkeys(owners.values()) if part and part not in run]
        unread = [f"not run in evaluation mode, and left as it is: {part}" for part in idle]
        self.given_notes = tuple(notes)
        values = (node.meta.get("val") for node in self.program.graph.nodes)
        kinds = {getattr(value, "dtype", None) for value in values}
        self.formats = frozenset(
            str(kind).removeprefix("torch.") for kind in kinds if kind and kind.is_floating_point
        )
        sizes = [n for name in self.model.inputs for n in self.model.shapes[name] or ()]
        fixed = bool(sizes) and all(isinstance(n, int) for n in sizes)
        self.notes = (*notes, *([_one_size(self.model)] if fixed else []), *unread, *opaque)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the module in float64."""
        import torch
        from torch.utils import _pytree

        program = self.program
        inputs = [
            spec for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"
        ]
        kinds = {
            node.name: node.meta["val"].dtype
            for node in program.graph.nodes
            if node.op == "placeholder" and hasattr(node.meta.get("val"), "dtype")
        }
        flat = []
        for spec in inputs:
            name = self.reader.named(spec.arg.name)
            if name not in feeds:
                flat.append(spec.arg.value)
                continue
            x = torch.from_numpy(np.array(feeds[name]))
            kind = kinds[spec.arg.name]
            flat.append(x.double() if kind.is_floating_point else x.to(kind))
        args, kwargs = _pytree.tree_unflatten(flat, program.call_spec.in_spec)
        try:
            with quiet(), torch.no_grad():
                if self.quantised:
                    found = torch_quantised.run_wide(program, flat)
                else:
                    wide = copy.deepcopy(self.module).cpu().double()
                    found = wide(*args, **kwargs)
        except Exception as error:  # whatever the module raises
            raise UnsupportedModel(
                f"{self.where} does not run in float64: {_brief(error)}"
            ) from None
        outputs = [x for x in _pytree.tree_flatten(found)[0] if hasattr(x, "shape")]
        return {
            name: x.detach().numpy() for name, x in zip(self.model.outputs, outputs, strict=True)
        }

    def rewritten(self, wanted: GraphModel, renamed: Mapping[str, str]) -> Graph:
        """The module with smaller tensors, exported and read again.

        Raises:
            NotWritable: `forward` does not let it be; names tensors whose sizes are in the way.
        """
        if self.quantised:
            raise NotWritable(f"{self.where} is quantised: read, and not written", ())
        source = Surgeon(self, wanted).smaller(self._again)
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
    torch_quantised.require_readable(module)
    modes = {path: part.training for path, part in module.named_modules()}
    plain, computed = settled(module)
    with _same_random_numbers(name):
        source = TorchSource(
            plain, Example.of(sample_inputs), [found.note for found in computed], modes
        )
    return Graph(source.model, source)


def read_for_shape(module: torch.nn.Module, shape: int | Sequence[int]) -> Graph:
    """The graph of a module of one input, of a shape without the batch axis."""
    import torch

    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    return read_module(module, torch.zeros((2, *sizes)))


def _one_size(model: GraphModel) -> str:
    shapes = ", ".join(f"{name} {model.shapes[name]}" for name in model.inputs)
    return f"read for inputs of these shapes alone: {shapes}"
