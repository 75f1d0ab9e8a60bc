"""What stands where a file should be, and a writer of files that refuses."""

from __future__ import annotations

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"
STAND_INS = {
    LFS: "a Git LFS pointer, not the file; run git lfs pull",
    LFS.replace(b"\n", b"\r\n"): "a Git LFS pointer",
    LFS.replace(b"git-lfs", b"hawser"): "a Git LFS pointer",
    b"/annex/objects/SHA256E-s12--ab.onnx\n": "a git-annex pointer, not the file; run git annex get",
    b"\n<!DOCTYPE html>\n<html>": "a web page, not the file; download the raw file",
    b"<html lang='en'>": "a web page",
}


def refuse_to_shrink(monkeypatch, tensor):
    """No file is written in which this tensor has another shape."""
    import moduli as mo
    from moduli.formats.onnx.surgery import Surgeon

    whole = Surgeon.model

    def refusing(self):
        if self.wanted.shapes[tensor] != self.before.shapes[tensor]:
            raise mo.UnsupportedModel(f"{tensor} has to stay")
        return whole(self)

    monkeypatch.setattr(Surgeon, "model", refusing)
