"""Minimal networks of one hidden layer, against least squares over all sets of turned units."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from strategies import folded

import moduli as mo
from moduli.kernel.errors import CertificateRejected, Undecided, UnsupportedModel
from moduli.piecewise import fewest_units

N = mo.Network.mlp


def bent(net, x, step=1e-3):
    """Whether the slope of a network jumps on the hyperplane of each unit, at random points of it."""
    rng = np.random.default_rng(1)
    found = []
    for w, b in zip(net.layers[0].weight, net.layers[0].bias, strict=True):
        u = w / (w @ w)
        p = 9 * rng.normal(size=(1, len(w)))
        p = p - (p @ w + b)[:, None] * u
        move = step * u
        found.append(abs(net(p + move) + net(p - move) - 2 * net(p)).max() > 1e-7)
    return found


def brute_force(net):
    """The fewest units on the hyperplanes where the function bends, each on one or both of its sides, and
    in how many ways; and the number of these hyperplanes. By least squares at points.
    """
    rng = np.random.default_rng(0)
    x = np.concatenate([s * rng.normal(size=(60, net.widths[0])) for s in (1, 5, 30)])
    alpha = _slope_below(net)
    planes = {}
    for w, b, seen in zip(net.layers[0].weight, net.layers[0].bias, bent(net, x), strict=True):
        if seen:
            lead = w[np.flatnonzero(w)[0]]
            planes[tuple(np.round(np.append(w, b) / lead, 9))] = np.append(w, b) / lead
    rows = [side * row for row in planes.values() for side in (1, -1)]
    wanted = net(x)[:, 0]
    for size in range(len(planes), len(rows) + 1):
        found = 0
        for some in combinations(range(len(rows)), size):
            if len({k // 2 for k in some}) < len(planes):
                continue
            columns = [np.ones(len(x))]
            for k in some:
                z = x @ rows[k][:-1] + rows[k][-1]
                columns.append(np.where(z > 0, z, alpha * z))
            matrix = np.stack(columns, axis=1)
            v, _, rank, _ = np.linalg.lstsq(matrix, wanted, rcond=None)
            fits = np.abs(matrix @ v - wanted).max() < 1e-7 * (1 + np.abs(wanted).max())
            # full rank: the strengths of units on these hyperplanes are unique
            found += bool(fits and rank == size + 1 and np.abs(v[1:]).min(initial=1) > 1e-7)
        if found:
            return size, found, len(planes)
    return None, 0, len(planes)


def _slope_below(net):
    text = str(net.activations[0])
    return float(text[11:-1]) if text.startswith("leaky") else 0.0


def spare_dimensions(layers, alpha):
    """Parameters less the rank of the derivatives of outputs at many points, by singular values."""
    (weight, bias), (outgoing, _) = layers
    w, b = np.array(weight, dtype=float), np.array(bias, dtype=float)
    v = np.array(outgoing, dtype=float)[0]
    rng = np.random.default_rng(2)
    x = np.concatenate([s * rng.normal(size=(200, w.shape[1])) for s in (1, 4, 20)])
    z = x @ w.T + b
    slope, h = np.where(z > 0, 1.0, alpha), np.where(z > 0, z, alpha * z)
    inner = (slope * v)[:, :, None] * np.concatenate([x, np.ones((len(x), 1))], axis=1)[:, None]
    jacobian = np.concatenate([inner.reshape(len(x), -1), h, np.ones((len(x), 1))], axis=1)
    jacobian /= np.linalg.norm(jacobian, axis=0)
    values = np.linalg.svd(jacobian, compute_uv=False)
    return jacobian.shape[1] - int((values > 1e-9 * values[0]).sum())


def values(layers, x, alpha):
    (weight, bias), (outgoing, last) = layers
    z = x @ np.array(weight, dtype=float).reshape(len(bias), x.shape[1]).T + np.array(
        bias, dtype=float
    )
    return np.where(z > 0, z, alpha * z) @ np.array(outgoing, dtype=float)[0] + float(last[0])


def drawn(rng, kind):
    """Few whole rows, some of them twice or turned, so that all cases occur."""
    n, count = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    rows = rng.integers(-2, 3, (count, n + 1)).astype(float)
    rows[:, 0] += rows[:, 0] == 0
    some = np.concatenate([rows, -rows[: rng.integers(0, count + 1)]])
    if rng.random() < 0.3:
        line = rng.integers(-2, 3, n + 1) + 0.0
        line[0] += line[0] == 0
        some = np.concatenate([some, [line, -line]])
    v = rng.integers(1, 4, len(some)) * rng.choice([-1.0, 1.0], len(some))
    if rng.random() < 0.5:
        v[-1] = -v[-2] if len(some) > 1 else v[-1]
    return N(some[:, :-1], some[:, -1], v[None], [0.5], activation=kind)


@pytest.mark.parametrize("kind", ["relu", "leaky_relu(0.25)"])
def test_counts_agree_with_least_squares_over_all_sides(kind):
    rng, cases = np.random.default_rng(0), set()
    for _ in range(120):
        net = drawn(rng, kind)
        found = mo.minimal_networks(net)
        size, ways, planes = brute_force(net)
        assert found.bends == planes
        turned = sum(choice.sides for choice in found.choices if not choice.pair)
        if found.dimension == found.units:
            assert (found.units, found.orbits) == (size, ways), net.layers
        else:  # no set on these hyperplanes has fewer; those of as many are counted beside the pairs
            assert size is None or size >= found.units, net.layers
            assert turned == (ways if size == found.units else 0)
        cases.add((found.units - found.bends, found.dimension - found.units, turned > 0))
    assert cases == {(0, 0, True), (1, 0, True), (2, 1, True), (2, 1, False)}


@pytest.mark.parametrize("kind", ["relu", "leaky_relu(0.25)"])
def test_each_has_the_function_and_its_own_sides_and_dimension(kind):
    rng = np.random.default_rng(1)
    for _ in range(60):
        net, alpha = drawn(rng, kind), 0.25 if kind != "relu" else 0.0
        found = mo.minimal_networks(net)
        x = 8 * rng.normal(size=(100, net.widths[0]))
        rows = set()
        places = [choice for choice in found.choices for _ in range(choice.sides)]
        for choice, layers in zip(places, found, strict=True):
            assert len(layers[0][1]) == found.units
            assert np.allclose(values(layers, x, alpha), net(x)[:, 0], atol=1e-9)
            shown = sorted(zip(map(tuple, layers[0][0]), layers[0][1], strict=True))
            rows.add(str(shown))
            if found.units:
                # Where a hyperplane has two units, each could turn alone, to first order: then one affine
                # function is free for each of them, less those that the last bias or others are.
                turning = max(0, len(choice.shared) - 1) * (net.widths[0] + 1)
                spare = found.units + (choice.pair or len(choice.shared) > 0) + turning
                assert spare_dimensions(layers, alpha) == spare, net.layers
        assert len(rows) == found.orbits
        assert found.components == math.factorial(found.units) * found.orbits
        assert found.check()


def test_compress_reaches_the_fewest_and_knows_it():
    rng = np.random.default_rng(2)
    for _ in range(60):
        net = folded(
            rng, int(rng.integers(1, 4)), int(rng.integers(1, 5)), 1, int(rng.integers(1, 9))
        )
        small, found = mo.compress(net), mo.minimal_networks(net)
        assert (small.network.units, small.optimal) == (found.units, True)
        again = mo.minimal_networks(small.network)
        assert (again.bends, again.dimension) == (found.bends, found.dimension)
        assert again.components == found.components


def test_one_input_needs_at_most_one_more():
    """Every network of n + 1 units: a hyperplane is shared, and all others can be turned as one likes."""
    net = N(
        [[1.0], [1.0], [1.0], [-1.0]], [0, -1, -2, 0.0], [[1, 1, 1, 0.25]], [0], activation="relu"
    )
    found = mo.minimal_networks(net)
    assert (found.units, found.bends, found.orbits) == (4, 3, 3 * 2**2)


def test_a_pair_can_be_anywhere():
    """An affine function: two units, two scales and the place of their hyperplane."""
    net = N([[1.0, 2.0], [-1.0, -2.0]], [3, -3.0], [[1.0, -1.0]], [0], activation="relu")
    found = mo.minimal_networks(net)
    assert (found.units, found.bends, found.dimension, found.components) == (2, 0, 3, 2)
    for t in (-2.0, 0.0, 5.0):
        moved = N([[1.0, 2.0], [-1.0, -2.0]], [t, -t], [[1.0, -1.0]], [3 - t], activation="relu")
        assert mo.equivalent(net, moved)


def test_identifiable_if_and_only_if_unique():
    """On a box that all hyperplanes meet, units turned together are what the verdict names, too."""
    rng, verdicts = np.random.default_rng(3), set()
    for _ in range(80):
        rows = rng.integers(-2, 3, (3, 3)).astype(float)
        v = rng.integers(1, 3, 3) * rng.choice([-1.0, 1.0], 3)
        net = N(rows[:, :2], rows[:, 2], v[None], [0.0], activation="relu")
        if not rows[:, :2].any(axis=1).all():
            continue
        found = mo.minimal_networks(net)
        if found.units < 3 or found.bends < 3:
            continue
        unique = mo.identifiable(net, on=mo.Box(-32, 32)).status == "proved"
        assert unique == found.unique, net.layers
        verdicts.add(unique)
    assert verdicts == {True, False}


def test_nothing_to_count_and_no_bend():
    flat = N([[0.0, 0.0], [1.0, 1.0]], [1.0, 2.0], [[3.0, 0.0]], [0.0], activation="relu")
    found = mo.minimal_networks(flat)
    assert (found.units, found.components, found.dimension, found.unique) == (0, 1, 0, True)
    assert found.check()
    none = N(np.zeros((0, 2)), np.zeros(0), np.zeros((1, 0)), [2.0], activation="relu")
    assert mo.minimal_networks(none).units == 0


def test_numbers_that_do_not_add_up_are_rejected():
    net = N([[1.0], [1.0]], [0, -1.0], [[1, -1.0]], [0], activation="relu")
    found = mo.minimal_networks(net)
    (choice,) = found.choices
    for forged in (
        replace(found, units=1),
        replace(found, bends=3),
        replace(found, choices=(choice._replace(sides=1),)),
        replace(found, network=N([[1.0], [1.0]], [0, -1.0], [[1, 2.0]], [0], activation="relu")),
    ):
        with pytest.raises(CertificateRejected):
            forged.check()


def test_so_many_hyperplanes_are_counted_as_is_said(monkeypatch):
    numbers = re.search(
        r"more than (\d+), with one unit more (\d+), with two more (\d+)",
        mo.minimal_networks.__doc__,
    )
    monkeypatch.setattr(
        fewest_units, "_sums", lambda terms, length: []
    )  # only whether there are too many
    for shared, most in enumerate(map(int, numbers.groups())):
        for count, fits in ((most, True), (most + 1, False)):
            rows = [(1, k) for k in range(count)]
            try:
                fewest_units._halves(rows, ((0, 0), rows), tuple(range(shared)))
            except Undecided:
                assert not fits
            else:
                assert fits


def test_what_is_not_counted_is_said():
    one = [[1.0]], [0.0]
    with pytest.raises(UnsupportedModel, match="relu and leaky_relu"):
        mo.minimal_networks(N(*one, *one, activation="tanh"))
    with pytest.raises(UnsupportedModel, match="relu and leaky_relu"):
        mo.minimal_networks(N(*one, *one, activation="abs"))
    with pytest.raises(UnsupportedModel, match="one hidden layer"):
        mo.minimal_networks(N(*one, *one, *one, activation="relu"))
    with pytest.raises(Undecided, match="several outputs"):
        mo.minimal_networks(N(*one, [[1.0], [2.0]], [0.0, 0.0], activation="relu"))
    rng = np.random.default_rng(0)
    wide = N(
        rng.normal(size=(60, 2)),
        rng.normal(size=60),
        rng.normal(size=(1, 60)),
        [0.0],
        activation="relu",
    )
    with pytest.raises(Undecided, match="60 hyperplanes"):
        mo.minimal_networks(wide)
