"""Bounds of units by affine functions against values that climb towards them.

Graphs, boxes and the climb are those of `tests/kernel/graph/test_back_substitution.py`: a trial is a graph,
a box, and a unit of one of its tensors of which some end became nearer than intervals have it. No input
that is found may have a value beyond that end. Values are by torch in 64 bits.

    python -m tests.adversarial.affine_bounds --seed S --count N
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import many_seeds
from many_seeds import FINDING, Ending

from tests.kernel.graph.test_back_substitution import trials


def tried(seed: int) -> Ending:
    """One graph on one box, and of each tensor with a nearer end one unit."""
    done = collections.Counter[str]()
    try:
        for ends in trials(seed):
            done.update(trials=1, ends=ends)
    except AssertionError as error:
        return Ending(f"{FINDING}beyond a bound", str(error)[:200], done=done)
    return Ending("graphs", done=done)


def run(seeds: Iterable[int], findings: Path | None = None) -> collections.Counter[str]:
    return many_seeds.run(tried, seeds, findings)


if __name__ == "__main__":
    raise SystemExit(many_seeds.main(__doc__, 1000, run))
