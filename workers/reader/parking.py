"""Which pipelines are in the shared stream of a source, settled when its reader begins: see `etl_supervisor.model.parking`.

    park    copy the slot ─► write the position      a crash between: the slot is there, the position is taken from it
    join    forget the position ─► drop the slot     a crash between: it is parked again, at what the slot was told last

Both happen while the shared stream is ours and before it confirms anything: a pipeline that must be parked has everything up to the shared position,
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
from etl_supervisor.model.parking import apart, may_join
from etl_supervisor.model.pipeline import Pipeline, PipelineName, SourceSpec
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
            if self._position(paused, shared) is None and self._store.tables(self._spec.source.name, paused.name):
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

    def _position(self, pipeline: Pipeline | PipelineName, shared: Progress) -> Progress | None:
        """Where a parked pipeline is; None for one that is not parked."""
        own = apart(self._spec, pipeline).source
        known = self._store.progress(own.stream)
        if known is not None and known.slot == own.slot:
            return known
        slot = read_slot(self._connection, own.slot)
        if slot is None:
            return None
        found = replace(shared, slot=own.slot, confirmed=min(slot.confirmed, shared.confirmed), stuck_at=0)
        self._write(own.stream, found)
        return found

    def _joins(self, pipeline: Pipeline, shared: Progress, tick: Callable[[], None]) -> bool:
        """Whether a started pipeline is in the shared stream, now at the latest."""
        parked = self._position(pipeline, shared)
        if parked is None:
            return True
        if not may_join(shared, parked):
            return False
        if parked.confirmed < shared.confirmed:  # it was found to be parked just now: `near` brings it here first
            place = f"source {self._spec.source.name}"
            raise EtlError(Kind.STREAM, place, f"pipeline {pipeline.name} joins", "it starts again", transient=True)
        own = apart(self._spec, pipeline).source
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
    """The pipelines that have to come a little further before they join, with the position to come to."""
    shared = store.progress(spec.source.stream)
    if shared is None or spec.source.parked is not None:
        return []
    found = []
    for own in (apart(spec, pipeline) for pipeline in spec.pipelines):
        parked = store.progress(own.source.stream)
        if parked is not None and may_join(shared, parked) and parked.confirmed < shared.confirmed:
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
