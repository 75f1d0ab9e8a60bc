"""Hard instances: stated answers against an independent covering oracle; the oracles against the
stored cases.
"""

import json
from fractions import Fraction

import numpy as np
import oracles
import pytest

import moduli as mo
from moduli.compression.radius.hard_instances import (
    hard_instance,
    lattice,
    planar_formula,
    random_planar_formula,
    ring,
    uniform_points,
)


def test_the_oracles_know_the_stored_cases(shared):
    for file in ("rank.json", "rank_adversarial.json"):
        cases = json.loads((shared / "cases" / file).read_text())
        for case in cases["cases"] if isinstance(cases, dict) else cases:
            h = len(case["c"])
            if not h or h > 7:
                continue
            a, b = (np.array(case[k], dtype=float).reshape(h, -1).tolist() for k in "ab")
            assert oracles.proximate_rank(a, b, case["c"], case["eps"]) == case["prank"]


@pytest.mark.parametrize("count", [9, 10, 21])
def test_rings(count):
    points = ring(count, 0.25)
    assert oracles.least_boxes(points, 0.5) == -(-count // 2)
    assert int(mo.rank(hard_instance(points, 0.25), radius=0.25)) == -(-count // 2)


@pytest.mark.parametrize("size", [1, 3, 4, 8])
def test_lattices(size):
    want = (-(-size // 3)) ** 2
    assert oracles.least_boxes(lattice(size, 0.125), 0.25) == want
    assert int(mo.rank(hard_instance(lattice(size, 0.125), 0.125), radius=0.125)) == want


def test_planar_formulas():
    rng = np.random.default_rng(0)
    answers = []
    for seed in range(40):
        clauses = random_planar_formula(int(rng.integers(1, 6)), int(rng.integers(1, 8)), seed)
        points, boxes = planar_formula(clauses)
        assert (points * 8 == np.round(points * 8)).all()
        answers.append(oracles.satisfiable(clauses))
        assert (oracles.least_boxes(points, 1.0) == boxes) == answers[-1]
        if seed < 12:
            assert (int(mo.rank(hard_instance(points, 0.5), radius=0.5)) == boxes) == answers[-1]
    assert 8 < sum(answers) < 32


@pytest.mark.parametrize(
    "clauses", [[[]], [[1, 1]], [[0]], [[1, 2, 3, 4]], [[1, 3], [2, 4]], [[1, 2, 3], [-1, 2, 3]]]
)
def test_formulas_that_cannot_be_drawn(clauses):
    with pytest.raises(ValueError, match="clause"):
        planar_formula(clauses)


def test_uniform_points():
    points = uniform_points(60, 2.0, seed=3)
    net = hard_instance(points, 0.5)
    assert int(mo.rank(net, radius=0.5)) == oracles.least_boxes(points, 1.0)
    assert (uniform_points(60, 2.0, seed=3) == points).all()
    assert uniform_points(8, 1.0, dimension=4).shape == (8, 4)


def test_instances_are_what_they_claim():
    points = uniform_points(50, 2.0, eps=0.1, seed=1) - 3.0
    net = hard_instance(points, 0.1)
    weights = net.layers[0].weight
    assert all(Fraction(w) > Fraction(0.1) for w in weights.ravel().tolist())
    shift = Fraction(float(weights[0, 0])) - Fraction(float(points[0, 0]))
    moved = [
        Fraction(w) - Fraction(p)
        for w, p in zip(weights[:, 0].tolist(), points[:, 0].tolist(), strict=True)
    ]
    assert set(moved) == {shift}


@pytest.mark.parametrize(
    ("points", "eps", "text"),
    [
        ([[0.1, 0.0], [1e-20, 0.0]], 0.5, "dyadic"), ([[np.nan, 0.0]], 0.5, "point 0"), ([[0.0, 1.0]], 0.0, "radius=0"),
        ([[0.0, 1.0]], float("inf"), "radius=inf"), ([1.0, 2.0], 0.5, "shape"), ([[1.0], [2.0]], 0.5, "shape"),
    ],
)  # fmt: skip
def test_bad_input_is_named(points, eps, text):
    with pytest.raises(ValueError, match=text):
        hard_instance(points, eps)
    with pytest.raises(ValueError, match="ring"):
        ring(8)
