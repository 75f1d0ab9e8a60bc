"""Networks with smooth units: enclosures against 60 digits, planted redundancies, forged rows."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest

import moduli as mo
from moduli.piecewise.smooth_dimension import _enclosed_rows, applies


def drawn(seed, widths, activation):
    rng = np.random.default_rng(seed)
    shapes = [s for a, b in pairwise(widths) for s in ((b, a), (b,))]
    return mo.Network.mlp(*map(rng.standard_normal, shapes), activation=activation)


def function(kind, z):
    if kind == "relu":
        return max(z, Decimal(0))
    if kind == "softplus":
        return (1 + z.exp()).ln()
    if kind == "sigmoid":
        return 1 / (1 + (-z).exp())
    return 1 - 2 / (1 + (2 * z).exp())


def output(net, theta, x, which):
    h, at = [Decimal(v) for v in x], 0
    kinds = [*map(str, net.activations), "identity"]
    for layer, kind in zip(net.layers, kinds, strict=True):
        rows, columns = layer.weight.shape
        weight, at = theta[at : at + rows * columns], at + rows * columns
        bias, at = theta[at : at + rows], at + rows
        z = [sum(weight[i * columns + j] * h[j] for j in range(columns)) + bias[i] for i in range(rows)]  # fmt: skip
        h = z if kind == "identity" else [function(kind, v) for v in z]
    return h[which]


@pytest.mark.parametrize("kinds", [["tanh"] * 2, ["sigmoid", "softplus"], ["relu", "tanh"]])
def test_derivatives_are_enclosed(kinds):
    """Differences of second order in 90 digits: off by about 1e-50, far less than the enclosures."""
    net = drawn(1, (2, 3, 2, 2), kinds)
    points, outputs = np.random.default_rng(2).uniform(-2, 2, (6, 2)), np.arange(6) % 2
    middle, reach = _enclosed_rows(net, points, outputs)
    assert np.isfinite(reach).all()
    assert reach.max() < 1e-12
    with localcontext() as context:
        context.prec = 90
        step, theta = Decimal(10) ** -25, [Decimal(v) for v in net.flat().tolist()]
        for r, (x, which) in enumerate(zip(points.tolist(), outputs.tolist(), strict=True)):
            for k in range(len(theta)):
                up, down = list(theta), list(theta)
                up[k], down[k] = up[k] + step, down[k] - step
                true = (output(net, up, x, which) - output(net, down, x, which)) / (2 * step)
                assert abs(Decimal(float(middle[r, k])) - true) <= Decimal(float(reach[r, k]))


@pytest.mark.parametrize(
    ("widths", "kinds"),
    [((1, 3, 1), ["tanh"]), ((2, 4, 3, 1), ["tanh"] * 2), ((4, 6, 5, 2), ["sigmoid", "softplus"])],
)
def test_all_parameters_count(widths, kinds):
    net = drawn(0, widths, kinds)
    found = mo.dimension(net, on=mo.Box(-2, 2))
    assert int(found) == found.generic == net.parameters
    assert found.check()
    answer = mo.identifiable(net, on=mo.Box(-2, 2))
    assert (answer.status, answer.scope) == ("proved", "global" if len(kinds) == 1 else "local")
    assert answer.check()
    assert found.null_space.shape == (0, net.parameters)


def test_scaling_of_relu_units_is_left_out():
    net = mo.Network.mlp(
        [[1.0, 2.0], [-1.0, 1.0]], [0.5, 0.25], [[1.0, -0.5], [0.25, 1.0], [0.5, 0.75]],
        [0.5, 0.0, -1.0], [[1.0, -2.0, 0.5]], [0.0], activation=["relu", "tanh"],
    )  # fmt: skip
    found = mo.dimension(net, on=mo.Box(-3, 3))
    assert int(found) == net.parameters - 2
    assert found.null_space.shape == (2, net.parameters)


def test_planted_redundancies_are_not_counted():
    """The exact dimension, by what is free: copies, a silent unit, a constant unit."""
    tanh = {"activation": "tanh"}
    twins = mo.Network.mlp([[1.0, 2.0], [1.0, 2.0]], [0.5, 0.5], [[1.0, 2.0]], [0.0], **tanh)
    assert mo.dimension(twins, on=mo.Box(-1, 1)).lower == 9 - 3 - 1
    silent = mo.Network.mlp([[1.0, 2.0], [2.0, 1.0]], [0.5, 0.25], [[1.0, 0.0]], [0.0], **tanh)
    assert mo.dimension(silent, on=mo.Box(-1, 1)).lower == 9 - 3
    constant = mo.Network.mlp([[1.0, 2.0], [0.0, 0.0]], [0.5, 0.25], [[1.0, 3.0]], [0.0], **tanh)
    # Moving its weights moves the function along x1 and x2, its bias and outgoing weight a constant.
    assert mo.dimension(constant, on=mo.Box(-1, 1)).lower == 9 - 2
    opposite = mo.Network.mlp([[1.0, 2.0], [-1.0, -2.0]], [0.5, -0.5], [[1.0, 2.0]], [0.0], **tanh)
    found = mo.dimension(opposite, on=mo.Box(-1, 1))
    assert (found.status, found.lower, found.upper) == ("bounded", 5, 9)
    assert found.check()
    deep = drawn(3, (2, 3, 3, 1), ["tanh"] * 2)
    w, b = deep.layers[1].weight.copy(), deep.layers[1].bias.copy()
    w[1], b[1] = w[0], b[0]
    first, last = deep.layers[0], deep.layers[2]
    copied = mo.Network.mlp(first.weight, first.bias, w, b, last.weight, last.bias, **tanh)
    assert mo.dimension(copied, on=mo.Box(-2, 2)).lower == deep.parameters - 4 - 1


def test_forged_rows_are_refused():
    net = drawn(0, (2, 4, 1), ["tanh"])
    found = mo.dimension(net, on=mo.Box(-2, 2))
    points = found.cells.points
    twice = replace(found.cells, points=np.repeat(points[:1], len(points), axis=0))
    assert not replace(found, cells=twice).check()
    with pytest.raises(mo.CertificateRejected, match="outside the box"):
        replace(found, cells=replace(found.cells, points=points + 9.0)).check()
    assert not replace(found, lower=18, upper=18).check()
    assert not replace(found, lower=16, upper=16).check()


def test_refusals():
    assert not applies(drawn(0, (1, 2, 1), ["relu"]))
    assert not applies(drawn(0, (1, 2, 2, 1), ["tanh", "gelu"]))
    with pytest.raises(mo.ArgumentError, match="points are taken in a box"):
        mo.dimension(drawn(0, (1, 2, 1), ["tanh"]), on=mo.Gaussian())
    far = mo.dimension(drawn(0, (1, 2, 1), ["tanh"]), on=mo.Box(1e9, 2e9))
    assert far.lower < far.upper
    net = drawn(0, (1, 2, 1), ["tanh"])
    huge = mo.dimension(net.with_flat(net.flat() * 1e300), on=mo.Box(-1, 1))
    assert 0 <= huge.lower <= huge.upper
