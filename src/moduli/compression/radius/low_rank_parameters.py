"""All parameters of rank at most r in one hidden layer of tanh units (or erf, or sigmoid units).

f(x) = d + sum_i a_i tanh(b_i . x + c_i) with n inputs, h units, m outputs; p_i = (b_i, c_i). The
workshop version of Farrugia-Roberts 2023 says that the parameters of rank at most r are a union of
linear subspaces. Which ones, how many and of which codimension is derived here.

**Data.** A datum is a set of constant units (b_i = 0), a partition of the other units into groups
with signs (up to one sign for each group) on which s_i p_i is constant, and for each group whether it
is *paid* (no further condition) or *free* (sum s_i a_i = 0). Its parameters are a linear subspace L.

**The parameters of rank <= r are the union of the L with at most r paid groups.** On such an L the
function is a constant and one tanh unit for each paid group, so its rank is at most r. Conversely let
w have rank at most r. Put its units with b_i = 0 into the constant set and group the others by p_i up
to sign; a group is paid if its signed sum of a is not zero. By Sussmann's theorem tanh units with
different rows up to sign, none of which is constant, are linearly independent with the constants (of
vectors of outgoing weights, coordinate by coordinate): so no network with this function has fewer
units than there are paid groups, and w lies on an L with at most r of them.

**Those with exactly r paid groups suffice**, for r <= h: if L has fewer, either a free group can be
made paid, or there is none and some unit is constant or shares a group, and it can become a paid group
of its own. Both drop equations, so L lies in an L' with one paid group more.

**None of those lies in another**, so they are the irreducible components. Let L in L', both with r paid
groups, and take a point of L in general position: only the constant units have b = 0, rows of
different groups differ up to sign, and signed sums of a over parts of groups vanish only for whole
free groups. As it lies on L', (1) each group of L' lies in a group of L, or is one constant unit of L
alone (their c differ); that one is paid in L', as its a is not zero. (2) Each paid group of L
contains a paid group of L', or its signed sum would vanish. By (2) L' has r paid groups inside those
of L, so it has no others: by (1) its constant units are those of L, and free groups of L contain only
free ones. A group of L that were divided by L' would have a proper part that is free in L', whose
signed sum does not vanish. So the groups are the same, with the same signs and fates: L = L'.

**Their number** N(h, r) = sum_z sum_k C(h, z) S(h - z, k) 2^(h - z - k) C(k, r), z constant units and k
groups, S the Stirling numbers of the second kind. Exponential generating function in h: e^x for the
constant units, g = (e^(2x) - 1)/2 for a group with its signs, so e^x g^r/r! e^g. Its derivative, with
g' = 1 + 2g, gives the recurrence

    N(h + 1, r) = N(h, r - 1) + (2r + 2) N(h, r) + (2r + 2) N(h, r + 1),   N(0, 0) = 1.

**Codimension.** One L has n z + (n + 1)(h - z - k) + m (k - r) equations (`Subspace.codimension`). The
three counts sum to h - r, so the least is (h - r) min(n, m), and it is reached: by h - r constant
units, or by h - r units with a = 0.

**The parameters with one function** of rank r. Let its irreducible form have rows q_1..q_r and
outgoing weights A_1..A_r. Such a parameter lies on an L with exactly r paid groups, each of which
belongs to one q_j: s_i p_i = q_j and sum s_i a_i = A_j; which one, and with which sign, are r! 2^r
choices (Sussmann: irreducible networks are unique up to these). d is the rest, d_0 - sum over the
constant units of a_i tanh(c_i). So the class is a union of r! 2^r N(h, r) pieces, each the graph of d
over an affine space. None lies in another: at a point of a piece in general position, a constant
unit is in no other group (its row is no q_j, its a is not zero), two parts of a paid group cannot
belong to different q_j, and proper parts of groups do not vanish. A constant unit has m + 1 free
numbers, a paid group m (size - 1), a free one n + 1 + m (size - 1). For each of the h - r units in
excess these are m + 1, m, and at most max(n + 1, m): the dimension is (h - r)(1 + max(n, m)), reached
by constant units or by units with a = 0.

The same holds for erf and sigmoid units, whose irreducible networks are minimal as well; a sigmoid
unit that changes sign moves d, which no equation names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from typing import Any

import numpy as np

from moduli.common.progress import Progress
from moduli.kernel.errors import ArgumentError, Asked
from moduli.kernel.network import Network
from moduli.kernel.radius.compatibility import SignedBox

from .euclidean_distance import RankDistance, nearest_of_rank, require_widths
from .nearly_compressible import Share, share
from .subspaces import Subspace

GRID = 2.0**-20  # of sampled entries: sums of a few are exact


@dataclass(frozen=True)
class RankSet:
    """The parameters of rank at most `rank` among networks with one hidden layer of tanh units.

    Iterating gives the irreducible components, each a linear `Subspace`; there are `components` of
    them.

    Attributes:
        widths: (inputs, hidden, outputs). rank: at most that many units are needed.
    """

    widths: tuple[int, int, int]
    rank: int

    @property
    def codimension(self) -> int:
        """(h - r) min(n, m): how many parameters fewer its largest components have."""
        n, h, m = self.widths
        return (h - self.rank) * min(n, m)

    @property
    def dimension(self) -> int:
        """Parameters of its largest components."""
        n, h, m = self.widths
        return h * (n + 1 + m) + m - self.codimension

    @property
    def components(self) -> int:
        """N(h, r): irreducible components, each a linear subspace."""
        return _components(self.widths[1], self.rank)

    @property
    def class_pieces(self) -> int:
        """Pieces of the set of all parameters with the function of one parameter of rank exactly
        `rank`: r! 2^r N(h, r).
        """
        names = math.factorial(self.rank) << self.rank  # which group is which unit, and its sign
        return names * self.components

    @property
    def class_dimension(self) -> int:
        """Dimension of the largest of these pieces: (h - r)(1 + max(n, m))."""
        n, h, m = self.widths
        return (h - self.rank) * (1 + max(n, m))

    def __iter__(self) -> Iterator[Subspace]:
        n, h, m = self.widths
        for fates in _fates(self.rank, tuple(range(h))):
            yield Subspace((n, h, m), *fates)

    def sample(self, seed: int | np.random.Generator = 0) -> Network:
        """A tanh network on it, of rank exactly `rank` for almost all seeds.

        A component is drawn (each can be, not all are equally likely), then standard normal
        entries on a grid of 2^-20, so that every equation holds exactly.
        """
        rng = np.random.default_rng(seed)
        n, h, m = self.widths
        rows, outgoing, last = (
            np.round(rng.standard_normal(shape) / GRID) * GRID for shape in ((h, n + 1), (h, m), m)
        )
        constant, paid, free = _drawn(h, self.rank, rng)
        rows[list(constant), :-1] = 0.0
        for units, signs in (*paid, *free):
            rows[list(units)] = rows[units[0]] * signs[0] * np.array(signs)[:, None] + 0.0
        for units, signs in free:
            rest = outgoing[list(units[:-1])] * np.array(signs[:-1])[:, None]
            outgoing[units[-1]] = -signs[-1] * rest.sum(axis=0) + 0.0
        return Network.mlp(rows[:, :-1], rows[:, -1], outgoing.T.copy(), last, activation="tanh")

    def distance(
        self, net: Network, *, budget: int = 10_000, seed: int | np.random.Generator = 0
    ) -> RankDistance:
        """The Euclidean distance of a network's parameters to the set, between two bounds.

        Above: the distance to a network on the set, found by moving one unit at a time, then by
        the search. Below: best first branch and bound over the components, until the bounds meet
        (up to rounding) or `budget` nodes are spent; beyond 2048 units there is no bound but 0.

        Args:
            net: a `Network` of these widths, its hidden layer of tanh, erf or sigmoid.

        Raises:
            ArgumentError: another kind of network, or no `Network`. ShapeError: other widths.
        """
        return nearest_of_rank(net, self.widths, self.rank, budget, seed)

    def share(
        self,
        radius: float,
        *,
        side: float = 1.0,
        draws: int = 400,
        seed: int = 0,
        budget: int = 1_000,
        progress: Progress | None = None,
    ) -> Share:
        """How many parameters of the cube [-side, side] are within a radius of the set, in the largest norm:
        the share of nearly compressible ones, by volume.

        A proved bound, and an interval with 95 % confidence from draws that are judged by proved bounds of
        their proximate rank (`moduli.compression.radius.nearly_compressible` has the proof).

        Args:
            budget: search nodes for each draw; a draw that is not decided widens the interval.

        Raises:
            ArgumentError: other numbers, or more than 60 hidden units.

        >>> few = rank_set((1, 3, 1), 2).share(0.05, draws=100)
        >>> few.lower < few.upper <= few.most, round(few.most, 3)
        (True, 0.357)
        """
        return share(self.widths, self.rank, radius, side, draws, seed, budget, progress)

    def contains(self, net: Network) -> bool:
        """Whether a network of these widths has at most this rank, exactly: the same as distance 0."""
        require_widths(net, self.widths)
        return Subspace.through(net).rank <= self.rank

    def __repr__(self) -> str:
        count = self.components
        shown = str(count) if count < 10**9 else f"about 10^{math.log10(count):.0f}"
        return (
            f"RankSet(widths={self.widths}, rank={self.rank}): codimension {self.codimension}, "
            f"{shown} components"
        )


def rank_set(widths: tuple[int, int, int], rank: int) -> RankSet:
    """The set of all parameters of rank at most `rank` in one hidden layer of tanh units.

    It is a union of linear subspaces (Farrugia-Roberts 2023); their number and codimension are
    derived in `moduli.compression.radius.low_rank_parameters`.

    Args:
        widths: (inputs, hidden, outputs). rank: from 0 to the hidden units.

    Returns:
        its `codimension`, `components` (how many; iterate for the subspaces), `sample(seed)`, and
        the Euclidean `distance(net)` of a network to it.

    Raises:
        ArgumentError: other numbers.

    >>> near = rank_set((1, 2, 1), 1)
    >>> near.codimension, near.components
    (1, 6)
    >>> print(*near, sep=" | ")
    constant 0; paid {1} | constant 1; paid {0} | paid {0}; free {1} | paid {1}; free {0} | paid {0, 1} | paid {0, -1}
    >>> import moduli as mo
    >>> found = near.distance(mo.Network.mlp([[1.0], [1.0]], [0.0, 0.25], [[1.0, 1.0]], [0.0]))
    >>> round(found.upper, 4), found.witness.layers[0].bias.tolist()
    (0.1768, [0.125, 0.125])
    """
    given: Any = widths
    sizes = tuple(given) if isinstance(given, (tuple, list)) else ()
    whole = all(isinstance(w, (int, np.integer)) for w in sizes)
    if len(sizes) != 3 or not whole or sizes[0] < 1 or sizes[1] < 0 or sizes[2] < 1:
        raise ArgumentError(
            Asked("widths", widths), ": give (inputs, hidden, outputs), whole numbers of at least 1, 0, 1"
        )  # fmt: skip
    n, h, m = map(int, sizes)
    if not isinstance(rank, (int, np.integer)) or not 0 <= rank <= h:
        raise ArgumentError(
            Asked("rank", rank), f": a whole number from 0 to {h}, the hidden units"
        )
    return RankSet((n, h, m), int(rank))


@cache
def _components(units: int, rank: int) -> int:
    """N(h, r), by the recurrence above; only r up to h matter, and those above `rank` for later h."""
    row = [1]
    for _ in range(units):
        wide = [0, *row, 0, 0]
        row = [wide[r] + (2 * r + 2) * (wide[r + 1] + wide[r + 2]) for r in range(len(row) + 1)]
    return row[rank]


Fates = tuple[tuple[int, ...], tuple[SignedBox, ...], tuple[SignedBox, ...]]


def _fates(paid: int, rest: tuple[int, ...]) -> Iterator[Fates]:
    """Constant units, paid and free groups, all ways: the first unit's fate, then those of the rest."""
    if not rest:
        if not paid:
            yield (), (), ()
        return
    first, others = rest[0], rest[1:]
    if paid < len(rest):
        for constant, one, two in _fates(paid, others):
            yield (first, *constant), one, two
    for size in range(len(rest)):
        for company in combinations(others, size):
            left = tuple(u for u in others if u not in company)
            for signs in product((1, -1), repeat=size):
                group = SignedBox((first, *company), (1, *signs))
                if 0 < paid <= len(left) + 1:
                    for constant, one, two in _fates(paid - 1, left):
                        yield constant, (group, *one), two
                if paid <= len(left):
                    for constant, one, two in _fates(paid, left):
                        yield constant, one, (group, *two)


def _drawn(units: int, rank: int, rng: np.random.Generator) -> Fates:
    """A component at random: `rank` units open paid groups; every other one becomes constant, opens
    a free group, or joins a group with a random sign.
    """
    order = rng.permutation(units).tolist()
    groups: list[tuple[list[int], list[int]]] = [([u], [1]) for u in order[:rank]]
    constant = []
    for u in order[rank:]:
        choice = int(rng.integers(len(groups) + 2))
        if choice < len(groups):
            groups[choice][0].append(u)
            groups[choice][1].append(int(rng.choice([1, -1])))
        elif choice == len(groups):
            groups.append(([u], [1]))
        else:
            constant.append(u)
    boxes = [SignedBox(tuple(us), tuple(ss)) for us, ss in groups]
    return tuple(sorted(constant)), tuple(boxes[:rank]), tuple(boxes[rank:])
