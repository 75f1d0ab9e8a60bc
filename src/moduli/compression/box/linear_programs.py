"""Cases by linear programs and branching: the search. What it proposes, `sign_splits` checks.

On a part of a box, with bounds of all pre-activations, an activation that bends lies in a triangle:
above both of its lines, below its chord [Ehlers 2017]. The largest pre-activation of a unit over
these triangles is a linear program, and its dual gives the multipliers of a proof. No affine bounds
do better while all other bounds stay what they are [Salman et al. 2019]. Where that is not enough,
the signs of the unit whose triangle the program uses most are told apart [Bunel et al. 2018].

A sign that a part supposes is a constraint that may be broken at a price. So every program has a
solution, and the price, which no multiplier exceeds, proves also that a part is empty.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.bounds.input_splits import by_layer, ends_of
from moduli.kernel.bounds.propagation import Propagation
from moduli.kernel.bounds.relaxations import beside
from moduli.kernel.bounds.sign_splits import (
    Case,
    Multipliers,
    SplitLeaf,
    objective_network,
    propagate,
    require,
    upper,
    with_sign,
)
from moduli.kernel.box import Box
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.network import IDENTITY, Layer, Network

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Signs = np.ndarray[Any, np.dtype[np.int8]]
ENTRIES = 2**22  # weights of a program
CLOSE = 2.0**-20  # of the sizes of a pre-activation: so little above zero a program may mean zero
PRICE = 2.0**10
PRODUCTS = 2**23  # multiplications that bounds of one box may take before it counts as several
BOXES = 50  # that a linear program counts as
STEPS = 2**25  # iterations times numbers of a program, beyond which it counts as several
LONG = 8  # as how many a program may count at most: then the solver stops
LARGEST = 1e20  # what the solver takes for infinite


class Attempt(NamedTuple):
    """What became of a claim.

    Attributes:
        case: a proof, or None. programs: how many were solved. points: inputs at which they were
            largest ``[points, inputs]``.
        gap: what the first was above zero, as a share of the sizes that it adds.
        spent: as how many programs of a small network all that counts.
    """

    case: Case | None
    programs: int
    points: Array
    gap: float
    spent: int


def prove(
    net: Network,
    box: Box,
    known: Signs,
    layer: int,
    unit: int,
    sign: int,
    given: int = -1,
    limit: int = 1,
) -> Attempt:
    """Try to prove a `sign_splits.Case`.

    Args:
        known: signs of all hidden units that are proved on the box, 0 where none is.
        limit: linear programs to solve; long ones count as several, and the last one may go beyond.
    """
    target, ends = objective_network(net, layer, unit, sign, given), ends_of(net)
    start = known[: ends[layer - 1]].copy()
    if given >= 0:
        start[ends[layer - 2] + given] = 1
    stack, tree, leaves = [start[None]], list[int](), list[SplitLeaf]()
    points, gap, spent = [np.zeros((0, len(box.low)))], np.inf, 0

    def done(case: Case | None) -> Attempt:
        return Attempt(case, len(points) - 1, np.concatenate(points), float(gap), spent)

    while stack:
        signs = stack.pop()
        found = propagate(target, box, signs)
        if upper(target, found, signs)[0] <= 0:
            spent += found.products // (BOXES * PRODUCTS)
            tree.append(-1)
            leaves.append(((), ()))
            continue
        if spent >= limit:
            return done(None)
        best, price = optimum(target, box, found, signs)
        spent += max(price, found.products // (BOXES * PRODUCTS))
        if best is None:
            return done(None)
        points.append(best.at[None])
        gap = best.value / max(found.sizes[-1][0][0, 0], 1e-300) if len(points) == 2 else gap
        leaf = leaf_of(target, found, signs, best)
        if leaf is not None:
            tree.append(-1)
            leaves.append(leaf)
        elif refutes(target, best.at, given) or not best.slack.max(initial=0.0) > 0:
            return done(None)
        else:
            tree.append(int(np.argmax(best.slack)))
            stack += [with_sign(signs[0], tree[-1], s)[None] for s in (1, -1)]
    return done(Case(layer, unit, sign, given, tuple(tree), tuple(leaves)))


def refutes(target: Network, x: Array, given: int) -> bool:
    """Whether floats say that the claim fails at an input."""
    on = given < 0 or bool(
        Network((*target.layers[:-2], _open(target.layers[-2]))).logits(x[None])[0, given] > 0
    )
    return on and bool(target.logits(x[None])[0, 0] > 0)


def _open(layer: Layer) -> Layer:
    return Layer(layer.weight, layer.bias, IDENTITY)


def leaf_of(target: Network, found: Propagation, signs: Signs, best: Optimum) -> SplitLeaf | None:
    """The multipliers, in few digits if these do."""
    if not best.value <= CLOSE * found.sizes[-1][0][0, 0]:
        return None
    short = np.array([float(f"{m:.3g}") for m in best.multipliers])
    for numbers in (short, best.multipliers):
        if (
            upper(target, found, signs, Multipliers(numbers[None], ~np.isnan(numbers[None])))[0]
            <= 0
        ):
            units = np.flatnonzero(~np.isnan(numbers))
            return tuple(units.tolist()), tuple(numbers[units].tolist())
    return None


# The program ----------------------------------------------------------------------------------------------------


class Optimum(NamedTuple):
    """The maximum of a program.

    Attributes:
        value, at: with the input. multipliers: of all hidden units below, not a number where none
            is needed.
        slack: how much each triangle is used, ``[hidden units]``.
    """

    value: float
    at: Array
    multipliers: Array
    slack: Array


class LayerVariables(NamedTuple):
    """Variables of a hidden layer: pre-activations z, activations h of some units, how far signs of
    some are broken.

    Attributes:
        kept, held: which units have the latter two. signs: of all. z, h, broken: where the
            variables start.
    """

    kept: Mask
    held: Mask
    signs: Array
    z: int
    h: int
    broken: int


def optimum(
    target: Network, box: Box, found: Propagation, signs: Signs
) -> tuple[Optimum | None, int]:
    """The maximum of an `objective_network` over the triangles, where units have signs ``[1,
    units]``, and its cost.

    None where numbers are too large, or the solver finds no maximum in so many steps that it would
    count as `LONG`.
    """
    from scipy import sparse
    from scipy.optimize import linprog

    inputs, last = target.widths[0], target.layers[-1]
    blocks, size = _blocks(target, found, signs)
    low, high, costs = np.full(size, -np.inf), np.full(size, np.inf), np.zeros(size)
    low[:inputs], high[:inputs] = box.low, box.high
    equal, right_sides, below, tops = list[Any](), list[Array](), list[Any](), list[Array]()
    h = sparse.eye(inputs, size, format="csr")
    for l, (layer, block) in enumerate(zip(target.layers[:-1], blocks, strict=True)):
        z = _choose(np.ones(len(block.kept), dtype=bool), block.z, size)
        own, broken = (
            _choose(mask, at, size)
            for mask, at in ((block.kept, block.h), (block.held, block.broken))
        )
        equal.append(z - sparse.csr_matrix(layer.weight) @ h)
        right_sides.append(layer.bias)
        for slope, offset, side in _lines(target, found, l, block):
            below.append(side * (own - sparse.diags(slope) @ z)[block.kept])
            tops.append(side * offset[block.kept])
        below.append((-sparse.diags(block.signs) @ z - broken)[block.held])
        tops.append(np.zeros(int(block.held.sum())))
        at = slice(block.broken, block.broken + int(block.held.sum()))
        low[at], costs[at] = 0.0, PRICE * np.abs(last.weight).max(initial=1.0)
        steep = np.where(found.bounds[l][0][0] >= 0, *beside(layer.activation))
        h = (sparse.diags(np.where(block.kept, 0.0, steep)) @ z + own).tocsr()
    costs -= h.T @ last.weight[0]
    rows = (
        sparse.vstack(below),
        np.concatenate(tops),
        sparse.vstack(equal),
        np.concatenate(right_sides),
    )
    if not all(
        (np.abs(numbers) < LARGEST).all()
        for numbers in (costs, rows[0].data, rows[1], rows[2].data, rows[3])
    ):
        return None, 1
    size = rows[0].nnz + rows[2].nnz + 1
    most = {"maxiter": 1 + LONG * STEPS // size}
    done = linprog(costs, *rows, np.stack([low, high], axis=1), method="highs", options=most)
    return None if done.status != 0 else _read(target, done, blocks), max(
        1, done.nit * size // STEPS
    )


def _blocks(target: Network, found: Propagation, signs: Signs) -> tuple[list[LayerVariables], int]:
    blocks, size, every = (
        list[LayerVariables](),
        target.widths[0],
        by_layer(target, signs[0]),
    )
    for layer, ends, own in zip(target.layers, found.bounds, every, strict=False):
        lo, hi = (end[0] for end in ends)
        kept = ((lo < 0) & (hi > 0)) | (not layer.activation.piecewise_linear)
        held = (own != 0) & (np.where(own > 0, -lo, hi) >= 0)
        h = size + len(lo)
        blocks.append(
            LayerVariables(kept, held, own.astype(np.float64), size, h, h + int(kept.sum()))
        )
        size = blocks[-1].broken + int(held.sum())
    return blocks, size


def _choose(mask: Mask, start: int, size: int) -> Any:
    """For each unit the variable that it has, of those from a place on; a zero row for units
    without one.
    """
    from scipy import sparse

    units = np.flatnonzero(mask)
    return sparse.csr_matrix(
        (np.ones(len(units)), (units, start + np.arange(len(units)))), shape=(len(mask), size)
    )


def _lines(
    target: Network, found: Propagation, l: int, block: LayerVariables
) -> list[tuple[Array, Array, float]]:
    """Slopes and offsets of the lines above (1) and below (-1) the activations of a layer."""
    lines, (right, left) = found.relaxations[l], beside(target.layers[l].activation)
    above = (lines.upper_slope[0], lines.upper_offset[0], 1.0)
    below = (lines.lower_slope[0], lines.lower_offset[0], -1.0)
    if right == left:
        return [above, below]
    side, count = -1.0 if right > left else 1.0, len(block.kept)
    own = [(np.full(count, slope), np.zeros(count), side) for slope in (right, left)]
    return [above if right > left else below, *own]


def _read(target: Network, done: Any, blocks: list[LayerVariables]) -> Optimum:
    """Multipliers from the marginals of a solved program, in the order of its rows."""
    rows = iter(-done.ineqlin.marginals)
    multipliers, slack = [np.zeros(0)], [np.zeros(0)]
    for layer, block in zip(target.layers[:-1], blocks, strict=True):
        right, left = beside(layer.activation)
        kept, count = block.kept, int(block.kept.sum())
        lines = (
            2 if right == left else 3
        )  # as `_lines` gives them: the chord, then the other line or both slopes
        chord, *pair = (np.array(list(islice(rows, count))) for _ in range(lines))
        m, used = np.full(len(kept), np.nan), np.zeros(len(kept))
        if right != left:
            with np.errstate(all="ignore"):
                m[kept] = (right * pair[0] + left * pair[1]) / (pair[0] + pair[1])
            z, h = done.x[block.z : block.z + len(kept)][kept], done.x[block.h : block.h + count]
            used[kept] = chord * np.abs(h - np.where(z > 0, right, left) * z)
        m[block.held] = list(islice(rows, int(block.held.sum())))
        multipliers.append(np.where(np.isfinite(m), m, np.nan))
        slack.append(used)
    value = float(-done.fun + target.layers[-1].bias[0])
    return Optimum(
        value, done.x[: target.widths[0]], np.concatenate(multipliers), np.concatenate(slack)
    )


def holds(net: Network, box: Box, known: Signs, case: Case) -> bool:
    """Whether `require` accepts a case."""
    try:
        require(net, box, known, case)
    except CertificateRejected:
        return False
    return True
