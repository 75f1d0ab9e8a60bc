"""Copies of torch modules in which every parameter is a stored tensor: pruned, normalised,
parametrised weights computed.

A module under `torch.nn.utils.prune`, weight normalisation, spectral normalisation or any
parametrisation computes its weight before each use. Its function in evaluation mode is that of the
same module with these weights stored; torch's own functions for making them permanent are applied
to a copy, and the module that was given stays as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from moduli.kernel.errors import UnsupportedModel

if TYPE_CHECKING:
    import torch

WAYS_OUT = (
    "make it permanent first: torch.nn.utils.prune.remove, torch.nn.utils.remove_weight_norm, "
    "torch.nn.utils.remove_spectral_norm or torch.nn.utils.parametrize.remove_parametrizations"
)


class Computed(NamedTuple):
    """A parameter that a module computes before it is used."""

    module: str
    parameter: str
    by: str

    @property
    def note(self) -> str:
        name = f"{self.module}.{self.parameter}" if self.module else self.parameter
        return f"{name} is read as torch computes it in evaluation mode ({self.by})"


def copied(module: torch.nn.Module) -> torch.nn.Module:
    """A deep copy, of modules with computed weights as well, which `copy.deepcopy` alone refuses.

    Raises:
        UnsupportedModel: something in the module cannot be copied.

    >>> import torch
    >>> from torch.nn.utils import prune
    >>> layer = prune.l1_unstructured(torch.nn.Linear(4, 4), "weight", amount=0.5)
    >>> bool((copied(layer).weight == layer.weight).all())
    True
    """
    memo = {
        id(value): value.detach().clone() for part in module.modules() for value in _derived(part)
    }
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # whatever the user's objects raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UnsupportedModel(
            f"{type(module).__name__} cannot be copied ({first}), and reading must not change it; "
            "pass one that copy.deepcopy takes, or export the model to ONNX"
        ) from None


def _derived(part: Any) -> Iterator[Any]:
    """Tensors of a module with a history of gradients, which no copy may share."""
    for value in (*vars(part).values(), *part._buffers.values()):
        if hasattr(value, "detach") and value.requires_grad and not value.is_leaf:
            yield value


def settled(module: torch.nn.Module) -> tuple[torch.nn.Module, list[Computed]]:
    """A copy in evaluation mode whose parameters are all stored, and which of them were computed.

    Raises:
        UnsupportedModel: the module cannot be copied, or one of its parameters not be made
            permanent.

    >>> import torch
    >>> layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2))
    >>> plain, computed = settled(layer)
    >>> type(plain).__name__, [c.note for c in computed]
    ('Linear', ['weight is read as torch computes it in evaluation mode (_WeightNorm)'])
    """
    import torch

    new = copied(module)
    for part in new.modules():
        part.training = False
    found: list[Computed] = []
    with torch.no_grad():
        for name, part in list(new.named_modules()):
            if not isinstance(part, torch.nn.utils.parametrize.ParametrizationList):
                found += _settle(part, name)
    return new, found


def _settle(part: Any, name: str) -> list[Computed]:
    try:
        return [*_without_hooks(part, name), *_without_parametrizations(part, name)]
    except Exception as error:  # of torch, or of the user's parametrisation
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UnsupportedModel(
            f"{name or type(part).__name__}: a computed parameter ({first}); {WAYS_OUT}"
        ) from None


def unpruned(part: Any, name: str) -> list[Computed]:
    """Make the masks of `torch.nn.utils.prune` on a module permanent, in place."""
    from torch.nn.utils import prune

    hooks = [
        hook
        for hook in part._forward_pre_hooks.values()
        if isinstance(hook, prune.BasePruningMethod)
    ]
    found = []
    for hook in hooks:
        found.append(
            Computed(name, hook._tensor_name, f"torch.nn.utils.prune: {type(hook).__name__}")
        )
        prune.remove(part, hook._tensor_name)  # type: ignore[no-untyped-call]
    return found


def _without_hooks(part: Any, name: str) -> list[Computed]:
    """Make masks, weight norm and spectral norm that work by hooks permanent, in place."""
    from torch.nn.utils import remove_spectral_norm, remove_weight_norm
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    found = unpruned(part, name)
    for hook in list(part._forward_pre_hooks.values()):
        if isinstance(hook, (WeightNorm, SpectralNorm)):
            remove = remove_weight_norm if isinstance(hook, WeightNorm) else remove_spectral_norm
            remove(part, hook.name)
            found.append(Computed(name, hook.name, type(hook).__name__))
    return found


def _without_parametrizations(part: Any, name: str) -> list[Computed]:
    """Make parametrised tensors permanent, in place."""
    from torch.nn.utils import parametrize

    if not parametrize.is_parametrized(part):
        return []
    _with_own_class(part)
    found = []
    for tensor, steps in list(part.parametrizations.items()):
        found.append(Computed(name, tensor, ", ".join(type(step).__name__ for step in steps)))
        parametrize.remove_parametrizations(part, tensor, leave_parametrized=True)
    return found


def _with_own_class(part: Any) -> None:
    """Parametrised tensors are properties of a class that a copy shares with the module it was
    copied from.
    """
    shared = type(part)
    members = {
        name: value
        for name, value in vars(shared).items()
        if name not in ("__dict__", "__weakref__")
    }
    part.__class__ = type(shared.__name__, shared.__bases__, members)
