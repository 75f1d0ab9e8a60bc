"""Units of an axis by other numbers: signs and scales. Part of the kernel.

Let every tensor be multiplied by a number for each index along some of its axes, none of them zero,
t'[i, j] = f[i] g[j] t[i, j], stored tensors, too. Where each node gives the tensor that is so multiplied
from inputs that are, and inputs and outputs of the graph are not, the graph computes what it did: by
induction over the nodes. `laws` is the condition for one node: products of such numbers that are one,
all of them, their sizes alone, or their signs alone.

| node | why |
|---|---|
| relu, maxima | f(r x) = r f(x) for r > 0 |
| tanh, erf, norms | f(-x) = -f(x) |
| abs, cos, x^2 | f(-x) = f(x) |
| layers, sums, means | linear |
| batch norm | of x and its mean the sign, of scale and shift any number |
| layer norm | one sign for all that it reads: RMS norm reads one for each |
| products, quotients | numbers are multiplied, divided |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from ..errors import CertificateRejected
from ..exact_numbers import up
from .axes import Units
from .facts import Loss
from .functions import law
from .model import GraphModel
from .operator import TINY, UNIT
from .operators import (
    Broadcast,
    Concat,
    Contract,
    Elementwise,
    Linear,
    Lookup,
    Node,
    PerUnit,
    Place,
    Reshape,
    Shape,
    Size,
    Slicewise,
    Take,
    Transpose,
)
from .removal import narrowed
from .slicewise import NORMS, ROOT_MEAN_SQUARE

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Factors = Mapping[Place, Any]  # of Fractions, one for each index
LARGEST = 2**24  # indices of a product of axes that are looked at
FURTHEST = 2.0**64  # by which a tensor is multiplied along an axis


class Term(NamedTuple):
    """The numbers of a place, to a power; `rows` says whose for each row, each its own without."""

    place: Place
    power: int = 1
    rows: Ints | None = None


class Law(NamedTuple):
    """The product of the terms is one, row by row: of sizes, of signs, or of both."""

    terms: tuple[Term, ...]
    size: bool = True
    sign: bool = True


def require_laws(graph: GraphModel, factors: Factors) -> None:
    """Every node commutes with these numbers.

    Raises:
        CertificateRejected: a number is zero, an input or output would be another, or naming a node
            whose law is broken.
    """
    touched = {name for name, _ in factors}
    for (name, axis), numbers in factors.items():
        if not all(numbers):
            raise CertificateRejected(f"axis {axis} of {name!r} is multiplied by zero")
    for name in (*graph.inputs, *graph.outputs):
        if name in touched:
            raise CertificateRejected(f"{name!r} is an input or output of the graph")
    for node in graph.nodes:
        if touched.isdisjoint((*node.inputs, *node.outputs)):
            continue
        if not all(_holds(rule, factors) for rule in laws(node, graph, factors)):
            raise CertificateRejected(f"{node.name!r} does not commute with these numbers")


def scaled(graph: GraphModel, factors: Factors) -> tuple[GraphModel, dict[str, Loss]]:
    """The graph with stored tensors multiplied by numbers, and what of them was rounded.

    Raises:
        CertificateRejected: `require_laws`; or a stored tensor holds no floats.
        Rounds: a product is beyond what its type holds.
    """
    require_laws(graph, factors)
    constants, rounded = dict(graph.constants), dict[str, Loss]()
    for name in {name for name, _ in factors} & constants.keys():
        own = {axis: numbers for (owner, axis), numbers in factors.items() if owner == name}
        constants[name], off = _multiplied(constants[name], own, name)
        if off.any():
            some = np.flatnonzero(off.reshape(len(off), -1).any(axis=1)).tolist()
            rounded[name] = Loss(0, {i: off[i] for i in some})
    return GraphModel(graph.inputs, graph.outputs, graph.nodes, graph.shapes, constants), rounded


def spread(units: Units, numbers: Sequence[Fraction], powers: Mapping[Place, int]) -> Factors:
    """What each place is multiplied by, where a unit is by a number to the power that the place has."""
    found = dict[Place, Any]()
    for place, power in powers.items():
        labels = units.places.get(place)
        if labels is None:
            raise CertificateRejected(f"{place[0]!r} has none of the units along axis {place[1]}")
        of_unit = np.array([Fraction(1), *(r**power for r in numbers)], dtype=object)
        if (of_unit[labels] != 1).any():
            found[place] = of_unit[labels]
    return found


def _holds(rule: Law, factors: Factors) -> bool:
    product: Any = Fraction(1)
    for place, power, rows in rule.terms:
        numbers = factors.get(place)
        if numbers is None:
            continue
        own = numbers if rows is None else numbers[rows]
        product = product * own**power
    product = np.asarray(product, dtype=object)
    if rule.size and rule.sign:
        return bool((product == 1).all())
    return bool((abs(product) == 1).all()) if rule.size else bool((product > 0).all())


def _multiplied(array: Any, factors: Mapping[int, Any], name: str) -> tuple[Any, Array]:
    """A stored tensor by numbers, in its type, and bounds of what is lost.

    The float of each number, and each product, is within one rounding of what it stands for, to first
    order; twice that is charged, and the least float; nothing where powers of two have lost nothing.
    """
    if not (array.dtype.kind == "f" or array.dtype.name == "bfloat16"):
        raise CertificateRejected(f"{name!r} holds no floats")
    wide = np.asarray(array, dtype=np.float64)
    if not np.isfinite(wide).all():
        raise CertificateRejected(f"{name!r} holds what is no number")
    by, exact = np.ones((1,) * wide.ndim), True
    for axis, numbers in sorted(factors.items(), key=lambda own: own[0]):
        sizes = abs(numbers)
        if (sizes > FURTHEST).any() or (sizes * FURTHEST < 1).any():
            raise CertificateRejected(f"{name!r} is multiplied by more than {FURTHEST}, or less")
        own = numbers.astype(np.float64)
        exact = exact and bool((np.abs(np.frexp(own)[0]) == 0.5).all() and (own == numbers).all())
        with np.errstate(all="ignore"):
            by = by * own.reshape([-1 if a == axis else 1 for a in range(wide.ndim)])
    if wide.size and not FURTHEST**-8 < np.abs(by).min() <= np.abs(by).max() < FURTHEST**8:
        raise CertificateRejected(f"{name!r} is multiplied by too much along all of its axes")
    with np.errstate(all="ignore"):
        product = wide * by + 0.0  # no zero below zero
        if exact and np.array_equal(product / by, wide):
            off = np.zeros(wide.shape)
        else:
            off = up(np.abs(product) * (4 * len(factors) * UNIT) + (wide != 0) * (4 * TINY))
    return narrowed(product, off, array.dtype, name)


# Laws -----------------------------------------------------------------------------------------------------------


class _Laws:
    """What a node asks of the numbers of its tensors; of places where all are one nothing is asked."""

    def __init__(self, node: Node, graph: GraphModel, places: Mapping[Place, Any]) -> None:
        self.node, self.graph, self.places = node, graph, places
        self.x, self.y = (node.inputs or ("",))[0], node.output if node.outputs else ""
        self.found = list[Law]()

    def shape(self, name: str) -> Shape:
        return self.graph.shapes.get(name) or ()

    def axes(self, name: str) -> range:
        return range(len(self.shape(name)))

    def size(self, place: Place) -> int:
        n = self.shape(place[0])[place[1]]
        return n if isinstance(n, int) else -1

    def product(self, *terms: Term, size: bool = True, sign: bool = True) -> None:
        if (size or sign) and any(term.place in self.places for term in terms):
            self.found.append(Law(terms, size, sign))

    def one(self, *places: Place, size: bool = True, sign: bool = True) -> None:
        for place in places:
            self.product(Term(place), size=size, sign=sign)

    def untouched(self, *names: str) -> None:
        """All axes of tensors keep their numbers."""
        for name in names:
            self.one(*((name, axis) for axis in self.axes(name)))

    def alike(self, a: Place, b: Place, *, size: bool = True, sign: bool = True) -> None:
        if self.size(a) != self.size(b):
            self.one(a, b)
            return
        self.product(Term(a), Term(b, -1), size=size, sign=sign)

    def equal(self, place: Place, *, size: bool = True, sign: bool = True) -> None:
        """One number for all indices."""
        n = self.size(place)
        if n <= 0:
            return self.one(place)
        first = Term(place, -1, np.zeros(n, dtype=np.int64))
        self.product(Term(place), first, size=size, sign=sign)

    def broadcast(
        self, terms: Mapping[str, int], ends: int = 0, *, sums: bool, sign: bool = True
    ) -> None:
        """Operands to their powers as numpy broadcasts them, but for the last axes.

        Args:
            sums: each operand has the numbers of the output; else their product does.
        """
        rank = len(self.shape(self.y))
        for axis in range(rank - ends):
            y, parts = (self.y, axis), list[Term]()
            for name, power in terms.items():
                own = axis - rank + len(self.shape(name))
                if own < 0:
                    continue
                place = (name, own)
                if self.size(place) == self.size(y):
                    parts.append(Term(place, power))
                elif self.size(place) == 1 and self.size(y) > 0:
                    zeros = np.zeros(self.size(y), dtype=np.int64)
                    parts.append(Term(place, power, zeros))
                else:  # which of the two is broadcast is not known
                    self.one(place, y)
            if not sums:
                self.product(Term(y, -1), *parts)
                continue
            for part in parts:
                self.product(Term(y, -1), part)
            if len(parts) < len(terms):  # all of an operand is added to each
                self.one(y)
            if not sign:
                self.one(y, *(part.place for part in parts), size=False)


def laws(node: Node, graph: GraphModel, places: Mapping[Place, Any]) -> list[Law]:
    """What a node asks of numbers at these places; all others are one."""
    found = _Laws(node, graph, places)
    if isinstance(node.op, Size):  # sizes are what they are whatever the numbers
        found.untouched(*node.outputs)
        return found.found
    rule = RULES.get(type(node.op))
    if rule is not None and all(graph.shapes.get(x) is not None for x in _names(node)):
        found.untouched(*node.outputs[1:])
        rule(found, node.op)
    named = {term.place for asked in found.found for term in asked.terms}
    for name in _names(node):
        found.one(*((name, axis) for axis in found.axes(name) if (name, axis) not in named))
    return found.found


def _names(node: Node) -> list[str]:
    return [name for name in (*node.inputs, *node.outputs) if name]


def _elementwise(laws: _Laws, op: Elementwise) -> None:
    names = [name for name in laws.node.inputs if name]
    if len(set(names)) < len(names):
        return _of_itself(laws, op)
    if len(names) == 1:
        return _unary(laws, op)
    if op.kind in ("add", "sub"):
        return laws.broadcast(dict.fromkeys(names, 1), sums=True)
    if op.kind in ("max", "min"):
        return laws.broadcast(dict.fromkeys(names, 1), sums=True, sign=False)
    if op.kind == "where":
        laws.untouched(names[0])
        return laws.broadcast(dict.fromkeys(names[1:], 1), sums=True)
    if op.kind == "mul":
        return laws.broadcast(dict.fromkeys(names, 1), sums=False)
    if op.kind == "div":
        return laws.broadcast({names[0]: 1, names[1]: -1}, sums=False)
    if op.kind == "pow":
        power = _whole(laws.graph.array(names[1]))
        if power is not None:
            laws.untouched(names[1])
            return laws.broadcast({names[0]: power}, sums=False)
    laws.untouched(*names, laws.y)


def _of_itself(laws: _Laws, op: Elementwise) -> None:
    """x + x, x x: a tensor with itself."""
    names = [name for name in laws.node.inputs if name]
    plain = len(set(names)) == 1
    if plain and op.kind in ("add", "sub"):
        return laws.broadcast({names[0]: 1}, sums=False)
    if plain and op.kind == "mul":
        return laws.broadcast({names[0]: len(names)}, sums=False)
    laws.untouched(*names, laws.y)


def _whole(power: Any) -> int | None:
    """A positive integer that all exponents are."""
    if power is None or power.size == 0:
        return None
    first = float(power.ravel()[0])
    return int(first) if 1 <= first <= 64 and first % 1 == 0 and (power == first).all() else None


def _unary(laws: _Laws, op: Elementwise) -> None:
    rule = law(op.kind, op.numbers)
    scale = rule.linear or rule.homogeneous
    for axis in laws.axes(laws.x):
        x, y = (laws.x, axis), (laws.y, axis)
        if scale:
            laws.alike(x, y, sign=False)
        else:
            laws.one(x, y, sign=False)
        if rule.linear or rule.odd:
            laws.alike(x, y, size=False)
        else:
            laws.one(y, *([] if rule.even else [x]), size=False)


def _per_unit(laws: _Laws, op: PerUnit) -> None:
    further = [name for name in laws.node.inputs[1:] if name]
    for axis in laws.axes(laws.x):
        if axis != op.axis:
            laws.one((laws.x, axis), (laws.y, axis))
    if any(len(laws.shape(name)) > 1 for name in further):
        return laws.untouched(laws.x, laws.y, *further)
    x, y = (laws.x, op.axis), (laws.y, op.axis)
    if op.kind == "batchnorm" and len(further) == 4:
        scale, shift, mean, variance = ((name, 0) for name in further)
        # (x - mean) / root * scale + shift, and the root knows no sign
        laws.one(x, mean, variance, sign=False)
        laws.one(variance, size=False)
        laws.alike(x, mean, size=False)
        laws.alike(y, scale, sign=False)
        laws.product(Term(y), Term(x, -1), Term(scale, -1), size=False)
        return laws.alike(y, shift)
    if op.kind == "dequantise" and laws.shape(further[0]) != () and laws.size((further[0], 0)) > 1:
        laws.untouched(laws.x, *further[1:])
        return laws.alike(y, (further[0], 0))
    return laws.untouched(laws.x, laws.y, *further)


def _slicewise(laws: _Laws, op: Slicewise) -> None:
    if op.normalises is not None or op.kind in NORMS:
        return _norm(laws, op)
    for i, o in op.free:
        x, y = (laws.x, i), (laws.y, o)
        if op.linear or op.homogeneous:
            laws.alike(x, y, sign=False)
        else:
            laws.one(x, y, sign=False)
        if op.linear:
            laws.alike(x, y, size=False)
        else:
            laws.one(x, y, size=False)
    laws.untouched(*laws.node.inputs[1:])  # what is read whole no law names


def _norm(laws: _Laws, op: Slicewise) -> None:
    """u / root * scale + shift: of x the sign, of scale and shift any number."""
    free = {o: i for i, o in op.free}
    shifted = bool("".join(laws.node.inputs[2:3]))
    laws.untouched(*laws.node.inputs[3:])
    for axis in laws.axes(laws.x):
        x, y = (laws.x, axis), (laws.y, axis)
        whole = axis not in free
        laws.one(x, sign=False)
        if (whole and op.kind not in NORMS) or free.get(axis, axis) != axis:
            laws.one(x, y)
            continue
        if whole and op.kind not in ROOT_MEAN_SQUARE:  # the mean of all is left out: one sign
            laws.equal(x, size=False)
        scale, shift = (_belonging(laws, op, k, axis) for k in (0, 1))
        laws.product(Term(y), Term(x, -1), *([] if scale is None else [Term(scale, -1)]))
        if shift is not None:
            laws.alike(y, shift)
        elif shifted:
            laws.one(y)


def _belonging(laws: _Laws, op: Slicewise, k: int, axis: int) -> Place | None:
    """The axis of further input k of a norm whose indices belong to those of an axis."""
    name = (*laws.node.inputs[1:], "", "")[k]
    if axis in {i for i, _ in op.free}:
        return (name, 0) if name and k < len(op.carried) and op.carried[k] == axis else None
    own = axis - len(laws.axes(laws.x)) + len(laws.axes(name))  # under the last axes
    return (name, own) if name and own >= 0 else None


def _linear(laws: _Laws, op: Linear) -> None:
    w, bias = laws.node.inputs[1], [name for name in laws.node.inputs[2:3] if name]
    for i, o in op.free:
        if bias:
            laws.one((laws.x, i), (laws.y, o))
        else:
            laws.alike((laws.x, i), (laws.y, o))
    for name in bias:
        laws.alike((name, 0), (laws.y, op.writes))
    x, y, rows, columns = (laws.x, op.reads), (laws.y, op.writes), (w, op.rows), (w, op.columns)
    if op.groups == 1:
        laws.alike(rows, y)
        laws.product(Term(x), Term(columns))
        return
    n, m = laws.size(x), laws.size(rows)
    inner, outer = n // op.groups, m // op.groups
    if n < 0 or m < 0 or m * inner > LARGEST:
        return laws.one(x, y, rows, columns)
    if inner == 1:
        laws.one(columns)
    row, column = (part.ravel() for part in np.indices((m, inner)))
    laws.product(
        Term(rows, 1, row), Term(columns, 1, column),
        Term(x, 1, row // outer * inner + column), Term(y, -1, row),
    )  # fmt: skip


def _contract(laws: _Laws, op: Contract) -> None:
    (a, b), y = laws.node.inputs, laws.y
    i, j, k = (len(laws.axes(name)) for name in (a, b, y))
    if min(i, j) < 2:
        return
    if a == b:  # a place would have two meanings
        return laws.untouched(a, y)
    laws.alike((a, i - 2), (y, k - 2))
    laws.alike((b, j - 1), (y, k - 1))
    laws.product(Term((a, i - 1)), Term((b, j - 2)))
    laws.broadcast({a: 1, b: 1}, 2, sums=False)


def _transpose(laws: _Laws, op: Transpose) -> None:
    for axis, source in enumerate(op.order):
        laws.alike((laws.x, source), (laws.y, axis))


def _concat(laws: _Laws, op: Concat) -> None:
    start = 0
    for name in laws.node.inputs:
        for axis in laws.axes(laws.y):
            if axis != op.axis:
                laws.alike((name, axis), (laws.y, axis))
        part, whole = (name, op.axis), (laws.y, op.axis)
        n = laws.size(part)
        if n < 0 or start < 0:
            start = -1
            laws.one(part, whole)
            continue
        laws.product(Term(part), Term(whole, -1, np.arange(start, start + n)))
        start += n


def _take(laws: _Laws, op: Take) -> None:
    x, index = (laws.x, op.axis), np.array(op.index, dtype=np.int64)
    for axis in laws.axes(laws.x):
        if axis != op.axis:
            laws.alike((laws.x, axis), (laws.y, axis - (op.drop and axis > op.axis)))
    if laws.size(x) < 0 or (index < 0).any():
        return
    if op.drop:
        laws.product(Term(x, 1, index))
    else:
        laws.product(Term(x, 1, index), Term((laws.y, op.axis), -1))


def _broadcast(laws: _Laws, op: Broadcast) -> None:
    laws.broadcast({laws.x: 1}, sums=False)


def _lookup(laws: _Laws, op: Lookup) -> None:
    table, ids = laws.node.inputs
    more = len(laws.axes(ids)) - 1
    for axis in laws.axes(table):
        if axis != op.axis:
            laws.alike((table, axis), (laws.y, axis + more * (axis > op.axis)))


def _reshape(laws: _Laws, op: Reshape) -> None:
    for i, o in op.free:
        laws.alike((laws.x, i), (laws.y, o))
    for ins, outs in op.blocks:
        sides = [(laws.x, axis) for axis in ins], [(laws.y, axis) for axis in outs]
        sizes = [[laws.size(place) for place in side] for side in sides]
        total = math.prod(sizes[0])
        fits = min((*sizes[0], *sizes[1]), default=-1) >= 0 and total == math.prod(sizes[1])
        touched = any(place in laws.places for side in sides for place in side)
        if not touched or not fits or total > LARGEST:
            continue  # what no law names has to be one
        terms = [
            Term(place, power, index.ravel())
            for side, shape, power in zip(sides, sizes, (1, -1), strict=True)
            for place, index in zip(side, np.indices(shape), strict=True)
        ]
        laws.product(*terms)


RULES: dict[type, Callable[[_Laws, Any], None]] = {
    Elementwise: _elementwise, PerUnit: _per_unit, Slicewise: _slicewise, Linear: _linear,
    Contract: _contract, Transpose: _transpose, Concat: _concat, Take: _take, Broadcast: _broadcast,
    Lookup: _lookup, Reshape: _reshape,
}  # fmt: skip
