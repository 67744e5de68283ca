"""All tables of a source in all its pipelines: carries out what each `Follower` decides.

Holds the books between table (oid), pipeline and handle; writes every change of a table's state to the state store before anything
depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from etl_supervisor.errors import EtlError
from etl_supervisor.ipc.messages import (
    Applied,
    CopyEnded,
    CopyWanted,
    Durable,
    Failed,
    OpenTable,
    TableOpened,
    ToPublisher,
)
from etl_supervisor.model import names
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.model.progress import Progress
from etl_supervisor.model.table import Table, TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.state.store import StateStore
from workers.reader.batch import TableBatch
from workers.reader.follower import Action, Follower
from workers.reader.frontier import Frontier
from workers.reader.publisher import Publisher

COMMIT_LSN = 1  # column of `ipc.arrow.META_FIELDS`

log = structlog.get_logger()


class HeldTableRetry(Exception):  # noqa: N818 - a request, not an error
    """A held table is to be tried again: its rows must come from the slot once more."""


class Roster:
    """The tables of one reader."""

    def __init__(
        self,
        spec: SourceSpec,
        progress: Progress,
        epoch: int,
        store: StateStore,
        publisher: Publisher,
        frontier: Frontier,
    ) -> None:
        self._spec = spec
        self._progress = progress
        self._epoch = epoch
        self._store = store
        self._publisher = publisher
        self._frontier = frontier
        self._followers: dict[int, Follower] = {}  # by handle
        self._by_oid: dict[int, list[Follower]] = {}
        self._stored = {pipeline.name: store.tables(spec.source.name, pipeline.name) for pipeline in spec.pipelines}
        self.copies_wanted: list[CopyWanted] = []
        self.trouble = ""

    @property
    def followers(self) -> Iterable[Follower]:
        """Every table in every pipeline."""
        return self._followers.values()

    def learn(self, table: Table) -> list[Follower]:
        """The followers of a table; a table not seen before is known from now on, one whose shape changed is opened anew."""
        known = self._by_oid.get(table.oid)
        if known is None:
            known = self._by_oid[table.oid] = [
                self._follow(pipeline_number, table) for pipeline_number in self._numbers()
            ]
        for follower in known:
            if follower.table != table:
                follower.table = table
                self._publisher.open(self._opening(follower))
        return known

    def publish(self, batches: Iterable[TableBatch]) -> list[tuple[int, int]]:
        """Hand over a decoded batch; returns the (handle, seq) that must become durable."""
        promised: list[tuple[int, int]] = []
        for item in batches:
            followers = self.learn(item.table)
            newest = item.batch.column(COMMIT_LSN)[-1].as_py()
            for follower in followers:
                follower.published(newest)
            promised += self._publisher.publish([f.handle for f in followers], item.batch, item.table.version)
        return promised

    def received(self, message: ToPublisher, now: float) -> None:
        """A word from an actor."""
        handle = getattr(message, "handle", None)
        follower = self._followers.get(handle) if handle is not None else None
        if follower is None:
            return
        match message:
            case TableOpened():
                follower.opened(message)
                self._save(follower)
            case Durable(seq=seq):
                if follower.durable(message):
                    self._save(follower)
                self._frontier.completed(follower.handle, seq)
            case Applied(fence=fence):
                before = follower.state.phase
                follower.applied_to(fence, now)
                if follower.state.phase is not before:
                    self._save(follower)
                    log.info("table_ready", pipeline=follower.pipeline.name, table=str(follower.table.name))
            case Failed():
                self._report(follower, follower.failed(message, now))
                self._save(follower)
            case _:
                pass

    def copy_ended(self, message: CopyEnded, now: float) -> None:
        """A copy worker ended; what it reached is in the state store."""
        name = TableName(message.schema, message.table)
        for follower in self.followers:
            if follower.pipeline.id == message.pipeline_id and follower.table.name == name:
                found = self._store.tables(self._spec.source.name, follower.pipeline.name).get(name)
                follower.copy_ended(found, now)
                self._save(follower)

    def act(self, now: float) -> None:
        """Carry out what is due. HeldTableRetry when the stream must begin again at the confirmed position."""
        short = self._publisher.blocked
        for follower in self.followers:
            fence = self._frontier.fence(follower.handle)
            if follower.settled(fence):
                self._save(follower)
            match follower.next_action(now, fence, short_of_memory=short):
                case Action.COPY:
                    self._want_copy(follower)
                case Action.APPLY:
                    follower.applying = True
                    self._publisher.apply(follower.handle, fence)
                case Action.REOPEN:
                    follower.reopening, follower.retry_at = True, None
                    self._publisher.reopen(follower.handle)
                case Action.HOLD:
                    follower.held = True
                    self._frontier.hold(follower.handle)
                    self._publisher.hold(follower.handle)
                case Action.RESTART:
                    raise HeldTableRetry(follower.place)
                case None:
                    pass

    def due_at(self) -> float:
        """When `act` may have something to do by time alone."""
        return min((follower.due_at() for follower in self.followers), default=float("inf"))

    # -- inside

    def _numbers(self) -> range:
        return range(len(self._spec.pipelines))

    def _follow(self, pipeline_number: int, table: Table) -> Follower:
        pipeline = self._spec.pipelines[pipeline_number]
        stored = self._stored[pipeline.name].get(table.name)
        if stored is None or stored.oid != table.oid or stored.generation != self._progress.generation:
            stored = TableState(table.name, table.oid, self._progress.generation)
        if stored.phase is Phase.DATASYNC:
            stored = stored.to(Phase.INIT)  # its worker died with our predecessor
        handle = len(self._followers) + 1
        follower = Follower(pipeline, handle, table, stored)
        self._followers[handle] = follower
        if stored.phase is Phase.FINISHEDCOPY:
            follower.state = stored.to(Phase.CATCHUP)
        if stored.phase is Phase.ERRORED:
            follower.another_chance()
        self._save(follower)
        self._publisher.open(self._opening(follower))
        return follower

    def _opening(self, follower: Follower) -> OpenTable:
        return OpenTable(
            handle=follower.handle,
            pipeline_id=follower.pipeline.id,
            pipeline=follower.pipeline.name,
            owner=owner(self._progress),
            epoch=self._epoch,
            generation=follower.state.generation,
            channel=names.stream_channel(follower.pipeline.id, follower.state.generation),
            destination=follower.pipeline.destination,
            table=follower.table,
            errors=follower.state.errors,
        )

    def _want_copy(self, follower: Follower) -> None:
        follower.copying, follower.retry_at = True, None
        if follower.state.phase is Phase.INIT:
            follower.state = follower.state.to(Phase.DATASYNC)
        self._save(follower)
        name = follower.table.name
        self.copies_wanted.append(
            CopyWanted(
                self._spec.source.name,
                follower.pipeline.id,
                name.schema,
                name.name,
                follower.state.generation,
                self._epoch,
            )
        )

    def _save(self, follower: Follower) -> None:
        self._store.save_table(self._spec.source.name, follower.pipeline.name, follower.state)

    def _report(self, follower: Follower, error: EtlError) -> None:
        self.trouble = error.line
        log.error(
            "table_stopped",
            pipeline=follower.pipeline.name,
            table=str(follower.table.name),
            kind=error.kind,
            place=error.place,
            reason=error.reason,
            remedy=error.remedy,
            retry=follower.retry_at is not None,
        )


def owner(progress: Progress) -> str:
    """Whose rows a landing table holds: one slot of one cluster."""
    return f"{progress.system_identifier}/{progress.slot}"
