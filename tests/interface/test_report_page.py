"""The report: one file, complete without network or script, well-formed, and made whatever fails."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import warnings
from itertools import pairwise

import numpy as np
import pytest
from page_outline import Outline, require_whole

import moduli as mo
from moduli import api
from moduli.interface import cli, html, report_page
from moduli.interface.report_page import Refusal, report


def planted() -> mo.Network:
    """Six tanh units: two dropped or constant, two twins."""
    rng = np.random.default_rng(0)
    w, b, v = rng.integers(-8, 8, (6, 2)) / 4.0, rng.integers(-8, 8, 6) / 4.0, np.ones((1, 6))
    w[:4], w[4], v[0, 5] = [[1.0, 0.0], [1.0, 0.0], [0.5, 1.0], [-1.0, 2.0]], 0.0, 0.0
    b[1] = b[0]
    return mo.Network.mlp(w, b, v, [0.0])


def dense(*widths: int, activation: str = "relu", seed: int = 0) -> mo.Network:
    rng = np.random.default_rng(seed)
    parts = [
        part for n, m in pairwise(widths) for part in (rng.normal(size=(m, n)), rng.normal(size=m))
    ]
    return mo.Network.mlp(*parts, activation=activation)


NETS = {
    "planted": (planted(), None), "shallow relu": (dense(2, 5, 1), mo.Box(-1, 1)),
    "line": (dense(1, 4, 1), mo.Box(-2, 2)), "deep": (dense(4, 5, 4, 2), mo.Box(-1, 1)),
    "gelu": (dense(3, 4, 4, 1, activation="gelu"), mo.Gaussian()),
    "affine": (mo.Network.mlp([[1.0, 2.0]], [0.5]), mo.Box(-1, 1)),
    "one unit": (dense(2, 1, 1), None),
    "constant": (mo.Network.mlp(np.zeros((2, 2)), [1.0, 2.0], [[1.0, 1.0]], [0.0]), None),
    "samples": (dense(3, 6, 2), mo.Samples(np.random.default_rng(0).normal(size=(60, 3)))),
}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> dict[str, report_page.Report]:
    return {name: report(net, on=on, budget=200) for name, (net, on) in NETS.items()}


@pytest.mark.parametrize("name", NETS)
def test_the_page_is_well_formed_and_asks_nothing_of_a_network(made, name):
    require_whole(made[name].html)


@pytest.mark.parametrize("name", NETS)
def test_every_question_has_an_answer_or_a_reason_in_one_line(made, name):
    sections = made[name].sections
    assert [s.name for s in sections] == [
        "network", "units", "removed", "identity", "symmetry", "average", "pruning", "pieces"
    ]  # fmt: skip
    assert all(s.line and "\n" not in s.line and len(s.line) < 250 for s in sections)
    assert all("Error" not in s.line and "No picture" not in s.body for s in sections)


@pytest.mark.parametrize("name", NETS)
def test_commands_are_commands(made, name):
    for section in made[name].sections:
        for line in section.commands:
            if line.startswith("moduli "):
                _, command, *args = shlex.split(line, comments=True)
                cli.cli.commands[command].make_context(command, args)


def test_the_data_are_json_and_the_page_is_deterministic(made):
    again = report(*NETS["planted"][:1], budget=200)
    assert again.html == made["planted"].html
    data = json.loads(json.dumps(made["planted"].to_json()))
    assert data["schema"] == "moduli.report/1"
    assert data["sections"][1]["answers"]["rank"]["upper"] == 3


def test_the_answers_are_those_of_the_questions(made):
    net = NETS["planted"][0]
    text = Outline(made["planted"].html).text
    small = mo.compress(net)
    assert f"{small.network.units} of 6 hidden units on all inputs, the fewest possible" in text
    found = mo.error_curve(small.network, on=mo.Gaussian(), units=[1])
    assert f"{100 * found.students[0].unexplained:.2g} % of the variance lost" in text
    pieces = mo.pieces(NETS["shallow relu"][0], on=mo.Box(-1, 1))
    assert pieces.statement in Outline(made["shallow relu"].html).text
    assert (
        mo.identifiable(NETS["shallow relu"][0], on=mo.Box(-1, 1)).statement
        in Outline(made["shallow relu"].html).text
    )


def test_bars_account_for_every_unit():
    small = mo.compress(planted())
    (bar,) = report_page._shares(small)
    assert bar.counts["kept"] == small.network.units == 3
    assert {k: n for k, n in bar.counts.items() if k in small.removed} == {
        k: n for k, n in small.removed.items() if n
    }
    assert sum(bar.counts.values()) == 6


def test_what_fails_says_so_and_the_page_is_made(monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("no\nluck <b>")

    for name in ("pruning_curve", "error_curve", "symmetries", "rank"):
        monkeypatch.setattr(api, name, broken)
    made = report(planted())
    assert made.sections[6].line == "RuntimeError: no luck <b>"
    assert made.html.count("RuntimeError: no luck &lt;b&gt;") >= 4
    Outline(made.html)


def test_a_box_is_asked():
    made = report(planted(), on=mo.Box(-1, 1))
    assert "Units of each hidden layer, on box:-1,1." in made.html
    region = mo.compress(planted(), on=mo.Box(-1, 1), budget=2_000)
    lines = {section.name: section.line for section in made.sections}
    assert f"{region.network.units} of 6 hidden units on box:-1,1" in lines["units"]
    assert lines["units"].index("on box:-1,1") < lines["units"].index("on all inputs")
    assert lines["removed"].index("on box:-1,1") < lines["removed"].index("on all inputs")
    for name in ("average", "pruning"):
        assert "uniform draws from the box" in lines[name]
    assert "asked on box:-1,1" in made.html
    asked = report_page.ChainQuestions(planted(), "m", "m", None, "all", 100, 0)
    assert report_page._on_box(asked)[1:3] == ("", "")


def test_large_networks_say_what_is_left_out(monkeypatch):
    monkeypatch.setattr(report_page, "NEAR", 3)
    monkeypatch.setattr(report_page, "AVERAGE", 10)
    monkeypatch.setattr(report_page, "IDENTITY", 10)
    text = Outline(report(dense(4, 5, 4, 2), on=mo.Box(-1, 1)).html).text
    for words in (
        "9 hidden units; asked here up to 3",
        "asked here up to 10",
        "59 parameters; asked here up to 10",
    ):
        assert words in text


def test_too_many_pieces_are_drawn_on_a_part(monkeypatch):
    monkeypatch.setattr(report_page, "CELLS", 30)
    made = report(dense(2, 12, 1), on=mo.Box(-4, 4))
    found = made.sections[-1].answers["pieces"]
    assert found.cells <= 30
    assert float(found.box.high[0]) < 4
    assert "more than 30 in box:-4,4" in made.html


def test_names_are_shown_and_never_run(tmp_path):
    file = tmp_path / "<script>alert(1) & 'x'.npz"
    mo.save(planted(), file)
    made = report(file)
    assert "<script" not in made.html
    assert "&lt;script&gt;alert(1)" in made.html
    Outline(made.html)


def test_files_appear_whole_with_a_suffix_that_says_what_they_are(tmp_path, made):
    target = made["line"].save(tmp_path / "r.html")
    assert target.read_text() == made["line"].html
    assert json.loads(made["line"].save(tmp_path / "r.json").read_text())["model"] == "MODEL"
    with pytest.raises(ValueError, match=r"written as \.html"):
        made["line"].save(tmp_path / "r.pdf")
    assert {p.name for p in tmp_path.iterdir()} == {"r.html", "r.json"}


def test_samples_reach_the_questions_that_take_them(made):
    sections = {s.name: s for s in made["samples"].sections}
    assert "on the 60 samples" in sections["average"].line
    assert sections["pruning"].answers["pruning_curve"].function is not None
    assert sections["symmetry"].answers["complexity"].samples == 60


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast_aa_and_shapes_have_three_to_one(theme):
    colours = dict(
        re.findall(r"--(\w+):(#\w+)", re.findall(r":root\{(--[^}]*)\}", html.STYLE)[theme])
    )

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(colours[a]), luminance(colours[b])))
        return (high + 0.05) / (low + 0.05)

    assert all(
        contrast(text, ground) >= 4.5
        for text in ("ink", "quiet", "blue")
        for ground in ("paper", "wash")
    )
    assert all(
        contrast(shape, "paper") >= 3 for shape in ("blue", "orange", "grey", "green", "violet")
    )


def test_pieces_of_markup():
    assert html.element("a", "<", href='"', class_="k") == '<a href="&quot;" class="k">&lt;</a>'
    assert html.prose("a -> b <= e^12.5") == "a → b ≤ e<sup>12.5</sup>"
    deep = html.drawing([4] * 30, ["x"] * 30)
    assert deep.count('class="layer"') == 8 + 4  # of a wide screen, of a narrow one
    assert "22 more" in deep
    assert "26 more" in deep
    assert "narrow-only" not in html.drawing([4] * 5, ["x"] * 5)
    assert html.prose("--max-slack 1e-06") == (
        '<span class="whole">--max-slack</span> <span class="whole">1e-06</span>'
    )


def test_a_refusal_is_asked_once():
    asked, calls = report_page.ChainQuestions(planted(), "m", "m", None, "all", 100, 0), []
    for _ in range(2):
        assert asked.ask("x", lambda: calls.append(1) or 1 / 0) == Refusal(
            "ZeroDivisionError: division by zero"
        )
    assert calls == [1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-tanh", "digits-relu", "digits-plain", "digits-tanh-grid"])
def test_the_zoo(name):
    made = report(f"zoo:{name}")
    Outline(made.html)
    assert len(made.html) < 500_000


@pytest.mark.slow
def test_in_a_browser(tmp_path, made):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        warnings.warn("NO BROWSER: the report is not looked at; install chromium", stacklevel=1)
        pytest.skip("no chromium")
    target = made["deep"].save(tmp_path / "r.html")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
    ]
    done = subprocess.run(
        [browser, *options, target.as_uri()],
        capture_output=True,
        text=True,
        timeout=1800,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<section") == len(made["deep"].sections)


def test_what_is_said_is_said_in_the_words_of_commands():
    """Two hidden layers of tanh: identifiability is asked in a box, and what goes further is typed."""
    rng = np.random.default_rng(0)
    parts = [p for n, m in ((3, 4), (4, 4), (4, 2)) for p in (rng.normal(size=(m, n)), np.zeros(m))]
    page = mo.report(mo.Network.mlp(*parts, activation="tanh"), budget=20)
    lines = {section.name: section for section in page.sections}
    assert lines["identity"].line == "asked in a box; add --on box:LO,HI"
    assert not lines["identity"].commands
    assert "(on)" not in page.html
    assert "(eps)" not in page.html
    assert "(--on" in re.sub(r"<[^>]*>", "", page.html)
    assert "on=None" not in page.html
