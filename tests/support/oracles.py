"""Oracles, written without the library: brute force in rationals, for small cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import cache
from itertools import product
from typing import Any

import numpy as np

Rows = Sequence[Sequence[Fraction]]


def _fractions(rows: Any) -> list[list[Fraction]]:
    return [[Fraction(x) for x in row] for row in rows]


def proximate_rank(a: Any, b: Any, c: Any, eps: float, outgoing: float | None = None) -> int:
    """The least rank within eps, over all fates, partitions, signs and free groups; a: [h, m], b:
    [h, n], c: [h]. With `outgoing`, by which a may move instead.
    """
    out, weights, bias, e = _fractions(a), _fractions(b), [Fraction(x) for x in c], Fraction(eps)
    out_e = e if outgoing is None else Fraction(outgoing)
    rows = [[*w, d] for w, d in zip(weights, bias, strict=True)]
    h = len(rows)

    def signings(units: list[int]) -> Iterable[list[int]]:
        for rest in product((1, -1), repeat=len(units) - 1):
            signs = [1, *rest]
            signed = [[s * x for x in rows[u]] for u, s in zip(units, signs, strict=True)]
            if all(max(column) - min(column) <= 2 * e for column in zip(*signed, strict=True)):
                yield signs

    @cache
    def price(mask: int) -> int | None:
        """0 for a group that can be free, 1 for a signed box, None for no box."""
        units = [u for u in range(h) if mask >> u & 1]
        best: int | None = None
        for signs in signings(units):
            best = 1
            sums = [
                sum(s * out[u][k] for u, s in zip(units, signs, strict=True))
                for k in range(len(out[0]))
            ]
            if all(abs(x) <= out_e * len(units) for x in sums):
                return 0
        return best

    @cache
    def least(mask: int) -> int:
        if not mask:
            return 0
        first = (mask & -mask).bit_length() - 1
        best = h
        if all(abs(x) <= e for x in weights[first]):
            best = least(mask ^ 1 << first)
        rest = mask ^ 1 << first
        sub = rest
        while True:
            cost = price(sub | 1 << first)
            if cost is not None:
                best = min(best, cost + least(rest ^ sub))
            if not sub:
                return best
            sub = (sub - 1) & rest

    return least((1 << h) - 1)


def greedy(a: Any, b: Any, c: Any, eps: float, order: Sequence[int] | None = None) -> int:
    """The paper's greedy bound."""
    out, weights, e = _fractions(a), _fractions(b), Fraction(eps)
    rows = [[*w, Fraction(d)] for w, d in zip(weights, c, strict=True)]
    groups: list[list[tuple[int, int]]] = []
    for u in order if order is not None else range(len(rows)):
        if all(abs(x) <= e for x in weights[u]):
            continue
        for group in groups:
            leader, _ = group[0]
            sign = next(
                (
                    s
                    for s in (1, -1)
                    if all(abs(s * x - y) <= e for x, y in zip(rows[u], rows[leader], strict=True))
                ),
                0,
            )
            if sign:
                group.append((u, sign))
                break
        else:
            groups.append([(u, 1)])
    free = [
        all(abs(sum(s * out[u][k] for u, s in g)) <= e * len(g) for k in range(len(out[0])))
        for g in groups
    ]
    return free.count(False)


def least_boxes(points: Any, side: float) -> int:
    """The least number of axis-parallel boxes that cover points: an integer program on boxes at
    lower left corners.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    p = np.asarray(points, dtype=np.float64)
    sets = set()
    for x in sorted(set(p[:, 0].tolist())):
        strip = np.flatnonzero((p[:, 0] >= x) & (p[:, 0] - x <= side))
        for y in sorted(set(p[strip, 1].tolist())):
            sets.add(frozenset(strip[(p[strip, 1] >= y) & (p[strip, 1] - y <= side)].tolist()))
    columns = [s for s in sets if s]
    i = [u for s in columns for u in sorted(s)]
    j = [k for k, s in enumerate(columns) for _ in s]
    matrix = csr_matrix((np.ones(len(i)), (i, j)), shape=(len(p), len(columns)))
    found = milp(
        np.ones(len(columns)), integrality=np.ones(len(columns)), bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, 1, np.inf), options={"mip_rel_gap": 0.0},
    )  # fmt: skip
    return round(found.fun)


def satisfiable(clauses: Sequence[Sequence[int]]) -> bool:
    count = max(abs(x) for clause in clauses for x in clause)
    return any(
        all(any((x > 0) == values[abs(x) - 1] for x in clause) for clause in clauses)
        for values in product((False, True), repeat=count)
    )
