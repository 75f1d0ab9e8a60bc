"""The public questions, from `compress` to `check`: inputs are read here, and it is chosen who
answers.

Whoever asks about a model may say how it is read: `activation`, `keys`, `output` and `input_shape` mean the
same in every question (`moduli.load`, `Reading`). Of two models each takes what concerns it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Unpack

import numpy as np

from moduli.capacity.complexity_table import Complexity
from moduli.capacity.graph_complexity import GraphComplexity
from moduli.common.arguments import Reading, no_model, question
from moduli.common.certificate_files import read_certificate
from moduli.common.checkpoint import Checkpoint
from moduli.common.domains import (
    ON_ALL,
    ON_BOX,
    ON_GAUSSIAN,
    ON_SAMPLES,
    Domain,
    Gaussian,
    Grid,
    Samples,
)
from moduli.common.graph import Graph
from moduli.common.progress import Progress
from moduli.common.result import AsComputed, Result, counted
from moduli.compression import graph_results
from moduli.compression.average import mean_field_limit, students
from moduli.compression.average.mean_field_limit import MeanField
from moduli.compression.average.students import ErrorCurve, Narrowed
from moduli.compression.box import reduce_on_box, tolerance
from moduli.compression.exact import reduce
from moduli.compression.graph_results import GraphCompression, GraphRank, GraphVerdict
from moduli.compression.radius import least_radius, reduce_within
from moduli.compression.radius.least_radius import LeastRadius
from moduli.compression.radius.reduce_within import RankCurve
from moduli.compression.results import (
    MOVES,
    MOVES_ON_BOX,
    Compression,
    Rank,
    counts,
    one_layer,
    removed,
)
from moduli.equivalence.alignment import Alignment
from moduli.equivalence.answers import (
    BranchedEquivalence,
    Distance,
    Equivalence,
    on_each_box,
)
from moduli.equivalence.checkpoint_alignment import CheckpointAlignment
from moduli.equivalence.constant_paths import Path as ParameterPath
from moduli.equivalence.graph_alignment import GraphAlignment
from moduli.equivalence.graph_symmetries import GraphSymmetries
from moduli.equivalence.graphs import GraphDistance, GraphEquivalence
from moduli.equivalence.group import Signature, SymmetryGroup
from moduli.kernel.box import Box
from moduli.kernel.certificate import Certificate, proved
from moduli.kernel.errors import (
    ArgumentError,
    Asked,
    CertificateRejected,
    ShapeError,
    UnsupportedModel,
)
from moduli.kernel.exact_numbers import above, ceiling
from moduli.kernel.graph.certificate import GraphCertificate
from moduli.kernel.network import Network
from moduli.kernel.runtime import Runtime
from moduli.piecewise.architectures import ArchitectureDimension
from moduli.piecewise.constructed_parameters import IdentifiableParameters
from moduli.piecewise.fewest_units import MinimalNetworks
from moduli.piecewise.forced_depth import Depth
from moduli.piecewise.functional_dimension import Dimension
from moduli.piecewise.identifiability import Identifiability
from moduli.piecewise.polyhedral_complex import Pieces
from moduli.piecewise.recovery import Recovery
from moduli.training.pruning import Curve

from .capacity import complexity_table, graph_complexity
from .equivalence import (
    alignment,
    checkpoint_alignment,
    checkpoint_form,
    compare,
    computed,
    constant_paths,
    graph_alignment,
    graph_normal_form,
    graphs,
    group,
    integer_grid,
    quantised_graphs,
)
from .equivalence.box_gap import Search
from .equivalence.computed import Rounding
from .equivalence.integer_grid import GridDecision, GridDistance, GridEquivalence
from .equivalence.quantised_graphs import QuantisedDecision, QuantisedPair
from .equivalence.real_ends import with_real_ends
from .formats import graph_of, load, load_as_written, load_chain, load_chains, load_several
from .formats.checkpoint_files import open_checkpoint
from .formats.reading import fitted
from .piecewise import (
    architectures,
    constructed_parameters,
    fewest_units,
    forced_depth,
    functional_dimension,
    identifiability,
    polyhedral_complex,
    recovery,
    smooth_dimension,
)
from .training import pruning


@question
def compress(
    net: Any,
    *,
    on: Domain = None,
    eps: float = 0.0,
    radius: float = 0.0,
    units: int | Sequence[int] | None = None,
    budget: int = 10_000,
    seed: int | np.random.Generator = 0,
    executor: Executor | None = None,
    skip: bool = False,
    biases: bool = True,
    starts: int = 1,
    dtype: str | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Compression | Narrowed | GraphCompression:
    """A network with fewer hidden units: the same function on all inputs or a box with its proof,
    or close on average.

    On all inputs (`on=None`). One hidden tanh, sigmoid or erf layer: the fewest units possible in
    one hidden layer of that activation (Sussmann 1992). Otherwise sound, and optimal only where
    `Compression.optimal` says so, among the networks that `Compression.among` names. Units with
    zero weights, duplicates, sign twins, positive multiples and cancelling groups go, layer by
    layer until nothing changes. With `radius`, every parameter may move by it.

    On a box (`on=Box(...)`). The same, and what holds there only: units that never change sign on
    it, proved by bounds on up to `budget` boxes and a fiftieth as many linear programs, go or
    become as few as the rank of what they add to the next layer; a layer of such units goes where
    that costs no parameters; so do units that the next layer hides. `optimal` for one hidden layer
    whose remaining units all bend inside the box. With `eps`, outputs may differ by it on the box:
    nearly constant, nearly stable and nearly proportional units go too, see `Within`; of a graph
    those that are nearly constant.

    On average (`on=Gaussian(...)` or `Samples(...)`): the best student found with `units` hidden
    units, or the smallest found with root mean square error at most `eps`; an estimate, see
    `Narrowed`. With `skip`, beside a free linear map. With ``biases=False`` the student has none,
    neither hidden nor at its output (one hidden layer): the problem of Amani et al. (2022). `starts`
    is how many rounds of random starts are tried beside those that the network suggests; 0 is quick.
    Up to 8 units a student is never worse than with one unit less, beyond that never worse than with
    8, 16, 32 ..., as long as an iteration takes a few milliseconds at most.

    With `dtype` ("float32", ...), on a box, `.computed` bounds how far both are apart as runtimes of that
    format compute them, as `check` does: slack, and the `rounding` of both.

    Raises:
        UnsupportedModel: the model cannot be read. ValueError: a goal that makes no sense there.

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0], [-1.0], [0.0]], [0.5, -0.5, 2.0], [[1.0, 3.0, 1.0]], [0.0])
    >>> small = mo.compress(net)
    >>> small.network.units, small.optimal, small.check()
    (1, True, True)
    >>> mo.compress(net, units=1, on=mo.Gaussian()).error.relative < 1e-5
    True
    >>> ramps = mo.Network.mlp([[1.0], [1.0], [-1.0]], [0.0, 2.0, -3.0], [[1.0, 2.0, 3.0]], [0.0], activation="relu")
    >>> mo.compress(ramps, on=mo.Box(-1, 1)).network.units, mo.compress(ramps, on=mo.Box(1, 2)).network.units
    (2, 0)
    """
    _only_alone(on, eps, radius, units)
    odd = [("biases", biases, True), ("starts", starts, 1), ("skip", skip, False)]
    for name, value, usual in odd:
        if value == usual or isinstance(on, (Gaussian, Samples)):
            continue
        other = Asked(name, value)
        raise ArgumentError(
            other, ": that is for mean errors; give ", ON_GAUSSIAN, " or ", ON_SAMPLES
        )
    smaller = partial(
        _compressed, on=on, eps=eps, radius=radius, units=units, budget=budget, seed=seed,
        executor=executor, skip=skip, biases=biases, starts=starts, progress=progress,
    )  # fmt: skip
    if dtype is None:
        return smaller(net, reading=reading)
    found = load(net, **reading)
    stated = as_computed(found, on, dtype, radius, budget)
    small: Compression | GraphCompression = stated(smaller(found, reading={}))
    return small


def as_computed(
    net: Network | Graph, on: Domain, dtype: str, radius: float, budget: int
) -> Callable[[Any], Any]:
    """What makes of a compression of a network one that says how far both are apart on a box as runtimes
    compute them; its certificate is checked. What cannot be said is refused at once, before the work.
    """
    if not isinstance(on, Box):
        raise _needs_box("dtype", dtype)
    if radius:
        raise ArgumentError(
            Asked("dtype", dtype), ": not with ", Asked("radius", radius), "; leave one out"
        )
    computed.require_format(net, Runtime(dtype))

    def stated(small: Any) -> Any:
        if small.status == "undecided":
            return small
        files = small.certificate, small.network, small.original
        verdict = check(*files, on=on, dtype=dtype, budget=budget)
        return replace(small, computed=verdict.computed)

    return stated


def _needs_box(parameter: str, value: Any) -> ArgumentError:
    """That what runtimes compute is asked without a box."""
    return ArgumentError(
        Asked(parameter, value), ": sizes of numbers decide, give ", ON_BOX, " for the inputs"
    )


def _compressed(
    net: Any, on: Domain, eps: float, radius: float, units: int | Sequence[int] | None, budget: int,
    seed: int | np.random.Generator, executor: Executor | None, skip: bool, biases: bool,
    starts: int, progress: Progress | None, reading: Reading,
) -> Compression | Narrowed | GraphCompression:  # fmt: skip
    """`compress`, as the domain wants it."""
    found = load(net, **reading) if _on_all_or_box(on, radius) else load_chain(net, **reading)
    if isinstance(found, Graph):
        box = on if isinstance(on, Box) else None
        return graph_results.compress(found, box, budget, progress, eps=eps)
    net = found
    if isinstance(on, (Gaussian, Samples)):
        return students.narrow(
            load_chain(net),
            on,
            units=units,
            eps=eps,
            skip=skip,
            biases=biases,
            starts=starts,
            seed=seed,
            executor=executor,
            progress=progress,
        )
    if isinstance(on, Box):
        if eps:
            return tolerance.compress(load_chain(net), on, eps, budget, seed, executor, progress)
        return reduce_on_box.compress(load_chain(net), on, budget, seed, executor, progress)
    if radius:
        return reduce_within.compress(load_chain(net), radius, budget, executor, progress)
    return reduce.compress(load_chain(net), progress)


@question
def rank(
    net: Any,
    *,
    on: Domain = None,
    radius: float = 0.0,
    budget: int = 10_000,
    seed: int | np.random.Generator = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Rank | GraphRank:
    """The least number of hidden units with this function on all inputs or a box; with a radius, of
    any parameter that close.

    Exact for one hidden layer where minimality is a theorem; otherwise proved bounds. The least is
    one among networks with one hidden layer of the same activation (`Rank.among`): deeper ones may
    need fewer, and an affine function needs no hidden unit where a network may have no hidden
    layer. On a box it has rank 0.

    Args:
        radius: largest change of any parameter (proximate rank). budget: search nodes with a
            radius, boxes on a box.

    >>> import moduli as mo
    >>> int(mo.rank(mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, -1.0]], [0.0])))
    0
    >>> int(mo.rank(mo.Network.mlp([[1.0], [1.0]], [0.0, -2.0], [[1.0, 1.0]], [0.0], activation="relu"), on=mo.Box(-1, 1)))
    1
    """
    _only_alone(on, 0.0, radius, None)
    found = load(net, **reading) if _on_all_or_box(on, radius) else load_chain(net, **reading)
    if isinstance(found, Graph):
        small = graph_results.compress(found, on if isinstance(on, Box) else None, budget, progress)
        return GraphRank("bounded", small)
    net = found
    if isinstance(on, Box):
        return reduce_on_box.rank(load_chain(net), on, budget, seed, executor, progress)
    if on is not None:
        raise ArgumentError(
            Asked("on", type(on)),
            ": a rank counts units needed on all inputs or on a box; for averages use compress",
        )
    if radius:
        return reduce_within.rank(load_chain(net), radius, budget, executor, progress)
    return reduce.rank(load_chain(net), progress)


@question
def rank_curve(
    nets: Any,
    *,
    radii: Sequence[float] | None = None,
    budget: int = 10_000,
    executor: Executor | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> RankCurve:
    """Proximate rank against radius: bounds (often equal) and the paper's greedy bound, of one
    network or a list of them.

    Args:
        nets: one network with one hidden layer of tanh, sigmoid or erf, or a list of such networks.
        radii: by default 25 from 0 to where every unit can vanish. executor: takes one radius of
            one network at a time.

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0], [1.5]], [0.0, 0.0], [[2.0, 2.0]], [0.0])
    >>> mo.rank_curve(net, radii=[0.0, 0.25, 2.0]).upper.tolist()
    [2.0, 1.0, 0.0]
    """
    several = isinstance(nets, (list, tuple)) and not _is_layers(nets)
    return reduce_within.curve(
        load_chains(nets if several else [nets], **reading),
        radii,
        budget,
        executor,
        progress,
    )


@question
def radius_for(
    net: Any,
    units: int,
    *,
    budget: int = 10_000,
    executor: Executor | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> LeastRadius:
    """The least radius within which some parameter needs at most `units` hidden units: what
    `rank_curve` shows, asked the other way.

    Exact where the proximate rank could be bounded from both sides: `rank(net, radius=r)` is at most
    `units` at the answer r and proved to be larger at the float below it. Otherwise an interval.

    Args:
        net: one hidden layer of tanh, sigmoid or erf. units: wanted, at least 0. budget: search
            nodes for each radius that is tried, some tens of them.

    Returns:
        `LeastRadius`: `lower`, `upper`, `exact`; ``float(answer)``; the proximate ranks `at` the
        radius and `below` it with their proofs.

    Raises:
        ValueError: another kind of network, or negative units.

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0], [1.5]], [0.0, 0.0], [[2.0, 2.0]], [0.0])
    >>> [float(mo.radius_for(net, units)) for units in (2, 1, 0)]
    [0.0, 0.25, 1.25]
    """
    return least_radius.radius_for(load_chain(net, **reading), units, budget, executor, progress)


@question
def error_curve(
    net: Any,
    *,
    on: Gaussian | Samples | None = None,
    units: Sequence[int] | None = None,
    biases: bool = True,
    starts: int = 1,
    seed: int | np.random.Generator = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> ErrorCurve:
    """Mean square error against hidden units: students, beside the largest units, k-means of the units,
    and a linear map.

    Args:
        units: sizes; by default halves of halves. biases, starts: as in `compress`. executor: takes
            one start at a time, of a deep network one size.

    Of one hidden layer no student is worse than a smaller one of the curve.

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0], [2.0], [0.5]], [0.0, 1.0, -1.0], [[1.0, 2.0, -1.0]], [0.0], activation="erf")
    >>> curve = mo.error_curve(net, on=mo.Gaussian(), units=[1, 2])
    >>> curve.students[1].relative < curve.students[0].relative < curve.linear.relative
    True
    """
    if on is None:
        raise ArgumentError(
            Asked("on", None), ": mean errors depend on the law of the inputs; give ",
            ON_GAUSSIAN, " or ", ON_SAMPLES,
        )  # fmt: skip
    return students.error_curve(
        load_chain(net, **reading), on, units, biases, starts, seed, executor, progress
    )


@question
def mean_field(net: Any, *, on: Gaussian | None = None, **reading: Unpack[Reading]) -> MeanField:
    """The simplified problem of wide random networks for this one: whether it applies, what it
    predicts, its frame. For one hidden layer of an activation with Gaussian expectations, one output.

    Args:
        on: by default the standard normal law.

    >>> import moduli as mo, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> rows, outer = rng.standard_normal((500, 20)), rng.uniform(0.5, 1.5, (1, 500))
    >>> field = mo.mean_field(mo.Network.mlp(rows, np.zeros(500), outer, [0.0], activation="relu"))
    >>> field.applies, 0 < field.loss(8) < field.loss(2) < 0.4
    (True, True)
    """
    return mean_field_limit.mean_field(load_chain(net, **reading), on or Gaussian())


def _is_layers(nets: Sequence[Any]) -> bool:
    """Whether a list is one network: (weight, bias) pairs."""
    return bool(nets) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in nets)


def _on_all_or_box(on: Domain, radius: float) -> bool:
    """Whether outputs on all inputs or a box are asked for: what graphs can answer."""
    return not radius and (on is None or isinstance(on, Box))


def _only_alone(on: Domain, eps: float, radius: float, units: Any) -> None:
    """Refuse goals that do not go together."""
    domain = Asked("on", type(on))
    if radius and (on is not None or eps or units is not None):
        other = domain
        if on is None:
            other = Asked("eps", eps) if eps else Asked("units", units)
        raise ArgumentError(
            Asked("radius", radius), " with ", other,
            ": a radius goes alone, on all inputs; leave out one of them",
        )  # fmt: skip
    if units is not None and not isinstance(on, (Gaussian, Samples)):
        where = (" on all inputs",) if on is None else (" with ", domain)
        raise ArgumentError(
            Asked("units", units), *where, ": a size goes with mean errors; give ",
            ON_GAUSSIAN, " or ", ON_SAMPLES,
        )  # fmt: skip
    if eps and on is None:
        raise ArgumentError(
            Asked("eps", eps), " on all inputs: say where the error is measured; give ",
            ON_BOX, ", ", ON_GAUSSIAN, " or ", ON_SAMPLES,
        )  # fmt: skip


@question
def pieces(
    net: Any,
    *,
    on: Domain = None,
    slice: Sequence[Any] | None = None,
    budget: int = 100_000,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Pieces:
    """The linear pieces of a ReLU, leaky ReLU or abs network in a box, in exact arithmetic: cells,
    regions, bends, weights.

    Args:
        on: a box of up to three inputs, or of the coordinates of the slice. slice: (origin, u) or
            (origin, u, v), arrays with one entry per input: the points origin + s u + t v. budget:
            cells.

    Raises:
        BudgetExhausted: more cells. UnsupportedModel: another activation. ValueError: too many
            inputs, no box.

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0], [[1.0, -1.0]], [0.0], activation="relu")
    >>> p = mo.pieces(net, on=mo.Box(-1, 1))
    >>> p.cells, p.linear_regions, p.affine_pieces, sorted(f.weight for f in p.facets)
    (4, 4, 4, [(-1.0,), (-1.0,), (1.0,), (1.0,)])
    """
    return polyhedral_complex.pieces(load_chain(net, **reading), on, slice, budget, progress)


@question
def dimension(
    net: Any, *, on: Domain = None, seed: int = 0, slice: Sequence[Any] | None = None, budget: int = 10_000,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Dimension | ArchitectureDimension:  # fmt: skip
    """The functional dimension: how many directions of parameters the function can tell apart; of a
    network on a box, or, given widths, the largest of any ReLU network of these widths.

    Of a network it is at most P - N, parameters less hidden units. Proved from below by a rank modulo
    a prime: over all cells for up to three inputs or in a slice; with more inputs over points on
    creases (`moduli.piecewise.crease_points`), and, for up to 4096 parameters, over the cells that
    `budget` points find. From above by P - N, or by exact null vectors on all cells, which say what is
    lost. With tanh, sigmoid or softplus units (up to 1500 parameters) from below by rows of derivatives
    at points, enclosed and proved to be independent; from above by the number of parameters less
    units that can be scaled (`moduli.piecewise.smooth_dimension`).

    Of widths (inputs, hidden layers, outputs) it is the same on all inputs and on every box. Proved
    from below by a network of whole numbers that is drawn layer by layer, from above by P - N less what
    runs of more than two layers of width 1 lose (`moduli.piecewise.architectures`). `.network` is that
    network, `.certificate` what shows it; `.check()` computes the rank again, up to 400 parameters in
    integers alone.

    Args:
        net: a network, or a list of widths. on, slice, budget: as for `pieces`; of widths a fiftieth of
            the budget is how many layers are drawn, and `on` and `slice` are left out. seed: of the
            points, of the combinations of rows that are eliminated, of the networks that are drawn.

    Raises:
        ShapeError: widths below 1. ArgumentError: widths with a box or a slice.

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0], [1.0]], [0.0, -1.0], [[1.0, -1.0]], [0.0], activation="relu")
    >>> int(mo.dimension(net, on=mo.Box(-4, 4))), int(mo.dimension(net, on=mo.Box(2, 4)))      # always active on the second
    (5, 2)
    >>> found = mo.dimension([3, 2, 2, 1])
    >>> int(found), found.generic, found.network.widths, found.check()
    (13, 13, (3, 2, 2, 1), True)
    """
    if _are_widths(net):
        no_model(reading)
        if on is not None or slice is not None:
            asked = Asked("slice", slice) if on is None else Asked("on", on)
            raise ArgumentError(
                asked, ": the dimension of widths is the same on every box; leave it out"
            )
        return architectures.dimension([int(w) for w in net], budget, seed, progress)
    return _dimension(load_chain(net, **reading), on, seed, slice, budget, progress)


def _are_widths(net: Any) -> bool:
    """Whether whole numbers stand in the place of a network."""
    if not isinstance(net, (list, tuple)) or not net:
        return False
    return all(isinstance(w, (int, np.integer)) and not isinstance(w, bool) for w in net)


def _dimension(
    net: Network, on: Domain, seed: int, slice: Sequence[Any] | None, budget: int,
    progress: Progress | None,
) -> Dimension:  # fmt: skip
    if slice is None and smooth_dimension.applies(net):
        return functional_dimension.with_smooth_units(net, on, seed)
    if slice is None and net.widths[0] > polyhedral_complex.MOST:
        return functional_dimension.with_many_inputs(net, on, budget, seed, progress)
    return functional_dimension.dimension(
        polyhedral_complex.pieces(net, on, slice, budget, progress), seed
    )


@question
def identifiable(
    net: Any,
    *,
    on: Domain = None,
    budget: int = 10_000,
    seed: int = 0,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Identifiability:
    """Whether the function on a box determines the parameters of a network, up to permutations and
    positive scaling (or signs).

    One hidden layer of ReLU, tanh, sigmoid or erf is decided, with any number of inputs (smooth
    ones on all inputs, too). So are affine maps, and networks with hidden units that are constant
    or that nothing reads. Deeper: proved among parameters in general position (piecewise linear ones),
    or among those close by, or refuted by another network with the same function, or undecided.

    Args:
        budget: cells (with more than three inputs units whose creases are searched, and points); at
            most 2000 linear systems and candidates are tried.

    Raises:
        UnsupportedModel: an activation that is not piecewise linear. ValueError: no box.

    >>> import moduli as mo
    >>> hat = mo.Network.mlp([[1.0], [1.0]], [0.0, -1.0], [[1.0, -1.0]], [0.0], activation="relu")
    >>> answer = mo.identifiable(hat, on=mo.Box(-8, 8))
    >>> answer.status, answer.reason
    ('refuted', 'units [0, 1] of the last hidden layer can be turned together')
    >>> answer.witness(np.array([[0.5]])).item(), hat(np.array([[0.5]])).item()
    (0.5, 0.5)
    """
    net = load_chain(net, **reading)
    answer = identifiability.without_dimension(net, on)
    if answer is not None:
        return answer
    found = _dimension(net, on, seed, None, budget, progress)
    return identifiability.identifiable(net, on, found, min(budget, 2_000))


@question
def identifiable_parameters(
    widths: Sequence[int],
    *,
    seed: int = 0,
    budget: int = 10_000,
    progress: Progress | None = None,
) -> IdentifiableParameters:
    """Parameters of a ReLU network of given widths that its function on [-1, 1]^n determines, up to
    permutations and positive scaling: constructed layer by layer, and proved.

    Among all parameters (`scope` "global") with one hidden layer; with up to three inputs and few cells
    among those in general position ("generic"), where that can be decided; else among those close by
    ("local"). That there are such parameters whenever inputs and hidden layers have width at least two
    is a theorem of Grillo and Montúfar 2026.

    Args:
        widths: inputs, hidden layers, outputs. budget: a fiftieth is how many layers are drawn.

    Returns:
        `.network`, `.on`, `.status`, `.scope`, and `.radius`: all networks whose parameters are within
        it, entry by entry, are locally identifiable on the box (proved, up to 4096 parameters; None
        where none is). Status "undecided" if none were found.

    Raises:
        ShapeError: widths below 1.

    >>> import moduli as mo
    >>> found = mo.identifiable_parameters([4, 3, 3, 2])
    >>> found.status, found.scope, found.radius > 0, found.check()
    ('proved', 'local', True, True)
    >>> mo.identifiable(found.network, on=found.on).scope
    'local'
    """
    return constructed_parameters.construct(widths, budget, seed, progress)


@question
def minimal_networks(net: Any, **reading: Unpack[Reading]) -> MinimalNetworks:
    """All networks of one hidden layer with a function, on all inputs, and the fewest units it allows:
    how many there are, and the dimension and components of the set of their parameters.

    Of relu or leaky_relu units and one output. A function that bends on n hyperplanes needs n, n + 1 or n
    + 2 units (Dereich and Kassing 2022, who describe the set, too; here it is derived in
    `moduli.piecewise.fewest_units`).

    Returns:
        `.bends`, `.units`, `.orbits` (up to permutations and positive scaling, and the place of a pair of
        units that can be anywhere), `.components`, `.dimension`, `.unique`; iterating gives a network,
        as layers of rationals, for each orbit, `.networks()` those that floats hold.

    Raises:
        UnsupportedModel: other layers or activations. Undecided: several outputs, or so many hyperplanes
        that the sides of units cannot be tried (more than 38, with one unit more 29, with two more 23).

    >>> import moduli as mo
    >>> hat = mo.Network.mlp([[1.0], [1.0], [1.0]], [0.0, -1.0, -2.0], [[1.0, -2.0, 1.0]], [0.0], activation="relu")
    >>> found = mo.minimal_networks(hat)
    >>> found.units, found.orbits, found.components, found.dimension
    (3, 2, 12, 3)
    >>> [net.layers[0].weight.ravel().tolist() for net in found.networks()]
    [[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]
    """
    return fewest_units.minimal_networks(load_chain(net, **reading))


@question
def depth(
    net: Any,
    *,
    on: Domain = None,
    slice: Sequence[Any] | None = None,
    seed: int = 0,
    budget: int = 10_000,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Depth:
    """How many hidden layers the function on a box needs: strictly (0, 1 or 2), and in general
    position (by chains of bends).

    With more than three inputs, and no slice, planes through the box are drawn: what the function needs
    in a plane it needs. So 0, 1 or 2 layers are proved to be needed, and `enough` are known to do; the
    status is "bounded" where these differ.

    Args:
        on, slice: as for `pieces`. budget: cells; of planes together. seed: of the planes.

    >>> import moduli as mo
    >>> inner = [[1, 0], [-1, 0], [0, 1]], [0, 0, 0]
    >>> top = mo.Network.mlp(*inner, [[1, -1, -1], [0, 0, 1]], [0, 0], [[1, 1]], [0], activation="relu")
    >>> mo.depth(top, on=mo.Box(-8, 8)).strict                                                    # of max(0, x, y)
    2
    >>> inner = [[1, 0, 1, 0, 0], [-1, 0, -1, 0, 0], [0, 1, 0, 1, 1]], [0, 0, 0]
    >>> more = mo.Network.mlp(*inner, [[1, -1, -1], [0, 0, 1]], [0, 0], [[1, 1]], [0], activation="relu")
    >>> mo.depth(more, on=mo.Box(-8, 8))                                        # of 5 inputs, two at a time
    <depth = 2 hidden layers needed, at least 2 in general position>
    """
    chain = load_chain(net, **reading)
    if slice is None and chain.widths[0] > polyhedral_complex.MOST:
        return forced_depth.through_slices(chain, on, budget, seed, progress)
    return forced_depth.depth(polyhedral_complex.pieces(chain, on, slice, budget, progress))


@question
def recover(
    net: Any,
    widths: Sequence[int] | None = None,
    *,
    on: Domain = None,
    budget: int = 2_000,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Recovery:
    """Parameters of a ReLU network of given widths from a function on a box of up to three inputs;
    exact, or nothing.

    Of `net` only the function is used: its linear pieces. Any answer was compared with it on every
    cell, in rationals.

    Args:
        widths: inputs, hidden layers, outputs; those of `net` by default. budget: linear systems
            that are tried.

    >>> import moduli as mo
    >>> hat = mo.Network.mlp([[2], [2], [2]], [0, -2, -4], [[0.5, -1, 0.5]], [0], activation="relu")
    >>> mo.recover(hat, on=mo.Box(-4, 4)).network.layers[0].bias.tolist()
    [0.0, -1.0, -2.0]
    """
    net = load_chain(net, **reading)
    return recovery.recover(
        polyhedral_complex.pieces(net, on, None, 10_000, progress), widths or net.widths, budget
    )


@question
def pruning_curve(
    net: Any, *, by: str = "magnitude", on: Domain = None, **reading: Unpack[Reading]
) -> Curve:
    """What is lost when only a share of each hidden layer is kept: relative error of the
    parameters, change of the function.

    Args:
        by: "magnitude" (entries), "units" (rows of incoming weights) or "singular" (values of the
            matrices).
        on: samples. Units are then measured on the part of their rows that the samples can see, and
            `by="units"` also shows how the outputs change on them.

    >>> import moduli as mo
    >>> curve = mo.pruning_curve("zoo:digits-tanh", by="units")
    >>> curve.at(0.0) < 0.4, curve.pruned(0.5).units            # 174 of 256 units are redundant, 117 have zero rows
    (True, 128)
    """
    return pruning.pruning_curve(load_chain(net, **reading), by, on)


@question
def canonical(
    net: Any, *, progress: Progress | None = None, **reading: Unpack[Reading]
) -> Network | Graph:
    """The normal form of a network: reduced, signs and scales fixed, units sorted; rounded once to
    float64.

    Symmetric copies (permuted, with signs flipped or scaled exactly) have the same form, bit for
    bit. Where rounding changed the function, `Network.notes` say by how much at most, certified;
    `moduli canon` prints it and writes it into the file. Of a graph nothing is rounded: scales are
    powers of two.

    >>> import moduli as mo
    >>> a = mo.Network.mlp([[1.0], [-2.0]], [0.0, 1.0], [[1.0, 3.0]], [0.0])
    >>> b = mo.Network.mlp([[2.0], [1.0]], [-1.0, 0.0], [[-3.0, 1.0]], [0.0])
    >>> mo.canonical(a) == mo.canonical(b)
    True
    """
    found = load(net, **reading)
    if isinstance(found, Graph):
        return graph_normal_form.canon(found, progress).network
    return group.canonical(found, progress)


@question
def path(
    a: Any, b: Any, *, progress: Progress | None = None, **reading: Unpack[Reading]
) -> ParameterPath | None:
    """A piecewise linear path from a to b along which the function does not change; None where
    there is none.

    For one hidden layer. At most seven segments if the rank is at most half the hidden units
    (Farrugia-Roberts 2023). Irreducible parameters are isolated, up to permutation and signs: then
    None, unless a and b are the same.

    Raises:
        ShapeError: shapes that cannot be joined. ValueError: different functions. Undecided: not
            seen to be the same.

    >>> import moduli as mo
    >>> a = mo.Network.mlp([[1.0], [2.0]], [0.0, 0.0], [[1.0, 0.0]], [0.0])
    >>> b = mo.Network.mlp([[2.0], [-1.0]], [0.0, 0.0], [[0.0, -1.0]], [0.0])
    >>> p = mo.path(a, b)
    >>> p.segments, p.check()
    (3, True)
    """
    return constant_paths.path(*_pair(*load_several([a, b], **reading)), progress=progress)


@question
def signature(
    net: Any, *, progress: Progress | None = None, **reading: Unpack[Reading]
) -> Signature:
    """A fingerprint of the function: equal for symmetric copies, duplicates, dead and merged units;
    a `str` with `.complete`.

    Two different fingerprints that are both `complete` are different functions (of networks with
    the same activations).

    Of a folder with a checkpoint (`align`): of its tensors, under the architecture that is declared for their names.
    One layer is in memory at a time.

    >>> import moduli as mo
    >>> a = mo.signature(mo.Network.mlp([[1.0], [-2.0]], [0.0, 1.0], [[1.0, 3.0]], [0.0]))
    >>> b = mo.signature(mo.Network.mlp([[2.0], [1.0], [1.0]], [-1.0, 0.0, 0.0], [[-3.0, 0.5, 0.5]], [0.0]))
    >>> a == b, a.complete
    (True, True)
    """
    checkpoint = _checkpoint(net, reading)
    if checkpoint is not None:
        return checkpoint_form.signature(checkpoint)
    found = load(net, **reading)
    if isinstance(found, Graph):
        return graph_normal_form.signature(found)
    return group.signature(found, progress)


@question
def symmetries(net: Any, **reading: Unpack[Reading]) -> SymmetryGroup | GraphSymmetries:
    """The group of permutations, signs and positive scales of hidden units that keep the function; of
    a graph those that are found (`GraphSymmetries`).

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0], [2.0]], [0.0, 1.0], [[1.0, 3.0]], [0.0])
    >>> group = mo.symmetries(net)
    >>> round(group.log_order, 4), group.dimension            # log of 2! 2^2
    (2.0794, 0)
    >>> mo.canonical(group.random(seed=1)(net)) == mo.canonical(net)
    True
    """
    found = load(net, **reading)
    try:
        return SymmetryGroup.of(load_chain(found))
    except UnsupportedModel:
        if not isinstance(found, Graph):
            raise
        return GraphSymmetries.of(found)


@question
def align(
    a: Any,
    b: Any,
    *,
    by: str = "weights",
    on: Domain = None,
    seed: int | np.random.Generator = 0,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Alignment | GraphAlignment | CheckpointAlignment:
    """Move `a` onto `b` by permutations, signs and scales: to compare them unit by unit, and to
    merge them.

    An estimate: with two or more hidden layers the best matching is NP-hard. That the moved network
    computes the function of `a` is proved (`Alignment.check`). Units that do the same, or nothing,
    can be matched in many ways: `compress` both first.

    Both may be folders with a checkpoint of a language model, as Hugging Face's libraries write them (`config.json`
    and `.safetensors` files, in shards or not), or the index of one: llama, mistral, qwen2 and gpt2, declared by the names of
    their tensors. One layer is in memory at a time. `CheckpointAlignment` says whether one is a disguised copy of the
    other, related to it, or neither, with the evidence of each layer.

    Args:
        by: "weights" (Ainsworth et al. 2023) or "activations" (Li et al. 2015, on the inputs `on`); of
            graphs of files; their heads and coordinates are matched by weights in any case.

    Raises:
        ShapeError: different architectures. ValueError: `on` is missing, or given in vain.

    >>> import moduli as mo
    >>> b = mo.load("zoo:digits-plain")
    >>> a = mo.symmetries(b).random(seed=1)(b)
    >>> found = mo.align(a, b)
    >>> found.after, found.before > 1, found.merge() == b
    (0.0, True, True)
    """
    pair = _checkpoints(a, b, reading)
    if pair is not None:
        if by != "weights" or on is not None:
            raise ArgumentError(
                Asked("by", by), ": checkpoints are matched by 'weights', without data"
            )
        return checkpoint_alignment.align(*pair, progress)
    first, second = load_several([a, b], **reading)
    if isinstance(first, Graph) and isinstance(second, Graph):
        return graph_alignment.align(first, second, by, on, seed)
    return alignment.align(*_pair(first, second), by, on, seed)


def _checkpoint(source: Any, reading: Reading) -> Checkpoint | None:
    """The checkpoint that a source is; None of other sources."""
    found = open_checkpoint(source)
    given = [name for name, value in reading.items() if value is not None]
    if found is not None and given:
        raise ArgumentError(
            Asked(given[0], reading[given[0]]),  # type: ignore[literal-required]
            " is for models that are loaded, not for a checkpoint; leave it out",
        )
    return found


def _checkpoints(a: Any, b: Any, reading: Reading) -> tuple[Checkpoint, Checkpoint] | None:
    """Two checkpoints; None of two other sources."""
    first, second = (_checkpoint(source, {}) for source in (a, b))
    if first is None and second is None:
        return None
    if first is None or second is None:
        other = b if second is None else a
        raise UnsupportedModel(
            f"{other} is no folder with config.json and model.safetensors or its index; a checkpoint is compared with "
            "another one"
        )
    _checkpoint(first, reading)
    return first, second


@question
def complexity(
    net_or_widths: Any,
    *,
    activation: Any = None,
    bound: Any = None,
    input_bound: float | int = 1.0,
    samples: int | Samples | None = None,
    targets: Any = None,
    accuracy: float | int = 0.1,
    delta: float | int = 0.05,
    norm: str = "inf",
    keys: Sequence[str] | None = None,
    output: str | None = None,
    input_shape: int | Sequence[int] | None = None,
) -> Complexity | GraphComplexity:
    """How large the class of networks with bounded parameters is, with and without its symmetries;
    bounds on generalisation.

    Args:
        net_or_widths: a model, or a list such as [784, 300, 100, 10].
        activation: of widths, relu by default; of a model that stores none. keys, output, input_shape:
            of a model, as everywhere (`moduli.load`). bound: of the entries of each layer (one for all, or
            one per layer): 1 by default for widths, the largest entry of each layer for a model,
            which pays for having been chosen after training; "he" or "xavier": of uniform random starts, which
            fall with the width (of widths and chains).
        input_bound: of the inputs, in the norm "inf" or "2". samples: their number, or the inputs
            themselves. targets: class numbers of these, whole: then `.risks` bounds how often a class is wrong on new
            inputs (a code for the stored numbers, a cover and a union over margins, fresh samples).
        accuracy: of the covering number. delta: bounds on the gap hold with probability 1 -
            delta.

    Of a graph: of all functions that its operators and wiring compute with tensors of these bounds, on inputs
    bounded in the sup norm (`GraphComplexity`). A batch norm counts as a scale and a shift for each channel; stored
    numbers without an axis, divisors, exponents and masks are held fixed, and how many is said.

    Raises:
        UnsupportedModel: a graph with a node of which it is not known how far its inputs move it.
        ValueError: an entry or a sample above its bound, or numbers that make no sense.

    >>> import moduli as mo
    >>> c = mo.complexity([10, 100, 1], norm="2")
    >>> round(c.log_covering(symmetry=False)), round(c.log_covering()), round(c.log_symmetries)
    (10356, 9459, 364)
    """
    widths = _are_widths(net_or_widths)
    of_models: Reading = {"keys": keys, "output": output, "input_shape": input_shape}
    if not widths:
        net_or_widths = load(net_or_widths, **{**of_models, "activation": activation})
        activation = None
    else:
        no_model(of_models)
    if isinstance(net_or_widths, Graph):
        if norm != "inf":
            raise ArgumentError(
                Asked("norm", norm), ": inputs of a graph are bounded in the sup norm; leave it out"
            )
        return graph_complexity.complexity(
            net_or_widths, bound, input_bound, samples, accuracy, delta, targets
        )
    return complexity_table.complexity(
        net_or_widths, activation, bound, input_bound, samples, accuracy, delta, norm, targets
    )


@question
def equivalent(
    a: Any,
    b: Any,
    *,
    on: Domain | Grid = None,
    eps: float = 0.0,
    decision: bool = False,
    budget: int = 10_000,
    seed: int | np.random.Generator = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> (
    Equivalence
    | GraphEquivalence
    | QuantisedDecision
    | BranchedEquivalence
    | GridEquivalence
    | GridDecision
    | CheckpointAlignment
):
    """Whether two networks compute the same function (within `eps`), on all inputs or on a box.

    Of outputs, behind the output map (softmax, ...), which must be the same: a bound before it is
    carried through by its Lipschitz constant (1/2 for a softmax), a witness is one behind it.

    In order: normal forms (a proof), units aligned and a certified bound on their difference, a
    search for an input where they differ (many inputs, then gradient ascent), re-evaluated in exact
    arithmetic; on a box then all linear pieces of both (up to three inputs), or bounds by
    bisection, networks of different widths being compressed on the box first. None may succeed:
    then `undecided`. `budget` counts inputs tried, and boxes, each time anew. Interrupted
    (`KeyboardInterrupt`) while it bounds boxes, it answers with the bound so far.

    With `decision` only which output is the largest counts, on a box. Proved: one output is above
    all others at every input of the box, in both networks, or they are one function. Refuted: an
    input where exact values decide in different ways. Where a decision changes on the box, two
    functions that differ nearly always have such an input, close to the boundary.

    On a box that is the hull of several (a disjunction in a .vnnlib file): where the hull is not
    enough, on each of them, see `BranchedEquivalence`.

    On a `Grid` one network computes in integers, and all its inputs are tried: see `distance`. With
    `decision` the largest output is compared, of equal ones the first (`GridDecision.differ` counts
    inputs at which it is another one).

    Of two folders with checkpoints (`align`) proved is that all stored numbers are the same but for symmetries of the
    declared architecture; otherwise the answer is undecided, and says what `align` says.

    >>> import moduli as mo
    >>> a = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0])
    >>> mo.equivalent(a, mo.Network.mlp([[-1.0]], [0.0], [[-1.0]], [0.0])).status
    'proved'
    >>> mo.equivalent(a, mo.Network.mlp([[1.0]], [0.0], [[1.5]], [0.0])).status
    'refuted'
    """
    if decision and eps:
        raise ArgumentError(
            Asked("eps", eps),
            " with ",
            Asked("decision", True),
            ": values or decisions are compared, not both",
        )
    checkpoints = _checkpoints(a, b, reading)
    if checkpoints is not None:
        if eps or decision or on is not None:
            raise ArgumentError(
                "checkpoints are compared by their tensors: leave out on, eps and decision"
            )
        return checkpoint_alignment.equivalent(*checkpoints, progress)
    if isinstance(on, Box) and len(on.branches) > 1:
        ask: Any = partial(
            equivalent, a, b, eps=eps, decision=decision, budget=budget, seed=seed, executor=executor, progress=progress,
            **reading,
        )  # fmt: skip
        answer: Equivalence | BranchedEquivalence = on_each_box(on, ask)
        return answer
    if isinstance(on, Grid):
        return _on_grid(a, b, on, eps, decision, budget, progress, reading)
    if _on_all_or_box(on, 0.0):
        first, second = load_several([a, b], **reading)
        pair = _quantised((a, b), (first, second), on, reading) if decision else None
        if pair is not None:
            search = Search(budget, executor=executor, progress=progress)
            return quantised_graphs.decisions(pair, seed, search)
        if isinstance(first, Graph) and isinstance(second, Graph):
            if decision:
                raise ArgumentError(
                    Asked("decision", True),
                    ": decisions are compared of dense chains, quantised or not, on a box; of graphs compare values",
                )
            box = on if isinstance(on, Box) else None
            return graphs.equivalent(first, second, box, eps, budget, seed, progress)
    else:
        first, second = load_chains([a, b], **reading)
    search = Search(budget, executor=executor, progress=progress)
    if decision:
        return compare.alike(*_pair(first, second), on, seed, search)
    return compare.equivalent(*_pair(first, second), on, eps, seed, search)


def _pair(a: Any, b: Any) -> tuple[Network, Network]:
    a, b = load_chain(a), load_chain(b)
    if (a.widths[0], a.widths[-1]) != (b.widths[0], b.widths[-1]):
        first, second = (f"R^{net.widths[0]} to R^{net.widths[-1]}" for net in (a, b))
        raise ShapeError(
            f"the first network maps {first}, the second {second}; only networks with the same inputs and outputs are compared"
        )
    return a, b


@question
def distance(
    a: Any,
    b: Any,
    *,
    on: Domain | Grid = None,
    tol: float | None = None,
    budget: int = 10_000,
    seed: int | np.random.Generator = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Distance | GraphDistance | GridDistance:
    """The distance of two functions: sup over a box (or all inputs), root mean square under a
    Gaussian or on samples.

    On a box: a certified enclosure; the lower end is an exact value at `argmax`, the upper end
    comes from matched normal forms and from bounds on up to `budget` boxes, the worst halved first
    (few where inputs are many); networks of different widths are compressed on the box before. Up
    to three inputs, piecewise linear and small: the exact number, from the linear pieces of both
    (`extra["exact"]`). With `tol` it stops once the upper end is at most (1 + tol) times the lower
    one. The upper end has a `.certificate`, but for exact numbers and for networks of different
    widths, and `.check()` proves both ends again. Interrupted (`KeyboardInterrupt`) while it bounds
    boxes, it returns the bracket so far (`.interrupted`). On all inputs: matched normal forms
    alone. Under a `Gaussian`, one hidden
    layer each: a closed form, with its rounding. Deeper, or on `Samples`: the mean over rows
    (seeded draws) with two standard errors.

    All this is before the output map (softmax, ...), which must be the same for both;
    `Distance.behind` has bounds of the distance of the outputs, behind it.

    Two graphs, on a box or all inputs: 0 where both reduce to one graph, else bounds of the
    difference through both where they have the same operators and wiring (`GraphDistance`). Where
    one is the other quantised, on a box: what rounding and cutting off do (`QuantisedDistance`, whose
    `.by_layer` says which of all roundings hurts most); chains of dense layers on parts of the box.

    On a `Grid`, where at least one file computes in 8-bit integers (.tflite, or ONNX of operators such
    as QLinearConv): all integers that it can be given are tried, at most `budget`. It is computed as
    its device does, by declared rules; another one like it, too; what is none is enclosed over the
    reals. The largest difference, exactly where the other network is a chain of dense layers that are
    piecewise linear (`GridDistance.exact`), else within a bracket, and the input where it is.

    Raises:
        ShapeError: other inputs, outputs or output maps. ValueError: a `tol` that is none.
        BudgetExhausted: more integer inputs than `budget`. UnsupportedModel: neither file computes in
            integers by rules that are known; names what has none.

    >>> import moduli as mo
    >>> a = mo.Network.mlp([[1.0]], [0.0], [[1.0]], [0.0], activation="relu")
    >>> b = mo.Network.mlp([[1.0]], [0.0], [[1.5]], [0.0], activation="relu")
    >>> d = mo.distance(a, b, on=mo.Box(-2, 2))
    >>> 0.99 < d.lower <= 1.0 <= d.upper < 1.01
    True
    """
    if isinstance(on, Grid):
        first, second = _for_grid(a, b, reading)
        return integer_grid.distance(first, second, on, budget, progress)
    if _on_all_or_box(on, 0.0):
        first, second = load_several([a, b], **reading)
        pair = _quantised((a, b), (first, second), on, reading)
        if pair is not None:
            search = Search(budget, None, tol or 0.0, -1.0, executor, progress)
            return quantised_graphs.distance(pair, seed, search)
        if isinstance(first, Graph) and isinstance(second, Graph):
            return graphs.distance(first, second, on if isinstance(on, Box) else None, budget, seed)
    else:
        first, second = load_chains([a, b], **reading)
    if tol is not None and (type(tol) not in (int, float) or not 0 <= tol < 2.0**1000):
        raise ArgumentError(Asked("tol", tol), ": a finite non-negative number is needed")
    search = Search(budget, None, tol or 0.0, -1.0, executor, progress)
    return compare.distance(*_pair(first, second), on, seed, search)


@question
def rounding(
    net: Any,
    *,
    on: Domain,
    dtype: str = "float32",
    order: str | int = "any",
    ulps: float = 4.0,
    budget: int = 10_000,
    seed: int | np.random.Generator = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Rounding:
    """How far what any runtime computes in floats is from the function over the reals, on a box.

    A certified bound: any order of summation, with or without fused multiply-add, subnormal numbers
    kept or flushed. Chains of dense layers: errors are carried by symbols, on up to `budget` parts of
    the box (few where inputs are many). Other graphs: by sizes, tensor by tensor, which is far above
    what happens where layers are many. An ONNX file is taken as it is, operator after operator;
    a `Network` as its layers are: one sum a unit, then the activation. Inputs are numbers of `dtype`
    within the box. `moduli.kernel.runtime` says all that is assumed.

    Args:
        on: a `Box`.
        dtype: "float32", "float16", "bfloat16" or "float64", of the runtime; parameters are rounded to it.
        order: "any", or how many sums a term passes through at most.
        ulps: activation functions are off by at most so many units, one being the distance from 1 to the
            next number, or times the value of the function where that is larger than 1.

    Returns:
        A `Rounding`: `.upper`; `.by_layer`, what each layer adds; `.seen`, what happens in NumPy;
        `.check()` bounds everything again. Where a sum may overflow `.upper` is infinite, and the
        status undecided.

    Raises:
        ShapeError: the box does not fit. ValueError: no box, or an unknown `dtype` or `order`.
        Undecided: a parameter is beyond the largest number of `dtype`.

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0], [0.1]], [0.0, 0.0], [[1.0, 0.1]], [0.0], activation="relu")
    >>> r = mo.rounding(net, on=mo.Box(-1, 1))
    >>> r.seen < r.upper < 4e-7
    True
    """
    if not isinstance(on, Box):
        raise _needs_box("on", on)
    if order != "any" and type(order) is not int:
        raise ArgumentError(
            Asked("order", order), ": 'any', or how many sums a term may pass through"
        )
    runtime = Runtime(dtype, None if isinstance(order, str) else order, ulps)
    network = load_as_written(net, **reading)
    return computed.rounding(network, on, runtime, budget, seed, executor, progress)


def _on_grid(
    a: Any, b: Any, on: Grid, eps: float, decision: bool, budget: int,
    progress: Progress | None, reading: Reading,
) -> GridEquivalence | GridDecision:  # fmt: skip
    """`equivalent` at all integer inputs."""
    if not 0 <= eps < math.inf:
        raise ArgumentError(Asked("eps", eps), ": a finite non-negative number is needed")
    first, second = _for_grid(a, b, reading)
    if decision:
        return integer_grid.decisions(first, second, on, budget, progress)
    return integer_grid.equivalent(first, second, on, eps, budget, progress)


def _for_grid(a: Any, b: Any, reading: Reading) -> list[Network | Graph]:
    """Two models, one of which may be a file of integers; a chain behind an output map as a graph."""
    return [
        graph_of(net) if isinstance(net, Network) and net.output_map != "identity" else net
        for net in load_several([a, b], **reading)
    ]


def _quantised(
    sources: tuple[Any, Any], nets: Sequence[Any], on: Any, reading: Reading
) -> QuantisedPair | None:
    """Two models, one of which is the other one quantised, and a box; None where neither is.

    A dense chain beside a graph is meant as its file has it, or as moduli would write it.
    """
    graphs = [net for net in nets if isinstance(net, Graph)]
    if not isinstance(on, Box) or not any(map(quantised_graphs.rounds, graphs)):
        return None
    found = []
    for source, net, options in zip(sources, nets, fitted(sources, reading), strict=True):
        if isinstance(net, Network):
            net = load_as_written(source, **options)
        found.append(with_real_ends(graph_of(net) if isinstance(net, Network) else net))
    return quantised_graphs.pair_of(found[0], found[1], on)


class Demands(NamedTuple):
    """What a certificate must claim at least; see `check`.

    Attributes:
        max_slack: bound of the difference of outputs. on: where; "all", a box, or None for wherever
            it is claimed.
        radius: of the parameters that may be meant. minimal: whether fewest units must be proved.
    """

    max_slack: float | None = None
    on: Box | str | None = None
    radius: float | None = None
    minimal: bool = False

    @staticmethod
    def of(
        max_slack: float | None, on: Domain | str, radius: float | None, minimal: bool, inputs: int
    ) -> Demands:
        """The demands, if they make sense for networks with so many inputs."""
        for name, bound in (("max_slack", max_slack), ("radius", radius)):
            if bound is not None and not 0 <= bound < math.inf:
                raise ArgumentError(Asked(name, bound), ": a finite non-negative number is needed")
        if isinstance(on, Box):
            return Demands(max_slack, on.of_dimension(inputs), radius, bool(minimal))
        if isinstance(on, (Gaussian, Samples)) or on not in (None, "all"):
            raise ArgumentError(
                Asked("on", on if isinstance(on, str) else type(on)),
                ": a certificate holds on all inputs or on a box; give ",
                ON_ALL, " or ", ON_BOX,
            )  # fmt: skip
        return Demands(max_slack, on, radius, bool(minimal))

    def require(self, verdict: Verdict) -> None:
        """Raises `CertificateRejected` where less is claimed."""
        if self == NO_DEMANDS:
            return
        near = verdict.proof.near
        if self.minimal and not verdict.minimal:
            raise CertificateRejected(
                Asked("minimal", True),
                " is demanded, but the certificate does not claim that units are the fewest",
            )
        if near is not None and near.radius > (self.radius or 0.0):
            claimed = f" is demanded, but the certificate is about parameters within {near.radius!r} of it"
            if self.radius is not None:
                raise CertificateRejected(Asked("radius", self.radius), claimed)
            raise CertificateRejected(
                f"a claim about the large network itself{claimed}; demand ",
                Asked("radius", near.radius), " to accept that",
            )  # fmt: skip
        self._require_domain(verdict)
        if self.max_slack is not None and not verdict.bound <= self.max_slack:
            raise CertificateRejected(
                Asked("max_slack", self.max_slack),
                f" is demanded, but {verdict.bound!r} is certified {verdict.where}",
            )

    def _require_domain(self, verdict: Verdict) -> None:
        region = verdict.proof.region
        if region is None or self.on is None:
            return
        if not isinstance(self.on, Box):
            raise CertificateRejected(
                ON_ALL, f" is demanded, but the certificate holds on the box {region} only"
            )
        ends = zip(
            region.low, self.on.low.tolist(), self.on.high.tolist(), region.high, strict=True
        )
        for at, (least, low, high, most) in enumerate(ends):
            if not least <= low <= high <= most:
                raise CertificateRejected(
                    Asked("on", self.on),
                    f" is demanded, but at input {at} the certificate holds "
                    f"from {least!r} to {most!r} only",
                )

    def data(self) -> dict[str, Any]:
        on: Any = self.on
        if isinstance(on, Box):
            on = {"low": on.low.tolist(), "high": on.high.tolist()}
        return {
            "max_slack": self.max_slack,
            "on": on,
            "radius": self.radius,
            "minimal": self.minimal,
        }


NO_DEMANDS = Demands()


@dataclass(frozen=True, eq=False, repr=False)
class Verdict(Result):
    """A certificate that was replayed and accepted.

    Attributes:
        demands: what it had to claim at least. bound: certified sup of |small - large|, before the
            output map, on the box that was demanded, else where the certificate holds; inf where it
            grows on all inputs. minimal: whether fewest units are proved, in one hidden layer.
        computed: the same of what runtimes compute, where that was asked for.
    """

    proof: Certificate
    small: Network
    large: Network
    demands: Demands = NO_DEMANDS
    computed: AsComputed | None = None
    kind: ClassVar[str] = "check"

    @property
    def minimal(self) -> bool:
        return self.proof.minimal or self.small.units == 0

    @property
    def bound(self) -> float:
        slack, region = self.proof.slack, self.proof.region
        if slack.growth == 0:
            return slack.constant
        box = (
            self.demands.on
            if isinstance(self.demands.on, Box)
            else None
            if region is None
            else region.box
        )
        if box is None or not slack.finite:
            return math.inf
        size = Fraction(float(np.abs([box.low, box.high]).max()))
        return ceiling(Fraction(slack.constant) + Fraction(slack.growth) * size)

    @property
    def where(self) -> str:
        """Where `bound` holds."""
        return f"on {self.demands.on!r}" if isinstance(self.demands.on, Box) else self._domain

    @property
    def certificate(self) -> Certificate:
        return self.proof

    def check(self) -> bool:
        self.proof.verify(self.small, self.large)
        return self.computed is None or self.computed.check()

    @property
    def statement(self) -> str:
        computed = f"; {self.computed.statement}" if self.computed else ""
        return f"{self._accepted}{computed}"

    @property
    def _accepted(self) -> str:
        small, near = self.small.units, self.proof.near
        exact = (
            "exactly"
            if self.proof.slack == type(self.proof.slack)(0.0, 0.0)
            else f"up to {self.proof.slack}"
        )
        if near is None:
            exact += f", {self._domain}" if self.proof.region else ""
            layer = one_layer(self.small) if small else "one hidden layer"
            best = (
                f"; no network of {layer} with fewer than {small} hidden units has it"
                if self.proof.minimal
                else ""
            )
            count = counted(small, "hidden unit computes", "hidden units compute")
            return f"accepted: {count} the function of {self.large.units}, {exact}{best}"
        best = (
            f"; every parameter within it needs {near.bound.lower}"
            if near.bound and near.bound.lower
            else ""
        )
        at = f"a parameter within {near.radius:g} of the {self.large.units}"
        return f"accepted: {small} hidden units compute the function of {at}, {exact}{best}"

    def rows(self) -> list[tuple[str, str]]:
        moves = (*self.proof.large_moves, *self.proof.small_moves)
        return [
            ("large", repr(self.large)), ("small", repr(self.small)),
            ("moves replayed", str(len(moves))),
            ("removed", self._removed),
            ("slack", f"<= {self.proof.slack}"), ("holds", self._domain),
            ("fewest units", self._fewest), *self._demanded(),
            *(self.computed.rows() if self.computed else []),
        ]  # fmt: skip

    @property
    def _fewest(self) -> str:
        if not self.minimal:
            return "not claimed"
        return f"proved, in {one_layer(self.small)}" if self.small.units else "proved"

    @property
    def _removed(self) -> str:
        """In the words of the compression."""
        names = MOVES if self.proof.region is None else MOVES_ON_BOX
        return counts(removed(self.proof.large_moves), names) or "nothing"

    def _demanded(self) -> list[tuple[str, str]]:
        asked, lines = self.demands, list[str]()
        if asked.max_slack is not None:
            lines.append(f"slack at most {asked.max_slack!r}: {above(self.bound, 6)} {self.where}")
        if asked.on is not None:
            lines.append("on all inputs" if asked.on == "all" else f"on {asked.on!r}")
        if asked.radius is not None:
            lines.append(f"parameters within {asked.radius!r}")
        if asked.minimal:
            lines.append("fewest units")
        return [("demanded", line) for line in lines]

    @property
    def _domain(self) -> str:
        """Where the claim holds: whoever made the certificate chose it."""
        near, region = self.proof.near, self.proof.region
        if region is not None:
            return f"on the box {region}"
        return (
            "for all inputs"
            if near is None
            else f"for all inputs, a parameter within {near.radius!r}"
        )

    def data(self) -> dict[str, Any]:
        slack, near, region = self.proof.slack, self.proof.near, self.proof.region
        return {
            "small": self.small.digest, "large": self.large.digest,
            "moves": len(self.proof.large_moves) + len(self.proof.small_moves),
            "minimal": self.minimal,
            "among": one_layer(self.small) if self.minimal and self.small.units else None,
            "slack": None if slack.growth else slack.constant, "growth": slack.growth,
            "constant": slack.constant, "on_box": region is not None,
            "radius": None if near is None else near.radius,
            "box": None if region is None else {"low": list(region.low), "high": list(region.high)},
            "bound": self.bound, "demands": self.demands.data(),
            "computed": self.computed and self.computed.data(),
        }  # fmt: skip


@question
def check(
    certificate: Certificate | GraphCertificate | str | Path,
    small: Any,
    large: Any,
    *,
    max_slack: float | None = None,
    on: Domain | str = None,
    radius: float | None = None,
    minimal: bool = False,
    dtype: str | None = None,
    budget: int = 10_000,
    **reading: Unpack[Reading],
) -> Verdict | GraphVerdict:
    """Replay a certificate for two networks (or files) in exact arithmetic; no search, no solver.

    Whoever made the certificate chose what it claims. Demands say what is needed: a certificate
    that claims less is rejected, however true it is. With any demand, the claim must be about the
    function of `large` itself, unless `radius` allows others.

    Args:
        max_slack: at most so much may outputs differ, before the output map: on the box demanded,
            else wherever the certificate holds. A slack that grows with the input is infinite on
            all inputs.
        on: "all" for all inputs, or a `Box` that the certificate's box must contain (a claim on all
            inputs does); None demands nothing.
        radius: how far the parameters that the claim is about may be from those of `large`; 0 where
            another demand is made.
        minimal: fewest units must be proved, see `Compression.optimal`.
        dtype: of runtimes ("float32", ...). Then `.computed` bounds how far outputs are apart as they
            compute them, on the box `on`, or on that of the certificate: slack, and the `rounding` of
            both, of whose search `budget` is. Of graphs it is of the files, operator by operator; of
            chains of their layers as they are read, before the output map.

    Returns:
        What is certified (`Verdict`).

    Raises:
        CertificateRejected: naming the move or the claim that fails, or the demand and what is
            claimed. ValueError: a demand that makes no sense.

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, 2.0]], [0.0])
    >>> small = mo.compress(net)
    >>> mo.check(small.certificate, small.network, net, max_slack=0.0, on="all", minimal=True).status
    'proved'
    >>> near = mo.compress(net, on=mo.Box(-1, 1))
    >>> try:
    ...     mo.check(near.certificate, near.network, net, on=mo.Box(-2, 2))
    ... except mo.CertificateRejected as error:
    ...     print(error)
    on=Box(-2, 2) is demanded, but at input 0 the certificate holds from -1.0 to 1.0 only
    """
    if not isinstance(certificate, (Certificate, GraphCertificate)):
        certificate = read_certificate(certificate)
    if isinstance(certificate, GraphCertificate):
        accepted = graph_results.check(
            certificate, *load_several([small, large], **reading), max_slack=max_slack, on=on,
            radius=radius, minimal=minimal,
        )  # fmt: skip
        if dtype is None:
            return accepted
        if not isinstance(on, Box) and accepted.proof.ranges:
            on = Box(dict(accepted.proof.ranges))
        computed = _computed(accepted, accepted.bound_there, on, dtype, budget)
        return replace(accepted, computed=computed)
    small, large = load_chains([small, large], **reading)
    demands = Demands.of(max_slack, on, radius, minimal, large.widths[0])
    verdict = Verdict("proved", *proved(certificate, small, large), demands)
    demands.require(verdict)
    if dtype is None:
        return verdict
    region = verdict.proof.region
    if not isinstance(on, Box) and region is not None:
        on = region.box
    if verdict.proof.near is not None:
        raise ArgumentError(
            Asked("dtype", dtype), ": the claim is about parameters near those of the large network"
        )
    box = on if isinstance(on, Box) else None
    there = replace(verdict, demands=demands._replace(on=box)).bound
    return replace(verdict, computed=_computed(verdict, there, on, dtype, budget))


def _computed(
    verdict: Verdict | GraphVerdict, slack: float, on: Any, dtype: str, budget: int
) -> AsComputed:
    """How far both are apart on a box as runtimes compute them."""
    if not isinstance(on, Box):
        raise _needs_box("dtype", dtype)
    small, large = (
        rounding(net, on=on, dtype=dtype, budget=budget) for net in (verdict.small, verdict.large)
    )
    return AsComputed(slack, small, large)
