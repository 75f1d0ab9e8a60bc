"""A graph under construction: every node is run by onnxruntime as it is added, so that shapes and types are always known.

Numbers are small multiples of 1/8, of which float32 forms sums and products without rounding: a network that was read
differently differs visibly, and one that was read rightly agrees almost to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

MAX_SIZE = 400  # entries of a value
MAX_NUMBER = 1e5
OPSETS = (6, 7, 8, 9, 10, 11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 19, 20, 20, 21, 22, 23, 24)
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
BFLOAT16 = TensorProto.BFLOAT16


class Rejected(Exception):
    """What was tried makes no graph that onnxruntime runs."""


def options() -> Any:
    """One thread, nothing fused, nothing said."""
    chosen = onnxruntime.SessionOptions()
    chosen.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    chosen.intra_op_num_threads = 1
    chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 4
    return chosen


@cache
def _quiet() -> None:
    onnxruntime.set_default_logger_severity(4)


def session(model: onnx.ModelProto) -> Any:
    """A session of a model that onnxruntime accepts.

    Raises:
        Rejected: it does not.
    """
    _quiet()
    try:
        data = model.SerializeToString()
        return onnxruntime.InferenceSession(data, options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen kinds, and plain RuntimeError
        raise Rejected(str(error)) from None


def run(model: Any, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs of a session.

    Raises:
        Rejected: onnxruntime fails at these inputs.
    """
    try:
        found = model.run(list(outputs), dict(feeds))
    except Exception as error:
        raise Rejected(str(error)) from None
    return [np.asarray(one) for one in found]


def kind_of(dtype: Any) -> int:
    """The ONNX element type of a numpy type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def names_read(nodes: Sequence[Any]) -> Iterator[str]:
    """What nodes read, in subgraphs too."""
    for node in nodes:
        yield from filter(None, node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inner = attribute.g
                own = {name for one in inner.node for name in one.output}
                read = [*names_read(inner.node), *(end.name for end in inner.output)]
                yield from (name for name in read if name not in own)


@cache
def defined(op: str, opset: int, domain: str) -> bool:
    """Whether ONNX has this operator in this opset."""
    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return False
    return not schema.deprecated


class Graph:
    """Nodes, constants, and the value of everything at one trial input.

    Attributes:
        batch: samples that the input declares: 0 any number, None no axis for them.
        rows: samples of the trial input.
        dtype: numpy type of the data.
        values: of the input and of all outputs of nodes that were fetched.
        constants: names of values that do not depend on the input.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.opset = int(self.pick(OPSETS))
        self.ir = self._ir()
        self.dtype = np.dtype(self.weighted({"float32": 20, "float64": 2, "float16": 1}))
        self.batch = self.weighted({0: 10, 1: 3, 2: 2, 3: 1, None: 2})
        self.rows = self.batch or (3 if self.batch == 0 and self.chance(0.1) else 1)
        self.main_domain = "ai.onnx" if self.chance(0.02) else ""
        self.odd_constants = self.weighted({0.0: 5, 0.05: 3, 0.3: 1})
        self.nodes: list[Any] = []
        self.stored: dict[str, Any] = {}
        self.sparse: list[Any] = []
        self.functions: list[Any] = []
        self.domains: dict[str, int] = {}
        self.declared: dict[str, Any] = {}  # graph inputs, as they are written
        self.values: dict[str, Array] = {}
        self.constants: set[str] = set()
        self.makers: dict[str, Any] = {}
        self.count = 0

    def _ir(self) -> int:
        if self.opset <= 8:
            return int(self.pick((3, 3, 4, 7)))
        return 10 if self.opset >= 21 else int(self.pick((4, 6, 8, 9, 10)))

    # Chance -----------------------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, among: Any) -> Any:
        listed = list(among)
        if not listed:
            raise Rejected("nothing to choose from")
        return listed[int(self.rng.integers(len(listed)))]

    def weighted(self, table: Mapping[Any, float]) -> Any:
        names = list(table)
        shares = np.array([table[name] for name in names], dtype=float)
        return names[int(self.rng.choice(len(names), p=shares / shares.sum()))]

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included."""
        if low > high:
            raise Rejected("nothing to choose from")
        return int(self.rng.integers(low, high + 1))

    def some(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the attributes: None leaves one out."""
        drawn = {name: self.pick(values) for name, values in options.items()}
        return {name: value for name, value in drawn.items() if value is not None}

    def dyadic(self, shape: Sequence[int], *, most: int = 8, zero: bool = True) -> Array:
        """Multiples of 1/8 up to most/8."""
        array = self.rng.integers(-most, most + 1, tuple(shape)) / 8
        if not zero:
            array = np.where(array == 0, 0.5, array)
        return np.asarray(array)

    # Names and nodes --------------------------------------------------------------------------------------------

    def name(self, stem: str = "v") -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def node(
        self,
        op: str,
        *inputs: str,
        outputs: int = 1,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Any:
        """Add a node; the name of its output, or a tuple of names. Attributes that are None are left out."""
        if domain == "" and not defined(op, self.opset, domain):
            raise Rejected(f"no {op} in opset {self.opset}")
        everything = {**(attributes or {}), **more}
        written = {name: value for name, value in everything.items() if value is not None}
        made = [self.name() for _ in range(outputs)]
        proto = helper.make_node(op, list(inputs), made, **written)
        if domain:
            proto.domain = domain
            self.domains.setdefault(domain, 1)
        self.nodes.append(proto)
        self.makers.update(dict.fromkeys(made, proto))
        if all(self.is_constant(name) for name in names_read([proto])):
            self.constants.update(made)
        return made[0] if outputs == 1 else tuple(made)

    def is_constant(self, name: str) -> bool:
        return (
            name in self.constants
            or name in self.stored
            or any(s.values.name == name for s in self.sparse)
        )

    def value(self, name: str) -> Array:
        """What onnxruntime makes of a name at the trial input."""
        if name not in self.values:
            self._run(name)
        return self.values[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.value(name).shape)

    def rank(self, name: str) -> int:
        return self.value(name).ndim

    def _run(self, wanted: str) -> None:
        """Run the nodes that a value needs and that were not run before."""
        chosen: list[int] = []
        stack = [wanted]
        while stack:
            name = stack.pop()
            proto = self.makers.get(name)
            if name in self.values or proto is None or id(proto) in chosen:
                continue
            chosen.append(id(proto))
            stack += names_read([proto])
        nodes = [node for node in self.nodes if id(node) in chosen]
        feeds = {
            name: self.values[name]
            for name in sorted(set(names_read(nodes)))
            if name in self.values
        }
        (result,) = run(session(self.model([wanted], feeds=feeds, nodes=nodes)), [wanted], feeds)
        array = np.asarray(result)
        if array.dtype == object or array.size > MAX_SIZE or array.ndim > 7:
            raise Rejected(f"{wanted} has {array.size} entries of {array.dtype}")
        self.values[wanted] = array

    # Constants --------------------------------------------------------------------------------------------------

    def const(self, array: Any, dtype: Any = None, *, plain: bool = False) -> str:
        """A constant, in one of the ways in which files write one."""
        found = np.asarray(array)
        wanted = (
            found.dtype
            if dtype is None and found.dtype.kind in "iub"
            else np.dtype(dtype or self.dtype)
        )
        own = np.ascontiguousarray(found, dtype=wanted).reshape(found.shape)
        if plain or not self.chance(self.odd_constants):
            return self.store(own)
        before = self.mark()
        try:
            return str(self.pick(CONSTANTS)(self, own))
        except Rejected:
            self.back(before)
            return self.store(own)

    def store(self, array: Array) -> str:
        name = self.name("c")
        typed = array.dtype != np.float16 and self.chance(0.2)
        if typed:
            self.stored[name] = helper.make_tensor(
                name, kind_of(array.dtype), array.shape, array.ravel().tolist()
            )
        else:
            self.stored[name] = numpy_helper.from_array(array, name)
        return name

    def mark(self) -> Any:
        return (
            len(self.nodes),
            dict(self.stored),
            len(self.sparse),
            len(self.functions),
            dict(self.domains),
            dict(self.declared),
            set(self.values),
        )

    def back(self, mark: Any) -> None:
        """As it was at a mark."""
        nodes, self.stored, sparse, functions, self.domains, self.declared, values = mark
        for node in self.nodes[nodes:]:
            for name in node.output:
                del self.makers[name]
        del self.nodes[nodes:], self.sparse[sparse:], self.functions[functions:]
        self.values = {name: array for name, array in self.values.items() if name in values}

    # Models -----------------------------------------------------------------------------------------------------

    def ends(self) -> list[Any]:
        return list(self.declared.values())

    def model(
        self,
        outputs: Sequence[str],
        *,
        feeds: Mapping[str, Array] | None = None,
        nodes: Sequence[Any] | None = None,
    ) -> onnx.ModelProto:
        """The graph as a model; with feeds, one of a few nodes."""
        chosen = self.nodes if nodes is None else nodes
        needed, fed = set(names_read(chosen)) | set(outputs), set(feeds or ())
        if feeds is None:
            ends = self.ends()
            needed.update(end.name for end in ends)
        else:
            ends = [
                helper.make_tensor_value_info(n, kind_of(a.dtype), a.shape)
                for n, a in feeds.items()
            ]
        graph = helper.make_graph(
            list(chosen),
            "random",
            ends,
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [tensor for name, tensor in self.stored.items() if name in needed - fed],
            sparse_initializer=[one for one in self.sparse if one.values.name in needed - fed],
        )
        if feeds is None and self.ir < 4:
            named = {end.name for end in ends}
            missing = [tensor for tensor in graph.initializer if tensor.name not in named]
            graph.input.extend(
                helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in missing
            )
        imports = [helper.make_opsetid(self.main_domain, self.opset)]
        imports += [
            helper.make_opsetid(domain, version) for domain, version in self.domains.items()
        ]
        if self.main_domain:
            for proto in graph.node:
                proto.domain = proto.domain or self.main_domain
        model = helper.make_model(graph, opset_imports=imports, functions=self.functions)
        model.ir_version = max(self.ir, 8) if self.functions else self.ir
        return model

    # Helpers of steps -------------------------------------------------------------------------------------------

    def axes(self, op: str, x: str, axes: Sequence[int] | None, since: int, **more: Any) -> str:
        """A node with axes, which are an attribute before an opset and an input from it on."""
        if axes is None:
            return str(self.node(op, x, **more))
        if self.opset < since:
            if not axes:
                raise Rejected("an attribute without entries has no type")
            return str(self.node(op, x, axes=list(axes), **more))
        return str(self.node(op, x, self.const(np.array(axes, dtype=np.int64)), **more))

    def unsqueeze(self, x: str, axes: Sequence[int]) -> str:
        return self.axes("Unsqueeze", x, axes, 13)

    def squeeze(self, x: str, axes: Sequence[int] | None) -> str:
        return self.axes("Squeeze", x, axes, 13)

    def reshape(self, x: str, shape: Sequence[int], **more: Any) -> str:
        return str(self.node("Reshape", x, self.const(np.array(shape, dtype=np.int64)), **more))

    def cast(self, x: str, dtype: Any) -> str:
        to = dtype if isinstance(dtype, int) else kind_of(dtype)
        return str(self.node("Cast", x, to=to))

    def leading(self) -> int:
        """What stands for the samples in the shape of a Reshape."""
        if self.batch:
            return int(self.pick((self.batch, self.batch, -1, 0)))
        return int(self.pick((-1, -1, 0)))

    def settled(self, x: str) -> str:
        """The value, of the type of the data, and of a size that can be gone on with."""
        array = self.value(x)
        if array.dtype != self.dtype:
            x = self.cast(x, self.dtype)
            array = self.value(x)
        if not array.size:
            raise Rejected("nothing is left")
        with np.errstate(all="ignore"):
            if not np.isfinite(array).all() or np.abs(array.astype(float)).max() > MAX_NUMBER:
                raise Rejected("too large")
        return x


# Ways to write a constant ---------------------------------------------------------------------------------------


def _constant_node(g: Graph, array: Array) -> str:
    return str(g.node("Constant", value=numpy_helper.from_array(array, g.name("t"))))


def _constant_numbers(g: Graph, array: Array) -> str:
    if g.opset < 12 or array.ndim > 1:
        raise Rejected("has no such form")
    numbers = array.tolist()
    if array.dtype == np.float32:
        return str(g.node("Constant", **{"value_floats" if array.ndim else "value_float": numbers}))
    if array.dtype == np.int64:
        return str(g.node("Constant", **{"value_ints" if array.ndim else "value_int": numbers}))
    raise Rejected("has no such form")


def _sparse(g: Graph, array: Array, name: str) -> Any:
    if array.dtype != np.float32 or array.ndim not in (1, 2):
        raise Rejected("is not stored sparsely")
    places = np.flatnonzero(array)
    values = numpy_helper.from_array(array.ravel()[places], name)
    indices = places.astype(np.int64)
    if array.ndim == 2 and g.chance(0.5):
        indices = np.argwhere(array).astype(np.int64)
    return helper.make_sparse_tensor(
        values, numpy_helper.from_array(indices, f"{name}_at"), array.shape
    )


def _sparse_node(g: Graph, array: Array) -> str:
    name = str(g.node("Constant", sparse_value=_sparse(g, array, g.name("s"))))
    g.values[name] = array  # onnxruntime gives back no sparse tensors
    return name


def _sparse_stored(g: Graph, array: Array) -> str:
    name = g.name("s")
    g.sparse.append(_sparse(g, array, name))
    g.values[name] = array
    return name


def _identity(g: Graph, array: Array) -> str:
    return str(g.node("Identity", g.store(array)))


def _cast(g: Graph, array: Array) -> str:
    other = np.dtype(g.pick(("float64", "float32", "float16", "int64", "int32", "int8", "uint8")))
    with np.errstate(all="ignore"):
        narrow = array.astype(other)
        if not np.array_equal(narrow.astype(array.dtype), array):
            raise Rejected("is not the same in another type")
    stored = g.store(narrow)
    if g.opset >= 15 and g.chance(0.4):
        return str(g.node("CastLike", stored, g.store(np.zeros((), array.dtype))))
    return g.cast(stored, array.dtype)


def _reshaped(g: Graph, array: Array) -> str:
    return str(
        g.node("Reshape", g.store(array.ravel()), g.store(np.array(array.shape, dtype=np.int64)))
    )


def _transposed(g: Graph, array: Array) -> str:
    if array.ndim < 2:
        raise Rejected("has one axis")
    order = [int(k) for k in g.rng.permutation(array.ndim)]
    return str(g.node("Transpose", g.store(array.transpose(np.argsort(order))), perm=order))


def _unsqueezed(g: Graph, array: Array) -> str:
    if 1 not in array.shape:
        raise Rejected("has no axis of size one")
    axis = array.shape.index(1)
    return g.unsqueeze(g.store(array.squeeze(axis)), [axis])


def _dequantized(g: Graph, array: Array) -> str:
    """Small integers, with scales for all, for an axis, or for blocks of one."""
    dtype = np.dtype(g.pick(("int8", "uint8", "int16", "uint16", "int32")))
    steps = array * 8.0
    if (
        array.dtype != np.float32
        or not array.ndim
        or not (np.abs(steps) <= 100).all()
        or (steps % 1).any()
    ):
        raise Rejected("is not quantised")
    zero = (
        0
        if dtype.kind == "i" and dtype.itemsize == 4
        else g.integer(0, 20) + (100 if dtype.kind == "u" else 0)
    )
    finer = g.chance(0.5) and dtype.itemsize == 1 and (np.abs(steps) <= 13).all()
    axis = g.integer(0, array.ndim - 1)
    form = g.weighted({"one": 2, "axis": 2, "blocks": 1, "no zero": 1})
    zero = 0 if form == "no zero" else zero
    if form in ("one", "no zero"):
        small, scale = (steps + zero).astype(dtype), np.array(0.125, np.float32)
        ends = [
            g.store(small),
            g.store(scale),
            *([g.store(np.array(zero, dtype))] if form == "one" else []),
        ]
        return str(g.node("DequantizeLinear", *ends))
    halves = g.rng.random(array.shape[axis]) < 0.5 if finer else np.zeros(array.shape[axis], bool)
    scales = np.where(halves, 0.0625, 0.125).astype(np.float32)
    along = [1] * array.ndim
    along[axis] = -1
    small = (steps * np.where(halves, 2, 1).reshape(along) + zero).astype(dtype)
    if form == "axis":
        zeros = np.full(array.shape[axis], zero, dtype)
        return str(
            g.node("DequantizeLinear", g.store(small), g.store(scales), g.store(zeros), axis=axis)
        )
    wide = np.broadcast_to(scales.reshape(along), array.shape)
    zeros = np.full(array.shape, zero, dtype)
    ends = [g.store(small), g.store(np.ascontiguousarray(wide)), g.store(zeros)]
    return str(g.node("DequantizeLinear", *ends, axis=axis, block_size=1))


def _range(g: Graph, array: Array) -> str:
    if array.ndim != 1 or len(array) < 2 or array.dtype not in (np.int64, np.int32, np.float32):
        raise Rejected("is no range")
    with np.errstate(all="ignore"):
        delta = array[1] - array[0]
        if not delta or (np.diff(array) != delta).any():
            raise Rejected("is no range")
    limit = array[-1] + g.pick((delta, np.sign(delta)))
    return str(
        g.node("Range", *[g.store(np.array(v, array.dtype)) for v in (array[0], limit, delta)])
    )


def _filled(g: Graph, array: Array) -> str:
    if not array.size or not (array == array.flat[0]).all():
        raise Rejected("is not uniform")
    value = numpy_helper.from_array(array.ravel()[:1], "value")
    return str(
        g.node("ConstantOfShape", g.store(np.array(array.shape, dtype=np.int64)), value=value)
    )


def _added(g: Graph, array: Array) -> str:
    if array.dtype.kind == "b":
        raise Rejected("is no number")
    other = np.ones((), array.dtype)
    return str(g.node("Add", g.store(array - other), g.store(other)))


def _doubled(g: Graph, array: Array) -> str:
    if array.dtype.kind != "f":
        raise Rejected("is no real number")
    half = np.full((1,) * g.integer(0, array.ndim), 0.5, array.dtype)
    return str(g.node("Mul", g.store(array * array.dtype.type(2)), g.store(half)))


def _joined(g: Graph, array: Array) -> str:
    if not array.ndim or len(array) < 2:
        raise Rejected("is not cut")
    cut = g.integer(1, len(array) - 1)
    return str(g.node("Concat", g.store(array[:cut]), g.store(array[cut:]), axis=0))


def _gathered(g: Graph, array: Array) -> str:
    if not array.ndim:
        raise Rejected("has no rows")
    order = g.rng.permutation(len(array))
    places = np.argsort(order).astype(g.pick(("int64", "int32")))
    return str(g.node("Gather", g.store(array[order]), g.store(places), axis=0))


def _branch(g: Graph, array: Array) -> str:
    nodes = []
    for found in (array, np.zeros_like(array)):
        name = g.name("b")
        made = helper.make_node(
            "Constant", [], [name], value=numpy_helper.from_array(found, f"{name}_t")
        )
        end = helper.make_tensor_value_info(name, kind_of(found.dtype), found.shape)
        nodes.append(helper.make_graph([made], g.name("branch"), [], [end]))
    truth = g.chance(0.5)
    if not truth:
        nodes.reverse()
    return str(g.node("If", g.store(np.array(truth)), then_branch=nodes[0], else_branch=nodes[1]))


def _input(g: Graph, array: Array) -> str:
    """Stored, and a graph input besides: required before IR 4, a default from then on."""
    name = g.store(array)
    g.declared[name] = helper.make_tensor_value_info(name, kind_of(array.dtype), array.shape)
    return name


def _sliced(g: Graph, array: Array) -> str:
    if not array.ndim or g.opset < 10:
        raise Rejected("has no rows")
    longer = np.concatenate([array, array], axis=0)
    ends = [g.store(np.array([n], dtype=np.int64)) for n in (0, len(array), 0)]
    return str(g.node("Slice", g.store(longer), *ends))


def _where(g: Graph, array: Array) -> str:
    truth = g.rng.random(array.shape) < 0.5
    zero = np.zeros((), array.dtype)
    pair = np.where(truth, array, zero), np.where(truth, zero, array)
    return str(g.node("Where", g.store(np.asarray(truth)), *[g.store(np.asarray(p)) for p in pair]))


CONSTANTS: tuple[Callable[[Graph, Array], str], ...] = (
    _constant_node, _constant_node, _constant_numbers, _sparse_node, _sparse_stored, _identity, _cast, _reshaped,
    _transposed, _unsqueezed, _dequantized, _range, _filled, _added, _doubled, _joined, _gathered, _branch, _input, _sliced,
    _where,
)  # fmt: skip
