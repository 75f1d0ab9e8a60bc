"""Checkpoints: tensors by name in one or several files, of which parts are read when they are needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.errors import UnsupportedModel

Array = np.ndarray[Any, np.dtype[Any]]
CODES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
ROUNDOFF = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
SMALLEST = {"F64": 2.0**-1074, "F32": 2.0**-149, "F16": 2.0**-24, "BF16": 2.0**-133}


class Stored(NamedTuple):
    """Where a tensor lies.

    Attributes:
        file: in which. dtype: as `.safetensors` files name it. shape: of the tensor. start, end: bytes
            of the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Tensors in files, and what is said of the model that they belong to. Nothing is held in memory but
    names and places.

    Attributes:
        path: of the folder or file. config: of the model, as `config.json` has it. tensors: by name.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    @cached_property
    def parameters(self) -> int:
        """How many numbers are stored."""
        return sum(stored.size for stored in self.tensors.values())

    def __repr__(self) -> str:
        kind = str(self.config.get("model_type", "unknown"))[:40]
        return f"<Checkpoint {self.path}: {kind}, {self.parameters} numbers in {len(self.tensors)} tensors>"

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Bytes of a tensor, all or some."""
        held = self.tensors[name]
        length = held.end - held.start
        stop = length if stop is None else min(stop, length)
        count = max(0, stop - start)
        found = np.fromfile(held.file, np.uint8, count, offset=held.start + start)
        if len(found) != count:
            raise UnsupportedModel(f"{held.file}: {name!r} ends early; was the file changed?")
        return found

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Rows of a tensor, in float32, which holds smaller floats exactly; float64 stays.

        Raises:
            UnsupportedModel: numbers that are no floats, or not finite.
        """
        held = self.tensors[name]
        if held.dtype not in CODES:
            raise UnsupportedModel(
                f"{self.path}: {name!r} is stored as {held.dtype}; {', '.join(CODES)} are read"
            )
        shape = held.shape or (1,)
        stop = shape[0] if stop is None else min(stop, shape[0])
        width = np.dtype(CODES[held.dtype]).itemsize * math.prod(shape[1:])
        numbers = decoded(self.raw(name, start * width, stop * width), held.dtype)
        if not np.isfinite(numbers).all():
            raise UnsupportedModel(f"{self.path}: {name!r} holds numbers that are not finite")
        return numbers.reshape(stop - start, *shape[1:])


def decoded(raw: Array, dtype: str) -> Array:
    """The numbers that bytes mean, in float32 or float64.

    >>> decoded(np.array([0x80, 0x3F], np.uint8), "BF16").tolist()
    [1.0]
    """
    numbers = raw.view(CODES[dtype])
    if dtype == "BF16":  # the upper half of a float32
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers.astype(np.float32) if dtype == "F16" else numbers


def encoded_as(numbers: Array, dtype: str) -> Array:
    """The bytes of the nearest numbers of a type; halves to even, bfloat16 by way of float32.

    >>> encoded_as(np.array([1.00390625]), "BF16").tolist()      # half way between 1 and 1 + 2^-7
    [128, 63]
    """
    if dtype != "BF16":
        return np.ascontiguousarray(numbers, CODES[dtype]).view(np.uint8).ravel()
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32).ravel()
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return upper.astype("<u2").view(np.uint8)
