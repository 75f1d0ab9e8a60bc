"""The official files of MLPerf Tiny, as people have them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from lite import run

import moduli as mo

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def folder(shared):
    found = shared / "models" / "graph"
    if not (found / "vww_96_float.tflite").is_file():
        pytest.skip(f"no TensorFlow Lite files in {found}")
    return found


@pytest.mark.parametrize(("name", "most"), [("vww_96_float", 1.0), ("pretrainedResnet", 255.0)])
def test_real_models_give_what_the_interpreter_gives(folder, name, most):
    path = folder / f"{name}.tflite"
    graph = mo.load(path)
    for _ in range(4):
        x = (most * RNG.random(graph.model.shapes[graph.inputs[0]])).astype(np.float32)
        assert np.abs(graph(x) - run(path.read_bytes(), x)[0]).max() < 2e-5 * most


def test_the_person_detector_is_a_fifth_on_pixels(folder, tmp_path):
    large = folder / "vww_96_float.tflite"
    graph = mo.load(large)
    small = mo.compress(graph, on=mo.Box(0, 1))
    assert (graph.units, small.network.units) == (1496, 525)
    assert (graph.parameters, small.network.parameters) == (210850, 30610)
    target = mo.save(small.network, tmp_path / "small.tflite")
    small.save(tmp_path / "small.cert.json")
    assert target.stat().st_size < 0.21 * large.stat().st_size
    mo.check(tmp_path / "small.cert.json", target, large, on=mo.Box(0, 1), max_slack=1e-6)
    for _ in range(4):
        x = RNG.random((1, 96, 96, 3)).astype(np.float32)
        assert np.abs(run(target.read_bytes(), x)[0] - run(large.read_bytes(), x)[0]).max() < 1e-6
    assert mo.load(target).digest == small.network.digest
    onnx = mo.load(mo.save(small.network, tmp_path / "small.onnx"))
    assert onnx.digest == small.network.digest


def test_the_person_detector_of_eight_bits_loses_two_of_three_channels(folder, tmp_path):
    """Many have a bias of 2^30 steps below zero."""
    large = folder / "vww_96_int8.tflite"
    graph = mo.load(large)
    small = mo.compress(graph)
    assert (graph.units, small.network.units) == (1496, 520)
    assert (graph.parameters, small.network.parameters) == (213584, 31267)
    target = mo.save(small.network, tmp_path / "small.tflite")
    small.save(tmp_path / "small.cert.json")
    assert target.stat().st_size < 0.27 * large.stat().st_size
    mo.check(tmp_path / "small.cert.json", target, large, on="all", max_slack=0.0)
    for _ in range(2):
        x = RNG.integers(-128, 128, (1, 96, 96, 3)).astype(np.int8)
        (wanted,) = run(large.read_bytes(), x)
        assert np.array_equal(run(target.read_bytes(), x)[0], wanted)
        assert np.abs(graph(x).astype(int) - wanted.astype(int)).max() <= 3


def test_the_keras_file_is_the_same_model(folder):
    pytest.importorskip("h5py")
    keras, lite = mo.load(folder / "vww_96.h5"), mo.load(folder / "vww_96_float.tflite")
    x = RNG.random((1, 96, 96, 3)).astype(np.float32)
    assert np.abs(keras(x) - lite(x)).max() < 1e-6
    small = mo.compress(keras, on=mo.Box(0, 1))
    assert (keras.parameters, small.network.parameters) == (221794, 34722)


@pytest.mark.slow
def test_the_two_files_are_seen_to_agree(folder):
    """Norms that the converter folded are rounded: no proof of equality, and nothing seen."""
    pytest.importorskip("h5py")
    keras, lite = mo.load(folder / "vww_96.h5"), mo.load(folder / "vww_96_float.tflite")
    assert mo.distance(keras, lite, on=mo.Box(0, 1)).to_json()["seen"] < 1e-6


def test_the_command_line(folder, tmp_path):
    def moduli(*words: str) -> str:
        command = [sys.executable, "-m", "moduli.interface.cli", *words]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    large = str(folder / "vww_96_float.tflite")
    assert "1496" in moduli("info", large)
    assert "971 left out" in moduli("compress", large, "-o", "small.tflite", "--on", "box:0,1")
    assert "accepted" in moduli(
        "check", "small.tflite.cert.json", "small.tflite", large, "--on", "box:0,1"
    )
