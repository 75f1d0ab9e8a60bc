"""The free bits of a network put to use: a message in the order of its hidden units, which changes
no function.

The units of a layer can be stored in d! orders. Relative to the sorted one, an order is a number
from 0 to d! - 1 (its Lehmer code), so each layer carries floor(log2 d!) bits. Only places change,
so the written network is proved the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from moduli.kernel.errors import UnsupportedModel
from moduli.kernel.network import Network

from .group import Element, Order

Array = np.ndarray[Any, np.dtype[np.float64]]


def capacity(net: Network) -> int:
    """Bits that the orders of hidden units can carry.

    >>> capacity(Network.mlp([[1.0], [2.0], [3.0]], [0.0] * 3, [[1.0] * 3], [0.0]))        # 3! = 6 orders
    2
    """
    return sum(map(_bits, net.widths[1:-1]))


def write(net: Network, message: bytes) -> Network:
    """The same function with a message in the order of its units, shorter ones padded with zero
    bytes.

    Raises:
        ValueError: a message of more than `capacity(net) // 8` bytes. UnsupportedModel: two units
            of a layer with one row.

    >>> import moduli as mo
    >>> net = mo.load("zoo:digits-plain")
    >>> marked = write(net, b"run 17")
    >>> read(marked).rstrip(bytes(1)), mo.equivalent(net, marked).status
    (b'run 17', 'proved')
    """
    room = capacity(net) // 8
    if len(message) > room:
        raise ValueError(
            f"a message of {len(message)} bytes; the orders of units of widths {net.widths[1:-1]} carry {room}"
        )
    number = int.from_bytes(message.ljust(room, bytes(1)), "big")
    orders = []
    for order in _sorted(net):
        bits = _bits(len(order))
        orders.append(order[_order(number & ((1 << bits) - 1), len(order))])
        number >>= bits
    return Element(tuple(orders), tuple(np.ones(len(order)) for order in orders))(net)


def read(net: Network) -> bytes:
    """The message in the order of the units."""
    number = at = 0
    for order in _sorted(net):
        places = np.argsort(order)
        number |= (_number(places.tolist()) & ((1 << _bits(len(order))) - 1)) << at
        at += _bits(len(order))
    room = capacity(net) // 8
    return (number & ((1 << (8 * room)) - 1)).to_bytes(room, "big")


def _bits(units: int) -> int:
    return math.factorial(units).bit_length() - 1


def _sorted(net: Network) -> list[Order]:
    """The order of each layer by rows, the layers before it in theirs."""
    orders, before = list[Order](), np.arange(net.widths[0])
    for l, layer in enumerate(net.layers[:-1], 1):
        rows = np.column_stack([layer.weight[:, before], layer.bias])
        before = np.lexsort(rows.T[::-1])
        if len(np.unique(rows, axis=0)) < len(rows):
            raise UnsupportedModel(
                f"two units of layer {l} have the same row: their order is no message; compress first"
            )
        orders.append(before)
    return orders


def _order(number: int, units: int) -> Order:
    """The order with a Lehmer code."""
    left, order = list(range(units)), []
    for k in range(units, 0, -1):
        first, number = divmod(number, math.factorial(k - 1))
        order.append(left.pop(first))
    return np.array(order, dtype=np.intp)


def _number(order: list[int]) -> int:
    """The Lehmer code of an order."""
    left, number = list(range(len(order))), 0
    for unit in order:
        place = left.index(unit)
        left.pop(place)
        number = number * (len(left) + 1) + place
    return number
