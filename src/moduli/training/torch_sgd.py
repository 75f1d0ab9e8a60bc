"""Heavy-tailed noise for torch optimizers: theta <- theta + sigma lr^(1/alpha) X after every step.

The noise hangs on the optimizer the user already has, as a hook after its step, so schedulers,
checkpoints and mixed precision go on working. Each parameter has a random stream of its own, named
by its place in the groups, so freezing one shifts no other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from moduli.kernel.errors import ArgumentError, Asked

from .noise import check, positive, symmetric

BLOCK = 2**16  # entries of a gradient at a time: they stay in the cache
ROUNDS = 1000  # of redrawing what the truncation refuses
STATE = "heavy_tailed_noise"


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

    Uniforms are 48 random bits, turned into floats near 0, where the tail comes from: with the 24
    bits of a float32 uniform no draw gets far into it. One number per row is drawn in float64.

    >>> g = torch.Generator().manual_seed(0)
    >>> draw((4, 3), 1.75, "rows", generator=g).shape
    torch.Size([4, 3])
    """
    check(alpha, kind, convention)
    units = (shape[0], *(1 for _ in shape[1:]))
    slip = (
        math.sqrt(0.5) if convention == "published" and (alpha == 2 or kind == "isotropic") else 1.0
    )
    if (alpha == 2 and kind != "rows") or kind == "isotropic":
        normal = torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)
        if alpha == 2:
            return normal.mul_(math.sqrt(2) * slip)
        scale = positive(
            _uniform(_bits(units, generator)),
            _exponential(_bits(units, generator)),
            alpha / 2,
            torch,
        )
        return normal.mul_((torch.sqrt(2 * scale) * slip).to(dtype))
    if kind == "rows":
        one = (
            torch.randn(units, generator=generator, dtype=torch.float64, device=generator.device)
            if alpha == 2
            else None
        )
        drawn = (
            one * (math.sqrt(2) * slip)
            if one is not None
            else _symmetric(units, alpha, generator, torch.float64)
        )
        return drawn.to(dtype).expand(shape)
    out = torch.empty(math.prod(shape), dtype=dtype, device=generator.device)
    for at in range(0, len(out), BLOCK):  # a block stays in the cache
        part = out[at : at + BLOCK]
        part.copy_(_symmetric(part.shape, alpha, generator, dtype))
    return out.reshape(shape)


def _symmetric(
    shape: tuple[int, ...], alpha: float, generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    bits = _bits(shape, generator)
    sign = ((bits >> 61 & 2) - 1).to(dtype)
    w = _exponential(_bits(shape, generator), dtype, small=alpha < 1)
    drawn: Tensor = symmetric(_uniform(bits, dtype), sign, w, alpha, torch)
    return drawn


def _bits(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """63 random bits each."""
    return torch.empty(shape, dtype=torch.int64, device=generator.device).random_(
        generator=generator
    )


def _uniform(bits: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """On (0, 1], with all digits near 0."""
    return ((bits & (2**48 - 1)) + 1).to(dtype) * 2.0**-48


def _exponential(bits: Tensor, dtype: torch.dtype = torch.float64, *, small: bool = True) -> Tensor:
    """With all digits near 0 (`small`) or far out."""
    u = _uniform(bits, dtype)  # the factor keeps log1p finite in float32, where u rounds to 1
    return -torch.log1p(-u * (1 - 2.0**-24)) if small else -torch.log(u)


class HeavyTailedNoise:
    """Adds sigma lr^(1/alpha) X to matrices after every step of a torch optimizer, as a hook on it.

    A stochastic gradient method with such noise makes wide networks prunable by the norms of their
    units (Wan et al. 2023). Biases and the output layer get none by default. The noise reads the
    current lr, alpha, sigma and kind of each group, so schedulers work; a group with sigma 0 is
    quiet. Its random streams are saved and loaded with the optimizer's state dict, and a resumed
    run equals an uninterrupted one bit for bit. Closures see no noise; steps that a scaler skips
    get none.

    Args:
        optimizer: any of torch's. alpha: in (0, 2]. sigma: its scale. kind: "isotropic", "rows" or
            "iid".
        on: the parameters that get noise; by default those with two or more axes except the last of
            them.
        seed: of all streams. Copies that train the same model in parallel must agree on it.
        truncation: draws of larger size (of a row's radius, for isotropic) are drawn again; None
            for none.

    Raises:
        ValueError: no stable noise, or parameters that the optimizer does not hold.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> noise = HeavyTailedNoise(optimizer, alpha=1.75, sigma=0.1)
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
        on: Iterable[Tensor] | None = None,
        seed: int = 0,
        truncation: float | None = None,
        convention: str = "exact",
    ) -> None:
        check(alpha, kind, convention)
        if not 0 <= sigma < math.inf:
            raise ArgumentError(Asked("sigma", sigma), ": a finite non-negative number is needed")
        if truncation is not None and not truncation > 0:
            raise ArgumentError(Asked("truncation", truncation), ": a positive number is needed")
        self.optimizer, self.seed, self.truncation, self.convention = (
            optimizer,
            int(seed),
            truncation,
            convention,
        )
        self.redrawn = 0
        for group in optimizer.param_groups:
            for name, value in (("alpha", alpha), ("sigma", sigma), ("kind", kind)):
                group.setdefault(name, value)
        held = {id(p): place for place, _, p in self._places()}
        matrices = [p for _, _, p in self._places() if p.ndim >= 2]
        chosen = matrices[:-1] if on is None else list(on)
        missing = [tuple(p.shape) for p in chosen if id(p) not in held]
        if missing:
            raise ValueError(
                f"parameters of shapes {missing} are not in the optimizer; give those that it updates"
            )
        self._noisy = {held[id(p)] for p in chosen}
        self._streams: dict[str, torch.Generator] = {}
        optimizer.register_step_post_hook(self._after_step)
        optimizer.register_state_dict_post_hook(self._on_save)
        optimizer.register_load_state_dict_pre_hook(self._on_load)

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
        for place, group, p in self._places():
            if place in self._noisy and p.grad is not None and group["sigma"]:
                alpha, scale = (
                    float(group["alpha"]),
                    float(group["sigma"]) * float(group["lr"]) ** (1 / float(group["alpha"])),
                )
                noise = self._draw(p, alpha, str(group["kind"]), self._stream(place, p.device))
                p.add_(noise.to(p.dtype), alpha=scale)

    def _draw(self, p: Tensor, alpha: float, kind: str, stream: torch.Generator) -> Tensor:
        dtype = p.dtype if p.dtype in (torch.float32, torch.float64) else torch.float32
        noise = draw(
            p.shape, alpha, kind, generator=stream, dtype=dtype, convention=self.convention
        )
        if self.truncation is None and torch.isfinite(
            (noise[:, :1] if kind == "rows" else noise).sum()
        ):
            return noise
        limit = torch.finfo(dtype).max if self.truncation is None else self.truncation
        for _ in range(ROUNDS):
            rows = noise.flatten(1)
            size = rows.abs() if kind == "iid" else rows[:, :1].abs()
            if kind == "isotropic":
                size = rows.norm(dim=1, keepdim=True) / rows.shape[1] ** 0.5
            bad = ~(size <= limit)
            if not bad.any():
                return noise
            self.redrawn += int(bad.sum())
            again = draw(
                p.shape, alpha, kind, generator=stream, dtype=dtype, convention=self.convention
            )
            noise = torch.where(bad, again.flatten(1), rows).reshape(p.shape)
        raise ArgumentError(
            Asked("truncation", self.truncation),
            f" leaves next to nothing to draw at alpha {alpha}; choose a larger one",
        )

    def _on_save(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        streams = {place: g.get_state().clone() for place, g in self._streams.items()}
        devices = {place: g.device.type for place, g in self._streams.items()}
        return {
            **state,
            STATE: {
                "streams": streams,
                "devices": devices,
                "seed": self.seed,
                "redrawn": self.redrawn,
            },
        }

    def _on_load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        own = state.get(STATE)
        if own is None:
            raise ValueError(
                "this state was saved without heavy-tailed noise: load it before adding the noise"
            )
        devices = {place: p.device.type for place, _, p in self._places()}
        for place, device in own["devices"].items():
            if devices.get(place, device) != device:
                raise ValueError(
                    f"the random stream of parameter {place} was saved on {device} and cannot go on on {devices[place]}: "
                    "load the state on the device type it was saved on"
                )
        self.seed, self.redrawn = own["seed"], own["redrawn"]
        self._streams = {}
        for place, saved in own["streams"].items():
            generator = torch.Generator(own["devices"][place])
            generator.set_state(saved.cpu().to(torch.uint8))
            self._streams[place] = generator
        return {name: value for name, value in state.items() if name != STATE}


class HeavyTailedSGD(torch.optim.SGD):
    """SGD with heavy-tailed noise: see `HeavyTailedNoise` for the noise, `torch.optim.SGD` for the
    rest.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> optimizer = HeavyTailedSGD(model.parameters(), lr=0.1, alpha=1.75, sigma=0.1)
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
        on: Iterable[Tensor] | None = None,
        seed: int = 0,
        truncation: float | None = None,
        convention: str = "exact",
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.noise = HeavyTailedNoise(
            self, alpha, sigma, kind, on=on, seed=seed, truncation=truncation, convention=convention
        )


def hidden_parameters(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The weights of all layers but the last, in the order the module holds them: what carries the
    noise.

    >>> [tuple(p.shape) for p in hidden_parameters(torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 1)))]
    [(8, 3)]
    """
    return [p for p in module.parameters() if p.ndim >= 2][:-1]
