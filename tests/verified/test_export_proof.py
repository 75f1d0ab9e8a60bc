"""Certificates as text for the verified checker: what stands in it is what was given, links keep the
function, and what the checker does not understand is refused by name.
"""

from __future__ import annotations

import json
from fractions import Fraction

import forgeries
import numpy as np
import onnx
import pytest
import verified_text as texts
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import moduli as mo
from moduli.formats.proof_text import proof_text
from moduli.interface.cli import cli
from moduli.kernel.certificate import Certificate
from moduli.kernel.move import Move
from moduli.kernel.slack import NO_SLACK

SEEDS = forgeries.seeds()
REFUSED = {
    "near": "a radius of parameters",
    "apart": "a difference by parts of a box",
    "changed": "changed parameters",
}


def why_not(case) -> str | None:
    """What the verified checker does not understand of a certificate."""
    if case.data.get("region", {}).get("cases"):
        return "signs are proved by cases and multipliers"
    return next((f"is about {REFUSED[k]}" for k in REFUSED if k in case.data), None)


UNDERSTOOD = [c for c in SEEDS if not why_not(c)]
ELSEWHERE = [c for c in SEEDS if why_not(c)]


def claim(case) -> Certificate:
    return Certificate.from_json(json.dumps(case.data))


def steps(net, links):
    """All networks on the way."""
    found = [net]
    for link in links:
        found.append(texts.linked(found[-1], link))
    return found


@pytest.mark.parametrize("case", UNDERSTOOD, ids=lambda c: c.name)
def test_the_text_holds_what_was_given_and_links_that_keep_the_function(case):
    exported = proof_text(claim(case), case.small, case.large)
    found = texts.read(exported.text)
    assert (found.large, found.small) == (texts.exact(case.large), texts.exact(case.small))
    assert found.output_map == case.large.output_map
    assert found.inputs == case.large.widths[0]
    slack = claim(case).slack
    assert (found.constant, found.growth) == (Fraction(slack.constant), Fraction(slack.growth))
    assert (len(found.large_links), len(found.small_links)) == exported.links
    assert found.fewest == exported.fewest
    shallow = [str(layer.activation) for layer in case.small.layers] in (
        ["tanh", "identity"],
        ["sigmoid", "identity"],
    )
    assert found.fewest == (claim(case).minimal and shallow and not found.domain)
    at = texts.points(found, np.random.default_rng(1))
    for net, links in ((found.large, found.large_links), (found.small, found.small_links)):
        for step in steps(net, links):
            same = texts.Proof(
                "identity", found.inputs, Fraction(1, 10**30), Fraction(0), net, step
            )
            assert texts.is_true(same, at)
    ends = [steps(found.large, found.large_links)[-1], steps(found.small, found.small_links)[-1]]
    assert [(n, len(r)) for n, r in ends[0]] == [(n, len(r)) for n, r in ends[1]]


def test_large_networks_of_the_zoo_end_where_the_small_one_is():
    net = mo.load("zoo:digits-tanh-grid")
    small = mo.compress(net)
    found = texts.read(proof_text(small.certificate, small.network, net).text)
    left = steps(found.large, found.large_links)[-1]
    for (_, rows), (_, others) in zip(left, found.small, strict=True):
        for (weights, bias), (near, end) in zip(rows, others, strict=True):
            gaps = [abs(p - q) for p, q in zip([*weights, bias], [*near, end], strict=True)]
            assert max(gaps) < 1e-12


def test_a_certificate_that_the_kernel_rejects_is_not_written():
    case = UNDERSTOOD[0]
    wrong = json.loads(json.dumps(case.data))
    wrong["large_moves"] = wrong["large_moves"][:-1]
    with pytest.raises(mo.CertificateRejected):
        proof_text(Certificate.from_json(json.dumps(wrong)), case.small, case.large)


@pytest.mark.parametrize("case", ELSEWHERE, ids=lambda c: c.name)
def test_what_the_checker_does_not_understand_is_refused_by_name(case):
    with pytest.raises(mo.Undecided, match=why_not(case)):
        proof_text(claim(case), case.small, case.large)


def test_the_parts_of_a_box_cover_it():
    """A tree of splits, as cuts that the reader here follows by itself."""
    net, small, certificate = texts.boxed(9)
    region = certificate.region
    assert len(region.tree) > 1
    found = texts.read(proof_text(certificate, small, net).text)
    assert found.domain == [(-1, 1), (-1, 1)]
    assert [(-1 if c is None else c[0]) for c in found.cuts] == list(region.tree)
    assert found.cuts[0][1] == 0


def folded(activation: str) -> tuple[mo.Network, Certificate, mo.Network]:
    """A unit without incoming weights becomes a bias, rounded."""
    net = mo.Network.mlp([[1.0], [0.0]], [0.0, 0.5], [[1.0, 1.0]], [0.0], activation=activation)
    small = mo.compress(net)
    assert small.network.units == 1
    return net, small.certificate, small.network


@pytest.mark.parametrize("activation", ["erf", "gelu", "sin", "softplus"])
def test_values_that_the_checker_cannot_bound_are_refused_by_name(activation):
    net, certificate, small = folded(activation)
    with pytest.raises(mo.Undecided, match=rf"a bias holds {activation}\(0.5\)"):
        proof_text(certificate, small, net)


def test_values_of_tanh_are_near():
    net, certificate, small = folded("tanh")
    found = texts.read(proof_text(certificate, small, net).text)
    ((_, units, ((_, bias),)),) = found.large_links
    assert units is not None
    assert len(units[1]) == 1
    assert abs(bias - Fraction("0.46211715726000975850231848364367254873028928033")) < 1e-45


def test_a_slack_of_zero_beside_rounded_values_is_refused():
    layers = [[[1.0], [0.0]], [0.0, 0.5], [[1.0, 1.0]], [0.0], [[1.0]], [0.0]]
    net = mo.Network.mlp(*layers, activation="tanh")
    fold = [Move("constant", 1, np.array([1]))]
    both = Certificate(net.digest, net.digest, tuple(fold), tuple(fold), NO_SLACK)
    both.verify(net, net)
    with pytest.raises(mo.Undecided, match="a slack of 0 is claimed beside values of tanh"):
        proof_text(both, net, net)


def residual(folder):
    """A certificate about a graph: x + relu(W x)."""
    weight = numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in "xy"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Add", ["x", "h"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph), folder / "graph.onnx")
    return mo.compress(folder / "graph.onnx").certificate.to_json()


def run(*args: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli, list(map(str, args)))
    if isinstance(done.exception, mo.ModuliError):
        return done.exception.exit_code, str(done.exception)
    return 2 if isinstance(done.exception, ValueError) else done.exit_code, done.output


@pytest.fixture
def files(tmp_path):
    small = mo.compress("zoo:digits-tanh-grid")
    mo.save(small.network, tmp_path / "small.npz")
    small.save(tmp_path / "small.json")
    return tmp_path / "small.json", tmp_path / "small.npz"


def test_the_command_writes_the_file_and_prints_both_digests(files, tmp_path):
    out = tmp_path / "small.proof"
    code, printed = run("export-proof", *files, "zoo:digits-tanh-grid", "-o", out, "--json")
    data = json.loads(printed)
    large, small = mo.load("zoo:digits-tanh-grid"), mo.load(files[1])
    assert (code, data["large"], data["small"]) == (0, large.digest, small.digest)
    assert data["schema"] == "moduli.export-proof/1"
    assert data["bytes"] == out.stat().st_size
    assert texts.read(out.read_bytes()).large == texts.exact(large)
    code, printed = run("export-proof", *files, "zoo:digits-tanh-grid", "-o", out)
    assert code == 0
    assert "claimed in the text" in printed


@pytest.mark.parametrize(
    ("wrong", "code"), [("swapped", 1), ("no folder", 2), ("a radius", 3), ("a graph", 4)]
)
def test_the_command_says_no_by_its_exit_code(files, tmp_path, wrong, code):
    certificate, small = files
    out, large = tmp_path / "x.proof", "zoo:digits-tanh-grid"
    if wrong == "swapped":
        small = large
    elif wrong == "no folder":
        out = tmp_path / "none" / "x.proof"
    elif wrong == "a radius":
        near = mo.compress(mo.load(large), radius=1e-6)
        near.save(certificate)
        mo.save(near.network, small)
    else:
        certificate.write_text(json.dumps(residual(tmp_path)))
    found, _ = run("export-proof", certificate, small, large, "-o", out)
    assert found == code
    assert not out.exists()
