"""Rows of a copy -> change-log batches, by the same converters as the stream's."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from etl_supervisor.ipc.arrow import change_log_schema
from etl_supervisor.model.table import Table
from workers.reader.columns import convert
from workers.reader.rows import specials


def from_csv(
    table: Table, strings: pa.RecordBatch, commit_lsn: int, range_number: int, first_row: int
) -> pa.RecordBatch:
    """Rows are `R` at (commit_lsn, range_number, row number). `strings` has one string column per column of the table, in order;
    for a table without columns one that says nothing but how many rows there are."""
    count = strings.num_rows
    columns, special = [], []
    for definition, text in zip(table.columns, strings.columns, strict=bool(table.columns)):
        array, odd = convert(text.cast(pa.binary()), definition, f"table {table.name}")
        columns.append(array)
        if odd is not None:
            special.append((definition.name, text, odd))
    meta = [
        pa.repeat(pa.scalar("R", pa.string()), count),
        pa.array(np.full(count, commit_lsn, dtype=np.uint64)),
        pa.array(np.full(count, range_number, dtype=np.uint64)),
        pa.array(np.arange(first_row, first_row + count, dtype=np.uint32)),
        pa.nulls(count, pa.timestamp("us", "UTC")),
        pa.nulls(count, pa.int64()),
        pa.nulls(count, pa.string()),
        pa.nulls(count, pa.string()),
        specials(special, count),
    ]
    return pa.RecordBatch.from_arrays([*meta, *columns], schema=change_log_schema(table))
