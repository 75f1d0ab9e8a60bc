"""Whether the shapes of a graph are such as its operators give. Part of the kernel.

What is known of axes and slices is about tensors of the shapes that a graph states. Here it is
checked that each node may read what it reads and gives what it says, as far as that follows from its
operator: which axes there are, which of them are the same, and that known sizes agree. How many
positions a window takes, and what an opaque operator gives, is for the reader to know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .. import fields
from ..errors import CertificateRejected
from .functions import LAWS
from .model import GraphModel, rebuilt
from .operators import (
    Broadcast,
    Concat,
    Contract,
    Elementwise,
    Linear,
    Lookup,
    Node,
    Opaque,
    Operator,
    PerUnit,
    Reshape,
    Shape,
    Shapes,
    Size,
    Slicewise,
    Take,
    Transpose,
)

NUMBERS = {"leaky_relu": 1, "clip": 2, "hardsigmoid": 2, "elu": 1, "celu": 1, "selu": 2}
Pairs = Sequence[tuple[int, int]]
Run = tuple[int, ...]  # of axes
Check = Callable[[Any, list[Shape], Shape], bool]


def sound(graph: GraphModel) -> GraphModel:
    """A graph made anew by `rebuilt`, whose shapes are those that its operators give.

    Raises:
        CertificateRejected: it is made of something else, or shapes do not fit.
    """
    with fields.made_by_hand("graph"):
        made = rebuilt(graph)
    require_shapes(made)
    return made


def require_shapes(graph: GraphModel) -> None:
    """Refuse a graph that states shapes which its operators do not give.

    Raises:
        CertificateRejected: naming the node.
    """
    for name, array in graph.constants.items():
        if graph.shapes.get(name) != array.shape:
            raise CertificateRejected(
                f"{name!r} is said to have shape {graph.shapes.get(name)}, and has {array.shape}"
            )
    for name, shape in graph.shapes.items():
        for n in shape or ():
            if type(n) not in (int, str) or (isinstance(n, int) and n < 0):
                raise CertificateRejected(f"{name!r} is said to have shape {shape}")
    for node in graph.nodes:
        if not fits(node, graph.shapes):
            shapes = [graph.shapes.get(name) for name in (*node.inputs, *node.outputs)]
            raise CertificateRejected(f"{node.name!r}: {node.op} of shapes {shapes}")


def fits(node: Node, shapes: Shapes) -> bool:
    """Whether an operator may read what it reads, and gives what it says."""
    op = node.op
    given = [shapes.get(name) for name in node.inputs if name]
    made = shapes.get(node.output) if node.outputs else None
    known: list[Shape] = [shape for shape in given if shape is not None]
    if made is None or len(known) < len(given):
        # of tensors of unknown shape nothing is used
        return isinstance(op, (Opaque, Size, Elementwise))
    check = CHECKS.get(type(op))
    try:
        return check is None or check(op, known, made)
    except (IndexError, TypeError, ValueError):  # an axis or an input that is not there
        return False


# Sizes ----------------------------------------------------------------------------------------------------------


def _same(a: int | str, b: int | str) -> bool:
    """Whether two sizes may be one: known ones are equal."""
    return a == b or not (isinstance(a, int) and isinstance(b, int))


def _equal(a: Shape, b: Shape) -> bool:
    return len(a) == len(b) and all(_same(n, m) for n, m in zip(a, b, strict=True))


def _axes(axes: Iterable[int], rank: int) -> bool:
    """Whether they are different axes of a tensor."""
    listed = list(axes)
    return len(set(listed)) == len(listed) and all(0 <= axis < rank for axis in listed)


def _paired(free: Pairs, x: Shape, y: Shape) -> bool:
    ins, outs = [i for i, _ in free], [o for _, o in free]
    if not (_axes(ins, len(x)) and _axes(outs, len(y))):
        return False
    return all(_same(x[i], y[o]) for i, o in free)


def _broadcasts(shapes: Sequence[Shape], made: Shape) -> bool:
    if max(map(len, shapes)) != len(made):
        return False
    for back in range(-len(made), 0):
        sizes = {shape[back] for shape in shapes if -back <= len(shape)} - {1}
        numbers = {n for n in sizes if isinstance(n, int)}
        n = made[back]
        if not sizes and n != 1:
            return False
        if len(numbers) > 1 or (numbers and n not in numbers):
            return False
    return True


# Operators ------------------------------------------------------------------------------------------------------


def _elementwise(op: Elementwise, given: list[Shape], made: Shape) -> bool:
    if not given:
        return False
    if op.kind in LAWS and (len(given) != 1 or len(op.numbers) != NUMBERS.get(op.kind, 0)):
        return False
    return _broadcasts(given, made)


def _per_unit(op: PerUnit, given: list[Shape], made: Shape) -> bool:
    x, *further = given
    if not _equal(x, made) or not 0 <= op.axis < max(1, len(x)):
        return False
    if op.kind == "batchnorm":
        every = len(further) == 4 and len(op.numbers) == 1
        return every and all(len(s) == 1 and s[0] == x[op.axis] for s in further)
    return all(s in ((), (1,)) or _equal(s, (x[op.axis],)) for s in further)


def _slicewise(op: Slicewise, given: list[Shape], made: Shape) -> bool:
    x, *further = given
    owners = (*op.carried, *[None] * len(further))[: len(further)]
    fits = all(o is None or s == (x[o],) for o, s in zip(owners, further, strict=True))
    return fits and _paired(op.free, x, made)


def _transpose(op: Transpose, given: list[Shape], made: Shape) -> bool:
    (x,) = given
    if sorted(op.order) != list(range(len(x))):
        return False
    return _equal(tuple(x[axis] for axis in op.order), made)


def _concat(op: Concat, given: list[Shape], made: Shape) -> bool:
    rank = len(made)
    if not given or not 0 <= op.axis < rank or any(len(shape) != rank for shape in given):
        return False
    parts = [shape[op.axis] for shape in given]
    numbers = [n for n in parts if isinstance(n, int)]
    if len(numbers) == len(parts) and not _same(sum(numbers), made[op.axis]):
        return False
    if len(numbers) < len(parts) and isinstance(made[op.axis], int):
        return False
    return all(_same(s[a], made[a]) for s in given for a in range(rank) if a != op.axis)


def _take(op: Take, given: list[Shape], made: Shape) -> bool:
    (x,) = given
    n = x[op.axis]
    if op.axis < 0 or not isinstance(n, int) or not all(0 <= i < n for i in op.index):
        return False
    if op.drop:
        return len(op.index) == 1 and _equal((*x[: op.axis], *x[op.axis + 1 :]), made)
    return _equal((*x[: op.axis], len(op.index), *x[op.axis + 1 :]), made)


def _broadcast(op: Broadcast, given: list[Shape], made: Shape) -> bool:
    x = given[0]
    if len(x) > len(made) or not _stated(op.sizes, made):
        return False
    lead = len(made) - len(x)
    return all(n == 1 or _same(n, made[lead + axis]) for axis, n in enumerate(x))


def _stated(sizes: Sequence[int | None], made: Shape) -> bool:
    return len(sizes) == len(made) and all(
        n == m if n is not None else not isinstance(m, int)
        for n, m in zip(sizes, made, strict=True)
    )


def _size(op: Size, given: list[Shape], made: Shape) -> bool:
    return all(0 <= axis < len(given[i]) for i, axis in op.axes)


def _lookup(op: Lookup, given: list[Shape], made: Shape) -> bool:
    table, ids = given
    if not 0 <= op.axis < len(table):
        return False
    return _equal((*table[: op.axis], *ids, *table[op.axis + 1 :]), made)


def _linear(op: Linear, given: list[Shape], made: Shape) -> bool:
    x, w, *bias = given
    free = (*op.free, (op.reads, op.writes))
    if not (
        _axes((i for i, _ in free), len(x))
        and _axes((o for _, o in free), len(made))
        and _axes((op.columns, op.rows), len(w))
        and _paired(op.free, x, made)
    ):
        return False
    rows, columns = w[op.rows], w[op.columns]
    if not all(isinstance(n, int) for n in w) or op.groups < 1:
        return False
    assert isinstance(rows, int)
    assert isinstance(columns, int)
    if rows % op.groups or not _same(x[op.reads], columns * op.groups):
        return False
    if op.groups > 1 and not isinstance(x[op.reads], int):
        return False
    plain = len(w) > 2 or len(free) == len(x) == len(made)  # one tap: nothing else is read
    return plain and made[op.writes] == rows and (bias in ([], [(rows,)]))


def _contract(op: Contract, given: list[Shape], made: Shape) -> bool:
    a, b = given
    if min(len(a), len(b), len(made)) < 2 or not _same(a[-1], b[-2]):
        return False
    if not (_same(a[-2], made[-2]) and _same(b[-1], made[-1])):
        return False
    return len(made) == 2 if len(a) == len(b) == 2 else _broadcasts([a[:-2], b[:-2]], made[:-2])


def _reshape(op: Reshape, given: list[Shape], made: Shape) -> bool:
    (x,) = given
    if not _stated(op.sizes, made):
        return False
    if all(isinstance(n, int) for n in (*x, *made)) and _count(x) != _count(made):
        return False
    parts = [((i,), (o,)) for i, o in op.free] + list(op.blocks)
    if not all(_axes(ins, len(x)) and _axes(outs, len(made)) for ins, outs in parts):
        return False
    if not all(_alike(x, ins, made, outs) for ins, outs in parts):
        return False
    copied = [o for _, o in op.free]
    unknown = [o for o, n in enumerate(op.sizes) if n is None and o not in copied]
    return len(unknown) <= 1 and _in_order(parts, len(x), len(made))


def _count(shape: Shape) -> int:
    return math.prod(n for n in shape if isinstance(n, int))


def _alike(x: Shape, ins: Run, y: Shape, outs: Run) -> bool:
    """Whether two runs of axes have as many entries: one axis each of the same size, or all known."""
    a, b = tuple(x[i] for i in ins), tuple(y[o] for o in outs)
    if len(a) == len(b) == 1 and a == b:
        return True
    known = all(isinstance(n, int) for n in (*a, *b))
    return known and _count(a) == _count(b)


def _in_order(parts: list[tuple[Run, Run]], rank: int, made: int) -> bool:
    """Whether each part begins where parts before it end, from the first axes on, or ends where
    parts behind it begin, from the last axes on: then it holds the same entries in both.
    """
    from_first, from_last = {(0, 0)}, {(rank, made)}
    left = list(parts)
    grown = True
    while grown:
        grown = False
        for part in list(left):
            begins = _ends(part, from_first, first=True)
            stops = _ends(part, from_last, first=False)
            if begins or stops:
                left.remove(part)
                grown = True
    return not left


def _ends(part: tuple[Run, Run], seen: set[tuple[int, int]], first: bool) -> bool:
    """Whether a part lies at one of some places, and the place at its other end, which is added."""
    ins, outs = part
    for i, o in list(seen):
        a, b = (i, o) if first else (i - len(ins), o - len(outs))
        if ins == tuple(range(a, a + len(ins))) and outs == tuple(range(b, b + len(outs))):
            seen.add((a + len(ins), b + len(outs)) if first else (a, b))
            return True
    return False


CHECKS: dict[type[Operator], Check] = {
    Elementwise: _elementwise, PerUnit: _per_unit, Slicewise: _slicewise, Transpose: _transpose,
    Concat: _concat, Take: _take, Broadcast: _broadcast, Size: _size, Lookup: _lookup, Linear: _linear,
    Contract: _contract, Reshape: _reshape,
}  # fmt: skip
