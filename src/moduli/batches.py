"""The batch axis: a tensor of several samples that share one computation, and proof that they stay apart.

A graph that was traced for three samples is followed with one sample in hand. Every rearrangement is tried on the numbers
of all entries of the three: it must move each sample as a whole and all of them alike. Constants must be the same for
every sample, and no product may sum over samples. What passes is the same function of each row of a batch of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .activations import Activation
from .affine import Ball, Tensor
from .errors import UnsupportedModel
from .network import Network

SAMPLES = 3  # of the graph that is followed: two could be told apart by a sign, one not at all
APART = "samples of a batch must not be mixed, picked or told apart"


@dataclass(frozen=True, eq=False)
class Batch(Tensor):
    """A `Tensor` of one sample that stands for `SAMPLES` of them.

    Attributes:
        axis: that of the batch, counted from the end (negative). Where an axis of each sample was merged into it, the
            tensor itself has the size of that axis there, else 1.

    >>> import numpy as np
    >>> x = Batch.of_samples((4,))
    >>> x.batch_shape, x.rearrange(lambda a: a.reshape(3, 2, 2)).batch_shape
    ((3, 4), (3, 2, 2))
    >>> x.rearrange(lambda a: a.reshape(-1)).rearrange(lambda a: a.reshape(3, 4)).batch_shape
    (3, 4)
    >>> x.rearrange(lambda a: a.reshape(4, 3))
    Traceback (most recent call last):
    ...
    moduli.errors.UnsupportedModel: a batch of shape (3, 4) becomes (4, 3); samples of a batch must not be mixed, ...
    """

    axis: int = -1

    @staticmethod
    def of_samples(shape: Sequence[int]) -> Batch:
        """The network's input; `shape` is that of one sample."""
        return _batch(Tensor.input((1, *shape)), -1 - len(tuple(shape)))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """With all samples."""
        shape = list(self.shape)
        shape[self.axis] *= SAMPLES
        return tuple(shape)

    def is_batch_axis(self, axis: int) -> bool:
        return axis % len(self.shape) == self.axis % len(self.shape)

    def rearrange(self, fn: Callable[[Any], Any]) -> Batch:
        place = self.axis % len(self.shape)
        numbers = np.arange(SAMPLES * self.size).reshape((SAMPLES, *self.shape))
        moved = np.asarray(fn(np.moveaxis(numbers, 0, place).reshape(self.batch_shape)))
        found, entries = _whole_samples(moved, self.size, self.batch_shape)
        flat = self.index.ravel()
        new = Tensor.rearrange(self, lambda _: flat[entries])
        return _batch(new, found - moved.ndim)

    def scaled(self, factor: Any) -> Batch:
        return _batch(super().scaled(self._alike(factor)), self.axis)

    def shifted(self, offset: Any) -> Batch:
        return _batch(super().shifted(self._alike(offset)), self.axis)

    def _alike(self, constant: Any) -> Ball:
        """A constant that is the same for all samples."""
        ball = Ball.of(constant)
        if len(ball.shape) >= -self.axis and ball.shape[self.axis] != 1:
            raise UnsupportedModel(f"a constant of shape {ball.shape} meets a batch of shape {self.batch_shape}; {APART}")
        return ball

    def normalised(
        self, scale: Any, shift: Any, mean: Any, variance: Any, epsilon: float, *, axis: int = 1
    ) -> Tensor:
        if self.is_batch_axis(axis):
            raise UnsupportedModel(f"a normalisation over axis {axis} of a batch of shape {self.batch_shape}; {APART}")
        return super().normalised(scale, shift, mean, variance, epsilon, axis=axis)

    def matmul(self, weight: Any) -> Batch:
        matrix = Ball.of(weight)
        if self.axis == -1:
            raise UnsupportedModel(f"a product sums over the batch axis of shape {self.batch_shape}; {APART}")
        dropped = len(matrix.shape) == 1
        return _batch(super().matmul(matrix), self.axis + dropped)

    def matmul_left(self, weight: Any) -> Tensor:
        matrix = Ball.of(weight)
        if len(self.shape) == 1 or self.axis == -2:
            raise UnsupportedModel(f"a product sums over the batch axis of shape {self.batch_shape}; {APART}")
        if len(matrix.shape) == 1:  # as a matrix of one row, which is dropped again
            row = matrix.map(lambda a: a[None, :])
            return super().matmul_left(row).rearrange(lambda a: a.squeeze(-2))
        return super().matmul_left(matrix)

    def activate(self, activation: Activation) -> Batch:
        return _batch(super().activate(activation), self.axis)

    def finish(self, output_map: str | None = None, notes: Sequence[str] = ()) -> Network:
        if not self.is_batch_axis(0) or (self.shape[0] != 1 and self.size):
            raise UnsupportedModel(
                f"the output has shape {self.batch_shape} with the batch axis at place {self.axis % len(self.shape)}; "
                "it must come first, and hold samples only"
            )
        return super().finish(output_map, notes)


def _batch(tensor: Tensor, axis: int) -> Batch:
    values = {field.name: getattr(tensor, field.name) for field in fields(Tensor)}
    return Batch(**values, axis=axis)


def _whole_samples(moved: Any, size: int, shape: tuple[int, ...]) -> tuple[int, Any]:
    """The batch axis of rearranged numbers, sample after sample of `size` each, and the entries of one sample.

    Raises:
        UnsupportedModel: no axis holds whole samples in their order, or they were not moved alike.
    """
    for axis in range(moved.ndim):
        length, rest = divmod(moved.shape[axis], SAMPLES)
        if rest or not moved.shape[axis]:
            continue
        split = moved.reshape((*moved.shape[:axis], SAMPLES, length, *moved.shape[axis + 1 :]))
        entries = split.take(0, axis=axis)
        steps = size * np.arange(SAMPLES).reshape([SAMPLES if k == axis else 1 for k in range(split.ndim)])
        if (entries < size).all() and np.array_equal(split, np.expand_dims(entries, axis) + steps):
            return axis, entries
    raise UnsupportedModel(f"a batch of shape {shape} becomes {moved.shape}; {APART}")
