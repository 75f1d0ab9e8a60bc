"""Which training gives the smallest network that is provably equal to the trained one, at equal accuracy?

python benchmarks/bench_smaller_training.py      digits, 200 hidden ReLU units; minutes

Each method has a grid of strengths; counted is the network with the fewest units left by `compress`
(proved, on all inputs and on the box of pixel values) among those with the wanted test accuracy.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

import moduli as mo
from moduli.pytorch import fit, perceptron
from moduli.training.experiments import load_data

WIDTH, STEPS, LR, BATCH = 200, 1500, 0.1, 100
WANTED, SEEDS = 0.955, 3
DIGITS = load_data("digits")
X, Y = torch.as_tensor(DIGITS.x), torch.as_tensor(DIGITS.y)
PIXELS = mo.Box(DIGITS.x.min().astype(float), DIGITS.x.max().astype(float))
Nets = Iterator[tuple[str, mo.Network]]


def trained(seed: int, steps: int = STEPS, module: nn.Module | None = None, **options) -> nn.Module:
    start = module or perceptron(64, WIDTH, 10, bias=True, seed=seed)
    return fit(
        start, DIGITS.x, DIGITS.y, steps=steps, lr=LR, batch=BATCH, seed=seed, **options
    ).module


def network(module: nn.Module) -> mo.Network:
    net = mo.load(module)
    assert isinstance(net, mo.Network)
    return net


def plain(seed: int) -> Nets:
    yield "", network(trained(seed))


def group_lasso(seed: int) -> Nets:
    for strength in (0.02, 0.04, 0.06, 0.08, 0.1):
        yield f"{strength}", network(trained(seed, penalty={"group_lasso": strength}))


def entries(seed: int) -> Nets:
    for strength in (0.001, 0.002, 0.004):
        yield f"{strength}", network(trained(seed, penalty={"l1": strength}))


def masked(module: nn.Module, keep: torch.Tensor, steps: int, seed: int) -> nn.Module:
    """Training goes on with some hidden units held at zero."""
    first, last = module[0], module[2]
    module = module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    order = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        with torch.no_grad():
            first.weight[~keep], first.bias[~keep] = 0, 0
            last.weight[:, ~keep] = 0
        pick = torch.randint(len(X), (BATCH,), generator=order)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(X[pick]), Y[pick]).backward()
        optimizer.step()
    with torch.no_grad():
        first.weight[~keep], first.bias[~keep] = 0, 0
        last.weight[:, ~keep] = 0
    return module.eval()


def largest(module: nn.Module, count: int) -> torch.Tensor:
    """The units with the largest product of the norms of what goes in and out."""
    sizes = module[0].weight.norm(dim=1) * module[2].weight.norm(dim=0)
    keep = torch.zeros(len(sizes), dtype=torch.bool)
    keep[sizes.argsort(descending=True)[:count]] = True
    return keep


def magnitude(seed: int) -> Nets:
    start = trained(seed, STEPS // 2)
    for count in (60, 40, 30, 20, 15, 12):
        one = copy.deepcopy(start)
        yield f"{count} units kept", network(masked(one, largest(one, count), STEPS // 2, seed))


def heavy_tails(seed: int) -> Nets:
    yield "as trained", network(trained(seed, noise={"alpha": 1.75, "sigma": 0.02}))
    start = trained(seed, STEPS // 2, noise={"alpha": 1.75, "sigma": 0.02, "annealed": True})
    for count in (60, 40, 30, 20, 15, 12):
        one = copy.deepcopy(start)
        name = f"{count} units kept, trained on without noise"
        yield name, network(masked(one, largest(one, count), STEPS // 2, seed))


def heavy_tails_and_lasso(seed: int) -> Nets:
    noise = {"alpha": 1.75, "sigma": 0.01, "annealed": True}
    for strength in (0.02, 0.04, 0.06, 0.08, 0.1):
        yield f"{strength}", network(trained(seed, noise=noise, penalty={"group_lasso": strength}))


def gates(seed: int) -> Nets:
    """Hard concrete gates on units (Louizos, Welling, Kingma 2018), with the expected number of
    open ones as penalty; at the end they are folded into the outgoing weights.
    """
    low, high, heat = -0.1, 1.1, 2 / 3
    for strength in (0.002, 0.005, 0.01, 0.02):
        module = perceptron(64, WIDTH, 10, bias=True, seed=seed).train()
        gate = nn.Parameter(torch.full((WIDTH,), 2.0))
        optimizer = torch.optim.SGD(
            [{"params": module.parameters()}, {"params": [gate], "lr": 20 * LR}], lr=LR
        )
        g = torch.Generator().manual_seed(seed)
        for _ in range(STEPS):
            pick = torch.randint(len(X), (BATCH,), generator=g)
            u = torch.rand(WIDTH, generator=g).clamp(1e-6, 1 - 1e-6)
            open_ = torch.sigmoid((torch.logit(u) + gate) / heat) * (high - low) + low
            out = module[2](torch.relu(module[0](X[pick])) * open_.clamp(0, 1))
            expected = torch.sigmoid(gate - heat * math.log(-low / high)).sum()
            loss = nn.functional.cross_entropy(out, Y[pick]) + strength * expected
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            module[2].weight *= (torch.sigmoid(gate) * (high - low) + low).clamp(0, 1)
        yield f"{strength}", network(module.eval())


def batch_norm(seed: int) -> Nets:
    """Weight decay on everything, the scale of the normalisation included."""
    for decay in (0.003, 0.01, 0.03, 0.1):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Linear(64, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)
        )
        yield f"{decay}", network(trained(seed, module=module, penalty={"weight_decay": decay}))


METHODS: dict[str, Callable[[int], Nets]] = {
    "SGD": plain, "SGD, weight decay, batch norm": batch_norm, "L1 on entries": entries,
    "magnitude of units, trained on": magnitude, "L0-like gates": gates, "group lasso": group_lasso,
    "heavy tails 1.75": heavy_tails, "heavy tails, group lasso": heavy_tails_and_lasso,
}  # fmt: skip


def accuracy(net: mo.Network) -> float:
    return float((net.logits(DIGITS.x_test.astype(float)).argmax(axis=1) == DIGITS.y_test).mean())


def main() -> None:
    print(
        f"| training | strength | accuracy | units of {WIDTH}, all inputs (seeds) | on the box of pixels | slack |\n"
        "|---|---|---|---|---|---|"
    )
    for name, method in METHODS.items():
        found = []
        for seed in range(SEEDS):
            good = [(how, net) for how, net in method(seed) if accuracy(net) >= WANTED]
            sizes = [mo.compress(net) for _, net in good]
            for small in sizes:
                assert small.check()
            if good:
                best = int(np.argmin([small.network.units for small in sizes]))
                box = mo.compress(good[best][1], on=PIXELS, budget=200)
                found.append(
                    (sizes[best].network.units, box.network.units, accuracy(good[best][1]),
                    good[best][0], float(sizes[best].slack))
                )  # fmt: skip
        if not found:
            print(f"| {name} | none reaches {WANTED} | | | | |", flush=True)
            continue
        units, boxed, scores, how, slack = zip(*found, strict=True)
        print(
            f"| {name} | {', '.join(dict.fromkeys(how))} | {np.median(scores):.3f} | {np.median(units):.0f} "
            f"({', '.join(map(str, units))}) | {np.median(boxed):.0f} | {max(slack):.1g} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
