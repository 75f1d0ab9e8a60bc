"""Boxes of arrays, of samples and of frames."""

from __future__ import annotations

import numpy as np
import pytest

from moduli.api import equivalent
from moduli.kernel.box import Box, Frame
from moduli.kernel.errors import ShapeError
from moduli.kernel.network import Network


@pytest.mark.parametrize(
    ("low", "high", "flat_low", "flat_high"),
    [
        (np.zeros((2, 2)), np.arange(1, 5).reshape(2, 2), [0, 0, 0, 0], [1, 2, 3, 4]),
        (-1, np.ones((1, 3)), [-1, -1, -1], [1, 1, 1]),
        (np.array([[[0]], [[1]]]), np.full((2, 1, 2), 5), [0, 0, 1, 1], [5, 5, 5, 5]),
        ([[0], [1]], [[2, 3]], [0, 0, 1, 1], [2, 3, 2, 3]),
        (
            np.zeros((2, 2), order="F"),
            np.array([[1, 2], [3, 4]], order="F"),
            [0, 0, 0, 0],
            [1, 2, 3, 4],
        ),
    ],
)
def test_arrays_of_the_shape_of_an_input_are_flattened_row_by_row(low, high, flat_low, flat_high):
    found = Box(low, high)
    assert found.low.tolist() == flat_low
    assert found.high.tolist() == flat_high
    assert not found.low.flags.writeable
    assert found.of_dimension(len(flat_low)).high.tolist() == flat_high
    with pytest.raises(ShapeError, match=f"a box of {len(flat_low)} inputs for a network with 7"):
        found.of_dimension(7)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (
            np.zeros((2, 2)),
            np.ones(3),
            r"low has shape \(2, 2\) but high \(3,\); give one shape, or one number",
        ),
        (
            np.array([[0, 0], [3, 0]]),
            1,
            "low 3.0 exceeds high 1.0 at input 2; give the lower one first",
        ),
        (np.array([[0, np.inf]]), 1, "low holds inf"),
    ],
)
def test_arrays_that_are_no_box(low, high, said):
    with pytest.raises(ShapeError, match=said):
        Box(low, high)


def test_a_network_is_compared_on_a_box_of_the_shape_of_its_input():
    """Two ramps that differ beyond 1 only, of the second of four inputs."""
    first = Network.mlp([[0, 1, 0, 0]], [0], [[1]], [0], activation="relu")
    second = Network.mlp([[0, 1, 0, 0], [0, 1, 0, 0]], [0, -1], [[1, 1]], [0], activation="relu")
    assert equivalent(first, second, on=Box(np.zeros((2, 2)), [[5, 1], [5, 5]])).status == "proved"
    assert equivalent(first, second, on=Box(np.zeros((2, 2)), [[1, 5], [1, 1]])).status == "refuted"


def test_the_smallest_box_around_samples():
    found = Box.of(np.array([[1.0, -2.0], [0.0, 3.0]]))
    assert (found.low.tolist(), found.high.tolist()) == ([0.0, -2.0], [1.0, 3.0])
    with pytest.raises(ShapeError, match=r"samples have shape \(0, 2\); .* at least one row"):
        Box.of(np.zeros((0, 2)))


def test_points_of_a_box_lie_in_it_and_repeat():
    found = Box(-1, [0.0, 2.0])
    x = found.sample(50, 2, seed=1)
    assert (x >= -1).all()
    assert (x <= [0.0, 2.0]).all()
    assert np.array_equal(x, found.sample(50, 2, seed=1))
    with pytest.raises(ShapeError, match="a box of 2 inputs for a network with 3"):
        found.of_dimension(3)


def test_the_box_of_a_frame_is_in_the_coordinates_of_the_network():
    frame = Frame(
        np.array([0.0, 10.0]),
        np.array([4.0, 20.0]),
        np.array([2.0, 10.0]),
        np.array([2.0, 5.0]),
        0.0,
        1.0,
    )
    assert frame.box.low.tolist() == [-1.0, 0.0]
    assert frame.box.high.tolist() == [1.0, 2.0]


def test_a_box_of_named_inputs():
    box = Box({"image": (0, [1, 2]), "speed": (-1, 1)})
    assert box.low.tolist() == [0, 0, -1]
    assert box.high.tolist() == [1, 2, 1]
    assert box.of_input("image").high.tolist() == [1, 2]
    assert box.of_input("other") is None
    assert Box(0, 1).of_input("other").low == 0
    assert box.to_json() == {"image": [0.0, [1.0, 2.0]], "speed": [-1.0, 1.0]}
    assert repr(box) == "Box({'image': (0, [1.0, 2.0]), 'speed': (-1, 1)})"
    with pytest.raises(ShapeError, match="inputs image, speed for a network that has one"):
        box.of_dimension(3)
    assert Box({"x": (0, 1)}).of_dimension(2).high.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ({}, "both ends of each"),
        ({"a": 3}, "give \\(low, high\\)"),
        ({"a": (2, 1)}, "input 'a': low 2"),
    ],
)
def test_named_inputs_that_are_no_box(ends, said):
    with pytest.raises(ShapeError, match=said):
        Box(ends)
    with pytest.raises(ShapeError, match="has no high end"):
        Box(1)
