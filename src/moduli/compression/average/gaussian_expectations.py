"""Gaussian expectations E[s(X) t(Y)] of activations, with all their derivatives.

Most activations are a sum of a linear function and *smoothed ramps*

    ramp_d(x) = E (x + d xi)_+,    xi ~ N(0, 1),    and its first two derivatives:

ReLU is ramp_0; the normal distribution function of x/d is ramp_d'; x Phi(x/d) is ramp_d - d^2
ramp_d''. The logistic distribution is a normal one with random scale (Andrews & Mallows 1974), so
the sigmoid is an average of Phi(x/d) over d, softplus of ramp_d, SiLU of x Phi(x/d): here over a
Gauss rule in log d, whose error is bounded. All expectations then follow from one function of two
correlated normals, E X_+ Y_+, and its derivatives in the means; derivatives in variances and
covariances are again derivatives in the means (Price 1958: d/dc = d2/dm1 dm2, d/dv1 = 1/2
d2/dm1^2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from moduli.common.domains import Gaussian
from moduli.kernel.activations import Activation
from moduli.kernel.errors import ShapeError, UnsupportedModel

Array = np.ndarray[Any, np.dtype[np.float64]]
Order = tuple[int, int]
Law = tuple[Array, Array]  # means and variances of pre-activations
Factors = list[
    tuple[int, Any]
]  # an operator: orders of derivatives, and what each is multiplied with
BLOCK = 2**13  # entries of a table of pairs at a time
PANEL = 256  # units of the first layer at a time
DIFFERENCES = 2**20  # entries of rows that are subtracted at once
RATIONAL = 24  # rows of a covariance whose rank is counted in rationals
LEAST = 1e-200  # a variance that counts as none
# Nodes of the mixtures that stand for sigmoid-like activations.
COARSE = 5
MEDIUM = 12
FINE = 22
ERRORS = {  # sup over the real line, bounded in tests/compression/average/test_gaussian_expectations.py; for gelu_tanh measured
    ("sigmoid", COARSE): 1.1e-5,
    ("softplus", COARSE): 7e-6,
    ("silu", COARSE): 6e-5,
    ("sigmoid", MEDIUM): 1.2e-9,
    ("softplus", MEDIUM): 7e-10,
    ("silu", MEDIUM): 1.1e-8,
    ("sigmoid", FINE): 3e-14,
    ("softplus", FINE): 2e-14,
    ("silu", FINE): 3e-13,
    ("gelu_tanh", COARSE): 7e-7,
    ("gelu_tanh", MEDIUM): 1e-9,
    ("gelu_tanh", FINE): 1e-9,
}


@dataclass(frozen=True, eq=False)
class UnitLaw:
    """Units whose pre-activations are mean + row . z, z ~ N(0, I).

    Args:
        mean: ``[units]``. row: ``[units, k]``.
    """

    mean: Float64[np.ndarray[Any, Any], " units"]
    row: Float64[np.ndarray[Any, Any], "units k"]

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, at: Any) -> UnitLaw:
        return UnitLaw(self.mean[at], self.row[at])

    @cached_property
    def variance(self) -> Array:
        return np.asarray(np.einsum("ik,ik->i", self.row, self.row))


@dataclass(frozen=True, eq=False)
class Whitening:
    """Inputs as mean + root z with z ~ N(0, I_k); directions that do not vary are dropped.

    Args:
        mean: ``[in]``. root: ``[in, k]``, columns orthogonal. error, lost: the inputs are mean +
            root z + e + e', where e has a root mean square of at most `error` along any unit
            vector, and e', of mean 0 and independent of the rest, of at most `lost`.
    """

    mean: Float64[np.ndarray[Any, Any], " in"]
    root: Float64[np.ndarray[Any, Any], "in k"]
    error: float = 0.0
    lost: float = 0.0

    @staticmethod
    def of(law: Gaussian, n: int) -> Whitening:
        """The law on ``n`` inputs.

        Raises:
            ShapeError: another number of inputs, or no covariance.
        """
        try:
            mean = np.broadcast_to(law.mean, (n,)).astype(np.float64)
            cov = law.cov if law.cov.ndim == 2 else np.broadcast_to(law.cov, (n,))
        except ValueError:
            raise ShapeError(
                f"a Gaussian of shapes {law.mean.shape}, {law.cov.shape} for a network with {n} inputs"
            ) from None
        if cov.shape not in ((n,), (n, n)):
            raise ShapeError(f"cov has shape {cov.shape} for a network with {n} inputs")
        if cov.ndim == 2 and not np.allclose(
            cov, cov.T, rtol=1e-8, atol=1e-12 * float(np.abs(cov).max(initial=0.0))
        ):
            raise ShapeError("cov is not symmetric")
        if cov.ndim < 2:
            if (cov < 0).any():
                raise ShapeError(
                    f"cov has eigenvalue {cov.min():.3g}; a covariance has none below 0"
                )
            keep = cov > 0
            diagonal = np.sqrt(cov)
            return Whitening(
                mean, np.diag(diagonal)[:, keep], float(diagonal.max(initial=0.0)) * 2.0**-52
            )
        cov = (cov + cov.T) / 2
        vary = np.abs(cov).any(axis=1)  # what does not vary at all is left out exactly
        values, vectors = np.linalg.eigh(cov[np.ix_(vary, vary)])
        top = float(np.abs(values).max(initial=0.0))
        if (values < -1e-9 * top).any():
            raise ShapeError(
                f"cov has eigenvalue {values.min():.3g}; a covariance has none below 0"
            )
        keep = values > 1e-13 * n * top
        root = np.zeros((n, int(keep.sum())))
        root[vary] = vectors[:, keep] * np.sqrt(values[keep])
        return Whitening(mean, root, *_coupling(cov[np.ix_(vary, vary)], values, keep))

    def units(self, weight: Array, bias: Array) -> UnitLaw:
        """Of pre-activations weight @ x + bias."""
        return UnitLaw(weight @ self.mean + bias, weight @ self.root)

    def rounding(self, weight: Array, bias: Array) -> Array:
        """At least the root mean square of what rounding does to the pre-activations of `units`:
        ``[units]``.
        """
        size, few = np.abs(weight), (len(self.mean) + 4) * 2.0**-53
        spread = np.linalg.norm(size @ np.abs(self.root), axis=1)
        lengths = np.linalg.norm(weight, axis=1)
        return np.asarray(
            few * (size @ np.abs(self.mean) + np.abs(bias) + spread) + self.error * lengths
        )

    @cached_property
    def pseudoinverse(self) -> Array:
        return np.asarray((self.root / np.einsum("ik,ik->k", self.root, self.root)).T)

    @cached_property
    def center(self) -> Array:
        """The mean in whitened coordinates: inputs are root (z + center), but for what does not vary."""
        return np.asarray(self.pseudoinverse @ self.mean)

    def points(self, x: Array) -> Array:
        """z of inputs ``[rows, in]``."""
        return np.asarray((x - self.mean) @ self.pseudoinverse.T)

    def parameters(self, units: UnitLaw) -> tuple[Array, Array]:
        """weight, bias with these pre-activations; zero weight in the directions that do not vary."""
        weight = units.row @ self.pseudoinverse
        return weight, units.mean - weight @ self.mean


def _coupling(cov: Array, values: Array, keep: Any) -> tuple[float, float]:
    """How far mean + root z is from the law: rounding in the directions that are kept, and all of
    those that are not.

    Roots R, Q of covariances that differ by E can be turned so that |R - Q| <= |E| / (least
    singular value) in the directions of both; what is left out has at most the standard deviation
    sqrt(its eigenvalue + |E|), and none where the rank of the covariance is proved to be what is
    kept.
    """
    top = float(np.abs(values).max(initial=0.0))
    rounding = 8 * len(values) * 2.0**-53 * top
    kept = rounding / math.sqrt(float(values[keep].min())) if keep.any() else 0.0
    if keep.all() or _rank_at_most(cov, int(keep.sum())):
        return kept, 0.0
    return kept, math.sqrt(float(np.abs(values[~keep]).max()) + rounding)


def _rank_at_most(cov: Array, rank: int) -> bool:
    """Whether Gauss elimination in rationals ends after `rank` steps; small matrices only."""
    if len(cov) > RATIONAL:
        return False
    rest = [list(map(Fraction, row)) for row in cov.tolist()]
    for _ in range(rank):
        pivot = max(range(len(rest)), key=lambda k: rest[k][k])
        top = rest[pivot]
        if top[pivot] <= 0:
            return False
        for i, row in enumerate(rest):
            factor = row[pivot] / top[pivot]
            rest[i] = [x - factor * y for x, y in zip(row, top, strict=True)]
    return not any(any(row) for row in rest)


class Expansion(NamedTuple):
    """s(x) = slope x + sum_j weight_j * (ramp_d, or its operator applied to it), d = noise_j, up to
    `error` on the whole line.

    The operator is a sum of derivatives: (order, power of -noise^2). Where steps are `centred`,
    Phi(x/d) stands for Phi(x/d) - 1/2, so that small units of an odd activation keep all their
    digits.
    """

    slope: float
    operator: tuple[tuple[int, int], ...]
    weight: Array
    noise: Array
    error: float = 0.0
    centred: bool = False

    def factors(self, shape: tuple[int, ...]) -> Factors:
        """(order, factor) of the operator, one factor per term along the axis that `shape` names."""
        squares = (-self.noise * self.noise).reshape(shape)
        return [(order, squares if power else 1.0) for order, power in self.operator]


# Powers of z and derivatives of the step that an activation is made of.
RAMP = ((0, 0),)
STEP = ((1, 0),)
GATE = ((0, 0), (2, 1))


CLOSED = (
    "identity",
    "relu",
    "leaky_relu",
    "abs",
    "tanh",
    "sigmoid",
    "erf",
    "sin",
    "gelu",
    "gelu_tanh",
    "silu",
    "softplus",
)


def closed(s: Activation) -> bool:
    """Whether expectations of s have a closed form here."""
    return s.kind in CLOSED


def accuracy(s: Activation, nodes: int = FINE) -> tuple[int, float]:
    """How many terms an expectation of s sums, and the error of that sum on the whole line."""
    if s.kind == "sin":
        return 1, 0.0
    e = expansion(s, nodes)
    return max(1, len(e.weight)), e.error


def cancellation(s: Activation) -> float:
    """How much larger the parts of the activation's expansion are than their sum."""
    if s.kind == "sin":
        return 1.0
    e = expansion(s)
    parts = abs(e.slope) + float(np.abs(e.weight).sum())
    whole = float(s.lipschitz) if s.homogeneous else float(abs(e.weight.sum()))
    return max(1.0, parts / whole)


@cache
def expansion(s: Activation, nodes: int = FINE) -> Expansion:
    """The activation as smoothed ramps; `nodes` of the mixture where one is needed.

    Raises:
        UnsupportedModel: sin, which is none, and activations that are not `closed`.
    """
    one, none, zero = np.ones(1), np.zeros(0), np.zeros(1)
    if s.slope is not None:
        return Expansion(s.slope, RAMP, np.array([1 - s.slope]), zero)
    simple = {
        "identity": Expansion(1.0, RAMP, none, none),
        "relu": Expansion(0.0, RAMP, one, zero),
        "abs": Expansion(-1.0, RAMP, 2 * one, zero),
        "erf": Expansion(0.0, STEP, 2 * one, np.sqrt(one / 2), centred=True),
        "gelu": Expansion(0.0, GATE, one, one),
    }
    if s.kind in simple:
        return simple[s.kind]
    if s.kind == "gelu_tanh":
        return Expansion(0.0, GATE, *_steep(nodes > COARSE), ERRORS.get((s.kind, nodes), np.inf))
    if s.kind not in ("sigmoid", "tanh", "softplus", "silu"):
        beside = " beside another activation" if s.kind == "sin" else ""
        raise UnsupportedModel(f"{s}{beside} has no closed Gaussian expectation here; use Samples")
    weight, noise = logistic(nodes)
    error = ERRORS.get(("sigmoid" if s.kind == "tanh" else s.kind, nodes), np.inf)
    if s.kind == "tanh":
        return Expansion(0.0, STEP, 2 * weight, noise / 2, 2 * error, True)
    return Expansion(
        0.0, {"sigmoid": STEP, "softplus": RAMP, "silu": GATE}[s.kind], weight, noise, error
    )


@cache
def logistic(nodes: int) -> tuple[Array, Array]:
    """Weights p and scales d with sigmoid(x) close to sum_j p_j Phi(x / d_j): a Gauss rule in log
    d.

    The scale is twice a Kolmogorov variable. The weights are positive with sum 1, and the slope at
    0 is right to rounding.

    >>> p, d = logistic(22)
    >>> bool(abs((p / d).sum() - (2 * np.pi) ** 0.5 / 4) < 1e-14)
    True
    """
    from scipy.linalg import eigh_tridiagonal

    t = np.linspace(-2.0, 3.0, 1201)
    x, k = np.exp(t)[:, None] / 2, np.arange(1.0, 20.0)
    small, large = np.pi**2 * (2 * k - 1) ** 2 / 8, 2 * k**2
    low = np.sqrt(2 * np.pi) * (np.exp(-small / x**2) * (2 * small / x**4 - 1 / x**2)).sum(axis=1)
    high = 8 * ((-1) ** (k - 1) * k**2 * x * np.exp(-large * x**2)).sum(axis=1)
    density = np.where(x[:, 0] < 1, low, high) * x[:, 0]
    mass = np.sqrt(density / density.sum())
    basis, diagonal, off = [mass], [], []
    for _ in range(nodes):  # Lanczos with full orthogonalisation
        new = t * basis[-1]
        diagonal.append(float(new @ basis[-1]))
        for _ in range(2):
            for old in basis:
                new = new - (new @ old) * old
        off.append(float(np.linalg.norm(new)))
        basis.append(new / off[-1])
    at, vectors = eigh_tridiagonal(diagonal, off[:-1])
    return vectors[0] ** 2, np.exp(at)


@cache
def _steep(fine: bool) -> tuple[Array, Array]:
    """Weights (of both signs, sum 1) and scales for the gate of GELU's tanh form, by least squares."""
    from scipy.special import ndtr

    x, scales = (
        np.linspace(0.0, 9.0, 2001),
        np.geomspace(0.4, 1.7, 16) if fine else np.geomspace(0.6, 1.2, 6),
    )
    ramps = x[:, None] * (ndtr(x[:, None] / scales) - ndtr(x)[:, None])
    gap = Activation("gelu_tanh")(x) - x * ndtr(x)
    weights = np.linalg.lstsq(ramps, gap, rcond=1e-15)[0]
    return np.append(weights, 1 - weights.sum()), np.append(scales, 1.0)


class Gap(NamedTuple):
    """What is left of pre-activations X, Y that are nearly parallel, without cancellation; sign is
    that of their covariance c.

    Attributes:
        first: Var X - |c|. second: Var Y - |c|. square: Var(X - sign Y). sine: 1 - correlation^2.
    """

    first: Array
    second: Array
    square: Array
    sine: Array

    @staticmethod
    def of(one: UnitLaw, two: UnitLaw, c: Array) -> Gap:
        """Of all pairs; those of correlation above 0.9 from the differences of their rows."""
        v1, v2, size = one.variance[:, None], two.variance[None, :], np.abs(c)
        with np.errstate(divide="ignore", invalid="ignore"):
            r = np.where(size > 0, size / np.sqrt(v1) / np.sqrt(v2), 0.0)
        found = Gap(v1 - size, v2 - size, v1 + v2 - 2 * size, np.maximum((1 - r) * (1 + r), 0.0))
        left, right = np.nonzero(r > 0.9)
        step = max(1, DIFFERENCES // max(1, one.row.shape[1]))
        for top in range(0, len(left), step):
            i, j = left[top : top + step], right[top : top + step]
            x, y = one.row[i], np.where(c[i, j] < 0, -1.0, 1.0)[:, None] * two.row[j]
            apart = x - y
            across = apart - (np.einsum("ik,ik->i", apart, y) / two.variance[j])[:, None] * y
            found.first[i, j] = np.einsum("ik,ik->i", x, apart)
            found.second[i, j] = -np.einsum("ik,ik->i", y, apart)
            found.square[i, j] = np.einsum("ik,ik->i", apart, apart)
            found.sine[i, j] = np.minimum(
                1.0, np.einsum("ik,ik->i", across, across) / one.variance[i]
            )
        return found


class _Pair:
    """E ramp^(a)(X) ramp^(b)(Y) for arrays of pairs: means m1, m2, variances v1 + n1, v2 + n2,
    covariance c.
    """

    def __init__(
        self, m1: Array, m2: Array, v1: Array, v2: Array, n1: Any, n2: Any, c: Array, gap: Gap
    ) -> None:
        from scipy.special import ndtr

        n1, n2 = np.maximum(n1, LEAST - v1), np.maximum(n2, LEAST - v2)
        d1, d2 = v1 + n1, v2 + n2
        s1, s2 = np.sqrt(d1), np.sqrt(d2)
        self.m1, self.m2, self.d1, self.d2, self.c, self.n1, self.n2, self.gap = (
            m1,
            m2,
            d1,
            d2,
            c,
            n1,
            n2,
            gap,
        )
        self.v1, self.v2 = v1, v2
        r = np.clip(c / (s1 * s2), -1.0, 1.0)
        a1, a2, b1, b2 = v1 / d1, v2 / d2, n1 / d1, n2 / d2
        # 1 - r^2 as a sum of positive terms: steep units have r within rounding of 1
        square = np.clip(a1 * a2 * gap.sine + a1 * b2 + b1 * a2 + b1 * b2, 1e-60, 1.0)
        q = np.sqrt(square)
        if not m1.any() and not m2.any():
            self.covariance = np.arctan2(r, q) / (2 * np.pi)
            self.p, self.odd = 0.25 + self.covariance, self.covariance
            peak = 1 / (2 * np.pi * q)
            self.a, self.b = 0.5 / np.sqrt(2 * np.pi) / s1, 0.5 / np.sqrt(2 * np.pi) / s2
        else:
            h, k = np.clip(m1 / s1, -1e8, 1e8), np.clip(m2 / s2, -1e8, 1e8)
            sign = np.where(r < 0, -1.0, 1.0)
            short, apart = square / (1 + np.abs(r)), k - sign * h
            u, w = sign * (short * k - apart) / q, (apart + sign * short * h) / q
            ph, pk = ndtr(h), ndtr(k)
            self.covariance = _covariance(h, k, r, q, u, w, ph, pk)
            self.p = ph * pk + self.covariance
            self.odd = _half_erf(h) * _half_erf(k) + self.covariance
            tail = np.exp(-0.5 * h * h)
            self.a, self.b = (
                tail / np.sqrt(2 * np.pi) / s1 * ndtr(w),
                np.exp(-0.5 * k * k) / np.sqrt(2 * np.pi) / s2 * ndtr(u),
            )
            peak = tail * np.exp(-0.5 * w * w) / (2 * np.pi * q)
        self.peak = peak / (s1 * s2)  # the joint density at (0, 0)
        self.det = d1 * d2 * q * q
        self.memory: dict[tuple[str, int, int], Any] = {}

    def _pulled(self, first: bool) -> Any:
        """d2 m1 - c m2 for the first, d1 m2 - c m1 for the second: up to a factor the mean of one
        given that the other is 0.
        """
        own, other, d = (self.m1, self.m2, self.d2) if first else (self.m2, self.m1, self.d1)
        rest = self.gap.second + self.n2 if first else self.gap.first + self.n1
        sign = np.where(self.c < 0, -1.0, 1.0)
        return sign * other * rest + (own - sign * other) * d

    def __call__(self, a: int, b: int) -> Any:
        m1, m2, d1, d2, c = self.m1, self.m2, self.d1, self.d2, self.c
        if a >= 2 and b >= 2:
            return self._density(a - 2, b - 2)
        if a == 1 and b == 1:
            return self.p
        if a + b == 0:
            return (
                (c + m1 * m2) * self.p + m2 * d1 * self.a + m1 * d2 * self.b + self.det * self.peak
            )
        if (a, b) == (1, 0):
            return m2 * self.p + c * self.a + d2 * self.b
        if (a, b) == (0, 1):
            return m1 * self.p + c * self.b + d1 * self.a
        if b == 1:
            return self._edge(a - 2, first=True)
        if a == 1:
            return self._edge(b - 2, first=False)
        first = b == 0
        n, var = (a - 2, d1) if first else (b - 2, d2)
        mean = self._pulled(not first) / var
        at = (n, 0) if first else (0, n)
        lower = n * c / var * self._edge(n - 1, first) if n else 0.0
        return mean * self._edge(n, first) - lower + self.det / var * self._density(*at)

    def _edge(self, n: int, first: bool) -> Any:
        """d^n/dm1^n of E delta(X) 1(Y > 0), or the same with X and Y exchanged."""
        key = ("edge", n, int(first))
        if key not in self.memory:
            m, d = (self.m1, self.d1) if first else (self.m2, self.d2)
            if n == 0:
                return self.a if first else self.b
            at = (n - 1, 0) if first else (0, n - 1)
            value = m * self._edge(n - 1, first) + self.c * self._density(*at)
            self.memory[key] = -(value + (n - 1) * self._edge(n - 2, first) if n > 1 else value) / d
        return self.memory[key]

    def _density(self, a: int, b: int) -> Any:
        """d^a/dm1^a d^b/dm2^b of the joint density at (0, 0)."""
        if a + b == 0:
            return self.peak
        key = ("density", a, b)
        if key not in self.memory:
            swap = a == 0
            i, j = (b - 1, a) if swap else (a - 1, b)
            own = self.d1 if swap else self.d2
            value = self._pulled(not swap) * self._ordered(i, j, swap)
            if i:
                value = value + i * own * self._ordered(i - 1, j, swap)
            if j:
                value = value - j * self.c * self._ordered(i, j - 1, swap)
            self.memory[key] = -value / self.det
        return self.memory[key]

    def _ordered(self, a: int, b: int, swap: bool) -> Any:
        return self._density(b, a) if swap else self._density(a, b)


def _half_erf(h: Array) -> Array:
    from scipy.special import erf

    return np.asarray(0.5 * erf(h / np.sqrt(2)))


NODES, WEIGHTS = np.polynomial.legendre.leggauss(7)


def _covariance(
    h: Array, k: Array, r: Array, q: Array, u: Array, w: Array, ph: Array, pk: Array
) -> Array:
    """P(X > 0, Y > 0) - P(X > 0) P(Y > 0): by Plackett's integral (1954) for small r, by Owen's T
    (1956) else.
    """
    found, near = np.empty(r.shape), np.abs(r) < 0.3
    h, k, ph, pk = (np.broadcast_to(x, r.shape) for x in (h, k, ph, pk))
    if near.any():
        x, y, angle = h[near], k[near], np.arcsin(r[near]) / 2
        total = np.zeros(x.shape)
        product, squares = x * y, (x * x + y * y) / 2
        for node, weight in zip(NODES, WEIGHTS, strict=True):
            t = np.sin(angle * (node + 1))
            total += weight * np.exp((t * product - squares) / (1 - t * t))
        found[near] = total * angle / (2 * np.pi)
    far = ~near
    if far.any():
        at = tuple(x[far] for x in (h, k, r, q, u, w, ph, pk))
        found[far] = _both_positive(*at) - at[-2] * at[-1]
    return found


def _both_positive(
    h: Array, k: Array, r: Array, q: Array, u: Array, w: Array, ph: Array, pk: Array
) -> Array:
    from scipy.special import owens_t

    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = w / h, u / k
    one = owens_t(h, np.where(h == 0, np.copysign(np.inf, w), a))
    two = owens_t(k, np.where(k == 0, np.copysign(np.inf, u), b))
    opposite = (h * k < 0) | ((h * k == 0) & (h + k < 0))
    p = 0.5 * (ph + pk) - one - two - 0.5 * opposite
    both = (h == 0) & (k == 0)
    p = np.where(both, 0.25 + np.arctan2(r, q) / (2 * np.pi), p)
    return np.clip(p, 0.0, np.minimum(ph, pk))


class _Single:
    """E ramp^(a)(X): mean m, inflated variance d; steps are centred on demand."""

    def __init__(self, m: Array, d: Array, centred: bool) -> None:
        from scipy.special import ndtr

        self.m, self.d, root = m, d, np.sqrt(d)
        h = np.clip(m / root, -1e8, 1e8)
        self.p, self.density = (
            _half_erf(h) if centred else ndtr(h),
            np.exp(-0.5 * h * h) / np.sqrt(2 * np.pi) / root,
        )

    def __call__(self, a: int) -> Array:
        if a == 0:
            return np.asarray(self.m * self.p + self.d * self.density)
        if a == 1:
            return np.asarray(self.p)
        if a == 2:
            return np.asarray(self.density)
        lower = (a - 3) * self(a - 2) if a > 3 else 0.0
        return np.asarray(-(self.m * self(a - 1) + lower) / self.d)


def means(
    s: Activation, units: UnitLaw, orders: Sequence[int] = (0,), nodes: int = FINE
) -> list[Array]:
    """E s^(a)(X) of every unit, for each order a: arrays ``[units]``.

    >>> import numpy as np
    >>> one = UnitLaw(np.array([0.0]), np.array([[2.0]]))
    >>> bool(abs(means(Activation("relu"), one)[0][0] - 2 / (2 * np.pi) ** 0.5) < 1e-15)
    True
    """
    m, v = units.mean, units.variance
    if s.kind == "sin":
        return [np.exp(-v / 2) * np.sin(m + a * np.pi / 2) for a in orders]
    e = expansion(s, nodes)
    terms = _term_means(e, (m, v), max(orders))
    linear: dict[int, Any] = {
        0: e.slope * m,
        1: e.slope,
    }  # E of slope x and of its derivative; the others vanish
    return [terms[a] + linear.get(a, 0.0) for a in orders]


def _term_means(e: Expansion, law: Law, top: int) -> list[Array]:
    """E of the derivatives of order 0 .. top of the terms alone."""
    single = _Single(law[0], _variance(law[1], e.noise[:, None]), e.centred)
    operator = e.factors((-1, 1))
    found = []
    for a in range(top + 1):
        terms = sum(factor * single(a + k) for k, factor in operator)
        found.append(np.asarray(e.weight @ terms))
    return found


def _variance(v: Array, noise: Array) -> Array:
    return np.maximum(v + noise * noise, LEAST)


def gram(
    s: Activation, one: UnitLaw, t: Activation | None = None, two: UnitLaw | None = None, orders: Sequence[Order] = ((0, 0),),
    nodes: int = FINE,
) -> list[Array]:  # fmt: skip
    """E s^(a)(X_i) t^(b)(Y_j) for each order (a, b): arrays ``[units of one, units of two]``.

    Order (1, 0) is the derivative in the mean of X_i, (1, 1) in the covariance, (2, 0) twice that
    in the variance of X_i. Exact up to rounding, or up to the error of `expansion` where there is
    one. Singular laws are fine.

    >>> import numpy as np
    >>> units = UnitLaw(np.zeros(2), np.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> K, = gram(Activation("relu"), units)
    >>> bool(np.allclose(K, [[0.5, 1 / (2 * np.pi)], [1 / (2 * np.pi), 0.5]], atol=1e-15))
    True
    """
    t, two = s if t is None else t, one if two is None else two  # units may be none at all
    found = [np.empty((len(one), len(two))) for _ in orders]
    work: Work = _waves
    size = BLOCK
    if (s.kind, t.kind) != ("sin", "sin"):
        e, f = expansion(s, nodes), expansion(t, nodes)
        work = _ramps(e, f)
        size = max(1, BLOCK // max(1, len(e.weight) * len(f.weight)))
    wide = min(len(two), max(64, size // max(1, min(len(one), 64)))) or 1
    high = max(1, size // wide)
    for panel in range(0, len(one), PANEL):
        c = one.row[panel : panel + PANEL] @ two.row.T
        for top in range(panel, min(panel + PANEL, len(one)), high):
            for left in range(0, len(two), wide):
                i, j = slice(top, min(top + high, panel + PANEL)), slice(left, left + wide)
                laws = (one.mean[i], one.variance[i]), (two.mean[j], two.variance[j])
                part = c[top - panel : i.stop - panel, j]
                parts = work(*laws, part, Gap.of(one[i], two[j], part), orders)
                for whole, piece in zip(found, parts, strict=True):
                    whole[i, j] = piece
    return found


Work = Callable[[Law, Law, Array, Gap, Sequence[Order]], list[Array]]


def _ramps(e: Expansion, f: Expansion) -> Work:
    """The work for two sums of ramps. Axes are in this order: terms of e, terms of f, units of one,
    units of two.
    """
    weight = np.outer(e.weight, f.weight)
    left, right = e.factors((-1, 1, 1, 1)), f.factors((-1, 1, 1))
    noise1, noise2 = e.noise[:, None, None, None], f.noise[:, None, None]
    return partial(_ramp_block, e, f, weight, left, right, noise1 * noise1, noise2 * noise2)


def _ramp_block(
    e: Expansion, f: Expansion, weight: Array, left: Factors, right: Factors, noise1: Array, noise2: Array,
    one: Law, two: Law, c: Array, gap: Gap, orders: Sequence[Order],
) -> list[Array]:  # fmt: skip
    """E s^(a)(X_i) t^(b)(Y_j) ``[I, J]`` for each order (a, b), of s with S terms and t with T
    terms.

    Args:
        weight: ``[S, T]``. left, right: the operators, factors ``[S, 1, 1, 1]`` and ``[T, 1, 1]``.
        noise1, noise2: squares, in the same shapes. one, two: laws of X ``[I]`` and Y ``[J]``. c:
            covariances ``[I, J]``.

    What a pair of terms contributes, before its weight:

        order    terms of s, t             E
        (0, 0)   x Phi(x/d) both           `_gates`: the four products of the operators cancel
        (0, 0)   Phi(x/d) - 1/2 both       `_Pair.odd`, for the same reason
        else     any                       `_by_operators`: a sum over both operators
    """
    (m1, v1), (m2, v2) = (x[:, None] for x in one), (x[None, :] for x in two)
    found = [np.zeros(c.shape) for _ in orders]
    if e.slope or f.slope:
        _affine(e, f, one, two, c, orders, found)
    pair = _Pair(m1, m2, v1, v2, noise1, noise2, c, gap)  # of everything [S, T, I, J], broadcast
    both_gates = len(left) == len(right) == len(GATE)  # no other operator has two parts
    both_centred = e.centred and f.centred
    for whole, (a, b) in zip(found, orders, strict=True):
        itself = a == b == 0
        if itself and both_gates:
            value = _gates(pair)
        elif itself and both_centred:
            value = pair.odd
        else:
            value = _by_operators(e, f, left, right, pair, a, b)
        value = np.broadcast_to(value, (*weight.shape, *c.shape))
        whole += value[0, 0] * weight[0, 0] if weight.size == 1 else np.tensordot(weight, value)
    return found


def _by_operators(
    e: Expansion, f: Expansion, left: Factors, right: Factors, pair: _Pair, a: int, b: int
) -> Any:
    """E of derivative a of the terms of s and derivative b of those of t, ``[S, T, I, J]`` or what
    broadcasts to it.
    """
    value: Any = 0
    for k, x in left:
        for l, y in right:
            value = value + x * y * pair(a + k, b + l)
    # `pair` knows S = Phi, centred terms are S - 1/2: E (S - 1/2)(T - 1/2) = E S T - E (T - 1/2) /
    # 2 - E S / 2. Derivatives do not see the constant.
    if e.centred and a == 0:
        alone = _Single(pair.m2, pair.d2, f.centred)
        value = value - 0.5 * sum(y * alone(b + l) for l, y in right)
    if f.centred and b == 0:
        alone = _Single(pair.m1, pair.d1, False)
        value = value - 0.5 * sum(x * alone(a + k) for k, x in left)
    return value


def _gates(pair: _Pair) -> Any:
    """E X Y 1(X + noise > 0) 1(Y + noise > 0), in a form in which neither small nor steep units
    cancel.
    """
    m1, m2, d1, d2, c, v1, v2 = pair.m1, pair.m2, pair.d1, pair.d2, pair.c, pair.v1, pair.v2
    n1, n2 = pair.n1 / d1, pair.n2 / d2
    edges = (v1 * m2 + m1 * c * n1) * pair.a + (v2 * m1 + m2 * c * n2) * pair.b
    return (
        (m1 * m2 + c) * pair.p + edges + (v1 * v2 * pair.gap.sine + c * c * (n1 + n2)) * pair.peak
    )


def _affine(
    e: Expansion,
    f: Expansion,
    one: Law,
    two: Law,
    c: Array,
    orders: Sequence[Order],
    found: list[Array],
) -> None:
    """Add what the linear parts contribute: E of (slope x)^(a) t^(b) and of (terms of s)^(a) (slope
    y)^(b).
    """
    top = max(max(o) for o in orders) + 1
    left = [x[:, None] for x in _term_means(e, one, top)]
    right = [x[None, :] for x in _term_means(f, two, top)]
    m1, m2 = one[0][:, None], two[0][None, :]
    both: dict[Order, Any] = {(0, 0): m1 * m2 + c, (0, 1): m1, (1, 0): m2, (1, 1): 1.0}
    for whole, (a, b) in zip(found, orders, strict=True):
        whole += e.slope * f.slope * both.get((a, b), 0.0)
        whole += e.slope * _times(m1, c, a, right, b) + f.slope * _times(m2, c, b, left, a)


def _times(m: Array, c: Array, a: int, other: list[Array], b: int) -> Any:
    """E of x^(a) and a function whose means of derivatives are `other`."""
    if a == 0:
        return m * other[b] + c * other[b + 1]
    return other[b] if a == 1 else 0.0


def _waves(one: Law, two: Law, c: Array, gap: Gap, orders: Sequence[Order]) -> list[Array]:
    """E sin^(a)(X) sin^(b)(Y): half of E cos(X - Y) - E cos(X + Y), for small covariances in a form
    that does not cancel.
    """
    (m1, v1), (m2, v2) = (x[:, None] for x in one), (x[None, :] for x in two)
    alike, other = gap.square, v1 + v2 + 2 * np.abs(c)
    near = np.exp(-0.5 * np.where(c < 0, other, alike))
    far = np.exp(-0.5 * np.where(c < 0, alike, other))
    small = np.abs(c) < 0.5
    growth = np.expm1(np.where(small, 2 * c, 0.0))
    found = []
    for a, b in orders:
        x, y = m1 + a * np.pi / 2, m2 + b * np.pi / 2
        direct = 0.5 * (
            near * np.cos(m1 - m2 + (a - b) * np.pi / 2)
            - far * np.cos(m1 + m2 + (a + b) * np.pi / 2)
        )
        found.append(
            np.where(small, far * (0.5 * growth * np.cos(x - y) + np.sin(x) * np.sin(y)), direct)
        )
    return found


def pulled(
    s: Activation, one: UnitLaw, two: UnitLaw, weight: Array, nodes: int = FINE
) -> tuple[Array, Array]:
    """The gradient of sum_ij weight_ij E s(X_i) s(Y_j) in the means and rows of `one`: ``[units]``,
    ``[units, k]``.
    """
    first, second, cross = gram(s, one, s, two, ((1, 0), (2, 0), (1, 1)), nodes)
    row = (weight * cross) @ two.row + (weight * second).sum(axis=1)[:, None] * one.row
    return (weight * first).sum(axis=1), row
