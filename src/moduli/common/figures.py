"""Pictures. The only module that knows matplotlib: each takes the `plot_data()` of a result and
returns the axes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from moduli.common.extras import needed

from .files import atomic_write

BLUE = "#2a5c9a"
ORANGE = "#c8722b"
GREY = "#8a8f98"
INK = "#010203"  # not black, which SVG leaves unsaid
GREEN = "#3c8d5a"
VIOLET = "#8a4f9e"
COLOURS_OF_UNITS = BLUE, ORANGE, GREEN, VIOLET, GREY  # live, dead, merged, sums of others, constant
SCREEN = 80  # pixels for an inch of a picture
BESIDE = 4.4  # inches of axes beside which a legend has room
ROW = 0.26  # inches for an axis of a graph
APART = 64  # units of an axis up to which a line parts them
LABEL = 32  # characters of a name
ROLES = {INK: "currentColor", BLUE: "var(--blue)", ORANGE: "var(--orange)", GREY: "var(--grey)"}


CLOSE = 5e-3  # of a value: curves so close are one to the eye


def axes(ax: Any = None, count: int = 1) -> Any:
    """The given axes, or a row of new ones (one alone is no row), without frames at the top and
    right.
    """
    with needed("matplotlib", "plot"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    if ax is None:
        figure = Figure(figsize=(7.2 if count == 1 else 4.8 * count, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots(1, count)
        ax = shown(ax) if count == 1 else Row(ax)
    for one in np.atleast_1d(ax):
        one.spines[["top", "right"]].set_visible(False)
    return ax


def legend(ax: Any, **more: Any) -> None:
    """Beside wide axes, else above them: never over the curves."""
    inches = ax.get_position().width * ax.figure.get_figwidth()
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0)}
    handles, labels = ax.get_legend_handles_labels()
    place = beside if inches >= BESIDE and len(labels) > 1 else above
    broken = [textwrap.fill(label, LABEL) for label in labels]
    ax.legend(handles, broken, frameon=False, **{**place, **more})


def curves(ax: Any, x: Any, lines: Sequence[tuple[str, Any, str]], **style: Any) -> None:
    """Curves over one another, the first below: each is thinner than those below it, and those that
    coincide to the eye are drawn once, with all their names: "=" where their numbers are the same.

    Args:
        lines: label, values, colour.
    """
    groups: list[tuple[str, Any, str]] = []
    for label, values, colour in lines:
        y = np.asarray(values, dtype=np.float64)
        k = next((k for k, (_, other, _) in enumerate(groups) if _coincide(other, y)), None)
        if k is None:
            groups.append((label, y, colour))
            continue
        names, other, first = groups[k]
        same = np.array_equal(other, y, equal_nan=True)
        near = f" = {label}" if same else f", {label} (within {100 * CLOSE:g} %)"
        groups[k] = (names + near, other, first)
    for k, (label, y, colour) in enumerate(groups):
        below = len(groups) - 1 - k
        ax.plot(
            x, y, color=colour, lw=1.6 + 1.4 * below, ms=3 + 2 * below, label=label,
            **{"marker": "o", **style},
        )  # fmt: skip


def _coincide(a: Any, b: Any) -> bool:
    """Whether nobody could tell two curves apart, on a linear or a logarithmic axis."""
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=CLOSE, atol=0, equal_nan=True))


class Row(tuple[Any, ...]):
    """Axes beside each other in one figure; a notebook shows the figure."""

    def _repr_png_(self) -> bytes:
        return picture(self[0].figure)


def shown(ax: Any) -> Any:
    """Axes of a figure of ours: no window and no pyplot knows it, so it shows itself in a notebook."""
    ax._repr_png_ = partial(picture, ax.figure)
    return ax


def picture(figure: Any) -> bytes:
    """A figure as PNG, on white, for a notebook."""
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * SCREEN, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def save(ax: Any, path: str | Path) -> Path:
    """Write the figure of some axes (.svg .png .pdf), whole or not at all; the same picture gives
    the same bytes.
    """
    import io

    from matplotlib import rc_context

    target, buffer = Path(path), io.BytesIO()
    kind = target.suffix[1:]
    if kind not in ("svg", "png", "pdf"):
        raise ValueError(f"{path}: pictures are written as .svg, .png or .pdf")
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    with rc_context({"svg.hashsalt": "moduli"}):
        ax.figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return atomic_write(target, buffer.getvalue())


WIDE = 7.4, 3.3  # inches of a picture in a page, and of the one for narrow screens
NARROW = 4.0, 3.6


def inline(
    draw: Callable[[Any], Any], name: str, label: str, inches: tuple[float, float] = WIDE
) -> str:
    """A picture to stand in a page: its text is text, its ink and its colours those of the page,
    its identifiers its own.

    Args:
        draw: draws on the axes it is given. name: goes before every identifier. label: what the
            picture shows, in words. inches: its width and height.
    """
    import html
    import io
    import re

    axes()  # first: it says what to install
    from matplotlib import rc_context

    parts = "text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"
    buffer = io.StringIO()
    settings: Any = {
        **dict.fromkeys(parts, INK),
        "svg.fonttype": "none",
        "svg.hashsalt": "moduli",
        "font.size": 10,
    }
    with rc_context(settings), np.errstate(over="ignore"):
        ax = axes()
        ax.figure.set_size_inches(*inches)
        draw(ax)
        ax.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    text = text[text.index(">", box.end()) + 1 :].replace("xlink:href", "href")
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    for colour, role in ROLES.items():
        text = text.replace(colour, role)
    return f'<svg {box[0]} role="img" aria-label="{html.escape(label)}">{text.strip()}'


def curve_figure(data: dict[str, Any], ax: Any = None) -> Any:
    """Proximate rank against radius: one line where the bounds meet, a band where they do not,
    beside the greedy bound.
    """
    ax = axes(ax)
    radii, lower, upper = data["radii"], data["lower"], data["upper"]
    ax.axhline(data["of"], color=GREY, lw=0.8, ls=":")
    ax.annotate(
        "hidden units",
        (1.0, data["of"]),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color=GREY,
    )
    curves(ax, radii, [("greedy bound", data["greedy"], ORANGE), ("proximate rank", upper, BLUE)])
    if (np.asarray(lower) != np.asarray(upper)).any():
        ax.fill_between(
            radii, lower, upper, color=BLUE, alpha=0.2, lw=0, label="between proved bounds"
        )
    ax.set(
        xlabel="radius (change allowed to every parameter)",
        ylabel="hidden units needed",
        ylim=(0, None),
    )
    ax.margins(x=0.02)
    legend(ax)
    return ax


def path_figure(data: dict[str, Any], ax: Any = None) -> Any:
    """A path of equivalent parameters: its shape in a plane of parameter space, and how the
    function changes along it.
    """
    both = axes(ax, 2)
    left, right = both
    knots = data["knots"]
    left.plot(*knots[[0, -1]].T, color=GREY, lw=1.0, ls="--", label="straight line")
    left.plot(*knots.T, color=BLUE, lw=1.6, marker="o", ms=4, label="path")
    for name, knot in (("a", knots[0]), ("b", knots[-1])):
        left.annotate(name, knot, xytext=(0, 6), textcoords="offset points", ha="center")
    left.set(xlabel="distance towards b", ylabel="main direction across")
    left.margins(0.08)
    legend(left)
    right.plot(
        data["straight_position"],
        data["straight_change"],
        color=GREY,
        lw=1.0,
        ls="--",
        label="straight line",
    )
    right.plot(data["position"], data["change"], color=BLUE, lw=1.6, label="path")
    right.set(xlabel="segment", ylabel="largest change of the outputs", xticks=range(len(knots)))
    right.set_ylim(-0.03 * max(1e-300, data["straight_change"].max()), None)
    legend(right)
    return both


def _share(values: Any) -> Any:
    """Shares on a logarithmic axis; none of a function that does not vary."""
    return np.maximum(np.where(np.isfinite(values), values, 0.0), 1e-16)


def error_figure(data: dict[str, Any], ax: Any = None) -> Any:
    """Share of variance lost against hidden units, beside two simpler choices of units and a linear
    map.
    """
    ax = axes(ax)
    lines = (
        ("magnitude", "largest units", GREY),
        ("kmeans", "k-means", ORANGE),
        ("students", "student", BLUE),
    )
    places = np.maximum(
        data["units"], 0.5
    )  # a logarithmic axis has no place for students without units
    linear, *shares = (_share(data[name]) for name in ("linear", "magnitude", "kmeans", "students"))
    named = []
    for (_, label, color), share in zip(lines, shares, strict=True):
        named.append((label, share, color))
    curves(ax, places, named)
    ax.set(xscale="log", yscale="log")
    ax.axhline(float(linear), color=GREY, lw=1.2, ls=":", label="a linear map")
    ax.set(xlabel="hidden units", ylabel="share of variance lost")
    ax.set_xticks(places, [str(m) for m in data["units"]])
    ax.set_xticks([], minor=True)
    legend(ax)
    return ax


def barrier_figure(data: dict[str, Any], ax: Any = None) -> Any:
    """Loss on the straight line between two networks, with and without the alignment."""
    ax = axes(ax)
    ax.plot(data["t"], data["unaligned"], color=GREY, lw=1.2, ls="--", label="as they are")
    ax.plot(data["t"], data["loss"], color=BLUE, lw=1.6, label="aligned")
    ax.plot([0, 1], [data["loss"][0], data["loss"][-1]], color=GREY, lw=0.8, ls=":")
    ax.set(xlabel="t (from a to b)", ylabel=data["measure"], ylim=(0, None))
    ax.margins(x=0.02)
    legend(ax)
    return ax


def complexity_figure(data: dict[str, Any], ax: Any = None) -> Any:
    """Log covering number against accuracy, and what part of it symmetries save against the width."""
    both = axes(ax, 2)
    left, right = both
    covering_figure(data, left)
    shares = [
        ("all symmetries", [100 * x for x in data["saved"]], BLUE),
        ("permutations and signs", [100 * x for x in data["share"]], ORANGE),
    ]
    curves(right, data["units"], shares)
    right.set(xscale="log", yscale="log")
    right.axvline(data["here"], color=GREY, lw=0.8, ls=":")
    right.set(
        xlabel="hidden units (all layers widened alike)",
        ylabel=f"saved, %, at accuracy {data['eps']:g}",
    )
    legend(right)
    return both


def covering_figure(data: dict[str, Any], ax: Any = None) -> Any:
    """Log covering number against accuracy."""
    ax = axes(ax)
    logarithms = [
        ("plain grid", data["plain"], GREY), ("modulo symmetries", data["modulo"], BLUE),
    ]  # fmt: skip
    curves(ax, data["accuracy"], logarithms, marker="")
    ax.set(xscale="log", xlabel="accuracy", ylabel="log covering number")
    ax.invert_xaxis()
    legend(ax)
    return ax


def pruning_figure(data: dict[str, Any], ax: Any = None) -> Any:
    """What is lost against the share that is kept: of the parameters, and of the function where
    samples were given.
    """
    ax = axes(ax)
    ax.plot(data["kept"], data["error"], color=BLUE, lw=1.6, label="parameters")
    if data["plain"] is not None:
        ax.plot(
            data["kept"],
            data["plain"],
            color=GREY,
            lw=1.2,
            ls="--",
            label="parameters, with what no sample sees",
        )
    if data["function"] is not None:
        most = float(np.max(data["function"], initial=0.0))
        label = "function" if most <= 2 else f"function, cut off at 2 (up to {most:.3g})"
        ax.plot(data["probes"], np.minimum(data["function"], 2), color=ORANGE, lw=1.6, label=label)
    ax.set(
        xlabel=f"share of {data['by']} kept", ylabel="relative error", xlim=(0, 1), ylim=(0, None)
    )
    legend(ax)
    return ax


def axes_figure(data: dict[str, Any], ax: Any = None) -> Any:
    """What became of each unit of the axes of a graph: `axes`, `before`, `after`, `units`, `fates`.

    A row for each axis, all of one length, and along it a cell for each unit: shares are seen, numbers
    are read.
    """
    ax, alone = axes(ax), ax is None
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    rows = len(data["axes"])
    if alone:
        ax.figure.set_size_inches(8.0, 1.3 + ROW * max(rows, 1))
    colours = np.array([to_rgb(colour) for colour in COLOURS_OF_UNITS])
    for y, units in enumerate(data["units"]):
        row = colours[np.asarray(units, dtype=np.int64)][None]
        # where a pixel has several units, "auto" mixes their colours
        ax.imshow(row, extent=(0, 1, y + 0.4, y - 0.4), aspect="auto", interpolation="auto")
        if len(units) <= APART:
            between = np.arange(1, len(units)) / len(units)
            ax.vlines(between, y - 0.4, y + 0.4, color="white", lw=1.0)
    for y, (before, after) in enumerate(zip(data["before"], data["after"], strict=True)):
        size = f"{before} \N{RIGHTWARDS ARROW} {after}"
        ax.annotate(size, (1.01, y), xycoords=("axes fraction", "data"), va="center")
    ax.set(xlim=(0, 1), ylim=(rows - 0.4, -0.6), xticks=[], xlabel="units in their order")
    ax.set_yticks(range(rows), [_shortened(name) for name in data["axes"]])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    met = {0, *(fate for units in data["units"] for fate in units)}
    keys = [Patch(color=COLOURS_OF_UNITS[k], label=data["fates"][k]) for k in sorted(met)]
    ax.legend(
        handles=keys, frameon=False, ncols=len(keys), loc="lower left", bbox_to_anchor=(0.0, 1.0)
    )
    return ax


def _shortened(name: str) -> str:
    """Both ends of a long name, which tell it from others."""
    head = LABEL // 3
    return (
        name
        if len(name) <= LABEL
        else f"{name[:head]}\N{HORIZONTAL ELLIPSIS}{name[head + 1 - LABEL :]}"
    )


def rounding_figure(data: dict[str, Any], ax: Any = None) -> Any:
    """How much each layer adds to the error of the outputs, or to its own values: `names`, `made`,
    `carried`, `alone`.
    """
    ax, new = axes(ax), ax is None
    names, rows = data["names"], np.arange(len(data["names"]))
    if new:
        ax.figure.set_size_inches(6.4, 1.3 + 1.4 * ROW * max(len(names), 1))
    parts = [("carried", GREY, "errors of its values"), ("made", BLUE, "made by its own roundings")]
    if all(x is not None for x in data["alone"]):
        parts.append(("alone", ORANGE, "of the outputs, if it alone rounded"))
    for k, (key, colour, label) in enumerate(parts):
        sizes = np.array(data[key], dtype=np.float64)
        sizes = np.where(np.isfinite(sizes), sizes, np.nan)
        ax.plot(sizes, rows, "o|D"[k], color=colour, label=label, ms=(7, 12, 6)[k], mew=2)
    ax.set(xscale="log", xlabel="at most", ylim=(len(names) - 0.5, -0.5))
    ax.set_yticks(rows, [_shortened(name) for name in names])
    ax.grid(axis="x", alpha=0.3)
    ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0.0, 1.0))
    return ax


def sources_figure(data: dict[str, Any], ax: Any = None) -> Any:
    """What each that rounds does to the outputs, if it alone does: `names`, `steps`, `clipped`,
    `alone`.
    """
    ax, new = axes(ax), ax is None
    rows = np.arange(len(data["names"]))
    if new:
        ax.figure.set_size_inches(6.4, 1.3 + 1.2 * ROW * max(len(rows), 1))
    parts = [
        ("steps", GREY, "o", "steps"), ("clipped", BLUE, "|", "cut off"),
        ("alone", ORANGE, "D", "of the outputs, alone"),
    ]  # fmt: skip
    for key, colour, mark, label in parts:
        sizes = np.array(data[key], dtype=np.float64)
        sizes = np.where(np.isfinite(sizes) & (sizes > 0), sizes, np.nan)
        size = 12 if mark == "|" else 6
        ax.plot(sizes, rows, mark, color=colour, label=label, ms=size, mew=2)
    ax.set(xscale="log", xlabel="at most", ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(rows, [_shortened(name) for name in data["names"]])
    ax.grid(axis="x", alpha=0.3)
    ax.legend(frameon=False, fontsize="small", ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    return ax


def sweep_figure(data: dict[str, Any], ax: Any = None) -> Any:
    """Prunable shares of every seed over the range of noise alone; accuracy before and after, and
    with nine tenths gone.
    """
    both = axes(ax, 2)
    left, right = both
    names = data["names"]
    if ax is None:
        left.figure.set_size_inches(11.0, 1.2 + 0.3 * len(names))
    height = np.arange(len(names))[::-1]
    for y, line in zip(height, data["lines"], strict=True):
        left.plot(line["shares"], [y] * len(line["shares"]), "o", color=BLUE, ms=3, alpha=0.5)
        left.plot([line["share"]], [y], "|", color=BLUE, ms=14, mew=2)
        if line.get("predicted"):
            left.plot(
                line["predicted"][3:6:2],
                [y - 0.25] * 2,
                color=GREY,
                lw=3,
                alpha=0.6,
                solid_capstyle="butt",
            )
    left.set(
        xlabel="prunable share: seeds, median; noise alone (grey)",
        xlim=(-0.02, 1.02),
        ylim=(-0.7, len(names) - 0.3),
    )
    left.set_yticks(height, names)
    for key, label, color, marker in (
        ("test", "all units", GREY, "|"), ("after", "without the prunable ones", BLUE, "o"),
        ("after_worst", "the same, worst seed", BLUE, "x"), ("tenth", "a tenth kept, by contribution", ORANGE, "o"),
        ("tenth_random", "a tenth kept, at random", ORANGE, "x"),
    ):  # fmt: skip
        right.plot(
            [line[key] for line in data["lines"]], height, marker, color=color, ms=5, label=label
        )
    right.set(xlabel=f"test {data['measure']}", ylim=(-0.7, len(names) - 0.3))
    right.set_yticks(height, [""] * len(names))
    right.legend(
        frameon=False, fontsize="small", loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2
    )
    return both


def pieces_figure(data: dict[str, Any], color: str, ax: Any = None) -> Any:
    """The linear pieces in the plane, bends by layer or by weight; the graph over one input."""
    ax = axes(ax)  # first: it says what to install
    from matplotlib.collections import LineCollection, PolyCollection

    cells, bends = data["cells"], data["bends"]
    if cells[0].shape[1] == 3:
        return _solid_figure(data, color, ax)
    if cells[0].shape[1] == 1:
        for k in range(len(data["maps"][0][1])):
            for ends, (a, c) in zip(cells, data["maps"], strict=True):
                x = np.sort(ends[:, 0])
                ax.plot(x, a[k, 0] * x + c[k], color=BLUE, lw=1.4)
        for bend in (b for b in bends if b["visible"]):
            ax.axvline(bend["vertices"][0, 0], color=GREY, lw=0.6, ls=":")
        ax.set(xlabel=data["coordinates"][0].removeprefix("first "), ylabel="output")
        return ax
    if color == "cell":
        line = min(0.4, 8 / len(cells) ** 0.5)
        ax.add_collection(
            PolyCollection(
                cells, facecolors=_shades(data["piece"]), edgecolors="white", linewidths=line
            )
        )
    elif color == "layer":
        fine = min(1.0, 20 / len(cells) ** 0.5)
        for layer in range(1, data["layers"] + 1):
            lines = [b["vertices"] for b in bends if b["layer"] == layer]
            width, hue = (
                fine * (1.6 - 0.9 * (layer - 1) / max(1, data["layers"] - 1)),
                LAYERS[(layer - 1) % len(LAYERS)],
            )
            ax.add_collection(
                LineCollection(lines, colors=hue, linewidths=width, label=f"layer {layer}")
            )
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        shown = [b for b in bends if b["visible"]]
        weight = np.array([max(b["weight"], key=abs) for b in shown])
        top = np.quantile(np.abs(weight), 0.95) if len(weight) else 1.0
        coloured = LineCollection([b["vertices"] for b in shown], cmap="RdBu_r", linewidths=1.4)
        coloured.set_array(weight)
        coloured.set_clim(-top, top)
        ax.add_collection(coloured)
        ax.figure.colorbar(coloured, ax=ax, label="jump of the gradient (convex above 0)")
    every = np.concatenate(cells)
    ax.set(
        xlim=(every[:, 0].min(), every[:, 0].max()),
        ylim=(every[:, 1].min(), every[:, 1].max()),
        aspect="equal",
    )
    ax.set(xlabel=data["coordinates"][0], ylabel=data["coordinates"][1])
    return ax


LAYERS = BLUE, ORANGE, GREEN, VIOLET, GREY, "#b0413e", "#2f9aa0"


def _shades(piece: Any) -> Any:
    """A colour for each number, neighbours apart."""
    from matplotlib import colormaps

    count = int(piece.max()) + 1
    hue = np.random.default_rng(0).permutation(count) / count
    return colormaps["twilight_shifted"](0.15 + 0.7 * hue)[piece]


def _solid_figure(data: dict[str, Any], color: str, ax: Any) -> Any:
    """Three inputs: the bends as polygons in space; or the affine pieces where they meet the sides
    of the box.
    """
    from matplotlib.cm import ScalarMappable
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection  # type: ignore[import-untyped]

    if ax.name != "3d":
        figure, place = ax.figure, ax.get_subplotspec()
        ax.remove()
        solid = figure.add_subplot(place, projection="3d")
        ax = shown(solid) if hasattr(ax, "_repr_png_") else solid
    bends = [b for b in data["bends"] if b["visible"]]
    clear = min(0.5, max(0.12, 6 / max(1, len(bends)) ** 0.5))
    if color == "cell":
        shade = _shades(data["piece"])
        ax.add_collection3d(
            Poly3DCollection(data["cells"], facecolors=shade, edgecolors="white", linewidths=0.3)
        )
    elif color == "layer":
        hues = [LAYERS[(b["layer"] - 1) % len(LAYERS)] for b in bends]
        ax.add_collection3d(
            Poly3DCollection(
                [b["vertices"] for b in bends], facecolors=hues, edgecolors="none", alpha=clear
            )
        )
        for layer in range(1, data["layers"] + 1):
            ax.plot(
                [],
                [],
                color=LAYERS[(layer - 1) % len(LAYERS)],
                lw=4,
                alpha=0.6,
                label=f"layer {layer}",
            )
        ax.legend(frameon=False, loc="upper right")
    elif bends:
        weight = np.array([max(b["weight"], key=abs) for b in bends])
        top = np.quantile(np.abs(weight), 0.95)
        scale = ScalarMappable(cmap="RdBu_r")
        scale.set_clim(-top, top)
        shade = scale.to_rgba(weight, alpha=clear)
        ax.add_collection3d(
            Poly3DCollection([b["vertices"] for b in bends], facecolors=shade, edgecolors="none")
        )
        ax.figure.colorbar(scale, ax=ax, label="jump of the gradient (convex above 0)", shrink=0.7)
    every = np.concatenate(data["cells"])
    low, high = every.min(axis=0), every.max(axis=0)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    ax.set_box_aspect(high - low, zoom=0.85)
    ax.locator_params(nbins=5)
    ax.set(**{f"{axis}label": name for axis, name in zip("xyz", data["coordinates"], strict=True)})
    return ax
