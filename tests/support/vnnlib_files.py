"""Boxes from VNN-LIB text."""

from __future__ import annotations

from moduli.kernel.box import Box


def box(tmp_path, text):
    (tmp_path / "box.vnnlib").write_bytes(text)
    return Box.from_vnnlib(tmp_path / "box.vnnlib")
