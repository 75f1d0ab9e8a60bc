"""Bytes in and out: what is no file, archives that lie, and files that cannot be written."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from stand_ins import STAND_INS

import moduli as mo
from moduli.common import files
from moduli.common.files import atomic_write, content, load_arrays, one_line, suffix_of, unpack
from moduli.kernel.errors import Asked, UnsupportedModel


def archive(*entries, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            packed.writestr(info, data)
    return buffer.getvalue()


def npy(header, body=b"", version=b"\1\0"):
    text = header.encode() + b"\n"
    return (
        b"\x93NUMPY"
        + version
        + struct.pack("<H" if version == b"\1\0" else "<I", len(text))
        + text
        + body
    )


def head(descr="'<f8'", order="False", shape="(2,)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize("dtype", ["f8", ">f4", "f2", "?", "u1", ">i8", "U3", "c16"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (0, 4), (2, 1, 3)])
@pytest.mark.parametrize("pack", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(dtype, shape, pack):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    buffer = io.BytesIO()
    pack(buffer, a=array, b=np.array(array, order="F"))
    found = unpack(buffer.getvalue())
    for name in ("a", "b"):
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert (found[name] == array).all()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (npy(head(), bytes(8)), "declares float64 (2,) but holds 8 bytes"),
        (npy(head(shape="(-2, -1)"), bytes(16)), "no .npy header"),
        (npy(head(shape="(2.0,)"), bytes(16)), "no .npy header"),
        (npy(head(shape="(True,)"), bytes(8)), "no .npy header"),
        (
            npy(head("'<U0'", shape="(1000000000000,)")),
            "declares <U0 (1000000000000,) but holds 0 bytes",
        ),
        (npy(head(shape="(" + "9" * 5000 + ",)")), "has shape"),
        (npy(head(shape="(" + "1, " * 40 + ")"), bytes(8)), "has shape"),
        (npy(head("'|O'"), bytes(16)), "declares object"),
        (npy(head("'<f3'"), bytes(6)), "numbers and text are understood"),
        (npy(head("[('a', '<f8')]"), bytes(16)), "no .npy header"),
        (npy("'''"), "no .npy header"),
        (npy("'\\L'"), "no .npy header"),
        (npy("[" * 9000), "no .npy header"),
        (npy(head() + " " * 20_000, bytes(16)), "no .npy header"),
        (npy(head(), bytes(16), b"\3\0"), "version 1 or 2"),
        (b"", "version 1 or 2"),
    ],
)
def test_entries_that_lie(entry, said):
    with pytest.raises(UnsupportedModel) as caught:
        unpack(archive(("a.npy", entry)))
    assert said in str(caught.value)


def test_other_packings_and_doubled_names_are_refused():
    good = npy(head(), bytes(16))
    assert unpack(archive(("a.npy", good), method=zipfile.ZIP_DEFLATED))["a"].tolist() == [0, 0]
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(UnsupportedModel, match="packed as NumPy packs none"):
            unpack(archive(("a.npy", good), method=method))
    with pytest.raises(UnsupportedModel, match="'a' is there twice"):
        unpack(archive(("a.npy", good), ("a", good)))


def test_an_entry_that_unpacks_to_more_than_it_declares_takes_no_memory():
    packed = bytearray(archive(("a.npy", bytes(2**26)), method=zipfile.ZIP_DEFLATED))
    struct.pack_into("<I", packed, packed.find(b"PK\1\2") + 24, 144)
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedModel):
            unpack(bytes(packed))
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert content(tmp_path / "file") == b"12345"
    with pytest.raises(UnsupportedModel, match="up to 4 are read"):
        content(tmp_path / "file", 4)
    os.mkfifo(tmp_path / "pipe.npz")
    for place in (tmp_path, tmp_path / "pipe.npz", "/dev/zero"):
        with pytest.raises(UnsupportedModel, match=r"no regular file|is a folder; give the file"):
            load_arrays(place)
    with pytest.raises(FileNotFoundError):
        content(tmp_path / "missing")


def test_long_names_and_other_links_are_written(tmp_path):
    name = "é" * 120 + ".bin"
    assert atomic_write(tmp_path / name, b"x").read_bytes() == b"x"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for target in (tmp_path / "file" / "x", tmp_path / "no" / "x", tmp_path / ("x" * 300)):
        with pytest.raises(OSError) as caught:
            atomic_write(target, b"x")
        assert caught.value.filename == str(target)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        atomic_write(tmp_path / "y", b"x")
    assert caught.value.filename == str(tmp_path / "y")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# Packed by gzip -------------------------------------------------------------------------------------------------

WORDS = b"a line of text\n" * 500


@pytest.mark.parametrize("name", ["a.txt.gz", "A.TXT.GZ"])
def test_what_gzip_packs_is_read_in_one_member_and_in_several(tmp_path, name):
    path = tmp_path / name
    for packed in (
        gzip.compress(WORDS),
        gzip.compress(WORDS[:7]) + gzip.compress(WORDS[7:]) + gzip.compress(b"") + bytes(512),
    ):
        path.write_bytes(packed)
        assert content(path) == WORDS


def test_suffixes_do_not_mind_case():
    assert suffix_of("a.b/Net.ONNX") == (".onnx", False)
    assert suffix_of("net.Onnx.GZ") == (".onnx", True)
    assert suffix_of(".gz") == ("", False)
    assert suffix_of("net.gz") == ("", True)


@pytest.mark.parametrize("keep", [1, 5, 11, 40, -9, -4, -1])
def test_a_packed_file_that_is_cut_off_is_refused(tmp_path, keep):
    """Cut in the header, in the data, in the sum and in the length at the end, after a member that
    is whole.
    """
    for before in (b"", gzip.compress(b"whole")):
        (tmp_path / "a.gz").write_bytes(before + gzip.compress(WORDS)[:keep])
        with pytest.raises(
            UnsupportedModel, match=r"a\.gz (is cut off|is named \.gz but not packed|is damaged)"
        ):
            content(tmp_path / "a.gz")


@pytest.mark.parametrize("at", [10, 30, -8, -4])
def test_a_packed_file_with_one_bit_changed_is_refused(tmp_path, at):
    data = bytearray(gzip.compress(WORDS))
    data[at] ^= 4
    (tmp_path / "a.gz").write_bytes(data)
    with pytest.raises(UnsupportedModel, match=r"a\.gz is (damaged|cut off)"):
        content(tmp_path / "a.gz")


def test_what_follows_a_packed_file_is_refused(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(WORDS) + b"more")
    with pytest.raises(UnsupportedModel, match="is damaged"):
        content(tmp_path / "a.gz")


def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    """In one member, and in many that are small each."""
    block = gzip.compress(bytes(2**22))
    for data in (gzip.compress(bytes(2**26)), block * 16):
        (tmp_path / "a.gz").write_bytes(data)
        monkeypatch.setattr(files, "UNPACKED_FLOOR", 2**23)
        tracemalloc.start()
        with pytest.raises(
            UnsupportedModel, match=f"bytes unpack to more than {2**23}; gunzip it first"
        ):
            content(tmp_path / "a.gz")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**25


def test_the_limit_of_a_reader_holds_for_what_is_unpacked(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(WORDS))
    assert content(tmp_path / "a.gz", len(WORDS)) == WORDS
    with pytest.raises(UnsupportedModel, match=f"unpack to more than {len(WORDS) - 1}"):
        content(tmp_path / "a.gz", len(WORDS) - 1)


def test_names_that_say_the_wrong_packing(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(WORDS)
    with pytest.raises(
        UnsupportedModel, match=r"named \.gz but not packed by gzip; rename it without \.gz"
    ):
        content(tmp_path / "a.txt.gz")
    (tmp_path / "a.txt").write_bytes(gzip.compress(WORDS))
    with pytest.raises(
        UnsupportedModel, match=r"a\.txt is packed by gzip; rename it a\.txt\.gz, or gunzip it"
    ):
        content(tmp_path / "a.txt")


# What stands in the place of a file -----------------------------------------------------------------------------


@pytest.mark.parametrize("data", STAND_INS)
@pytest.mark.parametrize("name", ["a.npz", "a.cert.json", "a.vnnlib.gz"])
def test_a_pointer_in_the_place_of_a_file_is_named(tmp_path, data, name):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnsupportedModel) as caught:
        content(tmp_path / name)
    assert STAND_INS[data] in str(caught.value)
    assert name in str(caught.value)


def test_a_folder_is_named():
    for place in (".", ""):
        with pytest.raises(UnsupportedModel, match="is a folder; give the file"):
            content(place)


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, RuntimeError]
)
def test_what_a_malformed_model_makes_stumble_over(error):
    with (
        pytest.raises(mo.UnsupportedModel, match=f"^net.onnx: malformed .{error.__name__}: "),
        one_line("net.onnx"),
    ):
        raise error("odd")


def test_errors_of_this_library_get_the_place_once():
    for text in ("no layers", "net.onnx: no layers"):
        with (
            pytest.raises(mo.UnsupportedModel, match=r"^net\.onnx: no layers$"),
            one_line("net.onnx"),
        ):
            raise mo.ShapeError(text)


@pytest.mark.parametrize(
    "error", [FileNotFoundError("x"), mo.MissingExtra("torch", "torch"), MemoryError()]
)
def test_what_says_more_as_it_is_passes(error):
    with pytest.raises(type(error)) as caught, one_line("net.onnx"):
        raise error
    assert caught.value is error


def test_parameters_stay_fields_behind_a_place():
    with pytest.raises(mo.UnsupportedModel) as caught, one_line("net.onnx"):
        raise mo.UnsupportedModel("give ", Asked("output"))
    assert (str(caught.value), caught.value.parameter) == ("net.onnx: give output=", "output")
