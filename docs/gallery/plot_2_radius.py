"""
How close is a network to a smaller one?
========================================

``zoo:digits-plain`` has 32 hidden units and needs all of them. But if every parameter may change by
at most a *radius*, fewer may do. The least number is the *proximate rank*. Deciding it is
NP-complete (Farrugia-Roberts 2023), so the answer is a lower and an upper bound, often equal.
"""

import numpy as np

import moduli as mo

net = mo.load("zoo:digits-plain")
print(mo.rank(net))
print(mo.rank(net, radius=0.5, budget=300))

# %% The curve over many radii. ``greedy`` is the published upper bound, with units in stored order.
# Rank 0 is reached where some parameter within the radius computes a constant.

curve = mo.rank_curve(net, radii=np.linspace(0, 1.2, 17), budget=300)
print(curve)
curve.plot()

# %% The wider ``zoo:digits-tanh`` has 256 units and needs 82. The network that reaches the bound
# comes with a certificate. It has exactly the function of some parameter within the radius, up to
# the slack; that parameter is stored in the certificate. Its outputs are *not* those of the
# original: ``within(1)`` bounds the change for inputs with entries up to 1.

tanh = mo.load("zoo:digits-tanh")
near = mo.compress(tanh, radius=0.05, budget=300)
print(near)
print("check       =", near.check())
print("on |x| <= 1 <=", f"{near.within(1.0):.3g}")

# %%
# The bound is a worst case. On random inputs the change is smaller.

x = np.random.default_rng(0).uniform(-1, 1, (2000, 64))
print("seen on 2000 inputs ~", f"{np.abs(near.network.logits(x) - tanh.logits(x)).max():.3g}")
