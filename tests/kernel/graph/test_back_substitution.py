"""Affine bounds of units against values that climb towards the ends of their intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.back_substitution import BackSubstitution
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.shapes import require_shapes

from ...support.windowed_graphs import windowed

WORK = 10**9
SLOPE = 1e-9  # of the sizes of values: far above what torch rounds in 64 bits, far below any gain


def refined(graph, depth):
    """Facts with bounds of all tensors, and which ends they brought nearer."""
    nearer = {}

    def refine(known, node):
        for axis, n in enumerate(known.shape(node.output)):
            if axis and isinstance(n, int) and (node.output, axis) in known.found:
                back = BackSubstitution(known, WORK)
                try:
                    ends = back.narrow(node.output, axis, np.arange(n), depth)
                except CertificateRejected:
                    continue
                if ends.any():
                    nearer[node.output, axis] = ends

    return Known(graph.model, graph.ranges, refine=refine), nearer


def climbed(graph, name, axis, unit, sign, steps=8, starts=4):
    """Values of all tensors at inputs where a unit is as large, or as small, as was found."""
    shape = [2 if n == "n" else n for n in graph.shapes["x"]]
    low, high = (torch.from_numpy(np.broadcast_to(end, shape).copy()) for end in graph.ranges["x"])
    rng = np.random.default_rng(len(name) + unit)
    x = torch.from_numpy(
        rng.random((starts, *shape)).round() if steps else rng.random((starts, *shape))
    )
    x = low + (high - low) * x
    best = None
    for step in range(steps + 1):
        x = x.flatten(0, 1).requires_grad_(True)
        values = graph.values(x)
        target = values[name].movedim(axis, 0)[unit]
        tops = sign * target.reshape(starts, -1)
        if best is None or float(tops.detach().max()) > best:
            best = float(tops.detach().max())
        if not tops.requires_grad or step == steps:
            break
        (slope,) = torch.autograd.grad(tops.max(dim=1).values.sum(), x)
        pace = (high - low) * (0.5 if step % 2 else 2.0)
        with torch.no_grad():
            x = x.detach().reshape(starts, *shape) + pace * slope.sign().reshape(starts, *shape)
            x = torch.minimum(torch.maximum(x, low), high)
    return sign * best


def attack(seed):
    """How many ends became nearer, after none was found to be wrong."""
    graph = windowed(seed)
    require_shapes(graph.model)
    rng = np.random.default_rng(seed)
    known, nearer = refined(graph, int(rng.choice([1, 2, 3, 50])))
    for (name, axis), ends in nearer.items():
        facts = known.of((name, axis))
        side, unit = (int(i) for i in rng.choice(np.argwhere(ends)))
        sign = 1 if side else -1
        found = climbed(graph, name, axis, unit, sign)
        end = float(facts.high[unit] if side else facts.low[unit])
        assert sign * (found - end) <= SLOPE * (1 + abs(end)), (seed, name, axis, unit, found, end)
    return sum(int(ends.sum()) for ends in nearer.values())


@pytest.mark.parametrize("part", range(10))
def test_nothing_climbs_over_a_bound(part):
    assert sum(attack(seed) for seed in range(part * 100, part * 100 + 100)) > 100
