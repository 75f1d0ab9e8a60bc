"""Leaving out units: accepted where nothing changes, refused elsewhere, judged by another evaluator."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.axes import units_from
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.operators import Concat, Contract, Linear, PerUnit, Transpose
from moduli.kernel.graph.removal import Rounds, remove

from ...support.graphs import Builder, run

ROWS = np.array([[1, 2], [2, 4], [0, 0], [3, 1], [0, 0]], dtype=np.float32)
BIAS = np.array([1, 2, 0.5, 1, -1], dtype=np.float32)
OUT = np.array([[1, 2, 3, 0, 4], [2, -1, 1, 0, 5]], dtype=np.float32)


def chain(kind="relu", *, rows=ROWS, bias=BIAS, out=OUT, **how):
    """Five units: the second twice the first, the third constant, the fourth unread, the fifth dead."""
    b = Builder("n", 2)
    h = b.each(kind, b.dense("x", "a", rows, bias))
    op = Linear(1, 1, 1, 0, free=((0, 0),), **how)
    inputs = (h, b.constant("c.w", out), b.constant("c.b", [0.5, 0.25]))
    return b.model(b.add(op, inputs, ("n", 2)))


def attempt(model, into, seed=("a.w", 0)):
    return attempted(model, into, seed)[1]


def attempted(model, into, seed=("a.w", 0), values=None):
    known = Known(model, {})
    return known, remove(known, units_from(model, seed), into, values)


def require_same(before, after):
    x = np.round(np.random.default_rng(0).normal(size=(9, 2)) * 64) / 8
    for ours, theirs in zip(run(after, {"x": x}), run(before, {"x": x}), strict=True):
        assert np.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "into", [{2: 1}, {1: 2}, {3: None}, {4: None}, {5: None}, {2: 1, 3: None, 4: None, 5: None}]
)
def test_what_may_go_goes(into):
    before = chain()
    after = attempt(before, into)
    assert len(after.constants["a.w"]) == len(after.constants["a.b"]) == 5 - len(into)
    assert after.constants["c.w"].shape == (2, 5 - len(into))
    require_same(before, after)


@pytest.mark.parametrize(
    "into",
    [{1: None}, {4: 1, 1: None}, {1: 4}, {2: 2}, {2: 1, 1: 2}, {6: None}, {0: None}, {}, {2: 7}],
)
def test_what_may_not_is_refused(into):
    with pytest.raises(CertificateRejected):
        attempt(chain(), into)


@pytest.mark.parametrize("kind", ["tanh", "sigmoid", "hardswish", "gelu"])
def test_multiples_do_not_pass_a_function_that_keeps_none(kind):
    with pytest.raises(CertificateRejected):
        attempt(chain(kind), {2: 1})


def test_opposites_pass_odd_functions_only():
    rows, bias = ROWS.copy(), BIAS.copy()
    rows[1], bias[1] = -rows[0], -bias[0]
    before = chain("tanh", rows=rows, bias=bias)
    require_same(before, attempt(before, {2: 1}))
    for kind in ("relu", "sigmoid", "leaky_relu"):
        if kind != "leaky_relu":
            with pytest.raises(CertificateRejected):
                attempt(chain(kind, rows=rows, bias=bias), {2: 1})


def test_constants_do_not_enter_readers_that_are_padded_or_see_a_part():
    for how in ({"padded": True}, {"uniform": False}):
        before = chain(**how)
        (y,) = before.outputs
        with pytest.raises(CertificateRejected, match="not constant there"):
            attempt(before, {3: None})
        with pytest.raises(CertificateRejected, match=r"may not take unit 3 for 0\.5"):
            attempted(before, {3: None}, values={(y, 2): 0.5})
        # as if it were zero, and what that costs: half of each of its weights
        known, small = attempted(before, {3: None}, values={(y, 2): 0.0})
        assert small.constants["c.b"].tolist() == [0.5, 0.25]
        (lost,) = known.rounded.values()
        assert lost.whole((2,)) == pytest.approx(np.array([1.5, 0.5]))
        require_same(chain(), attempt(chain(), {5: None}))


@pytest.mark.parametrize("value", [0.5, 0.25, -7.0, 1e9])
def test_a_number_costs_what_it_is_wrong_by(value):
    """Unit 3 is 1/2, whatever x is: as if it were another number, and its weights times the difference."""
    before = chain()
    known, small = attempted(before, {3: None}, values={(before.outputs[0], 2): value})
    assert small.constants["c.b"].tolist() == [
        np.float32(0.5 + 3 * value),
        np.float32(0.25 + value),
    ]
    lost = known.rounded["c.b"].whole((2,)) if known.rounded else np.zeros(2)
    off = abs(value - 0.5) * np.array([3, 1])
    assert (lost >= off).all()
    assert (lost <= off * (1 + 1e-6)).all()


@pytest.mark.parametrize("unit", [1, 2])
def test_no_number_stands_for_what_has_no_bounds(unit):
    before = chain()
    with pytest.raises(CertificateRejected, match="may not take"):
        attempted(before, {unit: None}, values={(before.outputs[0], unit - 1): 0.0})


def test_a_constant_needs_a_place_to_go():
    b = Builder("n", 2)
    h = b.each("relu", b.dense("x", "a", ROWS, BIAS))
    bare = b.model(b.dense(h, "c", OUT))
    with pytest.raises(CertificateRejected, match="no bias"):
        attempt(bare, {3: None})
    b = Builder("n", 2)
    h = b.each("relu", b.dense("x", "a", ROWS, BIAS))
    y = b.each("sub", b.dense(h, "c", OUT), b.constant("s", [1.0, 2.0]))
    before = b.model(y)
    after = attempt(before, {3: None})
    assert after.constants["s"].tolist() == [1 - 1.5, 2 - 0.5]
    require_same(before, after)


def test_the_mean_of_a_batch_norm_takes_a_constant():
    b = Builder("n", 2)
    h = b.each("relu", b.dense("x", "a", ROWS, BIAS))
    names = [
        b.constant(n, v) for n, v in zip("gbmv", ([1, 2], [3, 4], [0.5, 1], [1, 2]), strict=True)
    ]
    y = b.add(PerUnit("batchnorm", 1, (0.25,)), (b.dense(h, "c", OUT), *names), ("n", 2))
    before = b.model(y)
    after = attempt(before, {3: None})
    assert after.constants["m"].tolist() == [0.5 - 1.5, 1 - 0.5]
    require_same(before, after)


def test_what_is_lost_by_rounding_is_told():
    tenth = np.float32(0.1)
    out, bias = OUT.copy(), BIAS.copy()
    out[0, 2] = bias[2] = tenth
    known, small = attempted(chain(out=out, bias=bias), {3: None})
    lost = known.rounded["c.b"].whole((2,))
    for i, start in enumerate((Fraction(1, 2), Fraction(1, 4))):
        exact = start + Fraction(float(out[i, 2])) * Fraction(float(tenth))
        off = abs(Fraction(float(small.constants["c.b"][i])) - exact)
        assert 0 < off <= Fraction(lost[i]) <= off * Fraction(101, 100)
    rows, third = ROWS.copy(), BIAS.copy()
    rows[1], third[1] = 3 * rows[0], 3 * third[0]
    known, small = attempted(chain(rows=rows, bias=third), {1: 2})
    for i in range(2):
        exact = Fraction(float(OUT[i, 1])) + Fraction(float(OUT[i, 0])) / 3
        off = abs(Fraction(float(small.constants["c.w"][i, 0])) - exact)
        assert 0 < off <= Fraction(known.rounded["c.w"].whole((2, 4))[i, 0])


def test_what_was_rounded_is_known_no_more_and_waits_for_another_round():
    rows, third = ROWS.copy(), BIAS.copy()
    rows[1], third[1] = 3 * rows[0], 3 * third[0]
    before = chain(rows=rows, bias=third)
    known, _ = attempted(before, {1: 2})
    assert known.array("c.w") is None
    assert set(known.of(("c.w", 0)).ratios) == {1}
    with pytest.raises(CertificateRejected, match="no constants"):
        remove(known, units_from(known.graph, ("a.w", 0)), {2: None})
    # a zero unit goes with its column, and what was lost elsewhere stays told
    lost = known.rounded["c.w"].whole((2, 4))
    known.rounded["c.w"] = known.rounded["c.w"].take(1, np.array([0, 1, 3]))
    assert np.array_equal(known.rounded["c.w"].whole((2, 3)), lost[:, [0, 1, 3]])
    assert np.array_equal(
        known.rounded["c.w"].take(0, np.array([1])).whole((1, 3)), lost[1:, [0, 1, 3]]
    )


def test_what_the_stored_type_cannot_hold_at_all_is_refused():
    rows = ROWS.copy()
    rows[1] = rows[0]
    same = BIAS.copy()
    same[1] = same[0]
    out = OUT.copy()
    out[0, :2] = np.finfo(np.float32).max
    with pytest.raises(Rounds, match="beyond"):
        attempt(chain(rows=rows, bias=same, out=out), {2: 1})


def test_sums_that_pass_through_numbers_float64_lacks_are_still_exact():
    rows = np.zeros((3, 2), dtype=np.float32)
    rows[0] = 1
    bias = np.array([0, 1, 1], dtype=np.float32)
    out = np.array([[1, 2.0**60, -(2.0**60)], [0, 1, 0]], dtype=np.float32)
    before = chain(rows=rows, bias=bias, out=out)
    after = attempt(before, {2: None, 3: None})
    assert after.constants["c.b"].tolist() == [0.5, 1.25]


def test_weights_that_two_nodes_read_change_once_if_both_ask_for_the_same():
    b = Builder("n", 2)
    left = b.each("relu", b.dense("x", "a", ROWS, BIAS))
    right = b.each("abs", b.nodes[0].output)
    op = Linear(1, 1, 1, 0, free=((0, 0),))
    w = b.constant("c.w", OUT)
    one, two = (b.add(op, (h, w), ("n", 2)) for h in (left, right))
    before = b.model(b.each("add", one, two))
    after = attempt(before, {2: 1})
    require_same(before, after)
    with pytest.raises(CertificateRejected, match=r"read by several|no bias"):
        attempt(before, {3: None})


def test_an_axis_keeps_one_unit():
    rows = np.zeros((2, 2), dtype=np.float32)
    model = chain(rows=rows, bias=np.zeros(2), out=np.ones((2, 2)))
    with pytest.raises(CertificateRejected, match="nothing would be left"):
        attempt(model, {1: None, 2: None})


def test_a_product_of_two_tensors_loses_what_is_zero_in_one():
    b = Builder("n", 3, 2)
    q, k = b.dense("x", "q", ROWS, [1, 2, 0, 1, 0]), b.dense("x", "k", ROWS[::-1], BIAS)
    turned = b.add(Transpose((0, 2, 1)), (k,), ("n", 5, 3))
    before = b.model(b.add(Contract(), (q, turned), ("n", 3, 3)))
    after = attempt(before, {3: None}, ("q.w", 0))
    assert after.constants["k.w"].shape == (4, 2)
    x = np.random.default_rng(0).normal(size=(2, 3, 2))
    assert np.allclose(run(before, {"x": x})[0], run(after, {"x": x})[0])
    with pytest.raises(CertificateRejected, match="not zero"):
        attempt(before, {1: None}, ("q.w", 0))


def test_groups_go_whole_and_stay_equal():
    b = Builder("n", 2)
    h = b.dense("x", "a", np.arange(12.0).reshape(6, 2), np.zeros(6))
    weight = np.arange(1.0, 19.0).reshape(9, 2)
    g = b.add(
        Linear(1, 1, 1, 0, groups=3, free=((0, 0),)), (h, b.constant("g.w", weight)), ("n", 9)
    )
    out = np.ones((2, 9))
    out[:, 3:6] = 0
    before = b.model(b.dense(g, "d", out))
    after = attempt(before, {2: None})
    assert after.makers[g].op.groups == 2
    assert after.constants["g.w"].shape == (6, 2)
    require_same(before, after)
    with pytest.raises(CertificateRejected):
        attempt(before, {1: None})


def test_parts_of_a_concatenation_lose_their_own():
    b = Builder("n", 2)
    left, right = b.dense("x", "a", ROWS, BIAS), b.dense("x", "e", ROWS, BIAS)
    both = b.add(Concat(1), (left, right), ("n", 10))
    out = np.ones((2, 10))
    out[:, 1] = 0
    before = b.model(b.dense(both, "d", out))
    after = attempt(before, {2: None})
    assert len(after.constants["a.w"]) == 4
    assert len(after.constants["e.w"]) == 5
    require_same(before, after)
