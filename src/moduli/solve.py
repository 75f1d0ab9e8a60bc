"""The questions: `compress`, `rank`, `canonical`, `equivalent`, `distance`, `check`. Here it is chosen who answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from . import distillation, lossless, meanfield, paths, population, proximate, symmetry
from .activations import Activation
from .certificate import MAX_BYTES, Certificate, State, difference, magnitude
from .distillation import ErrorCurve, Narrowed
from .domains import Box, Domain, Gaussian, Samples
from .enclosure import Interval, enclose_value, evaluate
from .errors import CertificateRejected, ShapeError, Undecided
from .formats import load
from .lossless import Compression, Progress, Rank
from .meanfield import MeanField
from .network import Network
from .paths import Path as ParameterPath
from .proximate import RankCurve
from .result import Result

Array = np.ndarray[Any, np.dtype[np.float64]]
DRAWS, PIECE = 100_000, 10_000


def compress(
    net: Any,
    *,
    on: Domain = None,
    eps: float = 0.0,
    radius: float = 0.0,
    units: int | Sequence[int] | None = None,
    budget: int = 10_000,
    seed: int | np.random.Generator = 0,
    executor: Executor | None = None,
    skip: bool = False,
    progress: Progress | None = None,
) -> Compression | Narrowed:
    """A network with fewer hidden units: the same function on all inputs with its proof, or close on average.

    On all inputs (`on=None`). One hidden tanh, sigmoid or erf layer: the fewest units possible (Sussmann 1992). Otherwise
    sound, and optimal only where `Compression.optimal` says so. Units with zero weights, duplicates, sign twins, positive
    multiples and cancelling groups go, layer by layer until nothing changes. With `radius`, every parameter may move by it.

    On average (`on=Gaussian(...)` or `Samples(...)`): the best student found with `units` hidden units, or the smallest found
    with root mean square error at most `eps`; an estimate, see `Narrowed`. With `skip`, beside a free linear map.

    Raises:
        UnsupportedModel: the model cannot be read. ValueError: a goal that makes no sense there.

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0], [-1.0], [0.0]], [0.5, -0.5, 2.0], [[1.0, 3.0, 1.0]], [0.0])
    >>> small = mo.compress(net)
    >>> small.network.units, small.optimal, small.check()
    (1, True, True)
    >>> mo.compress(net, units=1, on=mo.Gaussian()).error.relative < 1e-6
    True
    """
    if isinstance(on, (Gaussian, Samples)) and not radius:
        return distillation.narrow(
            load(net), on, units=units, eps=eps, skip=skip, seed=seed, executor=executor, progress=progress
        )
    _only_lossless(on, eps, units)
    if radius:
        return proximate.compress(load(net), radius, budget, executor, progress)
    return lossless.compress(load(net), progress)


def rank(
    net: Any,
    *,
    on: Domain = None,
    radius: float = 0.0,
    budget: int = 10_000,
    seed: int | np.random.Generator = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Rank:
    """The least number of hidden units with this function on all inputs.

    Exact for one hidden layer where minimality is a theorem; otherwise proved bounds.

    >>> import moduli as mo
    >>> int(mo.rank(mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, -1.0]], [0.0])))
    0
    """
    _only_lossless(on, 0.0, None)
    if radius:
        return proximate.rank(load(net), radius, budget, executor, progress)
    return lossless.rank(load(net), progress)


def rank_curve(
    nets: Any,
    *,
    radii: Sequence[float] | None = None,
    budget: int = 10_000,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> RankCurve:
    """Proximate rank against radius: bounds (often equal) and the paper's greedy bound, of one network or a list of them.

    Args:
        nets: one network with one hidden layer of tanh, sigmoid or erf, or a list of such networks.
        radii: by default 25 from 0 to where every unit can vanish. executor: takes one radius of one network at a time.

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0], [1.5]], [0.0, 0.0], [[2.0, 2.0]], [0.0])
    >>> mo.rank_curve(net, radii=[0.0, 0.25, 2.0]).upper.tolist()
    [2.0, 1.0, 0.0]
    """
    several = isinstance(nets, (list, tuple)) and not _is_layers(nets)
    return proximate.curve([load(net) for net in nets] if several else [load(nets)], radii, budget, executor, progress)


def error_curve(
    net: Any,
    *,
    on: Gaussian | Samples,
    units: Sequence[int] | None = None,
    seed: int | np.random.Generator = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> ErrorCurve:
    """Mean square error against hidden units: students, beside largest units and centres of units, and a linear map.

    Args:
        units: sizes; by default halves of halves. executor: takes one size at a time.

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0], [2.0], [0.5]], [0.0, 1.0, -1.0], [[1.0, 2.0, -1.0]], [0.0], activation="erf")
    >>> curve = mo.error_curve(net, on=mo.Gaussian(), units=[1, 2])
    >>> curve.students[1].relative < curve.students[0].relative < curve.linear.relative
    True
    """
    return distillation.error_curve(load(net), on, units, seed, executor, progress)


def mean_field(net: Any, *, on: Gaussian | None = None) -> MeanField:
    """The simplified problem of wide random ReLU networks for this one: whether it applies, what it predicts, its frame.

    Args:
        on: by default the standard normal law.

    >>> import moduli as mo, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> rows, outer = rng.standard_normal((500, 20)), rng.uniform(0.5, 1.5, (1, 500))
    >>> field = mo.mean_field(mo.Network.mlp(rows, np.zeros(500), outer, [0.0], activation="relu"))
    >>> field.applies, 0 < field.loss(8) < field.loss(2) < 0.4
    (True, True)
    """
    return meanfield.mean_field(load(net), on or Gaussian())


def _is_layers(nets: Sequence[Any]) -> bool:
    """Whether a list is one network: (weight, bias) pairs."""
    return bool(nets) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in nets)


def _only_lossless(on: Domain, eps: float, units: Any) -> None:
    for name, given, default in (("on", on, None), ("eps", eps, 0.0), ("units", units, None)):
        if given is not default and given != default:
            shown = type(given).__name__ if name == "on" else repr(given)
            raise ValueError(
                f"{name}={shown} is not answered here: units and eps go with on=Gaussian(...) or Samples(...), "
                "radius and lossless compression with all inputs (on=None)"
            )


def canonical(net: Any, *, progress: Progress | None = None) -> Network:
    """The normal form of a network: reduced, signs and scales fixed, units sorted; rounded once to float64.

    Symmetric copies (permuted, with signs flipped or scaled exactly) have the same form, bit for bit.

    >>> import moduli as mo
    >>> a = mo.Network.mlp([[1.0], [-2.0]], [0.0, 1.0], [[1.0, 3.0]], [0.0])
    >>> b = mo.Network.mlp([[2.0], [1.0]], [-1.0, 0.0], [[-3.0, 1.0]], [0.0])
    >>> mo.canonical(a) == mo.canonical(b)
    True
    """
    return symmetry.canonical(load(net), progress)


def path(a: Any, b: Any, *, progress: Progress | None = None) -> ParameterPath | None:
    """A piecewise linear path from a to b along which the function does not change; None where there is none.

    For one hidden layer. At most seven segments if the rank is at most half the hidden units (Farrugia-Roberts 2023).
    Irreducible parameters are isolated, up to permutation and signs: then None, unless a and b are the same.

    Raises:
        ShapeError: shapes that cannot be joined. ValueError: different functions. Undecided: not seen to be the same.

    >>> import moduli as mo
    >>> a = mo.Network.mlp([[1.0], [2.0]], [0.0, 0.0], [[1.0, 0.0]], [0.0])
    >>> b = mo.Network.mlp([[2.0], [-1.0]], [0.0, 0.0], [[0.0, -1.0]], [0.0])
    >>> p = mo.path(a, b)
    >>> p.segments, p.check()
    (3, True)
    """
    return paths.path(*_pair(a, b), progress=progress)


class Witness(NamedTuple):
    """An input where two networks differ, and enclosures of both outputs (points where all values are rational)."""

    input: tuple[Fraction, ...]
    a: tuple[Interval, ...]
    b: tuple[Interval, ...]

    @property
    def gap(self) -> Fraction:
        """A lower bound of |a - b|_inf at the input."""
        return max((_gap(p, q) for p, q in zip(self.a, self.b, strict=True)), default=Fraction(0))


def _gap(p: Interval, q: Interval) -> Fraction:
    return max(p[0] - q[1], q[0] - p[1], Fraction(0))


@dataclass(frozen=True, eq=False, repr=False)
class Equivalence(Result):
    """Whether two networks are one function.

    Attributes:
        status: proved, refuted or undecided. witness: where they differ. reason: one line.
    """

    a: Network
    b: Network
    eps: float = 0.0
    proof: Certificate | None = None
    witness: Witness | None = None
    reason: str = ""
    kind: ClassVar[str] = "equal"

    @property
    def certificate(self) -> Certificate | None:
        return self.proof

    def __bool__(self) -> bool:
        if self.status == "undecided":
            raise Undecided(f"{self.statement}: {self.reason}")
        return self.status == "proved"

    def check(self) -> bool:
        if self.proof is not None:
            self.proof.verify(self.b, self.a)
            return True
        if self.witness is not None:
            x = self.witness.input
            return _separates(evaluate(self.a, x), evaluate(self.b, x), self.a.output_map, self.eps)
        return super().check()

    @property
    def statement(self) -> str:
        far = f" within {self.eps:g}" if self.eps else ""
        return {
            "proved": f"the same function{far}", "refuted": f"not the same function{far}",
            "undecided": f"neither proved nor refuted the same function{far}",
        }[self.status]  # fmt: skip

    def rows(self) -> list[tuple[str, str]]:
        rows = [("a", repr(self.a)), ("b", repr(self.b)), ("answer", f"{self.glyph} {self.status}"), ("because", self.reason)]
        if self.witness is not None:
            rows += [
                ("differ at", _short([float(q) for q in self.witness.input])),
                ("by at least", f"{float(self.witness.gap):.3g}"),
            ]
        return rows

    def data(self) -> dict[str, Any]:
        witness = None
        if self.witness is not None:
            ends = [[[str(end) for end in ends] for ends in side] for side in (self.witness.a, self.witness.b)]
            witness = {"input": [str(q) for q in self.witness.input], "a": ends[0], "b": ends[1]}
        return {"a": self.a.digest, "b": self.b.digest, "eps": self.eps, "witness": witness, "reason": self.reason}


def _short(values: list[float]) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values[:6]) + (", ..." if len(values) > 6 else "") + ")"


def equivalent(
    a: Any,
    b: Any,
    *,
    on: Domain = None,
    eps: float = 0.0,
    budget: int = 10_000,
    seed: int | np.random.Generator = 0,
    progress: Progress | None = None,
) -> Equivalence:
    """Whether two networks compute the same function (within `eps`), on all inputs or on a box.

    In order: normal forms (a proof), a certified bound on the difference of matched units, a search for an input where they
    differ, re-evaluated in exact arithmetic. Neither may succeed: then `undecided`. `budget` counts the inputs tried.

    >>> import moduli as mo
    >>> a = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0])
    >>> mo.equivalent(a, mo.Network.mlp([[-1.0]], [0.0], [[-1.0]], [0.0])).status
    'proved'
    >>> mo.equivalent(a, mo.Network.mlp([[1.0]], [0.0], [[1.5]], [0.0])).status
    'refuted'
    """
    if isinstance(on, (Gaussian, Samples)):
        raise ValueError(
            f"on={type(on).__name__}: equality is asked on all inputs (None) or on a Box; for averages use distance"
        )
    if not (eps >= 0 and math.isfinite(eps)):
        raise ValueError(f"eps={eps!r}: a finite non-negative number is needed")
    a, b = _pair(a, b)
    if a.output_map != b.output_map:
        raise ShapeError(f"output maps {a.output_map} and {b.output_map} differ; compare networks with the same one")
    for binary in (True, False):
        proof, why = _matched(a, b, on, eps, binary, progress)
        if proof is not None:
            return Equivalence("proved", a, b, eps, proof, None, why)
        if all(not act.homogeneous for act in a.activations):
            break
    witness = _witness(a, b, on, eps, budget, seed)
    if witness is not None:
        return Equivalence("refuted", a, b, eps, None, witness, "an input was found where exact values differ")
    return Equivalence("undecided", a, b, eps, None, None, f"{why}, and no difference was found at {budget} inputs")


def _pair(a: Any, b: Any) -> tuple[Network, Network]:
    a, b = load(a), load(b)
    if (a.widths[0], a.widths[-1]) != (b.widths[0], b.widths[-1]):
        raise ShapeError(f"{a.widths[0]} inputs, {a.widths[-1]} outputs against {b.widths[0]} and {b.widths[-1]}")
    return a, b


def _matched(
    a: Network, b: Network, on: Domain, eps: float, binary: bool, progress: Progress | None
) -> tuple[Certificate | None, str]:
    """A certificate that a and b agree within eps, by normal forms; or why there is none."""
    left, left_moves = symmetry.normal_form(a, binary=binary, progress=progress)
    right, right_moves = symmetry.normal_form(b, binary=binary, progress=progress)
    if not _comparable(left, right):
        return None, f"reduced widths {left.widths} and {right.widths} differ"
    slack = difference(left.arrays(), right.arrays(), a.activations)
    proof = Certificate(a.digest, b.digest, left_moves, right_moves, slack)
    if slack.everywhere == 0:
        return proof, "equal normal forms"
    within = slack.everywhere
    if isinstance(on, Box):
        within = min(within, difference(left.arrays(), right.arrays(), a.activations, radius=_radius(on)).constant)
    if within <= eps:
        return proof, f"units matched by normal forms; certified difference at most {within:.3g}"
    return None, "normal forms differ"


def _comparable(left: State, right: State) -> bool:
    return left.widths == right.widths and left.net.activations == right.net.activations


def _radius(box: Box) -> float:
    return float(max(np.abs(box.low).max(), np.abs(box.high).max()))


def _separates(p: Sequence[Interval], q: Sequence[Interval], output_map: str, eps: float) -> bool:
    """Whether enclosed outputs prove a difference above eps (for eps = 0, one that survives the output map)."""
    if eps > 0:
        return any(_gap(x, y) > Fraction(eps) for x, y in zip(p, q, strict=True))
    if output_map == "softmax":  # shifts of all outputs are invisible
        d = [(x[0] - y[1], x[1] - y[0]) for x, y in zip(p, q, strict=True)]
        return any(_gap(x, y) > 0 for x in d for y in d)
    act = Activation.of(output_map)
    if act.injective:
        return any(_gap(x, y) > 0 for x, y in zip(p, q, strict=True))
    return any(_gap(enclose_value(act, x), enclose_value(act, y)) > 0 for x, y in zip(p, q, strict=True))


def _witness(a: Network, b: Network, on: Domain, eps: float, budget: int, seed: Any) -> Witness | None:
    x = _candidates(a, b, on, budget, np.random.default_rng(seed))
    with np.errstate(all="ignore"):
        gap = np.abs(a.logits(x) - b.logits(x)).max(axis=1)
    gap[~np.isfinite(gap)] = -1.0
    for k in np.argsort(-gap, kind="stable")[:3]:
        point = tuple(map(Fraction, x[k].tolist()))
        p, q = evaluate(a, point), evaluate(b, point)
        if _separates(p, q, a.output_map, eps):
            return Witness(point, tuple(p), tuple(q))
    return None


def _candidates(a: Network, b: Network, on: Domain, budget: int, rng: np.random.Generator) -> Array:
    """Points at several scales, and points on both sides of the hyperplanes of the first layers."""
    n = a.widths[0]
    if isinstance(on, Box):
        box = on.of_dimension(n)
        spread = rng.uniform(box.low, box.high, (max(1, budget // 2), n))
    else:
        spread = rng.standard_normal((max(1, budget // 2), n)) * rng.choice([0.1, 1.0, 10.0, 100.0], (max(1, budget // 2), 1))
    near = []
    for net in (a, b):
        w, c = net.layers[0].weight, net.layers[0].bias
        if len(w) and budget > 1:
            pick, base = rng.integers(0, len(w), budget // 4), spread[rng.integers(0, len(spread), budget // 4)]
            norm = np.maximum((w[pick] ** 2).sum(axis=1), 1e-300)
            step = -((w[pick] * base).sum(axis=1) + c[pick]) / norm * rng.choice([0.99, 1.0, 1.01], budget // 4)
            near.append(base + step[:, None] * w[pick])
    x = np.concatenate([np.zeros((1, n)), spread, *near])
    x = x[np.isfinite(x).all(axis=1)]
    return np.asarray(np.clip(x, box.low, box.high)) if isinstance(on, Box) else x


@dataclass(frozen=True, eq=False, repr=False)
class Distance(Result):
    """How far two functions are apart.

    Attributes:
        lower, upper: certified on a box and on all inputs (sup norm); two standard errors around the root mean square of
            the Euclidean distance otherwise. argmax: an input that attains `lower`.
    """

    lower: float
    upper: float
    argmax: tuple[float, ...] | None = None
    on: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    kind: ClassVar[str] = "distance"

    @property
    def _narrow(self) -> bool:
        """An estimate whose ends agree to six digits."""
        return "value" in self.extra and self.upper - self.lower <= 1e-6 * self.upper

    @property
    def statement(self) -> str:
        if self.status == "proved" or self._narrow:
            return f"the distance is {self.upper:.6g} ({self.on})"
        return f"the distance lies in [{self.lower:.6g}, {self.upper:.6g}] ({self.on})"

    def rows(self) -> list[tuple[str, str]]:
        between = f"{self.lower:.6g} <= . <= {self.upper:.6g}"
        if "value" in self.extra:
            between = f"~ {self.extra['value']:.6g}, between {self.lower:.6g} and {self.upper:.6g}"
            if self._narrow:
                between = f"~ {self.extra['value']:.9g}, to {self.upper - self.lower:.1g}"
        rows = [("distance", between), ("on", self.on), ("status", self.status)]
        return rows + ([("largest found at", _short(list(self.argmax)))] if self.argmax else [])

    def data(self) -> dict[str, Any]:
        finite = {k: v if math.isfinite(v) else None for k, v in (("lower", self.lower), ("upper", self.upper))}
        return {**finite, "argmax": self.argmax, "on": self.on, **self.extra}


def distance(
    a: Any,
    b: Any,
    *,
    on: Domain,
    budget: int = 10_000,
    seed: int | np.random.Generator = 0,
    progress: Progress | None = None,
) -> Distance:
    """The distance of two functions: sup over a box (or all inputs), root mean square under a Gaussian or on samples.

    On a box: a certified enclosure; the lower end is an exact value at `argmax`, the upper end comes from matched normal
    forms, or, where units do not match, from the size of both functions. Under a `Gaussian`, one hidden layer each: a closed
    form, with its rounding. Deeper, or on `Samples`: the mean over rows (seeded draws) with two standard errors.

    >>> import moduli as mo
    >>> a = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="relu")
    >>> b = mo.Network.mlp([[1.0]], [0.0], [[1.5]], [0.0], activation="relu")
    >>> d = mo.distance(a, b, on=mo.Box(-2, 2))
    >>> 0.99 < d.lower <= 1.0 <= d.upper < 1.01
    True
    """
    a, b = _pair(a, b)
    if isinstance(on, (Gaussian, Samples)):
        return _mean_square(a, b, on, seed, progress)
    radius = _radius(on) if isinstance(on, Box) else None
    upper = _upper(a, b, radius, progress)
    where = "sup over the box" if isinstance(on, Box) else "sup over all inputs"
    if upper == 0:
        return Distance("proved", 0.0, 0.0, None, where)
    witness = _witness(a, b, on, 0.0, budget, seed)
    if witness is None:
        return Distance("bounded", 0.0, upper, None, where)
    at = tuple(map(float, witness.input))
    return Distance("bounded", _down(witness.gap), upper, at, where)


def _down(q: Fraction) -> float:
    nearest = float(q)
    return nearest if Fraction(nearest) <= q else math.nextafter(nearest, -math.inf)


def _upper(a: Network, b: Network, radius: float | None, progress: Progress | None) -> float:
    best = math.inf
    for binary in (True, False):
        left, _ = symmetry.normal_form(a, binary=binary, progress=progress)
        right, _ = symmetry.normal_form(b, binary=binary, progress=progress)
        if _comparable(left, right):
            best = min(best, difference(left.arrays(), right.arrays(), a.activations, radius=radius).everywhere)
        if best == 0 or all(not act.homogeneous for act in a.activations):
            break
    size = (
        magnitude(left.arrays(), a.activations, radius=radius).everywhere
        + magnitude(right.arrays(), b.activations, radius=radius).everywhere
    )
    return min(best, math.nextafter(size, math.inf))


def _mean_square(a: Network, b: Network, on: Gaussian | Samples, seed: Any, progress: Progress | None) -> Distance:
    if isinstance(on, Gaussian) and max(len(a.layers), len(b.layers)) <= 2:
        name = "root mean square under the Gaussian, in closed form"
        if _upper(a, b, None, progress) == 0:
            return Distance("proved", 0.0, 0.0, None, name)
        value, low, high = population.distance(a, b, on)
        if high - low > 1e-6 * high:
            value, low, high = min((value, low, high), _reduced_distance(a, b, on), key=lambda ends: ends[2] - ends[1])
        return Distance("estimated", low, high, None, name, {"value": value})
    if isinstance(on, Samples) and on.x.shape[1] != a.widths[0]:
        raise ShapeError(f"samples have shape {on.x.shape}; the networks have {a.widths[0]} inputs")
    squares = np.concatenate([((a.logits(x) - b.logits(x)) ** 2).sum(axis=1) for x in _pieces(on, a.widths[0], seed)])
    mean, error = float(squares.mean()), float(squares.std(ddof=1) / math.sqrt(len(squares))) if len(squares) > 1 else math.inf
    ends = [math.sqrt(max(0.0, mean + k * error)) for k in (-2, 2)]
    name = (
        f"root mean square on {len(squares)} samples"
        if isinstance(on, Samples)
        else f"root mean square under a Gaussian, {DRAWS} draws"
    )
    return Distance("estimated", ends[0], ends[1], None, name, {"value": math.sqrt(mean)})


def _pieces(on: Gaussian | Samples, n: int, seed: Any) -> Iterator[Array]:
    """The rows, or draws from the Gaussian, a few thousand at a time."""
    if isinstance(on, Samples):
        yield from (on.x[at : at + PIECE] for at in range(0, len(on.x), PIECE))
    else:
        rng = np.random.default_rng(seed)
        yield from (on.sample(PIECE, n, rng) for _ in range(DRAWS // PIECE))


def _reduced_distance(a: Network, b: Network, on: Gaussian) -> tuple[float, float, float]:
    """The same of the losslessly reduced networks, whose units match where those of a and b do not."""
    small = [lossless.compress(net) for net in (a, b)]
    value, low, high = population.distance(small[0].network, small[1].network, on)
    size = math.sqrt(float(np.square(on.mean).max() + np.abs(on.cov).max()) * a.widths[0] * a.widths[-1])
    slip = sum(s.proof.slack.constant * math.sqrt(a.widths[-1]) + s.growth * size for s in small)
    return value, max(0.0, low - slip), high + slip


@dataclass(frozen=True, eq=False, repr=False)
class Verdict(Result):
    """A certificate that was replayed and accepted."""

    proof: Certificate
    small: Network
    large: Network
    kind: ClassVar[str] = "check"

    @property
    def certificate(self) -> Certificate:
        return self.proof

    def check(self) -> bool:
        self.proof.verify(self.small, self.large)
        return True

    @property
    def statement(self) -> str:
        small, near = self.small.units, self.proof.near
        exact = "exactly" if self.proof.slack == type(self.proof.slack)(0.0, 0.0) else f"up to {self.proof.slack}"
        if near is None:
            best = f"; no one-hidden-layer network with fewer than {small} hidden units has it" if self.proof.minimal else ""
            return f"accepted: {small} hidden units compute the function of {self.large.units}, {exact}{best}"
        best = f"; every parameter within it needs {near.bound.lower}" if near.bound and near.bound.lower else ""
        at = f"a parameter within {near.radius:g} of the {self.large.units}"
        return f"accepted: {small} hidden units compute the function of {at}, {exact}{best}"

    def rows(self) -> list[tuple[str, str]]:
        moves = (*self.proof.large_moves, *self.proof.small_moves)
        return [
            ("large", repr(self.large)), ("small", repr(self.small)), ("moves replayed", str(len(moves))),
            ("units moved", str(sum(len(m.units) for m in moves))), ("slack", f"<= {self.proof.slack}"),
            ("fewest units", "proved" if self.proof.minimal else "not claimed"),
        ]  # fmt: skip

    def data(self) -> dict[str, Any]:
        slack = self.proof.slack
        return {
            "small": self.small.digest, "large": self.large.digest,
            "moves": len(self.proof.large_moves) + len(self.proof.small_moves), "minimal": self.proof.minimal,
            "slack": None if slack.growth else slack.constant, "growth": slack.growth, "constant": slack.constant,
        }  # fmt: skip


def check(certificate: Certificate | str | Path, small: Any, large: Any) -> Verdict:
    """Replay a certificate for two networks (or files) in exact arithmetic; no search, no solver.

    Raises:
        CertificateRejected: naming the move or the claim that fails.

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, 2.0]], [0.0])
    >>> small = mo.compress(net)
    >>> mo.check(small.certificate, small.network, net).status
    'proved'
    """
    if not isinstance(certificate, Certificate):
        file = Path(certificate)
        if file.stat().st_size > MAX_BYTES:
            raise CertificateRejected(f"{file}: {file.stat().st_size} bytes; certificates up to {MAX_BYTES} are read")
        certificate = Certificate.from_json(file.read_bytes())
    small, large = load(small), load(large)
    certificate.verify(small, large)
    return Verdict("proved", certificate, small, large)
