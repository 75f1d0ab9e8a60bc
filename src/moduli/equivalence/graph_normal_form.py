"""One graph for all that differ by signs, scales and orders of their units, as far as these are found."""

from __future__ import annotations

from moduli.kernel.graph.certificate import GraphMove, played
from moduli.kernel.graph.model import GraphModel

from .graph_order import exchangeable_units, moves_to_order
from .graph_scales import gauges, moves_to_scale

Rounds = tuple[tuple[GraphMove, ...], ...]


def rounds_to_normal_form(graph: GraphModel) -> Rounds:
    """Scales by powers of two, so that nothing is rounded, signs, and then the order."""
    parts = exchangeable_units(graph)
    scales = moves_to_scale(graph, gauges(graph, parts))
    if scales:
        graph, _ = played(graph, scales, {})
    orders = moves_to_order(graph, parts)
    return tuple(moves for moves in (scales, orders) if moves)
