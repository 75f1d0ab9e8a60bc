"""Covering numbers of graphs with bounded parameters: convolutions, sums, attention.

The class F: the functions of a graph whose stored tensors t, its parameters, have any entries of size
at most B_t, on inputs of size at most B_x. S_t is the number of entries of t, S of all.

**Perturbation.** H_v bounds the entries of a value v over the class. A node v = op(u_1, u_2, ...) has
numbers c_i with |v - v'| <= sum_i c_i |u_i - u_i'| in the sup norm, for all parameters and inputs of
the class; a stored tensor is such a u_i, too. So outputs of parameters that differ by at most delta_t
are within sum_t K_t delta_t, where K_t is the sum, over all ways from t to the outputs, of the products
of the c_i on it: computed backwards, node by node.

**Theorem P for graphs.** Let sets of units a = 1, 2, ... be such that the d_a units of each may trade
places in every way, for all parameters of the class (`equivalence.graph_units`). Let each set a in turn
*own* tensors: some that no set before it owns, along one axis of which its units lie, along no other,
and of which no set that is still to come has an axis. Cut [-B_t, B_t] into m_t >= B_t / delta_t pieces. If
sum_t K_t delta_t <= eps,

    log N(F, eps) <= sum_t S_t log m_t - sum_a ( log K_a d_a - log C(K_a + d_a - 1, d_a) ),

where K_a is the product of m_t^(entries of one unit in t) over the tensors that a owns.

where, if the sign of each unit of a is free (`equivalence.graph_scales`) and turns some of what it owns, the number of
values that these entries have is halved, and rounded up.

*Proof.* Trading places, and signs, move the grid of centres onto itself and keep the function, so one grid point
for each orbit is enough. Let set 1 sort what it owns, unit by unit; then set 2; and so on. A set that
comes later has no axis in tensors that are owned by earlier ones, so these stay sorted. So each orbit has a grid
point of which the units of all sets are sorted: those of set a are a multiset of d_a out of K_a. Before a set is
sorted, its units are turned, each so that the first of its entries that turn and are not in the middle is positive;
that keeps what earlier sets own, too.

Derived and proved for this library. For chains of dense layers it is Theorem P of `covering_numbers`, with
a radius for weights and one for biases of each layer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from moduli.equivalence.graph_scales import Gauge, gauges
from moduli.equivalence.graph_units import Exchangeable, UnitSets
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.graph.functions import law, slope
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import (
    Broadcast,
    Concat,
    Contract,
    Elementwise,
    Linear,
    Lookup,
    Node,
    PerUnit,
    Reshape,
    Size,
    Slicewise,
    Take,
    Transpose,
)
from moduli.kernel.graph.slicewise import LOG_SOFTMAX, MAXIMA, SOFTMAX, SUM

from .covering_numbers import FLOATS, log, log_multisets, rational, root
from .graph_bases import Basis, bases, tensors

Tensor = np.ndarray[Any, np.dtype[Any]]
Array = np.ndarray[Any, np.dtype[np.float64]]
Way = tuple[str, Fraction]  # a value or tensor that is read, and c_i
MOVES = (Broadcast, Concat, Lookup, Reshape, Take, Transpose)
BITS = 192  # of numerators and denominators before they are rounded up
ONE = Fraction(1)
PLAIN, PERMUTED, IN_BASES = "plain grid", "Theorem P for graphs", "Theorem G, modulo bases"


class Owned(NamedTuple):
    """Units that are sorted, by what they own.

    Attributes:
        units: how many. entries: how many each has in each tensor. turned: tensors in which these change
            their sign with one of the unit, which is free.
    """

    units: int
    entries: Mapping[str, int]
    turned: tuple[str, ...] = ()

    def log_kinds(self, cells: Mapping[str, int]) -> float:
        """Logarithm of how many different units there are on the grid."""
        logs = math.fsum(n * log(cells[name]) for name, n in self.entries.items())
        return logs - math.log(2) if self.turned else logs

    def log_multisets(self, cells: Mapping[str, int]) -> float:
        """Of these units, sorted."""
        logs = self.log_kinds(cells)
        if logs >= FLOATS:
            return log_multisets(self.units, log_kinds=logs)
        turned, still = 1, 1
        for name, n in self.entries.items():
            if name in self.turned:
                turned *= cells[name] ** n
            else:
                still *= cells[name] ** n
        kinds = still * (-(-turned // 2) if self.turned else turned)
        return log_multisets(self.units, kinds)


@dataclass(frozen=True, eq=False)
class GraphClass:
    """Functions of a graph with bounded parameters, on bounded inputs.

    Attributes:
        graph: operators and wiring. bounds: B_t of each stored tensor that is a parameter; a batch norm
            whose tensors nobody else reads has two, a scale and a shift for each channel, under these names.
        input_bound: B_x. integers: inputs that hold integers.

    Raises:
        UnsupportedModel: a node of which no c_i are known; names it.
    """

    graph: GraphModel
    bounds: Mapping[str, Fraction]
    input_bound: Fraction
    integers: frozenset[str] = frozenset()

    @staticmethod
    def of(
        graph: GraphModel, input_bound: Any = 1, integers: frozenset[str] = frozenset()
    ) -> GraphClass:
        """Bounded by the largest entry of each tensor."""
        live = graph.live()
        return GraphClass(live, _largest(live), rational(input_bound), integers)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """S_t."""
        return {name: int(self.graph.constants[name].size) for name in self.bounds}

    @property
    def parameters(self) -> int:
        return sum(self.sizes.values())

    # How far parameters move outputs

    @cached_property
    def _reached(self) -> tuple[dict[str, Fraction | None], dict[str, list[Way]]]:
        """H of each value, None where nothing bounds it, and what moves it how far."""
        sizes = dict[str, Fraction | None]()
        for name, array in self.graph.constants.items():
            sizes[name] = self.bounds.get(name) or _size(array)
        for name in self.graph.inputs:
            sizes[name] = None if name in self.integers else self.input_bound
        ways, moving = dict[str, list[Way]](), set(self.bounds)
        for node in self.graph.nodes:
            size, found = _rule(self, node, sizes, moving)
            if any(name in moving for name in node.inputs):
                moving.update(node.outputs)
            for name in node.outputs:
                sizes[name], ways[name] = _rounded(size), found
        return sizes, ways

    @property
    def reach(self) -> Fraction | None:
        """The largest size of an output over the class, None where nothing bounds it."""
        found = [self._reached[0][name] for name in self.graph.outputs]
        sizes = [size for size in found if size is not None]
        return max(sizes) if len(sizes) == len(found) else None

    @cached_property
    def sensitivities(self) -> dict[str, Fraction]:
        """K_t of each parameter."""
        moved = dict.fromkeys(self.graph.outputs, ONE)  # all outputs, in the sup norm
        ways = self._reached[1]
        for node in reversed(self.graph.nodes):
            after = sum((moved.get(name, Fraction(0)) for name in node.outputs), Fraction(0))
            if not after:
                continue
            for name, factor in ways[node.output]:
                known = _rounded(moved.get(name, Fraction(0)) + factor * after)
                assert known is not None
                moved[name] = known
        return {name: moved.get(name, Fraction(0)) for name in self.bounds}

    # Symmetries

    @cached_property
    def _units(self) -> UnitSets:
        return UnitSets.of(self.graph)

    @cached_property
    def _gauges(self) -> tuple[Gauge, ...]:
        return tuple(gauges(self._units))

    @cached_property
    def bases(self) -> tuple[Basis, ...]:
        """Units whose basis is no parameter (`graph_bases`)."""
        return bases(self._units, self._gauges, self.sizes)

    @cached_property
    def owned(self) -> tuple[Owned, ...]:
        """Sets of units in the order of the theorem, as many as find something to own."""
        return self._owned(frozenset())

    @cached_property
    def owned_beside(self) -> tuple[Owned, ...]:
        """The same, where tensors in which a basis has a part are owned by nobody."""
        return self._owned(tensors(self.bases)[0])

    def _owned(self, but: frozenset[str]) -> tuple[Owned, ...]:
        parts = [part for part in self._units.sets if part.head is None]
        parts = [part for part in parts if self._moves_parameters(part)]
        axes = [_axes(part, self.sizes) for part in parts]
        left, taken, found = set(range(len(parts))), set(but), list[Owned]()
        while True:
            best = None
            for k in sorted(left):
                others = set[str]().union(*(axes[j] for j in left if j != k))
                own = {
                    name: entries for name, entries in axes[k].items()
                    if entries and name not in others and name not in taken
                }  # fmt: skip
                if own and (best is None or sum(own.values()) > sum(best[1].values())):
                    best = k, own
            if best is None:
                return tuple(found)
            k, own = best
            left.discard(k)
            taken |= own.keys()
            found.append(Owned(len(parts[k].members), own, self._turned(parts[k], own)))

    def _turned(self, part: Exchangeable, own: Mapping[str, int]) -> tuple[str, ...]:
        """Of tensors that units own, those in which entries change their sign with the unit."""
        parameters = self.bounds.keys() | self._part_of_norms
        for gauge in self._gauges:
            if gauge.part is not part or not gauge.sign or gauge.joint:
                continue
            odd = {name for (name, _), power in gauge.powers.items() if power % 2}
            stored = odd & self.graph.constants.keys()
            if stored <= parameters and odd & own.keys():
                return tuple(sorted(odd & own.keys()))
        return ()

    def _moves_parameters(self, part: Exchangeable) -> bool:
        """Whether all stored tensors that units have a part in are parameters, or alike for all units."""
        for (name, axis), labels in part.units.places.items():
            array = self.graph.constants.get(name)
            if array is None or name in self.bounds or name in self._part_of_norms:
                continue
            rows = np.moveaxis(array, axis, 0)[np.isin(labels, part.members)]
            if len(rows) and not all(np.array_equal(row, rows[0], equal_nan=True) for row in rows):
                return False
        return True

    @cached_property
    def folded(self) -> frozenset[str]:
        """Batch norms, by the values that they give, that are a scale and a shift for each channel."""
        return frozenset(node.output for node in _folded_norms(self.graph))

    @cached_property
    def _part_of_norms(self) -> frozenset[str]:
        """Means and variances that are part of scales and shifts."""
        return frozenset(name for node in _folded_norms(self.graph) for name in node.inputs[3:5])

    @property
    def held(self) -> str:
        """What of stored floats is no parameter, in words."""
        names = self.graph.constants.keys() - self.bounds.keys() - self._part_of_norms
        count = sum(_floating(self.graph.constants[name]) for name in names)
        return f"; {count} stored tensors are held fixed" if count else ""

    @property
    def log_group(self) -> float:
        """Logarithm of the number of orders and signs of all these units."""
        signs = sum(part.units for part in self.owned if part.turned)
        orders = math.fsum(math.lgamma(part.units + 1) for part in self.owned)
        return orders + signs * math.log(2)

    # Covering numbers

    def cells(self, eps: Fraction) -> dict[str, int]:
        """m_t, with delta_t = eps S_t / (S K_t)."""
        return _cells(eps, self.bounds, self.sensitivities, self.sizes)

    def log_plain(self, eps: Fraction) -> float:
        """Without symmetries: all grid points."""
        cells = self.cells(eps)
        return math.fsum(size * log(cells[name]) for name, size in self.sizes.items())

    def log_permuted(self, eps: Fraction) -> float:
        """Theorem P for graphs."""
        cells = self.cells(eps)
        total = [size * log(cells[name]) for name, size in self.sizes.items()]
        return math.fsum([*total, *_sorted(self.owned, cells)])

    @cached_property
    def _larger(self) -> GraphClass:
        """The class of Theorem G: bounds of tensors that pay for a basis."""
        _, grown = tensors(self.bases)
        bounds = {name: bound * grown.get(name, 1) for name, bound in self.bounds.items()}
        return self.with_bounds(bounds)

    def log_in_bases(self, eps: Fraction) -> float:
        """Theorem G, with the orders and signs of other units; infinite where there is no basis."""
        if not self.bases:
            return math.inf
        names, larger = tensors(self.bases)[0], self._larger
        moved = {
            name: (larger if name in names else self).sensitivities[name] for name in self.bounds
        }
        left = {
            name: size - sum(basis.entries(name) for basis in self.bases)
            for name, size in self.sizes.items()
        }
        free = {name: left[name] + sum(basis.free(name) for basis in self.bases) for name in left}
        cells = _cells(eps, larger.bounds, moved, free)
        total = [size * log(cells[name]) for name, size in left.items()]
        total += [basis.log_points(cells) for basis in self.bases]
        return math.fsum([*total, *_sorted(self.owned_beside, cells)])

    def log_covering(self, eps: Any, *, symmetry: bool = True) -> float:
        """The least of the bounds proved here."""
        found = self.log_coverings(rational(eps))
        return min(found.values()) if symmetry else found[PLAIN]

    def log_coverings(self, eps: Fraction) -> dict[str, float]:
        """All of them, by name."""
        reach = self.reach
        if reach is not None and eps >= reach:
            # no function of the class is larger: 0 covers them all
            return dict.fromkeys((PLAIN, PERMUTED, IN_BASES)[: 3 if self.bases else 2], 0.0)
        found = {PLAIN: self.log_plain(eps), PERMUTED: self.log_permuted(eps)}
        if self.bases:
            found[IN_BASES] = self.log_in_bases(eps)
        return found

    def again(self) -> GraphClass:
        """The same, of which nothing is computed yet."""
        return replace(self)

    def with_bounds(self, bounds: Mapping[str, Fraction]) -> GraphClass:
        """With other bounds of the same tensors; which units are sorted does not depend on them."""
        found = replace(self, bounds=dict(bounds))
        found.__dict__.update(
            {
                name: getattr(self, name)
                for name in ("_units", "_gauges", "owned", "bases", "owned_beside")
            }
        )
        return found


def _cells(
    eps: Fraction, bounds: Mapping[str, Fraction], moved: Mapping[str, Fraction], free: Mapping[str, Fraction | int]
) -> dict[str, int]:  # fmt: skip
    """m_t for as many free entries of each tensor."""
    if eps <= 0:
        raise ValueError(f"accuracy {float(eps)!r}: a positive number is needed")
    total = sum(free.values())
    return {
        name: max(1, math.ceil(bound * total * moved[name] / (eps * free[name])))
        if free[name]
        else 1
        for name, bound in bounds.items()
    }


def _sorted(found: Iterable[Owned], cells: Mapping[str, int]) -> Iterator[float]:
    """What sorting units adds to the logarithm of the number of grid points."""
    for part in found:
        yield -part.units * math.fsum(n * log(cells[name]) for name, n in part.entries.items())
        yield part.log_multisets(cells)


# Parameters -----------------------------------------------------------------------------------------------------


def _is_batch_norm(node: Node) -> bool:
    return isinstance(node.op, PerUnit) and node.op.kind == "batchnorm"


def _folded_norms(graph: GraphModel) -> list[Node]:
    """Batch norms with four stored tensors that nobody else reads: a scale and a shift say all of them."""
    times = Counter(name for node in graph.nodes for name in node.inputs)
    return [
        node for node in graph.nodes
        if _is_batch_norm(node)
        and all(name in graph.constants and times[name] == 1 for name in node.inputs[1:5])
    ]  # fmt: skip


def _held_fixed(graph: GraphModel) -> set[str]:
    """Tensors that belong to the architecture: divisors, exponents, conditions, what pads or resizes, and
    variances that others share; not where they are read in another way, too.
    """
    fixed, read = set[str](), set[str]()
    for node in graph.nodes:
        op, own = node.op, set[str]()
        if isinstance(op, Elementwise) and op.kind in ("div", "pow"):
            own = {node.inputs[1]}
        elif isinstance(op, Elementwise) and op.kind == "where":
            own = {node.inputs[0]}
        elif isinstance(op, Slicewise) and op.normalises is None:
            own = set(node.inputs[1:])
        elif _is_batch_norm(node):
            own = {node.inputs[4]}
        fixed |= own
        read |= set(node.inputs) - own
    return fixed - read


def _floating(array: Tensor) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _size(array: Tensor) -> Fraction | None:
    """The largest entry; None of integers and of what is no number."""
    if not _floating(array) or not array.size:
        return None
    top = float(np.abs(array.astype(np.float64)).max())
    return Fraction(top) if math.isfinite(top) else None


def _largest(graph: GraphModel) -> dict[str, Fraction]:
    """B_t of all stored floats with an axis. Numbers without one belong to the architecture, and so do
    tensors with entries that are no numbers, such as masks, and those that `_held_fixed` names.
    """
    fixed, found = _held_fixed(graph), dict[str, Fraction]()
    for name, array in graph.constants.items():
        size = _size(array) if array.ndim and name not in fixed else None
        if size is not None:
            found[name] = size or Fraction(1, 2**100)
    for node in _folded_norms(graph):
        for name in node.inputs[3:5]:
            found.pop(name, None)
        found[node.inputs[1]], found[node.inputs[2]] = _scale_and_shift(graph, node)
    return found


def _steepest(node: Node, variance: Tensor) -> Array:
    """1 / sqrt(variance + epsilon), rounded up."""
    op = node.op
    assert isinstance(op, PerUnit)
    square = np.asarray(variance, dtype=np.float64) + op.numbers[0]
    if not (np.isfinite(square).all() and (square > 0).all()):
        raise UnsupportedModel(f"node {node.name!r}: a variance with epsilon is not positive")
    found: Array = (1 + 2.0**-48) / np.sqrt(square)
    return found


def _scale_and_shift(graph: GraphModel, node: Node) -> tuple[Fraction, Fraction]:
    """The largest of a batch norm, a = scale / sqrt(variance + epsilon) and shift - a mean, rounded up."""
    scale, shift, mean, variance = (
        graph.constants[name].astype(np.float64) for name in node.inputs[1:5]
    )
    with np.errstate(all="ignore"):
        steep = np.abs(scale) * _steepest(node, variance) * (1 + 2.0**-48)
        moved = (np.abs(shift) + steep * np.abs(mean)) * (1 + 2.0**-48)
    tops = float(steep.max(initial=0)), float(moved.max(initial=0))
    if not all(map(math.isfinite, tops)):
        raise UnsupportedModel(f"node {node.name!r}: its scales or shifts are beyond all floats")
    least = Fraction(1, 2**100)
    return max(least, Fraction(tops[0])), max(least, Fraction(tops[1]))


def _axes(part: Exchangeable, sizes: Mapping[str, int]) -> dict[str, int]:
    """Parameters that units have a part in, with how many entries each has; 0 where it lies along more
    axes than one, or units are not alike.
    """
    found = dict[str, int]()
    shares = dict[str, list[int]]()
    for (name, _), labels in part.units.places.items():
        if name in sizes:
            each = sizes[name] // len(labels)
            counts = [int((labels == unit).sum()) for unit in part.members.tolist()]
            if any(counts):
                alike = len(set(counts)) == 1
                shares.setdefault(name, []).append(counts[0] * each * alike)
    for name, times in shares.items():
        found[name] = times[0] if len(times) == 1 else 0
    return found


# Nodes ----------------------------------------------------------------------------------------------------------


def _rounded(x: Fraction | None) -> Fraction | None:
    """The same or a little more, in few digits."""
    if x is None or max(x.numerator.bit_length(), x.denominator.bit_length()) <= BITS:
        return x
    shift = x.numerator.bit_length() - x.denominator.bit_length() - BITS // 2
    scaled = x / 2**shift if shift >= 0 else x * 2**-shift
    whole = math.ceil(scaled)
    return Fraction(whole * 2**shift) if shift >= 0 else Fraction(whole, 2**-shift)


class _Unbounded(Exception):
    """Nothing is known of how far a node moves."""


def _rule(
    cls: GraphClass, node: Node, sizes: Mapping[str, Fraction | None], moving: set[str]
) -> tuple[Fraction | None, list[Way]]:
    """H of what a node gives, and its c_i."""
    try:
        return _bounded(cls, node, sizes)
    except _Unbounded:
        if not any(name in moving for name in node.inputs):
            return None, []  # the same for all parameters
        op = node.op
        kind = getattr(op, "kind", "") or type(op).__name__
        raise UnsupportedModel(
            f"node {node.name!r} ({kind}): how far its inputs move what it gives is not known for all parameters "
            "of the class"
        ) from None


def _known(size: Fraction | None) -> Fraction:
    if size is None:
        raise _Unbounded
    return size


def _bounded(
    cls: GraphClass, node: Node, sizes: Mapping[str, Fraction | None]
) -> tuple[Fraction | None, list[Way]]:
    op, names = node.op, [name for name in node.inputs if name]
    if isinstance(op, Size):
        return None, []
    if isinstance(op, Linear):
        weight = [n for n in cls.graph.shapes[names[1]] or () if isinstance(n, int)]
        if not weight or len(weight) < len(cls.graph.shapes[names[1]] or ()):
            raise _Unbounded
        taps = math.prod(weight) // max(1, weight[op.rows])
        x, w = _known(sizes[names[0]]), _known(sizes[names[1]])
        ways = [(names[0], taps * w), (names[1], taps * x)]
        if len(names) == 2:
            return taps * x * w, ways
        return taps * x * w + _known(sizes[names[2]]), [*ways, (names[2], ONE)]
    if isinstance(op, Contract):
        return _product(cls, names, sizes)
    if isinstance(op, Elementwise):
        return _of_entries(cls, op, names, sizes)
    if _is_batch_norm(node):
        return _of_batch_norm(cls, node, sizes)
    if isinstance(op, Slicewise):
        return _of_slices(cls, op, node, sizes)
    if isinstance(op, MOVES):
        read = names[:1] if isinstance(op, Lookup | Reshape | Broadcast | Take) else names
        tops = [sizes[name] for name in read]
        top = (
            None
            if any(size is None for size in tops)
            else max(size for size in tops if size is not None)
        )
        return top, [(name, ONE) for name in read]
    raise _Unbounded


def _of_batch_norm(
    cls: GraphClass, node: Node, sizes: Mapping[str, Fraction | None]
) -> tuple[Fraction, list[Way]]:
    """a x + c where it is folded, else scale (x - mean) / sqrt(variance + epsilon) + shift with a fixed
    variance.
    """
    names = node.inputs
    x, scale, shift = (_known(sizes[name]) for name in names[:3])
    if node.output in cls.folded:
        return scale * x + shift, [(names[0], scale), (names[1], x), (names[2], ONE)]
    mean = _known(sizes[names[3]])
    variance = cls.graph.constants.get(names[4])
    if variance is None or names[4] in cls.bounds:
        raise _Unbounded
    steep = Fraction(float(_steepest(node, variance).max(initial=0)))
    by, centred = scale * steep, x + mean
    ways = [(names[0], by), (names[1], steep * centred), (names[2], ONE), (names[3], by)]
    return by * centred + shift, ways


def _product(
    cls: GraphClass, names: list[str], sizes: Mapping[str, Fraction | None]
) -> tuple[Fraction, list[Way]]:
    """Of two tensors. Behind a softmax the rows of the first are weights that sum to one; how far logits move
    those is at most once as far in the sum of all entries: sum_i p_i |d_i - sum_j p_j d_j| <= max |d|.
    """
    a, b = names
    maker = cls.graph.makers.get(a)
    rank = len(cls.graph.shapes[a] or ())
    op = None if maker is None else maker.op
    if maker is not None and isinstance(op, Slicewise) and op.kind in SOFTMAX:
        along = {i for i, _ in op.free}
        if along == set(range(rank - 1)):
            top = _known(sizes[b])
            return top, [(maker.inputs[0], top), (b, ONE)]
    inside = (cls.graph.shapes[a] or ())[-1:]
    if not inside or not isinstance(inside[0], int):
        raise _Unbounded
    n, x, y = inside[0], _known(sizes[a]), _known(sizes[b])
    return n * x * y, [(a, n * y), (b, n * x)]


def _of_entries(
    cls: GraphClass, op: Elementwise, names: list[str], sizes: Mapping[str, Fraction | None]
) -> tuple[Fraction | None, list[Way]]:
    if len(names) == 1:
        return _of_one(op, names[0], sizes[names[0]])
    tops = [sizes[name] for name in names]
    both = None if None in tops else [size for size in tops if size is not None]
    if op.kind in ("add", "sub", "max", "min"):
        join = sum if op.kind in ("add", "sub") else max
        top = None if both is None else Fraction(join(both))
        return top, [(name, ONE) for name in names]
    if op.kind == "where" and len(names) == 3:
        # which branch is taken must be the same for all parameters
        if names[0] not in cls.graph.constants or names[0] in cls.bounds:
            raise _Unbounded
        top = None if tops[1] is None or tops[2] is None else max(tops[1], tops[2])
        return top, [(names[1], ONE), (names[2], ONE)]
    if op.kind == "mul" and len(names) == 2:
        x, y = (_known(size) for size in tops)
        return x * y, [(names[0], y), (names[1], x)]
    if op.kind == "prelu":
        x, y = (_known(size) for size in tops)
        return max(ONE, y) * x, [(names[0], max(ONE, y)), (names[1], x)]
    fixed = cls.graph.constants.get(names[1])
    if fixed is None or names[1] in cls.bounds or not np.isfinite(fixed).all() or not fixed.size:
        raise _Unbounded
    x = _known(tops[0])
    if op.kind == "div" and (fixed != 0).all():
        by = 1 / Fraction(float(np.abs(fixed).min()))
        return x * by, [(names[0], by)]
    if op.kind == "pow" and (fixed == 2).all():
        return x * x, [(names[0], 2 * x)]
    raise _Unbounded


def _of_one(op: Elementwise, name: str, size: Fraction | None) -> tuple[Fraction | None, list[Way]]:
    """A function of one entry: by its range, or by its slope and its value at zero."""
    steep = slope(op.kind, op.numbers)
    if not math.isfinite(steep):
        raise _Unbounded
    rule, found = law(op.kind, op.numbers), list[Fraction]()
    middle = rule.at(Fraction(0), *op.numbers)
    if rule.between is not None:
        end = math.inf if size is None or size > 2**1000 else float(size) * (1 + 2.0**-50)
        with np.errstate(all="ignore"):
            ends, around = (
                rule.between(np.array([-x]), np.array([x]), *op.numbers) for x in (end, 0.0)
            )
        top, at_zero = (max(float(np.abs(side).max()) for side in x) for x in (ends, around))
        found += [Fraction(top)] if math.isfinite(top) else []
        if middle is None and math.isfinite(at_zero):
            middle = Fraction(at_zero)
    if middle is not None and size is not None:
        found.append(Fraction(steep) * size + abs(middle))
    return min(found, default=None), [(name, Fraction(steep))]


def _of_slices(
    cls: GraphClass, op: Slicewise, node: Node, sizes: Mapping[str, Fraction | None]
) -> tuple[Fraction | None, list[Way]]:
    x, size = node.inputs[0], sizes[node.inputs[0]]
    further = [name for name in node.inputs[1:] if name]
    inside, shape = {i for i, _ in op.free}, cls.graph.shapes[x]
    read = [n for axis, n in enumerate(shape or ()) if axis not in inside]
    known = shape is not None and all(isinstance(n, int) for n in read)
    count = math.prod(n for n in read if isinstance(n, int))
    if op.kind in SOFTMAX:
        # a row of its Jacobian, p_i (1 - p_i) and p_i p_j, sums to 2 p_i (1 - p_i) in size
        return ONE, [(x, Fraction(1, 2))]
    if op.kind in LOG_SOFTMAX and known:
        top = None if size is None else 2 * size + rational(math.log(max(1, count)) + 2.0**-40)
        return top, [(x, Fraction(2))]
    if op.normalises is not None and op.normalises > 0 and known:
        # see `kernel.graph.differences`: the entries are at most sqrt(n), the slope sqrt(n / epsilon)
        top = root(count)
        steep = root(math.ceil(Fraction(count) / Fraction(op.normalises)))
        numbers = [_known(sizes[name]) for name in further]
        if len(numbers) == 1:  # a scale or a shift
            scale = max(ONE, numbers[0])
            return top * scale + numbers[0], [(x, steep * scale), (further[0], max(ONE, top))]
        scale, shift = numbers or (ONE, Fraction(0))
        ways = [(x, steep * scale), *zip(further, (top, ONE), strict=False)]
        return top * scale + shift, ways
    if further and not all(
        name in cls.graph.constants and name not in cls.bounds for name in further
    ):
        raise _Unbounded
    if op.hull and (op.linear or op.kind in MAXIMA):
        return size, [(x, ONE)]
    if op.kind in SUM and op.linear and known:
        return (None if size is None else count * size), [(x, Fraction(count))]
    raise _Unbounded
