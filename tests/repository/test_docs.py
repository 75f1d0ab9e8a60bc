"""The pages under docs: links, named tests, public names, code blocks; with Sphinx, the whole
build.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import moduli as mo

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
ROOT_PAGES = sorted(ROOT.glob("*.md"))  # read where the repository is, and included by pages
PAGES = sorted(
    path for path in DOCS.rglob("*.md") if not {"_build", "auto_gallery"} & set(path.parts)
)
EXAMPLES = sorted((DOCS / "gallery").glob("plot_*.py"))
GALLERY = "auto_gallery"  # made by Sphinx from docs/gallery


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"(?ms)^```.*?^```", "", text))


def fences(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each fenced block."""
    yield from re.findall(r"(?ms)^```(\{?[\w-]*\}?)[^\n]*\n(.*?)^```", text)


def anchors(path: Path) -> set[str]:
    """Of the headings of a page, and of a page that it includes."""
    text = path.read_text()
    included = [
        (path.parent / target).read_text() for target in re.findall(r"```\{include\} (\S+)", text)
    ]
    found = set()
    for heading in re.findall(r"(?m)^#+ (.+)$", "\n".join([text, *included])):
        plain = unicodedata.normalize("NFKC", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def broken(page: Path, text: str) -> list[str]:
    """Links of a page to files or headings that do not exist."""
    out = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if path.parent.name == GALLERY:  # made from the examples
            path = (
                DOCS
                / "gallery"
                / (f"{path.stem}.py" if path.stem != "index" else "GALLERY_HEADER.rst")
            )
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            out.append(link)
    return out


def test_tables_stand_between_empty_lines():
    """Else what follows is a row of the table, and what stands before is none of it."""
    pages = [
        *ROOT_PAGES,
        *PAGES,
        *sorted((ROOT / "benchmarks").rglob("*.md")),
        *(ROOT / "changelog.d").glob("*.md"),
    ]
    wrong = list[str]()
    for path in pages:
        text = re.sub(
            r"(?ms)^```.*?^```$", lambda code: "\n" * code[0].count("\n"), path.read_text()
        )
        lines = ["", *text.split("\n"), ""]
        for number, (one, two) in enumerate(pairwise(lines)):
            if one.startswith("|") != two.startswith("|") and (one + two).strip() not in (one, two):
                wrong.append(f"{name(path)}:{number}")
    assert not wrong


@pytest.mark.parametrize("page", [*ROOT_PAGES, *PAGES], ids=name)
def test_links_lead_somewhere(page):
    assert not broken(page, page.read_text())


MEASURED = re.compile(
    r"(?<![\w.-])\d+(?:\.\d+)? (?:s|ms|seconds|minutes|MB|GB)(?!\w)|\d% |\d -> \d"
)
DATED = re.compile(
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December) 20\d\d"
)


@pytest.mark.parametrize("page", [*ROOT_PAGES, *PAGES, ROOT / "benchmarks" / "README.md"], ids=name)
def test_pages_with_measured_numbers_say_when_they_were(page):
    text = page.read_text()
    assert not MEASURED.search(without_code(text)) or DATED.search(text)


def test_the_link_test_sees_what_is_broken():
    text = "[a](promise.md#slack) [b](nothing.md) [c](promise.md#nothing) [d](auto_gallery/plot_0.rst) `[e](f.md)` [g](https://h)"
    assert broken(DOCS / "index.md", text) == [
        "nothing.md",
        "promise.md#nothing",
        "auto_gallery/plot_0.rst",
    ]


def test_every_page_is_in_a_tree_of_contents():
    listed = set()
    for page in PAGES:
        for language, content in fences(page.read_text()):
            if language == "{toctree}":
                lines = [line for line in content.splitlines() if line and line[0] != ":"]
                listed |= {
                    str((page.parent / re.sub(r".*<(.+)>", r"\1", line)).relative_to(DOCS))
                    for line in lines
                }
    assert {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES} <= listed | {"index"}


def test_named_tests_exist():
    """A row of a table of papers says which test shows the statement; it says so where there is
    none.
    """
    text = (DOCS / "papers.md").read_text()
    cited = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(cited) > 50
    for file in {file for file, _ in cited}:
        functions = {
            node.name
            for node in ast.parse((ROOT / file).read_text()).body
            if isinstance(node, ast.FunctionDef)
        }
        assert {test for other, test in cited if other == file} <= functions, file
    for row in re.findall(r"(?m)^\| (?!statement|---)(.+) \|$", text):
        last = re.split(r"(?<!\\) \| ", row)[-1]
        assert "::" in last or "no test" in last, row


def test_public_names_are_documented():
    text = "\n".join(
        page.read_text()
        for page in PAGES
        if page.name == "choose.md" or page.parent.name == "reference"
    )
    assert not [public for public in mo.__all__ if not re.search(rf"(?<!\w){public}(?!\w)", text)]


def test_documented_names_exist():
    """What the reference asks autodoc for; torch modules by the text of the module that lists them."""
    torch = (ROOT / "src" / "moduli" / "pytorch.py").read_text()
    for page in (DOCS / "reference").glob("*.md"):
        for wanted in re.findall(r"(?m)^\.\. auto(?:function|class):: (\S+)$", page.read_text()):
            *module, last = wanted.split(".")
            if module == ["moduli", "pytorch"]:
                assert f'"{last}"' in torch, wanted
            else:
                assert hasattr(importlib.import_module(".".join(module or ["moduli"])), last), (
                    wanted
                )


def there(dotted: str) -> bool:
    """Whether a name such as moduli.kernel.slack.Slack is a module, or something in one."""
    parts = dotted.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            found = getattr(found, part, None)
        return found is not None
    return False


@pytest.mark.parametrize("page", [*ROOT_PAGES, *PAGES], ids=name)
def test_dotted_names_of_a_page_exist(page):
    """Modules move; pages that name them have to follow."""
    dotted = set(re.findall(r"(?<![\w./-])moduli(?:\.[A-Za-z_]\w*)+", page.read_text()))
    in_files = {f"moduli.{key}" for key in ("certificate", "slack", "version", "example.org")}
    assert [other for other in sorted(dotted - in_files) if not there(other)] == []


def test_the_test_of_dotted_names_sees_what_is_not_there():
    assert all(
        map(
            there,
            ["moduli", "moduli.load", "moduli.kernel.slack.Slack.within", "moduli.kernel.bounds"],
        )
    )
    assert not any(
        map(there, ["moduli.enclosure", "moduli.kernel.slack.Slice", "moduli.kernel.bounds.x"])
    )


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES, DOCS / "conf.py"], ids=name)
def test_nothing_of_one_machine(path):
    assert not re.search(
        r"(?<![\w.:/])/(?:[a-z]+/)*(?:home|root|usr|opt|tmp|work|mnt|Users)/", path.read_text()
    )


@pytest.mark.parametrize("page", [README, *PAGES], ids=name)
def test_python_compiles_and_prompts_run(page):
    for language, content in fences(page.read_text()):
        if language == "python" and ">>>" in content:
            runner = doctest.DocTestRunner(
                optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
            )
            runner.run(doctest.DocTestParser().get_doctest(content, {}, name(page), name(page), 0))
            assert not runner.summarize(verbose=False).failed
        elif language == "python":
            compile(textwrap.dedent(content), name(page), "exec")


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_examples_are_pages(path):
    tree = ast.parse(path.read_text())
    title, line = (ast.get_docstring(tree) or "").splitlines()[:2]
    assert line == "=" * len(title)


def test_commands_print_what_the_page_shows(tmp_path, monkeypatch):
    """Digests too: the zoo is in the repository, and writing it gives the same file."""
    from click.testing import CliRunner

    from moduli.interface.cli import cli

    page = (DOCS / "onnx.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    shown = 0
    for language, content in fences(page):
        if language == "python":
            exec(compile(content, "onnx.md", "exec"), {"mo": mo})
        elif content.startswith("$ moduli "):
            command, _, output = content.partition("\n")
            done = CliRunner().invoke(cli, command.split()[2:])
            assert done.exit_code == 0, done.output
            assert done.stdout.split() == output.split()
            shown += 1
    assert shown == 3


@pytest.mark.slow
def test_sphinx_builds_without_a_warning(tmp_path):
    missing = [
        module
        for module in ("sphinx", "furo", "myst_parser", "sphinx_gallery")
        if not importlib.util.find_spec(module)
    ]
    if missing:
        warnings.warn(
            f"DOCUMENTATION NOT BUILT: {', '.join(missing)} not installed; pip install '.[docs]'",
            stacklevel=1,
        )
        pytest.skip(f"no {', '.join(missing)}; pip install '.[docs]'")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "MPLBACKEND": "Agg"}
    build = [
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-E",
        "-d",
        str(tmp_path / "trees"),
        "docs",
        str(tmp_path / "out"),
    ]
    command = [sys.executable, "-m", *build]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (tmp_path / "out" / "index.html").exists()
    assert len(list((tmp_path / "out" / GALLERY).glob("plot_*.html"))) == len(EXAMPLES)
