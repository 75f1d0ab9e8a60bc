"""All questions about one network on one page. Every answer is a `Result`: here they are chosen and
laid out.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from moduli import api
from moduli.common import figures
from moduli.common.arguments import Reading, question
from moduli.common.domains import Domain, Gaussian, Samples
from moduli.common.graph import Graph
from moduli.common.progress import Progress
from moduli.common.result import GLYPHS, Result
from moduli.compression.results import Compression, Rank, counts
from moduli.formats import load
from moduli.kernel.box import Box
from moduli.kernel.errors import BudgetExhausted
from moduli.kernel.network import Network
from moduli.piecewise.polyhedral_complex import MOST, Pieces, plane_within, random_plane

from . import graph_page
from .html import (
    KINDS,
    Bar,
    Markup,
    badge,
    bars,
    drawing,
    element,
    figure,
    table,
)
from .page_parts import Questions, Refusal, Report, Section, page_of, place
from .timing import milliseconds
from .wording import in_options

RADII = 1e-6, 1e-3, 1e-2
SPELLED = 8  # inputs of a box that are written out in a command
STUDENTS = 16, 8, 4  # parts of the units needed
NEAR = 600  # hidden units up to which the page asks for ranks within a radius
DRAWS = 2_000  # of a box, for averages
OURS = "derived here"  # rows of the table of bounds that no other page explains
AVERAGE = 20_000  # parameters up to which it asks for students
IDENTITY = 5_000  # parameters up to which it asks what the function tells of them
CELLS = 4_000  # of a picture of linear pieces


@question
def report(
    net: Any,
    *,
    on: Domain = None,
    budget: int = 2_000,
    seed: int = 0,
    timed: bool = False,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Report:
    """All questions about a network on one page: units needed, what can go, symmetry, errors,
    linear pieces; of a graph its axes, what goes on all inputs and on a box, and what stays.

    What does not apply, fails or would take long says so in one line; the page is made in any case.

    Args:
        on: a `Box` for what concerns a region, `Gaussian` or `Samples` for averages (by default the
            standard normal law, and the box in the file where there is one); what is asked on a box
            leads, and averages are over it. budget: of each question. timed: also measure how long one
            input takes in onnxruntime, where it is installed; only these numbers differ from page to
            page.

    Raises:
        MissingExtra: matplotlib is not installed. UnsupportedModel: the model cannot be read.
        ArgumentError: a graph is asked about on average.

    >>> import moduli as mo
    >>> page = mo.report(mo.Network.mlp([[1.0], [-1.0], [0.0]], [0.5, -0.5, 2.0], [[1.0, 3.0, 1.0]], [0.0]))
    >>> page.sections[1].line
    '1 of 3 hidden units on all inputs, the fewest possible in one hidden layer of tanh'
    >>> page.html.startswith("<!DOCTYPE html>"), "http" in page.html
    (True, False)
    """
    name = str(net) if isinstance(net, (str, Path)) else "MODEL"
    read = load(net, **reading)
    where = _spelled(on)
    return build(read, name, shlex.quote(name), on, where, budget, seed, progress, timed, reading)


@np.errstate(all="ignore")
def build(
    net: Network | Graph,
    model: str,
    typed: str,
    on: Domain,
    where: str,
    budget: int,
    seed: int,
    progress: Progress | None,
    timed: bool = False,
    reading: Mapping[str, Any] | None = None,
) -> Report:
    """The page of a network that was read; `typed` and `where` are the model and the domain as a
    command line has them, `reading` how it was read.

    Raises:
        ArgumentError: a graph is asked about on average.
    """
    if isinstance(net, Graph):
        return graph_page.build(net, model, typed, on, where, budget, progress, timed)
    figures.axes()  # first: it says what to install
    if on is None and net.frame is not None:
        on, where = net.frame.box, _spelled(net.frame.box)
    options = [f", {key}={value!r}" for key, value in (reading or {}).items() if value is not None]
    written = f"{model!r}{''.join(options)}"
    asked = ChainQuestions(net, written, typed, on, where, budget, seed, timed, progress=progress)
    return page_of(net, model, asked, ORDER, progress, place(on, where))


def _spelled(on: Domain) -> str:
    """A domain as the command line writes it."""
    if isinstance(on, Box) and on.named:
        return "box:FILE.npz"
    if isinstance(on, Box):
        low, high = np.unique(on.low), np.unique(on.high)
        if len(low) == len(high) == 1:
            return f"box:{low[0]:g},{high[0]:g}"
        ends = [np.ravel(end).tolist() for end in (on.low, on.high)]
        if max(map(len, ends)) > SPELLED:
            return "box:FILE.npz"
        return shlex.quote(f"box:{';'.join(','.join(map(repr, end)) for end in ends)}")
    return "FILE.npz" if isinstance(on, Samples) else "gaussian"


def _python(end: Any) -> str:
    """One end of a box in Python; many numbers by a name."""
    numbers = np.unique(end)
    if len(numbers) == 1:
        return f"{numbers[0]:g}"
    return repr(end.tolist()) if end.size <= SPELLED else "..."


@dataclass(frozen=True)
class ChainQuestions(Questions):
    """The network and all that was asked about it, each question once.

    Attributes:
        written: the model and how it is read, as Python has them. name: as a command line has them.
    """

    net: Network
    written: str
    name: str
    on: Domain
    where: str
    budget: int
    seed: int
    timed: bool = False

    @property
    def box(self) -> Box | None:
        return self.on if isinstance(self.on, Box) else None

    @property
    def law(self) -> Gaussian | Samples:
        """Of the inputs, for averages: the one that was asked for, or uniform on the box."""
        if self.box is not None:
            return Samples(self.box.sample(DRAWS, self.net.widths[0], self.seed))
        return self.on if isinstance(self.on, (Gaussian, Samples)) else Gaussian()

    @property
    def place(self) -> str:
        return place(self.on, self.where)

    @property
    def drawn(self) -> str:
        """What the averages are over, where that is said in other words than the answer's."""
        return f"{DRAWS} uniform draws from the box" if self.box is not None else ""

    def rank(self) -> Rank | Refusal:
        found: Rank | Refusal = self.ask(
            "rank", lambda: api.rank(self.net, progress=self.step("units"))
        )
        return found

    def small(self) -> Compression | Refusal:
        rank = self.rank()
        found: Compression | Refusal = self.ask(
            "small", lambda: rank if isinstance(rank, Refusal) else rank.compression
        )
        return found

    def region(self) -> Any:
        """Lossless on the box."""
        if self.box is None:
            return Refusal("no box given; add --on box:LO,HI")
        return self.ask(
            "region",
            lambda: api.compress(
                self.net, on=self.box, budget=self.budget, progress=self.step("box")
            ),
        )

    def smallest(self) -> Compression | Refusal:
        """What was asked for: on the box where there is one, else on all inputs."""
        region = None if self.box is None else self.region()
        return region if isinstance(region, Compression) else self.small()

    def near(self, radius: float) -> Any:
        if self.net.units > NEAR:
            return Refusal(f"{self.net.units} hidden units; asked here up to {NEAR}")
        return self.ask(
            f"near {radius}",
            lambda: api.rank(
                self.net,
                radius=radius,
                budget=self.budget,
                progress=self.step(f"radius {radius:g}"),
            ),
        )

    def students(self) -> Any:
        """Students of the smaller network: it has the same function, and its students are found
        sooner.
        """
        small = self.smallest()
        if isinstance(small, Refusal):
            return small
        net = small.network
        if net.parameters > AVERAGE:
            return Refusal(
                f"{net.parameters} parameters after lossless compression; asked here up to {AVERAGE}"
            )
        if net.units < 2:
            return Refusal(f"{net.units} hidden units: nothing to leave out")
        return self.ask(
            "students",
            lambda: api.error_curve(
                net,
                on=self.law,
                units=self.sizes(net),
                seed=self.seed,
                starts=0,
                progress=self.step("students"),
            ),
        )

    @staticmethod
    def sizes(net: Network) -> list[int]:
        """A unit is left in each hidden layer, at least."""
        least = len(net.layers) - 1
        return sorted({max(least, net.units // part) for part in STUDENTS})

    @property
    def law_typed(self) -> str:
        return "gaussian" if self.on is None else self.where

    @property
    def sampling(self) -> list[str]:
        """Lines of Python that draw from the box."""
        if self.box is None:
            return []
        low, high = (_python(end) for end in (self.box.low, self.box.high))
        box = f"mo.Box({low}, {high})"
        name = shlex.split(self.where)[0].removeprefix("box:")
        if name.endswith((".vnnlib", ".vnnlib.gz")):
            box = f"mo.Box.from_vnnlib({name!r})"
        draws = f"{DRAWS}, {self.net.widths[0]}, seed={self.seed}"
        return [f">>> box = {box}", f">>> x = mo.Samples(box.sample({draws}))"]


def _network(asked: ChainQuestions) -> Section:
    net = asked.net
    names = [
        "inputs",
        *map(str, net.activations),
        "outputs" if net.output_map == "identity" else net.output_map,
    ]
    rows = [
        ("hidden units", net.units),
        ("parameters", f"{net.parameters}, {net.dtype}, up to {np.abs(net.flat()).max():.3g}"),
        *(("note", note) for note in net.notes),
    ]  # fmt: skip
    if net.frame is not None:
        rows.append(
            ("box in the file", f"{net.frame.box.low.tolist()} to {net.frame.box.high.tolist()}")
        )
    ends = [
        f"{n} {what}{'' if n == 1 else 's'}"
        for n, what in zip((net.widths[0], net.widths[-1]), ("input", "output"), strict=True)
    ]
    line = f"{ends[0]}, {_layers(net)}, {ends[1]}"
    return Section(
        "network",
        "What it is",
        "proved",
        line,
        (f"moduli info {asked.name}",),
        Markup(drawing(net.widths, names) + table(rows)),
    )


def _layers(net: Network) -> str:
    hidden = [
        f"{width} {kind}" for width, kind in zip(net.widths[1:-1], net.activations, strict=True)
    ]
    return " - ".join(hidden) if hidden else "no hidden layer"


def _units(asked: ChainQuestions) -> Section:
    title = "How many units"
    rank, small = asked.rank(), asked.small()
    if isinstance(rank, Refusal) or isinstance(small, Refusal):
        return Section(
            "units", title, None, next(x.why for x in (rank, small) if isinstance(x, Refusal))
        )
    rows = [_on_all(rank, small), *_nearby(asked), *_on_average(asked)]
    rows.insert(0 if asked.box is not None else 1, _on_box(asked))
    body = table(
        [(r[0], badge(r[2]), r[1], r[3]) for r in rows],
        ("where", "", "hidden units", "because"),
        "units needed",
    )
    others = ", ".join(f"{radius:g}" for radius in RADII[1:])
    typed = [
        f"moduli compress {asked.name} -o small.onnx",
        f"moduli rank {asked.name} --radius {RADII[0]:g} --budget {asked.budget}  # {others}",
    ]
    if asked.box is not None:
        typed.insert(
            0,
            f"moduli compress {asked.name} -o region.onnx --on {asked.where} --budget {asked.budget}",
        )
    leads = asked.smallest()
    assert isinstance(leads, Compression)
    line = (
        f"{_count_of(leads)} {asked.place if leads is not small else 'on all inputs'}{leads.fewest}"
    )
    if leads is not small:
        line += f"; {_count_of(small)} on all inputs"
    answers = {key: found for key, found in asked.found.items() if isinstance(found, Result)}
    status = "proved" if leads.optimal else "bounded"
    return Section("units", title, status, line, tuple(typed), body, answers)


def _count_of(small: Compression) -> str:
    count = f"{small.network.units} of {small.original.units} hidden units"
    return count if small.optimal else f"at most {count}"


Row = tuple[str, str, str, str]


def _on_all(rank: Rank, small: Compression) -> Row:
    slack = (
        "nothing was rounded"
        if small.slack == 0
        else f"rounding changes outputs by <= {small.proof.slack}"
    )
    return "all inputs", _between(rank), "=" if rank.exact else "<=", f"{rank.reason}; {slack}"


def _between(rank: Rank) -> str:
    if rank.exact:
        return str(rank.upper)
    return f"{rank.lower} to {rank.upper}" if rank.lower else f"<= {rank.upper}"


def _on_box(asked: ChainQuestions) -> Row:
    found = asked.region()
    if isinstance(found, Refusal):
        return (
            "a box",
            "",
            "",
            found.why if asked.box is None else f"does not apply: {found.why.split(': ')[0]}",
        )
    slack = f"the same function up to {found.proof.slack}" if found.slack else "the same function"
    glyph = "=" if found.optimal else "<="
    units = str(found.network.units) if found.optimal else f"<= {found.network.units}"
    return asked.place.removeprefix("on "), units, glyph, f"{slack}{found.fewest}"


def _nearby(asked: ChainQuestions) -> Iterator[Row]:
    """Radii as long as the question is answered; the first refusal speaks for the others."""
    said = ""
    for radius in RADII:
        found = asked.near(radius)
        name = f"parameters within {radius:g}"
        if isinstance(found, Refusal):
            yield name, "", "", found.why
            return
        yield (
            name,
            _between(found),
            "=" if found.exact else "<=",
            "" if found.reason == said else found.reason,
        )
        said = found.reason


def _on_average(asked: ChainQuestions) -> Iterator[Row]:
    found = asked.students()
    where = "on average"
    if isinstance(found, Refusal):
        yield where, "", "", found.why
        return
    for units, error in zip(found.units, found.students, strict=True):
        yield where, str(units), "~", f"{_percent(error.unexplained)} of the variance lost"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _removed(asked: ChainQuestions) -> Section:
    title, small = "What can go", asked.small()
    if isinstance(small, Refusal):
        return Section("removed", title, None, small.why)
    leads = asked.smallest()
    assert isinstance(leads, Compression)
    if not small.original.units:
        return Section("removed", title, None, "no hidden layer")
    everywhere = [*_shares(small)]
    parts = [_architecture(leads), bars(everywhere, _explained("on all inputs", everywhere))]
    typed = [f"moduli compress {asked.name} -o small.onnx --json"]
    if leads is not small:
        there = [*_shares(leads)]
        parts.insert(1, bars(there, _explained(asked.place, there)))
        typed.insert(
            0,
            f"moduli compress {asked.name} -o region.onnx --on {asked.where} --budget {asked.budget}",
        )
    line = f"{_gone(leads)} {asked.place if leads is not small else 'on all inputs'}"
    if leads is not small:
        line += f"; {_gone(small)} on all inputs"
    if asked.timed:
        parts.insert(1, milliseconds(leads.original, leads.network))
    if leads.network.units == leads.original.units and not leads.optimal:
        further = in_options(f"To go further: {leads.next_step}.")
        parts.append(element("p", further, class_="note"))
    gone = leads.network.units < leads.original.units
    return Section(
        "removed", title, "proved" if gone or leads.optimal else "bounded", line, tuple(typed),
        Markup("".join(parts)),
    )  # fmt: skip


FATES = {
    "drop": "Dropped: nothing reads it.",
    "constant": "Constant: it goes into a bias.",
    "merge": "Merged: it repeats another one.",
    "inactive": "Inactive: never positive there.",
    "block": "By linear dependence: linear there, as other units are.",
}


def _explained(where: str, layers: list[Bar]) -> str:
    """The caption of a picture of layers: what is meant by the words that it shows."""
    met = {kind for layer in layers for kind, count in layer.counts.items() if count}
    said = [meaning for kind, meaning in FATES.items() if kind in met]
    return " ".join([f"Units of each hidden layer, {where}.", *said])


def _gone(small: Compression) -> str:
    """How many units go, and how, in words."""
    gone = small.original.units - small.network.units
    if not gone:
        return "no unit, by the lossless rules"
    return f"{gone} of {small.original.units} units ({counts(small.removed)})"


def _architecture(small: Compression) -> Markup:
    """Layers before and after."""
    before, after = small.original, small.network
    if before.widths == after.widths:
        return Markup("")
    names = ["inputs", *map(str, before.activations), "outputs"]
    left = [*_kept(small)] if len(before.widths) != len(after.widths) else list(after.widths[1:-1])
    kept = [before.widths[0], *left, before.widths[-1]]
    caption = (
        f"Before (pale) and after: {before.parameters} parameters, {after.parameters} of them left."
    )
    return figure(drawing(before.widths, names, kept), caption)


def _shares(small: Compression) -> Iterator[Bar]:
    """Units of each layer by what became of them, as the moves of the certificate say."""
    for l, (before, after) in enumerate(
        zip(small.original.widths[1:-1], _kept(small), strict=True), 1
    ):
        counts = {"kept": after}
        for move in small.proof.large_moves:
            if move.kind == "skip":  # layers behind it are numbered anew
                break
            if move.layer == l and move.kind in KINDS:
                counts[move.kind] = counts.get(move.kind, 0) + move.gone
        yield Bar(f"layer {l}", {**counts, "other": max(0, before - sum(counts.values()))})


def _kept(small: Compression) -> list[int]:
    """Units that remain of each layer; a layer that is gone altogether keeps none."""
    before, after = small.original.widths[1:-1], small.network.widths[1:-1]
    if len(before) == len(after):
        return list(after)
    gone = [
        sum(m.gone for m in small.proof.large_moves if m.layer == l)
        for l in range(1, len(before) + 1)
    ]
    return [max(0, width - count) for width, count in zip(before, gone, strict=True)]


def _identity(asked: ChainQuestions) -> Section:
    """Does the function determine the parameters?"""
    name, title, net = "identity", "Is it identifiable", asked.net
    budget = asked.budget * (1 if net.widths[0] > MOST else 5)  # points, or cells
    where = "all" if asked.box is None else asked.where
    typed = (f"moduli identify {asked.name} --on {where} --budget {budget} --seed {asked.seed}",)
    if not net.units:
        return Section(name, title, None, "no hidden layer")
    piecewise = all(kind.piecewise_linear for kind in net.activations)
    if asked.box is None and (piecewise or len(net.activations) > 1):
        return Section(name, title, None, "asked in a box; add --on box:LO,HI")
    if piecewise and net.parameters > IDENTITY:
        return Section(
            name, title, None, f"{net.parameters} parameters; asked here up to {IDENTITY}", typed
        )
    found = asked.ask(
        "identifiable", lambda: api.identifiable(net, on=asked.box, budget=budget, seed=asked.seed)
    )
    if isinstance(found, Refusal):
        return Section(name, title, None, found.why, typed)
    if not piecewise:
        return Section(
            name,
            title,
            found.status,
            f"{found.statement}: {found.reason}",
            typed,
            answers={"identifiable": found},
        )
    size = found.dimension or asked.ask(
        "dimension", lambda: api.dimension(net, on=asked.box, budget=budget, seed=asked.seed)
    )
    rows = found.reasons()
    if isinstance(size, Refusal):
        return Section(
            name,
            title,
            found.status,
            found.statement,
            typed,
            table([*rows, ("functional dimension", size.why)]),
            {"identifiable": found},
        )
    rows += size.facts() if found.dimension is None else []
    line = f"{found.statement}, {asked.place}; {size.value}"
    return Section(
        name,
        title,
        found.status,
        line,
        typed,
        table(rows),
        {"identifiable": found, "dimension": size},
    )


def _symmetry(asked: ChainQuestions) -> Section:
    """What the group is worth."""
    title, net = "What symmetry buys", asked.net
    samples = asked.on if isinstance(asked.on, Samples) else None
    largest = _largest(asked)
    spelled = str(largest).removesuffix(".0")
    typed = f"moduli complexity {asked.name} --input-bound {spelled}" + (
        f" --samples {asked.where}" if samples else ""
    )
    if not net.units:
        return Section("symmetry", title, None, "no hidden layer")
    group = asked.ask("symmetries", lambda: api.symmetries(net))
    size = asked.ask(
        "complexity", lambda: api.complexity(net, input_bound=largest, samples=samples)
    )
    for found in (group, size):
        if isinstance(found, Refusal):
            return Section("symmetry", title, None, found.why, (typed,))
    saved = f"{100 * size.share:.2g} % of the log covering number"
    line = f"e^{group.log_order:.5g} discrete symmetries, {group.dimension} continuous dimensions: worth {saved}"
    if asked.box is not None:
        line += f", for inputs up to {largest:g} as in the box"
    picture = _picture(
        asked,
        lambda ax: _saved(size, ax),
        "saved",
        "share of the log covering number saved, against the width",
    )
    body = Markup(table(size.facts()) + _bounds(size) + picture)
    return Section(
        "symmetry",
        title,
        size.status,
        line,
        (typed,),
        body,
        {"symmetries": group, "complexity": size},
    )


def _largest(asked: ChainQuestions) -> float:
    """The largest input of the box or the samples; 1 where neither is given."""
    given = asked.box or asked.on
    ends = (
        [given.low, given.high]
        if isinstance(given, Box)
        else [given.x]
        if isinstance(given, Samples)
        else []
    )
    return max((float(np.abs(part).max()) for part in ends), default=0.0) or 1.0


def _bounds(size: Any) -> Markup:
    """Rows with a number, and one line for the others."""
    rows, without = [], []
    for bound in size.rows():
        if bound.value is None and bound.gap is None and bound.needed is None:
            without.append(bound.name)
            continue
        gap = () if size.samples is None else (bound.verdict,)
        glyph = badge(GLYPHS.get(bound.status, ""))
        note = f"; {bound.note}" if bound.note and bound.source == OURS else ""
        what = f"{bound.quantity}{note}"
        rows.append((bound.name, glyph, _count(bound.value), *gap, _count(bound.needed), what))
    gap = () if size.samples is None else ("gap",)
    grid = table(
        rows, ("bound", "", "value", *gap, "samples for a gap < 1", "of"), "bounds on capacity"
    )
    note = f"No number here: {'; '.join(without)}." if without else ""
    return Markup(grid + (element("p", note, class_="note trust") if note else ""))


def _count(value: Any) -> str:
    """A large number as people write it."""
    if value is None:
        return ""
    return f"{float(value):,.0f}" if 100 <= value < 1e9 else f"{float(value):.3g}"


def _saved(size: Any, ax: Any) -> Any:
    """The right half of the picture."""
    data = {**size.plot_data(), "here": size.cls.units, "eps": size.accuracy}
    return figures.complexity_figure(data, (figures.axes(), ax))


def _picture(
    asked: ChainQuestions,
    draw: Callable[[Any], Any],
    name: str,
    caption: str,
    narrow: bool = True,
) -> Markup:
    """A figure, or the reason why there is none."""
    made = asked.ask(f"picture {name}", lambda: figures.inline(draw, name, caption))
    if isinstance(made, Refusal):
        return element("p", f"No picture: {made.why}", class_="note")
    slim = figures.inline(draw, f"{name}-narrow", caption, figures.NARROW) if narrow else None
    return figure(made, f"{caption[0].upper()}{caption[1:]}.", slim)


def _average(asked: ChainQuestions) -> Section:
    """Error against units."""
    name, title, found = "average", "Fewer units on average", asked.students()
    if isinstance(found, Refusal):
        return Section(name, title, None, found.why)
    sizes = ",".join(map(str, found.units))
    typed: tuple[str, ...] = (
        f"moduli compress {asked.name} -o small.onnx --stored float64",
        f"moduli curve small.onnx --on {asked.law_typed} --units {sizes} --seed {asked.seed}",
    )
    if asked.box is not None:
        small = f"mo.compress({asked.written}, on=box, budget={asked.budget}).network"
        curve = f">>> mo.error_curve({small}, on=x, units=[{sizes}], seed={asked.seed}).rows()"
        typed = ("python", ">>> import moduli as mo", *asked.sampling, curve)
    last = found.students[-1].unexplained
    over = f"on {asked.drawn}" if asked.drawn else found.on
    line = (
        f"{found.units[-1]} of {found.of} units lose {_percent(last)} of the variance {over}; "
        f"a linear map {_percent(found.linear.unexplained)}"
    )
    if found.linear.unexplained < last:
        line += ", which is closer than the student"
    columns = zip(found.units, found.students, found.kmeans, found.magnitude, strict=True)
    rows = [(str(m), *(f"{error.unexplained:.2g}" for error in errors)) for m, *errors in columns]
    grid = table(
        rows,
        ("hidden units", "student", "k-means", "largest units"),
        "share of variance lost",
    )
    body = Markup(
        _picture(asked, found.plot, "errors", "share of the variance lost against hidden units")
        + grid
    )
    return Section(name, title, found.status, line, typed, body, {"error_curve": found})


def _pruning(asked: ChainQuestions) -> Section:
    """What is lost when units are left out by size."""
    name, title = "pruning", "Pruning by size"
    if not asked.net.units:
        return Section(name, title, None, "no hidden layer")
    samples = asked.law if isinstance(asked.law, Samples) else None
    found = asked.ask("pruning", lambda: api.pruning_curve(asked.net, by="units", on=samples))
    if isinstance(found, Refusal):
        return Section(name, title, None, found.why)
    given = ", on=x" if asked.box is not None else ", on=mo.Samples(x)" if samples else ""
    asking = f'mo.pruning_curve({asked.written}, by="units"{given})'
    typed = ("python", ">>> import moduli as mo", *asked.sampling, f">>> {asking}.rows()")
    caption = "relative error against the share of units kept"
    body = Markup(_picture(asked, found.plot, "pruning", caption) + table(found.facts()))
    line = f"{found.statement}, on {asked.drawn}" if asked.drawn else found.statement
    return Section(name, title, found.status, line, typed, body, {"pruning_curve": found})


def _pieces(asked: ChainQuestions) -> Section:
    """A picture of the linear pieces, of a plane through more than two inputs."""
    name, title, net = "pieces", "Linear pieces", asked.net
    if not net.units:
        return Section(name, title, None, "no hidden layer: one piece")
    curved = [str(kind) for kind in net.activations if not kind.piecewise_linear]
    if curved:
        return Section(name, title, None, f"{curved[0]} has none: it is nowhere linear")
    plane = None if net.widths[0] <= 2 else _plane(asked)
    found = asked.ask("pieces", lambda: _widest(net, _window(asked), plane))
    typed = f"moduli plot {asked.name} -o pieces.svg --on {{}} --seed {asked.seed}"
    if plane and asked.box is not None:
        typed = typed.format(f"{asked.where} --slice random").replace("{", "{{").replace("}", "}}")
    elif plane:
        typed += " --slice random"
    if isinstance(found, Refusal):
        return Section(name, title, None, found.why, (typed.format(_spelled(_window(asked))),))
    where = _spelled(found.box)
    shown = where
    if plane:
        middle = "the middle of the box" if asked.box is not None else "0"
        shown = f"a random plane through {middle}, coordinates in {where}"
    caption = (
        "the function" if net.widths[0] == 1 else f"linear pieces on {shown}, one shade for each"
    )
    if where != _spelled(_window(asked)):
        caption += f"; more than {CELLS} in {_spelled(_window(asked))}"
    body = _picture(asked, found.plot, "pieces", caption, narrow=net.widths[0] == 1)
    return Section(
        name,
        title,
        found.status,
        f"{found.statement} on {shown}",
        (typed.format(where),),
        body,
        {"pieces": found},
    )


def _window(asked: ChainQuestions) -> Box:
    """The box of inputs, or the range of both coordinates of a plane."""
    inputs, box = asked.net.widths[0], asked.box
    if box is None:
        return Box(-1, 1)
    return box if inputs <= 2 else plane_within(box, inputs, asked.seed)[0]


def _plane(asked: ChainQuestions) -> tuple[Any, ...]:
    inputs, box = asked.net.widths[0], asked.box
    if box is None:
        return random_plane(inputs, asked.seed)
    return plane_within(box, inputs, asked.seed)[1]


def _widest(net: Network, box: Box, plane: Any) -> Pieces:
    """The pieces in the box, or in the half, quarter, ... of it around its centre where they are
    few enough for a picture.
    """
    for _ in range(12):
        try:
            return api.pieces(net, on=box, slice=plane, budget=CELLS)
        except BudgetExhausted:
            low, high = (3 * box.low + box.high) / 4, (box.low + 3 * box.high) / 4
            box = Box(low, high)
    return api.pieces(net, on=box, slice=plane, budget=CELLS)


ORDER = _network, _units, _removed, _identity, _symmetry, _average, _pruning, _pieces
