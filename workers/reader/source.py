"""What must hold of a source before its stream may start, and where the stream starts.

    state store   slot in PostgreSQL     what happens
    -----------   ------------------     -----------------------------------------------------------
    nothing       none                   a slot is made, a new generation begins, every table is copied
    nothing       ours exists            the store was lost: the slot has everything since its confirmed position; a new
                                         generation begins there, every table is copied again
    a position    the same slot,         the stream goes on from our recorded position
                  confirmed <= ours
    a position    none, invalidated,     SLOT_LOST: changes are missing; a person (or a policy) decides on a re-sync
                  or confirmed > ours

PostgreSQL silently moves a START_REPLICATION below the slot's confirmed position forward; that would be a silent gap, hence the check.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model import lsn, names
from etl_supervisor.model.pipeline import Source
from etl_supervisor.model.progress import Progress
from workers.reader.stream import ReplicationStream

SLOT_SECONDS_MAX = 300.0  # a slot waits for open write transactions; then the oldest is named and it is tried again
PG_VERSION_MIN = 140_000


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """What pg_replication_slots says of our slot."""

    confirmed: int
    usable: bool


def publications_of(source: Source) -> list[str]:
    """`publication_name` may be a comma-separated list: see `names.publications`."""
    try:
        return names.publications(source.publication_name)
    except ValueError as error:
        remedy = 'separate names by commas; put a name with a comma or quote in double quotes: "a, b"'
        raise EtlError(Kind.SOURCE_SETUP, f"source {source.name}", str(error), remedy) from None


def check(connection: psycopg.Connection[Any], source: Source) -> None:
    """wal_level, version and publications. EtlError(SOURCE_SETUP) with the remedy."""
    place = f"source {source.name}"
    if connection.info.server_version < PG_VERSION_MIN:
        reason = f"PostgreSQL {connection.info.server_version // 10_000} is too old"
        raise EtlError(Kind.SOURCE_SETUP, place, reason, "use PostgreSQL 14 or newer")
    (level,) = _one(connection, "SELECT current_setting('wal_level')")
    if level != "logical":
        remedy = "ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL"
        raise EtlError(Kind.SOURCE_SETUP, place, f"wal_level is {level}", remedy)
    found = {
        name
        for (name,) in connection.execute(
            "SELECT pubname FROM pg_publication WHERE pubname = ANY(%s)", [publications_of(source)]
        )
    }
    missing = [name for name in publications_of(source) if name not in found]
    if missing:
        remedy = f"CREATE PUBLICATION {missing[0]} FOR ALL TABLES, or name existing ones in publication_name"
        reason = f"publication {', '.join(missing)} does not exist in database {source.pg_database}"
        raise EtlError(Kind.SOURCE_SETUP, place, reason, remedy)


def starting_point(
    connection: psycopg.Connection[Any],
    stream: ReplicationStream,
    source: Source,
    known: Progress | None,
    tick: Callable[[], None],
) -> Progress:
    """Where to start; makes the slot when there is nothing yet. Equal to `known` when the stream simply goes on."""
    system, timeline = stream.identify()
    name = names.slot(source.replication_id)
    slot = _slot(connection, name)
    if known is None:
        created = slot.confirmed if slot and slot.usable else _create(connection, stream, source, name, tick)
        return Progress(system, timeline, name, int(time.time()), created)
    trouble = _lost(known, slot, system)
    if trouble:
        remedy = (
            f"changes may be missing: forget the source's state and slot {name}, so that its tables are copied again"
        )
        raise EtlError(Kind.SLOT_LOST, f"source {source.name}", trouble, remedy)
    return known


def wal_end(connection: psycopg.Connection[Any]) -> int:
    """The source's current end of WAL (on a standby: what it has received)."""
    sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END::text"
    (text,) = _one(connection, sql)
    return lsn.parse(text)


def blocking_session(connection: psycopg.Connection[Any]) -> str:
    """The oldest open write transaction: what the creation of a slot waits for."""
    row = connection.execute(
        "SELECT pid, usename, extract(epoch FROM now() - xact_start)::int FROM pg_stat_activity"
        " WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 1"
    ).fetchone()
    return f"pid {row[0]} of user {row[1]}, open for {row[2]} s" if row else "none is visible"


def _create(
    connection: psycopg.Connection[Any],
    stream: ReplicationStream,
    source: Source,
    name: str,
    tick: Callable[[], None],
) -> int:
    if _slot(connection, name):
        connection.execute("SELECT pg_drop_replication_slot(%s)", [name])  # invalidated, and nothing is known of it
    try:
        slot = stream.create_slot(name, temporary=False, snapshot=False, limit=SLOT_SECONDS_MAX, tick=tick)
    except TimeoutError:
        raise slot_waits(connection, source) from None
    return slot.consistent_point


def slot_waits(connection: psycopg.Connection[Any], source: Source) -> EtlError:
    """The creation of a slot took too long: names the session it waits for."""
    reason = f"a slot waits for an open write transaction ({blocking_session(connection)})"
    return EtlError(Kind.SOURCE_UNREACHABLE, f"source {source.name}", reason, "end that transaction", transient=True)


def _slot(connection: psycopg.Connection[Any], name: str) -> SlotFacts | None:
    row = connection.execute(
        "SELECT confirmed_flush_lsn::text, wal_status FROM pg_replication_slots WHERE slot_name = %s", [name]
    ).fetchone()
    if row is None:
        return None
    return SlotFacts(lsn.parse(row[0]) if row[0] else 0, row[0] is not None and row[1] != "lost")


def _lost(known: Progress, slot: SlotFacts | None, system: str) -> str | None:
    """Why the slot can't continue our history; None when it can."""
    if known.system_identifier != system:
        return f"this is another database cluster ({system}, not {known.system_identifier})"
    if slot is None:
        return f"slot {known.slot} does not exist any more"
    if not slot.usable:
        return f"slot {known.slot} was invalidated: the WAL it needs was removed"
    if slot.confirmed > known.confirmed:
        return f"slot {known.slot} was confirmed to {lsn.text(slot.confirmed)}, beyond our {lsn.text(known.confirmed)}"
    return None


def _one(connection: psycopg.Connection[Any], sql: str) -> tuple[Any, ...]:
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return tuple(row)
