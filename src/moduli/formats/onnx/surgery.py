"""An ONNX model with fewer units: the same model, rewritten where it has to be.

Names, operator sets, metadata, order of nodes and all that nobody touched stay. What changes: stored
tensors with fewer entries, the shapes that a Reshape or Expand is given, sizes of splits, bounds of
slices, indices of gathers, the number of groups of a convolution; and what no output needs is gone.

Nothing here is believed: the rewritten model is read again, and has to be the graph that was wanted.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Broadcast, Linear, Node, Reshape, Shape, Slicewise, Take

from .graph_reader import GraphReader, skeleton
from .reference import captured

Tensor = np.ndarray[Any, np.dtype[Any]]
TRIES = 4
WITH_HEADS = ("Attention", "MultiHeadAttention", "RotaryEmbedding")
HEADS = {  # attributes that say into how many heads a part is cut
    ":q:heads": ("q_num_heads", "num_heads"), ":k:heads": ("kv_num_heads",), ":heads": ("num_heads",),
}  # fmt: skip


class Surgeon:
    """Rewrites one model.

    Args:
        reading: of the model, whose arrays are used where they stay as they are.
        before: the graph that was read. wanted: the graph to be written.
        renamed: values whose readers read another one now.
    """

    def __init__(
        self,
        reading: GraphReader,
        before: GraphModel,
        wanted: GraphModel,
        renamed: Mapping[str, str],
    ) -> None:
        self.reading, self.before, self.wanted = reading, before, wanted
        self.proto = self._skeleton()
        self.graph = self.proto.graph
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.inner: dict[str, str] = {}  # values that are now what a part of their node gives
        self.arrays: dict[str, Tensor] = {}  # tensors that change
        self.tensors: dict[str, Tensor] = {}  # all initialisers of the rewritten model
        self.renamed = self._outside(renamed)

    def model(self) -> Any:
        """The rewritten model, without the numbers of its initialisers, which `tensors` has.

        Raises:
            UnsupportedModel: it would not be what was wanted.
        """
        self._rename()
        for node in self.wanted.nodes:
            former = self.before.makers.get(node.output)
            if former is not None and (former.op != node.op or self._resized(node)):
                self._fit(node)
        for name, array in self.wanted.constants.items():
            if name in self.reading.stored and array is not self.reading.stored[name]:
                self.arrays[name] = array
        read = self.written()
        for _ in range(TRIES):
            if read.digest == self.wanted.digest:
                return self.proto
            self._replace_computed(read)
            read = self.written()
        raise UnsupportedModel(
            "the smaller model cannot be written as ONNX: it is read as another graph than the one that was proved"
        )

    def written(self) -> GraphModel:
        """Put all tensors in, leave out what nobody needs, and read it."""
        self._stored()
        self._prune()
        return GraphReader(self.proto, None, self.tensors).read()

    # Parts

    def _skeleton(self) -> Any:
        """A copy of the model without its stored tensors, and without shapes that change."""
        proto = skeleton(self.reading.proto)
        shapes = list(proto.graph.value_info)
        del proto.graph.value_info[:]
        for value in shapes:
            if self.wanted.shapes.get(value.name, ()) == self.before.shapes.get(value.name):
                proto.graph.value_info.append(value)
        return proto

    def _outside(self, renamed: Mapping[str, str]) -> Mapping[str, str]:
        """Values that are read instead of others, where the file has both. What a Gemm gives may be
        passed by for its product alone: then it has nothing to add; a Sum of several for a part of
        it: then it has fewer.
        """
        found = dict(renamed)
        there = {*self.makers, *self.reading.stored, *self.before.inputs}
        for name, source in renamed.items():
            if source in there and name in self.makers:
                continue
            node = self._part_of(name)
            if node.op_type == "Gemm" and name in self.makers:
                if self.reading.opset >= 11:
                    del node.input[2:]
                else:  # it has to add something
                    weight = self.before.array(node.input[1])
                    self._give(
                        node, 2, np.zeros((), dtype=None if weight is None else weight.dtype)
                    )
            elif node.op_type == "Sum":
                for other in self.before.makers[name].inputs:
                    if other != source and other in node.input:
                        node.input.remove(other)
            else:
                raise UnsupportedModel(f"node {node.name!r} would give a part of what it does")
            del found[name]
            if name in self.makers:
                self.inner[name] = source
        return found

    def _part_of(self, name: str) -> Any:
        """The ONNX node that gives a value, or of which the node that gives it is a part."""
        while name not in self.makers:
            name = self.before.readers[name][0].output
        return self.makers[name]

    def _resized(self, node: Node) -> bool:
        return any(
            self.before.shapes.get(name) != self.wanted.shapes.get(name)
            for name in (*node.inputs, *node.outputs)
        )

    def _shape(self, name: str) -> Shape:
        name = self._now(name)
        return self.wanted.shapes[self.inner.get(name, name)] or ()

    def _written(self, node: Node) -> Any:
        """The ONNX node that a node is, or is a part of."""
        name = node.output
        while name not in self.makers and name in self.wanted.readers:
            name = self.wanted.readers[name][0].output
        return self.makers.get(name)

    def _rename(self) -> None:
        for node in self.graph.node:
            for k, name in enumerate(node.input):
                node.input[k] = self._now(name)
            if self.renamed and not set(self.renamed).isdisjoint(captured(node)):
                raise UnsupportedModel(
                    f"a subgraph of node {node.name!r} reads a value that would go"
                )

    def _now(self, name: str) -> str:
        while name in self.renamed:
            name = self.renamed[name]
        return name

    def _fit(self, node: Node) -> None:
        """Let an ONNX node have the sizes that the operator has now."""
        found = self._written(node)
        if found is None:
            return
        op = node.op
        if isinstance(op, Linear):
            for attribute in found.attribute:
                if attribute.name == "group":
                    attribute.i = op.groups
        elif isinstance(op, (Reshape, Broadcast)) and found.op_type in ("Reshape", "Expand"):
            self._fit_shape(found, node, op)
        elif isinstance(op, Reshape) and found.op_type in WITH_HEADS:
            self._fit_heads(found, node.output, op)
        elif isinstance(op, Take) and found.op_type == "Attention":
            self._fit_columns(found)
        elif isinstance(op, Take) and found.op_type == "Split":
            sizes = self._parts(found, op)
            read = [name for name in found.output if name in self.wanted.makers]
            if len(read) == 1:
                self._slice_instead(found, op, read[0])
            elif len(found.input) > 1 and found.input[1]:
                self._give(found, 1, np.array(sizes, dtype=np.int64))
            else:
                self._split_by(found, sizes)
        elif isinstance(op, Take) and found.op_type == "Gather":
            index = np.array(op.index, dtype=np.int64)
            self._give(found, 1, index.reshape(()) if op.drop else index)
        elif isinstance(op, Take) and found.op_type == "Slice":
            self._fit_slice(found, self._chain(found))
        elif found.op_type == "Resize" and len(found.input) > 3 and found.input[3]:
            self._fit_sizes(found, node)

    def _fit_heads(self, found: Any, name: str, op: Reshape) -> None:
        """The number of heads, which an operator cuts its inputs into."""
        part = name.removeprefix(found.output[0])
        wanted = HEADS.get(part, ())
        for attribute in found.attribute:
            if attribute.name in wanted:
                attribute.i = op.sizes[2]

    def _fit_columns(self, found: Any) -> None:
        """How many numbers of one product are queries, keys and values."""
        from onnx import helper

        makers = [self.wanted.makers.get(f"{found.output[0]}:{part}") for part in "qkv"]
        sizes = [len(m.op.index) for m in makers if m is not None and isinstance(m.op, Take)]
        kept = [a for a in found.attribute if a.name != "qkv_hidden_sizes"]
        if len(sizes) < 3 or (len(set(sizes)) == 1 and len(kept) == len(found.attribute)):
            return  # what is not said is a third each
        del found.attribute[:]
        found.attribute.extend([*kept, helper.make_attribute("qkv_hidden_sizes", sizes)])

    def _parts(self, found: Any, op: Take) -> list[int]:
        """Sizes of the parts of a split; one that nobody reads takes what is left."""
        whole = self._shape(found.input[0])[op.axis]
        assert isinstance(whole, int)
        sizes = []
        for name in found.output:
            maker = self.wanted.makers.get(name)
            sizes.append(len(maker.op.index) if maker and isinstance(maker.op, Take) else None)
        if sizes.count(None) > 1:
            raise UnsupportedModel(f"several parts of node {found.name!r} are read by nobody")
        left = whole - sum(n for n in sizes if n is not None)
        return [left if n is None else n for n in sizes]

    def _split_by(self, found: Any, sizes: list[int]) -> None:
        from onnx import helper

        kept = [a for a in found.attribute if a.name not in ("split", "num_outputs")]
        del found.attribute[:]
        found.attribute.extend(kept)
        if self.reading.opset < 13:
            found.attribute.append(helper.make_attribute("split", sizes))
            return
        while len(found.input) < 2:
            found.input.append("")
        self._give(found, 1, np.array(sizes, dtype=np.int64))

    def _slice_instead(self, found: Any, op: Take, name: str) -> None:
        """A split of which one part is read is a slice; the other parts may have nothing left."""
        found.op_type = "Slice"
        del found.attribute[:]
        del found.input[1:]
        del found.output[:]
        found.output.append(name)
        self._fit_slice(found, [op])

    def _chain(self, found: Any) -> list[Take | Slicewise]:
        """What a slice takes, axis by axis."""
        name, parts = found.output[0], list[Take | Slicewise]()
        start = self._now(found.input[0])
        while name != self.inner.get(start, start):
            node = self.wanted.makers[name]
            # of an axis of unknown size it takes a range, whatever that holds
            if not isinstance(node.op, (Take, Slicewise)):
                raise UnsupportedModel(f"node {found.name!r} would slice what it does not")
            parts.append(node.op)
            name = node.inputs[0]
        return parts[::-1]

    def _fit_slice(self, found: Any, parts: Sequence[Take | Slicewise]) -> None:
        """Ranges of indices; indices that are none are gathered."""
        from onnx import helper

        shape = self._shape(found.input[0])
        table = [_range(op, shape) for op in parts]
        if len(parts) == 1 and table[0] is None:
            (op,) = parts
            assert isinstance(op, Take)
            found.op_type = "Gather"
            del found.attribute[:]
            del found.input[1:]
            found.attribute.append(helper.make_attribute("axis", op.axis))
            found.input.append("")
            self._give(found, 1, np.array(op.index, dtype=np.int64))
            return
        ranges = [row for row in table if row is not None]
        if len(ranges) < len(table):
            raise UnsupportedModel(f"node {found.name!r} would slice indices that are no range")
        starts, ends, steps, axes = (list(column) for column in zip(*ranges, strict=True))
        if self.reading.opset < 10:
            if any(step != 1 for step in steps):
                raise UnsupportedModel(f"node {found.name!r} would slice with steps")
            del found.attribute[:]
            for name, values in (("axes", axes), ("starts", starts), ("ends", ends)):
                found.attribute.append(helper.make_attribute(name, values))
            return
        while len(found.input) < 5:
            found.input.append("")
        for k, values in enumerate((starts, ends, axes, steps), 1):
            self._give(found, k, np.array(values, dtype=np.int64))

    def _fit_sizes(self, found: Any, node: Node) -> None:
        """The sizes that a Resize is given, where it leaves an axis as it is that is now shorter."""
        given = self.reading.constant(found.input[3])
        shape = self.wanted.shapes.get(node.output)
        if given is None or shape is None:
            return
        entries = given.ravel().tolist()
        entries = [n if isinstance(n, int) else m for n, m in zip(shape, entries, strict=True)]
        self._give(found, 3, np.array(entries, dtype=np.int64))

    def _fit_shape(self, found: Any, node: Node, op: Reshape | Broadcast) -> None:
        """The target of a Reshape or Expand: 0 for a size that is copied, -1 for one that is open."""
        given = self.reading.constant(found.input[1]) if len(found.input) > 1 else None
        former = self.before.makers[node.output].op
        assert isinstance(former, type(op))
        if given is not None and given.size == len(op.sizes):
            entries = given.ravel().tolist()
            source = self._shape(found.input[0])
            for k, (old, new) in enumerate(zip(former.sizes, op.sizes, strict=True)):
                copied = entries[k] == 0 and source[k : k + 1] != (new,)
                if new is not None and (entries[k] == old or copied):
                    entries[k] = new
            self._give(found, 1, np.array(entries, dtype=np.int64))
            return
        entries = [-1 if n is None else n for n in op.sizes]
        if isinstance(op, Reshape):
            copied = {o for i, o in op.free if i == o and op.sizes[o] is None}
            entries = [0 if k in copied else n for k, n in enumerate(entries)]
        else:
            entries = [1 if n is None else n for n in op.sizes]
            if any(n is None for n in op.sizes):
                raise UnsupportedModel(f"node {found.name!r} expands to sizes that are not known")
        if entries.count(-1) > 1:
            raise UnsupportedModel(f"node {found.name!r} reshapes to sizes that are not known")
        kept = [a for a in found.attribute if a.name != "allowzero"]
        del found.attribute[:]
        found.attribute.extend(kept)
        self._give(found, 1, np.array(entries, dtype=np.int64))

    def _give(self, found: Any, k: int, array: Tensor) -> None:
        """Let input k of a node be a stored tensor, under the name it has if it alone reads it."""
        name = found.input[k] if k < len(found.input) else ""
        users = sum(list(node.input).count(name) for node in self.graph.node) if name else 0
        inner = any(name in captured(node) for node in self.graph.node) if name else False
        if name and name in self.reading.stored and users == 1 and not inner:
            old = self.reading.stored[name]
            self.arrays[name] = array.astype(old.dtype).reshape(array.shape)
            return
        base = f"{found.output[0]}_{'shape' if k == 1 else f'input{k}'}"
        name = base
        while name in self.makers or name in self.reading.shapes or name in self.arrays:
            name += "_"
        found.input[k] = name
        self.arrays[name] = array

    def _replace_computed(self, read: GraphModel) -> None:
        """Constants that nodes compute from sizes or others, and now compute differently, are stored."""
        outputs = {name for node in self.graph.node for name in node.output}
        for name, array in self.wanted.constants.items():
            now = read.constants.get(name)
            same = now is not None and now.dtype == array.dtype and np.array_equal(now, array)
            if same or name not in outputs or name in self.reading.stored:
                continue
            for node in list(self.graph.node):
                if name in node.output:
                    if len([x for x in node.output if x]) > 1:
                        raise UnsupportedModel(f"node {node.name!r} gives {name!r} and others")
                    self.graph.node.remove(node)
            self.arrays[name] = array

    def _stored(self) -> None:
        """The stored tensors: those of the file where they stay. The model has their headers alone,
        `tensors` their numbers.
        """
        from onnx import helper, numpy_helper

        del self.graph.initializer[:]
        self.tensors = {}
        for tensor in self.reading.graph.initializer:
            self._add(tensor.name, self.arrays.get(tensor.name, self.reading.stored[tensor.name]))
        for sparse in [s for s in self.graph.sparse_initializer if s.values.name in self.arrays]:
            self.graph.sparse_initializer.remove(sparse)
        inside = set[str]()
        for node in self.graph.node:
            if node.op_type == "Constant" and node.output[0] in self.arrays:
                inside.add(node.output[0])
                value = numpy_helper.from_array(self.arrays[node.output[0]], node.output[0])
                node.attribute[0].CopyFrom(helper.make_attribute("value", value))
        for name, array in self.arrays.items():
            if name not in inside and name not in self.tensors:
                self._add(name, array)

    def _add(self, name: str, array: Tensor) -> None:
        from onnx import helper

        kind = self.reading.types.get(name) or helper.np_dtype_to_tensor_dtype(array.dtype)
        self.graph.initializer.add(name=name, data_type=kind, dims=array.shape)
        self.tensors[name] = array
        listed = [value for value in self.graph.input if value.name == name]
        shape = helper.make_tensor_value_info(name, kind, array.shape)
        for value in listed:
            value.CopyFrom(shape)
        if not listed and self.proto.ir_version < 4:
            self.graph.input.append(shape)

    def _prune(self) -> None:
        """Leave out nodes and stored tensors that no output needs."""
        needed = {value.name for value in self.graph.output}
        kept = []
        for node in reversed(self.graph.node):
            if not needed.isdisjoint(node.output):
                kept.append(copy.deepcopy(node))
                needed.update(node.input)
                needed.update(captured(node))
        if len(kept) < len(self.graph.node):
            nodes = list(reversed(kept))
            del self.graph.node[:]
            self.graph.node.extend(nodes)
        stored = {t.name for t in self.reading.graph.initializer} | set(self.arrays)
        for part in ("initializer", "sparse_initializer"):
            tensors = getattr(self.graph, part)
            for tensor in [
                t
                for t in tensors
                if (t.name if part == "initializer" else t.values.name) not in needed
            ]:
                tensors.remove(tensor)
        for value in [v for v in self.graph.input if v.name in stored and v.name not in needed]:
            self.graph.input.remove(value)
        given = needed | {name for node in self.graph.node for name in node.output}
        for value in [v for v in self.graph.value_info if v.name not in given]:
            self.graph.value_info.remove(value)


def _range(op: Take | Slicewise, shape: Shape) -> tuple[int, int, int, int] | None:
    """Start, end, step and axis of what is taken; None where the indices are no range."""
    if isinstance(op, Slicewise):
        axis, start, end, step = op.numbers
        return start, end, step, axis
    n = shape[op.axis]
    assert isinstance(n, int)
    if not op.index:
        return 0, 0, 1, op.axis
    steps = set(np.diff(op.index).tolist()) or {1}
    step = steps.pop()
    if steps or step == 0:
        return None
    end = op.index[-1] + (1 if step > 0 else -1)
    return op.index[0], end if end >= 0 else -(n + 1), step, op.axis
