"""Bounds of what other stored numbers do: never below what an evaluator sees, and near it where one
layer follows another.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moduli.kernel.graph.differences import Differences, difference
from moduli.kernel.graph.facts import Known, Loss
from moduli.kernel.graph.functions import SLOPES, slope
from moduli.kernel.graph.operators import (
    Broadcast,
    Concat,
    Contract,
    Linear,
    Lookup,
    Opaque,
    PerUnit,
    Reshape,
    Size,
    Slicewise,
    Take,
    Transpose,
)
from moduli.kernel.slack import NO_SLACK

from ...support.graphs import FUNCTIONS, OF_INTEGERS, Builder, run

NUMBERS = {
    "clip": (-1.0, 1.0),
    "leaky_relu": (0.25,),
    "hardsigmoid": (0.25, 0.5),
    "elu": (1.0,),
    "celu": (1.0,),
    "selu": (1.67326, 1.0507),
}
GIVEN = {k: v for k, v in NUMBERS.items() if k not in ("elu", "celu", "selu")}  # to the evaluator
ROWS = np.array([[1, 2], [-1, 3], [2, 0.5]])
OUT = np.array([[1.0, -2.0, 3.0], [0.5, 1.0, -1.0]])


def other(model, rng, size, only=None):
    """The same graph with other numbers."""
    constants = {}
    for name, array in model.constants.items():
        moved = size * rng.uniform(-1, 1, array.shape)
        keep = only is not None and name not in only
        constants[name] = array if keep else (array + moved).astype(np.float32)
    return replace(model, constants=constants)


def deviation_of(a, b):
    def deviation(name):
        x, y = (np.asarray(m.constants[name], dtype=np.float64) for m in (a, b))
        return None if np.array_equal(x, y) else np.asarray(np.nextafter(np.abs(x - y), np.inf))

    return deviation


def seen(a, b, feeds):
    pairs = zip(run(a, feeds), run(b, feeds), strict=True)
    return max(float(np.abs(x - y).max(initial=0)) for x, y in pairs)


def required(model, *, ranges=None, only=None, size=2.0**-6, shape=None, finite=True):
    """The slack for a few sets of other numbers, at least what is seen at many inputs."""
    rng = np.random.default_rng(0)
    ranges = ranges or {}
    known, found = Known(model, ranges), []
    for _ in range(4):
        twin = other(model, rng, size, only)
        slack = difference(twin, deviation_of(model, twin), known)
        assert slack.finite == finite
        most = 0.0
        for reach in (0.0, 0.25, 1.0, 8.0):
            feeds = {}
            for name in model.inputs:
                wide = [n if isinstance(n, int) else 3 for n in model.shapes[name]]
                x = reach * rng.uniform(-1, 1, (*(shape or wide),))
                feeds[name] = np.clip(x, *ranges[name]) if name in ranges else x
            apart = seen(model, twin, feeds)
            largest = max(float(np.abs(x).max()) for x in feeds.values())
            assert apart <= slack.within(largest) * (1 + 1e-9) + 1e-12
            most = max(most, apart / max(slack.within(largest), 1e-300))
        found.append((slack, most))
    return found


def two_layers(middle):
    b = Builder("n", 2)
    h = middle(b, b.dense("x", "a", ROWS, [1, -2, 0.5]))
    return b.model(b.dense(h, "c", OUT, [1, 2]))


@pytest.mark.parametrize("kind", sorted(SLOPES))
def test_slopes_are_bounds_and_hardly_more(kind):
    x = np.linspace(-12, 12, 200_001)
    y = FUNCTIONS[kind](x, *GIVEN.get(kind, ()))
    steepest = np.abs(np.diff(y) / np.diff(x)).max()
    bound = slope(kind, NUMBERS.get(kind, ()))
    assert (
        steepest
        <= bound * (1 + 1e-9)
        <= max(1.02 * steepest, 1.0 + 1e-6, bound if kind == "selu" else 0)
    )


def test_slopes_that_are_not_known():
    assert slope("exp") == slope("sqrt") == slope("somebody's") == np.inf
    assert slope("celu", (-1.0,)) == slope("leaky_relu", (np.nan,)) == np.inf
    assert slope("elu", (3.0,)) == 3.0
    assert slope("leaky_relu", (-4.0,)) == 4.0


@pytest.mark.parametrize("kind", sorted(set(SLOPES) - set(OF_INTEGERS)))
def test_a_function_between_layers(kind):
    numbers = GIVEN.get(kind, NUMBERS.get(kind, ()))
    model = two_layers(lambda b, h: b.each(kind, h, numbers=numbers))
    if kind in GIVEN or kind not in NUMBERS:
        required(model)
    else:
        known = Known(model, {})
        assert difference(
            model, deviation_of(model, other(model, np.random.default_rng(0), 1)), known
        ).finite


def test_one_layer_is_bounded_as_well_as_can_be():
    b = Builder("n", 2)
    model = b.model(b.dense("x", "a", ROWS, [1, -2, 0.5]))
    twin = replace(
        model, constants={**model.constants, "a.w": (ROWS + [[0.5, -0.25]]).astype(np.float32)}
    )
    slack = difference(model, deviation_of(model, twin), Known(model, {}))
    assert (slack.constant, slack.growth) == pytest.approx((0, 0.75))
    assert seen(model, twin, {"x": np.array([[1.0, -1.0]])}) == 0.75


def test_equal_numbers_are_no_difference_whatever_reads_them():
    b = Builder("n", 2)
    h = b.dense("x", "a", ROWS)
    model = b.model(b.add(Opaque("Mystery"), [h], ("n", 3)))
    assert difference(model, lambda name: None, Known(model, {})) == NO_SLACK
    twin = other(model, np.random.default_rng(0), 1.0)
    assert not difference(model, deviation_of(model, twin), Known(model, {})).finite


BINARY = {
    "add": lambda b, h, g: b.each("add", h, g),
    "sub": lambda b, h, g: b.each("sub", h, g),
    "max": lambda b, h, g: b.each("max", h, g),
    "min": lambda b, h, g: b.each("min", h, g),
    "gate": lambda b, h, g: b.each("mul", h, b.each("sigmoid", g)),
    "stored factor": lambda b, h, g: b.each("mul", h, b.constant("s", [2.0, -1.0, 0.5])),
    "stored divisor": lambda b, h, g: b.each("div", h, b.constant("fixed", [2.0, -1.0, 0.5])),
    "slopes": lambda b, h, g: b.each("prelu", h, b.constant("fixed", [2.0, -1.0, 0.5])),
    "chosen": lambda b, h, g: b.each("where", b.constant("fixed", [1.0, 0.0, 1.0]), h, g),
}


@pytest.mark.parametrize("name", sorted(BINARY))
def test_functions_of_two_values(name):
    b = Builder("n", 2)
    h, g = b.dense("x", "a", ROWS, [1, -2, 0.5]), b.dense("x", "g", ROWS[::-1], [0, 1, 0.5])
    model = b.model(b.dense(BINARY[name](b, h, g), "c", OUT))
    required(model, only={x for x in model.constants if x != "fixed"})


def test_products_of_values_are_bounded_on_a_box():
    b = Builder("n", 2)
    h, g = b.dense("x", "a", ROWS), b.dense("x", "g", ROWS[::-1])
    model = b.model(b.each("mul", h, g))
    required(model, finite=False)
    on_box = required(model, ranges={"x": (np.array(-1.0), np.array(1.0))})
    assert all(slack.growth == 0 for slack, _ in on_box)


def test_powers_and_roots():
    ranges = {"x": (np.array(-1.0), np.array(1.0))}
    for k in (2.0, 3.0, 4.0):
        b = Builder("n", 2)
        power = b.each("pow", b.dense("x", "a", ROWS), b.constant("k", [k]))
        required(b.model(power), ranges=ranges, only={"a.w"})
    b = Builder("n", 2)
    square = b.each("pow", b.dense("x", "a", ROWS), b.constant("k", [2.0]))
    root = b.each("sqrt", b.each("add", square, b.constant("e", [1.0])))
    required(b.model(root), ranges=ranges, only={"a.w"})
    b = Builder("n", 2)  # the root of what may be close to zero is as steep as can be
    near = b.each("add", b.each("abs", b.dense("x", "a", ROWS)), b.constant("e", [0.0]))
    required(b.model(b.each("sqrt", near)), ranges=ranges, only={"a.w"}, finite=False)
    b = Builder("n", 2)
    relu = b.each("relu", b.dense("x", "a", ROWS))
    root = b.each("sqrt", b.each("add", relu, b.constant("e", [1.0])))
    required(b.model(root), ranges=ranges, only={"a.w"})


def test_what_no_rule_bounds_is_infinite():
    for kind in ("exp", "tan", "sign", "round"):
        required(two_layers(lambda b, h, kind=kind: b.each(kind, h)), finite=False)
    b = Builder("n", 2)
    h, g = b.dense("x", "a", ROWS), b.dense("x", "g", ROWS)
    known = {"x": (np.array(0.1), np.array(1.0))}
    required(b.model(b.each("div", h, g)), ranges=known, finite=False)


def test_quotients_of_what_stays_away_from_zero():
    b = Builder("n", 2)
    h, g = b.dense("x", "a", ROWS), b.dense("x", "g", ROWS)
    known = {"x": (np.array(0.5), np.array(1.0))}
    found = required(b.model(b.each("div", h, g)), ranges=known)
    assert max(most for _, most in found) > 0.05
    required(b.model(b.each("div", h, g)), ranges=known, size=4.0, finite=False)


IMAGE = (2, 4)


@pytest.mark.parametrize(
    "op",
    [
        Slicewise("max", ((0, 0), (1, 1)), homogeneous=True, keeps=True, zero=True, hull=True),
        Slicewise("mean", ((0, 0), (1, 1)), linear=True, keeps=True, zero=True, hull=True),
        Slicewise("sum", ((0, 0), (1, 1)), linear=True, zero=True),
        Slicewise("softmax", ((0, 0), (1, 1))),
    ],
)
def test_functions_of_slices(op):
    b = Builder("n", 2, 4)
    h = b.dense("x", "a", np.arange(12).reshape(3, 4) - 5.0, [1, 2, -1])
    made = ("n", 2, 3) if op.kind == "softmax" else ("n", 2, 1)
    required(b.model(b.add(op, [h], made)))


def normalised(op, count, *, scale=True):
    b = Builder("n", 2)
    h = b.dense("x", "a", np.arange(2.0 * count).reshape(count, 2) / 8, np.ones(count))
    inputs = [h, b.constant("s", np.linspace(-2, 2, count)), b.constant("t", np.ones(count))]
    return b.model(b.add(op, inputs[: 3 if scale else 1], ("n", count)))


def run_norm(model, x, center, scale):
    h = x @ model.constants["a.w"].T.astype(float) + model.constants["a.b"]
    u = h - h.mean(axis=-1, keepdims=True) if center else h
    u = u / np.sqrt((u * u).mean(axis=-1, keepdims=True) + 0.25)
    return u * model.constants["s"] + model.constants["t"] if scale else u


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_norms(center, scale):
    op = Slicewise("LayerNormalization", ((0, 0),), normalises=0.25)
    model = normalised(op, 5, scale=scale)
    known, rng = Known(model, {}), np.random.default_rng(0)
    for size in (2.0**-10, 1.0, 16.0):
        twin = other(model, rng, size, only={"a.w", "a.b"})
        slack = difference(twin, deviation_of(model, twin), known)
        assert slack.constant <= 2 * np.sqrt(5) * 2 * (1 + 1e-9)
        for reach in (0.1, 1.0, 10.0):
            x = reach * rng.uniform(-1, 1, (50, 2))
            apart = np.abs(
                run_norm(model, x, center, scale) - run_norm(twin, x, center, scale)
            ).max()
            assert apart <= slack.within(reach)
    if scale:  # what it gives is multiplied by may be anything where that differs
        every = other(model, rng, 1)
        assert not difference(model, deviation_of(model, every), known).finite
    bare = normalised(replace(op, normalises=None), 5)
    assert not difference(bare, deviation_of(bare, other(bare, rng, 1)), Known(bare, {})).finite


def test_attention_is_bounded_by_the_largest_value():
    def model(kind):
        b = Builder("n", 5, 2)
        q, k, v = (b.dense("x", name, ROWS[:2] / 4, [0.5, -0.5]) for name in "qkv")
        turned = b.add(Transpose((0, 2, 1)), [k], ("n", 2, 5))
        scores = b.add(Contract(), [b.each("tanh", q), b.each("tanh", turned)], ("n", 5, 5))
        w = b.add(Slicewise(kind, ((0, 0), (1, 1))), [scores], ("n", 5, 5))
        return b.model(b.add(Contract(), [b.each("identity", w), v], ("n", 5, 2)))

    required(model("softmax"))
    for _, most in required(model("softmax"), ranges={"x": (np.array(-1.0), np.array(1.0))}):
        assert most > 0.02


def test_products_of_matrices():
    b = Builder("n", 5, 2)
    q, k = (b.each("tanh", b.dense("x", name, ROWS)) for name in "qk")
    turned = b.add(Transpose((0, 2, 1)), [k], ("n", 3, 5))
    required(b.model(b.add(Contract(), [q, turned], ("n", 5, 5))))


def test_other_places():
    b = Builder("n", 2)
    h = b.dense("x", "a", ROWS, [1, -2, 8])
    g = b.dense("x", "g", OUT[:, :2], [0.5, 0])
    both = b.add(Concat(1), [h, g], ("n", 5))
    taken = b.add(Take(1, (4, 0, 2, 2)), [both], ("n", 4))
    turned = b.add(Reshape((((1,), (1, 2)),), (None, 2, 2), ((0, 0),)), [taken], ("n", 2, 2))
    turned = b.add(Transpose((0, 2, 1)), [turned], ("n", 2, 2))
    flat = b.add(Reshape((((1, 2), (1,)),), (None, 4), ((0, 0),)), [turned], ("n", 4))
    one = b.add(Take(1, (1,), drop=True), [both], ("n",))
    model = b.model(b.dense(flat, "c", np.eye(4)), one, b.dense(both, "d", np.ones((1, 5))))
    for _, most in required(model):
        assert most > 0.2
    # the index with the large difference, and it alone
    known = Known(model, {})
    lost = Loss(0, {2: np.array([1.0, 1.0])})
    found = Differences(model, lambda name: lost.whole((3, 2)) if name == "a.w" else None, known)
    gap = found.pair(flat)[1]
    assert (gap[0, :, 1] > 0).tolist() == [False, True, False, True]


def test_a_table_and_a_repeated_row():
    b = Builder("n", 4, name="ids")
    table = b.constant("table", np.arange(12).reshape(6, 2))
    rows = b.add(Lookup(0), [table, "ids"], ("n", 4, 2))
    model = b.model(b.dense(rows, "c", ROWS))
    twin = other(model, np.random.default_rng(0), 0.5)
    slack = difference(model, deviation_of(model, twin), Known(model, {}))
    ids = {"ids": np.arange(24).reshape(6, 4) % 6}
    assert 0.1 < seen(model, twin, ids) / slack.constant <= 1
    b = Builder("n", 2)
    row = b.constant("row", [[1.0, 2.0]])
    wide = b.add(Broadcast((3, 2)), [row], (3, 2))
    model = b.model(b.add(Contract(), ["x", b.add(Transpose((1, 0)), [wide], (2, 3))], ("n", 3)))
    required(model)


def test_a_batch_norm_whose_mean_or_shift_changes():
    b = Builder("n", 2)
    h = b.dense("x", "a", ROWS)
    names = [
        b.constant(n, v)
        for n, v in zip("gbmv", ([2, -1, 0], [1, 2, 3], [0, 1, 2], [1, 4, 9]), strict=True)
    ]
    model = b.model(b.add(PerUnit("batchnorm", 1, (1e-3,)), [h, *names], ("n", 3)))
    for slack, most in required(model, only={"a.w", "b", "m"}):
        assert slack.finite
        assert most > 0.2
    required(model, only={"v"}, finite=False)
    for _, most in required(model, only={"g"}):
        assert most > 0.2


def test_groups_and_blocks_of_rows():
    rng = np.random.default_rng(0)
    b = Builder("n", 6)
    w = b.constant("w", rng.normal(size=(4, 3)))
    model = b.model(b.add(Linear(1, 1, 1, 0, groups=2, free=((0, 0),)), ["x", w], ("n", 4)))
    for _, most in required(model):
        assert most > 0.2
    b = Builder("n", 900)
    model = b.model(b.dense("x", "a", rng.normal(size=(700, 900))))
    required(model, size=2.0**-10)


def test_sizes_are_the_same():
    b = Builder(3, 2)
    h = b.dense("x", "a", ROWS)
    count = b.add(Size(((0, 1),)), [h], ())
    model = b.model(b.each("mul", "x", count))
    twin = other(model, np.random.default_rng(0), 1.0)
    assert difference(model, deviation_of(model, twin), Known(model, {})) == NO_SLACK


def test_nothing_is_bounded_of_weights_that_are_computed():
    b = Builder("n", 2)
    w = b.each("tanh", b.constant("w", ROWS))
    model = b.model(b.add(Linear(1, 1, 1, 0, free=((0, 0),)), ["x", w], ("n", 3)))
    required(model, finite=False)


def test_units_that_are_off_in_both_are_not_apart():
    b = Builder("n", 2)
    h = b.dense("x", "a", [[1, 1], [1, -1]], [-3, 0])
    model = b.model(b.each("relu", h))
    ranges = {"x": (np.array(-1.0), np.array(1.0))}
    twin = replace(model, constants={**model.constants, "a.b": np.array([-2.9, 0.1], np.float32)})
    gap = Differences(twin, deviation_of(model, twin), Known(model, ranges)).pair("t1")[1]
    assert gap.reshape(-1, 2)[0].tolist() == [0.0, 0.0]
    assert gap.reshape(-1, 2)[1, 0] == pytest.approx(0.1, rel=1e-5)
    near = replace(model, constants={**model.constants, "a.b": np.array([-1.9, 0.1], np.float32)})
    gap = Differences(near, deviation_of(model, near), Known(model, ranges)).pair("t1")[1]
    assert gap.reshape(-1, 2)[0, 0] > 1.0
    clipped = b.model(b.each("clip", h, numbers=(-1.0, 9.0)))
    twin = replace(clipped, constants={**model.constants, "a.b": np.array([-3.1, 12], np.float32)})
    gap = Differences(twin, deviation_of(clipped, twin), Known(clipped, ranges)).pair("t2")[1]
    assert gap.reshape(-1, 2)[:, 0] == pytest.approx([0.1, 10.0], rel=1e-5)
