"""The guides for contributors are true: their files exist, and the changes they ask for work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

import moduli as mo

DOCS = ROOT / "docs"
GUIDES = [DOCS / f"add_{what}.md" for what in ("move", "activation", "format")]
PREFIXES = ("", "src/moduli/", "src/moduli/kernel/")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", page.read_text())


def applied(source: Path, diff: str) -> Path:
    """Make one change of a guide: the lines that stay or go are there once, and new ones come."""
    head, *lines = diff.splitlines()
    path = source / head.removeprefix("--- src/moduli/")
    before = "\n".join(line[1:] for line in lines if line[0] in " -")
    after = "\n".join(line[1:] for line in lines if line[0] in " +")
    text = path.read_text()
    assert text.count(before) == 1, f"{path.name} does not hold once:\n{before}"
    path.write_text(text.replace(before, after))
    return path


def test_an_activation_is_added_in_the_files_that_the_guide_names(tmp_path):
    guide = DOCS / "add_activation.md"
    source = tmp_path / "src" / "moduli"
    shutil.copytree(ROOT / "src" / "moduli", source)
    changed = {applied(source, diff) for diff in blocks(guide, "diff")}
    assert len(changed) == 5
    (script,) = blocks(guide, "python")
    environment = {**os.environ, "PYTHONPATH": str(source.parent)}
    command = [sys.executable, "-c", f"{script}\nprint(mo.__file__)"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(source)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_files_that_a_guide_names_exist(guide):
    named = re.findall(r"`([\w./-]+\.py)[`: ]", guide.read_text())
    assert named
    missing = {
        name
        for name in named
        if "NAME" not in name and not any((ROOT / prefix / name).is_file() for prefix in PREFIXES)
    }
    assert not missing


@pytest.mark.parametrize("kind", [k for k in mo.Activation.KINDS if k != "identity"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".onnx"])
def test_every_activation_is_written_and_read(tmp_path, kind, suffix):
    """A new one, too, so that none is forgotten in a format."""
    name = {"leaky_relu": "leaky_relu(0.5)", "elu": "elu(1.0)", "clip": "clip(0,6)"}.get(kind, kind)
    net = mo.Network.mlp([[1.0], [-2.0]], [0.5, 0.0], [[1.0, 1.0]], [0.25], activation=name)
    assert mo.load(mo.save(net, tmp_path / f"net{suffix}")) == net
