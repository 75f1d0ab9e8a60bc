"""What one writes with numpy, scipy and torch alone: units that differ, students, dimension, linear
pieces, stable noise.
"""

from __future__ import annotations

import numpy as np
from common import mlp, shape, table, timed

import moduli as mo

BOX = mo.Box(-1, 1)
HEAD = ("tool", "answer", "what it is", "seconds")


def duplicates() -> None:
    """200 000 tanh units with 32 inputs, a quarter are copies, a tenth of all have the other sign."""
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((200_000, 32)), rng.standard_normal(200_000)
    w[100_000:150_000], b[100_000:150_000] = w[:50_000], b[:50_000]
    w[:20_000] *= -1
    b[:20_000] *= -1
    net = mo.Network.mlp(w, b, rng.uniform(0.5, 1.0, (1, len(b))), [0.0])
    rows = np.hstack([w, b[:, None]])
    plain, first = timed(lambda: len(np.unique(rows, axis=0)), 2)
    units, second = timed(lambda: mo.rank(net), 2)
    table(
        f"Units of {shape(net)} tanh that differ",
        HEAD,
        [
            ("moduli rank", int(units), "the least number, proved", second),
            (
                "numpy.unique(axis=0)",
                plain,
                "equal rows counted once; twins up to sign count twice",
                first,
            ),
        ],
    )


def hidden(net: mo.Network, x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ net.layers[0].weight.T + net.layers[0].bias)


def students() -> None:
    """8-128-4 tanh to 16 units under N(0, 1): mean square error over variance, at 10^5 points not
    used before.
    """
    from scipy.cluster.vq import kmeans2

    net = mlp((8, 128, 4), 0, "tanh")
    fresh = mo.Gaussian().sample(100_000, 8, 5)
    rng = np.random.default_rng(1)

    def error(student: mo.Network) -> float:
        truth = net.logits(fresh)
        return float(((student.logits(fresh) - truth) ** 2).mean() / truth.var())

    def refitted(rows: np.ndarray) -> mo.Network:
        first = mo.Network.mlp(rows[:, :-1], rows[:, -1], np.zeros((4, len(rows))), np.zeros(4))
        x = rng.standard_normal((20_000, 8))
        design = np.hstack([hidden(first, x), np.ones((len(x), 1))])
        out = np.linalg.lstsq(design, net.logits(x), rcond=None)[0].T
        return mo.Network.mlp(rows[:, :-1], rows[:, -1], out[:, :-1], out[:, -1])

    rows = np.hstack([net.layers[0].weight, net.layers[0].bias[:, None]])
    size = np.linalg.norm(net.layers[1].weight, axis=0) * np.linalg.norm(rows, axis=1)
    small, first = timed(lambda: mo.compress(net, units=16, on=mo.Gaussian()).network)
    centres, second = timed(
        lambda: refitted(kmeans2(rows, 16, minit="++", rng=np.random.default_rng(0))[0])
    )
    largest, third = timed(lambda: refitted(rows[np.argsort(-size)[:16]]))
    table(
        f"{shape(net)} tanh to 16 units under N(0, 1)",
        ("tool", "mean square error / variance, fresh points", "seconds"),
        [
            ("moduli compress", error(small), first),
            ("k-means of the units, least squares", error(centres), second),
            ("the largest units, least squares", error(largest), third),
        ],
    )


def dimensions() -> None:
    """Rank of the Jacobian of 2000 outputs with respect to the parameters, singular values above
    1e-9 of the largest.
    """
    import torch
    from torch.func import functional_call, jacrev, vmap

    rows: list[tuple[object, ...]] = []
    for widths in ((2, 8, 8, 1), (2, 16, 16, 1), (3, 8, 8, 1)):
        net = mlp(widths, 0)
        module = mo.to_torch(net)
        points = torch.from_numpy(BOX.sample(2_000, widths[0], 0))

        def plain(module: torch.nn.Module = module, points: torch.Tensor = points) -> int:
            parameters = {name: p.detach() for name, p in module.named_parameters()}
            each = vmap(
                jacrev(lambda p, x: functional_call(module, p, (x[None],))[0, 0]), (None, 0)
            )(parameters, points)
            jacobian = torch.cat([part.flatten(1) for part in each.values()], 1)
            values = torch.linalg.svdvals(jacobian)
            return int((values > 1e-9 * values[0]).sum())

        ours, first = timed(lambda net=net: mo.dimension(net, on=BOX), 2)
        count, second = timed(plain, 2)
        answer = str(ours.lower) if ours.lower == ours.upper else f"{ours.lower} to {ours.upper}"
        rows.append(
            (
                f"{shape(net)}, {net.parameters} parameters",
                "moduli dimension",
                answer,
                "all pieces, proved",
                first,
            )
        )
        rows.append(("", "torch.func and SVD", count, "2000 points, a threshold", second))
    table("Functional dimension on [-1, 1]^n", ("network", *HEAD), rows)


def regions() -> None:
    """Patterns of active units at 10^6 random points, against all cells."""
    rows: list[tuple[object, ...]] = []
    for widths in ((2, 16, 16, 1), (2, 32, 32, 1), (3, 8, 8, 1)):
        net = mlp(widths, 0)

        def patterns(net: mo.Network = net) -> int:
            x = BOX.sample(1_000_000, net.widths[0], 0)
            signs = []
            for layer in net.layers[:-1]:
                x = np.maximum(x @ layer.weight.T + layer.bias, 0)
                signs.append(np.packbits(x > 0, axis=1))
            return len(np.unique(np.hstack(signs), axis=0))

        cells, first = timed(lambda net=net: mo.pieces(net, on=BOX).cells, 2)
        count, second = timed(patterns, 2)
        rows.append((shape(net), "moduli pieces", cells, "every cell, exact arithmetic", first))
        rows.append(
            ("", "signs at 10^6 random points", count, "cells that a point fell into", second)
        )
    table("Linear pieces on [-1, 1]^n", ("network", *HEAD), rows)


def noise() -> None:
    """10^6 draws with alpha = 1.75; the characteristic function at 1 is exp(-1)."""
    from scipy.stats import levy_stable

    rows = []
    draws = (
        ("moduli stable_noise", lambda: mo.stable_noise((1_000_000,), 1.75, seed=0)),
        ("scipy levy_stable.rvs", lambda: levy_stable.rvs(1.75, 0, size=1_000_000, random_state=0)),
    )
    for name, work in draws:
        x, seconds = timed(work, 3)
        rows.append((name, 1.0 / seconds, float(np.cos(x).mean() - np.exp(-1))))
    table(
        "Symmetric stable noise, one thread; the error of a mean of 10^6 cosines is about 0.0005",
        ("tool", "million a second", "mean of cos minus exp(-1)"),
        rows,
    )


def main() -> None:
    for question in (duplicates, students, dimensions, regions, noise):
        question()


if __name__ == "__main__":
    main()
