"""The complex against stored counts, linear programs for all sign vectors, and itself; networks in
no general position.
"""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import strategies as plants
from stored_pieces import read, stored

import moduli as mo
from moduli.common.at_points import gradient


def test_stored_counts(shared):
    cases = stored(shared)
    assert len(cases) > 50
    for case in cases:
        found, expect = mo.pieces(read(case)[0], on=read(case)[1]), case["expect"]
        volumes = [cell.volume for cell in found.complex]
        got = {
            "cells": found.cells,
            "linear_regions": found.linear_regions,
            "distinct_affine_pieces": found.affine_pieces,
            "vertices": len(found.vertices),
            "facets_interior": len(found.facets),
            "facets_visible": sum(f.visible for f in found.facets),
            "facets_total": len(found.facets) + found.boundary_facets,
            "largest_cell_volume": str(max(volumes)),
            "smallest_cell_volume": str(min(volumes)),
            "visible_facets_per_unit": [
                sum(f.visible and f.units == (k,) for f in found.facets)
                for k in range(found.network.units)
            ],
        }
        assert {k: v for k, v in got.items() if k in expect} == {
            k: expect[k] for k in got if k in expect
        }, case["id"]
        assert found.check()
        maps = zip(found.complex, found.affine_maps, strict=True)
        values = [a @ v + c for cell, (a, c) in maps for v in np.array(cell.points, float)]
        if "max_output" in expect and found.network.widths[-1] == 1:
            assert float(np.max(values)) == pytest.approx(
                float(Fraction(expect["max_output"])), abs=1e-9
            )


def by_programs(net, box):
    """Cells by a linear program for each sign vector that has a point with all signs strict: an
    independent count.
    """
    from scipy.optimize import linprog

    inputs, count = net.widths[0], 0
    for signs in product([-1, 1], repeat=net.units):
        a, c, rows, offsets, at = np.eye(inputs), np.zeros(inputs), [], [], 0
        for layer in net.layers[:-1]:
            a, c = layer.weight @ a, layer.weight @ c + layer.bias
            s = np.array(signs[at : at + len(c)])
            rows.append(-s[:, None] * a)
            offsets.append(s * c)
            at += len(c)
            slope = float(layer.activation(np.array([-1.0]))[0]) * -1
            a, c = np.where(s[:, None] > 0, a, slope * a), np.where(s > 0, c, slope * c)
        room = np.column_stack(
            [np.vstack(rows), np.ones(at)]
        )  # maximise the distance from all signs
        sides = [*zip(box.low, box.high, strict=True), (0, 1)]
        best = linprog([*np.zeros(inputs), -1.0], room, np.concatenate(offsets), bounds=sides)
        count += best.status == 0 and -best.fun > 1e-9
    return count


@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.25)", "abs"])
def test_cells_against_linear_programs(activation):
    for seed, widths in enumerate(
        ((1, 3, 2, 1), (2, 3, 2, 1), (2, 4, 2, 2), (3, 3, 2, 1), (2, 2, 2, 2, 1)) * 2
    ):
        rng = np.random.default_rng(seed)
        net = plants.minimal(rng, widths, [activation] * (len(widths) - 2)).network()
        box = mo.Box(-2, 3).of_dimension(widths[0])
        found = mo.pieces(net, on=box)
        assert found.check()
        assert found.cells == by_programs(net, box), (seed, widths)


def test_the_maps_are_those_of_the_network():
    rng = np.random.default_rng(0)
    for widths in ((1, 5, 4, 2), (2, 5, 4, 2), (3, 4, 3, 1)):
        net = plants.minimal(rng, widths, ["relu", "leaky_relu(0.25)"]).network()
        found = mo.pieces(net, on=mo.Box(-1, 1))
        for cell, (a, c) in zip(found.complex, found.affine_maps, strict=True):
            x = np.array([cell.centre], dtype=float)
            assert np.allclose(net(x)[0], a @ x[0] + c, atol=1e-9)
            for output, row in zip(np.eye(len(a)), a, strict=True):
                assert np.allclose(gradient(net, x, output[None])[0], row, atol=1e-9)


def test_redundant_networks_have_the_cells_of_the_network():
    """Duplicated, proportional, all-zero units, in both layers: every known tool fails on at least
    one of them.
    """
    rng = np.random.default_rng(3)
    net = plants.minimal(rng, (2, 10, 10, 1), ["relu"] * 2).network()
    base = mo.pieces(net, on=mo.Box(-4, 4))
    (w, b), (v, c), (u, d) = [(np.array(x.weight), np.array(x.bias)) for x in net.layers]
    variants = {
        "duplicates in layer 1": (
            np.vstack([w, w[:3]]),
            np.append(b, b[:3]),
            np.hstack([v, 0 * v[:, :3] + 0.5]),
            c,
            u,
            d,
        ),
        "proportional": (
            np.vstack([w, 2 * w[:3]]),
            np.append(b, 2 * b[:3]),
            np.hstack([v, 0 * v[:, :3]]),
            c,
            u,
            d,
        ),
        "zero rows": (
            np.vstack([w, 0 * w[:3]]),
            np.append(b, [0.0, 1.0, -1.0]),
            np.hstack([v, 0 * v[:, :3]]),
            c,
            u,
            d,
        ),
        "duplicates in layer 2": (
            w,
            b,
            np.vstack([v, v[:3]]),
            np.append(c, c[:3]),
            np.hstack([u, u[:, :3]]),
            d,
        ),
        "dead in layer 2": (
            w,
            b,
            np.vstack([v, 0 * v[:2]]),
            np.append(c, [-1.0, -2.0]),
            np.hstack([u, u[:, :2]]),
            d,
        ),
    }
    for name, arrays in variants.items():
        found = mo.pieces(mo.Network.mlp(*arrays, activation="relu"), on=mo.Box(-4, 4))
        assert found.check()
        if name != "duplicates in layer 1":  # there the second layer reads other sums
            assert found.cells == base.cells, name
    same = np.vstack([w, w[:3]]), np.append(b, b[:3]), np.hstack([v, v[:, :3] * 0]), c, u, d
    assert mo.pieces(mo.Network.mlp(*same, activation="relu"), on=mo.Box(-4, 4)).cells == base.cells


def test_zero_biases_meet_at_the_origin():
    rng = np.random.default_rng(1)
    net = plants.minimal(rng, (2, 6, 5, 1), ["relu"] * 2).network()
    bare = net.with_layers([mo.Layer(x.weight, 0 * x.bias, x.activation) for x in net.layers])
    found = mo.pieces(bare, on=mo.Box(-1, 1))
    assert found.check()
    assert [0.0, 0.0] in found.vertices.tolist()
    assert all((np.abs(f.vertices).sum(axis=1) == 0).any() for f in found.facets)  # a fan


def test_slices_of_any_network():
    rng = np.random.default_rng(2)
    net = plants.minimal(rng, (7, 6, 5, 3), ["relu"] * 2).network()
    origin, u, v = rng.standard_normal((3, 7))
    found = mo.pieces(net, on=mo.Box(-1, 1), slice=(origin, u, v))
    assert found.check()
    for cell, (a, c) in zip(found.complex, found.affine_maps, strict=True):
        t = np.array(cell.centre, dtype=float)
        assert np.allclose(net((origin + t[0] * u + t[1] * v)[None])[0], a @ t + c, atol=1e-9)
    line = mo.pieces(net, on=mo.Box(-1, 1), slice=(origin, u))
    assert line.cells == len(line.facets) + 1


def test_weights_are_jumps_of_the_gradient():
    """max(0, x, y): three rays, weights by hand; convex, so none is negative."""
    rows = [[1, 0], [-1, 0], [0, 1]], [0, 0, 0], [[1, -1, -1], [0, 0, 1]], [0, 0], [[1, 1]], [0]
    net = mo.Network.mlp(*rows, activation="relu")
    found = mo.pieces(net, on=mo.Box(-8, 8))
    weights = sorted(f.weight[0] for f in found.facets if f.visible)
    assert weights == pytest.approx([1.0, 1.0, np.sqrt(2)])
    assert (found.cells, found.linear_regions, found.affine_pieces) == (5, 3, 3)


def test_pictures():
    rng = np.random.default_rng(0)
    net = plants.minimal(rng, (2, 6, 4, 1), ["relu"] * 2).network()
    found = mo.pieces(net, on=mo.Box(-1, 1))
    for color in ("cell", "layer", "weight"):
        assert found.plot(color=color).collections
    graph = mo.pieces(plants.minimal(rng, (1, 4, 2), ["relu"]).network(), on=mo.Box(-1, 1)).plot()
    assert len(graph.lines) > 2
    with pytest.raises(ValueError, match="'cell', 'layer' or 'weight'"):
        found.plot(color="red")
    solid = mo.pieces(plants.minimal(rng, (3, 3, 1), ["relu"]).network(), on=mo.Box(-1, 1))
    for color in ("cell", "layer", "weight"):
        assert solid.plot(color=color).collections
    assert json.dumps(found.to_json())
    assert found.cell_signs.shape == (found.cells, 10)
    assert found.facets[0].unit == found.facets[0].units[0]


def test_refusals():
    net = plants.minimal(np.random.default_rng(0), (2, 6, 4, 1), ["relu"] * 2).network()
    with pytest.raises(mo.BudgetExhausted, match="more than 5 cells, in layer 1 of 2"):
        mo.pieces(net, on=mo.Box(-4, 4), budget=5)
    with pytest.raises(ValueError, match="in a box"):
        mo.pieces(net, on=None)
    with pytest.raises(mo.UnsupportedModel, match="layer 1 is tanh"):
        mo.pieces("zoo:digits-tanh", on=mo.Box(-1, 1))
    with pytest.raises(ValueError, match="64 inputs; pieces are counted for up to 3"):
        mo.pieces("zoo:digits-relu", on=mo.Box(-1, 1))
    with pytest.raises(mo.ShapeError, match="slice of shapes"):
        mo.pieces(net, on=mo.Box(-1, 1), slice=(np.zeros(3), np.zeros(3)))
    with pytest.raises(ValueError, match="with an interior"):
        mo.pieces(net, on=mo.Box(1, 1))
