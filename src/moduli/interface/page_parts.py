"""What pages about chains and about graphs share: questions, sections, the page made of them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from moduli.common.domains import Domain
from moduli.common.files import atomic_write
from moduli.common.graph import Graph
from moduli.common.progress import Progress
from moduli.common.result import GLYPHS, Result
from moduli.kernel.box import Box
from moduli.kernel.errors import MissingExtra, ModuliError
from moduli.kernel.network import Network

from .html import MEANING, NOTHING, Markup, badge, commands, document, element, prose
from .wording import in_words_of_commands

Q = TypeVar("Q", bound="Questions")
TRUST = "refuted", "proved", "bounded", "estimated", "undecided"  # from facts to doubts


class Refusal(NamedTuple):
    """Why there is no answer, in one line."""

    why: str


@dataclass(frozen=True)
class Section:
    """A question of the page, and what was found.

    Attributes:
        name: its anchor. title: the question. status: how far the answer is to be trusted; None
            where there is none.
        line: the answer in one line, or why there is none. body: HTML under it. commands: what to
            type to get it again.
        answers: the results it rests on.
    """

    name: str
    title: str
    status: str | None
    line: str
    commands: tuple[str, ...] = ()
    body: Markup = NOTHING
    answers: dict[str, Result] = field(default_factory=dict)

    @property
    def glyph(self) -> str:
        return "" if self.status is None else GLYPHS[self.status]

    def html(self) -> Markup:
        kind = "answer" if self.status else "answer none"
        typed = commands(self.commands) if self.commands else NOTHING
        heading = element("h2", self.title, id=f"{self.name}-title")
        line = element("p", badge(self.glyph), element("span", prose(self.line)), class_=kind)
        return element(
            "section",
            heading,
            line,
            self.body,
            typed,
            id=self.name,
            aria_labelledby=f"{self.name}-title",
        )

    def to_json(self) -> dict[str, Any]:
        answers = {name: answer.to_json() for name, answer in self.answers.items()}
        return {"name": self.name, "title": self.title, "status": self.status, "line": self.line,
                "commands": list(self.commands), "answers": answers}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Report(Result):
    """A page about one network.

    Attributes:
        network, name: whose. sections: in the reader's order. status: of the least trusted section.
        where: on which inputs it was asked, in words.
    """

    network: Network | Graph
    name: str
    sections: tuple[Section, ...]
    where: str = ""
    kind: ClassVar[str] = "report"

    @property
    def statement(self) -> str:
        answered = sum(section.status is not None for section in self.sections)
        return f"{self.name}: {answered} of {len(self.sections)} questions answered"

    def rows(self) -> list[tuple[str, str]]:
        return [
            (section.title, f"{section.glyph} {section.line}".strip()) for section in self.sections
        ]

    def data(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "digest": self.network.digest,
            "where": self.where,
            "sections": [s.to_json() for s in self.sections],
        }

    @property
    def html(self) -> str:
        """The page: one file that needs no other, and no network."""
        lines = (
            element(
                "li",
                badge(s.glyph),
                element("a", s.title, href=f"#{s.name}"),
                element("span", prose(s.line)),
            )
            for s in self.sections
        )
        signs = ", ".join(f"{sign} {meaning}" for sign, meaning in MEANING.values() if sign)
        where = element("p", f"asked {self.where}") if self.where else NOTHING
        header = element(
            "header", element("h1", self.name), element("p", prose(repr(self.network))), where
        )
        trust = element("p", f"{signs}.", class_="trust note")
        nav = element("nav", element("ol", *lines), trust, aria_label="answers")
        footer = element("footer", f"{versions()}; parameters {self.network.digest}")
        main = element("main", header, nav, *(section.html() for section in self.sections), footer)
        return document(f"{self.name}: what moduli finds", main)

    def save(self, path: str | Path) -> Path:
        """Write the page (.html), or its data (.json); the file appears whole or not at all."""
        target = Path(path)
        if target.suffix == ".json":
            return super().save(target)
        if target.suffix not in (".html", ".htm"):
            raise ValueError(f"{path}: a report is written as .html, or its data as .json")
        return atomic_write(target, self.html.encode())


@dataclass(frozen=True)
class Questions:
    """What was asked, each question once, and what was found."""

    found: dict[str, Any] = field(default_factory=dict, kw_only=True)
    progress: Progress | None = field(default=None, kw_only=True)

    def step(self, question: str) -> Progress | None:
        """How far a question is, for whoever looks at the page being made."""
        tell = self.progress
        if tell is None:
            return None
        return lambda done, total, label: tell(done, total, f"{question}: {label}")

    def ask(self, key: str, question: Callable[[], Any]) -> Any:
        """The answer, or a `Refusal`: whatever goes wrong with one question, the others are
        answered.
        """
        if key not in self.found:
            try:
                self.found[key] = question()
            except MissingExtra:
                raise
            except Exception as error:
                kind = type(error).__name__
                if isinstance(error, ModuliError):
                    line = in_words_of_commands(error)
                else:
                    line = str(error) if isinstance(error, ValueError) else f"{kind}: {error}"
                self.found[key] = Refusal(" ".join(line.split()) or kind)
        return self.found[key]


def page_of(
    network: Network | Graph,
    name: str,
    asked: Q,
    order: Sequence[Callable[[Q], Section]],
    progress: Progress | None,
    where: str = "",
) -> Report:
    """A page of sections in this order; it is trusted as far as the least trusted of its answers."""
    made = list[Section]()
    for k, section in enumerate(order):
        if progress is not None:
            progress(k, len(order), section.__name__.strip("_"))
        made.append(section(asked))
    statuses = [section.status for section in made if section.status is not None]
    return Report(max(statuses, key=TRUST.index), network, Path(name).name, tuple(made), where)


def versions() -> str:
    """What made a page."""
    import platform

    import numpy as np

    from moduli import __version__

    return f"moduli {__version__}, Python {platform.python_version()}, NumPy {np.__version__}"


def place(on: Domain, where: str) -> str:
    """Where it is asked, in words; `where` is how the command line has it."""
    if on is None:
        return "on all inputs"
    if not isinstance(on, Box):
        return f"on {on!r}"
    name = shlex.split(where)[0].removeprefix("box:")
    if Path(name).suffix in (".vnnlib", ".npz", ".gz"):
        notes = f" ({'; '.join(on.notes)})" if on.notes else ""
        return f"on the box in {Path(name).name}{notes}"
    return f"on box:{name}"
