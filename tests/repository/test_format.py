"""`docs/format.md` names every move, field, activation and operator that the kernel knows, and no others."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import numpy as np

from moduli.kernel.activations import Activation
from moduli.kernel.certificate import PARTS, SCHEMA, Certificate
from moduli.kernel.fields import LONGEST, MAX_BYTES, MAX_DIGITS, MAX_INTEGER
from moduli.kernel.graph import operators
from moduli.kernel.graph.certificate import FIELDS, MOST, GraphCertificate
from moduli.kernel.graph.certificate import SCHEMA as GRAPH_SCHEMA
from moduli.kernel.move import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text()


def section(title: str) -> str:
    """What stands between a heading and the next one of its kind or above."""
    level, start = title.split()[0], PAGE.index(f"\n{title}\n")
    rest = PAGE[start + 1 :]
    end = re.search(rf"\n#{{1,{len(level)}}} ", rest[len(title) :])
    return rest[: len(title) + end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """Cells of the lines of tables, but for their heads."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def names(cell: str) -> list[str]:
    """What stands in backquotes, but for single letters: these are symbols."""
    return [word for word in re.findall(r"`(\w+)", cell) if len(word) > 1]


def test_every_move_of_chains_is_there_with_its_fields():
    found = {
        names(kind)[0]: tuple(names(more))
        for kind, more, *_ in rows(section("### Moves of chains"))
    }
    assert found == KINDS


def test_every_move_of_graphs_is_there_with_its_fields():
    found = {
        names(kind)[0]: tuple(names(more))
        for kind, more, *_ in rows(section("### Moves of graphs"))
    }
    assert found == FIELDS
    assert f"from -{MOST} to {MOST}" in section("### Moves of graphs")


def test_fields_of_certificates():
    empty = Certificate("", "", ()).plain().keys()
    found = {name for first, *_ in rows(section("### Fields")) for name in names(first)}
    assert found == {*empty, *PARTS, "creases"}
    empty = GraphCertificate("", "", (), {}).plain().keys()
    assert {
        name for first, *_ in rows(section("### Fields of schema /2")) for name in names(first)
    } == {*empty}
    assert re.findall(r"`(moduli\.certificate/\d)` \|", PAGE) == [SCHEMA, GRAPH_SCHEMA]


def test_fields_inside():
    """Objects that fields hold: each is a list of names on the page."""
    known = {
        "### On a box": ("low", "high", "tree", "signs", "cases", "layer", "unit", "sign", "given", "leaves"),
        "### Differences by parts": ("upper", "how", "tree", "changes", "layer", "part", "at", "to"),
        "### Within a radius": ("radius", "changes", "bound", "lower", "parts"),
    }  # fmt: skip
    for title, wanted in known.items():
        assert set(wanted) <= set(names(section(title))), title


def test_activations_are_those_of_the_kernel():
    table = {
        cells[0].strip("`"): cells[2:]
        for cells in rows(section("### Activations"))
        if len(cells) == 6
    }
    assert {name.split("(")[0].split("`")[0] for name in table} == set(Activation.KINDS)
    for name, (law, lipschitz, *_) in table.items():
        if "(" in name.split("`")[0]:
            continue
        s = Activation(name)
        assert lipschitz == str(s.lipschitz), name
        assert law == ("none" if s.reflection is None else ", ".join(map(str, s.reflection))), name


def test_operators_are_those_of_the_kernel():
    text = section("### Graphs and their digest")
    known = {
        name: tuple(field.name for field in fields(kind))
        for name, kind in vars(operators).items()
        if isinstance(kind, type)
        and issubclass(kind, operators.Operator)
        and kind is not operators.Operator
    }
    found = {
        name: tuple(re.findall(r"\w+", inside))
        for name, inside in re.findall(r"`([A-Z]\w+)\(([\w, ]*)\)`", text)
    }
    assert found == known


def test_limits():
    assert f"at most 2^{int(np.log2(MAX_BYTES))} bytes" in PAGE
    assert f"at most {MAX_INTEGER} digits" in PAGE
    assert f"at most {MAX_DIGITS} digits" in PAGE
    assert LONGEST == 10**MAX_DIGITS
