"""Rows of the columnar decoder and of the plain one in one comparable form: relation oid -> rows in order.

A value of the plain decoder is bytes of text; it is converted alone, so that nothing beside it can make it right or wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from etl_supervisor.errors import EtlError
from etl_supervisor.ipc.arrow import META_FIELDS
from etl_supervisor.model.table import Column, TableName
from tests.support.pgoutput_frames import ColumnOf, Value, frame
from tests.support.pgoutput_reference import Malformed, Reading, Row
from workers.reader import binary
from workers.reader.assembler import Assembler
from workers.reader.batch import TableBatch
from workers.reader.catalog import CatalogTable
from workers.reader.columns import convert
from workers.reader.frame import BODY, Chunk, Frames
from workers.reader.pgoutput import PG_EPOCH_US, Decoder
from workers.reader.pgtypes import value_type
from workers.reader.relations import Relations
from workers.reader.values import BINARY, ColumnValues

_BITS = {pa.float32(): pa.int32(), pa.float64(): pa.int64(), pa.date32(): pa.int32()}  # NaN is a value like any other


@dataclass
class Rows:
    """All that a decoder made of a stream."""

    tables: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    end_lsn: int | None = None
    in_transaction: bool = False


def decoder(primary_keys: Mapping[int, frozenset[str]]) -> Decoder:
    """A decoder whose catalog knows these primary keys and nothing else."""

    def catalog(oid: int) -> CatalogTable | None:
        key = primary_keys.get(oid)
        return CatalogTable(oid, TableName("", ""), "f", (), tuple(key), ()) if key is not None else None

    return Decoder(Relations(catalog))


def assembler(memory_max: int = 1 << 20, directory: Path | None = None) -> Assembler:
    """Streamed transactions gather in it, in memory or (beyond `memory_max` bytes) in files."""
    return Assembler(memory_max, 1 << 30, directory, "source s")


def columnar(
    frames: Sequence[bytes], cuts: Iterable[int], decoder: Decoder, assembler: Assembler | None = None
) -> Rows:
    """The rows of the columnar decoder; `cuts` are the places where a batch ends (before the assembler, if there is one)."""
    found, at = Rows(), 0
    for cut in [*sorted(set(cuts) - {0, len(frames)}), len(frames)]:
        chunk, at = Chunk.of(frames[at:cut]), cut
        decoded = decoder.decode([chunk] if assembler is None else list(assembler.take(chunk)))
        found.end_lsn = decoded.end_lsn or found.end_lsn
        assert decoded.rows == sum(segment.batch.num_rows for segment in decoded.segments)
        for segment in decoded.segments:
            found.tables.setdefault(segment.table.oid, []).extend(_of_batch(segment))
    found.in_transaction = decoder.in_transaction
    return found


def plain(reading: Reading) -> Rows:
    """The rows of the plain decoder. Malformed where a value is not of its column's type."""
    found = Rows(end_lsn=reading.end_lsn, in_transaction=reading.in_transaction)
    for row in reading.rows:
        found.tables.setdefault(row.table.oid, []).append(_of_row(row))
    return found


def _of_batch(segment: TableBatch) -> list[dict[str, Any]]:
    segment.batch.validate(full=True)
    names = tuple(column.name for column in segment.table.columns)
    meta = [_comparable(column) for column in segment.batch.columns[: len(META_FIELDS)]]
    values = [_comparable(column) for column in segment.batch.columns[len(META_FIELDS) :]]
    key = {column.name for column in segment.table.key}
    rows = zip(*values, strict=True) if values else [()] * segment.batch.num_rows
    return [
        {
            "op": op,
            "position": (commit_lsn, lsn, index),
            "transaction": (time - PG_EPOCH_US, xid),
            "unchanged": _json(unchanged),
            "old": _json(old),
            "special": _json(special),
            "table": (str(segment.table.name), names, key),
            "values": row,
        }
        for (op, commit_lsn, lsn, index, time, xid, unchanged, old, special), row in zip(
            zip(*meta, strict=True), rows, strict=True
        )
    ]


def _of_row(row: Row) -> dict[str, Any]:
    columns = row.table.columns
    typed = [_typed(column, value) for column, value in zip(columns, row.values, strict=True)]
    special = {column.name: text for column, (_, text) in zip(columns, typed, strict=True) if text is not None}
    return {
        "op": row.op,
        "position": (row.commit_lsn, row.lsn, row.ordinal),
        "transaction": (row.commit_time, row.xid),
        "unchanged": [c.name for c, v in zip(columns, row.values, strict=True) if v.kind == "u"] or None,
        "old": _old_key(row),
        "special": special or None,
        "table": (f"{row.table.schema}.{row.table.name}", tuple(column.name for column in columns), row.key),
        "values": tuple(value for value, _ in typed),
    }


def _old_key(row: Row) -> dict[str, str] | None:
    if row.old is None or not row.key:
        return None if row.old is None else {}
    pairs = zip(row.table.columns, row.old, strict=True)
    return {c.name: _text(c, v) for c, v in pairs if c.name in row.key and v.kind in "tb"} or None


def _typed(column: ColumnOf, value: Value) -> tuple[Any, str | None]:
    """The value in its column's type; and its text if the type can't hold it."""
    definition, text = _definition(column), pa.array([value.data if value.kind == "t" else None], pa.binary())
    try:
        if value.kind == "b":
            array, odd, text = binary.convert(*_alone(value), definition, "a table")
        else:
            array, odd = convert(text, definition, "a table")
    except EtlError as error:
        raise Malformed("a value that is not of its type") from error
    special = text.cast(pa.string())[0].as_py() if odd is not None and odd[0].as_py() and text is not None else None
    return _comparable(array)[0], special


def _text(column: ColumnOf, value: Value) -> str:
    if value.kind == "t":
        return value.data.decode()
    found: str = binary.texts(*_alone(value), _definition(column), "a table")[0].as_py()
    return found


def _alone(value: Value) -> tuple[Frames, ColumnValues]:
    """A binary value in a frame in which there is nothing else."""
    at = np.array([BODY], dtype=np.int64)
    octets = ColumnValues(np.array([BINARY], dtype=np.uint8), at, at + len(value.data))
    return Frames([Chunk.of([frame(1, b"I" + value.data)])]), octets


def _definition(column: ColumnOf) -> Column:
    return Column(column.name, value_type(column.type_oid, column.typmod))


def _comparable(array: pa.Array) -> list[Any]:
    """Python values of which equal ones are equal."""
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us", array.type.tz)).view(pa.int64())
    found: list[Any] = array.view(_BITS[array.type]).to_pylist() if array.type in _BITS else array.to_pylist()
    return found


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)
