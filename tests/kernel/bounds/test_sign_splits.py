"""Signs by linear programs and branching, and units that later layers hide: against exact vertices,
and forged.
"""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from on_boxes import coarse_network, exact_layers, random_box, random_network
from stored_relu import box_of, cases, read, relu

import moduli as mo
from moduli.compression.box import bisection, linear_programs, masked_units
from moduli.compression.box.reduce_on_box import claimed
from moduli.compression.box.seen_signs import Points
from moduli.compression.box.sign_bisection import HOW
from moduli.compression.box.stable_units import stable
from moduli.compression.box.tolerance import changed_between
from moduli.compression.certify import certify
from moduli.compression.certify import first as starting
from moduli.compression.exact.reduce import settle
from moduli.equivalence import exact_gap
from moduli.kernel.bounds import sign_splits as kernel
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.bounds.sign_splits import Case
from moduli.kernel.state import State

PROGRAM, BRANCHING = HOW.index("program"), HOW.index("branching")


def nothing_known(net):
    return np.zeros(net.units, dtype=np.int8)


def vertices(net, box):
    """Per cell of the linear pieces, the pre-activations of hidden units at its vertices, exactly."""
    return [
        [exact_layers(net.layers[:-1], p) for p in cell.points]
        for cell in mo.pieces(net, on=box).complex
    ]


def random_pair(rng, k):
    """A network and a box with an inside."""
    while True:
        net = coarse_network(rng) if k % 2 else random_network(rng)
        low, high = random_box(rng, net.widths[0])
        if k % 2:
            low = rng.integers(-2, 2, net.widths[0]) * 1.0
            high = low + rng.integers(1, 3, net.widths[0])
        if (low < high).all() and len(net.layers) > 2:
            return net, mo.Box(low, high)


# Signs ----------------------------------------------------------------------------------------------------------


def test_signs_against_exact_extremes():
    """Signs that hold with room are proved, and none that does not hold."""
    rng, proved, missed = np.random.default_rng(0), 0, 0
    for k in range(40):
        net, box = random_pair(rng, k)
        seen = [z for cell in vertices(net, box) for z in cell]
        for layer in range(2, len(net.layers)):
            for unit in range(net.widths[layer]):
                values = [z[layer - 1][unit] for z in seen]
                for sign, most in ((-1, max(values)), (1, -min(values))):
                    found = linear_programs.prove(
                        net, box, nothing_known(net), layer, unit, sign, limit=60
                    ).case
                    assert found is None or most <= 0
                    proved += found is not None
                    missed += most < -1e-6 and found is None
                    if found is not None:
                        kernel.require(
                            net,
                            box,
                            nothing_known(net),
                            Case.from_json(json.loads(json.dumps(found.to_json()))),
                        )
    assert proved > 80
    assert missed == 0


def test_a_dual_gives_the_value_of_its_program():
    """Strong duality, up to rounding, for triangles of every kind, beside smooth layers too."""
    rng = np.random.default_rng(0)
    better = 0
    for activation in (
        "relu",
        "leaky_relu(0.25)",
        "leaky_relu(-0.5)",
        "leaky_relu(2.0)",
        "abs",
        ["tanh", "relu", "relu"],
    ):
        for _ in range(5):
            widths = 3, 6, 6, 6, 1
            parts = [
                p
                for n, m in pairwise(widths)
                for p in (rng.normal(size=(m, n)), rng.normal(size=m))
            ]
            net = mo.Network.mlp(*parts, activation=activation)
            box = mo.Box(-1, 1).of_dimension(3)
            for layer in (2, 3):
                target = kernel.objective_network(net, layer, 0, -1)
                below = sum(net.widths[1:layer])
                signs = np.where(rng.random(below) < 0.2, rng.choice([-1, 1], below), 0).astype(
                    np.int8
                )
                found = kernel.propagate(target, box, signs[None])
                if not np.isfinite(kernel.upper(target, found, signs[None])[0]):
                    continue
                best, _ = linear_programs.optimum(target, box, found, signs[None])
                bound = kernel.upper(
                    target,
                    found,
                    signs[None],
                    kernel.Multipliers(best.multipliers[None], ~np.isnan(best.multipliers[None])),
                )[0]
                plain = kernel.upper(target, found, signs[None])[0]
                assert bound <= min(plain, best.value + 1e-6 * (1 + abs(best.value)))
                better += bound < plain - 1e-6
    assert better > 20


def test_layers_that_no_program_takes():
    """Numbers that the solver takes for infinite, and networks beyond the size of a program."""
    rng = np.random.default_rng(1)
    for size in (1e25, 1e155, 1e300):
        net = random_network(rng, (size, size), inputs=3)
        assert stable(net, mo.Box(-1, 1), budget=200).check()
    wide = relu(
        (rng.normal(size=(2100, 2100)), np.zeros(2100)),
        (-np.ones((1, 2100)), [1.0]),
        ([[1.0]], [0.0]),
    )
    assert stable(wide, mo.Box(-1e-3, 1e-3), budget=64).programs == 0


def deep_local(seed, radius):
    """A network of many inputs and a small box, where affine bounds leave signs open."""
    rng = np.random.default_rng(seed)
    widths = 20, 16, 16, 16, 2
    parts = [
        p
        for n, m in pairwise(widths)
        for p in (rng.normal(size=(m, n)) * (2 / n) ** 0.5, 0.3 * rng.normal(size=m))
    ]
    centre = rng.normal(size=20)
    return relu(*zip(parts[::2], parts[1::2], strict=True)), mo.Box(
        centre - radius, centre + radius
    )


@pytest.fixture(scope="module")
def local():
    net, box = deep_local(0, 0.15)
    return stable(net, box, budget=20_000)


def test_every_rung_of_the_ladder(local):
    counts = [sum(local.count(sign, how) for sign in (-1, 1)) for how in range(1, len(HOW))]
    assert counts[0] > 0
    assert counts[PROGRAM - 1] > 0
    assert counts[BRANCHING - 1] > 0
    assert local.check()
    assert local.parts > 0
    rows = dict(local.rows())
    assert "program" in rows["inactive"] + rows["active"]
    assert "parts of cases" in rows["bounded"]
    x = np.random.default_rng(1).uniform(local.box.low, local.box.high, (20_000, 20))
    seen = Points(local.network, local.box, np.random.default_rng(2))
    seen.look(x)
    signs = np.concatenate(local.signs)
    assert (seen.most[signs < 0] <= 1e-12).all()
    assert (seen.least[signs > 0] >= -1e-12).all()


def test_the_same_with_an_executor(local):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        again = stable(local.network, local.box, budget=20_000, executor=pool)
    assert again.to_json() == local.to_json()


def test_a_certificate_by_programs(local):
    small = mo.compress(local.network, on=local.box, budget=20_000)
    assert small.check()
    assert small.network.units < mo.compress(local.network, on=local.box, budget=49).network.units
    text = json.dumps(small.certificate.to_json())
    assert '"cases"' in text
    mo.Certificate.from_json(text).verify(small.network, small.original)
    x = local.box.sample(2000, 20, 0)
    assert np.abs(small.network.logits(x) - local.network.logits(x)).max() <= small.slack + 1e-9


def test_tampered_cases_are_refused(local):
    rng, base = np.random.default_rng(0), local.cases
    signs = np.concatenate(local.signs)

    def judged(*changed):
        replace(local, cases=changed).check()

    with pytest.raises(mo.CertificateRejected, match="not proved"):
        judged(*base[1:])
    with pytest.raises(mo.CertificateRejected, match="another one is claimed"):
        judged(replace(base[0], sign=-base[0].sign), *base[1:])
    at = next(k for k, case in enumerate(base) if any(values for _, values in case.leaves))
    bare = replace(base[at], leaves=tuple(((), ()) for _ in base[at].leaves))
    with pytest.raises(mo.CertificateRejected, match=r"leaf \d+ of the case of unit"):
        judged(*base[:at], bare, *base[at + 1 :])
    with pytest.raises(mo.CertificateRejected, match="lists"):
        judged(replace(base[0], leaves=(*base[0].leaves, ((), ()))), *base[1:])
    with pytest.raises(mo.CertificateRejected, match="leaves"):
        judged(replace(base[0], leaves=()), *base[1:])
    with pytest.raises(mo.CertificateRejected, match="not below it"):
        judged(replace(base[0], leaves=(((10**6,), (0.5,)), *base[0].leaves[1:])), *base[1:])
    with pytest.raises(mo.CertificateRejected, match="which is not there"):
        judged(replace(base[0], layer=9))
    branched = next(k for k, case in enumerate(base) if len(case.leaves) > 1)
    case = base[branched]
    twice = (case.tree[0], case.tree[0], -1, -1, -1)
    for tree in ((-1,), case.tree[:-1], (*case.tree, -1), twice, (10**7, -1, -1), ()):
        with pytest.raises(mo.CertificateRejected):
            judged(*base[:branched], replace(case, tree=tree), *base[branched + 1 :])
    below = sum(local.network.widths[1 : case.layer])
    known = int(np.flatnonzero(signs[:below])[0])
    with pytest.raises(mo.CertificateRejected, match="is known"):
        judged(
            *base[:branched],
            replace(case, tree=(known, -1, -1), leaves=case.leaves[:2]),
            *base[branched + 1 :],
        )
    for _ in range(200):  # no multipliers prove what is false
        layer = int(rng.integers(2, 4))
        unit = int(
            rng.choice(
                np.flatnonzero((local.signs[layer - 1] == 0) & (local.undecided[layer - 1] == 0))
            )
        )
        below = sum(local.network.widths[1:layer])
        values = tuple((rng.normal(size=below) * 10.0 ** rng.integers(-3, 300)).tolist())
        false = Case(
            layer, unit, int(rng.choice([-1, 1])), -1, (-1,), ((tuple(range(below)), values),)
        )
        with pytest.raises(mo.CertificateRejected, match="is not proved"):
            kernel.require(local.network, local.box, signs, false)


@pytest.mark.parametrize(
    "change",
    [
        {"layer": "2"}, {"unit": 2**31}, {"sign": True}, {"given": -2}, {"tree": [0.5]}, {"tree": [-2]}, {"leaves": {}},
        {"leaves": [[]]}, {"leaves": [[[0], []]]}, {"leaves": [[[0], [float("inf")]]]}, {"leaves": [[[0], [float("nan")]]]},
        {"leaves": [[[-1], [0.5]]]}, {"leaves": [[[0], [True]]]}, {"leaves": [[[0], ["1"]]]}, {"leaves": [[[0], [2**60 + 1]]]},
        {"more": 1},
    ],
)  # fmt: skip
def test_malformed_cases_are_refused(change):
    good = Case(2, 0, -1, -1, (-1,), (((0,), (0.5,)),)).to_json()
    assert Case.from_json(good).to_json() == good
    with pytest.raises(mo.CertificateRejected):
        Case.from_json({**good, **change})
    region = Region((0.0,), (1.0,), (-1,), ((0,), (0,))).to_json()
    assert "cases" not in region
    for wrong in ({**good, **change}, 3, None, []):
        with pytest.raises(mo.CertificateRejected):
            Region.from_json({**region, "cases": [wrong]})
    with pytest.raises(mo.CertificateRejected, match="cases of the region"):
        Region.from_json({**region, "cases": good})


def test_long_trees_stay_small_in_memory():
    """A million nodes are refused at the first that is none."""
    net, box = (
        relu(([[1.0]], [0.0]), ([[1.0]], [-0.5]), ([[1.0]], [0.0])),
        mo.Box(-1, 1).of_dimension(1),
    )
    for tree in ((0,) * 10**6, (0, -1) * 10**5 + (-1,), (-1,) * 10**6):
        with pytest.raises(mo.CertificateRejected):
            kernel.require(
                net, box, nothing_known(net), Case(2, 0, -1, -1, tree, (((), ()),) * tree.count(-1))
            )


def test_local_boxes_of_real_networks(shared):
    """On small boxes around digits programs decide most of what affine bounds leave open."""
    images = np.load(shared / "data" / "mnist.npz")["x_train"].reshape(-1, 784)[:2] / 255.0
    for name, radius, open_, left in (
        ("serra_mnist_100-100_checkpoint_120.converted.onnx", 0.02, 8, 2),
        ("marabou_mnist5x20_leaky_relu.onnx", 0.02, 40, 2),
    ):
        net = mo.load(shared / "models" / name)
        plain = rest = 0
        for image in images:
            found = stable(
                net,
                mo.Box(np.clip(image - radius, 0, 1), np.clip(image + radius, 0, 1)),
                budget=10_000,
            )
            assert found.check()
            rest += sum(int((u != 0).sum()) for u in found.undecided)
            plain += rest + sum(
                found.count(sign, how) for sign in (-1, 1) for how in (PROGRAM, BRANCHING)
            )
        assert plain >= open_ * 0.75, name
        assert rest <= left, name


# Units that later layers hide -------------------------------------------------------------------------------------


def test_the_stored_hidden_unit_goes(shared):
    case = next(
        c for c in cases(shared, "hidden_symmetry") if c["id"].endswith("unit-hidden-by-next-layer")
    )
    for net in (read(case["net_f"]), read(case["net_g"])):
        small = mo.compress(net, on=box_of(case))
        assert small.network.widths == (2, 1, 1, 1)
        assert small.masked_units == 1
        assert small.slack == 0
        assert small.check()
        assert dict(small.rows())["hidden by later layers"] == "1"
        assert small.to_json()["masked_units"] == 1


def gated(rng, inputs=2, visible=0.0):
    """A unit that is on where all units that see it are off, but for `visible`: they all start with
    minus its plane.
    """
    weight, bias = rng.integers(-2, 3, (4, inputs)) / 1.0, rng.integers(-2, 3, 4) / 2.0
    weight[0], bias[0] = rng.permutation([1.0] + [0.5] * (inputs - 1)), 0.25
    weight[1], bias[1] = -weight[0], -bias[0]
    after = rng.integers(-2, 1, (3, 4)) / 1.0
    after[:, 1], after[:, 0] = 2.0, rng.choice([-1.0, -0.5], 3)
    return relu((weight, bias), (after, [visible, -0.5, -0.25]), ([[1.0, -1.0, 2.0]], [0.5]))


def test_planted_hidden_units_go_and_visible_ones_stay():
    rng, gone = np.random.default_rng(0), 0
    for k in range(30):
        net = gated(rng)
        small = mo.compress(net, on=mo.Box(-2, 2))
        assert small.check()
        assert exact_gap.peak(net, small.network, mo.Box(-2, 2), 4000).gap <= small.slack, k
        gone += small.masked_units
        assert small.network.widths[1] < net.widths[1], k
        seen = gated(np.random.default_rng(k), visible=2.0**-20)
        small = mo.compress(seen, on=mo.Box(-2, 2))
        assert exact_gap.peak(seen, small.network, mo.Box(-2, 2), 4000).gap <= small.slack, k
    assert gone >= 20
    many = gated(np.random.default_rng(5), inputs=12)
    small = mo.compress(many, on=mo.Box(-1, 1))
    assert small.masked_units >= 1
    assert small.check()


def test_cuts_against_exact_vertices():
    """A pair is cut only if the unit behind is off, with and without the weight, wherever the other
    is on.
    """
    rng, proved = np.random.default_rng(0), 0
    for k in range(40):
        net, box = random_pair(rng, k)
        pieces = vertices(net, box)
        for layer in range(2, len(net.layers)):
            weight, bias = net.layers[layer - 1].weight, net.layers[layer - 1].bias
            for unit in range(net.widths[layer]):
                for given in range(net.widths[layer - 1]):
                    found = linear_programs.prove(
                        net, box, nothing_known(net), layer, unit, -1, given, 20
                    ).case
                    if found is None:
                        continue
                    proved += 1
                    row = [Fraction(w) for w in weight[unit]]
                    row[given] = max(row[given], Fraction(0))
                    for cell in pieces:
                        on = all(z[layer - 2][given] >= 0 for z in cell)
                        for z in cell if on else ():
                            h = map(net.activations[layer - 2].exact, z[layer - 2])
                            value = sum(w * v for w, v in zip(row, h, strict=True))
                            assert value + Fraction(bias[unit]) <= 0
    assert proved > 50


def hidden_pair():
    """A network with a hidden unit, its box, signs and cuts."""
    first = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], [0.0, -2.0, 0.5]
    net = relu(first, ([[1.0, -1.0, 0.5], [1.0, -0.5, -1.0]], [-2.0, -1.5]), ([[1.0, 2.0]], [0.0]))
    box = mo.Box([-4, -2], [4, 2])
    found = stable(net, box)
    cuts = masked_units.cuts(net, box, found.signs, 200)
    assert cuts
    return net, found, cuts


def test_forged_cuts_are_refused():
    net, found, cuts = hidden_pair()
    claimed(found, cuts).verify(net)
    first = cuts[0]

    def judged(*cases, signs=found.signs):
        replace(claimed(found), signs=tuple(tuple(map(int, s)) for s in signs), cases=cases).verify(
            net
        )

    assert {(case.assuming_active, case.unit) for case in cuts} == {(1, 0), (1, 1)}
    for change in (
        {"assuming_active": 0},
        {"assuming_active": 2},
        {"assuming_active": 99},
        {"layer": 1},
        {"layer": 3},
        {"unit": 9},
        {"sign": 1},
    ):
        with pytest.raises(mo.CertificateRejected):
            judged(replace(first, **change))
    with pytest.raises(mo.CertificateRejected, match="behind a cut"):
        judged(first, Case(2, 0, int(found.signs[1][0]), -1, (-1,), (((), ()),)))
    leaky = mo.Network.mlp(
        *(p for x in net.layers for p in (x.weight, x.bias)), activation="leaky_relu(0.5)"
    )
    with pytest.raises(mo.CertificateRejected, match="ReLU"):
        kernel.verify(
            leaky, found.box, (-1,), [np.zeros(n, dtype=np.int8) for n in net.widths[1:-1]], [first]
        )


def test_a_cut_into_a_unit_that_is_claimed_active_is_refused():
    """relu(x) - 1 <= 0 where x >= 0 on [-1, 1], so the weight may go; z = 0 at x = 1 only. Sign 1
    would be another matter.
    """
    net = relu(([[1.0], [-1.0]], [0.0, 0.0]), ([[-1.0, 1.0]], [0.0]), ([[1.0]], [0.0]))
    box, leaf = mo.Box(0, 1).of_dimension(1), (((), ()),)
    cut = Case(2, 0, -1, 0, (-1,), leaf)
    signs = [np.array([1, -1], dtype=np.int8), np.array([-1], dtype=np.int8)]
    assert kernel.verify(net, box, (-1,), signs, [cut]).layers[1].weight.tolist() == [[0.0, 1.0]]
    zero = relu(([[1.0], [-1.0]], [0.0, 0.0]), ([[0.0, 0.0]], [0.0]), ([[1.0]], [0.0]))
    signs[1] = np.array([1], dtype=np.int8)
    with pytest.raises(mo.CertificateRejected, match="not known to be off"):
        kernel.verify(zero, box, (-1,), signs, [cut])


def test_cuts_beside_changed_parameters():
    """Both in one certificate: a nearly constant unit becomes constant, then a hidden one loses its
    weights.
    """
    first = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1e-5, 0.0]], [0.0, -2.0, 0.5, 1.0]
    behind = ([[1.0, -1.0, 0.5, 1.0], [1.0, -0.5, -1.0, 0.5]], [-3.0, -2.0]), ([[1.0, 2.0]], [0.0])
    net, box = relu(first, *behind), mo.Box([-4, -2], [4, 2]).of_dimension(2)
    near = relu(([*first[0][:3], [0.0, 0.0]], first[1]), *behind)
    changed = changed_between(net, near, bisection.enclose(net, near, box, 1))
    found = stable(near, box)
    claim = claimed(found, masked_units.cuts(near, box, found.signs, 200))
    assert any(case.assuming_active == 1 for case in claim.cases)
    state = State(starting(net, claim, changed), region=claim)
    moves = settle(state)
    small = state.network()
    assert small.widths == (2, 2, 2, 1)
    proof = certify(net, moves, small, region=claim, changed=changed)
    mo.Certificate.from_json(json.dumps(proof.to_json())).verify(small, net)
    assert 0 < proof.slack.constant < 1e-3
    x = box.sample(5000, 2, 0)
    assert np.abs(small.logits(x) - net.logits(x)).max() <= proof.slack.constant
    for wrong in (replace(proof, region=replace(claim, cases=())), replace(proof, changed=None)):
        with pytest.raises(mo.CertificateRejected):
            wrong.verify(small, net)


# Networks of different widths on a box ------------------------------------------------------------------------------


def test_a_network_and_what_its_box_leaves_are_one():
    many, box = gated(np.random.default_rng(5), inputs=12), mo.Box(-1, 1)
    small = mo.compress(many, on=box)
    assert small.slack == 0
    answer = mo.equivalent(many, small.network, on=box)
    assert answer.status == "proved"
    assert answer.check()
    assert "units that the box leaves" in answer.reason
    assert mo.distance(many, small.network, on=box).upper == 0
    other = small.network.with_flat(small.network.flat() + 2.0**-20)
    assert mo.equivalent(many, other, on=box).status == "refuted"


def test_rounded_networks_are_close_on_their_box(local):
    small = mo.compress(local.network, on=local.box, budget=20_000).network
    noisy = small.with_flat(small.flat() * (1 + 1e-9))
    close = mo.equivalent(local.network, noisy, on=local.box, eps=1e-5)
    assert close.status == "proved"
    assert close.check()
    found = mo.distance(local.network, noisy, on=local.box)
    assert 0 < found.lower <= found.upper < 1e-5
    with pytest.raises(mo.CertificateRejected, match="another box"):
        replace(close, on=mo.Box(local.box.low - 1, local.box.high)).check()
    reduced = close.reduced
    with pytest.raises(mo.CertificateRejected):
        replace(close, reduced=reduced._replace(left=reduced.right)).check()
    with pytest.raises(mo.CertificateRejected, match="is claimed"):
        replace(close, eps=1e-12).check()


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ((), "of 0 nodes lacks 1 subtrees"),
        ((0, -1), "of 2 nodes lacks 1 subtrees"),
        ((-1, -1), "ends at node 1 of 2"),
        ((2, -1, -1), "splits 2, none of 2"),
    ],
)
def test_a_case_needs_a_tree(tree, why):
    net = relu(([[1.0], [-1.0]], [0.0, 0.0]), ([[1.0, 1.0]], [1.0]), ([[1.0]], [0.0]))
    box, known = mo.Box(-1, 1).of_dimension(1), np.zeros(3, dtype=np.int8)
    honest = kernel.Case(2, 0, 1, -1, (0, -1, -1), (((), ()),) * 2)
    kernel.require(net, box, known, honest)
    with pytest.raises(
        mo.CertificateRejected, match=f"tree of the case of unit 0 of layer 2.*{why}"
    ):
        kernel.require(net, box, known, replace(honest, tree=tree))
