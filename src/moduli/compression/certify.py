"""Certificates written for what a search has found: the least slack, and minimality where it is
provable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moduli.common.exact_values import exact_arrays
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.bounds.output_gap import Changed
from moduli.kernel.bounds.sign_splits import without_masked_weights
from moduli.kernel.certificate import Certificate, slack_of
from moduli.kernel.errors import ShapeError
from moduli.kernel.move import Move
from moduli.kernel.network import Network
from moduli.kernel.radius.cover_bound import Near
from moduli.kernel.rules import replay
from moduli.kernel.state import State

BREATH = (
    1 + 2.0**-30
)  # of bounds on a box: rounding depends on the machine and on the size of batches


def first(large: Network, region: Region | None, changed: Changed | None = None) -> Network:
    """Where the moves start: parameters are changed, weights that play no part on the box are zero;
    nothing is proved here.
    """
    start = large if changed is None else changed.network(large)
    return start if region is None else without_masked_weights(start, region.cases)


def certify(
    large: Network,
    moves: Sequence[Move],
    small: Network,
    *,
    state: State | None = None,
    near: Near | None = None,
    region: Region | None = None,
    changed: Changed | None = None,
) -> Certificate:
    """The certificate that `moves` lead from `large` to `small`, with the least slack and
    minimality if it is provable.

    The signs of a region and the effect of changes are taken as proved here; `Certificate.verify`
    proves them.
    """
    left = state or replay(first(large, region, changed), moves, near, region)
    if left.widths != small.widths:
        raise ShapeError(
            f"the moves lead to widths {left.widths}, the small network has {small.widths}"
        )
    slack = slack_of(left, exact_arrays(small), region, changed)
    if region is not None:
        slack = replace(slack, constant=slack.constant * BREATH)
    proof = Certificate(
        large.digest,
        small.digest,
        tuple(moves),
        (),
        slack,
        near=near,
        region=region,
        changed=changed,
    )
    return replace(proof, minimal=proof.not_minimal(left, small) is None)
