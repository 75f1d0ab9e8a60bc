"""Checkpoints of 10^9 parameters: a disguised copy, a near miss, a rounded copy, an unrelated one.

python benchmarks/bench_checkpoints.py --folder DIR            (about half an hour; 8 GB in DIR, deleted at the end)
python benchmarks/bench_checkpoints.py --folder DIR --layers 1 (a smaller one)

LLaMA's layout with random bfloat16 numbers, in shards. Each question is asked in a process of its own, whose largest
resident memory is shown (Linux) beside that of one layer in float32.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rivals.common import table
from safetensors.torch import save_file

WIDTH, HEADS, GROUPS, SIZE, UNITS, TOKENS = 2048, 16, 8, 128, 5632, 32_000
SHARED = HEADS // GROUPS
ASK = """
import json, re, sys, time
import moduli as mo
start = time.perf_counter()
found = getattr(mo, sys.argv[1])(*sys.argv[2:])
took, work = time.perf_counter() - start, time.process_time()
peak = int(re.search(r"VmHWM:\\s*([0-9]+)", open("/proc/self/status").read())[1]) / 1024
said = found.statement if hasattr(found, "statement") else str(found)
print(json.dumps([getattr(found, "status", ""), said, took, work, peak]))
"""


def shapes(k: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a layer."""
    at = f"model.layers.{k}."
    return {
        f"{at}self_attn.q_proj.weight": (HEADS * SIZE, WIDTH),
        f"{at}self_attn.k_proj.weight": (GROUPS * SIZE, WIDTH),
        f"{at}self_attn.v_proj.weight": (GROUPS * SIZE, WIDTH),
        f"{at}self_attn.o_proj.weight": (WIDTH, HEADS * SIZE),
        f"{at}mlp.gate_proj.weight": (UNITS, WIDTH),
        f"{at}mlp.up_proj.weight": (UNITS, WIDTH),
        f"{at}mlp.down_proj.weight": (WIDTH, UNITS),
        f"{at}input_layernorm.weight": (WIDTH,),
        f"{at}post_attention_layernorm.weight": (WIDTH,),
    }


def drawn(layers: int, seed: int) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Shards of a random checkpoint: embeddings, layers, output."""
    parts = [
        ("embeddings", {"model.embed_tokens.weight": (TOKENS, WIDTH)}),
        *((f"layer {k}", shapes(k)) for k in range(layers)),
        ("output", {"model.norm.weight": (WIDTH,), "lm_head.weight": (TOKENS, WIDTH)}),
    ]
    rng = np.random.default_rng(seed)
    for name, wanted in parts:
        found = {}
        for tensor, shape in wanted.items():
            numbers = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
            spread = 1 + numbers / 8 if "norm" in tensor else numbers / 45
            found[tensor] = spread.to(torch.bfloat16)
        yield name, found


class Disguise:
    """Orders, signs and scales (powers of two, or any) of the stream, units, heads, values, norms."""

    def __init__(self, seed: int, *, powers: bool) -> None:
        self.rng, self.powers = np.random.default_rng(seed), powers
        self.stream, self.signs = self.order(WIDTH), self.sign(WIDTH)

    def order(self, count: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.permutation(count))

    def sign(self, count: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.choice([-1.0, 1.0], count).astype(np.float32))

    def number(self, count: int) -> torch.Tensor:
        powers = 2.0 ** self.rng.integers(-2, 3, count)
        scale = powers if self.powers else np.exp(self.rng.normal(0, 0.4, count))
        return self.sign(count) * torch.from_numpy(scale.astype(np.float32))

    def of(self, name: str, shard: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        t = {key: value.to(torch.float32) for key, value in shard.items()}
        if name == "embeddings":
            key = "model.embed_tokens.weight"
            t[key] = t[key][:, self.stream] * self.signs
        elif name == "output":
            self._norm(t, "model.norm", ["lm_head"])
        else:
            self._layer(t, next(iter(t)).rpartition("self_attn")[0])
        return {key: value.to(torch.bfloat16).contiguous() for key, value in t.items()}

    def _norm(self, t: dict[str, torch.Tensor], norm: str, readers: list[str]) -> None:
        numbers = self.number(WIDTH)
        gain = t[f"{norm}.weight"][self.stream]
        t[f"{norm}.weight"] = gain * numbers * self.signs
        for reader in readers:
            t[f"{reader}.weight"] = t[f"{reader}.weight"][:, self.stream] / numbers

    def _layer(self, t: dict[str, torch.Tensor], at: str) -> None:
        heads, mlp = f"{at}self_attn.", f"{at}mlp."
        order, numbers = self.order(UNITS), self.number(UNITS)
        t[f"{mlp}gate_proj.weight"] = t[f"{mlp}gate_proj.weight"][order]
        t[f"{mlp}up_proj.weight"] = t[f"{mlp}up_proj.weight"][order] * numbers[:, None]
        down = t[f"{mlp}down_proj.weight"][:, order] / numbers
        t[f"{mlp}down_proj.weight"] = down[self.stream] * self.signs[:, None]
        keys, values, queries, outputs = [], [], [], []
        scales, held = [], []
        for group in self.order(GROUPS).tolist():
            inside, numbers = self.order(SIZE), self.number(SIZE)
            scale = self.number(SIZE // 2).repeat(2)
            keys.append(group * SIZE + torch.arange(SIZE))
            values.append(group * SIZE + inside)
            scales.append(scale)
            held.append(numbers)
            for head in (group * SHARED + self.order(SHARED)).tolist():
                queries.append(head * SIZE + torch.arange(SIZE))
                outputs.append(head * SIZE + inside)
        scale, own = torch.stack(scales), torch.stack(held)
        read = scale.repeat_interleave(SHARED, 0).ravel()
        shared = own.repeat_interleave(SHARED, 0).ravel()
        for name, places, factor in (
            ("q", queries, 1 / read), ("k", keys, scale.ravel()), ("v", values, own.ravel()),
        ):  # fmt: skip
            weight = f"{heads}{name}_proj.weight"
            t[weight] = t[weight][torch.cat(places)] * factor[:, None]
        weight = f"{heads}o_proj.weight"
        t[weight] = t[weight][:, torch.cat(outputs)] / shared
        t[weight] = t[weight][self.stream] * self.signs[:, None]
        self._norm(t, f"{at}input_layernorm", [f"{heads}{name}_proj" for name in "qkv"])
        self._norm(t, f"{at}post_attention_layernorm", [f"{mlp}gate_proj", f"{mlp}up_proj"])


def write(folder: Path, layers: int, seed: int, disguise: Disguise | None = None) -> str:
    folder.mkdir()
    config = {
        "model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS, "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    listed = {}
    for k, (name, shard) in enumerate(drawn(layers, seed)):
        file = f"model-{k + 1:05}-of-{layers + 2:05}.safetensors"
        kept = shard if disguise is None else disguise.of(name, shard)
        save_file(kept, folder / file, {"format": "pt"})
        listed.update(dict.fromkeys(kept, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    return str(folder)


def turn_a_bit(folder: str) -> None:
    """The last bit of one number in the middle of a shard."""
    file = sorted(Path(folder).glob("*.safetensors"))[1]
    with file.open("r+b") as data:
        data.seek(file.stat().st_size // 4 * 2)
        low = data.read(1)[0]
        data.seek(-1, 1)
        data.write(bytes([low ^ 1]))


def ask(what: str, *folders: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-c", ASK, what, *folders], check=True, capture_output=True, text=True
    )
    status, said, took, work, peak = json.loads(done.stdout)
    numbers = [f"{took:.0f}", f"{work:.0f}", f"{peak:.0f}"]
    print(what, status, said, *numbers, sep="; ", flush=True)
    return [f"{status} {said}".strip(), *numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where files go")
    parser.add_argument("--layers", type=int, default=19)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        folder, start = Path(scratch), time.perf_counter()
        base = write(folder / "base", given.layers, 0)
        copy = write(folder / "copy", given.layers, 0, Disguise(1, powers=True))
        near = write(folder / "rounded", given.layers, 0, Disguise(2, powers=False))
        other = write(folder / "other", given.layers, 3)
        print(f"written in {time.perf_counter() - start:.0f} s", flush=True)
        rows = [
            ["signature of a", *ask("signature", base)],
            ["signature of its disguised copy", *ask("signature", copy)],
            ["equivalent: the copy", *ask("equivalent", copy, base)],
        ]
        turn_a_bit(copy)
        rows += [
            ["equivalent: one bit of the copy turned", *ask("equivalent", copy, base)],
            ["align: a copy with any scales, rounded", *ask("align", near, base)],
            ["align: an unrelated one", *ask("align", other, base)],
        ]
        shutil.rmtree(folder / "other")
    layer = sum(int(np.prod(shape)) for shape in shapes(0).values())
    count = 2 * TOKENS * WIDTH + WIDTH + given.layers * layer
    print(
        f"{count:,} parameters in {given.layers} layers; one layer in float32: {layer * 4 / 2**20:.0f} MB"
    )
    table("Checkpoints", ("question", "answer", "s", "s of one core", "MB"), rows)


if __name__ == "__main__":
    main()
