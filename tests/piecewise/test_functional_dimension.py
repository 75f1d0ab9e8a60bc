"""Functional dimension against stored values, floats, symmetries and named mechanisms."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import strategies as plants
from stored_pieces import read, stored

import moduli as mo
from moduli.common import modular
from moduli.piecewise import functional_dimension
from moduli.piecewise.functional_dimension import Exact, _jacobian_floats, _rank, local


def test_stored_dimensions(shared):
    cases = stored(shared)
    for case in cases:
        found = mo.dimension(read(case)[0], on=read(case)[1])
        assert found.exact, case["id"]
        assert int(found) == case["expect"]["functional_dimension_on_box"], case["id"]
        assert found.generic == case["expect"]["bound"]
        assert found.check()


def test_stored_pairs_of_hidden_symmetries(shared):
    cases = json.loads((shared / "cases" / "relu.json").read_text())["cases"]
    seen = 0
    for case in cases:
        for side in "fg":
            wanted = case["expect"].get(f"functional_dimension_{side}")
            if wanted is None or len(case["box"]) > 3:
                continue
            net = mo.Network.mlp(
                *(p for layer in case[f"net_{side}"] for p in (layer["W"], layer["b"])),
                activation="relu",
            )
            box = mo.Box([b[0] for b in case["box"]], [b[1] for b in case["box"]])
            assert int(mo.dimension(net, on=box)) == wanted, (case["id"], side)
            seen += 1
    assert seen > 20


def test_the_rank_of_derivatives_of_outputs():
    """The coefficients' Jacobian has the rank of the Jacobian of outputs at many points, by finite
    differences.
    """
    for seed, widths in enumerate(((1, 3, 2, 1), (2, 3, 3, 2), (2, 4, 1))):
        rng = np.random.default_rng(seed)
        net = plants.minimal(rng, widths, ["relu", "leaky_relu(0.25)"][: len(widths) - 2]).network()
        found = mo.dimension(net, on=mo.Box(-4, 4))
        corners = [np.array(cell.points, float) for cell in found.pieces.complex]
        x = np.concatenate([rng.dirichlet(np.ones(len(points)), 12) @ points for points in corners])
        flat, rows = net.flat(), []
        for k in range(len(flat)):
            step = np.zeros(len(flat))
            step[k] = 1e-7
            rows.append(
                ((net.with_flat(flat + step)(x) - net.with_flat(flat - step)(x)) / 2e-7).ravel()
            )
        values = np.linalg.svd(np.array(rows), compute_uv=False)
        assert int((values > 1e-6 * values[0]).sum()) == found.lower


def test_invariant_under_symmetries_and_more_cells():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        net = plants.minimal(rng, (2, 4, 3, 1), ["relu"] * 2).network()
        found = mo.dimension(net, on=mo.Box(-2, 2))
        copy = mo.symmetries(net).random(seed)(net)
        assert int(mo.dimension(copy, on=mo.Box(-2, 2))) == int(found)
        assert int(mo.dimension(net, on=mo.Box(-8, 8))) >= int(found)
        assert found.lower <= found.upper <= found.generic


def test_null_directions_change_nothing_to_first_order():
    rng = np.random.default_rng(4)
    net = plants.minimal(rng, (2, 4, 3, 1), ["relu"] * 2).network()
    found = mo.dimension(net, on=mo.Box(-2, 2))
    null = found.null_space
    assert len(null) == net.parameters - int(found)
    assert np.allclose(null @ null.T, np.eye(len(null)), atol=1e-10)
    assert np.abs(_jacobian_floats(found.pieces) @ null.T).max() < 1e-9


def test_named_losses():
    """A dead unit loses what it reads and writes; a stably active pair loses the mixing of two
    units.
    """
    box = mo.Box(-1, 1)
    alive = mo.Network.mlp(
        [[1.0, 0.0], [0.0, 1.0]], [0.1, 0.2], [[1.0, 2.0]], [0.0], activation="relu"
    )
    assert int(mo.dimension(alive, on=box)) == 9 - 2
    dead = mo.Network.mlp(
        [[1.0, 0.0], [0.0, 1.0]], [0.1, -5.0], [[1.0, 2.0]], [0.0], activation="relu"
    )
    found = mo.dimension(dead, on=box)
    assert found.generic - int(found) == 2 + 1
    active = mo.Network.mlp(
        [[1.0, 0.0], [0.0, 1.0]], [5.0, 5.0], [[1.0, 2.0]], [0.0], activation="relu"
    )
    assert int(mo.dimension(active, on=box)) == 3


def test_intervals_say_so(monkeypatch):

    monkeypatch.setattr(functional_dimension, "WORK", 0.0)
    nets = [
        plants.minimal(np.random.default_rng(k), (2, 4, 4, 4, 1), ["relu"] * 3).network()
        for k in range(8)
    ]
    found = next(d for d in (mo.dimension(net, on=mo.Box(-4, 4)) for net in nets) if not d.exact)
    assert found.status == "bounded"
    assert found.lower < found.upper <= found.generic
    with pytest.raises(mo.Undecided, match="functional dimension between"):
        int(found)
    assert "<=" in dict(found.rows())["functional dimension"]


def test_losses_have_names_and_add_up():
    box = mo.Box(-1, 1)
    dead = mo.Network.mlp(
        [[1.0, 0.0], [0.0, 1.0]], [0.1, -5.0], [[1.0, 2.0]], [0.0], activation="relu"
    )
    found = mo.dimension(dead, on=box)
    assert {kind for kind, _, _ in found.losses} == {"weights that no cell exercises"}
    assert sum(count for _, _, count in found.losses) == found.generic - int(found)
    active = mo.Network.mlp(
        [[1.0, 0.0], [0.0, 1.0]], [5.0, 5.0], [[1.0, 2.0]], [0.0], activation="relu"
    )
    kinds = {kind for kind, _, _ in mo.dimension(active, on=box).losses}
    assert kinds == {"units that bend nowhere apart, mixed", "linear units, shifted"}
    rows = dict(mo.dimension(dead, on=box).rows())
    assert "lost in layer 1" in rows


@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.1)", "abs"])
def test_both_bounds_meet_on_networks_with_all_digits(activation):
    """Deficits of every kind, proved from above by named null vectors and by reconstructed ones;
    against floats.
    """
    deficits = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        widths = ((2, 4, 4, 1), (2, 3, 3, 3, 1), (3, 4, 3, 2), (1, 5, 4, 1))[seed % 4]
        parts = [rng.standard_normal(s) for a, b in pairwise(widths) for s in ((b, a), (b,))]
        net = mo.Network.mlp(*parts, activation=activation)
        found = mo.dimension(net, on=mo.Box(-3, 3))
        assert found.exact, (seed, found)
        values = np.linalg.svd(_jacobian_floats(found.pieces), compute_uv=False)
        assert int((values > 1e-10 * values[0]).sum()) == int(found)
        deficits += found.generic - int(found)
    assert deficits > 0


def test_claims_too_high_or_too_low_fail_the_check():
    net = plants.minimal(np.random.default_rng(3), (2, 4, 3, 1), ["relu"] * 2).network()
    found = mo.dimension(net, on=mo.Box(-2, 2))
    assert found.check()
    assert not replace(found, lower=found.lower + 1, upper=found.upper + 1).check()
    assert not replace(found, lower=found.lower - 1, upper=found.upper - 1).check()


def test_a_unit_that_vanishes_identically_is_named():
    second = [[1.0, 0.0], [0.0, 0.0]], [0.0, 0.0]
    net = mo.Network.mlp(
        [[1.0], [2.0]], [0.0, 0.0], *second, [[1.0, 1.0]], [0.0], activation="relu"
    )
    found = mo.dimension(net, on=mo.Box(-1, 1))
    assert int(found) == 0
    assert "compress the network first" in found.statement


def test_residues_of_wide_layers_are_exact():
    """5001 products of the largest residues pass 2^53: they are summed in parts."""
    prime, wide = modular.PRIMES[0], 5001
    largest = float(prime // 2 - 1)  # odd, so that sums beyond 2^53 are rounded
    rows = (
        np.full((wide, 1), largest),
        np.zeros(wide),
        np.full((2, wide), largest),
        np.zeros(2),
        np.ones((1, 2)),
        [0.0],
    )
    net = mo.Network.mlp(*rows, activation="relu")
    found = mo.pieces(net, on=mo.Box(1, 2))
    here = local(found, found.cell_signs, Exact(prime))
    assert here.features[2][0, 0, 0] % prime == wide * (prime // 2 - 1) ** 2 % prime
    assert here.slopes[0][0, 0, 0] % prime == 2 * (prime // 2 - 1) % prime


def test_mixtures_of_many_rows_stay_below_the_rank():
    """Few parameters, many cells, residues as large as they come: each sum has thousands of terms."""
    rng = np.random.default_rng(0)
    net = mo.Network.mlp(
        rng.standard_normal((2, 2)), rng.standard_normal(2), [[1.0, 1.0]], [0.0], activation="relu"
    )
    found = mo.pieces(net, on=mo.Box(-8, 8))
    many = SimpleNamespace(
        network=net, start=found.start, cell_signs=np.tile(found.cell_signs, (4000, 1)),
        complete=True, cells=4000 * found.cells
    )  # fmt: skip
    for prime in modular.PRIMES:
        assert _rank(many, prime, 0) == _rank(found, prime, 0) == net.parameters - net.units


def test_a_matrix_beyond_memory_is_refused_before_it_is_made(monkeypatch):
    rng = np.random.default_rng(0)
    arrays = (rng.standard_normal(shape) for shape in ((6, 2), 6, (1, 6), 1))
    net = mo.Network.mlp(*arrays, activation="relu")
    assert mo.dimension(net, on=mo.Box(-9, 9)).lower == 16
    monkeypatch.setattr(functional_dimension, "MEMORY", 1000)
    with pytest.raises(mo.Undecided, match="25 columns, one for each parameter") as caught:
        mo.dimension(net, on=mo.Box(-9, 9))
    assert (caught.value.lower, caught.value.upper) == (0, 25)
