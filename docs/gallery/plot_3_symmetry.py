"""
Canonical forms, alignment, merging
===================================

Permute the units of a hidden layer, flip the signs of a tanh unit, scale a ReLU unit: the
parameters change and the function does not. These symmetries can be listed, undone and used.
"""

import numpy as np

import moduli as mo

net = mo.load("zoo:digits-relu")
group = mo.symmetries(net)
group

# %% A random copy: other parameters, the same function. The normal form is the same, bit for bit,
# and so is the signature.

copy = group.random(seed=1)(net)
print("largest change of a parameter", f"{np.abs(copy.flat() - net.flat()).max():.3g}")
print("same normal form             ", mo.canonical(copy) == mo.canonical(net))
print("signature                    ", mo.signature(copy)[-12:], mo.signature(net)[-12:])
print(mo.equivalent(net, copy))

# %%
# ``align`` finds the way back without being told.

found = mo.align(copy, net)
print(found)
print("halfway between the two is the network again:", found.merge(0.5) == net)

# %% With networks that are not copies the alignment is an estimate. Here the network gets noise of
# 30 % of the standard deviation of each layer, and is then hidden by a random symmetry. What
# happens on the straight line between the two networks? ``barrier`` measures how much worse the
# outputs are there than at the ends.

rng = np.random.default_rng(0)
arrays = [a for layer in net.layers for a in (layer.weight, layer.bias)]
arrays = [a + 0.3 * a.std() * rng.standard_normal(a.shape) for a in arrays]
noisy = mo.Network.mlp(*arrays, activation="relu")
found = mo.align(group.random(seed=2)(noisy), net)
barrier = found.barrier(on=mo.Samples(rng.uniform(0, 1, (500, 64))))
print(found)
print(barrier)
barrier.plot()
