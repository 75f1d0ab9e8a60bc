"""Equality, refutation with witnesses, distance."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import strategies as plants

import moduli as mo
from moduli.common.exact_values import evaluate
from moduli.equivalence.compare import _size


def test_symmetric_copies_are_proved_equal():
    for seed in range(30):
        net, _ = plants.planted(seed)
        rng = np.random.default_rng(seed)
        parts = plants.Parts(
            [[np.array(x.weight), np.array(x.bias)] for x in net.layers], list(net.activations)
        )
        plants.shuffle(rng, parts)
        answer = mo.equivalent(net, parts.network())
        assert answer.status == "proved", seed
        assert answer.check()


def read(arrays, key, side, activation):
    names = [f"{key}/{side}/{part}{l}" for l in range(1, 9) for part in "Wb"]
    return mo.Network.mlp(
        *(arrays[name] for name in names if name in arrays), activation=activation
    )


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
                    np.array(b, float).reshape(h, -1 if h else inputs),
                    c,
                    np.array(a, float).reshape(h, len(d)).T,
                    d,
                )
            )
        answer = mo.equivalent(*nets)
        assert answer.status == ("proved" if case["equal"] else "refuted"), case["id"]


def test_an_undecided_answer_is_no_truth_value():
    bump = mo.Network.mlp(
        [[1.0]] * 3,
        [-0.5, -0.5 - 2.0**-40, -0.5 - 2.0**-39],
        [[1.0, -2.0, 1.0]],
        [0.0],
        activation="relu",
    )
    zero = mo.Network.mlp([[1.0]], [0.0], [[0.0]], [0.0], activation="relu")
    answer = mo.equivalent(bump, zero, on=mo.Box(-1e6, 1e6), budget=4)
    assert answer.status == "undecided"
    with pytest.raises(mo.Undecided):
        bool(answer)


def test_a_softmax_hides_a_shift_of_all_outputs():
    net = replace(mo.Network.mlp([[1.0]], [0.5], [[1.0], [2.0]], [0.0, 1.0]), output_map="softmax")
    shifted = replace(
        mo.Network.mlp([[1.0]], [0.5], [[1.0], [2.0]], [1.0, 2.0]), output_map="softmax"
    )
    assert mo.equivalent(net, shifted).status == "undecided"


def test_distance_on_a_box_is_an_enclosure():
    a = mo.Network.mlp([[1.0], [-1.0]], [0.0, 0.5], [[1.0, 2.0]], [0.0], activation="relu")
    b = mo.Network.mlp([[1.0], [-1.0]], [0.0, 0.5], [[1.25, 2.0]], [0.0], activation="relu")
    d = mo.distance(a, b, on=mo.Box(-2, 2))
    assert 0.49 < d.lower <= 0.5 <= d.upper
    assert mo.distance(a, a, on=mo.Box(-2, 2)).status == "proved"
    mean = mo.distance(a, b, on=mo.Gaussian())
    assert mean.lower < 0.25 * np.sqrt(0.5) < mean.upper


def near(seed=0, activation="relu", widths=(3, 8, 8, 2), scale=1e-9):
    """A network and a symmetric copy with noise, in an order that the noise may change in the
    normal form.
    """
    rng = np.random.default_rng(seed)
    parts = plants.minimal(rng, widths, [activation] * (len(widths) - 2))
    parts.rows[0][0][:, 0] = parts.rows[0][0][
        0, 0
    ]  # the normal form then sorts by what differs least
    net = parts.network()
    plants.shuffle(rng, parts)
    moved = parts.network()
    return net, moved.with_flat(moved.flat() * (1 + scale * rng.standard_normal(moved.parameters)))


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "abs"])
def test_noisy_copies_are_proved_close_on_a_box(activation):
    for seed in range(3):
        a, b = near(seed, activation)
        box = mo.Box([-1, 0, -2], [1, 0.5, 0])
        answer = mo.equivalent(a, b, on=box, eps=1e-3)
        assert answer.status == "proved"
        assert answer.check()
        with pytest.raises(mo.CertificateRejected, match="is claimed"):
            replace(answer, eps=1e-14).check()
        far = mo.equivalent(a, b, on=box, eps=1e-13)
        assert far.status == "refuted"
        assert far.check()
        d = mo.distance(a, b, on=box, budget=200)
        assert 1e-13 < d.lower < d.upper < 1e-3


def test_a_witness_outside_the_box_is_rejected():
    a = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0])
    b = mo.Network.mlp([[1.0]], [0.0], [[1.5]], [0.0])
    answer = mo.equivalent(a, b, on=mo.Box(1, 2))
    assert answer.status == "refuted"
    assert answer.check()
    with pytest.raises(mo.CertificateRejected, match="not in the box"):
        replace(answer, on=mo.Box(-1, 0)).check()


def test_ascent_finds_what_sampling_misses():
    """The difference sits in one corner of many inputs."""
    rng = np.random.default_rng(0)
    w = rng.choice([-1.0, 1.0], (1, 30))
    a = mo.Network.mlp(w, [-25.0], [[1.0]], [0.0], activation="relu")
    b = mo.Network.mlp(w, [-25.0], [[1.5]], [0.0], activation="relu")
    answer = mo.equivalent(a, b, on=mo.Box(-1, 1), eps=2.0, budget=1000)
    assert answer.status == "refuted"  # 2.5 at the corner, 0 at random points
    assert mo.distance(a, b, on=mo.Box(-1, 1), budget=1000).lower == 2.5


def test_twins_that_defeat_solvers():
    """5-16-16-1 ReLU networks hidden by permutation and scaling, exact scales that are no powers of
    two included.
    """
    rng = np.random.default_rng(0)
    for _ in range(6):
        parts = plants.minimal(rng, (5, 16, 16, 1), ["relu"] * 2)
        parts.rows[1][0] *= 3
        parts.rows[2][0] *= 9
        net = parts.network()
        plants.shuffle(rng, parts)
        for l in (0, 1):  # rows times 3, outgoing weights divided exactly
            parts.rows[l] = [3 * p for p in parts.rows[l]]
            parts.rows[l + 1][0] = parts.rows[l + 1][0] / 3
        twin = parts.network()
        answer = mo.equivalent(net, twin)
        assert answer.status == "proved"
        assert answer.check()
        assert mo.canonical(net) == mo.canonical(twin)
        one = twin.flat()
        at = int(rng.integers(len(one)))
        one[at] = np.nextafter(one[at], np.inf)
        assert mo.equivalent(net, twin.with_flat(one)).status == "refuted"


def test_networks_with_zeros_everywhere():
    """Layers of no units, zero rows and columns, any activation and output map: every question has
    an answer that checks.
    """
    for seed in range(25):
        rng = np.random.default_rng(seed)
        depth = int(rng.integers(0, 4))
        widths = [int(rng.integers(1, 4)) for _ in range(depth + 2)]
        if depth and rng.random() < 0.3:
            widths[int(rng.integers(1, depth + 1))] = 0
        acts = [str(rng.choice(plants.EVERY)) for _ in range(depth)]
        arrays = []
        for n, m in pairwise(widths):
            arrays += [rng.integers(-1, 2, (m, n)).astype(float), rng.integers(-2, 3, m) / 2.0]
        moved = [a + (rng.random(a.shape) < 0.1) * 1e-6 for a in arrays]
        output = str(rng.choice(["identity", "softmax", "relu", "tanh"]))
        net, other = (
            mo.Network.mlp(*some, activation=acts, output_map=output) for some in (arrays, moved)
        )
        form, group = mo.canonical(net), mo.symmetries(net)
        assert mo.canonical(form) == form
        copy = group.random(seed)(net)
        same = mo.equivalent(net, copy)
        assert same.status == "proved"
        assert same.check()
        assert mo.signature(copy) == mo.signature(net)
        assert mo.align(copy, net).check()
        x = rng.uniform(-1, 1, (100, widths[0]))
        gap = float(np.abs(net.logits(x) - other.logits(x)).max())
        for eps in (0.0, 1e-3):
            answer = mo.equivalent(net, other, on=mo.Box(-1, 1), eps=eps, budget=100)
            assert answer.status == "undecided" or answer.check()
            assert answer.status != "proved" or gap <= eps + 1e-12
        d = mo.distance(net, other, on=mo.Box(-1, 1), budget=100)
        assert d.lower <= d.upper
        assert gap <= d.upper * (1 + 1e-9) + 1e-12
        if 0 not in widths:
            assert "log covering number" in mo.complexity(net).statement


@pytest.mark.parametrize("x", [[1.7e308, 1e308], [1e200, 0.0]])
def test_outputs_beyond_float64_have_no_distance(x):
    """Infinity minus infinity was taken for 0."""
    one, two = (
        mo.Network.mlp([[1.0, 2.0]], [0.5], [[w]], [0.25], activation="relu") for w in (1.0, 1.5)
    )
    with pytest.raises(mo.Undecided, match="exceeds float64"):
        mo.distance(one, two, on=mo.Samples(np.array([x, x])))


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
def test_sizes_bound_outputs(activation):
    rng, ends = np.random.default_rng(0), np.array([1.0, 2.0])
    for _ in range(10):
        net = mo.Network.mlp(
            *(rng.normal(size=s) for s in ((4, 2), 4, (3, 4), 3, (2, 3), 2)), activation=activation
        )
        anywhere, inside = _size(net, None), _size(net, ends)
        assert inside < np.inf
        assert (anywhere < np.inf) == (activation == "tanh")
        for x in rng.uniform(-1, 1, (4, 2)) * ends:
            outputs = evaluate(net, [Fraction(v) for v in x])
            most = max(max(-low, high) for low, high in outputs)
            assert most <= Fraction(inside)
            assert most <= anywhere
        assert inside <= 50 * np.abs(net.logits(rng.uniform(-1, 1, (500, 2)) * ends)).max()
    constant = mo.Network.mlp(np.zeros((0, 2)), [], np.zeros((1, 0)), [-3.0], activation="relu")
    assert 3 <= _size(constant, None) < 3 + 1e-9
