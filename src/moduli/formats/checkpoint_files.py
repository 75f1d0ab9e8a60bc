"""Checkpoints in folders, as Hugging Face's libraries write them: `config.json`, and tensors in one
`model.safetensors` or in shards that `model.safetensors.index.json` lists.

Headers are read, and every size in them compared with the files; numbers are left where they are. A
shard has to lie in the folder itself, and to hold just the tensors that the index says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from moduli.common.checkpoint import Array, Checkpoint, Stored
from moduli.common.files import atomic_write, regular
from moduli.kernel.errors import UnsupportedModel

from .safetensors_file import read_header

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = ".safetensors.index.json"
ELSEWHERE = "transformers_weights"  # a key by which a file of another name is read
MAX_CONFIG_BYTES = 2**20
MAX_INDEX_BYTES = 2**26
MAX_TENSORS = 2**17
MAX_SHARDS = 2**12


def open_checkpoint(source: Any) -> Checkpoint | None:
    """A folder with a checkpoint, or the index of one, opened; None of any other source.

    Raises:
        UnsupportedModel: files that are damaged, or do not fit together.
    """
    if isinstance(source, Checkpoint):
        return source
    if not isinstance(source, (str, os.PathLike)) or str(source).startswith("zoo:"):
        return None
    path = Path(source)
    if path.name.endswith(INDEX) and path.is_file():
        return _sharded(path, path)
    if not str(source) or not path.is_dir() or not (path / CONFIG).is_file():
        return None
    index = path / f"model{INDEX}"
    if index.is_file() and (path / SINGLE).is_file():
        raise UnsupportedModel(
            f"{path} has {SINGLE} and {index.name}, and not every library reads the same one; leave one there"
        )
    if index.is_file():
        return _sharded(path, index)
    if (path / SINGLE).is_file():
        return Checkpoint(path, _config(path), _held(path / SINGLE))
    return None


def _sharded(path: Path, index: Path) -> Checkpoint:
    """The tensors of all shards that an index lists."""
    listed = _json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(x, str) for x in listed.values()):
        raise UnsupportedModel(f"{index}: no weight_map from names of tensors to names of files")
    shards = sorted(set(listed.values()))
    if len(shards) > MAX_SHARDS or len(listed) > MAX_TENSORS:
        raise UnsupportedModel(
            f"{index}: {len(listed)} tensors in {len(shards)} shards; up to {MAX_TENSORS} in {MAX_SHARDS} are read"
        )
    for shard in shards:
        plain = Path(shard).name == shard and shard.isprintable() and len(shard) < 200
        if not plain or not shard.endswith(".safetensors"):
            raise UnsupportedModel(
                f"{index}: {shard[:80]!r} is no .safetensors file beside the index"
            )
    found = dict[str, Stored]()
    for shard in shards:
        held = _held(index.parent / shard)
        wanted = {name for name, file in listed.items() if file == shard}
        for name in sorted(held.keys() ^ wanted):
            which = "lacks" if name in wanted else "also holds"
            raise UnsupportedModel(f"{index}: {shard} {which} {name[:80]!r}; get the files again")
        found.update(held)
    return Checkpoint(path, _config(index.parent), found)


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise UnsupportedModel(
            f"{folder} has no {CONFIG}, which says what model the tensors belong to"
        )
    found = _json(folder / CONFIG, MAX_CONFIG_BYTES)
    if found.get(ELSEWHERE) is not None:
        raise UnsupportedModel(
            f"{folder}: {CONFIG} names other weights ({ELSEWHERE}); leave that out"
        )
    return found


def _json(path: Path, most: int) -> dict[str, Any]:
    size = regular(path).stat().st_size
    if size > most:
        raise UnsupportedModel(f"{path}: {size} bytes; such a file holds up to {most}")
    try:
        found = json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise UnsupportedModel(f"{path}: no JSON ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise UnsupportedModel(f"{path}: no JSON object")
    return found


def _held(file: Path) -> dict[str, Stored]:
    """Where the tensors of one file lie."""
    _, slots, start = read_header(regular(file))
    if len(slots) > MAX_TENSORS:
        raise UnsupportedModel(f"{file}: {len(slots)} tensors; up to {MAX_TENSORS} are read")
    return {
        name: Stored(file, slot.dtype, slot.shape, start + slot.start, start + slot.end)
        for name, slot in slots.items()
    }


def save_checkpoint(
    tensors: Mapping[str, Stored], parts: Iterable[tuple[str, Array]], path: Path
) -> Path:
    """Write tensors of these types and shapes into one `.safetensors` file, whole or not at all.

    Args:
        parts: the bytes of each tensor, in the order of `tensors`.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, held in tensors.items():
        end = at + held.end - held.start
        header[name] = {
            "dtype": held.dtype, "shape": list(held.shape), "data_offsets": [at, end],
        }  # fmt: skip
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def written() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        for name, (given, data) in zip(tensors, parts, strict=True):
            assert name == given
            yield data.data.cast("B") if data.size else b""

    return atomic_write(path, written())
