"""Sums of products of integers over windows, exactly, for many points at a time.

Integers are held as float64, where products and sums of them are exact as long as no sum of sizes passes
2^53: whoever adds here has looked that sums stay within the 32 bits of a device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.errors import UnsupportedModel

Ints = np.ndarray[Any, np.dtype[np.int64]]
Whole = np.ndarray[Any, np.dtype[np.float64]]  # integers
ACCUMULATED = 2**31  # integers of a device's sums are below this


class Window(NamedTuple):
    """Of a convolution or a pool over two axes.

    Attributes:
        size, strides, dilations: along both axes. pads: before and behind each axis.
    """

    size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))


def seen(x: Any, window: Window, fill: int = 0) -> Any:
    """What windows see ``[batch, rows, columns, places, channels]`` of ``[batch, rows, columns,
    channels]``; `fill` where they see beyond.
    """
    if any(map(any, window.pads)):
        x = np.pad(x, ((0, 0), *window.pads, (0, 0)), constant_values=fill)
    counts = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(
            x.shape[1:3], window.size, window.strides, window.dilations, strict=True
        )
    ]
    if min(counts) < 1:
        raise UnsupportedModel(f"a window of {window.size} is larger than what it reads")
    ends = [(n - 1) * s + 1 for n, s in zip(counts, window.strides, strict=True)]
    rows, columns = (
        [slice(k * d, k * d + end, s) for k in range(size)]
        for size, d, end, s in zip(window.size, window.dilations, ends, window.strides, strict=True)
    )
    return np.stack([x[:, row, column] for row in rows for column in columns], axis=3)


def convolved(x: Whole, weight: Whole, window: Window, groups: int) -> Whole:
    """Sums ``[batch, rows, columns, out]`` of ``[batch, rows, columns, in]`` with weights ``[out,
    places, in / groups]``.
    """
    parts = seen(x, window)
    *front, places, channels = parts.shape
    out, own = len(weight), channels // groups
    parts = parts.reshape(*front, places, groups, own)
    parts = np.moveaxis(parts, -2, 0).reshape(groups, -1, places * own)
    rows = weight.reshape(groups, out // groups, places * own)
    sums = parts @ np.swapaxes(rows, 1, 2)
    found = np.moveaxis(sums.reshape(groups, *front, out // groups), 0, -2)
    return np.asarray(found.reshape(*front, out))


def largest_sums(weight: Whole, size: int, bias: Ints | None, where: str) -> Ints:
    """The largest size of each sum ``[out]`` of weights ``[out, ...]`` with integers up to `size`.

    Raises:
        UnsupportedModel: one may leave 32 bits, in some order.
    """
    sizes = np.abs(weight).reshape(len(weight), -1).sum(axis=1).astype(np.int64) * size
    if bias is not None:
        sizes = sizes + np.abs(bias.astype(np.int64))
    if sizes.max(initial=0) >= ACCUMULATED:
        unit = int(sizes.argmax())
        raise UnsupportedModel(
            f"{where}: the sum of unit {unit} may reach {int(sizes[unit])}, and wraps around in 32 bits"
        )
    return np.asarray(sizes)
