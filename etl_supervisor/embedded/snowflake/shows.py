"""SHOW PIPES, TASKS, STREAMS and CHANNELS: what was made here, and the streaming pipes and channels that the SDK has opened.

    SHOW [TERSE] PIPES | TASKS | STREAMS | CHANNELS [LIKE 'pattern'] [IN ACCOUNT | DATABASE d | SCHEMA d.s | TABLE t]

Without IN: of the session's schema, else of its database, else of all. Columns that mean nothing here are empty.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import Any

import duckdb

from etl_supervisor.embedded.snowflake.quoting import quoted
from etl_supervisor.embedded.snowflake.stages import NAME, parts_of, table_of
from etl_supervisor.embedded.snowflake.warehouse import Warehouse

PIPE_SUFFIX = "-STREAMING"  # of the pipe that every table has
_SHOW = re.compile(
    rf"\s*SHOW\s+(?:TERSE\s+)?(?P<kind>PIPES|TASKS|STREAMS|CHANNELS)(?:\s+LIKE\s+'(?P<like>(?:[^']|'')*)')?"
    rf"(?:\s+IN\s+(?:(?P<all>ACCOUNT)|(?P<scope>DATABASE|SCHEMA|TABLE)\s+(?P<name>{NAME})|(?P<plain>{NAME})))?\s*;?\s*$",
    re.I,
)
_TITLES = {
    "PIPES": "created_on name database_name schema_name definition owner notification_channel comment kind",
    "TASKS": "created_on name id database_name schema_name owner comment warehouse schedule predecessors state definition condition",
    "STREAMS": "created_on name database_name schema_name owner comment table_name source_type type stale mode",
    "CHANNELS": "created_on name database_name schema_name table_name pipe_name client_sequencer offset_token rows_inserted rows_error_count",
}
Row = dict[str, Any]


def answer(warehouse: Warehouse, sql: str, where: tuple[str | None, str | None]) -> str | None:
    """The query that gives the answer; None for any other statement."""
    found = _SHOW.match(sql)
    if found is None:
        return None
    kind = found["kind"].upper()
    database, schema, table = _scope(found, where)
    like = re.compile(_pattern(found["like"]), re.I) if found["like"] is not None else None
    databases = [name for name in warehouse.databases() if database in (None, name)]
    rows = [
        row
        for name in databases
        for row in _READERS[kind](warehouse, name)
        if schema in (None, row["schema_name"])
        and table in (None, row.get("table_name"))
        and (like is None or like.fullmatch(row["name"]))
    ]
    titles = tuple(_TITLES[kind].split())
    ordered = sorted(rows, key=lambda row: (row["database_name"], row["schema_name"], row["name"]))
    return table_of([_values(row, titles) for row in ordered], titles)


def _scope(found: re.Match[str], where: tuple[str | None, str | None]) -> tuple[str | None, str | None, str | None]:
    if found["all"]:
        return None, None, None
    name = found["name"] or found["plain"]
    if name is None:
        return *where, None
    parts: list[str | None] = list(parts_of(name))
    depth = {"DATABASE": 1, "SCHEMA": 2, "TABLE": 3}.get((found["scope"] or "SCHEMA").upper(), 2)
    whole = [*where[: depth - len(parts)], *parts]
    database, schema, table = [*whole, None, None][:3]
    return database, schema, table


def _pattern(like: str) -> str:
    """LIKE as a regular expression."""
    return "".join({"%": ".*", "_": "."}.get(char, re.escape(char)) for char in like.replace("''", "'"))


def pipes_of(warehouse: Warehouse, database: str) -> Iterable[Row]:
    """Those over files, and the streaming pipe of each table that has channels."""
    for schema, name, definition in _read(warehouse, database, "schema_name, pipe_name, definition", "_pipes"):
        yield {
            "name": name,
            "database_name": database,
            "schema_name": schema,
            "definition": definition,
            "kind": "STAGE",
        }
    for schema, name in _read(warehouse, database, "DISTINCT schema_name, pipe_name", "_channels"):
        yield {"name": name, "database_name": database, "schema_name": schema, "kind": "STREAMING"}


def tasks_of(warehouse: Warehouse, database: str) -> Iterable[Row]:
    """Started or suspended."""
    for full, minutes, stream, body, runs in _read(warehouse, database, "name, minutes, stream, body, runs", "_tasks"):
        _, schema, name = parts_of(full)
        yield {
            "name": name,
            "database_name": database,
            "schema_name": schema,
            "schedule": f"{minutes} MINUTE",
            "predecessors": "[]",
            "state": "started" if runs else "suspended",
            "definition": body,
            "condition": f"SYSTEM$STREAM_HAS_DATA('{stream}')" if stream else None,
        }


def streams_of(warehouse: Warehouse, database: str) -> Iterable[Row]:
    """With the tables that they watch."""
    for full, source in _read(warehouse, database, "name, source", "_streams"):
        _, schema, name = parts_of(full)
        yield {
            "name": name,
            "database_name": database,
            "schema_name": schema,
            "table_name": ".".join(parts_of(source)),
            "source_type": "Table",
            "type": "DELTA",
            "stale": "false",
            "mode": "APPEND_ONLY",
        }


def channels_of(warehouse: Warehouse, database: str) -> Iterable[Row]:
    """With their committed tokens."""
    columns = "schema_name, pipe_name, channel_name, sequencer, committed, rows_inserted, rows_error, created_ms"
    for schema, pipe, name, sequencer, committed, inserted, errors, created in _read(
        warehouse, database, columns, "_channels"
    ):
        yield {
            "created_on": created,
            "name": name,
            "database_name": database,
            "schema_name": schema,
            "table_name": pipe.removesuffix(PIPE_SUFFIX),
            "pipe_name": pipe,
            "client_sequencer": sequencer,
            "offset_token": committed,
            "rows_inserted": inserted,
            "rows_error_count": errors,
        }


def _read(warehouse: Warehouse, database: str, columns: str, table: str) -> list[tuple[Any, ...]]:
    """Rows of a table of definitions; none when nobody has made it."""
    try:
        return list(
            warehouse.cursor().execute(f"SELECT {columns} FROM {quoted(database)}._streaming.{table}").fetchall()
        )
    except duckdb.CatalogException:
        return []


def _values(row: Row, titles: tuple[str, ...]) -> str:
    return f"({', '.join(_literal(title, row.get(title)) for title in titles)})"


def _literal(title: str, value: Any) -> str:
    if title == "created_on":
        made = dt.datetime.fromtimestamp(value / 1000, dt.UTC) if value else None
        return f"'{made:%Y-%m-%d %H:%M:%S}'::TIMESTAMP" if made else "NULL::TIMESTAMP"
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


# (No function here is named as a table of definitions: DuckDB would take it for one.)
_READERS = {"PIPES": pipes_of, "TASKS": tasks_of, "STREAMS": streams_of, "CHANNELS": channels_of}
