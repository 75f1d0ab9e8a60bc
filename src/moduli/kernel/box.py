"""A box of inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64

from .errors import ShapeError

Array = np.ndarray[Any, np.dtype[np.float64]]


def _finite(name: str, value: Any) -> Array:
    array = np.array(value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ShapeError(
            f"{name} holds {array[~np.isfinite(array)].flat[0]}; every entry must be finite"
        )
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Box:
    """A box of inputs, compared in sup norm.

    Args:
        low, high: scalars (broadcast to any dimension), vectors ``[in]``, or arrays of an input's
            shape without the batch axis, which are broadcast against each other and kept flattened,
            row by row.
        hull_of: boxes whose hull this is, where only these are meant; see `branches`.
        notes: in which ways the box is larger than what it was made of (a VNN-LIB file with
            alternatives, ...).

    Raises:
        ShapeError: shapes that do not fit, a number that is not finite, or a low end above the high
            one.

    >>> Box(-1, 1).of_dimension(2).high
    array([1., 1.])
    >>> Box([[0, 0], [1, 1]], [[2], [3]])
    Box([0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0])
    """

    low: Any
    high: Any
    hull_of: tuple[Box, ...] = field(default=(), kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    from_vnnlib: ClassVar[
        Callable[[str | Path], Box]
    ]  # a reader of files, set by `vnnlib`: nothing here reads any

    def __post_init__(self) -> None:
        low, high = _finite("low", self.low), _finite("high", self.high)
        try:
            wide_low, wide_high = np.broadcast_arrays(low, high)
        except ValueError:
            raise ShapeError(
                f"low has shape {low.shape} but high {high.shape}; give one shape, or one number"
            ) from None
        above = np.ravel(wide_low > wide_high)
        if above.any():
            at = int(np.argmax(above))
            raise ShapeError(
                f"low {wide_low.flat[at]} exceeds high {wide_high.flat[at]} at input {at}; give the lower one first"
            )
        if wide_low.ndim > 1:
            low, high = _finite("low", wide_low.ravel()), _finite("high", wide_high.ravel())
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        object.__setattr__(self, "hull_of", tuple(self.hull_of))
        object.__setattr__(self, "notes", tuple(self.notes))

    def __repr__(self) -> str:
        said = "".join(f", {note}" for note in self.notes)
        return f"Box({_short(_same(self.low))}, {_short(_same(self.high))}{said})"

    @property
    def branches(self) -> tuple[Box, ...]:
        """The boxes that were meant: those whose hull this is, else the box alone."""
        return self.hull_of or (self,)

    @staticmethod
    def of(samples: Float64[np.ndarray[Any, Any], "rows in"]) -> Box:
        """The smallest box that holds the samples ``[rows, in]``."""
        x = np.asarray(samples, dtype=np.float64)
        if x.ndim != 2 or not len(x):
            raise ShapeError(
                f"samples have shape {x.shape}; [rows, in] with at least one row is needed"
            )
        return Box(x.min(axis=0), x.max(axis=0))

    def of_dimension(self, n: int) -> Box:
        """The same box with vectors of length ``n``."""
        try:
            return replace(
                self, low=np.broadcast_to(self.low, (n,)), high=np.broadcast_to(self.high, (n,))
            )
        except ValueError:
            size = max(self.low.size, self.high.size)
            raise ShapeError(
                f"a box of {size} inputs for a network with {n}; give one for {n}, or one pair for all"
            ) from None

    def sample(self, rows: int, n: int, seed: int | np.random.Generator = 0) -> Array:
        """Uniform points ``[rows, n]``."""
        box = self.of_dimension(n)
        return np.random.default_rng(seed).uniform(box.low, box.high, (rows, n))


def _same(array: Array) -> Array:
    """One number in place of many equal ones."""
    return np.asarray(array.flat[0]) if array.size and (array == array.flat[0]).all() else array


def _short(array: Array) -> str:
    """A number as it is, few in brackets, many by their shape."""
    if not array.ndim:
        return f"{float(array):g}"
    if array.ndim == 1 and len(array) <= 6:
        return str([float(f"{v:g}") for v in array])
    return f"<{' x '.join(map(str, array.shape))}>"


@dataclass(frozen=True, eq=False)
class Frame:
    """Physical coordinates of a `.nnet` file: network input = (x - mean) / scale, output = scale *
    y + mean.

    Args:
        low, high, mean, scale: one number per input; low and high in physical units.
        out_mean, out_scale: one number for all outputs.
    """

    low: Array
    high: Array
    mean: Array
    scale: Array
    out_mean: float
    out_scale: float

    @property
    def box(self) -> Box:
        """The operating box in the network's own (normalised) input coordinates."""
        with np.errstate(over="ignore", invalid="ignore"):
            return Box((self.low - self.mean) / self.scale, (self.high - self.mean) / self.scale)
