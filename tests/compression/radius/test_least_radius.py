"""The least radius for a number of units: against rational enumeration, and against `rank`."""

import json
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import oracles
import pytest

import moduli as mo
from moduli.compression.radius import least_radius
from moduli.compression.radius.least_radius import thresholds
from moduli.kernel.certificate import ball


def network(a, b, c):
    return mo.Network.mlp(b, c, np.asarray(a).T.copy(), np.zeros(np.shape(a)[1]))


def candidates(a, b, c):
    """Every number of the four kinds, in rationals."""
    rows = [[*map(Fraction, w), Fraction(x)] for w, x in zip(b, c, strict=True)]
    out = [list(map(Fraction, w)) for w in a]
    h, found = len(rows), {Fraction(0)}
    for u in range(h):
        found.add(max(map(abs, rows[u][:-1])))
        for v, s in product(range(u), (1, -1)):
            found.add(max(abs(x - s * y) for x, y in zip(rows[u], rows[v], strict=True)) / 2)
    for size in range(1, h + 1):
        for group in combinations(range(h), size):
            for signs in product((1, -1), repeat=size - 1):
                sums = [
                    sum(s * x for s, x in zip((1, *signs), column, strict=True))
                    for column in zip(*(out[u] for u in group), strict=True)
                ]
                found.add(max(map(abs, sums)) / size)
    return sorted(found)


@pytest.mark.parametrize("seed", range(8))
def test_the_least_candidate_that_does(seed):
    """Entries are dyadic, halves and sums exact: the oracle tries every candidate."""
    rng = np.random.default_rng(seed)
    h, n, m = int(rng.integers(1, 5)), int(rng.integers(1, 3)), int(rng.integers(1, 3))
    a, b, c = (rng.integers(-7, 8, shape) / 8 for shape in ((h, m), (h, n), h))
    net = network(a, b, c)
    for units in range(h + 1):
        want = next(r for r in candidates(a, b, c) if oracles.proximate_rank(a, b, c, r) <= units)
        found = mo.radius_for(net, units)
        assert found.exact
        assert found.status == "proved"
        assert found.check()
        assert Fraction(float(found)) >= want
        assert float(found) == 0 or Fraction(np.nextafter(float(found), 0)) < want
        if float(found):
            assert mo.rank(net, radius=float(found)).upper <= units
            assert mo.rank(net, radius=float(np.nextafter(float(found), 0))).lower > units


def test_it_inverts_the_curve():
    rng = np.random.default_rng(1)
    h = 6
    net = network(rng.standard_normal((h, 1)), rng.standard_normal((h, 2)), rng.standard_normal(h))
    found = [mo.radius_for(net, units) for units in range(h + 1)]
    radii = [float(r) for r in found]
    assert radii == sorted(radii, reverse=True)
    assert radii[-1] == 0
    for units, radius in enumerate(radii):
        ranks = [int(mo.rank(net, radius=r)) for r in (radius, radius * 1.001) if r > 0]
        assert all(rank <= units for rank in ranks)
    for r in found[:-1]:
        assert r.witness is None or np.abs(r.witness.flat() - net.flat()).max() <= r.upper
        json.dumps(r.to_json())


def test_a_group_that_cancels():
    """Three units of one row cancel to a third: no number of pairs is the answer."""
    net = mo.Network.mlp([[2.0]] * 3, [0.0] * 3, [[1.0, 1.0, -1.75]], [0.0])
    found = mo.radius_for(net, 0)
    assert float(found) == pytest.approx(0.25 / 3, rel=1e-15)
    assert Fraction(float(found)) >= Fraction(1, 12) > Fraction(np.nextafter(float(found), 0))
    assert found.check()


def test_an_open_answer_is_an_interval():
    """Where the search may look at nothing, its bounds need not meet, and hold all the same."""
    rng = np.random.default_rng(5)
    h = 18
    net = network(
        rng.standard_normal((h, 1)), rng.standard_normal((h, 1)) / 2, rng.standard_normal(h) / 2
    )
    narrow, wide = mo.radius_for(net, 6), mo.radius_for(net, 6, budget=0)
    assert narrow.exact
    assert wide.lower <= float(narrow) <= wide.upper
    assert wide.check()
    if not wide.exact:
        with pytest.raises(mo.Undecided, match="raise the budget"):
            float(wide)
    assert not wide.exact


def test_forged_answers_are_refused():
    net = network([[1.0], [1.0]], [[1.0], [1.5]], [0.0, 0.0])
    found = mo.radius_for(net, 1)
    assert found.check()
    from dataclasses import replace

    assert not replace(found, units=0).check()
    assert not replace(found, lower=0.3, upper=0.3).check()
    assert not replace(found, below=None).check()
    assert not replace(found, at=mo.rank(net, radius=0.125)).check()


def test_thresholds_are_rounded_up():
    rng = np.random.default_rng(0)
    layer = ball(
        network(rng.standard_normal((6, 2)), rng.standard_normal((6, 3)), rng.standard_normal(6)),
        0.0,
    )
    exact = set()
    for u in range(6):
        exact |= {max(map(Fraction, np.abs(w[u]))) for w in (layer.rows[:, :-1], layer.outgoing)}
        for v, s in product(range(u), (1, -1)):
            pairs = zip(layer.rows[u].tolist(), layer.rows[v].tolist(), strict=True)
            exact.add(max(abs(Fraction(x) - s * Fraction(y)) for x, y in pairs) / 2)
    found = thresholds(layer)
    assert len(found) == len(exact)
    for step, want in zip(found, sorted(exact), strict=True):
        assert Fraction(step) >= want > Fraction(np.nextafter(step, 0))


def test_refusals():
    relu = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="relu")
    with pytest.raises(mo.ArgumentError, match="gives an upper bound"):
        mo.radius_for(relu, 0)
    net = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0])
    with pytest.raises(mo.ArgumentError, match="at least 0"):
        mo.radius_for(net, -1)
    assert float(mo.radius_for(net, 7)) == 0
    assert least_radius.radius_for(net, 0).upper == 1


def test_the_least_subnormal_number():
    tiny = 5e-324
    net = mo.Network.mlp([[1.0], [1.0]], [0.0, tiny], [[1.0, 1.0]], [0.0])
    found = mo.radius_for(net, 1)
    assert (float(found), found.exact) == (tiny, True)
    assert "no smaller float" in found.statement
    assert found.check()
    assert not replace(found, below=None).check()  # that more are needed at 0 has to be proved
