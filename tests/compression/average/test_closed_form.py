"""Closed-form distances under a Gaussian: stored losses, near-equal networks, sampling."""

import json

import mpmath as mp
import numpy as np
import pytest

import moduli as mo
from moduli.compression.average.closed_form import BENDS, distance
from moduli.compression.average.gaussian_expectations import Whitening

KINDS = (
    "identity", "relu", "leaky_relu(0.1)", "abs", "tanh", "sigmoid", "erf", "gelu", "gelu_tanh",
    "silu", "softplus", "sin",
)  # fmt: skip


def case_networks(case, arrays):
    part = {
        k: arrays[f"{case['id']:03d}_{k}"] for k in ("W", "b", "A", "U", "bu", "V", "mean", "cov")
    }
    act = f"leaky_relu({case.get('slope', 0.1)})" if case["act"] == "leaky_relu" else case["act"]
    scale, zero = (2**-0.5 if act == "erf" else 1.0), np.zeros(part["A"].shape[1])
    a = mo.Network.mlp(scale * part["W"], scale * part["b"], part["A"].T, zero, activation=act)
    b = mo.Network.mlp(scale * part["U"], scale * part["bu"], part["V"].T, zero, activation=act)
    return a, b, mo.Gaussian(part["mean"], part["cov"])


def test_stored_losses(shared):
    arrays = np.load(shared / "cases" / "gaussian.npz")
    for case in json.loads((shared / "cases" / "gaussian.json").read_text())["cases"]:
        a, b, law = case_networks(case, arrays)
        value, low, high = distance(a, b, law)
        truth = max(0.0, case["loss"]) ** 0.5
        assert low <= truth * (1 + 1e-9) + 1e-12
        assert truth <= high * (1 + 1e-9)
        assert abs(value**2 - case["loss"]) <= case["atol_inner"]
        if case["loss_rel_trust"] and case["loss"] > 0:
            assert value**2 == pytest.approx(case["loss"], rel=1e-6)
            assert high - low <= 1e-6 * value
    a, b, law = case_networks(next(c for c in _cases(shared) if "lossless" in c["tag"]), arrays)
    assert mo.distance(a, b, on=law).upper < 1e-12
    same = mo.distance(a, a, on=law)
    assert same.status == "proved"
    assert same.upper == 0


def _cases(shared):
    return json.loads((shared / "cases" / "gaussian.json").read_text())["cases"]


@pytest.mark.parametrize(
    ("kind", "gap"),
    [
        (k, g)
        for k in ("relu", "abs", "leaky_relu(0.1)", "erf", "sin", "gelu")
        for g in (1e-3, 1e-6, 1e-9)
    ]
    + [(k, 1e-6) for k in ("tanh", "sigmoid", "silu", "softplus")],
)
def test_near_equal_networks_keep_their_digits(kind, gap):
    """To first order the distance is linear in the perturbation, so it is known from a larger one;
    units are hidden too.
    """
    rng = np.random.default_rng(0)
    theta = [rng.integers(-64, 65, shape) / 32.0 for shape in ((6, 3), (6,), (2, 6), (2,))]
    move = [rng.integers(-64, 65, t.shape) / 32.0 for t in theta]
    act = mo.Activation.of(kind)

    def moved(step):
        w, b, v, d = (t + step * m for t, m in zip(theta, move, strict=True))
        order = rng.permutation(6)
        sign, scale = np.ones(6), np.ones(6)
        if act.symmetric:
            sign = rng.choice([-1.0, 1.0], 6)
            reflect, _, offset = map(float, act.reflection)
            d = d + (v * (offset * (sign < 0))).sum(axis=1)
            v = v * np.where(sign < 0, reflect, 1.0)
        if act.homogeneous:
            scale = 2.0 ** rng.integers(-3, 4, 6)
        rows = np.column_stack([w, b]) * (sign * scale)[:, None]
        return mo.Network.mlp(
            rows[order, :3], rows[order, 3], (v / scale)[:, order], d, activation=kind
        )

    here = moved(0.0)
    value, low, high = distance(here, moved(gap), mo.Gaussian(0.3, 0.7))
    reference = distance(here, moved(2.0**-8), mo.Gaussian(0.3, 0.7))[0] * 2**8
    assert low <= value <= high
    assert high - low <= 1e-5 * value + 1e-12
    assert value == pytest.approx(reference * gap, rel=0.2)
    if gap < 1e-4:
        half, *_ = distance(here, moved(gap / 2), mo.Gaussian(0.3, 0.7))
        assert half == pytest.approx(value / 2, rel=1e-4)


@pytest.mark.parametrize(
    "pair", ["relu gelu", "tanh erf", "sin sin", "silu softplus", "abs affine"]
)
def test_against_sampling(pair):
    a, b = pair.split()
    rng = np.random.default_rng(1)
    nets = []
    for kind, units in ((a, 7), (b, 4)):
        if kind == "affine":
            nets.append(mo.Network.mlp(rng.standard_normal((2, 3)), rng.standard_normal(2)))
        else:
            arrays = (rng.standard_normal(s) for s in ((units, 3), (units,), (2, units), (2,)))
            nets.append(mo.Network.mlp(*arrays, activation=kind))
    half = rng.standard_normal((3, 3))
    law = mo.Gaussian(rng.standard_normal(3), half @ half.T)
    value, low, high = distance(*nets, law)
    x = law.sample(200_000, 3, 0)
    squares = np.square(nets[0].logits(x) - nets[1].logits(x)).sum(axis=1)
    assert abs(squares.mean() - value**2) < 6 * squares.std() / len(x) ** 0.5
    assert low <= value <= high <= low * (1 + 1e-9)


def test_distance_dispatches():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in ((5, 3), (5,), (4, 5), (4,), (2, 4), (2,))]
    deep, flat = mo.Network.mlp(*arrays), mo.Network.mlp(*arrays[:2], arrays[2][:2], arrays[3][:2])
    closed = mo.distance(
        flat, mo.Network.mlp(*arrays[:2], arrays[2][2:], arrays[3][2:]), on=mo.Gaussian()
    )
    assert "closed form" in closed.on
    assert closed.upper - closed.lower < 1e-10 * closed.upper
    assert "draws" in mo.distance(deep, flat, on=mo.Gaussian()).on
    x = rng.standard_normal((50, 3))
    sampled = mo.distance(deep, flat, on=mo.Samples(x))
    truth = np.sqrt(np.square(deep.logits(x) - flat.logits(x)).sum(axis=1).mean())
    assert sampled.lower < truth < sampled.upper
    with pytest.raises(mo.ShapeError, match="3 inputs"):
        mo.distance(deep, flat, on=mo.Samples(x[:, :2]))
    with pytest.raises(mo.ShapeError, match="3 inputs"):
        mo.distance(flat, flat.with_flat(2 * flat.flat()), on=mo.Gaussian([0.0, 1.0], 1))


# Against 60 digits ------------------------------------------------------------------------------------------------


def logistic(z):
    return 1 / (1 + mp.exp(-z)) if z >= 0 else mp.exp(z) / (1 + mp.exp(z))


EXACT = {
    "identity": lambda z: z,
    "relu": lambda z: max(z, mp.mpf(0)),
    "leaky_relu(0.1)": lambda z: z if z > 0 else mp.mpf(0.1) * z,
    "abs": abs,
    "tanh": mp.tanh,
    "sigmoid": logistic,
    "erf": mp.erf,
    "gelu": lambda z: z * mp.erfc(-z / mp.sqrt(2)) / 2,
    "gelu_tanh": lambda z: (
        z / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (z + mp.mpf(0.044715) * z**3)))
    ),
    "silu": lambda z: z * logistic(z),
    "softplus": lambda z: max(z, mp.mpf(0)) + mp.log1p(mp.exp(-abs(z))),
    "sin": mp.sin,
}


def exactly(array):
    return [[mp.mpf(x) for x in row] for row in np.atleast_2d(array).tolist()]


def apart(cuts, least):
    """Without cuts that lie closer to the one before: smooth steps of nearly equal units need them
    once.
    """
    kept = cuts[:1]
    for cut in cuts[1:-1]:
        if cut - kept[-1] > least:
            kept.append(cut)
    return [*kept, cuts[-1]]


def on_a_line(a, b, mean, direction, digits=60):
    """sqrt(E |a - b|^2) for inputs mean + direction z, by quadrature between kinks and around steep
    steps.
    """
    with mp.workdps(digits):
        cuts, nets = {mp.mpf(x) for x in (-13, -8, -5, -2.5, 0, 2.5, 5, 8, 13)}, []
        (mean,), (direction,) = exactly(mean), exactly(direction)
        for net in (a, b):
            first, last = net.layers
            starts = [
                mp.fdot(row, mean) + mp.mpf(c)
                for row, c in zip(exactly(first.weight), first.bias.tolist(), strict=True)
            ]
            slopes = [mp.fdot(row, direction) for row in exactly(first.weight)]
            nets.append(
                (
                    EXACT[str(first.activation)],
                    starts,
                    slopes,
                    exactly(last.weight),
                    exactly(last.bias)[0],
                )
            )
            around = (
                (0,)
                if first.activation.piecewise_linear
                else (-150, -40, -10, -2, 0, 2, 10, 40, 150)
            )
            cuts |= {
                k / abs(r) - m / r for m, r in zip(starts, slopes, strict=True) if r for k in around
            }

        def square(z):
            ends = []
            for s, starts, slopes, outer, bias in nets:
                hidden = [s(m + r * z) for m, r in zip(starts, slopes, strict=True)]
                ends.append([mp.fdot(v, hidden) + d for v, d in zip(outer, bias, strict=True)])
            return mp.fsum((x - y) ** 2 for x, y in zip(*ends, strict=True)) * mp.npdf(z)

        inside = sorted(c for c in cuts if abs(c) <= 13)
        if all(not net.layers[0].activation.piecewise_linear for net in (a, b)):
            inside = apart(
                inside, mp.mpf(1) / 20 / max(abs(r) for _, _, slopes, *_ in nets for r in slopes)
            )
        total, error = mp.quad(square, inside, method="gauss-legendre", maxdegree=8, error=True)
        assert error <= total * mp.mpf(10) ** -20 + mp.mpf(10) ** -100
        return mp.sqrt(total)


def twins(kind, seed):
    """A network, its own rounding to float32, and a law of rank one; with and without biases,
    steep, far from 0.
    """
    rng = np.random.default_rng(seed)
    steep = (1, 1, 30, 1e3, 1e5, 1e8)[seed % 6]
    if kind == "sin":
        steep = min(steep, 30)  # quadrature sees no more waves
    direction, mean = (
        rng.integers(1, 9, 2) / 8.0,
        rng.integers(-8, 9, 2) / 8.0 * (0, 1, 1, 100, 0)[seed % 5],
    )
    rows, biases = rng.standard_normal((3, 2)) * steep, rng.standard_normal(3) * (seed % 3 > 0)
    outer, ends = rng.standard_normal((2, 3)), rng.standard_normal(2) * (seed % 2)
    net = mo.Network.mlp(rows, biases, outer, ends, activation=kind)
    return net, net.rounded("float32"), mean, direction


def holds(kind, seed):
    a, b, mean, direction = twins(kind, seed)
    found = distance(a, b, mo.Gaussian(mean, np.outer(direction, direction)))
    truth = on_a_line(a, b, mean, direction)
    assert found.low <= truth <= found.high, (kind, seed, mp.nstr(truth, 17), found)
    assert found.high > 0
    if np.abs(a.layers[0].weight).max() < 100:
        assert found.width < 1e-2 or found.high < 1e-6, (kind, seed, found)


@pytest.mark.parametrize("kind", KINDS)
def test_own_roundings(kind):
    for seed in (0, 3, 5):
        holds(kind, seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_more_own_roundings(kind):
    for seed in range(6, 36 if mo.Activation.of(kind).piecewise_linear else 24):
        holds(kind, seed)


def several(kind, seed, biases):
    """With three inputs, hidden by a permutation, and a covariance of sixteenths."""
    rng = np.random.default_rng(seed)
    steep = (1.0, 1e4, 1e8)[seed % 3]
    rows, outer = rng.standard_normal((5, 3)) * steep, rng.standard_normal((2, 5))
    starts, ends = biases * rng.standard_normal(5), np.zeros(2)
    a = mo.Network.mlp(rows, starts, outer, ends, activation=kind)
    order = rng.permutation(5)
    small = [x.astype(np.float32).astype(float) for x in (rows, starts, outer)]
    b = mo.Network.mlp(small[0][order], small[1][order], small[2][:, order], ends, activation=kind)
    half = rng.integers(-4, 5, (3, 3)) / 4.0
    half[2] *= seed % 2  # singular
    return a, b, half @ half.T


def kernel_truth(a, b, cov, kernel, digits=60):
    """sqrt of a quadratic form in a kernel of variances, covariance and means, in 60 digits."""
    with mp.workdps(digits):
        units, matrix = [], mp.matrix(cov.tolist())
        for net, sign in ((a, 1), (b, -1)):
            first, last = net.layers
            for row, m, out in zip(
                exactly(first.weight), first.bias.tolist(), exactly(last.weight.T), strict=True
            ):
                units.append((mp.matrix(row), mp.mpf(m), [sign * v for v in out]))
        total = mp.mpf(0)
        variances = [(row.T * matrix * row)[0] for row, _, _ in units]
        for i, (x, m, v) in enumerate(units):
            for j, (y, k, w) in enumerate(units):
                total += mp.fdot(v, w) * kernel(
                    variances[i], variances[j], (x.T * matrix * y)[0], m, k
                )
        return mp.sqrt(total)


def arc_cosine(v, w, c, *_):
    if not v or not w:
        return mp.mpf(0)
    size = mp.sqrt(v * w)
    turn = mp.acos(max(mp.mpf(-1), min(mp.mpf(1), c / size)))
    return size * (mp.sin(turn) + (mp.pi - turn) * mp.cos(turn)) / (2 * mp.pi)


def absolute(v, w, c, *_):
    return 4 * arc_cosine(v, w, c) - c


def leaking(v, w, c, *_):
    slope = mp.mpf(0.1)
    return slope**2 * c + slope * (1 - slope) * c + (1 - slope) ** 2 * arc_cosine(v, w, c)


def arc_sine(v, w, c, *_):
    return 2 / mp.pi * mp.asin(2 * c / mp.sqrt((1 + 2 * v) * (1 + 2 * w)))


def waves(v, w, c, m, k):
    return (mp.exp(c - (v + w) / 2) * mp.cos(m - k) - mp.exp(-c - (v + w) / 2) * mp.cos(m + k)) / 2


@pytest.mark.parametrize(
    ("kind", "kernel", "biases"),
    [
        ("relu", arc_cosine, 0), ("abs", absolute, 0), ("leaky_relu(0.1)", leaking, 0), ("erf", arc_sine, 0),
        ("sin", waves, 0), ("sin", waves, 1),
    ],
)  # fmt: skip
def test_several_inputs_against_kernels(kind, kernel, biases):
    for seed in range(6):
        a, b, cov = several(kind, seed, biases)
        truth, found = kernel_truth(a, b, cov, kernel), distance(a, b, mo.Gaussian(0, cov))
        assert found.low <= truth <= found.high, (seed, mp.nstr(truth, 17), found)
        assert found.high > 0
        if a.layers[0].activation.homogeneous or seed % 3 == 0:
            assert found.width < 1e-6, (seed, found)


def test_what_is_proved_equal_is_0_and_nothing_else():
    rng = np.random.default_rng(0)
    for kind in KINDS:
        rows, outer = rng.standard_normal((3, 2)), rng.standard_normal((1, 3))
        a = mo.Network.mlp(rows, np.zeros(3), outer, [0.0], activation=kind)
        for step in (2.0**-52, 1e-200, 5e-324):
            b = mo.Network.mlp(rows, np.zeros(3), outer, [step], activation=kind)
            found = distance(a, b, mo.Gaussian())
            assert 0 <= found.low <= step <= found.high < 1e-9
        dead = mo.Network.mlp(
            [*rows, [1.0, 2.0]], np.zeros(4), [[*outer[0], 0.0]], [0.0], activation=kind
        )
        assert distance(a, dead, mo.Gaussian()) == (0, 0, 0)
        assert mo.distance(a, a, on=mo.Gaussian()).status == "proved"


def test_layers_without_units():
    rng = np.random.default_rng(0)
    x = np.random.default_rng(1).standard_normal((200_000, 2))
    for kind in KINDS:
        full = mo.Network.mlp(
            rng.standard_normal((3, 2)),
            np.ones(3),
            rng.standard_normal((1, 3)),
            [1.0],
            activation=kind,
        )
        empty = mo.Network.mlp(np.zeros((0, 2)), [], np.zeros((1, 0)), [0.5], activation=kind)
        flat = mo.Network.mlp([[3.0, 4.0]], [0.5])
        for a, b in ((full, empty), (empty, full), (empty, flat)):
            squares = np.square(a(x) - b(x)).sum(axis=1)
            found = mo.distance(a, b, on=mo.Gaussian())
            assert (
                abs(squares.mean() - found.extra["value"] ** 2) < 6 * squares.std() / len(x) ** 0.5
            )
        assert mo.distance(empty, flat, on=mo.Gaussian()).extra["value"] == pytest.approx(
            5, rel=1e-12
        )


def test_directions_that_hardly_vary():
    """A standard deviation of 1e-9 in a direction that is read with weight 1e9: nothing may be
    dropped in silence.
    """
    a, b = (
        mo.Network.mlp([[1.0, s * 1e9]], [0.0], [[1.0]], [0.0], activation="relu") for s in (1, -1)
    )
    found = distance(a, b, mo.Gaussian(0, [1.0, 1e-18]))
    assert found.value == pytest.approx(
        (2 - 2 / np.pi) ** 0.5, rel=1e-9
    )  # X, Y independent of variance 2: E (X_+ - Y_+)^2
    assert found.width < 1e-6
    turned = np.array([[0.6, 0.8], [-0.8, 0.6]])
    law = mo.Gaussian(0, turned @ np.diag([1.0, 1e-18]) @ turned.T)
    assert Whitening.of(law, 2).lost > 0
    for kind in ("relu", "tanh", "erf"):
        a, b = (
            mo.Network.mlp(
                np.array([[1.0, s * 1e7]]) @ turned.T, [0.0], [[1.0]], [0.0], activation=kind
            )
            for s in (1, -1)
        )
        found = distance(a, b, law)
        assert (
            found.high > 1e-3
        )  # as stored the law may have 1e-16 there, and that is a distance of about 0.1


def test_bends():
    """The largest second and third derivatives, on a grid."""
    grid = [mp.mpf(k) / 50 for k in range(-300, 301)]
    for kind, bounds in BENDS.items():
        for order, bound in zip((2, 3), bounds, strict=True):
            top = float(max(abs(mp.diff(EXACT[kind], x, order)) for x in grid))
            assert top <= bound <= max(1.01 * top, 1e-9), (kind, order, top)


def test_piecewise_linear_networks_of_different_kinds():
    """abs as pairs of ReLU: the same function in other words, and one that is 1e-9 away."""
    rng = np.random.default_rng(3)
    rows, starts, outer = (
        rng.standard_normal((4, 3)),
        rng.standard_normal(4),
        rng.standard_normal((1, 4)),
    )
    one = mo.Network.mlp(rows, starts, outer, [0.0], activation="abs")
    both = np.vstack([rows, -rows]), np.concatenate([starts, -starts]), np.hstack([outer, outer])
    law = mo.Gaussian(rng.standard_normal(3), np.diag([1.0, 2.0, 0.5]))
    assert distance(one, mo.Network.mlp(*both, [0.0], activation="relu"), law).high < 1e-13
    found = distance(one, mo.Network.mlp(*both, [1e-9], activation="relu"), law)
    assert found.low <= 1e-9 <= found.high
    assert found.width < 1e-4


@pytest.mark.parametrize("kind", ["tanh", "relu", "gelu", "sin"])
def test_a_law_that_does_not_vary_is_a_point(kind):
    """There the distance is that of two values, to all digits."""
    rng = np.random.default_rng(0)
    a, b = (
        mo.Network.mlp(*(rng.normal(size=s) for s in ((5, 2), 5, (2, 5), 2)), activation=kind)
        for _ in "ab"
    )
    found = distance(a, b, mo.Gaussian([1.0, -0.5], 0.0))
    gap = np.linalg.norm(a.logits(np.array([[1.0, -0.5]])) - b.logits(np.array([[1.0, -0.5]])))
    assert found.low <= found.value <= found.high
    assert found.high - found.low <= 1e-15 * found.high
    assert found.value == pytest.approx(gap, rel=1e-13)
    near = b.with_flat(
        b.flat() * np.where(np.arange(b.parameters) == b.parameters - 1, 1 + 2.0**-52, 1.0)
    )
    tiny = distance(b, near, mo.Gaussian([1.0, -0.5], 0.0))
    assert tiny.value == pytest.approx(abs(b.flat()[-1]) * 2.0**-52, rel=1.0)
    assert 0 < tiny.low <= tiny.high
