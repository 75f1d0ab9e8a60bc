"""The files of this project."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MADE = (  # what tools leave beside the sources; git leaves it out by .gitignore
    "__pycache__", "build", "dist", "*.egg-info", ".benchmarks", ".coverage*", ".hypothesis",
    ".*_cache", "_build", "auto_gallery", "sg_execution_times.rst", "*.py[cod]", "uv.lock", "PKG-INFO", ".git",
)  # fmt: skip


def files(root: Path = ROOT) -> list[Path]:
    """What git tracks or would, or in an unpacked archive all that no tool has made; in neither a
    virtual environment.
    """
    found = _listed_by_git(root)
    if found is None:
        found = [path for path in _walked(root) if path.is_file()]
    return sorted(path for path in found if not _in_environment(path, root))


def _listed_by_git(root: Path) -> list[Path] | None:
    """None where there is no git, or where it keeps something else, around an unpacked archive."""
    try:
        top = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--show-toplevel"],
            capture_output=True,
            check=True,
        )
        if Path(top.stdout.decode().rstrip("\n")).resolve() != root.resolve():
            return None
        command = [
            "git",
            "-C",
            str(root),
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]
        listed = (
            subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return [root / name for name in listed if name and (root / name).is_file()]


def _walked(folder: Path) -> Iterator[Path]:
    """All below a folder but what tools have made."""
    for path in folder.iterdir():
        if any(path.match(name) for name in MADE) or path.is_symlink() or _is_environment(path):
            continue
        yield path
        if path.is_dir():
            yield from _walked(path)


def _is_environment(folder: Path) -> bool:
    return (folder / "pyvenv.cfg").exists() or (folder / "conda-meta").is_dir()


def _in_environment(path: Path, root: Path) -> bool:
    """Whether a file belongs to a virtual environment, whatever it is called."""
    return any(_is_environment(folder) for folder in path.parents if root in folder.parents)
