"""Other parameters with the same function in a box, by mechanism: what makes a network not
identifiable.

Each mechanism proposes rational parameters; none is believed. A proposal is a witness if it
computes the same function on a box (`recovery.same_function`, or for one hidden layer
`shallow_function`) and is no copy under permutations and positive scaling (`distinct`), both
decided in rational arithmetic.

| mechanism | proposal |
|---|---|
| unit off, or heard nowhere | its outgoing weights are changed |
| unit linear wherever it is heard | its bias grows, the next biases take it back |
| units that bend nowhere apart | one reads a multiple of the other's row, the other's column takes it back |
| units that can be turned together (sum v_i w_i^T = 0) | relu(t) = t + relu(-t) on all of them |
| weight that no cell exercises | it is changed |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.box import Box
from moduli.kernel.errors import Undecided
from moduli.kernel.network import Network

from .cells_exact import Form
from .functional_dimension import exercised
from .layer_peeling import integral
from .output_layer import MOST, Affine, OutputLayer, Unit, turns
from .polyhedral_complex import Pieces
from .rational_rows import column, columns, outer, plus, rationals, times
from .recovery import primitive, same_function

STEPS = tuple(sign * Fraction(1, 2**k) for k in (0, 4, 10, 20) for sign in (1, -1))
Layers = Sequence[Affine]


class Equivalent(NamedTuple):
    """Other parameters with the same function, and the mechanism that made them."""

    layers: tuple[Affine, ...]
    mechanism: str


def exact_layers(net: Network) -> list[Affine]:
    """Weights and biases as rationals."""
    return [
        (rationals(x.weight.tolist()), list(map(Fraction, x.bias.tolist()))) for x in net.layers
    ]


def witness(pieces: Pieces, budget: int, *, turned: bool = False) -> Equivalent | None:
    """The first proposal (with `turned`, of units turned together) that is the same function and no
    symmetric copy.

    At most `budget` are compared exactly.
    """
    own, tried = exact_layers(pieces.network), 0
    points = np.concatenate(
        [pieces.vertices, np.array([pieces.vertices[c].mean(axis=0) for c in pieces.corners])]
    )
    x = points @ pieces.start[:, :-1].T + pieces.start[:, -1]
    values = pieces.network.logits(x)
    sets = (
        ("units turned together", layers) for l in range(len(own) - 1) for layers in _turned(own, l)
    )
    for mechanism, layers in sets if turned else proposals(pieces):
        if not distinct(own, layers) or not _close(layers, x, values):
            continue
        tried += 1
        if tried > budget:
            return None
        if same_function(pieces, layers):
            return Equivalent(tuple(layers), mechanism)
    return None


def shallow_witness(net: Network, box: Box) -> Equivalent | None:
    """The same for one hidden layer and any number of inputs."""
    own, box = exact_layers(net), box.of_dimension(net.widths[0])
    wanted = shallow_function(own, box)
    for mechanism, layers in _shallow_proposals(own, box):
        if distinct(own, layers) and shallow_function(layers, box) == wanted:
            return Equivalent(tuple(layers), mechanism)
    return None


def _close(layers: Layers, x: Any, values: Any) -> bool:
    """Whether floats do not refute that the function is the same."""
    h = x
    for k, (weights, biases) in enumerate(layers):
        h = h @ np.array(weights, dtype=np.float64).reshape(len(biases), h.shape[1]).T + np.array(
            biases, dtype=np.float64
        )
        h = np.maximum(h, 0) if k < len(layers) - 1 else h
    return bool((np.abs(h - values) <= 1e-7 * (1 + np.abs(values))).all())


# Proposals ------------------------------------------------------------------------------------------------------


def _copy(layers: Layers) -> list[Affine]:
    return [(list(map(list, weights)), list(biases)) for weights, biases in layers]


def proposals(pieces: Pieces) -> Iterator[tuple[str, list[Affine]]]:
    """Parameters that may compute the same function, most promising first."""
    own = exact_layers(pieces.network)
    seen, heard, gates = exercised(pieces)
    for l in range(len(own) - 1):
        speaks = heard[l] & (gates[l] != 0)
        for i in range(len(own[l][1])):
            if not speaks[:, i].any():
                on = gates[l][:, i].any()
                why = "unit hidden by the layers behind it" if on else "unit off in the box"
                for layers in _louder(own, l, i):
                    yield why, layers
    for l in range(len(own) - 1):
        for layers in _turned(own, l):
            yield "units turned together", layers
    for l in range(len(own) - 1):
        yield from _linear(own, l, heard[l], gates[l])
    yield from _unexercised(own, seen)


def _louder(own: Layers, l: int, unit: int) -> Iterator[list[Affine]]:
    """Other outgoing weights of a unit; where it has none, another bias."""
    if any(column(own[l + 1][0], unit)):
        for factor in (Fraction(2), Fraction(1, 2), Fraction(0)):
            found = _copy(own)
            for row in found[l + 1][0]:
                row[unit] *= factor
            yield found
        return
    found = _copy(own)
    found[l][1][unit] += 1
    yield found
    for sign in (1, -1):
        found = _copy(own)
        for row in found[l + 1][0]:
            row[unit] = Fraction(sign)
        yield found


def _turned(own: Layers, l: int) -> Iterator[list[Affine]]:
    """Sets of units of a layer with sum v_i w_i^T = 0: all of them, for up to 2 MOST units,
    otherwise pairs.
    """
    rows, biases = own[l]
    outgoing = columns(own[l + 1][0], len(rows))
    live = [i for i in range(len(rows)) if any(rows[i]) and any(outgoing[i])]
    for chosen in _cancelling([rows[i] for i in live], [tuple(outgoing[i]) for i in live]):
        # relu(t) = relu(-t) + t: what turned units lose is linear and cancels, but for their
        # biases.
        found = _copy(own)
        for k in chosen:
            i = live[k]
            found[l][0][i] = times(-1, rows[i])
            found[l][1][i] = -biases[i]
            for o, v in enumerate(outgoing[i]):
                found[l + 1][1][o] += v * biases[i]
        yield found


def _cancelling(
    rows: list[list[Fraction]], outgoing: list[tuple[Fraction, ...]]
) -> Iterator[tuple[int, ...]]:
    if not rows:
        return
    if len(rows) <= 2 * MOST - 8:
        nothing = [[Fraction(0)] * len(rows[0]) for _ in outgoing[0]]
        try:
            for pick in turns(
                [Unit(v, 1, frozenset()) for v in outgoing],
                OutputLayer(rows, [], nothing, [], True),
            ):
                if any(pick):
                    yield tuple(k for k, p in enumerate(pick) if p)
        except Undecided:
            return
        return
    tensors = [outer(sent, row) for row, sent in zip(rows, outgoing, strict=True)]
    for a, b in combinations(range(len(rows)), 2):
        if not any(plus(tensors[a], 1, tensors[b])):
            yield a, b


def _linear(own: Layers, l: int, heard: Any, gates: Any) -> Iterator[tuple[str, list[Affine]]]:
    """Units with one slope wherever they are heard: shifted, or mixed with units that have the same
    slope there.
    """
    for i in range(gates.shape[1]):
        slopes = np.unique(gates[heard[:, i], i])
        if len(slopes) == 1 and slopes[0]:
            for step in STEPS:
                found = _copy(own)
                found[l][1][i] += step
                for o, row in enumerate(own[l + 1][0]):
                    found[l + 1][1][o] -= step * Fraction(float(slopes[0])) * row[i]
                yield "unit linear where it is heard, shifted", found
        if not (heard[:, i] & (gates[:, i] != 0)).any():
            continue
        for k in range(gates.shape[1]):
            if k != i and (gates[heard[:, i], i] == gates[heard[:, i], k]).all():
                for step in STEPS[:6]:
                    found = _copy(own)
                    found[l][0][i] = [
                        a + step * b for a, b in zip(own[l][0][i], own[l][0][k], strict=True)
                    ]
                    found[l][1][i] += step * own[l][1][k]
                    for row, old in zip(found[l + 1][0], own[l + 1][0], strict=True):
                        row[k] -= step * old[i]
                    yield "units that bend nowhere apart, mixed", found


def _unexercised(own: Layers, seen: list[Any]) -> Iterator[tuple[str, list[Affine]]]:
    for l, table in enumerate(seen):
        for i, j in np.argwhere(~table).tolist():
            for step in (STEPS[1], STEPS[0], *STEPS[2:]):
                found = _copy(own)
                if j == len(own[l][0][i]):
                    found[l][1][i] += step
                else:
                    found[l][0][i][j] += step
                yield "weight that no cell exercises", found


# One hidden layer -----------------------------------------------------------------------------------------------


def over(row: Sequence[Fraction], offset: Fraction, box: Box) -> tuple[Fraction, Fraction]:
    """Least and largest value of an affine form on a box."""
    sides = zip(map(Fraction, box.low.tolist()), map(Fraction, box.high.tolist()), strict=True)
    ends = [(w * low, w * high) for w, (low, high) in zip(row, sides, strict=True)]
    return offset + sum((min(e) for e in ends), Fraction(0)), offset + sum(
        (max(e) for e in ends), Fraction(0)
    )


def shallow_function(
    layers: Layers, box: Box
) -> tuple[dict[Form, tuple[Fraction, ...]], list[list[Fraction]]]:
    """A complete invariant of a network of one hidden layer on a box: the jump at each hyperplane
    that meets its interior, and what is left, affine, with the offset last.

    With y = n.x + c, first non-zero entry of n 1: relu(s y) = s relu(y) for s > 0, |s| (relu(y) -
    y) for s < 0.
    """
    (rows, biases), (outer, ends) = layers
    jumps: dict[Form, tuple[Fraction, ...]] = {}
    rest = [[Fraction(0)] * len(box.low) + [end] for end in ends]
    for i, (row, bias) in enumerate(zip(rows, biases, strict=True)):
        low, high = over(row, bias, box)
        column = [out[i] for out in outer]
        if high <= 0:
            continue
        share = Fraction(1)
        if low < 0:
            s = next(w for w in row if w)
            plane = tuple(w / s for w in row), bias / s
            old = jumps.get(plane, (Fraction(0),) * len(column))
            jumps[plane] = tuple(j + v * abs(s) for j, v in zip(old, column, strict=True))
            share = Fraction(int(s < 0))
        for total, v in zip(rest, column, strict=True):
            for k, w in enumerate((*row, bias)):
                total[k] += share * v * w
    return {plane: jump for plane, jump in jumps.items() if any(jump)}, rest


def _shallow_proposals(own: list[Affine], box: Box) -> Iterator[tuple[str, list[Affine]]]:
    rows, biases = own[0]
    ranges = [over(row, b, box) for row, b in zip(rows, biases, strict=True)]
    for i, (low, high) in enumerate(ranges):
        column = [row[i] for row in own[1][0]]
        if high <= 0 or not any(column):
            yield from (
                ("unit off in the box" if any(column) else "unit that says nothing", x)
                for x in _louder(own, 0, i)
            )
        elif low >= 0:
            found = _copy(own)
            found[0][1][i] += 1
            for o, v in enumerate(column):
                found[1][1][o] -= v
            yield "unit always on, shifted", found
    planes: dict[tuple[Fraction, ...], int] = {}
    for i, (row, b) in enumerate(zip(rows, biases, strict=True)):
        if any(row):
            key = tuple(integral([*row, b]))
            turned = tuple(-v for v in key)
            if key in planes:
                for part in (Fraction(1, 2), Fraction(1, 3)):
                    yield (
                        "units on one hyperplane, shared otherwise",
                        _shifted_share(own, planes[key], i, part),
                    )
            elif turned in planes:
                yield from (
                    ("units on one hyperplane, turned", x)
                    for x in _two_sided(own, planes[turned], i, box)
                )
            planes.setdefault(key, i)
    yield from (("units turned together", layers) for layers in _turned(own, 0))


def _shifted_share(own: list[Affine], a: int, b: int, part: Fraction) -> list[Affine]:
    """Unit b takes over a part of what a says (or a of what b says), both on the same side of one
    hyperplane.
    """
    found = _copy(own)
    at = next(k for k, w in enumerate(own[0][0][a]) if w)
    ratio = own[0][0][b][at] / own[0][0][a][at]
    for row in found[1][0]:
        share = row[a] * part if row[a] else -row[b] * ratio * part
        row[a], row[b] = row[a] - share, row[b] + share / ratio
    return found


def _two_sided(own: list[Affine], a: int, b: int, box: Box) -> Iterator[list[Affine]]:
    """On two sides of one hyperplane: v relu(z) + u relu(-r z) = (v + r u) relu(z) - r u z, the
    last by a unit always on.
    """
    found = _copy(own)
    row, bias = own[0][0][a], own[0][1][a]
    at = next(k for k, w in enumerate(row) if w)
    ratio = -own[0][0][b][at] / row[at]
    shift = max(Fraction(0), -over(row, bias, box)[0]) + 1
    found[0][0][b], found[0][1][b] = list(row), bias + shift
    for o, out in enumerate(own[1][0]):
        found[1][0][o][a] = out[a] + ratio * out[b]
        found[1][0][o][b] = -ratio * out[b]
        found[1][1][o] += ratio * out[b] * shift
    yield found


# Copies ---------------------------------------------------------------------------------------------------------


def distinct(a: Layers, b: Layers) -> bool:
    """Whether two parameters are proved to be no copies under permutations and positive scaling."""
    one, two = _ordered(a), _ordered(b)
    return one is not None and two is not None and one != two


def _ordered(layers: Layers) -> tuple[Affine, ...] | None:
    """A normal form: primitive rows, units of each layer sorted by them; None where ties are not
    settled by what they send.
    """
    found = [(list(weights), list(biases)) for weights, biases in primitive(layers)]
    for l in range(len(found) - 1):
        weights, biases = found[l]
        above, ends = found[l + 1]
        sent = columns(above, len(biases))
        for k, (row, b) in enumerate(zip(weights, biases, strict=True)):
            if not any(row) and not b:  # a unit that is 0: its weights may be scaled as one likes
                sent[k] = integral(sent[k])
        keys = [
            (row, b, sorted(values)) for row, b, values in zip(weights, biases, sent, strict=True)
        ]
        order = sorted(range(len(keys)), key=lambda k: keys[k])
        if any(keys[p] == keys[q] and sent[p] != sent[q] for p, q in pairwise(order)):
            return None
        found[l] = [weights[k] for k in order], [biases[k] for k in order]
        found[l + 1] = columns([sent[k] for k in order], len(above)), ends
    return tuple(found)
