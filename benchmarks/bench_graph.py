"""Graphs: how cost grows with size, what real files lose, and networks pruned with masks.

python benchmarks/bench_graph.py [large] [real] [pruned]          (all three by default)

`large` and `real` measure in a process of their own each, on one thread: seconds of the processor,
and peak resident memory less that of the interpreter with the library loaded, beside the bytes of
the file. `real` reads the folder of models that MODULI_SHARED names. `pruned` trains small torch
networks on digits, prunes them with masks, and compares what moduli makes of them with what
onnxsim, onnxslim and torch-pruning make of the same networks, where these are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHARED = Path(os.environ.get("MODULI_SHARED", Path(__file__).parents[1] / ".." / "shared"))


# Large models ---------------------------------------------------------------------------------------------------


class Model:
    """Nodes and float32 weights, one after another; an eighth of planted rows are copies or zero."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.stored: list[Any] = []

    def keep(self, array: Any) -> str:
        name = f"w{len(self.stored)}"
        self.stored.append(
            numpy_helper.from_array(np.ascontiguousarray(array, dtype=np.float32), name)
        )
        return name

    def weight(self, *shape: int, planted: int | None = None) -> str:
        scale = np.float32(np.prod(shape[1:]) ** -0.5)
        array = self.rng.standard_normal(shape, dtype=np.float32) * scale
        if planted is not None:
            rows = np.moveaxis(array, planted, 0)
            k = len(rows) // 8
            rows[k : 2 * k] = rows[:k]
            rows[2 * k : 3 * k] = 0
        return self.keep(array)

    def integers(self, *numbers: int) -> str:
        name = f"i{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.array(numbers, dtype=np.int64), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def save(self, path: Path, x: Any, y: str, opset: int) -> Path:
        output = helper.make_tensor_value_info(y, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "bench", [x], [output], self.stored)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9
        )
        onnx.save(model, path)
        return path


def resnet50(path: Path) -> Path:
    """25.6 million parameters; the middle channels of each block have copies and zeros."""
    m = Model()

    def block(x: str, n: int, out: int, k: int, stride: int = 1, planted: bool = False) -> str:
        w = m.weight(out, n, k, k, planted=0 if planted else None)
        y = m.node("Conv", x, w, kernel_shape=[k, k], pads=[k // 2] * 4, strides=[stride] * 2)
        ones, zeros = np.ones(out), np.zeros(out)
        return m.node("BatchNormalization", y, *map(m.keep, (ones, zeros, zeros, ones)))

    x = m.node("Relu", block("x", 3, 64, 7, 2))
    x = m.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    width = 64
    for stage, (count, n) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for i in range(count):
            stride = 2 if stage and not i else 1
            y = m.node("Relu", block(x, width, n, 1, planted=True))
            y = block(m.node("Relu", block(y, n, n, 3, stride, planted=True)), n, 4 * n, 1)
            skip = block(x, width, 4 * n, 1, stride) if not i else x
            x, width = m.node("Relu", m.node("Add", skip, y)), 4 * n
    x = m.node("Flatten", m.node("GlobalAveragePool", x))
    y = m.node("Gemm", x, m.weight(1000, width), m.keep(np.zeros(1000)), transB=1)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 224, 224])
    return m.save(path, image, y, 17)


def transformer(
    path: Path, layers: int = 12, d: int = 768, heads: int = 12, words: int = 30522
) -> Path:
    """108 million parameters, tied embedding; feed-forward units have copies and zeros."""
    m = Model()
    table, length = m.weight(words, d), 128
    x = m.node("Add", m.node("Gather", table, "x"), m.weight(length, d))
    split, join = m.integers(0, 0, heads, d // heads), m.integers(0, 0, d)
    scale = m.keep(np.array((d // heads) ** -0.5))

    def norm(x: str) -> str:
        return m.node("LayerNormalization", x, m.keep(np.ones(d)), m.keep(np.zeros(d)), axis=-1)

    def dense(x: str, n: int, out: int, planted: int | None = None) -> str:
        y = m.node("MatMul", x, m.weight(n, out, planted=planted))
        return m.node("Add", y, m.keep(np.full(out, 0.0)))

    for _ in range(layers):
        h = norm(x)
        q, k, v = (m.node("Reshape", dense(h, d, d), split) for _ in range(3))
        scores = m.node(
            "MatMul",
            m.node("Transpose", q, perm=[0, 2, 1, 3]),
            m.node("Transpose", k, perm=[0, 2, 3, 1]),
        )
        weights = m.node("Softmax", m.node("Mul", scores, scale), axis=-1)
        mixed = m.node("MatMul", weights, m.node("Transpose", v, perm=[0, 2, 1, 3]))
        mixed = m.node("Reshape", m.node("Transpose", mixed, perm=[0, 2, 1, 3]), join)
        x = m.node("Add", x, dense(mixed, d, d))
        h = m.node("Gelu", dense(norm(x), d, 4 * d, planted=1))
        x = m.node("Add", x, dense(h, 4 * d, d))
    y = m.node("MatMul", norm(x), m.node("Transpose", table, perm=[1, 0]))
    tokens = helper.make_tensor_value_info("x", TensorProto.INT64, ["n", length])
    return m.save(path, tokens, y, 20)


def peak_memory() -> int:
    """Of this process since it began, in KiB (Linux): what its parent held does not count."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def measure(path: Path, out: Path, on: Any = None) -> dict[str, Any]:
    """Load, compress, save, check one model; in this process."""
    import moduli as mo
    from moduli.formats.onnx import graph_files  # noqa: F401  what it imports is no cost of a model

    base = peak_memory()
    start = time.process_time()
    graph = mo.load(path)
    loaded = time.process_time()
    small = mo.compress(graph, on=None if on is None else mo.Box(*on))
    reduced = time.process_time()
    peak = peak_memory()
    mo.save(small.network, out)
    written = time.process_time()
    small.check()
    return {
        "parameters": graph.parameters, "after": small.network.parameters, "removed": small.removed,
        "more": small.more, "load": loaded - start, "compress": reduced - loaded,
        "save": written - reduced, "check": time.process_time() - written,
        "peak": (peak - base) * 1024 / path.stat().st_size,
    }  # fmt: skip


def apart(path: Path, out: Path, on: Any = None) -> dict[str, Any]:
    """`measure` in a process of its own."""
    call = f"b.measure(b.Path({str(path)!r}), b.Path({str(out)!r}), {on!r})"
    code = f"import json, bench_graph as b; print(json.dumps({call}))"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(name: str, found: dict[str, Any]) -> str:
    gone = ", ".join(f"{n} {word}" for word, n in found["removed"].items() if n) or "-"
    seconds = " | ".join(f"{found[part]:.1f}" for part in ("load", "compress", "save", "check"))
    sizes = f"{found['parameters']:,} | {found['after']:,}"
    return f"| {name} | {sizes} | {gone} | {found['more']} | {seconds} | {found['peak']:.1f} |"


COLUMNS = (
    "model", "parameters", "after", "units and branches", "with rounding", "load, s", "compress, s",
    "save, s", "check, s", "peak / file",
)  # fmt: skip
HEAD = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def large(folder: Path) -> None:
    print(HEAD)
    for name, make in (("ResNet-50", resnet50), ("transformer", transformer)):
        print(row(name, apart(make(folder / f"{name}.onnx"), folder / "small.onnx")))


def real(folder: Path) -> None:
    models = SHARED / "models" / "graph"
    print(HEAD)
    for entry in json.loads((models / "manifest.json").read_text())["models"]:
        for on in (None, entry.get("box")):
            if on is None or "removable" in entry or entry["name"].startswith("v21"):
                name = entry["name"] if on is None else f"{entry['name']} on {on}"
                print(row(name, apart(models / entry["name"], folder / "small.onnx", on)))


# Pruned with masks ----------------------------------------------------------------------------------------------


def networks() -> dict[str, Any]:
    """Small torch networks for images of 8 x 8."""
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self, n: int, middle: int) -> None:
            super().__init__()
            self.a, self.n1 = nn.Conv2d(n, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle)
            self.b, self.n2 = nn.Conv2d(middle, n, 3, padding=1, bias=False), nn.BatchNorm2d(n)

        def forward(self, x: Any) -> Any:
            return torch.relu(x + self.n2(self.b(torch.relu(self.n1(self.a(x))))))

    def inverted(n: int, wide: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(n, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide),
            nn.ReLU6(), nn.Conv2d(wide, n, 1, bias=False), nn.BatchNorm2d(n),
        )  # fmt: skip

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(1, 32, 2, stride=2)
            layer = nn.TransformerEncoderLayer(
                32, 4, 96, dropout=0.0, batch_first=True, activation="gelu"
            )
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(32, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(self.patch(x).flatten(2).transpose(1, 2)).mean(1))

    def head(n: int) -> list[nn.Module]:
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, 10)]

    stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    torch.manual_seed(0)
    return {
        "residual": nn.Sequential(stem, Residual(32, 48), Residual(32, 48), *head(32)),
        "inverted": nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), inverted(16, 64), inverted(16, 64), *head(16)
        ),
        "transformer": Patches(),
    }


def trained(net: Any) -> Any:
    import torch
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    torch.set_grad_enabled(True)
    x = torch.tensor(load_digits().images[:, None] / 16, dtype=torch.float32)
    y = torch.tensor(load_digits().target)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for step in range(60):
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(step))[:256]
        loss = torch.nn.functional.cross_entropy(net(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def masked(net: Any, how: str) -> Any:
    """Masks of torch: rows by norm, single weights, or batch norm scales set to zero."""
    import torch
    from torch import nn
    from torch.nn.utils import prune

    torch.set_grad_enabled(False)
    for module in net.modules():
        if (
            how == "rows"
            and isinstance(module, (nn.Conv2d, nn.Linear))
            and module.weight.shape[0] > 32
        ):
            prune.ln_structured(module, "weight", 0.5, 2, 0)
            if module.bias is not None:
                kept = module.weight_mask.flatten(1).any(1)
                module.bias.data *= kept
        elif how == "weights" and isinstance(module, (nn.Conv2d, nn.Linear)):
            prune.l1_unstructured(module, "weight", 0.9)
        elif how == "scales" and isinstance(module, nn.BatchNorm2d):
            small = module.weight.abs().argsort()[: len(module.weight) // 2]
            module.weight.data[small] = 0
            module.bias.data[small] = -module.bias.data[small].abs()
    return net


def pruned(folder: Path) -> None:
    import torch

    x = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    print(
        "| network | pruned by | tool | parameters | ms | largest difference |\n|---|---|---|---|---|---|"
    )
    for name in networks():
        for how in ("rows", "weights", "scales"):
            net = masked(trained(networks()[name]), how)
            if how == "scales" and name == "transformer":
                continue
            for tool, make in TOOLS.items():
                try:
                    path = make(net, x, folder)
                except ModuleNotFoundError as error:
                    print(f"| {name} | {how} | {tool} | not installed: {error.name} | | |")
                    continue
                except Exception as error:  # a tool may not take a network
                    print(f"| {name} | {how} | {tool} | fails: {type(error).__name__} | | |")
                    continue
                count, spent, differs = judged(path, net, x)
                print(f"| {name} | {how} | {tool} | {count:,} | {spent:.3f} | {differs:.2g} |")


def judged(path: Path, net: Any, x: Any) -> tuple[int, float, float]:
    """Stored floats, milliseconds a batch (best of many), largest difference from the network."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    run = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {run.get_inputs()[0].name: x.numpy()}
    times = []
    for _ in range(200):
        start = time.perf_counter()
        (found,) = run.run(None, feeds)
        times.append(time.perf_counter() - start)
    with torch.no_grad():
        wanted = net(x).numpy()
    model = onnx.load(path)
    stored = sum(
        int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == 1 and len(t.dims)
    )
    return stored, 1e3 * min(times), float(np.abs(found - wanted).max())


def exported(net: Any, x: Any, folder: Path) -> Path:
    import copy

    import torch
    from torch.nn.utils import prune

    plain = copy.deepcopy(net)
    for module in plain.modules():
        if hasattr(module, "weight_mask"):
            prune.remove(module, "weight")
    path = folder / "net.onnx"
    torch.backends.mha.set_fastpath_enabled(False)
    torch.onnx.export(
        plain,
        (x,),
        path,
        dynamo=False,
        input_names=["x"],
        opset_version=17,
        dynamic_axes={"x": {0: "n"}},
    )
    return path


def by_moduli(net: Any, x: Any, folder: Path) -> Path:
    import moduli as mo

    small = mo.compress(exported(net, x, folder))
    return mo.save(small.network, folder / "moduli.onnx")


def by_prune_dead(net: Any, x: Any, folder: Path) -> Path:
    from moduli.pytorch import prune_dead

    return exported(prune_dead(net, x).module, x, folder)


def by_onnxsim(net: Any, x: Any, folder: Path) -> Path:
    import onnxsim

    model, _ = onnxsim.simplify(onnx.load(exported(net, x, folder)))
    onnx.save(model, folder / "sim.onnx")
    return folder / "sim.onnx"


def by_onnxslim(net: Any, x: Any, folder: Path) -> Path:
    import onnxslim

    onnx.save(onnxslim.slim(str(exported(net, x, folder))), folder / "slim.onnx")
    return folder / "slim.onnx"


def by_torch_pruning(net: Any, x: Any, folder: Path) -> Path:
    """Half of the channels by magnitude: its criterion is a size, not what the function needs."""
    import copy

    import torch
    import torch_pruning
    from torch.nn.utils import prune

    plain = copy.deepcopy(net)
    for module in plain.modules():
        if hasattr(module, "weight_mask"):
            prune.remove(module, "weight")
    last = [m for m in plain.modules() if isinstance(m, torch.nn.Linear)][-1]
    size = torch_pruning.importance.MagnitudeImportance(p=2)
    with torch.enable_grad():
        for parameter in plain.parameters():
            parameter.requires_grad_()
        pruner = torch_pruning.pruner.MagnitudePruner(
            plain, x, importance=size, pruning_ratio=0.5, ignored_layers=[last]
        )
        pruner.step()
    return exported(plain, x, folder)


TOOLS: dict[str, Callable[..., Path]] = {
    "none (exported)": exported, "moduli compress": by_moduli, "moduli prune_dead": by_prune_dead,
    "onnxsim": by_onnxsim, "onnxslim": by_onnxslim, "torch-pruning": by_torch_pruning,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], "large", "real", "pruned"])
    parts = parser.parse_args().parts or ["large", "real", "pruned"]
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            {"large": large, "real": real, "pruned": pruned}[part](Path(folder))


if __name__ == "__main__":
    assert importlib.util.find_spec("moduli") is not None
    main()
