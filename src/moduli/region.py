"""What is proved on a box: signs of hidden units, and what activations can be there. Part of the kernel.

A `Region` is a box and, for every hidden unit of a network, -1 (its pre-activation z is <= 0 on the box), 1 (z >= 0) or 0
(nothing is said); a tree of splits and `cases` prove these signs anew, and cases also that some weights may be zero. Where a
sign is known, an activation with slopes on either side of 0 is linear on the box: s(z) = c z, and c is the unit's *slope*
(relu: 1 or 0). `blocks` has the moves that rest on this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from . import bounds, fields, trees
from .cases import Case, verify
from .domains import Box
from .enclosure import total
from .envelopes import envelope
from .errors import CertificateRejected, ShapeError
from .network import Network

if TYPE_CHECKING:
    from .certificate import State

Array = np.ndarray[Any, np.dtype[np.float64]]
Row = tuple[Fraction, ...]


@dataclass(frozen=True)
class Region:
    """A box and signs of hidden units on it.

    Attributes:
        low, high: one number per input. tree: the splits of the proof, see `trees.verify`. signs: per hidden layer, per unit.
        cases: what the tree does not prove, and weights that play no part, see `cases`.
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
        """Whether functions that agree on the box may differ close to it: an input has one value only."""
        return any(p == q for p, q in zip(self.low, self.high, strict=True))

    def verify(self, net: Network) -> Network:
        """Prove the signs of the units of a network; the network without the weights that play no part is returned.

        Raises:
            CertificateRejected: naming what is not proved.
        """
        if len(self.low) != net.widths[0]:
            raise CertificateRejected(f"the box has {len(self.low)} inputs, the network {net.widths[0]}")
        try:
            return verify(net, self.box, self.tree, [np.array(s, dtype=np.int8) for s in self.signs], self.cases)
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
        low, high = ([fields.real(x, f"{k} of the region") for x in fields.items(read[k], k)] for k in ("low", "high"))
        if len(low) != len(high) or any(p > q for p, q in zip(low, high, strict=True)):
            raise CertificateRejected(f"low {str(low)[:40]} and high {str(high)[:40]} of the region are no box")
        signs = [fields.items(part, "signs of a layer") for part in fields.items(read["signs"], "signs of the region")]
        if not all(type(x) is int and -1 <= x <= 1 for part in signs for x in part):
            raise CertificateRejected(f"the signs of the region must be lists of -1, 0 and 1, not {str(signs)[:60]}")
        cases = map(Case.from_json, fields.items(read.get("cases", []), "cases of the region"))
        tree = trees.read_tree(read["tree"], "region")
        return Region(tuple(low), tuple(high), tree, tuple(map(tuple, signs)), tuple(cases))


def slope(state: State, l: int, unit: int) -> Fraction | None:
    """c with s(z) = c z on the box for the pre-activation of a unit of layer l, or None where that is not known."""
    activation = state.activations[l - 1]
    if not activation.piecewise_linear:
        return None
    known = state.signs[l - 1][unit] if state.region is not None else 0
    sign = known if activation.bends else 1
    end = activation.exact(Fraction(int(sign)))
    return None if sign == 0 or end is None else end * int(sign)


def extent(state: State, l: int, row: Row) -> tuple[Fraction, Fraction] | None:
    """Bounds of row . h on the box, h what layer l reads (remaining columns); None where there is no box or no finite one."""
    if state.region is None:
        return None
    lo, hi = (part[state.alive[l - 1]] for part in reach(state, l - 1))
    used = [(q, p, r) for q, p, r in zip(row, lo.tolist(), hi.tolist(), strict=True) if q != 0]
    if not all(math.isfinite(p) and math.isfinite(r) for _, p, r in used):
        return None
    ends = [[q * Fraction(p if (q > 0) == low else r) for q, p, r in used] for low in (True, False)]
    return total(ends[0]), total(ends[1])


def reach(state: State, l: int) -> tuple[Array, Array]:
    """Bounds of the activations of layer l on the box (0: the inputs)."""
    assert state.region is not None
    if l == 0:
        return np.array(state.region.low), np.array(state.region.high)
    lo, hi = lines(state)[l - 1]
    sign = state.signs[l - 1]
    lo, hi = np.where(sign > 0, np.maximum(lo, 0.0), lo), np.where(sign < 0, np.minimum(hi, 0.0), hi)
    found = envelope(state.activations[l - 1], lo, hi)
    return found.least, found.most


def lines(state: State) -> list[tuple[Array, Array]]:
    """Bounds of pre-activations on the box: of the original units, and those that blocks have proved of new ones."""
    if state.reach is None:
        assert state.region is not None
        low, high = np.array([state.region.low]), np.array([state.region.high])
        hidden = state.net.layers[:-1]
        found = bounds.linear(hidden, low, high, lazy=True) if hidden else []
        state.reach = [(lo[0].copy(), hi[0].copy()) for lo, hi in found]
    return state.reach
