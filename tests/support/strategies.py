"""Networks with planted redundancy: a minimal network, then inverse moves on dyadic parameters,
then a random symmetry.

The planted widths are the oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st

from moduli.kernel.activations import Activation
from moduli.kernel.hyperplane_sums import unit
from moduli.kernel.move import Move
from moduli.kernel.network import Network
from moduli.kernel.state import State

Array = np.ndarray[Any, Any]
ODD = ("tanh", "erf", "sin")
SYMMETRIC = (*ODD, "sigmoid", "abs")
HOMOGENEOUS = ("relu", "abs", "leaky_relu(0.25)")
EVERY = (
    *SYMMETRIC, "relu", "leaky_relu(0.25)", "gelu", "gelu_tanh", "silu", "softplus", "elu(1.0)",
    "clip(0.0,6.0)", "hardswish", "mish",
)  # fmt: skip


@dataclass
class Parts:
    """Mutable parameters: rows[l] is (W, b) of layer l + 1."""

    rows: list[list[Array]]
    activations: list[Activation]

    def network(self) -> Network:
        return Network.mlp(*(p for row in self.rows for p in row), activation=self.activations)

    def insert(self, l: int, row: Array, bias: float, out: Array) -> None:
        (w, b), (v, _) = self.rows[l - 1], self.rows[l]
        self.rows[l - 1] = [np.vstack([w, row]), np.append(b, bias)]
        self.rows[l][0] = np.hstack([v, out[:, None]])


def dyadic(rng: np.random.Generator, *shape: int) -> Array:
    """Non-zero multiples of 1/16 below 4: sums of a few stay floats."""
    return rng.integers(1, 64, shape) / 16.0 * rng.choice([-1.0, 1.0], shape)


def minimal(rng: np.random.Generator, widths: tuple[int, ...], activations: list[str]) -> Parts:
    """Rows that are pairwise not proportional, no zero entries."""
    rows = []
    for n, m in pairwise(widths):
        while True:
            w, b = dyadic(rng, m, n), dyadic(rng, m)
            unit = np.column_stack([w, b]) / w[:, :1]
            if len(np.unique(unit, axis=0)) == m:
                break
        rows.append([w, b])
    return Parts(rows, [Activation.of(a) for a in activations])


def plant(rng: np.random.Generator, parts: Parts, l: int, kind: str) -> None:
    """One inverse move in hidden layer l."""
    (w, b), (v, c) = parts.rows[l - 1], parts.rows[l]
    i, out = int(rng.integers(len(b))), dyadic(rng, len(c))
    if kind == "dead":
        parts.insert(l, dyadic(rng, w.shape[1]), float(dyadic(rng, 1)[0]), 0 * out)
    elif kind == "constant":  # at 0 the value is known, and subtracted from the next bias
        parts.insert(l, 0 * w[0], 0.0, out)
        parts.rows[l][1] = c - out * float(parts.activations[l - 1](np.zeros(1))[0])
    elif kind == "duplicate":
        v[:, i] -= out
        parts.insert(l, w[i], b[i], out)
    elif kind == "twin":
        sign, slope, offset = map(float, parts.activations[l - 1].reflection)
        assert slope == 0
        v[:, i] -= sign * out
        parts.rows[l][1] = c - offset * out
        parts.insert(l, -w[i], -b[i], out)
    elif kind == "multiple":
        v[:, i] -= 4 * out
        parts.insert(l, 4 * w[i], 4 * b[i], out)
    elif kind == "cancel":
        row, bias = dyadic(rng, w.shape[1]) + 8, float(dyadic(rng, 1)[0])
        parts.insert(l, row, bias, out)
        parts.insert(l, row, bias, -out)
    else:
        raise AssertionError(kind)


def kinds(activation: str) -> list[str]:
    act = Activation.of(activation)
    found = ["dead", "duplicate", "cancel"]
    if activation != "softplus":  # log 2 is no float
        found.append("constant")
    return found + ["twin"] * act.symmetric + ["multiple"] * act.homogeneous


def shuffle(rng: np.random.Generator, parts: Parts) -> None:
    """A random symmetry: permutation, signs, powers of two."""
    for l, act in enumerate(parts.activations):
        (w, b), (v, c) = parts.rows[l], parts.rows[l + 1]
        order = rng.permutation(len(b))
        factor = 2.0 ** rng.integers(-2, 3, len(b)) if act.homogeneous else np.ones(len(b))
        flip = rng.choice([-1.0, 1.0], len(b)) if act.symmetric else np.ones(len(b))
        sign, offset = map(float, act.turned)
        parts.rows[l + 1][1] = c + offset * v[:, flip < 0].sum(axis=1)
        v = v * np.where(flip < 0, sign, 1.0) / factor
        w, b = w * (flip * factor)[:, None], b * flip * factor
        parts.rows[l], parts.rows[l + 1][0] = [w[order], b[order]], v[:, order]


def planted(
    seed: int, activation: str | None = None, depth: int | None = None
) -> tuple[Network, tuple[int, ...]]:
    """A redundant network and the widths it was made from."""
    rng = np.random.default_rng(seed)
    depth = depth or int(rng.integers(1, 4))
    acts = [activation or str(rng.choice(EVERY)) for _ in range(depth)]
    widths = (
        int(rng.integers(1, 4)),
        *(int(rng.integers(1, 5)) for _ in range(depth)),
        int(rng.integers(1, 3)),
    )
    parts = minimal(rng, widths, acts)
    for _ in range(int(rng.integers(1, 5))):
        l = int(rng.integers(1, depth + 1))
        plant(rng, parts, l, str(rng.choice(kinds(acts[l - 1]))))
    shuffle(rng, parts)
    return parts.network(), widths


SEEDS = st.integers(0, 2**32 - 1)  # of `planted`

# Moves, true, false or nearly true ------------------------------------------------------------------------------

SMALL = st.sampled_from([Fraction(n) for n in (0, 0, 1, 1, -1, 2, -2)])
RATIOS = st.sampled_from([*map(Fraction, ("1", "1", "-1", "2", "1/2", "-2", "3", "1/3", "-5/7"))])


def small_network(draw: Any, activations: Sequence[str], depth: int = 2) -> Network:
    """Weights of few values, so that zero rows, equal rows and sums that cancel are common.

    Here as below `draw` is that of `st.data()`: type checks at run time toss coins, which no
    strategy may do.
    """
    widths = [
        draw(st.integers(1, 2)),
        *(draw(st.integers(1, 4)) for _ in range(depth)),
        draw(st.integers(1, 2)),
    ]
    arrays: list[Any] = []
    for n, m in pairwise(widths):
        arrays.append(
            np.array([[float(draw(SMALL)) for _ in range(n)] for _ in range(m)]).reshape(m, n)
        )
        arrays.append(np.array([float(draw(SMALL)) for _ in range(m)]))
    return Network.mlp(
        *arrays, activation=[draw(st.sampled_from(activations)) for _ in range(depth)]
    )


def any_move(draw: Any, state: State, kind: str) -> Move:
    """A move of a kind: names of units mostly of those that are there, numbers mostly of those that
    would do.
    """
    layer = draw(st.sampled_from([*range(1, len(state.alive) - 1)] * 8 + [0, len(state.alive) - 1]))
    inside = 1 <= layer < len(state.alive) - 1
    there = state.alive[layer].tolist() if inside else [0]
    names = st.sampled_from(there * 16 + [-1, 9]) if there else st.just(0)
    units = draw(st.lists(names, max_size=3, unique=draw(st.integers(0, 9)) > 0))
    if kind in ("permute", "skip") and draw(st.integers(0, 3)):
        units = draw(st.permutations(there)) if kind == "permute" else there
    chosen = np.array(units, dtype=np.intp)
    if kind in ("constant", "drop", "permute", "inactive", "skip"):
        return Move(kind, layer, chosen)
    if kind == "scale":
        return Move(kind, layer, chosen, ratio=draw(RATIOS))
    if kind == "merge":
        into = np.array(
            [draw(names) for _ in range(len(units) + (draw(st.integers(0, 19)) == 0))],
            dtype=np.intp,
        )
        return Move(kind, layer, chosen, into, draw(RATIOS))
    into = draw(st.lists(st.sampled_from(units), max_size=len(units), unique=True)) if units else []
    parts = [_unit_of_block(draw, state, layer, name) for name in into] if inside else []
    rows, outgoing = tuple(row for row, _ in parts), tuple(column for _, column in parts)
    return Move(kind, layer, chosen, np.array(into, dtype=np.intp), rows=rows, outgoing=outgoing)


def _unit_of_block(draw: Any, state: State, layer: int, name: int) -> tuple[Any, Any]:
    """A multiple of what is there, with the inverse multiple behind it, perhaps with another number
    somewhere.
    """
    found = unit(state, layer, name) if name in state.alive[layer] else None
    if found is None:
        return None, (Fraction(1),) * len(state.alive[layer + 1])
    t = draw(RATIOS)
    row = None if draw(st.booleans()) else tuple(t * q for q in found.row)
    column = list(found.column if row is None else [q / abs(t) for q in found.column])
    if draw(st.integers(0, 3)) == 0:
        column[draw(st.integers(0, len(column) - 1))] += draw(SMALL)
    return row, tuple(column)


def folded(rng, inputs, hyperplanes, outputs, units, kind="relu"):
    """A network whose units share hyperplanes, in small integers."""
    planes = rng.integers(-2, 3, (hyperplanes, inputs + 1))
    planes[:, 0] += (planes[:, :inputs] == 0).all(axis=1)
    scale = rng.choice([-2, -1, 1, 2] if kind in ("relu", "leaky_relu(0.5)") else [-1, 1], units)
    rows = planes[rng.integers(0, hyperplanes, units)] * scale[:, None]
    return Network.mlp(
        rows[:, :inputs],
        rows[:, inputs],
        rng.integers(-2, 3, (outputs, units)),
        rng.integers(-2, 3, outputs),
        activation=kind,
    )
