"""Proofs for the verified checker as data: read and written by code that shares nothing with
`moduli.formats.proof_text`, changed by moves that check nothing, and judged by an oracle.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import mpmath
import numpy as np

import moduli as mo
from moduli.kernel.activations import Activation
from moduli.kernel.certificate import Certificate

Row = tuple[list[Fraction], Fraction]  # weights and bias
Layer = tuple[str, list[Row]]  # the name of the activation, and a row for each unit


class Link(NamedTuple):
    """Another layer at a place (None: it goes) and other rows of the one behind."""

    place: int
    units: Layer | None
    behind: list[Row]


@dataclass
class Proof:
    """What a text holds."""

    output_map: str
    inputs: int
    constant: Fraction
    growth: Fraction
    large: list[Layer]
    small: list[Layer]
    large_links: list[Link] = field(default_factory=list)
    small_links: list[Link] = field(default_factory=list)
    domain: list[tuple[Fraction, Fraction]] = field(default_factory=list)
    cuts: list[tuple[int, Fraction] | None] = field(default_factory=lambda: [None])
    fewest: bool = False  # units are claimed to be


# Reading and writing --------------------------------------------------------------------------------------------


class _Words:
    def __init__(self, text: str) -> None:
        self.words = text.split()
        self.rest = iter(self.words)
        self.taken = 0

    def take(self, wanted: str | None = None) -> str:
        found = next(self.rest)
        self.taken += 1
        assert wanted is None or found == wanted, f"{found}, not {wanted}"
        return found

    def maybe(self, wanted: str) -> bool:
        there = self.words[self.taken] == wanted
        if there:
            self.take()
        return there

    def count(self) -> int:
        return int(self.take())

    def fraction(self) -> Fraction:
        return Fraction(int(self.take(), 16), int(self.take(), 16))

    def rows(self) -> list[Row]:
        self.take("rows")
        height, width = self.count(), self.count()
        below, below_bias = int(self.take(), 16), int(self.take(), 16)
        found = []
        for _ in range(height):
            bias = Fraction(int(self.take(), 16), below_bias)
            found.append(([Fraction(int(self.take(), 16), below) for _ in range(width)], bias))
        return found

    def layer(self) -> Layer:
        self.take("layer")
        return self.take(), self.rows()

    def cuts(self) -> list[tuple[int, Fraction] | None]:
        """In preorder; None for a part that is not cut."""
        self.take("cuts")
        found: list[tuple[int, Fraction] | None] = []
        while 2 * found.count(None) <= len(found):
            whole = self.take() == "whole"
            found.append(None if whole else (self.count(), self.fraction()))
        return found

    def link(self) -> Link:
        kind, place = self.take(), self.count()
        return Link(place, self.layer() if kind == "replace" else None, self.rows())

    def named(self, name: str, one: Any) -> list[Any]:
        self.take(name)
        return [one() for _ in range(self.count())]


def read(text: bytes) -> Proof:
    words = _Words(text.decode("ascii"))
    assert (words.take(), words.take()) == ("moduli-proof", "1")
    words.take("output-map")
    output_map = words.take()
    words.take("inputs")
    inputs = words.count()
    domain = words.named("domain", lambda: (words.fraction(), words.fraction()))
    cuts = words.cuts()
    words.take("constant")
    constant = words.fraction()
    words.take("growth")
    growth = words.fraction()
    fewest = words.maybe("fewest")
    nets = [words.named(name, words.layer) for name in ("large", "small")]
    links = [words.named(f"{name}-links", words.link) for name in ("large", "small")]
    words.take("end")
    assert next(words.rest, None) is None
    return Proof(output_map, inputs, constant, growth, *nets, *links, domain, cuts, fewest)


def _rational(q: Fraction) -> str:
    return f"{q.numerator:x} {q.denominator:x}"


def _rows(rows: list[Row]) -> list[str]:
    width = len(rows[0][0]) if rows else 0
    below = math.lcm(*(q.denominator for weights, _ in rows for q in weights))
    below_bias = math.lcm(*(bias.denominator for _, bias in rows))
    lines = [f"rows {len(rows)} {width} {below:x} {below_bias:x}"]
    for weights, bias in rows:
        lines.append(f"{int(bias * below_bias):x}")
        lines.append(" ".join(f"{int(q * below):x}" for q in weights))
    return lines


def _layer(layer: Layer) -> list[str]:
    return [f"layer {layer[0]}", *_rows(layer[1])]


def written(proof: Proof) -> bytes:
    lines = ["moduli-proof 1", f"output-map {proof.output_map}", f"inputs {proof.inputs}"]
    lines += [f"domain {len(proof.domain)}"]
    lines += [f"{_rational(low)} {_rational(high)}" for low, high in proof.domain]
    lines += [
        "cuts",
        *("whole" if c is None else f"halves {c[0]} {_rational(c[1])}" for c in proof.cuts),
    ]
    lines += [f"constant {_rational(proof.constant)}", f"growth {_rational(proof.growth)}"]
    lines += ["fewest"] if proof.fewest else []
    for name, net in (("large", proof.large), ("small", proof.small)):
        lines.append(f"{name} {len(net)}")
        for layer in net:
            lines += _layer(layer)
    for name, links in (("large", proof.large_links), ("small", proof.small_links)):
        lines.append(f"{name}-links {len(links)}")
        for place, units, behind in links:
            lines.append(f"{'skip' if units is None else 'replace'} {place}")
            lines += [] if units is None else _layer(units)
            lines += _rows(behind)
    return "\n".join([*lines, "end", ""]).encode("ascii")


# Networks -------------------------------------------------------------------------------------------------------


def exact(net: mo.Network) -> list[Layer]:
    """A network in rationals."""
    found = []
    for layer in net.layers:
        weights, biases = layer.weight.tolist(), layer.bias.tolist()
        rows = [
            (list(map(Fraction, row)), Fraction(b)) for row, b in zip(weights, biases, strict=True)
        ]
        found.append((str(layer.activation), rows))
    return found


def linked(net: list[Layer], link: Link) -> list[Layer]:
    """The network after a link."""
    place, units, behind = link
    new = [] if units is None else [units]
    return [*net[:place], *new, (net[place + 1][0], behind), *net[place + 2 :]]


def rank(net: list[Layer]) -> int:
    """How many units of tanh or sigmoids the function of a network of one hidden layer needs: rows up
    to sign whose columns have another sum than zero.
    """
    (name, rows), (_, behind) = net
    assert name in ("tanh", "sigmoid")
    sums = dict[tuple[Fraction, ...], list[Fraction]]()
    for u, (weights, bias) in enumerate(rows):
        first = next((q for q in weights if q), Fraction(0))
        sign = (first > 0) - (first < 0)
        if sign:
            key = tuple(sign * q for q in (*weights, bias))
            column = [sign * ends[u] for ends, _ in behind]
            sums[key] = [
                p + q
                for p, q in zip(sums.get(key, [Fraction(0)] * len(column)), column, strict=True)
            ]
    return sum(any(column) for column in sums.values())


def for_oracle(net: list[Layer]) -> Any:
    """As `forgeries.outputs` takes it."""
    return [
        ([weights for weights, _ in rows], [bias for _, bias in rows], Activation.of(name))
        for name, rows in net
    ]


# Moves without any check ----------------------------------------------------------------------------------------


def _law(name: str, ratio: Fraction) -> tuple[Fraction, Fraction, Fraction]:
    """(a, k, g) of s(ratio z) = a s(z) + k z + g as a forger would have it: of every activation."""
    own = Activation.of(name)
    found = own.under(ratio)
    if found is None:
        sign, slope, offset = own.reflection or (Fraction(1), Fraction(0), Fraction(0))
        turned = (sign, slope, offset) if ratio < 0 else (Fraction(1), Fraction(0), Fraction(0))
        found = abs(ratio) * turned[0], abs(ratio) * turned[1], turned[2]
    return found


class Forger:
    """Does what moves say, whether they hold or not. Units keep their names."""

    def __init__(self, net: mo.Network) -> None:
        self.names = [list(range(n)) for n in net.widths]
        self.layers = []
        for name, rows in exact(net):
            weights = {(i, j): q for i, row in enumerate(rows) for j, q in enumerate(row[0])}
            self.layers.append((name, weights, {i: row[1] for i, row in enumerate(rows)}))

    def rows(self, l: int) -> list[Row]:
        _, weights, biases = self.layers[l - 1]
        before, own = self.names[l - 1], self.names[l]
        return [([weights[i, j] for j in before], biases[i]) for i in own]

    def net(self) -> list[Layer]:
        return [(self.layers[l - 1][0], self.rows(l)) for l in range(1, len(self.layers) + 1)]

    def link(self, move: Any) -> Link:
        """The move, done."""
        l, units = move.layer, move.units.tolist()
        into = [] if move.into is None else move.into.tolist()
        getattr(self, f"_{move.kind}")(l, units, into, move)
        if move.kind == "skip":
            return Link(l - 1, None, self.rows(l))
        return Link(l - 1, (self.layers[l - 1][0], self.rows(l)), self.rows(l + 1))

    def _remove(self, l: int, units: list[int]) -> None:
        self.names[l] = [u for u in self.names[l] if u not in units]

    def _drop(self, l: int, units: list[int], into: list[int], move: Any) -> None:
        self._remove(l, units)

    _inactive = _drop

    def _constant(self, l: int, units: list[int], into: list[int], move: Any) -> None:
        name, _, biases = self.layers[l - 1]
        own = Activation.of(name)
        for u in units:
            value = own.exact(biases[u])
            near = Fraction(float(own(np.array([float(biases[u])]))[0]))
            self._shift(l, u, near if value is None else value)
        self._remove(l, units)

    def _shift(self, l: int, unit: int, by: Fraction) -> None:
        """Add outgoing * by to the biases behind."""
        _, weights, biases = self.layers[l]
        for i in self.names[l + 1]:
            biases[i] += weights[i, unit] * by

    def _merge(self, l: int, units: list[int], into: list[int], move: Any) -> None:
        a, k, g = _law(self.layers[l - 1][0], move.ratio)
        behind, biases = self.layers[l][1], self.layers[l - 1][2]
        for u, v in zip(units, into, strict=True):
            self._shift(l, u, k * biases[v] + g)
            for i in self.names[l + 1]:
                behind[i, v] += a * behind[i, u]
        self._remove(l, units)

    def _scale(self, l: int, units: list[int], into: list[int], move: Any) -> None:
        a, k, g = _law(self.layers[l - 1][0], 1 / move.ratio)
        _, weights, biases = self.layers[l - 1]
        behind = self.layers[l][1]
        for u in units:
            for j in self.names[l - 1]:
                weights[u, j] *= move.ratio
            biases[u] *= move.ratio
            self._shift(l, u, k * biases[u] + g)
            for i in self.names[l + 1]:
                behind[i, u] *= a

    def _tanh(self, l: int, units: list[int], into: list[int], move: Any) -> None:
        half = Fraction(1, 2)
        _, weights, biases = self.layers[l - 1]
        behind = self.layers[l][1]
        for u in units:
            self._shift(l, u, half)
            biases[u] *= half
            for j in self.names[l - 1]:
                weights[u, j] *= half
            for i in self.names[l + 1]:
                behind[i, u] *= half
        self.layers[l - 1] = ("tanh", weights, biases)

    def _permute(self, l: int, units: list[int], into: list[int], move: Any) -> None:
        self.names[l] = list(units)

    def _skip(self, l: int, units: list[int], into: list[int], move: Any) -> None:
        """As if every unit were linear with the mean of both slopes, or the identity."""
        name, weights, biases = self.layers[l - 1]
        behind_name, behind, ends = self.layers[l]
        law = Activation.of(name).reflection
        c = -law[1] / 2 if law is not None and law[0] == 1 else Fraction(1)
        product = {
            (i, j): c * sum((behind[i, u] * weights[u, j] for u in units), Fraction(0))
            for i in self.names[l + 1]
            for j in self.names[l - 1]
        }
        shifted = {
            i: ends[i] + c * sum((behind[i, u] * biases[u] for u in units), Fraction(0))
            for i in self.names[l + 1]
        }
        self.layers[l - 1 : l + 1] = [(behind_name, product, shifted)]
        del self.names[l]

    def _block(self, l: int, units: list[int], into: list[int], move: Any) -> None:
        """The constant of the linear parts is made equal, with the mean of both slopes."""
        name, weights, biases = self.layers[l - 1]
        behind = self.layers[l][1]
        law = Activation.of(name).reflection
        c = -law[1] / 2 if law is not None and law[0] == 1 else Fraction(0)
        for u in units:
            self._shift(l, u, c * biases[u])
        self._remove(l, [u for u in units if u not in into])
        for v, row, column in zip(into, move.rows, move.outgoing, strict=True):
            if row is not None:
                weights.update(zip([(v, j) for j in self.names[l - 1]], row[:-1], strict=True))
                biases[v] = row[-1]
            behind.update(zip([(i, v) for i in self.names[l + 1]], column, strict=True))
            self._shift(l, v, -c * biases[v])


# Networks on a box ----------------------------------------------------------------------------------------------


def boxed(seed: int) -> tuple[mo.Network, mo.Network, Certificate]:
    """A network of two hidden layers, and what it is on the box from -1 to 1."""
    rng = np.random.default_rng(seed)
    net = mo.Network.mlp(
        rng.integers(-8, 9, (4, 2)) / 4, rng.integers(-8, 9, 4) / 4,
        rng.integers(-8, 9, (4, 4)) / 4, rng.integers(-40, 9, 4) / 4, [[1, 2, -1, 3]], [0],
        activation="relu",
    )  # fmt: skip
    small = mo.compress(net, on=mo.Box(-1, 1))
    return net, small.network, small.certificate


# Truth ----------------------------------------------------------------------------------------------------------


def is_true(proof: Proof, points: list[list[Fraction]]) -> bool:
    """Whether the claim holds at all points, by arithmetic in rationals or 120 digits."""
    from forgeries import DIGITS, outputs, real

    with mpmath.workdps(DIGITS):
        for x in points:
            (p, off), (q, other) = (outputs(for_oracle(n), x) for n in (proof.small, proof.large))
            limit = proof.constant + proof.growth * max(map(abs, x), default=Fraction(0))
            for s, t in zip(p, q, strict=True):
                if isinstance(s, Fraction) and isinstance(t, Fraction):
                    if abs(s - t) > limit:
                        return False
                elif abs(real(s) - real(t)) > real(limit) + off + other:
                    return False
    return True


def points(proof: Proof, rng: np.random.Generator, count: int = 12) -> list[list[Fraction]]:
    """Rational inputs, near and far; on a box corners and others."""
    inputs = proof.inputs
    if proof.domain:
        shares = rng.integers(0, 9, (count, inputs)).tolist()
        shares += (8 * rng.integers(0, 2, (count, inputs))).tolist()
        return [
            [
                low + Fraction(s, 8) * (high - low)
                for s, (low, high) in zip(share, proof.domain, strict=True)
            ]
            for share in shares
        ]
    sizes = 2.0 ** rng.choice([-9, -1, 0, 0, 1, 9], (count, 1))
    return [list(map(Fraction, x)) for x in (rng.integers(-32, 33, (count, inputs)) / 8.0 * sizes).tolist()]  # fmt: skip


def bent(proof: Proof, rng: np.random.Generator) -> Proof:
    """One number, one link or one name is another."""
    found = copy.deepcopy(proof)
    nets = [found.large, found.small]
    steps = found.large_links + found.small_links
    kind = rng.integers(8 if not found.domain else 11)
    if rng.integers(8) == 0:
        found.fewest = not found.fewest
    links = found.large_links if rng.integers(2) or not found.small_links else found.small_links
    if kind == 0 and links:
        del links[rng.integers(len(links))]
    elif kind == 1 and links:
        at = rng.integers(len(links))
        links[at] = links[at]._replace(place=int(rng.integers(3)))
    elif kind == 8:
        at = rng.integers(found.inputs)
        low, high = found.domain[at]
        found.domain[at] = (low - Fraction(int(rng.integers(3)), 4), high + Fraction(1, 4))
    elif kind == 9:
        found.cuts = [None]
    elif kind == 10:
        found.domain = []
    elif kind == 2:
        found.constant = found.constant * Fraction(int(rng.integers(0, 9)), 8)
    elif kind == 3:
        net = nets[rng.integers(len(nets))]
        at = rng.integers(len(net))
        net[at] = (str(rng.choice(["relu", "tanh", "identity", "leaky_relu(0.25)"])), net[at][1])
    else:
        rows = [layer[1] for net in nets for layer in net]
        rows += [x.behind for x in steps] + [x.units[1] for x in steps if x.units is not None]
        rows = [r for r in rows if r]
        some = rows[rng.integers(len(rows))]
        at = rng.integers(len(some))
        weights, bias = some[at]
        by = Fraction(int(rng.choice([-1, 1])), 2 ** int(rng.choice([0, 3, 20])))
        if kind == 4 or not weights:
            some[at] = (weights, bias + by)
        elif kind == 5:
            some[at] = ([-q for q in weights], bias)
        else:
            weights[rng.integers(len(weights))] += by
    return found
