"""Facts about slices against values at many inputs."""

from __future__ import annotations

import numpy as np

from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.slices import ONE

from .graphs import run

ROWS = np.array(
    [[1, 2], [2, 4], [-1, -2], [0, 0], [0, 0], [1, 2], [3, -1], [0.5, 1]], dtype=np.float32
)
BIAS = np.array([1, 2, -1, 0, -2, 1, 0, 0.5], dtype=np.float32)


def require_true(model, *, ranges=None, seed=0, size=40):
    """Every fact about every value of a model holds at random inputs."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name in model.inputs:
        shape = [7 if isinstance(n, str) else n for n in model.shapes[name]]
        low, high = (ranges or {}).get(name, (-size, size))
        feeds[name] = np.round((low + (high - low) * rng.random(shape)) * 8) / 8
    known = Known(model, ranges or {})
    every = tuple(node.output for node in model.nodes)
    values = run(GraphModel(model.inputs, every, model.nodes, model.shapes, model.constants), feeds)
    found = 0
    for name, value in zip(every, values, strict=True):
        for axis, n in enumerate(model.shapes[name]):
            if isinstance(n, int):
                found += _require(known.of((name, axis)), np.moveaxis(value, axis, 0), (name, axis))
    return found


def _require(facts, slices, where):
    first, found = {}, 0
    for i, part in enumerate(slices):
        scale = 1e-9 * (1 + np.abs(part).max())
        assert facts.low[i] <= part.min() + scale, where
        assert part.max() <= facts.high[i] + scale, where
        ratio = float(facts.ratios[i])
        if facts.classes[i] == ONE or ratio == 0:
            assert np.allclose(part, ratio, atol=scale), where
            found += 1
        elif int(facts.classes[i]) in first:
            other, r = first[int(facts.classes[i])]
            assert np.allclose(part * r, other * ratio, rtol=1e-9, atol=scale * (1 + abs(r))), where
            found += 1
        else:
            first[int(facts.classes[i])] = part, ratio
    return found
