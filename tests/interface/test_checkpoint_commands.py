"""Commands that take a folder with a checkpoint."""

from __future__ import annotations

import json

import checkpoints
import pytest
from click.testing import CliRunner

from moduli.formats.safetensors_file import read_safetensors
from moduli.interface.cli import cli
from moduli.interface.cli_support import failure


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """a, its disguise b, a stranger c."""
    config, tensors = checkpoints.llama(0)
    checkpoints.write(tmp_path / "a", config, tensors)
    checkpoints.write(tmp_path / "b", config, checkpoints.disguised_llama(config, tensors, 1))
    checkpoints.write(tmp_path / "c", *checkpoints.llama(4))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, words.split())
    if done.exception is None or isinstance(done.exception, SystemExit):
        return done.exit_code, done.output
    message, code = failure(done.exception)
    return code, message


def test_equal_says_yes_or_undecided(folders):
    code, said = run("equal a b")
    assert code == 0
    assert "the same tensors under the declared architecture (llama)" in said
    code, said = run("equal a c --json")
    data = json.loads(said)
    assert code == 3
    assert data["status"] == "undecided"
    assert not data["related"]


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ("equal a b --eps 0.1", 2, "leave out"),
        ("equal a zoo:digits-plain", 4, "compared with another one"),
        ("align a b -o moved.onnx", 2, "is written as .safetensors"),
        ("align a b -o moved.safetensors --merge 0.5", 2, "not for checkpoints"),
        ("align a b -o moved.safetensors --on data.npy", 2, "not for checkpoints"),
        ("canon a -o normal.onnx", 2, "is written as .safetensors"),
        ("equal a a/config.json", 4, "config.json"),
    ],
)
def test_what_is_not_for_checkpoints_is_refused(words, code, why, folders):
    found, said = run(words)
    assert (found, why in said) == (code, True), said
    assert not list(folders.glob("moved*"))
    assert not list(folders.glob("normal*"))


def test_align_writes_what_was_moved(folders):
    code, said = run("align a b -o moved.safetensors")
    assert code == 0
    assert "layer 1 units" in said
    assert "moved.safetensors" in said
    _, moved = read_safetensors(folders / "moved.safetensors")
    for file in (folders / "b").glob("*.safetensors"):
        for name, numbers in read_safetensors(file)[1].items():
            assert (moved[name] == numbers).all()


def test_canon_gives_one_file_and_signature_for_both(folders):
    found = []
    for name in "ab":
        code, said = run(f"canon {name} -o {name}.safetensors --json")
        assert code == 0
        found.append(json.loads(said)["signature"])
    assert found[0] == found[1]
    assert (folders / "a.safetensors").read_bytes() == (folders / "b.safetensors").read_bytes()
