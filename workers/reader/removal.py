"""Cleaning up after a pipeline that was deleted. Each step does nothing when it comes again.

    forget its tables ─► drop its slots ─► forget its positions

The row may be inserted again in the middle of that. Without tables it asks Snowflake, and the slot has everything since; without
the slot its position says that the slot is lost; without both it begins anew. In another order a table might go on where others are, over a gap.
"""

from __future__ import annotations

import contextlib

import psycopg
import structlog

from etl_supervisor.config.settings import Settings
from etl_supervisor.failpoints import failpoint
from etl_supervisor.repository.removed import Removed
from etl_supervisor.state.store import StateStore
from workers.reader.parking import drop_slot
from workers.reader.stream import broken_off, connect

log = structlog.get_logger()


def clean_up(settings: Settings, store: StateStore, removed: Removed) -> None:
    """Drop what only this pipeline needed. EtlError when the source does not answer, or a slot is still read: it is tried again."""
    source = removed.source
    password = settings.keyring().decrypt(source.pg_password) if source.pg_password is not None else None
    for table in store.tables(source.name, removed.pipeline.name):
        store.drop_table(source.name, removed.pipeline.name, table)
    for request in store.resyncs(source.name, removed.pipeline.name):
        store.end_resync(source.name, removed.pipeline.name, request)
    failpoint("removal.after_tables")
    slots = [removed.parked.slot, *([source.slot] if removed.last else [])]
    try:
        with contextlib.closing(connect(source, password)) as connection:
            for slot in slots:
                drop_slot(connection, slot)
    except psycopg.Error as error:
        raise broken_off(error, source) from None
    failpoint("removal.after_slots")
    store.forget(removed.parked.stream)
    if removed.last:
        store.forget(source.stream)
    log.warning("pipeline_removed", pipeline=removed.pipeline.name, source=source.name, slots=slots)
