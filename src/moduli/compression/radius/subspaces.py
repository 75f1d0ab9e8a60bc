"""The linear subspaces of which the networks of low rank are made; see `low_rank_parameters` for the
proofs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.exact_numbers import Array
from moduli.kernel.network import Network
from moduli.kernel.radius.compatibility import SignedBox

BITS = 50  # of a grid on which the outgoing weights of a group that cancels are sums of few numbers
LEAST = -1074  # exponent of the least positive float


class Parameters(NamedTuple):
    """A network with one hidden layer, unit by unit.

    Attributes:
        rows: ``[h, n + 1]`` incoming weights and bias. outgoing: ``[h, m]``.
    """

    rows: Array
    outgoing: Array

    @staticmethod
    def of(net: Network) -> Parameters:
        hidden, last = net.layers
        rows = np.concatenate([hidden.weight, hidden.bias[:, None]], axis=1)
        return Parameters(rows, np.ascontiguousarray(last.weight.T))

    def network(self, like: Network) -> Network:
        """A network with these units, everything else as in another one."""
        bias = like.layers[-1].bias
        parts = (self.rows[:, :-1], self.rows[:, -1], self.outgoing.T, bias)
        return like.with_flat(np.concatenate([part.ravel() for part in parts]))


@dataclass(frozen=True)
class Subspace:
    """Parameters of which some units are constant, and the others fall into groups with one row each,
    up to signs.

    Attributes:
        widths: (inputs, hidden, outputs). constant: units whose incoming weights are zero.
        paid: groups (units and signs s) in which s_i (b_i, c_i) is the same for all members; each
            acts as one unit. free: such groups in which also sum s_i a_i = 0; they do nothing.
    """

    widths: tuple[int, int, int]
    constant: tuple[int, ...]
    paid: tuple[SignedBox, ...]
    free: tuple[SignedBox, ...]

    @staticmethod
    def through(net: Network) -> Subspace:
        """The least one of them that holds a network's parameters, by exact comparisons: its rank is
        that of the network.
        """
        rows, outgoing = Parameters.of(net)
        constant, members = [], dict[tuple[float, ...], SignedBox]()
        for u, row in enumerate((rows + 0.0).tolist()):  # + 0.0: no -0.0
            first = next((x for x in row[:-1] if x), 0.0)
            if not first:
                constant.append(u)
                continue
            sign = 1 if first > 0 else -1
            key = tuple(sign * x + 0.0 for x in row)
            units, signs = members.get(key, ((), ()))
            members[key] = SignedBox((*units, u), (*signs, sign))
        groups = [
            SignedBox(units, tuple(signs[0] * s for s in signs))
            for units, signs in members.values()
        ]
        vanishes = [not any(_signed_sums(outgoing, group)) for group in groups]
        paid = tuple(g for g, free in zip(groups, vanishes, strict=True) if not free)
        free = tuple(g for g, free in zip(groups, vanishes, strict=True) if free)
        n, h, m = net.widths
        return Subspace((n, h, m), tuple(constant), paid, free)

    @property
    def rank(self) -> int:
        """Of its points in general position."""
        return len(self.paid)

    @property
    def codimension(self) -> int:
        """n for each constant unit, n + 1 for each unit that repeats another, m for each free
        group: the equations are independent, as no two of them have a variable in common but
        s_i p_i = s_j p_j along a group, which are one less than its members.
        """
        n, _, m = self.widths
        repeated = sum(len(group.units) - 1 for group in (*self.paid, *self.free))
        return n * len(self.constant) + (n + 1) * repeated + m * len(self.free)

    def equations(self) -> list[tuple[tuple[int, int], ...]]:
        """The linear equations, each as (coordinate, coefficient) pairs that sum to zero.

        Coordinate ``u * (n + 1 + m) + k`` is entry k of (b_u, c_u, a_u).
        """
        n, _, m = self.widths
        size = n + 1 + m
        found: list[tuple[tuple[int, int], ...]] = []
        found += [((u * size + k, 1),) for u in self.constant for k in range(n)]
        for units, signs in (*self.paid, *self.free):
            for u, s in zip(units[1:], signs[1:], strict=True):
                for k in range(n + 1):
                    found.append(((units[0] * size + k, signs[0]), (u * size + k, -s)))
        for units, signs in self.free:
            for k in range(n + 1, size):
                found.append(tuple((u * size + k, s) for u, s in zip(units, signs, strict=True)))
        return found

    def contains(self, net: Network) -> bool:
        """Whether a network's parameters, as the exact numbers they are, lie on it."""
        rows, outgoing = Parameters.of(net)
        if rows[list(self.constant), :-1].any():
            return False
        for units, signs in (*self.paid, *self.free):
            same = rows[list(units)] * np.array(signs, dtype=float)[:, None]
            if (same != same[0]).any():
                return False
        return not any(any(_signed_sums(outgoing, group)) for group in self.free)

    def squared_distance(self, net: Network) -> Fraction:
        """From a network's parameters, exactly.

        The projection keeps what no equation names, puts b to 0 in constant units, s_i p_i to its
        mean over a group, and takes s_i S / size off the outgoing weights of a free group with sum
        S: so the square is sum |b_i|^2 + sum |s_i p_i - mean|^2 + sum |S|^2 / size.
        """
        rows, outgoing = Parameters.of(net)
        total = Fraction(0)
        for u in self.constant:
            total += sum((Fraction(x) ** 2 for x in rows[u, :-1].tolist()), Fraction(0))
        for group in (*self.paid, *self.free):
            if len(group.units) == 1:
                continue
            for column in rows[list(group.units)].T.tolist():
                signed = [s * Fraction(x) for s, x in zip(group.signs, column, strict=True)]
                mean = sum(signed, Fraction(0)) / len(signed)
                total += sum(((x - mean) ** 2 for x in signed), Fraction(0))
        for group in self.free:
            sums = _signed_sums(outgoing, group)
            total += sum((x * x for x in sums), Fraction(0)) / len(group.units)
        return total

    def nearest(self, net: Network) -> Network:
        """A network exactly on it, next to the projection of another: its entries rounded to floats
        that keep every equation.
        """
        rows, outgoing = (part.copy() for part in Parameters.of(net))
        rows[list(self.constant), :-1] = 0.0
        for units, signs in (*self.paid, *self.free):
            at, sign = list(units), np.array(signs, dtype=float)[:, None]
            same = rows[at] * sign
            if len(at) > 1 and (same != same[0]).any():
                rows[at] = np.array([_mean(column) for column in same.T.tolist()]) * sign + 0.0
        for units, signs in self.free:
            for k in range(outgoing.shape[1]):
                outgoing[list(units), k] = _balanced(outgoing[list(units), k].tolist(), signs)
        return Parameters(rows, outgoing).network(net)

    def __str__(self) -> str:
        """In words, units by number from 0; a minus where a unit goes with the opposite sign."""
        parts = []
        if self.constant:
            parts.append("constant " + ", ".join(map(str, self.constant)))
        for what, groups in (("paid", self.paid), ("free", self.free)):
            shown = [_shown(group) for group in groups]
            if shown:
                parts.append(f"{what} {' '.join(shown)}")
        return "; ".join(parts) or "no units"


def _shown(group: SignedBox) -> str:
    members = [f"{'-' if s < 0 else ''}{u}" for u, s in zip(group.units, group.signs, strict=True)]
    return "{" + ", ".join(members) + "}"


def _signed_sums(outgoing: Array, group: SignedBox) -> list[Fraction]:
    columns = outgoing[list(group.units)].T.tolist()
    return [
        sum((s * Fraction(x) for s, x in zip(group.signs, column, strict=True)), Fraction(0))
        for column in columns
    ]


def _mean(values: Sequence[float]) -> float:
    """Rounded once."""
    return float(sum(map(Fraction, values), Fraction(0)) / len(values))


def _balanced(values: Sequence[float], signs: Sequence[int]) -> list[float]:
    """Floats next to values, less their signed mean: their signed sum is exactly zero."""
    exact = [s * Fraction(x) for s, x in zip(signs, values, strict=True)]
    mean = sum(exact, Fraction(0)) / len(exact)
    if not mean:
        return list(values)
    # Multiples of a step 2^-50 of the largest: sums of a few of them have at most 53 bits, so that
    # the last one, which takes what the others leave, is a float as well.
    top = math.frexp(max(map(abs, values)))[1] + max(1, len(values).bit_length() - 2)
    step = Fraction(2) ** max(top - BITS, LEAST)
    new = [round((x - mean) / step) * step for x in exact]
    new[-1] -= sum(new, Fraction(0))
    return [s * float(x) for s, x in zip(signs, new, strict=True)]


def squared_difference(a: Network, b: Network) -> Fraction:
    """Of the parameters of two networks of one shape, exactly."""
    one, two = a.flat(), b.flat()
    at = np.flatnonzero(one != two)
    pairs: Any = zip(one[at].tolist(), two[at].tolist(), strict=True)
    return sum(((Fraction(x) - Fraction(y)) ** 2 for x, y in pairs), Fraction(0))
