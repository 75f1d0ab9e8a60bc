"""The command line in its own process: results on stdout, one-line errors on stderr, exit codes,
files whole or absent.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from threading import Timer

import numpy as np
import onnx
import pytest
from command_line import moduli
from onnx import TensorProto, helper

import moduli as mo
from moduli.interface import cli

ROOT = Path(__file__).parents[2]


def answer(*args: object, cwd: Path, code: int = 0) -> dict[str, object]:
    returned, out, err = moduli(*args, "--json", cwd=cwd)
    assert returned == code, err
    return json.loads(out)


def test_demo_writes_checked_files(tmp_path):
    data = answer("demo", cwd=tmp_path)
    assert data["schema"] == "moduli.compress/1"
    assert data["optimal"] is True
    verdict = mo.check(
        tmp_path / "moduli-demo/digits-tanh-small.onnx.cert.json",
        tmp_path / "moduli-demo/digits-tanh-small.onnx",
        tmp_path / "moduli-demo/digits-tanh.onnx",
    )
    assert verdict.small.units == data["units"] < data["original_units"]
    assert verdict.proof.minimal


@pytest.mark.parametrize("suffix", ["onnx", "npz", "safetensors"])
def test_compress_then_check_then_equal(tmp_path, suffix):
    net = mo.load("zoo:digits-tanh-grid")
    mo.save(net, tmp_path / "large.onnx")
    small = answer("compress", "large.onnx", "-o", f"small.{suffix}", cwd=tmp_path)
    assert small["units"] == 64
    checked = answer(
        "check", f"small.{suffix}.cert.json", f"small.{suffix}", "large.onnx", cwd=tmp_path
    )
    assert checked["status"] == "proved"
    assert checked["constant"] == small["constant"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["large.onnx", f"small.{suffix}", f"small.{suffix}.cert.json"]
    )
    tampered = json.loads((tmp_path / f"small.{suffix}.cert.json").read_text())
    tampered["large_moves"][0]["units"][0] += 1
    (tmp_path / "bad.json").write_text(json.dumps(tampered))
    assert moduli("check", "bad.json", f"small.{suffix}", "large.onnx", cwd=tmp_path)[0] == 1


def test_compress_on_a_box_then_check(tmp_path):
    net = mo.Network.mlp(
        [[1.0, 1.0], [1.0, -1.0], [1.0, 0.5], [-1.0, 0.0], [0.3, 1.0]], [4.0, 4.0, 2.0, -2.0, 0.1],
        [[1.0, 0.5, 2.0, 1.0, 1.0]], [0.0], activation="relu",
    )  # fmt: skip
    mo.save(net, tmp_path / "large.npz")
    data = answer("compress", "large.npz", "-o", "small.npz", "--on", "box:-1,1", cwd=tmp_path)
    assert data["units"] == 2
    assert data["removed"]["inactive"] == 1
    assert data["box"] == {"low": [-1.0, -1.0], "high": [1.0, 1.0]}
    assert data["growth"] == 0
    assert (
        answer("check", "small.npz.cert.json", "small.npz", "large.npz", cwd=tmp_path)["on_box"]
        is True
    )
    tampered = json.loads((tmp_path / "small.npz.cert.json").read_text())
    tampered["region"]["high"] = [100.0, 100.0]
    (tmp_path / "bad.json").write_text(json.dumps(tampered))
    assert moduli("check", "bad.json", "small.npz", "large.npz", cwd=tmp_path)[0] == 1
    inputs = "".join(
        f"(declare-const X_{k} Real)(assert (>= X_{k} -1))(assert (<= X_{k} 1))" for k in range(2)
    )
    (tmp_path / "box.vnnlib").write_text(inputs)
    again = answer(
        "compress", "large.npz", "-o", "again.npz", "--on", "box:box.vnnlib", cwd=tmp_path
    )
    assert again["digest"] == data["digest"]
    assert (
        answer(
            "equal", "large.npz", "small.npz", "--on", "box:-1,1", "--eps", "1e-9", cwd=tmp_path
        )["status"]
        == "proved"
    )
    code, out, _ = moduli(
        "compress", "large.npz", "-o", "small.npz", "--on", "box:-1,1", cwd=tmp_path
    )
    assert code == 0
    assert "proved on the box" in out
    near = answer(
        "compress",
        "large.npz",
        "-o",
        "near.npz",
        "--on",
        "box:-1,1",
        "--eps",
        "3",
        "--budget",
        "500",
        cwd=tmp_path,
    )
    assert near["units"] < 2
    assert 0 < near["error"] <= 3
    assert mo.load(tmp_path / "near.npz").digest == near["digest"]


def test_equal_answers_with_its_exit_code(tmp_path):
    net = mo.Network.mlp([[1.0, 2.0]], [0.5], [[1.0]], [0.0])
    twin = mo.Network.mlp([[-1.0, -2.0]], [-0.5], [[-1.0]], [0.0])
    other = mo.Network.mlp([[1.0, 2.0]], [0.5], [[np.nextafter(1.0, 2)]], [0.0])
    for name, each in (("a", net), ("b", twin), ("c", other)):
        mo.save(each, tmp_path / f"{name}.npz")
    assert answer("equal", "a.npz", "b.npz", cwd=tmp_path)["status"] == "proved"
    refuted = answer("equal", "a.npz", "c.npz", cwd=tmp_path, code=1)
    assert refuted["witness"]["input"]
    assert answer("equal", "a.npz", "c.npz", "--eps", "1e-9", cwd=tmp_path)["status"] == "proved"


def test_rank_info_canon_distance(tmp_path):
    assert answer("rank", "zoo:digits-plain", cwd=tmp_path)["lower"] == 32
    assert answer("info", "zoo:digits-relu", cwd=tmp_path)["widths"] == [64, 64, 32, 10]
    form = answer("canon", "zoo:digits-plain", "-o", "form.npz", cwd=tmp_path)
    assert mo.load(tmp_path / "form.npz").digest == form["digest"]
    apart = answer("distance", "zoo:digits-plain", "form.npz", "--on", "box:0,1", cwd=tmp_path)
    assert apart["lower"] == apart["upper"] == 0
    near = answer(
        "distance", "zoo:digits-plain", "zoo:digits-tanh", "--on", "gaussian", cwd=tmp_path
    )
    assert 0 < near["lower"] < near["upper"]


def nearly_equal(folder: Path) -> None:
    """Two files of one architecture, a.onnx and b.onnx; output 0 is far ahead on [-1, 1]^4."""
    rng = np.random.default_rng(0)
    a = mo.Network.mlp(
        rng.normal(size=(8, 4)),
        rng.normal(size=8),
        rng.normal(size=(2, 8)),
        [30.0, 0.0],
        activation="relu",
    )
    mo.save(a, folder / "a.onnx")
    mo.save(a.with_flat(a.flat() * (1 + 1e-3 * rng.normal(size=a.parameters))), folder / "b.onnx")


def test_what_a_runtime_rounds(tmp_path):
    nearly_equal(tmp_path)
    box = ("--on", "box:-1,1")
    found = answer("rounding", "a.onnx", *box, "--budget", "40", cwd=tmp_path)
    assert found["schema"] == "moduli.rounding/1"
    assert (found["status"], found["dtype"], found["order"]) == ("bounded", "float32", "any")
    assert 0 < found["seen"] <= found["upper"] < 1e-2
    assert [row["name"] for row in found["by_layer"]]
    closer = answer("rounding", "a.onnx", *box, "--order", "2", "--budget", "40", cwd=tmp_path)
    assert closer["upper"] < found["upper"]
    half = moduli("rounding", "a.onnx", "--on", "box:-1e5,1e5", "--dtype", "float16", cwd=tmp_path)
    assert half[0] == 0
    assert "may exceed the largest number of float16" in half[1]
    for wrong, says in (
        (("rounding", "a.onnx"), "sizes of numbers decide"),
        (("rounding", "a.onnx", *box, "--dtype", "int8"), "--dtype int8"),
        (("rounding", "a.onnx", *box, "--order", "some"), "--order some"),
        (("rounding", "a.onnx", *box, "--ulps=-1"), "--ulps"),
    ):
        code, out, err = moduli(*wrong, cwd=tmp_path)
        assert (code, out) == (2, "")
        assert says in err


def test_two_files_as_they_are_computed(tmp_path):
    nearly_equal(tmp_path)
    box = ("--on", "box:-1,1")
    answer("compress", "a.onnx", "-o", "s.onnx", "--stored", "float32", *box, cwd=tmp_path)
    files = ("check", "s.onnx.cert.json", "s.onnx", "a.onnx")
    found = answer(*files, "--dtype", "float32", cwd=tmp_path)["computed"]
    assert found["upper"] >= found["slack"] + found["small"] + found["large"] > 0
    assert answer(*files, cwd=tmp_path)["computed"] is None
    assert moduli(*files, "--dtype", "float8", cwd=tmp_path)[0] == 2
    answer("compress", "a.onnx", "-o", "t.onnx", cwd=tmp_path)
    everywhere = ("check", "t.onnx.cert.json", "t.onnx", "a.onnx", "--dtype", "float32")
    code, _, err = moduli(*everywhere, cwd=tmp_path)
    assert code == 2
    assert "sizes of numbers decide" in err
    assert answer(*everywhere, *box, cwd=tmp_path)["computed"]["upper"] > 0


def test_a_compression_says_at_once_what_check_says_of_its_files(tmp_path):
    """One option of one meaning in both commands; the type in which OUT is stored is another one."""
    nearly_equal(tmp_path)
    box = ("--on", "box:-1,1", "--dtype", "float32")
    for out, *more in (("s.onnx",), ("t.onnx", "--stored", "float32"), ("u.onnx", "--eps", "0.01")):
        said = answer("compress", "a.onnx", "-o", out, *more, *box, cwd=tmp_path)["computed"]
        found = answer("check", f"{out}.cert.json", out, "a.onnx", *box, cwd=tmp_path)["computed"]
        assert said == found
        assert said["dtype"] == "float32"
    assert "computed" not in answer("compress", "a.onnx", "-o", "v.onnx", cwd=tmp_path)
    code, text, _ = moduli("compress", "a.onnx", "-o", "v.onnx", *box, cwd=tmp_path)
    assert code == 0
    assert "in float32" in text
    for wrong, says in (
        (("--dtype", "float32"), "sizes of numbers decide, give --on box:-1,1"),
        (("--dtype", "float32", "--on", "box:0,1", "--radius", "0.1"), "not with --radius 0.1"),
        (("--dtype", "float32", "--on", "gaussian", "--units", "2"), "sizes of numbers decide"),
        (("--dtype", "int8", "--on", "box:-1,1"), "--dtype int8"),
        (("--stored", "float16"), "--stored"),
    ):
        code, out, err = moduli("compress", "a.onnx", "-o", "w.onnx", *wrong, cwd=tmp_path)
        assert (code, out) == (2, "")
        assert says in err
        assert not (tmp_path / "w.onnx").exists()


def test_a_quantised_file_beside_the_one_in_floats(tmp_path):
    quantised = pytest.importorskip("quantised")
    weights = [np.array([[1.0, -0.5], [0.5, 1.0]]), np.array([[1.0, 1.0]])]
    ranges = {"x": (-1, 1), "h0": (0, 2), "h1": (-2, 3)}
    for name, given in (("a", None), ("q", ranges)):
        model = quantised.dense(weights, [np.zeros(2), np.zeros(1)], given)
        quantised.written(model, tmp_path / f"{name}.onnx")
    box = ("--on", "box:-1,1", "--budget", "40")
    found = answer("distance", "a.onnx", "q.onnx", *box, cwd=tmp_path)
    assert 0 < found["upper"] < 0.1
    assert {row["name"] for row in found["by_layer"]} >= {"x.ints", "h0.ints", "h1.ints"}
    _, out, _ = moduli("distance", "a.onnx", "q.onnx", *box, cwd=tmp_path)
    assert "rounds in steps of" in out


def test_distances_are_certified(tmp_path):
    nearly_equal(tmp_path)
    box = ("--on", "box:-1,1")
    found = answer(
        "distance", "a.onnx", "b.onnx", *box, "--tol", "0.5", "-o", "far.cert.json", cwd=tmp_path
    )
    assert 0 < found["lower"] <= found["upper"] <= 1.5 * found["lower"]
    assert found["certificate"] == "far.cert.json"
    far = ("check", "far.cert.json", "b.onnx", "a.onnx")
    assert (
        answer(*far, *box, "--max-slack", found["upper"], cwd=tmp_path)["bound"] == found["upper"]
    )
    assert moduli(*far, "--max-slack", found["lower"] / 2, cwd=tmp_path)[0] == 1
    near = ("equal", "a.onnx", "b.onnx", *box, "--eps", 2 * found["upper"])
    answer(*near, "-o", "near.cert.json", cwd=tmp_path)
    assert moduli("check", "near.cert.json", "b.onnx", "a.onnx", cwd=tmp_path)[0] == 0
    code, _, said = moduli(
        "distance", "a.onnx", "b.onnx", "--on", "gaussian", "-o", "no.json", cwd=tmp_path
    )
    assert code == 3
    assert "no.json was not written" in said
    assert not (tmp_path / "no.json").exists()
    assert moduli("distance", "a.onnx", "b.onnx", *box, "--tol=-1", cwd=tmp_path)[0] == 2
    apart = ("equal", "a.onnx", "b.onnx", *box, "--eps", found["lower"] / 2, "-o", "no.json")
    assert answer(*apart, cwd=tmp_path, code=1)["certificate"] == "none; no.json was not written"
    assert not (tmp_path / "no.json").exists()


def test_decisions_are_compared(tmp_path):
    nearly_equal(tmp_path)
    asked = ("equal", "a.onnx", "b.onnx", "--decision")
    assert answer(*asked, "--on", "box:-1,1", cwd=tmp_path)["winner"] == 0
    assert answer(*asked, "--on", "box:-99,99", cwd=tmp_path, code=1)["witness"]
    code, _, said = moduli(*asked, cwd=tmp_path)
    assert code == 2
    assert "--decision" in said
    assert moduli(*asked, "--on", "box:-1,1", "--eps", "0.1", cwd=tmp_path)[0] == 2


def test_quiet_prints_nothing(tmp_path):
    assert moduli("rank", "zoo:digits-plain", "--quiet", cwd=tmp_path) == (0, "", "")


def huge_tensor(path: Path) -> None:
    weight = TensorProto(
        name="W", data_type=TensorProto.FLOAT, dims=[50_000, 50_000], raw_data=b"\0" * 16
    )
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 50_000]) for n in "xy")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"])], "g", [x], [y], [weight]
    )
    path.write_bytes(helper.make_model(graph).SerializeToString())


def nan_weights(path: Path) -> None:
    np.savez(
        path,
        W1=[[np.nan]],
        b1=[0.0],
        W2=[[1.0]],
        b2=[0.0],
        activations=np.array(["tanh"]),
        output_map=np.array("identity"),
    )


def mismatched(path: Path) -> None:
    np.savez(
        path,
        W1=np.ones((3, 2)),
        b1=[0.0],
        W2=[[1.0]],
        b2=[0.0],
        activations=np.array(["tanh"]),
        output_map=np.array("identity"),
    )


def truncated(path: Path) -> None:
    mo.save(mo.load("zoo:digits-plain"), path)
    path.write_bytes(path.read_bytes()[:500])


def pickled(path: Path) -> None:
    import pickle

    path.write_bytes(pickle.dumps({"state_dict": print}))


BAD = {
    "empty.onnx": (lambda p: p.write_bytes(b""), "0 bytes"),
    "truncated.onnx": (truncated, "damaged or no ONNX file"),
    "pickle.pth": (pickled, "pickle"),
    "nan.npz": (nan_weights, "nan"),
    "shapes.npz": (mismatched, "(3, 2)"),
    "huge.onnx": (huge_tensor, "50000"),
    "missing.onnx": (lambda p: None, "no such file"),
    "model.h5": (lambda p: p.write_bytes(b"x"), "damaged or no HDF5 file"),
    "model.tflite": (lambda p: p.write_bytes(b"x"), "no mark TFL3"),
}


@pytest.mark.parametrize("name", BAD)
def test_unreadable_models_exit_4_with_one_line(tmp_path, name):
    make, words = BAD[name]
    make(tmp_path / name)
    code, out, err = moduli("compress", name, "-o", "out.onnx", cwd=tmp_path)
    assert (code, out) == (4, "")
    assert words in err
    assert name in err
    assert err.count("\n") == 1
    assert {p.name for p in tmp_path.iterdir()} <= {name}


USAGE = {
    (
        "compress",
        "zoo:digits-plain",
        "-o",
        "no/such/folder/x.onnx",
    ): "cannot write no/such/folder/x.onnx",
    ("compress", "zoo:digits-plain", "-o", "x.onnx", "--units", "3"): "--units 3 on all inputs",
    ("rank", "zoo:digits-plain", "--on", "sphere"): "write all, box:LO,HI",
    ("equal", "zoo:digits-plain", "zoo:digits-tanh-grid"): "R^64 to R^10, the second R^4 to R^10",
    (
        "distance",
        "zoo:digits-plain",
        "zoo:digits-tanh",
        "--on",
        "box:1,-1",
    ): "1 exceeds -1; write box:-1,1",
    ("frobnicate",): "no such command",
    ("rank",): "missing argument",
}


@pytest.mark.parametrize("args", USAGE)
def test_wrong_usage_exits_2(tmp_path, args):
    code, out, err = moduli(*args, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert USAGE[args] in err
    assert not list(tmp_path.iterdir())


def test_the_model_itself_is_never_overwritten(tmp_path):
    mo.save(mo.load("zoo:digits-plain"), tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    assert moduli("compress", "m.onnx", "-o", "m.onnx", cwd=tmp_path)[0] == 2
    assert (tmp_path / "m.onnx").read_bytes() == before


def test_float32_onnx_carries_its_slack(tmp_path):
    mo.save(mo.load("zoo:digits-tanh"), tmp_path / "large.onnx", dtype="float32")
    data = answer("compress", "large.onnx", "-o", "small.onnx", cwd=tmp_path)
    stored = {p.key: p.value for p in onnx.load(tmp_path / "small.onnx").metadata_props}
    assert float(stored["moduli.slack"]) > 0
    assert data["constant"] > 0
    assert mo.load(tmp_path / "small.onnx").digest == data["digest"]


def near_twins(path):
    """Four tanh units, two of them twins up to 0.01."""
    net = mo.Network.mlp(
        [[1.0], [1.01], [-3.0], [2.0]], [0.0, 0.01, 1.0, 0.5], [[1.0, 2.0, 1.0, 1.0]], [0.0]
    )
    return mo.save(net, path)


def test_within_a_radius(tmp_path):
    model = near_twins(tmp_path / "m.onnx")
    data = answer("rank", model, "--radius", 0.1, cwd=tmp_path)
    assert (data["lower"], data["upper"], data["greedy"], data["radius"]) == (3, 3, 3, 0.1)
    data = answer("compress", model, "-o", "s.onnx", "--radius", 0.1, cwd=tmp_path)
    assert data["optimal"] is True
    assert 0 < data["deviation"] < 0.1
    data = answer("check", "s.onnx.cert.json", "s.onnx", model, cwd=tmp_path)
    assert "within 0.1" in data["statement"]
    code, _, err = moduli("rank", model, "--radius", -1, cwd=tmp_path)
    assert code == 2
    assert "--radius -1.0" in err


def test_close_on_average(tmp_path):
    mo.save(mo.load("zoo:digits-plain"), tmp_path / "a.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", x=rng.uniform(0, 1, (300, 64)))
    small = answer(
        "compress", "a.onnx", "-o", "b.onnx", "--on", "x.npz", "--units", "8", cwd=tmp_path
    )
    assert small["units"] == 8
    assert small["status"] == "estimated"
    assert 0 < small["error"]["relative"] < small["linear"]["relative"] + 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx", "x.npz"]
    apart = answer("distance", "a.onnx", "b.onnx", "--on", "x.npz", cwd=tmp_path)
    assert apart["lower"] < small["error"]["absolute"] < apart["upper"]
    closed = answer("distance", "a.onnx", "b.onnx", "--on", "gaussian", cwd=tmp_path)
    assert closed["upper"] - closed["lower"] < 1e-9
    narrow = [rng.normal(size=(10, 5)), rng.normal(size=10), rng.normal(size=(3, 10)), np.zeros(3)]
    mo.save(mo.Network.mlp(*narrow), tmp_path / "n.onnx")
    code, text, _ = moduli(
        "compress", "n.onnx", "-o", "c.onnx", "--on", "gaussian", "--units", "4", cwd=tmp_path
    )
    assert code == 0
    assert "a linear map" in text
    curve = answer(
        "curve", "a.onnx", "--on", "x.npz", "--units", "2,4", "-o", "e.svg", cwd=tmp_path
    )
    assert curve["units"] == [2, 4]
    assert (tmp_path / "e.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("compress", "--units", "8"), "--on gaussian"), (("compress", "--on", "gaussian"), "give one of them"),
        (("compress", "--on", "gaussian", "--units", "many"), "several as in 32,16"),
        (("compress", "--on", "gaussian", "--units", "8,8"), "hidden widths"),
        (("compress", "--on", "y.npz", "--units", "2"), "64"),
        (("curve", "--on", "box:0,1"), "gaussian or FILE.npz"),
    ],
)  # fmt: skip
def test_mistakes_about_averages_exit_2(tmp_path, args, text):
    np.savez(tmp_path / "y.npz", x=np.zeros((4, 3)))
    out = "out.svg" if args[0] == "curve" else "out.onnx"
    code, _, err = moduli(args[0], "zoo:digits-plain", "-o", out, *args[1:], cwd=tmp_path)
    assert code == 2
    assert text in err
    assert not (tmp_path / out).exists()


def test_curve_writes_a_picture(tmp_path):
    model = near_twins(tmp_path / "m.onnx")
    data = answer(
        "curve", model, model, "--radii", "0,0.1,3", "-o", "c.svg", "--workers", 2, cwd=tmp_path
    )
    assert data["upper"] == [[4, 3, 3]] * 2
    first = (tmp_path / "c.svg").read_bytes()
    assert b"<svg" in first
    answer("curve", model, model, "--radii", "0,0.1,3", "-o", "c.svg", cwd=tmp_path)
    assert (tmp_path / "c.svg").read_bytes() == first
    for radii in ("0,1", "1,0,3", "a,b,c", "0,inf,3"):
        code, _, err = moduli("curve", model, "--radii", radii, cwd=tmp_path)
        assert code == 2
        assert "--radii" in err
    code, _, err = moduli("curve", model, "--radii", "0,0.1,2", "-o", "c.gif", cwd=tmp_path)
    assert code == 2
    assert ".svg" in err
    code, _, err = moduli("curve", "zoo:digits-relu", cwd=tmp_path)
    assert code == 2
    assert "one hidden layer" in err


def test_align_writes_the_moved_network_or_the_merged_one(tmp_path):
    b = mo.load("zoo:digits-relu")
    a = mo.symmetries(b).random(1)(b)
    for name, net in (("a.npz", a), ("b.npz", b)):
        mo.save(net, tmp_path / name)
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).uniform(0, 1, (50, 64)))
    data = answer("align", "a.npz", "b.npz", "-o", "moved.npz", cwd=tmp_path)
    assert data["schema"] == "moduli.align/1"
    assert data["after"] == 0 < data["before"]
    assert mo.load(tmp_path / "moved.npz") == b
    half = (
        "align",
        "a.npz",
        "b.npz",
        "-o",
        "half.npz",
        "--merge",
        0.5,
        "--by",
        "activations",
        "--on",
        "x.npz",
    )
    data = answer(*half, cwd=tmp_path)
    assert data["barrier"]["height"] < 1e-9 < data["barrier"]["before"]
    assert mo.equivalent(tmp_path / "half.npz", b).status == "proved"
    code, out, _ = moduli(
        "align", "a.npz", "b.npz", "-o", "m.onnx", "--on", "gaussian", cwd=tmp_path
    )
    assert code == 0
    assert "barrier" in out
    for bad in (
        ["align", "a.npz", "b.npz", "-o", "c.npz", "--by", "activations"], ["align", "a.npz", "zoo:digits-tanh", "-o", "c.npz"],
        ["align", "a.npz", "b.npz", "-o", "c.npz", "--on", "box:-1,1"], ["align", "a.npz", "b.npz"],
        ["align", "a.npz", "b.npz", "-o", "c.npz", "--merge", "2"],
    ):  # fmt: skip
        code, _, err = moduli(*bad, cwd=tmp_path)
        assert code == 2, bad
        assert err
    assert not (tmp_path / "c.npz").exists()


def test_graphs_have_a_normal_form_and_are_aligned(tmp_path, shared):
    """A disguise of a graph has its form, byte for byte, and is moved back."""
    model = shared / "cases" / "graph" / "op_residual.onnx"
    graph = mo.load(model)
    mo.save(mo.symmetries(graph).random(3)(graph), tmp_path / "twin.onnx")
    one, other = (
        answer("canon", net, "-o", out, cwd=tmp_path)
        for net, out in ((model, "a.onnx"), ("twin.onnx", "b.onnx"))
    )
    assert one["signature"] == other["signature"]
    assert one["complete"] is False
    forms = [mo.load(tmp_path / name).digest for name in ("a.onnx", "b.onnx")]
    assert forms[0] == forms[1]
    samples = np.random.default_rng(0).normal(size=(4, np.prod(graph.model.shapes["x"][1:])))
    np.savez(tmp_path / "x.npz", x=samples)
    data = answer("align", "twin.onnx", model, "-o", "c.onnx", "--on", "x.npz", cwd=tmp_path)
    assert data["after"] == 0 < data["before"]
    assert data["barrier"]["height"] < 1e-6 < data["barrier"]["before"]
    assert mo.load(tmp_path / "c.onnx").digest == graph.digest
    code, _, said = moduli("align", "twin.onnx", "a.onnx", "-o", "d.onnx", cwd=tmp_path)
    assert (code, (tmp_path / "d.onnx").exists()) == (2, False)
    assert "one architecture" in said


def test_canon_prints_a_signature(tmp_path):
    net = mo.load("zoo:digits-tanh")
    mo.save(mo.symmetries(net).random(3)(net), tmp_path / "copy.npz")
    models = enumerate(("zoo:digits-tanh", "copy.npz"))
    one, other = (answer("canon", model, "-o", f"{k}.npz", cwd=tmp_path) for k, model in models)
    assert one["signature"] == other["signature"] == mo.signature(net)
    assert one["complete"] is True
    assert one["digest"] == other["digest"]


def test_complexity_of_models_and_widths(tmp_path):
    wide = (
        "complexity",
        "784,300,100,10",
        "--input-bound",
        28,
        "--norm",
        2,
        "--samples",
        60000,
        "-o",
        "c.svg",
    )
    data = answer(*wide, cwd=tmp_path)
    assert round(data["log_covering_plain"]) == 5240008
    best = next(row for row in data["rows"] if row["name"] == "best of these")
    assert best["vacuous"] is True
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")
    code, out, _ = moduli("complexity", "zoo:digits-tanh", "--samples", 1000, cwd=tmp_path)
    assert code == 0
    assert "vacuous" in out
    assert "removes 174 units" in out
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).uniform(0, 1, (50, 64)))
    assert (
        answer("complexity", "zoo:digits-relu", "--samples", "x.npz", cwd=tmp_path)["samples"] == 50
    )
    for bad, said in (
        (["complexity", "784,0,10"], "positive integer"), (["complexity", "5"], "inputs, hidden layers, outputs"),
        (["complexity", "zoo:digits-tanh", "--bound", "0.5"], "entry of layer 1"),
        (["complexity", "3,3,1", "--samples", "many"], "a number"),
        (["complexity", "3,3,1", "--activation", "swish"], "unknown activation"),
        (["complexity", "zoo:digits-relu", "--samples", "x.npz", "--input-bound", "0.1"], "raise it"),
    ):  # fmt: skip
        code, _, err = moduli(*bad, cwd=tmp_path)
        assert code == 2, bad
        assert said in err


def test_train_measures_what_can_go(tmp_path):
    noisy = ("--alpha", 1.75, "--sigma", 0.01)
    data = answer(
        "train", "digits", "-o", "net.onnx", "--width", 40, "--steps", 50, *noisy, cwd=tmp_path
    )
    assert data["schema"] == "moduli.train/1"
    assert data["steps"] == 50
    assert 0 <= data["measured"]["share"] <= 1
    assert mo.load(tmp_path / "net.onnx").widths == (64, 40, 10)
    code, out, _ = moduli(
        "train",
        "digits",
        "-o",
        "net.npz",
        "--width",
        40,
        "--steps",
        50,
        "--group-lasso",
        0.01,
        cwd=tmp_path,
    )
    assert code == 0
    assert "units that vanished" in out
    assert "prunable share" in out
    assert "change of the function" in out
    for bad, wrong in (
        (["mnist"], 2),
        (["none.npz"], 4),
        (["digits", "--alpha", "3"], 2),
        (["digits", "--kind", "x"], 2),
    ):
        code, _, err = moduli("train", *bad, "-o", "bad.onnx", "--steps", 10, cwd=tmp_path)
        assert code == wrong, err
        assert err
    assert not (tmp_path / "bad.onnx").exists()


def test_train_reads_tables(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 3))
    table = np.column_stack([x, x @ [1.0, -2.0, 0.5]])
    np.savetxt(
        tmp_path / "houses.csv", table, delimiter=",", header="a,b,c,price", comments="", fmt="%.6f"
    )
    told = ("--width", 20, "--steps", 200)
    data = answer("train", "houses.csv", "-o", "h.onnx", "--target", "price", *told, cwd=tmp_path)
    assert data["measure"] == "mean square error"
    assert mo.load(tmp_path / "h.onnx").widths == (3, 20, 1)
    np.save(tmp_path / "x.npy", x)
    np.savetxt(tmp_path / "x.csv", x, delimiter=",")
    found = [
        answer("distance", "h.onnx", "h.onnx", "--on", name, cwd=tmp_path)["upper"]
        for name in ("x.npy", "x.csv")
    ]
    assert found == [0.0, 0.0]
    assert answer("complexity", "h.onnx", "--samples", "x.csv", "--input-bound", 9, cwd=tmp_path)
    code, _, err = moduli(
        "train", "houses.csv", "-o", "bad.onnx", "--target", "prize", *told, cwd=tmp_path
    )
    assert code == 4
    assert "no column 'prize'; it has a, b, c, price" in err


def test_the_strength_that_the_help_names_removes_units(tmp_path):
    code, out, _ = moduli("train", "--help", cwd=tmp_path)
    assert code == 0
    assert "--group-lasso 0.03" in out
    trained = answer("train", "digits", "-o", "d.onnx", "--group-lasso", 0.03, cwd=tmp_path)
    assert trained["vanished"] > 100
    assert trained["measured"]["test"] > 0.94
    answer("compress", "d.onnx", "-o", "small.onnx", cwd=tmp_path)
    assert mo.load(tmp_path / "small.onnx").units <= 200 - trained["vanished"]


@pytest.mark.slow
def test_from_heavy_tails_to_a_provably_smaller_file(tmp_path):
    """The commands of docs/tour.md."""
    noise = ("--alpha", 1.75, "--sigma", 0.01, "--annealed", "--group-lasso", 0.06)
    trained = answer(
        "train", "digits", "-o", "d.onnx", *noise, "--steps", 1500, "--lr", 0.1, cwd=tmp_path
    )
    assert trained["vanished"] > 150
    assert trained["measured"]["test"] > 0.93
    answer("compress", "d.onnx", "-o", "small.onnx", cwd=tmp_path)
    assert mo.load(tmp_path / "small.onnx").units <= 200 - trained["vanished"]
    code, _, err = moduli(
        "check", "small.onnx.cert.json", "small.onnx", "d.onnx", "--on", "all", "--minimal",
        cwd=tmp_path,
    )  # fmt: skip
    assert code == 0, err


def test_sweep_prints_a_table_and_goes_on_where_it_stopped(tmp_path):
    (tmp_path / "small.toml").write_text(
        'data = "digits"\nwidth = 30\nsteps = 20\nseeds = 2\n[[runs]]\nname = "none"\n[[runs]]\nname = "isotropic"\n'
        'noise = { kind = "isotropic", alpha = 1.75, sigma = 0.02 }\n'
    )
    data = answer("sweep", "small.toml", "--store", "runs", cwd=tmp_path)
    assert data["schema"] == "moduli.sweep/1"
    assert [line["name"] for line in data["lines"]] == ["none", "isotropic"]
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(files) == 4
    code, out, _ = moduli(
        "sweep", "small.toml", "--store", "runs", "--workers", 2, "-o", "s.svg", cwd=tmp_path
    )
    assert code == 0
    assert (tmp_path / "s.svg").stat().st_size > 1000
    assert "noise alone" in out
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    (tmp_path / "bad.toml").write_text("[[runs]]\nname = 'x'\ncolour = 1")
    for bad, wrong in (
        (["bad.toml"], 2),
        (["none.toml"], 4),
        (["small.toml", "--scheduler", "tcp://127.0.0.1:1"], 2),
    ):
        code, _, err = moduli("sweep", *bad, "--store", "runs", cwd=tmp_path)
        assert code == wrong, err
        assert err


def started(*args: object, cwd: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "moduli.interface.cli", *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    listen = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # background jobs inherit that it is ignored
    return subprocess.Popen(
        line, cwd=cwd, env=env, start_new_session=True, preexec_fn=listen, **pipes
    )


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_keeps_what_a_sweep_has_done(tmp_path, workers):
    config = 'data = "digits"\nwidth = 3\nsteps = 1\nseeds = 5000\n[[runs]]\nname = "none"\n'
    (tmp_path / "many.toml").write_text(config)
    process = started("sweep", "many.toml", "--store", "runs", "--workers", workers, cwd=tmp_path)
    while not list(tmp_path.glob("runs/*.json")) and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, ""), err
    assert err.strip().startswith("moduli: interrupted")
    assert err.strip().endswith("finished runs are kept in runs, the same command does the rest")
    assert err.strip().count("\n") == 0
    files = list((tmp_path / "runs").iterdir())
    assert 0 < len(files) < 5000
    assert all("result" in json.loads(path.read_text()) for path in files)


def test_ctrl_c_says_how_far_a_search_was(tmp_path, monkeypatch, capsys):
    def found(*nets, progress, **options):
        progress(31, 1000, "difference at most 4.9, 0.1 seen")
        raise KeyboardInterrupt

    monkeypatch.setattr(mo, "distance", found, raising=False)
    monkeypatch.setattr(
        sys,
        "argv",
        ["moduli", "distance", "zoo:digits-tanh", "zoo:digits-plain", "--on", "box:0,1"],
    )
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (130, "")
    assert err.strip() == (
        "moduli: interrupted at: difference at most 4.9, 0.1 seen (31 of 1000); nothing was written"
    )


def test_ctrl_c_hands_over_the_bracket(tmp_path, monkeypatch, capsys):
    from moduli.compression.box.bisection import GapSearch

    def stopped(self, *args):
        raise KeyboardInterrupt

    nearly_equal(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(GapSearch, "split", stopped)
    monkeypatch.setattr(sys, "argv", ["moduli", "distance", "a.onnx", "b.onnx", "--on", "box:-1,1"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert "when interrupted" in capsys.readouterr().out


def test_ctrl_c_ends_a_solver_that_does_not_listen(tmp_path):
    script = """
import os, signal, threading, numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from moduli.interface.cli_support import bar
signal.signal(signal.SIGINT, signal.default_int_handler)
hard = (np.random.default_rng(0).random((150, 200)) < 0.08).astype(float)
with bar(False) as progress:
    progress(0, None, "a cover")
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        milp(np.ones(200), integrality=np.ones(200), bounds=Bounds(0, 1), constraints=LinearConstraint(hard, 1, np.inf),
             options={"time_limit": 600})
    except KeyboardInterrupt:
        print("only after the solver")
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip() == "moduli: interrupted at: a cover; nothing was written"


def test_a_bar_on_a_terminal_only(tmp_path):
    steps = "tell(0, 4, 'half a cover'), time.sleep(0.1), tell(1, 4, 'half a cover')"
    work = f"with bar(False) as tell: {steps}, sys.stdin.read()"
    script = f"import sys, time\nfrom moduli.interface.cli_support import bar\n{work}"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm", "COLUMNS": "100"}
    main, side = pty.openpty()
    shown = subprocess.Popen(
        [sys.executable, "-c", script], env=env, stdin=subprocess.PIPE, stderr=side
    )
    os.close(side)
    late = Timer(120, shown.kill)  # a bar that says something else ends the test all the same
    late.start()
    seen = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(main, 65536):
            seen += part
            if b"half a cover" in seen and b"more for these" in seen:
                shown.stdin.close()  # the work lasts until the bar is there
    os.close(main)
    late.cancel()
    assert shown.wait() == 0
    assert b"half a cover" in seen
    assert b"more for these" in seen
    script = script.replace(
        "sys.stdin.read()", "__import__('time').sleep(1.5)"
    )  # longer than it takes for a bar to appear
    piped = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True)
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, b"", b"")


def test_shells_complete_commands():
    asked = {"_MODULI_COMPLETE": "bash_complete", "COMP_WORDS": "moduli id", "COMP_CWORD": "1"}
    code = "import sys; from moduli.interface.cli import main; sys.argv[0] = 'moduli'; main()"
    line, env = [sys.executable, "-c", code], {**os.environ, **asked}
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "plain,identify"


def test_dimension_of_widths_and_of_models(tmp_path):
    code, out, _ = moduli("dimension", "3,2,2,1", "-o", "w.json", "--json", cwd=tmp_path)
    data = json.loads(out)
    assert (code, data["schema"], data["lower"], data["upper"]) == (0, "moduli.dimension/1", 13, 13)
    assert json.loads((tmp_path / "w.json").read_text())["rank"] == 13
    code, out, _ = moduli("identify", "4,3,2", "-o", "id.npz", "--json", cwd=tmp_path)
    data = json.loads(out)
    assert (code, data["schema"]) == (0, "moduli.identifiable_parameters/1")
    assert (data["scope"], data["written"]) == ("global", "id.npz")
    code, out, _ = moduli("dimension", "id.npz", "--on", "box:-1,1", "--json", cwd=tmp_path)
    assert (code, json.loads(out)["lower"]) == (0, 23 - 3)
    assert moduli("identify", "2,1,1,1,1", "--quiet", cwd=tmp_path)[0] == 3
    for arguments, said in (
        (("dimension", "2,0,1"), "at least 1"),
        (("dimension", "3,2,1", "--on", "box:-1,1"), "the same on every box"),
        (("dimension", "id.npz", "--on", "box:-1,1", "-o", "w.json"), "certificates are of widths"),
        (("dimension", "3,2,1", "-o", "w.txt"), ".json"),
        (("dimension", "id.npz"), "--on box"),
        (("identify", "3,2,1", "--on", "box:-1,1"), "leave it out"),
        (("identify", "id.npz", "--on", "box:-1,1", "-o", "x.npz"), "made of widths"),
    ):
        code, _, err = moduli(*arguments, cwd=tmp_path)
        assert (code, said in err) == (2, True), (arguments, err)


def test_identify_says_who_else(tmp_path):
    hat = mo.Network.mlp([[1.0], [1.0]], [0.0, -1.0], [[1.0, -1.0]], [0.0], activation="relu")
    line = mo.Network.mlp(
        [[1.0, 0.0], [0.0, 1.0]], [0.5, 0.25], [[1.0, 2.0]], [0.0], activation="relu"
    )
    rng = np.random.default_rng(0)
    deep = mo.Network.mlp(
        *(rng.standard_normal(s) for s in ((4, 4), 4, (4, 4), 4, (1, 4), 1)), activation="relu"
    )
    for name, net in (("hat", hat), ("line", line), ("deep", deep)):
        mo.save(net, tmp_path / f"{name}.npz")
    code, out, _ = moduli("identify", "hat.npz", "--on", "box:-8,8", "--json", cwd=tmp_path)
    data = json.loads(out)
    assert (code, data["schema"], data["status"]) == (1, "moduli.identify/1", "refuted")
    assert len(data["witness"]) == 2
    code, out, _ = moduli("identify", "line.npz", "--on", "box:-8,8", cwd=tmp_path)
    assert code == 0
    assert "identifiable among all parameters" in out
    code, out, _ = moduli("identify", "deep.npz", "--on", "box:0,1", "--budget", "5", cwd=tmp_path)
    assert code == 3
    assert "functional dimension" in out
    code, _, err = moduli("identify", "line.npz", "--on", "all", cwd=tmp_path)
    assert code == 2
    assert "box:-1,1" in err


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "damaged or no .npz archive"),
        (b"PK", "damaged"),
        (None, "holds a; needed are numbers: origin, u"),
    ],
)
def test_a_slice_that_is_none(tmp_path, data, said):
    if data is None:
        np.savez(tmp_path / "s.npz", a=np.ones(2))
    else:
        (tmp_path / "s.npz").write_bytes(data)
    code, out, err = moduli(
        "plot",
        "zoo:digits-relu",
        "--on",
        "box:-1,1",
        "--slice",
        "s.npz",
        "-o",
        "p.svg",
        cwd=tmp_path,
    )
    assert (code, out) == (2 if data is None else 4, "")
    assert said in err


def test_plot_draws_pieces(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [
        np.round(8 * rng.standard_normal(shape)) / 8 for shape in ((5, 4), 5, (4, 5), 4, (1, 4), 1)
    ]
    mo.save(mo.Network.mlp(*arrays, activation="relu"), tmp_path / "net.onnx")
    data = answer(
        "plot", "net.onnx", "--on", "box:-1,1", "--slice", "random", "-o", "p.svg", cwd=tmp_path
    )
    assert data["schema"] == "moduli.pieces/1"
    assert data["cells"] >= data["linear_regions"] >= data["affine_pieces"] > 1
    assert (tmp_path / "p.svg").stat().st_size > 1000
    np.savez(tmp_path / "s.npz", origin=np.zeros(4), u=np.eye(4)[0])
    line = [
        "plot",
        "net.onnx",
        "--on",
        "box:-1,1",
        "--slice",
        "s.npz",
        "--color",
        "layer",
        "-o",
        "q.png",
    ]
    code, out, _ = moduli(*line, cwd=tmp_path)
    assert code == 0
    assert "linear regions" in out
    for bad, wrong in (
        (["--on", "box:-1,1"], 2), (["--on", "gaussian"], 2), (["--on", "box:-1,1", "--slice", "x"], 2),
        (["--on", "box:-9,9", "--slice", "random", "--budget", "4"], 3),
    ):  # fmt: skip
        code, _, err = moduli("plot", "net.onnx", *bad, "-o", "bad.svg", cwd=tmp_path)
        assert code == wrong, err
    assert not (tmp_path / "bad.svg").exists()


def test_report(tmp_path):
    mo.save(
        mo.Network.mlp([[1.0], [2.0]], [0.0, 1.0], [[1.0, 1.0]], [0.0], activation="relu"),
        tmp_path / "net.npz",
    )
    data = answer("report", "net.npz", "-o", "r.html", "--on", "box:-2,2", cwd=tmp_path)
    assert data["schema"] == "moduli.report/1"
    assert data["sections"][3]["commands"] == [
        "moduli identify net.npz --on box:-2,2 --budget 10000 --seed 0"
    ]
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")
    code, out, err = moduli("report", "net.npz", "-o", "r.pdf", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert ".html" in err
    code, out, err = moduli("report", "net.npz", "-o", "no/r.html", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "cannot write no/r.html" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.npz", "r.html"]


@pytest.mark.parametrize(
    ("package", "extra", "args"),
    [
        ("torch", "torch", ["train", "digits", "-o", "d.onnx"]),
        ("torch", "torch", ["sweep", "small.toml", "--store", "runs"]),
        ("matplotlib", "plot", ["plot", "net.npz", "--on", "box:-1,1", "-o", "p.svg"]),
        ("matplotlib", "plot", ["report", "net.npz", "-o", "r.html"]),
        ("matplotlib", "plot", ["complexity", "3,3,1", "-o", "c.svg"]),
        ("matplotlib", "plot", ["sweep", "small.toml", "--store", "done", "-o", "s.svg"]),
        (
            "distributed",
            "cluster",
            ["sweep", "small.toml", "--store", "runs", "--scheduler", "tcp://127.0.0.1:1"],
        ),
    ],
)
def test_without_an_extra_its_pip_command_is_printed(tmp_path, package, extra, args):
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    config = 'data = "digits"\nwidth = 3\nsteps = 1\n[[runs]]\nname = "none"\n'
    (tmp_path / "small.toml").write_text(config)
    mo.save(
        mo.Network.mlp([[1.0], [2.0]], [0.0, 1.0], [[1.0, 1.0]], [0.0], activation="relu"),
        tmp_path / "net.npz",
    )
    if "done" in args:
        assert moduli("sweep", "small.toml", "--store", "done", "--quiet", cwd=tmp_path)[0] == 0
    (shadow / f"{package}.py").write_text(
        f"raise ModuleNotFoundError('no {package}', name={package!r})\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(shadow), str(ROOT / "src")])}
    done = subprocess.run(
        [sys.executable, "-m", "moduli.interface.cli", *args],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    assert f"pip install 'moduli[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_rank_the_other_way_round(tmp_path):
    net = mo.Network.mlp([[1.0], [1.5]], [0.0, 0.0], [[2.0, 2.0]], [0.0])
    model = mo.save(net, tmp_path / "net.npz")
    data = answer("rank", model, "--units", 1, cwd=tmp_path)
    assert data["schema"] == "moduli.radius_for/1"
    assert data["lower"] == data["upper"] == 0.25
    near = answer("rank", model, "--units", 1, "--euclidean", cwd=tmp_path)
    assert near["schema"] == "moduli.rank_distance/1"
    assert near["upper"] == pytest.approx(0.125**0.5)
    for wrong in (("--euclidean",), ("--units", 1, "--radius", 0.1)):
        code, _, err = moduli("rank", model, *wrong, cwd=tmp_path)
        assert code == 2
        assert "--units" in err


def test_students_without_biases(tmp_path):
    rng = np.random.default_rng(0)
    net = mo.Network.mlp(
        rng.standard_normal((6, 2)),
        np.zeros(6),
        rng.standard_normal((1, 6)),
        [0.0],
        activation="relu",
    )
    model = mo.save(net, tmp_path / "net.npz")
    options = ("--on", "gaussian", "--units", 2, "--no-biases", "--starts", 0)
    data = answer("compress", model, "-o", "small.npz", *options, cwd=tmp_path)
    assert data["biases"] is False
    small = mo.load(tmp_path / "small.npz")
    assert small.widths == (2, 2, 1)
    assert not any(layer.bias.any() for layer in small.layers)
    code, _, err = moduli("compress", model, "-o", "x.npz", "--no-biases", cwd=tmp_path)
    assert code == 2
    assert "mean errors" in err
