"""A box of inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
        low, high: scalars, for any dimension; vectors ``[in]``; or arrays that broadcast against each
            other and against an input without its batch axis, kept flattened, row by row. For a graph
            of several inputs `low` may be a dict, ``{name: (low, high)}``, and `high` be left out; an
            input that is not named may be anything.
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
    >>> Box({"image": (0, 1), "speed": ([-1, 0], 2)})
    Box({'image': (0, 1), 'speed': ([-1.0, 0.0], 2)})
    """

    low: Any
    high: Any = None
    hull_of: tuple[Box, ...] = field(default=(), kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    named: Mapping[str, Box] = field(init=False, default_factory=dict)  # where inputs are named
    shape: tuple[int, ...] = field(init=False, default=())  # of arrays of several axes
    from_vnnlib: ClassVar[
        Callable[[str | Path], Box]
    ]  # a reader of files, set by `vnnlib`: nothing here reads any

    def __post_init__(self) -> None:
        if isinstance(self.low, Mapping):
            self._of_inputs(self.low)
        if self.high is None:
            raise ShapeError(f"Box({self.low!r}) has no high end; give Box(low, high)")
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
            object.__setattr__(self, "shape", wide_low.shape)
            low, high = _finite("low", wide_low.ravel()), _finite("high", wide_high.ravel())
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        object.__setattr__(self, "hull_of", tuple(self.hull_of))
        object.__setattr__(self, "notes", tuple(self.notes))

    def _of_inputs(self, ends: Mapping[str, Any]) -> None:
        """A box for each of some inputs; all numbers one after another for whoever wants them alike."""
        if self.high is not None or not ends:
            raise ShapeError("a dict of inputs has both ends of each: Box({name: (low, high)})")
        parts = {}
        for name, pair in ends.items():
            try:
                low, high = pair
            except (TypeError, ValueError):
                raise ShapeError(f"input {name!r} has {pair!r}; give (low, high)") from None
            try:
                parts[name] = Box(low, high)
            except ShapeError as error:
                raise ShapeError(f"input {name!r}: {error}") from None
        object.__setattr__(self, "named", parts)
        wide = [np.broadcast_arrays(np.ravel(b.low), np.ravel(b.high)) for b in parts.values()]
        for end, arrays in zip(("low", "high"), zip(*wide, strict=True), strict=True):
            object.__setattr__(self, end, np.concatenate(arrays))

    def of_input(self, name: str) -> Box | None:
        """What is said of an input; None where nothing is."""
        return self.named.get(name) if self.named else self

    def to_json(self) -> Any:
        """Both ends, for each input that is named."""
        if self.named:
            return {name: part.to_json() for name, part in self.named.items()}
        return [self.low.tolist(), self.high.tolist()]

    def __repr__(self) -> str:
        if self.named:
            parts = [
                f"{name!r}: {repr(part).removeprefix('Box')}" for name, part in self.named.items()
            ]
            return f"Box({{{', '.join(parts)}}})"
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
        if len(self.named) > 1:
            raise ShapeError(f"a box of inputs {', '.join(self.named)} for a network that has one")
        try:
            low, high = (np.broadcast_to(end, (n,)) for end in (self.low, self.high))
            return Box(low, high, hull_of=self.hull_of, notes=self.notes)
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
    """A number as it is, few in brackets, many by their shape and their range."""
    if not array.ndim:
        return f"{float(array):g}"
    if array.ndim == 1 and len(array) <= 6:
        return str([float(f"{v:g}") for v in array])
    shape = " x ".join(map(str, array.shape))
    return f"<{shape}: {array.min():g} to {array.max():g}>" if array.size else f"<{shape}>"


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
