"""The base of all results: one set of `rows()` gives the repr, the rich table, the HTML and the
JSON.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from moduli.kernel.errors import MissingExtra, Undecided
from moduli.kernel.exact_numbers import above, sum_up

from .figures import SCREEN, picture
from .files import atomic_write
from .tables import Columns, Labelled, Parts, visible

if TYPE_CHECKING:
    from moduli.kernel.certificate import Certificate

SILENT = {
    "check", "rows", "data", "table", "to_json", "plot_data", "plot", "within", "barrier", "merge",
    "loss", "log_covering",
}  # fmt: skip
GLYPHS = {"proved": "=", "bounded": "<=", "estimated": "~", "refuted": "!=", "undecided": "?"}


def plain_float(x: Any) -> Any:
    """A NumPy float as Python's; whatever else it is stays, to be looked at by who reads it."""
    return float(x) if type(x) is np.float64 else x


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """An answer and how far it is to be trusted.

    Attributes:
        status: ``proved`` (checked by the kernel), ``bounded`` (a certified bound), ``estimated``,
            ``refuted`` (with a witness) or ``undecided``.
    """

    status: str
    kind: ClassVar[str] = "result"

    def __init_subclass__(cls) -> None:
        """What an answer computes later is as silent as the question: numbers that are too large
        are told in words.
        """
        for name in SILENT & vars(cls).keys():
            setattr(cls, name, np.errstate(all="ignore")(vars(cls)[name]))

    def __post_init__(self) -> None:
        assert self.status in GLYPHS, self.status

    @property
    def glyph(self) -> str:
        return GLYPHS[self.status]

    @property
    def statement(self) -> str:
        """One sentence."""
        raise NotImplementedError

    @property
    def certificate(self) -> Certificate | None:
        return None

    def check(self) -> bool:
        """Replay the certificate in exact arithmetic; raises `CertificateRejected`, or `Undecided`
        where there is none.
        """
        raise Undecided(f"{self.kind} carries no certificate: {self.statement}")

    def rows(self) -> list[tuple[str, str]]:
        """Label and value of each line of the table: what was asked, then what was found."""
        return [*self.asked(), *self.facts()]

    def asked(self) -> list[tuple[str, str]]:
        """Of which network, and where: the lines of the table that another table may leave out."""
        return []

    def facts(self) -> list[tuple[str, str]]:
        """The lines of the table that are the answer."""
        raise NotImplementedError

    def data(self) -> dict[str, Any]:
        """The JSON fields beside schema, status and statement."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """A JSON object whose fields bear the attribute names; null where a number is not finite."""
        head = {
            "schema": f"moduli.{self.kind}/1",
            "status": self.status,
            "statement": self.statement,
        }
        with np.errstate(all="ignore"):
            return dict(plain({**head, **self.data()}))

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns for `pandas.DataFrame`: of a table its own, else one row of the numbers and words that
        the answer has.
        """
        found = {"status": self.status, "statement": self.statement, **self.data()}
        simple = (str, bool, int, float, type(None))
        return {key: [value] for key, value in found.items() if isinstance(value, simple)}

    def save(self, path: str | Path) -> Path:
        """Write the certificate, or the JSON of a result that has none; the file appears whole or
        not at all.
        """
        content = self.certificate.to_json() if self.certificate is not None else self.to_json()
        return atomic_write(Path(path), encoded(content).encode())

    def __repr__(self) -> str:
        return visible(f"<{self.kind} {self.glyph} {self.statement}>")

    def table(self, extra: list[tuple[str, str]] | None = None) -> Any:
        """For a terminal, of any width: the statement, the rows, and further ones; rich prints it, and
        so does `.text(width)`.
        """
        return table(self.statement, [*self.rows(), *(extra or [])])

    def __rich__(self) -> Any:
        return self.table()

    def _repr_html_(self) -> str:
        return notebook(self, [(label, text) for label, text in self.rows()])

    def _picture(self) -> str:
        """What `plot` draws, as an image in HTML; nothing where there is no picture or no
        matplotlib.
        """
        draw = getattr(self, "plot", None)
        if draw is None:
            return ""
        try:
            drawn = draw()
        except (MissingExtra, ValueError):
            return ""
        figure = (drawn[0] if isinstance(drawn, (tuple, list)) else drawn).figure
        image = base64.b64encode(picture(figure)).decode()
        width = round(SCREEN * figure.get_size_inches()[0])
        alt, style = html.escape(self.statement), f"max-width:{width}px;width:100%"
        return f'<img alt="{alt}" style="{style}" src="data:image/png;base64,{image}">'


@dataclass(frozen=True, eq=False, repr=False)
class TableResult(Result):
    """An answer that is a table: `rows` are named tuples of numbers, and it has their number, order and
    indices.
    """

    head: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[tuple[str, ...]] = ()

    def rows(self) -> list[Any]:
        """Named tuples, one for each line."""
        raise NotImplementedError

    def cells(self) -> list[list[str]]:
        """The lines as they are shown, under `head`."""
        raise NotImplementedError

    def notes(self) -> list[tuple[str, str]]:
        """What else is to be said, with labels."""
        return []

    def __len__(self) -> int:
        return len(self.rows())

    def __getitem__(self, at: Any) -> Any:
        return self.rows()[at]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows())

    def __bool__(self) -> bool:
        """An answer, however many rows it has."""
        return True

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns for `pandas.DataFrame`."""
        rows = self.rows()
        return {name: [getattr(row, name) for row in rows] for name in (rows and rows[0]._fields)}

    def table(self, extra: list[tuple[str, str]] | None = None) -> Parts:
        grid = Columns(self.head, self.cells(), self.numbers)
        facts = Labelled(self.statement, [*self.notes(), *(extra or [])])
        return Parts([facts, grid])

    def _repr_html_(self) -> str:
        return notebook(self, self.cells(), self.head, self.notes())


@dataclass(frozen=True, eq=False)
class AsComputed:
    """How far outputs of two networks are apart as runtimes of one kind compute them, on a box: what is
    certified of their functions there, and the rounding of each.

    Attributes:
        slack: of the functions. small, large: bounds of the rounding, see `mo.rounding`; each has
            `upper`, `dtype`, `on`, and `check()`.
    """

    slack: float
    small: Any
    large: Any

    @property
    def upper(self) -> float:
        return sum_up(self.slack, self.small.upper, self.large.upper)

    def check(self) -> bool:
        """Bound both roundings again."""
        return bool(self.small.check() and self.large.check())

    @property
    def statement(self) -> str:
        return f"as {self.small.dtype} runtimes compute them, at most {above(self.upper, 3)} apart on {self.small.on!r}"

    def rows(self) -> list[tuple[str, str]]:
        parts = f"{above(self.slack, 2)} + rounding {above(self.small.upper, 2)} + {above(self.large.upper, 2)}"
        return [(f"in {self.small.dtype}", f"at most {above(self.upper, 3)} apart: {parts}")]

    def data(self) -> dict[str, Any]:
        return {
            "dtype": self.small.dtype, "upper": self.upper, "slack": self.slack,
            "small": self.small.upper, "large": self.large.upper, "on": self.small.on.to_json(),
        }  # fmt: skip


def plain(value: Any) -> Any:
    """What JSON can hold: null in the place of numbers that are not finite, lists of tuples,
    numbers of NumPy's.

    >>> plain({"slack": float("inf"), "ends": (0.5, float("nan"))})
    {'slack': None, 'ends': [0.5, None]}
    """
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


def encoded(value: Any) -> str:
    """Strict JSON: readers such as jq refuse Infinity and NaN, which `json.dumps` writes."""
    return json.dumps(plain(value), allow_nan=False)


def counted(count: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{count} {one if count == 1 else many}"


def notebook(
    result: Result,
    rows: Sequence[Sequence[str]],
    head: Sequence[str] = (),
    notes: Sequence[tuple[str, str]] = (),
) -> str:
    """A result as HTML: the sign and the statement, the picture where there is one, a table, notes."""
    left, quiet = "text-align:left;vertical-align:top", "font-weight:normal;opacity:.7"
    titles = "".join(f'<th style="{left};{quiet}">{html.escape(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th style="{left};{quiet}">{html.escape(first)}</th>'
        + "".join(f'<td style="{left}">{html.escape(cell)}</td>' for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    body = (
        f"<thead><tr>{titles}</tr></thead><tbody>{lines}</tbody>"
        if head
        else f"<tbody>{lines}</tbody>"
    )
    line = f"<code>{html.escape(result.glyph)}</code> <b>{html.escape(result.statement)}</b>"
    said = "".join(f"<p>{html.escape(label)}: {html.escape(text)}</p>" for label, text in notes)
    return f"<div><p>{line}</p>{result._picture()}<table>{body}</table>{said}</div>"


def table(title: str, rows: list[tuple[str, str]]) -> Labelled:
    """For rich and plain terminals: a line, and labels with their values."""
    return Labelled(title, rows)
