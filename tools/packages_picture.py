#!/usr/bin/env python3
"""The picture of the packages in docs/architecture.md, from the rule that the tests enforce.

    python tools/packages_picture.py    # writes docs/_static/packages.svg

A row holds what may import from the rows below it; a line stands for an import that no chain of
others implies. `tests/repository/test_architecture.py` fails where the picture is not the rule's.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RULE = ROOT / "tests" / "repository" / "test_house.py"
PICTURE = ROOT / "docs" / "_static" / "packages.svg"

COLUMN_WIDTH = 190
ROW_HEIGHT = 72
BOX_HEIGHT = 46
GAP = 16  # between two boxes of a row

STYLE = (
    "text{fill:#1b1f24}.q{fill:#57606a}.b{fill:#f4f5f7;stroke:#b4bbc4}.k{fill:#dbe7f5;stroke:#2a5c9a}"
    ".l{stroke:#8a939d;stroke-width:1.4;fill:none}.h{fill:#8a939d}"
    "@media(prefers-color-scheme:dark){text{fill:#e4e7ea}.q{fill:#a3adb7}"
    ".b{fill:#22272e;stroke:#4a525c}.k{fill:#1d3450;stroke:#7fb0e8}.l{stroke:#7d8791}.h{fill:#7d8791}}"
)


class Place(NamedTuple):
    """Where a package stands: its first column, how many it spans, and what it is for."""

    column: int
    span: int
    purpose: str


PLACES = {
    "interface": Place(0, 4, "command line and report page"),
    "api": Place(0, 2, "every public question, a function each"),
    "pytorch": Place(2, 1, "the door for torch users"),
    "capacity": Place(0, 1, "covering numbers, bounds"),
    "equivalence": Place(0, 1, "the same function or not"),
    "piecewise": Place(0, 1, "linear pieces"),
    "training": Place(3, 1, "noise, pruning, sweeps"),
    "compression": Place(1, 1, "fewer units: searches"),
    "formats": Place(3, 1, "files and frameworks"),
    "common": Place(0, 4, "results, domains, files, figures"),
    "kernel": Place(0, 4, "all that a sceptic must trust: exact numbers, moves, bounds"),
}


def rule(path: Path = RULE) -> dict[str, set[str]]:
    """`MAY_IMPORT` of the house test, read without running it."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "MAY_IMPORT":
            assert isinstance(node.value, ast.Dict)
            entries = zip(node.value.keys, node.value.values, strict=True)
            return {ast.literal_eval(name): _names(names) for name, names in entries if name}
    raise ValueError(f"{path.name} holds no MAY_IMPORT")


def _names(node: ast.expr) -> set[str]:
    """The strings of a set; `set()` is no literal."""
    return set() if isinstance(node, ast.Call) else set(ast.literal_eval(node))


def drawn(may_import: dict[str, set[str]]) -> dict[str, set[str]]:
    """The rule for whole packages; "" only lends its names, and the zoo is data."""
    names = {name for name in may_import if name not in ("", "zoo") and "." not in name}
    return {
        name: {other.split(".")[0] for other in may_import[name]} & names - {name} for name in names
    }


def heights(below: dict[str, set[str]]) -> dict[str, int]:
    """The row of each package, 0 for the lowest: one above the highest that it imports."""
    found: dict[str, int] = {}
    while len(found) < len(below):
        free = {name for name in below if name not in found and below[name] <= set(found)}
        if not free:
            raise ValueError(f"a circle among {sorted(set(below) - set(found))}")
        for name in free:
            found[name] = 1 + max((found[other] for other in below[name]), default=-1)
    return found


def direct(below: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Pairs that may import each other and are joined by no way round."""
    reached: dict[str, set[str]] = {}
    for name in sorted(below, key=heights(below).__getitem__):
        reached[name] = set(below[name]).union(*(reached[other] for other in below[name]))
    pairs = []
    for name, others in below.items():
        implied = set[str]().union(*(reached[other] for other in others))
        pairs += [(name, other) for other in others - implied]
    return sorted(pairs)


def picture(may_import: dict[str, set[str]]) -> str:
    """The whole SVG file."""
    below = drawn(may_import)
    missing = set(below) ^ set(PLACES)
    if missing:
        raise ValueError(f"PLACES and the rule differ in {sorted(missing)}")
    row = heights(below)
    top = max(row.values())
    width = COLUMN_WIDTH * max(place.column + place.span for place in PLACES.values())
    height = ROW_HEIGHT * (top + 1) + 24
    lines, boxes = [], []
    for upper, lower in direct(below):
        ys = _y(row[upper], top), _y(row[lower], top)
        lines.append(_line(PLACES[upper], PLACES[lower], *ys))
    for name, place in PLACES.items():
        boxes.append(_box(name, place, _y(row[name], top), below))
    note = "a line: may import; lines that a chain of others stands for are left out"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="The packages of moduli and what each may import" '
        'font-family="system-ui,sans-serif" font-size="14">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="5" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path class="h" d="M0 0L8 4L0 8z"/></marker></defs>',
        *lines,
        *boxes,
        f'<text class="q" x="{GAP / 2:g}" y="{height - 6}" font-size="11">{note}</text></svg>',
    ]) + "\n"  # fmt: skip


def _y(row: int, top: int) -> int:
    return (top - row) * ROW_HEIGHT + 4


def _sides(place: Place) -> tuple[int, int]:
    """The left and the right end of a box."""
    left = place.column * COLUMN_WIDTH + GAP // 2
    return left, left + place.span * COLUMN_WIDTH - GAP


def _line(upper: Place, lower: Place, y: int, low_y: int) -> str:
    """From the upper box down to the lower one; where that is not below, out of its side first."""
    (left, right), (low_left, low_right) = _sides(upper), _sides(lower)
    if max(left, low_left) < min(right, low_right):
        middle = (max(left, low_left) + min(right, low_right)) // 2
        way = f"M{middle} {y + BOX_HEIGHT}V{low_y - 5}"
    else:
        side = right if right <= low_left else left
        way = f"M{side} {y + BOX_HEIGHT // 2}H{(low_left + low_right) // 2}V{low_y - 5}"
    return f'<path class="l" d="{way}" marker-end="url(#a)"/>'


def _box(name: str, place: Place, y: int, below: dict[str, set[str]]) -> str:
    left, right = _sides(place)
    kind = "b" if below[name] else "k"
    middle = (left + right) // 2
    return (
        f'<rect class="{kind}" x="{left}" y="{y}" width="{right - left}" height="{BOX_HEIGHT}" '
        f'rx="5"/>'
        f'<text x="{middle}" y="{y + 20}" text-anchor="middle" font-weight="600">{name}</text>'
        f'<text class="q" x="{middle}" y="{y + 37}" text-anchor="middle" font-size="11">'
        f"{escape(place.purpose)}</text>"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args(arguments)
    PICTURE.write_text(picture(rule()))
    print(f"wrote {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
