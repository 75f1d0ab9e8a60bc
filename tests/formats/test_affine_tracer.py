"""The tracer: against plain numpy on small integers (equality), and against rationals elsewhere
(certified bounds).
"""

from __future__ import annotations

import re
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from moduli.formats import affine_tracer
from moduli.formats.affine_tracer import BallArray, Tensor, _composed, inverse_root, reciprocal
from moduli.kernel.activations import Activation
from moduli.kernel.errors import ShapeError, UnsupportedModel

RELU, TANH, ABS = Activation("relu"), Activation("tanh"), Activation("abs")


def integers(rng, *shape, low=-3, high=4):
    return rng.integers(low, high, shape).astype(float)


def random_program(rng, tensor, value):
    """A few random operations on a tensor [1, ...] and, row by row, on values [batch, ...]."""
    batch = len(value)
    for _ in range(rng.integers(3, 12)):
        shape = tensor.shape
        match rng.integers(10):
            case 0:
                tensor, value = (
                    tensor.rearrange(lambda v: v.reshape(1, -1)),
                    value.reshape(batch, -1),
                )
            case 1 if len(shape) == 2 and shape[1] % 2 == 0 and shape[1]:
                tensor, value = (
                    tensor.rearrange(lambda v: v.reshape(1, 2, -1)),
                    value.reshape(batch, 2, -1),
                )
            case 2 if len(shape) == 3:
                tensor, value = (
                    tensor.rearrange(lambda v: v.transpose(0, 2, 1)),
                    value.transpose(0, 2, 1),
                )
            case 3:
                take = rng.integers(0, shape[-1], rng.integers(1, 5))  # with repetitions
                tensor = tensor.rearrange(lambda v, take=take: np.take(v, take, -1))
                value = np.take(value, take, -1)
            case 4:
                factor = integers(rng, *([1] * (len(shape) - 1)), shape[-1])
                tensor, value = tensor.scaled(factor), value * factor
            case 5:
                offset = integers(rng, shape[-1])
                tensor, value = tensor.shifted(offset), value + offset
            case 6:
                weight = integers(rng, shape[-1], rng.integers(1, 4))
                tensor, value = tensor.matmul(weight), value @ weight
            case 7 if len(shape) == 3:
                weight = integers(rng, 2, shape[1])
                tensor, value = tensor.matmul_left(weight), weight @ value
            case 8 | 9:
                kind = [RELU, ABS][rng.integers(2)]
                tensor, value = tensor.activate(kind), kind(value)
    return tensor, value


@pytest.mark.parametrize("exact_products", [2**16, 0])
def test_random_programs_on_integers_are_exact(exact_products, monkeypatch):
    monkeypatch.setattr(affine_tracer, "EXACT_PRODUCTS", exact_products)
    kinds = set()
    for seed in range(150):
        rng = np.random.default_rng(seed)
        inputs = int(rng.integers(1, 6))
        x = integers(rng, 8, inputs)
        tensor, value = random_program(rng, Tensor.input((1, inputs)), x)
        net = tensor.finish()
        assert not net.notes
        assert np.array_equal(net(x), value.reshape(8, -1)), seed
        kinds.add((len(net.layers), net.output_map))
    assert {k for k, _ in kinds} >= {1, 2, 3}
    assert {m for _, m in kinds} == {"identity", "relu", "abs"}


def rational(array):
    return np.vectorize(Fraction, otypes=[object])(np.asarray(array, dtype=float))


def test_consecutive_maps_are_rounded_once():
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(5, 5)) for _ in range(4)]
    tensor = Tensor.input((1, 5))
    for weight in maps:
        tensor = tensor.matmul(weight).shifted(weight[0])
    net = tensor.finish()
    weight, bias = rational(np.eye(5)), rational(np.zeros(5))
    for m in maps:
        weight, bias = weight @ rational(m), bias @ rational(m) + rational(m[0])
    assert np.array_equal(net.layers[0].weight.T, weight.astype(float))
    assert np.array_equal(net.layers[0].bias, bias.astype(float))
    assert len(net.notes) == 1
    assert (
        "folded 4 affine maps into 1; rounding to float64 changes the output by at most"
        in net.notes[0]
    )


def bound(note):
    constant, growth = re.search(r"at most (\S+) \+ (\S+) \|x\|", note).groups()
    return Fraction(constant), Fraction(growth)


@pytest.mark.parametrize("exact_products", [2**16, 0])
def test_certified_rounding_holds(exact_products, monkeypatch):
    """x/3 scaled, normalised, ReLU, twice folded: against rationals, with square roots to 120
    digits.
    """
    monkeypatch.setattr(affine_tracer, "EXACT_PRODUCTS", exact_products)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        mean, std, w1, w2, w3 = (
            rng.normal(size=4),
            rng.uniform(1, 3, 4),
            *(rng.normal(size=s) for s in ((4, 6), (6, 5), (5, 2))),
        )
        gain, shift, mu, var = (
            rng.normal(size=6),
            rng.normal(size=6),
            rng.normal(size=6),
            rng.uniform(0.1, 2, 6),
        )
        tensor = Tensor.input((1, 4)).shifted(-mean).scaled(reciprocal(std)).matmul(w1)
        tensor = tensor.normalised(gain, shift, mu, var, 1e-5).activate(RELU).matmul(w2).matmul(w3)
        net = tensor.finish()
        constant, growth = bound(net.notes[0])
        assert constant < Fraction(1, 10**12)
        assert growth < Fraction(1, 10**12)
        digits = 10**120
        roots = np.array(
            [Fraction(digits, _isqrt((Fraction(v) + Fraction(1e-5)) * digits**2)) for v in var],
            dtype=object,
        )
        for x in rng.normal(size=(4, 4)) * 10:
            h = (rational(x) - rational(mean)) / rational(std) @ rational(w1)
            h = (h - rational(mu)) * roots * rational(gain) + rational(shift)
            exact = (
                np.array([max(t, Fraction(0)) for t in h], dtype=object)
                @ rational(w2)
                @ rational(w3)
            )
            h = rational(x)
            for layer in net.layers:
                h = rational(layer.weight) @ h + rational(layer.bias)
                if layer.activation == RELU:
                    h = np.array([max(t, Fraction(0)) for t in h], dtype=object)
            size = max(abs(Fraction(t)) for t in x)
            assert max(abs(h - exact)) <= (constant + growth * size) * Fraction(
                11, 10
            )  # printed to two digits


def _isqrt(q):
    import math

    return math.isqrt(q.numerator // q.denominator)


def test_repeated_scales_stay_exact():
    factor = np.array([1 + 2.0**-52, 3.0])
    tensor = Tensor.input((1, 2)).scaled(factor).scaled(factor)
    net = tensor.matmul(np.eye(2)).finish()
    assert np.array_equal(np.diag(net.layers[0].weight), [float(Fraction(factor[0]) ** 2), 9.0])
    assert "rounding" in net.notes[0]
    assert (
        not Tensor.input((1, 2))
        .scaled(np.array([3.0, 5.0]))
        .scaled(np.array([3.0, 5.0]))
        .finish()
        .notes
    )


def test_far_magnitudes():
    tiny = (
        Tensor.input((1, 2))
        .scaled(np.array([2.0**-600, 2.0**500]))
        .scaled(np.array([2.0**-400, 2.0**400]))
        .matmul(np.eye(2))
    )
    assert np.array_equal(np.diag(tiny.finish().layers[0].weight), [2.0**-1000, 2.0**900])
    with pytest.raises(UnsupportedModel, match=r"finite|beyond float64"):
        Tensor.input((1, 1)).scaled(2.0**900).scaled(2.0**900).finish()
    with pytest.raises(UnsupportedModel, match="2\\^450"):
        Tensor.input((1, 256)).matmul(np.full((256, 256), 1e200)).matmul(
            np.full((256, 256), 2.0)
        ).finish()
    zero = (
        Tensor.input((1, 2))
        .scaled(np.array([1.7e308, 3.0]))
        .matmul(np.array([[0.0], [0.5]]))
        .finish()
    )
    assert (zero.layers[0].weight.tolist(), zero.notes) == ([[0.0, 1.5]], ())
    small = (
        Tensor.input((1, 256))
        .matmul(np.full((256, 256), 1e-200))
        .matmul(np.full((256, 256), 2.0))
        .finish()
    )
    assert not small.layers[0].weight.any()
    assert "at most" in small.notes[0]


def test_ball_products_enclose():
    rng = np.random.default_rng(3)
    numbers = [Fraction(int(n), 3) for n in rng.integers(1, 10**6, 30)]
    balls = [BallArray.near(numbers[k : k + 10], 0.0, (10,)) for k in (0, 10, 20)]
    product = balls[0].times(balls[1]).plus(balls[2])
    for k in range(10):
        exact = numbers[k] * numbers[10 + k] + numbers[20 + k]
        assert abs(product.centre.get((k,)) - exact) <= Fraction(float(product.radius[k]))
    matrix = BallArray.near(numbers[:9], 0.0, (3, 3))
    square = matrix.after(matrix)
    grid = np.array(numbers[:9], dtype=object).reshape(3, 3)
    for at in np.ndindex(3, 3):
        assert abs(square.centre.get(at) - (grid @ grid)[at]) <= Fraction(float(square.radius[at]))


def test_reciprocal_and_root():
    assert reciprocal(np.array([2.0, -0.25])).is_float()
    third = reciprocal(np.array([[3.0, 3.0], [1.0, 7.0]]))
    assert third.shape == (2, 2)
    assert (
        abs(third.centre.get((0, 0)) - Fraction(1, 3))
        <= Fraction(float(third.radius[0, 0]))
        < Fraction(1, 10**30)
    )
    root = inverse_root(np.array([3.75]), 0.25)
    assert (
        abs(root.centre.get((0,)) - Fraction(1, 2))
        <= Fraction(float(root.radius[0]))
        < Fraction(1, 10**30)
    )
    with pytest.raises(UnsupportedModel, match="division by zero"):
        reciprocal(np.array([1.0, 0.0]))
    with pytest.raises(UnsupportedModel, match="not positive"):
        inverse_root(np.array([-1.0]), 1e-5)


def test_activations_that_change_nothing_are_dropped():
    x = Tensor.input((1, 2)).matmul(np.eye(2))
    for inner, outer in (
        (RELU, RELU),
        (ABS, RELU),
        (RELU, ABS),
        (RELU, Activation("leaky_relu", 0.1)),
    ):
        assert x.activate(inner).activate(outer).matmul(np.ones((2, 1))).finish().units == 2
    twice = x.activate(TANH).activate(RELU).matmul(np.ones((2, 1))).finish()
    assert [str(a) for a in twice.activations] == ["tanh", "relu"]
    assert np.array_equal(twice.layers[1].weight, np.eye(2))
    assert x.activate(Activation("leaky_relu", 0.1)).activate(RELU).finish("identity").units == 4


def test_output_map():
    x = Tensor.input((1, 3)).matmul(np.ones((3, 2)))
    net = x.activate(RELU).rearrange(lambda v: v[:, ::-1]).finish()
    assert (net.units, net.output_map, net.widths) == (0, "relu", (3, 2))
    assert (x.finish().output_map, x.finish("softmax").output_map) == ("identity", "softmax")
    net = x.activate(RELU).finish("softmax")
    assert (net.units, net.output_map) == (2, "softmax")
    assert x.activate(TANH).scaled(2.0).finish().widths == (3, 2, 2)
    assert Tensor.input((1, 2)).activate(TANH).finish().output_map == "tanh"


def test_shapes():
    x = Tensor.input((1, 2, 3))
    assert x.matmul(np.ones((3, 4))).shape == (1, 2, 4)
    assert x.matmul(np.ones(3)).shape == (1, 2)
    assert x.matmul_left(np.ones((5, 2))).shape == (1, 5, 3)
    assert x.scaled(np.ones((2, 1))).shape == (1, 2, 3)
    assert Tensor.input((3,)).matmul_left(np.ones((2, 3))).shape == (2,)
    assert Tensor.input((1, 0)).matmul(np.ones((0, 2))).shape == (1, 2)
    for bad in (
        lambda: x.matmul(np.ones((2, 2))),
        lambda: x.shifted(np.ones(4)),
        lambda: x.linear(np.ones((2, 5)), (2,)),
    ):
        with pytest.raises(ShapeError, match=r"shape"):
            bad()
    with pytest.raises(ShapeError, match="normalisation of 2 channels"):
        x.normalised(*np.ones((4, 3)), 1e-5)
    with pytest.raises(UnsupportedModel, match="holds nan"):
        x.shifted(np.array([np.nan, 0, 0]))


def test_a_large_image_costs_vectors_only():
    tracemalloc.start()
    x = (
        Tensor.input((1, 3, 224, 224))
        .shifted(np.ones((1, 3, 1, 1)))
        .scaled(reciprocal(np.array(255.0)))
    )
    x = x.rearrange(lambda v: v.transpose(0, 2, 3, 1).reshape(1, -1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * x.size
    with pytest.raises(UnsupportedModel, match=r"a layer from 150528 to 150528 needs .* numbers"):
        x.activate(RELU)
    with pytest.raises(UnsupportedModel, match="at most"):
        Tensor.input((1, 2**40))


def test_what_follows_an_activation():
    pairs = [
        ("relu", "clip(0.0,6.0)", "clip(0.0,6.0)"), ("relu", "clip(-1.0,1.0)", None),
        ("relu", "elu(0.5)", "relu"), ("leaky_relu(0.3)", "elu(1.0)", "elu(0.3)"),
        ("leaky_relu(0.3)", "elu(-1.0)", "elu(-1.0)"), ("abs", "mish", None),
        ("leaky_relu(0.1)", "elu(0.1)", None), ("leaky_relu(0.0)", "elu(2.0)", "relu"),
        ("clip(0.0,1.0)", "relu", None), ("abs", "elu(2.0)", None),
        ("leaky_relu(1e300)", "elu(1e300)", None), ("relu", "softplus", "softplus"),
    ]  # fmt: skip
    z = np.linspace(-3, 3, 61)
    for outer, inner, wanted in pairs:
        found = _composed(Activation.of(outer), Activation.of(inner))
        assert (found and str(found)) == wanted
        if found is not None:
            assert np.allclose(
                found(z), Activation.of(outer)(Activation.of(inner)(z)), rtol=0, atol=1e-15
            )
