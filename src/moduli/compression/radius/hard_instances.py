"""Hard instances of proximate rank: covering points by boxes, and planar satisfiability
(Farrugia-Roberts 2023, section 6).

Least covers of points by boxes of side 2 eps are proximate ranks (`hard_instance`), and
satisfiability of planar formulas is such a covering problem (`planar_formula`): so deciding
proximate rank is NP-hard. All coordinates are dyadic.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from moduli.kernel.errors import ArgumentError, Asked, ShapeError
from moduli.kernel.exact_numbers import Array, two_sum
from moduli.kernel.network import Network

Clause = Sequence[int]
# Lengths in eighths of the box side.
BASE = 32
PITCH = 48
LEVEL = 64
WIDE = 14
SIDE = 4  # half a box


def hard_instance(points: Any, radius: float) -> Network:
    """A tanh network whose proximate rank at a radius is the least number of boxes of side 2 radius
    that cover the points.

    Unit i has the first coordinates of point i, all shifted above radius, as weights, the last one as
    bias, and outgoing weight 4 radius. So no unit can be constant (its weights exceed radius) or null, no
    two rows p, -q share a box (their sum exceeds 2 radius), and no group is free (its sum is 4 radius
    times its size): all units are paid, and groups are covers by boxes.

    Args:
        points: ``[h, D]``, D >= 2. radius: > 0.

    Raises:
        ShapeError: not a list of points with at least two coordinates. ValueError: a coordinate is
            not finite, or the shift would round it; choose dyadic coordinates of similar size.

    >>> import moduli as mo
    >>> net = mo.hard_instance([[0, 0], [1, 1], [3, 0]], radius=0.5)
    >>> int(mo.rank(net, radius=0.5))
    2
    """
    x = np.array(points, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] < 2:
        raise ShapeError(f"points of shape {x.shape}: [h, D] with D >= 2 is needed")
    if not 0 < radius < 2.0**500 or 4 * radius == 0:
        raise ArgumentError(Asked("radius", radius), ": a positive finite number is needed")
    if not np.isfinite(x).all():
        raise ValueError(f"point {int(np.argmin(np.isfinite(x).all(axis=1)))} is not finite")
    shift = np.zeros(x.shape[1])
    for k in range(x.shape[1] - 1):
        need = radius - x[:, k].min(initial=np.inf)
        # All coordinates above radius, so that signs do not help; powers of two keep dyadic
        # coordinates exact.
        if need > 0:
            shift[k] = 2.0 ** (np.floor(np.log2(need)) + 1)
        elif need == 0:
            shift[k] = 2.0 * radius
    moved, error = two_sum(x, np.broadcast_to(shift, x.shape))
    if error.any():
        i, k = np.argwhere(error)[0]
        raise ValueError(
            f"point {i}: coordinate {x[i, k]!r} + {shift[k]!r} is no float; choose dyadic coordinates"
        )
    return Network.mlp(moved[:, :-1], moved[:, -1], np.full((1, len(x)), 4.0 * radius), [0.0])


def uniform_points(
    count: int, per_box: float, *, dimension: int = 2, eps: float = 0.5, seed: Any = 0
) -> Array:
    """``[count, dimension]`` random dyadic points, `per_box` of them expected in a box of side 2
    eps.

    >>> uniform_points(3, 1.0, seed=0).shape
    (3, 2)
    """
    grid = 2**20
    side = (count / per_box) ** (1 / dimension)
    draws = np.random.default_rng(seed).integers(0, max(1, int(side * grid)), (count, dimension))
    return np.asarray(draws * (2 * eps / grid))


def ring(count: int, eps: float = 0.5) -> Array:
    """Points on a circle, neighbours (chord 1.8 eps) share a box and no three do: ceil(count / 2)
    boxes, count >= 9.

    The linear relaxation needs count / 2: odd rings have a gap.

    >>> ring(9).shape
    (9, 2)
    """
    if count < 9:
        raise ValueError(f"a ring of {count} points: at least 9 are needed")
    angle = 2 * np.pi * np.arange(count) / count
    circle = np.column_stack([np.cos(angle), np.sin(angle)]) * (
        1.8 * eps / (2 * np.sin(np.pi / count))
    )
    return np.asarray(np.round(circle / eps * 2**20) * (eps / 2**20))


def lattice(size: int, eps: float = 0.5) -> Array:
    """size x size points at spacing eps: ceil(size / 3)^2 boxes, every comparison a tie.

    >>> len(lattice(4))
    16
    """
    line = np.arange(size) * eps
    return np.asarray(np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2))


def planar_formula(clauses: Sequence[Clause]) -> tuple[Array, int]:
    """Points and a number K: K boxes of side 1 cover the points if and only if the formula is
    satisfiable.

    A clause is up to three literals of different variables, k or -k for variable k >= 1. Variables
    stand side by side and clauses are combs above them, which must not cross. A variable is a
    closed chain of 2k points in which neighbours, and never three points, share a box: k boxes
    cover it in two ways, its values. The chain has a leg to every clause; the pair of points at its
    tip shares a box with the point of the clause, and is itself in one box for one of the two
    values.

    Returns:
        ``[h, 2]``, coordinates multiples of 1/8; K = half the number of chain points.

    Raises:
        ValueError: a clause is empty, too long or repeats a variable, or two clauses cross.

    >>> points, boxes = planar_formula([[1, 2], [-1, 2]])
    >>> len(points) - 2 == 2 * boxes
    True
    """
    _validate(clauses)
    level = _levels(clauses)
    variables = sorted({abs(x) for c in clauses for x in c})
    legs = {v: _legs(clauses, level, v) for v in variables}
    place: dict[tuple[int, int], int] = {}
    base: dict[int, tuple[int, int]] = {}
    x = 0
    for v, order in legs.items():
        base[v] = (x, x + 2 * BASE + PITCH * len(order))
        place |= {(v, c): x + BASE + PITCH * k for k, c in enumerate(order)}
        x = base[v][1] + PITCH
    targets = [_target(clause, c, level[c], place) for c, clause in enumerate(clauses)]
    chains = []
    for v, order in legs.items():
        outline = [(clauses[c], targets[c], place[v, c]) for c in order]
        chains.append(_chain(base[v], outline, v))
    points = [*(p for chain in chains for p in chain), *targets]
    return np.array(points, dtype=np.float64) / 8, sum(len(chain) for chain in chains) // 2


def random_planar_formula(variables: int, clauses: int, seed: Any = 0) -> list[list[int]]:
    """Clauses of one to three literals with random signs that can be drawn without crossings.

    >>> random_planar_formula(4, 3, seed=0) == random_planar_formula(4, 3, seed=0)
    True
    """
    rng = np.random.default_rng(seed)
    found: list[list[int]] = []
    while len(found) < clauses:
        size = int(rng.integers(1, min(3, variables) + 1))
        chosen = np.sort(rng.choice(variables, size, replace=False)) + 1
        clause = (chosen * rng.choice([-1, 1], size)).tolist()
        if not any(_cross(clause, other) for other in found):
            found.append(clause)
    return found


def _validate(clauses: Sequence[Clause]) -> None:
    for k, clause in enumerate(clauses):
        if not 1 <= len(clause) <= 3 or 0 in clause or len({abs(x) for x in clause}) < len(clause):
            raise ValueError(
                f"clause {k}: {list(clause)}: one to three literals of different variables are needed"
            )
        for j in range(k):
            if _cross(clause, clauses[j]):
                raise ValueError(f"clauses {j} and {k} cross: {list(clauses[j])}, {list(clause)}")


def _variables(clause: Clause) -> list[int]:
    return sorted(abs(x) for x in clause)


def _nested(inner: Clause, outer: Clause) -> bool:
    """Whether the inner comb fits between two legs of the outer one."""
    a, b = _variables(inner), _variables(outer)
    return any(low <= a[0] and a[-1] <= high for low, high in pairwise(b))


def _cross(one: Clause, two: Clause) -> bool:
    a, b = _variables(one), _variables(two)
    return not (a[-1] <= b[0] or b[-1] <= a[0] or _nested(one, two) or _nested(two, one))


def _levels(clauses: Sequence[Clause]) -> list[int]:
    """Heights such that combs are above those that they contain; equal ones stand in their order."""
    level = [0] * len(clauses)
    span = [_variables(clause)[-1] - _variables(clause)[0] for clause in clauses]
    order = sorted(range(len(clauses)), key=lambda c: (span[c], len(clauses[c]) == 2))
    for k, c in enumerate(order):
        below = [level[d] for d in order[:k] if _nested(clauses[d], clauses[c])]
        level[c] = max(below, default=-1) + 1
    return level


def _legs(clauses: Sequence[Clause], level: list[int], v: int) -> list[int]:
    """The clauses of a variable in the order of their legs: to the left, low ones first; up; to the
    right, high ones first.
    """

    def key(c: int) -> tuple[int, int]:
        mine = _variables(clauses[c])
        if len(mine) == 1:
            return 1, level[c]
        if v == mine[-1]:  # to the left
            return 0, level[c]
        if v == mine[0]:  # to the right
            return 3, -level[c]
        return 2, level[c]

    return sorted((c for c, clause in enumerate(clauses) if v in _variables(clause)), key=key)


def _target(
    clause: Clause, c: int, level: int, place: dict[tuple[int, int], int]
) -> tuple[int, int]:
    mine, y = _variables(clause), BASE + PITCH + LEVEL * level
    if len(mine) == 2:
        return place[mine[0], c] + WIDE + PITCH, y
    return place[mine[len(mine) // 2], c] + WIDE // 2, y


def _chain(
    base: tuple[int, int], legs: list[tuple[Clause, tuple[int, int], int]], v: int
) -> list[tuple[int, int]]:
    """Points along the outline of a variable, clockwise from the lower left corner."""
    corners: list[tuple[int, int]] = [(base[0], 0), (base[0], BASE)]
    tips: dict[
        int, int
    ] = {}  # corner at which the edge of a tip begins -> parity of the pair's first point
    for clause, (x, y), left in legs:
        mine, right = _variables(clause), left + WIDE
        if len(mine) == 1 or (len(mine) == 3 and v == mine[1]):
            path, tip = [(left, y - 8), (right, y - 8)], 0
        elif v == mine[0]:
            path, tip = [(left, y + 12), (x - 8, y + 12), (x - 8, y - 2), (right, y - 2)], 1
        else:
            path, tip = [(left, y - 2), (x + 8, y - 2), (x + 8, y + 12), (right, y + 12)], 1
        corners.append((left, BASE))
        tips[len(corners) + tip] = 0 if v in clause else 1
        corners += [*path, (right, BASE)]
    corners += [(base[1], BASE), (base[1], 0)]
    points: list[tuple[int, int]] = []
    upright = (
        0,
        corners[0],
        corners[1],
        0,
    )  # the long edge before a tip, whose number of steps gives way
    for k, start in enumerate(corners):
        end = corners[(k + 1) % len(corners)]
        if k in tips and (len(points) % 2) != tips[k]:
            at, a, b, steps = upright
            points[at : at + steps + 1] = _edge(a, b, steps + 1)
        new = _edge(start, end)
        if end[0] == start[0] and start[1] == BASE and end[1] > BASE:
            upright = (len(points), start, end, len(new) - 1)
        points += new
    if len(points) % 2:
        last = _edge(corners[-1], corners[0])
        points[-len(last) :] = _edge(corners[-1], corners[0], len(last))
    return points


def _edge(
    a: tuple[int, int], b: tuple[int, int], steps: int | None = None
) -> list[tuple[int, int]]:
    """Points from half a box behind a corner to half a box before the next, in steps of 5/8 to 1."""
    way = (b[0] - a[0], b[1] - a[1])
    length = abs(way[0] + way[1]) - 2 * SIDE
    unit = [(x > 0) - (x < 0) for x in way]
    count = -(-length // 8) if steps is None else steps
    assert 5 * count <= length <= 8 * count, (a, b, count)
    at = [SIDE + length * k // count for k in range(count + 1)]
    return [(a[0] + unit[0] * s, a[1] + unit[1] * s) for s in at]
