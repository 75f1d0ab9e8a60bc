"""`moduli` in a process of its own each time, without waiting for its imports each time.

Two interpreters import what commands need and run nothing; for each command one of them splits off a process (fork), which has
its own folder, environment, streams and end. They take turns, as they differ in how they hash: what a command writes must not
depend on it. What must hold from the start of an interpreter on is tested with `sys.executable`.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[2] / "src"
COMMON = (
    "moduli.__main__", "moduli.interface.cli", "moduli.api", "onnx.reference", "rich.table", "scipy.optimize", "torch",
    "matplotlib.figure",
)  # fmt: skip


def moduli(*args: object, cwd: Path, **environment: str) -> tuple[int, str, str]:
    """The exit code, what was written on stdout, and on stderr."""
    server = next(_servers())
    more = {"PYTHONPATH": str(SOURCE), "COLUMNS": "120", **environment}
    with tempfile.TemporaryDirectory() as streams:
        asked = [[*map(str, args)], str(cwd), {**os.environ, **more}, streams]
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        out, err = ((Path(streams) / name).read_text() for name in ("out", "err"))
    assert "Traceback" not in err, err
    return code, out, err


@functools.cache
def _servers() -> Iterator[Any]:
    started = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": seed}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, __file__], env=environment, **pipes))
        atexit.register(started[-1].communicate)  # closes its stdin, at which it ends
    return itertools.cycle(started)


def _serve() -> None:
    for name in COMMON:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _begin(*json.loads(line))
            return importlib.import_module("moduli.__main__").main()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _begin(args: list[str], folder: str, environment: dict[str, str], streams: str) -> None:
    """In the process that was split off: as if it had been started for this command."""
    places = (os.devnull, os.path.join(streams, "out"), os.path.join(streams, "err"))
    for stream, place in enumerate(places):
        opened = os.open(place, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, stream)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["moduli", *args]


if __name__ == "__main__":
    _serve()
