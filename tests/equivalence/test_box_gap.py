"""Distances on boxes: brackets with certificates, as near as asked for, and what is left when somebody stops
the search."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from nearly_equal import network, noisy

import moduli as mo
from moduli.compression.box.bisection import GapSearch
from moduli.kernel.bounds.output_gap import GapBound
from moduli.kernel.move import Move
from moduli.kernel.slack import Slack

BOX = mo.Box(-1, 1)


NET = network(4, 12, 12, 2)
NEAR = noisy(NET)


@pytest.fixture(scope="module")
def found() -> mo.Distance:
    return mo.distance(NET, NEAR, on=BOX, tol=1.0)


def test_a_distance_is_as_near_as_asked_for(found):
    assert found.lower > 0
    assert found.upper <= 2 * found.lower
    tight = mo.distance(NET, NEAR, on=BOX, tol=0.5)
    assert tight.upper <= 1.5 * tight.lower
    assert found.certificate.apart.boxes < tight.certificate.apart.boxes
    assert found.check()


def test_the_file_says_how_far_two_networks_are_apart(found, tmp_path):
    path = found.save(tmp_path / "far.cert.json")
    verdict = mo.check(path, NEAR, NET, max_slack=found.upper, on=BOX)
    assert verdict.bound == found.upper
    with pytest.raises(mo.CertificateRejected, match="is demanded, but"):
        mo.check(path, NEAR, NET, max_slack=found.upper / 2)
    with pytest.raises(
        mo.CertificateRejected, match="is demanded, but the certificate holds on the box"
    ):
        mo.check(path, NEAR, NET, on="all")
    with pytest.raises(mo.CertificateRejected, match="digest"):
        mo.check(path, noisy(NET, 2e-3), NET)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda cert: replace(cert, slack=Slack(cert.slack.constant / 2, 0.0)),
            "is claimed, but only",
        ),
        (lambda cert: replace(cert, apart=replace(cert.apart, upper=0.0)), "is claimed, but only"),
        (lambda cert: replace(cert, apart=replace(cert.apart, tree=(-1,))), "is claimed, but only"),
        (lambda cert: replace(cert, apart=replace(cert.apart, how="by hand")), "do not apply"),
        (lambda cert: replace(cert, region=None), "without a box"),
        (lambda cert: replace(cert, minimal=True), "do not end at one network"),
        (
            lambda cert: replace(cert, region=replace(cert.region, high=(2.0,) * 4)),
            "is claimed, but only",
        ),
    ],
)
def test_a_forged_distance_is_rejected(found, change, why):
    with pytest.raises(mo.CertificateRejected, match=why):
        change(found.certificate).verify(NEAR, NET)


def test_moves_that_leave_the_floats_are_rejected(found):
    move = Move("scale", 1, np.array([0]), ratio=Fraction(2) ** 1200)
    with pytest.raises(mo.CertificateRejected, match="no network of floats"):
        replace(found.certificate, large_moves=(move,)).verify(NEAR, NET)


def test_ends_that_are_not_proved_are_rejected(found):
    for wrong in (
        replace(found, upper=found.upper * 0.9), replace(found, lower=found.lower * 1.01),
        replace(found, argmax=None), replace(found, argmax=(9.0,) * 4), replace(found, box=mo.Box(-2, 2)),
        replace(found, b=NET), replace(found, box=None),
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            wrong.check()


def test_fields_of_the_file_are_read_strictly(found):
    data = found.certificate.to_json()
    for change in ({"upper": -1.0}, {"how": 3}, {"tree": [0]}, {"tree": [True]}, {"more": 1}):
        wrong = {**data, "apart": {**data["apart"], **change}}
        with pytest.raises(mo.CertificateRejected):
            mo.Certificate.from_json(json.dumps(wrong)).verify(NEAR, NET)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "gelu", "leaky_relu(0.1)"])
def test_equality_within_eps_has_a_certificate(activation):
    a = network(4, 6, 1, activation=activation)
    b = noisy(a, 1e-6)
    far = mo.distance(a, b, on=BOX, budget=400).upper
    answer = mo.equivalent(a, b, on=BOX, eps=1.01 * far, budget=400)
    assert answer.status == "proved"
    assert answer.check()
    answer.certificate.verify(b, a)


def test_exact_distances_are_checked_again():
    a, b = network(2, 4, 1), network(2, 5, 1, seed=3)
    exact = mo.distance(a, b, on=BOX)
    assert exact.status == "proved"
    assert exact.check()
    with pytest.raises(mo.CertificateRejected):
        replace(exact, upper=exact.upper / 2).check()


@pytest.mark.parametrize("seed", range(12))
def test_exact_distances_of_near_twins_are_checked_again(seed):
    """The vertex where they differ most is rational, and its floats show a little less."""
    a = network(2, 3, 2, 1, seed=seed)
    b = noisy(a, 1e-12)
    exact = mo.distance(a, b, on=BOX)
    assert exact.check()
    for wrong in (
        replace(exact, extra={"exact": "1"}), replace(exact, lower=exact.lower * 1.01 + 1e-300),
        replace(exact, upper=exact.upper * 1.01 + 1e-300), replace(exact, extra={**exact.extra, "value": 1.0}),
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            wrong.check()


def test_values_at_a_witness_are_those_of_the_networks():
    refuted = mo.equivalent(NET, NEAR, on=BOX, eps=1e-9)
    assert refuted.check()
    with pytest.raises(mo.CertificateRejected, match="other values"):
        replace(refuted, witness=refuted.witness._replace(a=refuted.witness.b)).check()


def test_means_carry_no_certificate():
    with pytest.raises(mo.Undecided):
        mo.distance(NET, NEAR, on=mo.Gaussian()).check()


def test_behind_an_output_map_the_certificate_is_about_the_networks_given():
    a, b = (replace(net, output_map="softmax") for net in (NET, NEAR))
    found = mo.distance(a, b, on=BOX, tol=1.0)
    assert found.check()
    found.certificate.verify(b, a)


def test_interrupted_searches_hand_over_the_bracket(monkeypatch):
    calls = 0
    split = GapSearch.split

    def stopped(self, *args):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return split(self, *args)

    monkeypatch.setattr(GapSearch, "split", stopped)
    found = mo.distance(NET, NEAR, on=BOX)
    assert found.interrupted
    assert found.to_json()["interrupted"]
    assert 0 < found.lower < found.upper < np.inf
    assert found.check()
    calls = 0
    answer = mo.equivalent(NET, NEAR, on=BOX, eps=1.1 * found.lower)
    assert answer.status == "undecided"
    assert "interrupted" in answer.reason


def test_steps_that_stop_in_the_middle_claim_no_less_than_they_know(monkeypatch):
    """An interrupt may fall between any two lines of the bookkeeping of a step."""
    search = GapSearch(NET, NEAR, BOX)
    search.run(40)
    for broken in (0, 1, 5):  # an interrupt after so many entries of the tree
        monkeypatch.setattr(search, "tree", Breaking(search.tree, broken))
        with pytest.raises(ZeroDivisionError):
            search.split(1000, 0.0)
        search.bound().verify(NET, NEAR, BOX)


class Breaking(list):
    """A list that breaks when it has been written to so often."""

    def __init__(self, items, writes):
        super().__init__(items)
        self.writes = writes

    def __setitem__(self, at, value):
        self.writes -= 1
        super().__setitem__(at, value) if self.writes >= 0 else 1 / 0


def test_halving_what_is_to_blame_beats_halving_what_is_wide():
    """Two of eight inputs matter."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(16, 8)) * np.array([1, 1, *[1e-4] * 6])
    a = mo.Network.mlp(
        weight, rng.normal(size=16) / 4, rng.normal(size=(1, 16)), [0.0], activation="relu"
    )
    b = noisy(a)
    bound = GapSearch(a, b, BOX)
    bound.run(600)
    widest = GapSearch(a, b, BOX)
    widest._shares = lambda found, low, high: high - low
    widest.blame = widest._shares(None, widest.low, widest.high)
    widest.run(600)
    assert bound.upper < 0.9 * widest.upper


@pytest.mark.parametrize("seed", range(30))
def test_brackets_hold_against_all_linear_pieces(seed):
    """Up to two inputs the supremum is known exactly."""
    rng = np.random.default_rng(seed)
    a = network(
        int(rng.integers(1, 3)), *rng.integers(2, 6, rng.integers(1, 3)).tolist(), 1, seed=seed
    )
    b = noisy(a, 10.0 ** rng.integers(-6, 0))
    exact = mo.distance(a, b, on=BOX)
    assert exact.status == "proved"
    search = GapSearch(a, b, BOX)
    search.run(int(rng.integers(1, 200)))
    assert search.seen * (1 - 1e-9) - 1e-12 <= exact.upper
    assert exact.lower <= search.upper
    search.bound().verify(a, b, BOX)


def test_a_bad_tol_is_named():
    for tol in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tol"):
            mo.distance(NET, NEAR, on=BOX, tol=tol)


def test_bounds_of_other_architectures_have_certificates_too():
    bound = GapBound(99.0, "separate", (-1,), (), 1)
    a, b = network(2, 3, 1), network(2, 2, 1, seed=5)
    region = mo.distance(NET, NEAR, on=BOX, budget=2).certificate.region
    region = replace(region, low=(-1.0,) * 2, high=(1.0,) * 2, signs=((0,) * 3,))
    mo.Certificate(a.digest, b.digest, (), (), Slack(99.0, 0.0), region=region, apart=bound).verify(
        b, a
    )


@pytest.mark.parametrize("width", [1e-2, 1e-4])
def test_a_thin_bump_is_never_proved_away(width):
    """|x_0 - 0.3| < width: a tent of height 1 that points hardly hit, of three ReLU units."""
    a = network(4, 8, 1, seed=5)
    first, last = a.layers
    tent = np.zeros((3, 4))
    tent[:, 0] = 1 / width
    shifts = -(0.3 + width * np.array([-1.0, 0.0, 1.0])) / width
    b = mo.Network.mlp(
        np.concatenate([first.weight, tent]), np.append(first.bias, shifts),
        np.concatenate([last.weight, [[1.0, -2.0, 1.0]]], axis=1), last.bias, activation="relu",
    )  # fmt: skip
    zero = np.concatenate([last.weight, np.zeros((1, 3))], axis=1)
    same = b.with_layers([b.layers[0], replace(b.layers[1], weight=zero)])
    for one in (a, same):
        found = mo.distance(one, b, on=BOX, budget=600)
        assert found.upper >= 1 - 1e-6
        assert mo.equivalent(one, b, on=BOX, eps=0.5, budget=600).status != "proved"


def hill_climbed(a: mo.Network, b: mo.Network) -> float:
    """The largest difference that ten plain lines find on [-1, 1]^n."""
    rng, n = np.random.default_rng(0), a.widths[0]

    def gap(x: np.ndarray) -> np.ndarray:
        return np.abs(a.logits(x) - b.logits(x)).max(axis=1)

    x = rng.uniform(-1, 1, (20_000, n))
    x = x[np.argsort(-gap(x))[:32]]
    for step in (0.5, 0.3, 0.1, 0.05, 0.02, 0.01) * 4:
        near = np.clip(x[:, None] + step * rng.uniform(-1, 1, (32, 100, n)), -1, 1)
        x = near[np.arange(32), gap(near.reshape(-1, n)).reshape(32, 100).argmax(axis=1)]
    return float(gap(x).max())


@pytest.mark.parametrize("widths", [(8, 32, 32, 1), (4, 16, 16, 2), (5, 20, 20, 20, 3)])
def test_the_lower_end_is_no_worse_than_hill_climbing(widths):
    a = network(*widths, seed=2)
    b = noisy(a)
    assert mo.distance(a, b, on=BOX, budget=4000, tol=99.0).lower >= 0.97 * hill_climbed(a, b)


# What an answer says beside its proof ------------------------------------------------------------------------------


def one_more(net: mo.Network, by: float) -> mo.Network:
    last = net.layers[-1]
    return net.with_layers([*net.layers[:-1], replace(last, bias=last.bias + by)])


def test_decisions_are_no_values_and_values_no_decisions():
    a = one_more(network(4, 6, 2), np.array([20.0, 0.0]))
    b = one_more(a, np.array([3.0, 0.0]))
    alike = mo.equivalent(a, b, on=BOX, decision=True)
    assert alike.status == "proved"
    with pytest.raises((mo.CertificateRejected, mo.Undecided)):
        replace(alike, decision=False).check()
    c, d = network(4, 6, 2), one_more(network(4, 6, 2), np.array([0.5, -0.5]))
    near = mo.equivalent(c, d, on=BOX, eps=5.0)
    assert near.status == "proved"
    with pytest.raises((mo.CertificateRejected, mo.Undecided)):
        replace(near, decision=True).check()


def test_the_status_is_checked_too(found):
    refuted = mo.equivalent(NET, NEAR, on=BOX, eps=1e-9)
    assert refuted.status == "refuted"
    with pytest.raises((mo.CertificateRejected, mo.Undecided)):
        replace(refuted, status="proved").check()
    proved = mo.equivalent(NET, NEAR, on=BOX, eps=1.0)
    with pytest.raises((mo.CertificateRejected, mo.Undecided)):
        replace(proved, status="refuted").check()
    with pytest.raises(mo.CertificateRejected):
        replace(found, status="proved").check()
    with pytest.raises(mo.CertificateRejected):
        replace(found, on="sup over all inputs").check()
    with pytest.raises(mo.CertificateRejected):
        replace(found, output_map="softmax", behind=(0.0, 0.0)).check()


def test_other_output_maps_are_other_functions(found):
    other = replace(NEAR, output_map="sigmoid")
    with pytest.raises(mo.CertificateRejected):
        replace(found, b=other).check()
    a, b = network(2, 4, 2), noisy(network(2, 4, 2), 1e-6)
    pieces = mo.equivalent(a, b, on=BOX, eps=1.001 * mo.distance(a, b, on=BOX).upper)
    assert pieces.pieces
    with pytest.raises(mo.CertificateRejected):
        replace(pieces, b=replace(b, output_map="sigmoid")).check()
    with pytest.raises(mo.CertificateRejected):
        replace(pieces, b=network(2, 4, 1)).check()


@pytest.mark.parametrize("output_map", ["softmax", "sigmoid"])
def test_networks_whose_units_do_not_match_behind_an_output_map(output_map):
    a, b = (
        replace(net, output_map=output_map) for net in (network(4, 5, 2), network(4, 6, 2, seed=3))
    )
    far = mo.distance(a, b, on=mo.Box(-0.1, 0.1), budget=200)
    assert far.check()
    assert far.behind[0] > 0
    for wrong in ((far.behind[0] * 2, far.behind[1]), (far.behind[0], far.behind[1] / 2)):
        with pytest.raises(mo.CertificateRejected, match="behind the output map"):
            replace(far, behind=wrong).check()


def test_where_nothing_is_bounded_nothing_is_claimed():
    far = mo.distance(network(2, 3, 1), network(2, 4, 1, seed=4))
    assert far.upper == np.inf
    with pytest.raises(mo.Undecided):
        far.check()


def test_a_box_that_lies_about_itself_is_made_anew(found):
    class Tiny(mo.Box):
        def of_dimension(self, inputs):
            return mo.Box(np.zeros(inputs), np.full(inputs, 1e-9))

    with pytest.raises(mo.CertificateRejected):
        replace(found, box=Tiny(-5, 5)).check()


def test_huge_boxes_and_weights_have_answers():
    a = network(4, 3, 2)
    assert mo.distance(a, noisy(a), on=mo.Box(-1.7e308, 1.7e308), budget=4).upper > 1e300
    last = a.layers[-1]
    steep = a.with_layers([*a.layers[:-1], replace(last, weight=last.weight * 1e307)])
    assert mo.distance(steep, noisy(steep), on=BOX, budget=4).upper > 1e300


def test_few_inputs_have_a_file_too(tmp_path):
    a, b = network(2, 5, 1), network(2, 6, 1, seed=9)
    far = mo.distance(a, b, on=BOX).upper
    near = mo.equivalent(a, b, on=BOX, eps=1.01 * far)
    assert near.pieces
    assert near.check()
    mo.check(near.save(tmp_path / "near.cert.json"), b, a, max_slack=1.01 * far, on=BOX)
