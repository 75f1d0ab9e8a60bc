"""Training runs for experiments on prunability: plain loops over torch optimizers, with everything
a comparison needs.

One loop serves all: mini-batches from one seed, SGD, optionally heavy-tailed noise on the hidden
matrices, a proximal group lasso on units, or a proximal L1. What is random comes from `seed` alone,
each use from a stream of its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from moduli.common.arguments import question
from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.formats.torch_modules import read_module
from moduli.kernel.errors import ShapeError
from moduli.kernel.network import Network

from .torch_sgd import HeavyTailedNoise, hidden_parameters

NOISE = ("kind", "alpha", "sigma", "truncation", "quiet", "convention", "annealed")
PENALTIES = ("group_lasso", "l1", "weight_decay")
CHECK = 100


@dataclass(frozen=True, eq=False, repr=False)
class Training(Result):
    """A trained copy of a module, and how it got there.

    Attributes:
        module: the copy, for evaluation. start: hidden weights before the first step. steps: made.
            train: accuracy (classes) or mean square error (values) on the training data. time: how
            long noise of full size would act alike.
    """

    module: nn.Module
    start: tuple[Any, ...]
    steps: int
    train: float
    time: float
    measure: str
    redrawn: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    kind: ClassVar[str] = "train"

    @property
    def network(self) -> Network:
        return read_module(self.module)

    @property
    def statement(self) -> str:
        return f"{self.steps} steps, training {self.measure} {self.train:.4g}"

    def rows(self) -> list[tuple[str, str]]:
        return [("steps", str(self.steps)), (f"training {self.measure}", f"{self.train:.6g}"), *(
            (name, str(value)) for name, value in self.settings.items() if value is not None
        )]  # fmt: skip

    def data(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "train": self.train,
            "time": self.time,
            "redrawn": self.redrawn,
            "settings": self.settings,
        }


@question
def perceptron(
    inputs: int, width: int, outputs: int, *, depth: int = 1, bias: bool = False, seed: int = 0
) -> nn.Sequential:
    """ReLU layers of one width with torch's default start.

    >>> sum(p.numel() for p in perceptron(3, 5, 2).parameters())
    25
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for fan_in in [inputs, *[width] * depth][:depth]:
            layers += [nn.Linear(fan_in, width, bias=bias), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, outputs, bias=bias))


@question
def fit(
    module: nn.Module,
    x: Any,
    y: Any,
    *,
    steps: int = 600,
    lr: float = 0.02,
    batch: int = 100,
    momentum: float = 0.0,
    noise: Mapping[str, Any] | None = None,
    penalty: Mapping[str, Any] | None = None,
    clip: float | None = None,
    target: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Training:
    """Train a copy of a module by SGD, with heavy-tailed noise or a penalty that makes units
    vanish.

    Args:
        x: [samples, ...]. y: class numbers (cross-entropy) or values (mean square error).
        noise: alpha, sigma, kind ("isotropic"), truncation, convention; `quiet`: clean steps at the
            end; `annealed`: sigma falls linearly to zero. penalty: strengths of "group_lasso"
            (proximal, on rows of hidden matrices), "l1" (proximal, on their entries),
            "weight_decay". clip: rows of hidden matrices are cut to so many median norms.
        target: stop at this training accuracy, looked at every 100 steps. seed: of batches and
            noise.

    Raises:
        ValueError: unknown settings, or training that diverged.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((200, 4)); y = (x[:, 0] > 0).astype(int)
    >>> run = fit(perceptron(4, 16, 2), x, y, steps=200, lr=0.1, batch=20)
    >>> run.train > 0.9, run.network.widths
    (True, (4, 16, 2))
    """
    noise, penalty = dict(noise or {}), dict(penalty or {})
    for given, known in ((noise, NOISE), (penalty, PENALTIES)):
        if set(given) - set(known):
            raise ValueError(
                f"unknown {', '.join(sorted(set(given) - set(known)))}; known: {', '.join(known)}"
            )
    model = copy.deepcopy(module).train()
    points, wanted = (
        torch.as_tensor(np.asarray(x), dtype=torch.float32),
        torch.as_tensor(np.asarray(y)),
    )
    if len(points) != len(wanted) or not len(points):
        raise ShapeError(
            f"{len(points)} inputs and {len(wanted)} targets; as many of both are needed"
        )
    classes = not wanted.is_floating_point()
    wanted = wanted.long() if classes else wanted.float().reshape(len(wanted), -1)
    loss = nn.functional.cross_entropy if classes else nn.functional.mse_loss
    matrices = hidden_parameters(model)
    start = tuple(p.detach().double().numpy().copy() for p in matrices)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=momentum, weight_decay=penalty.get("weight_decay", 0.0)
    )
    added = None
    if noise.get("sigma"):
        options = {name: noise[name] for name in ("truncation", "convention") if name in noise}
        added = HeavyTailedNoise(
            optimizer,
            noise["alpha"],
            noise["sigma"],
            noise.get("kind", "isotropic"),
            on=matrices,
            seed=seed,
            **options,
        )
    order, quiet = torch.Generator().manual_seed(seed), int(noise.get("quiet", 0))
    done, time, queue = 0, 0.0, torch.empty(0, dtype=torch.long)
    for done in range(1, steps + 1):
        if added is not None:
            left = (
                max(0.0, 1 - (done - 1) / max(1, steps - quiet))
                if noise.get("annealed")
                else float(done <= steps - quiet)
            )
            time += lr * left ** noise["alpha"]
            for group in optimizer.param_groups:
                group["sigma"] = noise["sigma"] * left
        if len(queue) < batch:
            queue = torch.cat([queue, torch.randperm(len(points), generator=order)])
        pick, queue = queue[:batch], queue[batch:]
        optimizer.zero_grad()
        value = loss(model(points[pick]), wanted[pick])
        torch.autograd.backward(value)
        optimizer.step()
        _shrink(matrices, lr, penalty, clip)
        if done % CHECK == 0 or done == steps:
            if not math.isfinite(value.item()):
                raise ValueError(
                    f"training diverged at step {done} (loss {value.item()}); lower lr or sigma"
                )
            if progress is not None:
                progress(done, steps, "training")
            if target is not None and classes and _score(model, points, wanted, classes) >= target:
                break
    model.eval()
    settings = {"lr": lr, "batch": batch, "seed": seed, **noise, **penalty, "clip": clip}
    measure = "accuracy" if classes else "mean square error"
    train = _score(model, points, wanted, classes)
    redrawn = added.redrawn if added else 0
    return Training("estimated", model, start, done, train, time, measure, redrawn, settings)


@torch.no_grad()
def _score(model: nn.Module, x: Tensor, y: Tensor, classes: bool) -> float:
    out = torch.cat([model(x[at : at + 5000]) for at in range(0, len(x), 5000)])
    if classes:
        return float((out.argmax(dim=1) == y).double().mean())
    return float((out - y).square().sum(dim=1).mean())


@torch.no_grad()
def _shrink(
    matrices: list[nn.Parameter], lr: float, penalty: Mapping[str, float], clip: float | None
) -> None:
    """Proximal steps, and the cut of rows far above the others."""
    for w in matrices:
        if penalty.get("l1"):
            w.copy_(torch.sign(w) * (w.abs() - lr * penalty["l1"]).clamp_(min=0))
        if not (penalty.get("group_lasso") or clip):
            continue
        rows = w.flatten(1)
        norm = rows.norm(dim=1, keepdim=True)
        if penalty.get("group_lasso"):
            rows.mul_((1 - lr * penalty["group_lasso"] / norm.clamp(min=1e-30)).clamp_(min=0))
        if clip:
            norm = rows.norm(dim=1, keepdim=True)
            rows.mul_((clip * norm.median() / norm.clamp(min=1e-30)).clamp_(max=1))
