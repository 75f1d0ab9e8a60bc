"""Messages in the order of units."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import strategies as plants

import moduli as mo
from moduli.equivalence.order_payload import _number, _order, capacity, read, write


def test_codes_are_all_orders_once():
    for n in range(1, 6):
        orders = [tuple(_order(k, n).tolist()) for k in range(len(list(permutations(range(n)))))]
        assert sorted(orders) == sorted(permutations(range(n)))
        assert [_number(list(order)) for order in orders] == list(range(len(orders)))


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
def test_messages_travel(activation):
    rng = np.random.default_rng(0)
    for widths in ((5, 40, 30, 2), (3, 20, 1), (2, 3, 1)):
        net = plants.minimal(rng, widths, [activation] * (len(widths) - 2)).network()
        room = capacity(net) // 8
        for message in (b"", rng.bytes(room), bytes([255]) * room):
            marked = write(net, message)
            assert read(marked) == message.ljust(room, bytes(1))
            assert mo.equivalent(net, marked).status == "proved"
            assert write(marked, message) == marked
            assert write(marked, b"") == write(net, b"")
        with pytest.raises(ValueError, match="carry"):
            write(net, bytes(room + 1))


def test_capacity_of_a_common_network():
    """784-300-100-10: 2566 free bits, less what rounding down to whole bits takes from each layer."""
    shapes = ((300, 784), 300, (100, 300), 100, (10, 100), 10)
    net = mo.Network.mlp(*(np.zeros(shape) for shape in shapes))
    assert 2566.04 - 2 <= capacity(net) <= 2566.04


def test_equal_rows_carry_no_message():
    net = mo.Network.mlp([[1.0], [1.0], [2.0], [3.0]], [0.0] * 4, [[1.0, 2.0, 3.0, 4.0]], [0.0])
    with pytest.raises(mo.UnsupportedModel, match="layer 1 have the same row"):
        write(net, b"")
