"""Decisions of two networks on a box: proved by margins, refuted close to a boundary, or left open."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from nearly_equal import network, noisy

import moduli as mo
from moduli.equivalence.decisions import decided_apart

BOX = mo.Box(-1, 1)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "leaky_relu(0.1)"])
def test_a_clear_decision_is_proved(activation):
    a = network(4, 8, 8, 3, activation=activation, lead=12.0)
    answer = mo.equivalent(a, noisy(a), on=BOX, decision=True)
    assert answer.status == "proved"
    assert answer.decided.winner == 0
    assert answer.check()
    assert answer.to_json()["winner"] == 0
    with pytest.raises(mo.CertificateRejected, match="proved elsewhere"):
        replace(answer, on=mo.Box(-2, 2)).check()
    with pytest.raises(mo.CertificateRejected):
        replace(answer, a=network(4, 8, 8, 3, activation=activation)).check()


def test_near_a_boundary_an_input_is_found():
    """Noise of a millionth moves a boundary by very little."""
    crossed = 0
    for seed in range(6):
        a = network(3, 8, 2, seed=seed)
        answer = mo.equivalent(a, noisy(a, 1e-6), on=BOX, decision=True)
        if len({int(k) for k in a(BOX.sample(1000, 3)).argmax(axis=1)}) == 2:
            crossed += 1
            assert answer.status == "refuted"
            assert answer.check()
            assert "and" in dict(answer.rows())["they decide"]
    assert crossed


def test_a_witness_of_decisions_is_exact():
    a = mo.Network.mlp([[1.0]], [0.0], [[1.0], [0.0]], [0.0, 0.5], activation="relu")
    b = mo.Network.mlp([[1.0]], [0.0], [[1.0], [0.0]], [0.0, 0.5000001], activation="relu")
    answer = mo.equivalent(a, b, on=BOX, decision=True)
    assert answer.status == "refuted"
    assert 0.5 < answer.witness.input[0] < 0.5000001
    half = (Fraction(1, 2),)
    assert decided_apart(a, b, half) is None, "a tie decides nothing"
    with pytest.raises(mo.CertificateRejected, match="other values"):
        replace(answer, witness=answer.witness._replace(input=half)).check()


def test_one_function_decides_as_itself():
    a = network(3, 6, 3)
    assert mo.equivalent(a, a, on=BOX, decision=True).status == "proved"


def test_equal_boundaries_are_left_open():
    a = network(2, 4, 2)
    double = a.with_layers(
        [
            *a.layers[:-1],
            replace(a.layers[-1], weight=2 * a.layers[-1].weight, bias=2 * a.layers[-1].bias),
        ]
    )
    kinds = set(a(BOX.sample(1000, 2)).argmax(axis=1).tolist())
    answer = mo.equivalent(a, double, on=BOX, decision=True)
    assert answer.status == ("undecided" if len(kinds) > 1 else "proved")


def test_a_tie_everywhere_is_no_decision():
    flat = mo.Network.mlp([[1.0]], [0.0], [[1.0], [1.0]], [0.0, 0.0], activation="relu")
    other = mo.Network.mlp([[1.0]], [0.0], [[2.0], [2.0]], [0.0, 0.0], activation="relu")
    assert mo.equivalent(flat, other, on=BOX, decision=True).status == "undecided"


@pytest.mark.parametrize("seed", range(20))
def test_never_proved_where_points_differ(seed):
    rng = np.random.default_rng(seed)
    a = network(2, 5, 3, seed=seed, lead=float(rng.choice([0.0, 0.5, 2.0])))
    b = noisy(a, 10.0 ** rng.integers(-3, 0))
    answer = mo.equivalent(a, b, on=BOX, decision=True, budget=500)
    x = BOX.sample(20_000, 2, seed=1)
    same = (a(x).argmax(axis=1) == b(x).argmax(axis=1)).all()
    assert same or answer.status == "refuted"
    assert answer.status == "undecided" or answer.check()


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"on": None}, "decisions are compared on a Box"),
        ({"on": mo.Gaussian()}, "decisions are compared on a Box"),
        ({"on": BOX, "eps": 0.1}, "values or decisions"),
    ],
)
def test_what_cannot_be_asked_is_named(asked, why):
    a = network(3, 6, 3)
    with pytest.raises(ValueError, match=why):
        mo.equivalent(a, a, decision=True, **asked)


def test_outputs_that_decide_nothing_are_named():
    a = network(3, 6, 1)
    with pytest.raises(ValueError, match="one output"):
        mo.equivalent(a, a, on=BOX, decision=True)
    b = replace(network(3, 6, 2), output_map="relu")
    with pytest.raises(ValueError, match="may be equal"):
        mo.equivalent(b, b, on=BOX, decision=True)
    c = replace(network(3, 6, 2, lead=9.0), output_map="softmax")
    assert mo.equivalent(c, noisy(c), on=BOX, decision=True).status == "proved"
