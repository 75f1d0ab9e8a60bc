"""The distance of two ReLU networks on a box as a mixed integer program for HiGHS (MIT, in scipy):
big-M, bounds from LPs.

max (f - g) and max (g - f) of the first output, each unit z = max(0, y) with a binary a where its
sign is open: z >= y, z >= 0, z <= y - low (1 - a), z <= high a. Nothing is rounded outward: what it
says holds up to its tolerances."""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_matrix

import moduli as mo


class Program:
    """Columns are the inputs, then per open unit its value and its binary; `affine` forms over them
    are (row, constant).
    """

    def __init__(self, box: mo.Box, inputs: int) -> None:
        self.low = list(np.broadcast_to(box.low, inputs))
        self.high = list(np.broadcast_to(box.high, inputs))
        self.binary = [False] * inputs
        self.rows: list[tuple[dict[int, float], float]] = []  # sum of coefficient * column <= bound

    def column(self, low: float, high: float, binary: bool = False) -> int:
        self.low.append(low)
        self.high.append(high)
        self.binary.append(binary)
        return len(self.low) - 1

    def dense(self, form: np.ndarray) -> np.ndarray:
        return np.pad(form, (0, len(self.low) - len(form)))

    def matrix(self) -> tuple[csr_matrix, np.ndarray]:
        where = [(k, j, v) for k, (row, _) in enumerate(self.rows) for j, v in row.items()]
        k, j, v = zip(*where, strict=True) if where else ((), (), ())
        return csr_matrix((v, (k, j)), (len(self.rows), len(self.low))), np.array(
            [bound for _, bound in self.rows]
        )

    def largest(self, form: np.ndarray, constant: float) -> float:
        """An upper bound of an affine form by the relaxation, or by intervals where that fails."""
        left, right = self.matrix()
        sides = list(zip(self.low, self.high, strict=True))
        found = linprog(
            -self.dense(form),
            left if len(right) else None,
            right if len(right) else None,
            bounds=sides,
        )
        f = self.dense(form)
        plain = np.where(f > 0, f * self.high, f * self.low).sum()
        return constant + min(plain, -found.fun if found.status == 0 else np.inf)

    def relu(self, form: np.ndarray, constant: float) -> tuple[np.ndarray, float]:
        high, low = self.largest(form, constant), -self.largest(-form, -constant)
        if high <= 0:
            return np.zeros(1), 0.0
        if low >= 0:
            return form, constant
        z, a = self.column(0.0, high), self.column(0.0, 1.0, binary=True)
        y = {j: v for j, v in enumerate(form) if v}
        self.rows.append(({**y, z: -1.0}, -constant))
        self.rows.append(({**{j: -v for j, v in y.items()}, z: 1.0, a: -low}, constant - low))
        self.rows.append(({z: 1.0, a: -high}, 0.0))
        return np.eye(1, z + 1, z)[0], 0.0

    def network(self, net: mo.Network) -> tuple[np.ndarray, float]:
        forms = [(np.eye(1, k + 1, k)[0], 0.0) for k in range(net.widths[0])]
        for n, layer in enumerate(net.layers):
            outs = []
            for weight, bias in zip(layer.weight, layer.bias, strict=True):
                total = np.zeros(len(self.low))
                for w, (form, _) in zip(weight, forms, strict=True):
                    total[: len(form)] += w * form
                constant = float(bias + sum(w * c for w, (_, c) in zip(weight, forms, strict=True)))
                outs.append((total, constant))
            forms = outs if n == len(net.layers) - 1 else [self.relu(*out) for out in outs]
        return forms[0]


def distance(f: mo.Network, g: mo.Network, box: mo.Box, limit: float) -> tuple[float, float]:
    """Lower and upper bound of sup |f - g| as HiGHS states them, `limit` seconds in all."""
    program = Program(box, f.widths[0])
    (a, c), (b, d) = program.network(f), program.network(g)
    form, constant = program.dense(a) - program.dense(b), c - d
    left, right = program.matrix()
    lower, upper = 0.0, 0.0
    for sign in (1, -1):
        found = milp(
            -sign * form,
            constraints=LinearConstraint(left, ub=right),
            integrality=np.array(program.binary, int),
            bounds=Bounds(np.array(program.low), np.array(program.high)),
            options={"time_limit": limit / 2, "mip_rel_gap": 1e-6},
        )
        bound = found.mip_dual_bound if found.mip_dual_bound is not None else -np.inf
        upper = max(upper, sign * constant - bound)
        if found.x is not None:
            x = found.x[: f.widths[0]][
                None
            ]  # the networks at the point that was found, not what the program says of it
            lower = max(lower, float(np.abs(f.logits(x) - g.logits(x)).max()))
    return lower, upper
