"""The same entries under other axes, where some sizes are not known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from moduli.kernel.graph.operators import Reshape, Shape

Groups = tuple[tuple[int, ...], ...]
Monomial = tuple[int, tuple[str, ...]]


class NotUnderstood(Exception):
    """A call is opaque; says why."""


def product_of(sizes: Sequence[int | str], known: dict[str, Any]) -> int | str:
    numbers = [n for n in sizes if isinstance(n, int)]
    names = [known[n] for n in sizes if isinstance(n, str)]
    if not names:
        return math.prod(numbers)
    expression = math.prod(numbers) * math.prod(names[1:], start=names[0])
    known[str(expression)] = expression
    return str(expression)


def _runs(shape: Shape) -> tuple[list[list[int]], list[str]]:
    """Runs of axes of known size, and the unknown sizes between them."""
    runs: list[list[int]] = [[]]
    names: list[str] = []
    for axis, n in enumerate(shape):
        if isinstance(n, int):
            runs[-1].append(axis)
        else:
            names.append(n)
            runs.append([])
    return runs, names


def _entries(shape: Shape, axes: Sequence[int]) -> int:
    return math.prod(int(shape[axis]) for axis in axes)


def runs_agree(source: Shape, target: Shape) -> bool:
    (first, names), (second, others) = _runs(source), _runs(target)
    if names != others:
        return False
    return all(
        _entries(source, a) == _entries(target, b) for a, b in zip(first, second, strict=True)
    )


def reshape(source: Shape, target: Shape) -> Reshape:
    """The operator that gives the same entries under other axes.

    Unknown sizes that are the same are the same axes, and between two of them stand the same
    entries, however many axes there are: so the blocks stay what they are when units go.

    Raises:
        NotUnderstood: several sizes are not known and match none of the other shape.
    """
    (first, names), (second, others) = _runs(source), _runs(target)
    blocks, free = list[tuple[tuple[int, ...], tuple[int, ...]]](), list[tuple[int, int]]()
    head = 0
    while head < len(first) and head < len(second):
        if _entries(source, first[head]) != _entries(target, second[head]):
            break
        ends = head == len(names) or head == len(others)
        if ends and not head == len(names) == len(others):
            break  # what follows in one of them may belong to the same entries
        if not ends and names[head] != others[head]:
            break
        blocks.append((tuple(first[head]), tuple(second[head])))
        if not ends:
            free.append((_place(source, head), _place(target, head)))
        head += 1
    tail = 0
    while head + tail < min(len(first), len(second)):
        a, b = first[-1 - tail], second[-1 - tail]
        if _entries(source, a) != _entries(target, b):
            break
        blocks.append((tuple(a), tuple(b)))
        i, j = len(names) - 1 - tail, len(others) - 1 - tail
        if i < head or j < head or names[i] != others[j]:
            break
        free.append((_place(source, i), _place(target, j)))
        tail += 1
    blocks = [block for block in dict.fromkeys(blocks) if block != ((), ())]
    named = {o for _, o in free}
    if sum(isinstance(n, str) and axis not in named for axis, n in enumerate(target)) > 1:
        raise NotUnderstood("a shape with several sizes that are not known")
    sizes = tuple(n if isinstance(n, int) else None for n in target)
    return Reshape(tuple(sorted(blocks)), sizes, tuple(sorted(free)))


def _place(shape: Shape, k: int) -> int:
    """The axis of the k-th unknown size."""
    return [axis for axis, n in enumerate(shape) if isinstance(n, str)][k]


def _monomial(n: int | str, known: dict[str, Any]) -> Monomial:
    """A size as a number times unknown sizes."""
    if isinstance(n, int):
        return n, ()
    factor, rest = known[n].as_coeff_mul()
    names: list[str] = []
    for part in rest:
        base, power = part.as_base_exp()
        if not (base.is_Symbol and power.is_Integer and power > 0):
            return 1, (n,)
        names += [str(base)] * int(power)
        known[str(base)] = base
    whole = factor.is_Integer and factor > 0
    return (int(factor), tuple(sorted(names))) if whole else (1, (n,))


def _over(a: Monomial, b: Monomial) -> Monomial | None:
    """a / b, where it is one."""
    names = list(a[1])
    for name in b[1]:
        if name not in names:
            return None
        names.remove(name)
    return (a[0] // b[0], tuple(names)) if a[0] % b[0] == 0 else None


def refined(source: Shape, target: Shape, known: dict[str, Any]) -> tuple[Shape, Groups] | None:
    """Axes of which those of both shapes are made up, and which of them make up each of target."""
    left = [_monomial(n, known) for n in source]
    if any(m[0] == 0 for m in left):
        return None
    shape, groups = list[int | str](), list[tuple[int, ...]]()
    for n in target:
        rest, start = _monomial(n, known), len(shape)
        if rest == (1, ()):
            shape.append(1)
        while rest != (1, ()):
            while left and left[0] == (1, ()):
                left.pop(0)
            if not left or rest[0] == 0:
                return None
            part = left[0] if _over(rest, left[0]) is not None else rest
            remaining, after = _over(left[0], part), _over(rest, part)
            if (
                remaining is None
                or after is None
                or (part[1] and (part[0] != 1 or len(part[1]) > 1))
            ):
                return None
            left[0], rest = remaining, after
            size: int | str = part[1][0] if part[1] else part[0]
            if isinstance(size, int) and len(shape) > start and isinstance(shape[-1], int):
                shape[-1] *= size  # numbers side by side are one axis
            else:
                shape.append(size)
        groups.append(tuple(range(start, len(shape))))
    if any(m != (1, ()) for m in left):
        return None
    return tuple(shape), tuple(groups)
