"""Experiments on prunability: data, one run with everything that must stand beside its prunable share, tables over seeds.

A single share means little: one jump can hold most of the norm, pure noise is prunable without training, and random removal
leaves wide networks accurate. Each run therefore measures all of these, and a table shows median and worst seed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .network import Network
from .pruning import (
    contributions,
    keep,
    largest_share,
    predicted_share,
    prunable_share,
    relative_change,
    removable,
    visible_rows,
)
from .result import Result
from .sweep import Job

Array = np.ndarray[Any, np.dtype[np.float64]]
FOLDER = "MODULI_DATA"
GONE = (0.8, 0.9, 0.95, 0.99)
FUNCTION = "moduli.experiments:prunability"
COMMON = ("data", "width", "depth", "bias", "steps", "lr", "batch", "momentum", "target", "clip", "noise", "penalty", "rows")
MOST_BYTES = 2**32
ROWS = 10_000  # training rows that contributions are measured on


class Data(NamedTuple):
    """Inputs [samples, in] as float32, targets, and the same for testing."""

    x: Any
    y: Any
    x_test: Any
    y_test: Any


def load_data(name: str, folder: str | Path | None = None) -> Data:
    """The bundled digits, an .npz file with x_train, y_train, x_test, y_test, or such a file by name in a folder.

    Bytes (images) are centred and scaled by the mean and standard deviation of all training entries.

    Args:
        folder: by default the environment variable MODULI_DATA.

    Raises:
        ValueError: no such data, or arrays that do not fit.

    >>> load_data("digits").x.shape
    (1347, 64)
    """
    if name == "digits":
        path = Path(__file__).with_name("zoo") / "data" / "digits.npz"
    elif name.endswith(".npz"):
        path = Path(name)
    else:
        place = folder or os.environ.get(FOLDER)
        if place is None:
            raise ValueError(f"data {name!r}: bundled is 'digits'; others are FILE.npz, or NAME.npz in a folder (or {FOLDER})")
        path = Path(place) / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; up to {MOST_BYTES} are read")
    with np.load(path, allow_pickle=False) as z:
        wanted = ("x_train", "y_train", "x_test", "y_test")
        missing = [k for k in wanted if k not in z.files]
        if missing:
            raise ValueError(f"{path} holds {', '.join(z.files)}; needed are {', '.join(wanted)}")
        x, y, x_test, y_test = (z[k] for k in wanted)
    if len(x) != len(y) or len(x_test) != len(y_test) or x.shape[1:] != x_test.shape[1:]:
        raise ValueError(f"{path}: shapes {x.shape}, {y.shape}, {x_test.shape}, {y_test.shape} do not fit together")
    mean, scale = (float(x.mean()), float(x.std()) or 1.0) if x.dtype == np.uint8 else (0.0, 1.0)
    both = [((part.reshape(len(part), -1) - mean) / scale).astype(np.float32) for part in (x, x_test)]
    labels = [part.astype(np.int64) if part.dtype.kind in "iub" else part for part in (y, y_test)]
    return Data(both[0], labels[0], both[1], labels[1])


def prunability(
    data: str, width: int, seed: int, *, folder: str | None = None, depth: int = 1, bias: bool = False,
    noise: Mapping[str, Any] | None = None, penalty: Mapping[str, float] | None = None, rows: int | None = None, **fitting: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train one network and measure how much of it can go, beside what noise alone would give; plain numbers.

    Args:
        data, folder: as for `load_data`. width, depth, bias: of the ReLU network. seed: a number; start, batches and noise are
            drawn from it *and* all other settings: runs with different alpha are independent. rows: training samples used.
        noise, penalty, fitting: as for `torch_training.fit`.
    """
    from .pytorch import fit, perceptron

    told = load_data(data, folder)
    x, y = told.x[:rows], told.y[:rows]
    shape = {"data": data, "width": width, "depth": depth, "bias": bias, "rows": rows}
    settings = {**shape, "noise": dict(noise or {}), "penalty": dict(penalty or {}), **fitting}
    stream = int.from_bytes(hashlib.sha256(json.dumps([settings, seed], sort_keys=True).encode()).digest()[:4], "big")
    outputs = int(told.y.max()) + 1 if told.y.dtype.kind == "i" else int(np.prod(told.y.shape[1:], dtype=int))
    module = perceptron(x.shape[1], width, outputs, depth=depth, bias=bias, seed=stream)
    run = fit(module, x, y, noise=noise, penalty=penalty, seed=stream, **fitting)
    found = measure(run.network, x.astype(np.float64), told.x_test.astype(np.float64), told.y_test, seed=stream)
    found |= {"steps": run.steps, "train": run.train, "redrawn": run.redrawn}
    if depth == 1 and (noise or {}).get("sigma") and not ((noise or {}).get("truncation") or fitting.get("clip")):
        noise = dict(noise or {})
        law = (str(noise.get("kind", "isotropic")), float(noise["alpha"]), float(noise["sigma"]), run.time)
        draws = max(20, min(200, 4 * 10**7 // run.start[0].size))
        found["predicted"] = predicted_share(run.start[0], *law, draws=draws, inputs=x.astype(np.float64), seed=stream).tolist()
    return found


def measure(net: Network, x: Array, x_test: Array, y_test: Any, *, seed: int = 0) -> dict[str, Any]:
    """Everything that must stand beside a prunable share. Shares are of the first hidden layer, accuracies prune all layers."""
    seen = visible_rows(net, x)
    squares = [np.square(w).sum(axis=1) for w in seen]
    some = [np.argsort(s, kind="stable")[removable(s) :] for s in squares]
    small = keep(net, some)
    outputs = _outputs(net, x_test)
    whole, left = outputs([np.arange(n) for n in net.widths[1:-1]]), outputs(some)
    found: dict[str, Any] = {
        "test": _score(whole, y_test), "after": _score(left, y_test), "change": relative_change(whole, left),
        "share": prunable_share(seen[0]), "share_whole": prunable_share(net.layers[0].weight),
        "largest": largest_share(seen[0]), "parameters_kept": small.parameters / net.parameters,
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    orders = {
        "norm": [np.argsort(-s, kind="stable") for s in squares],
        "contribution": [np.argsort(-s, kind="stable") for s in contributions(net, x[:ROWS])],
        "random": [rng.permutation(len(s)) for s in squares],
    }
    for name, order in orders.items():
        kept = [[some[: len(some) - math.floor(share * len(some))] for some in order] for share in GONE]
        found[f"at_{name}"] = [_score(outputs(units), y_test) for units in kept]
    return found


def _outputs(net: Network, x: Array) -> Callable[[Sequence[Any]], Array]:
    """Outputs with only some units; what one hidden layer holds is computed once."""
    if len(net.layers) != 2:
        return lambda units: keep(net, units).logits(x)
    hidden, last = net.layers
    h = hidden.activation(x @ hidden.weight.T + hidden.bias)
    return lambda units: np.asarray(h[:, units[0]] @ last.weight[:, units[0]].T + last.bias)


def _score(z: Array, y: Any) -> float:
    """Accuracy for classes, mean square error for values."""
    if np.asarray(y).dtype.kind == "i":
        return float((z.argmax(axis=1) == y).mean())
    return float(np.square(z - y.reshape(len(z), -1)).mean())


# Configurations and tables --------------------------------------------------------------------------------------


def read_config(path: str | Path, folder: str | None = None) -> list[tuple[str, Job]]:
    """Jobs of a TOML file: settings common to all, ``seeds``, and ``[[runs]]`` with a name and settings of their own.

    Raises:
        ValueError: not TOML, or a setting nobody knows.
    """
    try:
        config = tomllib.loads(Path(path).read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    runs, seeds = config.pop("runs", None), config.pop("seeds", 1)
    if not isinstance(runs, list) or not runs or not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"{path}: needed are seeds = N and at least one [[runs]] with a name")
    jobs = []
    for run in runs:
        settings = {**config, **run}
        name = settings.pop("name", None)
        unknown = sorted(set(settings) - set(COMMON))
        if not isinstance(name, str) or unknown or "data" not in settings or "width" not in settings:
            wrong = f"unknown {', '.join(unknown)}" if unknown else "name, data or width missing"
            raise ValueError(f"{path}: run {name!r}: {wrong}; known: name, {', '.join(COMMON)}")
        if folder is not None and settings["data"] != "digits":
            settings["folder"] = folder
        jobs += [(name, Job(FUNCTION, {**settings, "seed": seed})) for seed in range(seeds)]
    return jobs


@dataclass(frozen=True, eq=False, repr=False)
class Table(Result):
    """Runs by name: median over seeds, and the worst."""

    names: tuple[str, ...]
    results: tuple[tuple[dict[str, Any], ...], ...]
    failures: tuple[str, ...] = ()
    kind: ClassVar[str] = "sweep"

    @staticmethod
    def of(names: Sequence[str], done: Sequence[Mapping[str, Any]]) -> Table:
        groups: dict[str, list[dict[str, Any]]] = {}
        failures = []
        for name, one in zip(names, done, strict=True):
            groups.setdefault(name, [])
            if "result" in one:
                groups[name].append(one["result"])
            else:
                failures.append(f"{name}, seed {one['arguments'].get('seed')}: {one['error']}")
        return Table("estimated", tuple(groups), tuple(map(tuple, groups.values())), tuple(failures))

    @property
    def statement(self) -> str:
        count = sum(map(len, self.results))
        return f"{len(self.names)} settings, {count} runs" + (f", {len(self.failures)} failed" if self.failures else "")

    def lines(self) -> list[dict[str, Any]]:
        """One per setting, numbers."""
        found = []
        for name, some in zip(self.names, self.results, strict=True):
            if not some:
                continue
            line: dict[str, Any] = {"name": name, "seeds": len(some)}
            for key in ("test", "share", "share_whole", "largest", "after", "change", "steps"):
                line[key] = float(np.median([one[key] for one in some]))
            line["test_worst"], line["after_worst"] = (min(one[key] for one in some) for key in ("test", "after"))
            line["largest_worst"] = max(one["largest"] for one in some)
            for key in ("at_norm", "at_contribution", "at_random"):
                line[key] = np.median([one[key] for one in some], axis=0).tolist()
                line[f"{key}_worst"] = np.min([one[key] for one in some], axis=0).tolist()
            if "predicted" in some[0]:
                line["predicted"] = np.median([one["predicted"] for one in some], axis=0).tolist()
            found.append(line)
        return found

    def table(self, extra: list[tuple[str, str]] | None = None) -> Any:
        from rich.console import Group
        from rich.table import Table as Grid

        from .result import table as labelled

        grid = Grid(box=None, pad_edge=False)
        for title in ("run", "test", "share", "noise alone", "whole", "largest", "after", "change", "norm", "contr.", "random"):
            first = title == "run"
            grid.add_column(title, header_style="dim", justify="left" if first else "right", no_wrap=not first)
        for line in self.lines():
            noise = f"{line['predicted'][3]:.3f}-{line['predicted'][5]:.3f}" if "predicted" in line else ""
            grid.add_row(
                line["name"], f"{line['test']:.3f}", f"{line['share']:.3f}", noise, f"{line['share_whole']:.3f}",
                f"{line['largest']:.2f} ({line['largest_worst']:.2f})", f"{line['after']:.3f} ({line['after_worst']:.3f})",
                f"{line['change']:.2f}", *(f"{line[k][1]:.3f}" for k in ("at_norm", "at_contribution", "at_random")),
            )  # fmt: skip
        notes = [
            ("share", "of units that hold a tenth of the squared norm, in the part the data see; medians (worst seed)"),
            ("noise alone", "the same for start plus noise without training: 5 to 95 % of a median of ten"),
            ("whole", "share by whole rows"), ("largest", "part of the squared norm in one unit"),
            ("after", "test accuracy without those units"), ("change", "of the function, relative, root mean square"),
            ("norm, ...", "test accuracy with nine tenths of the units gone: by norm, by contribution, at random"),
        ]  # fmt: skip
        notes += [("failed", text) for text in self.failures]
        return Group(labelled(self.statement, [*notes, *(extra or [])]), "", grid)

    def rows(self) -> list[tuple[str, str]]:
        return [(line["name"], f"share {line['share']:.3f}, after {line['after']:.3f}") for line in self.lines()]

    def data(self) -> dict[str, Any]:
        return {"lines": self.lines(), "failures": list(self.failures)}

    def plot_data(self) -> dict[str, Any]:
        lines = []
        for line, some in zip(self.lines(), [r for r in self.results if r], strict=True):
            tenth = {"tenth": line["at_contribution"][1], "tenth_random": line["at_random"][1]}
            lines.append({**line, **tenth, "shares": [one["share"] for one in some]})
        return {"names": [line["name"] for line in lines], "lines": lines}

    def plot(self, ax: Any = None) -> Any:
        """Shares of all seeds beside what noise alone gives; accuracy before, after, and with nine tenths gone."""
        from .plot import sweep_figure

        return sweep_figure(self.plot_data(), ax)
