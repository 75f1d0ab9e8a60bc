"""Signs of units on a box, against exact vertices, stored cases and real networks."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from counted_work import Work, dearest, wide
from on_boxes import coarse_network, exact_layers, points, random_box, random_network

import moduli as mo
from moduli.compression.box import linear_programs
from moduli.compression.box.seen_signs import CLIMB, Points
from moduli.compression.box.sign_branching import TOGETHER
from moduli.compression.box.stable_units import stable
from moduli.kernel.bounds import input_splits, propagation
from moduli.kernel.network import IDENTITY


def truth(net, box):
    """Least and largest pre-activation of each hidden unit, exactly: at vertices of the linear
    pieces.
    """
    vertices = {p for cell in mo.pieces(net, on=box).complex for p in cell.points}
    values = [[z for layer in exact_layers(net.layers[:-1], p) for z in layer] for p in vertices]
    return [(min(column), max(column)) for column in zip(*values, strict=True)]


@pytest.mark.parametrize("seed", range(30))
def test_signs_are_those_of_the_exact_extremes(seed):
    rng = np.random.default_rng(seed)
    for _ in range(3):
        net = random_network(rng, (1.0, 1.5))
        low, high = random_box(rng, net.widths[0])
        if not (low < high).all():
            continue
        found = stable(net, mo.Box(low, high), budget=2000)
        assert found.check()
        signs, left = np.concatenate(found.signs), np.concatenate(found.undecided)
        for (least, most), sign, open_ in zip(
            truth(net, mo.Box(low, high)), signs, left, strict=True
        ):
            assert sign >= 0 or most <= 0
            assert sign <= 0 or least >= 0
            assert sign or open_ or least < 0 < most
        assert not left.any()


@pytest.mark.parametrize("seed", range(20))
def test_extremes_at_exactly_zero(seed):
    """Networks of few bits, where many units touch zero; what the box tree cannot settle stays
    undecided, never wrong.
    """
    rng = np.random.default_rng(seed)
    for _ in range(3):
        net = coarse_network(rng)
        low = rng.integers(-2, 2, net.widths[0]) * 1.0
        box = mo.Box(low, low + rng.integers(1, 3, net.widths[0]))
        found = stable(net, box, budget=200)
        assert found.check()
        signs, left = np.concatenate(found.signs), np.concatenate(found.undecided)
        for (least, most), sign, open_ in zip(truth(net, box), signs, left, strict=True):
            assert sign >= 0 or most <= 0
            assert sign <= 0 or least >= 0
            assert sign or open_ or least < 0 < most


def read(case):
    net = mo.Network.mlp(
        *(p for layer in case["net"] for p in (layer["W"], layer["b"])), activation="relu"
    )
    return net, mo.Box([b[0] for b in case["box"]], [b[1] for b in case["box"]])


def test_stored_cases(shared):
    cases = json.loads((shared / "cases" / "relu.json").read_text())["cases"]
    cases = [c for c in cases if "unit_stability" in c["expect"]]
    assert len(cases) >= 10
    names = {-1: "inactive", 0: "unstable", 1: "active"}
    for case in cases:
        found = stable(*read(case))
        assert [names[int(s)] for s in np.concatenate(found.signs)] == case["expect"][
            "unit_stability"
        ], case["id"]
        assert found.check()


def test_touching_a_corner_and_missing_it_by_little():
    """Active only in the corner where x + y > 16 - 1/256, or not at all."""
    for bias, sign in (
        (-16.0, -1),
        (-16.0 + 2.0**-8, 0),
        (-16.0 + 2.0**-40, 0),
        (-16 - 2.0**-40, -1),
    ):
        net = mo.Network.mlp(
            [[1.0, 1.0], [1.0, -1.0]], [bias, 0.0], [[1.0, 1.0]], [0.0], activation="relu"
        )
        found = stable(net, mo.Box(-8, 8))
        assert found.signs[0].tolist() == [sign, 0]
        if bias > -16:
            assert (
                found.undecided[0].any()
                or net.layers[0].weight[0] @ found.witnesses[0][0, 1] + bias > 0
            )


def test_a_unit_that_fires_in_a_sliver_is_never_proved_dead():
    """relu(x) + relu(-x) - 1 + 2^-k exceeds zero only next to the ends of [-1, 1]."""
    for k in (3, 8, 20, 30):
        net = mo.Network.mlp(
            [[1.0], [-1.0]],
            [0.0, 0.0],
            [[1.0, 1.0]],
            [-1 + 2.0**-k],
            [[1.0]],
            [0.0],
            activation="relu",
        )
        assert stable(net, mo.Box(-1, 1)).signs[1].tolist() == [0]
        assert stable(net, mo.Box(-1 + 2.0**-k, 1 - 2.0**-k)).signs[1].tolist() == [-1]


def test_witnesses_show_both_signs():
    rng = np.random.default_rng(0)
    net = random_network(rng, inputs=3)
    found = stable(net, mo.Box(-1, 1))
    for l, (signs, left, x) in enumerate(
        zip(found.signs, found.undecided, found.witnesses, strict=True)
    ):
        for unit in np.flatnonzero((signs == 0) & (left == 0)):
            low, high = (exact_layers(net.layers, p)[l][unit] for p in x[unit])
            assert low < 0 < high


def test_boxes_of_lower_dimension():
    rng = np.random.default_rng(1)
    for _ in range(20):
        net = random_network(rng, inputs=3)
        low = rng.normal(size=3)
        high = low + np.array([0.0, 1.0, 0.0])
        found = stable(net, mo.Box(low, high), budget=500)
        assert found.check()
        for x in points(rng, low, high):
            for z, sign in zip(exact_layers(net.layers[:-1], x), found.signs, strict=True):
                assert all(v * Fraction(int(s)) >= 0 for v, s in zip(z, sign, strict=True))
        point = stable(net, mo.Box(low, low))
        assert not np.concatenate(point.undecided).any()


def test_tampered_proofs_are_rejected():
    rng = np.random.default_rng(2)
    net = mo.Network.mlp(
        rng.normal(size=(8, 2)), rng.normal(size=8), rng.normal(size=(8, 8)),
        rng.normal(size=8) - 4.0, rng.normal(size=(1, 8)), [0.0], activation="relu",
    )  # fmt: skip
    found = stable(net, mo.Box(-1, 1))
    assert len(found.tree) > 1
    assert found.count(-1, 3) > 0
    assert found.check()
    with pytest.raises(mo.CertificateRejected, match="is not proved"):
        replace(found, tree=(-1,)).check()
    with pytest.raises(mo.CertificateRejected):
        replace(found, tree=found.tree[:-1]).check()
    with pytest.raises(mo.CertificateRejected, match="is not proved"):
        replace(found, box=mo.Box(-3, 3)).check()
    for l, signs in enumerate(found.signs):
        for unit in range(len(signs)):
            lie = [s.copy() for s in found.signs]
            lie[l][unit] = 1 if signs[unit] <= 0 else -1
            with pytest.raises(mo.CertificateRejected, match=f"unit {unit} of layer {l + 1}"):
                replace(found, signs=tuple(lie)).check()


def test_budget_progress_and_determinism():
    rng = np.random.default_rng(3)
    net = mo.Network.mlp(
        rng.normal(size=(12, 4)), rng.normal(size=12), rng.normal(size=(12, 12)),
        rng.normal(size=12) - 6, rng.normal(size=(1, 12)), [0.0], activation="relu",
    )  # fmt: skip
    seen = []
    few = stable(net, mo.Box(-1, 1), budget=20, progress=lambda *a: seen.append(a))
    assert few.boxes <= 20
    assert all(done <= total == 20 for done, total, _ in seen)
    assert few.status == ("bounded" if np.concatenate(few.undecided).any() else "proved")
    assert few.check()
    again = stable(net, mo.Box(-1, 1), budget=20)
    assert again.tree == few.tree
    assert again.to_json() == few.to_json()
    assert json.loads(json.dumps(few.to_json()))["schema"] == "moduli.stability/1"
    none = stable(net, mo.Box(-1, 1), budget=0)
    assert none.boxes == 0
    assert not np.concatenate(none.signs).any()


def test_other_activations_and_no_hidden_layer():
    rng = np.random.default_rng(4)
    for activation in ("tanh", "sigmoid", "abs", "softplus", "leaky_relu(0.1)"):
        net = random_network(rng, activation=activation, inputs=2)
        found = stable(net, mo.Box(-0.5, 0.5), budget=50)
        assert found.check()
        x = rng.uniform(-0.5, 0.5, (200, 2))
        seen = Points(net, mo.Box(-0.5, 0.5).of_dimension(2), rng)
        seen.look(x)
        signs = np.concatenate(found.signs)
        assert (seen.most[signs < 0] <= 0).all()
        assert (seen.least[signs > 0] >= 0).all()
    affine = stable(mo.Network.mlp([[1.0, 2.0]], [0.0]), mo.Box(-1, 1))
    assert affine.signs == ()
    assert affine.check()
    with pytest.raises(ValueError, match="Box"):
        stable(net, mo.Gaussian())


@pytest.mark.parametrize("size", [1e308, 1e154, 1e-308, 5e-324])
def test_boxes_and_weights_of_extreme_size(size):
    rng = np.random.default_rng(5)
    net = random_network(rng, inputs=2)
    for these, box in (
        (net, mo.Box(-size, size)),
        (net.with_flat(net.flat() * min(size, 1e300)), mo.Box(-1, 1)),
    ):
        found = stable(these, box, budget=100)
        assert found.check()
        for x in points(rng, *(np.full(2, side) / 4 for side in (box.low, box.high))):
            for z, sign in zip(exact_layers(these.layers[:-1], x), found.signs, strict=True):
                assert all(v * Fraction(int(s)) >= 0 for v, s in zip(z, sign, strict=True))


def test_layers_without_units():
    layers = (
        mo.Layer(np.zeros((0, 2)), np.zeros(0), mo.Activation("relu")),
        mo.Layer(np.zeros((1, 0)), np.ones(1), IDENTITY),
    )
    net = mo.Network(layers)
    assert propagation.linear(net.layers, -np.ones((1, 2)), np.ones((1, 2)))[1][1].tolist() == [
        [1.0]
    ]
    assert stable(net, mo.Box(-1, 1)).check()


def test_a_box_of_real_networks(shared):
    models = shared / "models"
    cartpole = mo.load(models / "rl_cartpole.onnx")
    found = stable(cartpole, mo.Box.from_vnnlib(models / "vnnlib" / "cartpole_case_safe_14.vnnlib"))
    assert found.count(-1) + found.count(1) == 125
    lindex = stable(mo.load(models / "nn4sys_lindex.onnx"), mo.Box(0, 1))
    assert (lindex.count(-1), lindex.count(1)) == (255, 50)
    assert lindex.check()
    tora = stable(mo.load(models / "TORA_ReLUtanh_controller.converted.onnx"), mo.Box(-2, 2))
    assert (tora.count(-1), tora.count(1)) == (18, 24)


@pytest.mark.slow
def test_collision_avoidance(shared):
    models = shared / "models"
    hcas = mo.load(models / "HCAS_rect_v6_pra0_tau00_25HU_3000.nnet")
    found = stable(hcas, hcas.frame.box)
    assert (found.count(-1), found.count(1)) == (14, 5)
    acas = mo.load(models / "acasxu_1_1.onnx")
    found = stable(acas, mo.Box.from_vnnlib(models / "vnnlib" / "acasxu_prop_1.vnnlib"))
    assert found.count(-1) >= 85
    assert found.check()


def test_the_search_believes_the_kernel(monkeypatch):
    """Should bounds differ between batches, the units that the tree does not prove are not claimed."""
    net = mo.Network.mlp(
        [[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0]], [-1.5], [[1.0]], [0.0], activation="relu"
    )
    real = input_splits.unproved
    monkeypatch.setattr(
        input_splits, "unproved", lambda *a: np.where(np.arange(3) == 2, 0, real(*a))
    )
    found = stable(net, mo.Box(-1, 1), budget=20)
    assert found.signs[1].tolist() == [0]
    assert found.undecided[1].tolist() == [-1]


# Work -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "budget"), [(20, 50), (20, 400), (150, 50), (150, 400), (400, 60)]
)
def test_a_budget_bounds_the_work_of_a_box_whatever_the_network(monkeypatch, width, budget):
    """Boxes of the search and of its replay, as many programs as count for them; points by the
    budget and a first look.
    """
    work, net = Work(monkeypatch), wide(width)
    found = stable(net, mo.Box(-1, 1), budget=budget)
    assert work.products <= 2 * budget * linear_programs.PRODUCTS + 4 * dearest(net)
    assert (
        work.steps
        <= (budget // linear_programs.BOXES + TOGETHER * linear_programs.LONG)
        * linear_programs.STEPS
    )
    assert work.forward <= 3 * budget * CLIMB + 40_000 * net.parameters
    assert found.boxes <= budget
    if width == 20:
        assert found.boxes == budget or found.status == "proved"
    assert found.check()


def test_what_was_found_when_the_budget_ends_is_kept():
    """More of a budget never proves fewer signs here, and the largest network has its share at
    once.
    """
    net, proved = wide(150), -1
    for budget in (1, 20, 200):
        found = stable(net, mo.Box(-1, 1), budget=budget)
        count = sum(int((s != 0).sum()) for s in found.signs)
        assert count >= max(proved, 1)
        proved = count
