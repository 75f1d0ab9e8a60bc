"""Units in any other basis: where the kernel says that they may be mixed, a random matrix changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from moduli.equivalence.graph_scales import gauges
from moduli.equivalence.graph_units import UnitSets, exchangeable_units
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.mixing import require_mixed
from moduli.kernel.graph.operators import (
    Concat,
    Contract,
    PerUnit,
    Reshape,
    Slicewise,
    Take,
    Transpose,
)

from ...support.graphs import Builder, run

RNG = np.random.default_rng(0)
IN, OUT = RNG.normal(size=(4, 2)), RNG.normal(size=(3, 4))


def layers(between, **more):
    """Two layers with something in between."""
    b = Builder("n", 2)
    h = b.dense("x", "a", IN, more.get("bias", RNG.normal(size=4)))
    y = between(b, h)
    shape = b.shapes[y]
    return b.model(b.dense(y, "z", np.resize(OUT, (3, shape[-1]))))


def mixed(model):
    """Gauges of sizes whose units may be mixed, each tried with a random matrix; how many."""
    found = UnitSets(model, tuple(exchangeable_units(model)), model, ())
    count = 0
    for gauge in gauges(found):
        if gauge.sign or gauge.joint:
            continue
        units, members, _ = gauge.part
        try:
            require_mixed(model, units, members.tolist(), gauge.powers)
        except CertificateRejected:
            continue
        count += 1
        same(model, units, members, gauge.powers)
    return count


def same(model, units, members, powers):
    matrix = RNG.normal(size=(len(members),) * 2)
    kinds = {1: matrix, -1: np.linalg.inv(matrix).T}
    constants = {name: np.asarray(a, dtype=np.float64) for name, a in model.constants.items()}
    for (name, axis), power in powers.items():
        if name in constants:
            labels = units.places[name, axis]
            at = [int(np.flatnonzero(labels == unit)[0]) for unit in members]
            rows = np.moveaxis(constants[name], axis, 0).copy()
            rows[at] = np.tensordot(kinds[power], rows[at], 1)
            constants[name] = np.moveaxis(rows, 0, axis)
    other = type(model)(model.inputs, model.outputs, model.nodes, model.shapes, constants)
    feeds = {
        x: RNG.normal(size=[3 if n == "n" else n for n in model.shapes[x]]) for x in model.inputs
    }
    for before, after in zip(run(model, feeds), run(other, feeds), strict=True):
        assert np.allclose(before, after, rtol=1e-6, atol=1e-6)


def test_layers_with_what_is_linear_in_between():
    assert mixed(layers(lambda b, h: b.each("neg", h))) == 1
    assert mixed(layers(lambda b, h: b.each("add", h, b.dense("x", "c", IN + 1)))) == 1
    assert mixed(layers(lambda b, h: b.each("sub", h, b.constant("s", RNG.normal(size=4))))) == 1
    assert mixed(layers(lambda b, h: b.each("mul", h, b.constant("s", 0.5)))) == 1
    assert mixed(layers(lambda b, h: b.each("div", h, b.constant("s", [3.0])))) == 1
    assert mixed(layers(lambda b, h: b.add(Take(1, (3, 0, 2, 1)), [h], ("n", 4)))) == 1


def test_what_is_not_linear_in_one_way_mixes_nothing():
    def gate(b, h):
        return b.each("mul", h, b.each("sigmoid", b.dense("x", "c", IN + 1)))

    def normed(b, h):
        names = [b.constant(k, RNG.uniform(0.5, 2, 4)) for k in ("g", "b", "m", "v")]
        return b.add(PerUnit("batchnorm", 1, (1e-5,)), [h, *names], ("n", 4))

    def largest(b, h):
        b.shapes[h] = ("n", 4)
        tall = b.add(Reshape((((), (2,)),), (None, 4, 1), ((0, 0), (1, 1))), [h], ("n", 4, 1))
        top = b.add(Slicewise("max", ((0, 0), (1, 1)), homogeneous=True), [tall], ("n", 4, 1))
        return b.add(Reshape((((2,), ()),), (None, 4), ((0, 0), (1, 1))), [top], ("n", 4))

    for between in (
        lambda b, h: b.each("relu", h), lambda b, h: b.each("tanh", h), lambda b, h: b.each("abs", h),
        lambda b, h: b.each("mul", h, h), lambda b, h: b.each("mul", h, b.constant("s", RNG.normal(size=4))),
        lambda b, h: b.each("mul", h, b.dense("x", "c", IN + 1)), gate, normed,
    ):  # fmt: skip
        assert mixed(layers(between)) == 0
    model = layers(lambda b, h: b.add(Concat(1), [h, h], ("n", 8)))  # each unit twice
    assert mixed(model) == 0


def test_products_sum_over_one_side_and_the_other():
    """Queries and keys; tied ones turn only by what keeps lengths; heads are not mixed with each other."""
    b = Builder("n", 5, 2)
    q, k = (b.dense("x", name, RNG.normal(size=(4, 2)), RNG.normal(size=4)) for name in "qk")
    turned = b.add(Transpose((0, 2, 1)), [k], ("n", 4, 5))
    assert mixed(b.model(b.add(Contract(), [q, turned], ("n", 5, 5)))) == 1
    b = Builder("n", 5, 2)
    q = b.dense("x", "q", RNG.normal(size=(4, 2)))
    turned = b.add(Transpose((0, 2, 1)), [q], ("n", 4, 5))
    assert mixed(b.model(b.add(Contract(), [q, turned], ("n", 5, 5)))) == 0
    b = Builder("n", 5, 2)
    parts = [
        b.add(Transpose((0, 2, 1)), [b.dense("x", name, RNG.normal(size=(4, 2)))], ("n", 4, 5))
        for name in "qk"
    ]
    sides = [
        b.add(
            Reshape((((2,), shape),), (None, 4, *sizes), ((0, 0), (1, 1))), [part], ("n", 4, *sizes)
        )
        for part, shape, sizes in zip(parts, ((2, 3), (2, 3)), ((5, 1), (1, 5)), strict=True)
    ]
    together = b.add(Contract(), sides, ("n", 4, 5, 5))  # unit by unit
    mean = b.add(Slicewise("mean", ((0, 0), (1, 1)), linear=True), [together], ("n", 4, 1, 1))
    flat = b.add(Reshape((((1, 2, 3), (1,)),), (None, 4), ((0, 0),)), [mean], ("n", 4))
    assert mixed(b.model(b.dense(flat, "z", OUT))) == 0


def test_false_claims_are_refused():
    model = layers(lambda b, h: b.each("neg", h))
    found = UnitSets(model, tuple(exchangeable_units(model)), model, ())
    (gauge,) = (x for x in gauges(found) if not x.sign)
    units, members, _ = gauge.part
    powers = dict(gauge.powers)
    for change in ({"a.w": 2}, {"a.b": 0}, {"z.w": 1}):
        other = {place: change.get(place[0], power) for place, power in powers.items()}
        with pytest.raises(CertificateRejected):
            require_mixed(model, units, members.tolist(), other)
    with pytest.raises(CertificateRejected, match="wherever they are"):
        require_mixed(
            model, units, members.tolist(), {place: 2 * power for place, power in powers.items()}
        )
    less = {place: power for place, power in powers.items() if place[0] != "a.b"}
    with pytest.raises(CertificateRejected):
        require_mixed(model, units, members.tolist(), less)
