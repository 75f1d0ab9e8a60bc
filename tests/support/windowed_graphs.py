"""Random graphs of convolutions, pools, branches and what may stand between, with their values by torch,
which shares nothing with the kernel, and the slopes of these, to climb up to their extremes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from moduli.kernel.graph.model import GraphModel
from moduli.kernel.graph.operators import (
    Concat,
    Elementwise,
    Linear,
    Node,
    PerUnit,
    Reshape,
    Slicewise,
    Take,
    Transpose,
)

Rng = np.random.Generator
SMOOTH: dict[str, Callable[..., Any]] = {
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": functional.silu, "gelu": functional.gelu,
    "mish": functional.mish, "softplus": functional.softplus, "exp": torch.exp,
    "elu": functional.elu, "selu": lambda x, a, b: b * functional.elu(x, a),
}  # fmt: skip
BENT: dict[str, Callable[..., Any]] = {
    "relu": torch.relu, "abs": torch.abs, "neg": torch.neg, "identity": lambda x: x,
    "leaky_relu": lambda x, a: torch.where(x >= 0, x, a * x),
    "clip": lambda x, low, high: torch.clamp(x, low, high),
    "hardsigmoid": lambda x, a, b: torch.clamp(a * x + b, 0, 1), "hardswish": functional.hardswish,
}  # fmt: skip
NUMBERS: dict[str, tuple[float, ...]] = {
    "leaky_relu": (0.25,), "clip": (-0.5, 1.0), "hardsigmoid": (0.2, 0.5), "elu": (0.75,), "selu": (1.5, 1.25),
}  # fmt: skip
PAIRS: dict[str, Callable[..., Any]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "max": torch.maximum,
    "min": torch.minimum, "prelu": lambda x, slope: torch.where(x >= 0, x, slope * x),
}  # fmt: skip


@dataclass
class Windowed:
    """A graph that grows node by node; `x` is the input, the last node the output.

    Attributes:
        steps: for each node, its output from the values of all tensors so far. padding: how many of
            the windows that may hold padding alone are let through.
    """

    rng: Rng
    shapes: dict[str, Any]
    constants: dict[str, Any] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    steps: list[Callable[[Any], Any]] = field(default_factory=list)
    ranges: dict[str, Any] = field(default_factory=dict)
    padding: float = 0.1

    @property
    def tensors(self) -> list[str]:
        return ["x", *(node.output for node in self.nodes)]

    @property
    def model(self) -> GraphModel:
        ends = (self.nodes[-1].output,)
        return GraphModel(("x",), ends, tuple(self.nodes), self.shapes, self.constants)

    def values(self, x: Any) -> dict[str, Any]:
        found = {"x": x}
        for node, step in zip(self.nodes, self.steps, strict=True):
            found[node.output] = step(found)
        return found

    def store(self, array: Any) -> tuple[str, Any]:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype=np.float64)
        self.shapes[name] = self.constants[name].shape
        return name, torch.from_numpy(self.constants[name])

    def add(self, op: Any, inputs: Any, shape: Any, step: Callable[[Any], Any]) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(Node(op, tuple(inputs), (name,), name))
        self.steps.append(step)
        self.shapes[name] = tuple(shape)
        return name

    # Nodes: each may refuse, and gives None then

    def each(self, x: str) -> str:
        table = SMOOTH if self.rng.random() < 0.2 else BENT
        kind = str(self.rng.choice(list(table)))
        if self.rng.random() < 0.4:
            kind, table = "relu", BENT
        numbers = NUMBERS.get(kind, ())
        function = table[kind]
        return self.add(
            Elementwise(kind, numbers), [x], self.shapes[x], lambda v: function(v[x], *numbers)
        )

    def normed(self, x: str) -> str:
        n = self.shapes[x][1]
        scale, shift, mean = (self.rng.normal(size=n) for _ in range(3))
        scale[self.rng.random(n) < 0.15] = 0.0
        stored = [self.store(a) for a in (scale, shift, mean, self.rng.random(n) + 0.05)]
        place = [1, -1] + [1] * (len(self.shapes[x]) - 2)
        g, b, m, s = (tensor.reshape(place) for _, tensor in stored)
        return self.add(
            PerUnit("batchnorm", 1, (1e-3,)), [x, *(name for name, _ in stored)], self.shapes[x],
            lambda v: (v[x] - m) / torch.sqrt(s + 1e-3) * g + b,
        )  # fmt: skip

    def conv(self, x: str) -> str | None:
        shape, rng = self.shapes[x], self.rng
        if len(shape) != 4:
            return None
        c = shape[1]
        groups = int(rng.choice([1, 1, c, 2 if c % 2 == 0 else 1]))
        out = groups * int(rng.integers(1, 5 if groups == 1 else 3))
        k, stride, spacing = (tuple(rng.integers(1, m, 2).tolist()) for m in (4, 3, 3))
        pads = tuple(rng.integers(0, 3, 4).tolist())
        sizes = []
        for d in range(2):
            long = (k[d] - 1) * spacing[d] + 1
            left = shape[2 + d] + pads[d] + pads[2 + d] - long
            if left < 0 or (
                (pads[d] >= long or pads[2 + d] >= long) and rng.random() >= self.padding
            ):
                return None
            sizes.append(left // stride[d] + 1)
        weight = rng.normal(size=(out, c // groups, *k)) / np.sqrt(c // groups * k[0] * k[1])
        weight[rng.random(out) < 0.1] *= 0.01
        w, kernel = self.store(weight)
        inputs, bias = [x, w], None
        if rng.random() < 0.6:
            name, bias = self.store(rng.normal(size=out) / 2)
            inputs.append(name)
        if pads[:2] == pads[2:] and rng.random() < 0.5:
            detail: Any = (stride, pads[:2], spacing, ())
        else:
            pairs = (
                ("strides", stride),
                ("pads", pads),
                ("dilations", spacing),
                ("auto_pad", None),
            )
            detail = (pairs,)
        op = Linear(1, 1, 1, 0, groups, any(pads), True, ((0, 0),), ("conv", *detail))
        around = (pads[1], pads[3], pads[0], pads[2])
        return self.add(op, inputs, (shape[0], out, *sizes), lambda v: functional.conv2d(
            functional.pad(v[x], around), kernel, bias, stride, 0, spacing, groups
        ))  # fmt: skip

    def unpool(self, x: str) -> str | None:
        """A transposed convolution, or the nearest entry at a larger size."""
        shape, rng = self.shapes[x], self.rng
        if len(shape) != 4 or max(shape[2:]) > 12:
            return None
        k, stride, spacing = (tuple(rng.integers(1, m, 2).tolist()) for m in (5, 4, 3))
        if rng.random() < 0.25:
            made = tuple(n * f for n, f in zip(shape[2:], stride, strict=True))
            scales = (("output_size", None), ("scale_factors", tuple(map(float, stride))))
            kind, numbers = "resize upsample_nearest2d", scales
            if rng.random() < 0.5:
                options = {
                    "mode": b"nearest", "coordinate_transformation_mode": None, "nearest_mode": None, "antialias": None,
                }  # fmt: skip
                kind, numbers = "resize", ((1.0, 1.0, *map(float, stride)), tuple(options.items()))
            op = Slicewise(
                kind, ((0, 0), (1, 1)), numbers, linear=True, keeps=True, zero=True, hull=True
            )
            return self.add(
                op, [x], (*shape[:2], *made), lambda v: functional.interpolate(v[x], made)
            )
        long = [(n - 1) * s + 1 for n, s in zip(k, spacing, strict=True)]
        pads = tuple(int(rng.integers(0, 3)) for _ in long)
        extra = tuple(int(rng.integers(0, n)) for n in stride)
        made = tuple(
            (n - 1) * s + m - 2 * p + e
            for n, s, m, p, e in zip(shape[2:], stride, long, pads, extra, strict=True)
        )
        if min(made) < 1:
            return None
        c, alone = shape[1], rng.random() < 0.3
        out = 1 if alone else int(rng.integers(1, 4))
        w, kernel = self.store(rng.normal(size=(c, out, *k)) / np.sqrt(c))
        inputs, bias = [x, w], None
        if rng.random() < 0.6:
            name, bias = self.store(rng.normal(size=c if alone else out) / 2)
            inputs.append(name)
        detail: Any = (stride, pads, spacing, extra)
        if rng.random() < 0.5:
            pairs = {
                "strides": stride, "pads": (*pads, *pads), "dilations": spacing, "output_padding": extra, "auto_pad": None,
                "output_shape": None,
            }  # fmt: skip
            detail = (tuple(pairs.items()),)
        groups, (columns, rows) = (c, (1, 0)) if alone else (1, (0, 1))
        op = Linear(1, 1, columns, rows, groups, False, False, ((0, 0),), ("transposed", *detail))
        return self.add(
            op, inputs, (shape[0], c if alone else out, *made),
            lambda v: functional.conv_transpose2d(
                v[x], kernel, bias, stride, pads, extra, groups, spacing
            ),
        )  # fmt: skip

    def stepped(self, x: str) -> str:
        """Rounded to integers and back."""
        shape = self.shapes[x]
        n = shape[1] if self.rng.random() < 0.5 else 1
        (s, scale), (z, zero) = (
            self.store(a) for a in (self.rng.random(n) / 4 + 0.05, self.rng.integers(-3, 4, n))
        )
        place = [1, -1] + [1] * (len(shape) - 2)
        scale, zero = scale.reshape(place), zero.reshape(place)
        whole = self.add(
            PerUnit("quantise", 1, (-8.0, 7.0)), [x, s, z], shape,
            lambda v: torch.clamp(torch.round(v[x] / scale) + zero, -8, 7),
        )  # fmt: skip
        return self.add(
            PerUnit("dequantise", 1, (-8.0, 7.0)), [whole, s, z], shape,
            lambda v: (v[whole] - zero) * scale,
        )  # fmt: skip

    def dense(self, x: str) -> str:
        shape, last = self.shapes[x], len(self.shapes[x]) - 1
        n, out = shape[last], int(self.rng.integers(1, 5))
        w, weight = self.store(self.rng.normal(size=(out, n)) / np.sqrt(n))
        op = Linear(last, last, 1, 0, free=tuple((a, a) for a in range(last)))
        return self.add(op, [x, w], (*shape[:-1], out), lambda v: v[x] @ weight.T)

    def pair(self, x: str) -> str | None:
        """With another tensor of its shape, or with stored numbers."""
        kind = str(self.rng.choice(list(PAIRS), p=[0.4, 0.15, 0.15, 0.1, 0.08, 0.07, 0.05]))
        alike = [name for name in self.tensors if self.shapes[name] == self.shapes[x]]
        function = PAIRS[kind]
        if self.rng.random() < 0.6 and kind not in ("div", "prelu"):
            other = str(self.rng.choice(alike))
            return self.add(
                Elementwise(kind), [x, other], self.shapes[x], lambda v: function(v[x], v[other])
            )
        sizes = [1, *(n if self.rng.random() < 0.5 else 1 for n in self.shapes[x][1:])]
        start = int(self.rng.integers(len(sizes)))
        numbers = self.rng.normal(size=sizes[start:])
        name, stored = self.store(numbers + np.sign(numbers) * (kind == "div"))
        if kind in ("sub", "add") and self.rng.random() < 0.3:
            return self.add(
                Elementwise(kind), [name, x], self.shapes[x], lambda v: function(stored, v[x])
            )
        return self.add(
            Elementwise(kind), [x, name], self.shapes[x], lambda v: function(v[x], stored)
        )

    def concat(self, x: str) -> str | None:
        shape = self.shapes[x]
        axis = int(self.rng.integers(1, len(shape)))
        fits = [
            name for name in self.tensors
            if len(self.shapes[name]) == len(shape)
            and all(n == m for a, (n, m) in enumerate(zip(self.shapes[name], shape, strict=True)) if a != axis)
        ]  # fmt: skip
        other = str(self.rng.choice(fits))
        made = list(shape)
        made[axis] += self.shapes[other][axis]
        return self.add(Concat(axis), [x, other], made, lambda v: torch.cat([v[x], v[other]], axis))

    def take(self, x: str) -> str | None:
        shape = self.shapes[x]
        axis = int(self.rng.integers(1, len(shape)))
        n = shape[axis]
        if n < 2:
            return None
        index = self.rng.permutation(n)[: int(self.rng.integers(1, n + 1))]
        if self.rng.random() < 0.6:
            start = int(self.rng.integers(0, n - 1))
            index = np.arange(start, int(self.rng.integers(start + 1, n + 1)))
        if self.rng.random() < 0.1 and len(shape) > 2:
            op, made = Take(axis, (int(index[0]),), True), (*shape[:axis], *shape[axis + 1 :])
            return self.add(op, [x], made, lambda v: v[x].select(axis, int(index[0])))
        made = (*shape[:axis], len(index), *shape[axis + 1 :])
        places = torch.from_numpy(np.ascontiguousarray(index))
        return self.add(
            Take(axis, tuple(index.tolist())), [x], made, lambda v: v[x].index_select(axis, places)
        )

    def pad(self, x: str) -> str | None:
        shape = self.shapes[x]
        if len(shape) != 4:
            return None
        a, b = (int(n) for n in self.rng.integers(0, 3 if self.padding else 2, 2))
        axis = int(self.rng.integers(2, 4))
        free = tuple((k, k) for k in range(4) if k != axis or (a, b) == (0, 0))
        made = list(shape)
        made[axis] += a + b
        op = Slicewise(
            "pad", free, (b"constant", ((axis, (a, b)),), 0.0), linear=True, zero=True, hull=True,
            padded=True,
        )  # fmt: skip
        around = (a, b, 0, 0) if axis == 3 else (0, 0, a, b)
        return self.add(op, [x], made, lambda v: functional.pad(v[x], around))

    def pool(self, x: str) -> str | None:
        shape, rng = self.shapes[x], self.rng
        if len(shape) != 4:
            return None
        laws = dict(linear=True, keeps=True, zero=True, hull=True)
        if rng.random() < 0.3:
            kind = str(rng.choice(["mean", "amax"]))
            if kind == "amax":
                laws = dict(homogeneous=True, keeps=True, zero=True, hull=True)
            op = Slicewise(kind, ((0, 0), (1, 1)), **laws)
            return self.add(
                op, [x], (*shape[:2], 1, 1), lambda v: getattr(v[x], kind)(dim=(2, 3), keepdim=True)
            )
        k, stride = (tuple(rng.integers(1, 4, 2).tolist()) for _ in range(2))
        if any(m > n for m, n in zip(k, shape[2:], strict=True)):
            return None
        numbers: Any = (("kernel_shape", k), ("strides", stride), ("pads", None))
        if rng.random() < 0.5:
            numbers = (
                ("kernel_size", k),
                ("stride", stride),
                ("padding", (0, 0)),
                ("ceil_mode", False),
            )
        sizes = [(n - m) // s + 1 for n, m, s in zip(shape[2:], k, stride, strict=True)]
        if rng.random() < 0.5:
            return self.maximum(x, k, stride)
        op = Slicewise("average pool", ((0, 0), (1, 1)), numbers, **laws)
        return self.add(
            op, [x], (*shape[:2], *sizes), lambda v: functional.avg_pool2d(v[x], k, stride)
        )

    def maximum(self, x: str, k: Any, stride: Any) -> str:
        """The largest entries of windows that may reach over the border."""
        shape, rng = self.shapes[x], self.rng
        pads = tuple(int(rng.integers(0, n // 2 + 1)) for n in k)
        sizes = [
            (n + 2 * p - m) // s + 1 for n, m, s, p in zip(shape[2:], k, stride, pads, strict=True)
        ]
        numbers: Any = (("kernel_shape", k), ("strides", stride), ("pads", (*pads, *pads)))
        if rng.random() < 0.5:
            numbers = (
                ("kernel_size", k), ("stride", stride), ("padding", pads), ("dilation", (1, 1)), ("ceil_mode", False),
            )  # fmt: skip
        op = Slicewise(
            "max pool",
            ((0, 0), (1, 1)),
            numbers,
            homogeneous=True,
            keeps=True,
            zero=True,
            hull=True,
        )
        return self.add(
            op, [x], (*shape[:2], *sizes), lambda v: functional.max_pool2d(v[x], k, stride, pads)
        )

    def turn(self, x: str) -> str:
        shape = self.shapes[x]
        order = (0, *(self.rng.permutation(len(shape) - 1) + 1).tolist())
        made = tuple(shape[a] for a in order)
        return self.add(Transpose(order), [x], made, lambda v: v[x].permute(*order))

    def flat(self, x: str) -> str | None:
        shape = self.shapes[x]
        if len(shape) < 3 or (shape[0] == "n" and self.rng.random() < 0.2):
            return None
        n = int(np.prod(shape[1:]))
        op = Reshape(
            ((tuple(range(1, len(shape))), (1,)),), (None if shape[0] == "n" else shape[0], n),
            ((0, 0),),
        )  # fmt: skip
        return self.add(op, [x], (shape[0], n), lambda v: v[x].reshape(len(v[x]), n))


WEIGHTS = {
    "conv": 6, "each": 6, "normed": 2, "pair": 3, "dense": 1, "concat": 1, "take": 1, "pad": 1,
    "pool": 1.5, "unpool": 1.5, "stepped": 0.5, "turn": 0.5, "flat": 0.7,
}  # fmt: skip


def windowed(seed: int) -> Windowed:
    """A random graph on a random box."""
    rng = np.random.default_rng(seed)
    c, h, w = (int(n) for n in rng.integers(1, 5, 3) + (0, 2, 2))
    first = "n" if rng.random() < 0.5 else int(rng.integers(1, 3))
    graph = Windowed(rng, {"x": (first, c, h, w)})
    chances = np.array(list(WEIGHTS.values())) / sum(WEIGHTS.values())
    for _ in range(int(rng.integers(4, 16))):
        kind = str(rng.choice(list(WEIGHTS), p=chances))
        names = graph.tensors
        x = names[-1] if rng.random() < 0.85 else str(rng.choice(names))
        with np.errstate(all="ignore"):
            getattr(graph, kind)(x)
    if not graph.nodes:
        graph.each("x")
    low = np.asarray(rng.normal(size=(c, 1, 1) if rng.random() < 0.5 else ()))
    width = rng.choice([0.0, 0.05, 0.5, 2.0]) * rng.random(low.shape)
    graph.ranges["x"] = low, np.asarray(low + width)
    return graph
