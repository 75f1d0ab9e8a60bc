"""Tables of a terminal, laid out for any width: nothing is padded on the right, a word that fits into a
line is never broken, and where columns would become too narrow a table turns into records.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

GAP = 2  # blanks between columns
LABEL = 30  # characters of a label beside its value; longer ones stand above it
ROOM = 34  # characters that running text beside columns needs


class Line(NamedTuple):
    """A line: what is dim in it, and the rest."""

    label: str
    text: str = ""

    @property
    def whole(self) -> str:
        return f"{self.label}{self.text}".rstrip()


def visible(text: str) -> str:
    """Without what moves a terminal's cursor or changes its colours; names are as files have them."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most so many characters, but for words that are longer."""
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, max(1, width), break_long_words=False, break_on_hyphens=False) or [
        ""
    ]


class _Shown:
    """What lays itself out in lines, by itself or for rich."""

    def lines(self, width: int) -> list[Line]:
        raise NotImplementedError

    def text(self, width: int = 80) -> str:
        """As plain text."""
        return "\n".join(visible(line.whole) for line in self.lines(width))

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        for line in self.lines(options.max_width):
            dim = len(line.whole[: len(line.label)])
            shown = Text(visible(line.whole))  # no markup, and ":x:" is no picture
            shown.stylize(self.style if line.text == "" and self.style else "dim", 0, dim)
            yield shown

    style = ""


@dataclass(frozen=True)
class Labelled(_Shown):
    """A title and rows of labels and values.

    >>> print(Labelled("an answer", [("width", "3"), ("because", "one two three four")]).text(20))
    an answer
    width    3
    because  one two
             three four
    """

    title: str
    rows: Sequence[tuple[str, str]]
    style = "bold"

    def lines(self, width: int) -> list[Line]:
        most = min(LABEL, width // 2)
        beside = max((len(name) for name, _ in self.rows if len(name) <= most), default=0)
        found = [Line(line) for line in wrapped(self.title, width)] if self.title else []
        for name, value in self.rows:
            found += _labelled(name, value, beside, width)
        return found


def _labelled(name: str, value: str, beside: int, width: int) -> list[Line]:
    """A value beside its label; below it where one of the two is too long for that."""
    room = width - beside - GAP
    longest = max(map(len, value.split()), default=0)
    if len(name) > beside or longest > room:
        below = [Line("", f"{' ' * GAP}{part}") for part in wrapped(value, width - GAP)]
        return [*(Line(part, " ") for part in wrapped(name, width)), *(below if value else [])]
    first, *others = wrapped(value, room)
    head = f"{name:{beside}}{' ' * GAP}"
    indent = " " * len(head)
    return [Line(head, first), *(Line("", f"{indent}{part}") for part in others)]


@dataclass(frozen=True)
class Columns(_Shown):
    """Rows under a head; the first column names them, the last may be running text. Columns in which
    nothing stands are left out.

    Attributes:
        right: columns of numbers, by title.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = ()

    def lines(self, width: int) -> list[Line]:
        used = [k for k in range(len(self.head)) if not k or any(row[k] for row in self.rows)]
        head = [self.head[k] for k in used]
        rows = [[row[k] for k in used] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        needed = sum(widths) + GAP * (len(widths) - 1)
        last = width - (needed - widths[-1])
        if needed > width and last < ROOM:
            return self._records(head, rows, width)
        widths[-1] = min(widths[-1], last)
        found = [Line(self._line(head, head, widths), " ")]
        for row in rows:
            first, *others = wrapped(row[-1], widths[-1])
            found.append(Line("", self._line(head, [*row[:-1], first], widths)))
            indent = " " * (sum(widths[:-1]) + GAP * (len(widths) - 1))
            found += [Line("", f"{indent}{part}") for part in others]
        return found

    def _line(self, head: Sequence[str], cells: Sequence[str], widths: Sequence[int]) -> str:
        parts = []
        for title, cell, width in zip(head, cells, widths, strict=True):
            parts.append(cell.rjust(width) if title in self.right else cell.ljust(width))
        return (" " * GAP).join(parts).rstrip()

    def _records(
        self, head: Sequence[str], rows: Sequence[Sequence[str]], width: int
    ) -> list[Line]:
        found = list[Line]()
        beside = max(map(len, head[1:]), default=0)
        for name, *cells in rows:
            # a number alone would not say of what
            whole = f"{head[0]} {name}" if name.isdecimal() and head[0] else name
            found += [Line("", part) for part in wrapped(whole, width)]
            for title, cell in zip(head[1:], cells, strict=True):
                if cell:
                    parts = _labelled(title, cell, beside, width - GAP)
                    found += [Line(f"{' ' * GAP}{part.label}", part.text) for part in parts]
        return found


@dataclass(frozen=True)
class Parts(_Shown):
    """Tables below each other, with a blank line between."""

    parts: Sequence[_Shown]

    def lines(self, width: int) -> list[Line]:
        found = list[Line]()
        for part in self.parts:
            found += [Line(""), *part.lines(width)] if found else part.lines(width)
        return found
