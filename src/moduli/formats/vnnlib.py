"""The boxes that a VNN-LIB file allows its inputs: a formula goes in, boxes that cover all its
solutions come out.

A formula is read as a list of *cases*, each a conjunction of bounds on single inputs; every
solution lies in a case. A comparison of sums is a bound where one input and constants are all that
is left of it. Whatever says nothing about inputs (outputs, logical constants) is passed over;
whatever does, and is no bound, is passed over *and noted*: cases may be larger than the file means,
never smaller. Numbers are rationals, rounded outward to float64 at the end.

Read are VNN-LIB 1 (SMT-LIB with `declare-const X_0 Real`) and of VNN-LIB 2.0 the queries about one
network with one input (`declare-input X real [1,5]`, entries `X[0,3]`, flattened row-major).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from moduli.common.files import content, one_line
from moduli.kernel.box import Box as Box
from moduli.kernel.errors import UnsupportedModel, printable

MAX_TEXT = 64 * 2**20
MAX_DEPTH = 100
MAX_CASES = 10_000
MAX_BOUNDS = 2**19  # kept for all cases together
MAX_DIGITS = 400  # of a number as it is written
MAX_BITS = 20_000  # of a number that arithmetic makes
AS_ONE = "write the bounds of one input as VNN-LIB 1: (declare-const X_0 Real) (assert (<= X_0 1))"
INPUT = re.compile(r"X_[0-9]{1,9}")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
TOKEN = re.compile(
    r"""
    ;[^\n]* |                        # a comment
    "(?:[^"]|"")*" |                 # text
    \|[^|]*\| |                      # a quoted name
    [()] |
    \[[^\[\]()]{0,200}\] |           # a shape of VNN-LIB 2
    [^\s()\[\];"|]+(?:\[[^\[\]()]{0,200}\])? |  # a name, a number, or an entry X[0,1]
    \S
    """,
    re.VERBOSE,
)
SILENT = {  # commands that constrain nothing
    "set-logic", "set-info", "set-option", "get-info", "get-option", "check-sat", "get-model",
    "get-value", "echo", "get-assignment", "get-unsat-core", "vnnlib-version",
}  # fmt: skip
REALS = {"real", "Real"}
SUBSETS = {"Int"} | {
    f"{kind}{bits}" for kind in ("float", "int", "uint") for bits in (8, 16, 32, 64)
}
ORDERS = {"<=": False, "<": False, ">=": True, ">": True}  # whether the larger one stands first
ENTRY = re.compile(r"\[([0-9]{1,9}(?:,[0-9]{1,9})*)?\]")
OPPOSITE = {
    "<=": ">",
    "<": ">=",
    ">=": "<",
    ">": "<=",
    "=": "distinct",
    "==": "distinct",
    "distinct": "=",
    "!=": "=",
}

Form = Any  # a name, or a list of forms
Bounds = dict[str, tuple[float, float]]
Cases = list[Bounds]
WHOLE = (-math.inf, math.inf)
NO_BOUND: Bounds = {}  # known by identity: of a comparison that is no bound of one input


class Ends(NamedTuple):
    """A box: one number for each input."""

    low: list[float]
    high: list[float]


class Query(NamedTuple):
    """What a file allows its inputs.

    Attributes:
        hull: the smallest box that holds all boxes.
        boxes: whose union holds all inputs that the file allows; the hull alone where they were too
            many to keep.
        notes: in which ways the hull is larger than what the file allows.
    """

    hull: Ends
    boxes: list[Ends]
    notes: list[str]


def read(text: str) -> Query:
    """The boxes of a file.

    Raises:
        UnsupportedModel: no formula, no inputs, an input that is not bounded, no solutions, or a
            command not understood.

    >>> text = "(declare-const X_0 Real) (assert (or (and (<= 0 X_0) (<= X_0 1)) (= X_0 (- (/ 9 2)))))"
    >>> read(text).hull, len(read(text).boxes), read(text).notes
    (Ends(low=[-4.5], high=[1.0]), 2, ['hull of 2 boxes'])
    """
    reader = _Reader()
    parts = []
    for form in _forms(text):
        head = form[0] if form and isinstance(form[0], str) else None
        if head == "exit":
            break
        if head == "assert":
            parts.append(_only(form, 1)[0])
        else:
            reader.declare(form)
    size = reader.size()
    return _query(reader.all_of(parts), size, reader)


# Reading text ---------------------------------------------------------------------------------------------------


def _forms(text: str) -> Iterator[list[Form]]:
    """The outermost brackets, as lists of names and lists."""
    stack: list[list[Form]] = []
    for found in TOKEN.finditer(text):
        token = found[0]
        if token.startswith(";"):
            continue
        if token in ('"', "|", "[", "]"):
            raise UnsupportedModel(f"{token} at character {found.start()} has no counterpart")
        if token == "(":
            stack.append([])
            if len(stack) > MAX_DEPTH:
                raise UnsupportedModel(f"brackets are nested deeper than {MAX_DEPTH}")
        elif not stack:
            raise UnsupportedModel(f"{token[:40]!r} stands outside brackets")
        elif token == ")":
            done = stack.pop()
            if stack:
                stack[-1].append(done)
            else:
                yield done
        elif token.startswith("|") and len(token) > 1:
            stack[-1].append(token[1:-1])
        else:
            if "[" in token:
                token = "".join(token.split())
            stack[-1].append(token)
    if stack:
        raise UnsupportedModel("a bracket is not closed")


def _only(form: list[Form], count: int) -> list[Form]:
    if len(form) != count + 1:
        raise UnsupportedModel(
            f"{_written(form)} has {len(form) - 1} parts; {form[0]} takes {count}"
        )
    return form[1:]


def _written(form: Form, most: int = 60) -> str:
    """A formula on one short line."""
    words: list[str] = []
    length, stack = 0, [form]
    while stack and length <= most:
        part = stack.pop()
        if isinstance(part, list):
            stack += [")", *reversed(part), "("]
            continue
        glued = part == ")" or not words or words[-1].endswith("(")
        words.append(part[:most] if glued else f" {part[:most]}")
        length += len(words[-1])
    line = "".join(words)
    return line if not stack and length <= most else f"{line[: most - 4]} ..."


# Names and formulas ---------------------------------------------------------------------------------------------


@dataclass
class _Reader:
    """What was declared, and what had to be passed over on the way.

    Inputs are called X_0, X_1, ... within, as VNN-LIB 1 does; the entries of VNN-LIB 2 are counted
    row by row.
    """

    sorts: dict[str, str] = field(default_factory=dict)  # of VNN-LIB 1
    network: str | None = None  # of VNN-LIB 2, as all below
    input: str = ""
    sort: str = ""
    shape: tuple[int, ...] = ()
    passed: list[str] = field(default_factory=list)
    merged: bool = False

    def declare(self, form: list[Form]) -> None:
        head = form[0] if form and isinstance(form[0], str) else None
        if head in SILENT:
            return
        if head == "declare-const" and len(form) == 3:
            self._constant(form[1], form[2])
        elif head == "declare-fun" and len(form) == 4 and form[2] == []:
            self._constant(form[1], form[3])
        elif head == "declare-network":
            self._network(form)
        else:
            raise UnsupportedModel(
                f"the command {_written(form)} is not understood; a box is read from declarations and (assert ...) alone"
            )

    def _constant(self, name: Form, sort: Form) -> None:
        if not isinstance(name, str):
            raise UnsupportedModel(f"{_written(name)} is declared, which is no name")
        if INPUT.fullmatch(name) and not (isinstance(sort, str) and sort in REALS | SUBSETS):
            raise UnsupportedModel(f"input {name} is declared {_written(sort)}; inputs are Real")
        if name in self.sorts:
            raise UnsupportedModel(f"{name[:40]} is declared twice")
        self.sorts[name] = sort if isinstance(sort, str) else ""

    def _network(self, form: list[Form]) -> None:
        """One network with one input."""
        if self.network is not None:
            raise UnsupportedModel(f"VNN-LIB 2.0 with several networks is not read; {AS_ONE}")
        if len(form) < 2 or not isinstance(form[1], str):
            raise UnsupportedModel(f"{_written(form)} names no network")
        self.network = form[1]
        found = [
            part
            for part in form[2:]
            if isinstance(part, list) and part and part[0] == "declare-input"
        ]
        strange = [part for part in form[2:] if part not in found and not _is_output(part)]
        if strange or len(found) != 1:
            what = _written(strange[0]) if strange else f"{len(found)} inputs"
            raise UnsupportedModel(f"VNN-LIB 2.0 with {what} is not read; {AS_ONE}")
        name, sort, shape = _only(found[0], 3)
        if not (isinstance(name, str) and isinstance(shape, str) and ENTRY.fullmatch(shape)):
            raise UnsupportedModel(
                f"{_written(found[0])} is no input; write (declare-input X real [1,5])"
            )
        if not (isinstance(sort, str) and sort in REALS | SUBSETS):
            raise UnsupportedModel(
                f"input {name[:40]} is declared {_written(sort)}; inputs are real"
            )
        if not math.prod(_numbers(shape)):
            raise UnsupportedModel(f"input {name[:40]} has shape {shape}, which holds no number")
        self.input, self.sort, self.shape = name, sort, _numbers(shape)

    def size(self) -> int:
        """The number of inputs."""
        declared = {name for name in self.sorts if INPUT.fullmatch(name)}
        if self.network is not None:
            if declared:
                raise UnsupportedModel(
                    "inputs X_0, X_1, ... and a declared network are mixed; keep one of them"
                )
            return math.prod(self.shape)
        if not declared:
            others = ", ".join(name[:20] for name in list(self.sorts)[:4])
            raise UnsupportedModel(
                f"no input X_0, X_1, ... is declared{f'; there are {others}' if others else ''}"
            )
        for k in range(len(declared)):
            if f"X_{k}" not in declared:
                raise UnsupportedModel(
                    f"input X_{k} is not bounded on both sides: it is not declared, {min(declared)} is"
                )
        return len(declared)

    def name_of(self, token: str) -> str | None:
        """X_k for the input number k, None for what is no input."""
        if self.network is None:
            if INPUT.fullmatch(token) and token not in self.sorts:
                raise UnsupportedModel(f"{token} is not declared; add (declare-const {token} Real)")
            return token if INPUT.fullmatch(token) else None
        if INPUT.fullmatch(token):
            raise UnsupportedModel(
                f"{token} is not declared; entries of the input are {self.spelled(0)}, ..."
            )
        base, _, index = token.partition("[")
        if base != self.input:
            return None
        at = _numbers(index)
        inside = len(at) == len(self.shape) and all(
            k < d for k, d in zip(at, self.shape, strict=True)
        )
        if not inside or not ENTRY.fullmatch(f"[{index}" if index else "[]"):
            raise UnsupportedModel(
                f"{token[:40]} is no entry of the input {self.input} {list(self.shape)}"
            )
        flat = 0
        for k, d in zip(at, self.shape, strict=True):
            flat = flat * d + k
        return f"X_{flat}"

    def spelled(self, k: int) -> str:
        """The input number k as the file calls it."""
        if self.network is None:
            return f"X_{k}"
        at: list[str] = []
        for d in reversed(self.shape):
            k, last = divmod(k, d)
            at.insert(0, str(last))
        return f"{self.input}[{','.join(at)}]" if at else self.input

    def mentions(self, form: Form) -> bool:
        """Whether an input occurs in it."""
        stack = [form]
        while stack:
            part = stack.pop()
            if isinstance(part, list):
                stack += part
            elif self.name_of(part) is not None:
                return True
        return False

    def passed_over(self, form: Form, holds: bool) -> Cases:
        """A constraint that is no bound allows everything, and that is noted where it concerns
        inputs.
        """
        if self.mentions(form):
            said = form if holds else ["not", form]
            self.passed.append(_written(said))
        return [{}]

    def notes(self, boxes: int) -> list[str]:
        """In which ways the hull is larger than what the file allows."""
        notes = [f"hull of {boxes} boxes"] if boxes > 1 else []
        if self.merged:
            notes.append(f"alternatives beyond {MAX_CASES} boxes are read as their hull")
        passed = list(dict.fromkeys(self.passed))
        if passed:
            several = f"{len(passed)} constraints" if len(passed) > 1 else "a constraint"
            notes.append(f"{several} on inputs passed over, no bound of one input: {passed[0]}")
        sorts = (
            {self.sort}
            if self.network is not None
            else {s for n, s in self.sorts.items() if INPUT.fullmatch(n)}
        )
        subsets = sorted(sorts & SUBSETS)
        if subsets:
            notes.append(
                f"inputs are declared {', '.join(subsets)}, the box holds all reals between"
            )
        return notes

    # Cases of formulas

    def cases(self, form: Form, holds: bool = True) -> Cases:
        """Cases that cover the solutions of a formula, or of its negation; none where it has no
        solution.
        """
        if not isinstance(form, list):
            if form in ("true", "false"):
                return [{}] if (form == "true") == holds else []
            return [{}]
        if not form or not isinstance(form[0], str):
            return self.passed_over(form, holds)
        head, *rest = form
        if head == "!" and rest:  # a formula with a name or a hint
            return self.cases(rest[0], holds)
        if head == "not":
            return self.cases(_only(form, 1)[0], not holds)
        if head == "=>" and len(rest) >= 2:
            premises, conclusion = rest[:-1], rest[-1]
            denied = [["not", premise] for premise in premises]
            return self.cases(["or", *denied, conclusion], holds)
        if head in ("and", "or"):
            return (
                self.all_of(rest, holds) if (head == "and") == holds else self.any_of(rest, holds)
            )
        if head in OPPOSITE and len(rest) >= 2:
            return self.comparison(head, rest, holds, form)
        return self.passed_over(form, holds)

    def all_of(self, forms: Sequence[Form], holds: bool = True) -> Cases:
        common: Bounds = {}
        choices: list[Cases] = []
        for form in forms:
            found = self.cases(form, holds)
            if not found:
                return []
            if len(found) == 1:
                _narrow(common, found[0])
            else:
                choices.append(found)
        cases: Cases = [{}]
        for found in choices:
            cases = self._product(cases, found)
        return cases if not common else self._product(cases, [common])

    def any_of(self, forms: Sequence[Form], holds: bool = True) -> Cases:
        cases: Cases = []
        for form in forms:
            cases += [case for case in self.cases(form, holds) if _possible(case)]
            if len(cases) > MAX_CASES:
                cases = self.merge(cases)
        # A case without bounds allows every input: the others add nothing.
        return [{}] if any(not case for case in cases) else cases

    def _product(self, a: Cases, b: Cases) -> Cases:
        """Every case of one with every case of the other, or of their hulls where these are too
        many.
        """
        size = len(b) * sum(map(len, a)) + len(a) * sum(map(len, b))
        if len(a) > 1 and (len(a) * len(b) > MAX_CASES or size > MAX_BOUNDS):
            a = self.merge(a)
            b = self.merge(b) if len(b) > 1 else b
        cases = []
        for first in a:
            for second in b:
                both = dict(first)
                _narrow(both, second)
                if (
                    _possible(both) or len(a) * len(b) == 1
                ):  # what is impossible as a whole is said with its name
                    cases.append(both)
        return cases

    def merge(self, cases: Cases) -> Cases:
        self.merged = True
        return [_hull(cases)]

    def comparison(self, head: str, rest: Sequence[Form], holds: bool, form: Form) -> Cases:
        """A chain of comparisons: all neighbours compare; denied, one pair does not."""
        if len(rest) > 2 and head in ("distinct", "!="):
            return self.passed_over(form, holds)
        relation = head if holds else OPPOSITE[head]
        pairs = [self._pair(relation, a, b) for a, b in pairwise(rest)]
        if any(pair is NO_BOUND for pair in pairs):
            self.passed_over(form, holds)
        if holds or len(pairs) == 1:
            bounds: Bounds = {}
            for pair in pairs:
                if pair is None:
                    return []
                _narrow(bounds, pair)
            return [bounds]
        cases = [pair for pair in pairs if pair is not None]
        return [{}] if any(not case for case in cases) else cases

    def _pair(self, head: str, a: Form, b: Form) -> Bounds | None:
        """The bound that a comparison of two terms is; `NO_BOUND` where it is none, None where it
        never holds.
        """
        left, right = self.linear(a), self.linear(b)
        if left is None or right is None:
            return NO_BOUND
        rest = dict(left)
        for name, factor in right.items():
            rest[name] = _small(rest.get(name, Fraction(0)) - factor)
        constant = rest.pop("", Fraction(0))  # the comparison is now: rest + constant  head  0
        named = {name: factor for name, factor in rest.items() if factor}
        if not named:
            return {} if _true(head, constant) else None
        name, factor = next(iter(named.items()))
        if len(named) > 1 or not INPUT.fullmatch(name) or head in ("distinct", "!="):
            return NO_BOUND
        end = -constant / factor
        if head in ("=", "=="):
            return {name: (_outward(end, up=False), _outward(end, up=True))}
        larger_first = ORDERS[head]
        below = larger_first == (factor > 0)  # the end bounds the input from below
        return {
            name: (_outward(end, up=False), math.inf)
            if below
            else (-math.inf, _outward(end, up=True))
        }

    # Terms

    def linear(self, term: Form) -> dict[str, Fraction] | None:
        """A term as factors of names, the constant under ``""``; None where it is no such sum."""
        if isinstance(term, str):
            number = _number(term)
            if number is not None:
                return {"": number}
            name = self.name_of(term) or term
            return {name: Fraction(1)} if _is_name(name) else None
        if len(term) < 2 or not isinstance(term[0], str):
            return None
        head, *rest = term
        if head not in ("+", "-", "*", "/", "to_real"):
            return None
        parts = [self.linear(part) for part in rest]
        terms = [part for part in parts if part is not None]
        if len(terms) < len(parts):
            return None
        if head in ("+", "-"):
            return _sum(terms, negative=head == "-")
        if head == "to_real":
            return terms[0] if len(terms) == 1 else None
        return _times(terms) if head == "*" else _quotient(terms)


def _is_output(part: Form) -> bool:
    """Outputs and hidden values are passed over, whatever they are."""
    return isinstance(part, list) and bool(part) and part[0] in ("declare-output", "declare-hidden")


def _numbers(index: str) -> tuple[int, ...]:
    """The numbers in a shape or an index."""
    return tuple(int(d) for d in re.findall("[0-9]{1,9}", index))


def _true(head: str, value: Fraction) -> bool:
    """Whether value  head  0."""
    if head in ("=", "==", "distinct", "!="):
        return (value == 0) == (head in ("=", "=="))
    if value == 0:
        return head in ("<=", ">=")
    return ORDERS[head] == (value > 0)


def _is_name(token: str) -> bool:
    return not token[0].isdigit() and token[0] not in '+-."#'


def _number(token: str) -> Fraction | None:
    if len(token) > MAX_DIGITS or not NUMBER.fullmatch(token):
        return None
    return Fraction(token)


def _small(number: Fraction) -> Fraction:
    """Numbers that arithmetic makes do not grow without bound."""
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
        raise UnsupportedModel(
            f"arithmetic of constants makes numbers of more than {MAX_BITS} bits; write them out"
        )
    return number


def _sum(terms: list[dict[str, Fraction]], *, negative: bool) -> dict[str, Fraction]:
    """The sum, or the first less the others; of one term its negative."""
    total: dict[str, Fraction] = {}
    for k, part in enumerate(terms):
        sign = -1 if negative and (k or len(terms) == 1) else 1
        for name, factor in part.items():
            total[name] = _small(total.get(name, Fraction(0)) + sign * factor)
    return total


def _times(terms: list[dict[str, Fraction]]) -> dict[str, Fraction] | None:
    total = terms[0]
    for part in terms[1:]:
        first, second = _constant(total), _constant(part)
        if first is None and second is None:
            return None
        scale, other = (first, part) if first is not None else (second, total)
        assert scale is not None
        total = {name: _small(scale * factor) for name, factor in other.items()}
    return total


def _quotient(terms: list[dict[str, Fraction]]) -> dict[str, Fraction] | None:
    total = terms[0]
    for part in terms[1:]:
        divisor = _constant(part)
        if divisor is None:
            return None
        if divisor == 0:
            raise UnsupportedModel("a division by 0; write the number")
        total = {name: _small(factor / divisor) for name, factor in total.items()}
    return total


def _constant(term: dict[str, Fraction]) -> Fraction | None:
    """Its value where no name is in it."""
    return (
        term.get("", Fraction(0))
        if not any(factor and name for name, factor in term.items())
        else None
    )


# Boxes ----------------------------------------------------------------------------------------------------------


def _narrow(bounds: Bounds, more: Bounds) -> None:
    for name, (low, high) in more.items():
        old = bounds.get(name, WHOLE)
        bounds[name] = (max(low, old[0]), min(high, old[1]))


def _possible(case: Bounds) -> bool:
    return all(low <= high for low, high in case.values())


def _hull(cases: Cases) -> Bounds:
    """Bounds that hold in every case."""
    hull = {}
    for name in cases[0]:
        ends = [case[name] for case in cases if name in case]
        if len(ends) == len(cases):  # a case without bounds of this input allows all of it
            hull[name] = _span(ends)
    return hull


def _span(ends: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """The least interval that contains all of these."""
    return min(low for low, _ in ends), max(high for _, high in ends)


def _outward(number: Fraction, *, up: bool) -> float:
    try:
        nearest = float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
    if Fraction(nearest) == number:
        return nearest
    if up:
        return nearest if Fraction(nearest) > number else math.nextafter(nearest, math.inf)
    return nearest if Fraction(nearest) < number else math.nextafter(nearest, -math.inf)


def _query(cases: Cases, size: int, reader: _Reader) -> Query:
    """Boxes with an end for every input; those that are empty are left out, and doubled ones are
    one.
    """
    if not cases:
        raise UnsupportedModel("the constraints contradict each other: no input is allowed")
    if len(cases) > 1 and sum(map(len, cases)) > MAX_BOUNDS:
        cases = reader.merge(cases)
    boxes: dict[tuple[tuple[float, float], ...], None] = {}
    for case in cases:
        boxes[_box(case, size, reader)] = None
    hull = tuple(map(_span, zip(*boxes, strict=True)))
    # Where one box holds all others, their union is the hull itself.
    kept = [hull] if hull in boxes else list(boxes)
    return Query(_ends(hull), [_ends(box) for box in kept], reader.notes(len(kept)))


def _box(case: Bounds, size: int, reader: _Reader) -> tuple[tuple[float, float], ...]:
    ends = []
    for k in range(
        size
    ):  # ends at the first input without bounds: a size that is only declared takes no memory
        low, high = case.get(f"X_{k}", WHOLE)
        if math.isinf(low) or math.isinf(high):
            because = f"; passed over was {reader.passed[0]}" if reader.passed else ""
            raise UnsupportedModel(
                f"input {reader.spelled(k)} is not bounded on both sides{because}"
            )
        if low > high:
            raise UnsupportedModel(
                f"input {reader.spelled(k)} is constrained to the empty interval [{low}, {high}]"
            )
        ends.append((low, high))
    return tuple(ends)


def _ends(box: tuple[tuple[float, float], ...]) -> Ends:
    return Ends([low for low, _ in box], [high for _, high in box])


def from_vnnlib(path: str | Path) -> Box:
    """The hull of what a VNN-LIB file allows its inputs, rounded outward to float64.

    Constraints on outputs are passed over. A disjunction gives the hull of its alternatives, which
    stand in `branches`; `notes` says of how many, and which constraints on inputs are no bounds of
    single inputs and were passed over. What is proved on the box is true of all inputs that the
    file allows.

    Args:
        path: VNN-LIB 1, or of VNN-LIB 2.0 queries about one network with one input; also packed
            (``.vnnlib.gz``).

    Raises:
        UnsupportedModel: no VNN-LIB file, or an input that is not bounded on both sides.
        OSError: the file cannot be opened.

    >>> import pathlib, tempfile
    >>> text = "(declare-const X_0 Real) (assert (or (and (>= X_0 0) (<= X_0 1)) (and (>= X_0 2) (<= X_0 3))))"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "two.vnnlib")
    ...     _ = file.write_text(text)
    ...     box = Box.from_vnnlib(file)
    >>> box, box.branches
    (Box(0, 3, hull of 2 boxes), (Box(0, 1), Box(2, 3)))
    """
    data = content(path, MAX_TEXT)
    with one_line(str(path)):
        found = read(data.decode("utf-8-sig", errors="replace"))
        branches = tuple(Box(*ends) for ends in found.boxes) if len(found.boxes) > 1 else ()
        return Box(*found.hull, hull_of=branches, notes=tuple(map(printable, found.notes)))


Box.from_vnnlib = staticmethod(from_vnnlib)
