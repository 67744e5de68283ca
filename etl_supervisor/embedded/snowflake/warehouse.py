"""The data: one DuckDB file per Snowflake database, in one directory, behind fakesnow.

One statement runs at a time (`lock`): Snowflake serialises writers of a table by waiting, DuckDB by refusing the second, so we wait.
DuckDB syncs its log at every commit; a kill -9 loses only what was not committed. In Snowflake a column comes with its comment; here the comment is a
second commit. So comments are promised in a file before the statement runs, and after a kill they are set at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import duckdb
from fakesnow.instance import FakeSnow

from etl_supervisor.embedded.snowflake.gaps import close_gaps
from etl_supervisor.embedded.snowflake.quoting import quoted
from etl_supervisor.errors import EtlError, Kind

MEMORY_LIMIT = "1GB"  # DuckDB's share of a laptop; it spills to disk beyond it
THREADS = 2
NOTES = "_fs_global._fs_information_schema"
# Of the log, until it is written into the file. DuckDB's own 16 MB are 80,000 rows: row groups that are not full yet would be written again and
# again, half of what loading costs. A log of this size is read again within seconds after a kill.
CHECKPOINT_BYTES = "128MB"
PROMISED = "comments.json"
CHANNELS_TABLE = "_streaming._channels"
_CHANNELS = f"""
CREATE SCHEMA IF NOT EXISTS {{db}}._streaming;
CREATE TABLE IF NOT EXISTS {{db}}.{CHANNELS_TABLE} (
    schema_name VARCHAR, pipe_name VARCHAR, channel_name VARCHAR, committed VARCHAR, sequencer BIGINT, created_ms BIGINT,
    rows_parsed BIGINT, rows_inserted BIGINT, rows_error BIGINT, error_offset VARCHAR, error_message VARCHAR, error_ms BIGINT,
    PRIMARY KEY (schema_name, pipe_name, channel_name))
"""


class Warehouse:
    """All databases of a data directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        close_gaps()
        self.directory = directory
        self.lock = asyncio.Lock()
        self.snow = FakeSnow(db_path=directory)
        self._root: Any = self.snow.duck_conn
        self._with_channels: set[int] = set()  # databases (their oid) whose channels table is there
        self._root.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        self._root.execute(f"SET threads = {THREADS}")
        self._root.execute(f"SET checkpoint_threshold = '{CHECKPOINT_BYTES}'")
        self._root.execute(f"SET temp_directory = '{Path(tempfile.gettempdir()) / 'spill'}'")
        for path in sorted(directory.glob("*.db")):
            try:
                self._root.execute(f"ATTACH DATABASE '{path}' AS \"{path.stem}\"")
            except duckdb.IOException:
                remedy = "stop the other one, or give this one a data directory of its own"
                raise EtlError(
                    Kind.EMBEDDED, "local Snowflake", f"{path} is in use by another process", remedy
                ) from None
            self._root.execute(_CHANNELS.format(db=quoted(path.stem)))
        if (directory / PROMISED).exists():
            self.comment(json.loads((directory / PROMISED).read_text() or "[]"))

    def cursor(self) -> Any:
        """A DuckDB connection of its own to the same data."""
        return self._root.cursor()

    def has_database(self, name: str) -> bool:
        """True if a database is there; its channels table is made on the way."""
        query = "SELECT database_oid FROM duckdb_databases() WHERE database_name = ?"
        rows = self._root.execute(query, [name]).fetchall()
        for (oid,) in rows:
            if oid not in self._with_channels:
                self._root.execute(_CHANNELS.format(db=quoted(name)))
                self._with_channels.add(oid)
        return bool(rows)

    def has_schema(self, database: str, schema: str) -> bool:
        """True if a schema is there."""
        query = "SELECT 1 FROM duckdb_schemas() WHERE database_name = ? AND schema_name = ?"
        return self._root.execute(query, [database, schema]).fetchone() is not None

    def drop_database(self, name: str) -> None:
        """Remove a database and its files. Who is in it meets errors from now on."""
        self._root.execute(f"DETACH {quoted(name)}")
        for table in ("tables", "columns"):  # what fakesnow notes beside DuckDB's own lists
            self._root.execute(f"DELETE FROM {NOTES}._fs_{table}_ext WHERE ext_table_catalog = ?", [name])
        for ending in ("db", "db.wal"):
            (self.directory / f"{name}.{ending}").unlink(missing_ok=True)

    def databases(self) -> list[str]:
        """Their names."""
        return [path.stem for path in sorted(self.directory.glob("*.db"))]

    def columns(self, database: str, schema: str, table: str) -> list[tuple[str, str, bool]]:
        """(name, DuckDB type, nullable) of a table's columns; empty when there is no such table."""
        return [column[:3] for column in self.described(database, schema, table)]

    def described(self, database: str, schema: str, table: str) -> list[tuple[str, str, bool, str | None]]:
        """The same with defaults (SQL). DuckDB goes to the table by its name; its lists of all columns grow with the tables."""
        try:
            found = self._root.execute(f"DESCRIBE {'.'.join(map(quoted, (database, schema, table)))}").fetchall()
        except (duckdb.CatalogException, duckdb.BinderException):
            return []
        return [(name, kind, null == "YES", default) for name, kind, null, _, default, _ in found]

    def promise(self, statements: list[str]) -> None:
        """A statement is about to run that sets these comments; `comment` keeps the promise, or takes it back by none."""
        (self.directory / PROMISED).write_text(json.dumps(statements))

    def comment(self, statements: list[str]) -> None:
        """Set comments on columns, with one sync of the log; when one is on a column that is not there, each by itself, and that one is forgotten."""
        if statements:
            self._comment(statements)
        (self.directory / PROMISED).unlink(missing_ok=True)

    def _comment(self, statements: list[str]) -> None:
        cursor = self.cursor()
        with contextlib.suppress(duckdb.CatalogException, duckdb.BinderException):
            cursor.execute("BEGIN")
            try:
                cursor.execute("; ".join(statements))
                cursor.execute("COMMIT")
            except duckdb.Error:
                cursor.execute("ROLLBACK")
                raise
            return
        for statement in statements:
            with contextlib.suppress(duckdb.CatalogException, duckdb.BinderException):
                cursor.execute(statement)

    def close(self) -> None:
        """Write the logs into the files and let them go."""
        for path in self.directory.glob("*.db"):
            self._root.execute(f"CHECKPOINT {quoted(path.stem)}")
        self._root.close()
