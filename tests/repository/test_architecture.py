"""What is written about packages and the kernel is what the rule and the files are."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from packages_picture import PICTURE, direct, drawn, heights, picture, rule
from project import ROOT

SOURCE = ROOT / "src" / "moduli"
KERNEL = SOURCE / "kernel"
RULE = rule()


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table, headings left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {k - 1 for k, line in enumerate(lines) if re.fullmatch(r"[|\s:-]+", line)}
    body = [line for k, line in enumerate(lines) if k not in heads and k - 1 not in heads]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


def names(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def packages(text: str) -> dict[str, set[str]]:
    """What the table of CONTRIBUTING.md lets each entry import, in the words of the rule."""
    section = text.partition("## How the code is laid out")[2].partition("\n## ")[0]
    found = {}
    for entry, _, may_import in rows(section):
        (path,) = names(entry)
        assert (SOURCE / path).is_dir() if path.endswith("/") else (SOURCE / path).is_file(), path
        name = path.rstrip("/").removesuffix(".py").replace("/", ".")
        found["" if name == "__init__" else name] = {
            "" if other == "moduli" else other for other in names(may_import)
        }
    return found


def test_the_table_of_packages_is_the_rule():
    assert packages((ROOT / "CONTRIBUTING.md").read_text()) == RULE


def test_every_entry_of_the_package_is_in_the_table():
    """Or beside `__init__.py`, whose rule holds for what the rule does not name."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    beside = next(purpose for entry, purpose, _ in rows(text) if entry == "`__init__.py`")
    entries = {path.stem for path in SOURCE.glob("*.py")}
    entries |= {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    listed = {name or "__init__" for name in RULE if "." not in name}
    assert entries == listed | {name.removesuffix(".py") for name in names(beside)}


@pytest.mark.parametrize("tool", sorted((ROOT / "tools").glob("*.py")), ids=lambda p: p.stem)
def test_a_tool_that_is_asked_for_help_does_nothing_else(tool):
    written = PICTURE, ROOT / "CHANGELOG.md"
    before = [path.stat().st_mtime_ns for path in written]
    for asked, code in (("--help", 0), ("--no-such-option", 2)):
        done = subprocess.run(
            [sys.executable, str(tool), asked], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code
        assert f"usage: {tool.name}" in done.stdout + done.stderr
    assert [path.stat().st_mtime_ns for path in written] == before


def test_the_picture_is_that_of_the_rule():
    found = PICTURE.read_text()
    assert found == picture(RULE), "run: python tools/packages_picture.py"
    for name in drawn(RULE):
        assert f">{name}</text>" in found


def test_the_picture_draws_what_no_way_round_implies():
    """A check on the drawing: a diamond, with a shortcut that is left out."""
    below = {"a": set(), "b": {"a"}, "c": {"a"}, "d": {"a", "b", "c"}}
    assert heights(below) == {"a": 0, "b": 1, "c": 1, "d": 2}
    assert direct(below) == [("b", "a"), ("c", "a"), ("d", "b"), ("d", "c")]
    with pytest.raises(ValueError, match="a circle"):
        heights({"a": {"b"}, "b": {"a"}})
    with pytest.raises(ValueError, match="differ in \\['more'\\]"):
        picture({**RULE, "more": set()})


def kernel_modules() -> set[str]:
    paths = (path.relative_to(KERNEL) for path in KERNEL.rglob("*.py") if path.stem != "__init__")
    return {".".join(path.with_suffix("").parts) for path in paths}


def test_the_guide_to_the_kernel_names_every_module_once_and_no_other():
    first = [entry for entry, *_ in rows((KERNEL / "README.md").read_text())]
    listed = [name for cell in first for name in names(cell)]
    assert sorted(listed) == sorted(kernel_modules())


def test_names_in_the_guide_to_the_kernel_exist():
    """Functions and classes that it sends the reader to are there."""
    source = "\n".join(path.read_text() for path in KERNEL.rglob("*.py"))
    for cell in (row[2] for row in rows((KERNEL / "README.md").read_text())):
        for name in names(cell) - kernel_modules():
            parts = name.split(".")
            assert all(re.search(rf"\b{part}\b", source) for part in parts), name


@pytest.mark.parametrize("page", ["src/moduli/kernel/README.md", "SECURITY.md"])
def test_the_size_of_the_kernel_is_as_written(page):
    """The budget exactly, and today's lines to one part in thirty."""
    house = (ROOT / "tests" / "repository" / "test_house.py").read_text()
    budget = re.search(r"(?m)^KERNEL_LINES = (\d+)", house)
    assert budget
    text = " ".join((ROOT / page).read_text().split())
    said = re.search(r"(\d+ \d{3}) lines without blank ones, .*?(?:beyond|below) (\d+ \d{3})", text)
    assert said
    today, most = (int(number.replace(" ", "")) for number in said.groups())
    lines = [line for path in KERNEL.rglob("*.py") for line in path.read_text().splitlines()]
    assert most == int(budget[1])
    assert abs(today - sum(bool(line.strip()) for line in lines)) < today / 30
