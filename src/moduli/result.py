"""The base of all results: one set of `rows()` gives the repr, the rich table, the HTML and the JSON."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .errors import Undecided
from .files import atomic_write

if TYPE_CHECKING:
    from .certificate import Certificate

GLYPHS = {"proved": "=", "bounded": "<=", "estimated": "~", "refuted": "!=", "undecided": "?"}


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """An answer and how far it is to be trusted.

    Attributes:
        status: ``proved`` (checked by the kernel), ``bounded`` (a certified bound), ``estimated``, ``refuted`` (with a
            witness) or ``undecided``.
    """

    status: str
    kind: ClassVar[str] = "result"

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
        """Replay the certificate in exact arithmetic; raises `CertificateRejected`, or `Undecided` where there is none."""
        raise Undecided(f"{self.kind} carries no certificate: {self.statement}")

    def rows(self) -> list[tuple[str, str]]:
        """Label and value of each line of the table."""
        raise NotImplementedError

    def data(self) -> dict[str, Any]:
        """The JSON fields beside schema, status and statement."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """A JSON object whose fields bear the attribute names."""
        return {"schema": f"moduli.{self.kind}/1", "status": self.status, "statement": self.statement, **self.data()}

    def save(self, path: str | Path) -> Path:
        """Write the certificate, or the JSON of a result that has none; the file appears whole or not at all."""
        content = self.certificate.to_json() if self.certificate is not None else self.to_json()
        return atomic_write(Path(path), json.dumps(content).encode())

    def __repr__(self) -> str:
        return f"<{self.kind} {self.glyph} {self.statement}>"

    def table(self, extra: list[tuple[str, str]] | None = None) -> Any:
        """A rich renderable: the statement, the rows, and further ones."""
        return table(self.statement, [*self.rows(), *(extra or [])])

    def __rich__(self) -> Any:
        return self.table()

    def _repr_html_(self) -> str:
        body = "".join(f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in self.rows())
        return f"<table><caption>{html.escape(self.statement)}</caption>{body}</table>"


def table(title: str, rows: list[tuple[str, str]]) -> Any:
    """A rich renderable: a line and a borderless table of labels and values."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(show_header=False, box=None, pad_edge=False)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return Group(Text(title, style="bold"), grid)
