"""One hidden layer of tanh, sigmoid or erf: which parameters have the function. All of it follows
from reducibility.

Irreducible parameters are the only ones of their width, up to permutations and signs [Sussmann
1992; sigmoid and erf as for `signature`]; reducible ones are not, and say which others there are.
The functions are analytic: equal on an open box, equal everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from moduli.compression.exact import reduce
from moduli.kernel.activations import Activation
from moduli.kernel.network import Network

from .equivalent_parameters import Equivalent, exact_layers
from .output_layer import Affine

Column = tuple[Fraction, ...]
Term = tuple[Column, Column]


def applies(net: Network) -> bool:
    """Whether the parameters of a network are decided here."""
    return len(net.layers) == 2 and net.activations[0].minimal and net.activations[0].symmetric


def other(net: Network) -> tuple[str, Equivalent | None]:
    """Why other parameters have the function, and such parameters where they are rational; ("",
    None) if there are none.

    Raises:
        Undecided: no unit was found redundant, and no proof that none is.

    >>> net = Network.mlp([[1.0], [-1.0]], [0.5, -0.5], [[1.0, 3.0]], [0.0], activation="tanh")
    >>> why, found = other(net)
    >>> why, [[str(q) for q in row] for row in found.layers[1][0]]
    ('units 1 and 0 are equal up to sign', [['2', '4']])
    """
    rank = reduce.rank(net)
    if rank.upper == net.units:
        int(rank)
        return "", None
    move, activation = rank.moves[0], net.activations[0]
    (w, b), (v, d) = exact_layers(net)
    u = int(move.units[0])
    if move.kind == "drop":
        why, row = f"unit {u} has no outgoing weight", w[u] or b
        row[0 if w[u] else u] += 1
    elif move.kind == "constant":
        why, value = f"unit {u} is constant", activation.exact(b[u])
        if value is None:
            return why, None
        v[0][u], d[0] = v[0][u] + 1, d[0] - value
    else:
        assert move.into is not None
        into, law = int(move.into[0]), activation.under(move.ratio)
        assert law is not None
        why = f"units {u} and {into} are equal up to sign"
        v[0][u], v[0][into], d[0] = v[0][u] + 1, v[0][into] - law[0], d[0] - law[2]
    return why, Equivalent(((w, b), (v, d)), why)


def same(net: Network, layers: Sequence[Affine]) -> bool:
    """Whether other parameters of these widths have the function: equal terms after equal units are
    summed.
    """
    zero, activation = (Fraction(0),) * (net.widths[0] + 1), net.activations[0]
    found = []
    for terms, bias in (_terms(exact_layers(net), activation), _terms(layers, activation)):
        total = _summed(terms)
        at_zero, column = (
            activation.exact(Fraction(0)) or Fraction(0),
            total.pop(zero, (Fraction(0),) * len(bias)),
        )
        found.append((total, [q + at_zero * v for q, v in zip(bias, column, strict=True)]))
    return found[0] == found[1]


def copies(net: Network, layers: Sequence[Affine]) -> bool:
    """Whether other parameters are the network's up to permutations and signs."""
    one, two = (_terms(x, net.activations[0]) for x in (exact_layers(net), layers))
    return (sorted(one[0]), one[1]) == (sorted(two[0]), two[1])


def _terms(layers: Sequence[Affine], activation: Activation) -> tuple[list[Term], Column]:
    """Rows (bias last) and columns of units, turned so that the first entry that is not zero is
    positive; the output bias.
    """
    law = activation.under(Fraction(-1))
    assert law is not None
    (weights, biases), (outgoing, last) = layers
    found, bias = list[Term](), list(last)
    for k, (row, b) in enumerate(zip(weights, biases, strict=True)):
        key, column = (*row, b), tuple(v[k] for v in outgoing)
        lead = next((q for q in (*key, *column) if q), Fraction(0))
        if lead < 0:
            key = tuple(-q for q in key)
            bias = [q + law[2] * v for q, v in zip(bias, column, strict=True)]
            column = tuple(law[0] * v for v in column)
        found.append((key, column))
    return found, tuple(bias)


def _summed(terms: list[Term]) -> dict[Column, Column]:
    total: dict[Column, Column] = {}
    for key, column in terms:
        total[key] = (
            tuple(p + q for p, q in zip(total[key], column, strict=True))
            if key in total
            else column
        )
    return {key: column for key, column in total.items() if any(column)}
