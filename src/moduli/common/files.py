"""Bytes in and out: regular files up to a limit, packed by gzip or not, NumPy archives as data,
files written whole or not at all.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from moduli.kernel.errors import MissingExtra, ModuliError, UnsupportedModel

MAX_FILE = 2**31
MAX_UNPACKED = 2**32
UNPACKED_FLOOR = 2**26  # bytes: a small archive may unpack to that much at any ratio
UNPACKED_RATIO = (
    100  # text and weights pack to a tenth at best: beyond this, a file was made to fill the memory
)
BLOCK = 2**20  # bytes unpacked at a time
POINTER = 1024  # bytes: a Git LFS pointer is shorter than that
HEADER = 10_000
FIELD = (
    rb"""['"](descr|fortran_order|shape)['"]\s*:\s*"""
    rb"""(['"][<>|=]?[?biufcUO][0-9]{0,9}['"]|True|False|\([0-9,\s]*\))\s*,?\s*"""
)
STAND_INS = (
    (
        rb"version https?://[^\s]*(git-lfs|hawser|git-media)",
        "a Git LFS pointer, not the file; run git lfs pull",
    ),
    (rb"/annex/objects/", "a git-annex pointer, not the file; run git annex get"),
    (rb"\s*<(!doctype\s+html|html)\b", "a web page, not the file; download the raw file"),
)


@contextmanager
def one_line(where: str) -> Iterator[None]:
    """Whatever a malformed model makes the readers stumble over becomes one line that names it."""
    try:
        yield
    except (OSError, MissingExtra):
        raise
    except ModuliError as error:
        place = () if str(error).startswith(where) else (f"{where}: ",)
        raise UnsupportedModel(*place, *error.parts) from None
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        raise UnsupportedModel(f"{where}: malformed ({type(error).__name__}: {error})") from None


def suffix_of(path: str | Path) -> tuple[str, bool]:
    """The suffix in lower case, without ``.gz``, and whether that was there.

    >>> suffix_of("a/Net.ONNX.gz"), suffix_of("box.vnnlib")
    (('.onnx', True), ('.vnnlib', False))
    """
    file = Path(path)
    packed = file.suffix.lower() == ".gz"
    inner = file.with_suffix("") if packed else file
    return inner.suffix.lower(), packed


def regular(path: str | Path) -> Path:
    """The path of a regular file.

    Raises:
        UnsupportedModel: something else than a file: a folder, a pipe, a device.
        OSError: it cannot be looked at.
    """
    file = Path(path)
    file.stat()
    if file.is_dir():
        raise UnsupportedModel(f"{named(path)} is a folder; give the file")
    if not file.is_file():
        raise UnsupportedModel(f"{file} is no regular file; give the path of one")
    return file


def named(path: str | Path) -> str:
    """A path as it is called in messages: the empty one is the current folder."""
    return str(path) if str(path) else "'' (the current folder)"


def refuse_stand_in(path: Path) -> None:
    """Refuse what version control or a browser left in the place of a file.

    Raises:
        UnsupportedModel: names what it is, and how to get the file.
    """
    with path.open("rb") as file:
        head = file.read(POINTER)
    for pattern, means in STAND_INS:
        if re.match(pattern, head, re.IGNORECASE):
            raise UnsupportedModel(f"{path} is {means}")


def content(path: str | Path, most: int = MAX_FILE) -> bytes:
    """The bytes of a regular file, unpacked where its name ends in ``.gz``.

    Raises:
        UnsupportedModel: no file (a folder, a pipe, a device), a Git LFS pointer or a web page in
            its place, more than `most` bytes, packed or not, or damaged packing.
        OSError: it cannot be opened.
    """
    file = regular(path)
    size = file.stat().st_size
    if size > most:
        raise UnsupportedModel(f"{file}: {size} bytes; files up to {most} are read here")
    refuse_stand_in(file)
    data = file.read_bytes()
    packed = data.startswith(b"\x1f\x8b\x08")
    if suffix_of(file)[1]:
        if not packed:
            raise UnsupportedModel(
                f"{file} is named .gz but not packed by gzip; rename it without .gz"
            )
        return gunzip(data, most, str(file))
    if packed:
        raise UnsupportedModel(f"{file} is packed by gzip; rename it {file.name}.gz, or gunzip it")
    return data


def gunzip(data: bytes, most: int, where: str) -> bytes:
    """What gzip packed, of one member or several, up to a size that is watched while it is
    unpacked.

    Raises:
        UnsupportedModel: damaged, cut off, or larger than `most` or than such a file unpacks to.
    """
    limit = min(most, max(UNPACKED_FLOOR, UNPACKED_RATIO * len(data)))
    unpacked = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while block := file.read(BLOCK):
                unpacked += block
                if len(unpacked) > limit:
                    raise UnsupportedModel(
                        f"{where}: {len(data)} bytes unpack to more than {limit}; gunzip it first if it is meant to"
                    )
    except EOFError:
        raise UnsupportedModel(
            f"{where} is cut off: the packed data ends early; get the file again"
        ) from None
    except (gzip.BadGzipFile, zlib.error, struct.error) as error:
        raise UnsupportedModel(
            f"{where} is damaged, gzip cannot unpack it ({error}); get the file again"
        ) from None
    return bytes(unpacked)


def load_arrays(path: str | Path, most: int = MAX_FILE) -> dict[str, Any]:
    """The arrays of a `.npz` file; see `unpack`."""
    data = content(path, most)
    with one_line(str(path)):
        return unpack(data)


def load_array(path: str | Path, most: int = MAX_FILE) -> Any:
    """The array of a `.npy` file, read-only. Nothing is unpickled."""
    data = content(path, most)
    with one_line(str(path)):
        return _array(data, Path(path).name)


def unpack(data: bytes) -> dict[str, Any]:
    """The arrays of an archive whose declared sizes are small enough, and true. Nothing is
    unpickled.

    Entries are stored or deflated, as NumPy writes them: of other packings a few bytes can fill the
    memory.

    Raises:
        UnsupportedModel: damaged, another packing, or sizes and entries that are not what they are
            said to be.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if (
                total > min(MAX_UNPACKED, max(UNPACKED_FLOOR, UNPACKED_RATIO * len(data)))
                or len(members) > 10_000
            ):
                raise UnsupportedModel(
                    f"{len(data)} bytes unpack to {total}; this is no archive of arrays"
                )
            names = [member.filename.removesuffix(".npy") for member in members]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise UnsupportedModel(
                    f"{twice[:40]!r} is there twice; an archive holds every name once"
                )
            if any(
                member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                for member in members
            ):
                raise UnsupportedModel(
                    "entries are packed as NumPy packs none; write it with numpy.savez"
                )
            return {
                name: _array(_entry(archive, member), name)
                for name, member in zip(names, members, strict=True)
            }
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OSError,
        struct.error,
    ) as error:
        raise UnsupportedModel(f"damaged or no .npz archive ({error})") from None


def _entry(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """As many bytes as are declared: without a number, `read` would unpack all there are."""
    with archive.open(member) as file:
        return file.read(member.file_size)


def _array(data: bytes, name: str) -> Any:
    """The array of a .npy entry, read-only, on the bytes themselves."""
    size = {b"\x93NUMPY\1\0": 2, b"\x93NUMPY\2\0": 4}.get(data[:8])
    if size is None:
        raise UnsupportedModel(f"{name[:40]!r} is no .npy entry of version 1 or 2")
    start = 8 + size + int.from_bytes(data[8 : 8 + size], "little")
    dtype, fortran, shape = _header(data[8 + size : min(start, len(data))], name)
    held, count = len(data) - start, math.prod(shape)
    if dtype.hasobject or count * dtype.itemsize != held or (count and not dtype.itemsize):
        raise UnsupportedModel(
            f"{name[:40]!r} declares {dtype} {str(shape)[:80]} but holds {held} bytes"
        )
    array: Any = np.frombuffer(data, dtype, count, start) if count else np.zeros(0, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _header(text: bytes, name: str) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    """Read without evaluating anything; records and nested types are not arrays of numbers."""
    if len(text) > HEADER or not re.fullmatch(rb"\s*\{\s*(?:" + FIELD + rb"){3}\}\s*", text):
        raise UnsupportedModel(f"{name[:40]!r} has no .npy header of an array of numbers or text")
    found = {key: value.decode() for key, value in re.findall(FIELD, text)}
    descr, order, lengths = (found.get(key, "") for key in (b"descr", b"fortran_order", b"shape"))
    shape = tuple(int(n[:20]) for n in re.findall(r"[0-9]+", lengths))
    if (
        not lengths.startswith("(")
        or order not in ("True", "False")
        or len(shape) > 32
        or any(n >= 2**48 for n in shape)
    ):
        raise UnsupportedModel(f"{name[:40]!r} has shape {lengths[:80]}")
    try:
        return np.dtype(descr[1:-1]), order == "True", shape
    except TypeError:
        raise UnsupportedModel(
            f"{name[:40]!r} holds {descr[:40]}; numbers and text are understood"
        ) from None


def atomic_write(path: Path, data: bytes | Iterable[bytes | memoryview]) -> Path:
    """Write a file whole or not at all: a temporary one beside it, then a rename. `data` may come
    in parts.
    """
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:40]}.", suffix=".part", dir=path.parent
        )
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    return path
