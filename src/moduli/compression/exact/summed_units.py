"""Units between two layers that are sums of others: the search. What it proposes the kernel checks."""

from __future__ import annotations

from typing import Any

import numpy as np

from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.axes import units_from
from moduli.kernel.graph.certificate import GraphMove, combination
from moduli.kernel.graph.combining import between
from moduli.kernel.graph.facts import Known, Ranges
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Linear, Place
from moduli.kernel.slack import Slack

from .graph_plan import staying
from .graph_rounding import precision_of, tells

MOST = 2**24  # numbers of a layer whose rank is looked for


def summed(
    known: Known, ranges: Ranges, frozen: frozenset[Place]
) -> tuple[GraphMove, GraphModel, Slack] | None:
    """Units between two layers that are sums of others, and the graph without them; None where there
    are none whose leaving has a known bound.
    """
    for node in known.graph.nodes:
        found = between(known.graph, node.output) if isinstance(node.op, Linear) else None
        rows = None if found is None else found.rows(known)
        if found is None or rows is None or rows.size > MOST:
            continue
        weight = known.array(node.inputs[1])
        assert weight is not None
        precision = precision_of(weight.dtype)
        sums = _sums_of_rows(rows, precision) if precision else None
        units = units_from(known.graph, (node.output, found.op.writes)) if sums else None
        if sums is None or units is None or staying(units, frozen):
            continue
        gone, stay, coefficients = sums
        move = GraphMove(
            "combine", node.output, 0, gone, stay, tuple(coefficients.ravel().tolist())
        )
        again = Known(known.graph, ranges)
        try:
            small, slack = combination(again, move, ranges)
        except CertificateRejected:
            continue
        if tells(slack, known):
            known.rounded = again.rounded
            return move, small, slack
    return None


def _sums_of_rows(
    rows: Any, precision: float
) -> tuple[tuple[int, ...], tuple[int, ...], Any] | None:
    """Rows that are sums of others as far as numbers of a precision tell: which, of which, and with
    what coefficients. None where there are none, or none would stay.
    """
    from scipy.linalg import qr, solve_triangular

    if not rows.any():
        return None
    _, upper, order = qr(rows.T, mode="economic", pivoting=True)
    sizes = np.abs(np.diag(upper))
    rank = int((sizes > 4 * precision * sizes[0]).sum())
    if rank == len(rows):
        return None
    coefficients = solve_triangular(upper[:rank, :rank], upper[:rank, rank:]).T
    return tuple(order[rank:].tolist()), tuple(order[:rank].tolist()), coefficients
