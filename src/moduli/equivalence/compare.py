"""Whether two networks are one function, and how far apart they are: proofs, certified bounds,
witnesses, estimates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from moduli.common.domains import Domain, Gaussian, Samples
from moduli.common.progress import Progress
from moduli.common.result import counted
from moduli.compression.average import closed_form
from moduli.compression.exact import reduce
from moduli.kernel.bounds.decision import Decision
from moduli.kernel.box import Box
from moduli.kernel.certificate import Certificate
from moduli.kernel.errors import (
    ArgumentError,
    Asked,
    ShapeError,
    Undecided,
    UnsupportedModel,
)
from moduli.kernel.exact_numbers import ExactArray, above, ceiling
from moduli.kernel.network import Network
from moduli.kernel.slack import difference

from . import exact_gap
from .answers import WHERE, Distance, Equivalence, before, behind_at_most, radius_of
from .box_gap import Search, bisected, enclosed
from .by_creases import by_creases
from .decisions import require_decisions, search_decisions
from .group import normal_form
from .matching import Matching, matchings, normal_forms
from .witness_search import (
    Witness,
    allowed,
    candidates,
    find_witness,
    furthest,
    gaps,
    seen_through,
    separated_at,
)

Array = np.ndarray[Any, np.dtype[np.float64]]
DRAWS = 100_000  # of inputs, where an average has no closed form
FILE = 2_000  # boxes for the file of what linear pieces have proved
PIECE = 10_000  # inputs that are evaluated at a time


# Equality -------------------------------------------------------------------------------------------------------


def _require_one_map(a: Network, b: Network) -> None:
    if a.output_map != b.output_map:
        raise ShapeError(
            f"output maps {a.output_map} and {b.output_map} differ; compare networks with the same one"
        )


def equivalent(
    a: Network,
    b: Network,
    on: Domain,
    eps: float,
    seed: int | np.random.Generator,
    search: Search,
) -> Equivalence:
    """See `api.equivalent`."""
    if isinstance(on, (Gaussian, Samples)):
        raise ArgumentError(
            Asked("on", type(on)),
            ": equality is asked on all inputs (None) or on a Box; for averages use distance",
        )
    if not (eps >= 0 and math.isfinite(eps)):
        raise ArgumentError(Asked("eps", eps), ": a finite non-negative number is needed")
    eps = float(eps)  # of NumPy or whole: an answer holds a plain float
    _require_one_map(a, b)
    why, radius = "reduced widths differ", radius_of(on, a)
    most = allowed(eps, a.output_map)
    witness: Witness | None = None
    matched: Matching | None = None
    inputs = cache(lambda: candidates(a, b, on, search.budget, np.random.default_rng(seed)))
    forms = normal_forms(a, b, search.progress)
    for m in matchings(a, b, forms=forms):
        slack = m.slack()
        within = (
            slack.everywhere
            if radius is None or slack.everywhere == 0
            else m.slack(radius).everywhere
        )
        if within <= most:
            far = f"units matched; certified difference at most {above(within, 3)}{before(a)}"
            why = far if within else "equal normal forms"
            return Equivalence("proved", a, b, eps, on, m.certificate(a, b), None, why)
        why = "normal forms differ"
        if eps and math.isfinite(within):
            why = f"units match only up to a certified difference of {above(within, 3)}{before(a)}"
        if eps == 0 and matched is None:
            witness = furthest(a, b, inputs(), gaps(a, b, inputs()), eps)
            if witness is not None:
                break
        matched = m
    exact = by_creases(a, b, forms) if witness is None else None
    if exact is not None and (exact.proof is not None or (eps == 0 and on is None)):
        return replace(exact, eps=eps, on=on)
    x = inputs()
    if witness is None and eps == 0 and matched is not None:
        witness = furthest(a, b, x, seen_through(a, x, matched.tangent(x)), eps)
    if witness is None:
        witness = find_witness(a, b, on, eps, x, seed)
    if witness is None and isinstance(on, Box):
        decided = _on_box(a, b, on.of_dimension(a.widths[0]), eps, seed, search)
        if decided is not None and decided.status != "undecided":
            return decided
        why = why if decided is None else decided.reason
    if witness is not None:
        return Equivalence(
            "refuted", a, b, eps, on, None, witness, "an input was found where exact values differ"
        )
    return Equivalence(
        "undecided",
        a,
        b,
        eps,
        on,
        None,
        None,
        f"{why}, and no such difference was found at {len(x)} inputs",
    )


def alike(
    a: Network, b: Network, on: Domain, seed: int | np.random.Generator, search: Search
) -> Equivalence:
    """Whether the largest output is the same everywhere on a box; see `api.equivalent`."""
    if not isinstance(on, Box):
        raise ArgumentError(
            Asked("decision", True), " on ", "all inputs" if on is None else Asked("on", type(on)),
            ": decisions are compared on a Box",
        )  # fmt: skip
    _require_one_map(a, b)
    require_decisions(a)
    box = on.of_dimension(a.widths[0])
    for m in matchings(a, b, search.progress):
        if m.slack().everywhere == 0:
            proof, why = m.certificate(a, b), "the same function: equal normal forms"
            return Equivalence("proved", a, b, 0.0, box, proof, None, why, decision=True)
    found = search_decisions(a, b, box, seed, search)
    if isinstance(found, Decision):
        why = f"output {found.winner} is the largest of both, by signs of its margins"
        return Equivalence("proved", a, b, 0.0, box, None, None, why, decision=True, decided=found)
    if isinstance(found, Witness):
        why = "an input was found where exact values decide in different ways"
        return Equivalence("refuted", a, b, 0.0, box, None, found, why, decision=True)
    return Equivalence("undecided", a, b, 0.0, box, None, None, found, decision=True)


def _on_box(
    a: Network,
    b: Network,
    box: Box,
    eps: float,
    seed: int | np.random.Generator,
    search: Search,
) -> Equivalence | None:
    """By the exact maximum over all linear pieces, or by bisection."""
    most, shifts = allowed(eps, a.output_map), a.output_map == "softmax"
    peak = exact_gap.peak(a, b, box, search.budget, search.progress, shifts=shifts)
    if peak is not None:
        if peak.gap <= most:
            free = ", up to shifts of all values," if shifts else ""
            why = f"the largest difference{before(a)}{free} at vertices of all linear pieces is {float(peak.gap):.3g}"
            # The pieces have no file; parts of the box do, where they suffice.
            few = search._replace(budget=min(search.budget, FILE), eps=most)
            parts = bisected(a, b, box, few) if most else None
            proof = parts.proof if parts is not None and parts.upper <= most else None
            certificate = proof if isinstance(proof, Certificate) else None
            return Equivalence("proved", a, b, eps, box, certificate, None, why, pieces=True)
        witness = separated_at(a, b, peak.at, eps)
        why = "the largest difference of exact values at vertices of all linear pieces"
        return (
            None if witness is None else Equivalence("refuted", a, b, eps, box, None, witness, why)
        )
    found = enclosed(a, b, box, search._replace(eps=most))
    if found.upper <= most:
        why = (
            f"certified difference at most {above(found.upper, 3)}{before(a)}"
            if found.upper
            else "no difference"
        )
        why += f", by bounds on {counted(found.bound.boxes, 'box', 'boxes')}"
        if isinstance(found.proof, Certificate):
            return Equivalence("proved", a, b, eps, box, found.proof, None, why)
        units = (chain[-1].network.units for chain in found.proof[:2])
        why += ", of the {} and {} units that the box leaves".format(*units)
        return Equivalence("proved", a, b, eps, box, None, None, why, found.proof)
    witness = find_witness(a, b, box, eps, found.places, seed)
    if witness is not None:
        why = "an input was found where exact values differ"
        return Equivalence("refuted", a, b, eps, box, None, witness, why)
    why = f"certified difference at most {above(found.upper, 3)}{before(a)}"
    why += ", when the search was interrupted" if found.interrupted else ""
    return Equivalence("undecided", a, b, eps, box, None, None, why)


# Distance -------------------------------------------------------------------------------------------------------


def distance(
    a: Network, b: Network, on: Domain, seed: int | np.random.Generator, search: Search
) -> Distance:
    """See `api.distance`."""
    _require_one_map(a, b)
    bare = replace(a, output_map="identity"), replace(b, output_map="identity")
    if isinstance(on, (Gaussian, Samples)):
        return replace(_mean_square(*bare, on, seed, search.progress), output_map=a.output_map)
    found = _supremum(*bare, on, seed, search)
    if a.output_map == "identity":
        return replace(found, behind=(found.lower, found.upper))
    if isinstance(found.proof, Certificate):  # it speaks of what stands before the output map
        found = replace(found, proof=replace(found.proof, large=a.digest, small=b.digest))
    found = replace(found, a=a, b=b, output_map=a.output_map)
    return _with_behind(a, b, on, search.budget, seed, found)


def _with_behind(
    a: Network, b: Network, on: Box | None, budget: int, seed: Any, found: Distance
) -> Distance:
    """With bounds of the distance of outputs: the upper end carried through the map, exact values
    behind it from below.
    """
    most = behind_at_most(found.upper, a.output_map)
    if most == 0:
        return replace(found, behind=(0.0, 0.0))
    x = candidates(a, b, on, budget, np.random.default_rng(seed))
    tiny = math.ulp(0.0)  # so that outputs are compared, and not values before the map
    places = [find_witness(a, b, on, tiny, x, seed)]
    if found.argmax is not None:
        places.append(separated_at(a, b, tuple(map(Fraction, found.argmax)), tiny))
    best = max((w for w in places if w is not None), key=lambda w: w.gap, default=None)
    if best is None:
        return replace(found, behind=(0.0, most))
    at = tuple(map(float, best.input))
    return replace(
        found, behind=(0.0 - ceiling(-best.gap), most), extra={**found.extra, "behind_at": at}
    )


def _supremum(a: Network, b: Network, on: Box | None, seed: Any, search: Search) -> Distance:
    """Of networks without an output map."""
    box = on.of_dimension(a.widths[0]) if isinstance(on, Box) else None
    where = WHERE[box is not None]
    upper, proof = _upper(a, b, box, search.progress)
    found = Distance("bounded", 0.0, upper, None, where, a=a, b=b, box=box, proof=proof)
    if upper == 0:
        return replace(found, status="proved")
    peak = None if box is None else exact_gap.peak(a, b, box, search.budget, search.progress)
    if peak is not None:
        at, extra = tuple(map(float, peak.at)), {"exact": str(peak.gap)}
        lower, upper = 0.0 - ceiling(-peak.gap), ceiling(peak.gap)
        return Distance("proved", lower, upper, at, where, extra, a=a, b=b, box=box)
    x = candidates(a, b, on, search.budget, np.random.default_rng(seed))
    witnesses = [find_witness(a, b, on, 0.0, x, seed)]
    if box is not None:
        seen = -1.0 if witnesses[0] is None else 0.0 - ceiling(-witnesses[0].gap)
        narrow = enclosed(a, b, box, search._replace(seen=seen))
        witnesses.append(find_witness(a, b, box, 0.0, narrow.places, seed))
        if narrow.upper < upper:
            found = replace(found, upper=narrow.upper, proof=narrow.proof)
        found = replace(found, interrupted=narrow.interrupted)
    witness = max((w for w in witnesses if w is not None), key=lambda w: w.gap, default=None)
    if witness is not None:
        at, lower = tuple(map(float, witness.input)), 0.0 - ceiling(-witness.gap)
        found = replace(found, lower=lower, argmax=at)
    return replace(found, status="proved" if found.lower == found.upper else "bounded")


def _upper(
    a: Network, b: Network, box: Box | None, progress: Progress | None
) -> tuple[float, Certificate | None]:
    """Certified: matched units, or else the size of both functions, which has no certificate."""
    radius = radius_of(box, a)
    best, proof = math.inf, None
    for m in matchings(a, b, progress):
        found = m.slack(radius).everywhere
        if found < best:
            best, proof = found, m.certificate(a, b)
        if best == 0:
            return best, proof
    size = math.nextafter(_size(a, radius) + _size(b, radius), math.inf)
    return (size, None) if size < best else (best, proof)


def _size(net: Network, radius: Array | None) -> float:
    """A bound of the outputs: how far they are from those of a last layer that is zero."""
    *hidden, (weight, bias) = normal_form(net)[0].arrays()
    zero = ExactArray(np.zeros_like(weight.hi)), ExactArray(np.zeros_like(bias.hi))
    layers = [*hidden, (weight, bias)], [*hidden, zero]
    return difference(*layers, net.activations, radius=radius).everywhere


def _mean_square(
    a: Network, b: Network, on: Gaussian | Samples, seed: Any, progress: Progress | None
) -> Distance:
    if isinstance(on, Gaussian) and max(len(a.layers), len(b.layers)) <= 2:
        try:
            return _closed_form(a, b, on, progress)
        except (
            UnsupportedModel
        ):  # an activation without Gaussian expectations: by draws, as for deeper networks
            pass
    if isinstance(on, Samples) and on.x.shape[1] != a.widths[0]:
        raise ShapeError(f"samples have shape {on.x.shape}; the networks have {a.widths[0]} inputs")
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.concatenate(
            [((a.logits(x) - b.logits(x)) ** 2).sum(axis=1) for x in _pieces(on, a.widths[0], seed)]
        )
        if not np.isfinite(squares.sum()):
            raise Undecided(
                "the squared difference of the outputs exceeds float64 on these inputs; scale them down"
            )
    top = float(squares.max()) or 1.0  # the squares of these may overflow
    squares = squares / top
    mean, error = float(squares.mean()), math.inf
    if len(squares) > 1:
        error = float(squares.std(ddof=1) / math.sqrt(len(squares)))
    mean, error = mean * top, error * top
    ends = [math.sqrt(max(0.0, mean + k * error)) for k in (-2, 2)]
    name = (
        f"root mean square on {len(squares)} samples"
        if isinstance(on, Samples)
        else f"root mean square under a Gaussian, {DRAWS} draws"
    )
    return Distance("estimated", ends[0], ends[1], None, name, {"value": math.sqrt(mean)})


def _closed_form(a: Network, b: Network, on: Gaussian, progress: Progress | None) -> Distance:
    name = "root mean square under the Gaussian, in closed form"
    if _upper(a, b, None, progress)[0] == 0:
        return Distance("proved", 0.0, 0.0, None, name)
    ends = closed_form.distance(a, b, on)
    if ends.width > 1e-6:
        ends = closed_form.common([ends, _reduced_distance(a, b, on)])
    if not math.isfinite(ends.high):
        raise Undecided(
            "the squared difference of the outputs exceeds float64 under this Gaussian; scale the networks down"
        )
    return Distance("estimated", ends.low, ends.high, None, name, {"value": ends.value})


def _pieces(on: Gaussian | Samples, n: int, seed: Any) -> Iterator[Array]:
    """The rows, or draws from the Gaussian, a few thousand at a time."""
    if isinstance(on, Samples):
        yield from (on.x[at : at + PIECE] for at in range(0, len(on.x), PIECE))
    else:
        rng = np.random.default_rng(seed)
        yield from (on.sample(PIECE, n, rng) for _ in range(DRAWS // PIECE))


def _reduced_distance(a: Network, b: Network, on: Gaussian) -> closed_form.Ends:
    """The same of the losslessly reduced networks, whose units match where those of a and b do not."""
    small = [reduce.compress(net) for net in (a, b)]
    ends = closed_form.distance(small[0].network, small[1].network, on)
    size = math.sqrt(
        float(np.square(on.mean).max() + np.abs(on.cov).max()) * a.widths[0] * a.widths[-1]
    )
    slip = sum(s.proof.slack.constant * math.sqrt(a.widths[-1]) + s.growth * size for s in small)
    return closed_form.Ends(ends.value, max(0.0, ends.low - slip), ends.high + slip)
