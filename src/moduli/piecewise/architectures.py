"""The functional dimension of an architecture: the largest of any ReLU network of given widths, on
all inputs (and on any box with an interior, as the first layer can move the inputs).

*From below.* One network, of whole numbers, and its functional dimension from below: a rank modulo a
prime. The rank of derivatives at smooth points is lower semicontinuous in the parameters, so an open
set of networks has at least this one's.

*From above.* Let P be the number of parameters and N that of hidden units. It is at most P - N, as
each unit can be scaled. Maximal runs of k > 2 hidden layers of width 1 lose k - 2 more each:

**Lemma.** *The functional dimension of an architecture is at most P - N - sum (k - 2) over its maximal
runs of k > 2 hidden layers of width 1.*

*Proof.* Let s = w.h + r be the first pre-activation of a run, h what it reads (q numbers). The run
sends phi(s) >= 0 with phi = relu(w_k ... relu(w_2 relu(s) + b_2) ... + b_k). By induction phi(s) = A
+ B clip(s, a, b) with 0 <= a <= b <= infinity: relu(s) = clip(s, 0, infinity), and the ReLU of an
affine function of such a function keeps the values on one side of a number. The layer behind the run
(n' units, or the outputs) reads p clip(s, a, b) + q', where p = B W and q' = A W + c, n' numbers
each. Outside a null set of parameters, (A, B, a, b) are smooth functions of the run's parameters
close by (infinite and constant ends stay so, which only makes fewer numbers). Near such a parameter
the outputs, at points where no unit vanishes, hence s != a, b, are a differentiable function of u =
(w, r, a, b, p, q'), q + 1 + 2 + 2 n' numbers for each run with k >= 2, and of all parameters of the
other layers. Two groups leave it alone: s -> c s (w, r, a, b times c, p over c) and s -> s + t (r, a,
b plus t, q' minus t p), beside the scalings of all other units. Their tangents are independent
where no row of incoming weights is 0: taking the layers from the inputs on, the incoming weights of
a layer are moved only by the scalings of its own units and of those below, so all coefficients of
scalings vanish; then those of the shifts do, as r shows. So the rank is at most the count of these
numbers less that of the groups. A run has q + 1 + 2 (k - 1) + 2 n' parameters, which q + 3 + 2 n'
numbers replace, and k units, for which two groups stand: P - 2 (k - 2) - (N - k + 2) = P - N - (k -
2) for one run, and so on for all. (Where phi is constant, B = 0 and p = 0, on an open set: then
nothing up to the last unit of that run moves the outputs, what is behind it has at most its own
parameters less units, and what is in front has more parameters than units and lost directions.)
Where the rank of some network is larger it is so on an open set,
which meets the complement of the null set. QED
(A chain n_0, 1, ..., 1, 1 of k > 1 hidden layers has P - N - (k - 2) = n_0 + 3.)

That P - N is reached whenever the inputs and all hidden layers have width at least 2 is a theorem of
Grillo and Montufar 2026 (its abstract was read, not its proof): here each architecture gets a
certificate of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from moduli.common import modular
from moduli.common.files import content
from moduli.common.progress import Progress
from moduli.common.result import Result
from moduli.kernel.box import Box
from moduli.kernel.errors import CertificateRejected, ShapeError, Undecided
from moduli.kernel.network import Network

from .cells_sampled import Exploration
from .crease_points import CreasePoints, crease_points

Array = np.ndarray[Any, np.dtype[np.float64]]
SCHEMA = "moduli.dimension-certificate/1"
REACH = 2**14  # points have whole coordinates up to this
HEAVY = 4  # largest weight that is drawn
SMALL = 400  # parameters up to which the Jacobian is made and its rank taken again in integers
CHECKED = 2**31 - 1  # the prime of that second elimination
SPREAD = 0.35  # over the root of the inputs: how far the share of points where a unit is on may be from half
DRAWN = 50  # of the budget for each layer that is drawn
WHOLE = 2.0**53  # floats are exact integers below


def most(widths: Sequence[int]) -> int:
    """The upper bound of the lemma.

    >>> most((2, 2, 2, 1)), most((2, 1, 1, 1, 1, 1))      # the second is a chain: inputs + 3
    (11, 5)
    """
    hidden = widths[1:-1]
    bound = sum(b * (a + 1) for a, b in pairwise(widths)) - sum(hidden)
    runs = (len(list(group)) for width, group in groupby(hidden) if width == 1)
    return bound - sum(max(0, run - 2) for run in runs)


def accepted(widths: Any) -> tuple[int, ...]:
    """Widths of a network: inputs, hidden layers, outputs.

    Raises:
        ShapeError: fewer than two, or one below 1.
    """
    found = tuple(int(w) for w in widths)
    if len(found) < 2 or min(found) < 1:
        raise ShapeError(
            f"widths {list(found)}: give the numbers of inputs, hidden units and outputs, each at least 1"
        )
    return found


# Certificates ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ArchitectureCertificate:
    """One network whose functional dimension is at least `rank`, and what shows it.

    Attributes:
        network: its parameters are whole numbers, exact in floats. points: ``[cells, inputs]`` whole
            numbers, one point in each of some cells: the Jacobian of their affine pieces has the
            rank modulo a prime. creases: in the place of points, for more than 400 parameters; see
            `crease_points`.
    """

    network: Network
    rank: int
    points: Array | None = None
    creases: CreasePoints | None = None

    def verify(self) -> None:
        """Compute the rank again: of points in integers, modulo 2^31 - 1, with nothing that the
        search used; of creases with their signs proved again, modulo other primes than in the search.

        Raises:
            CertificateRejected: naming what fails.
        """
        for l, layer in enumerate(self.network.layers, 1):
            if l < len(self.network.layers) and str(layer.activation) != "relu":
                raise CertificateRejected(f"layer {l} is {layer.activation}, not relu")
        if self.creases is not None:
            if self.creases.network != self.network:
                raise CertificateRejected("the creases are those of another network")
            self.creases.check()
            found = max(self.creases.lower(p) for p in modular.PRIMES[:0:-1])
        elif self.points is not None:
            found = _integer_rank(self.network, self.points)
        else:
            raise CertificateRejected("neither points nor creases")
        if found < self.rank:
            raise CertificateRejected(f"the rank is {found}, not {self.rank}")

    def to_json(self) -> dict[str, Any]:
        layers = [[x.weight.tolist(), x.bias.tolist()] for x in self.network.layers]
        data: dict[str, Any] = {"schema": SCHEMA, "rank": self.rank, "layers": layers}
        if self.points is not None:
            data["points"] = self.points.tolist()
        if self.creases is not None:
            data["creases"] = {
                "box": self.creases.box.to_json(), "units": self.creases.units.tolist(),
                "starts": self.creases.starts.tolist(), "ends": self.creases.ends.tolist(),
                "samples": self.creases.samples.tolist(),
                "claimed": list(self.creases.claimed), "pieces": self.creases.pieces,
            }  # fmt: skip
        return data

    @staticmethod
    def read(path: str | Path) -> ArchitectureCertificate:
        """From a file that `ArchitectureDimension.save` wrote.

        Raises:
            CertificateRejected: it is none.
        """
        try:
            data = json.loads(content(path))
            if data["schema"] != SCHEMA:
                raise ValueError(f"schema {data['schema']}")
            arrays = [np.array(part, dtype=np.float64) for pair in data["layers"] for part in pair]
            net = Network.mlp(*arrays, activation="relu")
            points, creases = data.get("points"), data.get("creases")
            inputs = net.widths[0]
            if creases is not None:
                starts, ends, samples = (
                    np.array(creases[key], dtype=np.float64).reshape(-1, inputs)
                    for key in ("starts", "ends", "samples")
                )
                units = np.array(creases["units"], dtype=np.int64)
                ranks = tuple(int(r) for r in creases["claimed"])
                box, pieces = Box(*creases["box"]), bool(creases["pieces"])
                creases = CreasePoints(net, box, units, starts, ends, samples, ranks, pieces)
            if points is not None:
                points = np.array(points, dtype=np.float64).reshape(-1, inputs)
            return ArchitectureCertificate(net, int(data["rank"]), points, creases)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise CertificateRejected(f"{path}: no certificate of a dimension: {error}") from None


def _integers(array: Array, name: str) -> Any:
    """Whole floats as integers of any size."""
    if not (np.isfinite(array).all() and (array == np.rint(array)).all()):
        raise CertificateRejected(f"{name} holds a number that is not whole")
    whole = np.array([int(v) for v in array.ravel().tolist()], dtype=object)
    return whole.reshape(array.shape)


def _integer_rank(net: Network, points: Array) -> int:
    """The rank modulo 2^31 - 1 of the derivatives, by the parameters, of the affine pieces on the
    cells of the points.
    """
    layers = [
        (_integers(x.weight, f"W{l}"), _integers(x.bias, f"b{l}"))
        for l, x in enumerate(net.layers, 1)
    ]
    rows = [np.zeros((0, net.parameters), dtype=np.int64)]
    for k, x in enumerate(_integers(points, "the points")):
        gates, h = [], x
        for weight, bias in layers[:-1]:
            z = weight.dot(h) + bias
            if (z == 0).any():
                raise CertificateRejected(f"at point {k} a unit vanishes")
            gates.append(z > 0)
            h = np.where(gates[-1], z, 0)
        rows.append(_derivatives(layers, gates, net.widths))
    return _rank_of_integers(np.concatenate(rows), CHECKED)


def _derivatives(layers: list[Any], gates: list[Any], widths: tuple[int, ...]) -> Any:
    """Of the coefficients (output by output: of each input, then of 1) by all parameters, modulo the
    prime ``[outputs * (inputs + 1), parameters]``.
    """
    inputs, outputs = widths[0], widths[-1]
    # What each layer reads, as coefficients of the inputs and of 1.
    reads = [np.concatenate([np.eye(inputs, dtype=object), np.zeros((inputs, 1), dtype=object)], axis=1)]  # fmt: skip
    one = np.zeros((1, inputs + 1), dtype=object)
    one[0, -1] = 1
    for (weight, bias), gate in zip(layers[:-1], gates, strict=True):
        z = weight.dot(reads[-1]) % CHECKED
        z[:, -1] = (z[:, -1] + bias) % CHECKED
        reads.append(np.where(gate[:, None], z, 0))
    # Slopes of the outputs by the pre-activations of each layer.
    slopes = [np.eye(outputs, dtype=object)]
    for (weight, _), gate in zip(layers[:0:-1], gates[::-1], strict=True):
        slopes.insert(0, np.where(gate, slopes[0].dot(weight) % CHECKED, 0))
    parts = []
    for slope, read in zip(slopes, reads, strict=True):
        for features in (read, one):
            entries = slope[:, None, :, None] * features.T[None, :, None, :] % CHECKED
            parts.append(entries.reshape(outputs * (inputs + 1), -1))
    return np.concatenate(parts, axis=1).astype(np.int64)


def _rank_of_integers(matrix: Any, prime: int) -> int:
    """By elimination, row by row; products of residues stay below 2^62."""
    a, rank = matrix % prime, 0
    for column in range(a.shape[1]):
        rows = np.flatnonzero(a[rank:, column])
        if not len(rows):
            continue
        first = rank + int(rows[0])
        a[[rank, first]] = a[[first, rank]]
        a[rank] = a[rank] * pow(int(a[rank, column]), -1, prime) % prime
        below = rank + 1 + np.flatnonzero(a[rank + 1 :, column])
        a[below] = (a[below] - a[below, column][:, None] * a[rank] % prime) % prime
        rank += 1
    return rank


# Answers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class ArchitectureDimension(Result):
    """The functional dimension of an architecture of ReLU networks.

    Attributes:
        widths: inputs, hidden layers, outputs. lower, upper: proved. generic: parameters less hidden
            units. proof: a network with at least the lower bound.
    """

    widths: tuple[int, ...]
    lower: int
    upper: int
    generic: int
    proof: ArchitectureCertificate
    kind: ClassVar[str] = "dimension"

    @property
    def exact(self) -> bool:
        return self.lower == self.upper

    @property
    def network(self) -> Network:
        """A network of these widths whose functional dimension is at least the lower bound."""
        return self.proof.network

    @property
    def certificate(self) -> ArchitectureCertificate:  # type: ignore[override]
        return self.proof

    def __int__(self) -> int:
        if not self.exact:
            raise Undecided(self.statement, lower=self.lower, upper=self.upper)
        return self.lower

    def check(self) -> bool:
        """Verify the certificate and compare both bounds with what it and the widths say.

        Raises:
            CertificateRejected: naming what fails.
        """
        if self.network.widths != self.widths:
            raise CertificateRejected(
                f"a network of widths {self.network.widths}, not {self.widths}"
            )
        if self.proof.rank < self.lower or self.upper < most(self.widths):
            raise CertificateRejected("the bounds are not those of the certificate and the widths")
        self.proof.verify()
        return True

    @property
    def statement(self) -> str:
        name = "-".join(map(str, self.widths))
        value = str(self.lower) if self.exact else f"between {self.lower} and {self.upper}"
        count = sum(b * (a + 1) for a, b in pairwise(self.widths))
        return f"functional dimension of {name} networks (relu): {value} of {count} parameters"

    def asked(self) -> list[tuple[str, str]]:
        return [("widths", "-".join(map(str, self.widths))), ("on", "all inputs")]

    def facts(self) -> list[tuple[str, str]]:
        value = f"= {self.lower}" if self.exact else f"{self.lower} <= . <= {self.upper}"
        rows = [("functional dimension", value), ("parameters less units", str(self.generic))]
        if self.upper < self.generic:
            lost = self.generic - self.upper
            rows.append(("lost", f"{lost}: runs of more than two layers of width 1"))
        return [*rows, ("shown by", self._shown())]

    def _shown(self) -> str:
        if self.proof.creases is not None:
            return f"a network of whole numbers, {len(self.proof.creases.units)} points on creases"
        assert self.proof.points is not None
        return f"a network of whole numbers, {len(self.proof.points)} cells"

    def data(self) -> dict[str, Any]:
        return {
            "widths": list(self.widths), "lower": self.lower, "upper": self.upper,
            "exact": self.exact, "generic": self.generic, "digest": self.network.digest,
        }  # fmt: skip


def dimension(
    widths: Sequence[int], budget: int, seed: int, progress: Progress | None = None
) -> ArchitectureDimension:
    """See `api.dimension`."""
    widths = accepted(widths)
    upper = most(widths)
    best: ArchitectureCertificate | None = None
    for net, creases in constructed(widths, budget, seed, progress):
        found = ArchitectureCertificate(net, creases.shown, None, creases)
        if net.parameters <= SMALL:
            found = _by_points(net, creases, np.random.default_rng(seed))
        if best is None or found.rank > best.rank:
            best = found
        if best.rank >= upper:
            break
    assert best is not None, "a network is tried whatever the budget"
    generic = sum(b * (a + 1) for a, b in pairwise(widths)) - sum(widths[1:-1])
    status = "proved" if best.rank == upper else "bounded"
    return ArchitectureDimension(status, widths, best.rank, upper, generic, best)


def _by_points(
    net: Network, creases: CreasePoints, rng: np.random.Generator
) -> ArchitectureCertificate:
    """A rank of the Jacobian over cells of whole points: close to creases, and anywhere."""
    from .functional_dimension import Exact, _jacobian

    near = np.concatenate([creases.starts, creases.ends, creases.samples])
    x = [np.rint(near)]
    for scale in (2, 16, 128):
        x.append(np.rint(near + scale * rng.standard_normal(near.shape)))
    x.append(rng.integers(-REACH, REACH + 1, (512, net.widths[0])).astype(np.float64))
    points = np.clip(np.concatenate(x), -REACH, REACH)
    signs = _exact_signs(net, points)
    smooth = (signs != 0).all(axis=1)
    first = np.unique(signs[smooth], axis=0, return_index=True)[1]
    points, signs = points[smooth][np.sort(first)], signs[smooth][np.sort(first)]
    found = Exploration(net, creases.box, points, signs)
    prime = modular.PRIMES[0]
    rows = np.concatenate([np.zeros((0, net.parameters)), *_jacobian(found, Exact(prime))])
    pivots = modular.pivots(rows, prime)[0]
    each = net.widths[-1] * found.start.shape[1]
    used = sorted({row // each for row in pivots})
    return ArchitectureCertificate(net, len(pivots), points[used])


def _exact_signs(net: Network, x: Array) -> Any:
    """Signs of hidden units at whole points: whole numbers, of any size where floats end."""
    found, h = [np.zeros((len(x), 0), dtype=np.int8)], x
    for layer in net.layers[:-1]:
        size = np.abs(h).max(initial=0.0) * np.abs(layer.weight).sum(axis=1).max(initial=0.0)
        weight, bias = layer.weight, layer.bias
        if not size + np.abs(bias).max(initial=0.0) < WHOLE:
            h, weight, bias = (_integers(part, "") if part.dtype != object else part for part in (h, weight, bias))  # fmt: skip
        z = h.dot(weight.T) + bias
        found.append(((z > 0).astype(np.int8) - (z < 0)).astype(np.int8))
        h = np.where(z > 0, z, 0)
    return np.concatenate(found, axis=1)


# Construction ---------------------------------------------------------------------------------------------------


def constructed(
    widths: tuple[int, ...],
    budget: int,
    seed: int,
    progress: Progress | None = None,
    *,
    pieces: bool = True,
) -> Iterator[tuple[Network, CreasePoints]]:
    """Networks of small whole weights, layer by layer: of several draws of a layer that one is kept
    behind which most is still seen of all layers so far, when all its units are outputs.

    Biases put the crease of a unit through a point of the region where the layers before are not
    silent. Forever, until a fiftieth of the budget of draws is spent. `pieces`: of the creases that come along.
    """
    rng, box = np.random.default_rng(seed), Box(-REACH, REACH).of_dimension(widths[0])
    draws = max(1, budget // DRAWN)
    spent = 0
    while True:
        layers: list[tuple[Array, Array]] = []
        for l, width in enumerate(widths[1:-1], 1):
            best, kept = -1, None
            tries = 1 if _plain(widths, l) else 12 if width < 16 else 2
            for _ in range(tries):
                layer = _layer(widths, l, layers, box, rng)
                spent += 1
                short = Network.mlp(
                    *(part for pair in (*layers, layer) for part in pair), np.eye(width),
                    np.zeros(width), activation="relu",
                )  # fmt: skip
                wanted = sum(a * b for a, b in pairwise(widths[: l + 1])) + width * (width + 1)
                shown = crease_points(short, box, 6 * short.units, int(rng.integers(2**31))).shown
                if shown > best:
                    best, kept = shown, layer
                if progress is not None:
                    progress(spent, draws, f"layer {l}: {best} of {wanted}")
                if shown == wanted or spent >= draws:
                    break
            assert kept is not None
            layers.append(kept)
        last = _weights(rng, widths[-1], widths[-2]), _weights(rng, widths[-1], 1)[:, 0]
        net = Network.mlp(*(part for pair in (*layers, last) for part in pair), activation="relu")
        count, new = 40 * max(1, net.units), int(rng.integers(2**31))
        yield net, crease_points(net, box, count, new, pieces=pieces)
        spent += 1
        if spent >= draws:
            return


def _plain(widths: Sequence[int], l: int) -> bool:
    """Whether layer l is in a run of layers of width 1, behind its first two: it can only hand on."""
    return l > 2 and all(width == 1 for width in widths[l - 2 : l + 1])


def _weights(rng: np.random.Generator, rows: int, columns: int) -> Array:
    sizes = rng.integers(1, HEAVY + 1, (rows, columns))
    return np.asarray((sizes * rng.choice([-1, 1], (rows, columns))).astype(np.float64))


def _layer(
    widths: Sequence[int], l: int, before: list[tuple[Array, Array]], box: Box,
    rng: np.random.Generator,
) -> tuple[Array, Array]:  # fmt: skip
    """Weights of a hidden layer, and biases that put each crease through a point of the region."""
    reads, width = widths[l - 1], widths[l]
    if _plain(widths, l):
        return np.ones((1, 1)), np.ones(1)
    h = rng.integers(-REACH, REACH + 1, (256, widths[0])).astype(np.float64)
    for weight, bias in before:
        h = np.maximum(h @ weight.T + bias, 0.0)
    weight = _weights(rng, width, reads)
    if l > 1 and widths[l - 1] == width == 1:
        weight = -np.abs(weight)  # a ramp that starts and ends
    # Each unit is on at about half of the values that it takes: many points share the ends of a ramp.
    # With few inputs the share may be further off.
    bias = np.empty(width)
    for unit, values in enumerate((h @ weight.T).T):
        taken = np.unique(values)
        spread = len(taken) * SPREAD / np.sqrt(widths[0])
        place = int(np.rint(len(taken) / 2 + spread * rng.uniform(-1, 1)))
        bias[unit] = 1.0 - taken[min(max(place, 0), len(taken) - 1)]
    return weight, bias
