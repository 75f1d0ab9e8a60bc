"""Activations with and without a reflection law: their facts, what readers make of them, and every
question about them.
"""

from __future__ import annotations

import json
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest

import moduli as mo
from moduli.formats.affine_tracer import Tensor
from moduli.kernel.activations import Activation
from moduli.kernel.bounds.relaxations import relaxation, slopes
from moduli.kernel.exact_numbers import enclose_value

NEW = (
    "elu(1.0)",
    "elu(-0.5)",
    "clip(0.0,6.0)",
    "clip(-1.0,1.0)",
    "clip(-0.25,0.5)",
    "hardswish",
    "mish",
)
UNITY = [
    *NEW,
    "relu",
    "leaky_relu(-0.5)",
    "abs",
    "tanh",
    "sigmoid",
    "erf",
    "sin",
    "gelu",
    "gelu_tanh",
    "silu",
    "softplus",
]
DIGESTS = {  # as of before activations had parameters other than a slope
    "identity": "1418f78a0f8a712e", "relu": "da12b071cbb19056",
    "leaky_relu(0.1)": "d2169263fcd4e3e0", "abs": "b1e17d0d5a731ea3", "tanh": "1e31195d58547324",
    "sigmoid": "0f5cddc1a3df4f28", "erf": "493953935274d640", "sin": "3edd1e9990d36d8f",
    "gelu": "85359e1a95fd2750", "gelu_tanh": "89617a49cdf8b031", "silu": "6a9b538cb156e829",
    "softplus": "17940bfc99dd4a27",
}  # fmt: skip


def as_mp(q):
    return mp.mpf(Fraction(q).numerator) / Fraction(q).denominator


# Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DIGESTS)
def test_digests_stay(kind):
    net = mo.Network.mlp(
        [[1.0, -2.0], [0.5, 0.25]],
        [0.5, -1.0],
        [[1.0, -1.0]],
        [0.25],
        activation=kind,
        output_map=kind,
    )
    assert net.digest[7:23] == DIGESTS[kind]


@pytest.mark.parametrize(
    ("given", "name"),
    [("clip(0,6)", "clip(0.0,6.0)"), (" clip( -0.0 , 6 ) ", "clip(0.0,6.0)"), ("relu6", "clip(0.0,6.0)"), ("elu", "elu(1.0)"),
     ("elu(1e-3)", "elu(0.001)"), ("hardswish", "hardswish"), ("mish", "mish"), ("leaky_relu(.5)", "leaky_relu(0.5)")],
)  # fmt: skip
def test_names(given, name):
    s = Activation.of(given)
    assert str(s) == name
    assert Activation.of(name) == s
    assert hash(Activation.of(name)) == hash(s)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("clip(6,0)", "low end must lie below"), ("clip(1,1)", "low end must lie below"), ("clip(0)", "takes low, high"),
        ("clip", r"clip needs its low, high: write 'clip\(0,6\)'"), ("clip(0,inf)", "must be finite"),
        ("elu(nan)", "must be finite"), ("elu(0)", "is relu"), ("mish(1)", "it takes none"),
        ("clip(0,six)", r"'six' in 'clip\(0,six\)' is not a number"), ("leaky_relu", "leaky_relu needs its slope"),
        ("hard_swish", "unknown activation 'hard_swish'"), ("clip(0,1", "cannot read"),
    ],
)  # fmt: skip
def test_wrong_names(given, message):
    with pytest.raises(ValueError, match=message):
        Activation.of(given)


def test_parameters_are_floats():
    assert Activation("clip", 0, 6).parameters == (0.0, 6.0)
    assert Activation("elu", np.float64(0.1)).parameters == (0.1,)
    with pytest.raises(ValueError, match="no float64"):
        Activation("clip", 0, 2**60 + 1)


# Facts ----------------------------------------------------------------------------------------------------------

DERIVATIVES = {
    "silu": lambda z: 1 / (1 + mp.exp(-z)) * (1 + z / (1 + mp.exp(z))),
    "gelu": lambda z: mp.ncdf(z) + z * mp.npdf(z),
    "gelu_tanh": lambda z: mp.diff(
        lambda x: x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))), z
    ),
    "mish": lambda z: mp.diff(lambda x: x * mp.tanh(mp.log1p(mp.exp(x))), z),
}


@pytest.mark.parametrize("kind", DERIVATIVES)
def test_valleys(kind):
    """The derivative is negative left of the interval, positive right of it, and nowhere else
    changes its sign.
    """
    with mp.workdps(60):
        start, end = map(as_mp, Activation(kind).valley)
        slope = DERIVATIVES[kind]
        assert slope(start) < 0 < slope(end)
        assert all(slope(start - mp.mpf(k) / 50) < 0 for k in range(1, 500))
        assert all(slope(end + mp.mpf(k) / 50) > 0 for k in range(1, 500))


def test_the_steepest_mish():
    """Interval arithmetic over [0, 60]; beyond, mish' is within 1e-20 of 1, and below 0 the proof
    leaves a wide margin.
    """
    with mp.workdps(30):
        iv = mp.iv
        worst = 0
        for k in range(-6000, 6000):
            z = iv.mpf([mp.mpf(k) / 100, mp.mpf(k + 1) / 100])
            v = iv.exp(z) + 1
            square = v * v + 1
            found = 1 - 2 / square + 4 * z * (v - 1) * v / (square * square)
            worst = max(worst, -float(found.a), float(found.b))
    assert 1.08 < worst < 1.12
    assert worst < Activation("mish").lipschitz


@pytest.mark.parametrize("kind", UNITY)
def test_ranges_hold_and_are_tight(kind):
    """Values at many points of random intervals, some of them without an end, in 50 digits."""
    rng, s = np.random.default_rng(5), Activation.of(kind)
    for trial in range(60):
        ends = np.sort(rng.normal(size=2) * 10.0 ** rng.uniform(-3, 2.5))
        lo, hi = (-np.inf if trial % 20 == 0 else ends[0]), (np.inf if trial % 20 == 7 else ends[1])
        found = relaxation(s, np.array([lo]), np.array([hi]))
        inside = np.concatenate(
            [ends, [max(ends[0], min(0.0, ends[1]))], np.linspace(*ends, 50)[1:-1]]
        )
        for z in inside.tolist():
            least, most = enclose_value(s, (Fraction(z), Fraction(z)))
            assert found.least[0] == -np.inf or Fraction(found.least[0]) <= most
            assert found.most[0] == np.inf or Fraction(found.most[0]) >= least
            below, above = (
                (found.lower_slope, found.lower_offset, 1),
                (found.upper_slope, found.upper_offset, -1),
            )
            for slope, offset, sign in (below, above):
                if np.isfinite(offset[0]):
                    line = Fraction(slope[0]) * Fraction(z) + Fraction(offset[0])
                    assert sign * (line - (most if sign == 1 else least)) <= 0
        values = s(inside)
        if np.isfinite([lo, hi]).all() and kind != "sin":
            width = 0.06 * (hi - lo) * float(s.lipschitz) + 1e-12
            assert found.least[0] >= values.min() - width
            assert found.most[0] <= values.max() + width


@pytest.mark.parametrize("kind", ["clip(0.0,6.0)", "clip(-0.25,0.5)"])
def test_lines_around_a_clip_are_tight_where_it_has_one_bend(kind):
    s = Activation.of(kind)
    low, high = s.parameters
    inside = relaxation(s, np.array([low]), np.array([high]))
    assert (
        inside.lower_slope[0],
        inside.upper_slope[0],
        inside.lower_offset[0],
        inside.upper_offset[0],
    ) == (1, 1, 0, 0)
    flat = relaxation(s, np.array([high]), np.array([high + 3]))
    assert (flat.least[0], flat.most[0], flat.lower_slope[0], flat.upper_slope[0]) == (
        high,
        high,
        0,
        0,
    )
    bent = relaxation(s, np.array([low - 1.0]), np.array([high]))
    chord = (high - low) / (high - low + 1)
    assert bent.upper_slope[0] == pytest.approx(chord)
    assert bent.upper_slope[0] * (low - 1) + bent.upper_offset[0] == pytest.approx(low)


@pytest.mark.parametrize("kind", UNITY)
def test_mean_slopes(kind):
    rng, s = np.random.default_rng(6), Activation.of(kind)
    for _ in range(40):
        lo, hi = np.sort(rng.normal(size=2) * 10.0 ** rng.uniform(-2, 1))
        least, most = slopes(s, np.array([lo]), np.array([hi]))
        y, z = (Fraction(v) for v in (lo, hi))
        (a, b), (c, d) = enclose_value(s, (y, y)), enclose_value(s, (z, z))
        assert (d - a) / (z - y) >= Fraction(least[0])
        assert (c - b) / (z - y) <= Fraction(most[0])


# Units with slopes of their own ---------------------------------------------------------------------------------


def test_a_prelu_is_pairs_of_relu_units():
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows, units = rng.integers(1, 4), rng.integers(1, 5)
        shape = int(rng.choice([1, rows])), int(rng.choice([1, units]))
        slope = rng.choice([0.0, 0.25, -2.0, 1.0, float(rng.normal())], shape)
        w, v = rng.normal(size=(3, rows * units)), rng.normal(size=(rows * units, 2))
        x = Tensor.input((1, 3)).matmul(w).rearrange(lambda a: a.reshape(1, rows, units))  # noqa: B023
        net = x.rectified(slope).rearrange(lambda a: a.reshape(1, -1)).matmul(v).finish()
        points = rng.normal(size=(20, 3))
        z = (points @ w).reshape(20, rows, units)
        truth = np.where(z >= 0, z, slope * z).reshape(20, -1) @ v
        assert np.allclose(net(points), truth, rtol=1e-13, atol=1e-13)
        pairs = np.count_nonzero(np.broadcast_to(slope, (rows, units)))
        if len(np.unique(slope)) > 1:
            assert net.units == rows * units + pairs
            assert any(f"as {rows * units + pairs} ReLU units" in note for note in net.notes)


def test_slopes_that_would_change_the_shape_are_refused():
    x = Tensor.input((1, 3))
    for shape in ((2, 1, 3), (4,), (2, 3), (1, 1, 1)):
        with pytest.raises(mo.ShapeError, match=r"slopes|broadcast"):
            x.rectified(np.ones(shape))


# Redundant networks ---------------------------------------------------------------------------------------------


def redundant(kind, rng, units=4, inputs=2, outputs=2):
    """A network, and the same with constant, dead and equal units (and opposite ones where there is
    a law), shuffled.
    """
    s = Activation.of(kind)
    w, b = rng.integers(-16, 17, (units, inputs)) / 8.0, rng.integers(-16, 17, units) / 8.0
    w[(w == 0).all(axis=1)] = 1.0
    v, c = rng.integers(-16, 17, (outputs, units)) / 8.0, rng.integers(-16, 17, outputs) / 8.0
    v[:, (v == 0).all(axis=0)] = 1.0
    rows, biases, columns = [*w], [*b], [*v.T]
    split = columns[0] / 4
    columns[0] = columns[0] - split
    rows, biases, columns = [*rows, w[0]], [*biases, b[0]], [*columns, split]  # equal
    rows, biases, columns = [*rows, w[1] + 1], [*biases, 0.5], [*columns, 0 * split]  # dead
    rows, biases, columns = [*rows, 0 * w[0]], [*biases, -0.75], [*columns, split + 1]  # constant
    if s.symmetric:
        sign = float(s.turned[0])
        columns[1] = columns[1] - sign * split
        rows, biases, columns = [*rows, -w[1]], [*biases, -b[1]], [*columns, split]  # opposite
    order = rng.permutation(len(rows))
    layers = np.array(rows)[order], np.array(biases)[order], np.array(columns)[order].T, c
    return mo.Network.mlp(*layers, activation=kind), len(order)


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("on", [None, mo.Box(-1, 1)], ids=["all", "box"])
def test_redundant_networks_are_compressed_and_checked(kind, on):
    rng = np.random.default_rng(11)
    for _ in range(4):
        net, count = redundant(kind, rng)
        assert net.units == count
        found = mo.compress(net, on=on)
        assert found.network.units <= 4
        assert mo.check(found.certificate, found.network, net).status == "proved"
        x = rng.uniform(-1, 1, (200, 2)) * (1 if on is not None else 10.0 ** rng.integers(-2, 4))
        slack = found.proof.slack.within(float(np.abs(x).max()))
        gap = np.abs(found.network(x) - net(x)).max()
        assert gap <= slack + 1e-12 * (1 + np.abs(net(x)).max())
        assert not found.optimal or found.network.units == 0


@pytest.mark.parametrize("kind", NEW)
def test_deep_redundant_networks(kind):
    rng = np.random.default_rng(12)
    inner, _ = redundant(kind, rng, outputs=3)
    outer, _ = redundant(kind, rng, inputs=3)
    layers = (
        *inner.layers[:1],
        mo.Network.mlp(
            outer.layers[0].weight @ inner.layers[1].weight,
            outer.layers[0].bias + outer.layers[0].weight @ inner.layers[1].bias,
        ).layers[0],
        outer.layers[1],
    )
    net = mo.Network.mlp(
        *(part for layer in layers for part in (layer.weight, layer.bias)), activation=kind
    )
    found = mo.compress(net)
    assert found.network.units <= 8
    assert found.check()
    x = rng.normal(size=(100, 2))
    assert (
        np.abs(found.network(x) - net(x)).max()
        <= found.proof.slack.within(float(np.abs(x).max())) + 1e-11
    )


def test_an_odd_clip_merges_opposite_units_and_another_clip_does_not():
    rows = [[1.0], [-1.0]], [0.5, -0.5], [[1.0, 3.0]], [0.0]
    assert mo.compress(mo.Network.mlp(*rows, activation="clip(-1,1)")).network.units == 1
    for kind in ("clip(-1,2)", "elu(1)", "mish"):
        assert mo.compress(mo.Network.mlp(*rows, activation=kind)).network.units == 2


# Every question -------------------------------------------------------------------------------------------------


def small(kind, seed=0, outputs=1):
    rng = np.random.default_rng(seed)
    draw = (
        rng.integers(-16, 17, shape) / 8.0 + 0.125 for shape in ((3, 2), 3, (outputs, 3), outputs)
    )
    return mo.Network.mlp(*draw, activation=kind)


BOX, X = mo.Box(-1, 1), np.random.default_rng(9).uniform(-1, 1, (60, 2))
SAMPLES = mo.Samples(X)
QUESTIONS = {
    "rank": lambda n, m: mo.rank(n),
    "rank on a box": lambda n, m: mo.rank(n, on=BOX, budget=50),
    "rank in a ball": lambda n, m: mo.rank(n, radius=1e-3, budget=50),
    "compress": lambda n, m: mo.compress(n),
    "compress on a box": lambda n, m: mo.compress(n, on=BOX, budget=50),
    "compress within eps": lambda n, m: mo.compress(n, on=BOX, eps=0.5, budget=50),
    "compress in a ball": lambda n, m: mo.compress(n, radius=1e-3, budget=50),
    "compress on samples": lambda n, m: mo.compress(n, on=SAMPLES, units=2),
    "compress on a Gaussian": lambda n, m: mo.compress(n, on=mo.Gaussian(), units=2),
    "distance on a box": lambda n, m: mo.distance(n, m, on=BOX, budget=50),
    "distance on a Gaussian": lambda n, m: mo.distance(n, m, on=mo.Gaussian()),
    "distance on samples": lambda n, m: mo.distance(n, m, on=SAMPLES),
    "equivalent": lambda n, m: mo.equivalent(n, m),
    "equivalent to itself": lambda n, m: mo.equivalent(n, n),
    "equivalent on a box": lambda n, m: mo.equivalent(n, m, on=BOX, eps=0.5, budget=50),
    "canonical": lambda n, m: mo.canonical(n),
    "signature": lambda n, m: mo.signature(n),
    "symmetries": lambda n, m: mo.symmetries(n),
    "align": lambda n, m: mo.align(n, m),
    "align by activations": lambda n, m: mo.align(n, m, by="activations", on=SAMPLES),
    "path": lambda n, m: mo.path(n, n),
    "dimension": lambda n, m: mo.dimension(n, on=BOX),
    "identifiable": lambda n, m: mo.identifiable(n, on=BOX),
    "pieces": lambda n, m: mo.pieces(n, on=BOX),
    "complexity": lambda n, m: mo.complexity(n),
    "complexity of widths": lambda n, m: mo.complexity([2, 3, 1], activation=str(n.activations[0])),
    "complexity with samples": lambda n, m: mo.complexity(n, samples=SAMPLES),
    "error curve": lambda n, m: mo.error_curve(n, on=SAMPLES, units=[1, 2]),
    "pruning curve": lambda n, m: mo.pruning_curve(n),
    "pruning curve on samples": lambda n, m: mo.pruning_curve(n, by="units", on=SAMPLES),
    "mean field": lambda n, m: mo.mean_field(n),
    "to_torch": lambda n, m: mo.to_torch(n),
}
NOT_ANSWERED = {
    "compress on a Gaussian",
    "distance on a Gaussian",
    "dimension",
    "identifiable",
    "pieces",
    "path",
    "mean field",
}


def answer(question, n, m):
    try:
        return QUESTIONS[question](n, m), None
    except (mo.UnsupportedModel, mo.Undecided, ValueError) as error:
        return None, str(error)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("kind", NEW)
def test_every_question_is_answered_or_refused(kind, question):
    """No crash, no claim that rests on a theorem about other activations; JSON holds no Infinity or
    NaN.
    """
    if question == "to_torch":
        pytest.importorskip("torch")
    n, m = small(kind), small(kind, 1)
    found, refusal = answer(question, n, m)
    if refusal is not None:
        assert question in NOT_ANSWERED, refusal
        assert len(refusal.splitlines()) == 1
        assert any(word in refusal for word in (str(n.activations[0]), "piecewise linear", "relu"))
        return
    if question == "signature":
        assert found.complete == kind.startswith("clip")  # by creases
    if question in ("rank", "rank on a box", "rank in a ball"):
        assert found.lower == 0
        assert not found.exact
    if question.startswith("compress") and "eps" not in question and hasattr(found, "optimal"):
        assert not found.optimal
    if question == "equivalent to itself":
        assert found.status == "proved"
    if question == "canonical":
        assert np.allclose(found(X), n(X), rtol=0, atol=1e-13)
    if question == "symmetries":
        element = found.random(3)
        assert np.allclose(element(n)(X), n(X), rtol=0, atol=1e-13)
    if question == "distance on a box":
        assert found.upper >= np.abs(n(X) - m(X)).max()
        assert found.lower <= found.upper
    if hasattr(found, "to_json"):
        json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("kind", NEW)
def test_moved_copies_have_one_signature_and_are_equivalent(kind):
    n = small(kind, outputs=2)
    moved = mo.symmetries(n).random(1)(n)
    assert mo.signature(moved) == mo.signature(n)
    assert mo.equivalent(moved, n).status == "proved"
    assert mo.align(moved, n).after <= mo.align(moved, n).before
    assert mo.equivalent(n, small(kind, 5, 2)).status == "refuted"
