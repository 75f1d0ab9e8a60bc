"""The group, its elements, stabilisers, normal forms and fingerprints."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise, permutations, product

import numpy as np
import pytest
import strategies as plants

import moduli as mo
from moduli.common.exact_values import evaluate
from moduli.equivalence.group import (
    Element,
    SymmetricPart,
    _over,
    _rounded,
    _sorted,
    _times,
    attention,
    canon,
    grouped,
)
from moduli.kernel.exact_numbers import two_sum
from moduli.kernel.state import State


def test_idempotent_and_invariant_bit_for_bit():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        acts = [str(rng.choice(plants.EVERY)) for _ in range(2)]
        parts = plants.minimal(rng, (2, 4, 3, 2), acts)
        net = parts.network()
        plants.shuffle(rng, parts)
        form = mo.canonical(net)
        assert mo.canonical(form) == form
        assert mo.canonical(parts.network()) == form, (seed, acts)


def test_invariance_under_many_elements():
    for seed, acts in enumerate(
        (["tanh"] * 2, ["relu"] * 2, ["abs", "leaky_relu(0.25)"], ["sigmoid"] * 2, ["gelu", "erf"])
    ):
        rng = np.random.default_rng(seed)
        net = plants.minimal(rng, (3, 6, 5, 2), acts).network()
        group, form, mark = mo.symmetries(net), mo.canonical(net), mo.signature(net)
        for draw in range(200):
            copy = group.random(draw)(net)
            assert mo.canonical(copy) == form
            assert mo.signature(copy) == mark


def test_scales_that_are_no_powers_of_two():
    """Rows times 3, outgoing weights divided by 3, all exact floats: one form, where nothing is
    left of the factor.
    """
    for seed in range(50):
        rng = np.random.default_rng(seed)
        parts = plants.minimal(rng, (2, 4, 3, 2), ["relu", "leaky_relu(0.25)"])
        parts.rows[1][0], parts.rows[2][0] = 3 * parts.rows[1][0], 15 * parts.rows[2][0]
        net = parts.network()
        for l, factor in ((0, 3.0), (1, 5.0)):
            parts.rows[l] = [factor * p for p in parts.rows[l]]
            parts.rows[l + 1][0] = parts.rows[l + 1][0] / factor
        assert mo.canonical(parts.network()) == mo.canonical(net)
        assert mo.signature(parts.network()) == mo.signature(net)


def test_forms_of_large_numbers_of_bits_are_idempotent():
    """Rows of full mantissas after merges: remainders in the exact state, rounding in the form."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        rows = [
            rng.standard_normal((4, 2)),
            rng.standard_normal(4),
            rng.standard_normal((3, 4)),
            rng.standard_normal(3),
        ]
        rows[0][1], rows[1][1] = 2 * rows[0][0], 2 * rows[1][0]
        net = mo.Network.mlp(*rows, rng.standard_normal((1, 3)), [0.0], activation="relu")
        form = mo.canonical(net)
        assert form.units <= 6, "two units of the first layer are one; rows of one sign go as well"
        assert mo.canonical(form) == form


def test_elements_move_networks_and_prove_it():
    for seed, act in enumerate(plants.EVERY):
        rng = np.random.default_rng(seed)
        net = plants.minimal(rng, (2, 4, 3, 2), [act] * 2).network()
        element = mo.symmetries(net).random(seed)
        moved = element(net)
        assert moved != net
        x = rng.standard_normal((50, 2))
        assert np.allclose(moved(x), net(x), rtol=1e-12, atol=1e-12)
        proof = element.certificate(net)
        assert proof.slack.everywhere == 0
        assert mo.check(proof, moved, net).status == "proved"


def test_what_is_no_symmetry_is_refused():
    net = plants.minimal(np.random.default_rng(0), (2, 3, 1), ["tanh"]).network()
    with pytest.raises(ValueError, match=r"factor 2.0 is no symmetry of tanh"):
        Element((np.arange(3),), (np.array([1.0, 2.0, 1.0]),))(net)
    with pytest.raises(mo.ShapeError, match=r"hidden widths \(2,\)"):
        Element((np.arange(2),), (np.ones(2),))(net)


def orbit(net):
    """All networks that permutations with signs make of one: the oracle of orbit and stabiliser."""
    choices = []
    for n, s in zip(net.widths[1:-1], net.activations, strict=True):
        signs = list(product([1.0, -1.0], repeat=n)) if s.symmetric else [(1.0,) * n]
        choices.append([(np.array(p), np.array(f)) for p in permutations(range(n)) for f in signs])
    found = set()
    for some in product(*choices):
        found.add(Element(tuple(p for p, _ in some), tuple(f for _, f in some))(net).digest)
    return len(found), math.prod(map(len, choices))


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "abs", "relu", "gelu"])
def test_stabilisers_against_all_elements(activation):
    rng = np.random.default_rng(0)
    exact = 0
    for widths in ((1, 3, 1), (2, 3, 2), (1, 2, 2, 1)):
        for _ in range(40):
            arrays = [
                rng.integers(-1, 2, shape).astype(float)
                for n, m in pairwise(widths)
                for shape in ((m, n), m)
            ]
            net = mo.Network.mlp(*arrays, activation=activation)
            group = mo.symmetries(net)
            size, order = orbit(net)
            assert math.isclose(group.log_order, math.log(order), abs_tol=1e-12)
            low, high = group.log_stabiliser
            assert low - 1e-9 <= math.log(order / size) <= high + 1e-9, (widths, arrays)
            low, high = group.log_orbit
            assert low - 1e-9 <= math.log(size) <= high + 1e-9
            exact += low == high
            if len(widths) == 3:
                assert low == high
    assert exact >= 90


def test_stored_stabilisers(shared):
    cases = json.loads((shared / "cases" / "canon.json").read_text())
    arrays = np.load(shared / "cases" / "canon.npz")
    for case in cases:
        if case["stabiliser_a"] is None:
            continue
        names = [f"{case['key']}/A/{part}{l}" for l in range(1, 9) for part in "Wb"]
        net = mo.Network.mlp(
            *(arrays[name] for name in names if name in arrays), activation=case["activation"]
        )
        low, high = mo.symmetries(net).log_stabiliser
        assert math.isclose(low, math.log(case["stabiliser_a"]), abs_tol=1e-12)
        assert low == high


def test_orders_of_parts(shared):
    cases = json.loads((shared / "cases" / "complexity.json").read_text())["cases"]
    cases += json.loads((shared / "cases" / "complexity_extra.json").read_text())["cases"]
    seen = 0
    for case in cases:
        args, expected = case["args"], case["expected"]
        if case["function"] == "log_spec":
            makers = {
                "units": SymmetricPart,
                "heads": SymmetricPart,
                "gqa": lambda kv, q: SymmetricPart(kv, inside=(SymmetricPart(q),)),
            }
            value = sum(makers[kind](*numbers).log_order for kind, *numbers in args["spec"])
        elif case["function"] == "log_attention_group":
            value = attention(
                args["kv"],
                args["dk"],
                args["dv"],
                queries=args["q"],
                rotary=args.get("rope", False),
            ).log_order
        elif case["function"] == "log_grouped_pair":
            value = grouped(args["g"], args["i"], args["o"]).log_order
        else:
            continue
        seen += 1
        assert math.isclose(value, float(expected), rel_tol=1e-12), case["id"]
    assert seen


# Fingerprints ---------------------------------------------------------------------------------------------------


def test_signatures_see_through_redundancy():
    for seed in range(200):
        net, _ = plants.planted(seed)
        mark = mo.signature(net)
        assert mo.signature(mo.compress(net).network) == mark or mo.compress(net).slack > 0
        assert mo.signature(mo.symmetries(net).random(seed)(net)) == mark


def test_complete_where_it_is_known():
    rng = np.random.default_rng(0)

    def one(act, n=3, h=4, m=1):
        return plants.minimal(rng, (n, h, m), [act]).network()

    assert all(mo.signature(one(act)).complete for act in ("tanh", "sigmoid", "erf", "abs"))
    assert not any(mo.signature(one(act)).complete for act in ("sin", "gelu", "softplus"))
    assert not mo.signature(plants.minimal(rng, (2, 3, 3, 1), ["tanh"] * 2).network()).complete
    for kind in ("relu", "leaky_relu(0.1)", "clip(0, 6)"):  # by creases
        assert all(mo.signature(one(kind, n, h)).complete for n, h in ((3, 3), (2, 6), (5, 40)))
    constant = mo.Network.mlp([[0.0], [1.0]], [0.5, 0.0], [[1.0, 1.0]], [0.0])
    assert mo.signature(constant).complete
    assert not mo.signature(
        mo.Network.mlp([[0.0], [1.0]], [0.5, 0.0], [[1.0, 1.0]], [0.0], activation="erf")
    ).complete
    assert mo.signature(mo.Network.mlp([[1.0]], [0.0])).complete


def test_units_that_turn_around_together_have_one_signature():
    """Three ReLU units whose products of weights cancel: reflecting all of them gives the same
    function and another form.
    """
    a = mo.Network.mlp(
        [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]],
        [0.0, 0.0, 0.0],
        [[1.0, 1.0, 1.0]],
        [0.0],
        activation="relu",
    )
    b = mo.Network.mlp(
        [[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]],
        [0.0, 0.0, 0.0],
        [[1.0, 1.0, 1.0]],
        [0.0],
        activation="relu",
    )
    x = np.random.default_rng(0).standard_normal((100, 2))
    assert np.allclose(a(x), b(x))
    assert mo.signature(a) == mo.signature(b)
    assert mo.signature(a).complete


def test_more_units_along_the_same_hyperplanes():
    """Pairs on two parallel hyperplanes whose linear parts cancel: the function of two units. Where
    they do not cancel, the linear part can go to either of them: minimal in two ways, with one
    signature."""
    few = mo.Network.mlp([[1.0], [1.0]], [0.0, -1.0], [[1.0, 2.0]], [0.0], activation="relu")
    many = mo.Network.mlp(
        [[1.0], [-1.0], [1.0], [-1.0]],
        [0.0, 0.0, -1.0, 1.0],
        [[2.0, -1.0, 1.0, 1.0]],
        [-1.0],
        activation="relu",
    )
    x = np.linspace(-3, 3, 61)[:, None]
    assert np.allclose(few(x), many(x))
    one, other = mo.signature(few), mo.signature(many)
    assert one == other
    assert one.complete

    left, right = (
        mo.Network.mlp(
            [[1.0], [1.0], [-1.0]], [0.0, -1.0, extra], [outgoing], [bias], activation="relu"
        )
        for extra, outgoing, bias in ((0.0, [5.0, 3.0, 1.0], 0.0), (1.0, [6.0, 2.0, 1.0], -1.0))
    )
    assert np.allclose(left(x), right(x))
    assert mo.compress(left).optimal
    assert mo.compress(left).network.units == 3
    one, other = mo.signature(left), mo.signature(right)
    assert one == other
    assert one.complete


def test_constants_have_one_signature_whatever_the_architecture():
    deep = mo.Network.mlp([[0.0]], [0.0], [[1.0]], [0.0], [[2.0]], [0.75], activation="tanh")
    flat = mo.Network.mlp([[0.0]], [0.75])
    assert mo.signature(deep) == mo.signature(flat)
    assert mo.signature(deep).complete


def test_a_signature_is_text_that_travels():
    import pickle

    mark = mo.signature(plants.minimal(np.random.default_rng(0), (2, 3, 1), ["tanh"]).network())
    assert pickle.loads(pickle.dumps(mark)) == mark
    assert pickle.loads(pickle.dumps(mark)).complete
    assert mark.startswith("2-3-1:tanh:")


def test_rosetta_and_copies_fall_into_a_thousand_classes(shared):
    with np.load(shared / "models" / "rosetta3_model2_1000nets.npz") as z:
        arrays = {name: z[name] for name in z.files}
    nets = [
        mo.Network.mlp(*(arrays[name][k].astype(np.float64) for name in ("W1", "b1", "W2", "b2")))
        for k in range(1000)
    ]
    marks = [mo.signature(net) for net in nets]
    copies = [mo.signature(mo.symmetries(net).random(k)(net)) for k, net in enumerate(nets)]
    assert copies == marks
    assert len(set(marks)) == 1000


def test_rows_are_ordered_as_by_all_their_columns():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        keys = list(
            rng.integers(0, 2, (int(rng.integers(1, 40)), int(rng.integers(0, 30)))).astype(float)
        )
        assert _sorted(keys).tolist() == np.lexsort(keys[::-1]).tolist(), seed


def test_normal_forms_of_sums_that_no_float_holds():
    """Merged units leave columns of two floats, and biases of several, beside plain ones."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        parts = [rng.standard_normal(shape) for shape in ((6, 3), 6, (5, 6), 5, (2, 5), 2)]
        parts[0][4], parts[1][4] = parts[0][0], parts[1][0]
        parts[0][5] = 0
        parts[1][5] = 0.3
        net = mo.Network.mlp(*parts, activation="relu")
        twin = mo.symmetries(net).random(seed)(net)
        assert mo.canonical(twin) == mo.canonical(net), seed
        assert mo.signature(twin) == mo.signature(net), seed


# What rounding a form changes ------------------------------------------------------------------------------------


def pairs_of_floats(rng, count, largest=300):
    """Sums of two floats, normalised as `two_sum` leaves them: odd mantissas, remainders from half
    a unit to the least.
    """
    size = rng.choice([1.0, 1 + 2.0**-52, 2 - 2.0**-52, 1.5, 4 / 3, 2**0.5, math.pi / 2], count)
    size = np.where(rng.random(count) < 0.5, size, 1 + rng.random(count))
    exponent = rng.integers(-largest, largest + 1, count) * (rng.random(count) < 0.8)
    exponent = np.where(rng.random(count) < 0.2, rng.choice([-largest, largest], count), exponent)
    high = np.clip(np.ldexp(size, exponent), 2.0**-largest, 2.0**largest) * rng.choice(
        [-1.0, 1.0], count
    )
    share = rng.choice([0.0, 0.5, -0.5, 2.0**-60, -(2.0**-400), 0.3, -0.49], count)
    low = share * np.spacing(np.abs(high))
    low[rng.random(count) < 0.1] = math.ulp(0.0)
    return two_sum(high, low)


def exact(pair):
    return [
        Fraction(p) + Fraction(q) for p, q in zip(*(part.tolist() for part in pair), strict=True)
    ]


def test_products_and_quotients_of_sums_of_two_floats_are_as_close_as_the_slack_of_a_form_says():
    """Weights times a scale over another one: off by a factor 1 + 2^-98 at most, within the limits
    that are looked at.
    """
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, s, t = (pairs_of_floats(rng, 1000) for _ in range(3))
        t = np.sign(t[0]) * t[0], np.sign(t[0]) * t[1]
        found = zip(exact(_over(_times(a, s), t)), exact(_over(a, t)), strict=True)
        for (both, one), x, y, z in zip(found, exact(a), exact(s), exact(t), strict=True):
            assert abs(both * z - x * y) <= abs(x * y) / 2**98
            assert abs(one * z - x) <= abs(x) / 2**98


def extreme_network(rng, kind):
    """Two hidden layers whose weights are of very different sizes, some zero; units of a size that
    no float holds exactly.
    """
    span = {"plain": 1, "large": 40, "huge": 140, "beyond": 320}[kind]
    widths, parts = [2, 3, 3, 2], []
    for n, m in pairwise(widths):
        for shape in ((m, n), (m,)):
            values = rng.integers(-99, 100, shape) * np.exp2(
                rng.integers(-span, span + 1, shape) * (rng.random(shape) < 0.5)
            )
            parts.append(
                np.where(rng.random(shape) < 0.1, 0.0, values / rng.choice([1.0, 3.0, 7.0], shape))
            )
    return mo.Network.mlp(
        *parts, activation=[str(a) for a in rng.choice(["relu", "abs", "leaky_relu(0.1)"], 2)]
    )


@pytest.mark.parametrize("kind", ["plain", "large", "huge", "beyond"])
def test_the_slack_of_a_form_holds_what_rounding_changes(kind):
    """Both functions in rational arithmetic, at inputs of all sizes; where numbers are too large
    nothing is claimed.
    """
    statuses = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        net = extreme_network(rng, kind)
        try:
            form = canon(net)
        except mo.UnsupportedModel:  # a weight exceeds float64
            statuses.add("refused")
            continue
        statuses.add(form.status)
        if form.status == "undecided":
            assert not form.slack.finite
            continue
        assert form.check()
        constant, growth = Fraction(form.slack.constant), Fraction(form.slack.growth)
        for size in (0.0, 1e-30, 1.0, 1e30):
            x = [Fraction(v) for v in (size * rng.choice([-1.0, 1.0, 0.25, 1 / 3], 2)).tolist()]
            far = max(
                abs(p[0] - q[0])
                for p, q in zip(evaluate(net, x), evaluate(form.network, x), strict=True)
            )
            assert far <= constant + growth * max(map(abs, x))
    assert "bounded" in statuses or kind == "beyond"
    assert statuses & {"undecided", "refused"} or kind != "beyond"


def test_nothing_is_claimed_of_numbers_beyond_the_limits():
    """Where a product of floats may have no exact remainder, the slack of a form bounds nothing."""
    for size in (2.0**-310, 7 * 2.0**-310):
        net = mo.Network.mlp([[3.0, size]], [0.0], [[1 / 3]], [0.0], activation="relu")
        assert canon(net).status == "undecided"
    tiny = Fraction(1, 10**400)  # of which no float knows anything
    state = State(mo.Network.mlp([[3.0, 1.0]], [0.0], [[1 / 3]], [0.0], activation="relu"))
    state.weights[0].put((0, 1), tiny)
    assert not _rounded(state)[1].finite
