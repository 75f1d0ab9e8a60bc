"""
Pruning curves and stable noise
===============================

What is lost when only a share of the units is kept? And how much of it is a property of
heavy-tailed noise, without any training? Only NumPy is used here; training with such noise is in
``moduli.pytorch``.
"""

from pathlib import Path

import numpy as np

import moduli as mo

net = mo.load("zoo:digits-relu")
images = np.load(Path(mo.__file__).parent / "zoo" / "data" / "digits.npz")
x = images["x_train"].reshape(-1, 64) / 16
curve = mo.pruning_curve(net, by="units", on=mo.Samples(x[:300]))
print(curve)
curve.plot()

# %% The error of the *parameters* and the change of the *function* are different numbers. Look at
# both.

for kept in (0.9, 0.7, 0.5):
    smaller = curve.pruned(kept)
    print(
        f"{kept:.0%} kept: {smaller.units} units, {mo.distance(net, smaller, on=mo.Samples(x[:300]))}"
    )

# %% Symmetric alpha-stable noise: the smaller alpha, the heavier the tail. ``tail_index`` reads
# alpha back, with an interval.

for alpha in (1.5, 1.75, 1.9):
    noise = mo.stable_noise((20_000,), alpha, seed=0)
    print(alpha, mo.tail_index(noise), f"largest {np.abs(noise).max():.0f}")

# %% Rows of pure noise, 1000 units of 64 inputs, no training at all: how many units hold a tenth of
# the squared norm? More of them the heavier the tail. A share measured after training has to be
# compared with this one.

import matplotlib.pyplot as plt

fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for alpha in (1.5, 1.75, 1.9, 2.0):
    rows = mo.stable_noise((1000, 64), alpha, kind="isotropic", seed=1)
    squares = np.sort((rows**2).sum(1))
    share = squares.cumsum() / squares.sum()
    part = np.searchsorted(share, 0.1) / 1000
    ax.plot(np.arange(1, 1001) / 1000, share, label=f"alpha {alpha}: {part:.0%} hold a tenth")
ax.axhline(0.1, color="0.6", lw=0.8)
ax.set(xlabel="share of units, smallest first", ylabel="share of the squared norm")
ax.spines[["top", "right"]].set_visible(False)
_ = ax.legend(frameon=False)
