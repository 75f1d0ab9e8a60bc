"""How large the class of a graph with bounded parameters is, with and without its symmetries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

from moduli.common.domains import Samples
from moduli.common.graph import Graph
from moduli.common.result import Result
from moduli.equivalence.graph_alignment import first_outputs
from moduli.kernel.errors import ArgumentError, Asked

from .complexity_table import SCALES, Bound, over_accuracies, sampled, shell
from .covering_numbers import STARTS, holding, log, rational
from .gap_bounds import Real, needed, occam_gap
from .graph_covering import GraphClass
from .risk import ROUNDED, Risk, by_code, by_cover, coded_bits, margins

SHOWN = 12  # sets of units in a table


@dataclass(frozen=True, eq=False, repr=False)
class GraphComplexity(Result):
    """Covering numbers of the functions that a graph computes with bounded parameters, in the sup norm over
    inputs of bounded size, and what these say of generalisation.

    Attributes:
        graph: whose operators, wiring and shapes they are. cls: the class. chosen: whether the bounds were
            read off its stored numbers. samples: their number. accuracy: eps of the table. delta: 1 -
            confidence. at: margins of the samples, where they have classes. classes: how many.
    """

    graph: Graph
    cls: GraphClass
    chosen: bool = True
    samples: int | None = None
    accuracy: Real = 0.1
    delta: Real = 0.05
    at: Any = None
    classes: int = 0
    kind: ClassVar[str] = "complexity"

    def log_covering(self, accuracy: Real | None = None, *, symmetry: bool = True) -> float:
        """A proved bound of the log of the covering number: the least of Theorems P and G for graphs and the
        plain grid.
        """
        eps = self.accuracy if accuracy is None else accuracy
        return self.cls.log_covering(eps, symmetry=symmetry)

    @property
    def log_symmetries(self) -> float:
        """Logarithm of the number of orders and signs of units that Theorem P divides by."""
        return self.cls.log_group

    @property
    def exponent(self) -> int:
        """Parameters less the entries of bases that heads and bottlenecks leave free: the power of 1/accuracy in
        Theorem G, so that of the covering number is at most this.
        """
        return self.cls.parameters - sum(basis.units**2 for basis in self.cls.bases)

    @property
    def share(self) -> float:
        """The part of the plain logarithm that the symmetries are worth."""
        plain = self.log_covering(symmetry=False)
        return 1 - self.log_covering() / plain if plain else 0.0

    @property
    def statement(self) -> str:
        return (
            f"log covering number at {self.accuracy:g}: {self.log_covering(symmetry=False):.6g} plain, "
            f"{self.log_covering():.6g} modulo symmetries ({100 * self.share:.2g} % less)"
        )

    @cached_property
    def bounds(self) -> tuple[Bound, ...]:
        """The table of bounds."""
        cls, price = self._rounded_class
        norms, what = "largest entry of each tensor", "log covering number"
        rows = [
            self._row(name, what, value, norms, _direct(cls, name, price))
            for name, value in self.cls.log_coverings(rational(self.accuracy)).items()
        ]
        bits = self._bits

        def occam(n: Real, delta: Real) -> float:
            return occam_gap(bits, 0.0, n, delta)

        return (*rows, self._row("Occam, as stored", "bits", bits, "none", occam))

    @cached_property
    def _rounded_class(self) -> tuple[GraphClass, float]:
        """With bounds that are known after training only rounded up to powers of two, and the price of that."""
        if not self.chosen:
            return self.cls, 0.0
        shells = {name: shell(float(b)) for name, b in self.cls.bounds.items()}
        cls = self.cls.with_bounds({name: Fraction(top) for name, (top, _) in shells.items()})
        return cls, math.fsum(cost for _, cost in shells.values())

    @property
    def _bits(self) -> int:
        stored = self.graph.model.live().constants.values()
        return sum(8 * array.nbytes for array in stored)

    @cached_property
    def risks(self) -> tuple[Risk, ...]:
        """Bounds of the probability of a wrong class, by the first output; none without `targets`. Each holds with
        probability 1 - delta by itself.
        """
        if self.at is None:
            return ()
        cls, price = self._rounded_class
        gap = over_accuracies(
            [(2.0**-k, cls.log_covering(Fraction(1, 2**k))) for k in range(SCALES)], price
        )
        stored = self.graph.model.live().constants.values()
        coded = coded_bits(list(stored))
        given = self.at, self.delta, self.classes
        fixed = "operators, wiring and shapes fixed in advance"
        return (
            by_cover("best cover, union over margins", self.at, gap, self.delta, self.classes,
                     f"inputs bounded; operators, wiring, shapes and held tensors fixed in advance; {ROUNDED}"),
            by_code("Occam, as stored", given[0], self._bits + 1.0, *given[1:], f"{self._bits + 1} bits; {fixed}"),
            by_code("Occam, coded", given[0], coded + 1, *given[1:], f"{coded + 1:.0f} bits; {fixed}"),
            by_code("fresh samples", given[0], 0.0, *given[1:], "only if no sample had a part in training"),
        )  # fmt: skip

    def _row(
        self, name: str, what: str, value: Real, norms: str, gap: Callable[[Real, Real], float]
    ) -> Bound:
        now = None if self.samples is None else gap(self.samples, self.delta)
        least = needed(lambda n: gap(n, self.delta))
        return Bound(name, what, value, now, least, norms, "derived here", "proved", "")

    def asked(self) -> list[tuple[str, str]]:
        return [("graph", repr(self.graph))]

    def facts(self) -> list[tuple[str, str]]:
        cls, reach = self.cls, self.cls.reach
        size = "not bounded" if reach is None else f"at most e^{log(reach):.4g}"
        rows = [
            ("parameters", f"{cls.parameters} in {len(cls.bounds)} tensors{cls.held}"),
            ("inputs, outputs", f"at most {float(cls.input_bound):g}, {size} over the class"),
            (
                "orders and signs of units",
                f"e^{self.log_symmetries:.6g} of {len(cls.owned)} sets",
            ),
        ]
        if cls.bases:
            units = sum(basis.units for basis in cls.bases)
            rows.append(
                (
                    "bases",
                    f"{len(cls.bases)} of {units} units: the exponent of 1/accuracy falls from {cls.parameters} to "
                    f"{self.exponent}",
                )
            )
        for bound in self.bounds:
            samples = "" if bound.needed is None else f"; below 1 from {bound.needed:.3g} samples"
            gap = f"; gap {bound.verdict}" if bound.verdict else ""
            rows.append((bound.name, f"{bound.quantity} {bound.value:.6g}{gap}{samples}"))
        rows += [(f"risk, {risk.name}", risk.said) for risk in self.risks]
        for part in cls.owned[:SHOWN]:
            entries = ", ".join(
                f"{name} ({n} each{', up to sign' if name in part.turned else ''})"
                for name, n in part.entries.items()
            )
            rows.append((f"{part.units} units", f"sorted by {entries}"))
        if len(cls.owned) > SHOWN:
            rows.append(("...", f"{len(cls.owned) - SHOWN} sets more"))
        return rows

    def data(self) -> dict[str, Any]:
        return {
            "graph": self.graph.digest, "parameters": self.cls.parameters,
            "input_bound": float(self.cls.input_bound), "accuracy": self.accuracy,
            "delta": self.delta, "samples": self.samples, "log_symmetries": self.log_symmetries,
            "log_covering": self.log_covering(),
            "log_covering_plain": self.log_covering(symmetry=False),
            "bounds": [{**b._asdict(), "vacuous": b.vacuous} for b in self.bounds],
            "units": [part._asdict() for part in self.cls.owned], "exponent": self.exponent,
            "bases": [basis._asdict() for basis in self.cls.bases],
            "risks": [{**risk._asdict(), "vacuous": risk.vacuous} for risk in self.risks],
        }  # fmt: skip

    def check(self) -> bool:
        """Compute the class and its symmetries again."""
        again = GraphComplexity(
            self.status, self.graph, self.cls.again(), self.chosen, self.samples, self.accuracy, self.delta,
            self.at, self.classes,
        )  # fmt: skip
        return again.data() == self.data()

    def plot_data(self) -> dict[str, Any]:
        """Log covering numbers against accuracy."""
        eps = [10.0 ** (-k / 4) for k in range(17)]
        return {
            "accuracy": eps,
            "plain": [self.log_covering(e, symmetry=False) for e in eps],
            "modulo": [self.log_covering(e) for e in eps],
        }

    def plot(self, ax: Any = None) -> Any:
        """Log covering numbers against accuracy, with and without symmetries."""
        from moduli.common.figures import covering_figure

        return covering_figure(self.plot_data(), ax)


def complexity(
    graph: Graph,
    bound: Any,
    input_bound: Any,
    samples: Any,
    accuracy: Real,
    delta: Real,
    targets: Any = None,
) -> GraphComplexity:
    """See `api.complexity`."""
    if not accuracy > 0 or not 0 < delta < 1:
        raise ArgumentError(
            Asked("accuracy", accuracy), ", ", Asked("delta", delta),
            ": accuracy is positive, delta between 0 and 1",
        )  # fmt: skip
    limit = holding(input_bound)
    if limit <= 0:
        raise ArgumentError(Asked("input_bound", input_bound), ": a positive number")
    cls = GraphClass.of(graph.model, limit, graph.source.integers)
    _ = cls.sensitivities  # which names a node that is in the way
    if bound is not None:
        cls = cls.with_bounds(_given(cls, bound))
    count, data = sampled(samples, _entries(graph), limit, "inf")
    at, classes = None, 0
    if targets is not None:
        if data is None:
            raise ArgumentError(
                Asked("targets"), " are classes of samples: give ", Asked("samples", Samples)
            )
        outputs = first_outputs(graph, data)
        at, classes = margins(outputs, targets), outputs.shape[1]
    return GraphComplexity(
        "bounded", graph, cls, bound is None, count, accuracy, delta, at, classes
    )


def _entries(graph: Graph) -> int | None:
    """Of one sample, where the graph has one input and says its shape."""
    shapes = [graph.model.shapes.get(name) for name in graph.inputs]
    sizes = [n for shape in shapes if shape for n in shape[1:] if isinstance(n, int)]
    known = len(shapes) == 1 and shapes[0] is not None and len(sizes) == len(shapes[0]) - 1
    return math.prod(sizes) if known else None


def _given(cls: GraphClass, bound: Any) -> Mapping[str, Fraction]:
    """One bound for all tensors, or one for each by its name, which stored numbers must obey."""
    if isinstance(bound, str) and bound in STARTS:
        raise ArgumentError(
            Asked("bound", bound),
            " is for widths and chains of dense layers; a number, or one for each tensor",
        )
    named = bound if isinstance(bound, Mapping) else dict.fromkeys(cls.bounds, bound)
    if named.keys() != cls.bounds.keys():
        wrong = sorted(named.keys() ^ cls.bounds.keys())[0]
        raise ArgumentError(Asked("bound", bound), f": one for each tensor; what of {wrong!r}?")
    found = {name: holding(x) for name, x in named.items()}
    for name, limit in found.items():
        if cls.bounds[name] > limit:
            raise ArgumentError(
                f"an entry of {name!r} has size {float(cls.bounds[name]):.6g}, above ",
                Asked("bound", limit, f"{float(limit):g}"),
            )
    return found


def _direct(cls: GraphClass, name: str, price: float) -> Callable[[Real, Real], float]:
    """The best gap over accuracies 1, 1/2, 1/4, ..., at the price of trying them all; delta exp(-price) is
    left for one choice of bounds.
    """
    found = [(2.0**-k, cls.log_coverings(Fraction(1, 2**k))[name]) for k in range(SCALES)]
    gap = over_accuracies(found, price)
    return lambda n, delta: gap(n, delta, 1.0)
