"""A copy worker: one table of one pipeline, as it was at one moment, through the same Arrow path as the stream.

    walsender connection:  CREATE_REPLICATION_SLOT … TEMPORARY (SNAPSHOT 'export')  ─► consistent point S, snapshot; held until the end
    ordinary connection:   BEGIN REPEATABLE READ; SET TRANSACTION SNAPSHOT; LOCK … ACCESS SHARE; COPY … TO STDOUT
    rows                   ─► CSV chunk ─► Arrow strings ─► the stream's own converters ─► segments ─► a channel of this copy

Every row is an `R` at position (generation, S-1, range, row number): after every change that the snapshot shows, before every change that it does
not. The stream is not paused: the table's stream rows have been landed since before S, and positions put them in order.

What a death leaves: the temporary slot goes with its connection; part of the rows may be in the landing table at S-1. The next copy has a
later S, and its rows override them; a row that was deleted in between has its delete in the stream, after the old S. The state
is FINISHEDCOPY only after every row is durable.

A table that was rewritten between the snapshot and the lock looks empty under the snapshot, silently: its relfilenode now (and that of each of its
partitions) is compared with the one under the snapshot, and if they differ a new snapshot is taken.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import selectors
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.csv
import structlog
from psycopg import sql

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.exits import Exit
from etl_supervisor.failpoints import failpoint
from etl_supervisor.ipc.messages import CopyWanted, Durable, Failed, OpenTable, Ready, TableClosed, TableOpened
from etl_supervisor.model import names
from etl_supervisor.model.pipeline import Pipeline
from etl_supervisor.model.position import Position
from etl_supervisor.model.table import Table, TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.monitor import metrics
from etl_supervisor.state.choose import open_store
from etl_supervisor.supervision.spawn import ChildContext
from workers.reader import source as sources
from workers.reader.catalog import published_tables, read_catalog
from workers.reader.csv import from_csv
from workers.reader.heartbeat import Access, nudging
from workers.reader.publisher import Publisher
from workers.reader.relations import table_of
from workers.reader.roster import owner
from workers.reader.stream import ReplicationStream, Slot, broken_off, connect

CHUNK_BYTES = 4 << 20  # parsed and sent as one piece; a single row may be larger
ROWS_PER_RANGE = 1 << 31  # row numbers are 32 bits in a position; a larger table goes on in the next range
NULL_TEXT = "\\N"
WAIT_SECONDS = 0.25
SNAPSHOT_TRIES = 5  # a table that is rewritten faster than we take snapshots is not in a state to be copied

log = structlog.get_logger()


def main(context: ChildContext) -> int:
    """Entry point of a copy worker; returns the exit code. The result is in the state store."""
    assert context.spec is not None
    assert context.copy is not None
    with contextlib.ExitStack() as resources:
        worker = CopyWorker(context, context.copy, resources)
        try:
            worker.run()
        except EtlError as error:
            worker.note(error)
            raise
        except psycopg.Error as error:
            trouble = broken_off(error, context.spec.source)
            worker.note(trouble)
            raise trouble from None
    return Exit.OK


class CopyWorker:
    """One copy from start to end."""

    def __init__(self, context: ChildContext, wanted: CopyWanted, resources: contextlib.ExitStack) -> None:
        assert context.spec is not None
        self._context = context
        self._wanted = wanted
        self._resources = resources
        self._source = context.spec.source
        self._pipeline: Pipeline = next(p for p in context.spec.pipelines if p.id == wanted.pipeline_id)
        self._name = TableName(wanted.schema, wanted.table)
        self._place = f"pipeline {self._pipeline.name}, table {self._name}"
        self._store = resources.enter_context(contextlib.closing(open_store(context.settings)))
        self._selector = resources.enter_context(selectors.DefaultSelector())
        self._open = False
        self._closed = False
        self._ending = False
        self._sent = self._durable = self._dead = 0

    def run(self) -> None:
        """Copy the table; every row is durable when this returns. EtlError says why it could not be done."""
        source, keyring = self._source, self._context.settings.keyring()
        password = keyring.decrypt(source.pg_password) if source.pg_password is not None else None
        primary_url = keyring.decrypt(source.primary_url) if source.primary_url is not None else None
        progress = self._store.progress(source.name)
        assert progress is not None
        access = Access(source, password, primary_url, progress.system_identifier)
        reader = self._resources.enter_context(contextlib.closing(connect(source, password)))
        slot, table, query = self._snapshot(reader, access)
        self._context.parent.send(Ready())
        failpoint("copy.after_snapshot")
        log.info("copy_started", pipeline=self._pipeline.name, table=str(self._name), copy_lsn=slot.consistent_point)
        publisher = self._publish_to(table, slot)
        rows = 0
        for chunk in self._chunks(reader, query):
            strings = parse_rows(chunk, table)
            batch = from_csv(
                table, strings, slot.consistent_point - 1, 1 + rows // ROWS_PER_RANGE, rows % ROWS_PER_RANGE
            )
            self._send(publisher, batch, table.version)
            rows += batch.num_rows
            metrics.COPY_ROWS.labels(self._pipeline.name, str(self._name)).inc(batch.num_rows)
            failpoint("copy.mid_rows")
        self._ending = True
        self._wait(publisher, lambda: self._open and self._durable >= self._sent)
        failpoint("copy.before_finish")
        self._finish(slot, rows)
        publisher.close_table(1, drop=True)
        self._wait(publisher, lambda: self._closed)
        log.info("copy_finished", pipeline=self._pipeline.name, table=str(self._name), rows=rows)

    def note(self, error: EtlError) -> None:
        """Leave the reason where the reader and `status` find it."""
        with contextlib.suppress(EtlError):
            self._save(replace(self._state(), trouble=error.line))

    # -- the snapshot

    def _snapshot(self, reader: psycopg.Connection[Any], access: Access) -> tuple[Slot, Table, sql.Composed]:
        for attempt in range(SNAPSHOT_TRIES):
            stream = self._resources.enter_context(contextlib.closing(ReplicationStream(self._source, access.password)))
            with nudging(access, self._context.heartbeat.beat, standby=sources.in_recovery(reader)) as tick:
                slot = self._create_slot(stream, reader, attempt, tick)
            assert slot.snapshot is not None
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            reader.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(slot.snapshot))
            oid = self._lock(reader)
            if oid is not None:
                table = self._shape(reader, oid)
                return slot, table, self._query(reader, table)
            reader.execute("ROLLBACK")
            stream.close()
        raise EtlError(Kind.COPY, self._place, "the table is rewritten again and again", "try when its ALTERs are done")

    def _create_slot(
        self, stream: ReplicationStream, reader: psycopg.Connection[Any], attempt: int, tick: Callable[[], None]
    ) -> Slot:
        name = names.copy_slot(self._source.replication_id, self._context.incarnation + attempt)
        try:
            return stream.create_slot(name, temporary=True, snapshot=True, limit=sources.SLOT_SECONDS_MAX, tick=tick)
        except TimeoutError:
            raise sources.slot_waits(reader, self._source) from None

    def _lock(self, reader: psycopg.Connection[Any]) -> int | None:
        """Keep the table, with its partitions, as it is; its oid, or None when one of them was rewritten after the snapshot."""
        table = sql.Identifier(self._name.schema, self._name.name)
        try:
            reader.execute(sql.SQL("LOCK TABLE {}{} IN ACCESS SHARE MODE").format(sql.SQL(self._only(reader)), table))
        except psycopg.Error as error:
            reason = error.diag.message_primary or "the table can't be locked"
            raise EtlError(Kind.COPY, self._place, reason, "check that the table exists and may be read") from None
        # pg_class is read under the snapshot, pg_relation_filenode and the tree of partitions look at the present.
        row = reader.execute(
            "SELECT c.oid, (SELECT coalesce(bool_and(l.relfilenode IS NOT DISTINCT FROM pg_relation_filenode(p.oid)), true)"
            " FROM (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf) p"
            " LEFT JOIN pg_class l ON l.oid = p.oid WHERE coalesce(l.relkind, 'r') = 'r')"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
            [self._name.schema, self._name.name],
        ).fetchone()
        return int(row[0]) if row and row[1] else None

    def _only(self, reader: psycopg.Connection[Any]) -> str:
        """A partitioned table is its partitions; of any other table the children are tables of their own."""
        row = reader.execute(
            "SELECT FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
            [self._name.schema, self._name.name],
        ).fetchone()
        return "ONLY " if row is None else ""

    def _shape(self, reader: psycopg.Connection[Any], oid: int) -> Table:
        found = read_catalog(reader, oid)
        published = published_tables(reader, sources.publications_of(self._source), self._place, oid)
        if found is None or not published:
            raise EtlError(Kind.COPY, self._place, "the table is not published any more", "publish it again")
        return table_of(found, published[0].columns)

    def _query(self, reader: psycopg.Connection[Any], table: Table) -> sql.Composed:
        """The rows that the publication publishes: its row filters are honoured; its column lists are in `table` already."""
        only = sql.SQL(self._only(reader))
        columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
        query = sql.SQL("SELECT {} FROM {}{}").format(
            columns, only, sql.Identifier(self._name.schema, self._name.name)
        ) + self._filter(reader)
        return sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, NULL {})").format(query, NULL_TEXT)

    def _filter(self, reader: psycopg.Connection[Any]) -> sql.Composed:
        if reader.info.server_version < 150_000:
            return sql.Composed([])
        rows = reader.execute(
            "SELECT rowfilter FROM pg_publication_tables WHERE pubname = ANY(%s) AND schemaname = %s AND tablename = %s",
            [sources.publications_of(self._source), self._name.schema, self._name.name],
        ).fetchall()
        filters = [row[0] for row in rows]
        if not filters or None in filters:  # one publication without a filter publishes every row
            return sql.Composed([])
        # The text is PostgreSQL's own rendering of the filter in its catalog.
        return sql.Composed([sql.SQL(" WHERE "), sql.SQL(" OR ").join(sql.SQL(f"({text})") for text in filters)])

    # -- the rows

    def _chunks(self, reader: psycopg.Connection[Any], query: sql.Composed) -> Iterator[list[bytes]]:
        """The COPY's rows in chunks: libpq gives one row per call."""
        parts: list[bytes] = []
        size = 0
        with reader.cursor().copy(query) as rows:
            for row in rows:
                parts.append(bytes(row))
                size += len(row)
                if size >= CHUNK_BYTES:
                    yield parts
                    parts, size = [], 0
        if parts:
            yield parts

    def _publish_to(self, table: Table, slot: Slot) -> Publisher:
        progress = self._store.progress(self._source.name)
        assert progress is not None
        publisher = Publisher(
            self._context.name,
            self._context.incarnation,
            self._context.actor_addresses,
            self._context.settings.shared_memory_budget_mb << 20,
            self._selector,
        )
        self._resources.callback(publisher.stop)
        publisher.connect()
        publisher.open(
            OpenTable(
                handle=1,
                pipeline_id=self._pipeline.id,
                pipeline=self._pipeline.name,
                owner=owner(progress),
                epoch=self._wanted.epoch,
                generation=self._wanted.generation,
                channel=names.copy_channel(self._pipeline.id, self._wanted.generation, slot.consistent_point),
                destination=self._pipeline.destination,
                table=table,
                since=Position(self._wanted.generation, slot.consistent_point - 1, 0, 0).token,
                load=self._pipeline.copy_load,
                policy=self._pipeline.policy_of(table.name),
            )
        )
        return publisher

    def _send(self, publisher: Publisher, batch: pa.RecordBatch, version: int) -> None:
        for _, seq in publisher.publish([1], batch, version):
            self._sent = seq
        self._turn(publisher, 0.0)
        self._wait(publisher, lambda: not publisher.blocked)

    def _wait(self, publisher: Publisher, done: Any) -> None:
        while not done():
            if self._ending:
                publisher.hurry()
            self._turn(publisher, WAIT_SECONDS)

    def _turn(self, publisher: Publisher, seconds: float) -> None:
        self._context.heartbeat.beat()
        for key, _ in self._selector.select(seconds):
            for message in publisher.ready(key.fileobj):  # type: ignore[arg-type]
                self._received(message)

    def _received(self, message: object) -> None:
        match message:
            case TableOpened():
                self._open = True
            case Durable(seq=seq, dead=dead):
                self._durable = max(self._durable, seq)
                self._dead = dead or self._dead
            case TableClosed():
                self._closed = True
            case Failed() as failed:
                raise EtlError(failed.kind, failed.place, failed.reason, failed.remedy, transient=failed.transient)
            case _:
                pass

    # -- the state

    def _state(self) -> TableState:
        found = self._store.tables(self._source.name, self._pipeline.name).get(self._name)
        if found is None:
            raise EtlError(Kind.COPY, self._place, "the table's state is gone", "the reader makes it again")
        return found

    def _finish(self, slot: Slot, rows: int) -> None:
        state = self._state()
        if state.generation != self._wanted.generation:
            raise EtlError(Kind.COPY, self._place, "the table changed meanwhile", "it is copied again by itself")
        self._save(
            state.to(
                Phase.FINISHEDCOPY,
                copy_lsn=slot.consistent_point,
                rows_copied=rows,
                dead=max(state.dead, self._dead),
                trouble="",
                attempts=0,
            )
        )

    def _save(self, state: TableState) -> None:
        self._store.save_table(self._source.name, self._pipeline.name, state)


def parse_rows(rows: Sequence[bytes], table: Table) -> pa.RecordBatch:
    """Rows of a COPY as Arrow strings. EtlError for bytes that are not as many rows of this table; never with a value."""
    chunk = b"".join(rows)
    if chunk.startswith(codecs.BOM_UTF8):
        chunk = codecs.BOM_UTF8 + chunk  # the parser takes the first away, and the row's own must stay
    place = f"table {table.name}"
    try:
        parsed = _parse(chunk, table)
    except pa.ArrowInvalid:
        with contextlib.suppress(UnicodeDecodeError):
            chunk.decode()
            raise EtlError(Kind.PROTOCOL, place, "COPY sent rows of another shape", "report it") from None
        raise EtlError(
            Kind.SCHEMA, place, "a row holds text that is not UTF-8", "use a database with server_encoding UTF8"
        ) from None
    if parsed.num_rows != len(rows):
        raise EtlError(Kind.PROTOCOL, place, "COPY sent rows that run into each other", "report it")
    return parsed


def _parse(chunk: bytes, table: Table) -> pa.RecordBatch:
    """CSV text to Arrow strings: unquoted \\N is NULL, everything quoted is itself."""
    names_ = [str(number) for number in range(max(1, len(table.columns)))]  # a table without columns has empty lines
    parsed = pyarrow.csv.read_csv(
        io.BytesIO(chunk),
        read_options=pyarrow.csv.ReadOptions(column_names=names_, block_size=len(chunk) + 1, use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names_, pa.string()),
            null_values=[NULL_TEXT],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return parsed.combine_chunks().to_batches()[0]
