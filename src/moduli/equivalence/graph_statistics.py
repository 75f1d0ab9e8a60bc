"""Means and variances of batch norms, computed again: after graphs are merged, those that are stored fit neither.

Averages of units vary less than the units do, so what a norm is given has other statistics than it had in either graph
(Jordan et al. 2023). Norms are renewed one after another, as what the later ones are given depends on the earlier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from moduli.common.graph import Graph
from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Node, PerUnit

Array = np.ndarray[Any, np.dtype[Any]]


def renewed(graph: Graph, feeds: Sequence[Array]) -> Graph:
    """The graph whose batch norms have the means and variances (over n, not n - 1) that they are given on the inputs.

    Raises:
        UnsupportedModel: there is no batch norm, several share a mean or a variance, or values inside the graph are not
            computed (torch modules: export them to ONNX).
    """
    norms = _norms(graph.model)
    if not norms:
        raise UnsupportedModel(
            f"{graph!r} has no batch norm with a stored mean and variance; leave out statistics"
        )
    for norm in norms:
        model = graph.model
        axis = norm.op.axis  # type: ignore[attr-defined]
        mean, variance = _moments(graph, norm.inputs[0], axis, feeds)
        constants = dict(model.constants)
        for name, numbers in zip(norm.inputs[3:5], (mean, variance), strict=True):
            constants[name] = np.asarray(numbers, dtype=constants[name].dtype)
        graph = graph.source.rewritten(replace(model, constants=constants), {})
    return graph


def _norms(model: GraphModel) -> list[Node]:
    """In the order in which they are computed."""
    times = Counter(name for node in model.nodes for name in node.inputs)
    found = []
    for node in model.live().nodes:
        op = node.op
        if not isinstance(op, PerUnit) or op.kind != "batchnorm":
            continue
        stored = [name for name in node.inputs[3:5] if name in model.constants]
        if len(stored) == 2 and any(times[name] > 1 for name in stored):
            raise UnsupportedModel(
                f"node {node.name!r}: others read its mean or variance, so they have no statistics of their own"
            )
        if len(stored) == 2:
            found.append(node)
    return found


def _moments(graph: Graph, name: str, axis: int, feeds: Sequence[Array]) -> tuple[Array, Array]:
    """Mean and variance of a value for each index along an axis; in two passes, so that large means cost no digits."""
    total, count = np.zeros(()), 0
    for x in feeds:
        value = _along(graph, name, axis, x)
        total, count = total + value.sum(axis=1), count + value.shape[1]
    mean, squares = total / count, np.zeros(())
    for x in feeds:
        value = _along(graph, name, axis, x)
        squares = squares + np.square(value - mean[:, None]).sum(axis=1)
    return mean, squares / count


def _along(graph: Graph, name: str, axis: int, x: Array) -> Array:
    """A value as rows, one for each index along an axis."""
    if name == graph.inputs[0]:
        value = np.asarray(x, dtype=np.float64)
    else:
        value = np.asarray(
            graph.source.values({graph.inputs[0]: x}, [name])[name], dtype=np.float64
        )
    return np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)
