"""The one representation of a network: what it takes and refuses, its digest, its derivatives."""

from __future__ import annotations

import copy
import hashlib
import pickle

import numpy as np
import pytest

import moduli as mo
from moduli.kernel.activations import Activation
from moduli.kernel.box import Frame
from moduli.kernel.network import IDENTITY, Layer, Network, rebuilt

TWO = Network.mlp([[1.0, -2.0], [0.5, 3.0]], [0.25, -1.0], [[1.0, 2.0]], [0.5], activation="tanh")


def deep(activation: str, output_map: str = "identity") -> Network:
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=shape) for shape in ((4, 3), 4, (5, 4), 5, (2, 5), 2)]
    return Network.mlp(*arrays, activation=activation, output_map=output_map)


# What it takes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "int64", "uint64", "bool"])
def test_numbers_that_float64_holds_are_taken(dtype):
    net = Network.mlp(np.ones((1, 2), dtype), np.zeros(1, dtype), np.ones((1, 1), dtype), [0])
    assert net == Network.mlp([[1, 1]], [0], [[1]], [0])


@pytest.mark.parametrize(
    "given", [2**53 + 1, np.uint64(2**64 - 1), np.int64(2**63 - 1), np.longdouble(1) / 3]
)
def test_numbers_that_float64_does_not_hold_are_refused(given):
    array = np.array([[given]])
    if array.dtype == np.float64:
        pytest.skip("long doubles are doubles here")
    with pytest.raises(mo.UnsupportedModel, match=r"W1 has dtype .* float64 cannot hold exactly"):
        Network.mlp(array, [0.0])


@pytest.mark.parametrize("given", [[[1j]], [["1"]], [[None]]])
def test_what_is_no_real_number_is_refused(given):
    with pytest.raises(mo.UnsupportedModel, match="real numbers are needed"):
        Network.mlp(given, [0.0])


def test_tensors_of_torch_are_taken():
    torch = pytest.importorskip("torch", reason="no torch; pip install '.[torch]'")
    weight = torch.nn.Parameter(torch.ones(1, 2, dtype=torch.bfloat16))
    assert Network.mlp(weight, torch.zeros(1, dtype=torch.int32)) == Network.mlp([[1, 1]], [0])


def test_minus_zero_is_zero():
    net = Network.mlp([[-0.0]], [-0.0])
    assert not np.signbit(net.layers[0].weight).any()
    assert net == Network.mlp([[0.0]], [0.0])


def test_arrays_are_own_and_read_only():
    weight = np.ones((1, 2))
    net = Network.mlp(weight, [0.0])
    weight[0, 0] = 7.0
    assert net.layers[0].weight[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        net.layers[0].weight[0, 0] = 7.0
    view = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    layer = Layer(view, np.zeros(2), IDENTITY)
    assert layer.weight.flags.c_contiguous
    assert layer.weight.base is None


def test_copies_stay_read_only():
    for made in (copy.deepcopy(TWO), pickle.loads(pickle.dumps(TWO))):
        assert made == TWO
        assert not made.layers[0].weight.flags.writeable


# What it refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "bias", "error", "why"),
    [
        ([[1.0]], np.zeros(1), mo.UnsupportedModel, "weight is list, not a float64 array"),
        (np.ones((1, 1), np.float32), np.zeros(1), mo.UnsupportedModel, "weight is float32"),
        (np.ones((1, 1)), np.array([np.inf]), mo.UnsupportedModel, r"bias\[0\] is inf"),
        (np.ones(1), np.zeros(1), mo.ShapeError, "weight has shape .1,.; 2 axes are needed"),
    ],
)
def test_layers_that_are_none(weight, bias, error, why):
    make = getattr(Layer.__init__, "__wrapped__", Layer.__init__)  # past the check of annotations
    layer = object.__new__(Layer)
    with pytest.raises(error, match=why):
        make(layer, weight, bias, IDENTITY)


@pytest.mark.parametrize(
    ("arrays", "options", "why"),
    [
        (([[1.0]],), {}, "1 arrays given"),
        ((), {}, "0 arrays given"),
        (([[1.0]], [0.0]), {"activation": ["tanh"]}, "1 activations for 0 hidden layers"),
        (([[1.0]], [0.0, 0.0]), {}, "layer 1: weight has shape .* rows and biases must agree"),
        (([[1.0]], [0.0], [[1.0, 1.0]], [0.0]), {}, "layer 1 has 1 units but layer 2 has weight"),
        ((np.ones((1, 0)), [0.0]), {}, "at least one input and one output"),
        ((np.ones((0, 1)), []), {}, "at least one input and one output"),
    ],
)
def test_shapes_that_do_not_fit(arrays, options, why):
    with pytest.raises(mo.ShapeError, match=why):
        Network.mlp(*arrays, **options)


def test_networks_that_are_none():
    with pytest.raises(mo.ShapeError, match="at least one layer"):
        Network(())
    with pytest.raises(mo.ShapeError, match="last layer must be affine but has activation tanh"):
        Network((Layer(np.ones((1, 1)), np.zeros(1), Activation("tanh")),))
    with pytest.raises(mo.UnsupportedModel, match=r"layer 1: weight\[0, 1\] is nan"):
        Network.mlp([[1.0, np.nan]], [0.0])
    with pytest.raises(ValueError, match="unknown activation 'sofmax'"):
        Network.mlp([[1.0]], [0.0], output_map="sofmax")


def test_layers_without_units_are_allowed():
    net = Network.mlp(np.zeros((0, 2)), np.zeros(0), np.zeros((1, 0)), [0.5])
    assert net.widths == (2, 0, 1)
    assert net(np.ones((3, 2))).tolist() == [[0.5]] * 3


# Digests ------------------------------------------------------------------------------------------


def test_the_digest_is_of_architecture_and_parameters():
    """As written: a second checker computes it from the same words."""
    head = '{"widths": [2, 2, 1], "activations": ["tanh"], "output_map": "identity"}'
    body = np.array([1.0, -2.0, 0.5, 3.0, 0.25, -1.0, 1.0, 2.0, 0.5], dtype="<f8").tobytes()
    assert TWO.digest == "sha256:" + hashlib.sha256(head.encode() + body).hexdigest()


def test_what_enters_the_digest_and_what_does_not():
    arrays = [part for layer in TWO.layers for part in (layer.weight, layer.bias)]
    others = [
        Network.mlp(*arrays, activation="sigmoid"),
        Network.mlp(*arrays, output_map="softmax"),
        TWO.with_flat(TWO.flat() + np.eye(TWO.parameters)[3] * 2.0**-50),
    ]
    assert len({TWO.digest, *(net.digest for net in others)}) == 4
    frame = Frame(np.zeros(2), np.ones(2), np.zeros(2), np.ones(2), 0.0, 1.0)
    assert TWO.digest == Network(TWO.layers, ("a note",), "identity", frame).digest
    assert {TWO, Network(TWO.layers)} == {TWO}
    assert TWO != 1


def test_a_network_made_anew_keeps_nothing_of_a_class_of_its_own():
    class Liar(Network):
        digest = "sha256:whatever is claimed"

    class Loud(np.ndarray):
        def __eq__(self, other):
            raise AssertionError("asked")

    false = Liar(TWO.layers)
    found = rebuilt(false)
    assert type(found) is Network
    assert found.digest == TWO.digest != false.digest
    layer = Layer(np.ones((1, 1)).view(Loud), np.zeros(1), IDENTITY)
    assert type(layer.weight) is np.ndarray


# Numbers ------------------------------------------------------------------------------------------


def test_the_narrowest_type_and_rounding_to_it():
    narrow, wide = Network.mlp([[0.5]], [0.0]), Network.mlp([[0.1]], [0.0])
    assert (narrow.dtype, wide.dtype) == ("float32", "float64")
    assert wide.rounded("float64") is wide
    assert wide.rounded("float32").layers[0].weight[0, 0] == np.float64(np.float32(0.1))
    assert wide.rounded("float32").dtype == "float32"
    with pytest.raises(ValueError, match="float32 or float64"):
        wide.rounded("float16")
    with pytest.raises(mo.UnsupportedModel, match="layer 1: bias 1e\\+39 exceeds float32"):
        Network.mlp([[1.0]], [1e39]).rounded("float32")


def test_evaluation_by_hand():
    x = np.array([[0.5, -1.0], [2.0, 0.0]])
    expected = (
        np.tanh(x @ np.array([[1.0, 0.5], [-2.0, 3.0]]) + [0.25, -1.0]) @ [[1.0], [2.0]] + 0.5
    )
    assert np.allclose(TWO(x), expected, rtol=1e-15, atol=0)
    soft = deep("relu", "softmax")
    z = soft.logits(np.ones((1, 3)))
    assert np.allclose(soft(np.ones((1, 3))), np.exp(z) / np.exp(z).sum())
    assert np.allclose(deep("relu", "sigmoid")(np.ones((1, 3))), 1 / (1 + np.exp(-z)))
    for wrong in (np.ones(3), np.ones((1, 2))):
        with pytest.raises(mo.ShapeError, match="is needed"):
            TWO(wrong.reshape(1, -1) if wrong.ndim == 1 else np.ones((1, 3)))


def test_parameters_as_one_vector():
    theta = TWO.flat()
    assert theta.tolist() == [1.0, -2.0, 0.5, 3.0, 0.25, -1.0, 1.0, 2.0, 0.5]
    assert TWO.with_flat(theta) == TWO
    with pytest.raises(mo.ShapeError, match=r"\(9,\) is needed"):
        TWO.with_flat(theta[1:])


def test_how_it_shows_itself():
    assert repr(TWO) == "Network(2-2-1, tanh, 9 parameters)"
    assert repr(deep("relu", "softmax")) == "Network(3-4-5-2, relu, softmax output, 53 parameters)"
    assert repr(Network.mlp([[1.0]], [0.0])) == "Network(1-1, affine, 2 parameters)"


def test_unpickled_networks_are_read_only_and_stay_as_they_are():
    net = pickle.loads(
        pickle.dumps(mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, 2.0]], [0.0]))
    )
    before = net.flat().copy()
    assert not net.layers[0].weight.flags.writeable
    assert mo.compress(net).network.units == 1
    assert mo.compress(net, radius=0.1).network.units == 1
    assert (net.flat() == before).all()
