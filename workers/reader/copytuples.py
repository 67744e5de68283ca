r"""Rows of a binary COPY, read by column with the stream's readers of binary values (`binary`).

    message    [header, before the first tuple]  tuple | trailer
    header     'PGCOPY\n\377\r\n\0'  flags(4)  length of what follows(4)  …
    tuple      columns(2)  { length(4) octets | -1(4) for NULL } …
    trailer    -1(2)

A server writes values in binary with half the CPU that it needs for text, and nothing is parsed here. The tuple of each message must end where its
message ends. (Manual: "COPY", Binary Format.)
"""

from __future__ import annotations

import numpy as np

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.table import Table
from workers.reader import binary
from workers.reader.csv import Converted
from workers.reader.frame import Chunk, Fields, Integers
from workers.reader.rows import specials
from workers.reader.values import BINARY, NULL, ColumnValues

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_FIXED_BYTES = len(_SIGNATURE) + 8
_COUNT_BYTES, _LENGTH_BYTES = 2, 4
_TRAILER = _COUNT_BYTES * b"\xff"
_NULL_LENGTH = 0xFFFFFFFF


class CopyTuples:
    """The rows of one COPY, chunk by chunk. EtlError(PROTOCOL) for bytes that are not rows of this table; never with a value."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._begun = False

    def read(self, chunk: Chunk) -> Converted:
        """The rows of the next chunk."""
        data, start, end = Fields([chunk.data]), chunk.start.copy(), chunk.end
        if len(chunk) and not self._begun:
            self._begun = True
            start[0] += self._header_bytes(bytes(chunk.data[start[0] : end[0]]))
        if len(chunk) and chunk.data[start[-1] : end[-1]] == _TRAILER:
            start, end = start[:-1], end[:-1]
        place = f"table {self._table.name}"
        columns, special = [], []
        for definition, values in zip(self._table.columns, self._tuples(data, start, end), strict=True):
            array, odd, text = binary.convert(data, values, definition, place)
            columns.append(array)
            if odd is not None and text is not None:
                special.append((definition.name, text, odd))
        return Converted(columns, specials(special, len(start)), len(start))

    def _header_bytes(self, message: bytes) -> int:
        if not message.startswith(_SIGNATURE) or len(message) < _FIXED_BYTES:
            raise self._broken("no header")
        return _FIXED_BYTES + int.from_bytes(message[_FIXED_BYTES - _LENGTH_BYTES : _FIXED_BYTES])

    def _tuples(self, data: Fields, start: Integers, end: Integers) -> list[ColumnValues]:
        """All columns. Places only grow and are held below `limit`, so a wrong length anywhere makes the last place wrong, which is checked."""
        if bool((start + _COUNT_BYTES > end).any()) or bool((data.uint16(start) != len(self._table.columns)).any()):
            raise self._broken("rows of another shape")
        at, columns = start + _COUNT_BYTES, []
        for _ in self._table.columns:
            at = np.minimum(at, data.limit)
            length = data.uint32(at)
            null = length == _NULL_LENGTH
            begin = at + _LENGTH_BYTES
            at = begin + np.where(null, 0, length) if null.any() else begin + length
            columns.append(ColumnValues(np.where(null, NULL, BINARY).astype(np.uint8), begin, at))
        if bool((at != end).any()):
            raise self._broken("rows of another shape")
        return columns

    def _broken(self, what: str) -> EtlError:
        return EtlError(Kind.PROTOCOL, f"table {self._table.name}", f"a binary COPY sent {what}", "report it")
