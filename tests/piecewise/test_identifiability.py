"""Verdicts on stored cases, on planted networks, with more inputs; witnesses and claims attacked."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import strategies as plants
from stored_pieces import read, stored

import moduli as mo
from moduli.piecewise import cells_generic, cells_sampled
from moduli.piecewise.equivalent_parameters import distinct, exact_layers, shallow_function
from moduli.piecewise.generic_position import trace_ranks


def pairs(shared):
    for case in json.loads((shared / "cases" / "relu.json").read_text())["cases"]:
        for side in "fg" if "net_f" in case else "":
            net = mo.Network.mlp(
                *(p for layer in case[f"net_{side}"] for p in (layer["W"], layer["b"])),
                activation="relu",
            )
            yield case, side, net, mo.Box([b[0] for b in case["box"]], [b[1] for b in case["box"]])


def he(seed, widths):
    rng = np.random.default_rng(seed)
    parts = []
    for a, b in pairwise(widths):
        parts += [rng.standard_normal((b, a)) * np.sqrt(2 / a), 0.1 * rng.standard_normal(b)]
    return mo.Network.mlp(*parts, activation="relu")


def test_hidden_symmetries_are_refuted_with_a_witness(shared):
    """All stored ones, both of each pair; no wrong yes on near misses, where the pair does not
    share its function.
    """
    kinds = {}
    for case, side, net, box in pairs(shared):
        answer = mo.identifiable(net, on=box)
        if case["kind"] == "hidden_symmetry":
            assert answer.status == "refuted", (case["id"], side)
            kinds.setdefault(answer.mechanism, []).append(case["mechanism"])
        if answer.status == "refuted":
            assert answer.check()
            x = mo.Box(box.low, box.high).sample(200, net.widths[0], 0)
            assert np.allclose(answer.witness(x), net(x), rtol=1e-9, atol=1e-9), (case["id"], side)
        elif answer.scope:
            assert (
                case["expect"][f"functional_dimension_{side}"] == case["expect"][f"bound_{side}"]
            ), (case["id"], side)
    assert set(kinds["units turned together"]) == {"orientation_flip"}
    assert len(kinds) >= 5


def test_stored_trace_ranks(shared):
    """Which units bend visibly alone, what their features span there; and the sufficient condition
    itself.
    """
    seen = holds = 0
    for case in stored(shared):
        expect = case["expect"]
        if "trace_rank_per_unit" not in expect:
            continue
        net, box = read(case)
        found = trace_ranks(mo.pieces(net, on=box))
        assert found == expect["trace_rank_per_unit"], case["id"]
        if "sufficient_local_identifiability" in expect:
            assert (found == expect["trace_rank_needed"]) == expect[
                "sufficient_local_identifiability"
            ], case["id"]
            holds += expect["sufficient_local_identifiability"]
        if case["kind"] in ("trace_condition_holds", "attains_bound"):
            assert mo.identifiable(net, on=box).scope in ("local", "generic"), case["id"]
        seen += 1
    assert seen > 50
    assert holds > 5


def test_one_hidden_layer_with_many_inputs():
    rng = np.random.default_rng(0)
    net = plants.minimal(rng, (9, 6, 2), ["relu"]).network()
    box = mo.Box(-64, 64)
    answer = mo.identifiable(net, on=box)
    assert (answer.status, answer.scope) == ("proved", "global")
    assert answer.check()
    w, b, v, c = (
        net.layers[0].weight.copy(),
        net.layers[0].bias.copy(),
        net.layers[1].weight.copy(),
        net.layers[1].bias,
    )
    x = box.sample(500, 9, 1)
    for change in ("off", "on", "silent", "double", "opposite", "turned"):
        row, bias, out = w.copy(), b.copy(), v.copy()
        if change in ("off", "on"):
            bias[2] = -5000.0 if change == "off" else 5000.0
        elif change == "silent":
            out[:, 2] = 0
        elif change in ("double", "opposite"):
            row[2], bias[2] = (
                (2 if change == "double" else -2) * row[1],
                (2 if change == "double" else -2) * bias[1],
            )
        else:
            row[2], out[:, 2], bias[2] = row[1], -out[:, 1], bias[1] + 0.5
        hidden = mo.Network.mlp(row, bias, out, c, activation="relu")
        found = mo.identifiable(hidden, on=box)
        assert found.status == "refuted", change
        assert found.check()
        assert np.allclose(found.witness(x), hidden(x), rtol=1e-9, atol=1e-9), change


def test_forged_witnesses_are_rejected():
    hat = mo.Network.mlp([[1.0], [1.0]], [0.0, -1.0], [[1.0, -1.0]], [0.0], activation="relu")
    answer = mo.identifiable(hat, on=mo.Box(-8, 8))
    copy = mo.symmetries(hat).random(3)(hat)
    with pytest.raises(mo.CertificateRejected, match="symmetric copy"):
        replace(answer, other=tuple(exact_layers(copy))).check()
    (rows, biases), last = answer.other
    with pytest.raises(mo.CertificateRejected, match="another function"):
        replace(answer, other=((rows, [biases[0] + Fraction(1, 2**60), *biases[1:]]), last)).check()
    with pytest.raises(mo.CertificateRejected, match="asked again"):
        replace(answer, status="proved", scope="global", other=None).check()


def test_copies_are_told_from_others():
    for seed in range(20):
        net = plants.minimal(np.random.default_rng(seed), (2, 4, 3, 2), ["relu"] * 2).network()
        own = exact_layers(net)
        assert not distinct(own, exact_layers(mo.symmetries(net).random(seed)(net)))
        other = net.with_flat(net.flat() + np.eye(net.parameters)[seed])
        assert distinct(own, exact_layers(other))
    twins = exact_layers(
        mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, 2.0]], [0.0], activation="relu")
    )
    swapped = exact_layers(
        mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[2.0, 1.0]], [0.0], activation="relu")
    )
    assert not distinct(twins, swapped)


def test_the_invariant_of_one_hidden_layer_is_complete():
    """Equal exactly for equal functions: against the exact distance at the vertices of the joint
    complex.
    """
    box, seen = mo.Box(-2, 2).of_dimension(1), set()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        nets = []
        for _ in range(2):
            row, bias, out = (
                rng.integers(-1, 2, (3, 1)),
                rng.integers(-1, 2, 3),
                rng.integers(-1, 2, (1, 3)),
            )
            nets.append(mo.Network.mlp(row, bias, out, [0], activation="relu"))
        (a, b), (v, c) = [[(x.weight, x.bias) for x in net.layers] for net in nets]
        joint = mo.Network.mlp(
            np.vstack([a[0], v[0]]),
            np.append(a[1], v[1]),
            np.hstack([b[0], -c[0]]),
            [0],
            activation="relu",
        )
        same = all(
            not any(form[0]) and not form[1]
            for cell in mo.pieces(joint, on=box).complex
            for form in cell.maps
        )
        one, two = (shallow_function(exact_layers(net), box) for net in nets)
        assert (one == two) == same, seed
        seen.add(same)
    assert seen == {True, False}


def test_scopes_agree_with_the_dimension():
    scopes = set()
    for seed in range(30):
        net = plants.minimal(np.random.default_rng(seed), (2, 2, 2, 1), ["relu"] * 2).network()
        answer = mo.identifiable(net, on=mo.Box(-1024, 1024))
        full = mo.dimension(net, on=mo.Box(-1024, 1024)).lower == net.parameters - net.units
        assert full or answer.status != "proved"
        scopes.add((answer.status, answer.scope))
        assert answer.status == "undecided" or answer.check()
    assert {("proved", "generic"), ("refuted", "")} <= scopes


def test_more_inputs_than_cells_can_be_listed():
    net = he(0, (8, 8, 8, 1))
    found = mo.dimension(net, on=mo.Box(-1000, 1000))
    assert int(found) == 137
    assert found.check()
    assert not found.cells.complete
    null = found.null_space
    assert null.shape == (net.units, net.parameters)
    answer = mo.identifiable(net, on=mo.Box(-1000, 1000))
    assert (answer.status, answer.scope) == ("proved", "local")
    few = mo.dimension(net, on=mo.Box(-1000, 1000), budget=5)
    assert few.lower < few.upper == 137
    with pytest.raises(mo.Undecided):
        int(few)
    assert mo.identifiable(net, on=mo.Box(-1000, 1000), budget=5).status == "undecided"
    some = cells_sampled.explore(net, mo.Box(-1000, 1000), 500, 0)
    with pytest.raises(mo.CertificateRejected, match="a sign"):
        replace(some, cell_signs=-some.cell_signs).check()
    with pytest.raises(mo.CertificateRejected, match="outside"):
        replace(some, points=some.points + 1e4).check()


def test_exploration_finds_cells_of_the_complex():
    """Every cell found is one of the complete complex, and nearly all are found."""
    from moduli.piecewise.cells_sampled import explore

    for widths in ((2, 6, 5, 1), (3, 5, 4, 1)):
        net = he(1, widths)
        every = {tuple(s) for s in mo.pieces(net, on=mo.Box(-4, 4)).cell_signs.tolist()}
        some = explore(net, mo.Box(-4, 4), 4000, 0)
        assert some.check()
        found = {tuple(s) for s in some.cell_signs.tolist()}
        assert found <= every
        assert len(found) > 0.8 * len(every)
        assert found == {tuple(s) for s in explore(net, mo.Box(-4, 4), 4000, 0).cell_signs.tolist()}


def folded(depth):
    """Four inputs; along most lines a zigzag of 2^depth pieces."""
    rng = np.random.default_rng(
        0
    )  # close to tents, whose tips would meet creases of the next layer
    layers = [np.full((2, 4), 0.125), np.array([0.5, 0.0])]
    for _ in range(depth - 1):
        tent = np.array([2.0, -4.0]) * (1 - rng.uniform(0, 1e-3))
        layers += [
            np.stack([tent, tent]),
            np.array([rng.uniform(0, 1e-3), -0.5 - rng.uniform(0, 1e-3)]),
        ]
    return mo.Network.mlp(*layers, [[2.0, -4.0]], [0.0], activation="relu")


@pytest.mark.parametrize("budget", [5, 20, 80, 320])
def test_a_budget_bounds_the_work_where_lines_meet_many_cells(monkeypatch, budget):
    """Vertices on lines, and points: neither grows with the number of cells, of which there are
    65,536 on a line.
    """
    work = {"vertices": 0, "points": 0}
    split, signs = cells_generic._Edges.split, cells_sampled.signs_at

    def counted_split(edges, z, layer):
        before = len(edges.points)
        try:
            return split(edges, z, layer)
        finally:
            work["vertices"] += max(len(edges.points) - before, edges.cells - before)

    def counted_signs(net, x):
        work["points"] += len(x)
        return signs(net, x)

    monkeypatch.setattr(cells_generic._Edges, "split", counted_split)
    monkeypatch.setattr(cells_sampled, "signs_at", counted_signs)
    mo.identifiable(folded(16), on=mo.Box(-1, 1), budget=budget)
    assert work["vertices"] <= 1_000 * budget
    assert work["points"] <= 2 * budget


def test_depth_and_recovery_at_the_door(shared):
    for case in stored(shared):
        if case["kind"] == "depth" and "strict_depth" in case["expect"]:
            net, box = read(case)
            found, expect = mo.depth(net, on=box), case["expect"]
            assert (found.strict, found.generic) == (
                expect["strict_depth"],
                expect["generic_depth_lower_bound"],
            )
    net = plants.minimal(np.random.default_rng(4), (2, 2, 2, 1), ["relu"] * 2).network()
    found = mo.recover(net, on=mo.Box(-1024, 1024))
    assert found.check()
    assert mo.canonical(found.network) == mo.canonical(net)


def test_refusals():
    net = he(0, (2, 3, 3, 1))
    with pytest.raises(ValueError, match="in a box"):
        mo.identifiable(net, on=None)
    with pytest.raises(mo.UnsupportedModel, match="piecewise linear"):
        mo.identifiable(
            mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="gelu"), on=mo.Box(-1, 1)
        )
    with pytest.raises(mo.UnsupportedModel, match="layer 1 is gelu"):
        mo.dimension(
            mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="gelu"), on=mo.Box(-1, 1)
        )
    with pytest.raises(mo.Undecided, match="up to 1500"):
        mo.dimension("zoo:digits-tanh", on=mo.Box(-1, 1))
    undecided = mo.identifiable(he(0, (8, 8, 8, 1)), on=mo.Box(-1, 1), budget=5)
    with pytest.raises(mo.Undecided, match="not all directions"):
        bool(undecided)
    leaky = plants.minimal(
        np.random.default_rng(0), (2, 3, 2, 1), ["leaky_relu(0.25)"] * 2
    ).network()
    assert mo.identifiable(leaky, on=mo.Box(-64, 64)).scope in ("local", "")
