"""Parameters from the function alone: rates on random networks, exact comparison, planted and
degenerate functions.
"""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import strategies as plants
from teachers import BOX, drawn, rational

import moduli as mo
from moduli.piecewise.output_layer import (
    PRIME,
    OutputLayer,
    Unit,
    _lifted,
    _pivots,
    _refuted,
    turns,
)
from moduli.piecewise.recovery import everything, primitive, recover, same_function, standard


def by_l1_norm(layers):
    """The canonical form of the specification, written apart from `standard`: rows of l1 norm 1,
    sorted.
    """
    found = [([row[:] for row in weights], biases[:]) for weights, biases in layers]
    for l in range(len(found) - 1):
        weights, biases = found[l]
        norms = [sum(map(abs, row)) or Fraction(1) for row in weights]
        unit = zip(weights, biases, norms, range(len(norms)), strict=True)
        units = sorted(([w / n for w in row], b / n, k) for row, b, n, k in unit)
        found[l] = [row for row, _, _ in units], [b for _, b, _ in units]
        found[l + 1] = (
            [[row[k] * norms[k] for *_, k in units] for row in found[l + 1][0]],
            found[l + 1][1],
        )
    return found


RATES = [
    ((2, 2, 2, 1), 32),
    ((2, 3, 3, 1), 24),
    pytest.param((2, 4, 4, 1), 24, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("widths", "least"), RATES)
def test_rates_on_random_networks(widths, least):
    """Of 60 each, 32, 25 and 24 have full functional dimension; one of them is in no general
    position.
    """
    full = found = 0
    for seed in range(60):
        net = drawn(seed, widths)
        dimension = mo.dimension(net, on=BOX)
        got = recover(dimension.pieces, widths)
        if got.layers is not None:
            assert same_function(dimension.pieces, got.layers)
        if dimension.lower == dimension.generic:
            full += 1
            if got.layers is not None:
                found += 1
                assert by_l1_norm(got.layers) == by_l1_norm(rational(net))
                assert got.exact
                assert mo.canonical(got.network) == mo.canonical(net)
    assert full >= found >= least


@pytest.mark.parametrize("widths", [(1, 4, 1), (2, 5, 2), (3, 4, 1), (3, 3, 2), (2, 10, 1)])
def test_one_hidden_layer(widths):
    for seed in range(5):
        net = drawn(seed, widths)
        got = recover(mo.pieces(net, on=BOX), widths)
        assert by_l1_norm(got.layers) == by_l1_norm(rational(net))
        assert got.exact
        assert got.check()


@pytest.mark.parametrize("widths", [(2, 3, 3, 2), (3, 3, 2, 1), (3, 2, 2, 2)])
def test_outputs_and_inputs_of_two_layers(widths):
    answered = 0
    for seed in range(8):
        net = drawn(seed, widths)
        dimension = mo.dimension(net, on=BOX)
        got = recover(dimension.pieces, widths)
        if dimension.lower == dimension.generic:
            assert by_l1_norm(got.layers) == by_l1_norm(rational(net))
            answered += 1
    assert answered > 1


def test_three_hidden_layers():
    """Of 60 random networks 13 have full functional dimension; the first five of them here, the
    rest took as long.
    """
    found = 0
    for seed in range(60):
        net = drawn(seed, (2, 2, 2, 2, 1))
        dimension = mo.dimension(net, on=BOX)
        if dimension.lower == dimension.generic:
            got = recover(dimension.pieces, net.widths)
            assert by_l1_norm(got.layers) == by_l1_norm(rational(net))
            assert got.check()
            found += 1
        if found == 5:
            return
    raise AssertionError("too few networks of full dimension")


def test_symmetric_copies_are_recovered_alike():
    for seed in (4, 6, 8, 9):
        net = drawn(seed, (2, 3, 3, 1))
        plain = recover(mo.pieces(net, on=BOX), net.widths)
        copy = recover(mo.pieces(mo.symmetries(net).random(seed)(net), on=BOX), net.widths)
        if plain.layers is not None:
            assert standard(plain.layers) == standard(copy.layers)


def test_the_function_counts_and_not_the_network_that_made_it():
    """Units that are dead, doubled or cancel are no hindrance, nor is the source's width."""
    for seed in (4, 6, 8):
        parts = plants.minimal(np.random.default_rng(seed), (2, 3, 3, 1), ["relu"] * 2)
        plain = recover(mo.pieces(parts.network(), on=BOX), (2, 3, 3, 1))
        rng = np.random.default_rng(seed)
        for kind in ("dead", "duplicate", "multiple"):
            plants.plant(rng, parts, 1, kind)
        plants.plant(rng, parts, 2, "duplicate")
        more = parts.network()
        assert more.widths == (2, 6, 4, 1)
        found = recover(mo.pieces(more, on=BOX), (2, 3, 3, 1))
        assert plain.layers is not None
        assert standard(found.layers) == standard(plain.layers)


def test_spare_units_carry_what_is_linear():
    """f = |x| + 3 y needs a third unit for 3 y; with two units there is no such network."""
    net = mo.Network.mlp(
        [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]],
        np.zeros(4),
        [[1.0, 1.0, 3.0, -3.0]],
        [0.5],
        activation="relu",
    )
    pieces = mo.pieces(net, on=mo.Box(-4, 4))
    got = recover(pieces, (2, 2, 1))
    assert got.check()
    nothing = recover(pieces, (2, 1, 1))
    assert nothing.layers is None
    assert nothing.status == "undecided"
    affine = mo.pieces(
        mo.Network.mlp([[1.0, 2.0]], [100.0], [[3.0], [1.0]], [0.0, 1.0], activation="relu"),
        on=mo.Box(-1, 1),
    )
    assert recover(affine, (2, 1, 2)).check()
    assert recover(affine, (2, 3, 2)).check()
    assert recover(affine, (2, 3, 3, 2)).layers is None  # nothing for a second layer to bend at


def test_two_layers_that_are_one_are_recovered_as_one():
    for seed in range(20):
        net = drawn(seed, (2, 2, 2, 1))
        pieces = mo.pieces(net, on=mo.Box(-1, 1))
        got = recover(pieces, (2, 2, 1))
        if got.layers is not None:
            assert got.check()
            x = np.random.default_rng(0).uniform(-1, 1, (50, 2))
            assert np.allclose(got.network(x), net(x), atol=1e-9)


def test_exact_comparison_sees_one_part_in_2_to_the_60():
    net = drawn(4, (2, 3, 3, 1))
    pieces, layers = mo.pieces(net, on=BOX), rational(net)
    assert same_function(pieces, layers)
    assert same_function(pieces, primitive(layers))
    assert same_function(pieces, standard(layers))
    for l, (weights, biases) in enumerate(layers):
        moved = weights, [biases[0] + Fraction(1, 2**60), *biases[1:]]
        turned = [[-w for w in weights[0]], *weights[1:]], biases
        for bad in (moved, turned):
            assert not same_function(pieces, [*layers[:l], bad, *layers[l + 1 :]])


def test_equal_in_the_box_and_different_outside():
    net = mo.Network.mlp([[1.0], [1.0]], [0.0, -20.0], [[1.0, 1.0]], [0.0], activation="relu")
    small = rational(mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="relu"))
    assert same_function(mo.pieces(net, on=mo.Box(-8, 8)), small)
    assert not same_function(mo.pieces(net, on=mo.Box(-32, 32)), small)


def test_rationals_that_no_float_holds():
    """A slice by thirds: the recovered parameters are exact rationals, the floats say that they
    were rounded.
    """
    net = drawn(1, (2, 3, 1))
    third = np.array([1.0, 1.0]) / 3
    pieces = mo.pieces(net, on=mo.Box(-64, 64), slice=(np.zeros(2), third, np.array([0.1, -0.7])))
    got = recover(pieces, (2, 3, 1))
    assert got.check()
    assert not got.exact
    assert "rounded in floats" in repr(got)


def test_everything_in_general_position():
    """One network up to symmetry for a random one; with a planted turn exactly the two."""
    nets = [
        net
        for net in (drawn(seed, (2, 3, 3, 1)) for seed in range(12))
        if int(mo.dimension(net, on=BOX)) == 19
    ]
    assert len(nets) > 3
    listed = 0
    for net in nets:
        try:
            found = everything(mo.pieces(net, on=BOX), net.widths)
        except mo.Undecided:
            continue
        assert found == [standard(rational(net))]
        listed += 1
    assert listed >= len(nets) - 1
    rng = np.random.default_rng(13)
    seen = 0
    for _ in range(30):
        first, second = plants.dyadic(rng, 2, 2), plants.dyadic(rng, 2, 2)
        second[1] = (
            second[0] / 2
        )  # with weights 1 and -2 on top the rows of the last hidden layer cancel
        biases = plants.dyadic(rng, 2), plants.dyadic(rng, 2)
        net = mo.Network.mlp(
            first, biases[0], second, biases[1], [[1.0, -2.0]], [0.0], activation="relu"
        )
        try:
            found = everything(mo.pieces(net, on=BOX), net.widths)
        except mo.Undecided:
            continue
        if standard(rational(net)) in found:
            assert len(found) == 2
            assert all(same_function(mo.pieces(net, on=BOX), form) for form in found)
            seen += 1
    assert seen > 2


def test_a_turn_in_the_first_layer_is_found():
    """Two parallel hyperplanes read with opposite weights: relu(t) - relu(t - 1) = 1 - relu(-t) +
    relu(1 - t).
    """
    rng = np.random.default_rng(5)
    seen = 0
    for _ in range(80):
        row, column = plants.dyadic(rng, 1, 2), plants.dyadic(rng, 2, 1)
        first = np.vstack([row, row, plants.dyadic(rng, 1, 2)])
        second = np.hstack([column, -column, plants.dyadic(rng, 2, 1)])
        biases = plants.dyadic(rng, 3), plants.dyadic(rng, 2)
        net = mo.Network.mlp(
            first, biases[0], second, biases[1], plants.dyadic(rng, 1, 2), [0.0], activation="relu"
        )
        pieces = mo.pieces(net, on=BOX)
        try:
            found = everything(pieces, net.widths)
        except mo.Undecided:
            continue
        if standard(rational(net)) in found:
            turned = rational(net)
            (w, b), (v, c), last = turned
            other = [
                ([[-x for x in w[0]], [-x for x in w[1]], w[2]], [-b[0], -b[1], b[2]]),
                (v, [ci + row[0] * b[0] + row[1] * b[1] for ci, row in zip(c, v, strict=True)]),
                last,
            ]  # fmt: skip
            assert same_function(pieces, other)
            assert standard(other) in found
            seen += 1
    assert seen > 1


def test_subsets_and_lifting():
    rng = np.random.default_rng(0)
    rows = [[Fraction(int(v), 3) for v in rng.integers(-9, 10, 2)] for _ in range(7)]
    pick = (1, 0, 1, 1, 0, 0, 1)
    target = [
        [
            sum((p * row[k] for p, row in zip(pick, rows, strict=True)), Fraction(0))
            for k in range(2)
        ]
    ]
    units = [Unit((Fraction(1),), 1, frozenset())] * 7
    got = set(turns(units, OutputLayer(rows, [], target, [], True)))
    wanted = {
        p
        for p in product((0, 1), repeat=7)
        if [
            sum((q * row[k] for q, row in zip(p, rows, strict=True)), Fraction(0)) for k in range(2)
        ]
        == target[0]
    }
    assert pick in got
    assert got == wanted
    values = [Fraction(7, 3), Fraction(-(10**40), 9**20), Fraction(0)]
    matrix = [[Fraction(int(v), 7) for v in row] for row in rng.integers(-5, 6, (3, 3))]
    system = [[*row, sum(a * b for a, b in zip(row, values, strict=True))] for row in matrix]
    assert _lifted(system) == values


def test_a_contradiction_modulo_the_prime_is_none_over_the_rationals():
    """p x = 1 has no solution modulo p; x = 1, 2 x = 3 has none at all; x + y = 1, p y + x = 2 has
    one.
    """
    one, prime = Fraction(1), Fraction(PRIME)
    assert not _refuted([], [], [prime, one])
    assert _refuted([[one, one]], [0], [2 * one, 3 * one])
    assert not _refuted([[one, one]], [0], [2 * one, 2 * one])
    assert not _refuted([[one, one, one]], [0], [one, one + prime, 2 * one])
    assert _pivots(np.array([[1, 1, 1], [1, 1, 2]])) == ([0], [0], 1)


def test_answers_say_what_they_are():
    net = drawn(4, (2, 3, 3, 1))
    pieces = mo.pieces(net, on=BOX)
    got = recover(pieces, net.widths)
    assert got.check()
    assert got.network.widths == net.widths
    assert json.dumps(got.to_json())
    assert dict(got.rows())["floats hold it"] == "yes"
    worse = [got.layers[0], got.layers[1], (got.layers[2][0], [got.layers[2][1][0] + 1])]
    with pytest.raises(mo.CertificateRejected, match="another function"):
        replace(got, layers=tuple(worse)).check()
    small = recover(pieces, (2, 1, 1, 1))
    assert "no 2-1-1-1 network recovered" in repr(small)
    assert not small.exact
    for ask in (small.check, lambda: small.network):
        with pytest.raises(mo.Undecided, match="no network of widths"):
            ask()
    assert "budget of 0" in recover(pieces, net.widths, budget=0).reason


def test_refusals():
    pieces = mo.pieces(drawn(4, (2, 3, 3, 1)), on=BOX)
    with pytest.raises(mo.ShapeError, match="2 inputs and 1 outputs"):
        recover(pieces, (3, 3, 3, 1))
    for widths in ((2, 1), (2, 0, 1)):
        with pytest.raises(
            ValueError, match="at least one hidden layer, of at least one unit each"
        ):
            recover(pieces, widths)
    with pytest.raises(ValueError, match="enumerated with two hidden layers"):
        everything(pieces, (2, 5, 1))
