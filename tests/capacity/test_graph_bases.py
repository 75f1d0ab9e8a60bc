"""Bases that are no parameters: heads and bottlenecks in a held basis, counts, and covers of the smallest classes."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import moduli as mo
from moduli.capacity.graph_covering import GraphClass


class Heads(nn.Module):
    """Attention with heads, biases, and a residual sum."""

    def __init__(self, width=4, heads=2, *, bias=True):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=bias) for _ in range(4))
        self.heads = heads

    def forward(self, x):
        def split(t):
            return t.reshape(*t.shape[:-1], self.heads, -1).transpose(-2, -3)

        p = torch.softmax(split(self.q(x)) @ split(self.k(x)).transpose(-1, -2), -1)
        return x + self.o((p @ split(self.v(x))).transpose(-2, -3).reshape(x.shape))


def bottleneck(inputs=2, inside=1, outputs=2):
    return nn.Sequential(
        nn.Conv1d(inputs, inside, 1, bias=False), nn.Conv1d(inside, outputs, 1, bias=False)
    )


def class_of(module, shape, **given) -> GraphClass:
    return mo.complexity(mo.load(module, input_shape=shape), **given).cls


@pytest.mark.parametrize(("width", "heads", "bias"), [(4, 2, True), (4, 1, False), (6, 2, True)])
def test_every_head_has_two_bases(width, heads, bias):
    size = width // heads
    cls = class_of(Heads(width, heads, bias=bias), (3, width))
    assert [basis.units for basis in cls.bases] == [size] * (2 * heads)
    names = {frozenset([*basis.held, *basis.grown]) for basis in cls.bases}
    ends = ("weight", "bias") if bias else ("weight",)
    scores = frozenset(f"{name}.{end}" for name in "qk" for end in ends)
    values = frozenset(["o.weight", *(f"v.{end}" for end in ends)])
    assert names == {scores, values}
    # the dimension of matrices of rank d_k, twice for each head
    found = mo.complexity(mo.load(Heads(width, heads, bias=bias), input_shape=(3, width)))
    assert found.exponent == cls.parameters - 2 * heads * size**2
    columns = width + bias
    of_scores = [basis for basis in cls.bases if "q.weight" in (*basis.held, *basis.grown)]
    for basis in of_scores:
        free = sum(basis.free(name) for name in scores)
        assert free == size * (2 * columns - size)


@pytest.mark.parametrize("seed", range(20))
def test_the_held_basis_of_a_head_is_within_the_bounds(seed):
    """Theorem G, for weights of the class: the columns with the largest determinant, tried one by one."""
    rng = np.random.default_rng(seed)
    r, p, q = 2, 5, 4
    bounds = rng.uniform(0.1, 3, p)
    u, v = rng.uniform(-1, 1, (r, p)) * bounds, rng.uniform(-1, 1, (r, q))
    columns = max(
        itertools.combinations(range(p), r),
        key=lambda c: abs(np.linalg.det((u / bounds)[:, c])),
    )
    a = (u / bounds)[:, columns]
    held, grown = np.linalg.solve(a, u), a.T @ v
    assert np.allclose(held[:, columns] / bounds[list(columns)], np.eye(r))
    assert (np.abs(held) <= bounds * (1 + 1e-12)).all()
    assert np.abs(grown).max() <= r * np.abs(v).max() * (1 + 1e-12)
    x, y = rng.normal(size=(2, 7, p)), rng.normal(size=(2, 7, q))
    assert np.allclose((x @ u.T * (y @ v.T)).sum(-1), (x @ held.T * (y @ grown.T)).sum(-1))


def test_the_slope_is_the_exponent():
    """Log covering numbers against log 1/accuracy, far down: fewer parameters than without symmetries."""
    module, shape = Heads(4, 2, bias=True), (3, 4)
    cls = class_of(module, shape)
    low, high = Fraction(1, 10**250), Fraction(1, 10**300)
    for measure, expected in (
        (cls.log_plain, cls.parameters), (cls.log_in_bases, cls.parameters - 4 * 2**2),
    ):  # fmt: skip
        slope = (measure(high) - measure(low)) / math.log(float(low / high))
        assert slope == pytest.approx(expected, rel=1e-3)
    assert cls.log_covering(high) == cls.log_in_bases(high) < cls.log_permuted(high)
    # bases pay by their bounds: with few digits orders alone are better, and the least is said
    assert cls.log_covering(Fraction(1, 10)) == min(cls.log_coverings(Fraction(1, 10)).values())


def covering(cls: GraphClass, eps: Fraction):
    """All centres of Theorem G for y = V^T U x with two units between, as matrices [outputs, inputs]."""
    (basis,) = cls.bases
    (held,), (grown,) = basis.held, basis.grown
    larger, r = cls._larger, basis.units
    free = {held: basis.free(held), grown: basis.free(grown)}
    grids = {}
    for name in (held, grown):
        bound, moved = larger.bounds[name], larger.sensitivities[name]
        share = free[name] / sum(free.values())
        cells = max(1, math.ceil(bound * moved / (eps * share))) if share else 1
        grids[name] = [float(bound * Fraction(2 * k + 1 - cells, cells)) for k in range(cells)]
    p, q, top = basis.held[held], basis.grown[grown], float(larger.bounds[held])
    for columns in itertools.combinations(range(p), r):
        left = [c for c in range(p) if c not in columns]
        for entries in itertools.product(grids[held], repeat=r * len(left)):
            u = np.zeros((r, p))
            u[:, columns] = top * np.eye(r)
            u[:, left] = np.reshape(entries, (r, len(left)))
            for v in itertools.product(grids[grown], repeat=r * q):
                product = np.reshape(v, (r, q)).T @ u
                yield product if held == "0.weight" else product.T


@pytest.mark.parametrize(("inputs", "outputs", "eps"), [(2, 2, "2"), (3, 1, "11/2"), (1, 3, "3/2")])
def test_the_cover_of_a_small_bottleneck_one_by_one(inputs, outputs, eps):
    """All centres, as many as are counted, and one is near every function of the class."""
    cls = class_of(bottleneck(inputs, 2, outputs), (inputs, 1), bound=1)
    eps = Fraction(eps)
    centres = np.stack(list(covering(cls, eps)))
    assert len(centres) > 100
    assert math.log(len(centres)) == pytest.approx(cls.log_in_bases(eps), abs=1e-9)
    rng = np.random.default_rng(0)
    for k in range(200):
        shapes = (2, inputs), (outputs, 2)
        u, v = (rng.choice([-1.0, 1.0], n) if k % 2 else rng.uniform(-1, 1, n) for n in shapes)
        # in the sup norm over inputs of size 1: sums of rows
        apart = np.abs(centres - v @ u).sum(axis=2).max(axis=1)
        assert apart.min() <= float(eps) * (1 + 1e-9)


def test_tied_tensors_have_no_basis():
    class Tied(Heads):
        def __init__(self):
            super().__init__(bias=False)
            self.k = self.q

    names = {
        name for basis in class_of(Tied(), (3, 4)).bases for name in (*basis.held, *basis.grown)
    }
    assert names == {"v.weight", "o.weight"}


def test_units_that_outnumber_what_they_read_have_no_basis():
    """Two inputs, three units, two outputs: matrices of rank 2 leave more free than a basis."""
    assert not class_of(bottleneck(2, 3, 2), (2, 1)).bases
    (basis,) = class_of(bottleneck(2, 2, 2), (2, 1)).bases
    assert basis.units == 2
    assert basis.free("0.weight") + basis.free("1.weight") == 4


def test_layers_of_layers_share_no_tensor():
    module = nn.Sequential(*(nn.Conv1d(2, 2, 1, bias=False) for _ in range(4)))
    found = class_of(module, (2, 1)).bases
    names = [name for basis in found for name in (*basis.held, *basis.grown)]
    assert len(found) == 2
    assert len(names) == len(set(names))


def test_what_is_said():
    found = mo.complexity(mo.load(Heads(), input_shape=(3, 4)), accuracy=1e-9)
    assert found.check()
    rows = dict(found.facts())
    assert rows["bases"] == "4 of 8 units: the exponent of 1/accuracy falls from 80 to 64"
    names = [row.name for row in found.bounds]
    assert names[:3] == ["plain grid", "Theorem P for graphs", "Theorem G, modulo bases"]
    values = {row.name: row.value for row in found.bounds}
    assert found.log_covering() == min(values[name] for name in names[:3])
    assert found.to_json()["exponent"] == 64
