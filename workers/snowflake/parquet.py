"""A change-log batch -> the Parquet form of its landing table, and the SELECT that a COPY or a pipe reads it with.

Columns have the landing table's names and hold the same target values as the NDJSON form:

    numbers, booleans, dates, timestamps, binary    as Parquet's own types (32-bit floats as the double of their shortest text)
    timestamps with time zone                        as text with +00:00: the offset is then UTC whatever zone a session or a pipe has
    JSON                                             as text, PARSE_JSON in the SELECT; what VARIANT can't hold is a JSON string of it already
    everything else                                  as text

By Arrow's kernels: no Python statement runs per row or per value.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from etl_supervisor.ipc.arrow import arrow_type, kind_of
from etl_supervisor.model.table import Column, Table
from etl_supervisor.model.types import ValueKind, is_special
from workers.snowflake.identifiers import quoted
from workers.snowflake.ndjson import SPECIAL, documents, with_members
from workers.snowflake.sftypes import LANDING_META, column_type

ROW_GROUP_BYTES = (
    32 << 20
)  # in memory; Snowflake reads row groups in parallel, and each is held in memory while it is written
_LSN = pa.decimal128(20, 0)  # unsigned 64 bits
_REPEATED = ["_ETL_OP", "_ETL_GENERATION", "_ETL_LOADED_AT", "_ETL_COMMIT_LSN", "_ETL_COMMIT_TS", "_ETL_XID"]


def form(batch: pa.RecordBatch, table: Table, generation: int, loaded_at: str) -> pa.RecordBatch:
    """The rows as a file has them; arrays that need no change are views of the batch.

    The batch may be of an older shape than `table`: columns that it does not have yet take their default.
    """
    later = [column for column in table.columns if column.name not in batch.schema.names]
    special = {c.name: c.default for c in later if c.default is not None and is_special(c.default, c.type.kind)}
    columns: dict[str, pa.Array] = {
        "_ETL_GENERATION": pa.repeat(pa.scalar(generation, pa.int64()), batch.num_rows),
        "_ETL_LOADED_AT": pa.repeat(loaded_at, batch.num_rows),
    }
    for field, array in zip(batch.schema, batch.columns, strict=True):
        if special and field.name == SPECIAL:
            array = with_members(array, orjson.dumps(special).decode())
        columns[table.landed(field.name)] = written(array, kind_of(field))
    for column in later:
        columns[column.landed] = _default(column, batch.num_rows, known=column.name not in special)
    return pa.RecordBatch.from_pydict({name: columns[name] for name, _ in _landing(table)})


def write(path: Path, batches: Sequence[pa.RecordBatch]) -> int:
    """One file of rows in Parquet form; its size in bytes."""
    rows = pa.Table.from_batches(batches)
    group = max(1, rows.num_rows * ROW_GROUP_BYTES // max(1, rows.nbytes))
    pyarrow.parquet.write_table(
        rows,
        path,
        compression="zstd",
        row_group_size=group,
        use_dictionary=[name for name in _REPEATED if name in rows.column_names],
    )
    return path.stat().st_size


def selection(table: Table) -> tuple[str, str]:
    """The columns of the landing table, and what is selected for them from a file (`$1`)."""
    columns = _landing(table)
    items = [
        f"PARSE_JSON($1:{quoted(name)}::VARCHAR)" if kind == "VARIANT" else f"$1:{quoted(name)}::{kind}"
        for name, kind in columns
    ]
    return ", ".join(quoted(name) for name, _ in columns), ", ".join(items)


def written(array: pa.Array, kind: ValueKind) -> pa.Array:
    """The values of a column as a file has them."""
    if kind in (ValueKind.JSON, ValueKind.JSON_TEXT):
        return documents(array, kind)
    if pa.types.is_float32(array.type):
        return array.cast(pa.string()).cast(pa.float64())
    if pa.types.is_timestamp(array.type) and array.type.tz:
        text = array.cast(pa.timestamp("us")).cast(pa.string())
        return pc.binary_join_element_wise(text, "+00:00", "")
    if pa.types.is_uint64(array.type):
        return array.cast(_LSN)
    return array.cast(pa.int64()) if pa.types.is_uint32(array.type) else array


def _landing(table: Table) -> list[tuple[str, str]]:
    return [*LANDING_META, *((column.landed, column_type(column.type)) for column in table.columns)]


def _default(column: Column, rows: int, *, known: bool) -> pa.Array:
    """A column that the rows do not have yet: its default (PostgreSQL's text of it), or NULL."""
    wanted, kind, text = arrow_type(column.type), column.type.kind, column.default
    if text is None or not known:
        one = pa.array([None], wanted)
    elif kind is ValueKind.BYTES:
        one = pa.array([bytes.fromhex(text.removeprefix("\\x"))])
    elif kind is ValueKind.BOOLEAN:
        one = pa.array([text in ("t", "true")])
    else:
        one = pa.array([text]).cast(wanted)
    return pa.repeat(written(one, kind)[0], rows)
