"""The report on a class of networks: its size, its symmetries, and every bound on the gap with what
it assumes.

Each bound on the gap holds with probability 1 - delta by itself. Bounds of 1 or more say nothing:
they are printed as `vacuous`, with the number of samples that would make them say something. Norms
of trained weights are known only after training, so they are rounded up to a power of two, and the
k-th power tried pays log(pi^2 k^2 / 6).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.domains import Samples
from moduli.common.result import Result, notebook, plain
from moduli.compression.exact.reduce import compress
from moduli.equivalence import order_payload
from moduli.equivalence.group import SymmetryGroup
from moduli.kernel.errors import ArgumentError, Asked, ShapeError
from moduli.kernel.network import Network

from .covering_numbers import (
    STARTS,
    Class,
    log,
    published_deep,
    published_shallow,
    rational,
    start_bounds,
)
from .gap_bounds import (
    Norms,
    Real,
    anthony_covering,
    bartlett_capacity,
    bartlett_rademacher,
    dudley,
    golowich_rademacher,
    lin_zhang_covering,
    needed,
    neyshabur_rademacher,
    occam_gap,
    rademacher_gap,
    sparse_covering,
    spectral_order,
    uniform_gap,
    upward,
    vc_dimension,
)
from .packing import applies, exponent, log_packing
from .risk import ROUNDED, Gap, Risk, by_code, by_cover, margins, network_bits

Array = np.ndarray[Any, np.dtype[np.float64]]
SCALES = 21


class Bound(NamedTuple):
    """One row.

    Attributes:
        name, source. quantity: what `value` is. gap: the bound on the gap, if the number of samples
            is known. needed: samples for a gap below 1. norms: what it was computed from. status:
            proved, bounded (published), estimated (a constant is missing or unverified), not
            applicable, not computed. note: why, or what is assumed.
    """

    name: str
    quantity: str
    value: Real | None
    gap: Real | None
    needed: Real | None
    norms: str
    source: str
    status: str
    note: str

    @property
    def vacuous(self) -> bool | None:
        """Whether the gap is at least the range of the loss; None where there is none."""
        return None if self.gap is None else self.gap >= 1

    @property
    def verdict(self) -> str:
        if self.gap is None:
            return ""
        return f"vacuous ({self.gap:.3g})" if self.vacuous else f"{self.gap:.3g}"


SHEN = "constant unverified"


@dataclass(frozen=True, eq=False, repr=False)
class Complexity(Result):
    """How large a class of networks is, with and without its symmetries, and what that says of
    generalisation.

    Attributes:
        cls: architecture, bounds and inputs. network: the model, if one was given. chosen: whether
            the bounds were read off its weights. samples: their number n. inputs: the samples.
            accuracy: of the covering numbers in the table. delta: 1 - confidence. targets: classes of the samples.
    """

    cls: Class
    network: Network | None = None
    chosen: bool = False
    samples: int | None = None
    inputs: Array | None = None
    accuracy: Real = 0.1
    delta: Real = 0.05
    targets: Any = None
    kind: ClassVar[str] = "complexity"

    def log_covering(self, accuracy: Real | None = None, *, symmetry: bool = True) -> float:
        """A proved bound of the log of the covering number in the sup norm: the least of Theorems
        P, S and the plain grid.
        """
        if accuracy is None:
            accuracy = self.accuracy
        return self.cls.log_covering(accuracy, symmetry=symmetry)

    @property
    def log_symmetries(self) -> float:
        """Logarithm of the order of the group that keeps the class: permutations, signs of odd and
        even units.
        """
        return self.cls.log_group

    @property
    def share(self) -> float:
        """The part of the plain logarithm that the group is worth."""
        return _part(self.log_symmetries, self.log_covering(symmetry=False))

    @property
    def statement(self) -> str:
        saved = 100 * self.share
        return (
            f"log covering number at {self.accuracy:g}: {self.log_covering(symmetry=False):.6g} plain, "
            f"{self.log_covering():.6g} modulo symmetries (the group is worth {self.log_symmetries:.6g}, {saved:.2g} %)"
        )

    @cached_property
    def _small(self) -> Network | None:
        if self.network is None:
            return None
        small = compress(self.network).rounded(self.network.dtype).network
        return small if small.units < self.network.units else None

    def facts(self) -> list[tuple[str, str]]:
        """What is known of architecture and parameters."""
        cls = self.cls
        dimension = sum(part.dimension for part in cls.parts)
        order = math.fsum(part.log_order for part in cls.parts)
        rows = [
            (
                "class",
                f"{'-'.join(map(str, cls.widths))} {'/'.join(dict.fromkeys(map(str, cls.activations)))}, "
                f"entries <= {_few([float(b) for b in cls.bounds])}, inputs <= {float(cls.input_bound):g} ({cls.norm} norm)",
            ),
            ("parameters, units", f"{cls.parameters}, {cls.units}"),
            ("discrete symmetries", f"e^{order:.6g} = 2^{order / math.log(2):.6g}"),
            (
                "continuous symmetries",
                f"{dimension} dimensions; parameters less these: {cls.parameters - dimension}",
            ),
        ]
        if self.network is not None:
            group = SymmetryGroup.of(self.network)
            low, high = group.log_stabiliser
            rows.append(
                (
                    "stabiliser",
                    f"e^{low:.6g}" if low == high else f"between e^{low:.6g} and e^{high:.6g}",
                )
            )
            rows.append(
                (
                    "free bits",
                    f"{group.free_bits:.6g} of the {self._bits(self.network)} stored (order and signs of units)",
                )
            )
            bits = order_payload.capacity(self.network)
            rows.append(
                (
                    "payload",
                    f"up to {bits} bits in the order of units alone (moduli.equivalence.order_payload)",
                )
            )
            small = self._small
            if small is not None:
                less = replace(self, cls=_class_of(small, cls), network=small)
                gone = self.network.units - small.units
                rows.append(
                    (
                        "lossless compression",
                        f"removes {gone} units on all inputs; log covering number then {less.log_covering():.6g}",
                    )
                )
            else:
                rows.append(("lossless compression", "removes nothing on all inputs"))
        rows.append(("volume of the class", self._volume()))
        rows += [(f"risk, {risk.name}", risk.said) for risk in self.risks]
        return rows

    @cached_property
    def risks(self) -> tuple[Risk, ...]:
        """Bounds of the probability of a wrong class, each with probability 1 - delta by itself; none without
        `targets`. Of the network before its output map.
        """
        if self.targets is None or self.network is None or self.inputs is None:
            return ()
        net = self.network
        at = margins(replace(net, output_map="identity")(self.inputs), self.targets)
        delta, classes = self.delta, net.widths[-1]
        cls, price = self._rounded_class()
        gap = over_accuracies(
            [(2.0**-k, cls.log_covering(Fraction(1, 2**k))) for k in range(SCALES)], price
        )
        stored, coded = float(self._bits(net) + 1), network_bits(net) + 1
        fixed = "layers and activations fixed in advance"
        return (
            by_cover("best cover, union over margins", at, gap, delta, classes,
                     f"inputs bounded, widths and activations fixed in advance; {ROUNDED}"),
            by_code("Occam, as stored", at, stored, delta, classes,
                    f"{stored:.0f} bits; architecture fixed in advance"),
            by_code("Occam, coded", at, coded, delta, classes, f"{coded:.0f} bits; {fixed}"),
            by_code("fresh samples", at, 0.0, delta, classes, "only if no sample had a part in training"),
        )  # fmt: skip

    def _rounded_class(self) -> tuple[Class, Real]:
        """With bounds that were chosen after training rounded up to powers of two, and the price of that."""
        shells = [shell(float(b)) for b in self.cls.bounds]
        if not self.chosen:
            return self.cls, 0.0
        bounds = tuple(Fraction(b) for b, _ in shells)
        return replace(self.cls, bounds=bounds), sum(cost for _, cost in shells)

    def _volume(self) -> str:
        steps = [self.cls.log_volume_step(l) for l in range(1, len(self.cls.widths) - 1)]
        if not steps:
            return "no hidden units"
        which = "grows or shrinks by layer"
        if all(s > 0 for s in steps):
            which = "grows"
        elif all(s < 0 for s in steps):
            which = "shrinks"
        return f"e^{self.cls.log_volume():.6g} modulo symmetries; {which} with one more unit"

    def _bits(self, net: Network) -> int:
        return (32 if net.dtype == "float32" else 64) * net.parameters

    def rows(self) -> list[Bound]:  # type: ignore[override]
        """The table of bounds."""
        return [*self._ours(), *self._published()]

    def _row(
        self, name: str, quantity: str, value: Real | None, norms: str, source: str, status: str, note: str = "",
        gap: Callable[[Real, Real], float] | None = None, price: Real = 0.0,
    ) -> Bound:  # fmt: skip
        """`gap` takes the number of samples and delta; `price` is what norms known after training
        cost.
        """
        if gap is None:
            return Bound(name, quantity, value, None, None, norms, source, status, note)
        delta = self.delta * math.exp(-price)
        now = None if self.samples is None else gap(self.samples, delta)
        return Bound(
            name,
            quantity,
            value,
            now,
            needed(lambda n: gap(n, delta)),
            norms,
            source,
            status,
            note,
        )

    def _ours(self) -> list[Bound]:
        cls, eps = self.cls, rational(self.accuracy)
        source, norms = "derived here", "largest entry of each layer"
        rounded, price = self._rounded_class()
        what = "log covering number"
        rows = [
            self._row(
                "plain grid",
                what,
                cls.log_plain(eps),
                norms,
                source,
                "proved",
                "no symmetry",
                _direct(rounded, False),
                price,
            ),
            self._row(
                "Theorem P",
                what,
                cls.log_permuted(eps),
                norms,
                source,
                "proved",
                "the grid modulo permutations and signs of units: multisets of rows are counted",
            ),
        ]
        if len(cls.widths) == 3:
            rows.append(
                self._row(
                    "orbits of the grid",
                    what,
                    cls.log_shallow(eps),
                    norms,
                    source,
                    "proved",
                    "one hidden layer: orbits of the group on the grid are counted",
                )
            )
        if cls.activations and all(s.homogeneous for s in cls.activations):
            rows.append(
                self._row(
                    "Theorem S",
                    what,
                    cls.log_scaled(eps),
                    norms,
                    source,
                    "proved",
                    "the grid modulo positive scales of units, too: rows of norm one are counted",
                )
            )
        rows.append(self._row(
            "best of these", what, self.log_covering(), norms, source, "proved", "",
            _direct(rounded, True), price
        ))  # fmt: skip
        rows.append(self._row(
            "Dudley's integral", "log covering number at 1", rounded.log_covering(1), norms,
            source, "proved", "permutations", _chained(rounded), price,
        ))  # fmt: skip
        rows.append(self._packing())
        if self.network is None:
            return rows
        for name, net in (("Occam, as stored", self.network), ("Occam, compressed", self._small)):
            if net is None:
                continue
            named = 1 + math.fsum(
                math.log2(d + 1) for d in self.network.widths[1:-1] if net is not self.network
            )
            bits, free = self._bits(net) + named, SymmetryGroup.of(net).free_bits

            def gap(n: Real, delta: Real, bits: Real = bits, free: Real = free) -> float:
                return occam_gap(bits, free, n, delta)

            note = f"{bits:.0f} bits (one names the format), {free:.0f} free; architecture fixed in advance"
            rows.append(
                self._row(
                    name, "bits less free bits", bits - free, "none", source, "proved", note, gap
                )
            )
        return rows

    def _packing(self) -> Bound:
        """From below."""
        name, what, source = "packing", "log covering number, at least", "derived here"
        value = log_packing(self.cls, rational(self.accuracy))
        if value is None:
            return self._none(name, what, source, "needs hidden layers of ReLU units")
        note = f"exponent of 1/accuracy at least {exponent(self.cls)} of {self.cls.parameters} parameters"
        return self._row(name, what, value, "bounds of the last two layers", source, "proved", note)

    def _ou(self) -> Bound:
        """W^2 L log((W + 1)^L B^L / eps), from above and below but for constants."""
        cls, name, what = self.cls, "Ou, Bölcskei 2024", "order of the log covering number"
        source = "abstract read, formula remembered"
        if not applies(cls) or max(cls.bounds) < 1:
            return self._none(name, what, source, "needs ReLU and entries up to 1 or more")
        width, depth = max(cls.widths), len(cls.widths) - 1
        inside = Fraction(width + 1) ** depth * max(cls.bounds) ** depth / rational(self.accuracy)
        value = width**2 * depth * log(inside)
        return self._row(name, what, value, "largest entry of all", source, "estimated",
                         "constants are not known")  # fmt: skip

    def _published(self) -> list[Bound]:
        rows = [self._shen(), self._ou(), self._anthony()]
        rows += self._by_norms()
        rows.append(self._vc())
        rows.append(self._schmidt_hieber())
        for name in ("Wei, Ma 2019", "Ledent et al. 2021", "Gouk et al. 2021", "Arora et al. 2018"):
            rows.append(self._row(name, "", None, "", "", "not computed", "constant not available"))
        return rows

    def _schmidt_hieber(self) -> Bound:
        """For the number s of entries that are not 0; read off the weights it pays for one of
        `parameters` + 1 numbers.
        """
        cls, net = self.cls, self.network
        name, what, source = "Schmidt-Hieber 2020", "log covering number", "Lemma 5, remembered"
        entries = "ReLU, entries <= 1, inputs in [0, 1]"
        if any(s.kind != "relu" for s in cls.activations) or max(*cls.bounds, cls.input_bound) > 1:
            return self._none(name, what, source, f"needs {entries}")
        if self.inputs is not None and self.inputs.min() < 0:
            return self._none(
                name,
                what,
                source,
                f"needs {entries}; the samples go down to {self.inputs.min():.3g}",
            )
        nonzero, price = cls.parameters, 0.0
        if net is not None:
            nonzero, price = int(np.count_nonzero(net.flat())), math.log(cls.parameters + 1)

        def gap(n: Real, delta: Real) -> float:
            return min(
                uniform_gap(
                    sparse_covering(cls.widths, nonzero, 2.0**-k), 2.0**-k, n, delta / SCALES
                )
                for k in range(SCALES)
            )

        value, norms = (
            sparse_covering(cls.widths, nonzero, self.accuracy),
            f"{nonzero} non-zero entries",
        )
        return self._row(name, what, value, norms, source, "bounded", entries, gap, price)

    def _none(self, name: str, quantity: str, source: str, why: str) -> Bound:
        return self._row(name, quantity, None, "", source, "not applicable", why)

    def _shen(self) -> Bound:
        cls, name, what = self.cls, "Shen 2024", "log covering number"
        if not cls.activations or cls.widths[-1] != 1:
            return self._none(
                name, what, SHEN, f"needs hidden layers and one output, not {cls.widths[-1]}"
            )
        if 0 in cls.widths:
            return self._none(name, what, SHEN, "needs units in every hidden layer")
        published, note = published_deep, ""
        if len(cls.widths) == 3:
            published, note = published_shallow, "one hidden layer"
        return self._row(
            name,
            what,
            published(cls, self.accuracy),
            "largest entry of all",
            SHEN,
            "estimated",
            note,
        )

    def _anthony(self) -> Bound:
        cls, name = self.cls, "Anthony, Bartlett 1999"
        what, source = "log covering number on the sample", "Theorem 14.5, remembered"
        if not cls.activations or any(s.bound is None for s in cls.activations):
            return self._none(name, what, source, "needs bounded activations")
        if self.samples is None:
            return self._none(name, what, source, "needs the number of samples")
        bound = max(_above(Fraction(s.bound or 0)) for s in cls.activations)
        slope = _above(max(s.lipschitz for s in cls.activations))
        row = _above(max(b * (d + 1) for b, d in zip(cls.bounds, cls.widths[:-1], strict=True)))
        if self.network is not None:
            sums = [
                (np.abs(x.weight).sum(axis=1) + np.abs(x.bias)).max(initial=0.0)
                for x in self.network.layers
            ]
            row = upward(max(map(float, sums)), max(cls.widths) + 1)
        if slope * row <= 1 or self.accuracy > 2 * bound or cls.input_bound > bound:
            return self._none(
                name,
                what,
                source,
                f"needs V L > 1 (here {slope * row:.3g}), eps <= 2b and inputs <= b = {bound:g}",
            )
        value = anthony_covering(
            cls.parameters, len(cls.widths) - 1, row, bound, slope, self.samples, self.accuracy
        )
        return self._row(name, what, value, f"V = {row:.3g}, b = {bound:g}", source, "bounded")

    def _by_norms(self) -> list[Bound]:
        """Rows that need weights and no biases; a constant unit carries biases where sigma(1) = 1."""
        cls, net = self.cls, self.network
        names = (
            ("Bartlett et al. 2017", "Theorem 3.3, remembered"),
            ("Neyshabur et al. 2015", "remembered"),
            ("Golowich et al. 2018", "Theorem 1"),
            ("Neyshabur et al. 2018", "remembered, constant not explicit"),
            ("Lin, Zhang 2019", "through third-party code"),
        )
        if net is None:
            return [
                self._none(name, "", source, "needs weights; only widths were given")
                for name, source in names
            ]
        biased = any(layer.bias.any() for layer in net.layers)
        linear = all(s.homogeneous and s.exact(Fraction(1)) == 1 for s in net.activations)
        if not all(s.exact(Fraction(0)) == 0 for s in net.activations):
            return [self._none(name, "", source, "needs sigma(0) = 0") for name, source in names]
        if biased and not linear:
            return [
                self._none(name, "", source, "needs a network without biases")
                for name, source in names
            ]
        weights = _without_biases(net) if biased else [layer.weight for layer in net.layers]
        norms = Norms.of(weights)
        slope = _above(max((s.lipschitz for s in net.activations), default=Fraction(1)))
        size, rms = self._input_sizes(biased)
        note = "biases carried by a constant unit" if biased else ""
        product, relu = math.prod(norms.frobenius), all(s.kind == "relu" for s in net.activations)
        product = upward(product, len(net.layers)) if product else 0.0
        largest, price = shell(product)
        up = largest / product if product else 1.0
        n, eps = self.samples, self.accuracy
        shells = sum(shell(s)[1] for s in (*norms.spectral, *norms.rows))
        # A bound for one size of norms needs no union bound; so each is rounded up to its shell,
        # and the shells are paid for.
        shelled = norms._replace(
            spectral=tuple(shell(s)[0] for s in norms.spectral),
            rows=tuple(shell(s)[0] for s in norms.rows),
        )
        rows = []

        def spectral(m: Real, delta: Real) -> float:
            return rademacher_gap(
                bartlett_rademacher(shelled, rms * math.sqrt(m), m, slope), m, delta
            )

        capacity = bartlett_capacity(norms, rms, slope) / eps**2
        rows.append(self._row(
            names[0][0], "log covering number, L2 of the sample", capacity,
            "spectral, sum of row norms, |X|_F", names[0][1], "bounded", note, spectral, shells,
        ))  # fmt: skip
        for (name, source), formula in zip(
            names[1:3], (neyshabur_rademacher, golowich_rademacher), strict=True
        ):
            if not relu or cls.widths[-1] != 1:
                rows.append(
                    self._none(name, "Rademacher complexity", source, "needs ReLU and one output")
                )
                continue

            def gap(m: Real, delta: Real, formula: Any = formula) -> float:
                return rademacher_gap(up * formula(norms, size, m), m, delta)

            value = None if n is None else formula(norms, size, n)
            rows.append(
                self._row(
                    name,
                    "Rademacher complexity",
                    value,
                    "Frobenius, |x|_2",
                    source,
                    "bounded",
                    note,
                    gap,
                    price,
                )
            )
        name, source = names[3]
        if relu and n is not None:
            value = spectral_order(norms, size, n, eps, self.delta)
            rows.append(
                self._row(
                    name,
                    f"order of the gap at margin {eps:g}",
                    value,
                    "spectral, Frobenius",
                    source,
                    "estimated",
                    note,
                )
            )
        else:
            rows.append(
                self._none(name, "order of the gap", source, "needs ReLU and the number of samples")
            )
        value = lin_zhang_covering(norms, rms, eps)
        rows.append(
            self._row(
                *names[4][:1],
                "log covering number",
                value,
                "spectral, Frobenius",
                names[4][1],
                "bounded",
                note,
            )
        )
        return rows

    def _input_sizes(self, biased: bool) -> tuple[float, float]:
        """Largest and root mean square Euclidean norm of the inputs, with the 1 that carries
        biases.
        """
        if self.inputs is not None:
            squares = np.square(self.inputs).sum(axis=1)
            largest, mean = float(squares.max()), float(squares.mean())
        else:
            largest = mean = _above(self.cls.input_bound) ** 2 * (
                1 if self.cls.norm == "2" else self.cls.widths[0]
            )
        terms = self.cls.widths[0] + (0 if self.inputs is None else len(self.inputs))
        return upward(math.sqrt(largest + biased), terms), upward(math.sqrt(mean + biased), terms)

    def _vc(self) -> Bound:
        cls, what = self.cls, "VC dimension"
        name, source = "Bartlett et al. 2019", "Theorem 7, remembered"
        if cls.widths[-1] != 1 or not all(
            s.piecewise_linear and s.homogeneous for s in cls.activations
        ):
            return self._none(
                name, what, source, "needs activations of two linear pieces and one output"
            )
        return self._row(name, what, vc_dimension(cls.widths), "none", source, "bounded")

    # Shown

    def table(self, extra: list[tuple[str, str]] | None = None) -> Any:
        """Facts, bounds, and the bounds that have no number here."""
        from moduli.common.tables import Columns, Labelled, Parts

        rows, missing = [], dict[str, list[str]]()
        for row in self.rows():
            if row.value is None and row.gap is None and row.needed is None:
                missing.setdefault(f"{row.status}: {row.note}", []).append(row.name)
                continue
            value, needed = (
                "" if row.value is None else f"{row.value:.6g}",
                "" if row.needed is None else _count(row.needed),
            )
            about = "; ".join(part for part in (row.quantity, row.source, row.note) if part)
            rows.append((row.name, value, row.verdict, needed, row.status, about))
        numbers = ("value", "gap", "samples for < 1")
        grid = Columns(("bound", *numbers, "status", "of"), rows, numbers)
        others = [(why, "; ".join(names)) for why, names in missing.items()]
        facts = Labelled(self.statement, [*self.facts(), *(extra or [])])
        return Parts([facts, grid, Labelled("without a number", others)])

    def _repr_html_(self) -> str:
        shown = [
            row
            for row in self.rows()
            if not (row.value is None and row.gap is None and row.needed is None)
        ]
        rows = [
            (
                row.name,
                "" if row.value is None else f"{row.value:.6g}",
                row.verdict,
                row.status,
                row.quantity,
                row.source,
            )
            for row in shown
        ]
        return notebook(self, rows, ("bound", "value", "gap", "status", "of what", "source"))

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns of the table of bounds, for `pandas.DataFrame`."""
        rows = self.data_rows()
        return {name: [row[name] for row in rows] for name in rows[0]}

    def data_rows(self) -> list[dict[str, Any]]:
        return [{**row._asdict(), "vacuous": row.vacuous} for row in self.rows()]

    def to_json(self) -> dict[str, Any]:
        cls = self.cls
        return dict(plain({
            "schema": "moduli.complexity/1", "status": self.status, "statement": self.statement,
            "widths": list(cls.widths), "activations": list(map(str, cls.activations)),
            "bounds": [float(b) for b in cls.bounds], "input_bound": float(cls.input_bound),
            "norm": cls.norm, "accuracy": self.accuracy, "delta": self.delta,
            "samples": self.samples, "log_symmetries": self.log_symmetries,
            "log_covering": self.log_covering(),
            "log_covering_plain": self.log_covering(symmetry=False), "facts": dict(self.facts()),
            "rows": self.data_rows(), "plot_data": self.plot_data(),
            "risks": [{**risk._asdict(), "vacuous": risk.vacuous} for risk in self.risks],
        }))  # fmt: skip

    def plot_data(self) -> dict[str, Any]:
        """Log covering numbers against accuracy, and the share of the group against the width."""
        eps = [10.0 ** (-k / 4) for k in range(17)]
        factors = [2.0**k for k in range(-3, 7)] if self.cls.activations else []
        wider = [_widened(self.cls, f) for f in factors]
        plain = [c.log_covering(self.accuracy, symmetry=False) for c in wider]
        return {
            "accuracy": eps,
            "plain": [self.log_covering(e, symmetry=False) for e in eps],
            "modulo": [self.log_covering(e) for e in eps],
            "units": [c.units for c in wider],
            "share": [_part(c.log_group, whole) for c, whole in zip(wider, plain, strict=True)],
            "saved": [
                1 - _part(c.log_covering(self.accuracy), whole)
                for c, whole in zip(wider, plain, strict=True)
            ],
        }

    def plot(self, ax: Any = None) -> Any:
        """Both pictures, side by side."""
        from moduli.common.figures import complexity_figure

        return complexity_figure(
            {**self.plot_data(), "here": self.cls.units, "eps": self.accuracy}, ax
        )


def complexity(
    net_or_widths: Network | Sequence[int], activation: Any, bound: Any, input_bound: Any, samples: Any, accuracy: Real,
    delta: Real, norm: str, targets: Any = None,
) -> Complexity:  # fmt: skip
    """See `api.complexity`."""
    net = net_or_widths if isinstance(net_or_widths, Network) else None
    if not accuracy > 0 or not 0 < delta < 1:
        raise ArgumentError(
            Asked("accuracy", accuracy), ", ", Asked("delta", delta),
            ": accuracy is positive, delta between 0 and 1",
        )  # fmt: skip
    if net is not None:
        cls = Class.of_network(net.widths, list(net.activations), 1, input_bound, norm)
        cls = _class_of(net, cls) if bound is None else replace(cls, bounds=_limits(net, bound))
    else:
        limit = 1 if bound is None else bound
        cls = Class.of(net_or_widths, activation or "relu", limit, input_bound, norm)  # type: ignore[arg-type]
    count, data = sampled(samples, cls.widths[0], cls.input_bound, norm)
    chosen = net is not None and bound is None
    if targets is not None and (net is None or data is None):
        raise ArgumentError(
            Asked("targets"),
            " are classes of samples: give a model and ",
            Asked("samples", Samples),
        )
    found = Complexity("bounded", cls, net, chosen, count, data, accuracy, delta, targets)
    _ = found.risks  # which says what is wrong with targets
    return found


def sampled(
    samples: int | Samples | None, inputs: int | None, bound: Fraction, norm: str
) -> tuple[int | None, Array | None]:
    """How many samples there are, and the samples where they were given.

    Args:
        inputs: how many entries each must have, where that is known. bound: of their size.

    Raises:
        ArgumentError: no such number, or a sample above the bound. ShapeError: other inputs.
    """
    count, data = (len(samples.x), samples.x) if isinstance(samples, Samples) else (samples, None)
    if count is not None and (int(count) != count or count < 1):
        raise ArgumentError(
            Asked("samples", samples), ": a positive number of samples, or Samples(x)"
        )
    if data is not None:
        if inputs is not None and data.shape[1] != inputs:
            raise ShapeError(f"samples have shape {data.shape}; the networks have {inputs} inputs")
        outside = _beyond(data, bound, norm)
        if outside is not None:
            raise ArgumentError(
                f"samples of size {outside:.6g} ({norm} norm) exceed ",
                Asked("input_bound", bound, f"{float(bound):g}"), "; raise it",
            )  # fmt: skip
    return None if count is None else int(count), data


def _beyond(data: Array, bound: Fraction, norm: str) -> float | None:
    """The size of the largest row where it exceeds the bound, decided in rationals where floats
    leave it open.
    """
    if norm == "inf":
        size = float(np.abs(data).max())
        return size if Fraction(size) > bound else None
    sizes = np.linalg.norm(data, axis=1)
    slip = (data.shape[1] + 4) * 2.0**-53
    for k in np.argsort(-sizes):
        size = float(sizes[k])
        if size * (1 - slip) > bound:
            return size
        if upward(size, data.shape[1]) <= bound:
            return None
        if sum(Fraction(x) ** 2 for x in data[k].tolist()) > bound**2:
            return size
    return None


def _above(x: Fraction) -> float:
    """The float next above a positive rational, or equal to it."""
    if x > sys.float_info.max:
        return math.inf
    near = float(x)
    return near if Fraction(near) >= x else math.nextafter(near, math.inf)


def _largest(net: Network) -> list[float]:
    """The largest entry of each layer, exactly."""
    return [
        max(float(np.abs(x.weight).max(initial=0)), float(np.abs(x.bias).max(initial=0)))
        for x in net.layers
    ]


def _class_of(net: Network, like: Class) -> Class:
    """Bounded by the largest entry of each layer: by the floats themselves, which the class must
    hold.
    """
    bounds = [Fraction(size or 1e-300) for size in _largest(net)]
    return Class.of_network(net.widths, list(net.activations), bounds, like.input_bound, like.norm)


def _limits(net: Network, bound: Any) -> tuple[Fraction, ...]:
    """Bounds given before training, which the weights must obey."""
    if isinstance(bound, str) and bound in STARTS:
        bound = start_bounds(net.widths, bound)
    given = (
        list(bound) if isinstance(bound, (list, tuple, np.ndarray)) else [bound] * len(net.layers)
    )
    limits = Class.of_network(net.widths, list(net.activations), given).bounds
    for l, (size, limit) in enumerate(zip(_largest(net), limits, strict=True), 1):
        if Fraction(size) > limit:
            raise ArgumentError(
                f"an entry of layer {l} has size {size:.6g}, above ",
                Asked("bound", limit, f"{float(limit):g}"),
            )
    return limits


def _without_biases(net: Network) -> list[Array]:
    """The same function on (x, 1): a unit that is always 1 carries the biases; the last layer needs
    none.
    """
    matrices = []
    for l, layer in enumerate(net.layers):
        whole = np.column_stack([layer.weight, layer.bias])
        carry = np.zeros((0 if l == len(net.layers) - 1 else 1, whole.shape[1]))
        carry[:, -1] = 1
        matrices.append(np.vstack([whole, carry]))
    return matrices


def _direct(cls: Class, symmetry: bool) -> Callable[[Real, Real], float]:
    """The best gap over accuracies 1, 1/2, 1/4, ..., at the price of trying them all."""
    found = [
        (2.0**-k, cls.log_covering(Fraction(1, 2**k), symmetry=symmetry)) for k in range(SCALES)
    ]
    gap = over_accuracies(found, 0.0)
    return lambda n, delta: gap(n, delta, 1.0)


def over_accuracies(found: Sequence[tuple[float, float]], price: Real) -> Gap:
    """The least gap over accuracies and logs of covering numbers, each with its part of delta, for a loss of some
    Lipschitz constant; delta exp(-price) is left for one choice of bounds.
    """

    def gap(n: Real, delta: Real, lipschitz: Real) -> float:
        share = delta / len(found)
        return min(
            uniform_gap(size + price, eps, n, share, lipschitz=lipschitz) for eps, size in found
        )

    return gap


def _chained(cls: Class) -> Callable[[Real, Real], float]:
    """Dudley's integral for losses in [0, 1]: log N(e) <= sum S_l log((m_l + 1)/e) - log|G| + what
    the corollary of P adds.

    m_l are the cells at accuracy 1. Signs are left out: halving the rows adds terms that the
    corollary does not have.
    """
    cells = cls.cells(Fraction(1))
    log_scale = (
        math.fsum(s * log(m + 1) for s, m in zip(cls.sizes, cells, strict=True)) / cls.parameters
    )
    hidden = zip(cls.widths[:-2], cls.widths[1:-1], cells, strict=False)
    extra = math.fsum(
        d * (d - 1) / 2 * math.exp(-min(700.0, (n + 1) * log(m))) for n, d, m in hidden
    )
    group = math.fsum(math.lgamma(d + 1) for d in cls.widths[1:-1]) - extra
    return lambda n, delta: rademacher_gap(
        dudley(cls.parameters, log_scale, max(0.0, group), 1.0, n), n, delta
    )


def shell(size: Real) -> tuple[float, float]:
    """The next power of two, and what it costs to have chosen it after seeing the data."""
    mantissa, j = math.frexp(size)
    if mantissa == 0.5:  # a power of two is its own shell
        j -= 1
    k = 2 * j if j > 0 else 1 - 2 * j
    shell = math.ldexp(1.0, j) if j < 1024 else sys.float_info.max
    return shell, math.log(math.pi**2 * k * k / 6)


def _part(x: float, whole: float) -> float:
    return x / whole if whole else 0.0


def _widened(cls: Class, factor: Real) -> Class:
    hidden = tuple(max(1, round(d * factor)) for d in cls.widths[1:-1])
    return replace(cls, widths=(cls.widths[0], *hidden, cls.widths[-1]))


def _few(numbers: Sequence[float]) -> str:
    return f"{numbers[0]:g}" if len(set(numbers)) == 1 else ", ".join(f"{x:.4g}" for x in numbers)


def _count(n: Real) -> str:
    return f"{n:.0f}" if n < 1e6 else f"{n:.2g}"
