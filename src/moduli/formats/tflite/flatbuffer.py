"""Flatbuffers as trees of tables: read with every size and place checked, and written.

A flatbuffer is tables that point forward at vectors, texts and other tables. Nothing that a file
says of places and lengths is believed: each is compared with the file before anything is made of it,
and all that is made stays within a few times the file, so that vectors which point at one table
again and again do not fill the memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moduli.kernel.errors import UnsupportedModel

SCALARS = {
    "bool": "?", "i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q",
    "u64": "Q", "f32": "f",
}  # fmt: skip
SIZES = {kind: struct.calcsize(code) for kind, code in SCALARS.items()}
WORK = 8  # times the bytes of a file that tables and vectors may take which are read from it
DEEPEST = 8  # tables in tables: a model file has six

Fields = Mapping[int, tuple[str, str]]  # by slot: name and kind
Schema = Mapping[str, Fields]


@dataclass
class Table:
    """A table: what it holds by the names of its fields. A field that is not there has its default.

    Attributes:
        kind: of the schema. unknown: whether the file holds fields that the schema has not.
    """

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    unknown: bool = False

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields.get(name, default)

    def copy(self) -> Table:
        """Another table with the same fields, which can be exchanged."""
        return Table(self.kind, dict(self.fields), self.unknown)


class Damaged(UnsupportedModel):
    """A place or a size that a flatbuffer states is not what its bytes allow."""


class Reader:
    """Reads the tables of one flatbuffer.

    Args:
        data: its bytes, which vectors of bytes stay views of.
        schema: the fields of each kind of table: ``"i32"``, ``"string"``, ``"[f32]"``, ``"table:X"``,
            ``"[table:X]"``, ``"union:SLOT NAME"`` with the name of the field that says its type.
        unions: the kind of table of each type of each union field.
    """

    def __init__(
        self, data: bytes, schema: Schema, unions: Mapping[str, Mapping[int, str]]
    ) -> None:
        self.data, self.view = data, memoryview(data)
        self.schema, self.unions = schema, unions
        self.left = WORK * len(data) + 4096

    def root(self, kind: str) -> Table:
        return self._table(kind, self._offset(0), 0)

    def _number(self, kind: str, place: int) -> Any:
        if not 0 <= place <= len(self.data) - SIZES[kind]:
            raise Damaged(f"byte {place} of {len(self.data)} is read")
        return struct.unpack_from("<" + SCALARS[kind], self.data, place)[0]

    def _offset(self, place: int) -> int:
        """Where the thing lies that an offset points at: always behind it."""
        target = place + int(self._number("u32", place))
        if target <= place or target >= len(self.data):
            raise Damaged(f"byte {place} points at byte {target} of {len(self.data)}")
        return target

    def _spend(self, size: int) -> None:
        self.left -= size + 16
        if self.left < 0:
            raise Damaged("parts point at each other again and again")

    def _table(self, kind: str, place: int, depth: int) -> Table:
        if depth > DEEPEST:
            raise Damaged("tables lie in tables without end")
        listed = place - int(self._number("i32", place))
        length, size = self._number("u16", listed), self._number("u16", listed + 2)
        if length < 4 or length % 2 or size < 4 or place + size > len(self.data):
            raise Damaged(f"the table at byte {place} has no list of fields")
        if listed + length > len(self.data):
            raise Damaged(f"the list of fields at byte {listed} ends behind the file")
        self._spend(length + size)
        found, known = Table(kind), self.schema[kind]
        for slot in range((length - 4) // 2):
            start = int(self._number("u16", listed + 4 + 2 * slot))
            if not start:
                continue
            if slot not in known:
                found.unknown = True
                continue
            name, what = known[slot]
            width = SIZES.get(what, 4)
            if start < 4 or start + width > size:
                raise Damaged(f"field {name!r} at byte {place} lies outside of its table")
            found.fields[name] = self._field(what, place + start, depth, found)
        return found

    def _field(self, what: str, place: int, depth: int, table: Table) -> Any:
        if what in SCALARS:
            return self._number(what, place)
        target = self._offset(place)
        if what == "string":
            return bytes(self._bytes(target))
        if what == "[u8]":
            return self._bytes(target)
        if what.startswith("table:"):
            return self._table(what[6:], target, depth + 1)
        if what.startswith("[table:"):
            return self._tables(what[7:-1], target, depth + 1)
        if what.startswith("union:"):
            kind = self.unions[what[6:]].get(table.get(what[6:], 0))
            # of a table that is not known nothing is looked at
            return (
                Table("?", unknown=True) if kind is None else self._table(kind, target, depth + 1)
            )
        dtype = np.dtype("<" + SCALARS[what[1:-1]])
        count = self._count(target, dtype.itemsize)
        self._spend(count * dtype.itemsize)
        return np.frombuffer(self.data, dtype, count, target + 4)

    def _count(self, place: int, width: int) -> int:
        count = int(self._number("u32", place))
        if count * width > len(self.data) - place - 4:
            raise Damaged(
                f"the vector at byte {place} says it has {count} entries, behind the file"
            )
        return count

    def _bytes(self, place: int) -> memoryview:
        count = self._count(place, 1)
        self._spend(count)
        return self.view[place + 4 : place + 4 + count]

    def _tables(self, kind: str, place: int, depth: int) -> list[Table]:
        count = self._count(place, 4)
        self._spend(4 * count)
        return [self._table(kind, self._offset(place + 4 + 4 * k), depth) for k in range(count)]


class Writer:
    """Writes a tree of tables. What a table points at is laid down behind it.

    Args:
        aligned: fields whose bytes begin at a multiple of so many.
    """

    def __init__(
        self,
        schema: Schema,
        unions: Mapping[str, Mapping[int, str]],
        aligned: Mapping[tuple[str, str], int],
    ) -> None:
        self.schema, self.unions, self.aligned = schema, unions, aligned
        self.out = bytearray()
        self.lists: dict[bytes, int] = {}  # lists of fields, which tables share

    def write(self, root: Table, identifier: bytes) -> bytes:
        """The bytes of the file."""
        self.out += bytes(4) + identifier
        self._point(0, self._table(root))
        return bytes(self.out)

    def _align(self, size: int, ahead: int = 0) -> None:
        """Fill up, so that what follows after so many bytes begins at a multiple of a size."""
        self.out += bytes(-(len(self.out) + ahead) % size)

    def _point(self, place: int, target: int) -> None:
        struct.pack_into("<I", self.out, place, target - place)

    def _table(self, table: Table) -> int:
        if table.unknown:
            raise UnsupportedModel(f"a {table.kind} has fields that are not known here")
        given = [
            (slot, name, what)
            for slot, (name, what) in self.schema[table.kind].items()
            if table.fields.get(name) is not None
        ]
        slots = max((slot for slot, _, _ in given), default=-1) + 1
        starts, size = [0] * slots, 4
        # the widest first, so that each lies at a multiple of its own width
        for slot, _, what in sorted(given, key=lambda g: (-SIZES.get(g[2], 4), g[0])):
            width = SIZES.get(what, 4)
            size += -size % width
            starts[slot] = size
            size += width
        listed = struct.pack(f"<{2 + slots}H", 4 + 2 * slots, size, *starts)
        if listed not in self.lists:
            self._align(2)
            self.lists[listed] = len(self.out)
            self.out += listed
        self._align(max([4, *(SIZES.get(what, 4) for _, _, what in given)]))
        place = len(self.out)
        self.out += bytes(size)
        struct.pack_into("<i", self.out, place, place - self.lists[listed])
        for slot, name, what in given:
            value, at = table.fields[name], place + starts[slot]
            if what in SCALARS:
                struct.pack_into("<" + SCALARS[what], self.out, at, value)
            else:
                aligned = self.aligned.get((table.kind, name), 4)
                self._point(at, self._value(what, value, aligned))
        return place

    def _value(self, what: str, value: Any, aligned: int) -> int:
        if what.startswith(("table:", "union:")):
            return self._table(value)
        if what.startswith("[table:"):
            return self._tables(value)
        if what in ("string", "[u8]"):
            count, raw = len(value), value
        else:
            array = np.ascontiguousarray(value, dtype="<" + SCALARS[what[1:-1]])
            count, raw = array.size, array.tobytes()
            aligned = max(aligned, array.itemsize)
        self._align(max(4, aligned), ahead=4)
        place = len(self.out)
        self.out += struct.pack("<I", count)
        self.out += raw
        if what == "string":
            self.out += b"\0"
        return place

    def _tables(self, tables: list[Table]) -> int:
        self._align(4)
        place = len(self.out)
        self.out += struct.pack("<I", len(tables)) + bytes(4 * len(tables))
        for k, table in enumerate(tables):
            self._point(place + 4 + 4 * k, self._table(table))
        return place
