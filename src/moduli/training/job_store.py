"""Many jobs over any executor, one file per result: killed at any moment and started again, only
what is missing is done.

A job is a function by its import path and its arguments as JSON. Its key is a hash of both, so a
job is done if a file with its key is in the store, whoever put it there.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moduli.common.files import atomic_write, content
from moduli.common.progress import Progress
from moduli.common.result import encoded
from moduli.kernel.errors import Undecided

AHEAD = 64
WATCH = 1.0  # seconds between two looks at the workers
LOST = 600.0  # seconds without a result after a job was dropped, or patience where that is more


@dataclass(frozen=True)
class Job:
    """A call: `function` as "package.module:name", `arguments` that JSON can hold.

    >>> job = Job("statistics:fmean", {"data": [1, 2], "weights": [1, 3]})
    >>> job().get("result"), job.key == Job("statistics:fmean", {"weights": [1, 3], "data": [1, 2]}).key
    (1.75, True)
    """

    function: str
    arguments: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        text = json.dumps([self.function, dict(self.arguments)], sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def __call__(self) -> dict[str, Any]:
        """Do it. A ValueError is a result too: it would come again."""
        module, _, name = self.function.partition(":")
        try:
            result = getattr(importlib.import_module(module), name)(**self.arguments)
        except ValueError as error:
            return {**self._call, "error": f"{type(error).__name__}: {error}"}
        return {**self._call, "result": result}

    @property
    def _call(self) -> dict[str, Any]:
        return {"function": self.function, "arguments": dict(self.arguments)}


def run(
    jobs: Iterable[Job],
    *,
    store: str | Path,
    executor: Executor | None = None,
    progress: Progress | None = None,
    workers: Callable[[], int] | None = None,
    patience: float | None = None,
) -> list[dict[str, Any]]:
    """Do the jobs whose results are not in the store; all results, in the order of the jobs.

    Args:
        store: a folder, made if it is not there. executor: any of `concurrent.futures`, or Dask's
            `Client.get_executor()`; by default this process. workers: says how many the executor
            has now; progress tells when there is none. patience: seconds without a worker (where
            `workers` cannot say, without a result) after which to give up; None to wait for ever.
            Once a job was dropped the others may be lost, too: ten minutes without a result, or
            patience where that is more, end the sweep whoever is there.

    Returns:
        For each job its function, arguments, and `result` or (for a ValueError) `error`. Results
        are read back from JSON: a number that is not finite is None.

    Raises:
        What a job raises beside ValueError, after the results of others in flight are written.
        Undecided: workers died, or patience is at its end. ValueError: a file of the store that is no result
        of its job.

    >>> import tempfile
    >>> jobs = [Job("statistics:fmean", {"data": [1, n]}) for n in (2, 4)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [done["result"] for done in run(jobs, store=folder)]
    [1.5, 2.5]
    """
    folder, listed = Path(store), list(jobs)
    folder.mkdir(parents=True, exist_ok=True)
    distinct = {job.key: job for job in listed}
    missing = [job for key, job in distinct.items() if not _file(folder, key).exists()]
    done = len(distinct) - len(missing)
    if progress is not None:
        progress(done, len(distinct), "jobs")

    def alone() -> None:
        if progress is not None:
            progress(done, len(distinct), "jobs; no worker is left, waiting for one")

    results = _results(missing, executor, _Watch(workers, patience, alone))
    try:
        for job, result in results:
            try:
                atomic_write(_file(folder, job.key), encoded(result).encode())
            except OSError as error:  # a full disk, for one: what is in flight is not wanted
                results.throw(error)
            done += 1
            if progress is not None:
                progress(done, len(distinct), "jobs")
    except _GivenUp as error:
        raise Undecided(f"{error}; {_kept(done, len(distinct), folder)}") from None
    except (BrokenExecutor, CancelledError):
        kept = _kept(done, len(distinct), folder)
        raise Undecided(f"a worker process died, killed or out of memory; {kept}") from None
    return [_read(_file(folder, job.key), job) for job in listed]


def _file(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"


def _read(path: Path, job: Job) -> dict[str, Any]:
    try:
        data = json.loads(content(path))
        ours = isinstance(data, dict) and {**data, **json.loads(json.dumps(job._call))} == data
    except (ValueError, RecursionError):
        ours = False
    if (
        not ours
        or ("result" in data) == ("error" in data)
        or not isinstance(data.get("error", ""), str)
    ):
        raise ValueError(f"{path} is no result of its job; remove it and start again")
    return dict(data)


def _kept(done: int, count: int, folder: Path) -> str:
    return f"{done} of {count} results are in {folder}; start again and only the rest is done"


class _GivenUp(Exception):
    pass


class _Watch:
    """Looks at the workers while nothing comes back."""

    def __init__(
        self,
        workers: Callable[[], int] | None,
        patience: float | None,
        alone: Callable[[], None],
    ) -> None:
        self.workers, self.patience, self.alone = workers, patience, alone
        # two clocks: a worker that is there stops the first, and only a result stops the second
        self.since = self.result = time.monotonic()
        self.lost = False  # whether a job was dropped: others may never come back

    def back(self) -> None:
        """A result has come."""
        self.since = self.result = time.monotonic()

    def look(self) -> None:
        """Raises `_GivenUp` when patience is at its end."""
        if self.workers is not None:
            if self.workers() > 0:
                self.since = time.monotonic()
            else:
                self.alone()
        now = time.monotonic()
        if self.patience is not None and now - self.since > self.patience:
            missing = "a result" if self.workers is None else "a worker"
            raise _GivenUp(f"{self.patience:g} s without {missing}")
        limit = LOST if self.patience is None else max(LOST, self.patience)
        if self.lost and now - self.result > limit:
            raise _GivenUp(f"a job was dropped, and {limit:g} s without a result of the others")


def _results(
    jobs: list[Job], executor: Executor | None, watch: _Watch
) -> Generator[tuple[Job, dict[str, Any]], None, None]:
    """As they come; a few are always waiting, however many there are."""
    if executor is None:
        yield from ((job, job()) for job in jobs)
        return
    left, flying = iter(jobs), dict[Future[dict[str, Any]], Job]()
    failed: BaseException | None = None
    try:
        while True:
            while failed is None and len(flying) < AHEAD and (job := next(left, None)) is not None:
                try:
                    flying[executor.submit(job)] = job
                except RuntimeError as broken:  # or shut down
                    failed = broken
            if not flying:
                break
            come = wait(flying, timeout=WATCH, return_when=FIRST_COMPLETED).done
            # whoever cancels need not tell those who wait
            come |= {future for future in flying if future.cancelled()}
            if not come:
                watch.look()
            for future in come:
                watch.back()
                job = flying.pop(future)
                error = CancelledError() if future.cancelled() else future.exception()
                if type(error).__name__ == "KilledWorker":  # Dask's: the job ended several workers
                    error = BrokenExecutor(str(error))
                if error is None:
                    yield job, future.result()
                    continue
                if isinstance(error, (BrokenExecutor, CancelledError)):
                    watch.lost = True
                failed = failed or error
    except BaseException as error:
        # processes that are interrupted break their pool, which then fails over futures that are cancelled
        if isinstance(error, Exception) or not isinstance(executor, ProcessPoolExecutor):
            for future in flying:
                future.cancel()
        raise
    if failed is not None:
        raise failed
