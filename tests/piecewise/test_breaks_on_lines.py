"""How often networks can bend along a line: never more than the bound, and the bound where it is known."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

import moduli as mo
from moduli.piecewise.breaks_on_lines import fewest_hidden_units, most_breaks


def breaks(layers):
    """Jumps of the slope of a network of one input, between all points where a unit changes its sign."""
    ends = np.array([-1e6, 1e6])
    for l in range(1, len(layers)):
        values = forward(layers[:l], ends)  # affine between the ends, which hold all bends so far
        new = []
        for z in values.T:
            a, b = z[:-1], z[1:]
            cross = np.flatnonzero(a * b < 0)
            new += (
                ends[cross] - a[cross] * (ends[cross + 1] - ends[cross]) / (b[cross] - a[cross])
            ).tolist()
        ends = np.unique(np.concatenate([ends, new]))
    y = forward(layers, ends)[:, 0]
    gap = np.diff(ends)
    keep = gap > 1e-9
    slopes = np.diff(y)[keep] / gap[keep]
    return int((np.abs(np.diff(slopes)) > 1e-6).sum())


def forward(layers, x):
    h = x[:, None]
    for k, (w, b) in enumerate(layers):
        h = (np.maximum(h, 0) if k else h) @ w.T + b
    return h


def drawn(rng, hidden):
    widths = [1, *hidden, 1]
    return [
        (rng.normal(size=(b, a)), rng.normal(size=b) * rng.choice([0.3, 1, 3]))
        for a, b in pairwise(widths)
    ]


REACHED = {(1,): 1, (2,): 2, (3,): 3, (1, 1): 2, (2, 1): 4, (1, 2): 3, (2, 2): 6, (1, 1, 1): 2}


@pytest.mark.parametrize(
    "hidden", [w for n in (1, 2, 3) for w in product((1, 2, 3), repeat=n) if sum(w) <= 6], ids=str
)
def test_no_network_bends_more_often(hidden):
    rng = np.random.default_rng(0)
    seen = max(breaks(drawn(rng, hidden)) for _ in range(400))
    assert seen <= most_breaks(hidden)
    if hidden in REACHED:
        assert seen == most_breaks(hidden) == REACHED[hidden]


def test_counts_of_breaks_are_those_of_the_pieces():
    rng = np.random.default_rng(1)
    for _ in range(20):
        layers = [(np.round(8 * w) / 8, np.round(8 * b) / 8) for w, b in drawn(rng, (3, 2))]
        net = mo.Network.mlp(*(part for layer in layers for part in layer), activation="relu")
        found = mo.pieces(net, on=mo.Box(-(2.0**20), 2.0**20))
        assert breaks(layers) == found.linear_regions - 1


def test_the_fewest_units_never_fall():
    found = [fewest_hidden_units(k) for k in range(30)]
    assert found == sorted(found)
    assert found[:6] == [0, 1, 2, 3, 3, 4]
