"""Whether the function of a ReLU network in a box determines its parameters, up to the standard
symmetries.

One hidden layer: if and only if every unit has non-zero weights and a hyperplane that meets the
open box, no two share one, and no set S of units has sum_S v_i w_i^T = 0 (those could be turned
together: relu(t) = t + relu(-t)).

Two: `recovery.everything` lists all networks in general position (`forced_depth` says what that is)
with the same function, or says that it cannot; a second one that is no symmetric copy is a witness.

Any depth, sufficient in general position: with L hidden layers, let every unit j of layer l have a
trace at which a chain of at least L - l + 1 traces starts, on which (h_{l-1}, 1) has rank n_{l-1};
let every change of orientations in layer l be refuted by such a trace of layer l + 1, on which the
features built with it and 1 have full rank; let no set of units of the last hidden layer be turned
together. Then layer by layer, any network of the same widths in general position with the same
function has the same hyperplanes, then the same orientations, then the same weights.

`docs/identifiability.md` has the proofs. Ranks are taken modulo a prime, where they are never above
the true ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from itertools import chain, product
from typing import Any, NamedTuple

import numpy as np

from moduli.common import modular
from moduli.kernel.box import Box
from moduli.kernel.errors import Undecided
from moduli.kernel.network import Network

from .cells_exact import Point
from .equivalent_parameters import exact_layers, over
from .forced_depth import Traces, inside, meetings, ridges, traces
from .layer_peeling import values as values_at
from .output_layer import MOST, Affine, OutputLayer, Unit, turns
from .polyhedral_complex import Pieces
from .rational_rows import outer as tensor
from .rational_rows import rationals
from .recovery import everything, standard

PRIME = modular.PRIMES[0]
WIDEST = 12  # units in a layer of which all orientations are refuted
Values = dict[
    Point, list[list[Fraction]]
]  # at each vertex, the pre-activations of each hidden layer


class Verdict(NamedTuple):
    """Identifiable, not, or undecided; why; and another network with the same function, where one
    was found.
    """

    value: bool | None
    reason: str
    other: tuple[Affine, ...] | None = None


def shallow_identifiability(net: Network, box: Box) -> Verdict:
    """One hidden layer, decided: whether every network of these widths with the same function in
    the box is a symmetric copy.

    Any number of inputs.

    Raises:
        ValueError: another number of layers, another activation.
    """
    _accept(net)
    if len(net.layers) != 2:
        raise ValueError(f"{net}: decided for one hidden layer only; ask in general position")
    box, (rows, biases) = box.of_dimension(net.widths[0]), exact_layers(net)[0]
    seen: dict[tuple[Fraction, ...], int] = {}
    for k, (row, bias) in enumerate(zip(rows, biases, strict=True)):
        low, high = over(row, bias, box)
        if not any(row) or not net.layers[1].weight[:, k].any() or not low < 0 < high:
            return Verdict(False, f"unit {k} has no crease in the box")
        lead = next(w for w in row if w)
        plane = tuple(v / lead for v in (*row, bias))
        if plane in seen:
            return Verdict(False, f"units {seen[plane]} and {k} share a hyperplane")
        seen[plane] = k
    return _turned(net, "every network of these widths")


def generic_identifiability(pieces: Pieces, budget: int = 2_000) -> Verdict:
    """Whether every network of these widths, in general position, with the same function in the box
    is a symmetric copy.

    One hidden layer is decided among all networks. False comes with a network that is no symmetric
    copy, where it was found by enumeration (`budget` linear systems at most), or names units that
    can be turned together.

    Raises:
        ValueError: another activation, a slice.
    """
    _accept(pieces.network, pieces)
    if len(pieces.network.layers) == 2:
        return shallow_identifiability(pieces.network, pieces.box)
    if len(pieces.network.layers) == 3:
        found = _listed(pieces, budget)
        if found.value is not None:
            return found
    return chained(pieces)


def _listed(pieces: Pieces, budget: int) -> Verdict:
    """Two hidden layers: by all networks in general position with the same function."""
    try:
        forms = everything(pieces, pieces.network.widths, budget)
    except Undecided as stop:
        return Verdict(None, str(stop))
    own = standard(exact_layers(pieces.network))
    others = [form for form in forms if form != own]
    if len(others) == len(forms) or any(_ties(form) for form in forms):
        return Verdict(None, "the parameters are not in general position")
    if others:
        return Verdict(
            False, "another network, no symmetric copy, has the same function", others[0]
        )
    return Verdict(
        True,
        "every network of these widths in general position with the same function is a symmetric copy",
    )


def _ties(layers: Sequence[Affine]) -> bool:
    """Whether two units of a layer read the same: sorting them is no normal form."""
    for weights, biases in layers[:-1]:
        reads = {(*row, b) for row, b in zip(weights, biases, strict=True)}
        if len(reads) < len(biases):
            return True
    return False


def chained(pieces: Pieces) -> Verdict:
    """The sufficient condition for any depth: True, False (units of the last hidden layer can be
    turned together) or None.
    """
    _accept(pieces.network, pieces)
    found, values = traces(pieces), _values(pieces)
    named = _owners(pieces, found, values)
    if named is None:
        return Verdict(None, "the parameters are not in general position")
    widths = pieces.network.widths
    depth = len(widths) - 2
    at = 0
    for l in range(depth):
        above = list[list[Point]]()
        for j in range(widths[l + 1]):
            own = [
                t
                for t, unit in enumerate(named)
                if unit == at + j and len(found.after[t]) >= depth - l
            ]
            places = [sorted(set(_points(found, t))) for t in own]
            if not any(_rank(_features(values, place, l, None)) == widths[l] for place in places):
                why = "of full rank" if places else f"that starts a chain of {depth - l}"
                return Verdict(None, f"unit {j} of layer {l + 1} has no trace {why}")
            above += places
        if l:
            free = _unrefuted(values, above, l, widths[l])
            if free is not None:
                return Verdict(None, f"layer {l}: {free}")
        at += widths[l + 1]
    return _turned(pieces.network, "every network of these widths in general position")


def _accept(net: Network, pieces: Pieces | None = None) -> None:
    if pieces is not None and pieces.slice is not None:
        raise ValueError(
            "a slice: parameters are identified by the function of all inputs, not of some directions"
        )
    if any(str(act) != "relu" for act in net.activations) or len(net.layers) < 2:
        raise ValueError(
            f"{net}: identifiability is decided for relu and at least one hidden layer"
        )


def _values(pieces: Pieces) -> Values:
    """Pre-activations at all vertices, exactly."""
    layers = exact_layers(pieces.network)[:-1]
    vertices = {p for cell in pieces.complex for p in cell.points}
    return {p: values_at(layers, p) for p in vertices}


def _owners(pieces: Pieces, found: Traces, values: Values) -> list[int] | None:
    """The unit on each trace; None if the parameters are not in general position (outside the
    excepted faces).
    """
    zero: dict[Point, frozenset[int]] = {}  # the units that vanish at each vertex
    for p, layers in values.items():
        zero[p] = frozenset(k for k, v in enumerate(chain(*layers)) if v == 0)

    def on(points: Sequence[Point]) -> frozenset[int]:
        return reduce(frozenset.intersection, (zero[p] for p in points))

    if not found.possible or any(on(cell.points) for cell in pieces.complex):
        return None
    facets = list(meetings(pieces))
    faces = {ridge for points in facets for ridge in ridges(points)} - set(found.excepted)
    if any(len(on(points)) > 1 for points in facets) or any(
        len(on(r)) > 2 for r in faces if inside(pieces, r)
    ):
        return None
    owners = [on(_points(found, t)) for t in range(found.count)]
    assert all(len(units) == 1 for units in owners), "a trace lies in one unit"
    return [next(iter(units)) for units in owners]


def _points(found: Traces, trace: int) -> list[Point]:
    return [p for crease in found.of(trace) for p in crease.points]


def _features(
    values: Values, points: Sequence[Point], layer: int, signs: Sequence[int] | None
) -> Any:
    """What layer `layer` + 1 reads at points, and 1, modulo the prime; `signs` are orientations of
    the units below.
    """
    rows = []
    for p in points:
        h = list(p) if not layer else values[p][layer - 1]
        if layer:
            h = [max(s * v, Fraction(0)) for s, v in zip(signs or [1] * len(h), h, strict=True)]
        rows.append([*(modular.residue(v, PRIME) for v in h), 1])
    return np.array(rows, dtype=np.float64)


def _rank(matrix: Any) -> int:
    return modular.rank(matrix, PRIME)


def _unrefuted(values: Values, places: list[list[Point]], layer: int, width: int) -> str | None:
    """What is left open about the orientations of a layer, given traces of the next."""
    if width > WIDEST:
        return f"more than {WIDEST} units, too many orientations to refute"
    for signs in product((1, -1), repeat=width):
        if min(signs) < 0 and all(
            _rank(_features(values, place, layer, signs)) <= width for place in places
        ):
            return f"units {[k for k, s in enumerate(signs) if s < 0]} might be turned"
    return None


def _turned(net: Network, whom: str) -> Verdict:
    """The last condition: no set of units of the last hidden layer with sum v_i w_i^T = 0."""
    inner, outer = net.layers[-2:]
    if not len(inner.bias):
        return Verdict(True, f"{whom} with the same function is a symmetric copy")
    rows, columns = rationals(inner.weight.tolist()), rationals(outer.weight.T.tolist())
    residues = []
    for v, w in zip(columns, rows, strict=True):
        residues.append([modular.residue(x, PRIME) for x in tensor(v, w)])
    # Full rank modulo a prime is full rank: no combination of the tensors vanishes, least of all a
    # sum.
    if _rank(np.array(residues, dtype=np.float64)) == len(rows):
        return Verdict(True, f"{whom} with the same function is a symmetric copy")
    if len(rows) > 2 * MOST:
        return Verdict(None, f"{len(rows)} units in the last hidden layer, too many subsets to try")
    nothing = [[Fraction(0)] * len(rows[0]) for _ in columns[0]]
    units = [Unit(tuple(column), 1, frozenset()) for column in columns]
    for pick in turns(units, OutputLayer(rows, [], nothing, [], True)):
        if any(pick):
            chosen = [k for k, p in enumerate(pick) if p]
            return Verdict(False, f"units {chosen} of the last hidden layer can be turned together")
    return Verdict(True, f"{whom} with the same function is a symmetric copy")


def trace_ranks(pieces: Pieces) -> list[int]:
    """Of each hidden unit (l, j): the rank of (h_{l-1}, 1) over the visible facets on which it
    alone vanishes, 0 without any.

    If all equal the widths n_{l-1}, the parameters are locally identifiable. Take points in these
    facets: for parameters close by only the same unit can vanish near them, and the function still
    bends, so its pre-activation vanishes on the same pieces. Layer by layer the features agree up
    to scale, and the incoming row of the unit is the one annihilator of the points. Ranks modulo a
    prime: never above the true ones, so a yes is a proof.
    """
    values, seen = (
        _values(pieces),
        {frozenset(f.cells): f.units for f in pieces.facets if f.visible and len(f.units) == 1},
    )
    places: dict[int, set[Point]] = {}
    for points, pair in meetings(pieces).items():
        for unit in seen.get(frozenset(pair), ()):
            places.setdefault(unit, set()).update(points)
    layers = [l for l, n in enumerate(pieces.network.widths[1:-1]) for _ in range(n)]
    return [
        _rank(_features(values, sorted(places[k]), l, None)) if k in places else 0
        for k, l in enumerate(layers)
    ]
