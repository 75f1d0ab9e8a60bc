"""Every operator is listed, has its shapes checked, and ties what it does not understand."""

from __future__ import annotations

import pytest

from moduli.kernel.graph import entrywise, operator, operators, rearranging, shapes, slicewise, sums

EVERY = {
    value
    for module in (entrywise, operator, rearranging, slicewise, sums)
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, operator.Operator)
} - {operator.Operator}


@pytest.mark.parametrize("kind", sorted(EVERY, key=lambda kind: kind.__name__))
def test_an_operator_is_listed_and_declares_its_ties(kind):
    assert kind.__name__ in operators.__all__
    assert getattr(operators, kind.__name__) is kind
    assert kind.couple is not operator.Operator.couple
    assert kind.__doc__


def test_shapes_of_all_but_opaque_ones_are_checked():
    assert set(shapes.CHECKS) | {operator.Opaque, operator.Size} >= EVERY
