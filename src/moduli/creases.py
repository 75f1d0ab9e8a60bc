"""Where units bend: the parts of a layer that a hyperplane has, and what they say of fewest units. Part of the kernel.

An activation with s(-z) = s(z) - 2 c z is s(z) = e(z) + c z with e even. So a unit with pre-activation z = w . h + b and
outgoing column v adds v e(z) and a linear part c v z to the next layer. Units of one hyperplane have proportional
(w, b) = t (w_0, b_0), and where s is homogeneous e(t z) = |t| e(z): together they add (sum |t| v) e(z_0), their *crease*.

Fewest units of one hidden layer, for activations that bend at 0. Let r hyperplanes have a crease that is not zero (on a
box: and meet its interior). The function is not differentiable along each of them, so every network has a unit on each; if
these are all its units, each carries a whole crease v_j e(w_j . x + b_j), turned one way or the other, and its gradient is
c sum_j (+-) v_j w_j. With G the sum of all linear parts of the network at hand, r units suffice only if

    P(T) = G - c sum_{j not in T} v_j w_j + c sum_{j in T} v_j w_j

is zero for some set T of turned units. On all of R^n, r + 1 suffice only if P(T) is zero or, for some j and T without j, a
matrix v w_j: the one unit more cannot bend elsewhere, so it shares the hyperplane j.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import modular, region
from .enclosure import bounded
from .errors import CertificateRejected
from .region import Row

if TYPE_CHECKING:
    from .certificate import State

Array = np.ndarray[Any, np.dtype[np.float64]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]
Units = np.ndarray[Any, np.dtype[np.intp]]
PRIME, MOST, TURNS, ENTRIES = 2**31 - 1, 40, 32, 2**20


class Unit(NamedTuple):
    """A unit of a layer: its row with the bias last, its outgoing column, and its slope c where it is linear, s(z) = c z."""

    row: Row
    column: Row
    slope: Fraction | None


def half(state: State, l: int) -> Fraction | None:
    """c for the activation of layer l with s(-z) = s(z) - 2 c z, None if it has another law."""
    law = state.activations[l - 1].reflection
    return -law[1] / 2 if law is not None and law[0] == 1 and law[2] == 0 else None


def unit(state: State, l: int, name: int) -> Unit | None:
    """What remains of a unit; None where its numbers are not all rational."""
    before, behind = state.alive[l - 1].tolist(), state.alive[l + 1].tolist()
    row = [*(state.weights[l - 1].get((name, j)) for j in before), state.biases[l - 1].get((name,))]
    column = [state.weights[l].get((i, name)) for i in behind]
    if not all(isinstance(q, Fraction) for q in (*row, *column)):
        return None
    return Unit(tuple(map(_fraction, row)), tuple(map(_fraction, column)), region.slope(state, l, name))


def _fraction(number: Any) -> Fraction:
    assert isinstance(number, Fraction)
    return number


def hyperplane(row: Row, *, homogeneous: bool) -> tuple[Row, Fraction]:
    """A row that all units of a hyperplane share, and t with row = t times it.

    Raises:
        CertificateRejected: all weights are zero.
    """
    lead = next((q for q in row[:-1] if q), None)
    if lead is None:
        raise CertificateRejected("a unit that bends has no incoming weight that is not zero")
    t = lead if homogeneous else lead / abs(lead)
    return tuple(q / t for q in row), t


def creases(units: Iterable[tuple[Row, Row]], *, homogeneous: bool) -> dict[Row, Row]:
    """The sum of |t| v for each hyperplane of rows and columns, where it is not zero.

    >>> one, two = Fraction(1), Fraction(2)
    >>> found = creases([((one, two), (one,)), ((-two, -2 * two), (one,))], homogeneous=True)
    >>> [(list(map(str, key)), list(map(str, column))) for key, column in found.items()]
    [(['1', '2'], ['3'])]
    """
    found: dict[Row, Row] = {}
    for row, column in units:
        key, t = hyperplane(row, homogeneous=homogeneous)
        parts = tuple(bounded(abs(t) * q) for q in column)
        found[key] = tuple(bounded(p + q) for p, q in zip(found[key], parts, strict=True)) if key in found else parts
    return {key: column for key, column in found.items() if any(column)}


class Bends(NamedTuple):
    """The units of a hidden layer, creases on the domain, and units that may not bend there though nothing says so."""

    units: list[Unit]
    seen: dict[Row, Row]
    doubtful: list[int]


def bends(state: State) -> Bends | str:
    """Of a network of one hidden layer, or why that is not known."""
    if state.region is not None and state.region.flat:
        return "the box is flat"
    size = len(state.alive[1]) * (len(state.alive[0]) + len(state.alive[2]))
    if size > ENTRIES:
        return f"{size} parameters are too many to compare hyperplanes in rationals"
    names = state.alive[1].tolist()
    units = [u for name in names if (u := unit(state, 1, name)) is not None]
    if len(units) < len(names) or not all(any(u.row[:-1]) for u in units):
        return "a parameter is not rational, or a unit has no incoming weight"
    inside = [u.slope is None and (state.region is None or _inside(state, u)) for u in units]
    seen = creases(((u.row, u.column) for u, bent in zip(units, inside, strict=True) if bent), homogeneous=True)
    doubtful = [name for name, u, bent in zip(names, units, inside, strict=True) if u.slope is None and not bent]
    return Bends(units, seen, doubtful)


def reducible(state: State) -> str | None:
    """Why a network of one hidden layer that bends may not have the fewest units, or None where it has; see above."""
    found, c = bends(state), half(state, 1)
    if isinstance(found, str):
        return found
    assert c is not None
    if found.doubtful:
        return f"unit {found.doubtful[0]} may not bend inside the box"
    units, seen = found.units, found.seen
    if units and not seen and state.region is not None:  # units that stay active there; nothing bends
        return "the function is affine on the box, and a network without hidden units has it"
    extra = len(units) - len(seen)
    if extra == 0:
        return None
    if extra > (2 if state.region is None else 1) or len(seen) > (MOST if extra == 1 else TURNS):
        return f"{len(units)} units remain and no more than {len(seen)}, one for each bend of the function, are proved needed"
    try:
        spare = bool(spares(units, seen, c)) or (extra == 2 and any(spares(units, seen, c, at) for at in seen))
    except ValueError:  # a denominator is a multiple of the prime
        spare = True
    return "a unit may be spared if others are turned" if spare else None


def _inside(state: State, u: Unit) -> bool:
    ends = region.extent(state, 1, u.row[:-1])
    return ends is not None and ends[0] + u.row[-1] < 0 < ends[1] + u.row[-1]


def spares(units: Sequence[Unit], seen: dict[Row, Row], c: Fraction, but: Row | None = None) -> list[tuple[Row, ...]]:
    """Sets T of hyperplanes with P(T) = 0, or P(T) = v w for that of one hyperplane: none missing, at most a few too many.

    Two fixed numbers are read off the matrices modulo a prime, (a . v)(y . w) for each term v w, y with y . w = 0 for the one
    hyperplane; then sums of one half of the terms are looked up among sums of the other.

    Raises:
        ValueError: a denominator is a multiple of the prime.
    """
    turned = [key for key in seen if key != but]
    total, terms = np.zeros(2, dtype=np.int64), np.zeros((len(turned), 2), dtype=np.int64)
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        a, y = _weights(rng, len(units[0].column) if units else 0), _across(rng, units, but)
        part = [_dot(a, u.column) * _dot(y, u.row[:-1]) * _residue(c if u.slope is None else u.slope) for u in units]
        flips = [_dot(a, seen[key]) * _dot(y, key[:-1]) * _residue(c) for key in turned]
        total[seed] = (sum(flips) - sum(part)) % PRIME
        terms[:, seed] = [2 * x % PRIME for x in flips]
    return [tuple(turned[k] for k in some) for some in _subsets(total, terms)]


def _weights(rng: np.random.Generator, count: int) -> list[int]:
    found: list[int] = rng.integers(1, PRIME, count).tolist()
    return found


def _across(rng: np.random.Generator, units: Sequence[Unit], but: Row | None) -> list[int]:
    inputs = len(units[0].row) - 1 if units else 0
    y, z = _weights(rng, inputs), _weights(rng, inputs)
    if but is None:
        return y
    p, q = _dot(y, but[:-1]), _dot(z, but[:-1])
    return [(i * q - j * p) % PRIME for i, j in zip(y, z, strict=True)]


def _residue(q: Fraction) -> int:
    return modular.residue(q, PRIME)


def _dot(weights: Sequence[int], row: Row) -> int:
    return sum(w * _residue(q) for w, q in zip(weights, row, strict=True)) % PRIME


def _subsets(total: Any, terms: Any, limit: int = 16) -> list[tuple[int, ...]]:
    """Sets of terms, up to a number of them, whose sums are the total modulo the prime, in both columns."""
    cut = len(terms) // 2
    left, right = _sums(terms[:cut]), _sums(terms[cut:])
    wanted = _key((total - left) % PRIME)
    order = np.argsort(_key(right), kind="stable")
    keys = _key(right)[order]
    first, last = (np.searchsorted(keys, wanted, side=side) for side in ("left", "right"))
    some = np.flatnonzero(last > first)[:limit].tolist()
    found = [(i, int(j)) for i in some for j in order[first[i] : last[i]][:limit]]
    return [tuple(k for k in range(len(terms)) if (i >> k if k < cut else j >> (k - cut)) & 1) for i, j in found[:limit]]


def _sums(terms: Any) -> Any:
    """Sums of all subsets, in the order of their binary numbers, modulo the prime."""
    found = np.zeros((1, 2), dtype=np.int64)
    for term in terms:
        found = np.concatenate([found, (found + term) % PRIME])
    return found


def _key(pairs: Any) -> Keys:
    keys: Keys = (pairs[:, 0] << 31 | pairs[:, 1]).astype(np.uint64)
    return keys
