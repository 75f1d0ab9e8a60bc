"""Cells of a network in a box of any number of inputs: those that points, lines and neighbours
reach, never all for certain.

Points at several scales; lines through them, which meet a cell between any two breaks of the
network along the line, aimed also at units that were seen on one side only; steps across facets
that a linear program exhibits. Every cell comes with a point inside, and the signs there are proved
(`at_points.signs_at`): what cannot be proved is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from moduli.common.at_points import signs_at
from moduli.common.domains import ON_BOX, Domain
from moduli.common.progress import Progress
from moduli.kernel.box import Box
from moduli.kernel.errors import (
    ArgumentError,
    Asked,
    BudgetExhausted,
    CertificateRejected,
    UnsupportedModel,
)
from moduli.kernel.network import Network

from .cells_generic import Degenerate, subdivide

Array = np.ndarray[Any, np.dtype[np.float64]]
BLOCK = 4096  # points evaluated at a time
PROGRAMS = 50  # cells of the budget for each linear program
LONGEST = 10  # times the budget: cells that a line may meet
FAILED = 100  # a line that shows nothing counts as the budget divided by this


@dataclass(frozen=True, eq=False)
class Exploration:
    """Some cells of a network in a box.

    Attributes:
        points: one inside each cell [cells, inputs]. cell_signs: of all hidden units there [cells,
            units], -1 or 1.
    """

    network: Network
    box: Box
    points: Array
    cell_signs: Any
    complete: ClassVar[bool] = False

    @property
    def cells(self) -> int:
        return len(self.points)

    @cached_property
    def start(self) -> Array:
        return free_inputs(self.network, self.box)

    def check(self) -> bool:
        """Prove the signs at all points again.

        Raises:
            CertificateRejected: a point outside the box, or a sign that is not proved.
        """
        box = self.box.of_dimension(self.network.widths[0])
        if (self.points < box.low).any() or (self.points > box.high).any():
            raise CertificateRejected("a point outside the box")
        for at in range(0, self.cells, BLOCK):
            signs, sure = signs_at(self.network, self.points[at : at + BLOCK])
            if not sure.all() or not np.array_equal(signs, self.cell_signs[at : at + BLOCK]):
                raise CertificateRejected("a sign at a point is not the one claimed")
        return True


def free_inputs(net: Network, box: Box) -> Array:
    """The inputs as affine functions of those in which the box is not flat ``[inputs, free + 1]``."""
    box = box.of_dimension(net.widths[0])
    free = box.low < box.high
    start = np.zeros((len(free), int(free.sum()) + 1))
    start[np.flatnonzero(free), np.arange(free.sum())] = 1.0
    start[~free, -1] = box.low[~free]
    return start


def accepted(net: Network, on: Domain) -> Box:
    """The box, if cells of this network can be looked for in it.

    Raises:
        ValueError: no box. UnsupportedModel: an activation that is not piecewise linear.
    """
    if not isinstance(on, Box):
        raise ArgumentError(Asked("on", on), ": cells are looked for in a box; give ", ON_BOX)
    for l, act in enumerate(net.activations, 1):
        if not act.piecewise_linear:
            raise UnsupportedModel(
                f"layer {l} is {act}: only piecewise linear activations have cells"
            )
    return on


def explore(
    net: Network, on: Domain, budget: int, seed: int, progress: Progress | None = None
) -> Exploration:
    """Cells found with `budget` points, one in 50 by a linear program.

    Raises:
        ValueError: no box. UnsupportedModel: an activation that is not piecewise linear.
    """
    on = accepted(net, on)
    box, rng = on.of_dimension(net.widths[0]), np.random.default_rng(seed)
    found: dict[bytes, tuple[Array, Any]] = {}
    spent = 0

    whole = budget

    def keep(x: Array) -> None:
        nonlocal spent
        x = x[: max(0, budget - spent)]
        for at in range(0, len(x), BLOCK):
            part = x[at : at + BLOCK]
            signs, sure = signs_at(net, part)
            for k in np.flatnonzero(sure.all(axis=1)).tolist():
                found.setdefault(signs[k].tobytes(), (part[k], signs[k]))
        spent += len(x)
        if progress is not None:
            progress(spent, budget, f"{len(found)} cells")

    programs = budget // PROGRAMS
    budget -= programs
    keep(scattered(box, max(1, budget // 4), rng))
    while spent < budget:
        known = np.array([point for point, _ in found.values()]).reshape(-1, len(box.low))
        signs = np.array([sign for _, sign in found.values()]).reshape(len(known), net.units)
        before = spent
        failed = 0
        for x in _lines(net, box, known, signs, rng, LONGEST * whole):
            failed += not len(x)
            keep(x)
        if spent == before:
            break
        spent += failed * (1 + whole // FAILED)
    budget += programs
    for x in _across(net, box, list(found.values()), programs, rng):
        keep(x)
    points = np.array([point for point, _ in found.values()]).reshape(-1, len(box.low))
    return Exploration(
        net,
        box,
        points,
        np.array([sign for _, sign in found.values()], dtype=np.int8).reshape(-1, net.units),
    )


def scattered(box: Box, count: int, rng: np.random.Generator) -> Array:
    """Half of the points anywhere, half at scales down to a thousandth around a few of them."""
    width = box.high - box.low
    x = rng.uniform(box.low, box.high, (count, len(width)))
    half = count // 2
    centre = x[rng.integers(half, count, half)] if half else x[:0]
    x[:half] = centre + width * rng.standard_normal(centre.shape) * 10.0 ** -rng.uniform(
        0, 3, (half, 1)
    )
    return np.asarray(np.clip(x, box.low, box.high))


def _lines(
    net: Network, box: Box, known: Array, signs: Any, rng: np.random.Generator, most: int
) -> Iterator[Array]:
    """Points between the breaks along lines: one through two points, and one towards each of the
    rarest signs of units.

    None on a line with more than `most` of them, or with breaks that floats cannot tell apart.
    """
    pairs = rng.uniform(box.low, box.high, (8, 2, len(box.low)))
    aims = [(a, b - a) for a, b in pairs]
    if len(known):
        active = (signs > 0).mean(axis=0)
        rare = np.argsort(
            np.minimum(active, 1 - active) + 1e-3 * rng.random(net.units), kind="stable"
        )[:8]
        for unit in rare.tolist():
            point = known[rng.integers(len(known))]
            slope = _slope(net, point, unit)
            if slope.any():
                aims.append((point, slope))
    for origin, direction in aims:
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.sort(
                np.stack([(box.low - origin) / direction, (box.high - origin) / direction]), axis=0
            )
        low, high = float(np.nanmax(ends[0])), float(np.nanmin(ends[1]))
        if np.isfinite([low, high]).all() and low < high:
            try:
                line = subdivide(
                    net,
                    Box(np.array([low]), np.array([high])),
                    np.column_stack([direction, origin]),
                    most,
                )
            except (Degenerate, BudgetExhausted):
                yield box.low[None][:0]
                continue
            t = np.sort(line.points[:, 0])
            yield np.clip(origin + ((t[1:] + t[:-1]) / 2)[:, None] * direction, box.low, box.high)


def _slope(net: Network, point: Array, unit: int) -> Array:
    """The gradient of a unit's pre-activation at a point."""
    h, rows = point, np.eye(len(point))
    for layer in net.layers[:-1]:
        z, rows = layer.weight @ h + layer.bias, layer.weight @ rows
        if unit < len(z):
            return np.asarray(rows[unit])
        unit -= len(z)
        rows, h = (
            np.asarray(layer.activation.derivative(z))[:, None] * rows,
            np.asarray(layer.activation(z)),
        )
    raise IndexError(unit)


def _across(
    net: Network, box: Box, cells: list[tuple[Array, Any]], programs: int, rng: np.random.Generator
) -> Iterator[Array]:
    """Points beyond facets: a linear program finds a point in the middle of a facet of a known
    cell, if the unit bounds it.
    """
    from scipy.optimize import linprog

    if not cells or not net.units:
        return
    for _ in range(programs):
        _, sign = cells[int(rng.integers(len(cells)))]
        forms, unit = _forms(net, sign), int(rng.integers(net.units))
        size = np.linalg.norm(forms[:, :-1], axis=1)
        if not size[unit] > 0:
            continue
        facing = -sign[:, None] * forms
        room = np.column_stack([facing[:, :-1], np.where(np.arange(net.units) == unit, 0.0, size)])
        onto = np.append(forms[unit, :-1], 0.0)[None]
        cost = np.append(np.zeros(len(box.low)), -1.0)
        sides = [*zip(box.low, box.high, strict=True), (0, None)]
        best = linprog(cost, room, -facing[:, -1], onto, [-forms[unit, -1]], bounds=sides)
        if best.status == 0 and best.x[-1] > 0:
            step = -sign[unit] * forms[unit, :-1] / size[unit]
            yield np.clip(best.x[:-1] + 0.25 * best.x[-1] * step, box.low, box.high)[None]


def _forms(net: Network, sign: Any) -> Array:
    """Affine forms of all units on a cell, offsets last."""
    h = np.eye(net.widths[0], net.widths[0] + 1)
    found, at = [], 0
    for layer in net.layers[:-1]:
        z = layer.weight @ h
        z[:, -1] += layer.bias
        found.append(z)
        h = layer.activation.derivative(sign[at : at + len(z)].astype(np.float64))[:, None] * z
        at += len(z)
    return np.concatenate(found)
