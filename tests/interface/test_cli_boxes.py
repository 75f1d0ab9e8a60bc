"""Boxes on the command line: their spellings, the same in every command, and what is said of them."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from click.testing import CliRunner

import moduli as mo
from moduli.interface import cli

HULL = "(declare-const X_0 Real)(declare-const X_1 Real)(assert (or (<= 0 X_0 1) (<= 2 X_0 3)))(assert (<= 0 X_1 3))"
NET = mo.Network.mlp(
    [[1.0, 0.5], [-1.0, 1.0]], [0.5, 0.25], [[1.0, -1.0]], [0.0], activation="relu"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A network, and boxes in files."""
    monkeypatch.chdir(tmp_path)
    mo.save(NET, "net.npz")
    (tmp_path / "two.vnnlib").write_text(HULL)
    (tmp_path / "TWO.VNNLIB.GZ").write_bytes(gzip.compress(HULL.encode()))
    np.savez("box.npz", low=[-1, -2], high=[1, 2])
    (tmp_path / "BOX.NPZ.gz").write_bytes(gzip.compress((tmp_path / "box.npz").read_bytes()))
    np.savez("rows.npz", x=np.ones((3, 2)))
    return tmp_path


def said(*args):
    done = CliRunner().invoke(cli.cli, list(args))
    return done.exit_code, done.output, done.exception


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("box:-1,1", [-1, -1], [1, 1]), ("box:-1;1", [-1, -1], [1, 1]), ("box:-1,-2;1,2", [-1, -2], [1, 2]),
        ("box:0;1,2", [0, 0], [1, 2]), ("box:-1,-2;2", [-1, -2], [2, 2]), ("box: -1, -2e-1 ; 1, .5", [-1, -0.2], [1, 0.5]),
        ("box:box.npz", [-1, -2], [1, 2]), ("box:BOX.NPZ.gz", [-1, -2], [1, 2]), ("box:two.vnnlib", [0, 0], [3, 3]),
        ("box:TWO.VNNLIB.GZ", [0, 0], [3, 3]),
    ],
)  # fmt: skip
def test_spellings_of_boxes(folder, text, low, high):
    box = cli._domain(text).of_dimension(2)
    assert (box.low.tolist(), box.high.tolist()) == (low, high)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("box:", "write box:LO,HI for all inputs alike"), ("box:1", "write box:LO,HI"), ("box:1,2,3", "write box:LO,HI"),
        ("box:1,2,3,4", "'box:L1,L2,...;H1,H2,...' for each its own (in quotes)"), ("box:[-1,1]", "write box:LO,HI"),
        ("box:-1,-2;1,2;3,4", "write box:LO,HI"), ("box:-1,-2;1,2,3", "write box:LO,HI"), ("box:a.txt", "box:FILE.npz"),
        ("box:nan,1", "write box:LO,HI"), ("box:-inf,inf", "write box:LO,HI"), ("box:1,2;", "write box:LO,HI"),
        ("box:2,1", "2 exceeds 1; write box:1,2"), ("box:0,2;1,1", "low 2.0 exceeds high 1.0 at input 1"),
        ("sphere", "write all, box:LO,HI, 'box:L1,L2,...;H1,H2,...', box:FILE.vnnlib, box:FILE.npz, gaussian, FILE.npz"),
        ("box.vnnlib", "write all, box:LO,HI"),
    ],
)  # fmt: skip
def test_wrong_spellings_say_the_right_ones(folder, text, message):
    code, out, error = said("rank", "net.npz", "--on", text)
    assert code != 0
    assert out == ""
    assert type(error) is ValueError
    assert message in str(error)
    assert f"--on {text}" in str(error)


def test_files_that_are_no_box(folder):
    for text, words in (
        ("box:rows.npz", "holds x; two arrays"),
        ("box:none.npz", "none.npz"),
        ("box:net.npz", "holds W1"),
    ):
        _, out, error = said("rank", "net.npz", "--on", text)
        assert out == ""
        assert isinstance(error, (mo.UnsupportedModel, FileNotFoundError))
        assert words in str(error)


COMMANDS = {
    "compress": ("compress", "net.npz", "-o", "out.npz"),
    "rank": ("rank", "net.npz"),
    "equal": ("equal", "net.npz", "net.npz"),
    "distance": ("distance", "net.npz", "net.npz"),
    "rounding": ("rounding", "net.npz", "--budget", "40"),
    "identify": ("identify", "net.npz"),
    "plot": ("plot", "net.npz", "-o", "out.svg"),
    "report": ("report", "net.npz", "-o", "out.html", "--budget", "20"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_a_box_by_input_and_says_what_a_hull_is(folder, command):
    if command in ("plot", "report"):
        pytest.importorskip("matplotlib")
    for on, domain in (
        ("box:-1,-2;1,2", None),
        ("box:box.npz", None),
        ("box:two.vnnlib", "hull of 2 boxes"),
    ):
        code, out, error = said(*COMMANDS[command], "--on", on, "--json")
        assert code in (0, 1, 3), error
        assert json.loads(out).get("domain") == domain
    _, out, _ = said(*COMMANDS[command], "--on", "box:two.vnnlib")
    assert "hull of 2 boxes" in out


def test_check_takes_a_box_by_input(folder):
    small = mo.compress(NET, on=mo.Box([0, 0], [3, 4]))
    mo.save(small.network, "small.npz")
    small.save("small.cert.json")
    for on, domain in (("box:0,1;3,4", None), ("box:two.vnnlib", "hull of 2 boxes")):
        code, out, error = said(
            "check", "small.cert.json", "small.npz", "net.npz", "--on", on, "--json"
        )
        assert code == 0, error
        assert json.loads(out).get("domain") == domain
    assert (
        said("check", "small.cert.json", "small.npz", "net.npz", "--on", "box:0,1;3,4.5", "--json")[
            0
        ]
        == 1
    )


def test_commands_of_a_report_can_be_typed_again(folder):
    pytest.importorskip("matplotlib")
    _, out, _ = said(
        "report", "net.npz", "-o", "out.html", "--budget", "20", "--on", "box:-1,-2;1,2", "--json"
    )
    typed = [line for section in json.loads(out)["sections"] for line in section["commands"]]
    assert any("--on 'box:-1,-2;1,2'" in line for line in typed)
    page = mo.report("net.npz", on=mo.Box([-1, -0.1], [1, 2]), budget=20)
    assert any(
        "--on 'box:-1.0,-0.1;1.0,2.0'" in line
        for section in page.sections
        for line in section.commands
    )
