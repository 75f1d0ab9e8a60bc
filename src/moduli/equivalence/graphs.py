"""Are two graphs the same function? As far as moves and bounds decide.

Proved where both are the same graph once all that can be left out without rounding is left out, and
units have one order, sign and scale, or, with a tolerance, where what rounding does to both is within
it. Refuted where the kernel's bounds of an output at one input do not meet. Both are run at a few inputs
as well: what float64 sees there is told, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.graph import Graph
from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.compression.graph_results import GraphCompression, compress, drawn, ranges_of
from moduli.kernel.box import Box
from moduli.kernel.errors import CertificateRejected, ShapeError, Undecided, UnsupportedModel
from moduli.kernel.exact_numbers import below
from moduli.kernel.graph.certificate import GraphCertificate, after
from moduli.kernel.graph.differences import apart, of_one_shape, slack_of_outputs
from moduli.kernel.graph.facts import Known, Ranges
from moduli.kernel.graph.model import GraphModel, sizes
from moduli.kernel.graph.quantised import compared
from moduli.kernel.graph.shapes import sound
from moduli.kernel.slack import NO_SLACK, Slack

from .graph_alignment import GraphAlignment, align
from .graph_normal_form import rounds_to_normal_form
from .graph_units import Rounds

FAR = 10.0  # times what is seen: bounds beyond are tried again after units are moved
INPUTS = 8  # drawn inputs at which both graphs are run
Inputs = Mapping[str, Any]


class GraphWitness(NamedTuple):
    """An input, by name, at which entries of an output differ, and by how much at least."""

    inputs: Inputs
    output: str
    difference: float


@dataclass(frozen=True, eq=False, repr=False)
class GraphEquivalence(Result):
    """Whether two graphs are one function.

    Attributes:
        a, b: what was left out of each, with its proof. symmetries: rounds of moves that give units of
            what is left of each one order, sign and scale. witness: where they differ. near: a bound
            of how far the two are apart, where that is within `eps`; aligned: the first moved onto the
            second, where it is a bound of the difference after that.
        seen: the largest difference at a few inputs, as float64 computes it; None where none could
            be run.
    """

    a: GraphCompression
    b: GraphCompression
    eps: float = 0.0
    on: Box | None = None
    witness: GraphWitness | None = None
    seen: float | None = None
    near: Slack | None = None
    symmetries: tuple[Rounds, Rounds] = ((), ())
    aligned: GraphAlignment | None = None
    kind: ClassVar[str] = "equal"

    def check(self) -> bool:
        """Replay both proofs and compare what is left; or bound the difference again, at the witness or
        everywhere.
        """
        a, b = self.a.original, self.b.original
        if self.status == "refuted":
            require_witness(a, b, self.on, self.witness, self.eps)
            return True
        if self.status != "proved":
            return super().check()
        if self.near is not None:
            _require_bound(a, b, self.on, self.near, self.aligned)
            bound = self.near
            if not bound.finite:
                raise CertificateRejected("no bound is claimed")
        else:
            bound = _require_one_left(self.a, self.b, self.on, self.symmetries)
        if not bound.everywhere <= self.eps:
            raise CertificateRejected(f"outputs are within {bound}, not within {self.eps!r}")
        return True

    @property
    def statement(self) -> str:
        where = "for all inputs" if self.on is None else f"on {self.on!r}"
        if self.near is not None:
            moved = " after moving units" if self.aligned else ""
            return (
                f"the same function up to {self.near} {where}, by bounds of the difference{moved}"
            )
        if self.status == "proved":
            bound = self.a.proof.slack + self.b.proof.slack
            same = "the same function" if bound == NO_SLACK else f"the same function up to {bound}"
            return f"{same} {where}: both reduce to the same graph{self._modulo}"
        if self.witness is not None:
            name, size = self.witness.output, self.witness.difference
            return f"output {name!r} differs by at least {size:.6g} at an input"
        seen = "" if self.seen is None else "outputs differ "
        return f"undecided: they reduce to different graphs; {seen}{_seen(self.seen)}"

    @property
    def _modulo(self) -> str:
        moves = [move for rounds in self.symmetries for moves in rounds for move in moves]
        signs = [x < 0 for move in moves for x in move.coefficients]
        sizes = [abs(x) != 1 for move in moves for x in move.coefficients]
        said = {
            "in another order": any(move.kind == "order" for move in moves),
            "of other signs": any(signs), "of other scales": any(sizes),
        }  # fmt: skip
        other = ", ".join(word for word, there in said.items() if there)
        return f", with units {other}" if other else ""

    def asked(self) -> list[tuple[str, str]]:
        return [("a", repr(self.a.original)), ("b", repr(self.b.original))]

    def facts(self) -> list[tuple[str, str]]:
        return [("a reduced", repr(self.a.network)), ("b reduced", repr(self.b.network))]

    def data(self) -> dict[str, Any]:
        witness = None
        if self.witness is not None:
            inputs = {name: np.asarray(x).tolist() for name, x in self.witness.inputs.items()}
            witness = {
                "inputs": inputs,
                "output": self.witness.output,
                "difference": self.witness.difference,
            }
        return {
            "a": self.a.original.digest, "b": self.b.original.digest, "eps": self.eps,
            "on": None if self.on is None else self.on.to_json(),
            "witness": witness, "seen": self.seen,
        }  # fmt: skip


def equivalent(
    a: Graph,
    b: Graph,
    on: Box | None,
    eps: float,
    budget: int,
    seed: Any,
    progress: Progress | None,
) -> GraphEquivalence:
    """Compare two graphs whose inputs and outputs agree in number and order.

    Raises:
        ShapeError: they do not.
    """
    _require_ends(a, b)
    first, second = _reduced(a, b, on, budget, progress, rounding=eps > 0)
    slack = first.proof.slack + second.proof.slack
    found = _in_one_form(first.network, second.network)
    if found is not None and slack.everywhere <= eps:
        return GraphEquivalence("proved", first, second, eps, on, symmetries=found)
    near = difference_bound(a, b, on) if eps > 0 else None
    if near is not None and near.everywhere <= eps:
        return GraphEquivalence("proved", first, second, eps, on, near=near)
    moved = _aligned_bound(a, b, on, seed) if eps > 0 else None
    if moved is not None and moved[1].everywhere <= eps:
        aligned, near = moved
        return GraphEquivalence("proved", first, second, eps, on, near=near, aligned=aligned)
    witness, seen = witness_between(a, b, on, eps, seed)
    status = "undecided" if witness is None else "refuted"
    return GraphEquivalence(status, first, second, eps, on, witness, seen)


def _reduced(
    a: Graph, b: Graph, on: Box | None, budget: int, progress: Progress | None, *, rounding: bool
) -> tuple[GraphCompression, GraphCompression]:
    """Both reduced: without rounding, and with it where that is allowed and leads to one graph."""
    both = (a, on), (b, _of_second(on, a, b))
    exact = tuple(compress(x, box, budget, progress, rounding=False) for x, box in both)
    if not rounding or _in_one_form(exact[0].network, exact[1].network) is not None:
        return exact[0], exact[1]
    near = tuple(compress(x, box, budget, progress) for x, box in both)
    alike = _in_one_form(near[0].network, near[1].network) is not None
    return (near[0], near[1]) if alike else (exact[0], exact[1])


def _in_one_form(a: Graph, b: Graph) -> tuple[Rounds, Rounds] | None:
    """Moves after which both are the same graph; None where none were found."""
    if a.digest == b.digest:
        return (), ()
    if a.parameters != b.parameters or len(a.model.nodes) != len(b.model.nodes):
        return None
    rounds = rounds_to_normal_form(a.model), rounds_to_normal_form(b.model)
    if not any(rounds):
        return None
    first, second = (after(x.model, x.digest, own) for x, own in zip((a, b), rounds, strict=True))
    return rounds if first == second else None


def _require_ends(a: Graph, b: Graph) -> None:
    """Inputs and outputs of one number, order and shapes."""
    if (len(a.inputs), len(a.outputs)) != (len(b.inputs), len(b.outputs)):
        raise ShapeError(f"{a!r} and {b!r} do not have the same inputs and outputs")
    for name, other in zip((*a.inputs, *a.outputs), (*b.inputs, *b.outputs), strict=True):
        _require_fit(name, a.model.shapes.get(name), other, b.model.shapes.get(other))


def difference_bound(a: Graph, b: Graph, on: Box | None) -> Slack:
    """What the kernel's bounds say of the difference of outputs; infinite where nothing."""
    ranges = {} if on is None else ranges_of(a.model, on)
    try:
        found = apart(a.model, b.model, ranges)
        near = None if found == NO_SLACK else _quantised(a.model, b.model, ranges)
    except CertificateRejected:
        return Slack(float("inf"), 0.0)
    if near is None or not near.finite:
        return found
    return near if not found.finite or near.within(1.0) < found.within(1.0) else found


def _quantised(a: GraphModel, b: GraphModel, ranges: Ranges) -> Slack | None:
    """Where one of both is the other quantised; None where neither is."""
    names = dict(zip(a.inputs, b.inputs, strict=True))
    pair = compared(a, b, ranges) or compared(b, a, {names[x]: ends for x, ends in ranges.items()})
    return None if pair is None else slack_of_outputs(pair.bounds())


def _aligned_bound(
    a: Graph, b: Graph, on: Box | None, seed: Any
) -> tuple[GraphAlignment, Slack] | None:
    """The first graph moved onto the second, and how far the two are apart at most, by the way of it;
    None where it cannot be moved, or nothing is known.
    """
    try:
        found = align(a, b, seed=seed)
        bound = _by_way_of(found, on)
    except (ShapeError, UnsupportedModel, CertificateRejected, Undecided):
        return None
    return (found, bound) if found.rounds else None


def _by_way_of(found: GraphAlignment, on: Box | None) -> Slack:
    """What moving rounds, and how far what was moved is from the second graph."""
    if type(found) is not GraphAlignment or type(found.network) is not Graph:
        raise CertificateRejected("a part is of a class that may say anything")
    proof = found.proof_on({} if on is None else ranges_of(found.a.model, on))
    proof.verify(found.network.model, found.a.model)
    return proof.slack + difference_bound(found.network, found.b, on)


def _of_second(on: Box | None, a: Graph, b: Graph) -> Box | None:
    """The same inputs of the second graph: where they are named, under its names."""
    if on is None or not on.named:
        return on
    ranges_of(a.model, on)  # names what is not there
    names = dict(zip(a.inputs, b.inputs, strict=True))
    return Box({names[name]: (part.low, part.high) for name, part in on.named.items()})


def _require_bound(
    a: Graph, b: Graph, on: Box | None, bound: Slack, aligned: GraphAlignment | None
) -> None:
    """Outputs are bounded so again, by the way of what the first was moved to, if it was."""
    if aligned is None:
        again = difference_bound(a, b, on)
    else:
        again = _by_way_of(replace(aligned, a=a, b=b), on)
    if not (again.constant <= bound.constant and again.growth <= bound.growth):
        raise CertificateRejected(f"outputs are bounded by {again} only, not by {bound}")


def _require_one_left(
    a: GraphCompression, b: GraphCompression, on: Box | None, symmetries: tuple[Rounds, Rounds]
) -> Slack:
    """Both proofs hold, on these inputs, and lead to one graph with units of one order, sign and scale;
    how far they are from it together.
    """
    wanted = (on, _of_second(on, a.original, b.original))
    for part, inputs in zip((a, b), wanted, strict=True):
        if (part.on and part.on.to_json()) != (inputs and inputs.to_json()):
            raise CertificateRejected(f"a proof is about on={part.on!r}, not about on={inputs!r}")
        if type(part) is not GraphCompression or type(part.proof) is not GraphCertificate:
            raise CertificateRejected("a part is of a class that may say anything")
        part.check()
    left = (
        after(part.network.model, part.proof.small, rounds)
        for part, rounds in zip((a, b), symmetries, strict=True)
    )
    if next(left) != next(left):
        raise CertificateRejected("what is left of the two graphs is not the same")
    return a.proof.slack + b.proof.slack


def require_witness(
    a: Graph, b: Graph, on: Box | None, witness: GraphWitness | None, eps: float
) -> None:
    """Bounds of outputs differ again at these inputs, which are allowed, by as much."""
    ranges = {} if on is None else ranges_of(a.model, on)
    if witness is None or set(witness.inputs) != set(a.inputs):
        raise CertificateRejected("there is no witness, or it lacks inputs")
    for name, x in witness.inputs.items():
        known = sizes(a.model.shapes.get(name))
        numbers = isinstance(x, np.ndarray) and x.dtype.kind in "fiub"
        if known is None or not numbers or [1 if n is None else n for n in known] != list(x.shape):
            raise CertificateRejected(f"input {name!r} of the witness is no such tensor")
    for name, (low, high) in ranges.items():
        x = np.asarray(witness.inputs[name], dtype=np.float64)
        if not ((x >= low) & (x <= high)).all():
            raise CertificateRejected(f"input {name!r} of the witness is not within {on!r}")
    again = _witness_at(a, b, witness.inputs, eps)
    if again is None:
        raise CertificateRejected("the bounds of the outputs at the witness meet")
    if (again.output, again.difference) != (witness.output, witness.difference):
        raise CertificateRejected(
            f"at the witness output {again.output!r} differs by {again.difference:.6g} at least"
        )


def _require_fit(name: str, a: Any, other: str, b: Any) -> None:
    """Known sizes have to agree."""
    if a is None or b is None:
        return
    fits = len(a) == len(b) and all(
        m == n or isinstance(m, str) or isinstance(n, str) for m, n in zip(a, b, strict=True)
    )
    if not fits:
        raise ShapeError(f"{name!r} has shape {a}, and {other!r} of the other {b}")


def witness_between(
    a: Graph, b: Graph, on: Box | None, eps: float, seed: Any
) -> tuple[GraphWitness | None, float | None]:
    """An input at which bounds tell two graphs apart, and the largest difference that was seen."""
    rng = np.random.default_rng(seed)
    ranges = {} if on is None else ranges_of(a.model, on)
    integers = a.source.integers | {
        name for name, other in zip(a.inputs, b.inputs, strict=True) if other in b.source.integers
    }
    inputs, model = list[Inputs](), _with_sizes_of(a, b)
    for _ in range(INPUTS):
        feeds = drawn(model, ranges, integers, rng, sizes=a.source.sizes or b.source.sizes)
        if feeds is None:
            return None, None
        inputs.append({name: _within(x, ranges.get(name)) for name, x in feeds.items()})
    # bounds are closest where nothing varies
    inputs[0] = {name: _within(np.zeros_like(x), ranges.get(name)) for name, x in inputs[0].items()}
    differences = [_difference(a, b, feeds) for feeds in inputs]
    seen = [size for size in differences if size is not None]
    most = int(np.argmax([-1.0 if size is None else size for size in differences[1:]])) + 1
    for k in (0, most):
        witness = _witness_at(a, b, inputs[k], eps)
        if witness is not None:
            return witness, max(seen, default=None)
    return None, max(seen, default=None)


def _with_sizes_of(a: Graph, b: Graph) -> GraphModel:
    """A graph whose inputs also have the sizes that are known of the other's."""
    shapes = dict(a.model.shapes)
    for name, other in zip(a.inputs, b.inputs, strict=True):
        ours, theirs = shapes.get(name), b.model.shapes.get(other)
        if ours is not None and theirs is not None:
            pairs = zip(ours, theirs, strict=True)
            shapes[name] = tuple(m if isinstance(m, int) else n for m, n in pairs)
    return replace(a.model, shapes=shapes)


def _within(x: Any, ends: Any) -> Any:
    return x if ends is None else np.clip(x, *ends)


def matched_inputs(a: Graph, b: Graph, feeds: Inputs) -> Inputs:
    """The same inputs under the names that the other graph has for them."""
    return {other: feeds[name] for name, other in zip(a.inputs, b.inputs, strict=True)}


def _difference(a: Graph, b: Graph, feeds: Inputs) -> float | None:
    """The largest difference of outputs that float64 computes; None where it computes none."""
    try:
        ours, theirs = a.source.run(feeds), b.source.run(matched_inputs(a, b, feeds))
    except UnsupportedModel:
        return None
    seen: float | None = None
    for name, other in zip(a.outputs, b.outputs, strict=True):
        x, y = np.asarray(ours[name]), np.asarray(theirs[other])
        if x.shape != y.shape:
            raise ShapeError(f"output {name!r} has shape {x.shape} and {y.shape}")
        if x.dtype.kind not in "fiu" or y.dtype.kind not in "fiu":
            continue
        x, y = x.astype(np.float64), y.astype(np.float64)
        if np.isfinite(x).all() and np.isfinite(y).all():
            seen = max(seen or 0.0, float(np.abs(x - y).max(initial=0.0)))
    return seen


def _witness_at(a: Graph, b: Graph, feeds: Inputs, eps: float) -> GraphWitness | None:
    """Whether the kernel's bounds of an output at one input are more than `eps` apart.

    Axes of unknown size have size 1 there. Of an output whose size is made of other things than sizes
    of inputs nothing is said: it may have no entries.
    """
    try:
        models = sound(a.model), sound(b.model)
    except CertificateRejected:
        return None
    here = dict[str, Any]()
    for name, other in zip(a.inputs, b.inputs, strict=True):
        known = sizes(a.model.shapes.get(name))
        if known is None or known != sizes(b.model.shapes.get(other)):
            return None
        here[name] = feeds[name][tuple(slice(1 if n is None else n) for n in known)]
    try:
        first = Known(models[0], _points(here))
        second = Known(models[1], _points(matched_inputs(a, b, here)))
    except CertificateRejected:
        return None
    found: GraphWitness | None = None
    for name, other in zip(a.outputs, b.outputs, strict=True):
        shape = models[0].shapes.get(name) or ()
        if not of_one_shape(models[0], name, models[1], other) or 0 in shape:
            continue
        for axis, n in enumerate(shape):
            if not isinstance(n, int):
                continue
            x, y = first.of((name, axis)), second.of((other, axis))
            for low, high in ((x.low, y.high), (y.low, x.high)):
                gaps = np.where(np.isfinite(low) & np.isfinite(high), low - high, -np.inf)
                i = int(gaps.argmax())
                if not np.isfinite(gaps[i]) or (found and gaps[i] <= found.difference):
                    continue
                if Fraction(float(low[i])) - Fraction(float(high[i])) > Fraction(eps):
                    found = GraphWitness(here, name, float(np.nextafter(gaps[i], 0.0)))
    return found


def _points(feeds: Inputs) -> Ranges:
    ends = {name: np.asarray(x, dtype=np.float64) for name, x in feeds.items()}
    return {name: (x, x) for name, x in ends.items()}


@dataclass(frozen=True, eq=False, repr=False)
class GraphDistance(Result):
    """How far outputs of two graphs are apart at most: the largest difference of any entry.

    Attributes:
        lower, upper: certified, on the box or for all inputs. bound: the upper one, which may grow with
            the inputs; then `upper` is infinite. argmax: inputs at which bounds of the outputs are
            `lower` apart; None where that is 0. seen: the largest difference at a few inputs, as float64
            computes it; None where none could be run. same: the proof that they are one function.
            aligned: the first moved onto the second, where the bound is of the difference after that.
    """

    a: Graph
    b: Graph
    bound: Slack
    on: Box | None = None
    witness: GraphWitness | None = None
    seen: float | None = None
    same: GraphEquivalence | None = None
    aligned: GraphAlignment | None = None
    kind: ClassVar[str] = "distance"

    @property
    def upper(self) -> float:
        return self.bound.everywhere

    @property
    def lower(self) -> float:
        return 0.0 if self.witness is None else self.witness.difference

    @property
    def argmax(self) -> Inputs | None:
        return None if self.witness is None else self.witness.inputs

    @property
    def growth(self) -> float:
        """Outputs are at most constant + growth * |x|_inf apart."""
        return self.bound.growth

    def check(self) -> bool:
        """Bound the difference again, and the outputs at the inputs where they differ."""
        if self.status == "proved" and self.bound != NO_SLACK:
            raise CertificateRejected("a difference of 0 is claimed, and not bounded so")
        if self.same is None:
            _require_bound(self.a, self.b, self.on, self.bound, self.aligned)
        else:
            parts = (self.same.a, self.a), (self.same.b, self.b)
            first, second = (replace(part, original=own) for part, own in parts)
            bound = _require_one_left(first, second, self.on, self.same.symmetries)
            if bound != self.bound:
                raise CertificateRejected(f"the proofs do not bound outputs by {self.bound}")
        if self.witness is not None:
            require_witness(self.a, self.b, self.on, self.witness, 0.0)
        return True

    @property
    def statement(self) -> str:
        where = "for all inputs" if self.on is None else f"on {self.on!r}"
        if self.bound == NO_SLACK:
            return f"the same outputs {where}"
        upper = f"at most {self.bound}" if self.bound.finite else "without a known bound"
        return f"outputs differ by at least {below(self.lower, 6)}, {upper}, {where}; {_seen(self.seen)}"

    def asked(self) -> list[tuple[str, str]]:
        return [("a", repr(self.a)), ("b", repr(self.b))]

    def facts(self) -> list[tuple[str, str]]:
        upper = str(self.bound) if self.bound.finite else "not known"
        return [
            ("at least", f"{below(self.lower, 6)}"),
            ("at most", upper),
            ("seen", _seen(self.seen)),
        ]

    def data(self) -> dict[str, Any]:
        finite = self.bound.finite and not self.bound.growth
        argmax = self.argmax
        return {
            "a": self.a.digest, "b": self.b.digest, "lower": self.lower,
            "upper": self.bound.constant if finite else None,
            "constant": self.bound.constant if self.bound.finite else None,
            "growth": self.growth, "seen": self.seen,
            "argmax": argmax and {name: np.asarray(x).tolist() for name, x in argmax.items()},
            "on": None if self.on is None else self.on.to_json(),
        }  # fmt: skip


def _seen(size: float | None) -> str:
    if size is None:
        return "no input could be run"
    return f"by up to {size:.3g} at some inputs, as float64 computes them"


def distance(a: Graph, b: Graph, on: Box | None, budget: int, seed: Any) -> GraphDistance:
    """How far outputs are apart; 0 where both reduce to one graph.

    Raises:
        ShapeError: inputs and outputs do not agree in number and shape.
    """
    _require_ends(a, b)
    bound = difference_bound(a, b, on)
    witness, seen = witness_between(a, b, on, 0.0, seed)
    if bound != NO_SLACK:
        first, second = _reduced(a, b, on, budget, None, rounding=True)
        near = first.proof.slack + second.proof.slack
        found = _in_one_form(first.network, second.network)
        if found is not None and (near.everywhere < bound.everywhere or not bound.finite):
            status = "proved" if near == NO_SLACK else "bounded"
            same = GraphEquivalence("proved", first, second, near.everywhere, on, symmetries=found)
            return GraphDistance(status, a, b, near, on, witness, seen, same)
    moved = _aligned_bound(a, b, on, seed) if _may_be_moved(bound, seen) else None
    aligned = None
    if moved is not None and moved[1].everywhere < bound.everywhere:
        aligned, bound = moved
    status = "bounded" if bound.finite else "undecided"
    status = "proved" if bound == NO_SLACK else status
    return GraphDistance(status, a, b, bound, on, witness, seen, None, aligned)


def _may_be_moved(bound: Slack, seen: float | None) -> bool:
    """Whether a bound is so far from what was seen that units may stand in another order."""
    return bound != NO_SLACK and not bound.everywhere <= FAR * (seen or 0.0)
