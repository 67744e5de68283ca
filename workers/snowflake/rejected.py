"""The rows that Snowflake refused, found again by what they left out: the landing table is anti-joined with the rows that were sent.

Snowflake loads what it can of an append and counts the rest (ON_ERROR = CONTINUE); the committed token passes both. A refused row is not
named, and sending a batch again to find it would double the good rows. But every row has its position, the publisher still owns the memory of
every row that is not durable, and rows become visible together with the token. So: of the rows of a segment that the token has reached, those
whose position is not in the landing table were refused.

One count per segment tells whether any is missing; only then are the positions fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from snowflake.connector.errors import Error

from etl_supervisor.errors import Kind
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model import names
from etl_supervisor.model.position import Position
from workers.snowflake.connection import classify
from workers.snowflake.identifiers import objects_of

_COPIED = "R"  # rows of a copy stand at positions between those of the stream


def missing(connection: Any, opening: OpenTable, batch: pa.RecordBatch) -> list[int]:
    """The numbers of the rows that are not in the landing table."""
    sent = list(zip(*(batch.column(i).to_pylist() for i in (1, 2, 3)), strict=True))
    objects = objects_of(opening.destination, opening.table)
    window = _window(opening, sent[0], sent[-1], copied=batch.column(0)[0].as_py() == _COPIED)
    try:
        with connection.cursor() as cursor:
            (rows,) = cursor.execute(f"SELECT COUNT(*) FROM {objects.landing_sql} WHERE {window}").fetchone()
            if int(rows) == len(sent):
                return []
            cursor.execute(f"SELECT _ETL_COMMIT_LSN, _ETL_LSN, _ETL_INDEX FROM {objects.landing_sql} WHERE {window}")
            landed = {tuple(map(int, row)) for row in cursor.fetchall()}
    except Error as error:
        raise classify(error, f"pipeline {opening.pipeline}, table {opening.table.name}", Kind.ROWS_REJECTED) from None
    return [number for number, position in enumerate(sent) if position not in landed]


def count(cursor: Any, opening: OpenTable, first: Position, last: Position) -> int:
    """How many rows of a channel's stretch are in the landing table."""
    objects = objects_of(opening.destination, opening.table)
    window = _window(opening, first[1:], last[1:], copied=names.is_copy(opening.channel))
    (rows,) = cursor.execute(f"SELECT COUNT(*) FROM {objects.landing_sql} WHERE {window}").fetchone()
    return int(rows)


def _window(opening: OpenTable, first: tuple[int, int, int], last: tuple[int, int, int], *, copied: bool) -> str:
    sign = "=" if copied else "<>"
    return (
        f"_ETL_GENERATION = {opening.generation} AND _ETL_OP {sign} '{_COPIED}'"
        f" AND {_from(first, '>')} AND {_from(last, '<')}"
    )


def within(batch: pa.RecordBatch, rows: Sequence[int], token: str) -> int:
    """How many of these rows stand at or before a token ("": none)."""
    if not token:
        return 0
    end = tuple(Position.parse(token))[1:]
    return sum(tuple(batch.column(i)[row].as_py() for i in (1, 2, 3)) <= end for row in rows)


def _from(position: tuple[int, int, int], sign: str) -> str:
    commit, lsn, index = position
    return (
        f"(_ETL_COMMIT_LSN {sign} {commit} OR (_ETL_COMMIT_LSN = {commit} AND (_ETL_LSN {sign} {lsn}"
        f" OR (_ETL_LSN = {lsn} AND _ETL_INDEX {sign}= {index}))))"
    )
