"""The ONNX reader never reads another function: graphs in ONNX's text form, against onnxruntime, at
several batch sizes.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from moduli.formats import load_chain as load
from moduli.formats.onnx import nodes
from moduli.formats.onnx.constants import evaluate
from moduli.formats.onnx.nodes import OPS
from moduli.formats.onnx.reference import mended
from moduli.kernel.activations import Activation
from moduli.kernel.errors import UnsupportedModel

WEIGHTS = "float[3,4] w = {1, -2, 3, 0.5, 2, 1, -1, 0.25, -0.5, 1, 2, -3}, float[4,2] v = {1, 2, -1, 0.5, 3, -2, 0.25, 1}"


def graph(body, *, batch="b", sample=(3,), output="y", opset=17, stored=WEIGHTS, kind="float"):
    """A model of one input x [batch, *sample]; the body is ONNX's text form, line by line."""
    shape = ",".join(map(str, (*([] if batch is None else [batch]), *sample)))
    imports = f'"" : {opset}, "ai.onnx.ml" : 3'
    text = f"<ir_version: 8, opset_import: [{imports}]> g ({kind}[{shape}] x) => ({kind} {output}) <{stored}> {{ {body} }}"
    model = parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def agrees(model, *, batches=(1, 3), sample=(3,), output=None):
    """The network, after onnxruntime agreed with it at every batch size."""
    net = load(model, output=output)
    assert any(note.startswith("agrees with onnx.reference") for note in net.notes)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    for batch in batches:
        x = rng.normal(size=(batch, *sample)).astype(np.float32)
        expected = session.run(None if output is None else [output], {"x": x})[0]
        assert np.allclose(
            net(x.reshape(batch, -1)), expected.reshape(batch, -1), rtol=1e-5, atol=1e-5
        )
    return net


def refused(model, message, **options):
    with pytest.raises(UnsupportedModel, match=message):
        load(model, **options)


# Samples --------------------------------------------------------------------------------------------------------

MIXED = "t = Transpose(x)  r = Reshape(t, s)  y = MatMul(r, u)"
SQUARE = "float[3,3] u = {1, 2, 3, 4, 5, 6, 7, 8, 9}, int64[2] s = {-1, 3}"


@pytest.mark.parametrize("batch", ["b", 2, 3, 5])
def test_samples_that_are_mixed_are_refused(batch):
    refused(graph(MIXED, batch=batch, stored=SQUARE), "mixes samples|not treated alike")


@pytest.mark.parametrize("batch", ["b", 2, 4])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "h = MatMul(x, w)  y = Transpose(h)",
            "does not hold one sample in each row|not treated alike",
        ),
        ("h = MatMul(x, w)  y = Reshape(h, flat)", "does not hold one sample in each row"),
        (
            "h = MatMul(x, w)  y = Gather<axis=0>(h, zero)",
            "does not hold one sample|not treated alike",
        ),
        (
            "h = MatMul(x, w)  y = Slice(h, one, last, zero)",
            "does not hold one sample|not treated alike|counts samples",
        ),
        (
            "n = Shape(x)  f = Cast<to=1>(n)  h = MatMul(x, w)  k = Gather<axis=0>(f, zero)  y = Mul(h, k)",
            "how many|number of",
        ),
    ],
)
def test_samples_that_are_moved_merged_or_counted_are_refused(batch, body, message):
    stored = (
        WEIGHTS
        + ", int64[1] flat = {-1}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] last = {9}"
    )
    refused(graph(body, batch=batch, stored=stored), message)


def test_a_constant_may_not_tell_samples_apart():
    stored = WEIGHTS + ", float[2,3] c = {1, 2, 3, 4, 5, 6}, float[2,3] same = {1, 2, 3, 1, 2, 3}"
    refused(
        graph("h = Add(x, c)  y = MatMul(h, w)", batch=2, stored=stored),
        "it would differ from sample to sample",
    )
    agrees(graph("h = Add(x, same)  y = MatMul(h, w)", batch=2, stored=stored), batches=(2,))


@pytest.mark.parametrize("batch", ["b", 4])
def test_positions_merged_with_the_batch_and_parted_again(batch):
    """As exporters spell a dense layer on [batch, positions, features]."""
    stored = WEIGHTS + ", int64[2] rows = {-1, 3}, int64[3] back = {-1, 2, 4}"
    body = "r = Reshape(x, rows)  h = MatMul(r, w)  a = Relu(h)  y = Reshape(a, back)"
    net = agrees(
        graph(body, batch=batch, sample=(2, 3), stored=stored), batches=(4,), sample=(2, 3)
    )
    assert net.widths == (6, 8)


def test_a_transposed_batch_comes_back():
    agrees(graph("t = Transpose(x)  u = Transpose<perm=[1,0]>(t)  y = MatMul(u, w)"))


def test_shapes_of_the_data_as_exporters_compute_them():
    stored = WEIGHTS + ", int64 zero = {0}, int64[1] axes = {0}, int64[1] minus = {-1}"
    body = (
        "n = Shape(x)  k = Gather<axis=0>(n, zero)  u = Unsqueeze(k, axes)  s = Concat<axis=0>(u, minus)  "
        "f = Reshape(x, s)  y = MatMul(f, w)"
    )
    for batch in ("b", 5):
        agrees(graph(body, batch=batch, sample=(1, 3), stored=stored), batches=(5,), sample=(1, 3))


def test_a_graph_for_one_sample_at_a_time_is_read_as_such_when_asked():
    model = graph("r = Reshape(x, s)  y = MatMul(r, w)", stored=WEIGHTS + ", int64[2] s = {1, 3}")
    refused(model, r"say input_shape=\(1, 3\)")
    assert load(model, input_shape=(1, 3)).widths == (3, 4)


@pytest.mark.parametrize(
    "body",
    [
        "r = Slice(x, minus_three, far, zero)  y = MatMul(r, w)",
        "r = Slice(x, minus_seven, far, zero)  y = MatMul(r, w)",
        "r = Slice(x, zero, seven, zero)  y = MatMul(r, w)",
        "n = Shape(x)  b = Gather<axis=0>(n, zero)  m = Mod(b, two)  f = Cast<to=1>(m)  h = MatMul(x, w)  y = Mul(h, f)",
        "n = Size(x)  m = Mod(n, two)  f = Cast<to=1>(m)  h = MatMul(x, w)  y = Mul(h, f)",
    ],
)
def test_what_agrees_at_some_numbers_of_samples_is_refused(body):
    stored = WEIGHTS + (
        ", int64[1] zero = {0}, int64[1] minus_three = {-3}, int64[1] minus_seven = {-7}, int64[1] seven = {7}"
        ", int64[1] far = {9223372036854775807}, int64[1] two = {2}"
    )
    refused(
        graph(body, stored=stored),
        "number of samples|samples are given|counts samples|not treated alike",
    )


def test_all_samples_may_be_sliced():
    stored = WEIGHTS + ", int64[1] zero = {0}, int64[1] far = {9223372036854775807}"
    agrees(graph("r = Slice(x, zero, far, zero)  y = MatMul(r, w)", stored=stored))


def test_an_input_without_an_axis_for_samples():
    stored, body = WEIGHTS + ", int64[2] s = {1, 3}", "r = Reshape(x, s)  y = MatMul(r, w)"
    assert load(graph(body, batch=None, stored=stored)).widths == (3, 4)
    column = graph(body, batch=3, sample=(1,), stored=stored)
    refused(column, r"say input_shape=\(3, 1\)")
    assert load(column, input_shape=(3, 1)).widths == (3, 4)


def test_a_batch_too_large_to_be_carried():
    stored = WEIGHTS + ", int64[2] s = {900000, 3}"
    net = load(
        graph("r = Reshape(x, s)  y = MatMul(r, w)", batch=900_000, sample=(1, 3), stored=stored)
    )
    assert net.widths == (3, 4)


# Output maps ----------------------------------------------------------------------------------------------------


def test_softmax_is_not_cut():
    stored = (
        WEIGHTS
        + ", int64[2] some = {0, 2}, int64[4] order = {3, 1, 0, 2}, int64[5] twice = {0, 1, 2, 3, 0}"
    )
    for body in ("Gather<axis=1>(p, some)", "Gather<axis=1>(p, twice)"):
        refused(
            graph(f"h = MatMul(x, w)  p = Softmax(h)  y = {body}", stored=stored),
            "drops or repeats entries after Softmax",
        )
    agrees(graph("h = MatMul(x, w)  p = Softmax(h)  y = Gather<axis=1>(p, order)", stored=stored))
    refused(
        graph("h = MatMul(x, w)  y = Softmax<axis=0>(h)"), "softmax over all outputs of a sample"
    )


# Gates ----------------------------------------------------------------------------------------------------------


def test_a_gate_counts_once():
    refused(
        graph("z = MatMul(x, w)  s = Sigmoid(z)  p = Mul(z, s)  y = Mul(p, s)"),
        "multiplies two tensors",
    )
    refused(graph("z = MatMul(x, w)  s = Sigmoid(z)  y = Mul(s, s)"), "multiplies two tensors")
    refused(
        graph("z = MatMul(x, w)  s = Sigmoid(z)  p = Mul(z, s)  y = Mul(p, z)"),
        "multiplies two tensors",
    )
    assert agrees(graph("z = MatMul(x, w)  s = Sigmoid(z)  y = Mul(s, z)")).output_map == "silu"


def test_factors_of_a_gate_keep_their_values_and_shapes():
    stored = WEIGHTS + ", float[4] c = {2, -1, 0.5, 3}, float[1,1,1] n = {2}, int64 zero = {0}"
    agrees(graph("z = MatMul(x, w)  s = Sigmoid(z)  p = Mul(c, s)  y = Mul(p, z)", stored=stored))
    body = "z = MatMul(x, w)  s = Sigmoid(z)  p = Mul(z, s)  q = Mul(p, n)  y = Gather<axis=0>(q, zero)"
    agrees(graph(body, stored=stored))
    body = "z = MatMul(x, w)  s = Sigmoid(z)  p = Mul(z, s)  q = Mul(p, n)  y = Gather<axis=1>(q, zero)"
    refused(graph(body, stored=stored), "does not hold one sample|not treated alike|mixes")


def test_casts_to_integers_inside_a_gate_are_seen():
    body = "z = MatMul(x, w)  s = Sigmoid(z)  i = Cast<to=7>(z)  f = Cast<to=1>(i)  y = Mul(f, s)"
    refused(graph(body), "multiplies two tensors|a cast of data")
    agrees(
        graph(
            "z = MatMul(x, w)  s = Sigmoid(z)  d = Cast<to=11>(z)  f = Cast<to=1>(d)  y = Mul(f, s)"
        )
    )


ERF = "d = Mul(z, r)  e = Erf(d)  p = Add(e, one)  q = Mul(z, p)  y = Mul(q, half)"


@pytest.mark.parametrize(
    ("root", "read"),
    [(np.float32(np.sqrt(0.5)), True), (np.float32(0.7071069), False), (0.7072, False)],
)
def test_constants_of_gelu_are_the_nearest_floats(root, read):
    stored = WEIGHTS + f", float r = {{{float(root)!r}}}, float one = {{1}}, float half = {{0.5}}"
    model = graph(f"z = MatMul(x, w)  {ERF}", stored=stored)
    if not read:
        return refused(model, "multiplies two tensors")
    note = next(note for note in agrees(model).notes if note.startswith("read a product as gelu"))
    refused(
        graph(f"z = MatMul(x, w)  {ERF}", stored=stored.replace(repr(float(root)), "0.70703125")),
        "half precision",
    )
    bound = 0.5 * float(note.split("at most ")[1].split(" ")[0])
    z = np.linspace(-6, 6, 20001)
    from scipy.special import erf

    change = np.abs(0.5 * z * (1 + erf(float(root) * z)) - Activation("gelu")(z)).max()
    assert 0 < change <= bound < 1e-7


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("s = Softplus(z)  t = Tanh(s)  y = Mul(z, t)", "mish"),
        ("p = Add(z, three)  c = Clip(p, zero, six)  q = Mul(z, c)  y = Div(q, six)", "hardswish"),
        ("h = HardSigmoid<alpha=0.16666667163372, beta=0.5>(z)  y = Mul(z, h)", "hardswish"),
    ],
)
def test_other_gates(body, kind):
    stored = WEIGHTS + ", float three = {3}, float zero = {0}, float six = {6}"
    net = agrees(graph(f"z = MatMul(x, w)  {body}", stored=stored))
    assert kind in (net.output_map, *map(str, net.activations))


def test_a_gate_with_other_numbers_is_none():
    stored = WEIGHTS + ", float three = {2.5}, float zero = {0}, float six = {6}"
    body = "p = Add(z, three)  c = Clip(p, zero, six)  y = Mul(z, c)"
    refused(graph(f"z = MatMul(x, w)  {body}", stored=stored), "multiplies two tensors")
    refused(
        graph("z = MatMul(x, w)  h = HardSigmoid<alpha=0.2>(z)  y = Mul(z, h)"),
        "multiplies two tensors",
    )


# Types ----------------------------------------------------------------------------------------------------------


def test_data_stays_real():
    refused(
        graph("i = Cast<to=6>(x)  f = Cast<to=1>(i)  y = MatMul(f, w)"),
        "a cast of data to ONNX type 6",
    )
    refused(
        graph(
            "i = CastLike(x, k)  f = Cast<to=1>(i)  y = MatMul(f, w)",
            stored=WEIGHTS + ", int32 k = {0}",
        ),
        "type 6",
    )
    agrees(graph("d = Cast<to=11>(x)  f = CastLike(d, w)  y = MatMul(f, w)"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "k = Cast<to=2>(big)  f = Cast<to=1>(k)  h = MatMul(x, w)  y = Mul(h, f)",
            44.0,
        ),  # 300 wraps
        (
            "k = Add(bytes, bytes)  f = Cast<to=1>(k)  h = MatMul(x, w)  y = Mul(h, f)",
            144.0,
        ),  # 200 + 200 wrap
        (
            "k = Cast<to=10>(third)  f = Cast<to=1>(k)  h = MatMul(x, w)  y = Mul(h, f)",
            float(np.float16(1 / 3)),
        ),
        ("k = Cast<to=1>(fine)  h = MatMul(x, w)  y = Mul(h, k)", float(np.float32(0.1))),
        ("k = Relu(minus)  h = MatMul(x, w)  y = Sub(h, k)", None),
        ("k = Exp(third)  h = MatMul(x, w)  y = Mul(h, k)", float(np.exp(np.float32(1 / 3)))),
        ("k = Div(seven, minus_two)  f = Cast<to=1>(k)  h = MatMul(x, w)  y = Mul(h, f)", -3.0),
    ],
)
def test_constants_are_what_the_types_of_the_file_make_of_them(body, expected):
    stored = WEIGHTS + (
        ", int32 big = {300}, uint8 bytes = {200}, float third = {0.333333343267}, double fine = {0.1}, float minus = {-1}"
        ", int64 seven = {7}, int64 minus_two = {-2}"
    )
    model = graph(body, stored=stored)
    net = agrees(model)
    if expected is not None:
        assert np.allclose(net.layers[0].weight[0, 0], expected, rtol=1e-7)


def test_integers_round_where_they_become_floats():
    stored = WEIGHTS + ", int64 k = {17850625}"
    net = agrees(graph("f = Cast<to=1>(k)  h = MatMul(x, w)  y = Mul(h, f)", stored=stored))
    assert net.layers[0].weight[0, 0] == 17850624


def test_casts_on_which_runtimes_differ_are_refused():
    stored = WEIGHTS + ", float far = {1e20}"
    body = "a = Cast<to=10>(far)  k = Neg(a)  f = Cast<to=1>(k)  h = MatMul(x, w)  y = Mul(h, f)"
    refused(
        graph(body, stored=WEIGHTS + ", float far = {0.3}"),
        "half precision, on which runtimes do not agree",
    )
    refused(
        graph(
            "k = Cast<to=6>(far)  f = Cast<to=1>(k)  h = MatMul(x, w)  y = Mul(h, f)", stored=stored
        ),
        "do not agree",
    )


# Dense graphs that were refused ---------------------------------------------------------------------------------


def test_affine_images_of_one_tensor_meet():
    stored = (
        WEIGHTS
        + ", float[3,1] a = {1, 0.5, -1}, float[1,4] c = {0.25, 1, -1, 2}, float[4,1] u = {1, 2, 3, -1}"
    )
    lora = "h = MatMul(x, w)  l = MatMul(x, a)  m = MatMul(l, c)  s = Add(h, m)  r = Relu(s)  y = MatMul(r, v)"
    assert agrees(graph(lora, stored=stored)).widths == (3, 4, 2)
    heads = "h = MatMul(x, w)  r = Relu(h)  p = MatMul(r, v)  q = MatMul(r, u)  y = Concat<axis=1>(p, q)"
    assert agrees(graph(heads, stored=stored)).widths == (3, 4, 3)
    dueling = "h = MatMul(x, w)  r = Relu(h)  p = MatMul(r, v)  q = MatMul(r, u)  y = Add(p, q)"
    assert agrees(graph(dueling, stored=stored)).widths == (3, 4, 2)
    doubled = "h = MatMul(x, w)  s = Add(h, h)  y = Sub(s, h)"
    assert agrees(graph(doubled)).widths == (3, 4)
    binary = "h = MatMul(x, w)  r = Relu(h)  z = MatMul(r, u)  p = Sigmoid(z)  n = Sub(one, p)  y = Concat<axis=1>(n, p)"
    assert agrees(graph(binary, stored=stored + ", float[1] one = {1}")).widths == (3, 4, 1, 2)
    refused(
        graph("h = MatMul(x, w)  r = Relu(h)  y = Add(h, r)"), "residual connection or a branch"
    )
    refused(
        graph("h = MatMul(x, w)  r = Relu(h)  y = Concat<axis=1>(h, r)"),
        "residual connection or a branch",
    )


@pytest.mark.parametrize(
    ("opset", "line"),
    [
        (12, "a, c = Split<axis=1, split=[3,1]>(h)  y = Identity(a)"),
        (12, "a, y = Split<axis=1>(h)"),
        (17, "a, y = Split<axis=-1>(h, sizes)"),
        (18, "y, c = Split<axis=1, num_outputs=2>(x)"),
        (18, "a, y = Split<axis=1, num_outputs=2>(x)"),
    ],
)
def test_split(opset, line):
    agrees(
        graph(
            f"h = MatMul(x, w)  {line}", opset=opset, stored=WEIGHTS + ", int64[2] sizes = {1, 3}"
        )
    )


def test_stored_in_other_ways():
    model = graph("h = MatMul(x, q)  y = Relu(h)", stored="float unused = {0}")
    values, places = (
        np.array([2.0, -1.0], dtype=np.float32),
        np.array([[0, 1], [2, 3]], dtype=np.int64),
    )
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(values, "q"), numpy_helper.from_array(places, "q_at"), [3, 4]
    )
    model.graph.sparse_initializer.append(sparse)
    assert agrees(model).layers[0].weight.T.tolist() == [[0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, -1]]
    places[1] = places[0]
    model.graph.sparse_initializer[0].indices.CopyFrom(numpy_helper.from_array(places, "q_at"))
    refused(model, "stores an entry twice")
    quantised = "int8[3,4] q = {1, -2, 3, 4, 5, 6, -7, 8, 9, 10, -11, 12}, int8[4] z = {0, 1, 2, 3}"
    stored = f"{quantised}, float[4] s = {{0.1, 0.2, 0.3, 0.4}}"
    agrees(graph("d = DequantizeLinear<axis=1>(q, s, z)  y = MatMul(x, d)", stored=stored))
    scaler = "s = ai.onnx.ml.Scaler<offset=[1.0,2.0,3.0], scale=[0.5,0.1,2.0]>(x)  y = MatMul(s, w)"
    agrees(graph(scaler))


def test_axes_before_a_matrix_are_kept():
    stored = "float[1,3,4] w = {1, -2, 3, 0.5, 2, 1, -1, 0.25, -0.5, 1, 2, -3}, int64[1] zero = {0}"
    agrees(graph("h = MatMul(x, w)  y = Squeeze(h, zero)", stored=stored))
    refused(graph("y = MatMul(x, w)", stored=stored), "does not hold one sample|not treated alike")


# What ONNX or this reader does not know -------------------------------------------------------------------------


def changed(model, place, **attributes):
    for name, number in attributes.items():
        model.graph.node[place].attribute.append(helper.make_attribute(name, number))
    return model


def test_attributes_and_operators():
    body = "h = MatMul(x, w)  y = Relu(h)"
    refused(changed(graph(body), 1, alpha=0.5), "attribute 'alpha' is none of Relu in opset 17")
    refused(
        changed(graph("h = MatMul(x, w)  y = LeakyRelu<alpha=0.5>(h)"), 1, alpha=0.25),
        "'alpha' is given twice",
    )
    refused(
        changed(
            graph(
                "h = MatMul(x, w)  y = Reshape(h, s)",
                opset=12,
                stored=WEIGHTS + ", int64[2] s = {0, 4}",
            ),
            1,
            allowzero=1,
        ),
        "attribute 'allowzero' is none of Reshape in opset 12",
    )
    refused(graph("h = MatMul(x, w)  y = Gelu(h)", opset=17), "Gelu is no operator of opset 17")
    newest = onnx.defs.onnx_opset_version()
    model = graph(body)
    model.opset_import[0].version = newest + 1
    refused(model, f"opset {newest + 1}; the installed onnx knows opsets up to {newest}")
    model = graph(body)
    model.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    refused(model, "in opsets")


def test_functions_of_the_model_are_not_mistaken_for_operators():
    model = graph("h = MatMul(x, w)  y = Relu(h)")
    negative = helper.make_node("Neg", ["a"], ["b"])
    model.functions.append(
        helper.make_function("", "Relu", ["a"], ["b"], [negative], [helper.make_opsetid("", 17)])
    )
    refused(model, "is a function of the model; write it out with onnx.inliner")


def test_an_attribute_that_nobody_asks_for_is_refused(monkeypatch):
    monkeypatch.setitem(OPS, "LeakyRelu", lambda reader, node, x: x)
    refused(
        graph("h = MatMul(x, w)  y = LeakyRelu<alpha=0.5>(h)"),
        "attribute 'alpha' is not understood here",
    )


# The second reading ---------------------------------------------------------------------------------------------


def test_a_wrong_reading_is_caught(monkeypatch):
    monkeypatch.setitem(OPS, "Relu", lambda reader, node, x: x.activate(Activation("abs")))
    refused(
        graph("h = MatMul(x, w)  y = Relu(h)"),
        r"which gives .* where the model run by onnx\.reference gives 0 ",
    )
    monkeypatch.setitem(
        OPS, "Tanh", lambda reader, node, x: x.scaled(1 + 1e-6).activate(Activation("tanh"))
    )
    refused(graph("h = MatMul(x, w)  y = Tanh(h)"), r"where the model run by onnx\.reference gives")


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", ["", "<axis=0>", "<axis=1>", "<axis=-1>"])
@pytest.mark.parametrize("opset", [11, 13])
def test_a_softmax_of_stored_numbers_is_over_all_later_axes_before_opset_13(operator, axis, opset):
    stored = "float[3,2,2] k = {1, -2, 3, 0.5, 2, 1, -1, 0.25, -0.5, 1, 2, -3}, int64[2] s = {3, 4}"
    agrees(
        graph(
            f"c = {operator}{axis}(k)  w = Reshape(c, s)  y = MatMul(x, w)",
            opset=opset,
            stored=stored,
        )
    )


@pytest.mark.parametrize("axes", ["-3, 3", "2, 1", "-1, 1", "3, -3", "1, -1"])
def test_added_axes_are_axes_of_what_comes_out(axes):
    agrees(graph(f"h = MatMul(x, w)  y = Unsqueeze<axes=[{axes}]>(h)", opset=11))


@pytest.mark.parametrize("axes", ["1, 3", "-1, 1", "3, -3", "-3, -1"])
def test_dropped_axes_are_axes_of_what_goes_in(axes):
    body = f"a = Unsqueeze<axes=[1, 3]>(x)  b = Squeeze<axes=[{axes}]>(a)  y = MatMul(b, w)"
    agrees(graph(body, opset=11))


@pytest.mark.parametrize("opset", [11, 18])
def test_squares_of_integers_keep_their_type(opset):
    stored = WEIGHTS + ", int32[2,2] k = {1, -2, 3, 4}, int32[1,1] one = {1}"
    body = "q = ReduceSumSquare(k)  r = Sub(q, one)  f = Cast<to=1>(r)  h = MatMul(x, w)  y = Mul(h, f)"
    agrees(graph(body, opset=opset, stored=stored))


@pytest.mark.parametrize(
    ("operator", "kind", "number"),
    [
        ("ReduceSumSquare", "int32", 60_000), ("ReduceSum", "int32", 2_147_480_000), ("ReduceProd", "int32", 60_000),
        ("ReduceMean", "int32", 2_147_480_000), ("ReduceL1", "int32", -2_147_480_000), ("ReduceL2", "int32", 60_000),
        ("ReduceSum", "int64", 2**53 + 1),
    ],
)  # fmt: skip
def test_integers_that_overflow_when_they_are_reduced_are_refused(operator, kind, number):
    """There onnxruntime goes to the largest integer, or to the nearest double; others wrap."""
    stored = WEIGHTS + f", {kind}[2,2] k = {{1, 50000, 3, {number}}}"
    body = f"q = {operator}<keepdims=0>(k)  f = Cast<to=1>(q)  h = MatMul(x, w)  y = Mul(h, f)"
    refused(
        graph(body, opset=11, stored=stored), f"{operator} of constants of type {kind} may overflow"
    )


AXES = [(), (0,), (-1,), (1, -1), (-1, 0), (2, -3), (-2, 2, 0)]


@pytest.mark.parametrize(
    "operator", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ReduceSumSquare"]
)
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_axes_of_constants_that_are_reduced(operator, opset):
    """As onnxruntime does it, for orders and signs of axes, in the types of the file."""
    listed = opset < (13 if operator == "ReduceSum" else 18)
    for array in (
        np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8,
        np.arange(-12, 12, dtype=np.int32).reshape(2, 3, 4),
    ):
        for axes, keep in product(AXES, (0, 1)):
            options = {"axes": axes} if axes and listed else {}
            node = helper.make_node(
                operator, ["a"] + ([] if listed else ["k"]), ["y"], keepdims=keep, **options
            )
            given = [array] if listed else [array, np.array(axes, dtype=np.int64)]
            ends = [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape
                )
                for name, x in zip(node.input, given, strict=True)
            ]
            last = [
                helper.make_value_info(
                    "y", helper.make_tensor_type_proto(ends[0].type.tensor_type.elem_type, None)
                )
            ]
            made = helper.make_graph([node], "g", ends, last)
            model = helper.make_model(
                made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
            )
            try:
                session = onnxruntime.InferenceSession(
                    model.SerializeToString(), providers=["CPUExecutionProvider"]
                )
            except Exception:  # not for integers
                assert array.dtype == np.int32
                continue
            (want,) = session.run(None, dict(zip(node.input, given, strict=True)))
            found = evaluate(node, given, opset, mended(opset))
            assert found.dtype == want.dtype
            assert found.shape == want.shape
            assert np.allclose(found, want, rtol=1e-5)


def test_what_cannot_be_compared_is_said(monkeypatch):
    model = graph("h = MatMul(x, w)  y = Relu(h)")
    monkeypatch.setattr(nodes, "MAX_PARAMETERS", 10)
    assert load(model).notes == ("too large to be compared with onnx.reference (16 parameters)",)
    monkeypatch.undo()

    class Broken:
        single = False

        def __call__(self, x):
            raise nodes.CannotRun("no")

    monkeypatch.setattr(nodes.Reader, "_evaluator", lambda self, output: Broken())
    assert load(model).notes == (
        "not compared with onnx.reference, which cannot run the model: no",
    )
