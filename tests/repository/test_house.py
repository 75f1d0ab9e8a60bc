"""The rules of the house: floors, lazy imports, names, docstrings, and nothing of any one machine
in the repository.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import ROOT, files

import moduli as mo

SOURCE = ROOT / "src" / "moduli"
# What the modules of a package may import beside each other; the longest name that fits a module
# counts.
MAY_IMPORT: dict[str, set[str]] = {
    "kernel": set(),
    "common": {"kernel"},
    "formats": {"kernel", "common"},
    "compression": {"kernel", "common"},
    "compression.torch_blocks": {"kernel", "common", "formats", "compression"},
    "compression.torch_pruning": {"kernel", "common", "formats", "compression"},
    "piecewise": {"kernel", "common", "compression.results", "compression.exact"},
    "equivalence": {"kernel", "common", "compression", "piecewise"},
    "capacity": {"kernel", "common", "compression", "equivalence"},
    "training": {"kernel", "common", "formats"},
    "api": {
        "kernel",
        "common",
        "formats",
        "compression",
        "piecewise",
        "equivalence",
        "capacity",
        "training",
    },
    "interface": {
        "kernel",
        "common",
        "formats",
        "compression",
        "piecewise",
        "equivalence",
        "capacity",
        "training",
        "api",
        "pytorch",
        "",
    },
    "pytorch": {"kernel", "common", "formats", "compression", "training"},
    "": {
        "kernel",
        "common",
        "formats",
        "compression",
        "equivalence",
        "training",
        "api",
        "interface",
    },
    "zoo": {""},
}
BY_NAME = {"", "pytorch", "training.job_store"}  # these import what a table or a caller names
KERNEL_LINES = 15000  # without blank ones: what a sceptic reads
HEAVY = {
    "scipy", "rich", "matplotlib", "onnx", "onnxruntime", "torch", "safetensors", "click", "dask",
    "distributed", "sklearn", "h5py",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module by its name below the package; the package itself is called ""."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {
        name: path for name, path in found.items() if name != "zoo.make"
    }  # a script: it trains the zoo


MODULES = modules()


def imports(tree: ast.AST, *, lazily: bool = True, for_types: bool = True) -> Iterator[str]:
    """What a module imports, with a dot for each level of a neighbour; also by strings, in
    functions and for types.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not for_types:
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not lazily:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            joint = "" if base.endswith(".") else "."
            yield from (base + joint + alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (a.value if isinstance(a, ast.Constant) else "?" for a in node.args[:1])
        yield from imports(node, lazily=lazily, for_types=for_types)


def neighbours(name: str, **how: bool) -> set[str]:
    """The modules of this package that a module imports."""
    path, found = MODULES[name], set()
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for target in imports(ast.parse(path.read_text()), **how):
        level = len(target) - len(target.lstrip("."))
        parts = target.lstrip(".").split(".")
        if level:
            parts = [*package[: len(package) - level + 1], *parts]
        elif parts[0] == "moduli":
            parts = parts[1:]
        else:
            continue
        while parts and ".".join(parts) not in MODULES:  # a name in a module
            parts.pop()
        found.add(".".join(parts))
    return found - {name}


def fits(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def home(name: str) -> str:
    """The entry of the table that speaks of a module."""
    return max((package for package in MAY_IMPORT if fits(name, package)), key=len, default="")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_its_own_package_and_those_below(name):
    package = home(name)
    allowed = MAY_IMPORT[package] | ({package} if package else set())
    wrong = [
        other
        for other in neighbours(name)
        if not any(other == p or (p and fits(other, p)) for p in allowed)
    ]
    assert not wrong, f"{name} imports {wrong}; {package} may import {sorted(allowed)}"


def test_no_modules_import_each_other_in_a_circle():
    """Not even lazily or for types; what only names things, a package's own first file or a door,
    stands aside.
    """
    edges = {
        name: neighbours(name)
        for name, path in MODULES.items()
        if path.stem != "__init__" and name != "pytorch"
    }
    edges = {name: {other for other in found if other in edges} for name, found in edges.items()}
    while free := {name for name, found in edges.items() if not found}:
        edges = {name: found - free for name, found in edges.items() if name not in free}
    assert not edges


def test_the_kernel_imports_no_solver_and_stays_short_enough_to_read():
    kernel = [path for name, path in MODULES.items() if fits(name, "kernel")]
    for path in kernel:
        foreign = {
            target
            for target in imports(ast.parse(path.read_text()))
            if not target.startswith((".", "moduli"))
        }
        roots = {target.split(".")[0] for target in foreign}
        assert roots <= sys.stdlib_module_names | {"numpy", "jaxtyping", "scipy"}, path.name
        solvers = {
            t
            for t in foreign
            if t.startswith("scipy") and not t.startswith(("scipy.sparse", "scipy.special"))
        }
        assert not solvers, path.name
    lines = sum(bool(line.strip()) for path in kernel for line in path.read_text().splitlines())
    assert lines <= KERNEL_LINES
    for page in ("SECURITY.md", "src/moduli/kernel/README.md"):
        assert f"{lines // 1000} {lines % 1000:03} lines" in (ROOT / page).read_text(), page


def test_every_module_of_the_kernel_has_a_test_file_of_its_own():
    for path in (
        path for name, path in MODULES.items() if fits(name, "kernel") and path.stem != "__init__"
    ):
        inside = path.relative_to(SOURCE)
        assert (ROOT / "tests" / inside.parent / f"test_{inside.name}").is_file(), inside


@pytest.mark.parametrize("name", sorted(MODULES))
def test_heavy_libraries_are_imported_where_they_are_needed(name):
    lenders = {
        "interface.cli": {"click"}, "interface.cli_support": {"click"},
        "training.torch_sgd": {"torch"}, "training.torch_layers": {"torch"}, "training.torch_runs": {"torch"},
        "training.torch_filters": {"torch"},
    }  # fmt: skip
    top = {
        target.split(".")[0]
        for target in imports(ast.parse(MODULES[name].read_text()), lazily=False, for_types=False)
    }
    assert not top & HEAVY - lenders.get(name, set())


@pytest.mark.parametrize("name", sorted(MODULES))
def test_only_the_torch_modules_import_torch_and_nothing_imports_the_zoo(name):
    roots = {
        target.lstrip(".").split(".")[0] for target in imports(ast.parse(MODULES[name].read_text()))
    }
    assert "torch" not in roots or name.rpartition(".")[2].startswith("torch_")
    assert fits(name, "zoo") or not any(fits(other, "zoo") for other in neighbours(name))
    assert "?" not in imports(ast.parse(MODULES[name].read_text())) or name in BY_NAME


def test_modules_that_are_torch_classes_are_imported_only_by_each_other_or_where_they_are_needed():
    for name in MODULES:
        if not name.rpartition(".")[2].startswith("torch_"):
            assert not neighbours(name, lazily=False, for_types=False) & {
                "training.torch_sgd",
                "training.torch_layers",
                "training.torch_runs",
                "training.torch_filters",
            }, name


def test_the_import_test_sees_every_way_to_import():
    """A check on the checker: all spellings, at any depth, and no others."""
    text = (
        "import a.b\nfrom .c import d\nfrom . import e\ndef f():\n    from ..g import h\n    import_module('.i', p)\n"
        "    import_module(f'.{p}')\nclass K:\n    import m\nif TYPE_CHECKING:\n    from .n import o\n"
        "try:\n    import q\nexcept ImportError: pass\n"
    )
    tree = ast.parse(text)
    assert sorted(imports(tree)) == sorted(
        ["a.b", ".c.d", ".e", "..g.h", ".i", "?", "m", ".n.o", "q"]
    )
    assert sorted(imports(tree, lazily=False, for_types=False)) == sorted(
        ["a.b", ".c.d", ".e", "m", "q"]
    )
    assert neighbours("kernel.bounds.box_claim") >= {"kernel.errors", "kernel.bounds.sign_splits"}


def test_no_module_or_package_bears_the_name_of_something_public():
    assert not {part for name in MODULES for part in name.split(".")} & set(mo.__all__)


def test_importing_loads_nothing_but_the_package_itself():
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    command = [sys.executable, "-X", "importtime", "-c", "import moduli"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    loaded = [
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    ]
    after_start = loaded[loaded.index("site") + 1 :]
    assert [name for name in after_start if name.split(".")[0] == "moduli"] == ["moduli"]
    foreign = {name.split(".")[0] for name in after_start} - sys.stdlib_module_names - {"moduli"}
    assert not foreign
    assert not {"numpy", "jaxtyping", *HEAVY} & {name.split(".")[0] for name in after_start}


def test_names_are_declared_alike_for_people_and_for_type_checkers():
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    blocks = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    seen = {
        (alias.name, item.module) for block in blocks for item in block.body for alias in item.names
    }
    homes = importlib.import_module("moduli")._HOME
    assert seen == set(homes.items())
    assert set(dir(mo)) == set(mo.__all__)
    with pytest.raises(AttributeError, match="'nothing'"):
        mo.nothing  # noqa: B018


PUBLIC = [name for name in mo.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_things_are_documented(name):
    thing = getattr(mo, name)
    doc = inspect.getdoc(thing) or ""
    assert len(doc.splitlines()[0]) > 10
    if inspect.isfunction(thing):
        assert ">>>" in doc, f"{name} has no executed example"


def _unpacked(folder: Path) -> Path:
    """The project's files elsewhere, with what a user's machine may hold beside them."""
    for path in files():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    junk = f"see {os.sep}root/x\n".encode() + b"\xff"
    for name in (".venv", "venv", "my environment", "tests/inner"):
        (folder / name / "lib").mkdir(parents=True)
        (folder / name / "pyvenv.cfg").write_text("home = somewhere")
        (folder / name / "lib" / "junk.py").write_bytes(junk)
        (folder / name / "lib" / "README.md").write_bytes(junk)
    for name in (
        ".hypothesis/unicode_data/x.gz", ".pytest_cache/README.md", "docs/_build/index.md", "tests/__pycache__/a.pyc",
        ".mypy_cache/a.json", "src/moduli.egg-info/PKG-INFO", "dist/a.tar.gz",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(junk)
    return folder


@pytest.mark.parametrize("around", [False, True])
def test_the_files_of_an_unpacked_archive_are_those_of_the_project(tmp_path, around):
    """Without git, or inside a repository of the user's own; with environments of any name, and
    what tools leave behind.
    """
    if (
        around
        and subprocess.run(
            ["git", "init", "-q", str(tmp_path)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no git")
    unpacked = _unpacked(tmp_path / "moduli")
    assert {path.relative_to(unpacked) for path in files(unpacked)} == {
        path.relative_to(ROOT) for path in files()
    }


def test_an_environment_of_any_name_is_not_listed_by_git_either(tmp_path):
    if subprocess.run(
        ["git", "init", "-q", str(tmp_path)], capture_output=True, check=False
    ).returncode:
        pytest.skip("no git")
    unpacked = _unpacked(tmp_path)
    assert {path.relative_to(unpacked) for path in files(unpacked)} == {
        path.relative_to(ROOT) for path in files()
    }


def test_nothing_of_one_machine_is_in_the_repository():
    """Paths and registry addresses; the patterns are put together here so that this file does not
    hold them.
    """
    folders = (
        "work/",
        "farm/",
        "root/",
        "tmp/[a-z]",
        r"home/\w+/",
        r"Users/\w+/",
        "opt/wheels",
        "opt/pypi",
    )
    hosts = "-".join(("index", "url")), "simple" + "/", r"\.".join(("files", "pythonhosted"))
    pattern = re.compile(rf"(?<![\w.])/({'|'.join(folders)})|{'|'.join(hosts)}")
    for bad in (
        f"see {os.sep}root/x",
        "pip --extra-{}-{} x".format("index", "url"),
        "https://host/{}/".format("simple"),
    ):
        assert pattern.search(bad), "a check on the checker"
    found = []
    for path in files():
        data = path.read_bytes()
        if b"\0" not in data:
            lines = enumerate(data.decode().splitlines(), 1)
            found += [
                f"{path.relative_to(ROOT)}:{n}: {line.strip()}"
                for n, line in lines
                if pattern.search(line)
            ]
    assert not found
    assert len(files()) > 20


def test_large_files_stay_out():
    assert [path.name for path in files() if path.stat().st_size > 2**20] == []


def test_constraints_are_names_and_versions_of_all_that_is_needed():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==\d[\w.]*", line)] == []
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    assert not {name for name in pinned if name.startswith(("nvidia", "triton", "moduli"))}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(need for extra in project["optional-dependencies"].values() for need in extra),
    ]
    names = {re.match(r"[\w.-]+", need)[0].lower() for need in wanted} - {"moduli"}
    assert names <= pinned


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = re.search(r"(?m)^version: (\S+)$", (ROOT / "CITATION.cff").read_text())
    assert citation
    assert mo.__version__ == project["version"] == citation[1].strip("\"'")
