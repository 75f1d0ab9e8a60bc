"""Units that later layers hide on a box: the search. What it proposes, `sign_splits` checks.

A ReLU unit plays no part if every unit of the next layer that sees it is off wherever it is on.
Points of the box refute nearly all candidates; what is left is proved pair by pair, by linear
programs and branching.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moduli.common.progress import Progress
from moduli.kernel.bounds.input_splits import concatenated, ends_of
from moduli.kernel.bounds.relaxations import beside
from moduli.kernel.bounds.sign_splits import Case, without_masked_weights
from moduli.kernel.box import Box
from moduli.kernel.network import Network

from . import linear_programs

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.intp]]
Signs = np.ndarray[Any, np.dtype[np.int8]]
POINTS = 256, 4096


def cuts(
    net: Network,
    box: Box,
    signs: tuple[Signs, ...],
    limit: int,
    seed: Any = 0,
    progress: Progress | None = None,
) -> list[Case]:
    """Cuts after which hidden units have no outgoing weights but to units that are inactive.

    Args:
        signs: what is proved of hidden units, per layer. limit: linear programs to solve.
    """
    if sum(layer.weight.size for layer in net.layers) > linear_programs.ENTRIES:
        return []
    found, known, rng = list[Case](), concatenated(signs), np.random.default_rng(seed)
    for l in range(1, len(net.layers) - 1):
        if any(beside(a) != (1.0, 0.0) for a in net.activations[l - 1 : l + 1]):
            continue
        for unit in _candidates(net, box, signs, l, rng):
            cases, used = _unit(net, box, known, l, int(unit), limit)
            limit -= used
            found += cases
            net = without_masked_weights(net, cases)
            if progress is not None:
                progress(len(found), None, f"units of layer {l} that the next layer may hide")
    return found


def _seen(net: Network, signs: Signs, l: int, unit: int) -> Ints:
    """Units of the next layer that see a unit, and are not off everywhere."""
    return np.flatnonzero((net.layers[l].weight[:, unit] != 0) & (signs >= 0))


def _candidates(
    net: Network, box: Box, signs: tuple[Signs, ...], l: int, rng: np.random.Generator
) -> Ints:
    """Units of a layer that are on somewhere, with all that see them off there, as far as points of
    the box say.
    """
    weight, by = (
        net.layers[l].weight,
        {u: _seen(net, signs[l], l, u) for u in np.flatnonzero(signs[l - 1] >= 0).tolist()},
    )
    left = np.array(
        [u for u, some in by.items() if len(some) and not (signs[l][some] > 0).any()], dtype=np.intp
    )
    for count in POINTS if len(left) else ():
        x = box.sample(count, net.widths[0], rng)
        x = np.concatenate([x, np.where(rng.random(x.shape) < 0.5, box.high, box.low)])
        with np.errstate(all="ignore"):
            h = _before(net, l, x)
            z = h @ weight.T + net.layers[l].bias
        left = np.array(
            [u for u in left.tolist() if _hidden(z, h[:, u], weight[:, u], by[u])], dtype=np.intp
        )
    return left[(h[:, left] > 0).any(axis=0)] if len(left) else left


def _before(net: Network, l: int, x: Array) -> Array:
    """Activations of layer l."""
    for layer in net.layers[:l]:
        x = layer(x)
    return x


def _hidden(z: Array, h: Array, column: Array, by: Ints) -> bool:
    on = h > 0
    return not (z[np.ix_(on, by)] + np.outer(h[on], np.maximum(-column[by], 0.0)) > 0).any()


def _unit(
    net: Network, box: Box, known: Signs, l: int, unit: int, limit: int
) -> tuple[list[Case], int]:
    """Cuts of all weights of a unit that count, or none; and how many programs were solved."""
    ends, used, cases = ends_of(net), 0, list[Case]()
    by = _seen(net, known[ends[l] : ends[l + 1]], l, unit).tolist()
    for k, other in enumerate(by):
        found = linear_programs.prove(
            net, box, known, l + 1, other, -1, unit, (limit - used) // (len(by) - k)
        )
        used += found.spent
        if found.case is None or not linear_programs.holds(net, box, known, found.case):
            return [], used
        cases.append(found.case)
    return cases, used
