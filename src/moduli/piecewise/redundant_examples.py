"""ReLU networks with the fewest units their function allows, which the function does not determine all
the same: for tests of claims about minimal networks, and counterexamples.

With one hidden layer (Dereich and Kassing 2022 have the three cases: n, n + 1 or n + 2 units for n bending
hyperplanes) all minimal networks are counted, see `fewest_units`.

With two hidden layers the fewest units of any depth are meant: along a line the function bends more
often than networks with one unit less can (`breaks_on_lines`). The dimension of the set of parameters
with the function, at the network, is between two bounds that meet. From above: let d parameters and
functional dimension F at least; F outputs at points have independent derivatives, so close by the set
lies in a manifold of dimension d - F. From below: scales of units, and a where there is one:

- *A clip.* 1 - relu(1 - relu(t)) = relu(1 - relu(1 - t)).
- *Turned behind another layer.* With g an affine function of the first layer's features, relu(g - 3) -
  relu(g - 5) = 2 + relu(3 - g) - relu(5 - g), as relu(z) = z + relu(-z).
- *A weight that is never used.* h = relu(t), k = relu(-t - 1): relu(h - a k - 1) + relu(2 - h - k) is the same
  function for every a >= 0, as h = 0 wherever k > 0, and then the first unit is off.

Of more inputs t is their sum: the function along one axis is that of one input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from moduli.common.result import Result
from moduli.kernel.box import Box
from moduli.kernel.creases import creased
from moduli.kernel.errors import ArgumentError, Asked, CertificateRejected
from moduli.kernel.network import Network
from moduli.kernel.state import State

from .breaks_on_lines import fewest_hidden_units
from .equivalent_parameters import distinct, exact_layers
from .fewest_units import MinimalNetworks, minimal_networks
from .functional_dimension import Dimension, dimension, with_many_inputs
from .polyhedral_complex import MOST, Pieces, pieces
from .recovery import same_function

SHALLOW, DEEP = "with one hidden layer", "with any number of hidden layers"
REACH = 8.0  # the box of the deeper examples is [-8, 8]^n: their bends are inside
CELLS = 1_000
POINTS = 10_000  # with more than three inputs, at which bends are looked for


@dataclass(frozen=True, eq=False, repr=False)
class MinimalExample(Result):
    """A network with the fewest units, and another one with its function that is no copy of it.

    Attributes:
        name: what makes it redundant. network, other: of the same widths and the same function, on
            all inputs or on the box `on`; no permutation and positive scaling makes one the other.
        among: which networks have no fewer hidden units. minimal: all minimal networks, counted, with
            one hidden layer; None for more. dimension: of the set of parameters with the function, at
            its largest with one hidden layer, else at the network.
    """

    name: str
    network: Network
    other: Network
    on: Box | None
    among: str
    minimal: MinimalNetworks | None
    dimension: int
    kind: ClassVar[str] = "minimal_example"

    @property
    def units(self) -> int:
        """The fewest."""
        return self.network.units

    @property
    def components(self) -> int | None:
        """Of the set of all minimal networks; None where it is not known."""
        return None if self.minimal is None else self.minimal.components

    def check(self) -> bool:
        """Prove all of it again: fewest units, dimension, one function, no copy.

        Raises:
            CertificateRejected: naming what fails.
        """
        if self.network.widths != self.other.widths or not distinct(
            exact_layers(self.network), exact_layers(self.other)
        ):
            raise CertificateRejected("the other network is a symmetric copy, or has other widths")
        if self.among != (DEEP if self.minimal is None else SHALLOW):
            raise CertificateRejected(f"the fewest {self.among} is not what is proved")
        if self.minimal is not None:
            self._check_shallow(self.minimal)
        else:
            self._check_deep()
        return True

    def _check_shallow(self, minimal: MinimalNetworks) -> None:
        minimal.check()
        if minimal.network != self.network or self.on is not None:
            raise CertificateRejected("the count is that of another network, or domain")
        if (minimal.units, minimal.dimension) != (self.units, self.dimension):
            raise CertificateRejected("units or dimension are not those that were counted")
        if creased(State(self.network)) != creased(State(self.other)):
            raise CertificateRejected("the other network is another function")

    def _check_deep(self) -> None:
        if self.on is None or self.on.to_json() != Box(-REACH, REACH).to_json():
            raise CertificateRejected(f"one function is proved on [-{REACH:g}, {REACH:g}]^n alone")
        own, other = _along_sum(self.network), _along_sum(self.other)
        line = _line(own, self.network.widths[0])
        if not line.check() or not same_function(line, exact_layers(other)):
            raise CertificateRejected("the other network is another function")
        needed = fewest_hidden_units(_breaks(line))
        if needed < self.units:
            raise CertificateRejected(f"only {needed} hidden units are proved to be needed")
        found = _functional_dimension(self.network, self.on)
        if not found.check() or self.network.parameters - found.lower > self.dimension:
            raise CertificateRejected("the dimension may be larger")
        if self.dimension > self.units + _never_used(self.network, self.other):
            raise CertificateRejected("the dimension may be smaller")

    @property
    def statement(self) -> str:
        return f"{self.name}: {self.units} units are the fewest, {self.among}, and others have them too"

    def asked(self) -> list[tuple[str, str]]:
        on = "all inputs" if self.on is None else repr(self.on)
        return [("network", repr(self.network)), ("on", on)]

    def facts(self) -> list[tuple[str, str]]:
        known = "not known" if self.components is None else str(self.components)
        return [
            ("redundant by", self.name),
            ("fewest units", f"{self.units}, {self.among}"),
            ("same function", f"{self.dimension} dimensions, {self.units} of them scales of units"),
            ("components", known),
        ]

    def data(self) -> dict[str, Any]:
        return {
            "name": self.name, "units": self.units, "among": self.among,
            "dimension": self.dimension, "components": self.components,
            "on": None if self.on is None else self.on.to_json(), "digest": self.network.digest,
        }  # fmt: skip


def minimal_examples(inputs: int = 2, bends: int = 3) -> tuple[MinimalExample, ...]:
    """ReLU networks with the fewest units their function allows, and others with the same function.

    With one hidden layer: functions that bend on `bends` hyperplanes and need as many units, one more, or
    (with two inputs or more) two more, with all networks of so few units counted: dimension and number
    of components of the set of their parameters. With two hidden layers: functions that need all units
    at any depth. Fewest units of one layer are as Dereich and Kassing 2022 say; dimensions, components
    and the deeper examples are derived in `moduli.piecewise.redundant_examples`.

    Args:
        inputs: 1 to 64. bends: hyperplanes of the first kind, 2 to 10.

    Returns:
        each with `.name`, `.network`, `.other`, `.units`, `.among`, `.dimension`, `.components`, `.on` and
        `.check()`.

    Raises:
        ArgumentError: other numbers.

    >>> for example in minimal_examples(inputs=2, bends=2):
    ...     print(example.name, example.network.widths, example.dimension, example.components)
    units turned together (2, 2, 1) 2 4
    a hyperplane of two units (2, 3, 1) 3 24
    two hyperplanes of two units, or a pair anywhere (2, 4, 1) 5 120
    a pair of units anywhere (2, 4, 1) 5 96
    a clip (2, 1, 1, 1) 2 None
    units turned together behind another layer (2, 2, 2, 1) 4 None
    a weight that is never used (2, 2, 2, 1) 5 None
    """
    _accept("inputs", inputs, 1, 64)
    _accept("bends", bends, 2, 10)
    return (*_shallow(int(inputs), int(bends)), *_deep(int(inputs)))


def _accept(name: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, (int, np.integer)) or not least <= value <= most:
        raise ArgumentError(Asked(name, value), f": a whole number from {least} to {most}")


# One hidden layer ---------------------------------------------------------------------------------------


def _shallow(inputs: int, bends: int) -> list[MinimalExample]:
    every, one = np.ones(inputs), np.eye(1, inputs)[0]
    steps = [(every, -float(k), 1.0) for k in range(bends)]
    # v_0 w_0 + v_1 w_1 = 0: both can be turned
    turned = [steps[0], (every, -1.0, -1.0), *steps[2:]]
    # the strengths 1 and 1/4 of one hyperplane leave a slope that no sides of all others do
    shared = [*steps, (-every, 0.0, 0.25)]
    found = [("units turned together", turned), ("a hyperplane of two units", shared)]
    if inputs > 1:
        # the slope is in the span of two rows; it is in the first one's for no sides of the others
        both = every + one
        across = [*steps[:-1], (one, 0.0, 1.0), (both, 0.0, 0.25), (-both, 0.0, -0.25)]
        found.append(("two hyperplanes of two units, or a pair anywhere", across))
        # all rows are parallel, and the slope is not
        apart = [*steps, (one, 0.0, 1.0), (-one, 0.0, -1.0)]
        found.append(("a pair of units anywhere", apart))
    return [_example(name, units) for name, units in found]


def _example(name: str, units: list[tuple[Any, float, float]]) -> MinimalExample:
    rows, biases, outgoing = (np.array(part) for part in zip(*units, strict=True))
    net = Network.mlp(rows, biases, outgoing[None], [0.0], activation="relu")
    minimal = minimal_networks(net)
    assert minimal.units == net.units
    own = exact_layers(net)
    other = next(x for x in minimal.networks() if distinct(own, exact_layers(x)))
    return MinimalExample("proved", name, net, other, None, SHALLOW, minimal, minimal.dimension)


# Two hidden layers --------------------------------------------------------------------------------------


def _deep(inputs: int) -> list[MinimalExample]:
    clip = [[1.0]], [0.0], [[-1.0]], [1.0], [[-1.0]], [1.0]
    clip_too = [[-1.0]], [1.0], [[-1.0]], [1.0], [[1.0]], [0.0]
    valley = [[1.0], [-1.0]], [1.0, 1.0]
    turned = *valley, [[2.0, 1.0], [2.0, 1.0]], [-3.0, -5.0], [[1.0, -1.0]], [0.0]
    turned_too = *valley, [[-2.0, -1.0], [-2.0, -1.0]], [3.0, 5.0], [[1.0, -1.0]], [2.0]
    apart = [[1.0], [-1.0]], [0.0, -1.0]
    unused, unused_too = (
        (*apart, [[1.0, -a], [-1.0, -1.0]], [-1.0, 2.0], [[1.0, 1.0]], [0.0]) for a in (1.0, 2.0)
    )
    found = [
        ("a clip", clip, clip_too, 0),
        ("units turned together behind another layer", turned, turned_too, 0),
        ("a weight that is never used", unused, unused_too, 1),
    ]
    return [
        _deep_example(name, _of_sum(one, inputs), _of_sum(two, inputs), free)
        for name, one, two, free in found
    ]


def _deep_example(name: str, net: Network, other: Network, free: int) -> MinimalExample:
    box = Box(-REACH, REACH)
    return MinimalExample("proved", name, net, other, box, DEEP, None, net.units + free)


def _of_sum(layers: Sequence[Any], inputs: int) -> Network:
    """The network of one input, of the sum of several."""
    first, *rest = (np.array(part) for part in layers)
    return Network.mlp(np.repeat(first, inputs, axis=1), *rest, activation="relu")


def _along_sum(net: Network) -> Network:
    """Back again."""
    first, *rest = net.layers
    if (first.weight != first.weight[:, :1]).any():
        raise CertificateRejected(f"{net} is no function of the sum of its inputs")
    parts = (part for layer in rest for part in (layer.weight, layer.bias))
    return Network.mlp(first.weight[:, :1], first.bias, *parts, activation="relu")


def _line(net: Network, inputs: int) -> Pieces:
    """Pieces of a network of one input where the sum of so many is, each up to REACH."""
    return pieces(net, Box(-REACH * inputs, REACH * inputs), None, CELLS, None)


def _breaks(line: Pieces) -> int:
    """Points at which the slope jumps."""
    ends = sorted((min(cell.points), cell.maps) for cell in line.complex)
    return sum(one[1] != two[1] for one, two in pairwise(ends))


def _functional_dimension(net: Network, box: Box) -> Dimension:
    if net.widths[0] > MOST:
        return with_many_inputs(net, box, POINTS, 0, None)
    return dimension(pieces(net, box, None, CELLS, None), 0)


def _never_used(net: Network, other: Network) -> bool:
    """Whether the networks differ in one weight -a < 0 of the second layer alone, from a unit that is on
    only where all others of its layer are off, to a unit that is off then whatever a >= 0 is.

    So all networks between them have their function, and a is a dimension beside the scales.
    """
    own, its = exact_layers(net), exact_layers(other)
    (weights, biases), (rows, shifts) = own[0], own[1]
    places = [
        (i, j) for i, row in enumerate(rows) for j, w in enumerate(row) if w != its[1][0][i][j]
    ]
    if len(places) != 1 or own[0] != its[0] or own[2:] != its[2:] or shifts != its[1][1]:
        return False
    i, j = places[0]
    if max(rows[i][j], its[1][0][i][j]) > 0 or shifts[i] > 0:
        return False
    # relu(v t + b), v < 0, is on for t < -b / v; others w t + c are off there if w >= 0 and w (-b / v) + c <= 0
    v = weights[j][0]
    if v >= 0:
        return False
    end = -biases[j] / v
    others = [(row[0], c) for k, (row, c) in enumerate(zip(weights, biases, strict=True)) if k != j]
    return all(w >= Fraction(0) and w * end + c <= 0 for w, c in others)
