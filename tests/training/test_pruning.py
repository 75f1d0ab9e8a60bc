"""Shares and curves against brute force; what data cannot see; networks that really shrink."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import strategies as plants

import moduli as mo
from moduli.training.pruning import (
    contributions,
    keep,
    largest_share,
    noise_share,
    predicted_share,
    prunable_share,
    relative_change,
    removable,
    span,
    visible,
)


def test_removable_against_exact_sums():
    rng = np.random.default_rng(0)
    for _ in range(200):
        squares = rng.integers(0, 6, int(rng.integers(1, 30))) / 8.0
        budget = float(rng.choice([0.0, 0.1, 0.25, 0.5, 1.0]))
        total = sum(map(Fraction, squares.tolist())) * Fraction(budget)
        best = 0
        for k in range(len(squares) + 1):
            if sum(map(Fraction, sorted(squares.tolist())[:k])) <= total:
                best = k
        assert removable(squares, budget) == best


def test_equality_is_exact():
    tenth = np.array([0.1, 0.2, 0.7])  # 0.1 of a total that is no float
    assert removable(tenth, 0.1) == (
        1 if Fraction(0.1) <= Fraction(0.1) * sum(map(Fraction, tenth.tolist())) else 0
    )
    assert removable(np.array([1.0] * 10), 0.1) == (1 if Fraction(0.1) * 10 >= 1 else 0)
    assert removable(np.array([1.0, 3.0]), 0.25) == 1


def test_a_single_jump_takes_everything():
    weight = np.vstack([np.eye(50), 1000 * np.ones((1, 50))])
    assert prunable_share(weight) == 50 / 51
    assert largest_share(weight) > 0.99
    assert prunable_share(np.zeros((4, 3))) == 1.0


def test_what_the_data_cannot_see():
    """Centred inputs: a constant per row is invisible to the function, and to the curve."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 12))
    x -= x.mean(axis=1, keepdims=True)
    net = mo.Network.mlp(
        rng.standard_normal((30, 12)),
        np.zeros(30),
        rng.standard_normal((2, 30)),
        np.zeros(2),
        activation="relu",
    )
    noisy = net.with_layers(
        [
            mo.Layer(
                net.layers[0].weight + mo.stable_noise((30, 12), 1.2, kind="rows", seed=1),
                net.layers[0].bias,
                net.layers[0].activation,
            ),
            net.layers[1],
        ]
    )
    assert np.allclose(net(x), noisy(x), atol=1e-10)
    assert np.allclose(
        visible(net.layers[0].weight, x), visible(noisy.layers[0].weight, x), atol=1e-8
    )
    a, b = (mo.pruning_curve(n, by="units", on=mo.Samples(x)) for n in (net, noisy))
    assert a.share == b.share
    assert np.allclose(a.error, b.error)
    assert b.plain_shares[0] > b.shares[0]
    assert b.plain is not None
    assert "whole rows" in str(b.rows())
    whole = mo.pruning_curve(noisy, by="units")
    assert whole.share == b.plain_shares[0]


def test_curves_against_brute_force():
    rng = np.random.default_rng(1)
    net = plants.minimal(rng, (3, 7, 5, 2), ["relu"] * 2).network()
    curve = mo.pruning_curve(net, by="units")
    total = sum(np.square(x.weight).sum() for x in net.layers[:-1])
    for share, error in zip(curve.kept, curve.error, strict=True):
        removed = 0.0
        for layer in net.layers[:-1]:
            squares = np.sort(np.square(layer.weight).sum(axis=1))
            removed += squares[: len(squares) - math.floor(share * len(squares) + 1e-9)].sum()
        assert error == pytest.approx(math.sqrt(removed / total), abs=1e-12)
    assert curve.error[0] == pytest.approx(1)
    assert curve.error[-1] == 0
    assert curve.at(1.0) == 0
    assert curve.at(0.0) == 1
    singular = mo.pruning_curve(net, by="singular")
    matrix = net.layers[0].weight
    values = np.linalg.svd(matrix, compute_uv=False)
    assert singular.error[-2] <= math.sqrt(
        (values[-1] ** 2 + np.square(net.layers[1].weight).sum()) / total
    )
    magnitude = mo.pruning_curve(net, by="magnitude")
    assert (np.diff(magnitude.error) <= 1e-15).all()


def test_units_really_go():
    rng = np.random.default_rng(2)
    net = plants.minimal(rng, (3, 8, 6, 2), ["tanh"] * 2).network()
    x = rng.standard_normal((100, 3))
    curve = mo.pruning_curve(net, by="units", on=mo.Samples(x))
    small = curve.pruned(0.5)
    assert small.widths == (3, 4, 3, 2)
    assert curve.pruned(1.0) == net
    at = int(np.argmin(np.abs(curve.probes - 0.5)))
    assert curve.function[at] == pytest.approx(relative_change(net(x), small(x)))
    assert curve.pruned(0.0).widths == (3, 0, 0, 2)
    masked = keep(net, [np.array([0, 2]), np.arange(6)])
    zero = [np.array(x.weight) for x in net.layers]
    zero[1][:, [1, 3, 4, 5, 6, 7]] = 0
    other = mo.Network.mlp(
        *(p for w, l in zip(zero, net.layers, strict=True) for p in (w, l.bias)), activation="tanh"
    )
    assert np.allclose(masked(x), other(x))
    ax = curve.plot()
    assert len(ax.lines) == 2


def test_contributions_are_mean_squares():
    rng = np.random.default_rng(3)
    net = plants.minimal(rng, (3, 8, 2), ["relu"]).network()
    x = rng.standard_normal((50, 3))
    z = x @ net.layers[0].weight.T + net.layers[0].bias
    exact = [
        np.square(net.layers[1].weight[:, k]).sum() * np.square(z[:, k]).mean() for k in range(8)
    ]
    assert np.allclose(contributions(net, x)[0], exact)


def test_the_floor_of_pure_noise():
    """Quantiles of the specification, n = 2000, 140 inputs; fewer draws, so their range is wider."""
    for kind, alpha, low, high in (
        ("isotropic", 2.0, 0.118, 0.127),
        ("rows", 2.0, 0.54, 0.57),
        ("isotropic", 1.75, 0.3, 0.5),
    ):
        found = noise_share((2000, 140), kind, alpha, draws=30)
        assert low <= found[1] <= high
        assert found[0] <= found[1] <= found[2]
    start = np.random.default_rng(0).uniform(-(140**-0.5), 140**-0.5, (2000, 140))
    loud = predicted_share(start, "isotropic", 1.75, 0.05, 12.0, draws=20)
    assert 0.25 < loud[1] < 0.55
    ones = np.random.default_rng(1).standard_normal((300, 140))
    ones -= ones.mean(axis=1, keepdims=True)
    rows = predicted_share(start, "rows", 1.75, 0.03, 12.0, draws=5, basis=span(ones))
    assert rows[1] == pytest.approx(prunable_share(visible(start, ones)), abs=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"by": "rank"}, "units, magnitude, singular"),
        ({"on": mo.Gaussian()}, "Samples"),
        ({"by": "units", "on": mo.Samples([[1.0]])}, "inputs"),
    ],
)
def test_refusals(options, said):
    net = plants.minimal(np.random.default_rng(0), (3, 4, 1), ["relu"]).network()
    with pytest.raises((ValueError, mo.ShapeError), match=said):
        mo.pruning_curve(net, **options)
    with pytest.raises(ValueError, match="only units"):
        mo.pruning_curve(net).pruned(0.5)
    with pytest.raises(ValueError, match="no hidden layer"):
        mo.pruning_curve(mo.Network.mlp([[1.0]], [0.0]))


def test_memory_does_not_grow_with_samples_times_width():
    import tracemalloc

    from moduli.training.measures import measure

    rng, width, samples = np.random.default_rng(0), 10_000, 3000
    net = mo.Network.mlp(
        rng.standard_normal((width, 4)),
        np.zeros(width),
        rng.standard_normal((2, width)),
        [0.0, 0.0],
    )
    x = rng.standard_normal((samples, 4))
    tracemalloc.start()
    measure(net, x, x, (x[:, 0] > 0).astype(int))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * samples * width  # what the hidden values of all samples alone would take
