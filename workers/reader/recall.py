"""A state store that was lost (flushed, restored from nothing) is filled again: from the slot, and from what Snowflake has.

    position      the slot's confirmed one: everything after it is sent again, and the channels' tokens filter what was landed
    generation    that in which its tables were followed last
    tables        those that were READY are so in their generation, with the shape of the watermark; their targets go on from its `applied`
    all others    copied again, in a later generation: how far a copy had come is not kept

The store is lost when it has no progress, no epoch (which is given last) or no table. Where Snowflake knows nothing either, the source begins anew.
A position that the store still has is kept: it was written after the loss.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import structlog

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc import wire
from etl_supervisor.ipc.messages import Recall, Recalled, Recollection
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.model.position import Position
from etl_supervisor.model.progress import Progress
from etl_supervisor.model.table import Table, TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.state.store import StateStore, load_table
from etl_supervisor.supervision.spawn import ChildContext
from workers.reader.publisher import Publisher
from workers.reader.slot import read_slot

ANSWER_SECONDS_MAX = 60.0  # a warehouse that sleeps needs some seconds
WAIT_SECONDS = 0.25
SLAB_BYTES = 1 << 20  # no row goes this way

log = structlog.get_logger()


def last_progress(
    context: ChildContext,
    store: StateStore,
    connection: psycopg.Connection[Any],
    identity: tuple[str, int],
    tick: Callable[[], None],
) -> Progress | None:
    """Where the source stands: what the store knows or, when it was lost, what can be found out; None for a source that begins.

    `identity` is the cluster's system identifier and timeline; `tick` is called while we wait. EtlError, transient, when Snowflake does not answer.
    """
    spec = context.spec
    assert spec is not None
    known = store.progress(spec.source.stream)
    slot = read_slot(connection, spec.source.slot)
    if slot is None or slot.lost or not _is_lost(store, spec, known):
        return known
    found = Progress(*identity, spec.source.slot, int(time.time()), slot.confirmed)
    answers = _ask(context, spec, (known or found).owner, tick)
    tables = {name: rebuilt(told, found.generation) for name, told in answers}
    states = [state for states in tables.values() for state in states]
    if not states:
        return known
    for pipeline, rebuilt_states in tables.items():
        store.save_tables(spec.source.name, pipeline, rebuilt_states)
    # A clock that was set back, or another machine's, must not give us an older epoch than the watermarks have: they would refuse us.
    store.restore_epoch(spec.source.stream, max(item.epoch for _, told in answers for item in told))
    copied = sum(state.phase is Phase.INIT for state in states)
    log.warning("state_rebuilt", source=spec.source.name, tables=len(states), copied_again=copied)
    return known or replace(found, generation=min(state.history or state.generation for state in states))


def rebuilt(told: list[Recollection], now: int) -> list[TableState]:
    """The states of a pipeline's tables (pure). `now` is a generation later than any that began before."""
    return [_rebuilt(item, now) for item in told]


def _rebuilt(item: Recollection, now: int) -> TableState:
    if not item.state:
        oid = wire.load(Table, item.shape).oid if item.shape else 0
        return TableState(TableName(item.schema, item.table), oid, max(now, item.generation + 1))
    state = load_table(item.state)
    if not item.shape or state.masks:  # the shape of masked columns is not the source's
        return state
    place = Position.parse(item.since).place
    return replace(state, shape=item.shape, shape_at=max(place, state.shape_at))


def _is_lost(store: StateStore, spec: SourceSpec, known: Progress | None) -> bool:
    source = spec.source.name
    if known is None or store.epoch(spec.source.stream) == 0:
        return True
    return not any(store.tables(source, pipeline.name) for pipeline in spec.pipelines)


def _ask(
    context: ChildContext, spec: SourceSpec, owner: str, tick: Callable[[], None]
) -> list[tuple[str, list[Recollection]]]:
    """What the destinations know of each pipeline."""
    with selectors.DefaultSelector() as selector:
        publisher = Publisher(
            f"{context.name}-recall", context.incarnation, context.actor_addresses, SLAB_BYTES, selector
        )
        try:
            publisher.connect()
            for pipeline in spec.pipelines:
                publisher.recall(Recall(pipeline.id, pipeline.name, owner, pipeline.destination))
            answers = _answers(spec, publisher, selector, tick)
        finally:
            publisher.stop()
    return [
        (pipeline.name, [table for answer in answers if answer.pipeline_id == pipeline.id for table in answer.tables])
        for pipeline in spec.pipelines
    ]


def _answers(
    spec: SourceSpec, publisher: Publisher, selector: selectors.BaseSelector, tick: Callable[[], None]
) -> list[Recalled]:
    answers: list[Recalled] = []
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    while sum(answer.last for answer in answers) < len(spec.pipelines):
        tick()
        for key, _ in selector.select(WAIT_SECONDS):
            answers += [item for item in publisher.ready(key.fileobj) if isinstance(item, Recalled)]  # type: ignore[arg-type]
        trouble = next((answer.trouble for answer in answers if answer.trouble), "")
        if trouble or time.monotonic() > deadline:
            reason = f"the state store was lost, and what was landed can't be asked for: {trouble or 'no answer'}"
            place = f"source {spec.source.name}"
            raise EtlError(Kind.DESTINATION_UNREACHABLE, place, reason, "it is tried again by itself", transient=True)
    return answers
