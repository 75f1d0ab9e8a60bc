"""`.safetensors` files: names, shapes and numbers, read from the bytes themselves.

The library's door to NumPy knows no bfloat16, which this one reads; it needs neither the library
nor torch. Declared sizes are compared with real ones before anything is allocated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moduli.common.checkpoint import decoded
from moduli.kernel.errors import UnsupportedModel

MAX_HEADER_BYTES = 100_000_000  # as in the safetensors library
MAX_LENGTH = 2**48  # of an axis, and of a file


class Opaque(NamedTuple):
    """A tensor of a file in numbers that are not read, such as eight bit floats."""

    dtype: str
    shape: tuple[int, ...]


_READ = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "<i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1",
    "BOOL": "|b1",
}  # fmt: skip
_BITS = {
    **{name: 8 * np.dtype(code).itemsize for name, code in _READ.items()}, "C64": 64, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
}  # fmt: skip


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Metadata and tensors of a `.safetensors` file, every declared size compared with the bytes
    that there are.

    bfloat16 comes as float32, which holds it exactly; numbers that are not read come as `Opaque`.

    Raises:
        UnsupportedModel: the header is damaged, or declares other bytes than the file holds.
    """
    metadata, slots, start = read_header(path)
    size = sum(slot.end - slot.start for slot in slots.values())
    data = np.memmap(path, np.uint8, "r", start, (size,)) if size else np.zeros(0, np.uint8)
    return metadata, {name: slot.array(data) for name, slot in slots.items()}


def read_header(path: Path) -> tuple[dict[str, str], dict[str, Slot], int]:
    """Metadata, where each tensor lies, and the byte of the file from which that counts; no number
    is read.

    Raises:
        UnsupportedModel: the header is damaged, or declares other bytes than the file holds.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise _damaged(path, f"{size} bytes and a header of {length}")
        text = file.read(length)
    try:
        header = json.loads(text.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise _damaged(path, "its header is no JSON that names every tensor once") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise _damaged(path, "its metadata are no text")
    slots = {name: _slot(path, name, entry) for name, entry in header.items()}
    ends = sorted((slot.start, slot.end) for slot in slots.values())
    joints = [0, *(end for _, end in ends)]
    if [start for start, _ in ends] != joints[:-1] or joints[-1] != size - 8 - length:
        raise _damaged(path, "its tensors do not fill the bytes behind the header")
    return metadata, slots, 8 + length


def _damaged(path: Path, why: str) -> UnsupportedModel:
    return UnsupportedModel(f"{path}: damaged or no .safetensors file ({why})")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


class Slot(NamedTuple):
    """Where a tensor lies behind the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def array(self, data: Any) -> Any:
        if self.dtype not in _READ:
            return Opaque(self.dtype, self.shape)
        raw = np.frombuffer(data[self.start : self.end].tobytes(), np.uint8)
        wide = self.dtype == "BF16"  # NumPy has no such numbers
        numbers = decoded(raw, self.dtype) if wide else raw.view(_READ[self.dtype])
        return numbers.reshape(self.shape)


def _slot(path: Path, name: str, entry: Any) -> Slot:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"{name[:40]!r} has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _damaged(path, f"{name[:40]!r} has dtype {str(dtype)[:40]}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise _damaged(
            path, f"{name[:40]!r} has shape {str(shape)[:40]} and offsets {str(offsets)[:40]}"
        )
    if 8 * (offsets[1] - offsets[0]) != _BITS[dtype] * math.prod(shape):
        raise _damaged(
            path,
            f"{name[:40]!r} declares {dtype} {str(shape)[:40]} but holds {offsets[1] - offsets[0]} bytes",
        )
    return Slot(dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < MAX_LENGTH for value in values
    )


def shared_tensors(metadata: Mapping[str, str], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays with those that `safetensors.torch.save_model` left out because they share memory
    with another.
    """
    again = {
        name: arrays[kept]
        for name, kept in metadata.items()
        if name not in arrays and kept in arrays
    }
    return {**arrays, **again}
