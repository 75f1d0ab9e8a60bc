"""
Linear pieces and slices
========================

A ReLU network is affine on each cell of a polyhedral complex. With up to three inputs, or in a
plane through more, moduli lists the cells and proves the list.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np

import moduli as mo

rng = np.random.default_rng(8)
widths = (2, 3, 3, 3, 1)
arrays = []
for i, o in pairwise(widths):
    arrays += [rng.standard_normal((o, i)), 0.5 * rng.standard_normal(o)]
pieces = mo.pieces(mo.Network.mlp(*arrays, activation="relu"), on=mo.Box(-4, 4))
for label, value in pieces.rows():
    print(f"{label:16s} {value}")

# %% Three numbers that are often mixed up: *cells* (sign patterns), *linear regions* (connected
# sets with one affine map), and *affine pieces* (different affine maps). Some bends of this network
# are none of the function: a later layer does not see them.

pieces.plot(color="cell")

# %% Bends coloured by layer: those of the first layer are straight, those of the second bend where
# they cross the first.

pieces.plot(color="layer")

# %% A network of 64 inputs in the plane through three images of digits. The corners (0, 0), (1, 0)
# and (0, 1) are the images.

digits = mo.load("zoo:digits-relu")
images = np.load(Path(mo.__file__).parent / "zoo" / "data" / "digits.npz")
x, labels = images["x_train"].reshape(-1, 64) / 16, images["y_train"]
origin, u, v = x[0], x[1] - x[0], x[2] - x[0]
plane = mo.pieces(digits, on=mo.Box([-0.2, -0.2], [1.2, 1.2]), slice=(origin, u, v))
print("digits", labels[:3], plane)
plane.plot(color="layer")
