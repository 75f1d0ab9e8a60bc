"""What the tensors of a checkpoint are, declared by their names: decoders with a norm in front of each part.

A checkpoint has no graph. Its `config.json` names the model, and this module declares, for the names below, of
which axis the rows and columns of each tensor are. Whatever is called otherwise is refused by name.

| ``model_type`` | tensors |
|---|---|
| llama, mistral, qwen2 | ``model.embed_tokens``, ``model.norm``, ``lm_head``; in ``model.layers.N`` |
| | ``self_attn.{q,k,v,o}_proj``, ``mlp.{gate,up,down}_proj``, ``input_layernorm``, ``post_attention_layernorm`` |
| gpt2 | ``wte``, ``wpe``, ``ln_f``, ``lm_head``; in ``h.N`` ``attn.{c_attn,c_proj}``, ``mlp.{c_fc,c_proj}``, |
| | ``ln_1``, ``ln_2``; all but ``lm_head`` also behind ``transformer.`` |

**Laws.** Let x be the stream (the residual sum) of a token. For all inputs, over the reals, the logits stay
what they are under each of these, where D is diagonal and P a permutation matrix:

1. *Stream.* RMS norm n(x) = x / sqrt(mean x^2 + e) has n(P D x) = P D n(x) for signs D, as x^2 and its mean
   stay. Layer norm subtracts the mean first, which commutes with P and with one sign for all. So embeddings,
   whatever is added to the stream, and gains take P D, and what the norms give is permuted.
2. *Norms.* A norm gives g n(x) + b. With D g, D b in the place of g, b, and columns times D^-1 in all that
   read it, W D^-1 D (g n + b) = W (g n + b), for D of any numbers but zero.
3. *Units.* A gated layer is W_down (s(W_gate y) * (W_up y)): linear in W_up y, so that rows of W_up may be
   multiplied by any numbers D but zero and columns of W_down by D^-1. Without a gate, W_down s(W_up y), if s is
   odd up to a constant of 0 (signs) or positively homogeneous (positive numbers). All units of a layer may trade places.
4. *Heads.* o = sum_h W_o^h sum_t a_t^h W_v^h y_t is a sum over heads: heads may trade places, query heads of one key head
   among themselves, and key heads with their query heads. Coordinates of values: P D on rows of W_v^h (and its bias), P D^-1 on
   columns of W_o^h for all query heads that read them.
5. *Scores.* a^h is a softmax of (W_q^h y) . (W_k^h y_t): P D on queries and P D^-1 on keys keep it. Rotary
   positions turn the planes of coordinates (j, j + size / 2) by angles, which differ from plane to plane: then planes
   stay. A turn of a plane is the multiplication of x_j + i x_(j + size / 2) by a complex number, and commutes with
   others; the score is the sum over planes of Re(conj(q) k), which stays if q is multiplied by z and k by
   1 / conj(z). Found are quarter turns z = c i^n.

Others are laws, too, and are not looked for: any basis inside a head, any turn of a plane, key biases without rotary
positions, value biases moved into that of the output, any rotation of the stream under RMS norms without gains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from moduli.common.checkpoint import CODES, Checkpoint
from moduli.kernel.activations import Activation
from moduli.kernel.errors import ModuliError, ShapeError, UnsupportedModel

from .group import Axis

STREAM = Axis("stream", 1)
MAX_LAYERS = 2**12
MAX_NUMBERS = 2**30  # of one tensor of a layer, as many as are held at a time
ACTIVATIONS = {  # as configurations call them
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid",
}  # fmt: skip


class Piece(NamedTuple):
    """A tensor, or a part of one, as a matrix; a vector is a matrix of one column.

    Attributes:
        tensor: its name. rows, columns: the axes that index them; None where they stay. transposed: whether
            the file holds columns first. part: which rows they are, where there are others.
    """

    tensor: str
    rows: Axis | None = None
    columns: Axis | None = None
    transposed: bool = False
    part: tuple[int, int] | None = None


class Norm(NamedTuple):
    """A norm in front of a part: its gain, and its bias if it has one.

    Attributes:
        name: of the axis of what it gives.
    """

    name: str
    gain: Piece
    bias: Piece | None


class Attention(NamedTuple):
    """Heads of one layer; of queries, keys and values the weight, then a bias if there is one.

    Attributes:
        outputs: rows are coordinates of heads, columns the stream. bias: of the outputs. heads: of queries.
            groups: heads of keys. size: coordinates of a head. rotary: whether positions turn planes of them.
    """

    queries: tuple[Piece, ...]
    keys: tuple[Piece, ...]
    values: tuple[Piece, ...]
    outputs: Piece
    bias: tuple[Piece, ...]
    heads: int
    groups: int
    size: int
    rotary: bool

    @property
    def shared(self) -> int:
        """Query heads of each key head."""
        return self.heads // self.groups


class Feedforward(NamedTuple):
    """Units of one layer; of gates and units the weight, then a bias if there is one.

    Attributes:
        down: rows are units, columns the stream. bias: behind it. units: how many. signs, scales: whether
            a unit may be multiplied by -1, and by positive numbers.
    """

    gate: tuple[Piece, ...]
    up: tuple[Piece, ...]
    down: Piece
    bias: tuple[Piece, ...]
    units: int
    signs: bool
    scales: bool


class Layer(NamedTuple):
    """One layer: heads and units, each behind a norm."""

    attention_norm: Norm
    attention: Attention
    feedforward_norm: Norm
    feedforward: Feedforward


@dataclass(frozen=True)
class Decoder:
    """The declared architecture of a checkpoint.

    Attributes:
        kind: as `config.json` names it. embeddings: of tokens and positions; their columns are the stream.
            layers: in order. norm: behind the last. head: from that to the logits, where it is no
            embedding. fixed: tensors that stay. width: of the stream. signs: whether each of its coordinates
            may change sign; else all together.
    """

    kind: str
    embeddings: tuple[Piece, ...]
    layers: tuple[Layer, ...]
    norm: Norm
    head: tuple[Piece, ...]
    fixed: tuple[Piece, ...]
    width: int
    signs: bool

    @staticmethod
    def of(checkpoint: Checkpoint) -> Decoder:
        """By the names of its tensors.

        Raises:
            UnsupportedModel: a model that is not declared, or a tensor that is not, by name.
            ShapeError: a tensor of another shape than it should have.
        """
        kind = checkpoint.config.get("model_type")
        build = KINDS.get(kind) if isinstance(kind, str) else None
        if build is None:
            raise UnsupportedModel(
                f"{checkpoint.path}: model_type {str(kind)[:40]!r}; tensors of {', '.join(KINDS)} are declared"
            )
        if checkpoint.config.get("quantization_config") is not None:
            raise UnsupportedModel(
                f"{checkpoint.path}: quantised tensors are not declared; take those in floating point"
            )
        reader = _Reader(checkpoint)
        found: Decoder = build(reader, str(kind))
        reader.require_all_known()
        return found

    def norms(self) -> Iterator[Norm]:
        for layer in self.layers:
            yield layer.attention_norm
            yield layer.feedforward_norm
        yield self.norm

    def sections(self) -> Iterator[tuple[str, tuple[Piece, ...]]]:
        """All tensors, a part of a layer at a time, with its name; each number once."""
        yield "embeddings", self.embeddings
        for number, layer in enumerate(self.layers):
            heads, units = layer.attention, layer.feedforward
            yield (
                f"layer {number} heads",
                (*_of_norm(layer.attention_norm), *heads.queries, *heads.keys, *heads.values,
                 heads.outputs, *heads.bias),
            )  # fmt: skip
            yield (
                f"layer {number} units",
                (*_of_norm(layer.feedforward_norm), *units.gate, *units.up, units.down, *units.bias),
            )  # fmt: skip
        yield "output", (*_of_norm(self.norm), *self.head, *self.fixed)


def _of_norm(norm: Norm) -> tuple[Piece, ...]:
    return (norm.gain,) if norm.bias is None else (norm.gain, norm.bias)


class _Reader:
    """Tensors of a checkpoint that become pieces, each looked at once."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.known = set[str]()

    def number(self, key: str, default: int | None = None) -> int:
        """A positive whole number of the configuration."""
        value = self.checkpoint.config.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 < value < 2**31:
            text = str(value)[:40]
            self.refuse(f"config.json has {key} = {text}; a positive whole number is needed")
        return value

    def activation(self, key: str) -> Activation:
        name = self.checkpoint.config.get(key)
        if not isinstance(name, str) or name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            self.refuse(f"config.json has {key} = {str(name)[:40]!r}; known are {known}")
        return Activation(ACTIVATIONS[name])

    def has(self, name: str) -> bool:
        return name in self.checkpoint.tensors

    def require(self, holds: bool, why: str, kind: type[ModuliError] = UnsupportedModel) -> None:
        """`refuse`, unless something holds."""
        if not holds:
            self.refuse(why, kind)

    def refuse(self, why: str, kind: type[ModuliError] = UnsupportedModel) -> NoReturn:
        """Raises an error that names the checkpoint."""
        raise kind(f"{self.checkpoint.path}: {why}")

    def width(self, name: str, axis: int) -> int:
        """The size of a tensor of two axes along one of them."""
        self.require(self.has(name), f"there is no tensor {name!r}")
        shape = self.checkpoint.shape(name)
        self.require(
            len(shape) == 2, f"{name!r} has shape {shape}; two axes are needed", ShapeError
        )
        self.require(shape[axis] > 0, f"{name!r} has shape {shape}: nothing is in it", ShapeError)
        return shape[axis]

    def piece(
        self, name: str, shape: Sequence[int], rows: Axis | None = None, columns: Axis | None = None,
        *, transposed: bool = False, part: tuple[int, int] | None = None,
    ) -> Piece:  # fmt: skip
        """A tensor that must be there, in floats, of a shape as stored."""
        self.require(self.has(name), f"there is no tensor {name!r}")
        stored = self.checkpoint.tensors[name]
        self.require(
            stored.dtype in CODES,
            f"{name!r} is stored as {stored.dtype}; {', '.join(CODES)} are read",
        )
        self.require(
            stored.shape == tuple(shape),
            f"{name!r} has shape {stored.shape}; declared is {tuple(shape)}", ShapeError,
        )  # fmt: skip
        whole = rows is not None or transposed
        self.require(
            not whole or stored.size <= MAX_NUMBERS,
            f"{name!r} has {stored.size} numbers; up to {MAX_NUMBERS} are held at a time",
        )
        self.known.add(name)
        return Piece(name, rows, columns, transposed, part)

    def linear(
        self, stem: str, rows: tuple[int, Axis | None], columns: tuple[int, Axis | None]
    ) -> tuple[Piece, ...]:
        """A weight [rows, columns], and its bias where there is one."""
        weight = self.piece(f"{stem}.weight", (rows[0], columns[0]), rows[1], columns[1])
        if not self.has(f"{stem}.bias"):
            return (weight,)
        return weight, self.piece(f"{stem}.bias", rows[:1], rows[1])

    def norm(self, stem: str, name: str, width: int, *, bias: bool) -> Norm:
        gain = self.piece(f"{stem}.weight", (width,), Axis(f"gain {name}", 1))
        shift = self.piece(f"{stem}.bias", (width,), Axis(f"norm {name}", 1)) if bias else None
        return Norm(name, gain, shift)

    def fixed(self, pattern: str) -> tuple[Piece, ...]:
        """Tensors whose names match, and stay."""
        names = sorted(name for name in self.checkpoint.tensors if re.fullmatch(pattern, name))
        self.known.update(names)
        return tuple(Piece(name) for name in names)

    def require_all_known(self) -> None:
        left = sorted(self.checkpoint.tensors.keys() - self.known)
        if left:
            more = f" and {len(left) - 1} others" if len(left) > 1 else ""
            self.refuse(
                f"{left[0][:100]!r}{more} belong to no tensor that is declared for this model"
            )


def _llama(reader: _Reader, kind: str) -> Decoder:
    """LLaMA and what has its names: RMS norms, rotary positions, gated units."""
    embed = "model.embed_tokens.weight"
    width, tokens = reader.width(embed, 1), reader.width(embed, 0)
    count = reader.number("num_hidden_layers")
    heads = reader.number("num_attention_heads")
    groups = reader.number("num_key_value_heads", heads)
    size = reader.number("head_dim", max(1, width // heads))
    reader.activation("hidden_act")
    part = reader.checkpoint.config.get("partial_rotary_factor", 1)
    reader.require(part in (None, 1), f"partial_rotary_factor = {str(part)[:40]}: not declared")
    reader.require(count <= MAX_LAYERS, f"{count} layers; up to {MAX_LAYERS} are read")
    reader.require(
        heads % groups == 0 and size % 2 == 0,
        f"{heads} heads of {size} coordinates with {groups} key heads: no such attention is declared", ShapeError,
    )  # fmt: skip
    stream = width, STREAM
    embeddings = (reader.piece(embed, (tokens, width), None, STREAM),)
    layers = []
    for k in range(count):
        stem = f"model.layers.{k}"
        first = reader.norm(f"{stem}.input_layernorm", f"{k} heads", width, bias=False)
        read = width, Axis(f"norm {first.name}", -1)
        rows = heads * size
        outputs, *bias = _turned(
            reader.linear(f"{stem}.self_attn.o_proj", stream, (rows, Axis(f"outputs {k}", -1)))
        )
        attention = Attention(
            reader.linear(f"{stem}.self_attn.q_proj", (rows, Axis(f"queries {k}", 1)), read),
            reader.linear(f"{stem}.self_attn.k_proj", (groups * size, Axis(f"keys {k}", 1)), read),
            reader.linear(f"{stem}.self_attn.v_proj", (groups * size, Axis(f"values {k}", 1)), read),
            outputs, tuple(bias), heads, groups, size, rotary=True,
        )  # fmt: skip
        second = reader.norm(f"{stem}.post_attention_layernorm", f"{k} units", width, bias=False)
        read = width, Axis(f"norm {second.name}", -1)
        units = reader.width(f"{stem}.mlp.up_proj.weight", 0)
        down, *bias = _turned(
            reader.linear(f"{stem}.mlp.down_proj", stream, (units, Axis(f"units {k}", -1)))
        )
        feedforward = Feedforward(
            reader.linear(f"{stem}.mlp.gate_proj", (units, Axis(f"units {k}", 0)), read),
            reader.linear(f"{stem}.mlp.up_proj", (units, Axis(f"units {k}", 1)), read),
            down, tuple(bias), units, signs=True, scales=True,
        )  # fmt: skip
        layers.append(Layer(first, attention, second, feedforward))
    norm = reader.norm("model.norm", "last", width, bias=False)
    norm, head = _head(reader, norm, tokens, width, tied=False)
    fixed = reader.fixed(r"model\.layers\.[0-9]+\.self_attn\.rotary_emb\.inv_freq")
    return Decoder(kind, embeddings, tuple(layers), norm, head, fixed, width, signs=True)


def _gpt2(reader: _Reader, kind: str) -> Decoder:
    """GPT-2: layer norms, learned positions, weights stored as [inputs, outputs]."""
    front = "transformer." if reader.has("transformer.wte.weight") else ""
    tokens, width = (reader.width(f"{front}wte.weight", axis) for axis in (0, 1))
    count, heads = reader.number("n_layer"), reader.number("n_head")
    for alias, said in (("num_hidden_layers", count), ("num_attention_heads", heads)):
        # another name of the same, and libraries may take either
        same = reader.number(alias, said) == said
        reader.require(same, f"config.json has {alias} beside another number")
    activation = reader.activation("activation_function")
    reader.require(count <= MAX_LAYERS, f"{count} layers; up to {MAX_LAYERS} are read")
    divides = width % heads == 0
    reader.require(divides, f"{heads} heads do not divide a stream of {width}", ShapeError)
    size = width // heads
    positions = reader.width(f"{front}wpe.weight", 0)
    embeddings = (
        reader.piece(f"{front}wte.weight", (tokens, width), None, STREAM),
        reader.piece(f"{front}wpe.weight", (positions, width), None, STREAM),
    )
    layers = []
    for k in range(count):
        stem = f"{front}h.{k}"
        first = reader.norm(f"{stem}.ln_1", f"{k} heads", width, bias=True)
        queries, keys, values = (
            _fused(reader, f"{stem}.attn.c_attn", width, which, Axis(f"{name} {k}", 1), first)
            for which, name in enumerate(("queries", "keys", "values"))
        )
        attention = Attention(
            queries,
            keys,
            values,
            reader.piece(
                f"{stem}.attn.c_proj.weight", (width, width), Axis(f"outputs {k}", -1), STREAM
            ),
            (reader.piece(f"{stem}.attn.c_proj.bias", (width,), STREAM),),
            heads, heads, size, rotary=False,
        )  # fmt: skip
        second = reader.norm(f"{stem}.ln_2", f"{k} units", width, bias=True)
        units = reader.width(f"{stem}.mlp.c_fc.weight", 1)
        own, read = Axis(f"units {k}", 1), Axis(f"norm {second.name}", -1)
        feedforward = Feedforward(
            (),
            (
                reader.piece(
                    f"{stem}.mlp.c_fc.weight", (width, units), own, read, transposed=True
                ),
                reader.piece(f"{stem}.mlp.c_fc.bias", (units,), own),
            ),
            reader.piece(
                f"{stem}.mlp.c_proj.weight", (units, width), Axis(f"units {k}", -1), STREAM
            ),
            (reader.piece(f"{stem}.mlp.c_proj.bias", (width,), STREAM),),
            units, signs=activation.odd, scales=activation.homogeneous,
        )  # fmt: skip
        layers.append(Layer(first, attention, second, feedforward))
    norm = reader.norm(f"{front}ln_f", "last", width, bias=True)
    norm, head = _head(reader, norm, tokens, width, tied=True)
    # masks, which old files hold
    fixed = reader.fixed(re.escape(front) + r"h\.[0-9]+\.attn\.(bias|masked_bias)")
    return Decoder(kind, embeddings, tuple(layers), norm, head, fixed, width, signs=False)


def _head(
    reader: _Reader, norm: Norm, tokens: int, width: int, *, tied: bool
) -> tuple[Norm, tuple[Piece, ...]]:
    """The last norm, and what reads it; where that is the embeddings, which may not be scaled, the norm is
    permuted as the stream is.
    """
    name, given = "lm_head.weight", reader.checkpoint.config.get("tie_word_embeddings", tied)
    reader.require(
        isinstance(given, bool), f"config.json has tie_word_embeddings = {str(given)[:40]}"
    )
    if not given:
        read = Axis(f"norm {norm.name}", -1)
        return norm, (reader.piece(name, (tokens, width), None, read),)
    # Columns of the embeddings have the signs D of the stream, so what the norm gives must have them,
    # too: D (g n + b) = g (D n) + D b. The gain is permuted alone.
    gain = norm.gain._replace(rows=STREAM._replace(power=0))
    bias = None if norm.bias is None else norm.bias._replace(rows=STREAM)
    copy = (reader.piece(name, (tokens, width), None, STREAM),) if reader.has(name) else ()
    return Norm(norm.name, gain, bias), copy


def _turned(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """A weight with its columns as rows."""
    weight, *bias = pieces
    return weight._replace(rows=weight.columns, columns=weight.rows, transposed=True), *bias


def _fused(
    reader: _Reader, stem: str, width: int, which: int, rows: Axis, norm: Norm
) -> tuple[Piece, ...]:
    """One of three equal parts of a weight [inputs, outputs] and of its bias."""
    part = which * width, (which + 1) * width
    return (
        reader.piece(f"{stem}.weight", (width, 3 * width), rows, Axis(f"norm {norm.name}", -1),
                     transposed=True, part=part),
        reader.piece(f"{stem}.bias", (3 * width,), rows, part=part),
    )  # fmt: skip


KINDS: Mapping[str, Any] = {"llama": _llama, "mistral": _llama, "qwen2": _llama, "gpt2": _gpt2}
