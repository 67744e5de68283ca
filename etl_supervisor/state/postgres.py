"""State in PostgreSQL, schema etl (migrations/etl). For machines without Redis; the promise is the same."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import psycopg
import tenacity

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.copy_state import CopyState
from etl_supervisor.model.progress import Progress, SourceReport
from etl_supervisor.model.table import TableName
from etl_supervisor.model.table_state import TableState
from etl_supervisor.model.verified import Verified
from etl_supervisor.state import store

CONNECT_SECONDS = 5
STATEMENT_TIMEOUT_MS = 5_000  # the reader's loop waits for it
TRIES = 3
PAUSE_SECONDS = 0.1
_OF_TABLE = "source = %s AND pipeline = %s AND table_schema = %s AND table_name = %s"


class PostgresStore:
    """See `store.StateStore`."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[Any] | None = None
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(TRIES),
            wait=tenacity.wait_exponential_jitter(multiplier=PAUSE_SECONDS, max=1.0, jitter=PAUSE_SECONDS),
            retry=tenacity.retry_if_exception_type(psycopg.OperationalError),
            reraise=True,
        )

    def progress(self, source: str) -> Progress | None:
        rows = self._do("SELECT value FROM etl.progress WHERE source = %s", source)
        return store.load_progress(rows[0][0]) if rows else None

    def save_progress(self, source: str, progress: Progress, epoch: int) -> None:
        sql = (
            "INSERT INTO etl.progress (source, value) SELECT %s, %s"
            " WHERE coalesce((SELECT epoch FROM etl.epoch WHERE source = %s), 0) <= %s"
            " ON CONFLICT (source) DO UPDATE SET value = excluded.value, updated_at = now() RETURNING 1"
        )
        if not self._do(sql, source, store.dump(progress).decode(), source, epoch):
            raise store.stale(source, epoch)

    def next_epoch(self, source: str) -> int:
        sql = (
            "INSERT INTO etl.epoch (source, epoch) VALUES (%s, %s)"
            " ON CONFLICT (source) DO UPDATE SET epoch = greatest(etl.epoch.epoch + 1, excluded.epoch) RETURNING epoch"
        )
        return int(self._do(sql, source, int(time.time()))[0][0])

    def restore_epoch(self, source: str, epoch: int) -> None:
        self._do("INSERT INTO etl.epoch (source, epoch) VALUES (%s, %s) ON CONFLICT DO NOTHING", source, epoch)

    def epoch(self, source: str) -> int:
        rows = self._do("SELECT epoch FROM etl.epoch WHERE source = %s", source)
        return int(rows[0][0]) if rows else 0

    def tables(self, source: str, pipeline: str) -> dict[TableName, TableState]:
        rows = self._do("SELECT value FROM etl.table_state WHERE source = %s AND pipeline = %s", source, pipeline)
        states = [store.load_table(value) for (value,) in rows]
        return {state.table: state for state in states}

    def save_table(self, source: str, pipeline: str, state: TableState, writer: store.Writer | None = None) -> None:
        self.save_tables(source, pipeline, [state], writer)

    def save_tables(
        self, source: str, pipeline: str, states: Collection[TableState], writer: store.Writer | None = None
    ) -> None:
        self._save_of_tables("table_state", source, pipeline, states, writer)

    def drop_table(self, source: str, pipeline: str, table: TableName) -> None:
        for kept in ("table_state", "copy_state", "verified"):
            self._do(f"DELETE FROM etl.{kept} WHERE {_OF_TABLE}", source, pipeline, table.schema, table.name)

    def copies(self, source: str, pipeline: str) -> dict[TableName, CopyState]:
        rows = self._do("SELECT value FROM etl.copy_state WHERE source = %s AND pipeline = %s", source, pipeline)
        states = [store.load_copy(value) for (value,) in rows]
        return {state.table: state for state in states}

    def copy(self, source: str, pipeline: str, table: TableName) -> CopyState | None:
        sql = f"SELECT value FROM etl.copy_state WHERE {_OF_TABLE}"
        rows = self._do(sql, source, pipeline, table.schema, table.name)
        return store.load_copy(rows[0][0]) if rows else None

    def save_copy(self, source: str, pipeline: str, state: CopyState, writer: store.Writer | None = None) -> None:
        self.save_copies(source, pipeline, [state], writer)

    def save_copies(
        self, source: str, pipeline: str, states: Collection[CopyState], writer: store.Writer | None = None
    ) -> None:
        self._save_of_tables("copy_state", source, pipeline, states, writer)

    def ask_resync(self, source: str, pipeline: str, table: TableName | None) -> None:
        sql = (
            "INSERT INTO etl.resync (source, pipeline, table_schema, table_name) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING"
        )
        self._do(sql, source, pipeline, *_parts(table))

    def resyncs(self, source: str, pipeline: str) -> list[TableName | None]:
        sql = "SELECT table_schema, table_name FROM etl.resync WHERE source = %s AND pipeline = %s"
        return [TableName(schema, name) if name else None for schema, name in self._do(sql, source, pipeline)]

    def end_resync(self, source: str, pipeline: str, table: TableName | None) -> None:
        sql = "DELETE FROM etl.resync WHERE source = %s AND pipeline = %s AND table_schema = %s AND table_name = %s"
        self._do(sql, source, pipeline, *_parts(table))

    def save_verified(self, source: str, pipeline: str, found: Verified) -> None:
        self._save_of_tables("verified", source, pipeline, [found])

    def verified(self, source: str, pipeline: str) -> dict[TableName, Verified]:
        rows = self._do("SELECT value FROM etl.verified WHERE source = %s AND pipeline = %s", source, pipeline)
        found = [store.load_verified(value) for (value,) in rows]
        return {item.table: item for item in found}

    def save_report(self, source: str, report: SourceReport) -> None:
        sql = (
            "INSERT INTO etl.report (source, value) VALUES (%s, %s)"
            " ON CONFLICT (source) DO UPDATE SET value = excluded.value, updated_at = now()"
        )
        self._do(sql, source, store.dump(report).decode())

    def report(self, source: str) -> SourceReport | None:
        rows = self._do("SELECT value FROM etl.report WHERE source = %s", source)
        return store.load_report(rows[0][0]) if rows else None

    def risk(self) -> str:
        ((commit, fsync),) = self._do("SELECT current_setting('synchronous_commit'), current_setting('fsync')")
        off = [f"{name} is off" for name, value in (("synchronous_commit", commit), ("fsync", fsync)) if value == "off"]
        return f"PostgreSQL may lose what was written last: {' and '.join(off)}" if off else ""

    def forget(self, source: str) -> None:
        for table in ("progress", "table_state", "copy_state", "verified", "report", "resync"):
            self._do(f"DELETE FROM etl.{table} WHERE source = %s", source)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _save_of_tables(
        self,
        kept: str,
        source: str,
        pipeline: str,
        states: Collection[TableState | CopyState | Verified],
        writer: store.Writer | None = None,
    ) -> None:
        if not states:
            return
        sql = (
            f"INSERT INTO etl.{kept} (source, pipeline, table_schema, table_name, value)"
            " SELECT %s, %s, given.* FROM unnest(%s::text[], %s::text[], %s::text[]) AS given"
            " WHERE NOT EXISTS (SELECT FROM etl.epoch WHERE source = %s AND epoch > %s)"
            " ON CONFLICT (source, pipeline, table_schema, table_name)"
            " DO UPDATE SET value = excluded.value, updated_at = now() RETURNING 1"
        )
        schemas, names = [state.table.schema for state in states], [state.table.name for state in states]
        values = [store.dump(state).decode() for state in states]
        fence = writer or ("", 0)  # no stream has this name
        if not self._do(sql, source, pipeline, schemas, names, values, *fence) and writer is not None:
            raise store.stale(*writer)

    def _do(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """One statement, committed; the connection is made anew when it was lost."""
        try:
            return self._retrying(self._once, sql, parameters)
        except psycopg.Error as error:
            reason = error.diag.message_primary or type(error).__name__
            remedy = "check the database of schema etl; rows go on, confirmations wait"
            raise EtlError(Kind.STATE_STORE, "PostgreSQL state store", reason, remedy, transient=True) from None

    def _once(self, sql: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            options = f"-c statement_timeout={STATEMENT_TIMEOUT_MS}"
            self._connection = psycopg.connect(
                self._dsn, autocommit=True, connect_timeout=CONNECT_SECONDS, options=options
            )
        try:
            cursor = self._connection.execute(sql.encode(), parameters)
        except psycopg.OperationalError:
            self.close()
            raise
        return cursor.fetchall() if cursor.description else []


def _parts(table: TableName | None) -> tuple[str, str]:
    """A table as the columns of etl.resync have it; the whole pipeline has no name."""
    return (table.schema, table.name) if table is not None else ("", "")
