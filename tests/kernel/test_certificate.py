"""Attacks on the kernel: whatever is changed in a certificate or a network, `check` must notice; slack is a true bound."""

from __future__ import annotations

import copy
import json
import pickle
from fractions import Fraction

import numpy as np
import pytest
import strategies as plants

import moduli as mo
from moduli.common.exact_values import evaluate
from moduli.compression.certify import certify
from moduli.compression.results import Compression
from moduli.kernel import slack
from moduli.kernel.certificate import Certificate
from moduli.kernel.exact_numbers import ExactArray
from moduli.kernel.slack import difference, exact_arrays


def example(activation: str) -> Compression:
    rng = np.random.default_rng(3)
    parts = plants.minimal(rng, (2, 3, 3, 1), [activation] * 2)
    for l in (1, 2):
        for kind in plants.kinds(activation):
            plants.plant(rng, parts, l, kind)
    return mo.compress(parts.network())


SMALL = {name: example(name) for name in ("tanh", "relu", "sigmoid")}


def nudge(net: mo.Network, k: int) -> mo.Network:
    theta = net.flat().copy()
    theta[k] = np.nextafter(theta[k], np.inf)
    return net.with_flat(theta)


@pytest.mark.parametrize("name", SMALL)
def test_the_certificate_is_accepted_and_round_trips(name):
    small = SMALL[name]
    text = json.dumps(small.certificate.to_json())
    again = Certificate.from_json(text)
    again.verify(small.network, small.original)
    assert json.dumps(again.to_json()) == text


@pytest.mark.parametrize("name", SMALL)
def test_one_ulp_in_any_weight_is_noticed(name):
    small = SMALL[name]
    for k in range(small.network.parameters):
        with pytest.raises(mo.CertificateRejected, match="digest"):
            small.certificate.verify(nudge(small.network, k), small.original)


@pytest.mark.parametrize("name", SMALL)
def test_one_ulp_under_a_forged_digest_is_noticed(name):
    small = SMALL[name]
    data = small.certificate.to_json()
    for k in range(small.network.parameters):
        forged = nudge(small.network, k)
        cert = Certificate.from_json(json.dumps({**data, "small": forged.digest}))
        with pytest.raises(mo.CertificateRejected, match="slack"):
            cert.verify(forged, small.original)


def test_swapped_networks_are_noticed():
    small = SMALL["tanh"]
    with pytest.raises(mo.CertificateRejected, match="swapped"):
        small.certificate.verify(small.original, small.network)


@pytest.mark.parametrize("name", SMALL)
def test_every_changed_move_is_noticed(name):
    small = SMALL[name]
    data = small.certificate.to_json()
    changes = 0
    for i, move in enumerate(data["large_moves"]):
        for field, value in (
            ("layer", move["layer"] + 1), ("layer", 3 - move["layer"]), ("layer", 0), ("units", move["units"][:-1]),
            ("units", [*move["units"], move["units"][0]]), ("units", [u + 1 for u in move["units"]]),
            ("into", [u + 1 for u in move.get("into", [])]), ("ratio", "2"), ("ratio", "-1"), ("ratio", "1/3"),
            ("move", "drop"),
        ):  # fmt: skip
            if field not in move or move[field] == value:
                continue
            forged = copy.deepcopy(data)
            forged["large_moves"][i][field] = value
            changes += 1
            with pytest.raises(mo.CertificateRejected):
                Certificate.from_json(json.dumps(forged)).verify(small.network, small.original)
        for moves in ([m for m in data["large_moves"] if m is not move], [*data["large_moves"], move]):
            with pytest.raises(mo.CertificateRejected):
                Certificate.from_json(json.dumps({**data, "large_moves": moves})).verify(small.network, small.original)
    assert changes > 20


def test_a_lowered_slack_is_noticed():
    net = mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[0.1, 0.2]], [0.0])
    small = mo.compress(net)
    assert small.slack > 0
    data = small.certificate.to_json()
    data["slack"]["constant"] = np.nextafter(small.slack, 0)
    with pytest.raises(mo.CertificateRejected, match="slack"):
        Certificate.from_json(json.dumps(data)).verify(small.network, net)


@pytest.mark.parametrize("name", SMALL)
def test_minimality_is_not_claimable_for_deep_networks(name):
    small = SMALL[name]
    data = {**small.certificate.to_json(), "minimal": True}
    with pytest.raises(mo.CertificateRejected, match="minimality"):
        Certificate.from_json(json.dumps(data)).verify(small.network, small.original)


@pytest.mark.parametrize("activation", ["gelu", "softplus", "sin"])
def test_minimality_is_not_claimable_where_it_is_no_theorem(activation):
    net = mo.Network.mlp([[1.0], [2.0]], [0.0, 1.0], [[1.0, 1.0]], [0.0], activation=activation)
    data = {**mo.compress(net).certificate.to_json(), "minimal": True}
    with pytest.raises(mo.CertificateRejected, match="not known"):
        Certificate.from_json(json.dumps(data)).verify(net, net)


GOOD = SMALL["tanh"].certificate.to_json()
JUNK = [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000,
    json.dumps({**GOOD, "extra": 1}).encode(),
    json.dumps({k: v for k, v in GOOD.items() if k != "slack"}).encode(),
    json.dumps({**GOOD, "schema": "moduli.certificate/2"}).encode(),
    json.dumps({**GOOD, "minimal": 1}).encode(),
    json.dumps({**GOOD, "slack": {"constant": float("nan"), "growth": 0.0}}).encode(),
    json.dumps({**GOOD, "slack": {"constant": -1.0, "growth": 0.0}}).encode(),
    json.dumps({**GOOD, "slack": {"constant": 0, "growth": True}}).encode(),
    json.dumps(GOOD).replace('"growth": 0.0', '"growth": 1e999').encode(),
    json.dumps(GOOD).replace('"minimal": false', '"minimal": false, "minimal": true').encode(),
    json.dumps({**GOOD, "large_moves": [{"move": "drop", "layer": 1, "units": [True]}]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": "drop", "layer": 1, "units": [1.0]}]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": "drop", "layer": 1, "units": [-1]}]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": "drop", "layer": True, "units": [1]}]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": "drop", "layer": 1, "units": [10**30]}]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": "__init__", "layer": 1, "units": [1]}]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": "scale", "layer": 1, "units": [1], "ratio": "0"}]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": "scale", "layer": 1, "units": [1], "ratio": "1/0"}]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": "scale", "layer": 1, "units": [1], "ratio": "٣"}]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": "scale", "layer": 1, "units": [1], "ratio": "1e5"}]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": [], "layer": 1, "units": [1]}]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": {}, "layer": 1, "units": [1]}]}).encode(),
    json.dumps({**GOOD, "large_moves": ["\0\x1b[31m\n"]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": "drop", "layer": 1, "units": "\0"}]}).encode(),
    json.dumps({**GOOD, "large": "\0\n" + "x" * 10**5}).encode(),
    json.dumps({**GOOD, "large": "\ud800"}).encode(),
    json.dumps(GOOD).replace('"minimal": false', '"minimal": ' + "9" * 5000).encode(),
    json.dumps({**GOOD, "near": {"radius": "\uff11", "changes": [], "bound": None}}).encode(),
    json.dumps({**GOOD, "near": {"radius": 1, "changes": [], "bound": {"lower": "\ud800", "parts": []}}}).encode(),
    *(json.dumps(GOOD).replace('"large_moves": [', '"large_moves": [' + "[" * k + "]" * k + ", ", 1).encode()
      for k in (300, 600, 800, 900, 950, 980, 990)),
    *(json.dumps({**GOOD, "near": {"radius": 0, "changes": [], "bound": 7}}).replace(": 7", ": " + "[" * k + "]" * k).encode()
      for k in (800, 950)),
]  # fmt: skip


@pytest.mark.parametrize("text", JUNK)
def test_malformed_certificates_are_rejected(text, tmp_path):
    small = SMALL["tanh"]
    (tmp_path / "c.json").write_bytes(text)
    with pytest.raises(mo.CertificateRejected) as caught:
        mo.check(tmp_path / "c.json", small.network, small.original)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 1000


def test_random_mutations_never_prove_a_falsehood():
    """What is accepted after a mutation must still be true at points, in rationals."""
    rng = np.random.default_rng(0)
    small = SMALL["relu"]
    text = json.dumps(small.certificate.to_json())
    accepted = 0
    for _ in range(400):
        at, other = rng.integers(len(text)), chr(rng.integers(32, 127))
        forged = text[:at] + other + text[at + 1 :]
        try:
            cert = Certificate.from_json(forged)
            cert.verify(small.network, small.original)
        except mo.CertificateRejected:
            continue
        accepted += 1
        for x in ([Fraction(1), Fraction(-2)], [Fraction(7, 3), Fraction(5)]):
            gap = abs(evaluate(small.network, x)[0][0] - evaluate(small.original, x)[0][0])
            assert gap <= Fraction(cert.slack.constant) + Fraction(cert.slack.growth) * max(map(abs, x))
    assert accepted < 40  # spaces, larger slacks


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "gelu"])
def test_slack_bounds_the_difference(activation):
    rng = np.random.default_rng(5)
    for _ in range(10):
        arrays = [rng.standard_normal(s) for s in ((4, 2), 4, (3, 4), 3, (2, 3), 2)]
        net = mo.Network.mlp(*arrays, activation=activation)
        rounded = net.rounded("float32")
        slack = certify(net, (), rounded).slack
        inside = difference(exact_arrays(net), exact_arrays(rounded), net.activations, radius=4.0)
        assert inside.growth == 0
        for scale in (0.1, 1.0, 4.0):
            x = [Fraction(float(v)) for v in rng.uniform(-scale, scale, 2)]
            pairs = zip(evaluate(net, x), evaluate(rounded, x), strict=True)
            gap = max(max(p[0] - q[1], q[0] - p[1]) for p, q in pairs)
            assert gap <= Fraction(slack.constant) + Fraction(slack.growth) * max(map(abs, x))
            assert gap <= Fraction(inside.constant)


def test_no_slack_where_nothing_is_rounded():
    net = mo.load("zoo:digits-relu")
    assert certify(net, (), net).slack == mo.Slack(0.0, 0.0)


def test_underflow_does_not_hide_a_difference():
    tiny = 5e-324
    a = mo.Network.mlp([[1.0]], [0.0], [[tiny]], [0.0], [[0.25]], [0.0], activation="sigmoid")
    b = mo.Network.mlp([[1.0]], [0.0], [[0.0]], [0.0], [[0.25]], [0.0], activation="sigmoid")
    assert difference(exact_arrays(a), exact_arrays(b), a.activations).constant > 0


def test_unpickled_networks_are_read_only_and_stay_as_they_are():
    net = pickle.loads(pickle.dumps(mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, 2.0]], [0.0])))
    before = net.flat().copy()
    assert not net.layers[0].weight.flags.writeable
    assert mo.compress(net).network.units == 1
    assert mo.compress(net, radius=0.1).network.units == 1
    assert (net.flat() == before).all()


def test_exact_arrays_never_change_what_they_were_made_of():
    given = np.array([1.0, 2.0])
    array = ExactArray(given)
    array.put((0,), Fraction(1, 3))
    array.put((1,), Fraction(7))
    assert given.tolist() == [1.0, 2.0]


def test_bounds_are_the_same_in_blocks_of_rows(monkeypatch):
    rng = np.random.default_rng(0)
    for activation in ("relu", "tanh"):
        parts = [rng.standard_normal(shape) for shape in ((9, 3), 9, (7, 9), 7, (2, 7), 2)]
        parts[0][5:7] = 0
        net = mo.Network.mlp(*parts, activation=activation)
        whole = mo.compress(net).rounded("float32").certificate.slack
        with monkeypatch.context() as patch:
            patch.setattr(slack, "ENTRIES", 1)
            small = mo.compress(net).rounded("float32")
            assert small.check()
        found = small.certificate.slack
        assert (found.constant, found.growth) == pytest.approx((whole.constant, whole.growth), rel=1e-12)
