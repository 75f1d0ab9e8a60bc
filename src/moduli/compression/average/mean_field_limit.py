"""The simplified problem of wide random networks, and its frames (Amani, Bombari, Mondelli, Pukdee &
Rini 2022).

f(x) = sum_i a_i s(w_i . x), x ~ N(0, I_d). The product of f with a unit s(u . x) is a function of the
angle to each w_i; expand it in spherical harmonics of the direction of u:

    E f(x) s(u . x) = sum_i a_i K(|w_i|, |u|, rho_i),   K = A_0 + A_1 rho + A_2 (rho^2 - 1/d) + ...

with coefficients A_l(|w|, |u|). For ReLU K = |w| |u| k(rho), k(rho) = 1/(2 pi) + rho/4 + rho^2/(4 pi) +
..., so A_1 = |w| |u| / 4 and A_0 is the mean of k over directions (`isotropic`). In a wide target with
isotropic weights only A_0 survives, and the best student forgets the target: it approximates a
constant (S0: A_0 replaced by E s(|w| z) E s(|u| z)), or the mean over rotations (S-iso: A_0, for ReLU a
multiple of |x|). A target of finite width also has a linear part (S1: its actual A_0 and A_1 terms)
and a quadratic one (S2), each of the order N^-1/2 of the first; from degree 3 on they are smaller.
For odd activations A_0 = 0, and the limit says nothing.

For M <= d + 1 units of ReLU the optimum among non-negative outgoing weights is the simplex: k is convex
and increasing, so it lies above its tangent at -1/(M - 1), and every term of the remaining quadratic
form is minimal exactly there. The same holds for any increasing convex activation among students whose
rows have one length r: K'(rho) = r^2 E s'(X) s'(Y) >= 0 and K''(rho) = r^4 E s''(X) s''(Y) >= 0 by
Price's theorem, and the cross term is the same for all directions; so it does for softplus. Other
lengths, signed weights, other activations and M > d + 1 are searched for (`frames`); that is evidence,
not proof.

Only the paper's abstract and the formulas above were at hand; none of the paper's own constants are
used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float64

from moduli.common.domains import Gaussian
from moduli.common.result import Result
from moduli.kernel.activations import Activation
from moduli.kernel.network import Network

from .closed_form import ShallowNetwork, inner, student
from .fit import simplex
from .gaussian_expectations import MEDIUM, UnitLaw, Whitening, gram, means

Array = np.ndarray[Any, np.dtype[np.float64]]
Level = Literal["S0", "S-iso", "S1", "S2", "exact"]
ANGLES = 96  # nodes of the quadrature over the angle of two directions
LENGTHS = 24  # of rows of the target, between which coefficients are interpolated
DIRECTIONS = 200  # in which a simplified cross term is compared with the exact one


def etf(units: int, inputs: int) -> Float64[np.ndarray[Any, Any], "units inputs"]:
    """The simplex: `units` unit vectors with pairwise products -1/(units - 1), an equiangular tight
    frame of their span.

    Raises:
        ValueError: more than ``inputs + 1`` units, for which there is no simplex.

    >>> import numpy as np
    >>> frame = etf(3, 5)
    >>> bool(np.allclose(frame @ frame.T, np.eye(3) * 1.5 - 0.5, atol=1e-15))
    True
    """
    if inputs < 1:
        raise ValueError(
            f"etf({units}, {inputs}): no direction at all; at least one input that varies is needed"
        )
    if not 1 <= units <= inputs + 1:
        raise ValueError(
            f"etf({units}, {inputs}): a simplex in {inputs} dimensions has 1 to {inputs + 1} vectors"
        )
    return simplex(units, inputs)


def angular(rho: Any) -> Any:
    """k(rho) = E relu(X) relu(Y) for unit variances and correlation rho (Cho & Saul 2009)."""
    theta = np.arccos(np.clip(rho, -1.0, 1.0))
    return (np.sin(theta) + np.cos(theta) * (np.pi - theta)) / (2 * np.pi)


def strength(units: int) -> float:
    """S = 1^T K^-1 1 of the simplex; a student of `units` units explains S/(2 pi) of a constant's
    square.

    >>> round(1 - strength(6) / (2 * math.pi), 9)
    0.10060265
    """
    # Every row of K has the same sum, k(1) + (M - 1) k(-1/(M - 1)) with k(1) = 1/2: so K^-1 1 is
    # constant.
    row = 0.5
    if units > 1:
        row += (units - 1) * float(angular(-1 / (units - 1)))
    return units / row


def isotropic(inputs: int) -> float:
    """The mean of k(rho) over all directions in `inputs` dimensions; near 1/(2 pi) (1 + 1/(2
    inputs)).
    """
    ratio = math.exp(math.lgamma(inputs / 2) - math.lgamma((inputs + 1) / 2))
    return inputs * (ratio / (2 * math.sqrt(math.pi))) ** 2


def harmonics(
    activation: Activation, one: Array, other: Array, inputs: int
) -> tuple[Array, Array, Array]:
    """A_0, A_1, A_2 of E s(X) s(Y) = A_0 + A_1 rho + A_2 (rho^2 - 1/inputs) + ... for rows of given
    lengths ``[p]`` and ``[q]``, rho the cosine of their angle: ``[p, q]`` each.

    By quadrature over directions; A_0 is the mean over all rotations.
    """
    from scipy.special import roots_jacobi

    if inputs > 1:
        power = (inputs - 3) / 2
        nodes, weight = roots_jacobi(ANGLES, power, power)
    else:
        nodes, weight = np.array([-1.0, 1.0]), np.ones(2)
    weight = weight / weight.sum()
    turned = np.column_stack([nodes, np.sqrt(np.maximum(0.0, 1 - nodes**2))])
    rows = (one[:, None, None] * turned).reshape(-1, 2)
    fixed = np.column_stack([other, np.zeros(len(other))])
    flat = UnitLaw(np.zeros(len(rows)), rows), UnitLaw(np.zeros(len(fixed)), fixed)
    (kernel,) = gram(activation, flat[0], None, flat[1], nodes=MEDIUM)
    kernel = kernel.reshape(len(one), len(nodes), len(other))
    bent = nodes**2 - 1 / inputs

    def part(values: Array) -> Array:
        size = float(weight @ values**2)
        found = np.einsum("t,ptq->pq", weight * values, kernel)
        return np.asarray(found / size if size > 1e-14 else np.zeros(found.shape))

    return part(np.ones(len(nodes))), part(nodes), part(bent)


@dataclass(frozen=True, eq=False, repr=False)
class MeanField(Result):
    """What the simplified problem says of a network, and whether it may.

    Attributes:
        total: sum_i a_i |w_i|. expected: hidden units * mean a * mean |w|. drift: sum_i a_i w_i
            (for ReLU its quarter is the linear part). shape: sum_i a_i w_i w_i^T / |w_i|, which turns the
            frame. square: E f^2. against: why it does not apply.
    """

    network: Network
    total: float
    expected: float
    drift: Float64[np.ndarray[Any, Any], " k"]
    shape: Float64[np.ndarray[Any, Any], "k k"]
    square: float
    against: tuple[str, ...]
    whitening: Whitening
    kind: ClassVar[str] = "mean_field"

    @property
    def applies(self) -> bool:
        return not self.against

    @property
    def inputs(self) -> int:
        """Directions in which the inputs vary."""
        return len(self.drift)

    @property
    def activation(self) -> Activation:
        """Of the hidden units."""
        return self.network.activations[0]

    @property
    def share(self) -> float:
        """The part of E f^2 that the isotropic term holds: that of sum_i a_i s(w_i . x) with its
        directions averaged over all rotations.
        """
        if not self.square:
            return 0.0
        if self.activation.kind == "relu":
            return self.total**2 * isotropic(self.inputs) / self.square
        lengths, weights = self._lengths
        (own, _, _) = harmonics(self.activation, lengths, lengths, self.inputs)
        return float(weights @ own @ weights) / self.square

    @property
    def rates(self) -> dict[str, float]:
        """How far each simplification is off, relative to the isotropic term, in the worst of many
        directions: 1/(2d), about N^-1/2, about (dN)^-1/2. Measured for ReLU.
        """
        d, n = self.inputs, max(1, self.network.units)
        return {"S0": 1 / (2 * d) + n**-0.5, "S-iso": n**-0.5, "S1": (d * n) ** -0.5}

    def off(self, level: Level, seed: int = 0) -> float:
        """How far a level is off for this network: root mean square of `cross` less the exact cross
        term, over that of the exact one, in 200 random directions.
        """
        rows = np.random.default_rng(seed).standard_normal((DIRECTIONS, self.inputs))
        rows *= self._size / np.linalg.norm(rows, axis=1)[:, None]
        truth = self.cross(rows, "exact")
        size = float(np.square(truth).mean())
        return math.sqrt(float(np.square(self.cross(rows, level) - truth).mean()) / (size or 1.0))

    @cached_property
    def _target(self) -> ShallowNetwork:
        return ShallowNetwork.of(self.network, self.whitening)

    @cached_property
    def _lengths(self) -> tuple[Array, Array]:
        """A few lengths of rows, and weights with sum_i a_i g(|w_i|) = sum_k weight_k g(length_k) for
        polynomials g of degree below their number.
        """
        return _few(np.sqrt(self._target.units.variance), self._target.outer[:, 0])

    @cached_property
    def _expected(self) -> tuple[Array, Array]:
        """The same where a and w are independent: every unit has the mean outgoing weight."""
        outer = self._target.outer[:, 0]
        mean = np.full(len(outer), outer.mean() if len(outer) else 0.0)
        return _few(np.sqrt(self._target.units.variance), mean)

    def cross(self, rows: Array, level: Level = "S1") -> Array:
        """E f(x) s(u . x) for rows u ``[M, k]`` (whitened inputs), simplified; ``exact``: as it is."""
        size = np.linalg.norm(rows, axis=1)
        if level == "exact":
            (kernel,) = gram(
                self.activation, UnitLaw(np.zeros(len(rows)), rows), None, self._target.units
            )
            return np.asarray((kernel @ self._target.outer)[:, 0])
        if level == "S0":
            lengths, weights = self._expected
            along = np.concatenate([size, lengths])
            (mean,) = means(self.activation, _on_a_line(along), (0,), MEDIUM)
            return np.asarray(mean[: len(size)] * float(weights @ mean[len(size) :]))
        if self.activation.kind == "relu" and level != "S2":
            if level == "S-iso":
                return np.asarray(self.expected * isotropic(self.inputs) * size)
            return np.asarray(self.total * isotropic(self.inputs) * size + rows @ self.drift / 4)
        return self._harmonic(rows, size, level)

    def _harmonic(self, rows: Array, size: Array, level: Level) -> Array:
        """By the coefficients of the harmonics, up to degree 0, 1 or 2."""
        distinct, place = np.unique(np.round(size, 12), return_inverse=True)
        lengths, weights = self._expected if level == "S-iso" else self._lengths
        first = harmonics(self.activation, distinct, lengths, self.inputs)[0] @ weights
        out = np.asarray(first[place])
        if level == "S-iso":
            return out
        units, outer = self._target.units.row, self._target.outer[:, 0]
        own = np.sqrt(self._target.units.variance)
        safe, long = np.where(own > 0, own, 1.0), np.where(size > 0, size, 1.0)
        cosine = (rows / long[:, None]) @ (units / safe[:, None]).T
        nodes, basis = _interpolation(own)
        _, tilt, bend = harmonics(self.activation, distinct, nodes, self.inputs)
        out = out + ((tilt @ basis)[place] * cosine) @ outer
        if level == "S2":
            out = out + ((bend @ basis)[place] * (cosine**2 - 1 / self.inputs)) @ outer
        return np.asarray(out)

    def frame(self, units: int) -> Array:
        """The simplex along the main directions of `shape`: rows ``[units, k]``, units <= k + 1.

        Rows have length 1; where length matters, that with the least loss in S-iso among e^-3.5 to
        e^3.5 times the mean length of the target's rows (for gelu and silu the longer the better).
        """
        return np.asarray(self._length(units) * self._directions(units))

    def _directions(self, units: int) -> Array:
        return np.asarray(etf(units, self.inputs) @ np.linalg.eigh(self.shape)[1][:, ::-1].T)

    @property
    def _size(self) -> float:
        """Of a row of the target."""
        if self.activation.homogeneous or not len(self._target):
            return 1.0
        return float(np.sqrt(self._target.units.variance).mean()) or 1.0

    def _length(self, units: int) -> float:
        """Of the rows of the frame."""
        from scipy.optimize import minimize_scalar

        if self.activation.homogeneous or not self.square:
            return 1.0
        rows = self._directions(units)

        def left(log_length: float) -> float:
            return self._left(math.exp(log_length) * rows, "S-iso")

        around = math.log(self._size)
        grid = around + np.linspace(-3, 3, 13)
        at = float(grid[int(np.argmin([left(x) for x in grid]))])
        found = minimize_scalar(left, bounds=(at - 0.5, at + 0.5), method="bounded")
        return math.exp(float(found.x))

    def _left(self, rows: Array, level: Level) -> float:
        """E |f - student|^2 / E f^2 with the best outgoing weights of some rows, as a level says."""
        cross = self.cross(rows, level)
        (kernel,) = gram(self.activation, UnitLaw(np.zeros(len(rows)), rows))
        return 1 - float(cross @ np.linalg.lstsq(kernel, cross, rcond=1e-12)[0]) / self.square

    def loss(self, units: int, level: Level = "S-iso") -> float:
        """Predicted E |f - student|^2 / E f^2 of the simplex `frame` with its best outgoing
        weights: no biases, units <= k + 1. ``exact``: not predicted, but what it is.

        With B = `cross` and K the kernel of the frame: 1 - B^T K^-1 B / E f^2. Where the cross term
        is the same for all directions and the activation is ReLU that is 1 - B^2 S / E f^2 (see
        `strength`); in S1 and S2 the linear and quadratic parts along the frame count as well.
        """
        rows = self.frame(units)
        if not self.square:
            return 0.0  # the zero function: nothing is lost
        return self._left(rows, level)

    def student(self, units: int) -> Network:
        """The simplex `frame` with equal outgoing weights."""
        rows = self.frame(units)
        if self.activation.kind == "relu":
            weight = self.expected * isotropic(self.inputs) * strength(units) / units
        else:  # every row of the kernel has the same sum
            (kernel,) = gram(self.activation, UnitLaw(np.zeros(units), rows))
            weight = float(self.cross(rows, "S-iso").mean() / kernel.sum(axis=1).mean())
        readout = ShallowNetwork(
            self.activation,
            UnitLaw(np.zeros(units), rows),
            np.full((units, 1), weight),
            np.zeros(1),
        )
        return student(readout, self.whitening, self.network)

    @property
    def statement(self) -> str:
        if self.applies:
            return f"the simplified problem applies: its isotropic term holds {100 * self.share:.3g} % of the mean square"
        return "the simplified problem does not apply: " + "; ".join(self.against)

    def rows(self) -> list[tuple[str, str]]:
        rows = [
            ("network", repr(self.network)),
            ("isotropic term", f"{self.share:.3g} of the mean square"),
        ]
        rates = ", ".join(f"{level} ~ {rate:.1g}" for level, rate in self.rates.items())
        rows.append(("simplifications off by", rates))
        for units in (2, 4, 8, 16) if self.applies else ():
            if units <= self.inputs + 1:
                rows.append(
                    (f"simplex of {units}", f"~ {self.loss(units):.3g} of the mean square is lost")
                )
        return rows + [("does not apply", reason) for reason in self.against]

    def data(self) -> dict[str, Any]:
        return {
            "network": self.network.digest, "applies": self.applies, "against": list(self.against),
            "total": self.total, "expected": self.expected, "drift": self.drift.tolist(),
            "square": self.square, "share": self.share, "rates": self.rates,
            "spectrum": np.linalg.eigvalsh(self.shape)[::-1].tolist(),
        }  # fmt: skip


def _on_a_line(lengths: Array) -> UnitLaw:
    """Units whose pre-activations have these standard deviations."""
    return UnitLaw(np.zeros(len(lengths)), lengths[:, None])


def _interpolation(lengths: Array) -> tuple[Array, Array]:
    """Chebyshev nodes between the least and the largest of some lengths, and the values of their
    Lagrange polynomials there: ``[nodes]``, ``[nodes, lengths]``.
    """
    distinct = np.unique(lengths)
    if len(distinct) <= LENGTHS:
        return distinct, (distinct[:, None] == lengths).astype(float)
    low, high = float(distinct[0]), float(distinct[-1])
    angle = (np.arange(LENGTHS) + 0.5) * np.pi / LENGTHS
    plain = np.cos(angle)
    at = np.clip((2 * lengths - low - high) / (high - low), -1.0, 1.0)
    degrees = np.arange(LENGTHS)[:, None]
    scale = np.where(degrees == 0, 1.0, 2.0) / LENGTHS
    basis = (scale * np.cos(degrees * angle)).T @ np.cos(degrees * np.arccos(at))
    return (low + high) / 2 + (high - low) / 2 * plain, np.asarray(basis)


def _few(lengths: Array, weights: Array) -> tuple[Array, Array]:
    nodes, basis = _interpolation(lengths)
    return nodes, np.asarray(basis @ weights)


def mean_field(net: Network, law: Gaussian) -> MeanField:
    """The simplified problem of a network with one hidden layer and one output."""
    if len(net.layers) != 2 or net.widths[-1] != 1:
        raise ValueError(f"{net!r}: the simplified problem is for one hidden layer and one output")
    whitening = Whitening.of(law, net.widths[0])
    f = ShallowNetwork.of(net, whitening)
    rows, a, size = f.units.row, f.outer[:, 0], np.sqrt(f.units.variance)
    safe = np.where(size > 0, size, 1.0)
    mean = f.mean(MEDIUM)
    square = inner(f, f, MEDIUM)[0] + float(mean @ mean)
    total, drift = float(a @ size), a @ rows
    shape = (rows * (a / safe)[:, None]).T @ rows
    against = []
    if f.activation.odd:
        against.append(
            f"the hidden layer is {f.activation}; for an odd activation its limit is zero"
        )
    if np.abs(f.units.mean).max(initial=0.0) > 1e-6 * size.max(initial=0.0):
        against.append("hidden biases (or a mean of the inputs) are not zero")
    if f.bias.any():
        against.append(
            "there is an output bias; with a free one the best student of a constant has no units at all"
        )
    if not against:
        tilt = drift / 2
        if str(f.activation) != "relu":
            tilt = (means(f.activation, f.units, (1,), MEDIUM)[0] * a) @ rows
        part = float(tilt @ tilt) / square if square else 0.0
        unsigned = float(np.abs(a) @ size)
        if abs(total) < 0.2 * unsigned:
            against.append(
                f"outgoing weights nearly cancel: their sum is {total:.2g}, without signs {unsigned:.2g}"
            )
        elif part > 0.1:
            against.append(
                f"the linear part holds {100 * part:.2g} % of the mean square; the best student is no simplex"
            )
    expected = float(len(a) * a.mean() * size.mean()) if len(a) else 0.0
    return MeanField(
        "estimated", net, total, expected, drift, shape, square, tuple(against), whitening
    )
