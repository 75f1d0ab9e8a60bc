"""Rows of a sum that are multiplied by zero wherever they are read: what they read does not matter."""

from __future__ import annotations

import numpy as np
import pytest

from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.axes import units_from
from moduli.kernel.graph.facts import Known
from moduli.kernel.graph.operators import PerUnit
from moduli.kernel.graph.removal import remove

from ...support.graphs import Builder, run

WEIGHT = np.array([[1, 2], [3, -1], [2, 2]], dtype=np.float32)
SECOND = np.array([[1, 2, 0], [4, 5, 6]], dtype=np.float32)


def branch(scale, *, how="batchnorm", variance=1.0, again=False, output=False, shape=(2,)):
    """x + scale * (SECOND relu(WEIGHT x))."""
    b = Builder("n", 2)
    y = b.dense(b.each("relu", b.dense("x", "a", WEIGHT, [1, 1, 1])), "c", SECOND, [1, 2])
    names = [b.constant("s", np.reshape(scale, shape))]
    if how == "batchnorm":
        for name, numbers in (("shift", [0.5, 1]), ("mean", [1, 1]), ("variance", [variance] * 2)):
            names.append(b.constant(name, numbers))
        z = b.add(PerUnit("batchnorm", 1, (0.25,)), (y, *names), ("n", 2))
    else:
        z = b.each(how, y, *names)
    z = b.each("add", "x", z)
    if again:
        z = b.each("add", z, y)
    return b.model(*([z, y] if output else [z]))


def left(model, *units):
    known = Known(model, {})
    after = remove(known, units_from(model, ("a.w", 0)), dict.fromkeys(units))
    x = np.random.default_rng(0).standard_normal((7, 2)) * 3
    np.testing.assert_allclose(run(after, {"x": x})[0], run(model, {"x": x})[0], rtol=1e-12)
    return len(after.constants["a.w"])


@pytest.mark.parametrize("how", ["batchnorm", "mul"])
def test_a_branch_that_is_multiplied_by_zero_needs_no_units(how):
    assert left(branch([0, 0], how=how), 1, 2) == 1
    assert left(branch([0, 0], how=how, shape=(1, 2) if how == "mul" else (2,)), 1) == 2


@pytest.mark.parametrize("how", ["batchnorm", "mul"])
def test_rows_that_are_read_need_theirs(how):
    """The first row, which is read, does not read the third unit."""
    assert left(branch([1, 0], how=how), 3) == 2
    for units in ((1,), (2,), (1, 3)):
        with pytest.raises(CertificateRejected, match="not constant"):
            left(branch([1, 0], how=how), *units)
    with pytest.raises(CertificateRejected, match="not constant"):
        left(branch([0, 1], how=how), 3)


@pytest.mark.parametrize("change", [
    {"again": True}, {"output": True}, {"variance": -1.0}, {"how": "add"}, {"how": "max"},
    {"how": "mul", "scale": [0, 1]}, {"scale": [0, 2.0**-140]}, {"scale": [0, np.nan]},
])  # fmt: skip
def test_another_reader_needs_them(change):
    how = {"scale": [0, 0], **change}
    with pytest.raises(CertificateRejected):
        left(branch(how.pop("scale"), **how), 3)


def test_a_scale_for_another_axis_says_nothing():
    b = Builder("n", 2, 2)
    y = b.dense(b.each("relu", b.dense("x", "a", WEIGHT)), "c", SECOND)
    z = b.each("mul", y, b.constant("s", [[0], [0]]))
    model = b.model(z)
    with pytest.raises(CertificateRejected):
        remove(Known(model, {}), units_from(model, ("a.w", 0)), {1: None})


def test_facts_of_what_changed_are_forgotten():
    model = branch([0, 0])
    known = Known(model, {})
    y = next(node.output for node in model.nodes if node.inputs[1:2] == ("c.w",))
    before = known.of((y, 1)).classes.copy()
    remove(known, units_from(model, ("a.w", 0)), {1: None})
    assert not set(known.of((y, 1)).classes.tolist()) & set(before.tolist())
