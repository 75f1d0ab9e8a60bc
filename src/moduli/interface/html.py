"""The few pieces of HTML that a page is made of. Text is escaped here and nowhere else; the page
asks nothing of a network.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

MEANING = {
    "=": ("=", "proved"), "<=": ("≤", "certified bound"), "~": ("~", "estimate"),
    "!=": ("≠", "refuted"), "?": ("?", "undecided"), "": ("", "no answer"),
}  # fmt: skip
SIGNS = (("<->", "↔"), ("->", "→"), ("<=", "≤"), (">=", "≥"), ("!=", "≠"))
UNBROKEN = re.compile(r"(?<![\w-])--[a-z][a-z-]*|\b\d[\d.]*e-\d+")  # behind its hyphens
POWER = re.compile(r"\b(e|2)\^(-?\d+(?:\.\d+)?)")
SHOWN = 9  # layers in a drawing
SHOWN_NARROW = 5  # and on a narrow screen
ROWS = 16  # of a table, beyond which they are folded
AXES = 32  # of a picture of units, beyond which they are folded
APART = 64  # units of an axis up to which a gap parts them
ROW_PIXELS = 300  # about the length of a row of cells: a gap is one of them


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


NOTHING = Markup("")


def escape(text: object) -> Markup:
    """Text as HTML; markup stays what it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(str(text)))


def prose(text: object) -> Markup:
    """Escaped text with the signs that print has and a terminal spells."""
    if isinstance(text, Markup):
        return text
    line = str(text)
    for spelled, sign in SIGNS:
        line = line.replace(spelled, sign)
    return _unbroken(Markup(POWER.sub(r"\1<sup>\2</sup>", escape(line))))


def names(text: object) -> Markup:
    """Names of tensors, which may be broken behind the signs that part them."""
    return Markup(re.sub(r"(?<=[/;:.])(?=\w)", "<wbr>", html.escape(str(text))))


def _unbroken(markup: Markup) -> Markup:
    return Markup(UNBROKEN.sub(r'<span class="whole">\g<0></span>', markup))


def element(name: str, *parts: object, **attributes: object) -> Markup:
    """An element; a trailing underscore of an attribute goes, others become hyphens.

    >>> element("p", "1 < 2", class_="answer", aria_label='"')
    '<p class="answer" aria-label="&quot;">1 &lt; 2</p>'
    """
    named = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    given = "".join(f' {key}="{html.escape(str(value))}"' for key, value in named)
    return Markup(f"<{name}{given}>{''.join(map(escape, parts))}</{name}>")


def badge(glyph: str) -> Markup:
    """How far a line is to be trusted: the sign, its meaning for those who hover or listen."""
    sign, meaning = MEANING[glyph]
    return element("span", sign, class_="badge", role="img", aria_label=meaning, title=meaning)


def table(rows: Iterable[Sequence[object]], head: Sequence[str] = (), label: str = "") -> Markup:
    """The first cell of a row is its heading; wide tables scroll inside their own frame."""
    titles = (
        element("thead", element("tr", *(element("th", prose(name), scope="col") for name in head)))
        if head
        else ""
    )
    body = [
        element(
            "tr",
            element("th", prose(first), scope="row", **_numbered(first, head)),
            *_cells(rest, head),
        )
        for first, *rest in rows
    ]
    about = {"aria_label": label} if label else {}
    kind = "facts" if not head else "grid wide" if len(head) > 4 else "grid"
    grid = element("table", titles, element("tbody", *body), class_=kind, **about)
    return (
        element(
            "div", grid, class_="scroll", tabindex="0", role="region", aria_label=label or "facts"
        )
        if head
        else grid
    )


def _numbered(first: object, head: Sequence[str]) -> dict[str, object]:
    """A heading that is a number says of what, on a narrow screen."""
    return {"data_of": head[0]} if head and str(first).isdecimal() else {}


def _cells(cells: Sequence[object], head: Sequence[str]) -> Iterator[Markup]:
    """Cells that bear the title of their column, which a narrow screen shows beside them."""
    for k, cell in enumerate(cells, 1):
        title = {"data_title": head[k]} if head and head[k] else {}
        yield element("td", prose(cell), **title)


def figure(svg: str, caption: str, narrow: str | None = None) -> Markup:
    """A picture, as wide as the column; on narrow screens another one, if there is one."""
    parts = [Markup(svg)]
    if narrow is not None:
        parts = [element("div", Markup(svg), class_="wide-only")]
        parts.append(element("div", Markup(narrow), class_="narrow-only"))
    return element("figure", *parts, element("figcaption", prose(caption)))


def commands(lines: Sequence[str]) -> Markup:
    """What to type to get a section's numbers again."""
    return element(
        "pre",
        element("code", _unbroken(escape("\n".join(lines)))),
        class_="command",
        aria_label="command line",
    )


class Bar(NamedTuple):
    """A layer: its label and how many units there are of each kind, in the order of `KINDS`."""

    label: str
    counts: dict[str, int]


KINDS = {
    "kept": "kept", "drop": "dropped", "constant": "folded into a bias", "merge": "merged",
    "inactive": "inactive", "block": "by linear dependence", "other": "other",
}  # fmt: skip


def bars(layers: Sequence[Bar], caption: str) -> Markup:
    """One bar per layer, all of one length: shares are seen, numbers are read."""
    rows = []
    for layer in layers:
        total = max(1, sum(layer.counts.values()))
        present = [(kind, count) for kind, count in layer.counts.items() if count]
        parts = [
            element("i", class_=kind, style=f"width:{100 * count / total:.3f}%")
            for kind, count in present
        ]
        words = ", ".join(f"{count} {KINDS[kind]}" for kind, count in present) or "no units"
        bar = element("div", *parts, class_="bar", role="img", aria_label=f"{layer.label}: {words}")
        rows.append(
            element("div", element("b", layer.label), bar, element("span", words), class_="row")
        )
    found = [kind for kind in KINDS if any(layer.counts.get(kind) for layer in layers)]
    keys = [element("span", element("i", class_=kind), KINDS[kind], class_="key") for kind in found]
    legend = element("p", *keys, class_="legend", aria_hidden="true")
    return element("figure", *rows, legend, element("figcaption", prose(caption)), class_="bars")


class Cells(NamedTuple):
    """A row: its label, in words what became of it, and what became of each unit as a number."""

    label: str
    words: str
    fates: Sequence[int]


COLOURS = "kept", "drop", "merge", "other", "constant"  # of what became of a unit, by number


def cells(axes: Sequence[Cells], words: Sequence[str], caption: str) -> Markup:
    """One row per axis, all of one length, and along it a cell for each unit, in order; rows beyond
    the first are folded. Words say what the numbers mean.
    """
    rows = [_row_of_cells(axis, words) for axis in axes]
    met = {fate for axis in axes for fate in axis.fates}
    keys = []
    for fate in sorted(met):
        keys.append(element("span", element("i", class_=COLOURS[fate]), words[fate], class_="key"))
    legend = element("p", *keys, class_="legend", aria_hidden="true")
    shown = [*rows[:AXES], folded(rows[AXES:], "more axes")]
    return element("figure", legend, *shown, element("figcaption", prose(caption)), class_="cells")


def _row_of_cells(axis: Cells, words: Sequence[str]) -> Markup:
    counts = Counter(axis.fates)
    said = ", ".join(f"{count} {words[fate]}" for fate, count in counts.items())
    drawn = []
    for fate, path in _paths(axis.fates).items():
        drawn.append(element("path", d=path, class_=COLOURS[fate]))
    svg = element(
        "svg", *drawn, viewBox=f"0 0 {max(1, len(axis.fates))} 1", preserveAspectRatio="none", role="img",
        aria_label=f"{axis.label}: {said}",
    )  # fmt: skip
    label, told = element("b", names(axis.label)), element("span", prose(axis.words))
    return element("div", label, svg, told, class_="row")


def _paths(fates: Sequence[int]) -> dict[int, str]:
    """For each fate rectangles, one unit wide; cells of few units are parted, units of one fate that
    are many are drawn at once.
    """
    gap = len(fates) / ROW_PIXELS if len(fates) <= APART else 0.0
    found, start = dict[int, list[str]](), 0
    for i, fate in enumerate(fates):
        last = i + 1 == len(fates) or fates[i + 1] != fate
        if gap or last:
            width = i + 1 - start - gap
            found.setdefault(fate, []).append(
                f"M{start + gap / 2:.6g} 0h{width:.6g}v1h-{width:.6g}z"
            )
            start = i + 1
    return {fate: "".join(parts) for fate, parts in sorted(found.items())}


def folded(rows: Sequence[Markup], what: str) -> Markup:
    """Further rows, which are shown to who asks for them; nothing where there are none."""
    if not rows:
        return NOTHING
    return element("details", element("summary", f"{len(rows)} {what}"), *rows)


def long_table(rows: Sequence[Sequence[object]], head: Sequence[str], label: str) -> Markup:
    """A table whose rows beyond the first are folded."""
    first, rest = table(rows[:ROWS], head, label), rows[ROWS:]
    if not rest:
        return first
    more = table(rest, head, f"{label}, continued")
    return Markup(first + element("details", element("summary", f"{len(rest)} more"), more))


def drawing(
    widths: Sequence[int], names: Sequence[str], after: Sequence[int] | None = None
) -> Markup:
    """Layers as columns, as high as the logarithm of their widths; the middle of a deep network is
    left out, more of it on a narrow screen. With `after`, what is left of each stands in it.
    """
    columns = [*zip(widths, names, after or widths, strict=True)]
    whole = _columns(columns, SHOWN)
    if len(columns) <= SHOWN_NARROW:
        return whole
    wide = element("div", whole, class_="wide-only")
    narrow = element(
        "div", _columns(columns, SHOWN_NARROW), class_="narrow-only", aria_hidden="true"
    )
    return Markup(wide + narrow)


def _columns(columns: Sequence[tuple[int, str, int]], shown: int) -> Markup:
    """Columns with width, name and what is left, or as many of both ends as are shown."""
    tall = max(width for width, _, _ in columns).bit_length()
    if len(columns) > shown:
        more = (0, f"{len(columns) - shown + 1} more", 0)
        columns = [*columns[: shown // 2], more, *columns[-(shown // 2) :]]
    step, middle = 84, 60
    parts, before = [], 0.0
    for k, (width, name, left) in enumerate(columns):
        x, half = 42 + step * k, 44 * width.bit_length() / tall if width else 0.0
        if k and before and half:
            start, end = x - step + 9, x - 9
            corners = (start, -before), (end, -half), (end, half), (start, before)
            points = " ".join(f"{a},{middle + b:.1f}" for a, b in corners)
            parts.append(element("polygon", points=points, class_="maps"))
        if half:
            parts.append(_layer(x, middle, half, "layer" if left == width else "before"))
        if left != width:
            parts.append(_layer(x, middle, 44 * left.bit_length() / tall, "layer"))
        said = f"{width} → {left}" if left != width else width or "…"
        parts.append(element("text", said, x=x, y=middle + 62, class_="width"))
        parts.append(element("text", name, x=x, y=middle + 78))
        before = half
    label = "layers: " + ", ".join(_in_words(*column) for column in columns)
    size = step * len(columns)
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {size} 144",
        role="img",
        aria_label=label,
        class_="net",
        style=f"max-width:{size}px",
    )


def _layer(x: int, middle: int, half: float, kind: str) -> Markup:
    place = {"x": x - 9, "y": f"{middle - half:.1f}", "width": 18, "height": f"{2 * half:.1f}"}
    return element("rect", **place, rx=3, class_=kind)


def _in_words(width: int, name: str, left: int) -> str:
    change = f" to {left}" if left != width else ""
    return f"{width or '...'}{change} {name}"


def document(title: str, *body: Markup) -> str:
    """A page that needs nothing else."""
    head = element(
        "head",
        Markup(
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        ),
        Markup('<meta name="color-scheme" content="light dark">'),
        element("title", title),
        Markup(f"<style>{STYLE}</style>"),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', *body), lang='en')}\n"


STYLE = """
:root{--ink:#1b1f24;--quiet:#57606a;--paper:#fff;--line:#d8dce1;--wash:#f4f6f8;--blue:#2a5c9a;--orange:#b8621f;
--grey:#737a84;--green:#3c8d5a;--violet:#8a4f9e}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e4e7ea;--quiet:#a3adb7;--paper:#14171a;--line:#343a41;--wash:#1e2226;
--blue:#7fb0e8;--orange:#e39a5c;--grey:#98a1ab;--green:#7cc596;--violet:#c79bd8}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:47rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.7rem;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:1.2rem;line-height:1.3;margin:0 0 .35rem}
header p{margin:.4rem 0 0;color:var(--quiet)}
section{padding:1.9rem 0 0;margin-top:1.9rem;border-top:1px solid var(--line)}
a{color:var(--blue)}
:focus-visible{outline:2px solid var(--blue);outline-offset:2px}
p{margin:.5rem 0}
.whole{white-space:nowrap}
.answer{display:flex;gap:.6rem;align-items:baseline}
.answer.none,.note{color:var(--quiet)}
.badge{font:600 .95rem/1 ui-monospace,Menlo,Consolas,monospace;display:inline-block;min-width:1.5em;text-align:center;
padding:.22em 0;border-radius:.3em;background:var(--wash);color:var(--blue);flex:none}.badge:empty{background:none}
nav ol{list-style:none;margin:1.5rem 0 0;padding:0}
nav li{display:grid;grid-template-columns:1.9rem 9.5rem 1fr;gap:.6rem;align-items:baseline;padding:.28rem 0}
nav li span:last-child{overflow-wrap:anywhere}
.trust{font-size:.875rem}
table{border-collapse:collapse;font-size:.9375rem;margin:.8rem 0;width:100%}
th,td{text-align:left;vertical-align:top;padding:.32rem .9rem .32rem 0;font-weight:400;overflow-wrap:break-word}
.facts{table-layout:fixed}.facts th{width:12.5rem;color:var(--quiet)}.facts td{overflow-wrap:anywhere}
.scroll{overflow-x:auto}.wide{min-width:34rem}
.grid thead th{color:var(--quiet);font-size:.8125rem;border-bottom:1px solid var(--line)}
.grid td,.grid th{font-variant-numeric:tabular-nums}
.grid tbody th{min-width:7rem}.grid td:last-child{min-width:13rem;overflow-wrap:anywhere}
.grid .badge{margin-right:-.4rem}
.grid tbody tr+tr>*{border-top:1px solid var(--wash)}
figure{margin:1.2rem 0 .4rem}
figcaption{font-size:.875rem;color:var(--quiet)}
figure svg{display:block;width:100%;height:auto;overflow:visible}
.narrow-only{display:none}
svg text{font-family:inherit!important}
.net{display:block;width:100%;height:auto;margin:1rem 0 .2rem}
.net text{fill:var(--quiet);font-size:12px;text-anchor:middle}.net .width{fill:var(--ink);font-size:14px;font-weight:600}
.net .layer{fill:var(--blue)}.net .before{fill:var(--blue);opacity:.28}.net .maps{fill:var(--blue);opacity:.13}
.row{display:grid;grid-template-columns:4.5rem minmax(8rem,1fr) minmax(0,17rem);
gap:.9rem;align-items:center;font-size:.9375rem;padding:.22rem 0}
.row b{font-weight:400;color:var(--quiet)}
.bar{display:flex;height:1.05rem;border-radius:.25rem;overflow:hidden;background:var(--wash);gap:1px}
.bar i,.key i{print-color-adjust:exact;-webkit-print-color-adjust:exact}
.kept{background:var(--blue)}.drop{background:var(--orange)}.constant{background:var(--grey)}.merge{background:var(--green)}
.inactive{background:var(--orange)}.block{background:var(--green)}.other{background:var(--violet)}
.cells .row{grid-template-columns:9rem minmax(8rem,1fr) minmax(0,13rem)}
.cells .row b{overflow-wrap:anywhere;line-height:1.25}.cells .row span{font-variant-numeric:tabular-nums}
.cells .row svg{width:100%;max-width:none;height:1.05rem;overflow:hidden;border-radius:.2rem}
.cells path,.cells svg{print-color-adjust:exact;-webkit-print-color-adjust:exact}
path.kept{fill:var(--blue)}path.drop{fill:var(--orange)}path.merge{fill:var(--green)}path.other{fill:var(--violet)}path.constant{fill:var(--grey)}
details{margin:.4rem 0}summary{cursor:pointer;color:var(--blue);font-size:.9375rem}
.warning{border-left:.25rem solid var(--orange);padding:.1rem 0 .1rem .8rem}
.legend{font-size:.875rem;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem}
.key i{display:inline-block;width:.75em;height:.75em;border-radius:.15em;margin-right:.4em}
.command{font:.8125rem/1.55 ui-monospace,Menlo,Consolas,monospace;background:var(--wash);color:var(--ink);padding:.55rem .8rem;
border-radius:.35rem;margin:1rem 0 0;white-space:pre-wrap;overflow-wrap:anywhere}
sup{line-height:0}
footer{margin-top:2.5rem;padding-top:1rem;border-top:1px solid var(--line);font-size:.875rem;
color:var(--quiet);overflow-wrap:anywhere}
@media (max-width:36rem){main{padding:1.5rem 1rem 3rem}h1{font-size:1.4rem}nav li{grid-template-columns:1.9rem 1fr}
nav li span:last-child{grid-column:2}.row{grid-template-columns:4rem 1fr;gap:.2rem .7rem}
.cells .row{grid-template-columns:7rem 1fr}.row span{grid-column:2}
.facts th{width:8rem}
.wide{min-width:0}.grid thead{display:none}.grid tr{display:block;padding:.5rem 0;border-top:1px solid var(--line)}
.grid tbody tr+tr>*{border-top:0}.grid th,.grid td{display:block;padding:.1rem 0}
.grid td[data-title]{display:flow-root;padding-left:8.2rem}
.grid td:empty{display:none!important}
.grid td[data-title]::before{content:attr(data-title);float:left;width:7.5rem;margin-left:-8.2rem}
.grid td[data-title]::before{color:var(--quiet);font-size:.8125rem}
.grid tbody th{font-weight:600;min-width:0}.grid td:last-child{min-width:0}
.grid tbody th,.grid td:not([data-title]){display:inline-block;margin-right:.5rem}
.grid th[data-of]::before{content:attr(data-of)" "}
.wide-only{display:none}.narrow-only{display:block}}
@media print{:root{color-scheme:light}main{max-width:none;padding:0}body{font-size:10.5pt}section{break-inside:avoid-page}
figure,tr,.command{break-inside:avoid}.scroll{overflow:visible}
nav a{color:inherit;text-decoration:none}
.badge,.net *{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
