"""Libraries that only an extra installs, imported where they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moduli.kernel.errors import MissingExtra


@contextmanager
def needed(library: str, extra: str) -> Iterator[None]:
    """Around an import: where the library is not installed, the error names the extra that installs
    it.

    >>> with needed("nowhere", "torch"):
    ...     import nowhere
    Traceback (most recent call last):
    moduli.kernel.errors.MissingExtra: nowhere is not installed; run: pip install 'moduli[torch]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != library:
            raise
        raise MissingExtra(library, extra) from None
