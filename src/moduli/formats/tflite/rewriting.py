"""A TensorFlow Lite file with fewer units: the same file, rewritten where it has to be.

The ONNX translation was rewritten by the surgeon of ONNX models (`moduli.formats.onnx.surgery`). What
changed in it goes back: stored numbers with the quantisation of their channels, shapes of tensors,
the sizes that operators are given; operators of which no node is left are gone, and tensors that
nobody reads. Names, the order of operators, metadata and signatures stay.

Nothing here is believed: the rewritten file is read again, and has to be the graph that was wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.errors import UnsupportedModel

from .contents import HELD, Array, Contents
from .flatbuffer import Table, Writer
from .schema import ACTIVATIONS, ALIGNED, IDENTIFIER, OPERATORS, SCHEMA, UNIONS
from .translation import CHANNELS_LAST, Translation, Use

Shapes = Mapping[str, Any]
ACTED = ("Relu", "Clip", "Tanh")  # nodes of activations
HELPERS = ("Transpose", "DequantizeLinear", "Cast")  # nodes between operators


class Version(NamedTuple):
    """A stored tensor as an operator reads it now: numbers, scales and zero points."""

    data: Array
    scale: Array | None
    zero: Array | None

    def same(self, other: Version) -> bool:
        for a, b in zip(self, other, strict=True):
            if a is None or b is None:
                if a is not b:
                    return False
            elif not np.array_equal(a, b):
                return False
        return True


class Rewriter:
    """Rewrites one file.

    Args:
        translation: of the file. proto, arrays: the rewritten translation and its initialisers.
        shapes: of its values.
    """

    def __init__(
        self, translation: Translation, proto: Any, arrays: Mapping[str, Array], shapes: Shapes
    ) -> None:
        self.translation, self.arrays, self.shapes = translation, arrays, shapes
        self.contents: Contents = translation.contents
        self.nodes = {node.name: node for node in proto.graph.node}
        self.makers = {name: node for node in proto.graph.node for name in node.output}
        self.tree = self.contents.tree.copy()
        self.graph = self.contents.graph.copy()
        self.tables = [table.copy() for table in self.graph.get("tensors", [])]
        self.buffers = list(self.contents.buffers)
        self.codes = list(self.tree.get("operator_codes", []))
        self.parts: dict[int, list[str]] = {}  # nodes of operators
        for name, operator in translation.owner.items():
            self.parts.setdefault(operator, []).append(name)
        self.reads: dict[
            str, list[tuple[int, int]]
        ] = {}  # of nodes: place and input of the operator
        for (name, place), read in translation.reads.items():
            self.reads.setdefault(name, []).append((place, read.slot))
        self.inputs: dict[int, list[int]] = {}  # of operators that stay
        self.sizes = {t.index: t.shape for t in self.contents.tensors}

    def written(self) -> bytes:
        """The bytes of the rewritten file.

        Raises:
            UnsupportedModel: it cannot be written.
        """
        self._resize()
        kept = self._kept()
        tables = self.graph.get("operators", [])
        operators = {k: tables[k].copy() for k in kept}
        for k in kept:
            self.inputs[k] = list(self.contents.operators[k].inputs)
            self._rewire(k, operators[k])
        self._store()
        for k, table in operators.items():
            self._fit(k, table)
            table.fields["inputs"] = np.array(self.inputs[k], dtype=np.int32)
        self.graph.fields["operators"] = list(operators.values())
        self._sweep(list(operators.values()))
        self.tree.fields["subgraphs"] = [self.graph]
        self.tree.fields["operator_codes"] = self.codes
        self.tree.fields["buffers"] = self.buffers
        return Writer(SCHEMA, UNIONS, ALIGNED).write(self.tree, IDENTIFIER)

    # Which operators stay, and what they read

    def _kept(self) -> list[int]:
        """Operators that have a node left, and those that only make stored numbers real for them."""
        owner = self.translation.owner
        alive = {owner[name] for name in self.nodes if name in owner}
        found = []
        needed = {k for operator in alive for k in self.contents.operators[operator].inputs}
        for operator in reversed(self.contents.operators):
            silent = operator.index not in self.parts
            if operator.index in alive or (silent and not needed.isdisjoint(operator.outputs)):
                found.append(operator.index)
                needed.update(operator.inputs)
        return found[::-1]

    def _rewire(self, k: int, table: Table) -> None:
        """Let an operator read what its nodes read now."""
        nodes = self.parts.get(k, [])
        if any(name not in self.nodes for name in nodes):
            self._only_activation(k, table, nodes)
            return
        for name in nodes:
            given = self.nodes[name].input
            for place, slot in self.reads.get(name, []):
                if place >= len(given) or not given[place]:
                    self._leave_out(k, slot)
                    continue
                tensor = self._tensor_of(given[place])
                if tensor is not None:
                    self.inputs[k][slot] = tensor

    def _leave_out(self, k: int, slot: int) -> None:
        if self.contents.operators[k].kind != "FULLY_CONNECTED" or slot != 2:
            raise UnsupportedModel(f"{self.contents.operators[k].place} would read nothing")
        self.inputs[k][slot] = -1

    def _only_activation(self, k: int, table: Table, nodes: list[str]) -> None:
        """Of an operator with a fused activation that alone is left, let it be that one."""
        operator = self.contents.operators[k]
        left = [self.nodes[name] for name in nodes if name in self.nodes]
        fused = operator.options.get("fused_activation_function", 0)
        if len(left) != 1 or left[0].op_type not in ACTED or fused not in ACTIVATIONS:
            raise UnsupportedModel(f"{operator.place} would give a part of what it does")
        source = self._tensor_of(left[0].input[0])
        if source is None:
            raise UnsupportedModel(f"{operator.place} would read a constant")
        table.fields["opcode_index"] = self._code(ACTIVATIONS[fused])
        for name in ("builtin_options", "builtin_options_type"):
            table.fields.pop(name, None)
        self.inputs[k] = [source]

    def _code(self, kind: str) -> int:
        """The number of a kind of operator in the file, which gets it where it has it not."""
        number = OPERATORS.index(kind)
        for k, code in enumerate(self.codes):
            if max(code.get("builtin_code", 0), code.get("deprecated_builtin_code", 0)) == number:
                return k
        fields = {"deprecated_builtin_code": min(number, 127), "builtin_code": number, "version": 1}
        self.codes.append(Table("OperatorCode", fields))
        return len(self.codes) - 1

    def _tensor_of(self, name: str) -> int | None:
        """The tensor that a value is, through the nodes that only give it another form; None where it
        is a stored one, or what another node of the operator gives, which it alone can read.
        """
        to = self.translation
        while name in self.makers and self.makers[name].name not in to.owner:
            node = self.makers[name]
            if node.op_type not in HELPERS:
                raise UnsupportedModel(f"nothing of the file gives {name!r}")
            self._same_steps(node)
            name = node.input[0]
        if name in to.uses or name in self.arrays:
            return None
        found = to.meaning.get(name)
        if found is None and to.owner.get(self.makers[name].name) is None:
            raise UnsupportedModel(f"{name!r} is no tensor of the file")
        return found

    def _same_steps(self, node: Any) -> None:
        """Integers that are read with the scale of others would mean something else."""
        if node.op_type != "DequantizeLinear" or node.input[0] not in self.translation.meaning:
            return
        tensor = self.contents.tensors[self.translation.meaning[node.input[0]]]
        if tensor.scale is not None and float(self.arrays[node.input[1]]) != float(tensor.scale[0]):
            raise UnsupportedModel(f"{tensor.name!r} would be read with another scale")

    # Stored numbers

    def _store(self) -> None:
        """Put changed numbers back: in place for the first reader and those that agree with it, in new
        tensors for others.
        """
        found = dict[int, list[tuple[Use, Version]]]()
        for name, use in self.translation.uses.items():
            if use.part == "data" and name in self.arrays:
                found.setdefault(use.tensor, []).append((use, self._version(name, use)))
        for index, versions in found.items():
            first = versions[0][1]
            self._replace(index, first)
            others = list[tuple[Version, int]]()
            for use, version in versions:
                if first.same(version):
                    continue
                own_input = self.contents.operators[use.operator].inputs[use.slot] == index
                if use.operator not in self.inputs or not own_input:
                    raise UnsupportedModel(f"readers of {self._name(index)!r} would need several")
                own = next((k for other, k in others if other.same(version)), None)
                if own is None:
                    own = self._another(index, version)
                    others.append((version, own))
                self.inputs[use.operator][use.slot] = own

    def _version(self, name: str, use: Use) -> Version:
        rank = len(self.contents.tensors[use.tensor].shape)
        data = use.turn.back(self.arrays[name], rank)
        parts = dict[str, Array]()
        for part in ("scale", "zero"):
            own = f"{name}:{part}"
            if own in self.arrays and own in self.translation.uses:
                parts[part] = self.arrays[own].reshape(-1)
        return Version(data, parts.get("scale"), parts.get("zero"))

    def _name(self, index: int) -> str:
        return self.contents.tensors[index].name

    def _replace(self, index: int, version: Version) -> None:
        """Let a stored tensor have other numbers."""
        tensor, table = self.contents.tensors[index], self.tables[index]
        assert tensor.array is not None
        whole = Version(
            tensor.array,
            None if version.scale is None else tensor.scale,
            None if version.zero is None else tensor.zero,
        )
        if whole.same(version):
            return
        self.sizes[index] = version.data.shape
        table.fields["shape"] = np.array(version.data.shape, dtype=np.int32)
        if len(table.get("shape_signature", ())):
            table.fields["shape_signature"] = table.fields["shape"]
        raw = np.ascontiguousarray(version.data, dtype=HELD[tensor.type]).tobytes()
        table.fields["buffer"] = len(self.buffers)
        self.buffers.append(Table("Buffer", {"data": raw}))
        if version.scale is not None:
            self._requantise(table, version, tensor.axis)

    def _requantise(self, table: Table, version: Version, axis: int) -> None:
        own = table.fields["quantization"].copy()
        count = version.data.shape[axis] if version.data.ndim else 1
        zero = own.get("zero_point", np.zeros(1, dtype=np.int64))
        own.fields["scale"] = version.scale
        if len(zero) > 1:
            assert version.scale is not None
            own.fields["zero_point"] = version.zero if version.zero is not None else np.zeros(count)
        for name in ("min", "max"):  # what the converter saw, channel by channel
            if len(own.get(name, ())) > 1:
                own.fields.pop(name)
        table.fields["quantization"] = own

    def _another(self, index: int, version: Version) -> int:
        """A new tensor like a stored one, with numbers of its own."""
        self.tables.append(self.tables[index].copy())
        tensor = self.contents.tensors[index]
        own = len(self.tables) - 1
        name = f"{tensor.name}:{own}"
        self.tables[own].fields["name"] = name.encode()
        self.tables[own].fields["shape"] = np.array(version.data.shape, dtype=np.int32)
        if len(self.tables[own].get("shape_signature", ())):
            self.tables[own].fields["shape_signature"] = self.tables[own].fields["shape"]
        raw = np.ascontiguousarray(version.data, dtype=HELD[tensor.type]).tobytes()
        self.tables[own].fields["buffer"] = len(self.buffers)
        self.buffers.append(Table("Buffer", {"data": raw}))
        if version.scale is not None:
            self._requantise(self.tables[own], version, tensor.axis)
        return own

    # Sizes

    def _resize(self) -> None:
        """Let computed tensors have the shapes that their values have now."""
        first = {name for (_, first, _), name in self.translation.values.items() if first}
        for name, index in self.translation.meaning.items():
            shape = self.shapes.get(name)
            if name not in self.makers or shape is None:
                continue
            if any(not isinstance(n, int) for n in shape):
                continue
            made = tuple(shape[a] for a in CHANNELS_LAST) if name in first else tuple(shape)
            old, table = self.sizes[index], self.tables[index]
            if made == old or len(made) != len(old):
                continue
            self.sizes[index] = made
            table.fields["shape"] = np.array(made, dtype=np.int32)
            signature = table.get("shape_signature", ())
            if len(signature) == len(made):
                kept = [s if s == -1 else n for s, n in zip(signature, made, strict=True)]
                table.fields["shape_signature"] = np.array(kept, dtype=np.int32)
        for index, source in self.translation.derived.items():
            self.sizes[index] = self.sizes[source]

    def _fit(self, k: int, table: Table) -> None:
        """Let an operator be told the sizes that its tensors have now."""
        operator = self.contents.operators[k]
        if len(self.inputs[k]) < len(operator.inputs):  # it is another one now
            return
        y = operator.outputs[0]
        before, after = self.contents.tensors[y].shape, self.sizes[y]
        options = table.get("builtin_options")
        if operator.kind == "DEPTHWISE_CONV_2D" and options is not None:
            channels = self.sizes[self.inputs[k][0]][-1]
            options = options.copy()
            options.fields["depth_multiplier"] = after[-1] // max(1, channels)
            table.fields["builtin_options"] = options
        elif operator.kind == "DEQUANTIZE" and y in self.translation.derived:
            source = self.tables[self.translation.derived[y]]
            self.tables[y].fields["shape"] = source.get("shape", np.zeros(0, dtype=np.int32))
        elif operator.kind == "RESHAPE" and before != after:
            if options is not None and len(options.get("new_shape", ())) == len(after):
                options = options.copy()
                options.fields["new_shape"] = _sizes(options.get("new_shape"), before, after)
                table.fields["builtin_options"] = options
            self._tell(k, 1, before, after)
        elif operator.kind == "TRANSPOSE_CONV" and before != after:
            self._tell(k, 0, before, after)
        elif operator.kind == "SLICE":
            self._tell_slice(k)
        elif operator.kind == "SPLIT_V":
            self._tell_parts(k)
        elif operator.kind == "BROADCAST_TO" and before != after:
            self._tell(k, 1, before, after)

    def _tell(self, k: int, slot: int, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        """Let a stored operand that lists sizes list those of now."""
        if slot >= len(self.inputs[k]):
            return
        index = self.inputs[k][slot]
        array = self.contents.tensors[index].array if index >= 0 else None
        if array is None or array.size != len(after):
            return
        self._tell_numbers(k, slot, _sizes(array.ravel(), before, after))

    def _tell_numbers(self, k: int, slot: int, numbers: Array) -> None:
        index = self.inputs[k][slot]
        tensor = self.contents.tensors[index]
        if tensor.array is None or np.array_equal(tensor.array.ravel(), numbers):
            return
        version = Version(numbers.reshape(-1), None, None)
        users = [j for j, names in self.inputs.items() if index in names and j != k]
        if users:
            self.inputs[k][slot] = self._another(index, version)
        else:
            self._replace(index, version)

    def _tell_slice(self, k: int) -> None:
        operator = self.contents.operators[k]
        y = operator.outputs[0]
        slices = [
            node
            for node in map(self.nodes.get, self.parts[k])
            if node is not None and node.op_type == "Slice"
        ]
        begins, sizes = (self.contents.tensors[self.inputs[k][s]].array for s in (1, 2))
        if begins is None or sizes is None or not slices:
            return
        starts, _, axes, _ = (self.arrays[name].ravel().tolist() for name in slices[0].input[1:])
        first = (y, True, False) in self.translation.values
        new = np.array(begins).ravel()
        for start, axis in zip(starts, axes, strict=True):
            new[CHANNELS_LAST.index(axis) if first else axis] = start
        self._tell_numbers(k, 1, new)
        old = np.array(sizes).ravel()
        shape = np.array(self.sizes[y])
        self._tell_numbers(k, 2, np.where(old == -1, old, shape))

    def _tell_parts(self, k: int) -> None:
        operator = self.contents.operators[k]
        axis = self.contents.tensors[operator.inputs[2]].array
        if axis is None:
            return
        along = int(axis.ravel()[0])
        sizes = np.array([self.sizes[y][along] for y in operator.outputs])
        old = self.contents.tensors[operator.inputs[1]].array
        if old is not None:
            self._tell_numbers(k, 1, np.where(old.ravel() == -1, -1, sizes))

    # What nobody reads

    def _sweep(self, operators: list[Table]) -> None:
        """Leave out tensors that nobody reads or gives, and the numbers that only they had."""
        used = {*self.contents.inputs, *self.contents.outputs, -1}
        for table in operators:
            for name in ("inputs", "outputs", "intermediates"):
                used.update(int(k) for k in table.get(name, ()))
        signatures = self.tree.get("signature_defs", [])
        for signature in signatures:
            for side in ("inputs", "outputs"):
                used.update(entry.get("tensor_index", 0) for entry in signature.get(side, []))
        order = [k for k in range(len(self.tables)) if k in used]
        place = {k: i for i, k in enumerate(order)} | {-1: -1}
        for table in operators:
            for name in ("inputs", "outputs", "intermediates"):
                if name in table.fields:
                    moved = [place[int(k)] for k in table.fields[name]]
                    table.fields[name] = np.array(moved, dtype=np.int32)
        for name in ("inputs", "outputs"):
            moved = [place[int(k)] for k in self.graph.get(name, ())]
            self.graph.fields[name] = np.array(moved, dtype=np.int32)
        self.tree.fields["signature_defs"] = [_moved(s, place) for s in signatures]
        if not signatures:
            del self.tree.fields["signature_defs"]
        self.graph.fields["tensors"] = [self.tables[k] for k in order]
        self._sweep_buffers()

    def _sweep_buffers(self) -> None:
        """Numbers that no tensor has any more; the places of buffers stay, metadata names them."""
        used = {table.get("buffer", 0) for table in self.graph.fields["tensors"]}
        used |= {entry.get("buffer", 0) for entry in self.tree.get("metadata", [])}
        used |= {int(k) for k in self.tree.get("metadata_buffer", ())}
        old = len(self.contents.buffers)
        free = [k for k in range(1, old) if k not in used]
        made = [b if k in used else Table("Buffer") for k, b in enumerate(self.buffers[:old])]
        for table in self.graph.fields["tensors"]:  # new numbers go where old ones were
            number = table.get("buffer", 0)
            if number < old:
                continue
            if free:
                table.fields["buffer"] = free.pop(0)
                made[table.fields["buffer"]] = self.buffers[number]
            else:
                table.fields["buffer"] = len(made)
                made.append(self.buffers[number])
        self.buffers = made


def _moved(signature: Table, place: Mapping[int, int]) -> Table:
    found = signature.copy()
    for side in ("inputs", "outputs"):
        if side in found.fields:
            entries = [entry.copy() for entry in found.fields[side]]
            for entry in entries:
                entry.fields["tensor_index"] = place[entry.get("tensor_index", 0)]
            found.fields[side] = entries
    return found


def _sizes(listed: Any, before: tuple[int, ...], after: tuple[int, ...]) -> Array:
    """Listed sizes, with new ones for those that changed; open ones stay open."""
    rows = zip(listed, before, after, strict=True)
    return np.array([n if n == -1 or b == a else a for n, b, a in rows], dtype=np.int32)
