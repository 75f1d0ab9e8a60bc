"""A network as a device computes it that has integers alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


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


class IntegerNetwork(ABC):
    """What a file computes in integers, by declared rules.

    Attributes:
        kernels: whose arithmetic it is, as it is asked for; rules: in words. inputs: in the order of the file. outputs: names.
        widest: entries of the largest tensor on the way, of one input.
    """

    kernels: str
    rules: str
    inputs: tuple[IntegerInput, ...]
    outputs: tuple[str, ...]
    widest: int

    @abstractmethod
    def run(self, feeds: Mapping[str, Ints]) -> Sequence[Array]:
        """The numbers that its outputs stand for, exactly, for many inputs at a time.

        Args:
            feeds: integers ``[points, *shape]`` of each input.

        Returns:
            float64 arrays ``[points, *shape]``: integers that come out are scaled, which is exact.
        """


def scaled(q: Any, scale: float, zero: int) -> Array:
    """scale (q - zero), exactly: the scale is a float of 32 bits, the difference has at most 17."""
    found: Array = scale * (np.asarray(q, dtype=np.float64) - zero)
    return found
