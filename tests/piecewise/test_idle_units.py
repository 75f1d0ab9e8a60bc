"""Layers without units, constant and unread units, affine maps: right answers from every question,
whatever the activation.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import strategies as plants

import moduli as mo
from moduli.compression.average.mean_field_limit import mean_field
from moduli.piecewise.idle_units import idle

BOX = mo.Box(-1, 1)
X = np.random.default_rng(0).standard_normal((40, 2))
ACTIVATIONS = ("relu", "abs", "tanh", "sigmoid", "gelu", "leaky_relu(0.25)", "sin")


def empty(act):
    """Constant functions with a layer of no units: alone, behind units, and in front of them."""
    return (
        mo.Network.mlp(np.zeros((0, 2)), [], np.zeros((1, 0)), [0.5], activation=act),
        mo.Network.mlp(
            np.ones((3, 2)),
            [0, 1, 0.5],
            np.zeros((0, 3)),
            [],
            np.zeros((1, 0)),
            [0.5],
            activation=act,
        ),
        mo.Network.mlp(
            np.zeros((0, 2)),
            [],
            np.zeros((3, 0)),
            [1, -1, 2.0],
            np.ones((2, 3)),
            [0.5, 1],
            activation=act,
        ),
    )


def constant(net):
    return mo.Network.mlp(np.zeros((net.widths[-1], 2)), net(np.zeros((1, 2)))[0])


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_layers_without_units_have_right_answers(act):
    for net in empty(act):
        small = mo.compress(net)
        assert small.network.units == 0
        assert small.check()
        assert mo.rank(net).upper == 0
        assert np.allclose(small.network(X), net(X), rtol=1e-12)
        assert mo.compress(net, on=BOX).network.units == 0
        assert mo.compress(net, on=BOX, eps=0.1).network.units == 0
        assert mo.equivalent(net, net).status == "proved"
        tilted = mo.Network.mlp(np.ones((net.widths[-1], 2)), net(np.zeros((1, 2)))[0])
        assert mo.equivalent(net, tilted, on=BOX).status == "refuted"
        apart = mo.distance(net, tilted, on=BOX)
        assert apart.lower <= 2 + 1e-12
        assert apart.upper >= 2 - 1e-12
        assert mo.distance(net, tilted, on=mo.Samples(X)).extra["value"] > 0.5
        group = mo.symmetries(net)
        assert np.allclose(group.random(0)(net)(X), net(X), rtol=1e-12)
        low, high = group.log_stabiliser
        assert low <= high
        assert (
            mo.signature(net) == mo.signature(group.random(1)(net)) or act == "sigmoid"
        )  # whose biases are rounded
        for options in ({"by": "weights"}, {"by": "activations", "on": mo.Samples(X)}):
            assert mo.align(net, net, **options).after == pytest.approx(0)
        json.dumps(mo.complexity(net, samples=100).to_json())
        for by in ("magnitude", "units", "singular"):
            for on in (None, mo.Samples(X)):
                curve = mo.pruning_curve(net, by=by, on=on)
                assert np.isfinite(curve.error).all()
                assert curve.error[-1] == 0


@pytest.mark.parametrize("act", ["relu", "tanh", "abs"])
def test_students_and_curves_of_constants(act):
    one, before, after = empty(act)
    for net in (one, before, after):
        for on in (mo.Gaussian(), mo.Samples(X)):
            student = mo.compress(net, units=1, on=on)
            assert student.error.absolute < 1e-7
            assert student.network.units <= max(1, net.units)
        assert mo.distance(net, constant(net), on=mo.Gaussian()).upper < 1e-12
    with pytest.raises(mo.ShapeError, match="no hidden units to remove"):
        mo.error_curve(one, on=mo.Gaussian())
    assert mean_field(one, mo.Gaussian()).inputs == 2
    assert mo.dimension(empty("relu")[0], on=BOX).upper == 1


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_identifiable_where_units_are_idle(act):
    """Refuted with other parameters wherever they are rational; the witness has the function and is
    no symmetric copy.
    """
    zero = np.zeros((1, 2))
    alone, before, after = empty(act)
    assert (mo.identifiable(alone, on=BOX).status, mo.identifiable(alone, on=BOX).scope) == (
        "proved",
        "global",
    )
    nets = [
        before,
        after,
        mo.Network.mlp([[1, 2], [3, 4.0]], [0.5, 0.25], zero, [1.0], activation=act),
        mo.Network.mlp(np.zeros((2, 2)), [0.5, 0.0], [[1, 2.0]], [1.0], activation=act),
        mo.Network.mlp([[1, 2], [3, -4.0]], [0.5, 0.25], [[1.0, 0]], [1.0], activation=act),
        mo.Network.mlp(
            [[1, 2], [3, -4.0]],
            [0.5, 0.2],
            [[1, 2], [1, -1.0]],
            [0.25, 0.5],
            zero,
            [1.0],
            activation=act,
        ),
        mo.Network.mlp(np.zeros((2, 2)), [0.0, 0.0], zero, [1.0], activation=act),
    ]
    for net in nets:
        answer = mo.identifiable(net, on=BOX)
        assert answer.status == "refuted", (net, answer.reason)
        assert answer.check()
        json.dumps(answer.to_json())
        if answer.witness is not None:
            assert answer.witness.widths == net.widths
            assert np.allclose(answer.witness(X), net(X), rtol=1e-12, atol=1e-12)
            assert not np.array_equal(answer.witness.flat(), net.flat())
            if answer.mechanism.startswith(("nothing reads", "unit 0 of", "unit 1 of")):
                assert counts(answer.witness) != counts(net)


def counts(net):
    """Of each hidden layer: units that read nothing, and units that nothing reads. No symmetry
    changes them.
    """
    found = []
    for layer, above in zip(net.layers[:-1], net.layers[1:], strict=True):
        read = np.column_stack([layer.weight, layer.bias]).any(axis=1)
        found.append((int((~read).sum()), int((~above.weight.any(axis=0)).sum())))
    return found


def test_symmetries_keep_the_counts():
    """What the witnesses rest on."""
    for act in ACTIVATIONS:
        for seed in range(5):
            net = plants.minimal(np.random.default_rng(seed), (2, 3, 3, 1), [act] * 2).network()
            theta = net.flat() * (np.random.default_rng(seed).random(net.parameters) < 0.4)
            net = net.with_flat(theta)
            assert counts(mo.symmetries(net).random(seed)(net)) == counts(net)


def test_networks_without_idle_units_are_left_to_others():
    for act in ACTIVATIONS:
        assert (
            idle(plants.minimal(np.random.default_rng(0), (2, 3, 3, 1), [act] * 2).network())
            is None
        )
    with pytest.raises(
        mo.UnsupportedModel, match="piecewise linear activations, tanh, sigmoid and softplus"
    ):
        mo.identifiable(
            plants.minimal(np.random.default_rng(0), (2, 3, 3, 1), ["gelu"] * 2).network(), on=BOX
        )


def test_affine_maps_are_determined_unless_the_box_is_flat():
    net = mo.Network.mlp([[1.0, 2.0], [0.0, 0.0]], [1.0, 3.0])
    for on in (BOX, None):
        answer = mo.identifiable(net, on=on)
        assert (answer.status, answer.scope) == ("proved", "global")
        assert answer.check()
    flat = mo.identifiable(net, on=mo.Box([-1, 0.5], [1, 0.5]))
    assert flat.status == "refuted"
    assert flat.check()
    x = np.column_stack([X[:, 0], np.full(len(X), 0.5)])
    assert np.allclose(flat.witness(x), net(x), rtol=1e-15)
    assert not np.allclose(flat.witness(X), net(X))
    with pytest.raises(ValueError, match="in a box"):
        mo.identifiable(net, on=mo.Gaussian())


def test_a_claim_with_another_witness_is_rejected():
    from dataclasses import replace

    net = empty("relu")[1]
    answer = mo.identifiable(net, on=BOX)
    with pytest.raises(mo.CertificateRejected):
        replace(answer, status="proved", scope="global", other=None).check()
    moved = [list(map(list, pair)) for pair in answer.other]
    moved[-1][1][0] += 1
    with pytest.raises(mo.CertificateRejected):
        replace(answer, other=tuple((w, b) for w, b in moved)).check()
