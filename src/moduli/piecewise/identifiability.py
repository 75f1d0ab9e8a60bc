"""Does a network's function determine its parameters? One verdict out of all that can be proved.

In order: affine maps, and networks with units that nothing reads or that are constant, are decided
(`idle_units`, any activation); one hidden layer is decided (globally, any number of inputs; of
tanh, sigmoid and erf by `smooth_shallow`). Otherwise the largest functional dimension there can be,
parameters less hidden units that can be scaled, proves that no other parameters close by have the
function, up to scaling (local); with two hidden layers an enumeration, and with more a chain of
traces, may prove it among all parameters in general position (generic). Another network with the
same function is looked for, mechanism by mechanism: only such a witness refutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from moduli.common.domains import ON_BOX, Domain
from moduli.common.result import Result
from moduli.kernel.box import Box
from moduli.kernel.errors import (
    ArgumentError,
    Asked,
    CertificateRejected,
    Undecided,
    UnsupportedModel,
)
from moduli.kernel.network import Network

from . import smooth_dimension, smooth_shallow
from .equivalent_parameters import (
    Equivalent,
    distinct,
    exact_layers,
    shallow_function,
    shallow_witness,
    witness,
)
from .functional_dimension import Dimension
from .generic_position import generic_identifiability, shallow_identifiability, trace_ranks
from .idle_units import idle
from .output_layer import Affine
from .polyhedral_complex import Pieces
from .rational_rows import written
from .recovery import same_function

EXACT = 400  # cells that are compared in rational arithmetic


@dataclass(frozen=True, eq=False, repr=False)
class Identifiability(Result):
    """Whether a network's function on a box determines its parameters, up to permutations and
    positive scaling (or signs).

    Attributes:
        status: "proved", "refuted" (by `other`) or "undecided". scope: among whom it is proved:
            "global" all parameters of these widths, "generic" those in general position, "local"
            those close by; "" otherwise. reason: one sentence.
        other: layers of another network with the same function, as rationals. mechanism: what makes
            it possible.
        dimension: the functional dimension, where it was asked.
    """

    network: Network
    on: Box | None
    scope: str = ""
    reason: str = ""
    other: tuple[Affine, ...] | None = None
    mechanism: str = ""
    dimension: Dimension | None = None
    kind: ClassVar[str] = "identify"

    @cached_property
    def witness(self) -> Network | None:
        """The other network, in the nearest floats (`other` has the rationals)."""
        if self.other is None:
            return None
        parts = (np.array(part, dtype=np.float64) for pair in self.other for part in pair)
        widths = self.network.widths
        shaped = [
            p.reshape(widths[k // 2 + 1], widths[k // 2]) if k % 2 == 0 else p
            for k, p in enumerate(parts)
        ]
        return Network.mlp(*shaped, activation=list(self.network.activations))

    def __bool__(self) -> bool:
        if self.status == "undecided":
            raise Undecided(f"{self.statement}: {self.reason}")
        return self.status == "proved"

    def check(self) -> bool:
        """Prove the verdict again, or compare the witness in rational arithmetic.

        Raises:
            CertificateRejected: naming what fails.
        """
        known = _at_once(self.network, self.on)
        if known is not None:
            if (known.status, known.scope, known.other) != (self.status, self.scope, self.other):
                raise CertificateRejected(
                    f"asked again the verdict is {known.status} {known.scope}, or its witness another"
                )
            return True
        if self.status == "refuted" and self.other is not None:
            if not _distinct(self.network, self.other):
                raise CertificateRejected("the witness is a symmetric copy")
            if not _same(self.network, self.on, self.other, self.dimension):
                raise CertificateRejected("the witness computes another function")
            return True
        if self.scope == "local" and self.dimension is not None:
            if not self.dimension.check() or self.dimension.lower < self.dimension.generic:
                raise CertificateRejected(
                    "the functional dimension is not proved to be the largest possible"
                )
            return True
        again = identifiable(self.network, self.on, self.dimension, 2_000)
        if (again.status, again.scope) != (self.status, self.scope):
            raise CertificateRejected(f"asked again the verdict is {again.status} {again.scope}")
        return True

    @property
    def statement(self) -> str:
        if self.status == "proved":
            among = {
                "global": "among all parameters",
                "generic": "among parameters in general position",
                "local": "among parameters close by",
            }[self.scope]
            return f"identifiable {among}"
        return "not identifiable" if self.status == "refuted" else "identifiability undecided"

    def asked(self) -> list[tuple[str, str]]:
        return [
            ("network", repr(self.network)),
            ("on", "all inputs" if self.on is None else repr(self.on)),
        ]

    def facts(self) -> list[tuple[str, str]]:
        also = [] if self.other is None else [("also", repr(self.witness))]
        return [("identifiable", self.statement), *self.reasons(also)]

    def reasons(self, also: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str]]:
        """Why that is the verdict, and the dimension that was counted for it."""
        return [
            ("because", self.reason),
            *also,
            *(self.dimension.facts() if self.dimension is not None else []),
        ]

    def data(self) -> dict[str, Any]:
        layers = written(self.other or ())
        return {
            "scope": self.scope or None, "reason": self.reason,
            "mechanism": self.mechanism or None, "witness": layers or None,
            "dimension": self.dimension.data() if self.dimension is not None else None,
            "digest": self.network.digest,
        }  # fmt: skip


def _distinct(net: Network, other: tuple[Affine, ...]) -> bool:
    return (
        not smooth_shallow.copies(net, other)
        if smooth_shallow.applies(net)
        else distinct(exact_layers(net), other)
    )


def _same(
    net: Network, box: Box | None, other: tuple[Affine, ...], dimension: Dimension | None
) -> bool:
    if smooth_shallow.applies(net):
        return smooth_shallow.same(net, other)
    assert box is not None
    if len(net.layers) == 2:
        whole = box.of_dimension(net.widths[0])
        return shallow_function(exact_layers(net), whole) == shallow_function(other, whole)
    return (
        dimension is not None
        and isinstance(dimension.cells, Pieces)
        and same_function(dimension.cells, other)
    )


def identifiable(
    net: Network, on: Domain, dimension: Dimension | None, budget: int
) -> Identifiability:
    """See `api.identifiable`; `dimension` of networks that `without_dimension` does not decide is
    needed.
    """
    answer = without_dimension(net, on)
    if answer is not None:
        return answer
    assert isinstance(on, Box)
    assert dimension is not None
    relu = _relu(net)
    cells = dimension.cells
    small = relu and isinstance(cells, Pieces) and cells.slice is None and cells.cells <= EXACT
    if dimension.lower < dimension.generic:
        found = witness(cells, budget) if small else None
        if found is not None:
            return _refuted(net, on, found, dimension)
        sure = f"{dimension.generic - dimension.upper} directions change nothing to first order"
        why = (
            sure
            if dimension.upper < dimension.generic
            else "not all directions were seen to change the function"
        )
        return Identifiability(
            "undecided", net, on, "", f"{why}; no other network was found", dimension=dimension
        )
    if small:
        found = witness(cells, budget, turned=True)
        if found is not None:
            return _refuted(net, on, found, dimension)
        verdict = generic_identifiability(cells, budget)
        if verdict.value:
            return Identifiability(
                "proved", net, on, "generic", verdict.reason, dimension=dimension
            )
        if verdict.other is not None:
            return _refuted(
                net, on, Equivalent(verdict.other, "other creases for the same units"), dimension
            )
    most = "parameters less hidden units"
    if smooth_dimension.applies(net):
        scaled = dimension.generic < net.parameters
        most = "parameters less units that can be scaled" if scaled else "all parameters"
    why = f"functional dimension {dimension.lower}, {most}"
    if small and trace_ranks(cells) == [
        n for l, n in enumerate(net.widths[:-2]) for _ in range(net.widths[l + 1])
    ]:
        why = f"every unit is fixed by where it bends the function; {why}"
    return Identifiability("proved", net, on, "local", why, dimension=dimension)


def without_dimension(net: Network, on: Domain) -> Identifiability | None:
    """The verdict where no functional dimension is needed: affine maps, idle units, one hidden
    layer of several activations.

    Raises:
        UnsupportedModel: an activation about which nothing is known here. ValueError: no box where
            one is needed.
    """
    if on is None or isinstance(on, Box):
        answer = _at_once(net, on)
        if answer is not None:
            return answer
        if smooth_shallow.applies(net):
            return _analytic(net, on)
    if not isinstance(on, Box):
        raise ArgumentError(Asked("on", on), ": identifiability is asked in a box; give ", ON_BOX)
    if smooth_dimension.applies(net):
        return None
    if not all(act.piecewise_linear for act in net.activations):
        raise UnsupportedModel(
            f"{net}: identifiability is decided for piecewise linear activations, tanh, sigmoid and softplus, and one hidden "
            "layer of erf"
        )
    return _shallow(net, on) if len(net.layers) == 2 and _relu(net) else None


def _relu(net: Network) -> bool:
    return all(str(act) == "relu" for act in net.activations)


def _at_once(net: Network, on: Box | None) -> Identifiability | None:
    """Affine maps, networks without hidden units, idle units; ReLU and `smooth_shallow` have
    mechanisms of their own.
    """
    if len(net.layers) == 1:
        return _affine(net, on)
    if not net.units:
        return Identifiability(
            "proved", net, on, "global", "a constant, and its output biases are all the parameters"
        )
    if 0 not in net.widths and (_relu(net) or smooth_shallow.applies(net)):
        return None
    found = idle(net)
    if found is None:
        return None
    why, other = found
    layers = None if other is None else other.layers
    return Identifiability(
        "refuted", net, on, "", f"{why}: others have the same function", layers, why
    )


def _affine(net: Network, on: Box | None) -> Identifiability:
    """The weights of an affine map are its slopes, which all show unless the box is flat."""
    if on is not None:
        box = on.of_dimension(net.widths[0])
        flat = np.flatnonzero(box.low >= box.high)
        if len(flat):
            at, (weights, biases) = int(flat[0]), exact_layers(net)[0]
            weights[0][at], biases[0] = weights[0][at] + 1, biases[0] - Fraction(float(box.low[at]))
            why = f"the box is flat along input {at}"
            return Identifiability(
                "refuted", net, on, "", f"{why}: others agree on it", ((weights, biases),), why
            )
    return Identifiability(
        "proved", net, on, "global", "an affine map determines its weights and biases"
    )


def _analytic(net: Network, on: Box | None) -> Identifiability:
    if on is not None and (on.of_dimension(net.widths[0]).low >= on.high).any():
        return Identifiability("undecided", net, on, "", "the box is flat")
    try:
        why, found = smooth_shallow.other(net)
    except Undecided as error:
        return Identifiability("undecided", net, on, "", str(error))
    if not why:
        sure = (
            f"irreducible, hence unique up to permutations and signs ({net.activations[0].source})"
        )
        return Identifiability("proved", net, on, "global", sure)
    layers = None if found is None else found.layers
    return Identifiability(
        "refuted", net, on, "", f"{why}: others have the same function", layers, why
    )


def _shallow(net: Network, on: Box) -> Identifiability:
    verdict = shallow_identifiability(net, on)
    if verdict.value:
        return Identifiability("proved", net, on, "global", verdict.reason)
    found = shallow_witness(net, on) if verdict.value is False else None
    if found is not None:
        return Identifiability(
            "refuted", net, on, "", verdict.reason, found.layers, found.mechanism
        )
    return Identifiability("undecided", net, on, "", verdict.reason)


def _refuted(net: Network, on: Box, found: Equivalent, dimension: Dimension) -> Identifiability:
    why = f"another network, no symmetric copy, has the same function: {found.mechanism}"
    return Identifiability("refuted", net, on, "", why, found.layers, found.mechanism, dimension)
