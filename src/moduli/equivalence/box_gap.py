"""How far two networks are apart on a box, proved: bounds on its parts, of the networks as they are,
of their matched forms, or of what both become on the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np

from moduli.common.progress import Progress
from moduli.compression.box import reduce_on_box
from moduli.compression.box.bisection import GapSearch
from moduli.compression.box.stable_units import bisection_budget
from moduli.compression.results import Compression
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.bounds.output_gap import GapBound
from moduli.kernel.box import Box
from moduli.kernel.certificate import Certificate, proved, rounded
from moduli.kernel.errors import CertificateRejected
from moduli.kernel.exact_numbers import sum_up
from moduli.kernel.move import Move
from moduli.kernel.network import Network
from moduli.kernel.slack import Slack

from .matching import matchings

Array = np.ndarray[Any, np.dtype[np.float64]]
AGAIN = 2  # compressions of one network more on a box, until both have the same widths


class Reduced(NamedTuple):
    """A bound of |a - b| on a box through smaller networks that have the functions of a and b
    there.

    Attributes:
        left, right: ever smaller networks, each with a proof that on the box it is the one before,
            the first that it is a or b.
        last: how far the last two are apart.
    """

    left: tuple[Compression, ...]
    right: tuple[Compression, ...]
    last: Certificate

    def verify(self, a: Network, b: Network, box: Box) -> float:
        """The certified bound; raises `CertificateRejected`."""
        left, slacks = Reduced._end(a, self.left, box)
        right, more = Reduced._end(b, self.right, box)
        return sum_up(claimed(self.last, left, right, box), *slacks, *more)

    @staticmethod
    def _end(net: Network, chain: Sequence[Compression], box: Box) -> tuple[Network, list[float]]:
        """The last network of a chain, and the slack of each proof in it."""
        slacks = list[float]()
        for small in chain:
            claim, net, _ = proved(small.proof, small.network, net)
            _require_box(claim, box)
            slacks.append(claim.slack.constant)
        return net, slacks


def claimed(proof: Certificate, a: Network, b: Network, box: Box) -> float:
    """What a certificate proves of the difference of two networks on a box.

    Raises:
        CertificateRejected: it does not hold, or not there.
    """
    claim = proved(proof, b, a).certificate
    _require_box(claim, box)
    if claim.slack.growth or claim.near is not None:
        raise CertificateRejected("a difference on a box is claimed, and none is proved there")
    return claim.slack.constant


def _require_box(claim: Certificate, box: Box) -> None:
    region = claim.region
    if region is None or (region.low, region.high) != (tuple(box.low), tuple(box.high)):
        raise CertificateRejected(f"a proof holds on another box than {box}")


class Enclosed(NamedTuple):
    """A bound of |a - b| on a box.

    Attributes:
        proof: of the bound. bound: what was searched for it. interrupted: whether the search was.
        places: inputs ``[points, inputs]`` where the difference may be largest.
    """

    proof: Certificate | Reduced
    upper: float
    bound: GapBound
    interrupted: bool
    places: Array


class Search(NamedTuple):
    """What a search on a box may cost, and when it has found enough.

    Attributes:
        budget: boxes. eps: a bound that suffices, or a difference seen that does. tol: the upper
            end may be above the lower one by so much of it. seen: a difference known from
            elsewhere.
    """

    budget: int
    eps: float | None = None
    tol: float = 0.0
    seen: float = -1.0
    executor: Executor | None = None
    progress: Progress | None = None


def enclosed(a: Network, b: Network, box: Box, search: Search) -> Enclosed:
    """A bound by bisection; of what both networks become on the box, where units cannot be matched
    as they are.
    """
    if any(matchings(a, b)) or a.widths[1:-1] == b.widths[1:-1]:
        return bisected(a, b, box, search)
    budget, executor, progress = search.budget, search.executor, search.progress
    chains = [[reduce_on_box.compress(net, box, budget, 0, executor, progress)] for net in (a, b)]
    for _ in range(AGAIN):
        p, q = (chain[-1].network for chain in chains)
        if p.widths == q.widths:
            break
        larger = chains[p.units < q.units]
        larger.append(
            reduce_on_box.compress(larger[-1].network, box, budget, 0, executor, progress)
        )
    extra = sum_up(*(small.slack for chain in chains for small in chain))
    within = search._replace(eps=None if search.eps is None else max(0.0, search.eps - extra))
    found = bisected(chains[0][-1].network, chains[1][-1].network, box, within)
    assert isinstance(found.proof, Certificate)
    proof = Reduced(tuple(chains[0]), tuple(chains[1]), found.proof)
    return found._replace(proof=proof, upper=sum_up(found.upper, extra))


def bisected(a: Network, b: Network, box: Box, search: Search) -> Enclosed:
    """Bounds by bisection for the networks as they are, or for their matched forms, whichever start
    lower.
    """
    box = box.of_dimension(a.widths[0])
    radius = np.maximum(np.abs(box.low), np.abs(box.high))
    none = tuple[Move, ...]()
    starts = [(GapSearch(a, b, box, search.executor), 0.0, none, none)]
    for m in matchings(a, b, search.progress):
        extra = sum_up(rounded(m.left, radius), rounded(m.right, radius))
        parts = GapSearch(m.left.network(), m.right.network(), box, search.executor)
        starts.append((parts, extra, m.left_moves, m.right_moves))
    parts, extra, left, right = min(starts, key=lambda start: start[0].upper + start[1])
    goal = None if search.eps is None else max(0.0, search.eps - extra)
    budget, interrupted = max(1, bisection_budget(len(box.low), search.budget)), False
    try:
        parts.run(budget, eps=goal, tol=search.tol, seen=search.seen, progress=search.progress)
    except KeyboardInterrupt:
        interrupted = True  # a bound holds at every moment: what is found so far is handed over
    bound = parts.bound()
    slack = Slack(sum_up(bound.upper, extra), 0.0)
    signs = tuple((0,) * units for units in a.widths[1:-1])
    region = Region(tuple(box.low.tolist()), tuple(box.high.tolist()), (-1,), signs)
    proof = Certificate(a.digest, b.digest, left, right, slack, region=region, apart=bound)
    return Enclosed(proof, slack.constant, bound, interrupted, parts.places())
