"""Proximate rank where incoming and outgoing weights may move by different amounts, one hidden layer.

Let incoming weights and biases move by at most p each, outgoing weights by at most q. Multiplying all
outgoing weights by p / q is a bijection of the parameters that keeps the number of units that a function
needs, whatever the activation, and takes these parameters to those within p in all entries (the last bias,
which no unit reads, is left alone). So it is the proximate rank of the network with larger or smaller outgoing
weights at radius p, with all its bounds. Where p / q is a power of two, floats hold that network and nothing
is rounded. The answer does not fall when a radius does: other ratios lie between two such.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, SupportsFloat

import numpy as np

from moduli.common.progress import Progress
from moduli.kernel.errors import ArgumentError, Asked, CertificateRejected, UnsupportedModel
from moduli.kernel.network import Network

from . import reduce_within
from .reduce_within import ProximateRank


@dataclass(frozen=True)
class TwoRadii:
    """The least number of hidden units of any parameter within two radii.

    Attributes:
        network: whose parameters may move. incoming, outgoing: by how much. scaled: the answer for outgoing
            weights times incoming / outgoing, at radius `incoming`.
    """

    network: Network
    incoming: float
    outgoing: float
    scaled: ProximateRank

    @property
    def lower(self) -> int:
        return self.scaled.lower

    @property
    def upper(self) -> int:
        return self.scaled.upper

    @property
    def witness(self) -> Network | None:
        """A parameter within the radii that needs `upper` units; None where it is no float vector."""
        found = self.scaled.witness
        try:
            return None if found is None else _times(found, self.outgoing / self.incoming)
        except ArgumentError:
            return None

    def check(self) -> bool:
        """Prove both bounds again, of the network that is scaled again.

        Raises:
            CertificateRejected: naming what fails.
        """
        if math.frexp(self.incoming)[0] != math.frexp(self.outgoing)[0]:
            raise CertificateRejected("no radius is the other times a power of two")
        same = self.scaled.original == _times(self.network, self.incoming / self.outgoing)
        if not same or self.scaled.radius != self.incoming:
            raise CertificateRejected("the bounds are about another network, or radius")
        return self.scaled.check()


def rank_within(
    net: Network,
    *,
    incoming: SupportsFloat,
    outgoing: SupportsFloat,
    budget: int = 10_000,
    progress: Progress | None = None,
) -> TwoRadii:
    """The proximate rank with a radius for incoming weights and biases and one for outgoing weights.

    Args:
        incoming, outgoing: finite, above 0; one is the other times a power of two. budget: search nodes.

    Raises:
        ArgumentError: other radii, or outgoing weights that leave the floats when they are scaled.
        UnsupportedModel: no network with one hidden layer.

    >>> net = Network.mlp([[1.0], [1.5]], [0.0, 0.0], [[1.0, 1.0]], [0.0])
    >>> close, apart = (rank_within(net, incoming=p, outgoing=0.25) for p in (0.25, 0.125))
    >>> close.upper, apart.lower, close.check()
    (1, 2, True)
    """
    if len(net.layers) != 2:
        raise UnsupportedModel(f"{net}: two radii are for one hidden layer")
    incoming, outgoing = _radius("incoming", incoming), _radius("outgoing", outgoing)
    if math.frexp(incoming)[0] != math.frexp(outgoing)[0]:
        raise ArgumentError(
            Asked("incoming", incoming), " ", Asked("outgoing", outgoing),
            ": one has to be the other times a power of two; ask twice, between which this lies",
        )  # fmt: skip
    scaled = _times(net, incoming / outgoing)
    return TwoRadii(
        net, incoming, outgoing, reduce_within.rank(scaled, incoming, budget, None, progress)
    )


def _radius(name: str, value: Any) -> float:
    kinds = (int, float, np.integer, np.floating)
    try:
        if isinstance(value, kinds) and not isinstance(value, bool) and 0 < float(value) < math.inf:
            return float(value)
    except OverflowError:
        pass
    raise ArgumentError(Asked(name, value), ": a finite number above 0")


def _times(net: Network, factor: float) -> Network:
    """With outgoing weights times a power of two."""
    first, last = net.layers
    with np.errstate(all="ignore"):
        weight = last.weight * factor
        exact = np.isfinite(weight).all() and (weight / factor == last.weight).all()
    if not exact:
        raise ArgumentError(
            f"{net}: outgoing weights times {factor:g} are no floats; take nearer radii"
        )
    return Network.mlp(
        first.weight, first.bias, weight, last.bias, activation=str(net.activations[0])
    )
