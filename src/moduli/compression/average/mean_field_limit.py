"""The simplified problem of wide random ReLU networks, and its frames (Amani, Bombari, Mondelli,
Pukdee & Rini 2022).

f(x) = sum_i a_i relu(w_i . x), x ~ N(0, I_d). Expand the product of f with a unit relu(u . x) in
the angle between u and w_i:

    E f(x) relu(u . x) = sum_i a_i |w_i| |u| k(rho_i),   k(rho) = 1/(2 pi) + rho/4 + rho^2/(4 pi) + ...

In a wide target with isotropic weights only the mean over directions survives, and the best student
forgets the target: it approximates a constant (S0), or a multiple of |x| (S-iso), or that and the
linear part (S1). For M <= d + 1 units the optimum among non-negative outgoing weights is the
simplex: k is convex and increasing, so it lies above its tangent at -1/(M - 1), and every term of
the remaining quadratic form is minimal exactly there. Signed weights: no better value was found in
thousands of searches; that is evidence, not proof.

Only the paper's abstract and the formulas above were at hand; none of the paper's own constants are
used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float64

from moduli.common.domains import Gaussian
from moduli.common.result import Result
from moduli.kernel.network import Network

from .closed_form import ShallowNetwork, inner, student
from .fit import simplex
from .gaussian_expectations import MEDIUM, UnitLaw, Whitening

Array = np.ndarray[Any, np.dtype[np.float64]]
Level = Literal["S0", "S-iso", "S1"]


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


@dataclass(frozen=True, eq=False, repr=False)
class MeanField(Result):
    """What the simplified problem says of a network, and whether it may.

    Attributes:
        total: sum_i a_i |w_i|. expected: hidden units * mean a * mean |w|. drift: sum_i a_i w_i
            (its quarter is the linear part). shape: sum_i a_i w_i w_i^T / |w_i|, which turns the
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
    def share(self) -> float:
        """The part of E f^2 that the isotropic term holds."""
        return self.total**2 * isotropic(self.inputs) / self.square if self.square else 0.0

    @property
    def rates(self) -> dict[str, float]:
        """How far each simplification is off, relative to the isotropic term: 1/(2d), about N^-1/2,
        about (dN)^-1/2.
        """
        d, n = self.inputs, max(1, self.network.units)
        return {"S0": 1 / (2 * d) + n**-0.5, "S-iso": n**-0.5, "S1": (d * n) ** -0.5}

    def cross(self, rows: Array, level: Level = "S1") -> Array:
        """E f(x) relu(u . x) for rows u ``[M, k]`` (whitened inputs), simplified."""
        size = np.linalg.norm(rows, axis=1)
        if level == "S0":
            return np.asarray(self.expected * size / (2 * np.pi))
        if level == "S-iso":
            return np.asarray(self.expected * isotropic(self.inputs) * size)
        return np.asarray(self.total * isotropic(self.inputs) * size + rows @ self.drift / 4)

    def frame(self, units: int) -> Array:
        """The simplex along the main directions of `shape`: rows ``[units, k]``, units <= k + 1."""
        return np.asarray(etf(units, self.inputs) @ np.linalg.eigh(self.shape)[1][:, ::-1].T)

    def loss(self, units: int, level: Level = "S-iso") -> float:
        """Predicted E |f - student|^2 / E f^2 of the simplex `frame` with its best outgoing
        weights: no biases, units <= k + 1.

        With B = `cross` and K the kernel of the frame: 1 - B^T K^-1 B / E f^2. Where the cross term
        is the same for all directions that is 1 - B^2 S / E f^2 (see `strength`); in S1 the part of
        `drift` along the frame counts as well.
        """
        rows = self.frame(units)
        if not self.square:
            return 0.0  # the zero function: nothing is lost
        cross = self.cross(rows, level)
        explained = float(cross @ np.linalg.solve(angular(rows @ rows.T), cross))
        return 1 - explained / self.square

    def student(self, units: int) -> Network:
        """The simplex `frame` with equal outgoing weights."""
        rows = self.frame(units)
        outer = np.full(
            (units, 1), self.expected * isotropic(self.inputs) * strength(units) / units
        )
        readout = ShallowNetwork(
            self.network.activations[0], UnitLaw(np.zeros(units), rows), outer, np.zeros(1)
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
    if str(f.activation) != "relu":
        odd = "; for an odd activation its limit is zero" if f.activation.odd else ""
        against.append(f"the hidden layer is {f.activation}, not relu{odd}")
    if np.abs(f.units.mean).max(initial=0.0) > 1e-6 * size.max(initial=0.0):
        against.append("hidden biases (or a mean of the inputs) are not zero")
    if f.bias.any():
        against.append(
            "there is an output bias; with a free one the best student of a constant has no units at all"
        )
    if not against:
        part = float(drift @ drift) / 4 / square if square else 0.0
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
