"""One hidden layer of tanh, sigmoid or erf: verdicts against planted redundancy; witnesses compared
exactly and at points.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import moduli as mo
from moduli.piecewise.equivalent_parameters import exact_layers

KINDS = "tanh", "sigmoid", "erf"


def network(rng, kind, inputs=2, units=4, outputs=2):
    w, b = (
        rng.integers(-3, 4, (units, inputs)) + 0.25,
        rng.integers(-4, 5, units) / 4 + np.arange(units),
    )
    v, d = rng.integers(1, 5, (outputs, units)), rng.integers(-8, 9, outputs) / 8
    return mo.Network.mlp(w, b, v, d, activation=kind)


def planted(net, how, rng):
    (w, b), (v, d) = ((x.weight.copy(), x.bias.copy()) for x in net.layers)
    if how == "twin":
        w[1], b[1] = -w[0], -b[0]
    elif how == "dead":
        v[:, 2] = 0
    else:
        w[3] = 0
        b[3] = 0 if how == "constant at zero" else 0.5
    return mo.Network.mlp(w, b, v, d, activation=str(net.activations[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_irreducible_networks_are_identifiable(kind):
    rng = np.random.default_rng(0)
    for on in (None, mo.Box(-1, 1)):
        found = mo.identifiable(network(rng, kind), on=on)
        assert (found.status, found.scope, found.check()) == ("proved", "global", True)
    flat = mo.identifiable(network(rng, kind), on=mo.Box([-1, 0], [1, 0]))
    assert flat.status == "undecided"
    with pytest.raises(ValueError, match="in a box"):
        mo.identifiable(network(rng, kind), on=mo.Gaussian())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["twin", "dead", "constant at zero", "constant"])
def test_redundant_ones_are_not(kind, how):
    rng = np.random.default_rng(1)
    for _ in range(5):
        net = planted(network(rng, kind), how, rng)
        found = mo.identifiable(net, on=None)
        assert (found.status, found.check()) == ("refuted", True)
        if how == "constant":
            assert found.other is None
            continue
        x = rng.normal(size=(50, 2))
        assert np.allclose(found.witness(x), net(x), atol=1e-12)
        assert found.witness != net
        (w, b), (v, d) = found.other
        with pytest.raises(mo.CertificateRejected, match="another function"):
            replace(found, other=((w, b), (v, [d[0] + 1, *d[1:]]))).check()
        flipped = mo.symmetries(net).random(seed=3)(net)
        copy = tuple(exact_layers(flipped))
        with pytest.raises(mo.CertificateRejected, match="symmetric copy"):
            replace(found, other=copy).check()


def test_deep_networks_of_these_are_decided_close_by_or_refused():
    deep = [[1.0]], [0.0], [[1.0]], [0.5], [[1.0]], [0.0]
    found = mo.identifiable(mo.Network.mlp(*deep, activation="tanh"), on=mo.Box(-1, 1))
    assert (found.status, found.scope) == ("proved", "local")
    with pytest.raises(
        mo.UnsupportedModel, match="identifiability is decided for piecewise linear activations"
    ):
        mo.identifiable(mo.Network.mlp(*deep, activation="erf"), on=mo.Box(-1, 1))


def test_what_no_rule_decides_is_undecided(monkeypatch):
    net = network(np.random.default_rng(0), "tanh")
    monkeypatch.setattr(
        "moduli.kernel.minimality.distinct", lambda state: False
    )  # as where two rows share a key
    found = mo.identifiable(net, on=None)
    assert (found.status, found.scope) == ("undecided", "")
    assert "two units may be equal" in found.reason
