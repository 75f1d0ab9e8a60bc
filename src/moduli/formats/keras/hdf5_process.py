"""A process that reads one HDF5 file and says what is in it: run as a script, with the bytes of the file
as its input.

The HDF5 library is C, and damaged files let it loop or crash. It does so here, where the one who waits
(`hdf5`) can say that the file is damaged. What is found goes out as an archive of arrays, of which the
one called ``said`` is a text in JSON. Nothing of moduli is imported.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

MOST_NAMES = 2**14  # of layers, and of weights of one
MOST_TEXT = 2**26  # bytes of a description
UNPACKED = 100  # times its size that a file may unpack to
FLOOR = 2**26  # bytes that any file may unpack to
CHILDREN = ("layers", "_layer_checkpoint_dependencies")  # groups of weights by layer, new and old


class Refused(Exception):
    """Something that is not read, in words."""


class Found:
    """What a file holds: arrays by number, and what is said of them.

    Args:
        size: of the file, in bytes.
    """

    def __init__(self, size: int) -> None:
        self.most = max(FLOOR, UNPACKED * size)
        self.arrays: list[Any] = []
        self.said: dict[str, Any] = {}

    def add(self, group: Any, path: str) -> int:
        """The number under which a tensor goes out.

        Raises:
            Refused: its numbers lie in another file, are none, or are many more than a file of this
                size can hold.
        """
        import h5py

        tensor = child(group, path)
        if not isinstance(tensor, h5py.Dataset):
            raise Refused(f"{path[:80]!r} is no tensor")
        if tensor.external or tensor.is_virtual:
            raise Refused(f"the numbers of {path[:80]!r} lie in another file")
        if tensor.dtype.kind not in "fiu" or tensor.dtype.itemsize > 8:
            raise Refused(f"{path[:80]!r} holds {tensor.dtype}; floats are understood")
        self.most -= math.prod(tensor.shape) * tensor.dtype.itemsize
        if self.most < 0:
            raise Refused(f"{path[:80]!r} of shape {tensor.shape} is larger than such a file holds")
        self.arrays.append(np.asarray(tensor[()]))
        return len(self.arrays) - 1

    def packed(self) -> bytes:
        out = io.BytesIO()
        arrays = {f"a{k}": array for k, array in enumerate(self.arrays)}
        text = np.frombuffer(json.dumps(self.said).encode(), dtype=np.uint8)
        np.savez(out, said=text, **arrays)
        return out.getvalue()


def child(group: Any, name: str) -> Any:
    """A group or tensor that lies in the file itself.

    Raises:
        Refused: it is a link to somewhere else.
    """
    import h5py

    for part in filter(None, name.split("/")):
        if part == ".." or not isinstance(group, h5py.Group) or part not in group:
            raise Refused(f"it names {name[:80]!r}, which is not there")
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise Refused(
                f"{name[:80]!r} is a link, maybe to another file; write the model again with model.save"
            )
        group = group[part]
    return group


def attribute(group: Any, name: str, most: int) -> list[str]:
    """The texts of an attribute, whose stated size is looked at before it is read."""
    held = group.attrs.get_id(name)
    count = math.prod(held.shape)
    if count > most or count * held.dtype.itemsize > MOST_TEXT:
        raise Refused(f"attribute {name!r} has {count} entries of {held.dtype}")
    found = np.ravel(group.attrs[name]).tolist()
    return [n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in found]


def text(group: Any, name: str) -> str | None:
    return attribute(group, name, 1)[0] if name in group.attrs else None


def names(group: Any, name: str) -> list[str]:
    """A list of names; long ones are kept in several attributes."""
    if name in group.attrs:
        return attribute(group, name, MOST_NAMES)
    found = list[str]()
    for k in range(MOST_NAMES):
        if f"{name}{k}" not in group.attrs or len(found) > MOST_NAMES:
            break
        found += attribute(group, f"{name}{k}", MOST_NAMES)
    return found


def whole_model(file: Any, found: Found) -> None:
    """Layers and weights of a `.h5` file."""
    found.said["model_config"] = text(file, "model_config")
    found.said["keras_version"] = text(file, "keras_version")
    if found.said["model_config"] is None:
        return
    root = child(file, "model_weights") if "model_weights" in file else file
    layers = found.said["layers"] = []
    for name in names(root, "layer_names"):
        group = child(root, name)
        weights = [[path, found.add(group, path)] for path in names(group, "weight_names")]
        layers.append([name, weights])


def weights_alone(file: Any, found: Found) -> None:
    """Groups of numbered weights of the file in a `.keras` archive."""
    groups = found.said["groups"] = []
    children = next((name for name in CHILDREN if name in file), None)
    if children is None:
        return
    root = child(file, children)
    for name in list(root)[:MOST_NAMES]:
        part = child(root, name)
        held = child(part, "vars") if "vars" in part else None
        numbers = [] if held is None else sorted(map(str, held), key=order)
        weights = [["", found.add(held, number)] for number in numbers]
        more = any(inner != "vars" and holds(part, inner) for inner in part)
        told = (held is not None and text(held, "name")) or text(part, "name") or ""
        groups.append([name, told, weights, more])


def order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (MOST_NAMES, name)


def holds(group: Any, name: str) -> bool:
    """Whether a group within a layer has any tensors: those of layers within it."""
    import h5py

    part = child(group, name)
    inside = walk(part, 0) if isinstance(part, h5py.Group) else [part]
    return any(isinstance(item, h5py.Dataset) for item in inside)


def walk(group: Any, depth: int) -> Iterator[Any]:
    import h5py

    if depth > 16:
        raise Refused("groups lie in groups without end")
    for name in list(group)[:MOST_NAMES]:
        item = child(group, name)
        yield item
        if isinstance(item, h5py.Group):
            yield from walk(item, depth + 1)


def main() -> None:
    """Read what comes in, write what is found, or why it is not read."""
    import h5py

    data = sys.stdin.buffer.read()
    found = Found(len(data))
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            (weights_alone if sys.argv[1] == "weights" else whole_model)(file, found)
    except Refused as error:
        found = Found(0)
        found.said["refused"] = str(error)
    except Exception as error:  # whatever the library raises
        found = Found(0)
        found.said["damaged"] = " ".join(str(error).split())[:300]
    sys.stdout.buffer.write(found.packed())


if __name__ == "__main__":
    main()
