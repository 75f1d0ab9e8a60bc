"""Networks with planted redundancy: a minimal network, then inverse moves on dyadic parameters, then a random symmetry.

The planted widths are the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st

from moduli.kernel.activations import Activation
from moduli.kernel.network import Network

Array = np.ndarray[Any, Any]
ODD = ("tanh", "erf", "sin")
SYMMETRIC = (*ODD, "sigmoid", "abs")
HOMOGENEOUS = ("relu", "abs", "leaky_relu(0.25)")
EVERY = (
    *SYMMETRIC, "relu", "leaky_relu(0.25)", "gelu", "gelu_tanh", "silu", "softplus", "elu(1.0)", "clip(0.0,6.0)", "hardswish",
    "mish",
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


def planted(seed: int, activation: str | None = None, depth: int | None = None) -> tuple[Network, tuple[int, ...]]:
    """A redundant network and the widths it was made from."""
    rng = np.random.default_rng(seed)
    depth = depth or int(rng.integers(1, 4))
    acts = [activation or str(rng.choice(EVERY)) for _ in range(depth)]
    widths = (int(rng.integers(1, 4)), *(int(rng.integers(1, 5)) for _ in range(depth)), int(rng.integers(1, 3)))
    parts = minimal(rng, widths, acts)
    for _ in range(int(rng.integers(1, 5))):
        l = int(rng.integers(1, depth + 1))
        plant(rng, parts, l, str(rng.choice(kinds(acts[l - 1]))))
    shuffle(rng, parts)
    return parts.network(), widths


SEEDS = st.integers(0, 2**32 - 1)  # of `planted`
