"""Paths of equivalent parameters: known pairs, planted pairs, segments sampled, tampered knots refused."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import moduli as mo
from moduli.paths import Knot, PathCertificate


def network(w):
    a, b, c, d = (np.array(x, dtype=float) for x in w)
    h = len(c)
    return mo.Network.mlp(b.reshape(h, -1), c, a.reshape(h, -1).T.copy(), np.atleast_1d(d))


def planted(rng):
    """Two parameters of one random function, full of duplicates, sign twins, blanks and constants."""
    n, m, r = (int(rng.integers(*ends)) for ends in ((1, 4), (1, 3), (0, 5)))
    h = int(rng.integers(max(r, 1), 11))
    activation = str(rng.choice(["tanh", "sigmoid", "erf"]))
    base, sums = rng.integers(-3, 4, (r, n + 1)) / 2, rng.integers(-4, 5, (r, m)) / 2

    def one():
        rows, out, d = np.zeros((h, n + 1)), np.zeros((h, m)), np.ones(m)
        owner = rng.permutation(h)
        rows[owner[:r]], out[owner[:r]] = base, sums
        for u in owner[r:]:
            kind = rng.integers(0, 3)
            if kind == 1 and r:
                k, x = rng.integers(0, r), rng.integers(-2, 3, m) / 2
                rows[u], out[u] = base[k], x
                out[owner[k]] -= x
            elif kind == 0:
                rows[u] = rng.integers(-3, 4, n + 1) / 2
        for u in np.flatnonzero(rng.random(h) < 0.4):
            d = d + out[u] * (activation == "sigmoid")
            rows[u], out[u] = -rows[u], -out[u]
        return mo.Network.mlp(rows[:, :-1] + 0.0, rows[:, -1] + 0.0, out.T + 0.0, d, activation=activation)

    return one(), one()


def test_stored_pairs(shared):
    cases = json.loads((shared / "cases" / "rank_equal.json").read_text())
    cases = cases["cases"] if isinstance(cases, dict) else cases
    paths = 0
    for case in cases:
        if not len(case["w"][2]) or not len(case["v"][2]):
            continue
        a, b = network(case["w"]), network(case["v"])
        if a.widths != b.widths:
            with pytest.raises(mo.ShapeError):
                mo.path(a, b)
            continue
        if not case["equal"]:
            with pytest.raises(ValueError, match="not the same function"):
                mo.path(a, b)
            continue
        found = mo.path(a, b)
        if case["path"] is None:
            assert found is None or found.segments == 0
            continue
        assert found is not None
        assert found.check()
        paths += 1
        assert found.segments <= case["path"]["ours"]
    assert paths > 30


def test_planted_pairs():
    rng = np.random.default_rng(0)
    longest, isolated = 0, 0
    for _ in range(400):
        a, b = planted(rng)
        found, rank, h = mo.path(a, b), int(mo.rank(a)), a.widths[1]
        if found is None:
            assert rank == h
            isolated += 1
            continue
        assert found.check()
        assert found.knots[0] == a
        assert found.knots[-1] == b
        if 2 * rank <= h:
            assert found.segments <= 7
        longest = max(longest, found.segments)
        x = rng.standard_normal((8, a.widths[0]))
        for p, q in zip(found.knots[:-1], found.knots[1:], strict=True):
            middle = a.with_flat(0.3 * p.flat() + 0.7 * q.flat())
            assert np.abs(middle.logits(x) - a.logits(x)).max() < 1e-12
    assert longest >= 7
    assert isolated > 5


def example():
    rows = [[1.0], [2.0], [0.5], [3.0]]
    a = mo.Network.mlp(rows, [0.0, 1.0, 0.0, 0.0], [[1.0, 2.0, 0.0, 0.0]], [0.0])
    b = mo.Network.mlp([[-2.0], [1.0], [1.0], [7.0]], [-1.0, 0.0, 0.0, 0.0], [[-2.0, 0.25, 0.75, 0.0]], [0.0])
    found = mo.path(a, b)
    assert found is not None
    return a, b, found


def test_every_tampered_knot_is_refused():
    a, b, found = example()
    again = PathCertificate.from_json(json.dumps(found.certificate.to_json()))
    assert again == found.certificate
    knots = found.certificate.knots
    for k, knot in enumerate(knots):
        for u in range(4):
            out = [*knot.out[:u], (knot.out[u][0] + Fraction(1, 2**60),), *knot.out[u + 1 :]]
            wrong = replace(found.certificate, knots=(*knots[:k], Knot(knot.rows, tuple(out)), *knots[k + 1 :]))
            with pytest.raises(mo.CertificateRejected, match=r"knot|begin"):
                wrong.verify(a, b)
    with pytest.raises(mo.CertificateRejected, match=r"blank|function"):
        replace(found.certificate, knots=(knots[0], knots[-1])).verify(a, b)
    with pytest.raises(mo.CertificateRejected, match="digest"):
        found.certificate.verify(b, a)
    for text in ("{}", "[]", '{"schema": "moduli.path/1", "a": "", "b": "", "knots": [{"rows": [0], "out": [["1/0"]]}]}', "x"):
        with pytest.raises(mo.CertificateRejected):
            PathCertificate.from_json(text)


def test_what_cannot_be_joined():
    one = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0])
    assert mo.path(one, mo.Network.mlp([[-1.0]], [0.0], [[-1.0]], [0.0])) is None
    same = mo.path(one, one)
    assert same is not None
    assert same.segments == 0
    with pytest.raises(ValueError, match="not the same function"):
        mo.path(one, mo.Network.mlp([[1.0]], [0.0], [[2.0]], [0.0]))
    with pytest.raises(mo.ShapeError):
        mo.path(one, mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, 0.0]], [0.0]))
    with pytest.raises(mo.ShapeError, match="one hidden layer"):
        mo.path("zoo:digits-relu", "zoo:digits-relu")
    relu = [mo.Network.mlp([[t]], [0.0], [[1 / t]], [0.0], activation="relu") for t in (1.0, 2.0)]
    with pytest.raises(mo.Undecided, match="relu"):
        mo.path(*relu)


def test_constants_may_leave_the_rationals():
    a = mo.Network.mlp([[0.0], [1.0]], [0.5, 0.0], [[1.0, 2.0]], [0.0])
    b = mo.Network.mlp([[1.0], [0.0]], [0.0, -0.5], [[2.0, -1.0]], [0.0])
    found = mo.path(a, b)
    assert found is not None
    assert found.check()
    assert 0 < found.slack < 1e-15


def test_the_picture_shows_no_change_along_the_path():
    _, _, found = example()
    data = found.plot_data()
    assert data["change"].max() < 1e-12 < 0.1 < data["straight_change"].max()
    assert len(found.plot()) == 2
