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

from .html import Markup, element

RUNS = 200  # of which the median time is taken
TYPES = {"float": "float32", "double": "float64"}  # where NumPy has other names


def milliseconds(before: Network | Graph, after: Network | Graph) -> Markup:
    """How long one input takes before and after, as a line of a page."""
    missing = importlib.util.find_spec("onnxruntime") is None
    if missing or any(
        isinstance(net, Graph) and ".onnx" not in net.source.suffixes for net in (before, after)
    ):
        why = "onnxruntime is not installed" if missing else "the file is none of onnxruntime's"
        return element("p", f"Not timed: {why}.", class_="note")
    try:
        first, second = runtime_milliseconds([before, after], RUNS)
    except Exception as error:  # of the runtime, of kinds of its own: the page is made in any case
        kind = type(error).__name__
        return element("p", f"Not timed: onnxruntime refuses the file ({kind}).", class_="note")
    line = f"One input in onnxruntime: {first:.3g} ms before, {second:.3g} ms after"
    return element("p", f"{line} (median of {RUNS} runs of one thread on this machine).")


def runtime_milliseconds(nets: Sequence[Network | Graph], runs: int, seed: int = 0) -> list[float]:
    """The median time of one input through each network, of one thread.

    The networks take turns, so that what else the machine does meets all of them alike.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it says of files is no part of a page
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
    """Random numbers for one sample, of the type that the file reads; zeros for wide integers, which may be
    indices.
    """
    given = {}
    for wanted in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in wanted.shape]
        kind = wanted.type.removeprefix("tensor(").removesuffix(")")
        dtype = np.dtype(TYPES.get(kind, kind))
        low = np.iinfo(dtype).min if dtype.kind == "i" and dtype.itemsize == 1 else 0
        high = np.iinfo(dtype).max if dtype.kind in "iu" and dtype.itemsize == 1 else 1
        given[wanted.name] = (low + (high - low) * rng.random(shape)).astype(dtype)
    return given
