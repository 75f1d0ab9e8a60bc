"""All networks of one hidden layer with the fewest units that a function allows: how many units, how
many networks, and of which dimension their set is.

For ReLU and leaky ReLU units, s(z) = c z + h |z| with c, h != 0, one output, all inputs. Dereich and
Kassing 2022 show that n bending hyperplanes need n, n + 1 or n + 2 units, characterise the three
cases, and derive dimension and number of components of the set of minimal networks. Their abstract
was read; what follows is derived here.

A function is f(x) = sum_k C_k |z_k| + G . x + const, with z_k = w_k . x + b_k one fixed form of each of
its n bending hyperplanes and C_k != 0 (`kernel.creases`; these numbers are unique). A unit with row
l (w_k, b_k) or -l (w_k, b_k), l > 0, and outgoing weight v has *strength* p = l v: it adds p h |z_k|
and the slope p c w_k or -p c w_k. f is not differentiable on a bending hyperplane, so each bears a unit.

**n units.** Each bears one, of strength C_k / h; what is free is the side s_k = 1 or -1. With T_k =
(c / h) C_k w_k these are the networks with R(s) = G - sum_k s_k T_k = 0.

**n + 1 units**, where n do not suffice. The unit more has v != 0 and w != 0, or n would do. Alone on a
hyperplane it would bend f there. So it shares hyperplane k, with the other side (two units of one
side add up to one, and n would do). Their strengths p, q have (p + q) h = C_k and c (p - q) w_k = G -
sum_{j != k} s_j T_j. So these are the k and the sides of all others with that vector parallel to
w_k; p and q follow, and neither is zero, or n would do.

**n + 2 units**, where n + 1 do not suffice. No hyperplane bears three (two would have one side), so the
two units more share hyperplanes k != l of f, or one of their own.

- *k and l.* As above: G - sum_{j != k, l} s_j T_j = g_k w_k + g_l w_l. If w_k, w_l were parallel, n + 1 units
  would do. So they are independent, g_k and g_l are unique, and no strength is zero.
- *one of their own*, z = w . x + t: the bend cancels, so their strengths are p and -p, their sides
  differ, and 2 c p w = R(s). Here R(s) != 0 fixes p w, and t is any number: the hyperplane z = 0 is none
  of f, or n + 1 units would do. Each choice of sides gives such networks.

The latter is always there, so there is no fourth case.

With one input every w_k is parallel to R, so n + 1 units do if n > 0.

**The set.** Let H be the number of units. Up to the order of units (H! orders, all different as no two
rows are positive multiples of each other) the networks of one choice of hyperplanes and sides are
given by the scales l > 0 of the units and by t where there is one: the outgoing weights are p / l and
the last bias follows. That is a smooth manifold, diffeomorphic to R^H or R^(H + 1), closed in the space of
parameters (l and p / l stay bounded, so l stays away from 0). The manifolds of different choices or
orders are disjoint, and finitely many. So they are the components: H! for each choice.

Where a hyperplane is shared, the functional dimension is less than the number of parameters less H: to
first order the two units could turn apart. The set has dimension H there all the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, islice
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from moduli.common.result import Result
from moduli.kernel.creases import Creased, Kinks, creased, kinks
from moduli.kernel.errors import CertificateRejected, Undecided, UnsupportedModel
from moduli.kernel.exact_numbers import nearest
from moduli.kernel.minimality import reducible
from moduli.kernel.network import Network
from moduli.kernel.state import State

from .output_layer import Affine

Vector = tuple[int, ...]
Q = TypeVar("Q", int, Fraction)
WORK = 2**19  # sums of sides that are looked at
LOOKED = 1024  # networks that are tried in floats
KERNEL = 16  # networks that the kernel is asked about


class Choice(NamedTuple):
    """Hyperplanes that bear two units, and in how many ways the others can be turned.

    Attributes:
        shared: numbers of the hyperplanes with two units. pair: whether there are two units more on
            a hyperplane that the function does not have, wherever it is put. sides: choices of the
            sides of all other units.
    """

    shared: tuple[int, ...]
    pair: bool
    sides: int


@dataclass(frozen=True, eq=False, repr=False)
class MinimalNetworks(Result):
    """The networks of one hidden layer with a given function and the fewest units, on all inputs.

    Iterating gives one for each choice of hyperplanes and sides, as layers of rationals, every other
    one being a copy of one of these under permutations and positive scaling (or with the pair of units
    of its own elsewhere).

    Attributes:
        network: whose function it is. bends: hyperplanes on which that bends. units: the fewest.
        choices: up to symmetry, by the hyperplanes that are shared.
    """

    network: Network
    bends: int
    units: int
    choices: tuple[Choice, ...]
    kind: ClassVar[str] = "minimal_networks"

    @property
    def orbits(self) -> int:
        """Choices of hyperplanes and sides: minimal networks up to permutations, positive scaling and
        the place of a pair.
        """
        return sum(choice.sides for choice in self.choices)

    @property
    def components(self) -> int:
        """Components of the set of minimal networks, in the space of all parameters."""
        return math.factorial(self.units) * self.orbits

    @property
    def dimension(self) -> int:
        """Of its largest components: a scale for each unit, and the place of a pair."""
        return self.units + any(choice.pair for choice in self.choices)

    @property
    def unique(self) -> bool:
        """Whether all minimal networks are copies of one under permutations and positive scaling."""
        return self.orbits == 1 and self.dimension == self.units

    def __iter__(self) -> Iterator[tuple[Affine, ...]]:
        found, law = _function(self.network)
        for choice in self.choices:
            yield from _layers(found, law, choice)

    def networks(self, most: int = 16) -> list[Network]:
        """The first of these in floats, of those that floats hold exactly; 1024 are looked at."""
        found = list[Network]()
        for layers in islice(self, LOOKED):
            if len(found) == most:
                break
            net = _in_floats(layers, self.network)
            if net is not None:
                found.append(net)
        return found

    def check(self) -> bool:
        """Count again; and of networks that floats hold, ask the kernel whether the function is the same,
        and whether fewer units could do.

        Raises:
            CertificateRejected: naming what fails.
        """
        again = minimal_networks(self.network)
        if (again.bends, again.units, again.choices) != (self.bends, self.units, self.choices):
            raise CertificateRejected(
                f"counted again there are {again.orbits} minimal networks of {again.units} units"
            )
        wanted = creased(State(self.network))
        for net in self.networks(KERNEL):
            state = State(net)
            if net.units != self.units or creased(state) != wanted:
                raise CertificateRejected(
                    f"{net} is another function, or has not {self.units} units"
                )
            if net.units and (doubt := reducible(state)) is not None:
                raise CertificateRejected(f"that {net} has the fewest units is not proved: {doubt}")
        return True

    @property
    def statement(self) -> str:
        if not self.units:
            return "no hidden unit is needed: the function is constant"
        orbits = f"{self.orbits} choices of hyperplanes and sides"
        also = "" if self.dimension == self.units else ", with a pair of units that can be anywhere"
        which = "one network, up to symmetry" if self.unique else orbits + also
        if self.orbits == 1 and not self.unique:
            which = "one choice of sides" + also
        return f"{self.units} units, {which}"

    def asked(self) -> list[tuple[str, str]]:
        return [("network", repr(self.network)), ("on", "all inputs")]

    def facts(self) -> list[tuple[str, str]]:
        return [
            ("bending hyperplanes", str(self.bends)),
            ("fewest units", str(self.units)),
            ("minimal networks", f"{self.orbits} up to symmetry"),
            ("components", str(self.components)),
            ("dimension", f"{self.dimension} ({self.units} are scales)"),
        ]

    def data(self) -> dict[str, Any]:
        return {
            "bends": self.bends, "units": self.units, "orbits": self.orbits,
            "components": self.components, "dimension": self.dimension, "unique": self.unique,
            "digest": self.network.digest,
        }  # fmt: skip


def minimal_networks(net: Network) -> MinimalNetworks:
    """See `api.minimal_networks`."""
    found, law = _function(net)
    choices = tuple(_choices(found, law))
    bends = len(found.creases)
    extra = len(choices[0].shared) + 2 * choices[0].pair
    return MinimalNetworks("proved", net, bends, bends + extra, choices)


def _function(net: Network) -> tuple[Creased, Kinks]:
    """The function by its bends, and the law of its activation."""
    if len(net.layers) != 2 or not net.widths[0]:
        raise UnsupportedModel(f"{net}: minimal networks are counted for one hidden layer")
    law = kinks(net.activations[0])
    if law is None or not law.slope or law.constant or [place for place, _ in law.bends] != [0]:
        raise UnsupportedModel(f"{net}: minimal networks are counted for relu and leaky_relu units")
    if net.widths[-1] != 1:
        raise Undecided(f"{net}: which networks of several outputs are minimal is not known here")
    found = creased(State(net))
    if found is None:
        raise Undecided(f"{net}: too many weights to compare hyperplanes in rationals")
    return found, law


def _choices(found: Creased, law: Kinks) -> Iterator[Choice]:
    """Of the fewest units. What is shared first: none, then one hyperplane, then two or a pair."""
    slopes = _slopes(found, law)
    rows, count = _rows(found), len(found.creases)
    for shared in (0, 1):
        some = list[Choice]()
        for few in combinations(range(count), shared):
            sides = _count(rows, slopes, few)
            if sides:
                some.append(Choice(few, False, sides))
        if some:
            yield from some
            return
    for pair in combinations(range(count), 2):
        if _minor(rows[pair[0]], rows[pair[1]]) is not None:
            sides = _count(rows, slopes, pair)
            if sides:
                yield Choice(pair, False, sides)
    yield Choice((), True, 2**count)


def _rows(found: Creased) -> list[Vector]:
    return [row[:-1] for row in found.creases]


def _slopes(found: Creased, law: Kinks) -> tuple[Vector, list[Vector]]:
    """G and the T_k, times a common denominator: whole numbers."""
    ratio = law.slope / law.bends[0][1]
    sides = [[ratio * column[0] * w for w in row[:-1]] for row, column in found.creases.items()]
    below = math.lcm(*(q.denominator for row in (found.weight[0], *sides) for q in row))
    whole = [tuple(int(q * below) for q in row) for row in (found.weight[0], *sides)]
    return whole[0], whole[1:]


def _minor(u: Vector, v: Vector) -> tuple[int, int] | None:
    """Two coordinates in which two vectors are independent; None where they are parallel."""
    p = next(k for k, q in enumerate(u) if q)
    for q in range(len(u)):
        if u[p] * v[q] != u[q] * v[p]:
            return p, q
    return None


def _across(vector: Vector, few: Sequence[Vector]) -> Vector:
    """Numbers that vanish if and only if the vector is in the span of none, one or two independent
    ones: minors.
    """
    parts, minor = _combined(vector, few)
    return tuple(
        minor * x - sum(part * row[k] for part, row in zip(parts, few, strict=True))
        for k, x in enumerate(vector)
    )


def _combined(vector: Sequence[Q], few: Sequence[Vector]) -> tuple[list[Q], int]:
    """Cramer's rule for none, one or two independent vectors: numbers c and d with d != 0, such that vector -
    sum c_k few_k / d vanishes in as many coordinates, and in all if the vector is in their span.
    """
    if not few:
        return [], 1
    u = few[0]
    if len(few) == 1:
        p = next(k for k, q in enumerate(u) if q)
        return [vector[p]], u[p]
    v, at = few[1], _minor(u, few[1])
    assert at is not None
    p, q = at
    first = vector[p] * v[q] - vector[q] * v[p]
    second = vector[q] * u[p] - vector[p] * u[q]
    return [first, second], u[p] * v[q] - u[q] * v[p]


def _halves(
    rows: Sequence[Vector], slopes: tuple[Vector, list[Vector]], few: tuple[int, ...]
) -> tuple[list[int], list[Vector], list[Vector], Vector]:
    """The units that are turned, sums of T over the sides of each half of them, and G; across `few`."""
    span = [rows[k] for k in few]
    others = [k for k in range(len(rows)) if k not in few]
    half = len(others) // 2
    if math.comb(len(rows), len(few)) * 2 ** (len(others) - half) > WORK:
        raise Undecided(f"{len(rows)} hyperplanes have too many sides to be counted")
    terms = [_across(slopes[1][k], span) for k in others]
    left, right = _sums(terms[:half], len(rows[0])), _sums(terms[half:], len(rows[0]))
    return others, left, right, _across(slopes[0], span)


def _sums(terms: Sequence[Vector], length: int) -> list[Vector]:
    """Sums of all terms with all signs; bit j of the place of a sum says that term j has +."""
    found = [(0,) * length]
    for term in terms:
        minus = [tuple(a - b for a, b in zip(x, term, strict=True)) for x in found]
        found = minus + [tuple(a + b for a, b in zip(x, term, strict=True)) for x in found]
    return found


def _count(
    rows: Sequence[Vector], slopes: tuple[Vector, list[Vector]], few: tuple[int, ...]
) -> int:
    """Choices of the sides of all units but `few` with G - sum s_j T_j in the span of their rows."""
    if not rows:
        return int(not any(slopes[0]))
    _, left, right, whole = _halves(rows, slopes, few)
    have = Counter(right)
    return sum(have[tuple(g - a for g, a in zip(whole, x, strict=True))] for x in left)


def _sides(
    rows: Sequence[Vector], slopes: tuple[Vector, list[Vector]], choice: Choice
) -> Iterator[dict[int, int]]:
    """These choices, one by one; of a pair, all."""
    if choice.pair:
        for bits in range(2 ** len(rows)):
            yield {k: 1 if bits >> k & 1 else -1 for k in range(len(rows))}
        return
    if not rows:
        yield {}
        return
    others, left, right, whole = _halves(rows, slopes, choice.shared)
    half, places = len(others) // 2, dict[Vector, list[int]]()
    for place, x in enumerate(right):
        places.setdefault(x, []).append(place)
    for low, x in enumerate(left):
        for high in places.get(tuple(g - a for g, a in zip(whole, x, strict=True)), []):
            bits = low | high << half
            yield {k: 1 if bits >> j & 1 else -1 for j, k in enumerate(others)}


def _layers(found: Creased, law: Kinks, choice: Choice) -> Iterator[tuple[Affine, ...]]:
    """The networks of a choice, as rationals; a pair of units of its own goes through the origin."""
    rows, slopes = _rows(found), _slopes(found, law)
    planes = [(row, column[0]) for row, column in found.creases.items()]
    h = law.bends[0][1]
    for sides in _sides(rows, slopes, choice):
        # What slope is missing, where each hyperplane of `shared` has no slope yet.
        rest = list(found.weight[0])
        for k, side in sides.items():
            row, crease = planes[k]
            rest = [
                g - side * law.slope / h * crease * w for g, w in zip(rest, row[:-1], strict=True)
            ]
        units = list[tuple[tuple[Fraction, ...], Fraction]]()
        for k, side in sides.items():
            units.append((_times(side, planes[k][0]), planes[k][1] / h))
        if choice.pair:
            v, line = 1 / (2 * law.slope), (*rest, Fraction(0))
            units += [(line, v), (_times(-1, line), -v)]
        parts, minor = _combined(rest, [rows[k] for k in choice.shared])
        for k, part in zip(choice.shared, parts, strict=True):
            row, crease = planes[k]
            both, difference = crease / h, part / minor / law.slope
            units.append((_times(1, row), (both + difference) / 2))
            units.append((_times(-1, row), (both - difference) / 2))
        bias = found.bias[0] - sum((law.slope * v * row[-1] for row, v in units), Fraction(0))
        first = [list(row[:-1]) for row, _ in units], [row[-1] for row, _ in units]
        yield first, ([[v for _, v in units]], [bias])


def _times(side: int, row: Sequence[Any]) -> tuple[Fraction, ...]:
    return tuple(Fraction(side * q) for q in row)


def _in_floats(layers: tuple[Affine, ...], net: Network) -> Network | None:
    """A network of rationals where floats hold them."""
    (weight, bias), (outgoing, last) = layers
    for row in (*weight, bias, *outgoing, last):
        if any(nearest(q) != q for q in row):
            return None
    arrays = (
        np.array(weight, dtype=np.float64).reshape(len(bias), net.widths[0]),
        np.array(bias, dtype=np.float64),
        np.array(outgoing, dtype=np.float64).reshape(1, len(bias)),
        np.array(last, dtype=np.float64),
    )
    return Network.mlp(*arrays, activation=str(net.activations[0]))
