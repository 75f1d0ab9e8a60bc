"""True certificates of every kind to forge, and oracles in exact or 120-digit arithmetic that use
nothing of the kernel.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import mpmath
import numpy as np

sys.path.append(
    str(Path(__file__).parents[1] / "support")
)  # where this is no test run but a script

import oracles
import strategies as plants

import moduli as mo
from moduli.compression.box import linear_programs
from moduli.compression.box.bisection import GapSearch
from moduli.compression.certify import certify
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.certificate import Certificate
from moduli.kernel.move import Move
from moduli.kernel.rules import replay
from moduli.kernel.slack import Slack

EXACT = ("identity", "relu", "abs", "leaky_relu")
DIGITS = 120


@dataclass
class Case:
    """A certificate as data, and the two networks."""

    name: str
    small: mo.Network
    large: mo.Network
    data: dict[str, Any]

    @property
    def text(self) -> str:
        nets = [
            [[x.weight.tolist(), x.bias.tolist(), str(x.activation)] for x in n.layers]
            for n in (self.small, self.large)
        ]
        return json.dumps([self.name, *nets, self.data])


# True certificates ----------------------------------------------------------------------------------------------


def _net(*arrays: Any, activation: Any = "relu") -> mo.Network:
    return mo.Network.mlp(*(np.array(a, dtype=float) for a in arrays), activation=activation)


def _planted(activation: str, widths: tuple[int, ...], seed: int) -> mo.Network:
    rng = np.random.default_rng(seed)
    parts = plants.minimal(rng, widths, [activation] * (len(widths) - 2))
    for l in range(1, len(widths) - 1):
        for kind in plants.kinds(activation):
            plants.plant(rng, parts, l, kind)
    return parts.network()


def _folded(kind: str, seed: int) -> mo.Network:
    rng = np.random.default_rng(seed)
    planes, at = rng.integers(-2, 3, (3, 3)) + np.array([[0.25, 0, 0]]), rng.integers(0, 3, 6)
    rows = planes[at] * rng.choice([-1, 1], 6)[:, None]
    return _net(rows[:, :2], rows[:, 2], rng.integers(-2, 3, (1, 6)), [1], activation=kind)


@cache
def _seeds() -> tuple[Case, ...]:
    box, wide = mo.Box(-1, 1), mo.Box(-2, 2)
    regional = _net(
        [[1, 1], [1, -1], [2, 1], [1, 0], [1, 0], [-1, -1]], [5, 5, 4, 0, -0.5, -3],
        [[1, 0.5, -1, 2, 1, 1], [0.25, 1, 2, 1, -1, 1], [0, 0, 0, 1, -1, 0]], [0.5, -16, -0.75],
        [[1, 1, 1]], [0],
    )  # fmt: skip
    linear = _net([[1, 0.5], [-1, 1]], [4, 5], [[1, 1], [1, -1]], [0, 0.5], [[1, 2]], [0])
    turned = _net([[1], [1], [1]], [3, 0, -0.5], [[1, -1, 2]], [0])
    collapsing = _net(
        [[1], [-1]], [0, 0], [[1, -1], [2, -2], [-1, 1]], [1, 0, 0.5], [[1, 1, 1]], [0]
    )
    smooth = _net(
        [[1, 0.5], [0.5, 1]],
        [0, 1],
        [[1, 1], [1, -1]],
        [4, 9],
        [[1, 1]],
        [0],
        activation=["gelu", "relu"],
    )
    tanh = _net(
        [[1, 2], [1.01, 2], [0.01, 0], [-1, -2]],
        [0, 0, 1, 0.01],
        [[1, 1, 1, 1]],
        [0],
        activation="tanh",
    )
    rows = [[1.0, 0.5], [1.0, 0.5001], [0.0001, 0.0], [1.0, 1.0]]
    noisy = _net(
        rows, [0.25, 0.25, 1, -2.0001], [[1, 1, 1, 1], [1, -1, 0.5, 2]], [-2, -1], [[1, 0.5]], [0]
    )
    shadowed = _net(
        [[1, 0], [-1, 0], [0, 1]], [0, -0.5, 0.5], [[1, -1, 0.5], [1, -0.5, -1]], [-0.75, -0.5],
        [[1, 2]], [0],
    )  # fmt: skip
    nets: list[tuple[str, mo.Network, dict[str, Any]]] = [
        ("shallow tanh", _planted("tanh", (2, 3, 1), 1), {}),
        ("deep tanh", _planted("tanh", (2, 2, 2, 1), 2), {}),
        ("sigmoid", _planted("sigmoid", (1, 3, 2), 3), {}),
        ("relu", _planted("relu", (2, 2, 2, 1), 4), {}),
        ("leaky", _planted("leaky_relu(0.25)", (2, 3, 1), 5), {}),
        ("folded relu", _folded("relu", 6), {}),
        ("folded gelu", _folded("gelu", 7), {}),
        ("folded abs", _folded("abs", 8), {}),
        ("folded leaky", _folded("leaky_relu(-1.5)", 9), {}),
        ("skip", collapsing, {}),
        ("region", regional, {"on": box}),
        ("hidden", shadowed, {"on": box}),
        ("linear", linear, {"on": box}),
        ("turned", turned, {"on": box}),
        ("smooth", smooth, {"on": wide}),
        ("tanh on a box", _planted("tanh", (2, 3, 1), 10), {"on": box}),
        ("near", tanh, {"radius": 0.02}),
        ("near, deep", _planted("relu", (1, 2, 2, 1), 11), {"radius": 0.25}),
        ("changed", noisy, {"on": box, "eps": 0.01, "budget": 500}),
    ]
    found = []
    for name, net, options in nets:
        small = mo.compress(net, **options)
        found.append(Case(name, small.network, net, small.certificate.to_json()))
    found.append(_by_programs(mo.Box(-1, 1)))
    other = mo.compress(nets[0][1]).network
    both = mo.equivalent(nets[0][1], other).proof
    return (*found, Case("both sides", other, nets[0][1], both.to_json()), *_pairs(box))


def _pairs(box: mo.Box) -> list[Case]:
    """Two networks beside each other: near on a box, of equal creases, a sigmoid and its tanh."""
    rng = np.random.default_rng(3)
    a = _planted("relu", (2, 3, 2), 5)
    b = a.with_flat(a.flat() * (1 + 2.0**-8 * rng.normal(size=a.parameters)))
    bound, ends = GapSearch(a, b, box), box.of_dimension(2)
    bound.run(20)
    signs = tuple((0,) * units for units in a.widths[1:-1])
    region = Region(tuple(ends.low.tolist()), tuple(ends.high.tolist()), (-1,), signs)
    slack = Slack(bound.upper, 0.0)
    near = Certificate(a.digest, b.digest, (), (), slack, region=region, apart=bound.bound())
    rows = np.array([[1, 0], [0, 1], [1, 1]])
    turned = [_net(sign * rows, [0] * 3, [[1, 1, -1]], [0]) for sign in (1, -1)]
    smooth = (
        _net([[1, 0], [0, 2]], [0.5, 1], [[1, 1]], [0], activation="tanh"),
        _net([[2, 0], [0, 4]], [1, 2], [[2, 2]], [-2], activation="sigmoid"),
    )
    cases = [Case("apart", b, a, near.to_json())]
    for name, (large, small) in (("creases", turned), ("sigmoid", smooth)):
        cases.append(Case(name, small, large, mo.equivalent(large, small).certificate.to_json()))
    return cases


def _by_programs(box: mo.Box) -> Case:
    """Signs by multipliers and by cases, with no tree beside them."""
    rng, found = np.random.default_rng(46), []
    first = rng.normal(size=(4, 3)), rng.normal(size=4)
    net = _net(*first, rng.normal(size=(4, 4)), rng.normal(size=4) - 1.6, [[1, 1, 1, 1]], [0])
    known = np.zeros(8, dtype=np.int8)
    for unit in range(4):
        case = linear_programs.prove(net, box.of_dimension(3), known, 2, unit, -1, limit=20).case
        found += [] if case is None else [case]
    signs = (0,) * 4, tuple(-1 if any(c.unit == u for c in found) else 0 for u in range(4))
    claim = Region((-1.0,) * 3, (1.0,) * 3, (-1,), signs, tuple(found))
    moves = [Move("inactive", 2, np.flatnonzero(signs[1]))]
    small = replay(net, moves, region=claim).network()
    return Case("programs", small, net, certify(net, moves, small, region=claim).to_json())


def seeds() -> list[Case]:
    return [Case(c.name, c.small, c.large, copy.deepcopy(c.data)) for c in _seeds()]


# Oracles --------------------------------------------------------------------------------------------------------


def _sigmoid(t: Any) -> Any:
    return 1 / (1 + mpmath.exp(-t)) if t >= 0 else mpmath.exp(t) / (1 + mpmath.exp(t))


def _smooth(kind: str, z: Any) -> Any:
    half, root = mpmath.mpf(1) / 2, mpmath.sqrt(2)
    inner = (
        mpmath.sqrt(2 / mpmath.pi) * (z + mpmath.mpf("0.044715") * z**3)
        if kind == "gelu_tanh"
        else 0
    )
    return {
        "tanh": lambda: mpmath.tanh(z),
        "sigmoid": lambda: _sigmoid(z),
        "erf": lambda: mpmath.erf(z),
        "sin": lambda: mpmath.sin(z),
        "gelu": lambda: z * half * (mpmath.erfc(-z / root) if abs(z) < 10**6 else 2 * (z > 0)),
        "gelu_tanh": lambda: z * _sigmoid(2 * inner),
        "silu": lambda: z * _sigmoid(z),
        "softplus": lambda: max(z, mpmath.mpf(0)) + mpmath.log1p(mpmath.exp(-abs(z))),
    }[kind]()


def applied(activation: Any, z: Any) -> Any:
    if activation.kind in EXACT:
        slope = Fraction(
            {"identity": 1, "relu": 0, "abs": -1}.get(activation.kind, activation.slope)
        )
        return z if z >= 0 else z * (slope if isinstance(z, Fraction) else real(slope))
    if activation.kind == "elu":
        return (
            real(z) if z >= 0 else real(Fraction(activation.parameters[0])) * mpmath.expm1(real(z))
        )
    return _smooth(activation.kind, real(z))


Layers = list[tuple[list[list[Fraction]], list[Fraction], Any]]


def layers(net: mo.Network) -> Layers:
    return [
        (
            [[Fraction(q) for q in row] for row in x.weight.tolist()],
            [Fraction(q) for q in x.bias.tolist()],
            x.activation,
        )
        for x in net.layers
    ]


def real(q: Any) -> Any:
    return mpmath.mpf(q.numerator) / q.denominator if isinstance(q, Fraction) else q


def _mixed(q: Fraction, x: Any) -> Any:
    return q * x if isinstance(x, Fraction) else real(q) * x


def outputs(net: Layers, x: list[Fraction]) -> tuple[list[Any], Any]:
    """Values at a rational point, and a bound of the rounding of 120 digits (0 for rationals)."""
    h: list[Any] = list(x)
    size = mpmath.mpf(0)
    for weight, bias, activation in net:
        rows = [[*map(_mixed, row, h), b] for row, b in zip(weight, bias, strict=True)]
        exact = all(isinstance(v, Fraction) for row in rows for v in row)
        if not exact:
            rows = [[real(v) for v in row] for row in rows]
            steepest = max((abs(q) for row in weight for q in row), default=Fraction(0))
            size = max([size, *(abs(v) for row in rows for v in row)]) * (1 + real(steepest))
        z = [sum(row, Fraction(0) if exact else mpmath.mpf(0)) for row in rows]
        h = z if activation.kind == "identity" else [applied(activation, t) for t in z]
    return h, (size + 1) * mpmath.mpf(10) ** (20 - DIGITS) if size else 0


def points(proof: Certificate, net: mo.Network, rng: np.random.Generator) -> list[list[Fraction]]:
    """Corners and points of the box, or points near and far; some on hyperplanes of units of the
    first layer.
    """
    n = net.widths[0]
    if proof.region is not None:
        low, high = (list(map(Fraction, end)) for end in (proof.region.low, proof.region.high))
        shares = [
            *list(product((0, 1), repeat=n))[:8],
            *(rng.integers(0, 65, (8, n)) / 64).tolist(),
        ]
        found = [
            [p + Fraction(s) * (q - p) for p, q, s in zip(low, high, share, strict=True)]
            for share in shares
        ]
    else:
        found = [
            list(map(Fraction, x))
            for x in (
                rng.integers(-32, 33, (8, n)) / 8.0 * 2.0 ** rng.choice([-9, 0, 0, 9], (8, 1))
            ).tolist()
        ]
    for row, bias in zip(net.layers[0].weight.tolist(), net.layers[0].bias.tolist(), strict=True):
        at = next((j for j, w in enumerate(row) if w), None)
        if at is not None and n < 5:
            x = list(found[-1])
            x[at] -= (
                sum(Fraction(w) * t for w, t in zip(row, x, strict=True)) + Fraction(bias)
            ) / Fraction(row[at])
            if proof.region is None or low[at] <= x[at] <= high[at]:
                found.append(x)
    return found


def _changed(net: mo.Network, proof: Certificate) -> Layers:
    """The parameters within the radius at which the moves start."""
    found = layers(net)
    for change in proof.near.changes if proof.near is not None else ():
        weight, bias, _ = found[change.layer - 1]
        old = [q for row in weight for q in row] if change.part == "weight" else bias
        for k, at in enumerate(change.at.tolist()):
            new = Fraction(change.to.get((k,)))
            assert abs(new - old[at]) <= Fraction(proof.near.radius), "a parameter moves too far"
            if change.part == "weight":
                weight[at // len(weight[0])][at % len(weight[0])] = new
            else:
                bias[at] = new
    return found


def require(case: Case, proof: Certificate, rng: np.random.Generator) -> None:
    """Assert the claim of an accepted certificate at points, and its minimality against brute
    force.
    """
    assert case.small.output_map == case.large.output_map
    with mpmath.workdps(DIGITS):
        one, two = layers(case.small), _changed(case.large, proof)
        constant, growth = (
            Fraction(proof.slack.constant) if math.isfinite(proof.slack.constant) else None,
            proof.slack.growth,
        )
        for x in (
            points(proof, case.large, rng) if constant is not None and math.isfinite(growth) else ()
        ):
            (p, off), (q, other) = outputs(one, x), outputs(two, x)
            most = constant + Fraction(growth) * max(map(abs, x))
            for s, t in zip(p, q, strict=True):
                exact = isinstance(s, Fraction) and isinstance(t, Fraction)
                gap, limit = (
                    (abs(s - t), most)
                    if exact
                    else (abs(real(s) - real(t)), real(most) + off + other)
                )
                assert gap <= limit, f"{gap} > {limit} at {x}: {proof.to_json()} for {case.text}"
    near = proof.near
    if near is not None and near.bound is not None and case.large.widths[1] <= 6:
        hidden, last = case.large.layers
        least = oracles.proximate_rank(last.weight.T, hidden.weight, hidden.bias, near.radius)
        assert near.bound.lower <= least, f"{near.bound.lower} > {least} for {case.text}"
    if proof.minimal and near is None:
        exact = proof.slack.constant == proof.slack.growth == 0
        net = case.large if len(case.large.layers) == 2 else case.small if exact else None
        least = math.inf if net is None else fewest(net, proof.region)
        assert case.small.units <= least, f"{case.small.units} > {least} for {case.text}"


def fewest(net: mo.Network, region: Any = None) -> float:
    """An upper bound of the fewest units of one hidden layer with this function (on a box), by
    trying all orientations.
    """
    (weight, bias, activation), (last, _, _) = layers(net)
    low, high = (
        ([-math.inf] * net.widths[0], [math.inf] * net.widths[0])
        if region is None
        else (region.low, region.high)
    )
    free = [j for j, (p, q) in enumerate(zip(low, high, strict=True)) if p < q]
    fixed = [j for j in range(net.widths[0]) if j not in free]
    units = []
    for k, row in enumerate(weight):
        b = bias[k] + sum((row[j] * Fraction(low[j]) for j in fixed), Fraction(0))
        if any(row[j] for j in free):
            units.append(([row[j] for j in free], b, [out[k] for out in last]))
    slope = {"relu": 0, "abs": -1}.get(activation.kind, activation.slope)
    ends = None if region is None else [(Fraction(low[j]), Fraction(high[j])) for j in free]
    return _classes(units) if slope is None else _turned(units, Fraction(slope), ends)


def _classes(units: list[Any]) -> int:
    """Of odd activations but for a constant: classes up to sign whose weights do not cancel."""
    found: dict[Any, list[Fraction]] = {}
    for row, b, out in units:
        sign = 1 if next(q for q in row if q) > 0 else -1
        key = tuple(sign * q for q in (*row, b))
        found[key] = [
            p + sign * q for p, q in zip(found.get(key, [Fraction(0)] * len(out)), out, strict=True)
        ]
    return sum(any(out) for out in found.values())


def _turned(
    units: list[Any], slope: Fraction, ends: list[tuple[Fraction, Fraction]] | None
) -> float:
    """s(z) = c z + (1 - slope) |z| / 2 with c = (1 + slope) / 2: one unit per crease, and what
    gradients still need.
    """
    if not units:
        return 0
    c, planes = (1 + slope) / 2, dict[Any, Any]()
    gradient = [[Fraction(0)] * len(units[0][0]) for _ in units[0][2]]
    for row, b, out in units:
        steep = c
        if ends is not None:
            reach = [
                sum((w * pair[(w > 0) == top] for w, pair in zip(row, ends, strict=True)), b)
                for top in (False, True)
            ]
            steep = Fraction(1) if reach[0] >= 0 else slope if reach[1] <= 0 else c
        crosses = ends is None or reach[0] < 0 < reach[1]
        for i, v in enumerate(out):
            gradient[i] = [g + steep * v * w for g, w in zip(gradient[i], row, strict=True)]
        if crosses:
            lead = next(q for q in row if q)
            key = tuple(q / lead for q in (*row, b))
            planes[key] = [
                p + abs(lead) * v
                for p, v in zip(planes.get(key, [Fraction(0)] * len(out)), out, strict=True)
            ]
    seen = [(key[:-1], out) for key, out in planes.items() if any(out)] if slope != 1 else []
    best = math.inf
    for signs in product((1, -1), repeat=len(seen)) if len(seen) <= 10 else ():
        rest = [
            [
                g - sum(s * c * out[i] * w[j] for s, (w, out) in zip(signs, seen, strict=True))
                for j, g in enumerate(line)
            ]
            for i, line in enumerate(gradient)
        ]
        rank = _rank(rest)
        if ends is None and rank:
            shared = rank == 1 and c and any(_rank([*rest, list(w)]) == 1 for w, _ in seen)
            best = min(best, len(seen) + (1 if shared else 2 * rank if c else math.inf))
        else:
            best = min(best, len(seen) + rank)
    return best


def _rank(rows: list[list[Fraction]]) -> int:
    rows, rank = [list(r) for r in rows], 0
    for j in range(len(rows[0])):
        pivot = next((r for r in rows[rank:] if r[j]), None)
        if pivot is not None:
            rows.remove(pivot)
            rows = [
                *rows[:rank],
                pivot,
                *(
                    [p - q * r[j] / pivot[j] for p, q in zip(r, pivot, strict=True)]
                    for r in rows[rank:]
                ),
            ]
            rank += 1
    return rank
