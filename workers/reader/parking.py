"""Which pipelines are in the shared stream of a source, settled when its reader begins: see `etl_supervisor.model.parking`.

    park    copy the slot ─► write the position      a crash between: the slot is there, the position is taken from it
    join    forget the position ─► drop the slot     a crash between: it is parked again, at what the slot was told last
    leave   drop the slot ─► forget the position     a crash between: the position is still of an older generation, it leaves again

To leave is what remains to a pipeline whose source has begun anew meanwhile: its tables begin anew, too, in the shared stream.

They happen while the shared stream is ours and before it confirms anything: a pipeline that must be parked has everything up to the shared position,
and the copied slot is not beyond it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import structlog
from psycopg import sql

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.failpoints import failpoint
from etl_supervisor.model import lsn
from etl_supervisor.model.parking import apart, may_join, overtaken
from etl_supervisor.model.pipeline import Pipeline, PipelineName, Source, SourceSpec
from etl_supervisor.model.progress import Progress
from etl_supervisor.state.store import StateStore
from workers.reader.slot import read_slot
from workers.reader.source import await_free

log = structlog.get_logger()


class Parking:
    """The parked pipelines of one source. `connection` is to the source."""

    def __init__(self, connection: psycopg.Connection[Any], store: StateStore, spec: SourceSpec) -> None:
        self._connection, self._store, self._spec = connection, store, spec

    def settle(self, shared: Progress, tick: Callable[[], None]) -> SourceSpec:
        """Park what is paused, take back what has come near; what the shared stream has now. EtlError(STREAM) when that is nothing."""
        if self._spec.source.parked is not None:
            return self._spec
        for paused in self._spec.paused:
            if self._position(paused, shared, tick) is None and self._goes_on(paused, shared):
                self.park(paused, shared)
        together = tuple(p for p in self._spec.pipelines if self._joins(p, shared, tick))
        if not together:
            reason = "each of its pipelines streams from a slot of its own"
            raise EtlError(Kind.STREAM, f"source {self._spec.source.name}", reason, transient=True)
        return replace(self._spec, pipelines=together)

    def park(self, pipeline: Pipeline | PipelineName, shared: Progress, *, stuck: bool = False) -> None:
        """Copy the slot for a pipeline, and write down where it is."""
        own = apart(self._spec, pipeline).source
        self._connection.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", [shared.slot, own.slot])
        failpoint("parking.after_slot_copy")
        self._write(own.stream, replace(shared, slot=own.slot, stuck_at=shared.confirmed if stuck else 0))
        log.warning("pipeline_parked", pipeline=pipeline.name, slot=own.slot, confirmed=lsn.text(shared.confirmed))

    # -- inside

    def _position(
        self, pipeline: Pipeline | PipelineName, shared: Progress, tick: Callable[[], None]
    ) -> Progress | None:
        """Where a parked pipeline is; None for one that is not parked, now at the latest."""
        own = apart(self._spec, pipeline).source
        known = self._store.progress(own.stream)
        if known is not None and overtaken(shared, known):
            await_free(self._connection, own.slot, tick)
            self._leave(own, pipeline.name, shared)
            return None
        if known is not None and known.slot == own.slot:
            return known
        slot = read_slot(self._connection, own.slot)
        if slot is None:
            return None
        found = replace(shared, slot=own.slot, confirmed=min(slot.confirmed, shared.confirmed), stuck_at=0)
        self._write(own.stream, found)
        return found

    def _leave(self, own: Source, name: str, shared: Progress) -> None:
        """Tables that it had begun anew by itself since then do not count either: rows between its position and the shared one are missing."""
        for state in self._store.tables(own.name, name).values():
            if state.generation >= shared.generation:
                self._store.drop_table(own.name, name, state.table)
        drop_slot(self._connection, own.slot)
        failpoint("parking.after_leave")
        self._store.forget(own.stream)
        log.warning("pipeline_begins_anew", pipeline=name, slot=own.slot, reason="its source got a new slot")

    def _goes_on(self, pipeline: PipelineName, shared: Progress) -> bool:
        """Whether a pipeline has a table that would miss rows; those of an older generation begin anew whenever it starts."""
        states = self._store.tables(self._spec.source.name, pipeline.name)
        return any(state.generation >= shared.generation for state in states.values())

    def _joins(self, pipeline: Pipeline, shared: Progress, tick: Callable[[], None]) -> bool:
        """Whether a started pipeline is in the shared stream, now at the latest."""
        own = apart(self._spec, pipeline).source
        written = self._store.progress(own.stream) is not None
        parked = self._position(pipeline, shared, tick)
        if parked is None:
            return True
        if not may_join(shared, parked):
            return False
        if (
            parked.confirmed < shared.confirmed or not written
        ):  # found to be parked just now: `near` brings it here first
            place = f"source {self._spec.source.name}"
            raise EtlError(Kind.STREAM, place, f"pipeline {pipeline.name} joins", "it starts again", transient=True)
        await_free(self._connection, own.slot, tick)
        self._store.forget(own.stream)
        failpoint("parking.after_join")
        drop_slot(self._connection, own.slot)
        log.info("pipeline_joined", pipeline=pipeline.name, confirmed=lsn.text(shared.confirmed))
        return True

    def _write(self, stream: str, progress: Progress) -> None:
        """The epoch first: without it the store counts as lost."""
        self._store.save_progress(stream, progress, self._store.next_epoch(stream))


def near(store: StateStore, spec: SourceSpec) -> list[tuple[SourceSpec, int]]:
    """The pipelines that have to come a little further before they join, with the position to come to.

    One whose tables the store has lost must come in any case: a reader that begins with it alone asks Snowflake for them.
    """
    shared = store.progress(spec.source.stream)
    if shared is None or spec.source.parked is not None:
        return []
    found = []
    for own in (apart(spec, pipeline) for pipeline in spec.pipelines):
        parked = store.progress(own.source.stream)
        if parked is None or overtaken(shared, parked) or not may_join(shared, parked):
            continue
        if parked.confirmed < shared.confirmed or not store.tables(own.source.name, own.pipelines[0].name):
            found.append((own, shared.confirmed))
    return found


def stay_parked(store: StateStore, stream: str, until: int) -> None:
    """After its time: a pipeline that did not come to `until` has to move by itself before it is tried again."""
    known = store.progress(stream)
    if known is not None and known.confirmed < until:
        store.save_progress(stream, replace(known, stuck_at=known.confirmed), store.epoch(stream))


def next_epoch(store: StateStore, spec: SourceSpec) -> int:
    """An epoch above those of every stream in which a pipeline of this one may have been: applies are ordered by it."""
    own = {apart(spec, pipeline).source.stream for pipeline in spec.pipelines}
    others = {replace(spec.source, parked=None).stream, *own} - {spec.source.stream}
    newest = max(store.epoch(stream) for stream in others) if others else 0
    while (epoch := store.next_epoch(spec.source.stream)) <= newest:
        pass  # both are about the Unix second, so this is soon over
    return epoch


def drop_slot(connection: psycopg.Connection[Any], name: str) -> None:
    """Drop a slot, if it is there."""
    query = sql.SQL("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s")
    connection.execute(query, [name])
