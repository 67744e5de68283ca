"""A table through the parts of the copy worker, without a supervisor: its query, its chunks, its parser."""

from __future__ import annotations

import pyarrow as pa
from psycopg import sql

from etl_supervisor.model.table import Table, TableName
from tests.support.fix_postgres import Database
from tests.support.streaming import source_of
from workers.reader import copy
from workers.reader.csv import from_csv
from workers.reader.stream import connect


def copied(database: Database, name: str) -> tuple[Table, pa.Table]:
    """All rows of a table of schema public, as a first copy sends them."""
    source, password = source_of(database)
    worker = copy.CopyWorker.__new__(copy.CopyWorker)  # its queries need its source and its table, nothing else
    worker._source, worker._name, worker._place = source, TableName("public", name), name
    with connect(source, password) as reader:
        ((oid,),) = reader.execute("select %s::regclass::oid::bigint", [sql.Identifier(name).as_string()])
        table = worker._shape(reader, oid)
        chunks = worker._chunks(reader, worker._query(reader, table))
        parts = [from_csv(table, copy.parse_rows(chunk, table), 1, 1, 0) for chunk in chunks]
    return table, pa.Table.from_batches(parts)
