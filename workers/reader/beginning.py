"""How a reader begins: the source is asked what it is, and where its stream goes on from.

    connect (again and again, for a moment) ─► check ─► the slot is free ─► what is known (`recall`, if the store was lost)
        ─► starting point, or another slot for one that was lost

Nothing is read yet, and nothing but a slot is made: a reader that ends here leaves everything as it was.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import tenacity

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.pipeline import Source, SourceSpec
from etl_supervisor.model.progress import Progress
from etl_supervisor.state.store import StateStore
from etl_supervisor.supervision.spawn import ChildContext
from workers.reader import source as sources
from workers.reader.heartbeat import Access, nudging
from workers.reader.recall import last_progress
from workers.reader.stored import StoredTables
from workers.reader.stream import ReplicationStream, connect

REACH_SECONDS = 5.0  # a server that restarts, a network that comes back: sooner than a process is started again
REACH_PAUSE_SECONDS, REACH_PAUSE_SECONDS_MAX = 0.1, 0.5


@dataclass(frozen=True, slots=True)
class Begun:
    """A source that may be streamed from `progress` on. `known` is what the store had of it, None for nothing."""

    catalog: psycopg.Connection[Any]
    stream: ReplicationStream
    access: Access
    standby: bool
    known: Progress | None
    progress: Progress


def begin(
    context: ChildContext,
    store: StateStore,
    resources: contextlib.ExitStack,
    tick: Callable[[], None],
    *,
    lost: bool,
) -> Begun:
    """Connect, and find where to start; `lost`: the slot is to be replaced. `tick` is called while we wait; `resources` closes the connections."""
    assert context.spec is not None
    source, keyring = context.spec.source, context.settings.keyring()
    password = keyring.decrypt(source.pg_password) if source.pg_password is not None else None
    primary_url = keyring.decrypt(source.primary_url) if source.primary_url is not None else None
    catalog = resources.enter_context(contextlib.closing(reach(source, password, tick)))
    standby = sources.check(catalog, source)
    sources.take_slot(catalog, source, context.until, tick)
    stream = resources.enter_context(contextlib.closing(ReplicationStream(source, password)))
    identity = stream.identify()
    stored = store.progress(source.stream)  # before it is rebuilt: what is found out is not written yet
    known = last_progress(context, store, catalog, identity, tick)
    access = Access(source, password, primary_url, identity[0])
    with nudging(access, tick, standby=standby) as nudge:
        if lost and known is not None:
            newest = StoredTables(store, source.name, context.spec.pipelines).newest_generation
            last = replace(known, generation=max(known.generation, newest))
            progress = sources.replacement(catalog, stream, source, last, nudge)
        else:
            progress = sources.starting_point(catalog, stream, source, known, nudge)
    return Begun(catalog, stream, access, standby, stored, progress)


def reach(source: Source, password: str | None, tick: Callable[[], None]) -> psycopg.Connection[Any]:
    """A connection to a source that may not answer just now."""

    def pause(seconds: float) -> None:
        time.sleep(seconds)
        tick()

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(REACH_SECONDS),
        wait=tenacity.wait_random_exponential(REACH_PAUSE_SECONDS, REACH_PAUSE_SECONDS_MAX, min=REACH_PAUSE_SECONDS),
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, EtlError) and error.kind is Kind.SOURCE_UNREACHABLE
        ),
        sleep=pause,
        reraise=True,
    )
    return retrying(connect, source, password)


def still_kept(store: StateStore, spec: SourceSpec, known: Progress | None) -> Progress | None:
    """What the store has of the stream now. EtlError, transient, when it was emptied after `known` was read: a reader that went on would take
    every table for a new one, and nobody would see it, for its own epoch stands in the store already."""
    found = store.progress(spec.source.stream)
    if known is not None and found is None:
        place, reason = f"source {spec.source.name}", "the state store was emptied while the reader began"
        raise EtlError(Kind.STATE_STORE, place, reason, "it starts again", transient=True)
    return found
