"""A torch module with fewer units: the same module, `forward` untouched, with smaller tensors.

Parameters and buffers are replaced in a copy; numbers of channels and the like that torch's own
layers keep follow from them. A `forward` that was written by hand may use numbers kept by its module
(``x.view(n, t, self.heads, self.width)``): integers that are equal to a size that changed are tried,
the fewest first. Numbers written into `forward` cannot change.

Nothing here is believed: the module is exported and read again, and has to be the graph that was
wanted.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from moduli.common.graph import NotWritable
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Linear, Place

from .torch_graph_reader import tensor_of
from .torch_idle_parts import cut, sizes_with_idle_parts
from .torch_modules import _brief
from .torch_programs import quiet, unchanged

Tensor = np.ndarray[Any, np.dtype[Any]]
Choice = dict[str, int]
TRIES = 64  # of integers that a module keeps


class Surgeon:
    """Rewrites one module.

    Args:
        source: a `torch_graph.TorchSource`. wanted: the graph to be read afterwards.
    """

    def __init__(self, source: Any, wanted: GraphModel) -> None:
        self.source, self.wanted = source, wanted
        self.homes: Mapping[str, str] = source.reader.homes
        self.full: GraphModel = source.full
        self.shapes = sizes_with_idle_parts(self.full, wanted)
        self.changed = self._changed_places()
        self.choices = self._choices()

    def smaller(self, read: Callable[[Any], Any]) -> Any:
        """The smaller module, as `read` gives it.

        Raises:
            NotWritable: no choice of integers makes it the wanted one.
        """
        at = dict.fromkeys(self.choices, 0)
        for _ in range(TRIES):
            found, blamed, tensors, why = self._tried(self._made(at), read)
            if found is not None:
                return found
            path = self._nearest(blamed)
            if path is None or at[path] + 1 >= len(self.choices[path]):
                raise NotWritable(self._text(blamed, why), self._in_the_way(blamed, tensors))
            at[path] += 1
        raise NotWritable(self._text("", "too many integers could be meant"), ())

    # Parts

    def _changed_places(self) -> set[Place]:
        found = set()
        for name, shape in self.shapes.items():
            for axis, (n, old) in enumerate(zip(shape, self.full.shapes[name] or (), strict=True)):
                if n != old:
                    found.add((name, axis))
        return found

    def _made(self, at: Mapping[str, int]) -> Any:
        """A copy with the wanted tensors and chosen integers."""
        memo = dict[int, Any]()
        named = dict([*self.source.module.named_parameters(), *self.source.module.named_buffers()])
        for name, tensor in named.items():
            new = self._array(name)
            memo[id(tensor)] = tensor if new is None else _replaced(tensor, new)
        module = copy.deepcopy(self.source.module, memo)
        for path, part in module.named_modules():
            _fit(part, self._groups(path))
        for path, k in at.items():
            for name, n in self.choices[path][k].items():
                setattr(module.get_submodule(path), name, n)
        return module

    def _array(self, name: str) -> Tensor | None:
        """What a stored tensor is to hold; None where it stays."""
        old, new = self.full.constants.get(name), self.wanted.constants.get(name)
        if new is not None:
            return None if new is old else new
        if old is None or old.shape == self.shapes[name]:
            return None
        return cut(old, self.shapes[name])

    def _groups(self, path: str) -> int | None:
        """Of the convolution at a path, where it has one group for each channel."""
        for node in self.full.nodes:
            if isinstance(node.op, Linear) and self.homes.get(node.output) == path:
                there = self.wanted.makers.get(node.output)
                if there is not None and isinstance(there.op, Linear):
                    return there.op.groups
                channels = self.full.shapes[node.inputs[0]] or ()
                single = node.op.groups > 1 and node.op.groups == channels[node.op.reads]
                now = self.shapes[node.inputs[0]][node.op.reads]
                return now if single and isinstance(now, int) else node.op.groups
        return None

    def _choices(self) -> dict[str, list[Choice]]:
        """For each module of a class that is not torch's: which of its integers could change, the
        fewest first.
        """
        pairs: dict[str, dict[int, list[int]]] = {}
        for name, axis in sorted(self.changed):
            path = self.homes.get(name)
            old, new = self.full.shapes[name] or (), self.shapes[name]
            if path is not None and isinstance(old[axis], int) and isinstance(new[axis], int):
                targets = pairs.setdefault(path, {}).setdefault(int(old[axis]), [])
                if int(new[axis]) not in targets:
                    targets.append(int(new[axis]))
        found = {}
        for path, sizes in pairs.items():
            part = self.source.module.get_submodule(path)
            if type(part).__module__.startswith("torch.nn."):
                continue
            names = [
                name
                for name, value in vars(part).items()
                if type(value) is int and not name.startswith("_") and value in sizes
            ]
            options = [[vars(part)[name], *sizes[vars(part)[name]]] for name in names[:6]]
            every = [
                dict(zip(names, numbers, strict=False)) for numbers in itertools.product(*options)
            ]
            every = [{n: v for n, v in c.items() if v != vars(part)[n]} for c in every[: TRIES * 4]]
            found[path] = sorted(every, key=len)
        return found

    def _tried(self, module: Any, read: Callable[[Any], Any]) -> tuple[Any, str, list[str], str]:
        """The module as it is read, where that is what is wanted; else where it is not, at which
        tensors, and why.
        """
        place, error = self._run(module)
        if error:
            return None, place, [], error
        try:
            found = read(module)
        except UnsupportedModel as failure:
            return None, "", [], str(failure)
        if found.model.digest == self.wanted.digest:
            return found, "", [], ""
        why = "it is read as another graph"
        there = found.model.makers
        for node in self.wanted.nodes:
            other = there.get(node.output)
            same = other is not None and node.op == other.op
            if not same or self.wanted.shapes[node.output] != found.model.shapes[node.output]:
                names = [node.output, *node.inputs]
                return None, self.homes.get(node.output, ""), names, why
        return None, "", [], why

    def _run(self, module: Any) -> tuple[str, str]:
        """Run the module; the path of the innermost one that fails, and how."""
        import torch

        def left(*_: Any) -> None:
            stack.pop()

        paths = {id(part): path for path, part in module.named_modules()}
        stack = [""]
        before = torch.nn.modules.module.register_module_forward_pre_hook(
            lambda part, _: stack.append(paths.get(id(part), stack[-1]))
        )
        after = torch.nn.modules.module.register_module_forward_hook(left)
        try:
            with quiet(), unchanged(module), torch.no_grad():
                module(*self.source.example.args, **self.source.example.kwargs)
        except Exception as error:  # whatever `forward` raises
            return stack[-1], _brief(error)
        finally:
            before.remove()
            after.remove()
        return "", ""

    # Who is to blame

    def _nearest(self, path: str) -> str | None:
        """The innermost module around a place whose integers can change."""
        while True:
            if path in self.choices:
                return path
            if not path:
                return None
            path = path.rpartition(".")[0]

    def _in_the_way(self, path: str, tensors: Sequence[str]) -> tuple[str, ...]:
        """Tensors whose sizes the module at a path does not let change."""
        changed = {name for name, _ in self.changed}
        named = [name for name in tensors if name in changed]
        return tuple(named)

    def _text(self, path: str, why: str) -> str:
        where = f" in {path!r}" if path else ""
        return f"forward of {self.source.where} does not work with fewer units{where}: {why}"


def _replaced(tensor: Any, array: Tensor) -> Any:
    import torch

    new = tensor_of(array, tensor)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new


def _fit(part: Any, groups: int | None) -> None:
    """What layers of torch keep beside their tensors."""
    import torch

    weight: Any = getattr(part, "weight", None)
    if isinstance(part, torch.nn.Linear) and weight is not None:
        part.out_features, part.in_features = weight.shape
    elif isinstance(part, torch.nn.modules.conv._ConvNd):
        part.groups = part.groups if groups is None else groups
        first, second = weight.shape[0], weight.shape[1] * part.groups
        transposed = part.transposed
        part.in_channels, part.out_channels = (first, second) if transposed else (second, first)
    elif isinstance(part, torch.nn.modules.batchnorm._NormBase):
        one = part.running_mean if weight is None else weight
        part.num_features = part.num_features if one is None else len(one)
    elif isinstance(part, torch.nn.Embedding):
        part.num_embeddings, part.embedding_dim = weight.shape
    elif isinstance(part, torch.nn.PReLU):
        part.num_parameters = weight.numel()
