"""Rows of a copy: COPY's CSV -> Arrow strings -> change-log batches, by the same converters as the stream's.

Threads read and convert; in which order their pieces are published is told at the end (`placed`), so that positions rise in the channel.
"""

from __future__ import annotations

import codecs
import contextlib
import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.arrow import change_log_schema
from etl_supervisor.model.table import Table
from workers.reader.columns import convert
from workers.reader.frame import Chunk, Fields
from workers.reader.rows import specials
from workers.reader.values import TEXT, ColumnValues, bytes_array

NULL_TEXT = "\\N"


@dataclass(frozen=True, slots=True)
class Converted:
    """Rows of a table in its types: one array per column, and the texts of special values."""

    columns: list[pa.Array]
    special: pa.Array
    rows: int


def text_of(chunk: Chunk) -> bytes:
    """The lines of a COPY, without what stands between them."""
    if not len(chunk):
        return b""
    lines = ColumnValues(np.full(len(chunk), TEXT, dtype=np.uint8), chunk.start, chunk.end)
    joined = bytes_array(Fields([chunk.data]), lines, np.ones(len(chunk), dtype=np.bool_)).buffers()[2]
    text: bytes = joined.to_pybytes()
    return text[: int((chunk.end - chunk.start).sum())]


def parse_lines(chunk: bytes, rows: int, table: Table) -> pa.RecordBatch:
    """Rows of a COPY as Arrow strings. EtlError for bytes that are not as many rows of this table; never with a value."""
    if chunk.startswith(codecs.BOM_UTF8):
        chunk = codecs.BOM_UTF8 + chunk  # the parser takes the first away, and the row's own must stay
    place = f"table {table.name}"
    try:
        parsed = _parse(chunk, table)
    except pa.ArrowInvalid:
        with contextlib.suppress(UnicodeDecodeError):
            chunk.decode()
            raise EtlError(Kind.PROTOCOL, place, "COPY sent rows of another shape", "report it") from None
        raise EtlError(
            Kind.SCHEMA, place, "a row holds text that is not UTF-8", "use a database with server_encoding UTF8"
        ) from None
    if parsed.num_rows != rows:
        raise EtlError(Kind.PROTOCOL, place, "COPY sent rows that run into each other", "report it")
    return parsed


def converted(table: Table, strings: pa.RecordBatch) -> Converted:
    """`strings` has one string column per column of the table, in order; for a table without columns one that says nothing but how many rows
    there are."""
    columns, special = [], []
    for definition, text in zip(table.columns, strings.columns, strict=bool(table.columns)):
        array, odd = convert(text.cast(pa.binary()), definition, f"table {table.name}")
        columns.append(array)
        if odd is not None:
            special.append((definition.name, text, odd))
    return Converted(columns, specials(special, strings.num_rows), strings.num_rows)


def placed(table: Table, rows: Converted, commit_lsn: int, piece: int) -> pa.RecordBatch:
    """Rows as `R` at (commit_lsn, number of the piece, number of the row in it)."""
    count = rows.rows
    meta = [
        pa.repeat(pa.scalar("R", pa.string()), count),
        pa.array(np.full(count, commit_lsn, dtype=np.uint64)),
        pa.array(np.full(count, piece, dtype=np.uint64)),
        pa.array(np.arange(count, dtype=np.uint32)),
        pa.nulls(count, pa.timestamp("us", "UTC")),
        pa.nulls(count, pa.int64()),
        pa.nulls(count, pa.string()),
        pa.nulls(count, pa.string()),
        rows.special,
    ]
    return pa.RecordBatch.from_arrays([*meta, *rows.columns], schema=change_log_schema(table))


def _parse(chunk: bytes, table: Table) -> pa.RecordBatch:
    """CSV text to Arrow strings: unquoted \\N is NULL, everything quoted is itself."""
    names_ = [str(number) for number in range(max(1, len(table.columns)))]  # a table without columns has empty lines
    parsed = pyarrow.csv.read_csv(
        io.BytesIO(chunk),
        read_options=pyarrow.csv.ReadOptions(column_names=names_, block_size=len(chunk) + 1, use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names_, pa.string()),
            null_values=[NULL_TEXT],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return parsed.combine_chunks().to_batches()[0]
