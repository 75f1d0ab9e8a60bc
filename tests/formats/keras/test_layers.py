"""Each Keras layer against its formula, in files that the test writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest

pytest.importorskip("h5py")

from keras_models import L, write_h5, write_keras

import moduli as mo
from moduli.kernel.errors import UnsupportedModel

RNG = np.random.default_rng(0)
TURN = count()
Array = np.ndarray[Any, np.dtype[Any]]


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


# The formulas, position by position -----------------------------------------------------------------------------


def padded(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: str,
    value: float,
    dilation: int = 1,
) -> Array:
    """An image (batch, positions, channels) with what padding adds to it."""
    amounts = [(0, 0)]
    for n, k, s in zip(x.shape[1:-1], kernel, strides, strict=True):
        reach = (k - 1) * dilation + 1
        total = max(0, (-(-n // s) - 1) * s + reach - n)
        both = {"same": (total // 2, total - total // 2), "valid": (0, 0), "causal": (reach - 1, 0)}
        amounts.append(both[padding])
    return np.pad(x, [*amounts, (0, 0)], constant_values=value)


def windows(x: Array, kernel: Sequence[int], strides: Sequence[int], dilation: int = 1) -> Array:
    """Windows (batch, positions, kernel, channels) of an image of two axes of positions."""
    made = [
        (n - (k - 1) * dilation - 1) // s + 1
        for n, k, s in zip(x.shape[1:3], kernel, strides, strict=True)
    ]
    found = np.zeros((len(x), *made, *kernel, x.shape[-1]))
    for i in range(made[0]):
        for j in range(made[1]):
            rows = i * strides[0] + dilation * np.arange(kernel[0])
            columns = j * strides[1] + dilation * np.arange(kernel[1])
            found[:, i, j] = x[:, rows][:, :, columns]
    return found


def conv2d(
    x: Array, w: Array, b: Array, strides: Sequence[int], padding: str, dilation: int = 1
) -> Array:
    x = padded(x, w.shape[:2], strides, padding, 0.0, dilation)
    return np.einsum("nijklc,klco->nijo", windows(x, w.shape[:2], strides, dilation), w) + b


def depthwise(x: Array, w: Array, b: Any, strides: Sequence[int], padding: str) -> Array:
    x = padded(x, w.shape[:2], strides, padding, 0.0)
    found = np.einsum("nijklc,klcm->nijcm", windows(x, w.shape[:2], strides), w)
    return found.reshape(*found.shape[:3], -1) + b


def transposed(x: Array, w: Array, b: Array, stride: int, padding: str) -> Array:
    """The gradient of a convolution with respect to its input."""
    n, k = x.shape[1], w.shape[0]
    whole = np.zeros((len(x), *[(n - 1) * stride + max(k, stride)] * 2, w.shape[2]))
    for i in range(n):
        for j in range(n):
            part = np.einsum("nc,kloc->nklo", x[:, i, j], w)
            whole[:, i * stride : i * stride + k, j * stride : j * stride + k] += part
    if padding == "same":
        start = max(0, k - stride) // 2
        whole = whole[:, start : start + n * stride, start : start + n * stride]
    return whole + b


def pool(
    x: Array, kernel: Sequence[int], strides: Sequence[int], padding: str, largest: bool
) -> Array:
    whole = windows(padded(x, kernel, strides, padding, np.nan), kernel, strides)
    return (np.nanmax if largest else np.nanmean)(whole, axis=(3, 4))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def erf(x: Array) -> Array:
    from scipy import special

    return special.erf(x)


def computed(tmp_path: Any, layers: Callable[[], list[L]], *inputs: Array) -> Any:
    """What a model gives, which is written in each of three ways in turn."""
    ways = (
        lambda: write_h5(tmp_path / "two.h5", layers(), 2),
        lambda: write_h5(tmp_path / "three.h5", layers(), 3),
        lambda: write_keras(tmp_path / "three.keras", layers()),
    )
    net = mo.load(ways[next(TURN) % len(ways)]())
    if isinstance(net, mo.Network):
        return net(inputs[0].reshape(len(inputs[0]), -1))
    return net(dict(zip(net.inputs, inputs, strict=True)))[net.outputs[0]]


def close(found: Array, wanted: Array, **tolerance: float) -> bool:
    """Chains of dense layers give their outputs flat."""
    assert found.ndim == 2 or found.shape == wanted.shape
    return np.allclose(found.reshape(wanted.shape), wanted, **tolerance)


def given(*shape: int | None) -> L:
    return L("InputLayer", {"batch_input_shape": [None, *shape], "batch_shape": [None, *shape]})


IMAGE = (7, 6, 3)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("activation", ["linear", "relu", "tanh"])
def test_convolutions(tmp_path, padding, stride, dilation, activation):
    w, b, x = floats(3, 2, 3, 4), floats(4), floats(2, *IMAGE)
    config = dict(
        filters=4, kernel_size=[3, 2], strides=[stride] * 2, padding=padding, activation=activation,
        dilation_rate=[dilation] * 2, use_bias=True, groups=1, data_format="channels_last",
    )  # fmt: skip
    found = computed(
        tmp_path, lambda: [given(*IMAGE), L("Conv2D", config, {"kernel": w, "bias": b})], x
    )
    function = {"linear": lambda z: z, "relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}[
        activation
    ]
    assert close(found, function(conv2d(x, w, b, [stride] * 2, padding, dilation)), atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_and_separable_convolutions(tmp_path, padding, multiplier):
    w, v, x = floats(3, 3, 3, multiplier), floats(1, 1, 3 * multiplier, 5), floats(2, *IMAGE)
    b, c = floats(3 * multiplier), floats(5)
    config = dict(kernel_size=[3, 3], strides=[2, 2], padding=padding, depth_multiplier=multiplier)
    layer = L("DepthwiseConv2D", config, {"depthwise_kernel": w, "bias": b})
    found = computed(tmp_path, lambda: [given(*IMAGE), layer], x)
    assert close(found, depthwise(x, w, b, [2, 2], padding), atol=1e-5)
    weights = {"depthwise_kernel": w, "pointwise_kernel": v, "bias": c}
    layer = L("SeparableConv2D", {**config, "filters": 5, "activation": "relu"}, weights)
    found = computed(tmp_path, lambda: [given(*IMAGE), layer], x)
    wanted = conv2d(depthwise(x, w, 0, [2, 2], padding), v, c, [1, 1], "valid")
    assert close(found, np.maximum(wanted, 0), atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (2, 3), (3, 1), (4, 2)])
def test_transposed_convolutions(tmp_path, padding, kernel, stride):
    w, b, x = floats(kernel, kernel, 2, 3), floats(2), floats(2, 4, 4, 3)
    config = dict(filters=2, kernel_size=[kernel] * 2, strides=[stride] * 2, padding=padding)
    layer = L("Conv2DTranspose", config, {"kernel": w, "bias": b})
    found = computed(tmp_path, lambda: [given(4, 4, 3), layer], x)
    assert close(found, transposed(x, w, b, stride, padding), atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid", "causal"])
def test_convolutions_and_pools_of_one_axis(tmp_path, padding):
    w, b, x = floats(3, 2, 4), floats(4), floats(2, 8, 2)
    config = dict(filters=4, kernel_size=[3], strides=[1], padding=padding, dilation_rate=[2])
    found = computed(
        tmp_path, lambda: [given(8, 2), L("Conv1D", config, {"kernel": w, "bias": b})], x
    )
    amount = {"same": (2, 2), "valid": (0, 0), "causal": (4, 0)}[padding]
    wide = np.pad(x, [(0, 0), amount, (0, 0)])
    count = wide.shape[1] - 4
    wanted = sum(wide[:, k * 2 : k * 2 + count] @ w[k] for k in range(3)) + b
    assert close(found, wanted, atol=1e-5)
    pooled = L("MaxPooling1D", {"pool_size": [2], "strides": [2], "padding": "valid"})
    found = computed(tmp_path, lambda: [given(8, 2), pooled, L("GlobalAveragePooling1D")], x)
    assert close(found, x.reshape(2, 4, 2, 2).max(axis=2).mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kind", ["MaxPooling2D", "AveragePooling2D"])
@pytest.mark.parametrize("strides", [None, [1, 2]])
def test_pools(tmp_path, padding, kind, strides):
    x = floats(2, *IMAGE)
    layer = L(kind, dict(pool_size=[2, 3], strides=strides, padding=padding))
    found = computed(tmp_path, lambda: [given(*IMAGE), layer], x)
    wanted = pool(x, [2, 3], strides or [2, 3], padding, kind.startswith("Max"))
    assert close(found, wanted, atol=1e-6)


@pytest.mark.parametrize("keep", [False, True])
def test_pools_over_all_positions(tmp_path, keep):
    x, w = floats(2, *IMAGE), floats(1, 1, 3, 3)
    before = L("Conv2D", dict(filters=3, kernel_size=[1, 1], use_bias=False), {"kernel": w})
    for kind, f in (("GlobalAveragePooling2D", np.mean), ("GlobalMaxPooling2D", np.max)):
        layers = [given(*IMAGE), before, L(kind, {"keepdims": keep})]
        found = computed(tmp_path, lambda layers=layers: layers, x)
        assert close(found, f(x @ w[0, 0], axis=(1, 2), keepdims=keep), atol=1e-5)


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0), "relu6": lambda x: np.clip(x, 0, 6), "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: 1.05070098 * np.where(x > 0, x, 1.67326324 * np.expm1(x)),
    "softplus": lambda x: np.log1p(np.exp(x)), "softsign": lambda x: x / (1 + np.abs(x)),
    "swish": lambda x: x / (1 + np.exp(-x)), "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2, "exponential": np.exp,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x), "softmax": softmax,
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))), "log_softmax": lambda x: np.log(softmax(x)),
    "hard_silu": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations(tmp_path, name):
    x, w = 3 * floats(2, *IMAGE), floats(1, 1, 3, 3)
    found = computed(tmp_path, lambda: [given(*IMAGE), L("Activation", {"activation": name})], x)
    assert close(found, FUNCTIONS[name](x), atol=1e-5)
    config = dict(filters=3, kernel_size=[1, 1], use_bias=False, activation=name)
    found = computed(tmp_path, lambda: [given(*IMAGE), L("Conv2D", config, {"kernel": w})], x)
    assert close(found, FUNCTIONS[name](x @ w[0, 0]), rtol=1e-4, atol=1e-5)


def test_hard_sigmoid_is_another_one_since_keras_3(tmp_path):
    x = 4 * floats(3, 5)
    layers = [given(5), L("Activation", {"activation": "hard_sigmoid"})]
    two = mo.load(write_h5(tmp_path / "a.h5", layers, 2))(x)
    three = mo.load(write_h5(tmp_path / "b.h5", layers, 3))(x)
    assert np.allclose(two, np.clip(0.2 * x + 0.5, 0, 1), atol=1e-6)
    assert np.allclose(three, np.clip(x / 6 + 0.5, 0, 1), atol=1e-6)


def test_activations_that_are_layers(tmp_path):
    x, slopes = 3 * floats(2, *IMAGE), floats(1, 1, 3)
    for layer, f in (
        (L("ReLU"), FUNCTIONS["relu"]),
        (L("ReLU", {"max_value": 6.0}), FUNCTIONS["relu6"]),
        (L("ReLU", {"negative_slope": 0.1}), lambda x: np.where(x > 0, x, 0.1 * x)),
        (L("ReLU", {"negative_slope": 0.1, "max_value": 2.0}), lambda x: np.where(x > 0, np.minimum(x, 2), 0.1 * x)),
        (L("LeakyReLU", {"alpha": 0.3}), lambda x: np.where(x > 0, x, 0.3 * x)),
        (L("LeakyReLU", {"negative_slope": 0.4}), lambda x: np.where(x > 0, x, 0.4 * x)),
        (L("ELU", {"alpha": 0.5}), lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
        (L("Softmax", {"axis": -1}), softmax),
        (L("PReLU", {"shared_axes": [1, 2]}, {"alpha": slopes}), lambda x: np.where(x > 0, x, slopes * x)),
    ):  # fmt: skip
        found = computed(tmp_path, lambda layer=layer: [given(*IMAGE), layer], x)
        assert close(found, f(x), atol=1e-5), layer


@pytest.mark.parametrize("shape", [(5,), IMAGE, (4, 5)])
@pytest.mark.parametrize(("scale", "centre"), [(True, True), (False, True), (True, False)])
def test_normalisations(tmp_path, shape, scale, centre):
    n, x = shape[-1], floats(2, *shape)
    gamma, beta, mean, variance = floats(n), floats(n), floats(n), np.abs(floats(n)) + 0.1
    own = {**({"gamma": gamma} if scale else {}), **({"beta": beta} if centre else {})}
    config = dict(epsilon=0.001, scale=scale, center=centre)
    gamma, beta = gamma if scale else 1, beta if centre else 0
    weights = {**own, "moving_mean": mean, "moving_variance": variance}
    layer = L("BatchNormalization", {**config, "axis": [len(shape)]}, weights)
    found = computed(
        tmp_path, lambda: [given(*shape), layer, L("Activation", {"activation": "tanh"})], x
    )
    assert close(found, np.tanh(gamma * (x - mean) / np.sqrt(variance + 0.001) + beta), atol=1e-5)
    layer = L("LayerNormalization", {**config, "axis": -1}, own)
    found = computed(tmp_path, lambda: [given(*shape), layer], x)
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 0.001)
    assert close(found, gamma * centred / spread + beta, atol=1e-4)


def test_rescaling_and_normalization(tmp_path):
    x, mean, variance = floats(3, 4, 3), floats(3), np.abs(floats(3)) + 0.1
    layer = L("Rescaling", {"scale": 1 / 255, "offset": -0.5})
    found = computed(
        tmp_path, lambda: [given(4, 3), layer, L("Activation", {"activation": "tanh"})], x
    )
    assert close(found, np.tanh(x / 255 - 0.5), atol=1e-6)
    weights = {"mean": mean, "variance": variance, "count": np.array(7)}
    layer = L("Normalization", {"axis": [-1]}, weights)
    found = computed(
        tmp_path, lambda: [given(4, 3), layer, L("Activation", {"activation": "tanh"})], x
    )
    assert close(found, np.tanh((x - mean) / np.sqrt(variance)), atol=1e-5)


def bent() -> L:
    return L("Activation", {"activation": "tanh"})


def test_shapes(tmp_path):
    x = floats(2, *IMAGE)
    for layers, f in (
        ([L("Flatten")], lambda x: x.reshape(2, -1)),
        ([L("Reshape", {"target_shape": [7, -1]})], lambda x: x.reshape(2, 7, 18)),
        ([L("Permute", {"dims": [3, 1, 2]})], lambda x: x.transpose(0, 3, 1, 2)),
        ([L("ZeroPadding2D", {"padding": [[1, 2], [0, 3]]})], lambda x: np.pad(x, [(0, 0), (1, 2), (0, 3), (0, 0)])),
        ([L("UpSampling2D", {"size": [2, 3], "interpolation": "nearest"})], lambda x: x.repeat(2, 1).repeat(3, 2)),
        ([L("Dropout", {"rate": 0.5}), L("GaussianNoise", {"stddev": 1.0})], lambda x: x),
    ):  # fmt: skip
        found = computed(tmp_path, lambda layers=layers: [given(*IMAGE), *layers, bent()], x)
        assert close(found, np.tanh(f(x)), atol=1e-6)


def test_padding_stays_with_channels_first_between_convolutions(tmp_path):
    x, w = floats(2, *IMAGE), floats(3, 3, 3, 3)
    config = dict(filters=3, kernel_size=[3, 3], use_bias=False)
    layers = [
        given(*IMAGE), L("Conv2D", {**config, "padding": "same"}, {"kernel": w}),
        L("ZeroPadding2D", {"padding": 1}), L("Conv2D", config, {"kernel": w}),
    ]  # fmt: skip
    found = computed(tmp_path, lambda: layers, x)
    inner = conv2d(x, w, np.zeros(3), [1, 1], "same")
    assert close(found, conv2d(inner, w, np.zeros(3), [1, 1], "same"), atol=1e-4)


@pytest.mark.parametrize("behind", [False, True])
def test_several_inputs(tmp_path, behind):
    x, z, w = floats(2, *IMAGE), floats(2, *IMAGE), floats(1, 1, 3, 3)
    for kind, f in {
        "Add": lambda a, b: a + b, "Subtract": lambda a, b: a - b, "Multiply": lambda a, b: a * b,
        "Average": lambda a, b: (a + b) / 2, "Maximum": np.maximum, "Minimum": np.minimum,
        "Concatenate": lambda a, b: np.concatenate([a, b], axis=-1),
    }.items():  # fmt: skip
        a, b = given(*IMAGE), given(*IMAGE)
        a.name, b.name, layers, reads = "a", "b", [], ["a", "b"]
        if behind:
            config = dict(filters=3, kernel_size=[1, 1], use_bias=False)
            layers = [L("Conv2D", config, {"kernel": w}, [n], f"conv_{n}") for n in ("a", "b")]
            reads = ["conv_a", "conv_b"]
        layers = [a, b, *layers, L(kind, {"axis": -1} if kind == "Concatenate" else {}, {}, reads)]
        b.reads = ()
        found = computed(tmp_path, lambda layers=layers: _apart(layers), x, z)
        ends = (x @ w[0, 0], z @ w[0, 0]) if behind else (x, z)
        assert close(found, f(*ends), atol=1e-5), kind


def _apart(layers: list[L]) -> list[L]:
    """Layers of which the second is an input, too, and reads none."""
    for layer in layers:
        layer.reads = () if layer.kind == "InputLayer" else layer.reads
    return layers


# Whole models ---------------------------------------------------------------------------------------------------


def dense(units: int, inputs: int, activation: str) -> L:
    weights = {"kernel": floats(inputs, units), "bias": floats(units)}
    return L("Dense", {"units": units, "activation": activation, "use_bias": True}, weights)


def test_a_dense_chain_is_a_network(tmp_path):
    layers = [given(4), dense(8, 4, "relu"), dense(8, 8, "tanh"), dense(2, 8, "linear")]
    x = floats(5, 4)
    for path in (
        write_h5(tmp_path / "a.h5", layers), write_keras(tmp_path / "a.keras", layers),
        write_h5(tmp_path / "b.h5", layers, sequential=True), write_h5(tmp_path / "c.HDF5", layers, 3),
        write_keras(tmp_path / "b.keras", layers, sequential=True),
    ):  # fmt: skip
        net = mo.load(path)
        assert isinstance(net, mo.Network)
        assert net.widths == (4, 8, 8, 2)
        a, b, c = (layer.weights for layer in layers[1:])
        hidden = np.tanh(np.maximum(x @ a["kernel"] + a["bias"], 0) @ b["kernel"] + b["bias"])
        assert np.allclose(net(x), hidden @ c["kernel"] + c["bias"], atol=1e-5)
        assert mo.load(path, input_shape=4) == net


def test_a_sequence_without_an_input_layer_says_its_shape(tmp_path):
    first = dense(3, 4, "relu")
    first.config["batch_input_shape"] = [None, 4]
    net = mo.load(write_h5(tmp_path / "a.h5", [first, dense(2, 3, "linear")], sequential=True))
    assert net.widths == (4, 3, 2)


def test_dense_layers_over_positions(tmp_path):
    x, layer = floats(2, 6, 4), dense(3, 4, "relu")
    found = computed(tmp_path, lambda: [given(6, 4), layer], x)
    wanted = x @ layer.weights["kernel"] + layer.weights["bias"]
    assert close(found, np.maximum(wanted, 0), atol=1e-5)


def test_a_layer_that_is_called_twice_is_one_layer(tmp_path):
    import json

    import h5py

    layer = dense(4, 4, "tanh")
    path = write_h5(tmp_path / "a.h5", [given(4), layer])
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        entry = config["config"]["layers"][1]
        entry["inbound_nodes"].append([[entry["name"], 0, 0, {}]])
        config["config"]["output_layers"] = [[entry["name"], 1, 0]]
        file.attrs["model_config"] = json.dumps(config)
    net, x = mo.load(path), floats(3, 4)
    w, b = layer.weights["kernel"], layer.weights["bias"]
    assert np.allclose(net(x), np.tanh(np.tanh(x @ w + b) @ w + b), atol=1e-5)
    if isinstance(net, mo.Graph):
        assert net.parameters == 20


def test_groups_of_weights_that_name_their_layers(tmp_path):
    layers = [given(4), dense(8, 4, "relu"), dense(8, 8, "tanh"), dense(2, 8, "linear")]
    a = mo.load(write_keras(tmp_path / "a.keras", layers))
    swapped = {layers[1].name: "dense_1", layers[2].name: "dense"}
    b = mo.load(write_keras(tmp_path / "b.keras", layers, groups=swapped))
    assert np.allclose(a(floats(1, 4) * 0), b(floats(1, 4) * 0))


def test_compressed_and_written_as_onnx_alone(tmp_path):
    w = floats(3, 3, 3, 6)
    w[..., [1, 4]] = 0
    b = floats(6)
    b[[1, 4]] = 0
    layers = [
        given(8, 8, 3), L("Conv2D", dict(filters=6, kernel_size=[3, 3], activation="relu"), {"kernel": w, "bias": b}),
        L("Conv2D", dict(filters=2, kernel_size=[1, 1]), {"kernel": floats(1, 1, 6, 2), "bias": floats(2)}),
    ]  # fmt: skip
    path = write_keras(tmp_path / "a.keras", layers)
    small = mo.compress(mo.load(path))
    assert [axis.size for axis in small.network.axes if axis.frozen is None] == [4]
    target = mo.save(small.network, tmp_path / "a.onnx")
    small.save(tmp_path / "a.cert.json")
    mo.check(tmp_path / "a.cert.json", target, path)
    with pytest.raises(UnsupportedModel, match=r"a graph is written as \.onnx"):
        mo.save(small.network, tmp_path / "a.keras")


def test_many_layers_in_a_row(tmp_path):
    layers = [given(4), *(dense(4, 4, "tanh") for _ in range(3))]
    layers += [L("Dropout", {"rate": 0.5}) for _ in range(600)]
    assert mo.load(write_h5(tmp_path / "a.h5", layers)).widths == (4, 4, 4, 4)
