"""Paths of equivalent parameters: known pairs, planted pairs, segments sampled, tampered knots
refused.
"""

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

import moduli as mo
from moduli.compression.exact import reduce
from moduli.equivalence.constant_paths import Knot, PathCertificate, path


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
        return mo.Network.mlp(
            rows[:, :-1] + 0.0, rows[:, -1] + 0.0, out.T + 0.0, d, activation=activation
        )

    return one(), one()


def test_stored_pairs(shared):
    paths = 0
    for case in json.loads((shared / "cases" / "rank_equal.json").read_text()):
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
            assert found is None
            continue
        assert found is not None
        assert found.check()
        paths += 1
        assert found.segments <= case["path"]["ours"]
        assert found.segments <= (case["path"]["limit"] or found.segments)
    assert paths > 30


def test_planted_pairs():
    rng = np.random.default_rng(0)
    lengths = []
    for _ in range(1000):
        a, b = planted(rng)
        found, rank, h = path(a, b), int(reduce.rank(a)), a.widths[1]
        if found is None:
            assert rank == h
            continue
        assert found.check()
        assert rank < h or found.segments == 0
        assert (
            found.certificate.knots
            == PathCertificate.from_json(json.dumps(found.certificate.to_json())).knots
        )
        if 2 * rank <= h:
            assert found.segments <= 7
        lengths.append(found.segments)
    assert max(lengths) > 7
    assert len(lengths) < 990


def test_the_function_stays_along_segments():
    rng = np.random.default_rng(1)
    for _ in range(100):
        a, b = planted(rng)
        found = path(a, b)
        if found is None:
            continue
        assert found.knots[0] == a
        assert found.knots[-1] == b
        x = rng.standard_normal((8, a.widths[0]))
        for p, q in pairwise(found.knots):
            for t in (0.0, 0.3, 0.8):
                assert (
                    np.abs(
                        a.with_flat((1 - t) * p.flat() + t * q.flat()).logits(x) - a.logits(x)
                    ).max()
                    < 1e-12
                )


@pytest.mark.parametrize("signs", [1.0, -1.0])
@pytest.mark.parametrize(
    ("h", "order"),
    [(4, [1, 2, 0]), (6, [1, 0, 3, 2, 4]), (8, [0, 1, 2, 3, 4, 5, 6]), (5, [0, 2, 1])],
)
def test_few_blanks_take_a_walk_of_bounded_length(h, order, signs):
    """Active units change places and signs; the last units are blank. A cycle is a class that
    moves, or only its sign does.
    """
    r = len(order)

    def net(order, sign, junk):
        rows, out = np.full((h, 1), float(junk)), np.zeros((1, h))
        rows[:r, 0], out[0, :r] = sign * (1.0 + np.array(order)), sign
        return mo.Network.mlp(rows, np.zeros(h), out, [0.0])

    seen, cycles = set(), 0
    for k in range(r):
        if k not in seen and (order[k] != k or signs < 0):
            cycles += 1
        while k not in seen:
            seen.add(k)
            k = order[k]
    found = mo.path(net(range(r), 1.0, 50), net(order, signs, 60))
    assert found is not None
    assert found.check()
    assert found.segments <= 2 * (r + cycles + 1)


def example():
    rows = [[1.0], [2.0], [0.5], [3.0]]
    a = mo.Network.mlp(rows, [0.0, 1.0, 0.0, 0.0], [[1.0, 2.0, 0.0, 0.0]], [0.0])
    b = mo.Network.mlp(
        [[-2.0], [1.0], [1.0], [7.0]], [-1.0, 0.0, 0.0, 0.0], [[-2.0, 0.25, 0.75, 0.0]], [0.0]
    )
    found = mo.path(a, b)
    assert found is not None
    return a, b, found


def changed(certificate, k, knot):
    knots = certificate.knots
    return replace(certificate, knots=(*knots[:k], knot, *knots[k + 1 :]))


def test_every_tampered_weight_is_refused():
    for a, b, found in (example(), *some_pairs(20)):
        knots = found.certificate.knots
        for k, knot in enumerate(knots):
            for u, column in enumerate(knot.out):
                for j, x in enumerate(column):
                    ulp = Fraction(float(np.nextafter(float(x), np.inf))) - Fraction(float(x))
                    column = (*column[:j], x + ulp, *column[j + 1 :])
                    wrong = changed(
                        found.certificate,
                        k,
                        Knot(knot.rows, (*knot.out[:u], column, *knot.out[u + 1 :])),
                    )
                    column = knot.out[u]
                    row = (
                        found.a.layers[0].weight
                        if knot.rows[u] < a.widths[1]
                        else found.b.layers[0].weight
                    )
                    inner = 0 < k < len(knots) - 1
                    if inner and not row[knot.rows[u] % a.widths[1]].any():
                        continue  # a constant unit may have any weight: the bias makes up for it
                    with pytest.raises(mo.CertificateRejected, match=r"knot|begin"):
                        wrong.verify(a, b)


@pytest.mark.parametrize("count", [6, pytest.param(12, marks=pytest.mark.slow)])
def test_every_tampered_row_is_refused_where_a_unit_is_in_use(count):
    for a, b, found in (example(), *some_pairs(count)):
        rows = np.concatenate(
            [np.column_stack([n.layers[0].weight, n.layers[0].bias]) for n in (a, b)]
        ).tolist()
        knots = found.certificate.knots
        for k, knot in enumerate(knots):
            for u, row in enumerate(knot.rows):
                used = any(any(q.out[u]) for q in knots[max(0, k - 1) : k + 2])
                for other in range(len(rows)):
                    if rows[other] != rows[row] and (used or k in (0, len(knots) - 1)):
                        wrong = changed(
                            found.certificate,
                            k,
                            Knot((*knot.rows[:u], other, *knot.rows[u + 1 :]), knot.out),
                        )
                        with pytest.raises(mo.CertificateRejected, match=r"knot|begin|segment"):
                            wrong.verify(a, b)


def some_pairs(count):
    rng = np.random.default_rng(2)
    while count:
        a, b = planted(rng)
        found = path(a, b)
        if found is not None and found.segments > 2:
            count -= 1
            yield a, b, found


def test_other_forgeries_are_refused():
    a, b, found = example()
    knots = found.certificate.knots
    for k in range(1, len(knots) - 1):
        wrong = replace(found.certificate, knots=(*knots[:k], *knots[k + 1 :]))
        with pytest.raises(mo.CertificateRejected, match=r"segment \d+ moves unit"):
            wrong.verify(a, b)
    for wrong in ((), knots[:-1], knots[1:], knots[::-1]):
        with pytest.raises(mo.CertificateRejected, match="begin and end"):
            replace(found.certificate, knots=wrong).verify(a, b)
    for rows, out in ((knots[1].rows[:-1], knots[1].out), ((99, *knots[1].rows[1:]), knots[1].out)):
        with pytest.raises(mo.CertificateRejected, match="knot 1 does not have"):
            changed(found.certificate, 1, Knot(rows, out)).verify(a, b)
    with pytest.raises(mo.CertificateRejected, match="outgoing weights"):
        changed(
            found.certificate, 1, Knot(knots[1].rows, ((Fraction(0),) * 2, *knots[1].out[1:]))
        ).verify(a, b)
    with pytest.raises(mo.CertificateRejected, match="digest"):
        found.certificate.verify(b, a)
    theta = a.flat()
    theta[0] = np.nextafter(theta[0], np.inf)
    with pytest.raises(mo.CertificateRejected, match="digest"):
        found.certificate.verify(a.with_flat(theta), b)
    other = b.with_flat(np.concatenate([b.flat()[:-1], [1.0]]))
    with pytest.raises(mo.CertificateRejected, match="constant parts"):
        replace(found.certificate, b=other.digest).verify(a, other)


@pytest.mark.parametrize(
    "knot",
    [
        {"rows": [0.0], "out": [["1"]]}, {"rows": [True], "out": [["1"]]}, {"rows": ["0"], "out": [["1"]]},
        {"rows": [-1], "out": [["1"]]}, {"rows": [0], "out": [[1]]}, {"rows": [0], "out": ["1"]}, {"rows": [0]},
        {"rows": [0], "out": [["1/0"]]}, {"rows": [0], "out": [["1/00"]]}, {"rows": [0], "out": [["1e9"]]},
        {"rows": [0], "out": [["1e999999999"]]}, {"rows": [0], "out": [["9" * 701]]}, {"rows": [0], "out": [[" 1"]]},
        {"rows": [0], "out": [["1\n"]]}, {"rows": [0], "out": [["1_0"]]}, {"rows": [0], "out": [["1"]], "more": 1}, [], 1,
    ],
)  # fmt: skip
def test_only_knots_are_read(knot):
    with pytest.raises(mo.CertificateRejected, match="knot 0"):
        PathCertificate.from_json(
            json.dumps({"schema": "moduli.path/1", "a": "", "b": "", "knots": [knot]})
        )


@pytest.mark.parametrize(
    "change", [{"schema": "moduli.path/2"}, {"a": 1}, {"knots": {}}, {"more": 1}]
)
def test_only_paths_are_read(change):
    _, _, found = example()
    data = found.certificate.to_json()
    assert PathCertificate.from_json(json.dumps(data)) == found.certificate
    with pytest.raises(mo.CertificateRejected):
        PathCertificate.from_json(json.dumps({**data, **change}))
    for text in ("x", "[]", "[" * 100_000, "null", "1"):
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


def test_the_picture_of_a_point():
    one = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0])
    same = mo.path(one, one)
    assert same is not None
    assert same.plot_data()["change"].max() == 0
    assert len(same.plot()) == 2


def constant(bias, out, d, activation):
    return mo.Network.mlp([[0.0], [1.0]], [bias, 0.0], [[out, 2.0]], [d], activation=activation)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "erf"])
@pytest.mark.parametrize("bias", [0.5, 40.0, 1e300])
def test_a_unit_never_reaches_its_bound(activation, bias):
    with pytest.raises(ValueError, match="constant parts of output 0"):
        mo.path(constant(bias, 1.0, 0.0, activation), constant(0.0, 0.0, 1.0, activation))


def test_constants_too_close_to_tell_are_undecided():
    with pytest.raises(mo.Undecided, match="erf"):
        mo.path(constant(1e3, 1.0, 0.0, "erf"), constant(2e3, 1.0, 0.0, "erf"))


def test_activations_with_more_laws():
    swapped = [
        mo.Network.mlp([[t], [3 - t]], [0.0, 1.0], [[t, 1.0]], [0.0], activation="gelu")
        for t in (1.0, 2.0)
    ]
    with pytest.raises(ValueError, match="not the same function"):
        mo.path(*swapped)
    turned = [
        mo.Network.mlp([[1.0], [2.0]][::s], [0.0, 0.0], [[1.0, 3.0][::s]], [0.0], activation="relu")
        for s in (1, -1)
    ]
    with pytest.raises(mo.Undecided, match="no blank unit"):
        mo.path(*turned)
    ends = (([[1.0], [1.0], [5.0]], [[1.0, 2.0, 0.0]]), ([[7.0], [1.0], [1.0]], [[0.0, 0.5, 2.5]]))
    a, b = (mo.Network.mlp(rows, [0.0] * 3, out, [0.0], activation="relu") for rows, out in ends)
    found = mo.path(a, b)
    assert found is not None
    assert found.check()
    mirrored = [mo.Network.mlp([[s]], [0.0], [[s]], [0.0], activation="relu") for s in (1.0, -1.0)]
    with pytest.raises(ValueError, match="not the same function"):
        mo.path(*mirrored)


def test_sums_beyond_the_range_of_floats_are_said():
    rows, bias = ([[1.0], [1.0], [2.0], [3.0]], [[5.0], [1.0], [1.0], [3.0]]), [0.0] * 4
    outs = [1.5e308, 1.5e308, 0.0, 0.0], [0.0, 1.5e308, 1.5e308, 0.0]
    found = mo.path(
        *(mo.Network.mlp(r, bias, [out], [0.0]) for r, out in zip(rows, outs, strict=True))
    )
    assert found is not None
    assert found.check()
    if found.segments > 1:
        with pytest.raises(mo.UnsupportedModel, match="rescale"):
            found.knots  # noqa: B018


def test_progress_is_told():
    told = []
    _, _, found = example()
    path(found.a, found.b, progress=lambda done, total, what: told.append((done, total, what)))
    assert told
    assert all(done <= total for done, total, _ in told)
