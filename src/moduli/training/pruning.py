"""How much of a network can go: pruning curves, prunable shares, the part of a unit that the data
can see.

Errors are relative Frobenius norms of what was removed: a statement about parameters, not about the
function, which is measured beside it on samples. A unit is its row of incoming weights. On data
that span less than all inputs, the part of a row across that span changes neither function nor
gradient: it is projected away before units are measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from moduli.common.domains import Domain, Samples
from moduli.common.result import Result
from moduli.kernel.errors import ArgumentError, Asked, ShapeError
from moduli.kernel.network import Layer, Network

from .noise import stable_noise

Array = np.ndarray[Any, np.dtype[np.float64]]
Order = np.ndarray[Any, np.dtype[np.intp]]
BUDGET = 0.1
INVISIBLE = 1e-5
PROBES = 40
MOST = 2**23  # entries of intermediate values, 64 MB
WAYS = ("units", "magnitude", "singular")


# Squares --------------------------------------------------------------------------------------------------------


def removable(squares: Array, budget: float = BUDGET) -> int:
    """How many of the smallest squares sum to at most `budget` of the total; ties and equality in
    exact arithmetic.

    >>> import numpy as np
    >>> removable(np.array([1.0, 1.0, 2.0, 16.0]), 0.1)
    2
    """
    ordered = np.sort(np.asarray(squares, dtype=np.float64).ravel())
    if not len(ordered) or not ordered[-1]:
        return len(ordered)
    limit, sums = budget * math.fsum(ordered), np.cumsum(ordered)
    low, high = (
        int(np.searchsorted(sums, limit * factor, side="right")) for factor in (1 - 1e-9, 1 + 1e-9)
    )
    if low == high:
        return low
    exact = list(map(Fraction, ordered.tolist()))
    total, part = Fraction(budget) * sum(exact), sum(exact[:low], Fraction(0))
    for count in range(low, high):
        part += exact[count]
        if part > total:
            return count
    return high


def prunable_share(weight: Array, budget: float = BUDGET) -> float:
    """Share of rows that can go while the removed share of the squared norm stays within the budget
    (Wan et al. 2023).
    """
    squares = np.square(weight).sum(axis=1)
    return removable(squares, budget) / len(squares) if len(squares) else 0.0


def largest_share(weight: Array) -> float:
    """The part of the squared norm that the largest row holds: one jump can take everything."""
    squares = np.square(weight).sum(axis=1)
    return float(squares.max() / squares.sum()) if squares.any() else 0.0


def visible(weight: Array, inputs: Array) -> Array:
    """The part of each row in the span of the inputs: the rest changes neither outputs nor
    gradients on them.

    Args:
        weight: [units, in]. inputs: [samples, in]; directions in which they hold less than 1e-5 of
            the largest root mean square count as empty (stored data are rounded).
    """
    if inputs.shape[1] != weight.shape[1]:
        raise ShapeError(f"inputs have shape {inputs.shape}; the weights read {weight.shape[1]}")
    return visible_by(weight, span(inputs))


def visible_by(weight: Array, basis: Array) -> Array:
    """The part of each row in a span, given by an orthonormal basis [in, dimension]."""
    return weight if basis.shape[1] == weight.shape[1] else np.asarray(weight @ basis @ basis.T)


def visible_rows(net: Network, x: Array) -> list[Array]:
    """The visible part of the rows of each hidden layer, on samples of the network's inputs."""
    seen, h, hidden = [], x, net.layers[:-1]
    for number, layer in enumerate(hidden, 1):
        seen.append(visible(layer.weight, h))
        if number < len(hidden):  # of the last one nobody asks for the values
            h = layer(h)
    return seen


def span(inputs: Array) -> Array:
    """An orthonormal basis of the span of inputs [samples, in]: [in, dimension]."""
    return span_of(inputs.T @ inputs)


def span_of(products: Array) -> Array:
    """The same from their inner products [in, in]."""
    if not len(products):
        return np.zeros((0, 0))
    values, directions = np.linalg.eigh(products)
    least = INVISIBLE**2 * max(
        float(values[-1]), 0.0
    )  # eigenvalues are squares of sizes, the last one the largest
    return np.asarray(directions[:, values > least])


def noise_share(
    shape: Sequence[int],
    kind: str,
    alpha: float,
    *,
    draws: int = 200,
    budget: float = BUDGET,
    seed: int = 0,
) -> Array:
    """Prunable shares of layers of pure noise: 5, 50, 95 % quantiles of one, then the same of the
    median of ten.
    """
    return _floor(
        (stable_noise(shape, alpha, kind=kind, seed=rng) for rng in _streams(seed, draws)), budget
    )


def predicted_share(
    start: Array, kind: str, alpha: float, sigma: float, time: float, *, draws: int = 200, budget: float = BUDGET,
    seed: int = 0, basis: Array | None = None,
) -> Array:  # fmt: skip
    """The same of a start with the noise of a whole run on it and no training: scale sigma (eta
    K)^(1/alpha), time = eta K.

    >>> import numpy as np
    >>> start = np.random.default_rng(0).uniform(-0.1, 0.1, (500, 20))
    >>> quiet, loud = (predicted_share(start, "isotropic", 1.75, s, 12.0, draws=20)[1] for s in (0.001, 0.1))
    >>> bool(quiet < loud)
    True
    """
    scale = sigma * time ** (1 / alpha)

    def drawn(rng: np.random.Generator) -> Array:
        weight = start + scale * stable_noise(start.shape, alpha, kind=kind, seed=rng)
        if basis is None or basis.shape[1] == weight.shape[1]:
            return np.asarray(weight)
        return np.asarray(weight @ basis)  # norms of rows in the span, all that is needed

    return _floor(map(drawn, _streams(seed, draws)), budget)


def _streams(seed: int, count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(count)]


def _floor(layers: Iterable[Array], budget: float) -> Array:
    shares = np.array([prunable_share(w, budget) for w in layers])
    tens = np.median(np.random.default_rng(0).choice(shares, (1000, 10)), axis=1)
    return np.concatenate(
        [np.quantile(shares, (0.05, 0.5, 0.95)), np.quantile(tens, (0.05, 0.5, 0.95))]
    )


# Curves ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Curve(Result):
    """What is lost when only a share of each hidden layer is kept.

    Attributes:
        network: the network. by: "units", "magnitude" or "singular". kept: shares. error: relative
            Frobenius norm of what is removed from the incoming weights of hidden layers (of their
            visible part, where samples are given). plain: the same of whole rows, where that
            differs. probes, function: shares, and the relative change of the outputs there.
    """

    network: Network
    by: str
    kept: Array
    error: Array
    probes: Array | None = None
    function: Array | None = None
    plain: Array | None = None
    orders: tuple[Order, ...] = ()
    shares: tuple[float, ...] = ()
    plain_shares: tuple[float, ...] = ()
    kind: ClassVar[str] = "pruning_curve"

    def at(self, error: float) -> float:
        """The least share kept with at most this error."""
        return float(self.kept[self.error <= error].min())

    def pruned(self, kept: float) -> Network:
        """The network with only that share of the units of each hidden layer; units really go
        (curves by "units").
        """
        if self.by != "units":
            raise ArgumentError(
                Asked("by", self.by), ": only units can go on their own; ask for the curve ",
                Asked("by", "units"),
            )  # fmt: skip
        if not 0 <= kept <= 1:
            raise ArgumentError(Asked("kept", kept), ": a share between 0 and 1")
        return keep(self.network, _first(self.orders, kept))

    @cached_property
    def share(self) -> float:
        """Share of hidden parameters in units that hold a tenth of the squared norm of their layer
        (curves by "units").
        """
        sizes = [layer.weight.size for layer in self.network.layers[:-1]]
        return float(np.average(self.shares, weights=sizes)) if sizes else 0.0

    @property
    def statement(self) -> str:
        half = float(np.interp(0.5, self.kept, self.error))
        prunable = (
            f"; {100 * self.share:.3g} % hold a tenth of the squared norm"
            if self.by == "units"
            else ""
        )
        return f"half of the {self.by} kept: relative error {half:.3g} of the parameters{prunable}"

    def asked(self) -> list[tuple[str, str]]:
        return [("network", repr(self.network)), ("by", self.by)]

    def facts(self) -> list[tuple[str, str]]:
        rows = list[tuple[str, str]]()
        for share in (0.5, 0.2, 0.1, 0.05):
            at = int(np.searchsorted(self.kept, share - 1e-9))
            change = ""
            if self.function is not None and self.probes is not None:
                change = f", function {np.interp(share, self.probes, self.function):.3g}"
            rows.append((f"{100 * share:g} % kept", f"parameters {self.error[at]:.3g}{change}"))
        for l, (share, plain) in enumerate(zip(self.shares, self.plain_shares, strict=True), 1):
            both = (
                f"{share:.3g}"
                if share == plain
                else f"{share:.3g} of the part the samples see, {plain:.3g} of whole rows"
            )
            rows.append((f"prunable share, layer {l}", both))
        return rows

    def data(self) -> dict[str, Any]:
        return {
            "by": self.by,
            "share": self.share if self.by == "units" else None,
            "shares": list(self.shares),
            "plain_shares": list(self.plain_shares),
            **self.plot_data(),
        }

    def plot_data(self) -> dict[str, Any]:
        lists = {
            name: getattr(self, name) for name in ("kept", "error", "probes", "function", "plain")
        }
        return {name: None if values is None else values.tolist() for name, values in lists.items()}

    def plot(self, ax: Any = None) -> Any:
        """Error of parameters and change of the function against the share kept."""
        from moduli.common.figures import pruning_figure

        return pruning_figure({**self.plot_data(), "by": self.by}, ax)


def pruning_curve(net: Network, by: str, on: Domain) -> Curve:
    """See `api.pruning_curve`."""
    if by not in WAYS:
        raise ArgumentError(Asked("by", by), f": {', '.join(WAYS)}")
    if on is not None and not isinstance(on, Samples):
        raise ArgumentError(Asked("on", type(on)), ": what a unit shows is measured on Samples(x)")
    if len(net.layers) < 2:
        raise ValueError(f"{net}: no hidden layer to prune")
    hidden = [layer.weight for layer in net.layers[:-1]]
    seen, x = hidden, None
    if on is not None:
        x = np.asarray(on.x)
        if x.shape[1] != net.widths[0]:
            raise ShapeError(
                f"samples have shape {x.shape}; the network has {net.widths[0]} inputs"
            )
        seen = visible_rows(net, x)
    whole = [_squares(w, by) for w in hidden]
    parts = [_squares(w, by) for w in seen]
    steps = max(1, *(len(s) for s in parts)) if by != "magnitude" else 1000
    kept = np.arange(steps + 1) / steps
    error = _errors(parts, kept)
    plain = (
        _errors(whole, kept) if any(p is not q for p, q in zip(seen, hidden, strict=True)) else None
    )
    if by != "units":
        return Curve("estimated", net, by, kept, error, plain=plain)
    orders = tuple(np.argsort(-s, kind="stable") for s in parts)
    probes = None if x is None else kept[:: max(1, steps // PROBES)]
    function = None if x is None or probes is None else _changes(net, orders, probes, x)
    shares = tuple(removable(s) / max(1, len(s)) for s in parts)
    whole_shares = tuple(removable(s) / max(1, len(s)) for s in whole)
    return Curve(
        "estimated", net, by, kept, error, probes, function, plain, orders, shares, whole_shares
    )


def _squares(weight: Array, by: str) -> Array:
    if by == "units":
        return np.asarray(np.square(weight).sum(axis=1))
    return (
        np.square(weight).ravel()
        if by == "magnitude"
        else np.square(np.linalg.svd(weight, compute_uv=False))
    )


def _errors(squares: Sequence[Array], kept: Array) -> Array:
    removed = np.zeros(len(kept))
    for s in squares:
        tails = np.concatenate([np.cumsum(np.sort(s)), [0.0]])  # tails[k - 1]: the k smallest
        removed += tails[len(s) - np.floor(kept * len(s) + 1e-9).astype(int) - 1]
    return np.sqrt(removed / max(sum(float(s.sum()) for s in squares), 1e-300))


def _changes(net: Network, orders: Sequence[Order], probes: Array, x: Array) -> Array:
    whole = net.logits(x)
    return np.array(
        [relative_change(whole, keep(net, _first(orders, share)).logits(x)) for share in probes]
    )


def _first(orders: Sequence[Order], share: float) -> list[Order]:
    """That share of each layer's units."""
    return [order[: math.floor(share * len(order) + 1e-9)] for order in orders]


def relative_change(before: Array, after: Array) -> float:
    """Root mean square of the difference of outputs over that of those before, about their means."""
    spread = float(np.square(before - before.mean(axis=0)).sum())
    return float(np.sqrt(np.square(after - before).sum() / max(spread, 1e-300)))


def keep(net: Network, units: Sequence[Order]) -> Network:
    """The network with only the named units of each hidden layer, in the order they have in it."""
    layers, before = [], np.arange(net.widths[0])
    for layer, some in zip(net.layers, [*units, np.arange(net.widths[-1])], strict=True):
        rows = np.sort(np.asarray(some, dtype=np.intp))
        layers.append(
            Layer(
                layer.weight[np.ix_(rows, before)].copy(), layer.bias[rows].copy(), layer.activation
            )
        )
        before = rows
    return net.with_layers(layers)


def contributions(net: Network, x: Array) -> list[Array]:
    """Of each hidden unit: squared outgoing weights times the mean square of its pre-activation on
    the samples.
    """
    sums = [np.zeros(n) for n in net.widths[1:-1]]
    for h in blocks(net, x):
        for total, layer in zip(sums, net.layers[:-1], strict=True):
            z = h @ layer.weight.T + layer.bias
            total += np.square(z).sum(axis=0)
            h = layer.activation(z)
    return [
        np.asarray(np.square(after.weight).sum(axis=0) * total / len(x))
        for total, after in zip(sums, net.layers[1:], strict=True)
    ]


def blocks(net: Network, x: Array) -> Iterator[Array]:
    """The samples in parts, such that what the widest layer makes of one has at most MOST entries."""
    rows = max(1, MOST // max(net.widths))
    return (x[at : at + rows] for at in range(0, len(x), rows))
