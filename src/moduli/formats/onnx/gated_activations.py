"""ONNX: products that are activations, as exporters spell silu, mish, hard swish and both gelus
out.

A product of several factors is an activation of x where exactly one factor is a gate of x, exactly
one is x, and all others are constants. Numbers inside a gate must be those of the activation, or
where these are irrational the floats nearest to them; what that does to the function is certified
and noted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moduli.kernel.activations import Activation
from moduli.kernel.errors import UnsupportedModel

from .constants import FLOATS, numpy_type
from .nodes import Node, Op, Reader, Value, as_ball, as_data

MOST_FACTORS = 8
SINGLE = 1e-6  # constants that are the nearest float32 change an activation by less


@dataclass(frozen=True)
class _Gate:
    """``factor * kind(x)`` is x times the gate; constants off by a relative `error` change it by at
    most `change`.
    """

    x: str
    kind: str
    factor: float = 1.0
    change: float = 0.0


def gate(reader: Reader, node: Node) -> tuple[tuple[str, ...], Op] | None:
    """The values that a product is an activation of, the argument first, and what makes the product
    of them.
    """
    for name in dict.fromkeys(_factors(reader, node.outputs[0])):
        found = _gate(reader, name)
        if found is None:
            continue
        factors = _factors(reader, node.outputs[0], found.x)
        numbers = [other for other in factors if other not in (name, found.x)]
        once = factors.count(name) == factors.count(found.x) == 1
        if once and all(reader.is_constant(other) for other in numbers):
            return (found.x, *numbers), lambda x, *given, found=found: _gated(
                reader, found, x, given
            )
    return None


def _gated(reader: Reader, found: _Gate, x: Value, numbers: Sequence[Value]) -> Value:
    """The activation times all numbers, exactly, with the shape that they broadcast to."""
    if found.change:
        if found.change > SINGLE and reader.kind(found.x) in (1, 11):
            raise UnsupportedModel(
                f"the constants of a {found.kind} in half precision, on data that is not"
            )
        reader.unit = max(reader.unit, found.change)
        reader.note(
            f"read a product as {found.kind}: its constants are the floats nearest to the irrational ones, "
            f"which changes the value by at most {found.change:.1e} times the constant factors"
        )
    if not as_data(x).shape:
        raise UnsupportedModel("a product with a gate of a tensor without axes")
    y = as_data(x).activate(Activation(found.kind)).scaled(found.factor)
    for number in numbers:
        y = y.scaled(as_ball(number, "a factor of the gate"))
    return y


def _origin(reader: Reader, name: str) -> str:
    """Where a value comes from, through identities and casts to floating types, which do nothing to
    real numbers.
    """
    for _ in range(100):
        node = reader.makers.get(name)
        if node is None or not node.inputs or not (node.op == "Identity" or _to_float(node)):
            break
        if reader.is_constant(name):  # a cast rounds a constant
            break
        name = node.inputs[0]
    return name


def _to_float(node: Node) -> bool:
    return node.op == "Cast" and node.attribute("to", 0) in FLOATS


def _made(reader: Reader, name: str, *ops: str) -> Node | None:
    """The node that makes a value of data, if it is of these operations."""
    node = reader.makers.get(_origin(reader, name))
    if node is None or node.op not in ops or not all(node.inputs) or node.proto.attribute:
        return None
    node.require_known(reader.opset)
    return node


def _factors(reader: Reader, name: str, stop: str = "") -> list[str]:
    """Factors of the tree of products, each as often as it occurs, not looking into `stop` nor into
    constants.
    """
    stack, found = [name], list[str]()
    while stack:
        name = _origin(reader, stack.pop())
        node = None if name == stop or reader.is_constant(name) else _made(reader, name, "Mul")
        if node is None or len(node.inputs) != 2 or len(found) + len(stack) > MOST_FACTORS:
            found.append(name)
        else:
            stack += node.inputs
    return found


def _with_number(reader: Reader, name: str, op: str) -> tuple[str, float] | None:
    """The other operand, and the number, of a sum or product with a number that adds no axes."""
    node = _made(reader, name, op)
    if node is None or len(node.inputs) != 2:
        return None
    for a, b in (node.inputs, node.inputs[::-1]):
        number = _number(reader, b)
        if number is not None:
            return _origin(reader, a), number
    return None


def _number(reader: Reader, name: str) -> float | None:
    """A stored number without axes, or one cast to a floating type that holds it; it may not add an
    axis to what it meets.
    """
    node = reader.makers.get(name)
    if (
        node is not None
        and (node.op in ("Identity", "CastLike") or _to_float(node))
        and node.inputs
    ):
        inner = _number(reader, node.inputs[0])
        if inner is None or node.op == "Identity":
            return inner
        if (
            node.op == "CastLike"
        ):  # the type is not known here: a number that half precision holds stays what it is
            return (
                inner
                if float(np.float16(inner)) == inner == float(np.float32(inner))
                and abs(inner) < 256
                else None
            )
        kept = np.asarray(inner).astype(numpy_type(node.attribute("to", 0)))
        return float(kept)
    return reader.scalar(name)


def _gate(reader: Reader, name: str) -> _Gate | None:
    """What x times a value is, if that value is the gate of an activation of x."""
    node = _made(reader, name, "Sigmoid")
    if node is not None:
        return _Gate(_origin(reader, node.inputs[0]), "silu")
    found = _hard_gate(reader, name) or _soft_gate(reader, name)
    if found is not None:
        return found
    plus = _with_number(reader, name, "Add")
    node = _made(reader, plus[0], "Erf", "Tanh") if plus is not None and plus[1] == 1.0 else None
    if node is None:
        return None
    return (
        _erf_gate(reader, node.inputs[0])
        if node.op == "Erf"
        else _tanh_gate(reader, node.inputs[0])
    )


def _hard_gate(reader: Reader, name: str) -> _Gate | None:
    """``clip(x + 3, 0, 6)``, or a hard sigmoid of slope 1/6.

    With a slope off by a relative error e, x gate is off by at most 9 / 6 e where |x| <= 3, and
    hardly beyond.
    """
    node = reader.makers.get(_origin(reader, name))
    if node is None or not all(node.inputs[:1]):
        return None
    if node.op == "HardSigmoid":
        node.require_known(reader.opset)
        slope = node.attribute("alpha", float(np.float32(0.2)))
        error = _nearest(slope, 1 / 6) if node.attribute("beta", 0.5) == 0.5 else None
        return (
            None
            if error is None
            else _Gate(_origin(reader, node.inputs[0]), "hardswish", 1.0, 1.6 * error)
        )
    if node.op != "Clip" or _ends(reader, node) != (0.0, 6.0):
        return None
    node.require_known(reader.opset)
    plus = _with_number(reader, node.inputs[0], "Add")
    return _Gate(plus[0], "hardswish", 6.0) if plus is not None and plus[1] == 3.0 else None


def _ends(reader: Reader, node: Node) -> tuple[float | None, ...]:
    if reader.opset < 11:
        return node.attribute("min", -math.inf), node.attribute("max", math.inf)
    return tuple(_number(reader, name) for name in node.inputs[1:])


def _soft_gate(reader: Reader, name: str) -> _Gate | None:
    """``tanh(softplus(x))``."""
    tanh = _made(reader, name, "Tanh")
    soft = _made(reader, tanh.inputs[0], "Softplus") if tanh is not None else None
    return None if soft is None else _Gate(_origin(reader, soft.inputs[0]), "mish")


def _erf_gate(reader: Reader, name: str) -> _Gate | None:
    """``1 + erf(x / sqrt 2)``: with x / sqrt 2 off by a relative error e the product x gate is off
    by at most 2/3 e.

    Its derivative in the factor t of erf(t x / sqrt 2) is 2 x^2 phi(t x) <= 4 phi(sqrt 2) / t^2 =
    0.588 / t^2.
    """
    division = _made(reader, name, "Div")
    if division is not None and len(division.inputs) == 2:
        x, number, ideal = division.inputs[0], _number(reader, division.inputs[1]), math.sqrt(2)
    else:
        product = _with_number(reader, name, "Mul")
        if product is None:
            return None
        (x, number), ideal = product, math.sqrt(0.5)
    error = None if number is None else _nearest(number, ideal)
    return None if error is None else _Gate(_origin(reader, x), "gelu", 2.0, 2 / 3 * error)


def _tanh_gate(reader: Reader, name: str) -> _Gate | None:
    """``1 + tanh(c (x + k x^3))``: with c and k off by relative errors d and e, x gate is off by at
    most 2/3 (d + e).

    With u = c (x + k x^3), |x| <= |u| / c: the change is at most |x| |u| (d + e) sech^2(u') with u'
    between, and u^2 sech^2(u) <= 0.44, so at most 0.44 / c (d + e) = 0.56 (d + e), up to the change
    of u itself.
    """
    outer = _with_number(reader, name, "Mul")
    first = None if outer is None else _nearest(outer[1], math.sqrt(2 / math.pi))
    total = None if outer is None or first is None else _made(reader, outer[0], "Add")
    if total is None or len(total.inputs) != 2 or first is None:
        return None
    for a, b in (total.inputs, total.inputs[::-1]):
        x, cubic = _origin(reader, a), _with_number(reader, b, "Mul")
        second = None if cubic is None else _nearest(cubic[1], 0.044715)
        if cubic is not None and second is not None and _cube(reader, cubic[0]) == x:
            return _Gate(x, "gelu_tanh", 2.0, 2 / 3 * (first + second))
    return None


def _cube(reader: Reader, name: str) -> str | None:
    power = _made(reader, name, "Pow")
    if power is not None and len(power.inputs) == 2 and _number(reader, power.inputs[1]) == 3.0:
        return _origin(reader, power.inputs[0])
    factors = _factors(reader, name)
    return factors[0] if len(factors) == 3 and len(set(factors)) == 1 else None


def _nearest(number: float, ideal: float) -> float | None:
    """A bound of the relative error of a number that is an ideal one rounded to float64, float32 or
    half precision.
    """
    for kind in (11, 1, 10, 16):
        if float(np.asarray(ideal).astype(numpy_type(kind))) == number:
            # the ideal itself is known to float64 only
            return abs(number - ideal) / ideal + 2.0**-52
    return None
