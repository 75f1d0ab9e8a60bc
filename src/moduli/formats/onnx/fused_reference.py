"""Fused operators as onnxruntime computes them, in NumPy, for the reference evaluator of the onnx package,
which has none of them. Written apart from `fused_operators`, which reads them: one is compared with the other.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

CONTRIBUTED = "com.microsoft"
LEAST = -np.inf  # what hides a later position


@cache
def fused() -> tuple[Any, ...]:
    """Classes that `onnx.reference.ReferenceEvaluator` takes as `new_ops`."""
    from onnx.reference.op_run import OpRun
    from onnx.reference.ops.op_conv import Conv
    from scipy import special

    class Gelu(OpRun):
        def _run(self, x: Any) -> Any:
            return (x * special.ndtr(x),)

    class BiasGelu(OpRun):
        def _run(self, x: Any, bias: Any) -> Any:
            return ((x + bias) * special.ndtr(x + bias),)

    class FastGelu(OpRun):
        def _run(self, x: Any, bias: Any = None) -> Any:
            y = x if bias is None else x + bias
            return (y * special.expit(2 * np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)),)

    class QuickGelu(OpRun):
        def _run(self, x: Any, alpha: Any = None) -> Any:
            return (x * special.expit((np.float32(1.702) if alpha is None else alpha) * x),)

    class FusedMatMul(OpRun):
        def _run(
            self, a: Any, b: Any, alpha: Any = 1.0, transA: Any = 0, transB: Any = 0, **_: Any
        ) -> Any:
            left = np.swapaxes(a, -1, -2) if transA and a.ndim > 1 else a
            right = np.swapaxes(b, -1, -2) if transB and b.ndim > 1 else b
            return (left @ right * alpha,)

    class FusedGemm(OpRun):
        def _run(self, a: Any, b: Any, c: Any = 0, **given: Any) -> Any:
            y = (a.T if given.get("transA") else a) @ (b.T if given.get("transB") else b)
            y = given.get("alpha", 1) * y + given.get("beta", 1) * c
            names = ("activation_alpha", "activation_beta")
            return (activated(y, given["activation"], [given.get(name) for name in names]),)

    class FusedConv(OpRun):
        def _run(self, x: Any, w: Any, b: Any = None, further: Any = None, **given: Any) -> Any:
            kind, numbers = given.pop("activation", ""), given.pop("activation_params", [])
            y = Conv.eval(*(part for part in (x, w, b) if part is not None), **given)
            return (activated(y if further is None else y + further, kind, numbers),)

    class SimplifiedLayerNormalization(OpRun):
        op_domain = ""

        def _run(self, x: Any, scale: Any, axis: Any = -1, epsilon: Any = 1e-5, **_: Any) -> Any:
            gone = tuple(range(axis % x.ndim, x.ndim))
            return (x / np.sqrt(np.square(x).mean(gone, keepdims=True) + epsilon) * scale,)

    class SkipLayerNormalization(OpRun):
        def _run(
            self, x: Any, skip: Any, scale: Any, shift: Any = None, bias: Any = None,
            epsilon: Any = 1e-12,
        ) -> Any:  # fmt: skip
            total = x + skip + (0 if bias is None else bias)
            mean = total.mean(-1, keepdims=True)
            deviation = np.sqrt(np.square(total - mean).mean(-1, keepdims=True) + epsilon)
            y = (total - mean) / deviation * scale + (0 if shift is None else shift)
            return (y, mean, 1 / deviation, total)[: len(self.output)]

    class SkipSimplifiedLayerNormalization(OpRun):
        def _run(
            self, x: Any, skip: Any, scale: Any, bias: Any = None, epsilon: Any = 1e-12
        ) -> Any:
            total = x + skip + (0 if bias is None else bias)
            deviation = np.sqrt(np.square(total).mean(-1, keepdims=True) + epsilon)
            return (total / deviation * scale, deviation, 1 / deviation, total)[: len(self.output)]

    class MultiHeadAttention(OpRun):
        def _run(
            self, q: Any, k: Any, v: Any, bias: Any = None, mask: Any = None, added: Any = None,
            *_: Any, **given: Any,
        ) -> Any:  # fmt: skip
            if bias is not None:
                first, second = q.shape[-1], q.shape[-1] + k.shape[-1]
                q, k, v = q + bias[:first], k + bias[first:second], v + bias[second:]
            return (attention(q, k, v, mask, added, **given),)

    class Attention(OpRun):
        def _run(
            self, x: Any, weight: Any, bias: Any = None, mask: Any = None, past: Any = None,
            added: Any = None, *_: Any, qkv_hidden_sizes: Any = None, **given: Any,
        ) -> Any:  # fmt: skip
            product = x @ weight + (0 if bias is None else bias)
            sizes = qkv_hidden_sizes or [product.shape[-1] // 3] * 3
            q, k, v = np.split(product, np.cumsum(sizes)[:2], axis=-1)
            return (attention(q, k, v, mask, added, **given),)

    class RotaryEmbedding(OpRun):
        def _run(
            self, x: Any, positions: Any, cosines: Any, sines: Any, interleaved: Any = 0,
            num_heads: Any = 0, rotary_embedding_dim: Any = 0, **_: Any,
        ) -> Any:  # fmt: skip
            turned = rotary_embedding_dim or 2 * cosines.shape[-1]
            heads = num_heads or x.shape[-1] // turned
            y = np.array(x if x.ndim == 4 else _by_heads(x, heads))
            pairs = (
                (slice(0, turned, 2), slice(1, turned, 2))
                if interleaved
                else (slice(0, turned // 2), slice(turned // 2, turned))
            )
            z = y[..., pairs[0]] + 1j * y[..., pairs[1]]
            z = z * (cosines + 1j * sines)[positions][:, None]
            y[..., pairs[0]], y[..., pairs[1]] = z.real, z.imag
            return (y if x.ndim == 4 else np.swapaxes(y, 1, 2).reshape(x.shape),)

    found: list[Any] = [
        Gelu, BiasGelu, FastGelu, QuickGelu, FusedMatMul, FusedGemm, FusedConv, SkipLayerNormalization,
        SkipSimplifiedLayerNormalization, MultiHeadAttention, Attention, RotaryEmbedding,
    ]  # fmt: skip
    for kind in found:
        kind.op_domain = CONTRIBUTED
    found.append(SimplifiedLayerNormalization)
    for kind in found:
        kind.op_schema = None  # not the one of an operator of ONNX with that name
    return tuple(found)


def activated(y: Any, kind: str, numbers: Any) -> Any:
    """The activation of a fused operator, by its name in ONNX."""
    if kind == "LeakyRelu":
        return np.where(y < 0, numbers[0] * y, y)
    if kind == "HardSigmoid":
        return np.clip(numbers[0] * y + numbers[1], 0, 1)
    if kind == "Sigmoid":
        return 1 / (1 + np.exp(-y))
    return {"": y, "Relu": np.maximum(y, 0), "Tanh": np.tanh(y)}[kind]


def _by_heads(x: Any, heads: int) -> Any:
    return np.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)


def attention(
    q: Any, k: Any, v: Any, mask: Any = None, added: Any = None, num_heads: Any = 1,
    unidirectional: Any = 0, scale: Any = None, mask_filter_value: Any = -10000.0,
    **others: Any,
) -> Any:  # fmt: skip
    """Scaled dot products, head by head, of [batch, positions, heads * size]."""
    if any(others.values()):
        raise NotImplementedError(f"{others}")
    rows, keys, values = (_by_heads(x, num_heads) for x in (q, k, v))
    scores = np.einsum("bhid,bhjd->bhij", rows, keys) * (scale or 1 / np.sqrt(rows.shape[-1]))
    if added is not None:
        scores = scores + added
    if mask is not None:
        scores = scores + np.where(mask > 0, 0.0, mask_filter_value)[:, None, None]
    if unidirectional:
        scores = np.where(np.tri(*scores.shape[2:]) > 0, scores, LEAST)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    found = np.einsum("bhij,bhjd->bihd", weights, values)
    return found.reshape(*found.shape[:2], -1)
