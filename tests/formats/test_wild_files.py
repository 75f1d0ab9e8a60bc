"""Files as they are found: packed, pointed to, in folders, in archives of other libraries, and in
formats that are not read.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import warnings
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from stand_ins import LFS, STAND_INS

from moduli import Box, formats
from moduli.api import check, compress
from moduli.common import files
from moduli.formats import load, load_box, save
from moduli.formats.second_reading import confirm
from moduli.kernel.errors import CertificateRejected, UnsupportedModel
from moduli.kernel.network import Network

RELU = Network.mlp([[1.0, 2.0], [1.0, -1.0]], [0.5, 0.0], [[1.0, -1.0]], [0.25], activation="relu")


def packed(path):
    """The file packed beside it."""
    target = path.with_name(f"{path.name}.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return target


# Packed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.onnx", "a.nnet", "a.npz", "A.ONNX", "A.NNET", "A.Npz"])
def test_networks_are_read_packed_and_in_any_case(tmp_path, name):
    path = save(RELU, tmp_path / name)
    assert load(path) == RELU
    assert load(packed(path)) == RELU


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.zip"])
def test_what_is_not_unpacked_says_so(tmp_path, name):
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"any"))
    with pytest.raises(
        UnsupportedModel,
        match=r"\.gz is not unpacked here; gunzip it first and give the model file",
    ):
        load(tmp_path / f"{name}.gz")
    (tmp_path / "a.tar.gz").write_bytes(b"any")
    with pytest.raises(UnsupportedModel, match="tar -xzf it first"):
        load(tmp_path / "a.tar.gz")


def test_external_data_of_a_packed_model_lies_in_its_folder(tmp_path):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "w.bin").write_bytes(weight.tobytes())
    tensor = numpy_helper.from_array(weight, "w")
    onnx.external_data_helper.set_external_data(tensor, "w.bin", 0, weight.nbytes)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, d]) for n, d in (("x", 3), ("y", 2))
    ]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], "g", ends[:1], ends[1:], [tensor]
    )
    (tmp_path / "a.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert load(packed(tmp_path / "a.onnx")).layers[0].weight.tolist() == weight.tolist()
    (tmp_path / "w.bin").write_bytes(
        LFS
    )  # longer than the weights: its text must not be taken for numbers
    with pytest.raises(UnsupportedModel, match=r"w\.bin is a Git LFS pointer"):
        load(tmp_path / "a.onnx.gz")
    shutil.move(tmp_path / "a.onnx.gz", tmp_path.parent / "away.onnx.gz")
    with pytest.raises(UnsupportedModel, match=r"w\.bin"):
        load(tmp_path.parent / "away.onnx.gz")


def test_boxes_and_certificates_are_read_packed(tmp_path):
    text = (
        "(declare-const X_0 Real)(declare-const X_1 Real)(assert (and (<= 0 X_0 1) (<= 2 X_1 3)))"
    )
    (tmp_path / "a.vnnlib").write_text(text)
    assert Box.from_vnnlib(packed(tmp_path / "a.vnnlib")).high.tolist() == [1, 3]
    small = compress(RELU)
    proof = small.save(tmp_path / "a.cert.json")
    assert check(packed(proof), small.network, RELU).status == "proved"


def test_a_packed_model_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "UNPACKED_FLOOR", 2**20)
    (tmp_path / "a.onnx.gz").write_bytes(gzip.compress(bytes(2**24)))
    with pytest.raises(UnsupportedModel, match=r"a\.onnx\.gz: \d+ bytes unpack to more than"):
        load(tmp_path / "a.onnx.gz")


# In the place of a file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.onnx", "a.nnet", "a.npz", "a.safetensors", "a.pt", "a.zip", "a.onnx.gz"]
)
@pytest.mark.parametrize("data", STAND_INS)
def test_a_pointer_is_named_whatever_it_stands_for(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnsupportedModel) as caught:
        load(tmp_path / name)
    assert STAND_INS[data] in str(caught.value)


@pytest.mark.parametrize("data", STAND_INS)
def test_a_pointer_in_place_of_boxes_and_certificates(tmp_path, data):
    for name, reader in (
        ("a.vnnlib", Box.from_vnnlib),
        ("a.npz", load_box),
        ("a.npz", formats.load_samples),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnsupportedModel) as caught:
            reader(tmp_path / name)
        assert STAND_INS[data] in str(caught.value)
    (tmp_path / "a.cert.json").write_bytes(data)
    with pytest.raises((UnsupportedModel, CertificateRejected)) as rejected:
        check(tmp_path / "a.cert.json", RELU, RELU)
    assert STAND_INS[data] in str(rejected.value)


# Folders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([], "model is a folder; give the file"),
        (["notes.txt"], "model is a folder; give the file"),
        (["saved_model.pb", "variables"], "(this is a TensorFlow SavedModel: export the model to ONNX: python -m tf2onnx"),
        (["config.json", "model.safetensors"], "(this is a Hugging Face model: "),
        (["config.json", "model.safetensors"], "model/model.safetensors)"),
        (["config.json", "tf_model.h5"], "(this is a Hugging Face model: export the model to ONNX)"),
        (["b.onnx", "a.nnet.gz"], "model/a.nnet.gz, "),
        ([f"{k}.onnx" for k in range(9)], "2.onnx, ...)"),
    ],
)  # fmt: skip
def test_a_folder_says_what_is_inside(tmp_path, held, said):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in held:
        (folder / name).touch()
    with pytest.raises(UnsupportedModel) as caught:
        load(folder)
    assert "is a folder; give the file" in str(caught.value)
    assert said in str(caught.value)
    folder.rename(tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModel, match="is a folder; give the file"):
        load(tmp_path / "model.onnx")


def test_the_empty_name_is_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UnsupportedModel, match=r"'' \(the current folder\) is a folder; give the file"
    ):
        load("")
    with pytest.raises(FileNotFoundError):
        load("nothing.h5")


# Formats that are not read --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.h5", "damaged or no HDF5 file"),
        ("A.H5", "damaged or no HDF5 file"),
        ("a.keras", "damaged or no HDF5 file"),
        ("a.pb", "this is a TensorFlow graph: export the model to ONNX"),
        ("a.tflite", "damaged or no TensorFlow Lite file"),
        ("a.pkl", "this is a pickle, which is code"),
        ("pytorch_model.bin", "if torch.save wrote it, rename it .pt"),
        ("a.h5.gz", "gunzip it first and give the model file"),
        ("a.yml", "cannot read suffix '.yml'; suffixes: .onnx .nnet"),
        ("a{x}.yml", "a{x}.yml: cannot read suffix"),
        ("a{x}.pb", "--graphdef a{x}.pb"),
        ("model", "cannot read suffix ''"),
    ],
)  # fmt: skip
def test_other_formats_are_named_with_the_way_out(tmp_path, name, said):
    (tmp_path / name).write_bytes(b"any")
    with pytest.raises(UnsupportedModel) as caught:
        load(tmp_path / name)
    assert said in str(caught.value)
    assert name in str(caught.value)


# Archives of Stable-Baselines3 ----------------------------------------------------------------------------------


class Trap:
    """Unpickled, it would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def policies(kind="ppo", width=4, actions=2, features=3):
    """State dicts with the names that Stable-Baselines3 gives, and the arrays of the actor."""
    import torch

    torch.manual_seed(0)
    state = {}

    def layers(*stems_and_sizes):
        for stem, n, m in stems_and_sizes:
            state[f"{stem}.weight"], state[f"{stem}.bias"] = torch.randn(m, n), torch.randn(m)
        return [stem for stem, _, _ in stems_and_sizes]

    if kind == "ppo":
        state["log_std"] = torch.zeros(actions)
        body = layers(
            ("mlp_extractor.policy_net.0", features, width),
            ("mlp_extractor.policy_net.2", width, width),
        )
        layers(
            ("mlp_extractor.value_net.0", features, width),
            ("mlp_extractor.value_net.2", width, width),
        )
        body += layers(("action_net", width, actions))
        layers(("value_net", width, 1))
        return state, body, ("mlp_extractor.policy_net", "action_net")
    body = layers(("q_net.q_net.0", features, width), ("q_net.q_net.2", width, features))
    layers(("q_net_target.q_net.0", features, width), ("q_net_target.q_net.2", width, features))
    return state, body, ("q_net",)


def archive(path, state, method=zipfile.ZIP_STORED, trap=None, more=()):
    import pickle

    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(path, "w", method) as target:
        target.writestr("data", json.dumps({"policy_class": {":serialized:": "gASVMAAA"}}))
        target.writestr("pytorch_variables.pth", b"" if trap is None else pickle.dumps(Trap(trap)))
        target.writestr("policy.optimizer.pth", b"" if trap is None else pickle.dumps(Trap(trap)))
        target.writestr("policy.pth", buffer.getvalue())
        target.writestr("_stable_baselines3_version", "2.3.2")
        for name, data in more:
            target.writestr(name, data)
    return path


@pytest.mark.parametrize("kind", ["ppo", "dqn"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_actor_of_an_archive_is_read_and_nothing_else(tmp_path, kind, method):
    pytest.importorskip("torch")
    state, body, keys = policies(kind)
    path = archive(tmp_path / "agent.ZIP", state, method, trap=tmp_path / "ran")
    net = load(path, activation="tanh", keys=keys)
    assert len(net.layers) == len(body)
    for layer, stem in zip(net.layers, body, strict=True):
        assert np.array_equal(layer.weight, state[f"{stem}.weight"].double().numpy())
        assert np.array_equal(layer.bias, state[f"{stem}.bias"].double().numpy())
    assert net.notes[-1].startswith("layers of policy.pth alone: scaling of observations")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["ppo", "dqn"])
def test_an_archive_demands_keys_and_lists_the_layers(tmp_path, kind):
    """Also where the layers of all its networks would fit in one chain, as those of dqn do here."""
    pytest.importorskip("torch")
    state, body, keys = policies(kind)
    path = archive(tmp_path / "agent.zip", state)
    with pytest.raises(UnsupportedModel) as caught:
        load(path, activation="tanh")
    assert (
        "policy.pth holds several networks, actor and critic; choose layers, in order, with keys=, from"
        in str(caught.value)
    )
    assert all(stem in str(caught.value) for stem in body)
    with pytest.raises(
        UnsupportedModel, match=r"agent\.zip: policy\.pth stores no activation"
    ) as caught:
        load(path, keys=keys)
    assert str(caught.value).count("agent.zip") == 1
    with pytest.raises(
        UnsupportedModel, match=r"agent\.zip: policy\.pth.*no entry starts with 'nothing'"
    ):
        load(path, activation="tanh", keys=("nothing",))


def test_a_policy_that_is_code_is_refused(tmp_path):
    pytest.importorskip("torch")
    import torch

    buffer = io.BytesIO()
    torch.save({"a.weight": Trap(tmp_path / "ran")}, buffer)
    with zipfile.ZipFile(tmp_path / "agent.zip", "w") as target:
        target.writestr("policy.pth", buffer.getvalue())
    for keys in (("a",), None):
        with pytest.raises(UnsupportedModel, match=r"agent\.zip: policy\.pth"):
            load(tmp_path / "agent.zip", activation="tanh", keys=keys)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "holds nothing and no policy.pth of Stable-Baselines3; unzip it and give the model file"),
        ([("model.onnx", b"")], "holds model.onnx and no policy.pth"),
        ([("archive/data.pkl", b"")], "is a torch file; rename it .pt"),
        ([("policy.pth", b"1"), ("policy.pth", b"2")], "holds policy.pth 2 times"),
        ([("policy.pth", b"12345")], "holds several networks, actor and critic; choose layers, in order, with keys="),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_hold_no_policy(tmp_path, entries, said):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as target:
        for name, data in entries:
            target.writestr(name, data)
    with pytest.raises(UnsupportedModel) as caught:
        load(tmp_path / "a.zip")
    assert said in str(caught.value)


def test_archives_that_lie_or_are_damaged(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    path.write_bytes(b"no archive")
    with pytest.raises(UnsupportedModel, match="is damaged or no zip archive"):
        load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("policy.pth", bytes(2**22))
    whole = path.read_bytes()
    monkeypatch.setattr(formats, "UNPACKED_FLOOR", 2**20)
    with pytest.raises(
        UnsupportedModel, match=f"unpacks from \\d+ bytes to {2**22}; unzip it if it is meant to"
    ):
        load(path)
    small = whole.replace((2**22).to_bytes(4, "little"), (2**10).to_bytes(4, "little"))
    assert small != whole
    path.write_bytes(small)
    with pytest.raises(UnsupportedModel, match=r"damaged|holds several"):
        load(path)
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("policy.pth", bytes(100))
    astray = bytearray(path.read_bytes())
    end = astray.find(b"PK\5\6")
    for start in (
        0,
        200,
        2**31 - 1,
    ):  # where the directory is said to lie, which moves the entries before the file
        astray[end + 16 : end + 20] = start.to_bytes(4, "little")
        path.write_bytes(astray)
        with pytest.raises(UnsupportedModel, match=r"a\.zip( is damaged|: malformed)"):
            load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as target:
        target.writestr("policy.pth", bytes(100))
    with pytest.raises(
        UnsupportedModel, match="packed in a way that is not read; unzip and zip it again"
    ):
        load(path)


# Boxes of arrays ------------------------------------------------------------------------------------------------


def test_a_box_of_arrays(tmp_path):
    np.savez(tmp_path / "a.NPZ", low=np.zeros((2, 3)), high=np.arange(1, 7).reshape(2, 3))
    shutil.move(tmp_path / "a.NPZ.npz", tmp_path / "a.NPZ")
    assert load_box(tmp_path / "a.NPZ").high.tolist() == [*range(1, 7)]
    np.savez(tmp_path / "b.npz", low=-1.5, high=2)
    assert load_box(packed(tmp_path / "b.npz")).of_dimension(2).low.tolist() == [-1.5, -1.5]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"low": 0}, "holds low; two arrays of numbers are needed: low and high"),
        ({"low": 0, "high": 1, "x": 2}, "holds low, high, x; two arrays"),
        ({"low": "0", "high": 1}, "two arrays of numbers"),
        ({"low": 1, "high": 0}, "low 1.0 exceeds high 0.0 at input 0; give the lower one first"),
        ({"low": [0, 0], "high": [1, 1, 1]}, "low has shape (2,) but high (3,)"),
        ({"low": [0, np.nan], "high": 1}, "low holds nan"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_box(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UnsupportedModel) as caught:
        load_box(tmp_path / "a.npz")
    assert said in str(caught.value)
    assert "a.npz" in str(caught.value)


def test_infinite_outputs_are_compared_without_a_warning():
    huge = Network.mlp([[1e308]], [0.0], [[1.0]], [0.0], activation="relu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = confirm(huge, huge, samples=(1,), unit=2.0**-53, by="itself")
    assert said.startswith("agrees with itself")
