"""Sweeps: resumed after SIGKILL, over processes and a Dask cluster that loses a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from moduli import Undecided
from moduli.training import job_store
from moduli.training.job_store import Job, run

ROOT = Path(__file__).parents[2]
SQUARE = """
import os, time

def square(n, folder, wait=0.0):
    with open(os.path.join(folder, f"{n}.log"), "a") as log:
        log.write("x")
    time.sleep(wait)
    if n == 13:
        raise ValueError("thirteen")
    if n == 99:
        raise OSError("no disk")
    return n * n

def here(n):
    time.sleep(0.3)
    return [n, os.getpid()]
"""


@pytest.fixture
def square(tmp_path, monkeypatch):
    (tmp_path / "squaring.py").write_text(SQUARE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join([str(tmp_path), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    )
    (tmp_path / "logs").mkdir()
    return lambda n, **more: Job(
        "squaring:square", {"n": n, "folder": str(tmp_path / "logs"), **more}
    )


def calls(folder):
    return {path.stem: len(path.read_text()) for path in (folder / "logs").iterdir()}


def test_each_job_is_done_once(tmp_path, square):
    jobs = [square(n) for n in (1, 2, 3, 2)]
    seen = []
    done = run(jobs, store=tmp_path / "store", progress=lambda *step: seen.append(step))
    assert [one["result"] for one in done] == [1, 4, 9, 4]
    assert calls(tmp_path) == {"1": 1, "2": 1, "3": 1}
    assert seen[0] == (0, 3, "jobs")
    assert seen[-1] == (3, 3, "jobs")
    again = run([*jobs, square(5)], store=tmp_path / "store")
    assert [one["result"] for one in again] == [1, 4, 9, 4, 25]
    assert calls(tmp_path)["2"] == 1


def test_errors_of_a_job_are_results_and_others_are_raised(tmp_path, square):
    done = run([square(13), square(2)], store=tmp_path / "store")
    assert done[0]["error"] == "ValueError: thirteen"
    assert done[1]["result"] == 4
    with pytest.raises(OSError, match="no disk"):
        run([square(3), square(99), square(4)], store=tmp_path / "store")
    assert run([square(3)], store=tmp_path / "store")[0]["result"] == 9
    assert calls(tmp_path)["3"] == 1


def test_keys_name_the_content(square):
    assert square(1).key == square(1).key != square(2).key
    assert Job("a:b", {"x": 1, "y": 2}).key == Job("a:b", {"y": 2, "x": 1}).key
    with pytest.raises(ValueError, match="JSON"):
        Job("a:b", {"x": float("nan")}).key  # noqa: B018


def test_a_file_that_is_no_result_is_named(tmp_path, square):
    store = tmp_path / "store"
    store.mkdir()
    (store / f"{square(1).key}.json").write_text("{")
    with pytest.raises(ValueError, match="is no result of its job; remove it"):
        run([square(1)], store=store)


def test_a_result_of_another_job_is_named(tmp_path, square):
    store, job = tmp_path / "store", square(1)
    (done,) = run([job], store=store)
    file = store / f"{job.key}.json"
    others = [
        {**done, "function": "squaring:cube"}, {**done, "arguments": {}},
        {**done, "error": "both"}, {**done, "arguments": 3},
        {k: v for k, v in done.items() if k != "result"}, {**done, "error": 7}, [done],
    ]  # fmt: skip
    for text in [*map(json.dumps, others), "[" * 10**5, "\ud800", '{"result": ' + "9" * 5000 + "}"]:
        file.write_text(text, errors="surrogatepass")
        with pytest.raises(ValueError, match="is no result of its job; remove it"):
            run([job], store=store)
    file.write_text(json.dumps(done))
    assert run([job], store=store) == [done]


def test_processes_do_the_same(tmp_path, square):
    jobs = [square(n) for n in range(1, 10)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        done = run(jobs, store=tmp_path / "store", executor=executor)
    assert [one["result"] for one in done] == [n * n for n in range(1, 10)]


def test_killed_in_the_middle_and_started_again(tmp_path, square):
    """SIGKILL at several moments: what has a file is not done again, and everything is done in the
    end.
    """
    script = tmp_path / "go.py"
    script.write_text(
        "from moduli.training.job_store import Job, run\n"
        f"run([Job('squaring:square', dict(n=n, folder={str(tmp_path / 'logs')!r}, wait=0.05)) for n in range(20, 50)], "
        f"store={str(tmp_path / 'store')!r})\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "src")])}
    finished = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, str(script)], env=env)
        target = finished + 5
        while len(list((tmp_path / "store").glob("*.json"))) < target and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        files = list((tmp_path / "store").glob("*.json"))
        finished = len(files)
        assert all("result" in json.loads(path.read_text()) for path in files)
    before = calls(tmp_path)
    jobs = [square(n, wait=0.05) for n in range(20, 50)]
    done = {
        json.loads(path.read_text())["arguments"]["n"]
        for path in (tmp_path / "store").glob("*.json")
    }
    assert [one["result"] for one in run(jobs, store=tmp_path / "store")] == [
        n * n for n in range(20, 50)
    ]
    after = calls(tmp_path)
    assert all(after[str(n)] == before[str(n)] for n in done)
    assert all(after[str(n)] - before.get(str(n), 0) == 1 for n in range(20, 50) if n not in done)


class Deserted(Executor):
    """Takes jobs and has nobody who does them; the first may be dropped, as a cluster does."""

    def __init__(self, dropped=False):
        self.futures, self.dropped = [], dropped

    def submit(self, fn, /, *args, **kwargs):
        self.futures.append(Future())
        if self.dropped:
            self.futures[0].cancel()
        return self.futures[-1]


class ShutDown(Deserted):
    """Does the first job, and takes no other."""

    def submit(self, fn, /, *args, **kwargs):
        if self.futures:
            raise RuntimeError("cannot schedule new futures after shutdown")
        super().submit(fn).set_result(fn())
        return self.futures[0]


def test_a_sweep_without_workers_says_so_and_gives_up(tmp_path, square, monkeypatch):
    monkeypatch.setattr(job_store, "WATCH", 0.01)
    executor, seen = Deserted(), []
    with pytest.raises(Undecided, match=r"0\.05 s without a worker; 0 of 1 results are in"):
        run(
            [square(1)], store=tmp_path / "store", executor=executor, workers=lambda: 0, patience=0.05,
            progress=lambda *step: seen.append(step),
        )  # fmt: skip
    assert (0, 1, "jobs; no worker is left, waiting for one") in seen
    assert all(future.cancelled() for future in executor.futures)
    with pytest.raises(Undecided, match=r"0\.05 s without a result"):
        run([square(1)], store=tmp_path / "store", executor=Deserted(), patience=0.05)
    with pytest.raises(Undecided, match="start again and only the rest is done"):
        run([square(1)], store=tmp_path / "store", executor=Deserted(dropped=True))


def test_others_are_not_waited_for_forever_once_a_job_was_dropped(tmp_path, square, monkeypatch):
    monkeypatch.setattr(job_store, "WATCH", 0.01)
    monkeypatch.setattr(job_store, "LOST", 0.05)
    for workers in (None, lambda: 1):  # a worker that is there does not bring back what is lost
        executor = Deserted(dropped=True)
        with pytest.raises(Undecided, match=r"a job was dropped, .* of the others; 0 of 3 results"):
            run(
                [square(n) for n in range(3)], store=tmp_path / "store", executor=executor, workers=workers
            )  # fmt: skip
        assert all(future.cancelled() for future in executor.futures)


def test_patience_that_is_larger_holds_for_dropped_jobs_too(tmp_path, square, monkeypatch):
    monkeypatch.setattr(job_store, "WATCH", 0.01)
    monkeypatch.setattr(job_store, "LOST", 0.01)
    with pytest.raises(Undecided, match=r"a job was dropped, and 0\.3 s without a result"):
        run(
            [square(n) for n in range(3)], store=tmp_path / "store", executor=Deserted(dropped=True),
            workers=lambda: 1, patience=0.3,
        )  # fmt: skip


def test_an_interrupt_stops_what_is_in_flight(tmp_path, square, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(job_store, "WATCH", 0.01)
    executor = Deserted()
    with pytest.raises(KeyboardInterrupt):
        run(
            [square(n) for n in range(3)],
            store=tmp_path / "store",
            executor=executor,
            workers=interrupted,
        )
    assert all(future.cancelled() for future in executor.futures)


def test_results_in_flight_are_kept_when_an_executor_is_shut_down(tmp_path, square):
    jobs = [square(n) for n in range(3)]
    with pytest.raises(RuntimeError, match="after shutdown"):
        run(jobs, store=tmp_path / "store", executor=ShutDown())
    assert [job.key for job in jobs if (tmp_path / "store" / f"{job.key}.json").exists()] == [
        jobs[0].key
    ]


def test_a_full_disk_stops_what_is_in_flight(tmp_path, square, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job_store, "atomic_write", full)
    executor = Deserted()
    first = Future()
    first.set_result({})
    executor.submit = lambda fn: (
        executor.futures.append(Future() if executor.futures else first) or executor.futures[-1]
    )
    with pytest.raises(OSError, match="No space left"):
        run([square(n) for n in range(3)], store=tmp_path / "store", executor=executor)
    assert all(future.cancelled() for future in executor.futures[1:])


def test_workers_that_come_back_are_waited_for(tmp_path, square, monkeypatch):
    monkeypatch.setattr(job_store, "WATCH", 0.01)
    with ThreadPoolExecutor(1) as executor:
        jobs = [square(n, wait=0.2) for n in (1, 2)]
        done = run(
            jobs, store=tmp_path / "store", executor=executor, workers=lambda: 1, patience=0.05
        )
    assert [one["result"] for one in done] == [1, 4]


@pytest.mark.slow
def test_a_cluster_without_workers_is_given_up(tmp_path):
    distributed = pytest.importorskip("distributed")
    (tmp_path / "small.toml").write_text(
        'data = "digits"\nwidth = 20\nsteps = 10\n[[runs]]\nname = "none"\n'
    )
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        done = subprocess.run(
            [
                sys.executable, "-m", "moduli.interface.cli", "sweep", "small.toml", "--store", "runs", "--scheduler",
                cluster.scheduler_address, "--patience", "2",
            ],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 3
    assert "no worker is left at" in done.stderr
    assert "2 s without a worker; 0 of 1 results are in runs" in done.stderr


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker(tmp_path, square):
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client, client.get_executor() as executor:
        killed = []

        def progress(done, total, label):
            if done == 4 and not killed:
                pid = next(iter(cluster.workers.values())).process.pid
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

        jobs = [Job("squaring:here", {"n": n}) for n in range(16)]
        done = run(jobs, store=tmp_path / "store", executor=executor, progress=progress)
    assert killed
    assert [one["result"][0] for one in done] == list(range(16))


@pytest.mark.slow
def test_the_command_line_finds_a_cluster_by_its_address(tmp_path):
    distributed = pytest.importorskip("distributed")
    (tmp_path / "small.toml").write_text(
        'data = "digits"\nwidth = 20\nsteps = 10\nseeds = 2\n[[runs]]\nname = "none"\n[[runs]]\nname = "noisy"\n'
        'noise = { kind = "rows", alpha = 1.75, sigma = 0.02 }\n'
    )
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        command = [
            sys.executable,
            "-m",
            "moduli.interface.cli",
            "sweep",
            "small.toml",
            "--store",
            "runs",
            "--json",
            "--scheduler",
        ]
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(
            [*command, cluster.scheduler_address],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert [line["seeds"] for line in json.loads(done.stdout)["lines"]] == [2, 2]
