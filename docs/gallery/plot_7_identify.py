"""
Does the function know the parameters?
======================================

Units can be permuted and scaled without changing the function. Is that all? ``dimension`` counts the directions of the
parameters that the function can tell apart; ``identifiable`` says whether the function on a box determines them.
"""

import numpy as np

import moduli as mo

# %%
# A hat function: full dimension, and yet two units can be turned around together. The witness is another network, no
# symmetric copy, with the same function on all inputs of the box.

hat = mo.Network.mlp([[1.0], [1.0]], [0.0, -1.0], [[1.0, -1.0]], [0.0], activation="relu")
box = mo.Box(-8, 8)
print(mo.dimension(hat, on=box))
answer = mo.identifiable(hat, on=box)
print(answer)
print("witness: rows", answer.witness.layers[0].weight.ravel(), "biases", answer.witness.layers[0].bias)
print("proved again:", answer.check())

# %%
# The box is part of the question. Where a unit never bends, nothing can be told about it.

for low, high in ((-8, 8), (0.25, 0.75), (2, 8)):
    d = mo.dimension(hat, on=mo.Box(low, high))
    print(f"on [{low}, {high}]: {int(d)} of {d.generic} directions")

# %%
# Random networks with two hidden layers: what the function says of depth, dimension and parameters.

for seed in range(4):
    rng = np.random.default_rng(seed)
    net = mo.Network.mlp(
        rng.standard_normal((3, 2)), rng.standard_normal(3), rng.standard_normal((3, 3)), rng.standard_normal(3),
        rng.standard_normal((1, 3)), [0.0], activation="relu",
    )
    box = mo.Box(-64, 64)
    d, verdict, depth = mo.dimension(net, on=box), mo.identifiable(net, on=box), mo.depth(net, on=box)
    print(f"seed {seed}: dimension {int(d)} of {d.generic}; layers needed {depth.strict}; {verdict.status} {verdict.scope}")
    print("        ", verdict.reason)

# %%
# ``recover`` goes the other way: parameters from the function alone, exact or nothing. The bends of this function are all it
# reads.

three = mo.Network.mlp([[2], [2], [2]], [0, -2, -4], [[0.5, -1, 0.5]], [0], activation="relu")
found = mo.recover(three, on=mo.Box(-4, 4))
print(found)
print(found.network.layers[0].weight.ravel(), found.network.layers[0].bias, found.network.layers[1].weight.ravel())
_ = mo.pieces(three, on=mo.Box(-4, 4)).plot()
