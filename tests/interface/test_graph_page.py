"""The page about a graph: whole without network or script, and true to what compression finds."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from page_outline import Outline, require_whole
from stand_ins import refuse_to_shrink
from tflite_models import File

import moduli as mo
from moduli import api
from moduli.compression.exact.living_units import FATES
from moduli.interface import cli, html
from moduli.interface.report_page import report

SECTIONS = ["network", "axes", "removed", "box", "stays"]
ON_BOX = ["network", "axes", "box", "removed", "stays"]  # what was asked leads


def network(biases, *, mystery=False, name="w1"):
    """Two convolutions of single taps with a ReLU in between; perhaps a part that nobody understands."""
    n = len(biases)
    weights = {
        name: np.ones((n, 1, 1, 1)), "b1": np.array(biases), "w2": 1.0 + np.eye(2, n).reshape(2, n, 1, 1),
        "b2": np.zeros(2),
    }  # fmt: skip
    if mystery:  # the second channel is a constant, which goes into a bias by rounding
        weights[name][1], weights["w2"] = 0.0, weights["w2"] * 1.1
    nodes = [
        helper.make_node("Conv", ["x", name, "b1"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "w2", "b2"], ["z" if mystery else "y"]),
    ]  # fmt: skip
    sets = [helper.make_opsetid("", 17)]
    if mystery:
        nodes.append(helper.make_node("Mystery", ["z"], ["y"], domain="com.example"))
        sets.append(helper.make_opsetid("com.example", 1))
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, "h", "w"])],
        [numpy_helper.from_array(a.astype(np.float32), key) for key, a in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=sets, ir_version=8)


def deep(count):
    """Many layers, each an axis of its own."""
    nodes, stored, x = [], [], "x"
    for k in range(count):
        w = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1) * (1 + np.arange(4).reshape(4, 1, 1, 1))
        stored.append(numpy_helper.from_array(w.astype(np.float32), f"w{k}"))
        nodes += [
            helper.make_node("Conv", [x, f"w{k}"], [f"h{k}"]),
            helper.make_node("Relu", [f"h{k}"], [f"r{k}"]),
        ]
        x = f"r{k}"
    nodes[-1].output[0] = "y"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4, 2, 2]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CASES = {
    "all inputs": (network([0.0, 0.0, -2.0]), None),
    "a box": (network([0.0, 1.0, -2.0, -3.0]), mo.Box(0, 1)),
    "named": (network([0.0, 1.0, -2.0]), mo.Box({"x": ([[[0.0]]], 1)})),
    "opaque": (network([0.0, 0.1, -2.0], mystery=True), mo.Box(0, 1)),
    "deep": (deep(40), None),
    "wrong box": (network([0.0]), mo.Box([0] * 7, 1)),
}


@pytest.fixture(scope="module")
def made():
    return {name: report(model, on=on) for name, (model, on) in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_page_is_whole_and_every_question_has_an_answer_or_a_reason(made, name):
    page = made[name]
    require_whole(page.html)
    asked = name != "all inputs" and CASES[name][1] is not None
    assert [s.name for s in page.sections] == (ON_BOX if asked else SECTIONS)
    assert all(s.line and "\n" not in s.line and len(s.line) < 250 for s in page.sections)
    assert "Error" not in "".join(s.line for s in page.sections)
    data = json.loads(json.dumps(page.to_json()))
    assert data["schema"] == "moduli.report/1"
    assert data["digest"] == page.network.digest
    assert report(CASES[name][0], on=CASES[name][1]).html == page.html


@pytest.mark.parametrize("name", CASES)
def test_commands_are_commands(made, name):
    for section in made[name].sections:
        for line in section.commands:
            _, command, *args = shlex.split(line)
            cli.cli.commands[command].make_context(command, args)


def test_numbers_are_those_of_the_compression(made):
    model, box = CASES["a box"]
    for small, section in (
        (mo.compress(model), made["a box"].sections[3]),
        (mo.compress(model, on=box), made["a box"].sections[2]),
    ):
        assert section.line.startswith(small.statement)
        assert section.answers["compress"].to_json() == small.to_json()
        assert section.status == ("proved" if small.slack == 0 else "bounded")
        sizes = f"{small.original.parameters} -> {small.network.parameters}"
        assert str(html.prose(sizes)) in section.body
    everywhere, on_box = (made["a box"].sections[k].body for k in (3, 2))
    assert "<svg" not in everywhere  # all units live
    assert 'aria-label="w1: 2 lives, 2 dead"' in on_box
    assert "4 → 2, 2 dead" in on_box


def test_a_box_that_silences_half_of_the_first_layer_is_doubted(made):
    section = made["a box"].sections[2]
    assert "2 of 4 channels of the first layer say nothing there" in section.line
    text = Outline(made["a box"].html).text
    assert "Look at the box. 2 of 4 channels of the first layer are constant on the box" in text
    assert "another scale" in text
    few = report(network([0.0, 1.0, -2.0]), on=mo.Box(0, 1))
    assert "Look at the box" not in few.html
    assert "1 of 3 channels of the first layer is constant" in Outline(few.html).text
    assert "another scale" in few.html
    assert "another scale" not in report(network([0.0, 1.0]), on=mo.Box(0, 1)).html


def test_what_stays_says_why(made):
    text = Outline(made["opaque"].html).text
    assert "com.example.Mystery" in text
    stays = made["opaque"].sections[4]
    assert "Mystery" in stays.body
    assert "without a bound" in made["opaque"].sections[2].body
    assert "would go by rounding" in stays.body
    assert made["wrong box"].sections[2].status is None
    assert "7" in made["wrong box"].sections[2].line
    assert made["all inputs"].sections[3].line == "no box given; add --on box:LO,HI"


def test_what_could_not_be_written_is_said(monkeypatch):
    refuse_to_shrink(monkeypatch, "w1")
    page = report(CASES["a box"][0], on=mo.Box(0, 1))
    assert "w1 has to stay" in page.sections[4].body
    assert "left alone" in page.sections[4].line


def test_long_tables_are_folded(made):
    body = made["deep"].sections[1].body
    assert (
        body.count("<tr>") == 40 + 3
    )  # two heads of axes that can lose units, one of those that stay
    assert "<summary>23 more</summary>" in body
    assert "<details" not in made["a box"].html


def test_many_cells_are_few_shapes():
    rng = np.random.default_rng(0)
    rows = [
        html.Cells(f"w{k}", "1000 -> 500", rng.integers(0, 4, 1000).tolist()) for k in range(60)
    ]
    drawn = html.cells(rows, FATES, "units")
    require_whole(html.document("t", drawn))
    assert len(drawn) < 700_000
    assert drawn.count("<path") == 240
    assert "<summary>28 more axes</summary>" in drawn
    parted = html.cells([html.Cells("w", "", [0, 0, 2])], FATES, "")
    (few,) = re.findall(r'<path d="([^"]*)" class="kept"', parted)
    assert few.count("M") == 2


def test_cells_cover_their_row_in_order():
    fates = [0, 1, 1, 3, 0] * 20
    found = dict.fromkeys(range(100))
    for fate, path in html._paths(fates).items():
        for start, width in re.findall(r"M([\d.]+) 0h([\d.]+)v1", path):
            for i in range(round(float(start)), round(float(start) + float(width))):
                assert found[i] is None
                found[i] = fate
    assert [*found.values()] == fates


def test_what_fails_says_so_and_the_page_is_made(monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("no\nluck <b>")

    monkeypatch.setattr(api, "compress", broken)
    page = report(CASES["a box"][0], on=mo.Box(0, 1))
    assert [s.line for s in page.sections[2:4]] == ["RuntimeError: no luck <b>"] * 2
    require_whole(page.html)


def test_a_name_is_shown_and_never_run(tmp_path):
    path = tmp_path / "<script> & 'x'.onnx"
    onnx.save(network([0.0, -2.0, -3.0], name='w"<script>'), path)
    page = report(path, on=mo.Box(0, 1))
    assert "<script" not in page.html
    require_whole(page.html)


def test_the_command_writes_a_page_and_refuses_what_graphs_do_not_know(tmp_path, capsys):
    from click.testing import CliRunner

    path, out = tmp_path / "m.onnx", tmp_path / "r.html"
    onnx.save(CASES["a box"][0], path)
    done = CliRunner().invoke(cli.cli, ["report", str(path), "-o", str(out), "--on", "box:0,1"])
    assert done.exit_code == 0, done.output
    assert "What goes on the box" in done.stdout
    assert "--on box:0,1" in Outline(out.read_text()).text
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 16)))
    for on in ("gaussian", str(tmp_path / "data.npz")):
        with pytest.raises(SystemExit) as ended:
            run(["report", str(path), "-o", str(tmp_path / "no.html"), "--on", on])
        assert ended.value.code == 2
        assert "on all inputs or on a box" in capsys.readouterr().err
    assert not (tmp_path / "no.html").exists()


def run(arguments):
    import sys
    from unittest import mock

    with mock.patch.object(sys, "argv", ["moduli", *arguments]):
        cli.main()


def test_the_caption_explains_what_the_picture_shows_alone(made):
    on_box = made["a box"].sections[2].body
    assert "Dead: zero there" in on_box
    assert "Combined" not in on_box


def test_what_is_written_is_of_a_kind_that_the_model_is_written_as(tmp_path, monkeypatch):
    """A file of TensorFlow Lite is made of one alone; names of tensors break where they are parted."""
    monkeypatch.chdir(tmp_path)
    f = File()
    x, y, z = f.input(1, 4, 4, 2), f.value(1, 4, 4, 4), f.value(1, 4, 4, 1)
    strides = {"StrideW": 1, "StrideH": 1}
    filters = np.ones((4, 3, 3, 2), "float32")
    filters[1] = 0
    f.add("CONV_2D", [x, f.stored(filters), f.stored(np.zeros(4, "float32"))], y, "Conv2D",
          FusedActivationFunction=1, **strides)  # fmt: skip
    last, bias = f.stored(np.ones((1, 3, 3, 4), "float32")), f.stored(np.zeros(1, "float32"))
    f.add("CONV_2D", [y, last, bias], z, "Conv2D", **strides)
    (tmp_path / "m.tflite").write_bytes(f.write(z))
    page = report("m.tflite", on=mo.Box(0, 1))
    for section, out in ((page.sections[2], "region.tflite"), (page.sections[3], "small.tflite")):
        assert f"-o {out} " in section.commands[0]
        for line in section.commands:
            run(shlex.split(line)[1:])
    assert html.names("a/b;c:d.w") == "a/<wbr>b;<wbr>c:<wbr>d.<wbr>w"
