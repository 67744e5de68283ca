"""Streams and tasks, and dynamic tables as the views that they are when nobody looks at the clock.

    CREATE STREAM s ON TABLE t APPEND_ONLY = TRUE      remembers how far t has been read; an INSERT … FROM s moves it on, in its transaction
    CREATE TASK k … SCHEDULE = 'n MINUTE' WHEN SYSTEM$STREAM_HAS_DATA('s') AS …    suspended until ALTER TASK k RESUME, as in Snowflake
    CREATE DYNAMIC TABLE d TARGET_LAG = … AS SELECT …  is as fresh as a lag of zero would have it

Definitions lie in schema `_streaming` of their database and survive a restart. `minute_seconds` makes a task's minutes shorter, for tests.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Any

import duckdb
from starlette.concurrency import run_in_threadpool

from etl_supervisor.embedded.snowflake.quoting import literal, quoted
from etl_supervisor.embedded.snowflake.warehouse import Warehouse

TICK_SECONDS = 0.2
SCHEMA = "_streaming"
_NAME = r'(?P<name>(?:"(?:[^"]|"")+"|\w+)(?:\.(?:"(?:[^"]|"")+"|\w+)){2})'
_STREAM = re.compile(
    rf"\s*CREATE\s+(?:OR\s+REPLACE\s+)?STREAM\s+(?P<once>IF\s+NOT\s+EXISTS\s+)?{_NAME}\s+ON\s+TABLE\s+(?P<table>\S+)",
    re.IGNORECASE,
)
_TASK = re.compile(
    rf"\s*CREATE\s+(?:OR\s+REPLACE\s+)?TASK\s+{_NAME}\s+(?:WAREHOUSE\s*=\s*\S+\s+)?SCHEDULE\s*=\s*'(?P<minutes>\d+)\s+MINUTES?'"
    r"(?:\s+WHEN\s+SYSTEM\$STREAM_HAS_DATA\('(?P<stream>[^']+)'\))?\s+AS\s+(?P<body>.*)$",
    re.IGNORECASE | re.DOTALL,
)
_ALTER = re.compile(rf"\s*ALTER\s+TASK\s+{_NAME}\s+(?P<what>RESUME|SUSPEND)\s*;?\s*$", re.IGNORECASE)
_DROP = re.compile(rf"\s*DROP\s+(?P<kind>TASK|STREAM)\s+(?:IF\s+EXISTS\s+)?{_NAME}\s*;?\s*$", re.IGNORECASE)
_DYNAMIC = re.compile(
    rf"\s*CREATE\s+(?:OR\s+REPLACE\s+)?DYNAMIC\s+TABLE\s+{_NAME}\s+TARGET_LAG\s*=\s*'[^']*'(?:\s+WAREHOUSE\s*=\s*\S+)?\s+AS\s",
    re.IGNORECASE,
)
_DROP_DYNAMIC = re.compile(rf"\s*DROP\s+DYNAMIC\s+TABLE\s+(?P<once>IF\s+EXISTS\s+)?{_NAME}", re.IGNORECASE)
_READ = re.compile(rf"\s*INSERT\s+INTO\s.*\sFROM\s+{_NAME}", re.IGNORECASE | re.DOTALL)

log = logging.getLogger("local-snowflake")


def rewritten(sql: str) -> str:
    """Dynamic tables as views."""
    sql = _DYNAMIC.sub(lambda found: f"CREATE OR REPLACE VIEW {found['name']} AS ", sql, count=1)
    return _DROP_DYNAMIC.sub(lambda found: f"DROP VIEW {found['once'] or ''}{found['name']}", sql, count=1)


class Tasks:
    """The streams and tasks of all databases. `run` runs one statement in a session of its own, in the named database and schema."""

    def __init__(self, warehouse: Warehouse, run: Callable[[str, str, str], None]) -> None:
        self.minute_seconds = 60.0
        self._warehouse, self._run = warehouse, run
        self._next: dict[str, float] = {}
        self._databases: set[str] = set()  # those with definitions

    def take(self, sql: str) -> bool:
        """Carry out a statement about streams and tasks; False: it is another."""
        if found := _STREAM.match(sql):
            self._stream(found["name"], found["table"], once=bool(found["once"]))
        elif found := _TASK.match(sql):
            name, (database, _, _) = found["name"], _parts(found["name"])
            cursor = self._defined(database)
            cursor.execute(f"DELETE FROM {_in(database, 'tasks')} WHERE name = ?", [name])
            cursor.execute(
                f"INSERT INTO {_in(database, 'tasks')} VALUES (?, ?, ?, ?, FALSE)",
                [name, int(found["minutes"]), found["stream"], found["body"]],
            )
        elif found := _ALTER.match(sql):
            database = _parts(found["name"])[0]
            runs = found["what"].upper() == "RESUME"
            self._defined(database).execute(
                f"UPDATE {_in(database, 'tasks')} SET runs = ? WHERE name = ?", [runs, found["name"]]
            )
            self._next[found["name"]] = time.monotonic()
        elif found := _DROP.match(sql):
            database = _parts(found["name"])[0]
            table = "tasks" if found["kind"].upper() == "TASK" else "streams"
            self._defined(database).execute(f"DELETE FROM {_in(database, table)} WHERE name = ?", [found["name"]])
            if table == "streams":
                self._warehouse.cursor().execute(f"DROP VIEW IF EXISTS {found['name']}")
        else:
            return False
        return True

    def read(self, sql: str) -> str | None:
        """The DuckDB statement that notes that a statement reads a stream, for its transaction; None: it reads none."""
        found = _READ.match(sql)
        if found is None:
            return None
        name, database = found["name"], _parts(found["name"])[0]
        rows = (
            self._defined(database)
            .execute(f"SELECT source FROM {_in(database, 'streams')} WHERE name = ?", [name])
            .fetchall()
        )
        if not rows:
            return None
        return f"UPDATE {_in(database, 'streams')} SET seen = {_seen(rows[0][0])} WHERE name = {literal(name)}"

    async def run_forever(self) -> None:
        """Run what is due, for ever."""
        self._databases.update(self._warehouse.databases())
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if not self._databases:
                continue
            async with self._warehouse.lock:
                due = await run_in_threadpool(self._due, time.monotonic())
                for task in due:
                    await run_in_threadpool(self._try, *task)

    def _due(self, now: float) -> list[tuple[str, str | None, str]]:
        found = []
        for database in list(self._databases):
            for name, minutes, stream, body in self._running(database):
                if now >= self._next.setdefault(name, now):
                    self._next[name] = now + minutes * self.minute_seconds
                    found.append((name, stream, body))
        return found

    def _running(self, database: str) -> list[tuple[str, int, str | None, str]]:
        query = f"SELECT name, minutes, stream, body FROM {_in(database, 'tasks')} WHERE runs"
        try:
            found: list[tuple[str, int, str | None, str]] = self._warehouse.cursor().execute(query).fetchall()
            return found
        except duckdb.Error as error:
            if isinstance(error, (duckdb.CatalogException, duckdb.BinderException)):
                self._databases.discard(database)  # it was dropped
            return []

    def _has_data(self, stream: str) -> bool:
        database = _parts(stream)[0]
        cursor = self._warehouse.cursor()
        rows = cursor.execute(
            f"SELECT source, seen FROM {_in(database, 'streams')} WHERE name = ?", [stream]
        ).fetchall()
        return any(cursor.execute(f"SELECT {_seen(source)} > {seen}").fetchall()[0][0] for source, seen in rows)

    def _try(self, name: str, stream: str | None, body: str) -> None:
        database, schema, _ = _parts(name)
        try:
            if stream is None or self._has_data(stream):
                self._run(body, database, schema)
        except Exception as error:  # a task that fails runs again by its schedule
            log.error("task %s failed: %s", name, type(error).__name__)

    def _stream(self, name: str, table: str, *, once: bool) -> None:
        database = _parts(name)[0]
        cursor = self._defined(database)
        there = cursor.execute(f"SELECT 1 FROM {_in(database, 'streams')} WHERE name = ?", [name]).fetchall()
        if there and once:
            return
        cursor.execute(f"DELETE FROM {_in(database, 'streams')} WHERE name = ?", [name])
        cursor.execute(f"INSERT INTO {_in(database, 'streams')} SELECT ?, ?, {_seen(table)}", [name, table])
        cursor.execute(
            f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM {table}"
            f" WHERE rowid >= (SELECT seen FROM {_in(database, 'streams')} WHERE name = {literal(name)})"
        )

    def _defined(self, database: str) -> Any:
        """A cursor; the tables of definitions are there."""
        self._databases.add(database)
        cursor = self._warehouse.cursor()
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(database)}.{SCHEMA}")
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS {_in(database, 'tasks')}"
            " (name VARCHAR PRIMARY KEY, minutes INTEGER, stream VARCHAR, body VARCHAR, runs BOOLEAN)"
        )
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS {_in(database, 'streams')} (name VARCHAR PRIMARY KEY, source VARCHAR, seen BIGINT)"
        )
        return cursor


def _in(database: str, table: str) -> str:
    return f"{quoted(database)}.{SCHEMA}._{table}"


def _seen(table: str) -> str:
    """How far a table goes."""
    return f"COALESCE((SELECT MAX(rowid) + 1 FROM {table}), 0)"


def _parts(name: str) -> list[str]:
    """database, schema and name of a qualified name, as they are."""
    parts = re.findall(r'"((?:[^"]|"")+)"|(\w+)', name)
    return [quoted.replace('""', '"') or plain.upper() for quoted, plain in parts]
