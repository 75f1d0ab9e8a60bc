"""
What symmetry buys in covering numbers
======================================

How many functions, up to a given accuracy, can networks with bounded parameters compute? Symmetric
copies need not be counted twice. The saving is real, and small.
"""

import moduli as mo

answer = mo.complexity([784, 300, 100, 10], input_bound=28, norm="2", samples=60_000)
answer

# %%
# The first sentence to read is the statement: the group is worth a small share of the logarithm.

print("log covering number, plain          <=", f"{answer.log_covering(0.1, symmetry=False):,.0f}")
print("log covering number, modulo symmetry <=", f"{answer.log_covering(0.1):,.0f}")
print("log of the order of the group         ", f"{answer.log_symmetries:,.0f}")

# %% Bounds on the generalisation gap, for a trained network of 2410 parameters if it had been
# trained on 60 000 samples. A gap of 1 or more says nothing: *vacuous*. Each row says how many
# samples it needs to say something. Bounds whose assumptions fail are not printed as numbers.

plain = mo.complexity("zoo:digits-plain", input_bound=1, samples=60_000)
for row in plain.rows():
    if row.gap is not None:
        print(f"{row.name:20s} {row.verdict:16s} below 1 from {row.needed:.2g} samples on")

# %% A small class, where the difference can be seen. Left: both logarithms against the accuracy.
# Right: the share that symmetry is worth, against the width.

small = mo.complexity([10, 100, 1], norm="2")
small.plot()
