"""Normal forms and what they decide."""

from __future__ import annotations

import json

import numpy as np
import pytest
import strategies as plants

import moduli as mo


def test_idempotent_and_invariant_bit_for_bit():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        acts = [str(rng.choice(plants.EVERY)) for _ in range(2)]
        parts = plants.minimal(rng, (2, 4, 3, 2), acts)
        net = parts.network()
        plants.shuffle(rng, parts)
        form = mo.canonical(net)
        assert mo.canonical(form) == form
        assert mo.canonical(parts.network()) == form, (seed, acts)


def test_symmetric_copies_are_proved_equal():
    for seed in range(60):
        net, _ = plants.planted(seed)
        rng = np.random.default_rng(seed)
        parts = plants.Parts([[np.array(x.weight), np.array(x.bias)] for x in net.layers], list(net.activations))
        plants.shuffle(rng, parts)
        answer = mo.equivalent(net, parts.network())
        assert answer.status == "proved", seed
        assert answer.check()


def read(arrays, key, side, activation):
    names = [f"{key}/{side}/{part}{l}" for l in range(1, 9) for part in "Wb"]
    return mo.Network.mlp(*(arrays[name] for name in names if name in arrays), activation=activation)


@pytest.mark.parametrize("file", ["canon", "canon_extra"])
def test_shared_verdicts(shared, file):
    arrays = np.load(shared / "cases" / f"{file}.npz")
    cases = json.loads((shared / "cases" / f"{file}.json").read_text())
    for case in cases:
        a, b = (read(arrays, case["key"], side, case["activation"]) for side in "AB")
        answer = mo.equivalent(a, b)
        if case["same_function"] is True and case.get("same_reduced") is not False:
            assert answer.status == "proved", case["key"]
        elif case["same_function"] is False:
            assert answer.status == "refuted", case["key"]
            assert answer.check()
        elif case["same_function"] is True:
            assert answer.status != "refuted", case["key"]
        elif answer.status == "refuted":
            assert answer.check()


def test_shared_equal_pairs(shared):
    cases = json.loads((shared / "cases" / "rank_equal.json").read_text())
    for case in cases:
        nets = []
        inputs = len((case["w"][1] or case["v"][1] or [[0.0]])[0])
        for a, b, c, d in (case["w"], case["v"]):
            h = len(a)
            nets.append(
                mo.Network.mlp(
                    np.array(b, float).reshape(h, -1 if h else inputs), c, np.array(a, float).reshape(h, len(d)).T, d
                )
            )
        answer = mo.equivalent(*nets)
        assert answer.status == ("proved" if case["equal"] else "refuted"), case["id"]


def test_an_undecided_answer_is_no_truth_value():
    bump = mo.Network.mlp([[1.0]] * 3, [-0.5, -0.5 - 2.0**-40, -0.5 - 2.0**-39], [[1.0, -2.0, 1.0]], [0.0], activation="relu")
    zero = mo.Network.mlp([[1.0]], [0.0], [[0.0]], [0.0], activation="relu")
    answer = mo.equivalent(bump, zero, on=mo.Box(-1e6, 1e6), budget=8)
    assert answer.status == "undecided"
    with pytest.raises(mo.Undecided):
        bool(answer)


def test_a_softmax_hides_a_shift_of_all_outputs():
    from dataclasses import replace

    net = replace(mo.Network.mlp([[1.0]], [0.5], [[1.0], [2.0]], [0.0, 1.0]), output_map="softmax")
    shifted = replace(mo.Network.mlp([[1.0]], [0.5], [[1.0], [2.0]], [1.0, 2.0]), output_map="softmax")
    assert mo.equivalent(net, shifted).status == "undecided"


def test_distance_on_a_box_is_an_enclosure():
    a = mo.Network.mlp([[1.0], [-1.0]], [0.0, 0.5], [[1.0, 2.0]], [0.0], activation="relu")
    b = mo.Network.mlp([[1.0], [-1.0]], [0.0, 0.5], [[1.25, 2.0]], [0.0], activation="relu")
    d = mo.distance(a, b, on=mo.Box(-2, 2))
    assert 0.49 < d.lower <= 0.5 <= d.upper
    assert mo.distance(a, a, on=mo.Box(-2, 2)).status == "proved"
    mean = mo.distance(a, b, on=mo.Gaussian())
    assert mean.lower < 0.25 * np.sqrt(0.5) < mean.upper
