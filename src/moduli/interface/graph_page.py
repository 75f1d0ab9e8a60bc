"""The page about a graph: its axes, what goes on all inputs and on a box, what stays and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moduli import api
from moduli.common.domains import Domain
from moduli.common.graph import Axis, Graph
from moduli.common.progress import Progress
from moduli.common.result import counted
from moduli.compression.exact.first_layers import FirstLayers
from moduli.compression.graph_results import GraphCompression
from moduli.kernel.box import Box
from moduli.kernel.errors import ArgumentError, Asked
from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import Opaque

from .html import Cells, Markup, cells, element, long_table, names, prose, table
from .page_parts import Questions, Refusal, Report, Section, page_of, place
from .timing import milliseconds

NAMED = 3  # tensors of an axis that are named
LONG = 40  # characters of such a name: fused layers are called after all their parts
FATES = {
    "dead": "Dead: zero there, or read by nothing.",
    "constant": "Constant: its value goes into a bias.",
    "merged": "Merged: it is a multiple of another one.",
    "combined": "Combined: it is a sum of others.",
}
KINDS = 8  # of operators that are counted one by one
FACTS = "parameters", "units", "slack", "first layer", "by rounding, without a bound"  # in words


def build(
    graph: Graph,
    model: str,
    typed: str,
    on: Domain,
    where: str,
    budget: int,
    progress: Progress | None,
    timed: bool = False,
) -> Report:
    """The page of a graph that was read; `typed` and `where` are the model and the box as a command
    line has them.

    Raises:
        ArgumentError: it is asked about on average.
    """
    if on is not None and not isinstance(on, Box):
        raise ArgumentError(
            Asked("on", type(on)), ": a graph is compressed on all inputs or on a box, box:LO,HI"
        )
    asked = GraphQuestions(graph, typed, on, where, budget, timed, progress=progress)
    order = ORDER if on is None else ON_BOX
    return page_of(graph, model, asked, order, progress, place(on, where))


@dataclass(frozen=True)
class GraphQuestions(Questions):
    """The graph and all that was asked about it, each question once."""

    graph: Graph
    name: str
    on: Box | None
    where: str
    budget: int
    timed: bool = False

    def everywhere(self) -> Any:
        """What goes on all inputs: a `GraphCompression` or a `Refusal`."""
        return self.ask(
            "everywhere",
            lambda: api.compress(self.graph, budget=self.budget, progress=self.step("all inputs")),
        )

    def on_box(self) -> Any:
        if self.on is None:
            return Refusal("no box given; add --on box:LO,HI")
        return self.ask(
            "box",
            lambda: api.compress(
                self.graph, on=self.on, budget=self.budget, progress=self.step("box")
            ),
        )

    def free(self) -> list[Axis]:
        return [axis for axis in self.graph.axes if axis.frozen is None]

    def stiff(self) -> list[Axis]:
        return [axis for axis in self.graph.axes if axis.frozen is not None]


def _network(asked: GraphQuestions) -> Section:
    graph = asked.graph
    model = graph.model
    rows = [
        *(("input", f"{name}: {_shape(model, name)}") for name in graph.inputs),
        *(("output", f"{name}: {_shape(model, name)}") for name in graph.outputs),
        ("parameters", graph.parameters),
        ("operators", _kinds(model)),
    ]
    opaque = Counter(node.op.kind for node in model.nodes if isinstance(node.op, Opaque))
    if opaque:
        rows.append(("not understood", _commonest(opaque)))
    rows += [("note", note) for note in graph.notes]
    sizes = f"{len(model.nodes)} operators, {graph.parameters} parameters"
    ends = (
        counted(len(graph.inputs), "input", "inputs"),
        counted(len(graph.outputs), "output", "outputs"),
    )
    line = ", ".join([sizes, *ends])
    return Section(
        "network", "What it is", "proved", line, (f"moduli info {asked.name}",), table(rows)
    )


def _shape(model: GraphModel, name: str) -> str:
    shape = model.shapes.get(name)
    if shape is None:
        return "of unknown shape"
    sizes = ["?" if str(n).startswith("?") else str(n) for n in shape]  # a name of the reader's own
    return " x ".join(sizes) or "a number"


def _kinds(model: GraphModel) -> str:
    """How many operators of each kind."""
    kinds = Counter[str]()
    for node in model.nodes:
        kinds[str(getattr(node.op, "kind", type(node.op).__name__.lower()))] += 1
    return _commonest(kinds)


def _commonest(kinds: Counter[str]) -> str:
    """The commonest kinds with their counts, and how many others there are."""
    first = kinds.most_common(KINDS)
    said = [f"{count} {kind}" for kind, count in first]
    rest = kinds.total() - sum(count for _, count in first)
    return ", ".join([*said, f"{rest} others"] if rest else said)


def _axes(asked: GraphQuestions) -> Section:
    name, title, graph = "axes", "Which units", asked.graph
    free, stiff = asked.free(), asked.stiff()
    if not graph.axes:
        return Section(name, title, None, "no axis of units that is understood")
    line = f"{graph.units} units in {_number(free)}"
    if stiff:
        line += f"; {counted(len(stiff), 'more axis', 'more axes')} can lose none"
    loose = []
    for a in free:
        ends = (names(_several(part)) for part in (a.writers, a.readers))
        loose.append((names(a.name), a.size, *ends))
    stays = [(names(a.name), a.size, a.frozen) for a in stiff]
    parts = []
    if loose:
        head = ("axis", "units", "written by", "read by")
        parts.append(long_table(loose, head, "axes that can lose units"))
    if stays:
        parts.append(long_table(stays, ("axis", "units", "why it stays"), "axes that stay"))
    typed = (f"moduli info {asked.name} --json",)
    return Section(name, title, "proved", line, typed, Markup("".join(parts)))


def _number(axes: Sequence[Axis]) -> str:
    return counted(len(axes), "axis", "axes")


def _several(tensors: Sequence[str]) -> str:
    """The first names, and how many more there are; of names that say much, what fits into a line."""
    more = f" and {len(tensors) - NAMED} more" if len(tensors) > NAMED else ""
    return ", ".join(map(_short, tensors[:NAMED])) + more


def _short(name: str) -> str:
    return name if len(name) <= LONG else f"{name[: LONG - 1]}\N{HORIZONTAL ELLIPSIS}"


def _everywhere(asked: GraphQuestions) -> Section:
    small = asked.everywhere()
    typed = _commands(asked, "small", "all")
    timed = asked.timed and asked.on is None
    return _gone("removed", "What goes on all inputs", small, typed, timed)


def _on_box(asked: GraphQuestions) -> Section:
    small = asked.on_box()
    typed = _commands(asked, "region", asked.where) if asked.on is not None else ()
    return _gone("box", "What goes on the box", small, typed, asked.timed)


def _commands(asked: GraphQuestions, stem: str, where: str) -> tuple[str, ...]:
    out = f"{stem}{next(iter(asked.graph.source.suffixes), '.onnx')}"
    on = "" if where == "all" else f" --on {where}"
    return (
        f"moduli compress {asked.name} -o {out}{on} --budget {asked.budget}",
        f"moduli check {out}.cert.json {out} {asked.name} --on {where}",
    )


def _gone(
    name: str, title: str, small: Any, typed: tuple[str, ...], timed: bool = False
) -> Section:
    """A compression: the numbers, the first layer, the picture."""
    if isinstance(small, Refusal):
        return Section(name, title, None, small.why, typed)
    assert isinstance(small, GraphCompression)
    drawn = {axis.name for axis in small.original.axes if axis.frozen is None}
    facts = [fact for fact in small.facts() if fact[0] in FACTS]
    for change in small.axes:
        if change.axis not in drawn:
            facts.append((change.axis, f"{change.before} -> {change.after}, {change.how}"))
    times = milliseconds(small.original, small.network) if timed else ""
    body = (table(facts), times, _doubt(small.first_layer), _picture(small))
    line, first = small.statement, small.first_layer
    if first is not None and first.suspicious:
        line += (
            f"; {first.constant} of {first.channels} channels of the first layer say nothing there"
        )
    status = "proved" if small.glyph == "=" else "bounded"
    answers: dict[str, Any] = {"compress": small}
    return Section(name, title, status, line, typed, Markup("".join(body)), answers)


def _doubt(first: FirstLayers | None) -> Markup:
    """What a first layer says about the scale of the box."""
    if first is None or first.constant == first.anywhere:
        return Markup("")
    hint = (
        "A box of another scale than that of the data that the network was trained on is the commonest "
        "mistake with boxes."
    )
    count = first.constant - first.anywhere
    verb = "is" if count == 1 else "are"
    said = (
        f"{count} of {first.channels} channels of the first layer {verb} constant on the box, and not on "
        "all inputs."
    )
    if first.suspicious:
        return element(
            "p", element("b", "Look at the box. "), prose(f"{said} {hint}"), class_="warning"
        )
    return element("p", prose(f"{said} {hint}"), class_="note")


def _picture(small: GraphCompression) -> Markup:
    """Which units live; nothing where all do."""
    data = small.plot_data()
    if data["before"] == data["after"]:
        return Markup("")
    how = {change.axis: f", {change.how}" for change in small.axes}
    rows = []
    for name, before, after, fates in zip(
        data["axes"], data["before"], data["after"], data["units"], strict=True
    ):
        rows.append(Cells(name, f"{before} -> {after}{how.get(name, '')}", fates))
    met = {data["fates"][fate] for fates in data["units"] for fate in fates}
    said = [meaning for fate, meaning in FATES.items() if fate in met]
    lead = "Units of each axis that can lose some, in their order, every row of one length."
    caption = " ".join([lead, *said])
    return cells(rows, data["fates"], caption)


def _stays(asked: GraphQuestions) -> Section:
    """What could not go, and why."""
    name, title = "stays", "What stays, and why"
    reasons = dict[str, list[Axis]]()
    for axis in asked.stiff():
        reasons.setdefault(axis.frozen or "", []).append(axis)
    rows = []
    for where, small in (("the box", asked.on_box()), ("all inputs", asked.everywhere())):
        if isinstance(small, Refusal):
            continue
        rows += [(f"on {where}", text) for text in small.refused]
        if small.more:
            text = f"{small.more} more units would go by rounding of which no bound is known"
            rows.append((f"on {where}", text))
    left_alone = bool(rows)
    for why, axes in reasons.items():
        units = sum(axis.size for axis in axes)
        size = f"{_number(axes)}, {counted(units, 'unit', 'units')}"
        rows.append((why, f"{size}: {_several([a.name for a in axes])}"))
    if not rows:
        return Section(name, title, "proved", "nothing stands in the way of any axis")
    stiff = asked.stiff()
    parts = []
    if stiff:
        units = sum(axis.size for axis in stiff)
        verb = "belongs" if units == 1 else "belong"
        held = f"{counted(units, 'unit', 'units')} of {_number(stiff)} {verb}"
        parts.append(f"{held} to something that has to stay")
    if left_alone:
        parts.append("some that could go are left alone")
    typed = (f"moduli info {asked.name}",)
    body = long_table(rows, ("reason", "what"), "what stays")
    return Section(name, title, "proved", "; ".join(parts), typed, body)


ORDER = _network, _axes, _everywhere, _on_box, _stays
ON_BOX = _network, _axes, _on_box, _everywhere, _stays  # what was asked leads
