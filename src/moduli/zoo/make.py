"""Trains the zoo on scikit-learn's digits: ``python -m moduli.zoo.make [FOLDER]``.

One core, under a minute, the same files every time on one machine and one set of library versions.
Nothing is planted: redundant units are what proximal group lasso sets to zero and what a grid makes
equal.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from moduli.kernel.network import Network

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """One network and how it is trained.

    Args:
        pool: side of the pixel blocks that are averaged to one input.
        shift: probability that a batch is moved by up to one pixel.
        lasso: strength of the group lasso on incoming weights (biases are free) and on outgoing
            weights.
        grid: spacing to which the parameters of the hidden layer, and those of the output layer,
            are rounded at last.
    """

    name: str
    widths: tuple[int, ...]
    activation: str
    says: str
    pool: int = 1
    epochs: int = 500
    shift: float = 0.3
    decay: float = 0.0
    lasso: tuple[float, float] = (0.0, 0.0)
    grid: tuple[float, float] | None = None
    seed: int = 0


RECIPES = (
    Recipe(
        "digits-tanh",
        (64, 256, 10),
        "tanh",
        "proximal group lasso (0.0005) on the incoming and on the outgoing weights of every unit; biases are free",
        lasso=(5e-4, 5e-4),
    ),
    Recipe(
        "digits-tanh-grid",
        (4, 128, 10),
        "tanh",
        "on the means of the four quadrants, proximal group lasso (0.0004 incoming, 0.0002 outgoing); at last the hidden "
        "layer is rounded to multiples of 1/2 and the output layer to multiples of 1/4",
        pool=4,
        shift=0.0,
        lasso=(4e-4, 2e-4),
        grid=(0.5, 0.25),
    ),
    Recipe("digits-relu", (64, 64, 32, 10), "relu", "weight decay 0.0005", epochs=300, decay=5e-4),
    Recipe("digits-plain", (64, 32, 10), "tanh", "no penalty", epochs=300),
)

PROVENANCE = """\
# Where the networks of the zoo come from

Written by `python -m moduli.zoo.make`, which trains all of them again; do not edit.
Made with Python {python}, torch {torch}, scikit-learn {sklearn}, numpy {numpy}, on one core of a CPU.
The same machine and versions give the same bytes.

Data: scikit-learn's `load_digits` (1797 images of 8 x 8, scaled to [0, 1]), split by
`train_test_split(x / 16, y, test_size=0.25, random_state=0, stratify=y)` into 1347 and 450.
Training: SGD, momentum 0.9, rate 0.1 with a cosine schedule, batches of 128, cross entropy, seed 0.
Files hold `W1, b1, W2, b2, ...` (float32), `activations` (one per hidden layer) and `output_map`.
Nothing is planted: what can go is what training and rounding left. The licence is that of this repository.

| name | architecture | how trained | epochs | batches shifted by a pixel | test accuracy | units that can go |
|---|---|---|---|---|---|---|
{rows}

*Drop*: outgoing weights zero, or incoming weights and bias zero. *Constant*: incoming weights zero.
*Merge*, *sign twin*: incoming weights and bias equal to those of an earlier unit, or to their negatives.
*Dead*: incoming weights and bias zero.

`data/digits.npz` holds the images as bytes (0 to 16) with the same split: Optical Recognition of Handwritten Digits,
E. Alpaydin and C. Kaynak, UCI Machine Learning Repository (CC BY 4.0), as scikit-learn ships it.

## The person detector

`person-detector.onnx`: the reference model for visual wake words of MLPerf Tiny (MobileNetV1 of width 0.25 on
images of 96 x 96, pixels divided by 255; two outputs, no person and person), from `mlcommons/tiny`, under the
Apache License 2.0, whose text is `person-detector.LICENSE.txt`. Changed: the published weights were written as
ONNX, opset 17. Nothing is planted: weight decay has left what can go.
"""


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images ``[rows, 8, 8]`` in [0, 1], test images, and the labels of both; three
    quarters train.
    """
    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x / 16, y, test_size=0.25, random_state=0, stratify=y)
    train, test = (torch.tensor(p, dtype=torch.float32).view(-1, 8, 8) for p in parts[:2])
    return train, test, torch.tensor(parts[2]), torch.tensor(parts[3])


def features(images: Tensor, pool: int) -> Tensor:
    """Means over blocks of pixels, one row per image."""
    return nn.functional.avg_pool2d(images[:, None], pool).flatten(1)


def shifted(images: Tensor, probability: float) -> Tensor:
    """The batch, moved as a whole by up to one pixel with the given probability."""
    if torch.rand(()) >= probability:
        return images
    i, j = torch.randint(0, 3, (2,)).tolist()
    return nn.functional.pad(images, (1, 1, 1, 1))[:, i : i + 8, j : j + 8]


def shrink(weight: Tensor, axis: int, by: float) -> None:
    """The proximal step of `by` times the sum of norms along `axis`: short groups become exactly
    zero.
    """
    norms = weight.norm(dim=axis, keepdim=True)
    weight.mul_((1 - by / norms.clamp_min(1e-30)).clamp_min(0))


def train(recipe: Recipe) -> list[nn.Linear]:
    """The trained layers: SGD with momentum and a cosine schedule, batches of 128, cross entropy."""
    torch.manual_seed(recipe.seed)
    images, _, labels, _ = digits()
    layers = [nn.Linear(*pair) for pair in zip(recipe.widths, recipe.widths[1:], strict=False)]
    sigma = {"tanh": nn.Tanh, "relu": nn.ReLU}[recipe.activation]
    net = nn.Sequential(*[m for layer in layers for m in (layer, sigma())][:-1])
    step = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=recipe.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(step, recipe.epochs)
    for _ in range(recipe.epochs):
        reach = step.param_groups[0]["lr"] / (1 - 0.9)
        for batch in torch.split(torch.randperm(len(images)), 128):
            step.zero_grad()
            x = features(shifted(images[batch], recipe.shift), recipe.pool)
            torch.autograd.backward(nn.functional.cross_entropy(net(x), labels[batch]))
            step.step()
            with torch.no_grad():
                shrink(layers[0].weight, 1, reach * recipe.lasso[0])
                shrink(layers[-1].weight, 0, reach * recipe.lasso[1])
        schedule.step()
    return layers


def arrays(recipe: Recipe, layers: list[nn.Linear]) -> Arrays:
    """What the file holds: float32 parameters, which float64 holds exactly, and the activations."""
    out: Arrays = {}
    for l, layer in enumerate(layers, 1):
        for name, tensor in ((f"W{l}", layer.weight), (f"b{l}", layer.bias)):
            out[name] = tensor.detach().numpy()
            if recipe.grid:
                out[name] = np.round(out[name] / recipe.grid[l - 1]) * np.float32(
                    recipe.grid[l - 1]
                )
    out["activations"] = np.array([recipe.activation] * (len(layers) - 1))
    out["output_map"] = np.array("identity")
    return out


def accuracy(recipe: Recipe, made: Arrays) -> float:
    """Share of the test images that the stored network, in float64, gets right."""
    _, images, _, labels = digits()
    net = Network.mlp(*[made[k] for k in made if k[0] in "Wb"], activation=recipe.activation)
    answers = net(features(images.double(), recipe.pool).numpy()).argmax(axis=1)
    return float((answers == labels.numpy()).mean())


def redundant(made: Arrays) -> str:
    """How many units of the first hidden layer go by which rule, counted without the library."""
    count = dict.fromkeys(
        ("drop", "constant", "merge", "sign twin")
        if made["activations"][0] == "tanh"
        else ("dead",),
        0,
    )
    seen: dict[bytes, bool] = {}
    for row, bias, column in zip(made["W1"] + 0.0, made["b1"] + 0.0, made["W2"].T, strict=True):
        unit = np.append(row, bias)
        if "dead" in count:
            count["dead"] += not unit.any()
        elif not column.any() or not unit.any():
            count["drop"] += 1
        elif not row.any():
            count["constant"] += 1
        else:
            flip = bool(row[np.flatnonzero(row)[0]] < 0)
            key = (-unit + 0.0 if flip else unit).tobytes()
            if key in seen:
                count["merge" if seen[key] == flip else "sign twin"] += 1
            seen.setdefault(key, flip)
    return ", ".join(f"{name} {n}" for name, n in count.items())


def line(recipe: Recipe, made: Arrays) -> str:
    """The network's row in PROVENANCE.md."""
    shape = f"{'-'.join(map(str, recipe.widths))} {recipe.activation}"
    right = f"{accuracy(recipe, made):.4f}"
    cells = (
        f"`{recipe.name}`",
        shape,
        recipe.says,
        recipe.epochs,
        recipe.shift,
        right,
        redundant(made),
    )
    return f"| {' | '.join(map(str, cells))} |"


def main(folder: Path) -> None:
    """Write every network and PROVENANCE.md into `folder`."""
    torch.set_num_threads(1)
    rows = []
    for recipe in RECIPES:
        made = arrays(recipe, train(recipe))
        np.savez(folder / f"{recipe.name}.npz", **made)
        rows.append(line(recipe, made))
    (folder / "data").mkdir(exist_ok=True)
    parts = zip(("x_train", "x_test", "y_train", "y_test"), digits(), strict=True)
    stored = {
        name: (16 * part if name[0] == "x" else part).numpy().astype(np.uint8)
        for name, part in parts
    }
    np.savez_compressed(folder / "data" / "digits.npz", **dict[str, Any](stored))
    versions = {name: version(name) for name in ("torch", "numpy")} | {
        "sklearn": version("scikit-learn")
    }
    text = PROVENANCE.format(rows="\n".join(rows), python=python_version(), **versions)
    (folder / "PROVENANCE.md").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
