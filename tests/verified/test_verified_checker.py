"""The checker that is verified in Rocq, where it is built: it accepts what is true, and rejects every
forgery of chains on all inputs.
"""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from fractions import Fraction
from pathlib import Path

import forgeries
import numpy as np
import pytest
import strategies as plants
import test_attack
import verified_text as texts
from project import ROOT

import moduli as mo
from moduli.formats.proof_text import proof_text
from moduli.kernel.certificate import Certificate

UNDERSTOOD = [
    c
    for c in forgeries.seeds()
    if not {"near", "apart", "changed"} & set(c.data) and not c.data.get("region", {}).get("cases")
]
TOO_WIDE = {"region", "smooth"}  # boxes whose signs affine bounds show, and intervals do not
PROVABLE = [c for c in UNDERSTOOD if c.name not in TOO_WIDE]
PROVED, REJECTED, UNREADABLE = 0, 1, 4


@pytest.fixture(scope="session")
def checker():
    """The compiled checker; MODULI_VERIFIED names another place."""
    found = Path(os.environ.get("MODULI_VERIFIED", ROOT / "verified" / "build" / "moduli-verified"))
    if not found.is_file():
        warnings.warn(
            f"VERIFIED CHECKER ABSENT at {found}: its tests are skipped; run verified/build.sh",
            stacklevel=1,
        )
        pytest.skip(f"no verified checker at {found}; run verified/build.sh")
    return found


@pytest.fixture
def judge(checker, tmp_path):
    """What the checker says of a text: its exit code and what it prints."""

    def judged(text: bytes) -> tuple[int, str]:
        path = tmp_path / "a.proof"
        path.write_bytes(text)
        done = subprocess.run([checker, path], capture_output=True, text=True)
        assert done.returncode in (PROVED, REJECTED, UNREADABLE), done.stderr
        assert (done.stdout == "") == (done.returncode != PROVED)
        return done.returncode, done.stdout + done.stderr

    return judged


def exported(case) -> bytes:
    return proof_text(Certificate.from_json(json.dumps(case.data)), case.small, case.large).text


# What is true ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PROVABLE, ids=lambda c: c.name)
def test_true_certificates_are_proved(case, judge):
    code, printed = judge(exported(case))
    assert code == PROVED, printed
    assert case.small.digest in printed
    assert case.large.digest in printed
    laws_only = any(str(x.activation) in ("gelu",) for x in case.large.layers)
    assert ("hypotheses: the laws" in printed) == laws_only


@pytest.mark.parametrize(
    "case", [c for c in UNDERSTOOD if c.name in TOO_WIDE], ids=lambda c: c.name
)
def test_signs_that_intervals_do_not_show_are_no_proof(case, judge):
    code, printed = judge(exported(case))
    assert code == REJECTED
    assert "intervals on the box are too wide" in printed


def test_boxes_are_proved_part_by_part(judge):
    """Where intervals suffice; the whole box at once does not always, and a larger one never."""
    proved = cut = 0
    for seed in range(40):
        net, small, certificate = texts.boxed(seed)
        if certificate.region is None or certificate.region.cases:
            continue
        proof = texts.read(proof_text(certificate, small, net).text)
        code, printed = judge(texts.written(proof))
        if code != PROVED or not proof.large_links:
            continue
        assert "with every x_j in [-1, 1]" in printed
        proved += 1
        proof.cuts = [None]
        cut += judge(texts.written(proof))[0] == REJECTED
        proof.domain = [(Fraction(-64), Fraction(64))] * 2
        if judge(texts.written(proof))[0] == PROVED:
            assert texts.is_true(proof, texts.points(proof, np.random.default_rng(seed), 40))
    assert proved >= 10


@pytest.mark.parametrize(
    "cuts",
    [
        [(0, Fraction(1)), None, None],
        [(1, Fraction(-1, 2)), None, (0, Fraction(0)), None, None],
        [(9, Fraction(0)), None, None],
    ],
)
def test_any_cuts_cover_the_box(cuts, judge):
    case = next(c for c in PROVABLE if c.name == "linear")
    proof = texts.read(exported(case))
    proof.cuts = cuts
    assert judge(texts.written(proof))[0] == PROVED


@pytest.mark.parametrize("name", ["digits-plain", "digits-relu", "digits-tanh-grid", "digits-tanh"])
def test_the_zoo_is_proved(name, judge):
    net = mo.load(f"zoo:{name}")
    small = mo.compress(net)
    code, printed = judge(proof_text(small.certificate, small.network, net).text)
    assert code == PROVED, printed
    assert small.network.digest in printed
    shallow_tanh = [str(a) for a in small.network.activations] == ["tanh"]
    assert ("fewest units: no network" in printed) == shallow_tanh


ACTIVATIONS = [
    "relu", "abs", "leaky_relu(0.1)", "leaky_relu(-1.5)", "identity", "tanh", "sigmoid", "erf", "sin", "gelu",
    "gelu_tanh", "silu", "softplus", "hardswish", "mish", "elu(1)", "elu(-0.5)", "clip(0,6)", "clip(-1,1)",
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_planted_redundancy_of_every_activation_is_proved(activation, judge):
    for seed, widths in enumerate([(2, 3, 1), (2, 2, 2, 1), (3, 3, 3, 2)]):
        rng = np.random.default_rng(seed)
        parts = plants.minimal(rng, widths, [activation] * (len(widths) - 2))
        for l in range(1, len(widths) - 1):
            for kind in plants.kinds(activation):
                plants.plant(rng, parts, l, kind)
        net = parts.network()
        small = mo.compress(net)
        assert small.network.units < net.units
        code, printed = judge(proof_text(small.certificate, small.network, net).text)
        assert code == PROVED, printed


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "leaky_relu(0.1)", "gelu"])
def test_two_members_of_an_orbit_are_proved_equal(activation, judge):
    """Signs, scales and orders of units, on both sides."""
    rng = np.random.default_rng(5)
    net = plants.minimal(rng, (3, 4, 3, 2), [activation] * 2).network()
    twin = mo.symmetries(net).random(7)(net)
    assert twin != net
    found = mo.equivalent(net, twin)
    proof = found.proof
    code, printed = judge(proof_text(proof, twin, net).text)
    assert code == PROVED, printed


def lattice(size: int, seed: int) -> mo.Network:
    """The largest of some least values of lines, by relu(a + b), relu(-a - b), relu(a - b), relu(b - a)
    for each pair: blocks, skips and signs on all inputs are needed.
    """
    rng = np.random.default_rng(seed)
    lines = np.tile(rng.integers(-8, 9, (size, 3)), (size, 1))[rng.permutation(size**2)].astype(
        float
    )
    pair = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]])
    arrays, ends = [], {"least": [0.5, -0.5, -0.5, -0.5], "largest": [0.5, -0.5, 0.5, 0.5]}
    weights, biases = lines[:, :2], lines[:, 2]
    for level in range(2 * int(np.log2(size))):
        gates = np.eye(len(biases) // 2)
        arrays += [np.kron(gates, pair) @ weights, np.kron(gates, pair) @ biases]
        end = ends["least" if 2 ** (level + 1) <= size else "largest"]
        weights, biases = np.kron(gates, [end]), np.zeros(len(gates))
    return mo.Network.mlp(*arrays, weights, biases, activation="relu")


@pytest.mark.parametrize("seed", range(4))
def test_lattice_networks_are_proved(seed, judge):
    net = lattice(4, seed)
    small = mo.compress(net, budget=100)
    assert small.network.units < net.units / 2
    text = proof_text(small.certificate, small.network, net)
    code, printed = judge(text.text)
    assert code == PROVED, printed
    assert text.links[0] > 1


@pytest.mark.slow
def test_a_lattice_network_from_elsewhere_is_proved(judge, shared):
    net = mo.load(shared / "models" / "tll_8.onnx")
    small = mo.compress(net, budget=500)
    assert small.network.units < net.units / 3
    code, printed = judge(proof_text(small.certificate, small.network, net).text)
    assert code == PROVED, printed


@pytest.mark.slow
def test_dense_models_of_others_are_proved(judge, shared):
    seen = 0
    for path in sorted((shared / "models").glob("*.onnx")):
        try:
            net = mo.load(path)
        except mo.ModuliError:
            continue
        if not isinstance(net, mo.Network):
            continue
        small = mo.compress(net, budget=1000)
        code, printed = judge(proof_text(small.certificate, small.network, net).text)
        assert code == PROVED, f"{path.name}: {printed}"
        seen += 1
    assert seen > 15


# Fewest units ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@pytest.mark.parametrize("widths", [(1, 1, 1), (2, 3, 1), (3, 5, 4)])
def test_units_are_proved_to_be_fewest(activation, widths, judge):
    rng = np.random.default_rng(sum(widths))
    parts = plants.minimal(rng, widths, [activation])
    for kind in plants.kinds(activation):
        plants.plant(rng, parts, 1, kind)
    net = parts.network()
    small = mo.compress(net)
    assert small.network.units == widths[1]
    exported = proof_text(small.certificate, small.network, net)
    code, printed = judge(exported.text)
    assert code == PROVED, printed
    assert exported.fewest
    assert "fewest units: no network" in printed


def reducible(kind: str) -> tuple[texts.Layer, texts.Layer]:
    """Three units of tanh, the last of which may go."""
    rows = [[[2, 1], 0], [[1, -1], 1], [[1, 3], 1]]
    behind = [[[1, 2, 1], 0], [[0, 1, -1], 3]]
    if kind == "no outgoing weights":
        for weights, _ in behind:
            weights[2] = 0
    elif kind == "no incoming weights":
        rows[2][0] = [0, 0]
    elif kind == "the row of another":
        rows[2] = [[1, -1], 1]
    elif kind == "minus the row of another":
        rows[2] = [[-1, 1], -1]
    exact = [[([Fraction(q) for q in w], Fraction(b)) for w, b in part] for part in (rows, behind)]
    return ("tanh", exact[0]), ("identity", exact[1])


def claimed_fewest(large, small, links=(), small_links=()):
    inputs = len(large[0][1][0][0])
    return texts.Proof(
        "identity", inputs, Fraction(0), Fraction(0), list(large), list(small), list(links), list(small_links), fewest=True
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        "no outgoing weights",
        "no incoming weights",
        "the row of another",
        "minus the row of another",
    ],
)
def test_a_network_that_is_reducible_has_not_the_fewest_units(kind, judge):
    net = reducible(kind)
    proof = claimed_fewest(net, net)
    code, printed = judge(texts.written(proof))
    assert code == REJECTED
    assert "is not seen to be irreducible" in printed
    proof.fewest = False
    code, printed = judge(texts.written(proof))
    assert code == PROVED
    assert "fewest units" not in printed
    honest = reducible("nothing")
    assert judge(texts.written(claimed_fewest(honest, honest)))[0] == PROVED


@pytest.mark.parametrize("wider", ["large", "small", "both"])
def test_the_units_that_are_counted_are_those_of_the_small_network(wider, judge):
    """What links leave is irreducible on both sides; a small network that links had to reduce is not."""
    wide = reducible("the row of another")
    (name, rows), (end, behind) = wide
    narrow = (name, rows[:2]), (end, [([w[0], w[1] + w[2]], b) for w, b in behind])
    link = texts.Link(0, narrow[0], narrow[1][1])
    large = (narrow if wider == "small" else wide), ([] if wider == "small" else [link])
    small = (narrow if wider == "large" else wide), ([] if wider == "large" else [link])
    proof = claimed_fewest(large[0], small[0], large[1], small[1])
    code, printed = judge(texts.written(proof))
    assert (code == PROVED) == (wider == "large"), printed
    proof.fewest = False
    assert judge(texts.written(proof))[0] == PROVED


@pytest.mark.parametrize("where", ["a box", "relu", "two hidden layers", "an activation behind"])
def test_fewest_units_are_not_claimed_elsewhere(where, judge):
    (name, rows), (end, behind) = reducible("nothing")
    net = [(name, rows), (end, behind)]
    if where == "relu":
        net[0] = ("relu", rows)
    elif where == "two hidden layers":
        net = [
            (name, rows),
            (name, behind),
            ("identity", [([Fraction(1), Fraction(2)], Fraction(0))]),
        ]
    proof = claimed_fewest(net, net)
    if where == "a box":
        proof.domain = [(Fraction(-1), Fraction(1))] * 2
    elif where == "an activation behind":
        proof.large = proof.small = [(name, rows), ("tanh", behind)]
    assert judge(texts.written(proof))[0] in (REJECTED, UNREADABLE)
    if where != "an activation behind":
        proof.fewest = False
        assert judge(texts.written(proof))[0] == PROVED


MINIMAL = {
    name: (net, moves)
    for name, (net, moves, claim, _) in test_attack.FORGERIES.items()
    if claim.get("minimal") and not {"region", "near", "changed", "apart"} & set(claim)
}


@pytest.mark.parametrize("name", sorted(MINIMAL))
def test_forged_claims_of_fewest_units_are_rejected(name, judge):
    net, moves = MINIMAL[name]
    forger = texts.Forger(net)
    links = [forger.link(move) for move in moves]
    proof = claimed_fewest(texts.exact(net), forger.net(), links)
    proof.constant = Fraction(1)
    code, _ = judge(texts.written(proof))
    assert code in (REJECTED, UNREADABLE)  # of thirds there is no network of floats


# Values of tanh -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@pytest.mark.parametrize("bias", [2.0**-60, 0.5, -3.0, 40.0, -200.5, 1e6])
def test_folded_constants_are_bounded_from_both_sides(activation, bias, judge):
    """The bias that a constant unit becomes: the nearest float is proved within what rounding does, and
    not within a tenth of that.
    """
    net = mo.Network.mlp([[1.0], [0.0]], [0.0, bias], [[1.0, 1.0]], [0.25], activation=activation)
    small = mo.compress(net)
    proof = texts.read(proof_text(small.certificate, small.network, net).text)
    code, printed = judge(texts.written(proof))
    assert code == PROVED, printed
    if proof.constant > 2.0**-100:
        proof.constant /= 2
        assert not texts.is_true(proof, [[Fraction(1, 3)]])
        assert judge(texts.written(proof))[0] == REJECTED


# Forgeries ------------------------------------------------------------------------------------------------------


CHAINS = {
    name: (net, moves)
    for name, (net, moves, claim, _) in test_attack.FORGERIES.items()
    if moves and not {"region", "near", "changed", "minimal"} & set(claim)
}
# Functions that are a constant apart: a slack may cover it.
A_CONSTANT_APART = {"skip of sigmoids", "skip of a constant"}
NO_MOVE = (LookupError, ValueError, AttributeError)  # names units that are not there


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_forged_moves_are_rejected(name, judge):
    """Each move of a forgery, done by code that checks nothing."""
    net, moves = CHAINS[name]
    forger = texts.Forger(net)
    try:
        links = [forger.link(move) for move in moves]
    except NO_MOVE:
        pytest.skip("the move names units that are not there, and has no effect to write down")
    large, small = texts.exact(net), forger.net()
    proof = texts.Proof("identity", net.widths[0], Fraction(0), Fraction(0), large, small, links)
    code, printed = judge(texts.written(proof))
    assert code == REJECTED, printed
    assert ("does not hold" in printed) == (name not in A_CONSTANT_APART), printed
    proof.constant = proof.growth = Fraction(10**9)
    code, printed = judge(texts.written(proof))
    assert (code == PROVED) == (name in A_CONSTANT_APART), printed


@pytest.mark.parametrize("case", PROVABLE, ids=lambda c: c.name)
def test_bent_proofs_are_rejected_or_true(case, judge):
    """One number, link or name is another: what is still proved holds at every point that is tried."""
    rng = np.random.default_rng(11)
    honest = texts.read(exported(case))
    assert judge(texts.written(honest))[0] == PROVED
    rejected = 0
    for _ in range(40):
        proof = texts.bent(honest, rng)
        code, printed = judge(texts.written(proof))
        rejected += code != PROVED
        if code == PROVED:
            assert texts.is_true(proof, texts.points(proof, rng)), printed
            if proof.fewest:
                assert len(proof.small[0][1]) == texts.rank(proof.large)
    assert rejected >= 20


def test_a_smaller_slack_than_the_proved_one_is_rejected(judge):
    net = mo.load("zoo:digits-tanh")
    small = mo.compress(net)
    proof = texts.read(proof_text(small.certificate, small.network, net).text)
    assert judge(texts.written(proof))[0] == PROVED
    proof.constant *= Fraction(1, 2)
    code, printed = judge(texts.written(proof))
    assert code == REJECTED
    assert "is claimed to be at most" in printed


def test_negative_bounds_are_rejected(judge):
    """Of networks without outputs nothing else would stop them."""
    row = ("identity", [([Fraction(1)], Fraction(0))])
    for constant, growth in ((-1, 1), (1, -1)):
        proof = texts.Proof("identity", 1, Fraction(constant), Fraction(growth), [row], [row])
        assert judge(texts.written(proof))[0] == REJECTED


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"moduli-proof 1", b"moduli-proof 2"),
        (b"end\n", b""),
        (b"end\n", b"end\nend\n"),
        (b"layer tanh", b"layer tan"),
        (b"layer tanh", b"layer leaky_relu(nan)"),
        (b"layer tanh", b"layer leaky_relu(0x1)"),
        (b"layer tanh", b"layer clip(1.0)"),
        (b"cuts whole", b"cuts half"),
        (b"cuts whole", b"cuts halves 0 0 1 whole"),
        (b"domain 0", b"domain 1 0 1 1 1"),
        (b"domain 0", b"domain 1 1 1 -1 1"),
        (b"output-map identity", b'output-map identity"'),
        (b"constant 0 1", b"constant 0 0"),
        (b"constant 0 1", b"constant 0 -1"),
        (b"constant 0 1", b"constant +0 1"),
        (b"constant 0 1", b"constant 0_0 1"),
        (b"fewest\n", b"fewest\nfewest\n"),
        (b"fewest\n", b"fewer\n"),
        (b"large 2", b"large 0x2"),
        (b"large 2", b"large -2"),
        (b"large 2", b"large 99999999999999999999"),
        (b"replace 0", b"insert 0"),
        (b"layer identity", b"layer tanh"),
    ],
)
def test_what_is_no_proof_is_not_read(old, new, judge):
    text = exported(PROVABLE[0])
    assert old in text
    code, printed = judge(text.replace(old, new, 1))
    assert code == UNREADABLE, printed


def test_parameters_that_are_no_floats_have_no_digest(judge):
    proof = texts.read(exported(PROVABLE[0]))
    weights, bias = proof.small[0][1][0]
    proof.small[0][1][0] = (weights, bias + Fraction(1, 3))
    code, printed = judge(texts.written(proof))
    assert code == UNREADABLE
    assert "is no double" in printed
