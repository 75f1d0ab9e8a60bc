"""Sphinx: `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

project = "moduli"
author = "The moduli developers"
copyright = author
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/*", "auto_gallery/*.md5", "**sg_execution_times.rst"]
default_role = "code"
nitpicky = False

myst_heading_anchors = 3
suppress_warnings = ["config.cache"]  # a function in the settings of the gallery

napoleon_custom_sections = [("Attributes", "params_style")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = [] if importlib.util.find_spec("torch") else ["torch"]
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = f"moduli {release}"
html_static_path = ["_static"]
html_css_files = ["moduli.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}


def pictures(block: Any, block_vars: Any, gallery_conf: Any) -> str:
    """The figure of the axes that a block ends with: `plot()` of a result makes one that pyplot
    does not know.
    """
    from matplotlib.axes import Axes
    from sphinx_gallery.scrapers import figure_rst

    last = block_vars["example_globals"].get("___")
    axes = [
        ax for ax in (last if isinstance(last, (tuple, list)) else [last]) if isinstance(ax, Axes)
    ]
    if not axes or getattr(axes[0].figure, "in_gallery", False):
        return ""
    axes[0].figure.in_gallery = True
    path = next(block_vars["image_path_iterator"])
    axes[0].figure.savefig(path, dpi=120)
    return figure_rst([path], gallery_conf["src_dir"])


sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "within_subsection_order": "FileNameSortKey",
    "filename_pattern": r"plot_",
    "run_stale_examples": True,  # the library may have changed
    "abort_on_example_error": True,
    "only_warn_on_example_error": False,
    "capture_repr": ("__repr__",),
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "remove_config_comments": True,
    "image_scrapers": ("matplotlib", pictures),
    "ignore_repr_types": r"matplotlib|tuple",
    "reset_modules": ("matplotlib",),
}

HIDDEN = "\ue000"


def _plain(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings say |x| for a size, * for a product and a_i for an entry: no markup of
    reStructuredText is meant.
    """
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(`+[^`]*`+)", line)
            lines[i] = "".join(
                p if p.startswith("`") else re.sub(r"(?<!\\)([|])", r"\\\1", p) for p in parts
            )


def _hide(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Before napoleon, which would read what stands before a colon in the first line of an
    attribute as its type.
    """
    if what in ("attribute", "property", "data") and lines:
        lines[0] = lines[0].replace(":", HIDDEN)


def _one_a_line(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings may describe several arguments in one line, "low: of the box. high: ..."; napoleon
    wants one in each.
    """
    inside, out = False, []
    for line in lines:
        if line.strip() and not line.startswith(" "):
            inside = line.strip() in ("Args:", "Attributes:", "Raises:")
        parts = re.split(r"(?<=[.)]) (?=[A-Za-z]\w*(?:, \w+)*: )", line) if inside else [line]
        out += [parts[0], *("    " + part for part in parts[1:])]
    lines[:] = out


def _show(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(HIDDEN, ":") for line in lines]


def setup(app: Any) -> None:
    for listener, priority in ((_plain, 100), (_hide, 100), (_one_a_line, 100), (_show, 900)):
        app.connect("autodoc-process-docstring", listener, priority=priority)
