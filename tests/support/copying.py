"""A table through the parts of the copy worker, without a supervisor: its query, its chunks, its parser."""

from __future__ import annotations

import pyarrow as pa

from etl_supervisor.ipc.arrow import change_log_schema
from etl_supervisor.model.table import Table, TableName
from tests.support.fix_postgres import Database
from tests.support.streaming import source_of
from workers.reader.csv import converted, parse_lines, placed
from workers.reader.lane import chunks
from workers.reader.ranges import plan
from workers.reader.snapshot import find
from workers.reader.stream import connect


def copied(database: Database, name: str, pages_max: int = 1024) -> tuple[Table, pa.Table]:
    """All rows of a table of schema public, as a first copy sends them."""
    source, password = source_of(database)
    with connect(source, password) as reader, reader.transaction():
        found = find(reader, source, TableName("public", name), name)
        assert found is not None
        table = found.table
        parts = [
            placed(table, converted(table, parse_lines(chunk.text, chunk.rows, table)), 1, 1)
            for item in plan(found.leaves, (), pages_max)
            for chunk in chunks(reader, found, item)
        ]
    return table, pa.Table.from_batches(parts, change_log_schema(table))
