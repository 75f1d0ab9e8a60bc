"""A radius for what comes in and one for what goes out: brute force, the ball entry by entry, forgeries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracles
import pytest

import moduli as mo
from moduli.compression.radius import two_radii
from moduli.compression.radius.two_radii import rank_within
from moduli.kernel.errors import ArgumentError, CertificateRejected, UnsupportedModel


def drawn(rng):
    n, h, m = (int(rng.integers(1, k)) for k in (3, 6, 3))
    a, b, c = (rng.integers(-6, 7, shape) / 4.0 for shape in ((h, m), (h, n), h))
    return a, b, c, mo.Network.mlp(b, c, a.T.copy(), np.zeros(m), activation="tanh")


def test_brute_force_with_two_radii():
    rng, differ = np.random.default_rng(0), 0
    for _ in range(30):
        a, b, c, net = drawn(rng)
        incoming = float(rng.choice([0.25, 0.5, 0.75]))
        outgoing = incoming * float(rng.choice([0.125, 0.5, 2.0, 4.0]))
        found = rank_within(net, incoming=incoming, outgoing=outgoing)
        wanted = oracles.proximate_rank(a, b, c, incoming, outgoing)
        assert (found.lower, found.upper) == (wanted, wanted)
        assert found.check()
        differ += wanted != oracles.proximate_rank(a, b, c, incoming)
        near = found.witness
        if near is not None:
            first, last = zip(net.layers, near.layers, strict=True)
            assert np.abs(first[0].weight - first[1].weight).max(initial=0) <= incoming
            assert np.abs(first[0].bias - first[1].bias).max(initial=0) <= incoming
            assert np.abs(last[0].weight - last[1].weight).max(initial=0) <= outgoing
            assert int(mo.rank(near)) == wanted
    assert differ > 3


def test_equal_radii_are_one():
    rng = np.random.default_rng(1)
    for _ in range(20):
        *_, net = drawn(rng)
        found, one = rank_within(net, incoming=0.5, outgoing=0.5), mo.rank(net, radius=0.5)
        assert (found.lower, found.upper) == (one.lower, one.upper)


def test_numbers_of_numpy_are_radii():
    *_, net = drawn(np.random.default_rng(3))
    found = rank_within(net, incoming=np.float32(0.5), outgoing=np.int64(1))
    assert (found.lower, found.incoming, found.outgoing) == (
        rank_within(net, incoming=0.5, outgoing=1.0).lower, 0.5, 1.0
    )  # fmt: skip
    assert type(found.incoming) is type(found.outgoing) is float
    assert found.check()
    for wrong in (10**400, True, np.float64("nan"), np.inf, 0):
        with pytest.raises(ArgumentError, match="incoming"):
            rank_within(net, incoming=wrong, outgoing=1.0)


def test_larger_radii_never_need_more():
    rng = np.random.default_rng(2)
    for _ in range(20):
        *_, net = drawn(rng)
        ranks = [
            rank_within(net, incoming=0.25, outgoing=q).upper for q in (0.0625, 0.25, 1.0, 4.0)
        ]
        assert ranks == sorted(ranks, reverse=True)


def test_forged_answers_are_rejected():
    *_, net = drawn(np.random.default_rng(3))
    found = rank_within(net, incoming=0.25, outgoing=0.5)
    *_, other = drawn(np.random.default_rng(4))
    for forged in (
        replace(found, outgoing=0.25),
        replace(found, incoming=0.5),
        replace(found, network=other),
        replace(found, scaled=mo.rank(net, radius=0.25)),
    ):
        with pytest.raises(CertificateRejected, match="another"):
            forged.check()


def test_what_cannot_be_asked_is_said():
    *_, net = drawn(np.random.default_rng(5))
    for given in ({"incoming": 0.0}, {"outgoing": -1.0}, {"outgoing": float("inf")}):
        with pytest.raises(ArgumentError, match=next(iter(given))):
            rank_within(net, **{"incoming": 0.5, "outgoing": 0.5, **given})
    with pytest.raises(ArgumentError, match="power of two"):
        rank_within(net, incoming=0.5, outgoing=0.3)
    tiny = mo.Network.mlp([[1.0]], [0.0], [[5e-324]], [0.0], activation="tanh")
    with pytest.raises(ArgumentError, match="no floats"):
        rank_within(tiny, incoming=0.5, outgoing=1.0)
    deep = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], [[1.0]], [0.0], activation="tanh")
    with pytest.raises(UnsupportedModel, match="one hidden layer"):
        rank_within(deep, incoming=0.5, outgoing=0.5)


def test_radii_that_are_no_powers_apart_prove_nothing():
    """Their quotient is rounded: weights times it may be within a radius that they are not within."""
    p, q = 0.5892624923188806, 0.9415651814089914
    net = mo.Network.mlp([[5.0]], [5.0], [[float(np.nextafter(q, 2))]], [0.0], activation="tanh")
    scaled = mo.rank(two_radii._times(net, p / q), radius=p)
    with pytest.raises(CertificateRejected, match="a power of two"):
        two_radii.TwoRadii(net, p, q, scaled).check()
