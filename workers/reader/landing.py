"""Pieces of several tables' copies to their channels, for one snapshot.

    piece ─► number ─► batch ─► publisher ─► a channel of this table and snapshot ─► Durable ─► the table's books

A table's channel is opened for its first rows and closed when its copy has ended. Shared memory is kept small: what is on its way is read again
after a crash.
"""

from __future__ import annotations

import itertools
import selectors
from collections.abc import Iterable, Sequence

from etl_supervisor.errors import EtlError
from etl_supervisor.failpoints import failpoint
from etl_supervisor.ipc.messages import ActorEnded, Durable, Failed, OpenTable, TableClosed
from etl_supervisor.model import names
from etl_supervisor.model.copy_state import PAGE_BYTES
from etl_supervisor.model.pipeline import LoadPath, Pipeline
from etl_supervisor.model.position import Position
from etl_supervisor.monitor import metrics
from etl_supervisor.supervision.spawn import ChildContext
from workers.reader.csv import Converted, placed
from workers.reader.lane import Lanes, Piece
from workers.reader.publisher import Publisher
from workers.reader.tablecopy import TableCopy

# Rows on their way: a small part of the table, but enough for a destination that takes seconds to commit.
IN_FLIGHT_PART = 32
IN_FLIGHT_BYTES_MIN = 16 << 20
# A file takes a quarter of it (`gathering`) and costs seven statements whatever its size. After a crash this much is read again within a second.
IN_FILES_BYTES_MIN = 64 << 20


class Landing:
    """The publishing end of a copy worker. `owner` is the source's slot, whose landing tables these are."""

    def __init__(
        self, context: ChildContext, pipeline: Pipeline, owner: str, consistent_point: int, tables: Sequence[TableCopy]
    ) -> None:
        self.consistent_point = consistent_point
        self._context, self._pipeline, self._owner = context, pipeline, owner
        self._tables = {table.handle: table for table in tables}
        self._failed: list[tuple[TableCopy, EtlError]] = []
        self._numbers = itertools.count(1)
        self._opened: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._publisher = Publisher(
            context.name,
            context.incarnation,
            context.actor_addresses,
            self._in_flight(context.settings.shared_memory_budget_mb << 20),
            self._selector,
        )
        if any(table.tasks for table in tables):
            self._publisher.connect()

    def watch(self, lanes: Lanes) -> None:
        """Let `turn` wake up when there is a piece."""
        self._selector.register(lanes, selectors.EVENT_READ)
        self._selector.register(self._context.parent, selectors.EVENT_READ)

    def close(self) -> None:
        """Give everything back; what is not durable is not there."""
        self._publisher.stop()
        self._selector.close()

    @property
    def blocked(self) -> bool:
        """True while rows wait for memory: take no more pieces."""
        return self._publisher.blocked

    @property
    def closed(self) -> bool:
        """True when no channel is open any more."""
        return not self._opened

    def take(self, piece: Piece) -> None:
        """Send a piece on; one of a table that has ended is dropped."""
        table = self._tables[piece.task.handle]
        if table.ended:
            return
        match piece.rows:
            case None:
                table.read(piece.task.range)
            case EtlError() as error:
                self._fail(table, error)
            case rows:
                self._publish(table, piece, rows)

    def turn(self, seconds: float) -> None:
        """Wait for what the actors or the lanes say, at most so long."""
        self._context.heartbeat.beat()
        self._publisher.pump()
        self._publisher.hurry([handle for handle in self._opened if self._tables[handle].all_read])
        for key, _ in self._selector.select(seconds):
            if isinstance(key.fileobj, Lanes):
                key.fileobj.hear()
                continue
            if key.fileobj is self._context.parent:
                self._hear_parent()
                continue
            for message in self._publisher.ready(key.fileobj):  # type: ignore[arg-type]
                self._received(message)

    def failures(self) -> Iterable[tuple[TableCopy, EtlError]]:
        """The tables that can't go on, each once."""
        failed, self._failed = self._failed, []
        return failed

    def end(self, table: TableCopy) -> None:
        """This table is complete: its channel is of no more use."""
        if table.handle in self._opened:
            self._publisher.close_table(table.handle, drop=True)

    # -- inside

    def _hear_parent(self) -> None:
        while (found := self._context.parent.receive()) is not None:
            for message in self._publisher.actor_ended(found[0]) if isinstance(found[0], ActorEnded) else []:
                self._received(message)

    def _in_flight(self, budget_bytes: int) -> int:
        size = sum(table.found.pages for table in self._tables.values()) * PAGE_BYTES
        by_files = self._pipeline.copy_load.path is not LoadPath.STREAMING
        least = IN_FILES_BYTES_MIN if by_files else IN_FLIGHT_BYTES_MIN
        return min(budget_bytes, max(least, size // IN_FLIGHT_PART))

    def _publish(self, table: TableCopy, piece: Piece, rows: Converted) -> None:
        if table.handle not in self._opened:
            self._opened.add(table.handle)
            self._publisher.open(self._opening(table))
        shape = table.found.table
        batch = table.masks.batch(shape, placed(shape, rows, self.consistent_point - 1, next(self._numbers)))
        promised = self._publisher.publish([table.handle], batch, shape.version)
        table.published(piece.task.range, rows.rows, promised[-1][1])
        metrics.COPY_ROWS.labels(self._pipeline.name, metrics.table_label(table.name)).inc(rows.rows)
        failpoint("copy.mid_rows")

    def _opening(self, table: TableCopy) -> OpenTable:
        wanted = table.wanted
        return OpenTable(
            handle=table.handle,
            pipeline_id=self._pipeline.id,
            pipeline=self._pipeline.name,
            owner=self._owner,
            epoch=wanted.epoch,
            generation=wanted.generation,
            channel=names.copy_channel(self._pipeline.id, wanted.generation, self.consistent_point),
            destination=self._pipeline.destination,
            table=table.masks.shown(table.found.table),
            since=Position(wanted.generation, self.consistent_point - 1, 0, 0).token,
            load=self._pipeline.copy_load,
            policy=self._pipeline.policy_of(table.name),
        )

    def _received(self, message: object) -> None:
        table = self._tables.get(getattr(message, "handle", 0))
        if table is None:
            return
        match message:
            case Durable(seq=seq, dead=dead):
                table.durable = max(table.durable, seq)
                table.dead = dead or table.dead
            case TableClosed():
                self._opened.discard(table.handle)
            case Failed() as failed:
                self._fail(
                    table, EtlError(failed.kind, failed.place, failed.reason, failed.remedy, transient=failed.transient)
                )
            case _:
                pass

    def _fail(self, table: TableCopy, error: EtlError) -> None:
        if table.handle in self._opened:
            self._opened.discard(table.handle)
            self._publisher.abandon(table.handle)
        if not table.ended:
            table.ended = True
            self._failed.append((table, error))
