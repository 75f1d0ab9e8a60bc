"""
Compress and check
==================

A network may have hidden units that its function does not need. ``compress`` removes them and hands
over a certificate; ``check`` replays the certificate in exact arithmetic, without any search.
"""

import tempfile
from pathlib import Path

import numpy as np

import moduli as mo

net = mo.load("zoo:digits-tanh")
small = mo.compress(net)
small

# %% ``small.optimal`` says that no network of one hidden tanh layer with fewer units has this
# function. ``small.slack`` bounds what rounding the new parameters to float64 did to the outputs,
# for all inputs.

print("hidden units  ", net.units, "->", small.network.units)
print("optimal       ", small.optimal)
print("slack      <= ", f"{small.slack:.2g}")
print("removed       ", dict(small.removed))

# %%
# Anyone who has the three files can check the claim. The check takes no tolerance and no solver.

folder = Path(tempfile.mkdtemp())
mo.save(net, folder / "large.npz")
mo.save(small.network, folder / "small.npz")
small.save(folder / "small.cert.json")
verdict = mo.check(folder / "small.cert.json", folder / "small.npz", folder / "large.npz")
verdict

# %%
# A changed weight is noticed, however small the change: here one entry moves to the next float.

theta = small.network.flat()
theta[0] = np.nextafter(theta[0], np.inf)
try:
    mo.check(small.certificate, small.network.with_flat(theta), net)
except mo.CertificateRejected as error:
    print("rejected:", str(error)[:46], "...")

# %% What was redundant? Units without outgoing weights can be dropped; units without incoming
# weights are constants, which are folded into the next bias. The picture shows both norms of each
# unit. Nothing was planted: a group lasso during training made them so
# (``src/moduli/zoo/PROVENANCE.md``).

import matplotlib.pyplot as plt

first, last = net.layers
incoming = np.linalg.norm(first.weight, axis=1)
outgoing = np.linalg.norm(last.weight, axis=0)
kept = (incoming > 0) & (outgoing > 0)
fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for some, mark, what in ((kept, "o", "both non-zero"), (~kept, "x", "one exactly zero")):
    ax.plot(incoming[some], outgoing[some], mark, ms=5, label=f"{what} ({some.sum()})")
ax.set(xlabel="norm of incoming weights", ylabel="norm of outgoing weights")
ax.spines[["top", "right"]].set_visible(False)
_ = ax.legend(frameon=False)
