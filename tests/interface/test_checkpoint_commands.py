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
    code, said = run("equal a b --eps 0.1")
    assert code == 2
    assert "leave out" in said
    code, said = run("equal a zoo:digits-plain")
    assert code == 4
    assert "compared with another one" in said


def test_align_writes_what_was_moved(folders):
    code, said = run("align a b -o moved.safetensors")
    assert code == 0
    assert "layer 1 units" in said
    assert "moved.safetensors" in said
    _, moved = read_safetensors(folders / "moved.safetensors")
    for file in (folders / "b").glob("*.safetensors"):
        for name, numbers in read_safetensors(file)[1].items():
            assert (moved[name] == numbers).all()
    code, said = run("align a b -o moved.onnx")
    assert code == 2
    assert "is written as .safetensors" in said
    code, said = run("align a b -o moved.safetensors --merge 0.5")
    assert code == 2
    assert "not for checkpoints" in said


def test_canon_gives_one_file_and_signature_for_both(folders):
    found = []
    for name in "ab":
        code, said = run(f"canon {name} -o {name}.safetensors --json")
        assert code == 0
        found.append(json.loads(said)["signature"])
    assert found[0] == found[1]
    assert (folders / "a.safetensors").read_bytes() == (folders / "b.safetensors").read_bytes()
