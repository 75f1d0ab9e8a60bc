"""ONNX: products that are activations, as exporters spell silu and both gelus out."""

from __future__ import annotations

import math

from .activations import Activation
from .onnx_nodes import Node, Op, Reader, Value, as_data


def gate(reader: Reader, node: Node) -> tuple[str, Op] | None:
    """The value that a product is an activation of, and what makes the product of it."""
    found = _Gate(reader, node).match()
    if found is None:
        return None
    x, kind, factor = found
    return x, lambda value: _gated(reader, value, kind, factor)


class _Gate:
    """Recognises x sigmoid(x), and both gelus as exporters spell them, in a tree of Mul nodes."""

    def __init__(self, reader: Reader, node: Node) -> None:
        self.reader, self.node = reader, node

    def match(self) -> tuple[str, str, float] | None:
        """(x, kind, factor) where the product is factor * kind(x)."""
        for leaf in self._leaves(self.node.outputs[0], ""):
            found = self._gate(leaf)
            if found is None:
                continue
            x, kind, factor = found
            rest = [other for other in self._leaves(self.node.outputs[0], x) if other != leaf]
            numbers = [self.reader.scalar(other) for other in rest if other != x]
            if rest.count(x) == 1 and None not in numbers:
                return x, kind, factor * math.prod(n for n in numbers if n is not None)
        return None

    def _origin(self, name: str) -> str:
        for _ in range(100):
            node = self.reader.makers.get(name)
            if node is None or node.op not in ("Identity", "Cast", "CastLike") or not node.inputs:
                break
            name = node.inputs[0]
        return name

    def _made(self, name: str, *ops: str) -> Node | None:
        node = self.reader.makers.get(self._origin(name))
        return node if node is not None and node.op in ops and all(node.inputs) else None

    def _leaves(self, name: str, stop: str) -> list[str]:
        """Factors of the tree of products, not looking into `stop`."""
        stack, found = [name], list[str]()
        while stack:
            name = self._origin(stack.pop())
            node = None if name == stop else self._made(name, "Mul")
            if node is None or len(found) + len(stack) > 8:
                found.append(name)
            else:
                stack += node.inputs
        return found

    def _with_number(self, name: str, op: str) -> tuple[str, float] | None:
        """The other operand, and the number, of a sum or product with a number."""
        node = self._made(name, op)
        if node is None or len(node.inputs) != 2:
            return None
        for a, b in (node.inputs, node.inputs[::-1]):
            number = self.reader.scalar(self._origin(b))
            if number is not None:
                return self._origin(a), number
        return None

    def _gate(self, leaf: str) -> tuple[str, str, float] | None:
        node = self._made(leaf, "Sigmoid")
        if node is not None:
            return self._origin(node.inputs[0]), "silu", 1.0
        plus = self._with_number(leaf, "Add")
        node = self._made(plus[0], "Erf", "Tanh") if plus is not None and plus[1] == 1.0 else None
        if node is None:
            return None
        x = self._erf_argument(node.inputs[0]) if node.op == "Erf" else self._tanh_argument(node.inputs[0])
        return None if x is None else (x, "gelu" if node.op == "Erf" else "gelu_tanh", 2.0)

    def _erf_argument(self, name: str) -> str | None:
        division = self._made(name, "Div")
        if division is not None and len(division.inputs) == 2:
            number = self.reader.scalar(self._origin(division.inputs[1]))
            return self._origin(division.inputs[0]) if number is not None and _near(number, math.sqrt(2)) else None
        product = self._with_number(name, "Mul")
        return product[0] if product is not None and _near(product[1], math.sqrt(0.5)) else None

    def _tanh_argument(self, name: str) -> str | None:
        outer = self._with_number(name, "Mul")
        total = self._made(outer[0], "Add") if outer is not None and _near(outer[1], math.sqrt(2 / math.pi)) else None
        for a, b in (total.inputs, total.inputs[::-1]) if total is not None and len(total.inputs) == 2 else ():
            x, cubic = self._origin(a), self._with_number(b, "Mul")
            if cubic is not None and _near(cubic[1], 0.044715) and self._cube(cubic[0]) == x:
                return x
        return None

    def _cube(self, name: str) -> str | None:
        power = self._made(name, "Pow")
        if power is not None and len(power.inputs) == 2 and self.reader.scalar(self._origin(power.inputs[1])) == 3.0:
            return self._origin(power.inputs[0])
        leaves = self._leaves(name, "")
        return leaves[0] if len(leaves) == 3 and len(set(leaves)) == 1 else None


def _near(number: float, ideal: float) -> bool:
    """Whether a stored number is an irrational constant, up to float32."""
    return abs(number - ideal) <= 2e-7 * ideal


def _gated(reader: Reader, x: Value | None, kind: str, factor: float) -> Value:
    if kind != "silu":
        reader.note(f"read a product as {kind}, and its float32 constants as the numbers they stand for")
    return as_data(x).activate(Activation(kind)).scaled(factor)
