"""Plans without a proof of anything: the paper's greedy bound, first fit, free groups by beam
search, regrouping.

Every group of a plan is a signed box, exactly; every free group is free, exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moduli.kernel.exact_numbers import Array
from moduli.kernel.radius.compatibility import (
    Ints,
    Mask,
    ParameterBall,
    SignedBox,
    at_most,
    contributors,
    neighbourhood,
    scratch,
    sides,
    signs_of,
)

from .set_cover import cheapest

BEAM = 1000


@dataclass(frozen=True)
class Plan:
    """A fate for every unit: groups that stay as one unit each, groups that vanish, units made
    constant or null.
    """

    paid: tuple[SignedBox, ...] = ()
    free: tuple[SignedBox, ...] = ()
    constant: tuple[int, ...] = ()
    null: tuple[int, ...] = ()


def greedy(ball: ParameterBall, order: Sequence[int] | None = None) -> Plan:
    """The plan behind the bound of the paper (section 5): one pass over the units, by default in
    stored order. Rows are not turned beforehand: each is tried with both signs, + first. With one
    input that is the same as turning them first, so that the first entry that is not zero is
    positive; with more, it can give another number.

    Units with |w| <= radius go; each other one joins the first group whose first member is within
    the radius of it (or of its negative), or opens one; then groups with |sum s_i a_i| <= radius *
    size go.
    """
    units = [i for i in (range(ball.size) if order is None else order) if not ball.constant[i]]
    leaders = np.empty((len(units), ball.rows.shape[1]))
    found: list[tuple[list[int], list[int]]] = []
    for i in units:
        at, sign = len(found), 1
        for s in (1, -1) if ball.signed else (1,):
            first = _first_within(leaders[: len(found)], s * ball.rows[i], ball.radius)
            if first < at:
                at, sign = first, s
        if at == len(found):
            leaders[at] = ball.rows[i]
            found.append(([], []))
        found[at][0].append(i)
        found[at][1].append(sign)
    groups = [SignedBox(tuple(members), tuple(signs)) for members, signs in found]
    free = [ball.free(g) for g in groups]
    paid = [g for g, f in zip(groups, free, strict=True) if not f]
    return completed(ball, paid, [g for g, f in zip(groups, free, strict=True) if f])


def _first_within(leaders: Array, row: Array, radius: float) -> int:
    """The first leader within the radius of a row; the number of leaders if there is none."""
    candidates = np.flatnonzero(np.abs(leaders[:, 0] - row[0]) <= np.nextafter(radius, np.inf))
    near = (
        at_most(leaders[candidates], row, radius) & at_most(row, leaders[candidates], radius)
    ).all(axis=1)
    hit = candidates[near]
    return int(hit[0]) if len(hit) else len(leaders)


def assembled(
    ball: ParameterBall,
    boxes: Sequence[SignedBox],
    free: Sequence[SignedBox],
    dominated: Sequence[tuple[int, int, int]] = (),
) -> Plan:
    """Free groups, every other unit in the first box that has it, then dominated units."""
    placed = {i for g in free for i in g.units}
    paid: list[dict[int, int]] = []
    home: dict[int, dict[int, int]] = {}
    for box in boxes:
        members = {i: s for i, s in zip(*box, strict=True) if i not in placed}
        placed |= set(members)
        home |= dict.fromkeys(members, members)
        paid.append(members)
    for unit, host, sign in reversed(dominated):
        if unit not in placed:
            group = home[unit] = home[host]
            group[unit] = sign * group[host]
            placed.add(unit)
    return Plan(tuple(SignedBox(tuple(g), tuple(g.values())) for g in paid if g), tuple(free))


def first_fit(ball: ParameterBall, order: Sequence[int] | Ints | None = None) -> list[SignedBox]:
    """Seeds in an order, by default low degree first; each takes its neighbours, few neighbours
    first, while they fit a box.
    """
    waiting = np.zeros(ball.size, dtype=bool)
    waiting[ball.required] = True
    groups = []
    if order is None:
        order = np.lexsort((np.arange(ball.size), ball.graph.degree))
    for seed in np.asarray(order).tolist():
        if waiting[seed]:
            group = filled(ball, SignedBox((seed,), (1,)), waiting)
            waiting[list(group.units)] = False
            groups.append(group)
    return groups


def crowded(ball: ParameterBall) -> list[SignedBox]:
    """First fit in stored order without the graph, for layers with too many compatible pairs (then
    groups are few).
    """
    width = ball.rows.shape[1]
    low, high = np.empty((0, width)), np.empty((0, width))
    groups: list[dict[int, int]] = []
    for i in ball.required.tolist():
        for sign in (1, -1) if ball.signed else (1,):
            row = sign * ball.rows[i]
            hit = np.flatnonzero(
                at_most(np.maximum(high, row), np.minimum(low, row), 2 * ball.radius).all(axis=1)
            )
            if len(hit):
                k = int(hit[0])
                low[k], high[k] = np.minimum(low[k], row), np.maximum(high[k], row)
                groups[k][i] = sign
                break
        else:
            low, high = np.vstack([low, ball.rows[i]]), np.vstack([high, ball.rows[i]])
            groups.append({i: 1})
    return [SignedBox(tuple(g), tuple(g.values())) for g in groups]


def filled(ball: ParameterBall, group: SignedBox, among: Mask | None = None) -> SignedBox:
    """A maximal box around a group."""
    start = ball.rows[list(group.units)] * np.array(group.signs, dtype=float)[:, None]
    low, high = start.min(axis=0), start.max(axis=0)
    others, signs = ball.graph.near(group.units[0])
    signs = signs * group.signs[0]
    keep = (
        ~np.isin(others, group.units)
        if among is None
        else among[others] & ~np.isin(others, group.units)
    )
    order = np.flatnonzero(keep)[np.argsort(ball.graph.degree[others[keep]], kind="stable")]
    others, signs = others[order], signs[order]
    rows = ball.rows[others] * signs[:, None]
    units, taken = list(group.units), list(group.signs)
    while True:
        fits = at_most(np.maximum(high, rows), np.minimum(low, rows), 2 * ball.radius).all(
            axis=1
        ) & (others != units[-1])
        others, signs, rows = others[fits], signs[fits], rows[fits]
        if not len(others):
            return SignedBox(tuple(units), tuple(taken))
        np.minimum(low, rows[0], out=low)
        np.maximum(high, rows[0], out=high)
        units.append(int(others[0]))
        taken.append(int(signs[0]))


def sampled(ball: ParameterBall, roots: Sequence[int], beam: int = BEAM) -> Any:
    """Some free groups around units that have too many: a beam of those that are nearest to free,
    and of others evenly.
    """
    place, vertex = contributors(ball), scratch(ball)
    parts = []
    for root in roots:
        others, signs, near = neighbourhood(ball, root, place, vertex)
        values, total, doubt = sides(ball, root, others, signs)
        lent, later = np.minimum(values, 0.0), np.triu(near, 1)
        sums, may, members = (
            total[None, :],
            np.ones((1, len(others)), dtype=bool),
            np.zeros((1, len(others)), dtype=bool),
        )
        found = [members[:0]]
        while len(sums):
            free: Mask = np.asarray((sums < -doubt).all(axis=1))
            found.append(members[free])
            hope = (sums + may.astype(np.float64) @ lent <= doubt).all(axis=1)
            clique, v = np.nonzero(may & np.reshape(hope, (-1, 1)))
            short = np.maximum(sums[clique] + values[v], 0.0).sum(axis=1)
            order = np.argsort(short, kind="stable")
            keep = np.concatenate([order[:beam], order[beam :: len(order) // beam + 1]])
            clique, v = clique[keep], v[keep]
            sums, may, members = sums[clique] + values[v], may[clique] & later[v], members[clique]
            members[np.arange(len(clique)), v] = True
        parts.append((root, others, signs, np.concatenate(found)))
    return signs_of(parts, ball.size)


def regrouped(ball: ParameterBall, plan: Plan, seed: int, nodes: int) -> Plan:
    """The best plan on some boxes, those of a plan and of first fit in two orders: each is paid, or
    free for some units.

    A small integer program (HiGHS): box paid or not, unit in the free group of a box or not; every
    required unit is in a paid box or a free group, in one at most; the sums of every free group are
    within bounds.
    """
    rng = np.random.default_rng(seed)
    tries = [*plan.paid, *plan.free]
    for _ in range(2):
        tries += first_fit(ball, rng.permutation(ball.size))
    different: dict[frozenset[tuple[int, int]], SignedBox] = {}  # by members, whatever their order
    for small in tries:
        full = filled(ball, small)
        different[frozenset(zip(*full, strict=True))] = full
    boxes = list(different.values())
    if not boxes:
        return plan
    count = len(boxes)
    unit = np.concatenate([g.units for g in boxes]).astype(np.intp)
    sign = np.concatenate([g.signs for g in boxes]).astype(np.intp)
    box = np.repeat(np.arange(count), [len(g.units) for g in boxes])
    matrix, limits = _program(ball, unit, sign, box)
    cost = np.concatenate([np.ones(count), np.zeros(len(unit))])
    chosen, _ = cheapest(matrix, limits, cost, nodes)
    if chosen is None:
        return plan
    bought, taken = chosen[:count], chosen[count:]
    mine = [taken & (box == b) for b in range(count)]
    groups = [SignedBox(tuple(unit[m].tolist()), tuple(sign[m].tolist())) for m in mine]
    free = [g for g in groups if g.units and ball.free(g)]
    paid = [
        b
        for b, g, yes in zip(boxes, groups, bought, strict=True)
        if yes or (g.units and not ball.free(g))
    ]
    return min(plan, assembled(ball, paid, free), key=lambda p: len(p.paid))


def _program(ball: ParameterBall, unit: Ints, sign: Ints, box: Ints) -> tuple[Any, Array]:
    """Rows: required units are covered, units are used once, sums of free groups in every box,
    output and direction.
    """
    from scipy.sparse import bmat, csr_matrix

    need, count = ball.required, int(box[-1]) + 1
    ones, shape = np.ones(len(unit)), (count, len(unit))
    paid = csr_matrix((ones, (unit, box)), shape=(ball.size, count))
    inside = csr_matrix((ones, (unit, np.arange(len(unit)))), shape=(ball.size, len(unit)))
    sums = [side * sign * a[unit] - ball.radius for side in (1.0, -1.0) for a in ball.outgoing.T]
    blocks = [[-paid[need], -inside[need]], [None, inside]]
    blocks += [
        [None, csr_matrix((values, (box, np.arange(len(unit)))), shape=shape)] for values in sums
    ]
    return bmat(blocks, format="csr"), np.concatenate(
        [-np.ones(len(need)), np.ones(ball.size), np.zeros(count * len(sums))]
    )


def completed(ball: ParameterBall, paid: Iterable[SignedBox], free: Iterable[SignedBox]) -> Plan:
    """A plan in which units outside all groups become constant or null."""
    paid, free = tuple(paid), tuple(free)
    left = np.ones(ball.size, dtype=bool)
    for group in (*paid, *free):
        left[list(group.units)] = False
    constant = left & ball.constant
    null = left & ~constant
    assert ball.null[null].all(), "a unit has no fate"
    return Plan(
        paid, free, tuple(np.flatnonzero(constant).tolist()), tuple(np.flatnonzero(null).tolist())
    )
