"""Bounds of the difference of two networks on a box: every kind holds, claims are computed anew."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from on_boxes import exact_layers, random_network

import moduli as mo
from moduli.compression.box.tolerance import changed_between
from moduli.kernel.bounds.output_gap import Changed, GapBound, joint, measures, worst
from moduli.kernel.exact_numbers import ExactArray
from moduli.kernel.network import Network
from moduli.kernel.radius.cover_bound import Change

BOX = mo.Box([-1.0, -0.5], [1.0, 2.0])
ONE_LEAF = (-1,)
HALVED = (0, -1, 1, -1, -1)  # input 0 is halved, then input 1 of the right half


def network(*widths: int, activation: str = "relu", seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=s) for n, m in pairwise(widths) for s in ((m, n), m)]
    return Network.mlp(*arrays, activation=activation)


def near(net: Network, by: float, seed: int = 1) -> Network:
    move = np.random.default_rng(seed).uniform(-by, by, net.parameters)
    return net.with_flat(net.flat() + move)


PAIRS = {
    "near": (network(2, 4, 3), near(network(2, 4, 3), 1e-3)),
    "near, tanh": (
        network(2, 4, 3, activation="tanh"),
        near(network(2, 4, 3, activation="tanh"), 1e-3),
    ),
    "other widths": (network(2, 4, 3), network(2, 6, 3, seed=2)),
    "deeper": (network(2, 4, 3), network(2, 3, 4, 3, seed=2)),
    "deeper gelu": (
        network(2, 3, 4, 3, activation="gelu"),
        network(2, 4, 3, activation="gelu", seed=2),
    ),
    "affine": (network(2, 3), network(2, 4, 3, activation="softplus")),
    "other activations": (network(2, 4, 3, activation="tanh"), network(2, 4, 3)),
    "deeper tanh": (network(2, 4, 3, activation="tanh"), network(2, 3, 4, 3, activation="tanh")),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("tree", [ONE_LEAF, HALVED], ids=["whole", "halved"])
def test_every_kind_of_bound_holds_at_points(name, tree):
    a, b = PAIRS[name]
    x = BOX.sample(4000, 2, seed=3)
    x = np.concatenate([x, [[p, q] for p in (-1.0, 1.0) for q in (-0.5, 2.0)]])
    seen = float(np.abs(a.logits(x) - b.logits(x)).max())
    for how, measure in measures(a, b).items():
        assert seen <= worst(measure, BOX, tree) * (1 + 1e-12), how


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("near", {"separate", "difference", "zonotopes", "joint"}),
        ("other widths", {"separate", "joint"}),
        ("deeper", {"separate", "joint"}),
        ("deeper gelu", {"separate", "joint"}),
        ("affine", {"separate", "joint"}),
        ("other activations", {"separate"}),
        ("deeper tanh", {"separate"}),
    ],
)
def test_which_kinds_apply(name, kinds):
    assert set(measures(*PAIRS[name])) == kinds


@pytest.mark.parametrize("name", ["near", "other widths", "deeper", "deeper gelu", "affine"])
def test_side_by_side_both_outputs_are_computed(name):
    a, b = PAIRS[name]
    both, x = joint(a, b), BOX.sample(50, 2)
    assert np.allclose(
        both.logits(x), np.concatenate([a.logits(x), b.logits(x)], axis=1), atol=1e-12
    )


def test_differences_of_near_networks_are_small():
    a, b = PAIRS["near"]
    kinds = {how: worst(measure, BOX, ONE_LEAF) for how, measure in measures(a, b).items()}
    assert kinds["difference"] < 0.05 < kinds["separate"]
    assert worst(measures(a, a)["difference"], BOX, ONE_LEAF) == 0.0


def test_bounds_that_overflow_are_infinite():
    huge = Network.mlp([[1e308, 1e308]], [0.0], [[1e308]], [0.0], activation="relu")
    for measure in measures(huge, huge).values():
        found = worst(measure, BOX, ONE_LEAF)
        assert found == np.inf or found == 0.0


def test_a_claim_is_computed_anew():
    a, b = PAIRS["near"]
    found = worst(measures(a, b)["difference"], BOX, HALVED)
    GapBound(found, "difference", HALVED, (), 3).verify(a, b, BOX)
    less = float(np.nextafter(found, 0.0))
    for claim, why in (
        (GapBound(less, "difference", HALVED, (), 3), "is claimed, but only"),
        (GapBound(9.0, "nothing", HALVED, (), 3), "bounds by 'nothing' do not apply"),
        (GapBound(9.0, "difference", (0, -1), (), 3), "lacks 1 subtrees"),
        (GapBound(9.0, "difference", (2, -1, -1), (), 3), "node 0 of the tree splits 2, none of 2"),
        (GapBound(9.0, "difference", (-1, -1), (), 3), "the tree ends at node 1 of 2"),
        (GapBound(9.0, "difference", (), (), 3), "lacks 1 subtrees"),
    ):
        with pytest.raises(mo.CertificateRejected, match=why):
            claim.verify(a, b, BOX)
    with pytest.raises(mo.CertificateRejected, match="do not apply"):
        GapBound(9.0, "joint", ONE_LEAF, (), 1).verify(*PAIRS["other activations"], BOX)


def test_changed_parameters_are_those_of_the_other_network():
    a, b = PAIRS["near"]
    proof = GapBound(1.0, "difference", ONE_LEAF, (), 1)
    changed = changed_between(a, b, proof)
    assert changed.network(a) == b
    assert changed_between(a, a, proof).changes == ()
    again = Changed.from_json(json.loads(json.dumps(changed.to_json())))
    assert again.network(a) == b
    assert again.plain().keys() == changed.plain().keys()


def test_changes_that_cannot_be_made_are_refused():
    net, proof = network(2, 4, 3), GapBound(1.0, "difference", ONE_LEAF, (), 1)
    one = Change(1, "weight", np.array([0]), ExactArray(np.array([0.5])))
    third = ExactArray(np.array([0.0]))
    third.put((0,), Fraction(1, 3))
    for changes, why in (
        ((one, one), "changed in two places"),
        ((replace(one, layer=3),), "changes in layer 3 of a network with 2"),
        ((replace(one, layer=0),), "changes in layer 0"),
        ((replace(one, to=third),), "a changed weight of layer 1 is no float"),
    ):
        with pytest.raises(mo.CertificateRejected, match=why):
            Changed(changes, proof).network(net)


def value(net, x):
    return exact_layers(net.layers, x)[-1]


def test_networks_side_by_side_are_both():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = random_network(rng, inputs=2), random_network(rng, inputs=2)
        both = joint(a, b)
        for x in rng.integers(-8, 9, (4, 2)) / 4:
            assert value(both, x) == value(a, x) + value(b, x), (
                "further layers of relu(z) - relu(-z) are exact"
            )
    assert (
        joint(random_network(rng, inputs=1), random_network(rng, activation="abs", inputs=1))
        is None
    )
    deep = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], [[1.0]], [0.0], activation="tanh")
    flat = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="tanh")
    assert joint(deep, flat) is None, "tanh has no such law"


@pytest.mark.parametrize("seed", range(12))
def test_every_measure_bounds_the_difference_at_points(seed):
    rng = np.random.default_rng(seed)
    a = random_network(rng, inputs=2)
    b = (
        a.with_flat(a.flat() * (1 + 0.1 * rng.normal(size=a.parameters)))
        if seed % 2
        else random_network(rng, inputs=2)
    )
    if a.widths[-1] != b.widths[-1]:
        b = a
    found = {
        how: worst(measure, mo.Box(-1, 1).of_dimension(2), (0, 1, -1, -1, -1))
        for how, measure in measures(a, b).items()
    }
    assert set(found) == (
        {"separate", "joint"} | ({"difference", "zonotopes"} if a.widths == b.widths else set())
    )
    for x in rng.uniform(-1, 1, (6, 2)):
        gap = max(abs(p - q) for p, q in zip(value(a, x), value(b, x), strict=True))
        assert all(gap <= Fraction(bound) for bound in found.values())
