"""Where two functions are compared: everywhere (None), on a `Box`, under a `Gaussian`, on
`Samples`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from moduli.kernel.box import Box, _finite, _short
from moduli.kernel.errors import Asked, ShapeError

Array = np.ndarray[Any, np.dtype[np.float64]]


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
        plain = (
            not self.mean.ndim
            and not self.cov.ndim
            and (float(self.mean), float(self.cov)) == (0.0, 1.0)
        )
        return (
            "Gaussian()" if plain else f"Gaussian(mean={_short(self.mean)}, cov={_short(self.cov)})"
        )

    @staticmethod
    def of(samples: Float64[np.ndarray[Any, Any], "rows in"]) -> Gaussian:
        """Mean and covariance of the samples ``[rows, in]``."""
        x = np.asarray(samples, dtype=np.float64)
        if x.ndim != 2 or len(x) < 2:
            raise ShapeError(
                f"samples have shape {x.shape}; [rows, in] with at least two rows is needed"
            )
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
            raise ShapeError(
                f"samples have shape {self.x.shape}; [rows, in] with at least one row is needed"
            )

    def __repr__(self) -> str:
        return f"Samples({len(self.x)} rows of {self.x.shape[1]})"


@dataclass(frozen=True, eq=False)
class Grid:
    """All inputs that a network of integers can be given: scale (q - zero) for each integer q of the type
    of its input, with the scale and the zero point that its file has. Two networks are compared at each of
    them, what computes in integers as its device does. A file that is given floats, and rounds them to
    integers itself, is compared only at the floats that stand for integers. Inputs and outputs are matched
    by their places; a chain of dense layers takes the numbers of its input in the order of the file.

    Args:
        low, high: real ends, as of a `Box`; only integers that stand for numbers between them are tried.
            Left out: all integers.
        kernels: whose arithmetic, ``"tflite-micro"`` (as .tflite is computed where this is left out) or
            ``"litert"``, ``"onnxruntime"`` of ONNX.

    Raises:
        ShapeError: as of a box.

    >>> Grid(), Grid(0, 1), Grid({"image": (0, 1)})
    (Grid(), Grid(0, 1), Grid({'image': (0, 1)}))
    """

    low: Any = None
    high: Any = None
    kernels: str | None = field(default=None, kw_only=True)
    box: Box | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            return
        if self.low is None:
            raise ShapeError("a grid has both ends or none; give Grid(low, high)")
        object.__setattr__(self, "box", Box(self.low, self.high))

    def to_json(self) -> Any:
        """Both ends, and whose arithmetic."""
        return {"grid": None if self.box is None else self.box.to_json(), "kernels": self.kernels}

    def __repr__(self) -> str:
        ends = "" if self.box is None else repr(self.box).removeprefix("Box(").removesuffix(")")
        parts = [ends] if ends else []
        if self.kernels is not None:
            parts.append(f"kernels={self.kernels!r}")
        return f"Grid({', '.join(parts)})"


Domain = Box | Gaussian | Samples | None

# What messages advise.
ON_ALL = Asked("on", "all")
ON_BOX = Asked("on", Box(-1, 1))
ON_GAUSSIAN = Asked("on", Gaussian())
ON_GRID = Asked("on", Grid())
ON_SAMPLES = Asked("on", Samples, "Samples(x)")
