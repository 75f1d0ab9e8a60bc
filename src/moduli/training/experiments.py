"""Experiments on prunability: data, one run with everything that must stand beside its prunable
share, tables over seeds.

A single share means little: one jump can hold most of the norm, pure noise is prunable without
training, and random removal leaves wide networks accurate. Each run therefore measures all of
these, and a table shows median and worst seed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.extras import needed
from moduli.common.files import content, load_arrays, suffix_of
from moduli.common.result import Result, plain
from moduli.formats.tables import SUFFIXES, read_table
from moduli.formats.tables import Table as Cells
from moduli.kernel.errors import ArgumentError, Asked, UnsupportedModel, printable

from .job_store import Job
from .measures import ACCURACY, ERROR, GONE, measure
from .noise import slip
from .pruning import predicted_share, span

Array = np.ndarray[Any, np.dtype[np.float64]]
FOLDER = "MODULI_DATA"
FUNCTION = "moduli.training.experiments:prunability"
WHOLE = ("width", "depth", "steps", "batch", "rows")
COMMON = ("data", *WHOLE, "image", "bias", "lr", "momentum", "target", "clip", "noise", "penalty")
MOST_BYTES = 2**32
MOST_TEXT = 2**20
CLASSES, FLOAT32 = 2**16, 3.4e38
SEEDS = 10_000
NUMBERS = ("test", "share", "share_whole", "largest", "after", "change", "steps")
HELD_OUT = 0.25  # of the rows of a table without rows for testing
LISTS = {"at_norm": len(GONE), "at_contribution": len(GONE), "at_random": len(GONE), "predicted": 6}


class Data(NamedTuple):
    """Inputs [samples, in] as float32, targets, and the same for testing; the shape of a sample as it is
    stored.
    """

    x: Any
    y: Any
    x_test: Any
    y_test: Any
    shape: tuple[int, ...]


def load_data(
    name: str, folder: str | Path | None = None, *, column: str | None = None, values: bool = False
) -> Data:
    """The bundled digits, a file of samples, or an .npz file by its name in a folder.

    An .npz file holds x_train, y_train, x_test, y_test: whole targets are classes, floats values; images
    are [samples, channels, height, width], or [samples, height, width], or rows of these.
    A .csv or .npy file is one table with a column to learn; a quarter of its rows, drawn once and
    for all, is for testing. Bytes (images) are centred and scaled by the mean and standard
    deviation of all training entries.

    Args:
        folder: by default the environment variable MODULI_DATA. column: of a table, the one to
            learn, by default the last; columns without a header are named 1, 2, ... It holds
            classes if its entries are text or whole numbers from 0 on. values: they are numbers to
            fit all the same.

    Raises:
        ValueError: no such data, or arrays that do not fit.

    >>> load_data("digits").x.shape
    (1347, 64)
    """
    suffix = suffix_of(name)[0]
    if suffix in SUFFIXES:
        return _split(read_table(name), column, values)
    if column is not None or values:
        raise ValueError(f"data {name!r}: a column is chosen in a .csv or .npy file")
    if name == "digits":
        path = Path(__file__).parents[1] / "zoo" / "data" / "digits.npz"
    elif suffix == ".npz":
        path = Path(name)
    else:
        place = folder or os.environ.get(FOLDER)
        if place is None:
            raise ValueError(
                f"data {name!r}: bundled is 'digits'; others are FILE.npz, FILE.npy, FILE.csv, or NAME.npz in a folder "
                f"(or {FOLDER})"
            )
        path = Path(place) / f"{name}.npz"
    x, y, x_test, y_test = _tables(path)
    mean, scale = (float(x.mean()), float(x.std()) or 1.0) if x.dtype == np.uint8 else (0.0, 1.0)
    both = [
        ((part.reshape(len(part), -1) - mean) / scale).astype(np.float32) for part in (x, x_test)
    ]
    labels = [part.astype(np.int64) if part.dtype.kind in "iub" else part for part in (y, y_test)]
    return Data(both[0], labels[0], both[1], labels[1], x.shape[1:])


def _split(table: Cells, column: str | None, values: bool) -> Data:
    """Rows for training and for testing, in an order that is always the same."""
    at, y = table.column(column), table.targets(column, values=values)
    x = table.numbers([k for k in range(len(table.names)) if k != at])
    test = math.ceil(HELD_OUT * len(x))
    if not x.shape[1] or test >= len(x):
        raise UnsupportedModel(
            f"{table.path} has {len(x)} rows of {x.shape[1]} inputs; at least one input and two rows are needed"
        )
    if not np.abs(x).max() < FLOAT32:
        raise UnsupportedModel(f"{table.path}: inputs reach {np.abs(x).max():.3g}, beyond float32")
    order = np.random.default_rng(0).permutation(len(x))
    some, rest = order[test:], order[:test]
    inputs = x.astype(np.float32)
    return Data(inputs[some], y[some], inputs[rest], y[rest], x.shape[1:])


def _tables(path: Path) -> list[Any]:
    """Four arrays of finite numbers whose shapes fit; whole targets are numbers of classes."""
    wanted, z = ("x_train", "y_train", "x_test", "y_test"), load_arrays(path, MOST_BYTES)
    if not set(wanted) <= set(z):
        raise UnsupportedModel(
            f"{path} holds {', '.join(list(z)[:8]) or 'nothing'}; needed are {', '.join(wanted)}"
        )
    for name in wanted:
        if (
            z[name].dtype.kind not in "fiub"
            or not z[name].size
            or not z[name].ndim
            or not np.isfinite(z[name]).all()
        ):
            raise UnsupportedModel(
                f"{path}: {name} is {z[name].dtype} {z[name].shape}; finite numbers are needed"
            )
        if name[0] == "x" and not (z[name].min() > -FLOAT32 and z[name].max() < FLOAT32):
            raise UnsupportedModel(
                f"{path}: {name} runs from {z[name].min()} to {z[name].max()}, beyond float32"
            )
        if (
            name[0] == "y"
            and z[name].dtype.kind in "iu"
            and not (z[name].min() >= 0 and z[name].max() < CLASSES)
        ):
            span = f"{z[name].min()} to {z[name].max()}"
            raise UnsupportedModel(
                f"{path}: {name} runs from {span}; classes are 0 to {CLASSES - 1}"
            )
    x, y, x_test, y_test = found = [z[k] for k in wanted]
    if len(x) != len(y) or len(x_test) != len(y_test) or x.shape[1:] != x_test.shape[1:]:
        raise UnsupportedModel(
            f"{path}: shapes {x.shape}, {y.shape}, {x_test.shape}, {y_test.shape} do not fit together"
        )
    return found


def prunability(
    data: str, width: int, seed: int, *, folder: str | None = None, depth: int = 1, image: Sequence[int] | None = None,
    bias: bool = False, noise: Mapping[str, Any] | None = None, penalty: Mapping[str, float] | None = None,
    rows: int | None = None, **fitting: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train one network and measure how much of it can go, beside what noise alone would give;
    plain numbers.

    Args:
        data, folder: as for `load_data`. width, depth, bias: of the ReLU network. image: (channels,
            height, width) of a sample; then the layers are of 3 x 3 filters, see
            `moduli.pytorch.convolutional`, and a unit is a filter. seed: a number; start, batches
            and noise are drawn from it *and* all other settings: runs with different alpha are
            independent. rows: training samples used.
        noise, penalty, fitting: as for `torch_runs.fit`.
    """
    with needed("torch", "torch"):
        from . import torch_filters
        from .torch_runs import convolutional, fit, perceptron

    told = load_data(data, folder)
    x, y, x_test = told.x[:rows], told.y[:rows], told.x_test
    shape: dict[str, Any] = {
        "data": data,
        "width": width,
        "depth": depth,
        "bias": bias,
        "rows": rows,
    }
    if image is not None:
        shape["image"] = list(image)
        if math.prod(image) != x.shape[1]:
            raise ArgumentError(
                Asked("image", list(image)), f": samples have {x.shape[1]} entries, not {math.prod(image)}"
            )  # fmt: skip
        stored = [n for n in told.shape if n > 1]
        if len(image) == 3 and len(told.shape) > 1 and stored != [n for n in image if n > 1]:
            raise ArgumentError(
                Asked("image", list(image)), f": samples are stored as {list(told.shape)}; store them as ",
                "[channels, height, width]",
            )  # fmt: skip
        x, x_test = (part.reshape(len(part), *image) for part in (x, x_test))
    settings = {**shape, "noise": dict(noise or {}), "penalty": dict(penalty or {}), **fitting}
    stream = int.from_bytes(
        hashlib.sha256(json.dumps([settings, seed], sort_keys=True).encode()).digest()[:4], "big"
    )
    outputs = (
        int(told.y.max()) + 1
        if told.y.dtype.kind == "i"
        else int(np.prod(told.y.shape[1:], dtype=int))
    )
    if image is None:
        module = perceptron(x.shape[1], width, outputs, depth=depth, bias=bias, seed=stream)
    else:
        module = convolutional(image, width, outputs, depth=depth, bias=bias, seed=stream)
    run = fit(module, x, y, noise=noise, penalty=penalty, seed=stream, **fitting)
    if image is None:
        x, x_test = x.astype(np.float64), x_test.astype(np.float64)
        found = measure(run.network, x, x_test, told.y_test, seed=stream)
    else:
        found = torch_filters.measure(run.module, x, x_test, told.y_test, seed=stream)
    found |= {"steps": run.steps, "train": run.train, "redrawn": run.redrawn}
    found["theorem_lr"] = run.theorem_lr
    if (
        depth == 1
        and (noise or {}).get("sigma")
        and not ((noise or {}).get("truncation") or fitting.get("clip"))
    ):
        noise = dict(noise or {})
        kind, alpha = str(noise.get("kind", "isotropic")), float(noise["alpha"])
        size = float(noise["sigma"]) * slip(alpha, kind, str(noise.get("convention", "exact")))
        law = (kind, alpha, size, run.time)
        start = run.start[0].reshape(len(run.start[0]), -1)
        basis = span(x) if image is None else torch_filters.span_of_patches(x)
        draws = max(20, min(200, 4 * 10**7 // start.size))
        found["predicted"] = predicted_share(
            start, *law, draws=draws, basis=basis, seed=stream
        ).tolist()
    if plain(found) != found:
        raise ValueError("a measurement is not finite; lower lr or sigma")
    return found


# Configurations and tables --------------------------------------------------------------------------------------


def read_config(path: str | Path, folder: str | None = None) -> list[tuple[str, Job]]:
    """Jobs of a TOML file: settings common to all, ``seeds``, and ``[[runs]]`` with a name and
    settings of their own.

    Raises:
        ValueError: not TOML, or a setting nobody knows.
    """

    def wrong(text: str) -> ValueError:
        return ValueError(printable(f"{path}: {text}"))

    try:
        config = tomllib.loads(content(path, MOST_TEXT).decode())
    except (ValueError, RecursionError) as error:
        raise wrong(str(error)) from None
    runs, seeds = config.pop("runs", None), config.pop("seeds", 1)
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) for run in runs):
        raise wrong("needed is at least one [[runs]] with a name")
    if type(seeds) is not int or not 1 <= seeds <= SEEDS:
        raise wrong(f"needed is seeds = N from 1 to {SEEDS}, not {str(seeds)[:40]}")
    jobs = []
    for run in runs:
        settings = {**config, **run}
        name = settings.pop("name", None)
        unknown = sorted(set(settings) - set(COMMON))
        if (
            not (isinstance(name, str) and name.isprintable())
            or unknown
            or not {"data", "width"} <= set(settings)
        ):
            missed = f"unknown {', '.join(unknown)}" if unknown else "name, data or width missing"
            raise wrong(f"run {str(name)[:80]!r}: {missed}; known: name, {', '.join(COMMON)}")
        for key, value in settings.items():
            if needed := _misfit(key, value):
                raise wrong(f"run {name[:80]!r}: {key} = {str(value)[:80]}; {needed}")
        if folder is not None and settings["data"] != "digits":
            settings["folder"] = folder
        jobs += [(name, Job(FUNCTION, {**settings, "seed": seed})) for seed in range(seeds)]
    return jobs


def _misfit(key: str, value: Any) -> str | None:
    """What a setting has to be, where it is not."""
    if key in WHOLE:
        return None if type(value) is int and 1 <= value < 2**31 else "a number from 1 on is needed"
    if key == "data":
        return (
            None if isinstance(value, str) and value.isprintable() else "the name of data is needed"
        )
    if key == "image":
        sizes = isinstance(value, list) and len(value) == 3
        fits = sizes and all(type(n) is int and 1 <= n < 2**16 for n in value)
        return None if fits else "[channels, height, width] is needed"
    if key == "bias":
        return None if isinstance(value, bool) else "true or false is needed"
    if key in ("noise", "penalty"):
        kinds = {"kind": str, "convention": str, "annealed": bool}
        plain = isinstance(value, dict) and all(
            isinstance(v, kinds[k]) if k in kinds else _is_number(v) for k, v in value.items()
        )
        return (
            None
            if plain
            else "a table of numbers is needed, but for kind, convention (names) and annealed (true or false)"
        )
    return None if _is_number(value) else "a finite number is needed"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**1000


def _require_measured(one: Any, name: str) -> dict[str, Any]:
    """A result as `prunability` gives it; a store may hold others."""

    def numbers(values: list[Any]) -> bool:
        return all(type(v) is float or (type(v) is int and abs(v) < 2**53) for v in values)

    good = isinstance(one, dict) and numbers([one.get(key) for key in NUMBERS])
    good = good and one.get("measure") in (ACCURACY, ERROR)
    if not good or not all(
        isinstance(one.get(key), list) and len(one[key]) == size and numbers(one[key])
        for key, size in LISTS.items()
        if key != "predicted" or key in one
    ):
        raise ValueError(
            f"{name}: a stored result lacks what was measured; remove its file from the store and start again"
        )
    return dict(one)


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
                groups[name].append(_require_measured(one["result"], name))
            else:
                failures.append(
                    printable(f"{name}, seed {one['arguments'].get('seed')}: {one['error']}")
                )
        return Table(
            "estimated", tuple(groups), tuple(map(tuple, groups.values())), tuple(failures)
        )

    @property
    def statement(self) -> str:
        count = sum(map(len, self.results))
        return f"{len(self.names)} settings, {count} runs" + (
            f", {len(self.failures)} failed" if self.failures else ""
        )

    @property
    def measure(self) -> str:
        """What a run is scored by: accuracy (the worst seed has the least) or mean square error
        (the most).
        """
        return " or ".join(sorted({one["measure"] for some in self.results for one in some}))

    def lines(self) -> list[dict[str, Any]]:
        """One per setting, numbers."""
        found = []
        for name, some in zip(self.names, self.results, strict=True):
            if not some:
                continue
            line: dict[str, Any] = {"name": name, "seeds": len(some)}
            for key in NUMBERS:
                line[key] = float(np.median([one[key] for one in some]))
            line["measure"] = some[0]["measure"]
            worst = np.min if line["measure"] == ACCURACY else np.max  # the largest error
            line["test_worst"] = float(worst([one["test"] for one in some]))
            line["after_worst"] = float(worst([one["after"] for one in some]))
            line["largest_worst"] = max(one["largest"] for one in some)
            for key in ("at_norm", "at_contribution", "at_random"):
                line[key] = np.median([one[key] for one in some], axis=0).tolist()
                line[f"{key}_worst"] = worst([one[key] for one in some], axis=0).tolist()
            if all("predicted" in one for one in some):
                line["predicted"] = np.median([one["predicted"] for one in some], axis=0).tolist()
            found.append(line)
        return found

    def table(self, extra: list[tuple[str, str]] | None = None) -> Any:
        from moduli.common.tables import Columns, Labelled, Parts

        head = (
            "run", "test", "share", "noise alone", "whole", "largest", "after", "change", "norm",
            "contr.", "random",
        )  # fmt: skip
        rows = []
        for line in self.lines():
            noise = (
                f"{line['predicted'][3]:.3f}-{line['predicted'][5]:.3f}"
                if "predicted" in line
                else ""
            )
            form = ".3f" if line["measure"] == ACCURACY else ".3g"
            after, after_worst = format(line["after"], form), format(line["after_worst"], form)
            gone = [line[key][1] for key in ("at_norm", "at_contribution", "at_random")]
            rows.append((
                line["name"], format(line["test"], form), f"{line['share']:.3f}", noise,
                f"{line['share_whole']:.3f}",
                f"{line['largest']:.2f} ({line['largest_worst']:.2f})",
                f"{after} ({after_worst})", f"{line['change']:.2f}",
                *(format(score, form) for score in gone),
            ))  # fmt: skip
        notes = [
            (
                "share",
                "of units that hold a tenth of the squared norm, in the part the data see; medians (worst seed)",
            ),
            (
                "noise alone",
                "the same for start plus noise without training: 5 to 95 % of a median of ten",
            ),
            ("whole", "share by whole rows"),
            ("largest", "part of the squared norm in one unit"),
            ("test", f"{self.measure} on the test data"),
            ("after", "the same without those units"),
            ("change", "of the function, relative, root mean square"),
            (
                "norm, ...",
                "the same with nine tenths of the units gone: by norm, by contribution, at random",
            ),
        ]
        notes += [("failed", text) for text in self.failures]
        facts = Labelled(self.statement, [*notes, *(extra or [])])
        return Parts([facts, Columns(head, rows, head[1:])])

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns of the numbers of each setting, for `pandas.DataFrame`."""
        lines = self.lines()
        names = [
            name
            for name, value in (lines[0] if lines else {}).items()
            if not isinstance(value, list)
        ]
        return {name: [line[name] for line in lines] for name in names}

    def rows(self) -> list[tuple[str, str]]:
        return [
            (line["name"], f"share {line['share']:.3f}, after {line['after']:.3f}")
            for line in self.lines()
        ]

    def data(self) -> dict[str, Any]:
        return {"measure": self.measure, "lines": self.lines(), "failures": list(self.failures)}

    def plot_data(self) -> dict[str, Any]:
        lines = []
        for line, some in zip(self.lines(), [r for r in self.results if r], strict=True):
            tenth = {"tenth": line["at_contribution"][1], "tenth_random": line["at_random"][1]}
            lines.append({**line, **tenth, "shares": [one["share"] for one in some]})
        names = [line["name"] for line in lines]
        return {"names": names, "measure": self.measure, "lines": lines}

    def plot(self, ax: Any = None) -> Any:
        """Shares of all seeds beside what noise alone gives; accuracy or error before, after, and with
        nine tenths gone.
        """
        from moduli.common.figures import sweep_figure

        return sweep_figure(self.plot_data(), ax)
