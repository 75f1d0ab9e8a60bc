"""Students with fewer units in mean square: one hidden layer, deep networks layer by layer, the
curve of errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float64

from moduli.common.domains import Gaussian, Samples
from moduli.common.progress import Progress
from moduli.common.result import Result, TableResult
from moduli.kernel.errors import ArgumentError, Asked, ShapeError
from moduli.kernel.network import Layer, Network

from .closed_form import ShallowNetwork, distance, student
from .fit import PAIRS, Empirical, Fit, Goal, Population, fit, kmeans, largest, project
from .gaussian_expectations import FINE, MEDIUM, UnitLaw, Whitening, accuracy, closed

Array = np.ndarray[Any, np.dtype[np.float64]]
Law = Gaussian | Samples
DRAWS = 10_000
DIGITS = 1e-6  # a relative width at which an error is stated as it is
REFINEMENT = 200  # steps of L-BFGS on samples at most
PATIENCE = 20  # steps without a better value on the samples that were held out
Make = Callable[[Goal, int, np.random.Generator], Fit]


class Error(NamedTuple):
    """A mean square difference of outputs.

    Attributes:
        absolute: root mean square; where rounding leaves less than six digits of it, the most that
            it can be.
        relative: over the standard deviation of the network's own outputs.
    """

    absolute: float
    relative: float

    @property
    def unexplained(self) -> float:
        """The share of the variance that is lost: relative squared."""
        return self.relative**2

    @staticmethod
    def of(square: float, variance: float) -> Error:
        absolute, size = math.sqrt(max(0.0, square)), math.sqrt(max(0.0, variance))
        if size:
            return Error(absolute, absolute / size)
        return Error(
            absolute, math.inf if absolute else 0.0
        )  # a constant target is met, or missed by any measure

    def __str__(self) -> str:
        return f"{100 * self.relative:.3g} % of the standard deviation (root mean square {self.absolute:.3g})"


WORSE = ": closer than the student; give it more units, or this map beside it (skip)"


@dataclass(frozen=True, eq=False, repr=False)
class Narrowed(Result):
    """A network with fewer hidden units that is close on average.

    Attributes:
        network: the student. original: the network it imitates.
        error: of the student. linear: of the best affine map, which has no hidden units at all.
        on: where, in words. start: what the search started from.
        skip: ``[out, in]``, to be added as x @ skip.T, or None.
    """

    network: Network
    original: Network
    error: Error
    linear: Error
    on: str
    start: str
    skip: Float64[np.ndarray[Any, Any], "out in"] | None = None
    kind: ClassVar[str] = "compress"
    optimal: ClassVar[bool] = False
    slack: ClassVar[float] = math.inf

    def __call__(
        self, x: Float64[np.ndarray[Any, Any], "batch in"]
    ) -> Float64[np.ndarray[Any, Any], "batch out"]:
        """The student's outputs before the output map, with the skip where there is one."""
        y = self.network.logits(x)
        return (
            y
            if self.skip is None
            else np.asarray(y + np.asarray(x, dtype=np.float64) @ self.skip.T)
        )

    @property
    def statement(self) -> str:
        units = f"{self.original.units} -> {self.network.units} hidden units"
        worse = "; a linear map without any unit is closer" if self.worse_than_linear else ""
        return f"{units}; error {self.error} {self.on}{worse}"

    @property
    def worse_than_linear(self) -> bool:
        """Whether the best affine map, which has no hidden units at all, is closer."""
        return self.skip is None and self.linear.absolute < self.error.absolute

    def rows(self) -> list[tuple[str, str]]:
        rows = [
            ("network", repr(self.original)), ("smaller", repr(self.network)),
            ("hidden units", f"{self.original.units} -> {self.network.units}"),
            ("parameters", f"{self.original.parameters} -> {self.network.parameters}"),
            ("error", f"~ {self.error}"),
            ("a linear map", f"~ {self.linear}{WORSE if self.worse_than_linear else ''}"),
            ("measured", self.on), ("start", self.start),
        ]  # fmt: skip
        return rows + (
            [("beside it", "a linear map of the inputs, not in the file")]
            if self.skip is not None
            else []
        )

    def data(self) -> dict[str, Any]:
        return {
            "digest": self.network.digest, "original_digest": self.original.digest,
            "widths": list(self.network.widths), "original_widths": list(self.original.widths),
            "units": self.network.units, "original_units": self.original.units,
            "parameters": self.network.parameters, "original_parameters": self.original.parameters,
            "error": self.error._asdict(), "linear": self.linear._asdict(), "on": self.on,
            "start": self.start, "optimal": False, "slack": None,
            "skip": None if self.skip is None else self.skip.tolist(),
        }  # fmt: skip

    def rounded(self, dtype: str) -> Narrowed:
        """The same student with parameters rounded to ``float32``; the error does not see that."""
        return Narrowed(
            self.status,
            self.network.rounded(dtype),
            self.original,
            self.error,
            self.linear,
            self.on,
            self.start,
            self.skip,
        )


def narrow(
    net: Network,
    on: Law,
    *,
    units: int | Sequence[int] | None = None,
    eps: float = 0.0,
    skip: bool = False,
    seed: int | np.random.Generator = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Narrowed:
    """The student with `units` hidden units, or the smallest found whose root mean square error is
    at most `eps`.

    One hidden layer: under a Gaussian the error is a closed form. Deeper: layer by layer, then all
    layers together, on samples (for a Gaussian, on draws from it; the error is measured on fresh
    ones).

    Raises:
        ShapeError: widths that do not fit the network. ValueError: neither or both of units and
            eps, skip on a deep network.
    """
    if (units is None) == (not eps):
        raise ArgumentError(
            Asked("units", units), ", ", Asked("eps", eps), ": give one of them; ",
            Asked("units", 16), ", or ", Asked("eps", 0.1), " for the fewest that reach it",
        )  # fmt: skip
    if skip and len(net.layers) != 2:
        raise ArgumentError(
            Asked("skip", True),
            f" on {len(net.layers) - 1} hidden layers; a linear skip stands beside one",
        )
    task = _Task(net, on, skip, seed)
    if units is not None:
        return task.student(_widths(net, units), executor, progress)
    return _fewest(task, eps, executor, progress)


def _widths(net: Network, units: int | Sequence[int]) -> tuple[int, ...]:
    hidden = net.widths[1:-1]
    if isinstance(units, (int, np.integer)):
        share = int(units) / max(1, net.units)
        wanted = (
            [int(units)]
            if len(hidden) == 1
            else [max(int(units > 0), round(share * h)) for h in hidden]
        )
    else:
        wanted = [int(u) for u in units]
    least = 0 if len(hidden) == 1 else 1
    if len(wanted) != len(hidden) or any(not w >= least for w in wanted):
        raise ShapeError(
            Asked("units", units),
            f" for hidden widths {list(hidden)}; give one number, or one per hidden layer, "
            f"each at least {least}",
        )
    return tuple(min(w, h) for w, h in zip(wanted, hidden, strict=True))


def _fewest(
    task: _Task, eps: float, executor: Executor | None, progress: Progress | None
) -> Narrowed:
    """Bisection on the logarithm of the number of units (deep: of the share of units kept)."""
    if not (eps > 0 and math.isfinite(eps)):
        raise ArgumentError(Asked("eps", eps), ": a positive finite number is needed")
    low = -1 if len(task.net.widths) == 3 else 0  # every one of several hidden layers keeps a unit
    high, best = task.net.units, None
    while high - low > 1:
        middle = min(high - 1, max(low + 1, math.isqrt(max(low, 1) * high)))
        student = task.student(_widths(task.net, middle), executor, progress)
        if student.error.absolute <= eps:
            high, best = middle, student
        else:
            low = middle
    return best or task.student(task.net.widths[1:-1])


class _Task:
    """A network and the law of its inputs, with what all students share."""

    def __init__(self, net: Network, on: Law, skip: bool, seed: int | np.random.Generator) -> None:
        self.net, self.law, self.skip = net, on, skip
        self.seed = int(np.random.default_rng(seed).integers(2**62))
        n = net.widths[0]
        if isinstance(on, Samples) and on.x.shape[1] != n:
            raise ShapeError(
                f"samples have shape {on.x.shape}; the network has {n} inputs, so rows of {n} numbers are needed"
            )
        gaussian = on if isinstance(on, Gaussian) else _fitted(on.x)
        self.whitening = Whitening.of(gaussian, n)
        self.closed = isinstance(on, Gaussian) and len(net.layers) == 2
        if not self.closed:
            x: Array = on.x if isinstance(on, Samples) else on.sample(2 * DRAWS, n, self.seed)
            fitted = len(x) if isinstance(on, Samples) else DRAWS
            self.x, self.fresh = x[:fitted], x[-fitted:]
            self.values, self.truth = net.logits(self.x), net.logits(self.fresh)
        self.goal: Goal | None = None
        if len(net.layers) == 2:
            target = ShallowNetwork.of(net, self.whitening)
            if self.closed:
                self.goal = Population(target, skip)
            else:
                z = self.whitening.points(self.x)
                self.goal = Empirical(
                    z, self.values, target.activation, target.units, target.outer, skip
                )

    @property
    def on(self) -> str:
        if isinstance(self.law, Samples):
            return f"on the {len(self.x)} samples it was fitted to"
        return (
            "under the Gaussian"
            if self.closed
            else f"on {len(self.fresh)} fresh draws from the Gaussian"
        )

    def student(
        self,
        widths: tuple[int, ...],
        executor: Executor | None = None,
        progress: Progress | None = None,
    ) -> Narrowed:
        if self.goal is not None:
            return self._shallow(widths[0], executor, progress)
        if len(self.net.layers) == 1:
            return self._measured(self.net, "nothing to remove")
        found = self._deep(widths, fit, progress)
        return self._together(found) if all(widths) and widths != self.net.widths[1:-1] else found

    def _shallow(
        self, count: int, executor: Executor | None, progress: Progress | None
    ) -> Narrowed:
        assert self.goal is not None
        if count == self.net.widths[1] and not self.skip:
            return self._result(
                self.net, 0.0, "nothing to remove", None
            )  # the network itself: no error at all
        more = self._better_starts(count)
        found = fit(self.goal, count, np.random.default_rng(self.seed), more, executor, progress)
        small, skip = self.assemble(found)
        return self._result(small, self._square(small, found), found.start, skip)

    def _square(self, small: Network, found: Fit) -> float:
        """The mean square error of the student as it is emitted; of what was fitted where a skip
        stands beside it.
        """
        assert self.goal is not None
        if not self.closed or self.skip:
            return self.goal.at_most(found)
        assert isinstance(self.law, Gaussian)
        terms, _ = accuracy(self.net.activations[0], FINE)
        nodes = MEDIUM
        if ((self.net.units + small.units) * terms) ** 2 <= PAIRS:
            nodes = FINE
        ends = distance(self.net, small, self.law, nodes)
        root = ends.value if ends.width <= DIGITS else ends.high
        return root * root  # a power would raise where this is infinite

    def _better_starts(self, count: int) -> list[tuple[str, UnitLaw]]:
        """On samples: the student under the Gaussian fitted to them, where a closed form is cheap."""
        s = self.net.activations[0]
        if self.closed or not count or not closed(s) or accuracy(s)[0] > 1:
            return []
        goal = Population(ShallowNetwork.of(self.net, self.whitening), self.skip)
        return [("Gaussian", fit(goal, count, np.random.default_rng(self.seed)).units)]

    def assemble(self, found: Fit) -> tuple[Network, Array | None]:
        assert self.goal is not None
        slope, bias = self.goal.affine(found)
        skip = slope @ self.whitening.pseudoinverse if self.skip else None
        bias = bias - skip @ self.whitening.mean if skip is not None else bias
        return student(
            ShallowNetwork(self.net.activations[0], found.units, found.outer, bias),
            self.whitening,
            self.net,
        ), skip

    def _result(self, small: Network, square: float, start: str, skip: Array | None) -> Narrowed:
        assert self.goal is not None
        variance = self.goal.variance if not self.skip else self._variance()
        linear = Error.of(self.goal.linear(), variance)
        return Narrowed(
            "estimated", small, self.net, Error.of(square, variance), linear, self.on, start, skip
        )

    def _variance(self) -> float:
        if self.closed:
            return Population(ShallowNetwork.of(self.net, self.whitening)).variance
        return float(self.values.var(axis=0).sum())

    def _measured(self, small: Network, start: str) -> Narrowed:
        """Deep networks: errors on points that a Gaussian's fit has not seen."""
        square = float(np.square(small.logits(self.fresh) - self.truth).sum(axis=1).mean())
        basis = np.column_stack([np.ones(len(self.x)), self.x - self.x.mean(axis=0)])
        map_ = np.linalg.lstsq(basis, self.values, rcond=None)[0]
        fresh = np.column_stack([np.ones(len(self.fresh)), self.fresh - self.x.mean(axis=0)])
        linear = float(np.square(fresh @ map_ - self.truth).sum(axis=1).mean())
        variance = float(self.truth.var(axis=0).sum())
        return Narrowed(
            "estimated",
            small,
            self.net,
            Error.of(square, variance),
            Error.of(linear, variance),
            self.on,
            start,
        )

    def _deep(
        self, widths: tuple[int, ...], make: Make, progress: Progress | None = None
    ) -> Narrowed:
        """Layer by layer: each sees the inputs that the narrowed layers below give, and aims at the
        original above.
        """
        current, rng, names = self.net, np.random.default_rng(self.seed), []
        hidden, hidden_true = self.x, self.x
        for l, count in enumerate(widths):
            if progress is not None:
                progress(l, len(widths) + 1, "layers")
            layer, above = current.layers[l], current.layers[l + 1]
            true, wide = self.net.layers[l], self.net.layers[l + 1]
            hidden_true = true(hidden_true)
            if count < len(layer.bias):
                whitening = Whitening.of(_fitted(hidden), hidden.shape[1])
                goal = Empirical(
                    whitening.points(hidden), hidden_true @ wide.weight.T + wide.bias,
                    layer.activation, whitening.units(layer.weight, layer.bias), above.weight.T,
                )  # fmt: skip
                found = make(goal, count, rng)
                _, bias = goal.affine(found)
                layer = Layer(*whitening.parameters(found.units), layer.activation)
                above = Layer(found.outer.T.copy(), bias, above.activation)
                current = current.with_layers(
                    [*current.layers[:l], layer, above, *current.layers[l + 2 :]]
                )
                names.append(found.start)
            hidden = layer(hidden)
        return self._measured(current, ", ".join(names) or "nothing to remove")

    def _together(self, best: Narrowed) -> Narrowed:
        refined = self._measured(refine(best.network, self.x, self.values, self.seed), best.start)
        return min(best, refined, key=lambda r: r.error.absolute)

    def point(self, widths: tuple[int, ...]) -> tuple[Narrowed, Error, Error]:
        """The student, and the errors with the largest units and with k-means of the units."""
        return self.student(widths), self._simple(widths, largest), self._simple(widths, kmeans)

    def _simple(
        self, widths: tuple[int, ...], choose: Callable[[Goal, int, np.random.Generator], UnitLaw]
    ) -> Error:
        def make(goal: Goal, count: int, rng: np.random.Generator) -> Fit:
            return project(goal, choose(goal, count, rng))

        if self.goal is None:
            return self._deep(widths, make).error
        found = make(self.goal, widths[0], np.random.default_rng(self.seed))
        return Error.of(self.goal.at_most(found), self.goal.variance)


def smoothed(mean: Array, cov: Array) -> Gaussian:
    """The Gaussian with these moments and a thousandth of the mean variance added in every
    direction.

    What barely varies in the samples would otherwise get weights that they hardly determine.
    """
    extra = 1e-3 * float(np.trace(cov)) / max(1, len(cov))
    return Gaussian(mean, cov + extra * np.eye(len(cov)))


def _fitted(x: Array) -> Gaussian:
    if not x.shape[1]:  # behind a layer without units
        return Gaussian(np.zeros(0), np.zeros((0, 0)))
    return smoothed(x.mean(axis=0), np.atleast_2d(np.cov(x.T, bias=True)))


def refine(net: Network, x: Array, values: Array, seed: int = 0) -> Network:
    """All parameters together on samples, by L-BFGS: least squares of the outputs before the output
    map.

    A fifth of the rows is held out: what is best on them is returned, so that few samples are not
    learnt by heart.
    """
    from scipy.optimize import minimize

    order = np.random.default_rng(seed).permutation(len(x))
    held, used = order[: len(x) // 5], order[len(x) // 5 :]

    def left_out(theta: Array) -> float:
        return float(np.square(net.with_flat(theta).logits(x[held]) - values[held]).sum())

    best, least, waited = net.flat(), left_out(net.flat()), 0

    def watch(theta: Array) -> None:
        nonlocal best, least, waited
        error = left_out(theta)
        waited += 1
        if error < least:
            best, least, waited = theta.copy(), error, 0
        if len(held) and waited > PATIENCE:
            raise StopIteration

    points, goal = x[used], values[used]

    def value(theta: Array) -> tuple[float, Array]:
        at = net.with_flat(theta)
        pre, post = [], [points]
        for layer in at.layers:
            pre.append(post[-1] @ layer.weight.T + layer.bias)
            post.append(layer.activation(pre[-1]))
        gap = post[-1] - goal
        back, parts = 2 * gap / len(goal), []
        for l in reversed(range(len(at.layers))):
            layer = at.layers[l]
            back = back * layer.activation.derivative(pre[l])
            parts += [back.sum(axis=0), (back.T @ post[l]).ravel()]
            back = back @ layer.weight
        return float(np.square(gap).sum()) / len(goal) / scale, np.concatenate(parts[::-1]) / scale

    scale = 1.0
    scale = value(net.flat())[0] or 1.0
    options = {"maxiter": REFINEMENT, "maxcor": 20, "ftol": 1e-6, "gtol": 1e-14}
    found = minimize(
        value, net.flat(), jac=True, method="L-BFGS-B", callback=watch, options=options
    )
    theta = (
        best if len(held) else found.x
    )  # the best on the rows held out; the last step fits the others best
    return net.with_layers(net.with_flat(theta).layers)


class ErrorAtSize(NamedTuple):
    """A line of an `ErrorCurve`: shares of the variance that are lost, outgoing weights fitted in all."""

    units: int
    student: float
    kmeans: float
    largest: float


@dataclass(frozen=True, eq=False, repr=False)
class ErrorCurve(TableResult):
    """Error against the number of hidden units.

    Attributes:
        units: hidden units of each student. students: the errors reached, and beside them, on the
            same data, `magnitude`: the units with the largest weights kept, outgoing weights fitted
            again; `kmeans`: the centres that k-means finds among the units, fitted again.
        linear: of the best affine map. networks: the students.
    """

    units: tuple[int, ...]
    students: tuple[Error, ...]
    magnitude: tuple[Error, ...]
    kmeans: tuple[Error, ...]
    linear: Error
    of: int
    on: str
    networks: tuple[Network, ...] = ()
    kind: ClassVar[str] = "error_curve"
    head: ClassVar[tuple[str, ...]] = ("hidden units", "student", "k-means", "largest units")
    numbers: ClassVar[tuple[str, ...]] = head

    @property
    def statement(self) -> str:
        ends = ", ".join(
            f"{e.unexplained:.2g} with {m}" for m, e in zip(self.units, self.students, strict=True)
        )
        linear = f"{self.linear.unexplained:.2g} with a linear map"
        worse = [
            str(m)
            for m, error in zip(self.units, self.students, strict=True)
            if error.absolute > self.linear.absolute
        ]
        closer = f", which is closer than {' and '.join(worse)} units" if worse else ""
        return (
            f"share of variance lost {self.on}: {ends} of {self.of} hidden units; {linear}{closer}"
        )

    def rows(self) -> list[ErrorAtSize]:  # type: ignore[override]
        """Shares of the variance that are lost, by the number of units."""
        found = []
        for m, *errors in zip(self.units, self.students, self.kmeans, self.magnitude, strict=True):
            found.append(ErrorAtSize(m, *(error.unexplained for error in errors)))
        return found

    def cells(self) -> list[list[str]]:
        return [[str(m), *(f"~ {share:.2e}" for share in shares)] for m, *shares in self.rows()]

    def notes(self) -> list[tuple[str, str]]:
        return [
            ("columns", "share of the variance lost, outgoing weights fitted in all"),
            ("a linear map", f"~ {self.linear.unexplained:.2e}"),
            ("measured", self.on),
        ]

    def _errors(self) -> dict[str, tuple[Error, ...]]:
        return {"students": self.students, "magnitude": self.magnitude, "kmeans": self.kmeans}

    def data(self) -> dict[str, Any]:
        errors = {}
        for name, found in self._errors().items():
            errors[name] = [e._asdict() for e in found]
        return {
            "units": list(self.units),
            **errors,
            "linear": self.linear._asdict(),
            "of": self.of,
            "on": self.on,
        }

    def plot_data(self) -> dict[str, Any]:
        """Units, shares of variance lost, and the linear map's."""
        shares = {}
        for name, found in self._errors().items():
            shares[name] = np.array([e.unexplained for e in found])
        return {
            "units": np.array(self.units),
            **shares,
            "linear": self.linear.unexplained,
            "of": self.of,
        }

    def plot(self, ax: Any = None) -> Any:
        """Error against units, on logarithmic axes."""
        from moduli.common.figures import error_figure

        return error_figure(self.plot_data(), ax)


def error_curve(
    net: Network,
    on: Law,
    units: Sequence[int] | None = None,
    seed: int | np.random.Generator = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> ErrorCurve:
    """Students of several sizes, beside two simpler ways to choose units with the same refit, and
    the linear map.
    """
    if not net.units:
        raise ShapeError(f"{net!r} has no hidden units to remove")
    task = _Task(net, on, False, seed)
    steps = sorted({int(u) for u in units}) if units is not None else _steps(net.units)
    if not steps or steps[0] < 1:
        raise ArgumentError(Asked("units", units), ": positive numbers are needed")
    jobs = [_widths(net, count) for count in steps]
    found = []
    mapped = executor.map if executor else map
    for k, point in enumerate(mapped(task.point, jobs)):
        found.append(point)
        if progress is not None:
            progress(k + 1, len(jobs), "sizes")
    students, magnitude, centres = zip(*found, strict=True)
    sizes = tuple(s.network.units for s in students)
    errors = tuple(s.error for s in students)
    networks = tuple(s.network for s in students)
    return ErrorCurve(
        "estimated",
        sizes,
        errors,
        magnitude,
        centres,
        students[0].linear,
        net.units,
        task.on,
        networks,
    )


def _steps(units: int) -> list[int]:
    return sorted(
        {max(1, round(units * 2.0 ** (-k))) for k in range(1, max(2, units.bit_length()))}
    )[-7:]
