"""Row frames of a batch as columns of numbers, and the Arrow batch made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from etl_supervisor.ipc import jsontext
from etl_supervisor.ipc.arrow import change_log_schema
from etl_supervisor.model.table import Column, Table
from workers.reader.columns import convert
from workers.reader.frame import MESSAGE, START, Flags, Frames, Integers, Octets, broken

if TYPE_CHECKING:
    from workers.reader.pgoutput import Transactions

_TEXT, _UNCHANGED = ord("t"), ord("u")
_OFFSET_MAX = 2**31 - 1


@dataclass(slots=True)
class TextColumn:
    """One column of many tuples: kind byte, begin and end of the text in the joined frames."""

    kind: Octets
    begin: Integers
    end: Integers

    def pick(self, which: Integers | Flags) -> TextColumn:
        """The same column for some of the tuples."""
        return TextColumn(self.kind[which], self.begin[which], self.end[which])


@dataclass(slots=True)
class Changes:
    """Rows of one table in stream order. `place` indexes `Rows`; `half` is 1 for the insert of a key change."""

    op: Octets
    place: Integers
    half: Integers
    columns: list[TextColumn]
    old: list[TextColumn] | None


class Rows:
    """All row frames of a batch: which frame, which kind, which transaction, which ordinal, which tables."""

    def __init__(
        self, data: Frames, frames: Integers, kinds: Octets, transactions: Transactions, ordinals: Integers
    ) -> None:
        self.data = data
        self.frame, self.kind = frames, kinds
        self.transactions, self.ordinal = transactions, ordinals
        self.lsn = data.uint(data.start[frames] + START, 8)

    def by_table(self) -> dict[int, Integers]:
        """Relation oid -> its rows, in order. A Truncate frame belongs to each table that it names."""
        tables: dict[int, Integers] = {}
        plain = np.flatnonzero(self.kind != ord("T"))
        self.data.need(self.data.start[self.frame[plain]] + MESSAGE + 1, 4, self.frame[plain], "change", "relation")
        oids = self.data.uint(self.data.start[self.frame[plain]] + MESSAGE + 1, 4)
        if len(plain):
            order = np.argsort(oids, kind="stable")
            distinct, first = np.unique(oids[order], return_index=True)
            tables = dict(zip(distinct.tolist(), np.split(plain[order], first[1:]), strict=True))
        for place in np.flatnonzero(self.kind == ord("T")).tolist():
            for oid in self._truncated(int(self.frame[place])):
                known = tables.get(oid, np.empty(0, dtype=np.int64))
                tables[oid] = np.insert(known, int(np.searchsorted(known, place)), place)
        return tables

    def _truncated(self, frame: int) -> list[int]:
        """Truncate: count(4) options(1) oids(4 each)."""
        message = self.data.message(frame)
        count = int.from_bytes(message[1:5], "big")
        if len(message) < 6 or len(message) != 6 + 4 * count:
            raise broken("Truncate", "relations")
        return [int.from_bytes(message[at : at + 4], "big") for at in range(6, len(message), 4)]


def text_array(data: Frames, column: TextColumn) -> pa.Array:
    """The texts of a column as a binary array.

    The joined frames are the data of an array whose offsets alternate gap, value, gap, value, …, gap; `take` of the values copies
    them in C++. (Gaps may have a negative length where rows of one frame lie crosswise: nobody takes a gap.)
    """
    count = len(column.kind)
    wide = len(data.data) > _OFFSET_MAX
    offsets = np.zeros(2 * count + 2, dtype=np.int64 if wide else np.int32)
    offsets[1:-1:2], offsets[2:-1:2], offsets[-1] = column.begin, column.end, len(data.data)
    if not count:
        return pa.array([], pa.binary())
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data.data)]
    whole = pa.Array.from_buffers(pa.large_binary() if wide else pa.binary(), 2 * count + 1, buffers)
    present = column.kind == _TEXT
    values = np.arange(1, 2 * count, 2)
    taken = whole.take(pa.array(values) if present.all() else pa.array(values, mask=~present))
    return taken.cast(pa.binary()) if wide else taken


def build(rows: Rows, changes: Changes, table: Table) -> pa.RecordBatch:
    """The change-log batch of one table."""
    place = changes.place
    moved = changes.half == 1
    columns, special = [], []
    where = f"table {table.name}"
    for definition, column in zip(table.columns, changes.columns, strict=True):
        text = text_array(rows.data, column)
        array, odd = convert(text, definition, where)
        columns.append(array)
        if odd is not None:
            special.append((definition.name, text.cast(pa.string()), odd))
    meta = [
        _operations(changes.op),
        pa.array(rows.transactions.commit_lsn[place].astype(np.uint64)),
        pa.array(rows.lsn[place].astype(np.uint64)),
        pa.array((rows.ordinal[place] + changes.half).astype(np.uint32)),
        pa.array(rows.transactions.commit_ts[place]).cast(pa.timestamp("us", "UTC")),
        pa.array(rows.transactions.xid[place]),
        _unchanged(changes, table),
        _old_key(rows.data, changes, table, moved),
        specials(special, len(place)),
    ]
    return pa.RecordBatch.from_arrays([*meta, *columns], schema=change_log_schema(table))


def _operations(op: Octets) -> pa.Array:
    """One-character strings over the codes themselves."""
    offsets = np.arange(len(op) + 1, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(op))]
    return pa.Array.from_buffers(pa.string(), len(op), buffers)


def _unchanged(changes: Changes, table: Table) -> pa.Array:
    """JSON array of the columns that were not sent: one text per distinct combination, not per row."""
    flags = [
        (definition, column.kind == _UNCHANGED)
        for definition, column in zip(table.columns, changes.columns, strict=True)
    ]
    flags = [(definition, found) for definition, found in flags if bool(found.any())]
    if not flags:
        return pa.nulls(len(changes.op), pa.string())
    packed = np.packbits(np.stack([found for _, found in flags], axis=1), axis=1)
    distinct, inverse = np.unique(packed, axis=0, return_inverse=True)
    texts = [_names(np.unpackbits(bits), [definition for definition, _ in flags]) for bits in distinct]
    return pa.array(texts, pa.string()).take(pa.array(inverse.reshape(-1)))


def _names(bits: Octets, columns: list[Column]) -> str | None:
    found = [column.name for column, bit in zip(columns, bits.tolist(), strict=False) if bit]
    return orjson.dumps(found).decode() if found else None


def _old_key(data: Frames, changes: Changes, table: Table, moved: Flags) -> pa.Array:
    """For the insert of a key change: JSON object of the key that the row had."""
    if changes.old is None:
        return pa.nulls(len(changes.op), pa.string())
    keys = [(d.name, column) for d, column in zip(table.columns, changes.old, strict=True) if d.key]
    if not keys:
        return pa.array(["{}" if flag else None for flag in moved.tolist()], pa.string())
    texts = [text_array(data, column).cast(pa.string()) for _, column in keys]
    return jsontext.objects([name for name, _ in keys], texts)


def specials(special: list[tuple[str, pa.Array, pa.Array]], count: int) -> pa.Array:
    """JSON object of the values that their columns can't hold; NULL for a row without any."""
    if not special:
        return pa.nulls(count, pa.string())
    texts = [pc.if_else(pc.fill_null(odd, False), text, pa.scalar(None, pa.string())) for _, text, odd in special]
    return jsontext.objects([name for name, _, _ in special], texts)
