"""Folders with checkpoints: what is read of them, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import moduli as mo
from moduli.common.checkpoint import CODES, decoded, encoded_as
from moduli.formats import checkpoint_files
from moduli.formats.checkpoint_files import open_checkpoint, save_checkpoint

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    return checkpoints.write(tmp_path / "model", *checkpoints.llama(0))


def opened(source: Any) -> Any:
    found = open_checkpoint(source)
    assert found is not None
    return found


def test_shards_an_index_and_one_file_are_the_same_checkpoint(folder, tmp_path):
    config, tensors = checkpoints.llama(0)
    single = checkpoints.write(tmp_path / "single", config, tensors, shards=1)
    for source in (folder, str(folder), folder / INDEX, single):
        found = opened(source)
        assert found.config == config
        assert found.tensors.keys() == tensors.keys()
        assert found.parameters == sum(value.numel() for value in tensors.values())
        for name, value in tensors.items():
            numbers = found.rows(name)
            assert numbers.dtype == np.float32
            assert np.array_equal(numbers, value.numpy())
    name = "model.embed_tokens.weight"
    assert np.array_equal(opened(folder).rows(name, 5, 9), tensors[name].numpy()[5:9])
    assert "llama" in repr(opened(folder))


def test_other_sources_are_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for source in (tmp_path, tmp_path / "absent", "zoo:digits-plain", "", 3, [(1, 2)]):
        assert open_checkpoint(source) is None


@pytest.mark.parametrize("dtype", list(CODES))
def test_numbers_of_every_type_come_back(dtype):
    rng = np.random.default_rng(0)
    numbers = np.concatenate(
        [rng.normal(size=100) * 10.0 ** rng.integers(-6, 4, 100), [0, -0.0, 1]]
    )
    wanted = torch.tensor(numbers).to(checkpoints.TYPES[dtype])
    if dtype == "BF16":  # by way of float32
        wanted = torch.tensor(numbers).to(torch.float32).to(torch.bfloat16)
    found = decoded(encoded_as(numbers, dtype), dtype)
    assert np.array_equal(found.astype(np.float64), wanted.to(torch.float64).numpy())


def test_what_is_written_is_read_by_the_library(folder, tmp_path):
    checkpoint = opened(folder)
    parts = ((name, checkpoint.raw(name)) for name in checkpoint.tensors)
    path = save_checkpoint(checkpoint.tensors, parts, tmp_path / "out.safetensors")
    found = load_file(path)
    for name, value in checkpoints.llama(0)[1].items():
        assert torch.equal(found[name], value.to(torch.bfloat16))


def changed_index(folder: Path, change: Any) -> None:
    data = json.loads((folder / INDEX).read_text())
    change(data["weight_map"])
    (folder / INDEX).write_text(json.dumps(data))


def set_map(value: Any) -> Any:
    return lambda folder: (folder / INDEX).write_text(json.dumps({"weight_map": value}))


def more(name: str, tensor: Any) -> Any:
    """One more tensor, in a shard of its own."""

    def change(folder: Path) -> None:
        save_file({name: tensor}, folder / "more.safetensors")
        changed_index(folder, lambda names: names.update({name: "more.safetensors"}))

    return change


def config(**values: Any) -> Any:
    def change(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text()) | values
        (folder / "config.json").write_text(json.dumps(data))

    return change


NORM = "model.norm.weight"
DAMAGES = [
    (lambda f: (f / "config.json").write_text("[1]"), "no JSON object"),
    (lambda f: (f / "config.json").write_text("{"), "no JSON"),
    (lambda f: (f / "config.json").write_bytes(b" " * (2**20 + 1)), "holds up to"),
    (lambda f: (f / INDEX).write_text("{}"), "no weight_map"),
    (set_map({"x": 3}), "no weight_map"),
    (set_map({"x": "../model.safetensors"}), "beside the index"),
    (set_map({"x": "/etc/passwd"}), "beside the index"),
    (lambda f: changed_index(f, lambda names: names.pop(NORM)), "also holds 'model.norm.weight'"),
    (lambda f: changed_index(f, lambda names: names.update(x=names[NORM])), "lacks 'x'"),
    (lambda f: next(f.glob("*.safetensors")).write_bytes(b"\0" * 50), "damaged"),
    (config(model_type="t5"), "tensors of llama, mistral, qwen2, gpt2 are declared"),
    (config(model_type=["llama"]), "are declared"),
    (config(quantization_config={"bits": 4}), "quantised"),
    (config(num_hidden_layers=0), "num_hidden_layers = 0"),
    (config(num_hidden_layers=True), "num_hidden_layers = True"),
    (config(num_hidden_layers=3), "there is no tensor 'model.layers.2"),
    (config(num_hidden_layers=1), "'model.layers.1.* belong to no tensor"),
    (config(num_hidden_layers=10**6), "up to 4096"),
    (config(num_attention_heads=3), "no such attention"),
    (config(num_attention_heads=8), "has shape"),
    (config(head_dim=5), "no such attention"),
    (config(partial_rotary_factor=0.5), "partial_rotary_factor = 0.5"),
    (config(hidden_act="snake"), "hidden_act = 'snake'"),
    (config(tie_word_embeddings="yes"), "tie_word_embeddings = yes"),
    (more("model.layers.0.self_attn.q_norm.weight", torch.ones(6)), "q_norm.weight' belong"),
    (more("model.layers.0.mlp.up_proj.bias", torch.ones(24).to(torch.int8)), "stored as I8"),
    (more("model.layers.0.mlp.up_proj.bias", torch.full((24,), torch.nan)), "not finite"),
    (more("model.layers.0.mlp.up_proj.bias", torch.ones(23)), "declared is (24,)"),
]


@pytest.mark.parametrize(("damage", "why"), DAMAGES)
def test_what_is_damaged_or_not_declared_is_refused_by_name(damage, why, folder):
    damage(folder)
    for ask in (mo.signature, lambda source: mo.align(source, source)):
        with pytest.raises((mo.UnsupportedModel, mo.ShapeError)) as caught:
            ask(folder)
        first, _, last = why.partition("*")
        assert first in str(caught.value)
        assert last in str(caught.value)


def test_a_shard_that_is_not_there(folder):
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError):
        mo.signature(folder)


def test_a_shard_that_becomes_shorter_is_noticed(folder):
    checkpoint = opened(folder)
    for file in folder.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(mo.UnsupportedModel, match="ends early"):
        mo.signature(checkpoint)


def test_sizes_are_looked_at_before_anything_is_read(folder, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "MAX_TENSORS", 5)
    with pytest.raises(mo.UnsupportedModel, match="up to 5"):
        mo.signature(folder)
    monkeypatch.undo()
    monkeypatch.setattr("moduli.equivalence.checkpoint_axes.MAX_NUMBERS", 100)
    with pytest.raises(mo.UnsupportedModel, match="up to 100 are held at a time"):
        mo.signature(folder)


def test_the_folder_is_still_no_model_to_load(folder):
    with pytest.raises(
        mo.UnsupportedModel, match="align, equivalent and signature take the folder"
    ):
        mo.load(folder)


def test_where_libraries_may_read_other_files(folder, tmp_path):
    config, tensors = checkpoints.llama(1)
    checkpoints.write(tmp_path / "other", config, tensors, shards=1)
    single = (tmp_path / "other" / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(single)
    with pytest.raises(mo.UnsupportedModel, match="not every library reads the same one"):
        open_checkpoint(folder)
    elsewhere = {**config, "transformers_weights": "other.safetensors"}
    with pytest.raises(mo.UnsupportedModel, match="names other weights"):
        open_checkpoint(checkpoints.write(tmp_path / "b", elsewhere, tensors))


@pytest.mark.parametrize(
    "name", ["\0.safetensors", "\ud800.safetensors", "a" * 300 + ".safetensors"]
)
def test_names_of_shards_that_no_file_has(name, folder):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = name
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(mo.UnsupportedModel, match=r"is no \.safetensors file beside the index"):
        open_checkpoint(folder)
