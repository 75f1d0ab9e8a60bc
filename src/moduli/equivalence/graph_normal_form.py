"""One graph for all that differ by signs, scales and orders of their units, as far as these are found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from moduli.common.graph import Graph
from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.compression.graph_results import compress
from moduli.kernel.graph.certificate import (
    GraphCertificate,
    after,
    transformed,
)
from moduli.kernel.graph.model import GraphModel

from .graph_order import rounds_to_order
from .graph_scales import gauges, rounds_to_scale
from .graph_units import Rounds, UnitSets
from .group import Signature


@dataclass(frozen=True, eq=False, repr=False)
class GraphNormalForm(Result):
    """A graph without what can be left out, its units with one sign, scale and order.

    Attributes:
        network: that graph, the same function. original: what it came from. proof: the certificate.
    """

    network: Graph
    original: Graph
    proof: GraphCertificate
    kind: ClassVar[str] = "canon"

    @property
    def signature(self) -> Signature:
        return Signature(self.network.digest, complete=False)

    @property
    def certificate(self) -> Any:
        return self.proof

    def check(self) -> bool:
        self.proof.verify(self.network.model, self.original.model)
        return True

    @property
    def statement(self) -> str:
        before, after = self.original.parameters, self.network.parameters
        return f"normal form with {after} of {before} parameters; the same function"

    def asked(self) -> list[tuple[str, str]]:
        return [("graph", repr(self.original))]

    def facts(self) -> list[tuple[str, str]]:
        return [
            ("form", repr(self.network)), ("slack", "= 0 (nothing was rounded)"),
            ("signature", self.signature), ("complete", "another signature proves nothing"),
        ]  # fmt: skip

    def data(self) -> dict[str, Any]:
        return {
            "graph": self.original.digest, "network": self.network.digest,
            "signature": str(self.signature), "complete": self.signature.complete,
        }  # fmt: skip


def canon(graph: Graph, progress: Progress | None = None, budget: int = 10_000) -> GraphNormalForm:
    """The normal form, by moves that round nothing."""
    left = compress(graph, None, budget, progress, rounding=False)
    rounds = rounds_to_normal_form(left.network.model)
    found = left.network.source.rewritten(moved(left.network.model, rounds), {})
    proof = GraphCertificate(graph.digest, found.digest, (*left.proof.rounds, *rounds), {})
    return GraphNormalForm("proved", found, graph, proof)


def signature(graph: Graph, budget: int = 10_000) -> Signature:
    """The digest of the normal form; equal ones, equal functions. Never complete: scales that round, or
    another basis inside a head, have another one.
    """
    left = compress(graph, None, budget, None, rounding=False).network
    digest = after(left.model, left.digest, rounds_to_normal_form(left.model))
    return Signature(digest, complete=False)


def rounds_to_normal_form(graph: GraphModel) -> Rounds:
    """Scales by powers of two, so that nothing is rounded, signs, and then the order."""
    found = UnitSets.of(graph)
    scales = rounds_to_scale(found, gauges(found))
    return (*scales, *rounds_to_order(found, moved(graph, scales)))


def moved(graph: GraphModel, rounds: Rounds) -> GraphModel:
    """After scales and orders, whatever these round."""
    for moves in rounds:
        graph, _ = transformed(graph, moves)
    return graph
