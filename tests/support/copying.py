"""A table through the parts of the copy worker, without a supervisor: its query, its chunks, its readers."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from etl_supervisor.ipc.arrow import change_log_schema
from etl_supervisor.model.table import Table, TableName
from tests.support.fix_postgres import Database
from tests.support.streaming import source_of
from workers.reader.csv import placed
from workers.reader.lane import read
from workers.reader.ranges import plan
from workers.reader.snapshot import find
from workers.reader.stream import connect
from workers.reader.transfer import BinaryForms


def copied(database: Database, name: str, pages_max: int = 1024, *, text: bool = False) -> tuple[Table, pa.Table]:
    """All rows of a table of schema public, as a first copy sends them; with `text` always as text."""
    source, password = source_of(database)
    with connect(source, password) as reader, reader.transaction():
        found = find(reader, source, TableName("public", name), name, BinaryForms(reader))
        assert found is not None
        found = replace(found, binary=found.binary and not text)
        table = found.table
        parts = [
            placed(table, rows, 1, 1)
            for item in plan(found.leaves, (), pages_max)
            for rows in read(reader, found, item)
        ]
    return table, pa.Table.from_batches(parts, change_log_schema(table))
