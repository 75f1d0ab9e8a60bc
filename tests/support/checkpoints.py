"""Small language models as checkpoints, what they compute, and disguises of them: written from the laws of the models,
by names of tensors, with nothing of the library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]
TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


def llama(
    seed: int = 0, *, layers: int = 2, width: int = 16, heads: int = 4, groups: int = 2, units: int = 24,
    tokens: int = 40, size: int = 6, tied: bool = False, bias: bool = False, dtype: str = "BF16",
) -> tuple[dict[str, Any], Tensors]:  # fmt: skip
    """A configuration and random tensors, numbers of a type, in float64."""
    config = {
        "model_type": "qwen2" if bias else "llama", "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": size, "intermediate_size": units,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 100.0, "vocab_size": tokens,
        "tie_word_embeddings": tied,
    }  # fmt: skip
    shapes = {"model.embed_tokens.weight": (tokens, width), "model.norm.weight": (width,)}
    for k in range(layers):
        at = f"model.layers.{k}."
        for name, rows in (("q", heads), ("k", groups), ("v", groups)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (rows * size, width)
            if bias:
                shapes[f"{at}self_attn.{name}_proj.bias"] = (rows * size,)
        shapes[f"{at}self_attn.o_proj.weight"] = (width, heads * size)
        shapes[f"{at}mlp.gate_proj.weight"] = (units, width)
        shapes[f"{at}mlp.up_proj.weight"] = (units, width)
        shapes[f"{at}mlp.down_proj.weight"] = (width, units)
        shapes[f"{at}input_layernorm.weight"] = (width,)
        shapes[f"{at}post_attention_layernorm.weight"] = (width,)
    if not tied:
        shapes["lm_head.weight"] = (tokens, width)
    return config, _drawn(shapes, seed, dtype)


def gpt2(
    seed: int = 0, *, layers: int = 2, width: int = 16, heads: int = 4, units: int = 32, tokens: int = 40,
    activation: str = "gelu_new", front: str = "", dtype: str = "F32",
) -> tuple[dict[str, Any], Tensors]:  # fmt: skip
    """The same of GPT-2: weights [inputs, outputs], embeddings tied."""
    config = {
        "model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": heads,
        "activation_function": activation, "layer_norm_epsilon": 1e-5, "vocab_size": tokens,
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (tokens, width), "wpe.weight": (12, width)}
    for k in range(layers):
        at = f"h.{k}."
        for name, inputs, outputs in (
            ("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width), ("mlp.c_fc", width, units),
            ("mlp.c_proj", units, width),
        ):  # fmt: skip
            shapes |= {f"{at}{name}.weight": (inputs, outputs), f"{at}{name}.bias": (outputs,)}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"{at}{name}.weight": (width,), f"{at}{name}.bias": (width,)}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    tensors = _drawn(shapes, seed, dtype)
    return config, {f"{front}{name}": value for name, value in tensors.items()}


def _drawn(shapes: dict[str, tuple[int, ...]], seed: int, dtype: str) -> Tensors:
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        numbers = torch.randn(shape, generator=draw, dtype=torch.float64)
        if "norm" in name or "ln_" in name:
            numbers = 1 + numbers / 4
        if dtype == "F16":  # powers of two leave these normal numbers
            numbers = numbers + torch.sign(numbers) / 4
        found[name] = (numbers / 2).to(TYPES[dtype]).to(torch.float64)
    return found


# What they compute -------------------------------------------------------------------------------------------------


def llama_logits(config: dict[str, Any], tensors: Tensors, ids: torch.Tensor) -> torch.Tensor:
    """Of one row of tokens, in float64."""
    heads, groups, size = (
        config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + config["rms_norm_eps"])
        return x * scale * tensors[f"{name}.weight"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        found = x @ tensors[f"{name}.weight"].T
        return found + tensors[f"{name}.bias"] if f"{name}.bias" in tensors else found

    x = tensors["model.embed_tokens.weight"][ids]
    angles = torch.outer(
        torch.arange(len(ids), dtype=torch.float64),
        config["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size),
    )
    cos, sin = (torch.cat([f(angles), f(angles)], -1) for f in (torch.cos, torch.sin))

    def turned(z: torch.Tensor) -> torch.Tensor:
        half = torch.cat([-z[..., size // 2 :], z[..., : size // 2]], -1)
        return z * cos + half * sin

    for k in range(config["num_hidden_layers"]):
        at = f"model.layers.{k}."
        y = norm(x, f"{at}input_layernorm")
        parts = [
            linear(y, f"{at}self_attn.{name}_proj").reshape(len(ids), count, size).transpose(0, 1)
            for name, count in (("q", heads), ("k", groups), ("v", groups))
        ]
        query, key = turned(parts[0]), turned(parts[1]).repeat_interleave(heads // groups, 0)
        mixed = _attended(query, key, parts[2].repeat_interleave(heads // groups, 0))
        x = x + linear(mixed, f"{at}self_attn.o_proj")
        y = norm(x, f"{at}post_attention_layernorm")
        gate = torch.nn.functional.silu(linear(y, f"{at}mlp.gate_proj"))
        x = x + linear(gate * linear(y, f"{at}mlp.up_proj"), f"{at}mlp.down_proj")
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    return norm(x, "model.norm") @ head.T


def gpt2_logits(config: dict[str, Any], tensors: Tensors, ids: torch.Tensor) -> torch.Tensor:
    """Of one row of tokens, in float64."""
    heads, width = config["n_head"], config["n_embd"]
    act = {
        "gelu_new": lambda z: torch.nn.functional.gelu(z, approximate="tanh"),
        "relu": torch.relu, "tanh": torch.tanh,
    }[config["activation_function"]]  # fmt: skip

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.layer_norm(
            x, (width,), tensors[f"{name}.weight"], tensors[f"{name}.bias"],
            config["layer_norm_epsilon"],
        )  # fmt: skip

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    x = tensors["wte.weight"][ids] + tensors["wpe.weight"][: len(ids)]
    for k in range(config["n_layer"]):
        at = f"h.{k}."
        parts = linear(norm(x, f"{at}ln_1"), f"{at}attn.c_attn").split(width, -1)
        query, key, value = (
            part.reshape(len(ids), heads, width // heads).transpose(0, 1) for part in parts
        )
        x = x + linear(_attended(query, key, value), f"{at}attn.c_proj")
        x = x + linear(act(linear(norm(x, f"{at}ln_2"), f"{at}mlp.c_fc")), f"{at}mlp.c_proj")
    return norm(x, "ln_f") @ tensors["wte.weight"].T


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention, heads side by side."""
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
    mask = torch.triu(torch.ones(scores.shape[1:], dtype=torch.bool), 1)
    mixed = torch.softmax(scores.masked_fill(mask, -torch.inf), -1) @ value
    return mixed.transpose(0, 1).reshape(value.shape[1], -1)


# Disguises ---------------------------------------------------------------------------------------------------------


class Drawn:
    """Random orders, signs, and scales: powers of two, or any numbers."""

    def __init__(self, seed: int, *, powers: bool) -> None:
        self.rng, self.powers = np.random.default_rng(seed), powers

    def order(self, count: int) -> torch.Tensor:
        return torch.tensor(self.rng.permutation(count))

    def signs(self, count: int) -> torch.Tensor:
        return torch.tensor(self.rng.choice([-1.0, 1.0], count))

    def scales(self, count: int) -> torch.Tensor:
        if self.powers:
            return torch.tensor(2.0 ** self.rng.integers(-3, 4, count))
        return torch.tensor(np.exp(self.rng.normal(0, 0.5, count)))

    def numbers(self, count: int) -> torch.Tensor:
        return self.signs(count) * self.scales(count)


def disguised_llama(
    config: dict[str, Any], tensors: Tensors, seed: int, *, powers: bool = True
) -> Tensors:
    """The same function in other numbers."""
    t, draw = dict(tensors), Drawn(seed, powers=powers)
    heads, groups, size, width = (
        config[key]
        for key in ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size")
    )
    shared, half = heads // groups, size // 2
    head = [] if config["tie_word_embeddings"] else ["lm_head.weight"]

    def rows(name: str, order: torch.Tensor, numbers: torch.Tensor) -> None:
        """Of a weight and of its bias."""
        t[f"{name}.weight"] = t[f"{name}.weight"][order] * numbers[:, None]
        if f"{name}.bias" in t:
            t[f"{name}.bias"] = t[f"{name}.bias"][order] * numbers

    # inside layers
    for k in range(config["num_hidden_layers"]):
        at = f"model.layers.{k}."
        units = config["intermediate_size"]
        order, numbers = draw.order(units), draw.numbers(units)
        rows(f"{at}mlp.gate_proj", order, torch.ones(units))
        rows(f"{at}mlp.up_proj", order, numbers)
        t[f"{at}mlp.down_proj.weight"] = t[f"{at}mlp.down_proj.weight"][:, order] / numbers
        kept = draw.order(groups)
        queries, keys, values = ([], [], []), ([], []), ([], [])
        for group in kept.tolist():
            inside, held = draw.order(size), draw.numbers(size)
            values[0].append(group * size + inside)
            values[1].append(held)
            turns, scale = draw.rng.integers(0, 4, half), draw.scales(half)
            # (x, y) -> (-y, x), as often as drawn
            source = torch.arange(size).reshape(2, half)
            sign = torch.ones(2, half, dtype=torch.float64)
            for plane, count in enumerate(turns.tolist()):
                for _ in range(count):
                    source[:, plane] = source[:, plane].flip(0)
                    sign[:, plane] = sign[:, plane].flip(0) * torch.tensor([-1.0, 1.0])
            source, sign, both = source.reshape(-1), sign.reshape(-1), torch.cat([scale, scale])
            keys[0].append(group * size + source)
            keys[1].append(sign / both)
            for h in (group * shared + draw.order(shared)).tolist():
                queries[0].append(h * size + source)
                queries[1].append(sign * both)
                queries[2].append((h * size + inside, held))
        rows(f"{at}self_attn.q_proj", torch.cat(queries[0]), torch.cat(queries[1]))
        rows(f"{at}self_attn.k_proj", torch.cat(keys[0]), torch.cat(keys[1]))
        rows(f"{at}self_attn.v_proj", torch.cat(values[0]), torch.cat(values[1]))
        columns = torch.cat([order for order, _ in queries[2]])
        numbers = torch.cat([numbers for _, numbers in queries[2]])
        name = f"{at}self_attn.o_proj.weight"
        t[name] = t[name][:, columns] / numbers
        # what norms give
        for norm, readers in (
            ("input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"]),
        ):
            numbers = draw.numbers(width)
            t[f"{at}{norm}.weight"] = t[f"{at}{norm}.weight"] * numbers
            for reader in readers:
                t[f"{at}{reader}.weight"] = t[f"{at}{reader}.weight"] / numbers
    if head:
        numbers = draw.numbers(width)
        t["model.norm.weight"] = t["model.norm.weight"] * numbers
        t["lm_head.weight"] = t["lm_head.weight"] / numbers
    # the stream
    order, signs = draw.order(width), draw.signs(width)
    for name, value in t.items():
        if "norm" in name:
            t[name] = value[order]
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            t[name] = value[order] * signs[:, None]
        elif name.endswith(".weight"):
            t[name] = value[:, order] * signs
    return t


def disguised_gpt2(
    config: dict[str, Any], tensors: Tensors, seed: int, *, powers: bool = True
) -> Tensors:
    """The same function in other numbers."""
    t, draw = dict(tensors), Drawn(seed, powers=powers)
    heads, width = config["n_head"], config["n_embd"]
    size, act = width // heads, config["activation_function"]
    for k in range(config["n_layer"]):
        at = f"h.{k}."
        units = len(t[f"{at}mlp.c_fc.bias"])
        order, numbers = draw.order(units), torch.ones(units, dtype=torch.float64)
        if act == "relu":
            numbers = draw.scales(units)
        if act == "tanh":
            numbers = draw.signs(units)
        t[f"{at}mlp.c_fc.weight"] = t[f"{at}mlp.c_fc.weight"][:, order] * numbers
        t[f"{at}mlp.c_fc.bias"] = t[f"{at}mlp.c_fc.bias"][order] * numbers
        t[f"{at}mlp.c_proj.weight"] = t[f"{at}mlp.c_proj.weight"][order] / numbers[:, None]
        moved = []
        for h in draw.order(heads).tolist():
            moved.append([(h * size + draw.order(size), draw.numbers(size)) for _ in range(2)])
        (scored, scale), (held, own) = (
            tuple(torch.cat([part[which][k] for part in moved]) for k in range(2))
            for which in range(2)
        )
        for end in ("weight", "bias"):
            query, key, value = t[f"{at}attn.c_attn.{end}"].split(width, -1)
            t[f"{at}attn.c_attn.{end}"] = torch.cat(
                [query[..., scored] * scale, key[..., scored] / scale, value[..., held] * own], -1
            )
        t[f"{at}attn.c_proj.weight"] = t[f"{at}attn.c_proj.weight"][held] / own[:, None]
        for norm, reader in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
            numbers = draw.numbers(width)
            for end in ("weight", "bias"):
                t[f"{at}{norm}.{end}"] = t[f"{at}{norm}.{end}"] * numbers
            t[f"{at}{reader}.weight"] = t[f"{at}{reader}.weight"] / numbers[:, None]
    # The stream: one sign for all. Norms turn with it, so that what they give has the sign, too.
    order, sign = draw.order(width), float(draw.signs(1))
    for name, value in t.items():
        if name.endswith(("c_attn.weight", "c_fc.weight")):
            t[name] = value[order] * sign
        elif name.endswith(("wte.weight", "wpe.weight", "c_proj.weight")):
            t[name] = value[:, order] * sign
        elif name.endswith("c_proj.bias") or (".ln_" in f".{name}" and name.endswith("bias")):
            t[name] = value[order] * sign
        elif ".ln_" in f".{name}":
            t[name] = value[order]
    return t


# Files -------------------------------------------------------------------------------------------------------------


def write(
    folder: Path, config: dict[str, Any], tensors: Tensors, *, dtype: str = "BF16", shards: int = 3
) -> Path:
    """As Hugging Face's libraries do: shards with an index, or one file."""
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    kept = {name: value.to(TYPES[dtype]).contiguous() for name, value in tensors.items()}
    if shards == 1:
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
        return folder
    listed = {}
    for k in range(shards):
        name = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(kept.items())[k::shards])
        save_file(part, folder / name, {"format": "pt"})
        listed.update(dict.fromkeys(part, name))
    size = sum(value.numel() * value.element_size() for value in kept.values())
    index = {"metadata": {"total_size": size}, "weight_map": listed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
