"""Parameters of a ReLU network from its function, in a box or slice of up to three inputs.

Only cells with their affine maps are read, never which unit made them. `layer_peeling` guesses
hidden layers from creases, `output_layer` solves for the last two layers: on every cell the
function is linear in them. What the guesses assumed does not matter: every answer is compared with
the function on every cell in rational arithmetic. One hidden layer is recovered whenever each unit
has its own hyperplane; deeper ones mostly, where the functional dimension is full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from operator import mul
from typing import Any, ClassVar

import numpy as np

from moduli.common.result import Result
from moduli.kernel.errors import CertificateRejected, ShapeError, Undecided
from moduli.kernel.network import Network

from .cells_exact import Cell, affine, through
from .layer_peeling import OWN, Search, content, identity, networks
from .output_layer import Affine, Budget
from .polyhedral_complex import Pieces
from .rational_rows import times, written


@dataclass(frozen=True, eq=False, repr=False)
class Recovery(Result):
    """A network read off a function, or why there is none.

    Attributes:
        layers: weights and biases of each layer as rationals; every row of incoming weights with
            its bias consists of integers without a common factor. network: the same in floats.
            exact: whether they hold the rationals exactly.
        reason: what ended a search that found nothing. tried: linear systems that were set up.
    """

    pieces: Pieces
    widths: tuple[int, ...]
    layers: tuple[Affine, ...] | None
    reason: str = ""
    tried: int = 0
    kind: ClassVar[str] = "recovery"

    @cached_property
    def network(self) -> Network:
        if self.layers is None:
            raise Undecided(f"no network of widths {self.widths} was found: {self.reason}")
        return Network.mlp(
            *(np.array(part, dtype=np.float64) for pair in self.layers for part in pair),
            activation="relu",
        )

    @cached_property
    def exact(self) -> bool:
        if self.layers is None:
            return False
        kept = ((layer.weight.tolist(), layer.bias.tolist()) for layer in self.network.layers)
        return all(w == v and b == c for (w, b), (v, c) in zip(self.layers, kept, strict=True))

    def check(self) -> bool:
        """Compare the rational network with the function, on every cell.

        Raises:
            Undecided: if nothing was found. CertificateRejected: if they differ.
        """
        if self.layers is None:
            raise Undecided(f"no network of widths {self.widths} was found: {self.reason}")
        if not self.pieces.check() or not same_function(self.pieces, self.layers):
            raise CertificateRejected("the network that was recovered computes another function")
        return True

    @property
    def statement(self) -> str:
        name = "-".join(map(str, self.widths))
        if self.layers is None:
            return f"no {name} network recovered: {self.reason}"
        return f"a {name} network recovered, {'exactly in floats' if self.exact else 'exactly as rationals, rounded in floats'}"

    def rows(self) -> list[tuple[str, str]]:
        return [
            ("function of", repr(self.pieces.network)), ("on", repr(self.pieces.box)),
            ("recovered", "nothing" if self.layers is None else repr(self.network)),
            ("floats hold it", "yes" if self.exact else "no"), ("linear systems", str(self.tried)),
        ]  # fmt: skip

    def data(self) -> dict[str, Any]:
        layers = written(self.layers or ())
        return {
            "widths": list(self.widths), "exact": self.exact, "reason": self.reason,
            "tried": self.tried, "layers": layers or None, "digest": self.pieces.network.digest,
        }  # fmt: skip


def recover(pieces: Pieces, widths: Sequence[int], budget: int = 2_000) -> Recovery:
    """A ReLU network of these widths that computes the function of `pieces` in its box, if one is
    found.

    Args:
        widths: inputs (of the box or slice), hidden widths, outputs. budget: linear systems and
            sets of traces to look at.

    >>> from moduli import Box, Network, pieces
    >>> hat = Network.mlp([[2.0], [2.0], [2.0]], [0.0, -2.0, -4.0], [[0.5, -1.0, 0.5]], [0.0], activation="relu")
    >>> found = recover(pieces(hat, on=Box(-4, 4)), (1, 3, 1))
    >>> found.network.layers[0].bias.tolist(), found.exact, found.check()
    ([0.0, -1.0, -2.0], True, True)

    Raises:
        ShapeError: widths that do not fit. ValueError: no hidden layer, or one of no units.
    """
    wanted = _accepted(pieces, widths)
    search = Search(pieces, Budget(budget))
    reason = "no choice of hyperplanes and orientations fits"
    try:
        for layers in networks(search, wanted):
            if same_function(pieces, layers):
                return Recovery(
                    "proved", pieces, wanted, primitive(layers), "", search.budget.spent
                )
    except Undecided as stop:
        reason = str(stop)
    return Recovery("undecided", pieces, wanted, None, reason, search.budget.spent)


def _accepted(pieces: Pieces, widths: Sequence[int]) -> tuple[int, ...]:
    wanted = tuple(widths)
    ends = len(pieces.box.low), len(pieces.complex[0].maps)
    if (wanted[0], wanted[-1]) != ends:
        raise ShapeError(
            f"widths {wanted}: the function has {ends[0]} inputs and {ends[1]} outputs"
        )
    if len(wanted) < 3 or min(wanted) < 1:
        raise ValueError(
            f"widths {wanted}: at least one hidden layer, of at least one unit each, is recovered"
        )
    return wanted


def everything(
    pieces: Pieces, widths: Sequence[int], budget: int = 2_000
) -> list[tuple[Affine, ...]]:
    """All networks of these widths, with two hidden layers, in general position, that compute the
    function of `pieces`.

    In `standard` form: up to permutation and scale there are no others. `docs/identifiability.md`
    says why.

    Raises:
        Undecided: where that cannot be said, or the budget ran out.
    """
    wanted, found = _accepted(pieces, widths), dict[str, tuple[Affine, ...]]()
    if len(wanted) != 4:
        raise ValueError(f"widths {wanted}: all networks are enumerated with two hidden layers")
    for layers in networks(Search(pieces, Budget(budget)), wanted, all=True):
        form = standard(layers)
        if str(form) not in found and same_function(pieces, form):
            found[str(form)] = form
    return list(found.values())


def standard(layers: Sequence[Affine]) -> tuple[Affine, ...]:
    """The primitive form with the units of each layer sorted by incoming weights and bias, from the
    input on.
    """
    found = list(primitive(layers))
    for l in range(len(found) - 1):
        weights, biases = found[l]
        order = sorted(range(len(biases)), key=lambda k: (weights[k], biases[k]))
        above, ends = found[l + 1]
        found[l] = [weights[k] for k in order], [biases[k] for k in order]
        found[l + 1] = [_in_order(row, order) for row in above], ends
    return tuple(found)


def _in_order(items: Sequence[Fraction], order: Sequence[int]) -> list[Fraction]:
    return [items[k] for k in order]


def same_function(pieces: Pieces, layers: Sequence[Affine]) -> bool:
    """Whether a ReLU network with rational parameters computes the function of `pieces`.

    Its units cut all cells, and the affine maps are compared.
    """
    dimension, name = len(pieces.box.low), OWN
    start = identity(dimension)
    for cell in pieces.complex:
        parts, name = [Cell(cell.vertices, (), start)], OWN
        for weights, biases in layers[:-1]:
            parts = [
                piece
                for part in parts
                for piece in through(part, weights, biases, Fraction(0), name)
            ]
            name += len(biases)
        if any(affine(*layers[-1], part.maps, dimension) != cell.maps for part in parts):
            return False
    return True


def primitive(layers: Sequence[Affine]) -> tuple[Affine, ...]:
    """The same function, every unit scaled so that its incoming weights and bias are integers
    without a common factor.
    """
    found, scale = list[Affine](), list[Fraction]()
    for l, (weights, biases) in enumerate(layers):
        # A unit is divided by its scale, so what reads it is multiplied.
        rows = [list(map(mul, row, scale)) if scale else list(row) for row in weights]
        if l == len(layers) - 1:
            return (*found, (rows, list(biases)))
        scale = [content([*row, b]) for row, b in zip(rows, biases, strict=True)]
        rows = [times(1 / s, row) for row, s in zip(rows, scale, strict=True)]
        found.append((rows, [b / s for b, s in zip(biases, scale, strict=True)]))
    raise ValueError("a network has at least one layer")
