"""State dicts: what names and shapes decide is read as torch evaluates it; the rest is refused, in
one line with a way out.
"""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from moduli.formats import load
from moduli.formats.safetensors_file import read_safetensors
from moduli.formats.state_dicts import network_from_checkpoint, network_from_state_dict
from moduli.formats.state_entries import dense, modules_of
from moduli.kernel.errors import ModuliError, UnsupportedModel
from moduli.kernel.exact_numbers import enclose

RNG = np.random.default_rng(11)


def sequential(*widths, prefix="", start=0, step=2):
    rng = np.random.default_rng(len(widths))
    arrays = {}
    for k, (n, m) in enumerate(pairwise(widths)):
        arrays[f"{prefix}{start + step * k}.weight"] = rng.normal(size=(m, n)).astype(np.float32)
        arrays[f"{prefix}{start + step * k}.bias"] = rng.normal(size=m).astype(np.float32)
    return arrays


def batch_norm(name, width):
    """With numbers of which none is neutral."""
    return {
        f"{name}.weight": RNG.normal(size=width),
        f"{name}.bias": RNG.normal(size=width),
        f"{name}.running_mean": RNG.normal(size=width),
        f"{name}.running_var": RNG.uniform(0.5, 2, size=width),
        f"{name}.num_batches_tracked": np.array(7),
    }


def read(arrays, **options):
    return network_from_state_dict(arrays, **{"activation": "tanh", **options})


def refused(match, arrays, **options):
    """Refused in one line that ends in no empty list."""
    with pytest.raises(UnsupportedModel, match=match) as caught:
        read(arrays, **options)
    text = str(caught.value)
    assert not re.search(r"(from|are|layers:)\s*(,|;|\)|$)", text), text
    return text


def shuffled(arrays):
    """As safetensors gives them back: sorted as text."""
    return {name: arrays[name] for name in sorted(arrays)}


# Plain ----------------------------------------------------------------------------------------------------------


def test_plain_and_wrapped():
    arrays = sequential(3, 4, 2)
    net = read(arrays)
    assert net.widths == (3, 4, 2)
    assert np.array_equal(net.layers[1].weight, arrays["2.weight"].astype(float))
    for prefix in ("module.", "_orig_mod.module.", "features.module."):
        assert read({prefix + k: v for k, v in arrays.items()}) == net
    single = {"weight": np.ones((2, 3)), "bias": np.ones(2)}
    assert read(single, activation=None).widths == (3, 2)
    del arrays["0.bias"]
    assert not read(arrays).layers[0].bias.any()
    mixed = read(sequential(2, 3, 3, 1), activation=["relu", "sin"])
    assert [str(a) for a in mixed.activations] == ["relu", "sin"]


def test_keys():
    actor, critic = sequential(3, 4, 4, prefix="policy."), sequential(3, 4, 4, prefix="value.")
    heads = {
        "action.weight": np.ones((2, 4)),
        "action.bias": np.zeros(2),
        "critic.weight": np.ones((1, 4)),
    }
    arrays = actor | critic | heads | {"log_std": np.zeros(2)}
    net = read(arrays, keys=("policy", "action"))
    assert net.widths == (3, 4, 4, 2)
    assert net.notes == (
        "layers read in this order: policy.0, policy.2, action",
        "not read: value.0, value.2, critic, log_std",
    )
    assert read(arrays, keys=("module.policy", "action")) == net
    refused(r"'log_std' belongs to no dense layer.*keys=, from policy.0", arrays)
    refused(r"policy.2 gives 4 numbers but value.0 takes 3.*keys=", actor | critic | heads)
    refused("no entry starts with 'actor'", arrays, keys=("actor",))
    refused("keys= is empty", arrays, keys=())
    refused("'policy.0' twice", arrays, keys=("policy", "policy.0"))
    square = sequential(4, 4, 4, prefix="a.") | sequential(4, 4, 4, prefix="b.")
    refused("in series or side by side", square)
    assert read(square, keys=("a", "b")).widths == (4,) * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"0.weight": np.ones((4, 1, 3, 3))},
            r"'0.weight' of shape \(4, 1, 3, 3\) is a convolution",
        ),
        (
            {"1.weight": np.ones(4), "1.bias": np.ones(4)},
            "'1.weight' .* is a normalisation.*LayerNorm",
        ),
        ({"1.weight": np.ones(1)}, "'1.weight' .* is a PReLU"),
        ({"1.weight": np.ones(4)}, "'1.weight' .* is a PReLU"),
        ({"1.running_mean": np.ones(4)}, "'1.running_mean' belongs to no dense layer"),
        ({"0.weight_orig": np.ones(4)}, "'0.weight_orig' belongs to no dense layer"),
        ({"module.0.weight": np.ones((4, 3))}, "both named '0.weight'"),
        ({"0.weight": np.full((4, 3), np.nan)}, "finite"),
        ({"0.bias": np.ones(5)}, "rows and biases must agree"),
        ({"0.bias": np.ones((4, 1))}, r"'0.bias' has shape \(4, 1\)"),
        (
            {"0.weight": np.ones((3, 4), np.float32), "0.bias": np.ones(4)},
            r"stored as \[in, out\]: transpose",
        ),
        ({"0.weight": np.ones((4, 3), np.int8)}, "'0.weight' is stored as int8; quantised"),
        (
            {"0.weight": np.ones((4, 3), np.uint8), "0.weight_scale": np.ones(4)},
            "stored as uint8; quantised",
        ),
        ({"0.weight_scale": np.ones(4)}, "'0.weight_scale' belongs to quantised weights"),
        ({"0.kernel": np.ones((3, 4))}, "'0.kernel' belongs to no dense layer"),
        (
            {"0.lora_A": np.ones((1, 3)), "0.lora_B": np.ones((4, 1))},
            "'0.lora_A' is an adapter of '0'.*merge",
        ),
        (
            {"1.lora_A.default.weight": np.ones((1, 3))},
            "'1.lora_A.default.weight' is an adapter of '1'",
        ),
        ({"scale": np.ones(())}, "'scale' belongs to no dense layer"),
        ({"epoch": 3}, "'epoch' belongs to no dense layer"),
    ],
)
def test_refusals(change, message):
    refused(message, sequential(3, 4, 2) | change, where="w.safetensors")


def test_an_activation_is_needed_between_layers():
    text = refused(
        r"w.pth stores no activation; give it, as in activation='relu'",
        sequential(3, 4, 2),
        activation=None,
        where="w.pth",
    )
    assert "layers: 0, 2" in text
    refused(r"no entry is named X\.weight; there are none", {})


def test_what_looks_like_a_layer_and_is_none():
    square = sequential(4, 4, 4)
    copies = {f"ema.{name}": value for name, value in square.items()}
    refused("'ema' repeats layers beside it", square | copies)
    refused("'ema' repeats layers beside it", shuffled(square) | copies)
    assert read(square | copies, keys=("0", "2")).notes[-1] == "not read: ema.0, ema.2"
    table = {"0.embed.weight": np.ones((4, 4)), "1.weight": np.ones((4, 4))}
    refused("named as an embedding", table)
    assert read(table, keys=("0", "1")).widths == (4, 4, 4)


# Order ----------------------------------------------------------------------------------------------------------


def test_numbers_in_names_are_compared_as_numbers():
    arrays = sequential(*[5] * 13)
    expected = read(arrays)
    net = read(shuffled(arrays), ordered=False)
    assert net == expected
    assert net.notes == ("layers read in this order: 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22",)
    for form in ("fc{}", "net.layer{}", "blocks.{}.linear", "h.0{}"):
        renamed = {
            re.sub(r"^(\d+)", lambda m, form=form: form.format(m[1]), name): v
            for name, v in arrays.items()
        }
        stems = [name.rpartition(".")[0] for name in renamed if name.endswith("weight")]
        assert read(shuffled(renamed), ordered=False, keys=stems) == expected
        if "linear" not in form:
            assert read(shuffled(renamed), ordered=False) == expected
    assert (
        read(shuffled(arrays), ordered=False, keys=("2", "0")).notes[0]
        == "layers read in this order: 2, 0"
    )


def test_names_that_tell_no_order_demand_keys():
    for stems in (
        ("encoder", "head"),
        ("fc1", "fc_out"),
        ("fc", "fc2"),
        ("0", "0.1"),
        ("01", "1"),
        ("body.0", "body.end"),
    ):
        arrays = {f"{stem}.weight": RNG.normal(size=(3, 3)) for stem in stems}
        for given in (arrays, dict(reversed(arrays.items()))):
            text = refused(
                "keeps no order.*say the order of evaluation with keys=", given, ordered=False
            )
            assert all(stem in text for stem in stems)
            net = read(given, ordered=False, keys=stems)
            assert [
                np.array_equal(layer.weight, a)
                for layer, a in zip(net.layers, arrays.values(), strict=True)
            ] == [True] * 2
    inner = {f"net.{name}.weight": np.ones((3, 3)) for name in ("a", "b")}
    refused("keeps no order", inner, ordered=False, keys=("net",))
    assert read(inner, keys=("net",)).widths == (3, 3, 3)


def test_stored_order_that_names_contradict_demands_keys():
    arrays = sequential(*[5] * 7)
    refused(
        "'10' is stored behind a higher number|'2' is stored behind a higher number",
        shuffled(arrays),
    )
    assert read(shuffled(arrays), keys=("0", "2", "4", "6", "8", "10")) == read(arrays)
    refused(
        "higher number",
        {
            "a.fc2.weight": np.ones((3, 3)),
            "x.weight": np.ones((3, 3)),
            "a.fc1.weight": np.ones((3, 3)),
        },
    )
    assert read({"b.weight": np.ones((3, 3)), "a.weight": np.ones((3, 3))}).widths == (3, 3, 3)


# Normalisations -------------------------------------------------------------------------------------------------

torch = pytest.importorskip("torch")
nn = torch.nn


def filled(module):
    """With numbers that tell every parameter and statistic apart."""
    torch.manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return module.double().eval()


def same_as(module, net, inputs=4):
    x = 3 * torch.randn(50, inputs, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(net(x.numpy()), module(x).numpy(), rtol=1e-12, atol=1e-12)


def L(n, m):
    return nn.Linear(n, m)


FOLDED = {
    "before the activation": lambda: nn.Sequential(L(4, 6), nn.BatchNorm1d(6), nn.ReLU(), L(6, 2)),
    "before it, with dropout": lambda: nn.Sequential(
        L(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), L(6, 2)
    ),
    "behind the activation": lambda: nn.Sequential(L(4, 6), nn.ReLU(), nn.BatchNorm1d(6), L(6, 2)),
    "at both ends": lambda: nn.Sequential(
        nn.BatchNorm1d(4), L(4, 6), nn.ReLU(), L(6, 2), nn.BatchNorm1d(2)
    ),
    "bare": lambda: nn.Sequential(L(4, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), L(6, 2)),
    "both": lambda: nn.Sequential(
        L(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6), L(6, 2)
    ),
}


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("ordered", [True, False])
def test_batch_normalisations_with_a_certain_place_are_folded(name, ordered):
    module = filled(FOLDED[name]())
    state = module.state_dict() if ordered else shuffled(module.state_dict())
    net = read(state, activation="relu", ordered=ordered)
    same_as(module, net)
    folded = [note for note in net.notes if note.startswith("batch normalisation")]
    assert len(folded) == sum(isinstance(part, nn.BatchNorm1d) for part in module)
    assert all("epsilon 1e-05" in note and "torch's default" in note for note in folded)
    assert "rounding to float64 changes the output by at most" in net.notes[-1]
    if (
        name != "at both ends"
    ):  # where keys choose only layers, what stands between them is folded nevertheless
        layers = [str(k) for k, part in enumerate(module) if isinstance(part, nn.Linear)]
        assert read(state, activation="relu", ordered=ordered, keys=layers) == net


def test_a_batch_normalisation_without_a_certain_place_is_refused():
    layers = {"fc1.weight": np.ones((4, 3)), "fc2.weight": np.ones((2, 4))}
    named = {
        "fc1.weight": layers["fc1.weight"],
        **batch_norm("bn1", 4),
        "fc2.weight": layers["fc2.weight"],
    }
    for keys in (None, ("fc1", "fc2"), ("fc1", "bn1", "fc2")):
        refused(
            "'bn1' is a batch normalisation between 'fc1' and 'fc2'.*on which side.*fuse_linear_bn",
            named,
            keys=keys,
        )
    refused("keeps no order", named, ordered=False)
    refused(
        "'bn1' is a batch normalisation of the width between.*keeps no order",
        named,
        ordered=False,
        keys=("fc1", "fc2"),
    )
    tight = sequential(3, 4, 2) | batch_norm("1", 4)
    tight = {name: tight[name] for name in sorted(tight)}
    refused("'1' is a batch normalisation between '0' and '2'.*on which side", tight)
    wide = {"0.weight": np.ones((4, 3)), **batch_norm("1", 5), "3.weight": np.ones((2, 4))}
    refused("'1' normalises 5 channels where '0' has 4", wide)
    assert read(wide, keys=("0", "3")).notes[-1] == "not read: 1 (a batch normalisation)"
    odd = {
        "0.weight": np.ones((4, 3)),
        **batch_norm("1", 4),
        "1.scale": np.ones(4),
        "3.weight": np.ones((2, 4)),
    }
    refused("'1.weight' belongs to no dense layer|'1.scale' belongs", odd)


@pytest.mark.parametrize(("entries", "kind"), [
    ({"1.weight": np.ones(4), "1.bias": np.ones(4)}, "a normalisation without running statistics"),
    ({"1.weight": np.full(4, 0.1)}, "a PReLU"),
    ({"1.weight": np.array([0.1])}, "a PReLU"),
])  # fmt: skip
def test_keys_never_leave_out_what_stands_between(entries, kind):
    arrays = {"0.weight": np.ones((4, 3)), **entries, "2.weight": np.ones((2, 4))}
    for given, ordered in ((arrays, True), (shuffled(arrays), False)):
        refused(f"'1.weight' .* is {kind}", given, ordered=ordered, keys=("0", "2"))
    behind = {
        "0.weight": np.ones((4, 3)),
        "2.weight": np.ones((4, 4)),
        **{f"3{k[1:]}": v for k, v in entries.items()},
    }
    (note,) = [n for n in read(behind, keys=("0", "2")).notes if n.startswith("not read")]
    assert f"3 ({kind}" in note


def test_what_belongs_to_another_network_is_noted():
    arrays = (
        sequential(3, 4, 4, prefix="policy.")
        | sequential(3, 4, 4, prefix="value.")
        | batch_norm("value.1", 4)
    )
    arrays |= {"head.weight": np.ones((2, 4))}
    for ordered in (True, False):
        net = read(arrays, keys=("policy", "head"), ordered=ordered)
        assert net.notes[-1] == "not read: value.1 (a batch normalisation), value.0, value.2"
    inside = {
        "policy.0.weight": np.ones((4, 3)),
        "policy.2.weight": np.ones((4, 4)),
        **batch_norm("policy.3", 4),
    }
    inside |= {"head.weight": np.ones((2, 4))}
    net = read(inside, keys=("policy.0", "policy.2", "head"))
    assert "batch normalisation policy.3 folded into policy.2, behind it" in net.notes[1]
    norm = {"norms.0.weight": np.ones(4), "norms.0.bias": np.ones(4)}
    shared = {"0.weight": np.ones((4, 3)), **norm, "2.weight": np.ones((2, 4))}
    refused("'norms.0.weight'.*normalisation", shared, keys=("0", "2"))


# Parametrisations -----------------------------------------------------------------------------------------------


def test_masks_are_applied():
    from torch.nn.utils import prune

    module = filled(nn.Sequential(L(4, 6), nn.Tanh(), L(6, 3)))
    prune.l1_unstructured(module[0], "weight", amount=0.5)
    prune.random_structured(module[2], "weight", amount=0.5, dim=1)
    prune.random_unstructured(module[2], "bias", amount=1)
    net = read(module.state_dict())
    same_as(module, net)
    assert np.array_equal(net.layers[1].weight, module[2].weight.detach().numpy())
    assert sum("torch.nn.utils.prune" in note for note in net.notes) == 3
    state = dict(module.state_dict())
    for mask, message in (
        (torch.full((6, 4), 0.5), "'0.weight_mask' holds 0.5"),
        (torch.ones(6, 1), "'0.weight_mask' has shape"),
    ):
        refused(message, state | {"0.weight_mask": mask})
    del state["0.weight_mask"]
    refused("'0.weight_orig' belongs to no dense layer", state)


def normed(kind, dim):
    from torch.nn.utils import parametrizations

    layers = [L(4, 6), L(6, 3)]
    for layer in layers:
        with pytest.warns(FutureWarning) if kind == "old" else _quiet():
            (nn.utils.weight_norm if kind == "old" else parametrizations.weight_norm)(
                layer, dim=dim
            )
    module = filled(nn.Sequential(layers[0], nn.Tanh(), layers[1]))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("weight_g", "original0")):
                parameter.mul_(torch.rand(parameter.shape) + 0.5)
    return module


def _quiet():
    from contextlib import nullcontext

    return nullcontext()


@pytest.mark.parametrize("kind", ["old", "new"])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_normalisation_is_computed(kind, dim):
    module = normed(kind, dim)
    net = read(module.state_dict())
    same_as(module, net)
    assert any("a weight normalisation" in note for note in net.notes)
    assert "rounding to float64 changes the output by at most" in net.notes[-1]


def test_the_ball_of_a_weight_normalisation_holds_the_true_weight():
    """Against rationals: (entry / g)^2 |v|^2 = v_i^2, so the square root lies between two
    rationals.
    """
    rng = np.random.default_rng(5)
    v = rng.normal(size=(3, 5)) * 2.0 ** rng.integers(-60, 60, size=(3, 5))
    g = rng.normal(size=(3, 1))
    ball = dense(modules_of({"0.weight_g": g, "0.weight_v": v})["0"], "test").weight
    for i in range(3):
        square = sum(Fraction(x) ** 2 for x in v[i].tolist())
        for j in range(5):
            low, high = enclose(ball.centre.get((i, j)))
            radius = Fraction(float(ball.radius[i, j]))
            assert radius < Fraction(2) ** -90 * abs(high)
            target = (Fraction(float(g[i, 0])) * Fraction(float(v[i, j]))) ** 2 / square
            ends = sorted((abs(low - radius), abs(high + radius)))
            assert ends[0] ** 2 <= target <= ends[1] ** 2
            assert np.sign(float(low)) == np.sign(g[i, 0] * v[i, j])


def test_other_parametrisations_are_refused_by_name():
    from torch.nn.utils import parametrizations

    for wrap, message in (
        (parametrizations.spectral_norm, "spectral normalisation.*remove_parametrizations"),
        (parametrizations.orthogonal, "parametrisation.*remove_parametrizations"),
        (nn.utils.spectral_norm, "spectral normalisation.*remove_spectral_norm"),
    ):
        module = nn.Sequential(L(4, 4), nn.Tanh(), wrap(L(4, 4)))
        refused(message, module.state_dict())
    state = {"0.weight_g": np.ones((4, 2)), "0.weight_v": np.ones((4, 3))}
    refused("'0.weight_g' has shape", state)
    refused(
        "holds only zeros",
        {"0.weight_g": np.ones((2, 1)), "0.weight_v": np.array([[1.0, 0.0], [0.0, 0.0]])},
    )
    refused("beyond 2", {"0.weight_g": np.ones((1, 1)), "0.weight_v": np.array([[1e200, 1.0]])})


# Checkpoints ----------------------------------------------------------------------------------------------------


def checkpoint(loaded, **options):
    return network_from_checkpoint(loaded, **{"activation": "tanh", **options})


def test_several_networks_in_one_checkpoint_demand_a_choice():
    actor, critic = sequential(3, 4, 2), sequential(3, 4, 1)
    for held, names in (
        ({"actor": actor, "critic": critic}, ("actor", "critic")),
        ({"state_dict": critic, "ema": actor}, ("ema", "state_dict")),
        ({"module": actor, "ema": critic}, ("module", "ema")),
        ({"nets": [actor, critic]}, ("nets.0", "nets.1")),
        ([actor, critic], ("0", "1")),
        (
            {"layer1": {"weight": np.ones((2, 3))}, "layer2": {"weight": np.ones((2, 2))}},
            ("layer1", "layer2"),
        ),
    ):
        with pytest.raises(UnsupportedModel, match="choose one with keys=, from") as caught:
            checkpoint(held)
        assert all(name in str(caught.value) for name in names)
        assert checkpoint(held, keys=names[:1]).widths[0] == 3
    assert checkpoint({"actor": actor, "critic": critic}, keys=("actor",)) == read(actor)
    assert checkpoint({"state_dict": critic, "ema": actor}, keys=("ema.0", "ema.2")) == read(actor)
    assert checkpoint({"module": actor, "ema": critic}, keys=("ema",)) == read(critic)
    body, head = sequential(3, 4), sequential(4, 2)
    assert checkpoint({"head": head, "body": body}, keys=("body", "head")).widths == (3, 4, 2)


def test_what_stands_beside_a_state_dict_is_noted_and_optimizers_are_not():
    net = sequential(3, 4, 2)
    held = {
        "epoch": 3,
        "obs_rms": {"mean": np.ones(3), "var": np.ones(3)},
        "optimizer": {"state": {0: {"exp_avg": np.ones((4, 3))}}},
        "agent": {"model": net},
        "history": [0.5] * 1000,
    }
    assert checkpoint(held).notes == (
        "read from agent.model",
        "not read: obs_rms",
        "layers read in this order: 0, 2",
    )
    assert (
        checkpoint({"accuracy": np.ones(()), "state_dict": [net]}).notes[1]
        == "not read: tensors beside it"
    )


def test_an_optimizer_is_no_network():
    torch.manual_seed(0)
    module = nn.Sequential(L(4, 3), nn.Tanh(), L(3, 2))
    adam = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 4)).sum().backward()
    adam.step()
    with pytest.raises(UnsupportedModel, match="in which no state dict is found"):
        checkpoint(adam.state_dict())
    net = checkpoint(
        {"net": module.state_dict(), "opt": adam.state_dict(), "rng": torch.get_rng_state()}
    )
    assert net.notes == (
        "read from net",
        "not read: tensors beside it",
        "layers read in this order: 0, 2",
    )


@pytest.mark.filterwarnings("ignore")
def test_quantised_modules_and_their_state_dicts_are_refused():
    module = torch.ao.quantization.quantize_dynamic(
        nn.Sequential(L(4, 3), nn.Tanh(), L(3, 2)), {nn.Linear}
    )
    refused("belongs to quantised weights", module.state_dict())
    with pytest.raises(ModuliError, match=r"torch\.ao\.nn\.quantized.* is not understood"):
        load(module, input_shape=4)


def test_a_checkpoint_that_holds_itself_ends():
    loop = {"epoch": 1}
    loop["state_dict"] = loop
    with pytest.raises(UnsupportedModel, match="in which no state dict is found"):
        checkpoint(loop)
    deep = sequential(3, 2)
    for _ in range(2000):
        deep = {"model": deep}
    with pytest.raises(UnsupportedModel, match="in which no state dict is found"):
        checkpoint(deep)
    for empty in ({}, [], None, {"a": {}}):
        with pytest.raises(UnsupportedModel) as caught:
            checkpoint(empty)
        assert not re.search(r"(with|from|are)\s*(,|;|$)", str(caught.value))


# .safetensors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_every_floating_type_is_read_exactly(tmp_path, dtype):
    from safetensors.torch import save_file

    torch.manual_seed(1)
    module = nn.Sequential(L(3, 4), nn.ReLU(), L(4, 2)).to(getattr(torch, dtype))
    file = tmp_path / "m.safetensors"
    save_file(module.state_dict(), file)
    net = load(file, activation="relu")
    for layer, part in zip(net.layers, (module[0], module[2]), strict=True):
        assert (layer.weight == part.weight.detach().double().numpy()).all()
        assert (layer.bias == part.bias.detach().double().numpy()).all()


def test_every_bfloat16_pattern(tmp_path):
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    from safetensors.torch import save_file

    save_file({"a": patterns}, tmp_path / "a.safetensors")
    _, arrays = read_safetensors(tmp_path / "a.safetensors")
    finite = torch.isfinite(patterns).numpy()
    np.testing.assert_array_equal(
        arrays["a"][finite].astype(float), patterns.double().numpy()[finite]
    )


def test_the_library_and_the_reader_agree(tmp_path):
    from safetensors.numpy import load_file, save_file

    arrays = {
        f"{kind}{shape}": RNG.integers(0, 2, size=shape).astype(kind)
        for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
        for shape in ((), (3,), (2, 3), (0, 4))
    }
    save_file(arrays, tmp_path / "a.safetensors", {"who": "me"})
    metadata, found = read_safetensors(tmp_path / "a.safetensors")
    assert metadata == {"who": "me"}
    for name, array in load_file(tmp_path / "a.safetensors").items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_tied_layers_that_safetensors_left_out_come_back(tmp_path):
    from safetensors.torch import save_model

    module = filled(nn.Sequential(L(4, 4), nn.Tanh(), L(4, 4), nn.Tanh(), L(4, 4)))
    module[4].weight, module[4].bias = module[0].weight, module[0].bias
    save_model(module, tmp_path / "m.safetensors")
    net = load(tmp_path / "m.safetensors", activation="tanh")
    assert len(net.layers) == 3
    same_as(module, net)


def test_eight_bit_floats_are_refused_by_name(tmp_path):
    from safetensors.torch import save_file

    state = {"0.weight": torch.ones(2, 3).to(torch.float8_e4m3fn), "0.bias": torch.ones(2)}
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(UnsupportedModel, match=r"'0\.weight' is stored as F8_E4M3; quantised"):
        load(tmp_path / "m.safetensors", activation="relu")


def entry(dtype, shape, *offsets):
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry("F32", [2], 0, 4)},  # fewer bytes than numbers
        {"a": entry("F32", [2], 0, 12)},  # beyond the end
        {"a": entry("F32", [1], 0, 4)},  # bytes left over
        {"a": entry("F32", [1], 0, 4), "b": entry("F32", [2], 0, 8)},  # overlapping
        {"a": entry("F32", [2], 8, 0)},
        {"a": entry("F32", [-2], 0, 8)},
        {"a": entry("F32", [True, 2], 0, 8)},
        {"a": entry("F32", [2**60, 2**60], 0, 8)},
        {"a": entry("F99", [2], 0, 8)},
        {"a": entry("F32", [2], 0)},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": 3},
        {"a": entry("F32", [2], 0, 8), "__metadata__": {"x": 3}},
        [1, 2],
    ],
)
def test_headers_that_lie_are_damaged(tmp_path, header):
    file = tmp_path / "a.safetensors"
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(UnsupportedModel, match=r"damaged or no \.safetensors file"):
        load(file, activation="relu")


def test_other_bytes_are_damaged(tmp_path):
    file = tmp_path / "a.safetensors"
    twice = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}'
    for data in (
        b"x", b"\xff" * 8, bytes(8), (3).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"\xff\xff",
        (10**5).to_bytes(8, "little") + b"[" * 10**5, len(twice).to_bytes(8, "little") + twice + bytes(8),
    ):  # fmt: skip
        file.write_bytes(data)
        with pytest.raises(
            ModuliError, match=r"damaged or no \.safetensors file|no entry is named"
        ):
            load(file, activation="relu")


def test_names_of_safetensors_need_no_order_where_numbers_tell_it(tmp_path):
    from safetensors.torch import save_file

    module = filled(
        nn.Sequential(*[part for _ in range(11) for part in (L(4, 4), nn.Tanh())], L(4, 2))
    )
    save_file(module.state_dict(), tmp_path / "m.safetensors")
    same_as(module, load(tmp_path / "m.safetensors", activation="tanh"))
    named = nn.ModuleDict({"encoder": L(4, 4), "body": L(4, 4), "head": L(4, 4)})
    save_file(named.state_dict(), tmp_path / "n.safetensors")
    with pytest.raises(UnsupportedModel, match="keys=, from body, encoder, head"):
        load(tmp_path / "n.safetensors", activation="tanh")
    net = load(tmp_path / "n.safetensors", activation="tanh", keys=("encoder", "body", "head"))
    assert math.isclose(net.layers[2].weight[0, 0], named["head"].weight[0, 0].item())
