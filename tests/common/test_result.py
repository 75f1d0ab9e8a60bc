"""What every answer looks like: one line, a table, HTML for notebooks with a picture where one
helps.
"""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

import moduli as mo

NET = mo.Network.mlp([[1.0], [2.0]], [0.0, -1.0], [[1.0, -1.0]], [0.5], activation="relu")
DRAWN = {
    "pieces": lambda: mo.pieces(NET, on=mo.Box(-2, 2)),
    "pruning": lambda: mo.pruning_curve(NET, by="units"),
    "complexity": lambda: mo.complexity(NET, samples=100),
}
PLAIN = {
    "compress": lambda: mo.compress(NET),
    "rank": lambda: mo.rank(NET),
    "equal": lambda: mo.equivalent(NET, NET),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_stands_in_a_notebook(name, monkeypatch):
    answer = DRAWN[name]()
    assert answer._repr_html_().count("data:image/png;base64,") == 1
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "<img" not in answer._repr_html_()
    assert "<table>" in answer._repr_html_()


@pytest.mark.parametrize("name", PLAIN)
def test_an_answer_says_its_sign_and_its_rows(name):
    answer = PLAIN[name]()
    shown = answer._repr_html_()
    assert "<img" not in shown
    assert repr(answer) == f"<{answer.kind} {answer.glyph} {answer.statement}>"
    for label, _ in answer.rows():
        assert f">{label}</th>" in shown


def test_text_is_escaped():
    assert "hidden units" in (shown := mo.compress(NET)._repr_html_())
    assert "2 -&gt; 2" in shown
    assert "2 -> 2" not in shown


def test_domains_and_certificates_are_short():
    assert repr(mo.Box(-1, 1)) == repr(mo.Box([-1.0, -1.0], [1.0, 1.0])) == "Box(-1, 1)"
    assert repr(mo.Box([0.0, 1.0], 2.5)) == "Box([0.0, 1.0], 2.5)"
    assert repr(mo.Box(np.arange(9.0), 9)) == "Box(<9: 0 to 8>, 9)"
    assert repr(mo.Gaussian()) == "Gaussian()"
    assert (
        repr(mo.Gaussian(np.ones(2), np.eye(2))) == "Gaussian(mean=[1.0, 1.0], cov=<2 x 2: 0 to 1>)"
    )
    assert repr(mo.Samples(np.zeros((4, 3)))) == "Samples(4 rows of 3)"
    assert len(repr(mo.compress("zoo:digits-tanh").certificate)) < 120


def test_names_from_files_control_no_terminal():
    from rich.console import Console

    from moduli.common.result import table

    console = Console(record=True, file=io.StringIO(), force_terminal=True)
    console.print(table("a\x1b[31mb", [("x:b:y", "[red]\x1b]0;title\x07\rz"), ("n", "1\n2")]))
    text = console.export_text()
    assert "x:b:y" in text
    assert "[red]?]0;title??z" in text
    assert "a?[31mb" in text
