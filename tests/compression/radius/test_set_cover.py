"""Least covers with columns that compete: brute force, branches without a cover, budgets that end
anywhere.
"""

from itertools import combinations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from moduli.compression.radius import set_cover
from moduli.kernel.radius.cover_bound import _Part


def instance(seed):
    """Few rows and columns; free columns clash over units; in every third instance some rows may
    have free columns only.
    """
    rng = np.random.default_rng(seed)
    h, paid_count, free_count = (
        int(rng.integers(5, 12)),
        int(rng.integers(4, 13)),
        int(rng.integers(3, 11)),
    )
    rows = np.sort(rng.choice(h, int(rng.integers(1, h + 1)), replace=False))
    paid = (rng.random((paid_count, h)) < rng.choice([0.2, 0.5])).astype(np.int64)
    for r in range(h if seed % 3 else 0):
        if not paid[:, r].any():
            paid[rng.integers(0, paid_count), r] = 1
    uses = (rng.random((free_count, h)) < rng.choice([0.2, 0.5])).astype(np.int64)
    uses = uses[uses[:, rows].any(axis=1)]
    return set_cover.Cover(csr_matrix(paid), csr_matrix(uses), rows), paid, uses


def compatible(uses):
    """Sets of free columns that share no unit."""
    for size in range(len(uses) + 1):
        for chosen in combinations(range(len(uses)), size):
            if uses[list(chosen)].sum(axis=0).max(initial=0) <= 1:
                yield list(chosen)


def least(problem, paid, uses):
    """The cost of a least cover; None without one."""
    needed = [set(np.flatnonzero(column).tolist()) for column in paid[:, problem.rows]]
    free = [set(np.flatnonzero(column).tolist()) for column in uses[:, problem.rows]]
    best = None
    for chosen in compatible(uses):
        left = set(range(len(problem.rows))).difference(*(free[c] for c in chosen))
        for size in range(len(paid) if best is None else best):
            if any(
                left <= set().union(*(needed[c] for c in some))
                for some in combinations(range(len(paid)), size)
            ):
                best = size
                break
    return best


def proved(problem, tree):
    """What the kernel says that a tree proves of an instance."""
    part = _Part.__new__(_Part)
    part.units, part.place = (
        tuple(problem.rows.tolist()),
        np.full(problem.paid.shape[1], -1, dtype=np.intp),
    )
    part.place[problem.rows] = np.arange(len(problem.rows))
    part.uses, part.matrix, part.paid = problem.uses, problem.matrix, problem.paid.shape[0]
    part.index = {
        frozenset(np.flatnonzero(row).tolist()): k for k, row in enumerate(problem.paid.toarray())
    }
    return part.bound(tree)


def covers(problem, chosen):
    free = [c - problem.paid.shape[0] for c in chosen if c >= problem.paid.shape[0]]
    together = np.asarray(problem.uses[free].sum(axis=0)).max(initial=0)
    return bool(problem.matrix[chosen].sum(axis=0).all()) and together <= 1


def agrees(seed):
    problem, paid, uses = instance(seed)
    if not problem.matrix.sum(axis=0).all():
        return
    want = least(problem, paid, uses)
    for budget in (0, 1, 2, 3, 5, 30, 1000):
        for answer in (set_cover.solve(problem, budget), set_cover._Pool(problem, budget).best()):
            assert proved(problem, answer.tree) >= answer.lower
            assert want is None or answer.lower <= want
            if answer.chosen is not None:
                assert covers(problem, answer.chosen)
                assert answer.upper == sum(c < len(paid) for c in answer.chosen)
        if want is not None:
            aimed = set_cover._searched(problem, budget, want)
            assert aimed.lower <= want
            assert proved(problem, aimed.tree) >= aimed.lower
    if seed % 3:
        whole = set_cover.solve(problem, 1000)
        assert whole.lower == whole.upper == want


@pytest.mark.parametrize("seed", [33, 50, 88])
def test_a_branch_without_a_cover_and_rows_without_boxes(seed):
    """In these instances the pooled search met a linear program without a solution, or a row with
    free columns only.
    """
    agrees(seed)


def test_a_few_covers_agree_with_brute_force():
    for seed in range(100, 130):
        agrees(seed)


@pytest.mark.slow
def test_covers_agree_with_brute_force():
    for seed in range(200, 400):
        agrees(seed)


def test_a_program_without_a_solution_proves_more_than_any_target():
    """Two rows with one free column each, both of which need one unit."""
    uses = np.array([[1, 0, 1], [0, 1, 1]])
    problem = set_cover.Cover(
        csr_matrix((0, 3), dtype=np.int64), csr_matrix(uses), np.array([0, 1])
    )
    search = set_cover._Search(problem, 10)
    found = search.relax(0b11, 0b11)
    assert not found.whole
    assert found.bound > 2
    assert set_cover.greedy(problem, np.ones(2, dtype=bool)) is None
    assert set_cover.solve(problem, 10).chosen is None
    assert proved(problem, set_cover.solve(problem, 10).tree) >= 2
