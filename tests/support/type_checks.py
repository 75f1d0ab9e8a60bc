"""Annotations of moduli are checked while its tests run: values of arguments and results by beartype, shapes by jaxtyping.

The import hook of jaxtyping does the same, but goes through a frame for shapes at each call of each function, which
made tests on graphs seven times slower. Here only functions whose annotations speak of shapes go through one.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import inspect
import sys
import types
import typing
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

PACKAGE = "moduli"
MARK = "__checked__"  # the name of the decorator in each module
# what is wrong is a TypeError, as without checks: certificates of odd objects are refused for it
CHECK = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))
TAG = "checked-" + hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def install() -> None:
    """From here on modules of the package are imported with checks; none may have been imported before."""
    assert PACKAGE not in sys.modules
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname.partition(".")[0] != PACKAGE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: Any) -> None:
        setattr(module, MARK, checked)
        super().exec_module(module)

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        tree = compile(data, path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
        nodes: list[ast.AST] = [tree]
        for node in nodes:
            nodes += [n for n in ast.iter_child_nodes(node) if not isinstance(n, ast.expr)]
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                mark = ast.copy_location(ast.Name(MARK, ast.Load()), node)
                # below other decorators of a function, which may hide its annotations; above `dataclass`, which writes some
                node.decorator_list.insert(
                    0 if isinstance(node, ast.ClassDef) else len(node.decorator_list), mark
                )
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def get_data(self, path: str) -> bytes:
        return super().get_data(_apart(path))

    def set_data(self, path: str, data: bytes, *, _mode: int = 0o666) -> None:
        super().set_data(_apart(path), data, _mode=_mode)


def _apart(path: str) -> str:
    """Compiled modules with checks are kept beside those without."""
    return path.replace(".pyc", f".{TAG}.pyc") if path.endswith(".pyc") else path


def checked(what: Any) -> Any:
    """A function with the checks of its annotations, a class with those of what `dataclass` writes."""
    if inspect.isclass(what):
        if dataclasses.is_dataclass(what) and "__init__" in vars(what):
            what.__init__ = checked(what.__init__)  # type: ignore[misc]
        return what
    made = _made.get(id(what.__code__))
    if made is None:
        annotations = {name: _meant(hint, what) for name, hint in what.__annotations__.items()}
        made = _made[id(what.__code__)] = _Made(what.__code__, annotations)
    with_checks: Callable[..., Any] | None = None

    @functools.wraps(what)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal with_checks
        if with_checks is None:  # most functions are never called
            with_checks = made.with_checks(what)
        return with_checks(*args, **kwargs)

    return call


@dataclasses.dataclass
class _Made:
    """Functions within functions are made anew at each call of those; their checks are made once, for their code."""

    code: types.CodeType  # kept, as long as its number stands for it
    annotations: dict[str, Any]
    first: Any = None
    checked: Any = None

    def with_checks(self, function: Callable[..., Any]) -> Callable[..., Any]:
        twin = _copy(function, self.annotations)
        if self.checked is None:
            self.first, self.checked = twin, CHECK(twin)
        if self.checked is self.first:  # nothing to check
            return function
        given = self.checked.__kwdefaults__
        assert self.first in given.values()
        same = _copy(self.checked, self.checked.__annotations__)
        same.__kwdefaults__ = {
            name: twin if value is self.first else value for name, value in given.items()
        }
        if not any(map(_speaks_of_shapes, self.annotations.values())):
            return same

        def call(*args: Any, **kwargs: Any) -> Any:
            with jaxtyping.jaxtyped("context"):  # letters in shapes mean the same within one call
                return same(*args, **kwargs)

        return call


_made: dict[int, _Made] = {}


def _copy(function: Any, annotations: dict[str, Any]) -> Any:
    """The same function with other annotations; the declaration itself stays as it is written."""
    same = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    functools.update_wrapper(same, function)
    del same.__wrapped__
    same.__kwdefaults__, same.__annotations__ = function.__kwdefaults__, annotations
    return same


def _meant(hint: Any, function: Callable[..., Any]) -> Any:
    """The annotation that a string stands for; anything where it names what is not there yet, or for type checkers alone."""

    def example() -> None: ...

    example.__annotations__ = {"value": hint}
    try:
        return typing.get_type_hints(example, function.__globals__, include_extras=True)["value"]
    except (NameError, AttributeError):
        return Any


def _speaks_of_shapes(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_speaks_of_shapes, typing.get_args(hint)))
