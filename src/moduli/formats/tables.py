"""Tables of numbers from `.csv` and `.npy` files: rows of inputs, and a column to learn."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moduli.common.files import content, load_array, one_line, suffix_of
from moduli.kernel.errors import UnsupportedModel

Array = np.ndarray[Any, np.dtype[np.float64]]
Cells = np.ndarray[Any, np.dtype[Any]]
MOST_BYTES = 2**30
SUFFIXES = (".csv", ".npy")
CLASSES = 2**16  # whole numbers below this may be classes


class Table(NamedTuple):
    """Columns by name; of a file without a header the names are 1, 2, ...

    Attributes:
        path: of the file. names: of the columns. cells: [rows, columns], text or numbers.
    """

    path: str
    names: tuple[str, ...]
    cells: Cells

    def numbers(self, columns: list[int]) -> Array:
        """Some columns as floats, [rows, columns].

        Raises:
            UnsupportedModel: a cell that is no finite number; says which.
        """
        part = self.cells[:, columns]
        try:
            found = part.astype(np.float64)
        except ValueError:
            found = np.vectorize(_number, otypes=[np.float64])(part)
        bad = np.argwhere(~np.isfinite(found))
        if len(bad):
            row, column = bad[0]
            raise UnsupportedModel(
                f"{self.path}: row {row + 1}, column {self.names[columns[column]]!r} holds "
                f"{str(part[row, column])[:40]!r}; finite numbers are needed"
            )
        return np.ascontiguousarray(found)

    def column(self, name: str | None) -> int:
        """The place of a column by its name, or of the last one."""
        if name is None:
            return len(self.names) - 1
        if name not in self.names:
            held = ", ".join(self.names[:20])
            raise UnsupportedModel(f"{self.path}: no column {name!r}; it has {held}")
        return self.names.index(name)

    def targets(self, name: str | None, *, values: bool = False) -> Cells:
        """A column to learn: classes as int64 from 0 on where it holds whole numbers from 0 on, or
        text alone; floats where it holds other numbers or `values` says so.

        Raises:
            UnsupportedModel: text among numbers.
        """
        at = self.column(name)
        if not values and not any(map(_is_number, self.cells[:, at])):
            return np.unique(self.cells[:, at], return_inverse=True)[1].astype(np.int64)
        found = self.numbers([at])[:, 0]
        whole = (found == np.floor(found)) & (found >= 0) & (found < CLASSES)
        return found.astype(np.int64) if whole.all() and not values else found


def _number(cell: Any) -> float:
    return float(cell) if _is_number(cell) else np.nan


def _is_number(cell: Any) -> bool:
    """Whether it can be read as a float; nan is one."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_header(first: list[str], second: list[str]) -> bool:
    """Whether the first line names the columns: no number in it, or text above a number and names
    that are whole numbers.

    Raises:
        UnsupportedModel: text above a number, beside other numbers.
    """
    names = [not _is_number(cell) for cell in first]
    if all(names):
        return True
    odd = next(
        (k for k, (a, b) in enumerate(zip(names, second, strict=False)) if a and _is_number(b)),
        None,
    )
    if odd is None:
        return False
    if all(name or cell.isdigit() for name, cell in zip(names, first, strict=True)):
        return True
    raise UnsupportedModel(
        f"the first line holds {first[odd][:40]!r} above a number, beside other numbers; it is neither names of "
        "columns nor a row"
    )


def read_table(path: str | Path) -> Table:
    """The table in a `.csv` file (commas, semicolons or tabs; the first line is the header where it
    holds text alone, or text above numbers and otherwise whole numbers) or a `.npy` file (two axes).

    Raises:
        UnsupportedModel: no such table, rows of different lengths.
        OSError: the file cannot be opened.
    """
    if suffix_of(path)[0] == ".npy":
        array = load_array(path, MOST_BYTES)
        if array.ndim != 2 or array.dtype.kind not in "fiub" or not array.size:
            raise UnsupportedModel(
                f"{path} holds {array.dtype} {array.shape}; numbers [rows, columns] are needed"
            )
        return Table(str(path), tuple(map(str, range(1, array.shape[1] + 1))), array)
    with one_line(str(path)):
        text = content(path, MOST_BYTES).decode("utf-8-sig")
        first = next(filter(str.strip, text.splitlines()), "")
        mark = next((m for m in ";\t" if m in first and "," not in first), ",")
        try:
            lines = csv.reader(io.StringIO(text), delimiter=mark)
            rows = [row for row in lines if len(row) > 1 or any(map(str.strip, row))]
        except csv.Error as error:
            raise UnsupportedModel(f"no table of cells ({error})") from None
        rows = [[cell.strip() for cell in row] for row in rows]
        header = bool(rows) and _is_header(rows[0], rows[1] if len(rows) > 1 else [])
        body = rows[1:] if header else rows
        if not body:
            raise UnsupportedModel("no rows of numbers")
        short = next((k for k, row in enumerate(body, 1) if len(row) != len(rows[0])), None)
        if short is not None:
            raise UnsupportedModel(
                f"row {short} has {len(body[short - 1])} cells and the first line {len(rows[0])}"
            )
        names = tuple(rows[0]) if header else tuple(map(str, range(1, len(rows[0]) + 1)))
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UnsupportedModel(f"two columns are named {twice[:40]!r}")
    return Table(str(path), names, np.array(body, dtype=object))
