"""Move one network onto another by symmetries: permutations, signs and scales.

Weight matching (Ainsworth et al. 2023): for one part of the group at a time, the assignment that
maximises the inner product of all tensors that the part touches, until nothing grows; monotone and
finite, and a local optimum (two or more layers: NP-hard). It runs on any tensors that a
`group.Spec` describes. For networks the free scales are removed first (every unit's incoming
weights get norm 1), odd units are matched up to sign, and sigmoids through 2 sigmoid(z) = 1 +
tanh(z/2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from moduli.common.domains import Domain, Gaussian, Samples
from moduli.common.result import Result
from moduli.kernel.certificate import Certificate, proved
from moduli.kernel.errors import ArgumentError, Asked, ShapeError
from moduli.kernel.network import Layer, Network

from .group import Axis, Element, Order, Spec, SymmetryGroup

Array = np.ndarray[Any, np.dtype[np.float64]]
SWEEPS = 100
GAIN = 1e-12
DRAWS = 5000
STILL = 1e-13  # of its size: a column that varies by less is constant but for rounding
TIE = 1e-6
MOST = 2.0**900  # in place of gains that overflow


# Tensors --------------------------------------------------------------------------------------------------------


def match(
    spec: Spec, a: Mapping[str, Any], b: Mapping[str, Any], *, seed: int | np.random.Generator = 0
) -> dict[str, tuple[Order, Array]]:
    """The element that moves tensors `a` nearest to `b`, as far as weight matching finds it.

    From two starts: part by part in the order of the spec, which finds exact copies, and where all
    units are; then in random orders until no inner product grows.

    >>> from moduli.equivalence.group import SymmetricPart
    >>> spec = Spec({"h": SymmetricPart(3)}, {"w": (Axis("h", 1), None), "v": (None, Axis("h", -1))})
    >>> b = {"w": np.array([[1.0], [2.0], [3.0]]), "v": np.array([[4.0, 5.0, 6.0]])}
    >>> a = spec.move(b, spec.random(1))
    >>> bool((spec.move(a, match(spec, a, b))["w"] == b["w"]).all())
    True
    """
    spec.check(a)
    spec.check(b)
    rng = np.random.default_rng(seed)
    left = {name: np.asarray(a[name], dtype=np.float64) for name in spec.axes}
    right = {name: np.asarray(b[name], dtype=np.float64) for name in spec.axes}
    best = math.sqrt(_inner(left, left) * _inner(right, right))
    found: dict[str, tuple[Order, Array]] = {}
    for start in (
        {},
        {name: (np.arange(part.count), np.ones(part.count)) for name, part in spec.parts.items()},
    ):
        start = _climb(spec, left, right, start, rng)
        score, before = (_inner(spec.move(left, x), right) for x in (start, found))
        if not found or score > before:
            found = start
        if max(score, before) >= best * (1 - 1e-9):  # nothing is nearer
            break
    return found


def _inner(a: Mapping[str, Array], b: Mapping[str, Array]) -> float:
    return float(sum(np.vdot(a[name], b[name]) for name in a))


def _climb(
    spec: Spec,
    a: Mapping[str, Array],
    b: Mapping[str, Array],
    found: dict[str, tuple[Order, Array]],
    rng: np.random.Generator,
) -> dict[str, tuple[Order, Array]]:
    """Improve one part at a time; the first time in the order of the spec, seeing only what touches
    no part still unknown.
    """
    found = dict(found)
    for sweep in range(SWEEPS):
        names = list(spec.parts) if sweep == 0 else rng.permutation(list(spec.parts)).tolist()
        if not any([_improve(spec, name, a, b, found) for name in names]) or len(names) == 1:
            break
    return found


def _improve(
    spec: Spec,
    name: str,
    a: Mapping[str, Array],
    b: Mapping[str, Array],
    found: dict[str, tuple[Order, Array]],
) -> bool:
    """The best order (and signs) of one part, given all others; whether it is better than the
    present one.
    """
    count, signs, at = (
        spec.parts[name].count,
        spec.parts[name].signs,
        np.arange(spec.parts[name].count),
    )
    known = found.keys() | {name}
    signed, still = (
        np.zeros((count, count)),
        np.zeros((count, count)),
    )  # inner products that a sign changes, and others
    for tensor, axes in spec.axes.items():
        if any(axis is not None and axis.part not in known for axis in axes):
            continue
        for k, axis in enumerate(axes):
            if axis is None or axis.part != name:
                continue
            moved = spec.place(tensor, a[tensor], found, but=k)
            wanted, have = (
                np.moveaxis(x, k, 0).reshape(count, x.size // max(1, count))
                for x in (b[tensor], moved)
            )
            total = signed if signs and axis.power % 2 and not axis.even else still
            total += wanted @ have.T
    gain = still + np.abs(signed)
    order = assign(gain)
    factor = np.where(signed[at, order] < 0, -1.0, 1.0)
    if name not in found:
        found[name] = order, factor
        return True
    old, old_factor = found[name]
    before = float((still[at, old] + signed[at, old] * old_factor).sum())
    if float(gain[at, order].sum()) <= before + GAIN * float(np.abs(gain).max(initial=0.0)) * count:
        return False
    found[name] = order, factor
    return True


def assign(gain: Array) -> Order:
    """The column for each row, so that the sum is largest."""
    from scipy.optimize import linear_sum_assignment

    finite = np.nan_to_num(gain, nan=0.0, posinf=MOST, neginf=-MOST)
    return np.asarray(linear_sum_assignment(finite, maximize=True)[1], dtype=np.intp)


# Networks -------------------------------------------------------------------------------------------------------


def spec_of(net: Network) -> Spec:
    """A network as tensors ``W1, b1, W2, ...`` with one part ``1, 2, ...`` for each hidden layer.

    >>> net = Network.mlp([[1.0], [2.0]], [0.0, 0.0], [[1.0, 1.0]], [0.0])
    >>> spec_of(net).axes["W2"]
    (None, Axis(part='1', power=-1, block=1, even=False))
    """
    acts = net.activations
    parts = {str(l): part for l, part in enumerate(SymmetryGroup.of(net).units, 1)}
    axes: dict[str, tuple[Axis | None, ...]] = {}
    for l in range(1, len(net.layers) + 1):
        read = None if l == 1 else Axis(str(l - 1), -1, even=acts[l - 2].turned[0] != -1)
        write = None if l > len(acts) else Axis(str(l), 1)
        axes |= {f"W{l}": (write, read), f"b{l}": (write,)}
    return Spec(parts, axes)


def _bare(net: Network) -> tuple[dict[str, Array], list[Array]]:
    """Tensors with incoming weights of norm 1 where a scale is free, biases as they are with odd
    units; and those norms.

    Equal numbers for symmetric copies with powers of two: squares are summed in their order of
    size.
    """
    tensors: dict[str, Array] = {}
    norms, before = list[Array](), np.ones(net.widths[0])
    for l, layer in enumerate(net.layers, 1):
        weight, bias, norm = layer.weight * before, layer.bias, np.ones(len(layer.bias))
        offset = float(net.layers[l - 2].activation.turned[1]) if l > 1 else 0.0
        if offset:
            bias = bias + offset / 2 * weight.sum(axis=1)
        if layer.activation.homogeneous and l < len(net.layers):
            square = np.sort(np.square(np.column_stack([weight, bias])), axis=1).sum(axis=1)
            norm = np.where(square > 0, np.sqrt(square), 1.0)
        tensors |= {f"W{l}": weight / norm[:, None], f"b{l}": bias / norm}
        norms.append(norm)
        before = norm
    return tensors, norms[:-1]


def _by_activations(
    a: Network, b: Network, mine: Mapping[str, Array], yours: Mapping[str, Array], x: Array
) -> dict[str, tuple[Order, Array]]:
    """Layer by layer, the assignment that maximises the sum of correlations of hidden activations.

    Units that never vary on these inputs are told apart by their incoming weights (of `mine` and
    `yours`, as from `_bare`).
    """
    spec = spec_of(a)
    found: dict[str, tuple[Order, Array]] = {}
    p = q = x
    for l, (left, right) in enumerate(zip(a.layers[:-1], b.layers[:-1], strict=True), 1):
        zp, zq = p @ left.weight.T + left.bias, q @ right.weight.T + right.bias
        p, q = left.activation(zp), right.activation(zq)
        symmetric, odd = left.activation.symmetric, left.activation.turned[0] == -1
        near = _correlation(yours[f"W{l}"].T, spec.place(f"W{l}", mine[f"W{l}"], found).T)
        values, towards = _correlation(q, p), _correlation(zq, zp)
        signed = values if odd else towards
        order = assign(
            (np.abs(values) if symmetric and odd else values)
            + TIE * (np.abs(near) if symmetric else near)
        )
        at = np.arange(len(order)), order
        negative = symmetric & (np.where(signed[at] == 0, near[at], signed[at]) < 0)
        found[str(l)] = order, np.where(negative, -1.0, 1.0)
    return found


def _correlation(p: Array, q: Array) -> Array:
    """Between columns; 0 for those that do not vary, or that have fewer than two entries."""
    if len(p) < 2:
        return np.zeros((p.shape[1], q.shape[1]))
    (p, one), (q, two) = _centred(p), _centred(q)
    sizes = np.outer(one, two)
    return np.asarray(np.divide(p.T @ q, sizes, out=np.zeros(sizes.shape), where=sizes > 0))


def _centred(x: Array) -> tuple[Array, Array]:
    """Columns less their means, and their norms: 0 where no more than rounding is left of a column."""
    moved = x - x.mean(axis=0)
    norms, whole = np.linalg.norm(moved, axis=0), np.linalg.norm(x, axis=0)
    return moved, np.where(norms > STILL * whole, norms, 0.0)


def align(
    a: Network,
    b: Network,
    by: str = "weights",
    on: Domain = None,
    seed: int | np.random.Generator = 0,
) -> Alignment:
    """See `api.align`."""
    if a.widths != b.widths or a.activations != b.activations:
        raise ShapeError(
            f"{a} and {b}: only networks of one architecture are aligned; for networks that may be equal ask equivalent"
        )
    (mine, norms), (yours, wanted) = _bare(a), _bare(b)
    if by == "weights":
        if on is not None:
            raise ArgumentError(
                Asked("on", type(on)), " goes with ", Asked("by", "activations"),
                "; weights are matched without data",
            )  # fmt: skip
        found = match(spec_of(a), mine, yours, seed=seed)
    elif by == "activations":
        found = _by_activations(a, b, mine, yours, drawn_inputs(on, a.widths[0], seed))
    else:
        raise ArgumentError(Asked("by", by), ": 'weights' or 'activations'")
    pairs = [found[str(l)] for l in range(1, len(a.layers))]
    factor = tuple(
        sign * (m / n[order]) for (order, sign), n, m in zip(pairs, norms, wanted, strict=True)
    )
    return Alignment("estimated", a, b, Element(tuple(order for order, _ in pairs), factor), by)


def drawn_inputs(on: Domain, inputs: int, seed: int | np.random.Generator) -> Array:
    if isinstance(on, Gaussian):
        return on.sample(DRAWS, inputs, np.random.default_rng(seed))
    if not isinstance(on, Samples):
        raise ArgumentError(
            Asked("on", on),
            ": give the inputs to compare activations on, Samples(x) or Gaussian()",
        )
    if on.x.shape[1] != inputs:
        raise ShapeError(f"samples have shape {on.x.shape}; the networks have {inputs} inputs")
    return np.asarray(on.x)


@dataclass(frozen=True, eq=False, repr=False)
class Alignment(Result):
    """One network moved onto another by a symmetry, so that both can be compared and averaged unit
    by unit.

    Attributes:
        a, b: the networks. element: the symmetry. by: weights or activations.
    """

    a: Network
    b: Network
    element: Element
    by: str
    kind: ClassVar[str] = "align"

    @cached_property
    def network(self) -> Network:
        """`a` moved onto `b`: the function of `a` (see `certificate`)."""
        return self.element(self.a)

    @cached_property
    def certificate(self) -> Certificate:
        """That `network` computes the function of `a`, up to the rounding of its parameters."""
        return self.element.certificate(self.a)

    def check(self) -> bool:
        proved(self.certificate, self.network, self.a)
        return True

    @cached_property
    def before(self) -> float:
        """Euclidean distance of the parameters of `a` and `b`."""
        return float(np.linalg.norm(self.a.flat() - self.b.flat()))

    @cached_property
    def after(self) -> float:
        """Euclidean distance of the parameters of `network` and `b`."""
        return float(np.linalg.norm(self.network.flat() - self.b.flat()))

    def merge(self, t: float = 0.5) -> Network:
        """The network on the straight line from `network` (t = 0) to `b` (t = 1)."""
        return _between(self.network, self.b, t)

    def barrier(
        self,
        on: Samples | Gaussian,
        targets: Any = None,
        *,
        points: int = 25,
        seed: int | np.random.Generator = 0,
    ) -> Barrier:
        """How much worse the networks on the line are than its ends, with and without the
        alignment.

        Args:
            on: inputs. targets: class numbers (cross-entropy), or values (mean square error).
                Without them: the mean square distance from the outputs on the line to the line
                between the outputs, as a share of the variance of b's.

        Raises:
            ShapeError: not as many targets as inputs.
        """
        x = drawn_inputs(on, self.a.widths[0], seed)
        return Barrier.along(
            lambda t: _between(self.network, self.b, t).logits(x),
            lambda t: _between(self.a, self.b, t).logits(x),
            targets, points,
        )  # fmt: skip

    @property
    def statement(self) -> str:
        with np.errstate(all="ignore"):
            size = float(np.linalg.norm(self.b.flat())) or 1.0
        return (
            f"matched by {self.by}: the parameters are {self.after / size:.3g} of their norm apart, "
            f"{self.before / size:.3g} before"
        )

    def rows(self) -> list[tuple[str, str]]:
        moved = [int((order != np.arange(len(order))).sum()) for order in self.element.order]
        turned = sum(int((factor < 0).sum()) for factor in self.element.factor)
        scaled = sum(int((np.abs(factor) != 1).sum()) for factor in self.element.factor)
        return [
            ("a", repr(self.a)),
            ("b", repr(self.b)),
            ("distance of parameters", f"{self.before:.6g} before, {self.after:.6g} after"),
            (
                "units moved",
                ", ".join(f"{k} of {n}" for k, n in zip(moved, self.a.widths[1:-1], strict=True))
                or "none",
            ),
            ("turned, scaled", f"{turned}, {scaled}"),
        ]

    def data(self) -> dict[str, Any]:
        return {
            "before": self.before, "after": self.after, "by": self.by, "a": self.a.digest,
            "b": self.b.digest, "order": [order.tolist() for order in self.element.order],
            "factor": [f.tolist() for f in self.element.factor],
        }  # fmt: skip


def _between(a: Network, b: Network, t: float) -> Network:
    parts = zip(a.layers, b.layers, strict=True)
    return b.with_layers(
        [
            Layer((1 - t) * p.weight + t * q.weight, (1 - t) * p.bias + t * q.bias, p.activation)
            for p, q in parts
        ]
    )


def _loss_name(targets: Any) -> str:
    return "cross-entropy" if np.asarray(targets).dtype.kind in "iu" else "mean square error"


def _losses(outputs: Callable[[float], Array], targets: Any, t: Array) -> Array:
    """Loss along a line, of the outputs there."""
    found = [outputs(float(s)) for s in t]
    p, q = found[0], found[-1]
    if targets is not None:
        wanted = np.asarray(targets)
        if len(wanted) != len(p):
            raise ShapeError(f"{len(wanted)} targets for {len(p)} inputs")
        return np.array([_loss(z, wanted) for z in found])
    spread = float(q.var(axis=0).sum()) or 1.0
    gaps = (z - (1 - s) * p - s * q for s, z in zip(t, found, strict=True))
    return np.array([np.square(gap).sum(axis=1).mean() / spread for gap in gaps])


def _loss(z: Array, targets: Any) -> float:
    if targets.dtype.kind in "iu":
        if targets.ndim != 1 or targets.min(initial=0) < 0 or targets.max(initial=0) >= z.shape[1]:
            raise ShapeError(
                f"class numbers of shape {targets.shape} up to {targets.max(initial=0)} for {z.shape[1]} outputs"
            )
        top = z.max(axis=1, keepdims=True)
        return float(
            (np.log(np.exp(z - top).sum(axis=1)) + top[:, 0] - z[np.arange(len(z)), targets]).mean()
        )
    wanted = targets.reshape(len(z), -1)
    if wanted.shape != z.shape:
        raise ShapeError(f"targets have shape {targets.shape}; the outputs have {z.shape}")
    return float(np.square(z - wanted).sum(axis=1).mean())


@dataclass(frozen=True, eq=False, repr=False)
class Barrier(Result):
    """The loss on the straight line between two networks.

    Attributes:
        t: from 0 (a) to 1 (b). loss: after the alignment. unaligned: without it. measure: what the
            loss is.
    """

    t: Array
    loss: Array
    unaligned: Array
    measure: str
    kind: ClassVar[str] = "barrier"

    @staticmethod
    def along(
        aligned: Callable[[float], Array],
        unaligned: Callable[[float], Array],
        targets: Any,
        points: int,
    ) -> Barrier:
        """Of the outputs on two lines; see `Alignment.barrier`."""
        t = np.linspace(0.0, 1.0, points)
        measure = "share of variance" if targets is None else _loss_name(targets)
        first, second = (_losses(outputs, targets, t) for outputs in (aligned, unaligned))
        return Barrier("estimated", t, first, second, measure)

    @property
    def height(self) -> float:
        """Largest excess over the line between the losses of both ends."""
        return float(self._excess(self.loss).max())

    @property
    def before(self) -> float:
        """The same without the alignment."""
        return float(self._excess(self.unaligned).max())

    def _excess(self, loss: Array) -> Array:
        return np.asarray(loss - (1 - self.t) * loss[0] - self.t * loss[-1])

    @property
    def at(self) -> float:
        return float(self.t[self._excess(self.loss).argmax()])

    @property
    def statement(self) -> str:
        return f"barrier {self.height:.3g} at {self.at:.2g} ({self.measure}); {self.before:.3g} without the alignment"

    def rows(self) -> list[tuple[str, str]]:
        return [
            ("barrier", f"~ {self.height:.6g} at t = {self.at:.3g}"),
            ("without alignment", f"~ {self.before:.6g}"),
            ("loss", f"{self.measure}: {self.loss[0]:.6g} and {self.loss[-1]:.6g} at the ends"),
        ]  # fmt: skip

    def data(self) -> dict[str, Any]:
        return {
            "height": self.height,
            "before": self.before,
            "at": self.at,
            "measure": self.measure,
            **self.plot_data(),
        }

    def plot_data(self) -> dict[str, Any]:
        return {
            "t": self.t.tolist(),
            "loss": self.loss.tolist(),
            "unaligned": self.unaligned.tolist(),
        }

    def plot(self, ax: Any = None) -> Any:
        """Loss along the line, with and without the alignment."""
        from moduli.common.figures import barrier_figure

        return barrier_figure({**self.plot_data(), "measure": self.measure}, ax)
