"""Neural networks modulo having the same function."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "kernel.activations": "Activation",
    "kernel.certificate": "Certificate",
    "kernel.errors": "ArgumentError BudgetExhausted CertificateRejected MissingExtra ModuliError PrecisionExhausted ShapeError "
    "Undecided UnsupportedModel",
    "kernel.network": "Layer Network",
    "kernel.slack": "Slack",
    "common.domains": "Gaussian Grid Samples",
    "common.graph": "Graph",
    "kernel.graph.certificate": "GraphCertificate",
    "formats": "load save",
    "formats.torch_modules": "to_torch",
    "formats.vnnlib": "Box",
    "compression.average.mean_field_limit": "etf",
    "compression.radius.hard_instances": "hard_instance",
    "compression.radius.low_rank_parameters": "rank_set",
    "piecewise.redundant_examples": "minimal_examples",
    "training.noise": "stable_noise tail_index",
    "training.guarantees": "guaranteed_share guaranteed_width",
    "api": "align canonical check complexity compress depth dimension distance equivalent error_curve identifiable "
    "identifiable_parameters mean_field minimal_networks path pieces pruning_curve radius_for rank rank_curve recover rounding "
    "signature symmetries",
    "interface.report_page": "report",
}
_HOME = {name: place for place, names in _PLACES.items() for name in names.split()}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'moduli' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from .api import align as align
    from .api import canonical as canonical
    from .api import check as check
    from .api import complexity as complexity
    from .api import compress as compress
    from .api import depth as depth
    from .api import dimension as dimension
    from .api import distance as distance
    from .api import equivalent as equivalent
    from .api import error_curve as error_curve
    from .api import identifiable as identifiable
    from .api import identifiable_parameters as identifiable_parameters
    from .api import mean_field as mean_field
    from .api import minimal_networks as minimal_networks
    from .api import path as path
    from .api import pieces as pieces
    from .api import pruning_curve as pruning_curve
    from .api import radius_for as radius_for
    from .api import rank as rank
    from .api import rank_curve as rank_curve
    from .api import recover as recover
    from .api import rounding as rounding
    from .api import signature as signature
    from .api import symmetries as symmetries
    from .common.domains import Gaussian as Gaussian
    from .common.domains import Grid as Grid
    from .common.domains import Samples as Samples
    from .common.graph import Graph as Graph
    from .compression.average.mean_field_limit import etf as etf
    from .compression.radius.hard_instances import hard_instance as hard_instance
    from .compression.radius.low_rank_parameters import rank_set as rank_set
    from .formats import load as load
    from .formats import save as save
    from .formats.torch_modules import to_torch as to_torch
    from .formats.vnnlib import Box as Box
    from .interface.report_page import report as report
    from .kernel.activations import Activation as Activation
    from .kernel.certificate import Certificate as Certificate
    from .kernel.errors import ArgumentError as ArgumentError
    from .kernel.errors import BudgetExhausted as BudgetExhausted
    from .kernel.errors import CertificateRejected as CertificateRejected
    from .kernel.errors import MissingExtra as MissingExtra
    from .kernel.errors import ModuliError as ModuliError
    from .kernel.errors import PrecisionExhausted as PrecisionExhausted
    from .kernel.errors import ShapeError as ShapeError
    from .kernel.errors import Undecided as Undecided
    from .kernel.errors import UnsupportedModel as UnsupportedModel
    from .kernel.graph.certificate import GraphCertificate as GraphCertificate
    from .kernel.network import Layer as Layer
    from .kernel.network import Network as Network
    from .kernel.slack import Slack as Slack
    from .piecewise.redundant_examples import minimal_examples as minimal_examples
    from .training.guarantees import guaranteed_share as guaranteed_share
    from .training.guarantees import guaranteed_width as guaranteed_width
    from .training.noise import stable_noise as stable_noise
    from .training.noise import tail_index as tail_index
