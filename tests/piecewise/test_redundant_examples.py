"""Minimal networks that the function does not determine: each claim by another route."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import moduli as mo
from moduli.kernel.errors import ArgumentError, CertificateRejected

N = mo.Network.mlp


def named(inputs=2, bends=3):
    return {example.name: example for example in mo.minimal_examples(inputs, bends)}


@pytest.mark.parametrize(
    "size",
    [(1, 2), (1, 4), (2, 2), (3, 3), pytest.param((5, 4), marks=pytest.mark.slow)],
    ids=str,
)
def test_all_of_them_hold(size):
    inputs, bends = size
    rng = np.random.default_rng(0)
    found = mo.minimal_examples(inputs, bends)
    assert len(found) == (7 if inputs > 1 else 5)
    for example in found:
        assert example.check()
        reach = 8.0
        x = rng.uniform(-reach, reach, (200, inputs))
        assert np.allclose(example.network(x), example.other(x), atol=1e-9)
        assert example.network.widths[0] == inputs
        if example.minimal is not None:
            small = mo.compress(example.network)
            assert (small.network.units, small.optimal) == (example.units, True)
            assert mo.equivalent(example.network, example.other)
        else:
            assert mo.compress(example.network).network.units == example.units


def test_the_three_cases_of_one_hidden_layer():
    extra = [e.units - e.minimal.bends for e in mo.minimal_examples(3, 4) if e.minimal is not None]
    assert extra == [0, 1, 2, 2]
    for example in mo.minimal_examples(3, 4)[:4]:
        assert example.minimal.bends == 4


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_the_dimension_is_what_derivatives_leave(inputs):
    """On a box that holds all bends, at the network: all parameters less the functional dimension."""
    for example in mo.minimal_examples(inputs, 2):
        found = mo.dimension(example.network, on=mo.Box(-16, 16))
        spare = example.network.parameters - int(found)
        assert example.dimension <= spare
        # a unit may leave the hyperplane that it shares, to first order: not on the set itself
        assert example.dimension == spare or "of two units" in example.name, example


def test_others_are_found_by_other_means():
    """What `identifiable` says of them: another network, or, of a clip, none close by."""
    box = mo.Box(-8, 8)
    for example in named(2, 2).values():
        status = mo.identifiable(example.network, on=box).status
        assert status == ("proved" if example.name == "a clip" else "refuted"), example


def fewest_by_search(net, hidden, tries=60):
    """The least error of fits with fewer units, relative; a search, for comparison only."""
    from scipy.optimize import least_squares

    x = np.linspace(-8, 8, 161)[:, None]
    wanted = net(x)[:, 0]
    widths = [1, *hidden, 1]
    shapes = [s for a, b in pairwise(widths) for s in ((b, a), (b,))]
    sizes = [int(np.prod(s)) for s in shapes]

    def out(p):
        parts = [
            q.reshape(s) for q, s in zip(np.split(p, np.cumsum(sizes)[:-1]), shapes, strict=True)
        ]
        h = x
        for k in range(0, len(parts), 2):
            h = (np.maximum(h, 0) if k else h) @ parts[k].T + parts[k + 1]
        return h[:, 0] - wanted

    best, rng = np.inf, np.random.default_rng(0)
    for _ in range(tries):
        best = min(best, least_squares(out, 2 * rng.normal(size=sum(sizes)), max_nfev=200).cost)
    return best / (wanted @ wanted)


@pytest.mark.slow
def test_no_fit_with_fewer_units_of_any_depth():
    for name in ("units turned together behind another layer", "a weight that is never used"):
        net = named(1, 2)[name].network
        for hidden in ((3,), (2, 1), (1, 2), (1, 1, 1)):
            assert fewest_by_search(net, hidden) > 1e-6
        # the search does find what there is
    few = N([[1.0], [-1.0]], [0.0, 1.0], [[1.0, 2.0]], [0.5], activation="relu")
    assert fewest_by_search(few, (2,)) < 1e-12


def test_a_weight_may_be_anything_from_zero_on():
    """The whole family of one parameter, and what lies before it is another function."""
    net = named(1, 2)["a weight that is never used"].network
    (w, b), (v, c), (o, d) = ((x.weight, x.bias) for x in net.layers)
    for a in (0.0, 0.5, 1.0, 7.0, -0.5):
        weight = np.array(v)
        weight[0, 1] = -a
        moved = N(w, b, weight, c, o, d, activation="relu")
        answer = mo.equivalent(net, moved, on=mo.Box(-8, 8))
        assert answer.status == ("proved" if a >= 0 else "refuted")


def test_forged_examples_are_rejected():
    found = named(2, 2)
    shallow, deep = found["a hyperplane of two units"], found["a weight that is never used"]
    turned = found["units turned together behind another layer"]
    scaled = deep.network.layers
    copy = N(
        2 * scaled[0].weight, 2 * scaled[0].bias, scaled[1].weight / 2, scaled[1].bias,
        scaled[2].weight, scaled[2].bias, activation="relu",
    )  # fmt: skip
    wide = N(  # a fifth unit, that is never on
        *(scaled[0].weight, scaled[0].bias),
        np.vstack([scaled[1].weight, [[-1.0, -1.0]]]), np.append(scaled[1].bias, -1.0),
        np.array([[1.0, 1.0, 1.0]]), scaled[2].bias, activation="relu",
    )  # fmt: skip
    wider = N(
        *(scaled[0].weight, scaled[0].bias),
        np.vstack([scaled[1].weight, [[-1.0, -2.0]]]), np.append(scaled[1].bias, -1.0),
        np.array([[1.0, 1.0, 1.0]]), scaled[2].bias, activation="relu",
    )  # fmt: skip
    for forged, why in (
        (replace(deep, other=copy), "copy"),
        (replace(deep, other=turned.network), "another function"),
        (replace(deep, network=wide, other=wider), "only 4 hidden units"),
        (replace(deep, dimension=4), "larger"),
        (replace(turned, dimension=5), "smaller"),
        (replace(deep, dimension=deep.dimension + 1), "smaller"),
        (replace(deep, on=mo.Box(-1000, 1000)), "one function is proved on"),
        (replace(deep, on=None), "one function is proved on"),
        (replace(shallow, among=deep.among), "is not what is proved"),
        (replace(shallow, minimal=None), "is not what is proved"),
        (replace(shallow, dimension=4), "not those"),
        (replace(shallow, other=found["units turned together"].network), "widths"),
        (replace(shallow, network=found["units turned together"].network), "widths"),
    ):
        with pytest.raises(CertificateRejected, match=why):
            forged.check()


def test_numbers_that_are_none_are_refused():
    for given in ({"inputs": 0}, {"bends": 1}, {"bends": 11}, {"inputs": 65}):
        with pytest.raises(ArgumentError, match=next(iter(given))):
            mo.minimal_examples(**given)
