"""The command line. stdout holds the result, stderr everything else.

Exit codes: 0 yes or done, 1 no (differs, rejected), 2 usage, 3 undecided, 4 cannot read, 130
interrupted, 141 nobody reads the answer.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import moduli as mo
from moduli.common.extras import needed
from moduli.common.files import suffix_of
from moduli.kernel.errors import Asked

from .cli_support import (
    CERTIFICATE,
    MODEL,
    PAGE,
    PICTURE,
    SMALLER,
    Interrupted,
    bar,
    fail_with,
    processes,
    refusal,
    show,
    show_data,
    show_rows,
    within,
    writing,
)

if TYPE_CHECKING:
    from moduli.common.domains import Domain, Grid, Samples
    from moduli.common.graph import Graph
    from moduli.compression.average.students import ErrorCurve
    from moduli.compression.graph_results import GraphCompression
    from moduli.compression.radius.euclidean_distance import RankDistance
    from moduli.compression.radius.reduce_within import RankCurve
    from moduli.compression.results import Compression
    from moduli.equivalence.checkpoint_alignment import CheckpointAlignment
    from moduli.equivalence.checkpoint_form import CheckpointForm
    from moduli.kernel.box import Box
    from moduli.kernel.network import Network

BOXES = "box:LO,HI | 'box:L1,L2,...;H1,H2,...' | box:FILE.vnnlib | box:FILE.npz"
GRIDS = "grid | grid:LO,HI | 'grid:L1,...;H1,...' | grid:FILE.npz"
DOMAINS = f"all | {BOXES} | gaussian | FILE.npz | FILE.npy | FILE.csv"
KERNELS = ("tflite-micro", "litert", "onnxruntime")
TABLES = (".npz", ".npy", ".csv")
ANSWER = {"refuted": 1, "undecided": 3}


class _Command(click.Command):
    """With --json, whatever goes wrong in it is one JSON object, too: a refusal is an answer to
    whoever reads answers.
    """

    def invoke(self, ctx: click.Context) -> Any:
        import numpy as np

        try:
            with np.errstate(all="ignore"):
                return super().invoke(ctx)
        except (mo.ModuliError, BrokenExecutor, OSError, ValueError, MemoryError) as error:
            if (
                ctx.params.get("as_json")
                and not ctx.params.get("quiet")
                and not isinstance(error, BrokenPipeError)
            ):
                show_data(refusal(str(ctx.info_name), error))
            raise


class _Commands(click.Group):
    """Lists its commands from the first to need to the last; takes Ctrl-C and closed pipes, which
    click calls 1, a no.
    """

    command_class = _Command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; files are written whole or not at all") from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(
                141
            )  # as of a process that SIGPIPE ends: whoever does not read the answer gets none

    def list_commands(self, ctx: click.Context) -> list[str]:
        first = [
            "demo", "info", "compress", "check", "report", "rank", "equal", "distance", "rounding",
        ]  # fmt: skip
        return first + [name for name in self.commands if name not in first]


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(mo.__version__, prog_name="moduli")
def cli() -> None:
    """Neural networks modulo having the same function: make a network smaller, prove that nothing
    changed, check the proof.

    MODEL is a file (.onnx .tflite .keras .h5 .nnet .safetensors .npz .pth .pt .zip, also .onnx.gz)
    or zoo:NAME. Try: moduli demo

    Exit codes: 0 yes or done, 1 no, 2 usage, 3 undecided, 4 cannot read.
    """


def _options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that commands share, by name."""
    table: dict[str, Callable[[Any], Any]] = {
        "json": click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        "quiet": click.option(
            "--quiet", is_flag=True, help="Print nothing; the exit code answers."
        ),
        "seed": click.option(
            "--seed", type=int, default=0, show_default=True, help="Seed of every random choice."
        ),
        "budget": click.option(
            "--budget",
            type=click.IntRange(4),
            default=10_000,
            show_default=True,
            help="Search nodes, never seconds.",
        ),
        "time_limit": click.option(
            "--time-limit",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            help="Wish: end about then with the best answer so far, that of a smaller budget.",
        ),
        "workers": click.option(
            "--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes."
        ),
        "on": _on(),
        "on_or_grid": _on(f"; all integer inputs of a device: {GRIDS}"),
        "dtype": click.option(
            "--dtype",
            metavar="T",
            help="On a box, also say how far both files are apart as runtimes compute them: "
            "float32, float16, bfloat16, float64.",
        ),
        "kernels": click.option(
            "--kernels",
            type=click.Choice(KERNELS),
            help="With --on grid, whose integer arithmetic.",
        ),
        "activation": click.option(
            "--activation",
            metavar="NAME",
            help="Hidden activation, for files that store none (state dicts), and for widths.",
        ),
        "input_shape": click.option(
            "--input-shape",
            metavar="N[,N...]",
            help="Of one input, where a file leaves it open.",
        ),
        "output": click.option(
            "--output",
            "output",
            metavar="NAME",
            help="Name of the output to read, where a file has several.",
        ),
        "keys": click.option(
            "--keys",
            metavar="K,K,...",
            help="Prefixes of the layers in a state dict, in order, separated by commas.",
        ),
    }

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            function = table[name](function)
        return function

    return wrap


def _on(more: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --on, where it may say more than a domain."""
    return click.option(
        "--on",
        default="all",
        show_default=True,
        metavar="D",
        help=f"Inputs that count: {DOMAINS}{more}.",
    )


_SOURCE = ("activation", "input_shape", "output", "keys")
_COMMON = ("json", "quiet", "seed", "budget")
_SEARCH = (*_COMMON, "time_limit")


# What is asked of graphs, too; all else is of chains of dense layers alone.
OF_GRAPHS = (
    "info, compress, check, report, rank, equal, distance, rounding, canon, align and complexity"
)


def _load(model: str, **source: Any) -> Network:
    return _load_chains([model], **source)[0]


def _load_chains(models: Sequence[str], **source: Any) -> list[Network]:
    """Models that are asked what only chains of dense layers are."""
    from moduli.formats import load_chains

    try:
        return load_chains(models, **_asked(**source))
    except mo.UnsupportedModel as error:
        asks = any(isinstance(part, Asked) for part in error.parts)  # an option is the way out
        for model in () if asks else models:
            if _is_graph(model):
                raise mo.UnsupportedModel(
                    f"{model} is no chain of dense layers, of which alone this is asked; of graphs such as "
                    f"this one ask {OF_GRAPHS} ({error})"
                ) from None
        raise


def _is_graph(model: str) -> bool:
    from moduli.formats import load

    try:
        return isinstance(load(model), mo.Graph)
    except (mo.ModuliError, ValueError):
        return False


def _load_any(model: str, **source: Any) -> Network | Graph:
    from moduli.formats import load

    return load(model, **_asked(**source))


def _load_each(models: Sequence[str], **source: Any) -> list[Network | Graph]:
    """Several models, each with the options that concern it."""
    from moduli.formats import load_several

    return load_several(models, **_asked(**source))


def _asked(
    activation: str | None, output: str | None, keys: str | None, input_shape: str | None
) -> dict[str, Any]:
    names = tuple(keys.split(",")) if keys else None
    shape = None if input_shape is None else _numbers("--input-shape", input_shape)
    return {"activation": activation, "output": output, "keys": names, "input_shape": shape}


def _domain(text: str) -> Domain:
    """Read D of the command line."""
    if text == "all":
        return None
    if text == "gaussian":
        return mo.Gaussian()
    if text.startswith("box:"):
        return _box(text[4:])
    if suffix_of(text)[0] in TABLES:
        from moduli.formats import load_samples

        return load_samples(text)
    raise ValueError(f"--on {text}: write {DOMAINS.replace(' | ', ', ')}")


def _domain_or_grid(text: str, kernels: str | None) -> Domain | Grid:
    """Read D of the command line, where it may be all integer inputs of a device."""
    if text == "grid":
        return mo.Grid(kernels=kernels)
    if text.startswith("grid:"):
        return _grid_of(_box(text[5:], "grid"), text, kernels)
    if kernels is not None:
        raise ValueError(f"--kernels {kernels}: of --on grid alone")
    try:
        return _domain(text)
    except ValueError:
        if ":" in text or suffix_of(text)[0]:
            raise
        raise ValueError(
            f"--on {text}: write {f'{DOMAINS} | {GRIDS}'.replace(' | ', ', ')}"
        ) from None


def _grid_of(box: Box, text: str, kernels: str | None) -> Grid:
    """The integers within a box."""
    if box.notes or box.hull_of:
        raise ValueError(
            f"--on {text}: the file means other inputs than a box of them; write grid:LO,HI"
        )
    if box.named:
        ends = {
            name: tuple(end.reshape(part.shape or end.shape) for end in (part.low, part.high))
            for name, part in box.named.items()
        }
        return mo.Grid(ends, kernels=kernels)
    low, high = (end.reshape(box.shape or end.shape) for end in (box.low, box.high))
    return mo.Grid(low, high, kernels=kernels)


def _box(text: str, word: str = "box") -> Box:
    """Read what follows box: or grid: on the command line."""
    suffix, _ = suffix_of(text)
    if suffix == ".vnnlib":
        return mo.Box.from_vnnlib(text)
    if suffix == ".npz":
        from moduli.formats import load_box

        return load_box(text)
    parts = text.split(";") if ";" in text else text.split(",")
    try:
        ends = [[float(number) for number in part.split(",")] for part in parts]
        low, high = ends
        if not all(map(math.isfinite, [*low, *high])):
            raise ValueError
        if 1 not in (len(low), len(high)) and len(low) != len(high):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"--on {word}:{text}: write {word}:LO,HI for all inputs alike, "
            f"'{word}:L1,L2,...;H1,H2,...' for each its own (in quotes), "
            f"{word}:FILE.vnnlib, or {word}:FILE.npz with arrays low and high"
        ) from None
    if len(low) == len(high) == 1 and low > high:
        raise ValueError(
            f"--on {word}:{text}: {low[0]:g} exceeds {high[0]:g}; write {word}:{high[0]:g},{low[0]:g}"
        )
    try:
        return mo.Box(low if len(low) > 1 else low[0], high if len(high) > 1 else high[0])
    except mo.ShapeError as error:
        raise ValueError(f"--on {word}:{text}: {error}") from None


def _told(domain: Domain | Grid) -> dict[str, str]:
    """What is to be said of a domain beside every answer: in which ways a box is larger than what
    was meant.
    """
    notes = domain.notes if isinstance(domain, mo.Box) else ()
    return {"domain": "; ".join(notes)} if notes else {}


@cli.command()
@click.argument("model")
@_options("json", "quiet", *_SOURCE)
def info(model: str, as_json: bool, quiet: bool, **source: Any) -> None:
    """What a model is: layers, units, what reading it had to round.

    \b
    Example: moduli info controller.onnx
    """
    net = _load_any(model, **source)
    if not isinstance(net, mo.Network):
        return _graph_info(model, net, as_json, quiet)
    data = {
        "schema": "moduli.info/1",
        "model": model,
        "widths": list(net.widths),
        "activations": [str(a) for a in net.activations],
        "output_map": net.output_map,
        "units": net.units,
        "parameters": net.parameters,
        "digest": net.digest,
        "notes": list(net.notes),
        "box": None
        if net.frame is None
        else [net.frame.box.low.tolist(), net.frame.box.high.tolist()],
    }
    if as_json:
        show_data(data)
    elif not quiet:
        rows = [
            ("network", repr(net)),
            ("hidden units", str(net.units)),
            ("digest", net.digest),
            *(("note", n) for n in net.notes),
        ]
        if net.frame is not None:
            rows.append(
                (
                    "box",
                    f"operating box in the header: {net.frame.low.tolist()} to {net.frame.high.tolist()} (physical units)",
                )
            )
        show_rows(model, rows)


def _graph_info(model: str, graph: Graph, as_json: bool, quiet: bool) -> None:
    """Axes of a graph, and what freezes them."""
    if as_json:
        show_data(
            {
                "schema": "moduli.info/1",
                "model": model,
                "operators": len(graph.model.nodes),
                "inputs": _ends(graph, graph.inputs),
                "outputs": _ends(graph, graph.outputs),
                "units": graph.units,
                "parameters": graph.parameters,
                "axes": [asdict(axis) for axis in graph.axes],
                "digest": graph.digest,
                "notes": list(graph.notes),
            }
        )
    elif not quiet:
        rows = [("network", repr(graph)), ("units", str(graph.units)), ("digest", graph.digest)]
        for axis in graph.axes:
            readers = f", read by {_several(axis.readers)}" if axis.readers else ""
            stays = f"; stays: {axis.frozen}" if axis.frozen else ""
            rows.append((axis.name, f"{axis.size}{readers}{stays}"))
        rows += [("note", note) for note in graph.notes]
        show_rows(model, rows)


def _ends(graph: Graph, names: Sequence[str]) -> dict[str, Any]:
    shapes = {name: graph.model.shapes.get(name) for name in names}
    return {name: None if shape is None else list(shape) for name, shape in shapes.items()}


def _several(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@cli.command()
@click.argument("model")
@click.option(
    "-o",
    "--out",
    required=True,
    type=SMALLER,
    metavar="OUT",
    help="Where the smaller model goes, with OUT.cert.json beside it.",
)
@click.option(
    "--stored",
    type=click.Choice(["float32", "float64"]),
    help="Type of the numbers in OUT; by default as in MODEL.",
)
@click.option(
    "--eps",
    type=float,
    default=0.0,
    help="Allowed difference of outputs: the largest on a box, root mean square on average; with --on.",
)
@click.option(
    "--units",
    metavar="M[,M...]",
    help="Hidden units wanted, in all or per hidden layer; with --on.",
)
@click.option("--radius", type=float, default=0.0, help="Allowed change of each parameter.")
@click.option(
    "--no-biases",
    is_flag=True,
    help="No biases in the smaller model; with --units or --eps and --on.",
)
@click.option(
    "--starts",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Rounds of random starts; with --units or --eps and --on.",
)
@_options("dtype", "on", "workers", *_SEARCH, *_SOURCE)
def compress(
    model: str, out: str, stored: str | None, dtype: str | None, on: str, eps: float, units: str | None, radius: float,
    no_biases: bool, starts: int, workers: int, as_json: bool, quiet: bool, seed: int, budget: int,
    time_limit: float | None, **source: Any,
) -> None:  # fmt: skip
    """Write a smaller model with the same function and its proof.

    On all inputs; with --on box:... on that box, exactly or (--eps) nearly; with --radius the
    function of parameters that near; with --on data.npz or gaussian the closest on average that has
    --units, or whose error is at most --eps.

    \b
    Example: moduli compress controller.onnx -o small.onnx
    Example: moduli compress controller.onnx -o small.onnx --on box:property.vnnlib --dtype float32
    Example: moduli compress controller.onnx -o small.onnx --on data.npz --units 16
    """
    if not model.startswith("zoo:") and Path(out).resolve() == Path(model).resolve():
        raise ValueError(f"{out} is the model itself; choose another name for the smaller one")
    from moduli.api import as_computed
    from moduli.compression.graph_results import GraphCompression
    from moduli.compression.results import Compression

    net, domain = _load_any(model, **source), _domain(on)
    _require_suffix(net, model, out)
    stated = None if dtype is None else as_computed(net, domain, dtype, radius, budget)
    searches = isinstance(domain, mo.Box) or radius > 0
    with bar(quiet) as progress, processes(workers) as executor:
        small, limits = within(
            time_limit,
            budget,
            partial(
                mo.compress,
                net,
                on=domain,
                eps=eps,
                units=_units(units),
                radius=radius,
                biases=not no_biases,
                starts=starts,
                seed=seed,
                executor=executor,
            ),
            progress,
            searches,
        )
    told = {**_told(domain), **limits}
    if isinstance(small, GraphCompression):
        if stored is not None:
            raise ValueError(
                f"--stored {stored}: a graph keeps the types of its file; leave it out"
            )
        target, proof = _write_graph(small, Path(out))
        small = stated(small) if stated is not None else small
        return show(small, as_json, quiet, **told, written=str(target), proof=str(proof))
    assert isinstance(net, mo.Network)
    if not isinstance(small, Compression):
        small = small.rounded(stored or _type_of(net))
        with writing(Path(out)):
            target = mo.save(small.network, out, dtype=stored or _type_of(net))
        return show(small, as_json, quiet, **told, written=str(target))
    written, proof = _write(small, Path(out), stored or _type_of(net))
    written = stated(written) if stated is not None else written
    show(written, as_json, quiet, **told, written=out, proof=str(proof))
    sys.exit(ANSWER.get(written.status, 0))


def _require_suffix(net: Network | Graph, model: str, out: str) -> None:
    """A file of TensorFlow Lite is made of one alone: refused before the work."""
    suffixes = net.source.suffixes if isinstance(net, mo.Graph) else MODEL.suffixes
    if Path(out).suffix.lower() not in suffixes:
        raise ValueError(f"cannot write {out}: {model} is written as {' or '.join(suffixes)}")


def _saved(net: Network | Graph, out: str) -> Path:
    """In the type that it has; a graph knows its own."""
    return mo.save(net, out) if isinstance(net, mo.Graph) else mo.save(net, out, dtype=net.dtype)


def _type_of(net: Network) -> str:
    """The type of the file's ends; folded maps may need more bits, and are rounded with a bound."""
    return net.ends.dtype if net.ends is not None else net.dtype


def _units(text: str | None) -> int | list[int] | None:
    numbers = None if text is None else _numbers("--units", text)
    return numbers[0] if numbers and len(numbers) == 1 else numbers


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text}: write a whole number, or several as in 32,16") from None


def _write(small: Compression, out: Path, dtype: str) -> tuple[Compression, Path]:
    """Write model and certificate, both or neither; returns the compression that the files hold."""
    proof, new = out.with_name(out.name + ".cert.json"), not out.exists()
    rounded = small.rounded(dtype)
    with writing(out):
        target = mo.save(small.network, out, dtype=dtype)
    try:
        with writing(proof):
            return rounded, rounded.save(proof)
    except BaseException:
        if new:
            target.unlink(missing_ok=True)
        raise


def _write_graph(small: GraphCompression, out: Path) -> tuple[Path, Path]:
    """Write graph and certificate, both or neither."""
    proof, new = out.with_name(out.name + ".cert.json"), not out.exists()
    with writing(out):
        target = mo.save(small.network, out)
    try:
        with writing(proof):
            return target, small.save(proof)
    except BaseException:
        if new:
            target.unlink(missing_ok=True)
        raise


@cli.command()
@click.argument("model")
@click.option("--radius", type=float, default=0.0, help="Allowed change of each parameter.")
@click.option(
    "--units",
    type=click.IntRange(0),
    help="The other way round: the least radius within which that many units are enough.",
)
@click.option(
    "--euclidean",
    is_flag=True,
    help="With --units: how far the nearest such parameters are, all changes together.",
)
@_options("on", "workers", *_SEARCH, *_SOURCE)
def rank(
    model: str,
    radius: float,
    units: int | None,
    euclidean: bool,
    on: str,
    workers: int,
    as_json: bool,
    quiet: bool,
    seed: int,
    budget: int,
    time_limit: float | None,
    **source: Any,
) -> None:
    """How many hidden units the function needs.

    On all inputs; with --on box:... on that box; with --radius any function of parameters that near
    (proximate rank). With --units, how near the parameters are that need no more than that.

    \b
    Example: moduli rank zoo:digits-tanh
    Example: moduli rank zoo:digits-plain --radius 0.05
    Example: moduli rank zoo:digits-plain --units 20
    """
    if units is None and euclidean:
        raise ValueError("--euclidean goes with --units: how many units may be needed")
    if units is not None and (radius or on != "all"):
        other = f"--radius {radius:g}" if radius else f"--on {on}"
        raise ValueError(
            f"--units with {other}: --units asks for a radius, on all inputs; leave it out"
        )
    with bar(quiet) as progress, processes(workers) as executor:
        if units is not None:
            near = _load(model, **source)

            def least(budget: int, progress: Any) -> Any:
                if euclidean:
                    return _nearest(near, units, budget, seed)
                return mo.radius_for(
                    near, units, budget=budget, executor=executor, progress=progress
                )

            answer, told = within(time_limit, budget, least, progress)
        else:
            net, domain = _load_any(model, **source), _domain(on)
            answer, limits = within(
                time_limit,
                budget,
                partial(mo.rank, net, on=domain, radius=radius, seed=seed, executor=executor),
                progress,
                searches=domain is not None or radius > 0,
            )
            told = {**_told(domain), **limits}
    show(answer, as_json, quiet, **told)


def _nearest(net: Network, units: int, budget: int, seed: int) -> RankDistance:
    """How far the parameters are that need at most so many units."""
    if len(net.widths) != 3:
        hidden = len(net.widths) - 2
        raise ValueError(f"--euclidean on {hidden} hidden layers; these distances are for one")
    n, h, m = net.widths
    return mo.rank_set((n, h, m), min(units, h)).distance(net, budget=budget, seed=seed)


@cli.command()
@click.argument("model")
@_options("json", "quiet", *_SOURCE)
def minimal(model: str, as_json: bool, quiet: bool, **source: Any) -> None:
    """All networks of one hidden layer with the function and the fewest units it allows.

    On all inputs; of relu or leaky_relu units and one output. How many there are up to permutations
    and positive scaling, the components of the set of their parameters, and its dimension.

    \b
    Example: moduli minimal controller.onnx
    """
    show(mo.minimal_networks(_load(model, **source)), as_json, quiet)


@cli.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--radii",
    metavar="LO,HI,N",
    help="N radii from LO to HI; by default 25 from 0 to where every unit can vanish.",
)
@click.option(
    "-o", "--out", type=PICTURE, metavar="OUT", help="Where the picture goes (.svg .png .pdf)."
)
@click.option(
    "--units",
    metavar="M,M,...",
    help="Sizes of the students; by default halves of halves; with --on.",
)
@_options("on", "workers", *_SEARCH, *_SOURCE)
def curve(
    models: tuple[str, ...], radii: str | None, out: str | None, units: str | None, workers: int, on: str, as_json: bool,
    quiet: bool, seed: int, budget: int, time_limit: float | None, **source: Any,
) -> None:  # fmt: skip
    """Units against radius, or with --on against the error.

    \b
    Example: moduli curve zoo:digits-plain --radii 0,0.3,13 -o curve.svg
    Example: moduli curve controller.onnx --on gaussian -o errors.svg
    """
    nets, steps = _load_chains(models, **source), _radii(radii)
    domain, sizes = _domain(on), _units(units)
    answer: RankCurve | ErrorCurve
    limits: dict[str, str] = {}
    with bar(quiet) as progress, processes(workers) as executor:
        if domain is None:
            answer, limits = within(
                time_limit,
                budget,
                partial(mo.rank_curve, nets, radii=steps, executor=executor),
                progress,
            )
        elif isinstance(domain, mo.Box) or len(nets) > 1:
            raise ValueError(f"--on {on}: errors are drawn for one model, on gaussian or FILE.npz")
        else:
            sizes = [sizes] if isinstance(sizes, int) else sizes
            answer, limits = within(
                time_limit,
                budget,
                lambda budget, progress: mo.error_curve(
                    nets[0], on=domain, units=sizes, seed=seed, executor=executor, progress=progress
                ),
                progress,
                searches=False,
            )
    if out is None:
        return show(answer, as_json, quiet, **limits)
    from moduli.common.figures import save

    with writing(Path(out)):
        target = save(answer.plot(), out)
    show(answer, as_json, quiet, **limits, written=str(target))


def _radii(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        low, high, count = text.split(",")
        first, last, steps = float(low), float(high), int(count)
        if not (0 <= first <= last < 2.0**1000 and 1 <= steps <= 10**6):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"--radii {text}: write LO,HI,N with 0 <= LO <= HI and a number of radii N"
        ) from None
    return [first + (last - first) * k / max(1, steps - 1) for k in range(steps)]


@cli.command()
@click.argument("certificate")
@click.argument("small")
@click.argument("large")
@click.option(
    "--max-slack", type=float, metavar="S", help="Demand that outputs differ by at most S there."
)
@click.option("--on", metavar="D", help=f"Demand that it holds on these inputs: all | {BOXES}.")
@click.option(
    "--radius", type=float, metavar="R", help="Accept claims about parameters within R of LARGE."
)
@click.option("--minimal", is_flag=True, help="Demand that fewest units are proved.")
@_options("dtype", "json", "quiet", *_SOURCE)
def check(
    certificate: str, small: str, large: str, max_slack: float | None, on: str | None, radius: float | None, minimal: bool,
    dtype: str | None, as_json: bool, quiet: bool, **source: Any,
) -> None:  # fmt: skip
    """Replay the proof that two models are the same function.

    SMALL and LARGE in exact arithmetic, without any search: accepted (exit code 0) or rejected (1).
    Whoever made the proof chose what it claims: say what you need, and a weaker claim is rejected.

    \b
    Example: moduli check small.onnx.cert.json small.onnx controller.onnx --on all --max-slack 1e-6
    """
    domain: Any = on if on is None or on == "all" else _domain(on)
    with bar(quiet):
        verdict = mo.check(
            certificate,
            *_load_each([small, large], **source),
            max_slack=max_slack,
            on=domain,
            radius=radius,
            minimal=minimal,
            dtype=dtype,
        )
    show(verdict, as_json, quiet, **_told(domain))


@cli.command("export-proof")
@click.argument("certificate")
@click.argument("small")
@click.argument("large")
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="FILE",
    help="Where the text goes, for build/moduli-verified FILE.",
)
@_options("json", "quiet", *_SOURCE)
def export_proof(
    certificate: str, small: str, large: str, out: str, as_json: bool, quiet: bool, **source: Any
) -> None:
    """Write a certificate as text for the checker that is verified in Rocq.

    Both networks stand in it in exact numbers, and what the moves do to their layers. Certificates of
    chains of dense layers on all inputs, or on a box where intervals show the signs; the text claims
    their slack, and of one hidden layer of tanh or of sigmoids that units are fewest.
    The certificate is checked here first: rejected (exit code 1). What the verified checker does not
    understand is named (3, of a graph 4). See verified/README.md for what has to be trusted.

    \b
    Example: moduli export-proof small.onnx.cert.json small.onnx controller.onnx -o small.proof
    """
    from moduli.common.certificate_files import read_certificate
    from moduli.common.files import atomic_write
    from moduli.formats.proof_text import proof_text
    from moduli.kernel.certificate import Certificate

    claim = read_certificate(certificate)
    if not isinstance(claim, Certificate):
        raise mo.UnsupportedModel(
            f"{certificate} is about graphs; the verified checker understands chains of dense layers"
        )
    exported = proof_text(claim, *_load_chains([small, large], **source))
    with writing(out):
        atomic_write(Path(out), exported.text)
    if quiet:
        return
    region = exported.certificate.region
    minimal = "claimed in the text" if exported.fewest else "not part of the text"
    data: dict[str, Any] = {
        "schema": "moduli.export-proof/1", "written": out, "bytes": len(exported.text),
        "small": exported.small.digest, "large": exported.large.digest,
        "slack": asdict(exported.certificate.slack),
        "holds": "for all inputs" if region is None else f"on the box {region}",
        "links": {"large": exported.links[0], "small": exported.links[1]},
        "minimal": minimal if exported.certificate.minimal else "not claimed",
    }  # fmt: skip
    if as_json:
        return show_data(data)
    show_rows("proof for the verified checker", [
        ("small", f"{exported.small!r}, {data['small']}"),
        ("large", f"{exported.large!r}, {data['large']}"),
        ("slack", f"<= {exported.certificate.slack}"),
        ("holds", data["holds"]),
        ("fewest units", data["minimal"]),
        ("changed layers", str(sum(exported.links))),
        ("written", f"{out}, {data['bytes']} bytes"),
    ])  # fmt: skip


_CERTIFICATE = click.option(
    "-o",
    "--out",
    metavar="CERT",
    help="Where the certificate goes, if there is one: for moduli check CERT B A.",
)


def _certificate_file(answer: Any, out: str | None) -> dict[str, str]:
    """Write the certificate of an answer, and say where."""
    if out is None:
        return {}
    if answer.status in ("refuted", "undecided"):  # nothing is proved that a file could hold
        return {"certificate": f"none; {out} was not written"}
    if answer.certificate is None:
        raise mo.Undecided(
            f"{answer.statement}: this has no certificate, and {out} was not written"
        )
    return {"certificate": str(answer.save(out))}


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option("--eps", type=float, default=0.0, help="Allowed difference of outputs: the largest.")
@click.option(
    "--decision",
    is_flag=True,
    help="Compare which output is the largest, not its value; with --on box or grid.",
)
@_CERTIFICATE
@_options("on_or_grid", "kernels", "workers", *_SEARCH, *_SOURCE)
def equal(
    a: str,
    b: str,
    eps: float,
    decision: bool,
    out: str | None,
    on: str,
    kernels: str | None,
    workers: int,
    as_json: bool,
    quiet: bool,
    seed: int,
    budget: int,
    time_limit: float | None,
    **source: Any,
) -> None:
    """Are two models the same function?

    Proved (exit code 0), refuted with a witness (1) or undecided (3).

    \b
    Example: moduli equal controller.onnx small.onnx --eps 1e-6
    Example: moduli equal model.int8.tflite smaller.int8.tflite --on grid
    """
    with bar(quiet) as progress, processes(workers) as executor:
        domain = _domain_or_grid(on, kernels)
        answer, limits = within(
            time_limit,
            budget,
            partial(
                mo.equivalent,
                a,
                b,
                on=domain,
                eps=eps,
                decision=decision,
                seed=seed,
                executor=executor,
                **_asked(**source),
            ),
            progress,
            searches=not isinstance(domain, mo.Grid),
        )
    told = {**_told(domain), **limits}
    show(answer, as_json, quiet, **told, **_certificate_file(answer, out))
    sys.exit(ANSWER.get(answer.status, 0))


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--tol",
    type=float,
    metavar="T",
    help="Stop when the upper end is at most 1 + T times the lower one.",
)
@_CERTIFICATE
@_options("on_or_grid", "kernels", "workers", *_SEARCH, *_SOURCE)
def distance(
    a: str,
    b: str,
    tol: float | None,
    out: str | None,
    on: str,
    kernels: str | None,
    workers: int,
    as_json: bool,
    quiet: bool,
    seed: int,
    budget: int,
    time_limit: float | None,
    **source: Any,
) -> None:
    """How far two models are apart.

    The largest difference, in certified bounds; with --on data.npz or gaussian the root mean
    square.

    \b
    Example: moduli distance controller.onnx small.onnx --on box:-1,1
    Example: moduli distance controller.onnx controller.int8.tflite --on grid --budget 65536
    """
    with bar(quiet) as progress, processes(workers) as executor:
        domain = _domain_or_grid(on, kernels)
        answer, limits = within(
            time_limit,
            budget,
            partial(
                mo.distance,
                a,
                b,
                on=domain,
                tol=tol,
                seed=seed,
                executor=executor,
                **_asked(**source),
            ),
            progress,
            searches=not isinstance(domain, mo.Grid),
        )
    told = {**_told(domain), **limits}
    show(answer, as_json, quiet, **told, **_certificate_file(answer, out))
    if getattr(answer, "interrupted", False):
        sys.exit(130)


@cli.command()
@click.argument("model")
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    metavar="T",
    help="Format of the runtime: float32, float16, bfloat16, float64.",
)
@click.option(
    "--order",
    default="any",
    show_default=True,
    metavar="O",
    help="Of sums: any, or how many a term passes through at most.",
)
@click.option(
    "--ulps",
    type=float,
    default=4.0,
    show_default=True,
    metavar="K",
    help="How far activation functions are off, in units of 2u max(1, |f|).",
)
@_options("on", "workers", *_SEARCH, *_SOURCE)
def rounding(
    model: str, dtype: str, order: str, ulps: float, on: str, workers: int, as_json: bool,
    quiet: bool, seed: int, budget: int, time_limit: float | None, **source: Any,
) -> None:  # fmt: skip
    """How far a runtime is from the function over the reals.

    A bound of what rounding in floats changes, on a box: sums in any order, fused or not, subnormal
    numbers kept or flushed. An ONNX file is taken operator by operator.

    \b
    Example: moduli rounding controller.onnx --on box:-1,1
    Example: moduli rounding controller.onnx --on box:-1,1 --dtype bfloat16
    """
    from moduli.formats import load_as_written

    wanted = order if order == "any" or not order.isdecimal() else int(order)
    with bar(quiet) as progress, processes(workers) as executor:
        domain = _domain(on)
        net = load_as_written(model, **_asked(**source))
        answer, limits = within(
            time_limit,
            budget,
            partial(
                mo.rounding,
                net,
                on=domain,
                dtype=dtype,
                order=wanted,
                ulps=ulps,
                seed=seed,
                executor=executor,
            ),
            progress,
        )
    show(answer, as_json, quiet, **_told(domain), **limits)


@cli.command()
@click.argument("model")
@click.option(
    "-o",
    "--out",
    required=True,
    type=SMALLER,
    metavar="OUT",
    help="Where the normal form goes (float64).",
)
@_options("json", "quiet", *_SOURCE)
def canon(model: str, out: str, as_json: bool, quiet: bool, **source: Any) -> None:
    """Write the normal form and print the signature of the function.

    Reduced, signs and scales fixed, units sorted; rounded once to float64, with a certified bound
    of what that changes. Of a graph nothing is rounded.

    \b
    Example: moduli canon controller.onnx -o normal.onnx

    A folder with a checkpoint of a language model has one, too, written as .safetensors.
    """
    from moduli.equivalence import checkpoint_form, graph_normal_form, group
    from moduli.formats.checkpoint_files import open_checkpoint

    checkpoint = open_checkpoint(model)
    if checkpoint is not None:
        _require_checkpoint_suffix(model, out)
        moved = checkpoint_form.canon(checkpoint)
        show(moved, as_json, quiet, written=str(_write_checkpoint(moved, out)))
        return
    net = _load_any(model, **source)
    _require_suffix(net, model, out)
    form: Any
    with bar(quiet) as progress:
        if isinstance(net, mo.Graph):
            form, slack = graph_normal_form.canon(net, progress), None
        else:
            form = group.canon(net, progress)
            slack = form.slack if form.status == "bounded" else None
    with writing(Path(out)):
        target = mo.save(form.network, out, slack=slack)
    show(form, as_json, quiet, written=str(target))
    sys.exit(ANSWER.get(form.status, 0))


def _require_checkpoint_suffix(model: str, out: str) -> None:
    if Path(out).suffix.lower() != ".safetensors":
        raise ValueError(f"cannot write {out}: {model} is written as .safetensors")


def _write_checkpoint(found: CheckpointAlignment | CheckpointForm, out: str) -> Path:
    """The moved tensors of a checkpoint, in one file."""
    from moduli.formats.checkpoint_files import save_checkpoint

    with writing(Path(out)):
        return save_checkpoint(*found.written(), Path(out))


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "-o", "--out", required=True, type=SMALLER, metavar="OUT", help="Where A, moved onto B, goes."
)
@click.option(
    "--by", type=click.Choice(["weights", "activations"]), default="weights", show_default=True
)
@click.option(
    "--merge",
    metavar="T",
    type=click.FloatRange(0, 1),
    help="Write the network at T from A (0) to B (1) instead.",
)
@click.option(
    "--statistics",
    metavar="FILE",
    help="With --merge: inputs, a row each, on which batch norms of a graph get new means and variances.",
)
@_options("on", "json", "quiet", "seed", *_SOURCE)
def align(
    a: str,
    b: str,
    out: str,
    by: str,
    merge: float | None,
    statistics: str | None,
    on: str,
    as_json: bool,
    quiet: bool,
    seed: int,
    **source: Any,
) -> None:
    """Move A onto B by permutations, signs and scales.

    With --on data also the barrier between them.

    \b
    Example: moduli align run1.onnx run2.onnx -o aligned.onnx --on data.npz

    A and B may be folders with checkpoints of language models: then the answer says whether one is a disguised
    copy of the other, layer by layer, and OUT is a .safetensors file.
    """
    from moduli.common.graph import Graph
    from moduli.equivalence.checkpoint_alignment import CheckpointAlignment
    from moduli.formats.checkpoint_files import open_checkpoint

    if open_checkpoint(a) is not None or open_checkpoint(b) is not None:
        _require_checkpoint_suffix(a, out)
        if merge is not None or statistics is not None or on != "all":
            raise ValueError(
                "--merge, --statistics and --on are not for checkpoints; leave them out"
            )
        with bar(quiet) as progress:
            copy = mo.align(a, b, by=by, progress=progress, **_asked(**source))
        assert isinstance(copy, CheckpointAlignment)
        show(copy, as_json, quiet, written=str(_write_checkpoint(copy, out)))
        return
    nets = _load_each([a, b], **source)
    _require_suffix(nets[0], a, out)
    domain = _domain(on)
    renewing = {}
    if statistics is not None:
        if merge is None or not isinstance(nets[0], Graph):
            raise ValueError(f"--statistics {statistics}: of graphs with batch norms, with --merge")
        renewing["statistics"] = _domain(statistics)
        if not isinstance(renewing["statistics"], mo.Samples):
            raise ValueError(
                f"--statistics {statistics}: give inputs, FILE.npz, FILE.npy or FILE.csv"
            )
    if isinstance(domain, mo.Box):
        raise ValueError(
            f"--on {on}: activations and barriers are compared on gaussian or FILE.npz"
        )
    with bar(quiet):
        found: Any = mo.align(*nets, by=by, on=domain if by == "activations" else None, seed=seed)
        barrier = None if domain is None else found.barrier(domain, seed=seed, **renewing)
    with writing(Path(out)):
        moved = found.network if merge is None else found.merge(merge, **renewing)
        target = _saved(moved, out)
    extra = (
        {} if barrier is None else {"barrier": barrier.to_json() if as_json else barrier.statement}
    )
    show(found, as_json, quiet, **extra, written=str(target))


@cli.command()
@click.argument("model", metavar="MODEL|WIDTHS")
@click.option(
    "--bound",
    metavar="B",
    help="Of every entry; by default 1, or the largest of each layer of MODEL. he, xavier: of uniform random starts.",
)
@click.option("--input-bound", type=float, default=1.0, show_default=True, help="Of the inputs.")
@click.option(
    "--norm",
    type=click.Choice(["inf", "2"]),
    default="inf",
    show_default=True,
    help="Of the inputs.",
)
@click.option(
    "--samples",
    metavar="N|FILE",
    help="Number of training samples, or the samples (.npz, .npy, .csv).",
)
@click.option(
    "--targets",
    metavar="FILE",
    help="Classes of the samples, from 0 (.npy, or the last column of a .csv): bounds of the risk of a wrong one.",
)
@click.option(
    "--accuracy", type=float, default=0.1, show_default=True, help="Of the covering number."
)
@click.option(
    "--delta",
    type=float,
    default=0.05,
    show_default=True,
    help="Gaps hold with probability 1 - delta.",
)
@click.option(
    "-o", "--out", type=PICTURE, metavar="OUT", help="Where the picture goes (.svg .png .pdf)."
)
@_options("json", "quiet", *_SOURCE)
def complexity(
    model: str, bound: str | None, input_bound: float, norm: str, samples: str | None, targets: str | None,
    accuracy: float, delta: float, out: str | None, as_json: bool, quiet: bool, **source: Any,
) -> None:  # fmt: skip
    """Covering numbers and bounds on generalisation.

    With and without symmetry; of a model or of widths.

    \b
    Example: moduli complexity controller.onnx --samples 60000
    Example: moduli complexity 784,300,100,10 --input-bound 28 --norm 2 --activation tanh
    """
    widths = _widths(model)
    with bar(quiet):
        answer = mo.complexity(
            widths or model,
            **_asked(**source),
            bound=_entry_bound(bound),
            input_bound=input_bound,
            norm=norm,
            samples=_samples(samples),
            targets=None if targets is None else _classes(targets),
            accuracy=accuracy,
            delta=delta,
        )
    extra = {}
    if out is not None:
        from moduli.common.figures import save

        with writing(Path(out)):
            drawn = answer.plot()
            first = drawn[0] if isinstance(drawn, tuple) else drawn
            extra["written"] = str(save(first, out))
    show(answer, as_json, quiet, **extra)


def _widths(text: str) -> list[int] | None:
    """Numbers between commas, in the place of a model."""
    if not text.replace(",", "").isdecimal() or text.startswith(",") or ",," in text:
        return None
    return [int(d) for d in text.rstrip(",").split(",")]


def _samples(text: str | None) -> int | Samples | None:
    if text is None or suffix_of(text)[0] in TABLES:
        domain = None if text is None else _domain(text)
        assert domain is None or isinstance(domain, mo.Samples)
        return domain
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"--samples {text}: write a number, or FILE.npz, FILE.npy or FILE.csv"
        ) from None


def _entry_bound(text: str | None) -> Any:
    """A number, or the name of a rule."""
    from moduli.capacity.covering_numbers import STARTS

    if text is None or text in STARTS:
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--bound {text}: write a number, {' or '.join(STARTS)}") from None


def _classes(file: str) -> Any:
    """Class numbers of samples."""
    from moduli.common.files import load_array
    from moduli.formats.tables import read_table

    ending = suffix_of(file)[0]
    if ending == ".npy":
        return load_array(Path(file)).ravel()
    if ending == ".csv":
        return read_table(file).targets(None)
    raise ValueError(f"--targets {file}: write FILE.npy or FILE.csv with a class for each sample")


@cli.command()
@click.argument("model")
@click.option("--on", required=True, metavar="D", help=f"{BOXES}.")
@_options(*_SEARCH, *_SOURCE)
def depth(
    model: str, on: str, as_json: bool, quiet: bool, seed: int, budget: int,
    time_limit: float | None, **source: Any,
) -> None:  # fmt: skip
    """How many hidden layers does the function on a box need?

    With up to three inputs exactly; with more, planes through the box show how many are needed at least
    (exit code 3 where more are known to be enough).

    \b
    Example: moduli depth controller.onnx --on box:-1,1
    """
    with bar(quiet) as progress:
        net, domain = _load(model, **source), _domain(on)
        answer, limits = within(
            time_limit, budget, partial(mo.depth, net, on=domain, seed=seed), progress
        )
    show(answer, as_json, quiet, **_told(domain), **limits)
    sys.exit(0 if answer.status == "proved" else 3)


@cli.command()
@click.argument("model", metavar="MODEL|WIDTHS")
@click.option("--on", metavar="D", help=f"{BOXES}; of widths left out.")
@click.option(
    "-o", "--out", type=CERTIFICATE, metavar="OUT",
    help="Of widths: where the certificate goes (.json).",
)  # fmt: skip
@_options(*_SEARCH, *_SOURCE)
def dimension(
    model: str, on: str | None, out: str | None, as_json: bool, quiet: bool, seed: int, budget: int,
    time_limit: float | None, **source: Any,
) -> None:  # fmt: skip
    """How many directions of parameters does the function tell apart?

    Of a network on a box, or, given widths, the most of any ReLU network of these widths. Exact (exit
    code 0), or between two bounds (3).

    \b
    Example: moduli dimension controller.onnx --on box:-1,1
    Example: moduli dimension 2,2,2,1 -o widths.cert.json
    """
    widths = _widths(model)
    domain = None if on is None else _domain(on)
    if widths is None and out is not None:
        raise ValueError(f"-o {out}: certificates are of widths; leave it out, or give widths")
    with bar(quiet) as progress:
        net = widths or _load(model, **source)
        reading = _asked(**source) if widths else {}
        answer, limits = within(
            time_limit,
            budget,
            partial(mo.dimension, net, on=domain, seed=seed, **reading),
            progress,
        )
    extra = {}
    if out is not None:
        with writing(Path(out)):
            extra["written"] = str(answer.save(out))
    show(answer, as_json, quiet, **_told(domain), **limits, **extra)
    sys.exit(0 if answer.exact else 3)


@cli.command()
@click.argument("model", metavar="MODEL|WIDTHS")
@click.option("--on", metavar="D", help=f"{BOXES}; of widths left out.")
@click.option("-o", "--out", type=MODEL, metavar="OUT", help="Of widths: where the network goes.")
@_options(*_SEARCH, *_SOURCE)
def identify(
    model: str, on: str | None, out: str | None, as_json: bool, quiet: bool, seed: int, budget: int,
    time_limit: float | None, **source: Any,
) -> None:  # fmt: skip
    """Does the function on a box determine the parameters?

    Proved (exit code 0), refuted by another network (1) or undecided (3). Given widths, parameters of a
    ReLU network are constructed that its function on [-1, 1]^n determines.

    \b
    Example: moduli identify controller.onnx --on box:-1,1
    Example: moduli identify 2,3,3,1 -o identifiable.npz
    """
    widths = _widths(model)
    if widths is not None:
        from moduli.common.arguments import no_model

        no_model(_asked(**source))
        if on is not None:
            raise ValueError(f"--on {on}: networks of widths are made for box:-1,1; leave it out")
        return _identifiable_parameters(widths, out, as_json, quiet, seed, budget, time_limit)
    if out is not None:
        raise ValueError(f"-o {out}: networks are made of widths; leave it out, or give widths")
    with bar(quiet) as progress:
        net, domain = _load(model, **source), None if on is None else _domain(on)
        answer, limits = within(
            time_limit,
            budget,
            partial(mo.identifiable, net, on=domain, seed=seed),
            progress,
        )
    show(answer, as_json, quiet, **_told(domain), **limits)
    sys.exit(ANSWER.get(answer.status, 0))


def _identifiable_parameters(
    widths: list[int], out: str | None, as_json: bool, quiet: bool, seed: int, budget: int,
    time_limit: float | None,
) -> None:  # fmt: skip
    with bar(quiet) as progress:
        found, extra = within(
            time_limit,
            budget,
            partial(mo.identifiable_parameters, widths, seed=seed),
            progress,
        )
    if out is not None and found.status == "proved":
        with writing(Path(out)):
            extra["written"] = str(_saved(found.network, out))
    show(found, as_json, quiet, **extra)
    sys.exit(ANSWER.get(found.status, 0))


@cli.command()
@click.argument("model")
@click.option(
    "-o",
    "--out",
    required=True,
    type=PICTURE,
    metavar="OUT",
    help="Where the picture goes (.svg .png .pdf).",
)
@click.option(
    "--on", required=True, metavar="D", help=f"{BOXES}; of the inputs, or of the slice in FILE.npz."
)
@click.option(
    "--color", type=click.Choice(["cell", "layer", "weight"]), default="cell", show_default=True
)
@click.option(
    "--slice",
    "plane",
    metavar="FILE.npz",
    help="origin, u (and v): a slice of the inputs; or random, through the middle of the box.",
)
@click.option(
    "--budget",
    type=click.IntRange(4),
    default=100_000,
    show_default=True,
    help="Cells, never seconds.",
)
@_options("json", "quiet", "seed", "time_limit", *_SOURCE)
def plot(
    model: str, out: str, on: str, color: str, plane: str | None, as_json: bool, quiet: bool, seed: int, budget: int,
    time_limit: float | None, **source: Any,
) -> None:  # fmt: skip
    """Draw the linear pieces of a ReLU network.

    Of up to three inputs, or of a slice of more.

    \b
    Example: moduli plot controller.onnx --on box:-1,1 --slice random -o pieces.svg
    """
    from moduli.common.figures import save

    net, domain = _load(model, **source), _domain(on)
    window, frame = _plane(plane, domain, net.widths[0], seed)
    with bar(quiet) as progress:
        ask = partial(mo.pieces, net, on=window, slice=frame)
        found, _ = within(time_limit, budget, ask, progress, searches=False)
        progress(0, None, "drawing")
        with writing(Path(out)):
            target = save(found.plot(color=color), out)
    show(found, as_json, quiet, **_told(domain), written=str(target))


def _plane(
    text: str | None, domain: Domain, inputs: int, seed: int
) -> tuple[Domain, tuple[Any, ...] | None]:
    """A random plane through the middle of the box, or the arrays of a file; and the box of its
    coordinates.
    """
    from moduli.common.files import load_arrays
    from moduli.kernel.errors import printable
    from moduli.piecewise.polyhedral_complex import plane_within

    if text is None:
        return domain, None
    if text == "random":
        if inputs < 2:
            raise ValueError(f"--slice random: the model has {inputs} input; leave it out")
        return plane_within(domain, inputs, seed) if isinstance(domain, mo.Box) else (domain, None)
    if suffix_of(text)[0] != ".npz":
        raise ValueError(f"--slice {text}: write random, or FILE.npz with origin, u and v")
    z = load_arrays(text)
    names = [name for name in ("origin", "u", "v") if name in z]
    if names[:2] != ["origin", "u"] or any(z[name].dtype.kind not in "fiu" for name in names):
        held = ", ".join(list(z)[:8]) or "nothing"
        raise ValueError(
            printable(
                f"--slice {text} holds {held}; needed are numbers: origin, u and, for a plane, v"
            )
        )
    return domain, tuple(z[name].astype(float).ravel() for name in names)


@cli.command()
@click.argument("model")
@click.option(
    "-o", "--out", required=True, type=PAGE, metavar="OUT", help="Where the page goes (.html)."
)
@click.option(
    "--budget",
    type=click.IntRange(4),
    default=2_000,
    show_default=True,
    help="Search nodes of each question.",
)
@_options("on", "json", "quiet", "seed", "time_limit", *_SOURCE)
def report(
    model: str, out: str, budget: int, on: str, as_json: bool, quiet: bool, seed: int,
    time_limit: float | None, **source: Any,
) -> None:  # fmt: skip
    """Answer all questions about a model on one page.

    Of a graph: its axes, what goes on all inputs and with --on box:... on that box, and what stays.
    The page needs no other file and no network.

    \b
    Example: moduli report controller.onnx -o report.html --on box:-1,1
    """
    from .report_page import build

    given = [
        f"--{key.replace('_', '-')} {shlex.quote(value)}" for key, value in source.items() if value
    ]
    typed = " ".join([shlex.quote(model), *given])
    net, domain = _load_any(model, **source), _domain(on)
    with bar(quiet) as progress:
        page, limits = within(
            time_limit,
            budget,
            partial(
                build,
                net,
                model,
                typed,
                domain,
                shlex.quote(on),
                seed=seed,
                timed=True,
                reading=_asked(**source),
            ),
            progress,
        )
    with writing(Path(out)):
        written = str(page.save(out))
    show(page, as_json, quiet, **_told(domain), **limits, written=written)


@cli.command()
@click.argument("data")
@click.option(
    "-o", "--out", required=True, type=MODEL, metavar="OUT", help="Where the trained network goes."
)
@click.option(
    "--width", type=click.IntRange(1), default=200, show_default=True, help="Hidden ReLU units."
)
@click.option("--alpha", type=float, help="Heavy-tailed noise of this index; 2 for Gaussian.")
@click.option("--sigma", type=float, help="Scale of the noise; with --alpha.  [default: 0.05]")
@click.option(
    "--kind",
    type=click.Choice(["isotropic", "rows", "iid"]),
    help="Of the noise; with --alpha.  [default: isotropic]",
)
@click.option(
    "--annealed",
    is_flag=True,
    default=None,
    help="The noise falls linearly to zero: it leaves no unit at zero as long as it lasts.",
)
@click.option(
    "--group-lasso",
    type=float,
    help="Strength of a penalty under which units vanish: what to choose for few units. Too weak, it "
    "removes none; on digits 0.02 removes half of 200, 0.05 nine tenths.",
)
@click.option(
    "--target", metavar="COLUMN", help="Of a table: what to learn; by default the last column."
)
@click.option(
    "--values", is_flag=True, help="The target is a number to fit, even if all are whole."
)
@click.option("--steps", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--lr", type=float, default=0.05, show_default=True, help="Learning rate.")
@click.option("--folder", metavar="DIR", help="Where DATA.npz lies, if DATA is a name.")
@_options("json", "quiet", "seed")
def train(
    data: str, out: str, width: int, alpha: float | None, sigma: float | None, kind: str | None, annealed: bool | None,
    group_lasso: float | None, target: str | None, values: bool, steps: int, lr: float, folder: str | None,
    as_json: bool, quiet: bool, seed: int,
) -> None:  # fmt: skip
    """Train a network that shrinks, and say how far.

    DATA: digits, FILE.npz with x_train, y_train, x_test, y_test (whole targets are classes), or one
    table FILE.csv or FILE.npy, of which a quarter of the rows is for testing (text or whole numbers
    from 0 on are classes). Then compress OUT: units that vanished go, with a proof.

    \b
    Example: moduli train digits -o digits.onnx --group-lasso 0.03
    Example: moduli train houses.csv -o houses.onnx --target price --group-lasso 0.03
    Example: moduli train digits -o digits.onnx --alpha 1.75 --sigma 0.02
    """
    import numpy as np

    from moduli.pytorch import fit, perceptron
    from moduli.training.experiments import load_data
    from moduli.training.measures import measure

    given = {"sigma": sigma, "kind": kind, "annealed": annealed}
    asked = {name: value for name, value in given.items() if value is not None}
    if alpha is None and asked:
        raise ValueError(f"--{next(iter(asked))} is of noise; give its index, such as --alpha 1.75")
    told = load_data(data, folder, column=target, values=values)
    outputs = (
        int(told.y.max()) + 1
        if told.y.dtype.kind == "i"
        else told.y.reshape(len(told.y), -1).shape[1]
    )
    module = perceptron(told.x.shape[1], width, outputs, seed=seed)
    noise = None if alpha is None else {"alpha": alpha, "sigma": 0.05, "kind": "isotropic", **asked}
    penalty = None if group_lasso is None else {"group_lasso": group_lasso}
    with bar(quiet) as progress:
        run = fit(
            module,
            told.x,
            told.y,
            steps=steps,
            lr=lr,
            noise=noise,
            penalty=penalty,
            seed=seed,
            progress=progress,
        )
    net = run.network
    found = measure(net, told.x.astype(float), told.x_test.astype(float), told.y_test, seed=seed)
    with writing(Path(out)):
        file = mo.save(net, out, dtype=_type_of(net))
    rows = np.abs(net.layers[0].weight).sum(axis=1)
    gone = int((rows == 0).sum())
    if as_json:
        return show(run, as_json, quiet, measured=found, vanished=gone, written=str(file))
    shown = {
        "units that vanished": f"{gone} of {width}",
        f"test {run.measure}": f"{found['test']:.4g}",
        "prunable share": f"{found['share']:.3g} (units that hold a tenth of the squared norm)",
        f"{run.measure} without them": f"{found['after']:.4g}",
        "change of the function": f"{found['change']:.3g}",
        "largest unit holds": f"{found['largest']:.3g} of the squared norm",
    }  # fmt: skip
    show(run, as_json, quiet, **shown, written=str(file))


@cli.command()
@click.argument("config")
@click.option(
    "--store",
    required=True,
    metavar="DIR",
    help="One file per finished run; start again and only the rest is done.",
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--scheduler", metavar="ADDRESS", help="Of a Dask cluster, such as tcp://host:8786.")
@click.option(
    "--patience",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Give up when a cluster has had no worker, or processes have brought no result, for so long; "
    "by default never.",
)
@click.option("--folder", metavar="DIR", help="Where data files named in CONFIG lie.")
@click.option(
    "-o", "--out", type=PICTURE, metavar="OUT", help="Where the picture goes (.svg .png .pdf)."
)
@_options("json", "quiet")
def sweep(
    config: str, store: str, workers: int, scheduler: str | None, patience: float | None, folder: str | None,
    out: str | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Do the runs of a TOML file and print their table.

    On processes or a cluster. Killed and started again, it does what is missing. A cluster without
    workers is waited for, and that is said.

    \b
    Example: moduli sweep experiments/digits.toml --store runs --workers 2
    """
    from moduli.training.experiments import Table, read_config
    from moduli.training.job_store import run

    if scheduler is not None and workers > 1:
        raise ValueError("--workers are processes here, --scheduler a cluster: give one of them")
    jobs = read_config(config, folder)
    with writing(store):
        Path(store).mkdir(parents=True, exist_ok=True)
    kept = f"finished runs are kept in {store}, the same command does the rest"
    with (
        bar(quiet, kept) as progress,
        _cluster(scheduler, quiet) if scheduler else _here(workers) as (executor, count),
    ):
        done = run(
            [job for _, job in jobs],
            store=store,
            executor=executor,
            progress=progress,
            workers=count,
            patience=patience,
        )
    answer = Table.of([name for name, _ in jobs], done)
    extra = {"store": store}
    if out is not None:
        from moduli.common.figures import save

        with writing(Path(out)):
            extra["written"] = str(save(answer.plot()[0], out))
    show(answer, as_json, quiet, **extra)
    sys.exit(1 if answer.failures else 0)


Workers = tuple[Executor | None, Callable[[], int] | None]  # and how many there are now


@contextmanager
def _here(count: int) -> Iterator[Workers]:
    with processes(count) as executor:
        yield executor, None


@contextmanager
def _cluster(address: str, quiet: bool) -> Iterator[Workers]:
    with needed("distributed", "cluster"):
        import distributed
    connect: Any = distributed.Client
    try:
        client = connect(address, timeout=10)
    except (OSError, TimeoutError, ValueError) as error:
        raise ValueError(f"no Dask scheduler at {address}: {error}") from None
    before = -1

    def count() -> int:
        nonlocal before
        now = len(client.ncores()) if client.status == "running" else 0
        if now == 0 and before != 0 and not quiet:
            click.echo(f"moduli: no worker is left at {address}; waiting for one", err=True)
        before = now
        return now

    with client, client.get_executor() as executor:
        yield executor, count


@cli.command()
@click.option(
    "-o",
    "--out",
    default="moduli-demo",
    show_default=True,
    metavar="DIR",
    help="Folder for the files it writes.",
)
@_options("json", "quiet")
def demo(out: str, as_json: bool, quiet: bool) -> None:
    """Compress two bundled networks and check the proofs.

    A dense one on all inputs, and the person detector of MLPerf Tiny, a convolutional one, on all
    images. Writes the networks, the smaller ones and their certificates, and checks them from the
    files.

    \b
    Example: moduli demo
    """
    from moduli.compression.exact import reduce
    from moduli.compression.graph_results import GraphCompression
    from moduli.formats import load_chain

    folder = Path(out)
    net, graph = load_chain("zoo:digits-tanh"), mo.load("zoo:person-detector")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        large = mo.save(net, folder / "digits-tanh.onnx", dtype=net.dtype)
        images = mo.save(graph, folder / "person-detector.onnx")
    target = folder / "digits-tanh-small.onnx"
    with bar(quiet, f"what is in {out} stays"):
        small, proof = _write(reduce.compress(net), target, net.dtype)
        verdict = mo.check(proof, target, large)
        smaller = mo.compress(graph, on=mo.Box(0, 1))
        assert isinstance(smaller, GraphCompression)
        written, proof_of_images = _write_graph(smaller, folder / "person-detector-small.onnx")
        checked = mo.check(proof_of_images, written, images)
    files = {
        "large": str(large), "written": str(target), "proof": str(proof),
        "checked": verdict.statement,
    }  # fmt: skip
    more = {
        "large": str(images), "written": str(written), "proof": str(proof_of_images),
        "checked": checked.statement,
    }  # fmt: skip
    if as_json:
        return show(small, as_json, quiet, **files, graph={**smaller.to_json(), **more})
    show(small, as_json, quiet, **files)
    show(smaller, as_json, quiet, **more)


def main() -> None:
    """Run the command line; every failure is one line on stderr and an exit code."""
    sys.stdout, sys.stderr = (out or open(os.devnull, "w") for out in (sys.stdout, sys.stderr))  # noqa: SIM115
    try:
        cli.main(prog_name="moduli", standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        fail_with(Interrupted("interrupted; nothing was written"))
    except (
        click.UsageError,
        mo.ModuliError,
        Interrupted,
        BrokenExecutor,
        OSError,
        ValueError,
        MemoryError,
    ) as error:
        fail_with(error)


if __name__ == "__main__":
    main()
