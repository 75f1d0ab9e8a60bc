"""Verdicts against stored flip sets and dimensions, planted redundancy, and networks that
contradict a false yes.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import strategies as plants
from stored_pieces import read, stored
from teachers import BOX, drawn, rational

import moduli as mo
from moduli.piecewise.generic_position import (
    chained,
    generic_identifiability,
    shallow_identifiability,
)
from moduli.piecewise.recovery import recover, same_function, standard


def test_never_yes_without_full_dimension(shared):
    seen = 0
    for case in stored(shared):
        net, box = read(case)
        verdict = generic_identifiability(mo.pieces(net, on=box))
        if verdict.value:
            seen += 1
            assert case["expect"]["functional_dimension_on_box"] == case["expect"]["bound"], case[
                "id"
            ]
            assert not any(case["expect"]["flip_sets"]), case["id"]
    assert seen > 8


def test_hidden_symmetries_are_never_called_identifiable(shared):
    """Stored pairs with the same function and another normal form: neither of the two may be unique
    among all networks.
    """
    seen = 0
    for case in json.loads((shared / "cases" / "relu.json").read_text())["cases"]:
        if "equal_on_box" not in case["expect"] or len(case["box"]) > 2:
            continue
        box = mo.Box([b[0] for b in case["box"]], [b[1] for b in case["box"]])
        nets = [
            mo.Network.mlp(
                *(p for layer in case[f"net_{side}"] for p in (layer["W"], layer["b"])),
                activation="relu",
            )
            for side in "fg"
        ]
        pieces = [mo.pieces(net, on=box) for net in nets]
        same = same_function(pieces[0], rational(nets[1]))
        assert same == case["expect"]["equal_on_box"], case["id"]
        if same and nets[0].widths == nets[1].widths and not case["expect"]["same_canonical_form"]:
            verdicts = [generic_identifiability(p) for p in pieces]
            assert not all(v.value for v in verdicts), case["id"]
            if len(nets[0].widths) == 3:
                assert [v.value for v in verdicts] == [False, False], case["id"]
            seen += 1
    assert seen > 5


@pytest.mark.parametrize(("widths", "least"), [((2, 2, 2, 1), 29), ((2, 3, 3, 1), 23)])
def test_rates_on_random_networks(widths, least):
    """Of 32 and 25 with full dimension; those that a chain of traces proves are among them."""
    found = 0
    for seed in range(60):
        net = drawn(seed, widths)
        dimension = mo.dimension(net, on=BOX)
        verdict = generic_identifiability(dimension.pieces)
        if verdict.value:
            assert dimension.lower == dimension.generic
            found += 1
        assert not chained(dimension.pieces).value or verdict.value
    assert found >= least


def test_symmetric_copies_have_the_same_verdict():
    for seed in range(8):
        for widths in ((2, 3, 1), (2, 3, 3, 1), (2, 2, 2, 2, 1)):
            net = drawn(seed, widths)
            copy = mo.symmetries(net).random(seed)(net)
            verdicts = [generic_identifiability(mo.pieces(n, on=BOX)).value for n in (net, copy)]
            assert verdicts[0] == verdicts[1]


def test_a_turn_is_a_witness():
    rng = np.random.default_rng(13)
    seen = 0
    for _ in range(20):
        second = plants.dyadic(rng, 2, 2)
        second[1] = second[0] / 2
        biases = plants.dyadic(rng, 2), plants.dyadic(rng, 2)
        net = mo.Network.mlp(
            plants.dyadic(rng, 2, 2),
            biases[0],
            second,
            biases[1],
            [[1.0, -2.0]],
            [0.0],
            activation="relu",
        )
        pieces = mo.pieces(net, on=BOX)
        verdict = generic_identifiability(pieces)
        assert verdict.value is not True
        if verdict.other is not None:
            assert verdict.value is False
            assert same_function(pieces, verdict.other)
            assert verdict.other != standard(rational(net))
            seen += 1
    assert seen > 1


def test_one_hidden_layer_is_decided():
    def asked(*parameters, box=4.0):
        return shallow_identifiability(
            mo.Network.mlp(*parameters, activation="relu"), mo.Box(-box, box)
        )

    plain = [[1.0, 0.0], [0.0, 1.0]], [0.5, 0.25], [[1.0, 2.0]], [0.0]
    assert asked(*plain).value is True
    assert asked(*plain, box=0.125) == (False, "unit 0 has no crease in the box", None)
    assert (
        asked(plain[0], plain[1], [[1.0, 0.0]], [0.0]).reason == "unit 1 has no crease in the box"
    )
    assert (
        "share a hyperplane"
        in asked([[1.0, 1.0], [-2.0, -2.0]], [0.5, -1.0], [[1.0, 2.0]], [0.0]).reason
    )
    turned = asked(
        [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [0.5, -0.5, 0.0], [[2.0, -2.0, 1.0]], [0.0]
    )
    assert turned == (False, "units [0, 1] of the last hidden layer can be turned together", None)


def test_chains_of_three_traces_identify_three_layers():
    net = drawn(44, (2, 3, 3, 3, 1))
    pieces = mo.pieces(net, on=BOX)
    assert generic_identifiability(pieces).value is True
    assert int(mo.dimension(net, on=BOX)) == net.parameters - net.units
    assert standard(recover(pieces, net.widths).layers) == standard(rational(net))
    small = generic_identifiability(mo.pieces(net, on=mo.Box(-1, 1)))
    assert small.value is None
    assert "has no trace" in small.reason


def test_degenerate_parameters_are_left_alone():
    net = mo.Network.mlp(
        [[1.0, 0.0], [0.0, 1.0]],
        [0.0, 0.0],
        [[1.0, 1.0], [2.0, 2.0]],
        [-1.0, -2.0],
        [[1.0, 1.0]],
        [0.0],
        activation="relu",
    )
    assert chained(mo.pieces(net, on=mo.Box(-4, 4))) == (
        None,
        "the parameters are not in general position",
        None,
    )
    assert generic_identifiability(mo.pieces(net, on=mo.Box(-4, 4))).value is None


def test_refusals():
    tall = drawn(0, (2, 3, 3, 1))
    with pytest.raises(ValueError, match="decided for one hidden layer only"):
        shallow_identifiability(tall, BOX)
    with pytest.raises(ValueError, match="a slice"):
        generic_identifiability(
            mo.pieces(tall, on=BOX, slice=(np.zeros(2), np.eye(2)[0], np.eye(2)[1]))
        )
    leaky = plants.minimal(np.random.default_rng(0), (2, 3, 1), ["leaky_relu(0.25)"]).network()
    with pytest.raises(ValueError, match="for relu"):
        generic_identifiability(mo.pieces(leaky, on=BOX))
