"""How long a network takes in onnxruntime, where it is installed."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moduli.common.graph import Graph
from moduli.formats import save
from moduli.kernel.network import Network


def runtime_milliseconds(
    nets: Sequence[Network | Graph], runs: int, seed: int = 0
) -> list[float] | None:
    """The median time of one input through each network, of one thread; None without onnxruntime.

    The networks take turns, so that what else the machine does meets all of them alike.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        sessions = []
        for k, net in enumerate(nets):
            file = Path(folder) / f"{k}.onnx"
            save(net, file, dtype="float32")
            session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
            sessions.append((session, _inputs(session, rng)))
        times: list[list[float]] = [[] for _ in nets]
        for _ in range(runs):
            for taken, (session, given) in zip(times, sessions, strict=True):
                start = time.perf_counter()
                session.run(None, given)
                taken.append(time.perf_counter() - start)
    return [1000 * statistics.median(taken) for taken in times]


def _inputs(session: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Random numbers for one sample."""
    given = {}
    for wanted in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in wanted.shape]
        given[wanted.name] = rng.random(shape, dtype=np.float32)
    return given
