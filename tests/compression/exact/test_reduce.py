"""Lossless compression and rank against planted answers, an oracle in rationals, and the shared
cases.
"""

from __future__ import annotations

import json
import tracemalloc
from collections import defaultdict
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import strategies as plants
from hypothesis import given, settings

import moduli as mo


def agree(a: mo.Network, b: mo.Network, seed: int = 0) -> None:
    """Equal up to float rounding, with room for the slack."""
    x = np.random.default_rng(seed).standard_normal((30, a.widths[0])) * 2
    p, q = a.logits(x), b.logits(x)
    assert np.abs(p - q).max() <= 1e-9 * (1 + np.abs(p).max())


KINDS = {
    "zero incoming with bias, tanh": ("tanh", [0.0, 0.0], 1.5, [1.0], None),
    "zero incoming with bias, relu": ("relu", [0.0, 0.0], 1.5, [1.0], None),
    "zero incoming without bias, tanh": ("tanh", [0.0, 0.0], 0.0, [1.0], None),
    "zero incoming without bias, relu": ("relu", [0.0, 0.0], 0.0, [1.0], None),
    "zero outgoing": ("tanh", [1.0, -3.0], 0.5, [0.0], None),
    "duplicate": ("relu", [1.0, 2.0], 0.25, [3.0], None),
    "cancelling pair": ("tanh", [7.0, 2.0], 0.25, [3.0], ([7.0, 2.0], 0.25, [-3.0])),
    "tanh sign twin": ("tanh", [-1.0, -2.0], -0.25, [3.0], None),
    "relu positive multiple": ("relu", [3.0, 6.0], 0.75, [3.0], None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_in_one_layer(kind):
    activation, row, bias, out, second = KINDS[kind]
    extra = [(row, bias, out)] + ([second] if second else [])
    w = np.array([[1.0, 2.0], [-0.5, 4.0], *(r for r, _, _ in extra)])
    b = np.array([0.25, 1.0, *(c for _, c, _ in extra)])
    v = np.array([[2.0, -1.0, *(o[0] for _, _, o in extra)]])
    net = mo.Network.mlp(w, b, v, [0.5], activation=activation)
    small = mo.compress(net)
    assert small.network.widths == (2, 2, 1)
    assert small.optimal
    assert mo.check(small.certificate, small.network, net).status == "proved"
    agree(net, small.network)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("activation", plants.EVERY)
def test_each_kind_in_deep_networks(layer, activation):
    for seed, kind in enumerate(plants.kinds(activation)):
        rng = np.random.default_rng(seed)
        parts = plants.minimal(rng, (3, 4, 4, 2), [activation] * 2)
        base = parts.network()
        plants.plant(rng, parts, layer, kind)
        small = mo.compress(parts.network())
        assert small.network.widths == base.widths, kind
        assert small.check()
        agree(base, small.network)


@pytest.mark.parametrize(
    "start",
    [0, pytest.param(500, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.slow)],
)
def test_thousands_of_planted_networks(start):
    for seed in range(start, start + 500):
        net, widths = plants.planted(seed)
        small = mo.compress(net)
        if len(small.network.widths) < len(widths):  # a layer that never bends went as a whole
            assert small.removed["skip"]
            assert small.network.units <= sum(widths[1:-1]), (seed, net)
        else:
            assert all(k <= w for k, w in zip(small.network.widths, widths, strict=True)), (
                seed,
                net,
                small,
            )
        assert mo.compress(small.network).network == small.network
        if seed % 10 == 0:
            assert small.check()
            agree(net, small.network, seed)


def test_one_layer_reaches_the_planted_width_and_proves_it():
    for seed in range(300):
        net, widths = plants.planted(
            seed, str(np.random.default_rng(seed).choice(["tanh", "sigmoid", "erf"])), depth=1
        )
        small = mo.compress(net)
        assert small.network.widths == widths
        assert small.optimal


@settings(max_examples=100, deadline=None)
@given(plants.SEEDS)
def test_rank_is_what_compress_reaches(seed):
    net, _ = plants.planted(seed)
    rank, small = mo.rank(net), mo.compress(net)
    skipped = [
        [m.kind for m in moves].count("skip")
        for moves in (rank.moves, small.certificate.large_moves)
    ]
    assert rank.lower <= rank.upper <= small.network.units
    # a rank leaves out layers that are linear at any cost of parameters
    assert (rank.upper < small.network.units) == (skipped[0] > skipped[1])
    assert rank.exact == small.optimal
    assert rank.check()


def oracle(net: mo.Network) -> int:
    """The rank of a shallow tanh network, in rationals: non-zero signed sums of classes."""
    sums: dict[tuple[Fraction, ...], list[Fraction]] = defaultdict(
        lambda: [Fraction(0)] * net.widths[-1]
    )
    for i, row in enumerate(net.layers[0].weight.tolist()):
        lead = next((x for x in row if x), 0.0)
        if lead == 0:
            continue
        sign = 1 if lead > 0 else -1
        key = tuple(sign * Fraction(x) for x in (*row, float(net.layers[0].bias[i])))
        sums[key] = [
            s + sign * Fraction(float(a))
            for s, a in zip(sums[key], net.layers[1].weight[:, i], strict=True)
        ]
    return sum(any(s) for s in sums.values())


@pytest.mark.parametrize(
    "values", [[-1, 0, 1], [-5e-324, 0, 5e-324, 1], [1e300, -1e300, 1.0], [1e308, -1e308, 1e292]]
)
def test_rank_against_rationals(values):
    rng = np.random.default_rng(7)
    for _ in range(150):
        h, n, m = int(rng.integers(0, 9)), int(rng.integers(1, 3)), int(rng.integers(1, 3))
        w, b, a = (
            rng.choice([-1.0, 0.0, 1.0], (h, n)),
            rng.choice([-1.0, 0.0, 1.0], h),
            rng.choice(values, (m, h)),
        )
        net = mo.Network.mlp(w, b, a, np.zeros(m))
        assert int(mo.rank(net)) == oracle(net)


@pytest.mark.parametrize("file", ["rank.json", "rank_adversarial.json"])
def test_shared_rank_cases(shared, file):
    data = json.loads((shared / "cases" / file).read_text())
    for case in data["cases"] if isinstance(data, dict) else data:
        h, m = len(case["a"]), len(case["d"])
        b = np.array(case["b"], dtype=float).reshape(h, -1) if h else np.zeros((0, 1))
        net = mo.Network.mlp(
            b,
            np.array(case["c"], dtype=float),
            np.array(case["a"], dtype=float).reshape(h, m).T,
            case["d"],
        )
        assert int(mo.rank(net)) == case["rank"], case
        small = mo.compress(net)
        assert small.check()
        assert small.optimal
        assert small.network.units == case["rank"]


def test_shared_minimal_widths_are_reached(shared):
    cases = json.loads((shared / "cases" / "relu.json").read_text())["cases"]
    shallow = [c for c in cases if c["kind"] == "compress_shallow" and c["box"] is None]
    assert shallow
    for case in shallow:
        net = mo.Network.mlp(
            *(np.array(layer[k]) for layer in case["net"] for k in "Wb"), activation="relu"
        )
        assert int(mo.rank(net)) == case["expect"]["min_width"], case["id"]


def test_lattice_network_is_exactly_redundant(shared):
    import onnxruntime

    path = shared / "models" / "tll_8.onnx"
    net = mo.load(path)
    small = mo.compress(net)
    assert small.network.units <= 62 < net.units == 252
    assert small.within(1.0) < 1e-11
    assert mo.check(small.certificate, small.network, net).status == "proved"
    x = np.load(f"{path}.expected.npz")["inputs"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    y = np.concatenate(
        [
            session.run(None, {session.get_inputs()[0].name: row[None].astype(np.float32)})[0]
            for row in x
        ]
    )
    assert np.abs(small.network(x) - y).max() <= 1e-5 * np.abs(y).max()


def test_undecided_rank_is_no_integer():
    net = mo.Network.mlp([[1.0]], [1.0], [[1.0]], [1.0], [[1.0]], [0.0], activation="tanh")
    with pytest.raises(mo.Undecided, match="between"):
        int(mo.rank(net))


def test_goals_of_other_versions_are_refused_by_name():
    for goal in ({"eps": 0.1}, {"units": 1}, {"on": mo.Box(-1, 1), "radius": 0.1}):
        with pytest.raises(ValueError, match=next(iter(goal))):
            mo.compress("zoo:digits-plain", **goal)


@pytest.mark.slow
def test_ten_million_parameters_take_at_most_four_times_their_bytes(tmp_path):
    rng = np.random.default_rng(0)
    widths = 1296, 5184, 648, 16
    parts = [
        rng.standard_normal(s, dtype=np.float32) for n, m in pairwise(widths) for s in ((m, n), m)
    ]
    for l in (0, 1):
        k = widths[l + 1] // 8
        parts[2 * l][k : 2 * k], parts[2 * l + 1][k : 2 * k] = (
            parts[2 * l][:k],
            parts[2 * l + 1][:k],
        )
        parts[2 * l + 2][:, 2 * k : 3 * k] = 0
        parts[2 * l][-8:] = 0
    path = mo.save(
        mo.Network.mlp(*parts, activation="relu"), tmp_path / "large.safetensors", dtype="float32"
    )
    del parts
    tracemalloc.start()
    try:
        net = mo.load(path)
        small = mo.compress(net).rounded("float32")
        assert small.network.widths == (1296, 5184 - 2 * 648 - 8, 648 - 2 * 81 - 8, 16)
        assert small.check()
        mo.save(small.network, tmp_path / "small.safetensors", dtype="float32")
        assert tracemalloc.get_traced_memory()[1] <= 4 * 8 * net.parameters
    finally:
        tracemalloc.stop()


def test_copies_whose_biases_took_up_constants_are_merged_by_sign():
    """Their rows are floats, their biases sums of tanh at rationals."""
    first = [[0.0, 0.0], [1.0, 2.0]], [0.5, 0.25]
    second = [[3.0, 1.0], [3.0, 1.0], [-3.0, -1.0]], [0.5, 0.5, -0.5]
    small = mo.compress(
        mo.Network.mlp(*first, *second, [[1.0, 2.0, 4.0]], [0.0], activation="tanh")
    )
    assert (small.removed["merge"], small.removed["constant"]) == (2, 1)
    assert [str(m.ratio) for m in small.certificate.large_moves if m.kind == "merge"] == ["1", "-1"]
    assert small.check()
