"""Heavy-tailed noise for torch optimizers: theta <- theta + sigma lr^(1/alpha) X after every step.

The noise hangs on the optimizer the user already has, as a hook after its step, so schedulers,
checkpoints and mixed precision go on working. Each parameter has a random stream of its own, named
by its place in the groups, so freezing one shifts no other.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from moduli.kernel.errors import ArgumentError, Asked, ModuliError

from .noise import check, positive, slip
from .torch_layers import hidden_parameters

BLOCK = 2**16  # entries at a time: all intermediate values stay in the cache
DEEP = 2**12  # of 2^31: uniforms below this get further bits
BELOW = 2.0**-31 * (1 - 2.0**-24)  # times whole numbers up to 2^31, a float32 below 1
LEAST = 1e-12  # of a cosine that rounding may bring below 0, for alpha next to 2
ROUNDS = 1000  # of redrawing what the truncation refuses
STATE = "heavy_tailed_noise"
SETTINGS = ("alpha", "sigma", "kind")
HOOKS = {
    "_optimizer_step_post_hooks": "_after_step",
    "_optimizer_state_dict_post_hooks": "_on_save",
    "_optimizer_load_state_dict_pre_hooks": "_on_load",
    "__getstate__": "_on_copy",
}


def draw(
    shape: torch.Size | tuple[int, ...],
    alpha: float,
    kind: str = "iid",
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    convention: str = "exact",
) -> Tensor:
    """Stable noise of scale 1 on the device of a generator; the first axis is units.

    Uniforms are floats near 0, where the tail comes from, and get further bits there: with the 24
    bits of a float32 uniform no draw gets far into it. One number per row is drawn in float64.

    >>> g = torch.Generator().manual_seed(0)
    >>> draw((4, 3), 1.75, "rows", generator=g).shape
    torch.Size([4, 3])
    """
    check(alpha, kind, convention)
    units = (shape[0], *(1 for _ in shape[1:]))
    factor, device = slip(alpha, kind, convention), generator.device
    if (alpha == 2 and kind == "iid") or kind == "isotropic":
        normal = torch.randn(shape, generator=generator, dtype=dtype, device=device)
        if alpha == 2:
            return normal.mul_(math.sqrt(2))
        q, w = _uniforms(math.prod(units), generator, torch.float64, small=True)
        radius = torch.sqrt(2 * positive(q.abs(), w, alpha / 2, torch)) * factor
        return normal.mul_(radius.reshape(units).to(dtype))
    if kind == "rows":
        if alpha == 2:
            drawn = torch.randn(units, generator=generator, dtype=torch.float64, device=device)
            drawn = drawn * math.sqrt(2)
        else:
            q, w = _uniforms(math.prod(units), generator, torch.float64, small=alpha < 1)
            drawn = torch.copysign(_size(q.abs(), w, alpha), q).reshape(units)
        return (drawn * factor).to(dtype).expand(shape)
    out = torch.empty(math.prod(shape), dtype=dtype, device=device)
    source = _fast(generator)
    for part in torch.split(out, BLOCK):
        q, w = _uniforms(len(part), generator, dtype, small=alpha < 1, source=source)
        torch.copysign(_size(q.abs(), w, alpha), q, out=part)
    return out.reshape(shape)


def _fast(generator: torch.Generator) -> np.random.SFC64 | None:
    """A source of bits that starts with 128 bits of a generator; None where torch draws on a device.

    On a CPU a draw of torch's Mersenne Twister costs as much as all sines of a number.
    """
    if generator.device.type != "cpu":
        return None
    start = torch.empty(2, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return np.random.SFC64(start.numpy().view(np.uint64).tolist())


def _size(q: Tensor, w: Tensor, alpha: float) -> Tensor:
    """As `noise.symmetric`, with sines: torch has them faster than tangents, and near the middle
    of the law float32 tangents lose half of their digits.
    """
    v = 1 - q
    size = (v * (alpha * math.pi / 2)).sin_()
    c = v.mul_((alpha - 1) * math.pi / 2).cos_().clamp_(min=LEAST)
    ratio = torch.div(w, c, out=c)
    size *= ratio
    ratio *= (q * (math.pi / 2)).sin_()  # w cos v / c, whose power is what is left
    size *= ratio.log2_().mul_(-1 / alpha).exp2_()
    return size


def _uniforms(
    count: int, generator: torch.Generator, dtype: torch.dtype, *, small: bool,
    source: np.random.SFC64 | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Uniforms of size in (0, 1] with a random sign, and exponentials with all digits near 0
    (`small`) or far out; from a source of bits where there is one.
    """
    if source is not None:
        bits = torch.from_numpy(source.random_raw(count).view(np.int64))
    else:
        bits = torch.empty(count, dtype=torch.int64, device=generator.device)
        bits.random_(-(2**63), None, generator=generator)
    whole = bits.view(torch.int32)
    wide = whole.to(dtype)
    if dtype != torch.float32:
        wide += torch.empty_like(wide).uniform_(generator=generator).add_(2.0**-54)
    elif float(wide.abs().min()) < DEEP:
        few = wide.abs() < DEEP
        some = whole[few].to(torch.float64)
        part = torch.empty_like(some).uniform_(generator=generator)
        wide[few] = (some + (part + 2.0**-54)).to(dtype)
    # 32 bits as a float in [-1, 1) without 0; where float32 has digits left, near 0, and in float64
    # everywhere, further bits have filled them
    q, u = torch.split(wide, count)
    q.mul_(2.0**-31)
    u.abs_().mul_(BELOW)  # below 1 in float32 too: the exponential is never 0
    return q, (u.neg_().log1p_() if small else u.log_()).neg_()


class _Group(NamedTuple):
    """Settings of a group, checked; scale: sigma lr^(1/alpha)."""

    alpha: float
    kind: str
    scale: float


class HeavyTailedNoise:
    """Adds sigma lr^(1/alpha) X to matrices after every step of a torch optimizer, as a hook on it.

    A stochastic gradient method with such noise makes wide networks prunable by the norms of their
    units (Wan et al. 2023). Biases and the output layer get none by default. The noise reads the
    current lr, alpha, sigma and kind of each group, so schedulers work; a group with sigma 0 is
    quiet. An optimizer that has an alpha of its own (RMSprop, ASGD) keeps it, and its groups hold
    that of the noise as `noise_alpha`. Groups added later start with the settings given here. The
    random streams are saved and loaded with the optimizer's state dict, and a resumed run equals an
    uninterrupted one bit for bit; copies and pickles of the optimizer keep the noise. Closures see
    no noise; steps that a scaler skips get none.

    Args:
        optimizer: any of torch's, without such noise. alpha: in (0, 2]. sigma: its scale. kind:
            "isotropic", "rows" or "iid".
        on: what gets noise: a module, whose graph decides (see `hidden_parameters`), or parameters,
            of which biases get it too, each entry as a unit. Parameters of the module may join the
            optimizer later, others with `add`. By default those with two or more axes except the
            last in the order of the optimizer, with a warning that says which.
        seed: of all streams. Copies that train the same model in parallel must agree on it.
        truncation: draws of larger size (of a row's radius, for isotropic) are drawn again; None
            for none. Draws that exceed the parameter's type are drawn again always, and counted.
        convention: as in `stable_noise`.
        per_group: groups that hold alpha, sigma or kind keep theirs; otherwise other values than
            those given here are refused.

    Raises:
        ValueError: no stable noise, an optimizer with noise or other settings in its groups, or
            parameters that the optimizer does not hold.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> noise = HeavyTailedNoise(optimizer, alpha=1.75, sigma=0.1, on=model)
    >>> [tuple(p.shape) for p in noise.parameters]
    [(8, 3)]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        alpha: float,
        sigma: float,
        kind: str = "isotropic",
        *,
        on: torch.nn.Module | Iterable[Tensor] | None = None,
        seed: int = 0,
        truncation: float | None = None,
        convention: str = "exact",
        per_group: bool = False,
    ) -> None:
        if truncation is not None and not truncation > 0:
            raise ArgumentError(Asked("truncation", truncation), ": a positive number is needed")
        if STATE in vars(optimizer):
            raise ArgumentError(
                Asked("optimizer", type(optimizer)), " has heavy-tailed noise already; change the "
                "alpha, sigma and kind of its param_groups instead of adding a second one",
            )  # fmt: skip
        self.optimizer, self.seed = optimizer, int(seed)
        self.truncation, self.convention = truncation, convention
        self.redrawn = 0
        own = optimizer.defaults
        self._names = {name: f"noise_{name}" if name in own else name for name in SETTINGS}
        given = dict(zip(self._names.values(), (alpha, sigma, kind), strict=True))
        _checked({**given, "lr": 1.0}, self._names, convention)
        settings = [{**given, **_some(group, given)} for group in optimizer.param_groups]
        for number, (group, held) in enumerate(zip(optimizer.param_groups, settings, strict=True)):
            if not per_group and held != given:
                name = next(name for name in given if held[name] != given[name])
                raise ArgumentError(
                    f"group {number} of the optimizer holds {name}={held[name]!r} and not ",
                    Asked(name, given[name]), ": take it out, or say ", Asked("per_group", True),
                )  # fmt: skip
            _checked({**group, **held}, self._names, convention, number)
        self._choose(on)
        for group, held in zip(optimizer.param_groups, settings, strict=True):
            group.update(held)
        own.update(given)  # groups that are added later start with these
        self._streams: dict[str, torch.Generator] = {}
        optimizer.register_step_post_hook(self._after_step)
        optimizer.register_state_dict_post_hook(self._on_save)
        optimizer.register_load_state_dict_pre_hook(self._on_load)
        vars(optimizer).update({STATE: self, "__getstate__": self._on_copy})

    def _choose(self, on: torch.nn.Module | Iterable[Tensor] | None) -> None:
        """Which places of the optimizer carry noise, and which parameters once they are in it."""
        self._known = {place for place, _, _ in self._places()}
        self._noisy: set[str] = set()
        self._awaited: list[Tensor] = []
        if isinstance(on, torch.nn.Module):
            self._awaited = list(hidden_parameters(on))
            self._take()
        elif on is not None:
            self.add(on)
        else:
            matrices = [(place, p) for place, _, p in self._places() if p.ndim >= 2]
            self._noisy = {place for place, _ in matrices[:-1]}
            self._require_some(on)
            some, last = [tuple(p.shape) for _, p in matrices[:-1]], tuple(matrices[-1][1].shape)
            warnings.warn(
                f"heavy-tailed noise on parameters of shapes {some} and none on the last one, {last}, "
                "by the order in the optimizer; give on=module to let its graph decide",
                stacklevel=4,
            )
        self._require_some(on)

    def _require_some(self, on: Any) -> None:
        if not self._noisy:
            raise ArgumentError(
                Asked("on", on, "..."), ": nothing in the optimizer would get noise; give ",
                "parameters that it holds",
            )  # fmt: skip

    def add(self, parameters: Iterable[Tensor]) -> None:
        """Noise for further parameters of the optimizer, such as those of a group added later.

        Raises:
            ValueError: parameters that the optimizer does not hold.
        """
        chosen, held = list(parameters), {id(p): place for place, _, p in self._places()}
        missing = [tuple(p.shape) for p in chosen if id(p) not in held]
        if missing:
            raise ValueError(
                f"parameters of shapes {missing} are not in the optimizer; give those that it updates"
            )
        if any(not p.is_floating_point() for p in chosen):
            raise ValueError("noise is real: parameters of complex or whole numbers get none")
        self._noisy |= {held[id(p)] for p in chosen}
        self._known |= self._noisy

    def _take(self) -> None:
        """Parameters of the module that have come into the optimizer."""
        wanted = {id(p) for p in self._awaited}
        self._noisy |= {place for place, _, p in self._places() if id(p) in wanted}
        self._known |= {place for place, _, _ in self._places()}

    @property
    def parameters(self) -> list[Tensor]:
        """Those that get noise."""
        return [p for place, _, p in self._places() if place in self._noisy]

    def _places(self) -> Iterator[tuple[str, dict[str, Any], Tensor]]:
        for g, group in enumerate(self.optimizer.param_groups):
            for k, p in enumerate(group["params"]):
                yield f"{g}.{k}", group, p

    def _stream(self, place: str, device: torch.device) -> torch.Generator:
        """Its own for each parameter: what one draws shifts no other."""
        if place not in self._streams:
            seed = int.from_bytes(
                hashlib.sha256(f"{self.seed}:{place}".encode()).digest()[:7], "big"
            )
            self._streams[place] = torch.Generator(device).manual_seed(seed)
        return self._streams[place]

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        found = getattr(optimizer, "found_inf", None)  # a fused optimizer skips inside its step
        if found is not None and float(found):
            return
        self._look_for_new()
        groups = [
            _checked(group, self._names, self.convention, number)
            for number, group in enumerate(optimizer.param_groups)
        ]  # all of them before the first parameter moves
        for place, _, p in self._places():
            group = groups[int(place.partition(".")[0])]
            if place in self._noisy and p.grad is not None and group.scale and p.numel():
                noise = self._draw(p, group, self._stream(place, p.device))
                if p.dtype == noise.dtype:
                    p.add_(noise, alpha=group.scale)
                else:  # one rounding, of the sum
                    p.copy_(p.to(noise.dtype).add_(noise, alpha=group.scale))

    def _look_for_new(self) -> None:
        fresh = [(place, p) for place, _, p in self._places() if place not in self._known]
        if not fresh:
            return
        if self._awaited:
            return self._take()
        self._known |= {place for place, _ in fresh}
        shapes = [tuple(p.shape) for place, p in fresh if place not in self._noisy and p.ndim >= 2]
        if shapes:
            warnings.warn(
                f"parameters of shapes {shapes} came into the optimizer after its heavy-tailed noise "
                "and get none; noise.add(parameters) gives it to them",
                stacklevel=2,
            )

    def _draw(self, p: Tensor, group: _Group, stream: torch.Generator) -> Tensor:
        """Noise of scale 1, such that its product with the scale is a number of the parameter's
        type: what is none, or beyond the truncation, is drawn again.
        """
        dtype = torch.float64 if p.dtype == torch.float64 else torch.float32
        alpha, kind = group.alpha, group.kind
        shape = (len(p), p[0].numel()) if p.ndim else (1, 1)

        def drawn() -> Tensor:
            return draw(
                shape, alpha, kind, generator=stream, dtype=dtype, convention=self.convention
            )

        noise = drawn()
        most = min(torch.finfo(dtype).max, torch.finfo(p.dtype).max / group.scale)
        limit = math.inf if self.truncation is None else self.truncation
        for _ in range(ROUNDS):
            entries = noise[:, :1] if kind == "rows" else noise
            if self.truncation is None:
                least, greatest = torch.aminmax(entries)
                if -most <= float(least) and float(greatest) <= most:
                    return noise.reshape(p.shape)
            size = entries.abs()
            radius = size
            if kind == "isotropic":
                radius = noise.norm(dim=1, keepdim=True) / noise.shape[1] ** 0.5
                size = size.amax(dim=1, keepdim=True)
            bad = ~((radius <= limit) & (size <= most))
            if not bad.any():
                return noise.reshape(p.shape)
            self.redrawn += int(bad.sum())
            noise = torch.where(bad, drawn(), noise)
        raise ArgumentError(
            Asked("truncation", self.truncation),
            f" leaves next to nothing to draw at alpha {alpha}; choose a larger one",
        )

    # Saved, loaded, copied ------------------------------------------------------------------------

    def _on_save(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        streams = {place: g.get_state().clone() for place, g in self._streams.items()}
        devices = {place: g.device.type for place, g in self._streams.items()}
        own = {"streams": streams, "devices": devices, "seed": self.seed, "redrawn": self.redrawn}
        own |= {"truncation": self.truncation, "convention": self.convention}
        return {**state, STATE: own | {"noisy": sorted(self._noisy)}}

    def _on_load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        own = state.get(STATE)
        if own is None:
            raise ValueError(
                "this state was saved without heavy-tailed noise: load it before adding the noise"
            )
        if set(own["noisy"]) != self._noisy:
            raise ValueError(
                f"this state was saved with noise on parameters {', '.join(own['noisy'])} (group.number), "
                f"here it is on {', '.join(sorted(self._noisy))}: give the same on= as then"
            )
        devices = {place: p.device.type for place, _, p in self._places()}
        for place, device in own["devices"].items():
            if devices.get(place, device) != device:
                raise ValueError(
                    f"the random stream of parameter {place} was saved on {device} and cannot go on on {devices[place]}: "
                    "load the state on the device type it was saved on"
                )
        self.seed, self.redrawn = own["seed"], own["redrawn"]
        self.truncation, self.convention = own["truncation"], own["convention"]
        self._streams = {
            place: _generator(own["devices"][place], saved)
            for place, saved in own["streams"].items()
        }
        return {name: value for name, value in state.items() if name != STATE}

    def _on_copy(self) -> dict[str, Any]:
        """What a copy or a pickle of the optimizer is made from: torch's own state has no hooks,
        and the noise would be lost without a word.
        """
        state: dict[str, Any] = dict(type(self.optimizer).__getstate__(self.optimizer))
        for place, name in HOOKS.items():
            hook = getattr(self, name)
            state[place] = hook if place == "__getstate__" else OrderedDict({STATE: hook})
        return {**state, STATE: self}

    def __getstate__(self) -> dict[str, Any]:
        streams = {place: (str(g.device), g.get_state()) for place, g in self._streams.items()}
        return {**vars(self), "_streams": streams}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._streams = {place: _generator(*saved) for place, saved in state["_streams"].items()}

    def __copy__(self) -> HeavyTailedNoise:
        raise TypeError(
            "heavy-tailed noise belongs to one optimizer: copy that, and it comes along"
        )


def _generator(device: str, state: Tensor) -> torch.Generator:
    generator = torch.Generator(device)
    generator.set_state(state.cpu().to(torch.uint8))
    return generator


def _some(group: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: group[name] for name in names if name in group}


def _checked(
    group: dict[str, Any], names: dict[str, str], convention: str, number: int | None = None
) -> _Group:
    """The settings of a group; schedulers and users may have changed them since they were given."""
    alpha, sigma, kind = (group[names[name]] for name in SETTINGS)
    lr = float(torch.as_tensor(group["lr"]).detach())
    try:
        check(alpha, kind, convention)
        for name, value in (("sigma", sigma), ("lr", lr)):
            if not 0 <= value < math.inf:
                raise ArgumentError(Asked(name, value), ": a finite non-negative number is needed")
    except ModuliError as error:
        raise (error if number is None else error.at(f"group {number} of the optimizer")) from None
    return _Group(float(alpha), str(kind), float(sigma) * lr ** (1 / float(alpha)))


class HeavyTailedSGD(torch.optim.SGD):
    """SGD with heavy-tailed noise: see `HeavyTailedNoise` for the noise, `torch.optim.SGD` for the
    rest. Groups may hold lr, alpha, sigma and kind of their own.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> optimizer = HeavyTailedSGD(model.parameters(), lr=0.1, alpha=1.75, sigma=0.1, on=model)
    >>> optimizer.param_groups[0]["kind"]
    'isotropic'
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        alpha: float,
        sigma: float,
        kind: str = "isotropic",
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        on: torch.nn.Module | Iterable[Tensor] | None = None,
        seed: int = 0,
        truncation: float | None = None,
        convention: str = "exact",
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        options: dict[str, Any] = {"seed": seed, "truncation": truncation, "convention": convention}
        HeavyTailedNoise(self, alpha, sigma, kind, on=on, per_group=True, **options)

    @property
    def noise(self) -> HeavyTailedNoise:
        """What adds it."""
        found: HeavyTailedNoise = vars(self)[STATE]
        return found
