"""
Does the function know the parameters?
======================================

Units can be permuted and scaled without changing the function. Is that all? ``dimension`` counts
the directions of the parameters that the function can tell apart; ``identifiable`` says whether the
function on a box determines them.
"""

import numpy as np

import moduli as mo

# %% A hat function: full dimension, and yet two units can be turned around together. The witness is
# another network, no symmetric copy, with the same function on all inputs of the box.

hat = mo.Network.mlp([[1.0], [1.0]], [0.0, -1.0], [[1.0, -1.0]], [0.0], activation="relu")
box = mo.Box(-8, 8)
print(mo.dimension(hat, on=box))
answer = mo.identifiable(hat, on=box)
print(answer)
hidden = answer.witness.layers[0]
print("witness: rows", hidden.weight.ravel(), "biases", hidden.bias)
print("proved again:", answer.check())

# %%
# The box is part of the question. Where a unit never bends, nothing can be told about it.

for low, high in ((-8, 8), (0.25, 0.75), (2, 8)):
    d = mo.dimension(hat, on=mo.Box(low, high))
    print(f"on [{low}, {high}]: {int(d)} of {d.generic} directions")

# %%
# Random networks with two hidden layers: what the function says of depth, dimension and parameters.

for seed in range(4):
    draw = np.random.default_rng(seed).standard_normal
    net = mo.Network.mlp(
        draw((3, 2)), draw(3), draw((3, 3)), draw(3), draw((1, 3)), [0.0], activation="relu"
    )
    box = mo.Box(-64, 64)
    d, verdict, depth = (ask(net, on=box) for ask in (mo.dimension, mo.identifiable, mo.depth))
    print(f"seed {seed}: dimension {int(d)} of {d.generic}, layers needed {depth.strict}")
    print("   ", verdict.status, verdict.scope, "-", verdict.reason)

# %% ``recover`` goes the other way: parameters from the function alone, exact or nothing. The bends
# of this function are all it reads.

three = mo.Network.mlp([[2], [2], [2]], [0, -2, -4], [[0.5, -1, 0.5]], [0], activation="relu")
found = mo.recover(three, on=mo.Box(-4, 4))
print(found)
inner, outer = found.network.layers
print("rows", inner.weight.ravel(), "biases", inner.bias, "outgoing", outer.weight.ravel())
mo.pieces(three, on=mo.Box(-4, 4)).plot()
