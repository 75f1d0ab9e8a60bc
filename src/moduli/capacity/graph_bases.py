"""Units that any invertible matrix may mix: their basis is no parameter.

Coordinates of queries and keys of a head, of its values and outputs, of a linear bottleneck: let r units have the
entries U (r rows, p columns) in some tensors and V (r rows, q columns) in others, and let the function be that of
A U and A^-T V for every invertible r x r matrix A (`kernel.graph.mixing`). Let u_c and v_c bound the entries of column c.

**Theorem G.** If p >= r, each function of the class is a limit, in the sup norm, of functions with U, V in the
place of which are U', V': in some r columns c of U' stand u_c times the columns of the identity, all entries are at
most u_c in size, and those of V' at most r v_c. So of r (p + q) entries r^2 are no parameters, and

    log of the grid points <= log C(p, r) + sum of log m over the other r (p - r) entries of U' and those of V'.

*Proof.* Matrices of rank r are dense in the box of U, as p >= r, and functions depend on parameters continuously. Of
such a U divide each column by u_c, and let A be r of the columns, of which the determinant is largest in size. By
Cramer's rule the entries of A^-1 U, each column divided by u_c, are quotients of two such determinants: at
most 1. So U' = A^-1 U is as said, and so is V' = A^T V, as the entries of A are at most 1. A
finite cover by closed balls covers limits, too. The centres need not be in the class.

**How fine.** Let K_t be the sensitivities of the class, and K'_t those of the class in which v_c is r v_c. Other tensors
are moved to their centres first, with U and V as they are, then U' and V': together by at most
sum K_t delta_t + sum K'_t delta_t, the second sum over the tensors of U' and V'.

**With orders of other units.** If these own no entry of U or V, they may be sorted as in Theorem P: they
move columns of U' and V', which all have one grid in each tensor, and afterwards A may be a permutation that
puts the columns of the identity into their order. They may be turned, too: afterwards A has signs, and grids are symmetric.

Derived and proved for this library. The exponent of 1/eps falls by r^2; each entry of V' pays log r, so it is less
for small eps alone, or where r is not far below p.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from moduli.equivalence.graph_scales import Gauge
from moduli.equivalence.graph_symmetries import mixing
from moduli.equivalence.graph_units import UnitSets
from moduli.kernel.graph.model import GraphModel

from .covering_numbers import log


class Basis(NamedTuple):
    """Units whose basis is no parameter.

    Attributes:
        units: r. held: how many entries of U each unit has in each tensor. grown: the same of V.
    """

    units: int
    held: Mapping[str, int]
    grown: Mapping[str, int]

    @property
    def columns(self) -> int:
        """p."""
        return sum(self.held.values())

    def entries(self, name: str) -> int:
        """Of the units, in a tensor."""
        return self.units * (self.held.get(name, 0) + self.grown.get(name, 0))

    def free(self, name: str) -> Fraction:
        """How many of them are parameters, those of U that are not shared out among its tensors."""
        still = self.held.get(name, 0)
        return self.entries(name) - Fraction(self.units**2 * still, self.columns)

    def log_points(self, cells: Mapping[str, int]) -> float:
        """Of the grid, all choices of columns together."""
        each = [log(cells[name]) for name, count in self.held.items() for _ in range(count)]
        kept = sum(
            sorted(each)[self.units :]
        )  # where the columns with the fewest points are chosen
        grown = math.fsum(count * log(cells[name]) for name, count in self.grown.items())
        return log_choose(self.columns, self.units) + self.units * (kept + grown)


def log_choose(n: int, k: int) -> float:
    """log C(n, k).

    >>> round(log_choose(5, 2), 12) == round(math.log(10), 12)
    True
    """
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def bases(found: UnitSets, own: Iterable[Gauge], sizes: Mapping[str, int]) -> tuple[Basis, ...]:
    """Those whose entries are parameters, each in one of them.

    Args:
        own: what multiplies units of the sets. sizes: of the tensors that are parameters.
    """
    used, roles, out = dict[str, set[int]](), dict[str, tuple[int, bool]](), list[Basis]()
    for gauge in mixing(found, own):
        sides = _sides(found.graph, gauge, sizes)
        if sides is None:
            continue
        places, one, other = sides
        if sum(one.values()) < sum(
            other.values()
        ):  # that with more entries is held, as the other pays
            one, other = other, one
        named = {name: (axis, name in one) for name, (axis, _) in places.items()}
        apart = all(
            used.get(name, set()).isdisjoint(indices) for name, (_, indices) in places.items()
        )
        alike = all(roles.get(name, role) == role for name, role in named.items())
        units = len(gauge.part.members)
        if not apart or not alike or sum(one.values()) < units:
            continue
        roles |= named
        for name, (_, indices) in places.items():
            used.setdefault(name, set()).update(indices)
        out.append(Basis(units, one, other))
    return tuple(out)


def _sides(
    graph: GraphModel, gauge: Gauge, sizes: Mapping[str, int]
) -> tuple[dict[str, tuple[int, set[int]]], dict[str, int], dict[str, int]] | None:
    """Of each tensor axis and indices that units have; entries of one unit in tensors that are multiplied by A, and
    in those by A^-T. None where some are no parameters, or have units along two axes.
    """
    own, sides = dict[str, tuple[int, set[int]]](), (dict[str, int](), dict[str, int]())
    for (name, axis), power in gauge.powers.items():
        if name not in graph.constants:
            continue
        if name not in sizes or name in own:
            return None
        labels = gauge.part.units.places[name, axis]
        inside = np.flatnonzero(np.isin(labels, gauge.part.members))
        own[name] = axis, set(inside.tolist())
        sides[power < 0][name] = sizes[name] // len(labels)
    return (own, *sides) if all(sides) else None


def tensors(found: Iterable[Basis]) -> tuple[frozenset[str], Mapping[str, int]]:
    """Names of those that bases have a part in, and by how much bounds of some grow."""
    names, grown = set[str](), dict[str, int]()
    for basis in found:
        names.update(basis.held, basis.grown)
        for name in basis.grown:
            grown[name] = max(grown.get(name, 1), basis.units)
    return frozenset(names), grown
