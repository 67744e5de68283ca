"""What must hold of a source before its stream may start, and where the stream starts.

    state store   slot in PostgreSQL     what happens
    -----------   ------------------     -----------------------------------------------------------
    nothing       none                   a slot is made, a new generation begins, every table is copied
    nothing       ours exists            the store was lost: the slot has everything since its confirmed position; a new
                                         generation begins there, every table is copied again
    a position    the same slot,         the stream goes on from our recorded position
                  confirmed <= ours
    a position    none, invalidated,     SLOT_LOST: changes are missing; a person, or the source's policy, has everything copied
                  or confirmed > ours    again: a new slot is made, a new generation begins (`replacement`)

A server that was restored from an older state has less WAL than we have read, or a timeline that forked before; then the slot is lost, too.

PostgreSQL silently moves a START_REPLICATION below the slot's confirmed position forward; that would be a silent gap, hence the check.

A promotion begins a new timeline. Our position is a place in its history too when the timeline forked at or after it; when it
forked before, we have changes that never happened in the new history: SLOT_LOST. One case looks like that and is not: a standby that was
promoted while we streamed from it. There the slot itself was confirmed beyond the fork, which only this server's history could do:
a slot on a standby, made there or kept in step, is never ahead of what that standby has received.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import structlog

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model import lsn, names
from etl_supervisor.model.pipeline import OnSlotLost, Source
from etl_supervisor.model.progress import Progress
from etl_supervisor.model.tenure import clock
from workers.reader.slot import SlotFacts, read_slot
from workers.reader.stream import ReplicationStream

SLOT_SECONDS_MAX = 300.0  # a slot waits for open write transactions; then the oldest is named and it is tried again
FREE_SECONDS_MAX = 10.0  # a walsender whose client is gone ends within milliseconds
FREE_POLL_SECONDS = 0.05
PG_VERSION_MIN = 140_000
PG_VERSION_STANDBY = 160_000  # decodes on a standby
PG_VERSION_FAILOVER = 170_000  # copies slots to standbys

log = structlog.get_logger()


def publications_of(source: Source) -> list[str]:
    """`publication_name` may be a comma-separated list: see `names.publications`."""
    try:
        return names.publications(source.publication_name)
    except ValueError as error:
        remedy = 'separate names by commas; put a name with a comma or quote in double quotes: "a, b"'
        raise EtlError(Kind.SOURCE_SETUP, f"source {source.name}", str(error), remedy) from None


def check(connection: psycopg.Connection[Any], source: Source) -> bool:
    """Raise the first of `faults`; True for a standby."""
    for fault in faults(connection, source):
        raise fault
    standby = in_recovery(connection)
    for setting, advice in _advice(source, standby=standby):
        (value,) = _one(connection, f"SELECT current_setting('{setting}')")
        if value in ("off", ""):
            log.warning("source_advice", source=source.name, setting=setting, remedy=advice)
    return standby


def faults(connection: psycopg.Connection[Any], source: Source) -> Iterator[EtlError]:
    """wal_level, version, publications, and what a standby and a failover slot need: each EtlError(SOURCE_SETUP) has its remedy."""
    place, version = f"source {source.name}", connection.info.server_version

    def fault(reason: str, remedy: str) -> EtlError:
        return EtlError(Kind.SOURCE_SETUP, place, reason, remedy)

    if version < PG_VERSION_MIN:
        yield fault(f"PostgreSQL {version // 10_000} is too old", "use PostgreSQL 14 or newer")
    (level,) = _one(connection, "SELECT current_setting('wal_level')")
    if level != "logical":
        yield fault(f"wal_level is {level}", "ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL")
    wanted = publications_of(source)
    found = {
        name for (name,) in connection.execute("SELECT pubname FROM pg_publication WHERE pubname = ANY(%s)", [wanted])
    }
    if missing := [name for name in wanted if name not in found]:
        remedy = f"CREATE PUBLICATION {missing[0]} FOR ALL TABLES, or name existing ones in publication_name"
        yield fault(f"publication {', '.join(missing)} does not exist in database {source.pg_database}", remedy)
    standby = in_recovery(connection)
    if standby and version < PG_VERSION_STANDBY:
        remedy = "read from the primary, or use PostgreSQL 16 or newer"
        yield fault(f"PostgreSQL {version // 10_000} can't decode on a standby", remedy)
    if source.slot_failover and version < PG_VERSION_FAILOVER:
        remedy = "set slot_failover = false, or use PostgreSQL 17 or newer"
        yield fault(f"PostgreSQL {version // 10_000} has no failover slots", remedy)
    if source.slot_failover and standby:
        remedy = "set slot_failover = false, or read from the primary"
        yield fault("a slot on a standby can't be a failover slot", remedy)


def starting_point(
    connection: psycopg.Connection[Any],
    stream: ReplicationStream,
    source: Source,
    known: Progress | None,
    tick: Callable[[], None],
) -> Progress:
    """Where to start; makes the slot when there is nothing yet. Equal to `known` when the stream simply goes on.

    After a promotion it is on the new timeline, and what was landed is to be looked at (`lineage`). `tick` is called while PostgreSQL makes us wait.
    """
    system, timeline = stream.identify()
    name = source.slot
    slot = read_slot(connection, name)
    if slot is not None and slot.synced and in_recovery(connection):
        reason = f"slot {name} on this standby is a copy of the primary's"
        raise EtlError(
            Kind.SOURCE_SETUP, f"source {source.name}", reason, "read from the primary, or promote this server"
        )
    if known is None:
        created = slot.confirmed if slot and not slot.lost else _create(connection, stream, source, name, tick)
        return Progress(system, timeline, name, int(time.time()), created)
    if trouble := _lost(known, slot, system):
        raise lost_slot(source, name, trouble)
    assert slot is not None
    if source.slot_failover and not slot.failover:
        stream.set_failover(name)
    if timeline == known.timeline:
        end = wal_end(connection)
        if end < known.confirmed and not in_recovery(connection):  # a standby may be behind the one that we read before
            reason = f"the server's WAL ends at {lsn.text(end)}, before our {lsn.text(known.confirmed)}: it is of an older state"
            raise lost_slot(source, name, reason)
        return known
    history = stream.history(timeline) if timeline > known.timeline else {}
    return _promoted(source, known, slot, history, timeline)


def replacement(
    connection: psycopg.Connection[Any],
    stream: ReplicationStream,
    source: Source,
    known: Progress,
    tick: Callable[[], None],
) -> Progress:
    """A new slot for one that was lost, and where its generation begins; `known.generation` is the newest of any table.

    A crash before the state store has it leaves a slot that is beyond our position: lost again.
    """
    system, timeline = stream.identify()
    name = source.slot
    await_free(connection, name, tick)
    old = read_slot(connection, name)
    try:
        created = _create(connection, stream, source, name, tick)
    except psycopg.errors.ObjectInUse:
        raise lost_slot(source, name, f"slot {name} is read by somebody else") from None
    log.warning(
        "slot_replaced",
        source=source.name,
        slot=name,
        old=lsn.text(old.confirmed) if old is not None else None,
        ours=lsn.text(known.confirmed),
        new=lsn.text(created),
    )
    made = Progress(system, timeline, name, max(int(time.time()), known.generation + 1), created)
    return replace(made, former=known.owner if known.owner != made.owner else known.former)


def newer(ours: Progress, stored: Progress | None, source: Source) -> Progress:
    """Where to go on from: an older reader may have confirmed until just now. EtlError(STREAM) when it read from another server."""
    if stored is None or stored.confirmed <= ours.confirmed or stored.generation < ours.generation:
        return ours
    if stored.timeline != ours.timeline:  # before a promotion
        reason = "an older reader was still confirming"
        raise EtlError(Kind.STREAM, f"source {source.name}", reason, "it starts again", transient=True)
    return stored


def lost_slot(source: Source, name: str, trouble: str) -> EtlError:
    """The slot can't continue our history."""
    remedy = "changes may be missing: set on_slot_lost = 'resync' of the source, then every table is copied again under a new slot"
    return EtlError(Kind.SLOT_LOST, f"source {source.name}", trouble, remedy)


def begins_anew(error: Exception, source: Source) -> bool:
    """True for a lost slot that is to be replaced without asking."""
    lost = isinstance(error, EtlError) and error.kind is Kind.SLOT_LOST
    return lost and source.on_slot_lost is OnSlotLost.RESYNC


def in_recovery(connection: psycopg.Connection[Any]) -> bool:
    """True on a standby."""
    return bool(_one(connection, "SELECT pg_is_in_recovery()")[0])


def take_slot(connection: psycopg.Connection[Any], source: Source, until: float, tick: Callable[[], None]) -> None:
    """End the walsender of an older reader: it outlives a reader that was stopped, by wal_sender_timeout.

    The source is ours until `until`: later, or without leases, the walsender may be that of another supervisor's reader, and is left alone.
    """
    if until == float("inf") or clock() >= until:
        return
    # In the list, not in the condition: PostgreSQL orders conditions as it likes, and then every walsender of the server ends.
    query = (
        "SELECT active_pid, pg_terminate_backend(active_pid) FROM pg_replication_slots"
        " WHERE slot_name = %s AND active_pid IS NOT NULL"
    )
    try:
        ended = connection.execute(query, [source.slot]).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return  # another user's: START_REPLICATION says that the slot is taken
    if ended is not None:
        log.warning("walsender_ended", source=source.stream, slot=source.slot, pid=ended[0])
        await_free(connection, source.slot, tick)


def await_free(connection: psycopg.Connection[Any], name: str, tick: Callable[[], None]) -> None:
    """Wait until nobody streams the slot, for a while: START_REPLICATION says what is wrong then."""
    deadline = time.monotonic() + FREE_SECONDS_MAX
    while time.monotonic() < deadline:
        row = connection.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", [name]).fetchone()
        if row is None or not row[0]:
            return
        tick()
        time.sleep(FREE_POLL_SECONDS)


def wal_end(connection: psycopg.Connection[Any]) -> int:
    """The source's current end of WAL (on a standby: what it has received)."""
    sql = (
        "SELECT CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
        " ELSE pg_current_wal_lsn() END::text"
    )
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
    if read_slot(connection, name):
        connection.execute("SELECT pg_drop_replication_slot(%s)", [name])  # invalidated, and nothing is known of it
    try:
        slot = stream.create_slot(
            name, temporary=False, snapshot=False, limit=SLOT_SECONDS_MAX, tick=tick, failover=source.slot_failover
        )
    except TimeoutError:
        raise slot_waits(connection, source) from None
    return slot.consistent_point


def slot_waits(connection: psycopg.Connection[Any], source: Source) -> EtlError:
    """The creation of a slot took too long: names what it waits for."""
    place = f"source {source.name}"
    if in_recovery(connection):
        reason = "a slot on a standby waits for the primary to log its running transactions"
        remedy = "set primary_url of the source, or SELECT pg_log_standby_snapshot() on the primary"
        return EtlError(Kind.SOURCE_UNREACHABLE, place, reason, remedy, transient=True)
    reason = f"a slot waits for an open write transaction ({blocking_session(connection)})"
    return EtlError(Kind.SOURCE_UNREACHABLE, place, reason, "end that transaction", transient=True)


def _lost(known: Progress, slot: SlotFacts | None, system: str) -> str | None:
    """Why the slot can't continue our history; None when it can."""
    if known.system_identifier != system:
        return f"this is another database cluster ({system}, not {known.system_identifier})"
    if gone := invalid(slot, known.slot):
        return gone
    assert slot is not None
    if slot.confirmed > known.confirmed:
        return f"slot {known.slot} was confirmed to {lsn.text(slot.confirmed)}, beyond our {lsn.text(known.confirmed)}"
    return None


def invalid(slot: SlotFacts | None, name: str) -> str | None:
    """Why a slot can't be read from any more; None when it can."""
    if slot is None:
        return f"slot {name} does not exist any more"
    since = f"; inactive since {slot.inactive_since}" if slot.inactive_since else ""
    return f"slot {name} was invalidated: {slot.lost}{since}" if slot.lost else None


def _promoted(source: Source, known: Progress, slot: SlotFacts, history: dict[int, int], timeline: int) -> Progress:
    """Our progress in the history of another timeline. EtlError(SLOT_LOST) when our position is not in it."""
    fork = history.get(known.timeline)
    if fork is None:
        reason = f"timeline {timeline} of the server does not come from our timeline {known.timeline}"
        raise lost_slot(source, known.slot, reason)
    if slot.confirmed > fork:  # the standby was promoted while we streamed from it
        return replace(known, timeline=timeline)
    if fork < known.confirmed:
        reason = f"timeline {timeline} forked at {lsn.text(fork)}, before our {lsn.text(known.confirmed)}"
        raise lost_slot(source, known.slot, reason)
    return replace(known, timeline=timeline, forked_at=min(fork, known.forked_at or fork))


def _advice(source: Source, *, standby: bool) -> list[tuple[str, str]]:
    """Settings that should not be empty or off, and why."""
    if standby:
        return [("hot_standby_feedback", "set it on: a vacuum on the primary may invalidate our slot")]
    if source.slot_failover:
        return [
            ("synchronized_standby_slots", "name the standbys' slots: a change may reach us before it reaches them")
        ]
    return []


def _one(connection: psycopg.Connection[Any], sql: str) -> tuple[Any, ...]:
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return tuple(row)
