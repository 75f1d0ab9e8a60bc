"""Are two graphs the same function? As far as moves and samples decide.

Proved where both are the same graph once all that can be left out is left out. Otherwise both are
run at drawn inputs: outputs that differ by far more than roundings refute it. Nothing else is known
yet: graphs whose units are in another order stay undecided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.graph import Graph
from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.compression.graph_results import GraphCompression, compress, drawn, ranges_of
from moduli.kernel.box import Box
from moduli.kernel.errors import CertificateRejected, ShapeError, UnsupportedModel

from .group import Signature

INPUTS = 8  # drawn inputs at which both graphs are run
SURE = 1e-6  # relative difference of float64 outputs that no order of summation explains


class GraphWitness(NamedTuple):
    """An input, by name, at which an output differs, and its largest difference there."""

    inputs: Mapping[str, Any]
    output: str
    difference: float


@dataclass(frozen=True, eq=False, repr=False)
class GraphEquivalence(Result):
    """Whether two graphs are one function.

    Attributes:
        a, b: what was left out of each, with its proof. witness: where they differ, as float64
            computes it.
        seen: the largest difference at the inputs that were drawn; None where none could be run.
    """

    a: GraphCompression
    b: GraphCompression
    eps: float = 0.0
    on: Box | None = None
    witness: GraphWitness | None = None
    seen: float | None = None
    kind: ClassVar[str] = "equal"

    def check(self) -> bool:
        """Replay both proofs and compare what is left."""
        if self.status != "proved":
            return super().check()
        same = self.a.network.digest == self.b.network.digest
        if not (self.a.check() and self.b.check() and same):
            raise CertificateRejected("what is left of the two graphs is not the same")
        return True

    @property
    def statement(self) -> str:
        where = "for all inputs" if self.on is None else f"on {self.on!r}"
        if self.status == "proved":
            return f"the same function {where}: both reduce to the same graph"
        if self.witness is not None:
            name, size = self.witness.output, self.witness.difference
            return f"output {name!r} differs by {size:.6g} at a drawn input, computed in float64"
        seen = (
            "no input could be run"
            if self.seen is None
            else f"outputs differ by at most {self.seen:.3g} at drawn inputs"
        )
        return f"undecided: they reduce to different graphs; {seen}"

    def asked(self) -> list[tuple[str, str]]:
        return [("first", repr(self.a.original)), ("second", repr(self.b.original))]

    def facts(self) -> list[tuple[str, str]]:
        return [("first reduced", repr(self.a.network)), ("second reduced", repr(self.b.network))]

    def data(self) -> dict[str, Any]:
        witness = None
        if self.witness is not None:
            inputs = {name: np.asarray(x).tolist() for name, x in self.witness.inputs.items()}
            witness = {
                "inputs": inputs,
                "output": self.witness.output,
                "difference": self.witness.difference,
            }
        return {
            "a": self.a.original.digest, "b": self.b.original.digest, "eps": self.eps,
            "on": None if self.on is None else [self.on.low.tolist(), self.on.high.tolist()],
            "witness": witness, "seen": self.seen,
        }  # fmt: skip


def equivalent(
    a: Graph,
    b: Graph,
    on: Box | None,
    eps: float,
    budget: int,
    seed: Any,
    progress: Progress | None,
) -> GraphEquivalence:
    """Compare two graphs whose inputs and outputs agree in number and order.

    Raises:
        ShapeError: they do not.
    """
    if (len(a.inputs), len(a.outputs)) != (len(b.inputs), len(b.outputs)):
        raise ShapeError(f"{a!r} and {b!r} do not have the same inputs and outputs")
    for name, other in zip((*a.inputs, *a.outputs), (*b.inputs, *b.outputs), strict=True):
        _require_fit(name, a.model.shapes.get(name), other, b.model.shapes.get(other))
    first, second = compress(a, on, budget, progress), compress(b, on, budget, progress)
    if first.network.digest == second.network.digest:
        return GraphEquivalence("proved", first, second, eps, on)
    witness, seen = _sampled(a, b, on, eps, seed)
    status = "undecided" if witness is None else "refuted"
    return GraphEquivalence(status, first, second, eps, on, witness, seen)


def _require_fit(name: str, a: Any, other: str, b: Any) -> None:
    """Known sizes have to agree."""
    if a is None or b is None:
        return
    fits = len(a) == len(b) and all(
        m == n or isinstance(m, str) or isinstance(n, str) for m, n in zip(a, b, strict=True)
    )
    if not fits:
        raise ShapeError(f"{name!r} has shape {a}, and {other!r} of the other {b}")


def _sampled(
    a: Graph, b: Graph, on: Box | None, eps: float, seed: Any
) -> tuple[GraphWitness | None, float | None]:
    rng = np.random.default_rng(seed)
    ranges = {} if on is None else ranges_of(a.model, on)
    seen: float | None = None
    for _ in range(INPUTS):
        feeds = drawn(a.model, ranges, a.source.integers, rng)
        if feeds is None:
            return None, seen
        renamed = {other: feeds[name] for name, other in zip(a.inputs, b.inputs, strict=True)}
        try:
            ours, theirs = a.source.run(feeds), b.source.run(renamed)
        except UnsupportedModel:
            return None, seen
        for name, other in zip(a.outputs, b.outputs, strict=True):
            x, y = np.asarray(ours[name]), np.asarray(theirs[other])
            if x.shape != y.shape:
                raise ShapeError(f"output {name!r} has shape {x.shape} and {y.shape}")
            if x.dtype.kind != "f" or not (np.isfinite(x).all() and np.isfinite(y).all()):
                continue
            size = float(np.abs(x - y).max(initial=0.0))
            seen = size if seen is None else max(seen, size)
            if size > eps + SURE * (1e-3 + float(np.abs(x).max(initial=0.0))):
                return GraphWitness(feeds, name, size), seen
    return None, seen


def signature(graph: Graph, budget: int = 10_000) -> Signature:
    """The digest of what is left of a graph; equal ones, equal functions. Never complete: graphs
    whose units are in another order have another one.
    """
    return Signature(compress(graph, None, budget, None).network.digest, complete=False)
