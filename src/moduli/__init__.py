"""Neural networks modulo having the same function."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Activation": "kernel.activations", "Box": "formats.vnnlib", "Gaussian": "common.domains", "Samples": "common.domains",
    "Layer": "kernel.network", "Network": "kernel.network",
    "Certificate": "kernel.certificate", "Slack": "kernel.slack",
    "BudgetExhausted": "kernel.errors", "CertificateRejected": "kernel.errors", "MissingExtra": "kernel.errors", "ModuliError": "kernel.errors",
    "PrecisionExhausted": "kernel.errors", "ShapeError": "kernel.errors", "Undecided": "kernel.errors", "UnsupportedModel": "kernel.errors",
    "to_torch": "formats.torch_modules", "load": "formats", "save": "formats",
    "align": "solve", "canonical": "solve", "check": "solve", "complexity": "solve", "compress": "solve", "depth": "solve",
    "dimension": "solve", "distance": "solve", "equivalent": "solve", "error_curve": "solve", "identifiable": "solve",
    "mean_field": "solve", "path": "solve", "pieces": "solve", "pruning_curve": "solve", "rank": "solve", "rank_curve": "solve",
    "recover": "solve", "signature": "solve", "symmetries": "solve",
    "report": "page", "etf": "compression.average.mean_field_limit", "hard_instance": "compression.radius.hard_instances", "stable_noise": "training.noise", "tail_index": "training.noise",
}  # fmt: skip

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'moduli' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from moduli.common.domains import Gaussian as Gaussian
    from moduli.common.domains import Samples as Samples
    from moduli.compression.average.mean_field_limit import etf as etf
    from moduli.compression.radius.hard_instances import hard_instance as hard_instance
    from moduli.formats.torch_modules import to_torch as to_torch
    from moduli.formats.vnnlib import Box as Box
    from moduli.kernel.activations import Activation as Activation
    from moduli.kernel.certificate import Certificate as Certificate
    from moduli.kernel.errors import BudgetExhausted as BudgetExhausted
    from moduli.kernel.errors import CertificateRejected as CertificateRejected
    from moduli.kernel.errors import MissingExtra as MissingExtra
    from moduli.kernel.errors import ModuliError as ModuliError
    from moduli.kernel.errors import PrecisionExhausted as PrecisionExhausted
    from moduli.kernel.errors import ShapeError as ShapeError
    from moduli.kernel.errors import Undecided as Undecided
    from moduli.kernel.errors import UnsupportedModel as UnsupportedModel
    from moduli.kernel.network import Layer as Layer
    from moduli.kernel.network import Network as Network
    from moduli.kernel.slack import Slack as Slack
    from moduli.training.noise import stable_noise as stable_noise
    from moduli.training.noise import tail_index as tail_index

    from .formats import load as load
    from .formats import save as save
    from .page import report as report
    from .solve import align as align
    from .solve import canonical as canonical
    from .solve import check as check
    from .solve import complexity as complexity
    from .solve import compress as compress
    from .solve import depth as depth
    from .solve import dimension as dimension
    from .solve import distance as distance
    from .solve import equivalent as equivalent
    from .solve import error_curve as error_curve
    from .solve import identifiable as identifiable
    from .solve import mean_field as mean_field
    from .solve import path as path
    from .solve import pieces as pieces
    from .solve import pruning_curve as pruning_curve
    from .solve import rank as rank
    from .solve import rank_curve as rank_curve
    from .solve import recover as recover
    from .solve import signature as signature
    from .solve import symmetries as symmetries
