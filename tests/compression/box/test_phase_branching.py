"""Branching on signs, against brute force over all of them; budgets that go on where others end."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from counted_work import wide
from scipy import optimize

import moduli as mo
from moduli.compression.box.linear_programs import holds
from moduli.compression.box.phase_branching import Search, prove
from moduli.compression.box.sign_bisection import HOW
from moduli.compression.box.stable_units import stable

TOO_LITTLE = 39  # boxes: branching does not begin
BRANCHING = HOW.index("branching")


def random_network(rng, widths, bias=0.0):
    parts = []
    for n, m in pairwise(widths):
        shift = bias if n != widths[0] and m != widths[-1] else 0.0
        parts += [rng.normal(0, np.sqrt(2 / n), (m, n)), rng.normal(0, 0.3, m) - shift]
    return mo.Network.mlp(*parts, activation="relu")


def extremes(net, box, unit):
    """Least and largest pre-activation of a unit of layer 2: a linear program for each phase."""
    first, second = net.layers[:2]
    out = []
    for phase in product((0.0, 1.0), repeat=len(first.bias)):
        on = np.array(phase)
        row = (second.weight[unit] * on) @ first.weight
        offset = (second.weight[unit] * on) @ first.bias + second.bias[unit]
        way = np.where(on > 0, -1.0, 1.0)
        for sign in (1.0, -1.0):
            done = optimize.linprog(
                sign * row, way[:, None] * first.weight, -way * first.bias,
                bounds=np.stack([box.low, box.high], axis=1),
            )  # fmt: skip
            if done.status == 0:
                out.append(sign * done.fun + offset)
    return min(out), max(out)


def test_no_wrong_sign_against_all_phases():
    """Both signs of every unit are tried: what is proved is true, and what is true by a margin is
    proved.
    """
    rng, proved = np.random.default_rng(0), 0
    for _ in range(3):
        net = random_network(rng, (3, 4, 4, 1), 0.8)
        box = mo.Box(-1, 1).of_dimension(3)
        known = np.zeros(net.units, dtype=np.int8)
        for unit in range(4):
            least, most = extremes(net, box, unit)
            for sign, worst in ((-1, -most), (1, least)):
                case = prove(Search(net, box, known, 2, unit, sign), 5000).case
                if case is not None:
                    assert worst >= -1e-9
                    assert holds(net, box, known, case)
                    proved += 1
                assert case is not None or worst < 1e-6
    assert proved >= 1


def planted():
    """Of 12 inputs: |s| + |t| - 1.1, where |s| + |t| <= 1 on the box, s and t being means with signs
    of all of them.
    """
    s = np.tile([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 2) / 12
    t = np.repeat([1.0, -1.0], 6) / 12
    first = np.stack([s, -s, t, -t])
    return mo.Network.mlp(
        first, np.zeros(4), [[1.0, 1.0, 1.0, 1.0]], [-1.1], [[1.0]], [0.0], activation="relu"
    )


def test_what_bounds_and_bisection_leave_open_is_proved_by_branching():
    found = stable(planted(), mo.Box(-1, 1))
    assert found.signs[1].tolist() == [-1]
    assert found.how[1].tolist() == [BRANCHING]
    assert found.parts > 0
    assert found.check()
    few = stable(planted(), mo.Box(-1, 1), budget=TOO_LITTLE)
    assert few.undecided[1].tolist() == [-1]
    assert few.parts == 0


def test_a_search_goes_on_where_it_ended():
    rng = np.random.default_rng(7)
    net = random_network(rng, (12, 12, 6, 1), 1.0)
    box, known = mo.Box(-1, 1).of_dimension(12), np.zeros(18, dtype=np.int8)
    for unit in range(6):
        whole = prove(Search(net, box, known, 2, unit, -1), 2000)
        search, spent = Search(net, box, known, 2, unit, -1), 0
        while search.going and spent < 4000:
            found = prove(search, 100)
            spent += found.spent
            assert found.spent > 0
            assert (found.rest is search) == search.going
        if whole.case is not None:
            assert found.case is not None
            assert holds(net, box, known, found.case)


def networks():
    rng = np.random.default_rng(5)
    yield "wide", wide(20), 1.0
    yield "few inputs", random_network(rng, (5, 24, 24, 2), 1.2), 1.0
    yield "deep", random_network(rng, (4, 10, 10, 10, 10, 10, 1), 0.3), 0.6
    yield "many inputs", random_network(rng, (14, 20, 20, 8, 2), 0.7), 0.4
    yield "planted", planted(), 1.0


@pytest.mark.parametrize(
    ("net", "radius"), [case[1:] for case in networks()], ids=[case[0] for case in networks()]
)
def test_a_larger_budget_goes_on_where_a_smaller_one_ends(net, radius):
    """Counts grow with the budget and stay below it; signs that are proved stay so, and no unit is
    open again.
    """
    last = None
    for budget in (0, 7, 60, 157, 1250, 1700):
        found = stable(net, mo.Box(-radius, radius), budget=budget)
        assert found.check()
        assert max(found.boxes, found.parts) <= budget
        if last is not None:
            for count in ("boxes", "parts", "programs"):
                assert getattr(found, count) >= getattr(last, count), count
            before, now = (np.concatenate(x.signs) for x in (last, found))
            assert (now[before != 0] == before[before != 0]).all()
            open_before, open_now = (np.concatenate(x.undecided) for x in (last, found))
            assert not open_now[open_before == 0].any()
        last = found
