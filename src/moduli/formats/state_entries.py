"""Entries of a state dict by module: what each module is, and the numbers of a dense layer or batch
normalisation.

| entries of `X` | read as |
|---|---|
| ``weight`` [out, in], ``bias`` [out] or none | a dense layer |
| ``weight_orig``, ``weight_mask`` (and of the bias) | their product: `torch.nn.utils.prune` |
| ``weight_g``, ``weight_v`` | g v / \\|v\\|: weight normalisation |
| ``parametrizations.weight.original0``, ``...original1`` | the same, in its newer form |
| ``running_mean``, ``running_var`` (``weight``, ``bias``) | a batch normalisation |

Everything else is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.exact_numbers import two_product
from moduli.kernel.network import _float64

from .affine_tracer import BallArray, inverse_root_of

Array = np.ndarray[Any, np.dtype[np.float64]]

FLOATS = ("float16", "bfloat16", "float32", "float64")
MAX_DIGITS = 18  # longer runs of digits are hashes, not numbers
NORMALISED_FAR = 2.0**450  # beyond it, squares leave what `two_product` takes
OTHER_WAYS = "pass the module itself to moduli.load, or export the model to ONNX"


# Names ---------------------------------------------------------------------------------------------


def listed(names: Sequence[str], most: int = 8) -> str:
    tail = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + tail


def shown(stem: str) -> str:
    """The module at the root has an empty name."""
    return stem or "(root)"


def joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def parent(stem: str) -> str:
    return stem.rpartition(".")[0]


def within(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(prefix + ".")


Token = str | int


def tokens_of(stem: str) -> tuple[Token, ...]:
    """The name cut into text and numbers: ``blocks.10.fc2`` is ``blocks.`` 10 ``.fc`` 2."""
    parts = re.split(r"([0-9]+)", stem)
    return tuple(token_of(part) for part in parts if part)


def token_of(part: str) -> Token:
    return int(part) if part.isascii() and part.isdigit() and len(part) <= MAX_DIGITS else part


def precedes(one: str, other: str) -> bool | None:
    """Whether the first thing in which two names differ is a smaller number; None where it is no
    number.
    """
    for a, b in zip(tokens_of(one), tokens_of(other), strict=False):
        if a != b:
            return a < b if isinstance(a, int) and isinstance(b, int) else None
    return None


# Modules -------------------------------------------------------------------------------------------


def shape_of(value: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in value.shape) if hasattr(value, "shape") else tuple(np.shape(value))


def _dtype(value: Any) -> str:
    given = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    return str(given).removeprefix("torch.")


DENSE = "a dense layer"
BATCH_NORM = "a batch normalisation"
SCALE = "a normalisation without running statistics (such as a LayerNorm)"
SLOPES = "a PReLU (or a normalisation without bias)"
CONVOLUTION = "a convolution"
UNKNOWN = "no dense layer"
WEIGHTS = (
    "weight",
    "weight_orig",
    "weight_v",
    "parametrizations.weight.original1",
    "parametrizations.weight.original",
)
STATISTICS = {"running_mean", "running_var"}


@dataclass(frozen=True)
class Module:
    """The entries of one stem, by what follows it in their names."""

    stem: str
    entries: Mapping[str, Any]

    @cached_property
    def kind(self) -> str:
        if self.entries.keys() & STATISTICS:
            return BATCH_NORM if self._is_batch_norm() else UNKNOWN
        main = next((leaf for leaf in WEIGHTS if leaf in self.entries), None)
        if main is None:
            return UNKNOWN
        axes = len(shape_of(self.entries[main]))
        if axes == 1:
            return SCALE if "bias" in self.entries else SLOPES
        return {2: DENSE, 3: CONVOLUTION, 4: CONVOLUTION, 5: CONVOLUTION}.get(axes, UNKNOWN)

    def _is_batch_norm(self) -> bool:
        known = {"weight", "bias", "num_batches_tracked", *STATISTICS}
        return self.entries.keys() >= STATISTICS and self.entries.keys() <= known

    @property
    def bends(self) -> bool:
        """Whether leaving it out changes the function without changing any width."""
        return self.kind in (BATCH_NORM, SCALE, SLOPES)

    @property
    def width(self) -> int:
        """Of a module that bends: the number of its channels."""
        main = next(leaf for leaf in ("running_mean", *WEIGHTS) if leaf in self.entries)
        return math.prod(shape_of(self.entries[main]))

    def name(self, leaf: str) -> str:
        return joined(self.stem, leaf)


def modules_of(named: Mapping[str, Any]) -> dict[str, Module]:
    """Entries by stem, in stored order."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in named.items():
        stem, leaf = split(name)
        found.setdefault(stem, {})[leaf] = value
    return {stem: Module(stem, entries) for stem, entries in found.items()}


def split(name: str) -> tuple[str, str]:
    """Stem and leaf; what `torch.nn.utils.parametrize` puts below a layer belongs to the layer."""
    parts = name.split(".")
    at = parts.index("parametrizations") if "parametrizations" in parts else len(parts) - 1
    return ".".join(parts[:at]), ".".join(parts[at:])


class Dense(NamedTuple):
    """A dense layer as it is evaluated; numbers that are not stored as such are a `BallArray`."""

    stem: str
    weight: Array | BallArray
    bias: Array
    notes: tuple[str, ...]


def dense(module: Module, where: str) -> Dense:
    """The layer that a module's entries are.

    Raises:
        UnsupportedModel: entries beyond those of the table at the top of this module, or numbers
            that are not read.
    """
    left = dict(module.entries)
    weight, notes = _weight(module, left, where)
    rows = shape_of(weight)[0]
    bias, more = _bias(module, left, rows, where)
    for leaf in left:
        raise UnsupportedModel(f"{where}: {module.name(leaf)!r} {_foreign(module, leaf)}")
    if len(bias) != rows:
        turned = (
            "; its weight looks stored as [in, out]: transpose it"
            if len(bias) == shape_of(weight)[1]
            else ""
        )
        raise UnsupportedModel(
            f"{where}: {module.name('weight')!r} of shape {shape_of(weight)} and a bias of length {len(bias)}: "
            f"rows and biases must agree{turned}"
        )
    return Dense(module.stem, weight, bias, (*notes, *more))


def _foreign(module: Module, leaf: str) -> str:
    """What an entry is that a dense layer has no use for."""
    spectral = {"weight_u", "parametrizations.weight.0._u"} & module.entries.keys()
    if spectral:
        return (
            f"is part of a spectral normalisation, which a state dict does not tell exactly; "
            f"torch.nn.utils.remove_spectral_norm or parametrize.remove_parametrizations, then save again, or {OTHER_WAYS}"
        )
    if leaf.startswith("parametrizations."):
        return (
            "is part of a parametrisation, whose function a state dict does not store; "
            f"torch.nn.utils.parametrize.remove_parametrizations, then save again, or {OTHER_WAYS}"
        )
    if any(word in leaf for word in ("scale", "zero_point", "packed", "absmax", "quant")):
        return f"belongs to quantised weights, which are not read; save them in floating point, or {OTHER_WAYS}"
    return f"belongs to no dense layer (X.weight, X.bias); {OTHER_WAYS}"


def _weight(
    module: Module, left: dict[str, Any], where: str
) -> tuple[Array | BallArray, list[str]]:
    """The weight, taken out of what is left of the entries, and how it came about."""
    if "weight" in left:
        return _numbers(module, left, "weight", 2, where), []
    if "weight_orig" in left and "weight_mask" in left:
        return _masked(module, left, "weight", 2, where)
    for scale, direction in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        if scale in left and direction in left:
            return _normalised(module, left, scale, direction, where)
    leaf = next(leaf for leaf in WEIGHTS if leaf in left)
    raise UnsupportedModel(f"{where}: {module.name(leaf)!r} {_foreign(module, leaf)}")


def _bias(module: Module, left: dict[str, Any], rows: int, where: str) -> tuple[Array, list[str]]:
    if "bias" in left:
        return _numbers(module, left, "bias", 1, where), []
    if "bias_orig" in left and "bias_mask" in left:
        return _masked(module, left, "bias", 1, where)
    return np.zeros(rows), []


def _numbers(
    module: Module, left: dict[str, Any], leaf: str, axes: int | None, where: str
) -> Array:
    """The entry in float64, taken out of what is left; half precision and bfloat16 are exact there."""
    value, name = left.pop(leaf), module.name(leaf)
    shape, dtype = shape_of(value), _dtype(value)
    if axes is not None and len(shape) != axes:
        raise UnsupportedModel(f"{where}: {name!r} has shape {shape}; {axes} axes are needed")
    if dtype not in FLOATS:
        raise UnsupportedModel(
            f"{where}: {name!r} is stored as {dtype[:40]}; quantised and other numbers than {', '.join(FLOATS)} "
            "are not read: save it in floating point"
        )
    return _float64(value, f"{where}: {name!r}")


def _masked(
    module: Module, left: dict[str, Any], what: str, axes: int, where: str
) -> tuple[Array, list[str]]:
    """The product of a pruned parameter and its mask, exact because a mask holds zeros and ones."""
    stored = _numbers(module, left, f"{what}_orig", axes, where)
    mask, name = _float64(left.pop(f"{what}_mask"), f"{where}: a mask"), module.name(f"{what}_mask")
    if mask.shape != stored.shape:
        raise UnsupportedModel(
            f"{where}: {name!r} has shape {mask.shape}, what it masks {stored.shape}"
        )
    strange = mask[(mask != 0) & (mask != 1)]
    if strange.size:
        raise UnsupportedModel(
            f"{where}: {name!r} holds {strange[0]}; a mask of torch.nn.utils.prune holds 0 and 1"
        )
    return stored * mask, [
        f"{module.name(what)} is {what}_orig times {what}_mask (torch.nn.utils.prune)"
    ]


def _normalised(
    module: Module, left: dict[str, Any], scale: str, direction: str, where: str
) -> tuple[BallArray, list[str]]:
    """g v / |v| over the rows, the columns, or all of v, as the shape of g says."""
    g = _numbers(module, left, scale, None, where)
    v = _numbers(module, left, direction, 2, where)
    axis = {(v.shape[0], 1): 1, (1, v.shape[1]): 0, (): None, (1,): None}.get(g.shape, -1)
    if axis == -1:
        raise UnsupportedModel(
            f"{where}: {module.name(scale)!r} has shape {g.shape}, {module.name(direction)!r} {v.shape}: "
            f"no weight normalisation; {OTHER_WAYS}"
        )
    size = np.abs(v[v != 0])
    if size.size and (size.min() < 1 / NORMALISED_FAR or size.max() > NORMALISED_FAR):
        raise UnsupportedModel(
            f"{where}: {module.name(direction)!r} holds {size.max()} or {size.min()}, beyond 2^450"
        )
    if axis is None:
        rows = [v.ravel()]
    else:
        rows = list(v) if axis == 1 else list(v.T)
    squares = [_square(row) for row in rows]
    if not all(squares):
        raise UnsupportedModel(
            f"{where}: {module.name(direction)!r} holds only zeros where its length divides"
        )
    roots = [inverse_root_of(square) for square in squares]
    shape = (len(rows), 1) if axis == 1 else (1, len(rows))
    # `_square` is right to 2^-104 and a root halves relative errors; 2^-100 covers both with those
    # of the root itself.
    length = BallArray.near(roots, 2.0**-100, shape)
    factor = length.times(BallArray.of(g.reshape(shape)))
    name = module.name("weight")
    return factor.times(BallArray.of(v)), [
        f"{name} is g v / |v|, a weight normalisation ({scale}, {direction})"
    ]


def _square(row: Array) -> Fraction:
    """|row|^2 with a relative error of at most 2^-104: two correctly rounded sums of exact
    products.
    """
    high, low = two_product(row, row)
    terms = [*high.tolist(), *low.tolist()]
    first = math.fsum(terms)
    return Fraction(first) + Fraction(math.fsum([*terms, -first]))


def batch_norm(module: Module, where: str) -> tuple[Array, Array, Array, Array]:
    """Gain, offset, mean and variance."""
    left = dict(module.entries)
    mean, variance = (
        _numbers(module, left, leaf, 1, where) for leaf in ("running_mean", "running_var")
    )
    gain = _numbers(module, left, "weight", 1, where) if "weight" in left else np.ones(len(mean))
    offset = _numbers(module, left, "bias", 1, where) if "bias" in left else np.zeros(len(mean))
    return gain, offset, mean, variance
