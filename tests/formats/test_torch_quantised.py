"""Modules that torch.ao or PT2E have quantised, beside torch itself."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao import quantization

import moduli as mo
from moduli.pytorch import read_module

importlib.import_module("torch.ao.quantization.fx._decomposed")  # which defines the operators
OPS = torch.ops.quantized_decomposed
BOX = mo.Box(-1, 1)


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.b(torch.relu(self.a(x)))


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3)
        self.c = nn.Linear(48, 5)

    def forward(self, x: Any) -> Any:
        return self.c(torch.flatten(self.b(torch.relu(self.a(x))), 1))


def prepared(module: Any, shape: Any) -> Any:
    """With observers that have seen inputs of [-1, 1]."""
    from torch.ao.quantization.quantize_fx import prepare_fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapping = quantization.get_default_qconfig_mapping("x86")
        found = prepare_fx(module.eval(), mapping, (torch.zeros(1, *shape),))
    torch.manual_seed(0)
    for _ in range(4):
        found(torch.rand(64, *shape) * 2 - 1)
    return found


def converted(module: Any, shape: Any) -> Any:
    from torch.ao.quantization.quantize_fx import _convert_to_reference_decomposed_fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _convert_to_reference_decomposed_fx(prepared(module, shape))


@pytest.mark.parametrize(("kind", "shape"), [(Dense, (4,)), (Image, (2, 6, 6))])
def test_quantised_modules_give_what_torch_gives_and_are_near_their_origin(kind, shape):
    torch.manual_seed(1)
    module = kind()
    whole = converted(module, shape)
    graph, origin = (read_module(m, torch.zeros(2, *shape)) for m in (whole, module.eval()))
    assert not any("opaque" in note for note in graph.notes)
    x = torch.rand(200, *shape) * 2 - 1
    with torch.no_grad():
        wanted, real = whole(x).numpy(), module(x).numpy()
    found = graph(x.numpy())
    # a step of the output where float32 rounds the other way, which is rare
    assert np.mean(np.abs(found - wanted) > 1e-6) < 0.01
    d = mo.distance(origin, graph, on=BOX)
    assert type(d).__name__ == "QuantisedDistance"
    assert 0 < np.abs(wanted - real).max() <= d.upper
    assert any("quantize" in source.name for source in d.by_layer)
    assert d.check()
    small = mo.compress(graph)
    assert small.removed == dict.fromkeys(small.removed, 0)  # read, and not written


class Planted(nn.Module):
    """Rounding with chosen numbers: a value, and a stored weight for each channel."""

    def __init__(self, scale: float, zero: int, ends: tuple[int, int], dtype: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.3, -0.71], [1.9, 0.05], [-0.4, 0.4]]))
        self.register_buffer("steps", torch.tensor([0.1, 0.5, 0.03]))
        self.register_buffer("points", torch.tensor([0, 3, -2]))
        self.given = (scale, zero, *ends, dtype)

    def forward(self, x: Any) -> Any:
        q = OPS.quantize_per_tensor(x, *self.given)
        x = OPS.dequantize_per_tensor(q, *self.given)
        channel = (self.steps, self.points, 0, -8, 7, torch.int8)
        w = OPS.dequantize_per_channel(OPS.quantize_per_channel(self.weight, *channel), *channel)
        return nn.functional.linear(x, w)


@pytest.mark.parametrize(
    ("scale", "zero", "ends", "dtype"),
    [(0.25, 0, (-128, 127), torch.int8), (0.5, 200, (0, 255), torch.uint8), (0.125, -5, (-8, 7), torch.int8)],
)  # fmt: skip
def test_rounding_is_that_of_the_formula(scale, zero, ends, dtype):
    """Halves to even, cut off at both ends, a zero point for each channel: beside NumPy."""
    module = Planted(scale, zero, ends, dtype)
    graph = read_module(module, torch.zeros(2, 2))
    x = np.arange(-40, 41)[:, None] * np.array([0.0625, 1.25])  # halves of steps among them
    q = np.clip(np.rint(x / scale) + zero, *ends)
    w = np.float32([[0.3, -0.71], [1.9, 0.05], [-0.4, 0.4]]).astype(float)
    s = np.float32([0.1, 0.5, 0.03]).astype(float)[:, None]
    z = np.array([0, 3, -2])[:, None]
    wanted = (q - zero) * scale @ (s * (np.clip(np.rint(w / s) + z, -8, 7) - z)).T
    assert np.allclose(graph(x), wanted, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert np.allclose(module(torch.tensor(x).float()).numpy(), wanted, atol=1e-5)
    kinds = [getattr(node.op, "kind", "") for node in graph.model.nodes]
    assert kinds[:2] == ["quantise", "dequantise"]
    assert len(kinds) == 3  # of the weight nothing is left but numbers


class Computed(nn.Module):
    def forward(self, x: Any) -> Any:
        scale = x.abs().max().reshape(1) / 127
        q = OPS.quantize_per_channel(
            x, scale.expand(2), torch.zeros(2).long(), 1, -128, 127, torch.int8
        )
        return q.float()


class Unround(nn.Module):
    """Weights with a scale that is no float of 32 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("q", torch.tensor([[3, -7], [5, 1]], dtype=torch.int8))

    def forward(self, x: Any) -> Any:
        w = OPS.dequantize_per_tensor(self.q, 0.1, 0, -128, 127, torch.int8)
        return nn.functional.linear(x, w)


def test_scales_that_torch_would_round_are_opaque():
    graph = read_module(Unround(), torch.zeros(3, 2))
    assert any(
        "dequantize_per_tensor" in note and "no float of 32 bits" in note for note in graph.notes
    )


def test_steps_that_are_computed_are_opaque():
    graph = read_module(Computed(), torch.zeros(3, 2))
    assert any("quantize_per_channel" in note and "computed" in note for note in graph.notes)


def test_other_kinds_of_quantisation_are_refused_by_name():
    from torch.ao.quantization.quantize_fx import convert_fx, convert_to_reference_fx

    def refused(module: Any) -> str:
        with pytest.raises(mo.UnsupportedModel) as caught:
            read_module(module, torch.zeros(2, 4))
        return str(caught.value)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready = prepared(Dense(), (4,))
        assert "still observes ranges: the module is prepared for quantisation" in refused(ready)
        assert "'a' is packed for a backend" in refused(convert_fx(prepared(Dense(), (4,))))
        reference = convert_to_reference_fx(prepared(Dense(), (4,)))
        assert "has tensors of quantised types" in refused(reference)
        dynamic = quantization.quantize_dynamic(Dense().eval(), {nn.Linear})
        assert "Linear (torch.ao.nn.quantized.dynamic.modules.linear) at 'a'" in refused(dynamic)
        eager = nn.Sequential(quantization.QuantStub(), nn.Linear(4, 3), quantization.DeQuantStub())
        eager.eval().qconfig = quantization.get_default_qconfig("x86")
        eager = quantization.prepare(eager)
        eager(torch.rand(9, 4))
        said = refused(quantization.convert(eager))
    assert "Quantize (torch.ao.nn.quantized.modules) at '0' is packed" in said
    assert "ONNX export" in said


def test_pt2e_of_torchao():
    pytest.importorskip("torchao", reason="torchao is not installed: PT2E is not tried")
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    module = Dense().eval()
    whole = torch.export.export(
        module, (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("b")},)
    ).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    ready = prepare_pt2e(whole, quantizer)
    ready(torch.rand(64, 4) * 2 - 1)
    whole = convert_pt2e(ready)
    graph = read_module(whole, torch.zeros(2, 4))
    assert not any("opaque" in note for note in graph.notes)
    x = torch.rand(100, 4) * 2 - 1
    assert np.mean(np.abs(graph(x.numpy()) - whole(x).detach().numpy()) > 1e-6) < 0.01
    assert mo.distance(read_module(module, torch.zeros(2, 4)), graph, on=BOX).upper < 1.0
