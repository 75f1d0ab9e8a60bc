"""Every error this library raises on purpose.

    ModuliError
    |- ArgumentError(ValueError)       an argument that cannot be, or several that do not go together
    |- UnsupportedModel(ValueError)    a model that cannot be read, and the first thing not understood
    |- ShapeError(ValueError)          two shapes that do not fit
    |- Undecided(RuntimeError)         no answer; carries the best bounds so far
    |  |- BudgetExhausted              the node budget ran out
    |  |- PrecisionExhausted           numbers of the allowed length do not decide
    |- CertificateRejected             the move that fails, and its precondition
    |- MissingExtra(ImportError)       the pip command that helps

`exit_code` is what the command line returns: 1 no, 2 usage, 3 undecided, 4 cannot read.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """A parameter of a public function in a message, spelled as in Python. Whoever has another
    spelling, as the command line has, writes it from the fields.

    Attributes:
        parameter: its name. value: what was given, or should be; `...` for the name alone. text:
            how Python writes the value, where that is not its repr.

    >>> f"{Asked('eps', 0.1)} {Asked('on', type(None), 'Samples(x)')} {Asked('keys')}"
    'eps=0.1 on=Samples(x) keys='
    """

    parameter: str
    value: object = ...
    text: str = ""

    @property
    def written(self) -> str:
        """The value as Python writes it; of a class, its name."""
        if self.text or self.value is ...:
            return self.text
        return self.value.__name__ if isinstance(self.value, type) else repr(self.value)

    def __str__(self) -> str:
        return f"{self.parameter}={self.written}"


class ModuliError(Exception):
    """Base of all errors of this library; the message is one printable line, whatever names and
    values files bring.

    Attributes:
        parts: the message in parts; those about a parameter are `Asked`.
    """

    exit_code = 2

    def __init__(self, *parts: str | Asked) -> None:
        super().__init__(printable("".join(map(str, parts))))
        self.parts = parts

    def _render_traceback_(self) -> list[str]:
        """In notebooks, where this is asked for: the message says it all."""
        return [f"{type(self).__name__}: {self}"]

    @property
    def parameter(self) -> str | None:
        """The parameter that the message names first, or None."""
        return next((part.parameter for part in self.parts if isinstance(part, Asked)), None)

    def at(self, place: str) -> ModuliError:
        """The same error, saying first where it happened."""
        return type(self)(f"{place}: ", *self.parts)


class ArgumentError(ModuliError, ValueError):
    """An argument that cannot be, or several that do not go together."""


class UnsupportedModel(ModuliError, ValueError):
    """A model that cannot be read; names the first operation or value not understood and the way
    out.
    """

    exit_code = 4


class ShapeError(ModuliError, ValueError):
    """Two shapes that do not fit; names both."""


class Undecided(ModuliError, RuntimeError):
    """The question was not settled.

    Attributes:
        lower, upper: the best bounds known when the search stopped, or None.
    """

    exit_code = 3

    def __init__(
        self, *parts: str | Asked, lower: float | int | None = None, upper: float | int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(*parts)
        self.lower, self.upper = lower, upper


class BudgetExhausted(Undecided):
    """The deterministic node budget ran out."""


class PrecisionExhausted(Undecided):
    """Numbers of the length that is allowed do not decide: enclosures too wide, or rationals with
    too many digits.
    """


class CertificateRejected(ModuliError):
    """A certificate that does not prove its claim; names the move and the precondition that failed."""

    exit_code = 1


class MissingExtra(ModuliError, ImportError):
    """An optional dependency is absent."""

    exit_code = 4

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'moduli[{extra}]'")


def printable(text: str) -> str:
    """One line of at most 1000 characters, none of which controls a terminal."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text[:4000].split()))
    return line if len(line) <= 1000 else f"{line[:990]} ..."
