"""How much of a convolutional network can go: the same measurements as of dense ones, a unit being a
filter.

A filter is the row of its entries; what it does not see is what is across the span of the patches of
its inputs. A filter that is left out gives zero, and so does ReLU of it, so that it is as if it and
what reads it were not there: masks do what removal would do.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .measures import ROWS, choices, measured
from .pruning import span_of, visible_by

Array = np.ndarray[Any, np.dtype[np.float64]]
BATCH = 500  # samples at a time
SAMPLES = 2000  # of which patches are looked at


def measure(module: Any, x: Any, x_test: Any, y_test: Any, *, seed: int = 0) -> dict[str, Any]:
    """Everything that must stand beside a prunable share of filters.

    Args:
        module: as `convolutional` makes it. x, x_test: [samples, channels, height, width].
    """
    filters = [layer for layer in module if isinstance(layer, nn.Conv2d)]
    rows = [_rows(layer.weight) for layer in filters]
    spans, contributed = _looked_at(module, x)
    seen = [visible_by(w, basis) for w, basis in zip(rows, spans, strict=True)]
    asked = choices(seen, contributed, seed)
    outputs = [_outputs(_masked(module, units), x_test) for units in asked]
    return measured(seen[0], rows[0], outputs, y_test, _share_kept(module, asked[1]))


def span_of_patches(x: Any) -> Array:
    """An orthonormal basis of the span of the patches of images, [entries, dimension]."""
    total = sum((_products(some) for some in _batches(x[:SAMPLES])), start=torch.zeros(()))
    return span_of(total.numpy())


def _rows(weight: Tensor) -> Array:
    return weight.detach().double().flatten(1).numpy()


def _batches(x: Any) -> Iterator[Tensor]:
    return (torch.from_numpy(x[at : at + BATCH]) for at in range(0, len(x), BATCH))


def _products(h: Tensor) -> Tensor:
    """Inner products of the entries of all patches, [entries, entries]."""
    patches = nn.functional.unfold(h.double(), 3, padding=1)
    return torch.einsum("nip,njp->ij", patches, patches)


@torch.no_grad()
def _looked_at(module: Any, x: Any) -> tuple[list[Array], list[Array]]:
    """Of each layer of filters, a basis of what they see, and what each contributes: its mean square
    before ReLU times the squares of the weights that read it.
    """
    places = [k for k, layer in enumerate(module) if isinstance(layer, nn.Conv2d)]
    products = [torch.zeros(()) for _ in places]
    squares = [torch.zeros(()) for _ in places]
    for number, h in enumerate(_batches(x[:ROWS])):
        for k, layer in enumerate(module):
            if k in places and number * BATCH < SAMPLES:
                products[places.index(k)] = products[places.index(k)] + _products(h)
            h = layer(h)
            if k in places:
                at = places.index(k)
                squares[at] = squares[at] + h.double().square().sum(dim=(0, 2, 3))
    found = []
    readers = [layer for layer in module if isinstance(layer, (nn.Conv2d, nn.Linear))][1:]
    for total, reader in zip(squares, readers, strict=True):
        weight = reader.weight.double()
        outgoing = weight.reshape(len(weight), len(total), -1).square().sum(dim=(0, 2))
        found.append((outgoing * total / min(len(x), ROWS)).numpy())
    return [span_of(part.numpy()) for part in products], found


@torch.no_grad()
def _masked(module: Any, units: Sequence[Any]) -> Any:
    """A copy in which all but some filters of each layer are zero."""
    copied = copy.deepcopy(module)
    filters = [layer for layer in copied if isinstance(layer, nn.Conv2d)]
    for layer, some in zip(filters, units, strict=True):
        gone = torch.ones(len(layer.weight), dtype=torch.bool)
        gone[torch.as_tensor(np.asarray(some, dtype=np.int64))] = False
        layer.weight[gone] = 0.0
        if layer.bias is not None:
            layer.bias[gone] = 0.0
    return copied


@torch.no_grad()
def _outputs(module: Any, x: Any) -> Array:
    return np.concatenate([module(some).double().numpy() for some in _batches(x)])


def _share_kept(module: Any, units: Sequence[Any]) -> float:
    """Parameters that are left without the other filters, of all."""
    filters = [layer for layer in module if isinstance(layer, nn.Conv2d)]
    last = next(layer for layer in module if isinstance(layer, nn.Linear))
    kept, before = 0, filters[0].in_channels
    for layer, some in zip(filters, units, strict=True):
        kept += len(some) * (9 * before + (layer.bias is not None))
        before = len(some)
    positions = last.in_features // filters[-1].out_channels
    kept += last.out_features * (before * positions + (last.bias is not None))
    return float(kept / sum(p.numel() for p in module.parameters()))
