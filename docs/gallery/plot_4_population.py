"""
The best few units on average
=============================

How close can M hidden units come, in mean square? Under normal inputs the error of one hidden layer
is a closed form, so no data are needed. On samples the same search runs on sums. Both answers are
estimates (``~``): a better student may exist.
"""

from pathlib import Path

import numpy as np

import moduli as mo

net = mo.load("zoo:digits-plain")
images = np.load(Path(mo.__file__).parent / "zoo" / "data" / "digits.npz")
x, held_out = (images[name].reshape(-1, 64) / 16 for name in ("x_train", "x_test"))
students = [mo.compress(net, units=m, on=mo.Samples(x[:300])) for m in (2, 4, 8)]
for student in students:
    print(student)

# %% The error is that of the samples it was fitted to. Hold some back: these are digits that no
# student has seen.

law = mo.Samples(held_out)
for student in students:
    d = mo.distance(net, student.network, on=law)
    print(student.network.units, "units, held out ~", f"{d.lower:.2f} to {d.upper:.2f}")

# %%
# Always look at the linear map beside it: where it is as good, hidden units are not what matters.

import matplotlib.pyplot as plt

fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
ax.plot((2, 4, 8), [s.error.unexplained for s in students], "o-", label="student")
ax.axhline(students[0].linear.unexplained, ls="--", color="0.4", label="a linear map")
ax.set(xlabel="hidden units", ylabel="share of variance lost", xticks=[2, 4, 8], ylim=(0, None))
ax.spines[["top", "right"]].set_visible(False)
_ = ax.legend(frameon=False)
