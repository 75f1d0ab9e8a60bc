"""The parameters of rank at most r as a union of subspaces: against enumeration written here."""

from fractions import Fraction
from itertools import product
from math import comb, factorial

import numpy as np
import oracles
import pytest

import moduli as mo
from moduli.compression.radius.low_rank_parameters import rank_set
from moduli.compression.radius.subspaces import Subspace


def labelled(h):
    """All data, each several times: a label for each unit (0 constant, else its group), a sign, and
    which groups are paid.
    """
    for labels in product(range(h + 1), repeat=h):
        groups = sorted(set(labels) - {0})
        for signs in product((1, -1), repeat=h):
            for paid in product((True, False), repeat=len(groups)):
                yield labels, signs, dict(zip(groups, paid, strict=True))


def equations(widths, labels, signs, paid):
    """Rows of a matrix over (b_u, c_u, a_u), unit by unit."""
    n, h, m = widths
    size = n + 1 + m
    rows = []

    def row(*entries):
        line = [Fraction(0)] * (h * size)
        for u, k, x in entries:
            line[u * size + k] += x
        rows.append(line)

    for u in range(h):
        if not labels[u]:
            for k in range(n):
                row((u, k, 1))
        for v in range(u):
            if labels[u] and labels[u] == labels[v]:
                for k in range(n + 1):
                    row((u, k, signs[u]), (v, k, -signs[v]))
    for group, pays in paid.items():
        members = [u for u in range(h) if labels[u] == group]
        for k in range(n + 1, size):
            if not pays:
                row(*((u, k, signs[u]) for u in members))
    return rows


def reduced(rows):
    """The reduced echelon form: the same for the same subspace."""
    rows, pivots, top = [list(r) for r in rows], [], 0
    for column in range(len(rows[0]) if rows else 0):
        at = next((i for i in range(top, len(rows)) if rows[i][column]), None)
        if at is None:
            continue
        rows[top], rows[at] = rows[at], rows[top]
        rows[top] = [x / rows[top][column] for x in rows[top]]
        for i, other in enumerate(rows):
            if i != top and other[column]:
                rows[i] = [x - other[column] * y for x, y in zip(other, rows[top], strict=True)]
        pivots.append(column)
        top += 1
    return tuple(tuple(r) for r in rows[:top])


@pytest.mark.parametrize(
    "widths",
    [
        (1, 1, 1),
        (1, 2, 1),
        (2, 2, 1),
        (1, 2, 2),
        pytest.param((1, 3, 1), marks=pytest.mark.slow),
        pytest.param((2, 3, 3), marks=pytest.mark.slow),
    ],
)
def test_the_components_are_the_largest_of_all_subspaces(widths):
    h = widths[1]
    found = {}
    for labels, signs, paid in labelled(h):
        key = reduced(equations(widths, labels, signs, paid))
        found[key] = min(sum(paid.values()), found.get(key, h))
    for rank in range(h + 1):
        spaces = [key for key, needed in found.items() if needed <= rank]
        largest = [
            one
            for one in spaces
            if not any(other != one and len(reduced(one + other)) == len(one) for other in spaces)
        ]
        near = rank_set(widths, rank)
        assert near.components == len(largest)
        assert near.codimension == min(map(len, largest))
        size = h * (widths[0] + 1 + widths[2])
        ours = set()
        for space in near:
            lines = []
            for equation in space.equations():
                line = [Fraction(0)] * size
                for place, factor in equation:
                    line[place] += factor
                lines.append(line)
            ours.add(reduced(lines))
            assert len(reduced(lines)) == space.codimension
        assert ours == set(largest)


@pytest.mark.parametrize("widths", [(1, 2, 1), (1, 2, 2), (2, 2, 1), (1, 3, 1)])
def test_the_union_is_what_has_that_rank(widths):
    """Of 250 parameters with entries -1, 0 and 1."""
    n, h, m = widths
    size = h * (n + 1 + m)
    points = np.random.default_rng(0).integers(-1, 2, (250, size)).astype(float)
    sets = [(rank_set(widths, r), list(rank_set(widths, r))) for r in range(h + 1)]
    for theta in points:
        b, c, a = np.split(theta, [h * n, h * (n + 1)])
        net = mo.Network.mlp(b.reshape(h, n), c, a.reshape(m, h), np.zeros(m))
        rank = oracles.proximate_rank(a.reshape(m, h).T, b.reshape(h, n), c, 0.0)
        assert Subspace.through(net).rank == rank
        for near, spaces in sets:
            inside = any(space.contains(net) for space in spaces)
            assert inside == (rank <= near.rank) == near.contains(net)


def test_the_number_of_components():
    def stirling(n, k):
        return sum((-1) ** j * comb(k, j) * (k - j) ** n for j in range(k + 1)) // factorial(k)

    for h in range(9):
        for r in range(h + 1):
            want = sum(
                comb(h, z) * stirling(h - z, k) * 2 ** (h - z - k) * comb(k, r)
                for z in range(h + 1)
                for k in range(h - z + 1)
                if k >= r
            )
            assert rank_set((3, h, 2), r).components == want
        assert h == 0 or rank_set((1, h, 1), h - 1).components == h * (h + 1)
    assert len(str(rank_set((1, 600, 1), 300).components)) > 500  # large ones are exact, and quick


@pytest.mark.parametrize(
    "widths",
    [
        (1, 1, 1),
        (1, 2, 1),
        (2, 2, 1),
        (1, 2, 3),
        pytest.param((1, 3, 1), marks=pytest.mark.slow),
        pytest.param((2, 3, 2), marks=pytest.mark.slow),
    ],
)
def test_the_parameters_with_one_function(widths):
    """Pieces are affine in (a, b, c), d follows from them: distinct ones counted, and the dimension
    of the largest, from equations written here.
    """
    n, h, m = widths
    size = n + 1 + m
    for rank in range(h + 1):
        rng = np.random.default_rng(rank)
        rows = [[Fraction(int(x)) for x in rng.integers(1, 10**6, n + 1)] for _ in range(rank)]
        outer = [[Fraction(int(x)) for x in rng.integers(1, 10**6, m)] for _ in range(rank)]
        pieces = set()
        for labels, signs, paid in labelled(h):
            groups = [group for group, pays in paid.items() if pays]
            if len(groups) != rank:
                continue
            lines = [[*r, Fraction(0)] for r in equations(widths, labels, signs, paid)]
            for order in _orders(rank):
                system = list(lines)
                for group, target in zip(groups, order, strict=True):
                    members = [u for u in range(h) if labels[u] == group]
                    for u in members:
                        for k in range(n + 1):
                            line = [Fraction(0)] * (h * size + 1)
                            line[u * size + k], line[-1] = Fraction(signs[u]), rows[target][k]
                            system.append(line)
                    for k in range(m):
                        line = [Fraction(0)] * (h * size + 1)
                        for u in members:
                            line[u * size + n + 1 + k] = Fraction(signs[u])
                        line[-1] = outer[target][k]
                        system.append(line)
                pieces.add(reduced(system))
        near = rank_set(widths, rank)
        assert len(pieces) == near.class_pieces
        assert max(h * size - len(piece) for piece in pieces) == near.class_dimension


def _orders(count):
    if not count:
        return [()]
    from itertools import permutations

    return list(permutations(range(count)))


@pytest.mark.parametrize("widths", [(1, 1, 1), (2, 4, 3), (5, 9, 1), (3, 30, 2)])
def test_samples_lie_on_it(widths):
    for rank in {0, 1, widths[1] // 2, widths[1] - 1, widths[1]}:
        near = rank_set(widths, rank)
        fates = set()
        for seed in range(5):
            net = near.sample(seed)
            assert net.widths == widths
            assert int(mo.rank(net)) == rank
            assert near.contains(net)
            assert near.distance(net).upper == 0
            assert net.digest == near.sample(seed).digest
            fates.add(str(Subspace.through(net)))
        assert len(fates) > 1 or widths[1] == 1 or rank == widths[1]


def test_refusals():
    for widths in ((0, 2, 1), (1, -1, 1), (1, 2, 0)):
        with pytest.raises(mo.ArgumentError, match="inputs, hidden, outputs"):
            rank_set(widths, 0)
    for rank in (-1, 3):
        with pytest.raises(mo.ArgumentError, match="0 to 2"):
            rank_set((1, 2, 1), rank)
    near = rank_set((1, 2, 1), 1)
    with pytest.raises(mo.ShapeError, match=r"\(2, 2, 1\)"):
        near.distance(rank_set((2, 2, 1), 1).sample())
    with pytest.raises(mo.ArgumentError, match="relu"):
        near.distance(
            mo.Network.mlp([[1.0], [2.0]], [0, 0], [[1.0, 1.0]], [0.0], activation="relu")
        )


def test_a_number_of_components_beyond_what_python_prints():
    assert "about 10^" in repr(rank_set((1, 2500, 1), 1200))
