"""Random ReLU targets: how fast the simplified problem becomes true, and where copies beat its frame.

python benchmarks/regimes.py OUT.svg
"""

from __future__ import annotations

import sys

import numpy as np

from moduli.common.figures import BLUE, GREY, ORANGE, axes, save
from moduli.compression.average.random_targets import LEVELS, Experiment, expected_loss, experiment

INPUTS = 10
WIDTHS = (4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256)
STUDENTS = tuple(range(1, INPUTS + 2))


def rates() -> Experiment:
    """What is left at 5 students, and exponents in N and in d with their errors."""
    found = experiment([30, 100, 300, 1000, 3000], [INPUTS], [5], draws=20)
    print("units  limit   expected  simplex before    turned after     copies")
    for c in found.cells:
        shown = [c.loss(name) for name in ("frame", "turned", "copies")]
        numbers = "  ".join(f"{x.value:.4f} +- {x.error:.4f}" for x in shown)
        print(f"{c.units:5}  {c.limit:.4f}  {c.expected:.4f}    {numbers}")
    for of in ("gap", *LEVELS):
        law = found.exponent(of, "units")  # type: ignore[arg-type]
        print(f"{of}: N^{law.power:.3f} +- {law.error:.3f}, misfit {law.misfit:.1f}")
    deep = experiment([1000], [8, 16, 32, 64], [5], draws=20)
    for level in LEVELS:
        law = deep.exponent(level, "inputs")
        print(f"{level}: d^{law.power:.3f} +- {law.error:.3f}, misfit {law.misfit:.1f}")
    return found


def main(out: str) -> None:
    found = rates()
    sizes = np.array([c.units for c in found.cells])
    panels = axes(count=2)
    ax = panels[0]
    for name, color, label in (
        ("frame", ORANGE, "simplex chosen before"),
        ("turned", BLUE, "simplex turned to the target"),
        ("copies", GREY, "copies and an average"),
    ):
        values = [c.loss(name) for c in found.cells]  # type: ignore[arg-type]
        height, bars = [v.value for v in values], [3 * v.error for v in values]
        ax.errorbar(sizes, height, yerr=bars, color=color, marker="o", ms=3, lw=1.2, label=label)
    fine = np.unique(np.geomspace(30, 3000, 40).astype(int))
    expected = [expected_loss(n, INPUTS, 5) for n in fine.tolist()]
    ax.plot(fine, expected, color=ORANGE, ls=":", label="its expected loss")
    ax.axhline(found.cells[0].limit, color="0.3", ls="--", lw=0.8, label="the limit")
    ax.set(
        xscale="log", xlabel=f"hidden units of the target ({INPUTS} inputs, 5 students)",
        ylabel="share of the mean square lost", ylim=(0, None),
    )  # fmt: skip
    ax.legend(frameon=False, fontsize="small", ncols=2, loc="lower left", bbox_to_anchor=(0, 1))

    ax = panels[1]
    cells = experiment(WIDTHS, [INPUTS], STUDENTS, draws=20, levels=False).cells
    for name, color, label in (
        ("turned", BLUE, "the turned simplex leaves less"),
        ("copies", ORANGE, "copies and an average leave less"),
        (None, "0.8", "not seen in 20 draws"),
    ):
        some = [c for c in cells if c.winner == name]
        ax.scatter(
            [c.units for c in some], [c.students for c in some], color=color, s=26, label=label
        )
    some = [m for m in STUDENTS if m >= WIDTHS[0]]
    ax.plot(some, some, color="0.3", lw=0.8, ls=":", label="as many students as units")
    ax.set(xscale="log", xlabel=f"hidden units of the target ({INPUTS} inputs)", ylabel="students")
    ax.legend(frameon=False, fontsize="small", ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    for students in STUDENTS:
        row = [c for c in cells if c.students == students]
        last = max((c.units for c in row if c.winner == "copies"), default=None)
        first = min((c.units for c in row if c.winner == "turned"), default=None)
        print(f"{students} students: copies up to {last} units, the simplex from {first}")
    save(panels[0], out)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "regimes.svg")
