"""Shared hyperplanes: minimal widths against brute force over orientations, equality of functions,
forged blocks.
"""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from strategies import folded

import moduli as mo
from moduli.compression.exact.hyperplane_merging import Folded, eliminate, proposals
from moduli.equivalence import exact_gap
from moduli.kernel.certificate import Certificate
from moduli.kernel.state import State


def least(net):
    """The fewest units of a ReLU network of one output on all inputs: r, r + 1 or r + 2, trying all
    orientations.
    """
    hidden, last = net.layers
    planes, gradient = {}, np.zeros(hidden.weight.shape[1])
    for w, b, v in zip(hidden.weight, hidden.bias, last.weight[0], strict=True):
        if not w.any():
            continue
        lead = w[np.flatnonzero(w)[0]]
        key = tuple(Fraction(float(q)) / Fraction(float(lead)) for q in (*w, b))
        planes[key] = planes.get(key, 0) + Fraction(abs(float(lead))) * Fraction(float(v))
        gradient = gradient + v * w / 2
    seen = [(np.array(key[:-1]), a) for key, a in planes.items() if a]
    rests = []
    for signs in product((1, -1), repeat=len(seen)):
        turned = [(s * a / 2, u) for s, (u, a) in zip(signs, seen, strict=True)]
        rests.append(
            [Fraction(float(g)) - sum(a * u[j] for a, u in turned) for j, g in enumerate(gradient)]
        )
    if any(not any(rest) for rest in rests):
        return len(seen)
    parallel = False
    for u, _ in seen:
        at = next(j for j, q in enumerate(u) if q)
        parallel |= any(
            all(q * u[at] == rest[at] * p for p, q in zip(u, rest, strict=True)) for rest in rests
        )
    return len(seen) + (1 if parallel else 2)


def test_minimal_widths_agree_with_brute_force():
    rng = np.random.default_rng(0)
    extra = set()
    for _ in range(150):
        net = folded(
            rng, int(rng.integers(1, 4)), int(rng.integers(1, 5)), 1, int(rng.integers(1, 9))
        )
        small, wanted = mo.compress(net), least(net)
        assert (small.network.units, small.optimal) == (wanted, True), net.layers
        assert small.check()
        assert int(mo.rank(net)) == wanted
        rows = small.network.layers[0]
        planes = {
            tuple(np.append(w, b) / w[np.flatnonzero(w)[0]])
            for w, b in zip(rows.weight, rows.bias, strict=True)
        }
        extra.add(wanted - len(planes))
    assert len(extra) > 1


def test_many_units_on_few_hyperplanes():
    """Thirty units, each split into two that look opposite ways; the linear part that this leaves
    goes to a pair.
    """
    rng = np.random.default_rng(7)
    rows, v = rng.integers(-9, 10, (30, 4)).astype(float), rng.integers(1, 9, 30).astype(float)
    w, b, split = rows[:, :3], rows[:, 3], rng.integers(-4, 5, 30).astype(float)
    line, end = split @ w, split @ b  # v s(z) = (v - u) s(z) + u s(-z) + u z
    wide = mo.Network.mlp(
        np.concatenate([w, -w, line[None], -line[None]]),
        [*b, *-b, end, -end],
        [[*(v - split), *split, 1, -1]],
        [0],
        activation="relu",
    )
    few = mo.Network.mlp(w, b, v[None], [0], activation="relu")
    x = rng.normal(size=(100, 3))
    assert np.allclose(wide(x), few(x))
    small = mo.compress(wide)
    assert (small.network.units, small.optimal, small.check()) == (30, True, True)


@pytest.mark.parametrize(
    "kind", ["relu", "leaky_relu(0.5)", "gelu", "softplus", "abs", "silu", "gelu_tanh"]
)
def test_the_function_stays_the_same(kind):
    rng = np.random.default_rng(1)
    fewer = 0
    for _ in range(40):
        net = folded(rng, *map(int, rng.integers((1, 1, 1, 2), (4, 6, 4, 12))), kind)
        small = mo.compress(net)
        assert small.check()
        x = rng.uniform(-4, 4, (50, net.widths[0]))
        assert np.abs(small.network(x) - net(x)).max() <= 1e-12 + small.within(4.0)
        fewer += any(move.kind == "block" for move in small.certificate.large_moves)
    assert fewer > 3 or kind == "abs"


def test_more_outputs_are_never_claimed_minimal_too_early():
    """Two orders of the same units and a split unit lead to one claim; a claim is never above
    another width found.
    """
    rng = np.random.default_rng(2)
    claimed = 0
    for _ in range(60):
        net = folded(rng, 2, 3, 2, 7)
        order = rng.permutation(net.units)
        hidden, last = net.layers
        again = mo.Network.mlp(
            hidden.weight[order],
            hidden.bias[order],
            last.weight[:, order],
            last.bias,
            activation="relu",
        )
        one, two = mo.compress(net), mo.compress(again)
        if one.optimal:
            claimed += 1
            assert two.network.units >= one.network.units
        assert mo.rank(net).lower <= two.network.units
    assert claimed > 10


def test_on_a_box_shared_hyperplanes_become_linear_units():
    rng = np.random.default_rng(3)
    fewer = 0
    for _ in range(30):
        net, box = folded(rng, 2, 4, 2, 8), mo.Box(-2, 2)
        small, free = mo.compress(net, on=box), mo.compress(net)
        assert small.check()
        assert exact_gap.peak(net, small.network, box, 2000).gap <= small.slack
        assert small.network.units <= free.network.units
        fewer += small.network.units < free.network.units
    assert fewer > 3


def test_deep_layers_are_folded_too():
    rng = np.random.default_rng(4)
    for _ in range(10):
        first, second = folded(rng, 2, 3, 3, 5), folded(rng, 3, 3, 1, 6)
        bridge = replace(first.layers[1], activation=first.layers[0].activation)
        net = mo.Network((first.layers[0], bridge, *second.layers))
        small = mo.compress(net)
        assert small.check()
        assert exact_gap.peak(net, small.network, mo.Box(-4, 4), 4000).gap <= small.within(4.0)


def test_units_that_are_not_even_but_for_a_line_are_refused():
    net = mo.Network.mlp([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0]], [0.0], activation="sigmoid")
    assert Folded.of(State(net), 1) is None
    assert not list(proposals(State(net), 1))
    relu = mo.Network.mlp([[1], [-1], [1]], [1, -1, -3], [[1, 1, 1]], [0], activation="relu")
    data = mo.compress(relu).certificate.to_json()
    with pytest.raises(mo.CertificateRejected, match="digest"):
        Certificate.from_json(json.dumps(data)).verify(mo.compress(net).network, net)
    proof = Certificate.from_json(json.dumps({**data, "large": net.digest, "small": net.digest}))
    with pytest.raises(mo.CertificateRejected):
        proof.verify(net, net)


def test_elimination():
    rng = np.random.default_rng(0)
    for _ in range(30):
        rows = [
            [Fraction(int(x)) for x in row]
            for row in rng.integers(-2, 3, (5, 2)) @ rng.integers(-2, 3, (2, 4))
        ]
        pivots, by = eliminate(rows)
        assert len(pivots) == np.linalg.matrix_rank(np.array(rows, dtype=float))
        for row, parts in zip(rows, by, strict=True):
            assert row == [
                sum((c * rows[p][j] for c, p in zip(parts, pivots, strict=True)), Fraction(0))
                for j in range(4)
            ]


def test_a_layer_that_is_linear_everywhere_goes(shared):
    cases = json.loads((shared / "cases" / "relu.json").read_text())["cases"]
    case = next(c for c in cases if c["id"] == "depth/two-layers-that-are-one")
    net = mo.Network.mlp(
        *(np.array(layer[k]) for layer in case["net"] for k in "Wb"), activation="relu"
    )
    small = mo.compress(net)
    assert (small.network.widths, small.optimal, small.slack) == ((2, 2, 1), True, 0.0)
    assert small.check()
    assert mo.rank(net).exact
    assert mo.signature(net).startswith("2-2-1:creases")
    assert mo.equivalent(net, small.network).status == "proved"
    data = small.certificate.to_json()
    forged = [{**m, "layer": 2} if m["move"] == "skip" else m for m in data["large_moves"]]
    with pytest.raises(mo.CertificateRejected):
        Certificate.from_json(json.dumps({**data, "large_moves": forged})).verify(
            small.network, net
        )


def test_rank_on_a_box():
    net = mo.Network.mlp([[1], [1], [1]], [3, 0, -0.5], [[1, -1, 2]], [0], activation="relu")
    found = mo.rank(net, on=mo.Box(-1, 1))
    assert (int(found), found.witness.units, found.check()) == (2, 2, True)
    assert found.to_json()["box"] == {"low": -1.0, "high": 1.0}
    assert mo.rank(net).to_json()["box"] is None
    assert int(mo.rank(net, on=mo.Box(1, 2))) == 0  # affine there
    wide = mo.Network.mlp(
        [[1.0]] * 42, [*np.linspace(-0.9, 0.9, 41), 3], [[1.0] * 42], [0], activation="relu"
    )
    some = mo.rank(wide, on=mo.Box(-1, 1))
    assert (some.status, some.lower, some.upper) == ("bounded", 41, 42)
    with pytest.raises(ValueError, match="on=Gaussian"):
        mo.rank(net, on=mo.Gaussian())


def test_normal_forms_of_shared_hyperplanes_are_idempotent():
    rng = np.random.default_rng(6)
    for _ in range(40):
        net = folded(rng, *map(int, rng.integers((1, 1, 1, 2), (4, 6, 4, 12))))
        once = mo.canonical(net)
        assert mo.canonical(once) == once
        x = rng.uniform(-2, 2, (20, net.widths[0]))
        assert np.allclose(once(x), net(x), atol=1e-9)
