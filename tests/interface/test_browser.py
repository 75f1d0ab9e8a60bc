"""The report in a browser: nothing in its console, nothing wider than the screen, dark, in print.

Skipped, loudly, where there is no Chromium.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import moduli as mo

pytestmark = pytest.mark.slow
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-sync", "--disable-background-networking", "--disable-component-update",
    "--enable-logging=stderr",
)  # fmt: skip
MEASURE = """
const seen = {};
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, root = page.documentElement;
  const wide = [...page.querySelectorAll("body *")].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width && !e.closest("svg") && !e.closest(".scroll") && box.right > root.clientWidth + 1;
  }).map(e => e.outerHTML.slice(0, 80));
  seen[frame.id] = {
    scroll: root.scrollWidth, client: root.clientWidth, wide,
    paper: getComputedStyle(page.body).backgroundColor, ink: getComputedStyle(page.body).color,
    plots: [...page.querySelectorAll("figure svg")].map(e => e.getBoundingClientRect().width).filter(w => w),
    column: page.querySelector("section").getBoundingClientRect().width,
    sections: page.querySelectorAll("section").length,
  };
}
document.body.dataset.seen = JSON.stringify(seen);
"""


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    if BROWSER is None:
        warnings.warn("NO BROWSER: the report is not looked at; install chromium", stacklevel=1)
        pytest.skip("no chromium")
    rng = np.random.default_rng(0)
    parts = []
    for n, m in pairwise((4, 5, 4, 2)):
        parts += [rng.normal(size=(m, n)), rng.normal(size=m)]
    net = mo.Network.mlp(*parts, activation="relu")
    return {
        "chain": mo.report(net, on=mo.Box(-1, 1), budget=200).html,
        "graph": mo.report("zoo:person-detector", on=mo.Box(0, 1)).html,
    }


def seen(
    pages: dict[str, str], folder: Path, *more: str
) -> tuple[dict[str, dict[str, object]], str]:
    """What a browser finds of every page at 400 and 1400 pixels, and its log."""
    frames = []
    for name, page in pages.items():
        for width in (400, 1400):
            source = html.escape(page, quote=True)
            frames.append(
                f'<iframe id="{name} {width}" style="width:{width}px;border:0" srcdoc="{source}"></iframe>'
            )
    script = f"<script>addEventListener('load', () => {{{MEASURE}}})</script>"
    file = folder / "frames.html"
    file.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>{"".join(frames)}{script}')
    done = browse(folder, "--dump-dom", *more, file.as_uri())
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), done.stderr


def browse(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [BROWSER, *OPTIONS, f"--user-data-dir={folder / 'profile'}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)


def brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_pages_fit_screens_of_400_and_1400_pixels_without_a_word_in_the_console(pages, tmp_path):
    found, log = seen(pages, tmp_path)
    assert "CONSOLE" not in log
    assert len(found) == 4
    for name, page in found.items():
        assert page["scroll"] <= page["client"], (name, page["wide"])
        assert page["wide"] == [], name
        assert page["sections"] >= 5
        assert brightness(str(page["paper"])) > 240 > 60 > brightness(str(page["ink"]))
        for width in page["plots"]:  # as wide as the column, but drawings of layers
            assert width <= page["column"] + 1
    assert any(
        width > 0.95 * found["chain 1400"]["column"] for width in found["chain 1400"]["plots"]
    )


def test_dark_is_dark(pages, tmp_path):
    found, log = seen(
        pages, tmp_path, "--force-dark-mode", "--blink-settings=preferredColorScheme=0"
    )
    assert "CONSOLE" not in log
    for page in found.values():
        assert brightness(str(page["paper"])) < 40 < 200 < brightness(str(page["ink"]))


def test_it_is_printed(pages, tmp_path):
    for name, page in pages.items():
        source, target = tmp_path / f"{name}.html", tmp_path / f"{name}.pdf"
        source.write_text(page)
        browse(tmp_path, f"--print-to-pdf={target}", source.as_uri())
        data = target.read_bytes()
        assert data.startswith(b"%PDF")
        assert 2 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 30
