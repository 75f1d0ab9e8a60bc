"""A network as a device computes it that has integers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.errors import UnsupportedModel

Array = np.ndarray[Any, np.dtype[Any]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Compute = Callable[..., Any]  # arrays of the operands -> an array
ORDINARY = (2.0**-60, 2.0**60)  # scales between these: no float on the way is subnormal or infinite


@dataclass(frozen=True)
class IntegerInput:
    """An input whose numbers are scale (q - zero) for integers q of a type.

    Attributes:
        shape: of one input, its batch axis with it. least, most: integers of the type. floating:
            whether the device is given floats and rounds them to these integers itself, which gives
            back q for the float that is nearest to scale (q - zero).
    """

    name: str
    shape: tuple[int, ...]
    scale: float
    zero: int
    least: int
    most: int
    floating: bool = False


class Step(NamedTuple):
    """An operator: its operands and what it gives, as keys of tensors."""

    compute: Compute
    operands: tuple[Any, ...]
    output: Any


class IntegerOutput(NamedTuple):
    """The numbers scale (q - zero) for the integers q of a tensor.

    Attributes:
        key: of the tensor. floating: whether the device writes floats of 32 bits, each rounded once.
    """

    key: Any
    scale: float
    zero: int
    floating: bool


class IntegerNetwork:
    """What a file computes in integers, by declared rules.

    Attributes:
        kernels: whose arithmetic it is, as it is asked for; rules: in words. where: the file.
        inputs: in the order of the file; given: the key of the tensor of integers of each, by name.
        steps: operators in order. outputs: what comes out. widest: entries of the largest tensor on
            the way, of one input.
    """

    kernels: str
    rules: str
    where: str
    inputs: tuple[IntegerInput, ...]
    given: Mapping[str, Any]
    steps: Sequence[Step]
    outputs: tuple[IntegerOutput, ...]
    widest: int

    def refused(self, why: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self.where}: not computed in integers alone here: {why}")

    def run(self, feeds: Mapping[str, Ints]) -> Sequence[Array]:
        """The numbers that its outputs stand for, exactly, for many inputs at a time.

        Args:
            feeds: integers ``[points, *shape]`` of each input.

        Returns:
            float64 arrays ``[points, *shape]``: integers that come out are scaled, which is exact.
        """
        held: dict[Any, Any] = {key: feeds[name] for name, key in self.given.items()}
        for step in self.steps:
            held[step.output] = step.compute(*(held[key] for key in step.operands))
        found = []
        for end in self.outputs:
            value = scaled(held[end.key], end.scale, end.zero)
            found.append(value.astype(np.float32).astype(np.float64) if end.floating else value)
        return found


def scaled(q: Any, scale: float, zero: int) -> Array:
    """scale (q - zero), exactly: the scale is a float of 32 bits, the difference has at most 17."""
    found: Array = scale * (np.asarray(q, dtype=np.float64) - zero)
    return found
