"""What is handed out: archives that hold only what is meant, types that others see, licences of
what is needed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from project import ROOT, files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OUTSIDE = {".gitignore"}  # hatchling adds it to the archive of sources by itself
SCRIPT = """
import numpy as np

import moduli as mo

net = mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, 1.0]], [0.0])
small = mo.compress(net)
units: int = small.network.units
accepted: bool = small.check()
values: list[float] = [float(v) for v in small.network(np.zeros((2, 1)))[:, 0]]
reveal_type(small)
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    clean = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")
    }
    done = subprocess.run([*map(str, command)], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    pytest.importorskip("hatchling", reason="no hatchling; pip install '.[test]'")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, archive


def repository() -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in files()}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built):
    names = {
        f"moduli-{PROJECT['version']}.dist-info/{name}"
        for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")
    }
    names |= {f"moduli-{PROJECT['version']}.dist-info/licenses/LICENSE"}
    names |= {name.removeprefix("src/") for name in repository() if name.startswith("src/")}
    assert {"moduli/py.typed", "moduli/zoo/digits-tanh.npz"} <= names
    assert set(zipfile.ZipFile(built[0]).namelist()) == names


@pytest.mark.slow
def test_the_archive_holds_the_repository_and_nothing_else(built):
    with tarfile.open(built[1]) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert held - OUTSIDE == (repository() | {"PKG-INFO"}) - OUTSIDE


@pytest.mark.slow
def test_the_installed_wheel_works_and_shows_its_types(built, tmp_path):
    """In an environment that sees the libraries of this one, but only the wheel's moduli."""
    venv.create(tmp_path / "v", with_pip=True)
    python = tmp_path / "v" / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", built[0])
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    assert "accepted" in run(python, "-m", "moduli.interface.cli", "demo", cwd=tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    told = run(
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        python,
        "script.py",
        cwd=tmp_path,
    )
    assert 'Revealed type is "moduli.' in told


def licence(name: str) -> str:
    """The expression, else the classifiers, else the first line of what a distribution says of its
    licence.
    """
    said = distribution(name).metadata
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in said.get_all("Classifier") or []
        if line.startswith("License")
    ]
    return (
        said.get("License-Expression")
        or ", ".join(classifiers)
        or (said.get("License") or "").partition("\n")[0]
    )


def needed() -> set[str]:
    """All that the package and its extras need, and what that needs, as far as it is installed."""
    extras = [need for extra in PROJECT["optional-dependencies"].values() for need in extra]
    todo = [
        Requirement(need)
        for need in (*PROJECT["dependencies"], *extras)
        if not need.startswith("moduli")
    ]
    seen: set[tuple[str, frozenset[str]]] = set()
    found = set()
    while todo:
        need = todo.pop()
        if (need.name, frozenset(need.extras)) in seen:
            continue
        seen.add((need.name, frozenset(need.extras)))
        try:
            requires = [Requirement(line) for line in distribution(need.name).requires or []]
        except PackageNotFoundError:
            continue
        found.add(re.sub(r"[-_.]+", "-", need.name).lower())
        wanted = [{"extra": extra} for extra in ("", *need.extras)]
        todo += [
            r
            for r in requires
            if r.marker is None or any(r.marker.evaluate(extra) for extra in wanted)
        ]
    return found


def test_nothing_needed_is_under_the_gpl():
    cuda = (
        "cuda-",
        "nvidia-",
    )  # torch's builds for GPUs need NVIDIA's libraries, under its own terms, some of them unsaid
    said = {name: licence(name) for name in needed() if not name.startswith(cuda)}
    said.pop(
        "docutils", None
    )  # public domain and BSD; only an Emacs mode, which its wheel does not hold, is under the GPL
    assert [name for name, text in said.items() if not text] == []
    assert {
        name: text for name, text in said.items() if re.search(r"GPL|GNU .*General Public", text)
    } == {}
    assert {"numpy", "scipy", "onnx"} <= set(said)
