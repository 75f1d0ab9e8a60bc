"""Checkpoints against disguises that are made from the laws of the models alone, near misses, relatives, strangers."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import moduli as mo
from moduli.equivalence import checkpoint_matching, checkpoint_moves
from moduli.equivalence.checkpoint_axes import Decoder
from moduli.equivalence.checkpoint_form import canon
from moduli.equivalence.checkpoint_matching import Found, log_chance, matched
from moduli.equivalence.checkpoint_moves import Moved, require_laws
from moduli.equivalence.group import Signature
from moduli.formats.checkpoint_files import open_checkpoint, save_checkpoint
from moduli.formats.safetensors_file import read_safetensors

IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


class Kind:
    """A model, its disguiser, and what it computes."""

    def __init__(self, family: str, dtype: str, **sizes: Any) -> None:
        self.family, self.dtype, self.sizes = family, dtype, sizes
        self.disguised = getattr(checkpoints, f"disguised_{family}")
        self.logits = getattr(checkpoints, f"{family}_logits")

    def make(self, seed: int = 0) -> tuple[dict[str, Any], checkpoints.Tensors]:
        found: tuple[dict[str, Any], checkpoints.Tensors] = getattr(checkpoints, self.family)(
            seed, dtype=self.dtype, **self.sizes
        )
        return found

    def __repr__(self) -> str:
        return "-".join([self.family, *(f"{key}={value}" for key, value in self.sizes.items())])


KINDS = [
    Kind("llama", "BF16"),
    Kind("llama", "F16", groups=4, layers=1),
    Kind("llama", "F64", tied=True, bias=True, layers=1),
    Kind("gpt2", "F32"),
    Kind("gpt2", "F32", activation="relu", layers=1),
    Kind("gpt2", "F32", activation="tanh", layers=1),
]


def pair(
    kind: Kind, folder: Path, *, seed: int = 1, powers: bool = True
) -> tuple[Path, Path, checkpoints.Tensors]:
    """A checkpoint in one file, its disguise in shards, and the tensors of that."""
    config, tensors = kind.make()
    turned = kind.disguised(config, tensors, seed, powers=powers)
    a = checkpoints.write(folder / "a", config, tensors, dtype=kind.dtype, shards=1)
    b = checkpoints.write(folder / "b", config, turned, dtype=kind.dtype)
    return a, b, turned


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_a_disguise_is_the_same_function_and_is_seen_through(kind, tmp_path):
    config, tensors = kind.make()
    a, b, turned = pair(kind, tmp_path)
    one, other = (kind.logits(config, t, IDS) for t in (tensors, turned))
    assert (one - other).abs().max() < 1e-12 * one.abs().max() * 100
    assert any(not torch.equal(tensors[name], turned[name]) for name in tensors)
    found = mo.align(a, b)
    assert found.status == "proved"
    assert found.check()
    assert found.total.numbers == sum(value.numel() for value in tensors.values())
    assert found.before > 0.5
    assert found.after == 0
    assert all(part.recognised == part.units for part in found.sets)
    assert mo.equivalent(b, a).status == "proved"
    assert mo.signature(a) == mo.signature(b)
    assert not mo.signature(a).complete


@pytest.mark.parametrize("kind", KINDS[::3], ids=repr)
def test_what_is_written_are_the_tensors_of_the_other(kind, tmp_path):
    a, b, turned = pair(kind, tmp_path)
    found = mo.align(a, b)
    _, stored = read_safetensors(save_checkpoint(*found.written(), tmp_path / "moved.safetensors"))
    assert stored.keys() == turned.keys()
    for name, numbers in stored.items():
        assert np.array_equal(numbers, turned[name].numpy())


@pytest.mark.parametrize("kind", KINDS[::3], ids=repr)
@pytest.mark.parametrize("seed", range(8))
def test_a_near_miss_is_never_the_same(kind, seed, tmp_path):
    """One number of one tensor is the next one of its type."""
    a, _, turned = pair(kind, tmp_path)
    config, rng = kind.make()[0], np.random.default_rng(seed)
    names = sorted(turned)
    name = names[int(rng.integers(len(names)))]
    changed = turned[name].clone()
    at = tuple(int(rng.integers(n)) for n in changed.shape)
    step = 2.0**-7 if kind.dtype == "BF16" else 2.0**-23
    changed[at] = changed[at] * (1 + step)
    assert changed[at].to(checkpoints.TYPES[kind.dtype]) != turned[name][at]
    near = checkpoints.write(tmp_path / "near", config, {**turned, name: changed}, dtype=kind.dtype)
    found = mo.equivalent(a, near)
    assert found.status == "undecided"
    # a gain carries its change to what reads it
    assert found.total.equal < found.total.numbers
    assert found.related
    assert not found.same
    assert mo.signature(near) != mo.signature(a)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_any_scales_are_seen_through_but_for_rounding(kind, tmp_path):
    if kind.dtype == "F64":
        pytest.skip("searches are in float32, which does not see scales in float64 as well")
    a, b, _ = pair(kind, tmp_path, powers=False)
    found = mo.align(b, a)
    assert found.status == "estimated"
    assert found.within_rounding
    assert found.related
    assert found.total.equal < found.total.numbers
    assert mo.signature(a) != mo.signature(b)


def test_a_copy_in_fewer_bits(tmp_path):
    """Rounded to bfloat16, permuted, signs changed: scales are powers of two."""
    config, tensors = checkpoints.llama(0, dtype="F32")
    turned = checkpoints.disguised_llama(config, tensors, 3)
    a = checkpoints.write(tmp_path / "a", config, tensors, dtype="F32")
    b = checkpoints.write(tmp_path / "b", config, turned, dtype="BF16")
    found = mo.align(a, b)
    assert found.within_rounding
    assert not found.same
    # each number is the nearest one, not only near
    _, moved = read_safetensors(save_checkpoint(*found.written(), tmp_path / "m.safetensors"))
    for name, numbers in moved.items():
        rounded = torch.tensor(numbers).to(torch.bfloat16)
        assert torch.equal(rounded, turned[name].to(torch.bfloat16))


def test_a_relative_is_told_from_a_stranger(tmp_path):
    """Noise of a fifth of each number's size is added, and then it is disguised."""
    config, tensors = checkpoints.llama(0)
    draw = torch.Generator().manual_seed(0)
    noisy = {
        name: value
        + 0.2 * value.std() * torch.randn(value.shape, generator=draw, dtype=value.dtype)
        for name, value in tensors.items()
    }
    noisy = checkpoints.disguised_llama(config, noisy, 1)
    a = checkpoints.write(tmp_path / "a", config, tensors)
    b = checkpoints.write(tmp_path / "b", config, noisy)
    c = checkpoints.write(tmp_path / "c", *checkpoints.llama(5))
    near, far = mo.align(a, b), mo.align(a, c)
    assert near.related
    assert not near.within_rounding
    assert near.after < 0.35 < near.before
    assert not far.related
    assert "no relation" in far.statement
    assert near.status == far.status == "estimated"


def test_strangers_that_share_a_tokenizer_are_not_related(tmp_path):
    """Features of tokens are the same, all else is drawn anew: all columns are recognised, which is no evidence."""
    config, tensors = checkpoints.llama(0, width=64)
    _, other = checkpoints.llama(1, width=64)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        other[name] = tensors[name]
    other = checkpoints.disguised_llama(config, other, 2)
    a = checkpoints.write(tmp_path / "a", config, tensors)
    b = checkpoints.write(tmp_path / "b", config, other)
    found = mo.align(a, b)
    assert found.sets[0] == Found(64, 64)
    assert log_chance(found.sets) < math.log(1e-9)
    assert not found.related
    assert "no relation is seen" in found.statement
    assert found.recognised == sum(part.recognised for part in found.sets[1:])
    assert found.check()


def test_strangers_are_recognised_as_often_as_by_chance(tmp_path):
    """Over many pairs about one unit in each set, within 6 sigma of what fixed points of permutations are."""
    config = checkpoints.llama(0)[0]
    folders = [
        checkpoints.write(tmp_path / str(seed), config, checkpoints.llama(seed)[1], shards=1)
        for seed in range(7)
    ]
    found = [mo.align(a, b) for a, b in itertools.combinations(folders, 2)]
    sets = [part for one in found for part in one.sets]
    mean = sum(part.recognised for part in sets) / len(sets)
    assert 0 < mean < 1 + 6 / math.sqrt(len(sets))
    assert not any(one.related for one in found)


def test_configurations_must_say_the_same(tmp_path):
    config, tensors = checkpoints.llama(0)
    a = checkpoints.write(tmp_path / "a", config, tensors)
    other = {**config, "rope_theta": 500.0, "torch_dtype": "float16"}
    b = checkpoints.write(tmp_path / "b", other, tensors)
    found = mo.equivalent(a, b)
    assert found.keys == ("rope_theta",)
    assert found.status == "undecided"
    assert found.total.equal == found.total.numbers
    assert "rope_theta" in found.statement
    assert mo.signature(a) != mo.signature(b)
    # named, too, where tensors differ
    draw = torch.Generator().manual_seed(0)
    noise = {
        name: value + 0.1 * value.std() * torch.randn(value.shape, generator=draw).double()
        for name, value in tensors.items()
    }
    rounded = {name: value.bfloat16().double() * (1 + 2.0**-8) for name, value in tensors.items()}
    for name, numbers, said in (
        ("near", rounded, "within rounding"), ("noisy", noise, "related"),
        ("far", checkpoints.llama(9)[1], "no relation"),
    ):  # fmt: skip
        statement = mo.align(a, checkpoints.write(tmp_path / name, other, numbers)).statement
        assert said in statement
        assert statement.endswith("the configurations differ in rope_theta")
    config = {**config, "torch_dtype": "float16", "transformers_version": "4.0"}
    c = checkpoints.write(tmp_path / "c", config, tensors)
    assert mo.equivalent(a, c).status == "proved"
    assert mo.signature(a) == mo.signature(c)


def test_other_shapes_and_other_kinds_of_sources(tmp_path):
    a = checkpoints.write(tmp_path / "a", *checkpoints.llama(0))
    b = checkpoints.write(tmp_path / "b", *checkpoints.llama(0, units=25))
    with pytest.raises(mo.ShapeError, match="only checkpoints of one architecture"):
        mo.align(a, b)
    c = checkpoints.write(tmp_path / "c", *checkpoints.llama(0, heads=2, groups=1, size=12))
    with pytest.raises(mo.ShapeError):
        mo.align(a, c)
    with pytest.raises(mo.UnsupportedModel, match="compared with another one"):
        mo.align(a, "zoo:digits-plain")
    with pytest.raises(mo.ArgumentError, match="without data"):
        mo.align(a, a, by="activations")
    with pytest.raises(mo.ArgumentError, match="leave out on"):
        mo.equivalent(a, a, on=mo.Box(-1, 1))
    with pytest.raises(mo.ArgumentError, match="activation"):
        mo.signature(a, activation="relu")


def test_units_that_do_the_same_or_nothing(tmp_path):
    """Copies of a unit, a unit of zeros, values of zero."""
    config, tensors = checkpoints.llama(0)
    at = "model.layers.0."
    for name in ("gate", "up"):
        tensors[f"{at}mlp.{name}_proj.weight"][3] = tensors[f"{at}mlp.{name}_proj.weight"][5]
        tensors[f"{at}mlp.{name}_proj.weight"][7] = 0
    tensors[f"{at}mlp.down_proj.weight"][:, 7] = 0
    tensors[f"{at}self_attn.v_proj.weight"][:6] = 0
    turned = checkpoints.disguised_llama(config, tensors, 1)
    a = checkpoints.write(tmp_path / "a", config, tensors)
    b = checkpoints.write(tmp_path / "b", config, turned)
    assert mo.align(a, b).status == "proved"
    assert mo.align(a, a).status == "proved"


@pytest.mark.parametrize("rows", [1, 7])
def test_parts_are_read_a_few_rows_at_a_time(rows, tmp_path, monkeypatch):
    """Embeddings in blocks, other tensors one by one: the largest piece that is read is one of a layer."""
    a, b, _ = pair(KINDS[0], tmp_path)
    whole = mo.align(a, b)
    monkeypatch.setattr(checkpoint_moves, "BLOCK", rows * 16)
    monkeypatch.setattr(checkpoint_matching, "GAINS", 5 * 24)
    largest = []
    raw = mo.common.checkpoint.Checkpoint.raw

    def watched(self, name, start=0, stop=None):
        found = raw(self, name, start, stop)
        largest.append((len(found), name))
        return found

    monkeypatch.setattr(mo.common.checkpoint.Checkpoint, "raw", watched)
    found = mo.align(a, b)
    assert found.status == "proved"
    assert found.sets == whole.sets
    embedded = [size for size, name in largest if "embed" in name or "lm_head" in name]
    assert max(embedded) == rows * 16 * 2
    assert mo.signature(a) == mo.signature(b)


def test_float64_that_products_would_round_is_never_called_equal(tmp_path):
    """A number that a scale takes to 0, and one that it rounds: b holds what products in float64 give."""
    config, tensors = checkpoints.llama(0, dtype="F64", layers=1)
    a = checkpoints.write(tmp_path / "a", config, tensors, dtype="F64")
    for size in (2.0**-1074, 3 * 2.0**-1074):
        tiny = {name: value.clone() for name, value in tensors.items()}
        at = "model.layers.0.mlp."
        tiny[f"{at}up_proj.weight"][4, 3] = size
        turned = dict(tiny)
        scales = torch.ones(24, dtype=torch.float64)
        scales[4] = 0.25
        turned[f"{at}up_proj.weight"] = tiny[f"{at}up_proj.weight"] * scales[:, None]
        turned[f"{at}down_proj.weight"] = tiny[f"{at}down_proj.weight"] / scales
        assert turned[f"{at}up_proj.weight"][4, 3] in (0, 2.0**-1074)  # rounded
        name = str(math.frexp(size)[0])
        c = checkpoints.write(tmp_path / f"c{name}", config, tiny, dtype="F64")
        d = checkpoints.write(tmp_path / f"d{name}", config, turned, dtype="F64")
        assert mo.equivalent(c, d).status == "undecided"
        with pytest.raises(mo.UnsupportedModel, match="below 2"):
            mo.signature(c)
    assert mo.equivalent(a, a).status == "proved"


# Laws --------------------------------------------------------------------------------------------------------------


def element_of(kind: Kind, folder: Path) -> tuple[Decoder, dict[str, Moved]]:
    found = mo.align(*pair(kind, folder)[:2])
    return found.decoder, {
        name: Moved(moved.order.copy(), moved.factor.copy())
        for name, moved in found.element.items()
    }


def swapped(order: Any, i: Any, j: Any) -> None:
    order[i], order[j] = order[j].copy(), order[i].copy()


FORGERIES = [
    ("llama", "stream", lambda m: m.factor.__setitem__(0, 2.0), "no sign"),
    ("llama", "stream", lambda m: m.order.__setitem__(0, m.order[1]), "no order"),
    ("llama", "gain 0 heads", lambda m: m.factor.__setitem__(3, 8 * m.factor[3]), "other numbers"),
    ("llama", "norm 1 units", lambda m: swapped(m.order, 0, 1), "stream's order"),
    ("llama", "units 0", lambda m: m.factor.__setitem__(0, 0.0), "is 0"),
    ("llama", "keys 0", lambda m: swapped(m.order, 0, 1), "another order|plane"),
    ("llama", "keys 1", lambda m: swapped(m.order, 0, 6), "torn apart"),
    ("llama", "queries 0", lambda m: m.factor.__setitem__(0, -m.factor[0]), "not inverse"),
    ("llama", "queries 0", lambda m: swapped(m.order, slice(0, 6), slice(6, 12)), "other heads"),
    ("llama", "values 0", lambda m: swapped(m.order, 0, 1), "another order"),
    ("llama", "outputs 0", lambda m: m.factor.__setitem__(0, 3 * m.factor[0]), "than the values"),
    ("gpt2", "stream", lambda m: m.factor.__setitem__(0, -m.factor[0]), "signs differ"),
    ("gpt2", "units 0", lambda m: m.factor.__setitem__(0, -1.0), "a sign"),
    ("gpt2", "units 0", lambda m: m.factor.__setitem__(0, 2.0), "a scale"),
    ("gpt2", "keys 0", lambda m: m.factor.__setitem__(0, 5 * m.factor[0]), "not inverse"),
]


@pytest.mark.parametrize(("family", "name", "forge", "why"), FORGERIES)
def test_what_is_no_law_is_refused(family, name, forge, why, tmp_path):
    kind = KINDS[0] if family == "llama" else KINDS[3]
    decoder, element = element_of(kind, tmp_path)
    require_laws(decoder, element)
    forge(element[name])
    with pytest.raises(mo.CertificateRejected, match=why):
        require_laws(decoder, element)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3]], ids=repr)
def test_every_axis_must_be_moved(kind, tmp_path):
    decoder, element = element_of(kind, tmp_path)
    for name in element:
        left = {key: moved for key, moved in element.items() if key != name}
        with pytest.raises(mo.CertificateRejected, match=f"{name}: nothing says"):
            require_laws(decoder, left)


def test_a_plane_of_positions_is_turned_by_quarters_alone(tmp_path):
    """Queries and keys that trade planes keep scores without positions, and not with them."""
    decoder, element = element_of(KINDS[0], tmp_path)
    for name, count in (("queries 0", 4), ("keys 0", 2)):
        order, factor = (x.reshape(count, 6) for x in element[name])
        for x in (order, factor):
            x[:, [0, 1]] = x[:, [1, 0]]
            x[:, [3, 4]] = x[:, [4, 3]]
    with pytest.raises(mo.CertificateRejected, match="plane"):
        require_laws(decoder, element)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_every_number_is_one_piece(kind, tmp_path):
    """So none is left out when checkpoints are compared."""
    config, tensors = kind.make()
    a = open_checkpoint(checkpoints.write(tmp_path / "a", config, tensors, dtype=kind.dtype))
    assert a is not None
    found = mo.align(a, a)
    assert found.total.numbers == a.parameters == sum(t.numel() for t in tensors.values())
    assert found.status == "proved"
    assert found.before == 0


# Searches ----------------------------------------------------------------------------------------------------------


def test_a_matching_is_the_best_where_all_agree_and_an_order_always():
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 6):
        first, second = rng.normal(size=(2, count, count)).astype(np.float32)
        order, recognised = matched(count, lambda rows, f=first, s=second: (f[rows], s[rows]))
        assert sorted(order) == list(range(count))
        assert 0 <= recognised <= count
        total, at = first + second, np.arange(count)
        for i in range(count):  # pairs that are each other's best are taken
            j = int(total[i].argmax())
            if int(total[:, j].argmax()) == i:
                assert order[i] == j
        planted = np.eye(count, dtype=np.float32)[rng.permutation(count)] * 9
        order, recognised = matched(
            count, lambda rows, f=first, p=planted: (f[rows] + p[rows], f[rows] + p[rows])
        )
        assert recognised == count
        assert (planted[at, order] == 9).all()


def test_the_bound_of_chance_against_all_permutations():
    """Two sets of 4 and 5: all pairs of permutations."""
    points = [
        np.array([sum(i == j for i, j in enumerate(p)) for p in itertools.permutations(range(n))])
        for n in (4, 5)
    ]
    sums = (points[0][:, None] + points[1][None, :]).ravel()
    for seen in range(10):
        chance = float((sums >= seen).mean())
        bound = log_chance([Found(4, min(seen, 4)), Found(5, max(0, seen - 4))])
        assert chance <= math.exp(bound) + 1e-12
    assert log_chance([Found(5, 2)]) < 0 == log_chance([Found(5, 1)])


def test_answers_as_data(tmp_path):
    a, b, _ = pair(KINDS[0], tmp_path)
    found = mo.align(a, b)
    data = json.loads(json.dumps(found.to_json()))
    assert data["schema"] == "moduli.align/1"
    assert data["same"]
    assert data["equal"] == data["numbers"]
    assert [part["name"] for part in data["parts"]][:2] == ["embeddings", "layer 0 heads"]
    assert "layer 1 units" in found.table().text(100)


def test_a_key_that_is_left_out_is_not_null(tmp_path):
    config, tensors = checkpoints.llama(0)
    a = checkpoints.write(tmp_path / "a", config, tensors)
    b = checkpoints.write(tmp_path / "b", {**config, "sliding_window": None}, tensors)
    assert mo.equivalent(a, b).keys == ("sliding_window",)


def test_two_names_of_one_number(tmp_path):
    config, tensors = checkpoints.gpt2()
    heads = config["n_head"]
    a = checkpoints.write(tmp_path / "a", {**config, "num_attention_heads": heads}, tensors)
    assert mo.equivalent(a, a).status == "proved"
    b = checkpoints.write(tmp_path / "b", {**config, "num_attention_heads": 2 * heads}, tensors)
    with pytest.raises(mo.UnsupportedModel, match="num_attention_heads beside another number"):
        mo.equivalent(a, b)


def test_forged_answers_about_checkpoints(tmp_path):
    config, tensors = checkpoints.llama(0)
    a = checkpoints.write(tmp_path / "a", config, tensors)
    b = checkpoints.write(tmp_path / "b", {**config, "rope_theta": 500.0}, tensors)
    c = checkpoints.write(tmp_path / "c", *checkpoints.llama(5))
    found, far = mo.equivalent(a, b), mo.equivalent(a, c)
    assert found.check()
    assert far.check()
    sets = tuple(Found(one.units, one.units) for one in far.sets)
    for forged in (
        replace(found, status="proved", keys=()), replace(far, status="proved"), replace(far, agreements=found.agreements),
        replace(far, sets=sets), replace(far, sets=far.sets[:1]),
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            forged.check()


def test_a_layer_of_nothing(tmp_path):
    config, tensors = checkpoints.llama(0)
    none = {
        name: value[:0] if "gate_proj" in name or "up_proj" in name else value[:, :0] if "down_proj" in name else value
        for name, value in tensors.items()
    }  # fmt: skip
    folder = checkpoints.write(tmp_path / "a", config, none)
    with pytest.raises(mo.ShapeError, match="nothing is in it"):
        mo.signature(folder)


def test_forged_normal_forms(tmp_path):
    config, tensors = checkpoints.llama(0)
    form = canon(open_checkpoint(checkpoints.write(tmp_path / "a", config, tensors)))
    assert form.check()
    stream = form.element["stream"]
    flipped = {**form.element, "stream": Moved(stream.order[::-1], stream.factor)}
    other = Decoder.of(
        open_checkpoint(checkpoints.write(tmp_path / "b", *checkpoints.llama(0, layers=1)))
    )
    for forged in (
        replace(form, element=flipped), replace(form, element={}), replace(form, status="estimated"),
        replace(form, signature=Signature(str(form.signature), complete=True)),
        replace(form, signature=Signature("llama:0", complete=False)), replace(form, decoder=other),
    ):  # fmt: skip
        with pytest.raises(mo.CertificateRejected):
            forged.check()


FIXED = [
    ("llama", "model.layers.{}.self_attn.rotary_emb.inv_freq"),
    ("gpt2", "h.{}.attn.masked_bias"),
]


@pytest.mark.parametrize(("family", "name"), FIXED)
def test_tensors_that_stay_are_compared_by_name_and_by_all_bits(family, name, tmp_path):
    """Those of another layer, or of other numbers, say other functions."""
    config, tensors = getattr(checkpoints, family)(0, dtype="F32")
    numbers = torch.tensor([1.0, -0.25, 0.5], dtype=torch.float64)
    folders = [
        checkpoints.write(tmp_path / str(k), config, {**tensors, **more}, dtype="F32")
        for k, more in enumerate(
            ({name.format(0): numbers}, {name.format(1): numbers}, {name.format(0): -numbers})
        )
    ]
    assert mo.equivalent(folders[0], folders[0]).status == "proved"
    with pytest.raises(mo.ShapeError, match="stands where"):
        mo.equivalent(folders[0], folders[1])
    found = mo.equivalent(folders[0], folders[2])
    assert found.status == "undecided"
    assert found.total.numbers - found.total.equal == 3
    assert len({mo.signature(folder) for folder in folders}) == 3


def test_bytes_of_what_stays_mean_numbers_of_a_type(tmp_path):
    """The same bytes as float32 and as int32."""
    config, tensors = checkpoints.gpt2()
    found = []
    for k, dtype in enumerate((torch.float32, torch.int32)):
        folder = checkpoints.write(tmp_path / str(k), config, tensors, dtype="F32", shards=1)
        mask = torch.tensor([1.0, 2.0]).view(dtype)
        kept = {name: value.float() for name, value in tensors.items()}
        save_file({**kept, "h.0.attn.masked_bias": mask}, folder / "model.safetensors")
        found.append(folder)
    assert mo.signature(found[0]) != mo.signature(found[1])
    assert mo.equivalent(*found).status == "undecided"


def test_a_prefix_of_names_says_nothing(tmp_path):
    """Some libraries write `transformer.` in front, of tensors that stay, too."""
    mask = {"h.1.attn.masked_bias": torch.tensor(-1e4)}
    folders = []
    for k, front in enumerate(("", "transformer.")):
        config, tensors = checkpoints.gpt2(front=front)
        more = {f"{front}{name}": value for name, value in mask.items()}
        folders.append(
            checkpoints.write(tmp_path / str(k), config, {**tensors, **more}, dtype="F32")
        )
    assert mo.equivalent(*folders).status == "proved"
    assert len({mo.signature(folder) for folder in folders}) == 1


@pytest.mark.parametrize("kind", [Kind("llama", "F32", layers=1), KINDS[3]], ids=repr)
@pytest.mark.parametrize("power", [90, 40, -60])
def test_large_and_small_numbers_are_scaled_before_they_are_multiplied(kind, power, tmp_path):
    """Products of them are no floats of 32 bits."""
    config, tensors = kind.make()
    tensors = {name: value * 2.0**power for name, value in tensors.items()}
    turned = kind.disguised(config, tensors, 1)
    a = checkpoints.write(tmp_path / "a", config, tensors, dtype="F32")
    b = checkpoints.write(tmp_path / "b", config, turned, dtype="F32")
    found = mo.align(a, b)
    assert found.status == "proved"
    assert all(part.recognised == part.units for part in found.sets)
    # a normal form multiplies by up to 2^128, and gains and what reads them by both
    assert (mo.signature(a) == mo.signature(b)) == (power == 40)


def test_huge_numbers_are_refused_by_name(tmp_path):
    config, tensors = checkpoints.llama(0, dtype="F64")
    name = "model.layers.0.mlp.up_proj.weight"
    folders = []
    for k, size in enumerate((2.0**249, 2.0**251, 1.7e308)):
        changed = tensors[name].clone()
        changed[3, 4] = size
        more = {**tensors, name: changed}
        folders.append(checkpoints.write(tmp_path / str(k), config, more, dtype="F64"))
    assert mo.align(folders[0], folders[0]).status == "proved"
    assert mo.align(folders[0], tmp_path / "0").check()
    for folder in folders[1:]:
        for question in (
            mo.signature,
            lambda x: mo.align(x, folders[0]),
            lambda x: mo.align(folders[0], x),
        ):
            with pytest.raises(
                mo.UnsupportedModel, match=rf"{folder.name}: '{name}' holds numbers above"
            ):
                question(folder)


def test_gains_that_no_copy_is_scaled_by(tmp_path):
    """Of 2^-240 and 2^240: they are compared, and not moved."""
    config, tensors = checkpoints.llama(0, dtype="F64", layers=1)
    name = "model.norm.weight"
    folders = []
    for k, power in enumerate((-240, 240)):
        changed = tensors[name].clone()
        changed[2] = 2.0**power
        folders.append(
            checkpoints.write(tmp_path / str(k), config, {**tensors, name: changed}, dtype="F64")
        )
    found = mo.align(*folders)
    assert found.status == "estimated"
    assert not found.within_rounding
    assert math.isfinite(found.before)
    assert math.isfinite(found.after)


def test_rows_that_float32_does_not_tell_apart_have_a_normal_order(tmp_path):
    config, tensors = checkpoints.llama(0, dtype="F64", layers=1)
    at = "model.layers.0.mlp."
    for name in ("gate", "up"):
        weight = tensors[f"{at}{name}_proj.weight"]
        weight[3] = weight[5]
    down = tensors[f"{at}down_proj.weight"]
    down[:, 3] = down[:, 5] * (1 + 2.0**-40)
    a = checkpoints.write(tmp_path / "a", config, tensors, dtype="F64")
    found = set()
    for seed in range(4):
        turned = checkpoints.disguised_llama(config, tensors, seed)
        found.add(
            mo.signature(checkpoints.write(tmp_path / str(seed), config, turned, dtype="F64"))
        )
    assert found == {mo.signature(a)}


def test_errors_about_what_is_declared_name_the_checkpoint(tmp_path):
    config, tensors = checkpoints.llama(0)
    changes = [
        ({"num_key_value_heads": 3}, {}), ({"partial_rotary_factor": 0.5}, {}), ({"num_hidden_layers": 5000}, {}),
        ({"hidden_act": "mish"}, {}), ({"num_hidden_layers": 0}, {}), ({"tie_word_embeddings": 1}, {}),
        ({"num_hidden_layers": 1}, {}), ({"num_hidden_layers": 3}, {}), ({"model_type": "bert"}, {}),
        ({}, {"model.norm.weight": torch.ones(3)}), ({}, {"model.embed_tokens.weight": torch.ones(3)}),
        ({}, {"more": torch.ones(3)}),
    ]  # fmt: skip
    for k, (keys, more) in enumerate(changes):
        folder = checkpoints.write(tmp_path / f"c{k}", {**config, **keys}, {**tensors, **more})
        with pytest.raises((mo.UnsupportedModel, mo.ShapeError)) as raised:
            mo.signature(folder)
        assert str(raised.value).startswith(f"{folder}: ")
