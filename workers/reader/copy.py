"""A copy worker: tables of one pipeline, as they were at one moment, through the same Arrow path as the stream.

    snapshot   one for all tables of the worker: consistent point S, exported; its slot ends before the first row is read (`snapshot`)
    plan       each table is cut into ranges of pages; what an earlier worker has finished is not read again (`ranges`)
    lanes      threads with a connection each read ranges: CSV ─► Arrow strings ─► the stream's own converters (`lane`)
    this loop  pieces ─► positions ─► segments ─► a channel per table and snapshot (`landing`); durable ranges ─► state store (`tablecopy`)

Every row is an `R` at position (generation, S-1, piece, row): after every change that the snapshot shows, before every change that it does not.
Pieces are numbered as they are published, so several lanes share one channel, whose tokens only rise. The stream is not paused: the table's
stream rows have
been landed since before S, and positions put them in order. A channel is opened for a table's first row: an empty table costs its snapshot and
a look.

One large table has a worker of its own; small ones share one. A worker that is given several finds out how large they are, and hands large ones
back to the parent.

What a death leaves: finished ranges are in the state store, part of the others may be in the landing table at S-1. The next worker has a later
snapshot and
reads what is left; why that is sound stands in `ranges`. The copy is complete when every range is durable; that word (`copy_lsn`) is in the
state store before the reader is told.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import structlog

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.exits import Exit, code_of
from etl_supervisor.failpoints import failpoint
from etl_supervisor.ipc.messages import CopyEnded, CopyWanted, Ready
from etl_supervisor.model.copy_state import PAGE_BYTES, CopyState
from etl_supervisor.model.pipeline import Pipeline
from etl_supervisor.model.progress import Progress
from etl_supervisor.model.table import Table, TableName
from etl_supervisor.model.table_state import TableState
from etl_supervisor.monitor import logs, metrics
from etl_supervisor.state.choose import open_store
from etl_supervisor.state.store import Writer
from etl_supervisor.supervision.decide import SMALL_TABLE_BYTES
from etl_supervisor.supervision.spawn import ChildContext
from workers.reader.copyboth import BrokenOffError
from workers.reader.heartbeat import Access
from workers.reader.landing import Landing
from workers.reader.lane import Lanes, Task
from workers.reader.masks import NOTHING_MASKED, Masks, resolve
from workers.reader.snapshot import Snapshot, slot_name
from workers.reader.stream import broken_off
from workers.reader.tablecopy import Moment, TableCopy, begin

SNAPSHOT_TRIES = 5  # a table that is rewritten faster than we take snapshots is not in a state to be copied
WAIT_SECONDS = 0.25

log = structlog.get_logger()


def main(context: ChildContext) -> int:
    """Entry point of a copy worker; returns the exit code. The results are in the state store."""
    assert context.spec is not None
    with contextlib.ExitStack() as resources:
        worker = CopyWorker(context, resources)
        try:
            return worker.run()
        except EtlError as error:
            worker.note(error)
            raise
        except (psycopg.Error, BrokenOffError) as error:
            trouble = broken_off(error, context.spec.source)
            worker.note(trouble)
            raise trouble from None


class CopyWorker:
    """Some tables of one pipeline, from start to end."""

    def __init__(self, context: ChildContext, resources: contextlib.ExitStack) -> None:
        assert context.spec is not None
        self._context, self._settings = context, context.settings
        self._source = context.spec.source
        self._left = list(context.copies)
        pipeline_id = self._left[0].pipeline_id
        self._pipeline: Pipeline = next(p for p in context.spec.pipelines if p.id == pipeline_id)
        self._store = resources.enter_context(contextlib.closing(open_store(context.settings, metrics.redis_operation)))
        self._code: int = Exit.OK

    def run(self) -> int:
        """Copy the tables; of those that are told to be complete every row is durable. The exit code says what was wrong with the last one that
        was not."""
        for attempt in range(SNAPSHOT_TRIES):
            if self._left:
                self._round(attempt)
        for wanted in list(self._left):
            reason = "the table is rewritten again and again"
            self._fail(wanted, EtlError(Kind.COPY, self._place(wanted), reason, "try when its ALTERs are done"))
        return self._code

    def note(self, error: EtlError) -> None:
        """Leave the reason where the reader and `status` find it."""
        for wanted in self._left:
            with contextlib.suppress(EtlError):
                self._note(wanted, error)

    def _round(self, attempt: int) -> None:
        """Everything that one snapshot can show; what was rewritten meanwhile is left."""
        with contextlib.ExitStack() as resources:
            slot = slot_name(self._source, self._context.incarnation, attempt)
            snapshot = Snapshot(self._access(), slot, self._context.heartbeat.beat)
            resources.callback(snapshot.close)
            if attempt == 0:
                self._context.parent.send(Ready())
            failpoint("copy.after_snapshot")
            tables = self._ours(self._found(snapshot))
            tasks = [Task(table.handle, table.found, item) for table in tables for item in table.tasks]
            more = min(self._settings.copy_connections, len(tasks)) - 1
            connections = [snapshot.first, *self._others(snapshot, tables, more, resources)]
            snapshot.release()
            point = snapshot.consistent_point
            log.info(
                "copy_started",
                pipeline=self._pipeline.name,
                tables=[str(t.name) for t in tables],
                copy_lsn=point,
                connections=len(connections),
            )
            lanes = Lanes(connections, tasks)
            resources.callback(lanes.close)
            landing = Landing(self._context, self._pipeline, self._owner(), point, tables)
            resources.callback(landing.close)
            self._follow(landing, lanes, tables)

    def _others(
        self, snapshot: Snapshot, tables: list[TableCopy], count: int, resources: contextlib.ExitStack
    ) -> Iterator[psycopg.Connection[Any]]:
        """More connections; none when somebody waits for one of the tables."""
        for _ in range(count):
            connection = snapshot.connection([table.found for table in tables])
            if connection is None:
                return
            resources.callback(connection.close)
            yield connection

    def _follow(self, landing: Landing, lanes: Lanes, tables: list[TableCopy]) -> None:
        """Land what the lanes read, and write down how far each table is, until all have ended."""
        landing.watch(lanes)
        while True:
            for table, error in landing.failures():
                self._fail(table.wanted, error)
                table.ended = True
            self._settled([t for t in tables if not t.ended and (t.settle(time.time()) or t.complete)], landing)
            if all(table.ended for table in tables) and landing.closed:
                return
            landing.turn(WAIT_SECONDS)
            while not landing.blocked and (piece := lanes.take()) is not None:
                landing.take(piece)

    def _settled(self, tables: list[TableCopy], landing: Landing) -> None:
        """Some ranges of each of these are durable, or all."""
        complete = [table for table in tables if table.complete]
        if complete:
            failpoint("copy.before_finish")
        for table in complete:
            table.state = replace(table.state, copy_lsn=landing.consistent_point, dead=table.dead)
        self._save([table.state for table in tables])
        if len(complete) < len(tables):
            failpoint("copy.after_range")
        for table in complete:
            table.ended = True
            landing.end(table)
            self._left.remove(table.wanted)
            self._tell(table.wanted, ok=True)
            log.info(
                "copy_finished",
                pipeline=self._pipeline.name,
                table=str(table.name),
                rows=table.rows,
                taken_over=table.state.began_rows,
            )

    def _found(self, snapshot: Snapshot) -> list[TableCopy]:
        """The tables that the snapshot can show, with what is to be read of each."""
        tables: list[TableCopy] = []
        self._context.heartbeat.beat()
        simple = snapshot.find_all([TableName(wanted.schema, wanted.table) for wanted in self._left])
        known = self._store.copies(self._source.name, self._pipeline.name)
        states = self._store.tables(self._source.name, self._pipeline.name)
        moment = Moment(snapshot.seen, snapshot.consistent_point)
        for wanted in list(self._left):
            self._context.heartbeat.beat()
            name = TableName(wanted.schema, wanted.table)
            try:
                found = simple[name] if name in simple else snapshot.find(name, self._place(wanted))
                if found is None:
                    continue
                masks = self._masks(found.table, states)
            except EtlError as error:
                self._fail(wanted, error)
                continue
            pages_max = self._settings.copy_range_pages
            table = begin(wanted, len(tables) + 1, found, moment, known.get(name), pages_max)
            table.masks = masks
            tables.append(table)
        return tables

    def _masks(self, table: Table, states: dict[TableName, TableState]) -> Masks:
        """What its reader has told of its masks holds here too."""
        if not self._pipeline.selection.masks:
            return NOTHING_MASKED
        state = states.get(table.name)
        return resolve(self._pipeline, table, state.masks if state else "", self._settings.masking())

    def _ours(self, tables: list[TableCopy]) -> list[TableCopy]:
        """Small ones, or one large one; the other large ones go back to the parent."""
        small = [table for table in tables if table.found.pages * PAGE_BYTES <= SMALL_TABLE_BYTES]
        ours = small or tables[:1]
        for table in tables:
            if table not in ours:
                self._left.remove(table.wanted)
                self._context.parent.send(replace(table.wanted, bytes=table.found.pages * PAGE_BYTES))
        return ours

    def _access(self) -> Access:
        source, keyring = self._source, self._settings.keyring()
        password = keyring.decrypt(source.pg_password) if source.pg_password is not None else None
        primary_url = keyring.decrypt(source.primary_url) if source.primary_url is not None else None
        return Access(source, password, primary_url, self._progress().system_identifier)

    def _place(self, wanted: CopyWanted) -> str:
        return f"pipeline {self._pipeline.name}, table {TableName(wanted.schema, wanted.table)}"

    def _owner(self) -> str:
        return self._progress().owner

    def _progress(self) -> Progress:
        """Where the source stands. EtlError, transient, when the state store was emptied and the reader has not written it again yet."""
        progress = self._store.progress(self._source.stream)
        if progress is None:
            place, reason = f"source {self._source.stream}", "the state store was emptied while a copy began"
            remedy = "the reader writes it again, then the copy begins again by itself"
            raise EtlError(Kind.STATE_STORE, place, reason, remedy, transient=True)
        return progress

    def _save(self, states: list[CopyState]) -> None:
        asked = self._context.copies[0]  # by one reader, all of them
        writer = Writer(asked.source, asked.epoch)
        self._store.save_copies(self._source.name, self._pipeline.name, states, writer)
        for state in states:
            metrics.COPY_DONE.labels(self._pipeline.name, metrics.table_label(state.table)).set(state.done)

    def _fail(self, wanted: CopyWanted, error: EtlError) -> None:
        """One table of several can't be copied; the others go on."""
        logs.error_line(log, "copy_failed", error)
        self._note(wanted, error)
        self._left.remove(wanted)
        self._code = code_of(error.kind)
        self._tell(wanted, ok=False)

    def _note(self, wanted: CopyWanted, error: EtlError) -> None:
        name = TableName(wanted.schema, wanted.table)
        state = self._store.copy(self._source.name, self._pipeline.name, name)
        if state is None or state.generation != wanted.generation:
            state = CopyState(name, wanted.generation)
        self._save([replace(state, trouble=error.line)])

    def _tell(self, wanted: CopyWanted, *, ok: bool) -> None:
        self._context.parent.send(CopyEnded(wanted.pipeline_id, wanted.schema, wanted.table, ok))
