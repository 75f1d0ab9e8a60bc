"""A transformer encoder on digits, its feed-forward blocks narrowed; and one block of width 4096.

python benchmarks/bench_shrink.py [digits] [wide]      (both by default)
"""

from __future__ import annotations

import copy
import resource
import sys
import time
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from moduli.pytorch import shrink

WIDTH, DEPTH, HIDDEN = 32, 2, 128


class Encoder(torch.nn.Module):
    """The eight rows of a digit are its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = (
            torch.nn.Linear(8, WIDTH),
            torch.nn.Parameter(0.1 * torch.randn(8, WIDTH)),
        )
        layer = torch.nn.TransformerEncoderLayer(WIDTH, 4, HIDDEN, 0.1, "gelu", batch_first=True)
        self.encoder, self.head = (
            torch.nn.TransformerEncoder(layer, DEPTH),
            torch.nn.Linear(WIDTH, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.head(self.encoder(self.embed(x) + self.place).mean(dim=1))
        return hidden


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (
        torch.tensor(x[order] / 16, dtype=torch.float32).reshape(-1, 8, 8),
        torch.tensor(y[order]),
    )
    return x[:1200], y[:1200], x[1200:], y[1200:]


def trained(x: torch.Tensor, y: torch.Tensor) -> Encoder:
    torch.manual_seed(0)
    net = Encoder()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(40):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    return net.eval()


def magnitude(net: Encoder, x: torch.Tensor, kept: int, refit: bool) -> Encoder:
    """Keep the units with the largest weights; fit the second Linear again by least squares."""
    small = copy.deepcopy(net)
    for layer, old in zip(small.encoder.layers, net.encoder.layers, strict=True):
        inputs: list[torch.Tensor] = []
        hook = old.linear1.register_forward_pre_hook(
            lambda _, args, to=inputs: to.append(args[0].reshape(-1, WIDTH))
        )
        net.train()  # the fast path in evaluation mode calls no hooks
        for m in net.modules():
            if isinstance(m, torch.nn.Dropout):
                m.p = 0.0
        net(x)
        net.eval()
        hook.remove()
        z = torch.nn.functional.gelu(old.linear1(inputs[0]))
        size = old.linear1.weight.norm(dim=1) * old.linear2.weight.norm(dim=0)
        keep = size.argsort(descending=True)[:kept].sort().values
        layer.linear1.weight, layer.linear1.bias = (
            torch.nn.Parameter(p[keep]) for p in (old.linear1.weight, old.linear1.bias)
        )
        weight, bias = old.linear2.weight[:, keep], old.linear2.bias
        if refit:
            target = z @ old.linear2.weight.T + bias
            full = torch.linalg.lstsq(
                torch.cat([z[:, keep], torch.ones(len(z), 1)], dim=1).double(), target.double()
            ).solution
            weight, bias = full[:-1].T.float(), full[-1].float()
        layer.linear2.weight, layer.linear2.bias = (
            torch.nn.Parameter(weight.contiguous()),
            torch.nn.Parameter(bias),
        )
    return small


def accuracy(net: Any, x: torch.Tensor, y: torch.Tensor) -> float:
    torch.backends.mha.set_fastpath_enabled(False)
    return float((net(x).argmax(dim=1) == y).float().mean())


@torch.no_grad()
def scores(net: Encoder, x: torch.Tensor, held: torch.Tensor, y: torch.Tensor) -> None:
    print(f"the encoder itself, width {HIDDEN}: {accuracy(net, held, y):.3f}")
    print(
        "\n| kept | magnitude | magnitude, refitted | shrink, gaussian | shrink, samples | errors of blocks | s |"
    )
    print("|---|---|---|---|---|---|---|")
    for kept in (2, 4, 8, 16, 32, 64):
        start = time.perf_counter()
        one = shrink(net, x, units=kept)
        seconds = time.perf_counter() - start
        two = shrink(net, x, units=kept, on="samples")
        nets = (
            magnitude(net, x, kept, False),
            magnitude(net, x, kept, True),
            one.module,
            two.module,
        )
        errors = ", ".join(f"{b.error.relative:.3f}" for b in one.blocks)
        print(
            "|",
            kept,
            "|",
            *(f"{accuracy(n, held, y):.3f} |" for n in nets),
            errors,
            f"| {seconds:.0f} |",
            flush=True,
        )


def digits() -> None:
    x, y, held, labels = data()
    scores(trained(x, y), x, held, labels)


def wide() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(1024, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 1024)
    )
    x = torch.randn(4096, 1024) @ torch.randn(1024, 1024) / 32
    for on in ("gaussian", "samples"):
        start = time.perf_counter()
        small = shrink(net, x, units=1024, on=on)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"4096 -> 1024, {on}: {time.perf_counter() - start:.0f} s, peak {peak:.1f} GiB, {small.statement}",
            flush=True,
        )


if __name__ == "__main__":
    for part in sys.argv[1:] or ("digits", "wide"):
        {"digits": digits, "wide": wide}[part]()
