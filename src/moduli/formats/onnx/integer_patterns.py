"""Operators between DequantizeLinear and QuantizeLinear as the operators on integers that onnxruntime
makes of them.

It does so with its usual options (all optimisations, `session.disable_quant_qdq` 0). Without, such an
operator runs in floats, and nobody says in which order these are added. What it makes nothing of is left
here as it is, and refused by whoever computes.

    DequantizeLinear -> Conv -> QuantizeLinear       QLinearConv; likewise MatMul, Gemm, Add, Mul, pools
    ... -> Conv -> Relu -> QuantizeLinear            the same, where integers begin at zero; likewise Clip
    DequantizeLinear -> Relu -> QuantizeLinear       runs in floats, one by one; likewise Clip
    DequantizeLinear -> MaxPool -> QuantizeLinear    the operator on integers, where both scales are one

Integers with a sign it first makes such without on x86 processors, where each is read once; others stay, and
operators between the two kinds stay in floats. So of int8 tensors that are read several times, and Add, Mul and
AveragePool, are refused; those of uint8 are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moduli.kernel.errors import UnsupportedModel

from .nodes import kind_of

DEQUANTISE, QUANTISE = "DequantizeLinear", "QuantizeLinear"
CONTRIBUTED = "com.microsoft"
OWN = "moduli"  # of nodes that stand for a few in floats
CUTS = ("Relu", "Clip")
MOVES = ("Flatten", "Identity", "MaxPool", "Reshape", "Transpose")
SUMS = {"Conv": "QLinearConv", "MatMul": "QLinearMatMul", "Gemm": "QGemm"}
UNSIGNED = ("Add", "Mul", "AveragePool")  # of int8 they stay in floats
WHOLE = {  # all that they read is dequantised
    "Add": "QLinearAdd", "Mul": "QLinearMul", "AveragePool": "QLinearAveragePool",
    "GlobalAveragePool": "QLinearGlobalAveragePool", "LeakyRelu": "QLinearLeakyRelu", "Concat": "QLinearConcat",
}  # fmt: skip


class Patterns:
    """Nodes of a graph, of which some are put together.

    Args:
        arrays: stored tensors by name.

    Attributes:
        nodes: those of the graph, in order, with one for each pattern.
    """

    def __init__(self, graph: Any, arrays: Mapping[str, Any]) -> None:
        self.arrays = arrays
        self.outputs = {value.name for value in graph.output}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.uses.update(self.outputs)
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        made: dict[str, Any] = {}  # in place of the node that gives this
        gone = set[str]()  # what nodes give that are left out
        for node in graph.node:
            found = self._fused(node)
            if found is not None:
                made[node.output[0]], behind = found
                gone.update(behind)
        kept = [node for node in graph.node if not gone.intersection(node.output)]
        kept = [made.get(node.output[0], node) if node.output else node for node in kept]
        read = {name for node in kept for name in node.input} | self.outputs
        self.nodes = [
            node for node in kept if kind_of(node) != DEQUANTISE or node.output[0] in read
        ]

    def _fused(self, node: Any) -> tuple[Any, list[str]] | None:
        """One node in place of several, and what those behind it give; None where there is no pattern."""
        kind = kind_of(node)
        if kind not in (*MOVES, *SUMS, *WHOLE, *CUTS):
            return None
        behind, last = [], node
        if kind in SUMS:
            cut = self._only_reader(node)
            if cut is not None and kind_of(cut) in CUTS:
                last = cut
                behind.append(cut.output[0])
        rounds = self._only_reader(last)
        if rounds is None or kind_of(rounds) != QUANTISE or not _plain(rounds):
            return None
        if last is not node and not self._cut_by_integers(last, rounds):
            return None
        inputs = self._inputs(node, kind, rounds)
        if inputs is None:
            return None
        return self._node(node, kind, inputs, rounds.output[0]), [*behind, rounds.output[0]]

    def _only_reader(self, node: Any) -> Any:
        readers = self.readers.get(node.output[0], []) if len(node.output) == 1 else []
        return readers[0] if len(readers) == 1 and node.output[0] not in self.outputs else None

    def _cut_by_integers(self, node: Any, rounds: Any) -> bool:
        """Whether integers stand for nothing that a relu or a clip would change."""
        scale, zero = (self.arrays.get(name) for name in [*rounds.input[1:3], "", ""][:2])
        if scale is None or zero is None or zero.size != 1 or zero.dtype not in (np.uint8, np.int8):
            return False
        ends = [np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max]
        least, most = (np.float32(scale) * np.float32(end - int(zero.ravel()[0])) for end in ends)
        low, high = self._ends(node)
        return bool(low is not None and high is not None and low <= least and most <= high)

    def _ends(self, node: Any) -> tuple[Any, Any]:
        """Between which a relu or a clip holds numbers; None where that is not stored."""
        if kind_of(node) == "Relu":
            return np.float32(0.0), np.float32(np.inf)
        if node.attribute:  # of operator sets before 11
            return None, None
        found = []
        for name, other in zip([*node.input[1:3], "", ""][:2], (-np.inf, np.inf), strict=True):
            array: Any = self.arrays.get(name) if name else np.float32(other)
            known = array is not None and np.size(array) == 1
            found.append(np.float32(np.ravel(array)[0]) if known else None)
        return found[0], found[1]

    def _inputs(self, node: Any, kind: str, rounds: Any) -> list[str] | None:
        """Of the node on integers."""
        end = [*rounds.input[1:3]]
        if len(end) < 2:
            return None
        first = self._integers(node.input[0])
        if first is None:
            return None
        if kind in MOVES:
            same = all(map(self._equal, first[1:], end))
            return [first[0], *node.input[1:]] if same else None
        if kind in CUTS:
            low, high = self._ends(node)
            return [*first, *end] if low is not None and high is not None and low <= high else None
        if self._type(first) != self._type(["", *end]):  # it runs in floats
            return None
        signed = self._type(first) == np.int8
        if signed:
            self._require_ends(first[0], node.input[0], rounds.output[0])
        if kind in SUMS:
            weight = self._integers(node.input[1], axis=_axis(node, kind))
            if weight is None or not self._meet(first, weight):
                return None
            bias = self._bias(node, first, weight)
            if bias is None:
                return None
            middle = [*first, *weight]
            if kind == "MatMul":
                return [*middle, *end]
            return [*middle, *end, *bias] if kind == "Conv" else [*middle, *(bias or [""]), *end]
        if kind in UNSIGNED and signed:
            place = f"{kind} ({node.name or node.output[0]})"
            raise UnsupportedModel(
                f"{place} of int8 is left in floats on some processors; quantise to uint8"
            )
        parts = [first, *(self._integers(name) for name in node.input[1:])]
        flat = [name for part in parts if part is not None for name in part]
        if None in parts:
            return None
        return [*end, *flat] if kind == "Concat" else [*flat, *end]

    def _require_ends(self, first: str, floats: str, last: str) -> None:
        """Refuse int8 tensors that are no pair of one node that rounds and one behind it, read once."""
        makers, behind = [self.makers.get(first)], self.readers.get(last, [])
        pairs = [kind_of(node) for node in (*makers, *behind) if node is not None]
        names = [first, floats, last, *(name for node in behind for name in node.output)]
        often = [name for name in names if self.uses[name] > 1]
        if pairs != [QUANTISE, DEQUANTISE] or often:
            raise UnsupportedModel(
                f"{(often or [last])[0]!r} of int8 is read several times, or as integers, which leaves operators "
                "in floats on some processors; quantise to uint8"
            )

    def _integers(self, name: str, axis: int | None = None) -> list[str] | None:
        """Integers, scale and zero point behind a float; None where it is none. Scales of several units
        have to be along an axis.
        """
        node = self.makers.get(name)
        if node is None or kind_of(node) != DEQUANTISE or len(node.input) < 3 or not _plain(node):
            return None
        scale = self.arrays.get(node.input[1])
        if scale is None or (scale.size > 1 and _given(node, "axis", 1) != axis):
            return None
        return list(node.input)

    def _meet(self, x: Sequence[str], weight: Sequence[str]) -> bool:
        """Whether onnxruntime has a kernel for integers of both types."""
        return bool(self._type(x) != np.int8 or self._type(weight) == np.int8)

    def _type(self, integers: Sequence[str]) -> Any:
        """That of the zero point; None where it is not stored."""
        zero = self.arrays.get(integers[2])
        return None if zero is None else zero.dtype

    def _bias(self, node: Any, x: Sequence[str], weight: Sequence[str]) -> list[str] | None:
        """Integers of the bias, which have the scale of the sums; None where they have another one."""
        if kind_of(node) == "MatMul" or len(node.input) < 3 or not node.input[2]:
            return []
        found = self.makers.get(node.input[2])
        if found is None or kind_of(found) != DEQUANTISE or not _plain(found):
            return None
        zero = self.arrays.get(found.input[2]) if len(found.input) > 2 else np.zeros(())
        names = [*found.input[1:2], x[1], weight[1]]
        scales = [np.ravel(self.arrays[name]) for name in names if name in self.arrays]
        if zero is None or zero.any() or len(scales) < 3:
            return None
        own = scales[0]
        sums = scales[1] * scales[2]  # of float32, as whoever quantises works it out
        return [found.input[0]] if own.shape == sums.shape and (own == sums).all() else None

    def _equal(self, one: str, other: str) -> bool:
        a, b = self.arrays.get(one), self.arrays.get(other)
        return a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b)

    def _node(self, node: Any, kind: str, inputs: Sequence[str], output: str) -> Any:
        from onnx import NodeProto, helper

        if kind in MOVES:
            made = NodeProto()
            made.CopyFrom(node)
            del made.input[:], made.output[:]
            made.input.extend(inputs)
            made.output.append(output)
            return made
        if kind in CUTS:
            low, high = map(float, self._ends(node))
            given = {"name": node.name, "domain": OWN, "low": low, "high": high}
            return helper.make_node("Cut", inputs, [output], **given)
        name, domain = SUMS.get(kind) or WHOLE[kind], CONTRIBUTED
        if kind in ("Conv", "MatMul"):
            domain = ""
        made = helper.make_node(name, inputs, [output], node.name, domain=domain)
        attributes = {a.name: a for a in node.attribute}
        if kind == "Gemm" and _given(node, "beta", 1.0) != 1.0:
            raise UnsupportedModel(
                f"Gemm ({node.name or output}) has beta {_given(node, 'beta', 1.0):g}"
            )
        attributes.pop("beta", None)
        made.attribute.extend(attributes.values())
        return made


def _given(node: Any, name: str, default: Any) -> Any:
    from onnx import helper

    found = [helper.get_attribute_value(a) for a in node.attribute if a.name == name]
    return found[0] if found else default


def _axis(node: Any, kind: str) -> int:
    """Of units, in stored weights."""
    if kind == "Conv":
        return 0
    return 0 if kind == "Gemm" and _given(node, "transB", 0) else 1


def _plain(node: Any) -> bool:
    return all(a.name in ("axis", "saturate") for a in node.attribute)
