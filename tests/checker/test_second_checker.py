"""The second checker, `checker/moduli_check.py`: it agrees with the kernel on what the suite makes and forges, and its
own numbers with numbers of others.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import runpy
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import attack
import forgeries
import graph_fuzz
import graphs
import moduli_check as second
import mpmath
import numpy as np
import pytest
import test_attack
from onnx import numpy_helper, parser
from second_graphs import judged_graph

import moduli as mo
from moduli.formats.onnx import graph_files
from moduli.kernel.activations import Activation
from moduli.kernel.certificate import Certificate
from moduli.kernel.graph.certificate import GraphCertificate, GraphMove, played
from moduli.kernel.slack import Slack

ROOT = Path(__file__).parents[2]
FILE = ROOT / "checker" / "moduli_check.py"
ACTIVATIONS = (
    "identity", "relu", "abs", "leaky_relu(0.1)", "leaky_relu(-1.5)", "tanh", "sigmoid", "erf", "sin", "gelu",
    "gelu_tanh", "silu", "softplus", "hardswish", "mish", "elu(1.0)", "elu(-0.5)", "clip(0.0,6.0)", "clip(-1.0,1.0)",
)  # fmt: skip
# What docs/format.md says this checker does not understand, as it says it
BEYOND = "lower bounds within a radius"


def read(net: mo.Network) -> Any:
    """The network as the second checker has it."""
    layers = [
        (x.weight.tolist(), x.bias.tolist(), second.activation_of(str(x.activation)))
        for x in net.layers
    ]
    return second.network(layers, net.output_map, net.widths[0])


def judged(data: dict[str, Any], small: mo.Network, large: mo.Network) -> str:
    """What the second checker says, and why."""
    try:
        return str(second.check(json.loads(json.dumps(data)), read(small), read(large)))
    except (second.Rejected, second.NotUnderstood) as error:
        kind = "rejected" if isinstance(error, second.Rejected) else "undecided"
        return f"{kind}: {error}"


def by_kernel(data: dict[str, Any], small: mo.Network, large: mo.Network) -> str:
    try:
        Certificate.from_json(json.dumps(data)).verify(small, large)
    except mo.CertificateRejected as error:
        return f"rejected: {error}"
    return "accepted"


def require_agreement(data: dict[str, Any], small: mo.Network, large: mo.Network) -> str:
    """Both say the same, or the second that it does not understand; its own answer."""
    mine, kernel = judged(data, small, large), by_kernel(data, small, large)
    if not mine.startswith("undecided"):
        assert mine.split(":")[0] == kernel.split(":")[0], (mine, kernel)
    return mine


def test_both_accept_true_certificates_of_all_kinds():
    beyond = {}
    for case in forgeries.seeds():
        found = require_agreement(case.data, case.small, case.large)
        if not found.startswith("accepted"):
            beyond[case.name] = found
    assert {name: why for name, why in beyond.items() if BEYOND not in why} == {}
    assert list(beyond) == ["near"]


@pytest.mark.parametrize("name", test_attack.FORGERIES)
def test_both_refuse_a_forgery(name, monkeypatch):
    seen = list[Any]()
    monkeypatch.setattr(Certificate, "verify", lambda *claim: seen.append(claim))
    large, moves, claim, _ = test_attack.FORGERIES[name]
    try:
        test_attack.judged(large, *moves, **claim)
    except mo.CertificateRejected:  # no file holds it
        return
    monkeypatch.undo()
    ((proof, small, _),) = seen
    found = require_agreement(proof.to_json(), small, large)
    assert found.startswith("rejected") or BEYOND in found


def _mutants(seed: int, count: int) -> dict[str, int]:
    """How often both, or only the kernel, accept mutants of true certificates with the least slack that passes."""
    rng = np.random.default_rng(seed)
    pool = forgeries.seeds()
    counts = {"both": 0, "kernel alone": 0, "second alone": 0, "none": 0}
    for _ in range(count):
        case = attack.mutant(rng, pool[int(rng.integers(len(pool)))], pool)
        why, proof = attack.tried(case)
        if proof is not None:
            case.data = proof.to_json()
        found = judged(case.data, case.small, case.large)
        if found.startswith("accepted"):
            if proof is None:  # the kernel rounds: what it cannot prove may be true
                assert re.search(r"is not proved|only # is proved|claims? #|is claimed", why), (
                    why,
                    found,
                )
                proof = Certificate.from_json(json.dumps(case.data))
                counts["second alone"] += 1
            else:
                counts["both"] += 1
            forgeries.require(case, proof, rng)
        elif proof is None:
            counts["none"] += 1
        else:
            assert found.startswith("undecided"), (found, case.text)
            assert BEYOND in found or "beyond all floats" in found
            counts["kernel alone"] += 1
    return counts


def test_mutants_prove_no_falsehood():
    counts = _mutants(5, 150)
    assert counts["both"] >= 3
    assert counts["kernel alone"] <= counts["both"]


@pytest.mark.slow
def test_many_mutants_prove_no_falsehood():
    counts = _mutants(6, 3000)
    assert counts["both"] >= 50


@pytest.mark.parametrize(
    "activation", ["tanh", "sigmoid", "relu", "gelu", "abs", "leaky_relu(0.25)"]
)
@pytest.mark.parametrize("widths", [(3, 4, 2), (2, 3, 3, 1)])
def test_planted_networks(activation, widths):
    for seed in range(2):
        net = forgeries._planted(activation, widths, 50 + seed)
        small = mo.compress(net)
        found = require_agreement(small.certificate.to_json(), small.network, net)
        assert found.startswith("accepted")
        if small.certificate.minimal:
            assert "no fewer units" in found


@pytest.mark.parametrize("name", ["digits-tanh", "digits-tanh-grid", "digits-relu", "digits-plain"])
def test_zoo_networks(name):
    net = mo.load(f"zoo:{name}")
    small = mo.compress(net)
    assert read(net).digest == net.digest
    assert require_agreement(small.certificate.to_json(), small.network, net).startswith("accepted")


@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky_relu(0.1)", "clip(0.0,6.0)"])
def test_boxes(activation):
    rng = np.random.default_rng(7)
    shift = np.array([3.0, -3.0, 0.0, 0.1, 2.5])
    net = mo.Network.mlp(
        rng.normal(size=(5, 2)), shift, rng.normal(size=(4, 5)), rng.normal(size=4) - 2,
        rng.normal(size=(2, 4)), [0, 0], activation=activation,
    )  # fmt: skip
    small = mo.compress(net, on=mo.Box(-0.5, 0.5), budget=300)
    assert small.certificate.region is not None or activation in ("tanh", "clip(0.0,6.0)")
    found = require_agreement(small.certificate.to_json(), small.network, net)
    assert found.startswith("accepted"), found


def test_ranges_with_one_end_carry_signs_on_all_inputs():
    """tanh of |x| + 3 is more than 0.99, so the unit behind it is positive for every input."""
    net = mo.Network.mlp(
        [[1.0]], [0.0], [[1.0], [-1.0]], [3.0, -2.0], [[1.0, 0.5]], [-0.25], [[2.0]], [1.0],
        activation=["abs", "tanh", "relu"],
    )  # fmt: skip
    small = mo.compress(net)
    assert [m.kind for m in small.certificate.large_moves] == ["skip"]
    found = require_agreement(small.certificate.to_json(), small.network, net)
    assert found.startswith("accepted"), found


# Numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_are_between_ends_that_meet(name):
    """Against mpmath in 120 digits."""
    s, mine = Activation.of(name), second.activation_of(name)
    draw = random.Random(3)
    points = [
        Fraction(draw.randrange(-(2**20), 2**20), draw.randrange(1, 2**18)) for _ in range(20)
    ]
    points += [
        Fraction(0),
        Fraction(1, 10**12),
        Fraction(-1, 3),
        Fraction(310),
        Fraction(-310),
        Fraction(10**30),
    ]
    with mpmath.workdps(120):
        for q in points:
            low, high = second.value_at(mine, q)
            true = _value(s, q)
            assert mpmath.mpf(low.numerator) / low.denominator <= true + mpmath.mpf(10) ** -80 * (
                1 + abs(true)
            )
            assert (
                true - mpmath.mpf(10) ** -80 * (1 + abs(true))
                <= mpmath.mpf(high.numerator) / high.denominator
            )
            assert 0 <= high - low <= Fraction(1 + abs(q)) / 2**150


def _value(s: Any, q: Fraction) -> Any:
    x = mpmath.mpf(q.numerator) / q.denominator
    if s.kind == "clip":
        return min(max(x, s.parameters[0]), s.parameters[1])
    if s.kind == "hardswish":
        return x * min(max(x / 6 + mpmath.mpf(1) / 2, 0), 1)
    if s.kind == "mish":
        return x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))) if x < 300 else x
    return forgeries.real(forgeries.applied(s, q))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_facts_of_activations_are_those_of_the_kernel(name):
    s, mine = Activation.of(name), second.facts(second.activation_of(name))
    assert (mine.law, mine.lipschitz, mine.least, mine.most) == (
        s.reflection,
        s.lipschitz,
        s.least,
        s.most,
    )
    assert (mine.slopes is not None, mine.bends) == (s.piecewise_linear, s.bends)
    for ratio in (Fraction(1), Fraction(-1), Fraction(2), Fraction(-3, 2)):
        assert second.law(second.activation_of(name), ratio) == s.under(ratio)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_lines_hold_on_their_interval(name):
    s, draw = second.activation_of(name), random.Random(4)
    for _ in range(12):
        lo, hi = sorted(draw.choice([-3.0, 0.0, 0.5, 4.0]) + draw.gauss(0, 2) for _ in range(2))
        lines = second.lines_of(s, lo, hi)
        for k in range(9):
            z = Fraction(lo) + (Fraction(hi) - Fraction(lo)) * k / 8
            low, high = second.value_at(s, z)
            for line in (lines.below, second.Line(0.0, lines.least)):
                assert Fraction(line.slope) * z + Fraction(line.offset) <= high
            for line in (lines.above, second.Line(0.0, lines.most)):
                assert Fraction(line.slope) * z + Fraction(line.offset) >= low


def test_bounds_hold_at_points():
    rng = np.random.default_rng(8)
    for activation in ("relu", "tanh", "gelu", "clip(-1.0,1.0)"):
        arrays = [rng.normal(size=shape) for shape in ((4, 2), (4,), (4, 4), (4,), (2, 4), (2,))]
        arrays[0][1], arrays[1][1] = -arrays[0][0], -arrays[1][0]  # one unit turned
        net = mo.Network.mlp(*arrays, activation=activation)
        found = second.Bounds(read(net).layers, [-1.0, 0.0], [1.0, 0.5]).ranges
        h = rng.uniform([-1, 0], [1, 0.5], (500, 2))
        for layer, ranges in zip(net.layers, found, strict=True):
            z = h @ layer.weight.T + layer.bias
            low, high = np.array(ranges).T
            assert (low - 1e-12 <= z).all()
            assert (z <= high + 1e-12).all()
            h = layer.activation(z)


# Graphs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network_file(tmp_path_factory):
    """Convolutions with a constant channel, an idle one, and two that are twice another one."""
    rng, folder = np.random.default_rng(11), tmp_path_factory.mktemp("graphs")
    first, bias = (
        rng.integers(-2, 3, (6, 3, 3, 3)).astype(float),
        rng.integers(-2, 3, 6).astype(float),
    )
    first[1], bias[1] = 0, 2
    first[3], bias[3] = 2 * first[2], 2 * bias[2]
    first[4], bias[4] = 0, -1
    stored = {
        "w1": first, "b1": bias, "w2": rng.integers(-2, 3, (4, 6, 3, 3)), "b2": rng.integers(-2, 3, 4),
        "w3": rng.integers(-2, 3, (5, 16)), "b3": rng.integers(-2, 3, 5),
    }  # fmt: skip
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[n,3,8,8] x) => (float[n,5] y) {
        c = Conv(x, w1, b1) r = Relu(c) d = Conv(r, w2, b2) s = Relu(d)
        p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(s) f = Flatten(p) y = Gemm<transB = 1>(f, w3, b3) }"""
    )
    for name, array in stored.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    (folder / "large.onnx").write_bytes(model.SerializeToString())
    return folder / "large.onnx"


@pytest.mark.parametrize("on", [None, mo.Box(0, 1)])
def test_a_convolutional_network_from_files(network_file, on):
    large = mo.load(network_file)
    assert second.onnx_graph(second.load(str(network_file))).digest == large.model.digest
    small = mo.compress(large, on=on)
    folder = network_file.parent
    mo.save(small.network, folder / "small.onnx")
    small.save(folder / "graph.json")
    files = [folder / name for name in ("graph.json", "small.onnx", "large.onnx")]
    assert small.network.model.shapes["c"][1] == 3
    code, said = run(*files)
    assert (code, said.split(":")[0]) == (0, "accepted"), said
    assert ("for all inputs" in said) == (on is None)
    assert ("between the bounds" in said) == (on is not None)
    data = json.loads(files[0].read_text())
    if on is not None:
        bound = {"move": "bound", "tensor": "c", "axis": 1, "units": [0], "depth": 2}
        asked = {**data, "rounds": [[bound, *data["rounds"][0]], *data["rounds"][1:]]}
        mo.check(GraphCertificate.from_json(json.dumps(asked)), files[1], files[2])
        (folder / "bound.json").write_text(json.dumps(asked))
        code, said = run(folder / "bound.json", *files[1:])
        assert (code, "bounds of units by affine functions" in said) == (3, True), said
    data["rounds"][0][0]["units"][0] = 0
    files[0].write_text(json.dumps(data))
    assert run(*files)[0] == 1


def _random_graphs(seeds: Iterable[int]) -> dict[str, int]:
    """What the second checker says of true certificates of random graphs from which units go; it refuses none."""
    counts = {"accepted": 0, "undecided": 0}
    for seed in seeds:
        case = graph_fuzz.make(seed)
        if case is None:
            continue
        graph = graph_files.read_graph(
            case.model.SerializeToString(), None, "g", graph_fuzz.no_chain
        )
        small = mo.compress(graph)
        if small.certificate.rounds:
            said = judged_graph(small.certificate, small.network.model, graph.model)
            counts[said.split(":")[0]] += 1
    return counts


def test_graphs_at_random():
    # of these all operators are understood, of the others not
    counts = _random_graphs([37, 55, 71, 98, 1, 2, 3, 5])
    assert counts["accepted"] >= 4


@pytest.mark.slow
def test_more_graphs_at_random():
    counts = _random_graphs(range(250))
    assert counts["accepted"] >= 10
    assert counts["undecided"] >= counts["accepted"]


def test_forged_graphs():
    """Units that may not go, one at a time: both refuse, or the second does not understand."""
    counts = {"accepted": 0, "undecided": 0, "rejected": 0}
    rng = np.random.default_rng(12)
    for seed in range(40):
        b = graphs.Builder(2, 3)
        rows = rng.integers(-1, 2, (4, 3)).astype(float)
        h = b.each(
            str(rng.choice(["relu", "tanh", "abs", "sigmoid"])),
            b.dense("x", "a", rows, rng.integers(-1, 2, 4)),
        )
        y = b.dense(h, "b", rng.integers(-1, 2, (2, 4)), [0, 1] if seed % 2 else None)
        large = b.model(y)
        unit, into = (int(i) for i in rng.choice(4, 2, replace=False))
        move = GraphMove("remove", "a.w", 0, (unit,), (into if seed % 3 else -1,))
        try:
            small, _ = played(large, [move], {})
            kernel = "accepted"
        except mo.CertificateRejected:
            small, kernel = large, "rejected"
        proof = GraphCertificate(large.digest, small.digest, ((move,),), {})
        said = judged_graph(proof, small, large)
        counts[said.split(":")[0]] += 1
        assert said.split(":")[0] in (kernel, "undecided"), (seed, said, kernel)
    assert counts["accepted"] >= 1
    assert counts["rejected"] >= 15


# Files and the command line -------------------------------------------------------------------------------------


def run(*words: Any) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", str(FILE), *map(str, words)], capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A network, its reduction and the certificate, in files."""
    folder = tmp_path_factory.mktemp("files")
    net = forgeries._planted("tanh", (2, 3, 1), 60)
    small = mo.compress(net)
    mo.save(net, folder / "large.npz")
    for suffix in ("npz", "safetensors", "onnx"):
        mo.save(small.network, folder / f"small.{suffix}")
    small.save(folder / "cert.json")
    return folder


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "onnx"])
def test_files_are_read(written, suffix):
    code, said = run(written / "cert.json", written / f"small.{suffix}", written / "large.npz")
    assert code == 0, said
    assert said.startswith("accepted")


@pytest.mark.parametrize("name", ACTIVATIONS[1:])  # layers with nothing in between are one
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_activation_is_read_from_onnx(name, dtype, tmp_path):
    if name.startswith("elu") and dtype == "float64":
        pytest.skip("written with casts")
    net = mo.Network.mlp([[1, 2], [3, 4]], [0, 0.5], [[1, 0], [2, 1]], [1, 2], activation=name)
    net = replace(net, output_map="softmax")
    mo.save(net, tmp_path / "net.onnx", dtype=dtype)
    assert (
        second.onnx_chain(second.load(str(tmp_path / "net.onnx"))).digest
        == mo.load(tmp_path / "net.onnx").digest
    )


def test_exit_codes(written, tmp_path):
    files = written / "cert.json", written / "small.npz", written / "large.npz"
    assert run(*files, "--on", "all", "--max-slack", "1e-6")[0] == 0
    assert run(*files, "--minimal")[0] == 0
    assert run(files[0], files[2], files[1])[0] == 1  # swapped
    assert run(*files, "--on", "box:2,1")[0] == 2
    assert run(*files[:2])[0] == 2
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4")
    assert run(*files[:2], tmp_path / "broken.npz")[0] == 4
    assert run(*files[:2], tmp_path / "nothing.npz")[0] == 4
    data = json.loads(files[0].read_text())
    data["near"] = {"radius": 0.0, "changes": [], "bound": {"lower": 0, "parts": []}}
    (tmp_path / "near.json").write_text(json.dumps(data))
    assert run(tmp_path / "near.json", *files[1:])[0] == 3
    data = json.loads(files[0].read_text())
    data["large_moves"].insert(0, {"move": "drop", "layer": 1, "units": [0]})
    (tmp_path / "wrong.json").write_text(json.dumps(data))
    code, said = run(tmp_path / "wrong.json", *files[1:])
    assert code == 1
    assert "drop of 0" in said


def chain_of(path):
    """As the second checker reads it."""
    found = second.load(str(path))
    return found if isinstance(found, second.Network) else second.onnx_chain(found)


@pytest.mark.parametrize("name", ["cert.json", "small.npz", "small.safetensors", "small.onnx"])
def test_damaged_files_end_in_a_refusal(written, tmp_path, name):
    """Bytes changed, cut and repeated: whatever is accepted is the claim that was made."""
    draw, whole = random.Random(9), (written / name).read_bytes()
    place, counts = tmp_path / name, {0: 0, 1: 0, 3: 0, 4: 0}
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 1, 3])):
            at = draw.randrange(len(data))
            if draw.random() < 0.2:
                data = data[:at] + data[draw.randrange(at + 1) :]
            else:
                data[at] = draw.randrange(256)
            if not data:
                data = bytearray(b"0")
        place.write_bytes(bytes(data))
        small = written / "small.npz" if name == "cert.json" else place
        proof = place if name == "cert.json" else written / "cert.json"
        code = second.main([str(proof), str(small), str(written / "large.npz")])
        counts[code] += 1
        if code == 0 and name == "cert.json":
            assert json.loads(place.read_bytes()) == json.loads(whole)
        elif code == 0:
            assert chain_of(place) == chain_of(written / name)
    assert counts[1] + counts[4] >= 30


def test_packed_files_that_are_damaged_cannot_be_read(written, tmp_path):
    draw, whole = random.Random(3), gzip.compress((written / "cert.json").read_bytes(), mtime=0)
    files = [str(written / "small.npz"), str(written / "large.npz")]
    place = tmp_path / "cert.json.gz"
    for _ in range(60):
        data = bytearray(whole)
        data[draw.randrange(10, len(data))] ^= 1 << draw.randrange(8)
        place.write_bytes(bytes(data))
        assert second.main([str(place), *files]) in (1, 4)


SLOPES = """<ir_version: 8, opset_import: ["": 17]> g (float[1,2] x) => (float[1,1] y)
<float[2,1] w = {1.0, 1.0}, float[1] b = {0.0}, float[1] c = {-0.5}, float[1,1] v = {1.0}, float low = {-1.0},
float high = {1.0}, float[1] d = {0.0}> {
a = Gemm(x, w, b)
h = ACT
y = Gemm(h, v, d) }"""


@pytest.mark.parametrize(
    ("good", "turned"),
    [
        ("PRelu(a, c)", "PRelu(c, a)"),
        ("Clip(a, low, high)", "Clip(low, a, high)"),
        ("Clip(a, low, high)", "Clip(low, high, a)"),
    ],
)
def test_operands_in_another_order_are_another_function(good, turned):
    def read(step):
        model = parser.parse_model(SLOPES.replace("ACT", step))
        return second.onnx_chain(second.read_model(model.SerializeToString()))

    assert read(good).widths == [2, 1, 1]
    with pytest.raises(second.Unreadable, match="in another place than the first"):
        read(turned)


def test_a_stored_tensor_stands_for_no_input_that_is_left_out():
    model = parser.parse_model(SLOPES.replace("ACT", "Clip(a, low, high)"))
    model.graph.initializer[4].name = model.graph.node[1].input[1] = ""
    with pytest.raises(second.Unreadable, match="without a name"):
        second.read_model(model.SerializeToString())


def test_fewest_units_are_about_the_large_network():
    """The small one may need fewer: its function is another one, up to the slack."""
    outer = [[1.0, 1.0]], [0.0]
    large = mo.Network.mlp([[1.0], [1.0 + 2**-30]], [0, 0], *outer, activation="tanh")
    small = mo.Network.mlp([[1.0], [1.0]], [0, 0], *outer, activation="tanh")
    claim = Certificate(large.digest, small.digest, (), (), Slack(4.0, 0.0), True)
    claim.verify(small, large)
    files = [second.network([(x.weight.tolist(), x.bias.tolist(), second.activation_of(str(x.activation)))
                             for x in net.layers], "identity", 1) for net in (small, large)]  # fmt: skip
    said = str(second.check(json.loads(json.dumps(claim.to_json())), *files))
    assert said.endswith("no fewer units have the function of the large network")
    assert mo.compress(small).network.units == 1


@pytest.mark.parametrize("box", ["box:1,0;0,1", "box:0,0,0;1,1,1", "box:1;0"])
def test_boxes_that_are_none_are_wrong_usage(written, box):
    files = [str(written / name) for name in ("cert.json", "small.npz", "large.npz")]
    with pytest.raises(SystemExit) as ended:
        second.main([*files, "--on", box])
    assert ended.value.code == 2


def test_it_needs_nothing_but_python():
    """It runs isolated, without the site packages, and imports modules of the standard library only."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(FILE), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = re.findall(r"^\s*(?:import|from) (\w+)", FILE.read_text(), re.MULTILINE)
    assert set(names) <= set(sys.stdlib_module_names)
    assert "moduli" not in names
    assert callable(runpy.run_path(str(FILE))["main"])
