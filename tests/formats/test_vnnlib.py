"""VNN-LIB files: every input that a file allows lies in a box that is read, and what makes boxes
larger is said.
"""

from __future__ import annotations

import operator
import os
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from moduli.formats import vnnlib
from moduli.formats.vnnlib import Box
from moduli.kernel.errors import UnsupportedModel

TWO = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)"
WITHIN = "(assert (and (<= -4 X_0) (<= X_0 4) (<= -4 X_1) (<= X_1 4)))"
GOOD = b"(declare-const X_0 Real)\n(declare-const X_1 Real)\n(assert (and (<= X_0 1) (>= X_0 -0.1)))\n(assert (<= X_1 2))\n"


def box(tmp_path, text):
    (tmp_path / "box.vnnlib").write_bytes(text)
    return Box.from_vnnlib(tmp_path / "box.vnnlib")


def read(*asserted, head=TWO):
    return vnnlib.read(head + "".join(f"(assert {form})" for form in asserted))


def ends(query):
    return [*zip(query.hull.low, query.hull.high, strict=True)]


# Against an evaluator -------------------------------------------------------------------------------------------

COMPARE = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "=": operator.eq,
}
POINTS = [Fraction(k, 2) for k in range(-9, 10)]


def value(term, point):
    if isinstance(term, str):
        return point[term] if term in point else Fraction(term)
    head, *parts = term
    numbers = [value(part, point) for part in parts]
    if head == "-" and len(numbers) == 1:
        return -numbers[0]
    total = numbers[0]
    for number in numbers[1:]:
        total = (
            {"+": total + number, "-": total - number, "*": total * number}[head]
            if head != "/"
            else total / number
        )
    return total


def holds(form, point):
    if isinstance(form, str):
        return form == "true"
    head, *parts = form
    if head == "and":
        return all(holds(part, point) for part in parts)
    if head == "or":
        return any(holds(part, point) for part in parts)
    if head == "not":
        return not holds(parts[0], point)
    if head == "=>":
        return not holds(parts[0], point) or holds(parts[1], point)
    numbers = [value(part, point) for part in parts]
    if head == "distinct":
        return len(set(numbers)) == len(numbers)
    return all(COMPARE[head](a, b) for a, b in pairwise(numbers))


def number(rng):
    k = int(rng.integers(-3, 4))
    written = str(k)
    kinds = [
        written,
        f"{k}.5",
        ["-", str(abs(k))],
        ["*", "2", written],
        ["/", written, "2"],
        ["+", written, "1", "-2"],
    ]
    return kinds[rng.integers(6)]


def term(rng):
    name = ("X_0", "X_1", "X_0", "X_1", "Y_0")[rng.integers(5)]
    return [
        name, name, number(rng), ["*", str(rng.integers(-2, 3)), name], ["-", name],
        ["/", name, "-2"], ["+", name, "X_0"], ["-", name, number(rng)],
        ["+", name, number(rng), ["*", "-1", name], "X_1"],
    ][rng.integers(9)]  # fmt: skip


def formula(rng, depth):
    if depth == 0 or rng.random() < 0.2:
        head = ("<=", ">=", "<", ">", "=", "distinct")[rng.integers(6)]
        return [
            head,
            *(
                term(rng) if rng.random() < 0.7 else number(rng)
                for _ in range(2 + (rng.random() < 0.2))
            ),
        ]
    head = ("and", "and", "or", "or", "not", "=>")[rng.integers(6)]
    count = {"not": 1, "=>": 2}.get(head, int(rng.integers(1, 4)))
    return [head, *(formula(rng, depth - 1) for _ in range(count))]


def written(form):
    return form if isinstance(form, str) else f"({' '.join(map(written, form))})"


def test_every_solution_lies_in_a_branch():
    """Random formulas, and all points of a grid: what the evaluator accepts lies in a box, or there
    is no box at all.
    """
    rng, tried, several, noted = np.random.default_rng(0), 0, 0, 0
    for _ in range(400):
        forms = [formula(rng, int(rng.integers(1, 4))) for _ in range(2)]
        try:
            found = read(*map(written, forms), WITHIN[8:-1])
            boxes = found.boxes
            several += len(boxes) > 1
            noted += any("passed over" in note for note in found.notes)
        except UnsupportedModel as error:
            reason, boxes = str(error), []
            if "contradict" not in reason and "empty interval" not in reason:
                raise
        for x in POINTS[1::2]:
            for y in POINTS[1::2]:
                for out in (Fraction(0), Fraction(2)):
                    point = {"X_0": x, "X_1": y, "Y_0": out}
                    if max(abs(x), abs(y)) <= 4 and all(holds(form, point) for form in forms):
                        tried += 1
                        assert any(
                            b.low[0] <= x <= b.high[0] and b.low[1] <= y <= b.high[1] for b in boxes
                        ), forms
    assert tried > 2000
    assert several > 20
    assert noted > 50


# Numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "number"),
    [
        ("(- 1)", -1), ("(- (- 1.5))", 1.5), ("(- 3 1 1)", 1), ("(+ 1 2 0.5)", 3.5), ("(* 2 3 (- 1))", -6), ("(/ 1 2)", 0.5),
        ("(/ 6 2 (- 2))", -1.5), ("(* 2 (/ (+ 1 2) 4))", 1.5), ("(to_real 2)", 2), ("+2", 2), (".5", 0.5), ("1e1", 10),
    ],
)  # fmt: skip
def test_arithmetic_of_constants(term, number):
    for form in (
        f"(= X_0 {term})",
        f"(= {term} X_0)",
        f"(and (<= X_0 {term}) (>= X_0 {term}))",
        f"(<= {term} X_0 {term})",
    ):
        assert ends(read(form, "(= X_1 0)"))[0] == (number, number)


@pytest.mark.parametrize(
    ("form", "bounds"),
    [
        ("(<= (* 2 X_0) 3)", (-9, 1.5)), ("(<= (* -2 X_0) 3)", (-1.5, 9)), ("(>= 1 (- X_0))", (-1, 9)),
        ("(< (+ X_0 1 X_0) 3)", (-9, 1)), ("(<= (- X_0 X_1) (- 3 X_1))", (-9, 3)), ("(<= X_0 (/ X_0 2))", (-9, 0)),
        ("(not (<= X_0 2))", (2, 9)), ("(not (or (< X_0 1) (> X_0 2)))", (1, 2)), ("(=> (<= X_1 10) (<= X_0 1))", (-9, 1)),
        ("(or (<= X_0 1) false)", (-9, 1)), ("(and true (<= X_0 1))", (-9, 1)), ("(or (<= X_0 1) (< 2 1))", (-9, 1)),
        ("(or (<= X_0 1) (<= Y_0 1))", (-9, 9)), ("(or (and (<= X_0 1) (<= Y_0 0)) (and (<= X_0 1) (>= Y_0 1)))", (-9, 1)),
        ("(not (distinct X_0 3))", (3, 3)), ("(or (and (<= X_0 1) (>= X_0 2)) (= X_0 5))", (5, 5)),
    ],
)  # fmt: skip
def test_what_is_a_bound(form, bounds):
    found = read("(<= -9 X_0 9)", "(<= -9 X_1 9)", form)
    assert ends(found)[0] == bounds
    assert found.notes == []
    assert len(found.boxes) == 1


def test_ends_are_rounded_outward():
    (low, high), _ = ends(read("(= X_0 (/ 1 3))", "(= X_1 0)"))
    assert low < Fraction(1, 3) < high
    assert np.nextafter(low, 1) == high


# What makes a box larger is said --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        "(<= (+ X_0 X_1) 1)", "(<= X_0 Y_0)", "(distinct X_0 1)", "(<= (* X_0 X_1) 1)", "(<= (/ 1 X_0) 1)",
        "(let ((a X_0)) (<= a 1))", "(exists ((z Real)) (<= X_0 z))", "(ite (<= X_0 1) true false)", "(xor (<= X_0 1) true)",
        "(= (<= X_0 1) true)", "(<= (abs X_0) 1)", "((_ divisible 2) X_0)", "(<= X_0 0x10)", "(not (= X_0 1))",
    ],
)  # fmt: skip
def test_a_constraint_that_is_no_bound_is_passed_over_and_noted(form):
    found = read("(<= 0 X_0 4)", "(<= 0 X_1 4)", form)
    assert ends(found) == [(0, 4), (0, 4)]
    assert found.notes == [f"a constraint on inputs passed over, no bound of one input: {form}"]
    twice = read("(<= 0 X_0 4)", "(<= 0 X_1 4)", form, "(<= (- X_0 X_1) 0)", form)
    assert twice.notes[0].startswith("2 constraints on inputs passed over")


def test_constraints_on_outputs_are_no_matter_of_the_box():
    found = read(
        "(<= 0 X_0 4)", "(<= 0 X_1 4)", "(or (<= Y_0 Y_1) (and (<= Y_0 3) (not (= Y_1 0))))"
    )
    assert found.notes == []
    assert len(found.boxes) == 1


def test_a_hull_says_of_how_many_boxes(tmp_path):
    text = TWO + WITHIN + "(assert (or (and (<= X_0 -1) (<= X_1 0)) (>= X_0 2) (= X_0 3)))"
    found = box(tmp_path, text.encode())
    assert repr(found) == "Box(-4, 4, hull of 3 boxes)"
    assert [(b.low.tolist(), b.high.tolist()) for b in found.branches] == [
        ([-4, -4], [-1, 0]), ([2, -4], [4, 4]), ([3, -4], [3, 4]),
    ]  # fmt: skip
    wide = found.of_dimension(2)
    assert wide.notes == found.notes
    assert len(wide.branches) == 3
    single = box(tmp_path, (TWO + WITHIN).encode())
    assert single.branches == (single,)
    assert single.notes == ()


def test_boxes_whose_union_is_the_hull_are_one():
    """Doubled alternatives (one for each output), and one that holds the others, are no reason to
    speak of a hull.
    """
    for more in ("(<= 0 X_0 1)", "(<= 0 X_0 0.5)"):
        found = read("(= X_1 0)", f"(or (and (<= 0 X_0 1) (<= Y_0 0)) (and {more} (<= Y_1 0)))")
        assert (len(found.boxes), found.notes) == (1, [])


def test_disjunctions_multiply_up_to_a_limit_that_is_said(monkeypatch):
    monkeypatch.setattr(vnnlib, "MAX_CASES", 50)
    either = "(or {})".format(" ".join(f"(= X_{{0}} {k})" for k in range(7)))
    found = read(either.format(0), either.format(1))
    assert len(found.boxes) == 49
    assert found.notes == ["hull of 49 boxes"]
    either = either.replace(" (= X_{0} 6)", " (= X_{0} 6) (= X_{0} 8)")
    found = read(either.format(0), either.format(1))
    assert ends(found) == [(0, 8), (0, 8)]
    assert found.notes == ["alternatives beyond 50 boxes are read as their hull"]
    wide = read("(= X_0 0)", "(or {})".format(" ".join(f"(= X_1 {k})" for k in range(120))))
    assert ends(wide)[1] == (0, 119)
    assert any("beyond 50 boxes" in note for note in wide.notes)


def test_many_alternatives_of_many_inputs_stay_within_the_memory():
    n = 3000
    head = "".join(f"(declare-const X_{k} Real)(assert (<= 0 X_{k} {k + 1}))" for k in range(n))
    found = vnnlib.read(f"{head}(assert (or {' '.join(f'(<= X_{k} 0.5)' for k in range(n))}))")
    assert found.hull.high == [k + 1 for k in range(n)]
    assert found.notes == ["alternatives beyond 10000 boxes are read as their hull"]


@pytest.mark.parametrize("sort", ["Int", "Real"])
def test_integers_are_read_as_the_reals_between(sort):
    found = vnnlib.read(f"(declare-const X_0 {sort})(assert (<= 0 X_0 3))")
    assert ends(found) == [(0, 3)]
    assert found.notes == (
        ["inputs are declared Int, the box holds all reals between"] if sort == "Int" else []
    )


# Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(declare-const X_0 Bool)", "input X_0 is declared Bool; inputs are Real"),
        ("(declare-const X_0 (_ BitVec 8))", "input X_0 is declared (_ BitVec 8)"),
        ("(declare-const X_0 Real)(declare-const X_0 Real)", "X_0 is declared twice"),
        ("(declare-const X_1 Real)(assert (= X_1 0))", "input X_0 is not bounded on both sides: it is not declared, X_1 is"),
        ("(declare-const x0 Real)(assert (= x0 0))", "no input X_0, X_1, ... is declared; there are x0"),
        (TWO + "(assert (<= X_7 0))", "X_7 is not declared; add (declare-const X_7 Real)"),
        (TWO + "(push 1)", "the command (push 1) is not understood"),
        (TWO + "(define-fun X_2 () Real 1)", "the command (define-fun X_2 () Real 1) is not understood"),
        (TWO + WITHIN + "(assert (<= X_0 (/ 1 0)))", "a division by 0"),
        (TWO + WITHIN + "(assert (< 2 1))", "the constraints contradict each other"),
        (TWO + WITHIN + "(assert (or (< X_0 -5) (> X_0 5)))", "the constraints contradict each other"),
        (TWO + WITHIN + "(assert (> X_0 5))", "input X_0 is constrained to the empty interval [5.0, 4.0]"),
        (TWO + "(assert (= X_0 0))(assert (<= (+ X_0 X_1) 1))", "X_1 is not bounded on both sides; passed over was (<= (+"),
        (TWO + "(assert)", "(assert) has 0 parts; assert takes 1"),
        (TWO + '(set-info :source "a', "\" at character"),
        (TWO + "(assert (<= X_0 (*" + " 1e999" * 100 + ")))", "numbers of more than 20000 bits"),
    ],
)  # fmt: skip
def test_refusals(text, said):
    with pytest.raises(UnsupportedModel) as caught:
        vnnlib.read(text)
    assert said in str(caught.value)


def test_quotes_comments_and_what_follows_the_end(tmp_path):
    text = '\ufeff(set-logic QF_LRA) ; Réseau (\n(set-info :source |a (b ; c|)(set-info :note "say ""(""")\r\n'
    text += "(declare-fun |X_0| () Real)"
    text += (
        "(assert (! (<= 0 X_0 1) :named a))(assert (<= 0 X_0 1))(check-sat)(exit)(assert (= X_0 9))"
    )
    found = box(tmp_path, text.encode())
    assert (found.low.tolist(), found.high.tolist(), found.notes) == ([0], [1], ())
    latin = "(declare-const X_0 Real)(assert (= X_0 1)) ; Réseau".encode("latin-1")
    assert box(tmp_path, latin).high.tolist() == [1]


ODD = [
    "[" * 200_000,
    '"' * 200_001,
    "|" * 200_001,
    "(assert " + "X_0[" * 100_000,
    "(a " + "b" * 10**6,
]


@pytest.mark.parametrize("text", ODD, ids=lambda text: text[:8])
def test_odd_text_takes_time_in_proportion(text):
    """A scan that starts again at every character would take hours."""
    with pytest.raises(UnsupportedModel):
        vnnlib.read(text)


# VNN-LIB 2 ------------------------------------------------------------------------------------------------------


def second(shape, *asserted, sort="real", more="(declare-output Y real [1,1])"):
    head = (
        f"(vnnlib-version <2.0>)\n(declare-network f\n(declare-input X {sort} {shape})\n{more}\n)\n"
    )
    return vnnlib.read(head + "".join(f"(assert {form})" for form in asserted))


def test_entries_are_counted_row_by_row():
    asserted = [
        f"(<= {3 * i + j} X[{i}, {j}] {3 * i + j + 0.5})" for i in range(2) for j in range(3)
    ]
    found = second("[2, 3]", *asserted, "(or (<= Y[0,0] 1) (>= Y[0,0] 3))")
    assert found.hull.low == [*range(6)]
    assert found.hull.high == [k + 0.5 for k in range(6)]
    assert found.notes == []
    assert ends(second("[]", "(== X 2)")) == [(2, 2)]
    assert second("[1]", "(or (== X[0] 2) (== X[0] 3))").notes == ["hull of 2 boxes"]
    single = second("[1]", "(== X[0] 2)", sort="float32")
    assert single.notes == ["inputs are declared float32, the box holds all reals between"]


@pytest.mark.parametrize(
    ("shape", "form", "options", "said"),
    [
        ("[1,2]", "(<= 0 X[0,0] 1)", {}, "input X[0,1] is not bounded on both sides"),
        ("[1,2]", "(<= 0 X[1,0] 1)", {}, "X[1,0] is no entry of the input X [1, 2]"),
        ("[1,2]", "(<= 0 X[0] 1)", {}, "X[0] is no entry"),
        ("[1,2]", "(<= 0 X 1)", {}, "X is no entry"),
        ("[1]", "(<= 0 X_0 1)", {}, "X_0 is not declared; entries of the input are X[0], ..."),
        ("[1]", "(<= 0 X[0,] 1)", {}, "no entry"),
        ("[999999999,999999999]", "(<= 0 X[0,0] 1)", {}, "input X[0,1] is not bounded"),
        ("[0]", "(<= 0 Y[0,0] 1)", {}, "input X has shape [0], which holds no number"),
        ("[1]", "(<= 0 X[0] 1)", {"sort": "string"}, "input X is declared string"),
        ("[1]", "(<= 0 X[0] 1)", {"more": "(declare-input Z real [1])"}, "VNN-LIB 2.0 with 2 inputs is not read; write"),
        ("[1]", "(<= 0 X[0] 1)", {"more": "(equal-to g)"}, "VNN-LIB 2.0 with (equal-to g) is not read"),
        ("[1]", "(<= 0 X[0] 1)", {"more": ")(declare-network g"}, "VNN-LIB 2.0 with several networks is not read"),
        ("[1]", "(<= 0 X[0] 1)", {"more": ")(declare-const X_0 Real"}, "are mixed"),
    ],
)  # fmt: skip
def test_what_is_not_read_of_the_second_version(shape, form, options, said):
    with pytest.raises(UnsupportedModel) as caught:
        second(shape, form, **options)
    assert said in str(caught.value)


def test_notes_are_printable(tmp_path):
    found = box(
        tmp_path, b"(declare-const X_0 Real)(assert (<= 0 X_0 1))(assert (\x1b31mif X_0 \x01))"
    )
    assert len(found.notes) == 1
    assert repr(found).isprintable()


# Whole files -------------------------------------------------------------------------------------


def test_bounds_are_rounded_outward_and_disjunctions_give_the_hull(tmp_path):
    found = box(
        tmp_path, GOOD + b"(assert (or (and (>= X_1 0) (<= X_0 0.5)) (>= X_1 -3)))  ; a comment ("
    )
    assert (found.low.tolist(), found.high.tolist()) == ([-0.1, -3.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (b"", "input X_1 is not bounded on both sides"),
        (b"(assert (>= X_1 -1e999))", "input X_1 is not bounded"),
        (b"(assert (>= X_1 3))", "empty interval [3.0, 2.0]"),
        (b"(assert (>= X_\xef\xbc\x91 1))", "input X_1 is not bounded"),
        (b"(assert (>= X_1 \xef\xbc\x91))", "input X_1 is not bounded"),
        (b"(declare-const X_" + b"9" * 5000 + b" Real)(assert (>= X_1 0))", None),
        (b"(" * 101, "nested deeper than 100"),
        (b"(assert", "a bracket is not closed"),
        (b"x\x1b[31m", "stands outside brackets"),
        (b"\xff", "stands outside brackets"),
    ],
)
def test_a_refused_file_is_named(tmp_path, more, said):
    if said is None:
        assert box(tmp_path, GOOD + more).low.tolist() == [-0.1, 0.0]
        return
    with pytest.raises(UnsupportedModel) as caught:
        box(tmp_path, GOOD + more)
    assert said in str(caught.value)
    assert "box.vnnlib" in str(caught.value)
    assert str(caught.value).isprintable()


def test_many_inputs_take_time_in_proportion(tmp_path):
    """Merging bounds used to copy all of them for every line."""
    n = 30_000
    lines = [
        f"(declare-const X_{k} Real)(assert (<= X_{k} {k}))(assert (>= X_{k} -1))" for k in range(n)
    ]
    assert box(tmp_path, "\n".join(lines).encode()).high.tolist() == [*range(n)]


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.vnnlib")
    for place in (tmp_path / "pipe.vnnlib", tmp_path):
        with pytest.raises(UnsupportedModel, match=r"no regular file|is a folder"):
            Box.from_vnnlib(place)
