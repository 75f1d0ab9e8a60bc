"""How far graphs are apart: bounds that hold, inputs where they are attained, proofs that repeat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import moduli as mo
from moduli.kernel.graph.differences import apart
from moduli.kernel.slack import NO_SLACK, Slack

BOX = mo.Box(-1, 1)


def small(move=0.0, *, seed=0, last="Relu", width=3, names="abc"):
    """A convolution, a function, and a mean over positions into two outputs."""
    rng = np.random.default_rng(seed)
    weights = {
        names[0]: np.round(rng.normal(size=(width, 1, 3, 3)) * 8) / 8,
        names[1]: np.round(rng.normal(size=width) * 8) / 8,
        names[2]: np.round(rng.normal(size=(2, width)) * 8).T / 8,
    }
    weights[names[0]][0, 0, 0, 0] += move
    nodes = [
        helper.make_node("Conv", ["x", *names[:2]], ["h"], pads=[1] * 4),
        helper.make_node(last, ["h"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", names[2]], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def seen(a, b, reach=1.0):
    x = reach * np.random.default_rng(7).uniform(-1, 1, (200, 1, 5, 5))
    return float(np.abs(mo.load(a)(x) - mo.load(b)(x)).max())


@pytest.mark.parametrize("last", ["Relu", "Tanh", "Sigmoid"])
@pytest.mark.parametrize("move", [2.0**-6, 0.5, 4.0])
def test_bounds_hold_and_are_not_far(last, move):
    a, b = small(last=last), small(move, last=last)
    for on, reach in ((BOX, 1.0), (None, 1.0), (None, 5.0)):
        found = mo.distance(a, b, on=on)
        assert found.status == "bounded"
        assert found.check()
        apart_there = seen(a, b, reach)
        assert found.lower <= found.upper
        assert apart_there <= found.bound.within(reach)
        if on is not None:
            assert found.bound.growth == 0
            assert apart_there >= found.upper / 50


def test_names_do_not_matter_and_wiring_does():
    a, b = small(), small(0.25, names="uvw")
    assert mo.distance(a, b, on=BOX).bound == mo.distance(a, small(0.25), on=BOX).bound
    other = mo.distance(a, small(width=4), on=BOX)
    assert other.status == "bounded"  # by what each can give
    assert seen(a, small(width=4)) <= other.upper
    assert mo.distance(a, small(width=4)).status == "undecided"


def test_one_function_is_at_no_distance():
    a = small()
    assert mo.distance(a, a).status == "proved"
    doubled = small()
    tensors = {t.name: t for t in doubled.graph.initializer}
    for name, factor in (("a", 2), ("b", 2), ("c", 0.5)):
        array = numpy_helper.to_array(tensors[name])
        tensors[name].CopyFrom(numpy_helper.from_array(factor * array, name))
    scaled = mo.distance(a, doubled, on=BOX)
    assert (scaled.status, scaled.upper) == ("proved", 0)
    assert scaled.check()
    dead = small()
    wide = {t.name: t for t in dead.graph.initializer}
    w = numpy_helper.to_array(wide["c"]).copy()
    w[1] = 0
    wide["c"].CopyFrom(numpy_helper.from_array(w, "c"))
    fewer = mo.compress(dead).network
    same = mo.distance(dead, fewer)
    assert (same.lower, same.upper, same.status) == (0, 0, "proved")
    assert same.check()


def test_a_lower_end_is_attained():
    shifted = small()
    bias = {t.name: t for t in shifted.graph.initializer}["b"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 8, "b"))
    found = mo.distance(small(), shifted, on=BOX)
    assert 0 < found.lower <= found.upper
    (x,) = found.argmax.values()
    gap = np.abs(mo.load(small())(x) - mo.load(shifted)(x)).max()
    assert gap >= found.lower - 1e-12


def test_near_enough_is_proved_within_eps_on_a_box():
    a, b = small(), small(2.0**-6)
    upper = mo.distance(a, b, on=BOX).upper
    near = mo.equivalent(a, b, on=BOX, eps=upper)
    assert near.status == "proved"
    assert near.check()
    assert "by bounds of the difference" in near.statement
    assert mo.equivalent(a, b, on=BOX, eps=upper / 100).status != "proved"
    assert mo.equivalent(a, b, on=BOX).status != "proved"


def test_a_distance_that_is_claimed_too_small_is_rejected():
    found = mo.distance(small(), small(0.5), on=BOX)
    with pytest.raises(mo.CertificateRejected, match="only, not by"):
        replace(found, bound=Slack(found.upper / 2, 0.0)).check()


def test_graphs_that_do_not_fit():
    a = small()
    other = small()
    other.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 6
    with pytest.raises(mo.ShapeError):
        mo.distance(a, other)
    with pytest.raises(mo.CertificateRejected, match="one shape"):
        apart(mo.load(a).model, mo.load(other).model, {})
    assert apart(mo.load(a).model, mo.load(a).model, {}) == NO_SLACK


def test_a_graph_and_what_was_left_of_it_are_as_near_as_the_certificate_says():
    before = small(seed=3)
    tensors = {t.name: t for t in before.graph.initializer}
    for name in ("a", "b"):
        array = numpy_helper.to_array(tensors[name]).copy()
        array[2] = array[0]
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))
    rough = np.array([[1, 2], [3, 4], [2.0**-20, 2.0**-25]]).astype(np.float32) / 3
    tensors["c"].CopyFrom(numpy_helper.from_array(rough, "c"))
    less = mo.compress(before, on=BOX)
    assert less.slack > 0
    found = mo.distance(before, less.network, on=BOX)
    assert found.upper == less.slack
    assert found.check()
    for forged in (
        replace(found, bound=Slack(0.0, 0.0)), replace(found, a=mo.load(small())),
        replace(found, on=mo.Box(-2, 2)), replace(found, on=None),
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            forged.check()
    with pytest.raises(mo.CertificateRejected, match="not about on=None"):
        replace(less, on=None).check()
