"""What answers say: demands on certificates, fewest among which networks, on which side of the
output map, strict JSON.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from quantised import convolutional, written
from runtimes import Machine, computed

import moduli as mo
from moduli.common.exact_values import exact_arrays
from moduli.common.figures import save
from moduli.common.result import Result, encoded, plain
from moduli.equivalence import group
from moduli.equivalence.answers import Equivalence, on_each_box
from moduli.equivalence.witness_search import allowed, behind, lipschitz
from moduli.interface.cli import main
from moduli.kernel.certificate import Certificate
from moduli.kernel.move import Move
from moduli.kernel.rules import apply
from moduli.kernel.slack import Slack, difference

BOX = mo.Box(-1, 1)


def strict(text: str) -> dict[str, object]:
    """As jq reads it: no Infinity, no NaN."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return dict(json.loads(text, parse_constant=refuse))


def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["moduli", *map(str, args)])
    try:
        main()
        code = 0
    except SystemExit as done:
        code = int(done.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


# Demands --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> mo.Network:
    rng = np.random.default_rng(0)
    rows, out = rng.standard_normal((3, 2)), rng.standard_normal((2, 3))
    twice = np.concatenate([rows, rows[:1]])
    return mo.Network.mlp(
        twice, [0.1, 0.2, 0.3, 0.1], np.column_stack([out, 0.3 * out[:, 0]]), [0.0, 0.0]
    )


def loose(found: mo.Certificate, slack: Slack) -> Certificate:
    """The same claim with another slack: true, and perhaps worth nothing."""
    return replace(found, slack=slack)


def test_a_slack_that_says_nothing_is_accepted_and_not_enough(net):
    small = mo.compress(net)
    vague = loose(small.certificate, Slack(1e308, 0.0))
    assert mo.check(vague, small.network, net).bound == 1e308
    with pytest.raises(
        mo.CertificateRejected,
        match=r"max_slack=1e-06 is demanded, but 1e\+308 is certified for all inputs",
    ):
        mo.check(vague, small.network, net, max_slack=1e-6)
    verdict = mo.check(
        small.certificate,
        small.network,
        net,
        max_slack=small.slack,
        on="all",
        radius=0.0,
        minimal=True,
    )
    assert verdict.to_json()["demands"] == {
        "max_slack": small.slack,
        "on": "all",
        "radius": 0.0,
        "minimal": True,
    }
    if small.slack:
        with pytest.raises(mo.CertificateRejected, match="max_slack"):
            mo.check(
                small.certificate, small.network, net, max_slack=math.nextafter(small.slack, 0)
            )


def test_a_slack_that_grows_is_infinite_on_all_inputs_and_exact_on_a_box(net):
    small = mo.compress(net)
    grown = loose(small.certificate, Slack(0.125, 0.5))
    with pytest.raises(mo.CertificateRejected, match="inf is certified for all inputs"):
        mo.check(grown, small.network, net, max_slack=1e300)
    with pytest.raises(mo.CertificateRejected, match="inf is certified"):
        mo.check(grown, small.network, net, max_slack=1e300, on="all")
    box = mo.Box([-3.0, 0.0], [1.0, 2.0])
    assert mo.check(grown, small.network, net, max_slack=1.625, on=box).bound == 1.625
    with pytest.raises(mo.CertificateRejected, match=r"1\.625 is certified on Box"):
        mo.check(grown, small.network, net, max_slack=1.6249, on=box)


def test_bounds_on_a_box_are_rounded_up(net):
    small = mo.compress(net)
    for constant, growth, size in (
        (0.1, 0.2, 0.3),
        (1e-300, 3e-320, 0.7),
        (1e-17, 1.0, 1.0),
        (1e308, 1e308, 1e300),
    ):
        claim = loose(small.certificate, Slack(max(constant, small.slack), growth))
        bound = mo.check(claim, small.network, net, on=mo.Box(-size, size)).bound
        exact = Fraction(claim.slack.constant) + Fraction(growth) * Fraction(size)
        assert bound == math.inf or exact <= Fraction(bound)
        assert exact > Fraction(math.nextafter(bound, 0))


def test_the_box_of_a_certificate_must_hold_the_demanded_one(net):
    small = mo.compress(net, on=mo.Box([-1.0, -2.0], [1.0, 2.0]))
    files = small.certificate, small.network, net
    for inside in (BOX, mo.Box([-1.0, -2.0], [1.0, 2.0]), mo.Box(0.5, 0.5)):
        assert mo.check(*files, on=inside).status == "proved"
    for outside in (
        mo.Box(-2, 2),
        mo.Box([-1.0, -2.0], [math.nextafter(1.0, 2), 2.0]),
        mo.Box(5, 6),
    ):
        with pytest.raises(
            mo.CertificateRejected, match="is demanded, but at input 0 the certificate holds from"
        ):
            mo.check(*files, on=outside)
    with pytest.raises(
        mo.CertificateRejected, match="on='all' is demanded, but the certificate holds on the box"
    ):
        mo.check(*files, on="all")
    everywhere = mo.compress(net)
    assert (
        mo.check(everywhere.certificate, everywhere.network, net, on=mo.Box(-1e9, 1e9)).status
        == "proved"
    )


def test_claims_about_other_parameters_need_a_radius(net):
    near = mo.compress(net, radius=0.25)
    files = near.certificate, near.network, net
    assert mo.check(*files).status == "proved"
    for demand in (
        {"max_slack": 1.0},
        {"on": "all"},
        {"on": BOX},
        {"radius": 0.125},
        {"radius": 0.0},
    ):
        with pytest.raises(mo.CertificateRejected, match=r"is about parameters within 0\.25"):
            mo.check(*files, **demand)
    assert mo.check(*files, max_slack=1.0, radius=0.25, on=BOX).status == "proved"
    exact = mo.compress(net)
    assert mo.check(exact.certificate, exact.network, net, radius=0.0).status == "proved"


def test_fewest_units_can_be_demanded():
    deep = mo.Network.mlp([[1.0]], [0.5], [[1.0]], [0.25], [[2.0]], [0.0])
    small = mo.compress(deep)
    with pytest.raises(mo.CertificateRejected, match="minimal=True is demanded"):
        mo.check(small.certificate, small.network, deep, minimal=True)
    constant = mo.Network.mlp([[0.0]], [0.5], [[1.0]], [0.25], [[2.0]], [0.0])
    none = mo.compress(constant)
    assert none.network.units == 0
    assert mo.check(none.certificate, none.network, constant, minimal=True).minimal


@pytest.mark.parametrize(
    "demand", [{"max_slack": math.nan}, {"max_slack": -1.0}, {"max_slack": math.inf}, {"radius": math.nan}, {"radius": -0.1},
               {"on": mo.Gaussian()}, {"on": mo.Samples(np.zeros((1, 2)))}, {"on": "everywhere"}, {"on": mo.Box([0, 0, 0], 1)}],
)  # fmt: skip
def test_demands_that_make_no_sense(net, demand):
    small = mo.compress(net)
    with pytest.raises(ValueError, match=r"\w"):
        mo.check(small.certificate, small.network, net, **demand)


def test_demands_on_the_command_line(net, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mo.save(net, "large.npz")
    assert (
        command(capsys, monkeypatch, "compress", "large.npz", "-o", "small.npz", "--quiet")[0] == 0
    )
    files = "small.npz.cert.json", "small.npz", "large.npz"
    code, out, _ = command(
        capsys,
        monkeypatch,
        "check",
        *files,
        "--on",
        "all",
        "--max-slack",
        "1e-9",
        "--radius",
        "0",
        "--minimal",
        "--json",
    )
    data = strict(out)
    assert (code, data["status"], data["minimal"]) == (0, "proved", True)
    assert data["bound"] <= 1e-9
    assert data["demands"] == {"max_slack": 1e-9, "on": "all", "radius": 0.0, "minimal": True}
    written = json.loads(Path("small.npz.cert.json").read_text())
    written["slack"] = {"constant": 1e308, "growth": 0.0}
    Path("vague.json").write_text(json.dumps(written))
    assert command(capsys, monkeypatch, "check", "vague.json", *files[1:])[0] == 0
    code, out, err = command(
        capsys, monkeypatch, "check", "vague.json", *files[1:], "--max-slack", "1e-6", "--json"
    )
    data = strict(out)
    assert (code, data["schema"], data["status"]) == (1, "moduli.check/1", "rejected")
    assert "--max-slack 1e-06 is demanded" in str(data["reason"])
    assert str(data["reason"]) in err
    code, out, err = command(capsys, monkeypatch, "check", *files, "--on", "gaussian")
    assert (code, out) == (2, "")
    assert "--on all or --on box:-1,1" in err


# Refusals in JSON -----------------------------------------------------------------------------------------------


def test_every_refusal_is_one_json_object(net, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mo.save(net, "a.npz")
    mo.save(
        net.with_layers([net.layers[0], replace(net.layers[1], bias=net.layers[1].bias + 1)]),
        "b.npz",
    )
    command(capsys, monkeypatch, "compress", "a.npz", "-o", "s.npz", "--quiet")
    for code, status, *args in (
        (1, "rejected", "check", "s.npz.cert.json", "s.npz", "b.npz"),
        (1, "rejected", "check", "a.npz", "s.npz", "a.npz"),
        (4, "unreadable", "check", "nothing.json", "s.npz", "a.npz"),
        (4, "unreadable", "rank", "nothing.onnx"),
        (2, "usage", "rank", "a.npz", "--on", "gaussian"),
        (2, "usage", "identify", "a.npz", "--on", "gaussian"),
        (4, "unreadable", "plot", "a.npz", "--on", "box:-1,1", "-o", "p.svg"),
    ):
        found, out, err = command(capsys, monkeypatch, *args, "--json")
        data = strict(out)
        assert (found, data["status"], data["schema"]) == (code, status, f"moduli.{args[0]}/1"), (
            args
        )
        assert data["reason"], args
        assert err.count("\n") == 1, args
        assert command(capsys, monkeypatch, *args, "--json", "--quiet")[1] == "", args


# Strict JSON ----------------------------------------------------------------------------------------------------


def test_numbers_that_are_not_finite_are_null():
    held = {
        "a": math.inf,
        "b": [math.nan, (1, -math.inf)],
        "c": np.array([1.0, np.nan]),
        "d": np.float64("inf"),
        "e": True,
    }
    assert plain(held) == {
        "a": None,
        "b": [None, [1, None]],
        "c": [1.0, None],
        "d": None,
        "e": True,
    }
    assert strict(encoded(held))["c"] == [1.0, None]


def extreme(size: float, kind: str, output_map: str = "identity", depth: int = 2) -> mo.Network:
    rng = np.random.default_rng(1)
    widths = [2, 3, 3][:depth] + [2]
    arrays = []
    for n, m in pairwise(widths):
        arrays += [
            rng.uniform(-1, 1, (m, n)) * size,
            rng.uniform(-1, 1, m) * (size if depth == 2 else 1),
        ]
    return mo.Network.mlp(*arrays, activation=kind, output_map=output_map)


def shifted(net: mo.Network, by: object = 1.0) -> mo.Network:
    last = net.layers[-1]
    return net.with_layers([*net.layers[:-1], replace(last, bias=last.bias + by)])


X = np.random.default_rng(0).standard_normal((20, 2))
ASKED = {
    "call": lambda n: n(X), "compress": mo.compress,
    "box": lambda n: mo.compress(n, on=BOX, budget=40),
    "eps": lambda n: mo.compress(n, on=BOX, eps=0.1, budget=40),
    "radius": lambda n: mo.compress(n, radius=0.1, budget=40), "rank": mo.rank,
    "rank on a box": lambda n: mo.rank(n, on=BOX, budget=40),
    "proximate": lambda n: mo.rank(n, radius=0.1, budget=40),
    "curve": lambda n: mo.rank_curve(n, budget=40, radii=[0.0, 0.5]),
    "distance": lambda n: mo.distance(n, shifted(n), budget=40),
    "sup": lambda n: mo.distance(n, shifted(n), on=BOX, budget=40),
    "mean": lambda n: mo.distance(n, shifted(n), on=mo.Gaussian()),
    "rounding": lambda n: mo.rounding(n, on=BOX, budget=40),
    "half": lambda n: mo.rounding(n, on=BOX, dtype="float16", budget=40),
    "wide": lambda n: mo.rounding(n, on=BOX, dtype="float64", budget=40),
    "rows": lambda n: mo.distance(n, shifted(n), on=mo.Samples(X)),
    "equal": lambda n: mo.equivalent(n, shifted(n), budget=40),
    "within": lambda n: mo.equivalent(n, shifted(n), on=BOX, budget=40, eps=0.1),
    "canon": group.canon, "signature": mo.signature, "symmetries": mo.symmetries,
    "moved": lambda n: mo.symmetries(n).random(1)(n), "align": lambda n: mo.align(n, shifted(n)),
    "activations": lambda n: mo.align(n, shifted(n), by="activations", on=mo.Samples(X)),
    "barrier": lambda n: mo.align(n, shifted(n)).barrier(mo.Samples(X)),
    "path": lambda n: mo.path(n, n), "complexity": lambda n: mo.complexity(n, samples=100),
    "dimension": lambda n: mo.dimension(n, on=BOX, budget=40),
    "identifiable": lambda n: mo.identifiable(n, on=BOX, budget=40),
    "pieces": lambda n: mo.pieces(n, on=BOX, budget=40),
    "depth": lambda n: mo.depth(n, on=BOX, budget=40),
    "recover": lambda n: mo.recover(n, on=BOX, budget=40), "pruned": mo.pruning_curve,
    "pruned units": lambda n: mo.pruning_curve(n, by="units", on=mo.Samples(X)),
    "mean field": mo.mean_field, "student": lambda n: mo.compress(n, on=mo.Samples(X), units=1),
    "students": lambda n: mo.error_curve(n, on=mo.Gaussian(), units=[1]), "torch": mo.to_torch,
}  # fmt: skip


@pytest.mark.parametrize("size", [1e308, 1e200, 1e100, 1e-310])
@pytest.mark.parametrize("kind", ["relu", "tanh", "silu"])
def test_no_answer_warns_or_holds_what_json_does_not(size, kind, tmp_path):
    """Networks of huge and tiny weights, every question: words of the library, or an answer in
    strict JSON.
    """
    nets = [extreme(size, kind), extreme(size, kind, "softmax"), extreme(size, kind, depth=3)]
    asked, refusals = 0, list[Exception]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for net in nets:
            for name, question in ASKED.items():
                try:
                    found = question(net)
                    if isinstance(found, Result):
                        look(found, tmp_path / f"{name}.json")
                    asked += 1
                except (mo.ModuliError, ValueError) as error:
                    refusals.append(error)
    assert asked > 40
    assert not [
        error
        for error in refusals
        if "JSON" in str(error) or isinstance(error, mo.CertificateRejected)
    ]


@pytest.mark.parametrize("size", [1e200, 1e-310])
@pytest.mark.parametrize("kind", ["relu", "tanh"])
def test_no_page_warns(size, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = mo.report(extreme(size, kind), on=BOX, budget=40)
    assert strict(json.dumps(page.to_json(), allow_nan=False))["status"]


def test_a_function_that_does_not_vary_has_a_picture(tmp_path):
    curve = mo.error_curve(extreme(1e-310, "tanh"), on=mo.Samples(X), units=[1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert save(curve.plot(), str(tmp_path / "curve.svg")).stat().st_size > 1000


def look(found: Result, path: Path) -> None:
    strict(json.dumps(found.to_json(), allow_nan=False))
    strict(found.save(path).read_text())
    assert found.table() is not None
    assert repr(found).startswith(f"<{found.kind}")
    try:
        assert found.check()
    except mo.Undecided:
        pass


def test_a_slack_beyond_floats_is_undecided_and_null(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows, out = rng.standard_normal((3, 2)), rng.standard_normal((2, 3)) / 3
    wide = mo.Network.mlp(
        np.concatenate([rows, rows[:1], rows[:1]]) * 1e200, [1.0, 2.0, 3.0, 1.0, 1.0],
        np.column_stack([out, out[:, 0] / 3, out[:, 0] / 7]) * 1e200, [0.0, 0.0], activation="relu",
    )  # fmt: skip
    small = mo.compress(wide)
    assert (small.status, small.glyph, small.network.units) == ("undecided", "?", 3)
    with pytest.raises(mo.Undecided, match="no float bounds"):
        small.check()
    mo.save(wide, "wide.npz")
    code, out, err = command(
        capsys, monkeypatch, "compress", "wide.npz", "-o", "small.npz", "--json"
    )
    data = strict(out)
    assert (code, data["status"], data["slack"], data["growth"]) == (3, "undecided", None, None)
    assert err == ""
    assert (
        command(capsys, monkeypatch, "check", "small.npz.cert.json", "small.npz", "wide.npz")[0]
        == 1
    )


def test_printed_slacks_are_bounds_too():
    assert str(Slack(6.5001e-14, 0.0)) == "6.6e-14"
    assert str(Slack(2.0, 0.10000001)) == "2 + 0.11 |x|"
    assert str(Slack(0.0, math.inf)) == "0 + inf |x|"


# Without a domain -----------------------------------------------------------------------------------------------


def test_without_a_domain_python_answers_as_the_command_line_does(net):
    assert mo.distance(net, net).upper == 0
    assert mo.distance(net, shifted(net)).on == "sup over all inputs"
    bent = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="relu")
    for question in (mo.pieces, mo.dimension, mo.identifiable, mo.depth, mo.recover):
        with pytest.raises(ValueError, match=r"on=None: .* give on=Box\(-1, 1\)"):
            question(bent)
    with pytest.raises(ValueError, match=r"give on=Gaussian\(\) or on=Samples\(x\)"):
        mo.error_curve(bent)
    assert mo.identifiable(mo.Network.mlp([[1.0]], [0.5], [[1.0]], [0.0])).status == "proved"


# Output maps ----------------------------------------------------------------------------------------------------

MAPS = (
    "softmax",
    "relu",
    "tanh",
    "sigmoid",
    "erf",
    "abs",
    "sin",
    "leaky_relu(0.1)",
    "leaky_relu(3.0)",
    "gelu",
    "softplus",
)


def floats(z: np.ndarray, output_map: str) -> np.ndarray:
    """The map in floats, by a network that only has the map."""
    n = z.shape[1]
    return mo.Network.mlp(np.eye(n), np.zeros(n), activation=[], output_map=output_map)(z)


@pytest.mark.parametrize("output_map", MAPS)
def test_enclosures_behind_a_map_hold_what_floats_find(output_map):
    rng = np.random.default_rng(2)
    for scale in (1e-3, 1.0, 30.0, 2000.0):
        z = rng.standard_normal((1, 5)) * scale
        point = [(Fraction(v), Fraction(v)) for v in z[0].tolist()]
        wide = [(low - Fraction(1, 8), high + Fraction(1, 8)) for low, high in point]
        moved = floats(z + rng.uniform(-0.125, 0.125, z.shape), output_map)[0]
        for found, inner, outer, other in zip(
            floats(z, output_map)[0],
            behind(point, output_map),
            behind(wide, output_map),
            moved,
            strict=True,
        ):
            room = 1e-9 * max(1.0, abs(found))
            assert inner[0] - room <= found <= inner[1] + room
            assert outer[0] <= inner[0] + room
            assert outer[0] - room <= other <= outer[1] + room
            assert inner[1] - inner[0] < Fraction(1, 10**40) * max(1, abs(inner[0]))


@pytest.mark.parametrize("output_map", MAPS)
def test_maps_move_outputs_no_further_than_their_constant(output_map):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2000, 3)) * rng.choice([0.1, 1.0, 5.0], (2000, 1))
    y = x + rng.standard_normal(x.shape) * rng.choice([1e-3, 0.1, 3.0], (2000, 1))
    before, after = (
        np.abs(x - y).max(axis=1),
        np.abs(floats(x, output_map) - floats(y, output_map)).max(axis=1),
    )
    assert (after <= float(lipschitz(output_map)) * before * (1 + 1e-9) + 1e-12).all()
    for eps in (1e-300, 0.1, 1.0, 1e308):
        assert Fraction(allowed(eps, output_map)) * lipschitz(output_map) <= Fraction(eps)


def test_the_constant_of_a_softmax_is_reached():
    z = np.array([[1e-4, 0.0], [-1e-4, 0.0]])
    assert abs(floats(z[:1], "softmax") - floats(z[1:], "softmax")).max() > 0.249 * np.ptp(z[:, 0])
    z = np.array([[1e-4, -1e-4], [-1e-4, 1e-4]])
    assert abs(floats(z[:1], "softmax") - floats(z[1:], "softmax")).max() > 0.499 * np.ptp(z[:, 0])


def classifier(kind: str, output_map: str, inputs: int = 2) -> mo.Network:
    rng = np.random.default_rng(4)
    return mo.Network.mlp(
        rng.standard_normal((4, inputs)), rng.standard_normal(4), rng.standard_normal((3, 4)),
        [0.5, -1.25, 0.75], activation=kind, output_map=output_map,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["relu", "tanh"])
@pytest.mark.parametrize("inputs", [2, 5])
@pytest.mark.parametrize("on", [None, BOX])
@pytest.mark.parametrize("eps", [0.0, 0.01])
def test_a_shift_before_a_softmax_is_never_a_difference(kind, inputs, on, eps):
    net = classifier(kind, "softmax", inputs)
    found = mo.equivalent(net, shifted(net), on=on, eps=eps, budget=200)
    assert found.status != "refuted"
    if kind == "relu" and inputs == 2 and on is not None:
        assert found.status == "proved"
        assert found.check()
    far = mo.distance(net, shifted(net), on=on, budget=200)
    assert far.lower > 0.9
    assert far.behind is not None
    assert far.behind[0] < 1e-30
    assert far.to_json()["output_map"] == "softmax"
    assert "before the output softmax" in far.statement


@pytest.mark.parametrize("kind", ["relu", "tanh"])
@pytest.mark.parametrize("eps", [0.0, 0.01])
def test_values_that_an_output_relu_hides_are_no_difference(kind, eps):
    """On the box all outputs of both are 0."""
    net = shifted(classifier(kind, "relu"), -100.0)
    found = mo.equivalent(net, shifted(net), on=BOX, eps=eps, budget=200)
    assert found.status != "refuted"
    far = mo.distance(net, shifted(net), on=BOX, budget=200)
    assert far.behind is not None
    assert far.behind[0] == 0.0 < 0.99 < far.lower


def test_saturated_outputs_differ_by_what_they_differ_by():
    net = shifted(classifier("relu", "tanh"), 30.0)
    other = shifted(net, 5.0)
    small = mo.Box(-0.1, 0.1)
    assert mo.equivalent(net, other, on=small, eps=0.01, budget=200).status != "refuted"
    refuted = mo.equivalent(
        net, other, on=small, budget=200
    )  # strictly increasing: not the same function
    assert refuted.status == "refuted"
    assert refuted.check()
    assert 0 < refuted.witness.gap < Fraction(1, 10**9)
    assert (
        "by at least" not in dict(refuted.rows())
        or float(dict(refuted.rows())["by at least"]) < 1e-9
    )


@pytest.mark.parametrize("output_map", ["softmax", "relu", "tanh", "sigmoid", "gelu"])
@pytest.mark.parametrize("eps", [1e-3, 0.05, 0.2, 0.6])
def test_answers_about_outputs_agree_with_outputs_in_floats(output_map, eps):
    rng = np.random.default_rng(5)
    net = classifier("tanh", output_map)
    x = np.random.default_rng(6).uniform(-1, 1, (4000, 2))
    for by in (0.01, 0.3, 2.0):
        other = shifted(net, rng.uniform(-by, by, 3))
        seen = float(np.abs(net(x) - other(x)).max())
        found = mo.equivalent(net, other, on=BOX, eps=eps, budget=200)
        if found.status == "proved":
            assert seen <= eps + 1e-12
            assert found.check()
        if found.status == "refuted":
            at = np.array([[float(q) for q in found.witness.input]])
            assert np.abs(net(at) - other(at)).max() > eps - 1e-12
            assert found.witness.gap > Fraction(eps)
            assert found.check()
            assert found.to_json()["witness"]["gap"] > eps - 1e-15
        lower, upper = mo.distance(net, other, on=BOX, budget=200).behind
        assert lower - 1e-12 <= upper
        assert seen <= upper + 1e-12


def test_a_softmax_halves_what_must_be_proved_before_it():
    net = classifier("tanh", "softmax")
    other = shifted(net, np.array([0.125, 0.0, 0.0]))
    assert mo.equivalent(net, other, eps=0.0626).status == "proved"
    bare = [replace(one, output_map="identity") for one in (net, other)]
    assert mo.equivalent(*bare, eps=0.0626).status == "refuted"


def test_claimed_proofs_are_checked_behind_the_map():
    net = classifier("tanh", "gelu")
    other = shifted(net, 0.1)
    proved = mo.equivalent(net, other, eps=0.12)
    assert proved.status == "proved"
    with pytest.raises(mo.CertificateRejected, match="is claimed, but only"):
        replace(proved, eps=0.105).check()


def test_networks_of_different_output_maps_are_not_compared(net):
    other = replace(net, output_map="softmax")
    for question in (
        lambda: mo.equivalent(net, other), lambda: mo.distance(net, other), lambda: mo.distance(net, other, on=BOX),
        lambda: mo.distance(net, other, on=mo.Gaussian()), lambda: mo.distance(net, other, on=mo.Samples(X)),
    ):  # fmt: skip
        with pytest.raises(mo.ShapeError, match="output maps identity and softmax differ"):
            question()


# Fewest, among which networks -----------------------------------------------------------------------------------


def one(kind: str, *arrays: object) -> mo.Network:
    return mo.Network.mlp(*arrays, activation=kind)


AFFINE = {
    "one active unit": one("relu", [[1.0]], [3.0], [[1.0]], [0.0]),
    "a bottleneck": one("relu", np.ones((1, 6)), [30.0], np.ones((6, 1)), np.zeros(6)),
    "abs": one("abs", np.ones((1, 6)), [30.0], np.ones((6, 1)), np.zeros(6)),
    "leaky": one("leaky_relu(0.1)", np.ones((1, 6)), [-30.0], np.ones((6, 1)), np.zeros(6)),
    "two that face each other": one("relu", [[1.0], [-1.0]], [0.0, 0.0], [[1.0, -1.0]], [0.0]),
    "identity": one("identity", np.ones((3, 6)), [1.0, 2.0, 3.0], np.ones((6, 3)), np.zeros(6)),
    "a slope of one": one(
        "leaky_relu(1.0)", np.ones((3, 6)), [1.0, 2.0, 3.0], np.ones((6, 3)), np.zeros(6)
    ),
    "constant": one("tanh", np.zeros((3, 6)), [1.0, 2.0, 3.0], np.ones((6, 3)), np.zeros(6)),
    "dead": one("relu", [[1.0]], [-3.0], [[1.0]], [0.0]),
    "deep": one("relu", [[1.0]], [3.0], [[1.0]], [9.0], [[1.0]], [0.0]),
    "no layer": mo.Network.mlp([[1.0]], [3.0], activation=[]),
}


@pytest.mark.parametrize("name", AFFINE)
def test_an_affine_function_on_a_box_needs_no_hidden_unit(name):
    net = AFFINE[name]
    found = mo.rank(net, on=BOX)
    assert (found.lower, found.upper, found.status, found.among) == (0, 0, "proved", None)
    assert found.check()
    assert found.witness.units == 0
    small = mo.compress(net, on=BOX)
    assert small.check()
    assert small.optimal == (small.network.units == 0)


def test_a_forged_claim_of_fewest_units_for_an_affine_function_is_rejected():
    net = AFFINE["a bottleneck"]
    small = mo.compress(net, on=BOX)
    assert small.network.units == 1
    with pytest.raises(
        mo.CertificateRejected, match="minimality is claimed, but the function is affine on the box"
    ):
        mo.check(replace(small.certificate, minimal=True), small.network, net)


def test_fewest_names_the_networks_among_which_it_is():
    tanh = one("tanh", [[1.0], [2.0]], [0.0, 1.0], [[1.0, 1.0]], [0.0])
    found = mo.rank(tanh)
    assert found.statement == "rank 2 of 2 hidden units, in one hidden layer of tanh"
    assert found.to_json()["among"] == "one hidden layer of tanh"
    small = mo.compress(tanh)
    assert small.statement.startswith(
        "2 -> 2 hidden units, the fewest possible in one hidden layer of tanh; "
    )
    assert small.to_json()["among"] == "one hidden layer of tanh"
    verdict = mo.check(small.certificate, small.network, tanh)
    assert (
        "no network of one hidden layer of tanh with fewer than 2 hidden units" in verdict.statement
    )
    assert verdict.to_json()["among"] == "one hidden layer of tanh"
    near = mo.compress(tanh, radius=0.01)
    assert near.statement.endswith("the fewest possible in one hidden layer of tanh")
    assert "in one hidden layer of tanh" in mo.rank(tanh, radius=0.01).statement
    deep = mo.rank(one("tanh", [[1.0]], [0.5], [[1.0]], [0.25], [[2.0]], [0.0]))
    assert (deep.lower, deep.among) == (0, None)
    pair = mo.rank(AFFINE["two that face each other"])
    assert (int(pair), pair.among) == (2, "one hidden layer of relu")
    assert "without a hidden layer it needs no unit" in pair.reason


# Normal forms ---------------------------------------------------------------------------------------------------


def exactly(net: mo.Network, form: mo.Network) -> Slack:
    """The slack of a form, by moves in rationals."""
    state, _ = group.normal_form(net)
    for l in range(1, len(state.weights)):
        if not state.activations[l - 1].homogeneous or not len(state.alive[l - 1]):
            continue
        for unit in state.alive[l].tolist():
            top = max(abs(state.weights[l - 1].get((unit, j))) for j in state.alive[l - 1].tolist())
            if top:
                apply(state, Move("scale", l, np.array([unit]), ratio=1 / top))
    return difference(state.arrays(), exact_arrays(form), state.activations)


@pytest.mark.parametrize("kind", ["relu", "leaky_relu(0.3)", "abs", "tanh", "sigmoid", "gelu"])
def test_the_slack_of_a_form_is_what_rationals_find(kind):
    rng = np.random.default_rng(7)
    bounded = 0
    for seed in range(12):
        widths, size = (
            rng.integers(1, 6, 4).tolist(),
            10.0 ** rng.integers(-20, 20) if seed % 3 == 0 else 1.0,
        )
        arrays = []
        for n, m in pairwise(widths):
            arrays += [rng.standard_normal((m, n)) * size, rng.standard_normal(m)]
        net = one(kind, *arrays)
        found, exact = group.canon(net), exactly(net, mo.canonical(net))
        assert found.check()
        assert found.network == mo.canonical(net)
        assert found.slack.constant >= exact.constant * (1 - 1e-12)
        assert found.slack.growth >= exact.growth * (1 - 1e-12)
        assert found.slack.growth <= 1.001 * exact.growth + 1e-24 * (1 + size) ** 4
        assert (found.status == "proved") == (found.slack == Slack(0.0, 0.0))
        bounded += found.status == "bounded"
        assert bool(found.network.notes) == (found.status == "bounded")
    assert bounded > 0 or kind in ("tanh", "gelu")


def test_forms_beyond_the_range_of_floats_are_undecided():
    for size in (1e-200, 1e150):
        net = one("relu", [[size, size / 3]], [1.0], [[1.0 / 7]], [0.0])
        found = group.canon(net)
        assert (found.status, found.glyph) == ("undecided", "?")
        with pytest.raises(mo.Undecided, match="no float bounds"):
            found.check()


def test_a_changed_slack_of_a_form_is_rejected():
    net = one("relu", [[3.0, 1.0]], [0.7], [[0.1]], [0.0])
    found = group.canon(net)
    assert found.status == "bounded"
    with pytest.raises(mo.CertificateRejected, match="is claimed of a form"):
        replace(found, slack=Slack(0.0, 1e-30)).check()


@pytest.mark.parametrize("suffix", ["onnx", "npz", "safetensors", "nnet"])
def test_files_of_normal_forms_carry_their_slack(suffix, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mo.save(one("relu", [[3.0, 1.0]], [0.7], [[0.1]], [0.0]), "net.npz")
    code, out, _ = command(
        capsys, monkeypatch, "canon", "net.npz", "-o", f"form.{suffix}", "--json"
    )
    data = strict(out)
    slack = Slack(data["constant"], data["growth"])
    assert (code, data["status"]) == (0, "bounded")
    assert str(slack) in data["statement"]
    assert mo.load(f"form.{suffix}").digest == data["digest"]
    if suffix == "npz":
        assert str(np.load("form.npz")["slack"]) == str(slack)
    else:
        assert str(slack).encode() in Path(f"form.{suffix}").read_bytes()
    shown = command(capsys, monkeypatch, "canon", "net.npz", "-o", f"form.{suffix}")[1]
    assert f"<= {slack}" in shown


def test_words_of_mean_errors_are_refused_elsewhere(net):
    for word, value in {"skip": True, "biases": False, "starts": 3}.items():
        with pytest.raises(mo.ArgumentError, match=f"{word}={value}: that is for mean errors"):
            mo.compress(net, **{word: value})
    for word, value in {"skip": 1, "biases": "no", "starts": -1}.items():
        with pytest.raises(mo.ArgumentError, match=f"{word}="):
            mo.compress(net, on=mo.Gaussian(), units=1, **{word: value})
    with pytest.raises(mo.ArgumentError, match="units='x': a whole number"):
        mo.radius_for(net, "x")  # by its place, too


# Several boxes --------------------------------------------------------------------------------------------------


def on_parts(*parts: tuple[float, float]) -> mo.Box:
    """The hull of boxes, as a disjunction in a file gives it."""
    boxes = tuple(mo.Box([low], [high]) for low, high in parts)
    ends = [low for low, _ in parts], [high for _, high in parts]
    return mo.Box(
        [min(ends[0])], [max(ends[1])], hull_of=boxes, notes=(f"hull of {len(boxes)} boxes",)
    )


def test_functions_that_differ_only_between_the_boxes():
    ramps = [[1.0]] * 3
    bump = mo.Network.mlp(
        ramps, [0.0625, 0.0, -0.0625], [[1.0, -2.0, 1.0]], [0.0], activation="relu"
    )
    zero = mo.Network.mlp([[1.0]], [0.0], [[0.0]], [0.0], activation="relu")
    on = on_parts((-0.25, -0.125), (0.125, 0.25))
    found = mo.equivalent(bump, zero, on=on)
    assert bool(found)
    assert found.check()
    assert found.statement == "on each of the 2 boxes: the same function"
    assert ("on", "Box(-0.25, 0.25, hull of 2 boxes)") in found.rows()
    assert [part["status"] for part in found.to_json()["parts"]] == ["proved", "proved"]
    inside = on_parts((-0.25, -0.125), (0.03125, 0.25))
    told = mo.equivalent(bump, zero, on=inside)
    assert told.status == "refuted"
    assert told.on.low.tolist() == [0.03125]  # the box of the file that holds the input
    loose = mo.equivalent(bump, zero, on=on.branches[1], eps=1.0)
    with pytest.raises(mo.CertificateRejected, match="say other things"):
        replace(found, parts=(found.parts[0], loose)).check()
    for forged in (replace(found, on=inside), replace(found, parts=found.parts[:1])):
        with pytest.raises(mo.CertificateRejected, match="one for each box"):
            forged.check()
    assert mo.equivalent(bump, bump, on=on).on is not None


def test_what_is_open_on_one_of_the_boxes_is_undecided():
    net, on = one("relu", [[1.0]], [0.0], [[1.0]], [0.0]), on_parts((-1, -0.5), (0.5, 1))

    def ask(on: mo.Box) -> Equivalence:
        return Equivalence("proved" if on.high.tolist() == [-0.5] else "undecided", net, net, on=on)

    found = on_each_box(on, ask)
    assert found.status == "undecided"
    assert found.statement == "on 1 of the 2 boxes: neither proved nor refuted the same function"
    for question in (bool, type(found).check):
        with pytest.raises(mo.Undecided):
            question(found)
    assert [glyph for _, glyph in found.rows()[-2:]] == ["= proved", "? undecided"]


# As runtimes compute them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.0, 0.05])
def test_a_compression_bounds_what_runtimes_make_of_both(eps):
    """No runtime of many is further off, beside an oracle that rounds one operation after another."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(6, 3)).astype(np.float32)
    first[4:] = first[:2]
    net = mo.Network.mlp(
        first, [0.1, 0.2, 9.0, 0.4, 0.1, 0.2], rng.normal(size=(2, 6)).astype(np.float32), [0.3, -0.2],
        activation="relu",
    )  # fmt: skip
    small = mo.compress(net, on=BOX, eps=eps, dtype="float32", budget=200)
    assert small.network.units < net.units
    assert small.computed is not None
    assert small.computed.upper >= small.slack + small.computed.small.upper
    seen = 0.0
    for seed in range(12):
        draw = np.random.default_rng(seed)
        machines = [Machine("float32", draw) for _ in range(2)]
        x = [Fraction(float(v)) for v in draw.uniform(-1, 1, 3).astype(np.float32)]
        a, b = (
            computed(part, machine, x)
            for part, machine in zip((net, small.network), machines, strict=True)
        )
        seen = max(seen, *(float(abs(p - q)) for p, q in zip(a, b, strict=True)))
    assert 0 < seen <= small.computed.upper
    assert small.check()
    forged = replace(small.computed.small, upper=small.computed.small.upper / 1e3)
    with pytest.raises(mo.CertificateRejected):
        replace(small, computed=replace(small.computed, small=forged)).check()
    assert small.rounded("float32").computed is None or small.rounded("float32") is small
    assert dict(small.rows())["in float32"].startswith("at most")
    assert small.to_json()["computed"]["upper"] == small.computed.upper


def test_a_graph_says_so_too_and_what_cannot_be_said_is_refused(tmp_path):
    path = written(convolutional(np.random.default_rng(0)), tmp_path / "g.onnx")
    graph = mo.compress(path, on=BOX, dtype="float32")
    assert graph.computed.slack >= graph.slack
    assert graph.computed.slack < graph.slack + 1e-9
    assert math.isfinite(graph.computed.upper)
    assert "in float32" in dict(graph.rows())
    assert graph.check()
    net = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0])
    for given in ({}, {"on": mo.Gaussian(), "units": 1}, {"radius": 0.1}):
        with pytest.raises(mo.ArgumentError, match="sizes of numbers decide"):
            mo.compress(net, dtype="float32", **given)
    with pytest.raises(mo.ArgumentError, match="float8"):
        mo.compress(net, on=BOX, dtype="float8")
    with pytest.raises(mo.ArgumentError, match="computes in float32"):
        mo.compress(path, on=BOX, dtype="float64")
