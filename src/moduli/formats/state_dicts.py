"""State dicts: named tensors of checkpoints and `.safetensors` files, read as a chain of dense
layers.

A state dict stores numbers and names, no function. What names and shapes decide is read, and said
in `Network.notes`: the order of the layers, and batch normalisations, which are folded where their
place is certain. What they do not tell would be a guess, and a guess is another function: it is
asked for, or refused by name. What the entries of one module are is in `state_entries`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from moduli.kernel.activations import Activation
from moduli.kernel.errors import Asked, ModuliError, UnsupportedModel
from moduli.kernel.network import Network

from .affine_tracer import BallArray, Tensor
from .state_entries import (
    BATCH_NORM,
    DENSE,
    OTHER_WAYS,
    UNKNOWN,
    WEIGHTS,
    Dense,
    Module,
    Token,
    batch_norm,
    dense,
    joined,
    listed,
    modules_of,
    parent,
    precedes,
    shape_of,
    shown,
    split,
    token_of,
    tokens_of,
    within,
)  # fmt: skip

Array = np.ndarray[Any, np.dtype[np.float64]]

# Path components that DataParallel and torch.compile put before names.
WRAPPERS = ("module", "_orig_mod")
# Low-rank updates beside a layer.
ADAPTERS = ("lora", "hada_", "lokr_", "ia3_", "oft_", "boft_", "vera_")
EPSILON = 1e-5  # of torch.nn.BatchNorm1d, where nobody says another one
MAX_DEPTH = 8  # of dicts and lists in a checkpoint


# Order ---------------------------------------------------------------------------------------------


def _in_order(stems: Sequence[str], ordered: bool, where: str) -> list[str]:
    """The stems in the order of evaluation, where stored order or the numbers in the names decide
    it.

    Raises:
        UnsupportedModel: the file keeps no order and the names do not decide it, or both disagree.
    """
    if ordered:
        _no_number_falls(stems, where)
        return list(stems)
    _numbers_decide(stems, where)
    return sorted(stems, key=tokens_of)


def _no_number_falls(stems: Sequence[str], where: str) -> None:
    """Behind one beginning of names, numbers must not fall in stored order."""
    last: dict[tuple[Token, ...], int] = {}
    for stem in stems:
        tokens = tokens_of(stem)
        for at, token in enumerate(tokens):
            if not isinstance(token, int):
                continue
            if last.get(tokens[:at], token) > token:
                raise UnsupportedModel(
                    f"{where}: {shown(stem)!r} is stored behind a higher number, so that stored "
                    "order and names disagree; say the order of evaluation with ",
                    *_keys_from(stems),
                )
            last[tokens[:at]] = token


def _numbers_decide(stems: Sequence[str], where: str) -> None:
    """Behind one beginning of names, there must be one continuation, or numbers only."""
    following: dict[tuple[Token, ...], set[Token]] = {}
    for stem in stems:
        tokens: tuple[Token, ...] = (*tokens_of(stem), "")  # an end differs from every continuation
        for at, token in enumerate(tokens):
            following.setdefault(tokens[:at], set()).add(token)
    alike = len({tokens_of(stem) for stem in stems}) < len(stems)
    mixed = False
    for after in following.values():
        numbers = all(isinstance(token, int) for token in after)
        mixed |= len(after) > 1 and not numbers
    if alike or mixed:
        raise UnsupportedModel(
            f"{where} keeps no order of its entries and their names do not tell one; "
            "say the order of evaluation with ",
            *_keys_from(sorted(stems)),
        )


def _keys_from(stems: Sequence[str]) -> tuple[Asked, str]:
    return Asked("keys"), f", from {listed(stems)}"


# The chain -----------------------------------------------------------------------------------------


def network_from_state_dict(
    arrays: Mapping[str, Any],
    *,
    activation: Any,
    keys: Sequence[str] | None = None,
    where: str = "state dict",
    ordered: bool = True,
) -> Network:
    """A network from named arrays ``X.weight`` [out, in] and ``X.bias`` [out].

    Layers are read in stored order, which the numbers in their names must not contradict; from a
    source that keeps no order, in the order of these numbers. `Network.notes` lists them as they
    were read, and what was not.

    Args:
        arrays: path components ``module`` and ``_orig_mod`` (left by wrappers) are ignored.
        activation: of the hidden layers, one or one for each; a state dict stores none.
        keys: names of layers, or prefixes that select several, in the order of evaluation.
        where: what to call the source in errors.
        ordered: whether the order of the entries is that of the modules.

    Raises:
        UnsupportedModel: entries that belong to no dense layer, an order that nothing decides,
            layers that form no chain, a normalisation or PReLU between layers that cannot be
            folded.

    >>> import numpy as np
    >>> arrays = {"module.0.weight": np.ones((3, 2)), "module.0.bias": np.zeros(3), "module.2.weight": np.ones((1, 3))}
    >>> net = network_from_state_dict(arrays, activation="tanh")
    >>> net.widths, net.notes
    ((2, 3, 1), ('layers read in this order: 0, 2',))
    """
    return _read(_stripped(arrays, where), activation, keys, where, ordered, ())


def _stripped(arrays: Mapping[str, Any], where: str) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for name, array in arrays.items():
        short = ".".join(part for part in str(name).split(".") if part not in WRAPPERS)
        if short in named:
            raise UnsupportedModel(
                f"{where}: {name!r} and another entry are both named {short!r} without their wrappers"
            )
        named[short] = array
    return named


def _read(
    named: Mapping[str, Any],
    activation: Any,
    keys: Sequence[str] | None,
    where: str,
    ordered: bool,
    notes: Sequence[str],
) -> Network:
    modules = modules_of(named)
    _no_adapters(named, keys, where)
    if keys is None:
        _understood(modules, list(modules), where)
        chain = _in_order(list(modules), ordered, where)
    else:
        chain = _completed(modules, _chosen(modules, keys, ordered, where), ordered, where)
    layers = [dense(modules[stem], where) for stem in chain if modules[stem].kind == DENSE]
    _chained(layers, where)
    if keys is None:
        _unbranched(layers, where)
        _no_embedding(layers, modules, where)
    _known_activation(activation, layers, where)
    folds = _folds(modules, chain, where)
    lines = [
        *notes,
        f"layers read in this order: {listed([layer.stem for layer in layers], 40)}",
        *(line for layer in layers for line in layer.notes),
        *(fold.note for fold in folds),
        *_not_read(modules, chain),
    ]
    try:
        return _built(layers, folds, activation, lines)
    except ModuliError as error:
        raise error.at(where) from None


def _chosen(modules: Mapping[str, Module], keys: Any, ordered: bool, where: str) -> list[str]:
    """The stems that keys select, in the order of the keys."""
    chosen: list[str] = []
    for key in [keys] if isinstance(keys, str) else keys:
        found = _selected(modules, str(key), where)
        twice = [stem for stem in found if stem in chosen]
        if twice:
            raise UnsupportedModel(
                f"{where}: ", Asked("keys"), f" choose {shown(twice[0])!r} twice; a layer is read once"
            )  # fmt: skip
        chosen += _in_order(found, ordered, where)
    if not chosen:
        raise UnsupportedModel(f"{where}: ", Asked("keys"), " is empty; ", *_choose(modules))
    _understood(modules, chosen, where)
    return chosen


def _selected(modules: Mapping[str, Module], key: str, where: str) -> list[str]:
    """The module that a key names, or those below it; with or without the wrappers in it."""
    bare = ".".join(part for part in key.split(".") if part not in WRAPPERS)
    for prefix in (key.rstrip("."), bare.rstrip(".")):
        if prefix in modules and modules[prefix].kind == DENSE:
            return [prefix]
        found = [stem for stem in modules if prefix and within(stem, prefix)]
        if found:
            return found
    there = [module.name(leaf) for module in modules.values() for leaf in module.entries]
    raise UnsupportedModel(
        f"{where}: no entry starts with {key!r}; there are {listed(there) or 'none'}"
    )


def _choose(modules: Mapping[str, Module]) -> tuple[str | Asked, ...]:
    """The way out by keys, where there is one."""
    layers = [stem for stem, module in modules.items() if stem and module.kind == DENSE]
    return ("choose layers with ", *_keys_from(layers)) if layers else (OTHER_WAYS,)


def _understood(modules: Mapping[str, Module], stems: Sequence[str], where: str) -> None:
    """Every entry must belong to a dense layer or a batch normalisation."""
    if not any(modules[stem].kind == DENSE for stem in stems):
        _first_foreign([modules[stem] for stem in stems], where, (OTHER_WAYS,))
        there = [module.name(leaf) for module in modules.values() for leaf in module.entries]
        raise UnsupportedModel(
            f"{where}: no entry is named X.weight; there are {listed(there) or 'none'}"
        )
    _first_foreign([modules[stem] for stem in stems], where, _choose(modules))


def _first_foreign(modules: Sequence[Module], where: str, way: tuple[str | Asked, ...]) -> None:
    for module in modules:
        kind = module.kind
        if kind in (DENSE, BATCH_NORM):
            continue
        leaf = next(
            (leaf for leaf in WEIGHTS if leaf in module.entries), next(iter(module.entries))
        )
        if kind == UNKNOWN and any(
            word in leaf for word in ("zero_point", "packed") for leaf in module.entries
        ):
            raise UnsupportedModel(
                f"{where}: {module.name(leaf)!r} belongs to quantised weights, which are not read; "
                "save the network in floating point, or ",
                *way,
            )
        if kind == UNKNOWN:
            raise UnsupportedModel(
                f"{where}: {module.name(leaf)!r} belongs to no dense layer (X.weight, X.bias); ",
                *way,
            )
        raise UnsupportedModel(
            f"{where}: {module.name(leaf)!r} of shape {shape_of(module.entries[leaf])} is {kind}; "
            "export the model to ONNX, or ",
            *way,
        )


def _no_adapters(named: Mapping[str, Any], keys: Any, where: str) -> None:
    """Low-rank updates change the layer beside them by a factor that no state dict stores."""
    chosen = [keys] if isinstance(keys, str) else keys
    for name in named:
        parts = name.split(".")
        at = next((k for k, part in enumerate(parts) if part.startswith(ADAPTERS)), None)
        if at is None:
            continue
        base = ".".join(parts[:at])
        if chosen is None or any(
            within(str(key), base) or within(base, str(key)) for key in chosen
        ):
            raise UnsupportedModel(
                f"{where}: {name!r} is an adapter of {shown(base)!r}, whose factor is not stored; "
                "merge it into the layer first (merge_and_unload in peft) and save again"
            )


def _chained(layers: Sequence[Dense], where: str) -> None:
    for lower, upper in pairwise(layers):
        given, taken = shape_of(lower.weight)[0], shape_of(upper.weight)[1]
        if given != taken:
            raise UnsupportedModel(
                f"{where}: {shown(lower.stem)} gives {given} numbers but {shown(upper.stem)} "
                f"takes {taken}; choose layers in order with ",
                *_keys_from([layer.stem for layer in layers]),
            )


def _unbranched(layers: Sequence[Dense], where: str) -> None:
    """Refuse what chains by accident of equal widths: a second group of layers that takes the
    network's input.
    """
    groups: dict[str, list[Dense]] = {}
    for layer in layers:
        groups.setdefault(parent(layer.stem), []).append(layer)
    (first, start), *others = groups.items()
    inputs = shape_of(start[0].weight)[1]
    for name, group in others:
        if shape_of(group[0].weight)[1] != inputs or not name:
            continue
        if first:
            raise UnsupportedModel(
                f"{where}: {first!r} and {name!r} both take {inputs} inputs, in series or side by "
                "side; say which with ",
                Asked("keys", (first, name)), " or ", Asked("keys", (first,)),
            )  # fmt: skip
        names = {layer.stem for layer in start}
        if all(layer.stem.removeprefix(name + ".") in names for layer in group):
            raise UnsupportedModel(
                f"{where}: {name!r} repeats layers beside it (an average of the weights, a "
                "target?); choose layers with ",
                *_keys_from([layer.stem for layer in layers]),
            )


def _no_embedding(layers: Sequence[Dense], modules: Mapping[str, Module], where: str) -> None:
    """A table of an embedding has the shape of a dense layer without bias, and is looked up by
    integers.
    """
    for layer in layers:
        if (
            "embed" in layer.stem.rpartition(".")[2].lower()
            and "bias" not in modules[layer.stem].entries
        ):
            raise UnsupportedModel(
                f"{where}: {layer.stem!r} is named as an embedding, which is no dense layer; "
                "if it is one, choose layers with ",
                *_keys_from([one.stem for one in layers]),
            )


def _known_activation(activation: Any, layers: Sequence[Dense], where: str) -> None:
    if activation is None and len(layers) > 1:
        stems = listed([layer.stem for layer in layers])
        raise UnsupportedModel(
            f"{where} stores no activation; give it, as in ",
            Asked("activation", "relu"),
            f" (layers: {stems})",
        )


# Between the layers --------------------------------------------------------------------------------


def _completed(
    modules: Mapping[str, Module], chosen: Sequence[str], ordered: bool, where: str
) -> list[str]:
    """What was chosen, with the normalisations and PReLUs that stand between it: they are not left
    out in silence.
    """
    gaps: dict[tuple[str, str], list[str]] = {}
    layers = [stem for stem in chosen if modules[stem].kind == DENSE]
    for stem, module in modules.items():
        if stem in chosen or not module.bends or not _of_the_chain(stem, modules, layers):
            continue
        for gap in pairwise(layers):
            if _stands_between(stem, gap, modules, ordered, where):
                gaps.setdefault(gap, []).append(stem)
                break
    _first_foreign(
        [modules[stem] for stems in gaps.values() for stem in stems], where, (OTHER_WAYS,)
    )
    complete: list[str] = []
    after = dict(pairwise(layers))
    for stem in chosen:
        complete.append(stem)
        complete += gaps.get((stem, after.get(stem, "")), [])
    return complete


def _of_the_chain(stem: str, modules: Mapping[str, Module], layers: Sequence[str]) -> bool:
    """Whether the nearest module that holds a dense layer beside this one holds a chosen layer."""
    path = stem
    while path:
        path = parent(path)
        beside = [
            name for name, module in modules.items() if module.kind == DENSE and within(name, path)
        ]
        if beside:
            return any(name in layers for name in beside)
    return False


def _stands_between(
    stem: str, gap: tuple[str, str], modules: Mapping[str, Module], ordered: bool, where: str
) -> bool:
    lower, upper = gap
    between = shape_of(_main(modules[lower]))[0]
    if modules[stem].width not in (1, between):
        return False
    if ordered:
        order = list(modules)
        ends = sorted((order.index(lower), order.index(upper)))
        return ends[0] < order.index(stem) < ends[1]
    behind, before = precedes(lower, stem), precedes(stem, upper)
    if False in (behind, before):
        return False
    if None in (behind, before):
        raise UnsupportedModel(
            f"{where}: {stem!r} is {modules[stem].kind} of the width between {lower!r} and {upper!r}, and the file keeps "
            f"no order that would tell whether it stands there; {OTHER_WAYS}"
        )
    return True


def _main(module: Module) -> Any:
    return next(module.entries[leaf] for leaf in WEIGHTS if leaf in module.entries)


class _Fold(NamedTuple):
    """A batch normalisation, folded into the layer of this place: behind it, or before it."""

    place: int
    behind: bool
    parameters: tuple[Array, Array, Array, Array]
    note: str


def _folds(modules: Mapping[str, Module], chain: Sequence[str], where: str) -> list[_Fold]:
    """The batch normalisations of the chain, each where the numbers of a Sequential place it."""
    layers = [stem for stem in chain if modules[stem].kind == DENSE]
    folds: list[_Fold] = []
    passed = 0
    for stem in chain:
        if modules[stem].kind == DENSE:
            passed += 1
            continue
        lower = layers[passed - 1] if passed else None
        upper = layers[passed] if passed < len(layers) else None
        behind = _folds_behind(stem, lower, upper, where)
        owner, place = (lower, passed - 1) if behind else (upper, passed)
        assert owner is not None
        width = shape_of(_main(modules[owner]))[0 if behind else 1]
        parameters = batch_norm(modules[stem], where)
        if any(len(part) != width for part in parameters):
            raise UnsupportedModel(
                f"{where}: {stem!r} normalises {len(parameters[2])} channels where {owner!r} has {width}"
            )
        side = "behind it, before its activation" if behind else "before it"
        if behind and upper is None:
            side = "behind it"
        note = f"batch normalisation {stem} folded into {owner}, {side}, with epsilon {EPSILON}: a state dict stores none"
        folds.append(_Fold(place, behind, parameters, f"{note}, torch's default is taken"))
    return folds


def _folds_behind(stem: str, lower: str | None, upper: str | None, where: str) -> bool:
    """Whether a normalisation stands directly behind the lower layer, or else directly before the
    upper one.

    Between two layers there is an activation as well, which has no entry: only the gap in the
    numbers of a Sequential tells on which side of it the normalisation stands.
    """
    follows = lower is not None and _adjacent(lower, stem)
    leads = upper is not None and _adjacent(stem, upper)
    if follows != leads:
        return follows
    sides = (
        f"{lower!r} and {upper!r}"
        if lower and upper
        else f"{lower or upper!r} and the end of the network"
    )
    raise UnsupportedModel(
        f"{where}: {stem!r} is a batch normalisation between {sides}, and the names do not tell on which side of the "
        f"activation; fold it into its layer (torch.nn.utils.fusion.fuse_linear_bn_eval) and save again, or {OTHER_WAYS}"
    )


def _adjacent(one: str, other: str) -> bool:
    """Whether two names are successive numbers in one module."""
    (holder, _, k), (same, _, n) = one.rpartition("."), other.rpartition(".")
    first, second = token_of(k), token_of(n)
    return (
        holder == same
        and isinstance(first, int)
        and isinstance(second, int)
        and first + 1 == second
    )


def _not_read(modules: Mapping[str, Module], chain: Sequence[str]) -> Iterator[str]:
    """A line on what keys left out; normalisations and PReLUs first, by name."""
    left = [module for stem, module in modules.items() if stem not in chain]
    bending = [f"{shown(module.stem)} ({module.kind})" for module in left if module.bends]
    others = [
        shown(m.stem) if m.kind == DENSE else m.name(next(iter(m.entries)))
        for m in left
        if not m.bends
    ]
    if left:
        yield f"not read: {listed([*bending, *others], 12)}"


def _built(
    layers: Sequence[Dense], folds: Sequence[_Fold], activation: Any, notes: Sequence[str]
) -> Network:
    if not folds and not any(isinstance(layer.weight, BallArray) for layer in layers):
        net = Network.mlp(
            *[part for layer in layers for part in (layer.weight, layer.bias)],
            activation=activation or "relu",
        )
        return replace(net, notes=tuple(notes))
    kinds = _activations(activation, len(layers) - 1)
    x = Tensor.input((1, shape_of(layers[0].weight)[1]))
    for place, layer in enumerate(layers):
        for fold in folds:
            if fold.place == place and not fold.behind:
                x = x.normalised(*fold.parameters, EPSILON)
        x = x.matmul(BallArray.of(layer.weight).map(np.transpose)).shifted(layer.bias)
        for fold in folds:
            if fold.place == place and fold.behind:
                x = x.normalised(*fold.parameters, EPSILON)
        if place < len(kinds):
            x = x.activate(kinds[place])
    return x.finish("identity", notes)


def _activations(given: Any, hidden: int) -> list[Activation]:
    names = [given] * hidden if isinstance(given, (str, Activation)) else list(given or ())
    if len(names) != hidden:
        raise UnsupportedModel(f"{len(names)} activations for {hidden} hidden layers")
    return [Activation.of(name) for name in names]


# Checkpoints ---------------------------------------------------------------------------------------


def network_from_checkpoint(
    loaded: Any,
    *,
    activation: Any,
    keys: Sequence[str] | None = None,
    where: str = "checkpoint",
    check: Callable[[str, Any], None] = lambda name, tensor: None,
) -> Network:
    """The network in what a checkpoint held: a state dict, or dicts and lists with one or several
    in them.

    Args:
        loaded: of torch; code was not run.
        keys: as in `network_from_state_dict`; where there are several state dicts, prefixed by
            their places.
        check: called with the name and value of every entry that may be read.

    Raises:
        UnsupportedModel: no state dict, or several and no keys.

    >>> import numpy as np
    >>> net = {"0.weight": np.ones((3, 2)), "2.weight": np.ones((1, 3))}
    >>> network_from_checkpoint({"epoch": 3, "state_dict": [net]}, activation="relu").notes[0]
    'read from state_dict.0'
    >>> network_from_checkpoint({"actor": net, "critic": net}, activation="relu", keys=["critic"])
    Network(2-3-1, relu, 13 parameters)
    """
    found = dict(_state_dicts(loaded, (), set()))
    networks = {path: entries for path, entries in found.items() if _holds_weights(entries)}
    candidates = networks or {
        path: entries for path, entries in found.items() if not _of_an_optimizer(path)
    }
    if not candidates:
        raise UnsupportedModel(
            f"{where} holds {_summary(loaded)}, in which no state dict is found; save model.state_dict() alone"
        )
    if len(candidates) > 1 and keys is None:
        places = [shown(".".join(path)) for path in candidates]
        raise UnsupportedModel(
            f"{where} holds {_summary(loaded)}, in which no single state dict is found but "
            f"{len(places)}: choose one with ",
            *_keys_from(places),
        )
    named: dict[str, Any] = {}
    for path, entries in candidates.items():
        prefix = ".".join(path) if len(candidates) > 1 else ""
        own = {name: value for name, value in entries.items() if not isinstance(value, Mapping)}
        named |= {joined(prefix, name): value for name, value in _stripped(own, where).items()}
    for name, tensor in named.items():
        check(name, tensor)
    notes = _places(found, candidates)
    return _read(named, activation, keys, where, True, notes)


Place = tuple[str, ...]


def _state_dicts(
    value: Any, path: Place, above: set[int]
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Every dict that holds tensors, with its place; lists count their entries."""
    if id(value) in above or len(path) > MAX_DEPTH:
        return
    if isinstance(value, Mapping) and {"state", "param_groups"} <= value.keys():
        return  # of an optimizer: moments of the gradients, no network
    if isinstance(value, Mapping):
        entries = {str(name): entry for name, entry in value.items()}
    elif isinstance(value, (list, tuple)):
        entries = {str(at): entry for at, entry in enumerate(value)}
    else:
        return
    if isinstance(value, Mapping) and any(map(_is_tensor, entries.values())):
        yield path, entries
    for name, entry in entries.items():
        yield from _state_dicts(entry, (*path, name), above | {id(value)})


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach") or isinstance(value, np.ndarray)


def _holds_weights(entries: Mapping[str, Any]) -> bool:
    return any(split(name)[1] in WEIGHTS for name, value in entries.items() if _is_tensor(value))


def _of_an_optimizer(path: Place) -> bool:
    return any("optim" in part.lower() or "sched" in part.lower() for part in path)


def _places(found: Mapping[Place, Any], read: Mapping[Place, Any]) -> list[str]:
    """Where the state dict stood, and what else held tensors beside it; optimizers are no part of
    the function.
    """
    notes = [f"read from {'.'.join(path)}" for path in read if path and len(read) == 1]
    beside = [
        ".".join(path) or "tensors beside it"
        for path in found
        if path not in read and not _of_an_optimizer(path)
    ]
    return [*notes, f"not read: {listed(beside)}"] if beside else notes


def _summary(loaded: Any) -> str:
    names = [str(name) for name in loaded] if isinstance(loaded, Mapping) else []
    held = f"a {type(loaded).__name__}"
    return f"{held} with {listed(names)}" if names else held
