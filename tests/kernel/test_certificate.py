"""Attacks on the kernel: whatever is changed in a certificate or a network, `check` must notice;
slack is a true bound.
"""

from __future__ import annotations

import copy
import json
from fractions import Fraction

import numpy as np
import pytest
import strategies as plants

import moduli as mo
from moduli.common.exact_values import evaluate
from moduli.compression.results import Compression
from moduli.kernel.certificate import Certificate


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
        for moves in (
            [m for m in data["large_moves"] if m is not move],
            [*data["large_moves"], move],
        ):
            with pytest.raises(mo.CertificateRejected):
                Certificate.from_json(json.dumps({**data, "large_moves": moves})).verify(
                    small.network, small.original
                )
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


GOOD = SMALL["tanh"].certificate.to_json()
JUNK = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
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
    json.dumps(
        {**GOOD, "large_moves": [{"move": "scale", "layer": 1, "units": [1], "ratio": "0"}]}
    ).encode(),
    json.dumps(
        {**GOOD, "large_moves": [{"move": "scale", "layer": 1, "units": [1], "ratio": "1/0"}]}
    ).encode(),
    json.dumps(
        {**GOOD, "large_moves": [{"move": "scale", "layer": 1, "units": [1], "ratio": "٣"}]}
    ).encode(),
    json.dumps(
        {**GOOD, "large_moves": [{"move": "scale", "layer": 1, "units": [1], "ratio": "1e5"}]}
    ).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": [], "layer": 1, "units": [1]}]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": {}, "layer": 1, "units": [1]}]}).encode(),
    json.dumps({**GOOD, "large_moves": ["\0\x1b[31m\n"]}).encode(),
    json.dumps({**GOOD, "large_moves": [{"move": "drop", "layer": 1, "units": "\0"}]}).encode(),
    json.dumps({**GOOD, "large": "\0\n" + "x" * 10**5}).encode(),
    json.dumps({**GOOD, "large": "\ud800"}).encode(),
    json.dumps(GOOD).replace('"minimal": false', '"minimal": ' + "9" * 5000).encode(),
    json.dumps({**GOOD, "near": {"radius": "\uff11", "changes": [], "bound": None}}).encode(),
    json.dumps(
        {**GOOD, "near": {"radius": 1, "changes": [], "bound": {"lower": "\ud800", "parts": []}}}
    ).encode(),
    *(
        json.dumps(GOOD)
        .replace('"large_moves": [', '"large_moves": [' + "[" * k + "]" * k + ", ", 1)
        .encode()
        for k in (300, 600, 800, 900, 950, 980, 990)
    ),
    *(
        json.dumps({**GOOD, "near": {"radius": 0, "changes": [], "bound": 7}})
        .replace(": 7", ": " + "[" * k + "]" * k)
        .encode()
        for k in (800, 950)
    ),
]


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
            assert gap <= Fraction(cert.slack.constant) + Fraction(cert.slack.growth) * max(
                map(abs, x)
            )
    assert accepted < 40  # spaces, larger slacks
