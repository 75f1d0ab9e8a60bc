"""A move: one rewriting step of a hidden layer, as a certificate holds it. Part of the kernel.

`rules` has what each kind demands and does.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from . import fields
from .bounds.box_claim import Row
from .errors import CertificateRejected

Units = np.ndarray[Any, np.dtype[np.intp]]
KINDS: dict[str, tuple[str, ...]] = {  # what a move has beside layer and units
    "constant": (), "drop": (), "permute": (), "tanh": (), "scale": ("ratio",), "merge": ("into", "ratio"),
    "inactive": (), "skip": (), "block": ("into", "rows", "outgoing"),
}  # fmt: skip


@dataclass(frozen=True)
class Move:
    """One rewriting step of a hidden layer; see the table above, and `substitution` for new rows
    and columns.
    """

    kind: str
    layer: int
    units: Units
    into: Units | None = None
    ratio: Fraction = Fraction(1)
    rows: tuple[Row | None, ...] = ()
    outgoing: tuple[Row, ...] = ()

    def __str__(self) -> str:
        some = (
            ", ".join(map(str, self.units[:4].tolist())) + (", ..." if len(self.units) > 4 else "")
            or "none"
        )
        return f"{self.kind} of unit {some} in layer {self.layer}"

    @property
    def gone(self) -> int:
        """How many units it removes."""
        stay = len(self.into) if self.kind == "block" and self.into is not None else 0
        return 0 if self.kind in ("scale", "permute", "tanh") else len(self.units) - stay

    def plain(self) -> dict[str, Any]:
        """Its fields, for `from_json` to read again: numbers as they are."""
        out: dict[str, Any] = {"move": self.kind, "layer": self.layer, "units": self.units}
        if self.into is not None:
            out["into"] = self.into
        if self.kind in ("merge", "scale"):
            out["ratio"] = self.ratio
        if self.kind == "block":
            out["rows"], out["outgoing"] = self.rows, self.outgoing
        return out

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = fields.jsonable(self.plain())
        return found

    @staticmethod
    def from_json(data: Any) -> Move:
        """Strict: another kind, unknown or missing fields, other types are refused."""
        kind = data.get("move") if type(data) is dict else None
        if (
            type(kind) is not str
            or kind not in KINDS
            or set(data) != {"move", "layer", "units", *KINDS[kind]}
        ):
            raise CertificateRejected(f"not a move: {str(data)[:80]}")
        layer = fields.whole(data["layer"], -(2**31), 2**31, f"layer of a {kind}")
        ratio = fields.rational(data.get("ratio", "1"), f"ratio of a {kind}")
        if ratio == 0:
            raise CertificateRejected(f"ratio of a {kind} is zero; it has to be another number")
        units = fields.indices(data["units"], "units")
        into = fields.indices(data["into"], "into") if "into" in data else None
        if kind != "block":
            return Move(kind, layer, units, into, ratio)
        rows = [
            None if row is None else _row(row)
            for row in fields.items(data["rows"], "rows of a block")
        ]
        outgoing = map(_row, fields.items(data["outgoing"], "outgoing columns of a block"))
        return Move(kind, layer, units, into, ratio, tuple(rows), tuple(outgoing))


def _row(values: Any) -> Row:
    return tuple(
        fields.rational(q, "number of a block") for q in fields.items(values, "a row of a block")
    )
