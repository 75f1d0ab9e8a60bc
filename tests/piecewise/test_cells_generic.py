"""The float route against the integer route, with proofs attacked and general position nearly lost."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import strategies as plants

import moduli as mo
from moduli.piecewise.cells_exact import clip
from moduli.piecewise.cells_generic import Degenerate, certify, subdivide, walls
from moduli.piecewise.polyhedral_complex import Pieces

SHAPES = (1, 5, 4, 1), (2, 5, 4, 1), (2, 4, 3, 3, 2), (3, 4, 3, 1), (1, 3, 3, 3, 1), (2, 6, 1)


def random_net(seed, widths, activation="relu"):
    """Weights with all digits, so that nothing is in special position by accident."""
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal(shape) for a, b in pairwise(widths) for shape in ((b, a), (b,))]
    return mo.Network.mlp(*parts, activation=activation)


def both(net, box):
    start, box = np.eye(net.widths[0], net.widths[0] + 1), box.of_dimension(net.widths[0])
    return mo.pieces(net, on=box), Pieces("proved", net, box, clip(net, box, start, 10_000, None))


def same(fast, slow):
    """Counts, signs, exact vertices and maps, facets with weights and visibility."""
    assert (fast.cells, fast.linear_regions, fast.affine_pieces) == (
        slow.cells,
        slow.linear_regions,
        slow.affine_pieces,
    )
    assert fast.boundary_facets == slow.boundary_facets
    one, two = ({cell.signs: cell for cell in found.complex} for found in (fast, slow))
    assert one.keys() == two.keys()
    for signs, cell in one.items():
        assert cell.maps == two[signs].maps
        named, other = dict(cell.vertices), dict(two[signs].vertices)
        assert named.keys() == other.keys()
        assert all(
            other[point] <= named[point] for point in named
        )  # clipping names one unit of a wall
    facets = []
    for found in (fast, slow):
        signs = [tuple(s) for s in found.cell_signs.tolist()]
        facets.append({frozenset(signs[c] for c in f.cells): f for f in found.facets})
    assert facets[0].keys() == facets[1].keys()
    for pair, f in facets[0].items():
        other = facets[1][pair]
        assert (f.units, f.visible) == (other.units, other.visible)
        assert np.allclose(f.weight, other.weight, rtol=1e-6, atol=1e-12)
    assert fast.check()
    assert slow.check()


@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.1)", "abs"])
def test_two_routes_one_complex(activation):
    count = 0
    for seed in range(24):
        widths = SHAPES[seed % len(SHAPES)]
        net = random_net(seed, widths, activation)
        fast, slow = both(net, mo.Box(-2, 3))
        assert fast.generic
        assert not slow.generic
        same(fast, slow)
        count += fast.cells
    assert count > 400


def test_units_on_one_wall_stay_generic():
    """Duplicates, multiples (of either sign) and constant units share walls; the exact names of the
    constraints come back.
    """
    net = random_net(1, (2, 5, 4, 1))
    (w, b), (v, c), (u, d) = [(np.array(x.weight), np.array(x.bias)) for x in net.layers]
    rng = np.random.default_rng(2)
    rows = (
        np.vstack([w, w[:2], -2 * w[2:3], 0 * w[:2]]),
        np.concatenate([b, b[:2], -2 * b[2:3], [0.0, -1.0]]),
    )
    wide = mo.Network.mlp(
        *rows, np.hstack([v, rng.standard_normal((4, 5))]), c, u, d, activation="relu"
    )
    fast, slow = both(wide, mo.Box(-2, 3))
    assert fast.generic
    same(fast, slow)
    part = walls(*rows)
    assert part.units.tolist() == [0, 1, 2, 3, 4]
    assert part.wall.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, -1, -1]
    assert part.sign.tolist() == [1, 1, 1, 1, 1, 1, 1, -1, 0, -1]


def test_nearly_degenerate_networks():
    """Walls 2^-30 to 2^-52 apart: floats cannot tell all signs, integers decide, and the answer is
    the same.
    """
    doubtful = 0
    for seed in range(30):
        net = random_net(seed, (2, 4, 3, 1))
        arrays = [np.array(x.weight) for x in net.layers], [np.array(x.bias) for x in net.layers]
        tiny = 2.0 ** -(30 + seed % 23)
        arrays[0][0][1], arrays[1][0][1] = (
            arrays[0][0][0],
            arrays[1][0][0] * (1 + tiny),
        )  # parallel, close
        arrays[0][0][2] = arrays[0][0][3] * (1 + tiny * np.array([1, -1]))  # almost parallel
        close = net.with_layers(
            [mo.Layer(w, b, x.activation) for w, b, x in zip(*arrays, net.layers, strict=True)]
        )
        fast, slow = both(close, mo.Box(-2, 3))
        assert fast.cells == slow.cells
        if fast.generic:
            same(fast, slow)
            doubtful += certify(fast.source)
    assert doubtful > 0


def test_real_scales():
    """Layers scaled by 2^40 and back, and numbers too large for the float proof."""
    net = random_net(5, (2, 4, 3, 1))
    for factor in (2.0**40, 2.0**-40, 2.0**250):
        (w, b), (v, c), (u, d) = [(np.array(x.weight), np.array(x.bias)) for x in net.layers]
        scaled = mo.Network.mlp(w * factor, b * factor, v / factor, c, u, d, activation="relu")
        fast, slow = both(scaled, mo.Box(-2, 3))
        assert fast.generic
        same(fast, slow)


def test_false_marks_are_rejected():
    net = random_net(3, (2, 4, 3, 1))
    box = mo.Box(-2, 3).of_dimension(2)
    good = subdivide(net, box, np.eye(2, 3), 1000)
    certify(good)
    rng = np.random.default_rng(0)
    for _ in range(200):  # one sign flipped: no such vertex
        marks = good.marks.copy()
        v, k = rng.integers(len(marks)), rng.integers(4, marks.shape[1])
        marks[v, k] = -marks[v, k] if marks[v, k] else 1
        with pytest.raises(Degenerate):
            certify(replace(good, marks=marks))
    for v in range(len(good.points)):  # a vertex left out: its edges lack an end
        keep = np.arange(len(good.points)) != v
        with pytest.raises(Degenerate):
            certify(replace(good, marks=good.marks[keep], points=good.points[keep]))
    doubled = np.append(np.arange(len(good.points)), 3)
    with pytest.raises(Degenerate):
        certify(replace(good, marks=good.marks[doubled], points=good.points[doubled]))
    moved = replace(good, points=good.points + rng.standard_normal(good.points.shape) * 0.05)
    certify(moved)  # points are only hints: it raises where the marks are not proved
    bad = Pieces("proved", net, box, replace(good, marks=good.marks[:-1], points=good.points[:-1]))
    with pytest.raises(mo.CertificateRejected):
        bad.check()


def test_degenerate_position_is_seen():
    rng = np.random.default_rng(1)
    bare = plants.minimal(rng, (2, 6, 5, 1), ["relu"] * 2).network()
    bare = bare.with_layers([mo.Layer(x.weight, 0 * x.bias, x.activation) for x in bare.layers])
    assert not mo.pieces(bare, on=mo.Box(-1, 1)).generic
    with pytest.raises(Degenerate):
        certify(subdivide(bare, mo.Box(-1, 1).of_dimension(2), np.eye(2, 3), 1000))


@pytest.mark.slow
def test_ninety_networks_by_two_methods():
    for seed in range(90):
        widths = SHAPES[seed % len(SHAPES)]
        fast, slow = both(random_net(seed + 1000, widths), mo.Box(-3, 2))
        same(fast, slow)


def test_volumes_weights_and_continuity():
    """Exact volumes sum to the box; around every inner vertex the weighted directions of the bends
    cancel.
    """
    for seed in range(4):
        for widths in ((2, 6, 5, 2), (3, 4, 3, 1)):
            found = mo.pieces(random_net(seed, widths), on=mo.Box(-2, 3))
            assert found.generic
            assert sum(cell.volume for cell in found.complex) == 5 ** widths[0]
            if widths[0] == 3:
                continue
            total = np.zeros((len(found.vertices), widths[-1], 2))
            place = {tuple(p): k for k, p in enumerate(found.vertices.tolist())}
            for facet in found.facets:
                ends = [place[tuple(p)] for p in facet.vertices.tolist()]
                for a, b in (ends, ends[::-1]):
                    u = found.vertices[b] - found.vertices[a]
                    total[a] += np.outer(facet.weight, u / np.linalg.norm(u))
            inner = ((found.vertices > -2) & (found.vertices < 3)).all(axis=1)
            size = max(abs(w) for facet in found.facets for w in facet.weight)
            assert inner.sum() > 20
            assert np.abs(total[inner]).max() < 1e-9 * size


def test_maps_of_many_cells():
    net = random_net(7, (2, 20, 20, 3), "leaky_relu(0.1)")
    found = mo.pieces(net, on=mo.Box(-2, 3))
    centres = np.array([found.vertices[corners].mean(axis=0) for corners in found.corners])
    maps = np.array([a @ x + c for x, (a, c) in zip(centres, found.affine_maps, strict=True)])
    assert found.cells > 500
    assert np.allclose(maps, net(centres), rtol=1e-9, atol=1e-9)
    signs = np.concatenate([np.sign(z) for z in _pre(net, centres)], axis=1)
    assert np.array_equal(signs, found.cell_signs)
    assert found.affine_pieces <= found.linear_regions <= found.cells


def _pre(net, x):
    for layer in net.layers[:-1]:
        z = x @ layer.weight.T + layer.bias
        yield z
        x = layer.activation(z)


def test_weights_too_small_to_multiply():
    """The product of two weights underflows: the bend is there all the same, seen by integers."""
    net = mo.Network.mlp(
        [[1e-200], [1.0]], [0.0, -1.0], [[1.0, 0.5]], [0.0], [[1e-200]], [0.0], activation="relu"
    )
    fast, slow = both(net, mo.Box(-2, 3))
    same(fast, slow)
    assert fast.linear_regions == 3
