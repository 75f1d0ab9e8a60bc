"""PyTorch: narrower Linear-activation-Linear blocks inside any module. Reading and writing modules
is in `torch_modules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from moduli.common.arguments import question
from moduli.common.domains import Gaussian, Samples
from moduli.common.extras import needed
from moduli.common.progress import Progress
from moduli.common.result import TableResult
from moduli.formats.torch_copy import WAYS_OUT, copied, unpruned
from moduli.formats.torch_modules import activation_of
from moduli.formats.torch_modules import to_torch as to_torch
from moduli.kernel.activations import Activation
from moduli.kernel.errors import ArgumentError, Asked, UnsupportedModel
from moduli.kernel.network import Network

from .average.gaussian_expectations import closed
from .average.students import Error, narrow, smoothed

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[np.float64]]
ROWS = 8192
METADATA = {
    "shape", "dtype", "device", "ndim", "requires_grad", "is_nested", "is_cuda", "is_sparse",
    "layout", "size", "dim", "numel", "stride", "is_floating_point", "is_contiguous", "is_complex",
    "grad_fn", "is_leaf", "nelement", "names", "is_meta", "is_quantized", "get_device",
    "is_inference", "is_mkldnn", "is_cpu",
}  # fmt: skip


class Block(NamedTuple):
    """One row of the table: a Linear-activation-Linear block and what became of it.

    Attributes:
        first, second: names of the two Linear modules. error: of the block's output, on the inputs
            that it saw.
        saved: parameters.
    """

    first: str
    second: str
    activation: str
    width: int
    kept: int
    error: Error
    saved: int


@dataclass(frozen=True, eq=False, repr=False)
class BlockTable(TableResult):
    """Narrower blocks of a module, as a table.

    Attributes:
        blocks: what was found, with widths and errors. parameters: of the module, before and after.
        refused: names of modules that look like part of a block but were left alone, and why.
    """

    blocks: tuple[Block, ...]
    refused: tuple[tuple[str, str], ...]
    parameters: tuple[int, int]
    kind: ClassVar[str] = "shrink"
    head: ClassVar[tuple[str, ...]] = ("block", "units", "parameters less", "error")
    numbers: ClassVar[tuple[str, ...]] = ("units", "parameters less")

    @property
    def statement(self) -> str:
        worst = max((b.error.relative for b in self.blocks), default=0.0)
        before, after = self.parameters
        return f"{len(self.blocks)} blocks, {before} -> {after} parameters; largest error of a block {100 * worst:.3g} %"

    def rows(self) -> list[Block]:  # type: ignore[override]
        """The blocks."""
        return list(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, at: Any) -> Any:
        """A block, by its place or by the name of its first Linear."""
        if isinstance(at, str):
            names = [block.first for block in self.blocks]
            if at not in names:
                raise KeyError(f"no block {at!r}; blocks begin with {', '.join(names)}")
            return self.blocks[names.index(at)]
        return self.blocks[at]

    def to_dict(self) -> dict[str, list[Any]]:
        columns = super().to_dict()
        columns["error"] = [block.error.absolute for block in self.blocks]
        columns["relative_error"] = [block.error.relative for block in self.blocks]
        return columns

    def cells(self) -> list[list[str]]:
        found = []
        for b in self.blocks:
            name, units = f"{b.first} - {b.activation} - {b.second}", f"{b.width} -> {b.kept}"
            found.append([name, units, str(b.saved), f"~ {b.error}"])
        return found

    def notes(self) -> list[tuple[str, str]]:
        return [(name, f"left alone: {why}") for name, why in self.refused]

    def data(self) -> dict[str, Any]:
        blocks = [{**b._asdict(), "error": b.error._asdict()} for b in self.blocks]
        return {
            "blocks": blocks,
            "refused": [list(r) for r in self.refused],
            "parameters": list(self.parameters),
        }


@dataclass(frozen=True, eq=False, repr=False)
class Shrunk(BlockTable):
    """A module with narrower blocks, and their table. Unpacked it is a pair of both:
    ``module, table = shrink(...)``.

    Attributes:
        module: the new module; the given one is untouched. blocks, parameters, refused: as in the table.
    """

    module: torch.nn.Module = field(kw_only=True)

    @property
    def table_of_blocks(self) -> BlockTable:
        """The table without the module: what is iterated over are its blocks."""
        return BlockTable(self.status, self.blocks, self.refused, self.parameters)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.module, self.table_of_blocks))


@question
def shrink(
    module: torch.nn.Module,
    sample_inputs: Any,
    *,
    units: int | Mapping[str, int] | None = None,
    keep: float | None = None,
    eps: float | None = None,
    relative_eps: float | None = None,
    on: str = "gaussian",
    seed: int = 0,
    progress: Progress | None = None,
) -> Shrunk:
    """Narrow every Linear-activation-Linear block inside a module; all else stays as it is.

    The module runs once on the sample inputs, in evaluation mode, while it is watched which Linear
    feeds which through an elementwise activation (and dropout) alone; transformer feed-forward
    blocks are such blocks. Each is fitted on its own to what it saw: to the Gaussian with the mean
    and covariance of its inputs, or to (at most 8192 of) the inputs themselves. The new Linears
    always have a bias. Masks of `torch.nn.utils.prune` on Linears are made permanent in the new
    module.

    Args:
        sample_inputs: a tensor, a tuple of arguments, a dict of keyword arguments, or a list of
            such batches.
        units: wanted width of every block, or of blocks by the name of their first Linear. keep:
            share of the width.
        eps: allowed difference of the outputs of every block, root mean square. relative_eps: the
            same over the standard deviation of the block's outputs.
        on: ``"gaussian"`` or ``"samples"``.

    Raises:
        UnsupportedModel: there is no such block; says which modules were refused and why.
        ValueError: not exactly one of units, keep, eps, relative_eps; a name that is none.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))
    >>> small = shrink(net, torch.randn(500, 4), units=16)
    >>> small.module[0].out_features, small.blocks[0].error.relative < 0.05
    (16, True)
    """
    if sum(x is not None for x in (units, keep, eps, relative_eps)) != 1:
        raise ArgumentError(
            Asked("units", units), ", ", Asked("keep", keep), ", ", Asked("eps", eps), ", ",
            Asked("relative_eps", relative_eps), ": give exactly one of them",
        )  # fmt: skip
    if keep is not None and not 0 < keep <= 1:
        raise ArgumentError(Asked("keep", keep), ": a share of the width, above 0 and at most 1")
    for name, value in (("eps", eps), ("relative_eps", relative_eps)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ArgumentError(Asked(name, value), ": a positive finite number is needed")
    if on not in ("gaussian", "samples"):
        raise ArgumentError(Asked("on", on), ": 'gaussian' or 'samples'")
    new, batches = copied(module), _batches(sample_inputs)
    for name, part in new.named_modules():
        if _is_linear(part):
            unpruned(part, name)
    found, refused = _find(new, batches)
    if not found:
        why = "; ".join(f"{name}: {reason}" for name, reason in refused)
        raise UnsupportedModel(
            f"no Linear-activation-Linear block in {type(module).__name__}"
            + (f" ({why})" if why else "")
        )
    names = [block.first for block in found]
    if isinstance(units, Mapping) and (unknown := set(units) - set(names)):
        raise ValueError(f"units names {sorted(unknown)}; blocks begin with {names}")
    table: dict[str, Block] = {}
    while found:
        ends = {block.second for block in found}
        for block in [
            b for b in found if b.first not in ends
        ]:  # where blocks meet, the lower ones come first
            if progress is not None:
                progress(len(table), len(names), block.first)
            wanted = units.get(block.first, block.width) if isinstance(units, Mapping) else units
            wanted = max(1, round(keep * block.width)) if keep is not None else wanted
            table[block.first] = _narrowed(new, block, wanted, (eps, relative_eps), on, seed)
        found = (
            []
            if len(table) == len(names)
            else [b for b in _find(new, batches)[0] if b.first not in table]
        )
    return Shrunk(
        "estimated",
        tuple(table[n] for n in names),
        tuple(refused),
        (_size(module), _size(new)),
        module=new,
    )


def _size(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def _batches(sample_inputs: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    given = sample_inputs if isinstance(sample_inputs, list) else [sample_inputs]
    if not given:
        raise ValueError("sample_inputs is an empty list; give at least one batch")
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for batch in given:
        if isinstance(batch, Mapping):
            found.append(((), dict(batch)))
        else:
            found.append((batch if isinstance(batch, tuple) else (batch,), {}))
    return found


@dataclass
class _Found:
    """A block, and what its first Linear has seen: moments of all rows and some of the rows."""

    first: str
    second: str
    one: Any
    two: Any
    activation: Activation
    count: int = 0
    origin: Any = None
    total: Any = 0.0
    square: Any = 0.0
    rows: list[Array] = field(default_factory=list)
    held: int = 0

    @property
    def width(self) -> int:
        return int(self.one.out_features)

    def see(self, x: Any) -> None:
        wide = x.detach().reshape(-1, x.shape[-1]).double()
        if not bool(wide.isfinite().all()):
            raise UnsupportedModel(
                f"{self.first} sees inputs that are not finite; check the sample inputs"
            )
        self.origin = wide.mean(dim=0) if self.origin is None else self.origin
        part = wide - self.origin
        self.count += len(wide)
        self.total, self.square = self.total + part.sum(dim=0), self.square + part.T @ part
        if self.held < 4 * ROWS:
            self.rows.append(wide[:: max(1, len(wide) // ROWS)].cpu().numpy())
            self.held += len(self.rows[-1])

    @property
    def samples(self) -> Array:
        every = np.concatenate(self.rows)
        return every[:: max(1, -(-len(every) // ROWS))]

    @property
    def law(self) -> Gaussian:
        shift = (self.total / self.count).cpu().numpy()
        cov = (self.square / self.count).cpu().numpy() - np.outer(shift, shift)
        return smoothed(self.origin.cpu().numpy() + shift, (cov + cov.T) / 2)


def _narrowed(
    module: Any,
    block: _Found,
    units: int | None,
    allowed: tuple[float | None, float | None],
    on: str,
    seed: int,
) -> Block:
    """Fit the block, put it in place, and say what it does on the samples."""
    zeros = [np.zeros(linear.out_features) for linear in (block.one, block.two)]
    bias = [
        z if linear.bias is None else linear.bias
        for z, linear in zip(zeros, (block.one, block.two), strict=True)
    ]
    net = Network.mlp(
        block.one.weight, bias[0], block.two.weight, bias[1], activation=block.activation
    )
    x = block.samples
    truth = net.logits(x)
    spread = float(truth.var(axis=0).sum())
    fitted = on == "gaussian" and closed(block.activation)
    law: Gaussian | Samples = block.law if fitted else Samples(x)
    eps, relative_eps = allowed
    if relative_eps is not None:
        eps = relative_eps * math.sqrt(spread)
    if eps == 0:  # of outputs that do not vary
        units, eps = 1, None
    goal: dict[str, Any] = {"units": units} if eps is None else {"eps": eps}
    small = narrow(net, law, seed=seed, starts=0, **goal).network
    error = Error.of(float(np.square(small.logits(x) - truth).sum(axis=1).mean()), spread)
    if small.units < net.units:
        for name, old, layer in zip(
            (block.first, block.second), (block.one, block.two), small.layers, strict=True
        ):
            _put(module, name, _linear(old, layer))
    saved = (
        sum(_size(linear) for linear in (block.one, block.two)) - small.parameters
        if small.units < net.units
        else 0
    )
    return Block(
        block.first, block.second, str(block.activation), net.units, small.units, error, saved
    )


def _linear(old: Any, layer: Any) -> Any:
    import torch

    weight = torch.tensor(layer.weight)
    new = torch.nn.Linear(
        weight.shape[1], weight.shape[0], device=old.weight.device, dtype=old.weight.dtype
    )
    with torch.no_grad():
        new.weight.copy_(weight)
        new.bias.copy_(torch.tensor(layer.bias))
    new.requires_grad_(old.weight.requires_grad)
    return new.train(old.training)


def _put(module: Any, name: str, new: Any) -> None:
    parent, _, leaf = name.rpartition(".")
    owner = module.get_submodule(parent)
    owner._modules[leaf] = new


# Finding blocks -------------------------------------------------------------------------------------------------


def _find(
    module: Any, batches: Iterable[tuple[tuple[Any, ...], dict[str, Any]]]
) -> tuple[list[_Found], list[tuple[str, str]]]:
    """Run the module and watch; the blocks in the order of their first Linear, and what was
    refused.
    """
    with needed("torch", "torch"):
        import torch
    linears = {
        (id(m.weight), id(m.bias)): (name, m) for name, m in module.named_modules() if _is_linear(m)
    }
    watch = __getattr__("_TorchWatch")(linears)
    marks = [
        m.register_forward_pre_hook(watch.outside(name))
        for name, m in module.named_modules()
        if _hooked(m)
    ]
    try:
        with _evaluating(module, torch):
            for args, options in batches:
                with watch:
                    output = module(*args, **options)
                watch.ended(output)
    finally:
        for mark in marks:
            mark.remove()
    unfit, found, refused = _unfit(module), [], dict(watch.refused)
    for (one, two), block in watch.blocks.items():
        often = max(watch.calls[one], watch.calls[two])
        if one in unfit or two in unfit:
            refused.update({name: unfit[name] for name in (one, two) if name in unfit})
        elif often != watch.batches:
            refused[one] = f"called {often} times in {watch.batches} forward passes"
        elif one not in refused:
            found.append(block)
    computed = {
        name: why for name, why in unfit.items() if WAYS_OUT in why
    }  # never seen, as their weights come and go
    refused = computed | {
        name: why for name, why in refused.items() if name in watch.bent or name in unfit
    }
    names = [name for name, _ in module.named_modules()]
    return sorted(found, key=lambda b: names.index(b.first)), sorted(
        refused.items(), key=lambda r: names.index(r[0])
    )


def _is_linear(m: Any) -> bool:
    import torch

    return isinstance(m, torch.nn.Linear) and isinstance(getattr(m, "weight", None), torch.Tensor)


def _hooked(m: Any) -> bool:
    return bool(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
    )


def _unfit(module: Any) -> dict[str, str]:
    """Linear modules that must not be replaced."""
    import torch

    owners: dict[int, list[str]] = {}
    for name, m in module.named_modules(remove_duplicate=False):
        for own, p in m.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(p), []).append(f"{name}.{own}")
    found = {}
    for name, m in ((n, m) for n, m in module.named_modules() if _is_linear(m)):
        shared = [
            o
            for p in m.parameters()
            for o in owners[id(p)]
            if len(owners[id(p)]) > 1 and not o.startswith(f"{name}.")
        ]
        if torch.nn.utils.parametrize.is_parametrized(m):
            found[name] = f"its weight is parametrized; {WAYS_OUT}"
        elif type(m) is not torch.nn.Linear:
            found[name] = f"it is a {type(m).__name__}, not a plain Linear"
        elif shared:
            found[name] = f"its parameters are shared with {', '.join(sorted(set(shared)))}"
        elif _hooked(m):
            found[name] = "it carries a hook" + (
                f"; {WAYS_OUT}" if "weight" not in m._parameters else ""
            )
    return found


@contextmanager
def _evaluating(module: Any, torch: Any) -> Iterator[None]:
    """Evaluation mode and no gradients; the modes come back afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for m, mode in modes:
            m.training = mode


class _Tracked(NamedTuple):
    """A tensor that comes from a Linear: itself (its id stays taken while it lives), whose it is,
    what was applied since.
    """

    tensor: Any
    owner: str
    activation: Activation | None


class _Watch:
    """Follows the outputs of Linears through activations and dropout to other Linears.

    `__getattr__` below makes a TorchFunctionMode of it. A block is a Linear all of whose output
    goes through one activation into one other Linear; whatever else becomes of an output on the way
    is told in `refused`.

    Attributes:
        linears: names and modules, by the ids of weight and bias (functions of torch see tensors,
            not modules).
        tracked: outputs of Linears in this pass, bent or not, by id. inputs: of each Linear, in
            this pass.
        consumed: ids of tensors that went into an activation or a Linear: a second time would be
            another reader.
        blocks: what was found, by both names. refused: Linears that begin no block, and why (the
            first reason).
        calls: of each Linear, in all passes. bent: Linears whose output went into an activation.
            batches: passes.
    """

    def __init__(self, linears: Mapping[tuple[int, int], tuple[str, Any]]) -> None:
        super().__init__()
        self.linears = linears
        self.modules = dict(linears.values())
        self.tracked: dict[int, _Tracked] = {}
        self.inputs: dict[str, Any] = {}
        self.consumed: set[int] = set()
        self.blocks: dict[tuple[str, str], _Found] = {}
        self.refused: dict[str, str] = {}
        self.calls: dict[str, int] = dict.fromkeys(self.modules, 0)
        self.bent: set[str] = set()
        self.batches = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":  # a property such as x.shape
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        if name not in METADATA:
            self.step(name, args, kwargs, output)
        return output

    def step(self, name: str, args: Any, kwargs: Any, output: Any) -> None:
        """One function of torch was called: a Linear, the activation or dropout of a block, or a
        way out of it.
        """
        source = args[0] if args else kwargs.get("input")
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        if name == "linear" and (id(weight), id(bias)) in self.linears:
            self.linear(*self.linears[id(weight), id(bias)], source, output)
            return
        at = self.tracked.get(id(source))
        plain = name.rstrip("_")  # relu_ is relu in place
        if at is not None and at.activation is None:
            activation = self.applied(plain, args, kwargs)
            if activation is not None:
                self.carry(source, output, at.owner, activation)
                return
        elif at is not None and plain == "dropout" and self.unchanged(source, output):
            self.carry(source, output, at.owner, at.activation)
            return
        self.escape((args, kwargs), f"its output is used by {name} as well")

    def applied(self, name: str, args: Any, kwargs: Any) -> Activation | None:
        return activation_of(name, args[1:], {k: v for k, v in kwargs.items() if k != "input"})

    def unchanged(self, source: Any, output: Any) -> bool:
        """Whether dropout does nothing: in evaluation mode, unless the module asks for it all the
        same.
        """
        return output is source or bool((output == source).all())

    def carry(self, source: Any, output: Any, owner: str, activation: Activation | None) -> None:
        """The output of an activation or of dropout stands for its Linear from now on."""
        self.bent.add(owner)
        if output is not source:  # in place, the source is gone: nobody else can read it
            self.consume(source, owner)
        self.tracked[id(output)] = _Tracked(output, owner, activation)

    def consume(self, source: Any, owner: str) -> None:
        if id(source) in self.consumed:
            self.refused.setdefault(owner, "its activations are used more than once")
        self.consumed.add(id(source))

    def linear(self, name: str, module: Any, x: Any, output: Any) -> None:
        """A Linear was called: the end of a block if its input is bent, and perhaps the beginning
        of another.
        """
        self.calls[name] += 1
        at = self.tracked.get(id(x))
        if at is None or at.activation is None:
            self.escape(x, f"its output goes to {name} unbent")
        else:
            first = at.owner
            self.consume(x, first)
            new = _Found(first, name, self.modules[first], module, at.activation)
            block = self.blocks.setdefault((first, name), new)
            if block.activation != at.activation:
                self.refused.setdefault(
                    first, f"followed by {block.activation} and by {at.activation}"
                )
            block.see(self.inputs[first])
        self.inputs[name] = x
        self.tracked[id(output)] = _Tracked(output, name, None)

    def escape(self, values: Any, why: str) -> None:
        """Something else reads these values: the Linears behind them begin no block."""
        if isinstance(values, (list, tuple)):
            for value in values:
                self.escape(value, why)
        elif isinstance(values, dict):
            self.escape(list(values.values()), why)
        elif id(values) in self.tracked:
            self.refused.setdefault(self.tracked[id(values)].owner, why)

    def outside(self, name: str) -> Callable[..., None]:
        """A hook that runs before those of a module: they see what it sees."""

        def look(_: Any, args: Any) -> None:
            self.escape(args, f"a hook on {name} sees its activations")

        return look

    def ended(self, output: Any) -> None:
        """A forward pass is over: forget its tensors, whose ids may be given again."""
        self.escape(_leaves(output), "its activations are an output of the module")
        self.batches += 1
        self.tracked.clear()
        self.inputs.clear()
        self.consumed.clear()


def __getattr__(name: str) -> Any:
    """Classes derived from torch's, made when first asked for, so that importing this module does
    not import torch.
    """
    if name != "_TorchWatch":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torch.overrides import TorchFunctionMode

    return globals().setdefault(
        name, type(name, (_Watch, TorchFunctionMode), {"__module__": __name__})
    )


def _leaves(output: Any) -> Any:
    if isinstance(output, Mapping):
        return [_leaves(v) for v in output.values()]
    if isinstance(output, (list, tuple)):
        return [_leaves(v) for v in output]
    if hasattr(output, "__dict__") and not hasattr(output, "detach"):
        return [_leaves(v) for v in vars(output).values()]
    return output
