"""Equality of functions of one piecewise linear hidden layer, decided on all inputs by their creases."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from moduli.common.result import counted
from moduli.kernel.certificate import Certificate
from moduli.kernel.creases import Creased, creased
from moduli.kernel.network import Network

from .answers import Equivalence
from .matching import Matching
from .witness_search import separated_at


def by_creases(a: Network, b: Network, forms: Matching) -> Equivalence | None:
    """Exactly, on all inputs, where both are functions of at most one piecewise linear hidden layer;
    None where not, or where the output map hides how they differ.

    Args:
        forms: what moves have made of both; further moves since then change no function.
    """
    one, two = creased(forms.left), creased(forms.right)
    if one is None or two is None:
        return None
    if one == two:
        moves = forms.left_moves, forms.right_moves
        proof = Certificate(a.digest, b.digest, *moves, creases=True)
        why = f"the same {counted(len(one.creases), 'crease', 'creases')}, and the same affine rest"
        return Equivalence("proved", a, b, proof=proof, reason=why)
    found = (separated_at(a, b, x, 0.0) for x in points_apart(one, two))
    witness = next((w for w in found if w is not None), None)
    if witness is None:
        return None
    why = "creases or the affine rest differ, and exact values at an input"
    return Equivalence("refuted", a, b, witness=witness, reason=why)


def points_apart(one: Creased, two: Creased) -> Iterator[tuple[Fraction, ...]]:
    """Inputs at one of which two different functions of creases differ.

    On a hyperplane where creases differ, away from all others, the second difference across it is
    not zero; else the difference is affine, and not zero at 0 or at a unit vector.
    """
    inputs = len(one.weight[0])
    keys = {*one.creases, *two.creases}
    apart = sorted(key for key in keys if one.creases.get(key) != two.creases.get(key))
    rng = np.random.default_rng(0)
    for *w, b in apart[:1]:
        for _ in range(8):
            x = [Fraction(int(q), 64) for q in rng.integers(-256, 257, inputs)]
            off = sum((p * q for p, q in zip(w, x, strict=True)), Fraction(b)) / sum(
                q * q for q in w
            )
            x = [p - off * Fraction(q) for p, q in zip(x, w, strict=True)]
            free = list[Fraction]()
            for *v, c in keys - {(*w, b)}:
                steep = sum(p * q for p, q in zip(v, w, strict=True))
                if steep:
                    free.append(
                        abs(sum((p * q for p, q in zip(v, x, strict=True)), Fraction(c)) / steep)
                    )
            step = min(free, default=Fraction(1)) / 2
            if step:
                for k in (0, 1, -1):
                    yield tuple(p + k * step * q for p, q in zip(x, w, strict=True))
    if not apart:
        for k in range(-1, inputs):
            yield tuple(Fraction(k == j) for j in range(inputs))
