"""Graphs cut along an axis: the same function, in which coordinates of single heads move by themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moduli.equivalence.graph_units import UnitSets
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.graph.certificate import GraphCertificate, GraphMove, played
from moduli.kernel.graph.operators import (
    Broadcast,
    Concat,
    Contract,
    Linear,
    Node,
    Opaque,
    Reshape,
    Size,
    Slicewise,
    Take,
    Transpose,
)
from moduli.kernel.graph.shapes import require_shapes
from moduli.kernel.graph.unrolling import unrolled
from moduli.kernel.slack import NO_SLACK

from ...support.graphs import Builder, run

RNG = np.random.default_rng(0)


def attention(*, last=False):
    """Two heads of three; with heads behind coordinates in the row, or in front of them."""
    b = Builder("n", 5, 2)
    parts = {}
    for name in "qkv":
        h = b.dense("x", name, RNG.normal(size=(6, 2)), RNG.normal(size=6))
        sizes, heads = ((3, 2), 3) if last else ((2, 3), 2)
        split = b.add(
            Reshape((((2,), (2, 3)),), (None, 5, *sizes), ((0, 0), (1, 1))),
            [h],
            ("n", 5, *sizes),
            f"{name}s",
        )
        rows = (0, heads, 1, 5 - heads)
        order = (rows[0], rows[1], rows[3], rows[2]) if name == "k" else rows
        parts[name] = b.add(
            Transpose(order), [split], ("n", 2, 3, 5) if name == "k" else ("n", 2, 5, 3)
        )
    scores = b.each(
        "mul", b.add(Contract(), [parts["q"], parts["k"]], ("n", 2, 5, 5)), b.constant("r", 0.5)
    )
    scores = b.each("add", scores, b.constant("mask", RNG.normal(size=(2, 1, 5))))
    p = b.add(Slicewise("softmax", ((0, 0), (1, 1), (2, 2))), [scores], ("n", 2, 5, 5))
    o = b.add(Contract(), [p, parts["v"]], ("n", 2, 5, 3))
    back = (0, 2, 3, 1) if last else (0, 2, 1, 3)
    shape = ("n", 5, 3, 2) if last else ("n", 5, 2, 3)
    o = b.add(Transpose(back), [o], shape)
    flat = b.add(Reshape((((2, 3), (2,)),), (None, 5, 6), ((0, 0), (1, 1))), [o], ("n", 5, 6))
    axis = 3 if last else 2
    return b.model(b.dense(flat, "z", RNG.normal(size=(3, 6)))), [
        (f"{name}s", axis) for name in "qkv"
    ]


def same(a, b, count=3):
    feeds = {x: RNG.normal(size=[count if n == "n" else n for n in a.shapes[x]]) for x in a.inputs}
    for before, after in zip(run(a, feeds), run(b, feeds), strict=True):
        assert np.allclose(before, after, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("last", [False, True])
def test_attention_by_heads(last):
    model, places = attention(last=last)
    cut = unrolled(model, places)
    require_shapes(cut)
    assert len(cut.nodes) > len(model.nodes) + 20
    same(model, cut)
    some = unrolled(model, places[:1])  # the others are joined, or taken apart where they are read
    require_shapes(some)
    same(model, some)


@pytest.mark.parametrize("last", [False, True])
def test_coordinates_of_single_heads_move(last):
    model, places = attention(last=last)
    found = UnitSets.of(model)
    assert sorted(found.places) == sorted(places)
    apart = [part for part in found.sets if part.head is not None]
    assert sorted(len(part.members) for part in apart) == [3] * 4
    assert [len(part.members) for part in found.sets if part.head is None] == [2]
    (first, *_) = apart
    labels = first.units.places[first.units.seed]
    units = [int(np.flatnonzero(labels == unit)[0]) for unit in first.members]
    move = GraphMove("order", *first.units.seed, (units[1], units[2], units[0]))
    cuts = [GraphMove("unroll", *place) for place in places]
    assert len(labels) == 3
    moved, slack = played(model, [*cuts, move], {})
    assert slack == NO_SLACK
    assert moved.digest != model.digest
    same(model, moved)
    with pytest.raises(CertificateRejected):  # of the graph as it is there is no such axis
        played(model, [move], {})
    claim = GraphCertificate(model.digest, moved.digest, ((*cuts, move),), {})
    GraphCertificate.from_json(json(claim)).verify(moved, model)
    with pytest.raises(CertificateRejected):
        replace(claim, rounds=((*cuts[1:], move),)).verify(moved, model)


def json(claim):
    from json import dumps

    return dumps(claim.to_json())


def test_what_reads_all_heads_reads_them_joined():
    """A sum over heads, a function that is not known, sizes, a concatenation, a slice, a layer."""
    b = Builder("n", 6)
    s = b.add(Reshape((((1,), (1, 2)),), (None, 2, 3), ((0, 0),)), ["x"], ("n", 2, 3), "s")
    h = b.each("tanh", s)
    total = b.add(Slicewise("mean", ((0, 0), (2, 2)), linear=True), [h], ("n", 1, 3))
    both = b.add(Concat(2), [h, s], ("n", 2, 6))
    some = b.add(Take(2, (5, 0, 1)), [both], ("n", 2, 3))
    one = b.add(Take(2, (1,), drop=True), [some], ("n", 2))
    lone = b.add(Take(1, (1,), drop=True), [h], ("n", 3))  # along the axis that is cut
    c = b.constant("c", RNG.normal(size=(1, 1, 3)))
    wide = b.add(Broadcast((1, 2, 3)), [c], (1, 2, 3))
    out = b.each("mul", b.each("add", h, wide), total)
    layer = b.dense(out, "z", RNG.normal(size=(4, 3)), RNG.normal(size=4))
    joined = b.add(Concat(1), [h, s], ("n", 4, 3))  # along it as well
    swapped = b.add(Transpose((0, 2, 1)), [h], ("n", 3, 2))
    flat = b.add(Reshape((((1, 2), (1,)),), (None, 6), ((0, 0),)), [swapped], ("n", 6))
    model = b.model(some, one, lone, layer, joined, flat, h)
    cut = unrolled(model, [("s", 1)])
    require_shapes(cut)
    same(model, cut)


def test_sizes_of_other_axes_are_those_of_each_part():
    b = Builder("n", 6)
    b.add(Reshape((((1,), (1, 2)),), (None, 2, 3), ((0, 0),)), ["x"], ("n", 2, 3), "s")
    for axis, name in ((0, "s[0]"), (1, "s")):
        nodes = (*b.nodes, Node(Size(((0, axis),)), ("s",), ("m",), "m"))
        model = b.model("s")
        model = replace(model, nodes=nodes, shapes={**b.shapes, "m": (1,)}, outputs=("m",))
        (reader,) = (node for node in unrolled(model, [("s", 1)]).nodes if node.name == "m")
        assert reader.inputs == (name,)


def test_what_is_not_known_reads_all():
    b = Builder("n", 6)
    s = b.add(Reshape((((1,), (1, 2)),), (None, 2, 3), ((0, 0),)), ["x"], ("n", 2, 3), "s")
    model = b.model(b.add(Opaque("Mystery"), [s], ("n", 2, 3), "y"))
    cut = unrolled(model, [("s", 1)])
    assert cut.makers["y"].inputs == ("s",)
    assert isinstance(cut.makers["s"].op, Concat)


@pytest.mark.parametrize(
    "places",
    [
        [("x", 1)],
        [("nobody", 0)],
        [("qs", 0)],
        [("qs", 1)],
        [("qs", 9)],
        [("qs", 2), ("qs", 3)],
        [("t0", 2)],
    ],
)
def test_only_what_a_reshape_takes_apart_is_cut(places):
    model, _ = attention()
    with pytest.raises(CertificateRejected):
        unrolled(model, places)


def test_names_are_not_taken_twice():
    b = Builder("n", 6)
    s = b.add(Reshape((((1,), (1, 2)),), (None, 2, 3), ((0, 0),)), ["x"], ("n", 2, 3), "s")
    model = b.model(
        b.each("tanh", s),
        b.add(
            Linear(1, 1, 1, 0, free=((0, 0),)), ["x", b.constant("w", np.eye(6))], ("n", 6), "s[0]"
        ),
    )
    with pytest.raises(CertificateRejected, match="there twice"):
        unrolled(model, [("s", 1)])


def test_rounds_are_of_orders_or_of_scales():
    model, places = attention()
    cut = GraphMove("unroll", *places[0])
    order = GraphMove("order", "q.w", 0, tuple(range(6)))
    scale = GraphMove("scale", "q.w", 0, (0,), (), (2.0,), (("q.w", 0, 1),))
    for moves in ([cut, order, scale], [cut, GraphMove("bypass", "t1")], [cut, cut, order]):
        with pytest.raises(CertificateRejected):
            played(model, moves, {})
    assert played(model, [cut], {})[0].digest == model.digest
    assert GraphMove.of(cut.plain()) == cut
