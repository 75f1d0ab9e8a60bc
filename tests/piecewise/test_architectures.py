"""Dimensions of architectures: published formula, brute force, chains of width 1, forged certificates."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import moduli as mo
from moduli.common import modular
from moduli.piecewise import architectures
from moduli.piecewise.architectures import ArchitectureCertificate, most
from moduli.piecewise.functional_dimension import Exact, _jacobian

WIDE = (
    (2, 2, 2, 1),
    (2, 2, 2, 2, 1),
    (3, 2, 2, 1),
    (4, 3, 2, 2, 1),
    (5, 2, 2, 2, 1),
    (6, 5, 4, 3, 1),
)
NARROW = {
    (2, 1, 1, 1, 1): 5, (2, 1, 1, 1, 1, 1): 5, (2, 2, 1, 1, 1, 1): 9, (1, 1, 1, 1, 1): 4,
    (2, 2, 1, 1, 1, 2, 1): 12, (2, 1, 1, 1): 5, (2, 1, 2, 1): 7, (2, 2, 1, 1, 1): 9,
}  # fmt: skip


def parameters(widths):
    return sum(b * (a + 1) for a, b in pairwise(widths))


@pytest.mark.parametrize("widths", WIDE)
def test_widths_of_two_and_more_have_parameters_less_units(widths):
    found = mo.dimension(widths)
    assert int(found) == parameters(widths) - sum(widths[1:-1]) == found.generic
    assert found.network.widths == widths
    assert found.check()


@pytest.mark.parametrize("widths", NARROW)
def test_runs_of_width_one(widths):
    """The largest that tens of thousands of draws had found; chains have inputs + 3."""
    found = mo.dimension(list(widths))
    assert (found.lower, found.upper) == (NARROW[widths],) * 2
    assert found.check()


@pytest.mark.parametrize("widths", [(2, 2, 2, 1), *list(NARROW)[:4], (1, 2, 1, 1, 1, 2)])
def test_no_network_has_more_than_the_upper_bound(widths):
    """Exact dimensions of networks whose layers of width 1 clip, rise and fall in every order."""
    seen = set()
    for seed in range(24):
        rng = np.random.default_rng(seed)
        shapes = [s for a, b in pairwise(widths) for s in ((b, a), (b,))]
        net = mo.Network.mlp(*(rng.integers(-4, 5, s) for s in shapes), activation="relu")
        seen.add(mo.dimension(net, on=mo.Box(-16, 16)).lower)
    assert max(seen) <= most(widths)


def test_the_network_of_a_certificate_by_the_other_route():
    """The exact dimension of the network found, on a box, over all its cells."""
    for widths in ((2, 2, 2, 1), (2, 1, 1, 1, 1), (1, 2, 2, 1), (3, 3, 2, 2)):
        found = mo.dimension(widths)
        reach = 4 * architectures.REACH
        exact = mo.dimension(found.network, on=mo.Box(-reach, reach))
        assert found.lower <= int(exact) <= found.upper


def test_integers_and_floats_make_one_jacobian():
    found = mo.dimension((3, 4, 3, 2))
    net, points = found.network, found.certificate.points
    layers = [
        (architectures._integers(x.weight, "w"), architectures._integers(x.bias, "b"))
        for x in net.layers
    ]
    signs = architectures._exact_signs(net, points)
    some = architectures.Exploration(net, mo.Box(-1e9, 1e9), points, signs)
    prime = modular.PRIMES[0]
    theirs = np.concatenate([*_jacobian(some, Exact(prime))])
    monkey = pytest.MonkeyPatch()
    monkey.setattr(architectures, "CHECKED", prime)
    gates = [np.split(row > 0, np.cumsum(net.widths[1:-2])) for row in signs]
    mine = [architectures._derivatives(layers, gate, net.widths) for gate in gates]
    monkey.undo()
    assert np.array_equal(np.concatenate(mine) % prime, theirs % prime)


def test_ranks_of_integers():
    rng = np.random.default_rng(0)
    for rank in (0, 1, 5, 9):
        a = rng.integers(-9, 10, (12, rank)) @ rng.integers(-9, 10, (rank, 9))
        assert architectures._rank_of_integers(a, architectures.CHECKED) == rank


def test_signs_of_whole_numbers_beyond_floats():
    """A sum of which floats lose the 1: 2^60 + 1 - 2^60."""
    big = 2.0**30
    net = mo.Network.mlp(
        [[big], [big], [1.0]], [0.0, 0.0, 0.0], [[big, -big, 1.0], [big, -big, 0.0]],
        [0.0, 0.0], [[1.0, 1.0]], [0.0], activation="relu",
    )  # fmt: skip
    signs = architectures._exact_signs(net, np.array([[1.0], [2.0**31 + 1]]))
    assert signs.tolist() == [[1, 1, 1, 1, 0]] * 2


def test_wide_ones_by_creases(tmp_path):
    widths = (8, 24, 12, 3)
    found = mo.dimension(widths)
    assert int(found) == parameters(widths) - 36
    assert found.certificate.creases is not None
    assert found.check()
    again = ArchitectureCertificate.read(found.save(tmp_path / "wide.json"))
    again.verify()
    assert again.rank == found.lower
    spoilt = replace(again, creases=replace(again.creases, ends=again.creases.starts))
    with pytest.raises(mo.CertificateRejected, match="not proved to cross"):
        spoilt.verify()
    other = mo.dimension((8, 24, 12, 3), seed=1).network
    with pytest.raises(mo.CertificateRejected, match="another network"):
        replace(again, network=other).verify()


def test_forged_certificates_are_rejected(tmp_path):
    found = mo.dimension((2, 2, 2, 1))
    proof = found.certificate
    net = proof.network

    def forged(**change):
        return replace(found, proof=replace(proof, **change))

    with pytest.raises(mo.CertificateRejected, match="the rank is 11, not 12"):
        replace(found, lower=12, upper=12, proof=replace(proof, rank=12)).check()
    with pytest.raises(mo.CertificateRejected, match="not those of the certificate"):
        replace(found, upper=10).check()
    with pytest.raises(mo.CertificateRejected, match="not those of the certificate"):
        replace(found, lower=12).check()
    with pytest.raises(mo.CertificateRejected, match="the rank is"):
        forged(points=proof.points[:1]).check()
    with pytest.raises(mo.CertificateRejected, match="not whole"):
        forged(points=proof.points + 0.5).check()
    with pytest.raises(mo.CertificateRejected, match="not whole"):
        forged(network=net.with_flat(net.flat() / 3)).check()
    with pytest.raises(mo.CertificateRejected, match="not whole"):
        forged(points=proof.points * np.inf).check()
    with pytest.raises(mo.CertificateRejected, match="a unit vanishes"):
        forged(network=net.with_flat(0 * net.flat())).check()
    with pytest.raises(mo.CertificateRejected, match="neither points nor creases"):
        forged(points=None).check()
    leaky = mo.Network.mlp(*(p for x in net.layers for p in (x.weight, x.bias)), activation="abs")
    with pytest.raises(mo.CertificateRejected, match="not relu"):
        forged(network=leaky).check()
    with pytest.raises(mo.CertificateRejected, match="of widths"):
        replace(found, widths=(2, 2, 2, 2)).check()
    path = tmp_path / "c.json"
    ArchitectureCertificate.read(found.save(path)).verify()
    data = json.loads(path.read_text())
    for change in ({"schema": "x"}, {"layers": [[[1]]]}, {"points": [["a"]]}, {"rank": None}):
        path.write_text(json.dumps({**data, **change}))
        with pytest.raises(mo.CertificateRejected, match="no certificate of a dimension"):
            ArchitectureCertificate.read(path)


def test_an_interval_says_so():
    found = mo.dimension((1, 4, 4, 1), budget=50)
    assert (found.status, found.exact, found.upper) == ("bounded", False, 25)
    assert found.check()
    with pytest.raises(mo.Undecided, match="between"):
        int(found)
    assert "<=" in dict(found.rows())["functional dimension"]


def test_seeds_and_refusals():
    assert mo.dimension((2, 3, 2, 1), seed=3).network == mo.dimension((2, 3, 2, 1), seed=3).network
    assert int(mo.dimension([np.int64(4), 2])) == 10
    for widths in ([3], [2, 0, 1], [2, -1, 1]):
        with pytest.raises(mo.ShapeError, match="at least 1"):
            mo.dimension(widths)
    with pytest.raises(mo.ArgumentError, match="the same on every box"):
        mo.dimension([2, 2, 1], on=mo.Box(-1, 1))
    with pytest.raises(mo.ArgumentError, match="slice="):
        mo.dimension([2, 2, 1], slice=(0, 1))
    with pytest.raises(mo.ModuliError):
        mo.dimension([2, 2.5, 1], on=mo.Box(-1, 1))
