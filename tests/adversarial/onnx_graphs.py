"""Random ONNX graphs, read and run: python tests/adversarial/onnx_graphs.py --graphs 50000 [--seed
0] [--findings DIR]

A graph is made of one number, so that any of them comes again (--replay NUMBER). Most are nearly
dense chains with one or two odd things in them. `moduli.load` may refuse a graph, in one line; what
it reads must agree with onnxruntime at inputs small, large, negative and zero, at every batch size
that the file allows. Everything else is a finding: it is shrunk while it lasts, and kept as a model
with a story.

Where onnxruntime is known to leave the specification, a model that means the same is run in its
place: `DEVIATIONS` holds these, with the evidence.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import re
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx_builder import Array, Graph, Rejected, kind_of, names_read, run, session
from onnx_steps import ODD, PLAIN, Step

import moduli as mo
from moduli.formats import load_chain

CAMPAIGN = 1_000_000  # graphs of one seed at most: graph number n of seed s is s * CAMPAIGN + n
CHUNK = 250  # graphs of one process
SECONDS = 20  # for reading one graph
LONGEST = 1500  # characters of a message
FOLLOWED = (
    0.25  # of odd steps are followed by another: what a first one does to axes, the next one shows
)
SAFETY = (
    8.0  # kernels may sum in any order and use functions right to a few units in the last place
)
UNITS = {"tensor(double)": 2.0**-53, "tensor(float16)": 2.0**-11, "tensor(bfloat16)": 2.0**-8}
SINGLE = 2.0**-24

# Making ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A model and how it is asked.

    Attributes:
        shape: of the input; the samples are counted by `batch`, which is 0 for any number and None
            where the input has no axis for them.
        asked: what `moduli.load` is given beside the model.
        steps: names of what it was made of.
    """

    number: int
    model: onnx.ModelProto
    input: str
    shape: tuple[int, ...]
    batch: int | None
    output: str
    asked: dict[str, Any]
    steps: tuple[str, ...]

    def operators(self) -> set[str]:
        """On the way to the output."""
        found, needed = set(), {self.output}
        for node in reversed(self.model.graph.node):
            if needed.intersection(node.output):
                needed.update(names_read([node]))
                found.add(node.op_type)
        return found - {"Constant"}


def make(number: int) -> list[Case]:
    """The graph of a number, once for each of its outputs.

    Raises:
        Rejected: onnxruntime does not take it.
    """
    g = Graph(np.random.default_rng(number))
    sample = _sample_shape(g)
    shape = sample if g.batch is None else (g.rows, *sample)
    x = "input"
    g.values[x] = (g.rng.integers(-16, 17, shape) / 8).astype(g.dtype)
    hidden = g.batch == 0 and len(sample) > 1 and g.chance(0.1)
    g.declared[x] = helper.make_tensor_value_info(x, kind_of(g.dtype), _declared(g, sample, hidden))
    x, steps, passed = _chain(g, x)
    outputs = [x]
    if g.chance(0.1) and len(passed) > 1:
        outputs.append(g.pick(passed[:-1]))
        g.rng.shuffle(outputs)
    model = g.model(outputs)
    session(model)
    cases = []
    for output in dict.fromkeys(outputs):
        asked: dict[str, Any] = {"output": output} if len(outputs) > 1 or g.chance(0.1) else {}
        asked |= {"input_shape": sample} if hidden else {}
        cases.append(Case(number, model, "input", shape, g.batch, output, asked, tuple(steps)))
    return cases


def _sample_shape(g: Graph) -> tuple[int, ...]:
    rank = g.weighted({1: 12, 2: 2, 3: 2, 4: 0.7, 0: 0.5})
    if g.batch is None and g.chance(0.1):
        rank = 5
    most = 5 if rank < 2 else 3
    return tuple(g.integer(1, most) for _ in range(rank))


def _declared(g: Graph, sample: tuple[int, ...], hidden: bool) -> list[Any]:
    rest: list[Any] = [None if hidden else n for n in sample]
    if g.batch is None:
        return rest
    return [g.pick(("batch", None)) if g.batch == 0 else g.batch, *rest]


def _chain(g: Graph, x: str) -> tuple[str, list[str], list[str]]:
    """Layers with odd steps in between: the last value, the steps, and all values passed."""
    layers = g.weighted({1: 3, 2: 4, 3: 1})
    wanted: list[str | None] = []
    for layer in range(layers):
        wanted.append("dense" if g.chance(0.9) else "whole_convolution")
        if g.chance(0.25):
            wanted.append(g.pick(("affine", "batch_norm", "nothing")))
        if layer < layers - 1 or g.chance(0.3):
            wanted.append("activation" if g.chance(0.9) else "clip")
    for _ in range(g.weighted({0: 1, 1: 7, 2: 2, 3: 0.5})):
        wanted.insert(len(wanted) if g.chance(0.3) else g.integer(0, len(wanted)), None)
    names, passed = list[str](), list[str]()
    for place, name in enumerate(wanted, 1):  # which grows
        found = _taken(g, x, name)
        if found is not None:
            x, step = found
            names.append(step)
            passed.append(x)
        if found is not None and name is None and g.chance(FOLLOWED):
            wanted.insert(place, None)
    if not passed:
        raise Rejected("nothing was made")
    return x, names, passed


def _taken(g: Graph, x: str, name: str | None) -> tuple[str, str] | None:
    """What a step makes of a value, of the given name or an odd one; None where none can be taken."""
    for _ in range(3 if name else 6):
        step: Step = (
            PLAIN[name] if name else ODD[g.weighted({one.name: one.weight for one in ODD.values()})]
        )
        mark = g.mark()
        if g.rank(x) < step.axes:
            continue
        try:
            return g.settled(step.build(g, x)), step.name
        except Rejected:
            g.back(mark)
    return None


# Judging --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What became of a case.

    Attributes:
        status: "skipped", "refused", "caught" (refused since a second reading disagreed), "read" or
            "finding".
        kind: of a finding, or the reason of the others.
        story: of a finding, for people.
        compared: outputs that were compared.
    """

    status: str
    kind: str = ""
    story: str = ""
    compared: int = 0


class Progress:
    """What a process was at when it died: a graph, and whether it was being read (or else made, or
    run by onnxruntime).
    """

    def __init__(self) -> None:
        self.number, self.reads = _CONTEXT.Value("q", 0), _CONTEXT.Value("b", 0)

    def reading(self, now: bool) -> None:
        self.reads.value = int(now)


_CONTEXT = multiprocessing.get_context("fork")
progress = Progress()


class Slow(BaseException):
    """Reading took too long."""


def _alarm(*_: Any) -> None:
    raise Slow


CAUGHT = re.compile(r"which gives .* where the model|which gives outputs of shape|run by onnx")


def judge(case: Case) -> Verdict:
    """Whether reading a case ends as promised."""
    if case.output not in {end.name for end in case.model.graph.output}:
        return Verdict("skipped", "no such output")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        net, verdict = _read(case)
    if verdict is not None and verdict.status == "finding":
        return verdict
    if heard:
        return Verdict("finding", f"warns: {heard[0].category.__name__}", str(heard[0].message))
    if net is None:
        assert verdict is not None
        return verdict
    try:
        found = _compared(case, case.model, net)
        for name, restated in DEVIATIONS.items():
            if found.status == "finding" and _compared(case, restated(case), net).status == "read":
                return Verdict("skipped", f"onnxruntime deviates: {name}")
        return found
    except Rejected as error:
        return Verdict("skipped", f"onnxruntime: {str(error)[:80]}")


def _read(case: Case) -> tuple[mo.Network | None, Verdict | None]:
    """The network, or how reading ended."""
    previous = signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    progress.reading(True)
    try:
        return load_chain(case.model, **case.asked), None
    except mo.UnsupportedModel as error:
        text = str(error)
        if not text or not text.isprintable() or len(text) > LONGEST:
            return None, Verdict("finding", f"message: {_place(error)}", repr(text))
        return None, Verdict("caught" if CAUGHT.search(text) else "refused", text)
    except Slow:
        return None, Verdict("finding", "slow", f"more than {SECONDS} s")
    except Exception as error:
        story = "".join(traceback.format_exception(error)[-8:])
        return None, Verdict("finding", f"escapes: {_place(error)}", story)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        progress.reading(False)


def _place(error: BaseException) -> str:
    own = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "/moduli/" in frame.filename
    ]
    where = f" at {Path(own[-1].filename).stem}:{own[-1].name}" if own else ""
    return f"{type(error).__name__}{where}"


def batches(case: Case) -> tuple[int | None, ...]:
    """How many samples are run at once: a number that no reader expects, too."""
    if case.batch == 0:
        return (1, 3, (2, 4, 5)[case.number % 3])
    return (case.batch,)


def inputs(case: Case, batch: int | None) -> Iterator[tuple[Array, bool]]:
    """Inputs, and whether they are small: zero, multiples of 1/8, negative, of mixed sizes, large."""
    rng = np.random.default_rng([case.number, batch or 0])
    shape = case.shape if batch is None else (batch, *case.shape[1:])
    dtype = helper.tensor_dtype_to_np_dtype(
        _input(case.model, case.input).type.tensor_type.elem_type
    )
    drawn = [rng.integers(-16, 17, shape) / 8 for _ in range(3 if case.batch == 0 else 5)]
    zero, low = np.zeros(shape), -np.abs(rng.integers(1, 17, shape) / 8)
    large = rng.integers(-1000, 1001, shape)
    for array in (*drawn, zero, low, rng.integers(-16, 17, shape) / 4096):
        yield np.asarray(array, dtype=dtype), True
    yield np.asarray(large, dtype=dtype), False
    yield np.asarray(-np.abs(large), dtype=dtype), False


def _input(model: onnx.ModelProto, name: str) -> Any:
    return next(end for end in model.graph.input if end.name == name)


def _others(case: Case) -> list[str]:
    """Inputs beside the data."""
    stored = {t.name for t in case.model.graph.initializer} | {
        s.values.name for s in case.model.graph.sparse_initializer
    }
    return [
        end.name
        for end in case.model.graph.input
        if end.name != case.input and end.name not in stored
    ]


def _compared(case: Case, run_as: onnx.ModelProto, net: mo.Network) -> Verdict:
    """Whether a network agrees with a model that onnxruntime runs."""
    model = session(run_as)
    more = {name: _second(case.model, name) for name in _others(case)}
    compared = 0
    for batch in batches(case):
        for x, small in inputs(case, batch):
            try:
                (theirs,) = run(model, [case.output], {case.input: x, **more})
            except Rejected:
                break  # the file does not run at this batch, so it says nothing there
            found, count = _difference(case, net, x, theirs, small)
            compared += count
            if found is not None:
                return replace(found, compared=compared)
    if not compared:
        return Verdict("skipped", "nothing finite to compare")
    return Verdict("read", "", "", compared)


def _second(model: onnx.ModelProto, name: str) -> Array:
    """A value for an input that the output should not depend on."""
    kind = _input(model, name).type.tensor_type
    shape = [d.dim_value or 1 for d in kind.shape.dim]
    return np.full(shape, 3.0, helper.tensor_dtype_to_np_dtype(kind.elem_type))


def _samples(case: Case, net: mo.Network, x: Array) -> int | None:
    """As how many samples a network takes an input; None where it does not fit."""
    width = net.widths[0]
    if case.batch == 0:
        return len(x) if width * len(x) == x.size else None
    if width == x.size:
        return 1
    return len(x) if x.ndim > 1 and width * len(x) == x.size else None


def _difference(
    case: Case, net: mo.Network, x: Array, theirs: Array, small: bool
) -> tuple[Verdict | None, int]:
    """A finding where a network and the file differ at an input, and how many outputs were
    compared.
    """
    samples = _samples(case, net, x)
    if samples is None:
        return _finding("width", case, net, x, theirs, None), 0
    rows = x.reshape(samples, -1).astype(np.float64)
    with np.errstate(all="ignore"):
        ours = np.asarray(net(rows))
    if theirs.size != ours.size:
        return _finding("size", case, net, x, theirs, ours), 0
    given = theirs.astype(np.float64).reshape(ours.shape)
    finite = np.isfinite(given)
    if not np.isfinite(ours[finite]).all() or (
        small and not finite.all() and np.isfinite(ours[~finite]).any()
    ):
        return _finding("not finite", case, net, x, theirs, ours), 0
    with np.errstate(all="ignore"):
        gap = np.abs(ours - given)
        far = finite & ~(gap <= allowance(net, rows, 0.0, SINGLE / 2))
        if far.any():
            unit, biggest = _arithmetic(case, x, small)
            allowed = allowance(net, rows, biggest, unit)
            far = finite & np.isfinite(allowed) & ~(gap <= allowed)
    if far.any():
        return _finding("disagrees", case, net, x, theirs, ours), 0
    return None, int(finite.sum())


def _finding(
    kind: str, case: Case, net: mo.Network, x: Array, theirs: Array, ours: Array | None
) -> Verdict:
    lines = [
        f"read as {net}",
        *(f"note: {note}" for note in net.notes),
        f"input {x.shape} {np.array2string(x.ravel(), threshold=24)}",
        f"onnxruntime {theirs.shape} {np.array2string(theirs.ravel(), threshold=24)}",
        ""
        if ours is None
        else f"network {ours.shape} {np.array2string(ours.ravel(), threshold=24)}",
    ]
    batch = f" at batch {len(x)}" if case.batch == 0 else ""
    return Verdict("finding", kind, f"{kind}{batch}\n" + "\n".join(lines))


def allowance(net: mo.Network, x: Array, biggest: float, unit: float) -> Array:
    """What the arithmetic of a runtime may do to the outputs ``[batch, out]``, to first order.

    A sum of n products errs by at most n + 1 roundings of the sum of the absolute values, an
    activation passes errors on with its steepest slope and adds a few roundings. Whatever else a
    graph computes on its way and the network does not is at most `biggest`, of which a few
    roundings are passed on by all later layers.
    """
    h, error, gain = x, np.abs(x), 1.0
    for layer in net.layers:
        size = np.abs(layer.weight)
        z = h @ layer.weight.T + layer.bias
        error = error @ size.T + (layer.weight.shape[1] + 2) * (
            np.abs(h) @ size.T + np.abs(layer.bias)
        )
        h = np.asarray(layer.activation(z))
        steep = max(1.0, _steepest(layer.activation, z))
        error = steep * error + 4 * np.abs(h) + 4
        gain *= steep * max(1.0, float(size.sum(axis=1).max(initial=0.0)))
    return np.asarray(SAFETY * unit * (error + biggest * gain + 4))


def _steepest(activation: Any, z: Array) -> float:
    """The steepest slope of an activation near some arguments."""
    with np.errstate(all="ignore"):
        here = activation(z)
        slopes = [
            np.abs(activation(z + d) - here).max(initial=0.0) / abs(d)
            for d in (1e-3, -1e-3, 0.1, -0.1, 2, -2, 20, -20)
        ]
    return float(np.nanmax(slopes))


def _arithmetic(case: Case, x: Array, small: bool) -> tuple[float, float]:
    """The coarsest unit of roundoff in which data is computed, and the largest number met on the
    way.

    A large input may overflow in a runtime where real numbers do not, and a later Clip hide it:
    infinity is met then.
    """
    data = {case.input}
    made = []
    for node in case.model.graph.node:
        if data.intersection(names_read([node])):
            data.update(filter(None, node.output))
            made += list(filter(None, node.output))
    every = onnx.ModelProto()
    every.CopyFrom(case.model)
    del every.graph.output[:]
    every.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in made)
    try:
        opened = session(every)
    except Rejected:  # a value that cannot be fetched
        return SINGLE, 0.0
    types = {end.name: end.type for end in opened.get_outputs()}
    real = [
        name
        for name in made
        if types[name] in ("tensor(float)", "tensor(double)", "tensor(float16)")
    ]
    feeds = {case.input: x, **{name: _second(case.model, name) for name in _others(case)}}
    values = run(opened, real, feeds)
    numbers = [np.abs(v.astype(np.float64)).ravel() for v in values]
    if small:
        numbers = [v[np.isfinite(v)] for v in numbers]
    sizes = [float(np.nan_to_num(v, nan=np.inf, posinf=np.inf).max(initial=0.0)) for v in numbers]
    kinds = {types[name] for name in made} | {opened.get_inputs()[0].type}
    floats = [UNITS.get(kind, SINGLE) for kind in kinds if kind in UNITS or kind == "tensor(float)"]
    return max(floats, default=SINGLE), max(
        [float(np.abs(x.astype(np.float64)).max(initial=0.0)), *sizes]
    )


# Where onnxruntime is not followed ------------------------------------------------------------------------------


def _rounded_halves(case: Case) -> onnx.ModelProto:
    """The model with constants in half precision computed node by node.

    onnxruntime has few kernels for half precision on a CPU. It computes the others in single
    precision between two casts, and drops pairs of casts (InsertCastTransformer): of Mul(1.1494,
    0.6397) cast to float, both float16, it makes 0.7346..., where ONNX says that the product is a
    float16; the product alone, fetched as float16, is 0.7344.
    """
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in case.model.graph.initializer}
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for place, node in reversed(list(enumerate(model.graph.node))):
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            del model.graph.node[place]
    kept = []
    for node in model.graph.node:
        if (
            not set(filter(None, node.input)) <= known.keys()
            or len(node.output) != 1
            or not node.input
        ):
            kept.append(node)
            continue
        known[node.output[0]] = _alone(case.model, node, {n: known[n] for n in node.input if n})
    graph = helper.make_graph(
        kept,
        "pinned",
        [end for end in model.graph.input if end.name not in known],
        list(model.graph.output),
    )
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in known.items())
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    functions = list(model.functions)
    imports = list(model.opset_import)
    pinned = helper.make_model(graph, opset_imports=imports, functions=functions)
    pinned.ir_version = max(4, model.ir_version)
    return pinned


def _alone(model: onnx.ModelProto, node: Any, known: dict[str, Array]) -> Array:
    """What onnxruntime makes of one node of constants."""
    name = node.output[0]
    tensors = [numpy_helper.from_array(array, own) for own, array in known.items()]
    graph = helper.make_graph(
        [node], "alone", [], [helper.make_empty_tensor_value_info(name)], tensors
    )
    made = helper.make_model(
        graph, opset_imports=list(model.opset_import), functions=list(model.functions)
    )
    made.ir_version = max(4, model.ir_version)
    (array,) = run(session(made), [name], {})
    return array


DEVIATIONS: dict[str, Callable[[Case], onnx.ModelProto]] = {
    "constants in half precision are computed in single": _rounded_halves,
}


# Shrinking ------------------------------------------------------------------------------------------------------


def shrunk(case: Case, verdict: Verdict, tries: int = 250) -> tuple[Case, Verdict]:
    """The case with as much left out as it takes to lose the finding."""
    left = tries
    progress = True
    while progress and left > 0:
        progress = False
        for smaller in _smaller(case):
            left -= 1
            if left <= 0:
                break
            found = _tried(smaller)
            if found is not None and (found.status, found.kind) == (
                verdict.status,
                _same(verdict, found),
            ):
                case, verdict, progress = smaller, found, True
                break
    return case, verdict


def _same(verdict: Verdict, found: Verdict) -> str:
    """The kind that a smaller finding must have: any text, where the kind is a text."""
    return found.kind if verdict.status == "caught" else verdict.kind


def _tried(case: Case) -> Verdict | None:
    try:
        session(case.model)
        return judge(case)
    except Rejected:
        return None


def _smaller(case: Case) -> Iterator[Case]:
    """Cases with one thing less, the most promising first."""
    graph = case.model.graph
    for place in range(len(graph.node)):
        for name in filter(None, graph.node[place].output):
            if name != case.output:
                yield _with(case, output=name)
    for place, node in reversed(list(enumerate(graph.node))):
        for name in dict.fromkeys(filter(None, node.input)):
            yield _with(case, without=place, instead=name)
    for place, node in enumerate(graph.node):
        if node.op_type != "Constant" and not _reads_data(case, place):
            yield from _folded(case, place)
    for place, node in enumerate(graph.node):
        for k in range(len(node.attribute)):
            yield _changed(
                case, lambda copy, place=place, k=k: copy.node[place].attribute.__delitem__(k)
            )
        if len(node.input) > 1:
            yield _changed(case, lambda copy, place=place: copy.node[place].input.pop())


def _changed(case: Case, change: Callable[[Any], Any]) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    change(model.graph)
    _swept(model.graph, case)
    return replace(case, model=model)


def _with(
    case: Case, *, output: str | None = None, without: int | None = None, instead: str = ""
) -> Case:
    """Another output, or a node replaced by one of its inputs."""
    wanted = case.output if output is None else output

    def change(graph: Any) -> None:
        nonlocal wanted
        if without is not None:
            gone = set(graph.node[without].output)
            del graph.node[without]
            for node in graph.node:
                node.input[:] = [instead if name in gone else name for name in node.input]
            wanted = instead if wanted in gone else wanted
        del graph.output[:]
        graph.output.append(helper.make_empty_tensor_value_info(wanted))

    asked = {name: value for name, value in case.asked.items() if name != "output"}
    moved = replace(case, asked=asked)
    model = onnx.ModelProto()
    model.CopyFrom(moved.model)
    change(model.graph)
    _swept(model.graph, case)
    return replace(moved, model=model, output=wanted)


def _swept(graph: Any, case: Case) -> None:
    """Without nodes and tensors that nothing reads."""
    needed = {end.name for end in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(names_read([node]))
    copies = []
    for node in reversed(kept):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)
    for field_of in (graph.initializer, graph.input):
        for k in reversed(range(len(field_of))):
            if field_of[k].name not in needed | {case.input}:
                del field_of[k]
    for k in reversed(range(len(graph.sparse_initializer))):
        if graph.sparse_initializer[k].values.name not in needed:
            del graph.sparse_initializer[k]


def _reads_data(case: Case, place: int) -> bool:
    data = {case.input, *_others(case)}
    for k, node in enumerate(case.model.graph.node):
        reads = bool(data.intersection(names_read([node])))
        if k == place:
            return reads
        if reads:
            data.update(node.output)
    return False


def _folded(case: Case, place: int) -> Iterator[Case]:
    """A node of constants replaced by what it makes."""
    node = case.model.graph.node[place]
    if len(node.output) != 1:
        return
    name = node.output[0]
    probe = _with(case, output=name).model
    for k in reversed(range(len(probe.graph.input))):
        if probe.graph.input[k].name == case.input:
            del probe.graph.input[k]
    try:
        (array,) = run(session(probe), [name], {})
        stored = numpy_helper.from_array(array, name)
    except Rejected:
        return

    def change(graph: Any) -> None:
        del graph.node[place]
        graph.initializer.append(stored)
        if case.model.ir_version < 4:
            graph.input.append(helper.make_tensor_value_info(name, stored.data_type, stored.dims))

    yield _changed(case, change)


# Many graphs ----------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of many graphs."""

    status: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    steps_read: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)

    def add(self, result: dict[str, Any]) -> None:
        status = result["status"]
        self.status[status] += 1
        if status in ("skipped", "refused"):
            self.reasons[f"{status}: {_plain_words(result['kind'])}"] += 1
        if status != "skipped":
            self.met.update(result["operators"])
            self.steps.update(result["steps"])
        if status in ("read", "finding") and not result["kind"].startswith(
            ("escapes", "message", "slow")
        ):
            self.read.update(result["operators"])
            self.steps_read.update(result["steps"])
        if status in ("finding", "caught"):
            self.findings.append(result)

    def report(self, say: Callable[[str], None]) -> None:
        judged = sum(self.status.values()) - self.status["skipped"]
        say(", ".join(f"{count} {status}" for status, count in sorted(self.status.items())))
        say(
            f"share read: {self.status['read'] / max(1, judged):.1%} of {judged} that onnxruntime runs"
        )
        for title, met, read in (
            ("operator", self.met, self.read),
            ("step", self.steps, self.steps_read),
        ):
            say(f"read of each {title}:")
            rows = [f"{name} {read[name]}/{met[name]}" for name in sorted(met)]
            for start in range(0, len(rows), 6):
                say("  " + ", ".join(rows[start : start + 6]))
        say("reasons:")
        for reason, count in self.reasons.most_common(40):
            say(f"  {count} x {reason}")


def _plain_words(text: str) -> str:
    """A message without what differs from graph to graph."""
    text = re.sub(r"^.*?node \d+( '[^']*')? ", "", text)
    return re.sub(r"'[^']*'|\[[^]]*\]|\([-\d, ]*\)|-?\d[\d.e+-]*", "#", text)[:110]


def tried(number: int) -> list[dict[str, Any]]:
    """What becomes of a graph, as plain data."""
    try:
        cases = make(number)
    except Rejected as error:
        return [{"number": number, "status": "skipped", "kind": f"not made: {str(error)[:60]}"}]
    results = []
    for case in cases:
        verdict = judge(case)
        results.append(
            {
                "number": number,
                "status": verdict.status,
                "kind": verdict.kind,
                "story": verdict.story,
                "output": case.output,
                "operators": sorted(case.operators()),
                "steps": sorted(set(case.steps)),
            }
        )
    return results


def _work(numbers: range, pipe: Any, mark: Progress) -> None:
    global progress
    progress = mark
    for number in numbers:
        mark.number.value = number
        pipe.send(tried(number))
    pipe.close()


def campaign(
    count: int,
    seed: int,
    *,
    workers: int = 1,
    keep: Path | None = None,
    shrinks: int = 200,
    say: Callable[[str], None] = print,
) -> Tally:
    """Try the graphs 0, 1, ..., count - 1 of a seed; findings are shrunk and kept, the first few of
    each kind.
    """
    if not 0 < count <= CAMPAIGN:
        raise ValueError(
            f"{count} graphs; between 1 and {CAMPAIGN} belong to a seed, take another seed for more"
        )
    started, tally = time.monotonic(), Tally()
    first = seed * CAMPAIGN
    chunks = [range(n, min(n + CHUNK, first + count)) for n in range(first, first + count, CHUNK)]
    for results in _parallel(chunks, workers):
        for result in results:
            tally.add(result)
    say(f"{count} graphs of seed {seed}, {time.monotonic() - started:.0f} s")
    tally.report(say)
    _told(tally, keep, shrinks, say)
    return tally


def _parallel(chunks: list[range], workers: int) -> Iterator[list[dict[str, Any]]]:
    """Results of all numbers; a process that dies costs the number at which it died."""
    waiting = list(reversed(chunks))
    active: dict[Any, tuple[Any, Progress, range]] = {}
    while waiting or active:
        while waiting and len(active) < workers:
            numbers = waiting.pop()
            ours, theirs = _CONTEXT.Pipe(duplex=False)
            mark = Progress()
            process = _CONTEXT.Process(target=_work, args=(numbers, theirs, mark))
            process.start()
            theirs.close()
            active[ours] = process, mark, numbers
        for pipe in wait(list(active)):
            try:
                yield pipe.recv()
            except EOFError:
                process, mark, numbers = active.pop(pipe)
                process.join()
                if process.exitcode:
                    died = int(mark.number.value)
                    yield [_death(died, process.exitcode, bool(mark.reads.value))]
                    if died + 1 < numbers.stop:
                        waiting.append(range(died + 1, numbers.stop))


def _death(number: int, code: int, reading: bool) -> dict[str, Any]:
    """The end of a process is a finding, unless onnxruntime ended it; exit code 1 is an exception
    of the fuzzer itself.
    """
    theirs = not reading and code < 0
    kind = f"process died: exit code {code}{'' if reading else ', not in reading'}"
    status = "skipped" if theirs else "finding"
    return {
        "number": number,
        "status": status,
        "kind": kind,
        "story": "",
        "operators": [],
        "steps": [],
        "output": "",
    }


def _told(tally: Tally, keep: Path | None, shrinks: int, say: Callable[[str], None]) -> None:
    """Shrink findings, the first of each sort first, and say what is left of them."""
    sorts: dict[Any, list[dict[str, Any]]] = {}
    for result in tally.findings:
        sorts.setdefault(
            (result["status"], _plain_words(result["kind"]), *result["steps"]), []
        ).append(result)
    order = sorted(tally.findings, key=lambda r: _rank(r, sorts))
    kinds: dict[str, list[dict[str, Any]]] = {}
    for result in order[:shrinks]:
        case, verdict = _apart(result)
        label = result["kind"] if case is None else _label(case, verdict)
        same = kinds.setdefault(label, [])
        same.append(result)
        if keep is not None and case is not None and len(same) <= 2:
            _kept(keep, label, case, verdict)
    if len(order) > shrinks:
        say(f"{len(order)} findings, of which {shrinks} were shrunk")
    for label, same in sorted(kinds.items(), key=lambda item: -len(item[1])):
        say(f"  {len(same)} x {label} (replay {', '.join(str(r['number']) for r in same[:4])})")


def _rank(result: dict[str, Any], sorts: dict[Any, list[dict[str, Any]]]) -> tuple[int, int]:
    same = sorts[(result["status"], _plain_words(result["kind"]), *result["steps"])]
    return same.index(result) + (0 if result["status"] == "finding" else 1000), result["number"]


def _apart(result: dict[str, Any]) -> tuple[Case | None, Verdict]:
    """A finding shrunk in a process of its own, which onnxruntime may end."""
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=lambda: theirs.send(_least(result)))
    process.start()
    theirs.close()
    try:
        found: tuple[Case | None, Verdict] = ours.recv()
    except EOFError:
        found = None, Verdict(result["status"], result["kind"], result["story"])
    process.join()
    return found


def _least(result: dict[str, Any]) -> tuple[Case | None, Verdict]:
    """A finding made again and shrunk, unless it ends processes."""
    verdict = Verdict(result["status"], result["kind"], result["story"])
    if result["kind"].startswith(("process died", "slow")):
        return None, verdict
    case = next((case for case in make(result["number"]) if case.output == result["output"]), None)
    return (None, verdict) if case is None else shrunk(case, verdict)


def _label(case: Case, verdict: Verdict) -> str:
    """A finding in a line: what is wrong, with which operators, over which batch."""
    kind = verdict.kind if verdict.status == "finding" else "caught"
    batch = {None: "none", 0: "free"}.get(case.batch, "fixed")
    operators = "+".join(node.op_type for node in case.model.graph.node)
    return f"{kind}: {operators}, batch {batch}"


def _kept(folder: Path, label: str, case: Case, verdict: Verdict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{re.sub('[^A-Za-z0-9]+', '-', label)[:80].strip('-')}-{case.number}"
    (folder / f"{stem}.onnx").write_bytes(case.model.SerializeToString(deterministic=True))
    text = [label, f"graph {case.number}, asked {case.asked}, made of {', '.join(case.steps)}"]
    text += [verdict.kind, verdict.story, onnx.printer.to_text(case.model)]
    (folder / f"{stem}.txt").write_text("\n".join(text), errors="backslashreplace")


def replay(number: int, keep: Path | None, say: Callable[[str], None] = print) -> bool:
    """Say all about one graph; whether it is a finding."""
    wrong = False
    for case in make(number):
        verdict = judge(case)
        say(
            f"graph {number}, output {case.output}, asked {case.asked}, made of {', '.join(case.steps)}"
        )
        say(onnx.printer.to_text(case.model))
        say(f"{verdict.status}: {verdict.kind}\n{verdict.story}")
        if verdict.status not in ("finding", "caught"):
            continue
        wrong = wrong or verdict.status == "finding"
        case, verdict = shrunk(case, verdict)
        say(
            f"shrunk: {_label(case, verdict)}\n{onnx.printer.to_text(case.model)}\n{verdict.kind}\n{verdict.story}"
        )
        if keep is not None:
            _kept(keep, _label(case, verdict), case, verdict)
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--findings", type=Path, help="folder for one model and one story of each kind of finding"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--shrinks", type=int, default=200, help="findings that are shrunk, at most"
    )
    parser.add_argument("--replay", type=int, help="number of one graph")
    given = parser.parse_args(arguments)
    with contextlib.suppress(BrokenPipeError):
        if given.replay is not None:
            return int(replay(given.replay, given.findings))
        tally = campaign(
            given.graphs,
            given.seed,
            workers=given.workers,
            keep=given.findings,
            shrinks=given.shrinks,
        )
        return int(tally.status["finding"] > 0)
    return 1


if __name__ == "__main__":
    sys.exit(main())
