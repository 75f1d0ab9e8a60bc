"""The kernel under attack: a forgery for every move and claim, mutants that mean something,
extremes; see `attack`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import attack
import forgeries
import mpmath
import numpy as np
import pytest
from forgeries import Case

import moduli as mo
from moduli.compression.certify import first
from moduli.kernel.activations import Activation
from moduli.kernel.bounds import propagation, relaxations, zonotopes
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.bounds.output_gap import Changed, GapBound
from moduli.kernel.certificate import Certificate
from moduli.kernel.exact_numbers import ExactArray, enclose_value
from moduli.kernel.move import Move
from moduli.kernel.radius.compatibility import DualWeights
from moduli.kernel.radius.cover_bound import Bound, Change, Near
from moduli.kernel.rules import apply
from moduli.kernel.slack import Slack
from moduli.kernel.state import State

ROOT = Path(__file__).parents[2]
ULP = Fraction(1, 2**52)
EXTREMES = (
    0.0,
    -0.0,
    1.0,
    -0.5,
    5e-324,
    -5e-324,
    2.0**-1022,
    2.0**-537,
    1e41,
    -1e160,
    1e300,
    -1.7976931348623157e308,
)


def net(*arrays, activation="relu"):
    return mo.Network.mlp(*(np.array(a, dtype=float) for a in arrays), activation=activation)


def move(
    kind: str,
    layer: int,
    units: list[int],
    into: list[int] | None = None,
    ratio: Any = 1,
    rows=(),
    outgoing=(),
) -> Move:
    exact = [
        tuple(None if r is None else tuple(map(Fraction, r)) for r in side)
        for side in (rows, outgoing)
    ]
    return Move(
        kind,
        layer,
        np.array(units, dtype=np.intp),
        None if into is None else np.array(into, dtype=np.intp),
        Fraction(ratio),
        *exact,
    )


def on(
    low: list[float], high: list[float], *signs: tuple[int, ...], tree: tuple[int, ...] = (-1,)
) -> Region:
    return Region(tuple(low), tuple(high), tree, signs)


def judged(
    large: mo.Network,
    *moves: Move,
    small: mo.Network | None = None,
    more: tuple[Move, ...] = (),
    **claim: Any,
) -> None:
    """Verify, through JSON, what somebody claims of two networks; the small one is what the moves
    leave, if they hold.
    """
    if small is None:
        try:
            state = State(first(large, claim.get("region")), claim.get("near"), claim.get("region"))
            for one in moves:
                apply(state, one)
            small = state.network()
        except mo.CertificateRejected:
            small = large
    data = Certificate(
        large.digest, small.digest, moves, more, **{"slack": Slack(1e9, 1e9), **claim}
    ).to_json()
    Certificate.from_json(json.dumps(data)).verify(small, large)


TWO = net([[1], [2]], [0, 1], [[1, 1]], [0])
TANH = net([[1, 0], [1, 1]], [0, 0], [[1, 1]], [0], activation="tanh")
SAME = net([[1], [1]], [0, 0], [[1, 2]], [0], activation="tanh")
OFF = net([[1], [1 + 2.0**-52]], [0, 0], [[1, 2]], [0], activation="tanh")
SIGMOID = net([[1], [-1]], [0, 0], [[1, 1]], [0], activation="sigmoid")
GELU = net([[1], [-1]], [0, 0], [[1, 1]], [0], activation="gelu")
GATED = net([[1], [-1], [2]], [0, 0, 1], [[1, 1, 3]], [0])  # relu(x) + relu(-x): a bend and no line
ACTIVE = net([[1], [2], [1]], [1, 2, 0], [[1, 2, 3]], [0])
DEEP = net([[1], [1]], [2, 3], [[1, -1], [1, 1]], [0, -4.5], [[1, 1]], [0])
BOX, SIGNS = ([-1.0], [1.0]), ((1, 1, 0),)
NEAR = net([[1, 2], [1.25, 2]], [0, 0], [[1, 1]], [0], activation="tanh")
BOUND = Bound(1, (((0,), DualWeights({0: 1}, {}, (), 1)),))
NUDGE = Change(1, "weight", np.array([0]), ExactArray(np.array([1.125])))
PLUS = net([[1], [1], [1]], [3, 0, -0.5], [[1, -1, 2]], [0])  # the linear unit is spared by a turn
EVEN = net(
    [[1], [-1], [1]], [1, -1, -3], [[1, 1, 1]], [0]
)  # two units of one hyperplane, x - 1 = 0

FORGERIES = {
    "constant": (TWO, [move("constant", 1, [0])], {}, "incoming weight is not zero"),
    "drop": (TWO, [move("drop", 1, [0])], {}, "outgoing weight is not zero"),
    "merge, one ulp": (OFF, [move("merge", 1, [1], [0])], {}, "not 1 times"),
    "merge of a merged unit": (
        SAME,
        [move("merge", 1, [1], [0]), move("merge", 1, [1], [0])],
        {},
        "not there",
    ),
    "merge in a circle": (
        SAME,
        [move("merge", 1, [0, 1], [1, 0])],
        {},
        "merges into a unit that it removes",
    ),
    "merge by no law": (
        net([[1], [2]], [0, 0], [[1, 1]], [0], activation="tanh"),
        [move("merge", 1, [1], [0], 2)],
        {},
        "no law",
    ),
    "merge of two slopes": (TWO, [move("merge", 1, [1], [0], 2)], {}, "not 2 times"),
    "merge of gated units": (GATED, [move("merge", 1, [1], [0], -1)], {}, "do not cancel"),
    "merge of gelus": (GELU, [move("merge", 1, [1], [0], -1)], {}, "do not cancel"),
    "merge upside down": (
        net([[1], [-1]], [0, 0], [[1, 1]], [0]),
        [move("merge", 1, [1], [0])],
        {},
        "not 1 times",
    ),
    "scale of a gate": (TWO, [move("scale", 1, [0], ratio=-1)], {}, "do not cancel"),
    "scale of a tanh": (SAME, [move("scale", 1, [0], ratio=2)], {}, "no law"),
    "scale on a box": (
        ACTIVE,
        [move("scale", 1, [2], ratio=2)],
        {"region": on(*BOX, *SIGNS)},
        "not beside signs",
    ),
    "permute some": (TWO, [move("permute", 1, [0])], {}, "orders 1 of 2"),
    "permute twice": (TWO, [move("permute", 1, [0, 0])], {}, "twice"),
    "inactive without a box": (
        TWO,
        [move("inactive", 1, [0])],
        {},
        "not known to be linear for all inputs",
    ),
    "inactive but active": (
        ACTIVE,
        [move("inactive", 1, [0])],
        {"region": on(*BOX, *SIGNS)},
        "slope 1",
    ),
    "inactive but bent": (
        ACTIVE,
        [move("inactive", 1, [2])],
        {"region": on(*BOX, *SIGNS)},
        "not known to be linear",
    ),
    "inactive gelu": (
        GELU,
        [move("inactive", 1, [0])],
        {"region": on(*BOX, (-1, 0))},
        "not proved",
    ),
    "inactive gelu, far left": (
        GELU,
        [move("inactive", 1, [0])],
        {"region": on([-9.0], [-8.0], (-1, 1))},
        "not known to be linear",
    ),
    "inactive leaky": (
        net([[1]], [-2], [[1]], [0], activation="leaky_relu(0.5)"),
        [move("inactive", 1, [0])],
        {"region": on(*BOX, (-1,))},
        "slope 1/2",
    ),
    "inactive abs": (
        net([[1]], [-2], [[1]], [0], activation="abs"),
        [move("inactive", 1, [0])],
        {"region": on(*BOX, (-1,))},
        "slope -1",
    ),
    "inactive identity": (
        net([[1]], [-2], [[1]], [0], activation="identity"),
        [move("inactive", 1, [0])],
        {"region": on(*BOX, (-1,))},
        "slope 1",
    ),
    "sign at a corner": (
        ACTIVE,
        [],
        {"region": on([-1 - 2.0**-52], [1.0], (1, 0, 0))},
        "not proved",
    ),
    "sign of a turned unit": (
        PLUS,
        [move("block", 1, [0, 1], [1], rows=[(-1, 0)], outgoing=[(-1,)]), move("inactive", 1, [1])],
        {"region": on(*BOX, (1, 0, 0))},
        "not known to be linear",
    ),
    "layer that is gone": (
        DEEP,
        [move("skip", 1, [0, 1]), move("inactive", 2, [0])],
        {"region": on(*BOX, (1, 1), (-1, 0))},
        "hidden layers 1 to 1",
    ),
    "sign of the layer that is gone": (
        DEEP,
        [move("skip", 1, [0, 1]), move("inactive", 1, [1])],
        {"region": on(*BOX, (1, 1), (-1, 0))},
        "not known to be linear",
    ),
    "skip of a bend": (
        ACTIVE,
        [move("skip", 1, [0, 1, 2])],
        {"region": on(*BOX, *SIGNS)},
        "the layer bends",
    ),
    "skip of some": (DEEP, [move("skip", 1, [0])], {}, "names 1 units"),
    "skip in another order": (
        DEEP,
        [move("skip", 1, [1, 0])],
        {"region": on(*BOX, (1, 1), (0, 0))},
        "in their order",
    ),
    "skip of the outputs": (DEEP, [move("skip", 3, [0])], {}, "hidden layers 1 to 2"),
    "skip of sigmoids": (SIGMOID, [move("skip", 1, [0, 1])], {}, "not even but for a line"),
    "skip of gelus of one sign": (GELU, [move("skip", 1, [0, 1])], {}, "the layer bends"),
    "skip of a constant": (
        net([[0]], [-1], [[1]], [0]),
        [move("skip", 1, [0])],
        {},
        "no incoming weight",
    ),
    "block with a name twice": (
        EVEN,
        [move("block", 1, [0, 1], [0, 0], rows=[None, None], outgoing=[(1,), (0,)])],
        {},
        "different ones",
    ),
    "block of a unit twice": (
        EVEN,
        [move("block", 1, [0, 0, 1], [0], rows=[None], outgoing=[(2,)])],
        {},
        "named twice",
    ),
    "block that keeps another": (
        EVEN,
        [move("block", 1, [0, 1], [2], rows=[None], outgoing=[(1,)])],
        {},
        "different ones",
    ),
    "block, an ulp of weight": (
        EVEN,
        [move("block", 1, [0], [0], rows=[(1 + ULP, 1 + ULP)], outgoing=[(1,)])],
        {},
        "product of weights",
    ),
    "block, an ulp of bias": (
        EVEN,
        [move("block", 1, [0], [0], rows=[(1, 1 + ULP)], outgoing=[(1,)])],
        {},
        "do not bend",
    ),
    "block that turns": (
        EVEN,
        [move("block", 1, [0], [0], rows=[(-1, -1)], outgoing=[(-1,)])],
        {},
        "do not bend",
    ),
    "block into nothing": (
        EVEN,
        [move("block", 1, [1], [], rows=[], outgoing=[])],
        {},
        "product of weights",
    ),
    "block of zero weights": (
        EVEN,
        [move("block", 1, [0], [0], rows=[(0, 0)], outgoing=[(1,)])],
        {},
        "product of weights",
    ),
    "block, homogeneous where nothing is": (
        GELU,
        [move("block", 1, [0], [0], rows=[(2, 0)], outgoing=[("1/2",)])],
        {},
        "do not bend",
    ),
    "block linear off the box": (
        ACTIVE,
        [move("block", 1, [0, 1], [0], rows=[(5, 5 - ULP)], outgoing=[(1,)])],
        {"region": on(*BOX, *SIGNS)},
        "product of weights",
    ),
    "block without its box": (
        ACTIVE,
        [move("block", 1, [0, 1], [0], rows=[(5, 6)], outgoing=[(1,)])],
        {},
        "do not bend",
    ),
    "box of another size": (
        ACTIVE,
        [],
        {"region": on([-1.0, 0.0], [1.0, 1.0], *SIGNS)},
        "2 inputs",
    ),
    "box without signs": (ACTIVE, [], {"region": on(*BOX)}, "for hidden layers"),
    "box, left half only": (
        ACTIVE,
        [],
        {"region": on(*BOX, (0, 0, -1), tree=(0, -1, -1))},
        "not proved",
    ),
    "box, half a tree": (
        ACTIVE,
        [],
        {"region": on(*BOX, *SIGNS, tree=(0, -1))},
        "lacks 1 subtrees",
    ),
    "box upside down": (ACTIVE, [], {"region": on([1.0], [-1.0], *SIGNS)}, "no box"),
    "box and radius": (
        TANH,
        [],
        {"region": on([-1.0] * 2, [1.0] * 2, (0, 0)), "near": Near(1.0)},
        "not both",
    ),
    "changes without a box": (
        ACTIVE,
        [],
        {"changed": Changed((), GapBound(0.0, "joint", (-1,), (), 0))},
        "no box",
    ),
    "change, a unit": (
        NEAR,
        [],
        {"near": Near(0.125, (replace(NUDGE, to=ExactArray(np.array([1.125 + 2.0**-52]))),))},
        "beyond",
    ),
    "change, twice": (NEAR, [], {"near": Near(0.125, (NUDGE, NUDGE))}, "two places"),
    "change, nowhere": (
        NEAR,
        [],
        {"near": Near(0.125, (replace(NUDGE, at=np.array([4])),))},
        "has no weight",
    ),
    "bound that is too high": (
        NEAR,
        [],
        {"near": Near(0.0625, (), Bound(2, BOUND.parts))},
        "at least 1 are proved",
    ),
    "bound of a heavy box": (
        NEAR,
        [],
        {"near": Near(0.125, (), Bound(2, (((0, 1), DualWeights({0: 1, 1: 1}, {}, (), 1)),)))},
        "weighs too much",
    ),
    "bound of two parts": (
        NEAR,
        [],
        {"near": Near(0.125, (), Bound(2, (*BOUND.parts, ((1,), DualWeights({1: 1}, {}, (), 1)))))},
        "compatible",
    ),
    "bound of a null unit": (NEAR, [], {"near": Near(1.0, (), BOUND)}, "can be constant or null"),
    "bound of a gate": (TWO, [], {"near": Near(0.0, (), BOUND)}, "one hidden layer of tanh"),
    "fewest within a radius": (
        NEAR,
        [],
        {"near": Near(0.125, (), BOUND), "minimal": True},
        "2 units remain and at least 1",
    ),
    "fewest without a bound": (NEAR, [], {"near": Near(0.125), "minimal": True}, "at least 0"),
    "fewest on a flat box": (
        TANH,
        [],
        {"region": on([-1.0, 0.0], [1.0, 0.0], (0, 0)), "minimal": True},
        "the box is flat",
    ),
    "fewest at a point": (
        ACTIVE,
        [],
        {"region": on([1.0], [1.0], *SIGNS), "minimal": True},
        "the box is flat",
    ),
    "fewest of a copy": (SAME, [], {"minimal": True}, "equal up to sign"),
    "fewest of two layers": (DEEP, [], {"minimal": True}, "2 hidden layers"),
    "fewest of gelus": (GELU, [], {"minimal": True}, "not known"),
    "fewest with an idle unit": (
        net([[1], [2]], [0, 1], [[1, 0]], [0]),
        [],
        {"minimal": True},
        "zero outgoing",
    ),
    "fewest with a constant": (
        net([[1], [0]], [0, 1], [[1, 1]], [0]),
        [],
        {"minimal": True},
        "zero incoming",
    ),
    "fewest of lines": (
        net([[1]], [0], [[1]], [0], activation="leaky_relu(1.0)"),
        [],
        {"minimal": True},
        "not known",
    ),
    "fewest, turned": (PLUS, [], {"region": on(*BOX, (1, 0, 0)), "minimal": True}, "may be spared"),
    "fewest, one hyperplane": (EVEN, [], {"minimal": True}, "may be spared"),
    "fewest, touching a corner": (
        net([[1], [1]], [1, 0], [[1, 1]], [0]),
        [],
        {"region": on(*BOX, (0, 0)), "minimal": True},
        "may not bend",
    ),
    "fewest, a denominator modulo the prime": (
        EVEN,
        [
            move(
                "block",
                1,
                [0, 1],
                [0, 1],
                rows=[(Fraction(1, 2**31 - 1), Fraction(1, 2**31 - 1)), None],
                outgoing=[(2**31 - 1,), (1,)],
            )
        ],
        {"minimal": True, "small": EVEN},
        "may be spared",
    ),
    "slack": (
        net([[1]], [0], [[1]], [0]),
        [],
        {"small": net([[1]], [0], [[1 + 2.0**-52]], [0]), "slack": Slack(1.0, 0.0)},
        "is claimed",
    ),
    "slack that underflows": (
        net([[5e-324]], [0], [[0.25]], [0]),
        [],
        {"small": net([[0.0]], [0], [[0.25]], [0]), "slack": Slack(0.0, 0.0)},
        "is claimed",
    ),
    "slack off the box": (
        net([[1]], [2], [[1]], [0]),
        [],
        {
            "small": net([[1]], [3], [[1]], [0]),
            "region": on(*BOX, (0,)),
            "slack": Slack(1 - 2.0**-53, 9.0),
        },
        "is claimed",
    ),
    "another activation": (
        TWO,
        [],
        {"small": net([[1], [2]], [0, 1], [[1, 1]], [0], activation="abs")},
        "after all moves",
    ),
    "another width": (TWO, [], {"small": GATED}, "after all moves"),
    "another output map": (TWO, [], {"small": replace(TWO, output_map="softmax")}, "output map"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused(name):
    large, moves, claim, why = FORGERIES[name]
    with pytest.raises(mo.CertificateRejected, match=why):
        judged(large, *moves, **claim)


def test_the_forgeries_are_close_to_the_truth():
    """The same moves where they hold, so that a forgery is not refused for a reason beside the
    point.
    """
    region = on(*BOX, *SIGNS)
    judged(SAME, move("merge", 1, [1], [0]), slack=Slack(0.0, 0.0), minimal=True)
    for bias in (5, 6):
        judged(
            ACTIVE,
            move("block", 1, [0, 1], [0], rows=[(5, bias)], outgoing=[(1,)]),
            region=region,
            slack=Slack(0.0, 0.0),
        )
    judged(
        DEEP,
        move("skip", 1, [0, 1]),
        move("inactive", 1, [0]),
        region=on(*BOX, (1, 1), (-1, 0)),
        slack=Slack(0.0, 0.0),
    )
    judged(
        EVEN, move("block", 1, [0], [0], rows=[(2, 2)], outgoing=[("1/2",)]), slack=Slack(0.0, 0.0)
    )
    judged(NEAR, near=Near(0.125, (NUDGE,), BOUND), slack=Slack(0.0, 0.0))
    judged(TANH, region=on([-1.0, 0.0], [1.0, 0.5], (0, 0)), slack=Slack(0.0, 0.0), minimal=True)
    judged(ACTIVE, region=on(*BOX, (1, 1, 0), tree=(0, -1, -1)), slack=Slack(0.0, 0.0))


def test_fewest_units_are_those_of_the_small_network():
    """Moves on the small side must not hide units of which the claim speaks."""
    merge = move("merge", 1, [1], [0])
    judged(SAME, merge, small=SAME, more=(merge,))
    with pytest.raises(mo.CertificateRejected, match="the small network has 2 units"):
        judged(SAME, merge, small=SAME, more=(merge,), minimal=True)
    near = Near(0.0, (), Bound(1, (((0,), DualWeights({0: 1}, {}, (), 1)),)))
    judged(SAME, merge, near=near, minimal=True)
    with pytest.raises(mo.CertificateRejected, match="the small network has 2 units"):
        judged(SAME, merge, small=SAME, more=(merge,), near=near, minimal=True)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_nothing_is_optimal_on_a_flat_box(activation, flat):
    given = net([[1, 0], [1, 1]], [0, 0], [[1, 1]], [0], activation=activation)
    small = mo.compress(given, on=mo.Box([-1, 0], [1, 0 if flat else 0.5]))
    assert small.check()
    assert small.optimal != flat


@pytest.mark.parametrize(
    "kind", ["gelu", "gelu_tanh", "silu", "softplus", "tanh", "sigmoid", "erf", "sin"]
)
def test_enclosures_of_intervals_that_reach_far(kind):
    """An interval whose middle is beyond 1e40 need not be: gelu is no line from 1/2 on."""
    ends = [Fraction(x) for x in (-(10**41), -(10**39), -1, 0, Fraction(1, 2), 10**41, 10**90)]
    with mpmath.workdps(160):
        for low, high in [(p, q) for p, q in product(ends, ends) if p <= q]:
            least, most = enclose_value(Activation(kind), (low, high))
            for x in [q for q in ends if low <= q <= high]:
                true = forgeries.applied(Activation(kind), x)
                assert (
                    mpmath.mpf(least.numerator) / least.denominator
                    <= true
                    <= mpmath.mpf(most.numerator) / most.denominator
                )


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "silu"])
def test_signs_behind_an_interval_that_reaches_far(kind):
    """s(x) - 0.4 is negative at 1/2; it was taken for positive on [1/2, 1e41]."""
    large = net([[1]], [0], [[1]], [-0.4], [[1]], [0], activation=[kind, "relu"])
    for sign in (1, -1):
        with pytest.raises(mo.CertificateRejected, match="not proved"):
            judged(large, move("skip", 2, [0]), region=on([0.5], [1e41], (0,), (sign,)))


def test_numbers_of_a_claim_are_floats():
    """2^53 + 1 would be read as 2^53: what the file says is what was checked."""
    data = Certificate(ACTIVE.digest, ACTIVE.digest, (), region=on(*BOX, *SIGNS)).to_json()
    for wrong in (
        {"region": {**data["region"], "high": [2**53 + 1]}}, {"slack": {"constant": 2**53 + 1, "growth": 0}},
        {"near": {"radius": 2**53 + 1, "changes": [], "bound": None}},
        {"changed": {"changes": [], "upper": 2**53 + 1, "how": "joint", "tree": [-1]}},
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            Certificate.from_json(json.dumps({**data, **wrong}))


def test_a_verdict_names_its_domain():
    """Whoever made the certificate chose the box: the answer says which, as long as it is short."""
    wide = net(np.ones((1, 5)), [9], [[1]], [0])
    for given, region, said in (
        (ACTIVE, on(*BOX, *SIGNS), "on the box [-1.0, 1.0]"),
        (
            wide,
            on([0.0] * 5, [1e-9] * 5, (1,)),
            "on the box [0.0, 1e-09] x [0.0, 1e-09] x [0.0, 1e-09] x ... (5 inputs)",
        ),
    ):
        verdict = mo.check(Certificate(given.digest, given.digest, (), region=region), given, given)
        assert said in verdict.statement
        assert said in dict(verdict.rows())["holds"]
        assert verdict.data()["box"] == {"low": list(region.low), "high": list(region.high)}
    near = mo.check(Certificate(NEAR.digest, NEAR.digest, (), near=Near(0.125)), NEAR, NEAR)
    assert (near.data()["radius"], near.data()["box"]) == (0.125, None)
    assert dict(near.rows())["holds"] == "for all inputs, a parameter within 0.125"
    assert (
        dict(mo.check(Certificate(SAME.digest, SAME.digest, ()), SAME, SAME).rows())["holds"]
        == "for all inputs"
    )


# Mutants --------------------------------------------------------------------------------------------------------


CLAIMS = ("near", "region", "changed", "minimal", "apart", "creases")


def test_true_certificates_of_all_kinds_pass_the_oracles():
    rng, kinds, claims = np.random.default_rng(0), set(), set()
    for case in forgeries.seeds():
        proof = Certificate.from_json(json.dumps(case.data))
        proof.verify(case.small, case.large)
        forgeries.require(case, proof, rng)
        kinds |= {m.kind for m in (*proof.large_moves, *proof.small_moves)}
        claims |= {name for name in CLAIMS if getattr(proof, name)}
    assert kinds == set(attack.KINDS)
    assert claims == set(CLAIMS)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("shallow tanh", {"slack": Slack(0.0, 0.0)}),
        ("region", {"slack": Slack(0.0, 0.0)}),
        ("smooth", {"slack": Slack(0.0, 0.0)}),
        ("changed", {"slack": Slack(1e-7, 0.0)}),
        ("near", {"slack": Slack(0.0, 0.0), "near": None}),
    ],
)
def test_the_oracle_sees_another_network(name, change):
    case = next(c for c in forgeries.seeds() if c.name == name)
    proof = replace(Certificate.from_json(json.dumps(case.data)), **change)
    theta = case.small.flat()
    other = case.small.with_flat(
        np.where(np.arange(len(theta)) == len(theta) - 1, theta * (1 + 2e-16) + 1e-6, theta)
    )
    with pytest.raises(AssertionError, match=">"):
        forgeries.require(Case(name, other, case.large, case.data), proof, np.random.default_rng(0))


def test_the_oracle_sees_units_too_many():
    for given, region in (
        (SAME, None),
        (EVEN, None),
        (PLUS, on(*BOX, (1, 0, 0))),
        (TANH, on([-1.0, 0.0], [1.0, 0.0], (0, 0))),
    ):
        proof = Certificate(given.digest, given.digest, (), minimal=True, region=region)
        with pytest.raises(AssertionError, match=">"):
            forgeries.require(Case("", given, given, {}), proof, np.random.default_rng(0))


def attacked(mutants: int, seed: int) -> dict[str, int]:
    """Counts of a run in a process of its own: here every annotation is executed, which takes its
    time.
    """
    command = [
        sys.executable,
        "-W",
        "error",
        str(ROOT / "tests" / "adversarial" / "attack.py"),
        "--mutants",
        str(mutants),
        "--seed",
        str(seed),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: int(count) for name, count in re.findall(r"(\w+): (\d+)", done.stdout)}


def test_mutants_prove_no_falsehood():
    counts = attacked(400, seed=0)
    assert counts["tried"] == 400
    assert counts["accepted"] > 8, counts
    assert counts["minimal"] > 3, counts


@pytest.mark.slow
def test_many_mutants_prove_no_falsehood():
    counts = attacked(6_000, seed=1)
    assert counts["accepted"] > 250, counts
    assert counts["lines"] > 1500, counts


# Extremes -------------------------------------------------------------------------------------------------------


def extreme(rng: np.random.Generator, *shape: int) -> Any:
    return np.where(
        rng.random(shape) < 0.3, rng.choice(EXTREMES, shape), rng.integers(-4, 5, shape) / 2.0
    )


@pytest.mark.parametrize("kind", ["relu", "leaky_relu(-3.0)", "tanh", "gelu"])
def test_bounds_of_extreme_networks_hold(kind):
    rng = np.random.default_rng(0)
    finite = 0
    with mpmath.workdps(forgeries.DIGITS):
        for _ in range(8):
            a = net(
                extreme(rng, 3, 2),
                extreme(rng, 3),
                extreme(rng, 2, 3),
                extreme(rng, 2),
                extreme(rng, 1, 2),
                [0],
                activation=kind,
            )
            b = a.with_flat(
                np.where(rng.random(a.parameters) < 0.1, extreme(rng, a.parameters), a.flat())
            )
            low, high = np.sort(np.stack([extreme(rng, 2), extreme(rng, 2)]), axis=0)[:, None]
            found = [
                propagation.linear(one.layers, low, high, lazy=lazy)[-1]
                for one in (a, b)
                for lazy in (True, False)
            ]
            found.append(propagation.difference(a.layers, b.layers, low, high)[-1])
            forms = zonotopes.apart(a.layers, b.layers, low, high)
            found.append(forms.difference[-1])
            found.append(
                propagation.difference_within(a.layers, b.layers, low, high, forms[:3])[-1]
            )
            finite += sum(bool(np.isfinite(ends).all()) for ends in found)
            for share in [*product((0, 1), repeat=2), *(rng.integers(0, 9, (3, 2)) / 8)]:
                x = [
                    Fraction(p) + Fraction(s) * (Fraction(q) - Fraction(p))
                    for p, q, s in zip(low[0], high[0], share, strict=True)
                ]
                (p, off), (q, other) = (
                    forgeries.outputs(forgeries.layers(one), x) for one in (a, b)
                )
                for (lo, hi), value in zip(
                    found, (p[0], p[0], q[0], q[0], *[p[0] - q[0]] * 3), strict=True
                ):
                    assert float(lo[0, 0]) - off - other <= value <= float(hi[0, 0]) + off + other
    assert finite > 3


@pytest.mark.parametrize(
    "kind",
    [
        "relu",
        "leaky_relu(1e308)",
        "leaky_relu(-5e-324)",
        "tanh",
        "sigmoid",
        "erf",
        "gelu",
        "softplus",
    ],
)
def test_lines_around_activations_hold_at_extremes(kind):
    activation, ends = (
        Activation.of(kind),
        sorted({*EXTREMES, -40.0, -1e-9, 1e-9, 0.75, 19.0, 2.0**-28, 3.0}),
    )
    pairs = [(p, q) for p, q in product(ends, ends) if p <= q]
    lines = relaxations.relaxation(
        activation, *(np.array([[pair[k] for pair in pairs]]) for k in (0, 1))
    )
    with mpmath.workdps(60):
        for k, (lo, hi) in enumerate(pairs):
            for x in {lo, hi, *(z for z in ends if lo <= z <= hi)}:
                true, z = forgeries.real(forgeries.applied(activation, Fraction(x))), mpmath.mpf(x)
                below, t, above, u, least, most = (mpmath.mpf(float(part[0, k])) for part in lines)
                assert below * z + t <= true <= above * z + u, (lo, hi, x)
                assert least <= true <= most, (lo, hi, x)


def test_exact_sums_next_to_the_largest_float():
    """2Sum loses its error there: a step overflows though the sum does not."""
    most, step = np.finfo(np.float64).max, 2.0**971
    for a, b in product((most, -1.5 * step, 2.0**1023), (most, -1.5 * step, 0.75 * step, -most)):
        array = ExactArray(np.array([[a, b]]))
        array.add_columns([0], [1], Fraction(1), np.array([0]))
        assert array.get((0, 0)) == Fraction(a) + Fraction(b)
        assert np.isfinite(array.lo).all() if array.lo is not None else True


@pytest.mark.parametrize("ratio", ["2", "-1/3", "4", "1/7"])
def test_exact_arrays_at_extremes(ratio):
    q, array = Fraction(ratio), ExactArray(np.array(EXTREMES))
    array.scale(np.arange(len(EXTREMES)), None, q)
    assert [array.get((k,)) for k in range(len(EXTREMES))] == [q * Fraction(x) for x in EXTREMES]
    again = ExactArray(np.zeros(len(EXTREMES)))
    for k, x in enumerate(EXTREMES):
        again.put((k,), q * Fraction(x))
    assert again.equals(array)
    assert (array.nonzero() == (np.array(EXTREMES) != 0)).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("small", "last"), [(1, -1.0), (-2, 0.3)], ids=["entry", "sum"])
def test_a_difference_beyond_the_largest_float_is_no_claim(small, last):
    """Nor a warning, which whoever asks for errors would meet in place of the refusal."""
    most = np.finfo(np.float64).max
    with pytest.raises(mo.CertificateRejected, match="is claimed"):
        judged(
            net([[1]], [0], [[most]], [0]),
            small=net([[small]], [0], [[last * most]], [0]),
            slack=Slack(1e300, 1e300),
        )
