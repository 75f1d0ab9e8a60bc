"""Mutants of graphs and of certificates about them: what the kernel takes has to be true.

A mutant is a random graph with a true certificate (`graph_fuzz`), of which some numbers,
attributes, wires or moves were changed. Where the kernel still takes the moves, digests are made to
fit, and the file that follows has to compute what the mutant does.

    python -m tests.adversarial.graph_attack --seed S --count N [--mutants M] [--findings FOLDER]
"""

from __future__ import annotations

import collections
import copy
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

import graph_fuzz as fuzz
import many_seeds
from graph_fuzz import Case, Skipped, Wrong
from many_seeds import FINDING, Ending

from moduli.compression.exact.reduce_graph import reduce_graph
from moduli.formats.onnx.graph_files import read_graph
from moduli.kernel.errors import CertificateRejected, UnsupportedModel
from moduli.kernel.graph.bypasses import bypassed
from moduli.kernel.graph.certificate import (
    GraphCertificate,
    GraphMove,
    ended,
    played,
    removed,
)
from moduli.kernel.graph.facts import Known
from moduli.kernel.slack import NO_SLACK, Slack

Rng = np.random.Generator
Rounds = list[list[GraphMove]]
MUTANTS = 20  # of a graph
SWAPS = (
    {"Relu", "Abs", "Tanh", "Neg", "Sigmoid", "Identity", "Softplus", "Erf", "HardSwish"},
    {"Add", "Sub", "Mul", "Max", "Min"},
    {"MaxPool", "AveragePool"},
    {"GlobalMaxPool", "GlobalAveragePool"},
    {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"},
)


def pick(rng: Rng, among: Sequence[Any]) -> Any:
    return among[int(rng.integers(len(among)))]


# Graphs ---------------------------------------------------------------------------------------------------------


def number(rng: Rng, array: Any) -> None:
    """One entry becomes nothing, another one, or a little more."""
    flat = array.reshape(-1)
    k = int(rng.integers(flat.size))
    other = flat[int(rng.integers(flat.size))]
    flat[k] = pick(rng, (0, 1, -1, other, -flat[k], 2 * flat[k], flat[k] + 0.125))


def row(rng: Rng, array: Any) -> None:
    """A slice becomes a multiple of another one, or nothing."""
    if not array.ndim:
        return number(rng, array)
    axis = int(rng.integers(array.ndim))
    moved = np.moveaxis(array, axis, 0)
    i, j = (int(k) for k in rng.integers(len(moved), size=2))
    moved[i] = moved[j] * pick(rng, (0, 1, 2, -1, 0.5))
    return None


def stored(rng: Rng, model: Any) -> None:
    tensors = [t for t in model.graph.initializer if t.data_type in (1, 10, 11) and np.prod(t.dims)]
    tensor = pick(rng, tensors)
    array = numpy_helper.to_array(tensor).copy()
    pick(rng, (number, row, row))(rng, array)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def whole(rng: Rng, model: Any) -> None:
    """An entry of a shape, of indices or of axes."""
    tensors = [t for t in model.graph.initializer if t.data_type == 7 and np.prod(t.dims)]
    tensor = pick(rng, tensors)
    array = numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    if flat.size > 1 and rng.random() < 0.5:
        i, j = rng.integers(flat.size, size=2)
        flat[i], flat[j] = int(flat[j]), int(flat[i])
    else:
        flat[int(rng.integers(flat.size))] += pick(rng, (-1, 1))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def attribute(rng: Rng, model: Any) -> None:
    found = [a for node in model.graph.node for a in node.attribute if a.type in (1, 2, 7)]
    one = pick(rng, found)
    if one.type == 1:
        one.f = pick(rng, (0.0, 1.0, 2.0, -one.f, 0.25))
    elif one.type == 2:
        one.i += pick(rng, (-1, 1))
    elif len(one.ints) > 1 and rng.random() < 0.5:
        i, j = (int(k) for k in rng.integers(len(one.ints), size=2))
        one.ints[i], one.ints[j] = one.ints[j], one.ints[i]
    else:
        one.ints[int(rng.integers(len(one.ints)))] += pick(rng, (-1, 1))


def operator(rng: Rng, model: Any) -> None:
    nodes = [n for n in model.graph.node if any(n.op_type in kinds for kinds in SWAPS)]
    one = pick(rng, nodes)
    kinds = next(kinds for kinds in SWAPS if one.op_type in kinds)
    one.op_type = pick(rng, sorted(kinds - {one.op_type}))


def wire(rng: Rng, model: Any) -> None:
    """A node reads another value than it did."""
    place = int(rng.integers(len(model.graph.node)))
    node = model.graph.node[place]
    there = [end.name for end in model.graph.input] + [t.name for t in model.graph.initializer]
    there += [name for one in model.graph.node[:place] for name in one.output]
    k = int(rng.integers(len(node.input)))
    if rng.random() < 0.3:
        node.input[k] = node.input[int(rng.integers(len(node.input)))]
    else:
        node.input[k] = pick(rng, there)


GRAPHS: tuple[Callable[[Rng, Any], None], ...] = (
    stored, stored, stored, stored, attribute, attribute, operator, wire, whole,
)  # fmt: skip


# Moves ----------------------------------------------------------------------------------------------------------


def changed_moves(rng: Rng, rounds: Rounds, model: Any) -> None:
    """One or two changes of the moves."""
    names = [name for name, shape in model.shapes.items() if shape]
    for _ in range(int(rng.integers(1, 3))):
        filled = [moves for moves in rounds if moves]
        way = rng.random()
        if way < 0.1 or not filled:
            sums = [node.output for node in model.nodes]
            pick(rng, rounds).append(GraphMove("bypass", pick(rng, sums)))
            continue
        moves = pick(rng, filled)
        at = int(rng.integers(len(moves)))
        move = moves[at]
        if way < 0.2:
            del moves[at]
        elif way < 0.3:
            moves.insert(int(rng.integers(len(moves) + 1)), move)
        elif way < 0.4:
            pick(rng, rounds).append(moves.pop(at))
        elif move.kind == "bypass":
            moves[at] = replace(move, tensor=pick(rng, names))
        elif move.kind == "combine":
            moves[at] = changed_combination(rng, move)
        else:
            moves[at] = changed_move(rng, move, names, model)


def changed_move(rng: Rng, move: GraphMove, names: Sequence[str], model: Any) -> GraphMove:
    shape = model.shapes.get(move.tensor) or (1,)
    size = shape[move.axis] if move.axis < len(shape) else 1
    most = size if isinstance(size, int) else 4
    way = rng.random()
    if way < 0.2:
        tensor = pick(rng, names)
        axis = int(rng.integers(len(model.shapes[tensor])))
        return replace(move, tensor=tensor, axis=axis)
    if way < 0.3:  # a layer takes some column for a number
        column = int(rng.integers(most))
        value = (pick(rng, names), column, pick(rng, (0.0, 0.5, -1.0, 1e6)))
        kept = [own for own in move.values if own[:2] != value[:2]]
        return replace(move, values=(*kept, value))
    k = int(rng.integers(len(move.units)))
    units, into = list(move.units), list(move.into)
    if move.kind == "bound":
        return replace(move, units=tuple(units[:k]), depth=int(rng.integers(1, 4)))
    if way < 0.5:
        units[k] = int(rng.integers(most))
    elif way < 0.8:
        into[k] = int(rng.integers(-1, most))
    elif way < 0.9:
        units.append(int(rng.integers(most)))
        into.append(int(rng.integers(-1, most)))
    else:
        del units[k], into[k]
    return replace(move, units=tuple(units), into=tuple(into))


def changed_combination(rng: Rng, move: GraphMove) -> GraphMove:
    """Another unit, coefficient, or order of them."""
    units, into, numbers = list(move.units), list(move.into), list(move.coefficients)
    way = rng.random()
    if way < 0.5 and numbers:
        k = int(rng.integers(len(numbers)))
        numbers[k] = pick(rng, (0.0, -numbers[k], numbers[k] + 0.5, numbers[k] * (1 + 1e-6), 1e300))
    elif way < 0.7:
        units[int(rng.integers(len(units)))] = int(rng.integers(-1, 8))
    elif way < 0.85:
        into[int(rng.integers(len(into)))] = int(rng.integers(-1, 8))
    else:
        k = int(rng.integers(len(units)))
        del units[k], numbers[k * len(into) : (k + 1) * len(into)]
    return replace(move, units=tuple(units), into=tuple(into), coefficients=tuple(numbers))


# What is taken is true ----------------------------------------------------------------------------------------


def replayed(model: Any, rounds: Rounds, ranges: Any) -> tuple[Any, dict[str, str], Slack]:
    """The graph after moves, what is read instead of values that were passed by, and the slack."""
    graph, renamed, slack = model.live(), dict[str, str](), NO_SLACK
    for moves in rounds:
        if any(move.kind == "combine" for move in moves):
            graph, further = played(graph, moves, ranges)
            slack += further
            continue
        known, passed = Known(graph, ranges), False
        for move in moves:
            if move.kind == "bypass":
                _, renamed[move.tensor] = bypassed(known, move.tensor)
                passed = True
                continue
            if passed:
                known.graph, passed = known.graph.live(), False
            removed(known, move)
        graph, further = ended(known)
        slack += further
    return graph, renamed, slack


def mutants(case: Case, rounds: Rounds, seed: int, count: int) -> collections.Counter[str]:
    """Mutants of one graph and its moves; how they ended.

    Raises:
        Wrong: something false was taken, or something else than a refusal was raised.
    """
    said = collections.Counter[str]()
    for k in range(count):
        rng = np.random.default_rng((seed, k))
        own = type(case.model)()
        own.CopyFrom(case.model)
        ways = rng.random()
        try:
            if ways < 0.7:
                for _ in range(int(rng.integers(1, 3))):
                    pick(rng, GRAPHS)(rng, own)
            said[
                one_mutant(
                    replace(case, model=own, sizes={}), copy.deepcopy(rounds), rng, ways > 0.4
                )
            ] += 1
        except Wrong as error:
            error.model = own
            raise
        except ValueError:
            said["nothing to change"] += 1
    return said


def one_mutant(case: Case, rounds: Rounds, rng: Rng, moves_too: bool) -> str:
    feeds = fuzz.inputs(case, rng)[:3]
    try:
        before = [fuzz.evaluated(case.model, one, every=True) for one in feeds]
    except (UnsupportedModel, Skipped):
        return "runs no more"
    try:
        graph = read_graph(case.model.SerializeToString(), None, "mutant", fuzz.no_chain)
    except UnsupportedModel:
        return "read no more"
    if moves_too:
        changed_moves(rng, rounds, graph.model)
    ranges = case.ranges
    try:
        wanted, renamed, slack = replayed(graph.model, rounds, ranges)
        moves = tuple(map(tuple, rounds))
        if not slack.finite:
            return "refused"
        proof = GraphCertificate(graph.digest, wanted.digest, moves, ranges, slack)
        GraphCertificate.from_json(fuzz.as_text(proof)).verify(wanted, graph.model)
    except CertificateRejected:
        return "refused"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise Wrong(
            f"a mutant raises {type(error).__name__} in {last.name}", str(error)[:200]
        ) from error
    try:
        small = graph.source.rewritten(wanted, renamed)
    except UnsupportedModel:
        return "not written"
    exact = case.exact
    fuzz.compare(case, fuzz.saved(small), feeds, before, exact, "mutant", slack)
    return "taken"


def attacked(seed: int, count: int) -> Ending:
    """How the mutants of one seed end."""
    case = fuzz.make(seed)
    if case is None:
        return Ending("none")
    try:
        graph = read_graph(case.model.SerializeToString(), None, "random", fuzz.no_chain)
    except UnsupportedModel:
        return Ending("none")
    found = reduce_graph(graph.model, ranges=case.ranges, budget=300)
    if not found.rounds:
        return Ending("nothing to attack")
    rounds = [list(moves) for moves in found.rounds]
    try:
        return Ending("attacked", done=mutants(case, rounds, seed, count))
    except Wrong as error:
        return Ending(FINDING + error.kind, error.what, getattr(error, "model", None))


def run(
    seeds: Iterable[int], mutants: int = MUTANTS, findings: Path | None = None
) -> collections.Counter[str]:
    return many_seeds.run(partial(attacked, count=mutants), seeds, findings)


if __name__ == "__main__":
    raise SystemExit(many_seeds.main(__doc__, 200, run, mutants=MUTANTS))
