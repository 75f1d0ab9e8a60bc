"""Which weights of a module are hidden, and which belong to the output layer: its graph decides,
not the order in which its parameters were declared.

Every value on the way from inputs to outputs carries the matrices that it depends on, in two sets:
those met last (`front`: no further matrix between them and the value) and those before them
(`behind`). An operation that combines data with a matrix moves all it has seen behind; all other
operations unite what their arguments carry. At the outputs, `front` is the output layer and what is
left of `behind` is hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moduli.kernel.errors import ArgumentError, Asked

Matrices = frozenset[int]  # ids of parameters with two or more axes
NONE: Matrices = frozenset()


@dataclass(frozen=True)
class _Met:
    """What a value depends on.

    Attributes:
        data: whether it depends on the inputs. front, behind: matrices; a value without data
            carries its own in front.
    """

    data: bool
    front: Matrices = NONE
    behind: Matrices = NONE


def _combined(arguments: Iterable[_Met]) -> _Met:
    """What the value of an operation depends on."""
    met = list(arguments)
    data = [one for one in met if one.data]
    weights = NONE.union(*(one.front for one in met if not one.data))
    seen, before = NONE.union(*(m.front for m in data)), NONE.union(*(m.behind for m in data))
    if not data:
        return _Met(False, weights)
    if weights:
        return _Met(True, weights, before | seen)
    return _Met(True, seen, before)


def hidden_parameters(module: nn.Module, *inputs: Any) -> list[nn.Parameter]:
    """The weights with two or more axes between which and the outputs stands another weight: all
    layers but the output layer, as the graph of the module has it. They carry the noise.

    Without inputs the graph is traced symbolically; a module whose path depends on values needs a
    sample of its inputs, which is run through it once (nothing in the module changes).

    Args:
        module: any; frozen weights count as any others. inputs: what its `forward` takes.

    Returns:
        Parameters, in the order that the module holds them. Weights that the outputs do not depend
        on are not among them.

    Raises:
        ValueError: a graph that cannot be traced without inputs.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> [tuple(p.shape) for p in hidden_parameters(net)]
    [(8, 3)]
    """
    ends = _run(module, inputs) if inputs else _trace(module)
    last = NONE.union(*(end.front for end in ends if end.data))
    hidden = NONE.union(*(end.behind for end in ends)) - last
    return [p for p in module.parameters() if id(p) in hidden]


def _matrices(parameters: Iterable[Tensor]) -> Matrices:
    return frozenset(id(p) for p in parameters if p.ndim >= 2)


# With inputs: every operation is watched ----------------------------------------------------------


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what values depend on through the operations that are done."""

    def __init__(self, module: nn.Module, inputs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.met: dict[int, _Met] = {id(t): _Met(True) for t in _tensors(inputs)}
        self.met |= {id(p): _Met(False, _matrices([p])) for p in module.parameters()}
        self.alive: list[Tensor] = []  # an id is that of one tensor as long as it lives

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        nothing = _Met(False)
        found = _combined(self.met.get(id(t), nothing) for t in _tensors((args, kwargs)))
        for value in _tensors(out):
            self.met[id(value)] = found
            self.alive.append(value)
        return out


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


@torch.no_grad()
def _run(module: nn.Module, inputs: Any) -> list[_Met]:
    buffers = {name: b.clone() for name, b in module.named_buffers()}  # running means stay
    watch = _Watch(module, inputs)
    with torch.random.fork_rng(devices=[]), watch:
        out = torch.func.functional_call(module, buffers, inputs)
    return [watch.met.get(id(value), _Met(False)) for value in _tensors(out)]


# Without: a symbolic trace ------------------------------------------------------------------------


def _trace(module: nn.Module) -> list[_Met]:
    try:
        graph = torch.fx.Tracer().trace(module)
    except Exception as error:  # whatever the code of a module raises on symbols
        raise ArgumentError(
            Asked("inputs"), f"...: the graph of {type(module).__name__} cannot be traced without "
            f"them ({type(error).__name__}: {str(error)[:200]}); give a sample: ",
            "hidden_parameters(module, x)",
        ) from None  # fmt: skip
    met: dict[torch.fx.Node, _Met] = {}
    for node in graph.nodes:
        arguments = [met[n] for n in node.all_input_nodes]
        if node.op == "placeholder":
            met[node] = _Met(True)
        elif node.op == "get_attr":
            value = _attribute(module, str(node.target))
            met[node] = _Met(False, _matrices([value]) if isinstance(value, Tensor) else NONE)
        elif node.op == "call_module":
            inside = module.get_submodule(str(node.target)).parameters()
            met[node] = _combined([*arguments, _Met(False, _matrices(inside))])
        elif node.op == "output":
            return arguments
        else:
            met[node] = _combined(arguments)
    return []


def _attribute(module: nn.Module, path: str) -> Any:
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name)
    return value
