"""Parameters of the library as the command line has them: in answers, in messages and on pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moduli.kernel.errors import Asked, ModuliError

if TYPE_CHECKING:
    from moduli.kernel.box import Box

TYPED = {
    "on": "--on box:LO,HI", "eps": "--eps E", "radius": "--radius R", "skip": "skip=True, in Python",
    "on, units": "--on gaussian --units M", "group lasso": "moduli train --group-lasso L",
}  # fmt: skip


def in_options(text: str) -> str:
    """Parameters in brackets, as they are typed here.

    >>> in_options("a smaller box (on), or a tolerance on it (eps)")
    'a smaller box (--on box:LO,HI), or a tolerance on it (--eps E)'
    """
    for name, typed in TYPED.items():
        text = text.replace(f"({name})", f"({typed})")
    return text


MOST_ENDS = 6  # of a box, that a message spells


def option(asked: Asked) -> str:
    """A parameter of the library as it is typed here."""
    name = f"--{asked.parameter.replace('_', '-')}"
    if asked.value is None and asked.parameter != "on":
        return f"no {name}"
    if asked.value is False:
        return f"--no-{name[2:]}"
    typed = _typed(asked)
    return f"{name} {typed}" if typed else name


def _typed(asked: Asked) -> str:
    """What stands behind an option; nothing behind a flag."""
    from moduli.common.domains import Gaussian, Grid, Samples
    from moduli.kernel.box import Box

    value = asked.value
    if value is True:
        return ""
    if isinstance(value, Box):
        return _typed_box(value)
    if isinstance(value, Grid):
        ends = "" if value.box is None else _typed_box(value.box).removeprefix("box")
        kernels = "" if value.kernels is None else f" --kernels {value.kernels}"
        return f"grid{ends}{kernels}"
    domains = {type(None): "all", Box: "box", Gaussian: "gaussian", Samples: "FILE.npz"}
    kind = value if isinstance(value, type) else type(value)
    if kind in domains:
        return domains[kind]
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else asked.written


def _typed_box(box: Box) -> str:
    ends = []
    for end in (box.low, box.high):
        numbers = [f"{number:g}" for number in end.ravel().tolist()]
        ends.append(numbers[:1] if len(set(numbers)) == 1 else numbers)
    if max(map(len, ends)) > MOST_ENDS:
        return "box"
    between = "," if len(ends[0]) == len(ends[1]) == 1 else ";"
    return f"box:{between.join(map(','.join, ends))}"


def in_words_of_commands(error: ModuliError) -> str:
    """A message of the library with its parameters as options."""
    return "".join(option(part) if isinstance(part, Asked) else part for part in error.parts)
