"""Where two functions are compared: everywhere (None), on a `Box`, under a `Gaussian`, on `Samples`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from .errors import ShapeError, UnsupportedModel, one_line
from .files import content

Array = np.ndarray[Any, np.dtype[np.float64]]
MAX_TEXT = 64 * 2**20
INPUT = re.compile(r"X_[0-9]{1,9}")
Bounds = dict[str, tuple[float, float]]


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
        low, high: scalars (broadcast to any dimension) or vectors ``[in]``.

    >>> Box(-1, 1).of_dimension(2).high
    array([1., 1.])
    """

    low: Any
    high: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", _finite("low", self.low))
        object.__setattr__(self, "high", _finite("high", self.high))
        if self.low.ndim > 1 or self.high.ndim > 1:
            raise ShapeError(f"low has shape {self.low.shape}, high {self.high.shape}; scalars or vectors are needed")
        try:
            low, high = np.broadcast_arrays(self.low, self.high)
        except ValueError:
            raise ShapeError(f"low has shape {self.low.shape} but high {self.high.shape}") from None
        if (low > high).any():
            at = int(np.argmax(np.ravel(low > high)))
            raise ShapeError(f"low {low.flat[at]} exceeds high {high.flat[at]} at input {at}; give the lower one first")

    def __repr__(self) -> str:
        return f"Box({_short(_same(self.low))}, {_short(_same(self.high))})"

    @staticmethod
    def of(samples: Float64[np.ndarray[Any, Any], "rows in"]) -> Box:
        """The smallest box that holds the samples ``[rows, in]``."""
        x = np.asarray(samples, dtype=np.float64)
        if x.ndim != 2 or not len(x):
            raise ShapeError(f"samples have shape {x.shape}; [rows, in] with at least one row is needed")
        return Box(x.min(axis=0), x.max(axis=0))

    @staticmethod
    def from_vnnlib(path: str | Path) -> Box:
        """The hull of the input constraints of a VNN-LIB file, rounded outward to float64.

        Constraints on outputs are ignored; a disjunction gives the hull of its branches.
        """
        data = content(path, MAX_TEXT)
        with one_line(str(path)):
            return _vnnlib(data.decode())

    def of_dimension(self, n: int) -> Box:
        """The same box with vectors of length ``n``."""
        try:
            return Box(np.broadcast_to(self.low, (n,)), np.broadcast_to(self.high, (n,)))
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


def _vnnlib(text: str) -> Box:
    bounds: Bounds = {}
    names: set[str] = set()
    for form in _s_expressions(text):
        if form and form[0] == "declare-const" and len(form) >= 2 and isinstance(form[1], str):
            names.add(form[1])
        elif form and form[0] == "assert" and len(form) == 2:
            _narrow(bounds, _hull(form[1]))
    inputs = sorted((n for n in names if INPUT.fullmatch(n)), key=lambda n: int(n[2:]))
    if not inputs:
        raise UnsupportedModel("no input X_0, X_1, ... is declared")
    low, high = [], []
    for k, name in enumerate(inputs):
        lo, hi = bounds.get(name, (-math.inf, math.inf))
        if name != f"X_{k}" or math.isinf(lo) or math.isinf(hi):
            raise UnsupportedModel(f"input X_{k} is not bounded on both sides")
        if lo > hi:
            raise UnsupportedModel(f"input {name} is constrained to the empty interval [{lo}, {hi}]")
        low.append(lo)
        high.append(hi)
    return Box(low, high)


def _s_expressions(text: str) -> Iterator[list[Any]]:
    stack: list[list[Any]] = []
    for token in (found[0] for found in re.finditer(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text))):
        if token == "(":
            stack.append([])
            if len(stack) > 100:
                raise UnsupportedModel("brackets are nested deeper than 100")
        elif not stack:
            raise UnsupportedModel(f"{token[:40]!r} stands outside brackets")
        elif token == ")":
            done = stack.pop()
            if stack:
                stack[-1].append(done)
            else:
                yield done
        else:
            stack[-1].append(token)
    if stack:
        raise UnsupportedModel("a bracket is not closed")


def _hull(form: Any) -> Bounds:
    """Bounds that every solution of the formula obeys."""
    if not isinstance(form, list) or not form:
        return {}
    head, *rest = form
    if head == "and":
        bounds: Bounds = {}
        for part in rest:
            _narrow(bounds, _hull(part))
        return bounds
    if head == "or" and rest:
        parts = [_hull(part) for part in rest]
        return {
            name: (min(p[name][0] for p in parts), max(p[name][1] for p in parts))
            for name in parts[0]
            if all(name in p for p in parts)
        }
    if head in ("<=", ">=", "<", ">") and len(rest) == 2 and all(isinstance(r, str) for r in rest):
        small, large = rest if head in ("<=", "<") else reversed(rest)
        if INPUT.fullmatch(small) and (number := _rational(large)) is not None:
            return {small: (-math.inf, _outward(number, up=True))}
        if INPUT.fullmatch(large) and (number := _rational(small)) is not None:
            return {large: (_outward(number, up=False), math.inf)}
    return {}


def _narrow(bounds: Bounds, more: Bounds) -> None:
    for name, (lo, hi) in more.items():
        old = bounds.get(name, (-math.inf, math.inf))
        bounds[name] = (max(lo, old[0]), min(hi, old[1]))


def _rational(token: str) -> Fraction | None:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", token, re.ASCII) or len(token) > 400:
        return None
    return Fraction(token)


def _outward(number: Fraction, *, up: bool) -> float:
    try:
        nearest = float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
    if Fraction(nearest) == number:
        return nearest
    if up:
        return nearest if Fraction(nearest) > number else math.nextafter(nearest, math.inf)
    return nearest if Fraction(nearest) < number else math.nextafter(nearest, -math.inf)
