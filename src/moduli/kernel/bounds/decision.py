"""That one output of two networks is larger than all others everywhere on a box. Part of the kernel.

Then both decide alike there, however ties are broken. How far the output is above the others are
further hidden units (`margins`), whose signs a `Region` proves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moduli.kernel import fields
from moduli.kernel.activations import Activation
from moduli.kernel.arithmetic import LEAST
from moduli.kernel.box import Box
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.network import IDENTITY, Layer, Network

from .box_claim import Region


def margins(net: Network, winner: int) -> Network:
    """A network whose last hidden units are output `winner` minus each other output, less the least
    float: where they are >= 0, it is the only largest output.

    >>> net = Network.mlp([[1.0]], [0.0], [[1.0], [0.0], [2.0]], [0.0, 1.0, 0.0])
    >>> margins(net, 1).layers[-2].weight.tolist()
    [[-1.0, 1.0, 0.0], [0.0, 1.0, -1.0]]
    """
    count = net.widths[-1]
    rows = np.delete(np.eye(count)[winner] - np.eye(count), winner, axis=0)
    ahead = Layer(rows, np.full(count - 1, -LEAST), Activation("relu"))
    behind = Layer(np.zeros((1, count - 1)), np.zeros(1), IDENTITY)
    return Network((*net.layers, ahead, behind))


@dataclass(frozen=True)
class Decision:
    """The output that is the largest of two networks everywhere on a box, and the proof for each.

    Attributes:
        winner: the output. a, b: signs of the hidden units of the `margins` of each network.
    """

    winner: int
    a: Region
    b: Region

    @np.errstate(all="ignore")
    def verify(self, a: Network, b: Network, box: Box) -> None:
        """Prove it anew; raises `CertificateRejected`."""
        with fields.made_by_hand("decision"):
            winner = fields.whole(self.winner, 0, a.widths[-1] - 1, "the winner")
            if b.widths[-1] != a.widths[-1]:
                raise CertificateRejected(f"{a} and {b} have not as many outputs")
            regions = [Region.from_json(region.plain()) for region in (self.a, self.b)]
        for net, region in zip((a, b), regions, strict=True):
            _require(net, winner, region, box.of_dimension(net.widths[0]))


def _require(net: Network, winner: int, region: Region, box: Box) -> None:
    ends = zip(region.low, box.low.tolist(), box.high.tolist(), region.high, strict=True)
    if len(region.low) != net.widths[0] or not all(
        least <= low <= high <= most for least, low, high, most in ends
    ):
        raise CertificateRejected(f"a decision is claimed on {box}, and proved elsewhere")
    if not region.signs or region.signs[-1] != (1,) * (net.widths[-1] - 1):
        raise CertificateRejected(f"output {winner} is not claimed to be above all others")
    region.verify(margins(net, winner))
