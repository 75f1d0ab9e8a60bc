"""Tables of handlers, by the names of what they handle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Handler = TypeVar("Handler")


def registrar(
    table: dict[str, Handler], prefix: str = ""
) -> Callable[..., Callable[[Handler], Handler]]:
    """A decorator that enters a function in a table, under names.

    >>> table: dict[str, Callable[[], int]] = {}
    >>> @registrar(table, "aten::")("one", "uno")
    ... def one() -> int:
    ...     return 1
    >>> sorted(table)
    ['aten::one', 'aten::uno']
    """

    def handles(*names: str) -> Callable[[Handler], Handler]:
        def register(handler: Handler) -> Handler:
            table.update((prefix + name, handler) for name in names)
            return handler

        return register

    return handles
