"""How far all parameters may move while points on creases go on to show that a network is locally
identifiable: an open set of such networks.

With every parameter moved by at most rho, `at_points.enclosed` encloses all pre-activations. A segment
still crosses the crease of its unit alone if at both ends the signs of all units of that layer and
below hold for all these parameters. The zero is then somewhere between, where what the layer reads
lies between what it reads at the ends, as the layers below are affine on the segment; from there on
the other units, and the derivative of an output by what the unit sends, are enclosed and seen not to
be 0. The longer the segment, the surer its ends and the wider what is between: the shortest one that
holds is taken. Of each unit the matrix M of these points (what is read, and 1) has full rank n for
all parameters if n of its columns A do, known to be within D of their middle: for any B with

    largest row sum of |1 - B A| + |B| D < 1

B A' is invertible for all A' within D of A, hence A' is; B is the inverse in floats, and the
rounding is bounded. Likewise what the last layer reads at the samples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from moduli.common.at_points import enclosed
from moduli.kernel.bounds.propagation import U
from moduli.kernel.network import Network

from .crease_points import CreasePoints, layers_of, up_to

Array = np.ndarray[Any, np.dtype[np.float64]]
LENGTHS = tuple(4.0**k for k in range(12))  # of segments, over what they were
LARGEST, SMALLEST = 2, 48  # rho from 2^-48 to 2^-2 is tried
SLOP = 1 + 1e-12  # for the rounding of a few operations on bounds


def radius(found: CreasePoints) -> float | None:
    """A power of two by which all parameters may move, entry by entry, so that all hidden units still
    have as many independent points on creases as they read numbers, and the last layer too; the
    largest one, where whatever holds for one holds for all smaller. None where none is proved, or
    the points do not show that at all.
    """
    if found.unseen() or not holds(found, 2.0**-SMALLEST):
        return None
    least, most = SMALLEST, LARGEST - 1  # 2^-least holds, 2^-most is not known to
    while least - most > 1:
        middle = (least + most) // 2
        if holds(found, 2.0**-middle):
            least = middle
        else:
            most = middle
    return 2.0**-least


@np.errstate(all="ignore")
def holds(found: CreasePoints, rho: float) -> bool:
    """Whether all parameters within rho are shown to be locally identifiable on the box."""
    net = found.network
    box = found.box.of_dimension(net.widths[0])
    for l, places in layers_of(net):
        whole = np.flatnonzero((found.units >= places.start) & (found.units < places.stop))
        own = found.units[whole] - places.start
        middle, reach = _features(
            net, l, own, found.starts[whole], found.ends[whole], (box.low, box.high), rho
        )
        if not np.isfinite(reach).all():
            return False
        for unit in range(net.widths[l + 1]):
            mine = own == unit
            if mine.sum() != net.widths[l]:  # what is claimed of the segments is not believed
                return False
            if not has_full_rank(_with_one(middle[mine]), _with_one(reach[mine], 0.0)):
                return False
    if len(found.samples) != net.widths[-2] + 1:
        return False
    *_, last = enclosed(net, found.samples, 0.0, rho)
    for _, part in zip(net.layers[:-1], enclosed(net, found.samples, 0.0, rho), strict=False):
        if not (np.abs(part.z) > part.off).all():
            return False
    return has_full_rank(_with_one(last.reads), _with_one(last.reads_off, 0.0))


def _with_one(part: Array, value: float = 1.0) -> Array:
    return np.column_stack([part, np.full(len(part), value)])


def has_full_rank(middle: Array, reach: Array) -> bool:
    """Whether all matrices within `reach` of `middle`, entry by entry, have independent rows."""
    from scipy.linalg import qr

    rows, columns = middle.shape
    if rows > columns or not (np.isfinite(middle).all() and np.isfinite(reach).all()):
        return False
    if not rows:
        return True
    # Powers of two for rows and columns change neither the ranks nor the digits.
    size = np.maximum(np.abs(middle), reach)
    scale = 2.0 ** -np.floor(np.log2(np.maximum(size.max(axis=0), 1e-300)))
    middle, reach = middle * scale, reach * scale
    size = np.maximum(np.abs(middle), reach).max(axis=1, keepdims=True)
    scale = 2.0 ** -np.floor(np.log2(np.maximum(size, 1e-300)))
    middle, reach = middle * scale, reach * scale
    kept = qr(middle, mode="r", pivoting=True)[1][:rows]
    a, d = middle[:, kept], reach[:, kept]
    try:
        b = np.linalg.inv(a)
    except np.linalg.LinAlgError:
        return False
    # The float product is off by at most gamma_n |B| |A|, the difference from 1 by one rounding more.
    rest = np.abs(np.eye(rows) - b @ a) * (1 + 4 * U)
    rest += (rows + 4) * 2 * U * (np.abs(b) @ np.abs(a)) * SLOP + 1e-290
    rest += np.abs(b) @ d * (1 + (rows + 4) * 2 * U)
    return bool((rest.sum(axis=1) * SLOP * (1 + rows * 2 * U) < 1.0).all())


class _Ends(NamedTuple):
    """What a layer reads at both ends of segments, and how far that may be off; whether signs hold."""

    reads: list[Array]
    off: list[Array]
    good: Any


def _features(
    net: Network, l: int, own: Any, starts: Array, ends: Array, sides: tuple[Array, Array],
    rho: float,
) -> tuple[Array, Array]:  # fmt: skip
    """What layer l reads where the segments cross the creases of its units: middle and reach, which is
    infinite where no length of the segment holds.
    """
    count, reads = len(own), net.widths[l]
    middle, reach = np.zeros((count, reads)), np.full((count, reads), np.inf)
    left = np.arange(count)
    for length in LENGTHS:
        centre, half = (starts[left] + ends[left]) / 2, (ends[left] - starts[left]) / 2
        long = [np.clip(centre + k * length * half, *sides) for k in (-1.0, 1.0)]
        at_ends = _at_ends(net, l, own[left], long[0], long[1], rho)
        mid = (at_ends.reads[0] + at_ends.reads[1]) / 2
        off = np.abs(at_ends.reads[0] - at_ends.reads[1]) / 2
        off = (off + np.maximum(at_ends.off[0], at_ends.off[1])) * SLOP + 4 * U * np.abs(mid)
        good = at_ends.good & _seen(net, l, own[left], mid, off, rho)
        middle[left[good]], reach[left[good]] = mid[good], off[good]
        left = left[~good]
        if not len(left):
            break
    return middle, reach


def _at_ends(net: Network, l: int, own: Any, starts: Array, ends: Array, rho: float) -> _Ends:
    prefix, rows = up_to(net, l + 1), np.arange(len(own))
    good = np.ones(len(own), dtype=bool)
    reads, off, sides = list[Array](), list[Array](), list[Any]()
    for x in (starts, ends):
        signs = list[Any]()
        for k, part in zip(range(l + 1), enclosed(prefix, x, 0.0, rho), strict=False):
            good &= (np.abs(part.z) > part.off).all(axis=1)
            signs.append(part.z > 0)
            if k == l:
                reads.append(part.reads)
                off.append(part.reads_off)
        sides.append(np.concatenate(signs, axis=1))
    differ = sides[0] != sides[1]
    at = sum(prefix.widths[1 : l + 1]) + own
    good &= differ[rows, at] & (differ.sum(axis=1) == 1)
    return _Ends(reads, off, good)


def _seen(net: Network, l: int, own: Any, middle: Array, reach: Array, rho: float) -> Any:
    """Whether, wherever layer l reads something within reach of the middle and unit `own` vanishes, no
    other unit from there on does, and an output depends on what the unit sends.
    """
    rows = np.arange(len(own))
    arrays = [part for x in net.layers[l:] for part in (x.weight, x.bias)]
    suffix = Network.mlp(*arrays, activation=list(net.activations[l:]))
    good, gates = np.ones(len(own), dtype=bool), list[Array]()
    for k, part in zip(range(len(suffix.layers) - 1), enclosed(suffix, middle, reach, rho), strict=False):  # fmt: skip
        sure = np.abs(part.z) > part.off
        if k == 0:
            sure[rows, own] = True
        good &= sure.all(axis=1)
        gates.append(np.asarray(suffix.activations[k].derivative(part.z)))
    shown = np.zeros(len(own), dtype=bool)
    for output in range(net.widths[-1]):
        slope = np.broadcast_to(suffix.layers[-1].weight[output], (len(own), net.widths[-2]))
        off = np.full(slope.shape, rho)
        for gate, layer in zip(gates[:0:-1], suffix.layers[-2:0:-1], strict=True):
            slope, off = slope * gate, off * np.abs(gate) * SLOP + 2 * U * np.abs(slope)
            weight = np.abs(layer.weight)
            gamma = (len(weight) + 4) * 2 * U
            lost = off @ weight * (1 + 2 * gamma) + gamma * (np.abs(slope) @ weight)
            lost += rho * (np.abs(slope) + off).sum(axis=1, keepdims=True) * (1 + 2 * gamma)
            slope, off = slope @ layer.weight, lost * SLOP + 1e-290
        shown |= np.abs(slope[rows, own]) > off[rows, own]
    result: Any = good & shown
    return result
