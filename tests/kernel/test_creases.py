"""Functions of one piecewise linear hidden layer: equal numbers for equal functions, others for others."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

import moduli as mo
from moduli.common.exact_values import evaluate
from moduli.kernel.activations import Activation
from moduli.kernel.creases import creased, kinks, whole
from moduli.kernel.exact_numbers import ExactArray
from moduli.kernel.move import Move
from moduli.kernel.state import State

KINDS = ["relu", "abs", "leaky_relu(0.25)", "leaky_relu(-0.5)", "leaky_relu(1)", "clip(-0.5, 2)"]
N = mo.Network.mlp


def small(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-3, 4, shape) / 2


def network(rng: np.random.Generator, kind: str, n: int = 2, h: int = 4, m: int = 2) -> mo.Network:
    return N(small(rng, h, n), small(rng, h), small(rng, m, h), small(rng, m), activation=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_kinks_are_the_activation(kind):
    act = Activation.of(kind)
    law = kinks(act)
    for z in (Fraction(k, 4) for k in range(-20, 21)):
        bent = sum((h * abs(z - place) for place, h in law.bends), Fraction(0))
        assert act.exact(z) == law.slope * z + law.constant + bent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(10))
def test_the_numbers_are_the_function(kind, seed):
    rng = np.random.default_rng(seed)
    net = network(rng, kind)
    found = creased(State(net))
    for _ in range(10):
        x = [Fraction(int(q), 3) for q in rng.integers(-9, 10, 2)]
        values = list(found.bias)
        for k, row in enumerate(found.weight):
            values[k] += sum((p * q for p, q in zip(row, x, strict=True)), Fraction(0))
        for (*w, b), sums in found.creases.items():
            z = abs(sum((p * q for p, q in zip(w, x, strict=True)), Fraction(b)))
            values = [p + z * q for p, q in zip(values, sums, strict=True)]
        assert [(q, q) for q in values] == [tuple(ends) for ends in evaluate(net, x)]


def rewritten(net: mo.Network, rng: np.random.Generator) -> mo.Network:
    """The same function by other units: relu(z) = z + relu(-z), the lines by two more units each, units split,
    scaled and shuffled.
    """
    first, last = net.layers
    rows = np.concatenate([first.weight, first.bias[:, None]], axis=1)
    new = [(row, column) for row, column in zip(rows, last.weight.T, strict=True)]
    out = []
    for row, column in new:
        if rng.random() < 0.5:
            out += [
                (-row, column),
                (row, column / 2),
                (-row, -column / 2),
                (row, column / 2),
                (-row, -column / 2),
            ]
        else:
            out += [(row, column / 4), (row * 2, column * 3 / 8)]
    order = rng.permutation(len(out))
    rows, columns = (np.array([out[k][part] for k in order]) for part in (0, 1))
    return N(rows[:, :-1], rows[:, -1], columns.T, last.bias, activation="relu")


@pytest.mark.parametrize("seed", range(25))
def test_equal_functions_are_proved_and_others_refuted(seed):
    rng = np.random.default_rng(seed)
    a = network(
        rng, "relu", int(rng.integers(1, 4)), int(rng.integers(1, 6)), int(rng.integers(1, 3))
    )
    b = rewritten(a, rng)
    answer = mo.equivalent(a, b)
    assert answer.status == "proved"
    assert answer.check()
    answer.certificate.verify(b, a)
    assert mo.signature(a) == mo.signature(b)
    assert mo.signature(a).complete
    other = b.with_flat(b.flat() + np.eye(b.parameters)[rng.integers(b.parameters)] * 2.0**-40)
    apart = mo.equivalent(a, other)
    assert apart.status == ("proved" if creased(State(a)) == creased(State(other)) else "refuted")
    assert apart.check()
    assert (mo.signature(a) == mo.signature(other)) == (apart.status == "proved")


PAIRS = {
    "identity": (N([[1.0], [-1.0]], [0, 0], [[1.0, -1.0]], [0], activation="relu"), N([[1.0]], [0.0])),
    "abs": (
        N([[1.0], [-1.0]], [0, 0], [[1.0, 1.0]], [0], activation="relu"),
        N([[1.0]], [0], [[1.0]], [0], activation="abs"),
    ),
    "leaky": (
        N([[1.0], [-1.0]], [0, 0], [[1.0, -0.25]], [0], activation="relu"),
        N([[1.0]], [0], [[1.0]], [0], activation="leaky_relu(0.25)"),
    ),
    "leaky of slope 1": (
        N([[1.0, 2.0], [3, 4]], [0, 1], [[1.0, -0.25]], [0], activation="leaky_relu(1)"),
        N([[0.25, 1.0]], [-0.25]),
    ),
    "clip": (
        N([[1.0], [1.0]], [1.0, -1.0], [[1.0, -1.0]], [-1.0], activation="relu"),
        N([[1.0]], [0], [[1.0]], [0], activation="clip(-1, 1)"),
    ),
    "turned around together": (
        N([[1.0, 0], [0, 1], [1, 1]], [0, 0, 0], [[1.0, 1, -1]], [0], activation="relu"),
        N([[-1.0, 0], [0, -1], [-1, -1]], [0, 0, 0], [[1.0, 1, -1]], [0], activation="relu"),
    ),
    "a constant": (N([[0.0]], [2.0], [[3.0]], [1.0], activation="relu"), N([[0.0]], [7.0])),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_functions_written_in_other_ways(name):
    a, b = PAIRS[name]
    answer = mo.equivalent(a, b)
    assert answer.status == "proved"
    assert answer.check()
    assert mo.signature(a) == mo.signature(b)
    assert mo.equivalent(a, b, on=mo.Box(-1, 1)).status == "proved"
    assert mo.equivalent(a, b, eps=0.5).status == "proved"


@pytest.mark.parametrize("name", PAIRS)
def test_files_of_creases_are_checked(name, tmp_path):
    a, b = PAIRS[name]
    path = mo.equivalent(a, b).save(tmp_path / "same.cert.json")
    verdict = mo.check(path, b, a, max_slack=0.0, on="all")
    assert verdict.bound == 0
    assert "exactly" in verdict.statement
    assert verdict.to_json()["moves"] >= 0
    with pytest.raises(mo.CertificateRejected):
        mo.check(path, b, a, minimal=True) if b.units else mo.check(path, a, a)


def test_of_many_units_too():
    rng = np.random.default_rng(0)
    a = N(
        rng.normal(size=(200, 50)),
        rng.normal(size=200),
        rng.normal(size=(20, 200)),
        rng.normal(size=20),
        activation="relu",
    )
    w, b, v, c = a.layers[0].weight, a.layers[0].bias, a.layers[1].weight, a.layers[1].bias
    pair = np.ones((1, 50))
    left = N(
        np.concatenate([w, pair, -pair]),
        np.append(b, [1, -1]),
        np.concatenate([v, v[:, :1], -v[:, :1]], 1),
        c,
        activation="relu",
    )
    right = N(
        np.concatenate([w, 2 * pair, -2 * pair]),
        np.append(b, [2, -2]),
        np.concatenate([v, v[:, :1] / 2, -v[:, :1] / 2], 1),
        c,
        activation="relu",
    )
    assert creased(State(left)) == creased(State(right)) != creased(State(a))


def test_creases_that_differ_by_nearly_nothing_are_told_apart():
    """2^-60 of an outgoing weight, behind a row that no sampled input comes near."""
    a = N([[1.0], [1.0]], [0.0, -1e9], [[1.0, 1.0]], [0.0], activation="relu")
    b = N([[1.0], [1.0]], [0.0, -1e9], [[1.0, 1.0 + 2.0**-52]], [0.0], activation="relu")
    answer = mo.equivalent(a, b)
    assert answer.status == "refuted"
    assert answer.check()


def test_behind_a_softmax_a_shift_is_left_open():
    a, b = (
        N([[1.0], [2.0]], [0, 1], [[1.0, 1], [2, 0]], shift, activation="relu")
        for shift in ([0, 0], [1, 1])
    )
    a, b = (replace(net, output_map="softmax") for net in (a, b))
    assert mo.equivalent(a, b).status != "refuted"


def test_other_functions_have_no_creases():
    rng = np.random.default_rng(0)
    deep = N(
        small(rng, 2, 2),
        small(rng, 2),
        small(rng, 2, 2),
        small(rng, 2),
        small(rng, 1, 2),
        small(rng, 1),
        activation="relu",
    )
    assert creased(State(deep)) is None
    assert creased(State(network(rng, "tanh"))) is None


@pytest.mark.parametrize("net", [
    N(np.ones((1, 1)), [0.0], np.ones((1, 1)), [0.0], activation="tanh"),
    N(np.ones((6000, 60)), np.zeros(6000), np.ones((60, 6000)), np.zeros(60), activation="relu"),
], ids=["tanh", "large"])  # fmt: skip
def test_no_number_is_looked_at_in_vain(net, monkeypatch):
    monkeypatch.setattr("moduli.kernel.creases.whole", lambda _: 1 / 0)
    assert creased(State(net)) is None


def test_whole_numbers():
    x = ExactArray(np.array([[0.5, -3.0], [0.0, 2.0**-60]]))
    numbers, below = whole(x)
    assert [[Fraction(q, below) for q in row] for row in numbers.tolist()] == [
        [Fraction(1, 2), -3],
        [0, Fraction(1, 2**60)],
    ]
    x.put((0, 0), Fraction(1, 3))
    numbers, below = whole(x)
    assert Fraction(numbers[0, 0], below) == Fraction(1, 3)
    huge = ExactArray(np.array([1e308, -5e-324]))
    numbers, below = whole(huge)
    assert [Fraction(q, below) for q in numbers.tolist()] == [Fraction(1e308), Fraction(-5e-324)]


def test_forged_creases_are_rejected():
    a, b = PAIRS["abs"]
    honest = mo.equivalent(a, b).certificate
    wrong = N([[1.0]], [0], [[1.5]], [0], activation="abs")
    with pytest.raises(mo.CertificateRejected, match="not equal"):
        replace(honest, small=wrong.digest).verify(wrong, a)
    tanh = N([[1.0]], [0], [[1.5]], [0], activation="tanh")
    with pytest.raises(mo.CertificateRejected, match="not equal"):
        mo.Certificate(tanh.digest, tanh.digest, (), (), creases=True).verify(tanh, tanh)
    with pytest.raises(mo.CertificateRejected, match="true or false"):
        mo.Certificate.from_json(json.dumps({**honest.to_json(), "creases": 1}))
    with pytest.raises(mo.CertificateRejected, match="minimality is claimed"):
        replace(honest, minimal=True).verify(b, a)
    region = mo.compress(a, on=mo.Box(-1, 1)).certificate.region
    with pytest.raises(mo.CertificateRejected):
        replace(honest, region=region).verify(b, a)


@pytest.mark.parametrize("kind", ["relu", "tanh"])
def test_an_empty_layer_before_others_is_no_constant(kind):
    """What stands behind it still adds to the outputs."""
    a = N(np.zeros((0, 1)), [], np.zeros((1, 0)), [1.0], [[1.0]], [0.0], activation=kind)
    b = N([[0.0]], [0.0])
    assert float(a(np.zeros((1, 1)))[0, 0]) > 0.5
    with pytest.raises(mo.CertificateRejected, match="not equal"):
        mo.Certificate(a.digest, b.digest, (), (), creases=True).verify(b, a)
    assert mo.equivalent(a, b).status == "refuted"
    assert mo.signature(a) != mo.signature(b)
    empty = N([[1.0]], [1.0], np.zeros((0, 1)), [], np.zeros((1, 0)), [2.0], activation=kind)
    assert mo.signature(empty) == mo.signature(N([[0.0]], [2.0]))
    assert mo.equivalent(empty, N([[0.0]], [2.0])).check()


def test_creases_stand_alone():
    """Beside a bound on parts of a box they prove nothing of what that compares."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=shape) for shape in ((3, 4), (3,), (1, 3), (1,))]
    a = N(*parts, activation="tanh")
    b = a.with_flat(a.flat() + 1e-3)
    far = mo.distance(a, b, on=mo.Box(-1, 1), budget=50)
    forged = replace(far.certificate, creases=True)
    with pytest.raises(mo.CertificateRejected, match="equal creases"):
        forged.verify(b, a)
    near = mo.equivalent(a, b, on=mo.Box(-1, 1), eps=1.0)
    nowhere = {
        "status": "proved",
        "lower": 0.0,
        "upper": 0.0,
        "behind": (0.0, 0.0),
        "proof": forged,
    }
    for wrong in (
        replace(near, proof=forged, eps=0.0), replace(near, proof=forged, eps=0.0, on=None),
        replace(far, **nowhere), replace(far, **nowhere, box=None, on="sup over all inputs"),
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            wrong.check()


# The sigmoid as tanh ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_a_sigmoid_is_a_tanh(depth, seed):
    rng = np.random.default_rng(seed)
    widths = [2, *[3] * depth, 1]
    parts = [part for n, m in pairwise(widths) for part in (small(rng, m, n), small(rng, m))]
    a = N(*parts, activation="tanh")
    layers = [
        replace(layer, weight=layer.weight.copy(), bias=layer.bias.copy()) for layer in a.layers
    ]
    for k in range(depth):  # tanh(z) = 2 sigmoid(2z) - 1
        behind = layers[k + 1]
        layers[k] = replace(
            layers[k],
            weight=2 * layers[k].weight,
            bias=2 * layers[k].bias,
            activation=Activation("sigmoid"),
        )
        layers[k + 1] = replace(
            behind, weight=2 * behind.weight, bias=behind.bias - behind.weight.sum(axis=1)
        )
    b = a.with_layers(layers)
    answer = mo.equivalent(a, b)
    assert answer.status == "proved"
    assert answer.check()
    mo.Certificate.from_json(json.dumps(answer.certificate.to_json())).verify(b, a)
    assert mo.signature(a) == mo.signature(b)
    other = b.with_flat(b.flat() + 2.0**-10)
    assert mo.equivalent(a, other).status == "refuted"


@pytest.mark.parametrize(
    ("kind", "move", "why"),
    [
        ("tanh", Move("tanh", 1, np.array([0, 1])), "of sigmoids"),
        ("sigmoid", Move("tanh", 1, np.array([0])), "not of all units"),
    ],
)
def test_only_whole_layers_of_sigmoids_become_tanh(kind, move, why):
    net = N([[1.0], [2.0]], [0, 1], [[1.0, 1.0]], [0], activation=kind)
    with pytest.raises(mo.CertificateRejected, match=why):
        mo.Certificate(net.digest, net.digest, (move,), ()).verify(net, net)
