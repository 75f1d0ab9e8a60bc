"""Risk from mistakes on samples: codes, margins, what holds in how many draws."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from click.testing import CliRunner

import moduli as mo
from moduli.capacity.risk import by_code, by_cover, coded_bits, kl_end, margins, network_bits
from moduli.interface.cli import cli


def digits():
    from pathlib import Path

    data = np.load(Path(mo.__file__).parent / "zoo" / "data" / "digits.npz")
    return data["x_train"].reshape(-1, 64) / 16.0, data["y_train"].astype(int)


@pytest.mark.parametrize("count", [1, 5, 30])
@pytest.mark.parametrize("delta", [0.3, 0.01])
def test_the_end_holds_for_binomial_draws(count, delta):
    """For every risk: the probability that the end is below it, exactly, is at most delta."""
    ends = [kl_end(k / count, math.log(1 / delta) / count) for k in range(count + 1)]
    assert ends == sorted(ends)
    assert ends[-1] == 1
    for step in range(1, 60):
        p = Fraction(step, 60)
        missed = sum(
            math.comb(count, k) * p**k * (1 - p) ** (count - k)
            for k in range(count + 1)
            if ends[k] < p
        )
        assert missed <= delta


def test_lengths_of_codes_are_those_of_a_code():
    """Kraft's inequality over all arrays of three numbers from -3/2 to 3/2, and more that have others."""
    values = [k / 2 for k in range(-3, 4)]
    total = sum(
        2.0 ** -coded_bits([np.array(numbers, dtype=np.float64)])
        for numbers in itertools.product(values, repeat=3)
    )
    assert 0.05 < total <= 1
    wide = [k * 2.0**e for k in (-3, -1, 0, 1, 3) for e in range(-6, 7)]
    total = sum(
        2.0 ** -coded_bits([np.array(pair)]) for pair in itertools.product(set(wide), repeat=2)
    )
    assert 0.05 < total <= 1


def test_lengths_by_hand_and_what_keeps_them():
    rng = np.random.default_rng(0)
    numbers = rng.integers(-3, 4, 50) / 8
    counts = Counter(np.abs(numbers * 8).astype(int).tolist())
    ways = math.factorial(50)
    for n in counts.values():
        ways //= math.factorial(n)
    lists = math.comb(50 + 3, 3)
    # stored or not; exponent -3 as 7, three bits twice and one; T = 3
    named = 1 + 7 + 5
    signs = int((numbers != 0).sum())
    wanted = named + math.log2(lists) + math.log2(ways) + signs
    assert coded_bits([numbers]) == pytest.approx(wanted, abs=0.01)
    other = rng.permutation(numbers) * rng.choice([-1, 1], 50)
    assert coded_bits([other]) == coded_bits([numbers])
    # what is no few numbers costs no more than as it is stored, and one bit
    for array in (rng.normal(size=20), np.array([np.inf, 1.0]), np.array([2**60 + 1]), np.zeros(0)):
        assert coded_bits([array]) <= 8 * array.nbytes + 1 or not array.size
    for power in (-1074, -1000, 0, 900):
        assert coded_bits([np.array([2.0**power, 3 * 2.0**power])]) < 80


def test_symmetric_copies_have_codes_of_one_length():
    net = mo.load("zoo:digits-plain")
    net = net.with_flat(np.round(net.flat() * 4) / 4)
    draw = np.random.default_rng(0)
    order, sign = draw.permutation(32), draw.choice([-1.0, 1.0], 32)
    first, last = net.layers
    copy = mo.Network((
        mo.Layer(sign[:, None] * first.weight[order], sign * first.bias[order], first.activation),
        mo.Layer(last.weight[:, order] * sign, last.bias, last.activation),
    ))  # fmt: skip
    x = draw.uniform(0, 1, (5, 64))
    assert np.allclose(copy(x), net(x))
    assert network_bits(copy) == network_bits(net)


def test_margins():
    outputs = np.array([[1.0, 3.0, 0.0], [2.0, 2.0, 0.0], [5.0, -1.0, 7.0]])
    assert margins(outputs, [1, 0, 0]).tolist() == [2.0, 0.0, -2.0]
    with pytest.raises(mo.ShapeError, match="for 3 samples"):
        margins(outputs, [1, 2])
    with pytest.raises(mo.ShapeError, match="classes from 0 to 3"):
        margins(outputs, [0, 1, 3])
    with pytest.raises(mo.ArgumentError, match="whole numbers"):
        margins(outputs, [0.5, 1, 2])
    with pytest.raises(mo.ShapeError, match="for 1 outputs"):
        margins(outputs[:, :1], [0, 0, 0])


def test_a_margin_loss_moves_no_more_than_its_constant():
    """Outputs that move by e move the margin loss at g by 2 e / g at most, and it is above the wrong share."""
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(400, 4)), rng.integers(0, 4, 400)
    seen = []
    for e in (0.0, 0.1, 1.0):
        moved = outputs + rng.uniform(-e, e, outputs.shape)
        found = by_cover("", margins(moved, labels), lambda n, d, lip: 0.0 * lip, 0.05, 4, "")
        assert found.seen >= (margins(moved, labels) <= 0).mean()
        seen.append(found)
    for g in (0.25, 1.0, 4.0):
        for e in (0.1, 1.0):
            near = outputs + rng.uniform(-e, e, outputs.shape)
            losses = [np.clip(1 - margins(z, labels) / g, 0, 1) for z in (outputs, near)]
            assert np.abs(losses[0] - losses[1]).max() <= 2 * e / g * (1 + 1e-12)


def test_a_union_over_margins_is_paid_for():
    """The gap is asked for parts of delta that sum to at most delta, and for constants 2 / g."""
    asked = []

    def gap(n, delta, lipschitz):
        asked.append((delta, lipschitz))
        return lipschitz / 8

    at = np.array([0.5] * 90 + [-1.0] * 10)
    found = by_cover("", at, gap, 0.05, 3, "")
    shares = dict((lipschitz, delta) for delta, lipschitz in asked)
    assert sum(shares.values()) <= 0.05
    assert found.bound == pytest.approx(min(
        float(np.clip(1 - at * lip / 2, 0, 1).mean()) + lip / 8 for lip in shares
    ))  # fmt: skip
    assert found.margin in {2 / lip for lip in shares}


@pytest.mark.parametrize("wrong", [0, 30, 45])
def test_as_many_samples_are_needed_as_are_said(wrong):
    at = np.where(np.arange(100) < wrong, -1.0, 1.0)
    found = by_code("", at, 500, 0.05, 10, "")
    nats = 500 * math.log(2) + math.log(20)
    assert kl_end(wrong / 100, nats / found.needed) <= 0.5 + 1e-9
    assert kl_end(wrong / 100, nats / (found.needed - 1)) > 0.5
    assert by_code("", at * 0, 500, 0.05, 10, "").needed is None


def test_rows_of_a_trained_network():
    x, y = digits()
    net = mo.load("zoo:digits-plain")
    found = mo.complexity(net, samples=mo.Samples(x), targets=y)
    risks = {risk.name: risk for risk in found.risks}
    assert list(risks) == [
        "best cover, union over margins",
        "Occam, as stored",
        "Occam, coded",
        "fresh samples",
    ]
    wrong = float((net(x).argmax(1) != y).mean())
    assert risks["Occam, coded"].seen == risks["fresh samples"].seen == wrong
    assert risks["best cover, union over margins"].bound > 1
    assert risks["best cover, union over margins"].vacuous
    assert risks["Occam, as stored"].vacuous
    # floats of all sizes are no few values: what names them costs a few bits
    assert risks["Occam, coded"].needed <= risks["Occam, as stored"].needed + 100
    coarse = mo.complexity(
        net.with_flat(np.round(net.flat() * 4) / 4), samples=mo.Samples(x), targets=y
    )
    assert coarse.risks[2].needed < risks["Occam, as stored"].needed / 5
    assert wrong < risks["fresh samples"].bound < 0.05
    assert [row["name"] for row in found.to_json()["risks"]] == list(risks)
    rows = dict(found.facts())
    assert "only if no sample had a part in training" in rows["risk, fresh samples"]
    assert not mo.complexity(net, samples=mo.Samples(x)).risks


@pytest.mark.slow  # the network is fitted to samples
def test_a_compressed_network_says_more_than_guessing():
    """Eight units that compute nearly what 32 did, rounded: a code of few bits, and all digits that trained it."""
    x, y = digits()
    small = mo.compress("zoo:digits-plain", on=mo.Samples(x), units=8).network
    grids = (1 / 4, 1.0)
    parts = [
        mo.Layer(np.round(layer.weight / g) * g, np.round(layer.bias / g) * g, layer.activation)
        for layer, g in zip(small.layers, grids, strict=True)
    ]
    found = mo.complexity(mo.Network(tuple(parts)), samples=mo.Samples(x), targets=y)
    coded = next(risk for risk in found.risks if risk.name == "Occam, coded")
    assert coded.seen < coded.bound < coded.guess == 0.9
    assert not coded.vacuous
    assert coded.needed is not None
    assert coded.needed > len(x)


def test_rows_of_a_graph(tmp_path):
    """The same network as a graph: the same mistakes; nothing is free."""
    from moduli.formats import load_as_written

    x, y = digits()
    net = mo.load("zoo:digits-relu")
    graph = load_as_written(mo.save(net, tmp_path / "a.onnx"))
    found = mo.complexity(graph, samples=mo.Samples(x), targets=y)
    chain = mo.complexity(net, samples=mo.Samples(x), targets=y)
    for ours, theirs in zip(found.risks, chain.risks, strict=True):
        assert ours.name == theirs.name
        if ours.margin is None:
            assert ours.seen == theirs.seen
    assert found.check()
    assert found.to_json()["risks"]


def test_mistakes(tmp_path, monkeypatch):
    x, y = digits()
    with pytest.raises(mo.ArgumentError, match="classes of samples"):
        mo.complexity("zoo:digits-plain", samples=100, targets=y)
    with pytest.raises(mo.ArgumentError, match="classes of samples"):
        mo.complexity([64, 10, 10], samples=mo.Samples(x), targets=y)
    with pytest.raises(mo.ShapeError, match="targets of shape"):
        mo.complexity("zoo:digits-plain", samples=mo.Samples(x), targets=y[:-1])
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", x)
    np.save("y.npy", y)
    words = ["complexity", "zoo:digits-plain", "--samples", "x.npy", "--targets"]
    done = CliRunner().invoke(cli, [*words, "y.npy", "--json"])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.output)["risks"]) == 4
    done = CliRunner().invoke(cli, [*words, "y.txt"])
    assert done.exit_code != 0


def test_numbers_of_sixteen_bits_count(tmp_path):
    """bfloat16 is no float of NumPy, and its numbers are trained all the same."""
    import onnx
    from onnx import TensorProto, helper

    from moduli.formats import load_as_written

    rng = np.random.default_rng(0)
    kind = TensorProto.BFLOAT16
    stored = [
        helper.make_tensor(name, kind, shape, rng.normal(size=shape).ravel())
        for name, shape in (("w", (4, 6)), ("v", (6, 3)))
    ]
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=kind),
        helper.make_node("MatMul", ["h", "w"], ["u"]),
        helper.make_node("Relu", ["u"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["o"]),
        helper.make_node("Cast", ["o"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", d])
        for n, d in (("x", 4), ("y", 3))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x, y = rng.uniform(-1, 1, (40, 4)), rng.integers(0, 3, 40)
    onnx.save(model, tmp_path / "a.onnx")
    graph = load_as_written(tmp_path / "a.onnx")
    found = mo.complexity(graph, samples=mo.Samples(x), targets=y)
    assert found.cls.parameters == 42
    by_name = {risk.name: risk for risk in found.risks}
    assert by_name["Occam, as stored"].note.startswith(f"{16 * 42 + 1} bits")
    assert by_name["Occam, as stored"].bound > 0.99
