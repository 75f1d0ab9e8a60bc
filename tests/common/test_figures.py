"""Pictures: they show themselves, curves that coincide are named together, legends cover nothing."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import moduli as mo

pytest.importorskip("matplotlib")
from moduli.common import figures

PNG = b"\x89PNG\r\n"
NET = mo.Network.mlp([[1.0], [1.5]], [0.0, 0.0], [[2.0, 2.0]], [0.0])


def test_what_plot_returns_shows_itself_in_a_notebook():
    for drawn in (mo.rank_curve(NET, radii=[0.0, 0.5]).plot(), mo.complexity([3, 4, 1]).plot()):
        assert drawn._repr_png_().startswith(PNG)
        assert pickle.loads(pickle.dumps(drawn)) is not None
    relu = mo.Network.mlp(np.eye(3), np.zeros(3), np.ones((1, 3)), [0.0], activation="relu")
    assert mo.pieces(relu, on=mo.Box(-1, 1)).plot()._repr_png_().startswith(PNG)


def test_axes_of_a_caller_come_back_as_they_are():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert mo.rank_curve(NET, radii=[0.0, 0.5]).plot(ax) is ax
    assert not hasattr(ax, "_repr_png_")
    both = Figure().subplots(1, 2)
    assert mo.complexity([3, 4, 1]).plot(both) is both


def test_curves_that_coincide_are_drawn_once_with_both_names():
    ax = figures.axes()
    y = np.array([1.0, 2.0, 4.0])
    figures.curves(
        ax,
        [1, 2, 3],
        [("a", y, "red"), ("b", 1.001 * y, "blue"), ("c", 2 * y, "green"), ("d", 2 * y, "grey")],
    )
    assert [line.get_label() for line in ax.lines] == ["a, b (within 0.5 %)", "c = d"]
    below, above = (line.get_linewidth() for line in ax.lines)
    assert below > above


@pytest.mark.parametrize("inches", [figures.WIDE, figures.NARROW])
def test_a_legend_stands_beside_or_above(inches):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    ax = figures.axes()
    ax.figure.set_size_inches(*inches)
    figures.curves(
        ax, [1, 2], [("a", np.array([0, 1.0]), "red"), ("b", np.array([1, 0.0]), "blue")]
    )
    figures.legend(ax)
    FigureCanvasAgg(ax.figure).draw()
    area, legend = ax.get_window_extent(), ax.get_legend().get_window_extent()
    assert legend.x0 >= area.x1 or legend.y0 >= area.y1
