"""Random graphs on boxes of inputs, briefly; `python -m tests.adversarial.graph_box_fuzz --count N`
tries more.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from fractions import Fraction

import graph_box_fuzz as boxes
import many_seeds
import numpy as np
import pytest
from any_numbers import DOUBLE, RATIONAL, Runner
from graph_fuzz import Case, Wrong, no_chain
from onnx import numpy_helper, parser

from moduli.formats.onnx.graph_files import read_graph
from moduli.kernel.graph import differences, slices, sums
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.operators import Transpose


def require_none(total, count):
    assert not many_seeds.wrong(total), total
    assert total["graphs"] > 0.7 * count, "a fuzzer that skips everything teaches nothing"
    assert total["trials"] > 15 * count, total
    assert total["attained"] > 0.3 * total["trials"], "a bound that is never reached is not tried"
    assert total["compressed"] > 0.3 * count, total
    assert total["unsure"] < 0.1 * total["judged"], total


def test_some_boxes():
    require_none(boxes.run(range(18)), 18)


@pytest.mark.slow
def test_hundreds_of_trials():
    require_none(boxes.run(range(10_000, 10_024)), 24)


def test_the_same_number_tries_the_same():
    assert boxes.run([7]) == boxes.run([7])


# What is false is found -----------------------------------------------------------------------------------------


def case_of(text, shapes, **weights):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.float32(array), name))
    return Case(model, {}, shapes, (), {})


def layers():
    rng = np.random.default_rng(0)
    w, v = rng.integers(-8, 9, (8, 3)) / 8, rng.integers(1, 9, (3, 2)) / 8
    text = """(float[n,8] x) => (float[n,2] y) {
        h = MatMul(x, w) r = Sigmoid(h) p = MatMul(r, v) y = Add(p, b) }"""
    return case_of(text, {"x": (1, 8)}, w=w, v=v, b=np.zeros(2))


def caught(case, seeds=range(8)):
    """The kinds of what is found."""
    found = set()
    for seed in seeds:
        try:
            boxes.checked(case, seed)
        except Wrong as error:
            found.add(error.kind)
    return found


def test_a_bound_that_is_too_narrow_is_found(monkeypatch):
    true = sums._sums

    def narrow(*args):
        low, high = true(*args)
        return low, np.where(np.isfinite(high), high * (1 - 2.0**-40), high)

    monkeypatch.setattr(sums, "_sums", narrow)
    assert "bounds" in caught(layers())


def test_a_constant_that_is_none_is_found(monkeypatch):
    monkeypatch.setattr(sums.Linear, "_value", lambda *_: Fraction(1, 4))
    monkeypatch.setattr(sums.Linear, "_varies", lambda _, rows, *rest: np.zeros(len(rows), bool))
    assert caught(layers()) & {"bounds", "constant"}


def test_a_multiple_that_is_none_is_found(monkeypatch):
    text = "(float[3,2,3] x) => (float[3,2,3] y) { t = Transpose<perm=[2,1,0]>(x) y = Add(x, t) }"

    def careless(self, node, axis, facts):
        return facts.of((node.inputs[0], self.order[axis]))

    monkeypatch.setattr(Transpose, "slices", careless)
    assert "multiple" in caught(case_of(text, {"x": (3, 2, 3)}))


def test_a_slack_that_is_too_small_is_found(monkeypatch):
    monkeypatch.setattr(boxes, "EPSILONS", (8.0,))
    assert caught(layers(), range(4)) == set()
    monkeypatch.setattr(differences.Differences, "stored_gap", lambda *_: None)
    assert "outputs" in caught(layers(), range(4))


def one_sum():
    """The largest value of a sum on a box, which is no float."""
    w = np.full((8, 1), 0.1)
    case = case_of("(float[n,8] x) => (float[n,1] y) { y = MatMul(x, w) }", {"x": (1, 8)}, w=w)
    graph = read_graph(case.model.SerializeToString(), None, "g", no_chain)
    feeds = {"x": np.full((1, 8), 0.3)}
    exact = 8 * Fraction(float(np.float32(0.1))) * Fraction(0.3)
    known = Known(graph.model, {"x": (np.array(-0.3), np.array(0.3))})
    return Runner(case.model), known, feeds, exact


@pytest.mark.parametrize("holds", [True, False])
def test_bounds_are_held_to_the_last_bit(holds):
    runner, known, feeds, exact = one_sum()
    facts = known.found["y", 1]
    facts.high[:] = slices._above(exact) if holds else slices._below(exact)
    fails = nullcontext() if holds else pytest.raises(Wrong, match="rationals")
    with fails:
        boxes.judged(runner, boxes.Claims(known), feeds, Counter())


def test_a_corner_is_found_uphill():
    """Of 2^24 corners one is the largest; random points are far from it."""
    rng = np.random.default_rng(0)
    w = np.where(rng.random((24, 1)) < 0.5, 1.0, -1.0)
    case = case_of("(float[n,24] x) => (float[n,1] y) { y = MatMul(x, w) }", {"x": (1, 24)}, w=w)
    runner = Runner(case.model)
    ends = np.full(24, -1.0), np.full(24, 1.0)
    region = boxes.Region("number", {}, None, {"x": (1, 24)}, True, *ends)
    claim = boxes.Claim("y", 1, np.array([-24.0]), np.array([24.0]), {})
    scores = boxes.slice_scores(runner, region, claim, 0, 1)
    seen = boxes.points(rng, region, 40)
    assert scores(seen).max() < 20
    assert boxes.climbed(rng, region, scores, seen[0])[1] == 24


def test_rationals_reach_through_a_graph():
    """Where an operator knows numbers of 64 bits alone, nothing behind it is held to the last bit."""
    text = """(float[2,3,4,4] x) => (float[n,m] y) {
        a = LeakyRelu(x) b = HardSigmoid(a) c = BatchNormalization<epsilon=0.25>(b, s, s, s, v)
        d = MaxPool<kernel_shape=[2,2]>(c) e = AveragePool<kernel_shape=[2,2]>(d) f = Flatten(e)
        y = Gemm<alpha=0.1>(f, w) }"""
    case = case_of(text, {}, s=np.full(3, 0.3), v=[0.75, 3.75, 0], w=np.full((12, 2), 0.7))
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
    runner = Runner(case.model)
    found = [runner.run({"x": x}, dtype)["y"] for dtype in (RATIONAL, DOUBLE)]
    assert found[0].dtype == RATIONAL
    np.testing.assert_allclose(found[0].astype(float), found[1], rtol=1e-12)
