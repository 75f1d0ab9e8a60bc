"""Two networks with one function, hidden from each other by symmetries: is the twin found, how far
off is the midpoint?
"""

from __future__ import annotations

import numpy as np
import tool_rebasin
from common import change, mlp, present, shape, table, timed

import moduli as mo

BOX = mo.Box(-1, 1)


def permuted(net: mo.Network, seed: int) -> mo.Network:
    """The same function, hidden units in another order."""
    rng, layers = np.random.default_rng(seed), list(net.layers)
    for k in range(len(layers) - 1):
        here, after, order = layers[k], layers[k + 1], rng.permutation(len(layers[k].bias))
        layers[k] = mo.Layer(here.weight[order], here.bias[order], here.activation)
        layers[k + 1] = mo.Layer(after.weight[:, order], after.bias, after.activation)
    return mo.Network(tuple(layers))


def row(
    tool: str, moved: mo.Network, b: mo.Network, seconds: object, proof: str
) -> tuple[object, ...]:
    apart = float(np.abs(moved.flat() - b.flat()).max())
    middle = b.with_flat((moved.flat() + b.flat()) / 2)
    return tool, "yes" if apart < 1e-5 else "no", apart, change(middle, b, BOX), proof, seconds


def main() -> None:
    peers = present(tool_rebasin)
    head = (
        "network, hidden",
        "tool",
        "twin found",
        "parameters apart",
        "outputs of the midpoint off",
        "proof",
        "seconds",
    )
    rows: list[tuple[object, ...]] = []
    for widths, activation in (
        ((16, 64, 64, 10), "relu"),
        ((16, 64, 64, 10), "tanh"),
        ((784, 512, 512, 10), "relu"),
    ):
        b = mlp(widths, 0, activation)
        for hidden, a in (
            ("in another order", permuted(b, 1)),
            ("by any symmetry", mo.symmetries(b).random(seed=1)(b)),
        ):
            name = f"{shape(b)} {activation}, {hidden}"
            rows.append((name, *row("as they are", a, b, "", "")))
            found, seconds = timed(lambda a=a, b=b: mo.align(a, b), 3)
            rows.append(
                (
                    "",
                    *row(
                        "moduli align",
                        found.network,
                        b,
                        seconds,
                        "checked" if found.check() else "rejected",
                    ),
                )
            )
            same, seconds = timed(lambda a=a, b=b: mo.equivalent(a, b), 3)
            rows.append(
                (
                    "",
                    "moduli equivalent",
                    same.status,
                    "",
                    "",
                    "checked" if same.certificate else "",
                    seconds,
                )
            )
            for peer in peers:
                moved, seconds = timed(lambda a=a, b=b, peer=peer: peer.match(a, b), 3)
                rows.append(("", *row(peer.NAME, moved, b, seconds, "none")))
    table("Two networks with one function, which symmetries hide from each other", head, rows)


if __name__ == "__main__":
    main()
