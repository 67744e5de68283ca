"""Row frames of a batch as columns of numbers, and the Arrow batch made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from etl_supervisor.ipc import jsontext
from etl_supervisor.model.table import Column, Table
from workers.reader import binary
from workers.reader.columns import convert
from workers.reader.frame import START, Flags, Frames, Integers, Octets, broken
from workers.reader.values import BINARY, TEXT, UNCHANGED, ColumnValues, bytes_array

if TYPE_CHECKING:
    from workers.reader.pgoutput import Transactions


@dataclass(slots=True)
class Changes:
    """Rows of the change log, in the order of the changes that were asked for.

    `number` says which of these changes a row is of, `place` which row of `Rows`; `half` is 1 for the insert of a key change.
    """

    op: Octets
    number: Integers
    place: Integers
    half: Integers
    columns: list[ColumnValues]
    old: list[ColumnValues] | None


class Rows:
    """All row frames of a batch: which frame, which kind, which transaction, which ordinal, which tables."""

    def __init__(
        self, data: Frames, frames: Integers, kinds: Octets, transactions: Transactions, ordinals: Integers
    ) -> None:
        self.data = data
        self.frame, self.kind = frames, kinds
        self.transactions, self.ordinal = transactions, ordinals
        self.lsn = data.int64(data.start[frames] + START)

    def by_table(self) -> dict[int, Integers]:
        """Relation oid -> its rows, in order. A Truncate frame belongs to each table that it names."""
        tables: dict[int, Integers] = {}
        plain = np.flatnonzero(self.kind != ord("T"))
        at = self.data.body[self.frame[plain]]
        self.data.need(at, 4, self.frame[plain], "change", "relation")
        oids = self.data.uint32(at)
        if len(plain):
            order = np.argsort(oids, kind="stable")
            oids, places = oids[order], plain[order]
            first = np.flatnonzero(np.concatenate([[True], oids[1:] != oids[:-1]]))
            edges = [*first.tolist(), len(oids)]
            tables = {
                oid: places[begin:end]
                for oid, begin, end in zip(oids[first].tolist(), edges[:-1], edges[1:], strict=True)
            }
        truncates: dict[int, list[int]] = {}
        for place in np.flatnonzero(self.kind == ord("T")).tolist():
            for oid in self._truncated(int(self.frame[place])):
                truncates.setdefault(oid, []).append(place)
        for oid, cuts in truncates.items():
            known = tables.get(oid, np.empty(0, dtype=np.int64))
            tables[oid] = np.sort(np.concatenate([known, cuts]))
        return tables

    def _truncated(self, frame: int) -> list[int]:
        """Truncate: count(4) options(1) oids(4 each)."""
        message = self.data.message(frame)
        count = int.from_bytes(message[1:5], "big")
        if len(message) < 6 or len(message) != 6 + 4 * count:
            raise broken("Truncate", "relations")
        oids = [int.from_bytes(message[at : at + 4], "big") for at in range(6, len(message), 4)]
        if len(set(oids)) != count:
            raise broken("Truncate", "relations")
        return oids


def build(rows: Rows, changes: Changes, table: Table, schema: pa.Schema) -> pa.RecordBatch:
    """The change-log batch of changes to tables that are like `table`; `schema` is `change_log_schema(table)`."""
    place = changes.place
    moved = changes.half == 1
    columns, special = [], []
    where = f"table {table.name} or one like it"
    for definition, column in zip(table.columns, changes.columns, strict=True):
        array, odd, text = _convert(rows.data, column, definition, where)
        columns.append(array)
        if odd is not None and text is not None:
            special.append((definition.name, text, odd))
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
    return pa.RecordBatch.from_arrays([*meta, *columns], schema=schema)


def _convert(data: Frames, column: ColumnValues, definition: Column, place: str) -> binary.Converted:
    """Typed values, flags of those that the type can't hold, and their texts."""
    if bool((column.kind == BINARY).any()):
        if bool((column.kind == TEXT).any()):
            raise broken("tuple", f"kind of column {definition.name}")
        return binary.convert(data, column, definition, place)
    text = bytes_array(data, column, column.kind == TEXT)
    array, odd = convert(text, definition, place)
    return array, odd, None if odd is None else text.cast(pa.string())


def _operations(op: Octets) -> pa.Array:
    """One-character strings over the codes themselves."""
    offsets = np.arange(len(op) + 1, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(op))]
    return pa.Array.from_buffers(pa.string(), len(op), buffers)


def _unchanged(changes: Changes, table: Table) -> pa.Array:
    """JSON array of the columns that were not sent: one text per distinct combination, not per row."""
    flags = [
        (definition, column.kind == UNCHANGED)
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
    keys = [(d, column) for d, column in zip(table.columns, changes.old, strict=True) if d.key]
    if not keys:
        return pc.if_else(pa.array(moved), pa.scalar("{}"), pa.scalar(None, pa.string()))
    texts = [_text(data, column, definition, f"table {table.name}") for definition, column in keys]
    return jsontext.objects([definition.name for definition, _ in keys], texts)


def _text(data: Frames, column: ColumnValues, definition: Column, place: str) -> pa.Array:
    if bool((column.kind == BINARY).any()):
        return binary.texts(data, column, definition, place)
    return bytes_array(data, column, column.kind == TEXT).cast(pa.string())


def specials(special: list[tuple[str, pa.Array, pa.Array]], count: int) -> pa.Array:
    """JSON object of the values that their columns can't hold; NULL for a row without any."""
    if not special:
        return pa.nulls(count, pa.string())
    texts = [pc.if_else(pc.fill_null(odd, False), text, pa.scalar(None, pa.string())) for _, text, odd in special]
    return jsontext.objects([name for name, _, _ in special], texts)
