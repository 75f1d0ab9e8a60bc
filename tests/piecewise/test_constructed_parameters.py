"""Constructed identifiable parameters, and the radius within which all are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import moduli as mo
from moduli.piecewise import crease_margins
from moduli.piecewise.crease_margins import has_full_rank
from moduli.piecewise.crease_points import crease_points

WANTED = {
    (3, 2): "global", (2, 3, 1): "global", (2, 2, 2, 1): "generic", (3, 4, 3, 2): "generic",
    (4, 4, 4, 1): "local", (8, 8, 8, 8, 3): "local",
}  # fmt: skip


@pytest.mark.parametrize("widths", WANTED)
def test_parameters_of_given_widths(widths):
    found = mo.identifiable_parameters(widths)
    assert (found.status, found.scope) == ("proved", WANTED[widths])
    assert found.network.widths == widths
    assert found.radius > 0
    assert found.check()
    again = mo.identifiable(found.network, on=found.on)
    assert (again.status, again.scope) == ("proved", found.scope)
    data = found.to_json()
    assert (data["scope"], data["radius"]) == (found.scope, found.radius)


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(2, 3, 3, 3, 1), (2, 2, 2, 2, 2, 1), (16, 32, 24, 5)])
def test_parameters_of_deeper_and_wider_networks(widths):
    found = mo.identifiable_parameters(widths)
    assert found.status == "proved"
    assert found.scope in ("local", "generic")
    assert found.radius > 0
    assert found.check()


@pytest.mark.parametrize("widths", [(2, 2, 2, 1), (3, 4, 3, 2), (4, 4, 4, 1)])
def test_all_parameters_within_the_radius(widths):
    """Corners and random places of the cube of parameters: the dimension is full at each."""
    found = mo.identifiable_parameters(widths)
    theta, rng = found.network.flat(), np.random.default_rng(0)
    for k in range(6):
        step = rng.uniform(-1, 1, len(theta))
        step = np.sign(step) if k % 2 else step
        moved = found.network.with_flat(theta + found.radius * step)
        exact = mo.dimension(moved, on=found.on)
        assert int(exact) == exact.generic


def test_a_radius_too_large_is_refused():
    found = mo.identifiable_parameters((4, 3, 3, 2))
    with pytest.raises(mo.CertificateRejected, match="within"):
        replace(found, radius=4 * found.radius).check()
    with pytest.raises(mo.CertificateRejected, match="another network"):
        replace(found, network=found.network.with_flat(found.network.flat() + 1.0)).check()
    with pytest.raises(mo.CertificateRejected, match="scope"):
        replace(found, scope="global").check()
    with pytest.raises(mo.CertificateRejected, match="another box"):
        replace(found, on=mo.Box(-1e-3, 1e-3)).check()
    creases = found.creases
    fewer = replace(creases, claimed=(creases.claimed[0] - 1, *creases.claimed[1:]))
    with pytest.raises(mo.CertificateRejected, match="within"):
        replace(found, creases=fewer).check()
    first = {"units": creases.units[1:], "starts": creases.starts[1:], "ends": creases.ends[1:]}
    for change in (first, {"samples": creases.samples[1:]}):
        with pytest.raises(mo.CertificateRejected, match="within"):
            replace(found, creases=replace(creases, **change)).check()
    # A unit whose points on creases are one point again and again has too low a rank.
    starts, ends = creases.starts.copy(), creases.ends.copy()
    mine = np.flatnonzero(creases.units == creases.units[-1])
    starts[mine], ends[mine] = starts[mine[0]], ends[mine[0]]
    assert not crease_margins.holds(replace(creases, starts=starts, ends=ends), found.radius)


def test_a_network_at_the_edge_of_identifiable_ones_has_no_radius():
    """Moving one bias of a found network as far as that makes a unit dead: within that distance from it
    the radius must be smaller, at any place on the way.
    """
    found = mo.identifiable_parameters((4, 3, 2))
    net = found.network
    w, b = net.layers[0].weight, net.layers[0].bias
    dead = -(np.abs(w[0]).sum())  # largest pre-activation without bias, on [-1, 1]
    radii = list[float]()
    for share in (0.0, 0.5, 0.9, 1 - 1e-5, 1 - 1e-6, 1 - 1e-7, 1 - 1e-8):
        bias = b.copy()
        bias[0] = b[0] + share * (dead - b[0])
        moved = mo.Network.mlp(w, bias, net.layers[1].weight, net.layers[1].bias, activation="relu")
        radius = crease_margins.radius(crease_points(moved, found.on, 200, 0, pieces=False))
        assert radius is None or radius < bias[0] - dead
        radii += [] if radius is None else [radius]
    assert max(radii) > 1e-9  # there is something to be wrong about


def test_ranks_of_all_matrices_near_one():
    """Against the distance to the nearest matrix of lower rank, its least singular value."""
    rng = np.random.default_rng(1)
    held = 0
    for size in (1, 2, 5, 8):
        for _ in range(20):
            a = rng.standard_normal((size, size + 1)) * 10.0 ** rng.integers(-3, 4, size + 1)
            left, values, right = np.linalg.svd(a, full_matrices=False)
            change = values[-1] * np.outer(left[:, -1], right[-1])  # a - change has a lower rank
            assert not has_full_rank(a, np.abs(change) * (1 + 1e-6) + 1e-13)
            assert has_full_rank(a, np.zeros_like(a))
            held += has_full_rank(a, np.abs(change) * 1e-3)
    assert held > 20
    assert not has_full_rank(np.zeros((2, 3)), np.zeros((2, 3)))
    assert not has_full_rank(np.ones((3, 2)), np.zeros((3, 2)))
    assert not has_full_rank(np.full((1, 2), np.nan), np.zeros((1, 2)))


def test_runs_of_width_one_have_none():
    found = mo.identifiable_parameters((2, 1, 1, 1, 1))
    assert (found.status, found.scope, found.radius) == ("undecided", "", None)
    assert "at most 5 of 6" in found.answer.reason
    with pytest.raises(mo.Undecided, match="at most 5 of 6"):
        found.check()
    with pytest.raises(mo.ShapeError, match="at least 1"):
        mo.identifiable_parameters((2, 0, 1))
