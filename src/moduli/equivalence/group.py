"""The symmetries of a network as data: the group, its elements, normal forms and fingerprints.

Reduce first (`reduce`): equal rows and zero rows are what makes normal forms ambiguous. Then, per
hidden layer from the input: sign (odd activations, the sigmoid, abs: the first non-zero weight
positive), scale (positively homogeneous ones: the weights and bias of a unit coprime integers up to
a power of two, which costs no bit of a float), order (rows sorted lexicographically). `canonical`
shows that form with the largest weight of each scaled unit set to 1, because rounding this to
floats and forming it again changes nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.exact_values import exact_arrays
from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.compression.certify import certify
from moduli.compression.exact.reduce import reduce
from moduli.kernel.activations import Activation
from moduli.kernel.certificate import Certificate
from moduli.kernel.creases import Creased, creased
from moduli.kernel.errors import CertificateRejected, ShapeError, UnsupportedModel
from moduli.kernel.exact_numbers import (
    Constant,
    ExactArray,
    Number,
    enclose,
    exact_sum,
    two_product,
    two_sum,
)
from moduli.kernel.minimality import distinct, reducible
from moduli.kernel.move import Move
from moduli.kernel.network import IDENTITY, Layer, Network
from moduli.kernel.rules import apply, replay
from moduli.kernel.slack import NO_SLACK, Slack, difference, row_blocks
from moduli.kernel.state import State

Array = np.ndarray[Any, np.dtype[np.float64]]
Order = np.ndarray[Any, np.dtype[np.intp]]


# The group ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SymmetricPart:
    """Exchangeable things: `count` of them, each with further symmetries of its own.

    Attributes:
        signs: whether each may change sign. free: continuous dimensions of each (1 for a positive
            scale).
        inside: what may be exchanged inside each, as in the coordinates of an attention head.

    >>> round(SymmetricPart(3, signs=True).log_order, 4), SymmetricPart(3, free=1).dimension
    (3.8712, 3)
    """

    count: int
    signs: bool = False
    free: int = 0
    inside: tuple[SymmetricPart, ...] = ()

    @property
    def log_order(self) -> float:
        """Logarithm of the number of discrete symmetries (a wreath product)."""
        each = sum(part.log_order for part in self.inside) + (math.log(2) if self.signs else 0.0)
        return math.lgamma(self.count + 1) + self.count * each

    @property
    def dimension(self) -> int:
        """Of the continuous part."""
        return self.count * (self.free + sum(part.dimension for part in self.inside))


def hidden_units(
    widths: Sequence[int], activations: Sequence[Activation]
) -> tuple[SymmetricPart, ...]:
    """Of each hidden layer: signs where the activation is odd or even about a constant, scales
    where it is homogeneous.
    """
    return tuple(
        SymmetricPart(n, s.symmetric, int(s.homogeneous))
        for n, s in zip(widths[1:-1], activations, strict=True)
    )


def attention(
    heads: int, key: int, value: int, *, queries: int = 1, rotary: bool = False, bias: bool = False
) -> SymmetricPart:
    """An attention block: `heads` key-value heads of widths `key` and `value`, each read by
    `queries` query heads.

    Discrete: heads, the query heads of one, coordinates. Continuous: GL(key) between queries and
    keys, GL(value) between values and output; with rotary positions one complex number for each
    plane is left of the first. With `bias` (of keys and values): a key bias does nothing unless
    positions are rotary, a value bias moves into the output bias.

    >>> round(attention(12, 64, 64).log_order, 3)
    4944.024
    """
    turn = key if rotary else key * key
    dead = (value + (0 if rotary else key)) if bias else 0
    sizes = (queries, value) if rotary else (queries, key, value)
    return SymmetricPart(
        heads, free=turn + value * value + dead, inside=tuple(map(SymmetricPart, sizes))
    )


def grouped(groups: int, inputs: int, outputs: int, *, free: int = 0) -> SymmetricPart:
    """A grouped convolution, both channel axes together; depthwise for one input and one output
    each.

    >>> round(grouped(64, 1, 1).log_order, 3)
    205.168
    """
    return SymmetricPart(groups, inside=(SymmetricPart(inputs), SymmetricPart(outputs, free=free)))


class Axis(NamedTuple):
    """What one axis of a tensor is indexed by: a part of the group, `block` consecutive entries for
    each of its units.

    The factor of a unit multiplies its entries to the given power: 1 where the unit is written, -1
    where it is read, 0 where it only moves; with `even` its size alone does, as where an absolute
    value is read.
    """

    part: str
    power: int = 0
    block: int = 1
    even: bool = False


@dataclass(frozen=True)
class Spec:
    """The permutations, signs and scales of any collection of tensors: convolutions, residual
    streams, attention.

    A part that several tensors name moves in all of them at once, so a residual stream is one part
    and a flattened channel a block. `None` is an axis that stays.

    Attributes:
        parts: by name. axes: of each tensor, one entry per axis.

    >>> conv = Spec({"c": SymmetricPart(8, free=1)}, {
    ...     "conv.weight": (Axis("c", 1), None, None, None), "conv.bias": (Axis("c", 1),),
    ...     "fc.weight": (None, Axis("c", -1, block=49)),
    ... })
    >>> conv.dimension, round(conv.log_order, 3)
    (8, 10.605)
    """

    parts: Mapping[str, SymmetricPart]
    axes: Mapping[str, tuple[Axis | None, ...]]

    @property
    def log_order(self) -> float:
        return sum(part.log_order for part in self.parts.values())

    @property
    def dimension(self) -> int:
        return sum(part.dimension for part in self.parts.values())

    def check(self, tensors: Mapping[str, Any]) -> None:
        """Raises `ShapeError` where tensors do not have the axes described here."""
        for name, axes in self.axes.items():
            if name not in tensors:
                raise ShapeError(
                    f"tensor {name!r} is described but not given; given: {', '.join(sorted(tensors))}"
                )
            shape = np.shape(tensors[name])
            wanted = [
                None if axis is None else self.parts[axis.part].count * axis.block for axis in axes
            ]
            if len(shape) != len(axes) or any(
                n not in (None, m) for n, m in zip(wanted, shape, strict=True)
            ):
                raise ShapeError(
                    f"tensor {name!r} has shape {shape}; its description says {tuple(wanted)}"
                )

    def random(self, seed: int | np.random.Generator = 0) -> dict[str, tuple[Order, Array]]:
        """A random order of each part, with signs and powers of two where it has them."""
        rng = np.random.default_rng(seed)
        return {name: _random_part(part, rng) for name, part in self.parts.items()}

    def move(
        self, tensors: Mapping[str, Any], element: Mapping[str, tuple[Order, Array]]
    ) -> dict[str, Any]:
        """The tensors with units in their new places; those that nothing is said about stay as they
        are.
        """
        self.check(tensors)
        return {**tensors, **{name: self.place(name, tensors[name], element) for name in self.axes}}

    def place(
        self,
        name: str,
        tensor: Any,
        element: Mapping[str, tuple[Order, Array]],
        *,
        but: int | None = None,
    ) -> Any:
        """One tensor, moved along all its axes (but one)."""
        array = np.asarray(tensor)
        for k, axis in enumerate(self.axes[name]):
            if axis is None or axis.part not in element or k == but:
                continue
            order, factor = element[axis.part]
            array = np.take(
                array, (order[:, None] * axis.block + np.arange(axis.block)).ravel(), axis=k
            )
            factor = np.abs(factor) if axis.even else factor
            if axis.power and (factor != 1).any():
                shape = [-1 if j == k else 1 for j in range(array.ndim)]
                array = array * np.repeat(factor**axis.power, axis.block).reshape(shape).astype(
                    array.dtype
                )
        return array


def _random_part(part: SymmetricPart, rng: np.random.Generator) -> tuple[Order, Array]:
    factor = np.ones(part.count)
    if part.free:
        factor = np.ldexp(factor, rng.integers(-3, 4, part.count))
    if part.signs:
        factor = factor * rng.choice([-1.0, 1.0], part.count)
    return rng.permutation(part.count), factor


@dataclass(frozen=True, eq=False)
class Element:
    """One symmetry of the networks of one architecture, applied by calling it.

    Attributes:
        order: of each hidden layer, the unit that comes to each place. factor: what the incoming
            weights and the bias of the unit at each place are multiplied by; the outgoing ones are
            adjusted.
    """

    order: tuple[Order, ...]
    factor: tuple[Array, ...]

    @np.errstate(all="ignore")
    def __call__(self, net: Network) -> Network:
        """The moved network; exact for factors that are powers of two (biases that a sigmoid shifts
        are rounded once).
        """
        self._check(net)
        weights = [layer.weight for layer in net.layers]
        biases = [layer.bias for layer in net.layers]
        for l, (order, factor) in enumerate(zip(self.order, self.factor, strict=True)):
            sign, offset = net.layers[l].activation.turned
            out = weights[l + 1][:, order]
            if offset and (factor < 0).any():
                shift = np.column_stack([biases[l + 1], float(offset) * out[:, factor < 0]])
                biases[l + 1] = np.array([math.fsum(row) for row in shift.tolist()])
            weights[l + 1] = out * (np.where(factor < 0, float(sign), 1.0) / np.abs(factor))
            weights[l], biases[l] = weights[l][order] * factor[:, None], biases[l][order] * factor
        return net.with_layers(
            [
                Layer(w, b, old.activation)
                for w, b, old in zip(weights, biases, net.layers, strict=True)
            ]
        )

    def _check(self, net: Network) -> None:
        if tuple(map(len, self.order)) != net.widths[1:-1]:
            raise ShapeError(
                f"a symmetry of hidden widths {tuple(map(len, self.order))} on a network with {net.widths[1:-1]}"
            )
        for l, (act, factor) in enumerate(zip(net.activations, self.factor, strict=True), 1):
            allowed = (
                (factor != 0)
                & ((factor > 0) | act.symmetric)
                & ((np.abs(factor) == 1) | act.homogeneous)
            )
            if not (np.isfinite(factor) & allowed).all():
                raise ValueError(
                    f"factor {factor[~allowed][0]} is no symmetry of {act} in layer {l}"
                )

    def moves(self, names: Sequence[Order] | None = None) -> tuple[Move, ...]:
        """What the kernel replays; `names` are those of the units of each hidden layer where some
        have gone.
        """
        moves = []
        for l, (order, factor) in enumerate(zip(self.order, self.factor, strict=True), 1):
            units = order if names is None else names[l - 1][order]
            for ratio in np.unique(factor[factor != 1]).tolist():
                moves.append(
                    Move("scale", l, np.sort(units[factor == ratio]), ratio=Fraction(ratio))
                )
            moves.append(Move("permute", l, units))
        return tuple(moves)

    def certificate(self, net: Network) -> Certificate:
        """That `self(net)` has the function of `net`, up to the rounding of its parameters."""
        return certify(net, self.moves(), self(net))


@dataclass(frozen=True, eq=False, repr=False)
class SymmetryGroup(Result):
    """The symmetries of an architecture, and which of them leave this network's parameters where
    they are.

    Attributes:
        network: whose. units: one part per hidden layer. log_order: of the discrete part, in nats.
            dimension: of the continuous part.
    """

    network: Network
    units: tuple[SymmetricPart, ...]
    kind: ClassVar[str] = "symmetries"

    @staticmethod
    def of(net: Network) -> SymmetryGroup:
        return SymmetryGroup("proved", net, hidden_units(net.widths, net.activations))

    @property
    def log_order(self) -> float:
        return sum(part.log_order for part in self.units)

    @property
    def dimension(self) -> int:
        return sum(part.dimension for part in self.units)

    @property
    def log_stabiliser(self) -> tuple[float, float]:
        """Bounds of the logarithm of the number of permutations with signs that change no
        parameter.

        Equal for one hidden layer, and wherever no two units of a layer have the same row.
        Otherwise, below: units with one and the same row, bias and outgoing weights. Above: units
        of one colour, where colours are refined by what units read and write until nothing changes
        (with zero rows: the order of the group).
        """
        return _stabiliser(self.network, [part.signs for part in self.units])

    @property
    def log_orbit(self) -> tuple[float, float]:
        """Bounds of the logarithm of the number of parameters that the discrete symmetries make of
        this one.
        """
        low, high = self.log_stabiliser
        return self.log_order - high, self.log_order - low

    @property
    def free_bits(self) -> float:
        """log2 of at least so many orders and signs of units, all stored as other numbers: bits
        that carry nothing.

        Signs count for odd and even activations (for the others they change biases, or more).
        """
        signs = [s.symmetric and not s.turned[1] for s in self.network.activations]
        order = sum(
            SymmetricPart(n, sign).log_order
            for n, sign in zip(self.network.widths[1:-1], signs, strict=True)
        )
        return (order - _stabiliser(self.network, signs)[1]) / math.log(2)

    def random(self, seed: int | np.random.Generator = 0) -> Element:
        """A random element: orders and signs uniform, scales powers of two from 1/8 to 8."""
        rng = np.random.default_rng(seed)
        drawn = [_random_part(part, rng) for part in self.units]
        return Element(tuple(order for order, _ in drawn), tuple(factor for _, factor in drawn))

    @property
    def statement(self) -> str:
        names = ["permutations"]
        if any(part.signs for part in self.units):
            names.append("signs")
        if any(part.free for part in self.units):
            names.append("positive scales")
        scales = f", {self.dimension} continuous dimensions" if self.dimension else ""
        of = f"{' and '.join(names)} of {self.network.units} hidden units"
        return f"{of}: e^{self.log_order:.6g} discrete symmetries{scales}"

    def rows(self) -> list[tuple[str, str]]:
        low, high = self.log_stabiliser
        fixed = f"{low:.6g}" if low == high else f"between {low:.6g} and {high:.6g}"
        return [
            ("network", repr(self.network)),
            ("log of the order", f"{self.log_order:.9g} = {self.log_order / math.log(2):.6g} bits"),
            ("continuous dimension", str(self.dimension)), ("log of the stabiliser", fixed),
            ("free bits", f"{self.free_bits:.6g} of {64 * self.network.parameters} in float64"),
        ]  # fmt: skip

    def data(self) -> dict[str, Any]:
        return {
            "log_order": self.log_order, "dimension": self.dimension,
            "log_stabiliser": list(self.log_stabiliser), "log_orbit": list(self.log_orbit),
            "free_bits": self.free_bits, "widths": list(self.network.widths),
        }  # fmt: skip


def _stabiliser(net: Network, signs: Sequence[bool]) -> tuple[float, float]:
    """Bounds of the log of the order of the stabiliser in the group of permutations, with signs
    where they count.
    """
    shown = _upright(net, signs)
    equal = fixed = 0.0
    for l, signed in enumerate(signs):
        (w, b), (v, _) = shown[l], shown[l + 1]
        whole, odd = np.column_stack([w, b, v.T]), signed and net.activations[l].turned[0] == -1
        compared = whole
        if odd and len(signs) == 1:
            compared = _signed(whole)
        equal += _log_shuffles(_classes(compared))
        idle = ~np.column_stack([w, b]).any(axis=1) & (not odd or ~v.any(axis=0))
        fixed += math.log(2) * int(idle.sum()) * signed
    if len(signs) <= 1:
        return equal + fixed, equal + fixed
    rows = [np.column_stack([w, b]) for w, b in shown[:-1]]
    if any(not x.any(axis=1).all() for x in rows):
        return equal + fixed, sum(
            SymmetricPart(n, sign).log_order
            for n, sign in zip(net.widths[1:-1], signs, strict=True)
        )
    if all(len(np.unique(x, axis=0)) == len(x) for x in rows):
        return 0.0, 0.0
    sizes = [
        (np.abs(w) if sign else w, np.abs(b) if sign else b)
        for (w, b), sign in zip(shown, _touched(signs), strict=True)
    ]
    return equal, sum(map(_log_shuffles, _refined(sizes)))


def _touched(signs: Sequence[bool]) -> list[bool]:
    """Of each layer, whether signs of the units it reads or writes may change its weights: then
    only sizes tell units apart.

    Which sign a unit takes is settled by its place, as no row is zero.
    """
    return [before or after for before, after in zip((False, *signs), (*signs, False), strict=True)]


def _log_shuffles(classes: Order) -> float:
    return math.fsum(math.lgamma(n + 1) for n in np.bincount(classes).tolist())


def _upright(net: Network, signs: Sequence[bool]) -> list[tuple[Array, Array]]:
    """Weights and biases (exactly equal ones as equal numbers) with the first non-zero entry of
    each signed row positive.
    """
    flip, shown = np.ones(net.widths[0]), list[tuple[Array, Array]]()
    for layer, signed in zip(net.layers, (*signs, False), strict=True):
        rows = np.column_stack([layer.weight * flip, layer.bias])
        before = net.layers[len(shown) - 1].activation if shown else None
        if before is not None and before.turned[1] and signs[len(shown) - 1]:
            rows[:, -1] = _labels(_biases_of_odd(layer, before.turned[1] / 2))
        upright = _signed(rows) if signed else rows
        turned = ~(upright == rows).all(axis=1)
        flip = np.where(turned, float(layer.activation.turned[0]), 1.0)
        shown.append((upright[:, :-1], upright[:, -1]))
    return shown


def _biases_of_odd(layer: Layer, half: Fraction | float) -> list[Fraction]:
    """The biases behind units whose activation is odd but for a constant, s(z) - half: b + half *
    sum of weights, exactly.
    """
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [Fraction(bias) + Fraction(half) * exact_sum(weights) for weights, bias in rows]


def _labels(numbers: Sequence[Fraction]) -> list[float]:
    """Floats in place of rationals, equal, opposite and zero where these are: all that is asked of
    them.
    """
    names: dict[Fraction, int] = {Fraction(0): 0}
    for q in numbers:
        names.setdefault(abs(q), len(names))
    return [math.copysign(names[abs(q)], q) for q in numbers]


def _signed(rows: Array) -> Array:
    lead = (
        rows[np.arange(len(rows)), np.argmax(rows != 0, axis=1)]
        if rows.size
        else np.ones(len(rows))
    )
    return rows * np.where(lead < 0, -1.0, 1.0)[:, None] + 0.0


def _classes(rows: Array) -> Order:
    """A number for each row, equal where the rows are."""
    return (
        np.unique(rows, axis=0, return_inverse=True)[1].ravel()
        if len(rows)
        else np.empty(0, np.intp)
    )


def _refined(shown: Sequence[tuple[Array, Array]]) -> list[Order]:
    """Colours of hidden units: equal while colours, biases, and the multisets of (weight, colour)
    read and written agree.
    """
    hidden = [np.zeros(len(b), np.intp) for _, b in shown[:-1]]
    colours = [np.arange(shown[0][0].shape[1]), *hidden, np.arange(len(shown[-1][1]))]
    while True:
        count = sum(len(np.unique(c)) for c in colours)
        for l in range(1, len(shown)):
            (w, b), (v, _) = shown[l - 1], shown[l]
            seen = _multiset(w, colours[l - 1]), _multiset(v.T, colours[l + 1])
            colours[l] = _classes(np.column_stack([colours[l], b, *seen]))
        if sum(len(np.unique(c)) for c in colours) == count:
            return colours[1:-1]


def _multiset(weights: Array, colours: Order) -> Array:
    order = np.lexsort((weights, np.broadcast_to(colours, weights.shape)), axis=1)
    return np.take_along_axis(weights, order, axis=1)


# Normal forms ---------------------------------------------------------------------------------------------------


def normal_form(
    net: Network, progress: Progress | None = None, *, as_tanh: bool = False
) -> tuple[State, tuple[Move, ...]]:
    """The kernel's state of the reduced, normalised network, and the moves that lead there.

    Args:
        as_tanh: sigmoids are written as tanh first, which is another form of the same function.
    """
    sigmoids = [l for l, s in enumerate(net.activations, 1) if as_tanh and s.kind == "sigmoid"]
    first = [Move("tanh", l, np.arange(net.widths[l])) for l in sigmoids]
    state, moves = reduce(net, progress, first=first)
    extra: list[Move] = []
    scale = _ones(len(state.alive[0]))
    for l in range(1, len(state.weights)):
        for move in (*_mirror(state, l), *_rescale(state, l)):
            apply(state, move)
            extra.append(move)
        rows, bias, size = _shown(state, l, scale)
        order = _sorted(
            [key for part in (0, 1) for x in (rows, bias) for key in np.atleast_2d(x[part].T)]
        )
        scale = size[0][order], size[1][order]
        if (np.diff(order) != 1).any():
            extra.append(Move("permute", l, state.alive[l][order]))
            apply(state, extra[-1])
    return state, (*moves, *extra)


FEW = 20  # keys that are looked at first


def _sorted(keys: Sequence[Array]) -> Order:
    """Lexicographic order, the first key first; all keys are looked at only where the first few are
    equal.
    """
    first = keys[:FEW]
    order = np.lexsort(first[::-1])
    same = np.all([key[order[1:]] == key[order[:-1]] for key in first], axis=0)
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    if len(tied):
        some = np.sort(order[tied])
        order[tied] = some[np.lexsort([key[some] for key in keys[::-1]])]
    return order


@dataclass(frozen=True, eq=False, repr=False)
class NormalForm(Result):
    """The normal form of a network, and what rounding it to floats did to the function.

    Attributes:
        status: proved where nothing was rounded, bounded by `slack`, or undecided where no float
            bounds it. network: the form.
        original: whose. slack: certified, |network - original|_inf <= constant + growth |x|_inf.
            signature: the fingerprint.
        moves: from `original` to the exact form.
    """

    network: Network
    original: Network
    slack: Slack
    signature: Signature
    moves: tuple[Move, ...]
    kind: ClassVar[str] = "canon"

    @property
    def statement(self) -> str:
        form = f"normal form with {self.network.units} of {self.original.units} hidden units"
        if self.status == "undecided":
            return f"{form}; no float bounds what rounding it changes"
        return f"{form}; the same function" + (
            "" if self.status == "proved" else f" up to {self.slack}"
        )

    def check(self) -> bool:
        """Replay the moves, form and bound anew; raises `CertificateRejected`, or `Undecided` where
        nothing is claimed.
        """
        if self.status == "undecided":
            return super().check()
        network, slack = _rounded(replay(self.original, self.moves))
        if network != self.network or slack != self.slack:
            raise CertificateRejected(
                f"slack {self.slack} is claimed of a form, but {slack} is found"
            )
        return True

    def rows(self) -> list[tuple[str, str]]:
        means = "another complete signature is another function"
        if not self.signature.complete:
            means = "another signature proves nothing"
        slack = "= 0 (nothing was rounded)" if self.status == "proved" else f"<= {self.slack}"
        return [
            ("network", repr(self.original)), ("form", repr(self.network)), ("slack", slack),
            ("signature", self.signature), ("complete", means),
        ]  # fmt: skip

    def data(self) -> dict[str, Any]:
        slack = self.slack
        return {
            "widths": list(self.network.widths), "digest": self.network.digest,
            "original_digest": self.original.digest,
            "slack": None if slack.growth else slack.constant, "growth": slack.growth,
            "constant": slack.constant, "signature": str(self.signature),
            "complete": self.signature.complete,
        }  # fmt: skip


def canon(net: Network, progress: Progress | None = None) -> NormalForm:
    """The normal form, every parameter rounded once to float64, with the effect of that."""
    state, moves = normal_form(net, progress)
    network, slack = _rounded(state)
    status = "bounded" if slack.finite else "undecided"
    status = "proved" if slack == NO_SLACK else status
    mark = signature(net, form=state)
    if slack != NO_SLACK:
        bound = (
            f"outputs are the same up to {slack}"
            if slack.finite
            else "no float bounds what that changes"
        )
        network = replace(network, notes=(f"normal form, rounded to float64; {bound}",))
    return NormalForm(status, network, net, slack, mark, moves)


def canonical(net: Network, progress: Progress | None = None) -> Network:
    """The normal form alone; idempotent."""
    return canon(net, progress).network


CLOSE = 2.0**-95  # above the relative error of `_shown`: 2^-98
LEAST = (
    2.0**-300
)  # numbers from LEAST to MOST: no product of two, divided by a third, underflows or overflows
MOST = 2.0**300


def _rounded(state: State) -> tuple[Network, Slack]:
    """The form as floats, and a bound of what rounding it changes.

    The form has rows W_l D_{l-1} / D_l and biases b_l / D_l, with positive diagonal D_l, D = 1 for
    inputs, outputs and layers that are not scaled: the same function for any such numbers, so for
    the sums of two floats that `_shown` takes. Each step there, a product or a quotient of sums of
    two floats, is off by a factor 1 + 2^-100 at most (the terms left out and the roundings of the
    small terms are below 40 units of 2^-106 of the result), where nothing underflows or overflows;
    entries that are no sum of two floats are off by 2^-98 at most, which is looked at. In all
    2^-97, and CLOSE is taken.
    """
    layers, exact, scale = (
        list[Layer](),
        list[tuple[ExactArray, ExactArray]](),
        _ones(len(state.alive[0])),
    )
    certain, scaled = True, False
    for l, activation in enumerate([*state.activations, IDENTITY], 1):
        scaled |= not _is_one(scale)
        rows, bias, after = _shown(state, l, scale)
        scaled |= not _is_one(after)
        if not (np.isfinite(rows[0]).all() and np.isfinite(bias[0]).all()):
            raise UnsupportedModel(
                "a weight of the normal form exceeds float64; rescale the network's weights first"
            )
        layers.append(Layer(rows[0] + 0.0, bias[0] + 0.0, activation))
        held = (
            state.weights[l - 1].take(state.alive[l], state.alive[l - 1]),
            state.biases[l - 1].take(state.alive[l]),
        )
        if _is_one(scale) and _is_one(after):
            exact.append(held)
        else:
            exact.append((ExactArray(*rows), ExactArray(*bias)))
            sizes = held[0].hi, held[1].hi, scale[0], after[0]
            certain &= all(map(_moderate, sizes)) and all(map(_close, held))
        scale = after
    network = state.net.with_layers(layers)
    slack = difference(
        exact, exact_arrays(network), state.activations, relative=CLOSE if scaled else 0.0
    )
    return network, slack if certain else Slack(math.inf, math.inf)


def _moderate(x: Array) -> bool:
    size = np.abs(x[x != 0])
    return bool(((size >= LEAST) & (size <= MOST)).all())


def _close(x: ExactArray) -> bool:
    """Whether hi + lo is off by a factor 1 + 2^-98 at most, everywhere."""
    for at, number in x.rest.items():
        low, high = enclose(number)
        held = Fraction(float(x.hi[at])) + (Fraction(float(x.lo[at])) if x.lo is not None else 0)
        if max(high - held, held - low) > abs(held) / 2**98:
            return False
    return True


Pair = tuple[Array, Array]


def _ones(count: int) -> Pair:
    return np.ones(count), np.zeros(count)


def _shown(state: State, l: int, scale: Pair) -> tuple[Pair, Pair, Pair]:
    """Rows, biases and scales of a layer with the largest weight of each scaled unit at 1, each as
    a sum of two floats.

    Args:
        scale: of the units that the layer reads.
    """
    w, b = (
        state.weights[l - 1].take(state.alive[l], state.alive[l - 1]),
        state.biases[l - 1].take(state.alive[l]),
    )
    bias, ones = _pair(b), _ones(len(b.hi))
    scaled = l < len(state.weights) and state.activations[l - 1].homogeneous and w.hi.size > 0
    if not scaled and _is_one(scale):
        return _pair(w), bias, ones
    rows, size = (np.empty(w.hi.shape), np.zeros(w.hi.shape)), ones
    for at in row_blocks(w):
        part = _times(_pair(w.rows(at)), (scale[0][None, :], scale[1][None, :]))
        if scaled:
            size[0][at], size[1][at] = largest = _largest(part)
            part = _over(part, (largest[0][:, None], largest[1][:, None]))
        rows[0][at], rows[1][at] = part
    return rows, _over(bias, size) if scaled else bias, size


def _largest(rows: Pair) -> Pair:
    """The largest absolute value of each row, 1 where all is zero."""
    at = np.argmax(np.abs(rows[0]), axis=1)
    hi, lo = (part[np.arange(len(at)), at] for part in rows)
    return np.where(hi != 0, np.abs(hi), 1.0), np.where(hi < 0, -lo, lo)


def _is_one(x: Pair) -> bool:
    return bool((x[0] == 1).all() and not x[1].any())


def _pair(x: ExactArray) -> Pair:
    return x.hi, np.zeros(x.hi.shape) if x.lo is None else x.lo


def _times(a: Pair, b: Pair) -> Pair:
    """The product of two sums of two floats, to about 100 bits."""
    if _is_one(b):
        return a
    with np.errstate(over="ignore", invalid="ignore"):
        p, e = two_product(*np.broadcast_arrays(a[0], b[0]))
        return two_sum(p, e + a[0] * b[1] + a[1] * b[0])


def _over(a: Pair, b: Pair) -> Pair:
    """The quotient, likewise: one step of long division."""
    with np.errstate(over="ignore", invalid="ignore"):
        q = a[0] / b[0]
        p, e = two_product(*np.broadcast_arrays(q, b[0]))
        return two_sum(q, ((a[0] - p) - e + a[1] - q * b[1]) / b[0])


class Signature(str):
    """A fingerprint of a function: SHA-256 of the exact normal form, after the reduced widths and
    the activations.

    Equal signatures, equal functions. Two different signatures, both `complete`, of networks with
    the same activations and output map are different functions too (before the output map).
    """

    complete: bool

    def __new__(cls, text: str, complete: bool) -> Signature:
        self = super().__new__(cls, text)
        self.complete = complete
        return self

    def __getnewargs__(self) -> tuple[str, bool]:  # type: ignore[override]
        return str(self), self.complete


def signature(
    net: Network, progress: Progress | None = None, *, form: State | None = None
) -> Signature:
    """The fingerprint of a network's normal form (`form`, where it is known).

    Complete for constant and affine functions, and for one hidden layer of
    - tanh, sigmoid, erf (irreducible parameters are unique up to permutation and sign: Sussmann 1992),
    - relu, leaky_relu, abs, clip: by creases and an affine rest (`kernel.creases`), so that it does not matter
      which of them a network has, nor which way its units are turned.
    Constants such as tanh(1/2) are compared by their normal forms: distinct positive rationals have
    linearly independent values of tanh, which are rational functions of one exponential with
    different poles; for erf this is not known.
    """
    sigmoids = any(s.kind == "sigmoid" for s in net.activations)
    state = form if form and not sigmoids else normal_form(net, progress, as_tanh=True)[0]
    if (function := creased(state)) is not None:
        return _of_creases(function, state, net.output_map)
    arrays, widths = state.arrays(), state.widths
    if len(widths) > 2 and widths[-2] == 0:  # a constant
        arrays, widths = (
            iter([(ExactArray(np.zeros((widths[-1], widths[0]))), [*arrays][-1][1])]),
            (widths[0], widths[-1]),
        )
    acts = [str(s) for s in state.activations][: len(widths) - 2]
    sha = hashlib.sha256(repr((widths, acts, net.output_map)).encode())
    for x in (x for layer in arrays for x in layer):
        for part in _pair(x):
            sha.update(np.ascontiguousarray(part).data.cast("B") if part.size else b"")
        sha.update(repr([(at, _text(x.rest[at])) for at in sorted(x.rest)]).encode())
    name = "/".join(dict.fromkeys(acts)) or "affine"
    return Signature(
        f"{'-'.join(map(str, widths))}:{name}:{sha.hexdigest()}", _complete(state, widths)
    )


def _of_creases(function: Creased, state: State, output_map: str) -> Signature:
    """Complete, whichever piecewise linear activations a network has."""
    creases = sorted((key, tuple(map(str, sums))) for key, sums in function.creases.items())
    rest = [tuple(map(str, row)) for row in (*function.weight, function.bias)]
    sha = hashlib.sha256(repr((state.widths[0], creases, rest, output_map)).encode())
    count = len(creases)
    widths, name = (
        (state.widths[0], *([count] * (count > 0)), state.widths[-1]),
        "creases" if count else "affine",
    )
    return Signature(f"{'-'.join(map(str, widths))}:{name}:{sha.hexdigest()}", True)


def _text(number: Number) -> str:
    if isinstance(number, Fraction):
        return str(number)
    atoms = sorted((str(a.activation), _text(a.argument), str(c)) for a, c in number.atoms)
    return f"{number.rational} + {atoms}"


def _complete(state: State, widths: tuple[int, ...]) -> bool:
    constants = [n for x in state.biases for n in x.rest.values() if isinstance(n, Constant)]
    atoms = [(a.activation.kind, a.argument) for n in constants for a, _ in n.atoms]
    # Constants that the units leave are equal if and only if they are written alike: known for tanh
    # (or sigmoid) of rationals, whose values at distinct positive ones are linearly independent.
    if any(not isinstance(z, Fraction) for _, z in atoms):
        return False
    if {kind for kind, _ in atoms} not in (set(), {"tanh"}, {"sigmoid"}):
        return False
    # An affine function has its weights and biases from its values.
    if len(widths) == 2:
        return True
    # A network that others of the same size equal without symmetry has no normal form here.
    if reducible(state) is not None or not distinct(state):
        return False
    s = state.activations[0]
    # Irreducible parameters of tanh, sigmoid and erf are unique up to permutation and sign
    # (Sussmann 1992).
    if s.minimal:
        return True
    # Even or odd up to a constant: turning a unit changes nothing but signs. Of other activations
    # some units may turn around together; what bends has a signature by its creases, if it is small
    # enough.
    return s.symmetric


def _mirror(state: State, l: int) -> list[Move]:
    if not state.activations[l - 1].symmetric:
        return []
    w = state.weights[l - 1].take(state.alive[l], state.alive[l - 1]).hi
    first = np.argmax(w != 0, axis=1) if w.size else np.zeros(len(w), dtype=np.intp)
    negative = (
        state.alive[l][w[np.arange(len(w)), first] < 0] if w.size else np.empty(0, dtype=np.intp)
    )
    return [Move("scale", l, negative, ratio=Fraction(-1))] if len(negative) else []


def _rescale(state: State, l: int) -> list[Move]:
    """One move per factor: a unit's weights and bias coprime integers up to a power of two, the
    largest weight in [1, 2).
    """
    if not state.activations[l - 1].homogeneous or not len(state.alive[l - 1]):
        return []
    factors: dict[Fraction, list[int]] = {}
    w, b = (
        state.weights[l - 1].take(state.alive[l], state.alive[l - 1]),
        state.biases[l - 1].take(state.alive[l]),
    )
    odd, bent = _unusual(w), _unusual(b)
    plain = w.hi if not odd.any() else np.where(odd, 0.0, w.hi)
    common, size = _odd_gcd(plain, np.where(bent, 0.0, b.hi)), np.abs(plain).max(axis=1)
    for row in np.flatnonzero((w.hi != 0).any(axis=1)).tolist():
        content, top = Fraction(int(common[row])), Fraction(float(size[row]))
        if bent[row] or odd[row].any():
            weights = [w.get((row, j)) for j in np.flatnonzero(odd[row]).tolist()]
            content = _content([content, *weights, *([b.get((row,))] if bent[row] else [])])
            top = max([top, *(abs(q) for q in weights if isinstance(q, Fraction))])
        ratio = 1 / content
        ratio *= Fraction(2) ** -_exponent(top * ratio)
        factors.setdefault(ratio, []).append(int(state.alive[l][row]))
    return [
        Move("scale", l, np.array(units, dtype=np.intp), ratio=ratio)
        for ratio, units in factors.items()
        if ratio != 1
    ]


def _unusual(x: ExactArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where the number is not the float `hi`."""
    mask = np.zeros(x.hi.shape, dtype=bool) if x.lo is None else x.lo != 0
    for at in x.rest:
        mask[at] = True
    return mask


def _odd_gcd(weights: Array, biases: Array) -> Any:
    """The greatest common odd divisor of the mantissas in each row and its bias; 0 where all are
    zero.
    """
    out = _odd(biases)
    block = max(1, 2**18 // max(1, weights.shape[1]))
    for start in range(0, len(out), block):
        at = slice(start, start + block)
        out[at] = np.gcd(out[at], np.gcd.reduce(_odd(weights[at]), axis=1))
    return out


def _odd(x: Array) -> Any:
    """The odd parts of mantissas, 0 for 0."""
    mantissa = np.abs(np.ldexp(np.frexp(x)[0], 53)).astype(np.int64)
    return mantissa // np.maximum(mantissa & -mantissa, 1)


def _content(row: Sequence[Number]) -> Fraction:
    """The odd part of the rational that makes a row coprime integers when divided by it; constants
    are passed over.
    """
    rational = [q for q in row if isinstance(q, Fraction) and q]
    top, bottom = (
        math.gcd(*(q.numerator for q in rational)),
        math.lcm(*(q.denominator for q in rational)),
    )
    return Fraction(top // (top & -top), bottom // (bottom & -bottom))


def _exponent(q: Fraction) -> int:
    """k with 2^k <= q < 2^(k+1)."""
    k = q.numerator.bit_length() - q.denominator.bit_length()
    return k if Fraction(2) ** k <= q else k - 1
