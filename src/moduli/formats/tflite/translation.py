"""A TensorFlow Lite file as an ONNX model in memory, with a record of what came from where.

TensorFlow Lite keeps channels last, ONNX first. A tensor of four axes may be there in both orders:
one comes from the other through a Transpose when an operator asks for it, so that a run of
convolutions has none between them. Quantised tensors are there as the integers that the file has, and
as the real numbers that these stand for.

The record serves `rewriting`: which stored tensor an initialiser is, turned how; which operator a
node is a part of; which tensor a value is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.errors import UnsupportedModel

from .contents import INNER, STATE, Array, Contents, Operator, Tensor
from .schema import BOOL, FLOAT16, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, TYPES, UINT8

CHANNELS_FIRST = (0, 3, 1, 2)
CHANNELS_LAST = (0, 2, 3, 1)  # also: where axes with channels last are with channels first
DOMAIN = "tflite"  # of operators that nothing is assumed of
ONNX_TYPES = {
    FLOAT32: 1, FLOAT16: 10, FLOAT64: 11, INT32: 6, INT64: 7, UINT8: 2, INT8: 3, INT16: 5, BOOL: 9,
}  # fmt: skip
OPSET, OPSET_GELU, OPSET_INT16 = 18, 20, 21
RECALLING = {
    "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE", "HASHTABLE", "HASHTABLE_FIND",
    "HASHTABLE_IMPORT", "HASHTABLE_SIZE", "RNN", "LSTM", "SVDF", "UNIDIRECTIONAL_SEQUENCE_RNN",
    "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_LSTM",
    "RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL", "STABLEHLO_RNG_BIT_GENERATOR",
}  # fmt: skip


class NotExact(Exception):
    """An operator that ONNX has no exact expression for, or that is not known: it is opaque."""


class Turn(NamedTuple):
    """How a stored tensor was turned: given leading axes of size one, then permuted."""

    rank: int
    order: tuple[int, ...]

    def forth(self, array: Array) -> Array:
        whole = array.reshape((1,) * (self.rank - array.ndim) + array.shape)
        return np.ascontiguousarray(whole.transpose(self.order))

    def back(self, array: Array, rank: int) -> Array:
        """The tensor of so many axes that was turned."""
        whole = array.transpose(np.argsort(self.order))
        return np.ascontiguousarray(whole.reshape(whole.shape[self.rank - rank :]))


class Use(NamedTuple):
    """A stored tensor as an operator reads it.

    Attributes:
        part: its numbers ``"data"``, their ``"scale"`` or ``"zero"`` points.
    """

    tensor: int
    operator: int
    slot: int
    part: str
    turn: Turn


class Read(NamedTuple):
    """An input of an operator, as a node of it reads it."""

    operator: int
    slot: int


class Translation:
    """One translation; `model()` gives the ONNX model without the numbers of `arrays`.

    Attributes:
        arrays: initialisers. uses: what those are that came from stored tensors. owner: the operator
            that a node, by name, is a part of. reads: the input of an operator that an input of a
            node is. meaning: the tensors that values are, in either order of axes. asked: tensors
            whose stated shapes were used, which have to be looked at once the model is read.
    """

    def __init__(
        self,
        contents: Contents,
        handlers: Mapping[str, Callable[[Translation, Operator], None]],
        follow: Callable[[Translation, Operator], Array | None],
    ) -> None:
        self.contents, self.handlers, self.follow = contents, handlers, follow
        self.nodes: list[Any] = []
        self.arrays: dict[str, Array] = {}
        self.uses: dict[str, Use] = {}
        self.owner: dict[str, int] = {}
        self.reads: dict[tuple[str, int], Read] = {}
        self.meaning: dict[str, int] = {}
        self.asked: set[int] = set()
        self.notes: dict[str, None] = {}
        self.opset = OPSET
        self.taken: dict[str, None] = {}
        self.slots: dict[str, int] = {}  # of the operator at hand: the input that a value is
        self.values: dict[tuple[int, bool, bool], str] = {}  # tensor, channels first, real
        self.stored: dict[tuple[Any, ...], str] = {}
        self.known: dict[int, Array] = {}  # integers that operators make of sizes
        self.derived: dict[int, int] = {}  # real weights, and the stored ones that they come from
        self.behind: set[int] = set()  # tensors that opaque operators give
        self.now: Operator | None = None
        self._translate()

    # What handlers ask

    def tensor(self, index: int) -> Tensor:
        return self.contents.tensors[index]

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of a tensor, which is checked when the model is read.

        Raises:
            NotExact: what gives it is opaque.
        """
        if index in self.behind:
            raise NotExact("it needs the shape of what an opaque operator gives")
        self.asked.add(index)
        return self.tensor(index).shape

    def constant(self, index: int) -> Array | None:
        """The numbers of a stored tensor, or of one that is made of sizes alone."""
        if index < 0:
            return None
        found = self.known.get(index)
        return self.tensor(self.derived.get(index, index)).array if found is None else found

    def integers(self, index: int, what: str) -> list[int]:
        """Entries of a small tensor of integers.

        Raises:
            NotExact: they are computed.
        """
        found = self.constant(index)
        if found is None or found.size > 64 or found.dtype.kind not in "iu":
            raise NotExact(f"its {what} are computed in the graph")
        return [int(n) for n in found.ravel()]

    def is_first(self, indices: Sequence[int]) -> bool:
        """Whether tensors are best read with channels first: those that are computed are so already."""
        computed = [k for k in indices if k >= 0 and self.constant(k) is None]
        ranks = [len(self.tensor(k).shape) for k in indices if k >= 0]
        first = [any((k, True, real) in self.values for real in (False, True)) for k in computed]
        return bool(computed) and all(first) and max(ranks) == 4

    # What handlers do

    def value(self, slot: int, *, first: bool = False, real: bool = True) -> str:
        """Input `slot` of the operator, as a value.

        Args:
            first: with channels first. real: as the real numbers that integers stand for.
        """
        assert self.now is not None
        index = self.now.inputs[slot]
        if index < 0:
            return ""
        tensor = self.tensor(index)
        if self.constant(index) is not None:
            rank = len(tensor.shape)
            turn = Turn(4, CHANNELS_FIRST) if first and rank else Turn(rank, tuple(range(rank)))
            return self.weight(slot, turn, real=real)
        found = self._form(index, first, real and tensor.quantised)
        self.slots.setdefault(found, slot)
        return found

    def weight(self, slot: int, turn: Turn, *, real: bool = True) -> str:
        """A stored input of the operator, turned.

        Matrices and filters that several operators read stay one; vectors are one for each reader,
        since converters keep equal biases of different layers as one.
        """
        assert self.now is not None
        given = self.now.inputs[slot]
        index = self.derived.get(given, given)
        tensor, array = self.tensor(index), self.constant(given)
        assert array is not None
        shared = array.ndim > 1
        key: tuple[Any, ...] = (index, turn, None if shared else (self.now.index, slot))
        made_real = real and (tensor.quantised or given != index)
        name = self.stored.get(key)
        if name is None:
            # the real numbers have the name of the tensor, where both are there
            wanted = f"{tensor.name}:stored" if made_real else tensor.name
            name = self.stored[key] = self.name(wanted)
            self.arrays[name] = turn.forth(_narrow(array) if made_real else array)
            if index not in self.known:
                self.uses[name] = Use(index, self.now.index, slot, "data", turn)
        if not made_real:
            self.slots.setdefault(name, slot)
            return name
        key = (*key, "real")
        if key not in self.stored:
            if tensor.quantised:
                self.stored[key] = self._dequantised(name, tensor, slot, turn)
            else:
                self.stored[key] = self.node("Cast", [name], tensor.name, owned=False, to=1)
        name = self.stored[key]
        self.slots.setdefault(name, slot)
        return name

    def _dequantised(self, name: str, tensor: Tensor, slot: int, turn: Turn) -> str:
        assert self.now is not None
        assert tensor.scale is not None
        assert tensor.zero is not None
        parts, axis = [name], 0
        single = len(tensor.scale) == 1
        if not single:
            axis = turn.order.index(tensor.axis + turn.rank - len(tensor.shape))
        for part, array in (("scale", tensor.scale), ("zero", tensor.zero)):
            if part == "zero" and not array.any():
                continue
            dtype = np.dtype(np.float32) if part == "scale" else self.arrays[name].dtype
            own = self.name(f"{name}:{part}")
            self.arrays[own] = array.astype(dtype).reshape(() if single else (-1,))
            self.uses[own] = Use(tensor.index, self.now.index, slot, part, turn)
            parts.append(own)
        return self.node("DequantizeLinear", parts, tensor.name, owned=False, axis=axis)

    def derive(self, index: int, source: int) -> None:
        """Let a tensor be a stored one, made real: each operator that reads it reads that one."""
        self.derived[index] = source

    def number(self, array: Any, dtype: str, base: str) -> str:
        """A constant that the file does not store as a tensor."""
        held = np.asarray(array, dtype=dtype)
        key = ("number", held.dtype.str, held.shape, held.tobytes())
        if key not in self.stored:
            name = self.stored[key] = self.name(base)
            self.arrays[name] = held
        return self.stored[key]

    def node(
        self, kind: str, inputs: Sequence[str], output: str, *, owned: bool = True, domain: str = "",
        outputs: Sequence[str] = (), **attributes: Any,
    ) -> str:  # fmt: skip
        """Add a node; its output gets the name that is asked for, or one like it."""
        from onnx import helper

        result = [*outputs] if outputs else [self.name(output)]
        name = self.name(f"{kind} {result[0]}")
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, list(inputs), result, name, domain=domain, **kept))
        if owned and self.now is not None:
            self.owner[name] = self.now.index
        return result[0]

    def add(self, kind: str, inputs: Sequence[str | int], **attributes: Any) -> str:
        """Add a node of the operator. A number among its inputs is the slot of an operand, which is
        read as real numbers, as they lie.
        """
        assert self.now is not None
        base = self.tensor(self.now.outputs[0]).name
        names = [self.value(k) if isinstance(k, int) else k for k in inputs]
        return self.node(kind, names, f"{base}:{kind.lower()}", **attributes)

    def give(self, y: str, *, first: bool = False, k: int = 0, real: bool = True) -> None:
        """Let a value be output `k` of the operator: real numbers, or the integers that it holds."""
        assert self.now is not None
        index = self.now.outputs[k]
        tensor = self.tensor(index)
        if first and len(tensor.shape) != 4:
            raise UnsupportedModel(
                f"{self.contents.where}: tensor {tensor.name!r} is said to be of shape {tensor.shape}, "
                f"but {self.now.place} gives four axes"
            )
        if real and tensor.quantised:
            y = self._quantised(y, tensor)
        last = self.nodes[-1] if self.nodes else None
        name = self.name(f"{tensor.name}:nchw" if first else tensor.name)
        if (
            last is not None
            and list(last.output) == [y]
            and self.owner.get(last.name) == self.now.index
        ):
            last.output[0] = name  # which nobody has read yet
        else:
            self.node("Identity", [y], name, outputs=[name])
        self.values[index, first, False] = name
        self.meaning[name] = index

    def _quantised(self, y: str, tensor: Tensor) -> str:
        if (
            tensor.type not in (INT8, UINT8, INT16)
            or len(tensor.scale if tensor.scale is not None else ()) != 1
        ):
            raise NotExact("its result is quantised in 32 bits, or by channel")
        if tensor.type == INT16:
            self.opset = max(self.opset, OPSET_INT16)
        self.notes["fixed point"] = None
        return self.add("QuantizeLinear", [y, *self._steps(tensor)])

    def _steps(self, tensor: Tensor) -> list[str]:
        """Scale and zero point of a computed tensor."""
        assert tensor.scale is not None
        assert tensor.zero is not None
        if len(tensor.scale) != 1:
            raise NotExact("an operand that is computed is quantised by channel")
        kind = {INT8: "int8", UINT8: "uint8", INT16: "int16", INT32: "int32"}[tensor.type]
        scale = self.number(tensor.scale[0], "float32", f"{tensor.name}:scale")
        return [scale, self.number(tensor.zero[0], kind, f"{tensor.name}:zero")]

    def name(self, wanted: str) -> str:
        found, k = wanted, 1
        while found in self.taken:
            k += 1
            found = f"{wanted}:{k}"
        self.taken[found] = None
        return found

    # Forms of a tensor

    def _form(self, index: int, first: bool, real: bool) -> str:
        """A computed tensor in an order of axes, as integers or real numbers."""
        key = (index, first, real)
        found = self.values.get(key)
        if found is not None:
            return found
        tensor = self.tensor(index)
        if real:
            integers = self._form(index, first, False)
            if tensor.type == INT16:
                self.opset = max(self.opset, OPSET_INT16)
            steps, name = self._steps(tensor), f"{integers}:real"
            found = self.node("DequantizeLinear", [integers, *steps], name, owned=False)
        else:
            other = self.values.get((index, not first, False))
            if other is None:
                raise UnsupportedModel(
                    f"{self.contents.where}: {self._place()} reads {tensor.name!r}, which nothing before it gives"
                )
            if len(tensor.shape) != 4:
                raise NotExact(f"{tensor.name!r} has {len(tensor.shape)} axes, not 4")
            name = f"{tensor.name}:nchw" if first else tensor.name
            order = CHANNELS_FIRST if first else CHANNELS_LAST
            found = self.node("Transpose", [other], name, owned=False, perm=order)
            self.meaning[found] = index
        self.values[key] = found
        return found

    def _place(self) -> str:
        return "the graph" if self.now is None else self.now.place

    # The whole

    def _translate(self) -> None:
        contents = self.contents
        for index in contents.inputs:
            tensor = self.tensor(index)
            if tensor.array is not None or (index, False, False) in self.values:
                raise UnsupportedModel(f"{contents.where}: input {tensor.name!r} is given twice")
            if tensor.type not in ONNX_TYPES:
                raise UnsupportedModel(
                    f"{contents.where}: input {tensor.name!r} is of type {TYPES.get(tensor.type)}"
                )
            self._require_fixed(tensor)
            name = self.values[index, False, False] = self.name(tensor.name)
            self.meaning[name] = index
        given = set(contents.inputs)
        for operator in contents.operators:
            again = [k for k in operator.outputs if k in given or k < 0]
            stored = [k for k in operator.outputs if k >= 0 and self.tensor(k).array is not None]
            if again or stored or len(set(operator.outputs)) < len(operator.outputs):
                raise UnsupportedModel(
                    f"{contents.where}: {operator.place} gives a tensor that is there already"
                )
            given.update(operator.outputs)
            self._operator(operator)
        self.now = None
        self.results = [self._result(index) for index in contents.outputs]

    def _require_fixed(self, tensor: Tensor) -> None:
        """An input whose positions or channels may have other sizes is another function for each."""
        table = self.contents.graph.get("tensors")[tensor.index]
        signature = [int(n) for n in table.get("shape_signature", ())]
        if -1 in signature[1:]:
            raise UnsupportedModel(
                f"{self.contents.where}: input {tensor.name!r} may have several sizes {tuple(signature)}; "
                "convert the model with an input of fixed size"
            )

    def _result(self, index: int) -> str:
        """The graph's output that a tensor is."""
        if index in self.contents.inputs or self.constant(index) is not None:
            raise UnsupportedModel(
                f"{self.contents.where}: output {self.tensor(index).name!r} is an input, or a constant"
            )
        if self.contents.outputs.count(index) > 1:
            raise UnsupportedModel(
                f"{self.contents.where}: output {self.tensor(index).name!r} is there twice"
            )
        return self._form(index, False, False)

    def _operator(self, operator: Operator) -> None:
        where = self.contents.where
        if operator.kind in RECALLING and not operator.custom:
            raise UnsupportedModel(
                f"{where}: {operator.place} {STATE}; export the model to ONNX without it"
            )
        if operator.kind in INNER and not operator.custom:
            raise UnsupportedModel(
                f"{where}: {operator.place} runs another graph; convert the model without control flow"
            )
        if not operator.outputs:
            return
        self.now, self.slots = operator, {}
        before = self._state()
        try:
            handler = None if operator.custom else self.handlers.get(operator.kind)
            sizes = self.follow(self, operator)
            if sizes is not None and len(operator.outputs) == 1:
                self.known[operator.outputs[0]] = sizes
                return
            if handler is None:
                raise NotExact("it is not known")
            handler(self, operator)
            self._record(before[0], operator)
        except (NotExact, IndexError, KeyError, ValueError) as error:
            self._restore(before)
            self._opaque(operator, str(error) or type(error).__name__)

    def _state(self) -> tuple[int, ...]:
        return tuple(len(part) for part in self._parts())

    def _parts(self) -> tuple[Any, ...]:
        """What a translation of an operator adds to, each in order."""
        dicts = (
            self.arrays,
            self.uses,
            self.owner,
            self.meaning,
            self.values,
            self.stored,
            self.taken,
        )
        return (self.nodes, *dicts)

    def _restore(self, before: tuple[int, ...]) -> None:
        for part, count in zip(self._parts(), before, strict=True):
            while len(part) > count:
                part.pop() if isinstance(part, list) else part.popitem()

    def _record(self, count: int, operator: Operator) -> None:
        """Which inputs of new nodes are which inputs of the operator."""
        for node in self.nodes[count:]:
            if self.owner.get(node.name) == operator.index:
                for k, name in enumerate(node.input):
                    if name in self.slots:
                        self.reads[node.name, k] = Read(operator.index, self.slots[name])

    def _opaque(self, operator: Operator, why: str) -> None:
        """An operator of which nothing is assumed: a function of its inputs alone."""
        said = sorted((k, repr(_plain(v))) for k, v in operator.options.fields.items())
        table = self.contents.graph.get("operators")[operator.index]
        custom = bytes(table.get("custom_options", b""))
        if operator.options.unknown or "builtin_options_2" in table.fields:
            raise UnsupportedModel(
                f"{self.contents.where}: {operator.place} has options that are not known here; "
                "export the model to ONNX without it"
            )
        # what it does also depends on how its operands and results are quantised
        kinds = [self._said(index) for index in (*operator.inputs, *operator.outputs)]
        start = len(self.nodes)
        inputs = [self.value(slot, real=False) for slot in range(len(operator.inputs))]
        outputs = []
        for index in operator.outputs:
            name = self.name(self.tensor(index).name)
            outputs.append(name)
            self.values[index, False, False] = name
            self.meaning[name] = index
            self.behind.add(index)
        self.node(
            operator.kind or "custom", inputs, "", outputs=outputs, domain=DOMAIN, custom=operator.custom,
            version=operator.version, options=str(said), custom_options=custom, kinds=str(kinds),
        )  # fmt: skip
        self._record(start, operator)
        self.notes[f"opaque: {operator.place}: {why}"] = None

    def _said(self, index: int) -> str:
        if index < 0:
            return ""
        tensor = self.tensor(index)
        steps = [part.tolist() for part in (tensor.scale, tensor.zero) if part is not None]
        return f"{tensor.type} {steps} {tensor.axis}"

    def model(self) -> Any:
        """The ONNX model; the numbers of its initialisers are in `arrays`."""
        from onnx import helper

        ends = []
        for names, indices in (
            ([self.values[k, False, False] for k in self.contents.inputs], self.contents.inputs),
            (self.results, self.contents.outputs),
        ):
            infos = []
            for name, index in zip(names, indices, strict=True):
                tensor = self.tensor(index)
                kind = ONNX_TYPES.get(tensor.type, 0)
                infos.append(helper.make_tensor_value_info(name, kind, tensor.shape))
            ends.append(infos)
        graph = helper.make_graph(self.nodes, "tflite", ends[0], ends[1])
        for name, array in self.arrays.items():
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.initializer.add(name=name, data_type=kind, dims=array.shape)
        opsets = [helper.make_opsetid("", self.opset)]
        if any(node.domain for node in self.nodes):
            opsets.append(helper.make_opsetid(DOMAIN, 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="moduli")


def _narrow(array: Array) -> Array:
    """Biases of 64 bits as those of 32, which ONNX dequantises.

    Raises:
        NotExact: they are too large for that.
    """
    if array.dtype != np.int64:
        return array
    if (np.abs(array) >= 2**31).any():
        raise NotExact("its bias needs more than 32 bits")
    return array.astype(np.int32)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
