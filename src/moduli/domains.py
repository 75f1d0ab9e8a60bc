"""Where two functions are compared: everywhere (None), on a `Box`, under a `Gaussian`, on `Samples`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from . import vnnlib
from .errors import ShapeError, one_line, printable
from .files import content

Array = np.ndarray[Any, np.dtype[np.float64]]
MAX_TEXT = 64 * 2**20


def _finite(name: str, value: Any) -> Array:
    array = np.array(value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ShapeError(f"{name} holds {array[~np.isfinite(array)].flat[0]}; every entry must be finite")
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Box:
    """A box of inputs, compared in sup norm.

    Args:
        low, high: scalars (broadcast to any dimension), vectors ``[in]``, or arrays of an input's shape without the batch
            axis, which are broadcast against each other and kept flattened, row by row.
        hull_of: boxes whose hull this is, where only these are meant; see `branches`.
        notes: in which ways the box is larger than what it was made of (a VNN-LIB file with alternatives, ...).

    Raises:
        ShapeError: shapes that do not fit, a number that is not finite, or a low end above the high one.

    >>> Box(-1, 1).of_dimension(2).high
    array([1., 1.])
    >>> Box([[0, 0], [1, 1]], [[2], [3]])
    Box([0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0])
    """

    low: Any
    high: Any
    hull_of: tuple[Box, ...] = field(default=(), kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        low, high = _finite("low", self.low), _finite("high", self.high)
        try:
            wide_low, wide_high = np.broadcast_arrays(low, high)
        except ValueError:
            raise ShapeError(f"low has shape {low.shape} but high {high.shape}; give one shape, or one number") from None
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
            raise ShapeError(f"samples have shape {x.shape}; [rows, in] with at least one row is needed")
        return Box(x.min(axis=0), x.max(axis=0))

    @staticmethod
    def from_vnnlib(path: str | Path) -> Box:
        """The hull of what a VNN-LIB file allows its inputs, rounded outward to float64.

        Constraints on outputs are passed over. A disjunction gives the hull of its alternatives, which stand in
        `branches`; `notes` says of how many, and which constraints on inputs are no bounds of single inputs and were
        passed over. What is proved on the box is true of all inputs that the file allows.

        Args:
            path: VNN-LIB 1, or of VNN-LIB 2.0 queries about one network with one input; also packed (``.vnnlib.gz``).

        Raises:
            UnsupportedModel: no VNN-LIB file, or an input that is not bounded on both sides.
            OSError: the file cannot be opened.

        >>> import pathlib, tempfile
        >>> text = "(declare-const X_0 Real) (assert (or (and (>= X_0 0) (<= X_0 1)) (and (>= X_0 2) (<= X_0 3))))"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "two.vnnlib")
        ...     _ = file.write_text(text)
        ...     box = Box.from_vnnlib(file)
        >>> box, box.branches
        (Box(0, 3, hull of 2 boxes), (Box(0, 1), Box(2, 3)))
        """
        data = content(path, MAX_TEXT)
        with one_line(str(path)):
            found = vnnlib.read(data.decode("utf-8-sig", errors="replace"))
            branches = tuple(Box(*ends) for ends in found.boxes) if len(found.boxes) > 1 else ()
            return Box(*found.hull, hull_of=branches, notes=tuple(map(printable, found.notes)))

    def of_dimension(self, n: int) -> Box:
        """The same box with vectors of length ``n``."""
        try:
            return replace(self, low=np.broadcast_to(self.low, (n,)), high=np.broadcast_to(self.high, (n,)))
        except ValueError:
            size = max(self.low.size, self.high.size)
            raise ShapeError(f"a box of {size} inputs for a network with {n}; give one for {n}, or one pair for all") from None

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
class Gaussian:
    """Normal inputs, compared in root mean square.

    Args:
        mean: scalar or ``[in]``.
        cov: variance (scalar), variances ``[in]`` or covariance ``[in, in]``; may be singular.
    """

    mean: Any = 0.0
    cov: Any = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", _finite("mean", self.mean))
        object.__setattr__(self, "cov", _finite("cov", self.cov))
        if self.mean.ndim > 1 or self.cov.ndim > 2:
            raise ShapeError(f"mean has shape {self.mean.shape}, cov {self.cov.shape}")

    def __repr__(self) -> str:
        plain = not self.mean.ndim and not self.cov.ndim and (float(self.mean), float(self.cov)) == (0.0, 1.0)
        return "Gaussian()" if plain else f"Gaussian(mean={_short(self.mean)}, cov={_short(self.cov)})"

    @staticmethod
    def of(samples: Float64[np.ndarray[Any, Any], "rows in"]) -> Gaussian:
        """Mean and covariance of the samples ``[rows, in]``."""
        x = np.asarray(samples, dtype=np.float64)
        if x.ndim != 2 or len(x) < 2:
            raise ShapeError(f"samples have shape {x.shape}; [rows, in] with at least two rows is needed")
        return Gaussian(x.mean(axis=0), np.atleast_2d(np.cov(x.T)))

    def sample(self, rows: int, n: int, seed: int | np.random.Generator = 0) -> Array:
        """Draws ``[rows, n]``."""
        mean = np.broadcast_to(self.mean, (n,))
        cov = self.cov if self.cov.ndim == 2 else np.diag(np.broadcast_to(self.cov, (n,)))
        return np.random.default_rng(seed).multivariate_normal(mean, cov, size=rows, method="eigh")


@dataclass(frozen=True, eq=False)
class Samples:
    """A finite set of inputs ``[rows, in]``, compared in root mean square."""

    x: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", _finite("samples", self.x))
        if self.x.ndim != 2 or not len(self.x):
            raise ShapeError(f"samples have shape {self.x.shape}; [rows, in] with at least one row is needed")

    def __repr__(self) -> str:
        return f"Samples({len(self.x)} rows of {self.x.shape[1]})"


Domain = Box | Gaussian | Samples | None


@dataclass(frozen=True, eq=False)
class Frame:
    """Physical coordinates of a `.nnet` file: network input = (x - mean) / scale, output = scale * y + mean.

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
