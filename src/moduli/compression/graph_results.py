"""What compression of a graph answers: a smaller graph with its proof."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.files import atomic_write
from moduli.common.graph import Axis, Graph
from moduli.common.progress import Progress
from moduli.common.result import AsComputed, Result, encoded
from moduli.kernel.box import Box
from moduli.kernel.errors import Asked, CertificateRejected, ShapeError, UnsupportedModel
from moduli.kernel.graph.certificate import GraphCertificate, listed
from moduli.kernel.graph.facts import Ranges
from moduli.kernel.graph.model import GraphModel, counted
from moduli.kernel.slack import NO_SLACK, Slack

from .exact.first_layers import SCALE, FirstLayers, first_layers
from .exact.graph_rounding import precision_of
from .exact.living_units import DEAD, FATES, LIVES, WITH_BRANCH, fates_of_units
from .exact.reduce_source import reduce_source
from .results import NEXT_ON_BOX, WithSlack

Ints = np.ndarray[Any, np.dtype[np.int64]]
SHOWN = 12  # axes that lost units, in a table


class AxisChange(NamedTuple):
    """What became of an axis: its size before and after, and how many units went in which way."""

    axis: str
    before: int
    after: int
    how: str


NEXT_OF_GRAPHS = "ask on a box of the inputs that occur (on), there within a tolerance (eps)"


@dataclass(frozen=True, eq=False, repr=False)
class GraphCompression(WithSlack, Result):
    """A smaller graph with the same function.

    Attributes:
        network: the smaller graph; numbers that other units were added to are rounded to the type in
            which they are stored, every other one is stored as it was.
        original: what it came from. proof: the certificate.
        more: how many further units would go by rounding of which no bound is known.
        module: the smaller module, where a module was given. rounded: how many stored numbers are not
            what an exact move would store.
        on: the box on which the outputs are the same; None for all inputs. refused: why axes that
            could lose units were left as they are. passed: values that moves pass by, and what is
            read in place of each. constant: for each removal of the proof, in order, those of its
            units that are constants other than zero. computed: how far both are apart as runtimes compute them, on the
            box, where that was asked for.
    """

    network: Graph
    original: Graph
    proof: GraphCertificate
    more: int = 0
    module: Any = None
    on: Box | None = None
    refused: tuple[str, ...] = ()
    rounded: int = 0
    passed: Mapping[str, str] = field(default_factory=dict)
    constant: tuple[tuple[int, ...], ...] = ()
    computed: AsComputed | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "compress"
    optimal: ClassVar[bool] = False

    @property
    def glyph(self) -> str:
        """Equality where nothing was rounded, a certified bound otherwise."""
        return "=" if self.proof.slack == NO_SLACK else "<="

    @property
    def certificate(self) -> Any:
        return self.proof

    def check(self) -> bool:
        ranges = {} if self.on is None else ranges_of(self.original.model, self.on)
        if listed(ranges) != listed(self.proof.ranges):
            raise CertificateRejected(f"the certificate is not about on={self.on!r}")
        self.proof.verify(self.network.model, self.original.model)
        return self.computed is None or self.computed.check()

    def save(self, path: str | Path) -> Path:
        return atomic_write(Path(path), encoded(self.proof.to_json()).encode())

    @property
    def removed(self) -> dict[str, int]:
        """Units removed, by move; sums that lost a branch."""
        gone = {"left out": 0, "merged": 0, "combined": 0, "bypassed": 0}
        for moves in self.proof.rounds:
            for move in moves:
                if move.kind == "combine":
                    gone["combined"] += len(move.units)
                    continue
                gone["bypassed"] += move.kind == "bypass"
                gone["merged"] += sum(i >= 0 for i in move.into)
                gone["left out"] += sum(i < 0 for i in move.into)
        return gone

    @property
    def axes(self) -> tuple[AxisChange, ...]:
        """What became of each axis that lost units, in the order of the original."""
        return tuple(
            AxisChange(axis.name, axis.size, size, _in_words(self._fates[axis.name]))
            for axis, size in self.sizes()
            if size < axis.size
        )

    def sizes(self) -> list[tuple[Axis, int]]:
        """Each axis of the original, and how many units of it are left."""
        living = self.living()
        return [(axis, int((living[axis.name] == LIVES).sum())) for axis in self.original.axes]

    def living(self) -> dict[str, Ints]:
        """Which units of the original live: for each of its axes, by name, a number for each unit in
        its order there.

        Returns:
            Integer arrays: 0 lives, 1 dead (zero there, or read by nothing), 2 merged into another
            unit, 3 a sum of others (combined), 4 constant (its value goes into a bias). All units of
            an axis that went with its branch are dead.

        >>> import moduli as mo
        >>> small = mo.compress("zoo:person-detector", on=mo.Box(0, 1))
        >>> small.living()["conv2d_5.w"].nonzero()[0]
        array([ 3, 12, 13, 47])
        """
        found = {}
        for name, fates in self._fates.items():
            found[name] = np.where(fates == WITH_BRANCH, DEAD, fates)
        return found

    @cached_property
    def _fates(self) -> dict[str, Ints]:
        rounds, passed = self.proof.rounds, self.passed
        return fates_of_units(self.original.model, rounds, passed, self.constant)

    @cached_property
    def first_layer(self) -> FirstLayers | None:
        """Channels of the layers that read the box, and how many are constant on it; None for all
        inputs, or where no layer reads the box alone.
        """
        if self.on is None:
            return None
        return first_layers(self.original.model, ranges_of(self.original.model, self.on))

    def plot_data(self) -> dict[str, Any]:
        """Units of each axis that is not frozen: names, before, after, and as `living` has them what
        became of each unit; `fates` are words for its numbers.
        """
        living = self.living()
        free = [(axis, size) for axis, size in self.sizes() if axis.frozen is None]
        return {
            "axes": [axis.name for axis, _ in free], "before": [axis.size for axis, _ in free],
            "after": [size for _, size in free],
            "units": [living[axis.name].tolist() for axis, _ in free],
            "fates": list(FATES[:WITH_BRANCH]),
        }  # fmt: skip

    def plot(self, ax: Any = None) -> Any:
        """Which units live: a row for each axis that is not frozen, a cell for each of its units."""
        from moduli.common.figures import axes_figure

        return axes_figure(self.plot_data(), ax)

    @property
    def statement(self) -> str:
        where = "for all inputs" if self.on is None else f"on {self.on!r}"
        slack = self.proof.slack
        same = "the same outputs" if slack == NO_SLACK else f"the same outputs up to {slack}"
        more = (
            f"; {self.more} more units would go by rounding, without a bound" if self.more else ""
        )
        sizes = f"{self.original.parameters} -> {self.network.parameters} parameters"
        return f"{sizes}; {same} {where}{more}"

    def asked(self) -> list[tuple[str, str]]:
        where = [] if self.on is None else [("on", repr(self.on))]
        return [("network", repr(self.original)), *where]

    def facts(self) -> list[tuple[str, str]]:
        constant = sum(map(len, self.constant))
        part = {"left out": f" ({constant} of them constant)"} if constant else {}
        gone = ", ".join(f"{n} {word}{part.get(word, '')}" for word, n in self.removed.items() if n)
        rows = [
            ("smaller", repr(self.network)),
            ("parameters", f"{self.original.parameters} -> {self.network.parameters}"),
            ("units", gone or "none can go"),
            *(
                []
                if gone
                else [("to go further", NEXT_OF_GRAPHS if self.on is None else NEXT_ON_BOX)]
            ),
            ("slack", _slack_words(self.proof.slack, self.rounded)),
            *(self.computed.rows() if self.computed else []),
        ]
        if self.first_layer is not None:
            doubt = f": {SCALE}" if self.first_layer.suspicious else ""
            rows.append(("first layer", f"{self.first_layer}{doubt}"))
        changes = self.axes
        for change in changes[:SHOWN]:
            rows.append((change.axis, f"{change.before} -> {change.after} ({change.how})"))
        if len(changes) > SHOWN:
            rows.append(("...", f"{len(changes) - SHOWN} more axes"))
        if self.more:
            rows.append(("by rounding, without a bound", f"{self.more} more units"))
        rows += [("left alone", text) for text in self.refused]
        return rows

    def data(self) -> dict[str, Any]:
        return {
            "network": self.network.digest, "original": self.original.digest,
            "parameters": [self.original.parameters, self.network.parameters],
            "removed": self.removed, "axes": [change._asdict() for change in self.axes],
            **_slack_data(self.proof.slack), "rounded": self.rounded, "more": self.more,
            "on": None if self.on is None else self.on.to_json(),
            "first_layer": None if self.first_layer is None else self.first_layer._asdict(),
            **({"computed": self.computed.data()} if self.computed else {}),
        }  # fmt: skip


def _in_words(fates: Ints) -> str:
    """How units of an axis went."""
    if (fates == WITH_BRANCH).all():
        return FATES[WITH_BRANCH]
    counts = np.bincount(fates, minlength=len(FATES)).tolist()
    gone = [(n, word) for n, word in zip(counts, FATES, strict=True) if n and word != FATES[LIVES]]
    return ", ".join(f"{n} {word}" for n, word in gone)


def _slack_words(slack: Slack, rounded: int = 0) -> str:
    if slack == NO_SLACK:
        return "= 0 (nothing was rounded)"
    return f"<= {slack}" + (f" ({rounded} stored numbers are not exact)" if rounded else "")


def _slack_data(slack: Slack) -> dict[str, Any]:
    everywhere = None if slack.growth else slack.constant
    return {"slack": everywhere, "growth": slack.growth, "constant": slack.constant}


@dataclass(frozen=True, eq=False, repr=False)
class GraphRank(Result):
    """How many units the function of a graph needs, axis by axis: at most what moves leave.

    Attributes:
        upper: units of all axes that are not frozen, after all moves. lower: 0, as nothing is known
            from below.
    """

    compression: GraphCompression
    kind: ClassVar[str] = "rank"
    lower: ClassVar[int] = 0

    @property
    def upper(self) -> int:
        return sum(size for axis, size in self.compression.sizes() if axis.frozen is None)

    @property
    def of(self) -> int:
        return self.compression.original.units

    @property
    def certificate(self) -> Any:
        return self.compression.proof

    def check(self) -> bool:
        return self.compression.check()

    @property
    def statement(self) -> str:
        return f"at most {self.upper} of {self.of} units are needed; from below nothing is known of graphs"

    def asked(self) -> list[tuple[str, str]]:
        return self.compression.asked()

    def facts(self) -> list[tuple[str, str]]:
        rows = [("units", f"<= {self.upper} of {self.of}")]
        for axis, size in self.compression.sizes():
            if axis.frozen is None:
                rows.append((axis.name, f"<= {size} of {axis.size}"))
        return rows

    def data(self) -> dict[str, Any]:
        return {
            "lower": 0, "upper": self.upper, "of": self.of, "exact": False,
            "axes": [
                {"axis": axis.name, "of": axis.size, "upper": size}
                for axis, size in self.compression.sizes()
                if axis.frozen is None
            ],
        }  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class GraphVerdict(Result):
    """A certificate about graphs that was accepted, and what it says.

    Attributes:
        bound_there: certified largest difference of outputs on what was demanded, else where the
            certificate holds. computed: the same of what runtimes compute, where that was asked for.
    """

    proof: GraphCertificate
    small: Graph
    large: Graph
    bound_there: float = math.inf
    computed: AsComputed | None = None
    kind: ClassVar[str] = "check"
    minimal: ClassVar[bool] = False

    @property
    def glyph(self) -> str:
        return "=" if self.proof.slack == NO_SLACK else "<="

    @property
    def bound(self) -> float:
        """Certified largest difference of outputs where the certificate holds; inf where it grows on
        all inputs.
        """
        return self.proof.slack.everywhere

    @property
    def certificate(self) -> Any:
        return self.proof

    def check(self) -> bool:
        self.proof.verify(self.small.model, self.large.model)
        return self.computed is None or self.computed.check()

    @property
    def where(self) -> str:
        """The inputs that the claim is about."""
        if not self.proof.ranges:
            return "for all inputs"
        parts = []
        for name, (low, high) in self.proof.ranges.items():
            parts.append(f"{name!r} from {np.min(low):g} to {np.max(high):g}")
        return f"for inputs {', '.join(parts)}"

    @property
    def statement(self) -> str:
        numbers = f"{self.small.parameters} parameters compute what {self.large.parameters} do"
        slack = self.proof.slack
        how = "exactly" if slack == NO_SLACK else f"up to {slack}"
        computed = f"; {self.computed.statement}" if self.computed else ""
        return f"accepted: {numbers}, {how}, {self.where}{computed}"

    def asked(self) -> list[tuple[str, str]]:
        return [("large", repr(self.large)), ("small", repr(self.small))]

    def facts(self) -> list[tuple[str, str]]:
        moves = sum(map(len, self.proof.rounds))
        return [
            ("moves replayed", f"{moves} in {len(self.proof.rounds)} rounds"),
            ("slack", _slack_words(self.proof.slack)), ("holds", self.where),
            ("fewest units", "not claimed"), *(self.computed.rows() if self.computed else []),
        ]  # fmt: skip

    def data(self) -> dict[str, Any]:
        return {
            "small": self.small.digest, "large": self.large.digest,
            "moves": sum(map(len, self.proof.rounds)), "minimal": False,
            **_slack_data(self.proof.slack), "bounds": listed(self.proof.ranges),
            "computed": self.computed and self.computed.data(),
        }  # fmt: skip


def check(
    proof: GraphCertificate, small: Any, large: Any, *, max_slack: float | None, on: Any,
    radius: float | None, minimal: bool,
) -> GraphVerdict:  # fmt: skip
    """Replay a certificate about graphs; what is demanded beyond it is refused.

    Raises:
        CertificateRejected: it is wrong, or claims less than what is demanded.
    """
    for side, net in (("small", small), ("large", large)):
        if not isinstance(net, Graph):
            raise CertificateRejected(
                f"the certificate is about graphs, and the {side} network is a chain: {net}"
            )
    if max_slack is not None and not max_slack >= 0:
        raise ValueError(f"max_slack={max_slack!r}: a bound of a difference is at least 0")
    if minimal:
        raise CertificateRejected(
            "minimal=True is demanded, but fewest units are not claimed of graphs"
        )
    if radius is not None and not radius >= 0:
        raise ValueError(f"radius={radius!r}: a radius is at least 0")
    _require_inputs(proof, large, on)
    proof.verify(small.model, large.model)
    bound = _bound_on(proof, on)
    verdict = GraphVerdict("proved", proof, small, large, bound)
    if max_slack is not None and not bound <= max_slack:
        where = f"on {on!r}" if isinstance(on, Box) else verdict.where
        raise CertificateRejected(
            Asked("max_slack", max_slack), f" is demanded, but {bound!r} is certified {where}"
        )
    return verdict


def _bound_on(proof: GraphCertificate, on: Any) -> float:
    """What is certified of the inputs that are asked for."""
    if not isinstance(on, Box) or on.named:
        return proof.slack.everywhere
    return proof.slack.within(float(np.abs([on.low, on.high]).max()))


def _require_inputs(proof: GraphCertificate, large: Graph, on: Any) -> None:
    """Whether the claim is about all inputs that are asked for."""
    if on is None or not proof.ranges:
        return
    if isinstance(on, str):
        if on != "all":
            raise ValueError(f'on={on!r}: "all" or a Box can be demanded')
        raise CertificateRejected(
            "on='all' is demanded, but the certificate holds within bounds only"
        )
    if not isinstance(on, Box):
        raise ValueError(f'on={on!r}: "all" or a Box can be demanded')
    wanted = ranges_of(large.model, on)
    for name, (low, high) in proof.ranges.items():
        if name not in wanted:
            raise CertificateRejected(
                f"on={on!r} is demanded, which says nothing of input {name!r}; the certificate holds for it "
                f"from {np.min(low):g} to {np.max(high):g} only"
            )
        below = np.asarray(wanted[name][0]) < np.asarray(low)
        above = np.asarray(wanted[name][1]) > np.asarray(high)
        if below.any() or above.any():
            raise CertificateRejected(
                f"on={on!r} is demanded, but of input {name!r} the certificate holds from {np.min(low):g} to "
                f"{np.max(high):g} only"
            )


def compress(
    graph: Graph,
    on: Box | None,
    budget: int,
    progress: Progress | None,
    *,
    rounding: bool = True,
    eps: float = 0.0,
) -> GraphCompression:
    """Leave out the units that the function does not need; without rounding, only where no number has
    to be rounded for it. With `eps` outputs may differ by so much on the box.

    Raises:
        ShapeError: the box does not fit the inputs.
    """
    ranges = {} if on is None else ranges_of(graph.model, on)
    written = reduce_source(
        graph, ranges=ranges, budget=budget, progress=progress, rounding=rounding, eps=eps
    )
    found, small = written.found, written.graph
    proof = GraphCertificate(graph.digest, small.digest, tuple(found.rounds), ranges, found.slack)
    proof.verify(small.model, graph.model)
    if not _compare(small, graph, ranges, found.slack) and rounding and not eps:
        # what rounding does here is beyond what would tell a fault of the reader
        return compress(graph, on, budget, progress, rounding=False)
    return GraphCompression(
        "proved", small, graph, proof, sum(found.rounding.values()), small.source.result(), on=on,
        refused=written.refused, rounded=found.rounded, passed=found.renamed,
        constant=tuple(found.constant),
    )  # fmt: skip


def ranges_of(model: GraphModel, box: Box) -> Ranges:
    """Ends of a box as arrays that broadcast against the inputs: one number, one for each channel, or
    one for each entry of an input.

    Raises:
        ShapeError: they do not, or the box names an input that is not there.
    """
    unknown = [name for name in box.named if name not in model.inputs]
    if unknown:
        raise ShapeError(
            f"the box names input {unknown[0]!r}; the graph has {', '.join(map(repr, model.inputs))}"
        )
    found = {}
    for name in model.inputs:
        own, shape = box.of_input(name), model.shapes.get(name) or ()
        if own is not None:
            ends = own.low, own.high
            low, high = (_shaped(own, end, shape, name) for end in ends)
            found[name] = (low, high)
    return found


def _shaped(box: Box, end: Any, shape: tuple[int | str, ...], name: str) -> Any:
    wide = np.asarray(end, dtype=np.float64)
    own = [n for n in shape[1:] if isinstance(n, int)]
    whole = len(own) == len(shape) - 1
    if wide.size == 1:
        return wide.reshape(())
    if box.shape and len(box.shape) == len(shape) - 1:
        fits = all(n in (1, size) for n, size in zip(box.shape, shape[1:], strict=True))
        if fits:
            return wide.reshape(1, *box.shape)
    elif whole and wide.size == int(np.prod(own)):
        return wide.reshape(1, *own)
    elif own and len(shape) > 1 and wide.size == shape[1]:
        return wide.reshape(-1, *[1] * (len(shape) - 2))
    elif whole and wide.size == shape[-1]:  # channels come last
        return wide.reshape(*[1] * (len(shape) - 1), -1)
    raise ShapeError(
        f"the box has {'x'.join(map(str, box.shape)) or wide.size} numbers; input {name!r} has shape {shape}: "
        "give one number, one for each channel, or one for each entry of an input without its batch axis"
    )


# A second look --------------------------------------------------------------------------------------------------

SAMPLES = 3
OPEN = (2, 8, 32)  # sizes that are tried where an input leaves them open
LARGEST = 2**24  # parameters of graphs that are run here


def _compare(small: Graph, large: Graph, ranges: Ranges, slack: Slack) -> bool:
    """Run both at a few inputs: the proof is about what was read, and this is about the files. Whether
    they are as close as a few roundings explain.

    Raises:
        UnsupportedModel: they differ by more than the slack and roundings of float64 explain.
    """
    if small is large or large.parameters > LARGEST:
        return True
    near = True
    coarsest = _coarsest(small.model)
    rng = np.random.default_rng(0)
    for _ in range(SAMPLES):
        ran = _both(small, large, ranges, rng)
        if ran is None:
            return near
        feeds, ours, theirs = ran
        largest = max((float(np.abs(x).max(initial=0.0)) for x in feeds.values()), default=0.0)
        for name, wanted in theirs.items():
            room = slack.within(largest)
            near &= _close(name, ours[name], wanted, room, coarsest)
    return near


def _both(
    small: Graph, large: Graph, ranges: Ranges, rng: np.random.Generator
) -> tuple[Mapping[str, Any], dict[str, Any], dict[str, Any]] | None:
    """Inputs, and what both make of them: with sizes that leave something to compare. None where it
    cannot be run.
    """
    found = None
    integers, sizes = large.source.integers, large.source.sizes
    shapes = [large.model.shapes.get(name) or () for name in large.model.inputs]
    opened = sizes is None and any(not isinstance(n, int) for shape in shapes for n in shape)
    for size in OPEN if opened else OPEN[:1]:
        feeds = drawn(large.model, ranges, integers, rng, size, sizes)
        if feeds is None:
            return found
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of means of nothing
                found = feeds, small.source.run(feeds), large.source.run(feeds)
        except UnsupportedModel:
            continue
        outputs = [x for x in found[2].values() if x.dtype.kind == "f"]
        if all(x.size and np.isfinite(x).all() for x in outputs):
            break
    return found


def _coarsest(model: GraphModel) -> float:
    """Twice the relative error of a rounding in the coarsest stored type."""
    types = {array.dtype for array in model.constants.values() if counted(array)}
    return max((precision_of(dtype) or 0.0 for dtype in types), default=0.0)


def _close(name: str, ours: Any, wanted: Any, slack: float, coarsest: float) -> bool:
    """Whether an output is as close as thousands of roundings explain.

    Raises:
        UnsupportedModel: it is further away than the slack.
    """
    if ours.shape != wanted.shape:
        raise UnsupportedModel(
            f"output {name!r} has shape {ours.shape} after compression, {wanted.shape} before"
        )
    if wanted.dtype.kind != "f" or not np.isfinite(wanted).all():
        return True
    scale = float(np.abs(wanted).max(initial=0.0)) + 1e-3
    worst = float(np.abs(ours - wanted).max(initial=0.0))
    if not worst <= 1e-6 * scale + slack:  # nor is it a number that is missing
        raise UnsupportedModel(
            f"output {name!r} differs by {worst:.3g} after compression: the reader does not understand this model"
        )
    return worst <= 1e-6 * scale + min(slack, 2**13 * coarsest * scale)


def drawn(
    model: GraphModel, ranges: Ranges, integers: frozenset[str], rng: np.random.Generator,
    size: int = 2, sizes: Sequence[int] | None = None,
) -> Mapping[str, Any] | None:  # fmt: skip
    """Inputs by name, within bounds where there are any; None where a shape is not known, or large.

    Args:
        size: along axes of open size. sizes: of the only input instead.
    """
    feeds = dict[str, Any]()
    for name in model.inputs:
        shape = model.shapes.get(name)
        if shape is None:
            return None
        own = sizes or [n if isinstance(n, int) else size for n in shape]
        if int(np.prod(own)) > 2**22:
            return None
        x: Any = rng.standard_normal(own)
        if name in ranges:
            low, high = ranges[name]
            x = low + (high - low) * rng.random(own)
            x = np.clip(np.rint(x), np.ceil(low), np.floor(high)) if name in integers else x
        elif name in integers:
            x = rng.integers(0, 2, own)
        feeds[name] = x.astype(np.int64) if name in integers else x
    return feeds
