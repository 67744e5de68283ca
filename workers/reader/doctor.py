"""What `doctor` looks at in a source: server, rights, slots, tables. Reads only; each check is a query and what its rows mean.

wal_level, version, publications      as the reader checks them at its start (`source.check`)
replication_role, select              rights that the user lacks
slots, senders                        how many are left of max_replication_slots and max_wal_senders
slot                                  ours by name, but of no pipeline that is configured; or close to being lost
no_key, toast, large, mask            tables of the publications, one by one
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg

from etl_supervisor.config.settings import Settings
from etl_supervisor.errors import EtlError
from etl_supervisor.model.finding import Finding, Weight
from etl_supervisor.model.parking import apart
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.model.table import Table
from workers.reader import source as sources
from workers.reader.masks import resolve
from workers.reader.sight import Sight
from workers.reader.slot import read_slot
from workers.reader.stream import broken_off, connect

SPARE_MIN = 2  # a first copy and a parked pipeline need one each
LARGE_BYTES = 100 << 30  # a first copy of hours

_LEFT = """
SELECT 'slots', 'max_replication_slots', current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots)
UNION ALL
SELECT 'senders', 'max_wal_senders', current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication)
"""
_TABLES = """
SELECT c.oid::bigint, has_table_privilege(c.oid, 'SELECT'), c.relreplident = 'f', pg_table_size(c.oid), c.reltoastrelid <> 0
FROM pg_class c WHERE c.oid = ANY(%s)
"""


def examine(settings: Settings, spec: SourceSpec, ours: Iterable[str]) -> list[Finding]:
    """Everything that is found in a source. `ours` are the slots that somebody configured has or may have."""
    source, place = spec.source, f"source {spec.source.name}"
    password = settings.keyring().decrypt(source.pg_password) if source.pg_password is not None else None
    try:
        with contextlib.closing(connect(source, password)) as connection:
            sources.check(connection, source)
            return [
                *_rights(connection, place),
                *_left(connection, place),
                *_slots(connection, place, spec, set(ours)),
                *_tables(connection, settings, spec),
            ]
    except psycopg.Error as error:
        return [_of(broken_off(error, source))]
    except EtlError as error:
        return [_of(error)]


def _of(error: EtlError) -> Finding:
    return Finding(Weight.WRONG, str(error.kind), error.place, error.reason, error.remedy)


def _rights(connection: psycopg.Connection[Any], place: str) -> Iterator[Finding]:
    ((user, may),) = connection.execute(
        "SELECT rolname, rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user"
    )
    if not may:
        reason = f"user {user} may not replicate, as far as its own attributes say"
        yield Finding(Weight.WRONG, "replication_role", place, reason, f"ALTER ROLE {user} REPLICATION")


def _left(connection: psycopg.Connection[Any], place: str) -> Iterator[Finding]:
    for kind, setting, left in connection.execute(_LEFT):
        if left < SPARE_MIN:
            reason = f"{left} of {setting} are left; copies and parked pipelines need one each"
            yield Finding(Weight.RISK, kind, place, reason, f"raise {setting} and restart PostgreSQL")


def _slots(connection: psycopg.Connection[Any], place: str, spec: SourceSpec, ours: set[str]) -> Iterator[Finding]:
    query = (
        "SELECT slot_name, active FROM pg_replication_slots WHERE NOT temporary AND database = current_database()"
        " AND slot_name ~ '^etl_stream_[0-9]+(_p[0-9]+)?$' ORDER BY 1"
    )
    for name, active in connection.execute(query).fetchall():
        if name not in ours and not active:
            reason = f"slot {name} is of no pipeline that is configured, and keeps WAL"
            yield Finding(Weight.RISK, "orphan_slot", place, reason, f"SELECT pg_drop_replication_slot('{name}')")
    for stream in (spec.source, *(apart(spec, pipeline).source for pipeline in spec.pipelines)):
        slot = read_slot(connection, stream.slot)
        if slot is not None and (slot.lost or slot.warning):
            yield Finding(Weight.RISK, "slot", place, f"slot {stream.slot}: {slot.lost or slot.warning}")


def _tables(connection: psycopg.Connection[Any], settings: Settings, spec: SourceSpec) -> Iterator[Finding]:
    shapes = {table.oid: table for _, table in Sight(connection, spec.source, lambda: None).published()}
    for oid, may_read, full, size, toasts in connection.execute(_TABLES, [list(shapes)]).fetchall():
        table = shapes[oid]
        place = f"source {spec.source.name}, table {table.name}"
        if not may_read:
            remedy = f"GRANT SELECT ON {table.name} TO the source's user"
            yield Finding(Weight.WRONG, "select", place, "it may not be read, so it can't be copied", remedy)
        if not table.key:
            reason = "it has no key that its changes bring: rows are told apart by all their values, and its copy can't be resumed"
            remedy = "add a primary key, or REPLICA IDENTITY USING INDEX; without either, updates and deletes need REPLICA IDENTITY FULL"
            yield Finding(Weight.ADVICE, "no_key", place, reason, "" if full else remedy)
        if toasts and not full and any(column.toastable for column in table.columns):
            reason = "large values that an update leaves alone are not sent; they are taken from earlier changes and the target: nothing is lost"
            remedy = "REPLICA IDENTITY FULL costs WAL and is worth it only where rows move into a row filter by updates"
            yield Finding(Weight.ADVICE, "toast", place, reason, remedy)
        if size > LARGE_BYTES:
            reason = f"it has {size >> 30:,} GiB: its first copy takes long and holds back vacuum meanwhile"
            remedy = "raise COPY_CONNECTIONS, and run ANALYZE so that progress can be told"
            yield Finding(Weight.ADVICE, "large", place, reason, remedy)
    yield from _masks(settings, spec, shapes.values())


def _masks(settings: Settings, spec: SourceSpec, tables: Iterable[Table]) -> Iterator[Finding]:
    by_name = {table.name: table for table in tables}
    for pipeline in spec.pipelines:
        for name in sorted({mask.table for mask in pipeline.selection.masks}):
            if name not in by_name:
                place = f"pipeline {pipeline.name}, table {name}"
                yield Finding(Weight.RISK, "mask", place, "its columns are to be masked, and it is not published", "")
                continue
            try:
                resolve(pipeline, by_name[name], "", settings.masking())
            except EtlError as error:
                yield Finding(Weight.WRONG, "mask", error.place, error.reason, error.remedy)
