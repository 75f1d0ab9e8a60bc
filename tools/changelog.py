#!/usr/bin/env python3
"""Move the fragments of changelog.d under the heading of a version in CHANGELOG.md.

    python tools/changelog.py 0.2.0              # under "## 0.2.0 (unreleased)"
    python tools/changelog.py 0.2.0 2027-03-01   # the same, and the date of the release
    python tools/changelog.py --dry-run 0.2.0    # only print the section

changelog.d/README.md says what a fragment is.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.md")
VERSION = re.compile(r"\d+\.\d+\.\d+")
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
WIDTH = 140  # columns of CHANGELOG.md
UNRELEASED = "unreleased"


def fragments(root: Path = ROOT) -> list[Path]:
    """Every file of changelog.d but its README, by name."""
    return sorted(path for path in (root / "changelog.d").iterdir() if path.name != "README.md")


def faults(name: str, text: str) -> list[str]:
    """What is wrong with a fragment, nothing if it is well formed."""
    found = []
    if not NAME.fullmatch(name):
        found.append("its name must be small letters, digits and hyphens, and .md")
    lines = text.splitlines()
    if not lines or not lines[0].startswith("- "):
        found.append("it must begin with '- '")
    for number, line in enumerate(lines, 1):
        if not re.match(r"(- |  )\S", line):
            found.append(
                f"line {number} begins neither an entry with '- ' nor goes on with two blanks"
            )
        if len(line) > WIDTH:
            found.append(f"line {number} has {len(line)} columns, more than {WIDTH}")
    ends = [
        line for line, after in zip(lines, [*lines[1:], "- "], strict=False) if after[:2] == "- "
    ]
    if not all(line.endswith((".", ":")) for line in ends):
        found.append("every entry ends with a full stop")
    return found


def assembled(changelog: str, version: str, entries: Sequence[str], date: str | None) -> str:
    """The changelog with entries first in the section of a version, which may have to be made.

    Raises:
        ValueError: the version was released before, or the changelog has no title.
    """
    title, _, rest = changelog.partition("\n")
    if not title.startswith("# "):
        raise ValueError("CHANGELOG.md must begin with its title")
    heading = f"## {version} ({date or UNRELEASED})"
    body = "".join(entry.rstrip("\n") + "\n" for entry in entries)
    old = re.search(rf"(?m)^## {re.escape(version)} \((.*)\)\n+", rest)
    if old is None:
        return f"{title}\n\n{heading}\n\n{body}\n{rest.lstrip()}"
    if old[1] != UNRELEASED:
        raise ValueError(f"{version} was released on {old[1]}")
    return f"{title}\n{rest[: old.start()]}{heading}\n\n{body}{rest[old.end() :]}"


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("version", help="as in 0.2.0")
    parser.add_argument(
        "date", nargs="?", help="of the release, as in 2027-03-01; left out, it is unreleased"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the fragments and change nothing"
    )
    given = parser.parse_args(arguments)
    if not VERSION.fullmatch(given.version) or not (
        given.date is None or DATE.fullmatch(given.date)
    ):
        parser.error("a version such as 0.2.0 and a date such as 2027-03-01 are needed")
    found = {path: path.read_text() for path in fragments(root)}
    wrong = [
        f"{path.name}: {why}" for path, text in found.items() for why in faults(path.name, text)
    ]
    if wrong:
        parser.error("; ".join(wrong))
    if given.dry_run:
        print("".join(found.values()), end="")
        return 0
    changelog = root / "CHANGELOG.md"
    changelog.write_text(
        assembled(changelog.read_text(), given.version, list(found.values()), given.date)
    )
    for path in found:
        path.unlink()
    print(f"{len(found)} fragments moved to {changelog.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
