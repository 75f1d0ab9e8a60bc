"""Creases, traces and depth against stored values, planted functions, symmetric copies and the
units that made them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import strategies as plants
from stored_pieces import read, stored

import moduli as mo
from moduli.piecewise.forced_depth import (
    balance,
    creases,
    depth,
    lines,
    meetings,
    stars,
    strict_depth,
    traces,
)
from moduli.piecewise.recovery import recover


def net_of(*parameters):
    return mo.Network.mlp(*parameters, activation="relu")


def cells(net, low=-4.0, high=4.0):
    return mo.pieces(net, on=mo.Box(low, high))


def units_of(found, pieces):
    """The units, as the network names them, on each trace: only to judge the answer."""
    by_cells = {frozenset(f.cells): f.units for f in pieces.facets}
    by_points = {points: by_cells[frozenset(pair)] for points, pair in meetings(pieces).items()}
    named: dict[int, set[int]] = {}
    for crease, trace in zip(found.creases, found.label, strict=True):
        named.setdefault(trace, set()).update(by_points[crease.points])
    return named


def test_stored_depths(shared):
    seen = 0
    for case in stored(shared):
        net, box = read(case)
        found, expect = depth(mo.pieces(net, on=box)), case["expect"]
        assert found.check()
        assert len(found.traces.creases) == expect["facets_visible"], case["id"]
        if "strict_depth" in expect:
            assert (found.strict, found.generic) == (
                expect["strict_depth"],
                expect["generic_depth_lower_bound"],
            ), case["id"]
            seen += 1
        assert found.strict <= len(net.layers) - 1
        assert found.generic is None or found.generic <= len(net.layers) - 1
    assert seen > 40


@pytest.mark.parametrize(
    "widths",
    [(2, 3, 3, 1), (2, 4, 2, 2), (2, 3, 3, 3, 1), (3, 3, 3, 1), (1, 4, 3, 1), (3, 2, 2, 2, 1)],
)
def test_traces_lie_in_one_unit_and_the_order_is_that_of_layers(widths):
    layer = [l for l, n in enumerate(widths[1:-1]) for _ in range(n)]
    for seed in range(8):
        pieces = cells(
            plants.minimal(
                np.random.default_rng(seed), widths, ["relu"] * (len(widths) - 2)
            ).network()
        )
        found = traces(pieces)
        named = units_of(found, pieces)
        assert all(len(units) == 1 for units in named.values())
        unit = {trace: units.pop() for trace, units in named.items()}
        assert all(layer[unit[a]] < layer[unit[b]] for a, b in found.earlier)
        assert all(unit[a] != unit[b] for a, b in map(tuple, found.crossing))
        assert len(found.chain) <= len(widths) - 2
        assert all(pair in found.earlier for pair in pairwise(found.chain))


def test_weights_balance_and_a_wrong_one_does_not():
    for widths in ((2, 4, 3, 2), (3, 3, 2, 1)):
        pieces = cells(plants.minimal(np.random.default_rng(3), widths, ["relu"] * 2).network())
        found = creases(pieces)
        at = stars(pieces, found)
        assert len(at) > 4
        assert not any(any(balance(found, star, ridge)) for ridge, star in at.items())
        worse = tuple(
            c._replace(weight=(c.weight[0] + 1, *c.weight[1:])) if k == 0 else c
            for k, c in enumerate(found)
        )
        touched = [
            ridge
            for ridge, star in at.items()
            if 0 in star.rest or any(0 in pair for pair in star.pairs)
        ]
        assert touched
        assert all(any(balance(worse, at[ridge], ridge)) for ridge in touched)


def test_only_the_function_counts():
    """Symmetric copies, dead units and creases that cancel leave creases, traces and order alone."""
    for seed in range(6):
        parts = plants.minimal(np.random.default_rng(seed), (2, 3, 3, 1), ["relu"] * 2)
        net = parts.network()
        plain = depth(cells(net))
        copy = depth(cells(mo.symmetries(net).random(seed)(net)))
        assert [c.plane for c in plain.traces.creases] == [c.plane for c in copy.traces.creases]
        rng = np.random.default_rng(seed)
        parts.insert(1, plants.dyadic(rng, 2), 0.25, np.zeros(3))
        parts.insert(2, plants.dyadic(rng, 4), 0.5, np.zeros(1))
        more = depth(cells(parts.network()))
        assert (
            (plain.strict, plain.generic)
            == (copy.strict, copy.generic)
            == (more.strict, more.generic)
        )
        assert list(lines(plain.traces.creases)) == list(lines(more.traces.creases))
        assert plain.traces.count == copy.traces.count == more.traces.count


def test_max_is_of_strict_depth_two_and_a_star_of_three_orders_nothing():
    net = net_of(
        [[1.0, -1.0], [0.0, 1.0], [0.0, -1.0]],
        np.zeros(3),
        [[1.0, 1.0, -1.0]],
        [0.0],
        [[1.0]],
        [0.0],
    )
    found = depth(cells(net))
    assert (found.strict, found.generic, found.traces.count, found.traces.earlier) == (2, 1, 3, {})


def test_one_input_needs_one_layer_at_most():
    for seed in range(10):
        found = depth(
            cells(plants.minimal(np.random.default_rng(seed), (1, 3, 3, 2), ["relu"] * 2).network())
        )
        assert found.strict == found.generic == int(bool(found.traces.creases))
        assert found.check()


def test_the_same_hyperplane_with_two_weights_is_not_one_layer():
    """relu(x) + relu(relu(x) + relu(y) - 1): the line x = 0 bends by 1 where y < 1 and by 2 where y
    > 1.
    """
    step = net_of(
        [[1.0, 0.0], [0.0, 1.0]],
        [0.0, 0.0],
        [[1.0, 1.0], [1.0, 0.0]],
        [-1.0, 0.0],
        [[1.0, 1.0]],
        [0.0],
    )
    assert strict_depth(cells(step)) == 2
    flat = net_of([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0], [[1.0, 1.0]], [1.0], [[1.0]], [0.0])
    assert strict_depth(cells(flat)) == 1
    assert strict_depth(cells(flat, 1.0, 2.0)) == 0


def test_where_three_lines_meet_general_position_is_not_asked_for():
    net = net_of([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.zeros(3), [[1.0, 1.0, 1.0]], [0.0])
    found = depth(cells(net))
    assert found.strict == found.generic == 1
    assert found.traces.excepted == (((Fraction(0), Fraction(0)),),)
    assert found.traces.count == 6
    assert "1 faces excepted" in found.statement


def test_a_line_with_both_branches_on_one_side_is_no_unit_before_another():
    """2 relu(|x| - y+) - ...: creases on both sides of x = 0 above y = 0 only, with no unit that
    could bend so.
    """
    rays = net_of(
        [[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], np.zeros(3),
        [[-1.0, 1.0, -1.0], [-2.0, 1.0, -1.0], [0.0, 1.0, -1.0]], np.zeros(3), [[2.0, -1.0, -1.0]],
        [0.0],
    )  # fmt: skip
    found = depth(cells(rays))
    assert all(
        not star.decisive or ridge in found.traces.excepted
        for ridge, star in found.traces.stars.items()
    )
    assert found.traces.earlier == {}
    assert found.strict == 2


def test_strict_depth_one_is_what_one_hidden_layer_can_do():
    """One unit for each hyperplane and two for an affine function recover the function, or strict
    depth is two.
    """
    for seed in range(25):
        net = plants.minimal(np.random.default_rng(seed), (2, 2, 2, 1), ["relu"] * 2).network()
        pieces = cells(net, -0.75, 0.75)
        planes = {crease.plane for crease in creases(pieces)}
        assert (recover(pieces, (2, len(planes) + 2, 1)).layers is not None) == (
            strict_depth(pieces) < 2
        )


def test_checks_catch_changes():
    net = plants.minimal(np.random.default_rng(0), (2, 3, 3, 1), ["relu"] * 2).network()
    found = depth(cells(net))
    assert found.check()
    assert found.strict == found.generic == 2
    assert len(found.chain) == 1
    other = traces(cells(net, -2.0, 2.0))
    for bad in (replace(found, strict=1), replace(found, generic=3), replace(found, traces=other)):
        with pytest.raises(mo.CertificateRejected, match=r"creases are not|do not follow"):
            bad.check()
    assert json.dumps(found.to_json())
    assert dict(found.rows())["hidden layers"] == ">= 2"
    assert "2 hidden layers needed, at least 2 in general position" in repr(found)


def test_slices():
    net = plants.minimal(np.random.default_rng(1), (5, 4, 3, 1), ["relu"] * 2).network()
    rng = np.random.default_rng(0)
    found = depth(mo.pieces(net, on=mo.Box(-4, 4), slice=tuple(rng.integers(-4, 5, (3, 5)) / 4.0)))
    assert found.strict == 2
    assert "of a slice" in dict(found.rows())["on"]
    assert found.check()
