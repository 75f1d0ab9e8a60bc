"""What the commands share: the bar, the printing of answers, files that can be written, and failing
in one line.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from moduli.common.extras import needed
from moduli.common.result import encoded, table
from moduli.kernel.errors import ModuliError, Undecided, printable

from .wording import in_options, in_words_of_commands

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from moduli.common.progress import Progress
    from moduli.common.result import Result

    Text = click.ParamType[str]
else:
    Text = click.ParamType  # generic in the newest click only

# Asking ---------------------------------------------------------------------------------------------------------


class Target(Text):
    """A file that a command writes, refused before the work if its suffix or its folder cannot be, or if
    what draws it is not installed.
    """

    name = "file"

    def __init__(self, *suffixes: str, drawn: bool = False) -> None:
        self.suffixes, self.drawn = suffixes, drawn

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = Path(value)
        if path.suffix.lower() not in self.suffixes:
            raise ValueError(
                f"cannot write {value}: the suffix {path.suffix!r} is none of {' '.join(self.suffixes)}"
            )
        if not path.parent.is_dir():
            raise ValueError(
                f"cannot write {value}: there is no folder {path.parent}; make it, or choose another place"
            )
        if self.drawn:
            with needed("matplotlib", "plot"):
                import matplotlib  # noqa: F401
        return value


MODEL = Target(".onnx", ".safetensors", ".npz", ".nnet")
SMALLER = Target(*MODEL.suffixes, ".tflite")  # of a model that was read from such a file
PICTURE = Target(".svg", ".png", ".pdf", drawn=True)
PAGE = Target(".html", ".htm")
CERTIFICATE = Target(".json")


@contextmanager
def writing(out: Path | str) -> Iterator[None]:
    """A target that cannot be written is a matter of usage, not of reading."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ValueError(
            f"cannot write {out}: {error.strerror or error}; choose another place"
        ) from None


# Waiting --------------------------------------------------------------------------------------------------------


SHOW_CURSOR = "\x1b[?25h"


class Interrupted(Exception):
    """Ctrl-C: how far the work was, and what stays of it. No `KeyboardInterrupt`, on which click
    prints a line of its own.
    """


@contextmanager
def bar(quiet: bool, kept: str = "nothing was written") -> Iterator[Progress]:
    """A bar on a terminal, for work over a second. Interrupted, the last that the work told is
    said, and what is kept.
    """
    last = ""

    def said() -> str:
        return f"interrupted{f' at: {last}' if last else ''}; {kept}"

    with _drawn(quiet) as draw, _ends_soon(said):

        def step(done: int, total: int | None, label: str) -> None:
            nonlocal last
            last = f"{label} ({done} of {total})" if total else label
            draw(done, total, label)

        try:
            yield step
        except KeyboardInterrupt:
            raise Interrupted(said()) from None


@contextmanager
def _ends_soon(said: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C ends within a second, also in a solver's own code, which does not return to Python
    before it is done.
    """
    from multiprocessing import active_children
    from signal import SIGINT, set_wakeup_fd
    from socket import socketpair
    from threading import Event, Thread, current_thread, main_thread

    if current_thread() is not main_thread():
        yield
        return
    (here, there), over = socketpair(), Event()

    def watch() -> None:
        while (came := here.recv(1)) not in (bytes([SIGINT]), b""):
            pass
        if came and not over.wait(0.8):
            for child in active_children():
                child.terminate()
            click.echo(f"{SHOW_CURSOR if sys.stderr.isatty() else ''}\nmoduli: {said()}", err=True)
            os._exit(130)

    there.setblocking(False)
    before = set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        set_wakeup_fd(before)
        there.close()
        watcher.join()
        here.close()


LOG_SECONDS = 30  # between lines in a log
WIDE = 100  # columns from which on there is room for a bar beside words


class Pace:
    """How far work is, in words: what is done, how long it took, and how much longer it can take at this
    pace. A total is the most that there can be; searches end earlier.

    >>> times = iter([0.0, 0.0, 10.0, 12.0])
    >>> pace = Pace(clock=lambda: next(times))
    >>> pace.step(0, 100, "boxes")
    >>> pace.step(25, 100, "boxes")
    >>> pace.line()
    'boxes: 25 of 100, 0:12 gone, about 0:30 more for these'
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.start = self.stage = clock()
        self.done = 0
        self.total: int | None = None
        self.label, self.at = "", self.start

    def step(self, done: int, total: int | None, label: str) -> None:
        """Another total or fewer things done: another stage, with a pace of its own. It began when the
        one before ended, or now if nothing of it is done.
        """
        now = self.clock()
        if total != self.total or done < self.done:
            self.stage = self.at if done else now
        self.at = now
        self.done, self.total, self.label = done, total, label

    @property
    def work(self) -> str:
        if not self.label:
            return "working"
        return f"{self.label}: {self.done} of {self.total}" if self.total else self.label

    @property
    def times(self) -> str:
        gone = f"{_minutes(self.clock() - self.start)} gone"
        passed = self.at - self.stage
        if not self.total or not 0 < self.done < self.total or passed <= 0:
            return gone  # what follows a stage that is over is not known
        left = passed * (self.total - self.done) / self.done
        return f"{gone}, about {_minutes(left)} more for these"

    def line(self) -> str:
        return f"{self.work}, {self.times}"


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def _drawn(quiet: bool) -> Iterator[Progress]:
    pace = Pace()
    if quiet:
        yield pace.step
    elif sys.stderr.isatty():
        with _on_terminal(pace) as step:
            yield step
    else:
        with _in_log(pace) as step:
            yield step


@contextmanager
def _in_log(pace: Pace) -> Iterator[Progress]:
    """A line now and then, for whoever reads a log."""
    from threading import Event, Thread

    over = Event()

    def tell() -> None:
        while not over.wait(LOG_SECONDS):
            click.echo(f"moduli: {pace.line()}", err=True)

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield pace.step
    finally:
        over.set()
        teller.join()


@contextmanager
def _on_terminal(pace: Pace) -> Iterator[Progress]:
    from threading import Timer

    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Times(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(pace.times)

    console = Console(stderr=True)
    words = TextColumn(
        "{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
    )
    bars = [BarColumn(bar_width=20)] if console.width >= WIDE else []
    times = Times(table_column=Column(no_wrap=True, overflow="ellipsis"))
    shown = Progress(words, *bars, times, console=console, transient=True, expand=True)
    task, timer = shown.add_task("working", total=None), Timer(1, shown.start)
    timer.daemon = True
    timer.start()

    def step(done: int, total: int | None, label: str) -> None:
        """A stage that is complete leaves the bar open: another may follow."""
        pace.step(done, total, label)
        still = total if total and done < total else None
        shown.update(task, completed=done if still else 0, total=still, description=pace.work)

    try:
        yield step
    finally:
        timer.cancel()
        timer.join()
        shown.stop()


GRACE = 3.0
RUNGS = 5  # budgets that are tried under a time limit, each four times the one before


class _TimeUp(Exception):
    """The time that was wished for is over."""


def within(
    limit: float | None,
    budget: int,
    ask: Callable[..., Any],
    progress: Progress,
    searches: bool = True,
) -> tuple[Any, dict[str, str]]:
    """The best answer that comes within a time, and what is to be said of that.

    Under a limit the question `ask(budget=, progress=)` is asked with a small budget, then with four times as
    much, and so on up to `budget`. The smallest one may take `GRACE` times as long. What comes back is
    always the whole answer of one of these budgets, and says of which: it can be had again without a
    limit. Without a limit, or where no budget matters, it is asked once.

    Raises:
        Undecided: not even the smallest budget was through in time.
    """
    if limit is None:
        return ask(budget=budget, progress=progress), {}
    start = time.monotonic()
    end = start + limit

    def watched(done: int, total: int | None, label: str) -> None:
        progress(done, total, label)
        if time.monotonic() > (end if found is not None else start + GRACE * limit):
            raise _TimeUp

    found: Any = None
    refused: Undecided | None = None
    spent = 0
    rungs = [max(4, budget // 4**k) for k in reversed(range(RUNGS))] if searches else [budget]
    for rung in dict.fromkeys(rungs):
        if found is not None and (_settled(found) or time.monotonic() > end):
            break
        try:
            found, spent = ask(budget=rung, progress=watched), rung
        except Undecided as error:  # with so small a budget
            refused = error
        except _TimeUp:
            _end_workers()
            break
    else:
        if refused is not None and found is None:
            raise refused
    if found is None:
        least = f"already with --budget {rungs[0]} " if searches and refused is None else ""
        raise Undecided(
            f"no answer within --time-limit {limit:g}: {least}it takes longer; allow more time, or ask of less"
        )
    if spent == budget or _settled(found):
        return found, {}
    said = f"{limit:g} s are over: this is the whole answer of --budget {spent}, not of {budget}"
    return found, {"time_limit": said}


def _settled(answer: Any) -> bool:
    """Whether no budget makes an answer better."""
    kind, status = getattr(answer, "kind", ""), getattr(answer, "status", "")
    if kind in ("equal", "distance"):
        return status in ("proved", "refuted")
    return bool(getattr(answer, "optimal", False) or getattr(answer, "exact", False))


def _end_workers() -> None:
    """Whoever works for nobody any more."""
    from multiprocessing import active_children

    for child in active_children():
        child.terminate()


@contextmanager
def processes(count: int) -> Iterator[Executor | None]:
    """Processes, which end with this one."""
    if count == 1:
        yield None
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import active_children, get_context
    from signal import SIG_IGN, SIGINT, signal

    executor = ProcessPoolExecutor(count, get_context("spawn"), initializer=_leash)
    before = signal(SIGINT, SIG_IGN)  # inherited: Ctrl-C is for this process alone
    try:
        for k in range(count):
            executor.submit(abs, k)
    finally:
        signal(SIGINT, before)
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for child in active_children():
            child.terminate()
        raise
    executor.shutdown(cancel_futures=True)


def _leash() -> None:
    """A worker ends with its parent, however that ends, and is silent."""
    import numpy as np

    np.seterr(all="ignore")
    from multiprocessing import parent_process
    from multiprocessing.connection import wait
    from threading import Thread

    parent = parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def follow() -> None:
        wait([sentinel])
        os._exit(1)

    Thread(target=follow, daemon=True).start()


# Answering ------------------------------------------------------------------------------------------------------


def show(result: Result, as_json: bool, quiet: bool, **extra: Any) -> None:
    if quiet:
        return
    if as_json:
        return show_data({**result.to_json(), **extra})
    from moduli.common.tables import Labelled

    with writing("the answer"):
        said = [(label.replace("_", " "), str(text)) for label, text in extra.items()]
        found = result.table(said)
        if isinstance(found, Labelled):
            found = Labelled(found.title, [(label, in_options(text)) for label, text in found.rows])
        _console().print(found)


def show_data(data: dict[str, Any]) -> None:
    with writing("the answer"):
        click.echo(encoded(data))


def show_rows(title: str, rows: Sequence[tuple[str, str]]) -> None:
    with writing("the answer"):
        _console().print(table(title, list(rows)))


UNWRAPPED = 10_000  # columns of what no terminal shows: whoever reads lines gets whole ones


def _console() -> Any:
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else UNWRAPPED
    return Ours(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


# Failing --------------------------------------------------------------------------------------------------------


def fail_with(error: BaseException) -> NoReturn:
    """One line and the exit code for whatever went wrong."""
    message, code = failure(error)
    click.echo(f"moduli: {message}", err=True)
    sys.exit(code)


def failure(error: BaseException) -> tuple[str, int]:
    """What is said of an error in one line, and the exit code."""
    message, code = _failure(error)
    return printable(message), code


def _failure(error: BaseException) -> tuple[str, int]:
    if isinstance(error, Interrupted):
        return str(error), 130
    if isinstance(error, BrokenExecutor):
        return "a worker process died, killed or out of memory; try again with fewer --workers", 3
    if isinstance(error, click.UsageError):
        return _usage(error), 2
    if isinstance(error, ModuliError):
        return in_words_of_commands(error), error.exit_code
    if isinstance(error, FileNotFoundError):
        return f"{error.filename}: no such file or folder{_nearby(str(error.filename))}", 4
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error), 4
    return str(error) or "not enough memory", 2


STATUS = {1: "rejected", 2: "usage", 3: "undecided", 4: "unreadable"}


def refusal(command: str, error: BaseException) -> dict[str, Any]:
    """The JSON object of a command that has no answer: why, in one line."""
    reason, code = failure(error)
    return {"schema": f"moduli.{command}/1", "status": STATUS[code], "reason": reason}


def _usage(error: click.UsageError) -> str:
    """What was typed wrong, and how it is typed."""
    message, command = error.format_message().rstrip("."), error.ctx.command if error.ctx else None
    example = re.search(r"Example: (.+)", (command and command.help) or "")
    way_out = f"as in: {example[1]}" if example else "moduli --help lists the commands"
    return f"{message[0].lower()}{message[1:]}; {way_out}"


def _nearby(name: str) -> str:
    """The file that was meant, perhaps."""
    path = Path(name)
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, 1, 0.8)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""
