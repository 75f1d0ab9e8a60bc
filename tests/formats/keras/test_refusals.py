"""Keras files that are not read: each says why, and nothing in them is run."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

pytest.importorskip("h5py")

import h5py
from keras_models import L, write_h5, write_keras

import moduli as mo
from moduli.formats.keras import hdf5
from moduli.kernel.errors import MissingExtra, UnsupportedModel

RNG = np.random.default_rng(0)


def given(*shape):
    return L("InputLayer", {"batch_input_shape": [None, *shape], "batch_shape": [None, *shape]})


def dense(units, inputs):
    weights = {"kernel": np.ones((inputs, units), np.float32), "bias": np.zeros(units, np.float32)}
    return L("Dense", {"units": units, "activation": "relu", "use_bias": True}, weights)


def failure(path):
    """What is said of a file that is not read."""
    try:
        mo.load(path)
    except UnsupportedModel as error:
        return str(error)
    return None


def refused(path, match):
    with pytest.raises(UnsupportedModel, match=match) as caught:
        mo.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (L("Lambda", {"function": ["4wEAAA==", None, None]}), r"layer 'lambda_1' \(Lambda\): this kind"),
        (L("LSTM", {"units": 4}), "this kind of layer is not read; export the model to ONNX"),
        (L("Dense", {"units": 2}, {"kernel": np.ones((3, 2))}), "it has weights .kernel. where kernel, bias"),
        (L("Dense", {"units": 2, "use_bias": False}, {"kernel": np.ones((5, 2))}), "a weight has shape"),
        (L("Activation", {"activation": "mine>wobble"}), "activation 'mine>wobble'"),
        (L("ReLU", {"threshold": 1.0}), "a threshold other than 0"),
        (L("Reshape", {"target_shape": [5]}), r"shape \(3,\) as \[5\]"),
        (L("Flatten", {"data_format": "channels_first"}), "channels before positions"),
        (L("LeakyReLU", {"alpha": "much"}), "alpha 'much'"),
    ],
)  # fmt: skip
def test_layers_are_refused_by_name(tmp_path, layer, match):
    refused(write_h5(tmp_path / "a.h5", [given(3), layer]), match)


def test_a_class_of_the_users_own_is_not_taken_for_ours(tmp_path):
    path = write_keras(tmp_path / "a.keras", [given(3), dense(2, 3)])
    config = json.loads(zipfile.ZipFile(path).read("config.json"))
    config["config"]["layers"][1] |= {"module": "mine.layers", "registered_name": "Custom>Dense"}
    weights = zipfile.ZipFile(path).read("model.weights.h5")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)
    refused(path, "this kind of layer is not read")
    config["class_name"] = "MyModel"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)
    refused(path, "a MyModel is code, and is not run here")


def test_calls_with_arguments_and_circles(tmp_path):
    path = write_h5(tmp_path / "a.h5", [given(3), dense(3, 3)])

    def change(edit):
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            edit(config["config"])
            file.attrs["model_config"] = json.dumps(config)

    change(
        lambda c: c["layers"][1].update(
            inbound_nodes=[[[c["layers"][0]["name"], 0, 0, {"mask": 1}]]]
        )
    )
    refused(path, "it is called with")
    name = "dense_1"
    change(lambda c: c["layers"][1].update(inbound_nodes=[[[name, 0, 0, {}]]]))
    refused(path, "it waits for itself")
    change(lambda c: c.update(output_layers=[["nowhere", 0, 0]]))
    refused(path, "names layer 'nowhere', which is not there")
    change(lambda c: c.update(layers="none"))
    refused(path, "holds no layers")


def test_links_to_other_files_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["numbers"] = np.ones((3, 2), dtype=np.float32)
    path = write_h5(tmp_path / "a.h5", [given(3), dense(2, 3)])
    with h5py.File(path, "r+") as file:
        group = file["model_weights/dense_1/dense_1"]
        del group["kernel:0"]
        group["kernel:0"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "numbers")
    refused(path, "is a link, maybe to another file")
    with h5py.File(path, "r+") as file:
        group = file["model_weights/dense_1/dense_1"]
        del group["kernel:0"]
        outside = [(str(tmp_path / "secret.bin"), 0, 24)]
        group.create_dataset("kernel:0", shape=(3, 2), dtype="<f4", external=outside)
    refused(path, "lie in another file")
    with h5py.File(path, "r+") as file:
        group = file["model_weights/dense_1/dense_1"]
        del group["kernel:0"]
        group.create_dataset("kernel:0", shape=(2**20, 2**20), dtype="<f4", chunks=True)
    refused(path, "is larger than such a file holds")


def test_weights_alone_say_what_to_do(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names"] = np.array([b"dense"])
    refused(tmp_path / "a.h5", "holds weights and not the layers")


def test_damaged_files_are_refused_in_one_line(tmp_path):
    wholes = [
        write_h5(tmp_path / "a.h5", [given(3), dense(2, 3)]).read_bytes(),
        write_keras(tmp_path / "a.keras", [given(3), dense(2, 3)]).read_bytes(),
    ]
    for k in range(24):
        data = bytearray(wholes[k % 2])
        if k % 4 < 2:
            data = data[: RNG.integers(1, len(data))]
        else:
            data[RNG.integers(len(data))] ^= 255
        path = tmp_path / "bent.h5"
        path.write_bytes(data)
        said = failure(path)
        assert said is None or (str(path) in said and "\n" not in said)


def test_a_library_that_loops_or_crashes_is_a_damaged_file(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    monkeypatch.setattr(hdf5, "SCRIPT", script)
    script.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(UnsupportedModel, match=r"x.h5: damaged .* does not end within 1 seconds"):
        hdf5.held(b"any", "x.h5", weights=False, seconds=1.0)
    script.write_text("import os\nos.abort()\n")
    with pytest.raises(UnsupportedModel, match=r"x.h5: damaged .* fails"):
        hdf5.held(b"any", "x.h5", weights=False)


def test_without_h5py_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(hdf5, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'moduli\[keras\]'"):
        hdf5.held(b"any", "x.h5", weights=False)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * 2**27)
    (tmp_path / "a.keras").write_bytes(memory.getvalue())
    refused(tmp_path / "a.keras", r"config.json unpacks to 134217728 bytes")
