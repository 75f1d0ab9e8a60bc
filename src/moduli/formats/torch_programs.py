"""Programs of torch modules: what `torch.export` makes of them, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from moduli.kernel.errors import UnsupportedModel

from .torch_graph_reader import gives_tensors, kind_of
from .torch_modules import _brief, _silence

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
        if isinstance(sample_inputs, list) and not sample_inputs:
            raise ValueError("sample_inputs is an empty list; give at least one batch")
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


@contextmanager
def unchanged(module: Any) -> Iterator[None]:
    """What `forward` writes into its modules is taken back: tensors of a trace are no tensors."""
    before = [(part, dict(vars(part))) for part in module.modules()]
    try:
        yield
    finally:
        for part, state in before:
            part.__dict__.clear()
            part.__dict__.update(state)


@contextmanager
def quiet() -> Iterator[None]:
    """No noise, and modules of torch on the path that their Python code describes."""
    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with _silence():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def exported(module: Any, example: Example) -> Any:
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
            with quiet(), unchanged(module), torch.no_grad():
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


def stored(program: Any, module: Any) -> dict[str, tuple[str, Any]]:
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
