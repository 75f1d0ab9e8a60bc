"""Units by other numbers: which nodes commute with that; graphs as files are in `test_graph_scales`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from moduli.equivalence.graph_scales import gauges
from moduli.equivalence.graph_units import UnitSets, exchangeable_units
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.certificate import GraphCertificate, GraphMove, factors_of, played
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
from moduli.kernel.graph.scaling import laws, require_laws, scaled
from moduli.kernel.slack import NO_SLACK

from ...support.graphs import Builder, run

RNG = np.random.default_rng(0)
IN, OUT = RNG.normal(size=(4, 2)), RNG.normal(size=(3, 4))
BIAS = RNG.normal(size=4)


def stream(bias=BIAS):
    """Four units that two inputs make."""
    b = Builder("n", 2)
    return b, b.dense("x", "a", IN, bias)


def whole(model):
    """Sets of units as they are, heads not apart."""
    return UnitSets(model, tuple(exchangeable_units(model)), model, ())


def ended(b, h):
    return b.model(b.dense(h, "z", np.resize(OUT, (3, b.shapes[h][-1]))))


def found(model):
    """Gauges that graphs have, each tried: the function stays; with any power changed it is another, or the
    kernel refuses. How many are of signs and how many of sizes, joint ones apart.
    """
    every = gauges(whole(model))
    for gauge in every:
        numbers = (
            RNG.choice([-1.0, 1.0], gauge.free)
            if gauge.sign
            else 2.0 ** RNG.integers(1, 4, gauge.free)
        )
        numbers[0] = -1.0 if gauge.sign else 2.0
        move = gauge.move(numbers)
        same(model, [move])
        for k, (name, axis, power) in enumerate(move.powers):
            for other in (power + 1, power - 1, -power):
                powers = [*move.powers]
                powers[k] = (name, axis, other)
                same(model, [replace(move, powers=tuple(powers))], or_refused=True)
    return Counter((x.sign, x.joint) for x in every)


def same(model, moves, *, or_refused=False):
    try:
        moved, slack = played(model, moves, {})
    except CertificateRejected:
        assert or_refused
        return
    assert slack == NO_SLACK
    feeds = {
        name: RNG.normal(size=[3 if n == "n" else n for n in model.shapes[name]])
        for name in model.inputs
    }
    for before, after in zip(run(model, feeds), run(moved, feeds), strict=True):
        assert np.allclose(before, after, rtol=1e-6, atol=1e-6)


SIZE, SIGN, ALL_SIZES, ALL_SIGNS = (False, False), (True, False), (False, True), (True, True)


@pytest.mark.parametrize(
    ("kind", "numbers", "sizes", "signs"),
    [
        ("identity", (), 1, 1), ("neg", (), 1, 1), ("relu", (), 1, 0), ("leaky_relu", (0.1,), 1, 0),
        ("abs", (), 1, 1), ("tanh", (), 0, 1), ("erf", (), 0, 1), ("sin", (), 0, 1), ("cos", (), 0, 1),
        ("cosh", (), 0, 1), ("sigmoid", (), 0, 0), ("clip", (0.0, 6.0), 0, 0), ("gelu", (), 0, 0), ("silu", (), 0, 0),
        ("softplus", (), 0, 0), ("hardswish", (), 0, 0), ("round", (), 0, 1), ("elu", (), 0, 0), ("sqrt", (), 0, 0),
    ],
)  # fmt: skip
def test_functions_of_entries(kind, numbers, sizes, signs):
    b, h = stream()
    assert (
        found(ended(b, b.each(kind, h, numbers=numbers)))
        == Counter({SIZE: sizes, SIGN: signs}) + Counter()
    )


def test_sums_and_maxima_of_what_has_one_number():
    for kind, signs in (("add", 1), ("sub", 1), ("max", 0), ("min", 0)):
        b, h = stream()
        g = b.dense("x", "c", IN + 1)
        assert found(ended(b, b.each(kind, h, g))) == Counter({SIZE: 1, SIGN: signs}) + Counter()
    b, h = stream()
    assert found(ended(b, b.each("add", h, b.constant("s", BIAS)))) == Counter({SIZE: 1, SIGN: 1})
    b, h = stream()  # one number that is added to all
    assert found(ended(b, b.each("add", h, b.constant("s", [1.0])))) == Counter()
    b, h = stream()
    assert found(ended(b, b.each("add", h, b.constant("s", 1.0)))) == Counter()


def test_products_and_quotients():
    b, h = stream()
    g = b.each("sigmoid", b.dense("x", "c", IN + 1))  # a gate: of the one side alone
    assert found(ended(b, b.each("mul", h, g))) == Counter({SIZE: 1, SIGN: 1})
    b, h = stream()  # both sides
    assert found(ended(b, b.each("mul", h, b.dense("x", "c", IN + 1)))) == Counter(
        {SIZE: 2, SIGN: 2}
    )
    b, h = stream()
    g = b.each("exp", b.dense("x", "c", IN / 8))
    assert found(ended(b, b.each("div", h, g))) == Counter({SIZE: 1, SIGN: 1})
    b, h = stream()  # x x: the size twice, and no sign
    assert found(ended(b, b.each("mul", h, h))) == Counter({SIZE: 1, SIGN: 1})
    b, h = stream()
    assert found(ended(b, b.each("pow", h, b.constant("e", 2.0)))) == Counter({SIZE: 1, SIGN: 1})
    b, h = stream()
    assert found(ended(b, b.each("pow", h, b.constant("e", [3.0, 3.0, 2.0, 3.0])))) == Counter()
    b, h = stream()
    assert found(ended(b, b.each("add", h, h))) == Counter({SIZE: 1, SIGN: 1})
    b, h = stream()  # a layer, its scale and the shift
    g = b.each("relu", b.each("mul", h, b.constant("s", BIAS)))
    assert found(ended(b, g)) == Counter({SIZE: 2, SIGN: 1})


def test_a_choice_between_two():
    b, h = stream()
    b.inputs.append("m")
    b.shapes["m"] = ("n", 1)
    model = ended(b, b.each("where", "m", h, b.dense("x", "c", IN + 1)))
    every = gauges(whole(model))
    assert Counter((x.sign, x.joint) for x in every) == Counter({SIZE: 1, SIGN: 1})


def test_batch_norms():
    """Of what they read the sign, of what they give any number."""
    b, h = stream()
    names = [b.constant(k, RNG.uniform(0.5, 2, 4)) for k in ("g", "b", "m", "v")]
    y = b.add(PerUnit("batchnorm", 1, (1e-5,)), [h, *names], ("n", 4))
    assert found(ended(b, b.each("relu", y))) == Counter({SIZE: 1, SIGN: 1})


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("LayerNormalization", {SIZE: 1, SIGN: 1, ALL_SIGNS: 1}),
        ("RMSNormalization", {SIZE: 1, SIGN: 2}),
        ("softmax", {}),
    ],
)
def test_norms_of_all_units(kind, expected):
    """Laws alone: the evaluator of these tests has no norms; files are in `test_graph_scales`."""
    b, h = stream()
    if kind == "softmax":
        y = b.add(Slicewise(kind, ((0, 0),)), [h], ("n", 4))
    else:
        more = [b.constant("g", BIAS)] + ([b.constant("s", BIAS)] if kind[0] == "L" else [])
        y = b.add(Slicewise(kind, ((0, 0),), normalises=1e-5), [h, *more], ("n", 4))
    model = ended(b, y)
    every = gauges(whole(model))
    assert Counter((x.sign, x.joint) for x in every) == Counter(expected)
    for gauge in every:
        require_laws(
            model, factors_of(model, gauge.move(np.full(gauge.free, -1.0 if gauge.sign else 2.0)))
        )
    if kind[0] == "L":  # one sign alone is no symmetry
        (joint,) = (x for x in every if x.joint)
        move = joint._replace(joint=False).move(np.array([-1.0, 1.0, 1.0, 1.0]))
        with pytest.raises(CertificateRejected, match="does not commute"):
            played(model, [move], {})


def test_what_reads_all_units_leaves_them_their_numbers():
    for kind, law in (("mean", {"linear": True}), ("max", {"homogeneous": True})):
        b, h = stream(None)
        of_all = b.add(Slicewise(kind, ((0, 0),), **law), [h], ("n", 1))
        assert found(ended(b, b.each("sub", h, of_all))) == Counter()


def test_pools_take_each_slice_alike():
    b = Builder("n", 2, 5)
    w = b.constant("w", IN)
    h = b.add(Linear(1, 1, 1, 0, free=((0, 0), (2, 2))), ["x", w], ("n", 4, 5))
    largest = b.add(Slicewise("max", ((0, 0), (1, 1)), homogeneous=True), [h], ("n", 4, 1))
    mean = b.add(Slicewise("mean", ((0, 0), (1, 1)), linear=True), [h], ("n", 4, 1))
    for pooled, signs in ((largest, 0), (mean, 1)):
        flat = b.add(Reshape((((1, 2), (1,)),), (None, 4), ((0, 0),)), [pooled], ("n", 4))
        model = ended(b, flat).live()
        assert found(model) == Counter({SIZE: 1, SIGN: signs}) + Counter()


def test_groups():
    """Depthwise: each channel twice; two groups of two: by channel alike in both, and by group."""
    b, h = stream()
    w = b.constant("w", RNG.normal(size=(4, 1)))
    y = b.add(Linear(1, 1, 1, 0, groups=4, free=((0, 0),)), [b.each("relu", h), w], ("n", 4))
    assert found(ended(b, b.each("relu", y))) == Counter({SIZE: 2})
    b, h = stream()
    w = b.constant("w", RNG.normal(size=(4, 2)))
    y = b.add(Linear(1, 1, 1, 0, groups=2, free=((0, 0),)), [b.each("relu", h), w], ("n", 4))
    assert found(ended(b, b.each("relu", y)))[SIZE] >= 2
    model = ended(b, y)
    factors = {
        (name, 1): np.array([Fraction(2), *[Fraction(1)] * 3], dtype=object)
        for name in (h, b.nodes[1].output)
    }
    factors["a.w", 0] = factors["a.b", 0] = factors[h, 1]
    with pytest.raises(CertificateRejected, match="does not commute"):
        require_laws(model, factors)


def test_heads():
    """Queries and keys by inverse numbers, values and the layer that reads them."""
    b = Builder("n", 5, 2)
    parts = []
    for name in "qkv":
        h = b.dense("x", name, RNG.normal(size=(6, 2)), RNG.normal(size=6))
        split = b.add(
            Reshape((((2,), (2, 3)),), (None, 5, 2, 3), ((0, 0), (1, 1))), [h], ("n", 5, 2, 3)
        )
        order = (0, 2, 3, 1) if name == "k" else (0, 2, 1, 3)
        shape = ("n", 2, 3, 5) if name == "k" else ("n", 2, 5, 3)
        parts.append(b.add(Transpose(order), [split], shape))
    q, k, v = parts
    scores = b.each("mul", b.add(Contract(), [q, k], ("n", 2, 5, 5)), b.constant("root", 0.5))
    p = b.add(Slicewise("softmax", ((0, 0), (1, 1), (2, 2))), [scores], ("n", 2, 5, 5))
    o = b.add(Transpose((0, 2, 1, 3)), [b.add(Contract(), [p, v], ("n", 2, 5, 3))], ("n", 5, 2, 3))
    flat = b.add(Reshape((((2, 3), (2,)),), (None, 5, 6), ((0, 0), (1, 1))), [o], ("n", 5, 6))
    model = b.model(b.dense(flat, "z", RNG.normal(size=(3, 6))))
    assert found(model) == Counter({SIZE: 4, SIGN: 4})  # by heads and by coordinates, of both


def test_places_move_with_entries():
    b, h = stream()
    g = b.each("relu", b.dense("x", "c", IN[:3] + 1, BIAS[:3]))
    joined = b.add(Concat(1), [b.each("tanh", h), g], ("n", 7))
    picked = b.add(Take(1, (6, 0, 1, 5, 2, 3, 4)), [joined], ("n", 7))
    assert found(ended(b, picked)) == Counter({SIZE: 1, SIGN: 1})
    b, h = stream()
    one = b.add(Take(1, (2,), drop=True), [h], ("n",))
    model = b.model(one)
    assert all(x.free < 4 for x in gauges(whole(model)))


def test_tables_and_repeated_entries():
    b = Builder("n", name="x")
    table = b.constant("t", RNG.normal(size=(5, 4)))
    h = b.add(Lookup(0), [table, "x"], ("n", 4))
    w = b.constant("w", OUT)
    y = b.add(Linear(1, 1, 1, 0, free=((0, 0),)), [b.each("tanh", h), w], ("n", 3))
    model = b.model(y)
    (gauge,) = gauges(whole(model))
    moved, _ = played(model, [gauge.move(np.array([-1.0, 1, -1, 1]))], {})
    x = {"x": np.array([0, 3, 4])}
    assert np.allclose(run(model, x)[0], run(moved, x)[0], rtol=1e-6)
    b, h = stream()
    one = b.constant("c", RNG.normal(size=(1, 4)))
    wide = b.add(Broadcast((3, 4)), [one], (3, 4))
    b.shapes["x"] = (3, 2)
    b.shapes[h] = (3, 4)
    model = b.model(
        b.add(
            Linear(1, 1, 1, 0, free=((0, 0),)),
            [b.each("relu", b.each("add", h, wide)), b.constant("z", OUT)],
            (3, 3),
        )
    )
    assert found(model) == Counter({SIZE: 1})


def test_what_is_not_understood_is_multiplied_by_nothing():
    b, h = stream()
    model = ended(b, b.add(Opaque("Mystery"), [h], ("n", 4)))
    assert gauges(whole(model)) == []
    two = np.array([Fraction(2)] * 4, dtype=object)
    with pytest.raises(CertificateRejected, match="does not commute"):
        require_laws(model, {(h, 1): two, ("a.w", 0): two, ("a.b", 0): two})
    b, h = stream()
    sizes = b.add(Size(((0, 1),)), [h], (1,))
    assert not list(laws(b.nodes[-1], b.model(sizes), {(h, 1): two}))
    assert len(laws(b.nodes[-1], b.model(sizes), {(sizes, 0): two})) == 1


def test_what_a_law_does_not_name_has_to_be_one():
    """Positions of an image, say."""
    b = Builder("n", 2, 5)
    h = b.add(
        Linear(1, 1, 1, 0, padded=True),
        ["x", b.constant("w", RNG.normal(size=(4, 2, 3)))],
        ("n", 4, 5),
    )
    model = b.model(b.each("relu", h))
    for place, n in (((h, 2), 5), (("w", 2), 3)):
        with pytest.raises(CertificateRejected):
            require_laws(model, {place: np.array([Fraction(2)] * n, dtype=object)})


# Moves ----------------------------------------------------------------------------------------------------------


def dense():
    b, h = stream()
    model = ended(b, b.each("relu", h))
    (gauge,) = gauges(whole(model))
    return model, gauge


def test_scales_that_round_have_a_slack():
    model, gauge = dense()
    move = gauge.move(np.array([3.0, 0.7, 1.0, 2.0]))
    box = {"x": (np.full(2, -1.0), np.full(2, 1.0))}
    moved, slack = played(model, [move], box)
    assert 0 < slack.everywhere < 1e-5
    x = {"x": RNG.uniform(-1, 1, size=(100, 2))}
    gap = np.abs(run(model, x)[0] - run(moved, x)[0]).max()
    assert 0 < gap <= slack.everywhere
    claim = GraphCertificate(model.digest, moved.digest, ((move,),), box, slack)
    claim.verify(moved, model)
    again = GraphCertificate.from_json(mo_json(claim))
    again.verify(moved, model)
    with pytest.raises(CertificateRejected, match="a slack of"):
        replace(claim, slack=NO_SLACK).verify(moved, model)


def mo_json(claim):
    import json

    return json.dumps(claim.to_json())


def test_powers_of_two_that_lose_bits_have_a_slack():
    b, h = stream(np.array([1e-38, 1.0, 1.0, 1.0]))
    model = ended(b, b.each("relu", h))
    (gauge,) = gauges(whole(model))
    box = {"x": (np.full(2, -1.0), np.full(2, 1.0))}
    _, slack = played(model, [gauge.move(np.array([2.0**-40, 1.0, 1.0, 1.0]))], box)
    assert slack != NO_SLACK
    large = replace(model, constants={**model.constants, "a.b": np.float32([1, 1, 1, 3e38])})
    with pytest.raises(CertificateRejected, match="beyond what"):
        played(large, [gauge.move(np.array([1.0, 1.0, 1.0, 2.0]))], {})
    with pytest.raises(CertificateRejected, match="by more than"):
        played(model, [gauge.move(np.array([2.0**100, 1.0, 1.0, 1.0]))], {})


def test_several_scales_multiply():
    model, gauge = dense()
    up, down = (gauge.move(np.array(x)) for x in ([2.0, 4, 1, 1], [0.5, 0.25, 1, 1]))
    assert played(model, [up, down], {})[0].digest == model.digest
    assert played(model, [up], {})[0].digest != model.digest


def test_forged_scales_are_refused():
    model, gauge = dense()
    move = gauge.move(np.array([2.0, 4.0, 8.0, 1.0]))
    assert GraphMove.of(move.plain()) == move
    changes = [
        {"coefficients": (0.0, 4.0, 8.0)}, {"coefficients": (-2.0, 4.0, 8.0)}, {"coefficients": (2.0, 4.0)},
        {"units": (0, 0, 2)}, {"units": (0, 1, 9)}, {"tensor": "nobody"}, {"axis": 7},
        {"powers": move.powers[1:]}, {"powers": (*move.powers, move.powers[0])}, {"powers": (*move.powers, ("x", 1, 1))},
        {"powers": tuple((n, a, 2 * p) if n == "a.w" else (n, a, p) for n, a, p in move.powers)},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(CertificateRejected):
            played(model, [replace(move, **change)], {})
    plain = move.plain()
    for field, value in (
        ("powers", [["a.w", 0]]), ("powers", [["a.w", 0, 1000]]), ("powers", [["a.w", 0, 1.5]]),
        ("coefficients", [True, 4.0, 8.0]), ("coefficients", [1e400, 4.0, 8.0]), ("units", [-1, 1, 2]),
    ):  # fmt: skip
        with pytest.raises(CertificateRejected):
            GraphMove.of({**plain, field: value})
    with pytest.raises(CertificateRejected, match="in one round"):
        played(model, [move, GraphMove("bypass", "t1")], {})
    with pytest.raises(CertificateRejected, match="in one round"):
        played(model, [move, GraphMove("order", "a.w", 0, (1, 0, 2, 3))], {})


def test_numbers_that_are_none_and_integers_stay():
    for array in (np.array([np.inf, 1, 1, 1]), np.array([1, 2, 3, 4], dtype=np.int8)):
        b, h = stream()
        y = b.each("relu", b.each("add", h, b.constant("s", BIAS)))
        model = ended(b, y)
        (gauge,) = gauges(whole(model))
        other = replace(model, constants={**model.constants, "s": array})
        with pytest.raises(CertificateRejected, match="'s' holds"):
            scaled(other, factors_of(other, gauge.move(np.array([2.0, 1, 1, 1]))))


def test_many_groups_with_a_bias():
    """More channels than products of pairs are looked at."""
    n = 4100
    b = Builder("n", 2)
    h = b.dense("x", "d", RNG.normal(size=(n, 2)))
    names = b.constant("w", RNG.normal(size=(n, 1))), b.constant("c", RNG.normal(size=n))
    y = b.add(Linear(1, 1, 1, 0, groups=n, free=((0, 0),)), [h, *names], ("n", n), "y")
    model = b.model(b.dense(y, "e", RNG.normal(size=(3, n))))
    powers = (("y", 1, 1), ("c", 0, 1), ("e.w", 1, -1))
    with pytest.raises(CertificateRejected, match="does not commute"):
        played(model, [GraphMove("scale", "y", 1, (0,), (), (8.0,), powers)], {})
    same(model, [GraphMove("scale", "y", 1, (0,), (), (8.0,), (("w", 0, 1), *powers))])


def test_numbers_along_many_axes_do_not_underflow():
    """Each is within bounds, and their product beyond all floats."""
    axes = 17
    b = Builder(*[1] * axes)
    t = b.constant("t", np.ones((2,) * axes))
    y = b.each("mul", "x", t)
    z = b.each("mul", y, b.constant("u", np.ones((2,) * axes)))
    model = b.model(b.add(Slicewise("mean", (), linear=True), [z], (1,) * axes))
    moves = [
        GraphMove(
            "scale", "t", a, (0, 1), (), (2.0**64,) * 2, (("t", a, -1), (y, a, -1), ("u", a, 1))
        )
        for a in range(axes)
    ]
    assert played(model, moves[:1], {})[1] == NO_SLACK
    with pytest.raises(CertificateRejected, match="too much along all"):
        played(model, moves, {})
