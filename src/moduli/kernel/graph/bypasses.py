"""Nodes that may be passed by: their readers read one of their inputs instead. Part of the kernel.

Three reasons are known.

*Unchanged.* The output is the input: x + 0, x - 0, x * 1, x / 1, where facts say so and shapes agree;
a layer whose matrix is the identity.

*Unseen.* The node adds a stored tensor b to x, and no output can tell. Follow the difference d that
b makes through the graph: as long as every node on the way is linear in it, and it does not depend
on the index along the axes of a softmax that it reaches, it adds the same number to all that this
softmax compares, exp(z + d) / sum exp(z + d) = exp(z) / sum exp(z), and ends there. A key bias of
attention is such a tensor; where positions turn keys it is not, and nothing here says so.

*Carried.* The node adds a stored tensor b, and layers further on can do it (`carrying`): the bias of
values goes into that of the output of attention.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from ..errors import CertificateRejected
from .carrying import carried
from .facts import Known
from .model import GraphModel
from .operators import Contract, Elementwise, Linear, Node, Reshape, Shape, Slicewise, Transpose
from .removal import Changes
from .slices import ONE, are_numbers
from .slicewise import SOFTMAX


def bypassed(known: Known, name: str) -> tuple[GraphModel, str]:
    """The graph whose nodes read an input of a node in place of its output; and that input.

    Raises:
        CertificateRejected: the node is not known to be passed by.
    """
    graph = known.graph
    node = graph.makers.get(name)
    if node is None or name in graph.outputs:
        raise CertificateRejected("no node gives it, or it is an output")
    source = passed_through(known, node)
    seen, changes = source is None, Changes(known)
    if source is None:
        source = unseen(known, node)
    if source is None:
        source = carried(known, node, changes)
    if source is None:
        raise CertificateRejected("it is not known to be what one of its inputs is")
    changed, rounded = changes.applied()
    nodes = []
    for reader in graph.nodes:
        if reader is node:
            continue
        if name in reader.inputs:
            inputs = tuple(source if x == name else x for x in reader.inputs)
            reader = replace(reader, inputs=inputs)
        nodes.append(reader)
    constants = {**graph.constants, **changed}
    known.graph = replace(graph, nodes=tuple(nodes), constants=constants)
    known.rounded.update(rounded)
    if seen:
        known.forget(changed_by(graph, name) | changed.keys())
    return known.graph, source


def changed_by(graph: GraphModel, name: str) -> set[str]:
    """All that depends on a value."""
    found = {name}
    for node in graph.nodes:
        if not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


# Unchanged ------------------------------------------------------------------------------------------------------


def passed_through(known: Known, node: Node) -> str | None:
    """The input that a node gives unchanged, as far as that is known."""
    op = node.op
    if isinstance(op, Linear):
        return node.inputs[0] if _is_identity(known, node, op) else None
    if not isinstance(op, Elementwise) or len(node.inputs) != 2:
        return None
    neutral = {"add": 0, "sub": 0, "mul": 1, "div": 1}.get(op.kind)
    if neutral is None:
        return None
    a, b = node.inputs
    pairs = [(a, b)] if op.kind in ("sub", "div") else [(a, b), (b, a)]
    for x, other in pairs:
        same_shape = known.shape(x) is not None and known.shape(x) == known.shape(node.output)
        if same_shape and known.array(x) is None and _constant(known, other, Fraction(neutral)):
            return x
    return None


def _constant(known: Known, name: str, value: Fraction) -> bool:
    """Whether all entries of a tensor are known to be one number."""
    array = known.array(name)
    if array is not None:
        wide = np.asarray(array, dtype=np.float64)
        return bool(wide.size) and bool((wide == float(value)).all())
    for axis, n in enumerate(known.shape(name) or ()):
        if isinstance(n, int) and n > 0:
            x = known.of((name, axis))
            pairs = zip(x.classes.tolist(), x.ratios, strict=True)
            if all(r == value and (c == ONE or r == 0) for c, r in pairs):
                return True
    return False


def _is_identity(known: Known, node: Node, op: Linear) -> bool:
    """Whether y = x: a square identity of single taps, no bias, nothing padded or strided."""
    weight = known.array(node.inputs[1])
    shape = known.shape(node.inputs[0])
    if weight is None or op.groups != 1 or not op.uniform or op.reads != op.writes or shape is None:
        return False
    if known.shape(node.output) != shape or weight.size != weight.shape[op.rows] ** 2:
        return False
    matrix = np.moveaxis(weight, (op.rows, op.columns), (0, 1)).reshape(weight.shape[op.rows], -1)
    if matrix.shape[0] != matrix.shape[1] or not np.array_equal(matrix, np.eye(len(matrix))):
        return False
    if len(node.inputs) > 2 and not _constant(known, node.inputs[2], Fraction(0)):
        return False
    # over positions the same size with single taps means stride 1, if there is more than one
    return all(axis == op.reads or (axis, axis) in op.free for axis in range(len(shape)))


# Unseen ---------------------------------------------------------------------------------------------------------


def unseen(known: Known, node: Node) -> str | None:
    """The input of a sum to which a node adds a stored tensor that no output can tell."""
    op = node.op
    if not isinstance(op, Elementwise) or op.kind != "add" or len(node.inputs) != 2:
        return None
    for x, stored in (node.inputs, node.inputs[::-1]):
        array, shape = known.array(stored), known.shape(x)
        if array is None or known.array(x) is not None or shape is None:
            continue
        if not are_numbers(array):
            continue
        if shape == known.shape(node.output) and _ends(
            known, node.output, _spread(array.shape, len(shape))
        ):
            return x
    return None


def _spread(shape: tuple[int, ...], rank: int) -> frozenset[int]:
    """Axes of a tensor of a rank along which one that broadcasts to it is constant."""
    lead = rank - len(shape)
    return frozenset(axis for axis in range(rank) if axis < lead or shape[axis - lead] == 1)


def _ends(known: Known, name: str, constant: frozenset[int]) -> bool:
    """Whether a difference in a value, constant along some axes, reaches no output."""
    waiting: list[tuple[str, frozenset[int]]] = [(name, constant)]
    differences: dict[str, frozenset[int]] = {}
    while waiting:
        name, constant = waiting.pop()
        if name in known.graph.outputs or name in differences:
            return False  # two differences that meet are not followed
        differences[name] = constant
        for node in known.graph.readers.get(name, ()):
            if node.inputs.count(name) != 1:
                return False
            further = _behind(known, node, name, constant)
            if further is None:
                return False
            waiting += [(node.output, axes) for axes in further]
    return True


def _behind(
    known: Known, node: Node, name: str, constant: frozenset[int]
) -> list[frozenset[int]] | None:
    """Along which axes a difference is constant behind a node: none where it ends, None where it is
    not linear or not followed.
    """
    op, shape = node.op, known.shape(name)
    out = known.shape(node.output)
    if shape is None or out is None:
        return None
    if isinstance(op, Slicewise):
        mixed = set(range(len(shape))) - {i for i, _ in op.free}
        return [] if op.kind in SOFTMAX and mixed and mixed <= constant else None
    if isinstance(op, Transpose):
        return [frozenset(k for k, axis in enumerate(op.order) if axis in constant)]
    if isinstance(op, Reshape):
        return [_reshaped(op, constant)]
    if isinstance(op, Contract):
        return [_contracted(node, name, shape, out, constant)]
    if isinstance(op, Elementwise):
        return _entrywise(known, node, op, name, out, constant)
    return None


def _reshaped(op: Reshape, constant: frozenset[int]) -> frozenset[int]:
    """An axis that is the same one; all of a block, where the difference is constant along all."""
    found = {o for i, o in op.free if i in constant}
    for ins, outs in op.blocks:
        if constant.issuperset(ins):
            found.update(outs)
    return frozenset(found)


def _contracted(
    node: Node, name: str, shape: Shape, out: Shape, constant: frozenset[int]
) -> frozenset[int]:
    """a (b + d) = a b + a d: constant along the axis of b alone where d is; the same for a."""
    own = len(shape) - 2 if name == node.inputs[0] else len(shape) - 1
    target = len(out) - 2 if name == node.inputs[0] else len(out) - 1
    return frozenset({target} if own in constant else ())


def _entrywise(
    known: Known, node: Node, op: Elementwise, name: str, out: Shape, constant: frozenset[int]
) -> list[frozenset[int]] | None:
    """x + z keeps the difference of x, x * c times c; along axes in which x has one entry it is
    constant.
    """
    shape = known.shape(name) or ()
    lead = len(out) - len(shape)
    moved = {axis + lead for axis in constant} | set(range(lead))
    moved |= {a + lead for a, n in enumerate(shape) if n == 1 and out[a + lead] != 1}
    if op.kind in ("identity", "neg", "add", "sub"):
        return [frozenset(moved)]
    factors = [known.array(x) for x in node.inputs if x != name]
    if op.kind not in ("mul", "div") or len(factors) != 1 or factors[0] is None:
        return None
    if op.kind == "div" and node.inputs[0] != name:
        return None
    return [frozenset(moved & _spread(factors[0].shape, len(out)))]
