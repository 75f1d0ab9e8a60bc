"""Certificates and networks made in Python, of anything; numbers that grow; processes that do not
compute as IEEE 754 asks.

Run by `test_objects.py` in a process of its own, or by hand: pytest -o addopts=
tests/adversarial/objects.py. The suite checks types of arguments at run time, which users do not:
there an object of the wrong type would not get as far as the kernel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import moduli as mo
from moduli.compression.box import tolerance
from moduli.equivalence.box_gap import Reduced, Search, bisected
from moduli.equivalence.constant_paths import Knot, path
from moduli.kernel import exact_numbers, fields
from moduli.kernel import state as states
from moduli.kernel.activations import Activation
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.bounds.output_gap import GapBound, measures
from moduli.kernel.bounds.sign_splits import Case
from moduli.kernel.certificate import Certificate, proved
from moduli.kernel.exact_numbers import ExactArray, total
from moduli.kernel.move import Move
from moduli.kernel.network import Layer, Network, rebuilt
from moduli.kernel.radius.compatibility import DualWeights, ParameterBall
from moduli.kernel.radius.cover_bound import Bound, Change, Near
from moduli.kernel.rules import apply
from moduli.kernel.slack import Slack
from moduli.kernel.state import State
from moduli.piecewise import functional_dimension

ROOT = Path(__file__).parents[2]


def net(*arrays, activation="tanh"):
    return mo.Network.mlp(*(np.array(a, dtype=float) for a in arrays), activation=activation)


SAME = net([[1], [1]], [0, 0], [[1, 2]], [0])
SMALL = mo.compress(SAME)
TWO = net([[1], [2]], [0, 1], [[1, 1]], [0], activation="relu")
FREE = Slack(1e300, 1e300)


def units(*numbers):
    return np.array(numbers, dtype=np.intp)


def claimed(large=SAME, small=None, moves=(), **claim):
    """A certificate as an object, whatever its parts."""
    small = large if small is None else small
    return Certificate(large.digest, small.digest, moves, **{"slack": FREE, **claim})


# Classes that say what one would like to hear -------------------------------------------------------------------


class Agreeable(float):
    """A float that is at least and at most anything."""

    def __le__(self, other):
        return True

    __ge__ = __lt__ = __gt__ = __eq__ = __le__
    __hash__ = float.__hash__


class Text(str):
    """Text that equals any other."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = str.__hash__


class Count(int):
    """A number of somebody's own."""


class Numbers(np.ndarray):
    """An array of which all comparisons hold."""

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return np.ones(np.asarray(self).shape, dtype=bool)


def fraction(top, below):
    """A `Fraction` that no constructor makes."""
    made = Fraction(1)
    object.__setattr__(made, "_numerator", top)
    object.__setattr__(made, "_denominator", below)
    return made


def merge(**other):
    return replace(Move("merge", 1, units(1), units(0)), **other)


OFF = Region((-1.0,), (1.0,), (-1,), ((0, 0),))
CASE = Case(1, 0, 1, -1, (-1,), (((), ()),))
OBJECTS = {
    "a method of the kernel's own": {"moves": (Move("remove", 1, units(0)),)},
    "a method of the class": {"moves": (Move("_slots", 1, units(0)),)},
    "a kind that equals any": {"moves": (Move(Text("drop"), 1, units(0)),)},
    "a kind that is no text": {"moves": (Move(None, 1, units(0)),)},
    "units as floats": {"moves": (merge(units=np.array([1.0])),)},
    "units as flags": {"moves": (merge(units=np.array([True, False])),)},
    "units in two axes": {"moves": (merge(units=np.array([[1]], dtype=np.intp)),)},
    "units of an own class": {"moves": (merge(units=units(1).view(Numbers)),)},
    "units of another order of bytes": {"moves": (merge(units=units(1).astype(">i8")),)},
    "a negative unit": {"moves": (merge(units=units(-1)),)},
    "a negative unit to merge into": {"moves": (merge(into=units(-2)),)},
    "a list of no numbers": {"moves": (merge(units=["1"]),)},
    "a layer that is true": {"moves": (merge(layer=True),)},
    "a layer of an own class": {"moves": (merge(layer=Count(1)),)},
    "a layer of numpy's": {"moves": (merge(layer=np.int64(1)),)},
    "a ratio that is a float": {"moves": (merge(ratio=1.0),)},
    "a ratio that is a whole number": {"moves": (merge(ratio=1),)},
    "a ratio of zero": {"moves": (merge(ratio=Fraction(0)),)},
    "a ratio of zero fifths": {"moves": (merge(ratio=fraction(0, 5)),)},
    "a ratio over zero": {"moves": (merge(ratio=fraction(1, 0)),)},
    "a ratio of floats": {"moves": (merge(ratio=fraction(1.0, 1)),)},
    "a ratio of 701 digits": {"moves": (merge(ratio=Fraction(10**700)),)},
    "a row that is no row": {
        "moves": (Move("block", 1, units(0), units(0), rows=(3,), outgoing=((Fraction(1),),)),)
    },
    "moves that are none": {"moves": (None,)},
    "moves that are a number": {"moves": 7},
    "slack that is at least anything": {"slack": Slack(Agreeable(0), Agreeable(0))},
    "slack that is no number": {"slack": Slack(float("nan"), 0.0)},
    "slack of nothing": {"slack": None},
    "endless slack": {"slack": Slack(float("inf"), 0.0)},
    "minimal as numpy's flag": {"minimal": np.True_},
    "minimal as a number": {"minimal": 1},
    "minimal as text": {"minimal": "yes"},
    "a radius that is no number": {
        "near": SimpleNamespace(
            plain=lambda: {"radius": float("nan"), "changes": [], "bound": None}
        )
    },
    "a radius at least anything": {"near": Near(Agreeable(1))},
    "a change of numpy's": {
        "near": Near(1.0, (Change(np.int64(1), "weight", units(0), ExactArray(np.ones(1))),))
    },
    "a change of a negative place": {
        "near": Near(1.0, (Change(1, "weight", units(-1), ExactArray(np.ones(1))),))
    },
    "a change to no number": {
        "near": Near(1.0, (Change(1, "weight", units(0), ExactArray(np.array([np.nan]))),))
    },
    "a change of more values": {
        "near": Near(1.0, (Change(1, "weight", units(0), ExactArray(np.ones(2))),))
    },
    "an end of a box that is no number": {"region": replace(OFF, low=(float("nan"),))},
    "an end of a box at most anything": {"region": replace(OFF, low=(Agreeable(2),))},
    "an endless box": {"region": replace(OFF, high=(float("inf"),))},
    "signs of flags": {"region": replace(OFF, signs=((True, False),))},
    "signs of 2": {"region": replace(OFF, signs=((2, 0),))},
    "a tree of floats": {"region": replace(OFF, tree=(-1.0,))},
    "a multiplier that is no number": {
        "region": replace(OFF, cases=(replace(CASE, leaves=(((0,), (float("nan"),)),)),))
    },
    "fewer multipliers than units": {
        "region": replace(OFF, cases=(replace(CASE, leaves=(((0,), ()),)),))
    },
    "a sign that is true": {"region": replace(OFF, cases=(replace(CASE, sign=True),))},
    "a bound of a unit of floats": {
        "near": Near(0.1, (), Bound(1, (((0.0,), DualWeights({0: 1}, {}, (), 1)),)))
    },
    "a bound that is a flag": {"near": Near(0.1, (), Bound(True, ()))},
    "a bound of no tree": {"near": Near(0.1, (), Bound(1, (((0,), None),)))},
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_that_no_file_holds_is_refused(name):
    with pytest.raises(mo.CertificateRejected) as caught:
        claimed(**OBJECTS[name]).verify(SAME, SAME)
    assert "is not the certified one" not in str(caught.value), "a check on the checker"
    assert str(caught.value).isprintable()


def test_what_a_file_holds_may_also_be_given_in_python():
    """Lists for tuples, an `np.float64` turned into a float, a Fraction in other than lowest terms:
    all read as one thinks.
    """
    move = Move("merge", 1, units(1), units(0), fraction(2, 2))
    claim = Certificate(SAME.digest, SMALL.network.digest, [move], [], Slack(0, 0), True)
    claim.verify(SMALL.network, SAME)
    found = proved(claim, SMALL.network, SAME).certificate
    assert found.large_moves[0].ratio.denominator == 1
    assert found.to_json() == SMALL.certificate.to_json()


def test_a_unit_counts_once_in_an_odd_set():
    """Three names of two units would ask for two of the boxes that hold one each: one paid group
    suffices for both.
    """
    near = net([[1, 2], [1.25, 2]], [0, 0], [[1, 1]], [0])
    hidden, last = near.layers
    ball = ParameterBall(
        np.column_stack([hidden.weight, hidden.bias]), np.ascontiguousarray(last.weight.T), 0.125
    )
    for leaf in (
        DualWeights({}, {}, (((0, 1, 0), 1),), 1), DualWeights({}, {}, (((0, 0, 0), 1),), 1),
        DualWeights({0: 1, -2: 1}, {}, (), 1),
        DualWeights({0: 1, 1: 0}, {-1: 1}, (), 1),
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            Bound(2, (((0, 1), leaf),)).verify(ball)
        data = claimed(near, near=Near(0.125, (), Bound(2, (((0, 1), leaf),)))).to_json()
        with pytest.raises(mo.CertificateRejected):
            Certificate.from_json(json.dumps(data)).verify(near, near)
    Bound(1, (((0, 1), DualWeights({}, {}, (((0, 1), 1),), 1)),)).verify(ball)


def test_a_part_of_the_checker_refuses_a_unit_that_counts_twice():
    """Below the reader, too: whoever calls it with a leaf of their own."""
    from moduli.kernel.radius.cover_bound import _Part

    ball = ParameterBall(np.array([[1.0, 0.0], [1.25, 0.0]]), np.ones((2, 1)), 0.125)
    for leaf, why in (
        (DualWeights({}, {}, (((0, 1, 0), 1),), 1), "twice"),
        (DualWeights({0: 1, -2: 1}, {}, (), 1), "needs no cover"),
    ):
        with pytest.raises(mo.CertificateRejected, match=why):
            _Part(ball, (0, 1), 100, leaf).bound(leaf)


# Networks -------------------------------------------------------------------------------------------------------


class Pretender(Network):
    """Another network with the digest of one that is certified."""

    digest = property(lambda self: SAME.digest)


def forged_networks():
    other = net([[1], [3]], [0, 0], [[1, 2]], [0])
    yield "a digest that is a property", Pretender(other.layers)
    cached = Network(other.layers)
    cached.__dict__["digest"] = SAME.digest
    yield "a digest that was set by hand", cached
    text = Network(other.layers)
    text.__dict__["digest"] = Text("x")
    yield "a digest that equals any", text
    changed = Network(SAME.layers)
    assert changed.digest == SAME.digest
    object.__setattr__(changed, "layers", other.layers)
    yield "layers that were changed afterwards", changed

    class Own(Layer):
        weight = property(lambda self: np.array([[1.0], [3.0]]), lambda self, value: None)

    assert SAME.digest
    yield (
        "a layer of an own class",
        Network(
            (
                Own(*(getattr(SAME.layers[0], n) for n in ("weight", "bias", "activation"))),
                SAME.layers[1],
            )
        ),
    )
    yield "no network", SimpleNamespace(digest=SAME.digest, layers=())
    broken = Network(SAME.layers)
    object.__setattr__(broken.layers[0], "bias", SAME.layers[0].bias)
    yield "no network at all", None


@pytest.mark.parametrize(
    ("name", "given"), list(forged_networks()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_network_is_what_its_arrays_say(name, given):
    claim = claimed(SAME, SAME, slack=Slack(0.0, 0.0))
    claim.verify(SAME, SAME)
    for pair in ((SAME, given), (given, SAME), (given, given)):
        with pytest.raises(mo.CertificateRejected, match=r"is not the certified one|not a network"):
            claim.verify(*pair)


def test_an_activation_is_what_its_name_says():
    """A law that was set by hand: merging tanh(x) and tanh(-x) with the same sign would need an
    even function.
    """
    even = Activation("tanh")
    even.__dict__["_row"] = replace(even._row, reflection=(Fraction(1), Fraction(0), Fraction(0)))
    layers = net([[1], [-1]], [0, 0], [[1, 1]], [0]).layers
    large = Network((Layer(layers[0].weight, layers[0].bias, even), layers[1]))
    move = Move("merge", 1, units(1), units(0), Fraction(-1))
    state = State(large)
    apply(state, move)
    small = state.network()
    assert small.layers[1].weight.tolist() == [[2.0]], (
        "a check on the checker: the forged law would add"
    )
    with pytest.raises(mo.CertificateRejected):
        Certificate(large.digest, small.digest, (move,), (), Slack(0.0, 0.0)).verify(small, large)


@pytest.mark.parametrize("slope", [np.float64(0.25), np.float32(0.25), 1, True, Agreeable(0.25)])
def test_a_slope_is_a_float(slope):
    """Its text is part of digests, and is read again."""
    found = Activation("leaky_relu", slope)
    assert type(found.slope) is float
    assert Activation.of(str(found)) == found == Activation("leaky_relu", float(slope))
    with pytest.raises(ValueError, match="slope"):
        Activation("leaky_relu", 2**53 + 1)


def test_arrays_of_an_own_class_become_plain_ones():
    weight = np.array([[1.0], [2.0]])
    for view in (weight.view(np.matrix), weight.view(Numbers)):
        own = view.copy()
        own.setflags(write=False)
        layer = Layer(own, np.zeros(2), Activation("tanh"))
        assert type(layer.weight) is np.ndarray
        assert layer.weight.tolist() == weight.tolist()
    for wrong in (weight.astype(">f8"), weight.astype(np.float16), weight.astype(np.longdouble)):
        with pytest.raises(mo.UnsupportedModel, match="not a float64 array"):
            Layer(wrong, np.zeros(2), Activation("tanh"))
        assert (
            mo.Network.mlp(wrong, [0, 0], [[1, 1]], [0]).layers[0].weight.tolist()
            == weight.tolist()
        )


def test_a_network_that_is_mapped_from_a_file_is_copied(tmp_path):
    np.save(tmp_path / "w.npy", np.array([[1.0], [2.0]]))
    mapped = np.load(tmp_path / "w.npy", mmap_mode="r+")
    layer = Layer(mapped, np.zeros(2), Activation("tanh"))
    mapped[:] = 9.0
    assert layer.weight.tolist() == [[1.0], [2.0]]


def test_making_a_network_again_takes_no_copies():
    large = mo.Network.mlp(np.ones((1000, 500)), np.zeros(1000), np.ones((1, 1000)), [0.0])
    tracemalloc.start()
    again = rebuilt(large)
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert again.layers[0].weight is large.layers[0].weight
    assert again.digest == large.digest
    assert size < large.layers[0].weight.nbytes // 4


# What is said of a claim ----------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Lenient(Certificate):
    """A class that accepts itself."""

    def verify(self, small, large):
        return None


def test_a_verdict_speaks_of_what_was_checked():
    lenient = Lenient(SAME.digest, TWO.digest, (), slack=Slack(0.0, 0.0), minimal=True)
    with pytest.raises(mo.CertificateRejected):
        mo.check(lenient, TWO, SAME)
    honest = Lenient(
        SAME.digest,
        SMALL.network.digest,
        SMALL.certificate.large_moves,
        (),
        SMALL.certificate.slack,
        True,
    )
    verdict = mo.check(honest, SMALL.network, SAME)
    assert type(verdict.proof) is Certificate
    assert type(verdict.small) is Network
    with pytest.raises(mo.CertificateRejected, match="finite number"):
        mo.check(replace(honest, slack=Slack(Agreeable(0), 0.0)), SMALL.network, SAME)
    with pytest.raises(mo.CertificateRejected, match="is not the certified one"):
        mo.check(honest, SMALL.network, Pretender(TWO.layers))


def test_arrays_of_a_claim_that_change_later_change_nothing_that_was_checked():
    move = Move("merge", 1, units(1), units(0))
    claim = Certificate(SAME.digest, SMALL.network.digest, (move,), (), Slack(0.0, 0.0))
    found = proved(claim, SMALL.network, SAME)
    move.units[0] = 0
    assert found.certificate.large_moves[0].units.tolist() == [1]


def test_a_bound_of_a_difference_is_read_again():
    a, b = TWO, net([[1], [2]], [0, 1], [[1, 2]], [0], activation="relu")
    assert "separate" in measures(a, b)
    box = mo.Box(-1, 1)
    GapBound(9.0, "separate", (-1,), (), 1).verify(a, b, box)
    for wrong in (
        GapBound(Agreeable(0), "separate", (-1,), (), 1), GapBound(float("inf"), "separate", (-1,), (), 1),
        GapBound(9.0, Text("separate"), (-1,), (), 1), GapBound(9.0, "separate", (True, -1, -1), (), 1),
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            wrong.verify(a, b, box)


def test_a_path_of_objects():
    a, b = net([[1], [2]], [0, 0], [[1, 0]], [0]), net([[2], [-1]], [0, 0], [[0, -1]], [0])
    true = path(a, b).certificate
    true.verify(a, b)
    first, knot = true.knots[0], true.knots[1]
    for wrong in (
        Knot(tuple(map(float, knot.rows)), knot.out), Knot(tuple(map(Count, knot.rows)), knot.out),
        Knot((-1, *knot.rows[1:]), knot.out),
        Knot(knot.rows, tuple(tuple(map(float, column)) for column in knot.out)), Knot(knot.rows, None), None,
        Knot(knot.rows, tuple(tuple(fraction(x.numerator, 0) for x in column) for column in knot.out)),
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            replace(true, knots=(first, wrong, *true.knots[2:])).verify(a, b)
    other = net([[1], [2]], [0, 0], [[3, 0]], [0])
    other.__dict__["digest"] = a.digest
    for pair in ((other, b), (a, other)):
        with pytest.raises(mo.CertificateRejected, match="has digest"):
            true.verify(*pair)
    with pytest.raises(mo.CertificateRejected):
        replace(true, a=Text("x")).verify(other, b)


# Answers --------------------------------------------------------------------------------------------------------


class Both(Network):
    """A network that looks like the one it is compared with to whoever asks it for its layers."""

    def __init__(self, own, shown):
        super().__init__(own)
        object.__setattr__(self, "shown", shown)

    @property
    def activations(self):
        return tuple(layer.activation for layer in self.shown[:-1])

    def logits(self, x):
        return Network(self.shown).logits(x)


class Small(int):
    """A number that says it is none that counts."""

    def __le__(self, other):
        return True

    def __ge__(self, other):
        return True


def lying(number):
    """A Fraction of such a numerator."""
    found = Fraction(number)
    found._numerator = Small(number)
    return found


class Elsewhere(mo.Box):
    """A box that says of itself that it is another."""

    def of_dimension(self, inputs):
        return mo.Box(np.zeros(inputs), np.zeros(inputs))


class Blind(Reduced):
    """Bounds that bound nothing."""

    def verify(self, a, b, box):
        return 0.0


def answers():
    """Answers of every kind about two networks whose difference on [-1, 1] is 2^-8, for tolerances
    below and above.
    """
    a, b = (
        net([[1.0], [1.5], [-0.5]], [0, 1, 0.25], [[1, -1, 2]], [shift], activation="relu")
        for shift in (0, 2**-8)
    )
    box = mo.Box([-1.0], [1.0])
    for eps in (2**-9, 2**-7):
        pieces = mo.equivalent(a, b, on=box, eps=eps)
        yield eps, pieces
        yield eps, mo.equivalent(a, b, eps=eps)
        apart = bisected(a, b, box, Search(100)).proof
        yield eps, replace(pieces, status="proved", witness=None, pieces=False, proof=apart)


@pytest.mark.parametrize(("eps", "answer"), list(answers()), ids=str)
def test_an_answer_about_two_networks_is_checked_for_what_these_hold(eps, answer):
    b = answer.b
    if eps > 2**-8 or answer.witness is not None:
        assert answer.check()
    else:
        with pytest.raises(mo.CertificateRejected):
            answer.check()
    if eps > 2**-8:
        far = net([[1.0], [1.5], [-0.5]], [0, 1, 0.25], [[1, -1, 2]], [1.0], activation="relu")
        for forged in (Both(far.layers, b.layers), Network(far.layers)):
            forged.__dict__["digest"] = b.digest
            with pytest.raises(mo.CertificateRejected):
                replace(answer, b=forged).check()
    for wrong in (
        replace(answer, eps=Agreeable(0)), replace(answer, a=SimpleNamespace(layers=())),
        replace(answer, status="proved", witness=None, pieces=False, proof=None, on=mo.Box(-9, 9),
                eps=2**-9, reduced=Blind((), (), None)),
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            wrong.check()


def test_what_is_no_answer_at_all_is_rejected():
    a, b = (
        net([[1.0], [2.0]], [0, 1], [[1, 1]], [shift], activation="gelu") for shift in (0, 2**-8)
    )
    box = mo.Box(-1, 1)
    far, near = mo.distance(a, b, on=box, budget=50), mo.equivalent(a, b, on=box, eps=1.0)
    assert far.check()
    assert near.check()
    for wrong in (
        replace(far, argmax=5), replace(far, extra=None), replace(far, proof=5), replace(far, behind=(0.0,)),
        replace(far, box=5), replace(far, lower="0"), replace(near, proof=5), replace(near, proof=None, reduced=5),
        replace(near, proof=None, reduced=Reduced(5, (), 5)), replace(near, status="refuted", witness=5),
        replace(near, decision=1), replace(near, on=5),
    ):  # fmt: skip
        with pytest.raises((mo.CertificateRejected, mo.Undecided)):
            wrong.check()


def test_a_witness_lies_in_the_box_that_the_arrays_say():
    a, b = (net([[1.0]], [0.0], [[1.0]], [0.0], activation=kind) for kind in ("relu", "abs"))
    refuted = mo.equivalent(a, b, on=mo.Box(-1, 1))
    assert refuted.check()
    with pytest.raises(mo.CertificateRejected, match="not in the box"):
        replace(refuted, on=Elsewhere(5, 6)).check()
    with pytest.raises(mo.CertificateRejected, match="Fractions"):
        replace(refuted, witness=refuted.witness._replace(input=(Agreeable(0),))).check()
    with pytest.raises(mo.CertificateRejected, match="Fractions"):
        replace(refuted, witness=refuted.witness._replace(input=(lying(5),))).check()
    proved_on = replace(refuted, status="proved", witness=None, pieces=True, on=Elsewhere(-1, 1))
    with pytest.raises(mo.CertificateRejected):
        proved_on.check()  # at 0, which the box names, both are 0


def test_results_do_not_believe_certificates_of_an_own_class():
    lenient = Lenient(SAME.digest, TWO.digest, (), slack=Slack(0.0, 0.0), minimal=True)
    with pytest.raises(mo.CertificateRejected):
        replace(SMALL, network=TWO, proof=lenient).check()
    noisy = net([[1, 0], [1, 1e-3]], [0, 0], [[1, 2]], [0], activation="relu")
    within = mo.compress(noisy, on=mo.Box(-1, 1), eps=0.01, budget=500)
    assert type(within) is tolerance.Within
    assert within.check()
    with pytest.raises(mo.CertificateRejected):
        replace(within, eps=Agreeable(0)).check()
    with pytest.raises(mo.CertificateRejected):
        replace(within, network=TWO, proof=lenient).check()


# Numbers that grow ----------------------------------------------------------------------------------------------

LONG = Fraction(4 * 10**698 + 1, 7 * 10**698 + 3)


def scales(count, ratio=LONG, width=4):
    one = {"move": "scale", "layer": 1, "units": list(range(width))}
    return [
        {**one, "ratio": str(ratio if k % 2 == 0 or ratio == LONG else 1 / ratio)}
        for k in range(count)
    ]


def read(large, moves):
    data = {**claimed(large).to_json(), "large_moves": moves}
    Certificate.from_json(json.dumps(data)).verify(large, large)


def test_numbers_that_grow_are_refused(monkeypatch):
    """Each move makes them longer by as much; before this was limited, 160 moves took a minute."""
    large = net(
        np.arange(1, 13).reshape(4, 3), np.arange(4), [[1, 2, 3, 4]], [0], activation="relu"
    )
    longest = []
    bounded = exact_numbers.bounded

    def watched(q):
        longest.append(max(q.numerator.bit_length(), q.denominator.bit_length()))
        return bounded(q)

    monkeypatch.setattr(exact_numbers, "bounded", watched)
    with pytest.raises(
        mo.CertificateRejected, match=r"scale of unit 0, 1, 2, 3 in layer 1: a number of \d+ bits"
    ):
        read(large, scales(160))
    assert max(longest) < 2 * exact_numbers.LONGEST
    assert len(longest) < 1000, "refused as soon as it is too long"


def test_sums_of_long_numbers_are_refused():
    terms = (Fraction(1, 10**699 + 2 * k + 1) for k in range(10**9))
    with pytest.raises(mo.CertificateRejected, match="bits"):
        total(terms)
    assert total([Fraction(1, 3)] * 3) == 1
    weights = [Fraction(1, 10**699 + 2 * k + 1) for k in range(40)]
    with pytest.raises(mo.CertificateRejected, match="bits"):
        exact_numbers.linear([(w, Fraction(1)) for w in weights])
    one, two = ExactArray(np.zeros((1, 40))), ExactArray(np.ones((40, 1)))
    for k, w in enumerate(weights):
        one.put((0, k), w)
    with pytest.raises(mo.CertificateRejected, match="bits"):
        exact_numbers.matmul(one, two)


def test_the_extremes_of_floats_are_not_too_long():
    """A product of seven floats, and a sum of all of them, whatever their sizes."""
    ends = [Fraction(5e-324), Fraction(np.finfo(np.float64).max)]
    assert exact_numbers.bounded(ends[0] ** 7 + ends[1] ** 7)
    assert str(sum(ends))
    assert fields.rational(str(sum(ends)), "a sum") == sum(ends)


def test_work_in_rationals_is_counted(monkeypatch):
    """Numbers that stay short, over and over again, in a network of the reader's own."""
    rng = np.random.default_rng(0)
    large = net(
        rng.normal(size=(10, 10)),
        rng.normal(size=10),
        rng.normal(size=(2, 10)),
        np.zeros(2),
        activation="relu",
    )
    moves = scales(20, Fraction(3), 10)
    read(large, moves)
    monkeypatch.setattr(states, "ENTRIES", 0)
    with pytest.raises(
        mo.CertificateRejected, match=r"more than \d+ entries would be computed in rationals"
    ):
        read(large, moves)
    read(large, moves[:6])


# IEEE arithmetic ------------------------------------------------------------------------------------------------

SETUP = {
    "flushed subnormals": "import torch; assert torch.set_flush_denormal(True)",
    "another rounding": "import ctypes; assert ctypes.CDLL(None).fesetround({up}) == 0",
}
REFUSED = """
import numpy as np, moduli as mo
from concurrent.futures import ThreadPoolExecutor
from moduli.kernel.bounds import propagation
from moduli.kernel.state import State
from moduli.kernel.radius.compatibility import ParameterBall
from moduli.equivalence.constant_paths import path
from moduli.common.exact_values import exact_arrays
from moduli.kernel.slack import difference
net = mo.Network.mlp([[1.0], [1.0]], [0.0, 0.0], [[1.0, 2.0]], [0.0])
small = mo.compress(net)
walk = path(*(mo.Network.mlp([[1.0], [2.0]], [0.0, 0.0], [[1.0, 0.0]], [0.0]) for _ in "ab"))
{setup}
box = np.zeros((1, 1)), np.ones((1, 1))
ball = ParameterBall(np.array([[1.0, 0.0], [1.1, 0.0]]), np.ones((2, 1)), 0.25)
for ask in (
    lambda: small.check(), lambda: mo.check(small.certificate, small.network, net), walk.check, lambda: State(net),
    lambda: ball.graph, lambda: propagation.linear(net.layers, *box),
    lambda: difference(exact_arrays(net), exact_arrays(net), net.activations),
):
    try:
        ask()
    except mo.Undecided as error:
        print(error)
    else:
        raise SystemExit("accepted")
"""


def ran(script, **env):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **env}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_nothing_is_certified_where_subnormal_numbers_are_flushed():
    pytest.importorskip("torch", reason="no torch to set the processor; pip install '.[torch]'")
    lines = ran(REFUSED.format(setup=SETUP["flushed subnormals"])).splitlines()
    assert len(lines) == 7
    assert all(
        "nothing can be certified in this process: subnormal numbers are flushed to zero" in line
        for line in lines
    )


@pytest.mark.skipif(sys.platform != "linux", reason="THE WAY OF ROUNDING IS CHANGED ON LINUX ONLY")
@pytest.mark.parametrize("name", ["down", "up", "zero"])
def test_nothing_is_certified_under_another_rounding(name):
    import platform

    ways = {
        "x86_64": {"down": 0x400, "up": 0x800, "zero": 0xC00},
        "aarch64": {"up": 0x400000, "down": 0x800000, "zero": 0xC00000},
    }
    if platform.machine() not in ways:
        pytest.skip(
            f"the numbers of the ways of rounding of {platform.machine()} are not known here"
        )
    lines = ran(
        REFUSED.format(setup=SETUP["another rounding"].format(up=ways[platform.machine()][name]))
    ).splitlines()
    assert len(lines) == 7
    assert all("sums are not rounded to the nearest float" in line for line in lines)


THREADS = """
import ctypes, struct
libm = ctypes.CDLL("libm.so.6")
def flush(on):
    state = (ctypes.c_char * 32)()
    libm.fegetenv(state)
    raw = bytearray(state.raw)
    control, = struct.unpack_from("<I", raw, 28)
    struct.pack_into("<I", raw, 28, (control & ~0x8040) | (0x8040 if on else 0))
    libm.fesetenv((ctypes.c_char * 32).from_buffer(raw))
flush(True)
import numpy as np  # its threads start here, and flush from now on
flush(False)
from moduli.kernel import arithmetic, errors
assert arithmetic.flaw() is None
left, right = np.zeros((512, 64)), np.zeros((64, 512))
left[:, 0] = right[0] = 2.0**-537
print(bool((left @ right == 0).any()))
try:
    arithmetic.require_everywhere()
    print("fine")
except errors.Undecided as error:
    print(error)
"""


def test_the_threads_of_the_matrix_library_are_asked_too():
    """glibc on x86 alone lets a thread be set from here; elsewhere, or with one thread, the library
    has nothing to flush.
    """
    import platform

    if platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        pytest.skip("THREADS THAT FLUSH ARE MADE ON GLIBC AND X86 ONLY")
    flushes, said = ran(THREADS, OPENBLAS_NUM_THREADS="2", OMP_NUM_THREADS="2").splitlines()
    assert ("threads of the matrix library flush" in said) == (flushes == "True"), said


# Bounds of minors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiny", [2.0**-40, 2.0**-560, 5e-324])
def test_bounds_of_entries_of_a_jacobian_do_not_underflow(tiny):
    """2^size bounds what is computed exactly; a product of two small weights was taken for 0, and a
    rank for proved.
    """
    parts = (
        [[2], [-1]],
        [1, 0.5],
        [[tiny, 0], [tiny, tiny]],
        [0.25, 0],
        [[tiny, tiny]],
        [0],
        [[tiny]],
        [0],
    )
    large = net(*parts, activation="relu")
    found = mo.pieces(large, on=mo.Box(-1, 1))
    sizes, powers = functional_dimension._column_bits(found)
    features, shifts = functional_dimension._feature_bits(found)
    assert np.isfinite(sizes).all()
    assert all(np.isfinite(part).all() for part in features)
    start = [max(abs(Fraction(x)) for x in row) for row in found.start.tolist()]
    reach = [[*start, Fraction(1)]]
    for layer in large.layers[:-1]:
        rows = [
            [*map(Fraction, w), Fraction(b)]
            for w, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        reach.append(
            [
                *(sum(abs(q) * x for q, x in zip(row, reach[-1], strict=True)) for row in rows),
                Fraction(1),
            ]
        )
    behind, entries = [Fraction(1)], []
    for layer, read_ in zip(reversed(large.layers), reversed(reach), strict=True):
        entries.insert(0, [b * x for b in behind for x in read_[:-1]] + behind)
        behind = [
            sum(abs(Fraction(w)) * b for w, b in zip(column, behind, strict=True))
            for column in layer.weight.T.tolist()
        ]
    flat = [x for part in entries for x in part]
    assert len(flat) == len(sizes) == len(powers)
    for exact, size in zip(flat, sizes.tolist(), strict=True):
        assert _log2(exact) <= size
    for part, bound in zip(reach, features, strict=True):
        assert all(_log2(x) <= b for x, b in zip(part, bound.tolist(), strict=True))
    assert len(shifts) == len(features)


def _log2(q):
    """The exponent of a rational from below, beyond the range of floats too."""
    return -np.inf if q == 0 else q.numerator.bit_length() - 1 - q.denominator.bit_length()
