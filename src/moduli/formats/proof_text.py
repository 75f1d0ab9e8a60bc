"""Certificates of chains as text for the checker in `verified/`, whose soundness is a
theorem in Rocq.

The text holds both networks in exact numbers, and *links*: the layers that moves have changed, as
they are afterwards. Whoever reads it recomputes that both versions of a layer add the same to the
layer behind; why they do is no part of the text. `verified/README.md` describes the format.

Nothing here has to be trusted beside one thing: that the networks and the claim in the text are those
that were given. A link that is wrong is rejected there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from itertools import groupby
from typing import Any

import numpy as np

from moduli.kernel.activations import Activation
from moduli.kernel.bounds.box_claim import Region
from moduli.kernel.bounds.input_splits import middle
from moduli.kernel.certificate import Certificate, proved
from moduli.kernel.creases import whole
from moduli.kernel.errors import Undecided
from moduli.kernel.exact_numbers import Constant, ExactArray, Number
from moduli.kernel.move import Move
from moduli.kernel.network import IDENTITY, Network
from moduli.kernel.rules import apply
from moduli.kernel.slack import NO_SLACK
from moduli.kernel.state import State

Array = np.ndarray[Any, np.dtype[np.float64]]
Whole = tuple[Any, int]  # integers and the denominator of all of them
Rows = tuple[Whole, Whole]  # weights and biases of a layer
HEADER = "moduli-proof 1"
FINE = (
    2**170
)  # values of tanh are rounded to multiples of its inverse: finer than the checker's bounds
ENCLOSED = ("tanh", "sigmoid")  # the checker bounds values of these alone
REFUSED = {
    "near": "a radius of parameters",
    "apart": "a difference by parts of a box",
    "changed": "changed parameters",
}
UNDERSTOOD = "the verified checker understands links of layers, and signs by intervals"


@dataclass(frozen=True)
class ProofText:
    """A certificate as text for the verified checker.

    Attributes:
        text: what the file holds, ASCII.
        certificate, small, large: what it is about.
        links: how many layers are changed in either network, the large one first.
        fewest: whether the text claims that no network of one hidden layer of tanh or of sigmoids that
            is the function of the large one has fewer units than the small one.
    """

    text: bytes
    certificate: Certificate
    small: Network
    large: Network
    links: tuple[int, int]
    fewest: bool


def proof_text(certificate: Certificate, small: Network, large: Network) -> ProofText:
    """The certificate of two chains as text for the verified checker; it is checked here first.

    What comes back claims the slack, and that units are fewest where the certificate does so of one
    hidden layer of tanh or of sigmoids on all inputs.

    Raises:
        CertificateRejected: the kernel rejects it.
        Undecided: it claims what the verified checker does not understand, named in the message.

    >>> import moduli as mo
    >>> net = mo.Network.mlp([[1.0], [2.0]], [0.0, 0.0], [[1.0, 2.0]], [0.0], activation="relu")
    >>> found = mo.compress(net)
    >>> exported = proof_text(found.certificate, found.network, net)
    >>> exported.text.decode().splitlines()[0], exported.links
    ('moduli-proof 1', (1, 0))
    """
    claim, small, large = proved(certificate, small, large)
    _require_understood(claim)
    numbers = _Numbers()
    large_links, small_links = _links(claim, small, large, numbers)
    if numbers.rounded and claim.slack == NO_SLACK:
        raise Undecided(
            "a slack of 0 is claimed beside values of tanh that are no rationals, in a network of "
            "several hidden layers; the verified checker rounds these values"
        )
    fewest = _fewest(claim, small, large, numbers)
    text = _text(claim, fewest, small, large, large_links, small_links)
    return ProofText(text, claim, small, large, (len(large_links), len(small_links)), fewest)


def _require_understood(claim: Certificate) -> None:
    for name, what in REFUSED.items():
        if getattr(claim, name) is not None:
            raise Undecided(f"the certificate is about {what}; {UNDERSTOOD}")
    if claim.region is not None and claim.region.cases:
        raise Undecided(f"signs are proved by cases and multipliers; {UNDERSTOOD}")


def _fewest(claim: Certificate, small: Network, large: Network, numbers: _Numbers) -> bool:
    """Whether the verified checker understands why units are fewest.

    Links with rounded values leave a constant behind, which it allows where they end at the outputs.
    """
    if not claim.minimal or claim.region is not None or len(small.layers) != 2:
        return False
    exact = len(large.layers) == 2 or not numbers.rounded
    return exact and small.activations[0].kind in ENCLOSED


# Links ----------------------------------------------------------------------------------------------------------


def _links(
    claim: Certificate, small: Network, large: Network, numbers: _Numbers
) -> tuple[list[list[str]], list[list[str]]]:
    """The lines of each link, of the large network and of the small one."""
    if len(small.layers) == len(large.layers) == 2 and (claim.creases or claim.slack == NO_SLACK):
        # Exactly one function: the layers of the small network stand for those of the large one.
        if small == large:
            return [], []
        (weights, ends), _ = _given(small)
        return [_replace(1, small.activations[0], weights, ends)], []
    left, large_links = _followed(large, claim.large_moves, numbers, claim.region)
    right, small_links = _followed(small, claim.small_moves, numbers)
    if claim.creases:
        _meet(left, right, large_links, small_links, numbers)
    return large_links, small_links


def _meet(
    left: State,
    right: State,
    large_links: list[list[str]],
    small_links: list[list[str]],
    numbers: _Numbers,
) -> None:
    """A link between two functions of at most one hidden layer whose creases are equal."""
    depths = len(left.activations), len(right.activations)
    if depths == (1, 1):
        large_links.append(_replace(1, right.activations[0], *_rows(right, (1, 2), numbers)))
    elif depths == (1, 0):
        large_links.append(_skip(1, *_rows(right, (1,), numbers)))
    elif depths == (0, 1):
        small_links.append(_skip(1, *_rows(left, (1,), numbers)))
    elif depths != (0, 0):
        raise Undecided(
            f"equal creases are claimed of networks with {depths[0]} and {depths[1]} hidden layers; the "
            "verified checker compares layers, one with one"
        )


def _followed(
    net: Network, moves: Iterable[Move], numbers: _Numbers, region: Region | None = None
) -> tuple[State, list[list[str]]]:
    """The network after all moves, and a link for each run of moves in one layer."""
    state, links = State(net, region=region), list[list[str]]()
    for (layer, skipped), run in groupby(moves, lambda m: (m.layer, m.kind == "skip")):
        for move in run:
            apply(state, move)
            if skipped:  # the layers behind have one number less from here on
                links.append(_skip(layer, *_rows(state, (layer,), numbers)))
        if not skipped:
            activation = state.activations[layer - 1]
            links.append(_replace(layer, activation, *_rows(state, (layer, layer + 1), numbers)))
    return state, links


def _replace(layer: int, activation: Activation, units: Rows, behind: Rows) -> list[str]:
    return [f"replace {layer - 1}", *_layer(activation, units), *_row_lines(behind)]


def _skip(layer: int, behind: Rows) -> list[str]:
    return [f"skip {layer - 1}", *_row_lines(behind)]


# Numbers --------------------------------------------------------------------------------------------------------


class _Numbers:
    """Exact numbers as rationals: each value of tanh or the sigmoid in them by one near it, the same
    everywhere, so that what is equal or proportional stays so.
    """

    def __init__(self) -> None:
        self.rounded = False
        self._values = dict[tuple[Activation, Fraction], Fraction]()

    def rational(self, number: Number) -> Fraction:
        if isinstance(number, Fraction):
            return number
        return self._constant(number)

    def _constant(self, number: Constant) -> Fraction:
        found = number.rational
        for atom, coefficient in number.atoms:
            found += coefficient * self._value(atom.activation, self.rational(atom.argument))
        return found

    def _value(self, activation: Activation, z: Fraction) -> Fraction:
        if activation.kind not in ENCLOSED:
            raise Undecided(
                f"a bias holds {activation}({float(z):g}); the verified checker bounds values of "
                f"{' and '.join(ENCLOSED)} alone"
            )
        self.rounded = True
        key = activation, z
        if key not in self._values:
            self._values[key] = _near(activation.kind, z)
        return self._values[key]

    def whole(self, x: ExactArray) -> Whole:
        """Integers over a common denominator."""
        plain = ExactArray(x.hi, x.lo, dict(x.rest))
        for at, number in x.rest.items():
            if isinstance(number, Constant):
                plain.rest[at] = self.rational(number)
        found = whole(plain)
        assert found is not None, "constants have become rationals"
        return found


def _rows(state: State, layers: tuple[int, ...], numbers: _Numbers) -> tuple[Rows, ...]:
    """What remains of some layers."""
    found = []
    for l in layers:
        weight = state.weights[l - 1].take(state.alive[l], state.alive[l - 1])
        bias = state.biases[l - 1].take(state.alive[l])
        found.append((numbers.whole(weight), numbers.whole(bias)))
    return tuple(found)


def _given(net: Network) -> tuple[list[Rows], list[Activation]]:
    """A network as it is stored."""
    numbers = _Numbers()
    rows = [
        (numbers.whole(ExactArray(layer.weight)), numbers.whole(ExactArray(layer.bias)))
        for layer in net.layers
    ]
    return rows, [*net.activations, IDENTITY]


def _near(kind: str, z: Fraction) -> Fraction:
    """tanh(z) or sigmoid(z) to about 70 digits; the checker decides how near it is."""
    with localcontext(Context(prec=110, Emax=10**9, Emin=-(10**9))):
        x = Decimal(z.numerator) / Decimal(z.denominator) * (2 if kind == "tanh" else 1)
        e = max(-abs(x), Decimal(-1000)).exp()
        half = 1 / (1 + e) if x > 0 else e / (1 + e)
        near = Fraction(2 * half - 1 if kind == "tanh" else half)
    return Fraction(round(near * FINE), FINE)


# Text -----------------------------------------------------------------------------------------------------------


def _text(
    claim: Certificate,
    fewest: bool,
    small: Network,
    large: Network,
    large_links: list[list[str]],
    small_links: list[list[str]],
) -> bytes:
    lines = [
        HEADER,
        f"output-map {small.output_map}",
        f"inputs {small.widths[0]}",
        *_domain(claim.region),
        f"constant {_rational(claim.slack.constant)}",
        f"growth {_rational(claim.slack.growth)}",
        *(["fewest"] if fewest else []),
    ]
    for name, net in (("large", large), ("small", small)):
        lines.append(f"{name} {len(net.layers)}")
        for rows, activation in zip(*_given(net), strict=True):
            lines += _layer(activation, rows)
    for name, links in (("large", large_links), ("small", small_links)):
        lines.append(f"{name}-links {len(links)}")
        for link in links:
            lines += link
    return ("\n".join([*lines, "end"]) + "\n").encode("ascii")


def _domain(region: Region | None) -> Iterator[str]:
    """The box, and its parts in preorder: each is checked alone."""
    if region is None:
        yield from ("domain 0", "cuts whole")
        return
    yield f"domain {len(region.low)}"
    for ends in zip(region.low, region.high, strict=True):
        yield " ".join(map(_rational, ends))
    yield "cuts"
    boxes: list[tuple[Array, Array]] = [(np.array(region.low), np.array(region.high))]
    for node in region.tree:
        low, high = boxes.pop()
        if node < 0:
            yield "whole"
            continue
        cut = middle(low, high)[node]
        yield f"halves {node} {_rational(float(cut))}"
        below, above = high.copy(), low.copy()
        below[node] = above[node] = cut
        boxes += [(above, high), (low, below)]


def _layer(activation: Activation, rows: Rows) -> Iterator[str]:
    yield f"layer {activation}"
    yield from _row_lines(rows)


def _row_lines(rows: Rows) -> Iterator[str]:
    (weights, below), (biases, below_biases) = rows
    height, width = weights.shape
    yield f"rows {height} {width} {below:x} {below_biases:x}"
    for row, bias in zip(weights.tolist(), biases.tolist(), strict=True):
        yield " ".join(f"{q:x}" for q in (bias, *row))


def _rational(x: float | Fraction) -> str:
    numerator, denominator = Fraction(x).as_integer_ratio()
    return f"{numerator:x} {denominator:x}"
