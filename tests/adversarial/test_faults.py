"""Killed, interrupted, without room: what is written is whole or not there, what is finished is
kept, and one line says so.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import moduli as mo
from moduli.training.job_store import Job, run

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
READY = "import os, moduli.interface.cli as c; os.write(2, b'ready!'); c.main()"
CONFIG = 'data = "digits"\nwidth = 8\nsteps = 20\nseeds = {}\n[[runs]]\nname = "a"\n[[runs]]\nname = "b"\nlr = 0.01\n'
PATIENCE = 1800  # seconds until a test is given up that would wait for ever
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="FAULTS ARE PLAYED ON LINUX ONLY")


def start(*args: object, cwd: Path, limits=None) -> subprocess.Popen[str]:
    """The command line, loaded and about to begin."""

    def before() -> None:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # jobs in the background of a shell inherit that it is ignored
        if limits is not None:
            limits()

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", READY, *map(str, args)]
    process = subprocess.Popen(
        command, cwd=cwd, env=ENV, start_new_session=True, preexec_fn=before, **pipes
    )
    assert (
        os.read(process.stderr.fileno(), 6) == b"ready!"
    )  # no more: what is buffered here, `communicate` does not see
    return process


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert "Traceback" not in err, err
    return process.returncode, out, err


def moduli(*args: object, cwd: Path, limits=None) -> tuple[int, str, str]:
    return end(start(*args, cwd=cwd, limits=limits))


def children(process: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def worked(pid: int) -> float:
    """Seconds of work that a process has done, which a busy machine does not change."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(holds):
    """Wait for something that comes, however busy the machine is; what never comes does not stop
    all other tests.
    """
    limit = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)


def long_work(folder: Path) -> dict[str, tuple[object, ...]]:
    """Commands that go on for minutes."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        widths = (6, 60, 60, 60, 2)
        parts = [
            p for n, m in pairwise(widths) for p in (rng.normal(size=(m, n)), rng.normal(size=m))
        ]
        mo.save(mo.Network.mlp(*parts, activation="relu"), folder / f"{name}.npz")
    rows = rng.uniform(-1, 1, (60, 2))
    mo.save(
        mo.Network.mlp(rows, rng.uniform(-1, 1, 60), rng.normal(size=(1, 60)), [0.0]),
        folder / "t.npz",
    )
    (folder / "s.toml").write_text(CONFIG.format(5000))
    return {
        "compress": ("compress", "a.npz", "-o", "small.npz", "--on", "box:-1,1", "--budget", 10**9),
        "rank": ("rank", "a.npz", "--on", "box:-1,1", "--budget", 10**9),
        "distance": ("distance", "a.npz", "b.npz", "--on", "box:-1,1", "--budget", 10**9),
        "report": ("report", "t.npz", "-o", "page.html", "--budget", 10**9),
        "sweep": ("sweep", "s.toml", "--store", "runs"),
        "sweep on processes": ("sweep", "s.toml", "--store", "runs", "--workers", "2"),
    }


# Ctrl-C ---------------------------------------------------------------------------------------------------------

INTERRUPTED = (
    130,
    -signal.SIGINT,
)  # the second where Python itself ends by the signal; a shell shows 130 for both


@pytest.mark.parametrize(
    "name",
    [
        "compress",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("rank", "distance", "report", "sweep", "sweep on processes")
        ),
    ],
)
def test_interrupted(name, tmp_path):
    work = long_work(tmp_path)[name]
    before, runs = set(tmp_path.iterdir()), tmp_path / "runs"
    process = start(*work, cwd=tmp_path)
    if "sweep" in name:
        until(lambda: process.poll() is not None or list(runs.glob("*.json")))
    else:
        before_work = worked(process.pid)
        until(lambda: process.poll() is not None or worked(process.pid) > before_work + 1.5)
    assert process.poll() is None, "the work was too short to interrupt"
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = end(process)
    kept = (
        "finished runs are kept in runs, the same command does the rest"
        if "sweep" in name
        else "nothing was written"
    )
    assert (code in INTERRUPTED, out) == (True, "")
    assert re.fullmatch(rf"\n?moduli: interrupted( at: [^\n]+)?; {kept}\n", err), err
    assert set(tmp_path.iterdir()) - before == ({runs} if "sweep" in name else set())
    for path in runs.glob("*"):
        assert "result" in json.loads(path.read_bytes())


# Killed ---------------------------------------------------------------------------------------------------------

SAVING = """
import sys, itertools, numpy as np, moduli as mo
nets = [mo.Network.mlp(np.full((300, 1000), v), np.zeros(300), np.ones((1, 300)), [0.0]) for v in (1.0, 2.0)]
print("ready", flush=True)
for k in itertools.count():
    mo.save(nets[k % 2], sys.argv[1])
"""


def killed_saving(tmp_path: Path, suffix: str, times: int) -> None:
    rng, target = random.Random(suffix), tmp_path / f"net{suffix}"
    for _ in range(times):
        command = [sys.executable, "-c", SAVING, str(target)]
        process = subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        if target.exists():
            weight = mo.load(target).layers[0].weight
            assert weight[0, 0] in (1.0, 2.0)
            assert (weight == weight[0, 0]).all()
    net = mo.Network.mlp([[3.0]], [0.0], [[1.0]], [0.0])
    assert mo.load(mo.save(net, target)) == net


def test_save_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    killed_saving(tmp_path, ".npz", 2)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".safetensors", ".npz"])
def test_save_killed_at_many_moments_leaves_a_whole_file(tmp_path, suffix):
    killed_saving(tmp_path, suffix, 5)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["compress", "report"])
def test_commands_killed_at_any_moment_leave_whole_files(tmp_path, command):
    rng, out = (
        random.Random(command),
        tmp_path / ("small.onnx" if command == "compress" else "page.html"),
    )
    args = (command, "zoo:digits-tanh-grid", "-o", out.name)
    for _ in range(5):
        process = start(*args, cwd=tmp_path)
        time.sleep(rng.uniform(0.0, 1.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if out.exists() and command == "compress":
            small, proof = mo.load(out), tmp_path / "small.onnx.cert.json"
            assert (
                not proof.exists()
                or mo.check(proof, small, mo.load("zoo:digits-tanh-grid")).status == "proved"
            )
        elif out.exists():
            assert out.read_text().rstrip().endswith("</html>")
    assert moduli(*args, cwd=tmp_path)[0] == 0
    assert out.exists()


@pytest.mark.slow
def test_sweep_killed_and_started_again_gives_the_same_table(tmp_path):
    """And its workers end with it."""
    (tmp_path / "s.toml").write_text(CONFIG.format(6))
    tables = []
    for store in ("once", "twice"):
        args, runs = (
            ("sweep", "s.toml", "--store", store, "--workers", "2", "--json"),
            tmp_path / store,
        )
        if store == "twice":
            process = start(*args, cwd=tmp_path)
            until(
                lambda process=process, runs=runs: (
                    process.poll() is not None or len(list(runs.glob("*.json"))) > 2
                )
            )
            workers = children(process)
            process.kill()
            process.communicate()
            until(lambda workers=workers: not any(map(alive, workers)))
            (runs / f".{next(runs.glob('*.json')).name}.abc.part").write_text("{")
            assert len(list(runs.glob("*.json"))) < 12, (
                "the sweep was done before it could be killed"
            )
        code, out, err = moduli(*args, cwd=tmp_path)
        assert (code, err) == (0, "")
        tables.append({**json.loads(out), "store": None})
    assert tables[0] == tables[1]


# A process that dies --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sweep_whose_worker_dies_keeps_what_is_done(tmp_path):
    (tmp_path / "s.toml").write_text(CONFIG.format(1000))
    process, runs = (
        start("sweep", "s.toml", "--store", "runs", "--workers", "2", cwd=tmp_path),
        tmp_path / "runs",
    )
    until(lambda: process.poll() is not None or list(runs.glob("*.json")))
    os.kill(children(process)[-1], signal.SIGKILL)
    code, out, err = end(process)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert (
        f"a worker process died, killed or out of memory; {len(list(runs.glob('*.json')))} of 2000 results are in"
        in err
    )


@pytest.mark.slow
def test_curve_whose_worker_dies_says_so(tmp_path):
    rng = np.random.default_rng(0)
    dense = (
        rng.uniform(-1, 1, (1000, 2)),
        rng.uniform(-1, 1, 1000),
        rng.normal(size=(1, 1000)),
        [0.0],
    )
    mo.save(mo.Network.mlp(*dense), tmp_path / "t.npz")
    process = start(
        "curve", "t.npz", "--radii", "0.1,0.2,20", "--workers", "2", "--budget", 10**9, cwd=tmp_path
    )
    until(lambda: len(children(process)) > 2)
    until(lambda: sum(map(worked, children(process))) > 2)
    os.kill(children(process)[-1], signal.SIGKILL)
    code, out, err = end(process)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "a worker process died" in err


def test_jobs_that_end_their_process(tmp_path):
    jobs = [Job("os:_exit", {"status": k}) for k in range(3)]
    good = [Job("statistics:fmean", {"data": [1, k]}) for k in range(3)]
    done = run(good, store=tmp_path / "runs")
    executor = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with (
        executor,
        pytest.raises(
            mo.Undecided, match=r"a worker process died.*3 of 6 results are in .*runs; start again"
        ),
    ):
        run([*good, *jobs], store=tmp_path / "runs", executor=executor)
    assert run(good, store=tmp_path / "runs") == done
    executor = ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=os._exit, initargs=(1,)
    )
    with executor, pytest.raises(BrokenProcessPool, match="terminated abruptly"):
        mo.rank_curve(mo.load("zoo:digits-tanh-grid"), radii=[0.0, 0.1], executor=executor)


# Without room, without rights -----------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path):
    """A file system of 64 KiB where this machine lets us make one."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(
            "NO SMALL DISK HERE: mounting needs rights; files of a limited size are tried instead"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def no_large_files() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


WRITERS = {
    "compress": ("compress", "zoo:digits-tanh", "-o", "{}/small.onnx"),
    "canon": ("canon", "zoo:digits-tanh", "-o", "{}/normal.npz"),
    "demo": ("demo", "-o", "{}"),
}


def refused_to_write(process: tuple[int, str, str], reason: str) -> None:
    code, out, err = process
    assert (code, out) == (2, ""), err
    assert err.startswith("moduli: cannot write ")
    assert reason in err
    assert err.count("\n") == 1


SOME = ["compress", *(pytest.param(name, marks=pytest.mark.slow) for name in ("canon", "demo"))]


@pytest.mark.parametrize("name", SOME)
def test_a_full_disk(name, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        (disk / "filler").write_bytes(bytes(60 * 1024))
        refused_to_write(
            moduli(*(a.replace("{}", "disk") for a in WRITERS[name]), cwd=tmp_path),
            "No space left on device",
        )
        assert [p.name for p in disk.iterdir()] == ["filler"]


@pytest.mark.parametrize("name", SOME)
def test_files_that_may_not_grow(name, tmp_path):
    args = [a.replace("{}", ".") for a in WRITERS[name]]
    refused_to_write(moduli(*args, cwd=tmp_path, limits=no_large_files), "File too large")
    assert list(tmp_path.iterdir()) == []


REPORT = ("report", "zoo:digits-tanh-grid", "-o", "{}/page.html", "--budget", "4")


@pytest.mark.parametrize(
    ("args", "place"),
    [
        (WRITERS["compress"], "file"),
        (WRITERS["compress"], "/proc/no"),
        pytest.param(REPORT, "file", marks=pytest.mark.slow),
    ],
)
def test_a_place_that_takes_no_files(args, place, tmp_path):
    (tmp_path / "file").touch()
    refused_to_write(moduli(*(a.replace("{}", place) for a in args), cwd=tmp_path), place)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_store_that_takes_no_files(tmp_path):
    (tmp_path / "s.toml").write_text(CONFIG.format(1))
    for place in ("s.toml/runs", "/proc/runs"):
        refused_to_write(moduli("sweep", "s.toml", "--store", place, cwd=tmp_path), place)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_an_answer_that_cannot_be_printed(form, tmp_path):
    command = [sys.executable, "-c", READY, "info", "zoo:digits-tanh", *form]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, env=ENV, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
    refused_to_write(
        (done.returncode, "", done.stderr.removeprefix("ready!")),
        "cannot write the answer: No space left",
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command, env=ENV, stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "ready!")
    done = subprocess.run(
        command,
        env=ENV,
        preexec_fn=lambda: os.close(1),
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "ready!")
