"""Networks: immutable, exact, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import moduli as mo
from moduli.kernel.activations import Activation
from moduli.kernel.network import Layer, Network, rebuilt

NET = Network.mlp([[1, 2], [3, 4]], [5, 6], [[7, 8]], [9], activation="tanh")


def test_unpickled_networks_are_read_only_and_stay_as_they_are():
    net = pickle.loads(
        pickle.dumps(mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, 2.0]], [0.0]))
    )
    before = net.flat().copy()
    assert not net.layers[0].weight.flags.writeable
    assert mo.compress(net).network.units == 1
    assert mo.compress(net, radius=0.1).network.units == 1
    assert (net.flat() == before).all()


@pytest.mark.parametrize(
    ("arrays", "options", "why"),
    [
        ([], {}, "come in pairs"),
        ([[[1]]], {}, "come in pairs"),
        ([[[1]], [0]], {"activation": ["tanh"]}, "1 activations for 0"),
        ([[[1]], [0, 0]], {}, "rows and biases must agree"),
        ([[[1]], [0], [[1, 1]], [0]], {}, "layer 1 has 1 units but layer 2"),
        ([np.zeros((0, 1)), []], {}, "at least one input and one output"),
        ([[["a"]], [0]], {}, "real numbers are needed"),
        ([[[1j]], [0]], {}, "real numbers are needed"),
        ([[[np.nan]], [0]], {}, r"weight\[0, 0\] is nan"),
        ([[[1]], [np.inf]], {}, r"bias\[0\] is inf"),
        ([[[2**53 + 1]], [0]], {}, "cannot hold exactly"),
        ([np.array([[2**64 - 1]], dtype=np.uint64), [0]], {}, "cannot hold exactly"),
        (
            [np.array([[1 + 2.0**-60]], dtype=np.longdouble) + np.longdouble(2) ** -60, [0]],
            {},
            "cannot hold exactly",
        ),
    ],
)
def test_what_is_no_network(arrays, options, why):
    if (
        "longdouble" in str(getattr(arrays[0] if arrays else None, "dtype", ""))
        and np.finfo(np.longdouble).nmant == 52
    ):
        pytest.skip("long doubles are doubles here")
    with pytest.raises((mo.ShapeError, mo.UnsupportedModel), match=why):
        Network.mlp(*arrays, **options)


def test_the_last_layer_is_affine():
    with pytest.raises(mo.ShapeError, match="must be affine"):
        Network((Layer(np.ones((1, 1)), np.zeros(1), Activation("tanh")),))
    with pytest.raises(mo.ShapeError, match="at least one layer"):
        Network(())


def test_arrays_are_copied_and_minus_zero_is_zero():
    given = np.array([[-0.0, 1.0]])
    net = Network.mlp(given, [-0.0])
    given[0, 1] = 5
    assert net.layers[0].weight.tolist() == [[0.0, 1.0]]
    assert not np.signbit(net.layers[0].weight).any()
    assert not np.signbit(net.layers[0].bias).any()
    assert not net.layers[0].weight.flags.writeable


def test_the_digest_is_that_of_all_that_matters():
    same = Network.mlp([[1, 2], [3, 4]], [5, 6], [[7, 8]], [9], activation="tanh")
    assert same == NET
    assert hash(NET) == hash(same)
    assert rebuilt(NET) == NET
    others = [NET.with_flat(NET.flat() + np.eye(9)[k]) for k in range(9)]
    others.append(Network.mlp([[1, 2], [3, 4]], [5, 6], [[7, 8]], [9], activation="erf"))
    others.append(
        Network.mlp(
            [[1, 2], [3, 4]], [5, 6], [[7, 8]], [9], activation="tanh", output_map="softmax"
        )
    )
    assert len({net.digest for net in [NET, *others]}) == 12
    assert NET.with_layers(NET.layers, notes=("read",)) == NET, "notes do not enter"


def test_flat_parameters_make_the_same_network():
    assert NET.with_flat(NET.flat()) == NET
    with pytest.raises(mo.ShapeError, match="is needed"):
        NET.with_flat(np.zeros(3))


@pytest.mark.parametrize("activation", ["tanh", "softplus", "gelu"])
def test_derivatives_agree_with_differences(activation):
    rng = np.random.default_rng(0)
    net = Network.mlp(
        *(rng.normal(size=s) for s in ((4, 3), 4, (3, 4), 3, (2, 3), 2)), activation=activation
    )
    x, v, h = rng.normal(size=(5, 3)), rng.normal(size=(5, 2)), 1e-6
    slopes = np.stack(
        [(net.logits(x + h * e) - net.logits(x - h * e)) / (2 * h) for e in np.eye(3)], axis=2
    )
    assert np.allclose(net.jacobian(x), slopes, atol=1e-7)
    assert np.allclose(net.pullback(x, v), np.einsum("bo,boi->bi", v, net.jacobian(x)))


def test_outputs_and_their_map():
    soft = Network.mlp([[1.0], [2.0]], [0.0, 1000.0], output_map="softmax")
    assert soft(np.array([[1.0]])).tolist() == [[0.0, 1.0]]
    assert Network.mlp([[1.0]], [0.0], output_map="relu")(np.array([[-3.0]])).tolist() == [[0.0]]
    with pytest.raises(mo.ShapeError, match="is needed"):
        NET.logits(np.zeros((1, 3)))


def test_narrower_floats():
    assert NET.dtype == "float32"
    third = NET.with_flat(NET.flat() / 3)
    assert (third.dtype, third.rounded("float32").dtype, third.rounded("float64") is third) == (
        "float64",
        "float32",
        True,
    )
    with pytest.raises(mo.UnsupportedModel, match=r"layer 1: weight 1e\+300 exceeds float32"):
        Network.mlp([[1e300]], [0.0]).rounded("float32")
    with pytest.raises(ValueError, match="float16"):
        NET.rounded("float16")
