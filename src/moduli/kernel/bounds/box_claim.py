"""What is proved on a box: signs of hidden units, and what activations can be there. Part of the
kernel.

A `Region` is a box and, for every hidden unit of a network, -1 (its pre-activation z is <= 0 on the
box), 1 (z >= 0) or 0 (nothing is said); a tree of splits and `sign_splits` prove these signs anew,
and cases also that some weights may be zero. Where a sign is known, an activation with slopes on
either side of 0 is linear on the box: s(z) = c z, and c is the unit's *slope* (relu: 1 or 0).
`substitution` has the moves that rest on this.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from moduli.kernel import fields
from moduli.kernel.box import Box
from moduli.kernel.errors import CertificateRejected, ShapeError
from moduli.kernel.network import Network

from . import input_splits
from .sign_splits import Case, verify

Array = np.ndarray[Any, np.dtype[np.float64]]
Row = tuple[Fraction, ...]


@dataclass(frozen=True)
class Region:
    """A box and signs of hidden units on it.

    Attributes:
        low, high: one number per input. tree: the splits of the proof, see `input_splits.verify`.
            signs: per hidden layer, per unit.
        cases: what the tree does not prove, and weights that play no part, see `sign_splits`.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    tree: tuple[int, ...]
    signs: tuple[tuple[int, ...], ...]
    cases: tuple[Case, ...] = ()

    def __str__(self) -> str:
        ends = [f"[{p!r}, {q!r}]" for p, q in zip(self.low[:3], self.high[:3], strict=True)]
        return " x ".join(ends) + (f" x ... ({len(self.low)} inputs)" if len(self.low) > 3 else "")

    @property
    def box(self) -> Box:
        return Box(np.array(self.low), np.array(self.high))

    @property
    def radius(self) -> Array:
        """The largest size of each input."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def flat(self) -> bool:
        """Whether functions that agree on the box may differ close to it: an input has one value
        only.
        """
        return any(p == q for p, q in zip(self.low, self.high, strict=True))

    def verify(self, net: Network) -> Network:
        """Prove the signs of the units of a network; the network without the weights that play no
        part is returned.

        Raises:
            CertificateRejected: naming what is not proved.
        """
        if len(self.low) != net.widths[0]:
            raise CertificateRejected(
                f"the box has {len(self.low)} inputs, the network {net.widths[0]}"
            )
        try:
            return verify(
                net, self.box, self.tree, [np.array(s, dtype=np.int8) for s in self.signs], self.cases,
            )  # fmt: skip
        except ShapeError as error:
            raise CertificateRejected(f"the box of the certificate: {error}") from None

    def plain(self) -> dict[str, Any]:
        """Its fields, for `from_json` to read again."""
        out = {"low": self.low, "high": self.high, "tree": self.tree, "signs": self.signs}
        return {**out, "cases": [case.plain() for case in self.cases]} if self.cases else out

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = fields.jsonable(self.plain())
        return found

    @staticmethod
    def from_json(data: Any) -> Region:
        """Strict: unknown or missing fields, other types, numbers that are not finite are refused."""
        read = fields.record(data, ("low", "high", "tree", "signs"), "a region", maybe=("cases",))
        low, high = (
            [fields.real(x, f"{k} of the region") for x in fields.items(read[k], k)]
            for k in ("low", "high")
        )
        if len(low) != len(high) or any(p > q for p, q in zip(low, high, strict=True)):
            raise CertificateRejected(
                f"low {str(low)[:40]} and high {str(high)[:40]} of the region are no box"
            )
        signs = [
            fields.items(part, "signs of a layer")
            for part in fields.items(read["signs"], "signs of the region")
        ]
        if not all(type(x) is int and -1 <= x <= 1 for part in signs for x in part):
            raise CertificateRejected(
                f"the signs of the region must be lists of -1, 0 and 1, not {str(signs)[:60]}"
            )
        cases = map(Case.from_json, fields.items(read.get("cases", []), "cases of the region"))
        tree = input_splits.read_tree(read["tree"], "region")
        return Region(tuple(low), tuple(high), tree, tuple(map(tuple, signs)), tuple(cases))
