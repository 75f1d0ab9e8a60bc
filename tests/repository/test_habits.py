"""What contributors and robots rely on: workflows, templates, hooks, fragments, addresses."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib.machinery import SourceFileLoader

import changelog
import pytest
from project import ROOT, files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README_TEST = "pip install -c constraints.txt '.[test]' && pytest"
CHECKS = ("ruff check", "ruff format --check", "mypy --strict src")


def read_yaml(name: str):
    yaml = pytest.importorskip("yaml", reason="no PyYAML, which dask needs; pip install '.[test]'")
    return yaml.safe_load((ROOT / name).read_text())


def script(name: str):
    """A program without a suffix, as a module."""
    loader = SourceFileLoader("script", str(ROOT / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("script", loader))
    loader.exec_module(module)
    return module


# Robots -------------------------------------------------------------------------------------------


def test_the_workflow_runs_the_command_of_the_readme_with_every_version_of_python():
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"]
    said = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert set(jobs["tests"]["strategy"]["matrix"]["python"]) == said
    assert README_TEST in (ROOT / "README.md").read_text()
    assert README_TEST in [step.get("run") for step in jobs["tests"]["steps"]]
    commands = {step.get("run") for step in jobs["checks"]["steps"]}
    assert commands >= {*CHECKS, "sphinx-build -W -q docs docs/_build", ".ci/kernel-coverage"}


def test_what_a_merge_needs_is_what_the_workflow_runs():
    text = (ROOT / ".ci" / "run").read_text()
    for command in (
        *CHECKS,
        README_TEST,
        "pytest -m slow",
        "sphinx-build -W",
        ".ci/kernel-coverage",
    ):
        assert command in text
    for name in ("run", "lowest", "kernel-coverage"):
        assert (ROOT / ".ci" / name).stat().st_mode & 0o111


def test_hooks_use_the_tools_of_this_environment():
    """A hook with a repository of its own would bring versions of its own."""
    (source,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert source["repo"] == "local"
    entries = [hook["entry"].removesuffix(" --force-exclude") for hook in source["hooks"]]
    assert entries == [check.replace(" --check", "") for check in CHECKS]
    assert all(hook["language"] == "system" for hook in source["hooks"])


def test_templates_have_what_the_site_needs():
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))
    assert {path.stem for path in templates} == {"wrong_answer", "crash", "feature"}
    for path in templates:
        assert re.match(r"---\nname: .+\nabout: .+\n(labels: .+\n)?---\n", path.read_text()), (
            path.name
        )
    for name in ("wrong_answer", "crash"):
        assert "SECURITY.md" in (ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.md").read_text()
    assert read_yaml(".github/ISSUE_TEMPLATE/config.yml")["blank_issues_enabled"] is True


def test_the_lowest_versions_run_tests_that_exist():
    lowest = script(".ci/lowest")
    assert [name for name in lowest.CORE if not (ROOT / name).is_file()] == []
    assert len(lowest.lowest()) > 15


# Addresses ----------------------------------------------------------------------------------------


def test_placeholders_of_addresses_stand_in_one_place():
    """Real ones may take their place; then only how to replace them is left of the placeholders."""
    keys = {"Homepage", "Documentation", "Source", "Issues", "Changelog", "Security"}
    assert set(PROJECT["urls"]) == keys
    domain = ".".join(("moduli", "example", "org"))
    holders = {
        path.relative_to(ROOT).as_posix()
        for path in files()
        if domain.encode() in path.read_bytes()
    }
    assert holders <= {"pyproject.toml", "RELEASING.md"}
    placeholders = {key for key, url in PROJECT["urls"].items() if domain in url}
    assert placeholders in (set(), keys), "replace all or none"
    table = (ROOT / "RELEASING.md").read_text()
    assert all(f"| `{key}` |" in table for key in keys)


def test_security_says_where_its_address_is():
    text = (ROOT / "SECURITY.md").read_text()
    assert "`Security` under `[project.urls]`" in text
    assert "SECURITY.md" in (ROOT / "CODE_OF_CONDUCT.md").read_text()


# Fragments ----------------------------------------------------------------------------------------


def test_every_fragment_is_well_formed():
    found = {
        path.name: changelog.faults(path.name, path.read_text()) for path in changelog.fragments()
    }
    assert {name: why for name, why in found.items() if why} == {}


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("Softmax.md", "- It is.\n", "small letters"),
        ("softmax.txt", "- It is.\n", "small letters"),
        ("a.md", "", "begin with"),
        ("a.md", "It is.\n", "begin with"),
        ("a.md", "- It is.\nnot indented.\n", "line 2 begins neither"),
        ("a.md", "- It is.\n\n- It was.\n", "line 2 begins neither"),
        ("a.md", f"- {'x' * 140}.\n", "143 columns"),
        ("a.md", "- It is\n- It was.\n", "full stop"),
    ],
)
def test_a_fragment_of_another_form_is_refused(name, text, why):
    assert any(why in fault for fault in changelog.faults(name, text))


def test_fragments_are_assembled(tmp_path):
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.1.0 (unreleased)\n\n- Old.\n")
    texts = {"README.md": "x", "b.md": "- Second\n  line.\n", "a.md": "- First.\n- More.\n"}
    for name, text in texts.items():
        (tmp_path / "changelog.d" / name).write_text(text)
    with pytest.raises(SystemExit):
        changelog.main(["0.1", "soon"], tmp_path)
    assert changelog.main(["--dry-run", "0.1.0"], tmp_path) == 0
    assert len(changelog.fragments(tmp_path)) == 2
    assert changelog.main(["0.1.0", "2027-03-01"], tmp_path) == 0
    body = "- First.\n- More.\n- Second\n  line.\n"
    released = f"# Changelog\n\n## 0.1.0 (2027-03-01)\n\n{body}- Old.\n"
    assert (tmp_path / "CHANGELOG.md").read_text() == released
    assert changelog.fragments(tmp_path) == []
    assert (tmp_path / "changelog.d" / "README.md").exists()
    with pytest.raises(ValueError, match="was released on 2027-03-01"):
        changelog.assembled(released, "0.1.0", ["- Late.\n"], None)
    later = changelog.assembled(released, "0.2.0", ["- New.\n"], None)
    assert later == released.replace("## 0.1.0", "## 0.2.0 (unreleased)\n\n- New.\n\n## 0.1.0", 1)


def test_the_changelog_of_this_project_can_be_assembled():
    text = (ROOT / "CHANGELOG.md").read_text()
    found = changelog.assembled(text, "9.9.9", ["- New.\n"], None)
    assert found.startswith("# Changelog\n\n## 9.9.9 (unreleased)\n\n- New.\n\n## ")
    assert set(text.splitlines()) <= set(found.splitlines())
