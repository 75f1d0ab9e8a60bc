"""The one representation of a network: affine layers with elementwise activations between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from .activations import Activation
from .box import Frame
from .errors import ShapeError, UnsupportedModel

Array = np.ndarray[Any, np.dtype[np.float64]]
IDENTITY = Activation("identity")


def _float64(array: Any, where: str) -> Array:
    """An own float64 copy; raises where the conversion would lose a bit."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array.double() if array.is_floating_point() else array
    given = np.asarray(array)
    if given.dtype.kind not in "fiub" and given.dtype.name != "bfloat16":
        raise UnsupportedModel(f"{where} has dtype {given.dtype}; real numbers are needed")
    with np.errstate(over="ignore", invalid="ignore"):
        own = np.array(given, dtype=np.float64, order="C")
        own += 0.0  # -0.0 and 0.0 are one number
    if given.dtype.itemsize >= 8 and given.dtype != np.float64 and not _same(own, given):
        raise UnsupportedModel(
            f"{where} has dtype {given.dtype} and values that float64 cannot hold exactly; convert it first"
        )
    own.setflags(write=False)
    return own


def _same(own: Array, given: Any) -> bool:
    """Whether nothing was lost; a float beyond all integers of a type has no cast to it."""
    if given.dtype.kind in "iu" and (own >= 2.0 ** (63 if given.dtype.kind == "i" else 64)).any():
        return False
    return bool(np.array_equal(own.astype(given.dtype), given))


@dataclass(frozen=True, eq=False)
class Layer:
    """x -> activation(weight @ x + bias).

    Args:
        weight: ``[out, in]`` incoming weights, float64.
        bias: ``[out]``, float64 (an own axis name, so that a wrong length gets this class's own
            error).
        activation: elementwise.

    Raises:
        ShapeError: the shapes do not fit.
        UnsupportedModel: another dtype, or an entry that is not finite.
    """

    weight: Float64[np.ndarray[Any, Any], "out in"]
    bias: Float64[np.ndarray[Any, Any], " units"]
    activation: Activation

    def __post_init__(self) -> None:
        for name, ndim in (("weight", 2), ("bias", 1)):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != np.float64:
                raise UnsupportedModel(
                    f"{name} is {getattr(array, 'dtype', type(array).__name__)}, not a float64 array; Network.mlp converts"
                )
            if type(array) is not np.ndarray:  # a class of somebody's own may compute as it likes
                array = _float64(array, name)
                object.__setattr__(self, name, array)
            if array.ndim != ndim:
                raise ShapeError(f"{name} has shape {array.shape}; {ndim} axes are needed")
            if not np.isfinite(array).all():
                at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                raise UnsupportedModel(
                    f"{name}{list(at)} is {array[at]}; every parameter must be finite"
                )
            if array.flags.writeable or array.base is not None or not array.flags.c_contiguous:
                object.__setattr__(self, name, _float64(array, name))
        if self.weight.shape[0] != self.bias.shape[0]:
            raise ShapeError(
                f"weight has shape {self.weight.shape} but bias {self.bias.shape}: rows and biases must agree"
            )

    def __call__(
        self, x: Float64[np.ndarray[Any, Any], "batch in"]
    ) -> Float64[np.ndarray[Any, Any], "batch out"]:
        """Its activations at ``x``, in float64 arithmetic."""
        return self.activation(x @ self.weight.T + self.bias)

    def __reduce__(self) -> tuple[Any, ...]:
        """Through the constructor, so that arrays are read-only again."""
        return Layer, (self.weight, self.bias, self.activation)


def _layer(l: int, weight: Any, bias: Any, activation: Activation) -> Layer:
    """A layer of anything array-like; errors name it."""
    arrays = _float64(weight, f"W{l}"), _float64(bias, f"b{l}")
    try:
        return Layer(*arrays, activation)
    except (ShapeError, UnsupportedModel) as error:
        raise error.at(f"layer {l}") from None


class Ends(NamedTuple):
    """Names of the input and the output of a file, and the type of their entries."""

    input: str
    output: str
    dtype: str


@dataclass(frozen=True, eq=False)
class Network:
    """A feed-forward network; immutable.

    Args:
        layers: the last one is affine (activation identity).
        notes: what a reader had to do to the model (folded maps with their certified rounding,
            ...).
        output_map: what is applied to the output at evaluation: an activation's name or
            ``"softmax"``. Claims of equality, and every bound, concern the output before this map.
        frame: the physical coordinates of the inputs where the file has them (`.nnet`).
        ends: what an ONNX file calls its input and output, and their type; written again.

    >>> import numpy as np
    >>> net = Network.mlp([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0]], [0.0], activation="relu")
    >>> net, net.units, net.parameters
    (Network(1-2-1, relu, 7 parameters), 2, 7)
    >>> bool((net(np.array([[-3.0], [2.0]])) == np.array([[3.0], [2.0]])).all())
    True
    """

    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()
    output_map: str = "identity"
    frame: Frame | None = None
    ends: Ends | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "notes", tuple(self.notes))
        if not self.layers:
            raise ShapeError("a network needs at least one layer; none given")
        if self.output_map != "softmax":
            object.__setattr__(self, "output_map", str(Activation.of(self.output_map)))
        if self.layers[-1].activation != IDENTITY:
            raise ShapeError(
                f"the last layer must be affine but has activation {self.layers[-1].activation}; give it as output_map"
            )
        if self.widths[0] < 1 or self.widths[-1] < 1:
            raise ShapeError(f"widths {self.widths}: at least one input and one output are needed")
        for l, (lower, upper) in enumerate(zip(self.layers, self.layers[1:], strict=False), 1):
            if lower.weight.shape[0] != upper.weight.shape[1]:
                raise ShapeError(
                    f"layer {l} has {lower.weight.shape[0]} units but layer {l + 1} has weight of shape {upper.weight.shape}"
                )

    @staticmethod
    def mlp(*arrays: Any, activation: Any = "tanh", output_map: str = "identity") -> Network:
        """A network from ``W1, b1, W2, b2, ...`` (``W`` is ``[out, in]``).

        Args:
            arrays: anything array-like; converted to float64, which must be exact.
            activation: one for all hidden layers, or a list with one per hidden layer.

        >>> Network.mlp([[1, 2]], [0], [[1]], [0], activation="tanh").widths
        (2, 1, 1)
        """
        if len(arrays) % 2 or not arrays:
            raise ShapeError(f"{len(arrays)} arrays given; W1, b1, W2, b2, ... come in pairs")
        depth = len(arrays) // 2
        names = (
            [activation] * (depth - 1)
            if isinstance(activation, (str, Activation))
            else list(activation)
        )
        if len(names) != depth - 1:
            raise ShapeError(f"{len(names)} activations for {depth - 1} hidden layers")
        kinds = [*map(Activation.of, names), IDENTITY]
        layers = [_layer(l + 1, arrays[2 * l], arrays[2 * l + 1], kinds[l]) for l in range(depth)]
        return Network(tuple(layers), output_map=output_map)

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden widths, outputs."""
        return (self.layers[0].weight.shape[1], *(layer.weight.shape[0] for layer in self.layers))

    @property
    def units(self) -> int:
        """Number of hidden units."""
        return sum(self.widths[1:-1])

    @property
    def parameters(self) -> int:
        return sum(layer.weight.size + layer.bias.size for layer in self.layers)

    @property
    def activations(self) -> tuple[Activation, ...]:
        """One per hidden layer."""
        return tuple(layer.activation for layer in self.layers[:-1])

    @property
    def dtype(self) -> str:
        """The narrowest of float32 and float64 that holds every parameter exactly."""
        arrays = (part for layer in self.layers for part in (layer.weight, layer.bias))
        with np.errstate(over="ignore"):
            return (
                "float32"
                if all(np.array_equal(a.astype(np.float32), a) for a in arrays)
                else "float64"
            )

    def rounded(self, dtype: str) -> Network:
        """Every parameter rounded to the nearest float32 (or, for float64, the same network)."""
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype {dtype!r}: float32 or float64")
        if dtype == "float64":
            return self
        layers = []
        for l, layer in enumerate(self.layers, 1):
            with np.errstate(over="ignore", under="ignore"):
                weight, bias = (
                    a.astype(np.float32).astype(np.float64) for a in (layer.weight, layer.bias)
                )
            for name, old, new in (("weight", layer.weight, weight), ("bias", layer.bias, bias)):
                if not np.isfinite(new).all():
                    raise UnsupportedModel(
                        f"layer {l}: {name} {old[~np.isfinite(new)][0]} exceeds float32; write dtype='float64'"
                    )
            layers.append(Layer(weight, bias, layer.activation))
        return replace(self, layers=tuple(layers))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of architecture and parameters: the same digest, the same function.

        Notes and frame do not enter.
        """
        head = {
            "widths": self.widths,
            "activations": [str(a) for a in self.activations],
            "output_map": self.output_map,
        }
        sha = hashlib.sha256(json.dumps(head).encode())
        for layer in self.layers:
            for array in (layer.weight, layer.bias):
                sha.update(
                    np.ascontiguousarray(array, dtype="<f8").data.cast("B") if array.size else b""
                )
        return "sha256:" + sha.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        kinds = list(dict.fromkeys(map(str, self.activations))) or ["affine"]
        tail = "" if self.output_map == "identity" else f", {self.output_map} output"
        return f"Network({'-'.join(map(str, self.widths))}, {'/'.join(kinds)}{tail}, {self.parameters} parameters)"

    @np.errstate(all="ignore")
    def logits(
        self, x: Float64[np.ndarray[Any, Any], "batch in"]
    ) -> Float64[np.ndarray[Any, Any], "batch out"]:
        """The output before `output_map`, in float64 arithmetic."""
        h = np.asarray(x, dtype=np.float64)
        if h.ndim != 2 or h.shape[1] != self.widths[0]:
            raise ShapeError(f"input has shape {h.shape}; [batch, {self.widths[0]}] is needed")
        for layer in self.layers:
            h = layer(h)
        return h

    @np.errstate(all="ignore")
    def __call__(self, x: Any) -> Float64[np.ndarray[Any, Any], "batch out"]:
        """Evaluate at ``x`` of shape ``[batch, in]`` in float64 arithmetic."""
        z = self.logits(np.asarray(x, dtype=np.float64))
        if self.output_map == "softmax":
            e = np.exp(z - z.max(axis=1, keepdims=True))
            return np.asarray(e / e.sum(axis=1, keepdims=True))
        return Activation.of(self.output_map)(z)

    def flat(self) -> Float64[np.ndarray[Any, Any], " parameters"]:
        """All parameters: W1 (row-major), b1, W2, b2, ..."""
        return np.concatenate(
            [part.ravel() for layer in self.layers for part in (layer.weight, layer.bias)]
        )

    def with_flat(self, theta: Float64[np.ndarray[Any, Any], " parameters"]) -> Network:
        """The same architecture with the parameters ``theta``, ordered as in `flat`."""
        theta = np.asarray(theta, dtype=np.float64)
        if theta.shape != (self.parameters,):
            raise ShapeError(f"theta has shape {theta.shape}; ({self.parameters},) is needed")
        layers, at = [], 0
        for layer in self.layers:
            parts = []
            for old in (layer.weight, layer.bias):
                parts.append(theta[at : at + old.size].reshape(old.shape).copy())
                at += old.size
            layers.append(Layer(parts[0], parts[1], layer.activation))
        return replace(self, layers=tuple(layers), notes=())

    def with_layers(
        self, layers: Iterable[Layer] | Sequence[Layer], notes: tuple[str, ...] = ()
    ) -> Network:
        """The same output map, frame and names of ends around other layers."""
        return replace(self, layers=tuple(layers), notes=notes)


def rebuilt(net: Network) -> Network:
    """The same network made anew: arrays of plain floats, activations by their names, and a digest
    of just these.

    Whatever else an object brought, such as a class of its own or a digest that was set by hand,
    stays behind. Arrays that are read-only and own their memory are not copied.
    """
    layers = []
    for layer in net.layers:
        activation = Activation.of(str.__str__(str(layer.activation)))
        layers.append(Layer(layer.weight, layer.bias, activation))
    return Network(tuple(layers), net.notes, str.__str__(net.output_map), net.frame, net.ends)
