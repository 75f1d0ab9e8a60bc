"""Malformed files of every format, by chance; `python tests/adversarial/fuzz.py --inputs N` tries
more.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest

import moduli as mo

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="NO FORK HERE: malformed files are not tried"
)


def tried(inputs: int, seed: int) -> dict[str, tuple[int, int]]:
    """Inputs and how many were read, by format, in a process of their own: torch's threads do not
    survive a fork of pytest.
    """
    command = [
        sys.executable,
        str(ROOT / "tests" / "adversarial" / "fuzz.py"),
        "--inputs",
        str(inputs),
        "--seed",
        str(seed),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        name: (int(n), int(read))
        for name, n, read in re.findall(r"(?m)^(\S+): (\d+) inputs, (\d+) read", done.stdout)
    }


def test_a_few_hundred():
    counts = tried(40 * len(fuzz.FORMATS), seed=0)
    assert set(counts) == set(fuzz.FORMATS)
    assert all(n == 40 for n, _ in counts.values())
    assert sum(read for _, read in counts.values()) > 20, (
        "some files must be read, or nothing is tried but the first line"
    )


@pytest.mark.slow
def test_ten_thousand():
    assert sum(n for n, _ in tried(10_000, seed=1).values()) >= 10_000


def wrong(attempt, tmp_path, monkeypatch, **options):
    """What the fuzzer says of a reader that does something."""
    form = fuzz.Format("x.bin", lambda rng: b"some bytes", attempt, (), **options)
    monkeypatch.setitem(fuzz.FORMATS, "x.bin", form)
    for name in ("in", "tmp"):
        (tmp_path / name).mkdir()
    found, _ = fuzz.fuzz(form, 0, 2, tmp_path)
    return [one["kind"] for one in found]


def refuse(text):
    raise mo.UnsupportedModel(text)


FAULTS = {
    "escapes: KeyError": lambda path, rng: {}["a"],
    "escapes: MemoryError": lambda path, rng: bytearray(2**31),
    "message: UnsupportedModel": lambda path, rng: refuse(""),
    "warns: test_fuzz.py": lambda path, rng: __import__("warnings").warn("careful", stacklevel=1),
    "leaves files": lambda path, rng: path.with_name("left").touch(),
    "prints": lambda path, rng: os.write(2, b"noise"),
    "worker died: status -9": lambda path, rng: os.kill(os.getpid(), 9),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_the_fuzzer_sees_every_fault(kind, tmp_path, monkeypatch):
    found = wrong(FAULTS[kind], tmp_path, monkeypatch)
    assert found
    assert all(one.startswith(kind) for one in found)


def test_the_fuzzer_sees_what_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    assert (
        wrong(lambda path, rng: [None for _ in iter(int, 1)], tmp_path, monkeypatch)
        == ["slow: Slow"] * 2
    )


def test_the_fuzzer_is_content_with_what_is_documented(tmp_path, monkeypatch):
    assert wrong(lambda path, rng: refuse("no such layer"), tmp_path, monkeypatch) == []


def test_the_same_seed_gives_the_same_bytes():
    for name in (
        "net.onnx",
        "net.npz",
        "net.safetensors",
        "net.nnet",
        "box.vnnlib",
        "sweep.toml",
        "data.npz",
    ):
        form = fuzz.FORMATS[name]
        once, again = (fuzz.made(form, 3, 5) for _ in range(2))
        assert once == again
