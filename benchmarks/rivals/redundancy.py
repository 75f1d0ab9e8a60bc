"""Hidden units that a function does not need, planted in networks: what each tool takes away, and
what that does to it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tool_onnxsim
import tool_onnxslim
import tool_simplify
import tool_torch_pruning
from common import change, failed, mlp, present, table, timed

import moduli as mo

BOX = mo.Box(-1, 1)


def grown(
    net: mo.Network, w: np.ndarray, b: np.ndarray, out: np.ndarray, shift: np.ndarray | float = 0.0
) -> mo.Network:
    """`net` with more units in its first hidden layer, whose order is then shuffled."""
    first, second, *rest = net.layers
    order = np.random.default_rng(9).permutation(len(first.bias) + len(b))
    weight, bias = np.vstack([first.weight, w])[order], np.concatenate([first.bias, b])[order]
    inner = mo.Layer(
        np.hstack([second.weight, out])[:, order], second.bias + shift, second.activation
    )
    return mo.Network((mo.Layer(weight, bias, first.activation), inner, *rest))


def planted() -> Iterator[tuple[str, mo.Network, int, mo.Box | None]]:
    """What is planted, the network, a number of units that suffices, and where the function has to
    stay (None: everywhere).
    """
    rng = np.random.default_rng(0)
    base = mlp((8, 32, 16, 3), 0)
    w, b, out = base.layers[0].weight, base.layers[0].bias, base.layers[1].weight
    random = np.round(rng.standard_normal((16, 16)) * 2**6) / 2**8
    nothing = np.zeros((16, 8))
    yield (
        "16 units zeroed by a pruner",
        grown(base, nothing, np.zeros(16), random),
        base.units,
        None,
    )
    level = np.arange(1.0, 17.0) / 16
    yield (
        "16 constant units",
        grown(base, nothing, level, random, -random @ level),
        base.units,
        None,
    )
    scale = 2.0 ** rng.integers(-2, 3, 16)
    multiples = grown(base, w[:16] * scale[:, None], b[:16] * scale, out[:, :16] / 4)
    yield "16 multiples of others, ReLU", multiples, base.units, None
    tanh = mlp((8, 32, 3), 1, "tanh")
    v, c = tanh.layers[0].weight, tanh.layers[0].bias
    signs = rng.choice([-1.0, 1.0], 16)
    yield (
        "16 twins up to sign, tanh",
        grown(tanh, v[:16] * signs[:, None], c[:16] * signs, random[:3]),
        tanh.units,
        None,
    )
    small = np.round(rng.standard_normal((16, 8)) * 2**6) / 2**10
    yield "16 units dead on the box", grown(base, small, np.full(16, -2.0), random), base.units, BOX
    yield (
        "16 units active on the box",
        grown(base, small, np.full(16, 2.0), random),
        base.units + 8,
        BOX,
    )
    parts = [
        rng.integers(-1, 2, (32, 8)),
        rng.integers(-2, 3, 32) / 4,
        rng.integers(-1, 2, (3, 32)),
        np.zeros(3),
    ]
    ternary = mo.Network.mlp(*parts, activation="relu")
    yield "nothing; weights -1, 0 and 1", ternary, ternary.units, None


def cell(net: mo.Network, found: mo.Network) -> str:
    return f"{found.units}, {change(net, found, BOX):.2g}"


def main() -> None:
    peers = present(tool_torch_pruning, tool_simplify, tool_onnxslim, tool_onnxsim)
    rows, spent = [], np.zeros(1 + len(peers))
    for name, net, enough, on in planted():
        small, seconds = timed(lambda net=net, on=on: mo.compress(net, on=on), 3)
        assert small.check()
        row, times = [cell(net, small.network)], [seconds]
        for peer in peers:
            try:
                found, seconds = timed(
                    lambda net=net, enough=enough, on=on, peer=peer: peer.shrink(net, enough, on), 3
                )
                row.append(cell(net, found))
            except Exception as error:  # a tool that fails is a cell, not the end of the comparison
                row.append(failed(error))
            times.append(seconds)
        rows.append((name, net.units, enough, *row))
        spent += times
    rows.append(("seconds in all", "", "", *(f"{seconds:.2g}" for seconds in spent)))
    rows.append(("proof", "", "", "checked", *(peer.PROOF for peer in peers)))
    head = ("planted", "units", "enough", "moduli", *(peer.NAME for peer in peers))
    table("Units left, largest change of an output at 10^4 points of [-1, 1]^n", head, rows)


if __name__ == "__main__":
    main()
