"""Training runs for experiments on prunability: plain loops over torch optimizers, with everything
a comparison needs.

One loop serves all: mini-batches from one seed, SGD, optionally heavy-tailed noise on the hidden
matrices, a proximal group lasso on units, or a proximal L1. What is random comes from `seed` alone,
each use from a stream of its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from moduli.common.arguments import question
from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.formats.torch_modules import read_module
from moduli.kernel.errors import ArgumentError, Asked, ShapeError
from moduli.kernel.network import Network

from .noise import theorem_step
from .torch_layers import hidden_parameters
from .torch_sgd import HeavyTailedNoise

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

    @property
    def theorem_lr(self) -> float | None:
        """The largest step for which the theorem of Wan et al. speaks, at the narrowest hidden
        layer; None without noise. From a summary of the paper: nobody checked it here.
        """
        if not self.settings.get("sigma"):
            return None
        return theorem_step(min(map(len, self.start)), self.settings["alpha"])

    def rows(self) -> list[tuple[str, str]]:
        rows = [("steps", str(self.steps)), (f"training {self.measure}", f"{self.train:.6g}")]
        rows += [(name, str(value)) for name, value in self.settings.items() if value is not None]
        if self.theorem_lr is not None:
            rows.append(("lr of the theorem", f"at most {self.theorem_lr:.2g} (from a summary)"))
        return rows

    def data(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "train": self.train,
            "measure": self.measure,
            "time": self.time,
            "theorem_lr": self.theorem_lr,
            "redrawn": self.redrawn,
            "settings": self.settings,
        }


@question
def perceptron(
    inputs: int, width: int, outputs: int, *, depth: int = 1, bias: bool = False, seed: int = 0
) -> nn.Sequential:
    """ReLU layers of one width with torch's default start.

    Raises:
        ArgumentError: a size, or the depth, that is no whole number from 1 on.

    >>> sum(p.numel() for p in perceptron(3, 5, 2).parameters())
    25
    """
    _require_sizes(inputs=inputs, width=width, outputs=outputs, depth=depth)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for fan_in in [inputs, *[width] * (depth - 1)]:
            layers += [nn.Linear(fan_in, width, bias=bias), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, outputs, bias=bias))


@question
def convolutional(
    image: Sequence[int], width: int, outputs: int, *, depth: int = 2, bias: bool = False, seed: int = 0
) -> nn.Sequential:  # fmt: skip
    """Layers of one width of 3 x 3 filters, each followed by ReLU and a pool of 2 x 2 (maxima; a last
    row or column that has no pair stays), and a linear layer, with torch's default start.

    Args:
        image: shape of a sample, (channels, height, width). width: filters of each layer. outputs:
            of the linear layer.

    Raises:
        ArgumentError: an image of other than three sizes; a size, or the depth, that is no whole number
            from 1 on.

    >>> sum(p.numel() for p in convolutional((1, 8, 8), 5, 2).parameters())
    310
    """
    if len(image) != 3 or not all(map(_is_size, image)):
        raise ArgumentError(Asked("image", list(image)), ": channels, height and width are needed")
    _require_sizes(width=width, outputs=outputs, depth=depth)
    channels, *sides = image
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for fan_in in [channels, *[width] * (depth - 1)]:
            layers += [nn.Conv2d(fan_in, width, 3, padding=1, bias=bias), nn.ReLU()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
            sides = [-(-side // 2) for side in sides]
        seen = math.prod(sides) * width
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(seen, outputs, bias=bias))


def _is_size(value: Any) -> bool:
    return bool(isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 1)


def _require_sizes(**sizes: Any) -> None:
    for name, value in sizes.items():
        if not _is_size(value):
            raise ArgumentError(Asked(name, value), ": a whole number from 1 on is needed")


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
        x: [samples, ...]. y: class numbers (whole, cross-entropy) or values (mean square error over
            all outputs).
        noise: alpha, sigma, kind ("isotropic"), truncation, convention; `quiet`: clean steps at the
            end; `annealed`: sigma falls linearly to zero. penalty: strengths of "group_lasso"
            (proximal, on rows of hidden matrices), "l1" (proximal, on their entries),
            "weight_decay". clip: rows of hidden matrices are cut to so many median norms.
        target: stop at this training accuracy, or mean square error, looked at every 100 steps.
            seed: of batches and noise.

    Returns:
        A `Training`: the trained copy, its network, and what was reached.

    Raises:
        ValueError: unknown settings, targets that do not fit the outputs, or training that
            diverged.

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
    points, wanted, classes = _samples(x, y)
    loss = nn.functional.cross_entropy if classes else nn.functional.mse_loss
    _require_outputs(model, points, wanted, classes)
    matrices = hidden_parameters(model, points[:2])
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
            if target is not None:
                reached = _score(model, points, wanted, classes)
                if (reached >= target) if classes else (reached <= target):
                    break
    model.eval()
    settings = {"lr": lr, "batch": batch, "seed": seed, **noise, **penalty, "clip": clip}
    measure = "accuracy" if classes else "mean square error"
    train = _score(model, points, wanted, classes)
    redrawn = added.redrawn if added else 0
    return Training("estimated", model, start, done, train, time, measure, redrawn, settings)


def _samples(x: Any, y: Any) -> tuple[Tensor, Tensor, bool]:
    """Copies of both as torch trains on them (arrays may be read-only), and whether y are classes."""
    # of tensors, which know no copies, arrays are made first
    table, targets = np.array(np.asarray(x), dtype=np.float32), np.array(np.asarray(y))
    if len(table) != len(targets) or not len(table):
        raise ShapeError(
            f"{len(table)} inputs and {len(targets)} targets; as many of both are needed"
        )
    if targets.dtype.kind == "f":
        return torch.from_numpy(table), torch.tensor(targets.reshape(len(table), -1)).float(), False
    if targets.dtype.kind not in "iub" or targets.size != len(table):
        raise ArgumentError(
            Asked("y", y, f"{targets.dtype} {targets.shape}"),
            ": one whole number for each sample (a class) or floats (values) are needed",
        )
    return torch.from_numpy(table), torch.from_numpy(targets.reshape(-1).astype(np.int64)), True


@torch.no_grad()
def _require_outputs(model: nn.Module, x: Tensor, y: Tensor, classes: bool) -> None:
    """Targets that the outputs can meet; torch would spread them over each other with a warning."""
    was = model.training
    out = model.eval()(x[:1])
    model.train(was)
    least, most = float(y.min()), float(y.max())
    if classes and (least < 0 or most >= out.shape[-1]):
        raise ShapeError(
            f"classes run from {least:g} to {most:g} and the module has {out.shape[-1]} outputs"
        )
    if not classes and out.shape[1:] != y.shape[1:]:
        raise ShapeError(
            f"targets have {y.shape[1]} values and the module has outputs of shape {tuple(out.shape[1:])}"
        )


@torch.no_grad()
def _score(model: nn.Module, x: Tensor, y: Tensor, classes: bool) -> float:
    out = torch.cat([model(x[at : at + 5000]) for at in range(0, len(x), 5000)])
    if classes:
        return float((out.argmax(dim=1) == y).double().mean())
    return float((out - y).square().mean())


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
