"""PyTorch: a module without the units that its function does not need, with a proof."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from moduli.common.arguments import question
from moduli.common.progress import Progress
from moduli.formats.torch_graph import read_module
from moduli.kernel.box import Box

from .graph_results import GraphCompression, compress

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False, repr=False)
class Pruned(GraphCompression):
    """A smaller module with the same function.

    Attributes:
        module: the new module; the given one is untouched. axes: the table. refused: why axes were
            left as they are although units of them are not needed: what `forward` does not let be.
    """

    kind: ClassVar[str] = "prune"

    def __iter__(self) -> Iterator[Any]:
        """``module, table = prune_dead(...)``."""
        return iter((self.module, self.axes))


@question
def prune_dead(
    module: torch.nn.Module,
    sample_inputs: Any,
    *,
    on: Box | None = None,
    budget: int = 10_000,
    progress: Progress | None = None,
) -> Pruned:
    """Leave out channels, units, heads and coordinates that a module's function does not need.

    The new module has the same classes and the same `forward`, smaller tensors under the same names,
    and in evaluation mode the same outputs for all inputs, over the reals: units that are zero,
    constant, unread or multiples of others go. Sums that the stored type cannot hold are rounded
    where a bound of what that does is known: `slack`. The certificate says so of the two modules as
    `read_module` reads them; `check` replays it. Masks of
    `torch.nn.utils.prune`, weight norm and other parametrisations are made permanent in the new
    module, and it has the hooks that the given one has otherwise.

    Args:
        sample_inputs: a tensor, a tuple of arguments or a dict of keyword arguments: only shapes and
            types matter.
        on: a box of inputs on which the outputs have to be the same; None for all inputs.
        budget: how many axes are looked at, at most.

    Raises:
        UnsupportedModel: torch cannot export the module, or it is no function of its inputs.
        ShapeError: the box does not fit the inputs.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 3))
    >>> with torch.no_grad():
    ...     _ = net[2].weight[:, 5:].zero_()
    >>> small, table = prune_dead(net, torch.zeros(2, 3, 8, 8))
    >>> small[0], table[0].before, table[0].after
    (Conv2d(3, 5, kernel_size=(3, 3), stride=(1, 1)), 8, 5)
    """
    graph = read_module(module, sample_inputs)
    found = compress(graph, on, budget, progress)
    return Pruned(**{field.name: getattr(found, field.name) for field in fields(found)})
