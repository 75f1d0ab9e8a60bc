"""The bound from points on creases: against exact dimensions, by hand, forged, at the edges."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

import moduli as mo
from moduli.common import modular
from moduli.piecewise.crease_points import CreasePoints, _rows_by_unit, crease_points
from moduli.piecewise.equivalent_parameters import exact_layers
from moduli.piecewise.rational_rows import dot

SHAPES = (
    (1, 3, 2, 1), (2, 2, 2, 1), (2, 3, 3, 1), (2, 2, 2, 2, 1), (3, 3, 2, 1), (2, 4, 1), (3, 2, 2, 2),
    (2, 3, 1, 2, 1), (2, 1, 1, 1, 1),
)  # fmt: skip


def drawn(seed, widths, activation="relu", whole=False):
    rng = np.random.default_rng(seed)
    shapes = [s for a, b in pairwise(widths) for s in ((b, a), (b,))]
    draw = (lambda s: rng.integers(-3, 4, s)) if whole else rng.standard_normal
    return mo.Network.mlp(*map(draw, shapes), activation=activation)


def he(seed, widths, bias=0.1):
    rng = np.random.default_rng(seed)
    parts = []
    for a, b in pairwise(widths):
        parts += [rng.standard_normal((b, a)) * np.sqrt(2 / a), bias * rng.standard_normal(b)]
    return mo.Network.mlp(*parts, activation="relu")


def compared(seeds):
    """How often the bound is the exact dimension, and that it is never above; small integers make
    zero weights, dead units and coincidences.
    """
    box, equal, full, count = mo.Box(-4, 4), 0, 0, 0
    for seed in seeds:
        widths = SHAPES[seed % len(SHAPES)]
        activation = ("relu", "relu", "leaky_relu(0.25)", "abs")[seed // len(SHAPES) % 4]
        net = drawn(seed, widths, activation, whole=seed % 3 == 0)
        exact = mo.dimension(net, on=box)
        assert exact.exact
        found = crease_points(net, box, 60, seed, pieces=seed % 2 > 0)
        assert found.check()
        assert found.shown == found.lower(modular.PRIMES[1]) <= int(exact), (seed, widths)
        missing = sum(part for _, _, part in found.unseen())
        assert found.shown == net.parameters - net.units - missing
        equal += found.shown == int(exact)
        full += found.shown == exact.generic
        count += 1
    return equal, full, count


def test_never_above_the_exact_dimension():
    equal, full, count = compared(range(27))
    assert 0.3 * count < equal
    assert full > 2


@pytest.mark.slow
def test_never_above_the_exact_dimension_of_hundreds():
    equal, full, count = compared(range(27, 300))
    assert 0.3 * count < equal
    assert full > 20


def test_features_on_creases_are_those_of_rationals():
    """Of every segment the zero in rational arithmetic: the own unit vanishes there alone, and what
    its layer reads is proportional to the row, modulo the prime.
    """
    net, prime = drawn(5, (3, 4, 3, 2)), modular.PRIMES[0]
    found = crease_points(net, mo.Box(-3, 3), 200, 0, pieces=False)
    rows = [row for _, part in _rows_by_unit(found, prime) for row in part]
    layers = exact_layers(net)

    def reads(x):
        """What each layer reads, and all pre-activations of hidden units."""
        seen, zs, h = [x], [], x
        for weight, bias in layers[:-1]:
            z = [dot(r, h, b) for r, b in zip(weight, bias, strict=True)]
            h = [max(v, Fraction(0)) for v in z]
            zs += z
            seen.append(h)
        return seen, zs

    assert len(set(found.units)) > 4
    for unit, a, b, row in zip(found.units, found.starts, found.ends, rows, strict=True):
        a, b = (list(map(Fraction, p.tolist())) for p in (a, b))
        za, zb = reads(a)[1][unit], reads(b)[1][unit]
        assert za * zb < 0
        c = [p + za / (za - zb) * (q - p) for p, q in zip(a, b, strict=True)]
        seen, zs = reads(c)
        assert [k for k, z in enumerate(zs) if z == 0] == [unit]
        layer = 0 if unit < 4 else 1
        true = [modular.residue(v, prime) for v in [*seen[layer], Fraction(1)]]
        assert all(int(row[-1]) * t % prime == int(r) % prime for t, r in zip(true, row, strict=True))  # fmt: skip


def test_wide_layers_with_many_inputs_are_shown_whole():
    net = he(0, (16, 24, 24, 3))
    found = mo.dimension(net, on=mo.Box(-1, 1))
    assert isinstance(found.cells, CreasePoints)
    assert (int(found), found.generic) == (net.parameters - net.units,) * 2
    assert found.check()
    answer = mo.identifiable(net, on=mo.Box(-1, 1))
    assert (answer.status, answer.scope) == ("proved", "local")
    assert answer.check()
    rows = dict(found.rows())
    assert rows["points on creases"].startswith(str(len(found.cells.units)))
    assert found.to_json()["creases"] == len(found.cells.units)


def test_dead_and_copied_units_are_not_shown():
    """A unit that is off in the box and a copy of another one: nothing of them is counted."""
    net = he(1, (5, 6, 6, 2))
    w, b = net.layers[0].weight.copy(), net.layers[0].bias.copy()
    b[2], w[4], b[4] = -100.0, w[3], b[3]
    layers = [w, b, *(p for x in net.layers[1:] for p in (x.weight, x.bias))]
    planted = mo.Network.mlp(*layers, activation="relu")
    found = crease_points(planted, mo.Box(-1, 1), 1000, 0)
    assert not {2, 3, 4} & set(found.units)
    assert ("units without a visible crease", 1, 3 * 5) in found.unseen()
    known = mo.dimension(planted, on=mo.Box(-1, 1), budget=500)
    assert known.lower < known.upper
    assert known.check()


def test_forged_segments_are_rejected():
    net = he(0, (5, 6, 5, 2))
    found = crease_points(net, mo.Box(-1, 1), 1000, 0)
    assert found.check()
    forged = {
        "not proved to cross": {"ends": found.starts},
        "not sorted": {"units": found.units[::-1].copy()},
        "outside the box": {"starts": found.starts + 3.0},
        "not one start": {"ends": found.ends[1:]},
        "of 1 inputs": {"samples": found.samples[:, :1]},
        "sample 0 is outside": {"samples": found.samples * np.nan},
        "other than 0": {"samples": np.repeat(np.zeros((1, 5)), 3, axis=0)},
    }
    zero = mo.Network.mlp(
        *(p for x in net.layers for p in (x.weight, 0 * x.bias)), activation="relu"
    )
    for message, change in forged.items():
        here = replace(found, **change)
        if message == "other than 0":
            nothing = {"starts": found.starts[:0], "ends": found.ends[:0]}
            here = replace(here, network=zero, units=found.units[:0], **nothing)
        with pytest.raises(mo.CertificateRejected, match=message):
            here.check()
    other = (found.units + 1) % net.units
    order = np.argsort(other, kind="stable")
    with pytest.raises(mo.CertificateRejected, match="not proved to cross"):
        replace(found, units=other[order]).check()
    more = replace(found, claimed=tuple(r + 1 for r in found.claimed))
    assert more.check()
    assert more.lower(modular.PRIMES[1]) == found.shown < more.shown
    claim = mo.dimension(net, on=mo.Box(-1, 1))
    assert not replace(claim, cells=more, lower=more.shown).check()
    same = replace(found, samples=np.repeat(found.samples[:1], 6, axis=0))
    assert same.lower(modular.PRIMES[1]) == found.shown - 2 * 5


def test_rows_of_a_piece_span_what_points_near_it_read():
    """Points of the crease around each crossing, in rationals, add nothing to its rows, which have as
    many independent ones among them as these points."""
    net, prime = drawn(2, (4, 5, 4, 2)), modular.PRIMES[0]
    found = crease_points(net, mo.Box(-2, 2), 300, 0)
    layers, seen = exact_layers(net), 0
    rng = np.random.default_rng(0)
    for unit, rows in _rows_by_unit(found, prime):
        if unit < 5:
            assert modular.rank(rows, prime) == 4
            continue
        k = int(np.flatnonzero(found.units == unit)[0])
        piece = rows[:4]
        gate = found.signs[k, :5] > 0
        # On the piece the second layer reads the affine map of the units that are on.
        weight, bias = layers[0]
        off = [Fraction(0)] * 4, Fraction(0)
        both = zip(weight, bias, gate, strict=True)
        maps = [(w, b) if on else off for w, b, on in both]
        row, offset = layers[1][0][unit - 5], layers[1][1][unit - 5]
        slope = [sum(v * m[0][i] for v, m in zip(row, maps, strict=True)) for i in range(4)]
        start = sum(v * m[1] for v, m in zip(row, maps, strict=True)) + offset
        points = []
        for _ in range(6):
            x = [Fraction(int(v)) for v in rng.integers(-9, 10, 4)]
            pivot = next(i for i in range(4) if slope[i])
            x[pivot] -= (dot(slope, x, start)) / slope[pivot]
            points.append([*(modular.residue(dot(m[0], x, m[1]), prime) for m in maps), 1])
        points = np.array(points, dtype=np.float64)
        rank = modular.rank(piece, prime)
        assert modular.rank(np.concatenate([piece, points]), prime) == rank
        assert modular.rank(points, prime) == rank
        seen += 1
    assert seen > 1


def test_a_budget_bounds_the_units_that_are_searched():
    net = he(0, (6, 8, 8, 2))
    sizes = [len(set(crease_points(net, mo.Box(-1, 1), b, 0).units)) for b in (0, 3, 9, 1000)]
    assert sizes[0] == 0
    assert sizes[1] <= 3
    assert sizes == sorted(sizes)
    assert sizes[-1] == 16


def test_tiny_and_degenerate_inputs():
    box = mo.Box(-1, 1)
    affine = mo.Network.mlp(np.eye(5), np.zeros(5), activation=[])
    assert int(mo.dimension(affine, on=box)) == 30
    none = mo.Network.mlp(np.zeros((0, 5)), [], np.zeros((2, 0)), [1.0, 2.0], activation="relu")
    assert mo.dimension(none, on=box, budget=100).lower == 2
    still = mo.Network.mlp(np.zeros((3, 5)), np.zeros(3), np.ones((1, 3)), [0.0], activation="relu")
    assert mo.dimension(still, on=box, budget=100).lower == 0
    huge = he(0, (5, 4, 1))
    huge = huge.with_flat(huge.flat() * 1e300)
    found = mo.dimension(huge, on=box, budget=100)
    assert found.lower <= found.upper
    assert found.check()


def test_a_flat_box_does_not_show_what_its_input_is_for():
    """Four weights of an input that is always 0 are lost, and so is one that is always 2, which the
    bias can take over.
    """
    net, ends = he(0, (5, 4, 1)), np.ones(5)
    ends[0] = 0.0
    found = mo.dimension(net, on=mo.Box(-ends, ends), budget=1000)
    assert (found.lower, found.generic) == (21, 25)
    low = np.where(ends > 0, -4.0, 2.0)
    found = mo.dimension(net, on=mo.Box(low, np.where(ends > 0, 4.0, 2.0)), budget=1000)
    assert found.lower == 21
