"""Which units live: moves speak of a graph that has lost units already; here they are counted from the
first graph on.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

import moduli as mo
from moduli.compression.exact.living_units import FATES, fates_of_units
from moduli.kernel.graph.certificate import GraphMove
from moduli.kernel.graph.operators import Concat

from ...support.graphs import Builder

LIVES, DEAD, MERGED, COMBINED, CONSTANT, WITH_BRANCH = range(6)


def remove(tensor, units, into=None, axis=0):
    return GraphMove("remove", tensor, axis, units, into or (-1,) * len(units))


def two_layers(hidden=5, function="relu"):
    g = Builder("N", 3)
    h = g.dense("x", "a", np.ones((hidden, 3)))
    r = g.each(function, h) if function else h
    return g.model(g.dense(r, "b", np.ones((2, hidden)))), h


def test_the_words_are_in_the_order_of_the_numbers():
    assert FATES == ("lives", "dead", "merged", "combined", "constant", "with its branch")


def test_indices_of_later_rounds_are_those_of_what_is_left():
    graph, _ = two_layers()
    rounds = [[remove("a.w", (1, 3), (-1, 0))], [remove("a.w", (2,))]]
    found = fates_of_units(graph, rounds, {})
    assert found["a.w"].tolist() == [LIVES, DEAD, LIVES, MERGED, DEAD]
    assert found["b.w"].tolist() == [LIVES, LIVES]


def test_moves_of_one_round_follow_each_other():
    graph, _ = two_layers()
    rounds = [[remove("a.w", (0,)), remove("a.w", (0,)), remove("b.w", (2,), axis=1)]]
    assert fates_of_units(graph, rounds, {})["a.w"].tolist() == [1, 1, 0, 0, 1]


def test_sums_of_others_are_combined():
    graph, h = two_layers(4, "")
    first = [remove("a.w", (0,))]
    second = [GraphMove("combine", h, 0, (2,), (0, 1), (1.0, 1.0))]
    found = fates_of_units(graph, [first, second], {})
    assert found["a.w"].tolist() == [DEAD, LIVES, LIVES, COMBINED]


def test_an_order_of_units_is_refused():
    graph, _ = two_layers(3)
    with pytest.raises(mo.CertificateRejected, match="order along axis 0"):
        fates_of_units(graph, [[GraphMove("order", "a.w", 0, (1, 0, 2))]], {})


def branched():
    """x -> relu(a x) + c relu(b ...), the branch in front: its writer gives the sum its name."""
    g = Builder("N", 3)
    left = g.dense(g.each("relu", g.dense("x", "mid", np.ones((4, 3)))), "zero", np.zeros((3, 4)))
    right = g.dense("x", "a", np.ones((3, 3)))
    total = g.each("add", left, right)
    return g.model(g.dense(total, "out", np.ones((2, 3)))), total, right


def test_a_branch_that_is_passed_by_takes_its_units_along():
    graph, total, right = branched()
    found = fates_of_units(graph, [[GraphMove("bypass", total)]], {total: right})
    assert found["mid.w"].tolist() == [WITH_BRANCH] * 4
    # the sum is called after the writer that is gone, and its units are still written
    assert found["zero.w"].tolist() == [LIVES] * 3


def test_units_of_a_branch_that_went_before_it_keep_their_fate():
    graph, total, right = branched()
    rounds = [[remove("mid.w", (1,))], [GraphMove("bypass", total), remove("a.w", (2,))]]
    found = fates_of_units(graph, rounds, {total: right})
    assert found["mid.w"].tolist() == [WITH_BRANCH, DEAD, WITH_BRANCH, WITH_BRANCH]
    assert found["zero.w"].tolist() == [LIVES, LIVES, DEAD]


def test_parts_of_a_concatenation_are_axes_of_their_own():
    g = Builder("N", 2)
    parts = [g.dense("x", name, np.ones((3, 2))) for name in "ab"]
    both = g.add(Concat(1), parts, ("N", 6))
    graph = g.model(g.dense(both, "out", np.ones((1, 6))))
    found = fates_of_units(graph, [[remove(both, (1, 3), axis=1)], [remove("b.w", (1,))]], {})
    assert found["a.w"].tolist() == [0, 1, 0]
    assert found["b.w"].tolist() == [1, 0, 1]


# Planted graphs ---------------------------------------------------------------------------------------------------


SOME = {
    "op_residual", "op_inception", "op_groups", "op_glu_split", "op_box", "op_shared_twice",
    "op_attention_heads", "op_attention_coords", "dyn_pointnet",
}  # fmt: skip


@pytest.fixture(
    scope="module", params=["some", pytest.param("every third", marks=pytest.mark.slow)]
)
def planted(request, shared):
    folder = shared / "cases" / "graph"
    found = []
    for k, record in enumerate(json.loads((folder / "records.json").read_text())["cases"]):
        if (request.param == "every third" and k % 3 == 0) or record["id"] in SOME:
            box = mo.Box(*record["box"]["x"]) if record["box"] else None
            found.append((record, mo.compress(folder / record["file"], on=box)))
    return found


def test_counts_are_those_of_the_smaller_graph_and_of_the_moves(planted):
    for record, small in planted:
        living, name = small.living(), record["id"]
        before = {axis.name: axis.size for axis in small.original.axes}
        assert {axis: len(fates) for axis, fates in living.items()} == before, name
        after = {axis.name: axis.size for axis in small.network.axes}
        left = {axis: int((fates == 0).sum()) for axis, fates in living.items()}
        assert left == {axis: after.get(axis, 0) for axis in before}, name
        assert [(axis.name, size) for axis, size in small.sizes()] == [*left.items()], name
        changed = {axis: n for axis, n in left.items() if n < before[axis]}
        assert {change.axis: change.after for change in small.axes} == changed, name
        gone = np.bincount(np.concatenate([*living.values()]), minlength=5)
        branches = sum(c.before for c in small.axes if c.how == "with its branch")
        left_out = int(gone[DEAD] + gone[CONSTANT]) - branches
        counted = {"left out": left_out, "merged": gone[MERGED], "combined": gone[COMBINED]}
        assert counted == {word: small.removed[word] for word in counted}, name
        assert gone[CONSTANT] == sum(map(len, small.constant)), name


def test_the_planted_units_are_those_that_went_and_no_trap(planted):
    """Of axes that the record and the reader see alike; a merged unit and its twin may change places."""
    seen, traps, constant = 0, 0, 0
    for record, small in planted:
        living = small.living()
        by_writers = {frozenset(axis.writers): living[axis.name] for axis in small.original.axes}
        fates = {}
        for axis in record["axes"]:
            found = by_writers.get(frozenset(axis["written_by"]))
            if found is None or len(found) != axis["size"]:
                continue
            fates[axis["axis"]] = found
            for unit, planned in axis["units"].items():
                if planned["level"] == "must" and planned["move"] == "drop":
                    assert found[int(unit)] == DEAD, (record["id"], axis["axis"], unit)
                    seen += 1
                if planned["level"] == "must" and planned["move"] == "fold":
                    assert found[int(unit)] == CONSTANT, (record["id"], axis["axis"], unit)
                    constant += 1
        for trap in record["forbidden"]:
            if trap["axis"] in fates and trap.get("wrong") == "drop":
                assert fates[trap["axis"]][trap["unit"]] == LIVES, (record["id"], trap)
                traps += 1
    assert seen > 2 * len(planted)
    assert constant
    assert traps > len(planted) / 3
