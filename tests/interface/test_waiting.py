"""What is said while one waits, and what a time limit gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import moduli as mo
from moduli.interface import cli_support
from moduli.interface.cli_support import Pace, within

ROOT = Path(__file__).parents[2]


def clock(*times: float) -> Any:
    left = iter(map(float, times))
    return lambda: next(left)


def test_what_is_left_comes_from_what_was_done():
    pace = Pace(clock(0, 0, 10, 20, 20))
    pace.step(0, 1000, "boxes")
    pace.step(100, 1000, "boxes")
    pace.step(200, 1000, "boxes")
    assert pace.line() == "boxes: 200 of 1000, 0:20 gone, about 1:20 more for these"


def test_a_new_stage_has_a_pace_of_its_own():
    pace = Pace(clock(0, 0, 100, 100, 110, 3700))
    pace.step(0, 10, "first")
    pace.step(10, 10, "first")
    pace.step(0, 50, "second")
    pace.step(10, 50, "second")
    assert pace.line() == "second: 10 of 50, 1:01:40 gone, about 0:40 more for these"


def test_of_what_follows_a_stage_that_is_over_nothing_is_said():
    pace = Pace(clock(0, 0, 3, 30))
    pace.step(0, 2, "reduced")
    pace.step(2, 2, "reduced")
    assert pace.line() == "reduced: 2 of 2, 0:30 gone"


def test_a_stage_of_which_something_is_done_began_when_the_one_before_ended():
    pace = Pace(clock(0, 4, 5))
    pace.step(1, 4, "first")
    assert pace.line() == "first: 1 of 4, 0:05 gone, about 0:12 more for these"


def test_nothing_is_said_of_what_is_not_known():
    pace = Pace(clock(0, 5))
    assert pace.line() == "working, 0:05 gone"
    pace = Pace(clock(0, 3, 5))
    pace.step(7, None, "cells")
    assert pace.line() == "cells, 0:05 gone"


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(cli_support, "LOG_SECONDS", 0.05)
    with cli_support.bar(False) as step:
        step(3, 12, "radii")
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert lines[0].startswith("moduli: radii: 3 of 12, 0:0")
    with cli_support.bar(True) as step:
        time.sleep(0.2)
    assert capsys.readouterr().err == ""


def asked(seconds: dict[int, int], best: dict[int, Any], calls: list[int]) -> Any:
    """A question whose time, in ticks of progress, depends on its budget."""

    def ask(budget: int, progress: Any) -> Any:
        calls.append(budget)
        for k in range(seconds[budget]):
            progress(k, seconds[budget], "ticks")
        return best[budget]

    return ask


def silent(*_: object) -> None:
    pass


def ticking(monkeypatch: Any) -> None:
    """A clock on which each look takes a second."""
    now = iter(range(10**6))
    monkeypatch.setattr(cli_support.time, "monotonic", lambda: float(next(now)))


BUDGETS = [39, 156, 625, 2500, 10_000]


def test_the_best_answer_in_time_is_that_of_a_budget(monkeypatch):
    ticking(monkeypatch)
    calls: list[int] = []
    best = {b: SimpleNamespace(kind="rank", status="bounded", of=b) for b in BUDGETS}
    found, said = within(
        60.0,
        10_000,
        asked(dict(zip(BUDGETS, (2, 8, 30, 100, 400), strict=True)), best, calls),
        silent,
    )
    assert calls == [39, 156, 625, 2500]
    assert found is best[625]
    assert said == {
        "time_limit": "60 s are over: this is the whole answer of --budget 625, not of 10000"
    }


def test_with_time_the_answer_is_that_of_the_whole_budget(monkeypatch):
    ticking(monkeypatch)
    calls: list[int] = []
    best = {b: SimpleNamespace(kind="rank", status="bounded", of=b) for b in BUDGETS}
    found, said = within(1e6, 10_000, asked(dict.fromkeys(BUDGETS, 3), best, calls), silent)
    assert found is best[10_000]
    assert said == {}
    assert calls == BUDGETS


@pytest.mark.parametrize(
    "answer",
    [SimpleNamespace(kind="equal", status="proved"), SimpleNamespace(kind="equal", status="refuted"),
     SimpleNamespace(kind="compress", status="proved", optimal=True),
     SimpleNamespace(kind="rank", status="proved", exact=True)],
)  # fmt: skip
def test_what_no_budget_makes_better_ends_it(answer):
    calls: list[int] = []
    found, said = within(1e6, 10_000, asked({39: 1}, {39: answer}, calls), silent)
    assert (found, said, calls) == (answer, {}, [39])


def test_no_answer_in_time_is_undecided(monkeypatch):
    ticking(monkeypatch)
    with pytest.raises(
        mo.Undecided, match="no answer within --time-limit 5: already with --budget 39"
    ):
        within(5.0, 10_000, asked({39: 100}, {}, []), silent)


def test_a_budget_that_is_too_small_is_followed_by_a_larger_one(monkeypatch):
    ticking(monkeypatch)

    def ask(budget: int, progress: Any) -> SimpleNamespace:
        if budget < enough:
            raise mo.BudgetExhausted(f"more than {budget} cells")
        return SimpleNamespace(kind="depth", status="proved", of=budget)

    enough = 600
    found, said = within(1e6, 10_000, ask, silent)
    assert (found.of, said) == (10_000, {})
    enough = 20_000
    with pytest.raises(mo.BudgetExhausted, match="more than 10000 cells"):
        within(1e6, 10_000, ask, silent)


def moduli(*words: str, cwd: Path) -> dict[str, Any]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "moduli.interface.cli", *words, "--json"]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_a_limited_answer_is_had_again_without_a_limit(tmp_path):
    rng = np.random.default_rng(0)
    parts = [
        p
        for n, m in ((3, 40), (40, 40), (40, 2))
        for p in (rng.normal(size=(m, n)), rng.normal(size=m))
    ]
    mo.save(mo.Network.mlp(*parts, activation="relu"), tmp_path / "net.npz")
    asked = ["compress", "net.npz", "--on", "box:-1,1"]
    limited = moduli(*asked, "-o", "a.npz", "--budget", "20000", "--time-limit", "4", cwd=tmp_path)
    said = limited.pop("time_limit", None)
    budget = said.split("--budget ")[1].split(",")[0] if said else "20000"
    again = moduli(*asked, "-o", "b.npz", "--budget", budget, cwd=tmp_path)
    for answer in (limited, again):
        del answer["written"], answer["proof"]
    assert limited == again
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
