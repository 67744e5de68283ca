"""The Arrow schema of a table's change log, and a batch <-> the bytes of a slot.

A row of the change log is the row's position and kind (the `_etl_` fields, first), then the table's columns under their source names.
For a delete only the key columns are set. An update that changes the key is two rows: `D` with the old key, `I` with the new row
and `_etl_old_key`.

Imports pyarrow: children only.
"""

from __future__ import annotations

import pyarrow as pa

from etl_supervisor.model.table import Column, Table
from etl_supervisor.model.types import ValueKind, ValueType

META_FIELDS: tuple[pa.Field, ...] = (
    pa.field("_etl_op", pa.string(), nullable=False),  # I, U, D, T (truncate), R (row of a copy)
    pa.field("_etl_commit_lsn", pa.uint64(), nullable=False),
    pa.field("_etl_lsn", pa.uint64(), nullable=False),
    pa.field("_etl_index", pa.uint32(), nullable=False),
    pa.field("_etl_commit_ts", pa.timestamp("us", "UTC")),  # null for a copy
    pa.field("_etl_xid", pa.int64()),  # null for a copy
    pa.field("_etl_unchanged", pa.string()),  # JSON array of the TOAST columns that were not sent
    pa.field("_etl_old_key", pa.string()),  # JSON object: the key that this row had before
    pa.field("_etl_special", pa.string()),  # JSON object: column -> text of a value its type can't hold
)

_KIND, _KEY = b"kind", b"key"
_ARROW = {
    ValueKind.BOOLEAN: pa.bool_(),
    ValueKind.INT16: pa.int16(),
    ValueKind.INT32: pa.int32(),
    ValueKind.INT64: pa.int64(),
    ValueKind.FLOAT32: pa.float32(),
    ValueKind.FLOAT64: pa.float64(),
    ValueKind.TEXT: pa.string(),
    ValueKind.BYTES: pa.binary(),
    ValueKind.DATE: pa.date32(),
    ValueKind.TIMESTAMP: pa.timestamp("us"),
    ValueKind.TIMESTAMPTZ: pa.timestamp("us", "UTC"),
    ValueKind.UUID: pa.string(),
    ValueKind.JSON: pa.string(),
    ValueKind.JSON_TEXT: pa.string(),
}


def arrow_type(value: ValueType) -> pa.DataType:
    """The Arrow type in which values of `value` travel."""
    if value.kind is ValueKind.NUMERIC:
        return pa.decimal128(value.precision, value.scale)
    return _ARROW[value.kind]


def change_log_schema(table: Table) -> pa.Schema:
    """The schema of every segment of `table` in this version of its shape; each field tells its kind of value, and if it is of the key."""
    columns = [pa.field(column.name, arrow_type(column.type), metadata=_told(column)) for column in table.columns]
    return pa.schema([*META_FIELDS, *columns])


def _told(column: Column) -> dict[bytes, bytes]:
    return {_KIND: column.type.kind.value.encode()} | ({_KEY: b"1"} if column.key else {})


def key_fields(schema: pa.Schema) -> list[str]:
    """The columns of a change-log schema that identify a row."""
    return [field.name for field in schema if field.metadata and _KEY in field.metadata]


def kind_of(field: pa.Field) -> ValueKind:
    """The kind of value of a change-log field; meta fields are texts and numbers."""
    metadata = field.metadata or {}
    return ValueKind(metadata[_KIND].decode()) if _KIND in metadata else ValueKind.TEXT


def ipc_size(batch: pa.RecordBatch) -> int:
    """How many bytes `write` will take, schema and end mark included."""
    sink = pa.MockOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return int(sink.size())


def write(buffer: pa.Buffer, batch: pa.RecordBatch) -> int:
    """Write the batch as an Arrow IPC stream into a mutable buffer; returns the bytes used."""
    sink = pa.FixedSizeBufferWriter(buffer)
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    used = int(sink.tell())
    sink.close()
    return used


def read(buffer: pa.Buffer) -> pa.RecordBatch:
    """The batch in a buffer; its arrays lie inside it, nothing is copied."""
    with pa.ipc.open_stream(buffer) as reader:
        return reader.read_next_batch()
